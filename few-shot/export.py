"""A trained network as files that run without the framework that trained it, and without few-shot/train.py."""

import os
import shutil
import tempfile
from pathlib import Path

from template import VERBALIZER

from deploy.predictor.predictor import Predictor
from export_model import SETTINGS, compare, export_onnx, export_static, show
from modeling import predict_logits
from weights import find_weights

MODEL_FILES = ("model.onnx", "model.pdmodel", "model.json", "model.pdiparams", "model.pdiparams.info")


def export_network(paddle, network, tokenizer, tree, decision, directory, target, kind, batch_size, logger):
    """Write the export, complete in itself, and say how near the exported models come to the checkpoint.

    directory: of the checkpoint; target: of the export; kind: "paddle", "onnx" or "both". The models are made in a
    directory of their own first, so that a failure leaves an earlier export as it was.
    """
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as work:
        work = Path(work)
        program = export_static(paddle, network, tokenizer.pad_id, work / "model")
        if kind != "paddle":
            export_onnx(program, work / "model.onnx", tree.labels)
        made = [path for path in work.iterdir() if kind != "onnx" or path.suffix == ".onnx"]
        for path in made:
            os.replace(path, target / path.name)
    for name in set(MODEL_FILES) - {path.name for path in made}:  # of another training: infer.py might take them
        (target / name).unlink(missing_ok=True)
    tokenizer.save(target)
    for name in (*SETTINGS, VERBALIZER):
        shutil.copyfile(directory / name, target / name)

    def checkpoint(ids, progress=None):
        return predict_logits(network, ids, tokenizer.pad_id, batch_size, progress)

    models = {"checkpoint": (checkpoint, [find_weights(directory)])}
    made = {"onnx": ["model.onnx"], "paddle": [program.name, "model.pdiparams"]}
    for backend in made if kind == "both" else [kind]:
        predictor = Predictor(target / "model", backend=backend, batch_size=batch_size, template=True)
        models[made[backend][0]] = (predictor.logits, [target / name for name in made[backend]])
    show(compare(models, tree, tokenizer.encode(tree.words), None, decision), logger)
    logger.info(f"Exported to {target}; compared on the labels' names")
