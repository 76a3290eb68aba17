"""How fast the HTTP server answers, beside a bare session of ONNX Runtime that is fed with full batches.

    pip install locust==2.47.0
    python benchmarks/serving.py --model_path export --dataset_dir data --output_json serving.json

Reads   model_path/                 a folder of export_model.py
        dataset_dir/dev.txt         its texts are sent, one in a request, in an order of its own for each client
Writes  output_json                 every figure, if asked for

The server is started twice, with batches across requests and without (--batch_size 1). Locust is the client: each of
its users sends the next text when the last is answered, over a connection of its own, and every answer is checked to be
that of its text. All of this shares the cores of one machine; the client's share is in the figures of the server, not
in those of the bare session. CPU is the server's alone, user and system, from /proc.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.main_job import BUSY
from deploy.predictor.predictor import Predictor
from deploy.simple_serving.model import find_precision
from modeling import available_cores
from utils import HelpFormatter, InputError, atomic_write, length_sorted_batches, load_rows, pad, run

BATCH_SIZE = 32  # of the bare session
WARM_UP = 2  # seconds


def parse_args():
    parser = argparse.ArgumentParser(description="Put load on the HTTP server.", formatter_class=HelpFormatter)
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--precision", default="auto", help="as for server.py")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128], help="how many ask at a time")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--output_json", help="write all figures to this file")
    return parser.parse_args()


def bare_session(predictor, texts, seconds):
    """Texts per second and CPU milliseconds per text of padded batches, as many side by side as there are cores."""
    ids = predictor.tokenizer.encode(texts)
    batches = [pad([ids[i] for i in rows], 0) for rows in length_sorted_batches(list(map(len, ids)), BATCH_SIZE)]
    end, done = time.perf_counter() + seconds, 0
    with ThreadPoolExecutor(available_cores()) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() < end:  # whole rounds, so that each length has its share
            done += sum(len(logits) for logits in pool.map(predictor.model, batches))
        cpu, elapsed = time.process_time() - cpu, time.perf_counter() - began
    return {"texts_per_second": done / elapsed, "cpu_ms": 1000 * cpu / done}


def start_server(args, batch_size):
    """(process, URL) of a server on a free port."""
    words = ["deploy/simple_serving/server.py", "--model_path", Path(args.model_path).resolve(), "--port", 0]
    words += ["--precision", args.precision, "--batch_size", batch_size]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8"
    )  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"Serving on (http://\S+);", line):
            return process, found[1]
    raise InputError(f"The server did not start:\n{''.join(lines)}")


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(url, pid, texts, clients, seconds):
    """Figures of one load: requests per second, percentiles in ms, CPU ms of the server per request, what failed."""
    import gevent
    from locust import FastHttpUser, task
    from locust.env import Environment

    latencies, counts = [], {"failed": 0, "mixed up": 0}
    sequence = iter(range(10**9))

    class Client(FastHttpUser):
        host = url

        def on_start(self):
            self.order = iter(np.random.default_rng(next(sequence)).integers(0, len(texts), 10**6).tolist())

        @task
        def classify(self):
            text = texts[next(self.order)]
            began = time.perf_counter()
            answer = self.client.post("/v1/classify", json={"texts": [text]})
            latencies.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200:
                counts["failed"] += 1
            elif answer.json()["results"][0]["text"] != text:
                counts["mixed up"] += 1

    environment = Environment(user_classes=[Client])
    runner = environment.create_local_runner()
    runner.start(clients, spawn_rate=max(clients, 10))
    gevent.sleep(WARM_UP)
    latencies.clear()
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    gevent.sleep(seconds)
    done, elapsed, cpu = latencies[:], time.perf_counter() - began, cpu_seconds(pid) - cpu
    runner.quit()
    runner.greenlet.join()
    p50, p95, p99 = np.percentile(done, [50, 95, 99]).tolist() if done else [0] * 3
    return {
        "requests_per_second": len(done) / elapsed, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "cpu_ms": 1000 * cpu / max(1, len(done)), **counts,
    }  # fmt: skip


def main():
    args = parse_args()
    texts = load_rows(args.dataset_dir / "dev.txt", Predictor(args.model_path).tree).texts
    busy = os.getloadavg()[0]
    if busy > BUSY:
        print(f"warning: the load average is {busy:.2f}; on a machine that is not idle the times mean little")
    predictor = Predictor(args.model_path, find_precision(args.model_path, args.precision))
    bare = bare_session(predictor, texts, args.seconds)  # first: locust changes how threads work
    print(f"{predictor.path.name}, {available_cores()} cores, one text in a request")
    print(f"bare session, batches of {BATCH_SIZE}: {bare['texts_per_second']:.1f} texts/s, {bare['cpu_ms']:.2f} CPU ms")
    print(f"{'batches':<9}{'clients':>8}{'req/s':>9}{'of bare':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'CPU ms':>8}")
    results = {"load_average": busy, "bare": bare, "server": {}}
    for name, batch_size in (("up to 8", 8), ("none", 1)):
        process, url = start_server(args, batch_size)
        try:
            for clients in args.clients:
                row = results["server"][f"{name}, {clients}"] = load(url, process.pid, texts, clients, args.seconds)
                rate = row["requests_per_second"]
                print(
                    f"{name:<9}{clients:>8}{rate:>9.1f}{rate / bare['texts_per_second']:>9.0%}{row['p50_ms']:>9.1f}"
                    f"{row['p95_ms']:>9.1f}{row['p99_ms']:>9.1f}{row['cpu_ms']:>8.2f}"
                    + "".join(f"  {row[key]} {key}" for key in ("failed", "mixed up") if row[key]),
                    flush=True,
                )
        finally:
            process.terminate()
            process.wait()
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    run(main)
