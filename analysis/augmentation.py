"""Changed copies of texts: words replaced, added, left out or exchanged, by a dictionary or a masked language model."""

import math
from pathlib import Path

import numpy as np

from analysis.words import load_jieba
from hierarchical.console import progress_bar
from hierarchical.devices import set_device
from hierarchical.encoders import FAMILIES, encoder_config, encoder_state, open_encoder
from hierarchical.errors import InputError
from hierarchical.identity import require_encoder
from hierarchical.modeling import build_network, library_config, model_inputs
from hierarchical.weights import find_encoder_weights, may_be_missing

CYCLE = ("substitute", "insert", "delete", "swap")  # what "mix" goes round in
TYPES = ("synonym", "homonym", "mlm")
MOST_CHANGES = 10  # words of a text that are changed
ATTEMPTS = 10  # at a copy that differs from the text and from its other copies
CHOICES = 5  # a masked token becomes one of the model's likeliest so many


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
        blank = [" "] if words[i].isascii() else []  # between words of an alphabet
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
        if not Path(directory).is_dir():
            raise InputError(f"--mlm_model {directory}: no such directory.")
        config = encoder_config(directory)
        if find_encoder_weights(directory) is None:
            raise InputError(f"--mlm_model {directory}: no weights in it.")
        family = FAMILIES[config["model_type"]]
        if family.tied_weights is None:
            possible = " or ".join(repr(kind) for kind, one in FAMILIES.items() if one.tied_weights is not None)
            raise InputError(f"--mlm_model {directory}: model_type is {config['model_type']!r}; needed is {possible}.")
        require_encoder(directory)
        self.tokenizer, config = open_encoder(directory, config.get("max_position_embeddings", 512))
        if self.tokenizer.source.name != "vocab.txt" or "[MASK]" not in self.tokenizer.vocab:
            raise InputError(
                f"--mlm_model {directory}: no [MASK] in {self.tokenizer.source.name}; needed is a vocab.txt with it."
            )
        self.paddle = set_device(device)
        self.model = build_network(library_config(config), "ForMaskedLM")
        weights, state = encoder_state(directory)
        wanted, prefix = self.model.state_dict(), f"{self.model.base_model_prefix}."
        for name, source in family.tied_weights.items():  # files need not hold what other names hold already
            state.setdefault(name, state.get(source, state.get(source.removeprefix(prefix))))
        needed = [name for name in wanted if not may_be_missing(name)]
        found = {name: state.get(name, state.get(name.removeprefix(prefix))) for name in needed}
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
        done = list(texts)
        with progress_bar(len(texts), "fill") as bar:
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
    blank = " " if words[i].isascii() else ""
    tokens = 1 if words[i].isascii() else rng.choice((1, 2)) if insert_it else len(words[i])
    gap = "[MASK]" * tokens
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
    drafts, turn = [], 0
    for row, text in enumerate(progress_bar(len(texts), "augment", iterable=texts)):
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
