"""What a project of Label Studio looks like to a model: where its texts are, and how each label is written there.

    project = Project.read(label_config, tree)      # the XML of the project's labelling interface
    project.result(class_indices)                   # a prediction's "result"

Classes are numbered as in the label tree; L of them.
"""

from collections import Counter
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from hierarchical.annotation import CONTROL, KINDS
from hierarchical.errors import InputError
from hierarchical.labels import SEPARATOR, LabelTree

INTERFACE = "the labelling interface"  # of the project, in messages
DEEPEST = 100  # levels of choices


class Project(NamedTuple):
    """The control that takes labels, and the text that it belongs to.

    control, kind   its name, and "choices" or "taxonomy"
    single          it takes one label
    text_name, text_field   the name of the text, and the field of a task's data that holds it
    written         for each class, the path by which the control knows it; None: it does not have it
    """

    tree: LabelTree
    control: str
    kind: str
    single: bool
    text_name: str
    text_field: str
    written: list[tuple[str, ...] | None]

    @classmethod
    def read(cls, label_config: str, tree: LabelTree, control: str | None = None) -> "Project":
        """Of the project's XML. control: the name of the control, see annotation.Fields.

        Raises InputError for an interface that no labels of the tree can be given in.
        """
        if any(mark in label_config for mark in ("<!DOCTYPE", "<![CDATA[")):  # a type may hold entities that unfold
            raise InputError(f"{INTERFACE}: a document type or CDATA in it. Write it without.")
        try:
            root = ElementTree.fromstring(label_config)
        except ElementTree.ParseError as error:
            raise InputError(f"{INTERFACE}: no XML: {error}. Save it again in the project's settings.") from None
        found = control_of(root, control)
        text_name = found.get("toName", "").split(",")[0]
        texts = [one for one in root.iter() if one.get("name") == text_name and one.get("value", "").startswith("$")]
        if not texts:
            raise InputError(
                f'{INTERFACE}: no tag with name="{text_name}" and value="$...", to which the labels belong.'
            )
        written = written_labels(found, tree)
        if not any(written):
            raise InputError(
                f"{INTERFACE}: the control {found.get('name')!r} has none of the model's labels, such as "
                f"{tree.labels[0]!r}. doccano.py --annotate_file writes an interface that has them all."
            )
        is_choices = found.tag == "Choices"
        single = is_choices and not found.get("choice", "single").startswith("multiple")
        text_field = texts[0].get("value", "").removeprefix("$")
        return cls(tree, found.get("name", ""), found.tag.lower(), single, text_name, text_field, written)

    @property
    def missing(self) -> list[str]:
        """The labels that the control does not have."""
        return [label for label, path in zip(self.tree.labels, self.written) if path is None]

    def text_of(self, task: dict) -> str:
        """The text of a task. Raises ValueError for a task without."""
        data = task.get("data")
        text = data.get(self.text_field) if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise ValueError(f'no text in its field "{self.text_field}" of "data"')
        return text

    def result(self, labels: list[int], probabilities: np.ndarray | None = None) -> list[dict]:
        """What an annotator would have chosen who gives these classes; [] for none.

        Of each branch the deepest label that the control has. probabilities [L]: by which one is chosen of several
        where the control takes one
        """
        known = {next((k for k in (i, *self.tree.ancestors(i)[::-1]) if self.written[k]), None) for i in labels}
        known.discard(None)
        above = {k for i in known for k in self.tree.ancestors(i)}
        chosen = sorted(known - above)
        if self.single:
            chosen = sorted(chosen, key=lambda i: 0 if probabilities is None else -probabilities[i])[:1]
        if not chosen:
            return []
        paths = [list(self.written[i]) for i in chosen]
        value = [path[0] if self.kind == KINDS[0] and len(path) == 1 else path for path in paths]
        return [{"from_name": self.control, "to_name": self.text_name, "type": self.kind, "value": {self.kind: value}}]

    def label_of(self, path: tuple[str, ...]) -> str:
        """The label that is written so in the control, or the path's own name where it is none of these."""
        index = next((i for i, written in enumerate(self.written) if written == path), None)
        return SEPARATOR.join(path) if index is None else self.tree.labels[index]


def control_of(root: ElementTree.Element, wanted: str | None) -> ElementTree.Element:
    """The tag of the control that labels are given in; named "label", or the only one. Raises InputError."""
    controls = [one for one in root.iter() if one.tag.lower() in KINDS and one.get("name") and one.get("toName")]
    named = [one for one in controls if one.get("name") == (wanted or CONTROL)]
    if named or (len(controls) == 1 and not wanted):
        return (named or controls)[0]
    names = ", ".join(repr(one.get("name")) for one in controls)
    if not names:
        raise InputError(f"{INTERFACE}: neither a Choices nor a Taxonomy in it. doccano.py --annotate_file writes one.")
    raise InputError(
        f"{INTERFACE}: labels come from {names}, none of which is {wanted or CONTROL!r}; see --label_control."
    )


def written_labels(control: ElementTree.Element, tree: LabelTree) -> list[tuple[str, ...] | None]:
    """The path of each class in a control: its levels, its full name, or its own name if no other class has it.

    Of a control whose choices come from elsewhere ($field, apiUrl) nothing is known: the first for a Taxonomy, the
    second for Choices. Raises InputError for choices nested deeper than any tree.
    """
    options: set[tuple[str, ...]] = set()

    def walk(tag: ElementTree.Element, above: tuple[str, ...]) -> None:
        if len(above) > DEEPEST:
            raise InputError(f"{INTERFACE}: choices nested more than {DEEPEST} levels deep.")
        for choice in tag.findall("Choice"):
            path = (*above, choice.get("alias") or choice.get("value", ""))
            options.add(path)
            walk(choice, path)

    walk(control, ())
    paths = [tuple(tree.segments(i)) for i in range(len(tree))]
    if not options:
        return [path if control.tag == "Taxonomy" else (tree.labels[i],) for i, path in enumerate(paths)]
    ends, written = Counter(path[-1] for path in paths), []
    for label, path in zip(tree.labels, paths):
        ways = (path, (label,), path[-1:] if ends[path[-1]] == 1 else None)
        written.append(next((way for way in ways if way in options), None))
    return written
