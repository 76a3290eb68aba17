"""How the model saw each train row in each epoch: train.py --keep_dynamics, for the data map of a report.

    trainer.dynamics = dynamics_for(args.keep_dynamics, save_dir, train, epochs, state)   # noted by every step
    found = read_dynamics("checkpoint", rows)                                             # Seen, or None

Of a row and an epoch one number is kept: how likely the least likely of its labels' states was (that each label it has
applies, and each other does not), in the training step that had the row: with dropout, before the update. Its mean over
the epochs is the confidence in a row, its standard deviation the variability. Swayamdipta and others (2020), Dataset
cartography, plot the one against the other, for the probability of a row's one class.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierarchical.calibration import sigmoid
from hierarchical.errors import InputError
from hierarchical.files import atomic_write
from hierarchical.rows import Rows
from hierarchical.weights import damaged_state

NAME, DYNAMICS = "dynamics.npz", "dynamics"  # the file beside the model; among the arrays of a state
NOT_SEEN = -1
UNSURE = 0.5  # confidence below which a row is hard
KINDS = ("easy", "ambiguous", "hard")


class Dynamics:
    """values: float16 [epochs, N], NOT_SEEN where a row was not seen yet; epoch: the one that is under way, from 0."""

    def __init__(self, rows: Rows, epochs: int):
        self.keys, self.epoch = keys_of(rows.texts, rows.labels), 0
        self.values = np.full((epochs, len(rows.labels)), NOT_SEEN, np.float16)

    def note(self, numbers: Sequence[int] | np.ndarray, targets: np.ndarray, logits: Any) -> None:
        """Of a step: row numbers [n], their targets [n, L], 0 or 1, and the network's logits, a tensor [n, L].

        Numbers beyond those of the labelled rows are of texts that teachers label, and passed over.
        """
        likely = sigmoid(logits.detach().astype("float32").numpy())
        least = np.where(targets > 0.5, likely, 1 - likely).min(1)
        own = np.asarray(numbers) < self.values.shape[1]
        self.values[self.epoch, np.asarray(numbers)[own]] = least[own]

    def share(self, paddle: Any) -> None:
        """Let every process know what the others have noted in this epoch."""
        if paddle.distributed.get_world_size() > 1:
            shared = paddle.to_tensor(self.values[self.epoch].astype(np.float32))
            paddle.distributed.all_reduce(shared, paddle.distributed.ReduceOp.MAX)
            self.values[self.epoch] = shared.numpy()

    def restore(self, values: np.ndarray | None, path: Path) -> None:
        """Take over the values of a saved state; None: it has none. The number of epochs may be another one.

        path: of the state. Raises InputError for those of other rows.
        """
        if values is not None:
            if values.ndim != 2 or values.shape[1] != self.values.shape[1]:
                raise damaged_state(path, DYNAMICS, f"{list(values.shape)}, not [epochs, {self.values.shape[1]}]")
            known = min(len(values), len(self.values))
            self.values[:known] = values[:known]

    def write(self, directory: Path) -> None:
        with atomic_write(directory / NAME, "wb") as file:
            np.savez(file, values=self.values[: self.epoch + 1], keys=self.keys)


def dynamics_for(
    keep: bool, directory: Path, rows: Rows, epochs: int, state: dict[str, np.ndarray] | None = None
) -> Dynamics | None:
    """The Dynamics of a run; None: they are not to be kept, and those of an earlier one go, with its model.

    state: of the run that is gone on with; one that has kept them goes on keeping them.
    """
    if keep or DYNAMICS in (state or ()):
        return Dynamics(rows, epochs)
    (directory / NAME).unlink(missing_ok=True)
    return None


class Seen(NamedTuple):
    """confidence, variability: float32 [N], NaN for rows that the training has not seen as they are; epochs: of it."""

    confidence: np.ndarray
    variability: np.ndarray
    epochs: int

    def kinds(self) -> list[str]:
        """What each row was to learn, of KINDS; "" where that is not known.

        The third of the rows that varied most is ambiguous; of the others those below UNSURE are hard.
        """
        known = np.isfinite(self.confidence)
        bound = np.quantile(self.variability[known], 2 / 3) if known.any() else 0
        numbers = np.where(self.variability > bound, 1, np.where(self.confidence < UNSURE, 2, 0))
        return [KINDS[number] if there else "" for number, there in zip(numbers, known)]


def read_dynamics(directory: str | Path, rows: Rows) -> Seen | None:
    """What the training of a checkpoint has kept about these rows, whose texts and labels find them again.

    None: it has kept nothing. Raises InputError for a damaged file.
    """
    path = Path(directory) / NAME
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values, keys = file["values"].astype(np.float32), file["keys"]
        if values.ndim != 2 or keys.shape != values.shape[1:] or keys.dtype != np.uint64:
            raise ValueError("other arrays than were written")
    except Exception as error:  # a damaged archive can make the reader raise anything
        raise InputError(f"{path}: damaged ({error}). Remove it, or train again with --keep_dynamics.") from None
    noted = values != NOT_SEEN
    times, values = noted.sum(0), np.where(noted, values, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 of rows that were never seen: NaN
        mean = values.sum(0) / times
        deviation = np.sqrt((np.where(noted, values - mean, 0) ** 2).sum(0) / times)
    place = {key: i for i, key in enumerate(keys.tolist())}
    found = [place.get(key, -1) for key in keys_of(rows.texts, rows.labels).tolist()]
    mean, deviation = (np.append(column, np.nan).astype(np.float32) for column in (mean, deviation))
    return Seen(mean[found], deviation[found], len(values))


def keys_of(texts: Iterable[str], labels: Iterable[Sequence[int]]) -> np.ndarray:
    """By what rows are found again: 8 bytes of the SHA-256 of text and labels, as uint64 [N]."""
    contents = (f"{','.join(map(str, own))}\t{text}" for text, own in zip(texts, labels))
    digests = (hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[:8] for content in contents)
    return np.fromiter((int.from_bytes(digest, "little") for digest in digests), np.uint64)
