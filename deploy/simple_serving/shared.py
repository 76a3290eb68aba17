"""What the workers of a server count together, in memory: how much of its limits a key has in use, and connections."""

import math
import mmap
import os
import tempfile
import time
from contextlib import nullcontext

from hierarchical.errors import InputError

MOST_NAMES = 10_000
NAME_BYTES = 64
ALLOWANCE, SINCE, ACTIVE = 0, 1, 2  # texts that may be asked for, when that was so; from ACTIVE on, for each worker


class Usage:
    """What a key has in use; it outlives a reread of the file.

    cells: numbers as above; in shared memory 0 at first. lock: held while they are changed.
    """

    __slots__ = ("cells", "own", "lock")

    def __init__(self, cells=None, worker=0, lock=None):
        self.cells = [0.0, -math.inf, 0] if cells is None else cells
        self.own, self.lock = ACTIVE + worker, lock or nullcontext()

    def begin(self, most):
        """Count a request as being worked on; if there are `most` already, how many there are instead."""
        with self.lock:
            active = int(sum(self.cells[ACTIVE:]))
            if most is not None and active >= most:
                return active
            self.cells[self.own] += 1
        return None

    def end(self):
        self.cells[self.own] -= 1  # which nobody else changes

    def take(self, rate, texts):
        """Take texts off what may be asked for; 0, or, where nothing was left, the seconds until there is.

        rate: texts a second. A second's worth may be saved; a large request is a debt.
        """
        with self.lock:
            now = time.monotonic()
            allowance = min(rate, self.cells[ALLOWANCE] + (now - self.cells[SINCE]) * rate)
            self.cells[SINCE] = now
            if allowance > 0:
                allowance, wait = allowance - texts, 0
            else:
                wait = max(1, math.ceil(-allowance / rate))
            self.cells[ALLOWANCE] = allowance
        return wait

    def give_back(self, texts):
        """Texts that were taken, and then not answered."""
        with self.lock:
            self.cells[ALLOWANCE] += texts


class Lock:
    """Lets one process in at a time, for each number; where that one is killed, the next.

    file: the descriptor of any file
    """

    def __init__(self, file, number=0):
        self.file, self.number = file, number

    def __enter__(self):
        import fcntl  # Windows has none, nor several workers

        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, self.number)

    def __exit__(self, *_):
        import fcntl

        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, self.number)


class Shared:
    """Numbers in a file without a name, which several processes map and lock.

    file: its descriptor, see make(); worker: the number of this process; None: one that answers no requests.

    connections: float64 [workers]: how many each has taken, infinite while it takes none
    """

    def __init__(self, file, workers, worker=None):
        self.worker, self.row, self.lock = worker, ACTIVE + workers, Lock(file)
        self.memory = mmap.mmap(file, size_of(workers))
        numbers = memoryview(self.memory)[: -MOST_NAMES * NAME_BYTES].cast("d")
        self.connections, self.count, self.cells = numbers[:workers], numbers[workers:][:1], numbers[workers + 1 :]
        self.names = memoryview(self.memory)[-MOST_NAMES * NAME_BYTES :]

    @staticmethod
    def make(workers):
        """The descriptor of a new file."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("shared by workers")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        os.truncate(file, size_of(workers))
        shared = Shared(file, workers)
        for worker in range(workers):
            shared.forget(worker)
        return file

    def usages(self, names):
        """{name of a key: its Usage}. Raises InputError if the server has known too many in all its time."""
        with self.lock:
            known = {bytes(self._name(row)).rstrip(b"\0"): row for row in range(int(self.count[0]))}
            for name in map(str.encode, names):
                if name not in known:
                    if len(known) == MOST_NAMES:
                        raise InputError(f"more than {MOST_NAMES} names of keys since the start; start the server anew")
                    self._name(len(known))[: len(name)] = name
                    known[name] = len(known)
            self.count[0] = len(known)
        return {name: self._usage(known[name.encode()]) for name in names}

    def forget(self, worker):
        """A worker has ended, or not begun: it takes no connections, and works on nothing."""
        self.connections[worker] = math.inf
        with self.lock:
            for row in range(int(self.count[0])):
                self.cells[row * self.row + ACTIVE + worker] = 0

    def _name(self, row):
        return self.names[row * NAME_BYTES : (row + 1) * NAME_BYTES]

    def _usage(self, row):
        return Usage(self.cells[row * self.row : (row + 1) * self.row], self.worker, self.lock)


def size_of(workers):
    """Bytes of the file."""
    return 8 * (workers + 1 + MOST_NAMES * (ACTIVE + workers)) + MOST_NAMES * NAME_BYTES
