"""Retrieve labels for labelled texts, for evaluate.py to score.

    python retrieval_based/recall.py --similar_text_pair_file data/dev.txt
    python retrieval_based/recall.py --similar_text_pair_file data/dev.txt --index_dir index

Reads   similar_text_pair_file   rows text<TAB>label,label,...  (or JSON or CSV, see hierarchical/formats.py)
        params_path, and index_dir or corpus_file
Writes  recall_result_dir/recall_result_file   text<TAB>label<TAB>similarity, up to recall_num lines per row, best first
        recall_result_dir/recall_result_file.settings/{label.txt, decision.json}   what evaluate.py scores them with

TABs and line ends within a text are written as blanks, and of a long one the beginning, since every line has it. A text
that nothing is near has one line, without a label.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.batches import row_windows
from hierarchical.bi_encoder import Encoder
from hierarchical.checkpoints import write_settings
from retrieval_based.encoder import add_model_arguments
from retrieval_based.index import add_index_arguments, index_or_labels, labels_index
from retrieval_based.results import settings_directory
from utils import (
    ON_PAGE,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    progress_bar,
    require_writable,
    run,
    shown,
)


def parse_args(argv):
    parser = make_parser("Retrieve labels for texts.")
    parser.add_argument("--similar_text_pair_file", default="./data/dev.txt", help="labelled rows")
    add_index_arguments(parser)
    add_model_arguments(parser)
    result = parser.add_argument_group("result")
    result.add_argument("--recall_result_dir", default="./recall_result_dir", help="directory for the result")
    result.add_argument("--recall_result_file", default="recall_result_file.txt", help="name in that directory")
    result.add_argument("--recall_num", type=int, default=50, help="labels, or rows that vote, per text")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, recall_num=1)
    return args


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), Path(args.recall_result_dir)
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    index, tree = index_or_labels(args, encoder)
    rows = load_reported(args.similar_text_pair_file, tree, logger)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / args.recall_result_file
    sources = [Path(file) for file in (args.similar_text_pair_file, args.corpus_file) if file]
    for folder in filter(None, (args.params_path, args.index_dir)):
        sources += Path(folder).iterdir()
    require_writable(path, "--recall_result_file", sources)
    settings = settings_directory(path)
    settings.mkdir(exist_ok=True)

    encoder.load(args.device)
    index = index or labels_index(encoder, tree)
    with atomic_write(path) as file, progress_bar(len(rows.texts), "recall") as bar:
        for window in row_windows(len(rows.texts)):
            texts = rows.texts[window.start : window.stop]
            for text, found in zip(texts, index.retrieve(encoder.encode(texts, bar.update), args.recall_num)):
                text = shown(text, ON_PAGE)
                lines = [f"{text}\t{tree.labels[label]}\t{similarity:.6f}\n" for label, similarity in found]
                file.writelines(lines or [f"{text}\t\t0\n"])  # no row of the index is near, or none near has a label
        path.unlink(missing_ok=True)  # the older result first: a kill leaves none, and not one with other settings
        write_settings(settings, tree, encoder.tokenizer.max_seq_length, index.decision)
    logger.info(f"Retrieved from {len(index.entries)} {index.by} for {len(rows.texts)} texts, in {path}")


if __name__ == "__main__":
    run(main)
