"""Loss and scores of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path

from hierarchical.files import atomic_write


def draw_curves(path: Path, history: Sequence[dict]) -> None:
    """Loss and F1 per evaluation, which `Progress.history` has, as a PNG file."""
    from matplotlib.figure import Figure  # pyplot would take 0.3 s more
    from matplotlib.ticker import LogLocator

    epochs = [entry["epoch"] for entry in history]
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    for name in ("train_loss", "loss"):
        left.plot(epochs, [entry[name] for entry in history], marker="o", label="train" if name != "loss" else "dev")
    for name in ("micro_f1", "macro_f1", "hierarchical_f1"):
        right.plot(epochs, [entry[name] for entry in history], marker="o", label=name)
    left.set(xlabel="epoch", title="loss", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")  # 0.1, where the default would set a formula
    left.yaxis.set_minor_formatter("{x:g}")
    left.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    right.set(xlabel="epoch", title="dev F1", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.12, top=0.92)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
