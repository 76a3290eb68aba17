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
        unseen_encoder/         of retrieval_based/train.py or its export, with what retrieval_based/fit_unseen.py wrote
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

from hierarchical.predictions import predict_file
from hierarchical.predictor import Predictor
from utils import (
    add_bf16_argument,
    add_checkpoint_arguments,
    add_decision_arguments,
    add_long_text_arguments,
    add_result_arguments,
    add_texts_arguments,
    add_unseen_arguments,
    check_prediction_arguments,
    decision_from_arguments,
    long_text_arguments,
    make_parser,
    precision_from_arguments,
    prediction_job,
    run,
)


def parse_args(argv):
    parser = make_parser("Label texts with a checkpoint.")
    add_texts_arguments(parser)
    model = add_checkpoint_arguments(parser, batch_size=32)
    add_long_text_arguments(model)
    add_bf16_argument(model)
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    add_unseen_arguments(parser)
    args = parser.parse_args(argv)
    check_prediction_arguments(parser, args)
    return args


def main(argv=None):
    args = parse_args(argv)
    predictor = Predictor(
        args.params_path,
        kind="checkpoint",
        precision=precision_from_arguments(args),
        device=args.device,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        **long_text_arguments(args),
    )
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    job = prediction_job(args)
    if args.unseen:
        predictor.with_unseen(args.unseen, args.unseen_encoder, args.device).predict_file(job, decision)
    else:
        predict_file(job, predictor, decision, predictor.settings)


if __name__ == "__main__":
    run(main)
