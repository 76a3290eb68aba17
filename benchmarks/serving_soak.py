"""The HTTP server under twice the load that it can carry, and killed in the middle: what do its clients see?

    pip install -r deploy/simple_serving/requirements.txt locust==2.47.0
    python benchmarks/serving_soak.py --model_path export --dataset_dir data --output_json soak.json

Reads   model_path/                 a folder of export_model.py
        dataset_dir/dev.txt         its texts are sent, one in a request, each with a number of its own before it
Writes  output_json                 every figure, if asked for

One client alone gives the normal time, clients without pause the capacity. Then texts come at random moments, twice as
many a second as that, for --soak_minutes: all must be answered with 200, 429 or 503, each with its own text, and memory
must stay. As soon as the load ends, one client asks until its times are normal again. At last a server under load is
killed (kill -9) and started anew, as systemd would do it: each request must end in an answer or an error, at once.
"""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.serving_load import begin_load, end_load, figures, http_server, processes, report, start
from utils import LabelTree, load_rows, make_parser, run

ALLOWED = {200, 429, 503}
CLIENTS, SOAK_CLIENTS = 32, 1000  # connections; the queue of the server holds 512 texts
NORMAL = 1.5  # times the usual p95: a text that takes no longer is answered as usual
AGAIN = 10  # texts in a row that show that times are normal again


def parse_args(argv):
    parser = make_parser("Overload the HTTP server, and kill it.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--soak_minutes", type=float, default=10, help="of twice the capacity")
    parser.add_argument("--seconds", type=float, default=20, help="of each other measurement")
    parser.add_argument("--output_json", help="write all figures to this file")
    return parser.parse_args(argv)


def memory_mb(server):
    return sum(process.memory_info().rss for process in processes(server)) / 2**20


def measure(server, text_of, clients, seconds):
    """Figures of clients that ask without pause."""
    import gevent

    answers = []
    runner, began = begin_load(server, text_of, clients, answers.append), time.perf_counter()
    gevent.sleep(seconds)
    elapsed = time.perf_counter() - began
    end_load(runner)
    return figures(answers, elapsed)


def soak(server, text_of, rate, minutes, usual):
    """Twice the capacity: counts of answers, memory in MB (before, highest, after), seconds until times are normal."""
    import gevent

    counts, offered, slowest, memory = Counter(), 0, 0.0, [memory_mb(server)]

    def note(answer):
        nonlocal offered, slowest
        offered, slowest = offered + 1, max(slowest, answer.ended - answer.began)
        counts["mixed up" if answer.right is False else answer.status] += 1

    runner, began = begin_load(server, text_of, SOAK_CLIENTS, note, 2 * rate), time.perf_counter()
    while time.perf_counter() < began + 60 * minutes:
        gevent.sleep(min(1, 60 * minutes))
        memory.append(memory_mb(server))
    elapsed = time.perf_counter() - began
    recovery = gevent.spawn(until_normal, server, text_of, usual)
    end_load(runner)
    return {
        "offered_per_second": offered / elapsed, "answers": {str(key): number for key, number in counts.items()},
        "slowest_s": slowest, "memory_mb": [memory[0], max(memory), memory_mb(server)],
        "memory_growth_mb": max(memory) - memory[0], "recovery_s": recovery.get(),
        "not_allowed": sum(number for key, number in counts.items() if key not in ALLOWED),
    }  # fmt: skip


def until_normal(server, text_of, usual, limit=60):
    """Seconds until one client's texts are answered as usual, AGAIN in a row; NaN if that takes longer than `limit`."""
    import gevent

    began, first, in_a_row = time.perf_counter(), None, 0

    def note(answer):
        nonlocal first, in_a_row
        normal = answer.status == 200 and 1000 * (answer.ended - answer.began) <= NORMAL * usual["p95_ms"]
        first, in_a_row = (first if in_a_row else answer.began, in_a_row + 1) if normal else (None, 0)

    runner = begin_load(server, text_of, 1, note)
    while in_a_row < AGAIN and time.perf_counter() < began + limit:
        gevent.sleep(0.01)
    seconds = first - began if in_a_row >= AGAIN else float("nan")
    end_load(runner)
    return seconds


def kill_and_restart(server, text_of, seconds):
    """Under load, kill -9 the server and start it again on its port: what became of every request."""
    import gevent

    answers, sent = [], []

    def counted(number):
        sent.append(number)
        return text_of(number)

    runner = begin_load(server, counted, CLIENTS, answers.append)
    gevent.sleep(seconds / 2)
    killed = time.perf_counter()
    server.process.kill()
    server.process.wait()
    port = server.url.rpartition(":")[2]
    server.process = start([*server.command, "--port", port], server.log)
    gevent.sleep(seconds / 2)
    end_load(runner)
    after = [answer.ended - killed for answer in answers if answer.status == 200 and answer.began > killed]
    return {
        "sent": len(sent), "answered": sum(answer.status == 200 for answer in answers),
        "broken": sum(answer.status != 200 for answer in answers), "never_ended": len(sent) - len(answers),
        "mixed_up": sum(answer.right is False for answer in answers),
        "slowest_s": max(answer.ended - answer.began for answer in answers),
        "back_after_s": min(after, default=float("nan")),
    }  # fmt: skip


def targets(results):
    """Rows of (what, measured, wanted)."""
    under, killed = results["soak"], results["kill"]
    answers = ", ".join(f"{number} × {key}" for key, number in sorted(under["answers"].items()))
    offered = under["offered_per_second"] / results["capacity"]["requests_per_second"]
    return [
        ("texts offered, of the capacity", f"{offered:.2f}", "2"),
        ("answers under this load", answers, "200, 429, 503"),
        ("answers with another status, broken or mixed up", under["not_allowed"], "0"),
        ("slowest answer, from the moment its text was due", f"{under['slowest_s']:.1f} s", "–"),
        ("memory growth", f"{under['memory_growth_mb']:.1f} MB", "< 50 MB"),
        ("normal times again after", f"{under['recovery_s']:.1f} s", "≤ 5 s"),
        ("kill -9: requests answered, broken", f"{killed['answered']}, {killed['broken']}", "–"),
        ("kill -9: requests that never ended, or mixed up", killed["never_ended"] + killed["mixed_up"], "0"),
        ("kill -9: slowest request", f"{killed['slowest_s']:.1f} s", "≤ 5 s"),
        ("kill -9: first answer after", f"{killed['back_after_s']:.1f} s", "≤ 5 s"),
    ]


def main(argv=None):
    args = parse_args(argv)
    texts = load_rows(args.dataset_dir / "dev.txt", LabelTree.read(Path(args.model_path) / "label.txt")).texts
    order = np.random.default_rng(0).permutation(len(texts)).tolist()

    def text_of(number):  # one text, one request: what is mixed up shows. Digits stand apart, because the tokenizer
        # remembers up to 200,000 words (37 MB), and whole numbers would be new words without end.
        return f"{' '.join(str(number))} {texts[order[number % len(texts)]]}"

    results = {}
    with http_server(args) as server:
        results["usual"] = usual = measure(server, text_of, 1, args.seconds)
        results["capacity"] = measure(server, text_of, CLIENTS, args.seconds)
        rate = results["capacity"]["requests_per_second"]
        print(f"one client: p95 {usual['p95_ms']:.1f} ms; {CLIENTS} clients: {rate:.1f} requests/s", flush=True)
        results["soak"] = soak(server, text_of, rate, args.soak_minutes, usual)
        results["kill"] = kill_and_restart(server, text_of, args.seconds)
    report(targets(results), results, args.output_json)


if __name__ == "__main__":
    run(main)
