"""What may run an exported model on a CPU, side by side: time per text in batches and alone, scores, other labels.

    python benchmarks/back_ends.py --model_path export --dataset_dir data
    python benchmarks/back_ends.py --model_path export --dataset_dir data --params_path checkpoint --torch_python ...

Reads   model_path/{float32.onnx, int8.onnx, float32.pdmodel}, as far as they are there; dataset_dir/dev.txt
        params_path   the checkpoint of the export, for torch

All back ends have the same texts in turns; the time is the sum of each turn's best of --repetitions. One thread. torch,
in an environment of its own, goes through all texts --repetitions times after the others; the best counts.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.timing import BUSY, ROOT, take_turns
from hierarchical.batches import run_batches
from hierarchical.calibration import sigmoid
from hierarchical.devices import has_bf16
from hierarchical.engines import model_path
from hierarchical.predictor import Predictor
from metric import decide, evaluate
from utils import InputError, check_minima, load_rows, make_parser, run

TURN, BATCH = 400, 32  # texts
SIDES = {
    "ONNX Runtime, float32": ("onnx", "float32"),
    "ONNX Runtime, int8": ("onnx", "int8"),
    "OpenVINO, float32": ("openvino", "float32"),
    "OpenVINO, bfloat16": ("openvino", "bfloat16"),
    "Paddle Inference, float32": ("paddle", "float32"),
    "Paddle Inference, bfloat16": ("paddle", "bfloat16"),
}


def parse_args(argv):
    parser = make_parser("Compare what runs an exported model on a CPU.")
    parser.add_argument("--model_path", type=Path, required=True, help="an export")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--params_path", type=Path, help="with --torch_python: the checkpoint of the export")
    parser.add_argument("--torch_python", help="Python interpreter that has torch, transformers and safetensors")
    parser.add_argument("--repetitions", type=int, default=3, help="of every turn")
    args = parser.parse_args(argv)
    check_minima(parser, args, repetitions=1)
    if args.torch_python and not args.params_path:
        parser.error("argument --torch_python: needs --params_path")
    return args


def predictors(path):
    """name -> Predictor of what there is a model, and a processor, for."""
    found = {}
    for name, (backend, precision) in SIDES.items():
        file = model_path(path, precision if precision == "int8" else "float32", ".onnx")
        if backend == "paddle":
            file = file.with_suffix(".pdmodel")
        package = {"onnx": "onnxruntime"}.get(backend, backend)
        if not file.exists() or not find_spec(package) or (precision == "bfloat16" and not has_bf16()):
            print(f"{name}: left out; it needs {file}, the package {package}, and for bfloat16 a processor that has it")
            continue
        found[name] = Predictor(path, precision, backend=backend, num_threads=1, kind="export")
    if not found:
        raise InputError(f"{path}: no model of export_model.py that could be loaded here. Export one.")
    return found


def told(name, seconds, first, logits, plain, decision, rows, tree):
    """A line of the table; plain: the logits of the first side."""
    labels = decide(sigmoid(logits), tree, decision)
    scores = evaluate(labels, rows.multi_hot(len(tree)), tree)
    same = (labels == decide(sigmoid(plain), tree, decision)).all(axis=1).mean()
    return (
        f"{name:<40} {1000 * seconds / len(logits):7.2f} ms a text {first / seconds:6.2f}x  "
        f"F1 {100 * scores['micro_f1']:.2f} / {100 * scores['macro_f1']:.2f}  same labels {100 * same:.1f} %"
    )


def main(argv=None):
    args = parse_args(argv)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: the load average is {load:.2f}; on a machine that is not idle the times mean little")
    opened = predictors(args.model_path)
    first = next(iter(opened.values()))
    tree, decision, pad_id = first.tree, first.decision, first.tokenizer.pad_id
    rows = load_rows(args.dataset_dir / "dev.txt", tree)
    ids = first.tokenizer.encode(rows.texts)

    def side(predictor, size):
        return lambda some: run_batches(predictor.compute, some, pad_id, len(tree), size)

    sides = {
        f"{name}, {how}": side(predictor, size)
        for how, size in (("batches of 32", BATCH), ("alone", 1))
        for name, predictor in opened.items()
        if size == 1 or not predictor.singly  # an int8 model takes one text at a time, whatever is there
    }
    found = take_turns(sides, ids, args.repetitions, TURN)
    plain, seconds = next(iter(found.values()))
    for name, (logits, own) in found.items():
        print(told(name, own, seconds, logits, plain, decision, rows, tree), flush=True)
    if args.torch_python:
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "data.txt").write_text("".join(f"{text}\n" for text in rows.texts), encoding="utf-8")
            words = [
                "--params_path",
                args.params_path,
                "--data_file",
                f"{work}/data.txt",
                "--output_file",
                f"{work}/out",
            ]
            command = [args.torch_python, "benchmarks/torch_loop.py", *words, "--repetitions", args.repetitions]
            for more in ([], ["--bf16"], ["--compile"], ["--bf16", "--compile"]):
                subprocess.run(list(map(str, [*command, *more])), cwd=ROOT, check=True)


if __name__ == "__main__":
    run(main)
