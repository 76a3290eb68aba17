"""What the tests of retrieval_based/ share: a tiny trained encoder, and the scripts called in this process."""

import json
import logging
import shutil
import signal

import pytest

from retrieval_based import train
from tests.conftest import SAMPLE
from utils import run

LABELS = "体育\n体育##足球\n体育##篮球\n财经\n财经##股票\n"


def call(module, *flags):
    """Run a script's main() as the command line would."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        run(lambda: module.main(list(map(str, flags))))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fails(module, capsys, *flags):
    """The message of a call that must end with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit_info:
        call(module, *flags)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and "Traceback" not in error
    return error


def train_flags(data, save, *more):
    names = {"train_set_file": "train.txt", "similar_text_pair_file": "dev.txt", "corpus_file": "label.txt"}
    files = [word for flag, name in names.items() for word in (f"--{flag}", data / name)]
    rest = "--device cpu --max_seq_length 32 --batch_size 4 --learning_rate 1e-3 --log_steps 1 --output_emb_size 16"
    return [*files, "--model_name", SAMPLE / "tiny-ernie", "--save_dir", save, *rest.split(), *more]


def with_other_id(source, target):
    """A copy of a model directory, whose config.json names another encoder."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"encoder_id": "0" * 64}))
    return target


@pytest.fixture(scope="session")
def trained(paddle, tmp_path_factory):
    """(data folder, save_dir) of a training of four epochs, whose best recall@1 is the best there can be, 9.5 / 11.

    The texts have one length, or those of a label would make up whole batches, and share no character with the labels:
    an untrained encoder finds 0.27. The last train row has two labels; the last dev row has the text of the first one
    and another label.
    """
    data, save = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    rows = [("前锋梅开二度", "体育,体育##足球"), ("三分绝杀对手", "体育##篮球"), ("沪指午后跳水", "财经,财经##股票")]
    rows = [(f"{rows[i % 3][0]}第{i}期", rows[i % 3][1]) for i in range(9)] + [("球队上市", "体育##足球,财经##股票")]
    text = "".join(f"{text}\t{labels}\n" for text, labels in rows)
    (data / "train.txt").write_text(text, encoding="utf-8")
    (data / "dev.txt").write_text(text + rows[0][0] + "\t体育##篮球\n", encoding="utf-8")
    (data / "data.txt").write_text("门将扑出点球\n\n央行下调利率\n", encoding="utf-8")
    (data / "label.txt").write_text(LABELS, encoding="utf-8")
    call(train, *train_flags(data, save, "--epochs", 4))
    for handler in logging.getLogger("hierarchical").handlers[:]:
        logging.getLogger("hierarchical").removeHandler(handler)
    return data, save


@pytest.fixture
def use(trained):
    return ["--params_path", trained[1] / "model_best", "--device", "cpu"]
