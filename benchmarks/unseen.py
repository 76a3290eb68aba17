"""Labels without rows: how well `predict.py --unseen` gives labels whose rows were kept from all training.

    python benchmarks/unseen.py --dataset_dir data --model_name path/to/encoder --withheld 20
    python benchmarks/unseen.py --dataset_dir data --model_name path/to/encoder --withheld 20 --linear

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/rows/             train.txt and dev.txt without rows of the labels withheld, label.txt without these
                                   labels, new_labels.txt with them, test.txt with all; dev.txt and test.txt are the
                                   halves of dataset_dir's dev.txt
        work_dir/retrieval/        the encoder, and its unseen.json
        work_dir/{classifier or linear}/   what knows the other labels, and its predictions, with new labels and without

The two models are trained unless they are there. Scores are of test.txt: of the new labels, at their threshold and at
others, and of the known ones, with and without the new ones beside them.
"""

import json
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.timing import call
from benchmarks.withholding import withheld_labels, write_some
from hierarchical.unseen import FILE
from utils import LabelTree, load_rows, make_parser, multi_hot, run

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def parse_args(argv):
    parser = make_parser("Measure labels without rows.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--work_dir", type=Path, default="output/unseen", help="where the models go")
    parser.add_argument("--withheld", type=int, default=20, help="leaf labels that are new")
    parser.add_argument("--linear", action="store_true", help="the linear baseline knows the others, not an encoder")
    parser.add_argument("--epochs", type=int, default=2, help="of each training")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    return parser.parse_args(argv)


def make_rows(args, folder):
    """The rows and label lists of the docstring, in a new folder."""
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    new = withheld_labels(tree, args.withheld)
    train = load_rows(args.dataset_dir / "train.txt", tree)
    dev = load_rows(args.dataset_dir / "dev.txt", tree, unlabelled="skip")
    order, half = np.random.default_rng(0).permutation(len(dev.texts)).tolist(), len(dev.texts) // 2
    folder.mkdir(parents=True)
    kept = [i for i, labels in enumerate(train.labels) if not new & set(labels)]
    write_some(folder / "train.txt", tree, train, kept)
    write_some(folder / "dev.txt", tree, dev, [i for i in order[:half] if not new & set(dev.labels[i])])
    write_some(folder / "test.txt", tree, dev, order[half:])
    for name, is_new in (("label.txt", False), ("new_labels.txt", True)):
        lines = [f"{label}\n" for i, label in enumerate(tree.labels) if (i in new) == is_new]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def train(args, rows, classifier):
    """The two models, as far as they are not there, and the Curve between them."""
    common = ["--learning_rate", 3e-4, "--max_seq_length", 64, "--device", args.device, "--epochs", args.epochs]
    log, encoder = args.work_dir / "log.txt", args.work_dir / "retrieval"
    if not (encoder / "model_best").exists():
        data = ["--train_set_file", rows / "train.txt", "--similar_text_pair_file", rows / "dev.txt"]
        data += ["--corpus_file", rows / "label.txt", "--model_name", args.model_name, "--save_dir", encoder]
        call(log, "retrieval_based/train.py", *common, *data, "--warmup_proportion", 0.1)
    if not classifier.exists() and args.linear:
        call(log, "analysis/baseline.py", "--dataset_dir", rows, "--save_dir", classifier)
    elif not classifier.exists():
        flags = ["--dataset_dir", rows, "--model_name", args.model_name, "--save_dir", classifier, "--loss", "zlpr"]
        call(log, "train.py", *common, *flags)
    flags = ["--dataset_dir", rows, "--params_path", encoder / "model_best", "--classifier", classifier]
    call(log, "retrieval_based/fit_unseen.py", *flags, "--device", args.device)


def predictions(args, rows, classifier, name, *flags):
    """The rows of the file, of that name, that predict.py writes for test.txt."""
    output = classifier / f"{name}.jsonl"
    words = ["--dataset_dir", rows, "--data_file", "test.txt", "--params_path", classifier]
    words += ["--output_file", output, "--floor", 0, "--quiet", "--device", args.device]
    call(args.work_dir / "log.txt", "predict.py", *words, *flags)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def show(name, chosen, gold):
    """Print the scores of label sets bool [N, L]; a label in neither counts as 0 in the macro average."""
    from sklearn.metrics import precision_recall_fscore_support

    micro, macro = (
        precision_recall_fscore_support(gold, chosen, average=average, zero_division=0)[:3]
        for average in ("micro", "macro")
    )
    shown = " | ".join(f"{what} {100 * value:.2f}" for what, value in zip(("precision", "recall", "F1"), micro))
    print(f"{name:<28} {shown} | macro-F1 {100 * macro[2]:.2f}")


def main(argv=None):
    args = parse_args(argv)
    rows, classifier = args.work_dir / "rows", args.work_dir / ("linear" if args.linear else "classifier")
    if not rows.exists():
        make_rows(args, rows)
    train(args, rows, classifier)
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    new = np.array([label not in LabelTree.read(rows / "label.txt").index for label in tree.labels])
    gold = load_rows(rows / "test.txt", tree).multi_hot(len(tree))
    encoder = args.work_dir / "retrieval" / "model_best"
    plain = predictions(args, rows, classifier, "known")
    flags = "--unseen", rows / "new_labels.txt", "--unseen_encoder", encoder
    beside = predictions(args, rows, classifier, "both", *flags)

    def sets(found):
        return multi_hot([[tree.index[label] for label in row["labels"]] for row in found], len(tree))

    likely = np.array([[row["probabilities"].get(label, 0.0) for label in tree.labels] for row in beside])[:, new]
    print(f"{len(gold)} rows, {int(gold[:, new].any(1).sum())} with one of {int(new.sum())} new labels")
    for name, found in (("known labels, without", plain), ("known labels, with new ones", beside)):
        show(name, sets(found)[:, ~new], gold[:, ~new])
    threshold = json.loads((encoder / FILE).read_text(encoding="utf-8"))["threshold"]
    show(f"new labels, above {threshold:g}", sets(beside)[:, new], gold[:, new])
    for cut in THRESHOLDS:
        show(f"  probability above {cut:g}", likely > cut, gold[:, new])
    print(f"new labels expected by their probabilities: {likely.sum():.0f}, there are {gold[:, new].sum()}")
    for low, high in zip(np.arange(0, 1, 0.2), np.arange(0.2, 1.2, 0.2)):
        here = (likely > low) & (likely <= high)
        if low:
            right = 100 * gold[:, new][here].mean()
            print(f"  probability {low:.1f} to {high:.1f}: {here.sum()} times, right {right:.1f} % of them")


if __name__ == "__main__":
    run(main)
