"""A training file with people's answers put in: every row in its place, all else of it as it was."""

import getpass
import json
from collections import Counter
from typing import NamedTuple

from hierarchical.console import shown
from hierarchical.errors import InputError, Problems, some
from hierarchical.files import read_lines, require_file
from hierarchical.formats import JSON_LINES, TEXT, existing, format_of
from hierarchical.ledger import Decision, Verdict, id_of
from hierarchical.rows import format_rows, parse_rows, read_rows, read_texts

NO_ANSWER = "asked, no answer yet"
NOBODY = Verdict("asked", None, [])


class WholeRow(NamedTuple):
    """A row with all that stands in it.

    labels  names in the order of the tree; None: not labelled
    source  the line as it is, of a file with one row in each line, else None
    others  further fields of a JSON row
    """

    text: str
    labels: tuple | None
    source: str | None
    others: dict


class Merged(NamedTuple):
    """What a training file becomes.

    lines      of the new file: the rows of the old one in their order, then new texts that were labelled
    changed, confirmed, added   how many rows got other labels, were found right, are new
    open       the rows that keep their labels although somebody was asked about them: dicts for a JSON row
    rows       (text, labels by name or None) of each line
    """

    lines: list
    changed: int
    confirmed: int
    added: int
    open: list
    rows: list


def train_path_of(directory, name):
    """The training file; where there is none of that name, that of another format."""
    return existing(directory / name) or directory / name


def read_whole(path, tree):
    """All rows of a file as list[WholeRow], unlabelled ones too. Raises InputError with every bad row."""
    require_file(path, f"A row is: {format_of(path).row}")
    problems = Problems()
    rows = list(read_rows(path, tree, problems, Counter()))
    problems.raise_if_any()
    parsed = [row for row in parse_rows(path, problems) if row.text is not None]
    lines = dict(read_lines(path, problems)) if format_of(path) in (TEXT, JSON_LINES) else {}
    return [
        WholeRow(
            row.text,
            None if row.labels is None else tuple(tree.labels[i] for i in row.labels),
            lines.get(row.line),
            one.others or {},
        )
        for row, one in zip(rows, parsed)
    ]


def line_of(row, labels, path):
    """The line of a row with these labels in a file of this name; where they are the row's own, as it was."""
    form = format_of(path)
    if row.source is not None and _is_of(row.source, form):
        if labels is None or row.labels is not None and set(labels) == set(row.labels):
            return f"{row.source}\n"
        if form is JSON_LINES:
            return json.dumps({**json.loads(row.source), "labels": list(labels)}, ensure_ascii=False) + "\n"
    if form is JSON_LINES and row.others:
        given = {} if labels is None else {"labels": list(labels)}
        return json.dumps({"text": row.text, **given, **row.others}, ensure_ascii=False) + "\n"
    return next(format_rows(path, [(row.text, labels)]))


def _is_of(line, form):
    """Whether a line can stand in a file of this format as it is."""
    return line.lstrip().startswith("{") == (form is JSON_LINES)


def merge_answers(rows, ledger, tree, path, elsewhere=()):
    """The Merged of a training file's WholeRows and the answers in a Ledger.

    path: the file it is written to; elsewhere: ids of texts of dev and test, which never become rows of train; None:
    these rows are no training file, and none are added
    """
    lines, merged, counts, still_open, known = [], [], Counter(), [], {id_of(row.text) for row in rows}
    for row in rows:
        text_id = id_of(row.text)
        verdict = ledger.verdict(text_id)
        labels, why = row.labels, verdict and why_open(text_id, verdict)
        if verdict and verdict.state == "settled":
            given = in_order(verdict.labels, tree, ledger)
            if not given and format_of(path) is TEXT:
                why = "no label applies, which a .txt row can't say: give the files names that end in .jsonl"
            else:
                counts["confirmed" if labels is not None and set(given) == set(labels) else "changed"] += 1
                labels = given
        if why:
            still_open.append({"text": row.text, "labels": list(row.labels or ()), "why": why})
        lines.append(line_of(row, labels, path))
        merged.append((row.text, labels))
    for text, labels in new_rows(ledger, known, elsewhere) if elsewhere is not None else ():
        counts["added"] += 1
        merged.append((text, in_order(labels, tree, ledger)))
        lines += format_rows(path, merged[-1:])
    return Merged(lines, counts["changed"], counts["confirmed"], counts["added"], still_open, merged)


def with_answers(rows, ledger, tree):
    """The Rows of a training file with the labels that were answered in place of those in the file."""
    labels = []
    for text, given in zip(rows.texts, rows.labels):
        verdict = ledger.verdict(id_of(text))
        if verdict and verdict.state == "settled":
            given = tuple(tree.index[name] for name in in_order(verdict.labels, tree, ledger))
        labels.append(given)
    return rows._replace(labels=labels)


def new_rows(ledger, known, elsewhere=()):
    """Yield (text, labels) of the texts that were labelled and are in no file yet. known, elsewhere: ids"""
    for text_id, decisions in ledger.decisions.items():
        verdict = ledger.verdict(text_id)
        if text_id not in known and text_id not in elsewhere and verdict and verdict.state == "settled":
            of_its_own = [one for one in decisions if one.id == text_id]
            if of_its_own and all(one.before is None for one in of_its_own) and verdict.labels:
                yield verdict.opinions[-1].text, verdict.labels


def ids_elsewhere(directory, tree):
    """The ids of the texts of dev and test: what judges a model must not teach it."""
    found = set()
    for path in filter(None, (existing(directory / name) for name in ("dev.txt", "test.txt"))):
        problems = Problems()
        found |= {id_of(text) for text in read_texts(path, tree, problems, Counter()) if text}
    return found


def warn_of_torn(ledger, logger):
    if ledger.torn:
        logger.warning(
            f"{ledger.path}: line {some(list(map(str, ledger.torn)))} has no proper end (a power cut?) and is passed "
            "over; if somebody answered then, the answer has to be given again"
        )


def why_open(text_id, verdict):
    """Why a row keeps its labels, and what to do, in words; None: it does not, or was only asked about."""
    if verdict.state == "edited":
        edited = [one for one in verdict.opinions if id_of(one.text) != text_id]
        return f"{edited[-1].who} edited the text: put it into the training file: {edited[-1].text}"
    who = ", ".join(dict.fromkeys(one.who for one in verdict.opinions))
    if verdict.state == "skipped":
        return f"skipped by {who}: ask somebody else"
    if verdict.state == "disputed":
        said = "; ".join(f"{one.who}: {','.join(one.after) if one.after else one.answer}" for one in verdict.opinions)
        return f"disputed ({said}): talk it over, or give --resolve"
    return NO_ANSWER if verdict.state == "asked" else None


def in_order(labels, tree, ledger):
    """Labels by name in the order of the tree, with their ancestors. Raises InputError for one it does not have."""
    if unknown := [label for label in labels if label not in tree.index]:
        guess = tree.guess(unknown[0])
        raise InputError(
            f"{ledger.path}: an answer has the label {unknown[0]!r}, which label.txt has not{guess and f' ({guess})'}. "
            "Add it to label.txt, or correct it in the ledger."
        )
    return tuple(tree.labels[i] for i in tree.closure([tree.index[label] for label in labels]))


# ---- files that people edit ------------------------------------------------------------------------------------------


def edits_of(path, rows, ledger, tree):
    """([Decision], [text]): what somebody wrote into a file of rows, and its texts that the training file has not.

    rows: the training file's WholeRows. Nothing where the file is as a script left it: the ledger knows more.
    Raises InputError where a text is in the file with different labels.
    """
    if not path.exists() or ledger.is_as_written(path):
        return [], []
    given, of_train, strangers = {}, {id_of(row.text): row.labels for row in rows}, []
    for row in read_whole(path, tree):
        if row.labels is None:
            continue
        text_id = id_of(row.text)
        if text_id not in of_train:
            strangers.append(row.text)
        elif set(given.setdefault(text_id, row).labels) != set(row.labels):
            raise InputError(
                f"{path}: the text {shown(row.text, 40)!r} is in it twice, with different labels. Keep one."
            )
    decisions = []
    for text_id, row in given.items():
        verdict = ledger.verdict(text_id)
        holds = verdict.labels if verdict and verdict.state == "settled" else of_train[text_id]
        asked = [one.before for one in ledger.decisions.get(text_id, ()) if one.via == "dirty.py"]
        written = asked[-1] if asked else of_train[text_id]  # a row that still has these was not edited
        if set(row.labels) not in (set(holds or ()), set(written or ())):
            before = of_train[text_id] or ()
            decisions.append(Decision(text_id, "changed", user(), before, row.labels, row.text, path.name))
    return decisions, strangers


def require_merged(path, rows, ledger, tree):
    """Raise InputError if a file of suspects that is to be written anew holds answers that are nowhere else."""
    decisions, strangers = edits_of(path, rows, ledger, tree)
    if answers := [one.text for one in decisions] + strangers:
        raise InputError(
            f"{path}: {len(answers)} of its rows have been labelled by hand and are not yet merged "
            f"({some([shown(text, 20) for text in answers], 3)}). `--merge` takes them in; or move the file away."
        )


def require_no_answers(path, flag, rows, ledger, tree):
    """Raise InputError if a file that is to be written anew holds labelled rows that are neither in train nor answers.

    rows: the Rows of the training file
    """
    if not path.exists() or ledger.is_as_written(path):
        return
    problems, known = Problems(), set(zip(rows.texts, rows.labels))
    answers = [row for row in read_rows(path, tree, problems, Counter()) if row.labels is not None]
    lost = [
        row.text
        for row in answers
        if (row.text, row.labels) not in known and not (ledger.verdict(id_of(row.text)) or NOBODY).labels
    ]
    if lost or problems.count:
        raise InputError(
            f"{path}: {len(lost) + problems.count} of its rows have labels that are in no other file "
            f"({some([shown(text, 20) for text in lost], 3)}). Put them behind the training rows, or give {flag} "
            "another name; if they are nobody's work, remove the file."
        )


def user():
    """The name of whoever runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # in a container, say
        return "somebody"
