"""What is served: a model with its labels, answers to texts, and the words that an answer depends on."""

import copy
import hashlib
import json
import logging
import re
import time
import warnings
from dataclasses import dataclass

import numpy as np

from hierarchical.batches import pad, run_batches
from hierarchical.decisions import Decision, decide, probabilities_of
from hierarchical.errors import InputError
from hierarchical.files import file_digest
from hierarchical.labelled import Labelled, describe
from hierarchical.linear import with_linear
from hierarchical.long_texts import CUT, ENDS
from hierarchical.predictor import Predictor
from hierarchical.unseen import WithUnseen, require_no_number

MOST_PIECES = 64  # an explanation leaves out one piece of the text after the other
CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
WORD = re.compile(f"{CHINESE.pattern}|(?:(?!{CHINESE.pattern})\\w)+|[^\\w\\s]+")


class Model:
    """What is served: a function from texts to probabilities, which has answered once, and what belongs to it.

    path: the file that /health names; config: config.json of the model's folder
    score: token ids, list of n lists, and their texts -> probabilities float32 [n, L]; called by several threads
    singly: `score` is to be given one text at a time
    reads_all: the answer may depend on what comes after a text's last token, too
    has_changed: whether the files are no longer those that were read, asked all the time; None: never look
    version: tells one set of numbers from another; None: when it was loaded
    identity: the same where all answers are; None: the version
    beside: the WithUnseen whose new labels are answered, too; None: there are none

    trained: the labels that decision settings are about, which are all but the new ones; known: how many, or None

    name: the one it is served by, which whoever serves it gives it
    """

    name = "default"

    def __init__(
        self, path, config, tree, tokenizer, decision, score,
        has_changed=None, singly=False, reads_all=False, version=None, identity=None, beside=None,
    ):  # fmt: skip
        self.path, self.tree, self.tokenizer, self.decision = path, tree, tokenizer, decision
        self.score, self.has_changed, self.singly, self.reads_all = score, has_changed, singly, reads_all
        self.choose, self.trained, self.known = decide, tree, None
        if beside:
            self.choose, self.trained, self.known = beside.decide, beside.predictor.tree, beside.known
        self.max_seq_length = tokenizer.max_seq_length
        self.most_tokens = config.get("max_position_embeddings", self.max_seq_length)
        self.loaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.version = version or self.loaded
        self.identity = identity or self.version
        # a text of full length: what the first ones would wait for is done
        self.probabilities(["第一句，a first text " * (self.max_seq_length // 8 + 1)], [self.max_seq_length])

    def encode(self, text, max_seq_length):
        tokenizer = copy.copy(self.tokenizer)  # shares the vocabulary and what is remembered
        if tokenizer.windows and max_seq_length != tokenizer.max_seq_length:
            tokenizer.long_text = CUT  # a request that says how many tokens are read gets no more
        tokenizer.max_seq_length = max_seq_length
        return tokenizer.encode([text])[0]

    def probabilities(self, texts, lengths):
        """float32 [n, L] of texts, each cut to its length in tokens."""
        return self.score([self.encode(text, length) for text, length in zip(texts, lengths)], texts)

    def decide(self, probabilities, decision):
        """Class indices in ascending order, of one text's probabilities [L]."""
        return np.flatnonzero(self.choose(probabilities[None], self.tree, decision)[0]).tolist()


def load_exported(path, precision, unseen=None, **settings):
    """The Model of an export; settings: further ones of a Predictor.

    unseen: (file of new labels, folder of the encoder that knows them by their words), or None.
    Raises InputError for whatever is missing, damaged or does not fit together.
    """
    predictor = Predictor(path, precision, kind="export", **settings)
    file, tree, tokenizer = predictor.file, predictor.tree, predictor.tokenizer
    singly, reads_all = predictor.singly, predictor.linear is not None or unseen is not None
    beside = load_beside(predictor, *unseen) if unseen else None

    def logits_of(ids):
        if tokenizer.windows is None:
            return predictor.compute(pad(ids, tokenizer.pad_id))
        most = 1 if singly else predictor.batch_size
        return run_batches(predictor.compute, ids, tokenizer.pad_id, len(tree), most, windows=tokenizer.windows)

    def score(ids, texts):
        logits = with_linear(logits_of(ids), predictor.linear, texts)
        if not np.isfinite(logits).all():
            raise InputError(f"{file}: its outputs are not finite. Train with a lower learning rate and export.")
        if beside:
            return beside.combine(logits, beside.encoder.encode(texts))
        return probabilities_of(logits, tree, predictor.decision)

    digest = file_digest(file)
    version = f"{digest[:12]}-{beside.version}" if beside else digest[:12]
    all_of_it = f"{digest} {version} {sorted(predictor.digests.items())} {predictor.decision}"
    return Model(
        file, predictor.config, beside.tree if beside else tree, tokenizer, predictor.decision, score, singly=singly,
        reads_all=reads_all, version=version, identity=hashlib.sha256(all_of_it.encode()).hexdigest(), beside=beside,
    )  # fmt: skip


def load_beside(predictor, labels, encoder):
    """The WithUnseen beside an export's Predictor, loaded. Raises InputError as that does, and for stored settings."""
    beside = WithUnseen.read(predictor, labels, encoder, without_paddle=True, callers=1)  # threads are the server's
    require_no_number(predictor.decision, f"{predictor.file.with_name('decision.json')}")
    beside.load()
    return beside


# ---- texts -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Work:
    """A text, how many tokens of it are read, and what to make of its probabilities: answer(work, model, p [L]).

    What `run` notes: the tokens that were read, and the seconds that tokenising and the model took for its batch.
    """

    text: str
    max_seq_length: int
    answer: object
    decision: Decision | None = None
    floor: float = 0.0
    certainty: float | None = None
    keep: bool = False  # `outcome` is wanted, too
    sampled: bool = False  # and goes to the samples
    tokens: int = 0
    tokenise_seconds: float = 0.0
    model_seconds: float = 0.0
    outcome: tuple | None = None  # class indices, probabilities [L]


def run(items):
    """The answers to a batch of Items with one model as their group. A blank text gets no labels, as in predict.py."""
    model, works = items[0].group, [item.work for item in items]
    filled = [i for i, work in enumerate(works) if work.text]
    probabilities = np.zeros((len(works), len(model.tree)), np.float32)
    if filled:
        began = time.perf_counter()
        ids = [model.encode(works[i].text, works[i].max_seq_length) for i in filled]
        encoded = time.perf_counter()
        probabilities[filled] = model.score(ids, [works[i].text for i in filled])
        ended = time.perf_counter()
        for i, row in zip(filled, ids):
            work = works[i]
            work.tokens, work.tokenise_seconds, work.model_seconds = len(row), encoded - began, ended - encoded
    return [answer(work, model, p) for work, p in zip(works, probabilities)]


def answer(work, model, probabilities):
    """What is made of a text's probabilities; and the outcome of it, if that is wanted."""
    if work.keep:
        work.outcome = (model.decide(probabilities, work.decision) if work.text else []), probabilities
    return work.answer(work, model, probabilities)


def sample_of(work, model):
    """The row of a sampled answer: as of predict.py's .jsonl files, with the time and the model."""
    row = vars(next(describe(model.tree, Labelled.one(work.text, *work.outcome), known=model.known)))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return row | {"time": now, "model": model.name, "version": model.version}


def named(work, model, probabilities):
    """The JSON of a text's labels by name: a row of predict.py's .jsonl files."""
    predicted = model.decide(probabilities, work.decision) if work.text else []
    found = Labelled.one(work.text, predicted, probabilities)
    return next(describe(model.tree, found, work.floor, work.certainty, model.known)).to_json()


def numbered(work, model, probabilities):
    """(class indices, their probabilities): what the reference's server answers; new labels have no number there."""
    predicted = model.decide(probabilities, work.decision) if work.text else []
    predicted = [i for i in predicted if i < len(model.trained)]
    return predicted, [round(float(probabilities[i]), 6) for i in predicted]


def plain(work, model, probabilities):
    return probabilities


# ---- words -----------------------------------------------------------------------------------------------------------


def words_of(text):
    """(start, end) of each word: by jieba in Chinese text if it is installed, else characters and runs of letters."""
    try:
        warnings.filterwarnings("ignore", module="jieba")  # about how it imports
        import jieba
    except ImportError:
        jieba = None
    if not jieba or not CHINESE.search(text):
        return [match.span() for match in WORD.finditer(text)]
    jieba.setLogLevel(logging.WARNING)
    return [(start, end) for word, start, end in jieba.tokenize(text) if word.strip()]


def pieces_of(model, text, most=MOST_PIECES):
    """(characters that the model reads, the (start, end) of at most `most` pieces to leave out in turn)."""
    reach = model.tokenizer.long_text.reach(model.max_seq_length - ENDS)
    head = text if reach is None else text[: 8 * (reach + ENDS)]  # few tokens are longer; spans() takes its time
    read = max((end for _, end in model.tokenizer.spans(head)), default=0)
    read = len(text) if model.reads_all else read
    words = words_of(text[:read])
    size = max(1, -(-len(words) // most))  # neighbours go together where there are many
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    return read, [(group[0][0], group[-1][1]) for group in groups]


def evidence(model, text, read, pieces, labels, probabilities):
    """The JSON of an explanation. probabilities: float32 [L] of the text, and of the text without each piece.

    labels: class indices, or None for the predicted ones; of a text without any, the most likely one.
    """
    whole, without = probabilities[0], np.array(probabilities[1:]).reshape(-1, len(model.tree))
    if labels is None:
        labels = model.decide(whole, model.decision) or [int(whole.argmax())]
    rows = [
        {
            "label": model.tree.labels[i],
            "probability": round(float(whole[i]), 6),
            "falls": [round(float(fall), 6) for fall in whole[i] - without[:, i]],
        }
        for i in labels
    ]
    return json.dumps({"text": text, "read": read, "words": pieces, "labels": rows}, ensure_ascii=False)
