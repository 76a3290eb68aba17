"""Check doubtful rows and label new texts on a page in the browser, by keyboard.

    python analysis/review.py --dataset_dir my_data --params_path checkpoint
    python analysis/review.py --dataset_dir my_data --params_path checkpoint --rows_file ~/Downloads/picked.jsonl

Reads   dataset_dir/train.txt            (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/label.txt            the label tree
        dataset_dir/support.txt          texts to label, that sparse.py --annotate chose, if there are any
        rows_file                        these rows and no others, such as those ticked in evaluate.py's report
        params_path/                     a checkpoint, an export or a linear model: proposals, and words that mattered
Writes  dataset_dir/ledger.jsonl         every answer, at once; `python analysis/dirty.py --merge` puts them into train
        dataset_dir/review_queue.jsonl   what is asked; made anew when the files above have changed, or all is done
        dataset_dir/guidelines.txt       what each label is for, as people write it on the page

Only this machine reaches the page, and only with the token in the address that is printed. A person is asked about rows
that linear classifiers trained on the others find doubtful (see dirty.py), about texts, about what annotators disagree
on, and about a random sample of all rows, by which the page tells how many errors are left. Whatever ends the browser
or this script, nothing that was answered is lost. Several people can work at once, on different rows.
"""

import secrets
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory
from analysis.desk import KINDS, Desk
from analysis.merging import ids_elsewhere, train_path_of, user, warn_of_torn
from analysis.review_queue import QUEUE, ROWS_QUEUE, make_queue, queue_of_rows, read_queue, write_queue
from deploy.simple_serving.addresses import listen
from hierarchical.checkpoints import require_same_labels
from hierarchical.label_graph import label_files
from hierarchical.ledger import MARGIN, Ledger, id_of
from hierarchical.predictor import Predictor
from hierarchical.rows import read_rows
from utils import (
    InputError,
    LabelTree,
    Problems,
    add_checkpoint_arguments,
    add_dataset_arguments,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_file,
    run,
)

TEXTS = "support.txt"  # which sparse.py writes; there need not be one


def parse_args(argv):
    parser = make_parser("Check rows and label texts in the browser.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train")
    data.add_argument("--texts_file", default=TEXTS, help="texts to label; a bare name lies in dataset_dir")
    how = "ask about the labels of these rows alone, such as picked.jsonl of a report"
    data.add_argument("--rows_file", type=Path, help=how)
    add_checkpoint_arguments(parser, 16, "model; --params_path '': none, and no words and proposals for texts")
    queue = parser.add_argument_group("queue")
    queue.add_argument("--dirty_num", type=int, default=500, help="suspicious rows, the worst first")
    queue.add_argument("--control_num", type=int, default=100, help="random rows, to estimate how many errors are left")
    again = "ask about a checked row again if it is contradicted by this much more than when it was checked"
    queue.add_argument("--margin", type=float, default=MARGIN, help=again)
    queue.add_argument("--seed", type=int, default=3, help="of the folds and of the random rows")
    queue.add_argument("--refresh", action="store_true", help="make the queue anew, even if nothing has changed")
    page = parser.add_argument_group("page")
    page.add_argument(
        "--annotator", help="whose answers these are, as the page shows at first; left out: your user name"
    )
    page.add_argument("--port", type=int, default=8190, help="0: any free one")
    args = parser.parse_args(argv)
    args.annotator = args.annotator or user()
    check_minima(parser, args, batch_size=1, max_seq_length=3, dirty_num=0, control_num=0, seed=0)
    if not 0 <= args.port <= 65_535:
        parser.error(f"argument --port: must be from 0 to 65535, got {args.port}")
    return args


def read_texts_to_label(path, tree, train, ledger, logger):
    """The texts of a file that have no labels, there or in train, dev or test, and no answer yet; [] without a file."""
    if not path.exists():
        return []
    problems, known = Problems(), set(train.texts)
    rows = list(read_rows(path, tree, problems, Counter()))
    problems.raise_if_any()
    if labelled := sum(row.labels is not None for row in rows):
        logger.info(f"{path.name}: {labelled} rows have labels already, and are not asked about")
    texts = dict.fromkeys(row.text for row in rows if row.labels is None)
    elsewhere = ids_elsewhere(ledger.path.parent, tree)
    return ledger.unanswered(text for text in texts if text not in known and id_of(text) not in elsewhere)


def queue_of(args, directory, tree, train, ledger, predict, logger):
    """The items to ask about: those of the last time, unless there is a reason for new ones."""
    picked, texts_path = args.rows_file, in_directory(directory, args.texts_file)
    chosen_from = [picked] if picked else [train_path_of(directory, args.train_file), texts_path]
    path = directory / (ROWS_QUEUE if picked else QUEUE)
    sources = [*chosen_from, *label_files(directory / args.label_file)]
    items = None if args.refresh else read_queue(path, sources)
    if items and (picked or Desk(items, ledger).progress(args.annotator)["open"]):
        logger.info(f"{path}: going on with it; --refresh chooses anew")
        return items
    if picked:
        items = queue_of_rows(load_reported(picked, tree, logger), tree, predict)
    else:
        texts = read_texts_to_label(texts_path, tree, train, ledger, logger)
        items = make_queue(train, texts, ledger, tree, predict, args)
    write_queue(path, items, sources)
    return items


def serve(app, sock):
    """Answer until the page says that it is finished, Ctrl-C or SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        app, ws="none", access_log=False, log_level="error", server_header=False, timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    app.state.finish = lambda: setattr(server, "should_exit", True)
    server.run([sock])


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.dataset_dir)
    if args.texts_file != TEXTS:
        where = in_directory(directory, args.texts_file)
        require_file(where, "--texts_file names texts to label, one per line, or rows without labels.")
    if args.rows_file:
        require_file(args.rows_file, "--rows_file names rows with labels, as the report of evaluate.py downloads them.")
    try:
        from analysis.evidence import Evidence
        from analysis.review_app import make_app
        from deploy.simple_serving.guard import Hosts
    except ModuleNotFoundError as error:
        hint = "pip install -r deploy/simple_serving/requirements.txt"
        raise InputError(f"The package {error.name} is not installed: {hint}") from None
    tree, predictor = LabelTree.read(directory / args.label_file), None
    if args.params_path:
        predictor = Predictor(
            args.params_path, device=args.device, max_seq_length=args.max_seq_length, batch_size=args.batch_size
        )
        require_same_labels(predictor.tree, directory / args.label_file)
    train, ledger = load_reported(train_path_of(directory, args.train_file), tree, logger), Ledger(directory)
    warn_of_torn(ledger, logger)
    evidence = Evidence(predictor, train, tree)
    try:
        with listen("127.0.0.1", args.port) as sock:
            items = queue_of(args, directory, tree, train, ledger, evidence.predict, logger)
            for kind in KINDS:
                logger.info(f"{kind}: {sum(kind in item['kinds'] for item in items)} rows")
            evidence.load()
            desk, token = Desk(items, ledger), secrets.token_urlsafe(16)
            app = make_app(desk, evidence, tree, directory, token, Hosts("127.0.0.1"), args.annotator)
            port = sock.getsockname()[1]
            with suppress(KeyboardInterrupt):  # which uvicorn passes on when it has ended
                logger.info(f"Open http://127.0.0.1:{port}/?token={token}   (Finish on the page, or Ctrl-C, ends it)")
                serve(app, sock)
    finally:
        evidence.close()
    logger.info(f"{desk.progress(args.annotator)['done']} of {len(items)} rows are answered, in {ledger.path}")
    merge = f"python analysis/dirty.py --dataset_dir {directory} --merge"
    logger.info(f"To put them into train: {merge}")
    if args.rows_file and {item["id"] for item in items} & ids_elsewhere(directory, tree):
        logger.info(f"To put them into dev: {merge} --train_file dev.txt --clean_file dev_clean.txt")


if __name__ == "__main__":
    run(main)
