"""Exporting a network: the static graph, ONNX in several precisions, and the proof that they say the same."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

import hierarchical
from hierarchical.batches import run_batches
from hierarchical.checkpoints import SETTINGS, Checkpoint, read_decision, write_decision
from hierarchical.console import get_logger, progress_bar, quiet
from hierarchical.decisions import Decision, decide, probabilities_of
from hierarchical.devices import available_cores
from hierarchical.encoders import family_of
from hierarchical.engines import PRECISIONS, OnnxModel, PaddleModel, load_onnxruntime, model_path
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, file_digest
from hierarchical.fusing import FUSED, fuse_model, keep_first_token
from hierarchical.identity import GRAPH_FILES, MEMBERS, RECORD, digests_of, members, require_no_rows
from hierarchical.label_graph import GRAPH
from hierarchical.labels import LabelTree
from hierarchical.linear import write_linear
from hierarchical.long_texts import Windows
from hierarchical.metric import Scores
from hierarchical.modeling import predict_logits
from hierarchical.quantizing import quantize_model
from hierarchical.sets import in_force, link, new_set
from hierarchical.weights import NUMBERS, find_weights, parameter_digest

BATCH_SIZE = 32
ROUNDS, TIMED_TEXTS = 3, 128  # of what is timed: the fastest round counts, since others may be using the machine
OPSET = 17  # the first with LayerNormalization as one node
ONNX_BYTES = 2**31 - 2**24  # of parameters; a message of protobuf, and so a file, ends at 2 GiB


# ---- writing ---------------------------------------------------------------------------------------------------------


def export_static(paddle: Any, model: Any, pad_id: int, prefix: Path) -> Path:
    """Write the static graph of a model; returns the path of its program, .pdmodel, or .json with a newer paddle."""

    inputs = family_of(model).inputs

    class Graph(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, second: Any = None) -> Any:
            mask = (input_ids != pad_id).astype("int64")
            more = {} if second is None else {inputs[1]: second}
            return self.model(input_ids, attention_mask=mask, **more)

    graph = Graph()
    graph.eval()
    spec = [paddle.static.InputSpec([None, None], "int64", name) for name in inputs]
    old_form = tuple(map(int, paddle.__version__.split(".")[:2])) < (3, 2)
    with quiet(), paddle.pir_utils.OldIrGuard() if old_form else nullcontext():
        paddle.jit.save(paddle.jit.to_static(graph, input_spec=spec, full_graph=True), str(prefix))
    return prefix.with_suffix(".pdmodel" if old_form else ".json")


def require_onnx_size(weights: Path, instead: str) -> None:
    """Raise InputError when the parameters of a file do not fit into an ONNX file; `instead`: the flags to give."""
    if (size := weights.stat().st_size) > ONNX_BYTES:
        raise InputError(
            f"{weights.parent}: its parameters take {size / 1e9:.1f} GB, and an ONNX file ends at 2.1. Export it with "
            f"{instead}."
        )


def export_onnx(program: Path, path: Path, labels: list[str], **metadata: str) -> None:
    """Convert a static graph to ONNX, with named axes, and weights where quantizers look for them.

    paddle2onnx is told to leave its optimisation out: for that it would install packages. It writes every weight as a
    Constant node, which ONNX Runtime's quantizer passes over without a word, and clears the embedding of padding in
    every call. ONNX Runtime's basic optimisation, which is portable, mends both.
    """
    import onnx
    import paddle2onnx

    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    raw = path.with_suffix(".raw")
    with quiet():
        paddle2onnx.export(
            str(program), str(program.with_suffix(".pdiparams")), str(raw), opset_version=OPSET, optimize_tool="None"
        )
        onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
    raw.unlink()
    model = onnx.load(str(path))
    keep_first_token(model)
    graph, output = model.graph, model.graph.output[0]
    for node in graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
    output.name = "logits"
    for tensor in (*graph.input, output):
        for axis, name in zip(tensor.type.tensor_type.shape.dim, ("batch", "length")):
            if not axis.HasField("dim_value"):
                axis.dim_param = name
    save_onnx(model, path, labels, **metadata)


def save_onnx(model: Any, path: Path, labels: list[str], **metadata: str) -> None:
    """Check and write a model, with the labels and further texts in its metadata."""
    import onnx

    used = {node.domain for node in model.graph.node} | {""}
    domains = [domain for domain in model.opset_import if domain.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.helper.set_model_props(model, {"labels": json.dumps(labels, ensure_ascii=False), **metadata})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantize(source: Path, path: Path, labels: list[str], **metadata: str) -> None:
    """8-bit weights, and activations in 8 bits as they come (see quantizing.py): no calibration rows are needed."""
    import onnx

    model = onnx.load(str(source))
    if not quantize_model(model):
        raise RuntimeError(f"{source}: no product with weights was found in it")
    save_onnx(model, path, labels, **metadata)


def halve(source: Path, path: Path, labels: list[str], **metadata: str) -> None:
    """float16 weights and arithmetic, and GPUs' own kernels for attention (see fusing.py); inputs and outputs stay."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    if fuse_model(model):
        metadata[FUSED] = "attention"
    else:
        get_logger().info(f"{path.name}: the attention of its layers was not found, so that it is slower on GPUs")
    save_onnx(convert_float_to_float16(model, keep_io_types=True), path, labels, **metadata)


def export_checkpoint(
    paddle: Any,
    checkpoint: Checkpoint,
    model: Any,
    output_path: str | Path,
    name: str = "float32",
    format: str = "both",
    precisions: Sequence[str] = ("float32",),
) -> list[Path]:
    """Write the models of a checkpoint, and beside them what they need to predict; returns the paths of the models.

    model: its network, on the CPU: the graph is the same everywhere. name: of the float32 model without its ending; the
    others are named as engines.model_path finds them; format: "paddle", "onnx" or "both".
    """
    output_path, labels = Path(output_path), checkpoint.tree.labels
    with new_export(checkpoint, model, output_path, name) as (folder, work, metadata):
        program = export_static(paddle, model, checkpoint.tokenizer.pad_id, work / name)
        models = [] if format == "onnx" else [program]
        if format != "paddle":
            paths = {precision: model_path(work / name, precision, ".onnx") for precision in PRECISIONS}
            export_onnx(program, paths["float32"], labels, **metadata)
            for precision, make in (("float16", halve), ("int8", quantize)):
                if precision in precisions:
                    make(paths["float32"], paths[precision], labels, **metadata)
            models += [path for precision, path in paths.items() if precision in precisions]
        for path in list(work.iterdir()):
            if path in models or (path.suffix != ".onnx" and format != "onnx"):
                os.replace(path, folder / path.name)
    return [output_path / path.name for path in models]


@contextmanager
def new_export(
    checkpoint: Checkpoint,
    model: Any,
    output_path: Path,
    name: str,
    write_more: Callable[[Path], None] = lambda folder: None,
) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """An export in the place of what there was: yields (folder for its models, folder to work in, ONNX metadata).

    name: of its models, whose earlier ones go; write_more: writes into a folder what else belongs to the model. After a
    failure an earlier export is as it was. Raises InputError where a checkpoint would be spoilt.
    """
    own = require_place(checkpoint, output_path)
    earlier = [name + suffix for suffix in GRAPH_FILES]
    earlier += [model_path(name, precision, ".onnx").name for precision in PRECISIONS]
    with new_set(output_path, lambda directory: {*members(directory), *earlier}) as folder:
        if own:
            for path in map(output_path.joinpath, MEMBERS):
                if path.is_file() and path.name != RECORD:
                    link(path, folder / path.name)
        else:
            copy_settings(checkpoint, folder)
            write_more(folder)
        if digests_of(folder) != checkpoint.digests:
            raise InputError(f"{checkpoint.directory}: holds another model than when it was opened. Start again.")
        identity = checkpoint.digests | {NUMBERS: parameter_digest(model.state_dict())}
        before, work = set(folder.iterdir()), folder / "work"
        work.mkdir()
        yield folder, work, {"identity": json.dumps(identity)}
        shutil.rmtree(work)
        write_export(folder, identity, set(folder.iterdir()) - before)


def require_place(checkpoint: Checkpoint, output_path: Path) -> bool:
    """Whether an export goes into its checkpoint's folder, as prune.py does; InputError where others or rows are."""
    own = checkpoint.directory.resolve() == output_path.resolve()
    if find_weights(output_path) and not own:
        raise InputError(f"{output_path}: holds another checkpoint, which would be spoilt. Give another directory.")
    require_no_rows(output_path, "--output_path")
    return own


def copy_settings(checkpoint: Checkpoint, target: Path) -> None:
    """Put beside exported models what they need to predict: tokenizer, configuration, labels, decision settings."""
    checkpoint.tokenizer.save(target)
    for name in SETTINGS:
        shutil.copyfile(in_force(checkpoint.directory) / name, target / name)
    if checkpoint.tree.further:
        shutil.copyfile(in_force(checkpoint.directory) / GRAPH, target / GRAPH)
    if (long_text := checkpoint.tokenizer.long_text) != read_decision(target, checkpoint.tree)[2]:
        write_decision(target, checkpoint.tokenizer.max_seq_length, checkpoint.decision, long_text)  # as was asked for
    if checkpoint.linear:
        write_linear(target, checkpoint.linear, checkpoint.tree)


def write_export(folder: Path, identity: Mapping[str, str], models: Iterable[Path]) -> None:
    """export.json: what the models in a folder belong with, and the digest of each of their files."""
    files = {path.name: file_digest(path) for path in sorted(models)}
    record = {"version": hierarchical.__version__, "identity": dict(identity), "files": files}
    with atomic_write(folder / RECORD) as file:
        json.dump(record, file, ensure_ascii=False, indent=1)


def write_record(path: Path, n_rows: int, table: list[dict], max_f1_drop: float) -> None:
    """Add to export.json what the models were compared on, what came out, and how many points of F1 one may lose."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record |= {"rows": n_rows, "max_f1_drop": max_f1_drop, "models": table}
    with atomic_write(path) as file:
        json.dump(record, file, ensure_ascii=False, indent=1)


# ---- checking --------------------------------------------------------------------------------------------------------


def with_exports(
    model: Any, weights: Path, pad_id: int, paths: list[Path], batch_size: int, windows: Windows | None = None
) -> dict[str, tuple[Callable, list[Path]]]:
    """What `compare` compares: "checkpoint", the network, whose weights are in a file, and exported files by name."""
    width, cores = model.config.num_labels, available_cores()

    def network(ids: list[list[int]], progress: Callable | None = None) -> np.ndarray:
        return predict_logits(model, ids, pad_id, batch_size, progress, windows)

    def session_of(path: Path) -> Callable:
        engine = OnnxModel(path) if path.suffix == ".onnx" else PaddleModel(path, threads=cores)
        callers, most = cores if path.suffix == ".onnx" else 1, 1 if engine.singly else batch_size
        return lambda ids, progress=None: run_batches(engine, ids, pad_id, width, most, callers, progress, windows)

    models = {"checkpoint": (network, [weights])}
    for path in paths:
        files = [path] if path.suffix == ".onnx" else [path, path.with_suffix(".pdiparams")]
        models[path.name] = (session_of(path), files)
    return models


def compare(
    models: Mapping[str, tuple[Callable, list[Path]]],
    tree: LabelTree,
    ids: list[list[int]],
    gold: np.ndarray | None,
    decision: Decision,
    further: np.ndarray | float = 0.0,
) -> list[dict]:
    """One dict per model: its name, largest difference from the first one's probabilities, scores, time per text.

    models: name -> (function from lists of token ids to logits, files it is made of); further: what a linear branch
    adds to the logits of them all, float32 [N, L]
    """
    table: list[dict] = []
    reference = None
    for name, (compute_logits, files) in models.items():
        with progress_bar(len(ids), f"check {name}") as bar:
            probabilities = probabilities_of(compute_logits(ids, bar.update) + further, tree, decision)
        reference = probabilities if reference is None else reference
        entry = {"model": name, "megabytes": sum(os.path.getsize(file) for file in files) / 1e6}
        entry["largest_difference"] = float(np.abs(probabilities - reference).max())
        if gold is not None:
            scores = Scores(tree)
            scores.update(decide(probabilities, tree, decision), gold)
            entry |= {key: value for key, value in scores.result().items() if key in ("micro_f1", "macro_f1")}
        table.append(entry)
    seconds = round_times([compute_logits for compute_logits, _ in models.values()], ids)
    return [entry | {"milliseconds_per_text": 1000 * best} for entry, best in zip(table, seconds)]


def round_times(functions: list[Callable], ids: list[list[int]]) -> list[float]:
    """Seconds per text of each function for some of the texts; the functions take turns, which is fair to all."""
    some = ids[:: -(-len(ids) // TIMED_TEXTS)]
    rounds = []
    for _ in range(ROUNDS):
        times = [time.perf_counter()]
        for function in functions:
            function(some)
            times.append(time.perf_counter())
        rounds.append(np.diff(times) / len(some))
    return np.min(rounds, axis=0).tolist()


def show(table: list[dict], logger: Logger) -> None:
    """Log the table of `compare`."""
    logger.info(f"{'model':<18}{'MB':>8}{'max |dp|':>11}{'micro F1':>10}{'macro F1':>10}{'ms/text':>9}{'speed-up':>10}")
    for row in table:
        scores = "".join(f"{100 * row[key]:>10.2f}" if key in row else f"{'-':>10}" for key in ("micro_f1", "macro_f1"))
        speed = table[0]["milliseconds_per_text"] / row["milliseconds_per_text"]
        logger.info(
            f"{row['model']:<18}{row['megabytes']:>8.1f}{row['largest_difference']:>11.1e}{scores}"
            f"{row['milliseconds_per_text']:>9.2f}{speed:>9.2f}x"
        )
