"""Files and folders that a server reads together are replaced together: models of Triton, a folder of Paddle Serving.

    with new_parts("models", ("seqcls", "tokenizer")) as folder:      # an empty folder: what is written there moves
        ...

The first part is the one without which a server answers nobody. It goes first and comes last: a process that is killed,
at any moment, leaves all old parts, all new ones, or a directory without the first.
"""

import os
import shutil
from contextlib import contextmanager

from hierarchical.sets import only_writer, sync


@contextmanager
def new_parts(output, names):
    """An empty folder; the parts of these names that are in it at the end replace those in `output` (a Path).

    After a failure the old ones are there. What else lies in `output` stays.
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
            _replace(output, work, names)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _replace(output, work, names):
    moved = []
    try:
        for name in names:
            if (output / name).exists():
                os.replace(output / name, work / "old" / name)
                moved.append(name)
        for name in reversed(names):
            os.replace(work / "new" / name, output / name)
    except OSError:  # as for parts that another user made
        for name in reversed(moved):
            if (output / name).exists():
                os.replace(output / name, work / "new" / name)
            os.replace(work / "old" / name, output / name)
        raise
