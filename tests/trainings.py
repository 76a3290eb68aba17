"""What the tests of train.py share; its fixtures are in conftest.py."""

import os
import signal

import numpy as np
import pytest

from tests.conftest import SAMPLE

QUICK = ["--model_name", str(SAMPLE / "tiny-ernie"), "--device", "cpu", "--batch_size", "2", "--logging_steps", "1"]


def fails(run_train, capsys, *flags):
    """The message of a run that must end with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit_info:
        run_train(*flags)
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
