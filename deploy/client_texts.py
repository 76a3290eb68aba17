"""What the clients of the servers share: which texts to send, where to, and how long to wait for an answer."""

from collections import Counter
from pathlib import Path

from utils import LabelTree, Problems, add_data_file_argument, get_logger, read_texts, require_file, warn_about


def add_arguments(parser, url, what):
    """The flags of texts and connection; `url` is the default address of `what`."""
    parser.add_argument("--texts", nargs="+", help="the texts to label; left out: those of a file")
    parser.add_argument("--dataset_dir", help="directory of data_file; needed, unless that is - or --texts is given")
    add_data_file_argument(parser)
    parser.add_argument("--url", default=url, help=f"address of {what}")
    text = "tell how certain the labels of each text are, and whether it is this much; evaluate.py tells what to give"
    parser.add_argument("--certainty", type=float, help=text)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for an answer")


def parse_args(parser, argv):
    args = parser.parse_args(argv)
    if args.texts is None and args.dataset_dir is None and args.data_file != "-":
        parser.error("what to label: give --texts, --dataset_dir, or --data_file - for standard input")
    if not args.timeout > 0:
        parser.error(f"argument --timeout: must be above 0, got {args.timeout}")
    if args.certainty is not None and not 0 <= args.certainty <= 1:
        parser.error(f"argument --certainty: must be from 0 to 1, got {args.certainty}")
    return args


def print_certainty(certainty, least):
    """The line of a text for --certainty, if that was given."""
    if least is not None:
        print(f"certainty: {certainty:.4f} ({'sure' if certainty >= least else 'unsure'})")


def texts_to_send(args):
    """The texts, in order: those given, or those of the data file, "" for a blank row, without labels.

    A label.txt in dataset_dir tells labels after a TAB from text; without one a TAB is refused.
    """
    if args.texts:
        return args.texts
    path, problems, seen = args.data_file, Problems(), Counter()
    if path != "-":
        path = Path(args.dataset_dir) / path
        require_file(path, "It holds one text per line.")
    labels = Path(args.dataset_dir or "") / "label.txt"
    tree = LabelTree.read(labels) if args.dataset_dir and labels.exists() else None
    texts = list(read_texts(path, tree, problems, seen))
    problems.raise_if_any()
    warn_about(seen, path, get_logger())
    return texts
