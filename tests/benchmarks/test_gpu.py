"""benchmarks/gpu.py on the CPU: its flags, that a failure costs nothing else, its models, and its load on a server."""

import asyncio
import itertools
import json
import re
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu, gpu_forms, http_load
from benchmarks import gpu_measurements as measurements
from benchmarks.timing import operations
from hierarchical.encoders import read_config
from hierarchical.predictor import Predictor
from utils import InputError

NEEDED = ["--model_path", "m", "--data_file", "d", "--work_dir", "w"]


@pytest.mark.parametrize("flags", [["--texts", "0"], ["--seconds", "0"], ["--measurements", "x"], ["--device", "xpu"]])
def test_wrong_flags(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        gpu.parse_args(NEEDED + flags)
    assert caught.value.code == 2 and flags[0] in capsys.readouterr().err


def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch):
    (tmp_path / "float32.onnx").write_bytes(b"never read")
    (tmp_path / "texts").write_text("甲\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "find_gpu", lambda device: "cpu")
    words = f"--model_path {tmp_path} --data_file {tmp_path}/texts --work_dir {tmp_path}/work"
    with pytest.raises(InputError, match="there is no GPU to measure"):
        gpu.main(words.split())
    assert not (tmp_path / "work").exists()


def test_what_fails_is_told_and_the_next_is_measured(tmp_path, capsys):
    args = Namespace(work_dir=tmp_path, run_one="server")
    measurements.note(args, "first", lambda: {}["x"])
    measurements.note(args, "second", lambda: {"ms a text": 0.04567, "texts/s": 21_900.0})
    assert capsys.readouterr().out.splitlines() == [
        "server | first | KeyError: 'x'", "server | second | 0.04567 ms a text, 2.19e+04 texts/s",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["error"] == "KeyError: 'x'" and rows[1]["figures"]["texts/s"] == 21_900


def test_clients_count_right_answers_alone(monkeypatch):
    """A server that answers 甲 rightly, 乙 with the labels of another text, 丙 not with 200, and hangs up on 丁."""

    async def answer(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(re.search(rb"Content-Length: (\d+)", head)[1])
            text = json.loads(await reader.readexactly(length))["texts"][0]
            if text == "丁":
                return writer.close()
            body = json.dumps({"results": [{"text": "甲" if text == "乙" else text}]}).encode()
            status = b"429 Too Many" if text == "丙" else b"200 OK"
            writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))

    async def load_of_20_looks(text):
        """Each look at the clock takes a second."""
        monkeypatch.setattr(http_load, "time", SimpleNamespace(time=itertools.count().__next__))
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port, requests = server.sockets[0].getsockname()[1], [(text, http_load.request_of(text))]
        return await http_load.client(port, requests, 0, 0, 20)

    # asked at 1, 4, ... 19, answered a second later, and counted at 3, 6, ... 21
    assert asyncio.run(load_of_20_looks("甲")) == ([1000] * 7, 6, 0)
    for text in "乙丙丁":
        assert asyncio.run(load_of_20_looks(text)) == ([], 0, 19)


@pytest.mark.slow
def test_models_equality_and_predictor(tiny_export, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data.txt"
    data.write_text("球队赢得比赛\t体育\n\n股市今日上涨\n", encoding="utf-8")
    monkeypatch.setattr(measurements, "BATCHES", (1, 256))
    args = Namespace(model_path=tiny_export, data_file=data, work_dir=tmp_path, texts=5, device="cpu", run_one="models")
    measurements.prepare(args)
    assert measurements.texts_of(args) == ["球队赢得比赛", "股市今日上涨"] * 2 + ["球队赢得比赛"]
    own, wide = (read_config(tmp_path / name) for name in ("own", "wide"))
    assert wide["hidden_size"] == 2 * own["hidden_size"]
    model = Predictor(tmp_path / "wide", "float16")
    assert np.isfinite(model.text_logits(measurements.texts_of(args))).all()
    ratio = operations(wide, [128]) / operations(own, [128])  # 2 for attention's products, 4 for the others
    assert 2 < ratio < 4

    measurements.compare(args)
    measurements.predictor(args)
    told = capsys.readouterr().out
    assert "Error" not in told and "float32, 5 texts | 100 % same labels, 0 farthest probability" in told
    assert told.count(" ms a text") == 2 * (1 + 2) * 3  # own and wide at 128 tokens, own at its lengths

    monkeypatch.setattr(gpu_forms, "BATCHES", (1, 256))
    gpu_forms.forms(args)
    told = capsys.readouterr().out
    assert "Error" not in told and told.count("% same labels") == 3  # of plain, fused and CUDA graphs
    assert told.count(" ms a text") == 3 * 2 * 2 * 2 * 2  # forms, lengths, batches, callers, networks


@pytest.mark.slow
def test_a_server_of_several_processes(tiny_export, tmp_path, monkeypatch, capsys):
    """Its load, and that what cannot start costs nothing else."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "data.txt").write_text("球队赢得比赛\n股市今日上涨\n", encoding="utf-8")
    (tmp_path / "own").symlink_to(tiny_export)
    several = ("--workers", "2", "--num_threads", "2")
    monkeypatch.setattr(measurements, "SERVERS", ((("--workers", "0"), (1,)), (several, (3,))))
    args = Namespace(work_dir=tmp_path, device="cpu", run_one="server", seconds=0.3)
    measurements.server(args)
    broken, started, loaded = capsys.readouterr().out.splitlines()
    assert "--workers 0, start" in broken and "The server did not start" in broken
    assert "s until it answers" in started and "2 workers are ready" in (tmp_path / "server.log").read_text("utf-8")
    assert re.search(r"--workers 2 --num_threads 2, clients 3 \| \d\S* requests/s, \d\S* ms p50", loaded)
    assert "failed" not in loaded
