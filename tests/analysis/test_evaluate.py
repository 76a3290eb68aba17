"""analysis/evaluate.py: the printed text and the files against a worked example, and what can be wrong.

Most tests know what the model predicts: a fake takes the place of tokenizer and model, and no paddle is loaded. The
last ones run a real, tiny checkpoint. Thresholds and calibration: test_evaluate_tuning.py.
"""

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

import utils
from analysis import evaluate
from hierarchical import batches
from hierarchical.checkpoints import Checkpoint, read_settings, write_settings
from hierarchical.predictor import Predictor
from metric import Decision
from tests.analysis import evaluating
from tests.analysis.evaluating import PREDICTED, TREE
from utils import run

ROOT = Path(__file__).resolve().parents[2]
data, checkpoint = evaluating.data, evaluating.checkpoint  # fixtures
call, refused = evaluating.call, evaluating.refused

# What follows from the sets in evaluating.py, by hand. On dev:
#             gold   predicted   tp fp fn   precision   recall   F1
#   组织        3        2        2  0  1      1          2/3     4/5
#   组织##其他  2        3        2  1  0      2/3        1       4/5
#   财经        2        2        2  0  0      1          1       1
#   财经##其他  2        1        1  0  1      1          1/2     2/3
#   体育        0        0        0  0  0      0          0       0
# macro: 11/3/5, 19/6/5, 49/15/5; over four labels F1 is 49/15/4
# micro: tp 7, fp 1, fn 2: 7/8, 7/9, 14/17. Rows that are right: the first and the last.
# hierarchical: 新规出台 is predicted {组织, 组织##其他, 财经} with its ancestors, {财经} of it is right; so 7 are right of
#   2 + 3 + 0 + 4 predicted and of 2 + 2 + 1 + 4 gold ones
# level 1: F1 4/5, 1, 0; tp 4, fp 0, fn 1: 8/9; 协会换届 is wrong, of four rows
# level 2: F1 4/5, 2/3; tp 3, fp 1, fn 1: 6/8; 新规出台 is wrong (by name alone it would be right), of the three rows that
#   have a label there
# On train only 协会更名 is wrong, by 组织##其他: tp 1, fp 1.
PRINTED = """\
-----Evaluate model-------
Train dataset size: 4
Dev dataset size: 4
Accuracy in dev dataset: 50.00%
Macro avg in dev dataset: precision: 73.33 | recall: 63.33 | F1 score 65.33
Micro avg in dev dataset: precision: 87.50 | recall: 77.78 | F1 score 82.35
Hierarchical avg in dev dataset: precision: 77.78 | recall: 77.78 | F1 score 77.78
Level 1 Label Performance: Macro F1 score: 60.00 | Micro F1 score: 88.89 | Accuracy: 75.00
Level 2 Label Performance: Macro F1 score: 73.33 | Micro F1 score: 75.00 | Accuracy: 66.67
1 of 5 labels have no row in the dev dataset and count as 0 in macro averages; over the others: Macro F1 score: 81.67
Class name: 组织
Evaluation examples in train dataset: 2(50.0%) | precision: 100.00 | recall: 100.00 | F1 score 100.00
Evaluation examples in dev dataset: 3(75.0%) | precision: 100.00 | recall: 66.67 | F1 score 80.00
----------------------------
Class name: 组织##其他
Evaluation examples in train dataset: 1(25.0%) | precision: 50.00 | recall: 100.00 | F1 score 66.67
Evaluation examples in dev dataset: 2(50.0%) | precision: 66.67 | recall: 100.00 | F1 score 80.00
----------------------------
Class name: 财经
Evaluation examples in train dataset: 1(25.0%) | precision: 100.00 | recall: 100.00 | F1 score 100.00
Evaluation examples in dev dataset: 2(50.0%) | precision: 100.00 | recall: 100.00 | F1 score 100.00
----------------------------
Class name: 财经##其他
Evaluation examples in train dataset: 1(25.0%) | precision: 100.00 | recall: 100.00 | F1 score 100.00
Evaluation examples in dev dataset: 2(50.0%) | precision: 100.00 | recall: 50.00 | F1 score 66.67
----------------------------
Class name: 体育
Evaluation examples in train dataset: 1(25.0%) | precision: 100.00 | recall: 100.00 | F1 score 100.00
Evaluation examples in dev dataset: 0(0.0%) | precision: 0.00 | recall: 0.00 | F1 score 0.00
----------------------------
Bad case in dev dataset saved in {bad_case_file}
"""
BAD_CASES = "Text\tLabel\tPrediction\n新规出台\t财经,财经##其他\t组织##其他,财经\n协会换届\t组织\t\n"


# ---- the worked example ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 4096])
def test_printed_text_and_bad_cases(data, checkpoint, call, printed, monkeypatch, window):
    monkeypatch.setattr(batches, "WINDOW", window)
    call(data, checkpoint)
    assert printed == PRINTED.format(bad_case_file=data / "bad_case.txt").splitlines()
    assert (data / "bad_case.txt").read_bytes().decode() == BAD_CASES


def test_scores_of_many_labels_are_in_a_file(data, checkpoint, call, printed, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LOGGED_LABELS", 4)
    bad_cases = tmp_path / "wrong.tsv"
    call(data, checkpoint, "--bad_case_file", bad_cases)
    lines = PRINTED.format(bad_case_file=bad_cases).splitlines()
    written = (tmp_path / "wrong_labels.txt").read_text("utf-8").splitlines()
    assert written == lines[10:-1] and written[0] == "Class name: 组织"
    assert printed == [
        *lines[:10],
        f"Scores of each of the 5 labels saved in {tmp_path / 'wrong_labels.txt'}",
        lines[-1],
    ]


def test_output_json_holds_the_printed_numbers(data, checkpoint, call, printed, tmp_path):
    call(data, checkpoint, "--output_json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert list(scores) == ["arguments", "decision", "skipped_lines", "train", "dev"]
    assert scores["decision"] == {"max_seq_length": 128, **Decision().to_dict()}
    assert scores["skipped_lines"]["dev"] == {"blank": 0, "unlabelled": 0}
    dev, train = scores["dev"], scores["train"]
    assert dev["n_rows"] == train["n_rows"] == 4
    assert [dev["accuracy"], dev["micro_f1"], dev["hierarchical_f1"]] == pytest.approx([1 / 2, 14 / 17, 7 / 9])
    assert dev["macro_f1"] == pytest.approx(49 / 75)
    assert [level["accuracy"] for level in dev["levels"]] == pytest.approx([3 / 4, 2 / 3])
    assert dev["labels"]["财经##其他"] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "support": 2})
    assert train["labels"]["组织##其他"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "support": 1})


@pytest.mark.parametrize("flags", [[], ["--train_file", ""]])
def test_without_train_rows_dev_is_scored_alone(data, checkpoint, call, printed, flags):
    (data / "train.txt").unlink()
    call(data, checkpoint, *flags)
    if not flags:  # '' says so on purpose, and is not warned of
        assert "train.txt: no such file" in printed.pop(0)
    expected = PRINTED.format(bad_case_file=data / "bad_case.txt").splitlines()
    assert printed == [line for line in expected if "rain dataset" not in line]


def test_unlabelled_and_blank_rows_are_counted_and_left_out(data, checkpoint, call, printed):
    with open(data / "dev.txt", "a", encoding="utf-8") as file:
        file.write("\n没有标签的一行\n\n")
    call(data, checkpoint)
    assert printed.pop(0) == "dev.txt: skipped 2 blank and 1 unlabelled lines"
    assert printed == PRINTED.format(bad_case_file=data / "bad_case.txt").splitlines()


def test_decision_flags_replace_the_stored_ones(data, checkpoint, call, printed):
    write_settings(checkpoint, TREE, 128, Decision(threshold=0.99))  # the probabilities are 0.982 and 0.018
    call(data, checkpoint)
    assert "Accuracy in dev dataset: 0.00%" in printed
    printed.clear()
    call(data, checkpoint, "--threshold", "0.5", "--decoding", "closure")
    # 新规出台 gains 组织 and is no less wrong
    assert "Accuracy in dev dataset: 50.00%" in printed
    assert "组织,组织##其他,财经\n" in (data / "bad_case.txt").read_text(encoding="utf-8")


def test_bad_case_file_with_a_directory_is_taken_as_given(data, checkpoint, call, printed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./wrong.tsv", str(tmp_path / "elsewhere.tsv")):
        call(data, checkpoint, "--bad_case_file", name)
        assert Path(name).read_text(encoding="utf-8") == BAD_CASES
    call(data, checkpoint, "--bad_case_file", "inside.tsv")
    assert (data / "inside.tsv").exists() and not (data / "bad_case.txt").exists()


def test_tabs_and_line_ends_in_a_text_become_blanks(data, checkpoint, call, printed, monkeypatch):
    text = "第一行\t列\n第二行"
    monkeypatch.setitem(PREDICTED, text, (4,))
    (data / "dev.jsonl").write_text(json.dumps({"text": text, "labels": []}), encoding="utf-8")
    call(data, checkpoint, "--dev_file", "dev.jsonl")
    assert (data / "bad_case.txt").read_text(encoding="utf-8") == "Text\tLabel\tPrediction\n第一行 列 第二行\t\t体育\n"


def test_baseline_is_shown_beside_the_model(data, checkpoint, call, printed, tmp_path):
    call(data, checkpoint, "--baseline", "--output_json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    line = next(line for line in printed if line.startswith("Model / linear baseline in dev dataset: "))
    assert f"micro_f1: 82.35 / {100 * scores['baseline']['micro_f1']:.2f} | " in line
    expected = PRINTED.format(bad_case_file=data / "bad_case.txt").splitlines()
    assert printed[: len(expected)] == expected and line in printed[len(expected) :]


# ---- what can be wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, message",
    [
        ([*TREE.labels, "科技"], "only in the file: 科技"),
        (TREE.labels[:-1], "only in the checkpoint: 体育"),
        ([*TREE.labels[2:], *TREE.labels[:2]], "in another order"),
        ([*TREE.labels, "体育"], "label.txt:6: label '体育' is already on line 5"),
    ],
)
def test_edited_label_file(data, checkpoint, refused, labels, message):
    (data / "label.txt").write_text("\n".join(labels), encoding="utf-8")
    assert message in refused(data, checkpoint)


def test_label_file_may_be_absent(data, checkpoint, call, printed):
    (data / "label.txt").unlink()
    call(data, checkpoint)
    assert printed == PRINTED.format(bad_case_file=data / "bad_case.txt").splitlines()


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "label.txt", "decision.json"])
def test_incomplete_checkpoint(data, checkpoint, refused, missing):
    (checkpoint / missing).unlink()
    assert missing in refused(data, checkpoint)


def test_checkpoints_of_older_tools_are_named_for_what_they_lack(data, checkpoint, refused):
    (checkpoint / "config.json").rename(checkpoint / "model_config.json")
    (checkpoint / "model.safetensors").rename(checkpoint / "model_state.pdparams")
    assert "config.json: no such file" in refused(data, checkpoint)


def test_missing_directories(data, checkpoint, refused):
    assert "nowhere: no such directory" in refused(data, data / "nowhere")
    assert "nowhere: no such directory" in refused(data / "nowhere", checkpoint)


def test_bad_rows_are_named_before_the_model_is_loaded(data, checkpoint, refused):
    (data / "dev.txt").write_text("一行\t组识\n", encoding="utf-8")
    assert "dev.txt:1: unknown label '组识'; did you mean '组织'?" in refused(data, checkpoint)
    (data / "dev.txt").unlink()
    assert "dev.txt: no such file" in refused(data, checkpoint)


@pytest.mark.parametrize("flag", ["--bad_case_file", "--output_json"])
def test_unwritable_outputs_are_found_before_the_model_is_loaded(data, checkpoint, refused, tmp_path, flag):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "out", tmp_path / "file" / "out", tmp_path):
        message = refused(data, checkpoint, flag, path)
        assert str(path) in message and flag in message
    before = (data / "dev.txt").read_bytes()
    assert "would overwrite" in refused(data, checkpoint, flag, data / "dev.txt")
    assert (data / "dev.txt").read_bytes() == before


def test_two_outputs_of_one_name(data, checkpoint, refused, tmp_path):
    flags = ["--report", tmp_path / "out", "--output_json", tmp_path / "out"]
    assert "--output_json and --report must have different names" in refused(data, checkpoint, *flags)


@pytest.mark.parametrize("flag", ["--batch_size=0", "--max_seq_length=2", "--threshold=1.5", "--no_flag=1"])
def test_bad_flags(data, checkpoint, refused, flag):
    assert flag.strip("-").partition("=")[0] in refused(data, checkpoint, flag)


def test_baseline_needs_train_rows(data, checkpoint, refused):
    assert "--baseline: needs" in refused(data, checkpoint, "--baseline", "--train_file", "")


def test_max_seq_length_beyond_the_model(data, checkpoint, call, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(lambda: call(data, checkpoint, "--max_seq_length", "257"))
    assert stopped.value.code == 2 and "reads at most 256 tokens" in capsys.readouterr().err


def test_importing_loads_no_framework():
    code = "import sys, analysis.evaluate, analysis.baseline; print({'paddle', 'sklearn', 'tqdm'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("script", ["evaluate.py", "baseline.py"])
def test_help_from_the_command_line(script):
    command = [sys.executable, f"analysis/{script}", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and "--dataset_dir" in found.stdout


# ---- a real checkpoint -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The head of the sample data: 31 labels, 40 rows each."""
    folder = tmp_path_factory.mktemp("sample")
    shutil.copy(ROOT / "data" / "label.txt", folder)
    for name in ("train.txt", "dev.txt"):
        with open(ROOT / "data" / name, encoding="utf-8") as file:
            (folder / name).write_text("".join(islice(file, 40)), encoding="utf-8")
    return folder


def evaluated(checkpoint, sample, output, *flags):
    arguments = ["--dataset_dir", sample, "--params_path", checkpoint, "--output_json", output, *flags]
    evaluate.main(["--device", "cpu", *map(str, arguments)])
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_scores_are_those_of_training(tiny_checkpoint, sample, tmp_path, printed):
    from hierarchical.modeling import score
    from hierarchical.tokenizer import load_tokenizer
    from utils import load_rows

    found = evaluated(tiny_checkpoint, sample, tmp_path / "scores.json")
    tree, max_seq_length, decision, _ = read_settings(tiny_checkpoint)
    tokenizer, model = load_tokenizer(tiny_checkpoint, max_seq_length), Checkpoint.open(tiny_checkpoint).load_model()
    for name in ("train", "dev"):
        rows = load_rows(sample / f"{name}.txt", tree)
        ids = tokenizer.encode(rows.texts)
        expected = score(model, tree, rows, ids, tokenizer.pad_id, decision, batch_size=32).result()
        del expected["loss"]
        assert found[name] == expected
    wrong = round(40 * (1 - found["dev"]["accuracy"]))
    lines = (sample / "bad_case.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + wrong and all(line.count("\t") == 2 for line in lines)
    assert len([line for line in printed if line.startswith("Class name: ")]) == 31


def test_batch_size_and_kind_of_parameter_file_do_not_matter(tiny_checkpoint, sample, tmp_path, printed):
    pickled = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, pickled)
    (pickled / "model.safetensors").unlink()  # what is left is model_state.pdparams
    flags = ["--train_file", "", "--batch_size"]
    found = [
        evaluated(checkpoint, sample, tmp_path / "scores.json", *flags, size)["dev"]
        for checkpoint, size in ((tiny_checkpoint, 40), (pickled, 7))
    ]
    assert found[0] == found[1]


def test_checkpoints_of_several_seeds(data, checkpoint, call, refused, monkeypatch, tmp_path, log_of):
    log, given, loaded = log_of(evaluate), Predictor.text_logits, []
    others = [tmp_path / name for name in ("old-1", "old-2", "new-2")]
    for other in others:
        shutil.copytree(checkpoint, other)
    monkeypatch.setattr(Predictor, "load", lambda predictor: loaded.append(predictor))

    def text_logits(predictor, texts, progress):
        logits = given(predictor, texts, progress)
        if predictor.file.parent.name.startswith("old"):
            logits[:, -2] = 4.0  # 财经##其他 everywhere
        return logits

    monkeypatch.setattr(Predictor, "text_logits", text_logits)
    flags = ["--compare", others[0], others[1], "--more_seeds", others[2]]
    call(data, checkpoint, *flags, "--report", tmp_path / "r.html", "--output_json", tmp_path / "s.json")
    assert [predictor.file.parent.name for predictor in loaded[1:]] == ["new-2", "old-1", "old-2"]
    assert all(predictor.engine.model is None for predictor in loaded[1:]), "one at a time in memory"
    changed = json.loads((tmp_path / "s.json").read_bytes())["comparison"]
    label = changed["labels"]["财经##其他"]
    assert changed["seeds"] == [2, 2] and label["old"] == pytest.approx(2 / 3)
    assert label["seeds_low"] == label["seeds_high"] == pytest.approx(label["new"] - label["old"]), "seeds are alike"
    assert "(means of 2 and 2 seeds). This gain could be luck: +" in log.text
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "seeds: from" in page and f"--compare {others[0]} {others[1]} --more_seeds {others[2]}" in page
    assert "old-1: given twice" in refused(data, checkpoint, "--compare", others[0], others[1], f"{others[0]}/")
    assert "checkpoint: given twice" in refused(data, checkpoint, "--compare", others[0], "--more_seeds", checkpoint)
    assert "--more_seeds: goes with --compare" in refused(data, checkpoint, "--more_seeds", others[2])
    assert "are for one model" in refused(data, checkpoint, *flags, "--tune_threshold", "global")


def test_an_older_checkpoint_beside_it(data, checkpoint, call, monkeypatch, tmp_path, log_of):
    log, older, given, loaded = log_of(evaluate), tmp_path / "older", Predictor.text_logits, []
    shutil.copytree(checkpoint, older)
    monkeypatch.setattr(Predictor, "load", lambda predictor: loaded.append(predictor))

    def text_logits(predictor, texts, progress):
        logits = given(predictor, texts, progress)
        if predictor is loaded[-1] and len(loaded) == 2:
            logits[:, -2] = 4.0  # 财经##其他 everywhere
        return logits

    monkeypatch.setattr(Predictor, "text_logits", text_logits)
    call(data, checkpoint, "--compare", older, "--report", tmp_path / "r.html", "--output_json", tmp_path / "s.json")
    changed = json.loads((tmp_path / "s.json").read_bytes())["comparison"]
    scores = json.loads((tmp_path / "s.json").read_bytes())["dev"]
    assert changed["scores"]["micro_f1"]["new"] == pytest.approx(scores["micro_f1"])
    assert changed["labels"]["财经##其他"]["rows"] == 2 and "体育" not in changed["labels"]
    # The older one is right about 财经##其他 in both rows that have it, and wrong in the two others: 2 * 2 / (4 + 2).
    assert changed["labels"]["财经##其他"]["old"] == pytest.approx(2 / 3)
    assert "This gain could be luck" in log.text
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Compared with the older model" in page and "could be luck" in page and "Newly right rows: 1" in page


def test_bfloat16_is_for_encoders(data, checkpoint, call, refused, monkeypatch, tmp_path):
    """The checkpoint and what it is compared with are computed alike, but for a linear model."""
    asked, linear = {}, {"linear"}

    class Noting(Predictor):
        def __init__(self, path, precision="float32", **others):
            super().__init__(path, precision, **others)
            asked[Path(path).name] = precision

    others = [shutil.copytree(checkpoint, tmp_path / name) for name in ("older", "linear")]
    for module in (evaluate, utils):
        monkeypatch.setattr(module, "is_linear", lambda path: Path(path).name in linear)
    monkeypatch.setattr(evaluate, "Predictor", Noting)
    report = tmp_path / "report.html"
    call(data, checkpoint, "--use_bf16", "--compare", *others, "--report", report)
    assert asked == {checkpoint.name: "bfloat16", "older": "bfloat16", "linear": "float32"}
    assert "--use_bf16" in report.read_text("utf-8")
    assert "store is for float32" in refused(data, checkpoint, "--use_bf16", "--tune_threshold", "global")
    linear.add(checkpoint.name)
    assert "--use_bf16: a linear model has no encoder. Leave it out." in refused(data, checkpoint, "--use_bf16")
