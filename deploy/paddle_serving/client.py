"""What http_client.py and rpc_client.py share: their arguments, the texts, cutting them into requests, and printing."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.paddle_serving.protocol import MAX_BYTES, labels_of
from deploy.triton_serving.seqcls_grpc_client import read_file
from utils import InputError

BATCH_SIZE = 64  # texts of a request


def parse_args(parser, url):
    """The arguments of both clients; `url` is the default address."""
    parser.add_argument("--texts", nargs="+", help="the texts to label; left out: those of a file")
    parser.add_argument("--dataset_dir", help="directory of data_file; needed, unless that is - or --texts is given")
    parser.add_argument("--data_file", default="data.txt", help="in dataset_dir; .jsonl, .csv or else lines; -: stdin")
    parser.add_argument("--url", default=url, help="address of the service")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for an answer")
    args = parser.parse_args()
    if args.texts is None and args.dataset_dir is None and args.data_file != "-":
        parser.error("what to label: give --texts, --dataset_dir, or --data_file - for standard input")
    if not args.timeout > 0:
        parser.error(f"argument --timeout: must be above 0, got {args.timeout}")
    return args


def requests_of(texts):
    """Cut texts into lists of at most BATCH_SIZE that go into a request; one that is too long by itself stays alone."""
    batch, size = [], 0
    for text in texts:
        length = len(json.dumps(json.dumps(text)))  # an upper bound: the client escapes less
        if batch and (len(batch) == BATCH_SIZE or size + length > MAX_BYTES // 2):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def classify(texts, ask):
    """Yield (names, probabilities) for each text. ask(value): (err_no, err_msg, keys, values) of a request's value."""
    for batch in requests_of(texts):
        number, message, keys, values = ask(json.dumps(batch, ensure_ascii=False))
        if number:
            raise InputError(f"the service refused a request (error {number}): {message}")
        yield from labels_of(keys, values, len(batch))


def print_labels(args, ask):
    texts = args.texts or read_file(args)
    for text, (names, probabilities) in zip(texts, classify(texts, ask)):
        print("text:", text)
        print("label:", ",".join(names))
        print("confidence:", ",".join(f"{p:.4f}" for p in probabilities))
        print("-" * 20)
