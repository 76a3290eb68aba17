"""The rows that analysis/review.py asks about: chosen once, and kept in review_queue.jsonl, so that a restart is quick.

Rows that somebody has picked (--rows_file) are a queue of their own, in review_rows.jsonl.

An item: id and text; made, the time; kinds, of disagreement, suspect, text and control; labels, those it has, by name,
None for a text without; proposal, those a model would give; says, the doubt in words; model, label -> probability;
rank, how many rows are more suspicious; opinions, of a disagreement: [annotator, labels].
"""

import json

import numpy as np

from analysis.merging import with_answers
from analysis.suspects import find_suspects
from analysis.suspicion import Search
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, file_digest
from hierarchical.ledger import LEAST, VOTES, id_of, now

QUEUE, ROWS_QUEUE = "review_queue.jsonl", "review_rows.jsonl"


def read_queue(path, sources):
    """The items of a queue that was made from these very files, else None."""
    try:
        header, *items = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return items if header["sources"] == digests(sources) else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version: it is made anew
        return None


def write_queue(path, items, sources):
    with atomic_write(path) as file:
        for line in ({"sources": digests(sources)}, *items):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def digests(paths):
    return {path.name: file_digest(path) for path in paths if path.is_file()}


def make_queue(train, texts, ledger, tree, predict, args):
    """The items, of Rows and of texts without labels: list of dicts. predict: texts -> of each a Prediction or None."""
    made = now()
    train = with_answers(train, ledger, tree)
    found = find_suspects(train, ledger, tree, "out_of_fold", Search(args.seed), args.margin)
    if not found.order and not texts:
        raise InputError(f"{ledger.path}: everything was checked; a lower --margin asks again.")
    rank = {row: number for number, row in enumerate(found.order)}
    suspects = found.order[: args.dirty_num]
    rng = np.random.default_rng(args.seed)
    control = rng.permutation(sorted(found.order))[: args.control_num].tolist()
    kinds = {row: ["suspect"] for row in suspects}
    for row in control:
        kinds.setdefault(row, []).append("control")
    items = {}
    for row in [*suspects, *control]:
        items.setdefault(id_of(train.texts[row]), _train_item(found, train, row, rank[row], kinds[row]))
    for item in _disagreements(ledger, found, train):
        items[item["id"]] = item
    for item in _text_items(texts, predict, tree):
        items.setdefault(item["id"], item)
    return [{**item, "made": made} for item in items.values()]


def queue_of_rows(rows, tree, predict):
    """The items of Rows that somebody has picked, in their order; predict: as above."""
    items, made = {}, now()
    for rank, (item, labels) in enumerate(zip(_text_items(rows.texts, predict, tree), rows.labels)):
        more = {"kinds": ["suspect"], "labels": [tree.labels[k] for k in labels], "rank": rank, "made": made}
        items.setdefault(item["id"], item | more)
    return list(items.values())


def _train_item(found, train, row, rank, kinds):
    return {
        "id": id_of(train.texts[row]), "text": train.texts[row], "kinds": kinds,
        "labels": [found.tree.labels[k] for k in train.labels[row]], "proposal": found.proposal(row),
        "says": found.says(row), "model": found.model(row), "rank": rank,
    }  # fmt: skip


def _disagreements(ledger, found, train):
    """The train rows on which annotators disagree, with what they said."""
    for row, text in enumerate(train.texts):
        text_id = id_of(text)
        verdict = ledger.verdict(text_id) if text_id in ledger.decisions else None
        if verdict and verdict.state == "disputed":
            item = _train_item(found, train, row, 0, ["disagreement"])
            said = [[one.who, list(one.after or ())] for one in verdict.opinions if one.answer in (*VOTES, "disputed")]
            yield item | {"opinions": said}


def _text_items(texts, predict, tree):
    """Texts to label, with what a model would say."""
    for text, answer in zip(texts, predict(texts)):
        said = {label: p for label, p in answer.probabilities.items() if p >= LEAST} if answer else {}
        chosen = [tree.index[label] for label in answer.labels] if answer else []
        proposal = [tree.labels[k] for k in tree.closure(chosen)]
        yield {
            "id": id_of(text), "text": text, "kinds": ["text"], "labels": None, "proposal": proposal, "says": "",
            "model": said, "rank": 0,
        }  # fmt: skip
