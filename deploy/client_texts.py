"""What the clients of the servers share: which texts to send, where to, and how long to wait for an answer."""

from pathlib import Path

from utils import Problems, add_data_file_argument, parse_rows, require_file


def add_arguments(parser, url, what):
    """The flags of texts and connection; `url` is the default address of `what`."""
    parser.add_argument("--texts", nargs="+", help="the texts to label; left out: those of a file")
    parser.add_argument("--dataset_dir", help="directory of data_file; needed, unless that is - or --texts is given")
    add_data_file_argument(parser)
    parser.add_argument("--url", default=url, help=f"address of {what}")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for an answer")


def parse_args(parser, argv):
    args = parser.parse_args(argv)
    if args.texts is None and args.dataset_dir is None and args.data_file != "-":
        parser.error("what to label: give --texts, --dataset_dir, or --data_file - for standard input")
    if not args.timeout > 0:
        parser.error(f"argument --timeout: must be above 0, got {args.timeout}")
    return args


def read_texts(args):
    """The texts to send, in order: those given, or those of the data file, "" for a blank row, without labels."""
    if args.texts:
        return args.texts
    path, problems = args.data_file, Problems()
    if path != "-":
        path = Path(args.dataset_dir) / path
        require_file(path, "It holds one text per line.")
    texts = [text or "" for _, text, _ in parse_rows(path, problems)]
    problems.raise_if_any()
    return texts
