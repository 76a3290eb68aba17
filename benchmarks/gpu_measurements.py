"""The measurements of gpu.py: each writes its rows down as soon as it has them. No script of its own.

All take the arguments of gpu.py; work_dir is what `prepare` has made of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import cycle, islice
from statistics import median

import numpy as np

from benchmarks.http_load import load, processes
from benchmarks.serving_load import start, wait_for
from benchmarks.timing import ROOT, operations
from hierarchical.devices import available_cores, forbid_tf32
from hierarchical.encoders import read_config
from hierarchical.engines import OnnxModel
from hierarchical.exporting import halve, save_onnx
from hierarchical.identity import RECORD
from hierarchical.predictor import GPU_CALLERS, Predictor
from metric import decide
from utils import InputError, length_sorted_batches, pad

LENGTH, BATCHES = 128, (1, 32, 256)  # tokens of the rows of one length; sizes of batches
ROWS = {1: 256, 32: 4096, 256: 8192}  # batch size -> rows of a repetition, at most
REPETITIONS = 3
COMPARED = 1000  # texts whose answers are compared
MODELS = ("own", "wide")  # the export, and its graph with twice the width
CELLS = (  # of the predictor: model, precision, the texts' own lengths or LENGTH
    ("own", "float16", False), ("wide", "float16", False), ("own", "float16", True),
    ("own", "float32", False), ("own", "float32", True), ("wide", "float32", False),
)  # fmt: skip
ONE = ("--batch_size", "64", "--num_threads", "2")
FOUR = ("--workers", "4", "--batch_size", "64", "--num_threads", "8")
COMMANDS = (("own", 128, 4), ("wide", 32, 1), ("own", 32, 1), ("own", 64, 8), ("wide", 128, 4))
# model, batch size, processes: they share windows of 4,096 rows, so that 32,768 texts are eight of them
SERVERS = ((ONE, (1, 32, 128)), (FOUR, (128, 256)), ((), (128,)))  # flags, clients
MODEL_FILES = {".onnx", ".pdmodel", ".pdiparams", ".info"}
PREDICTED = re.compile(r"Predicted (\d+) texts in [\d.]+ s \(([\d.]+) texts/s\)")

# ---- rows of the table -----------------------------------------------------------------------------------------------


def told(row):
    """A row as text: what | setting | figures."""
    figures = row.get("error") or ", ".join(f"{value:.4g} {unit}" for unit, value in row["figures"].items())
    return f"{row['what']} | {row['setting']} | {figures}"


def note(args, setting, measure: Callable[[], dict]):
    """Write down and print what `measure` gives, unit -> number; or its error, so that what follows is measured."""
    row: dict = {"what": args.run_one, "setting": setting}
    try:
        row["figures"] = measure()
    except Exception as error:  # of whatever library: a failed figure must not cost the others
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    with open(args.work_dir / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(told(row), flush=True)


def seconds_of(work, repetitions=REPETITIONS):
    """The median time of a call, after one that is not counted: it plans memory and chooses kernels for its shapes."""
    work()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


# ---- models and texts ------------------------------------------------------------------------------------------------


def prepare(args):
    """The folders `own` and `wide` with the model in both precisions, and the texts."""
    lines = [f"{text}\n" for text in read_texts(args.data_file)]
    if not lines:
        raise InputError(f"{args.data_file}: there is no text in it.")
    (args.work_dir / "texts").mkdir(exist_ok=True)
    (args.work_dir / "texts" / "data.txt").write_text("".join(islice(cycle(lines), args.texts)), encoding="utf-8")
    own, wide = (args.work_dir / name for name in MODELS)
    for folder in (own, wide):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in args.model_path.iterdir():
            if path.is_file() and path.suffix not in MODEL_FILES and path.name != RECORD:
                shutil.copyfile(path, folder / path.name)
    shutil.copyfile(args.model_path / "float32.onnx", own / "float32.onnx")
    note(args, "own, float16", partial(to_float16, own))
    note(args, "wide, float32", partial(widen, own, wide))
    note(args, "wide, float16", partial(to_float16, wide))


def read_texts(path):
    """The texts of a file with a text a line, up to a tab; blank ones are left out."""
    texts = (line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines())
    return [text for text in texts if text.strip()]


def texts_of(args):
    return read_texts(args.work_dir / "texts" / "data.txt")


def to_float16(folder):
    metadata = OnnxModel(folder / "float32.onnx").metadata
    labels = json.loads(metadata.pop("labels"))
    halve(folder / "float32.onnx", folder / "float16.onnx", labels, **metadata)
    return {"MB": (folder / "float16.onnx").stat().st_size / 1e6}


def widen(source, target):
    """The graph in a folder with twice the width and as many heads: of 6 layers of 384 the sizes of ERNIE 3.0 Medium.

    Its weights are those of the other side by side, halved where sums double; its answers mean nothing.
    """
    import onnx

    config, model = read_config(source), onnx.load(str(source / "float32.onnx"))
    widths = {config["hidden_size"], config["intermediate_size"]}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.int64 and array.shape in ((3,), (4,)) and not array[:2].any():  # shapes: [0, 0, ...]
            array = np.array([*array[:-1], 2 * array[-1]])
        elif array.dtype == np.float32:
            sums = 2 if array.ndim == 2 and array.shape[0] in widths else 1
            array = np.tile(array / np.float32(sums), [2 if size in widths else 1 for size in array.shape])
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    labels = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "labels"))
    save_onnx(model, target / "float32.onnx", labels)
    config |= {name: 2 * config[name] for name in ("hidden_size", "intermediate_size")}
    (target / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return {"MB": (target / "float32.onnx").stat().st_size / 1e6}


# ---- measurements ----------------------------------------------------------------------------------------------------


def opened(args, name, precision, **settings):
    """The Predictor of a folder in work_dir, on the device that is measured."""
    return Predictor(args.work_dir / name, precision, **{"kind": "export", "device": args.device} | settings)


def differences_of(args):
    """(a function of a Predictor, number of texts): the share of them with the labels that float32 on the CPU gives,
    and how far a probability moves at most."""
    texts = texts_of(args)[:COMPARED]
    reference = opened(args, "own", "float32", device="cpu")
    expected = reference.probabilities(texts)
    labels = decide(expected, reference.tree, reference.decision)

    def differences(model):
        found = model.probabilities(texts)
        same = (decide(found, reference.tree, reference.decision) == labels).all(axis=1)
        return {"% same labels": 100 * same.mean(), "farthest probability": float(np.abs(found - expected).max())}

    return differences, len(texts)


def compare(args, precisions=("float32", "float16"), suffix=""):
    """How far the answers on the device are from float32 on the CPU."""
    differences_from, count = differences_of(args)

    def differences(precision):
        return differences_from(opened(args, "own", precision))

    for precision in precisions:
        note(args, f"{precision}{suffix}, {count} texts", partial(differences, precision))


def compare_exactly(args):
    """The same without TF32."""
    forbid_tf32()
    compare(args, ["float32"], " without TF32")


def predictor(args):
    """Milliseconds a text of the predictor on tokenised rows of one length, and on the texts' own."""
    texts, rng, model_of = texts_of(args), np.random.default_rng(0), cache(partial(opened, args))

    def figures(name, precision, batch, callers, own_lengths):
        model, count = model_of(name, precision), min(ROWS[batch], len(texts))
        model.batch_size, model.callers = batch, callers
        if own_lengths:
            ids = model.tokenizer.encode(texts[:count])
        else:
            ids = rng.integers(5, model.config["vocab_size"], (count, LENGTH)).tolist()
        seconds, done = seconds_of(lambda: model.logits(ids)), operations(model.config, list(map(len, ids)))
        result = {"ms a text": 1000 * seconds / count, "TFLOP/s": done / seconds / 1e12}
        if own_lengths and batch == max(BATCHES):
            result["ms with tokenising"] = 1000 * seconds_of(lambda: model.probabilities(texts[:count])) / count
            result["ms of the bare session"] = 1000 * bare_session(model, ids) / count
        return result

    for name, precision, own in CELLS:
        for batch in BATCHES:
            for callers in (1, GPU_CALLERS) if precision == "float16" else (GPU_CALLERS,):
                lengths = "own lengths" if own else f"{LENGTH} tokens"
                setting = f"{name}, {precision}, batch {batch}, {lengths}, callers {callers}"
                note(args, setting, partial(figures, name, precision, batch, callers, own))


def bare_session(model, ids):
    """Seconds of the predictor's session for padded batches of like lengths, which are made before."""
    order = length_sorted_batches(list(map(len, ids)), model.batch_size)
    batches = [pad([ids[i] for i in batch], model.tokenizer.pad_id) for batch in order]
    with ThreadPoolExecutor(model.callers) as pool:
        return seconds_of(lambda: list(pool.map(model.engine, batches)))


def torch_reference(args):
    """Milliseconds a text of the same network in plain torch: one batch awaited after the other, and queued."""
    try:
        import torch

        from benchmarks.torch_network import Network, compute_with
    except ImportError as error:
        print(f"torch: left out ({error})", flush=True)
        return
    on_gpu, labels = args.device == "gpu", len(opened(args, "own", "float32", device="cpu").tree)
    place, number = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)

    def figures(network, batch, as_graph):
        rows = torch.randint(5, 1000, (batch, LENGTH))
        ids, calls = rows.to(place), max(3, min(100, 8192 // batch) if on_gpu else 3)
        compute = compute_with(network, ids) if as_graph else lambda: network(ids)

        def awaited():
            for _ in range(calls):
                ids.copy_(rows)
                compute().cpu()

        def queued():
            for _ in range(calls):
                output = compute()
            output.cpu()

        texts = calls * batch
        return {"ms a text": 1000 * seconds_of(awaited) / texts, "ms queued": 1000 * seconds_of(queued) / texts}

    with torch.inference_mode():
        for name in MODELS:
            network = Network(read_config(args.work_dir / name), labels).to(place, number).eval()
            for batch in BATCHES:
                for as_graph in (False, True) if on_gpu else (False,):
                    setting = f"{name}, {number}, batch {batch}, {LENGTH} tokens{', CUDA graph' * as_graph}"
                    note(args, setting, partial(figures, network, batch, as_graph))


def commands(args):
    """Texts per second of infer.py from file to file, and the seconds of the whole command with its start."""

    def figures(name, batch, count):
        words = ["deploy/predictor/infer.py", "--model_path_prefix", args.work_dir / name / "float32"]
        words += ["--dataset_dir", args.work_dir / "texts", "--output_file", args.work_dir / "answers.jsonl", "--quiet"]
        words += ["--device", args.device, "--batch_size", batch, *(["--use_fp16"] if args.device == "gpu" else [])]
        logs, began, running = [args.work_dir / f"infer{rank}.log" for rank in range(count)], time.perf_counter(), []
        for rank, log in enumerate(logs):
            sharing = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(count)} if count > 1 else {}
            with open(log, "wb") as file:
                command, env = [sys.executable, *map(str, words)], os.environ | sharing
                running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file))
        codes = [process.wait() for process in running]
        wall, ends = time.perf_counter() - began, [log.read_text("utf-8", "replace") for log in logs]
        if any(codes):
            raise InputError(f"infer.py failed: {' '.join(end[-200:] for end, code in zip(ends, codes) if code)}")
        done = [(int(match[1]), float(match[2])) for match in map(PREDICTED.search, ends)]
        seconds = max(texts / rate for texts, rate in done if texts)
        total = sum(texts for texts, _ in done)
        return {"texts/s": total / seconds, "ms a text": 1000 * seconds / total, "s in all": wall}

    for name, batch, count in COMMANDS:
        setting = f"{name}, {precision_of(args)}, batch {batch}, processes {count}, {args.texts} texts"
        note(args, setting, partial(figures, name, batch, count))


def precision_of(args):
    return "float16" if args.device == "gpu" else "float32"


def server(args):
    """Requests per second and waiting times of the HTTP server, one text a request, by one process and by several."""
    texts, senders = texts_of(args)[:2000], min(6, max(1, available_cores() - 2))
    for flags, all_clients in SERVERS:
        with processes(senders) as pool, ExitStack() as servers:
            ports: list[int] = []
            what = f"{precision_of(args)}, {' '.join(flags) or 'default flags'}"
            note(args, f"{what}, start", partial(begin_server, args, flags, servers, ports))
            for port in ports:
                load(pool, port, texts, max(all_clients), min(1, args.seconds))  # the first calls
                for clients in all_clients:
                    note(args, f"{what}, clients {clients}", partial(load, pool, port, texts, clients, args.seconds))


def begin_server(args, flags, servers, ports):
    """Start a server, whose end the ExitStack `servers` sees to, and add its port to the list when it answers."""
    began = time.perf_counter()
    ports.append(servers.enter_context(serving(args, flags)))
    return {"s until it answers": time.perf_counter() - began}


@contextmanager
def serving(args, flags):
    """A server that answers; yields its port."""
    log = args.work_dir / "server.log"
    words = ["deploy/simple_serving/server.py", "--model_path", args.work_dir / "own", "--device", args.device]
    words += ["--precision", precision_of(args), "--port", 0, *flags]
    process = start([sys.executable, *words], log)
    try:
        yield int(wait_for(lambda text: re.search(r"Serving on \S+:(\d+);", text), process, log, 60)[1])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


MEASUREMENTS: dict[str, tuple[Callable, int]] = {  # name -> (function, seconds that it may take)
    "models": (prepare, 40),
    "equality": (compare, 30),
    "predictor": (predictor, 65),
    "torch": (torch_reference, 40),
    "commands": (commands, 60),
    "server": (server, 75),
    "equality without TF32": (compare_exactly, 25),
}
