"""What the tests of doccano.py share.

The fixtures work in a test file that gives them names of its own: `convert = doccano_exports.convert`.
"""

import json
from pathlib import Path

import pytest

import doccano
from utils import run


@pytest.fixture
def convert(tmp_path, capsys, printed):
    """convert(records, *flags) -> (exit code, log and error text); records go to all.jsonl, results to tmp_path/out."""

    def call(records, *flags, save_dir="out", to="--doccano_file"):
        path = records
        if not isinstance(records, Path):
            path = tmp_path / "all.jsonl"
            path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        arguments = [to, path, "--save_dir", tmp_path / save_dir, *flags]
        printed.clear()
        try:
            run(lambda: doccano.main(list(map(str, arguments))))
            code = 0
        except SystemExit as end:
            code = end.code
        return code, "\n".join([*printed, capsys.readouterr().err])

    return call


@pytest.fixture
def out(tmp_path):
    """out(name) -> the lines of a file that was written; out() -> all names."""

    def read(name=None):
        folder = tmp_path / "out"
        if name is None:
            return sorted(path.name for path in folder.glob("[!.]*"))
        text = (folder / name).read_bytes().decode("utf-8")
        assert text.endswith("\n") and "\r" not in text
        return text[:-1].split("\n")

    return read


def row(text, *labels):
    return {"text": text, "label": list(labels)}
