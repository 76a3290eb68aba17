"""Label texts with a checkpoint of train.py.

    python predict.py --dataset_dir data --params_path checkpoint                       # to the log
    python predict.py --dataset_dir data --output_file predictions.jsonl                # to a file, with probabilities
    zcat news.gz | python predict.py --data_file - --output_file - | head               # from a pipe to a pipe
    python predict.py --dataset_dir data --output_file predictions.jsonl --resume       # continue after a kill
    python predict.py --dataset_dir data --unseen new_labels.txt                      # and labels without rows
    python -m paddle.distributed.launch --gpus "0,1" predict.py --dataset_dir data --output_file predictions.jsonl

Reads   dataset_dir/data_file   one text per line, or rows (see hierarchical/formats.py), whose labels are ignored
        dataset_dir/label_file  if it is there, it must be what the checkpoint was trained with
        unseen                  new labels, one path per line; beside it, maybe, label_descriptions.jsonl
        unseen_encoder/         of retrieval_based/train.py, with unseen.json of retrieval_based/fit_unseen.py
        params_path/            weights, tokenizer, labels, maximum length and decision settings
Writes  output_file             one line per row of the data file, in the same order; blank rows have no labels
            .jsonl  {"text", "labels": [path, ...], "probabilities": {path: p, ...}, "levels": {"1": [path, ...], ...}}
                    probabilities: of all labels above --floor, highest first; levels: the labels and their ancestors
            .tsv    text<TAB>label,label,...  (blanks for the TABs and line ends of a text)
            with --certainty: "certainty" and "sure" in each row of a .jsonl file; a third column, sure or unsure
            with --unseen: "unseen", those of the labels that are new; a last column with them
        output_file.part        the rows so far; .part.json beside it says what --resume needs to continue them
        Of several processes each takes a stretch of the rows and writes output_file with .part-0000-of-0002 before the
        suffix; the last one to end joins them.

Any number of rows takes the same memory: they are read, predicted and written one window of batches at a time.
"""

from dataclasses import replace

from hierarchical.checkpoints import require_same_labels
from hierarchical.predictions import predict_file
from hierarchical.predictor import Predictor
from retrieval_based.encoder import Encoder
from retrieval_based.unseen import Curve, NewLabels, WithUnseen, require_no_number
from utils import (
    LabelTree,
    add_checkpoint_arguments,
    add_decision_arguments,
    add_long_text_arguments,
    add_result_arguments,
    add_texts_arguments,
    check_prediction_arguments,
    decision_from_arguments,
    long_text_arguments,
    make_parser,
    prediction_job,
    run,
)


def parse_args(argv):
    parser = make_parser("Label texts with a checkpoint.")
    add_texts_arguments(parser)
    add_long_text_arguments(add_checkpoint_arguments(parser, batch_size=32))
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    new = parser.add_argument_group("labels without rows")
    new.add_argument("--unseen", help="file of new labels, which get probabilities from their words alone")
    text = "directory that retrieval_based/train.py saved an encoder in, and fit_unseen.py unseen.json"
    new.add_argument("--unseen_encoder", default="./checkpoint/model_best", help=text)
    args = parser.parse_args(argv)
    check_prediction_arguments(parser, args)
    return args


def with_unseen(args, predictor, decision, job):
    """(the Predictor with the new labels beside its own, the Job, whose label.txt has been compared)."""
    require_no_number(decision)
    labels = NewLabels.read(args.unseen, predictor.tree)
    if job.label_path and job.label_path.exists():
        require_known_labels(predictor.tree, labels.tree, job.label_path)
    encoder = Encoder(args.unseen_encoder, batch_size=args.batch_size)
    curve = Curve.read(args.unseen_encoder, encoder.id, predictor.mark)
    return WithUnseen(predictor, encoder, labels, curve, args.device), replace(job, label_path=None)


def require_known_labels(known, both, path):
    """Raise InputError if label.txt, less the new labels, is not what the checkpoint was trained with."""
    there = LabelTree.read(path)
    labels = [label for label in there.labels if label in known.index or label not in both.index]
    further = [line for line in there.graph_lines() if line.split("\t")[0] in known.index]
    if known.labels not in (there.labels, labels) or sorted(further) != sorted(known.graph_lines()):
        require_same_labels(known, path)


def main(argv=None):
    args = parse_args(argv)
    predictor = Predictor(
        args.params_path,
        kind="checkpoint",
        device=args.device,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        **long_text_arguments(args),
    )
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    job = prediction_job(args)
    if args.unseen:
        labeller, job = with_unseen(args, predictor, decision, job)
        predict_file(job, labeller, decision, labeller.settings, labeller.decide, labeller.known)
    else:
        predict_file(job, predictor, decision)


if __name__ == "__main__":
    run(main)
