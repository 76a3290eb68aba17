"""analysis/review.py: the queue, the server, the page, worked on by keyboard in a browser, and the script."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest

from analysis import review
from analysis.desk import Desk
from analysis.evidence import Evidence
from analysis.guidelines import read_guidelines
from analysis.review_queue import make_queue, read_queue, write_queue
from hierarchical.ledger import Ledger, id_of
from tests.analysis.conftest import LAYOFFS, PLANTED, SHARES, TREE, item, numbers, planted_rows, rows_of
from tests.conftest import ROOT
from utils import LabelTree, load_rows

# ---- the queue -------------------------------------------------------------------------------------------------------


def test_texts_of_dev_and_test_are_not_asked_about(data_dir):
    folder = data_dir(test_txt="留给测试\t财经\n", data_txt="留给测试\n新的\n")
    tree = LabelTree.read(folder / "label.txt")
    train = load_rows(folder / "train.txt", tree)
    logger = logging.getLogger("of nobody")
    assert review.read_texts_to_label(folder / "data.txt", tree, train, Ledger(folder), logger) == ["新的"]


@pytest.fixture
def settings():
    return SimpleNamespace(seed=3, margin=0.5, dirty_num=10, control_num=20)


def test_what_is_in_the_queue(tmp_path, settings):
    ledger, train = Ledger(tmp_path), planted_rows()
    ledger.add([ledger.answer(train.texts[50], who, labels) for who, labels in (("ann", SHARES), ("bob", LAYOFFS))])
    ledger.add([ledger.answer(train.texts[PLANTED[0]], "ann", LAYOFFS)])  # put right, so it rests
    items = make_queue(train, ["门将扑出点球"], ledger, TREE, lambda texts: [None], settings)
    by_kind = {
        kind: [one for one in items if kind in one["kinds"]] for kind in ("suspect", "control", "disagreement", "text")
    }
    assert [len(ones) for ones in by_kind.values()] == [10, 20, 1, 1]
    assert {one["text"] for one in by_kind["suspect"][:2]} == {train.texts[i] for i in PLANTED[1:]}
    assert by_kind["suspect"][0]["proposal"] == LAYOFFS or by_kind["suspect"][0]["proposal"] == SHARES
    assert by_kind["disagreement"][0]["opinions"] == [["ann", SHARES], ["bob", LAYOFFS]]
    assert by_kind["text"][0]["labels"] is None and train.texts[PLANTED[0]] not in [one["text"] for one in items]
    again = make_queue(train, [], ledger, TREE, lambda texts: [], settings)
    assert [one["id"] for one in again] == [one["id"] for one in items if one["kinds"] != ["text"]]


def test_a_queue_is_kept_until_its_files_change(tmp_path):
    source, path = tmp_path / "train.txt", tmp_path / "queue.jsonl"
    source.write_text("甲\t财经\n", "utf-8")
    assert read_queue(path, [source]) is None
    write_queue(path, [item(1, "suspect")], [source, tmp_path / "support.txt"])
    assert read_queue(path, [source, tmp_path / "support.txt"]) == [item(1, "suspect")]
    source.write_text("乙\t财经\n", "utf-8")
    assert read_queue(path, [source]) is None
    path.write_text("[]", "utf-8")
    assert read_queue(path, [source]) is None


# ---- the server ------------------------------------------------------------------------------------------------------


class Model:
    """Logits that count letters: of 裁员 for the lay-offs, of 股价 for the shares."""

    def text_logits(self, texts):
        import numpy as np

        return np.array([[text.count("裁"), text.count("裁员"), 0, text.count("股价")] for text in texts], float)

    def predict(self, texts):
        return [SimpleNamespace(labels=["财经"], probabilities={"财经": 0.8, "组织": 0.01}) for _ in texts]


@pytest.fixture
def served(tmp_path):
    """served(items): the address of a server on them, with its Desk as `desk`."""
    uvicorn = pytest.importorskip("uvicorn")
    from analysis.review_app import make_app
    from deploy.simple_serving.guard import Hosts

    running = []

    def served(items, train=None, tree=TREE):
        desk, evidence = Desk(items, Ledger(tmp_path)), Evidence(Model(), train or planted_rows(), tree)
        app = make_app(desk, evidence, tree, tmp_path, "secret", Hosts("127.0.0.1"), "ann")
        sock = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        running.append((server, thread, evidence))
        return SimpleNamespace(url=f"http://127.0.0.1:{sock.getsockname()[1]}/", desk=desk, folder=tmp_path)

    yield served
    for server, thread, evidence in running:
        server.should_exit = True
        thread.join()
        evidence.close()


def test_requests(served):
    train = planted_rows()
    items = [item(i, "suspect", rank=i) | {"text": text, "id": id_of(text)} for i, text in enumerate(train.texts[:3])]
    there = served(items + [item(7, "control")])
    with httpx.Client(base_url=there.url) as client:
        for path in ("", "api/labels", "?token=wrong"):
            assert client.get(path).status_code == 401
        assert client.post("api/next", json={}).status_code == 401
        assert (
            client.get("", params={"token": "secret"})
            .headers["content-security-policy"]
            .startswith("default-src 'none'")
        )
        assert client.get("?token=secret", headers={"Host": "evil.example"}).status_code == 421
    me = {"browser": "12345678", "who": "ann"}
    with httpx.Client(base_url=there.url, headers={"X-Token": "secret"}) as client:

        def post(path, **body):
            return client.post(f"api/{path}", json=me | body)

        state = post("next", kinds=["control"]).json()
        assert "kinds" not in state["item"] and "rank" not in state["item"]  # nobody sees what is the control sample
        first = post("next", kinds=["suspect"]).json()["item"]
        assert post("answer", id=first["id"], labels=["组织##裁圆"]).status_code == 422
        assert (
            post("answer", id="nothing", labels=[]).status_code == 409 and post("next", kinds=["x"]).status_code == 422
        )
        assert post("answer", id=first["id"], labels=["组织##裁员"]).status_code == 200
        assert there.desk.ledger.verdict(first["id"]).labels == ("组织", "组织##裁员")  # with its ancestors
        assert post("undo").json()["item"]["id"] == first["id"] and post("undo").status_code == 409
        words = client.post(
            "api/words", json={"id": id_of(train.texts[1]), "towards": "组织##裁员", "against": "财经"}
        ).json()["words"]
        assert [train.texts[1][a:b] for a, b, effect in words if effect > 0] == ["裁员"]
        near = client.post("api/neighbours", json={"id": first["id"]}).json()["rows"]
        assert len(near) == 5 and all("股价大涨" in one["text"] for one in near) and near[0]["cosine"] < 0.999
        assert client.post("api/guideline", json={"label": "财经", "text": "股票\t与\n公司"}).json() == {
            "text": "股票 与 公司"
        }
        assert client.post("api/guideline", json={"label": "才经", "text": ""}).status_code == 422
    assert read_guidelines(there.folder) == {"财经": "股票 与 公司"}


def test_what_the_browser_gets_does_not_grow_with_the_rows(served):
    there = served([item(i, "suspect", rank=i) for i in range(100_000)])
    with httpx.Client(base_url=there.url, headers={"X-Token": "secret"}) as client:
        body = {"browser": "12345678", "who": "ann"}
        assert len(client.post("api/next", json=body).content) < 2_000
        assert len(client.get("api/labels").content) < 2_000


# ---- in a browser, by keyboard alone ---------------------------------------------------------------------------------


@pytest.fixture
def opened(chromium):
    def opened(url, **settings):
        page = chromium.new_page(**settings)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: page.faults.append(message.text))
        page.goto(url + "?token=secret")
        return page

    return opened


def see(page, text):
    page.locator("#text", has_text=text).wait_for()


def graph_of(label, parent):
    return LabelTree(TREE.labels, further=[(TREE.index[label], TREE.index[parent])])


def test_labels_of_several_parents(served):
    there = served([one := item(0, "suspect", rank=0)], tree=graph_of("组织##裁员", "财经"))
    with httpx.Client(base_url=there.url, headers={"X-Token": "secret"}) as client:
        above = client.get("api/labels").json()["above"]
        assert above["组织##裁员"] == ["组织", "财经"] and above["组织"] == []
        client.post("api/next", json={"browser": "12345678", "who": "ann"}).raise_for_status()
        answer = {"browser": "12345678", "who": "ann", "id": one["id"], "labels": ["组织##裁员"]}
        client.post("api/answer", json=answer).raise_for_status()
    assert sorted(Ledger(there.folder).decisions[one["id"]][0].after) == ["组织", "组织##裁员", "财经"]


@pytest.mark.slow
def test_the_deepest_of_several_parents(served, opened):
    page = opened(served([item(0, "suspect", rank=0)], tree=graph_of("组织##裁员", "财经")).url, locale="en")
    see(page, "第0条")
    assert page.evaluate("names => deepest(names)", [*LAYOFFS, SHARES[0]]) == [LAYOFFS[-1]]


@pytest.mark.slow
def test_a_round_by_keyboard(served, opened):
    there = served([item(i, "suspect", rank=i) for i in range(6)] + [item(9, "text", labels=None, rank=9)])
    page = opened(there.url, viewport={"width": 1280, "height": 800}, locale="en")
    see(page, "第0条")
    page.keyboard.press("k")
    see(page, "第9条")
    assert page.locator("#keep").is_disabled()  # there is nothing to keep
    page.keyboard.press("p")
    see(page, "第1条")
    page.keyboard.press("c")
    page.keyboard.type("解雇")
    assert page.locator("[role=treeitem]").count() == 1
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    see(page, "第2条")
    page.keyboard.press("c")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "Enter", "Escape"):
        page.keyboard.press(key)
    see(page, "第2条")  # cancelled
    page.keyboard.press("s")
    see(page, "第3条")
    page.keyboard.press("d")
    see(page, "第4条")
    page.keyboard.press("u")
    see(page, "第3条")
    page.keyboard.press("p")
    see(page, "第4条")
    given = {i: there.desk.ledger.verdict(id_of(f"第{i}条")) for i in (9, 0, 1, 2, 3)}
    assert {i: (one.state, list(one.labels or ())) for i, one in given.items()} == {
        9: ("settled", LAYOFFS), 0: ("settled", SHARES), 1: ("settled", ["组织", "组织##解雇"]), 2: ("skipped", []),
        3: ("settled", LAYOFFS),
    }  # fmt: skip
    assert "5 done, 2 open" in page.inner_text("#progress") and "2 of 3 suspects were wrong" in page.inner_text(
        "#progress"
    )
    # a guideline, by keyboard: the button is the first thing after the text that Tab reaches within
    page.locator(".guide button").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.type("裁 k p s")  # letters that are keys elsewhere
    page.keyboard.press("Enter")
    page.locator("#guide-lines", has_text="裁 k p s").wait_for()
    assert len(read_guidelines(there.folder)) == 1 and page.faults == []
    page.reload()
    see(page, "第4条")


@pytest.mark.slow
def test_two_people_a_phone_in_the_dark_and_a_screen_reader(served, opened):
    there = served([item(i, "suspect", rank=i) for i in range(4)])
    ann = opened(there.url, viewport={"width": 390, "height": 800}, locale="zh-CN", color_scheme="dark")
    see(ann, "第0条")
    bob = opened(there.url, viewport={"width": 1280, "height": 800}, locale="en")
    see(bob, "第1条")
    bob.fill("#who", "bob")
    with bob.expect_response(lambda answer: "/api/next" in answer.url):
        bob.locator("#who").blur()
    bob.wait_for_function("!busy")  # while the page asks, keys do nothing
    bob.keyboard.press("k")
    see(bob, "第2条")
    assert ann.inner_text("h1") == "检查标签" and ann.evaluate("document.documentElement.scrollWidth") <= 390
    back, front = ann.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    assert sum(map(int, re.findall("[0-9]+", back)[:3])) < 150 < sum(map(int, re.findall("[0-9]+", front)[:3]))
    assert ann.evaluate("document.activeElement.id") == "text"  # what a screen reader reads first
    for role, name in (("article", "The text"), ("toolbar", "Answers"), ("status", None), ("group", "Proposal")):
        assert bob.get_by_role(role, name=name).count() >= 1, role
    bob.keyboard.press("c")
    tree = bob.get_by_role("tree", name="The labels of this text")
    assert tree.count() == 1 and bob.get_by_role("combobox", name="Search labels").count() == 1
    bob.keyboard.press("ArrowDown")
    assert bob.get_attribute("#search", "aria-activedescendant") == "label-0"
    bob.keyboard.press("Enter")
    assert bob.get_by_role("treeitem", selected=True).inner_text() == "组织"
    assert ann.faults == bob.faults == []
    assert there.desk.ledger.decisions[id_of("第1条")][0].who == "bob"


# ---- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(data_dir):
    """started(): review.py on the planted rows, as a process; its folder and address."""
    train, processes = planted_rows(), []
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in labels)}\n" for text, labels in zip(train.texts, train.labels)]
    folder = data_dir(label_txt="\n".join(TREE.labels), train_txt="".join(lines), support_txt="门将扑出点球\n")

    def started(*flags):
        command = [
            sys.executable,
            "analysis/review.py",
            "--dataset_dir",
            folder,
            "--params_path",
            "",
            "--port",
            "0",
            *flags,
        ]
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
        processes.append(process)
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"Open (http://\S+)", line):
                return SimpleNamespace(folder=folder, url=found[1], process=process, said="".join(said))
        raise AssertionError("".join(said))

    yield started
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing(started):
    me, texts = {"browser": "12345678", "who": "ann"}, []
    for _ in range(2):
        there = started("--dirty_num", 8, "--control_num", 5)
        base, _, token = there.url.partition("?token=")
        with httpx.Client(base_url=base, headers={"X-Token": token}) as client:
            for _ in range(3):
                one = client.post("api/next", json=me).json()["item"]
                assert client.post("api/answer", json=me | {"id": one["id"], "labels": ["财经"]}).status_code == 200
                texts.append(one["text"])
        there.process.send_signal(signal.SIGKILL)
        there.process.wait()
    assert len(set(texts)) == 6 and "going on with it" in there.said
    lines = [json.loads(line) for line in (there.folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == texts
    there = started()
    base, _, token = there.url.partition("?token=")
    assert httpx.post(f"{base}api/finish", json=me, headers={"X-Token": token}).status_code == 200
    rest = there.process.stderr.read()
    assert there.process.wait() == 0 and "6 of" in rest and "dirty.py --dataset_dir" in rest


def test_rows_that_were_picked_are_asked_about_alone(tmp_path, caplog):
    picked = tmp_path / "picked.jsonl"
    rows = [("第3条", ["财经"]), ("第1条", ["组织", "组织##裁员"]), ("第3条", ["财经"])]
    lines = [json.dumps({"text": text, "labels": labels, "dev_row": 7}) for text, labels in rows]
    picked.write_text("\n".join(lines), "utf-8")
    args = review.parse_args(["--dataset_dir", str(tmp_path), "--rows_file", str(picked), "--annotator", "ann"])
    logger, ledger = logging.getLogger("test"), Ledger(tmp_path)

    def items(predict=lambda texts: [SimpleNamespace(probabilities={"组织": 0.9}, labels=["组织"]) for _ in texts]):
        return review.queue_of(args, tmp_path, TREE, rows_of([], []), ledger, predict, logger)

    desk, found = Desk(items(), ledger), items(None)  # the second time nothing is predicted again
    assert numbers(found) == [3, 1] and [one["labels"] for one in found] == [SHARES, LAYOFFS]
    assert found[0]["proposal"] == ["组织"] and found[0]["model"] == {"组织": 0.9} and found[0]["kinds"] == ["suspect"]
    while one := desk.next("b", "ann"):
        desk.answer("b", "ann", one["id"], LAYOFFS)
    assert [ledger.decisions[one["id"]][0].answer for one in found] == ["changed", "confirmed"]
    assert Desk(items(None), ledger).next("b", "ann") is None, "what was answered is not asked again"
    assert not (tmp_path / "review_queue.jsonl").exists(), "the usual queue is left as it is"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows_file", "nix.jsonl"], "nix.jsonl: no such file."),
        (["--texts_file", "nix.txt"], "nix.txt: no such file."),
        (["--params_path", "nowhere"], "nowhere"),
        (["--params_path", "", "--port", "99999"], "0 to 65535"),
        (["--params_path", "", "--train_file", "none.txt"], "none.txt: no such file"),
    ],
)
def test_what_can_be_wrong(data_dir, capsys, flags, message):
    from analysis import review
    from utils import run

    with pytest.raises(SystemExit) as ended:
        run(lambda: review.main(["--dataset_dir", str(data_dir()), *flags]))
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_neighbours_of_a_text_that_is_not_in_train():
    evidence = Evidence(None, rows_of(["国足今晚出战", "两市小幅收涨", "国足明晚出战"], [(0,), (3,), (0,)]), TREE)
    assert [i for i, _ in evidence.neighbours("国足今晚出战！")][:2] == [0, 2]
    assert evidence.words("国足", "财经", None) == [] and evidence.predict(["国足"]) == [None]
    evidence.close()
