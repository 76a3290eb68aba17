"""Step 2 in Triton where it has no ONNX Runtime back end, as seqcls_model/1/model.py: token ids -> logits.

Inputs and output are those of model.onnx beside this file: int64 [n, T] -> float32 [n, labels]. The requests that
Triton hands over together may differ in T; they are padded to one batch. int8 models read one text after the other:
there a batch is slower, and the answer to a text shall not depend on it.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.output = config["output"][0]["name"]
        self.pad_id, self.singly = (int(config["parameters"][key]["string_value"]) for key in ("pad_id", "singly"))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = 1  # instances side by side cost less than threads that wait for each other
        providers, gpu = ["CPUExecutionProvider"], args["model_instance_kind"] == "GPU"
        if gpu:
            providers = [("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}), *providers]
        path = Path(__file__).resolve().with_name("model.onnx")
        # without its fallback, which would go on with another device and tell nobody
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        if gpu and "CUDAExecutionProvider" not in self.session.get_providers():
            raise triton.TritonModelException(
                "onnxruntime finds no CUDA and cuDNN of its versions: install onnxruntime-gpu alone, or make the "
                "repository with --device cpu"
            )

    def execute(self, requests):
        feed = {}
        for name in self.inputs:
            parts = [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            length = max(part.shape[1] for part in parts)
            value = self.pad_id if name == "input_ids" else 0
            feed[name] = np.concatenate(
                [np.pad(part, ((0, 0), (0, length - part.shape[1])), constant_values=value) for part in parts]
            )
        logits = np.concatenate([self.session.run([self.output], part)[0] for part in self.calls(feed)])
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [triton.InferenceResponse([triton.Tensor(self.output, rows)]) for rows in np.split(logits, ends)]

    def calls(self, feed):
        """The inputs of each call of the model: all rows together, or one by one without their padding."""
        if not self.singly:
            return [feed]
        lengths = [np.flatnonzero(row != self.pad_id).max(initial=0) + 1 for row in feed["input_ids"]]
        return [{name: rows[i : i + 1, :n] for name, rows in feed.items()} for i, n in enumerate(lengths)]
