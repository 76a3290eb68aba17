"""identity.py: what is told apart and what is not, and that no loader answers with the files of two models."""

import json
import shutil

import numpy as np
import pytest

from deploy.paddle_serving import make_config
from deploy.simple_serving.model import load_exported
from deploy.triton_serving import make_repository
from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.decisions import Decision
from hierarchical.errors import InputError
from hierarchical.exporting import export_checkpoint, require_place
from hierarchical.folders import require_no_model
from hierarchical.identity import digests_of, holds_model, require_no_rows
from hierarchical.labels import LabelTree
from hierarchical.predictor import Predictor
from hierarchical.sets import new_set
from hierarchical.sources import require_model
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import read_identity, read_weights
from tests.conftest import SAMPLE, without_identity
from tests.hierarchical.swaps import mixed, names_in, require_no_mixture

TEXTS = ["国足今晚出战", "某公司宣布裁员，股价随之下跌", ""]


def answers(predictor):
    """All that it says of TEXTS."""
    return [(one.labels, one.probabilities) for one in predictor.predict(TEXTS, floor=0)]


def save_like(tiny, folder, tree=None, tokenizer=None, decision=None, shift=0.0):
    """A checkpoint with the network of another, whose classifier may be shifted, and other things beside it."""
    opened = Checkpoint.open(tiny)
    model = opened.load_model()
    model.classifier.bias.set_value(model.classifier.bias + shift * np.arange(31, dtype=np.float32) / 31)
    tree = tree or opened.tree
    model.config.id2label, model.config.label2id = dict(enumerate(tree.labels)), tree.index
    save_checkpoint(folder, model, tokenizer or opened.tokenizer, tree, decision or opened.decision)
    return folder


def test_a_model_and_rows_do_not_share_a_folder(tiny_checkpoint, tiny_export, tmp_path):
    for folder in (tiny_checkpoint, tiny_export, tmp_path):  # the last is empty
        require_no_rows(folder, "--save_dir")
    assert not holds_model(tmp_path)
    (tmp_path / "label.txt").write_text("一\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"--output_path {tmp_path}: holds a label.txt and no model"):
        require_place(Checkpoint.open(tiny_checkpoint), tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")  # of another program
    require_no_rows(tmp_path, "--save_dir")
    with pytest.raises(InputError, match="--save_dir .*: is the data folder"):
        require_no_rows(tmp_path / "a" / "..", "--save_dir", tmp_path)
    require_no_model(tmp_path)
    for model in (tiny_checkpoint, tiny_export):
        with pytest.raises(InputError, match="holds a model, whose label.txt belongs to it"):
            require_no_model(model)


def test_a_model_that_is_not_yet_in_its_place_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("hierarchical.sets._settle", lambda directory: None)  # killed before that
    with new_set(tmp_path, lambda directory: []) as folder:
        for name in ("label.txt", "config.json", "model.safetensors"):
            (folder / name).write_text("{}", encoding="utf-8")
    (tmp_path / "label.txt").write_text("{}", encoding="utf-8")
    assert holds_model(tmp_path) and not (tmp_path / "config.json").exists()
    require_no_rows(tmp_path, "--save_dir")


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, tmp_path_factory):
    """Three checkpoints: the second has all from another training, the third the settings of the first."""
    folder = tmp_path_factory.mktemp("three")
    vocab = (SAMPLE / "tiny-ernie" / "vocab.txt").read_text("utf-8").splitlines()
    source = shutil.copytree(SAMPLE / "tiny-ernie", folder / "other-tokenizer")
    (source / "vocab.txt").write_text("\n".join([*vocab[:10], *vocab[:9:-1]]), "utf-8")
    (source / "special_tokens_map.json").write_text('{"mask_token": "[MASK]"}')
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8")) | {"model_max_length": 77}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    tree = LabelTree(Checkpoint.open(tiny_checkpoint).tree.labels[::-1])
    other = save_like(tiny_checkpoint, folder / "other", tree, load_tokenizer(source, 32), Decision(0.3), 1)
    return tiny_checkpoint, other, save_like(tiny_checkpoint, folder / "again", shift=2)


@pytest.fixture(scope="module")
def exports(paddle, checkpoints, tmp_path_factory):
    """Their exports."""
    found = []
    for i, source in enumerate(checkpoints):
        checkpoint, folder = Checkpoint.open(source), tmp_path_factory.mktemp("exports") / str(i)
        export_checkpoint(paddle, checkpoint, checkpoint.load_model(), folder, precisions=("float32", "int8"))
        found.append(folder)
    return found


# ---- swapped files ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_are_not_mixed(checkpoints, tmp_path):
    one, other, again = checkpoints

    def answer(folder):
        return answers(Predictor(folder, kind="checkpoint"))

    names = {"config.json", "label.txt", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"}
    assert names < names_in(other)
    # refused are all that have one of these or the weights from elsewhere: alone, and in a pair, but for the two that
    # nobody reads and the thresholds
    assert require_no_mixture(one, other, answer, tmp_path / "mixed") == 6 + 6 * 5 // 2 + 6 * 3
    assert require_no_mixture(other, one, answer, tmp_path / "mixed") == 6 + 6 * 5 // 2 + 6 * 3
    # with the same settings, it is the model whose numbers there are
    assert require_no_mixture(one, again, answer, tmp_path / "mixed") == 0


@pytest.fixture(scope="module")
def hybrids(tiny_checkpoint, branch, tmp_path_factory):
    """Two checkpoints of one network and one label set, whose linear branches differ, and one without."""
    opened, folder = Checkpoint.open(tiny_checkpoint), tmp_path_factory.mktemp("hybrids")
    model = opened.load_model()
    for name, linear in (("one", branch), ("other", branch.scaled(6.0, -1.0))):
        save_checkpoint(folder / name, model, opened.tokenizer, opened.tree, opened.decision, linear=linear)
    return folder / "one", folder / "other", tiny_checkpoint


@pytest.mark.slow
def test_linear_branches_are_not_mixed(hybrids, tmp_path):
    """Numbers of the encoder are equal: only the branch tells them apart."""
    one, other, without = hybrids

    def answer(folder):
        return answers(Predictor(folder, kind="checkpoint"))

    names = ["linear.safetensors", "model.safetensors", "decision.json", "label.txt"]
    # the branch alone, the weights alone, and each with one of the two files that are equal
    assert require_no_mixture(one, other, answer, tmp_path / "mixed", names) == 2 + 4
    for first, second in ((one, without), (without, one)):
        assert require_no_mixture(first, second, answer, tmp_path / "mixed", names) == 2 + 4
    (tmp_path / "mixed" / "linear.safetensors").unlink(missing_ok=True)
    with pytest.raises(InputError, match="linear.safetensors: is missing, and goes with model.safetensors beside it"):
        Checkpoint.open(mixed(one, without, ("linear.safetensors",), tmp_path / "mixed"))
    with pytest.raises(InputError, match="linear.safetensors: does not go with model.safetensors beside it, which was"):
        Checkpoint.open(mixed(without, one, ("linear.safetensors",), tmp_path / "mixed"))


@pytest.mark.slow
def test_linear_branches_of_exports_are_not_mixed(paddle, hybrids, tmp_path):
    folders = []
    for i, source in enumerate(hybrids):
        checkpoint = Checkpoint.open(source)
        export_checkpoint(
            paddle, checkpoint, checkpoint.load_model(), tmp_path / str(i), precisions=("float32", "int8")
        )
        folders.append(tmp_path / str(i))
    for load in LOADERS.values():
        for first, second in ((0, 1), (0, 2), (2, 0)):
            folder = mixed(folders[first], folders[second], ("linear.safetensors",), tmp_path / "mixed")
            with pytest.raises(InputError, match="linear.safetensors: "):
                load(folder)
    for record in (True, False):  # without the list ONNX models know it themselves
        folder = mixed(folders[0], folders[1], ("linear.safetensors", "export.json"), tmp_path / "mixed")
        if not record:
            (folder / "export.json").unlink()
        with pytest.raises(InputError):
            Predictor(folder)


def test_what_the_test_above_would_find(checkpoints, tmp_path):
    """Without an identity, names of one model stand beside the numbers of the other."""
    one, other = (without_identity(shutil.copytree(folder, tmp_path / name)) for folder, name in zip(checkpoints, "ab"))
    for name in ("label.txt", "vocab.txt"):
        with pytest.raises(AssertionError, match=name):
            require_no_mixture(one, other, lambda folder: answers(Predictor(folder)), tmp_path / "mixed", [name])


LOADERS = {
    "float32": lambda folder: Predictor(folder),
    "int8": lambda folder: Predictor(folder, "int8"),
    "paddle": lambda folder: Predictor(folder, backend="paddle"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_exports_are_not_mixed(exports, tmp_path, name):
    one, other, again = exports

    def answer(folder):
        return answers(LOADERS[name](folder))

    assert require_no_mixture(one, other, answer, tmp_path / "mixed") > 40
    # the same settings, other numbers: the list tells the models apart
    models = [name for name in names_in(one) if name.startswith(("float32", "int8"))] + ["export.json", "decision.json"]
    assert require_no_mixture(one, again, answer, tmp_path / "mixed", models) > 5


@pytest.mark.slow
def test_an_export_without_its_list_is_not_mixed(exports, tmp_path):
    """ONNX models know themselves what they belong with."""
    one, other = (
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("export.json"))
        for folder, name in zip(exports, "ab")
    )

    def answer(folder):
        return [answers(LOADERS[name](folder)) for name in ("float32", "int8")]

    assert require_no_mixture(one, other, answer, tmp_path / "mixed") > 20


@pytest.mark.slow
def test_whoever_deploys_refuses_mixtures(exports, tmp_path):
    one, other, _ = exports
    ways = [lambda folder: load_exported(folder, "auto")]
    for script, name in ((make_repository, "triton"), (make_config, "serving")):
        flags = ["--output", str(tmp_path / name), "--overwrite", "--model_path"]
        ways.append(lambda folder, script=script, flags=flags: script.main([*flags, str(folder)]))
    for load in ways:
        load(mixed(one, other, (), tmp_path / "mixed"))
        load(mixed(one, other, ("decision.json",), tmp_path / "mixed"))
        for name in ("label.txt", "vocab.txt", "config.json", "tokenizer_config.json", "special_tokens_map.json"):
            with pytest.raises(InputError, match=f"{name}: (is not the file that goes|does not go) with export.json"):
                load(mixed(one, other, (name,), tmp_path / "mixed"))
        with pytest.raises(InputError, match="not the file that export.json beside it lists"):
            load(mixed(one, other, ("int8.onnx", "float32.pdiparams"), tmp_path / "mixed"))
        folder = mixed(one, other, ("export.json",), tmp_path / "mixed")
        with pytest.raises(InputError):
            load(folder)
    server = tmp_path / "serving" / "serving_server"
    opened = Checkpoint.open(server, exported=True)
    opened.require_models([server / "float32.pdmodel", server / "float32.pdiparams"], {})
    shutil.copy(other / "float32.pdiparams", server)
    with pytest.raises(InputError, match="float32.pdiparams: not the file that export.json"):
        opened.require_models([server / "float32.pdmodel", server / "float32.pdiparams"], {})
    shutil.copy(other / "label.txt", server)
    with pytest.raises(InputError, match="label.txt: is not the file that goes with export.json"):
        Checkpoint.open(server, exported=True)


@pytest.mark.slow
def test_a_model_that_the_export_does_not_list(exports, tmp_path):
    one, other, _ = exports
    folder = shutil.copytree(one, tmp_path / "export")
    listed = json.loads((folder / "export.json").read_text("utf-8"))
    assert listed["files"].pop("int8.onnx") and listed["files"].pop("float32.pdmodel")
    (folder / "export.json").write_text(json.dumps(listed), "utf-8")
    for settings in ({"precision": "int8"}, {"precision": "auto"}, {"backend": "paddle"}):
        with pytest.raises(InputError, match="not of this export, .* left from elsewhere. Remove it, or export again"):
            Predictor(folder, **settings)
    assert answers(Predictor(folder)) == answers(Predictor(one))
    (folder / "export.json").write_text("{")
    with pytest.raises(InputError, match="export.json: damaged .* Export again"):
        Predictor(folder)


# ---- what is told apart ----------------------------------------------------------------------------------------------


def test_layout_does_not_count_and_content_does(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    before, identity = digests_of(folder), read_identity(folder / "model.safetensors")
    assert before == {name: digest for name, digest in identity.items() if name != "weights"}
    assert before.keys() == {"label.txt", "config.json", "vocab.txt", "tokenizer_config.json"}
    for name in ("label.txt", "vocab.txt"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"\n", b"\r\n"))
    for name in ("config.json", "tokenizer_config.json"):
        value = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(dict(reversed(value.items())), ensure_ascii=False, indent=7), "utf-8")
    (folder / "decision.json").write_text('{"threshold": 0.25, "max_seq_length": 32}')
    assert digests_of(folder) == before and Checkpoint.open(folder).decision == Decision(0.25)
    for name, old, new in (
        ("label.txt", "公司动态", "公司动向"),
        ("vocab.txt", "\n[UNK]", "\n\n[UNK]"),
        ("config.json", '"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'),
        ("tokenizer_config.json", "true", "false"),
    ):
        again = shutil.copytree(tiny_checkpoint, tmp_path / name)
        text = (again / name).read_text("utf-8")
        assert old in text
        (again / name).write_text(text.replace(old, new), "utf-8")
        assert [key for key, digest in digests_of(again).items() if digest != before[key]] == [name]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda lines: lines[:500] + lines[501:], "vocab.txt: is not the file that goes with model.safetensors"),
        (lambda lines: lines[: len(lines) // 2], "vocab.txt: is not the file that goes with model.safetensors"),
        (lambda lines: [*lines, "😀"], "vocab.txt: is not the file that goes with model.safetensors"),
        (lambda lines: lines[:20] + lines[21:] + lines[20:21], "train.py --add_tokens does. Put the original back"),
    ],
    ids=["a line less", "half", "a line more", "shifted"],
)
def test_an_edited_vocabulary(tiny_checkpoint, tmp_path, edit, says):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(edit(lines)), "utf-8")
    with pytest.raises(InputError, match=says):
        Checkpoint.open(folder)
    with pytest.raises(InputError, match=says):  # as --model_name of a training
        require_model(str(folder))


def test_more_tokens_than_the_model_knows(tiny_checkpoint, tmp_path):
    """A line that was added to the vocabulary of an encoder, or to a checkpoint of an older version."""
    folder = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("\n\n")
        Checkpoint.open(folder)  # an empty line is no token
        file.write("😀\n")
    with pytest.raises(InputError, match=r"vocab.txt: 1078 tokens, but the model knows 1075 \(vocab_size in config"):
        Checkpoint.open(folder)


def test_models_of_older_versions_are_taken_as_they_are(tiny_checkpoint, tiny_export, tmp_path):
    checkpoint = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    assert Checkpoint.open(checkpoint).identity is None
    assert answers(Predictor(checkpoint)) == answers(Predictor(tiny_checkpoint))
    export = without_identity(shutil.copytree(tiny_export, tmp_path / "export"))
    for record in (None, {"version": "0.9.0", "rows": 3, "models": [{"model": "float32.onnx"}]}):
        if record:
            (export / "export.json").write_text(json.dumps(record))
        assert answers(Predictor(export)) == answers(Predictor(tiny_export))
        assert Predictor(export, "int8").labels and Predictor(export, backend="paddle").labels


def test_damaged_numbers(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    with open(folder / "model.safetensors", "r+b") as file:  # a hole, as a copy that broke off leaves it
        file.seek(-40_000, 2)
        file.write(bytes(30_000))
    with pytest.raises(
        InputError, match="model.safetensors: not a usable parameter file .*not those that were written"
    ):
        read_weights(folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    assert content.count(b'"identity":"{') == 1
    (folder / "model.safetensors").write_bytes(content.replace(b'"identity":"{', b'"identity":"['))
    with pytest.raises(InputError, match="model.safetensors: damaged; copy it again"):
        Checkpoint.open(folder)


def test_the_same_model_makes_the_same_bytes(tiny_checkpoint, tmp_path):
    for name in ("a", "b", "c"):
        save_like(tiny_checkpoint, tmp_path / name)
        content = (tmp_path / name / "model.safetensors").read_bytes()
        assert content == (tmp_path / "a" / "model.safetensors").read_bytes()
    with pytest.raises(AssertionError):
        assert content == (save_like(tiny_checkpoint, tmp_path / "d", shift=1) / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "model_config.json").read_bytes() == (tmp_path / "a" / "config.json").read_bytes()
