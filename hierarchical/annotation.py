"""The files of two annotation tools: annotations out of their exports, rows and a label tree into files to import.

Exports that are understood; what an export does not say is found out from its records:

    doccano       JSONL, in one file or one per annotator, or JSON:  {"text" or "data": "...", "label": ["...", ...]}
    Label Studio  JSON or JSON-MIN, labels in a Choices or a Taxonomy control. If there are several such controls, the
                  one named "label" counts. Its annotations may be called completions, as before 1.0, and a task may
                  stand in its annotation, as in messages to a webhook.
Fields and controls of other names can be named, see Fields.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tqdm import tqdm

from hierarchical.errors import InputError, Problems
from hierarchical.files import read_lines, require_file
from hierarchical.formats import short
from hierarchical.labels import SEPARATOR, LabelTree, join_levels, require_unicode
from hierarchical.ledger import id_of
from hierarchical.rows import Row

ROW_ID = "row_id"  # the field in which a row's id goes out and comes back
CONTROL = "label"  # the name of the control in the Label Studio projects that import_files() is for
KINDS = ("choices", "taxonomy")
GIVEN = "data"  # the model_version there of labels that a row has already
LONGEST_IN_DOCCANO = 100  # characters of a label's name
HOW_TO_EXPORT = "Export JSONL from doccano, or JSON from Label Studio."
WRONG_PROJECT = "In doccano, make a project of the type Text Classification."
NAME_THE_TEXT = "--text_field names the one that holds the text."
IDS = "an id, whose name is not in the file. Export with names: JSONL, or in old doccano JSON (Text label)"


class Fields(NamedTuple):
    """Where an export keeps what is looked for.

    text     the field of a record, in Label Studio of a task's data; None: "text" (or "data", in doccano)
    control  the control, or field, of the labels; None: "label", or the only one there is (or "labels", in doccano)
    """

    text: str | None = None
    control: str | None = None


USUAL = Fields()


class Annotation(NamedTuple):
    """What one annotator said about one text.

    labels: the paths that were chosen, each a tuple of level names; (): no label applies; None: not annotated
    checked: marked as the true answer in the tool, which settles what several annotators disagree about
    row_id: that of the row that was sent out (see ledger.py), whatever became of its text; "": not known
    """

    text: str
    labels: tuple | None
    annotator: str
    where: str
    checked: bool = False
    row_id: str = ""


# ---- exports ---------------------------------------------------------------------------------------------------------


def read_export(
    path: str | Path, separator: str, keep_empty: bool, problems: Problems, fields: Fields = USUAL
) -> list[Annotation]:
    """All annotations of an exported file. Bad records go to `problems`.

    keep_empty: doccano does not tell "not annotated" from "no label applies"; take it for the latter.
    Raises InputError for a file that is no export which can be read without guessing.
    """
    return annotations_in(_records(path, problems), path, separator, keep_empty, problems, fields)


def annotations_in(
    records: list[tuple[str, Any]],
    path: str | Path,
    separator: str,
    keep_empty: bool,
    problems: Problems,
    fields: Fields = USUAL,
) -> list[Annotation]:
    """The same of (where, record) that are read already; path: where they come from, for messages."""
    parsed, name = [], Path(path).stem  # (Annotation, control -> its labels)
    for where, record in tqdm(records, desc=name, unit=" records", disable=None, leave=False, delay=1):
        try:
            if isinstance(record, ValueError):
                raise record
            if not isinstance(record, dict):
                raise ValueError(f"a record must be an object {{...}}, not {short(record)}")
            in_task = isinstance(record.get("data"), dict) or isinstance(record.get("task"), dict)
            parse = _label_studio if in_task else _label_studio_min if "annotation_id" in record else _doccano
            row_id = _row_id(record)
            for text, chosen, annotator, checked in parse(record, name, keep_empty, fields):
                require_unicode(text)
                paths = {by: tuple(_path(label, separator) for label in of) for by, of in (chosen or {}).items()}
                labels = None if chosen is None else ()
                parsed.append((Annotation(text, labels, str(annotator), where, checked, row_id), paths))
        except ValueError as error:
            problems.add(where, None, str(error))
        except (KeyError, TypeError, AttributeError):  # something unheard of
            problems.add(where, None, f"not a record of an export that is understood. {HOW_TO_EXPORT}")
    controls = sorted({name for _, paths in parsed for name in paths})
    wanted = fields.control or CONTROL
    if controls and wanted not in controls and (fields.control or len(controls) > 1):
        raise InputError(
            f"{path}: labels come from {', '.join(controls)}, and none of these is named {wanted!r}. --label_control "
            "names the one that counts."
        )
    tasks = [record.keys() for _, record in records if isinstance(record, dict)]
    if tasks and all("annotation_id" in keys and wanted not in keys for keys in tasks):
        raise InputError(
            f"{path}: no labels found, none of the fields is named {wanted!r}. --label_control names the control that "
            f"they come from; or export JSON, not JSON-MIN. The fields are: {', '.join(tasks[0])}."
        )
    control = wanted if wanted in controls or not controls else controls[0]
    return [one._replace(labels=paths[control]) if control in paths else one for one, paths in parsed]


def _records(path: str | Path, problems: Problems) -> list[tuple[str, Any]]:
    """list[(where, parsed JSON)] of a file with JSON lines, of which a bad one is a ValueError, or with a JSON list."""
    require_file(path, HOW_TO_EXPORT)
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise InputError(f"{path}: is a zip file (or a spreadsheet). Unzip it, and pass the .jsonl file(s) in it.")
    before = problems.count
    lines = [(number, line) for number, line in read_lines(path, problems) if line.strip()]
    if problems.count > before:  # not UTF-8
        return []
    start = lines[0][1].lstrip() if lines else ""
    if not start.startswith(("[", "{")):
        if re.match('(.*,)?"?(label|annotation_id)"?(,|$)', start):
            joined = "in doccano's, labels are joined by #, so that A#B##C has two meanings"
            raise InputError(f"{path}: CSV is not read ({joined}). {HOW_TO_EXPORT}")
        raise InputError(f"{path}: neither JSON nor JSON lines; it begins with {start[:30]!r}. {HOW_TO_EXPORT}")
    if start.startswith("["):
        try:
            records = json.loads("\n".join(line for _, line in lines))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not JSON, cut off or edited? {error}. {HOW_TO_EXPORT}") from None
        return [(f"{path}, record {number}", record) for number, record in enumerate(records, start=1)]
    records = []
    for number, line in lines:
        try:
            records.append((f"{path}:{number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            records.append((f"{path}:{number}", ValueError(f"not JSON: {error}")))
    if not any(isinstance(record, dict) for _, record in records):
        raise InputError(f"{path}: not one line of it is an object {{...}} on its own. {HOW_TO_EXPORT}")
    return records


def _row_id(record: dict) -> str:
    """The id that import_files() gave a row, which tools pass on with its other fields; "": there is none."""
    task = record if isinstance(record.get("data"), dict) else record.get("task")
    fields = task.get("data") if isinstance(task, dict) else record
    value = fields.get(ROW_ID) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""


def _doccano(record: dict, annotator: str, keep_empty: bool, fields: Fields) -> Iterator[tuple]:
    text = _text_of(record, [fields.text] if fields.text else ["data", "text"])
    held = [name for name in ([fields.control] if fields.control else ["label", "labels"]) if name in record]
    if not held and any(isinstance(one, dict) and "label" in one for one in record.get("annotations") or ()):
        raise ValueError(f"a label is {record['annotations'][0].get('label')!r} here: {IDS}")
    if not held:
        advice = "--label_control names the one that holds the labels." if len(record) > 1 else WRONG_PROJECT
        raise ValueError(f'no "{fields.control or CONTROL}" in this record, which has: {", ".join(record)}. {advice}')
    names = _several(record[held[0]])
    if isinstance(names, int) or isinstance(names, list) and names and all(isinstance(name, int) for name in names):
        raise ValueError(f"labels must be names, not {short(names)}: {IDS}")
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"labels must be names, not {short(names)}. {WRONG_PROJECT}")
    if names or keep_empty and names == []:
        yield text, {fields.control or CONTROL: names}, annotator, False
    else:  # nobody has come to it, as far as one can tell
        yield text, None, None, False


def _label_studio(record: dict, _: str, keep_empty: bool, fields: Fields) -> Iterator[tuple]:
    task = record if isinstance(record.get("data"), dict) else record["task"]
    skipped_by = None
    if not isinstance(task.get("data"), dict):
        raise ValueError(f'no "data" in this task, which has: {", ".join(task)}. {HOW_TO_EXPORT}')
    text, found = _text_of(task["data"], [fields.text or "text"]), False
    for annotation in _annotations(record, task):
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            skipped_by = _person(annotation) or "somebody"
        else:
            found, chosen = True, dict[str, list]()
            for item in _field(annotation, "result", list, "annotation"):
                if (kind := item.get("type")) in KINDS:
                    value = _field(_field(item, "value", dict, "choice"), kind, (list, str), "choice")
                    chosen.setdefault(_field(item, "from_name", str, "choice"), []).extend(_several(value))
                elif str(kind).endswith("labels"):
                    raise ValueError(f"labels on parts of the text ({kind}), where Choices or a Taxonomy is needed")
            yield text, chosen, _person(annotation), bool(annotation.get("ground_truth"))
    if not found:
        yield text, None, skipped_by, False


def _person(annotation: dict) -> Any:
    """Who made an annotation in Label Studio: an e-mail address, or a number."""
    person = annotation.get("completed_by")
    return person.get("email", person.get("id")) if isinstance(person, dict) else person


def _annotations(record: dict, task: dict) -> list[dict]:
    """What annotators said about a task; its neighbour "predictions" is a model's word, not an annotator's."""
    for holder in (record, task):
        for name in ("annotations", "completions"):
            if name in holder:
                several = _field(holder, name, list, "task")
                if not all(isinstance(annotation, dict) for annotation in several):
                    raise ValueError(f'"{name}" holds {short(several)}, not what was annotated. {HOW_TO_EXPORT}')
                return several
    if isinstance(record.get("annotation"), dict):
        return [record["annotation"]]
    if "result" in record:
        return [record]
    raise ValueError(f'no "annotations" in this task, which has: {", ".join(record)}. {HOW_TO_EXPORT}')


def _label_studio_min(record: dict, _: str, keep_empty: bool, fields: Fields) -> Iterator[tuple]:
    control = fields.control or CONTROL  # without a name, a choice could not be told from the task's own fields
    value = record.get(control)
    parts = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
    labels = [label for part in parts for kind in KINDS for label in _several(part.get(kind, ()))]
    labels = [value] if isinstance(value, str) else labels
    annotated = record["annotation_id"] is not None  # skipped tasks are not in this form of export
    text = _text_of(record, [fields.text or "text"])
    yield text, {control: labels} if annotated else None, record.get("annotator"), False


def _several(labels: Any) -> Any:
    """What stands for labels as a list; a single name stands for itself, not for its characters."""
    return [labels] if isinstance(labels, str) else labels


def _text_of(holder: dict, names: list[str]) -> str:
    """The text in the first of these fields that is not null."""
    held = [name for name in names if name in holder]
    if not held:
        wanted = " or ".join(f'"{name}"' for name in reversed(names))
        raise ValueError(f"no {wanted} among these fields: {', '.join(holder) or 'none'}. {NAME_THE_TEXT}")
    name = next((name for name in held if holder[name] is not None), held[0])
    if not isinstance(holder[name], str):
        raise ValueError(f'"{name}" is {short(holder[name])}, where a text must stand. {NAME_THE_TEXT}')
    return holder[name]


def _field(holder: Any, name: str, kind: type | tuple, what: str) -> Any:
    """holder[name], which must be of this kind; `what`: what the holder is."""
    if not isinstance(holder, dict) or name not in holder:
        raise ValueError(f'"{name}" is missing in a {what}. {HOW_TO_EXPORT}')
    if not isinstance(holder[name], kind):
        raise ValueError(f'"{name}" of this {what} is {short(holder[name])}. {HOW_TO_EXPORT}')
    return holder[name]


def _path(label: Any, separator: str) -> tuple[str, ...]:
    """A label as a tool has it, a name or the list of its levels, as tuple of level names. Raises ValueError."""
    levels = label.split(separator) if isinstance(label, str) else label
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        raise ValueError(f"a label must be a name or a list of names, not {short(label)}")
    levels = tuple(level.strip() for level in levels)
    if not all(levels):
        name = SEPARATOR.join(levels)
        raise ValueError(f"label {name!r} has an empty level; rename it in the tool to parent{separator}child")
    join_levels(levels)
    return levels


# ---- files to import -------------------------------------------------------------------------------------------------


def import_files(rows: Sequence[Row], notes: Sequence[str], tree: LabelTree) -> dict[str, tuple[str, list[str]]]:
    """What both tools need to annotate rows: {file name: (what it holds, its lines)}.

    rows  the labels of a row are shown as a first answer, only the deepest of each branch
    notes shown beside the texts, or []
    Each has the ledger's id of its text, which comes back with the answer even if the text is edited in the tool.

    doccano_import.jsonl     texts and labels          label_studio_tasks.json   the same, labels as predictions
    doccano_labels.json      the label types           label_studio_config.xml   the labelling interface, a Taxonomy
    """
    lines, tasks = [], []
    for i, row in enumerate(rows):
        above = {ancestor for label in row.labels or () for ancestor in tree.ancestors(label)}
        deepest = [label for label in row.labels or () if label not in above]
        data = {"text": row.text, **({"note": notes[i]} if notes else {}), ROW_ID: id_of(row.text)}
        lines.append(json.dumps({**data, "label": [tree.labels[label] for label in deepest]}, ensure_ascii=False))
        task: dict[str, Any] = {"data": data}
        if row.labels is not None:
            value = {"taxonomy": [tree.segments(label) for label in deepest]}
            answer = {"from_name": CONTROL, "to_name": "text", "type": "taxonomy", "value": value}
            task["predictions"] = [{"model_version": GIVEN, "result": [answer]}]
        tasks.append(task)
    types = [{"text": label} for label in tree.labels]
    examples, labels = f"{len(rows)} examples", f"{len(tree)} labels"
    return {
        "doccano_import.jsonl": (examples, [f"{line}\n" for line in lines]),
        "doccano_labels.json": (labels, [json.dumps(types, ensure_ascii=False, indent=1)]),
        "label_studio_tasks.json": (examples, [json.dumps(tasks, ensure_ascii=False, indent=1)]),
        "label_studio_config.xml": (labels, [_config(tree, bool(notes))]),
    }


def _config(tree: LabelTree, with_notes: bool) -> str:
    """Label Studio's labelling interface for the tree: one Taxonomy, several paths of any depth."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name="text", value="$text")
    taxonomy = ElementTree.SubElement(view, "Taxonomy", name=CONTROL, toName="text", showFullPath="true")
    nodes: dict[int, ElementTree.Element] = {}
    for i in sorted(range(len(tree)), key=lambda i: tree.levels[i]):  # a parent before its children
        above = nodes.get(int(tree.parents[i]), taxonomy)
        nodes[i] = ElementTree.SubElement(above, "Choice", value=tree.segments(i)[-1])
    if with_notes:
        ElementTree.SubElement(view, "Text", name="note", value="$note")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
