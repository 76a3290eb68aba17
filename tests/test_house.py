"""The rules of the layout, held by reading the source: who imports whom, what a script has, what is never called.

Nothing of the project is imported here; the last test runs the scripts, for their --version.
"""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.typed import ask

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("analysis", "benchmarks", "data", "deploy", "few-shot", "hierarchical", "retrieval_based")
IN_THE_ROOT = "train predict prune export_model check_data doccano utils metric convert search models pretrain".split()
DOORS = ("utils.py", "metric.py")  # by which scripts reach the package
PACKAGES = ("analysis", "benchmarks", "deploy", "hierarchical", "retrieval_based")  # and the folders in them
STEPS = "deploy/triton_serving/steps"  # Triton runs copies of these, where the project is not
LONGEST = 450  # lines

HEAVY = {
    "paddle",
    "paddlenlp",
    "onnxruntime",
    "sklearn",
    "matplotlib",
    "pandas",
    "pyarrow",
    "openpyxl",
    "ray",
}  # seconds, or not installed everywhere
LOADS_AT_ONCE = {  # and so is imported inside functions, or typed
    "hierarchical/few_shot.py": {"paddle"},
    "hierarchical/cpu_adamw.py": {"paddle"},
    "hierarchical/cpu_network.py": {"paddle"},
    "hierarchical/cpu_transformer.py": {"paddle"},
    f"{STEPS}/seqcls_model.py": {"onnxruntime"},
    "benchmarks/plain_loop.py": {"paddle", "paddlenlp"},
}
NO_VERSION = {
    "data/make_sample.py": "needs nothing but Python",
    "benchmarks/torch_loop.py": "runs in an environment of its own, without this project",
    "benchmarks/plain_loop.py": "has it, but loads paddle first",
}
RUNS_WHAT_IT_READS = {
    "eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module",
    "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "joblib.load", "paddle.load", "torch.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load",
    "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader",
}  # fmt: skip
RESTRICTED = {  # classes that know arrays alone
    ("hierarchical/weights.py", "pickle.Unpickler"),
    ("hierarchical/torch_files.py", "pickle.Unpickler"),
}

# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    """path from the root -> ast.Module, of every file but the tests."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(paths)}


@pytest.fixture(scope="module")
def scripts(sources):
    """The same of the files that are typed."""
    return {path: tree for path, tree in sources.items() if is_script(tree)}


def is_script(tree):
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def at_import(node):
    """The nodes below one that are run by an import: neither functions nor what is there for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_import(child)


def names_of(node):
    """The dotted names that a node imports; what they are taken from is one of them, the last."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [*(f"{node.module}.{alias.name}" for alias in node.names), node.module]
    return []


def file_of(sources, path, name):
    """The file of ours that a name means within another: one below the root, or beside it; None if it is not ours."""
    for folder in ("", str(Path(path).parent)):
        place = Path(folder, *name.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.as_posix() in sources:
                return file.as_posix()


def imports(sources, path, nodes=None):
    """The files of ours that one imports, in functions too; `nodes`: only among these."""
    found = set()
    for node in ast.walk(sources[path]) if nodes is None else nodes:
        files = [file_of(sources, path, name) for name in names_of(node)]
        if isinstance(node, ast.ImportFrom) and all(files[:-1]):
            files = files[:-1]  # modules of a package: of itself nothing is asked
        found |= {file for file in files if file}
    return found


def made_up(files):
    """The sources of files that are not there: path -> text."""
    return {path: ast.parse(text) for path, text in files.items()}


# ---- who imports whom ------------------------------------------------------------------------------------------------


def imported_scripts(sources):
    return [(path, other) for path in sources for other in imports(sources, path) if is_script(sources[other])]


def circle(sources):
    """Files of which each imports the next one, and the last is the first again; [] if there are none."""
    done = set()

    def search(way):
        for other in sorted(imports(sources, way[-1])):
            if other in way:
                return [*way[way.index(other) :], other]
            if other not in done and (found := search([*way, other])):
                return found
        done.add(way[-1])
        return []

    return next((found for path in sources if path not in done and (found := search([path]))), [])


def test_no_script_is_imported(sources):
    assert imported_scripts(sources) == []


def test_no_circle_of_imports(sources):
    assert circle(sources) == []


def test_what_these_two_would_find():
    def scripts(files):
        typed = dict.fromkeys(["typed.py", "a/typed.py"], "if __name__ == '__main__':\n    main()")
        return imported_scripts(made_up(typed | files))

    assert scripts({"a/b.py": "from a import typed"}) == [("a/b.py", "a/typed.py")]
    assert scripts({"a/b.py": "def f():\n    from a.typed import main"}) == [("a/b.py", "a/typed.py")]
    assert scripts({"b.py": "import typed as t", "c.py": "import a.c"}) == [("b.py", "typed.py")]
    assert circle(made_up({"a.py": "import b", "b.py": "import c", "c.py": ""})) == []
    assert circle(made_up({"a.py": "import a"})) == ["a.py", "a.py"]
    files = {"a.py": "import b", "b.py": "from c.d import x", "c/d.py": "def f():\n    from c import e"}
    assert circle(made_up(files | {"c/e.py": "import b"})) == ["b.py", "c/d.py", "c/e.py", "b.py"]
    files = {"a/__init__.py": "def f():\n    from a import b", "a/b.py": "from a import VERSION"}
    assert circle(made_up(files)) == ["a/__init__.py", "a/b.py", "a/__init__.py"]
    assert circle(made_up(files | {"a/b.py": "from a import c", "a/c.py": ""})) == []


def stale_names(sources):
    """(path, line, module.name) of what is taken from one of our modules, and is not there: `import` alone finds none."""
    there = {path: {name for node in ast.walk(tree) for name in defined(node)} for path, tree in sources.items()}
    found = []
    for path, tree in sources.items():
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module, own = (
                        file_of(sources, path, name) for name in (f"{node.module}.{alias.name}", node.module)
                    )
                    if module:
                        modules[alias.asname or alias.name] = module
                    elif own and alias.name not in there[own]:
                        found.append((path, node.lineno, f"{node.module}.{alias.name}"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                if node.attr not in there[modules[node.value.id]]:
                    found.append((path, node.lineno, f"{node.value.id}.{node.attr}"))
    return found


def defined(node):
    """The names that a node gives a meaning to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []


def test_what_is_taken_from_a_module_is_there(sources):
    assert stale_names(sources) == []
    files = {"a/b.py": "X, Y = 1, 2\ndef f(): pass", "c.py": "from a import b\nb.f(b.Y)\nb.g()\nfrom a.b import X, Z"}
    assert stale_names(made_up(files)) == [("c.py", 4, "a.b.Z"), ("c.py", 3, "b.g")]


def test_the_package_and_its_doors_know_only_the_package(sources):
    outside = {
        (path, other)
        for path in sources
        if path.startswith("hierarchical/") or path in DOORS
        for other in imports(sources, path)
        if not other.startswith("hierarchical/")
    }
    assert outside == set()


def test_imports_are_absolute_and_by_name(sources):
    for path, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.names[0].name != "*", f"{path}:{node.lineno}"


def test_what_the_root_holds(sources):
    assert {Path(path).stem for path in sources if "/" not in path} <= set(IN_THE_ROOT)
    if not shutil.which("git"):
        return
    done = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    assert {line.split("/")[0] for line in done.stdout.splitlines() if "/" in line} <= {*FOLDERS, "tests"}


def test_folders_that_are_imported_from_are_packages(sources):
    """Else a package of the same name, wherever it is installed, would be taken for them."""
    folders = {str(Path(path).parent) for path in sources if path.split("/")[0] in PACKAGES} - {STEPS}
    assert [folder for folder in folders if f"{folder}/__init__.py" not in sources] == []
    imported = {other for path in sources for node in ast.walk(sources[path]) for other in names_of(node)}
    tops = {name.split(".")[0] for name in imported if "." in name} & set(FOLDERS)
    assert tops <= set(PACKAGES)


def test_the_path_is_changed_only_by_what_is_typed(sources, scripts):
    for path, tree in sources.items():
        there = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
        if str(Path(path).parent) == STEPS:
            lines = [ast.unparse(node) for node in tree.body]
            assert lines.count("sys.path.insert(0, str(Path(__file__).resolve().parent))") == len(there), path
            continue
        guards = [
            node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "not __package__"
        ]
        root = f"Path(__file__).resolve().parents[{path.count('/')}]"
        for guard in guards:
            (line,) = map(ast.unparse, guard.body)
            known = f"ROOT = {root}" in map(ast.unparse, tree.body)
            assert line == f"sys.path.insert(0, str({'ROOT' if known else root}))" and not guard.orelse, path
        assert len(there) == len(guards) <= 1, path
        assert not guards or path in scripts, path
        names = {name for node in ast.walk(tree) for name in names_of(node)}
        assert "sys.path" not in names and "site" not in names, path


@pytest.mark.slow
def test_what_is_loaded_by_an_import(sources, scripts):
    def top(name):
        return name.split(".")[0]

    nodes = {path: list(at_import(tree)) for path, tree in sources.items()}
    found = {path: {top(name) for node in nodes[path] for name in names_of(node)} & HEAVY for path in sources}
    assert {path: names for path, names in found.items() if names} == LOADS_AT_ONCE
    for path in scripts.keys() - LOADS_AT_ONCE.keys():  # nor by what a script imports, and that in its turn
        seen, waiting = set(), [path]
        while waiting:
            seen.add(one := waiting.pop())
            waiting += imports(sources, one, nodes[one]) - seen
        assert not seen & LOADS_AT_ONCE.keys(), path


def test_the_doors_pass_on_what_is_there(sources):
    for path in DOORS:
        tree, defined = sources[path], set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                defined |= {alias.asname or alias.name for alias in node.names}
                of = sources[file_of(sources, path, node.module)] if top_of_ours(node.module) else None
                assert of is None or {alias.name for alias in node.names} <= names_in(of), ast.unparse(node)
        (listed,) = (ast.literal_eval(node.value) for node in tree.body if is_all(node))
        assert listed and len(listed) == len(set(listed)) and set(listed) <= defined, path
        unused = {alias for alias in defined if alias not in listed and not is_used(tree, alias)}
        assert unused == set(), path


def top_of_ours(module):
    return module.split(".")[0] == "hierarchical"


def is_all(node):
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def is_used(tree, name):
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def names_in(tree):
    """What a module defines."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


# ---- what a script has -----------------------------------------------------------------------------------------------


def test_a_script_says_what_it_does_and_how_it_is_typed(scripts):
    for path, tree in scripts.items():
        first, *rest = (ast.get_docstring(tree) or "").split("\n\n")
        assert re.fullmatch(r"[A-Z].*[.?)]", first, re.S), f"{path}: the docstring begins with what it does"
        assert re.search(rf"^    .*\bpython\S* (.* )?{re.escape(path)}\b", "\n\n".join(rest), re.M), (
            f"{path}: a command"
        )


def test_a_script_can_be_called(scripts):
    for path, tree in scripts.items():
        functions = {node.name: ast.unparse(node.args) for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert functions.get("parse_args") == "argv" and functions.get("main") == "argv=None", path
        (guard,) = (node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
        assert guard is tree.body[-1] and len(guard.body) == 1, path
        assert ast.unparse(guard.body[0]) in ("run(main)", "main()"), path
        asked = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv"]
        assert asked == [], f"{path}: sys.argv"


def test_nothing_is_long(sources, scripts):
    paths = [path for path in sources if path in scripts or path.startswith("hierarchical/")]
    for path in [*paths, *(ROOT / "tests").rglob("*.py")]:
        assert len((ROOT / path).read_text("utf-8").splitlines()) <= LONGEST, path


def test_version_of_every_script(sources, scripts):
    (version,) = (
        ast.literal_eval(node.value)
        for node in sources["hierarchical/__init__.py"].body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    )
    asked = sorted(scripts.keys() - NO_VERSION.keys())
    assert len(asked) > 25 and NO_VERSION.keys() < scripts.keys()
    assert ask("--version", asked) == {path: [f"{Path(path).name} {version}\n", 0] for path in asked}


# ---- what is never called --------------------------------------------------------------------------------------------


def runs_what_it_reads(path, tree):
    """The (path, name) of whatever could run code that a file or a user brings."""
    names = {
        alias.name: alias.asname for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    short = {asname: name for name, asname in names.items() if asname}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {(path, name) for name in names_of(node)}
        elif isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            found.add((path, short.get(first, first) + dot + rest))
        elif isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            if ast.unparse(node.value) != "False":
                found.add((path, node.arg))
    return {(path, name) for path, name in found if name in RUNS_WHAT_IT_READS | {"shell", "allow_pickle"}}


def test_nothing_that_is_read_is_run(sources):
    found = {one for path, tree in sources.items() for one in runs_what_it_reads(path, tree)}
    assert found == RESTRICTED


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("eval('1')", "eval"),
        ("model.eval()", None),
        ("re.compile('a')", None),
        ("import pickle\npickle.loads(content)", "pickle.loads"),
        ("from pickle import load", "pickle.load"),
        ("import pickle as p\np.load(file)", "pickle.load"),
        ("json.load(file)", None),
        ("subprocess.run(command, shell=True)", "shell"),
        ("subprocess.run(command, shell=asked)", "shell"),
        ("subprocess.run(command, shell=False)", None),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("yaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
        ("yaml.safe_load(text)", None),
    ],
)
def test_what_that_would_find(text, name):
    found = runs_what_it_reads("a.py", ast.parse(text))
    assert found == ({("a.py", name)} if name else set())
