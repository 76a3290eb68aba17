"""Files of one model in the folder of another: what answers must answer as one of the two would, or say what is wrong."""

import os
import shutil
from itertools import chain, combinations

from hierarchical.errors import InputError

SETTINGS = "decision.json"  # which people tune


def names_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def mixed(one, other, swapped, target):
    """A folder with the files of `one`, but for those named, which are as in `other`: there, or not."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in names_in(one) | names_in(other):
        source = (other if name in swapped else one) / name
        if source.exists():
            os.link(source, target / name)
    return target


def require_no_mixture(one, other, answer, target, names=None):
    """Swap each file of two models' folders and each pair of them; answer(folder): all that a loader makes of it.

    names: of the files to swap, else all. Returns how many of these folders were refused.
    """
    names, everything = sorted(names or names_in(one) | names_in(other)), names_in(one) | names_in(other)
    whole = [
        answer(mixed(one, other, swapped, target)) for swapped in ((), (SETTINGS,), everything, everything - {SETTINGS})
    ]
    assert whole[0] != whole[2]
    refused = 0
    for swapped in chain(combinations(names, 1), combinations(names, 2)):
        try:
            found = answer(mixed(one, other, swapped, target))
        except InputError as error:
            assert swapped != (SETTINGS,) and str(target) in str(error), (swapped, error)
            refused += 1
        else:
            assert found in whole, swapped
    return refused
