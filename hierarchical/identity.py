"""What ties the files of a model together, so that no answer comes from files of two models.

The numbers of a model mean nothing without its labels, its tokenizer and its configuration: the same numbers beside
another label.txt give other answers, and no error. So the file with the numbers holds a digest of each of these:
model.safetensors and ONNX models in their metadata, and for Paddle's graphs, which have none, export.json beside them,
which also lists the models of an export with their digests. Whoever opens a model compares.

Only the content counts, not line ends or the layout of JSON. decision.json is left out: people tune thresholds. Files
without an identity, which are those of others and those written before there was one, are taken as they are.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hierarchical.errors import InputError, some
from hierarchical.files import file_digest
from hierarchical.label_graph import GRAPH
from hierarchical.labels import LabelTree
from hierarchical.linear import LINEAR
from hierarchical.sets import in_force
from hierarchical.tokens import FILES, read_files
from hierarchical.weights import NUMBERS, PICKLED_WEIGHTS, WEIGHTS, find_weights, read_identity

LABELS, CONFIG, DECISION = "label.txt", "config.json", "decision.json"
OLD_CONFIG = "model_config.json"  # config.json under its older name, for tools that expect it
TEMPLATE, WORDS = "template_config.json", "verbalizer_config.json"  # of few-shot/train.py
RECORD = "export.json"  # beside exported models: their list, and what export_model.py measured of them
MEMBERS = (
    *(LABELS, GRAPH, CONFIG, OLD_CONFIG, DECISION, TEMPLATE, WORDS),
    *(*FILES, WEIGHTS, PICKLED_WEIGHTS, LINEAR, RECORD),
)
GRAPH_FILES = (".pdmodel", ".json", ".pdiparams", ".pdiparams.info")  # of a static graph


# ---- digests ---------------------------------------------------------------------------------------------------------


def digests(labels: list[str], config: dict, files: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> SHA-256 of its content, of what a model's numbers belong with.

    labels: those of label.txt in their order; config: config.json; files: name -> content of the others, which
    `tokenizer.read_files` and `read_others` give
    """
    contents = {LABELS: "\n".join(labels).encode(), CONFIG: _json_content(config)}
    contents |= {name: _content(name, content) for name, content in files.items()}
    return {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}


def digests_of(folder: Path) -> dict[str, str]:
    """`digests` of the files in a folder."""
    labels, config = LabelTree.read(folder / LABELS).labels, json.loads((folder / CONFIG).read_bytes())
    return digests(labels, config, read_files(folder) | read_others(folder, config))


def read_others(folder: Path, config: dict) -> dict[str, bytes]:
    """Name -> content of further parents, a linear branch, and what few-shot/train.py adds to a model; mostly {}."""
    names = (GRAPH, LINEAR, *((TEMPLATE, WORDS) if "mlm_transform" in config else ()))
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _content(name: str, content: bytes) -> bytes:
    if name.endswith(".txt"):
        return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")
    if name.endswith(".json"):
        try:
            return _json_content(json.loads(content))
        except (ValueError, RecursionError):
            pass  # whoever reads it tells
    return content


def _json_content(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


# ---- what belongs together -------------------------------------------------------------------------------------------


def require_fit(folder: Path, source: str, told: Mapping[str, str], found: Mapping[str, str], again: str) -> None:
    """Raise InputError unless a folder has the files that its numbers belong with.

    told: the identity that `source` holds; found: digests of what is there; again: what makes the folder anew
    """
    names = (told.keys() | found.keys()) - {NUMBERS}
    if not (wrong := sorted(name for name in names if told.get(name) != found.get(name))):
        return
    first = wrong[0]
    if first not in found:
        what = f"is missing, and goes with {source} beside it"
    elif first not in told:
        what = f"does not go with {source} beside it, which was made without such a file"
    else:
        what = f"is not the file that goes with {source} beside it"
    more = f"; nor {'are' if wrong[2:] else 'is'} {some(wrong[1:])}" if wrong[1:] else ""
    tokens = " Editing vocab.txt gives a model no tokens: train.py --add_tokens does." if "vocab.txt" in wrong else ""
    raise InputError(
        f"{folder / first}: {what}{more}; the answers would be wrong.{tokens} Put the original back, or copy the whole "
        f"folder again from where it was made; or {again}."
    )


def require_encoder(directory: str | Path) -> None:
    """Raise InputError if a model directory, to start a training from, has another tokenizer than its weights."""
    if told := read_identity(weights := find_weights(directory)):
        folder, kept = in_force(directory), (CONFIG, *FILES)
        contents = read_files(folder) | {CONFIG: (folder / CONFIG).read_bytes()}
        found = {name: hashlib.sha256(_content(name, content)).hexdigest() for name, content in contents.items()}
        assert weights
        require_fit(folder, weights.name, {name: told[name] for name in kept if name in told}, found, "train again")


# ---- exports ---------------------------------------------------------------------------------------------------------


def read_export(folder: Path) -> dict | None:
    """export.json, as exporting.write_export wrote it; None if there is none, or one from before models were listed."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        if "files" not in record:
            return None
        if not (isinstance(record["files"], dict) and isinstance(record["identity"], dict)):
            raise ValueError("no list of files")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Export again, or copy the whole folder again.") from None
    return record


def require_listed(record: dict | None, paths: Iterable[Path]) -> None:
    """Raise InputError unless these files of an export are those that its export.json lists; `record`: its content."""
    for path in paths if record else ():
        listed = record["files"].get(path.name) if record else None
        if listed is None:
            raise InputError(
                f"{path}: not of this export, since export.json beside it does not list it: left from elsewhere. "
                "Remove it, or export again."
            )
        if listed != file_digest(path):
            raise InputError(
                f"{path}: not the file that export.json beside it lists. Copy the whole folder again from where it "
                "was made, or export again."
            )


# ---- folders ---------------------------------------------------------------------------------------------------------


def holds_model(directory: str | Path) -> bool:
    """Whether there is a checkpoint, an export or a linear model in a directory."""
    folder = in_force(directory)
    return bool(find_weights(folder)) or any((folder / name).is_file() for name in (RECORD, LINEAR))


def require_no_rows(directory: str | Path, flag: str, data: str | Path | None = None) -> None:
    """Raise InputError where a model would be written into a data folder, whose label.txt its own would replace.

    data: that of the run, if it has one; another one is known by its label.txt without a model's configuration
    """
    directory = Path(directory)
    same = data is not None and directory.resolve() == Path(data).resolve()
    if same or (directory / LABELS).is_file() and not (in_force(directory) / CONFIG).is_file():
        why = "is the data folder" if same else f"holds a {LABELS} and no model, as a data folder does"
        raise InputError(f"{flag} {directory}: {why}; the model's files would lie among the rows. Give another one.")


def members(directory: Path) -> set[str]:
    """The names of what belongs to the model in a directory, whether it is there or not: see sets.new_set."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        listed = {*record.get("files", ()), *(row["model"] for row in record.get("models", ()))}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        listed = set()  # none there, or not ours
    names = set(MEMBERS)
    for name in {name for name in listed if isinstance(name, str) and Path(name).name == name}:
        if name.endswith(".onnx"):
            names.add(name)
        elif suffix := next((suffix for suffix in GRAPH_FILES if name.endswith(suffix)), None):
            names |= {name.removesuffix(suffix) + other for other in GRAPH_FILES}
    return names
