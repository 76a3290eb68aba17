"""A round from a model to a better one: train, report, ask people on a page, merge their answers, train again, compare.

    python analysis/improve.py --dataset_dir my_data --model_name path/to/encoder --work_dir improve
    python analysis/improve.py --dataset_dir my_data --model_name path/to/encoder --work_dir improve -- --epochs 5
    python analysis/improve.py --work_dir improve --resume

Reads   dataset_dir/{train.txt, dev.txt, label.txt}, and data.txt, if there is one, for texts to label
Writes  work_dir/state.json                     which step of which round is done, for --resume
        work_dir/model-0, model-1, ...          checkpoints: before the first round, after the first, ...
        work_dir/report-0.html, report-1.html   their reports; from 1 on beside the model before
        dataset_dir/                            what the steps write: ledger.jsonl, train_trusted.txt, ...

A round takes two commands at most: this one, and --resume if it was stopped. Each step is a script of this toolkit; its
command is printed, and can be typed. What follows a bare -- goes to train.py. Called again after a round has ended, it
begins the next one, which asks about what is still doubtful, and never twice.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.merging import train_path_of
from analysis.review_queue import QUEUE
from hierarchical.formats import TEXT, existing, format_of
from hierarchical.rounds import NAME, STEPS, Done, read_done, write_done
from hierarchical.sets import only_writer
from utils import (
    InputError,
    add_device_argument,
    get_logger,
    make_parser,
    require_directory,
    require_file,
    run,
)

TOOLKIT = Path(__file__).resolve().parents[1]
KEPT = "dataset_dir model_name params_path device ask train_flags".split()  # of a round, for --resume and the next one
MAY_FAIL = ("texts",)  # where there is nothing to choose, a round goes on


def parse_args(argv):
    parser = make_parser("One round from a model to a better one.")
    round_ = parser.add_argument_group("round")
    round_.add_argument("--dataset_dir", help="data folder; needed in the first round")
    round_.add_argument("--model_name", help="encoder that each model starts from; needed in the first round")
    round_.add_argument("--params_path", help="checkpoint to begin with, in place of a first training")
    round_.add_argument("--work_dir", required=True, help="models, reports, and which step is done")
    add_device_argument(round_)
    steps = parser.add_argument_group("steps")
    how = "page: review.py; files: doccano or Label Studio, which --answers brings back (default: page)"
    steps.add_argument("--ask", choices=("page", "files"), help=how)
    steps.add_argument("--port", type=int, default=8190, help="of the page; 0: any free one")
    steps.add_argument("--answers", nargs="+", help="with --ask files and --resume: what the tool has exported")
    steps.add_argument("--skip", nargs="+", choices=STEPS, help="steps to leave out of this round")
    steps.add_argument("--resume", action="store_true", help="go on with the round that was stopped")
    parser.add_argument("train_flags", nargs="*", metavar="-- FLAG", help="passed on to train.py, as they are")
    args = parser.parse_args(argv)
    args.skip = args.skip or []
    if args.train_flags and not args.train_flags[0].startswith("--"):
        parser.error(f"{args.train_flags[0]}: is no flag; those of train.py follow a bare --")
    if args.answers and not args.resume:
        parser.error("argument --answers: goes with --resume")
    return args


# ---- the state -------------------------------------------------------------------------------------------------------


class Round:
    """What is to be done, and what is done: state.json, which is written after each step.

    number   of the round, the first is 1; done: its finished steps; began: when, in seconds
    settings the flags it began with
    """

    def __init__(self, work_dir, settings, number, done, began=None):
        self.path, self.settings, self.number, self.done = work_dir / NAME, settings, number, done
        self.began = began or time.time()

    @classmethod
    def open(cls, args, logger):
        """The round that is to be worked on. Raises InputError for a state that the flags do not fit."""
        work_dir = Path(args.work_dir)
        given = {name: getattr(args, name) for name in KEPT}
        path, found = work_dir / NAME, read_done(work_dir)
        if not found:
            if args.resume:
                raise InputError(f"{path}: no such file: there is no round to go on with. Leave --resume out.")
            return cls(work_dir, required(given), 1, [])
        settings, number, done, began = found
        if found.ended:
            if args.resume:
                raise InputError(f"{path}: round {number} has ended. Without --resume the next one begins.")
            new = {name: value for name, value in given.items() if value and name != "device"}
            return cls(work_dir, required(settings | new), number + 1, [])
        if not args.resume:
            step = STEPS[len(done)]
            raise InputError(f"{path}: round {number} stopped at the step {step}. --resume goes on with it.")
        if other := [name for name in KEPT if name != "device" and given[name] and given[name] != settings[name]]:
            which = "the flags after --" if other[0] == "train_flags" else f"--{other[0]}"
            raise InputError(
                f"{which}: not what round {number} began with. It goes on with that; change it when it has ended."
            )
        if args.answers and (settings["ask"] != "files" or "ask" in done):
            raise InputError(f"--answers: round {number} does not wait for files.")
        logger.info(f"Round {number} goes on with the step {STEPS[len(done)]}")
        return cls(work_dir, settings, number, done, began)

    def finish(self, step):
        self.done.append(step)
        self.save()

    def save(self):
        write_done(self.path.parent, Done(self.settings, self.number, self.done, self.began))


def required(settings):
    for name in ("dataset_dir", "model_name"):
        if not settings[name]:
            raise InputError(f"--{name}: needed in the first round.")
    directory = require_directory(settings["dataset_dir"])
    for name in ("train.txt", "dev.txt"):
        require_file(
            existing(directory / name) or directory / name, "A round trains on the one and scores on the other."
        )
    return settings


# ---- the steps -------------------------------------------------------------------------------------------------------


class Commands:
    """The commands of each step, as lists of words that follow `python`."""

    def __init__(self, round_, answers=None, port=8190):
        settings = round_.settings
        self.settings, self.number, self.began = settings, round_.number, round_.began
        self.answers, self.port = answers, port
        self.directory, self.work_dir = Path(settings["dataset_dir"]), round_.path.parent
        self.train_file = train_path_of(self.directory, "train.txt")
        self.dev_file = existing(self.directory / "dev.txt")
        suffix = ".txt" if format_of(self.train_file) is TEXT else ".jsonl"
        self.clean, self.trusted = f"train_clean{suffix}", f"train_trusted{suffix}"
        before = (self.model(number) for number in range(round_.number - 1, 0, -1))  # a round may have trained none
        self.old = next((path for path in before if Path(path).exists()), self.model(0))
        self.new = self.model(round_.number)

    def model(self, number):
        given = self.settings["params_path"]
        return given if number == 0 and given else str(self.work_dir / f"model-{number}")

    def of(self, step):
        """list of commands; [] where the step has nothing to do."""
        return getattr(self, step)()

    def train(self):
        """The model before the first round; later rounds have it already."""
        if self.number > 1 or self.settings["params_path"]:
            return []
        return [self.training(self.train_file.name, self.old)]

    def report(self):
        if self.number > 1:
            return []
        return [self.evaluation(self.old, 0)]

    def texts(self):
        """Texts that would help most, where there are unlabelled ones."""
        if not existing(self.directory / "data.txt"):
            return []
        texts = existing(self.directory / "data.txt").name
        files = ["--train_file", self.train_file.name, "--dev_file", self.dev_file.name, "--unlabeled_file", texts]
        return [["analysis/sparse.py", *self.of_model(self.old), "--annotate", *files]]

    def ask(self):
        if self.settings["ask"] != "files":
            queue = self.directory / QUEUE
            going_on = queue.exists() and queue.stat().st_mtime > self.began  # this round's own, after an interruption
            flags = [
                "--train_file",
                self.train_file.name,
                "--port",
                str(self.port),
                *([] if going_on else ["--refresh"]),
            ]
            return [["analysis/review.py", *self.of_model(self.old), *flags]]
        suspects = "train_dirty.jsonl" if format_of(self.train_file) is TEXT else "train_suspects.jsonl"
        data, out = str(self.directory), str(self.work_dir / f"ask-{self.number}")
        if self.answers:
            return [
                [
                    "doccano.py",
                    "--doccano_file",
                    *self.answers,
                    "--dirty",
                    "--task_type",
                    "hierarchical",
                    "--save_dir",
                    data,
                ]
            ]
        send = ["--annotate_file", str(self.directory / suspects), "--save_dir", out, "--overwrite"]
        return [["analysis/dirty.py", "--dataset_dir", data], ["doccano.py", *send]]

    def merge(self):
        train = ["--train_file", self.train_file.name]
        merge = [*train, "--merge", "--trusted_file", self.trusted]
        return [["analysis/dirty.py", "--dataset_dir", str(self.directory), *merge]]

    def retrain(self):
        """On the trusted rows, or on all, where somebody has merged without a file of these since."""
        clean, trusted = self.directory / self.clean, self.directory / self.trusted
        stale = clean.exists() and (not trusted.exists() or trusted.stat().st_mtime_ns < clean.stat().st_mtime_ns)
        return [self.training(self.clean if stale else self.trusted, self.new)]

    def compare(self):
        return [[*self.evaluation(self.new, self.number), "--compare", self.old]]

    def training(self, train_file, save_dir):
        flags = ["--dataset_dir", str(self.directory), "--train_file", train_file, "--dev_file", self.dev_file.name]
        return [
            "train.py", *flags, "--model_name", self.settings["model_name"], "--save_dir", save_dir,
            "--device", self.settings["device"], *self.settings["train_flags"],
        ]  # fmt: skip

    def evaluation(self, model, number):
        report, scores = (str(self.work_dir / name) for name in (f"report-{number}.html", f"scores-{number}.json"))
        files = ["--train_file", "", "--dev_file", self.dev_file.name]
        return ["analysis/evaluate.py", *self.of_model(model), *files, "--report", report, "--output_json", scores]

    def of_model(self, model):
        return ["--dataset_dir", str(self.directory), "--params_path", model, "--device", self.settings["device"]]


def call(command, step, logger, may_fail=False):
    """Run a script. Raises InputError where it fails; Ctrl-C is for the script, which ends by itself."""
    logger.info(f"{step}: python {shlex.join(command)}")
    process = subprocess.Popen([sys.executable, str(TOOLKIT / command[0]), *command[1:]])
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue
    if code and may_fail:
        logger.warning(f"{step}: nothing came of it, see above; the round goes on without")
    elif code:
        raise InputError(f"the step {step} ended with exit code {code}, see above. --resume tries it again.")


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    if not Path(args.work_dir).exists():
        Round.open(args, logger)  # flags that can't be right leave no folder behind
    with only_writer(args.work_dir, "wait until its round ends, or take another --work_dir"):
        work(args, Round.open(args, logger), logger)


def work(args, round_, logger):
    """Do the steps of a round that are left."""
    round_.save()
    commands = Commands(round_, args.answers, args.port)
    waits = commands.settings["ask"] == "files" and not args.answers and "ask" not in [*args.skip, *round_.done]
    for step in STEPS[len(round_.done) :]:
        if step in args.skip:
            logger.info(f"{step}: left out")
        else:
            for command in commands.of(step):
                call(command, step, logger, may_fail=step in MAY_FAIL)
        if step == "ask" and waits:
            logger.info(
                f"Annotate what lies in {commands.work_dir / f'ask-{round_.number}'}, export it, and then: python "
                f"analysis/improve.py --work_dir {commands.work_dir} --resume --answers all.jsonl"
            )
            return
        round_.finish(step)
    logger.info(
        f"Round {round_.number} has ended: {commands.new} and report-{round_.number}.html in {commands.work_dir}"
    )
    logger.info("The same command begins the next round")


if __name__ == "__main__":
    run(main)
