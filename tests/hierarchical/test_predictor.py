"""hierarchical/predictor.py: the door for other people's programs; its files are in test_predictor_files.py."""

import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import predict
from hierarchical import InputError, Prediction, Predictor
from hierarchical import predictor as predictor_module
from hierarchical.decisions import Decision
from hierarchical.devices import has_bf16
from hierarchical.engines import OnnxModel
from hierarchical.predictor import usual_batch_size

from tests.conftest import SAMPLE  # isort: skip
from tests.hierarchical.layers import noted_passes  # isort: skip


@pytest.fixture(scope="module")
def predictor(tiny_export):
    """The float32 export, for tests that leave it as it is."""
    return Predictor(tiny_export)


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


def test_a_checkpoint_that_has_answered_many_texts(tiny_checkpoint, texts, monkeypatch):
    passes = noted_passes(monkeypatch)
    monkeypatch.setattr(predictor_module, "MANY_ROWS", len(texts) + 1)
    trained = Predictor(tiny_checkpoint, batch_size=len(texts))
    first, second, third = (trained.logits(trained.tokenizer.encode(texts)) for _ in range(3))
    assert any("forward" in vars(layer) for layer in trained.engine.model.sublayers())
    np.testing.assert_array_equal(second, third)
    np.testing.assert_allclose(second, first, atol=1e-4)  # of up to 10
    assert passes[-2:] == [False, True]  # whether the first token alone


def test_a_checkpoint_in_bfloat16(tiny_checkpoint, texts, capsys):
    plain, rounded = Predictor(tiny_checkpoint), Predictor(tiny_checkpoint, "bfloat16")
    expected, together = plain.text_logits(texts), rounded.text_logits(texts)
    largest = np.abs(expected).max()
    alone = np.concatenate([rounded.text_logits([text]) for text in texts])
    for found in (together, alone):  # no fewer calls are rounded
        np.testing.assert_allclose(found, expected, atol=0.03 * largest)  # 3 digits, through some layers
        assert (np.abs(found - expected).max() > 1e-3 * largest) == has_bf16()  # of the machine
    assert ("bfloat16: only on a CPU with" in capsys.readouterr().err) != has_bf16()


def test_bfloat16_where_there_is_none(tiny_checkpoint, texts, monkeypatch, capsys):
    monkeypatch.setattr(predictor_module, "has_bf16", lambda: False)
    found = Predictor(tiny_checkpoint, "bfloat16").text_logits(texts)
    np.testing.assert_array_equal(found, Predictor(tiny_checkpoint).text_logits(texts))
    assert "bfloat16: only on a CPU with AVX512-BF16 or AMX; using float32" in capsys.readouterr().err


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
    asked, at_once, most, four = [], [], [], threading.Barrier(4, timeout=60)

    class StandIn(OnnxModel):
        def __init__(self, path, device, device_id):
            asked.append((path.name, device, device_id))
            super().__init__(path)

        def __call__(self, input_ids):
            at_once.append(1)
            most.append(len(at_once))
            if len(most) <= 4:
                four.wait()
            time.sleep(0.05)  # for a fifth to come
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
