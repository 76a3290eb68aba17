"""Label texts by retrieval, or show how near texts and labels are.

    python retrieval_based/predict.py --dataset_dir data                                        # to the log
    python retrieval_based/predict.py --dataset_dir data --output_file predictions.jsonl        # to a file
    python retrieval_based/predict.py --dataset_dir data --index_dir index_rows                 # rows vote
    python retrieval_based/predict.py --text_pair_file data/dev.txt                             # cosines to stdout

Reads   dataset_dir/data_file   one text per line, or rows (see hierarchical/formats.py), whose labels are ignored
        text_pair_file          rows text<TAB>label
        params_path, and index_dir or corpus_file
Writes  output_file             as predict.py of the main route does; the similarities stand as "probabilities"

A label is predicted when its similarity is above the threshold, and brings its ancestors.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.batches import Begun, row_windows
from hierarchical.predictions import predict_file
from retrieval_based.encoder import Encoder, add_model_arguments, path_text
from retrieval_based.index import add_index_arguments, dense, index_or_labels, labels_index
from utils import (
    FLAT,
    InputError,
    LabelTree,
    add_decision_arguments,
    add_result_arguments,
    add_texts_arguments,
    check_minima,
    check_prediction_arguments,
    decision_from_arguments,
    load_rows,
    make_parser,
    prediction_job,
    run,
)


def parse_args(argv):
    parser = make_parser("Label texts by retrieval.")
    add_texts_arguments(parser)
    parser.add_argument("--text_pair_file", help="instead: print the cosine of text and label for each of these rows")
    add_index_arguments(parser)
    parser.add_argument("--recall_num", type=int, default=50, help="labels, or rows that vote, per text")
    add_model_arguments(parser)
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    args = parser.parse_args(argv)
    check_minima(parser, args, recall_num=1, batch_size=1, max_seq_length=3)
    if not args.text_pair_file:
        check_prediction_arguments(parser, args)
    if args.resume and not args.index_dir:
        parser.error("argument --resume: needs an --index_dir, whose labels are the same as before")
    return args


def print_cosines(encoder, path, device):
    """Print text<TAB>label<TAB>cosine for every pair of a file; the labels need not be known ones."""
    rows = load_rows(path, None)
    pairs = [(text, name) for text, names in zip(rows.texts, rows.labels) for name in names]
    encoder.load(device)
    for rows in row_windows(len(pairs)):
        window = pairs[rows.start : rows.stop]
        texts = encoder.encode([text for text, _ in window])
        labels = encoder.encode([path_text(name) for _, name in window])
        for (text, name), cosine in zip(window, (texts * labels).sum(1)):
            print(f"{text.translate(FLAT)}\t{name.translate(FLAT)}\t{cosine:.6f}")


class Retriever:
    """Stands in for a Predictor: a label's probability is its similarity to the text, 0 where it is not retrieved.

    index: None for one of the labels of `tree`, which is then made in memory
    """

    def __init__(self, encoder, index, tree, args):
        self.encoder, self.index, self.tree, self.tokenizer = encoder, index, tree, encoder.tokenizer
        self.file = index.path if index else encoder.file
        self.device, self.recall_num = args.device, args.recall_num

    def load(self):
        self.encoder.load(self.device)
        self.index = self.index or labels_index(self.encoder, self.tree)

    def begin(self, texts):
        return Begun(lambda: dense(self.index.retrieve(self.encoder.encode(texts), self.recall_num), len(self.tree)))


def main(argv=None):
    args = parse_args(argv)
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    if args.text_pair_file:
        print_cosines(encoder, args.text_pair_file, args.device)
        return
    index, tree = index_or_labels(args, encoder)
    if args.dataset_dir and (path := Path(args.dataset_dir) / args.label_file).exists():
        if not LabelTree.read(path).is_same(tree):
            way = "build_index.py --add brings the new labels in" if index else f"pass --corpus_file {path}"
            raise InputError(f"{path}: other labels than those to choose from; {way}.")
    decision = decision_from_arguments(args, tree, index.decision if index else encoder.decision)

    labeller = Retriever(encoder, index, tree, args)
    predict_file(prediction_job(args), labeller, decision, {"recall_num": args.recall_num})


if __name__ == "__main__":
    run(main)
