"""The index alone, without a model: searching, growing, voting, saving, and what can be wrong with its files."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from metric import Decision
from retrieval_based import index as module
from retrieval_based.encoder import label_texts, labels_to_index, most_specific
from retrieval_based.index import MilvusVectors, SemanticIndex, Vectors, dense, dense_windows, recalls
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
    assert label_texts(TREE, [1, 3]) == ["组织,罢工", "财经"]
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


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: (d / "index.json").unlink(), "build_index.py"),
        (lambda d: (d / "index.json").write_text("{}"), "not the description of an index"),
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

    collections = {}

    def __init__(self, uri, timeout):
        if uri == "http://down":
            raise RuntimeError("connection refused")

    def has_collection(self, name):
        return name in self.collections

    def create_collection(self, name, dimension, metric_type, auto_id, consistency_level):
        assert (metric_type, auto_id, consistency_level) == ("IP", False, "Strong")
        self.collections[name] = {}

    def upsert(self, name, rows):
        self.collections[name] |= {row["id"]: np.array(row["vector"]) for row in rows}

    def search(self, name, queries, limit, filter):
        below = int(filter.removeprefix("id < "))
        stored = {i: v for i, v in self.collections[name].items() if i < below}
        scored = [sorted(((float(v @ query), i) for i, v in stored.items()), reverse=True) for query in queries]
        return [[{"id": i, "distance": s} for s, i in row[:limit]] for row in scored]

    def drop_collection(self, name):
        del self.collections[name]


def test_milvus_behind_the_same_interface(monkeypatch, tmp_path):
    package = ModuleType("pymilvus")
    package.MilvusClient = FakeMilvus
    monkeypatch.setitem(sys.modules, "pymilvus", package)
    monkeypatch.setattr(module, "MILVUS_BATCH", 7)
    monkeypatch.setattr(FakeMilvus, "collections", {"somebody's": {1: 1}})
    every, queries = unit(30), unit(10, seed=1)
    milvus, embedded = MilvusVectors("http://up", "labels_1", 4), Vectors(4)
    for vectors in (milvus, embedded):
        vectors.add(every[:20])
        vectors.add(every[20:])
    for a, b in zip(milvus.search(queries, 5), embedded.search(queries, 5)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    index = SemanticIndex(TREE, milvus, "labels", "abc", Decision())
    index.entries = [(1,)] * 30
    index.save(tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["milvus"] == {"uri": "http://up", "collection": "labels_1"}
    assert len(SemanticIndex.read(tmp_path, ENCODER).vectors) == 30
    milvus.drop()
    assert FakeMilvus.collections == {"somebody's": {1: 1}}
    for use in (lambda: milvus.search(queries, 5), lambda: milvus.add(every)):  # a collection that is gone
        with pytest.raises(InputError, match="http://up: 'labels_1'. Is the server running"):
            use()
    with pytest.raises(InputError, match="http://down: connection refused"):
        MilvusVectors("http://down", "x", 4)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(InputError, match="pip install pymilvus"):
        MilvusVectors("http://up", "x", 4)
