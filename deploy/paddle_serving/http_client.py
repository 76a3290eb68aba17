"""Ask the service of service.py for the labels of texts, by HTTP. Any Python with numpy will do.

    python deploy/paddle_serving/http_client.py --texts 某公司宣布裁员 国足今晚出战
    python deploy/paddle_serving/http_client.py --dataset_dir data --url http://192.168.0.7:9878

Reads   data_file in dataset_dir: texts or rows (see hierarchical/formats.py); "-" is standard input. Writes nothing.
"""

import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy import client_texts
from deploy.paddle_serving.client import print_labels
from deploy.paddle_serving.protocol import HTTP_PORT, ROUTE
from utils import InputError, make_parser, run


def parse_args(argv):
    parser = make_parser("Ask Paddle Serving by HTTP.")
    client_texts.add_arguments(parser, f"http://127.0.0.1:{HTTP_PORT}", "the service")
    return client_texts.parse_args(parser, argv)


def connect(url, timeout):
    """ask(value) as client.classify() needs it. Raises InputError when the service cannot be reached."""
    address = url.rstrip("/") + ROUTE

    def ask(value):
        body = json.dumps({"key": ["sentence"], "value": [value]}).encode()
        try:
            with urllib.request.urlopen(address, body, timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            content = error.read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{address}: {reason}. Is this the HTTP port of the service, and is it up?") from None
        try:
            answer = json.loads(content)
            return answer["err_no"], answer["err_msg"], answer["key"], answer["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{address}: the answer is not one of Paddle Serving. Is this its HTTP port?") from None

    return ask


def main(argv=None):
    args = parse_args(argv)
    print_labels(args, connect(args.url, args.timeout))


if __name__ == "__main__":
    run(main)
