"""What --long_text is worth: short rows that are buried in long documents, read in each of the ways.

    python benchmarks/long_documents.py --model_path export --dataset_dir data --rows 300
    python benchmarks/long_documents.py --write data_long --dataset_dir data --rows 4000 --windows 800 --documents 400

Reads   an export or a checkpoint; dataset_dir/dev.txt, of which evenly spread rows are taken; with --write train.txt
        and label.txt
Writes  with --write, a folder to train on: rows of train.txt as they are, some of them in single windows, and in
        documents of both kinds, nine tenths of them in train.jsonl and a tenth in dev.jsonl; label.txt

Two kinds of documents are made of the rows. late: 300 to 500 characters about something else, then the row, then a
sentence or two; its labels are those of the row. several: eight rows, one after the other; its labels are those of them
all, most of which stand late. "alone" is the model on the rows by themselves: the score to reach (of several, what is
predicted for each of the eight, together).

Single windows teach the same for a fraction of the time. Each row gives three: sentences about something else, which no
label applies to; the row amid such sentences; and the row with others, as many as there is room for.

What is about something else are sentences of this project's Chinese pages: one half of them in what is trained on, the
other half in what is scored. A label that is found in them is wrong.

Each way is scored by the stored decision settings, and with one threshold tuned on the documents, by those left out of
the tuning. Windows are joined by the largest logit, as the scripts do, and for comparison by the mean.
"""

import hashlib
import random
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.decisions import probabilities_of
from hierarchical.predictor import Predictor
from metric import decide, dev_cells, evaluate, tuned_decision
from utils import LabelTree, check_minima, load_rows, make_parser, progress_bar, run, write_rows

ROWS_OF_DOCUMENT = 8
DEV_SHARE = 10  # one row in so many that are written
LEAD = 300, 500  # characters before the row
ROOM = 126  # characters of a single window: in Chinese a token each, and two of the 128 are [CLS] and [SEP]
MOST_BESIDE = 11  # further rows of a single window; with twelve of ten characters it is full
NO_PROSE = re.compile(r"```.*?```|^[|#][^\n]*", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
SENTENCE_END = re.compile(r"(?<=。)|\n\s*\n|^- ", re.MULTILINE)


def parse_args(argv):
    parser = make_parser("Score the ways to read long texts on rows buried in long documents.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--model_path", type=Path, help="an export or a checkpoint: score it")
    task.add_argument("--write", type=Path, help="write documents to train on into this folder")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of the rows")
    parser.add_argument("--rows", type=int, default=300, help="rows, and when scoring documents of each kind")
    parser.add_argument("--windows", type=int, default=0, help="with --write: rows in single windows of each kind")
    parser.add_argument("--documents", type=int, default=0, help="with --write: rows in documents of each kind")
    parser.add_argument("--window_stride", type=int, help="of the windows (default: as stored, or half of one)")
    parser.add_argument("--max_windows", type=int, help="of a document (default: as stored, or 16)")
    parser.add_argument("--seed", type=int, default=3, help="of what is put together")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=100, windows=0, documents=0, window_stride=1, max_windows=1, seed=0)
    if max(args.windows, args.documents) > args.rows:
        parser.error("--windows, --documents: they are made of --rows, and cannot be more")
    return args


def other_sentences():
    """(sentences to train with, sentences to score with) of the Chinese pages of docs/, in which no event is told."""
    found = set()
    for page in (ROOT / "docs").glob("*.zh-CN.md"):
        text = LINK.sub(r"\1", NO_PROSE.sub("", page.read_text(encoding="utf-8")))
        sentences = (sentence.replace("\n", "").strip() for sentence in SENTENCE_END.split(text))
        found.update(sentence for sentence in sentences if sentence.endswith("。") and "`" not in sentence)
    halves = [], []
    for sentence in sorted(found):  # by what it is made of: a page that changes moves no other sentence
        halves[hashlib.sha256(sentence.encode()).digest()[0] % 2].append(sentence)
    return halves


def other_text(sentences, chance, least):
    """Sentences by chance, so many characters at least."""
    found = ""
    while len(found) < least:
        found += chance.choice(sentences)
    return found


def late(texts, gold, sentences, chance):
    """(documents, labels bool [n, L], rows that each is made of): one row each."""
    made = [
        other_text(sentences, chance, chance.randint(*LEAD)) + text + other_text(sentences, chance, 20)
        for text in texts
    ]
    return made, gold, [[i] for i in range(len(texts))]


def several(texts, gold, sentences, chance):
    """The same with ROWS_OF_DOCUMENT rows each, and no other sentences."""
    rows = [chance.sample(range(len(texts)), min(ROWS_OF_DOCUMENT, len(texts))) for _ in texts]
    return ["".join(texts[i] for i in part) for part in rows], np.array([gold[part].any(0) for part in rows]), rows


def other_piece(sentences, chance, length):
    """So many characters of such sentences, begun anywhere, as a window begins; none for 0 or less."""
    start = chance.randrange(ROOM)
    return other_text(sentences, chance, ROOM + length)[start : start + max(0, length)]


def single_windows(texts, gold, sentences, chance):
    """(texts of about a window, labels bool [3 n, L]): of each row without it, with it, with others beside it."""
    made, labels = [], []
    for i, text in enumerate(texts):
        before = chance.randint(0, max(0, ROOM - len(text)))
        after = ROOM - len(text) - before
        part = beside(i, texts, chance)
        made += [
            other_piece(sentences, chance, ROOM),
            other_piece(sentences, chance, before) + text + other_piece(sentences, chance, after),
            "".join(texts[k] for k in part),
        ]
        labels += [np.zeros_like(gold[i]), gold[i], gold[part].any(0)]
    return made, np.array(labels, bool).reshape(-1, gold.shape[1])


def beside(i, texts, chance):
    """The number of a row, and of others, while there is room for them."""
    part = [i]
    for k in chance.sample(range(len(texts)), min(MOST_BESIDE, len(texts))):
        if sum(len(texts[one]) for one in (*part, k)) > ROOM:
            break
        part.append(k)
    return part


def read_rows(path, tree, number):
    """(texts, labels bool [n, L]) of so many evenly spread rows of a file."""
    rows = load_rows(path, tree)
    chosen = np.linspace(0, len(rows.texts) - 1, number).round().astype(int)
    return [rows.texts[i] for i in chosen], rows.multi_hot(len(tree), chosen)


def write_folder(args):
    """The rows, single windows and documents of --write."""
    tree, chance = LabelTree.read(args.dataset_dir / "label.txt"), random.Random(args.seed)
    texts, gold = read_rows(args.dataset_dir / "train.txt", tree, args.rows)
    kept = np.arange(len(texts)) % DEV_SHARE == 0
    args.write.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.jsonl", np.flatnonzero(~kept)), ("dev.jsonl", np.flatnonzero(kept))):
        written = written_of([texts[i] for i in part], gold[part], args, chance)
        write_rows(args.write / name, [(text, [tree.labels[i] for i in np.flatnonzero(row)]) for text, row in written])
    tree.write(args.write / "label.txt")


def written_of(texts, gold, args, chance):
    """[(text, labels bool [L])] in random order: the rows, and what is made of as many of them as is asked for."""
    sentences = other_sentences()[0]
    rows, written = list(range(len(texts))), list(zip(texts, gold))
    for make, number in ((single_windows, args.windows), (late, args.documents), (several, args.documents)):
        part = chance.sample(rows, round(number * len(rows) / args.rows))
        made, labels, *_ = make([texts[i] for i in part], gold[part], sentences, chance)
        written.extend(zip(made, labels))
    chance.shuffle(written)
    return written


def mean_logits(predictor, documents):
    """The mean over a document's windows of each label's logit, float32 [n, L]."""
    rows, owners = predictor.tokenizer.windows.expand(predictor.tokenizer.encode(documents))
    logits = predictor.logits(rows)  # none of them is longer than a window
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    return np.add.reduceat(logits, starts, axis=0) / np.bincount(owners)[:, None]


def show(kind, name, predicted, gold, tree, honest=None, tokens=None):
    scores = evaluate(predicted, gold, tree)
    found = f"{100 * scores['micro_precision']:9.2f} {100 * scores['micro_recall']:6.2f}"
    after = f"  tuned {100 * honest['micro_f1']:6.2f} {100 * honest['macro_f1']:6.2f}" if honest else " " * 21
    read = f"  {tokens:6.1f} tokens a document" if tokens else ""
    print(
        f"{kind:8} {name:14} {100 * scores['micro_f1']:6.2f} {100 * scores['macro_f1']:6.2f}{found}{after}{read}",
        flush=True,
    )


def score(kind, name, logits, gold, predictor, tokens=None):
    tree, decision = predictor.tree, predictor.decision
    probabilities = probabilities_of(logits, tree, decision)
    cells = dev_cells(tree, decision)
    cells.add(probabilities, gold)
    _, honest = tuned_decision(cells.finish(), tree, decision, "global", "macro_f1")
    show(kind, name, decide(probabilities, tree, decision), gold, tree, honest, tokens)


def score_model(args):
    """The table of --model_path."""
    asked = {name: getattr(args, name) for name in ("window_stride", "max_windows")}
    ways = (("cut", {}), ("head_tail", {}), ("windows", asked))
    predictors = {way: Predictor(args.model_path, long_text=way, **more) for way, more in ways}
    cut = predictors["cut"]
    texts, gold = read_rows(args.dataset_dir / "dev.txt", cut.tree, args.rows)
    alone = decide(cut.probabilities(texts), cut.tree, cut.decision)
    print(f"{len(texts)} documents of each kind; {predictors['windows'].tokenizer.windows}")
    print(f"{'':8} {'':14}  micro  macro precision recall")
    for make in (late, several):
        documents, labels, parts = make(texts, gold, other_sentences()[1], random.Random(args.seed))
        lengths = cut.tokenizer.lengths(documents)
        print(f"{make.__name__}: {np.mean(lengths):.0f} tokens a document on average, {max(lengths)} at most")
        show(make.__name__, "alone", np.array([alone[part].any(0) for part in parts]), labels, cut.tree)
        for way, predictor in predictors.items():
            tokens = np.mean([len(ids) for ids in predictor.tokenizer.encode(documents)])
            with progress_bar(len(documents), way) as bar:
                score(make.__name__, way, predictor.text_logits(documents, bar.update), labels, predictor, tokens)
        score(make.__name__, "windows, mean", mean_logits(predictor, documents), labels, predictor)


def main(argv=None):
    args = parse_args(argv)
    if args.write:
        write_folder(args)
    else:
        score_model(args)


if __name__ == "__main__":
    run(main)
