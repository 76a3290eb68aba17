"""Serve label retrieval over HTTP.

    python retrieval_based/serve.py --index_dir index                           # http://127.0.0.1:8189
    python retrieval_based/serve.py --index_dir index --params_path output      # an export: without paddle

Reads   index_dir and params_path; api_key_file. Writes nothing.

It is the server of deploy/simple_serving, with its routes, limits and key. The answers are those of predict.py, so the
similarities stand as "probabilities". What build_index.py brings into the index is used a second or two later, and no
request is lost meanwhile; a broken index is refused, and the one loaded before stays in service.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # first, so that `predict` is the one of the main route
from deploy.simple_serving.model import Model
from deploy.simple_serving.server import add_serving_arguments, check_serving_arguments, serve
from modeling import read_config_file
from retrieval_based.encoder import Encoder, add_model_arguments
from retrieval_based.index import SemanticIndex, dense
from utils import HelpFormatter, check_minima, run


def parse_args():
    parser = argparse.ArgumentParser(description="Serve label retrieval over HTTP.", formatter_class=HelpFormatter)
    parser.add_argument("--index_dir", required=True, help="an index that retrieval_based/build_index.py wrote")
    parser.add_argument("--recall_num", type=int, default=50, help="labels, or rows that vote, per text")
    add_model_arguments(parser, batch_size=False)
    add_serving_arguments(parser)
    args = parser.parse_args()
    check_minima(parser, args, recall_num=1, max_seq_length=3)
    check_serving_arguments(parser, args)
    return args


def load_retrieval(args, turn):
    """The Model whose probabilities are the similarities of texts and labels. Raises InputError for bad files.

    turn: the lock under which checkpoints compute; all that are loaded need the same one.
    """
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    index = SemanticIndex.read(args.index_dir, encoder)
    encoder.load(args.device)
    # ONNX Runtime takes calls side by side; paddle does not promise to, and uses all cores for one
    turn = nullcontext() if encoder.onnx else turn

    def score(ids):
        with turn:
            vectors = encoder.encode_ids(ids)
        return dense(index.retrieve(vectors, args.recall_num), len(index.tree))

    config = read_config_file(args.params_path)
    return Model(index.path, config, index.tree, encoder.tokenizer, index.decision, score, index.has_changed)


def main():
    args = parse_args()
    turn = Lock()  # during a reload two checkpoints answer
    serve(args, lambda: load_retrieval(args, turn))


if __name__ == "__main__":
    run(main)
