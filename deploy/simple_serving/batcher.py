"""Micro-batches across requests: texts wait in one bounded queue, and a worker that gets free takes what is there.

    batcher = Batcher(run, workers=2, batch_size=8, queue_size=512)     # in a running event loop
    futures = batcher.submit([Item("text", length=4, group=model, most=8)])

Nothing ever waits for company: on an idle server a text is run at once and alone; batches form where texts have to wait
anyway. The first text in turn decides what a batch is about, and only texts of about its length go with it, because
what a batch saves is soon lost to padding.

Clients take turns by what they ask for, so that a few characters of one don't wait for a hundred long texts of another:
start-time fair queueing (Goyal, Vin, Cheng 1996). A text's turn is where its client's last one ended, on a clock that
counts characters and stands at the turn of the text taken last. One client alone gets its answers in order.
"""

import asyncio
import bisect
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PADDING = 1.1  # a batch may be this much larger than its texts: batching saves some 15 % on a CPU
OVERHEAD = 8  # characters that a text counts as more than it has, for what each costs whatever its length
CHOICE = 4  # how many batches' worth of texts, from the first on, are looked at to find those of like lengths
ALONE = 8  # one place more for so many, which only an item alone may take
MANY = 10_000  # clients, before those that are idle are forgotten


class Full(Exception):
    """The queue has no room for these items; `seconds` is when it should have."""

    def __init__(self, seconds):
        super().__init__(f"full for about {seconds} s")
        self.seconds = seconds


@dataclass(slots=True)
class Failed:
    """What an item has instead of a result."""

    error: BaseException | None


@dataclass(slots=True, eq=False)
class Item:
    """One text to be run; `future` gets its result."""

    work: object
    length: int
    group: object  # a batch holds items of one group: the model they are meant for
    most: int  # no batch that holds this item is larger
    client: object = None  # those of one client wait for each other
    turn: float = 0.0
    future: asyncio.Future | None = None
    submitted: float = 0.0  # time.perf_counter(), as the next one
    began: float = 0.0  # a worker took it


class Batcher:
    """Runs items in batches, `workers` batches side by side in threads.

    run: called in a thread with a list of items, returns their results in the same order. If it raises, each item
    of the batch is run alone, and only those that raise again have an error: one text fails nobody else's.
    observe: called in the event loop with the size of each batch. All methods belong to the event loop's thread.
    """

    def __init__(self, run: Callable, workers: int, batch_size: int, queue_size: int, observe: Callable = lambda n: 0):
        self.run, self.workers, self.batch_size, self.queue_size = run, workers, batch_size, queue_size
        self.queue: list[Item] = []  # by their turns
        self._clock, self._ends = 0.0, {}  # client -> where its last item ends
        self.free = workers
        self._observe, self._loop = observe, asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="model")
        self._seconds_per_item = 0.0  # of one worker, a moving mean

    def submit(self, items: list[Item]) -> list[asyncio.Future]:
        """Queue all items or, raising Full, none; their futures, in the same order.

        For an item alone the queue is an eighth longer: who asks about one text is not refused as others ask about
        hundreds.
        """
        room = self.queue_size - len(self.queue) + (self.queue_size // ALONE if len(items) == 1 else 0)
        if len(items) > room:
            waiting = len(self.queue) * self._seconds_per_item / self.workers
            raise Full(max(1, math.ceil(waiting)))
        now = time.perf_counter()
        for item in items:
            item.future, item.submitted = self._loop.create_future(), now
            item.turn = max(self._clock, self._ends.get(item.client, 0.0))
            self._ends[item.client] = item.turn + item.length + OVERHEAD
            bisect.insort(self.queue, item, key=lambda item: item.turn)
        self._dispatch()
        return [item.future for item in items]

    def forget(self, items: list[Item]):
        """Cancel items that nobody waits for any more; those still in the queue will not be run."""
        for item in items:
            item.future.cancel()
        self.queue = [item for item in self.queue if not item.future.cancelled()]

    def close(self):
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self):
        while self.free and self.queue:
            batch = self._next_batch()
            self.free -= 1
            self._observe(len(batch))
            self._pool.submit(self._work, batch)

    def _next_batch(self):
        """The first item and those beside it that cost less together than apart; taken out of the queue."""
        first = self.queue[0]
        share = -(-len(self.queue) // self.free)  # free workers share what there is
        most = min(share, self.batch_size, first.most)
        candidates = self.queue[1 : CHOICE * self.batch_size] if most > 1 else []
        batch, longest, total = [first], first.length + OVERHEAD, first.length + OVERHEAD
        for item in sorted(candidates, key=lambda item: abs(item.length - first.length)):
            size, length = len(batch) + 1, item.length + OVERHEAD
            if size > most or max(longest, length) * size > PADDING * (total + length):
                break
            if item.group is first.group and item.most >= size:
                batch.append(item)
                longest, total, most = max(longest, length), total + length, min(most, item.most)
        taken = set(map(id, batch))
        self.queue = [item for item in self.queue if id(item) not in taken]
        self._clock = first.turn
        if not self.queue:
            self._clock, self._ends = 0.0, {}
        elif len(self._ends) > MANY:  # those that have had their turn are as good as new
            self._ends = {client: end for client, end in self._ends.items() if end > self._clock}
        return batch

    def _work(self, batch):
        began = time.perf_counter()
        for item in batch:
            item.began = began
        outcomes = self._outcomes(batch)
        if len(batch) > 1 and any(isinstance(outcome, Failed) for outcome in outcomes):
            # those that nobody waits for any more need not be tried again
            outcomes = [Failed(None) if item.future.cancelled() else self._outcomes([item])[0] for item in batch]
        seconds = time.perf_counter() - began
        self._loop.call_soon_threadsafe(self._done, batch, outcomes, seconds)

    def _outcomes(self, batch):
        """The results of a batch, or for each of its items the same Failed."""
        try:
            return self.run(batch)
        except BaseException as error:  # whatever it is, those who wait must hear of it
            return [Failed(error)] * len(batch)

    def _done(self, batch, outcomes, seconds):
        self.free += 1
        self._seconds_per_item += 0.1 * (seconds / len(batch) - self._seconds_per_item)
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.future.done():  # cancelled: nobody waits for it any more
                continue
            if isinstance(outcome, Failed):
                item.future.set_exception(outcome.error)
            else:
                item.future.set_result(outcome)
        self._dispatch()
