"""The index alone, without a model: searching, growing, voting, saving, and what can be wrong with its files."""

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
from retrieval_based import index as module
from retrieval_based.encoder import labels_to_index, most_specific, texts_of_labels
from retrieval_based.index import MilvusVectors, SemanticIndex, Vectors, dense, dense_windows, recalls, writing
from tests.conftest import ROOT
from utils import InputError, LabelTree

TREE = LabelTree(["组织", "组织##罢工", "组织##裁员", "财经"])
ENCODER = SimpleNamespace(id="abc", dimension=4, directory="checkpoint")


def unit(n, dimension=4, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def labels_of_four():
    index = SemanticIndex(TREE, Vectors(4), "labels", "abc", Decision(threshold=0.6, decoding="closure"))
    index.add(np.eye(4, dtype=np.float32)[:3], [(1,), (2,), (3,)])
    return index


def test_what_is_encoded_and_indexed():
    assert texts_of_labels(TREE, [1, 3]) == ["组织,罢工", "财经"]
    assert most_specific(TREE, (0, 1, 3)) == (1, 3) and most_specific(TREE, (0,)) == (0,)
    assert labels_to_index(TREE, False) == [1, 2, 3] and labels_to_index(TREE, True) == [0, 1, 2, 3]


def test_nearest_labels_and_more_asked_for_than_there_are():
    found = labels_of_four().retrieve(np.array([[0.6, 0.8, 0, 0], [0, 0, -1, 0]], np.float32), 50)
    assert [label for label, _ in found[0]] == [2, 1, 3]
    assert [similarity for _, similarity in found[0]] == pytest.approx([0.8, 0.6, 0.0])
    assert dense(found, 4)[1].tolist() == [0, 0, 0, 0]  # a cosine of -1 is no similarity
    np.testing.assert_allclose(dense(found, 4)[0], [0, 0.6, 0.8, 0], atol=1e-6)


def test_neighbours_vote_by_their_cosine():
    index = SemanticIndex(TREE, Vectors(4), "rows")
    index.add(np.eye(4, dtype=np.float32), [(1,), (2, 3), (2,), ()])
    found = index.retrieve(np.array([[0.5, 0.4, 0.1, 0]], np.float32), 3)[0]
    # of a weight of 1: label 1 has 0.5, label 2 has 0.4 + 0.1, label 3 has 0.4; the fourth row is not asked
    assert dict(found) == pytest.approx({1: 0.5, 2: 0.5, 3: 0.4})
    assert index.retrieve(np.array([[0, 0, 0, -1]], np.float32), 4)[0] == []  # nobody is near
    assert index.decision.threshold == 0.5


def test_recall_counts_every_row_and_every_label_of_it():
    ranked = [[1, 2, 3], [3, 2, 1], [2, 1, 3]]
    found = recalls(ranked, [(1,), (1,), (1, 2)])
    assert found["recall@1"] == pytest.approx((1 + 0 + 1 / 2) / 3) and found["recall@5"] == 1
    assert recalls([[2]], [(1,)])["recall@50"] == 0  # a single query, too
    assert recalls([[]], [(1,)])["recall@1"] == 0


def test_windows_cover_all_rows():
    windows = dense_windows(10, module.DENSE_CELLS // 4)
    assert [list(window) for window in windows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert dense_windows(2, module.DENSE_CELLS * 2) == [range(0, 1), range(1, 2)]


def test_above_a_size_the_search_is_a_graph_that_still_grows(monkeypatch, tmp_path):
    import faiss

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


def test_save_read_grow_and_notice(tmp_path):
    index = labels_of_four()
    index.save(tmp_path / "index")
    first, second = (SemanticIndex.read(tmp_path / "index", ENCODER) for _ in range(2))
    assert first.entries == [(1,), (2,), (3,)] and first.decision == index.decision
    tree = LabelTree(["财经", *TREE.labels[:3], "组织##游行"])  # new label, other order
    first.move_to(tree)
    assert first.entries == [(2,), (3,), (0,)]
    first.add(np.eye(4, dtype=np.float32)[3:], [(4,)])
    assert not second.has_changed()
    first.save(tmp_path / "index")
    assert second.has_changed() and not SemanticIndex.read(tmp_path / "index", ENCODER).has_changed()
    third = SemanticIndex.read(tmp_path / "index", ENCODER)
    query = np.array([[0, 0, 0.5, 0.8]], np.float32)
    assert [third.tree.labels[label] for label, _ in third.retrieve(query, 2)[0]] == ["组织##游行", "财经"]
    assert len(list((tmp_path / "index").iterdir())) == 4  # nothing is left of the old one


def test_files_of_the_user_stay(tmp_path):
    """The names of saved files are full patterns; what a killed build left of one goes as well."""
    index = labels_of_four()
    index.save(tmp_path)
    (mark,) = [path.stem.removeprefix("vectors-") for path in tmp_path.glob("vectors-*")]
    assert mark.startswith("3-") and len(mark) == 10
    mine = ["entries-2024-01.csv", "label-old-1.txt", "vectors-mine-2.faiss", f"entries-{mark}.jsonl.bak", ".lock"]
    left = ["entries-3-0123abcd.jsonl.77.tmp", "vectors-12-0123abcd.faiss", "label-0-0123abcd.txt"]
    for name in mine + left:
        (tmp_path / name).write_text("1")
    index.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {*mine, "index.json"} and len(names) == len(mine) + 4
    assert not names & {*left, f"entries-{mark}.jsonl"}


def test_an_index_that_grows_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    index = labels_of_four()
    index.save(tmp_path)
    read_about, looks = module.read_about, []

    def overtaken(directory):
        about = read_about(directory)
        looks.append(about["mark"])
        if len(looks) == 1:  # another process saves, and takes away the files of the mark just seen
            index.add(np.eye(4, dtype=np.float32)[3:], [(0,)])
            index.save(tmp_path)
        return about

    monkeypatch.setattr(module, "read_about", overtaken)
    assert SemanticIndex.read(tmp_path, ENCODER).entries == [(1,), (2,), (3,), (0,)]
    assert len(set(looks)) == 2
    next(tmp_path.glob("entries*")).unlink()  # with no change of index.json it is broken
    with pytest.raises(InputError, match="no such file"):
        SemanticIndex.read(tmp_path, ENCODER)


def change(directory, **settings):
    """Replace entries of index.json, or with None take them out."""
    about = json.loads((directory / "index.json").read_text()) | settings
    about = {name: value for name, value in about.items() if value is not None}
    (directory / "index.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: (d / "index.json").unlink(), "build_index.py"),
        (lambda d: (d / "index.json").write_text("{}"), "not the description of an index"),
        (lambda d: change(d, hnsw=None), "not the description of an index"),
        (lambda d: change(d, hnsw={"m": 16}), r"not the description of an index \(hnsw is {'m': 16}\)"),
        (lambda d: change(d, milvus={"uri": "http://a", "name": "b"}), "not the description of an index"),
        (lambda d: change(d, decision={"threshold": [0.5] * 3}), "3 thresholds for 4 labels. Build it again"),
        (lambda d: next(d.glob("vectors*")).write_bytes(b"IxFI" + b"\0" * 40), "Build it again"),
        (lambda d: next(d.glob("entries*")).write_text('["财经"]\n'), "1 entries, 3 vectors"),
        (lambda d: next(d.glob("entries*")).unlink(), "no such file"),
    ],
)
def test_damaged_files_are_named(tmp_path, spoil, message):
    labels_of_four().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        SemanticIndex.read(tmp_path, ENCODER)


def test_an_index_of_another_encoder_is_refused(tmp_path):
    labels_of_four().save(tmp_path)
    with pytest.raises(InputError, match="another encoder"):
        SemanticIndex.read(tmp_path, SimpleNamespace(id="other", dimension=4, directory="x"))


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


@pytest.mark.parametrize("server", ["fake", "real"])
def test_milvus_behind_the_same_interface(server, request, monkeypatch, tmp_path):
    uri = request.getfixturevalue(f"{server}_milvus")
    monkeypatch.setattr(module, "MILVUS_BATCH", 7)
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


def test_without_the_packages_for_indexes(monkeypatch, tmp_path):
    for name in ("faiss", "filelock"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        Vectors(4)
    with pytest.raises(InputError, match="pip install filelock"):
        with writing(tmp_path):
            pass


def test_one_writer_at_a_time_and_none_after_its_death(tmp_path):
    code = "import sys, time; from retrieval_based.index import writing\n"
    code += "with writing(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
    path = tmp_path / "index"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"{path}: another build_index.py is writing it"):
            with writing(path):
                pass
    finally:
        process.kill()
        process.communicate()
    with writing(path):
        pass
