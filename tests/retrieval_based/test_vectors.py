"""Vectors in this process and in Milvus: searching, growing, and what can be wrong with a server."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from metric import Decision
from retrieval_based import vectors as module
from retrieval_based.index import SemanticIndex
from retrieval_based.vectors import MilvusVectors, Vectors
from tests.conftest import ROOT
from utils import InputError, LabelTree

TREE = LabelTree(["组织", "组织##罢工", "组织##裁员", "财经"])
ENCODER = SimpleNamespace(id="abc", dimension=4, directory="checkpoint")


def unit(n, dimension=4, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_above_a_size_the_search_is_a_graph_that_still_grows(monkeypatch, tmp_path):
    faiss = module.load_faiss()
    monkeypatch.setattr(module, "EXACT", 300)
    every, vectors = unit(1000, 16), Vectors(16, m=16, ef=64)
    for start in range(0, 1000, 250):
        vectors.add(every[start : start + 250])
    assert isinstance(vectors.index, faiss.IndexHNSWFlat) and len(vectors) == 1000
    queries = unit(100, 16, seed=1)
    exact = np.argsort(-queries @ every.T, axis=1)[:, :10]
    found = vectors.search(queries, 10)[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found)]) > 0.95
    vectors.write(tmp_path / "v.faiss")
    again = Vectors.read(tmp_path / "v.faiss", 16, 16, 64)
    assert (again.search(queries, 10)[1] == found).all()


BESIDE_OTHERS = """
import numpy as np, paddle
from hierarchical.engines import load_openvino
load_openvino().Core().get_versions("CPU")  # loads what computes, and with it brings Paddle's OpenMP before everybody else's
from retrieval_based import vectors
vectors.EXACT = 10
every = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
every /= np.linalg.norm(every, axis=1, keepdims=True)
exact = np.argsort(-every[:100] @ every.T, axis=1)[:, :10]
for _ in range(30):
    index = vectors.Vectors(16)
    index.add(every)
    first, again = (index.search(every[:100], 10)[1] for _ in range(2))
    assert (first == again).all() and np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, first)]) > 0.99
"""


@pytest.mark.slow
def test_the_graph_is_right_beside_paddle_and_openvino(openvino):
    """Where threads of two OpenMPs were mixed, they worked on the same queries at once."""
    done = subprocess.run([sys.executable, "-c", BESIDE_OTHERS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_the_package_that_searches(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        Vectors(4)


class FakeMilvus:
    """What of a Milvus client is used here, in memory; shared by all clients like a server."""

    collections, alive = {}, True

    def __init__(self, uri, timeout):
        self.answer(timeout)

    def answer(self, timeout):
        assert timeout <= module.MILVUS_TIMEOUT
        if not self.alive:
            raise RuntimeError("connection refused\nand a second line")

    def has_collection(self, name, timeout):
        self.answer(timeout)
        return name in self.collections

    def create_collection(self, name, timeout, dimension, metric_type, auto_id, consistency_level):
        self.answer(timeout)
        assert (metric_type, auto_id, consistency_level) == ("IP", False, "Strong")
        self.collections[name] = {"dim": dimension, "rows": {}}

    def describe_collection(self, name, timeout):
        return {"fields": [{"name": "id"}, {"name": "vector", "params": {"dim": self.collections[name]["dim"]}}]}

    def query(self, name, timeout, filter, output_fields):
        return [{"count(*)": len(self.below(name, filter))}]

    def below(self, name, filter):
        limit = int(filter.removeprefix("id < "))
        return {i: vector for i, vector in self.collections[name]["rows"].items() if i < limit}

    def upsert(self, name, rows, timeout):
        self.answer(timeout)
        self.collections[name]["rows"] |= {row["id"]: np.array(row["vector"]) for row in rows}

    def search(self, name, queries, timeout, limit, filter):
        self.answer(timeout)
        stored = self.below(name, filter)
        scored = [sorted(((float(v @ query), i) for i, v in stored.items()), reverse=True) for query in queries]
        return [[{"id": i, "distance": s} for s, i in row[:limit]] for row in scored]

    def drop_collection(self, name, timeout):
        self.answer(timeout)
        del self.collections[name]


@pytest.fixture
def fake_milvus(monkeypatch):
    """An address, behind which a FakeMilvus has one collection of somebody else."""
    package = ModuleType("pymilvus")
    package.MilvusClient = FakeMilvus
    monkeypatch.setitem(sys.modules, "pymilvus", package)
    monkeypatch.setattr(FakeMilvus, "collections", {"somebody's": {1: 1}})
    return "http://fake:19530"


@pytest.mark.slow
@pytest.mark.parametrize("server", ["fake", "real"])
def test_milvus_behind_the_same_interface(server, request, monkeypatch, tmp_path):
    uri = request.getfixturevalue(f"{server}_milvus")
    monkeypatch.setattr(module, "MILVUS_BATCH", 7)
    monkeypatch.setattr(module, "MILVUS_TIMEOUT", 60)  # as other tests may keep the machine busy
    every, queries = unit(30), unit(10, seed=1)
    milvus, embedded = MilvusVectors.create(uri, 4), Vectors(4)
    try:
        for vectors in (milvus, embedded):
            vectors.add(every[:20])
            vectors.add(every[20:])
        for k in (5, 50):
            for a, b in zip(milvus.search(queries, k), embedded.search(queries, k)):
                np.testing.assert_allclose(a, b, atol=1e-5)
        index = SemanticIndex(TREE, milvus, "labels", "abc", Decision())
        index.entries = [(1,)] * 30
        index.save(tmp_path)
        assert json.loads((tmp_path / "index.json").read_text())["milvus"] == milvus.address
        assert len(SemanticIndex.read(tmp_path, ENCODER).vectors) == 30
        # what a broken --add has left behind is not seen, and replaced by the next one
        milvus.add(-every)
        again = SemanticIndex.read(tmp_path, ENCODER).vectors
        assert again.search(-every[:1], 1)[0][0, 0] < 0.999
        again.add(every[:5])
        assert again.search(every[:1], 2)[1].tolist() in ([[0, 30]], [[30, 0]])
        with pytest.raises(InputError, match="has 30 vectors of 4 numbers, the index 30 of 8"):
            SemanticIndex.read(tmp_path, SimpleNamespace(id="abc", dimension=8, directory="x"))
        with pytest.raises(InputError, match="has 60 vectors of 4 numbers, the index 99 of 4"):
            MilvusVectors.open(**milvus.address, dimension=4, count=99)
    finally:
        milvus.drop()
    with pytest.raises(InputError, match=f"the collection {milvus.collection} is gone. Build the index again"):
        SemanticIndex.read(tmp_path, ENCODER)
    with pytest.raises(InputError, match=milvus.collection):
        milvus.search(queries, 5)


def test_milvus_collections_of_others_stay(fake_milvus):
    milvus = MilvusVectors.create(fake_milvus, 4)
    assert len(FakeMilvus.collections) == 2
    milvus.drop()
    assert FakeMilvus.collections == {"somebody's": {1: 1}}


def test_milvus_that_stops_answering_is_told(fake_milvus, monkeypatch):
    milvus = MilvusVectors.create(fake_milvus, 4)
    monkeypatch.setattr(FakeMilvus, "alive", False)
    for attempt in (lambda: milvus.add(unit(3)), milvus.drop, lambda: MilvusVectors(fake_milvus, "x")):
        with pytest.raises(InputError, match="^Milvus at http://fake:19530: connection refused. "):
            attempt()


@pytest.mark.parametrize("uri", ["127.0.0.1:19530", "localhost", "http://", "milvus.db"])
def test_what_is_no_address(fake_milvus, uri):
    with pytest.raises(InputError, match=f"Milvus at {uri}: not an address"):
        MilvusVectors(uri, "x")


def test_without_the_package_milvus_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(InputError, match="pip install -r retrieval_based/requirements-milvus.txt"):
        MilvusVectors("http://up", "x")


@pytest.mark.parametrize("listens", [False, True])
def test_nothing_or_something_else_on_the_port(listens):
    """The real client, which must give up soon."""
    pytest.importorskip("pymilvus", reason="needs pymilvus, see retrieval_based/requirements-milvus.txt")
    handler = type("Quiet", (BaseHTTPRequestHandler,), {"log_message": lambda *_: None})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        if listens:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.socket.close()
        start = time.monotonic()
        with pytest.raises(InputError, match="Is it a Milvus server, and is it running"):
            MilvusVectors(f"http://127.0.0.1:{server.server_port}", "x")
        assert time.monotonic() - start < 30
        if listens:
            server.shutdown()
