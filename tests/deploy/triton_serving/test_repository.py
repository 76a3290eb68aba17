"""make_repository.py: what is written, and what is refused."""

import re
import shutil
import subprocess
import sys

import pytest

from hierarchical.predictor import Predictor
from utils import InputError, file_digest

from tests.conftest import without_identity  # isort: skip

from tests.deploy.triton_serving.asking import answers, ask, MODELS, same  # isort: skip


pytestmark = pytest.mark.slow


def test_files(make, tiny_export):
    models = make("--backend", "python", "--precision", "float32")
    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == sorted(MODELS)
    assert [path.name for path in models.parent.iterdir()] == ["models"], "nothing is left beside it"
    assert list((models / "seqcls" / "1").iterdir()) == []
    assert sorted(path.name for path in (models / "seqcls_model" / "1").iterdir()) == ["model.onnx", "model.py"]
    assert file_digest(models / "seqcls_model/1/model.onnx") == file_digest(tiny_export / "float32.onnx")
    for name in ("label.txt", "decision.json", "config.json", "vocab.txt", "tokenizer_config.json"):
        assert (models / "tokenizer/1" / name).exists()
    for name in ("label.txt", "decision.json"):
        texts = [(folder / name).read_text("utf-8") for folder in (tiny_export, models / "seqcls_postprocess/1")]
        assert texts[0] == texts[1]


def test_what_is_shipped_needs_nothing_else(make):
    """Every project module that a shipped one imports at its top is shipped too, and none of them is paddle's."""
    models = make("--backend", "python")
    for name in ("tokenizer", "seqcls_postprocess"):
        code = "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('t'); import model"
        code += "; sys.exit(sorted({'paddle', 'paddlenlp', 'deploy', 'onnxruntime'} & set(sys.modules)) or 0)"
        folder = models / name / "1"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "file"),
    [
        ([], "int8"),
        (["--precision", "float32"], "float32"),
        (["--device", "gpu"], "float16"),
        (["--device", "gpu", "--precision", "int8"], "int8"),
    ],
)
def test_precision(make, tiny_export, flags, file):
    assert file_digest(make(*flags) / "seqcls_model/1/model.onnx") == file_digest(tiny_export / f"{file}.onnx")


def test_gpu_without_float16(make, tiny_export, tmp_path):
    shutil.copytree(tiny_export, tmp_path / "export", ignore=shutil.ignore_patterns("float16*"))
    models = make("--model_path", tmp_path / "export", "--device", "gpu")
    assert file_digest(models / "seqcls_model/1/model.onnx") == file_digest(tiny_export / "float32.onnx")
    config = (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    assert "kind: KIND_GPU" in config and "intra_op_thread_count" not in config
    for name in ("tokenizer", "seqcls_postprocess"):
        assert "kind: KIND_CPU" in (models / name / "config.pbtxt").read_text("utf-8")


def test_one_of_several_gpus(make):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    models = make("--device", "cuda:1")
    config = (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    (group,) = text_format.Parse(config, model_config_pb2.ModelConfig()).instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU and list(group.gpus) == [1]
    assert file_digest(models / "seqcls_model/1/model.onnx") == file_digest(
        make("--overwrite", "--device", "gpu") / "seqcls_model/1/model.onnx"
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_configs_are_what_triton_reads(make, tiny_export, backend):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    models, configs = make("--backend", backend, "--instances", "3"), {}
    for name in MODELS:
        text = (models / name / "config.pbtxt").read_text("utf-8")
        configs[name] = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert configs[name].name == name and configs[name].max_batch_size == 64
    kinds = {model_config_pb2.TYPE_STRING: "text", model_config_pb2.TYPE_INT64: "int", model_config_pb2.TYPE_FP32: "fp"}
    found = {
        name: [[(t.name, kinds[t.data_type], *t.dims) for t in side] for side in (config.input, config.output)]
        for name, config in configs.items()
    }
    tokens = [("input_ids", "int", -1), ("token_type_ids", "int", -1)]
    results = [("label", "int", -1), ("confidence", "fp", -1), ("label_name", "text", -1)]
    results += [("certainty", "fp", 1)]
    assert found == {
        "tokenizer": [[("INPUT_0", "text", 1)], [("OUTPUT_0", "int", -1), ("OUTPUT_1", "int", -1)]],
        "seqcls_model": [tokens, [("logits", "fp", 31)]],
        "seqcls_postprocess": [
            [("POST_INPUT", "fp", 31), ("POST_TEXT", "text", 1)],
            [(f"POST_{name}", *rest) for name, *rest in results],
        ],
        "seqcls": [[("INPUT", "text", 1)], results],
    }
    model = configs["seqcls_model"]
    assert model.backend == backend and model.instance_group[0].count == 3
    assert all(tensor.allow_ragged_batch == (backend == "python") for tensor in model.input)
    assert not model.dynamic_batching.max_queue_delay_microseconds
    for step in configs["seqcls"].ensemble_scheduling.step:  # every wire ends at a tensor of the model it names
        inputs, outputs = found[step.model_name]
        assert sorted(step.input_map) == sorted(name for name, *_ in inputs)
        assert sorted(step.output_map) == sorted(name for name, *_ in outputs)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_graph_has_the_tensors_of_its_config(make, precision):
    """NVIDIA's ONNX Runtime back end refuses a model whose names, types or sizes are not those of config.pbtxt."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    import onnx
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    folder = make("--backend", "onnxruntime", "--precision", precision) / "seqcls_model"
    config = text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())
    types = {onnx.TensorProto.INT64: model_config_pb2.TYPE_INT64, onnx.TensorProto.FLOAT: model_config_pb2.TYPE_FP32}
    model = onnx.load(folder / "1" / "model.onnx")  # the name that the back end looks for
    onnx.checker.check_model(model)
    for tensors, described in ((model.graph.input, config.input), (model.graph.output, config.output)):
        assert {tensor.name for tensor in tensors} == {tensor.name for tensor in described}
        shapes = {tensor.name: tensor.type.tensor_type for tensor in tensors}
        for tensor in described:
            batch, *sizes = shapes[tensor.name].shape.dim  # max_batch_size > 0: the config leaves the batch out
            assert types[shapes[tensor.name].elem_type] == tensor.data_type
            assert not batch.HasField("dim_value"), "any number of texts"
            assert [size.dim_value or -1 for size in sizes] == list(tensor.dims)
    assert config.parameters.pop("made_of").string_value
    assert {key: value.string_value for key, value in config.parameters.items()} == {"intra_op_thread_count": "1"}


def test_a_model_without_token_types(make, tiny_export, tmp_path):
    """ERNIE-M's graph has input_ids alone: so has its repository."""
    import onnx

    without_identity(shutil.copytree(tiny_export, tmp_path / "export"))
    graph = onnx.load(str(tiny_export / "float32.onnx"))
    [tensor] = [tensor for tensor in graph.graph.input if tensor.name == "token_type_ids"]
    graph.graph.input.remove(tensor)
    zeros = onnx.helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"])
    graph.graph.node.insert(0, zeros)
    onnx.save(graph, str(tmp_path / "export/float32.onnx"))
    models = make("--model_path", tmp_path / "export", "--precision", "float32", "--backend", "python")
    for name in MODELS:
        assert "token_type_ids" not in (models / name / "config.pbtxt").read_text("utf-8")
    assert "OUTPUT_1" not in (models / "tokenizer/config.pbtxt").read_text("utf-8")
    same(ask(models, [["足球"]])[0], answers(Predictor(tiny_export), ["足球"], Predictor(tiny_export).decision))


def test_nothing_is_replaced_unasked(make, tmp_path):
    models = make()
    (models / "another_model").mkdir()
    (models / "seqcls_model/config.pbtxt").write_text("tuned by hand", "utf-8")
    with pytest.raises(InputError, match="models: holds seqcls, tokenizer, .* already. Pass --overwrite"):
        make()
    assert (models / "seqcls_model/config.pbtxt").read_text("utf-8") == "tuned by hand"
    make("--overwrite", "--backend", "python")
    assert 'backend: "python"' in (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    assert (models / "another_model").is_dir()


def test_bad_input(make, tiny_export, tmp_path):
    (tmp_path / "file").write_text("x", "utf-8")
    shutil.copytree(tiny_export, tmp_path / "export")
    (tmp_path / "export/label.txt").write_text("别的\n", "utf-8")
    for flags, message in (
        (["--output", tmp_path / "file"], "file: is a file"),
        (["--model_path", tmp_path / "none"], "none.onnx: no such file"),
        (["--model_path", tmp_path / "export"], "label.txt: is not the file that goes with export.json"),
        (["--top_k", "0"], "top_k must be a whole number"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            make(*flags)
    assert not (tmp_path / "models").exists()
    with pytest.raises(SystemExit):
        make("--instances", "0")
