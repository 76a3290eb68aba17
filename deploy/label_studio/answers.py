"""What annotators answer in Label Studio, into the ledger of a data folder.

    answers = Answers("my_data", tree)
    answers.add(project, [("body", {"task": {...}, "annotation": {...}})], "Label Studio")  # submitted, or changed
    answers.take_back([17], "Label Studio")                                                 # deleted

An answer names the annotation that it came from, so that nothing has to be remembered but the ledger.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.label_studio.projects import Project
from hierarchical.annotation import GIVEN, ROW_ID, Annotation, Fields, annotations_in
from hierarchical.errors import InputError, Problems
from hierarchical.folders import LINE_BREAKS
from hierarchical.formats import JSON_LINES, existing, format_of
from hierarchical.labels import SEPARATOR, LabelTree
from hierarchical.ledger import Decision, Ledger, id_of, standing
from utils import require_directory


class NotKept(Exception):
    """The ledger can't be read or written now: a full disk, another process that holds it, a line that was edited."""


class Answers:
    """The ledger of a data folder; one thread at a time calls its methods.

    tree: the model's. Raises InputError for a folder whose label.txt has other labels.
    """

    def __init__(self, directory: str | Path, tree: LabelTree) -> None:
        folder = require_directory(directory)
        path = folder / "label.txt"
        if path.exists() and not LabelTree.read(path).is_same(tree):
            how = "Serve a model that was trained on this folder."
            raise InputError(f"{path}: its labels are not those of the model. {how}")
        self.ledger = Ledger(folder)
        train = existing(folder / "train.txt")
        self.keeps_lines = bool(train) and format_of(train) is JSON_LINES

    def add(self, project: Project, records: list[tuple[str, Any]], source: str) -> int:
        """Put annotations into the ledger; how many were new.

        records: (where, {"task", "annotation"}); source: what the annotations are numbered in
        Raises InputError for one that is none, or has a label that the tree has not, and NotKept: then none is kept.
        """
        problems, fields = Problems(), Fields(project.text_field, project.control)
        own = [(where, of_control(project.control, record)) for where, record in records]
        found = annotations_in(own, "body", SEPARATOR, True, problems, fields)
        via = {where: of_annotation(source, record["annotation"].get("id")) for where, record in records}
        decisions = [self._decision(project, one, via[one.where], problems) for one in found if one.annotator != "None"]
        problems.raise_if_any()
        with ledger_at_hand():
            return self.ledger.add(decision for decision in decisions if decision)

    def take_back(self, numbers: list[Any], source: str) -> int:
        """The answers that came from annotations with these numbers hold no more; how many. Raises NotKept."""
        with ledger_at_hand():
            self.ledger.refresh()
        wanted, undone = {of_annotation(source, number) for number in numbers}, []
        for text_id, lines in self.ledger.decisions.items():
            lines = [one for one in lines if one.id == text_id]  # an edited text is found by a second id
            while mine := next((one for one in standing(lines) if one.via in wanted), None):
                lines.append(Decision(text_id, "undone", mine.who, via=mine.via))  # else what it was before would hold
                undone.append(lines[-1])
        with ledger_at_hand():
            return self.ledger.add(undone)

    def given(self, project: Project, tasks: list[dict]) -> list[list[dict]]:
        """For each task the labels that its row had when it was put up for review, as a prediction.

        [] if that is not known, and where the task has come with them.
        """
        self.ledger.refresh()
        return [self._given(project, task) for task in tasks]

    def _given(self, project: Project, task: dict) -> list[dict]:
        shown = task.get("predictions")
        if isinstance(shown, list) and any(isinstance(p, dict) and p.get("model_version") == GIVEN for p in shown):
            return []
        text_id = task["data"].get(ROW_ID)
        lines = self.ledger.decisions.get(text_id if isinstance(text_id, str) else id_of(project.text_of(task)), ())
        before = next((one.before for one in reversed(lines) if one.answer == "asked"), None)
        if before is None:
            return []
        index = project.tree.index
        labels = [index[label] for label in before if label in index]
        return [{"model_version": GIVEN, "result": project.result(labels)}]

    def _decision(self, project: Project, one: Annotation, via: str, problems: Problems) -> Decision | None:
        names, tree = None if one.labels is None else [project.label_of(path) for path in one.labels], project.tree
        if unknown := [name for name in names or () if name not in tree.index]:
            guess = tree.guess(unknown[0])
            problems.add(one.where, None, f"the model has no label {unknown[0]!r}{guess and f' ({guess})'}")
            return None
        text = one.text if self.keeps_lines else LINE_BREAKS.sub(" ", one.text)
        if not text.strip():
            problems.add(one.where, None, "the text is empty")
            return None
        if names is not None:
            names = [tree.labels[i] for i in tree.closure(tree.index[name] for name in names)]
        more = {"id": one.row_id, "via": via, "final": one.checked}
        return self.ledger.answer(text.strip(), one.annotator, names, **more)


@contextmanager
def ledger_at_hand() -> Iterator[None]:
    try:
        yield
    except (InputError, OSError) as error:
        raise NotKept(str(error)) from None


def of_control(control: str, record: dict) -> dict:
    """{"task", "annotation"} with what this control says alone: others, such as a rating, say nothing of labels."""
    annotation = record["annotation"]
    if not isinstance(annotation.get("result"), list):
        return record
    own = [one for one in annotation["result"] if not isinstance(one, dict) or one.get("from_name") in (control, None)]
    return record | {"annotation": annotation | {"result": own}}


def of_annotation(source: str, number: Any) -> str:
    """How the ledger names an annotation, by which its deletion finds it."""
    return f"{source}, annotation {number}"
