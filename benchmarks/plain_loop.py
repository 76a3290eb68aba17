"""What main_job.py measures against: the same model trained and applied by a plain loop over the library.

    python benchmarks/plain_loop.py train --dataset_dir data --model_name path/to/encoder --save_dir plain
    python benchmarks/plain_loop.py predict --dataset_dir data --params_path plain --output_file plain.txt

Reads   dataset_dir/{train.txt, dev.txt, label.txt}, to predict data.txt and label.txt, as they are: nothing is checked
Writes  save_dir/    the best model in the library's files; metrics.jsonl, the dev scores of each epoch
        output_file  per text: its text, its labels and their levels, in the order of data.txt

PaddleNLP's Python tokenizer goes over all texts first; batches are shuffled in training, else in the order of the file,
and padded to their longest row; threads and matrix kernels are the libraries' defaults; nothing is compiled, no
gradient clipped. Two things come from the project, because they change the scores but not the time: a rate of its own
for the classifier, and its first bias. So do the tree and the metric, so that the scores mean the same.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader
from paddlenlp.data import Dict, Pad, Stack
from paddlenlp.transformers import AutoModelForSequenceClassification, AutoTokenizer

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from metric import evaluate
from utils import HelpFormatter, LabelTree, levels_text, make_parser


def parse_args(argv):
    parser = make_parser("The same work as a plain loop.")
    shared = argparse.ArgumentParser(add_help=False, formatter_class=HelpFormatter)
    shared.add_argument("--dataset_dir", type=Path, required=True, help="directory of the data files")
    shared.add_argument("--batch_size", type=int, default=32, help="rows per step")
    shared.add_argument("--max_seq_length", type=int, default=128, help="tokens of a text that are read")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", parents=[shared], formatter_class=HelpFormatter)
    train.add_argument("--model_name", required=True, help="model directory with weights, or a name the library knows")
    train.add_argument("--save_dir", type=Path, required=True, help="where the best model goes")
    train.add_argument("--epochs", type=int, default=1, help="passes over the training rows")
    train.add_argument("--learning_rate", type=float, default=3e-4, help="rate of the encoder, constant")
    train.add_argument("--head_learning_rate", type=float, default=5e-3, help="rate of the classifier, constant")
    train.add_argument("--seed", type=int, default=3, help="of row order, dropout and new parameters")
    predict = commands.add_parser("predict", parents=[shared], formatter_class=HelpFormatter)
    predict.add_argument("--params_path", required=True, help="directory the model was saved in")
    predict.add_argument("--output_file", required=True, help="text file with the predictions")
    return parser.parse_args(argv)


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file]


def read_rows(path, tree):
    """(texts, float32 targets [N, L]) of a labelled file."""
    texts, targets = [], []
    for line in read_lines(path):
        text, names = line.split("\t")
        target = np.zeros(len(tree), "float32")
        target[[tree.index[name] for name in names.split(",")]] = 1
        texts.append(text)
        targets.append(target)
    return texts, np.array(targets)


def make_loader(tokenizer, args, texts, targets=None, shuffle=False):
    """Batches as lists of tensors: input_ids, token_type_ids (not for ERNIE-M), then the targets, if there are any."""
    rows = [dict(tokenizer(text, max_length=args.max_seq_length, truncation=True)) for text in texts]
    paddings = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    columns = {name: Pad(axis=0, pad_val=value) for name, value in paddings.items() if name in rows[0]}
    if targets is not None:
        columns["labels"] = Stack()
        rows = [row | {"labels": target} for row, target in zip(rows, targets)]
    sampler = BatchSampler(rows, batch_size=args.batch_size, shuffle=shuffle)
    return DataLoader(rows, batch_sampler=sampler, collate_fn=Dict(columns))


def train(args):
    random.seed(args.seed)
    np.random.seed(args.seed)
    paddle.seed(args.seed)
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    train_texts, train_targets = read_rows(args.dataset_dir / "train.txt", tree)
    dev_texts, dev_targets = read_rows(args.dataset_dir / "dev.txt", tree)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name)
    train_loader = make_loader(tokenizer, args, train_texts, train_targets, shuffle=True)
    dev_loader = make_loader(tokenizer, args, dev_texts, dev_targets)

    model = AutoModelForSequenceClassification.from_pretrained(args.model_name, num_classes=len(tree))
    share = np.clip(train_targets.mean(0), 0.5 / len(train_targets), 1 - 0.5 / len(train_targets))
    model.classifier.bias.set_value(np.log(share / (1 - share)).astype("float32"))
    head = [p for name, p in model.named_parameters() if name.startswith("classifier")]
    encoder = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    groups = [{"params": encoder}, {"params": head, "learning_rate": args.head_learning_rate / args.learning_rate}]
    optimizer = paddle.optimizer.AdamW(learning_rate=args.learning_rate, parameters=groups, weight_decay=0.0)
    criterion = paddle.nn.BCEWithLogitsLoss()

    best, history, step = 0.0, [], 0
    args.save_dir.mkdir(parents=True, exist_ok=True)
    model.train()
    for epoch in range(1, args.epochs + 1):
        for *inputs, labels in train_loader:
            loss = criterion(model(*inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            step += 1
            if step % 5 == 0:
                print(f"global step {step}, epoch: {epoch}, loss: {float(loss):.5f}", flush=True)
        scores = evaluate_loop(model, dev_loader, criterion, tree)
        print(", ".join(f"{name}: {value:.5f}" for name, value in scores.items()), flush=True)
        history.append({"epoch": epoch, **scores})
        (args.save_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in history))
        if scores["macro_f1"] > best:
            best = scores["macro_f1"]
            model.save_pretrained(str(args.save_dir))
            tokenizer.save_pretrained(str(args.save_dir))


@paddle.no_grad()
def evaluate_loop(model, loader, criterion, tree):
    """Loss, micro- and macro-F1 of all batches, at a threshold of 0.5."""
    model.eval()
    losses, probabilities, gold = [], [], []
    for *inputs, labels in loader:
        logits = model(*inputs)
        losses.append(float(criterion(logits, labels)))
        probabilities.append(paddle.nn.functional.sigmoid(logits).numpy())
        gold.append(labels.numpy())
    model.train()
    scores = evaluate(np.concatenate(probabilities) > 0.5, np.concatenate(gold) > 0.5, tree)
    return {"loss": float(np.mean(losses)), "micro_f1": scores["micro_f1"], "macro_f1": scores["macro_f1"]}


@paddle.no_grad()
def predict(args):
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    texts = read_lines(args.dataset_dir / "data.txt")
    tokenizer = AutoTokenizer.from_pretrained(args.params_path)
    model = AutoModelForSequenceClassification.from_pretrained(args.params_path, num_classes=len(tree))
    model.eval()
    predicted = []
    for inputs in make_loader(tokenizer, args, texts):
        probabilities = paddle.nn.functional.sigmoid(model(*inputs)).numpy()
        predicted += [np.flatnonzero(row > 0.5).tolist() for row in probabilities]
    with open(args.output_file, "w", encoding="utf-8") as file:
        for text, labels in zip(texts, predicted):
            print(f"text: {text}", file=file)
            print(f"prediction result: {','.join(tree.labels[i] for i in labels)}", file=file)
            for line in levels_text(tree, labels):
                print(line, file=file)
            print("-" * 20, file=file)


def main(argv=None):
    args = parse_args(argv)
    paddle.set_device("cpu")
    {"train": train, "predict": predict}[args.command](args)


if __name__ == "__main__":
    main()
