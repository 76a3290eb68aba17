"""Fixtures of the tests of the back end and of the answers that it is sent; other tests here need no server's packages.

folder    a data folder, to whose ledger the answers go
client    asks a back end of a model that knows some texts, in this process
submit    sends it a message of Label Studio's
"""

import asyncio
import json
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical.annotation import import_files
from hierarchical.decisions import Decision
from hierarchical.ledger import id_of
from hierarchical.long_texts import CUT
from utils import LabelTree

from tests.deploy.label_studio.messages import webhook  # isort: skip

TREE = LabelTree(["财经", "财经##股市", "体育", "体育##胜负"])
CONFIG = "".join(import_files([], [], TREE)["label_studio_config.xml"][1])
SAYS = {
    "股市大涨": [0.98, 0.9, 0.02, 0.01],
    "主场获胜": [0.3, 0.1, 0.9, 0.6],
    "无人知晓": [0.1, 0.2, 0.1, 0.1],
    "大涨可疑": [0.98, 0.9, 0.02, 0.01],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder that all tests add answers to, each about texts of its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "label.txt").write_text("\n".join(TREE.labels), encoding="utf-8")
    (folder / "train.txt").write_text("股市大涨\t体育\n主场获胜\t体育,体育##胜负\n", encoding="utf-8")
    return folder


class Asked:
    """The app of a server, asked in this process: without a socket, and in a loop that runs while it is."""

    def __init__(self, service, app):
        import httpx

        self.loop, self.service = asyncio.new_event_loop(), service
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

        async def start():
            service.start()

        self.loop.run_until_complete(start())

    def get(self, path):
        return self.loop.run_until_complete(self.client.get(path))

    def post(self, path, **more):
        return self.loop.run_until_complete(self.client.post(path, **more))

    def close(self):
        self.service.stop()
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def client(folder):
    """client(*flags): asks the back end of a model that knows the texts in SAYS; the same one for the same flags."""
    from deploy.label_studio import backend
    from deploy.label_studio.routes import add_routes
    from deploy.simple_serving.app import make_app
    from deploy.simple_serving.guard import Hosts
    from deploy.simple_serving.keys import Keys
    from deploy.simple_serving.model import Model
    from deploy.simple_serving.service import Service

    def score(ids, texts):
        return np.array([SAYS.get(text, [0] * len(TREE)) for text in texts], np.float32)

    def load():
        tokenizer = SimpleNamespace(
            max_seq_length=8, long_text=CUT, windows=False, encode=lambda texts: [[1] * len(text) for text in texts]
        )
        return Model(folder, {}, TREE, tokenizer, Decision(), score, version="v1")

    @lru_cache
    def client(*flags, directory=folder, control=None, trainer=None):
        args = backend.parse_args(["--model_path", "unused", "--num_threads", "1", *flags])
        args.split = args.shadow = None
        service = Service(args, {"default": load}, Keys(args.keys_file, args.api_key_file))
        more = {"directory": directory, "control": control, "trainer": trainer}
        app = make_app(service, Hosts(args.host), add_routes=partial(add_routes, **more))
        opened.append(Asked(service, app))
        return opened[-1]

    opened = []
    yield client
    for one in opened:
        one.close()


@pytest.fixture
def submit(client):
    """submit(action, ...): what /webhook answers to such a message."""
    return lambda action, config=CONFIG, **more: client().post("/webhook", json=webhook(action, config, **more))


def lines(folder, *texts):
    """What stands in the ledger about these texts."""
    path, ids = folder / "ledger.jsonl", set(map(id_of, texts))
    found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in map(json.loads, found) if line["id"] in ids]
