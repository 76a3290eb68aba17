"""Checkpoints: a model's directory with everything that is needed to label texts with it, and the decision settings.

    checkpoint = Checkpoint.open("checkpoint")           # reads the small files, once; needs no paddle
    model = checkpoint.load_model()                      # the network

In it are:
    config.json, model.safetensors, model_state.pdparams     the library's files, see weights.py
    vocab.txt, tokenizer_config.json, ...                    the tokenizer
    label.txt                                                the labels in class-index order
    decision.json                                            maximum length, threshold(s), decoding it was scored with
An export of export_model.py has the same, with graphs in the place of the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierarchical.console import get_logger
from hierarchical.decisions import Decision
from hierarchical.encoders import FAMILIES, Family, read_config
from hierarchical.errors import InputError, some
from hierarchical.files import atomic_write, require_file
from hierarchical.labels import LabelTree
from hierarchical.modeling import build_model, library_config
from hierarchical.tokenizer import Tokenizer, load_tokenizer
from hierarchical.weights import WEIGHTS, find_weights, load_weights, write_weights

DECISION = "decision.json"
SETTINGS = ("config.json", "label.txt", DECISION)  # what belongs to a model besides its weights and tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A model directory, read once.

    config      config.json as a dict
    tree        the labels
    tokenizer   cuts texts to the maximum length in force
    decision    the settings it was scored with
    weights     its parameter file; None for an export, which has graphs
    """

    directory: Path
    config: dict
    tree: LabelTree
    tokenizer: Tokenizer
    decision: Decision
    weights: Path | None

    @classmethod
    def open(cls, directory: str | Path, max_seq_length: int | None = None, exported: bool = False) -> "Checkpoint":
        """Read a checkpoint, or with `exported` an export. Raises InputError for what is missing or damaged.

        max_seq_length: replaces the one of the training, with a warning.
        """
        directory = Path(directory)
        tree, trained, decision = read_settings(directory, exported)
        config, length = read_config(directory), max_seq_length or trained
        if length != trained:
            get_logger().warning(f"--max_seq_length {length}: the model was trained with {trained}")
        if length > (limit := config.get("max_position_embeddings", length)):
            raise InputError(f"--max_seq_length {length}: this model reads at most {limit} tokens.")
        weights = None if exported else find_weights(directory)
        return cls(directory, config, tree, load_tokenizer(directory, length), decision, weights)

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    def load_model(self) -> Any:
        """The network with its weights, in eval mode. Raises InputError when the files do not fit each other."""
        config = library_config(self.config)
        if config.num_labels != len(self.tree):
            raise InputError(
                f"{self.directory}: the model has {config.num_labels} outputs, but label.txt {len(self.tree)} labels."
            )
        model = build_model(config)
        load_weights(model, self.weights or self.directory / WEIGHTS)
        model.eval()
        return model


def write_settings(directory: str | Path, tree: LabelTree, max_seq_length: int, decision: Decision) -> None:
    """The part of a checkpoint that makes it self-contained: label.txt and decision.json."""
    with atomic_write(Path(directory) / "label.txt") as file:
        file.writelines(f"{label}\n" for label in tree.labels)
    with atomic_write(Path(directory) / DECISION) as file:
        json.dump({"max_seq_length": max_seq_length, **decision.to_dict()}, file, ensure_ascii=False, indent=1)


def read_settings(directory: str | Path, exported: bool = False) -> tuple[LabelTree, int, Decision]:
    """(LabelTree, max_seq_length, Decision) of a checkpoint; needs no paddle. Raises InputError if it is not one.

    exported: the directory is one of export_model.py, which needs no weights of train.py.
    """
    directory = Path(directory)
    if not directory.is_dir():
        flag = "--output_path of export_model.py" if exported else "--save_dir of train.py"
        raise InputError(f"{directory}: no such directory. Pass the {flag}.")
    hint = f"{directory} is not a complete {'export of export_model.py' if exported else 'checkpoint of train.py'}."
    if not exported and find_weights(directory) is None:
        raise InputError(f"{directory}: no {WEIGHTS} in it. {hint}")
    require_file(directory / "config.json", hint)
    tree = LabelTree.read(directory / "label.txt")
    return tree, *read_decision(directory, tree, hint)


def read_decision(
    directory: str | Path, tree: LabelTree, hint: str = "It lies beside label.txt."
) -> tuple[int, Decision]:
    """(max_seq_length, Decision) of a directory that `write_settings` wrote for the labels of `tree`."""
    path = Path(directory) / DECISION
    require_file(path, hint)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        max_seq_length = settings.pop("max_seq_length")
        if not isinstance(max_seq_length, int) or max_seq_length < 3:
            raise ValueError(f"max_seq_length is {max_seq_length!r}")
        decision = Decision.from_dict(settings)
        if isinstance(decision.threshold, list) and len(decision.threshold) != len(tree):
            raise ValueError(f"{len(decision.threshold)} thresholds for {len(tree)} labels")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the decision settings of a checkpoint ({error}).") from None
    return max_seq_length, decision


def save_checkpoint(
    directory: str | Path, model: Any, tokenizer: Tokenizer, tree: LabelTree, decision: Decision
) -> None:
    """Write a checkpoint, each file atomically, the weights last."""
    model.config.architectures = [type(model).__name__]
    with atomic_write(Path(directory) / "config.json") as file:
        file.write(model.config.to_json_string())
    tokenizer.save(directory)
    write_settings(directory, tree, tokenizer.max_seq_length, decision)
    write_weights(directory, model)


def require_same_labels(tree: LabelTree, path: str | Path) -> None:
    """Raise InputError when a data folder's label.txt is not the list the checkpoint was trained with."""
    if not Path(path).exists():
        return
    other = LabelTree.read(path)
    if other.labels == tree.labels:
        return
    gone, new = [x for x in tree.labels if x not in other.index], [x for x in other.labels if x not in tree.index]
    sides = {"only in the checkpoint": gone, "only in the file": new}
    what = [f"{side}: {some(labels)}" for side, labels in sides.items() if labels]
    raise InputError(
        f"{path}: differs from the labels the checkpoint was trained with "
        f"({'; '.join(what) or 'same labels in another order'}). Restore the file, or train again."
    )
