"""benchmarks/back_ends.py: what is there is measured, what is not is left out and told."""

import shutil

import pytest

from benchmarks import back_ends
from tests.conftest import SAMPLE
from utils import InputError


@pytest.fixture
def dev(tmp_path):
    rows = (SAMPLE / "dev.txt").read_text("utf-8").splitlines(keepends=True)[:6]
    (tmp_path / "dev.txt").write_text("".join(rows), "utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_line_for_each(tiny_export, openvino, dev, capsys):
    back_ends.main(["--model_path", str(tiny_export), "--dataset_dir", str(dev), "--repetitions", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if " ms a text " in line]
    names = [line[:40].strip() for line in lines]
    assert names[:2] == ["ONNX Runtime, float32, batches of 32", "OpenVINO, float32, batches of 32"]
    assert "ONNX Runtime, int8, alone" in names and "ONNX Runtime, int8, batches of 32" not in names
    assert all(line.endswith("same labels 100.0 %") for line in lines if "float32" in line)


def test_what_is_missing_is_told(tiny_export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(back_ends, "find_spec", lambda package: package != "openvino")
    monkeypatch.setattr(back_ends, "has_bf16", lambda: False)
    shutil.copytree(tiny_export, tmp_path / "export")
    (tmp_path / "export" / "int8.onnx").unlink()
    assert list(back_ends.predictors(tmp_path / "export"))[0] == "ONNX Runtime, float32"
    said = capsys.readouterr().out
    assert "ONNX Runtime, int8: left out" in said and "OpenVINO, float32: left out; it needs" in said
    with pytest.raises(InputError, match="no model of export_model.py that could be loaded here"):
        back_ends.predictors(tmp_path)
