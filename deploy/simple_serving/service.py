"""What stands between a request and the model: keys, limits, the queue, time, and loading a model anew."""

import asyncio
import base64
import random
import time
from contextlib import contextmanager, suppress

import anyio
from starlette.requests import ClientDisconnect

from deploy.simple_serving.batcher import Batcher, Full, Item
from deploy.simple_serving.bodies import Refusal, State, parse
from deploy.simple_serving.changes import Changes, Steps
from deploy.simple_serving.figures import Figures
from deploy.simple_serving.model import plain, run, sample_of
from deploy.simple_serving.models import Models
from deploy.simple_serving.versions import Shadow, Split
from hierarchical.console import get_logger
from hierarchical.decisions import thresholds_of
from hierarchical.devices import available_cores
from hierarchical.errors import InputError, some
from hierarchical.long_texts import CUT
from hierarchical.unseen import fixed_numbers

BODY_SECONDS = 10  # for a body to arrive
LOOK_SECONDS = 1  # between two looks at files that may change
RETRY_SECONDS = 10  # the same after changed files turned out to be broken


def gone():
    """For the figures alone: who should read it has left."""
    return Refusal(499, "connection", "closed by the client", "Wait for the answer.")


def key_of(headers):
    """The key that a request brings, bytes: X-API-Key, or the password of HTTP's Basic where that is all there is."""
    scheme, _, packed = headers.get("authorization", "").partition(" ")
    if "x-api-key" not in headers and scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(packed).partition(b":")[2]
    return headers.get("x-api-key", "").encode()


class Service:
    """The models in use, the batches, the figures, and what every request has to pass.

    loads: see Models
    keys: the keys.Keys that requests must bring; none in it: nobody needs one
    log, samples: a Journal for differences between versions, and one for answers, or None

    renew: what else is read anew on a reload, a function
    worker: this process as one of several, a worker.Worker, or None
    """

    leaving = False  # clients are to ask anew, and by that perhaps another server

    def __init__(self, args, loads, keys, log=None, samples=None, renew=None, worker=None):
        self.args, self.keys, self.renew, self.worker = args, keys, renew, worker
        self.models = Models(loads, [name for name in (args.shadow, args.split and args.split[0]) if name])
        self.split = Split(*args.split) if args.split else None
        self.shadow = Shadow(args.shadow, self, log) if args.shadow else None
        self.draining, self.active, self.explaining = False, 0, 0
        self.samples, self.figures = samples, Figures()
        self.tasks = [self.watch] if self.model.has_changed else []  # what goes on while it serves: coroutine functions
        self.changes = worker or self._changes()
        self.figures.gauge("queue_length", "Texts that wait for a free thread", lambda: len(self.batcher.queue))
        self.figures.gauge("http_requests_in_flight", "Requests that are being worked on", lambda: self.active)
        self.figures.note_models(self.models.loaded.values())

    def _changes(self):
        """Changes of the models of this process, which is alone."""
        steps = Steps(self).all()

        async def everywhere(what, **given):
            return [await steps[what](**given)]

        kept, count = (self.models.default, *self.models.alike), self.figures.reloads
        return Changes(everywhere, self.models.identities(), kept, lambda outcome: count.labels(outcome).inc())

    @property
    def model(self):
        """The default Model."""
        return self.models.loaded[self.models.default]

    def find(self, name):
        """The Model that a request asks for; None: the default, or the one that has a share of its requests."""
        return self.split.choose(self.models) if self.split and name is None else self.models.find(name)

    def leave(self, at_once=False):
        """Say that another server should be asked; after --drain_seconds, or at once, refuse what comes."""
        if not self.leaving or at_once:
            self.leaving, self.drain_at = True, time.monotonic() + (0 if at_once else self.args.drain_seconds)
        self.drain_if_due()

    def drain_if_due(self):
        self.draining = self.draining or (self.leaving and time.monotonic() >= self.drain_at)

    def start(self):
        threads = self.args.num_threads or available_cores()
        self.batcher = Batcher(run, threads, self.args.batch_size, self.args.queue_size, self.figures.batches.observe)
        self.running = [asyncio.ensure_future(task()) for task in self.tasks]

    async def collect(self):
        """What prometheus_client makes the figures of the whole server of."""
        return await self.worker.figures() if self.worker else self.figures.registry

    def stop(self):
        self.batcher.close()
        for task in self.running:
            task.cancel()

    def admit(self, request, right):
        """Raise Refusal unless the request may do this: 401, 403, or 429 where its key has enough to do."""
        if not self.keys:
            return
        key = self.keys.find(key_of(request.headers))
        if not key:
            how = "Send your key in the header X-API-Key."
            raise Refusal(401, "header X-API-Key", "the key is missing or wrong", how)
        request["record"].client = key.name
        if right not in key.rights:
            how = f"Ask for a key with the right {right!r}: the key {key.name!r} has {', '.join(sorted(key.rights))}."
            raise Refusal(403, "header X-API-Key", f"this key may not {right}", how)
        key.begin()
        request["record"].key = key  # Watch ends it

    def knows(self, request, right):
        """Whether a request that anybody may make brings a key with this right."""
        key = self.keys.find(key_of(request.headers)) if self.keys else None
        return bool(key) and right in key.rights

    async def read(self, request, body_class, right="classify"):
        """The body of a request as an object. Raises Refusal, without keeping more than --max_bytes of it."""
        self.admit(request, right)
        if self.draining:
            headers = {"Retry-After": "5", "Connection": "close"}
            how = "Ask again, or ask another server."
            raise Refusal(503, "server", "it is shutting down", how, headers, "draining")
        content, size, limit = bytearray(), 0, self.args.max_bytes
        try:
            with anyio.fail_after(BODY_SECONDS):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        break  # the protocol reads the rest, since most clients listen only when they have sent it
                    content += chunk
        except TimeoutError:
            what = f"only {size} bytes of it came within {BODY_SECONDS} s"
            raise Refusal(408, "body", what, "Send it faster.", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise gone() from None
        if size > limit:
            how = f"Send at most {limit} bytes; split the texts over several requests."
            raise Refusal(413, "body", f"more than {limit} bytes", how)
        return parse(body_class, bytes(content))

    def check_texts(self, texts, field):
        if len(texts) > self.args.max_texts:
            how = f"Send at most {self.args.max_texts} in a request."
            raise Refusal(413, f"body.{field}", f"{len(texts)} texts", how)
        for i, text in enumerate(texts):
            self.check_text(text, f"{field}[{i}]")

    def check_text(self, text, field):
        if len(text) > (longest := self.args.max_chars):
            reads = f"; the model reads the first {self.model.max_seq_length} tokens"
            how = f"Send at most {longest} characters{reads if self.model.tokenizer.long_text == CUT else ''}."
            raise Refusal(413, f"body.{field}", f"{len(text)} characters", how)

    def decision(self, model, **settings):
        """The model's stored decision with what the request asks for in its place."""
        if all(value is None for value in settings.values()):
            return model.decision
        try:
            decision = model.decision.updated(**settings)
            thresholds_of(decision, model.trained)
            if model.known is not None and (named := fixed_numbers(decision)):
                raise ValueError(
                    f"{some(named)} says how many labels a text has, and this model has new ones beside them"
                )
            return decision
        except ValueError as error:
            what = f"decision settings: {error}."
            raise Refusal(422, "body", what, "Correct these fields; /docs describes them.") from None

    async def answers(self, request, model, works, most=None):
        """The answers to `works`, in order. most: no model call holds more texts, whoever sent them."""
        most = 1 if model.singly else most or self.args.batch_size
        key = request["record"].key
        if key:
            key.take(len(works))
        explains = works[0].answer is plain
        client = key.name if key else request["client"], explains  # a connection, where nobody has a key
        items = [Item(work, min(len(work.text), work.max_seq_length), model, most, client) for work in works]
        if not explains and (self.samples or self.shadow):
            for work in works:
                work.sampled = bool(self.samples) and random.random() < self.args.sample
                work.keep = work.sampled or bool(self.shadow)
        try:
            futures = self.batcher.submit(items)
        except Full as full:
            if key:
                key.give_back(len(works))
            headers = {"Retry-After": str(full.seconds)}
            raise Refusal(429, "server", "too many texts are waiting", "Ask again later.", headers) from None
        everything = asyncio.gather(*futures, return_exceptions=True)
        client_gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((everything, client_gone), timeout=self.args.timeout, return_when="FIRST_COMPLETED")
            if everything.done():
                try:
                    answers = [future.result() for future in futures]  # or the error of the first that has one
                except InputError as error:  # such as an index on a server that is down
                    get_logger().error(f"No answer: {error}")
                    how = "Ask again later; the server's log tells why."
                    headers = {"Retry-After": "5"}
                    raise Refusal(503, "server", "the model cannot answer", how, headers, "model") from None
                self.note(request["record"], model, items)
                return answers
            if client_gone.done():
                raise gone()
            headers = {"Retry-After": str(max(1, int(self.args.timeout)))}
            what = f"no answer within {self.args.timeout:g} s"
            raise Refusal(503, "server", what, "Ask again later, with fewer texts.", headers, "timeout")
        finally:
            client_gone.cancel()
            if not everything.done():
                self.batcher.forget(items)

    def note(self, record, model, items):
        """What answered items took: into the figures, the request's Record and the samples."""
        works, last = [item.work for item in items], max(items, key=lambda item: item.began)
        record.model, record.texts, record.tokens = model, len(items), sum(work.tokens for work in works)
        record.submitted = last.submitted
        record.stages = last.began - last.submitted, last.work.tokenise_seconds, last.work.model_seconds
        if self.args.log_texts:
            record.contents = [work.text for work in works if work.answer is not plain] or [works[0].text]
        self.figures.texts.labels(model.name).inc(record.texts)
        self.figures.tokens.labels(model.name).inc(record.tokens)
        queue, tokenise, compute = self.figures.stages
        for item in items:
            queue.observe(item.began - item.submitted)
            tokenise.observe(item.work.tokenise_seconds)
            compute.observe(item.work.model_seconds)
            if item.work.sampled:
                self.samples.write(sample_of(item.work, model))
        if self.shadow and works[0].answer is not plain and model.name != self.shadow.name:
            self.shadow.ask(record, model, works)

    @contextmanager
    def one_explanation(self):
        """Raise Refusal, 429, where --explain_limit of them are being worked on: each takes dozens of model calls."""
        if self.explaining >= self.args.explain_limit:
            what = f"{self.explaining} explanations are being worked on"
            raise Refusal(429, "server", what, "Ask again later.", {"Retry-After": "1"}, "explain_limit")
        self.explaining += 1
        try:
            yield
        finally:
            self.explaining -= 1

    def class_indices(self, model, labels):
        """The class indices of labels that a request names; None stays None. Raises Refusal for unknown ones."""
        for i, label in enumerate(labels or ()):
            if label not in model.tree.index:
                guess = model.tree.guess(label[:200])
                how = f"{guess[:1].upper()}{guess[1:]}" or "Labels are full paths, as in label.txt."
                raise Refusal(422, f"body.labels[{i}]", "unknown label", how)
        return labels and [model.tree.index[label] for label in labels]

    async def watch(self):
        """Reload whenever the default's files have changed; those that are broken are tried again after a while."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = LOOK_SECONDS
            if await asyncio.to_thread(self.model.has_changed):
                try:
                    await self.changes.reload()
                except Refusal:  # the log tells why
                    pause = RETRY_SECONDS

    def reload_in_background(self):
        """Reload on a signal: nobody waits, the log tells the outcome."""

        async def reload():
            with suppress(Refusal):
                await self.changes.reload()

        self.background = asyncio.ensure_future(reload())

    def state(self, status, request):
        """For /health and the like; the folder of the model is for those alone who may reload it."""
        model = self.model
        file = str(model.path) if self.knows(request, "admin") else model.path.name
        return State(
            status=status, model=file, version=model.version, labels=len(model.tree),
            max_seq_length=model.max_seq_length, loaded=model.loaded,
        )  # fmt: skip
