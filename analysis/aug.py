"""More training rows: each row again with some of its words replaced, added, left out or exchanged.

    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_strategy mix --create_n 1
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --dictionary synonyms.json
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_type mlm --mlm_model path/to/model

Reads   train_path   rows with labels (.txt, .jsonl or .csv, see utils.py); blank and unlabelled ones are passed over
        dictionary   {"word": ["another word", ...], ...}, if given
        mlm_model    a local masked language model: config.json, weights, vocab.txt, tokenizer_config.json
Writes  aug_path     the new rows alone, with the labels of the rows they come from (.txt or .jsonl)

Only training rows are for augmenting: files named dev or test are refused. The same seed gives the same file. Where
synonyms and homonyms come from without a dictionary of one's own: see words.py.
"""

import argparse
import math
import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.words import load_dictionary, load_jieba
from utils import (
    HelpFormatter,
    InputError,
    check_minima,
    get_logger,
    load_reported,
    require_row_format,
    require_writable,
    run,
    write_rows,
)

CYCLE = ("substitute", "insert", "delete", "swap")  # what "mix" goes round in
TYPES = ("synonym", "homonym", "mlm")
MOST_CHANGES = 10  # words of a text that are changed
ATTEMPTS = 10  # at a copy that differs from the text and from its other copies
CHOICES = 5  # a masked token becomes one of the model's likeliest so many
TIED = {
    "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.decoder_bias",
}


def parse_args():
    parser = argparse.ArgumentParser(description="Augmented copies of training rows.", formatter_class=HelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--train_path", default="./data/train.txt", help="training rows; .txt, .jsonl or .csv")
    data.add_argument("--aug_path", default="./data/aug.txt", help="the new rows; .txt or .jsonl")
    change = parser.add_argument_group("change")
    change.add_argument("--aug_strategy", choices=("mix", *CYCLE), default="substitute", help="mix: the others in turn")
    change.add_argument(
        "--aug_type", choices=TYPES, default="synonym", help="where substitute and insert take words from"
    )
    change.add_argument("--create_n", type=int, default=2, help="new rows for each row")
    change.add_argument("--aug_percent", type=float, default=0.1, help="share of a text's words that are changed")
    change.add_argument("--dictionary", help="JSON file of your own: word -> list of words")
    change.add_argument("--mlm_model", help="directory of the model that --aug_type mlm asks")
    change.add_argument("--device", default="gpu", help="of the model: cpu, gpu, xpu or npu; without it: the CPU")
    change.add_argument("--seed", type=int, default=3, help="of the random choices")
    args = parser.parse_args()
    check_minima(parser, args, create_n=1, seed=0)
    if not 0 < args.aug_percent <= 1:
        parser.error(f"argument --aug_percent: must be above 0 and at most 1, got {args.aug_percent}")
    if args.aug_type == "mlm" and args.aug_strategy in ("substitute", "insert", "mix") and not args.mlm_model:
        parser.error("argument --mlm_model: needed for --aug_type mlm, a directory with a masked language model")
    return args


# ---- words -----------------------------------------------------------------------------------------------------------


def cut(text):
    """The words of a text, in order; joined again they are the text."""
    return load_jieba().lcut(text)


def is_word(token):
    """Has it a letter? Blanks, punctuation and numbers stay as they are."""
    return any(char.isalpha() for char in token)


def how_many(share, n_words, n_eligible):
    """Words to change: the share of all, rounded up; at most MOST_CHANGES, and no more than can be."""
    return min(max(1, math.ceil(share * n_words)), MOST_CHANGES, n_eligible)


# ---- changes ---------------------------------------------------------------------------------------------------------
# Each takes (words, share, dictionary, random.Random) and returns the changed words, or None where nothing can change.


def substitute(words, share, dictionary, rng):
    eligible = [i for i, word in enumerate(words) if word in dictionary]
    chosen = rng.sample(eligible, how_many(share, sum(map(is_word, words)), len(eligible)))
    changed = list(words)
    for i in sorted(chosen):
        changed[i] = rng.choice(dictionary[words[i]])
    return changed if chosen else None


def insert(words, share, dictionary, rng):
    eligible = [i for i, word in enumerate(words) if word in dictionary]
    chosen = rng.sample(eligible, how_many(share, sum(map(is_word, words)), len(eligible)))
    changed = list(words)
    for i in sorted(chosen, reverse=True):
        blank = [" "] * words[i].isascii()  # between words of an alphabet
        new = rng.choice(dictionary[words[i]])
        changed[i : i + 1] = [words[i], *blank, new] if rng.random() < 0.5 else [new, *blank, words[i]]
    return changed if chosen else None


def delete(words, share, dictionary, rng):
    eligible = [i for i, word in enumerate(words) if is_word(word)]
    if len(eligible) < 2:  # nothing would be left
        return None
    chosen = set(rng.sample(eligible, how_many(share, len(eligible), len(eligible) - 1)))
    return [word for i, word in enumerate(words) if i not in chosen]


def swap(words, share, dictionary, rng):
    eligible = [i for i, word in enumerate(words) if is_word(word)]
    pairs = list(zip(eligible, eligible[1:]))
    changed = list(words)
    chosen = rng.sample(pairs, how_many(share, len(eligible), len(pairs)))
    for one, other in sorted(chosen):
        changed[one], changed[other] = changed[other], changed[one]
    return changed if chosen else None


CHANGES = {"substitute": substitute, "insert": insert, "delete": delete, "swap": swap}


class MaskedModel:
    """A local masked language model that fills gaps in texts."""

    def __init__(self, directory, device):
        from modeling import read_config_file
        from runtime import set_device
        from tokenizer import load_tokenizer
        from weights import find_weights, read_weights

        if not Path(directory).is_dir():
            raise InputError(f"--mlm_model {directory}: no such directory.")
        config = read_config_file(directory)
        weights = find_weights(directory)
        if weights is None:
            raise InputError(f"--mlm_model {directory}: no weights in it.")
        if config["model_type"] != "ernie":
            raise InputError(f"--mlm_model {directory}: model_type is {config['model_type']!r}; needed is 'ernie'.")
        self.tokenizer = load_tokenizer(directory, config.get("max_position_embeddings", 512))
        if "[MASK]" not in self.tokenizer.vocab:
            raise InputError(f"--mlm_model {directory}: no [MASK] in its vocab.txt.")
        self.paddle = set_device(device)
        from paddlenlp.transformers import ErnieConfig, ErnieForMaskedLM

        self.model = ErnieForMaskedLM(ErnieConfig.from_pretrained(str(directory)))
        state, wanted = read_weights(weights), self.model.state_dict()
        for name, source in TIED.items():  # files need not hold what other names hold already
            state.setdefault(name, state.get(source, state.get(source.removeprefix("ernie."))))
        found = {
            name: state.get(name, state.get(name.removeprefix("ernie."))) for name in wanted if "pooler" not in name
        }
        faults = [n for n, value in found.items() if value is None or list(value.shape) != list(wanted[n].shape)]
        if faults:
            raise InputError(
                f"{weights}: not a whole masked language model; missing or of another shape: {', '.join(faults[:5])}. "
                "It needs the head that fills gaps (cls.predictions), which fine-tuned models have lost."
            )
        self.model.set_state_dict({name: value.astype("float32") for name, value in found.items()})
        self.model.eval()
        self.mask = self.tokenizer.vocab["[MASK]"]
        # Whole words and characters only: no special tokens, no rests of words, no punctuation. A model can have more
        # outputs than its vocab.txt has lines.
        self.tokens = [""] * self.model.config.vocab_size
        if (last := max(self.tokenizer.vocab.values())) >= len(self.tokens):
            raise InputError(
                f"--mlm_model {directory}: vocab.txt has {last + 1} lines, but config.json a vocab_size of "
                f"{len(self.tokens)}. Copy both from where the model came from."
            )
        for token, index in self.tokenizer.vocab.items():
            self.tokens[index] = token if is_word(token) and not token.startswith(("##", "[")) else ""
        self.usable = np.array([bool(token) for token in self.tokens])

    def fill(self, texts, rng, batch_size=32):
        """Texts with [MASK] in them -> the texts with likely tokens in its place, from left to right."""
        from tqdm import tqdm

        from modeling import model_inputs

        done = list(texts)
        with tqdm(total=len(texts), desc="fill", disable=None, leave=False) as bar:
            for start in range(0, len(texts), batch_size):
                batch = list(range(start, min(start + batch_size, len(texts))))
                bar.update(len(batch))
                while batch := [i for i in batch if "[MASK]" in done[i]]:
                    ids = self.tokenizer.encode([done[i] for i in batch])
                    with self.paddle.no_grad():
                        logits = self.model(**model_inputs(ids, self.tokenizer.pad_id)).numpy()
                    for row, i in enumerate(batch):
                        new = ""
                        if self.mask in ids[row]:  # else it is beyond what the model reads
                            scores = np.where(self.usable, logits[row, ids[row].index(self.mask)], -np.inf)
                            best = np.argsort(-scores, kind="stable")[:CHOICES]
                            new = self.tokens[rng.choice(best.tolist())]
                        done[i] = done[i].replace("[MASK]", new, 1)
        return done


def mask_word(words, insert_it, rng):
    """The text with one word masked, or with a gap of one or two tokens beside one.

    None if it has no word, or spells out [MASK] itself, so that no one could tell which is the gap.
    """
    eligible = [i for i, word in enumerate(words) if is_word(word)]
    if not eligible or "[MASK]" in "".join(words):
        return None
    i = rng.choice(eligible)
    blank = " " * words[i].isascii()
    gap = "[MASK]" * (1 if words[i].isascii() else rng.choice((1, 2)) if insert_it else len(words[i]))
    if not insert_it:
        changed = gap
    else:
        changed = words[i] + blank + gap if rng.random() < 0.5 else gap + blank + words[i]
    return "".join([*words[:i], changed, *words[i + 1 :]])


# ---- rows ------------------------------------------------------------------------------------------------------------


def augment(texts, strategy, create_n, share, rng, dictionary=None, masked_model=None):
    """Changed copies of texts: [(row number, new text)], in the order of the texts, up to `create_n` for each.

    A copy differs from its text and from the text's other copies; where ATTEMPTS give none, there is one fewer.
    dictionary: {word: other words}, for substitute and insert, unless a MaskedModel takes its place.
    """
    from tqdm import tqdm

    drafts, turn = [], 0
    for row, text in enumerate(tqdm(texts, desc="augment", disable=None, leave=False)):
        words, seen = cut(text), {text}
        for _ in range(create_n):
            change, turn = CYCLE[turn % len(CYCLE)] if strategy == "mix" else strategy, turn + 1
            for _ in range(ATTEMPTS):
                if masked_model and change in ("substitute", "insert"):
                    new = mask_word(words, change == "insert", rng)
                else:
                    changed = CHANGES[change](words, share, dictionary, rng)
                    new = changed and "".join(changed).strip()
                if new and new not in seen:
                    seen.add(new)
                    drafts.append((row, new))
                    break
    if masked_model:
        gaps = [k for k, (row, new) in enumerate(drafts) if "[MASK]" in new and "[MASK]" not in texts[row]]
        for k, new in zip(gaps, masked_model.fill([drafts[k][1] for k in gaps], rng)):
            drafts[k] = drafts[k][0], new
        drafts = [(row, new) for row, new in dict.fromkeys(drafts) if new != texts[row]]
    return drafts


def main():
    args = parse_args()
    logger, train_path, aug_path = get_logger(), Path(args.train_path), Path(args.aug_path)
    for flag, path in (("--train_path", train_path), ("--aug_path", aug_path)):
        if (kind := path.stem.lower()) in ("dev", "test"):
            raise InputError(f"{path}: {flag} is for training rows; augmented {kind} rows would measure nothing.")
        if kind == "label":
            raise InputError(f"{path}: {flag} is for training rows; a file of this name holds the label tree.")
    texts, labels, *_ = load_reported(train_path, None, logger)
    require_row_format(aug_path, "--aug_path", zip(texts, labels))
    require_writable(aug_path, "--aug_path", [train_path])
    uses_words = args.aug_strategy in ("substitute", "insert", "mix")
    dictionary = masked_model = None
    if uses_words and args.aug_type == "mlm":
        masked_model = MaskedModel(args.mlm_model, args.device)
    elif uses_words:
        dictionary = load_dictionary(args.aug_type, args.dictionary)

    rng = random.Random(args.seed)
    new = augment(texts, args.aug_strategy, args.create_n, args.aug_percent, rng, dictionary, masked_model)
    if not new:
        raise InputError(
            f"{train_path}: no row has a word that --aug_strategy {args.aug_strategy} can change. Give a --dictionary "
            f"of words that are in these rows, or another strategy. {aug_path} was not written."
        )
    write_rows(aug_path, [(text, labels[row]) for row, text in new])
    if missing := len(texts) * args.create_n - len(new):
        logger.warning(
            f"{missing} copies could not be made: no word of theirs can be changed, or only to the same text"
        )
    logger.info(f"{len(new)} new rows saved in {aug_path}; put them after the training rows and train on both")


if __name__ == "__main__":
    run(main)
