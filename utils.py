"""The door through which scripts reach what they share, and what only scripts need: errors told, help, flags.

    parser = make_parser("Label texts with a checkpoint.")      # --help with defaults, --version
    add_checkpoint_arguments(parser, batch_size=32)             # a flag is spelt, and told, the same way everywhere
    run(main)                                                   # what the user can mend: a message and exit code 2

The label tree, rows, files and messages live in hierarchical/ and are only passed on.
"""

import argparse
import os
import re
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import hierarchical
from hierarchical.batches import length_sorted_batches, pad
from hierarchical.checkpoints import is_linear
from hierarchical.console import FLAT, ON_PAGE, ORDERS, get_logger, progress_bar, quiet, shown
from hierarchical.decisions import DECODINGS, NO_THRESHOLD, RULES_TEXT, STOPS, STOPS_TEXT, Decision, thresholds_of
from hierarchical.devices import DEVICES, ENGINE_DEVICES, computing_fault, engine_gpu, parse_device
from hierarchical.errors import SHOWN, InputError, Problems, some
from hierarchical.files import (
    atomic_write,
    file_digest,
    read_lines,
    require_file,
    require_outputs,
    require_writable,
)
from hierarchical.formats import ROW_FILES
from hierarchical.labelled import FLOOR
from hierarchical.labels import SEPARATOR, WORD_SEPARATOR, LabelTree, levels_text
from hierarchical.learning_rates import AUTO
from hierarchical.long_texts import LONG_TEXTS, MOST_WINDOWS
from hierarchical.predictions import FORMATS, Job
from hierarchical.rows import (
    Row,
    Rows,
    count_texts,
    label_faults,
    load_reported,
    load_rows,
    multi_hot,
    parse_rows,
    read_rows,
    read_texts,
    report_rows,
    require_row_format,
    warn_about,
    write_rows,
)

__all__ = [  # passed on
    "FLAT",
    "InputError",
    "LabelTree",
    "NO_THRESHOLD",
    "ON_PAGE",
    "Problems",
    "Row",
    "Rows",
    "SEPARATOR",
    "SHOWN",
    "WORD_SEPARATOR",
    "atomic_write",
    "count_texts",
    "file_digest",
    "get_logger",
    "label_faults",
    "length_sorted_batches",
    "levels_text",
    "load_reported",
    "load_rows",
    "multi_hot",
    "pad",
    "parse_rows",
    "progress_bar",
    "quiet",
    "read_lines",
    "read_rows",
    "read_texts",
    "report_rows",
    "require_file",
    "require_outputs",
    "require_row_format",
    "require_writable",
    "shown",
    "some",
    "warn_about",
    "write_rows",
]

AS_TRAINED = " (default: as in training)"
TWINS = (  # flags that mean the same, in this project's scripts and in similar ones
    ("--dataset_dir", "--data_dir"),
    ("--save_dir", "--output_dir"),
    ("--epochs", "--num_train_epochs"),
    ("--max_seq_length", "--max_length"),
    ("--model_name", "--model_name_or_path"),
    ("--early_stop", "--early_stopping"),
)
MARK = "\0"  # which no argument of a command can hold
VALUE = re.compile(r"^(--?[A-Za-z]\w*=)?(?=-(?!$|-?[A-Za-z]))")  # alone or after --flag=: a "-" without a letter


# ---- errors ----------------------------------------------------------------------------------------------------------


def run(main):
    """Call a script's `main()`, turning what the user can mend into a message and exit code 2, without a traceback."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what the libraries tell their users, to ours
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows its number instead
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()  # here, where an error can still be told from a good end
    except InputError as error:
        sys.exit(_complain(error))
    except OSError as error:  # missing, unwritable, disk full ... anything else that opens or writes files
        if isinstance(error, BrokenPipeError):  # the reader of our stdout (head, less) has gone: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        where = error.filename or "a file"
        sys.exit(_complain(f"{where}: {error.strerror or error}. Check the path, your rights and the free disk space."))
    except ModuleNotFoundError as error:
        if (Path(__file__).parent / str(error.name).partition(".")[0]).exists():  # ours: a bug
            raise
        sys.exit(
            _complain(
                f"the package {error.name} is not installed for {sys.executable}. Enter the environment that has it, "
                "or install requirements.txt: the one beside this script, or the one at the root."
            )
        )
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # of whatever type the libraries have for a machine that can't go on
        if fault := computing_fault(error):
            sys.exit(_complain(fault))
        raise


def _complain(message):
    print(f"error: {message}".translate(ORDERS), file=sys.stderr, flush=True)
    return 2


# ---- flags -----------------------------------------------------------------------------------------------------------


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """--help with the default behind every flag that has one; "default: None" would tell nobody anything."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that knows what flags are called elsewhere, and takes values that begin with "-".

    argparse takes "->" and "-5度" for flags, and loses "--" altogether. Where no letter follows the "-" it is a value,
    and passes argparse with MARK before it. In a script with positional arguments, though, these follow a bare "--".
    """

    def parse_known_args(self, args=None, namespace=None):
        words, positional = list(sys.argv[1:] if args is None else args), []
        if "--" in words and self._get_positional_actions():
            end = words.index("--")
            words, positional = words[:end], words[end:]
        if told := [f"{flag}: here it is {here}" for flag, here in map(self.twin, words) if here]:
            self.error("; ".join(dict.fromkeys(told)))
        return super().parse_known_args([*(VALUE.sub(rf"\1{MARK}", word) for word in words), *positional], namespace)

    def twin(self, word):
        """(a flag, what it is called in this script), None where it is known here, or nothing is."""
        flag, options = word.partition("=")[0], self._option_string_actions
        here = next((names[1 - names.index(flag)] for names in TWINS if flag in names), None)
        known = flag in options or here not in options or here.startswith(flag)
        return flag, None if known else here

    def _get_value(self, action, arg_string):
        return super()._get_value(action, arg_string.removeprefix(MARK))

    def error(self, message):
        super().error(message.replace(MARK, ""))


def make_parser(description):
    """A script's ArgumentParser, with --version."""
    parser = Parser(description=description, formatter_class=HelpFormatter)
    version = f"%(prog)s {hierarchical.__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    return parser


def add_dataset_arguments(group, *files, compared=False, **helps):
    """--dataset_dir, --train_file or the like for each of `files`, and --label_file.

    compared: label.txt is only compared with the checkpoint's; helps: {"train": what --help says of --train_file}
    """
    group.add_argument("--dataset_dir", required=True, help="directory with the files below")
    for name in files:
        text = helps.get(name, f"name inside dataset_dir; {ROW_FILES}")
        group.add_argument(f"--{name}_file", default=f"{name}.txt", help=text)
    add_label_file_argument(group, compared)


def add_label_file_argument(group, compared=False, directory="dataset_dir"):
    text = f"in {directory}; only compared with the checkpoint's" if compared else f"name inside {directory}"
    group.add_argument("--label_file", default="label.txt", help=text)


def add_folder_arguments(group, save_dir, empty):
    """What becomes of annotated texts in a data folder. save_dir: its default; empty: what --keep_empty is for."""
    group.add_argument("--save_dir", default=save_dir, help="directory to write to; made if need be")
    shares = "shares of train, dev and test; one: no split (default: 0.8 0.2)"
    group.add_argument("--splits", nargs="+", type=share, help=shares)
    group.add_argument("--is_shuffle", type=yes_or_no, nargs="?", const=True, default=True, help="false: cut in order")
    group.add_argument("--seed", type=int, default=3, help="of the shuffle")
    group.add_argument("--format", choices=("txt", "jsonl"), default="txt", help="of the rows that are written")
    group.add_argument("--keep_empty", action="store_true", help=empty)
    group.add_argument("--add_labels", action="store_true", help="add new labels at the end of label.txt")
    group.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")


def yes_or_no(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() == "true"


def share(text):
    """A decimal number as a fraction, since 0.7 + 0.2 is not 0.9 in floating point."""
    return Fraction(str(float(text)))


def rate(text):
    """A learning rate, or AUTO."""
    if text == AUTO:
        return AUTO
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, or {AUTO}; got {text}") from None
    if not 1e-12 <= number < float("inf"):  # also catches nan
        raise argparse.ArgumentTypeError(f"must be at least 1e-12, got {text}")
    return number


def add_texts_arguments(parser):
    """The texts to label: --dataset_dir, --data_file, --label_file."""
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", help="directory of data_file and label_file; needed, unless data_file is -")
    add_data_file_argument(data)
    add_label_file_argument(data, compared=True)


def add_data_file_argument(group, directory="dataset_dir"):
    group.add_argument("--data_file", default="data.txt", help=f"in {directory}; {ROW_FILES}; -: stdin")


def add_checkpoint_arguments(parser, batch_size, title="model", batch="texts per step"):
    """The model to use: --params_path, --max_seq_length, --batch_size, --device; returns their group.

    batch: what --batch_size counts
    """
    model = parser.add_argument_group(title)
    model.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    add_max_seq_length_argument(model)
    model.add_argument("--batch_size", type=int, default=batch_size, help=batch)
    add_device_argument(model)
    return model


def add_bf16_argument(group):
    group.add_argument("--use_bf16", action="store_true", help="multiply in bfloat16, on a CPU that has it")


def precision_from_arguments(args):
    """The Predictor's precision by --use_bf16. Raises InputError where --params_path is a linear model."""
    if args.use_bf16 and is_linear(args.params_path):
        raise InputError("--use_bf16: a linear model has no encoder. Leave it out.")
    return "bfloat16" if args.use_bf16 else "float32"


def device_word(text, kinds=DEVICES):
    """What --device is given, as paddle writes it; for argparse, with a usage error for a word that nobody knows."""
    try:
        return parse_device(text, kinds)
    except InputError as error:
        raise argparse.ArgumentTypeError(error) from None


def engine_device_word(text):
    return device_word(text, ENGINE_DEVICES)


def add_device_argument(group):
    text = "cpu, gpu, xpu or npu, or one of several, as gpu:1; if there is none: cpu, with a warning"
    group.add_argument("--device", type=device_word, default="gpu", help=text)


def add_engine_device_arguments(group):
    """Where an exported model runs: --device, --device_id, --no_tf32, --num_threads."""
    text = "cpu, gpu, or one of several, as gpu:1; without a GPU: cpu, with a warning"
    group.add_argument("--device", type=engine_device_word, default="gpu", help=text)
    group.add_argument("--device_id", type=int, default=0, help="number of the GPU")
    group.add_argument("--no_tf32", action="store_true", help="on a GPU: float32 as exact as on a CPU, and slower")
    group.add_argument("--num_threads", type=int, help="CPU threads (default: all cores)")


def add_max_seq_length_argument(group, default=None):
    """default: a number where a model is made; None where it was trained with one."""
    text = "tokens of a text that are read, ends included" if default else "tokens of a text that are read"
    group.add_argument("--max_seq_length", type=int, default=default, help=text + ("" if default else AS_TRAINED))


def add_long_text_arguments(group, default=None):
    """What is read of texts with more tokens than --max_seq_length. default: "cut" where a model is made, else None."""
    ways = "; ".join(f"{name}: {text}" for name, text in LONG_TEXTS.items())
    half, most = ("half a window", MOST_WINDOWS) if default else ("as stored in the checkpoint",) * 2
    where = "" if default else " (default: as stored in the checkpoint)"
    group.add_argument(
        "--long_text", choices=tuple(LONG_TEXTS), default=default, help=f"of longer texts, {ways}{where}"
    )
    group.add_argument("--window_stride", type=int, help=f"tokens from one window to the next (default: {half})")
    group.add_argument("--max_windows", type=int, help=f"windows of a text, at most (default: {most})")


def long_text_arguments(args):
    """The flags of add_long_text_arguments() as a dict, for Predictor and long_texts.long_text_for."""
    return {name: getattr(args, name) for name in ("long_text", "window_stride", "max_windows")}


def add_unseen_arguments(parser, encoder="./checkpoint/model_best"):
    """Labels that are known by their words alone: --unseen, --unseen_encoder, whose default is `encoder`."""
    group = parser.add_argument_group("labels without rows")
    group.add_argument("--unseen", help="file of new labels, which get probabilities from their words alone")
    made = "train.py" if "checkpoint" in encoder else "export_model.py"
    text = f"directory that retrieval_based/{made} saved an encoder in, with what fit_unseen.py wrote"
    group.add_argument("--unseen_encoder", default=encoder, help=text)


def add_result_arguments(parser):
    """Where predictions go: --output_file, --floor, --certainty, --resume, --quiet."""
    result = parser.add_argument_group("result")
    result.add_argument("--output_file", help=".jsonl or .tsv; -: JSON lines to stdout; left out: only the log")
    result.add_argument("--floor", type=float, default=FLOOR, help="write the probabilities of labels above this")
    text = "mark rows that are less certain than this, for people; evaluate.py tells what to give"
    result.add_argument("--certainty", type=float, help=text)
    result.add_argument("--resume", action="store_true", help="continue the run that left output_file.part")
    result.add_argument("--quiet", action="store_true", help="with an output_file, log none of the rows")


class OneOrSeveral(argparse.Action):
    """Of several values a list, of a single one the value."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_decision_arguments(parser, default, otherwise="as stored in the checkpoint"):
    """The flags that turn probabilities into label sets; returns their group.

    default: a Decision, or None where the checkpoint decides; `otherwise` says so in the help.
    """
    group = parser.add_argument_group("decision")
    stored = "" if default else f" (default: {otherwise})"
    shown = default.to_dict() if default else dict.fromkeys(Decision().to_dict())
    above = f"a label needs a probability above this; or one for each level{stored}"
    group.add_argument(
        "--threshold", type=float, nargs="+", action=OneOrSeveral, default=shown["threshold"], help=above
    )
    group.add_argument(
        "--decoding",
        choices=DECODINGS,
        default=shown["decoding"],
        help=f"{RULES_TEXT}{stored}",
    )
    for name, text in (
        ("min_labels", "at least this many labels in every row"),
        ("max_labels", "at most this many labels in every row"),
        ("top_k", "exactly this many labels in every row, whatever the threshold"),
        ("per_level", "this many labels of every level, below those of the level above; 0: off"),
    ):
        group.add_argument(f"--{name}", type=int, default=shown[name], help=f"{text}{stored}")
    ends = f"where a path, or what --per_level chooses, ends; {STOPS_TEXT}{stored}"
    group.add_argument("--stop", choices=tuple(STOPS), default=shown["stop"], help=ends)
    return group


def decision_from_arguments(args, tree, stored=None):
    """The Decision for a LabelTree asked for on the command line; what it leaves open is taken from `stored`."""
    asked = {name: getattr(args, name) for name in Decision().to_dict()}
    try:
        decision = (stored or Decision()).updated(**asked)
        thresholds_of(decision, tree)
        if asked["stop"] == "confident" and not decision.has_structure:
            raise ValueError("stop says where a path ends; it goes with --decoding path or --per_level")
    except ValueError as error:
        raise InputError(f"decision settings: {error}.") from None
    return decision


# ---- checks of what was typed ----------------------------------------------------------------------------------------


def check_minima(parser, args, **minima):
    """End with a usage error if an argument that was given is below its minimum, or infinite."""
    for name, lowest in minima.items():
        if (value := getattr(args, name)) is not None and not lowest <= value < float("inf"):  # also catches nan
            parser.error(f"argument --{name}: must be at least {lowest}, got {value}")


def check_engine_arguments(parser, args):
    """End with a usage error for what is wrong with the flags of add_engine_device_arguments()."""
    check_minima(parser, args, num_threads=1, device_id=0)
    try:
        engine_gpu(args.device, args.device_id)
    except InputError as error:
        parser.error(f"argument --device: {error}")


def check_prediction_arguments(parser, args, directory="--dataset_dir"):
    """End with a usage error for what is wrong with the flags of texts and results; directory: what gives theirs."""
    if args.dataset_dir is None and args.data_file != "-":
        parser.error(f"argument {directory}: needed, unless the texts come from stdin (--data_file -)")
    check_minima(parser, args, batch_size=1, max_seq_length=3)
    for name in ("floor", "certainty"):
        if (value := getattr(args, name)) is not None and not 0 <= value <= 1:
            parser.error(f"argument --{name}: must be from 0 to 1, got {value}")
    if args.output_file not in (None, "-") and Path(args.output_file).suffix not in FORMATS:
        parser.error(f"argument --output_file: must end in {' or '.join(FORMATS)}, got {args.output_file}")
    if args.resume and args.output_file in (None, "-"):
        parser.error("argument --resume: needs an --output_file to continue")


def prediction_job(args):
    """The Job of predictions.predict_file that the flags ask for."""
    return Job(
        data="-" if args.data_file == "-" else Path(args.dataset_dir) / args.data_file,
        label_path=Path(args.dataset_dir) / args.label_file if args.dataset_dir else None,
        output_file=args.output_file,
        batch_size=args.batch_size,
        floor=args.floor,
        resume=args.resume,
        quiet=args.quiet,
        certainty=args.certainty,
    )


def check_folder_arguments(parser, args):
    """End with a usage error for what is wrong with the flags of add_folder_arguments(); gives --splits its default."""
    args.splits = args.splits or [share("0.8"), share("0.2")]
    if not 1 <= len(args.splits) <= 3 or min(args.splits) <= 0 or sum(args.splits) != 1:
        parser.error("argument --splits: one to three numbers above 0 that sum to 1, such as 0.8 0.2 or 0.8 0.1 0.1")
    check_minima(parser, args, seed=0)
    if args.keep_empty and args.format == "txt":
        parser.error('argument --keep_empty: a .txt row can\'t say "no label applies"; add --format jsonl')


def require_directory(path, flag="--dataset_dir"):
    """The Path of a directory. Raises InputError if there is none."""
    if not Path(path).is_dir():
        raise InputError(f"{flag} {path}: no such directory.")
    return Path(path)
