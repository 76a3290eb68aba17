"""The steps, called as Triton calls them, give what the predictor gives."""

import numpy as np
import pytest

from hierarchical.predictor import Predictor
from utils import InputError

from tests.deploy.triton_serving.asking import answers, ask, certain_rows, column, outputs_of, same, step  # isort: skip


pytestmark = pytest.mark.slow


def test_steps_give_what_the_predictor_gives(make, texts, expected):
    models = make("--backend", "python", "--precision", "float32")
    cuts = [(0, 1), (1, 2), (2, 7), (7, 71), (3, 4)]
    for (start, end), found in zip(cuts, ask(models, [texts[start:end] for start, end in cuts])):
        assert len(found) == end - start
        same(found, expected[start:end])


def test_a_model_without_a_branch_needs_no_texts(make, plain_export):
    models = make("--backend", "python", "--precision", "float32", "--model_path", plain_export)
    config = (models / "seqcls_postprocess/config.pbtxt").read_text("utf-8")
    assert 'name: "POST_TEXT" data_type: TYPE_STRING dims: [ 1 ] optional: true' in config
    logits = Predictor(plain_export).logits([[1, 5, 2]])
    (found,) = step(models, "seqcls_postprocess", [{"POST_INPUT": logits}])
    assert found["POST_label"].tolist() == [np.flatnonzero(logits[0] > 0).tolist()]
    assert "optional" not in (make("--overwrite") / "seqcls_postprocess/config.pbtxt").read_text("utf-8")


def test_requests_are_padded_with_what_the_model_ignores(make, predictor):
    models = make("--backend", "python", "--precision", "float32")
    long, short = predictor.tokenizer.encode(["球队赢了比赛", "球"])
    requests = [{"input_ids": np.array([ids]), "token_type_ids": np.zeros((1, len(ids)), int)} for ids in (long, short)]
    wanted = predictor.logits([short])
    assert step(models, "seqcls_model", requests)[1]["logits"] == pytest.approx(wanted, abs=1e-4)
    config = models / "seqcls_model/config.pbtxt"
    pad_id = 'key: "pad_id" value: { string_value: "%d" }'
    text = config.read_text("utf-8").replace(pad_id % predictor.tokenizer.pad_id, pad_id % predictor.tokenizer.unk_id)
    config.write_text(text, "utf-8")
    assert step(models, "seqcls_model", requests)[1]["logits"] != pytest.approx(wanted, abs=1e-2)


def test_decision_settings_are_obeyed(make, predictor, texts):
    from metric import Decision

    models = make("--backend", "python", "--precision", "float32", "--threshold", "0.9", "--decoding", "topdown")
    [found] = ask(models, [texts[:20]])
    same(found, answers(predictor, texts[:20], Decision(0.9, "topdown")))


def test_certainty_is_the_predictor_s(make, predictor, texts):
    models = make("--backend", "python", "--precision", "float32")
    (found,) = outputs_of(models, [texts[:8]])
    wanted = [[one.certainty] for one in certain_rows(predictor, texts[:8])]
    assert found["POST_certainty"].dtype == np.float32 and found["POST_certainty"] == pytest.approx(
        np.array(wanted), abs=1e-4
    )
    assert 0 in found["POST_certainty"] and found["POST_certainty"].max() > 0.5  # a blank text is among them


def test_int8_texts_do_not_share_a_call(make, tiny_export, texts):
    """Not with those of other requests, nor with those of their own: to the bit, they are answered as alone."""
    models = make("--backend", "python", "--precision", "int8")
    assert "dynamic_batching" not in (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    predictor = Predictor(tiny_export, "int8")
    for parts in ([texts[:1], texts[1:2], texts[2:64]], [texts[5:6], texts[60:3:-1]]):
        tokens = step(models, "tokenizer", [{"INPUT_0": column(part)} for part in parts])
        names = ("input_ids", "token_type_ids")
        found = step(models, "seqcls_model", [dict(zip(names, values.values())) for values in tokens])
        for part, outputs in zip(parts, found):
            for text, logits in zip(part, outputs["logits"], strict=True):
                assert np.array_equal(logits, predictor.logits(predictor.tokenizer.encode([text]))[0])


def test_rows_of_padding_alone(make):
    """As only a client would send that talks to this step without the tokenizer."""
    models = make("--backend", "python", "--precision", "int8")
    (found,) = step(models, "seqcls_model", [dict.fromkeys(("input_ids", "token_type_ids"), np.zeros((2, 3), int))])
    assert found["logits"].shape == (2, 31)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_onnxruntime_back_end_joins_requests_of_models_that_gain_by_it(make, precision):
    models = make("--backend", "onnxruntime", "--precision", precision)
    config = (models / "seqcls_model/config.pbtxt").read_text("utf-8")
    assert ("dynamic_batching { }" in config) == (precision == "float32")
    (found,) = step(models, "tokenizer", [{"INPUT_0": column(["球"])}])
    assert found["OUTPUT_0"].shape == ((1, 16) if precision == "float32" else (1, 3))


def test_an_older_int8_export_is_refused(make, older_export):
    for flags in ([], ["--precision", "int8", "--backend", "python"]):
        with pytest.raises(InputError, match="int8.onnx: an older export, whose answers depend on .* Export it again"):
            make("--model_path", older_export, *flags)
    make("--model_path", older_export, "--precision", "float32")


def test_lengths_for_the_onnxruntime_back_end(make, predictor):
    models = make("--backend", "onnxruntime", "--precision", "float32")
    requests = [{"INPUT_0": column(texts)} for texts in (["球"], ["球", "球" * 17], ["球" * 200])]
    found = step(models, "tokenizer", requests)
    assert [values["OUTPUT_0"].shape for values in found] == [(1, 16), (2, 32), (1, 64)]  # 64: max_seq_length
    for values, request in zip(found, requests):
        ids = predictor.tokenizer.encode([text.decode("utf-8") for text in request["INPUT_0"][:, 0]])
        for row, wanted in zip(values["OUTPUT_0"], ids):
            assert row[: len(wanted)].tolist() == wanted and (row[len(wanted) :] == predictor.tokenizer.pad_id).all()
        assert values["OUTPUT_1"].shape == values["OUTPUT_0"].shape and not values["OUTPUT_1"].any()


@pytest.mark.filterwarnings("ignore:invalid value")  # of the NaN
def test_a_bad_request_fails_alone(make):
    models = make("--backend", "python")
    good, bad = step(models, "tokenizer", [{"INPUT_0": column(["好"])}, {"INPUT_0": column(["好", b"\xff"])}])
    assert good["OUTPUT_0"].shape[0] == 1 and bad.startswith("a text is not UTF-8")
    logits, text = np.full((1, 31), -99, np.float32), {"POST_TEXT": column(["好"])}
    requests = [{"POST_INPUT": logits * np.nan, **text}, {"POST_INPUT": logits, **text}]
    bad, none = step(models, "seqcls_postprocess", requests)
    assert "NaN" in bad
    assert none["POST_label"].tolist() == [[-1]] and none["POST_label_name"].tolist() == [[b""]]
