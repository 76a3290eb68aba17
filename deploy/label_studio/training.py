"""Training after so many answers: a round of analysis/improve.py that asks nobody, an export, and the new model served.

    trainer = Trainer(100, "improve", "my_data", "export")
    await trainer.run(service.changes.reload)               # for as long as the server runs

Reads   work_dir/state.json     the settings of the rounds: folder, encoder, flags of train.py
        dataset_dir/ledger.jsonl
Writes  work_dir/training.json  how many answers the last training began with, and what the one under way is
        work_dir/training.log   what its commands say
        model_path/             the new export

One training at a time, in processes of their own. Answers that come meanwhile count for the next one. What a killed
server leaves unfinished is gone on with when it is started again.
"""

import asyncio
import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hierarchical.console import get_logger
from hierarchical.engines import PRECISIONS
from hierarchical.errors import InputError
from hierarchical.files import atomic_write
from hierarchical.ledger import VOTES, Ledger
from hierarchical.rounds import NAME, read_done
from hierarchical.sets import only_writer

TOOLKIT = Path(__file__).resolve().parents[2]
NEEDED = "paddle", "paddlenlp", "filelock"  # which the server does without
NOTE, LOG = "training.json", "training.log"
LOOK_SECONDS = 10  # between two looks at the ledger, to which others add, too
END_SECONDS = 10  # for a training that is to stop


class Trainer:
    """Trains after every `after` answers in the ledger of a data folder.

    work_dir: of improve.py, where a round has ended; model_path: the folder of the export that is served.
    Raises InputError for what cannot be.
    """

    def __init__(self, after, work_dir, directory, model_path):
        self.after, self.work_dir, self.model_path = after, Path(work_dir), Path(model_path)
        self.directory = directory
        require_round(self.work_dir, directory)
        if missing := [name for name in NEEDED if not find_spec(name)]:
            raise InputError(
                f"--train_after: the package {missing[0]} is not installed: pip install -r requirements.txt"
            )
        if not self.model_path.is_dir():
            raise InputError(f"--model_path {model_path}: no folder; --train_after exports new models into it.")
        self.ledger, self.logger = Ledger(directory), get_logger()
        self.wanted, self.known, self.failed_at = asyncio.Event(), 0, None
        self.asked, self.waits = False, False  # for a training now, however few answers there are; for the folder
        note = self.work_dir / NOTE
        if not note.exists():  # what was answered before somebody has trained on, or the next training will
            self._note(trained=self.answers(), begun=0, round=0)
        try:
            told = json.loads(note.read_text(encoding="utf-8"))
            self.trained, self.begun, self.round = (int(told[name]) for name in ("trained", "begun", "round"))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{note}: is damaged. Remove it: counting begins anew.") from None

    def answers(self):
        """How many answers the ledger has."""
        self.ledger.refresh()
        lines = ((text_id, one) for text_id, lines in self.ledger.decisions.items() for one in lines)
        self.known = sum(one.answer in VOTES and one.id == text_id for text_id, one in lines)
        return self.known

    def look(self, now=False):
        """Look whether it is time, or train now if nothing is under way."""
        self.asked = self.asked or now
        self.wanted.set()

    def is_time(self):
        """Whether to train, and nobody else works in the folder."""
        if not self._is_due():
            return False
        if waits := is_busy(self.work_dir):
            if not self.waits:
                self.logger.info(f"It is time to train; waiting for another process that works in {self.work_dir}")
        self.waits = waits
        return not waits

    def _is_due(self):
        if self.begun > self.trained and self.failed_at is None:
            return True  # it was interrupted
        since = self.answers() - (self.trained if self.failed_at is None else self.failed_at)
        return self.asked or since >= self.after

    async def run(self, reload):
        """Train whenever it is time.

        reload: a coroutine function, after which the server has the new model; it raises InputError if it cannot.
        """
        while True:
            try:
                if await asyncio.to_thread(self.is_time):
                    self.asked = False
                    await self._train(reload)
                    continue
            except (InputError, OSError) as error:
                self.failed_at = self.known
                self.logger.error(f"Not trained, the model stays: {error}")
            except Exception:  # whatever it was, the next answers may train
                self.failed_at = self.known
                self.logger.exception(f"Not trained, the model stays. It is tried again {self._next()}")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), LOOK_SECONDS)
            self.wanted.clear()

    async def _train(self, reload):
        done = require_round(self.work_dir, self.directory)
        if self.begun <= self.trained or done.number > self.round:
            self._note(self.trained, self.answers(), done.number + done.ended)
        log = self.work_dir / LOG
        self.logger.info(f"Training begins, with {self.begun - self.trained} new answers; its log: {log}")
        if not self._has_ended(done):
            going_on = [] if done.ended else ["--resume"]
            await self._call("analysis/improve.py", "--work_dir", self.work_dir, "--skip", "texts", "ask", *going_on)
            if not self._has_ended(read_done(self.work_dir)):
                raise InputError(f"the round did not end, {log} tells why. It is tried again {self._next()}")
        precisions = [one for one in PRECISIONS if (self.model_path / f"{one}.onnx").exists()]
        model = self.work_dir / f"model-{self.round}"
        flags = ["--params_path", model, "--output_path", self.model_path]
        if await self._call("export_model.py", *flags, *(["--precision", *precisions] if precisions else [])):
            raise InputError(f"{model} was not exported, {log} tells why. It is tried again {self._next()}")
        try:
            await reload()
        except InputError as error:
            told = f"{model} was exported, but not served: {error}. It is exported and loaded again {self._next()}"
            raise InputError(told) from None
        self.failed_at = None
        self._note(self.begun, 0, self.round)
        report = self.work_dir / f"report-{self.round}.html"
        self.logger.info(f"Training has ended: {model}, compared with the model before in {report}")

    def _next(self):
        return f"after {self.after} more answers, by Start Training, or when the server is started again."

    def _has_ended(self, done):
        return bool(done) and done.number == self.round and done.ended

    def _note(self, trained, begun, round):
        with atomic_write(self.work_dir / NOTE) as file:
            json.dump({"trained": trained, "begun": begun, "round": round}, file)
        self.trained, self.begun, self.round = trained, begun, round

    async def _call(self, *command):
        """The exit code of a script; if this is cancelled, the script and all that it has started end."""
        words = [str(word) for word in command]
        with open(self.work_dir / LOG, "a", encoding="utf-8") as log:
            log.write(f"python {shlex.join(words)}\n")
            log.flush()
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(TOOLKIT / words[0]), *words[1:], stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await end(process)
            raise


async def end(process):
    """End a process that leads its session, and those it has started: train.py ends its step, and saves its state."""
    if not hasattr(os, "killpg"):
        process.kill()
        await process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(all_ended(process), END_SECONDS)
            return


async def all_ended(process):
    """Wait for a process and its whole group, which may outlive it."""
    await process.wait()
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for those that have ended
        while True:
            with suppress(ChildProcessError):  # as process 1 of a container the server inherits them
                os.waitpid(-process.pid, os.WNOHANG)
            os.killpg(process.pid, 0)
            await asyncio.sleep(0.05)


def require_round(work_dir, directory):
    """What the last round of improve.py has done; raises InputError if there is none, or of another data folder."""
    done, flag = read_done(work_dir), f"--work_dir {work_dir}"
    if not done:
        raise InputError(
            f"{flag}: no {NAME} in it. Train a first model there: python analysis/improve.py --dataset_dir {directory} "
            f"--model_name path/to/encoder --work_dir {work_dir} --skip texts ask merge retrain compare"
        )
    if Path(done.settings["dataset_dir"]).resolve() != Path(directory).resolve():
        raise InputError(f"{flag}: its rounds are those of {done.settings['dataset_dir']}, not of {directory}.")
    return done


def is_busy(work_dir):
    """Whether another process works in a folder: improve.py, started by hand or by a server that was killed."""
    try:
        with only_writer(work_dir):
            return False
    except InputError:
        return True
