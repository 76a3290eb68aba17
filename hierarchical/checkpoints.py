"""Checkpoints: a model's directory with everything that is needed to label texts with it, and the decision settings.

    checkpoint = Checkpoint.open("checkpoint")           # reads the small files, once; needs no paddle
    model = checkpoint.load_model()                      # the network

In it are:
    config.json, model.safetensors, model_state.pdparams     the library's files, see weights.py
    vocab.txt, tokenizer_config.json, ...                    the tokenizer
    label.txt, label_graph.txt                               the labels in class-index order, and further parents
    decision.json                                            maximum length, what is read of longer texts, threshold(s),
                                                             decoding it was scored with
    linear.safetensors                                       a linear branch, if it has one, see linear.py
An export of export_model.py has the same, with graphs in the place of the weights. What does not belong together is
refused, see identity.py; a save replaces all of it, or nothing, see sets.py.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierarchical.calibration import mark_of
from hierarchical.console import get_logger
from hierarchical.decisions import Decision, thresholds_of
from hierarchical.encoders import FAMILIES, Family, read_config
from hierarchical.errors import InputError, some
from hierarchical.files import atomic_write, require_file
from hierarchical.identity import (
    DECISION,
    LABELS,
    OLD_CONFIG,
    RECORD,
    digests,
    digests_of,
    members,
    read_export,
    read_others,
    require_fit,
    require_listed,
)
from hierarchical.label_graph import graph_path
from hierarchical.labels import LabelTree
from hierarchical.linear import LINEAR, MODEL_TYPE, WHOLE, Characters, LinearBranch, read_linear, write_linear
from hierarchical.long_texts import CUT, LongText, long_text_for
from hierarchical.modeling import build_model, library_config
from hierarchical.sets import in_force, new_set, read_set
from hierarchical.tokenizer import load_tokenizer
from hierarchical.tokens import Tokenizer
from hierarchical.weights import (
    NUMBERS,
    WEIGHTS,
    find_weights,
    load_weights,
    parse_identity,
    read_identity,
    write_weights,
)

LONG_TEXT = ("long_text", "window_stride", "max_windows")  # of a LongText, in decision.json
SETTINGS = ("config.json", LABELS, DECISION)  # what belongs to a model besides its weights and tokenizer
# What a model directory can hold: (what it is, which scripts take it and its export, where both come from).
KINDS = {
    "classifier": (
        "a classifier",
        ("predict.py, export_model.py, prune.py and analysis/", "deploy/predictor/infer.py and the servers of deploy/"),
        ("the --save_dir of train.py", "the --output_path of export_model.py"),
    ),
    "few-shot": (
        "a few-shot model",
        ("few-shot/train.py, as --output_dir (--do_predict labels texts)", "few-shot/infer.py"),
        ("the --output_dir of few-shot/train.py", "the export/ that few-shot/train.py --do_export wrote"),
    ),
    "retrieval": (
        "an encoder for retrieval",
        ("the scripts of retrieval_based/, as --params_path",) * 2,
        ("the model_best/ that retrieval_based/train.py wrote",) * 2,
    ),
    "linear": (
        "a linear model without an encoder",
        ("predict.py, analysis/evaluate.py, deploy/predictor/infer.py and deploy/simple_serving/server.py",) * 2,
        ("the --save_dir of analysis/baseline.py",) * 2,
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A model directory, read once.

    config      config.json as a dict
    tree        the labels
    tokenizer   reads of texts what the maximum length and the way with longer ones that are in force let it
    decision    the settings it was scored with
    exported    whether it is an export, which has graphs in the place of the weights
    digests     of the files that the numbers belong with, see identity.py
    identity    what the parameter file says it belongs with; None for an export, and if it does not say
    linear      its linear branch, or None: what it adds to an encoder's logits is told by linear.with_linear
    mark        what a calibration knows it by, see calibration.mark_of
    """

    directory: Path
    config: dict
    tree: LabelTree
    tokenizer: Any  # a Tokenizer, or Characters where there is no encoder
    decision: Decision
    exported: bool
    digests: dict[str, str]
    identity: dict[str, str] | None
    linear: LinearBranch | None = None
    mark: str = ""

    @classmethod
    def open(
        cls,
        directory: str | Path,
        max_seq_length: int | None = None,
        exported: bool = False,
        kind: str = "classifier",
        windows: bool = True,
        **asked: Any,
    ) -> "Checkpoint":
        """Read a checkpoint, or with `exported` an export.

        max_seq_length: replaces the one of the training, with a warning; so do long_text, window_stride and max_windows
        among `asked`, see LongText.updated. kind: of KINDS, what is needed. windows: whether who opens it reads texts
        in windows, if the model does; else the first one alone, with a warning.
        Raises InputError for what is missing, damaged, of another kind, or does not belong together.
        """

        def read(folder: Path) -> "Checkpoint":
            tree, trained, decision, stored = read_settings(folder, exported)
            config, length = read_config(folder, MODEL_TYPE), max_seq_length or trained
            require_model_kind(folder, config, tree, kind, exported)
            if length != trained:
                get_logger().warning(f"max_seq_length {length}: the model was trained with {trained}")
            if length > (limit := config.get("max_position_embeddings", length)):
                raise InputError(f"max_seq_length {length}: this model reads at most {limit} tokens.")
            long_text = long_text_for(length, stored, **asked)
            if long_text != stored:
                get_logger().warning(f"long_text {long_text}: the model is stored with {stored}")
            if long_text.stride and not windows:
                get_logger().warning(f"This script reads the first {length} tokens of a text; the model reads windows")
                long_text = CUT
            what = kind_of(config, tree)
            if long_text != CUT and what != "classifier":
                raise InputError(f"{folder}: {KINDS[what][0]} knows no --long_text {long_text.method}. Leave it out.")
            if what == "linear":
                return linear_checkpoint(Path(directory), folder, config, tree, length, decision)
            tokenizer = load_tokenizer(folder, length).reading(long_text)
            found, identity = digests(tree.labels, config, tokenizer.files | read_others(folder, config)), None
            told: dict[str, str] = {}
            if exported and (record := read_export(folder)):
                require_fit(folder, RECORD, told := record["identity"], found, "export again")
            elif weights := find_weights(folder):
                if identity := None if exported else read_identity(weights):
                    require_fit(folder, weights.name, told := identity, found, "train again")
            tokenizer.require_known(config)
            require_calibrated(folder, decision, mark := mark_of(told.get(NUMBERS), found.get(LINEAR)))
            linear = read_linear(folder, tree)
            return cls(Path(directory), config, tree, tokenizer, decision, exported, found, identity, linear, mark)

        return read_set(directory, read)

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    @property
    def weights(self) -> Path | None:
        """Its parameter file; None for an export."""
        return None if self.exported or self.config["model_type"] == MODEL_TYPE else find_weights(self.directory)

    def load_model(self) -> Any:
        """The network with its weights, in eval mode. Raises InputError when the files do not fit each other."""
        config = library_config(self.config)
        if config.num_labels != len(self.tree):
            raise InputError(
                f"{self.directory}: the model has {config.num_labels} outputs, but label.txt {len(self.tree)} labels."
            )
        model = build_model(config)
        self.load_weights(model)
        model.eval()
        return model

    def load_weights(self, model: Any) -> None:
        """Give a network the parameters. Raises InputError when they do not fit it, or are not those of the opening."""

        def read(folder: Path) -> None:
            weights = find_weights(folder)
            if weights and read_identity(weights) != self.identity:
                raise InputError(f"{self.directory}: holds another model than when it was opened. Start again.")
            load_weights(model, weights or folder / WEIGHTS)

        read_set(self.directory, read)

    def require_models(self, paths: Sequence[Path], metadata: Mapping[str, str]) -> None:
        """Raise InputError unless these are model files of this export; metadata: of an ONNX model, see identity.py."""
        require_listed(read_export(self.directory), paths)
        if (told := metadata.get("identity")) and (identity := parse_identity(told, paths[0])):
            require_fit(self.directory, paths[0].name, identity, self.digests, "export again")


def linear_checkpoint(
    directory: Path, folder: Path, config: dict, tree: LabelTree, max_seq_length: int, decision: Decision
) -> Checkpoint:
    """The Checkpoint of a linear model. folder: where the directory is read."""
    require_file(folder / LINEAR, "It is the model; copy the whole folder again from where it was made.")
    found, linear = digests(tree.labels, config, read_others(folder, config)), read_linear(folder, tree)
    require_calibrated(folder, decision, mark := mark_of(found[LINEAR]))
    return Checkpoint(directory, config, tree, Characters(max_seq_length), decision, False, found, None, linear, mark)


def require_calibrated(folder: Path, decision: Decision, mark: str) -> None:
    """Raise InputError if a model has the calibration of another one."""
    if (calibration := decision.calibration) and calibration.model and mark and calibration.model != mark:
        raise InputError(
            f"{folder / DECISION}: its calibration is that of another model; the probabilities would be wrong, and its "
            "thresholds are for them. Put the original back, or write one without the lines of the calibration and "
            "the threshold."
        )


def is_linear(directory: str | Path) -> bool:
    """Whether a directory holds a linear model."""
    try:
        return read_config(in_force(directory), MODEL_TYPE)["model_type"] == MODEL_TYPE
    except InputError:
        return False


def kind_of(config: dict, tree: LabelTree) -> str:
    """Of which of KINDS a model is, by its config.json and labels."""
    if config["model_type"] == MODEL_TYPE:
        return "linear"
    if "mlm_transform" in config and config.get("architectures") == ["Network"]:
        return "few-shot"
    named = sorted((config.get("id2label") or {}).values()) == sorted(tree.labels)  # its outputs are labels
    return "retrieval" if isinstance(config.get("encoder_id"), str) and not named else "classifier"


def kind_in(directory: str | Path) -> str:
    """Of which of KINDS the model in a directory is; if that cannot be read, the commonest."""
    try:
        return kind_of(read_config(directory, MODEL_TYPE), LabelTree.read(Path(directory) / "label.txt"))
    except InputError:
        return "classifier"


def require_model_kind(folder: Path, config: dict, tree: LabelTree, kind: str, exported: bool) -> None:
    """Raise InputError, which says what to do with it, if a model directory holds another kind than is needed."""
    found = kind_of(config, tree)
    if kind == "retrieval" and isinstance(config.get("encoder_id"), str):
        return
    if found == kind or (exported and (found, kind) == ("few-shot", "classifier")):  # they compute alike
        return
    what, scripts, _ = KINDS[found]
    wanted, _, made = KINDS[kind]
    raise InputError(
        f"{folder}: holds {what}, not {wanted}. It is for {scripts[exported]}; pass here {made[exported]}."
    )


def write_settings(
    directory: str | Path, tree: LabelTree, max_seq_length: int, decision: Decision, long_text: LongText = CUT
) -> None:
    """The part of a checkpoint that makes it self-contained: the labels and decision.json."""
    tree.write(Path(directory) / LABELS)
    write_decision(directory, max_seq_length, decision, long_text)


def write_decision(directory: str | Path, max_seq_length: int, decision: Decision, long_text: LongText = CUT) -> None:
    """decision.json alone: the model stays, and answers by other settings."""
    with atomic_write(Path(directory) / DECISION) as file:
        settings = {"max_seq_length": max_seq_length, **long_text.to_dict(), **decision.to_dict()}
        json.dump(settings, file, ensure_ascii=False, indent=1)


def read_settings(directory: str | Path, exported: bool = False) -> tuple[LabelTree, int, Decision, LongText]:
    """(LabelTree, max_seq_length, Decision, LongText) of a checkpoint; needs no paddle.

    Raises InputError if it is not one. exported: the directory is one of export_model.py, which needs no weights of
    train.py.
    """
    directory = Path(directory)
    if not directory.is_dir():
        flag = "--output_path of export_model.py" if exported else "--save_dir of train.py"
        raise InputError(f"{directory}: no such directory. Pass the {flag}.")
    hint = f"{directory} is not a complete {'export of export_model.py' if exported else 'checkpoint of train.py'}."
    if not exported and find_weights(directory) is None and not is_linear(directory):
        raise InputError(f"{directory}: no {WEIGHTS} in it. {hint}{what_else(directory)}")
    require_file(directory / "config.json", hint)
    tree = LabelTree.read(directory / "label.txt")
    return tree, *read_decision(directory, tree, hint)


def what_else(directory: Path) -> str:
    """What a directory without a checkpoint holds in its place, as a sentence that a message ends with; or ""."""
    below = sorted(path.parent.name for path in directory.glob(f"*/{WEIGHTS}"))
    if below:
        return f" {' and '.join(str(directory / name) for name in below[:3])} may be what you mean."
    graphs = sorted(path.name for path in directory.iterdir() if path.suffix in (".onnx", ".pdiparams"))
    if not graphs:
        return ""
    return f" {graphs[0]} is an exported model: it is for {KINDS[kind_in(directory)][1][1]}."


def read_decision(
    directory: str | Path, tree: LabelTree, hint: str = "It lies beside label.txt."
) -> tuple[int, Decision, LongText]:
    """(max_seq_length, Decision, LongText) of a directory that `write_settings` wrote for the labels of `tree`."""
    path = Path(directory) / DECISION
    require_file(path, hint)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        max_seq_length = settings.pop("max_seq_length")
        if not isinstance(max_seq_length, int) or max_seq_length < 3:
            raise ValueError(f"max_seq_length is {max_seq_length!r}")
        stored = {name: settings.pop(name) for name in LONG_TEXT if name in settings}  # older versions have none
        long_text = CUT.updated(max_seq_length, **stored)
        decision = Decision.from_dict(settings)
        thresholds_of(decision, tree)
        if decision.calibration:
            decision.calibration.require_levels(tree)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the decision settings of a checkpoint ({error}).") from None
    return max_seq_length, decision, long_text


def save_checkpoint(
    directory: str | Path,
    model: Any,
    tokenizer: Tokenizer,
    tree: LabelTree,
    decision: Decision,
    write_more: Callable[[Path], None] | None = None,
    older: Iterable[str] = (),
    linear: LinearBranch | None = None,
) -> None:
    """Replace what a directory holds of a model by a checkpoint, all of it at once.

    write_more: writes into a folder what else belongs to the model; older: names of what else does not fit the new one
    linear: the model's linear branch
    """
    with new_set(directory, lambda directory: {*members(directory), *older}) as folder:
        model.config.architectures = [type(model).__name__]
        config = json.loads(model.config.to_json_string()) | {"model_type": model.config.model_type}
        for name in ("config.json", OLD_CONFIG):
            with atomic_write(folder / name) as file:
                json.dump(config, file, ensure_ascii=False, indent=2, sort_keys=True)
        tokenizer.save(folder)
        write_settings(folder, tree, tokenizer.max_seq_length, decision, tokenizer.long_text)
        if linear:
            write_linear(folder, linear, tree)
        if write_more:
            write_more(folder)
        write_weights(folder, model, digests_of(folder))


def save_linear_model(directory: str | Path, branch: LinearBranch, tree: LabelTree, decision: Decision) -> None:
    """Replace what a directory holds of a linear model by another one, all of it at once."""
    with new_set(directory, members) as folder:
        with atomic_write(folder / "config.json") as file:
            json.dump({"model_type": MODEL_TYPE}, file)
        write_settings(folder, tree, WHOLE, decision)
        write_linear(folder, branch, tree)


def require_same_labels(tree: LabelTree, path: str | Path) -> None:
    """Raise InputError when a data folder's labels, or their further parents, are not those of the checkpoint."""
    if not Path(path).exists() or tree.is_same(other := LabelTree.read(path)):
        return
    if tree.labels == other.labels:
        path, what = graph_path(path), "further parents"
        own, others = (dict.fromkeys(one.graph_lines()) for one in (tree, other))
    else:
        what, (own, others) = "labels", (dict.fromkeys(one.labels) for one in (tree, other))
    gone, new = [x for x in own if x not in others], [x for x in others if x not in own]
    sides = {"only in the checkpoint": gone, "only in the file": new}
    told = [f"{side}: {some(lines)}".replace("\t", " under ") for side, lines in sides.items() if lines]
    raise InputError(
        f"{path}: differs from the {what} the checkpoint was trained with "
        f"({'; '.join(told) or 'same labels in another order'}). Restore the file, or train again."
    )
