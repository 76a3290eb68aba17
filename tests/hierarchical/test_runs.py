"""runs.py: what a run starts from and goes on with, and what it must not do."""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical.checkpoints import Checkpoint
from hierarchical.errors import InputError
from hierarchical.modeling import build_model, library_config
from hierarchical.runs import (
    open_model,
    require_other_directory,
    require_same_start,
    require_same_tokenizer,
    start_encoder,
    start_or_resume,
)
from hierarchical.sources import require_model
from hierarchical.tokenizer import load_tokenizer
from hierarchical.training import Progress, save_progress
from hierarchical.weights import read_weights
from tests.conftest import SAMPLE, without_identity
from tests.hierarchical.test_training import Arrays


def test_a_run_starts_or_goes_on(tmp_path):
    warned = []
    logger, now = SimpleNamespace(warning=warned.append), {"seed": 3}
    assert start_or_resume(tmp_path, False, now, logger) == (Progress(fingerprint=now), None) and not warned
    with pytest.raises(InputError, match="--resume: no"):
        start_or_resume(tmp_path, True, now, logger)
    save_progress(
        tmp_path, Arrays(), Progress(epoch=2, step=9, best=0.25, fingerprint={"seed": 3, "then": 1, "tokenizer": 2})
    )
    assert start_or_resume(tmp_path, False, now, logger, "--go_on") == (Progress(fingerprint=now), None)
    assert warned == [f"{tmp_path} holds an earlier run, which this one replaces; --go_on would have continued it"]
    progress, arrays = start_or_resume(tmp_path, True, now, logger)
    assert progress == Progress(epoch=2, step=9, best=0.25, fingerprint=now | {"tokenizer": 2}) and len(arrays) == 2


def test_open_model(paddle):
    directory, tokenizer, config = open_model(str(SAMPLE / "tiny-ernie"), 256)
    assert directory == SAMPLE / "tiny-ernie" and tokenizer.max_seq_length == 256 and config.hidden_size == 128
    with pytest.raises(InputError, match="--max_seq_length 257: .*tiny-ernie reads at most 256 tokens"):
        open_model(str(SAMPLE / "tiny-ernie"), 257)


def test_an_encoder_is_not_trained_over(tmp_path):
    require_other_directory(tmp_path / "new", tmp_path)
    require_other_directory(tmp_path, "ernie-3.0-medium-zh")
    with pytest.raises(InputError, match="--output_dir .*: the encoder lies there"):
        require_other_directory(tmp_path / "a" / "..", str(tmp_path), "--output_dir")


@pytest.mark.parametrize("identified", [True, False])
def test_labels_that_have_grown(tiny_checkpoint, tmp_path, identified):
    folder, path = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"), tmp_path / "label.txt"
    if not identified:
        without_identity(folder)
    labels, tokenizer = Checkpoint.open(folder).tree.labels, load_tokenizer(folder, 64)
    weights = folder / "model.safetensors"
    path.write_text("\n".join(labels), "utf-8")
    require_same_start(weights, tokenizer, path)
    for changed, says in (
        ([*labels, "新闻", "新闻##国际"], rf"\(new in {path}: 新闻, 新闻##国际\)"),
        (labels[:-1], rf"\(only in the old model: {labels[-1]}\)"),
        (labels[::-1], r"\(in another order\)"),
    ):
        path.write_text("\n".join(changed), "utf-8")
        with pytest.raises(
            InputError, match=f"--init_from_ckpt {weights}: was trained with other labels {says}"
        ) as told:
            require_same_start(weights, tokenizer, path)
        assert f"pass --model_name {folder} in its place" in str(told.value)


def test_another_tokenizer_than_the_parameters_are_for(tiny_checkpoint, tmp_path):
    source = shutil.copytree(SAMPLE / "tiny-ernie", tmp_path / "other")
    lines = (source / "vocab.txt").read_text("utf-8").splitlines()
    (source / "vocab.txt").write_text("\n".join([*lines[:50], *lines[:49:-1]]), "utf-8")
    weights = tiny_checkpoint / "model.safetensors"
    require_same_start(weights, load_tokenizer(tiny_checkpoint, 64))
    says = f"for another vocab.txt than that of --model_name. Pass --model_name {tiny_checkpoint} beside it"
    with pytest.raises(InputError, match=says):
        require_same_start(weights, load_tokenizer(source, 64))
    old = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "old"))  # does not say what it is for
    require_same_start(old / weights.name, load_tokenizer(source, 64))


def test_a_run_goes_on_with_its_own_tokenizer():
    tokenizer, fingerprint = SimpleNamespace(files={"vocab.txt": b"[PAD]\n"}), {"seed": 3}
    require_same_tokenizer(fingerprint, tokenizer)
    assert fingerprint.keys() == {"seed", "tokenizer"}, "noted, as states of older versions do not"
    require_same_tokenizer(fingerprint, SimpleNamespace(files={"vocab.txt": b"[PAD]\r\n"}))
    with pytest.raises(InputError, match="--go_on: the run began with another vocab.txt than --model_name has now"):
        require_same_tokenizer(fingerprint, SimpleNamespace(files={"vocab.txt": b"[UNK]\n"}), "--go_on")


def test_the_remedy_works(paddle, tiny_checkpoint):
    """--model_name checkpoint: the encoder's parameters go into a network with more labels."""
    require_model(str(tiny_checkpoint))
    config = library_config(Checkpoint.open(tiny_checkpoint).config)
    config.num_labels = 33
    model = build_model(config)
    start_encoder(model, tiny_checkpoint, logging.getLogger())
    old = read_weights(tiny_checkpoint / "model.safetensors")
    found = {name: value.numpy() for name, value in model.state_dict().items() if name.startswith("ernie.")}
    assert len(found) > 30 and all(np.array_equal(value, old[name]) for name, value in found.items())
