"""From the folder of an encoder to served answers, with every family: bert, ernie, roberta, xlm-roberta.

The encoders are those of tests/data/encoders, each in another of the forms that such folders have. They are too small to
learn anything; what is tested is that every stage takes them, and that all say the same of a text.
"""

import json
import shutil

import httpx
import numpy as np
import pytest

import export_model
import predict
import prune
import train
from analysis import aug, evaluate, sent_interpret, word_interpret
from deploy.predictor import infer
from hierarchical.bi_encoder import Encoder
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.encoders import FAMILIES
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from retrieval_based import train as retrieval
from tests.conftest import SAMPLE
from tests.deploy.simple_serving.conftest import Running
from tests.few_shot.conftest import load_script
from tests.trainings import call

ENCODERS = SAMPLE.parent / "tests" / "data" / "encoders"
KINDS = ("bert", "ernie", "roberta", "xlm-roberta")
TEXTS = ["国足今晚出战", "The central bank raised its rates, didn't it?", "😀 ½ Café", "北京今天下雨" * 20]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def data(sample_rows, tmp_path_factory):
    folder = shutil.copytree(sample_rows, tmp_path_factory.mktemp("families") / "data")
    (folder / "data.txt").write_text("".join(f"{text}\n" for text in TEXTS), "utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(paddle, kind, data, tmp_path_factory):
    """A checkpoint of two epochs, whose labels are spread out: see tiny_checkpoint."""
    save = tmp_path_factory.mktemp(kind) / "checkpoint"
    flags = ("--max_seq_length", 48, "--epochs", 2, "--head_learning_rate", 0.1, "--device", "cpu")
    call(train, "--dataset_dir", data, "--model_name", ENCODERS / kind, "--save_dir", save, *flags)
    return save


@pytest.fixture(scope="module")
def exported(trained):
    folder = trained.with_name("export")
    flags = ("--precision", "float32", "float16", "int8")
    call(export_model, "--params_path", trained, "--output_path", folder, *flags)
    return folder


def probabilities(checkpoint):
    """float32 [texts, labels] of TEXTS by the network itself."""
    opened = Checkpoint.open(checkpoint)
    return sigmoid(predict_logits(opened.load_model(), opened.tokenizer.encode(TEXTS), opened.tokenizer.pad_id, 1))


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- the main route --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_has_our_form(trained, kind):
    checkpoint = Checkpoint.open(trained)
    config = json.loads((trained / "config.json").read_text("utf-8"))
    assert config["model_type"] == kind and checkpoint.family is FAMILIES[kind]
    assert config["architectures"] == ["ErnieForSequenceClassification"]
    assert config["max_position_embeddings"] == 64 and config["first_position"] == 0
    assert config["pad_token_id"] == checkpoint.tokenizer.pad_id
    names = {path.name for path in trained.iterdir()}
    tokenizer = "vocab.txt" if kind in ("bert", "ernie") else "tokenizer.json"
    assert {"model.safetensors", "label.txt", "tokenizer_config.json", tokenizer} <= names
    assert not names & {"pytorch_model.bin", "vocab.json", "merges.txt", "sentencepiece.bpe.model"}
    model = checkpoint.load_model()
    epsilon = json.loads((ENCODERS / kind / "config.json").read_text())["layer_norm_eps"]
    assert {layer._epsilon for layer in model.sublayers() if hasattr(layer, "_epsilon")} == {epsilon}


@pytest.mark.slow
def test_all_exports_say_the_same(trained, exported):
    wanted = probabilities(trained)
    assert wanted.std(0).max() > 0.01, "the texts differ"
    for precision, tolerance in (("float32", 1e-5), ("float16", 1e-2), ("int8", 0.1)):
        predictor = Predictor(exported, precision)
        ids = predictor.tokenizer.encode(TEXTS)
        found = np.concatenate([sigmoid(predictor.compute(np.array([row]))) for row in ids])
        np.testing.assert_allclose(found, wanted, atol=tolerance, err_msg=precision)


@pytest.mark.slow
def test_predict_infer_and_the_server_give_the_same_labels(trained, exported, data, tmp_path):
    paths = {"predict": tmp_path / "predict.jsonl", "infer": tmp_path / "infer.jsonl"}
    common = ("--dataset_dir", data, "--device", "cpu", "--threshold", 0.3)
    call(predict, *common, "--params_path", trained, "--output_file", paths["predict"])
    call(infer, *common, "--model_path_prefix", exported / "float32", "--output_file", paths["infer"])
    said = [[row["labels"] for row in lines(path)] for path in paths.values()]
    assert said[0] == said[1] and len(said[0]) == len(TEXTS) and any(said[0])
    server = Running(tmp_path, "--model_path", exported, "--precision", "float32")
    try:
        answer = httpx.post(f"{server.url}/v1/classify", json={"texts": TEXTS, "threshold": 0.3}, timeout=60)
    finally:
        server.stop()
    assert [row["labels"] for row in answer.raise_for_status().json()["results"]] == said[0]


@pytest.mark.slow
def test_it_is_evaluated_and_explained(trained, data, tmp_path):
    scores = tmp_path / "scores.json"
    call(evaluate, "--dataset_dir", data, "--params_path", trained, "--device", "cpu", "--output_json", scores,
         "--bad_case_file", tmp_path / "bad.txt")  # fmt: skip
    assert 0 <= json.loads(scores.read_text("utf-8"))["dev"]["micro_f1"] <= 1
    for interpreter in ("ig", "lime"):
        result = tmp_path / f"{interpreter}.jsonl"
        call(word_interpret, "--dataset_dir", data, "--interpret_input_file", "data.txt", "--params_path", trained,
             "--interpreter", interpreter, "--samples", 8, "--device", "cpu", "--interpret_result_file", result,
             "--html_file", tmp_path / "words.html")  # fmt: skip
        rows = lines(result)
        words = rows[1]["explanations"][0]["words"]
        assert "".join(word["word"] for word in words[:3]).startswith("The")
        assert any(word["score"] for word in words), "the words have scores"
    call(sent_interpret, "--dataset_dir", data, "--interpret_input_file", "data.txt", "--params_path", trained, "--device", "cpu",
         "--interpret_result_file", tmp_path / "rows.txt")  # fmt: skip
    assert (tmp_path / "rows.txt").read_text("utf-8").count(TEXTS[1]) >= 1


@pytest.mark.slow
def test_it_is_pruned(trained, data, tmp_path):
    call(prune, "--dataset_dir", data, "--params_dir", trained, "--output_dir", tmp_path / "prune", "--device", "cpu",
         "--width_mult_list", "0.5", "--num_train_epochs", 1)  # fmt: skip
    folder = tmp_path / "prune" / "width_mult_0.5"
    network = probabilities(folder)
    predictor = Predictor(folder / "pruned_model")
    found = [sigmoid(predictor.compute(np.array([row])))[0] for row in predictor.tokenizer.encode(TEXTS)]
    np.testing.assert_allclose(found, network, atol=1e-5)
    # and a pruned checkpoint is an encoder to start from
    flags = ("--max_seq_length", 48, "--epochs", 1, "--device", "cpu", "--save_dir", tmp_path / "again")
    call(train, "--dataset_dir", data, "--model_name", folder, *flags)


# ---- the other routes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_few_shot(paddle, kind, data_dir, tmp_path):
    folder, out = data_dir(), tmp_path / "out"
    prompt = None if kind == "bert" else "{'soft':'这是'}{'text':'text_a'}{'mask'}"
    flags = ["--data_dir", folder, "--model_name_or_path", ENCODERS / kind, "--output_dir", out, "--max_seq_length", 32]
    flags += ["--num_train_epochs", 1, "--device", "cpu", *(["--prompt", prompt] if prompt else [])]
    load_script("train").main([str(flag) for flag in (*flags, "--do_train", "--do_predict", "--do_export")])
    config = json.loads((out / "config.json").read_text("utf-8"))
    has_head = kind in ("ernie", "xlm-roberta")  # in these folders
    assert config["model_type"] == kind and config["mlm_transform"] is (has_head and bool(prompt))
    flags = ["--model_path_prefix", out / "export" / "model", "--data_dir", folder, "--device", "cpu"]
    labelled = tmp_path / "labelled.jsonl"
    load_script("infer").main([str(flag) for flag in (*flags, "--output_file", labelled)])
    assert len(lines(labelled)) == 2


@pytest.mark.slow
def test_retrieval(paddle, kind, data_dir, tmp_path):
    folder, save = data_dir(), tmp_path / "save"
    call(retrieval, "--train_set_file", folder / "train.txt", "--similar_text_pair_file", folder / "dev.txt",
         "--corpus_file", folder / "label.txt", "--model_name", ENCODERS / kind, "--max_seq_length", 32,
         "--output_emb_size", 4, "--epochs", 1, "--device", "cpu", "--save_dir", save)  # fmt: skip
    encoder = Encoder(save / "model_best")
    encoder.load("cpu")
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 4) and np.isfinite(vectors).all()


@pytest.mark.slow
def test_gaps_are_filled_by_what_has_a_vocabulary_of_words(paddle, kind, data_dir, tmp_path, capsys):
    """analysis/aug.py with a masked language model: those with WordPiece that have the head."""
    output = tmp_path / "aug.txt"
    flags = ("--train_path", data_dir() / "train.txt", "--aug_path", output, "--aug_type", "mlm", "--device", "cpu")
    if kind == "ernie":
        call(aug, *flags, "--mlm_model", ENCODERS / kind)
        assert output.exists()
        return
    with pytest.raises(SystemExit) as end:
        call(aug, *flags, "--mlm_model", ENCODERS / kind)
    error = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in error
    assert ("no [MASK] in tokenizer.json; needed is a vocab.txt" if kind != "bert" else "not a whole masked") in error
