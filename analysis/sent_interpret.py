"""Why did it say that? For each text, the train rows that look most alike to the model.

    python analysis/sent_interpret.py --dataset_dir data --params_path checkpoint
    python analysis/sent_interpret.py --dataset_dir data --params_path checkpoint --interpret_input_file dev.txt

Reads   dataset_dir/train.txt             (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/bad_case.txt          of evaluate.py; or rows with or without labels, see cases.py
        params_path/                      the checkpoint, of train.py, prune.py or few-shot/train.py
Writes  dataset_dir/sent_interpret.txt    for every text its predicted and given labels and its nearest train rows
        dataset_dir/sent_interpret.html   the same as a page
        dataset_dir/.cache/               what the encoder gives for 100 texts or more, for the next call

A text's features are what the classifier layer sees of it, and nearness is the cosine of two features' angle: 1 for the
same direction. Wrong labels of near train rows teach the model wrong labels: look for them first.
"""

import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory, read_cases, report_other_predictions
from analysis.features import Features
from analysis.models import feature_logits, load_model, open_checkpoint
from analysis.neighbours import nearest
from analysis.report import render
from hierarchical.checkpoints import require_same_labels
from hierarchical.decisions import probabilities_of
from hierarchical.devices import set_device
from hierarchical.linear import with_linear
from metric import decide
from utils import (
    ON_PAGE,
    add_checkpoint_arguments,
    add_dataset_arguments,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_outputs,
    run,
    shown,
)


def parse_args(argv):
    parser = make_parser("Nearest train rows of texts.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train", compared=True)
    data.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain")
    add_checkpoint_arguments(parser, batch_size=16)
    result = parser.add_argument_group("result")
    result.add_argument("--seed", type=int, default=3, help="accepted for older commands; nothing here is random")
    result.add_argument("--top_k", type=int, default=3, help="train rows for each text")
    result.add_argument("--interpret_result_file", default="sent_interpret.txt", help="a bare name: in dataset_dir")
    result.add_argument("--html_file", default="sent_interpret.html", help="a bare name: in dataset_dir")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, top_k=1)
    return args


def predict(model, features, texts, checkpoint):
    """(probabilities float32 [N, L], label sets bool [N, L]) from the features, without another run of the encoder."""
    logits = with_linear(feature_logits(model, checkpoint.tokenizer, features), checkpoint.linear, texts)
    probabilities = probabilities_of(logits, checkpoint.tree, checkpoint.decision)
    return probabilities, decide(probabilities, checkpoint.tree, checkpoint.decision)


def result_lines(tree, case, predicted, supports):
    """The lines of one text; supports: [(text, labels, similarity)], best first."""

    def names(labels):
        return ",".join(tree.labels[i] for i in labels or ())

    yield f"text: {shown(case.text, ON_PAGE)}"
    yield f"predict label: {names(predicted)}"
    yield f"label: {names(case.labels)}"
    yield "examples with positive influence"
    for i, (text, labels, similarity) in enumerate(supports, start=1):
        yield f"support{i} text: {shown(text, ON_PAGE)}\tlabel: {names(labels)}\tscore: {similarity:.5f}"


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


def main(argv=None):
    args = parse_args(argv)
    logger, checkpoint = get_logger(), open_checkpoint(args.params_path, args.max_seq_length)
    tree, directory = checkpoint.tree, require_directory(args.dataset_dir)
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
    model = load_model(checkpoint)
    kept = Features(checkpoint, model, checkpoint.tokenizer, args.batch_size, directory)
    train_features = kept.of(train.texts, inputs[1], "train rows")
    texts = [case.text for case in cases]
    features = kept.of(texts, inputs[2], "texts")
    probabilities, selected = predict(model, features, texts, checkpoint)
    predicted = [tuple(np.flatnonzero(row).tolist()) for row in selected]
    report_other_predictions(inputs[2], cases, predicted, logger)
    rows, similarities = nearest(features, train_features, args.top_k)
    on_page = []
    with atomic_write(outputs["--interpret_result_file"]) as file:
        for i, case in enumerate(cases):
            supports = [
                (train.texts[j], train.labels[j], similarity) for j, similarity in zip(rows[i], similarities[i])
            ]
            file.writelines(f"{line}\n" for line in result_lines(tree, case, predicted[i], supports))
            on_page.append(page_case(tree, case, predicted[i], probabilities[i], supports))
    facts = {"texts": inputs[2], "train_rows": inputs[1], "checkpoint": args.params_path}
    with atomic_write(outputs["--html_file"]) as file:
        file.write(render("neighbours.html", title="Nearest train rows", facts=facts, cases=on_page))
    logger.info(f"Nearest train rows of {len(cases)} texts saved in {', '.join(map(str, outputs.values()))}")


if __name__ == "__main__":
    run(main)
