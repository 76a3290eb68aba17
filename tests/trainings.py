"""What the tests of train.py and prune.py share; their fixtures are in conftest.py."""

import logging
import os
import signal

import numpy as np
import pytest

from tests.conftest import SAMPLE
from utils import run

QUICK = ["--model_name", str(SAMPLE / "tiny-ernie"), "--device", "cpu", "--batch_size", "2", "--logging_steps", "1"]


def call(script, *flags):
    """Run a script's main() as the command line would."""
    for handler in logging.getLogger("hierarchical").handlers[:]:
        logging.getLogger("hierarchical").removeHandler(handler)  # bound to an earlier run's streams and files
    run(lambda: script.main(list(map(str, flags))))


def fails(run_script, capsys, *flags):
    """The message of a run that must end with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit_info:
        run_script(*flags)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and "Traceback" not in error
    return error


def arrays(path):
    from safetensors.numpy import load_file

    return load_file(path)


def assert_same_arrays(left, right):
    left, right = arrays(left), arrays(right)
    assert left.keys() == right.keys() and len(left) > 10
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def interrupted(step, trainer, *given, **named):
    """A step; after the twelfth the run is asked to stop."""
    if trainer.step == 11:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(trainer, *given, **named)
