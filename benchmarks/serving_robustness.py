"""What the HTTP server does with bad requests: wrong bodies, broken HTTP, and whatever its own description allows.

    pip install -r deploy/simple_serving/requirements.txt
    python benchmarks/serving_robustness.py --model_path export
    python benchmarks/serving_robustness.py --model_path export --schemathesis path/to/schemathesis

Reads   model_path/     a folder of export_model.py
Writes  output_json     counts of answers, if asked for

The server is started on a free port of this machine, and stopped. Nothing may be answered with 5xx, or not at all
within WAIT seconds; what could be read as one request or as two must be refused with 400. A seed draws the damage:
bytes that are no UTF-8, NUL, deep nesting, wrong types, up to 10 MB, and broken heads. Exits with 1 if anything went
wrong. schemathesis (pip install schemathesis==4.32.5, in an environment of its own) then asks whatever
/openapi.json describes for two minutes, and compares the answers with it.
"""

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.serving_load import http_server
from utils import InputError, atomic_write, make_parser, run

KEY = "only for this test"
PATHS = ("/v1/classify", "/v1/explain", "/models/cls_hierarchical")
ALLOWED = {200, 400, 408, 413, 422}
WAIT = 25  # seconds; the server waits 10 for a head and 10 for a body
SIDE_BY_SIDE = 8
GOOD = (
    {"texts": ["国足今晚出战", "a"], "threshold": 0.5, "decoding": "closure", "top_k": None, "floor": 0},
    {"text": "国足今晚出战", "labels": None},
    {"data": {"text": ["国足"]}, "parameters": {"max_seq_len": 128, "batch_size": 1, "prob_limit": 0.5}},
)
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    10**40,
    "",
    "x",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    {"a": [1]},
    [None],
    "长" * 9999,
)
POST = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nX-API-Key: %s\r\n" % KEY.encode()
SECOND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
# Two servers in a row could disagree where these end: the first header of each is one reading, the rest another.
AMBIGUOUS = [
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    b"Content-Length: 2, 3\r\n\r\n{} ",
    b"Content-Length: +2\r\n\r\n{}",
    b"Content-Length: 0x2\r\n\r\n{}",
    b"Content-Length: -1\r\n\r\n{}",
    b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    b"Content-Length : 2\r\n\r\n{}",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: identity, chunked\r\nContent-Length: 2\r\n\r\n{}",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 2\r\n\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
    b"Transfer-Encoding: chunked\n\n0\n\n",
    b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    b"X\r\nContent-Length: 2\r\n\r\n{}",
    b" X: y\r\nContent-Length: 2\r\n\r\n{}",
]


def parse_args(argv):
    parser = make_parser("Send the HTTP server bad requests.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--bodies", type=int, default=10_000, help="damaged bodies")
    parser.add_argument("--heads", type=int, default=1000, help="damaged heads")
    parser.add_argument("--seed", type=int, default=0, help="of what is damaged how")
    parser.add_argument("--schemathesis", help="the program; left out: without it")
    parser.add_argument("--max_examples", type=int, default=100, help="of schemathesis, for each path")
    parser.add_argument("--output_json", help="write all counts to this file")
    return parser.parse_args(argv)


# ---- requests --------------------------------------------------------------------------------------------------------


def odd_json(value, chance):
    """A copy of a JSON value with a few parts of it replaced, left out or added."""
    if chance.random() < 0.2:
        return chance.choice(ODD_VALUES)
    if isinstance(value, dict):
        kept = {key: odd_json(part, chance) for key, part in value.items() if chance.random() < 0.9}
        return kept | ({chance.choice(("x", "", "__proto__", "texts")): 1} if chance.random() < 0.1 else {})
    return [odd_json(part, chance) for part in value] if isinstance(value, list) else value


def damaged(content, chance):
    """Bytes with some replaced, repeated or cut off."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        piece = chance.choice(
            (b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b'"', b"{", b"]", b"\r\n", b":", b"\xf4\x90")
        )
        content[place : place + chance.randint(0, 3)] = piece * chance.randint(1, 3)
    return bytes(content[: chance.randrange(len(content) + 1)] if chance.random() < 0.2 else content)


def body(number, chance):
    """(path, bytes) of the body with this number."""
    which = number % len(PATHS)
    good = json.dumps(GOOD[which], ensure_ascii=number % 2 == 0).encode()
    if number % 500 == 0:
        content = b'{"texts": ["' + b"x" * 10_000_000 + b'"]}'
    elif number % 50 == 0:
        content = chance.choice((b"[", b'{"texts":', b'{"data":{"text":[')) * chance.randint(10, 90_000)
    elif number % 5 == 0:
        content = chance.randbytes(chance.randint(0, 300))
    elif number % 2 == 0:
        content = json.dumps(odd_json(GOOD[which], chance)).encode()
    else:
        content = damaged(good, chance)
    return PATHS[which], content


def status_of(connection, path, content):
    """The status of an answer over a connection that is kept, or "no answer"; an error must come with its problems."""
    try:
        connection.request("POST", path, content, {"X-API-Key": KEY, "Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        return answer.status if answer.status == 200 or told["problems"] else f"{answer.status} without problems"
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return f"no answer: {type(error).__name__}"


def statuses_of(address, content):
    """The statuses of all answers to raw bytes; [] where the server closed the connection, "hangs" after WAIT."""
    found, end = b"", time.monotonic() + WAIT
    with socket.create_connection(address, timeout=WAIT) as sock:
        try:
            sock.sendall(content)
            while time.monotonic() < end and (part := sock.recv(65_536)):
                found += part
                if b"\r\n\r\n" in found:
                    sock.settimeout(0.2)  # for an answer that should not be there
        except TimeoutError:
            if not found:
                return ["hangs"]
        except OSError:
            pass  # the server has reset the connection: what it answered before counts
    return [int(line.split(b" ")[1]) for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# ---- checks ----------------------------------------------------------------------------------------------------------


def send_bodies(address, args):
    """Counts of statuses, and those that are faults with the number of the body that led to them."""

    def send(first):
        connection = http.client.HTTPConnection(*address, timeout=WAIT)
        found = []
        for number in range(first, args.bodies, SIDE_BY_SIDE):
            status = status_of(connection, *body(number, random.Random(f"{args.seed} {number}")))
            found.append((number, status))
        connection.close()
        return found

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = [one for part in pool.map(send, range(SIDE_BY_SIDE)) for one in part]
    faults = [f"body {number}: {status}" for number, status in found if status not in ALLOWED]
    return Counter(str(status) for _, status in found), faults


def send_heads(address, args):
    """The same for damaged heads: any answer but 5xx, or a closed connection."""

    def send(number):
        chance = random.Random(f"{args.seed} {number}")
        good = POST + b"Content-Length: 13\r\nConnection: close\r\n\r\n"
        return number, statuses_of(address, damaged(good, chance) + b'{"texts":"a"}')

    with ThreadPoolExecutor(4 * SIDE_BY_SIDE) as pool:
        found = list(pool.map(send, range(args.heads)))
    faults = [f"head {number}: {all_}" for number, all_ in found if any(one == "hangs" or one >= 500 for one in all_)]
    return Counter(" ".join(map(str, all_)) or "closed" for _, all_ in found), faults


def send_ambiguous(address):
    """The same for AMBIGUOUS: one answer, 400, and none to what stands behind."""
    found = [(shape, statuses_of(address, POST + shape + SECOND)) for shape in AMBIGUOUS]
    faults = [f"{shape!r}: {all_}" for shape, all_ in found if all_ != [400]]
    return Counter(" ".join(map(str, all_)) or "closed" for _, all_ in found), faults


def ask_schemathesis(url, args):
    """It reports to this terminal. What its description allows may still be refused: fields can contradict others."""
    command = [
        args.schemathesis,
        "run",
        f"{url}/openapi.json",
        "--max-examples",
        args.max_examples,
        "--seed",
        args.seed,
    ]
    command += ["--exclude-checks", "positive_data_acceptance", "--request-timeout", WAIT, "--max-time", 120]
    command += ["-H", f"X-API-Key: {KEY}", "--no-color"]
    try:
        with tempfile.TemporaryDirectory() as folder:  # where it keeps what it found
            code = subprocess.run(list(map(str, command)), timeout=600, cwd=folder).returncode
    except FileNotFoundError:
        raise InputError(
            f"--schemathesis {args.schemathesis}: no such program: pip install schemathesis==4.32.5"
        ) from None
    return Counter([f"exit code {code}"]), [f"schemathesis: exit code {code}"] if code else []


def main(argv=None):
    args = parse_args(argv)
    os.environ["SERVING_API_KEY"] = KEY
    results = {}
    with http_server(args) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        checks = {
            "bodies": lambda: send_bodies(address, args),
            "heads": lambda: send_heads(address, args),
            "ambiguous": lambda: send_ambiguous(address),
        }
        if args.schemathesis:
            checks["schemathesis"] = lambda: ask_schemathesis(server.url, args)
        for name, check in checks.items():
            began, (counts, faults) = time.monotonic(), check()
            results[name] = {"seconds": time.monotonic() - began, "answers": counts, "faults": faults}
        alive = status_of(http.client.HTTPConnection(*address, timeout=WAIT), PATHS[0], json.dumps(GOOD[0]).encode())
        faults = [] if alive == 200 else ["no answer"]
        results["after all"] = {"seconds": 0.0, "answers": {str(alive): 1}, "faults": faults}
    print("\n| | answers | faults | seconds |\n| --- | --- | --- | --- |")
    for name, result in results.items():
        answers = ", ".join(f"{number} × {status}" for status, number in sorted(result["answers"].items()))
        print(f"| {name} | {answers} | {len(result['faults'])} | {result['seconds']:.0f} |")
    faults = [fault for result in results.values() for fault in result["faults"]]
    print("\n".join(faults[:20]))
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump(results, file, indent=1)
    sys.exit(bool(faults))


if __name__ == "__main__":
    run(main)
