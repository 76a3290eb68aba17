"""Write a model repository for NVIDIA's Triton Inference Server from an exported model.

    python deploy/triton_serving/make_repository.py --model_path export --output models
    python deploy/triton_serving/make_repository.py --model_path export --output models --backend python --overwrite

Reads   what export_model.py or prune.py left in model_path (see hierarchical/predictor.py)
Writes  output/tokenizer/            texts -> token ids
        output/seqcls_model/         token ids -> logits
        output/seqcls_postprocess/   logits -> class indices, probabilities, names, certainty
        output/seqcls/               the three together: this one is asked

Each model has its config.pbtxt and one version, 1/. Names and sizes come from the exported model. The repository stands
alone: the server needs neither this project nor the export, only numpy in its Python (ERNIE-M: sentencepiece too). The
four replace older ones together, see deploy/parts.py.
"""

import json
import shutil
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import hierarchical
from deploy.parts import new_parts
from deploy.triton_serving.repository import MODELS, SET, digest_of
from hierarchical.checkpoints import Checkpoint, write_settings
from hierarchical.engines import PRECISIONS, OnnxModel, contains, model_path
from hierarchical.linear import write_linear
from hierarchical.predictor import Predictor
from utils import (
    InputError,
    add_decision_arguments,
    check_minima,
    decision_from_arguments,
    engine_device_word,
    get_logger,
    make_parser,
    run,
)

PACKAGE = Path(hierarchical.__file__).parent  # the steps import it
STEPS = Path(__file__).resolve().with_name("steps")
MAX_BATCH_SIZE = 64
EQUAL_LENGTHS = 16  # the onnxruntime back end joins only requests of one length: texts are padded to a multiple of this


def parse_args(argv):
    parser = make_parser("Write a model repository for Triton.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py, or a model without its ending")
    parser.add_argument("--output", type=Path, default="models", help="folder of the repository")
    parser.add_argument("--overwrite", action="store_true", help=f"replace {', '.join(MODELS)} in it")
    parser.add_argument(
        "--backend",
        choices=("onnxruntime", "python"),
        default="onnxruntime",
        help="what runs the model: Triton's own ONNX Runtime, or where it has none, its Python with that package",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto: int8 if it is there, and good; on a GPU float16 if it is there",
    )
    parser.add_argument(
        "--device", type=engine_device_word, default="cpu", help="where the model runs: cpu, gpu or gpu:1"
    )
    parser.add_argument(
        "--instances", type=int, default=2, help="models side by side; on a CPU one per core, each takes one thread"
    )
    add_decision_arguments(parser, None)
    args = parser.parse_args(argv)
    check_minima(parser, args, instances=1)
    return args


def find_model(args):
    """The Predictor of the model to serve. Raises InputError for what is missing or does not fit together."""
    precision = args.precision
    if precision == "auto" and args.device != "cpu":
        precision = "float16" if model_path(args.model_path, "float16", ".onnx").exists() else "float32"
    predictor = Predictor(args.model_path, precision, kind="export")
    predictor.require_network()
    if contains(predictor.file, b"DynamicQuantizeLinear"):
        raise InputError(
            f"{predictor.file}: an older export, whose answers depend on the other texts of a batch. Export it again, "
            "or pass --precision float32."
        )
    if predictor.tokenizer.windows:
        raise InputError(
            f"{predictor.file}: reads long texts in windows, which Triton's steps cannot: there each text is one row. "
            "Serve it with deploy/simple_serving/server.py, or export it with --long_text head_tail or cut."
        )
    predictor.logits(predictor.tokenizer.encode(["第一句，a first text"]))  # has as many outputs as there are labels
    return predictor


def require_place(args):
    """Raise InputError if models in the folder would be lost."""
    there = [name for name in MODELS if (args.output / name).exists()]
    if there and not args.overwrite:
        raise InputError(
            f"{args.output}: holds {', '.join(there)} already. Pass --overwrite to replace, or another --output."
        )
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output}: is a file. --output names a folder to write.")


# ---- config.pbtxt ----------------------------------------------------------------------------------------------------


def quoted(name):
    return json.dumps(name, ensure_ascii=False)


def tensor(kind, name, data_type, size, *more):
    return f"{kind} {{ {' '.join([f'name: {quoted(name)} data_type: {data_type} dims: [ {size} ]', *more])} }}"


def parameter(key, value):
    return f"parameters {{ key: {quoted(key)} value: {{ string_value: {quoted(str(value))} }} }}"


def instances(count, device="cpu"):
    kind, _, number = device.partition(":")
    gpus = f" gpus: [ {number} ]" if number else ""  # else Triton puts `count` on each that it finds
    return f"instance_group {{ kind: KIND_{kind.upper()} count: {count}{gpus} }}"


def step(model, inputs, outputs):
    """A step of the ensemble. inputs, outputs: the model's name of a tensor -> its name between the steps."""
    lines = [f"    model_name: {quoted(model)}", "    model_version: -1"]
    for kind, names in (("input_map", inputs), ("output_map", outputs)):
        lines += [f"    {kind} {{ key: {quoted(key)} value: {quoted(value)} }}" for key, value in names.items()]
    return "\n".join(["  step {", *lines, "  }"])


def config_texts(args, predictor):
    """The config.pbtxt of every model: name -> text."""
    session, python = predictor.engine.session, args.backend == "python"
    inputs, logits, size = predictor.engine.inputs, session.get_outputs()[0].name, len(predictor.tree)
    # token_type_ids, where there are any, are all zero; the tokenizer gives them second.
    inputs = sorted(inputs, key=lambda name: name != "input_ids")
    tokens = {f"OUTPUT_{i}": name for i, name in enumerate(inputs)}
    results = {"label": ("TYPE_INT64", -1), "confidence": ("TYPE_FP32", -1), "label_name": ("TYPE_STRING", -1)}
    results["certainty"] = ("TYPE_FP32", 1)
    ragged = ["allow_ragged_batch: true"] if python else []
    threads = [parameter("intra_op_thread_count", 1)] if args.device == "cpu" else []
    singly = predictor.engine.singly
    batching = [] if singly else ["dynamic_batching { }  # joins the requests that wait, and never waits for more"]
    own = [
        parameter("pad_id", predictor.tokenizer.pad_id),
        parameter("singly", int(singly)),
    ]  # of steps/seqcls_model.py
    lines = {
        "tokenizer": [
            'backend: "python"',
            tensor("input", "INPUT_0", "TYPE_STRING", 1),
            *(tensor("output", name, "TYPE_INT64", -1) for name in tokens),
            parameter("graph_inputs", ",".join(inputs)),
            parameter("pad_to_multiple_of", 1 if python or singly else EQUAL_LENGTHS),
            instances(1),
        ],
        "seqcls_model": [
            f"backend: {quoted(args.backend)}",
            *(tensor("input", name, "TYPE_INT64", -1, *ragged) for name in inputs),
            tensor("output", logits, "TYPE_FP32", size),
            *(own if python else threads),
            *batching,
            instances(args.instances, args.device),
        ],
        "seqcls_postprocess": [
            'backend: "python"',
            tensor("input", "POST_INPUT", "TYPE_FP32", size),
            tensor("input", "POST_TEXT", "TYPE_STRING", 1, *([] if predictor.linear else ["optional: true"])),
            *(tensor("output", f"POST_{name}", *kind) for name, kind in results.items()),
            instances(1),
        ],
        "seqcls": [
            'platform: "ensemble"',
            tensor("input", "INPUT", "TYPE_STRING", 1),
            *(tensor("output", name, *kind) for name, kind in results.items()),
            "ensemble_scheduling {",
            step("tokenizer", {"INPUT_0": "INPUT"}, tokens),
            step("seqcls_model", {name: name for name in inputs}, {logits: logits}),
            step(
                "seqcls_postprocess",
                {"POST_INPUT": logits, "POST_TEXT": "INPUT"},
                {f"POST_{name}": name for name in results},
            ),
            "}",
        ],
    }
    return {
        name: "\n".join([f"name: {quoted(name)}", f"max_batch_size: {MAX_BATCH_SIZE}", *rest, ""])
        for name, rest in lines.items()
    }


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_repository(folder, args, predictor, decision):
    """Write the four models into an empty folder. In each config.pbtxt stands which set of four it is of."""
    tokenizer = predictor.tokenizer
    for name in MODELS:
        (folder / name / "1").mkdir(parents=True)
    for name in ("tokenizer", "seqcls_postprocess"):
        version = folder / name / "1"
        shutil.copyfile(STEPS / f"{name}.py", version / "model.py")
        shutil.copytree(PACKAGE, version / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(predictor.file.with_name("config.json"), version / "config.json")
        write_settings(version, predictor.tree, tokenizer.max_seq_length, decision, tokenizer.long_text)
        if predictor.linear:
            write_linear(version, predictor.linear, predictor.tree)
    tokenizer.save(folder / "tokenizer" / "1")
    shutil.copyfile(predictor.file, folder / "seqcls_model" / "1" / "model.onnx")
    if args.backend == "python":
        shutil.copyfile(STEPS / "seqcls_model.py", folder / "seqcls_model" / "1" / "model.py")
    written, path = folder / "tokenizer" / "1", folder / "seqcls_model" / "1" / "model.onnx"
    # What was copied still belongs together, even if another export took the place of the first meanwhile.
    Checkpoint.open(written, exported=True).require_models([path], OnnxModel(path).metadata)
    texts = config_texts(args, predictor)
    made_of = parameter(SET, digest_of(folder, texts.values()))
    for name, text in texts.items():
        config = f"{text}{made_of}\n"
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8", newline="\n")


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    require_place(args)
    predictor = find_model(args)
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    with new_parts(args.output, MODELS) as folder:
        write_repository(folder, args, predictor, decision)
    logger.info(
        f"{args.output}: {predictor.file.name} with {len(predictor.tree)} labels for the {args.backend} back end; "
        "ask the model seqcls"
    )


if __name__ == "__main__":
    run(main)
