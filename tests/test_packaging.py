"""The package as pip installs it: its requirements are the lists' pins, and it brings nothing but `hierarchical`."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LISTS = [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements*.txt"), *ROOT.glob("deploy/*/requirements.txt")]
ELSEWHERE = {("deploy/paddle_serving/requirements.txt", name) for name in ("protobuf", "grpcio")}  # its own environment

# A program that has modules of its own under names of ours: it must find its own, and the package must not.
PROGRAM = """
import json
import hierarchical, numpy, onnxruntime
from hierarchical import Predictor
import analysis, deploy, metric, utils
print(json.dumps([hierarchical.__file__, analysis.OWN, deploy.OWN, metric.OWN, utils.OWN]))
"""


def stated(path):
    """The requirements of a list, and of those that it includes, as they are written in them: without comments."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line.startswith("-r "):
            found += stated(path.parent / line[3:])
        elif line:
            found.append(Requirement(line))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made from: without a network, and with nothing left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in [
        *ROOT.glob("requirements*.txt"),
        *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")),
    ]:
        shutil.copy(path, source)
    shutil.copytree(ROOT / "hierarchical", source / "hierarchical")
    for path in ROOT.glob("*.py"):  # what must stay out
        shutil.copy(path, source)
    shutil.copytree(ROOT / "analysis", source / "analysis")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (path,) = out.glob("*.whl")
    return path


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


@pytest.fixture(scope="module")
def required(metadata):
    """required(extra): the requirements of the package with this extra; "" means without one. As a set of strings."""
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]

    def required(extra=""):
        found = set()
        for one in requirements:
            marker = str(one.marker or "")
            of = re.search(r'extra == "(.*?)"', marker)
            if not of or of[1] == extra:
                rest = re.sub(r'(^| and )extra == ".*?"', "", marker)
                name = f"{one.name}[{','.join(sorted(one.extras))}]" if one.extras else one.name
                found.add(str(Requirement(f"{name}{one.specifier}" + (f" ; {rest}" if rest else ""))))
        return found

    return required


def test_the_extras_are_the_lists(metadata, required):
    def of(*names):
        return {str(requirement) for name in names for requirement in stated(ROOT / name)}

    extras = ["client", "gpu", "openvino", "predict", "ray", "serve", "trace", "train"]
    assert sorted(metadata.get_all("Provides-Extra")) == extras
    assert required() == of("requirements-base.txt")
    assert required("predict") == of("requirements-base.txt", "requirements-predict.txt")
    assert required("gpu") == of("requirements-base.txt", "requirements-predict-gpu.txt")
    assert required("openvino") == of("requirements-base.txt", "requirements-openvino.txt")
    assert required("train") == of("requirements.txt")
    assert required("serve") == of("deploy/simple_serving/requirements.txt")
    assert required("client") == of("requirements-base.txt", "requirements-client.txt")
    assert required("ray") == of("deploy/ray_batch/requirements.txt")
    assert required("trace") == of("requirements-base.txt", "requirements-trace.txt")
    assert required("predict") < of("deploy/predictor/requirements.txt") < required("serve")
    of_base = {Requirement(line).name for line in required("predict")}
    assert of_base == {"numpy", "onnxruntime"}  # what a program takes on that only predicts


def test_every_pin_is_exact_and_the_same_everywhere():
    pins, places = {}, {}
    for path in LISTS:
        place = path.relative_to(ROOT).as_posix()
        for one in stated(path):
            assert re.fullmatch(r"==[\w.]+", str(one.specifier)), f"{place}: {one}"
            if (place, one.name) not in ELSEWHERE:
                key = (canonicalize_name(one.name), str(one.marker))
                assert pins.setdefault(key, one.specifier) == one.specifier, (
                    f"{place}: {one}; {places[key]} has another"
                )
                places.setdefault(key, place)
    assert pins["paddlepaddle", "None"] == pins["paddlepaddle-gpu", "None"]


def test_version_and_changes(metadata):
    import hierarchical

    assert metadata["Version"] == hierarchical.__version__
    newest = re.search(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest[1] == hierarchical.__version__


def test_the_wheel_holds_the_package_alone(wheel, metadata):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    about = f"hierarchical_text_classification-{metadata['Version']}.dist-info"
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hierarchical").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert {name for name in names if not name.startswith(f"{about}/")} == package
    assert f"{about}/licenses/LICENSE" in names and metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_beside_modules_of_the_same_names_with_numpy_and_onnxruntime_alone(wheel, required, tmp_path):
    """No site-packages here: the packages of the extra `predict`, and what those require, are all that can be found."""
    site, program = tmp_path / "site", tmp_path / "program"
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    waiting, seen = [*map(Requirement, required("predict"))], set()
    while waiting:
        one = waiting.pop()
        if one.name in seen or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(one.name)
        distribution = importlib.metadata.distribution(one.name)
        waiting += map(Requirement, distribution.requires or [])
        for file in distribution.files:
            top = file.parts[0]
            if top == "google":  # a namespace that several distributions share
                (site / top).mkdir(exist_ok=True)
                top = "/".join(file.parts[:2])
            if not top.startswith((".", "__pycache__")) and not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    for name in ("analysis/__init__.py", "deploy/__init__.py", "metric.py", "utils.py"):
        (program / name).parent.mkdir(parents=True, exist_ok=True)
        (program / name).write_text("OWN = True")
    ours = {path.stem for folder in (ROOT, ROOT / "hierarchical") for path in folder.glob("*.py")}
    for name in ours - {"__init__", "metric", "utils"} - sys.stdlib_module_names:
        (program / f"{name}.py").write_text("raise ImportError('a module of the program, not of the package')")
    (program / "main.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-B", program / "main.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, *own = json.loads(done.stdout)
    assert Path(place).is_relative_to(site) and own == [True] * 4


def test_what_is_installed_for_the_tests_is_the_package_alone(tmp_path):
    """environment.sh installs the checkout itself, which must not put the scripts on everybody's path."""
    try:
        importlib.metadata.distribution("hierarchical-text-classification")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed; run_tests.sh does it")
    code = "import importlib.util as u, sys; print([u.find_spec(name) is not None for name in sys.argv[1:]])"
    names = ["hierarchical", "utils", "metric", "train", "analysis", "deploy", "tests"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([name == "hierarchical" for name in names])
