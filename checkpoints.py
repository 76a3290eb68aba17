"""Checkpoints: a model's directory with everything that is needed to label texts with it, and the decision settings.

In it are:
    config.json, model.safetensors, model_state.pdparams     the library's files, see weights.py
    vocab.txt, tokenizer_config.json, ...                    the tokenizer
    label.txt                                                the labels in class-index order
    decision.json                                            maximum length, threshold(s), decoding it was scored with
"""

import json
from pathlib import Path

from metric import DECODINGS, Decision
from modeling import build_model, read_config, read_config_file
from tokenizer import load_tokenizer
from utils import InputError, LabelTree, atomic_write, get_logger, require_file
from weights import WEIGHTS, find_weights, load_weights, write_weights

DECISION = "decision.json"


def write_settings(directory, tree, max_seq_length, decision):
    """The part of a checkpoint that makes it self-contained: label.txt and decision.json."""
    with atomic_write(Path(directory) / "label.txt") as file:
        file.writelines(f"{label}\n" for label in tree.labels)
    with atomic_write(Path(directory) / DECISION) as file:
        json.dump({"max_seq_length": max_seq_length, **decision.to_dict()}, file, ensure_ascii=False, indent=1)


def read_settings(directory, exported=False):
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


def read_decision(directory, tree, hint="It lies beside label.txt."):
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


def open_checkpoint(directory, max_seq_length=None, exported=False):
    """(LabelTree, tokenizer, stored Decision) of a checkpoint; needs no paddle. Raises InputError if it is not one.

    max_seq_length: replaces the one of the training, with a warning; the tokenizer holds the one in force.
    exported: the directory is one of export_model.py.
    """
    tree, trained, decision = read_settings(directory, exported)
    length = max_seq_length or trained
    if length != trained:
        get_logger().warning(f"--max_seq_length {length}: the model was trained with {trained}")
    if length > (limit := read_config_file(directory).get("max_position_embeddings", length)):
        raise InputError(f"--max_seq_length {length}: this model reads at most {limit} tokens.")
    return tree, load_tokenizer(directory, length), decision


def save_checkpoint(directory, model, tokenizer, tree, decision):
    """Write a checkpoint, each file atomically, the weights last."""
    model.config.architectures = [type(model).__name__]
    with atomic_write(Path(directory) / "config.json") as file:
        file.write(model.config.to_json_string())
    tokenizer.save(directory)
    write_settings(directory, tree, tokenizer.max_seq_length, decision)
    write_weights(directory, model)


def require_same_labels(tree, path):
    """Raise InputError when a data folder's label.txt is not the list the checkpoint was trained with."""
    if not Path(path).exists():
        return
    other = LabelTree.read(path)
    if other.labels == tree.labels:
        return
    gone, new = [x for x in tree.labels if x not in other.index], [x for x in other.labels if x not in tree.index]
    what = [f"only in the checkpoint: {', '.join(gone[:5])}"] * bool(gone)
    what += [f"only in the file: {', '.join(new[:5])}"] * bool(new)
    raise InputError(
        f"{path}: differs from the labels the checkpoint was trained with "
        f"({'; '.join(what) or 'same labels in another order'}). Restore the file, or train again."
    )


def load_checkpoint(directory):
    """The model of a checkpoint, in eval mode. Raises InputError when its files do not fit each other."""
    tree = LabelTree.read(Path(directory) / "label.txt")
    config = read_config(directory)
    if config.num_labels != len(tree):
        raise InputError(f"{directory}: the model has {config.num_labels} outputs, but label.txt {len(tree)} labels.")
    model = build_model(config)
    load_weights(model, find_weights(directory) or Path(directory) / WEIGHTS)
    model.eval()
    return model


# ---- decision settings on the command line ---------------------------------------------------------------------------


def add_decision_arguments(parser, default, otherwise="as stored in the checkpoint"):
    """The flags that turn probabilities into label sets; returns their group.

    default: a Decision, or None where the checkpoint decides; `otherwise` says so in the help.
    """
    group = parser.add_argument_group("decision")
    stored = "" if default else f" (default: {otherwise})"
    shown = default.to_dict() if default else dict.fromkeys(Decision().to_dict())
    group.add_argument(
        "--threshold", type=float, default=shown["threshold"], help=f"a label needs a probability above this{stored}"
    )
    group.add_argument(
        "--decoding",
        choices=DECODINGS,
        default=shown["decoding"],
        help="raw: each label on its own; closure: a label brings its ancestors; topdown: no label without its "
        f"ancestors{stored}",
    )
    for name, text in (
        ("min_labels", "at least this many labels in every row"),
        ("max_labels", "at most this many labels in every row"),
        ("top_k", "exactly this many labels in every row, whatever the threshold"),
    ):
        group.add_argument(f"--{name}", type=int, default=shown[name], help=f"{text}{stored}")
    return group


def decision_from_arguments(args, stored=None):
    """The Decision asked for on the command line; what it leaves open is taken from `stored`."""
    names = ("threshold", "decoding", "min_labels", "max_labels", "top_k")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = stored.to_dict() if stored else {}
    if "top_k" in given:  # a number of labels asked for now replaces any limits stored earlier, and the other way round
        settings |= {"min_labels": 0, "max_labels": None}
    elif "min_labels" in given or "max_labels" in given:
        settings["top_k"] = None
    try:
        return Decision.from_dict(settings | given)
    except ValueError as error:
        raise InputError(f"decision settings: {error}.") from None
