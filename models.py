"""Encoders to start a training from: which there are, fetch them, and whether a directory can be used as one.

    python models.py list
    python models.py get multilingual-e5-small-6l
    python models.py get ernie-3.0-medium-zh --save_dir folder     # to copy to a machine without a network
    python models.py check folder/ernie-3.0-medium-zh

Reads   the library's lists of encoders; directories to check
Writes  what it fetches into ~/.paddlenlp/models/hierarchical/NAME, where all scripts look for it, and with --save_dir
        a copy to save_dir/NAME; the rest to stdout

Exit code 2 if something could not be fetched or used. Nothing that is fetched or checked is run as code.
"""

import os
import shutil
from pathlib import Path

from hierarchical.devices import set_device
from hierarchical.encoders import FAMILIES, read_config
from hierarchical.sets import in_force
from hierarchical.sources import KNOWN_NAMES, describe, fetch, home, is_here, open_whole
from hierarchical.weights import find_encoder_weights
from utils import InputError, make_parser, run

COMMANDS = ("list", "get", "check")


def parse_args(argv):
    parser = make_parser("Encoders to start a training from: which there are, fetch them, check a directory.")
    parser.add_argument("command", choices=COMMANDS, help="list the known ones, get some of them, or check some")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name that `list` shows; to check, a directory too")
    parser.add_argument("--save_dir", help="of get: copy each into a folder of its name in here, too")
    args = parser.parse_args(argv)
    if bool(args.names) == (args.command == "list"):
        parser.error("list takes no names" if args.names else f"{args.command} needs a name: see `models.py list`")
    if args.save_dir and args.command != "get":
        parser.error("--save_dir belongs to get")
    return args


def show_list():
    """A line for each of the known encoders."""
    rows = [("name", "language", "layers", "width", "parameters", "MB", "from", "here")]
    for name in KNOWN_NAMES:
        about = describe(name)
        size = f"{about.parameters / 1e6:.1f} M", f"{4 * about.parameters / 1e6:.0f}"
        here = "yes" if is_here(name) else "-"
        rows.append((name, about.language, str(about.layers), str(about.width), *size, about.source, here))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"\nThose that are here lie in {home()}. `python models.py get NAME` fetches one.")


def get(name, save_dir):
    """Fetch one, copy it, and say where it is."""
    if name not in KNOWN_NAMES:
        raise InputError(f"{name}: not a name that `python models.py list` shows.")
    copy = Path(save_dir, name) if save_dir else None
    if copy and copy.exists():
        raise InputError(f"{copy}: is there already. Move it away, or give another --save_dir.")
    place = fetch(name, by_pip=True)
    if copy:
        half = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            shutil.copytree(place, half)
            os.replace(half, copy)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        place = copy
    print(f"{name}: {place} ({megabytes(place)} MB)")


def check(name):
    """Open one as a training does, and print what it is."""
    directory = Path(name)
    if not directory.is_dir():
        if name not in KNOWN_NAMES:
            raise InputError(f"{name}: neither a directory nor a name that `python models.py list` shows.")
        if not is_here(name):
            raise InputError(f"{name}: not fetched yet: python models.py get {name}")
        directory = home() / name
    kind = read_config(in_force(directory))["model_type"]
    tokenizer, model, missing = open_whole(directory)
    config, weights = model.config, find_encoder_weights(directory)
    parameters = sum(value.size for key, value in model.state_dict().items() if key.startswith(model.base_model_prefix))
    print(f"{name}: can be used" + ("" if directory == Path(name) else f", from {directory}"))
    print(
        f"  network    {FAMILIES[kind].title}, {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {parameters / 1e6:.1f} M parameters"
    )
    print(f"  tokenizer  {type(tokenizer).__name__}, {len(tokenizer.vocab):,} tokens")
    print(f"  longest    {config.max_position_embeddings} tokens of a text, for --max_seq_length")
    if weights is None:
        print("  weights    none: a training starts from random numbers")
    else:
        print(f"  weights    {weights.name}" + (f", without {', '.join(missing)}" if missing else ", complete"))


def megabytes(directory):
    """Of all files in a directory."""
    return round(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6)


def main(argv=None):
    args = parse_args(argv)
    set_device("cpu")
    if args.command == "list":
        return show_list()
    failed = []
    for name in args.names:
        try:
            get(name, args.save_dir) if args.command == "get" else check(name)
        except InputError as error:
            failed.append(str(error))
    if failed:
        raise InputError("\n".join(failed))


if __name__ == "__main__":
    run(main)
