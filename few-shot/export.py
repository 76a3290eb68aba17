"""A trained network as files that run without the framework that trained it, and without few-shot/train.py."""

import os
import shutil

from hierarchical.exporting import compare, export_onnx, export_static, new_export, show, with_exports
from hierarchical.identity import WORDS

NAME = "model"  # of the exported models, without their endings


def export_network(paddle, network, checkpoint, tokenizer, target, kind, batch_size, logger):
    """Write the export, complete in itself, and say how near the exported models come to the checkpoint.

    tokenizer: the checkpoint's, in its template; target: directory of the export; kind: "paddle", "onnx" or "both". A
    failure leaves an earlier export as it was.
    """

    def write_more(folder):
        tokenizer.save(folder)  # with the template
        shutil.copyfile(checkpoint.directory / WORDS, folder / WORDS)

    tree = checkpoint.tree
    with new_export(checkpoint, network, target, NAME, write_more) as (folder, work, metadata):
        program = export_static(paddle, network, tokenizer.pad_id, work / NAME)
        if kind != "paddle":
            export_onnx(program, work / f"{NAME}.onnx", tree.labels, **metadata)
        for path in list(work.iterdir()):
            if kind != "onnx" or path.suffix == ".onnx":
                os.replace(path, folder / path.name)
    names = {"onnx": ["model.onnx"], "paddle": [program.name], "both": ["model.onnx", program.name]}[kind]
    paths = [target / name for name in names]
    models = with_exports(network, checkpoint.weights, tokenizer.pad_id, paths, batch_size)
    show(compare(models, tree, tokenizer.encode(tree.words), None, checkpoint.decision), logger)
    logger.info(f"Exported to {target}; compared on the labels' names")
