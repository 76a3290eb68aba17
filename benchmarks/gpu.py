"""All figures of prediction and serving on a GPU: equality with the CPU, predictor, whole commands, HTTP server, torch.

    python benchmarks/gpu.py --model_path export --data_file data/data.txt --work_dir output/gpu --output_json gpu.json
    python benchmarks/gpu.py --model_path export --data_file data/data.txt --work_dir output/gpu --device cpu --texts 99

Reads   model_path/float32.onnx and what export_model.py left beside it; data_file: a text a line, up to a tab
Writes  work_dir     the same model in float16, and one of twice the width for speed alone; texts, answers, logs
        output_json  every figure so far, after each measurement, if asked for; the table goes to the terminal

Under five minutes on an H100 with 16 cores. It needs what .[gpu] installs and onnx; the server's measurement what
deploy/simple_serving/requirements.txt names; torch's is left out where there is no torch. Each measurement is a process
of its own with a time limit: one that fails is reported, and the others go on. With --device cpu everything can be
tried without a GPU; such times mean nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.gpu_forms import forms
from benchmarks.gpu_measurements import MEASUREMENTS as OTHERS
from benchmarks.gpu_measurements import told
from hierarchical.devices import ENGINE_DEVICES, available_cores, installed
from hierarchical.engines import find_gpu
from utils import InputError, atomic_write, check_minima, make_parser, require_file, run

MEASUREMENTS = OTHERS | {"forms": (forms, 150)}


def parse_args(argv):
    parser = make_parser("Take all figures of prediction and serving on a GPU.")
    parser.add_argument("--model_path", type=Path, required=True, help="folder of export_model.py")
    parser.add_argument("--data_file", type=Path, required=True, help="a text a line; taken again if they are too few")
    parser.add_argument("--work_dir", type=Path, required=True, help="for models, answers and logs")
    parser.add_argument("--output_json", help="write all figures to this file")
    parser.add_argument("--device", choices=ENGINE_DEVICES, default="gpu", help="cpu: only to try it out")
    parser.add_argument("--texts", type=int, default=32_768, help="that a whole command labels")
    parser.add_argument("--seconds", type=float, default=2.5, help="of load on a server, with each number of clients")
    parser.add_argument("--total_seconds", type=float, default=300, help="after which no measurement goes on")
    parser.add_argument("--measurements", nargs="+", choices=MEASUREMENTS, default=[*MEASUREMENTS], help="only these")
    parser.add_argument("--run_one", choices=MEASUREMENTS, help=argparse.SUPPRESS)  # what this script calls itself with
    args = parser.parse_args(argv)
    check_minima(parser, args, texts=1)
    if min(args.seconds, args.total_seconds) <= 0:
        parser.error("arguments --seconds and --total_seconds: must be above 0")
    return args


def machine():
    """What the figures are of."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        card = ""
    versions = {name: installed(name) for name in ("onnxruntime-gpu", "onnxruntime", "torch", "numpy")}
    date, python = time.strftime("%Y-%m-%d"), sys.version.split()[0]
    return {"card": card, "cores": available_cores(), "python": python, "date": date} | versions


def measure(args, name, seconds):
    """Run a measurement as a process; what went wrong with it, or None."""
    log = args.work_dir / f"{name.replace(' ', '_')}.log"
    passed_on = ("model_path", "data_file", "work_dir", "device", "texts", "seconds")
    words = [word for flag in passed_on for word in (f"--{flag}", str(getattr(args, flag)))]
    with open(log, "wb") as file:
        command = [sys.executable, __file__, *words, "--run_one", name]
        process = subprocess.Popen(command, stderr=file, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its servers then
            with suppress(subprocess.TimeoutExpired):
                process.wait(12)
            code = f"out of its {seconds:.0f} s"
        finally:
            if process.poll() is None or code:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return None if code == 0 else f"{code}: {' '.join(log.read_text('utf-8', 'replace').split())[-400:]}"


def main(argv=None):
    args = parse_args(argv)
    if args.run_one:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("out of time"))
        MEASUREMENTS[args.run_one][0](args)
        return
    require_file(args.model_path / "float32.onnx", "Make it with export_model.py.")
    require_file(args.data_file, "It holds a text a line.")
    if find_gpu(args.device) != args.device:
        raise InputError("--device gpu: there is no GPU to measure, as told above. --device cpu only tries this out.")
    end = time.monotonic() + args.total_seconds
    args.work_dir.mkdir(parents=True, exist_ok=True)
    rows = args.work_dir / "rows.jsonl"
    rows.write_text("")
    result = {"machine": machine(), "failed": {}, "rows": []}
    for name in MEASUREMENTS:
        if name not in args.measurements and name != "models":
            continue
        began, left = time.monotonic(), min(MEASUREMENTS[name][1], end - time.monotonic())
        failure = measure(args, name, left) if left > 1 else "no time was left"
        if failure:
            result["failed"][name] = failure
        result["rows"] = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
        if args.output_json:
            with atomic_write(args.output_json) as file:
                json.dump(result, file, ensure_ascii=False, indent=1)
        print(f"{name}: {time.monotonic() - began:.1f} s{f', FAILED: {failure}' if failure else ''}", flush=True)
    print(f"\n{', '.join(f'{key} {value}' for key, value in result['machine'].items())}\n")
    print("| measurement | setting | figures |\n| --- | --- | --- |")
    for line in (*map(told, result["rows"]), *(f"{name} | | {why}" for name, why in result["failed"].items())):
        print(f"| {line} |")


if __name__ == "__main__":
    run(main)
