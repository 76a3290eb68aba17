"""Step 1 in Triton, as tokenizer/1/model.py: texts -> token ids and, where the model takes them, token types.

INPUT_0 bytes [n, 1] -> OUTPUT_0, OUTPUT_1 int64 [n, T], padded to the longest text of the request. Beside this file lie
the package that it imports and the files of the export.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hierarchical.batches import pad
from hierarchical.checkpoints import Checkpoint
from hierarchical.encoders import graph_feed


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.outputs = [output["name"] for output in config["output"]]
        self.inputs = config["parameters"]["graph_inputs"]["string_value"].split(",")  # of the model, in this order
        self.pad_to = int(config["parameters"]["pad_to_multiple_of"]["string_value"])
        self.tokenizer = Checkpoint.open(Path(__file__).resolve().parent, exported=True).tokenizer

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            raw = triton.get_input_tensor_by_name(request, "INPUT_0").as_numpy().reshape(-1)
            texts = [text.decode("utf-8") for text in raw]
        except UnicodeDecodeError as error:
            return triton.InferenceResponse(error=triton.TritonError(f"a text is not UTF-8: {error}"))
        input_ids = pad(self.tokenizer.encode(texts), self.tokenizer.pad_id)
        length = -(-input_ids.shape[1] // self.pad_to) * self.pad_to
        extra = min(length, self.tokenizer.max_seq_length) - input_ids.shape[1]
        input_ids = np.pad(input_ids, ((0, 0), (0, extra)), constant_values=self.tokenizer.pad_id)
        feed, names = graph_feed(input_ids), zip(self.outputs, self.inputs)
        return triton.InferenceResponse([triton.Tensor(output, feed[name]) for output, name in names])
