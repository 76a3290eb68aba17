"""prune.py: the whole chain on a tiny checkpoint, and what is kept when a run stops.

Networks and losses are tested in test_dynabert.py, what a user gets wrong in test_prune_mistakes.py.
"""

import json
import re
import shutil

import numpy as np
import pytest

import export_model
import predict
import prune
import train
from deploy.predictor import infer
from hierarchical import modeling, weights
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint, read_settings, save_checkpoint, write_decision
from hierarchical.long_texts import LongText
from hierarchical.metric import evaluate
from hierarchical.predictor import Predictor
from metric import Decision
from tests.conftest import SAMPLE
from tests.trainings import call, fails
from utils import LabelTree, load_rows

GRAPHS = {f"pruned_model{ending}" for ending in (".pdmodel", ".pdiparams", ".pdiparams.info", ".onnx", "_int8.onnx")}
CHECKPOINT = {"config.json", "model.safetensors", "model_state.pdparams", "label.txt", "decision.json"}
TREE = LabelTree.read(SAMPLE / "label.txt")


@pytest.fixture
def no_export(monkeypatch):
    monkeypatch.setattr(prune, "export_checkpoint", lambda *_, **__: None)


def logits_of(folder, rows_dir):
    checkpoint = Checkpoint.open(folder)
    ids = checkpoint.tokenizer.encode(load_rows(rows_dir / "dev.txt", checkpoint.tree).texts)
    return modeling.predict_logits(checkpoint.load_model(), ids, checkpoint.tokenizer.pad_id, 8)


# ---- the whole chain -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prune_export_and_use(run_prune, monkeypatch, tiny_checkpoint, sample_rows, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    students = []
    monkeypatch.setattr(
        prune, "rank", lambda args, task, model, rank=prune.rank: students.append(model) or rank(args, task, model)
    )
    run_prune(
        "--width_mult_list", "3/4", "0.5", "--num_train_epochs", "1", "--save_steps", "1000", "--learning_rate", "1e-4"
    )
    log = capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()} == before
    assert {path.name for path in (tmp_path / "prune").iterdir()} == {
        ".lock", "prune.json", "prune.log", "width_mult_0.75", "width_mult_0.5",
    }  # fmt: skip

    step = r"global step (\d), epoch: 1, batch: \1, lr: \d\.\d{3}e-0\d, loss: \d+\.\d{5}, speed: \d+\.\d\d step/s\n"
    assert len(re.findall(step, log)) == 7  # 49 rows by 8, the last step of one row
    scored = r"width_mult (0\.\d+):\n.* - eval loss: .*, micro f1 score: (0\.\d{5}), macro f1 score: (0\.\d{5})\n"
    scores = {ratio: (micro, macro) for ratio, micro, macro in re.findall(scored, log)}
    assert scores.keys() == {"0.75", "0.5"}  # at the end, though save_steps was never reached
    result = json.loads((tmp_path / "prune" / "prune.json").read_text(encoding="utf-8"))
    full, *pruned = result["table"]
    assert (full["width"], full["speed_up"], full["parameters"]) == (1, 1, 456351)
    wide = weights.read_weights(tiny_checkpoint / "model.safetensors")
    for row, heads, neurons in zip(pruned, (3, 2), (192, 128)):
        folder = tmp_path / "prune" / f"width_mult_{row['width']}"
        assert {path.name for path in folder.iterdir()} >= CHECKPOINT | GRAPHS
        micro, macro = scores[str(row["width"])]
        assert (f"{row['micro_f1']:.5f}", f"{row['macro_f1']:.5f}") == (micro, macro)
        assert f"Best result of width_mult {row['width']}: {row['macro_f1']:.4f}" in log
        # the saved network is the slice of the trained one, and has what it was scored with
        narrow, student = weights.read_weights(folder / "model.safetensors"), students[0].state_dict()
        assert narrow["ernie.encoder.layers.1.self_attn.v_proj.weight"].shape == (128, 32 * heads)
        assert narrow["ernie.encoder.layers.1.linear2.weight"].shape == (neurons, 128)
        for name, value in narrow.items():
            block = student[name].numpy()[tuple(slice(n) for n in value.shape)]
            np.testing.assert_array_equal(value, block, err_msg=name)
        assert sum(value.size for value in narrow.values()) == row["parameters"] < sum(v.size for v in wide.values())
        assert row["megabytes"] == (folder / "model.safetensors").stat().st_size / 1e6
        tree, length, decision, _ = read_settings(folder)
        assert (tree.labels, length, decision) == (LabelTree.read(SAMPLE / "label.txt").labels, 64, Decision())
        # the graph computes what the checkpoint does
        logits = logits_of(folder, sample_rows)
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(folder / "pruned_model.onnx", providers=["CPUExecutionProvider"])
        tokenizer = Checkpoint.open(folder).tokenizer
        texts = load_rows(sample_rows / "dev.txt", tree).texts[:4]
        for i, ids in enumerate(tokenizer.encode(texts)):
            inputs = {"input_ids": np.array([ids]), "token_type_ids": np.zeros((1, len(ids)), np.int64)}
            np.testing.assert_allclose(session.run(None, inputs)[0][0], logits[i], atol=1e-4)

    # predict.py, the offline predictor and train.py take a pruned folder like any other
    half, said = tmp_path / "prune" / "width_mult_0.5", []
    shutil.copy(SAMPLE / "data.txt", sample_rows)
    for script, *model in (
        (predict, "--params_path", half),
        (infer, "--model_path_prefix", half / "pruned_model"),
    ):
        output = tmp_path / f"{script.__name__}.jsonl"
        call(script, "--dataset_dir", sample_rows, *model, "--device", "cpu", "--output_file", output)
        said.append([json.loads(line)["labels"] for line in output.read_text(encoding="utf-8").splitlines()])
    assert said[0] == said[1] and len(said[0]) == 60 and any(said[0])
    more = ("--model_name", half, "--save_dir", tmp_path / "more", "--epochs", 1, "--batch_size", 32, "--device", "cpu")
    call(train, "--dataset_dir", sample_rows, *more)
    assert Checkpoint.open(tmp_path / "more").load_model().base_model.encoder.layers[0].self_attn.num_heads == 2


@pytest.mark.slow
def test_ernie_m_and_a_second_pruning(paddle, run_prune, tiny_checkpoint, sample_rows, tmp_path):
    from paddlenlp.transformers import ErnieMConfig

    tiny = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer = tiny.tree, tiny.tokenizer
    config = ErnieMConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=4, vocab_size=1075, max_position_embeddings=130,
        num_labels=len(tree),
    )  # fmt: skip
    source, half = tmp_path / "m", tmp_path / "prune" / "width_mult_0.5"
    source.mkdir()
    save_checkpoint(source, modeling.build_model(config), tokenizer, tree, Decision())
    run_prune("--params_dir", source, "--width_mult_list", "1/2", "--max_steps", "1")
    again = ("--params_dir", half, "--output_dir", tmp_path / "again", "--width_mult_list", "0.50")
    run_prune(*again, "--max_steps", "1")
    quarter = tmp_path / "again" / "width_mult_0.5"
    for folder in (half, quarter):  # the graphs compute what the cut networks do
        exported = Predictor(folder / "pruned_model")
        ids = exported.tokenizer.encode(load_rows(sample_rows / "dev.txt", tree).texts)
        assert exported.engine.inputs == ["input_ids"]
        np.testing.assert_allclose(exported.logits(ids), logits_of(folder, sample_rows), atol=1e-4)
    layer = Checkpoint.open(quarter).load_model().base_model.encoder.layers[0]
    assert (layer.self_attn.num_heads, layer.self_attn.head_dim) == (1, 8)
    assert layer.self_attn.q_proj.weight.shape == [32, 8] and layer.linear1.weight.shape == [32, 32]


@pytest.mark.slow
def test_distillation_learns(no_export, run_prune, tiny_checkpoint, sample_rows, tmp_path):
    """The narrow network comes nearer to the teacher's outputs than the mere cut."""
    flags = ["--width_mult_list", "1/2", "--save_steps", "1000", "--logging_steps", "1000"]
    run_prune(*flags, "--max_steps", "1", "--learning_rate", "1e-9", "--output_dir", tmp_path / "cut")
    run_prune(*flags, "--max_steps", "100", "--learning_rate", "1e-3", "--output_dir", tmp_path / "taught")
    teacher = sigmoid(logits_of(tiny_checkpoint, sample_rows))
    mere, taught = (
        np.abs(sigmoid(logits_of(tmp_path / name / "width_mult_0.5", sample_rows)) - teacher).mean()
        for name in ("cut", "taught")
    )
    assert taught < 0.7 * mere


@pytest.mark.slow
def test_a_model_that_reads_windows(no_export, run_prune, tiny_checkpoint, sample_rows, monkeypatch, tmp_path, capsys):
    """It is taught window by window, scored on whole texts, and its widths are stored with windows."""
    folder, long_text = shutil.copytree(tiny_checkpoint, tmp_path / "full"), LongText("windows", 7, 5)
    write_decision(folder, 14, Decision(), long_text)
    ranked = []
    monkeypatch.setattr(
        prune, "importance", lambda *given, rank=prune.importance: ranked.append(given[1:3]) or rank(*given)
    )
    flags = ["--params_dir", folder, "--width_mult_list", "1/2"]
    run_prune(*flags, "--max_steps", "2", "--learning_rate", "1e-9")
    told = json.loads((tmp_path / "prune" / "prune.json").read_text("utf-8"))
    rows = load_rows(sample_rows / "dev.txt", TREE)
    gold, width = rows.multi_hot(len(TREE)), tmp_path / "prune" / "width_mult_0.5"
    for model, found in ((folder, told["full"]), (width, told["best"]["0.5"])):
        chosen = Predictor(model).probabilities(rows.texts) > 0.5
        assert found["micro_f1"] == pytest.approx(evaluate(chosen, gold, TREE)["micro_f1"])
    assert read_settings(width)[3] == long_text == Checkpoint.open(width).tokenizer.long_text

    checkpoint = Checkpoint.open(folder)
    ids = checkpoint.tokenizer.encode(load_rows(sample_rows / "train.txt", TREE).texts)
    windows, _ = checkpoint.tokenizer.windows.expand(ids)
    ((sample, labels),) = ranked
    assert sorted(row.tolist() for row in sample) == sorted(windows) and len(windows) > len(ids)
    logits = modeling.predict_logits(checkpoint.load_model(), [list(row) for row in sample], 0, 8)
    assert [list(row) for row in labels] == [np.flatnonzero(row > 0).tolist() for row in logits]
    assert f"{len(ids)} train rows make {len(windows)} windows" in capsys.readouterr().err
    assert "one alone may lack the labels" in fails(run_prune, capsys, *flags, "--hard_label_weight", "1")


@pytest.mark.slow
def test_exports_of_a_width_read_windows(run_prune, tiny_checkpoint, sample_rows, tmp_path):
    """What prune.py exports itself, and what export_model.py makes of the width, answer as its checkpoint does."""
    folder, data = shutil.copytree(tiny_checkpoint, tmp_path / "full"), tmp_path / "data"
    write_decision(folder, 14, Decision(), LongText("windows", 7, 5))
    run_prune("--params_dir", folder, "--width_mult_list", "1/2", "--max_steps", "1")
    width, export = tmp_path / "prune" / "width_mult_0.5", tmp_path / "export"
    flags = ["--dataset_dir", sample_rows, "--precision", "float32"]
    call(export_model, "--params_path", width, "--output_path", export, *flags)
    texts = load_rows(sample_rows / "dev.txt", TREE).texts[:4]
    texts.append("".join(texts))
    checkpoint = Predictor(width)
    windows, _ = checkpoint.tokenizer.windows.expand(checkpoint.tokenizer.encode(texts[4:]))
    expected = checkpoint.predict(texts, floor=0)
    assert len(windows) == 5 and expected[4].labels != Predictor(width, long_text="cut").predict(texts[4:])[0].labels
    data.mkdir()
    (data / "data.txt").write_text("\n".join(texts), "utf-8")
    flags = ["--dataset_dir", data, "--device", "cpu", "--output_file", tmp_path / "out.jsonl", "--floor", 0]
    for model in (width / "pruned_model", export / "float32"):
        call(infer, "--model_path_prefix", model, *flags)
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
        for row, one in zip(rows, expected, strict=True):
            assert row["labels"] == one.labels
            assert row["probabilities"] == pytest.approx(one.probabilities, abs=1e-4)


# ---- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch, no_export):
    """scripted(*macro_f1s) makes these the scores of the evaluations of widths; returns the weights at each of them."""

    def script(*macro_f1s):
        seen, waiting = [], list(macro_f1s)
        real = prune.evaluate

        def evaluate(args, task, model):
            scores = real(args, task, model)
            if getattr(model.config, "head_dim", None):
                seen.append(model.classifier.weight.numpy().copy())
                scores["macro_f1"] = waiting.pop(0)
            return scores

        monkeypatch.setattr(prune, "evaluate", evaluate)
        return seen

    return script


def saved(tmp_path, ratio):
    return weights.read_weights(tmp_path / "prune" / f"width_mult_{ratio}" / "model.safetensors")["classifier.weight"]


@pytest.mark.slow
def test_each_width_keeps_its_best_by_macro_f1(run_prune, scripted, tmp_path, capsys):
    seen = scripted(0.5, 0.3, 0.7, 0.2, 0.6, 0.2)  # of 3/4 and 1/2 in turn, at steps 2, 4 and 5
    run_prune("--width_mult_list", "3/4", "1/2", "--max_steps", "5", "--learning_rate", "1e-3")
    assert len(seen) == 6 and not np.array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(saved(tmp_path, 0.75), seen[2])
    np.testing.assert_array_equal(saved(tmp_path, 0.5), seen[1])
    log = capsys.readouterr().err
    assert "Best result of width_mult 0.75: 0.7000" in log and "Best result of width_mult 0.5: 0.3000" in log
    best = json.loads((tmp_path / "prune" / "prune.json").read_text(encoding="utf-8"))["best"]
    assert {ratio: scores["step"] for ratio, scores in best.items()} == {"0.75": 4, "0.5": 2}


@pytest.mark.slow
def test_a_score_of_zero_is_saved_and_the_seed_repeats_a_run(run_prune, scripted, tmp_path):
    seen, weights = scripted(0.0, 0.0), []
    for _ in range(2):
        run_prune("--max_steps", "2", "--learning_rate", "1e-3")  # and without --width_mult_list: 3/4
        weights.append(saved(tmp_path, 0.75))
    np.testing.assert_array_equal(weights[0], seen[0])
    np.testing.assert_array_equal(*weights)


@pytest.mark.slow
def test_a_killed_run_leaves_its_best_and_no_graph_of_another(run_prune, scripted, monkeypatch, tmp_path, sample_rows):
    seen = scripted(0.5)
    old = tmp_path / "prune" / "width_mult_0.75"
    old.mkdir(parents=True)
    for name in ("pruned_model.pdmodel", "pruned_model.onnx", "int8.onnx"):
        (old / name).touch()
    step, calls = prune.train_step, []

    def third_time_unlucky(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(prune, "train_step", third_time_unlucky)
    with pytest.raises(SystemExit) as exit_info:
        run_prune()
    assert exit_info.value.code == 130
    np.testing.assert_array_equal(saved(tmp_path, 0.75), seen[0])
    assert np.isfinite(logits_of(old, sample_rows)).all()
    assert not [path for path in old.iterdir() if path.suffix in (".onnx", ".pdmodel", ".tmp")]


@pytest.mark.slow
def test_a_failed_export_loses_nothing(run_prune, scripted, monkeypatch, tmp_path):
    seen = scripted(0.5)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device", "pruned_model.onnx")

    monkeypatch.setattr(prune, "export_checkpoint", full_disk)
    with pytest.raises(SystemExit):
        run_prune("--max_steps", "1")
    np.testing.assert_array_equal(saved(tmp_path, 0.75), seen[0])
    assert json.loads((tmp_path / "prune" / "prune.json").read_text(encoding="utf-8"))["table"][1]["macro_f1"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dev_rows", [1, 3_200, 100_000])
def test_dev_scores_do_not_outweigh_the_training(dev_rows):
    """Rows that are scored for rows that are learned from."""
    steps = prune.steps_between_evaluations(dev_rows, 32)
    assert steps >= 100 and dev_rows <= steps * 32 < max(dev_rows + 32, 3_201)


def as_lists(ids, labels):
    return [row.tolist() for row in ids], labels


def test_ranking_rows(run_prune, no_export, monkeypatch, sample_rows):
    """Training rows rank, unless asked; the seed and nothing else decides which."""
    tree = LabelTree.read(sample_rows / "label.txt")
    sizes = {name: len(load_rows(sample_rows / f"{name}.txt", tree).texts) for name in ("train", "dev")}
    calls = []
    monkeypatch.setattr(
        prune, "importance", lambda model, ids, labels, *_: calls.append(as_lists(ids, labels)) or ([], [])
    )
    for flags in ([], [], ["--rank_on", "dev"], ["--seed", "4"]):
        run_prune("--max_steps", "1", *flags)
    monkeypatch.setattr(prune, "RANKING_ROWS", 10)
    run_prune("--max_steps", "1")
    assert [len(ids) for ids, _ in calls] == [sizes["train"], sizes["train"], sizes["dev"], sizes["train"], 10]
    assert calls[0] == calls[1] != calls[3]
