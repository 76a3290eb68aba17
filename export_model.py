"""Turn a checkpoint of train.py into models that run without it, and prove that they still say the same.

    python export_model.py --params_path checkpoint --output_path export
    python export_model.py --params_path checkpoint --output_path export --dataset_dir data --precision float32 int8

Reads   params_path/   a checkpoint
        dataset_dir/{dev.txt, label.txt}   the rows to check on; left out: those the checkpoint was trained with
Writes  output_path/   alone enough to predict and to serve:
            float32.pdmodel, float32.pdiparams, float32.pdiparams.info   the static graph; int64 input_ids and
                           token_type_ids [n, T] (ERNIE-M: input_ids alone) -> logits [n, L], n and T free.
                           paddle 3.2 and newer write float32.json in place of the first and the last
            float32.onnx, float16.onnx, int8.onnx   the same for ONNX Runtime, the labels in their metadata
            config.json, label.txt, decision.json and the tokenizer's files
            export.json    the figures of the table that is printed at the end

Each model predicts the rows that the checkpoint predicts: the table shows how far its probabilities are off, its
scores, and its speed on this machine.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from checkpoints import load_checkpoint, open_checkpoint, require_same_labels
from deploy.predictor.predictor import PRECISIONS, Predictor, model_path
from metric import Scores, decide
from modeling import predict_logits, read_config_file, sigmoid
from runtime import set_device
from utils import HelpFormatter, InputError, atomic_write, get_logger, load_reported, quiet, run
from weights import find_weights

CHECKED_ROWS = 2000  # of the dev file, evenly spread
SETTINGS = ("config.json", "label.txt", "decision.json")
BATCH_SIZE = 32
OPSET = 17  # the first with LayerNormalization as one node
ONNX_BYTES = 2**31 - 2**24  # of parameters; a message of protobuf, and so a file, ends at 2 GiB


def parse_args():
    parser = argparse.ArgumentParser(description="Export a checkpoint.", formatter_class=HelpFormatter)
    parser.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    parser.add_argument("--output_path", default="./export", help="directory for the exported models")
    parser.add_argument("--multilingual", action="store_true", help="accepted and not needed: the checkpoint knows")
    parser.add_argument("--format", choices=("paddle", "onnx", "both"), default="both", help="what to write")
    of_models = "of the ONNX models (default: float32 int8)"
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help=of_models)
    parser.add_argument("--dataset_dir", help="where the rows to check on lie (default: as in training)")
    parser.add_argument("--dev_file", help="name inside dataset_dir; left out: as in training, or dev.txt")
    parser.add_argument(
        "--max_f1_drop", type=float, default=0.3, help="points of F1 a model may lose without a warning"
    )
    args = parser.parse_args()
    if args.format == "paddle" and {*(args.precision or ())} - {"float32"}:
        parser.error("argument --precision: only the ONNX models have one, and --format paddle writes none")
    args.precision = args.precision or ["float32", "int8"]
    if not args.max_f1_drop >= 0:
        parser.error(f"argument --max_f1_drop: must be at least 0, got {args.max_f1_drop}")
    return args


# ---- writing ---------------------------------------------------------------------------------------------------------


def export_static(paddle, model, pad_id, prefix):
    """Write the static graph of a model; returns the path of its program, .pdmodel, or .json with a newer paddle."""

    class Graph(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, token_type_ids=None):
            mask = (input_ids != pad_id).astype("int64")
            if token_type_ids is None:
                return self.model(input_ids, attention_mask=mask)
            return self.model(input_ids, token_type_ids=token_type_ids, attention_mask=mask)

    names = ["input_ids"] if model.config.model_type == "ernie_m" else ["input_ids", "token_type_ids"]
    graph = Graph()
    graph.eval()
    spec = [paddle.static.InputSpec([None, None], "int64", name) for name in names]
    old_form = tuple(map(int, paddle.__version__.split(".")[:2])) < (3, 2)
    with quiet(), paddle.pir_utils.OldIrGuard() if old_form else nullcontext():
        paddle.jit.save(paddle.jit.to_static(graph, input_spec=spec, full_graph=True), str(prefix))
    return prefix.with_suffix(".pdmodel" if old_form else ".json")


def require_onnx_size(params_path, instead):
    """Raise InputError when a checkpoint's parameters do not fit into an ONNX file; `instead`: the flags to give."""
    if (size := find_weights(params_path).stat().st_size) > ONNX_BYTES:
        raise InputError(
            f"{params_path}: its parameters take {size / 1e9:.1f} GB, and an ONNX file ends at 2.1. Export it with "
            f"{instead}."
        )


def export_onnx(program, path, labels, **metadata):
    """Convert a static graph to ONNX, with named axes, and weights where quantizers look for them.

    paddle2onnx is told to leave its optimisation out: for that it would install packages. It writes every weight as a
    Constant node, which ONNX Runtime's quantizer passes over without a word, and clears the embedding of padding in
    every call. ONNX Runtime's basic optimisation, which is portable, mends both.
    """
    import onnx
    import onnxruntime
    import paddle2onnx

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
    graph, output = model.graph, model.graph.output[0]
    for node in graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
    output.name = "logits"
    for tensor in (*graph.input, output):
        for axis, name in zip(tensor.type.tensor_type.shape.dim, ("batch", "length")):
            if not axis.HasField("dim_value"):
                axis.dim_param = name
    save_onnx(model, path, labels, **metadata)


def save_onnx(model, path, labels, **metadata):
    """Check and write a model, with the labels and further texts in its metadata."""
    import onnx

    used = {node.domain for node in model.graph.node} | {""}
    domains = [domain for domain in model.opset_import if domain.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.helper.set_model_props(model, {"labels": json.dumps(labels, ensure_ascii=False), **metadata})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantize(source, path, labels):
    """int8 weights, activations quantized as they come: no calibration rows are needed."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            str(source), str(path), per_channel=True, weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    model = onnx.load(str(path))
    if not any(node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul") for node in model.graph.node):
        raise RuntimeError(f"{path}: the quantizer left the matrix products as they were")
    save_onnx(model, path, labels)


def halve(source, path, labels):
    """float16 weights and arithmetic; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    save_onnx(model, path, labels)


# ---- checking --------------------------------------------------------------------------------------------------------


def rows_to_check(args, tree, logger):
    """(texts, labels bool [N, L]) to compare the models on; without a dev file the labels' own names, and None."""
    directory, name = args.dataset_dir, args.dev_file or "dev.txt"
    if directory is None:
        try:
            trained = json.loads((Path(args.params_path) / "run.json").read_text(encoding="utf-8"))["arguments"]
            directory, name = trained["dataset_dir"], args.dev_file or trained["dev_file"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no run.json of train.py: the checkpoint was copied without it, or comes from prune.py
        if directory is None or not Path(directory, name).is_file():
            logger.warning("No dev rows to check on (--dataset_dir): comparing on the names of the labels, unscored")
            return tree.labels, None
    require_same_labels(tree, Path(directory, "label.txt"))
    rows = load_reported(Path(directory, name), tree, logger)
    every = -(-len(rows.texts) // CHECKED_ROWS)
    chosen = range(0, len(rows.texts), every)
    return [rows.texts[i] for i in chosen], rows.multi_hot(len(tree), chosen)


def compare(models, tree, ids, gold, decision):
    """One dict per model: its name, largest difference from the first one's probabilities, scores, time per text.

    models: name -> (function from lists of token ids to logits, files it is made of)
    """
    from tqdm import tqdm

    table, reference = [], None
    for name, (compute_logits, files) in models.items():
        with tqdm(total=len(ids), desc=f"check {name}", disable=None, leave=False) as bar:
            compute_logits(ids[:BATCH_SIZE])  # the first call also plans memory
            began = time.perf_counter()
            probabilities = sigmoid(compute_logits(ids, bar.update))
            seconds = time.perf_counter() - began
        reference = probabilities if reference is None else reference
        entry = {"model": name, "megabytes": sum(os.path.getsize(file) for file in files) / 1e6}
        entry["largest_difference"] = float(np.abs(probabilities - reference).max())
        if gold is not None:
            scores = Scores(tree)
            scores.update(decide(probabilities, tree, decision), gold)
            entry |= {key: value for key, value in scores.result().items() if key in ("micro_f1", "macro_f1")}
        table.append(entry | {"milliseconds_per_text": 1000 * seconds / len(ids)})
    return table


def show(table, logger):
    logger.info(f"{'model':<18}{'MB':>8}{'max |dp|':>11}{'micro F1':>10}{'macro F1':>10}{'ms/text':>9}{'speed-up':>10}")
    for row in table:
        scores = "".join(f"{100 * row[key]:>10.2f}" if key in row else f"{'-':>10}" for key in ("micro_f1", "macro_f1"))
        speed = table[0]["milliseconds_per_text"] / row["milliseconds_per_text"]
        logger.info(
            f"{row['model']:<18}{row['megabytes']:>8.1f}{row['largest_difference']:>11.1e}{scores}"
            f"{row['milliseconds_per_text']:>9.2f}{speed:>9.2f}x"
        )


def warn_about(table, max_f1_drop, logger):
    """Say loudly what a model lost, and if int8 gained nothing."""
    first = table[0]
    for row in table[1:]:
        for key in ("micro_f1", "macro_f1"):
            if key in row and (drop := 100 * (first[key] - row[key])) > max_f1_drop:
                logger.warning(
                    f"{row['model']}: {key[:5]}-F1 is {drop:.2f} points below the checkpoint's, more than the "
                    f"--max_f1_drop of {max_f1_drop:g}. Use another precision."
                )
    times = {row["model"]: row["milliseconds_per_text"] for row in table}
    if times.get("int8.onnx", 0) > times.get("float32.onnx", np.inf):
        logger.warning("int8.onnx is slower than float32.onnx on this processor: use float32 here")


# ---- main ------------------------------------------------------------------------------------------------------------


def export_checkpoint(params_path, output_path, name="float32", format="both", precisions=("float32",)):
    """Write the models of a checkpoint, and beside them what they need to predict; returns the paths of the models.

    name: of the float32 model without its ending; the others are named as deploy/predictor finds them. Everything is
    made in a directory of its own first, so that a failure leaves an earlier export as it was.
    """
    params_path, output_path = Path(params_path), Path(output_path)
    if format != "paddle":
        require_onnx_size(params_path, "--format paddle")
    paddle = set_device("cpu")  # the graph is the same everywhere
    tree, tokenizer, _ = open_checkpoint(params_path)
    model = load_checkpoint(params_path)
    output_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_path) as work:
        work = Path(work)
        program = export_static(paddle, model, tokenizer.pad_id, work / name)
        models = [] if format == "onnx" else [program]
        if format != "paddle":
            paths = {precision: model_path(work / name, precision, ".onnx") for precision in PRECISIONS}
            export_onnx(program, paths["float32"], tree.labels)
            for precision, make in (("float16", halve), ("int8", quantize)):
                if precision in precisions:
                    make(paths["float32"], paths[precision], tree.labels)
            models += [path for precision, path in paths.items() if precision in precisions]
        for path in list(work.iterdir()):
            if path in models or (path.suffix != ".onnx" and format != "onnx"):
                os.replace(path, output_path / path.name)
    if params_path.resolve() != output_path.resolve():  # a width of prune.py is exported into its own directory
        tokenizer.save(output_path)
        for file in SETTINGS:
            shutil.copyfile(params_path / file, output_path / file)
    return [output_path / path.name for path in models]


def older_models(output_path, paths):
    """The models in output_path that are not among those just written."""
    prefix = Path(output_path) / "float32"
    found = [model_path(prefix, precision, ".onnx") for precision in PRECISIONS]
    found += [prefix.with_suffix(suffix) for suffix in (".pdmodel", ".json")]
    return [path for path in found if path.exists() and path not in paths]


def main():
    args = parse_args()
    logger = get_logger()
    tree, tokenizer, decision = open_checkpoint(args.params_path)
    if read_config_file(args.params_path)["model_type"] == "ernie_m":
        logger.info("This checkpoint is ERNIE-M: its models read input_ids alone")
    elif args.multilingual:
        logger.warning("--multilingual: this checkpoint is not ERNIE-M; exporting it as what it is")
    texts, gold = rows_to_check(args, tree, logger)
    paths = export_checkpoint(args.params_path, args.output_path, "float32", args.format, args.precision)
    for path in paths:
        logger.info(f"Exported {path}")
    for path in older_models(args.output_path, paths):
        logger.warning(f"{path}: left from an earlier export; if that was of another checkpoint, remove it")
    if paths[0].suffix == ".json":
        logger.info("This version of paddle writes float32.json, no float32.pdmodel; every script here reads either")

    model = load_checkpoint(args.params_path)

    def checkpoint(ids, progress=None):
        return predict_logits(model, ids, tokenizer.pad_id, BATCH_SIZE, progress)

    models = {"checkpoint": (checkpoint, [find_weights(args.params_path)])}
    for path in paths:
        backend = "onnx" if path.suffix == ".onnx" else "paddle"
        predictor = Predictor(path.with_suffix(""), backend=backend, batch_size=BATCH_SIZE)
        models[path.name] = (predictor.logits, [path] if backend == "onnx" else [path, path.with_suffix(".pdiparams")])
    table = compare(models, tree, tokenizer.encode(texts), gold, decision)
    show(table, logger)
    warn_about(table, args.max_f1_drop, logger)
    with atomic_write(Path(args.output_path) / "export.json") as file:
        json.dump({"rows": len(texts), "models": table}, file, ensure_ascii=False, indent=1)
    logger.info(f"Checked on {len(texts)} texts; models, labels and tokenizer are in {args.output_path}")


if __name__ == "__main__":
    run(main)
