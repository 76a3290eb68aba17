"""One of several processes that answer on one port: its place among them, and its word with the process above them."""

import logging
import os
import signal
import socket
import sys

from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.changes import Steps
from deploy.simple_serving.channel import Channel, Gone
from deploy.simple_serving.shared import Lock, Shared
from deploy.simple_serving.totals import Told, families_of
from hierarchical.console import get_logger
from hierarchical.errors import InputError

LINES = 1  # what processes lock besides the usage of keys, see shared.Lock


class Worker:
    """This process, one of `workers`.

    Until it has joined the others it is silent, but for errors, if its place says so.
    """

    def __init__(self, place, workers):
        self.place, self.shared = place, Shared(place.shared, workers, place.number)
        for descriptor in (place.listening, place.asking, place.shared):
            os.set_inheritable(descriptor, False)
        self.listening, self.asking = (socket.socket(fileno=one) for one in (place.listening, place.asking))
        self.channel = None
        if place.silent:
            get_logger().setLevel(logging.ERROR)

    def lines_lock(self):
        return Lock(self.place.shared, LINES)

    def fail(self, error):
        """Tell why this process cannot start, in place of printing it."""
        self.asking.sendall(Channel.line({"ask": "fail", "number": -1, "given": {"why": str(error)}}))

    async def join(self, service):
        """Be one of those that answer, as soon as the process above says so; from then on it may ask this one."""

        async def figures():
            return families_of(service.figures.registry)

        async def leave():
            service.leave()

        self.channel = Channel(Steps(service).all() | {"figures": figures, "leave": leave})
        self.asking.setblocking(False)
        self.ended = await self.channel.open(self.asking)
        self.ended.add_done_callback(lambda _: service.leave(at_once=True))  # nobody would end it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as it comes to all processes of a terminal that is closed
        try:
            for name in await self.channel.ask("join", identities=service.models.identities()):
                service.models.drop(name)  # the others have unloaded it
        except Gone:
            return
        service.figures.note_models(service.models.loaded.values())
        get_logger().setLevel(logging.INFO)

    # ---- what the server's routes ask for ----

    async def reload(self):
        await self._ask("reload")

    async def load(self, name):
        await self._ask("load", name=name)

    async def unload(self, name):
        await self._ask("unload", name=name)

    async def figures(self):
        """The figures of all workers, as a collector."""
        families = await self._ask("figures")
        return Told(lambda: families)

    async def _ask(self, what, **given):
        try:
            return await self.channel.ask(what, **given)
        except Gone:
            raise Refusal(503, "server", "it is shutting down", "Ask again.", None, "draining") from None


def serve_as_one(args, loads):
    """Be a worker until the process above ends it."""
    worker = Worker(args.worker, args.workers)
    try:
        try:
            from deploy.simple_serving.answering import answer
        except ModuleNotFoundError as error:
            hint = "pip install -r deploy/simple_serving/requirements.txt"
            raise InputError(f"The package {error.name} is not installed: {hint}") from None
        answer(args, loads, worker.listening, worker=worker)
    except InputError as error:
        worker.fail(error)
        sys.exit(2)
