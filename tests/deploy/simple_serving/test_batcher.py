"""deploy/simple_serving/batcher.py: which requests go together, and which wait."""

import asyncio
import re
import threading
import time

import pytest

from deploy.simple_serving.batcher import Batcher, Full, Item


def run_batcher(script, **settings):
    """Run `script(batcher, gate, batches)`; the threads wait for the gate (an Event), and batches are noted."""
    gate, batches = threading.Event(), []

    def work(items):
        batches.append([item.work for item in items])
        assert gate.wait(30)
        if any(item.work == "bad" for item in items):
            raise ValueError("bad")
        return [f"{item.work}!" for item in items]

    async def main():
        batcher = Batcher(work, **{"workers": 1, "batch_size": 4, "queue_size": 100} | settings)
        try:
            await asyncio.wait_for(script(batcher, gate, batches), 30)
        finally:
            gate.set()
            batcher.close()

    asyncio.run(main())


def items(*works, group=None, most=100):
    return [Item(work, int(re.sub(r"\D", "", work) or 10), group, most) for work in works]


def test_idle_means_at_once_and_alone_then_what_waited_goes_together():
    async def script(batcher, gate, batches):
        first = batcher.submit(items("a"))
        later = [future for name in "bcdef" for future in batcher.submit(items(name))]
        end = time.monotonic() + 60
        while not batches and time.monotonic() < end:
            await asyncio.sleep(0.001)
        assert batches == [["a"]]
        gate.set()
        assert await asyncio.gather(*first, *later) == ["a!", "b!", "c!", "d!", "e!", "f!"]
        assert batches == [["a"], ["b", "c", "d", "e"], ["f"]]

    run_batcher(script)


def test_free_workers_share_what_there_is():
    async def script(batcher, gate, batches):
        gate.set()
        await asyncio.gather(*batcher.submit(items("a", "b", "c", "d")))
        assert sorted(map(len, batches)) == [2, 2]

    run_batcher(script, workers=2)


def test_like_lengths_go_together_and_the_oldest_never_waits_for_others():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x", "100", "20", "101", "21", "99", "500"))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        assert batches == [["x"], ["100", "101", "99"], ["20", "21"], ["500"]]

    run_batcher(script)


def test_limits_and_groups_of_items_are_kept():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x"))
        futures += batcher.submit(items("a", "b", "c", most=2)) + batcher.submit(items("d", group="new"))
        futures += batcher.submit(items("e"))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        assert batches == [["x"], ["a", "b"], ["c", "e"], ["d"]]

    run_batcher(script)


def test_items_that_stay_alone_keep_their_turn():
    """As those of an int8 model do; the others still go together around them."""

    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x"))
        futures += batcher.submit(items("a", "b", most=1)) + batcher.submit(items("c", "d"))
        futures += batcher.submit(items("e", most=1))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        assert batches == [["x"], ["a"], ["b"], ["c", "d"], ["e"]]

    run_batcher(script)


def test_all_or_none_when_full():
    async def script(batcher, gate, batches):
        batcher.submit(items("x"))
        kept = batcher.submit(items("a", "b"))
        with pytest.raises(Full) as full:
            batcher.submit(items("c", "d"))
        assert full.value.seconds >= 1 and len(batcher.queue) == 2
        kept += batcher.submit(items("e"))
        gate.set()
        assert await asyncio.gather(*kept) == ["a!", "b!", "e!"]

    run_batcher(script, queue_size=3)


def test_an_item_alone_finds_room_that_several_do_not():
    async def script(batcher, gate, batches):
        kept = batcher.submit(items("x"))
        kept += batcher.submit(items(*"abcdefgh"))  # all of the 16 places, in two requests
        kept += batcher.submit(items(*"ijklmnop"))
        with pytest.raises(Full):
            batcher.submit(items(*"qr"))
        kept += batcher.submit(items("s")) + batcher.submit(items("t"))  # the two more
        with pytest.raises(Full):
            batcher.submit(items("u"))
        gate.set()
        assert await asyncio.gather(*kept) == [f"{one}!" for one in "xabcdefghijklmnopst"]

    run_batcher(script, queue_size=16)


def test_forgotten_items_are_not_run():
    async def script(batcher, gate, batches):
        running, waiting = items("x"), items("a", "b")
        batcher.submit(running)
        futures = batcher.submit(waiting)
        await asyncio.sleep(0.1)
        batcher.forget([*running, waiting[0]])  # the result of what is already running is nobody's
        assert [item.work for item in batcher.queue] == ["b"]
        gate.set()
        assert await futures[1] == "b!" and batches == [["x"], ["b"]]
        assert running[0].future.cancelled() and futures[0].cancelled()

    run_batcher(script)


def test_one_that_fails_does_not_fail_its_batch_mates():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x"))
        futures += batcher.submit(items("a", "bad", "c", "d"))
        await asyncio.sleep(0.1)
        gate.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results.pop(2), ValueError) and results == ["x!", "a!", "c!", "d!"]
        assert batches == [["x"], ["a", "bad", "c", "d"], ["a"], ["bad"], ["c"], ["d"]]
        assert await batcher.submit(items("e"))[0] == "e!"

    run_batcher(script)


def test_what_nobody_waits_for_is_not_tried_again():
    async def script(batcher, gate, batches):
        waiting = items("a", "bad", "c", "d")
        futures = batcher.submit(waiting)  # all at once, at the gate
        await asyncio.sleep(0.1)
        batcher.forget([waiting[0], waiting[2]])
        gate.set()
        assert await futures[3] == "d!" and isinstance(futures[1].exception(), ValueError)
        assert batches == [["a", "bad", "c", "d"], ["bad"], ["d"]]

    run_batcher(script)


def test_clients_take_turns_by_what_they_ask_for():
    """A hundred long texts of one do not stand before another's: of each, the same number of characters is run."""

    async def script(batcher, gate, batches):
        def of(client, *works):
            return [Item(work, int(re.sub(r"\D", "", work)), None, 1, client) for work in works]

        futures = batcher.submit(of("a", *[f"{i} " for i in [92] * 5]))  # 100 with what each costs
        futures += batcher.submit(of("b", "2")) + batcher.submit(of("c", "192 ", "192 ")) + batcher.submit(of("b", "2"))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        # turns: a 0 100 200 300 400, b 0 10, c 0 200
        assert [batch[0] for batch in batches] == ["92 ", "2", "192 ", "2", "92 ", "92 ", "192 ", "92 ", "92 "]
        assert batcher._ends == {}

    run_batcher(script, batch_size=1)
