"""hierarchical/cache.py: how many files are left."""

import os

import pytest

from hierarchical import cache
from hierarchical.cache import cached

# What else it does is seen where it is used: test_token_rows.py and analysis/test_features.py.


@pytest.fixture
def keep(tmp_path):
    """keep(name, key): a file of the cache, each a second newer than the one before."""
    times = iter(range(1_000_000, 2_000_000))

    def keep(name, key="0", kind="tokens"):
        target = tmp_path / f"{name}-{key}.{kind}"
        assert cached(target, name, lambda file: {}, lambda target, about: True)
        os.utime(target, (time := next(times), time))

    return keep


def left(folder, kind):
    return sorted(path.stem for path in folder.glob(f"*.{kind}"))


def test_of_a_file_the_latest(keep, tmp_path):
    for key in "abcde":
        keep("train.txt", key)
        keep("train[.txt", key)
    keep("train.txt", "c")
    assert left(tmp_path, "tokens") == [*(f"train.txt-{key}" for key in "cde"), *(f"train[.txt-{key}" for key in "cde")]


def test_of_all_files_the_latest(keep, tmp_path):
    for kind in ("tokens", "features"):
        for day in range(10, 10 + cache.MOST + 5):
            keep(f"sample-{day}.jsonl", kind=kind)
            keep("train.txt", kind=kind)  # which is in use each day
    for kind in ("tokens", "features"):
        days = range(10 + 6, 10 + cache.MOST + 5)
        assert left(tmp_path, kind) == [*(f"sample-{day}.jsonl-0" for day in days), "train.txt-0"]
