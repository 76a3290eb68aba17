"""analysis/word_interpret.py: words and tokens, scores that are known by hand, faithfulness, the outputs, bad input.

The hand-made model adds up what each token is worth: its scores are known exactly. The others are real, tiny encoders.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from analysis import word_interpret
from analysis.cases import Case
from analysis.word_interpret import (
    align,
    coloured,
    explain,
    explain_by_gradients,
    explain_by_lime,
    incompleteness,
    labels_to_explain,
    terminal_line,
    word_spans,
)
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.modeling import predict_logits
from hierarchical.template import TemplateTokenizer
from metric import Decision
from utils import LabelTree, load_rows, run

ROOT = Path(__file__).resolve().parents[2]
TREE = LabelTree(["组织", "组织##裁员", "财经"])


# ---- words and tokens ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, words",
    [
        ("lays off  3,000 people", ["lays", "off", "3,000", "people"]),
        ("我来到北京清华大学", ["我", "来到", "北京", "清华大学"]),  # the example of jieba's own page
        ("北京 Hello 大学\u3000😀", ["北京", "Hello", "大学", "😀"]),
        (" \u200b ", ["\u200b"]),
    ],
)
def test_words(text, words):
    assert [text[start:end] for start, end in word_spans(text)] == words


@pytest.mark.parametrize(
    "words, tokens, spans, word_of",
    [
        ([(0, 2), (2, 4)], [(0, 1), (1, 2), (2, 4)], [(0, 2), (2, 4)], [0, 0, 1]),
        ([(0, 2), (2, 3), (3, 5)], [(0, 3), (3, 4)], [(0, 3), (3, 5)], [0, 1]),  # a token over two words joins them
        ([(0, 1), (2, 3), (4, 5)], [(0, 1), (1, 3), (3, 5)], [(0, 1), (2, 3), (4, 5)], [0, 1, 2]),  # with its blank
        ([(0, 1), (1, 2), (2, 3)], [(0, 3)], [(0, 3)], [0]),
        ([(0, 2), (2, 4)], [(0, 0), (2, 2), (4, 4)], [(0, 2), (2, 4)], [0, 1, 1]),  # tokens without a character
        ([(0, 2), (2, 4), (4, 6)], [(0, 1)], [(0, 2), (2, 4), (4, 6)], [0]),  # the rest is cut off
        ([(0, 2)], [], [(0, 2)], []),
    ],
)
def test_align(words, tokens, spans, word_of):
    found_spans, found_word_of = align(words, tokens)
    assert found_spans == spans and found_word_of.tolist() == word_of


# ---- a model that is known by hand -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def additive(paddle):
    """Logit of label l: the sum over tokens of e² x W[l], where token t has the embedding [t] (of one number).

    So token t is worth t² W[l], whatever stands beside it; W is [1, -2, 0].
    """

    class Encoder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.embeddings = paddle.nn.Layer()
            self.embeddings.word_embeddings = paddle.nn.Embedding(10, 1)
            self.embeddings.word_embeddings.weight.set_value(np.arange(10, dtype=np.float32)[:, None])

    class Additive(paddle.nn.Layer):
        base_model_prefix, config = "encoder", SimpleNamespace(model_type="ernie", num_labels=3)

        def __init__(self):
            super().__init__()
            self.encoder = Encoder()

        def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None):
            if inputs_embeds is None:
                inputs_embeds = self.encoder.embeddings.word_embeddings(input_ids)
            worth = inputs_embeds.squeeze(-1) ** 2 * attention_mask.astype("float32")
            return worth.sum(1, keepdim=True) * paddle.to_tensor([[1.0, -2.0, 0.0]])

    return Additive()


OWN = slice(1, 4)
IDS = [7, 1, 3, 2, 9]  # [CLS] 1 3 2 [SEP]; the words are worth 1, 9, 4, and the special tokens 49 + 81 everywhere


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_integrated_gradients_by_hand(additive, batch_size):
    scores, baseline = explain_by_gradients(additive, IDS, OWN, 0, [0, 1, 2], 10, batch_size)
    # The gradient is 2 e W: linear along the way, so that the midpoint rule has no error.
    np.testing.assert_allclose(scores, [[0, 1, 9, 4, 0], [0, -2, -18, -8, 0], [0, 0, 0, 0, 0]], atol=1e-4)
    assert baseline.tolist() == [130, -260, 0]


def test_gradient_shap_by_hand(additive):
    """On average over the noise, which adds its variance to every e² (0.1 standard deviations of IDS, squared)."""
    scores, _ = explain_by_gradients(additive, IDS, OWN, 0, [0, 1], 20000, 5000, np.random.default_rng(0))
    np.testing.assert_allclose(scores[0], [0, 1, 9, 4, 0], atol=0.25)
    np.testing.assert_allclose(scores[1], -2 * scores[0], atol=1e-4)
    again, _ = explain_by_gradients(additive, IDS, OWN, 0, [0], 50, 7, np.random.default_rng(5))
    other, _ = explain_by_gradients(additive, IDS, OWN, 0, [0], 50, 50, np.random.default_rng(5))
    np.testing.assert_allclose(again, other, atol=1e-5)


def test_lime_by_hand(additive):
    """Two tokens make the first word: 1 + 9 and 4 is what deleting takes away."""
    scores = explain_by_lime(additive, IDS, OWN, [0, 0, 1], 2, [0, 1, 2], 200, 16, 0, np.random.default_rng(0))
    np.testing.assert_allclose(scores, [[10, 4], [-20, -8], [0, 0]], rtol=0.1, atol=1e-4)


# ---- real encoders ---------------------------------------------------------------------------------------------------


class Explained(NamedTuple):
    """A text. own: the part of its ids that are the text's; word_of: the word of each of these; labels: predicted."""

    ids: list
    own: slice
    word_of: np.ndarray
    n_words: int
    logits: np.ndarray
    labels: list

    def without(self, words):
        """The ids of the text when these words are deleted."""
        left = [i for i, word in zip(self.ids[self.own], self.word_of) if word not in words]
        return [*self.ids[: self.own.start], *left, *self.ids[self.own.stop :]]


def few_shot(checkpoint, texts, prompt):
    """(network, tokenizer) on the encoder of a checkpoint; of each text's vector one of the first leaves is made."""
    from hierarchical.few_shot import new_network, text_vectors

    opened = Checkpoint.open(checkpoint)
    tree, method = opened.tree, "prompt" if prompt else "similarity"
    tokenizer = TemplateTokenizer(opened.tokenizer, prompt, method, opened.config["vocab_size"])
    network = new_network(checkpoint, tree, tokenizer, texts)
    vectors, words = network.label_vectors.numpy(), text_vectors(network, tokenizer.encode(texts), tokenizer.pad_id, 8)
    leaves = [label for label in range(len(tree)) if not tree.children[label]]
    vectors[leaves[: len(texts)]] = words - network.center.numpy()
    network.label_vectors.set_value(vectors)
    network.eval()
    return network, tokenizer


def explained(checkpoint, n_texts, prompt=None):
    """(model, tokenizer, [Explained]) of dev texts; prompt: of a few-shot model, "" for none.

    The weights of the layer norms are no longer 1, as after training: Paddle treats those differently.
    """
    opened = Checkpoint.open(checkpoint)
    texts = load_rows(ROOT / "data" / "dev.txt", opened.tree).texts[:n_texts]
    model, tokenizer, found, rng = None, opened.tokenizer, [], np.random.default_rng(0)
    if prompt is None:
        model = opened.load_model()
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.set_value(rng.uniform(0.7, 1.3, parameter.shape).astype(np.float32))
    else:
        model, tokenizer = few_shot(checkpoint, texts, prompt)
    for text in texts:
        (ids,) = tokenizer.encode([text])
        own = tokenizer.text_part(ids)
        words, word_of = align(word_spans(text), tokenizer.spans(text)[own])
        logits = predict_logits(model, [ids], tokenizer.pad_id, 1)[0]
        found.append(Explained(ids, own, word_of, len(words), logits, np.flatnonzero(logits > 0).tolist()))
    return model, tokenizer, found


@pytest.mark.slow
def test_integrated_gradients_are_complete(tiny_checkpoint):
    """Scores add up to logit - baseline_logit within 0.1 % of it, and the error falls with the square of the steps."""
    model, tokenizer, found = explained(tiny_checkpoint, 3)
    errors = {}
    for steps in (16, 64):
        errors[steps] = 0
        for one in found:
            settings = tokenizer.mask_id, one.labels, steps, 32
            scores, baseline = explain_by_gradients(model, one.ids, one.own, *settings)
            wanted = one.logits[one.labels] - baseline
            assert np.abs(wanted).max() > 1
            errors[steps] = max(errors[steps], (np.abs(scores.sum(1) - wanted) / np.abs(wanted).max()).max())
            assert (scores[:, [0, -1]] == 0).all()
    assert errors[64] < 0.001 and errors[64] < errors[16] / 8


FEW_SHOT = [("", "ig"), ("", "lime"), ("{'soft'}{'text': 'text_a'}这是{'mask'}{'mask'}", "ig")]


@pytest.mark.slow
@pytest.mark.parametrize("prompt, interpreter", [(None, "ig"), (None, "grad"), (None, "lime"), *FEW_SHOT])
def test_deleting_the_top_words_costs_more_than_deleting_others(tiny_checkpoint, prompt, interpreter):
    model, tokenizer, found = explained(tiny_checkpoint, 3 if prompt is None else 8, prompt)
    rng, drops = np.random.default_rng(0), {"top": [], "random": []}
    for one in found:
        if interpreter == "lime":
            of_words = one.word_of, one.n_words, one.labels, 150, 32, tokenizer.pad_id, rng
            scores = explain_by_lime(model, one.ids, one.own, *of_words)
        else:
            settings = tokenizer.mask_id, one.labels, 32, 32, rng if interpreter == "grad" else None
            tokens, baseline = explain_by_gradients(model, one.ids, one.own, *settings)
            scores = np.zeros((len(one.labels), one.n_words))
            np.add.at(scores, (slice(None), one.word_of), tokens[:, one.own])
            if interpreter == "ig":
                assert np.allclose(scores.sum(1), one.logits[one.labels] - baseline, rtol=0.05, atol=0.05)
        count = max(1, round(0.2 * one.n_words)) if prompt is None else 1  # of a soft-max, little takes all
        for k, label in enumerate(one.labels):
            chosen = {"top": [np.argsort(-scores[k])[:count]]}
            chosen["random"] = [rng.choice(one.n_words, count, replace=False) for _ in range(3)]
            for name, deletions in chosen.items():
                texts = [one.without(deleted) for deleted in deletions]
                left = predict_logits(model, texts, tokenizer.pad_id, 8)[:, label]
                drops[name] += (sigmoid(one.logits[label]) - sigmoid(left)).tolist()
    assert len(drops["top"]) > (20 if prompt is None else 12)
    # Through the mask of an untrained network the loss of nearly any word matters.
    assert np.mean(drops["top"]) > (1.3 if prompt else 2) * np.mean(drops["random"]) > 0


@pytest.mark.slow
def test_ernie_m_and_words_without_tokens(paddle):
    """SentencePiece, whose tokens may cover several words; the encoder is random, so only what must hold is asked."""
    folder = ROOT.parent / "shared" / "models" / "ernie-m-small"
    if not folder.is_dir():
        pytest.skip(f"no model {folder}")
    from hierarchical.encoders import read_config
    from hierarchical.modeling import build_model, library_config
    from hierarchical.tokenizer import load_tokenizer

    config = library_config(read_config(folder))
    config.num_labels, config.num_hidden_layers = len(TREE), 1
    paddle.seed(0)
    model, tokenizer = build_model(config), load_tokenizer(folder, 24)
    model.eval()
    for interpreter in ("ig", "lime"):
        args = SimpleNamespace(interpreter=interpreter, samples=20, batch_size=8, top_k=3)
        for text in ("北京ＡＢＣ iPhone12㈱ [SEP] 裁员…", "laid off: 3,000 people 😀", "长" * 50, "\u200b"):
            of = SimpleNamespace(tokenizer=tokenizer, tree=TREE, linear=None, decision=Decision())
            row = explain(model, of, Case(text, (0,), None), [0, 2], [0, 2], args, np.random.default_rng(0))
            assert [item["label"] for item in row["explanations"]] == ["组织", "财经"]
            for item in row["explanations"]:
                for word in item["words"]:
                    assert text[word["start"] : word["end"]] == word["word"]
            if interpreter == "ig":
                assert incompleteness(row) < 0.02
            if text[0] == "长":  # 22 of the characters are read
                assert row["explanations"][0]["words"][-1]["end"] in range(22, 26)


# ---- what is explained and how it is shown ---------------------------------------------------------------------------


def test_labels_to_explain():
    case, probabilities = Case("文", (0, 1), None), np.array([0.9, 0.2, 0.4])
    assert labels_to_explain(case, [0, 2], probabilities, []) == [0, 1, 2]  # 1 was missed
    assert labels_to_explain(case, [0], probabilities, [2]) == [2]
    assert labels_to_explain(Case("文", None, None), [], np.array([0.1, 0.3, 0.2]), []) == [1]


def test_colours():
    words = [
        {"word": "裁员", "start": 2, "end": 4, "score": 2.0},
        {"word": "公司", "start": 4, "end": 6, "score": -1.0},
        {"word": "了", "start": 6, "end": 7, "score": 0.1},
    ]
    text = "某，裁员公司了。"
    parts = coloured(text, words)
    assert "".join(part.text for part in parts) == text
    assert [(part.text, part.weight) for part in parts if part.weight is not None] == [
        ("裁员", 1.0),
        ("公司", -0.5),
        ("了", 0.05),
    ]
    assert terminal_line(text, words) == "某，\033[30;48;5;34m裁员\033[0m\033[30;48;5;210m公司\033[0m了。"
    for word in words:
        word["score"] = 0.0  # nothing to divide by
    assert terminal_line(text, words) == text
    assert coloured("文", []) == [("文", None, None)]


def test_a_long_rest_and_a_long_word_are_cut():
    words = [{"word": "长" * 1200, "start": 0, "end": 1200, "score": 1.0}]
    parts = coloured("长" * 1200 + "文" * 1_000_000, words)
    assert [part.text[999:] for part in parts] == ["", "长... (1,200 characters)", "文... (1,000,000 characters)"]
    assert len(terminal_line("长" * 1200 + "文" * 1_000_000, words)) < 2200


def test_a_text_gives_a_terminal_no_orders():
    words = [{"word": "\033[31m裁员\x9b", "start": 0, "end": 8, "score": 1.0}]
    assert terminal_line("\033[31m裁员\x9b\r", words) == "\033[30;48;5;34m [31m裁员 \033[0m "


# ---- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(ROOT / "data" / "label.txt", folder)
    row = (ROOT / "data" / "dev.txt").read_text(encoding="utf-8").splitlines()[0]
    (folder / "bad_case.txt").write_text(
        f"Text\tLabel\tPrediction\n{row}\t\n<script>alert(1)</script>😀公司ＡＢＣ\t公司动态\t\n{'球队' * 200}\t\t\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def call(tiny_checkpoint, data):
    def call(*flags):
        arguments = ["--dataset_dir", data, "--params_path", tiny_checkpoint, "--device", "cpu", *flags]
        word_interpret.main(list(map(str, arguments)))

    return call


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("interpreter", ["ig", "grad", "lime"])
def test_outputs(tiny_checkpoint, data, call, capsys, interpreter):
    call("--interpreter", interpreter, "--samples", "24", "--top_k", "2")
    rows = rows_of(data / "word_interpret.jsonl")
    assert len(rows) == 3
    checkpoint = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer = checkpoint.tree, checkpoint.tokenizer
    for row, case in zip(rows, (data / "bad_case.txt").read_text(encoding="utf-8").splitlines()[1:]):
        assert row["text"] == case.split("\t")[0]
        (ids,) = tokenizer.encode([row["text"]])
        probabilities = sigmoid(predict_logits(checkpoint.load_model(), [ids], tokenizer.pad_id, 1))[0]
        assert row["prediction"] == [tree.labels[i] for i in np.flatnonzero(probabilities > 0.5)]
        labels = [item["label"] for item in row["explanations"]]
        assert set(labels) == {*row["prediction"], *row["labels"]}
        for item in row["explanations"]:
            assert item["predicted"] == (item["label"] in row["prediction"])
            assert item["probability"] == pytest.approx(float(probabilities[tree.index[item["label"]]]), abs=1e-4)
            assert len(item["key_words"]) <= 2 and ("baseline_logit" in item) == (interpreter != "lime")
    printed = capsys.readouterr().out
    assert printed.count("text: ") == 3 and "\033[" not in printed  # not a terminal
    assert sum(word["end"] - word["start"] for word in rows[2]["explanations"][0]["words"]) <= 64  # the rest is cut off
    page = (data / "word_interpret.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;" in page and "😀" in page


@pytest.mark.slow
def test_same_seed_same_scores(data, call):
    found = []
    for seed in (3, 3, 4):
        call("--interpreter", "lime", "--samples", "30", "--num_rows", "1", "--seed", seed)
        found.append((data / "word_interpret.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]


def test_a_label_that_is_asked_for_and_number_of_rows(data, call):
    call("--label", "体育赛事", "体育赛事", "--num_rows", "2", "--samples", "8", "--interpret_result_file", "one.jsonl")
    rows = rows_of(data / "one.jsonl")
    assert [[item["label"] for item in row["explanations"]] for row in rows] == [["体育赛事"]] * 2


def test_predictions_of_another_run_are_told_of(data, call, capsys):
    call("--num_rows", "1", "--samples", "8")  # the file says that nothing is predicted
    assert "bad_case.txt: 1 predictions differ from this checkpoint's" in capsys.readouterr().err


def test_a_text_of_several_lines_and_a_word_said_twice(data, call, capsys, monkeypatch):
    (data / "rows.jsonl").write_text('{"text": "球队\\n球队\\t球队球队"}\n', encoding="utf-8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    call("--interpret_input_file", "rows.jsonl", "--samples", "8", "--label", "体育赛事", "--top_k", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "text: 球队 球队 球队球队" and len(lines) == 6
    assert re.sub("\033.*?m", "", lines[4]) == "    球队 球队 球队球队"
    (row,) = rows_of(data / "word_interpret.jsonl")
    assert row["text"] == "球队\n球队\t球队球队" and row["explanations"][0]["key_words"] in ([], ["球队"])


def test_too_few_steps_are_warned_of(call, capsys):
    call("--samples", "1", "--num_rows", "1")
    assert "take more --samples than 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--label", "体育塞事"], "--label: unknown label '体育塞事'; did you mean '体育赛事'?"),
        (["--label", "体育赛事", "zzz"], "--label: unknown label 'zzz'; none is like it"),
        (["--interpret_input_file", "gone.txt"], "gone.txt: no such file"),
        (["--html_file", "bad_case.txt"], "would overwrite"),
        (["--html_file", "word_interpret.jsonl"], "--interpret_result_file and --html_file must have different names"),
        (["--samples", "0"], "--samples: must be at least 1"),
        (["--interpreter", "shap"], "invalid choice: 'shap'"),
        (["--dataset_dir", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(call, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(word_interpret, "set_device", lambda device: pytest.fail("too late"))
    with pytest.raises(SystemExit) as stopped:
        run(lambda: call(*flags))
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_no_bad_cases(data, call, capsys):
    (data / "bad_case.txt").write_text("Text\tLabel\tPrediction\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        run(call)
    assert stopped.value.code == 2 and "there are no bad cases" in capsys.readouterr().err
