"""Fixtures that several test files share.

    data_dir         a factory: writes a small data folder with any files replaced, returns its path
    rows_dir         such a folder with 20 train rows
    run_train        calls train.main()
    sample_rows      a data folder of 48 train and 24 dev rows of the sample data
    run_prune        calls prune.main() on tiny_checkpoint and sample_rows
    openvino         the library as the product loads it; skips where it is not installed
    printed          the messages of the project's logger, as a list that grows
    paddle           the library, on the CPU; the seconds its import takes are spent once per session
    tiny_checkpoint  a checkpoint folder as train.py leaves it, with random weights, for the labels of data/label.txt
    chromium         a headless browser; skips where there is none
    real_milvus      the address of a Milvus server: that in the environment variable MILVUS_URI, else a Milvus Lite
    tiny_export      the same, exported by export_model.py; for the tests of servers hybrid_export
    branch           a linear branch for its labels, which moves many of them
    hybrid_checkpoint, hybrid_export   tiny_checkpoint with this branch, and its export
    older_export     that with the int8 model which versions to 0.9 made: one scale for all activations of a call

tiny_checkpoint and sample_rows belong to the whole session: read from them, and change a copy
(`shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")`).
"""

import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

from tests.ports import free_ports

# The same examples in every run: a change is not refused for a rare one that another brought. --hypothesis-profile new
# draws others.
hypothesis.settings.register_profile("new", deadline=None, database=None)
hypothesis.settings.register_profile("tests", hypothesis.settings.get_profile("new"), derandomize=True)
hypothesis.settings.load_profile("tests")

# An assertion of these that fails shows its values, as one of a test file does.
pytest.register_assert_rewrite(
    "tests.analysis.evaluating", "tests.doccano_exports", "tests.predicting", "tests.trainings"
)

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data"

# A bias of the keys shifts all attention scores of a query alike, which soft-max does not see: its gradient is rounding
# noise, and Adam scales noise up to full steps.
NO_GRADIENT = "k_proj.bias"

SMALL_DATA = {
    "label.txt": "体育\n体育##足球\n体育##篮球\n财经\n财经##股票\n",
    "train.txt": "国足今晚出战\t体育,体育##足球\n联赛第三轮开打\t体育,体育##篮球\n两市小幅收涨\t财经,财经##股票\n"
    "球队老板公司上市\t体育,财经,财经##股票\n",
    "dev.txt": "前锋梅开二度\t体育,体育##足球\n大盘午后跳水\t财经,财经##股票\n",
    "data.txt": "门将扑出点球\n央行下调利率\n",
}


def pytest_collection_modifyitems(items):
    """The files with the most slow tests first: a long one that begins last would keep one process busy alone."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def data_dir(tmp_path):
    """data_dir(**contents) writes a data folder and returns its path: label.txt, train.txt, dev.txt, data.txt.

    A keyword is a file name with `_` for the dot, its value str, bytes, or None for "leave this file out":
    `data_dir(dev_txt=None, train_jsonl='{"text": "文", "labels": ["体育"]}')`. What is not named is SMALL_DATA's.
    """

    def write(**contents):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, content in (SMALL_DATA | {key.replace("_", "."): value for key, value in contents.items()}).items():
            if content is not None:
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return folder

    return write


@pytest.fixture(scope="session")
def openvino():
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino, see requirements-openvino.txt")
    from hierarchical.engines import load_openvino

    return load_openvino()


@pytest.fixture
def rows_dir(data_dir):
    """A data folder of 20 train rows, 10 steps an epoch at batch size 2."""
    rows = [("国足今晚出战", "体育,体育##足球"), ("联赛第三轮", "体育,体育##篮球"), ("两市收涨", "财经,财经##股票")]
    text = "".join(f"{rows[i % 3][0]}第{i}期{'消息' * (i % 4)}\t{rows[i % 3][1]}\n" for i in range(20))
    return data_dir(train_txt=text)


def without_identity(folder):
    """A checkpoint or an export that says no longer which files belong together, as older versions wrote it."""
    import onnx
    from safetensors.numpy import load_file, save_file

    (folder / "export.json").unlink(missing_ok=True)
    for path in folder.glob("model.safetensors"):
        save_file(load_file(path), path, {"format": "np"})
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        properties = {entry.key: entry.value for entry in model.metadata_props if entry.key != "identity"}
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, path)
    return folder


@pytest.fixture(autouse=True)
def own_logger():
    """A logger made in one test would go on writing to that test's captured stderr."""
    logging.getLogger("hierarchical").handlers.clear()


@pytest.fixture
def printed():
    """The messages of the project's logger, as a list that grows."""
    messages, logger = [], logging.getLogger("hierarchical")
    collector, before = logging.Handler(), logger.handlers[:]
    collector.emit = lambda record: messages.append(record.getMessage())
    logger.handlers[:] = [collector]
    yield messages
    logger.handlers[:] = before


@pytest.fixture
def chromium():
    """A headless Chromium, as a browser of Playwright; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as engine:
        try:
            browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def real_milvus(milvus_server):
    """The address of a Milvus server. What a test makes, it drops.

    pymilvus keeps connections and pings them; a Milvus Lite breaks idle ones off for that, whatever asks it just then.
    """
    yield milvus_server
    from pymilvus.client.connection_manager import ConnectionManager

    ConnectionManager.get_instance().close_all()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    """MILVUS_URI, else a Milvus Lite in a process of its own; skips where neither is there."""
    if os.environ.get("MILVUS_URI"):
        yield os.environ["MILVUS_URI"]
        return
    if not importlib.util.find_spec("milvus_lite"):
        pytest.skip("MILVUS_URI names no Milvus server, as in http://127.0.0.1:19530, and milvus-lite is not installed")
    from pymilvus import MilvusClient, MilvusException

    folder = tmp_path_factory.mktemp("milvus")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", folder / "data"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                # the port is open a while before anybody is answered
                MilvusClient(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except (OSError, MilvusException):
                said = (folder / "log").read_text("utf-8", errors="replace")[-3000:]
                assert server.poll() is None and time.monotonic() < end, said
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def paddle():
    """paddle, set to the CPU as the scripts do it; also keeps subprocesses of the tests from starting many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from hierarchical.devices import set_device

    paddle = set_device("cpu")
    # At each sum in a static graph, for a warning, Paddle has Python look for the source of every caller among all that
    # is loaded: with pytest's callers and modules that is half of an export.
    paddle.base.layers.math_op_patch.inspect = SimpleNamespace(stack=lambda: [(None, "", 0)] * 2)
    return paddle


@pytest.fixture
def run_train(paddle):
    """run_train(*flags) calls train.main() as the command line would, with QUICK's flags first."""
    import train
    from tests.trainings import QUICK, call

    return lambda *flags: call(train, *QUICK, *flags)


@pytest.fixture(scope="session")
def sample_rows(tmp_path_factory):
    """48 train and 24 dev rows of the sample data."""
    folder = tmp_path_factory.mktemp("sample")
    shutil.copy(SAMPLE / "label.txt", folder)
    for name, every in (("train.txt", 31), ("dev.txt", 12)):
        lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(lines[::every]), encoding="utf-8")
    return folder


@pytest.fixture
def run_prune(paddle, tiny_checkpoint, sample_rows, tmp_path):
    """run_prune(*flags) prunes tiny_checkpoint into tmp_path/prune; later flags win."""
    import prune
    from tests.trainings import call

    quick = ["--device", "cpu", "--per_device_train_batch_size", "8", "--save_steps", "2", "--logging_steps", "1"]
    paths = ("--dataset_dir", sample_rows, "--params_dir", tiny_checkpoint, "--output_dir", tmp_path / "prune")
    return lambda *flags: call(prune, *quick, *paths, *flags)


@pytest.fixture(scope="session")
def tiny_checkpoint(paddle, tmp_path_factory):
    """The path of a checkpoint with random weights (seed 0): data/tiny-ernie, 31 labels, max_seq_length 64.

    Its classifier is spread out, so that the probabilities of different texts differ by far more than rounding errors,
    reach from near 0 to near 1, and a text gets about a dozen labels.
    """
    from hierarchical.checkpoints import save_checkpoint
    from hierarchical.encoders import read_config
    from hierarchical.modeling import build_model, library_config, predict_logits
    from hierarchical.tokenizer import load_tokenizer
    from metric import Decision
    from utils import LabelTree, load_rows

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tree, config = LabelTree.read(SAMPLE / "label.txt"), library_config(read_config(SAMPLE / "tiny-ernie"))
    config.num_labels = len(tree)
    config.id2label, config.label2id = dict(enumerate(tree.labels)), tree.index
    paddle.seed(0)
    model, tokenizer = build_model(config), load_tokenizer(SAMPLE / "tiny-ernie", 64)
    model.classifier.weight.set_value(model.classifier.weight * 30)
    ids = tokenizer.encode(load_rows(SAMPLE / "dev.txt", tree).texts[:64])
    model.classifier.bias.set_value(-predict_logits(model, ids, tokenizer.pad_id, 32).mean(0) - 1)
    save_checkpoint(folder, model, tokenizer, tree, Decision())
    return folder


@pytest.fixture(scope="session")
def branch():
    """A LinearBranch for the labels of data/label.txt, of 300 train rows; 3 x decision value + 0.5."""
    from hierarchical.linear_training import fit_linear
    from utils import LabelTree, load_rows

    tree = LabelTree.read(SAMPLE / "label.txt")
    rows = load_rows(SAMPLE / "train.txt", tree)
    return fit_linear(rows.texts[:300], rows.labels[:300], len(tree)).scaled(3.0, 0.5)


@pytest.fixture(scope="session")
def hybrid_checkpoint(tiny_checkpoint, branch, tmp_path_factory):
    """The path of tiny_checkpoint with a linear branch; read from it, and change a copy."""
    from hierarchical.checkpoints import Checkpoint, save_checkpoint

    folder, opened = tmp_path_factory.mktemp("hybrid") / "checkpoint", Checkpoint.open(tiny_checkpoint)
    save_checkpoint(folder, opened.load_model(), opened.tokenizer, opened.tree, opened.decision, linear=branch)
    return folder


@pytest.fixture(scope="session")
def plain_export(paddle, tiny_checkpoint, tmp_path_factory):
    """The path of tiny_checkpoint's export in every format and precision; read from it, and change a copy."""
    return exported(paddle, tiny_checkpoint, tmp_path_factory.mktemp("tiny") / "export")


@pytest.fixture(scope="session")
def tiny_export(plain_export):
    return plain_export


@pytest.fixture(scope="session")
def hybrid_export(paddle, hybrid_checkpoint, tmp_path_factory):
    """The same of hybrid_checkpoint."""
    return exported(paddle, hybrid_checkpoint, tmp_path_factory.mktemp("hybrid") / "export")


def exported(paddle, checkpoint, folder):
    from hierarchical.checkpoints import Checkpoint
    from hierarchical.exporting import export_checkpoint

    opened, precisions = Checkpoint.open(checkpoint), ("float32", "float16", "int8")
    export_checkpoint(paddle, opened, opened.load_model(), folder, precisions=precisions)
    return folder


@pytest.fixture(scope="session")
def older_export(tiny_export, tmp_path_factory):
    """The path of tiny_export with an int8.onnx as versions to 0.9 wrote it; read from it, and change a copy."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from hierarchical.exporting import save_onnx
    from utils import LabelTree

    folder = shutil.copytree(tiny_export, tmp_path_factory.mktemp("older") / "export")
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    names = (str(folder / f"{precision}.onnx") for precision in ("float32", "int8"))
    quantize_dynamic(*names, per_channel=True, weight_type=QuantType.QInt8, extra_options=extra)
    save_onnx(onnx.load(folder / "int8.onnx"), folder / "int8.onnx", LabelTree.read(SAMPLE / "label.txt").labels)
    (folder / "export.json").unlink()  # which did not list files then
    return folder
