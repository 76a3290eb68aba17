"""deploy/simple_serving: the process above the workers, with stand-ins for them that know only how to talk to it."""

import asyncio
import signal
import sys
import time

import pytest

pytest.importorskip("pydantic")

# ruff: noqa: E402
from deploy.simple_serving import supervisor as supervisor_module
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.shared import Shared
from deploy.simple_serving.supervisor import Supervisor
from utils import InputError

# A worker: its model is what a file says; what it was asked goes to another file, a line each.
WORKER = """
import json, os, signal, socket, sys
number, asking, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
file, asked, anew = socket.socket(fileno=asking).makefile("rw"), open(f"{folder}/{number}.asked", "a"), None
def model(name):
    return open(f"{folder}/{name}").read()
def say(**message):
    print(json.dumps(message), file=file, flush=True)
if (how := os.path.exists(f"{folder}/{number}.how") and model(f"{number}.how")) == "fail":
    say(ask="fail", number=0, given={"why": "no such file"})
    sys.exit(2)
if how == "die":
    os.kill(os.getpid(), 9)
say(ask="join", number=1, given={"identities": {name: model(name) for name in ("default", "other")}})
answered = 0
for line in file:
    message = json.loads(line)
    if "ask" not in message:
        print("joined", *message["answer"], file=asked, flush=True)
        continue
    what, given = message["ask"], message["given"]
    print(what, *given.values(), file=asked, flush=True)
    answered += 1
    if what == "leave" and how == "hang":
        signal.pause()
    answer = None
    if what == "read":
        content = model(given["name"])
        if content == f"broken for {number}":
            say(number=message["number"], refused=[409, "model", "broken", "Mend it.", None, ""])
            continue
        answer = {"identity": content, "told": given["name"]}
    if what == "figures":
        answer = [["texts", "counter", "", [["texts_total", {}, answered]]], ["python", "gauge", "", [["python_info", {}, 1]]]]
    say(number=message["number"], answer=answer)
    if what == "leave":
        sys.exit(0)
"""


class Workers:
    """A Supervisor of stand-ins in a folder."""

    def __init__(self, folder, count):
        for name in ("default", "other"):
            (folder / name).write_text("first")
        self.folder, file = folder, Shared.make(count)
        self.shared = Shared(file, count)
        self.of_first = Shared(file, count, 0)
        self.supervisor = Supervisor(count, self.command, (), self.shared, {"default"})
        self.ready = asyncio.Event()

    def command(self, number, asking, silent):
        assert silent == (number > 0 or self.ready.is_set())
        return [sys.executable, "-S", "-c", WORKER, str(number), str(asking), str(self.folder)]

    def asked(self, number):
        return (self.folder / f"{number}.asked").read_text().splitlines()

    def process(self, number):
        return self.supervisor.members[number].process

    async def until(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def kill(self, number):
        """Kill a worker; and wait until its successor answers."""
        old = self.supervisor.members[number]
        old.process.kill()
        await self.until(lambda: self.supervisor.members[number] not in (old, None))
        await self.supervisor.members[number].ready


@pytest.fixture
def with_workers(tmp_path, monkeypatch):
    """with_workers(test, count): run an async test of Workers that answer; the exit code of their end."""
    monkeypatch.setattr(supervisor_module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor_module, "RETRY_SECONDS", 0.05)

    def run(test, count=2):
        async def all_of_it():
            workers = Workers(tmp_path, count)
            ending = asyncio.ensure_future(workers.supervisor.run(workers.ready.set))
            await asyncio.wait([ending, asyncio.ensure_future(workers.ready.wait())], return_when="FIRST_COMPLETED")
            if not ending.done():
                await test(workers)
                if not workers.supervisor.left.is_set():
                    workers.supervisor.leave()  # as at a signal, which tests of whole servers send
            return await asyncio.wait_for(ending, 20)

        return asyncio.run(all_of_it())

    return run


def test_all_are_asked_and_all_end(with_workers):
    async def test(workers):
        await workers.supervisor.changes.load("other")
        assert workers.asked(0) == workers.asked(1) == ["joined", "read other", "use"]
        workers.processes = [workers.process(number) for number in (0, 1)]
        test.workers = workers

    assert with_workers(test) == 0
    assert [process.returncode for process in test.workers.processes] == [0, 0]
    assert [test.workers.asked(number)[-1] for number in (0, 1)] == ["leave", "leave"]


def test_one_that_hangs_does_not_hold_up_the_end(with_workers, printed, monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor_module, "LEAVE_SECONDS", 2)
    (tmp_path / "1.how").write_text("hang")

    async def test(workers):
        test.processes = [workers.process(number) for number in (0, 1)]

    assert with_workers(test) == 0
    assert [process.returncode for process in test.processes] == [0, -signal.SIGKILL]
    assert any("has not answered for 2 s, and is ended" in line for line in printed)


def test_one_that_dies_is_started_again(with_workers, printed):
    async def test(workers):
        (usage,) = workers.of_first.usages(["shop"]).values()
        usage.begin(1)
        assert usage.begin(1) == 1
        await workers.kill(0)
        assert usage.begin(1) is None  # what it was working on is forgotten
        assert len(workers.supervisor._answering()) == 2

    assert with_workers(test) == 0
    told = "\n".join(printed)
    assert told.count("Worker 1 (process ") == 2 and "was ended by SIGKILL; it is started again" in told
    assert "Worker 2" not in told


def test_one_that_cannot_start_ends_the_start(with_workers, tmp_path):
    (tmp_path / "1.how").write_text("fail")
    with pytest.raises(InputError, match="^no such file$"):
        with_workers(None)
    (tmp_path / "1.how").write_text("die")
    with pytest.raises(InputError, match=r"Worker 2 .* was ended by SIGKILL before it was ready"):
        with_workers(None)


def test_one_whose_files_break_is_tried_again_and_the_others_answer(with_workers, printed, monkeypatch):
    monkeypatch.setattr(supervisor_module, "MANY_DEATHS", 1)

    async def test(workers):
        how = workers.folder / "0.how"
        how.write_text("fail")
        workers.process(0).kill()
        await workers.until(lambda: sum("cannot start: no such file" in line for line in printed) > 2)  # no limit
        assert [member.number for member in workers.supervisor._answering()] == [1]
        how.unlink()
        await workers.until(lambda: len(workers.supervisor._answering()) == 2)

    assert with_workers(test) == 0


def test_too_many_deaths_end_the_server(with_workers, printed, monkeypatch):
    monkeypatch.setattr(supervisor_module, "MANY_DEATHS", 1)

    async def test(workers):
        (workers.folder / "0.how").write_text("die")
        workers.process(0).kill()
        await workers.until(workers.supervisor.left.is_set)

    assert with_workers(test) == 1
    assert "Workers have died 2 times within" in printed[-1] and printed[-1].endswith("the server ends")


def test_a_change_is_made_in_all_workers_or_in_none(with_workers, printed):
    async def test(workers):
        changes, other = workers.supervisor.changes, workers.folder / "other"
        other.write_text("broken for 1")
        with pytest.raises(Refusal) as refused:
            await changes.reload()
        assert refused.value.status == 409
        for number in (0, 1):  # the default was loaded anew, the other was not
            assert workers.asked(number)[1:] == ["refresh", "read default", "use", "read other", "forget"]
        assert changes.loaded == {"default": "first", "other": "first"}
        with pytest.raises(Refusal):
            await changes.unload("default")
        await changes.unload("other")
        assert workers.asked(0)[-1] == workers.asked(1)[-1] == "drop other"
        other.write_text("first")
        await workers.kill(1)
        await workers.until(lambda: workers.asked(1)[-1:] == ["joined other"])  # which it is to unload
        reloads = {tuple(labels.items()): count for name, _, _, samples in await workers.supervisor.figures()
                   if name == "model_reloads" for _, labels, count in samples}  # fmt: skip
        assert reloads == {(("outcome", "done"),): 1, (("outcome", "failed"),): 1}

    assert with_workers(test) == 0
    assert sum("Not reloaded, the model loaded before stays in service: broken" in line for line in printed) == 1


def test_no_worker_answers_with_another_model_than_the_others(with_workers, printed):
    """Files that were replaced without a reload are what a new worker reads: then the others read them, too."""

    async def test(workers):
        (workers.folder / "default").write_text("second")
        await workers.kill(0)
        assert workers.supervisor.changes.loaded == {"default": "second", "other": "first"}
        assert workers.asked(1)[1:] == ["refresh", "read default", "use", "read other", "use"]
        await workers.until(lambda: workers.asked(0)[-1:] == ["joined"])
        (workers.folder / "default").write_text("broken for 1")  # which 0 could read
        workers.process(0).kill()
        await workers.until(lambda: any("not those in use" in line for line in printed))
        assert [member.number for member in workers.supervisor._answering()] == [1]
        (workers.folder / "default").write_text("second")
        await workers.until(lambda: len(workers.supervisor._answering()) == 2)

    assert with_workers(test) == 0


def test_where_all_have_died_the_files_that_are_there_count(with_workers):
    async def test(workers):
        (workers.folder / "default").write_text("second")
        old = [workers.supervisor.members[number] for number in (0, 1)]
        for member in old:
            member.process.kill()
        await workers.until(lambda: not set(old) & set(workers.supervisor.members.values()))
        await workers.until(lambda: len(workers.supervisor._answering()) == 2)
        assert workers.supervisor.changes.loaded["default"] == "second"

    assert with_workers(test) == 0


def test_figures_are_those_of_all_and_do_not_fall(with_workers):
    async def test(workers):
        async def figures():
            return {name: samples[0][2] for name, _, _, samples in await workers.supervisor.figures() if samples}

        assert await figures() == {"texts": 2, "python": 1, "workers": 2, "worker_deaths": 0}
        assert (await figures())["texts"] == 4
        await workers.kill(1)
        assert await figures() == {"texts": 3 + 2 + 1, "python": 1, "workers": 2, "worker_deaths": 1}

    assert with_workers(test) == 0


def test_one_that_hangs_is_killed_before_the_others_change(with_workers, monkeypatch, printed):
    async def test(workers):
        monkeypatch.setattr(supervisor_module, "STEP_SECONDS", 2)
        workers.process(1).send_signal(signal.SIGSTOP)
        (workers.folder / "default").write_text("second")
        await workers.supervisor.changes.load("default")
        assert workers.asked(0)[-1] == "use"
        await workers.until(lambda: len(workers.supervisor._answering()) == 2)
        await workers.until(lambda: workers.asked(1)[-1:] == ["joined"])

    assert with_workers(test) == 0
    assert any("Worker 2" in line and "has not answered for 2 s" in line for line in printed)
