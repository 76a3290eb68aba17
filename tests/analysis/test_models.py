"""analysis/models.py: the two scripts that explain, typed for a few-shot model."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analysis import models, sent_interpret, word_interpret
from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.modeling import predict_logits
from hierarchical.template import TemplateTokenizer, save_words
from metric import Decision
from utils import InputError

ROOT = Path(__file__).resolve().parents[2]
ASIDE = "意外"  # in the template


@pytest.fixture(scope="module")
def few_shot(tiny_checkpoint, tmp_path_factory):
    """(checkpoint of an untrained few-shot model with a template, data folder with label.txt, train.txt and texts.txt)"""
    from hierarchical.few_shot import new_network

    folder = tmp_path_factory.mktemp("few-shot")
    shutil.copy(ROOT / "data" / "label.txt", folder)
    lines = (ROOT / "data" / "train.txt").read_text("utf-8").splitlines()[:12]
    texts = [line.split("\t")[0] for line in lines]
    (folder / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "texts.txt").write_text(f"{texts[5]}\n球队[MASK]赢了\n", "utf-8")
    opened = Checkpoint.open(tiny_checkpoint)
    prompt = f"{{'soft'}}{ASIDE}{{'text': 'text_a'}}{{'mask'}}"
    tokenizer = TemplateTokenizer(opened.tokenizer, prompt, "prompt", opened.config["vocab_size"])
    network = new_network(tiny_checkpoint, opened.tree, tokenizer, texts)
    network.eval()
    words = partial(save_words, tree=opened.tree)
    save_checkpoint(folder / "ck", network, tokenizer, opened.tree, Decision(min_labels=1), words)
    return folder / "ck", folder


@pytest.mark.slow
def test_a_few_shot_model_is_explained_by_words(few_shot):
    checkpoint, data = few_shot
    words = ["--dataset_dir", data, "--params_path", checkpoint, "--interpret_input_file", "texts.txt"]
    word_interpret.main([str(word) for word in [*words, "--samples", 32, "--device", "cpu"]])
    rows = [json.loads(line) for line in (data / "word_interpret.jsonl").read_text("utf-8").splitlines()]
    opened = models.open_checkpoint(checkpoint)
    network, tokenizer = models.load_model(opened), opened.tokenizer
    for row in rows:
        logits = predict_logits(network, tokenizer.encode([row["text"]]), tokenizer.pad_id, 1)[0]
        for item in row["explanations"]:
            assert item["logit"] == pytest.approx(logits[opened.tree.index[item["label"]]], abs=1e-3)
            assert "".join(word["word"] for word in item["words"]) == row["text"].replace(" ", "")
            assert not any(ASIDE in word["word"] for word in item["words"])
            assert any(word["score"] for word in item["words"])
    assert rows[1]["prediction"] and "[MASK]" in rows[1]["text"]


@pytest.mark.slow
def test_a_few_shot_model_finds_its_train_rows(few_shot):
    checkpoint, data = few_shot
    words = ["--dataset_dir", data, "--params_path", checkpoint, "--interpret_input_file", "texts.txt"]
    sent_interpret.main([str(word) for word in [*words, "--device", "cpu"]])
    text, predicted, _, _, first, *_ = (data / "sent_interpret.txt").read_text("utf-8").splitlines()
    assert first.startswith(f"support1 {text}\t") and first.endswith("score: 1.00000")
    opened = models.open_checkpoint(checkpoint)
    network = models.load_model(opened)
    texts = [text.removeprefix("text: "), "球队赢了"]
    features = models.text_features(network, opened.tokenizer, texts, 2, "texts")
    logits = predict_logits(network, opened.tokenizer.encode(texts), opened.tokenizer.pad_id, 1)
    np.testing.assert_allclose(models.feature_logits(network, opened.tokenizer, features), logits, atol=1e-3)
    assert predicted.removeprefix("predict label: ") in opened.tree.labels


def test_other_models_are_refused(few_shot, tmp_path):
    checkpoint, _ = few_shot
    other = tmp_path / "retrieval"
    other.mkdir()
    for name in ("label.txt", "decision.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, other)
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    del config["mlm_transform"], config["id2label"], config["label2id"]
    (other / "config.json").write_text(json.dumps(config | {"encoder_id": "x"}), "utf-8")
    with pytest.raises(InputError, match="an encoder for retrieval, not a classifier"):
        models.open_checkpoint(other)
