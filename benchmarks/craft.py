"""Train with a technique that train.py does not have, to see whether it should; `recipes.py` calls this.

    python benchmarks/craft.py --dataset_dir rows --model_name path/to/encoder --save_dir tried --technique layer_rates

Reads   dataset_dir/{train.txt, label.txt}
Writes  save_dir/{last, average, moving}/   checkpoints: of the last weights, of the mean of those after each of the
                                            last three epochs, and of their exponential moving average

Without --technique it is train.py's training with `--loss zlpr`, a linear decay and no choice of an epoch. Where the
CPU can, products are of bfloat16, as with `train.py --amp`.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.checkpoints import save_checkpoint
from hierarchical.devices import set_device
from hierarchical.encoders import family_of
from hierarchical.losses import zlpr
from hierarchical.modeling import build_model, model_inputs, set_labels
from hierarchical.runs import open_model, start_encoder
from hierarchical.training import Settings, Trainer, label_frequency_bias, train_batches
from metric import Decision
from utils import LabelTree, check_minima, get_logger, load_rows, make_parser, multi_hot, progress_bar, run

LAYER_DECAY = 0.85  # of the rate, from each layer to the one below
GAMMA = 2.0  # of the focal loss (Lin and others, 2017)
GAMMA_ABSENT, MARGIN = 4.0, 0.05  # of the asymmetric loss (Ridnik and others, 2021)
AGREEMENT = 1.0  # weight of the divergence between two passes (R-Drop, Liang and others, 2021)
MASKS = 5  # of dropout before the classifier (Inoue, 2019)
RADIUS = 1.0  # of the step on the word embeddings against the loss (FGM, Miyato and others, 2017)
KEPT, MOVING = 3, 0.99  # epochs that are averaged, share of the average that a step keeps


def parse_args(argv):
    parser = make_parser("Train with a technique that train.py does not have.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt and label.txt")
    parser.add_argument("--model_name", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--save_dir", type=Path, required=True, help="where the checkpoints go")
    parser.add_argument("--technique", choices=TECHNIQUES, help="what is tried")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training rows")
    parser.add_argument("--batch_size", type=int, default=32, help="rows per step")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="peak rate of the encoder")
    parser.add_argument("--warmup_steps", type=int, default=100, help="steps to the peak")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens")
    parser.add_argument("--seed", type=int, default=3, help="of row order, dropout and new parameters")
    args = parser.parse_args(argv)
    check_minima(parser, args, epochs=1, batch_size=1, warmup_steps=0, max_seq_length=3, seed=0)
    return args


# ---- techniques ------------------------------------------------------------------------------------------------------
# Each takes (trainer, inputs, labels float32 [n, L]), and returns the loss, summed over the rows; or None, if the
# gradients of its mean are there already.


def plain(trainer, inputs, labels):
    return zlpr(trainer.model(**inputs), labels)


def focal(trainer, inputs, labels):
    return focal_loss(trainer.model(**inputs), labels)


def focal_loss(logits, labels, gamma=GAMMA):
    """Binary cross-entropy, each term times (1 - probability of the truth)^gamma; mean over labels."""
    from paddle.nn import functional

    terms = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return ((1 - (-terms).exp()) ** gamma * terms).sum() / labels.shape[1]


def asymmetric(trainer, inputs, labels):
    return asymmetric_loss(trainer.model(**inputs), labels)


def asymmetric_loss(logits, labels, gamma=GAMMA_ABSENT, margin=MARGIN):
    """Binary cross-entropy; a label that the row lacks counts (p - margin)^gamma times, and not at all below margin."""
    from paddle.nn import functional

    probabilities = functional.sigmoid(logits)
    absent = (probabilities - margin).clip(min=0)
    own = -functional.log_sigmoid(logits)
    return (labels * own - (1 - labels) * absent**gamma * (1 - absent).clip(min=1e-8).log()).sum() / labels.shape[1]


def r_drop(trainer, inputs, labels):
    sigmoid = trainer.paddle.nn.functional.sigmoid
    first, second = trainer.model(**inputs), trainer.model(**inputs)
    apart = (sigmoid(first) - sigmoid(second)) * (first - second)  # KL both ways, of a label
    return (zlpr(first, labels) + zlpr(second, labels) + AGREEMENT * apart.sum()) / 2


def many_masks(trainer, inputs, labels):
    model = trainer.model
    pooled, classify = family_of(model).pooled(model, **inputs), family_of(model).classifier(model)
    return sum(zlpr(classify(model.dropout(pooled)), labels) for _ in range(MASKS)) / MASKS


def adversarial(trainer, inputs, labels):
    """The loss as it is, and again where the word embeddings are off in the direction that hurts most."""
    words = family_of(trainer.model).word_embeddings(trainer.model).weight
    (plain(trainer, inputs, labels) / len(labels)).backward()
    before, gradient = words.numpy().copy(), words.grad.numpy()
    words.set_value(before + RADIUS * gradient / max(np.linalg.norm(gradient), 1e-12))
    (plain(trainer, inputs, labels) / len(labels)).backward()  # adds to the gradients that are there
    words.set_value(before)


def layer_rates(trainer, inputs, labels):
    """Each layer learns slower than the one above: see `layered`."""
    return plain(trainer, inputs, labels)


TECHNIQUES = {
    function.__name__: function for function in (plain, focal, asymmetric, r_drop, many_masks, adversarial, layer_rates)
}


def layered(trainer):
    """AdamW whose rate falls from layer to layer, the embeddings' being that of a layer below the first."""
    paddle, model, settings = trainer.paddle, trainer.model, trainer.settings
    family, groups = family_of(model), {}
    above = {}
    for depth, layer in enumerate(reversed(family.layers(model))):
        above |= {parameter.name: depth for parameter in layer.parameters()}
    for name, parameter in model.named_parameters():
        inside = name.startswith(f"{model.base_model_prefix}.")
        depth = above.get(parameter.name, len(family.layers(model)) if "embeddings" in name else 0)
        factor = LAYER_DECAY**depth if inside else settings.head_learning_rate / settings.learning_rate
        groups.setdefault(factor, []).append(parameter)
    return paddle.optimizer.AdamW(
        learning_rate=settings.learning_rate,
        parameters=[{"params": params, "learning_rate": factor} for factor, params in groups.items()],
        weight_decay=settings.weight_decay,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(settings.max_grad_norm),
    )


# ---- the run ---------------------------------------------------------------------------------------------------------


def train_step(trainer, technique, ids, labels, pad_id):
    trainer.begin_step()
    loss = technique(trainer, model_inputs(ids, pad_id), trainer.paddle.to_tensor(labels, "float32"))
    if loss is not None:
        (loss / len(ids)).backward()
    trainer.optimizer.step()
    trainer.optimizer.clear_grad()
    trainer.step += 1


def copies(model):
    return [parameter.numpy().copy() for parameter in model.parameters()]


def main(argv=None):
    args = parse_args(argv)
    paddle, logger = set_device("cpu"), get_logger()
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    train = load_rows(args.dataset_dir / "train.txt", tree)
    paddle.seed(args.seed)
    source, tokenizer, config = open_model(args.model_name, args.max_seq_length)
    set_labels(config, tree)
    model = build_model(config)
    model.train()
    bias = label_frequency_bias(train.label_counts(len(tree)), len(train.texts))
    family_of(model).classifier(model).bias.set_value(bias)
    start_encoder(model, source, logger)
    ids, technique = tokenizer.encode(train.texts), TECHNIQUES[args.technique or "plain"]
    lengths = [len(row) for row in ids]
    settings = Settings(
        args.learning_rate, 5e-3, "zlpr", schedule="linear", warmup_steps=args.warmup_steps, seed=args.seed, amp=True
    )
    trainer = Trainer(paddle, settings, model, args.epochs * -(-len(ids) // args.batch_size))
    if technique is layer_rates:
        trainer.optimizer = layered(trainer)
    kept, moving = [], copies(model)
    for epoch in range(1, args.epochs + 1):
        batches = train_batches(lengths, args.batch_size, args.seed, epoch)
        for rows in progress_bar(len(batches), f"epoch {epoch}", iterable=batches):
            labels = multi_hot([train.labels[row] for row in rows], len(tree))
            train_step(trainer, technique, [ids[row] for row in rows], labels, tokenizer.pad_id)
            keep = min(MOVING, trainer.step / (trainer.step + 9))  # less while there is little to keep
            for average, parameter in zip(moving, model.parameters()):
                average += (1 - keep) * (parameter.numpy() - average)
        kept = [*kept, copies(model)][-KEPT:]
    averages = {"last": kept[-1], "average": [np.mean(of_epochs, 0) for of_epochs in zip(*kept)], "moving": moving}
    for name, values in averages.items():
        for parameter, value in zip(model.parameters(), values):
            parameter.set_value(value)
        save_checkpoint(args.save_dir / name, model, tokenizer, tree, Decision())


if __name__ == "__main__":
    run(main)
