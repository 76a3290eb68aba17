"""A semantic index: vectors of labels, or of labelled rows, and which labels each of them stands for.

    index = SemanticIndex(tree, Vectors(dimension), by="labels", encoder_id=encoder.id, decision=encoder.decision)
    index.add(encoder.encode(texts), labels)          # labels: one tuple of class indices per text
    index.retrieve(encoder.encode(queries), k=10)     # per query [(class index, similarity), ...], the best first

by="labels": an entry is a label, its similarity the cosine of text and label. by="rows": an entry is a labelled row,
and the k nearest rows vote: a label's similarity is the share of the rows that have it, each counted by its cosine.

Vectors are kept by `Vectors` in this process (faiss: every entry compared up to EXACT entries, an HNSW graph above), or
by `MilvusVectors` in a Milvus server. Both add at any time, and both are searched by inner product.

Files of a saved index:
    index.json          what it is: by, encoder_id, entries, mark, decision, HNSW or Milvus settings; replaced last
    label-*.txt         the labels in class-index order
    entries-*.jsonl     one line per vector: the list of its labels
    vectors-*.faiss     the vectors, unless Milvus has them
"""

import json
import logging
import re
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np

from metric import Decision
from modeling import WINDOW
from retrieval_based.encoder import labels_to_index, texts_of_labels
from runtime import available_cores
from utils import InputError, LabelTree, atomic_write, require_file

EXACT = 20_000  # entries up to which a search compares the query with every one
HNSW_M, HNSW_EF = 16, 128  # links per vector and breadth of a search, where nothing else is asked for
BUILD_EF = 80  # breadth of the search for a new vector's links; at 40 a million had recall@10 0.83, now 0.996
RECALL_AT = (1, 5, 10, 20, 50)
MILVUS_BATCH = 1000  # vectors per request
MILVUS_TIMEOUT = 20  # seconds for an answer
# What `save` and its unfinished writes are called; anything else in the directory belongs to the user.
OWN_FILE = re.compile(r"(entries-M\.jsonl|label-M\.txt|vectors-M\.faiss)(\.\d+\.tmp)?".replace("M", r"\d+-[0-9a-f]{8}"))
KEPT = {"milvus": {"uri": str, "collection": str}, "hnsw": {"m": int, "ef": int}}  # in index.json, about the vectors
DENSE_CELLS = 20_000_000  # rows x labels held as a matrix at a time


class Vectors:
    """Vectors of length 1 in memory. m, ef: links per vector and breadth of a search in the HNSW graph."""

    def __init__(self, dimension, m=HNSW_M, ef=HNSW_EF):
        try:
            import faiss
        except ImportError:
            raise InputError("the index needs the package faiss: pip install faiss-cpu==1.15.0") from None
        faiss.omp_set_num_threads(available_cores())
        self.m, self.ef = m, ef
        self.index = faiss.IndexFlatIP(dimension)

    def __len__(self):
        return self.index.ntotal

    def add(self, vectors):
        """Append float32 [n, dimension]."""
        import faiss

        dimension = self.index.d
        if len(self) + len(vectors) > EXACT and isinstance(self.index, faiss.IndexFlatIP):
            graph = faiss.IndexHNSWFlat(dimension, self.m, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = BUILD_EF
            if len(self):
                vectors = np.concatenate([self.index.reconstruct_n(0, len(self)), vectors])
            self.index = graph
        self.index.add(np.ascontiguousarray(vectors, np.float32))

    def search(self, queries, k):
        """(similarities float32, positions int64), both [n, min(k, entries)], the best first; position -1: none."""
        import faiss

        k = min(k, len(self))
        if isinstance(self.index, faiss.IndexHNSWFlat):
            self.index.hnsw.efSearch = max(self.ef, k)
        return self.index.search(np.ascontiguousarray(queries, np.float32), k)

    def write(self, path):
        import faiss

        with atomic_write(path, "wb") as file:
            file.write(faiss.serialize_index(self.index).data)

    @classmethod
    def read(cls, path, dimension, m, ef):
        import faiss

        require_file(path, "It belongs to the index beside it; build the index again.")
        vectors = cls(dimension, m, ef)
        try:
            vectors.index = faiss.read_index(str(path))
            if vectors.index.d != dimension:
                raise RuntimeError(f"vectors of {vectors.index.d} numbers, not {dimension}")
        except RuntimeError as error:  # what the library raises for damaged files
            reason = str(error).splitlines()[-1]
            raise InputError(f"{path}: not a readable index ({reason}). Build it again.") from None
        return vectors


class MilvusVectors:
    """The same in a collection of a Milvus server (http://host:19530), ids = positions. Needs pymilvus.

    Everything here raises InputError if the server refuses, or does not answer within MILVUS_TIMEOUT seconds.
    """

    def __init__(self, uri, collection, count=0):
        """Connect; `create` makes the collection, `open` checks it."""
        try:
            from pymilvus import MilvusClient
        except ImportError:
            raise InputError("Milvus: needs pymilvus: pip install -r retrieval_based/requirements-milvus.txt") from None
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs each error with a traceback
        self.uri, self.collection, self.count = uri, collection, count
        if not re.match(r"https?://[^/:]", uri):  # the client takes anything else for the name of a local file
            raise InputError(f"Milvus at {uri}: not an address, which looks like http://127.0.0.1:19530")
        with self.errors("Is it a Milvus server, and is it running?"):
            self.client = MilvusClient(uri, timeout=MILVUS_TIMEOUT // 2)

    @classmethod
    def create(cls, uri, dimension):
        """An empty collection with a name of its own."""
        vectors = cls(uri, f"labels_{uuid4().hex}")
        vectors.call(
            "create_collection", dimension=dimension, metric_type="IP", auto_id=False, consistency_level="Strong"
        )
        return vectors

    @classmethod
    def open(cls, uri, collection, dimension, count):
        """The collection of an index that has `count` vectors; more of them, left by a broken run, are not seen."""
        vectors = cls(uri, collection, count)
        if not vectors.call("has_collection"):
            raise InputError(f"Milvus at {uri}: the collection {collection} is gone. Build the index again.")
        fields = {field["name"]: field for field in vectors.call("describe_collection")["fields"]}
        length = fields["vector"]["params"]["dim"]
        present = vectors.call("query", filter=f"id < {count}", output_fields=["count(*)"])[0]["count(*)"]
        if (length, present) != (dimension, count):
            raise InputError(
                f"Milvus at {uri}: the collection {collection} has {present} vectors of {length} numbers, the index "
                f"{count} of {dimension}. Build it again."
            )
        return vectors

    @contextmanager
    def errors(self, advice):
        try:
            yield
        except Exception as error:  # the client raises types of its own, and of its network library
            reason = error.details() if hasattr(error, "details") else getattr(error, "message", str(error))
            reason = (reason or type(error).__name__).splitlines()[0][:200].rstrip(" .")
            raise InputError(f"Milvus at {self.uri}: {reason}. {advice}") from None

    def call(self, method, *values, **options):
        with self.errors(f"The collection is {self.collection}."):
            return getattr(self.client, method)(self.collection, *values, timeout=MILVUS_TIMEOUT, **options)

    @property
    def address(self):
        return {"uri": self.uri, "collection": self.collection}

    def __len__(self):
        return self.count

    def add(self, vectors):
        for start in range(0, len(vectors), MILVUS_BATCH):
            part = vectors[start : start + MILVUS_BATCH].tolist()
            # upsert, so that what an interrupted run has left behind is replaced
            self.call("upsert", [{"id": self.count + i, "vector": vector} for i, vector in enumerate(part)])
            self.count += len(part)

    def search(self, queries, k):
        k = min(k, self.count)
        found = np.full((2, len(queries), k), -1.0)
        for start in range(0, len(queries), MILVUS_BATCH):
            part = queries[start : start + MILVUS_BATCH].tolist()
            hits = self.call("search", part, limit=k, filter=f"id < {self.count}")
            for row, hit in enumerate(hits, start=start):
                for column, entry in enumerate(hit):
                    found[:, row, column] = entry["distance"], entry["id"]
        return found[0].astype(np.float32), found[1].astype(np.int64)

    def drop(self):
        self.call("drop_collection")


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
                weights = [max(similarity, 0.0) * (position >= 0) for similarity, position in zip(row, near)]
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
        with atomic_write(directory / f"label-{mark}.txt") as file:
            file.writelines(f"{label}\n" for label in self.tree.labels)
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
        if isinstance(decision.threshold, list) and len(decision.threshold) != len(tree):
            count = f"{len(decision.threshold)} thresholds for {len(tree)} labels"
            raise InputError(f"{Path(directory) / 'index.json'}: {count}. Build it again.")
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
    if isinstance(decision.threshold, list) and tree.labels != known.labels:
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
    from tqdm import tqdm

    with tqdm(total=len(texts), desc="index", disable=None, leave=False) as bar:
        for start in range(0, len(texts), WINDOW):
            vectors = encoder.encode(texts[start : start + WINDOW], bar.update)
            index.add(vectors, labels[start : start + WINDOW])


@contextmanager
def writing(directory):
    """Make the directory of an index, and be the only one to change that. Raises InputError if another process does.

    The system lifts the lock when the process ends, however it ends.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise InputError("building an index needs the package filelock: pip install filelock") from None

    Path(directory).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(directory) / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"{directory}: another build_index.py is writing it; wait until that ends.") from None


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


def dense_windows(n_rows, n_labels):
    """Ranges of rows whose dense matrix has DENSE_CELLS cells at most, or one row."""
    size = max(1, DENSE_CELLS // n_labels)
    return [range(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
