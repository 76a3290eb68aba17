"""Label texts with an export of few-shot/train.py, without the framework that trained it.

    python few-shot/infer.py --model_path_prefix checkpoints/export/model --data_dir few --device cpu
    python few-shot/infer.py --model_path_prefix checkpoints/export/model --data_dir few --device cpu \\
        --output_file predictions.jsonl

Reads   <prefix>.onnx, or else <prefix>.pdmodel (.json) and .pdiparams; beside it label.txt, decision.json, config.json,
        template_config.json and the tokenizer's files, as --do_export leaves them
        data_dir/data.txt   one text per line, or rows (see predict.py)
Writes  what predict.py writes: the log, and --output_file
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.devices import forbid_tf32, tell_tf32
from hierarchical.engines import find_gpu, model_path
from hierarchical.predictions import predict_file
from hierarchical.predictor import Predictor
from hierarchical.sets import in_force
from hierarchical.template import load_template
from utils import (
    InputError,
    add_data_file_argument,
    add_decision_arguments,
    add_engine_device_arguments,
    add_result_arguments,
    check_engine_arguments,
    check_prediction_arguments,
    decision_from_arguments,
    get_logger,
    make_parser,
    prediction_job,
    run,
)


def parse_args(argv):
    parser = make_parser("Label texts with a few-shot model.")
    parser.set_defaults(label_file="label.txt")  # if it is there, it must have the model's labels
    parser.add_argument("--model_path_prefix", required=True, help="model file without its ending: .../export/model")
    parser.add_argument("--model_name", "--model_name_or_path", help="accepted and not needed")
    parser.add_argument("--data_dir", dest="dataset_dir", help="directory of data_file; needed, unless data_file is -")
    add_data_file_argument(parser, "data_dir")
    tokens = "tokens, the template's included (default: as in training)"
    parser.add_argument("--max_length", "--max_seq_length", dest="max_seq_length", type=int, help=tokens)
    parser.add_argument("--batch_size", type=int, default=200, help="texts per step")
    parser.add_argument("--use_fp16", action="store_true", help="accepted, without effect: it computes in float32")
    add_engine_device_arguments(parser)
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    args = parser.parse_args(argv)
    check_prediction_arguments(parser, args, "--data_dir")
    check_engine_arguments(parser, args)
    return args


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    files = {"onnx": ".onnx", "paddle": ".pdiparams"}
    prefix = in_force(args.model_path_prefix)
    files = {backend: model_path(prefix, "float32", suffix) for backend, suffix in files.items()}
    backend = next((backend for backend, path in files.items() if path.exists()), None)
    if backend is None:
        shown = " nor ".join(map(str, files.values()))
        raise InputError(f"--model_path_prefix: neither {shown}. Make them with few-shot/train.py --do_export.")
    if args.no_tf32:
        forbid_tf32()
    device = find_gpu(args.device, logger, backend)
    tell_tf32(device, "float32", logger)
    predictor = Predictor(
        args.model_path_prefix,
        kind="export",
        backend=backend,
        device=device,
        device_id=args.device_id,
        num_threads=args.num_threads,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        template=True,
    )
    predictor.tokenizer = load_template(predictor.file.parent, predictor.tokenizer, predictor.config)
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    predict_file(prediction_job(args), predictor, decision)


if __name__ == "__main__":
    run(main)
