"""few-shot/export.py, and that neither a checkpoint nor an export answers with the files of two models."""

import logging
from functools import partial

import pytest

from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.decisions import Decision
from hierarchical.encoders import read_config
from hierarchical.labels import LabelTree
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from hierarchical.template import TemplateTokenizer, load_template, save_words
from hierarchical.tokenizer import load_tokenizer
from tests.few_shot.conftest import load_script
from tests.hierarchical.swaps import names_in, require_no_mixture

TEXTS = ["国足今晚出战", "两市小幅收涨，大盘午后跳水"]
LABELS = ["体育", "体育##足球", "财经"]


@pytest.fixture(scope="module")
def models(paddle, tiny_checkpoint, tmp_path_factory):
    """(checkpoint, its export) of two models with other labels, templates, words and lengths."""
    from hierarchical.few_shot import load_network, new_network

    found, plain = [], load_tokenizer(tiny_checkpoint, 32)
    for i, (labels, prompt, words) in enumerate(
        [
            (LABELS, "{'soft'}{'text':'text_a'}{'mask'}", None),
            (LABELS[2:] + LABELS[:2], "这是{'mask'}", ["甲", "乙", "丙"]),
        ]
    ):
        folder, tree = tmp_path_factory.mktemp("few") / str(i), LabelTree(labels, words=words)
        plain.max_seq_length = 32 + i
        tokenizer = TemplateTokenizer(plain, prompt, "prompt", read_config(tiny_checkpoint)["vocab_size"])
        network = new_network(tiny_checkpoint, tree, tokenizer, TEXTS)
        save_checkpoint(folder, network, tokenizer, tree, Decision(0.3 + i / 10), partial(save_words, tree=tree))
        opened = Checkpoint.open(folder, kind="few-shot")
        tokenizer = load_template(folder, opened.tokenizer, opened.config)
        network = load_network(opened, tokenizer)
        log = logging.getLogger("hierarchical")
        load_script("export").export_network(paddle, network, opened, tokenizer, folder / "export", "both", 8, log)
        found.append((folder, folder / "export"))
    return found


@pytest.mark.slow
def test_checkpoints_are_not_mixed(models, tmp_path):
    from hierarchical.few_shot import load_network

    def answer(folder):
        opened = Checkpoint.open(folder, kind="few-shot")
        tokenizer = load_template(folder, opened.tokenizer, opened.config)
        network = load_network(opened, tokenizer)
        logits = predict_logits(network, tokenizer.encode(TEXTS), tokenizer.pad_id, 8)
        return opened.tree.labels, opened.decision, logits.tolist()

    (one, _), (other, _) = models
    assert {"template_config.json", "verbalizer_config.json", "model_config.json"} < names_in(one)
    assert require_no_mixture(one, other, answer, tmp_path / "mixed") > 20


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "paddle"])
def test_exports_are_not_mixed(models, tmp_path, backend):
    def answer(folder):
        predictor = Predictor(folder / "model", backend=backend, template=True)
        predictor.tokenizer = load_template(folder, predictor.tokenizer, predictor.config)
        return [(one.labels, one.probabilities) for one in predictor.predict(TEXTS, floor=0)]

    (_, one), (_, other) = models
    assert {"template_config.json", "verbalizer_config.json", "export.json"} < names_in(one)
    assert require_no_mixture(one, other, answer, tmp_path / "mixed") > 20
