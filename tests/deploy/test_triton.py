"""deploy/triton_serving: the repository, its steps without Triton, and a real Triton asked by HTTP and gRPC."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deploy.triton_serving import make_repository, seqcls_grpc_client, start_triton
from deploy.triton_serving.repository import require_one_set, require_repository
from hierarchical.labels import LabelTree
from hierarchical.linear import LINEAR, read_linear, write_linear
from hierarchical.predictor import Predictor
from metric import decide
from utils import InputError, file_digest

from tests.conftest import ROOT, SAMPLE, without_identity  # isort: skip

pytestmark = pytest.mark.slow

LABELS = LabelTree.read(SAMPLE / "label.txt").labels
MODELS = ("tokenizer", "seqcls_model", "seqcls_postprocess", "seqcls")


@pytest.fixture
def make(tiny_export, tmp_path):
    """make(*flags): make_repository.py's main() on the tiny export, in this process; returns the repository."""

    def make(*flags):
        words = ["--model_path", tiny_export, "--output", tmp_path / "models", *flags]
        make_repository.main([str(word) for word in words])
        return tmp_path / "models"

    return make


@pytest.fixture(scope="module")
def expected(predictor, texts):
    """What the predictor says: for each text a list of (class index, name, probability)."""
    return answers(predictor, texts, predictor.decision)


def answers(predictor, texts, decision):
    probabilities = predictor.probabilities(texts)
    rows = decide(probabilities, predictor.tree, decision)
    return [
        [(i, predictor.tree.labels[i], p[i]) for i in np.flatnonzero(row)] if text.strip() else []
        for text, row, p in zip(texts, rows, probabilities)
    ]


def same(found, expected):
    assert [[label[:2] for label in row] for row in found] == [[label[:2] for label in row] for row in expected]
    for one, other in zip(found, expected):
        assert [p for _, _, p in one] == pytest.approx([p for _, _, p in other], abs=1e-4)
    return True


def labels_of(label, name, confidence):
    """Lists of (class index, name, probability) from the three outputs, which must fill up what a row has less."""
    assert label.shape == name.shape == confidence.shape
    assert label.dtype == np.int64 and confidence.dtype == np.float32
    filled = label >= 0
    assert (np.diff(filled.astype(int), axis=1) <= 0).all(), "the filling stands at the end"
    assert (label[~filled] == -1).all() and (confidence[~filled] == 0).all() and (name[~filled] == b"").all()
    assert label.shape[1] == max(1, filled.sum(1).max())
    rows = zip(label, name, confidence)
    return [[(i, n.decode("utf-8"), p) for i, n, p in zip(*row) if i >= 0] for row in rows]


# ---- the repository --------------------------------------------------------------------------------------------------


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


# ---- the steps, without Triton ---------------------------------------------------------------------------------------


class Tensor(SimpleNamespace):
    """Stands in for Triton's: what the steps use of it."""

    def __init__(self, name, value):
        super().__init__(name=name, as_numpy=lambda: value)


def step(models, name, requests):
    """The outputs of a step for requests that Triton hands over together: for each {name: array}, or its error."""
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        TritonError=str,
        InferenceResponse=lambda tensors=None, error=None: error or {t.name: t.as_numpy() for t in tensors},
        get_input_tensor_by_name=lambda request, key: Tensor(key, request[key]) if key in request else None,
    )
    path = models / name / "1" / "model.py"
    config = (models / name / "config.pbtxt").read_text("utf-8")
    sides = {
        side: [{"name": n} for n in re.findall(rf'^{side} {{ name: "(\w+)"', config, re.M)]
        for side in ("input", "output")
    }
    values = re.findall(r'^parameters { key: "(\w+)" value: { string_value: "([^"]*)" } }$', config, re.M)
    parameters = {key: {"string_value": value} for key, value in values}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
        patch.setattr(sys, "path", sys.path[:])
        spec = importlib.util.spec_from_file_location(f"step_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(sides | {"parameters": parameters}), "model_instance_kind": "CPU"})
    return model.execute(requests)


def column(texts):
    return np.array([[text if isinstance(text, bytes) else text.encode("utf-8")] for text in texts], object)


def ask(models, requests):
    """The labels of each request's texts, all requests handed from step to step together."""
    tokens = step(models, "tokenizer", [{"INPUT_0": column(texts)} for texts in requests])
    names = ("input_ids", "token_type_ids")
    logits = step(models, "seqcls_model", [dict(zip(names, values.values())) for values in tokens])
    posts = [{"POST_INPUT": rows["logits"], "POST_TEXT": column(texts)} for rows, texts in zip(logits, requests)]
    found = step(models, "seqcls_postprocess", posts)
    return [labels_of(*(row[f"POST_{name}"] for name in ("label", "label_name", "confidence"))) for row in found]


def test_steps_give_what_the_predictor_gives(make, texts, expected):
    models = make("--backend", "python", "--precision", "float32")
    cuts = [(0, 1), (1, 2), (2, 7), (7, 71), (3, 4)]
    for (start, end), found in zip(cuts, ask(models, [texts[start:end] for start, end in cuts])):
        assert len(found) == end - start
        same(found, expected[start:end])


def test_a_model_without_a_branch_needs_no_texts(make, plain_export):
    models = make("--backend", "python", "--precision", "float32", "--model_path", plain_export)
    config = (models / "seqcls_postprocess/config.pbtxt").read_text("utf-8")
    assert 'name: "POST_TEXT" data_type: TYPE_STRING dims: [ 1 ] optional: true' in config
    logits = Predictor(plain_export).logits([[1, 5, 2]])
    (found,) = step(models, "seqcls_postprocess", [{"POST_INPUT": logits}])
    assert found["POST_label"].tolist() == [np.flatnonzero(logits[0] > 0).tolist()]
    assert "optional" not in (make("--overwrite") / "seqcls_postprocess/config.pbtxt").read_text("utf-8")


def test_requests_are_padded_with_what_the_model_ignores(make, predictor):
    models = make("--backend", "python", "--precision", "float32")
    long, short = predictor.tokenizer.encode(["球队赢了比赛", "球"])
    requests = [{"input_ids": np.array([ids]), "token_type_ids": np.zeros((1, len(ids)), int)} for ids in (long, short)]
    wanted = predictor.logits([short])
    assert step(models, "seqcls_model", requests)[1]["logits"] == pytest.approx(wanted, abs=1e-4)
    config = models / "seqcls_model/config.pbtxt"
    pad_id = 'key: "pad_id" value: { string_value: "%d" }'
    text = config.read_text("utf-8").replace(pad_id % predictor.tokenizer.pad_id, pad_id % predictor.tokenizer.unk_id)
    config.write_text(text, "utf-8")
    assert step(models, "seqcls_model", requests)[1]["logits"] != pytest.approx(wanted, abs=1e-2)


def test_decision_settings_are_obeyed(make, predictor, texts):
    from metric import Decision

    models = make("--backend", "python", "--precision", "float32", "--threshold", "0.9", "--decoding", "topdown")
    [found] = ask(models, [texts[:20]])
    same(found, answers(predictor, texts[:20], Decision(0.9, "topdown")))


def test_int8_texts_do_not_share_a_call(make, tiny_export, texts):
    """Not with those of other requests, nor with those of their own: to the bit, they are answered as alone."""
    models = make("--backend", "python", "--precision", "int8")
    assert "dynamic_batching" not in (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    predictor = Predictor(tiny_export, "int8")
    for parts in ([texts[:1], texts[1:2], texts[2:64]], [texts[5:6], texts[60:3:-1]]):
        tokens = step(models, "tokenizer", [{"INPUT_0": column(part)} for part in parts])
        names = ("input_ids", "token_type_ids")
        found = step(models, "seqcls_model", [dict(zip(names, values.values())) for values in tokens])
        for part, outputs in zip(parts, found):
            for text, logits in zip(part, outputs["logits"], strict=True):
                assert np.array_equal(logits, predictor.logits(predictor.tokenizer.encode([text]))[0])


def test_rows_of_padding_alone(make):
    """As only a client would send that talks to this step without the tokenizer."""
    models = make("--backend", "python", "--precision", "int8")
    (found,) = step(models, "seqcls_model", [dict.fromkeys(("input_ids", "token_type_ids"), np.zeros((2, 3), int))])
    assert found["logits"].shape == (2, 31)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_onnxruntime_back_end_joins_requests_of_models_that_gain_by_it(make, precision):
    models = make("--backend", "onnxruntime", "--precision", precision)
    config = (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    assert ("dynamic_batching { }" in config) == (precision == "float32")
    (found,) = step(models, "tokenizer", [{"INPUT_0": column(["球"])}])
    assert found["OUTPUT_0"].shape == ((1, 16) if precision == "float32" else (1, 3))


def test_an_older_int8_export_is_refused(make, older_export):
    for flags in ([], ["--precision", "int8", "--backend", "python"]):
        with pytest.raises(InputError, match="int8.onnx: an older export, whose answers depend on .* Export it again"):
            make("--model_path", older_export, *flags)
    make("--model_path", older_export, "--precision", "float32")


def test_lengths_for_the_onnxruntime_back_end(make, predictor):
    models = make("--backend", "onnxruntime", "--precision", "float32")
    requests = [{"INPUT_0": column(texts)} for texts in (["球"], ["球", "球" * 17], ["球" * 200])]
    found = step(models, "tokenizer", requests)
    assert [values["OUTPUT_0"].shape for values in found] == [(1, 16), (2, 32), (1, 64)]  # 64: max_seq_length
    for values, request in zip(found, requests):
        ids = predictor.tokenizer.encode([text.decode("utf-8") for text in request["INPUT_0"][:, 0]])
        for row, wanted in zip(values["OUTPUT_0"], ids):
            assert row[: len(wanted)].tolist() == wanted and (row[len(wanted) :] == predictor.tokenizer.pad_id).all()
        assert values["OUTPUT_1"].shape == values["OUTPUT_0"].shape and not values["OUTPUT_1"].any()


@pytest.mark.filterwarnings("ignore:invalid value")  # of the NaN
def test_a_bad_request_fails_alone(make):
    models = make("--backend", "python")
    good, bad = step(models, "tokenizer", [{"INPUT_0": column(["好"])}, {"INPUT_0": column(["好", b"\xff"])}])
    assert good["OUTPUT_0"].shape[0] == 1 and bad.startswith("a text is not UTF-8")
    logits, text = np.full((1, 31), -99, np.float32), {"POST_TEXT": column(["好"])}
    requests = [{"POST_INPUT": logits * np.nan, **text}, {"POST_INPUT": logits, **text}]
    bad, none = step(models, "seqcls_postprocess", requests)
    assert "NaN" in bad
    assert none["POST_label"].tolist() == [[-1]] and none["POST_label_name"].tolist() == [[b""]]


# ---- a real server ---------------------------------------------------------------------------------------------------


CHANGES = "shared-memory,model-repository,statistics,trace,logging"  # what the README has a key for
RESTRICTED = [
    f"--http-restricted-api={CHANGES}:x-api-key=secret",
    f"--grpc-restricted-protocol={CHANGES}:x-api-key=secret",
]


@pytest.fixture(scope="module")
def server(tiny_export, tmp_path_factory):
    """A Triton that serves the float32 model."""
    with running(tiny_export, "float32", tmp_path_factory.mktemp("triton")) as one:
        yield one


@contextlib.contextmanager
def running(export, precision, folder):
    """A Triton of its own process on free ports: `http`, `grpc` and `metrics` are its addresses."""
    for package in ("pytriton", "tritonclient"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -r deploy/triton_serving/requirements.txt")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (s.getsockname()[1] for s in sockets)
    for s in sockets:
        s.close()
    words = [
        "--model_path",
        export,
        "--output",
        folder / "models",
        "--precision",
        precision,
        "--backend",
        "python",
    ]
    make_repository.main([str(word) for word in words])
    command = [sys.executable, "deploy/triton_serving/start_triton.py", "--model_repository", folder / "models"]
    command += ["--http_port", http, "--grpc_port", grpc, "--metrics_port", metrics, "--", *RESTRICTED]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{http}/v2/health/ready", process, folder / "log")
        addresses = {name: f"127.0.0.1:{port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))}
        yield SimpleNamespace(**addresses, process=process, log=folder / "log")
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, (folder / "log").read_text("utf-8", "replace")[-3000:]
    assert not list(folder.glob("triton-*")), "the folder of back ends was left behind"


def wait_until_ready(url, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Triton did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def ask_http(server, texts):
    from tritonclient import http

    with http.InferenceServerClient(server.http) as client:
        tensor = http.InferInput("INPUT", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(column(texts))
        result = client.infer("seqcls", [tensor])
        return labels_of(*map(result.as_numpy, ("label", "label_name", "confidence")))


def test_http(server, texts, expected):
    same(ask_http(server, texts[:64]), expected[:64])
    same(ask_http(server, texts[3:4]), [[]])


def test_http_as_json(server, texts, expected):
    body = {"inputs": [{"name": "INPUT", "shape": [2, 1], "datatype": "BYTES", "data": texts[:2]}]}
    with urllib.request.urlopen(f"http://{server.http}/v2/models/seqcls/infer", json.dumps(body).encode()) as response:
        outputs = {output["name"]: output for output in json.load(response)["outputs"]}
    assert outputs["label"]["shape"][0] == 2
    names = np.reshape(outputs["label_name"]["data"], outputs["label_name"]["shape"])
    assert [[name for name in row if name] for row in names] == [[name for _, name, _ in row] for row in expected[:2]]


def test_grpc_client_with_more_texts_than_a_request_holds(server, texts, expected):
    same(list(seqcls_grpc_client.Client(server.grpc).classify(texts)), expected)


def test_too_many_texts_are_refused(server, texts):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="must be <= 64"):
        ask_http(server, texts[:65])


def test_requests_side_by_side_keep_their_answers(server, texts, expected):
    client = seqcls_grpc_client.Client(server.grpc)
    cuts = [(i, i + 1 + i % 3) for i in range(120)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda cut: list(client.classify(texts[slice(*cut)])), cuts)
        assert all(same(rows, expected[slice(*cut)]) for rows, cut in zip(found, cuts))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_answer_depends_on_its_text_alone(request, tiny_export, texts, tmp_path, precision):
    """Asked alone, or by one of eight clients at once in requests of any size and order."""
    folder = contextlib.nullcontext(request.getfixturevalue("server"))
    with folder if precision == "float32" else running(tiny_export, precision, tmp_path) as one:
        client = seqcls_grpc_client.Client(one.grpc)
        alone = [next(client.classify([text])) for text in texts]
        orders = [np.random.default_rng(seed).permutation(len(texts)) for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            sizes = [1, 2, 3, 5, 10, 20, 40, 64]
            parts = [order[i : i + n] for order, n in zip(orders, sizes) for i in range(0, len(texts), n)]
            for rows, found in zip(
                parts, pool.map(lambda part: list(client.classify([texts[i] for i in part])), parts)
            ):
                for i, labels in zip(rows, found, strict=True):
                    assert [label[:2] for label in labels] == [label[:2] for label in alone[i]]
                    assert [p for *_, p in labels] == pytest.approx([p for *_, p in alone[i]], abs=1e-5)


def test_bad_utf_8_is_answered_and_the_next_request_too(server, texts, expected):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="a text is not UTF-8"):
        ask_http(server, [b"\xff\xfe", "好".encode()])
    same(ask_http(server, texts[:1]), expected[:1])


def test_long_texts(server, predictor):
    texts = ["球队赢了" * 50_000, "x\0y"] * 4
    same(ask_http(server, texts), answers(predictor, texts, predictor.decision))


def status_of(url, body=None, headers=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_bodies_that_would_overflow_a_thread(server):
    """With the usual 8 MiB of stack the chunks end the server, and a body of 5 MB from some clients does."""
    text = "文" * 26_000
    body = {"inputs": [{"name": "INPUT", "shape": [64, 1], "datatype": "BYTES", "data": [text] * 64}]}
    body = json.dumps(body, ensure_ascii=False).encode()
    assert len(body) > 4_900_000 and status_of(f"http://{server.http}/v2/models/seqcls/infer", body) == 200
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(b"POST /v2/models/seqcls/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"1\r\n{\r\n" * 600_000 + b"0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 500 ")  # no JSON, and answered
    assert "has ended Triton" not in server.log.read_text("utf-8", "replace")


def test_flags_are_passed_on(server):
    """Nobody without the key may change the server; asking is free."""
    log = f"http://{server.http}/v2/logging"
    assert status_of(log, b"{}") == 403 and status_of(log, b"{}", {"x-api-key": "secret"}) == 200
    assert status_of(f"http://{server.http}/v2/health/ready") == 200


def test_a_crash_is_told_and_mended(server, texts, expected):
    (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGSEGV)
    end = time.monotonic() + 60
    while "SIGSEGV has ended Triton" not in server.log.read_text("utf-8", "replace"):
        assert time.monotonic() < end
        time.sleep(0.1)
    wait_until_ready(f"http://{server.http}/v2/health/ready", server.process, server.log)
    same(ask_http(server, texts[:2]), expected[:2])


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_in_front(server, predictor, tmp_path):
    """The sample configuration, with the ports of this test in it."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    http, grpc = (one.getsockname()[1] for one in sockets)
    for one in sockets:
        one.close()
    text = (ROOT / "deploy/triton_serving/nginx.conf").read_text("utf-8")
    for old, new in (
        ("http://127.0.0.1:8000", f"http://{server.http}"), ("grpc://127.0.0.1:8001", f"grpc://{server.grpc}"),
        ("listen 8080;", f"listen {http};"), ("listen 8081 ", f"listen {grpc} "), ('"change-me"', '"a key of ours"'),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "triton.conf").write_text(text, "utf-8")
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in "client_body proxy fastcgi uwsgi scgi".split()
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; daemon off; events {{}}\nhttp {{ access_log off; {temporary} include triton.conf; }}\n"
    )
    command = ["nginx", "-e", tmp_path / "errors", "-c", tmp_path / "nginx.conf"]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(command)
    try:
        wait_until_ready(f"http://127.0.0.1:{http}/v2/health/ready", process, tmp_path / "errors")
        url, key = f"http://127.0.0.1:{http}/v2/models/seqcls/infer", {"x-api-key": "a key of ours"}
        body = b'{"inputs": [{"name": "INPUT", "shape": [1, 1], "datatype": "BYTES", "data": ["%s"]}]}'
        assert status_of(url, body % b"a") == 401 and status_of(url, body % b"a", key) == 200
        assert status_of(url, body % (b"a" * 5_000_000), key) == 413
        for path in ("/v2/logging", "/v2/repository/index", "/v2/models/seqcls/config"):
            assert status_of(f"http://127.0.0.1:{http}{path}", b"{}", key) == 404
        with pytest.raises(InputError, match="status: 401. Send the server's key"):
            list(seqcls_grpc_client.Client(f"127.0.0.1:{grpc}").classify(["文"]))
        texts = ["文" * 30_000] * 40 + ["球"]  # more than one request may hold
        found = list(seqcls_grpc_client.Client(f"127.0.0.1:{grpc}", api_key="a key of ours").classify(texts))
        same(found, answers(predictor, texts, predictor.decision))
    finally:
        process.terminate()
        process.wait()


def test_requests_of():
    cut = seqcls_grpc_client.requests_of
    large = b"x" * (seqcls_grpc_client.REQUEST_BYTES + 1)
    assert [len(batch) for batch in cut([b"a"] * 130, 64)] == [64, 64, 2] and list(cut([], 64)) == []
    assert [list(map(len, batch)) for batch in cut([b"a", large, b"b", b"c"], 64)] == [[1], [len(large)], [1, 1]]


def test_metrics(server):
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
        assert 'nv_inference_request_success{model="seqcls"' in response.read().decode()


def test_client_as_typed(server, data_dir, predictor, capsys):
    data = data_dir(data_txt="门将扑出点球\n\n央行下调利率\t体育,体育##足球\n")
    words = ["--url", server.grpc, "--dataset_dir", str(data)]
    seqcls_grpc_client.main(words)
    texts, lines = ["门将扑出点球", "", "央行下调利率"], []
    for text, row in zip(texts, answers(predictor, texts, predictor.decision)):
        lines += [f"text: {text}", f"label: {','.join(str(i) for i, _, _ in row)}"]
        lines += [f"label name: {','.join(name for _, name, _ in row)}"]
        lines += [f"confidence: {','.join(f'{p:.4f}' for _, _, p in row)}", "-" * 20]
    assert capsys.readouterr().out.splitlines() == lines
    with pytest.raises(InputError, match="unknown model: 'none'"):
        seqcls_grpc_client.main([*words, "--model_name", "none"])


def test_the_client_refuses_models_of_two_exports(server, monkeypatch):
    """The server's own four fit; of one that says otherwise nothing is asked."""
    seen = []
    monkeypatch.setattr(seqcls_grpc_client, "require_one_set", lambda where, made_of: seen.append((where, made_of)))
    seqcls_grpc_client.Client(server.grpc)
    assert seen[0][0] == server.grpc and set(seen[0][1]) == set(MODELS) and len(set(seen[0][1].values())) == 1
    assert re.fullmatch("[0-9a-f]{16}", seen[0][1]["seqcls"])
    with pytest.raises(InputError, match="tokenizer and seqcls were not made together"):
        require_one_set(server.grpc, seen[0][1] | {"tokenizer": "0"})


def test_client_without_a_server():
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port}, model seqcls: .* is it up"):
        seqcls_grpc_client.main(["--url", f"127.0.0.1:{port}", "--texts", "文"])
    for words in ([], ["--texts", "文", "--timeout", "0"]):
        with pytest.raises(SystemExit):
            seqcls_grpc_client.main(words)


# ---- what keeps it running -------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """keeper(code): a Keeper of a process that runs this Python code, and counts its starts in the file `starts`."""
    monkeypatch.setattr(start_triton, "SHORTEST", 0.1)
    count = f"import os, resource, signal, sys\nopen({str(tmp_path / 'starts')!r}, 'a').write('x')\n"
    count += f"n = os.path.getsize({str(tmp_path / 'starts')!r})\n"
    return lambda code: start_triton.Keeper([sys.executable, "-c", count + code], dict(os.environ))


def test_it_is_started_again_after_a_signal(keeper, tmp_path, printed):
    crash = "os.kill(os.getpid(), signal.SIGSEGV if n < 3 else signal.SIGKILL) if n < 4 else sys.exit(0)"
    began = time.monotonic()
    assert keeper(crash).run() == 0
    assert time.monotonic() - began > 0.7 and (tmp_path / "starts").read_text() == "xxxx"
    assert [re.sub(r"after \d+ s", "after N s", line) for line in printed] == [
        f"{name} has ended Triton after N s; it is started again in {pause} s"
        for name, pause in (("SIGSEGV", 0.1), ("SIGSEGV", 0.2), ("SIGKILL", 0.4))
    ]


def test_pauses_grow_to_a_limit_and_shrink_after_a_good_run(keeper, monkeypatch, printed):
    monkeypatch.setattr(start_triton, "LONGEST", 0.2)
    crash = "os.kill(os.getpid(), signal.SIGSEGV) if n < 5 else sys.exit(0)"
    keeper(crash).run()
    assert [float(line.split()[-2]) for line in printed] == [0.1, 0.2, 0.2, 0.2]
    printed.clear()
    monkeypatch.setattr(start_triton, "STEADY", 0)
    keeper("os.kill(os.getpid(), signal.SIGSEGV) if n < 8 else sys.exit(0)").run()
    assert [float(line.split()[-2]) for line in printed] == [0.1, 0.1]


@pytest.mark.parametrize("code", [0, 1, 7])
def test_an_end_is_an_end(keeper, tmp_path, code):
    assert keeper(f"sys.exit({code})").run() == code and (tmp_path / "starts").read_text() == "x"


def test_it_can_be_ended_while_it_waits(keeper, tmp_path, monkeypatch):
    monkeypatch.setattr(start_triton, "SHORTEST", 60)
    one = keeper("os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(one.logger, "error", lambda line: one.end(signal.SIGINT, None))
    assert one.run() == 0 and (tmp_path / "starts").read_text() == "x"


def test_the_stack_of_the_server(keeper, monkeypatch):
    import resource

    check = "sys.exit(resource.getrlimit(resource.RLIMIT_STACK)[0] >> 20)"
    megabytes, free = 1 << 20, resource.RLIM_INFINITY
    for limits, expected in (
        ((8 * megabytes, free), 256), ((free, free), 256), ((512 * megabytes, free), 512),
        ((8 * megabytes, 100 * megabytes), 100),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda what, limits=limits: limits)
            assert start_triton.stack_size() >> 20 == expected
    if resource.getrlimit(resource.RLIMIT_STACK)[1] == free:
        monkeypatch.setattr(start_triton, "STACK", 200 << 20)  # an exit code has 8 bits
        assert keeper(check).run() == 200


def test_start_refuses_what_it_cannot_run(make, monkeypatch, tmp_path):
    def start(*words):
        start_triton.main([str(word) for word in words])

    with pytest.raises(InputError, match="none: no model repository"):
        start("--model_repository", tmp_path / "none")
    with pytest.raises(InputError, match="config.pbtxt: needs NVIDIA's image"):
        start("--model_repository", make())
    for words in (["--http_port", "0"], ["models"]):
        with pytest.raises(SystemExit):
            start(*words)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="nvidia-pytriton, .* is not installed"):
        start("--model_repository", make("--overwrite", "--backend", "python"))


def test_models_of_two_exports_are_not_started(make, tiny_export, tmp_path):
    models = shutil.copytree(make("--backend", "python"), tmp_path / "one")
    require_repository(models)
    other = make("--backend", "python", "--overwrite", "--threshold", "0.9")
    for name in MODELS:
        mixed = shutil.copytree(models, tmp_path / f"with {name}")
        shutil.rmtree(mixed / name)
        with pytest.raises(InputError, match=f"without {name}, as after a make_repository.py that was ended"):
            require_repository(mixed)
        shutil.copytree(other / name, mixed / name)
        with pytest.raises(InputError, match="were not made together, and would give wrong answers"):
            require_repository(mixed)
    # within a model, by hand
    for name, file, what in (
        ("tokenizer", "vocab.txt", "vocab.txt: is not the file that goes with model.onnx"),
        ("tokenizer", "label.txt", "label.txt: is not the file that goes with linear.safetensors"),
        ("seqcls_postprocess", "label.txt", "label.txt: differs from the labels"),
    ):
        mixed = shutil.copytree(models, tmp_path / f"{name} {file}")
        lines = (mixed / name / "1" / file).read_text("utf-8").splitlines()
        (mixed / name / "1" / file).write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n", "utf-8")
        with pytest.raises(InputError, match=what):
            require_repository(mixed)
    for name in ("tokenizer", "seqcls_postprocess"):
        mixed = shutil.copytree(models, tmp_path / f"{name} {LINEAR}")
        write_linear(mixed / name / "1", read_linear(mixed / name / "1", LABELS).scaled(1.0, 0.0), LABELS)
        with pytest.raises(InputError, match=f"{LINEAR}: (is not the file that goes with|not of this model)"):
            require_repository(mixed)
    (mixed / "seqcls_postprocess" / "1" / LINEAR).unlink()
    with pytest.raises(InputError, match=f"{LINEAR}: not of this model"):
        require_repository(mixed)
    for file in ("vocab.txt", "label.txt"):  # the form for the image is the same but for its back end
        assert (models / "tokenizer/1" / file).read_bytes() == (tiny_export / file).read_bytes()


def test_exit_code_and_message_for_users(tmp_path):
    command = [sys.executable, "deploy/triton_serving/make_repository.py", "--model_path", str(tmp_path / "export")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "export.onnx: no such file" in done.stderr and "Traceback" not in done.stderr
