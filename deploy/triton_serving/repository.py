"""The four models of a repository belong together: how it is told that they do.

Each config.pbtxt has the parameter SET, a digest of all four. seqcls, the one that is asked, runs the other three.
"""

import hashlib
import re

from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.engines import OnnxModel
from hierarchical.errors import InputError, some
from hierarchical.files import file_digest
from hierarchical.linear import LINEAR

MODELS = ("seqcls", "tokenizer", "seqcls_model", "seqcls_postprocess")
SET = "made_of"
AGAIN = "Make it again: make_repository.py --overwrite."


def digest_of(folder, texts):
    """What the four models in a folder have in common: of all their files, and the texts that become config.pbtxt."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join([*digests, *texts]).encode()).hexdigest()[:16]


def require_one_set(where, made_of):
    """Raise InputError if models are not of one make_repository.py; made_of: name -> its parameter SET, "" without."""
    if other := [name for name in made_of if made_of[name] != made_of[next(iter(made_of))]]:
        names = f"{some(other)} and {next(iter(made_of))}"
        raise InputError(f"{where}: {names} were not made together, and would give wrong answers. {AGAIN}")


def require_repository(folder):
    """Raise InputError unless the four models are there, and belong together."""
    paths = {name: folder / name / "config.pbtxt" for name in MODELS}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise InputError(f"{folder}: without {some(missing)}, as after a make_repository.py that was ended. {AGAIN}")
    found = {
        name: re.search(rf'key: "{SET}" .*string_value: "(\w+)"', path.read_text("utf-8"))
        for name, path in paths.items()
    }
    require_one_set(folder, {name: match[1] if match else "" for name, match in found.items()})
    opened, path = (
        Checkpoint.open(folder / "tokenizer" / "1", exported=True),
        folder / "seqcls_model" / "1" / "model.onnx",
    )
    opened.require_models([path], OnnxModel(path).metadata)
    last = folder / "seqcls_postprocess" / "1"
    require_same_labels(opened.tree, last / "label.txt")
    linear = last / LINEAR
    if opened.digests.get(LINEAR) != (file_digest(linear) if linear.exists() else None):
        raise InputError(f"{linear}: not of this model, and the answers would be wrong. {AGAIN}")
