"""hierarchical/predictor.py: the door for other people's programs."""

import json
import math
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hierarchical
import predict
from hierarchical import InputError, Prediction, Predictor
from hierarchical.decisions import Decision
from hierarchical.engines import OnnxModel
from hierarchical.predictor import usual_batch_size

from tests.conftest import ROOT, SAMPLE, without_identity  # isort: skip

# Runs a program to which some packages are not there; their own sub-packages neither.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may damage."""
    return shutil.copytree(tiny_export, tmp_path / "export")


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def predictor(tiny_export):
    """The float32 export, for tests that leave it as it is."""
    return Predictor(tiny_export)


@pytest.fixture(scope="module")
def texts():
    """Texts of several batches and lengths: blank ones among them, one twice, one longer than the model reads."""
    rows = (SAMPLE / "dev.txt").read_text(encoding="utf-8").splitlines()[:90]
    texts = [row.split("\t")[0] for row in rows]
    texts[7], texts[40], texts[50], texts[60] = "", "", texts[3], texts[5] * 20
    return texts


def with_parents(label):
    """A label's path and those above it, root first."""
    names = label.split("##")
    return ["##".join(names[: i + 1]) for i in range(len(names))]


# ---- one answer, whatever computes it --------------------------------------------------------------------------------


def test_an_export_and_its_checkpoint_answer_alike(tiny_checkpoint, predictor, texts):
    exported, trained = predictor.predict(texts), Predictor(tiny_checkpoint).predict(texts)
    assert [one.text for one in exported] == [one.text for one in trained] == texts
    for one, other in zip(exported, trained, strict=True):
        assert isinstance(one, Prediction) and one.labels == other.labels and one.levels == other.levels
        floors = {label: 0.01 for label in one.probabilities.keys() ^ other.probabilities.keys()}  # on its two sides
        assert floors | one.probabilities == pytest.approx(floors | other.probabilities, abs=1e-5 + 1e-6)


@pytest.mark.parametrize("flags", [[], ["--decoding", "closure", "--floor", "0.3", "--max_labels", "4"]])
def test_answers_are_the_rows_that_predict_writes(tiny_checkpoint, texts, tmp_path, flags):
    (tmp_path / "data.txt").write_text("\n".join(texts), encoding="utf-8")
    where = f"--params_path {tiny_checkpoint} --dataset_dir {tmp_path} --output_file {tmp_path}/out.jsonl"
    predict.main([*where.split(), "--device", "cpu", "--quiet", *flags])
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    settings = {"decoding": "closure", "floor": 0.3, "max_labels": 4} if flags else {}
    answers = Predictor(tiny_checkpoint).predict(texts, **settings)
    assert [answer.to_json() for answer in answers] == lines
    for answer, row in zip(answers, map(json.loads, lines), strict=True):
        assert list(row) == ["text", "labels", "probabilities", "levels"]
        assert row["text"] == answer.text and row["labels"] == answer.labels
        assert list(row["probabilities"].items()) == list(answer.probabilities.items())
        assert row["levels"] == {str(level): labels for level, labels in answer.levels.items()}


def test_what_an_answer_holds(predictor, texts):
    labels = predictor.labels
    for text, answer, p in zip(texts, predictor.predict(texts), predictor.probabilities(texts)):
        assert answer.text == text
        if not text:
            assert (answer.labels, answer.probabilities, answer.levels) == ([], {}, {})
            continue
        assert answer.labels == [label for label, value in zip(labels, p) if value > 0.5]  # in class-index order
        shown = {label: value for label, value in zip(labels, p) if value > 0.01}
        assert answer.probabilities == pytest.approx(shown, abs=1e-6)
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values(), reverse=True)
        closed = {path for label in answer.labels for path in with_parents(label)}
        assert {path for level in answer.levels.values() for path in level} == closed
        assert list(answer.levels) == list(range(1, len(answer.levels) + 1))
        assert all(path.count("##") + 1 == level for level, paths in answer.levels.items() for path in paths)


# ---- what may be asked for -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probabilities(predictor, texts):
    """label -> probability of the first of the texts."""
    return dict(zip(predictor.labels, predictor.probabilities(texts[:1])[0].tolist()))


def test_each_setting_changes_the_answer(predictor, texts, probabilities):
    """Each as decisions.decide says it; worked out here from the probabilities, by other means."""

    def ask(**settings):
        (answer,) = predictor.predict(texts[:1], **settings)
        return answer.labels

    def best(count):
        chosen = sorted(probabilities, key=probabilities.get, reverse=True)[:count]
        return [label for label in predictor.labels if label in chosen]

    stored = [label for label, p in probabilities.items() if p > 0.5]
    assert 5 < len(stored) and ask() == stored
    bar = min(probabilities[label] for label in best(4))  # what is not above it is not predicted
    assert ask(threshold=bar) == ask(threshold=np.float32(bar)) == best(3) and ask(threshold=1) == []
    one_each = [0.0 if label in best(2) else 1.0 for label in predictor.labels]
    assert ask(threshold=one_each) == ask(threshold=np.array(one_each)) == best(2)
    closed = {path for label in stored for path in with_parents(label)}
    assert ask(decoding="closure") == [label for label in predictor.labels if label in closed] != stored
    complete = [label for label in stored if set(with_parents(label)) <= set(stored)]
    assert ask(decoding="topdown") == complete != stored
    assert ask(min_labels=len(stored) + 2) == best(len(stored) + 2) and ask(min_labels=1) == stored
    assert ask(threshold=1, min_labels=1) == best(1)
    assert ask(max_labels=3) == best(3) and ask(max_labels=31) == stored
    assert ask(top_k=2) == best(2) and ask(top_k=20) == best(20) and ask(top_k=99) == predictor.labels
    assert ask(threshold=bar, min_labels=1, max_labels=2) == best(2)
    odds = {label: p / (1 - p) for label, p in probabilities.items()}
    leaves = [label for label in predictor.labels if not any(one.startswith(f"{label}##") for one in predictor.labels)]
    path = with_parents(max(leaves, key=lambda label: math.prod(odds[one] for one in with_parents(label))))
    assert ask(decoding="path") == ask(decoding="path", threshold=1) == sorted(path, key=predictor.labels.index)
    bars = [probabilities[label] for label in path[:-1]] + [0.0] * (
        4 - len(path)
    )  # of the levels: only the last passes
    assert ask(decoding="path", stop="confident", threshold=bars) == ask(decoding="path")
    assert ask(decoding="path", stop="confident", threshold=1) == []
    way, below = [], [label for label in predictor.labels if "##" not in label]
    while below:
        way.append(max(below, key=probabilities.get))
        below = [label for label in predictor.labels if label.rpartition("##")[0] == way[-1]]
    assert ask(per_level=1) == sorted(way, key=predictor.labels.index)


def test_the_floor_of_what_is_told(predictor, texts, probabilities):
    for floor in (0, 0.01, 0.2, 1):
        (answer,) = predictor.predict(texts[:1], floor=floor)
        told = {label for label, p in probabilities.items() if p > floor or p > 0.5}
        assert answer.probabilities.keys() == told
    assert len(predictor.predict(texts[:1], floor=0)[0].probabilities) == 31
    assert predictor.predict(texts[:1]) == predictor.predict(texts[:1], floor=0.01)


def test_stored_settings_are_the_default(export, texts, probabilities):
    stored = json.loads((export / "decision.json").read_text(encoding="utf-8"))
    (export / "decision.json").write_text(json.dumps(stored | {"top_k": 2, "threshold": 0.25}), encoding="utf-8")
    predictor = Predictor(export)
    assert predictor.decision == Decision(threshold=0.25, top_k=2)
    assert len(predictor.predict(texts[:1])[0].labels) == 2
    assert len(predictor.predict(texts[:1], top_k=4)[0].labels) == 4
    capped = predictor.predict(texts[:1], max_labels=30)[0].labels  # in place of top_k; the threshold stays
    assert capped == [label for label, p in probabilities.items() if p > 0.25]


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"threshold": "0.5"},
        {"threshold": [0.5] * 4},
        {"decoding": "greedy"},
        {"per_level": -1},
        {"stop": "root"},
        {"min_labels": -1},
        {"min_labels": 1.5},
        {"max_labels": 0},
        {"top_k": 0},
        {"top_k": True},
        {"top_k": 2, "min_labels": 1},
        {"top_k": 2, "max_labels": 1},
        {"min_labels": 3, "max_labels": 2},
        {"floor": 1.5},
        {"floor": -0.1},
        {"floor": math.nan},
        {"floor": None},
        {"floor": "0.1"},
    ],
)
def test_settings_that_cannot_be(predictor, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        predictor.predict(["文"], **settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        predictor.predict([], **settings)
    with pytest.raises(TypeError):
        predictor.predict(["文"], *settings.values())  # by name only


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "int4"},
        {"precision": "bfloat16"},
        {"precision": "int8", "backend": "paddle"},
        {"backend": "torch"},
        {"device": "tpu"},
        {"device": "xpu"},
        {"device": "CPU"},
        {"device": None},
        {"device_id": -1},
        {"num_threads": 0},
        {"max_seq_length": 2},
        {"max_seq_length": 0},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"kind": "model"},
    ],
)
def test_settings_of_a_predictor_that_cannot_be(tiny_export, settings):
    name = next(iter(settings))
    with pytest.raises(InputError, match=f"^{name} must be .*got {settings[name]!r}"):
        Predictor(tiny_export, **settings)


def test_an_export_has_settings_that_a_checkpoint_has_not(tiny_checkpoint):
    with pytest.raises(InputError, match="^precision must be .*got 'int8'"):
        Predictor(tiny_checkpoint, precision="int8")
    assert Predictor(tiny_checkpoint, precision="auto").file == tiny_checkpoint / "model.safetensors"


def test_what_is_no_list_of_texts(predictor):
    for wrong in ("文", b"text", ""):
        with pytest.raises(TypeError, match=r"texts is a list of texts; for a single one write \[text\]"):
            predictor.predict(wrong)
    for wrong in (["文", None], ["文", 7], ["文", b"text"], ["文", ["文"]]):
        with pytest.raises(TypeError, match=r"texts\[1\] is .* not a text"):
            predictor.predict(wrong)


def test_any_row_of_texts_will_do(predictor):
    one, other = predictor.predict(["国足今晚出战", "两市小幅收涨"])
    assert predictor.predict(("国足今晚出战", "两市小幅收涨")) == [one, other]
    assert predictor.predict(np.array(["国足今晚出战", "两市小幅收涨"])) == [one, other]
    assert predictor.predict(text for text in ("国足今晚出战", "两市小幅收涨")) == [one, other]
    assert predictor.predict([]) == predictor.predict(()) == []
    assert predictor.probabilities([]).shape == (0, 31)
    (blank,) = predictor.predict([" \u3000\n"], top_k=3)
    assert blank == Prediction(" \u3000\n", [], {}, {})


def test_what_a_predictor_tells(predictor, tiny_export, tiny_checkpoint):
    labels = (SAMPLE / "label.txt").read_text(encoding="utf-8").split()
    for one, file in (
        (predictor, tiny_export / "float32.onnx"),
        (Predictor(str(tiny_export), backend="paddle"), tiny_export / "float32.pdmodel"),
        (Predictor(str(tiny_checkpoint)), tiny_checkpoint / "model.safetensors"),
    ):
        assert one.labels == one.tree.labels == labels and len(one.tree) == 31
        assert one.decision == Decision() and one.tokenizer.max_seq_length == 64
        assert one.file == file
    with pytest.raises(AttributeError):
        predictor.labels = []


def test_precision(export, predictor, texts):
    sizes = {}
    for asked, name in (("float32", "float32"), ("int8", "int8"), ("float16", "float16"), ("auto", "int8")):
        one = Predictor(export, precision=asked)
        assert one.file == export / f"{name}.onnx"
        sizes[name] = np.abs(one.probabilities(texts[:7]) - predictor.probabilities(texts[:7])).max()
    assert sizes["float32"] == 0 < sizes["float16"] < 0.05 and 0 < sizes["int8"] < 0.5
    (export / "int8.onnx").unlink()
    assert Predictor(export, precision="auto").file == export / "float32.onnx"
    with pytest.raises(InputError, match=r"int8.onnx: no such file.*export_model.py \(--precision"):
        Predictor(export, precision="int8")
    assert Predictor(export, backend="paddle", precision="auto").file == export / "float32.pdmodel"


def test_batches_side_by_side_on_a_gpu(tiny_export, texts, monkeypatch):
    """With a stand-in that computes on the CPU: the float16 model of this GPU, four batches at once, answers in order."""
    asked, at_once, most = [], [], []

    class StandIn(OnnxModel):
        def __init__(self, path, device, device_id):
            asked.append((path.name, device, device_id))
            super().__init__(path)

        def __call__(self, input_ids):
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.05)
            try:
                return super().__call__(input_ids)
            finally:
                at_once.pop()

    expected = Predictor(tiny_export, "float16").probabilities(texts[:24])
    monkeypatch.setattr("hierarchical.predictor.OnnxModel", StandIn)
    found = Predictor(tiny_export, "auto", device="gpu:1", batch_size=3).probabilities(texts[:24])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert asked == [("float16.onnx", "gpu", 1)] and max(most) == 4
    assert Predictor(tiny_export, device="gpu").batch_size == 256  # of 64 tokens


def test_texts_of_a_step_that_nobody_asked_for(predictor, tiny_checkpoint):
    assert predictor.batch_size == Predictor(tiny_checkpoint).batch_size == 32
    assert [usual_batch_size(True, length) for length in (64, 128, 256, 512, 2048)] == [256, 256, 128, 64, 32]
    assert usual_batch_size(False, 64) == 32


def test_other_length_than_trained_with(tiny_export, printed):
    assert Predictor(tiny_export, max_seq_length=16).tokenizer.max_seq_length == 16
    assert "the model was trained with 64" in printed[0]
    with pytest.raises(InputError, match="this model reads at most"):
        Predictor(tiny_export, max_seq_length=100_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "settings"),
    [
        ("tiny_checkpoint", {}),
        ("tiny_export", {}),
        ("tiny_export", {"precision": "int8"}),
        ("older_export", {"precision": "int8"}),
        ("tiny_export", {"backend": "paddle"}),
    ],
)
def test_a_result_depends_on_its_text_alone(request, texts, folder, settings):
    """Not on the texts beside it, their order, the size of the batches, or the threads."""
    folder, texts = request.getfixturevalue(folder), texts[:45]
    one = Predictor(folder, batch_size=1, num_threads=1, **settings)
    alone = np.concatenate([one.probabilities([text]) for text in texts])
    assert np.ptp(alone) > 0.9
    order = np.random.default_rng(0).permutation(len(texts))
    for batch_size, threads in ((5, 4), (100, 1)):
        many = Predictor(folder, batch_size=batch_size, num_threads=threads, **settings)
        for rows in (np.arange(len(texts)), order, order[:13]):
            found = many.probabilities([texts[i] for i in rows])
            assert np.abs(found - alone[rows]).max() < 1e-5
    assert one.probabilities([]).shape == (0, len(one.tree))


@pytest.mark.slow
def test_from_several_threads_at_once(predictor, texts):
    parts = [texts[i : i + 30] for i in (0, 20, 40, 60, 10, 30, 50, 5)] * 3
    expected = [predictor.predict(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.predict, parts)) == expected


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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if "OMP_NUM_THREADS" not in line]
    assert done.returncode == 0 and len(lines) == 1 and "UserWarning: of the host" in lines[0], done.stderr
