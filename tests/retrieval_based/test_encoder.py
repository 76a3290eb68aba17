"""retrieval_based/encoder.py: what is encoded, and the vectors of a trained encoder."""

import json

import numpy as np
import pytest

from hierarchical.bi_encoder import Encoder, build_encoder, own_digest, project
from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.decisions import Decision
from hierarchical.encoders import encoder_config
from hierarchical.modeling import library_config, model_inputs
from retrieval_based import export_model
from retrieval_based.encoder import center, labels_to_index, most_specific, texts_of_labels
from tests.conftest import without_identity
from tests.hierarchical.swaps import require_no_mixture
from tests.retrieval_based.conftest import with_other_id
from utils import InputError, LabelTree

TREE = LabelTree(["组织", "组织##罢工", "组织##裁员", "财经"])


def test_what_is_encoded_and_indexed():
    assert texts_of_labels(TREE, [1, 3]) == ["组织,罢工", "财经"]
    assert most_specific(TREE, (0, 1, 3)) == (1, 3) and most_specific(TREE, (0,)) == (0,)
    assert labels_to_index(TREE, False) == [1, 2, 3] and labels_to_index(TREE, True) == [0, 1, 2, 3]


def test_vectors_have_length_1_and_do_not_depend_on_batch_mates(trained):
    encoder = Encoder(trained[1] / "model_best", batch_size=2)
    encoder.load("cpu")
    together, alone = encoder.encode(["国足", "沪指午后跳水", "联赛"]), encoder.encode(["国足"])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together[0], alone[0], atol=1e-6)


def test_centring_makes_the_mean_zero(trained):
    encoder = Encoder(trained[1] / "model_best")
    encoder.load("cpu")
    model, ids = encoder.model, encoder.tokenizer.encode(["前锋梅开二度", "三分", "沪指午后跳水第九期", "国足", "央行"])

    def mean():
        model.eval()
        alone = [project(model, **model_inputs([row], encoder.tokenizer.pad_id)).numpy() for row in ids]
        return np.concatenate(alone).mean(0)

    model.classifier.bias.set_value(model.classifier.bias + 1)
    assert np.abs(mean()).max() > 0.1
    center(model, ids, encoder.tokenizer.pad_id, 2)
    assert model.training
    np.testing.assert_allclose(mean(), 0, atol=1e-5)


def test_a_directory_that_does_not_say_how_long_vectors_are(trained, tmp_path):
    copy = without_identity(with_other_id(trained[1] / "model_best", tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text()) | {"output_emb_size": 0}
    (copy / "config.json").write_text(json.dumps(config))
    assert Encoder(copy).dimension == config.pop("hidden_size") == 128
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="config.json: output_emb_size and hidden_size do not say"):
        Encoder(copy)


@pytest.fixture(scope="module")
def encoders(paddle, tiny_checkpoint, tmp_path_factory):
    """(checkpoint, its export) of two encoders with other labels and thresholds."""
    found, opened = [], Checkpoint.open(tiny_checkpoint)
    for i, labels in enumerate([TREE.labels, [*TREE.labels[3:], *TREE.labels[:3]]]):
        folder = tmp_path_factory.mktemp("encoders") / str(i)
        config = library_config(encoder_config(tiny_checkpoint))
        config.output_emb_size, config.inner_labels = 8, False
        paddle.seed(i)
        model = build_encoder(config)
        model.config.encoder_id = own_digest(model)
        save_checkpoint(folder, model, opened.tokenizer, LabelTree(labels), Decision(0.4 + i / 10, "closure"))
        export_model.main(["--params_path", str(folder), "--output_path", str(folder / "export")])
        found.append((folder, folder / "export"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("exported", [False, True])
def test_no_files_of_two_encoders(encoders, tmp_path, exported):
    def answer(folder):
        encoder = Encoder(folder)
        encoder.load("cpu")
        return encoder.tree.labels, encoder.decision, encoder.id, encoder.encode(["国足", "沪指"]).tolist()

    one, other = (pair[exported] for pair in encoders)
    assert require_no_mixture(one, other, answer, tmp_path / "mixed") > 20
