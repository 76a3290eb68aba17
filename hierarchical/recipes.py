"""What `train.py --recipe best` sets where a flag is left out: what was best for a few rows and for many.

The rate falls to 0 at the end of a training, so its length counts: each train row is read as often as it takes to read
READS rows in all, within bounds. docs/results.md has the scores.
"""

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
WARMUP = 0.1  # of the steps


def defaults_of(recipe: str) -> dict[str, Any]:
    """Flags and their values; None where `by_rows` has the value."""
    return RECIPES[recipe] | dict.fromkeys(BY_ROWS)


def by_rows(n_rows: int, epochs: int | None = None, batch_size: int | None = None, parts: int = 1) -> dict[str, int]:
    """The flags BY_ROWS for so many train rows.

    epochs, batch_size: those that were given; parts: batches of a step, on all processes
    """
    epochs = epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(READS / n_rows)))
    batch_size = batch_size or (BATCH if n_rows > FEW else SMALL_BATCH)
    steps = epochs * -(-n_rows // (batch_size * parts))
    return {"epochs": epochs, "batch_size": batch_size, "warmup_steps": int(WARMUP * steps)}
