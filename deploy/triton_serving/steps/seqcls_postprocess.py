"""Step 3 in Triton, as seqcls_postprocess/1/model.py: logits -> labels, by the decision settings of the export.

POST_INPUT float32 [n, labels], POST_TEXT bytes [n, 1] (a blank text has no labels; a model without a linear branch does
not need it)
-> POST_label int64, POST_confidence float32, POST_label_name bytes, all [n, k]: class indices in ascending order, their
probabilities and their paths. k is the largest number of labels of a text in this request, at least 1; what a text has
less is filled with -1, 0 and "". POST_certainty float32 [n, 1]: how sure each text's labels are, see
decisions.certainty. Beside this file lie the package that it imports and the settings of the export.
"""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hierarchical.checkpoints import read_settings
from hierarchical.decisions import certainty, decide, probabilities_of
from hierarchical.linear import read_linear, with_linear


class TritonPythonModel:
    def initialize(self, args):
        here = Path(__file__).resolve().parent
        self.tree, _, self.decision, _ = read_settings(here, exported=True)
        self.linear = read_linear(here, self.tree)
        self.names = np.array([*(label.encode("utf-8") for label in self.tree.labels), b""], object)  # "" at -1

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        logits, texts = triton.get_input_tensor_by_name(request, "POST_INPUT").as_numpy(), None
        if (given := triton.get_input_tensor_by_name(request, "POST_TEXT")) is not None:
            texts = [text.decode("utf-8", "replace") for text in given.as_numpy().reshape(-1)]
        probabilities = probabilities_of(with_linear(logits, self.linear, texts), self.tree, self.decision)
        try:
            selected = decide(probabilities, self.tree, self.decision)
        except ValueError as error:  # such as NaN
            return triton.InferenceResponse(error=triton.TritonError(f"the model's outputs are unusable: {error}"))
        if texts is not None:
            selected &= np.array([bool(text.strip()) for text in texts])[:, None]
        rows = [row.nonzero()[0] for row in selected]
        labels = np.full((len(rows), max(1, *map(len, rows))), -1, np.int64)
        confidences = np.zeros(labels.shape, np.float32)
        for i, row in enumerate(rows):
            labels[i, : len(row)], confidences[i, : len(row)] = row, probabilities[i, row]
        outputs = {"POST_label": labels, "POST_confidence": confidences, "POST_label_name": self.names[labels]}
        outputs["POST_certainty"] = certainty(probabilities, selected).astype(np.float32)[:, None]
        return triton.InferenceResponse([triton.Tensor(name, value) for name, value in outputs.items()])
