"""What 16 good clients of the HTTP server wait for beside 64 hostile ones.

    pip install -r deploy/simple_serving/requirements.txt
    python benchmarks/serving_hostile.py --model_path export --dataset_dir data --output_json hostile.json

Reads   model_path/             a folder of export_model.py
        dataset_dir/dev.txt     the texts that the good clients ask about, one in a request, without pause
Writes  output_json             every figure, if asked for

Of the hostile clients as many each send one byte in a tenth of a second (slow), begin a request and say no more
(half-open), send 64 MB (huge), and send what is no request, or one without sense (malformed); each begins again as soon
as it is answered or thrown out. greedy: beside them 16 clients whose requests are in order, but hold as many long texts
as the server takes. The good ones are measured alone and beside each, in turns, --rounds times; the table has medians.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.http_load import client, request_of
from benchmarks.serving_load import http_server, report
from utils import LabelTree, check_minima, load_rows, make_parser, run

GOOD, HOSTILE, GREEDY = 16, 64, 16
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
HUGE = 64 * 10**6
MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /v1/classify HTTP/9.9\r\nHost: \r\n\r\n",
    *(HEAD % len(body) + body for body in (b'{"texts": [', b'{"texts": 7}', b"\xff\xfe" * 500, b"[" * 20_000)),
)


def parse_args(argv):
    parser = make_parser("Measure what good clients wait for beside hostile ones.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurements")
    parser.add_argument("--output_json", help="write all figures to this file")
    args = parser.parse_args(argv)
    check_minima(parser, args, rounds=1)
    return args


# ---- the hostile ones: each a function that uses up one connection ---------------------------------------------------


async def slow(reader, writer, chance):
    for byte in request_of("慢" * 50):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def half_open(reader, writer, chance):
    writer.write(HEAD[: chance.randrange(1, len(HEAD))])
    await reader.read()


async def huge(reader, writer, chance):
    writer.write(HEAD % HUGE)
    for _ in range(HUGE // 10**6):
        writer.write(b" " * 10**6)
        await writer.drain()
    await reader.read()


async def malformed(reader, writer, chance):
    writer.write(chance.choice(MALFORMED))
    await reader.readuntil(b"\r\n\r\n")


async def greedy(reader, writer, chance):
    body = json.dumps({"texts": ["".join(chance.choices("贪多嚼不烂", k=500)) for _ in range(128)]}).encode()
    writer.write(HEAD % len(body) + body)
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.1)  # it was refused, or has to read what came


async def attack(kind, port, number, until):
    """Use up one connection after the other; how many there were."""
    chance, count = random.Random(number), 0
    while (left := until - time.time()) > 0:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.wait_for(kind(reader, writer, chance), left)
            finally:
                writer.close()
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            pass  # thrown out
        count += 1
    return count


# ---- measurements ----------------------------------------------------------------------------------------------------


async def measure(port, texts, kinds, attackers, seconds):
    """Figures of the good clients beside `attackers` hostile ones, of each kind as many."""
    began = time.time() + 1
    requests = [(text, request_of(text)) for text in texts]
    good = [client(port, requests, number * len(texts) // GOOD, began, seconds) for number in range(GOOD)]
    bad = [attack(kinds[number % len(kinds)], port, number, began + seconds) for number in range(attackers)]
    *answers, attacks = await asyncio.gather(*good, asyncio.gather(*bad))
    times = [milliseconds for part, _ in answers for milliseconds in part]
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    failed = sum(failed for _, failed in answers)
    return {"requests_per_second": len(times) / seconds, "p50_ms": p50, "p99_ms": p99, "failed": failed} | {
        kind.__name__: sum(attacks[number :: len(kinds)]) for number, kind in enumerate(kinds)
    }


def main(argv=None):
    args = parse_args(argv)
    texts = load_rows(args.dataset_dir / "dev.txt", LabelTree.read(Path(args.model_path) / "label.txt")).texts
    sides = {"alone": ([], 0), "hostile": ([slow, half_open, huge, malformed], HOSTILE), "greedy": ([greedy], GREEDY)}
    results = {side: [] for side in sides}
    with http_server(args) as server:
        port = urlsplit(server.url).port
        for _ in range(args.rounds):
            for side, (kinds, attackers) in sides.items():
                found = asyncio.run(measure(port, texts, kinds, attackers, args.seconds))
                results[side].append(found)
                print(side, json.dumps(found), flush=True)

    def median(side, figure):
        return float(np.median([found[figure] for found in results[side]]))

    rows = [("p99 of the good clients alone", f"{median('alone', 'p99_ms'):.0f} ms", "–")]
    for side in ("hostile", "greedy"):
        times = median(side, "p99_ms") / median("alone", "p99_ms")
        rows += [
            (f"p99 beside {side} clients", f"{median(side, 'p99_ms'):.0f} ms, {times:.1f} times", "< 3 times"),
            (f"good requests refused or lost beside {side} clients", f"{median(side, 'failed'):.0f}", "0"),
        ]
    report(rows, results, args.output_json)


if __name__ == "__main__":
    run(main)
