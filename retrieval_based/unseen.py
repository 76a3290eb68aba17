"""Labels that have only words, beside a classifier: what the encoder of this folder makes of them.

    labels = NewLabels.read("new_labels.txt", predictor.tree)        # beside it, maybe, label_descriptions.jsonl
    labeller = WithUnseen(predictor, encoder, labels, Curve.read(encoder), device)
    predict_file(job, labeller, decision, labeller.settings, labeller.decide, labeller.known)

A new label's probability comes from three numbers: how near the text is to it, how near it is to the nearest of the
other labels, and the classifier's highest logit for another leaf. For the known leaves, each taken for a new one, dev
rows tell what these numbers mean: a logistic regression, the Curve (Platt 1999, as in hierarchical/calibrating.py). It
is kept beside the encoder as unseen.json, and serves every label that comes later.

Only leaves have a probability of their own: a new label above others is as likely as the likeliest of those.
Shapes: n rows of a window, K leaves of the classifier, S leaves in all, U new leaves.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hierarchical.batches import Begun
from hierarchical.calibration import sigmoid
from hierarchical.decisions import decide, probabilities_of, raise_to_subtree_maximum
from hierarchical.errors import InputError, Problems, some
from hierarchical.files import atomic_write, file_digest, read_lines, require_file
from hierarchical.label_graph import graph_path, label_files, read_graph
from hierarchical.labels import LabelTree, read_labels
from retrieval_based.encoder import path_text

FILE, DESCRIPTIONS = "unseen.json", "label_descriptions.jsonl"
LIMIT = 10.0  # logits beyond it say no more
MADE_BY = "Make it with retrieval_based/fit_unseen.py."


def leaves_of(tree):
    """Class indices, int64."""
    return np.array([i for i in range(len(tree)) if not tree.children[i]], np.int64)


def best_other(values, columns):
    """The highest of each row's values [n, m], without that of one column: float64 [n, len(columns)]; -1: of all."""
    values = np.array(values, np.float64)
    rows, first = np.arange(len(values)), values.argmax(axis=1)
    best = values[rows, first]
    values[rows, first] = -np.inf
    return np.where(first[:, None] == columns, values.max(axis=1)[:, None], best[:, None])


def features(similarities, places, logits, own):
    """What the Curve looks at, float64 [n, len(places), 3].

    similarities float [n, S]: of the text to all leaves; places int: which of them are asked about. logits float
    [n, K]: the classifier's, of its leaves; own int: which of them each is, or lies below; -1: none of them
    """
    near = np.asarray(similarities, np.float64)[:, places]
    others = best_other(similarities, places)
    return np.stack([near, others, np.clip(best_other(logits, own), -LIMIT, LIMIT)], axis=2)


@dataclass(frozen=True)
class Curve:
    """Features -> probabilities; checked when made.

    weights, bias   probability = sigmoid(features x weights + bias)
    threshold       a new label needs a probability above this
    encoder         the id of the encoder it was fitted with
    classifier      the mark of the classifier; "": not known
    """

    weights: list[float]
    bias: float
    threshold: float
    encoder: str
    classifier: str

    def __post_init__(self):
        numbers = [*self.weights, self.bias, self.threshold]
        if len(numbers) != 5 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise ValueError("it needs three weights, a bias and a threshold")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold must be from 0 to 1, got {self.threshold}")
        if not isinstance(self.encoder, str) or not isinstance(self.classifier, str):
            raise ValueError("it does not say of which models it is")

    def probabilities(self, found):
        """float32 [n, U] of features [n, U, 3]."""
        return sigmoid(found @ np.array(self.weights, np.float64) + self.bias)

    @classmethod
    def fit(cls, found, gold, **about):
        """Of features [n, U, 3] and whether each label is the row's, bool [n, U]. about: the other fields.

        Raises InputError where a label is right less often the nearer it is.
        """
        from sklearn.linear_model import LogisticRegression

        # With so weak a penalty nothing changes, but for labels that are told apart without a mistake.
        model = LogisticRegression(C=1000, max_iter=5000).fit(found.reshape(-1, 3), gold.ravel())
        weights = model.coef_[0].tolist()
        if not weights[0] > 0:
            raise InputError(
                "On these rows labels are right less often the nearer they are to the text: the encoder is of no use "
                "for them. Train it longer, or see whether the dev rows have the right labels."
            )
        return cls(weights, float(model.intercept_[0]), **about)

    @classmethod
    def read(cls, directory, encoder_id, mark):
        """The one beside an encoder. Raises InputError if there is none, or if it is for another encoder or classifier.

        mark: of the classifier, see Predictor.mark
        """
        path = Path(directory) / FILE
        require_file(path, MADE_BY)
        try:
            curve = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: not what retrieval_based/fit_unseen.py writes ({error}). {MADE_BY}") from None
        for what, one, other in (("encoder", curve.encoder, encoder_id), ("classifier", curve.classifier, mark)):
            if one and other and one != other:
                raise InputError(f"{path}: was fitted for another {what}. Run retrieval_based/fit_unseen.py again.")
        return curve

    def write(self, directory):
        with atomic_write(Path(directory) / FILE) as file:
            json.dump(asdict(self), file, indent=1)


@dataclass(frozen=True)
class NewLabels:
    """tree: the known labels, in their order, and after them the new ones; texts: what the encoder reads for each of
    its leaves; digest: of the files they came from."""

    tree: LabelTree
    texts: list
    digest: str

    @classmethod
    def read(cls, path, known):
        """Those of a file like label.txt, which may hold known ones, too, and may have a graph beside it.

        known: LabelTree. Raises InputError for what no label tree can be, and where none is new.
        """
        lines, labels, _ = read_labels(path)
        added = [(line, label) for line, label in zip(lines, labels) if label not in known.index]
        if not added:
            raise InputError(f"{path}: no label in it that the checkpoint does not know; add a line for each new one.")
        numbers = [0] * len(known) + [line for line, _ in added]
        labels = [*known.labels, *(label for _, label in added)]
        tree = LabelTree(labels, path, numbers)
        edges = read_graph(graph_path(path), tree.index, tree.parents.tolist(), tree.guess)
        further = [*known.further, *(edge for edge in edges if edge[0] >= len(known))]
        tree = LabelTree(labels, path, numbers, further=further)
        described, descriptions = Path(path).with_name(DESCRIPTIONS), {}
        digest = "".join(file_digest(one)[:16] for one in label_files(path))
        if described.exists():
            descriptions = read_descriptions(described, tree)
            digest += file_digest(described)[:16]
        texts = [label_text(tree.labels[i], descriptions.get(tree.labels[i], "")) for i in leaves_of(tree)]
        return cls(tree, texts, digest)


def label_text(label, description=""):
    """What the encoder reads for a label."""
    return f"{path_text(label)},{description}" if description else path_text(label)


def read_descriptions(path, tree):
    """{label: description} of lines {"label": path, "description": words}. Raises InputError, which names lines."""
    problems, found = Problems(), {}
    for number, line in read_lines(path, problems):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            label, words = row["label"], row["description"]
            if not isinstance(label, str) or not isinstance(words, str) or not words.strip():
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            problems.add(path, number, 'a line is {"label": "...", "description": "..."}')
            continue
        if label not in tree.index:
            problems.add(path, number, f"unknown label {label!r}; {tree.guess(label) or 'add it to the new labels'}")
        elif label in found:
            problems.add(path, number, f"label {label!r} is described twice; remove one of the lines")
        found[label] = words.strip()
    problems.raise_if_any()
    return found


class WithUnseen:
    """Stands in for a Predictor, whose labels and probabilities stay what they are, with new labels after them.

    tree      the known labels, in their order, and the new ones
    known     how many the known ones are
    settings  what the new labels' probabilities depend on
    """

    def __init__(self, predictor, encoder, labels, curve, device):
        self.predictor, self.encoder, self.labels, self.curve, self.device = predictor, encoder, labels, curve, device
        self.tree, self.known = labels.tree, len(predictor.tree)
        self.tokenizer, self.file = predictor.tokenizer, predictor.file
        self.known_leaves, self.leaves = leaves_of(predictor.tree), leaves_of(labels.tree)
        self.places = np.flatnonzero(self.leaves >= self.known)
        column = {leaf: i for i, leaf in enumerate(self.known_leaves.tolist())}
        above = [[column[i] for i in self.tree.ancestors(leaf) if i in column] for leaf in self.leaves[self.places]]
        self.own = np.array([columns[0] if columns else -1 for columns in above], np.int64)
        self.settings = {"unseen": [labels.digest, asdict(curve)]}

    def load(self):
        self.predictor.load()
        self.encoder.load(self.device)
        self.vectors = self.encoder.encode(self.labels.texts)

    def begin(self, texts):
        return Begun(lambda: self.probabilities(texts))

    def probabilities(self, texts):
        """float32 [n, len(tree)]."""
        logits = self.predictor.text_logits(texts)
        similarities = self.encoder.encode(texts) @ self.vectors.T
        found = np.zeros((len(texts), len(self.tree)), np.float32)
        asked = features(similarities, self.places, logits[:, self.known_leaves], self.own)
        found[:, self.leaves[self.places]] = self.curve.probabilities(asked)
        raise_to_subtree_maximum(found, self.tree)  # new labels above others; known ones are written now
        found[:, : self.known] = probabilities_of(logits, self.predictor.tree, self.predictor.decision)
        return found

    def decide(self, probabilities, tree, decision):
        """The known labels as without the new ones; beside them the new ones above their threshold.

        With "topdown" a new label needs all labels above it, with "closure" it brings them.
        """
        selected = probabilities > self.curve.threshold
        selected[:, : self.known] = decide(probabilities[:, : self.known], self.predictor.tree, decision)
        for label in range(self.known, len(tree)):
            for above in tree.ancestors(label):
                if decision.decoding == "topdown":
                    selected[:, label] &= selected[:, above]
                elif decision.decoding == "closure":
                    selected[:, above] |= selected[:, label]
        return selected


def require_no_number(decision):
    """Raise InputError for decision settings that fix how many labels a text has: new ones would come on top."""
    asked = {"--decoding path": decision.decoding == "path", "--per_level": decision.per_level}
    asked |= {"--top_k": decision.top_k, "--max_labels": decision.max_labels}
    if named := [flag for flag, value in asked.items() if value]:
        raise InputError(
            f"--unseen: gives new labels beside the known ones, and {some(named)} (stored or given) says how many "
            "a text has. Pass --decoding raw, closure or topdown, and --min_labels 0."
        )
