"""What 16 good clients of the HTTP server wait for beside 64 hostile ones.

    pip install -r deploy/simple_serving/requirements.txt
    python benchmarks/serving_hostile.py --model_path export --dataset_dir data --output_json hostile.json

Reads   model_path/             a folder of export_model.py
        dataset_dir/dev.txt     the texts that the good clients ask about, one in a request, without pause
Writes  output_json             every figure, if asked for

A quarter each of the hostile clients sends one byte in a tenth of a second (slow), begins a request and says no more
(half-open), sends 64 MB (huge), and sends what is no request, or one without sense (malformed); each begins again as
soon as it is answered or thrown out. greedy: 16 clients instead, whose requests are in order, but hold as many long
texts as the server takes. The good ones are measured alone and beside each, in turns, --rounds times; the table has
medians. Both sides are processes of their own, on the cores that the server has.
"""

import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.http_load import LEAD, load, processes, request_of
from benchmarks.serving_load import http_server, report
from utils import LabelTree, check_minima, load_rows, make_parser, run

GOOD, HOSTILE, GREEDY = 16, 64, 16
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
HUGE, MEGABYTE = 64 * 10**6, b" " * 10**6
MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /v1/classify HTTP/9.9\r\nHost: \r\n\r\n",
    *(HEAD % len(body) + body for body in (b'{"texts": [', b'{"texts": 7}', b"\xff\xfe" * 500, b"[" * 20_000)),
)

GREEDY_BODY = json.dumps(
    {"texts": ["".join(random.Random(n).choices("贪多嚼不烂", k=500)) for n in range(128)]}
).encode()
GREEDY_REQUEST = HEAD % len(GREEDY_BODY) + GREEDY_BODY


def parse_args(argv):
    parser = make_parser("Measure what good clients wait for beside hostile ones.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurements")
    parser.add_argument("--output_json", help="write all figures to this file")
    args = parser.parse_args(argv)
    check_minima(parser, args, seconds=1, rounds=1)
    return args


# ---- the hostile ones: each a function that uses up one connection ---------------------------------------------------


async def slow(reader, writer, chance):
    for byte in request_of("慢" * 50):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def half_open(reader, writer, chance):
    head = HEAD % 50
    writer.write(head[: chance.randrange(1, len(head))])
    await reader.read()


async def huge(reader, writer, chance):
    writer.write(HEAD % HUGE)
    for _ in range(HUGE // len(MEGABYTE)):
        writer.write(MEGABYTE)
        await writer.drain()
    await reader.readuntil(b"\r\n\r\n")


async def malformed(reader, writer, chance):
    writer.write(chance.choice(MALFORMED))
    await reader.readuntil(b"\r\n\r\n")


async def greedy(reader, writer, chance):
    writer.write(GREEDY_REQUEST)
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.1)  # it was refused, or has to read what came


SIDES = {"alone": ([], 0), "hostile": ([slow, half_open, huge, malformed], HOSTILE), "greedy": ([greedy], GREEDY)}


async def attack(kind, port, number, until):
    """Use up one connection after the other; how many there were."""

    async def once():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await kind(reader, writer, chance)
        finally:
            writer.close()

    chance, count = random.Random(number), 0
    while (left := until - time.time()) > 0:
        with suppress(OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):  # thrown out, or time is up
            await asyncio.wait_for(once(), left)
        count += 1
    return count


def attack_together(side, port, began, seconds):
    """kind -> connections used up, of all hostile clients of a side."""
    kinds, attackers = SIDES[side]

    async def all_of_them():
        await asyncio.sleep(max(0, began - time.time()))
        each = (attack(kinds[number % len(kinds)], port, number, began + seconds) for number in range(attackers))
        return await asyncio.gather(*each)

    counts = asyncio.run(all_of_them())
    return {kind.__name__: sum(counts[number :: len(kinds)]) for number, kind in enumerate(kinds)}


# ---- measurements ----------------------------------------------------------------------------------------------------


def measure(good, bad, port, texts, side, seconds):
    """Figures of the good clients beside the hostile ones of a side. good, bad: processes"""
    attacks = bad.submit(attack_together, side, port, time.time() + LEAD, seconds)
    return load(good, port, texts, GOOD, seconds) | attacks.result()


def main(argv=None):
    args = parse_args(argv)
    texts = load_rows(args.dataset_dir / "dev.txt", LabelTree.read(Path(args.model_path) / "label.txt")).texts
    results = {side: [] for side in SIDES}
    with http_server(args) as server, processes(1) as good, processes(1) as bad:
        port = urlsplit(server.url).port
        for _ in range(args.rounds):
            for side in SIDES:
                results[side].append(measure(good, bad, port, texts, side, args.seconds))
                print(side, json.dumps(results[side][-1]), flush=True)

    def median(side, figure):
        return float(np.median([found.get(figure, 0) for found in results[side]]))

    rows = [("p99 of the good clients alone", f"{median('alone', 'ms p99'):.0f} ms", "–")]
    for side in ("hostile", "greedy"):
        times = median(side, "ms p99") / median("alone", "ms p99")
        rows += [
            (f"p99 beside {side} clients", f"{median(side, 'ms p99'):.0f} ms, {times:.1f} times", "< 3 times"),
            (f"good requests refused or lost beside {side} clients", f"{median(side, 'failed'):.0f}", "0"),
        ]
    report(rows, results, args.output_json)


if __name__ == "__main__":
    run(main)
