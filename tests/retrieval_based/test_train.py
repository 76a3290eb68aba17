"""retrieval_based/train.py on a dozen rows with data/tiny-ernie: its steps, its files, its processes."""

import json
import shutil
import subprocess
import sys
from math import exp, log

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file

from hierarchical.bi_encoder import Encoder
from hierarchical.tokens import Tokenizer
from hierarchical.training import Settings
from retrieval_based import build_index, train
from retrieval_based.index import SemanticIndex
from tests.conftest import ROOT
from tests.retrieval_based.conftest import call, fails, train_flags


def test_training_leaves_a_checkpoint_and_its_history(trained):
    _, save = trained
    history = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4] and history[0]["step"] == 3  # 11 pairs, 4 a step
    assert all(0 <= entry["recall@1"] <= entry["recall@5"] == 1 for entry in history)  # three leaves in all
    assert max(entry["recall@1"] for entry in history) > 0.6  # by chance: 0.33
    log = (save / "train.log").read_text(encoding="utf-8")
    assert "global step 1, epoch: 1, batch: 1, loss: " in log and "recall@1=" in log and "evaluating" in log
    encoder = Encoder(save / "model_best")
    assert encoder.dimension == 16 and not encoder.inner_labels and encoder.decision.decoding == "closure"
    assert load_file(save / "model_best" / "model.safetensors")["classifier.weight"].shape == (128, 16)


def test_dropout_is_on_again_after_an_evaluation(trained, monkeypatch, tmp_path):
    seen = []
    finish = train.finish_epoch

    def watched(args, trainer, *rest):
        finish(args, trainer, *rest)
        seen.append(trainer.model.training)

    monkeypatch.setattr(train, "finish_epoch", watched)
    call(train, *train_flags(trained[0], tmp_path, "--epochs", 1))
    assert seen == [True]


def test_tokens_of_large_files_are_kept(trained, monkeypatch, tmp_path):
    """A training that maps them from the disk has the same bytes as one that has just made them, and one without."""
    data = shutil.copytree(trained[0], tmp_path / "data")
    monkeypatch.setattr("hierarchical.token_rows.CACHED_FROM", 10)  # rows of train.txt; dev.txt has one more
    made, encoded = [], Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda *given: made.append(len(given[1])) or encoded(*given))
    for name in ("first", "second"):
        call(train, *train_flags(data, tmp_path / name, "--epochs", 4))
    assert made == [10, 11, 5, 5]  # train, dev and the labels, and then the labels alone
    assert len(list((data / ".cache" / "tokens").glob("*.tokens"))) == 2
    models = [
        folder / "model_best" / "model.safetensors"
        for folder in (trained[1], *map(tmp_path.joinpath, ("first", "second")))
    ]
    assert len({path.read_bytes() for path in models}) == 1


@pytest.mark.slow
def test_resume_repeats_the_uninterrupted_run(trained, monkeypatch, tmp_path, capsys):
    data, whole = trained

    class Stop(Exception):
        pass

    def stop(args, trainer, *rest):
        finish(args, trainer, *rest)
        raise Stop

    finish = train.finish_epoch
    monkeypatch.setattr(train, "finish_epoch", stop)
    with pytest.raises(Stop):
        call(train, *train_flags(data, tmp_path, "--epochs", 4))
    monkeypatch.setattr(train, "finish_epoch", finish)
    call(train, *train_flags(data, tmp_path, "--epochs", 4, "--resume"))
    left, right = load_file(tmp_path / "state.safetensors"), load_file(whole / "state.safetensors")
    for name in left:
        if "k_proj.bias" not in name:  # its gradient is rounding noise, see conftest.NO_GRADIENT
            np.testing.assert_allclose(left[name], right[name], atol=1e-5, err_msg=name)
    error = fails(train, capsys, *train_flags(data, tmp_path, "--epochs", 4, "--resume", "--margin", 0.1))
    assert "margin: 0.2 then, 0.1 now" in error


def test_masked_labels_of_a_batch():
    """Rows of labels {1}, {1, 2 and its parent 0}; the batch has labels 0, 1, 2."""
    trainer = train.PairTrainer.__new__(train.PairTrainer)
    trainer.closures, trainer.margin = [{1}, {0, 1, 2}], 0.25
    shift = trainer.shifts([(0, 1), (1, 2), (1, 1)], np.array([0, 1, 2]), np.array([1, 2, 1]))
    assert shift.tolist() == [[0, -0.25, 0], [-1e4, -1e4, -0.25], [-1e4, -0.25, -1e4]]


def test_a_step_by_hand(paddle):
    """Pairs (row 0, label 1), (row 1, label 2), (row 1, label 3); the vectors are given, and then learnt a little."""
    vectors = np.zeros((14, 2), np.float32)
    vectors[[1, 2, 11, 12, 13]] = [(1, 0), (0.6, 0.8), (0.8, 0.6), (0, 1), (1, 0)]
    table = paddle.to_tensor(vectors, stop_gradient=False)
    trainer = train.PairTrainer.__new__(train.PairTrainer)
    trainer.paddle, trainer.step, trainer.world, trainer.rank, trainer.factor = paddle, 0, 1, 0, lambda step: 1.0
    trainer.settings, trainer.margin, trainer.scale = Settings(0.01, 0.01, seed=1), 0.2, 5
    trainer.net = lambda input_ids, attention_mask: table[input_ids[:, 0]]
    trainer.optimizer = paddle.optimizer.SGD(0.01, parameters=[table])
    trainer.pairs, trainer.closures = [(0, 1), (1, 2), (1, 3)], [{0, 1}, {2, 3}]
    trainer.label_ids = [[10], [11], [12], [13]]
    # cosines of row 0 with labels 1, 2, 3: 0.8, 0, 1; of row 1: 0.96, 0.8, 0.6. The own one loses 0.2, all are
    # multiplied by 5, and for row 1 its labels 2 and 3 do not compete with each other.
    losses = [log(exp(3) + exp(0) + exp(5)) - 3, log(exp(4.8) + exp(3)) - 3, log(exp(4.8) + exp(2)) - 2]
    assert np.mean(losses) == pytest.approx(2.31495, abs=1e-5)
    step = [[[1], [2]], None, np.arange(3), 0]
    assert trainer.train_step(*step) == pytest.approx(2.31495, abs=1e-4)
    assert trainer.step == 1 and trainer.train_step(*step) < 2.31  # the update goes the right way


def test_rows_that_end_at_an_inner_label(trained, tmp_path, printed):
    """Trained with one, inner labels are indexed and found; without, dev rows that end there are counted."""
    data, index = shutil.copytree(trained[0], tmp_path / "data"), tmp_path / "index"
    with open(data / "dev.txt", "a", encoding="utf-8") as file:
        file.write("本届奥运会闭幕\t体育\n")
    call(train, *train_flags(data, tmp_path / "leaves", "--epochs", 1))
    assert any("dev.txt: 1 rows end at a label that has children" in message for message in printed)
    printed.clear()
    with open(data / "train.txt", "a", encoding="utf-8") as file:
        file.write("本届奥运会闭幕\t体育\n")
    call(train, *train_flags(data, tmp_path / "inner", "--epochs", 1))
    assert not any("rows end at a label" in message for message in printed)
    (leaves, inner) = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("leaves", "inner"))
    assert (leaves["recall@50"], inner["recall@50"]) == (pytest.approx(11 / 12), 1)
    encoder = Encoder(tmp_path / "inner" / "model_best")
    assert encoder.inner_labels and not Encoder(tmp_path / "leaves" / "model_best").inner_labels
    call(build_index, "--params_path", encoder.directory, "--device", "cpu", "--index_dir", index)
    assert SemanticIndex.read(index, encoder).entries == [(0,), (1,), (2,), (3,), (4,)]


@pytest.mark.slow
def test_two_processes_train_one_encoder(trained, tmp_path):
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command += ["--log_dir", tmp_path / "log", "retrieval_based/train.py"]
    command += train_flags(trained[0], tmp_path / "run", "--epochs", 8, "--batch_size", 2)
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [entry["step"] for entry in history] == list(range(3, 25, 3))  # 11 pairs, 2 for each of two processes
    assert max(entry["recall@1"] for entry in history) > 0.6
    assert (tmp_path / "run" / "train.log").read_text("utf-8").count("evaluating") == 8  # one writer
    Encoder(tmp_path / "run" / "model_best").load("cpu")


def test_a_second_training_is_refused(trained, tmp_path, capsys):
    with FileLock(tmp_path / ".lock"):  # as another process would
        error = fails(train, capsys, *train_flags(trained[0], tmp_path, "--epochs", 1))
    assert f"{tmp_path}: another process is writing there; wait until it ends, or give another --save_dir." in error
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_encoder_is_not_saved_among_rows(trained, tmp_path, capsys):
    model = tmp_path / "run" / "model_best"
    shutil.copytree(trained[0], model)
    error = fails(train, capsys, *train_flags(trained[0], tmp_path / "run", "--epochs", 1))
    assert f"--save_dir: its model_best {model}: holds a label.txt and no model" in error
    assert sorted(path.name for path in model.iterdir()) == sorted(path.name for path in trained[0].iterdir())
