"""Rebuild the sample data set, byte for byte.

    python data/make_sample.py [--output_dir data]

A row is drawn from the small tables of sentence patterns in sample_material.py, with a fixed seed.

Writes into --output_dir (UTF-8, LF):
    label.txt             one path per line, levels joined by "##", parents before children
    train.txt, dev.txt    text<TAB>label,label,...    every node of the row is listed, ancestors included (1 to 4)
    data.txt              one unlabelled text per line
    tiny-ernie/vocab.txt  one WordPiece token per line; covers every character of train.txt

Sentence patterns of dev.txt and data.txt never occur in train.txt; the key words of the events do.
"""

import argparse
import os
import random
import re
import string
from collections import namedtuple
from itertools import combinations

from sample_material import CLOSINGS, EVENTS, FRAMES, JOINTS, OPENINGS, OUT_OF_TREE, SLOTS

SEED = 20240601
SEPARATOR = "##"
MAX_LABELS = 4
MIN_LENGTH, MAX_LENGTH = 12, 90  # characters

# Rows per node of each kind, and rows that join two events. A node with children has rows of its own, which stop at
# that level. data.txt also gets the sentences of OUT_OF_TREE.
ROWS = {
    "train": {"leaf": 40, "inner": 30, "root": 25, "two events": 400},
    "dev": {"leaf": 9, "inner": 6, "root": 5, "two events": 60},
    "data": {"leaf": 1, "inner": 2, "root": 2, "two events": 16},
}
# Where a file takes its sentence patterns from.
MATERIAL = {"train": "train", "dev": "dev", "data": "dev"}

# pattern: the sentence before its slots were filled.
Row = namedtuple("Row", "text labels pattern")

LABELS = list(EVENTS)
SLOT = re.compile(r"\{([^{}]+)\}")


def closure(labels):
    """Return `labels` and all their ancestors as a list of paths, in the order of label.txt."""
    closed = set()
    for label in labels:
        names = label.split(SEPARATOR)
        closed.update(SEPARATOR.join(names[:depth]) for depth in range(1, len(names) + 1))
    return [label for label in LABELS if label in closed]


def kind(label):
    """Return "root", "inner" (below a root, with children) or "leaf"."""
    if SEPARATOR not in label:
        return "root"
    return "inner" if any(other.startswith(label + SEPARATOR) for other in LABELS) else "leaf"


def patterns(label, material):
    """Return the list of sentence patterns of `label`; the slot of its key words is written {label}.

    material: "train" or "dev".
    """
    event = EVENTS[label]
    lines = getattr(event, material).strip().split("\n")
    if material == "train":
        lines += [frame.replace("{h}", event.headline) for frame in FRAMES]
    return [line.strip().replace("{w}", "{" + label + "}") for line in lines]


def event_pairs():
    """Return the pairs of labels that fit into one row: neither above the other, at most MAX_LABELS when closed."""
    return [
        pair
        for pair in combinations(LABELS, 2)
        if len(closure(pair)) <= MAX_LABELS and not any(set(pair) <= set(closure([label])) for label in pair)
    ]


def fill(pattern, rng):
    """Return `pattern` with its slots filled from left to right; no value is used twice."""
    used = set()
    while match := SLOT.search(pattern):
        name = match[1]
        values = EVENTS[name].words.split() if name in EVENTS else SLOTS[name]
        value = rng.choice([value for value in values if value not in used])
        used.add(value)
        pattern = pattern[: match.start()] + value + pattern[match.end() :]
    return pattern


def draw(body, labels, material, seen, rng):
    """Return a Row: `body` between an opening and a closing, as a text that is not yet in the set `seen`."""
    while True:
        pattern = rng.choice(OPENINGS[material]) + body + rng.choice(CLOSINGS[material])
        text = fill(pattern, rng)
        if MIN_LENGTH <= len(text) <= MAX_LENGTH and text not in seen:
            seen.add(text)
            return Row(text, closure(labels), pattern)


def draw_split(split, seen, rng):
    """Return the shuffled list of Rows of `split`, a key of ROWS. `seen` holds the texts of all splits so far."""
    material = MATERIAL[split]
    rows = []
    for label in LABELS:
        bodies = patterns(label, material)
        # Patterns take turns, so that a short file shows all of them.
        for i in range(ROWS[split][kind(label)]):
            rows.append(draw(bodies[i % len(bodies)], [label], material, seen, rng))
    pairs = event_pairs()
    for _ in range(ROWS[split]["two events"]):
        labels = rng.sample(rng.choice(pairs), 2)  # either event may come first
        first, second = (rng.choice(patterns(label, material)) for label in labels)
        body = rng.choice(JOINTS[material]).replace("{a}", first).replace("{b}", second)
        rows.append(draw(body, labels, material, seen, rng))
    rng.shuffle(rows)
    return rows


def build_rows():
    """Return {"train": [Row], "dev": [Row], "data": [Row]}; the rows of OUT_OF_TREE have no labels."""
    rng = random.Random(SEED)
    seen = set()
    rows = {split: draw_split(split, seen, rng) for split in ROWS}
    rows["data"] += [Row(text, [], text) for text in OUT_OF_TREE]
    rng.shuffle(rows["data"])
    return rows


def build_vocab(texts):
    """Return the WordPiece tokens for `texts` as a list; the index is the token id.

    A Chinese character is a token of its own. Runs of ASCII letters and digits are split into single characters, so
    each of these needs its "##" form as well.
    """
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    alphanumeric = string.digits + string.ascii_lowercase
    # The tokenizer lower-cases; capitals are there for users who switch that off.
    ascii_characters = string.digits + string.ascii_letters + string.punctuation
    characters = sorted(set("".join(texts)) - set(string.whitespace) | set(ascii_characters))
    return special + characters + ["##" + character for character in alphanumeric]


def build_files():
    """Return {file name: list of lines} of all files this script writes."""
    rows = build_rows()
    files = {"label.txt": LABELS}
    for split in ("train", "dev"):
        files[f"{split}.txt"] = [f"{row.text}\t{','.join(row.labels)}" for row in rows[split]]
    files["data.txt"] = [row.text for row in rows["data"]]
    files["tiny-ernie/vocab.txt"] = build_vocab(row.text for row in rows["train"])
    return files


def write_lines(path, lines):
    """Write `lines` to `path` as UTF-8 with LF; a reader sees the old file or the new one, never a part."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.tmp{os.getpid()}"
    with open(temporary, "w", encoding="utf-8", newline="\n") as f:
        f.writelines(line + "\n" for line in lines)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description="Rebuild the synthetic sample data set.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output_dir", default="data", help="folder to write into")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    for name, lines in build_files().items():
        path = os.path.join(args.output_dir, name)
        write_lines(path, lines)
        print(f"{path}: {len(lines)} lines")


if __name__ == "__main__":
    main()
