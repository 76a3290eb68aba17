"""Export an encoder to a static graph and ONNX, to run without paddle.

    python retrieval_based/export_model.py --params_path checkpoint/model_best --output_path output

Reads   params_path   a model_best/ of train.py
Writes  output_path/inference.get_pooled_embedding.{pdmodel, pdiparams}   token ids -> vectors of length 1
                      (.json in the place of .pdmodel with paddle 3.2 and later)
        output_path/inference.get_pooled_embedding.onnx                   the same for ONNX Runtime
        output_path/{config.json, label.txt, decision.json} and the tokenizer's files

Pass output_path as --params_path to any script of this folder; it serves an index of the checkpoint it was made from.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # first: `export_model` is the one of the main route
from export_model import SETTINGS, export_onnx, export_static, require_onnx_size
from retrieval_based.encoder import EXPORTED, Encoder, graph_of
from runtime import set_device
from utils import HelpFormatter, InputError, get_logger, run
from weights import find_weights


def parse_args():
    parser = argparse.ArgumentParser(description="Export an encoder for retrieval.", formatter_class=HelpFormatter)
    parser.add_argument("--params_path", default="./checkpoint/model_best", help="directory that train.py wrote")
    parser.add_argument("--output_path", default="./output", help="directory for the exported models")
    return parser.parse_args()


def main():
    args = parse_args()
    logger, source, target = get_logger(), Path(args.params_path), Path(args.output_path)
    encoder = Encoder(source)
    if encoder.onnx:
        raise InputError(f"{source}: is an export already; pass the model_best/ it was made from.")
    if find_weights(target):
        raise InputError(f"{target}: holds a checkpoint, whose files would be overwritten. Pass another --output_path.")
    require_onnx_size(source, "a smaller encoder (--model_name of train.py), or use the checkpoint where paddle is")
    encoder.load("cpu")  # the graph is the same everywhere
    paddle = set_device("cpu")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as work:
        work = Path(work)
        program = export_static(paddle, graph_of(encoder.model), encoder.tokenizer.pad_id, work / "float32")
        export_onnx(program, work / "float32.onnx", encoder.tree.labels, encoder_id=encoder.id)
        for path in list(work.iterdir()):
            os.replace(path, target / path.name.replace("float32", EXPORTED))
    encoder.tokenizer.save(target)
    for file in SETTINGS:
        shutil.copyfile(source / file, target / file)
    exported = Encoder(target)
    exported.load("cpu")
    texts = encoder.tree.labels[:100]
    difference = np.abs(exported.encode(texts) - encoder.encode(texts)).max()
    logger.info(f"Exported {target / EXPORTED}; largest difference of a vector's numbers: {difference:.1e}")


if __name__ == "__main__":
    run(main)
