"""Every README.md and the README.zh-CN.md beside it: the same commands in both; flags and defaults as in the code.

Nothing is trained here: every script is asked once for its --help. The flag table of a script, in one of the READMEs,
follows the line `<!-- flags: script.py -->` and ends at the next such line or at the next section.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metric import Decision, decide
from utils import LabelTree

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [path.parent for path in sorted(ROOT.rglob("README.zh-CN.md")) if ".venv" not in path.parts]
LANGUAGES = ("README.md", "README.zh-CN.md")
FOLDERS_WITHOUT_DOCUMENTED_FLAGS = {"tests", "benchmarks", "data"}
REQUIRED, OFF, NONE = "required", "off", "–"
IN_ENGLISH = {
    "必填": REQUIRED,
    "关": OFF,
    "与训练时相同": "as in training",
    "全部核": "all cores",
    "检查点中保存的值": "as stored in the checkpoint",
    "检查点中保存的值；训练时与 train.py 相同": "as stored in the checkpoint; in training as in train.py",
    "有预热则 linear，否则 constant": "linear with warm-up, else constant",
}


@pytest.fixture(scope="module", params=LANGUAGES)
def readmes(request):
    """The contents of all READMEs of one language: folder -> text."""
    return {folder: (folder / request.param).read_text(encoding="utf-8") for folder in FOLDERS}


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def both(request):
    """A README in both languages."""
    return [(request.param / name).read_text(encoding="utf-8") for name in LANGUAGES]


@pytest.fixture(scope="module")
def parsers():
    """script -> {flag: default as the tables show it}, in the order of --help."""
    scripts = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        if not any(part[0] == "." or part in FOLDERS_WITHOUT_DOCUMENTED_FLAGS for part in path.relative_to(ROOT).parts)
        and "ArgumentParser(" in path.read_text(encoding="utf-8")
    ]
    environment = os.environ | {"COLUMNS": "1000", "PYTHONIOENCODING": "utf-8"}  # one line for each flag
    running = [
        subprocess.Popen(
            [sys.executable, script, "--help"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
        )
        for script in scripts
    ]
    helps = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(scripts)
    return dict(zip(scripts, map(defaults, helps)))


def defaults(help_text):
    """The flags of a --help text and what the tables give as their default."""
    usage, found = help_text.split("\n\n")[0], {}
    # in brackets, alone or as one of several that exclude each other: flag -> does it take a value?
    optional = {flag: bool(value) for flag, value in re.findall(r"(?:\[|\| )(--\w+)( [^|\]])?", usage)}
    for flag, rest in re.findall(r"^  (?:-\w, )?(--\w+)(.*(?:\n {10,}.*)*)", help_text, re.M):
        default = re.search(r"\(default: (.*)\)\s*$", rest)
        if flag not in optional:
            found[flag] = REQUIRED
        elif not optional[flag]:
            found[flag] = OFF
        else:
            found[flag] = default[1] if default else NONE
    del found["--help"]
    return found


def fenced(text, language=None):
    """The contents of the ``` blocks, of all languages or of one ("": those without)."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [content for name, content in blocks if language in (None, name)]


def bash_lines(text):
    """The commands of the ```bash blocks as lists of words, without comments."""
    lines = "".join(fenced(text, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def flag_tables(text):
    """script -> {flag: default cell, in English and without code marks}."""
    tables = {}
    for script, rest in re.findall(r"^<!-- flags: (\S+) -->\n(.*?)(?=^<!-- |^##|\Z)", text, re.M | re.S):
        rows = re.findall(r"^\| `(--\w+)` \| (.*?) \| .+ \|$", rest, re.M)
        tables[script] = {flag: IN_ENGLISH.get(cell, cell.strip("`")) for flag, cell in rows}
        assert len(tables[script]) == len(rows), f"{script}: a flag is in its table twice"
    return tables


def test_same_commands_in_both_languages(both):
    english, chinese = map(bash_lines, both)
    assert english == chinese and english


def test_commands_name_scripts_and_flags_that_exist(readmes, parsers):
    seen = set()
    for words in bash_lines("\n".join(readmes.values())):
        if words[0] == "bash":
            assert (ROOT / words[1]).is_file(), words
        for i, word in enumerate(words):
            if not word.endswith(".py"):
                continue
            assert (ROOT / word).is_file(), words
            seen.add(word)
            flags = {part.partition("=")[0] for part in words[i + 1 :] if part.startswith("--")}
            assert word in parsers or word.startswith("benchmarks/"), words
            assert flags <= set(parsers.get(word, flags)), words
    assert parsers.keys() <= seen, "a script without an example"


def test_tables_have_the_flags_and_defaults_of_help(readmes, parsers):
    tables = [flag_tables(text) for text in readmes.values()]
    scripts = [script for table in tables for script in table]
    assert sorted(scripts) == sorted(parsers), "every script has one table"
    for table in tables:
        for script, flags in table.items():
            assert list(flags) == list(parsers[script]), script
            for flag, default in parsers[script].items():
                assert flags[flag] == default, (script, flag)


def test_same_sections_markers_and_figures_in_both_languages(both):
    def outline(text):
        headings = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
        return {
            "headings": headings,
            "markers": re.findall(r"<!-- .*? -->", text),
            "table rows": len(re.findall(r"^\|", text, re.M)),
            "printed by scripts": [block for block in fenced(text) if "INFO] - " in block or "error: " in block],
        }

    english, chinese = map(outline, both)
    assert english == chinese


def test_worked_example(readmes):
    readme = readmes[ROOT]
    probabilities = {label: float(p) for label, p in re.findall(r"^\| ([A-Z#]+) \| (0\.\d+) \|$", readme, re.M)}
    tree = LabelTree(list(probabilities))
    cases = re.findall(r"^\| (?:`(--[^`]+)`|.*raw.*) \| ([A-E#, ]*)\|$", readme, re.M)
    assert len(probabilities) == 5 and len(cases) == 9
    for flags, labels in cases:
        words = iter(flags.split())
        settings = {name[2:]: value for name, value in zip(words, words)}
        for name in settings.keys() - {"decoding"}:
            settings[name] = (float if name == "threshold" else int)(settings[name])
        selected = decide(np.array([list(probabilities.values())]), tree, Decision(**settings))[0]
        assert ", ".join(tree.labels[i] for i in np.flatnonzero(selected)) == labels.strip(), flags


def test_links(readmes):
    for folder, text in readmes.items():
        anchors = {
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)", text, re.M)
        }
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert link[1:] in anchors if link.startswith("#") else (folder / link).is_file(), link


def test_layout(readmes):
    for line in fenced(readmes[ROOT], "")[-1].splitlines():
        assert (ROOT / line.split()[0]).exists(), line
