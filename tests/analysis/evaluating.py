"""What the tests of evaluate.py share: rows, a model of which it is known what it predicts, and fixtures for both.

The fixtures work in a test file that gives them names of its own: `call = evaluating.call`.
"""

import numpy as np
import pytest

from analysis import evaluate
from hierarchical import checkpoints
from hierarchical.predictor import Predictor
from tests.analysis.conftest import StandIn
from utils import LabelTree, run

TREE = LabelTree(["组织", "组织##其他", "财经", "财经##其他", "体育"])  # "其他" (other) is a node under two parents

# Class indices of each text; the dev rows have no 体育.
TRAIN = {"协会成立": (0, 1), "利率下调": (2, 3), "主场取胜": (4,), "协会更名": (0,)}
DEV = {"联盟成立": (0, 1), "新规出台": (2, 3), "协会换届": (0,), "商会谈利率": (0, 1, 2, 3)}
PREDICTED = {**TRAIN, **DEV, "协会更名": (0, 1), "新规出台": (1, 2), "协会换届": ()}


def file_of(rows):
    return "".join(f"{text}\t{','.join(TREE.labels[i] for i in labels)}\n" for text, labels in rows.items())


@pytest.fixture
def data(data_dir):
    return data_dir(label_txt="\n".join(TREE.labels), train_txt=file_of(TRAIN), dev_txt=file_of(DEV))


@pytest.fixture
def checkpoint(like_a_checkpoint, monkeypatch):
    """A folder that passes for a checkpoint of TREE, and a model that gives the sets in PREDICTED."""

    def text_logits(predictor, texts, progress):
        progress(len(texts))
        return np.array([[4.0 if i in PREDICTED[text] else -4.0 for i in range(len(TREE))] for text in texts])

    monkeypatch.setattr(Predictor, "load", lambda self: None)
    monkeypatch.setattr(Predictor, "text_logits", text_logits)
    monkeypatch.setattr(
        checkpoints,
        "load_tokenizer",
        lambda _, n: StandIn(
            pad_id=0, encode=list, max_seq_length=n, lengths=lambda texts: np.array([len(text) for text in texts])
        ),
    )
    return like_a_checkpoint(TREE)


@pytest.fixture
def call():
    """call(data, checkpoint, *more flags): main(), in this process."""

    def call(data, checkpoint, *flags):
        arguments = ["--dataset_dir", data, "--params_path", checkpoint, "--device", "cpu", *flags]
        evaluate.main([str(argument) for argument in arguments])

    return call


@pytest.fixture
def refused(call, capsys, monkeypatch):
    """refused(...): the message of a run that ends with exit code 2 before the model is looked at."""

    def refused(*arguments):
        monkeypatch.setattr(Predictor, "load", lambda self: pytest.fail("too late"))
        with pytest.raises(SystemExit) as stopped:
            run(lambda: call(*arguments))
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return refused
