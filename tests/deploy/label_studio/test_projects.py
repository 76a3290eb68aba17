"""deploy/label_studio/projects.py: where a project's texts are, and how it writes each label."""

import json

import numpy as np
import pytest

from deploy.label_studio.projects import Project
from hierarchical.annotation import import_files
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.rows import Row

from tests.deploy.label_studio.messages import choices, taxonomy  # isort: skip

TREE = LabelTree(["财经", "财经##股市", "财经##股市##上市", "体育", "体育##胜负", "天气", "天气##预警", "体育##预警"])
TEXT = '<Text name="text" value="$text"/>'
NESTED = 3000 * '<Choice value="财经">' + 3000 * "</Choice>"


def project(control, text=TEXT, wanted=None):
    return Project.read(f"<View>{text}{control}</View>", TREE, wanted)


def of_choices(*names, **attributes):
    flags = "".join(f' {name}="{value}"' for name, value in attributes.items())
    options = "".join(f'<Choice value="{name}"/>' for name in names)
    return project(f'<Choices name="label" toName="text"{flags}>{options}</Choices>')


def test_the_interface_that_doccano_py_writes_has_every_label():
    files = import_files([], [], TREE)
    found = Project.read("".join(files["label_studio_config.xml"][1]), TREE)
    assert (found.control, found.kind, found.text_name, found.text_field) == ("label", "taxonomy", "text", "text")
    assert found.missing == [] and found.written[2] == ("财经", "股市", "上市")
    assert found.result([0, 1, 3]) == taxonomy(("财经", "股市"), ("体育",)) and found.result([]) == []
    assert [found.label_of(path) for path in (("财经", "股市"), ("月亮",))] == ["财经##股市", "月亮"]


def test_a_label_of_several_parents_is_shown_once():
    """上市 is below 天气, too: in a Taxonomy it has the path of its label, and stands for all that is above it."""
    tree = LabelTree(TREE.labels, further=[(2, 5)])
    config = "".join(import_files([Row(1, "x", (0, 1, 2, 5))], [], tree)["label_studio_config.xml"][1])
    assert config.count("上市") == 1
    found = Project.read(config, tree)
    assert found.missing == [] and found.result([0, 1, 2, 5]) == taxonomy(("财经", "股市", "上市"))
    task = "".join(import_files([Row(1, "x", (0, 1, 2, 5))], [], tree)["label_studio_tasks.json"][1])
    assert json.loads(task)[0]["predictions"][0]["result"][0]["value"] == {"taxonomy": [["财经", "股市", "上市"]]}


def test_choices_by_full_names_or_by_own_names_of_one_label():
    found = of_choices("财经##股市", "上市", "预警", "体育", choice="multiple")
    assert found.written == [None, ("财经##股市",), ("上市",), ("体育",), None, None, None, None]
    assert found.missing[1:] == ["体育##胜负", "天气", "天气##预警", "体育##预警"]  # 预警 could be either
    assert found.result([0, 1, 2]) == choices("上市") and found.result([1, 3]) == choices("财经##股市", "体育")
    assert found.result([3, 4]) == choices("体育"), "the label above stands in for one that the control lacks"
    assert found.result([5, 6]) == []
    assert found.label_of(("上市",)) == "财经##股市##上市" and found.label_of(("财经", "股市")) == "财经##股市"


def test_a_single_choice_is_the_likeliest():
    found = of_choices("财经", "体育", "天气")
    p = np.array([0.6, 0, 0, 0.9, 0, 0.7, 0, 0])
    assert found.result([0, 3, 5], p) == choices("体育") and found.result([0, 3, 5]) == choices("财经")
    assert of_choices("财经", "体育", choice="single-radio").single and not of_choices("财经", choice="multiple").single


def test_nested_choices_and_other_names_for_them():
    nested = '<Choice value="财经" alias="x"><Choice value="股市"/></Choice><Choice value="运动" alias="体育"/>'
    found = project(f'<Choices name="label" toName="text" choice="multiple">{nested}</Choices>')
    assert found.written[3] == ("体育",) and found.written[1] is None
    nested = nested.replace(' alias="x"', "")
    found = project(f'<Choices name="label" toName="text" choice="multiple">{nested}</Choices>')
    assert found.result([0, 1, 3]) == choices(["财经", "股市"], "体育")


def test_choices_that_come_from_elsewhere():
    assert project('<Taxonomy name="label" toName="text" apiUrl="x"/>').result([1]) == taxonomy(("财经", "股市"))
    found = project('<Choices name="label" toName="text" value="$all" choice="multiple"/>')
    assert found.result([1]) == choices("财经##股市")


def test_the_control_is_the_one_called_label_or_the_only_one():
    several = "".join(f'<Taxonomy name="{name}" toName="text"/>' for name in ("topic", "label"))
    assert project(several).control == "label" and project(several, wanted="topic").control == "topic"
    assert project('<Taxonomy name="topic" toName="text"/>').control == "topic"
    assert project('<Taxonomy name="label" toName="t"/>', '<Text name="t" value="$content"/>').text_field == "content"


@pytest.mark.parametrize(
    ("control", "text", "wanted", "message"),
    [
        ("<Taxonomy", TEXT, None, "no XML: "),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>", TEXT, None, "a document type"),
        (
            f'<Taxonomy name="label" toName="text">{NESTED}</Taxonomy>',
            TEXT,
            None,
            "more than 100 levels",
        ),
        ('<Labels name="label" toName="text"/>', TEXT, None, "neither a Choices nor a Taxonomy"),
        ('<Taxonomy name="a" toName="text"/><Choices name="b" toName="text"/>', TEXT, None, "from 'a', 'b', none of"),
        ('<Taxonomy name="a" toName="text"/>', TEXT, "topic", "none of which is 'topic'; see --label_control"),
        ('<Taxonomy name="label" toName="text"/>', "", None, 'no tag with name="text" and value='),
        (
            '<Choices name="label" toName="text"><Choice value="月亮"/></Choices>',
            TEXT,
            None,
            "none of the model's labels",
        ),
    ],
)
def test_refused(control, text, wanted, message):
    with pytest.raises(InputError, match="the labelling interface: ") as error:
        project(control, text, wanted)
    assert message in str(error.value)
