"""The models behind one port: by their names, loaded and unloaded while others answer."""

import difflib
import os
from pathlib import Path

from deploy.simple_serving.bodies import ModelState, Refusal
from hierarchical.errors import InputError

DEFAULT = "default"


class Models:
    """Names and what is loaded of them. The first one is the default, which is always loaded.

    loads: name -> a function that returns the Model, anew on each call. alike: names whose labels must be those of the
    default. Raises InputError for whatever cannot be loaded.
    """

    def __init__(self, loads, alike=()):
        self.loads, self.alike, self.default = loads, alike, next(iter(loads))
        self.loaded, self.memory = {}, {}
        for name in loads:
            self.use(name, *self.read(name))

    def read(self, name):
        """(the Model of a name from its files, bytes by which this process grew); what is in use stays in use."""
        before = resident_bytes()
        model = self.loads[name]()
        model.name = name
        self._require_alike(name, model)
        return model, max(0, resident_bytes() - before)

    def use(self, name, model, memory):
        self.loaded[name], self.memory[name] = model, memory

    def drop(self, name):
        self.loaded.pop(name, None)
        self.memory.pop(name, None)

    def identities(self):
        """name -> identity of those that are loaded."""
        return {name: model.identity for name, model in self.loaded.items()}

    def find(self, name=None):
        """The Model of a name, None: the default. Raises Refusal for one that is unknown, or not loaded."""
        model = self.loaded.get(name or self.default)
        if model:
            return model
        self.require_known(name, "body.model", 422)
        raise Refusal(
            503, "body.model", f"{name!r} is not loaded", "Ask for another one; see /v1/models.", None, "model"
        )

    def require_known(self, name, where, status):
        if name not in self.loads:
            near = difflib.get_close_matches(name, self.loads, n=1, cutoff=0.5)
            how = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(self.loads)}."
            raise Refusal(status, where, f"no model {name[:64]!r}", how)

    def states(self):
        """A ModelState for each name."""
        return [self.state(name) for name in self.loads]

    def state(self, name):
        told = {"name": name, "default": name == self.default, "loaded": name in self.loaded}
        if model := self.loaded.get(name):
            told |= {"version": model.version, "labels": len(model.tree), "max_seq_length": model.max_seq_length}
            told |= {"unseen": None if model.known is None else len(model.tree) - model.known}
            told |= {"since": model.loaded, "memory_bytes": self.memory[name]}
        return ModelState(**told)

    def _require_alike(self, name, model):
        """Raise InputError where models that answer the same requests have other labels."""
        others = self.alike if name == self.default else [self.default] if name in self.alike else []
        for other in others:
            if other in self.loaded and not self.loaded[other].tree.is_same(model.tree):
                raise InputError(
                    f"{model.path}: the labels of {name!r} are not those of {other!r}, beside which it is to answer. "
                    "--split and --shadow are for versions of one model."
                )


def resident_bytes():
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
