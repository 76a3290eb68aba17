"""What a model sees of the texts of a file: computed once for a model and its settings, and kept in the data folder.

    features = Features(checkpoint, model, checkpoint.tokenizer, 16, "data")
    train = features.of(rows.texts, "data/train.txt", "train rows")         # float32 [N, hidden size]

They depend on the texts, in their order, the network's parameters and configuration, the tokenizer and what it reads of
a text, the size of batches, the kind of device, bfloat16 and Paddle's version: with all of these alike on one machine
what is kept is what would be computed; another CPU or number of threads may round the last bits otherwise. Labels play
no part, so that train.txt and train_clean.txt share them. The files: hierarchical/cache.py.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.models import text_features
from hierarchical import cache
from hierarchical.cache import HEADER, cached, key_of, tell_no_place
from hierarchical.console import get_logger

KEPT_FROM = 100  # texts; fewer take a second or two
FOLDER = f"{cache.FOLDER}/features"  # in a data folder


class Features:
    """Those of one model.

    opened: its Checkpoint or Predictor; model: the network; tokenizer: what reads texts; directory: the data folder,
    None: they are not kept; bf16: whether the network multiplies in bfloat16
    """

    def __init__(self, opened, model, tokenizer, batch_size, directory, bf16=False):
        self.opened, self.model, self.tokenizer, self.batch_size = opened, model, tokenizer, batch_size
        self.rounding = ["bfloat16"] if bf16 else []
        self.folder = Path(directory) / FOLDER if directory else None

    def of(self, texts, path, name):
        """float32 [N, hidden size] of texts that come from the file `path`; `name` is for the progress bar."""
        if len(texts) < KEPT_FROM or not self.folder:
            return self._computed(texts, name)
        made, key = [], self._key(texts)
        target = next(self.folder.glob(f"*-{key}.features"), self.folder / f"{Path(path).name}-{key}.features")

        def make(file):
            made.append(self._computed(texts, name))
            file.write(made[0])
            return {"rows": len(made[0]), "width": made[0].shape[1]}

        def opened(target, about):
            return np.asarray(np.memmap(target, np.float32, "r", HEADER, (about["rows"], about["width"])))

        try:
            found = cached(target, target.name.removesuffix(f"-{key}.features"), make, opened)
        except OSError as error:  # what was computed before the disk was full is not computed again
            tell_no_place(self.folder, error.strerror or str(error))
            return made[0] if made else self._computed(texts, name)
        get_logger().info(f"{name}: features of {len(texts):,} texts {'kept in' if made else 'taken from'} {target}")
        return found

    def _computed(self, texts, name):
        return text_features(self.model, self.tokenizer, texts, self.batch_size, name)

    def _key(self, texts):
        """What the features of texts depend on."""
        sha256 = hashlib.sha256()
        for text in texts:
            content = text.encode("utf-8", "surrogatepass")
            sha256.update(len(content).to_bytes(8, "little") + content)
        reads = self.tokenizer.max_seq_length, self.tokenizer.long_text.to_dict()
        return key_of(self._model_key, *reads, self.batch_size, sha256.hexdigest())

    @cached_property
    def _model_key(self):
        """The parameters that are in force, and all that goes with them."""
        import paddle

        sha256 = hashlib.sha256()
        for name, parameter in sorted(self.model.state_dict().items()):
            values = np.ascontiguousarray(parameter.numpy())
            sha256.update(f"{name} {values.dtype} {values.shape}".encode())
            sha256.update(values.data)
        device = paddle.get_device().partition(":")[0]
        return [sha256.hexdigest(), self.opened.digests, device, paddle.__version__, *self.rounding]
