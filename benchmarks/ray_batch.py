"""What deploy/ray_batch costs beside deploy/predictor/infer.py: the same texts and model, on CPUs.

    python benchmarks/ray_batch.py --model_path export --data_file data/data.txt --work_dir output/ray_batch

Reads   model_path  a folder of export_model.py
        data_file   texts, one per line; taken again from the first until there are as many as wanted
Writes  work_dir/results.jsonl  a line for each measurement; those that are there are not made again
        work_dir                the texts and their labels, too

First CPU seconds of a row, of an actor and of what infer.py does, in turns in this process on one core, from loading
the model to the written file: true on a busy machine, too. Then whole commands, of infer.py and of one actor on one
core, and of both on all cores: rows a second as each says at its end, with what it took to start Ray. For these the
machine must have nothing else to do; --cpu_only leaves them out.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.timing import BUSY
from deploy.ray_batch.labelling import Labeller, Settings
from deploy.ray_batch.lake import PIECE_ROWS, cut, find_files
from hierarchical.devices import available_cores
from hierarchical.engines import PRECISIONS
from hierarchical.labelled import FLOOR
from hierarchical.predictions import Job, predict_file
from hierarchical.predictor import Predictor
from utils import InputError, check_minima, make_parser, require_file, run

BATCH_SIZE = 32


def parse_args(argv):
    parser = make_parser("Measure Ray's actors beside infer.py.")
    parser.add_argument("--model_path", type=Path, required=True, help="folder of export_model.py")
    parser.add_argument("--data_file", type=Path, required=True, help="texts, one per line")
    parser.add_argument("--work_dir", type=Path, required=True, help="for what is written")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="the model")
    parser.add_argument("--cpu_rows", type=int, default=1000, help="rows of a turn in this process")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, and runs of each command")
    parser.add_argument("--rows", type=int, default=2 * PIECE_ROWS, help="rows of the whole commands")
    parser.add_argument("--cpu_only", action="store_true", help="no whole commands")
    args = parser.parse_args(argv)
    check_minima(parser, args, cpu_rows=1, rounds=1, rows=1)
    return args


def texts_of(args, rows):
    """A folder with a file of so many rows, rows.txt, made if it is not there."""
    folder = args.work_dir / f"rows-{rows}"
    if not (folder / "rows.txt").exists():
        texts = [line.replace("\t", " ") for line in args.data_file.read_text("utf-8").splitlines() if line.strip()]
        if not texts:
            raise InputError(f"{args.data_file}: holds no text.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.txt").write_text("".join(f"{text}\n" for text in islice(cycle(texts), rows)), "utf-8")
    return folder


# ---- in this process -------------------------------------------------------------------------------------------------


def by_an_actor(args, folder):
    """Label rows.txt as an actor does, piece by piece."""
    output = args.work_dir / "by-actor"
    shutil.rmtree(output, ignore_errors=True)
    decision = Predictor(args.model_path, args.precision).decision.to_dict()
    model = {path.name: path.read_bytes() for path in args.model_path.iterdir() if path.is_file()}
    settings = Settings(str(output), "", "text", "", args.precision, "cpu", None, {}, BATCH_SIZE, decision, FLOOR, None)
    began = time.process_time()
    actor = Labeller(settings, lambda: model)
    for piece in cut(find_files([str(folder)]), "text", settings.added()):
        actor.label(piece)
    return time.process_time() - began


def by_infer(args, folder):
    """Label rows.txt as infer.py does on one core."""
    began = time.process_time()
    predictor = Predictor(args.model_path, args.precision, num_threads=1, batch_size=BATCH_SIZE)
    job = Job(folder / "rows.txt", output_file=str(args.work_dir / "by-infer.jsonl"), quiet=True)
    predict_file(job, predictor, predictor.decision)
    return time.process_time() - began


# ---- whole commands --------------------------------------------------------------------------------------------------


def command(args, folder, kind, cores):
    """The words of a command that labels rows.txt on so many cores."""
    if kind == "infer.py":
        given = ["--data_file", "rows.txt", "--dataset_dir", folder, "--output_file", args.work_dir / "rows.jsonl"]
        words = ["deploy/predictor/infer.py", "--model_path_prefix", args.model_path / "float32", "--device", "cpu"]
        return [*words, *given, "--quiet", *(["--use_quantize"] if args.precision == "int8" else [])]
    shutil.rmtree(args.work_dir / "out", ignore_errors=True)
    words = ["deploy/ray_batch/predict.py", "--model_path", args.model_path, "--precision", args.precision]
    return [*words, "--input", folder, "--output", args.work_dir / "out", "--num_actors", cores]


def rows_a_second(args, folder, kind, cores):
    """What a command says at its end; it sees no more cores than these."""
    words = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores])), sys.executable]
    done = subprocess.run([*words, *map(str, command(args, folder, kind, cores))], cwd=ROOT, capture_output=True)
    said = done.stderr.decode("utf-8", "replace")
    found = re.search(r"Predicted \d+ texts in .*\(([\d.]+) texts/s\)", said)
    if done.returncode or not found:
        raise InputError(f"{kind} failed:\n{said[-2000:]}")
    return float(found[1])


# ---- both ------------------------------------------------------------------------------------------------------------


def measured(path, what, number, measure):
    """What results.jsonl has of a round of a measurement, or else measure(), which is written there."""
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        known = json.loads(line)
        if (known["what"], known["round"]) == (what, number):
            return known["value"]
    value = measure()
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "round": number, "value": value}) + "\n")
    return value


def report(title, found):
    """A table of the medians, and what each is of the first."""
    first = float(np.median(next(iter(found.values()))))
    print(f"| {title} | each round | median | of the first |\n| --- | --- | --- | --- |")
    for name, values in found.items():
        median = float(np.median(values))
        print(f"| {name} | {', '.join(f'{value:.4g}' for value in values)} | {median:.4g} | {median / first:.2f} |")


def main(argv=None):
    args = parse_args(argv)
    for name in ("model_path", "data_file", "work_dir"):
        setattr(args, name, getattr(args, name).absolute())
    require_file(args.data_file, "Name a file of texts.")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    results, folder = args.work_dir / "results.jsonl", texts_of(args, args.cpu_rows)
    found = {"infer.py": [], "an actor": []}
    for number in range(args.rounds):
        for name, label in (("infer.py", by_infer), ("an actor", by_an_actor)):
            what = f"{name}, {args.precision}, {args.cpu_rows} rows in one process"
            seconds = measured(results, what, number, lambda label=label: label(args, folder))
            found[name].append(1000 * seconds / args.cpu_rows)
    report("CPU ms a row", found)
    if args.cpu_only:
        return
    if os.getloadavg()[0] > BUSY:
        print(
            f"The machine is busy (load average {os.getloadavg()[0]:.1f}): these rates do not count.", file=sys.stderr
        )
    folder = texts_of(args, args.rows)
    for cores in sorted({1, available_cores()}):
        found = {"infer.py": [], "ray_batch": []}
        for number in range(args.rounds):
            for kind in found:
                what = f"{kind}, {args.precision}, {args.rows} rows, {cores} cores"
                rate = measured(results, what, number, lambda k=kind, c=cores: rows_a_second(args, folder, k, c))
                found[kind].append(rate)
        report(f"rows a second, cores: {cores}", found)


if __name__ == "__main__":
    run(main)
