"""Serve label retrieval over HTTP.

    python retrieval_based/serve.py --index_dir index                           # http://127.0.0.1:8189
    python retrieval_based/serve.py --index_dir index --params_path output      # an export: without paddle

Reads   index_dir and params_path; api_key_file. Writes nothing.

It is the server of deploy/simple_serving, with its routes, limits and key. The answers are those of predict.py, so the
similarities stand as "probabilities". What build_index.py brings into the index is used a second or two later, and no
request is lost meanwhile; a broken index is refused, and the one loaded before stays in service.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from deploy.simple_serving.model import Model
from deploy.simple_serving.serving import add_serving_arguments, check_serving_arguments, serve
from hierarchical.bi_encoder import Encoder
from retrieval_based.encoder import add_model_arguments
from retrieval_based.index import SemanticIndex, dense
from utils import check_minima, make_parser, run


def parse_args(argv):
    parser = make_parser("Serve label retrieval over HTTP.")
    parser.add_argument("--index_dir", required=True, help="an index that retrieval_based/build_index.py wrote")
    parser.add_argument("--recall_num", type=int, default=50, help="labels, or rows that vote, per text")
    add_model_arguments(parser, batch_size=False)
    add_serving_arguments(parser)
    args = parser.parse_args(argv)
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

    def score(ids, texts):
        with turn:
            vectors = encoder.encode_ids(ids)
        return dense(index.retrieve(vectors, args.recall_num), len(index.tree))

    config, tokenizer = encoder.checkpoint.config, encoder.tokenizer
    return Model(index.path, config, index.tree, tokenizer, index.decision, score, index.has_changed)


def main(argv=None):
    args = parse_args(argv)
    turn = Lock()  # during a reload two checkpoints answer
    args.split = args.shadow = None
    serve(args, {"default": lambda: load_retrieval(args, turn)})


if __name__ == "__main__":
    run(main)
