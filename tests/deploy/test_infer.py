"""deploy/predictor/infer.py: the exported model predicts what predict.py predicts, and nothing but onnxruntime is needed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import predict
from deploy.predictor import infer
from hierarchical import predictor
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.devices import has_bf16
from hierarchical.engines import OnnxModel
from hierarchical.linear import with_linear
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from metric import Scores, decide
from utils import InputError, file_digest, load_rows

from tests.conftest import ROOT, SAMPLE, without_identity  # isort: skip


@pytest.fixture
def call(tiny_export):
    """call(*flags): infer.py's main() on the sample data, in this process; a later flag replaces an earlier one."""

    def call(*flags):
        words = ["--model_path_prefix", tiny_export / "float32", "--device", "cpu", "--dataset_dir", SAMPLE, *flags]
        infer.main([str(word) for word in words])

    return call


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may damage."""
    shutil.copytree(tiny_export, tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [[], ["--backend", "paddle"], ["--backend", "openvino"], ["--num_threads", "3", "--batch_size", "7"]]
)
def test_writes_what_predict_writes(call, hybrid_checkpoint, tmp_path, flags):
    words = f"--params_path {hybrid_checkpoint} --dataset_dir {SAMPLE} --device cpu --output_file {tmp_path}/a.jsonl --quiet"
    predict.main(words.split())
    call("--output_file", tmp_path / "b.jsonl", "--quiet", *flags)
    rows = [(tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("a.jsonl", "b.jsonl")]
    assert len(rows[0]) == len(rows[1]) == len((SAMPLE / "data.txt").read_text(encoding="utf-8").splitlines())
    for one, other in zip(*(map(json.loads, lines) for lines in rows)):
        assert one["text"] == other["text"] and one["labels"] == other["labels"] and one["levels"] == other["levels"]
        shared = one["probabilities"].keys() & other["probabilities"].keys()
        assert len(shared) >= len(one["labels"])
        for label in shared:
            assert one["probabilities"][label] == pytest.approx(other["probabilities"][label], abs=1e-4)


@pytest.mark.slow
def test_bf16_is_near_and_prints_nothing(call, tiny_export, monkeypatch, capfd):
    """On a processor without it Paddle imitates it or goes on in float32: what is asked for is tested all the same."""
    monkeypatch.setattr(infer, "has_bf16", lambda: True)
    call("--backend", "paddle", "--use_bf16", "--perf")
    said = capfd.readouterr()
    assert said.out == "" and "operators to bfloat16" not in said.err
    half, full = (Predictor(tiny_export, precision, "paddle") for precision in ("bfloat16", "float32"))
    assert half.file == full.file
    ids = full.tokenizer.encode(["某公司宣布裁员", "球队主场获胜，股价随之上涨" * 4])
    one, other = half.logits(ids), full.logits(ids)
    np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())
    assert np.array_equal(one, other) != has_bf16()


def test_logs_what_predict_logs(call, hybrid_checkpoint, printed):
    predict.main(f"--params_path {hybrid_checkpoint} --dataset_dir {SAMPLE} --device cpu".split())
    wanted = [line for line in printed if "texts/s" not in line]
    del printed[:]
    call()
    found = [line for line in printed if "texts/s" not in line]
    assert [line for line in found if not line.startswith(">>> ")] == wanted
    assert found[0] == ">>> [InferBackend] Creating Engine ..."
    assert found[1].startswith(">>> [InferBackend] Use CPU to inference") and found[1].endswith("float32.onnx")
    assert found[2] == ">>> [InferBackend] Engine Created ..."


def test_stored_and_given_decisions(call, export, tmp_path):
    settings = json.loads((export / "decision.json").read_text(encoding="utf-8"))
    (export / "decision.json").write_text(json.dumps(settings | {"top_k": 2}), encoding="utf-8")
    call("--model_path_prefix", export, "--output_file", tmp_path / "a.tsv", "--quiet")
    call("--model_path_prefix", export, "--output_file", tmp_path / "b.tsv", "--quiet", "--top_k", "1")
    for name, count in (("a.tsv", 2), ("b.tsv", 1)):
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert {len(line.split("\t")[1].split(",")) for line in lines} == {count}


@pytest.mark.slow
def test_perf_prints_the_scores_and_both_latencies(call, hybrid_checkpoint, printed):
    call("--perf", "--use_quantize")
    assert printed[1].endswith("int8.onnx")
    call("--perf")
    checkpoint = Checkpoint.open(hybrid_checkpoint)
    tree, ids = checkpoint.tree, checkpoint.tokenizer.encode
    rows = load_rows(SAMPLE / "dev.txt", tree)
    logits = predict_logits(checkpoint.load_model(), ids(rows.texts), 0, 32)
    probabilities = sigmoid(with_linear(logits, checkpoint.linear, rows.texts))
    scores = Scores(tree)
    scores.update(decide(probabilities, tree, checkpoint.decision), rows.multi_hot(len(tree)))
    result = scores.result()
    assert printed[-3] == f"micro f1: {100 * result['micro_f1']:.2f}, macro f1: {100 * result['macro_f1']:.2f}"
    assert printed[-2].startswith(f"sample nums: {len(rows.texts)}, time: ")
    assert printed[-1].startswith(f"sample nums with tokenising: {len(rows.texts)}, time: ")
    assert all(" ms, throughput: " in line for line in printed[-2:])


def test_perf_measures_no_warm_up(call, monkeypatch, printed):
    """On a clock that stands still but for the model: every batch of a new size takes 100 s, any later one 1 s."""
    clock, seen = [0.0], set()

    def compute(predictor, input_ids):
        clock[0] += 1 if input_ids.shape in seen else 100
        seen.add(input_ids.shape)
        return np.zeros((len(input_ids), len(predictor.tree)), np.float32)

    monkeypatch.setattr(infer.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Predictor, "compute", compute)
    call("--perf", "--num_threads", "1")
    batches = -(-300 // 32)
    (plain,) = [line for line in printed if line.startswith("sample nums:")]
    assert plain.startswith(f"sample nums: 300, time: {batches}.00, ") and len(seen) > 5


def test_texts_of_a_step(call, monkeypatch):
    """On a GPU with a stand-in that computes on the CPU; windows of rows, and what --resume goes by, follow."""
    monkeypatch.setattr(infer, "find_gpu", lambda device, logger, backend: device)
    monkeypatch.setattr(predictor, "OnnxModel", lambda path, device, device_id: OnnxModel(path))
    asked = []
    monkeypatch.setattr(
        infer,
        "predict_file",
        lambda job, model, decision, settings: asked.append((job.batch_size, model.batch_size, settings)),
    )
    for flags in ([], ["--use_quantize"], ["--device", "gpu:1"], ["--device", "gpu", "--batch_size", "7"]):
        call(*flags)
    assert asked == [(size, size, {"use_bf16": None}) for size in (32, 32, 256, 7)]


def test_what_a_resumed_run_goes_by(call, openvino, monkeypatch):
    asked = []
    monkeypatch.setattr(infer, "predict_file", lambda job, model, decision, settings: asked.append(settings))
    monkeypatch.setattr(infer, "has_bf16", lambda: True)
    call("--backend", "openvino"), call("--backend", "openvino", "--use_bf16")
    assert asked == [{"use_bf16": None}, {"use_bf16": True}]


@pytest.mark.parametrize("flag", [[], ["--no_tf32"]])
def test_float32_on_a_gpu(call, monkeypatch, printed, flag):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    asked = {}
    monkeypatch.setattr(infer, "find_gpu", lambda device, logger, backend: device)

    def predictor(path, **settings):
        asked.update(settings)
        raise InputError("no GPU here")

    monkeypatch.setattr(infer, "Predictor", predictor)
    with pytest.raises(InputError, match="no GPU here"):
        call("--device", "cuda:1", *flag)
    assert (asked["device"], asked["precision"]) == ("gpu:1", "float32")
    assert any("TF32" in line for line in printed) == (not flag)
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == ("0" if flag else None)


def test_perf_of_another_file(call, export, data_dir, printed):
    label = (SAMPLE / "label.txt").read_text(encoding="utf-8").split("\n")[0]
    data = data_dir(label_txt=(SAMPLE / "label.txt").read_text(encoding="utf-8"), test_txt=f"文\t{label}\n")
    call("--dataset_dir", data, "--perf", "--perf_dataset", "test")
    assert printed[-2].startswith("sample nums: 1, ")
    with pytest.raises(InputError, match=r"dev.txt:1: unknown label"):
        call("--dataset_dir", data_dir(dev_txt="文\t无此标签\n", label_txt=None), "--perf")


@pytest.mark.slow
def test_nothing_is_written_beside_the_model(call, export, tmp_path):
    before = {path.name: file_digest(path) for path in export.iterdir()}
    call("--model_path_prefix", export / "float32", "--use_quantize", "--output_file", tmp_path / "a.jsonl", "--quiet")
    call("--model_path_prefix", export / "float32", "--perf", "--backend", "paddle")
    assert before == {path.name: file_digest(path) for path in export.iterdir()}


def test_neither_paddle_nor_a_library_of_tokenizers_is_imported(tiny_export):
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from deploy.predictor import infer; infer.main();"
        "sys.exit(bool({'paddle', 'paddlenlp', 'tokenizers', 'transformers', 'sklearn', 'torch'} & set(sys.modules)))"
    )
    words = ["--model_path_prefix", tiny_export, "--dataset_dir", SAMPLE, "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- what can be wrong -----------------------------------------------------------------------------------------------


def test_exit_code_and_message_for_users(tmp_path):
    command = [sys.executable, "deploy/predictor/infer.py", "--model_path_prefix", tmp_path / "float32"]
    done = subprocess.run([*map(str, command), "--dataset_dir", "data"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "float32.onnx: no such file" in done.stderr and "export_model.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x00" * 100])
def test_damaged_onnx(export, call, content):
    (export / "float32.onnx").write_bytes(content)
    with pytest.raises(InputError, match="float32.onnx: (the file is empty|not a model that ONNX Runtime can read)"):
        call("--model_path_prefix", export / "float32")


def test_truncated_onnx(export, call):
    content = (export / "float32.onnx").read_bytes()
    (export / "float32.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a model that ONNX Runtime can read"):
        call("--model_path_prefix", export / "float32")


@pytest.mark.parametrize("name", ["float32.pdmodel", "float32.pdiparams"])
def test_missing_half_of_a_paddle_model(export, call, name):
    (export / name).unlink()
    with pytest.raises(InputError, match=r"float32\.(json|pdiparams): no such file"):
        call("--model_path_prefix", export / "float32", "--backend", "paddle")


@pytest.mark.parametrize("name", ["float32.pdmodel", "float32.pdiparams"])
@pytest.mark.parametrize("damage", ["garbage", "half"])
def test_damaged_paddle_model(export, call, name, damage):
    content = (export / name).read_bytes()
    (export / name).write_bytes(content[: len(content) // 2] if damage == "half" else b"not a model" * 50)
    with pytest.raises(InputError, match="not a model that Paddle Inference can read"):
        call("--model_path_prefix", export / "float32", "--backend", "paddle")


def edit_onnx(path, change):
    import onnx

    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def test_foreign_onnx(export, call):
    """A sound model, but with another input, or labels in its metadata that are none."""

    def rename(model):
        old, model.graph.input[0].name = model.graph.input[0].name, "attention_mask"
        for node in model.graph.node:
            node.input[:] = ["attention_mask" if name == old else name for name in node.input]

    def spoil(model):
        model.metadata_props[0].value = "体育"

    edit_onnx(export / "float32.onnx", rename)
    with pytest.raises(InputError, match="not a model of export_model.py, since it reads attention_mask"):
        call("--model_path_prefix", export / "float32")
    edit_onnx(export / "int8.onnx", spoil)
    with pytest.raises(InputError, match="int8.onnx: not a model that ONNX Runtime can read"):
        call("--model_path_prefix", export / "float32", "--use_quantize")


def test_labels_of_another_model(plain_export, call, tmp_path):
    """In an export that does not say what belongs together, as older versions wrote it; the next one too."""
    export = without_identity(shutil.copytree(plain_export, tmp_path / "plain"))
    labels = (export / "label.txt").read_text(encoding="utf-8").splitlines()
    (export / "label.txt").write_text("\n".join(sorted(labels, reverse=True)), encoding="utf-8")
    with pytest.raises(InputError, match="its labels are not those of label.txt beside it"):
        call("--model_path_prefix", export / "float32")


def test_fewer_labels_than_outputs_of_a_paddle_model(plain_export, call, tmp_path):
    export = without_identity(shutil.copytree(plain_export, tmp_path / "plain"))
    labels = (export / "label.txt").read_text(encoding="utf-8").splitlines()
    (export / "label.txt").write_text("\n".join([*labels, "新"]), encoding="utf-8")
    with pytest.raises(InputError, match=f"{len(labels)} outputs, but label.txt has {len(labels) + 1} labels"):
        call("--model_path_prefix", export / "float32", "--backend", "paddle", "--label_file", "none.txt")


def test_labels_of_the_data_folder(call, data_dir):
    for flags in ([], ["--perf"]):
        with pytest.raises(InputError, match="differs from the labels"):
            call("--dataset_dir", data_dir(), *flags)


def test_precision_that_was_not_exported(export, call):
    (export / "int8.onnx").unlink()
    with pytest.raises(InputError, match="int8.onnx: no such file.*--precision"):
        call("--model_path_prefix", export / "float32", "--use_quantize")


@pytest.mark.slow
def test_switches_that_do_not_fit_are_told(call, printed, monkeypatch):
    call("--use_fp16", "--perf")
    assert any(line.startswith("--use_fp16: only on a GPU") for line in printed)
    monkeypatch.setattr(infer, "has_bf16", lambda: False)
    call("--use_bf16", "--perf", "--backend", "paddle")
    assert any(line.startswith("--use_bf16: only on a CPU with AVX512-BF16") for line in printed)
    with pytest.raises(InputError, match="Add --backend openvino"):
        call("--use_bf16")
    for switch in ("--use_fp16", "--use_quantize"):
        with pytest.raises(InputError, match="Leave --backend paddle out"):
            call(switch, "--backend", "paddle")


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_threads", "0"], ["--batch_size", "0"], ["--device", "tpu"], ["--device_id", "-1"],
        ["--device", "xpu"], ["--device", "gpu:1", "--device_id", "2"],
        ["--output_file", "a.xml"], ["--floor", "2"],
    ],
)  # fmt: skip
def test_bad_flags(call, flags):
    with pytest.raises(SystemExit) as stopped:
        call(*flags)
    assert stopped.value.code == 2
