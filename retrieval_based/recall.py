"""Retrieve labels for labelled texts, for evaluate.py to score.

    python retrieval_based/recall.py --similar_text_pair_file data/dev.txt
    python retrieval_based/recall.py --similar_text_pair_file data/dev.txt --index_dir index

Reads   similar_text_pair_file   rows text<TAB>label,label,...  (or .jsonl/.csv, see utils.py)
        params_path, and index_dir or corpus_file
Writes  recall_result_dir/recall_result_file   text<TAB>label<TAB>similarity, up to recall_num lines per row, best first
        recall_result_dir/recall_result_file.settings/{label.txt, decision.json}   what evaluate.py scores them with

TABs and line ends within a text are written as blanks. A text that nothing is near has one line, without a label.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from checkpoints import write_settings
from modeling import WINDOW
from retrieval_based.encoder import Encoder, add_model_arguments
from retrieval_based.index import add_index_arguments, index_or_labels, labels_index
from utils import FLAT, HelpFormatter, atomic_write, check_minima, get_logger, load_reported, require_writable, run


def parse_args():
    parser = argparse.ArgumentParser(description="Retrieve labels for texts.", formatter_class=HelpFormatter)
    parser.add_argument("--similar_text_pair_file", default="./data/dev.txt", help="labelled rows")
    add_index_arguments(parser)
    add_model_arguments(parser)
    result = parser.add_argument_group("result")
    result.add_argument("--recall_result_dir", default="./recall_result_dir", help="directory for the result")
    result.add_argument("--recall_result_file", default="recall_result_file.txt", help="name in that directory")
    result.add_argument("--recall_num", type=int, default=50, help="labels, or rows that vote, per text")
    args = parser.parse_args()
    check_minima(parser, args, batch_size=1, max_seq_length=3, recall_num=1)
    return args


def settings_directory(path):
    """Where the labels and the decision settings of a result file lie: in a directory named after it."""
    return Path(f"{path}.settings")


def main():
    args = parse_args()
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
    from tqdm import tqdm

    index = index or labels_index(encoder, tree)
    with atomic_write(path) as file, tqdm(total=len(rows.texts), desc="recall", disable=None, leave=False) as bar:
        for start in range(0, len(rows.texts), WINDOW):
            texts = rows.texts[start : start + WINDOW]
            for text, found in zip(texts, index.retrieve(encoder.encode(texts, bar.update), args.recall_num)):
                text = text.translate(FLAT)
                lines = [f"{text}\t{tree.labels[label]}\t{similarity:.6f}\n" for label, similarity in found]
                file.writelines(lines or [f"{text}\t\t0\n"])  # no row of the index is near, or none near has a label
    write_settings(settings, tree, encoder.tokenizer.max_seq_length, index.decision)
    logger.info(f"Retrieved from {len(index.entries)} {index.by} for {len(rows.texts)} texts, in {path}")


if __name__ == "__main__":
    run(main)
