"""Our int8 models beside those of ONNX Runtime's `quantize_dynamic`: speed, scores, and whose texts move whose answers.

    python benchmarks/int8.py --model_path export --dataset_dir data

Reads   model_path/float32.onnx, its labels, tokenizer and thresholds; dataset_dir/dev.txt

Each form is quantized anew from the float32 model. quantize_dynamic (weights in 8 bits by output, as the earlier
versions of this toolkit had it) is asked in batches of 32 texts of like lengths, in batches of 32 as the file has them,
and singly; ours singly. The forms take turns of 100 texts, so that whatever else the machine does hits all of them;
a form's time is the sum of each turn's best of --repetitions. One thread.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.timing import BUSY, take_turns
from hierarchical.batches import run_batches
from hierarchical.calibration import sigmoid
from hierarchical.engines import OnnxModel
from hierarchical.predictor import Predictor
from hierarchical.quantizing import quantize_model
from metric import decide, evaluate
from utils import check_minima, load_rows, make_parser, quiet, run

TURN = 100  # texts


def parse_args(argv):
    parser = make_parser("Compare forms of int8.")
    parser.add_argument("--model_path", type=Path, required=True, help="an export with float32.onnx")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--repetitions", type=int, default=5, help="of every turn")
    args = parser.parse_args(argv)
    check_minima(parser, args, repetitions=1)
    return args


def quantize_both(source, work):
    """Write both int8 forms of a float32 model: (path of quantize_dynamic's, path of ours)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    library, ours = work / "library.onnx", work / "ours.onnx"
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    with quiet():
        quantize_dynamic(
            str(source), str(library), per_channel=True, weight_type=QuantType.QInt8, extra_options=options
        )
    model = onnx.load(str(source))
    quantize_model(model)
    onnx.save(model, str(ours))
    return library, ours


def main(argv=None):
    args = parse_args(argv)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"warning: the load average is {load:.2f}; on a machine that is not idle the times mean little")
    predictor = Predictor(args.model_path, "float32", num_threads=1)
    tree = predictor.tree
    rows = load_rows(args.dataset_dir / "dev.txt", tree)
    ids = predictor.tokenizer.encode(rows.texts)
    with tempfile.TemporaryDirectory() as work:
        library, ours = map(OnnxModel, quantize_both(predictor.file, Path(work)))

    def side(engine, batch_size):
        return lambda some: run_batches(engine, some, predictor.tokenizer.pad_id, len(tree), batch_size, 1)

    sides = {
        "float32, batches of 32": side(predictor.engine, 32),
        "quantize_dynamic, batches of 32": side(library, 32),
        "quantize_dynamic, singly": side(library, 1),
        "ours, batches of 32": side(ours, 32),
        "ours, singly": side(ours, 1),
    }
    found = take_turns(sides, ids, args.repetitions, TURN)
    exact = sigmoid(found["float32, batches of 32"][0])
    labels = decide(exact, tree, predictor.decision)
    slowest = found["quantize_dynamic, batches of 32"][1]
    for name, (logits, seconds) in found.items():
        probabilities = sigmoid(logits)
        predicted = decide(probabilities, tree, predictor.decision)
        scores = evaluate(predicted, rows.multi_hot(len(tree)), tree)
        print(
            f"{name:<32} {1000 * seconds / len(ids):6.2f} ms a text, {seconds / slowest:5.2f} of quantize_dynamic's "
            f"in batches; F1 {100 * scores['micro_f1']:.2f} / {100 * scores['macro_f1']:.2f}; against float32: max "
            f"{np.abs(probabilities - exact).max():.3f}, {(predicted != labels).any(1).sum()} of {len(ids)} rows "
            "with other labels"
        )
    moved = [
        np.abs(sigmoid(found[f"{name}, singly"][0]) - sigmoid(found[f"{name}, batches of 32"][0])).max()
        for name in ("quantize_dynamic", "ours")
    ]
    print(f"alone or in a batch: quantize_dynamic's answers move by up to {moved[0]:.3f}, ours by {moved[1]:.1e}")


if __name__ == "__main__":
    run(main)
