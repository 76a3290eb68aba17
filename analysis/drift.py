"""Whether texts that are asked in service are still those that the model was measured on, and what moved.

    python analysis/drift.py --dataset_dir data --params_path checkpoint --sample_file sample.jsonl

Reads   dataset_dir/dev.txt     (or JSON or CSV, see hierarchical/formats.py); its labels are not needed
        sample_file             answers that the HTTP server sampled (--sample_file), what predict.py wrote, or texts
        params_path/            the checkpoint
Writes  output_file             with --output_file: the numbers, as JSON
        dataset_dir/.cache/     what the encoder gives for 100 texts or more, for the next call

Both sets of texts are labelled by the same checkpoint and compared: how long they are, what the tokenizer does not
know, how sure the model is, how many labels they get and which, and how much they look like dev texts to the model.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.features import Features
from analysis.neighbours import nearest
from analysis.shifts import moved_labels, shifts
from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.decisions import decide, probabilities_of
from hierarchical.devices import set_device
from hierarchical.linear import with_linear
from hierarchical.modeling import classify_features
from hierarchical.rows import read_texts
from utils import (
    InputError,
    Problems,
    add_checkpoint_arguments,
    add_dataset_arguments,
    atomic_write,
    check_minima,
    get_logger,
    make_parser,
    require_directory,
    require_file,
    require_outputs,
    run,
)

FEW = 100  # texts; with fewer, much can change without a sign
SHOWN = 10  # labels


def parse_args(argv):
    parser = make_parser("What moved between dev and the texts in service.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "dev", compared=True, dev="the texts that the model was measured on")
    data.add_argument(
        "--sample_file", required=True, help="texts in service: answers of the server, or any file of texts"
    )
    data.add_argument("--max_texts", type=int, default=5000, help="of each set, at most; the last ones of the sample")
    add_checkpoint_arguments(parser, batch_size=16)
    result = parser.add_argument_group("result")
    result.add_argument("--output_file", type=Path, help="the numbers, as JSON")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, max_texts=2)
    return args


def read(path, tree, most, logger):
    """The last `most` texts of a file that are not blank."""
    require_file(path, "It holds texts, one per line, or rows.")
    problems, seen = Problems(), Counter()
    texts = [text for text in read_texts(path, tree, problems, seen) if text]
    problems.raise_if_any()
    if len(texts) < 2:
        raise InputError(f"{path}: {len(texts)} texts in it that are not blank; a comparison takes many.")
    if len(texts) < FEW:
        logger.warning(f"{path}: only {len(texts)} texts; much can change without a sign in so few")
    return texts[-most:]


def measure(texts, path, checkpoint, kept, name):
    """({measure: float [N]}, features float32 [N, H], predicted labels bool [N, L]) of texts; kept: a Features."""
    counts = [checkpoint.tokenizer.count(text) for text in texts]
    tokens = np.array([length for length, _ in counts], float)
    features = kept.of(texts, path, name)
    logits = with_linear(classify_features(kept.model, features), checkpoint.linear, texts)
    probabilities = probabilities_of(logits, checkpoint.tree, checkpoint.decision)
    labels = decide(probabilities, checkpoint.tree, checkpoint.decision)
    measures = {
        "length (tokens)": tokens,
        "unknown tokens (share)": np.array([len(unknown) for _, unknown in counts]) / np.maximum(tokens - 2, 1),
        "highest probability": probabilities.max(1),
        "labels of a text": labels.sum(1).astype(float),
    }
    return measures, features, labels


def likeness(dev, sample):
    """The cosine of each text's features with those of the dev text nearest to it (for a dev text: of another one)."""
    within = nearest(dev, dev, 2)[1][:, -1]
    return within, nearest(sample, dev, 1)[1][:, 0]


def told(moved, found, tree, counts):
    """The lines for people: what moved, in words."""
    yield f"Compared {counts[1]} texts of the sample with {counts[0]} dev texts"
    for shift in found:
        yield shift.line()
    yield f"labels: {len(moved)} of {len(tree)} have another share" + (", the most changed first:" if moved else "")
    for i, before, after, p in moved[:SHOWN]:
        yield f"    {tree.labels[i]}: {100 * before:.1f} % -> {100 * after:.1f} % of the texts (p {p:.1g})"
    if len(moved) > SHOWN:
        yield f"    and {len(moved) - SHOWN} more; --output_file has them all"
    changed = [shift.name for shift in found if shift.verdict.startswith("changed")]
    if not changed and not moved:
        yield "No sign that anything moved."
        return
    yield f"Moved: {', '.join([*changed, *(['which labels'] if moved else [])])}."
    if any(name.startswith("likeness") for name in changed):
        yield "Texts look unlike dev to the model: label some of them (analysis/sparse.py --annotate), and train anew."
    elif moved and not changed:
        yield "Other subjects, of the same kind of text: dev scores of the labels that grew count more than before."


def main(argv=None):
    args = parse_args(argv)
    logger, checkpoint = get_logger(), Checkpoint.open(args.params_path, args.max_seq_length, windows=False)
    tree, directory = checkpoint.tree, require_directory(args.dataset_dir)
    require_same_labels(tree, directory / args.label_file)
    paths = directory / args.dev_file, Path(args.sample_file)
    texts = [read(path, tree, args.max_texts, logger) for path in paths]
    if args.output_file:
        require_outputs({"--output_file": args.output_file}, paths)

    set_device(args.device)
    kept = Features(checkpoint, checkpoint.load_model(), checkpoint.tokenizer, args.batch_size, directory)
    dev, sample = (
        measure(part, path, checkpoint, kept, name) for part, path, name in zip(texts, paths, ("dev", "sample"))
    )
    dev[0]["likeness to dev"], sample[0]["likeness to dev"] = likeness(dev[1], sample[1])
    found, moved = shifts(dev[0], sample[0]), moved_labels(dev[2], sample[2])
    for line in told(moved, found, tree, [len(part) for part in texts]):
        logger.info(line)
    if args.output_file:
        labels = [{"label": tree.labels[i], "before": before, "after": after, "p": p} for i, before, after, p in moved]
        content = {"measures": [asdict(shift) | {"verdict": shift.verdict} for shift in found], "labels": labels}
        with atomic_write(args.output_file) as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
        logger.info(f"Numbers saved in {args.output_file}")


if __name__ == "__main__":
    run(main)
