"""How far label retrieval scales. (What it is worth: routes.py.)

    python benchmarks/retrieval.py index --vectors 1000000
    python benchmarks/retrieval.py labels --params_path checkpoint/model_best --labels 100000

index    builds an index of random clustered vectors, then searches it: seconds, queries per second, recall@10 against
         an exact search.
labels   makes up many labels, indexes them with an encoder, and retrieves them by their own words.

Both take all cores; the machine should have nothing else to do.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.bi_encoder import Encoder
from retrieval_based.index import SemanticIndex, labels_index, recalls
from retrieval_based.vectors import Vectors, load_faiss
from utils import HelpFormatter, LabelTree, make_parser, run


def parse_args(argv):
    parser = make_parser("Measure label retrieval.")
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", formatter_class=HelpFormatter)
    index.add_argument("--vectors", type=int, default=100_000, help="how many")
    index.add_argument("--dimension", type=int, default=256, help="their length")
    index.add_argument("--queries", type=int, default=2000, help="searches")
    index.add_argument("--hnsw_m", type=int, default=16, help="as in build_index.py")
    index.add_argument("--hnsw_ef", type=int, default=128, help="as in build_index.py")
    labels = commands.add_parser("labels", formatter_class=HelpFormatter)
    labels.add_argument("--params_path", default="./checkpoint/model_best", help="an encoder")
    labels.add_argument("--labels", type=int, default=100_000, help="how many")
    return parser.parse_args(argv)


def clustered(rng, centres, n):
    """n unit vectors, each near one of the centres."""
    vectors = centres[rng.integers(len(centres), size=n)]
    vectors = vectors + rng.normal(scale=0.7 / np.sqrt(vectors.shape[1]), size=vectors.shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_index(args):
    faiss = load_faiss()

    rng = np.random.default_rng(0)
    centres = clustered(rng, np.zeros((1, args.dimension), np.float32), max(1, args.vectors // 100))
    vectors, queries = (clustered(rng, centres, n) for n in (args.vectors, args.queries))
    index = Vectors(args.dimension, args.hnsw_m, args.hnsw_ef)
    began = time.perf_counter()
    index.add(vectors)
    built = time.perf_counter()
    found = index.search(queries, 10)[1]
    seconds = time.perf_counter() - built
    exact = faiss.IndexFlatIP(args.dimension)
    exact.add(vectors)
    wanted = exact.search(queries, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), wanted.tolist())])
    print(f"{args.vectors} x {args.dimension}, m {args.hnsw_m}, ef {args.hnsw_ef}: built in {built - began:.1f} s, "
          f"{args.queries / seconds:.0f} queries/s, recall@10 {recall:.4f}")  # fmt: skip


def measure_labels(args):
    encoder = Encoder(args.params_path, batch_size=128)
    encoder.load("cpu")
    characters = [token for token in encoder.tokenizer.vocab if len(token) == 1 and "\u4e00" <= token <= "\u9fff"]
    rng = np.random.default_rng(0)
    leaves = {"".join(rng.choice(characters, 4)) for _ in range(args.labels)}
    groups = [f"G{i}" for i in range(100)]
    tree = LabelTree(groups + [f"{groups[i % 100]}##{name}" for i, name in enumerate(sorted(leaves))])
    began = time.perf_counter()
    index = labels_index(encoder, tree)
    built = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        index.save(work)
        index = SemanticIndex.read(work, encoder)
    saved = time.perf_counter()
    own = rng.permutation(np.arange(100, len(tree)))[:1000].tolist()
    texts = [",".join(tree.segments(i)) for i in own]
    found = index.retrieve(encoder.encode(texts), 10)
    seconds = time.perf_counter() - saved
    hits = recalls([[label for label, _ in row] for row in found], [(i,) for i in own])
    print(f"{len(index.entries)} labels: indexed in {built - began:.1f} s, saved and read in {saved - built:.1f} s, "
          f"{len(own) / seconds:.0f} texts/s; found by their own words: recall@1 {hits['recall@1']:.4f}")  # fmt: skip


def main(argv=None):
    args = parse_args(argv)
    {"index": measure_index, "labels": measure_labels}[args.command](args)


if __name__ == "__main__":
    run(main)
