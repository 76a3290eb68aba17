"""The forms that the float16 model can have on a GPU, for gpu.py: plain, fused, and that as CUDA graphs.

No script of its own.
"""

from functools import partial
from itertools import product

import numpy as np
import onnx

from benchmarks.gpu_measurements import (
    BATCHES,
    LENGTH,
    MODELS,
    ROWS,
    differences_of,
    note,
    opened,
    seconds_of,
    texts_of,
)
from hierarchical.cuda_graphs import CudaGraphModel
from hierarchical.engines import OnnxModel
from hierarchical.predictor import GPU_CALLERS

FORMS = {  # name -> file, whether as CUDA graphs
    "plain": ("plain.onnx", False),
    "fused": ("float16.onnx", False),
    "fused, CUDA graphs": ("float16.onnx", True),
}


def forms(args):
    """Of every form: how far its answers are from float32 on the CPU, and milliseconds a text."""
    texts, rng = texts_of(args)[: max(ROWS.values())], np.random.default_rng(0)
    differences, count = differences_of(args)
    own_rows = opened(args, "own", "float32", device="cpu").tokenizer.encode(texts)

    def figures(model, batch, callers, own_lengths):
        model.batch_size, model.callers = batch, callers
        rows = own_rows[: ROWS[batch]]
        if not own_lengths:
            rows = rng.integers(5, model.config["vocab_size"], (len(rows), LENGTH)).tolist()
        return {"ms a text": 1000 * seconds_of(lambda: model.logits(rows)) / len(rows)}

    for name in MODELS:
        write_forms(args.work_dir / name)
    for name, form in product(MODELS, FORMS):
        try:
            model = opened_as(args, name, form)
        except Exception as error:  # of a form that this card or version has not, which must not cost the others
            note(args, f"{name}, {form}", partial(fail, error))
            continue
        if name == "own":
            note(args, f"{name}, {form}, {count} texts", partial(differences, model))
        for own_lengths, batch, callers in product((False, True), BATCHES, (GPU_CALLERS, 1)):
            lengths = "own lengths" if own_lengths else f"{LENGTH} tokens"
            setting = f"{name}, {form}, batch {batch}, {lengths}, callers {callers}"
            note(args, setting, partial(figures, model, batch, callers, own_lengths))


def fail(error):
    raise error


def opened_as(args, name, form):
    """The Predictor of a folder in work_dir, with its float16 model in this form."""
    model, (file, graphs) = opened(args, name, "float16"), FORMS[form]
    path = args.work_dir / name / file
    if graphs:
        longest, pad_id = model.tokenizer.max_seq_length, model.tokenizer.pad_id
        model.engine = CudaGraphModel(path, args.device, 0, GPU_CALLERS, longest, pad_id)
    else:
        model.engine = OnnxModel(path, args.device, 0)
    return model


def write_forms(folder):
    """The float16 model as it was before it was fused."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(folder / "float32.onnx"), keep_io_types=True)
    onnx.save(model, folder / "plain.onnx")
