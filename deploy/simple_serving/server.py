"""Serve an exported model over HTTP.

    python deploy/simple_serving/server.py --model_path export                  # http://127.0.0.1:8189
    python deploy/simple_serving/server.py --model_path export --host 0.0.0.0 --api_key_file key.txt

Reads   model_path/{float32,int8}.onnx and what export_model.py left beside it; api_key_file. Writes nothing.

    GET  /                           a page to try it on: the label tree, and the words that mattered
    POST /v1/classify                texts -> labels by name, probabilities, levels
    POST /v1/explain                 text -> by how much a label's probability falls without each word
    POST /models/cls_hierarchical    texts -> class indices and confidences, as PaddleNLP's server answers
    POST /admin/reload               load the model files anew; so does SIGHUP
    GET  /health, /ready, /metrics   for whoever watches over it; /docs describes everything

SIGTERM and Ctrl-C end it once all requests it has taken are answered. Needs neither paddle nor a network.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.simple_serving.serving import add_serving_arguments, check_serving_arguments, serve
from hierarchical.engines import PRECISIONS
from utils import add_max_seq_length_argument, check_minima, make_parser, run


def parse_args(argv):
    parser = make_parser("Serve an exported model over HTTP.")
    model = parser.add_argument_group("model")
    model.add_argument("--model_path", required=True, help="folder of export_model.py, or a model without its ending")
    model.add_argument(
        "--precision", choices=("auto", *PRECISIONS), default="auto", help="auto: int8 if it is there, and good"
    )
    add_max_seq_length_argument(model)
    add_serving_arguments(parser)
    args = parser.parse_args(argv)
    check_minima(parser, args, max_seq_length=3)
    check_serving_arguments(parser, args)
    return args


def main(argv=None):
    args = parse_args(argv)

    def load():
        from deploy.simple_serving.model import load_exported

        return load_exported(args.model_path, args.precision, args.max_seq_length)

    serve(args, load)


if __name__ == "__main__":
    run(main)
