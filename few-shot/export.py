"""A trained network as files that run without the framework that trained it, and without few-shot/train.py."""

import os
import shutil
import tempfile
from pathlib import Path

from template import VERBALIZER

from hierarchical.exporting import compare, copy_settings, export_onnx, export_static, show, with_exports

MODEL_FILES = ("model.onnx", "model.pdmodel", "model.json", "model.pdiparams", "model.pdiparams.info")


def export_network(paddle, network, checkpoint, tokenizer, target, kind, batch_size, logger):
    """Write the export, complete in itself, and say how near the exported models come to the checkpoint.

    tokenizer: the checkpoint's, in its template; target: directory of the export; kind: "paddle", "onnx" or "both". The
    models are made in a directory of their own first, so that a failure leaves an earlier export as it was.
    """
    tree = checkpoint.tree
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
    copy_settings(checkpoint, target)
    tokenizer.save(target)  # with the template
    shutil.copyfile(checkpoint.directory / VERBALIZER, target / VERBALIZER)
    names = {"onnx": ["model.onnx"], "paddle": [program.name], "both": ["model.onnx", program.name]}[kind]
    paths = [target / name for name in names]
    models = with_exports(network, checkpoint.weights, tokenizer.pad_id, paths, batch_size)
    show(compare(models, tree, tokenizer.encode(tree.words), None, checkpoint.decision), logger)
    logger.info(f"Exported to {target}; compared on the labels' names")
