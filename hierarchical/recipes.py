"""What `train.py --recipe best` sets where a flag is left out: what was best for a few rows and for many.

The rate falls to 0 at the end of a training, so its length counts: each train row is read as often as it takes to read
READS rows in all, within bounds. docs/results.md has the scores.

With --teacher an epoch is a pass over the unlabelled texts, and has the labelled rows so often that they are read in
all as often as without.
"""

from logging import Logger
from typing import Any

from hierarchical.learning_rates import AUTO

LAST = "last"  # value of --select_by: the model at the end
RECIPES: dict[str, dict[str, Any]] = {
    "best": {
        "loss": "zlpr",
        "learning_rate": AUTO,
        "lr_scheduler": "linear",
        "select_by": LAST,  # few dev rows choose an epoch badly, and at the end of a falling rate it is the last one
        "hybrid": True,
        "warmup": True,
    },
}
BY_ROWS = ("epochs", "batch_size", "warmup_steps")
READS, FEWEST_EPOCHS, MOST_EPOCHS = 24_000, 8, 60
FEW, SMALL_BATCH, BATCH = 1_000, 8, 32  # up to so many train rows, more steps of fewer rows
TAUGHT_EPOCHS = 4  # with --teacher
WARMUP = 0.1  # of the steps


def defaults_of(recipe: str) -> dict[str, Any]:
    """Flags and their values; None where `by_rows` has the value."""
    return RECIPES[recipe] | dict.fromkeys(BY_ROWS)


def by_rows(
    n_rows: int, epochs: int | None = None, batch_size: int | None = None, parts: int = 1, n_texts: int = 0
) -> dict[str, int]:
    """The flags BY_ROWS for so many train rows.

    epochs, batch_size: those that were given; parts: batches of a step, on all processes; n_texts: unlabelled texts
    that teachers label
    """
    epochs = epochs or (TAUGHT_EPOCHS if n_texts else epochs_alone(n_rows))
    batch_size = batch_size or (BATCH if n_rows > FEW else SMALL_BATCH)
    per_epoch = n_rows * repeats(n_rows, epochs) + n_texts if n_texts else n_rows
    steps = epochs * -(-per_epoch // (batch_size * parts))
    return {"epochs": epochs, "batch_size": batch_size, "warmup_steps": int(WARMUP * steps)}


def epochs_alone(n_rows: int) -> int:
    """How often a training without teachers reads its train rows."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(READS / n_rows)))


def repeats(n_rows: int, epochs: int) -> int:
    """How often each of so many labelled rows stands in one of `epochs` passes over unlabelled texts."""
    return max(1, round(epochs_alone(n_rows) / epochs))


def settle(args: Any, n_rows: int, n_texts: int, world: int, logger: Logger) -> None:
    """Give the flags that --recipe leaves to the number of rows their values, and tell all that it sets.

    n_texts: as in `by_rows`; world: processes
    """
    parts = args.gradient_accumulation_steps * world
    found = by_rows(n_rows, args.epochs, args.batch_size, parts, n_texts)
    for name in BY_ROWS:
        if getattr(args, name) is None:
            setattr(args, name, found[name])
    values = {name: getattr(args, name) for name in (*BY_ROWS, *RECIPES[args.recipe])}
    logger.info(f"--recipe {args.recipe}: {', '.join(typed(name, value) for name, value in values.items())}")


def typed(name: str, value: Any) -> str:
    """A flag as one would type it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    return f"--{name} {value}"
