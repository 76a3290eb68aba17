"""deploy/simple_serving, asked by clients of several kinds: ours, a generated one, those of the README's examples."""

import asyncio
import json
import re
import shutil
import subprocess
import sys

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
from hierarchical.client import AsyncClient, Client, Refused

from tests.conftest import ROOT  # isort: skip

pytestmark = pytest.mark.slow
TEXT = "某公司宣布裁员"


def same(found, expected):
    assert [(row.text, row.labels, row.levels) for row in found] == [
        (row.text, row.labels, row.levels) for row in expected
    ]


def test_our_client_answers_as_the_predictor(start, tiny_export, predictor, texts):
    one = start("--model_path", tiny_export, "--precision", "float32")
    many = (texts * 300)[:300]
    with Client(one.url) as client:
        same(client.classify(many, threshold=0.3), predictor.predict(many, threshold=0.3))
        found = client.explain(TEXT)
        assert (
            len(found.words) == len(next(iter(found.falls.values()))) > 0
            and found.probabilities.keys() == found.falls.keys()
        )
        assert [model["name"] for model in client.models()] == ["default"]
        with pytest.raises(Refused, match="Did you mean 'threshold'"):
            client.classify([TEXT], treshold=0.3)

    async def ask():
        async with AsyncClient(one.url) as client:
            return await client.classify(many), await client.explain(TEXT)

    rows, again = asyncio.run(ask())
    same(rows, predictor.predict(many))
    assert again == found
    one.stop()
    with Client(one.url, retries=0) as client, pytest.raises(Refused, match="Is the server up"):
        client.classify([TEXT])


def test_a_client_made_of_the_description(shared, client, tmp_path):
    pytest.importorskip("openapi_python_client")
    (tmp_path / "openapi.json").write_text(client.get("/openapi.json").text, encoding="utf-8")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    done = subprocess.run([*command, "--output-path", "made"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    script = f"""
import sys; sys.path.insert(0, "."); from made import Client
from made.api.default import classify_v1_classify_post as classify, explain_v1_explain_post as explain
from made.models import ClassifyBody, ErrorAnswer, ExplainBody
client = Client(base_url="{shared.url}")
answer = classify.sync(client=client, body=ClassifyBody(texts=["{TEXT}"], top_k=2))
assert answer.results[0].text == "{TEXT}" and len(answer.results[0].labels) == 2, answer
assert explain.sync(client=client, body=ExplainBody(text="{TEXT}")).labels[0].falls
refused = classify.sync(client=client, body=ClassifyBody(texts=["{TEXT}"] * 6))
assert isinstance(refused, ErrorAnswer) and refused.problems[0].what == "6 texts", refused
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("language", "name", "command"),
    [
        ("javascript", "ask.mjs", ["node"]),
        ("java", "Ask.java", ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"]),
        ("python", "ask.py", [sys.executable]),
    ],
)
@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_examples_of_the_readme(shared, client, tmp_path, language, name, command, readme):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    text = (ROOT / "deploy/simple_serving" / readme).read_text("utf-8")
    examples = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    (labels,) = (row["labels"] for row in client.post("/v1/classify", json={"texts": TEXT}).json()["results"])
    assert examples and labels
    for example in examples:
        if "import requests" in example:
            pytest.importorskip("requests")
        (tmp_path / name).write_text(example.replace("http://127.0.0.1:8189", shared.url), encoding="utf-8")
        done = subprocess.run([*command, tmp_path / name], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert labels[0] in done.stdout


def test_curl(shared):
    """The lines of the README that ask for labels; they print JSON."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    text = (ROOT / "deploy/simple_serving/README.md").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in re.findall(r"^curl (?!-X).*", text, re.M)]
    assert len(lines) == 5
    for line in lines:
        done = subprocess.run(["bash", "-c", line.replace("http://127.0.0.1:8189", shared.url)], capture_output=True)
        assert not {"error"} & json.loads(done.stdout).keys(), line
