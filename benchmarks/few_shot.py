"""What a handful of rows per label is worth: fine-tuning, similarity to label words and a prompt, on the same rows.

    python benchmarks/few_shot.py --dataset_dir data --model_name path/to/encoder
    python benchmarks/few_shot.py --dataset_dir data --model_name path/to/encoder --shots 1 2 5 20 --draws 3

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/SHOTS-DRAW/         the rows drawn; beside them, per method, checkpoints, logs and predictions
        work_dir/results.jsonl       one line per run: shots, draw, method, micro and macro F1 in percent

few-shot/sample.py draws the training rows, another set for each draw. The best epoch is chosen on --dev_rows rows of
dev.txt; the scores are those of --test_rows rows of train.txt that were not drawn. A run whose line is in results.jsonl
is not made again. At the end a table: mean, lowest and highest over the draws.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from metric import evaluate
from utils import HelpFormatter, LabelTree, load_rows, multi_hot, run, write_rows

METHODS = ("fine-tuning", "similarity", "prompt")


def parse_args():
    parser = argparse.ArgumentParser(description="Compare methods for a few rows.", formatter_class=HelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="directory with train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", required=True, help="directory of the encoder")
    parser.add_argument("--work_dir", default="output/few_shot", help="where the runs go")
    parser.add_argument("--shots", type=int, nargs="+", default=[2], help="rows per label")
    parser.add_argument("--draws", type=int, default=5, help="training sets of each size")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="what to compare")
    parser.add_argument("--epochs", type=int, default=20, help="of similarity and prompt")
    parser.add_argument("--fine_tuning_epochs", type=int, default=100, help="at most; stops after 20 without gain")
    parser.add_argument("--learning_rate", default="1e-4", help="of the encoder, with every method")
    parser.add_argument("--prompt", default="这句话描述的事件是", help="template of the method prompt")
    parser.add_argument("--max_seq_length", default="128", help="tokens")
    parser.add_argument("--dev_rows", type=int, default=500, help="to choose the epoch by")
    parser.add_argument("--test_rows", type=int, default=2000, help="to score on")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    return parser.parse_args()


def call(log, script, *arguments):
    """Run one of the toolkit's scripts; its output goes to a log file."""
    with open(log, "a", encoding="utf-8") as file:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)


def draw_rows(args, folder, shots, draw, tree):
    """train.txt, dev.txt, test.txt and label.txt of one draw."""
    folder.mkdir(parents=True, exist_ok=True)
    data, rest = Path(args.dataset_dir), folder / "rest.txt"
    settings = ["--data_dir", data, "--shots", shots, "--seed", draw]
    call(
        folder / "log.txt", "few-shot/sample.py", *settings, "--output_file", folder / "train.txt", "--rest_file", rest
    )
    for source, name, count in ((data / "dev.txt", "dev.txt", args.dev_rows), (rest, "test.txt", args.test_rows)):
        rows = load_rows(source, tree, unlabelled="skip")
        chosen = np.random.default_rng(0).permutation(len(rows.texts))[:count]
        write_rows(folder / name, [(rows.texts[i], [tree.labels[label] for label in rows.labels[i]]) for i in chosen])
    (folder / "label.txt").write_bytes((data / "label.txt").read_bytes())


def predict(args, folder, method):
    """Train by one method and label test.txt; the path of the predictions."""
    save_dir, log = folder / method, folder / f"{method}.log"
    common = ["--learning_rate", args.learning_rate, "--max_seq_length", args.max_seq_length, "--device", args.device]
    if method == "fine-tuning":
        call(
            log, "train.py", *common, "--dataset_dir", folder, "--model_name", args.model_name, "--save_dir", save_dir,
            "--batch_size", 8, "--epochs", args.fine_tuning_epochs, "--early_stop", "--early_stop_nums", 20,
        )  # fmt: skip
        output, data = save_dir / "test_predictions.jsonl", ["--dataset_dir", folder, "--data_file", "test.txt"]
        settings = ["--params_path", save_dir, "--output_file", output, "--device", args.device, "--quiet"]
        call(log, "predict.py", *data, *settings)
        return output
    call(
        log, "few-shot/train.py", *common, "--data_dir", folder, "--model_name_or_path", args.model_name,
        "--output_dir", save_dir, "--ppt_learning_rate", 10 * float(args.learning_rate), "--num_train_epochs",
        args.epochs, "--per_device_eval_batch_size", 32, "--do_train", "--do_predict",
        *(["--prompt", args.prompt] if method == "prompt" else []),
    )  # fmt: skip
    return save_dir / "test_predictions.jsonl"


def scores(tree, folder, predictions):
    """(micro-F1, macro-F1) in percent."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    predicted = multi_hot([[tree.index[label] for label in row["labels"]] for row in rows], len(tree))
    result = evaluate(predicted, load_rows(folder / "test.txt", tree).multi_hot(len(tree)), tree)
    return 100 * result["micro_f1"], 100 * result["macro_f1"]


def table(args, results):
    print(f"{'shots':>5} {'method':<12} {'draws':>5}  micro-F1 (lowest to highest)  macro-F1 (lowest to highest)")
    for shots in args.shots:
        for method in args.methods:
            found = np.array([results[key] for key in results if key[0] == shots and key[2] == method])
            cells = [f"{column.mean():.2f} ({column.min():.2f} to {column.max():.2f})" for column in found.T]
            print(f"{shots:>5} {method:<12} {len(found):>5}  {cells[0]:<28}  {cells[1]}")


def main():
    args = parse_args()
    tree, work_dir = LabelTree.read(Path(args.dataset_dir) / "label.txt"), Path(args.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    record, results = work_dir / "results.jsonl", {}
    for line in record.read_text().splitlines() if record.exists() else []:
        entry = json.loads(line)
        results[entry["shots"], entry["draw"], entry["method"]] = entry["micro_f1"], entry["macro_f1"]
    for shots in args.shots:
        for draw in range(args.draws):
            folder = work_dir / f"{shots}-{draw}"
            for method in args.methods:
                if (shots, draw, method) in results:
                    continue
                if not (folder / "test.txt").exists():
                    draw_rows(args, folder, shots, draw, tree)
                micro, macro = results[shots, draw, method] = scores(tree, folder, predict(args, folder, method))
                entry = {"shots": shots, "draw": draw, "method": method, "micro_f1": micro, "macro_f1": macro}
                with open(record, "a") as file:
                    file.write(json.dumps(entry) + "\n")
                print(f"shots {shots}, draw {draw}, {method}: micro-F1 {micro:.2f}, macro-F1 {macro:.2f}", flush=True)
    table(args, results)


if __name__ == "__main__":
    run(main)
