"""Type a text, see its nearest labels.

    python retrieval_based/run_system.py --index_dir index
    echo "某公司宣布裁员" | python retrieval_based/run_system.py --top_k 3

Reads   texts from standard input, one per line, or rows in JSON; params_path, and index_dir or corpus_file
Writes  text<TAB>label<TAB>similarity to standard output, up to top_k lines per text, the nearest label
        first; one without a label for a text that nothing is near

It goes on with what build_index.py --add brings into the index meanwhile.
"""

import sys
from collections import Counter
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.bi_encoder import Encoder
from retrieval_based.encoder import add_model_arguments
from retrieval_based.index import SemanticIndex, add_index_arguments, index_or_labels, labels_index
from utils import Problems, check_minima, get_logger, make_parser, read_texts, run, shown, warn_about


def parse_args(argv):
    parser = make_parser("Show the nearest labels of texts.")
    parser.add_argument("--top_k", type=int, default=5, help="labels per text")
    parser.add_argument("--recall_num", type=int, default=50, help="of an index of rows: rows that vote")
    add_index_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    check_minima(parser, args, top_k=1, recall_num=1, batch_size=1, max_seq_length=3)
    return args


class ToldAtOnce(Problems):
    """Logs each problem as it comes: whoever types must not wait for the end to hear of it."""

    def add(self, path, line, message):
        super().add(path, line, message)
        get_logger().error(f"line {line}: {message}")


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    index, tree = index_or_labels(args, encoder)
    encoder.load(args.device)
    index = index or labels_index(encoder, tree)
    logger.info(f"{len(index.entries)} {index.by} in the index; type a text and press Enter, Ctrl-D ends")
    problems, seen = ToldAtOnce(), Counter()
    for text in read_texts("-", tree, problems, seen):
        if not text:
            continue
        if args.index_dir and index.has_changed():
            index = SemanticIndex.read(args.index_dir, encoder)
            logger.info(f"The index has changed: {len(index.entries)} {index.by}")
        k = args.recall_num if index.by == "rows" else args.top_k
        found = index.retrieve(encoder.encode([text]), k)[0][: args.top_k]
        lines = [f"{index.tree.labels[label]}\t{similarity:.4f}" for label, similarity in found]
        for line in lines or ["\t0"]:
            print(f"{shown(text)}\t{line}", flush=True)
    del seen["blank"]
    warn_about(seen, "-", logger)
    problems.raise_if_any()


if __name__ == "__main__":
    run(main)
