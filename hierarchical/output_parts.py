"""The file that several processes write together: each its own part, and the last one to end joins them.

    parts = Parts(Path("predictions.jsonl"), rank, world)
    parts.begin()                   # then write parts.own
    parts.end(settings, logger)

Beside the file, and gone when it is whole
    predictions.part-0000-of-0002.jsonl    a process's rows; .done beside it, once they are all there
    predictions.jsonl.parts                the names of the parts; while it is there, the file is not that of this run
"""

import json
import os
import shutil
from logging import Logger
from pathlib import Path

from hierarchical.files import atomic_write


class Parts:
    """The parts of `path`, one for each of `world` processes, seen from process `rank`.

    Processes of one start tell each other by what the launcher calls it: parts that an earlier one left do not count
    until the process whose they are has looked at them (with --resume) or written them again.
    """

    def __init__(self, path: Path, rank: int, world: int):
        self.path, self.rank = path, rank
        self.paths = [path.with_name(f"{path.stem}.part-{r:04}-of-{world:04}{path.suffix}") for r in range(world)]
        self.own = self.paths[rank]
        self.names, self.joining = Path(f"{path}.parts"), Path(f"{path}.parts.joining")
        self.start = f"{os.environ.get('PADDLE_MASTER', '')} {os.environ.get('PADDLE_TRAINER_ENDPOINTS', '')}"

    def are_joined(self) -> bool:
        """Whether the file is there, whole, and no run is under way."""
        return self.path.exists() and not self.names.exists() and not self.joining.exists()

    def begin(self) -> None:
        """Before this process writes its part."""
        done_mark(self.own).unlink(missing_ok=True)
        if self.rank == 0:
            with atomic_write(self.names) as file:
                file.writelines(f"{part.name}\n" for part in self.paths)
            self.joining.unlink(missing_ok=True)  # of a run that was killed while it joined them

    def settings(self) -> dict | None:
        """What the rows of this process's part, which an earlier start has finished, depend on; None: it has not."""
        if not self.own.exists():
            return None
        try:
            return json.loads(done_mark(self.own).read_text(encoding="utf-8").split("\n", 1)[1])
        except (FileNotFoundError, ValueError, IndexError):
            return None

    def end(self, settings: dict, logger: Logger) -> None:
        """This process's part is whole; if those of all others are, too, put them together.

        settings: what its rows depend on
        """
        with atomic_write(done_mark(self.own)) as file:
            file.write(f"{self.start}\n{json.dumps(settings, ensure_ascii=False)}")
        if missing := [part.name for part in self.paths if not self._is_done(part)]:
            logger.info(f"{self.path} follows when {len(missing)} more parts are there")
            return
        try:
            os.rename(self.names, self.joining)  # of two processes that end together one succeeds
        except FileNotFoundError:
            return
        with atomic_write(self.path, "wb") as whole:
            for part in self.paths:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)
        for part in self.paths:
            part.unlink()
            done_mark(part).unlink()
        self.joining.unlink()
        logger.info(f"{len(self.paths)} parts joined in {self.path}")

    def _is_done(self, part: Path) -> bool:
        try:
            return part.exists() and done_mark(part).read_text(encoding="utf-8").split("\n", 1)[0] == self.start
        except FileNotFoundError:
            return False


def done_mark(part: Path) -> Path:
    return Path(f"{part}.done")
