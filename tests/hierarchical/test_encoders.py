"""encoders.py: every family's parts are where its row says, and configurations that are read or refused."""

import subprocess
import sys

import numpy as np
import pytest

from hierarchical.encoders import (
    FAMILIES,
    GRAPH_INPUTS,
    MODEL_NAMES,
    family_of,
    graph_feed,
    read_config,
)
from hierarchical.errors import InputError
from hierarchical.modeling import model_inputs
from tests.conftest import ROOT
from tests.hierarchical.test_modeling import tiny_model

LAYERS, HEADS, HEAD, HIDDEN, VOCAB, LABELS = 2, 4, 8, 32, 50, 3
INNER = {"ernie_m": 4 * HIDDEN}  # the library's ERNIE-M does not ask how many
IDS = [[1, 7, 8, 9, 2], [1, 10, 11, 2]]

# ---- the parts of a network ------------------------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


@pytest.fixture
def model(paddle, kind):
    sizes = dict(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=HIDDEN, vocab_size=VOCAB)
    return tiny_model(paddle, LABELS, FAMILIES[kind].class_prefix, kind=kind, intermediate_size=24, **sizes)


def shape(linear):
    return linear.weight.shape


def test_the_parts_of_every_layer(kind, model):
    family = family_of(model)
    assert family is FAMILIES[kind]
    layers, inner = family.layers(model), INNER.get(kind, 24)
    assert len(layers) == LAYERS
    linears = set()
    for layer in layers:
        block = family.block(layer)
        assert (block.attention.num_heads, block.attention.head_dim) == (HEADS, HEAD)
        assert [shape(linear) for linear in block.projections] == [[HIDDEN, HEADS * HEAD]] * 3
        assert shape(block.attention_output) == [HEADS * HEAD, HIDDEN]
        assert shape(block.widen) == [HIDDEN, inner] and shape(block.narrow) == [inner, HIDDEN]
        linears |= {*map(id, (*block.projections, block.attention_output, block.widen, block.narrow))}
    assert len(linears) == 6 * LAYERS  # none stands for another


def test_the_parts_around_the_layers(paddle, model):
    family, inputs = family_of(model), model_inputs(IDS, 0)
    assert family.word_embeddings(model).weight.shape == [VOCAB, HIDDEN]
    assert shape(family.classifier(model)) == [HIDDEN, LABELS]
    with paddle.no_grad():
        tokens, pooled, logits = family.tokens(model, **inputs), family.pooled(model, **inputs), model(**inputs).numpy()
        embeds = family.word_embeddings(model)(inputs["input_ids"])
        embedded = family.tokens(model, inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    assert tokens.shape == [2, 5, HIDDEN] and pooled.shape == [2, HIDDEN]
    np.testing.assert_allclose(embedded.numpy(), tokens.numpy(), atol=1e-6)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    pooler = f"{model.base_model_prefix}.pooler.dense"
    first = np.tanh(tokens.numpy()[:, 0] @ state[f"{pooler}.weight"] + state[f"{pooler}.bias"])
    np.testing.assert_allclose(pooled.numpy(), first, atol=1e-6)
    by_hand = pooled.numpy() @ state["classifier.weight"] + state["classifier.bias"]
    np.testing.assert_allclose(logits, by_hand, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 0.01  # the texts do differ


@pytest.mark.parametrize("heads, head_dim, inner", [(3, 5, 7), (1, 8, 40), (4, 8, 24)])
def test_replaced_linears_have_the_shapes_asked_for(paddle, model, heads, head_dim, inner):
    family = family_of(model)
    first, second = family.layers(model)
    before = [shape(linear) for linear in family.block(second)[1]]
    family.replace_linears(first, heads, head_dim, inner, HIDDEN)
    block = family.block(first)
    assert (block.attention.num_heads, block.attention.head_dim) == (heads, head_dim)
    assert [shape(linear) for linear in block.projections] == [[HIDDEN, heads * head_dim]] * 3
    assert shape(block.attention_output) == [heads * head_dim, HIDDEN]
    assert shape(block.widen) == [HIDDEN, inner] and shape(block.narrow) == [inner, HIDDEN]
    assert [shape(linear) for linear in family.block(second)[1]] == before
    names = {name for name, _ in model.named_parameters()}
    assert sum("layers.0." in name for name in names) == sum("layers.1." in name for name in names)
    assert model(**model_inputs(IDS, 0)).shape == [2, LABELS]  # and it computes


def test_what_a_masked_language_model_holds_twice(paddle, kind):
    import paddlenlp.transformers as library

    family = FAMILIES[kind]
    if family.tied_weights is None:
        assert not hasattr(library, f"{family.class_prefix}ForMaskedLM")
        return
    config = family.class_for("Config")(
        num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=24, vocab_size=VOCAB
    )
    state = family.class_for("ForMaskedLM")(config).state_dict()
    for copy, held in family.tied_weights.items():
        np.testing.assert_array_equal(state[copy].numpy(), state[held].numpy())


def test_the_feed_of_an_exported_graph(kind):
    ids = np.array([[1, 7, 2], [1, 2, 0]])
    feed = graph_feed(ids)
    assert feed.keys() == GRAPH_INPUTS and set(FAMILIES[kind].inputs) <= GRAPH_INPUTS
    assert feed["input_ids"] is ids
    assert feed["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]] and feed["token_type_ids"].dtype == np.int64


# ---- what a directory holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a model configuration"),
        ("[]", "not a model configuration"),
        ("[" * 100_000, "not a model configuration"),
        ('{"model_type": "llama"}', "'llama'"),
        ("{}", "None"),
    ],
)
def test_foreign_configurations(tmp_path, content, says):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=f"config.json: .*{says}"):
        read_config(tmp_path)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(InputError) as error:
        read_config(tmp_path)
    assert str(error.value).endswith(f"config.json: model_type is 'albert'; supported are {', '.join(FAMILIES)}.")


def test_every_name_is_one_of_the_librarys(paddle):
    for family in FAMILIES.values():
        if family.names:
            weights = family.published_class("Model").pretrained_resource_files_map["model_state"]
            assert set(family.names) <= weights.keys()
            assert set(family.names) <= family.published_class("Config").pretrained_init_configuration.keys()
    assert len(MODEL_NAMES) == len(set(MODEL_NAMES)) > 40


def test_a_configuration_is_read_without_paddle():
    code = (
        "import sys; sys.modules['paddle'] = sys.modules['paddlenlp'] = None\n"
        "from hierarchical.encoders import read_config\n"
        "print(read_config('data/tiny-ernie')['hidden_size'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "128\n", done.stderr
