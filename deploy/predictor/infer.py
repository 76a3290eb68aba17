"""Label texts with an exported model, offline, without the framework that trained it.

    python deploy/predictor/infer.py --model_path_prefix export/float32 --dataset_dir data --device cpu
    python deploy/predictor/infer.py --model_path_prefix export/float32 --device cpu --use_quantize \\
        --dataset_dir data --output_file predictions.jsonl                 # int8, to a file
    python deploy/predictor/infer.py --model_path_prefix export/float32 --device cpu --dataset_dir data --perf
    python deploy/predictor/infer.py --model_path_prefix export/float32 --device cpu --dataset_dir data \\
        --unseen new_labels.txt --unseen_encoder output                   # and labels without rows

Reads   what predict.py reads, and the model with its settings (see hierarchical/predictor.py)
        unseen_encoder/  of retrieval_based/export_model.py, with what retrieval_based/fit_unseen.py wrote; on the CPU
Writes  what predict.py writes; nothing beside the model
        with --perf nothing: it prints scores on labelled rows and the time a text takes
"""

import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hierarchical.batches import row_windows
from hierarchical.checkpoints import require_same_labels
from hierarchical.decisions import probabilities_of
from hierarchical.devices import forbid_tf32, has_bf16, tell_tf32
from hierarchical.engines import BACKENDS, BACKENDS_TEXT, find_gpu
from hierarchical.formats import existing
from hierarchical.linear import with_linear
from hierarchical.predictions import predict_file
from hierarchical.predictor import Predictor
from metric import Scores, decide
from utils import (
    InputError,
    add_decision_arguments,
    add_engine_device_arguments,
    add_long_text_arguments,
    add_max_seq_length_argument,
    add_result_arguments,
    add_texts_arguments,
    add_unseen_arguments,
    check_engine_arguments,
    check_prediction_arguments,
    decision_from_arguments,
    get_logger,
    load_reported,
    long_text_arguments,
    make_parser,
    prediction_job,
    run,
)


def parse_args(argv):
    parser = make_parser("Label texts with an exported model.")
    add_texts_arguments(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_path_prefix",
        required=True,
        help="model file without its ending: export/float32, prune/.../pruned_model",
    )
    model.add_argument("--model_name_or_path", help="accepted and not needed: the tokenizer lies beside the model")
    model.add_argument("--multilingual", action="store_true", help="accepted and not needed: the model knows")
    add_max_seq_length_argument(model)
    add_long_text_arguments(model)
    model.add_argument("--batch_size", type=int, help="texts per step (default: 32, on a GPU 256)")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--backend", choices=BACKENDS, default="onnx", help=BACKENDS_TEXT)
    add_engine_device_arguments(engine)
    engine.add_argument("--use_fp16", action="store_true", help="half precision, on a GPU")
    engine.add_argument("--use_quantize", action="store_true", help="the int8 model, on a CPU")
    engine.add_argument("--use_bf16", action="store_true", help="openvino and paddle: bfloat16, on a CPU that has it")
    perf = parser.add_argument_group("measurement")
    perf.add_argument("--perf", action="store_true", help="measure scores and speed on labelled rows, predict nothing")
    perf.add_argument("--perf_dataset", choices=("dev", "test"), default="dev", help="the file of these rows")
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    add_unseen_arguments(parser, "./output")
    args = parser.parse_args(argv)
    check_prediction_arguments(parser, args)
    check_engine_arguments(parser, args)
    if args.perf and args.dataset_dir is None:
        parser.error("argument --perf: needs a --dataset_dir with labelled rows")
    if args.perf and args.unseen:
        parser.error("argument --unseen: --perf measures the model alone; analysis/evaluate.py scores new labels")
    return args


def precision(args, device, logger):
    """The precision to load; a switch that does not fit the device is told and has no effect."""
    if args.use_fp16 and device == "cpu":
        logger.warning("--use_fp16: only on a GPU, where it is faster; using float32")
    if args.use_quantize and device != "cpu":
        logger.warning("--use_quantize: only on a CPU, where it is faster; using float32")
    if args.use_quantize and args.backend != "onnx":
        raise InputError(f"--use_quantize: the int8 model is one of ONNX Runtime. Leave --backend {args.backend} out.")
    if args.use_fp16 and args.backend != "onnx":
        raise InputError(f"--use_fp16: the float16 model is one of ONNX Runtime. Leave --backend {args.backend} out.")
    if args.use_bf16 and args.backend == "onnx":
        raise InputError("--use_bf16: ONNX Runtime does not compute so. Add --backend openvino, or use --use_quantize.")
    if args.use_bf16 and (device != "cpu" or not has_bf16()):
        logger.warning("--use_bf16: only on a CPU with AVX512-BF16 or AMX, where it is faster; using float32")
    elif args.use_bf16:
        return "bfloat16"
    if device != "cpu":
        return "float16" if args.use_fp16 else "float32"
    return "int8" if args.use_quantize else "float32"


def measure(args, predictor, decision, logger):
    """Scores of labelled rows, and the time for them with and without tokenising."""
    path = Path(args.dataset_dir) / f"{args.perf_dataset}.txt"
    rows = load_reported(existing(path) or path, predictor.tree, logger)
    texts = rows.texts
    predictor.tokenizer.encode(texts[:1])  # loads what it needs
    began = time.perf_counter()
    ids = predictor.tokenizer.encode(texts)
    tokenised = time.perf_counter() - began
    predictor.logits(ids)  # the first call with a batch of its size also plans memory and chooses kernels
    scores, computed = Scores(predictor.tree), 0.0
    for window in row_windows(len(texts), len(predictor.tree)):
        part = slice(window.start, window.stop)
        began = time.perf_counter()
        logits = with_linear(predictor.logits(ids[part]), predictor.linear, texts[part])
        probabilities = probabilities_of(logits, predictor.tree, decision)
        computed += time.perf_counter() - began
        scores.update(decide(probabilities, predictor.tree, decision), rows.multi_hot(len(predictor.tree), window))
    result = scores.result()
    logger.info(f"micro f1: {100 * result['micro_f1']:.2f}, macro f1: {100 * result['macro_f1']:.2f}")
    for what, seconds in (("", computed), (" with tokenising", tokenised + computed)):
        logger.info(
            f"sample nums{what}: {len(texts)}, time: {seconds:.2f}, latency: {1000 * seconds / len(texts):.2f} ms, "
            f"throughput: {len(texts) / seconds:.1f} texts/s"
        )


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    if args.no_tf32:
        forbid_tf32()
    device = find_gpu(args.device, logger, args.backend)
    loaded = precision(args, device, logger)
    tell_tf32(device, loaded, logger)
    logger.info(">>> [InferBackend] Creating Engine ...")
    predictor = Predictor(
        args.model_path_prefix,
        kind="export",
        precision=loaded,
        backend=args.backend,
        device=device,
        device_id=args.device_id,
        num_threads=args.num_threads,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        **long_text_arguments(args),
    )
    logger.info(f">>> [InferBackend] Use {device.upper()} to inference: {predictor.file}")
    logger.info(">>> [InferBackend] Engine Created ...")
    args.batch_size = predictor.batch_size
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    if args.perf:
        require_same_labels(predictor.tree, Path(args.dataset_dir) / args.label_file)
        measure(args, predictor, decision, logger)
    elif args.unseen:
        from hierarchical.unseen import WithUnseen

        beside = WithUnseen.read(predictor, args.unseen, args.unseen_encoder, without_paddle=True)
        beside.predict_file(prediction_job(args), decision)
    else:
        predict_file(prediction_job(args), predictor, decision, predictor.settings)


if __name__ == "__main__":
    run(main)
