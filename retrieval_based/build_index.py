"""Build an index of labels, or of labelled rows, and add to one.

    python retrieval_based/build_index.py --index_dir index                                        # the labels
    python retrieval_based/build_index.py --index_dir index --corpus_file label.txt --add          # new labels as well
    python retrieval_based/build_index.py --index_dir index_rows --train_set_file data/train.txt   # rows, which vote
    python retrieval_based/build_index.py --index_dir index --milvus_uri http://127.0.0.1:19530    # vectors in Milvus

Reads   params_path      the encoder, and its labels where there is no corpus_file
        corpus_file      labels, one path per line
        train_set_file   labelled rows: text<TAB>label,label,...  (or JSON or CSV, see hierarchical/formats.py)
Writes  index_dir        see index.py; recall.py, predict.py and run_system.py read it

A new label needs no training: it is found by its name, and in an index of rows by its rows. Scripts that have the index
open (run_system.py) notice the addition. --add takes nothing away and compares no rows: a row that is added again votes
twice, and a leaf that has got children stays indexed beside them. For that, build the index again.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.bi_encoder import Encoder
from hierarchical.sets import only_writer
from retrieval_based.encoder import add_model_arguments, labels_to_index, most_specific, texts_of_labels
from retrieval_based.index import SemanticIndex, add_texts, read_about, require_same_thresholds
from retrieval_based.vectors import HNSW_EF, HNSW_M, MilvusVectors, Vectors
from utils import InputError, LabelTree, check_minima, get_logger, load_rows, make_parser, run, some


def parse_args(argv):
    parser = make_parser("Build an index for retrieval.")
    parser.add_argument("--index_dir", required=True, help="directory of the index")
    parser.add_argument(
        "--add", action="store_true", help="add to the index in index_dir: the labels it lacks, or all rows given"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--corpus_file", help="labels, one path per line; left out: as in training, or as in the index")
    data.add_argument("--train_set_file", help="index these labelled rows instead of the labels")
    add_model_arguments(parser)
    vectors = parser.add_argument_group("vectors")
    vectors.add_argument("--milvus_uri", help="keep the vectors in this Milvus server, as in http://127.0.0.1:19530")
    vectors.add_argument("--hnsw_m", type=int, help=f"links per vector, above 20,000 vectors (default: {HNSW_M})")
    vectors.add_argument(
        "--hnsw_ef",
        type=int,
        help=f"breadth of a search; more: slower, finds more; with --add: from now on (default: {HNSW_EF})",
    )
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, hnsw_m=2, hnsw_ef=1)
    if args.add and args.milvus_uri:
        parser.error("argument --milvus_uri: the index in index_dir knows where its vectors are; leave it out")
    for flag in ("hnsw_m", "hnsw_ef"):
        if getattr(args, flag) and args.milvus_uri:
            parser.error(f"argument --{flag}: of an index in this process; Milvus searches in its own way")
    if args.add and args.hnsw_m:
        parser.error("argument --hnsw_m: the links there are stay as they are; build the index again without --add")
    return args


def grown(args, index):
    """The label tree of an index after --add: that of corpus_file, which must have all labels of the index."""
    if not args.corpus_file:
        return index.tree
    tree = LabelTree.read(args.corpus_file)
    if gone := [label for label in index.tree.labels if label not in tree.index]:
        raise InputError(
            f"{args.corpus_file}: lacks {len(gone)} labels of the index ({some(gone)}). --add needs the old "
            "labels and the new ones in one file; to take labels away, build the index without --add."
        )
    require_same_thresholds(index.decision, index.tree, tree)
    return tree


def described(args, logger):
    """index.json of the index in index_dir, None if there is none; a broken one is put aside, unless it is needed."""
    path = Path(args.index_dir) / "index.json"
    if not args.add and not path.exists():
        return None
    try:
        return read_about(args.index_dir)
    except InputError as error:
        if args.add:
            raise
        aside = path.with_name(f"index.json.{uuid4().hex[:8]}")
        path.rename(aside)
        logger.warning(f"{error} That is done now; the broken file is kept as {aside.name}.")


def drop(address, logger):
    """Take a collection that no index has (any more) out of Milvus, if that is possible."""
    try:
        MilvusVectors(**address).drop()
    except InputError as error:
        logger.warning(f"{error} The collection {address['collection']} belongs to no index, and may be there still.")


def build(args, encoder, logger):
    by = "rows" if args.train_set_file else "labels"
    about, index = described(args, logger), None
    if args.add:
        index = SemanticIndex.read(args.index_dir, encoder)
        if index.by != by:
            advice = "give the new rows as --train_set_file" if by == "labels" else "leave --train_set_file out"
            raise InputError(f"{args.index_dir}: an index of {index.by}; {advice}.")
        if args.hnsw_ef and isinstance(index.vectors, MilvusVectors):
            raise InputError(f"--hnsw_ef: the vectors of {args.index_dir} are in Milvus; leave it out.")
        if args.hnsw_ef:
            index.vectors.ef = args.hnsw_ef
        tree = grown(args, index)
        index.move_to(tree)
    else:
        tree = LabelTree.read(args.corpus_file) if args.corpus_file else encoder.tree
        if by == "labels":
            require_same_thresholds(encoder.decision, encoder.tree, tree)
    if by == "rows":
        rows = load_rows(args.train_set_file, tree)
        texts, labels = rows.texts, [most_specific(tree, row) for row in rows.labels]
    else:
        present = {label for entry in index.entries for label in entry} if index else set()
        labels = [i for i in labels_to_index(tree, encoder.inner_labels) if i not in present]
        texts, labels = texts_of_labels(tree, labels), [(i,) for i in labels]

    with ExitStack() as undo:
        if not args.add:
            if args.milvus_uri:
                vectors = MilvusVectors.create(args.milvus_uri, encoder.dimension)
                undo.callback(drop, vectors.address, logger)
            else:
                vectors = Vectors(encoder.dimension, args.hnsw_m or HNSW_M, args.hnsw_ef or HNSW_EF)
            index = SemanticIndex(tree, vectors, by, encoder.id, encoder.decision)
        encoder.load(args.device)
        logger.info("start build index..........")
        add_texts(index, encoder, texts, labels)
        index.save(args.index_dir)
        undo.pop_all()
    if about and about.get("milvus") and not args.add:  # the collection this index had so far, and no other
        drop(about["milvus"], logger)
    logger.info(f"Added {len(texts)} {by}; Total index number:{len(index.entries)}, in {args.index_dir}")


def main(argv=None):
    args = parse_args(argv)
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    if args.add:
        read_about(args.index_dir)  # an index, or no directory is made
    with only_writer(args.index_dir):
        build(args, encoder, get_logger())


if __name__ == "__main__":
    run(main)
