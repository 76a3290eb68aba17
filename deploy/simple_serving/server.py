"""Serve an exported model over HTTP.

    python deploy/simple_serving/server.py --model_path export                  # http://127.0.0.1:8189
    python deploy/simple_serving/server.py --model_path export --host 0.0.0.0 --api_key_file key.txt
    python deploy/simple_serving/server.py --model_path export --model new=export_new --split new=0.1
    python deploy/simple_serving/server.py --model_path export --device gpu --workers 4
    python deploy/simple_serving/server.py --model_path export --unseen new_labels.txt --unseen_encoder output

Reads   model_path/{float32,int8}.onnx and what export_model.py left beside it; files of keys and certificates;
        unseen, and unseen_encoder/ of retrieval_based/export_model.py with what fit_unseen.py wrote
Writes  access_log and sample_file, if given

    GET  /                           a page to try it on: the label tree, and the words that mattered
    POST /v1/classify                texts -> labels by name, probabilities, levels
    POST /v1/explain                 text -> by how much a label's probability falls without each word
    POST /models/cls_hierarchical    texts -> class indices and confidences, as PaddleNLP's server answers
    GET  /v1/models                  the models; POST .../NAME/load and .../NAME/unload
    POST /admin/reload               load the model files anew; so does SIGHUP
    GET  /health, /ready, /metrics   for whoever watches over it; /docs describes everything

SIGTERM and Ctrl-C end it once all requests it has taken are answered. Needs neither paddle nor a network.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.simple_serving.key import is_name
from deploy.simple_serving.serving import (
    add_export_arguments,
    add_serving_arguments,
    add_workers_arguments,
    check_serving_arguments,
    exported,
    serve,
)
from utils import add_unseen_arguments, check_minima, make_parser, run


def parse_args(argv):
    parser = make_parser("Serve an exported model over HTTP.")
    model = parser.add_argument_group("model")
    add_export_arguments(model)
    model.add_argument(
        "--model", nargs="+", type=named_path, metavar="NAME=PATH", help="more models: requests name them as 'model'"
    )
    model.add_argument(
        "--split", type=named_share, metavar="NAME=SHARE", help="one that answers this share in place of it"
    )
    model.add_argument("--shadow", metavar="NAME", help="one that is asked, too; differences go to the access log")
    add_unseen_arguments(parser, "./output")
    add_serving_arguments(parser)
    add_workers_arguments(parser)
    args = parser.parse_args(argv)
    check_minima(parser, args, max_seq_length=3, workers=1)
    check_serving_arguments(parser, args)
    args.model = [("default", args.model_path), *(args.model or ())]
    names = [name for name, _ in args.model]
    if len(names) > len(set(names)):
        parser.error("argument --model: a name is there twice; 'default' is that of --model_path")
    for flag, name in (("split", args.split and args.split[0]), ("shadow", args.shadow)):
        if name and name not in names[1:]:
            parser.error(f"argument --{flag}: {name!r} is no name of --model")
    if args.unseen and (args.split or args.shadow):
        parser.error("argument --unseen: new labels stand beside --model_path alone; leave --split and --shadow out")
    return args


def named_path(text):
    name, _, path = text.partition("=")
    if not is_name(name) or not path:
        raise argparse.ArgumentTypeError(f"NAME=PATH, the name of letters, digits, '.', '_' and '-', not {text!r}")
    return name, path


def named_share(text):
    name, _, share = text.partition("=")
    try:
        if 0 < float(share) <= 1:
            return name, float(share)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"NAME=SHARE, the share above 0 and 1 at most, not {text!r}")


def main(argv=None):
    args = parse_args(argv)
    load = exported(args)
    loads = {name: partial(load, path) for name, path in args.model}
    if args.unseen:
        loads["default"] = partial(load, args.model_path, (args.unseen, args.unseen_encoder))
    serve(args, loads)


if __name__ == "__main__":
    run(main)
