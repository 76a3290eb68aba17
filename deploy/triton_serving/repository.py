"""The four models of a repository belong together: how they are replaced, and how it is told that they do.

Each config.pbtxt has the parameter SET, a digest of all four. seqcls, the one that is asked, runs the other three.
"""

import hashlib
import os
import re
import shutil
from contextlib import contextmanager

from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.engines import OnnxModel
from hierarchical.errors import InputError, some
from hierarchical.files import file_digest
from hierarchical.sets import only_writer, sync

MODELS = ("seqcls", "tokenizer", "seqcls_model", "seqcls_postprocess")
SET = "made_of"
AGAIN = "Make it again: make_repository.py --overwrite."


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def new_models(output):
    """An empty folder; the four models in it at the end take their places in `output`, or after a failure none.

    Without seqcls nobody is answered, so it goes first and comes last: a process that is killed, at any moment, leaves
    the old four, the new four, or a repository without it.
    """
    output = output.resolve()
    work = output.with_name(f".{output.name}.new")  # beside it, since a server may be looking at the folder
    with only_writer(output):
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        try:
            for name in ("new", "old"):
                (work / name).mkdir(parents=True)
            yield work / "new"
            for path in (work / "new").rglob("*"):
                sync(path)
            _replace(output, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _replace(output, work):
    moved = []
    try:
        for name in MODELS:
            if (output / name).exists():
                os.replace(output / name, work / "old" / name)
                moved.append(name)
        for name in reversed(MODELS):
            os.replace(work / "new" / name, output / name)
    except OSError:  # as for models that another user made
        for name in reversed(moved):
            shutil.rmtree(output / name, ignore_errors=True)
            os.replace(work / "old" / name, output / name)
        raise


def digest_of(folder, texts):
    """What the four models in a folder have in common: of all their files, and the texts that become config.pbtxt."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join([*digests, *texts]).encode()).hexdigest()[:16]


# ---- reading ---------------------------------------------------------------------------------------------------------


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
    require_same_labels(opened.tree, folder / "seqcls_postprocess" / "1" / "label.txt")
