"""Export an encoder to a static graph and ONNX, to run without paddle.

    python retrieval_based/export_model.py --params_path checkpoint/model_best --output_path output

Reads   params_path   a model_best/ of train.py
Writes  output_path/inference.get_pooled_embedding.{pdmodel, pdiparams}   token ids -> vectors of length 1
                      (.json in the place of .pdmodel with paddle 3.2 and later)
        output_path/inference.get_pooled_embedding.onnx                   the same for ONNX Runtime
        output_path/{config.json, label.txt, decision.json} and the tokenizer's files
        output_path/{unseen.json, unseen.npy}   of fit_unseen.py, if they are there

Pass output_path as --params_path to any script of this folder; it serves an index of the checkpoint it was made from.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.bi_encoder import EXPORTED, Encoder
from hierarchical.devices import set_device
from hierarchical.exporting import export_onnx, export_static, new_export, require_onnx_size
from hierarchical.files import require_file
from hierarchical.identity import require_no_rows
from hierarchical.unseen import FILE, MADE_BY, VECTORS
from hierarchical.weights import find_weights
from retrieval_based.encoder import graph_of
from utils import InputError, get_logger, make_parser, run


def parse_args(argv):
    parser = make_parser("Export an encoder for retrieval.")
    parser.add_argument("--params_path", default="./checkpoint/model_best", help="directory that train.py wrote")
    parser.add_argument("--output_path", default="./output", help="directory for the exported models")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    logger, source, target = get_logger(), Path(args.params_path), Path(args.output_path)
    encoder = Encoder(source)
    if encoder.onnx:
        raise InputError(f"{source}: is an export already; pass the model_best/ it was made from.")
    if find_weights(target):
        raise InputError(f"{target}: holds a checkpoint, whose files would be overwritten. Pass another --output_path.")
    require_no_rows(target, "--output_path")
    require_onnx_size(
        encoder.file, "a smaller encoder (--model_name of train.py), or use the checkpoint where paddle is"
    )
    beside = [source / FILE, source / VECTORS] if (source / FILE).is_file() else []
    for path in beside:
        require_file(path, f"It belongs to {FILE}. {MADE_BY}")
    encoder.load("cpu")  # the graph is the same everywhere
    paddle = set_device("cpu")
    with new_export(encoder.checkpoint, encoder.model, target, EXPORTED) as (folder, work, metadata):
        program = export_static(paddle, graph_of(encoder.model), encoder.tokenizer.pad_id, work / "float32")
        metadata["encoder_id"] = encoder.id
        export_onnx(program, work / "float32.onnx", encoder.tree.labels, **metadata)
        for path in list(work.iterdir()):
            os.replace(path, folder / path.name.replace("float32", EXPORTED))
        for path in beside:
            shutil.copyfile(path, folder / path.name)
    exported = Encoder(target)
    exported.load("cpu")
    texts = encoder.tree.labels[:100]
    difference = np.abs(exported.encode(texts) - encoder.encode(texts)).max()
    logger.info(f"Exported {target / EXPORTED}; largest difference of a vector's numbers: {difference:.1e}")


if __name__ == "__main__":
    run(main)
