"""The index alone, without a model: searching, growing, voting, saving, and what can be wrong with its files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from metric import Decision
from retrieval_based import index as module
from retrieval_based.index import SemanticIndex, dense, recalls
from retrieval_based.vectors import Vectors
from utils import InputError, LabelTree

TREE = LabelTree(["组织", "组织##罢工", "组织##裁员", "财经"])
ENCODER = SimpleNamespace(id="abc", dimension=4, directory="checkpoint")


def labels_of_four():
    index = SemanticIndex(TREE, Vectors(4), "labels", "abc", Decision(threshold=0.6, decoding="closure"))
    index.add(np.eye(4, dtype=np.float32)[:3], [(1,), (2,), (3,)])
    return index


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


def test_a_graph_is_kept_with_the_labels(tmp_path):
    index = labels_of_four()
    index.tree = LabelTree(TREE.labels, further=[(2, 3)])
    index.save(tmp_path / "index")
    again = SemanticIndex.read(tmp_path / "index", ENCODER)
    assert again.tree.is_same(index.tree)
    again.tree = TREE
    again.save(tmp_path / "index")  # the older files go, all of them
    assert SemanticIndex.read(tmp_path / "index", ENCODER).tree.is_same(TREE)
    assert not list((tmp_path / "index").glob("*_graph.txt")) and len(list((tmp_path / "index").iterdir())) == 4


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
        (
            lambda d: change(d, decision={"threshold": [0.5] * 3}),
            "3 thresholds for 4 labels on 2 levels; .* Build it again",
        ),
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
