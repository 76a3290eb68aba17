"""linear.py: decision values by hand and by scikit-learn, parts of words, the file, and models without an encoder."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hierarchical.checkpoints import Checkpoint, save_linear_model
from hierarchical.decisions import Decision
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.linear import LINEAR, Characters, LinearBranch, LinearModel, read_linear, with_linear, write_linear
from hierarchical.n_grams import NGrams, codes_of, hashed
from hierarchical.predictor import Predictor
from tests.conftest import ROOT, SAMPLE
from tests.hierarchical.swaps import require_no_mixture
from utils import load_rows

TREE = LabelTree.read(SAMPLE / "label.txt")
TEXTS = load_rows(SAMPLE / "dev.txt", TREE).texts[:80] + ["", "a", "  公司  公司\n公司 ", "\0", "😀", "上市" * 500]


@pytest.fixture
def linear_model(branch, tmp_path):
    save_linear_model(tmp_path / "model", branch, TREE, Decision(0.4))
    return tmp_path / "model"


def by_hand():
    """Two labels; of the n-grams 甲 (weights 2 and -3 scales), 乙 (1 and 0) and 甲乙 (0 and 4)."""
    bits = [int(hashed([codes_of(text)])[0][-1]) for text in ("甲", "乙", "甲乙")]
    order = np.argsort(np.array(bits, np.uint64))
    weights = {0: [(0, 2), (1, -3)], 1: [(0, 1)], 2: [(1, 4)]}
    rows = [weights[i] for i in order]
    return LinearBranch(
        NGrams(np.sort(np.array(bits, np.uint64)), np.array([1.0, 2.0, 2.0], np.float32)[order]),
        np.append(0, np.cumsum([len(row) for row in rows])),
        np.array([label for row in rows for label, _ in row], np.uint32),
        np.array([value for row in rows for _, value in row], np.int8),
        np.array([0.5, 0.25], np.float32),
        np.array([-1.0, 0.125], np.float32),
    )


def test_decision_values_by_hand():
    found = by_hand().decision_values(["甲乙", "甲甲", "丙", ""])
    # 甲乙: values 1, 2, 2 by the length 3; 甲甲: (1 + log 2) of 甲 alone, so 1
    expected = [
        [(1 * 2 * 0.5 + 2 * 1 * 0.5) / 3 - 1, (1 * -3 * 0.25 + 2 * 4 * 0.25) / 3 + 0.125],
        [2 * 0.5 - 1, -3 * 0.25 + 0.125],
        [-1, 0.125],
        [-1, 0.125],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    logits = by_hand().scaled(10.0, -2.0).logits(["甲甲"])
    assert logits.dtype == np.float32 and logits == pytest.approx(np.array([[-2, -8.25]]))


def test_a_row_depends_on_its_text_alone(branch, monkeypatch):
    together = branch.logits(TEXTS)
    assert together.shape == (len(TEXTS), 31) and branch.logits([]).shape == (0, 31)
    assert np.array_equal(together, np.concatenate([branch.logits([text]) for text in TEXTS]))
    assert np.array_equal(together, branch.logits(TEXTS[::-1])[::-1])
    monkeypatch.setattr("hierarchical.linear.TEXTS", 7)
    assert np.array_equal(together, branch.logits(TEXTS))


def test_parts_add_up_to_the_logits(branch):
    for text in TEXTS:
        parts, without = branch.parts(text, [0, 5, 30])
        assert parts.shape == (3, len(text))
        np.testing.assert_allclose(parts.sum(1) + without, branch.logits([text])[0, [0, 5, 30]], atol=1e-5)
    assert without == pytest.approx(branch.logits([""])[0, [0, 5, 30]])


def test_parts_by_hand():
    parts, without = by_hand().scaled(3.0, 1.0).parts("丙甲 甲乙", [0, 1])
    # 甲 twice: 1 + log 2; 乙 and 甲乙: 2 each; their length
    a, norm = 1 + np.log(2), np.sqrt((1 + np.log(2)) ** 2 + 8)
    first = [0, a * 2 * 0.5 / 2, 0, a * 2 * 0.5 / 2, 2 * 1 * 0.5]
    second = [0, a * -3 * 0.25 / 2, 0, a * -3 * 0.25 / 2 + 2 * 4 * 0.25 / 2, 2 * 4 * 0.25 / 2]
    np.testing.assert_allclose(parts, 3 * np.array([first, second]) / norm, atol=1e-9)
    assert without == pytest.approx([3 * -1 + 1, 3 * 0.125 + 1])


def test_with_linear():
    logits = np.ones((1, 2), np.float32)
    assert with_linear(logits, None, ["甲"]) is logits
    assert with_linear(logits, by_hand(), ["丙"]) == pytest.approx(np.array([[0, 1.125]]))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_the_file_keeps_everything(branch, tmp_path):
    write_linear(tmp_path, branch, TREE)
    content = (tmp_path / LINEAR).read_bytes()
    again = read_linear(tmp_path, TREE)
    assert (again.weight, again.shift) == (3.0, 0.5)
    assert np.array_equal(again.logits(TEXTS), branch.logits(TEXTS))
    write_linear(tmp_path, again, TREE)
    assert (tmp_path / LINEAR).read_bytes() == content
    assert read_linear(tmp_path / "nowhere", TREE) is None


def test_it_is_a_safetensors_file(branch, tmp_path):
    from safetensors import safe_open

    write_linear(tmp_path, branch, TREE)
    with safe_open(tmp_path / LINEAR, "np") as file:
        assert file.metadata()["weight"] == "3.0"
        assert np.array_equal(file.get_tensor("weights"), branch.weights)
        assert np.array_equal(file.get_tensor("bits"), branch.n_grams.bits)


def test_other_labels_are_refused(branch, tmp_path):
    write_linear(tmp_path, branch, TREE)
    for labels in (TREE.labels[::-1], TREE.labels[:-1], [*TREE.labels, "新"]):
        with pytest.raises(InputError, match="label.txt: is not the file that goes with linear.safetensors beside it"):
            read_linear(tmp_path, LabelTree(labels))


@pytest.mark.slow
def test_damaged_files_are_refused_and_lead_nowhere(tmp_path):
    """Every byte of a small file changed: it is refused, or means something that can be computed."""
    write_linear(tmp_path, by_hand(), LabelTree(["甲", "乙"]))
    path, content = tmp_path / LINEAR, (tmp_path / LINEAR).read_bytes()
    refused = 0
    for place in range(0, len(content)):
        for new in (255, content[place] ^ 1):
            path.write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
            try:
                found = read_linear(tmp_path, LabelTree(["甲", "乙"])).logits(["甲乙", ""])
            except InputError as error:
                assert str(tmp_path) in str(error)
                refused += 1
            else:
                assert found.shape == (2, 2)
    assert refused > len(content)
    for cut in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match="damaged .* Copy the whole folder again"):
            read_linear(tmp_path, LabelTree(["甲", "乙"]))


def test_a_newer_format_is_told(branch, tmp_path):
    write_linear(tmp_path, branch, TREE)
    content = (tmp_path / LINEAR).read_bytes()
    (tmp_path / LINEAR).write_bytes(content.replace(b'"format":"1"', b'"format":"2"'))
    with pytest.raises(InputError, match="of format 2, which a newer version writes"):
        read_linear(tmp_path, TREE)


# ---- a model without an encoder --------------------------------------------------------------------------------------


def test_a_linear_model_predicts(linear_model, branch):
    texts = [text for text in TEXTS if text.strip()]
    for settings in ({}, {"kind": "export"}, {"kind": "checkpoint"}, {"precision": "auto", "batch_size": 3}):
        predictor = Predictor(linear_model, **settings)
        assert np.array_equal(predictor.text_logits(texts), branch.logits(texts)), settings
    assert predictor.decision == Decision(0.4) and predictor.file == linear_model / LINEAR
    assert predictor.linear is None  # it is the model itself, and not added to it
    assert [one.labels for one in predictor.predict(["", "\0"])] == [[], predictor.predict([" \0"])[0].labels]


@pytest.mark.slow
def test_numpy_is_enough(linear_model):
    code = """
import sys
refused = "paddle onnxruntime scipy sklearn safetensors tqdm filelock sentencepiece".split()
sys.modules.update(dict.fromkeys(refused))
from hierarchical import Predictor
print(Predictor(sys.argv[1]).predict(["某公司宣布上市"])[0].to_json())
"""
    done = subprocess.run([sys.executable, "-c", code, linear_model], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == Predictor(linear_model).predict(["某公司宣布上市"])[0].to_json() + "\n", done.stderr


@pytest.mark.slow
def test_scripts_and_server_take_it(linear_model, branch, tmp_path):
    import predict
    from analysis import evaluate
    from deploy.predictor import infer
    from deploy.simple_serving.model import load_exported, pieces_of

    texts = [text for text in TEXTS if text.strip("\0 ")]
    (tmp_path / "data.txt").write_text(
        "".join(f"{text.strip()[:200]}\n" for text in texts).replace("\n公", "公"), "utf-8"
    )
    read = (tmp_path / "data.txt").read_text("utf-8").splitlines()
    wanted = [[TREE.labels[i] for i in np.flatnonzero(row > np.log(0.4 / 0.6))] for row in branch.logits(read)]
    for script, flag in ((predict, "--params_path"), (infer, "--model_path_prefix")):
        out = tmp_path / f"{script.__name__}.jsonl"
        flags = [flag, linear_model, "--dataset_dir", tmp_path, "--device", "cpu", "--output_file", out, "--quiet"]
        script.main(list(map(str, flags)))
        assert [json.loads(line)["labels"] for line in out.read_text("utf-8").splitlines()] == wanted
    flags = ["--params_path", linear_model, "--dataset_dir", SAMPLE, "--train_file", "", "--device", "cpu"]
    flags += ["--bad_case_file", tmp_path / "bad.txt", "--output_json", tmp_path / "scores.json"]
    evaluate.main(list(map(str, flags)))
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["dev"]["micro_f1"] > 0.8
    model = load_exported(linear_model, "auto")
    assert np.array_equal(model.probabilities(read[:5], [1000] * 5), Predictor(linear_model).probabilities(read[:5]))
    assert pieces_of(model, "公司上市")[0] == 4 and pieces_of(model, "") == (0, [])


def test_it_reads_as_many_characters_as_it_is_told(linear_model, branch):
    short = Predictor(linear_model, max_seq_length=5).text_logits(["公司 上市公告", "公司"])
    assert np.array_equal(short, branch.logits(["公司 上市", "公司"]))


def test_characters():
    tokenizer = Characters(4)
    assert tokenizer.encode(["A  国", "abcdef"]) == [[97, 32, 0x56FD], [97, 98, 99, 100]]
    assert tokenizer.lengths(["abcdef", ""]) == [6, 0]
    assert tokenizer.spans("A  国足球") == [(0, 1), (1, 2), (3, 4), (4, 5)]


def test_padding_does_not_count(branch):
    engine = LinearModel(branch)
    ids = Characters(100).encode(["公司上市", "公司"])
    padded = np.array([ids[0], [*ids[1], 0, 0]])
    assert np.array_equal(engine(padded), branch.logits(["公司上市", "公司"]))


def test_linear_models_are_not_mixed(linear_model, branch, tmp_path):
    other = tmp_path / "other"
    save_linear_model(other, branch.scaled(2.0, 0.0), LabelTree(TREE.labels[::-1]), Decision(0.3))

    def answer(folder):
        return [(one.labels, one.probabilities) for one in Predictor(folder).predict(TEXTS[:3], floor=0)]

    # labels and weights belong together; decision.json may be edited, and config.json says the same in both
    assert require_no_mixture(linear_model, other, answer, tmp_path / "mixed") == 2 + 2 * 2


def test_it_is_refused_where_an_encoder_is_needed(linear_model):
    for settings in ({}, {"exported": True}, {"kind": "few-shot"}, {"kind": "retrieval"}):
        with pytest.raises(InputError, match="holds a linear model without an encoder, not .* It is for predict.py"):
            Checkpoint.open(linear_model, **settings)
    with pytest.raises(InputError, match="holds a linear model without an encoder"):
        Predictor(linear_model).require_network()
    (linear_model / LINEAR).unlink()
    with pytest.raises(InputError, match="linear.safetensors: no such file"):
        Predictor(linear_model)


@pytest.mark.slow
def test_an_encoder_without_its_weights_is_no_linear_model(hybrid_checkpoint, tmp_path):
    for path in hybrid_checkpoint.iterdir():
        if path.is_file() and "model" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["model_type"] == "ernie"
    with pytest.raises(InputError, match="no model.safetensors in it"):
        Checkpoint.open(tmp_path)
