"""utils.py: how a script ends, the flags that several share, and what can be wrong with them."""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import hierarchical
import metric
import utils
from tests.conftest import ROOT
from utils import check_minima

# ---- endings ---------------------------------------------------------------------------------------------------------


def ended(code, **options):
    """A process that runs `code` as the main() of a script."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    command = [sys.executable, "-c", f"import sys, errno, utils\ndef main():\n{body}utils.run(main)"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, encoding="utf-8", **options)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("pass", 0, ""),
        ("raise utils.InputError('文件: 坏了')", 2, "error: 文件: 坏了"),
        ("raise utils.InputError('a\\x1b[31m\\nb')", 2, "error: a [31m\nb"),
        ("open('no/such/file')", 2, "error: no/such/file: No such file or directory"),
        ("raise OSError(errno.ENOSPC, 'No space left on device')", 2, "free disk space"),
        ("raise MemoryError()", 2, "error: out of memory: lower --batch_size"),
        ("raise SystemError('(Fatal) Out of memory error on GPU 0. Cannot allocate 2GB')", 2, "lower --batch_size"),
        ("raise BrokenPipeError()", 0, ""),
        ("raise KeyboardInterrupt()", 130, ""),
        ("sys.exit(7)", 7, ""),
    ],
)
def test_exit_codes(code, status, says):
    done = ended(code, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(says)


def test_a_bug_keeps_its_traceback():
    done = ended("1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes of POSIX")
@pytest.mark.parametrize("lines", [10, 100_000])  # written at the end, or on the way
def test_a_reader_that_leaves_early_is_no_error(lines):
    code = f"import utils\ndef main():\n    for i in range({lines}): print(i)\nutils.run(main)"
    reader, writer = os.pipe()
    os.close(reader)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_the_character():
    done = ended("print('体育 😀')", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout == "\\u4f53\\u80b2 \\U0001f600\n"


def test_no_framework_is_loaded():
    done = ended("print(any(name in sys.modules for name in ('paddle', 'paddlenlp', 'torch')))")
    assert done.stdout == "False\n" and utils.SEPARATOR == "##"


# ---- flags -----------------------------------------------------------------------------------------------------------


OF_PADDLE = """train prune predict few-shot/train analysis/evaluate analysis/word_interpret analysis/sent_interpret
analysis/sparse analysis/dirty analysis/aug retrieval_based/train retrieval_based/build_index retrieval_based/recall
retrieval_based/predict retrieval_based/run_system retrieval_based/serve""".split()
OF_EXPORTS = ["deploy/predictor/infer", "few-shot/infer", "deploy/triton_serving/make_repository"]


REFUSED = """
import contextlib, io, json, os, runpy, sys
words, scripts, said, path = sys.argv[1].split(), sys.argv[2:], [], sys.path[1:]
for script in scripts:
    for word in words:
        sys.argv[:], sys.path[:] = [script, "--device", word], [os.path.dirname(script), *path]
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                known = "argument --device: device must be one of" not in errors.getvalue()
                said.append(f"{script} {word} {known} {end.code}")
print(*said, sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("scripts", "words"), [(OF_PADDLE, "foo CPU"), (OF_EXPORTS, "foo CPU xpu")])
def test_unknown_devices_are_refused_in_every_script(scripts, words):
    """Before anything else is looked at."""
    paths = [f"{name}.py" for name in scripts]
    done = subprocess.run([sys.executable, "-c", REFUSED, words, *paths], cwd=ROOT, capture_output=True, text=True)
    expected = [f"{path} {word} False 2" for path in paths for word in words.split()]
    assert done.stdout.splitlines() == expected, done.stderr


def test_words_for_devices():
    assert [utils.device_word(word) for word in ("cuda", "npu:1")] == ["gpu", "npu:1"]
    assert utils.engine_device_word("cuda:1") == "gpu:1"


@pytest.mark.slow
def test_who_has_the_flag():
    """Flags of other scripts would know other words."""
    wanted = re.compile(r'add_argument\(\s*"--device",(?! type=(?:engine_)?device_word)')
    ours = [path for path in ROOT.rglob("*.py") if not any(part[0] == "." for part in path.relative_to(ROOT).parts)]
    assert {path.parent.name for path in ours if wanted.search(path.read_text("utf-8"))} == {"benchmarks"}


@pytest.mark.parametrize("value, wrong", [(2, False), (None, False), (1, True), (float("nan"), True)])
def test_minima(capsys, value, wrong):
    with pytest.raises(SystemExit) if wrong else nullcontext():
        check_minima(argparse.ArgumentParser(), argparse.Namespace(a=9, b=value), a=9, b=2)
    assert (f"argument --b: must be at least 2, got {value}" in capsys.readouterr().err) == wrong


@pytest.fixture
def parser():
    parser = utils.make_parser("Does nothing.")
    parser.prog = "nothing.py"
    return parser


def test_the_version(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"nothing.py {hierarchical.__version__}\n"


@pytest.mark.parametrize("name", ["check_data", "doccano", "export_model", "predict", "prune", "train"])
def test_every_script_tells_its_version(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.endswith(f" {hierarchical.__version__}\n")


def test_help_tells_defaults_that_say_something(parser):
    parser.add_argument("--number", type=int, default=7, help="so many")
    parser.add_argument("--open", help="nothing yet")
    parser.add_argument("--flag", action="store_true", help="yes")
    lines = [line.split(maxsplit=2) for line in parser.format_help().splitlines() if line.startswith("  --")]
    assert lines[-3:] == [
        ["--number", "NUMBER", "so many (default: 7)"],
        ["--open", "OPEN", "nothing yet"],
        ["--flag", "yes"],
    ]


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["--separator", "--"], "--"),
        (["--separator=--"], "--"),
        (["--separator", "->"], "->"),
        (["--separator=->"], "->"),
        (["--sep", "-->"], "-->"),
        (["--separator", "-"], "-"),
        (["--separator", " - "], " - "),
        (["--separator=-x"], "-x"),
        (["--separator=--separator"], "--separator"),
    ],
)
def test_a_value_may_begin_with_a_dash(parser, typed, value):
    parser.add_argument("--separator")
    parser.add_argument("--seed", type=int)
    assert vars(parser.parse_args([*typed, "--seed", "-3"])) == {"separator": value, "seed": -3}


def test_several_values_and_numbers_may(parser):
    parser.add_argument("--texts", nargs="+")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--mark", choices=("->", "=>"))
    typed = ["--texts", "-5度", "--", "甲", "- 乙", "--rate", "-1e-3", "--path", "-文", "--mark", "->"]
    expected = {"texts": ["-5度", "--", "甲", "- 乙"], "rate": -0.001, "path": Path("-文"), "mark": "->"}
    assert vars(parser.parse_args(typed)) == expected


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--separator", "--seed", "3"], "argument --separator: expected one argument"),
        (["--seed", "->"], "argument --seed: invalid int value: '->'"),
        (["->"], "unrecognized arguments: ->"),
        (["--unknown", "3"], "unrecognized arguments: --unknown 3"),
    ],
)
def test_what_is_no_value_is_still_none(parser, typed, says, capsys):
    parser.add_argument("--separator")
    parser.add_argument("--seed", type=int)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(typed)
    assert end.value.code == 2 and capsys.readouterr().err.endswith(f"error: {says}\n")


@pytest.mark.parametrize(
    ("script", "typed", "here"),
    [
        ("train", "--data_dir", "--dataset_dir"),
        ("train", "--output_dir", "--save_dir"),
        ("train", "--num_train_epochs", "--epochs"),
        ("train", "--max_length", "--max_seq_length"),
        ("train", "--model_name_or_path", "--model_name"),
        ("train", "--early_stopping", "--early_stop"),
        ("check_data", "--data_dir", "--dataset_dir"),
        ("doccano", "--output_dir", "--save_dir"),
    ],
)
def test_what_a_flag_is_called_here(script, typed, here, capsys):
    """Told before a flag that is missing for that reason, and never taken for the beginning of another one."""
    for words in ([typed, "x"], [f"{typed}=x"]):
        with pytest.raises(SystemExit) as end:
            importlib.import_module(script).main(words)
        assert end.value.code == 2 and capsys.readouterr().err.endswith(f"error: {typed}: here it is {here}\n")


@pytest.mark.slow
def test_the_few_shot_route_has_the_other_names():
    command = [sys.executable, "few-shot/train.py", "--dataset_dir", "x", "--save_dir=y", "--epochs", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    told = "--dataset_dir: here it is --data_dir; --save_dir: here it is --output_dir; --epochs: here it is --num_train"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"train.py: error: {told}_epochs"


def test_an_abbreviation_is_no_other_name(parser):
    parser.add_argument("--model_name_or_path")
    assert parser.parse_args(["--model_name", "x"]).model_name_or_path == "x"


def test_a_decision_takes_what_is_asked_from_the_flags_and_the_rest_from_the_checkpoint(parser):
    utils.add_decision_arguments(parser, None)
    tree = utils.LabelTree(["体育", "体育##足球", "财经", "财经##股票"])
    stored = utils.Decision([0.25, 0.75], "closure", max_labels=4)
    both_levels = utils.Decision([0.5, 0.9], "path", stop="confident")

    def decided(*flags, stored=stored):
        return utils.decision_from_arguments(parser.parse_args(flags), tree, stored)

    assert decided() == stored and decided(stored=None) == utils.Decision()
    assert decided("--threshold", "0.5") == utils.Decision(0.5, "closure", max_labels=4)
    assert decided("--top_k", "2") == utils.Decision([0.25, 0.75], "closure", top_k=2)
    assert decided("--threshold", "0.5", "0.9", "--decoding", "path", "--stop", "confident") == both_levels
    assert decided("--per_level", "1") == utils.Decision([0.25, 0.75], "closure", per_level=1)
    for flags, says in (
        (("--threshold", "1.5"), "decision settings: threshold must be a number from 0 to 1"),
        (("--top_k", "2", "--max_labels", "2"), "decision settings: top_k already fixes"),
        (("--min_labels", "5"), r"decision settings: min_labels \(5\) must not be above max_labels \(4\)"),
        (("--threshold", "0.5", "0.5", "0.5"), "decision settings: 3 thresholds for 4 labels on 2 levels"),
        (("--stop", "confident"), "decision settings: stop says where a path ends"),
        (("--per_level", "-1"), "decision settings: per_level must be a whole number, 0 or more"),
    ):
        with pytest.raises(utils.InputError, match=says):
            decided(*flags)


def job_arguments(parser, *flags):
    utils.add_texts_arguments(parser)
    utils.add_checkpoint_arguments(parser, batch_size=32)
    utils.add_result_arguments(parser)
    args = parser.parse_args(flags)
    utils.check_prediction_arguments(parser, args)
    return args


def test_the_job_that_the_flags_ask_for(parser):
    args = job_arguments(parser, "--dataset_dir", "d", "--output_file", "out.tsv", "--floor", "0.5", "--quiet")
    job = utils.prediction_job(args)
    assert job == utils.Job(Path("d/data.txt"), Path("d/label.txt"), "out.tsv", 32, 0.5, False, True)


def test_a_job_that_reads_stdin_needs_no_directory(parser):
    args = job_arguments(parser, "--data_file", "-")
    assert utils.prediction_job(args) == utils.Job("-")


@pytest.mark.parametrize(
    "flags, says",
    [
        ([], "argument --dataset_dir: needed, unless the texts come from stdin"),
        (["--dataset_dir", "d", "--floor", "nan"], "argument --floor: must be from 0 to 1, got nan"),
        (["--dataset_dir", "d", "--output_file", "a.txt"], "must end in .jsonl or .tsv, got a.txt"),
        (["--dataset_dir", "d", "--resume", "--output_file", "-"], "argument --resume: needs an --output_file"),
        (["--dataset_dir", "d", "--batch_size", "0"], "argument --batch_size: must be at least 1, got 0"),
    ],
)
def test_prediction_flags_that_do_not_fit(parser, capsys, flags, says):
    with pytest.raises(SystemExit) as end:
        job_arguments(parser, *flags)
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_a_directory_that_is_not_there(tmp_path):
    assert utils.require_directory(str(tmp_path)) == tmp_path
    with pytest.raises(utils.InputError, match="--dataset_dir .*nowhere: no such directory"):
        utils.require_directory(tmp_path / "nowhere")


def test_what_the_doors_promise_is_there():
    for door in (utils, metric):
        assert all(hasattr(door, name) for name in door.__all__) and len(set(door.__all__)) == len(door.__all__)


def test_what_follows_two_dashes_is_for_another_program():
    parser = utils.make_parser("Start a server.")
    parser.add_argument("--model_repository")
    parser.add_argument("rest", nargs="*")
    words = "--model_repository -5 -- --data_dir=x -- -> --log 1".split()
    args = parser.parse_args(words)
    assert (args.model_repository, args.rest) == ("-5", ["--data_dir=x", "--", "->", "--log", "1"])
