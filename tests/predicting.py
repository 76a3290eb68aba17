"""What the tests of predict.py share.

The fixture works in a test file that gives it a name of its own: `call = predicting.call`.
"""

import json
import logging
from types import SimpleNamespace

import pytest

import predict
from hierarchical.checkpoints import Checkpoint
from tests.conftest import SAMPLE
from utils import run

LOAD_MODEL = Checkpoint.load_model
TEXTS = (SAMPLE / "data.txt").read_text(encoding="utf-8").splitlines()[:20]


@pytest.fixture
def call(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """call(*arguments, **files) writes the files (`_` for the dot) into an empty data folder and runs predict.py there.

    Returns code, error (what the user reads on exit), log (the messages) and output (bytes of an output file "out.*").
    """
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    loaded = {}  # loading takes longer than predicting

    def load_once(checkpoint):
        key = checkpoint.weights, checkpoint.weights.stat().st_mtime_ns
        return loaded.get(key) or loaded.setdefault(key, LOAD_MODEL(checkpoint))

    monkeypatch.setattr(Checkpoint, "load_model", load_once)

    def call(*arguments, params=tiny_checkpoint, **files):
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode("utf-8")
            (tmp_path / "data" / name.replace("_", ".")).write_bytes(content)
        base = ["--dataset_dir", "data", "--params_path", str(params), "--device", "cpu"]
        messages, handler, logger = [], logging.Handler(), logging.getLogger("hierarchical")
        handler.emit = lambda record: messages.append(record.getMessage())
        monkeypatch.setattr(logger, "handlers", [handler])
        logger.setLevel("INFO")
        code = 0
        try:
            run(lambda: predict.main([*base, *map(str, arguments)]))
        except SystemExit as error:
            code = error.code
        output = next((path.read_bytes() for path in sorted(tmp_path.glob("out.*")) if path.is_file()), None)
        return SimpleNamespace(code=code, error=capsys.readouterr().err, log=messages, output=output)

    return call


def lines(*texts, end="\n"):
    return "".join(text + end for text in texts)


def rows_of(output):
    return [json.loads(line) for line in output.decode("utf-8").split("\n")[:-1]]


def fails(result, *parts):
    assert result.code == 2
    for part in parts:
        assert part in result.error
    assert "Traceback" not in result.error
    return True
