"""deploy/ray_batch: a data lake's rows come out once each and in order, with the Predictor's labels, whatever is killed.

What needs no cluster runs the actor's class in this process. The tests with the marker `ray` start three nodes here.
"""

import gzip
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from deploy.ray_batch import lake, predict
from hierarchical.predictor import Predictor
from tests.deploy.conftest import without_ray
from utils import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NEW = ["row", "labels", "probabilities", "levels"]


@pytest.fixture
def call(tiny_export, tmp_path, monkeypatch):
    """call(*flags): main() with what is in tmp_path/in, without Ray: one actor after the other, in this process."""
    without_ray(monkeypatch)
    (tmp_path / "in").mkdir()

    def call(*flags):
        words = ["--model_path", tiny_export, "--input", tmp_path / "in", "--output", tmp_path / "out"]
        predict.main([str(word) for word in [*words, "--precision", "float32", *flags]])

    return call


def parquet(path, texts, column="body", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array(range(len(texts)), pa.int16()), column: texts})
    pq.write_table(table, path, **settings)
    return table


def read(folder, name):
    """All rows of the pieces of a file, in the order of the pieces' names."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.glob(f"{name}-*.parquet")))


def expected(predictor, texts):
    return [(one.labels, one.levels) for one in predictor.predict([(text or "").strip() for text in texts])]


def found(table):
    return [
        (labels, dict(levels)) for labels, levels in zip(*(table[name].to_pylist() for name in ("labels", "levels")))
    ]


@pytest.mark.slow
def test_parquet_keeps_columns_types_and_order(call, predictor, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(lake, "PIECE_ROWS", 40)
    given = [*texts[:100], None]
    table = parquet(tmp_path / "in/day=1/a.parquet", given, row_group_size=33)
    parquet(tmp_path / "in/empty.parquet", pa.array([], pa.string()))
    call("--text_column", "body")
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "day=1").iterdir()) == [
        f"a.parquet-0000{i}-of-00003.parquet" for i in range(3)
    ]
    whole = read(out / "day=1", "a.parquet")
    assert whole.schema.names == [*table.schema.names, *NEW] and whole.select(table.schema.names).equals(table)
    assert whole["row"].to_pylist() == list(range(101)) and found(whole) == expected(predictor, given)
    assert read(out, "empty.parquet").num_rows == 0
    assert (out / "_SUCCESS").exists() and not (out / "_unfinished").exists()


@pytest.mark.slow
def test_lines_go_out_as_json_lines(call, predictor, texts, tmp_path):
    plain = [text for text in texts[:20] if text.strip()]
    with gzip.open(tmp_path / "in/a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": [i, None], "text": text}) + "\n" for i, text in enumerate(plain))
    csv = "\ufefftext,n\n" + "".join(f'"{text}\n二",{i}\n' for i, text in enumerate(plain[:3]))
    (tmp_path / "in/b.csv").write_text(csv, encoding="utf-8")
    (tmp_path / "in/c.txt").write_text("\n".join([plain[0], "", plain[1]]), encoding="utf-8")
    call("--prefix", "my_", "--certainty", "0.5")
    rows = {
        path.name[0]: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (tmp_path / "out").glob("*.jsonl")
    }
    assert list(rows["a"][0]) == ["id", "text", *(f"my_{name}" for name in [*NEW, "certainty", "sure"])]
    given = {"a": plain, "b": [f"{text}\n二" for text in plain[:3]], "c": [plain[0], "", plain[1]]}
    for name, some in given.items():
        assert [row["text"] for row in rows[name]] == some and [row["my_row"] for row in rows[name]] == [
            *range(len(some))
        ]
        assert [row["my_labels"] for row in rows[name]] == [labels for labels, _ in expected(predictor, some)]
    assert [row["id"] for row in rows["a"]] == [[i, None] for i in range(len(plain))]
    assert [row["n"] for row in rows["b"]] == ["0", "1", "2"] and rows["c"][1]["my_labels"] == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv", ".jsonl.gz"])
def test_large_files_of_lines_are_cut_where_a_line_is_a_row(call, predictor, texts, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(lake, "PIECE_ROWS", 10)
    monkeypatch.setattr(lake, "WHOLE_BYTES", 100)
    given = [*(text for text in texts[:24] if text.strip()), "", "末"]
    lines = {".txt": given, ".csv": ["text", *(f'"{text}"' for text in given)]}.get(
        suffix, [json.dumps({"text": text, "n": i}) for i, text in enumerate(given)]
    )
    opened = gzip.open if suffix.endswith("gz") else open
    with opened(tmp_path / f"in/a{suffix}", "wt", encoding="utf-8-sig") as file:
        file.write("\n".join(lines))  # no end of the last one
    call()
    pieces = sorted((tmp_path / "out").glob("*.jsonl"))
    rows = [json.loads(line) for path in pieces for line in path.read_text("utf-8").splitlines()]
    assert len(pieces) == (-(-len(given) // 10) if suffix in (".jsonl", ".txt") else 1)
    assert [row["row"] for row in rows] == [*range(len(given))] and [row["text"] for row in rows] == given
    assert [row["labels"] for row in rows] == [labels for labels, _ in expected(predictor, given)]


@pytest.mark.slow
def test_long_texts_are_read_in_windows_where_that_is_asked_for(call, tiny_export, texts, tmp_path):
    flags = {"max_seq_length": 8, "long_text": "windows", "window_stride": 4, "max_windows": 9}
    given = [text.strip() for text in texts[:10] if text.strip()]
    (tmp_path / "in/a.txt").write_text("\n".join(given), "utf-8")
    call(*(word for name, value in flags.items() for word in (f"--{name}", value)))
    rows = [json.loads(line) for line in (tmp_path / "out/a.txt-00000-of-00001.jsonl").read_text("utf-8").splitlines()]
    found = [result.labels for result in Predictor(tiny_export, "float32", **flags).predict(given)]
    assert [row["labels"] for row in rows] == found
    assert found != [result.labels for result in Predictor(tiny_export, "float32", max_seq_length=8).predict(given)]


def test_a_fault_in_a_later_piece_is_told_with_its_line(call, tmp_path, monkeypatch):
    monkeypatch.setattr(lake, "PIECE_ROWS", 2)
    monkeypatch.setattr(lake, "WHOLE_BYTES", 0)
    (tmp_path / "in/a.txt").write_bytes("队\n队\n队\n".encode() + b"\xff\n")
    with pytest.raises(InputError, match=r"a.txt:4: byte 1 is not UTF-8"):
        call()
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["a.txt-00000-of-00002.jsonl"]


@pytest.mark.slow
def test_a_bad_file_stops_no_other_and_resume_mends(call, tmp_path):
    (tmp_path / "in/good.txt").write_text("球队\n", encoding="utf-8")
    bad = tmp_path / "in/bad.jsonl"
    bad.write_text('{"text": "球队"}\n{"text": 5}\n{"text":\n{"txt": "a"}\n', encoding="utf-8")
    with pytest.raises(InputError) as told:
        call()
    for fault in (
        "bad.jsonl:2: 'text' must be a text, not 5",
        "bad.jsonl:3: not JSON",
        "bad.jsonl:4: no 'text' in this row",
    ):
        assert fault in str(told.value)
    (made,) = (tmp_path / "out").glob("*.jsonl")
    before = made.stat().st_mtime_ns
    assert made.name == "good.txt-00000-of-00001.jsonl" and not (tmp_path / "out/_SUCCESS").exists()
    bad.write_text('{"text": "球队"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="changed: floor"):
        call("--resume", "--floor", "0.5")
    call("--resume")
    assert made.stat().st_mtime_ns == before and (tmp_path / "out/_SUCCESS").exists()
    (tmp_path / "in/good.txt").write_text("球队\n\n", encoding="utf-8")
    call("--resume")
    assert len(made.read_text("utf-8").splitlines()) == 2
    bad.unlink()
    for _ in range(2):  # what was made of a file that is gone stays, however often
        call("--resume")
        assert len(list((tmp_path / "out").glob("bad.jsonl-*"))) == 1
    with pytest.raises(InputError, match="changed: input"):
        call("--resume", "--input", tmp_path / "in", tmp_path / "in/good.txt")


def test_what_is_wrong_is_told_before_ray_starts(call, tmp_path):
    with pytest.raises(InputError, match="no file of rows there"):
        call()
    parquet(tmp_path / "in/a.parquet", ["球队"])
    (tmp_path / "in/b.csv").write_text("id,body,labels\n", encoding="utf-8")
    with pytest.raises(InputError, match="(?s)a.parquet: no column 'text'; it has: id, body.*b.csv: no column 'text'"):
        call()
    with pytest.raises(InputError, match="a.parquet: the column 'id' holds int16, not texts"):
        call("--input", tmp_path / "in/*.parquet", "--text_column", "id")
    with pytest.raises(InputError, match="b.csv: has the columns labels already. Give --prefix"):
        call("--text_column", "body")
    (tmp_path / "in/b.csv").write_text("n,body,n\n", encoding="utf-8")
    with pytest.raises(InputError, match="b.csv: has several columns of one name: n"):
        call("--text_column", "body")
    (tmp_path / "in/b.csv").unlink()
    with pytest.raises(InputError, match="lies in --input"):
        call("--text_column", "body", "--prefix", "my_", "--output", tmp_path / "in/out")
    with pytest.raises(InputError, match="pyarrow cannot open it"):
        call("--input", "s3x://bucket/in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/other").touch()
    with pytest.raises(InputError, match="holds 1 files. Name an empty folder, or give --resume"):
        call("--text_column", "body", "--prefix", "my_")
    with pytest.raises(InputError, match="no Ray cluster answers there"):
        predict.require_answer("127.0.0.1:9")


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("/in/a.csv", "/in/*.csv", True), ("/in/b/a.csv", "/in/*.csv", False), ("/in/day=1/a.csv", "/in/day=*", True),
        ("/in/day=1/a.csv", "/in/day=2/*", False),
    ],
)  # fmt: skip
def test_patterns(path, pattern, fits):
    assert lake.matches(path, pattern) == fits


def test_which_files_are_found(tmp_path):
    for name in ("a[1].csv", "_b.csv", ".c.csv", "_sub/d.csv", "sub/e.JSONL.GZ", "notes.md", "f.parquet.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(*addresses):
        return [place.name for place in lake.find_files([str(tmp_path / address) for address in addresses])]

    assert names("") == ["a[1].csv", "sub/e.JSONL.GZ"]
    assert names("a[1].csv", "_b.csv", "sub/*") == ["_b.csv", "a[1].csv", "e.JSONL.GZ"]
    with pytest.raises(InputError, match="not a format that is read: .*notes.md"):
        names("n*")


def workers(raylet):
    """Processes of actors that a raylet has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"MapWorker" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_a_node_and_an_actor_are_killed(
    tiny_export, predictor, texts, tmp_path, monkeypatch
):
    pytest.importorskip("ray", reason="ray is not installed: pip install -r requirements-ray.txt")
    settings = {"USAGE_STATS_ENABLED": "0", "worker_niceness": "0", "raylet_start_wait_time_s": "120"}
    settings["health_check_period_ms"] = "500"  # the default takes 15 seconds to find a node dead
    for name, value in settings.items():
        monkeypatch.setenv(f"RAY_{name}", value)
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(lake, "PIECE_ROWS", 20)
    given = [text.strip() for text in texts] * 20  # 3,000 rows
    parquet(tmp_path / "in/a.parquet", given)
    out, killed = tmp_path / "out", []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

        def kill():
            """An actor of the one node, and the other node, once each has an actor and some pieces are there."""
            pids = [node.all_processes["raylet"][0].process.pid for node in nodes]
            while not all(map(workers, pids)) or len(list(out.glob("*.parquet"))) < 10:
                time.sleep(0.02)
            done = len(list(out.glob("*.parquet")))
            os.kill(workers(pids[0])[0], signal.SIGKILL)
            cluster.remove_node(nodes[1], allow_graceful=False)
            killed.append(done)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        words = ["--model_path", tiny_export, "--precision", "float32", "--input", tmp_path / "in", "--output", out]
        predict.main([str(word) for word in [*words, "--text_column", "body", "--address", cluster.address]])
        thread.join(60)
    finally:
        cluster.shutdown()
    assert killed and killed[0] < 150  # in the middle
    whole = read(out, "a.parquet")
    assert whole["row"].to_pylist() == list(range(len(given))) and whole["body"].to_pylist() == given
    assert found(whole) == expected(predictor, given)
