"""More training rows: each row again with some of its words replaced, added, left out or exchanged.

    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_strategy mix --create_n 1
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --dictionary synonyms.json
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_type mlm --mlm_model path/to/model

Reads   train_path   rows with labels (.txt, .jsonl or .csv, see utils.py); blank and unlabelled ones are passed over
        dictionary   {"word": ["another word", ...], ...}, if given
        mlm_model    a local masked language model: config.json, weights, vocab.txt, tokenizer_config.json
Writes  aug_path     the new rows alone, with the labels of the rows they come from (.txt or .jsonl)

Only training rows are for augmenting: files named dev or test are refused. The same seed gives the same file. Without a
dictionary of one's own, synonyms and homonyms are worked out from CC-CEDICT, a Chinese-English dictionary that the
package lindera-python-cc-cedict brings along: synonyms share an English meaning, homonyms the pinyin without tones.
"""

import argparse
import json
import logging
import math
import random
import re
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import (
    HelpFormatter,
    InputError,
    Problems,
    get_logger,
    parse_rows,
    require_file,
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
FREQUENT = 20  # a replacement must be at least so frequent in jieba's word list
SHARED_MEANING = 0.35  # cosine of two words' meanings from which they are synonyms
VAGUE = 12  # a meaning that more words share tells nothing
TIED = {
    "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.decoder_bias",
}
NOT_PLAIN = re.compile(r"(see |variant|old variant|surname|cl:|abbr|used in|also |pr\.|fig\.|lit\.|coll|idiom)")


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
    if args.create_n < 1:
        parser.error(f"argument --create_n: must be at least 1, got {args.create_n}")
    if not 0 < args.aug_percent <= 1:
        parser.error(f"argument --aug_percent: must be above 0 and at most 1, got {args.aug_percent}")
    if args.seed < 0:
        parser.error(f"argument --seed: must be at least 0, got {args.seed}")
    if args.aug_type == "mlm" and args.aug_strategy in ("substitute", "insert", "mix") and not args.mlm_model:
        parser.error("argument --mlm_model: needed for --aug_type mlm, a directory with a masked language model")
    return args


# ---- words -----------------------------------------------------------------------------------------------------------


def cut(text):
    """The words of a text, in order; joined again they are the text."""
    return load_jieba().lcut(text)


def load_jieba():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own use of pkg_resources
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return jieba


def is_word(token):
    """Has it a letter? Blanks, punctuation and numbers stay as they are."""
    return any(char.isalpha() for char in token)


def how_many(share, n_words, n_eligible):
    """Words to change: the share of all, rounded up; at most MOST_CHANGES, and no more than can be."""
    return min(max(1, math.ceil(share * n_words)), MOST_CHANGES, n_eligible)


# ---- dictionaries ----------------------------------------------------------------------------------------------------


def read_dictionary(path):
    """A JSON file as {word: list of other words}. Raises InputError with everything that is wrong."""
    require_file(path, 'It is a JSON object: {"word": ["another word", ...], ...}.')
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}). It is an object: word -> list of words.") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: must be an object, word -> list of words, not a {type(entries).__name__}.")
    problems = Problems()
    for word, others in entries.items():
        if not isinstance(others, list) or not all(isinstance(other, str) and other.strip() for other in others):
            problems.add(
                path, None, f"{word!r} must have a list of words, not {json.dumps(others, ensure_ascii=False)[:60]}"
            )
    problems.raise_if_any()
    found = {word: [other for other in dict.fromkeys(others) if other != word] for word, others in entries.items()}
    if not any(found.values()):
        raise InputError(f"{path}: no word in it has another one.")
    return {word: others for word, others in found.items() if others}


def cedict_entries():
    """[(word, pinyin without tones, set of English meanings)] of the words that jieba and CC-CEDICT both know."""
    try:
        import lindera
    except ImportError:
        raise InputError(
            "no dictionary: install the package lindera-python-cc-cedict, or give one of your own: --dictionary"
        ) from None
    tokenizer = lindera.Tokenizer(lindera.load_dictionary("embedded://cc-cedict"), mode="normal")
    entries = []
    for line in load_jieba().get_dict_file():
        word, frequency, _ = line.decode("utf-8").split()
        if len(word) < 2 or int(frequency) < FREQUENT:
            continue
        tokens = tokenizer.tokenize(word)
        if len(tokens) == 1 and len(tokens[0].details) > 7:
            pinyin = re.sub(r"[\d\s]", "", tokens[0].details[4].lower())
            meanings = re.split("[/;]", re.sub(r"\([^)]*\)", "", ",".join(tokens[0].details[7:])).lower())
            meanings = {meaning.strip() for meaning in meanings}
            entries.append((word, pinyin, {m for m in meanings if m and not NOT_PLAIN.match(m)}))
    return entries


def synonyms():
    """{word: words with much the same English meanings, nearest first}."""
    entries = cedict_entries()
    count = {word: len(meanings) for word, _, meanings in entries}
    words_of, shared, found = defaultdict(list), Counter(), defaultdict(list)
    for word, _, meanings in entries:
        for meaning in meanings:
            words_of[meaning].append(word)
    for words in words_of.values():
        if len(words) <= VAGUE:
            shared.update((one, other) for one in words for other in words if one != other)
    for (one, other), n in shared.items():
        nearness = n / math.sqrt(count[one] * count[other])
        if nearness >= SHARED_MEANING:
            found[one].append((-nearness, other))
    return {word: [other for _, other in sorted(others)] for word, others in found.items()}


def homonyms():
    """{word: other words that sound the same but for the tones}."""
    words_of = defaultdict(list)
    for word, pinyin, _ in cedict_entries():
        words_of[len(word), pinyin].append(word)
    return {
        word: [other for other in words if other != word] for words in words_of.values() for word in words if words[1:]
    }


def load_dictionary(aug_type, path):
    return read_dictionary(path) if path else synonyms() if aug_type == "synonym" else homonyms()


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
        from modeling import find_weights, read_config_file, read_weights, set_device
        from tokenizer import load_tokenizer

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
        # Whole words and characters only: no special tokens, no rests of words, no punctuation.
        self.tokens = [""] * len(self.tokenizer.vocab)
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
    """The text with one word masked, or with a gap of one or two tokens beside one; None if it has no word."""
    eligible = [i for i, word in enumerate(words) if is_word(word)]
    if not eligible or any("[MASK]" in word for word in words):
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


def read_training_rows(path, logger):
    """[(text, label names)] of the labelled rows, whatever their labels."""
    require_file(path, "It holds the training rows: text<TAB>label,label,...")
    problems, rows, seen = Problems(), [], Counter()
    for line, text, names in parse_rows(path, problems):
        if text is None:
            seen["blank"] += 1
        elif not text.strip():
            problems.add(path, line, "the text is empty")
        elif names is None:
            seen["unlabelled"] += 1
        elif not all(names):
            problems.add(
                path, line, "an empty label (a comma at the end, two commas in a row, or nothing after the TAB)"
            )
        else:
            rows.append((text.strip(), names))
    problems.raise_if_any()
    if seen:
        logger.warning(f"{path.name}: skipped {seen['blank']} blank and {seen['unlabelled']} unlabelled lines")
    if not rows:
        raise InputError(f"{path}: no labelled row in it. A row is: text<TAB>label,label,...")
    return rows


def main():
    args = parse_args()
    logger, train_path, aug_path = get_logger(), Path(args.train_path), Path(args.aug_path)
    for flag, path in (("--train_path", train_path), ("--aug_path", aug_path)):
        if path.stem.lower() in ("dev", "test", "label"):
            raise InputError(f"{path}: {flag} is for training rows; augmented dev or test rows would measure nothing.")
    rows = read_training_rows(train_path, logger)
    require_row_format(aug_path, "--aug_path", rows)
    require_writable(aug_path, "--aug_path", [train_path])
    uses_words = args.aug_strategy in ("substitute", "insert", "mix")
    dictionary = masked_model = None
    if uses_words and args.aug_type == "mlm":
        masked_model = MaskedModel(args.mlm_model, args.device)
    elif uses_words:
        dictionary = load_dictionary(args.aug_type, args.dictionary)

    texts = [text for text, _ in rows]
    rng = random.Random(args.seed)
    new = augment(texts, args.aug_strategy, args.create_n, args.aug_percent, rng, dictionary, masked_model)
    write_rows(aug_path, [(text, rows[row][1]) for row, text in new])
    if missing := len(rows) * args.create_n - len(new):
        logger.warning(
            f"{missing} copies could not be made: no word of theirs can be changed, or only to the same text"
        )
    logger.info(f"{len(new)} new rows saved in {aug_path}; put them after the training rows and train on both")


if __name__ == "__main__":
    run(main)
