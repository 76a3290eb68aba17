"""Train a bi-encoder: texts and the paths of their labels become vectors that are near each other.

    python retrieval_based/train.py --model_name path/to/encoder --save_dir checkpoint
    python -m paddle.distributed.launch --nproc_per_node 2 --backend "gloo" retrieval_based/train.py --model_name ...
    python -m paddle.distributed.launch --gpus "0,1" retrieval_based/train.py --device gpu --model_name ...

Reads   train_set_file, similar_text_pair_file   rows text<TAB>label,label,...  (see hierarchical/formats.py)
        corpus_file                              all labels
Writes  save_dir/model_best/   the encoder with the best recall@1 so far, self-contained (see encoder.py)
        save_dir/{setting.txt, run.json, metrics.jsonl, train.log}   what made it, recall after each epoch
        save_dir/state.safetensors   the last state, for --resume
        .cache/tokens/ beside the rows   tokens of files with 50,000 rows or more, for the next call

A row gives one pair for each of its most specific labels. Within a batch, the cosine of a text and its label, less a
margin, is to be above those of the text and the other labels of the batch: cross-entropy over the scaled cosines, "in
batch negatives". A label stands in a batch once, however many of its texts do, and a text's other labels and their
ancestors are no negatives for it.
"""

import sys
import time
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.batches import choosing_rows
from hierarchical.bi_encoder import build_encoder, own_digest
from hierarchical.checkpoints import save_checkpoint
from hierarchical.devices import launched_processes, set_device
from hierarchical.identity import require_no_rows
from hierarchical.label_graph import label_files
from hierarchical.modeling import model_inputs, predict_logits
from hierarchical.runs import (
    begin_run,
    earlier_state,
    join_processes,
    open_model,
    require_other_directory,
    require_same_start,
    require_same_tokenizer,
    start_encoder,
    start_or_resume,
    write_run_files,
)
from hierarchical.sources import require_model
from hierarchical.token_rows import encode_file
from hierarchical.training import Settings, Trainer, leave, save_progress, stop_on_signals, train_batches, train_epoch
from hierarchical.weights import load_weights
from metric import Decision, tune_threshold
from retrieval_based.encoder import center, labels_to_index, most_specific, texts_of_labels
from retrieval_based.index import RECALL_AT, SemanticIndex, dense, recalls
from retrieval_based.vectors import Vectors
from utils import (
    InputError,
    LabelTree,
    add_device_argument,
    add_max_seq_length_argument,
    check_minima,
    file_digest,
    get_logger,
    load_reported,
    load_rows,
    make_parser,
    progress_bar,
    require_file,
    run,
    some,
)

CENTERED_ON = 512  # train texts


def parse_args(argv):
    parser = make_parser("Train a bi-encoder for label retrieval.")
    data = parser.add_argument_group("data")
    data.add_argument("--train_set_file", default="./data/train.txt", help="labelled rows; .txt, .jsonl, .json or .csv")
    data.add_argument("--similar_text_pair_file", default="./data/dev.txt", help="labelled rows to measure recall on")
    data.add_argument("--corpus_file", default="./data/label.txt", help="all labels, one path per line")
    add_max_seq_length_argument(data, 512)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name",
        default="ernie-3.0-medium-zh",
        help="a local directory (without weights: train from scratch), or a name that models.py lists",
    )
    model.add_argument(
        "--init_from_ckpt", help="parameter file to start from, e.g. checkpoint/model_best/model.safetensors"
    )
    model.add_argument("--output_emb_size", type=int, default=256, help="length of a vector; 0: that of the encoder")
    add_device_argument(model)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--batch_size", type=int, default=32, help="pairs per process and step; more: more negatives")
    optim.add_argument("--margin", type=float, default=0.2, help="by which a text's own label must be nearer")
    optim.add_argument("--scale", type=float, default=30, help="of the cosines in the loss")
    optim.add_argument("--learning_rate", type=float, default=5e-5, help="peak rate")
    optim.add_argument("--weight_decay", type=float, default=0.0, help="AdamW decay, not for biases and norms")
    optim.add_argument("--epochs", type=int, default=10, help="passes over the training rows")
    optim.add_argument("--warmup_proportion", type=float, default=0.0, help="share of the steps before the peak")
    optim.add_argument("--seed", type=int, default=1000, help="of row order, dropout and new parameters")
    result = parser.add_argument_group("result")
    result.add_argument("--save_dir", default="./checkpoint", help="where model_best/ goes")
    result.add_argument("--recall_num", type=int, default=50, help="labels retrieved per row when measuring recall")
    result.add_argument("--log_steps", type=int, default=10, help="steps between progress lines")
    result.add_argument("--resume", action="store_true", help="continue the run in save_dir from its last state")
    args = parser.parse_args(argv)
    check_minima(
        parser, args,
        max_seq_length=3, output_emb_size=0, batch_size=1, scale=1e-12, learning_rate=1e-12, weight_decay=0, epochs=1,
        warmup_proportion=0, seed=0, recall_num=1, log_steps=1, margin=0,
    )  # fmt: skip
    if not args.warmup_proportion < 1:
        parser.error(f"argument --warmup_proportion: must be below 1, got {args.warmup_proportion}")
    return args


class PairTrainer(Trainer):
    """The main route's trainer with a loss of pairs: (text's row, class index of its label).

    closures: per row the set of its labels and their ancestors, class indices; label_ids: token ids of every label;
    margin, scale: of the loss
    """

    def __init__(self, paddle, settings, model, total_steps, pairs, closures, label_ids, margin, scale):
        super().__init__(paddle, settings, model, total_steps)
        self.pairs, self.closures, self.label_ids = pairs, closures, label_ids
        self.margin, self.scale = margin, scale

    def train_step(self, ids, labels, batch, pad_id):
        """One parameter update on a global batch of pairs; each process contrasts its own share. Returns its loss."""
        paddle = self.paddle
        self.begin_step()
        batch = np.resize(batch, self.world) if len(batch) < self.world else batch  # every process needs a pair
        pairs = [self.pairs[i] for i in batch[self.rank :: self.world]]
        labels, wanted = np.unique([label for _, label in pairs], return_inverse=True)
        texts = self.net(**model_inputs([ids[row] for row, _ in pairs], pad_id))
        paths = self.net(**model_inputs([self.label_ids[label] for label in labels], pad_id))
        shift = paddle.to_tensor(self.shifts(pairs, labels, wanted))
        logits = self.scale * (paddle.matmul(texts, paths, transpose_y=True) + shift)
        loss = paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(wanted))
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.step += 1
        return float(loss)

    def shifts(self, pairs, labels, wanted):
        """What is added to the cosines, float32 [pairs, labels]: -margin for the pair's own label, -1e4 where the label
        is another one of the row's, 0 for negatives."""
        shift = np.zeros((len(pairs), len(labels)), np.float32)
        for i, (row, _) in enumerate(pairs):
            shift[i, [label in self.closures[row] for label in labels]] = -1e4
            shift[i, wanted[i]] = -self.margin
        return shift


def read_data(args, logger):
    """(LabelTree, train Rows, dev Rows); everything that can be wrong with the data is found here."""
    tree = LabelTree.read(args.corpus_file)
    train = load_rows(args.train_set_file, tree, keep_texts=False)
    dev = load_reported(args.similar_text_pair_file, tree, logger)
    for path, rows in ((args.train_set_file, train), (args.similar_text_pair_file, dev)):
        if not any(rows.labels):
            raise InputError(f"{path}: no row has a label.")
    trained = {label for labels in set(train.labels) for label in most_specific(tree, labels)}
    if len(trained) < 2:
        raise InputError(f"{args.train_set_file}: all rows have the same label; there is nothing to tell apart.")
    indexed = labels_to_index(tree, any(tree.children[label] for label in trained))
    if lost := sum(not set(most_specific(tree, row)) <= set(indexed) for row in dev.labels):
        logger.warning(
            f"{args.similar_text_pair_file}: {lost} rows end at a label that has children, and can't be found in full: "
            "such labels are retrieved only if train rows end at one"
        )
    unseen = [label for label in range(len(tree)) if not tree.children[label] and label not in trained]
    if unseen:
        names = some([tree.labels[i] for i in unseen])
        logger.info(f"{len(unseen)} labels have no training row and are retrieved by their names alone ({names})")
    return tree, train, dev


def prepare_model(args, inner_labels, logger):
    """(model in train mode, tokenizer), from --model_name and --init_from_ckpt."""
    source, tokenizer, config = open_model(args.model_name, args.max_seq_length)
    config.output_emb_size, config.inner_labels = args.output_emb_size, inner_labels
    model = build_encoder(config)
    model.train()
    if args.init_from_ckpt:
        require_same_start(args.init_from_ckpt, tokenizer)
        load_weights(model, args.init_from_ckpt)
    elif not args.resume:  # its parameters are in the saved state
        start_encoder(model, source, logger)
    return model, tokenizer


def retrieve_dev(args, model, tree, indexed, label_ids, dev_ids, pad_id):
    """What every dev row retrieves from an index of the labels with the model's current parameters."""

    def encode(ids, name):
        with progress_bar(len(ids), name) as bar:
            return predict_logits(model, ids, pad_id, args.batch_size, bar.update)

    vectors = encode([label_ids[i] for i in indexed], "labels")
    index = SemanticIndex(tree, Vectors(vectors.shape[1]))
    index.add(vectors, [(i,) for i in indexed])
    return index.retrieve(encode(dev_ids, "dev"), args.recall_num)


def tuned_similarity(tree, dev, retrieved):
    """The Decision whose similarity threshold gives the best micro-F1 on the dev rows, or on as many as fit memory."""
    chosen = choosing_rows(len(dev.texts), len(tree))
    gold = dev._replace(labels=[tuple(tree.closure(labels)) for labels in dev.labels]).multi_hot(len(tree), chosen)
    similarities = dense([retrieved[i] for i in chosen], len(tree))
    return Decision(threshold=tune_threshold(similarities, gold, tree, "closure"), decoding="closure")


def main(argv=None):
    args = parse_args(argv)
    rank, world = launched_processes()
    save_dir = Path(args.save_dir)
    require_no_rows(save_dir / "model_best", "--save_dir: its model_best")
    require_other_directory(save_dir / "model_best", args.model_name, "--save_dir: its model_best")
    with begin_run(save_dir, rank) as logger:
        train_and_save(args, rank, world, logger)


def train_and_save(args, rank, world, logger):
    """The run, once save_dir is its own."""
    save_dir = Path(args.save_dir)
    require_model(args.model_name)
    if args.init_from_ckpt:
        require_file(args.init_from_ckpt, "--init_from_ckpt names the parameter file of a checkpoint.")
    tree, train, dev = read_data(args, logger)
    files = [args.train_set_file, args.similar_text_pair_file, *label_files(args.corpus_file)]
    free = "save_dir resume log_steps device train_set_file similar_text_pair_file corpus_file".split()
    same = {name: value for name, value in vars(args).items() if name not in free}
    same |= {"processes": world, "data": [file_digest(path)[:16] for path in files]}
    progress, arrays = start_or_resume(save_dir, args.resume, same, logger)

    paddle = set_device(args.device)
    from tqdm.contrib.logging import logging_redirect_tqdm

    join_processes(paddle, args.model_name)
    paddle.seed(args.seed)
    specific = {labels: most_specific(tree, labels) for labels in set(train.labels)}  # far fewer than rows
    inner_labels = any(tree.children[label] for found in specific.values() for label in found)
    model, tokenizer = prepare_model(args, inner_labels, logger)
    require_same_tokenizer(progress.fingerprint, tokenizer)
    train_ids = encode_file(tokenizer, train.texts, args.train_set_file)
    dev_ids = encode_file(tokenizer, dev.texts, args.similar_text_pair_file)
    if not (args.init_from_ckpt or args.resume):
        sample = np.random.default_rng(args.seed).permutation(len(train_ids))[:CENTERED_ON]
        center(model, [train_ids[i] for i in sample], tokenizer.pad_id, args.batch_size)
    label_ids = tokenizer.encode(texts_of_labels(tree, range(len(tree))))
    pairs = [(row, label) for row, labels in enumerate(train.labels) for label in specific[labels]]
    lengths = [len(train_ids[row]) for row, _ in pairs]
    total_steps = args.epochs * -(-len(pairs) // (args.batch_size * world))
    closure_of = {labels: set(tree.closure(labels)) for labels in specific}
    closures = [closure_of[labels] for labels in train.labels]
    if rank == 0:
        write_run_files(save_dir, vars(args), tree, train, dev)
    settings = Settings.from_arguments(
        args,
        head_learning_rate=args.learning_rate,
        schedule="linear",
        warmup_steps=round(args.warmup_proportion * total_steps),
        logging_steps=args.log_steps,
    )
    trainer = PairTrainer(paddle, settings, model, total_steps, pairs, closures, label_ids, args.margin, args.scale)
    if args.resume:
        trainer.restore(arrays, progress.step, save_dir)
        logger.info(f"Resuming after {progress.epoch} epochs and {progress.batch} batches")

    with stop_on_signals() as stop, logging_redirect_tqdm([logger]):
        while progress.epoch < args.epochs:
            batches = train_batches(lengths, args.batch_size * world, args.seed, progress.epoch + 1)
            if not train_epoch(trainer, batches, train_ids, train.labels, tokenizer.pad_id, progress, logger, stop):
                leave(save_dir, trainer, progress, stop, logger)
            mean_loss = progress.loss_sum / len(batches)
            progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
            if rank == 0:
                finish_epoch(args, trainer, tree, dev, dev_ids, tokenizer, inner_labels, progress, mean_loss)
        if trainer.any_process(stop):  # during the last evaluation
            leave(save_dir, trainer, progress, stop, logger)
    if rank == 0:
        logger.info(f"Best recall@1: {100 * progress.best:.3f}; the model is in {save_dir / 'model_best'}")


def finish_epoch(args, trainer, tree, dev, dev_ids, tokenizer, inner_labels, progress, mean_loss):
    """Measure recall on dev, keep the best model and the state."""
    model, save_dir, logger, began = trainer.model, Path(args.save_dir), get_logger(), time.monotonic()
    logger.info("evaluating")
    indexed = labels_to_index(tree, inner_labels)
    retrieved = retrieve_dev(args, model, tree, indexed, trainer.label_ids, dev_ids, tokenizer.pad_id)
    scored = [i for i, labels in enumerate(dev.labels) if labels]
    ranked = [[label for label, _ in retrieved[i]] for i in scored]
    found = recalls(ranked, [most_specific(tree, dev.labels[i]) for i in scored])
    found = {f"recall@{k}": found[f"recall@{k}"] for k in RECALL_AT if k <= args.recall_num}
    for name, value in found.items():
        logger.info(f"{name}={100 * value:.3f}")
    entry = {"epoch": progress.epoch, "step": trainer.step, "train_loss": mean_loss, **found}
    entry["seconds"] = round(time.monotonic() - began, 1)
    if progress.evaluated(found["recall@1"], entry):
        model.config.encoder_id = own_digest(model)
        decision = tuned_similarity(tree, dev, retrieved)
        for name in earlier_state(args.resume, progress):
            (save_dir / name).unlink(missing_ok=True)
        save_checkpoint(save_dir / "model_best", model, tokenizer, tree, decision)
        logger.info(f"Best recall@1 so far; saved, with {decision.threshold:.3f} as the similarity a label must exceed")
    save_progress(save_dir, trainer, progress)


if __name__ == "__main__":
    run(main)
