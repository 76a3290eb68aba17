"""Where the vectors of an index are: in this process, or in a Milvus server. Both grow at any time.

    vectors.add(new)                                       # float32 [n, dimension]
    similarities, positions = vectors.search(queries, k)   # the largest inner products first

`Vectors` compares every entry (faiss) up to EXACT of them, and walks an HNSW graph above that; `MilvusVectors` has the
same methods.
"""

import logging
import os
import re
import sys
from contextlib import contextmanager
from uuid import uuid4

import numpy as np

from hierarchical.devices import available_cores
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, require_file

EXACT = 20_000  # entries up to which a search compares the query with every one
HNSW_M, HNSW_EF = 16, 128  # links per vector and breadth of a search, where nothing else is asked for
BUILD_EF = 80  # breadth of the search for a new vector's links; at 40 a million had recall@10 0.83, now 0.996
MILVUS_BATCH = 1000  # vectors per request
MILVUS_TIMEOUT = 20  # seconds for an answer


def load_faiss():
    """The module faiss; raises InputError where it is not installed."""
    try:
        with own_libraries_first():
            import faiss
    except ImportError:
        raise InputError("the index needs the package faiss: pip install faiss-cpu==1.15.0") from None
    return faiss


@contextmanager
def own_libraries_first():
    """What is imported finds the OpenMP that it brings.

    Once OpenVINO runs beside Paddle, names are looked up in Paddle's first, which has most of what faiss asks for and
    not all: with the two together its threads take each other's work, and most graphs find less (measured).
    """
    if not hasattr(os, "RTLD_DEEPBIND"):  # not Linux
        yield
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


class Vectors:
    """Vectors of length 1 in memory. m, ef: links per vector and breadth of a search in the HNSW graph."""

    def __init__(self, dimension, m=HNSW_M, ef=HNSW_EF):
        faiss = load_faiss()
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
        faiss = load_faiss()
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
