"""make_config.py: what is written for Paddle Serving, and what is refused."""

import json
import shutil

import pytest
import yaml

from deploy.paddle_serving import make_config
from hierarchical.predictor import Predictor
from utils import InputError

pytestmark = pytest.mark.slow


def test_names_come_from_the_model(make, tiny_export):
    folder = make("--num_threads", "3", "--rpc_port", "2000", "--http_port", "2001", "--threshold", "0.9")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.yml", "serving_client", "serving_server"]
    assert [path.name for path in folder.parent.iterdir()] == ["serving"], "nothing is left beside it"
    server, model = folder / "serving_server", Predictor(tiny_export, backend="paddle").engine
    for name in ("float32.pdmodel", "float32.pdiparams", "label.txt", "vocab.txt", "config.json"):
        assert (server / name).read_bytes() == (tiny_export / name).read_bytes()
    assert json.loads((server / "decision.json").read_text("utf-8"))["threshold"] == 0.9
    config = yaml.safe_load((folder / "config.yml").read_text("utf-8"))
    assert (config["rpc_port"], config["http_port"], config["dag"]["is_thread_op"]) == (2000, 2001, False)
    settings = config["op"]["seq_cls"]["local_service_conf"]
    assert settings["fetch_list"] == model.predictor.get_output_names() and settings["thread_num"] == 3
    assert settings["client_type"] == "local_predictor" and settings["model_config"] == "serving_server"
    description = (server / "serving_server_conf.prototxt").read_text("utf-8")
    assert description == make_config.prototxt(["input_ids", "token_type_ids"], settings["fetch_list"][0], 31)
    assert description == (folder / "serving_client/serving_client_conf.prototxt").read_text("utf-8")


def test_prototxt():
    assert make_config.prototxt(["input_ids"], "linear_75.tmp_1", 7) == (
        'feed_var {\n  name: "input_ids"\n  alias_name: "input_ids"\n  is_lod_tensor: false\n  feed_type: 0\n'
        '  shape: -1\n}\nfetch_var {\n  name: "linear_75.tmp_1"\n  alias_name: "linear_75.tmp_1"\n'
        "  is_lod_tensor: false\n  fetch_type: 1\n  shape: 7\n}\n"
    )


def test_a_pruned_width(make, tiny_export, tmp_path):
    """Of a version that did not list the models of an export."""
    pruned = shutil.copytree(tiny_export, tmp_path / "pruned", ignore=shutil.ignore_patterns("*.onnx", "export.json"))
    for suffix in (".pdmodel", ".pdiparams"):
        (pruned / "float32").with_suffix(suffix).rename(pruned / f"pruned_model{suffix}")
    folder = make("--model_path", pruned / "pruned_model")
    names = {path.name for path in (folder / "serving_server").glob("*.pd*")}
    assert names == {"pruned_model.pdmodel", "pruned_model.pdiparams"}


def test_nothing_is_replaced_unasked(make):
    folder = make()
    (folder / "config.yml").write_text("tuned by hand", "utf-8")
    with pytest.raises(InputError, match="serving: holds config.yml, serving_server, serving_client already"):
        make()
    assert (folder / "config.yml").read_text("utf-8") == "tuned by hand"
    make("--overwrite")
    assert "seq_cls" in (folder / "config.yml").read_text("utf-8")


def test_bad_input_of_make_config(make, tiny_export, tmp_path, capsys):
    (tmp_path / "file").write_text("x", "utf-8")
    broken = shutil.copytree(tiny_export, tmp_path / "export")
    (broken / "label.txt").write_text("别的\n", "utf-8")
    newer = shutil.copytree(tiny_export, tmp_path / "newer")
    (newer / "float32.pdmodel").rename(newer / "float32.json")
    for flags, message in (
        (["--output", tmp_path / "file"], "file: is a file"),
        (["--model_path", tmp_path / "none"], "none.pdmodel: no such file"),
        (["--model_path", broken], "label.txt: is not the file that goes with export.json"),
        (["--model_path", newer], "paddlepaddle 3.1 or older"),
        (["--top_k", "0"], "top_k must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            make(*flags)
    assert not (tmp_path / "serving").exists()
    for flags, message in (
        (["--rpc_port", "80"], "--rpc_port: must be from 1024 to 65535, got 80"),
        (["--rpc_port", "9878"], "--http_port: must differ from --rpc_port"),
        (["--num_threads", "0"], "--num_threads: must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            make(*flags)
        assert message in capsys.readouterr().err
