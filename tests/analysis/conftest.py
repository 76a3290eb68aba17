"""Fixtures of the analysis scripts' tests; each test file has a fixture `call` of its own, which calls its main()."""

import logging

import pytest
from hierarchical.checkpoints import write_settings

from metric import Decision
from utils import run


@pytest.fixture
def refused(call, capsys):
    """refused(*arguments of call): what the script says on stderr before it ends with exit code 2."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            run(lambda: call(*arguments))
        assert ended.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.fixture
def opened(chromium):
    """opened(path of a page, width): a page of Chromium that shows it; its `faults` are its errors and dialogs."""

    def opened(path, width):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("dialog", lambda dialog: page.faults.append(dialog.message) or dialog.dismiss())
        page.goto(path.as_uri())
        return page

    return opened


@pytest.fixture
def log_of(monkeypatch, caplog):
    """log_of(script): what the script logs, as caplog."""

    def log_of(script):
        logger = logging.getLogger("hierarchical")
        caplog.set_level(logging.INFO, logger.name)
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(script, "get_logger", lambda: logger)
        return caplog

    return log_of


@pytest.fixture
def like_a_checkpoint(tmp_path):
    """like_a_checkpoint(tree): a folder that passes for a checkpoint as long as nobody reads its weights."""

    def like_a_checkpoint(tree):
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"-")
        (folder / "config.json").write_text('{"model_type": "ernie", "max_position_embeddings": 256}')
        write_settings(folder, tree, 128, Decision())
        return folder

    return like_a_checkpoint
