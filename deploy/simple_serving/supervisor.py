"""The process above several workers that answer on one port: starts them, and again where they die; asks all of them.

It answers no request itself. A worker that dies is started again; what changes models changes them in all workers, and
one that comes later is let in only with the same models. When this process ends, however that is, so do the workers.
"""

import asyncio
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial

from deploy.simple_serving.addresses import Place, show_metrics, tell_address
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.changes import Changes
from deploy.simple_serving.channel import Channel, Gone
from deploy.simple_serving.shared import Shared
from deploy.simple_serving.totals import Told, lasting, total
from hierarchical.console import get_logger
from hierarchical.devices import available_cores
from hierarchical.errors import InputError

PAUSE_SECONDS = 0.5  # before a worker is started again
RETRY_SECONDS = 10  # the same after it could not start, as its files are broken
MANY_DEATHS, DEATH_SECONDS = 3, 60  # so many deaths of each worker within that time are a fault that will not pass
STEP_SECONDS = 300  # for a worker to do its part of a change; then it is taken for dead, and started again
LEAVE_SECONDS = 20  # for a worker to say that it begins to leave; then it is killed
FIGURE_SECONDS = 5  # for a worker to tell its figures; then those count that it told last
ENDING = (signal.SIGTERM, signal.SIGINT)


class Member:
    """A worker as the process above it sees it: one process, whose successor is another Member.

    number: from 0; process: asyncio's
    """

    def __init__(self, number, process):
        self.number, self.process = number, process
        self.ready = asyncio.get_running_loop().create_future()  # done when it may answer, or why it never will
        self.failure = ""  # what it has told, or was told, of why it cannot start
        self.families = []  # its figures, as it told them last
        self.channel = None

    def __str__(self):
        return f"Worker {self.number + 1} (process {self.process.pid})"

    def answers(self):
        return self.ready.done() and not self.ready.exception() and not self.channel.gone


class Supervisor:
    """The workers of one server.

    command: a function of a worker's number, the descriptor of its socket to this process, and whether it is to be
    silent: the words that start it
    descriptors: what it inherits besides
    shared: a shared.Shared; kept: see Changes
    """

    def __init__(self, workers, command, descriptors, shared, kept):
        self.command, self.descriptors, self.shared = command, descriptors, shared
        self.members = dict.fromkeys(range(workers))
        self.left, self.failed, self.tasks = asyncio.Event(), False, set()
        self.deaths = deque(maxlen=MANY_DEATHS * workers)  # when they were, in seconds
        self.died, self.reloads, self.past = 0, {}, []
        self.changes = Changes(self.everywhere, {}, kept, self._note_reload)

    async def run(self, tell):
        """Start all, `tell()` when they answer, and see to them until a signal ends them; the exit code.

        Raises InputError if one cannot start.
        """
        try:
            await self._start_all()
            self._heed_signals()
            tell()
            await asyncio.gather(*map(self._keep, self.members))
        finally:
            for member in filter(None, self.members.values()):
                with suppress(ProcessLookupError):
                    member.process.kill()
        return 1 if self.failed else 0

    def leave(self):
        """Let every worker answer what it has, and end."""
        self.left.set()
        for member in filter(None, self.members.values()):
            if member.answers():
                self._in_background(self._ask_to_leave(member))
            else:  # nobody asks it yet
                with suppress(ProcessLookupError):
                    member.process.kill()

    async def _ask_to_leave(self, member):
        try:
            await asyncio.wait_for(member.channel.ask("leave"), LEAVE_SECONDS)
        except asyncio.TimeoutError:  # it would never end
            get_logger().error(f"{member} has not answered for {LEAVE_SECONDS} s, and is ended")
            member.process.kill()

    async def everywhere(self, what, **given):
        """What all workers that answer say; one that dies meanwhile is left out. Raises Refusal if one refuses."""
        members = self._answering()
        found = await asyncio.gather(*(self._ask(member, what, given) for member in members), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, Gone):
                raise one
        if not (told := [one for one in found if not isinstance(one, Gone)]):
            raise Refusal(503, "server", "no worker is ready", "Ask again.", None, "draining")
        return told

    async def figures(self):
        """The figures of all workers, those that have ended included, as totals.total() gives them."""
        await asyncio.gather(*(self._take_figures(member) for member in self.members.values() if member))
        living = [member.families for member in self.members.values() if member]
        reloads = [["model_reloads_total", {"outcome": outcome}, count] for outcome, count in self.reloads.items()]
        own = [
            ["workers", "gauge", "Processes that answer", [["workers", {}, len(self._answering())]]],
            ["worker_deaths", "counter", "Processes that died", [["worker_deaths_total", {}, self.died]]],
            ["model_reloads", "counter", "Reloads by outcome", reloads],
        ]
        return total([*living, self.past, own])

    def _answering(self):
        return [member for member in self.members.values() if member and member.answers()]

    async def _ask(self, member, what, given):
        try:
            return await asyncio.wait_for(member.channel.ask(what, **given), STEP_SECONDS)
        except asyncio.TimeoutError:
            get_logger().error(f"{member} has not answered for {STEP_SECONDS} s")
            member.process.kill()  # it must not go on with other models than the others
            raise Gone from None

    async def _take_figures(self, member):
        with suppress(asyncio.TimeoutError, Gone):
            if member.answers():
                member.families = await asyncio.wait_for(member.channel.ask("figures"), FIGURE_SECONDS)

    # ---- one worker ----

    async def _begin(self, number, silent=True):
        """Start a worker; its Member, whose `ready` tells the rest."""
        ours, its = socket.socketpair()
        with its:
            kept = *self.descriptors, its.fileno()
            process = await asyncio.create_subprocess_exec(*self.command(number, its.fileno(), silent), pass_fds=kept)
        self.members[number] = member = Member(number, process)
        answers = {"reload": self.changes.reload, "load": self.changes.load, "unload": self.changes.unload}
        member.channel = Channel(answers | {"figures": self.figures} | self._about(member))
        ours.setblocking(False)
        member.listening = await member.channel.open(ours)
        member.ending = asyncio.ensure_future(self._end(member))
        return member

    def _about(self, member):
        """What a worker tells of itself."""

        async def join(identities):
            async with self.changes.turn:
                return await self._let_in(member, identities)

        async def fail(why):
            member.failure = why

        return {"join": join, "fail": fail}

    async def _let_in(self, member, identities):
        """Have a worker answer; the names of models that it has to unload. Who has the turn for changes calls this.

        Its models are to be those of the others: where files were replaced since, all read theirs anew.
        """
        loaded = self.changes.loaded
        if not self._answering():
            loaded |= {name: identities[name] for name in loaded or identities}
        if any(identities[name] != loaded[name] for name in loaded):
            get_logger().warning("The files of a model were replaced since it was loaded: all workers load it anew")
            with suppress(Refusal):
                await self.changes.reload_in_turn()
        if any(identities[name] != loaded[name] for name in loaded):
            member.failure = "the models that it has read are not those in use"
            member.process.kill()
        elif not member.ready.done():
            member.ready.set_result(None)
        return sorted(identities.keys() - loaded.keys())

    async def _end(self, member):
        """Wait for a worker's end; the exit code of its process."""
        code = await member.process.wait()
        with suppress(OSError):
            await member.listening  # what it has said before
        if not member.ready.done():
            why = f"{member} {ended(code)} before it was ready; each needs the memory of a model"
            member.ready.set_exception(InputError(member.failure or why))
            member.ready.exception()  # somebody may ask for it, or nobody
        self.shared.forget(member.number)
        self.past = total([self.past, lasting(member.families)])
        self.members[member.number] = None
        return code

    async def _keep(self, number):
        """Start a worker again whenever it ends, until the server does."""
        member = self.members[number]
        while member:
            code = await member.ending
            if self.left.is_set():
                self.failed = self.failed or code > 0  # by a fault, which it has told
                return
            if member.failure:
                get_logger().error(f"{member} cannot start: {member.failure}. It is tried again in {RETRY_SECONDS} s")
            else:
                self._note_death(member, code)
            member = await self._begin_again(number, RETRY_SECONDS if member.failure else PAUSE_SECONDS)

    async def _begin_again(self, number, pause):
        """Start a worker after a pause, and again where the system has no room for it; None: the server ends."""
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.left.wait(), pause)
            if self.left.is_set():
                return None
            try:
                member = await self._begin(number)
            except OSError as error:
                get_logger().error(f"Worker {number + 1} cannot start: {error}. It is tried again in {RETRY_SECONDS} s")
                pause = RETRY_SECONDS
                continue
            member.ready.add_done_callback(partial(self._tell_ready, member))
            if self.left.is_set():  # meanwhile
                member.process.kill()
            return member

    def _tell_ready(self, member, ready):
        if not ready.exception():
            get_logger().info(f"{member} is ready")

    def _note_death(self, member, code):
        """Tell of it; and where it is one of too many, end the server."""
        log, now, self.died = get_logger(), time.monotonic(), self.died + 1
        if code:  # else somebody has asked it to end
            self.deaths.append(now)
        if len(self.deaths) == self.deaths.maxlen and now - self.deaths[0] < DEATH_SECONDS:
            seconds = f"{len(self.deaths)} times within {now - self.deaths[0]:.0f} s"
            log.error(f"{member} {ended(code)}. Workers have died {seconds}: the server ends")
            self.failed = True
            self.leave()
        else:
            log.error(f"{member} {ended(code)}; it is started again")

    # ---- all of them ----

    async def _start_all(self):
        """Start all workers at once. Raises InputError for the first that cannot start."""
        members = [await self._begin(number, silent=number > 0) for number in self.members]
        await asyncio.gather(*(member.ready for member in members))

    def _heed_signals(self):
        loop = asyncio.get_running_loop()
        for one in ENDING:
            loop.add_signal_handler(one, self._end_by, one)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._in_background(self.changes.reload()))

    def _in_background(self, work):
        """Do what nobody waits for; the log tells its outcome."""

        async def quietly():
            with suppress(Refusal, Gone):
                await work

        task = asyncio.ensure_future(quietly())
        self.tasks.add(task)  # the loop alone would lose it
        task.add_done_callback(self.tasks.discard)

    def _note_reload(self, outcome):
        self.reloads[outcome] = self.reloads.get(outcome, 0) + 1

    def _end_by(self, number):
        """End as the first signal asks for; at the second one without waiting."""
        if not self.left.is_set():
            return self.leave()
        for member in filter(None, self.members.values()):
            member.process.kill()
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def ended(code):
    """How a process has ended."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


# ---- a server --------------------------------------------------------------------------------------------------------


def supervise(args, loads, sock, _):
    """Let args.workers processes answer what comes to a listening socket, until a signal ends them.

    See answering.answer. They are started by the words by which this process was, and behind them each one's share and
    place.
    """
    file = Shared.make(args.workers)
    kept = {"default", args.shadow, args.split and args.split[0]}
    words = [sys.executable, *sys.orig_argv[1:], *share_of(args)]

    def command(number, asking, silent):
        return [*words, "--worker", str(Place(number, sock.fileno(), asking, file, int(silent)))]

    async def all_of_it():
        shared, descriptors = Shared(file, args.workers), (sock.fileno(), file)
        supervisor = Supervisor(args.workers, command, descriptors, shared, kept)
        if args.metrics_port is not None:
            show_metrics(args.host, args.metrics_port, registry_of(supervisor))
        return await supervisor.run(partial(tell_ready, args, sock))

    if code := asyncio.run(all_of_it()):
        sys.exit(code)


def share_of(args):
    """The flags by which a worker gets its share of what the server may do at once, rounded up."""

    def share(whole):
        return -(-whole // args.workers)

    shares = {
        "device": args.device,
        "num_threads": share(args.num_threads or available_cores()),
        "queue_size": max(2, args.max_texts, share(args.queue_size)),
        "explain_limit": share(args.explain_limit),
    }
    return [word for flag, value in shares.items() for word in (f"--{flag}", str(value))]


def tell_ready(args, sock):
    get_logger().info(f"{args.workers} workers are ready")
    tell_address(args, sock)


def registry_of(supervisor):
    """What prometheus_client asks, in a thread of its own, for the figures of all workers."""
    from prometheus_client import CollectorRegistry

    loop, registry = asyncio.get_running_loop(), CollectorRegistry()
    registry.register(Told(lambda: asyncio.run_coroutine_threadsafe(supervisor.figures(), loop).result()))
    return registry
