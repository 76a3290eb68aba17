"""hierarchical/predictor.py: what a path is, what can be wrong with the files there, and what loading them needs."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hierarchical
from hierarchical import InputError, Predictor

from tests.conftest import ROOT, without_identity  # isort: skip

# Runs a program to which some packages are not there; their own sub-packages neither.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


# ---- which of the two a path is --------------------------------------------------------------------------------------


def kind(path, **settings):
    return Predictor(path, **settings).file.suffix


def test_only_one_kind_is_welcome(tiny_checkpoint, tiny_export):
    with pytest.raises(InputError, match=r"checkpoint: a checkpoint, where .* Make one with export_model.py"):
        Predictor(tiny_checkpoint, kind="export")
    with pytest.raises(InputError, match=r"export: no model.safetensors in it.* checkpoint of train.py"):
        Predictor(tiny_export, kind="checkpoint")
    assert kind(tiny_export, kind="export") == kind(tiny_export) == ".onnx"
    assert kind(tiny_checkpoint, kind="checkpoint") == kind(tiny_checkpoint) == ".safetensors"


def test_a_width_of_prune(tiny_checkpoint, tiny_export, tmp_path):
    """Beside the weights of prune.py lies its export, called pruned_model."""
    width = shutil.copytree(tiny_checkpoint, tmp_path / "width_mult_0.75")
    for name in ("float32.onnx", "float32.pdmodel", "float32.pdiparams"):
        shutil.copy(tiny_export / name, width / name.replace("float32", "pruned_model"))
    shutil.copy(tiny_export / "int8.onnx", width / "pruned_model_int8.onnx")
    assert kind(width) == kind(width, kind="checkpoint") == ".safetensors"
    for path in (width / "pruned_model", width / "pruned_model.onnx"):
        assert Predictor(path).file == Predictor(path, kind="export").file == width / "pruned_model.onnx"
        assert Predictor(path, precision="auto").file == width / "pruned_model_int8.onnx"
    assert Predictor(width / "pruned_model", backend="paddle").file == width / "pruned_model.pdmodel"
    with pytest.raises(InputError, match="in a folder of prune.py it is called pruned_model"):
        Predictor(width, kind="export")
    alike = [Predictor(path).predict(["国足今晚出战"])[0].labels for path in (width, width / "pruned_model")]
    assert alike[0] == alike[1]


def test_an_export_within_the_checkpoint(checkpoint, tiny_export):
    """In a folder of its own there, or right among the weights, where one must say which is meant."""
    shutil.copytree(tiny_export, checkpoint / "export")
    assert kind(checkpoint) == ".safetensors" and kind(checkpoint / "export") == ".onnx"
    shutil.copy(tiny_export / "int8.onnx", checkpoint)
    assert kind(checkpoint, precision="auto", kind="export") == ".onnx"
    shutil.copy(tiny_export / "float32.onnx", checkpoint)
    with pytest.raises(InputError, match='holds a checkpoint and an export.*kind="checkpoint" or kind="export"'):
        kind(checkpoint)
    assert kind(checkpoint, kind="export") == kind(checkpoint / "float32") == ".onnx"
    assert kind(checkpoint, kind="checkpoint") == ".safetensors"
    one, other = (Predictor(checkpoint, kind=kind).predict(["国足今晚出战"])[0] for kind in ("export", "checkpoint"))
    assert one.labels == other.labels and one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_a_checkpoint_is_loaded_when_it_is_needed(checkpoint):
    predictor = Predictor(checkpoint)
    for name in ("model.safetensors", "model_state.pdparams"):
        (checkpoint / name).rename(checkpoint / f"away_{name}")
    with pytest.raises(InputError, match=r"model.safetensors: no such file"):
        predictor.predict(["文"])
    (checkpoint / "away_model.safetensors").rename(checkpoint / "model.safetensors")
    predictor.load()
    (checkpoint / "model.safetensors").unlink()
    predictor.load()  # once is enough
    assert len(predictor.predict(["国足今晚出战"])) == 1
    assert len(predictor.predict(["", " "])) == 2


def test_the_older_form_of_the_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert Predictor(checkpoint).file == checkpoint / "model_state.pdparams"


# ---- what can be wrong with the files --------------------------------------------------------------------------------


def test_nothing_is_there(tmp_path):
    for path, settings, message in (
        (tmp_path / "none", {}, r"none: neither a folder nor a model file. Pass an export"),
        (tmp_path / "none", {"kind": "export"}, r"none.onnx: no such file.* Make it with export_model.py"),
        (tmp_path / "none", {"kind": "checkpoint"}, r"none: no such directory. Pass the --save_dir of train.py"),
        (tmp_path / "none", {"backend": "paddle"}, r"none: neither a folder nor a model file"),
        (tmp_path / "none", {"backend": "paddle", "kind": "export"}, r"none.json: no such file.* export_model.py"),
        (tmp_path, {}, r"float32.onnx: no such file.* Make it with export_model.py"),
        (tmp_path, {"kind": "checkpoint"}, r"no model.safetensors in it.* checkpoint of train.py"),
        (tmp_path / "a" / "b.onnx", {}, r"a/b.onnx: neither a folder nor a model file"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor(path, **settings)


@pytest.mark.parametrize("name", ["label.txt", "config.json", "decision.json", "vocab.txt", "tokenizer_config.json"])
def test_missing_files(export, checkpoint, name):
    for folder in (export, checkpoint):
        (folder / name).unlink()
        with pytest.raises(InputError, match=rf"(?i){name}: no such file"):
            Predictor(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("label.txt", "体育\n体育\n", "label.txt:2: label '体育' is already on line 1; remove one of them"),
        ("config.json", "{", "config.json: not a model configuration"),
        (
            "config.json",
            '{"model_type": "albert"}',
            "config.json: model_type is 'albert'; supported are ernie, ernie_m",
        ),
        ("decision.json", '{"max_seq_length": 64, "threshold": 7}', "decision.json: not the decision settings"),
        ("decision.json", "[]", "decision.json: not the decision settings"),
    ],
)
def test_damaged_files(export, checkpoint, name, content, message):
    for folder in (export, checkpoint):
        (folder / name).write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Predictor(folder)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x00" * 100], ids=["empty", "text", "bytes"])
def test_a_damaged_model(export, content):
    (export / "float32.onnx").write_bytes(content)
    said = r"float32.onnx: (the file is empty|not a model that ONNX Runtime can read).*(Make|Export) it"
    with pytest.raises(InputError, match=said):
        Predictor(export)


def test_damaged_weights(checkpoint):
    content = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model.safetensors: not a usable parameter file .* copy it again"):
        Predictor(checkpoint).load()


def test_labels_that_differ(export, checkpoint):
    """In files that do not say what belongs together, as older versions wrote them."""
    without_identity(export)
    without_identity(checkpoint)
    labels = (export / "label.txt").read_text(encoding="utf-8").split()
    (export / "label.txt").write_text("\n".join([*labels[1:], labels[0]]), encoding="utf-8")
    with pytest.raises(InputError, match=r"float32.onnx: its labels are not those of label.txt.* Export the model"):
        Predictor(export)
    for changed, count in ((labels[:-1], 30), ([*labels, "新"], 32)):
        for folder in (export, checkpoint):
            (folder / "label.txt").write_text("\n".join(changed), encoding="utf-8")
        paddle = Predictor(export, backend="paddle")  # its files do not say which labels they are for
        with pytest.raises(InputError, match=f"float32.pdmodel: 31 outputs, but label.txt has {count} labels"):
            paddle.predict(["文"])
        with pytest.raises(InputError, match=f"checkpoint: the model has 31 outputs, but label.txt {count} labels"):
            Predictor(checkpoint).load()


def test_a_model_that_reads_its_texts_in_a_template(export):
    config = json.loads((without_identity(export) / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["Network"], "mlm_transform": False}  # few-shot/train.py's
    (export / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (export / "template_config.json").write_text('{"method": "prompt"}', encoding="utf-8")
    with pytest.raises(InputError, match="reads its texts in a template. Use few-shot/infer.py"):
        Predictor(export)
    assert Predictor(export, template=True).labels
    (export / "template_config.json").write_text('{"method": "similarity"}', encoding="utf-8")
    assert Predictor(export).labels
    (export / "template_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="few-shot/infer.py"):
        Predictor(export)


def test_outputs_that_are_not_finite(tiny_export, monkeypatch):
    predictor = Predictor(tiny_export)
    monkeypatch.setattr(predictor, "engine", lambda input_ids: np.full((len(input_ids), 31), np.nan, np.float32))
    with pytest.raises(InputError, match="not finite: .*lower learning rate.*export it as float32"):
        predictor.predict(["文"])


# ---- what is loaded, and what is needed ------------------------------------------------------------------------------


def python(code, *words, refused=()):
    """What a Python of its own prints, to which some packages are not there."""
    code = REFUSE.format(refused=set(refused)) + code
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_heavy():
    heavy = "{'numpy', 'paddle', 'paddlenlp', 'onnxruntime', 'tqdm', 'scipy', 'sklearn', 'safetensors', 'jinja2'}"
    tell = f"print(sorted({heavy} & set(sys.modules)))"
    assert python(f"import hierarchical; hierarchical.InputError; {tell}") == "[]\n"
    assert python(f"from hierarchical import Predictor; {tell}") == "['numpy']\n"
    assert python(f"from hierarchical import Prediction, InputError; {tell}") == "['numpy']\n"


def test_the_names_that_are_promised():
    assert hierarchical.__all__ == ["InputError", "Prediction", "Predictor", "__version__"]
    assert set(hierarchical.__all__) <= set(dir(hierarchical))
    for name in {*hierarchical.__all__, *dir(hierarchical)}:
        getattr(hierarchical, name)
    code = (
        "import hierarchical; names = dir(hierarchical); [getattr(hierarchical, name) for name in names]; print(names)"
    )
    assert "'Predictor'" in python(code)  # before anything has asked for it
    assert issubclass(InputError, ValueError) and hierarchical.Predictor is Predictor
    with pytest.raises(AttributeError, match="module 'hierarchical' has no attribute 'nothing'"):
        hierarchical.nothing  # noqa: B018


def test_without_onnxruntime(tiny_export):
    code = """
from hierarchical import InputError, Predictor
from hierarchical.engines import find_gpu
import hierarchical.engines
hierarchical.engines.has_nvidia_driver = lambda: True
for call in (lambda: Predictor(sys.argv[1]), lambda: find_gpu("gpu")):
    try:
        call()
    except InputError as error:
        print(error)
"""
    said = python(code, tiny_export, refused=["onnxruntime"]).splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith("the package onnxruntime, which runs exported models, is not installed. Run: pip")


@pytest.mark.slow
def test_a_checkpoint_without_paddle(tiny_checkpoint, tiny_export):
    code = """
from hierarchical import InputError, Predictor
predictor = Predictor(sys.argv[1])
print(len(predictor.labels))
for call in (lambda: predictor.predict(["文"]), lambda: Predictor(sys.argv[2], backend="paddle")):
    try:
        call()
    except InputError as error:
        print(error)
"""
    for refused in ("paddle", "paddlenlp"):
        labels, checkpoint, *export = python(code, tiny_checkpoint, tiny_export, refused=[refused]).splitlines()
        assert labels == "31"
        assert checkpoint.startswith(
            f"a checkpoint needs the package {refused}, which is not installed: see requirements"
        )
        assert "export_model.py" in checkpoint
        if refused == "paddle":
            assert export == [
                "the back end paddle needs the package paddle, which is not installed: see requirements.txt."
            ]


@pytest.mark.parametrize("export", ["tiny_export", "hybrid_export"])
def test_numpy_and_onnxruntime_are_enough(request, export, texts):
    folder = request.getfixturevalue(export)
    code = """
import json
from hierarchical import Predictor
predictor = Predictor(sys.argv[1])
for answer in predictor.predict(json.loads(sys.argv[2]), decoding="closure", max_labels=5):
    print(answer.to_json())
"""
    refused = "paddle paddlenlp tqdm scipy sklearn safetensors jinja2 tokenizers transformers sentencepiece onnx torch"
    said = python(code, folder, json.dumps(texts[:12]), refused=refused.split())
    expected = Predictor(folder).predict(texts[:12], decoding="closure", max_labels=5)
    assert [json.loads(line) for line in said.splitlines()] == [json.loads(answer.to_json()) for answer in expected]


@pytest.mark.slow
def test_the_warnings_of_the_program_that_calls_it_are_heard_and_the_libraries_own_are_not(
    tiny_checkpoint, tiny_export
):
    code = """
import sys, warnings
from hierarchical import Predictor
for path in sys.argv[1:]:
    Predictor(path).predict(["国足今晚出战"])
Predictor(sys.argv[2], backend="paddle").predict(["国足今晚出战"])
warnings.warn("of the host", UserWarning)
"""
    command = [sys.executable, "-c", code, str(tiny_checkpoint), str(tiny_export)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if "OMP_NUM_THREADS" not in line]
    assert done.returncode == 0 and len(lines) == 1 and "UserWarning: of the host" in lines[0], done.stderr
