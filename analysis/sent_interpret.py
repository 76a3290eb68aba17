"""Why did it say that? For each text, the train rows that look most alike to the model.

    python analysis/sent_interpret.py --dataset_dir data --params_path checkpoint
    python analysis/sent_interpret.py --dataset_dir data --params_path checkpoint --interpret_input_file dev.txt

Reads   dataset_dir/train.txt             (or .jsonl/.csv rows, see utils.py)
        dataset_dir/bad_case.txt          of evaluate.py; or rows with or without labels, see cases.py
        params_path/                      the checkpoint
Writes  dataset_dir/sent_interpret.txt    for every text its predicted and given labels and its nearest train rows
        dataset_dir/sent_interpret.html   the same as a page

A text's features are what the classifier layer sees of it, and nearness is the cosine of two features' angle: 1 for the
same direction. Wrong labels of near train rows teach the model wrong labels: look for them first.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory, read_cases, report_other_predictions
from analysis.report import render
from checkpoints import load_checkpoint, open_checkpoint, require_same_labels
from metric import decide
from modeling import encode_features, sigmoid
from runtime import set_device
from utils import (
    FLAT,
    HelpFormatter,
    InputError,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    require_outputs,
    run,
)

CELLS = 20_000_000  # similarities held at a time: 80 MB


def parse_args():
    parser = argparse.ArgumentParser(description="Nearest train rows of texts.", formatter_class=HelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", required=True, help="directory with the files below")
    data.add_argument("--train_file", default="train.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    data.add_argument("--label_file", default="label.txt", help="in dataset_dir; only compared with the checkpoint's")
    data.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain")
    model = parser.add_argument_group("model")
    model.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    model.add_argument("--max_seq_length", type=int, help="tokens of a text that are read (default: as in training)")
    model.add_argument("--batch_size", type=int, default=16, help="texts per step")
    model.add_argument("--device", default="gpu", help="cpu, gpu, xpu or npu; without it: the CPU, with a warning")
    model.add_argument("--seed", type=int, default=3, help="accepted for older commands; nothing here is random")
    result = parser.add_argument_group("result")
    result.add_argument("--top_k", type=int, default=3, help="train rows for each text")
    result.add_argument("--interpret_result_file", default="sent_interpret.txt", help="a bare name: in dataset_dir")
    result.add_argument("--html_file", default="sent_interpret.html", help="a bare name: in dataset_dir")
    args = parser.parse_args()
    check_minima(parser, args, batch_size=1, max_seq_length=3, top_k=1)
    return args


def nearest(features, others, k):
    """The k rows of `others` with the highest cosine similarity to each row of `features`, best first.

    features float32 [N, H], others float32 [M, H] -> (row numbers int64 [N, k], similarities float32 [N, k]); equal
    ones in row order, k is at most M. A block of rows at a time, so that memory does not grow with N x M.
    """
    features, others = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (features, others)
    )
    k = min(k, len(others))
    rows, similarities = np.empty((len(features), k), np.int64), np.empty((len(features), k), np.float32)
    step = max(1, CELLS // len(others))
    for start in range(0, len(features), step):
        block = features[start : start + step] @ others.T
        kth = -np.partition(-block, k - 1, axis=1)[:, k - 1]
        for i, (values, least) in enumerate(zip(block, kth), start=start):
            best = np.flatnonzero(values >= least)
            best = best[np.argsort(-values[best], kind="stable")][:k]
            rows[i], similarities[i] = best, values[best]
    return rows, similarities


def predict(model, features, tree, decision):
    """(probabilities float32 [N, L], label sets bool [N, L]) from the features, without another run of the encoder."""
    probabilities = sigmoid(features @ model.classifier.weight.numpy() + model.classifier.bias.numpy())
    return probabilities, decide(probabilities, tree, decision)


def result_lines(tree, case, predicted, supports):
    """The lines of one text; supports: [(text, labels, similarity)], best first."""

    def names(labels):
        return ",".join(tree.labels[i] for i in labels or ())

    yield f"text: {case.text.translate(FLAT)}"
    yield f"predict label: {names(predicted)}"
    yield f"label: {names(case.labels)}"
    yield "examples with positive influence"
    for i, (text, labels, similarity) in enumerate(supports, start=1):
        yield f"support{i} text: {text.translate(FLAT)}\tlabel: {names(labels)}\tscore: {similarity:.5f}"


def page_case(tree, case, predicted, probabilities, supports):
    """What the page shows of one text. Labels of train rows are marked by whether the text has them, too."""
    gold = case.labels if case.labels is not None else predicted
    marked = [
        {
            "label": tree.labels[i],
            "probability": float(probabilities[i]),
            "gold": i in gold,
            "predicted": i in predicted,
        }
        for i in sorted({*gold, *predicted})
    ]
    rows = [
        {"text": text, "similarity": float(similarity), "labels": [(tree.labels[i], i in gold) for i in labels]}
        for text, labels, similarity in supports
    ]
    return {"text": case.text, "labelled": case.labels is not None, "labels": marked, "supports": rows}


def main():
    args = parse_args()
    logger, directory = get_logger(), Path(args.dataset_dir)
    tree, tokenizer, decision = open_checkpoint(args.params_path, args.max_seq_length)
    if not directory.is_dir():
        raise InputError(f"--dataset_dir {directory}: no such directory.")
    inputs = [
        directory / args.label_file,
        directory / args.train_file,
        in_directory(directory, args.interpret_input_file),
    ]
    require_same_labels(tree, inputs[0])
    names = {"--interpret_result_file": args.interpret_result_file, "--html_file": args.html_file}
    outputs = {flag: in_directory(directory, name) for flag, name in names.items()}
    require_outputs(outputs, inputs)
    train, cases = load_reported(inputs[1], tree, logger), read_cases(inputs[2], tree, logger)

    set_device(args.device)
    model = load_checkpoint(args.params_path)
    train_features = encode_features(model, tokenizer, train.texts, args.batch_size, "train rows")
    features = encode_features(model, tokenizer, [case.text for case in cases], args.batch_size, "texts")
    probabilities, selected = predict(model, features, tree, decision)
    predicted = [tuple(np.flatnonzero(row).tolist()) for row in selected]
    report_other_predictions(inputs[2], cases, predicted, logger)
    rows, similarities = nearest(features, train_features, args.top_k)
    shown = []
    with atomic_write(outputs["--interpret_result_file"]) as file:
        for i, case in enumerate(cases):
            supports = [
                (train.texts[j], train.labels[j], similarity) for j, similarity in zip(rows[i], similarities[i])
            ]
            file.writelines(f"{line}\n" for line in result_lines(tree, case, predicted[i], supports))
            shown.append(page_case(tree, case, predicted[i], probabilities[i], supports))
    facts = {"texts": inputs[2], "train_rows": inputs[1], "checkpoint": args.params_path}
    with atomic_write(outputs["--html_file"]) as file:
        file.write(render("neighbours.html", title="Nearest train rows", facts=facts, cases=shown))
    logger.info(f"Nearest train rows of {len(cases)} texts saved in {', '.join(map(str, outputs.values()))}")


if __name__ == "__main__":
    run(main)
