"""cuda_graphs.py, with sessions on the CPU: the shapes, the order of rows, and who may run beside whom."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hierarchical import cuda_graphs
from hierarchical.cuda_graphs import CudaGraphModel, fill_up, filled_shape
from hierarchical.engines import OnnxModel
from hierarchical.errors import InputError
from hierarchical.predictor import Predictor


@pytest.mark.parametrize(
    ("shape", "longest", "expected"),
    [
        ((1, 2), 128, (1, 16)),
        ((2, 16), 128, (2, 16)),
        ((3, 17), 128, (4, 32)),
        ((256, 128), 128, (256, 128)),
        ((129, 97), 100, (256, 100)),  # not more than the model has positions for
        ((5, 60), 64, (8, 64)),
    ],
)
def test_shapes(shape, longest, expected):
    assert filled_shape(*shape, longest) == expected


def test_filling_up():
    found = fill_up(np.array([[1, 5, 2], [1, 2, 0]]), (4, 5), 0)
    assert found.tolist() == [[1, 5, 2, 0, 0], [1, 2, 0, 0, 0], [1, 5, 2, 0, 0], [1, 5, 2, 0, 0]]
    assert found.dtype == np.int64


@pytest.fixture
def runs(monkeypatch):
    """What the sessions were asked: (session, thread, number of the graph, other sessions at work), in order."""
    asked, at_work = [], []

    class Session:
        def __init__(self, session):
            self.session = session

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run_with_iobinding(self, binding, options):
            graph = int(options.get_run_config_entry("gpu_graph_id"))
            at_work.append(self)
            asked.append((self, threading.get_ident(), graph, len(at_work) - 1))
            time.sleep(0.003)
            self.session.run_with_iobinding(binding, options)
            at_work.remove(self)

    class StandIn(OnnxModel):
        def __init__(self, path, device="cpu", device_id=0, cuda_graphs=False):
            super().__init__(path)
            self.session = Session(self.session)

    monkeypatch.setattr(cuda_graphs, "OnnxModel", StandIn)
    return asked


@pytest.fixture
def batches():
    """40 batches of 1 to 8 rows with 3 to 64 tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(5, 1000, (rng.integers(1, 9), rng.integers(3, 65))) for _ in range(40)]


def test_four_callers(tiny_export, runs, batches):
    path = tiny_export / "float32.onnx"
    plain, model = OnnxModel(path), CudaGraphModel(path, "cpu", 0, 4, 64, 0)
    assert model.labels == plain.labels and model.metadata == plain.metadata and not model.singly
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model, batches * 3))
    for batch, logits in zip(batches * 3, found):
        np.testing.assert_allclose(logits, plain(batch), atol=1e-4)  # of its own rows, in their order

    threads = {session: {thread for other, thread, *_ in runs if other is session} for session, *_ in runs}
    assert len(threads) == 4 and all(len(of_one) == 1 for of_one in threads.values())  # graphs are kept by thread
    assert len(set().union(*threads.values())) == 4
    seen = set()
    for number, (session, _, graph, beside) in enumerate(runs):
        assert graph > 0
        if (session, graph) not in seen:
            assert beside == 0  # nothing is at work while a graph is captured
            mine = [run[2] for run in runs[number:] if run[0] is session][: cuda_graphs.RUNS]
            assert mine == [graph] * cuda_graphs.RUNS
        seen.add((session, graph))
    assert max(beside for *_, beside in runs) > 0  # batches did run side by side
    shapes = {filled_shape(*batch.shape, 64) for batch in batches}
    assert len(seen) <= 4 * len(shapes) and len(runs) == 2 * len(seen) + len(found)


def test_graphs_are_few(tiny_export, runs, batches, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    path = tiny_export / "float32.onnx"
    plain, model = OnnxModel(path), CudaGraphModel(path, "cpu", 0, 1, 64, 0)
    for batch in batches:
        np.testing.assert_allclose(model(batch), plain(batch), atol=1e-4)
    assert {graph for _, _, graph, _ in runs} == {1, 2, cuda_graphs.NO_GRAPH}
    assert len(runs) == len(batches) + 2 * 2


def test_a_fault_leaves_the_others_working(tiny_export, runs, monkeypatch):
    model = CudaGraphModel(tiny_export / "float32.onnx", "cpu", 0, 1, 64, 0)
    rows, bind = np.full((1, 9), 7), cuda_graphs.Lane.bind
    monkeypatch.setattr(cuda_graphs.Lane, "bind", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(InputError, match="out of memory on cpu: lower --batch_size"):
        model(rows)
    monkeypatch.setattr(cuda_graphs.Lane, "bind", bind)
    assert np.isfinite(model(rows)).all()


def test_a_predictor_that_is_asked_for_graphs(tiny_export, monkeypatch):
    texts, asked = ["球队赢得比赛", "股市今日上涨", "短", "球队主场获胜，股价随之上涨" * 4] * 3, []

    def on_the_cpu(path, device, device_id, *further):
        asked.append((path.name, device, device_id, *further))
        return CudaGraphModel(path, "cpu", 0, *further)

    monkeypatch.setattr("hierarchical.predictor.CudaGraphModel", on_the_cpu)
    expected = Predictor(tiny_export, "float16").probabilities(texts)
    found = Predictor(tiny_export, "float16", device="gpu:1", batch_size=3, cuda_graphs=True).probabilities(texts)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert asked == [("float16.onnx", "gpu", 1, 4, 64, 0)]


def test_where_there_can_be_no_graphs(tiny_export, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hierarchical.predictor.CudaGraphModel", lambda path, *further: CudaGraphModel(path, "cpu", *further[1:])
    )
    with pytest.raises(InputError, match="a float16 export on a GPU"):
        Predictor(tiny_export, "float16", cuda_graphs=True)
    on_a_gpu = {"device": "gpu", "cuda_graphs": True}
    with pytest.raises(InputError, match="float32.onnx: cannot run as CUDA graphs"):
        Predictor(tiny_export, "float32", **on_a_gpu)
    with pytest.raises(InputError, match="none"):
        Predictor(tmp_path / "none", "float16", kind="export", **on_a_gpu)
