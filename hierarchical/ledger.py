"""What people decided about texts: ledger.jsonl in the data folder, to which lines are only ever added.

    ledger = Ledger(directory)                                        # reads the file, if there is one
    ledger.add([ledger.answer(text, "ann", ["财经"], via="page")])    # one line each, on disk when add() returns
    ledger.verdict(id_of(text)).labels                                # what holds for a text now

A line is a Decision as JSON. Texts are found by `id_of`, a digest of their normalised form, so that row numbers, other
files and blanks do not matter. Two processes may add at once. A line that a power cut left unfinished is passed over.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.errors import InputError
from hierarchical.files import LEDGER, file_digest
from hierarchical.labels import LabelTree
from hierarchical.rows import Rows
from hierarchical.sets import sync

LOCK = ".ledger.lock"
VOTES = ("confirmed", "changed")  # answers that say which labels are right
ANSWERS = ("asked", *VOTES, "skipped", "disputed", "undone")
RESOLUTIONS = ("majority", "newest", "common_ancestor")
LEAST = 0.05  # probabilities of a model below this are not kept
MARGIN = 0.5  # a checked row is asked again when a model contradicts it by this much more than when it was checked
SECONDS = 30  # that another process may hold the file

Labels = tuple[str, ...]  # full names, closed under ancestors


def id_of(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a text in Unicode NFC, with single blanks in the place of white space."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Decision(NamedTuple):
    """One line: who decided what about a text.

    id      of the text that was asked about; `text` is what the annotator's tool gave back, edited perhaps
    answer  asked (by `via`), confirmed, changed, skipped, disputed (nobody can tell), or undone (their last answer)
    before  the labels it had when it was asked about; None: it had none yet, or that is not known
    after   the labels of a confirmed or changed text
    via     what wrote the line: a script, "page", or the name of a file that was edited
    model   label -> probability, as a model said when the text was asked about; below LEAST: left out
    final   marked as the true answer, which settles what others said before
    """

    id: str
    answer: str
    who: str = ""
    before: Labels | None = None
    after: Labels | None = None
    text: str = ""
    via: str = ""
    model: dict[str, float] | None = None
    final: bool = False
    when: str = ""

    @property
    def edited(self) -> bool:
        return bool(self.text) and id_of(self.text) != self.id


class Verdict(NamedTuple):
    """What all that was decided about a text comes to.

    state     settled (with `labels`), disputed, edited, skipped or asked
    opinions  the newest answer of each annotator
    """

    state: str
    labels: Labels | None
    opinions: list[Decision]


# ---- several answers -------------------------------------------------------------------------------------------------


def standing(decisions: Sequence[Decision]) -> list[Decision]:
    """The newest answer of each annotator that was not taken back, the newest last."""
    given: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        if decision.answer == "undone":
            del given[decision.who][-1:]
        elif decision.answer != "asked":
            given[decision.who].append(decision)
    newest = {id(answers[-1]) for answers in given.values() if answers}
    return [decision for decision in decisions if id(decision) in newest]


def resolved(votes: Sequence[Sequence[Any]], how: str | None) -> Sequence[Any] | None:
    """The labels that several sets of labels come to, oldest first; None: they differ, and are not brought together.

    how  majority: the set that most voted for; newest: the last one; common_ancestor: the labels that are in all of
         them, if there are any; None: only what all agree on in full
    """
    sets = [frozenset(vote) for vote in votes]
    if how == "newest" or len(set(sets)) == 1:
        return votes[-1]
    if how == "majority":
        (best, most), (_, second) = Counter(sets).most_common(2)
        return next(vote for vote in votes if frozenset(vote) == best) if most > second else None
    if how == "common_ancestor" and (shared := frozenset.intersection(*sets)):
        return tuple(label for label in votes[0] if label in shared)
    return None


def verdict_of(text_id: str, decisions: Sequence[Decision], resolve: str | None = None) -> Verdict | None:
    """The Verdict on a text from all lines about it; None: there is nothing to say, all was taken back."""
    opinions = standing(decisions)
    opinions = [one for one in opinions if one.final][-1:] or opinions
    edited = [one for one in opinions if one.edited and id_of(one.text) != text_id]
    rest = [one for one in opinions if one not in edited]
    votes = [one.after for one in rest if one.answer in VOTES and one.after is not None]
    open_questions = any(one.answer == "disputed" for one in rest)
    if resolve == "newest" and votes:
        open_questions = rest[-1].answer == "disputed"
    if votes and not open_questions:
        labels = resolved(votes, resolve)
        return Verdict("disputed" if labels is None else "settled", None if labels is None else tuple(labels), opinions)
    if open_questions:
        return Verdict("disputed", None, opinions)
    if edited:
        return Verdict("edited", None, opinions)
    if rest:
        return Verdict("skipped", None, opinions)
    return Verdict("asked", None, []) if any(one.answer == "asked" for one in decisions) else None


# ---- the file --------------------------------------------------------------------------------------------------------


class Ledger:
    """The decisions in a data folder, and who adds to them.

    decisions  id -> its lines, oldest first; an edited text is found by the id it had and by the one it has now
    torn       the numbers of unfinished lines, which were passed over
    """

    def __init__(self, directory: str | Path, resolve: str | None = None) -> None:
        self.path = Path(directory) / LEDGER
        self.resolve = resolve
        self.decisions: dict[str, list[Decision]] = {}
        self.written: dict[str, str] = {}  # file name -> digest of what a script wrote there last
        self.torn: list[int] = []
        self._offset = self._line = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self.decisions)

    def verdict(self, text_id: str) -> Verdict | None:
        """What holds for a text; None: nobody was ever asked."""
        lines = self.decisions.get(text_id)
        return verdict_of(text_id, lines, self.resolve) if lines else None

    def unanswered(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts that nobody was asked about, or has not answered yet."""
        verdicts = ((text, self.verdict(id_of(text))) for text in texts)
        return [text for text, verdict in verdicts if verdict is None or verdict.state == "asked"]

    def answer(self, text: str, who: str, labels: Iterable[str] | None, **others: Any) -> Decision:
        """The Decision that gives a text these labels; None: it is skipped. others: further fields, such as its id.

        It is confirmed if they are those it had when it was asked about.
        """
        text_id = others.pop("id", None) or id_of(text)
        asked = [one for one in self.decisions.get(text_id, ()) if one.answer == "asked"]
        before = others.pop("before", asked[-1].before if asked else None)
        after = None if labels is None else tuple(labels)
        kind = "skipped" if after is None else "changed"
        if after is not None and before is not None and set(before) == set(after):
            kind = "confirmed"
        return Decision(text_id, kind, who, before, after, text, **others)

    def add(self, decisions: Iterable[Decision]) -> int:
        """Put lines at the end, on disk before this returns; how many. One that stands already is not repeated."""
        with self._locked():
            self.refresh()
            new = [one for one in decisions if not self._is_known(one)]
            self._append([_to_json(one._replace(when=one.when or now())) for one in new])
        return len(new)

    def note_written(self, *paths: Path) -> None:
        """Keep what a script has just written into files that people edit, so that their edits can be told."""
        with self._locked():
            self.refresh()
            self._append([{"wrote": path.name, "sha256": file_digest(path), "when": now()} for path in paths])

    def is_as_written(self, path: Path) -> bool:
        """Whether a file is what a script last wrote there."""
        return path.is_file() and self.written.get(path.name) == file_digest(path)

    def refresh(self) -> None:
        """Read the lines that were added since the last time; one that has no end yet is left for the next."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for raw in whole.splitlines(keepends=True):
            self._offset += len(raw)  # line by line: after a bad one the next time goes on
            self._line += 1
            if raw.strip():
                self._take(raw)

    def probabilities(self, text_id: str) -> Mapping[str, float] | None:
        """What a model said of a text when it was last asked about; None: that was not kept."""
        said = [one.model for one in self.decisions.get(text_id, ()) if one.model is not None]
        return said[-1] if said else None

    def rests(self, text_id: str, labels: Iterable[str], model: Mapping[str, float], margin: float = MARGIN) -> bool:
        """Whether a text that was answered needs no second look.

        It gets one when the model now contradicts one of its labels, or wants another, by more than `margin` over what
        it did when the text was asked about. labels: those it has; model: label -> probability now, if above LEAST
        """
        verdict = self.verdict(text_id)
        if verdict is None or verdict.state == "asked":
            return False
        then, has = self.probabilities(text_id), set(labels)
        if then is None or verdict.state != "settled":
            return True

        def against(label: str, said: Mapping[str, float]) -> float:
            return abs((label in has) - said.get(label, 0))

        return all(against(label, model) - against(label, then) <= margin for label in {*has, *then, *model})

    # ---- within ------------------------------------------------------------------------------------------------------

    def _take(self, raw: bytes) -> None:
        try:
            line = json.loads(raw)
        except ValueError:  # cut off, or zeros that were never written
            self.torn.append(self._line)
            return
        if isinstance(line, dict) and isinstance(line.get("wrote"), str) and isinstance(line.get("sha256"), str):
            self.written[line["wrote"]] = line["sha256"]
            return
        decision = _from_json(line, f"{self.path}:{self._line}")
        for text_id in {decision.id, *([id_of(decision.text)] if decision.edited else [])}:
            self.decisions.setdefault(text_id, []).append(decision)

    def _is_known(self, new: Decision) -> bool:
        """An answer that stands already, since when nobody was asked: an export that is read twice says nothing new."""
        if new.answer in ("asked", "undone") or new.model is not None:
            return False
        lines = self.decisions.get(new.id, [])
        mine = next((one for one in standing(lines) if one.who == new.who), None)
        if mine is None or any(one.answer == "asked" for one in lines[lines.index(mine) :]):
            return False
        kinds = {mine.answer, new.answer}
        same = (mine.after, mine.text, mine.final) == (new.after, new.text, new.final)
        return same and (len(kinds) == 1 or kinds <= set(VOTES))

    def _append(self, lines: Sequence[dict]) -> None:
        """One write, then wait for the disk. An unfinished line of a process that was killed is ended first."""
        if not lines:
            return
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8")
        is_new = not self.path.exists()
        with open(self.path, "ab") as file:
            if self.path.stat().st_size > self._offset:  # all whole lines have been read
                content = b"\n" + content
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(self.path.parent)
        self.refresh()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            from filelock import FileLock, Timeout
        except ImportError:
            raise InputError("keeping answers needs the package filelock: pip install filelock") from None
        try:
            with FileLock(self.path.with_name(LOCK).resolve(), timeout=SECONDS):
                yield
        except Timeout:
            raise InputError(f"{self.path}: another process has held it for {SECONDS} s; try again.") from None


def confirmed_rows(ledger: Ledger, rows: Rows, tree: LabelTree) -> set[int]:
    """The numbers of the rows that have the very labels which somebody decided on."""
    found = set()
    for number, (text, labels) in enumerate(zip(rows.texts, rows.labels)):
        verdict = ledger.verdict(id_of(text))
        if not verdict or verdict.labels is None:
            continue
        decided = set(verdict.labels)
        if tree.further and decided <= tree.index.keys():  # maybe from before the labels had further parents
            decided = {tree.labels[i] for i in tree.closure(tree.index[label] for label in decided)}
        if {tree.labels[i] for i in labels} == decided:
            found.add(number)
    return found


def _to_json(decision: Decision) -> dict:
    """The fields that say something."""
    line = {key: value for key, value in decision._asdict().items() if value not in ("", False) and value is not None}
    if decision.model is not None:
        line["model"] = {label: round(float(p), 4) for label, p in decision.model.items() if p >= LEAST}
    return line


def _from_json(line: Any, where: str) -> Decision:
    """A Decision; raises InputError for what no script has written."""
    known = Decision.__annotations__

    def is_good(name: str, value: Any) -> bool:
        if name in ("before", "after"):
            return isinstance(value, list) and all(isinstance(label, str) for label in value)
        if name == "model":
            return isinstance(value, dict) and all(isinstance(p, int | float) for p in value.values())
        return isinstance(value, bool if name == "final" else str)

    if not isinstance(line, dict) or not {"id", "answer"} <= line.keys() or line["answer"] not in ANSWERS:
        raise InputError(
            f"{where}: no decision; a line has an id and an answer ({', '.join(ANSWERS)}). Mend or remove it."
        )
    if wrong := [name for name in line if name in known and not is_good(name, line[name])]:
        raise InputError(
            f"{where}: {wrong[0]!r} is {str(line[wrong[0]])[:40]!r}, which cannot be. Mend or remove the line."
        )
    fields: dict[str, Any] = {name: line[name] for name in line if name in known}
    for name in ("before", "after"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return Decision(**fields)


def now() -> str:
    """The time as it stands in the ledger: such strings are in the order of time."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
