"""few_shot.py: its numbers worked out another way."""

import shutil

import numpy as np
import pytest

from hierarchical.calibration import sigmoid
from hierarchical.encoders import read_config
from hierarchical.modeling import library_config, model_inputs, predict_logits
from hierarchical.template import TEXT_ONLY, TemplateTokenizer
from hierarchical.tokenizer import load_tokenizer
from tests.few_shot.conftest import FOLDER
from utils import InputError, LabelTree

TREE = LabelTree(["体育", "体育##足球", "体育##篮球", "财经"], words=["体育", "足球", "", ""])
TEXTS = ["国足今晚出战", "两市小幅收涨，大盘午后跳水", "门将扑出点球"]


def make(encoder, prompt=TEXT_ONLY, method="similarity", length=32, tree=TREE):
    """(network in eval mode, tokenizer)"""
    from hierarchical.few_shot import new_network

    plain, size = load_tokenizer(encoder, length), read_config(encoder)["vocab_size"]
    tokenizer = TemplateTokenizer(plain, prompt, method, size)
    network = new_network(encoder, tree, tokenizer, TEXTS)
    network.eval()
    return network, tokenizer


def vectors(network, tokenizer, texts=TEXTS):
    import paddle

    with paddle.no_grad():
        return np.stack(
            [network.vectors(**model_inputs([ids], tokenizer.pad_id)).numpy()[0] for ids in tokenizer.encode(texts)]
        )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_probabilities_are_a_soft_max_summed_over_subtrees(tiny_checkpoint, paddle):
    network, tokenizer = make(tiny_checkpoint)
    network.label_bias.set_value(np.array([0.5, -1, 2, 0], np.float32))
    network.none_bias.set_value(np.array([3.0], np.float32))
    text, label = vectors(network, tokenizer).astype(float), network.label_vectors.numpy().astype(float)
    scores = 16 * unit(text - network.center.numpy()) @ unit(label).T + [0.5, -1, 2, 0]
    weights = np.exp(np.column_stack([scores, np.full(3, 3.0)]))
    deepest = weights / weights.sum(1, keepdims=True)
    expected = np.column_stack([deepest[:, :3].sum(1), deepest[:, 1], deepest[:, 2], deepest[:, 3]])
    # in one batch, so that padding is shown to play no part
    found = sigmoid(predict_logits(network, tokenizer.encode(TEXTS), tokenizer.pad_id, 8))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_label_of_several_parents_counts_for_each_once(tiny_checkpoint, paddle):
    """篮球 is below 财经, too, and 足球 below 篮球: 体育 is above it by two ways."""
    plain, _ = make(tiny_checkpoint)
    network, tokenizer = make(tiny_checkpoint, tree=LabelTree(TREE.labels, further=[(1, 2), (2, 3)]))
    ids = tokenizer.encode(TEXTS)
    alone, found = (sigmoid(predict_logits(one, ids, tokenizer.pad_id, 8)) for one in (plain, network))
    own = np.column_stack([alone[:, 0] - alone[:, 1] - alone[:, 2], alone[:, 1:]])  # as the deepest label
    expected = [own[:, :3].sum(1), own[:, 1], own[:, 1] + own[:, 2], own[:, 1:].sum(1)]
    np.testing.assert_allclose(found, np.column_stack(expected), atol=1e-4)


def test_labels_start_as_their_words_and_texts_are_centred(tiny_checkpoint, paddle):
    network, tokenizer = make(tiny_checkpoint)
    words = vectors(network, tokenizer, ["体育", "足球", "篮球", "财经"])
    np.testing.assert_allclose(network.label_vectors.numpy(), words - words.mean(0), atol=1e-5)
    np.testing.assert_allclose(network.center.numpy(), vectors(network, tokenizer).mean(0), atol=1e-5)


def test_labels_of_a_prompt_start_as_the_embeddings_of_their_words(tiny_checkpoint, paddle):
    network, tokenizer = make(tiny_checkpoint, "这是", "prompt")
    table = network.ernie.embeddings.word_embeddings.weight.numpy()
    words = np.stack([table[tokenizer.word_ids(word)].mean(0) for word in ("体育", "足球", "篮球", "财经")])
    np.testing.assert_allclose(network.label_vectors.numpy(), words - words.mean(0), atol=1e-6)


def test_a_prompt_reads_the_mask(tiny_checkpoint, paddle):
    network, tokenizer = make(tiny_checkpoint, "这是{'mask'}吧", "prompt")
    ids = tokenizer.encode(TEXTS[:1])
    inputs = model_inputs(ids, tokenizer.pad_id)
    outputs = network.ernie(**inputs)[0].numpy()[0]
    np.testing.assert_allclose(
        vectors(network, tokenizer, TEXTS[:1])[0], outputs[ids[0].index(tokenizer.mask_id)], atol=1e-5
    )


def test_soft_words_start_as_the_hard_ones(tiny_checkpoint, paddle):
    hard = make(tiny_checkpoint, "{'hard': '这是体育'}{'text': 'text_a'}{'mask'}", "prompt")
    soft = make(tiny_checkpoint, "{'soft': '这是体育'}{'text': 'text_a'}{'mask'}", "prompt")
    assert soft[0].soft.shape[0] == len(soft[1].soft_words) > 0 and hard[0].soft is None
    np.testing.assert_allclose(vectors(*soft), vectors(*hard), atol=1e-5)


def test_the_masked_language_model_is_carried_over(tiny_checkpoint, paddle, tmp_path):
    """With its transform, the vector at the mask times a word's embedding is the library's score of that word."""
    import shutil

    from paddlenlp.transformers import ErnieForMaskedLM
    from safetensors.numpy import save_file

    shutil.copytree(tiny_checkpoint, tmp_path / "mlm")
    paddle.seed(1)
    library = ErnieForMaskedLM(library_config(read_config(tiny_checkpoint)))
    library.eval()
    state = {name: value.numpy() for name, value in library.state_dict().items()}
    assert "cls.predictions.transform.weight" in state
    save_file(state, tmp_path / "mlm" / "model.safetensors")
    network, tokenizer = make(tmp_path / "mlm", "这是", "prompt")
    assert network.config.mlm_transform
    ids = tokenizer.encode(TEXTS[:1])
    expected = library(**model_inputs(ids, tokenizer.pad_id)).numpy()[0, ids[0].index(tokenizer.mask_id)]
    table = network.ernie.embeddings.word_embeddings.weight.numpy()
    np.testing.assert_allclose(vectors(network, tokenizer, TEXTS[:1])[0] @ table.T, expected, atol=1e-4)


def test_an_encoder_without_weights_is_refused(paddle, tmp_path):
    encoder = shutil.copytree(FOLDER.parent / "data" / "tiny-ernie", tmp_path / "encoder")
    with pytest.raises(InputError, match="no weights in it"):
        make(encoder)
    (encoder / "weights.pt").touch()
    with pytest.raises(InputError, match=r"weights in a form that is not read here \(weights.pt\)"):
        make(encoder)
