"""A semantic index: vectors of labels, or of labelled rows, and which labels each of them stands for.

    index = SemanticIndex(tree, Vectors(dimension), by="labels", encoder_id=encoder.id, decision=encoder.decision)
    index.add(encoder.encode(texts), labels)          # labels: one tuple of class indices per text
    index.retrieve(encoder.encode(queries), k=10)     # per query [(class index, similarity), ...], the best first

by="labels": an entry is a label, its similarity the cosine of text and label. by="rows": an entry is a labelled row,
and the k nearest rows vote: a label's similarity is the share of the rows that have it, each counted by its cosine.

Vectors are kept in this process or in a Milvus server, see vectors.py.

Files of a saved index:
    index.json          what it is: by, encoder_id, entries, mark, decision, HNSW or Milvus settings; replaced last
    label-*.txt         the labels in class-index order; label-*_graph.txt: their further parents, if they have any
    entries-*.jsonl     one line per vector: the list of its labels
    vectors-*.faiss     the vectors, unless Milvus has them
"""

import json
import re
from pathlib import Path
from uuid import uuid4

import numpy as np

from hierarchical.batches import row_windows
from hierarchical.console import progress_bar
from hierarchical.decisions import Decision, thresholds_of
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, require_file
from hierarchical.labels import LabelTree
from retrieval_based.encoder import labels_to_index, texts_of_labels
from retrieval_based.vectors import MilvusVectors, Vectors

RECALL_AT = (1, 5, 10, 20, 50)
# What `save` and its unfinished writes are called; anything else in the directory belongs to the user.
OWN_FILE = re.compile(
    r"(entries-M\.jsonl|label-M(_graph)?\.txt|vectors-M\.faiss)(\.\d+\.tmp)?".replace("M", r"\d+-[0-9a-f]{8}")
)
KEPT = {"milvus": {"uri": str, "collection": str}, "hnsw": {"m": int, "ef": int}}  # in index.json, about the vectors


class SemanticIndex:
    """Vectors and their labels; `tree` is the LabelTree whose class indices the entries hold."""

    def __init__(self, tree, vectors, by="labels", encoder_id="", decision=None):
        self.tree, self.vectors, self.by, self.encoder_id = tree, vectors, by, encoder_id
        # A vote is a share of the neighbours; where the similarity of a label is high enough, training finds out.
        self.decision = decision if by == "labels" else Decision(threshold=0.5, decoding="closure")
        self.entries = []  # tuples of class indices
        self.path = self.mark = None  # of a saved index: its index.json, and the mark in the names of its files

    def add(self, vectors, labels):
        self.vectors.add(vectors)
        self.entries += labels

    def retrieve(self, queries, k):
        """Per query [(class index, similarity), ...], the best first: at most k labels, or those of k rows."""
        similarities, positions = self.vectors.search(queries, k)
        found = []
        for row, near in zip(similarities.tolist(), positions.tolist()):
            scores = {}
            if self.by == "labels":
                for similarity, position in zip(row, near):
                    for label in self.entries[position] if position >= 0 else ():
                        scores.setdefault(label, similarity)
            else:
                weights = [max(similarity, 0.0) if position >= 0 else 0.0 for similarity, position in zip(row, near)]
                for weight, position in zip(weights, near):
                    for label in self.entries[position] if weight else ():
                        scores[label] = scores.get(label, 0.0) + weight
                scores = {label: score / sum(weights) for label, score in scores.items()}
            found.append(sorted(scores.items(), key=lambda item: -item[1]))
        return found

    def move_to(self, tree):
        """Express the entries in the class indices of another tree, which must have all their labels."""
        names = [[self.tree.labels[label] for label in entry] for entry in self.entries]
        self.entries = [tuple(tree.index[name] for name in entry) for entry in names]
        self.tree = tree

    def save(self, directory):
        """Write the index; a reader sees the old one or the new one, whole."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        old, mark = index_files(directory), f"{len(self.entries)}-{uuid4().hex[:8]}"
        with atomic_write(directory / f"entries-{mark}.jsonl") as file:
            for entry in self.entries:
                file.write(json.dumps([self.tree.labels[label] for label in entry], ensure_ascii=False) + "\n")
        self.tree.write(directory / f"label-{mark}.txt")
        about = {"by": self.by, "encoder_id": self.encoder_id, "entries": len(self.entries), "mark": mark}
        about["decision"] = self.decision.to_dict()
        if isinstance(self.vectors, MilvusVectors):
            about["milvus"] = self.vectors.address
        else:
            self.vectors.write(directory / f"vectors-{mark}.faiss")
            about["hnsw"] = {"m": self.vectors.m, "ef": self.vectors.ef}
        with atomic_write(directory / "index.json") as file:
            json.dump(about, file, ensure_ascii=False, indent=1)
        for path in old:
            path.unlink(missing_ok=True)

    def has_changed(self):
        """True if the index on disk is no longer the one that was read, or cannot be read any more."""
        try:
            return read_about(self.path.parent)["mark"] != self.mark
        except (InputError, OSError):
            return True

    @classmethod
    def read(cls, directory, encoder):
        """The index of a directory. Raises InputError if it is none, or if another encoder made its vectors."""
        while True:
            about = read_about(directory)
            try:
                return cls.read_files(directory, about, encoder)
            except (InputError, OSError):
                # build_index.py takes old files away when it has put new ones beside them: then those are read
                if read_about(directory)["mark"] == about["mark"]:
                    raise

    @classmethod
    def read_files(cls, directory, about, encoder):
        """The index that index.json describes, whose contents are `about`."""
        if about["encoder_id"] != encoder.id:
            raise InputError(
                f"{directory}: its vectors were made by another encoder than that of {encoder.directory}. Build the "
                "index again with this one."
            )
        mark = about["mark"]
        tree = LabelTree.read(Path(directory) / f"label-{mark}.txt")
        decision, path = Decision.from_dict(about["decision"]), Path(directory) / f"entries-{mark}.jsonl"
        try:
            thresholds_of(decision, tree)
        except ValueError as error:
            raise InputError(f"{Path(directory) / 'index.json'}: {error}. Build it again.") from None
        if milvus := about.get("milvus"):
            vectors = MilvusVectors.open(**milvus, dimension=encoder.dimension, count=about["entries"])
        else:
            vectors = Vectors.read(Path(directory) / f"vectors-{mark}.faiss", encoder.dimension, **about["hnsw"])
        index = cls(tree, vectors, about["by"], about["encoder_id"], decision)
        index.path, index.mark = Path(directory) / "index.json", mark
        require_file(path, "It belongs to the index; build the index again.")
        try:
            with open(path, encoding="utf-8") as file:
                index.entries = [tuple(tree.index[name] for name in json.loads(line)) for line in file]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the entries of an index ({error}). Build it again.") from None
        if not len(index.entries) == len(vectors) == about["entries"]:
            raise InputError(f"{directory}: {len(index.entries)} entries, {len(vectors)} vectors. Build it again.")
        return index


def add_index_arguments(parser):
    group = parser.add_argument_group("index").add_mutually_exclusive_group()
    group.add_argument("--index_dir", help="an index that retrieval_based/build_index.py wrote")
    group.add_argument(
        "--corpus_file", help="without an index: labels to choose from, one path per line; left out: as in training"
    )


def index_or_labels(args, encoder):
    """(index of --index_dir or None, the LabelTree to choose from); needs no network."""
    if args.index_dir:
        index = SemanticIndex.read(args.index_dir, encoder)
        return index, index.tree
    tree = LabelTree.read(args.corpus_file) if args.corpus_file else encoder.tree
    require_same_thresholds(encoder.decision, encoder.tree, tree)
    return None, tree


def require_same_thresholds(decision, known, tree):
    """Raise InputError if a Decision has a threshold for each label of the LabelTree `known`, and `tree` is another."""
    if isinstance(decision.threshold, list) and not tree.is_same(known):
        raise InputError(
            "decision.json of the encoder has one threshold per label, and these labels are others than it was tuned "
            'for. Write a single number there, as in "threshold": 0.5, and build indexes of it again.'
        )


def labels_index(encoder, tree):
    """An index of the labels of a tree, in memory; takes as long as encoding them."""
    index = SemanticIndex(tree, Vectors(encoder.dimension), "labels", encoder.id, encoder.decision)
    labels = labels_to_index(tree, encoder.inner_labels)
    add_texts(index, encoder, texts_of_labels(tree, labels), [(label,) for label in labels])
    return index


def add_texts(index, encoder, texts, labels):
    """Encode texts and add them, a window at a time, with a progress bar on a terminal."""
    with progress_bar(len(texts), "index") as bar:
        for window in row_windows(len(texts)):
            vectors = encoder.encode(texts[window.start : window.stop], bar.update)
            index.add(vectors, labels[window.start : window.stop])


def index_files(directory):
    """The files of the index in a directory, but for index.json."""
    return [path for path in Path(directory).iterdir() if OWN_FILE.fullmatch(path.name)]


def read_about(directory):
    """index.json of an index. Raises InputError if there is none or it is damaged."""
    path = Path(directory) / "index.json"
    require_file(path, "Build an index with retrieval_based/build_index.py --index_dir, and pass that directory.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        Decision.from_dict(about["decision"])
        if about["by"] not in ("labels", "rows") or not isinstance(about["mark"], str) or "/" in about["mark"]:
            raise ValueError("unknown entries")
        where = "milvus" if "milvus" in about else "hnsw"
        if {name: type(value) for name, value in about[where].items()} != KEPT[where]:
            raise ValueError(f"{where} is {about[where]}")
        return about | {"encoder_id": about["encoder_id"], "entries": int(about["entries"])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the description of an index ({error}). Build it again.") from None


# ---- scores ----------------------------------------------------------------------------------------------------------


def dense(retrieved, n_labels):
    """What `retrieve` found, as a matrix of similarities float32 [N, n_labels] within 0..1; 0: not retrieved."""
    matrix = np.zeros((len(retrieved), n_labels), np.float32)
    for row, found in zip(matrix, retrieved):
        for label, similarity in found:
            row[label] = min(max(similarity, 0.0), 1.0)
    return matrix


def recalls(retrieved, gold):
    """Recall at each of RECALL_AT: the share of a row's labels among its first k retrieved ones, averaged over rows.

    retrieved: per row the class indices, best first; gold: per row those that should be found, at least one.
    """
    hits = np.zeros((len(gold), len(RECALL_AT)))
    for row, found, wanted in zip(hits, retrieved, gold):
        ranks = [rank for rank, label in enumerate(found) if label in wanted]
        row[:] = [sum(rank < k for rank in ranks) / len(wanted) for k in RECALL_AT]
    return {f"recall@{k}": float(value) for k, value in zip(RECALL_AT, hits.mean(0))}
