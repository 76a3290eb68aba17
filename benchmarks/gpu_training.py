"""Trainings of gpu_recipes.py: rows, losses and steps on a GPU. No script of its own; needs torch.

A training is a generator that yields after each step, so that a process can take several in turns: one of 6 layers x
384 alone leaves the chip idle. Its step is captured once for each padded length and replayed (CUDA graphs).
"""

import json
from contextlib import nullcontext

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from benchmarks.drawing import UNIT, drawn, plan, split
from benchmarks.torch_network import Network
from hierarchical.decisions import Decision, decide, sigmoid
from hierarchical.metric import evaluate
from hierarchical.tokenizer import load_tokenizer
from hierarchical.training import label_frequency_bias, rate_schedule, train_batches
from utils import LabelTree, load_rows, pad

HEAD_RATE, WEIGHT_DECAY, MAX_NORM = 5e-3, 0.01, 1.0  # as train.py has them
EVERY = 32  # padded lengths are multiples of it
KEPT, MOVING = 3, 0.99  # epochs that are averaged, share of the moving average that a step keeps
PASSES = 4  # of students over the texts without labels
USUAL = 6.0, 0.5  # weight of the n-grams' decision values in a teacher, and what is added to them before
MASKED_EPOCHS, MASKED_BATCH, MASKED_RATE, MASKED_SHARE = 4, 64, 2e-4, 0.15  # of masked language modelling


# ---- rows ------------------------------------------------------------------------------------------------------------


class World:
    """What all trainings of a process share; rows are numbered: train.txt, then dev.txt, then data.txt."""

    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        self.tree = LabelTree.read(args.dataset_dir / "label.txt")
        known = load_rows(args.dataset_dir / "train.txt", self.tree)
        test = load_rows(args.dataset_dir / "dev.txt", self.tree, unlabelled="skip")
        texts = (args.dataset_dir / "data.txt").read_text(encoding="utf-8").splitlines()
        self.tokenizer = load_tokenizer(args.model_name, args.max_seq_length)
        ids = self.tokenizer.encode([*known.texts, *test.texts, *texts])
        self.lengths, self.ids = np.array([len(row) for row in ids]), torch.from_numpy(pad(ids, 0)).to(self.device)
        self.known_gold, self.test_gold = known.multi_hot(len(self.tree)), test.multi_hot(len(self.tree))
        self.n_known = len(known.texts)
        self.test = np.arange(self.n_known, self.n_known + len(test.texts))
        self.unlabelled = np.arange(self.test[-1] + 1, len(ids))
        self.choosing, self.others = split(self.n_known, args.choose)
        self.config = json.loads((args.model_name / "config.json").read_text(encoding="utf-8"))
        names = self.tokenizer.encode([label.replace("##", " ") for label in self.tree.labels])
        self.names = torch.from_numpy(pad(names, 0)).to(self.device)
        labels = self.tree.labels
        above = [[path == other or path.startswith(f"{other}##") for other in labels] for path in labels]
        self.ancestors = torch.tensor(above, dtype=torch.float32, device=self.device)

    def linear(self, job):
        """Decision values of the linear model of a job's rows, by name; none where there is no file of them."""
        path = self.args.linear_dir and self.args.linear_dir / f"{job.rows}-{1 if job.rows == 'all' else job.seed}.npz"
        return dict(np.load(path)) if path and path.exists() else {}

    def logits(self, network, rows):
        """float32 [n, L] of these rows."""
        order, parts = np.argsort(self.lengths[rows], kind="stable"), []
        network.eval()
        with torch.no_grad():
            for start in range(0, len(order), 256):
                part = rows[order[start : start + 256]]
                ids = self.ids[torch.from_numpy(part).to(self.device), : self.lengths[part].max()]
                parts.append(network(ids, ids != 0).float())
        network.train()
        found = np.zeros((len(rows), len(self.tree)), np.float32)
        found[order] = torch.cat(parts).cpu().numpy()
        return found


# ---- losses ----------------------------------------------------------------------------------------------------------


def loss_of_rows(name, logits, targets, share):
    """float32 [n]. targets: probabilities [n, L]; share: of the train rows that have each label, [L]."""
    if name == "adjusted":  # Menon and others (2021)
        logits, name = logits + (share / (1 - share)).log(), "zlpr"
    if name == "zlpr":  # for probabilities: each label is present and absent, to its part
        absent, own = (1 - targets).clamp_min(1e-30).log() + logits, targets.clamp_min(1e-30).log() - logits
        zero = torch.zeros_like(logits[:, :1])
        return sum(torch.cat([side, zero], 1).logsumexp(1) for side in (absent, own))
    if name == "asymmetric":  # Ridnik and others (2021): margin 0.05, exponent 4
        absent = (logits.sigmoid() - 0.05).clamp_min(0)
        terms = targets * -functional.logsigmoid(logits)
        return (terms - (1 - targets) * absent**4 * (1 - absent).clamp_min(1e-8).log()).mean(1)
    terms = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if name == "focal":  # Lin and others (2017): exponent 2
        terms = (1 - (-terms).exp()) ** 2 * terms
    if name in ("balanced", "square_root"):
        weight = (1 / share).clamp_max(100) ** (1.0 if name == "balanced" else 0.5)
        terms = terms * torch.where(targets > 0.5, weight, 1.0)
    return terms.mean(1)


def backward(network, technique, ids, targets, weights, share):
    """Leave the gradients of the mean loss. weights: float [n], 1 for a row, 0 for what fills the batch."""
    mask, n_rows = ids != 0, weights.sum()

    def logits():
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=technique.bfloat16, cache_enabled=False):
            x = network.tokens(ids, mask)
            vector = network.vector(x, mask)
            return [network.logits(vector, x, mask).float() for _ in range(technique.masks)]

    def mean_loss(found):
        rows = sum(loss_of_rows(technique.loss, each, targets, share) for each in found) / len(found)
        return (rows * weights).sum() / n_rows

    first = logits()
    loss = mean_loss(first)
    if technique.agreement:
        second = logits()
        apart = ((first[0].sigmoid() - second[0].sigmoid()) * (first[0] - second[0])).sum(1)
        loss = (loss + mean_loss(second) + technique.agreement * (apart * weights).sum() / n_rows) / 2
    loss.backward()
    if technique.radius:
        words = network.words.weight
        step = technique.radius * words.grad / words.grad.norm().clamp_min(1e-12)
        with torch.no_grad():
            words.add_(step)
        mean_loss(logits()).backward()  # adds to the gradients that are there
        with torch.no_grad():
            words.sub_(step)


# ---- steps -----------------------------------------------------------------------------------------------------------


def parameter_groups(network, rate, layer_decay=1.0, head_rate=HEAD_RATE):
    """(peak rate, weight decay) -> parameters."""
    groups, depth = {}, len(network.layers)
    for name, parameter in network.named_parameters():
        room, _, rest = name.partition(".")
        below = {"layers": depth - 1 - int(rest.split(".")[0])} if room == "layers" else {}
        below |= dict.fromkeys(("words", "places", "types", "norm"), depth)
        peak = head_rate if room in network.new_parameters() else rate * layer_decay ** below.get(room, 0)
        decay = 0.0 if "bias" in name or "norm" in name else WEIGHT_DECAY
        groups.setdefault((peak, decay), []).append(parameter)
    return groups


class Steps:
    """Updates of a network on given batches in their order, with everything on the device."""

    def __init__(self, world, network, backward_of, groups, batches):
        device, on_gpu = world.device, world.device.type == "cuda"
        self.network, self.backward_of, self.peaks = network, backward_of, [peak for peak, _ in groups]
        order = np.full((len(batches), max(map(len, batches))), -1)
        for row, batch in zip(order, batches):
            row[: len(batch)] = batch
        longest = [world.lengths[batch].max() for batch in batches]
        self.lengths = [min(-(-length // EVERY) * EVERY, world.ids.shape[1]) for length in longest]
        factor = rate_schedule("linear", len(batches) // 10, len(batches))
        self.order, self.number = torch.from_numpy(order).to(device), torch.zeros(1, dtype=torch.int64, device=device)
        self.factors = torch.tensor([factor(step) for step in range(len(batches))], device=device)
        settings = [
            {"params": parameters, "lr": torch.tensor(peak, device=device), "weight_decay": decay}
            for (peak, decay), parameters in groups.items()
        ]
        self.optimizer = torch.optim.AdamW(settings, capturable=on_gpu, fused=on_gpu)
        self.stream, self.graphs = torch.cuda.Stream() if on_gpu else None, {}
        if on_gpu:
            self.capture()

    def inside(self):
        """Where the work of this training is queued."""
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def update(self, length):
        factor, rows = (table.index_select(0, self.number)[0] for table in (self.factors, self.order))
        for peak, group in zip(self.peaks, self.optimizer.param_groups):
            group["lr"].copy_(peak * factor)
        self.optimizer.zero_grad(set_to_none=True)
        self.backward_of(rows.clamp_min(0), (rows >= 0).float(), length)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM, foreach=True)
        self.optimizer.step()
        self.number += 1

    def capture(self):
        """A graph for each padded length; what the first, uncaptured calls changed is undone."""
        with self.inside():
            before = [parameter.detach().clone() for parameter in self.network.parameters()]
            for length in set(self.lengths):
                self.update(length)
            self.stream.synchronize()
            pool = torch.cuda.graph_pool_handle()
            for length in sorted(set(self.lengths), reverse=True):
                self.graphs[length] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graphs[length], pool=pool, stream=self.stream):
                    self.update(length)
            with torch.no_grad():
                put(self.network, before)
                for state in self.optimizer.state.values():
                    for moment in state.values():
                        moment.zero_()
                self.number.zero_()
            self.stream.synchronize()

    def take(self, number):
        length = self.lengths[number]
        if length in self.graphs:
            self.graphs[length].replay()
        else:
            self.update(length)


def copy(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def put(network, values):
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values):
            parameter.copy_(value)


def epochs_of(world, rows, batch_size, seed, epochs):
    """The batches of each epoch, int arrays of row numbers."""
    lengths = world.lengths[rows]
    return [[rows[batch] for batch in train_batches(lengths, batch_size, seed, epoch + 1)] for epoch in range(epochs)]


# ---- trainings -------------------------------------------------------------------------------------------------------


def teachers_probabilities(world, job, technique):
    """float32 [texts without labels, L]."""
    logits = np.mean([np.load(world.args.work_dir / f"{other.name}.npz")["unlabelled"] for other in job.teachers()], 0)
    if technique.teacher.endswith("+linear"):
        weight, shift = USUAL
        logits = logits + weight * (world.linear(job)["unlabelled"] / np.float32(UNIT) + shift)
    probabilities = sigmoid(logits.astype(np.float32))
    return (probabilities > 0.5).astype(np.float32) if technique.hard else probabilities


def rows_of(world, job, technique, own):
    """(rows of an epoch, epochs, batch size, targets float32 [all rows, L])."""
    epochs, batch_size, _ = plan(len(own), world.args.effort * technique.longer)
    targets = np.zeros((len(world.lengths), len(world.tree)), np.float32)
    targets[: world.n_known] = world.known_gold
    if technique.teacher:
        targets[world.unlabelled] = teachers_probabilities(world, job, technique)
        passes = max(1, round(world.args.effort * PASSES * technique.longer))
        repeated = [own] * max(1, round(epochs / passes))
        return np.concatenate([*repeated, world.unlabelled]), passes, batch_size, targets
    return own, epochs, batch_size // technique.smaller, targets


def start_network(world, job, technique, own):
    dropped = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), technique.dropout)
    network = Network(world.config | dropped, len(world.tree), technique.pooling, technique.head, world.ancestors)
    network.to(world.device)
    if technique.start:
        state = load_file(world.args.work_dir / f"{job.start().name}.safetensors")
        network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
    else:
        network.load(load_file(world.args.model_name / "model.safetensors"))
    if technique.start != "own" and technique.loss != "adjusted":
        bias = label_frequency_bias(world.known_gold[own].sum(0), len(own))
        network.classifier.bias.data.copy_(torch.from_numpy(bias))
    if technique.head == "words":
        network.name_labels(world.names, world.names != 0)
    return network.train()


def train(world, job):
    """Yields None after each step; in the end what `results` makes of the last weights, averages, and the best epoch's.

    name -> logits float32 [rows that choose and test rows, L]; of one that teaches others also "unlabelled".
    """
    technique = job.settings()
    torch.manual_seed(job.seed + 100 * job.other)
    own = world.others[drawn(world.known_gold[world.others], job.rows, job.seed)]
    network = start_network(world, job, technique, own)
    rows, epochs, batch_size, targets = rows_of(world, job, technique, own)
    shares = np.clip(world.known_gold[own].mean(0), 0.5 / len(own), 1 - 0.5 / len(own)).astype(np.float32)
    on_device, shares = torch.from_numpy(targets).to(world.device), torch.from_numpy(shares).to(world.device)

    def backward_of(batch, weights, length):
        ids = world.ids.index_select(0, batch)[:, :length]
        backward(network, technique, ids, on_device.index_select(0, batch), weights, shares)

    parts = epochs_of(world, rows, batch_size, job.seed + 100 * job.other, epochs)
    groups = parameter_groups(network, plan(len(own))[2] * technique.faster, technique.layer_decay)
    steps = Steps(world, network, backward_of, groups, [batch for part in parts for batch in part])
    kept, moving, parameters, number, best = [], copy(network), list(network.parameters()), 0, (-1.0, 0, [])
    for epoch, part in enumerate(parts, 1):
        for _ in part:
            with steps.inside():
                steps.take(number)
                number += 1
                with torch.no_grad():
                    torch._foreach_lerp_(moving, parameters, 1 - min(MOVING, number / (number + 9)))
            yield None
        with steps.inside():
            kept = [*kept, copy(network)][-KEPT:]
            labels = decide(sigmoid(world.logits(network, world.choosing)), world.tree, Decision())
            micro = evaluate(labels, world.known_gold[world.choosing], world.tree)["micro_f1"]
            best = max(best, (micro, epoch, kept[-1]), key=lambda each: each[:2])
        yield None
    with steps.inside():
        average = [torch.stack(values).mean(0) for values in zip(*kept)]
        models = {"average": average, "moving": moving, "chosen": best[2], "last": kept[-1]}
        yield {"steps": number, "epoch": best[1], "own": own}, results(world, job, technique, network, models)


def results(world, job, technique, network, models):
    found = {}
    for name, values in models.items():  # the last weights are the last ones here, too
        put(network, values)
        found[name] = world.logits(network, np.concatenate([world.choosing, world.test]))
    if job.teaches():
        found["unlabelled"] = world.logits(network, world.unlabelled)
        save_weights(world, job, network)
    return found


def save_weights(world, job, network):
    state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    save_file(state, world.args.work_dir / f"{job.name}.safetensors")


def train_masked(world, job):
    """Masked language modelling (Devlin and others, 2019) on all texts but dev's, from the encoder on; as `train`."""
    torch.manual_seed(job.seed)
    hidden, size = world.config["hidden_size"], world.config["vocab_size"]
    network = Network(world.config, len(world.tree), ancestors=world.ancestors)
    network.load(load_file(world.args.model_name / "model.safetensors"))
    head = torch.nn.Sequential(torch.nn.Linear(hidden, hidden), torch.nn.GELU(), torch.nn.LayerNorm(hidden))
    network.classifier, network.token_bias = head, torch.nn.Parameter(torch.zeros(size))
    network.to(world.device).train()
    mask_id = world.tokenizer.encode(["[MASK]"])[0][1]

    def backward_of(batch, weights, length):
        ids = world.ids.index_select(0, batch)[:, :length]
        hidden_ones = (torch.rand(ids.shape, device=ids.device) < MASKED_SHARE) & (ids > mask_id)
        kind, other = torch.rand(ids.shape, device=ids.device), torch.randint_like(ids, mask_id + 1, size)
        seen = torch.where(hidden_ones & (kind < 0.8), mask_id, torch.where(hidden_ones & (kind > 0.9), other, ids))
        logits = head(network.tokens(seen, ids != 0)) @ network.words.weight.T + network.token_bias
        terms = functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
        wanted = hidden_ones * weights[:, None]
        ((terms * wanted).sum() / wanted.sum().clamp_min(1)).backward()

    rows, epochs = np.concatenate([world.others, world.unlabelled]), max(1, round(world.args.effort * MASKED_EPOCHS))
    batches = [batch for part in epochs_of(world, rows, MASKED_BATCH, job.seed, epochs) for batch in part]
    groups = parameter_groups(network, MASKED_RATE, head_rate=1e-3)
    steps = Steps(world, network, backward_of, groups, batches)
    for number in range(len(batches)):
        with steps.inside():
            steps.take(number)
        yield None
    with steps.inside():
        for name in ("classifier", "token_bias"):
            delattr(network, name)
        save_weights(world, job, network)
        yield {"steps": len(batches)}, {}
