"""How fast a checkpoint predicts, in every way this toolkit offers, beside a plain loop and beside torch.

    python benchmarks/inference.py --params_path checkpoint --dataset_dir data --output_json inference.json
    python benchmarks/inference.py --params_path checkpoint --dataset_dir data --torch_python path/to/its/bin/python

Reads   params_path, dataset_dir/{dev.txt, label.txt}   the dev rows are predicted, and scored
        prune_dir/width_mult_*/pruned_model*.onnx       if named: the widths of prune.py
Writes  output_json   every figure, if asked for; the export and the predictions go to a temporary directory

Every row of the first table is a command of its own, timed from its start to its end; the order changes from one
repetition to the next. The second table runs ONNX Runtime in this process on rows that are tokenised already: what the
predictor reaches of a bare session fed with sorted batches, and of the processor's peak, which is that of one large
matrix product in the same library. A matrix product of an [m, k] and a [k, n] matrix counts 2 m k n operations.
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.drawing import copy_labels
from benchmarks.timing import BUSY, operations, timed
from hierarchical.devices import available_cores
from hierarchical.encoders import read_config
from hierarchical.engines import OnnxModel
from hierarchical.predictor import Predictor
from metric import evaluate
from utils import (
    LabelTree,
    atomic_write,
    check_minima,
    length_sorted_batches,
    load_rows,
    make_parser,
    multi_hot,
    pad,
    run,
)

BATCH_SIZE = 32


def parse_args(argv):
    parser = make_parser("Time predictions.")
    parser.add_argument("--params_path", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt and label.txt")
    parser.add_argument("--prune_dir", type=Path, help="the --output_dir of prune.py, to time its widths too")
    parser.add_argument("--torch_python", help="Python interpreter that has torch, transformers and safetensors")
    parser.add_argument("--repetitions", type=int, default=3, help="of every command")
    parser.add_argument("--output_json", help="write all figures to this file")
    args = parser.parse_args(argv)
    check_minima(parser, args, repetitions=1)
    return args


def commands(args, work):
    """name -> (arguments of a Python interpreter, that interpreter, file of the predictions)."""
    data = ["--dataset_dir", work, "--batch_size", BATCH_SIZE]
    infer = ["deploy/predictor/infer.py", *data, "--device", "cpu", "--quiet", "--model_path_prefix"]
    export = work / "export" / "float32"
    loop = ["benchmarks/plain_loop.py", "predict", *data, "--params_path", args.params_path]
    ours = ["predict.py", *data, "--params_path", args.params_path, "--device", "cpu", "--quiet"]
    sides = {
        "plain loop over PaddleNLP": loop,
        "predict.py": ours,
        "predict.py, bfloat16": [*ours, "--use_bf16"],
        "predictor, paddle float32": [*infer, export, "--backend", "paddle"],
        "predictor, paddle bfloat16": [*infer, export, "--backend", "paddle", "--use_bf16"],
        "predictor, openvino bfloat16": [*infer, export, "--backend", "openvino", "--use_bf16"],
        "predictor, onnx float32": [*infer, export],
        "predictor, onnx int8": [*infer, export, "--use_quantize"],
    }
    for width in sorted(args.prune_dir.glob("width_mult_*"), reverse=True) if args.prune_dir else ():
        model = [*infer, width / "pruned_model"]
        sides[f"{width.name}, onnx float32"] = model
        sides[f"{width.name}, onnx int8"] = [*model, "--use_quantize"]
    result = {}
    for i, (name, words) in enumerate(sides.items()):
        output = work / f"{i}.{'txt' if i == 0 else 'jsonl'}"
        result[name] = [*words, "--output_file", output], sys.executable, output
    if args.torch_python:
        output = work / "torch.tsv"
        words = ["benchmarks/torch_loop.py", "--params_path", args.params_path, "--data_file", work / "data.txt"]
        result["transformers + torch float32"] = [*words, "--output_file", output], args.torch_python, output
    return result


def read_predictions(path, tree):
    """bool [N, L] of a file in any of the three forms."""
    with open(path, encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            names = [json.loads(line)["labels"] for line in file]
        else:
            key = "prediction result: " if path.suffix == ".txt" else ""
            lines = (line.rstrip("\n") for line in file)
            names = [line.removeprefix(key).split(",") for line in lines if line.startswith(key)]
    return multi_hot([[tree.index[name] for name in row if name] for row in names], len(tree))


def compare_commands(args, work, tree, rows):
    """name -> {"seconds": [of each repetition], "micro_f1", "macro_f1"}."""
    sides = commands(args, work)
    result = {name: {"seconds": []} for name in sides}
    for repetition in range(args.repetitions):
        for name in list(sides)[:: -1 if repetition % 2 else 1]:
            words, python, output = sides[name]
            result[name]["seconds"].append(timed(words, python)["seconds"])
            print(f"{repetition + 1} {name:<32}{result[name]['seconds'][-1]:8.1f} s", flush=True)
            scores = evaluate(read_predictions(output, tree), rows.multi_hot(len(tree)), tree)
            result[name] |= {key: scores[key] for key in ("micro_f1", "macro_f1")}
    return result


def peak(precision, threads, size=2048):
    """Operations per second of one product of square matrices per thread, in ONNX Runtime."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    kinds = {"float32": (TensorProto.FLOAT,) * 2, "int8": (TensorProto.UINT8, TensorProto.INT8)}[precision]
    out = TensorProto.FLOAT if precision == "float32" else TensorProto.INT32
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 100, (size, size)).astype(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds)
    weight = onnx.numpy_helper.from_array(second, "b")
    node = helper.make_node("MatMul" if precision == "float32" else "MatMulInteger", ["a", "b"], ["c"])
    values = [helper.make_tensor_value_info(name, kind, [size, size]) for name, kind in (("a", kinds[0]), ("c", out))]
    model = helper.make_model(
        helper.make_graph([node], "peak", values[:1], values[1:], [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"a": first})
    calls = 8 * threads
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: session.run(None, {"a": first}), range(calls)))
        return 2 * size**3 * calls / (time.perf_counter() - began)


def bare_session(path, batches, threads):
    """Seconds of a session for padded batches, `threads` at a time."""
    model = OnnxModel(path)
    model(batches[0])
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(model, batches))
        return time.perf_counter() - began


def compare_in_process(args, export, texts):
    """precision -> medians: texts per second of the bare session and of the predictor, shares of the peak."""
    threads, result = available_cores(), {}
    for precision in ("float32", "int8"):
        predictor = Predictor(export, precision, num_threads=threads, batch_size=BATCH_SIZE)
        ids, pad_id = predictor.tokenizer.encode(texts), predictor.tokenizer.pad_id
        lengths = [len(row) for row in ids]
        batches = [pad([ids[i] for i in batch], pad_id) for batch in length_sorted_batches(lengths, BATCH_SIZE)]
        work, runs = operations(read_config(args.params_path), lengths), []
        for _ in range(args.repetitions):
            bare, best = bare_session(predictor.file, batches, threads), peak(precision, threads)
            began = time.perf_counter()
            predictor.text_logits(texts)
            whole = time.perf_counter() - began
            runs.append((len(texts) / bare, len(texts) / whole, bare / whole, best / 1e9, work / bare / best))
        keys = ("bare_texts_per_second", "predictor_texts_per_second", "predictor_of_bare", "peak_gops", "bare_of_peak")
        result[precision] = dict(zip(keys, map(median, zip(*runs))))
    return result


def main(argv=None):
    args = parse_args(argv)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"warning: the load average is {load:.2f}; on a machine that is not idle the times mean little")
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    rows = load_rows(args.dataset_dir / "dev.txt", tree)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "data.txt").write_text("".join(f"{text}\n" for text in rows.texts), encoding="utf-8")
        copy_labels(args.dataset_dir, work)
        words = ["export_model.py", "--params_path", args.params_path, "--output_path", work / "export"]
        timed([*words, "--dataset_dir", args.dataset_dir])
        sides = compare_commands(args, work, tree, rows)
        in_process = compare_in_process(args, work / "export" / "float32", rows.texts)

    first = median(sides["plain loop over PaddleNLP"]["seconds"])
    print(f"\n{len(rows.texts)} texts, {available_cores()} cores; whole commands, median of {args.repetitions}")
    print(f"{'':<34}{'seconds':>9}{'faster':>9}{'micro F1':>10}{'macro F1':>10}")
    for name, side in sides.items():
        seconds = median(side["seconds"])
        scores = f"{100 * side['micro_f1']:>10.2f}{100 * side['macro_f1']:>10.2f}"
        print(f"{name:<34}{seconds:>9.1f}{first / seconds:>8.2f}x{scores}")
    print(f"\nin one process{'bare session':>16}{'predictor':>12}{'of bare':>9}{'peak Gop/s':>12}{'bare of peak':>14}")
    for precision, row in in_process.items():
        bare, ours, share, best, of_peak = row.values()
        print(f"{precision:<14}{bare:>10.1f} t/s{ours:>8.1f} t/s{share:>9.0%}{best:>12.0f}{of_peak:>14.0%}")
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump({"load_average": load, "commands": sides, "in_process": in_process}, file, indent=1)


if __name__ == "__main__":
    run(main)
