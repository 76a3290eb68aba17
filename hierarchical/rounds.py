"""What a round of analysis/improve.py has done so far: state.json in its work folder, for it and for who starts one."""

import json
from pathlib import Path
from typing import NamedTuple

from hierarchical.errors import InputError
from hierarchical.files import atomic_write

NAME = "state.json"
STEPS = ("train", "report", "texts", "ask", "merge", "retrain", "compare")


class Done(NamedTuple):
    """settings: the flags a round began with; number: the first is 1; steps: the finished ones; began: in seconds."""

    settings: dict
    number: int
    steps: list[str]
    began: float

    @property
    def ended(self) -> bool:
        return self.steps[-1:] == [STEPS[-1]]


def read_done(work_dir: str | Path) -> Done | None:
    """What the last round in a work folder has done; None: none was begun. Raises InputError for a damaged state."""
    path = Path(work_dir) / NAME
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        done = Done(state["settings"], state["round"], state["done"], float(state["began"]))
        kinds: dict[str, type] = {"settings": dict, "number": int, "steps": list, "began": float}
        if not all(isinstance(getattr(done, name), kind) for name, kind in kinds.items()):
            raise TypeError("other values than were written")
        if not isinstance(done.settings["dataset_dir"], str):
            raise TypeError("no folder")
        if not set(done.steps) <= set(STEPS):
            raise ValueError("other steps")
        return done
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is damaged. Remove it, or take another --work_dir.") from None


def write_done(work_dir: str | Path, done: Done) -> None:
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / NAME) as file:
        state = {"settings": done.settings, "round": done.number, "done": done.steps, "began": done.began}
        json.dump(state, file, ensure_ascii=False, indent=1)
