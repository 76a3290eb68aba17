"""Label Studio's ML back end: proposed labels for its tasks, and its annotators' answers into a data folder.

    python deploy/label_studio/backend.py --model_path export --dataset_dir my_data        # http://127.0.0.1:9090
    python deploy/label_studio/backend.py --model_path export --dataset_dir my_data --train_after 100 --work_dir improve

Reads   model_path/{float32,int8}.onnx and what export_model.py left beside it; dataset_dir/label.txt, ledger.jsonl
Writes  dataset_dir/ledger.jsonl: every answer when it is submitted; `python analysis/dirty.py --merge` takes them from
        there, and review.py, sparse.py and improve.py ask about none of these texts again
        work_dir, model_path, with --train_after: models, reports, and the export that is served, see training.py

    POST /setup, /predict, /webhook; GET /health, /versions     what Label Studio asks

It is the server of deploy/simple_serving, with its routes, limits, keys and errors. A proposal's score is how certain
the model is of it: tasks ordered by prediction score, the lowest first, are those of which it knows least. Needs
neither paddle nor a network; --train_after needs what train.py needs.
"""

import sys
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.label_studio.training import Trainer
from deploy.simple_serving.serving import (
    add_export_arguments,
    add_serving_arguments,
    check_serving_arguments,
    exported,
    serve,
)
from hierarchical.files import LEDGER
from utils import check_minima, get_logger, make_parser, require_directory, run

DEFAULTS = {  # Label Studio asks for all tasks of a page at once, and waits for 100 seconds
    "port": 9090, "max_texts": 10_000, "queue_size": 20_000, "max_bytes": 100_000_000, "timeout": 95,
}  # fmt: skip


def parse_args(argv):
    parser = make_parser("Label Studio's ML back end.")
    model = parser.add_argument_group("model")
    add_export_arguments(model)
    project = parser.add_argument_group("project")
    project.add_argument("--dataset_dir", help="data folder whose ledger.jsonl keeps the answers; left out: none are")
    project.add_argument("--label_control", help="control that labels are given in; left out: label, or the only one")
    training = parser.add_argument_group("training")
    training.add_argument("--train_after", type=int, help="train, export and serve anew after so many answers")
    training.add_argument("--work_dir", help="of analysis/improve.py, which has trained a first model there")
    add_serving_arguments(parser)
    parser.set_defaults(**DEFAULTS)
    args = parser.parse_args(argv)
    check_minima(parser, args, max_seq_length=3, train_after=1)
    if args.train_after and not (args.work_dir and args.dataset_dir):
        parser.error("argument --train_after: needs --dataset_dir and --work_dir")
    if args.work_dir and not args.train_after:
        parser.error("argument --work_dir: goes with --train_after")
    check_serving_arguments(parser, args)
    return args


def main(argv=None):
    args = parse_args(argv)
    args.split = args.shadow = None
    if args.dataset_dir:
        get_logger().info(f"Answers go into {require_directory(args.dataset_dir) / LEDGER}")
    else:
        get_logger().warning("Answers of annotators are not kept; --dataset_dir names the data folder to keep them in")

    trainer = None
    if args.train_after:
        trainer = Trainer(args.train_after, args.work_dir, args.dataset_dir, args.model_path)
        get_logger().info(f"Training begins after {args.train_after} more answers, in {args.work_dir}")

    def add_routes(app, service, post):
        from deploy.label_studio.routes import add_routes

        add_routes(app, service, post, args.dataset_dir, args.label_control, trainer)

    serve(args, {"default": partial(exported(args), args.model_path)}, add_routes)


if __name__ == "__main__":
    run(main)
