"""annotation.py: exports of doccano and Label Studio as they are and as they go wrong, and the files to import.

The small exports here have the shape of real ones; real ones are read, too, where they are at hand.
"""

import json
import zipfile
from xml.etree import ElementTree

import pytest

from hierarchical.annotation import Fields, import_files, read_export
from hierarchical.ledger import id_of
from tests.conftest import ROOT
from utils import InputError, LabelTree, Problems, Row

REAL = ROOT.parent / "shared" / "data" / "annotation"


def labels_of(path, separator="##", keep_empty=False, fields=Fields()):
    """[(text, label sets as joined paths, or None)] of an export without bad records."""
    problems = Problems()
    annotations = read_export(path, separator, keep_empty, problems, fields)
    problems.raise_if_any()
    return [(a.text, None if a.labels is None else ["##".join(path) for path in a.labels]) for a in annotations]


def faults_of(path, separator="##"):
    problems = Problems()
    read_export(path, separator, False, problems)
    return problems.shown


@pytest.fixture
def export(tmp_path):
    """export(records) writes JSON lines, export(records, "x.json") a JSON list, and returns the path."""

    def write(records, name="all.jsonl"):
        path, lines = tmp_path / name, [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text(f"[{','.join(lines)}]" if name.endswith(".json") else "\n".join(lines), encoding="utf-8")
        return path

    return write


def task(text, *annotations, **more):
    """A task of Label Studio's JSON export; an annotation is a list of paths or a dict that replaces its fields."""
    return {"id": 1, "annotations": [annotation_of(a) for a in annotations], "data": {"text": text, "src": "x"}, **more}


def annotation_of(fields):
    fields = fields if isinstance(fields, dict) else {"result": [answer(fields)] if fields else []}
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, **fields}


def answer(paths, kind="taxonomy", name="label"):
    return {"from_name": name, "to_name": "text", "type": kind, "value": {kind: paths}}


def small(text, **fields):
    """A row of Label Studio's JSON-MIN export."""
    return {"text": text, "src": "news", "id": 1, "annotator": 1, "annotation_id": 1, "created_at": "2026", **fields}


# ---- doccano ---------------------------------------------------------------------------------------------------------


def test_doccano_in_all_its_versions(export):
    records = [
        {"id": 1, "text": "甲", "label": ["体育", "体育##足球"], "Comments": []},
        {"id": 2, "data": "乙", "label": ["财经"]},  # since 1.6.2
        {"id": 3, "data": "丙", "text": "no", "label": "财经"},
        {"id": 4, "text": "丁", "labels": [" 财经 ## 股票 "]},
        {"id": 5, "text": "戊", "label": []},
    ]
    expected = [
        ("甲", ["体育", "体育##足球"]),
        ("乙", ["财经"]),
        ("丙", ["财经"]),
        ("丁", ["财经##股票"]),
        ("戊", None),
    ]
    assert labels_of(export(records)) == labels_of(export(records, "all.json")) == expected
    assert labels_of(export(records), keep_empty=True)[4] == ("戊", [])


def test_another_separator(export):
    assert labels_of(export([{"text": "甲", "label": ["体育 > 足球"]}]), separator=">") == [("甲", ["体育##足球"])]
    assert "'A##B##C': a level's name holds '##'" in faults_of(export([{"text": "甲", "label": ["A##B>C"]}]), ">")[0]


def test_every_bad_record_is_named_with_its_line_and_the_good_ones_are_kept(tmp_path):
    lines = [
        '{"text": "span", "label": [[0, 3, "X"]]}',
        '{"id": 3, "label": ["体育"]}',
        '{"text": "a", "label": ["体育##"]}',
        '{"text": "fine", "label": ["体育"]}',
        "",
        '{"text": "cut off", "label": ["体',
        "[1]",
        '{"text": "half \\ud800", "label": ["体育"]}',
        '{"text": "a", "label": ["A###B"]}',
        '{"text": "a", "annotations": [{"label": 1, "user": 1}]}',
        '{"text": "a", "label": ["A\\nB"]}',
        '{"text": 5, "label": ["A"]}',
        '{"text": "a", "label": 3}',
        '{"text": "a"}',
    ]
    path, problems = tmp_path / "all.jsonl", Problems()
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [annotation.text for annotation in read_export(path, "##", False, problems)] == ["fine"]
    told = {int(line.partition(": ")[0].rpartition(":")[2]): line.partition(": ")[2] for line in problems.shown}
    for line, part in {
        1: "of the type Text Classification",
        2: 'no "text"',
        3: "'体育##' has an empty level",
        6: "not JSON",
        7: "must be an object",
        8: "half a character",
        9: "begins with '#'",
        10: "a label is 1 here: an id, whose name is not in the file. Export with names: JSONL",
        11: "line end",
        12: '"text" is 5, where a text must stand',
        13: "must be names, not 3: an id, whose name is not in the file",
        14: 'no "label"',
    }.items():
        assert part in told.pop(line)
    assert not told


@pytest.mark.parametrize(
    "content, part",
    [
        (b"", "is empty"),
        ("id,text,label,Comments\n1,甲,A#A##B,\n".encode(), "CSV is not read (in doccano's, labels are joined by #"),
        (b'"annotation_id","annotator","text"\n', "CSV is not read"),
        ("甲\t体育\n".encode(), "neither JSON nor JSON lines; it begins with '甲\\t体育'"),
        ("__label__体育 甲\n".encode(), "neither JSON nor JSON lines"),
        (b'{\n "text": "a",\n "label": []\n}\n', "not one line of it is an object"),
        (b'[{"text": "a", "label": ["A"]}, {"te', "not JSON, cut off or edited?"),
        ("甲".encode("utf-16"), "UTF-16"),
        (b'{"text": "\xb9\xfa", "label": []}', "not UTF-8 (as GB18030"),
    ],
)
def test_files_of_another_kind(tmp_path, content, part):
    path = tmp_path / "all.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        labels_of(path)
    assert part in str(error.value) and "all.jsonl" in str(error.value)


def test_a_broken_first_line(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"text\n{"text": "a", "label": ["A"]}\n', encoding="utf-8")
    assert [line.partition(".jsonl:")[2][:10] for line in faults_of(tmp_path / "all.jsonl")] == ["1: not JSO"]


def test_the_zip_file_that_doccano_sends_and_a_missing_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("all.jsonl", '{"text": "a", "label": []}')
    with pytest.raises(InputError, match="Unzip it"):
        labels_of(tmp_path / "all.zip")
    with pytest.raises(InputError, match="no such file"):
        labels_of(tmp_path / "none.jsonl")


# ---- Label Studio ----------------------------------------------------------------------------------------------------


def test_label_studio_json(export):
    tasks = [
        task("甲", [["体育"], ["体育", "足球"]]),
        task("乙", {"result": [answer(["财经##股票", "体育"], "choices")]}),
        task("丙", []),  # submitted without a choice: no label applies
        task("丁"),
        task("庚", {"result": [answer("体育", "choices")]}),  # a name, not characters
        task(
            "戊",
            {"was_cancelled": True, "result": [answer([["体育"]])]},
            predictions=[{"result": [answer([["财经"]])]}],
        ),
        task("己", [["体育"]], [["财经"]]),
    ]
    assert labels_of(export(tasks, "p.json")) == [
        ("甲", ["体育", "体育##足球"]),
        ("乙", ["财经##股票", "体育"]),
        ("丙", []),
        ("丁", None),
        ("庚", ["体育"]),
        ("戊", None),
        ("己", ["体育"]),
        ("己", ["财经"]),
    ]


def test_who_annotated_and_what_is_the_truth(export):
    by_email = {"completed_by": {"id": 7, "email": "a@b"}, "ground_truth": True, "result": [answer([["体育"]])]}
    one, two = read_export(export([task("甲", by_email, [["财经"]])], "p.json"), "##", False, Problems())
    assert (one.annotator, one.checked, two.annotator, two.checked) == ("a@b", True, "1", False)
    assert one.where.endswith("p.json, record 1")


def test_of_several_controls_the_one_named_label_counts(export):
    sure = answer(["unsure"], "choices", "sure")
    both = {"result": [sure, answer([["体育"]]), {"from_name": "note", "type": "textarea", "value": {"text": ["x"]}}]}
    assert labels_of(export([task("甲", both), task("乙", {"result": [sure]})], "p.json")) == [
        ("甲", ["体育"]),
        ("乙", []),
    ]
    only = [task("甲", {"result": [answer([["体育"]], name="topic")]})]
    assert labels_of(export(only, "p.json")) == [("甲", ["体育"])]
    with pytest.raises(InputError, match="labels come from sure, topic, and none of these is named 'label'"):
        labels_of(export([task("甲", {"result": [answer([["体育"]], name="topic"), sure]})], "p.json"))


def test_label_studio_json_min(export):
    rows = [
        small("甲", label="体育"),
        small("乙", label={"choices": ["体育", "体育##足球"]}),
        small("丙", label=[{"taxonomy": [["体育"], ["体育", "足球"]]}]),
        small("丁"),
        small("戊", annotation_id=None, annotator=None),
        small("己", label={"choices": "体育"}),
    ]
    expected = [
        ("甲", ["体育"]),
        ("乙", ["体育", "体育##足球"]),
        ("丙", ["体育", "体育##足球"]),
        ("丁", []),
        ("戊", None),
        ("己", ["体育"]),
    ]
    assert labels_of(export(rows, "p.json")) == expected
    other_name = [small("甲", topic={"choices": ["体育", "财经"]}), small("乙", topic="体育")]
    with pytest.raises(InputError, match="none of the fields is named 'label'. --label_control names .* not JSON-MIN"):
        labels_of(export(other_name, "p.json"))
    assert labels_of(export(other_name, "p.json"), fields=Fields(control="topic")) == [
        ("甲", ["体育", "财经"]),
        ("乙", ["体育"]),
    ]


def test_bad_tasks(export):
    tasks = [
        {"id": 1, "annotations": [], "data": {"content": "甲"}},
        {"id": 2, "data": {"text": "甲"}},
        task("甲", {"result": [{"from_name": "label", "type": "taxonomy", "value": {}}]}),
        task("甲", {"result": [answer([{"start": 0}], "labels")]}),
        task("甲", [["体育", ""]]),
        task("甲", [["体育", "体育##足球"]]),
        task("甲", [["体育", 3]]),
        small(None),
    ]
    told = faults_of(export(tasks, "p.json"))
    parts = (
        'no "text" among these fields: content. --text_field names the one',
        'no "annotations" in this task, which has: id, data',
        '"taxonomy" is missing in a choice',
        "parts of the text (labels)",
        "empty level",
        "holds '##'",
        "a list of names",
        '"text" is null, where a text must stand',
    )
    assert len(told) == len(parts)
    for number, (line, part) in enumerate(zip(told, parts), start=1):
        assert f"p.json, record {number}: " in line and part in line


def test_nothing_is_nothing_everywhere(export):
    """null is no text; as a label it says that nobody has annotated the text."""
    records = [{"text": None, "label": ["A"]}, {"data": None, "text": "乙", "label": None}]
    path = export(records)
    assert faults_of(path) == [f'{path}:1: "text" is null, where a text must stand. --text_field names the one that holds '
                               "the text."]  # fmt: skip
    assert labels_of(export(records[1:])) == labels_of(export(records[1:]), keep_empty=True) == [("乙", None)]


def test_label_studio_before_1_0(export):
    record = task("甲", [["体育"]])
    record["completions"] = [*record.pop("annotations"), annotation_of({"skipped": True, "result": []})]
    assert labels_of(export([record], "p.json")) == [("甲", ["体育"])]


def test_a_task_within_its_annotation(export):
    answered = annotation_of([["体育", "足球"]])
    inner = {"id": 1, "data": {"text": "甲"}}
    messages = [
        {**answered, "task": inner},
        {"action": "ANNOTATION_CREATED", "annotation": answered, "task": inner},
        {"task": {**inner, "annotations": [answered]}},
    ]
    for message in messages:
        assert labels_of(export([message])) == [("甲", ["体育##足球"])]
    assert 'no "data" in this task, which has: id' in faults_of(export([{"task": {"id": 1}, "result": []}]))[0]


def test_fields_of_other_names(export):
    fields = Fields("content", "topics")
    records = [{"text": "no", "content": "甲", "topics": ["体育"], "label": ["财经"]}]
    assert labels_of(export(records), fields=fields) == [("甲", ["体育"])]
    both = {"result": [answer([["体育"]], name="topics"), answer([["财经"]])]}
    record = task("no", both)
    record["data"]["content"] = "甲"
    assert labels_of(export([record], "p.json"), fields=fields) == [("甲", ["体育"])]
    with pytest.raises(InputError, match="labels come from label, topics, and none of these is named 'them'"):
        labels_of(export([record], "p.json"), fields=Fields(control="them"))
    with pytest.raises(InputError, match="labels come from label, and none of these is named 'them'"):
        labels_of(export([task("甲", [["体育"]])], "p.json"), fields=Fields(control="them"))
    told = faults_of(export([{"id": 1, "words": "甲", "topics": []}, {"id": 1, "text": "甲", "topics": []}]))
    assert 'no "text" or "data" among these fields: id, words, topics. --text_field names' in told[0]
    assert 'no "label" in this record, which has: id, text, topics. --label_control names' in told[1]


def test_what_a_label_file_cannot_hold(export):
    assert (
        "'交往==见面' holds '==', which means something in label.txt; rename it"
        in faults_of(export([{"text": "甲", "label": ["交往==见面"]}]))[0]
    )


def test_strange_records_are_told_without_the_words_of_python(export):
    records = [
        {"data": {"text": "甲"}, "annotations": [3]},
        {"data": {"text": "甲"}, "annotations": None},
        {"data": {"text": "甲"}, "annotations": [{"result": 3}]},
        {"data": {"text": "甲"}, "annotations": [{}]},
        {"data": {"text": "甲"}, "annotations": [{"result": [3]}]},
        {"data": {"text": "甲"}, "annotations": [{"result": [{"type": "choices", "value": None}]}]},
        {"text": "甲", "annotations": 3, "label": {}},
        {"text": "甲", "annotations": [{"label": 1}], "label": {}},
        {"annotation_id": 3, "text": "甲", "label": [3]},
        {"text": "甲", "annotations": 3},
        {"task": 3, "text": "甲"},
    ]
    told = faults_of(export(records, "p.json"))
    assert len(told) == len(records)
    for line in told:
        assert not any(word in line for word in ("KeyError", "TypeError", "AttributeError", "object", "NoneType")), line


@pytest.mark.skipif(not REAL.is_dir(), reason="no real exports on this machine")
@pytest.mark.parametrize(
    "name",
    [
        "doccano_JSONL/all.jsonl",
        "doccano_JSON/all.json",
        "doccano_noncollab_JSONL/admin.jsonl",
        "labelstudio_choices_JSON.json",
        "labelstudio_choices_JSON_MIN.json",
        "labelstudio_taxonomy_JSON.json",
        "labelstudio_taxonomy_JSON_MIN.json",
    ],
)
def test_real_exports(name):
    found = labels_of(REAL / name)
    assert [labels for text, labels in found if text.startswith("央行")] == [["财经##股票"]]
    assert ("国足客场一比一战平对手", ["体育", "体育##足球"]) in found
    (several,) = (labels for text, labels in found if text.startswith("英超"))
    assert set(several) - {"体育", "体育##足球"} == {"体育##足球##英超", "财经##股票"}
    assert [labels for text, labels in found if text == "今天天气不错"] == [[] if "choices" in name else None]
    assert len(found) == (6 if "choices" in name else 5)  # one text was annotated twice


@pytest.mark.skipif(not REAL.is_dir(), reason="no real exports on this machine")
@pytest.mark.parametrize("name", ["doccano_CSV/all.csv", "labelstudio_choices_CSV.csv", "labelstudio_taxonomy_CSV.csv"])
def test_real_csv_exports_are_refused(name):
    with pytest.raises(InputError, match="CSV is not read.*JSONL from doccano, or JSON from Label Studio"):
        labels_of(REAL / name)


# ---- files to import -------------------------------------------------------------------------------------------------

TREE = LabelTree(
    ["财经##股票", "财经", "体育", "体育##足球", "体育##足球##A & B <\"'>"]
)  # not in the order of the tree
ROWS = [Row(1, "甲\n<b>", (0, 1, 2)), Row(2, "乙", (2, 3, 4)), Row(3, "丙", ()), Row(4, "丁", None)]
DEEPEST = [["财经##股票", "体育"], ["体育##足球##A & B <\"'>"], [], []]


@pytest.fixture
def contents():
    return {name: "".join(lines) for name, (_, lines) in import_files(ROWS, [], TREE).items()}


def test_doccano_gets_the_deepest_labels_and_all_label_types(contents):
    lines = [json.loads(line) for line in contents["doccano_import.jsonl"].splitlines()]
    ids = [id_of(row.text) for row in ROWS]
    expected = [{"text": row.text, "row_id": i, "label": deepest} for row, i, deepest in zip(ROWS, ids, DEEPEST)]
    assert lines == expected and len(set(ids)) == len(ROWS)
    assert [kind["text"] for kind in json.loads(contents["doccano_labels.json"])] == TREE.labels


def test_label_studio_gets_predictions_for_rows_that_have_labels(contents):
    tasks = json.loads(contents["label_studio_tasks.json"])
    assert [task["data"] for task in tasks] == [{"text": row.text, "row_id": id_of(row.text)} for row in ROWS]
    assert "predictions" not in tasks[3] and all("annotations" not in task for task in tasks)
    for task_, deepest in zip(tasks[:3], DEEPEST):
        ((result,),) = (prediction["result"] for prediction in task_["predictions"])
        assert (result["from_name"], result["to_name"], result["type"]) == ("label", "text", "taxonomy")
        assert result["value"] == {"taxonomy": [label.split("##") for label in deepest]}


def test_the_labelling_interface_is_the_tree(contents):
    view = ElementTree.fromstring(contents["label_studio_config.xml"])
    taxonomy = view.find("Taxonomy")
    assert taxonomy.attrib == {"name": "label", "toName": "text", "showFullPath": "true"}
    assert view.find("Text").attrib == {"name": "text", "value": "$text"} and len(view) == 2

    def paths(node, above=()):
        for choice in node:
            here = (*above, choice.get("value"))
            yield "##".join(here)
            yield from paths(choice, here)

    found = list(paths(taxonomy))
    assert sorted(found) == sorted(TREE.labels) and len(found) == 5


def test_notes_are_shown_beside_the_texts():
    files = {name: "".join(lines) for name, (_, lines) in import_files(ROWS, ["look", "", "", ""], TREE).items()}
    assert json.loads(files["doccano_import.jsonl"].splitlines()[0])["note"] == "look"
    assert [task["data"]["note"] for task in json.loads(files["label_studio_tasks.json"])] == ["look", "", "", ""]
    assert [text.get("value") for text in ElementTree.fromstring(files["label_studio_config.xml"]).iter("Text")] == [
        "$text",
        "$note",
    ]
