"""Report on a data folder before anyone trains on it: every fault in one go, then numbers and warnings.

    python check_data.py --dataset_dir data
    python check_data.py --dataset_dir data --max_seq_length 256 --model_name path/to/model --output_json report.json

Reads   dataset_dir/{label.txt, train.txt, dev.txt}  (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/test.txt   or test.jsonl or the like, if one is there
        model_name/{vocab.txt, tokenizer_config.json, ...}  for exact token counts, if given
Writes  the report to stdout, and as JSON to --output_json

Exit code 2, and nothing but the faults, if train.py could not read the data; else 0. Each file is read once, row by
row: what is kept of a text is a 64-bit hash (two of a million different texts share one with a probability of 3e-8).
"""

import json
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from hierarchical.encoders import open_tokenizer
from hierarchical.formats import existing, format_of
from hierarchical.sources import local_directory
from utils import (
    FLAT,
    SHOWN,
    InputError,
    LabelTree,
    Problems,
    add_dataset_arguments,
    add_max_seq_length_argument,
    atomic_write,
    check_minima,
    make_parser,
    progress_bar,
    read_rows,
    require_directory,
    require_file,
    run,
    shown,
)

CUT_SHARE = 0.05  # with more cut texts than this, a longer --max_seq_length is worth a thought
UNKNOWN_SHARE, MENDED_SHARE = 0.02, 0.001  # with more unknown tokens than this, or with more that can be mended
UNKNOWN_KEPT = 100_000  # different ones that are counted
# What makes a token, nearly: a Chinese, Japanese or Korean character, a sign, six letters of a Latin word, three of
# another alphabet. Of English prose that is 102 to 104 % of the tokens of BERT's English vocabulary and 92 % of those
# of two Chinese ones, of Chinese news 98 to 99 % of the latter's.
CJK, LATIN = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af", "0-9A-Za-z\u00c0-\u024f\u1e00-\u1eff"
TOKEN = re.compile(rf"[{CJK}]|[{LATIN}]{{1,6}}|[^\W{CJK}{LATIN}]{{1,3}}|[^\w\s]")
RAREST = 10
COMMONEST = 10  # unknown tokens
ONE_PATH = "rows that are one path to a leaf"  # a figure


def parse_args(argv):
    parser = make_parser("Check a data folder before training.")
    add_dataset_arguments(parser, "train", "dev", "test", test="name inside dataset_dir; checked if it is there")
    add_max_seq_length_argument(parser, 128)
    parser.add_argument(
        "--model_name",
        help="to count tokens: a local directory, or a name that models.py has fetched; without it: an estimate",
    )
    parser.add_argument("--output_json", help="write the report to this file as well")
    args = parser.parse_args(argv)
    check_minima(parser, args, max_seq_length=3)
    return args


def estimate(text):
    """(about how many tokens a text has, ends included, []); see TOKEN."""
    return sum(1 for _ in TOKEN.finditer(text)) + 2, []


def token_counter(args):
    """A function text -> (tokens, ends included, list of the unknown ones): exact with a model, else `estimate`."""
    if not args.model_name:
        return estimate
    if not (directory := local_directory(args.model_name)):
        raise InputError(
            f"--model_name {args.model_name}: no such directory, nor fetched by `python models.py get`; "
            "without it, tokens are estimated."
        )
    return open_tokenizer(directory, args.max_seq_length).count


# ---- one pass over a file --------------------------------------------------------------------------------------------


class Split:
    """What one pass over a labelled file leaves behind.

    lines, lengths     of the labelled rows: int64 [n], line number and tokens
    texts, label_sets  int64 [n], hashes of a row's text and of its labels
    rows_with          Counter: labels of a row (tuple of class indices) -> rows that have exactly these
    missing            line -> class indices of the ancestors that the row lacks
    damaged            lines whose text holds U+FFFD, the mark that a conversion leaves for what it could not read
    unknown            Counter: tokens that the model does not know, UNKNOWN_KEPT different ones at most
    mended             unknown token -> what Unicode's compatibility form makes of it, where the model knows that
    """

    def __init__(self, path, name, tree, tokens, problems, unlabelled):
        self.name, self.seen = name, Counter()
        self.rows_with, self.missing, self.damaged, self.unknown = Counter(), {}, [], Counter()
        columns = [array("q") for _ in range(4)]
        lacks = {}
        rows = read_rows(path, tree, problems, self.seen)
        for row in progress_bar(None, name, iterable=rows, unit=" rows", delay=1):
            if row.labels is None:
                if unlabelled == "error":
                    problems.add(path, row.line, f"no label: a row is {format_of(path).row}")
                continue
            if row.labels not in self.rows_with:
                lacks[row.labels] = sorted(set(tree.closure(row.labels)) - set(row.labels))
            self.rows_with[row.labels] += 1
            if lacks[row.labels]:
                self.missing[row.line] = lacks[row.labels]
            if "\ufffd" in row.text:
                self.damaged.append(row.line)
            length, unknown = tokens(row.text)
            self.unknown.update(token for token in unknown if len(self.unknown) < UNKNOWN_KEPT or token in self.unknown)
            for column, value in zip(columns, (row.line, length, hash(row.text), hash(row.labels))):
                column.append(value)
        nfkc = {token: unicodedata.normalize("NFKC", token) for token in self.unknown}
        self.mended = {token: new for token, new in nfkc.items() if new != token and not tokens(new)[1]}
        self.lines, self.lengths, self.texts, self.label_sets = (np.array(column, np.int64) for column in columns)
        if not len(self.lines) and not problems.count:
            problems.add(path, None, f"no labelled row in it; a row is {format_of(path).row}")

    def support(self, tree):
        """Rows per label, int64 [L]."""
        counts = np.zeros(len(tree), np.int64)
        for labels, rows in self.rows_with.items():
            counts[list(labels)] += rows
        return counts

    def first_row_with(self, texts):
        """For each of the given text hashes the number of the first row that has it, or -1: int64 [n]."""
        known, first = np.unique(self.texts, return_index=True)
        at = np.minimum(np.searchsorted(known, texts), len(known) - 1)
        return np.where(known[at] == texts, first[at], -1)

    def repeats(self):
        """(rows whose text has been there before, the first row of each, whether their labels differ)."""
        first = self.first_row_with(self.texts)
        rows = np.flatnonzero(first != np.arange(len(first)))
        return rows, first[rows], self.label_sets[rows] != self.label_sets[first[rows]]

    def share(self, tokens):
        """How much of the texts, in tokens, some of the unknown ones are."""
        return sum(self.unknown[token] for token in tokens) / max(1, int(self.lengths.sum()) - 2 * len(self.lengths))

    def where(self, row):
        return f"{self.name}:{self.lines[row]}"


def read_folder(args, tokens):
    """(LabelTree, the splits). Raises InputError with all faults of all files."""
    folder, faults, tree, splits = require_directory(args.dataset_dir), [], None, []
    try:
        tree = LabelTree.read(folder / args.label_file)
    except InputError as error:
        faults.append(f"{error}\nUntil {args.label_file} is right, the rows of the other files can't be checked.")
    names = [args.train_file, args.dev_file]
    if test := existing(folder / args.test_file):
        names.append(str(Path(args.test_file).with_suffix(test.suffix)))
    for name in names:
        problems = Problems()
        try:
            require_file(folder / name, f"A row is: {format_of(name).row}")
            if tree:  # train.py skips unlabelled rows in all files but the one it learns from
                unlabelled = "error" if name == args.train_file else "skip"
                splits.append(Split(folder / name, name, tree, tokens, problems, unlabelled))
            problems.raise_if_any()
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return tree, splits


# ---- the report ------------------------------------------------------------------------------------------------------


def is_one_path(labels, tree):
    """Whether labels, a row's class indices, are a leaf with all its ancestors, as --decoding path predicts."""
    leaves = [label for label in labels if not tree.children[label]]
    return len(leaves) == 1 and set(labels) == set(tree.closure(leaves))


def figures(split, tree, args):
    """Name -> number, as the table and the JSON file have them."""
    limit = args.max_seq_length
    sizes = np.repeat([len(labels) for labels in split.rows_with], list(split.rows_with.values()))
    at_level = Counter()
    for labels, rows in split.rows_with.items():
        at_level.update(dict.fromkeys(set(tree.levels[list(labels)].tolist()), rows))
    support, (repeats, _, differ) = split.support(tree), split.repeats()

    def quantile(share):
        return int(np.quantile(split.lengths, share, method="higher"))

    return {
        "labelled rows": len(split.lines),
        "blank lines": split.seen["blank"],
        "unlabelled rows": split.seen["unlabelled"],
        "rows that no label applies to": split.rows_with[()],
        **{f"rows with a label of level {level}": at_level[level] for level in range(1, tree.depth + 1)},
        "rows without an ancestor of a label": len(split.missing),
        ONE_PATH: sum(rows for labels, rows in split.rows_with.items() if is_one_path(labels, tree)),
        "labels per row, mean": float(sizes.mean()),
        "labels per row, most": int(sizes.max()),
        "rows per label, least": int(support.min()),
        "rows per label, median": float(np.median(support)),
        "rows per label, most": int(support.max()),
        "labels without a row": int((support == 0).sum()),
        "repeated texts": len(repeats),
        "repeated texts with other labels": int(differ.sum()),
        "tokens, median": quantile(0.5),
        "tokens, 90 % of rows within": quantile(0.9),
        "tokens, 99 % of rows within": quantile(0.99),
        "tokens, longest": quantile(1),
        f"share of rows above {limit} tokens": float((split.lengths > limit).mean()),
        **({"share of unknown tokens": split.share(split.unknown)} if args.model_name else {}),
    }


def unknown_lines(split):
    """Lines about the tokens that the model does not know, the commonest first."""
    for token, count in split.unknown.most_common():
        code = f" (U+{ord(token):04X})" if len(token) == 1 else ""
        mended = f", which NFKC makes {split.mended[token]!r}" if token in split.mended else ""
        yield f"{count:,} times {token[:60]!r}{code}{mended}"


def warnings(tree, splits, args):
    """Yield (what, how many, examples): what train.py can live with, but whoever trains should know."""
    elsewhere = sum(split.support(tree) for split in splits[1:])
    for split in splits:
        name, labels = split.name, tree.labels
        yield f"{name}: blank lines, skipped", split.seen["blank"], ()
        yield f"{name}: rows without a label column, skipped", split.seen["unlabelled"], ()
        unseen = np.flatnonzero(split.support(tree) == 0)
        if split is splits[0]:
            known = [f"{labels[i]}  ({elsewhere[i]} rows in other files)" for i in unseen]
            yield f"{name}: labels without a row, which can't be learned", len(unseen), known
        else:
            yield f"{name}: labels without a row, whose F1 is always 0", len(unseen), [labels[i] for i in unseen]
        lacking = (f"{name}:{line}: add {','.join(labels[i] for i in above)}" for line, above in split.missing.items())
        yield f"{name}: rows without an ancestor of a label, which then counts as absent", len(split.missing), lacking
        rows, first, differ = split.repeats()
        for what, chosen in (("the same", ~differ), ("other", differ)):
            pairs = (f"{split.where(row)} = {split.where(at)}" for row, at in zip(rows[chosen], first[chosen]))
            yield f"{name}: texts that were in it before, with {what} labels", chosen.sum(), pairs
        lines = (f"{name}:{line}" for line in split.damaged)
        yield f"{name}: texts with U+FFFD, damaged when their encoding was converted", len(split.damaged), lines
        cut = split.lengths > args.max_seq_length
        if cut.mean() > CUT_SHARE:
            surely = "texts longer" if args.model_name else "by an estimate, texts longer"
            how = "which are cut (see train.py --long_text)"
            yield f"{name}: {surely} than --max_seq_length {args.max_seq_length}, {how}", cut.sum(), ()
        unknown, mended = (split.share(tokens) for tokens in (split.unknown, split.mended))
        if unknown > UNKNOWN_SHARE or mended > MENDED_SHARE:
            what = f"different tokens that the model does not know, {unknown:.1%} of all; Unicode NFKC would mend"
            yield f"{name}: {what} {mended:.1%}", len(split.unknown), unknown_lines(split)
    for one, other in combinations(splits, 2):
        first = one.first_row_with(other.texts)
        pairs = (f"{other.where(row)} = {one.where(first[row])}" for row in np.flatnonzero(first >= 0))
        yield f"{other.name}: texts that {one.name} holds, too; scores will be too good", (first >= 0).sum(), pairs

    commas = [label for label in tree.labels if "," in label]
    yield f"{args.label_file}: labels with a comma, impossible in .txt rows; use .jsonl or .csv", len(commas), commas
    hidden = [repr(label) for label in tree.labels if any(unicodedata.category(char)[0] == "C" for char in label)]
    yield f"{args.label_file}: labels with characters that can't be seen", len(hidden), hidden
    alike = defaultdict(list)
    for label in tree.labels:
        alike["".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    groups = [" = ".join(group) for group in alike.values() if len(group) > 1]
    yield f"{args.label_file}: groups of labels that differ only in case, width or blanks", len(groups), groups


def main(argv=None):
    args = parse_args(argv)
    tokens = token_counter(args)
    tree, splits = read_folder(args, tokens)
    report = {split.name: figures(split, tree, args) for split in splits}
    found = [(what, int(n), list(islice(some, SHOWN))) for what, n, some in warnings(tree, splits, args) if n]

    print(f"{args.label_file}: {tree.size()}\n")
    print(" " * 36 + "".join(f"{name:>14}" for name in report))
    for name in report[splits[0].name]:
        values = [column[name] for column in report.values()]
        form = "{:>14.1%}" if "share" in name else "{:>14,.2f}" if isinstance(values[0], float) else "{:>14,}"
        print(f"{name:<36}" + "".join(map(form.format, values)))
    if not args.model_name:
        print("tokens: an estimate, from characters and words; --model_name path/to/model counts them")

    if all(column[ONE_PATH] == column["labelled rows"] for column in report.values()):
        print("every row is one path to a leaf: with --decoding path more rows are right as a whole (docs/predict.md)")

    support = splits[0].support(tree)
    rarest = [(int(support[i]), tree.labels[i]) for i in np.argsort(support, kind="stable")[:RAREST]]
    print(f"\nThe rarest labels in {splits[0].name}")
    for rows, label in rarest:
        print(f"{rows:>8,}  {label.translate(FLAT)}")

    for split in splits:
        if split.unknown:
            commonest = ", ".join(
                f"{shown(token, 20)} {count:,}" for token, count in split.unknown.most_common(COMMONEST)
            )
            print(f"\nTokens in {split.name} that the model does not know: {split.unknown.total():,}: {commonest}")

    if any(split.unknown for split in splits):
        print("Those that matter can be added: train.py --add_tokens FILE, with one on each line")

    for number, (what, count, examples) in enumerate(found, start=1):
        print(f"\nWarning {number}. {what}: {count:,}")
        more = [f"... and {count - SHOWN:,} more"] if count > len(examples) > 0 else []
        for example in examples + more:
            print(f"    {example.translate(FLAT)}")
    if args.output_json:
        content = {"labels": len(tree), "files": report, "rarest": rarest, "tokens_estimated": not args.model_name}
        content["warnings"] = [{"message": what, "count": count, "examples": some} for what, count, some in found]
        with atomic_write(args.output_json) as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
    print(f"\nNo fatal fault. {len(found)} {'warning' if len(found) == 1 else 'warnings'}.")


if __name__ == "__main__":
    run(main)
