"""How fast the HTTP server answers, beside a bare session of ONNX Runtime that is fed with full batches, and Triton.

    pip install -r deploy/simple_serving/requirements.txt locust==2.47.0
    python benchmarks/serving.py --model_path export --dataset_dir data --output_json serving.json
    python benchmarks/serving.py --model_path export --dataset_dir data --triton_python path/to/python

Reads   model_path/                 a folder of export_model.py
        dataset_dir/dev.txt         its texts are sent, one in a request, always in the same shuffled order
Writes  output_json                 every figure, if asked for

The server is started with batches across requests and without (--batch_size 1), then Triton. Locust is the client: each
of its users sends the next text when the last is answered, over a connection of its own, and every answer is checked to
be that of its text. At half load the texts come at random moments instead, at half the largest rate that was measured;
a late one is timed from the moment when it was due. All of this shares the cores of one machine: the client's share is
in the times of both servers, not in those of the bare session. CPU is that of the server's processes, user and system.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.serving_load import begin_load, cpu_seconds, end_load, figures, http_server, report, triton
from benchmarks.timing import BUSY
from hierarchical.devices import available_cores
from hierarchical.predictor import Predictor
from utils import length_sorted_batches, load_rows, make_parser, pad, run

BATCH_SIZE = 32  # of the bare session
WARM_UP = 2  # seconds
HALF_LOAD_CLIENTS = 64  # connections that the texts at random moments are spread over
BATCHES, ALONE, TRITON = "batches up to 8", "no batches", "Triton"


def parse_args(argv):
    parser = make_parser("Put load on the HTTP server.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128], help="how many ask at a time")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--identical", type=int, default=10_000, help="identical requests, to compare their answers")
    parser.add_argument(
        "--triton_python", help="Python with deploy/triton_serving/requirements.txt; left out: no Triton"
    )
    parser.add_argument("--output_json", help="write all figures to this file")
    return parser.parse_args(argv)


def bare_session(predictor, texts, seconds):
    """Texts per second and CPU milliseconds per text of padded batches, as many side by side as there are cores."""
    ids = predictor.tokenizer.encode(texts)
    batches = [pad([ids[i] for i in rows], 0) for rows in length_sorted_batches(list(map(len, ids)), BATCH_SIZE)]
    end, done = time.perf_counter() + seconds, 0
    with ThreadPoolExecutor(available_cores()) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() < end:  # whole rounds, so that each length has its share
            done += sum(len(logits) for logits in pool.map(predictor.engine, batches))
        cpu, elapsed = time.process_time() - cpu, time.perf_counter() - began
    return {"texts_per_second": done / elapsed, "cpu_ms": 1000 * cpu / done}


def load(server, text_of, clients, seconds, rate=None):
    """The figures of `seconds` of load after a warm-up, and CPU ms of the server per request."""
    import gevent

    answers = []
    runner = begin_load(server, text_of, clients, answers.append, rate)
    gevent.sleep(WARM_UP)
    began, cpu = time.perf_counter(), cpu_seconds(server)
    gevent.sleep(seconds)
    ended, cpu = time.perf_counter(), cpu_seconds(server) - cpu
    end_load(runner)
    counted = [answer for answer in answers if began <= answer.ended < ended]
    return figures(counted, ended - began) | {"cpu_ms": 1000 * cpu / max(1, len(counted))}


def identical(server, text, requests, clients=32):
    """How many different answers there are to so many requests with the same text; all must be answered."""
    import gevent

    answers = []
    runner = begin_load(server, lambda number: text, clients, answers.append, numbers=iter(range(requests)))
    end = time.monotonic() + requests  # a second for each is more than a slow machine takes
    while len(answers) < requests and time.monotonic() < end:
        gevent.sleep(0.1)
    end_load(runner)
    different = len({answer.content for answer in answers if answer.status == 200})
    return {"requests": len(answers), "different": different, "failed": figures(answers, 1)["failed"]}


# ---- the report ------------------------------------------------------------------------------------------------------

HEADER = """| server | clients | requests/s | of the bare session | p50 ms | p95 ms | p99 ms | CPU ms |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def table_row(name, clients, row, bare):
    rate, failed = row["requests_per_second"], ", ".join(f"{n} {what}" for what, n in row["failed"].items())
    cells = [name, clients, f"{rate:.1f}", f"{rate / bare['texts_per_second']:.0%}"]
    cells += [*(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")), f"{row['cpu_ms']:.2f}"]
    return f"| {' | '.join(map(str, cells))} |" + (f" {failed}" if failed else "")


def targets(results):
    """Rows of (what, measured, wanted)."""
    bare, half, same = results["bare"], results["half_load"], results["identical"]
    ours, alone, other = (results["servers"].get(name, {}) for name in (BATCHES, ALONE, TRITON))
    rate, cpu = "requests_per_second", "cpu_ms"

    def ratios(key, one, other):
        return " · ".join(f"{one[clients][key] / other[clients][key]:.2f}" for clients in one)

    clients = max((n for n in ours if n <= 32), default=min(ours))
    per_client = f"at {'/'.join(map(str, ours))} clients"
    rows = [
        (
            f"requests/s at {clients} clients, of the bare session",
            ours[clients][rate] / bare["texts_per_second"],
            "≥ 0.80",
        ),
        (
            f"requests/s with batches, of those without, {per_client}",
            ratios(rate, ours, alone),
            "≥ 1.00; waiting ≥ 1.15",
        ),
        (f"CPU per request, of the bare session's, at {clients} clients", ours[clients][cpu] / bare[cpu], "≤ 1.25"),
        ("p99 at half load, of p50 at 1 client", half["p99_ms"] / ours[min(ours)]["p50_ms"], "< 4"),
        (f"different answers to {same['requests']} identical requests", same["different"], "1"),
    ]
    if other:
        rows += [
            (f"requests/s, of Triton's, {per_client}", ratios(rate, ours, other), "≥ 1.00"),
            (f"CPU per request, of Triton's, {per_client}", ratios(cpu, ours, other), "≤ 1.00"),
        ]
    return [(what, f"{value:.2f}" if isinstance(value, float) else value, wanted) for what, value, wanted in rows]


def main(argv=None):
    args = parse_args(argv)
    predictor = Predictor(args.model_path, args.precision)
    texts = load_rows(args.dataset_dir / "dev.txt", predictor.tree).texts
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    busy = os.getloadavg()[0]
    if busy > BUSY:
        print(f"warning: the load average is {busy:.2f}; on a machine that is not idle the times mean little")
    bare = bare_session(predictor, texts, args.seconds)  # first: locust changes how threads work
    results = {"model": str(predictor.file), "cores": available_cores(), "load_average": busy, "bare": bare}
    results["servers"] = servers = {}

    def text_of(number):
        return texts[order[number % len(texts)]]

    def measure(name, server):
        servers[name] = {}
        for clients in args.clients:
            row = servers[name][clients] = load(server, text_of, clients, args.seconds)
            print(table_row(name, clients, row, bare), flush=True)

    print(HEADER)
    with http_server(args) as server:
        measure(BATCHES, server)
        rate = max(row["requests_per_second"] for row in servers[BATCHES].values()) / 2
        results["half_load"] = load(server, text_of, HALF_LOAD_CLIENTS, args.seconds, rate)
        print(table_row(f"{BATCHES}, half load", "–", results["half_load"], bare), flush=True)
        results["identical"] = identical(server, texts[0], args.identical)
    with http_server(args, "--batch_size", 1) as server:
        measure(ALONE, server)
    if args.triton_python:
        with triton(args) as server:
            measure(TRITON, server)
    print(
        f"\nbare session, batches of {BATCH_SIZE}: {bare['texts_per_second']:.1f} texts/s, {bare['cpu_ms']:.2f} CPU ms"
    )
    print(f"{predictor.file.name}, {available_cores()} cores, one text in a request")
    report(targets(results), results, args.output_json)


if __name__ == "__main__":
    run(main)
