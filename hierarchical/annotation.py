"""The files of two annotation tools: annotations out of their exports, rows and a label tree into files to import.

Exports that are understood; what an export does not say is found out from its records:

    doccano       JSONL, in one file or one per annotator, or JSON:  {"text" or "data": "...", "label": ["...", ...]}
    Label Studio  JSON or JSON-MIN, labels in a Choices or a Taxonomy control. If there are several such controls, the
                  one named "label" counts.
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
from hierarchical.labels import SEPARATOR, LabelTree
from hierarchical.rows import Row

CONTROL = "label"  # the name of the control in the Label Studio projects that import_files() is for
KINDS = ("choices", "taxonomy")
LONGEST_IN_DOCCANO = 100  # characters of a label's name
HOW_TO_EXPORT = "Export JSONL from doccano, or JSON from Label Studio."
WRONG_PROJECT = "In doccano, make a project of the type Text Classification."


class Annotation(NamedTuple):
    """What one annotator said about one text.

    labels: the paths that were chosen, each a tuple of level names; (): no label applies; None: not annotated
    checked: marked as the true answer in the tool, which settles what several annotators disagree about
    """

    text: str
    labels: tuple | None
    annotator: str
    where: str
    checked: bool = False


# ---- exports ---------------------------------------------------------------------------------------------------------


def read_export(path: str | Path, separator: str, keep_empty: bool, problems: Problems) -> list[Annotation]:
    """All annotations of an exported file. Bad records go to `problems`.

    keep_empty: doccano does not tell "not annotated" from "no label applies"; take it for the latter.
    Raises InputError for a file that is no export which can be read without guessing.
    """
    parsed = []  # (Annotation, control -> its labels)
    name, records = Path(path).stem, _records(path, problems)
    for where, record in tqdm(records, desc=name, unit=" records", disable=None, leave=False, delay=1):
        try:
            if isinstance(record, ValueError):
                raise record
            if not isinstance(record, dict):
                raise ValueError(f"a record must be an object {{...}}, not {json.dumps(record)[:40]}")
            parse = _label_studio if isinstance(record.get("data"), dict) else _doccano
            parse = _label_studio_min if "annotation_id" in record else parse
            for text, chosen, annotator, checked in parse(record, name, keep_empty):
                _require_unicode(text)
                paths = {by: tuple(_path(label, separator) for label in of) for by, of in (chosen or {}).items()}
                labels = None if chosen is None else ()
                parsed.append((Annotation(text, labels, str(annotator), where, checked), paths))
        except ValueError as error:
            problems.add(where, None, str(error))
        except (KeyError, TypeError, AttributeError) as error:  # a key is missing or holds something unheard of
            problems.add(where, None, f"not a record of an export that is understood ({error!r}). {HOW_TO_EXPORT}")
    controls = sorted({name for _, paths in parsed for name in paths})
    if len(controls) > 1 and CONTROL not in controls:
        raise InputError(
            f"{path}: labels come from several controls, {', '.join(controls)}, and none is named {CONTROL!r}. In the "
            f'file, replace the name of the one that counts by "{CONTROL}".'
        )
    tasks = [record.keys() for _, record in records if isinstance(record, dict)]
    if tasks and all("annotation_id" in keys and CONTROL not in keys for keys in tasks):
        raise InputError(
            f"{path}: no labels found. They are in a control that is not named {CONTROL!r}? Export JSON, not JSON-MIN."
        )
    control = CONTROL if CONTROL in controls or not controls else controls[0]
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


def _doccano(record: dict, annotator: str, keep_empty: bool) -> Iterator[tuple]:
    text = record.get("data", record.get("text"))
    names = record.get("label", record.get("labels"))
    if not isinstance(text, str):
        raise ValueError(f'no "text" (or "data") in this record, which has: {", ".join(record) or "nothing"}')
    if names is None:
        raise ValueError(f'no "label" in this record, which has: {", ".join(record)}. {WRONG_PROJECT}')
    names = _several(names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"labels must be names, not {json.dumps(names, ensure_ascii=False)[:40]}. {WRONG_PROJECT}")
    yield text, {CONTROL: names} if names or keep_empty else None, annotator, False


def _label_studio(record: dict, _: str, keep_empty: bool) -> Iterator[tuple]:
    text, found = _text_of(record["data"]), False
    for annotation in record["annotations"]:  # its neighbour "predictions" is a model's word, not an annotator's
        if not annotation.get("was_cancelled"):
            found, chosen = True, dict[str, list]()
            for item in annotation["result"]:
                if (kind := item.get("type")) in KINDS:
                    chosen.setdefault(str(item["from_name"]), []).extend(_several(item["value"][kind]))
                elif str(kind).endswith("labels"):
                    raise ValueError(f"labels on parts of the text ({kind}), where Choices or a Taxonomy is needed")
            person = annotation.get("completed_by")
            person = person.get("email", person.get("id")) if isinstance(person, dict) else person
            yield text, chosen, person, bool(annotation.get("ground_truth"))
    if not found:
        yield text, None, None, False


def _label_studio_min(record: dict, _: str, keep_empty: bool) -> Iterator[tuple]:
    value = record.get(CONTROL)  # by any other name, a choice alone could not be told from the task's own fields
    parts = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
    labels = [label for part in parts for kind in KINDS for label in _several(part.get(kind, ()))]
    labels = [value] if isinstance(value, str) else labels
    annotated = record["annotation_id"] is not None  # skipped tasks are not in this form of export
    yield _text_of(record), {CONTROL: labels} if annotated else None, record.get("annotator"), False


def _several(labels: Any) -> Any:
    """What stands for labels as a list; a single name stands for itself, not for its characters."""
    return [labels] if isinstance(labels, str) else labels


def _text_of(data: dict) -> str:
    if not isinstance(data.get("text"), str):
        raise ValueError(f'no "text" among the fields of this task: {", ".join(data)}. Rename the one that holds it.')
    return data["text"]


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text[:40]!r} holds half a character, which no file can hold; correct it") from None


def _path(label: Any, separator: str) -> tuple[str, ...]:
    """A label as a tool has it, a name or the list of its levels, as tuple of level names. Raises ValueError."""
    levels = label.split(separator) if isinstance(label, str) else label
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        raise ValueError(f"a label must be a name or a list of names, not {json.dumps(label, ensure_ascii=False)[:40]}")
    levels = tuple(level.strip() for level in levels)
    name = SEPARATOR.join(levels)
    _require_unicode(name)
    if not all(levels):
        raise ValueError(f"label {name!r} has an empty level; rename it in the tool to parent{separator}child")
    if name.count(SEPARATOR) != len(levels) - 1 or SEPARATOR + "#" in name:
        raise ValueError(
            f"label {name!r}: a level's name holds {SEPARATOR!r} or begins with '#'; rename it in the tool"
        )
    if re.search(r"[\t\r\n]", name):
        raise ValueError(f"label {name!r} has a TAB or a line end in it; rename it in the tool")
    return levels


# ---- files to import -------------------------------------------------------------------------------------------------


def import_files(rows: Sequence[Row], notes: Sequence[str], tree: LabelTree) -> dict[str, tuple[str, str]]:
    """What both tools need to annotate rows: {file name: (what it holds, content)}.

    rows  the labels of a row are shown as a first answer, only the deepest of each branch
    notes shown beside the texts, or []

    doccano_import.jsonl     texts and labels          label_studio_tasks.json   the same, labels as predictions
    doccano_labels.json      the label types           label_studio_config.xml   the labelling interface, a Taxonomy
    """
    lines, tasks = [], []
    for i, row in enumerate(rows):
        above = {ancestor for label in row.labels or () for ancestor in tree.ancestors(label)}
        deepest = [label for label in row.labels or () if label not in above]
        data = {"text": row.text, **({"note": notes[i]} if notes else {})}
        lines.append(json.dumps({**data, "label": [tree.labels[label] for label in deepest]}, ensure_ascii=False))
        task: dict[str, Any] = {"data": data}
        if row.labels is not None:
            value = {"taxonomy": [tree.segments(label) for label in deepest]}
            answer = {"from_name": CONTROL, "to_name": "text", "type": "taxonomy", "value": value}
            task["predictions"] = [{"model_version": "data", "result": [answer]}]
        tasks.append(task)
    types = [{"text": label} for label in tree.labels]
    examples, labels = f"{len(rows)} examples", f"{len(tree)} labels"
    return {
        "doccano_import.jsonl": (examples, "".join(f"{line}\n" for line in lines)),
        "doccano_labels.json": (labels, json.dumps(types, ensure_ascii=False, indent=1)),
        "label_studio_tasks.json": (examples, json.dumps(tasks, ensure_ascii=False, indent=1)),
        "label_studio_config.xml": (labels, _config(tree, bool(notes))),
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
