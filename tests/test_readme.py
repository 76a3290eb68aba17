"""Every page.md and the page.zh-CN.md beside it: the same commands in both; flags and defaults as in the code.

Nothing is trained here: every script is asked once for its --help. The flag table of a script, on one of the pages,
follows the line `<!-- flags: script.py -->` and ends at the next such line or at the next section.
"""

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from metric import decide
from tests.typed import ask
from utils import LabelTree, add_decision_arguments, decision_from_arguments, make_parser

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = (".md", ".zh-CN.md")
ALL_PAGES = [  # of every language, also those that have only one
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part[0] == "." or part == "site-packages" for part in path.relative_to(ROOT).parts)
]
PAGES = [  # the English ones that have a Chinese twin, relative to the root and without suffix
    str(path.relative_to(ROOT)).removesuffix(".zh-CN.md") for path in ALL_PAGES if path.name.endswith(".zh-CN.md")
]
FOLDERS_WITHOUT_DOCUMENTED_FLAGS = {"tests", "benchmarks", "data", "hierarchical"}
PAGES_WITHOUT_COMMANDS = {
    "analysis/README",
    "deploy/README",
    "docs/choose",
    "docs/coming-from-paddlenlp",
    "docs/limits-and-questions",
    "docs/speed",
    "docs/threats",
    "few-shot/README",
    "retrieval_based/README",
}
REQUIRED, OFF, NONE = "required", "off", "–"
IN_ENGLISH = {
    "32，在 GPU 上 256": "32, on a GPU 256",
    "必填": REQUIRED,
    "关": OFF,
    "与训练时相同": "as in training",
    "dataset_dir 中的 .cache/tokens": ".cache/tokens in dataset_dir",
    "100，且不少于验证集的批数": "100, and at least as many as dev has batches",
    "全部核": "all cores",
    "放得下多少就多少": "as many as there is room for",
    "窗口的一半": "half a window",
    "检查点中保存的值": "as stored in the checkpoint",
    "检查点中保存的值；训练时与 train.py 相同": "as stored in the checkpoint; in training as in train.py",
    "有预热则 linear，否则 constant": "linear with warm-up, else constant",
    "与 train_path 同目录的 aug.txt": "aug.txt beside train_path",
    "work_dir 中的 search.db": "search.db in work_dir",
}


@pytest.fixture(scope="module", params=LANGUAGES, ids=("english", "chinese"))
def pages(request):
    """All pages of one language: name -> text."""
    return {page: (ROOT / (page + request.param)).read_text(encoding="utf-8") for page in PAGES}


@pytest.fixture(params=PAGES)
def page(request):
    """The name of a page."""
    return request.param


@pytest.fixture
def both(page):
    """A page in both languages."""
    return [(ROOT / (page + suffix)).read_text(encoding="utf-8") for suffix in LANGUAGES]


@pytest.fixture(scope="module")
def parsers():
    """script -> {flag: default as the tables show it}, in the order of --help."""
    scripts = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        if not any(part[0] == "." or part in FOLDERS_WITHOUT_DOCUMENTED_FLAGS for part in path.relative_to(ROOT).parts)
        and "if __name__ ==" in path.read_text(encoding="utf-8")
    ]
    answers = ask("--help", scripts, COLUMNS="1000")  # one line for each flag
    assert [code for _, code in answers.values()] == [0] * len(scripts)
    return {script: defaults(said) for script, (said, _) in answers.items()}


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
    found.pop("--version", None)
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


def prose(text):
    """A page without its ``` blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.*)", prose(text), re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


def links(text):
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'(?:src|srcset|href)="([^"]+)"', prose(text))


def test_same_commands_in_both_languages(both, page):
    english, chinese = map(bash_lines, both)
    assert english == chinese and bool(english) == (page not in PAGES_WITHOUT_COMMANDS)


def test_same_python_in_both_languages(both):
    english, chinese = (fenced(text, "python") for text in both)
    assert [re.sub(r"#.*", "", code) for code in english] == [re.sub(r"#.*", "", code) for code in chinese]
    for code in english:
        compile(code, "example", "exec")


def test_commands_name_scripts_and_flags_that_exist(pages, parsers):
    seen = set()
    for words in bash_lines("\n".join(pages.values())):
        if words[0] == "bash":
            assert (ROOT / words[1]).is_file(), words
        for i, word in enumerate(words):
            if not word.endswith(".py"):
                continue
            assert (ROOT / word).is_file(), words
            seen.add(word)
            own = words[i + 1 :]
            own = own[: own.index("--")] if "--" in own else own  # the rest is for what it starts
            flags = {part.partition("=")[0] for part in own if part.startswith("--")}
            assert word in parsers or word.startswith("benchmarks/"), words
            assert flags <= set(parsers.get(word, flags)), words
    assert parsers.keys() <= seen, "a script without an example"


def test_tables_have_the_flags_and_defaults_of_help(pages, parsers):
    tables = [flag_tables(text) for text in pages.values()]
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


def test_worked_example(pages):
    page = pages["docs/predict"]
    probabilities = {label: float(p) for label, p in re.findall(r"^\| ([A-Z#]+) \| (0\.\d+) \|$", page, re.M)}
    tree = LabelTree(list(probabilities))
    cases = re.findall(r"^\| (?:`(--[^`]+)`|.*raw.*) \| ([A-E#, ]*)\|$", page, re.M)
    assert len(probabilities) == 5 and len(cases) == 14
    parser = make_parser("")
    add_decision_arguments(parser, None)
    for flags, labels in cases:
        decision = decision_from_arguments(parser.parse_args(flags.split()), tree)
        selected = decide(np.array([list(probabilities.values())]), tree, decision)[0]
        assert ", ".join(tree.labels[i] for i in np.flatnonzero(selected)) == labels.strip(), flags


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    text = path.read_text(encoding="utf-8")
    chinese = path.name.endswith(".zh-CN.md")
    for link in links(text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link
        if chinese and target.suffix == ".md" and not target.name.endswith(".zh-CN.md"):
            twin = target.with_suffix(".zh-CN.md")
            assert not twin.exists() or twin == path, f"{link} has a Chinese twin"
        if not chinese and target.name.endswith(".zh-CN.md"):
            assert target == path.with_suffix(".zh-CN.md"), f"{link} is Chinese"


def test_layout(pages):
    for line in fenced(pages["docs/development"], "")[-1].splitlines():
        assert (ROOT / line.split()[0]).exists(), line


def test_front_page_is_short_and_names_every_script(pages, parsers):
    assert len(pages["README"].splitlines()) <= 180
    named = []
    for row in re.findall(r"^\| (`\S+\.py`.*?|`\S+/`.*?) \|", pages["README"], re.M):
        folder, *names = re.findall(r"`(\S+?)`", row)
        named += [folder + name for name in names] if folder.endswith("/") else [folder, *names]
    assert sorted(named) == sorted(parsers)


def test_docs_have_twins_and_are_linked_from_the_front_page():
    docs = {str(path.relative_to(ROOT)) for path in ALL_PAGES if path.parent == ROOT / "docs"}
    twins = {page + suffix for page in PAGES if page.startswith("docs/") for suffix in LANGUAGES}
    assert docs == twins and docs
    for suffix in LANGUAGES:
        front = {link.partition("#")[0] for link in links((ROOT / f"README{suffix}").read_text(encoding="utf-8"))}
        assert {page + suffix for page in PAGES if page.startswith("docs/")} <= front


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_well_formed_and_stand_alone(picture):
    text = picture.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text and "@import" not in text and "url(" not in text.replace("url(#", "")
