"""Label texts with an export of few-shot/train.py, without the framework that trained it.

    python few-shot/infer.py --model_path_prefix checkpoints/export/model --data_dir few --device cpu
    python few-shot/infer.py --model_path_prefix checkpoints/export/model --data_dir few --device cpu \\
        --output_file predictions.jsonl

Reads   <prefix>.onnx, or else <prefix>.pdmodel (.json) and .pdiparams; beside it label.txt, decision.json, config.json,
        template_config.json and the tokenizer's files, as --do_export leaves them
        data_dir/data.txt   one text per line (or .jsonl, .csv; see predict.py)
Writes  what predict.py writes: the log, and --output_file
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from template import load_template

from checkpoints import add_decision_arguments, decision_from_arguments
from deploy.predictor.predictor import Predictor, find_gpu, model_path
from predict import add_result_arguments, check_arguments, predict_file
from utils import HelpFormatter, InputError, check_minima, get_logger, run


def parse_args():
    parser = argparse.ArgumentParser(description="Label texts with a few-shot model.", formatter_class=HelpFormatter)
    parser.add_argument("--model_path_prefix", required=True, help="model file without its ending: .../export/model")
    parser.add_argument("--model_name", "--model_name_or_path", help="accepted and not needed")
    parser.add_argument("--data_dir", dest="dataset_dir", help="directory of data_file; needed, unless data_file is -")
    parser.add_argument("--data_file", default="data.txt", help="in data_dir; .jsonl, .csv or else lines; -: stdin")
    parser.add_argument(
        "--max_length", "--max_seq_length", dest="max_seq_length", type=int, help="tokens; left out: as in training"
    )
    parser.add_argument("--batch_size", type=int, default=200, help="texts per step")
    parser.add_argument("--use_fp16", action="store_true", help="accepted, without effect: it computes in float32")
    parser.add_argument("--num_threads", type=int, help="CPU threads; left out: all cores")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu", help="without a GPU: cpu, with a warning")
    parser.add_argument("--device_id", type=int, default=0, help="number of the GPU")
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    args = parser.parse_args()
    check_arguments(parser, args, "--data_dir")
    check_minima(parser, args, num_threads=1)
    args.label_file = "label.txt"  # if it is there, it must have the model's labels
    return args


def main():
    args = parse_args()
    logger = get_logger()
    files = {"onnx": ".onnx", "paddle": ".pdiparams"}
    files = {backend: model_path(args.model_path_prefix, "float32", suffix) for backend, suffix in files.items()}
    backend = next((backend for backend, path in files.items() if path.exists()), None)
    if backend is None:
        shown = " nor ".join(map(str, files.values()))
        raise InputError(f"--model_path_prefix: neither {shown}. Make them with few-shot/train.py --do_export.")
    predictor = Predictor(
        args.model_path_prefix,
        backend=backend,
        device=find_gpu(args.device, logger, backend),
        device_id=args.device_id,
        threads=args.num_threads,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        template=True,
    )
    tokenizer = load_template(predictor.path.parent, predictor.tokenizer)
    decision = decision_from_arguments(args, predictor.decision)
    predict_file(args, predictor.tree, tokenizer, decision, predictor.path, lambda: predictor.logits)


if __name__ == "__main__":
    run(main)
