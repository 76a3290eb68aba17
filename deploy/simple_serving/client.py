"""Ask the server's route of PaddleNLP's bodies, and print its answer as it comes.

    python deploy/simple_serving/client.py --texts 某公司宣布裁员 国足今晚出战

Reads   api_key_file, if given. Writes nothing; the answer goes to standard output. Any Python with numpy will do.
"""

import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.simple_serving.key import KEY_VARIABLE, read_api_key
from utils import InputError, make_parser, run


def parse_args(argv):
    parser = make_parser("Ask the HTTP server.")
    parser.add_argument("--texts", nargs="+", required=True, help="the texts to label")
    parser.add_argument("--max_seq_len", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--batch_size", type=int, default=1, help="texts of a model call, at most")
    parser.add_argument("--prob_limit", type=float, default=0.5, help="a label needs a probability above this")
    parser.add_argument("--url", default="http://127.0.0.1:8189/models/cls_hierarchical", help="address of the route")
    parser.add_argument(
        "--api_key_file", type=Path, help=f"its first line is sent as X-API-Key (or set {KEY_VARIABLE})"
    )
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the answer")
    args = parser.parse_args(argv)
    if not args.timeout > 0:
        parser.error(f"argument --timeout: must be above 0, got {args.timeout}")
    return args


def main(argv=None):
    args = parse_args(argv)
    parameters = {"max_seq_len": args.max_seq_len, "batch_size": args.batch_size, "prob_limit": args.prob_limit}
    body = json.dumps({"data": {"text": args.texts}, "parameters": parameters}).encode()
    headers = {"Content-Type": "application/json"}
    if key := read_api_key(args.api_key_file):
        headers["X-API-Key"] = key.decode()
    try:
        request = urllib.request.Request(args.url, body, headers)
        with urllib.request.urlopen(request, timeout=args.timeout) as response:
            print(response.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:  # the server's own message says what is wrong and how to mend it
        raise InputError(f"{args.url}: {error.code} {error.read().decode('utf-8', 'replace')}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{args.url}: {reason}. Is the server up, and is this its address?") from None


if __name__ == "__main__":
    run(main)
