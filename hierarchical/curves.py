"""Loss and scores of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path

from hierarchical.files import atomic_write


def draw_curves(path: Path, history: Sequence[dict]) -> None:
    """Loss and F1 per evaluation, which `Progress.history` has, as a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs = [entry["epoch"] for entry in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in ("train_loss", "loss"):
        left.plot(epochs, [entry[name] for entry in history], marker="o", label="train" if name != "loss" else "dev")
    for name in ("micro_f1", "macro_f1", "hierarchical_f1"):
        right.plot(epochs, [entry[name] for entry in history], marker="o", label=name)
    left.set(xlabel="epoch", title="loss", yscale="log")
    right.set(xlabel="epoch", title="dev F1", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)
