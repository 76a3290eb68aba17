"""Models loaded anew, loaded and unloaded while they serve: in every process of a server, or in none.

Each process reads a new model beside the one in use; only when all could read it, and have read the same, all use it.
"""

import asyncio

from deploy.simple_serving.bodies import Refusal
from hierarchical.console import get_logger
from hierarchical.errors import InputError


class Changes:
    """What may be asked of a server's models.

    everywhere: an async function of a step's name and what Steps gives it: the results in all processes, a list. It
    raises Refusal if one of them refuses
    loaded: name -> identity of the models in use; kept: the names of those that can't be unloaded
    note: called with the outcome of each reload, "done" or "failed"
    """

    def __init__(self, everywhere, loaded, kept, note):
        self.everywhere, self.loaded, self.kept, self.note = everywhere, loaded, kept, note
        self.turn = asyncio.Lock()

    async def reload(self):
        """Read keys, certificate and all loaded models anew, while the old ones go on.

        What is broken stays in use as it was; then raises Refusal, for the first such, when all others are done.
        """
        async with self.turn:
            await self.reload_in_turn()

    async def load(self, name):
        """Load a model, anew if it is there. Raises Refusal, 409, if its files are broken."""
        async with self.turn:
            await self._load(name)

    async def unload(self, name):
        """Forget a model, but for the requests that have it. Raises Refusal for one that must stay."""
        if name in self.kept:
            how = "Start the server with other models; --model_path, --split and --shadow name those that must stay."
            raise Refusal(409, "model", f"{name!r} cannot be unloaded", how)
        async with self.turn:
            self.loaded.pop(name, None)
            await self.everywhere("drop", name=name)
        get_logger().info(f"Unloaded {name}")

    async def reload_in_turn(self):
        """What reload() does, for whoever has the turn."""
        broken = None
        try:
            await self.everywhere("refresh")
        except Refusal as refusal:
            broken = self._failed(refusal)
        for name in list(self.loaded):
            try:
                await self._load(name)
            except Refusal as refusal:
                broken = broken or refusal
        if broken:
            raise broken

    async def _load(self, name):
        try:
            found = await self.everywhere("read", name=name)
            if len({one["identity"] for one in found}) > 1:
                raise not_loaded("model", name, "its files were replaced while they were read")
        except Refusal as refusal:
            await self.everywhere("forget")
            raise self._failed(refusal) from None
        await self.everywhere("use")
        self.loaded[name] = found[0]["identity"]
        self.note("done")
        get_logger().info(f"Reloaded {found[0]['told']}")

    def _failed(self, refusal):
        self.note("failed")
        what = "certificate" if refusal.problems[0].where == CERTIFICATE else "model"
        get_logger().error(f"Not reloaded, the {what} loaded before stays in service: {refusal}")
        return refusal


CERTIFICATE = "--tls_cert"


def not_loaded(what, where, error):
    how = f"Mend the files and reload again; the {what} loaded before stays in service."
    return Refusal(409, str(where), str(error), how)


class Steps:
    """What a change is made of in each process. Async functions, whose results are JSON; they raise Refusal.

    service: a service.Service
    """

    def __init__(self, service):
        self.service, self.read_anew = service, None

    def all(self):
        """name -> the step of that name."""
        return {step.__name__: step for step in (self.refresh, self.read, self.use, self.forget, self.drop)}

    async def refresh(self):
        """Read keys and certificate again."""
        self.service.keys.look(now=True)
        if self.service.renew:
            try:
                self.service.renew()
            except InputError as error:
                raise not_loaded("certificate", CERTIFICATE, error) from None

    async def read(self, name):
        """Read a model; which one it is, and what to tell of it."""
        models = self.service.models
        try:
            self.read_anew = name, *await asyncio.to_thread(models.read, name)
        except Exception as error:  # whatever broken files can lead to
            place = models.loaded[name].path if name in models.loaded else name
            raise not_loaded("model", place, error) from None
        model = self.read_anew[1]
        return {"identity": model.identity, "told": f"{model.path} ({len(model.tree)} labels)"}

    async def use(self):
        """Use the model that was read."""
        self.service.models.use(*self.read_anew)
        self.service.figures.note_models(self.service.models.loaded.values())
        self.read_anew = None

    async def forget(self):
        """Do without the one that was read, if there is one."""
        self.read_anew = None

    async def drop(self, name):
        """Forget a model in use."""
        self.service.models.drop(name)
        self.service.figures.note_models(self.service.models.loaded.values())
