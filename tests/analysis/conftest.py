"""Fixtures of the analysis scripts' tests; each test file has a fixture `call` of its own, which calls its main()."""

import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical.checkpoints import write_settings
from hierarchical.ledger import id_of
from metric import Decision
from tests.conftest import SAMPLE
from utils import LabelTree, Rows, run

TREE = LabelTree(["组织", "组织##裁员", "组织##解雇", "财经"])
LAYOFFS, SHARES = ["组织", "组织##裁员"], ["财经"]
PLANTED = (3, 47, 82)


class StandIn(SimpleNamespace):
    """What a checkpoint asks of its tokenizer, for tests in which nobody else does; what it has besides is given."""

    files, windows = {}, None

    def require_known(self, config):
        pass

    def reading(self, long_text):
        self.long_text = long_text
        return self


def rows_of(texts, labels):
    return Rows(list(texts), list(labels), 0, 0)


def planted_rows():
    """100 texts on lay-offs and shares, three of them with the labels of the other kind."""
    places = [name + kind for kind in "县市州省区镇乡村港岛" for name in "甲乙丙丁戊己庚辛壬癸"]
    texts = [f"{place}某厂{'大批裁员' if i % 2 else '股价大涨'}" for i, place in enumerate(places)]
    labels = [(0, 1) if (i % 2) != (i in PLANTED) else (3,) for i in range(100)]
    return rows_of(texts, labels)


def item(number, *kinds, labels=SHARES, rank=0):
    """A row as the queue of review.py has it."""
    text = f"第{number}条"
    return {
        "id": id_of(text), "text": text, "kinds": list(kinds), "labels": labels, "proposal": LAYOFFS, "says": "",
        "model": {"组织": 0.9, "组织##裁员": 0.9, "财经": 0.1}, "rank": rank, "made": "2020",
    }  # fmt: skip


def numbers(items):
    """Those that such rows were made of."""
    return [int(re.search("[0-9]+", one["text"])[0]) for one in items]


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


@pytest.fixture(scope="session")
def masked_directory(paddle, tmp_path_factory):
    """A tiny masked language model with random weights, but for a bias that makes 5 tokens by far the likeliest.

    It has some more outputs than vocab.txt has lines, as published models can have.
    """
    from paddlenlp.transformers import ErnieForMaskedLM

    from hierarchical.encoders import read_config
    from hierarchical.modeling import library_config
    from hierarchical.tokenizer import load_tokenizer
    from hierarchical.weights import write_weights

    source, folder = SAMPLE / "tiny-ernie", tmp_path_factory.mktemp("mlm")
    tokenizer = load_tokenizer(source, 64)
    paddle.seed(0)
    config = library_config(read_config(source))
    config.vocab_size += 3
    model = ErnieForMaskedLM(config)
    bias = np.zeros(config.vocab_size, np.float32)
    bias[-3:] = 300  # no token at all
    bias[[tokenizer.vocab[char] for char in "天地人上下"]] = 100
    bias[[tokenizer.vocab[token] for token in ("[SEP]", "[UNK]", "。")]] = 200  # never to be taken
    model.cls.predictions.decoder.bias.set_value(bias)
    tokenizer.save(folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    write_weights(folder, model)
    return folder
