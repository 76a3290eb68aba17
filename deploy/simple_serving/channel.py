"""What two processes of a server ask each other, over one socket: JSON lines, any number under way at once."""

import asyncio
import itertools
import json

from deploy.simple_serving.bodies import Refusal
from hierarchical.console import get_logger

LONGEST = 2**26  # bytes of a line: figures are some 100 KB


class Gone(Exception):
    """The other process has ended, or hung up."""


class Channel:
    """One end of a connection.

    answers: name -> an async function of what is given with a question, whose result, a JSON value, is the answer; a
    Refusal that it raises is raised where the question was asked
    """

    def __init__(self, answers):
        self.answers, self.numbers, self.waiting, self.tasks = answers, itertools.count(), {}, set()
        self.writer, self.gone = None, False

    async def open(self, sock):
        """Use a connected socket; what comes is answered from now on. The task that is returned ends with it."""
        reader, self.writer = await asyncio.open_connection(sock=sock, limit=LONGEST)
        return asyncio.ensure_future(self._listen(reader))

    async def ask(self, what, **given):
        """The other end's answer. Raises Refusal as it does there, and Gone if it ends before."""
        if self.gone:
            raise Gone
        number = next(self.numbers)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": what, "number": number, "given": given})
        try:
            return await self.waiting[number]
        finally:
            del self.waiting[number]

    def close(self):
        self.gone = True
        if self.writer:
            self.writer.close()

    @staticmethod
    def line(message):
        return json.dumps(message).encode() + b"\n"

    def _send(self, message):
        if not self.gone:
            self.writer.write(self.line(message))

    async def _listen(self, reader):
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "ask" in message:
                    task = asyncio.ensure_future(self._answer(message))
                    self.tasks.add(task)  # the loop alone would lose it
                    task.add_done_callback(self.tasks.discard)
                elif (future := self.waiting.get(message["number"])) and not future.done():
                    if "refused" in message:
                        future.set_exception(Refusal(*message["refused"]))
                    else:
                        future.set_result(message["answer"])
        except OSError:  # it was killed
            pass
        finally:
            self.close()
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(Gone())

    async def _answer(self, message):
        try:
            told = {"answer": await self.answers[message["ask"]](**message["given"])}
        except Refusal as refusal:
            first = refusal.problems[0]
            told = {"refused": [refusal.status, first.where, first.what, first.how, refusal.headers, refusal.reason]}
        except Gone:  # whoever was to be asked for it
            told = {"refused": [503, "server", "it is shutting down", "Ask again.", None, "draining"]}
        except Exception:  # whoever has asked must not wait for ever
            get_logger().exception(f"A fault in the answer to {message['ask']!r}")
            told = {"refused": [500, "server", "an unexpected error", "The server's log describes it.", None, ""]}
        self._send({"number": message["number"]} | told)
