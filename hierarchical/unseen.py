"""Labels that have only words, beside a classifier: what the encoder of retrieval_based/ makes of them.

    beside = Predictor("export").with_unseen("new_labels.txt", "output")    # beside it, maybe, label_descriptions.jsonl
    for result in beside.predict(["股价连续涨停"]):
        print(result.labels, result.unseen)

A new label's probability comes from three numbers: how near the text is to it, how near it is to the nearest of the
other labels, and the classifier's highest logit for another leaf. For the known leaves, each taken for a new one, dev
rows tell what these numbers mean: a logistic regression, the Curve (Platt 1999, as in calibrating.py), which serves
every label that comes later. retrieval_based/fit_unseen.py makes it, once for an encoder and a classifier.

Files beside the encoder, of a checkpoint or an export:
    unseen.json   the Curve: three weights, a bias, the threshold of new labels, and which models they are for
    unseen.npy    vectors of the known leaves, float32 [K, dimension], so that only new labels are encoded on loading

Only leaves have a probability of their own: a new label above others is as likely as the likeliest of those.
Shapes: n rows of a window, K leaves of the classifier, S leaves in all, U new leaves.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.batches import Begun
from hierarchical.bi_encoder import Encoder, path_text
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import require_same_labels
from hierarchical.decisions import Decision, decide, probabilities_of, raise_to_subtree_maximum, thresholds_of
from hierarchical.errors import InputError, Problems, some
from hierarchical.files import atomic_write, file_digest, read_lines, require_file
from hierarchical.label_graph import graph_path, label_files, read_graph
from hierarchical.labelled import FLOOR, Prediction, predictions
from hierarchical.labels import LabelTree, other_paths_of, read_labels
from hierarchical.predictions import Job, predict_file

FILE, VECTORS, DESCRIPTIONS = "unseen.json", "unseen.npy", "label_descriptions.jsonl"
LIMIT = 10.0  # logits beyond it say no more
MADE_BY = "Make it with retrieval_based/fit_unseen.py."


def leaves_of(tree: LabelTree) -> np.ndarray:
    """Class indices, int64."""
    return np.array([i for i in range(len(tree)) if not tree.children[i]], np.int64)


def best_other(
    values: np.ndarray, columns: np.ndarray, several: Mapping[int, Sequence[int]] | None = None
) -> np.ndarray:
    """The highest of each row's values [n, m], without that of one column: float64 [n, len(columns)]; -1: of all.

    several: place in columns -> what is left out there instead, where that is more than one
    """
    several = several or {}
    of_several = [np.delete(values, left_out, axis=1).max(axis=1, initial=-np.inf) for left_out in several.values()]
    values = np.array(values, np.float64)
    rows, first = np.arange(len(values)), values.argmax(axis=1)
    best = values[rows, first]
    values[rows, first] = -np.inf
    found = np.where(first[:, None] == columns, values.max(axis=1)[:, None], best[:, None])
    for place, others in zip(several, of_several):
        found[:, place] = others
    return found


def features(
    similarities: np.ndarray,
    places: np.ndarray,
    logits: np.ndarray,
    own: np.ndarray,
    several: Mapping[int, Sequence[int]] | None = None,
) -> np.ndarray:
    """What the Curve looks at, float64 [n, len(places), 3].

    similarities float [n, S]: of the text to all leaves; places int: which of them are asked about. logits float
    [n, K]: the classifier's, of its leaves; own int: which of them each is, or lies below; -1: none of them. several:
    place in own -> all of them, where a label of several parents lies below more than one
    """
    near = np.asarray(similarities, np.float64)[:, places]
    others = best_other(similarities, places)
    return np.stack([near, others, np.clip(best_other(logits, own, several), -LIMIT, LIMIT)], axis=2)


@dataclass(frozen=True)
class Curve:
    """Features -> probabilities; checked when made.

    weights, bias   probability = sigmoid(features x weights + bias)
    threshold       a new label needs a probability above this
    encoder         the id of the encoder it was fitted with
    classifier      the mark of the classifier; "": not known
    vectors         the digest of the known leaves' vectors, see write_vectors
    """

    weights: list[float]
    bias: float
    threshold: float
    encoder: str
    classifier: str
    vectors: str

    def __post_init__(self) -> None:
        numbers = [*self.weights, self.bias, self.threshold]
        if len(numbers) != 5 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise ValueError("it needs three weights, a bias and a threshold")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold must be from 0 to 1, got {self.threshold}")
        if not all(isinstance(name, str) for name in (self.encoder, self.classifier, self.vectors)):
            raise ValueError("it does not say of which models it is")

    def probabilities(self, found: np.ndarray) -> np.ndarray:
        """float32 [n, U] of features [n, U, 3]."""
        return sigmoid(found @ np.array(self.weights, np.float64) + self.bias)

    @classmethod
    def fit(cls, found: np.ndarray, gold: np.ndarray, **about: Any) -> "Curve":
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
    def read(cls, directory: str | Path, encoder_id: str, mark: str) -> "Curve":
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
                raise InputError(
                    f"{path}: was fitted for another {what}, and its probabilities would be wrong. Run "
                    f"retrieval_based/fit_unseen.py for this {what}, or name the folder that goes with it."
                )
        return curve

    def write(self, directory: str | Path) -> None:
        with atomic_write(Path(directory) / FILE) as file:
            json.dump(asdict(self), file, indent=1)


def write_vectors(directory: str | Path, tree: LabelTree, vectors: np.ndarray) -> str:
    """Keep the vectors of a classifier's leaves, float32 [K, dimension]; returns the digest of leaves and vectors."""
    file = io.BytesIO()
    np.save(file, np.asarray(vectors, np.float32), allow_pickle=False)
    with atomic_write(Path(directory) / VECTORS, "wb") as target:
        target.write(file.getvalue())
    return vectors_digest(tree, file.getvalue())


def read_vectors(directory: str | Path, tree: LabelTree, digest: str) -> np.ndarray:
    """What write_vectors() kept. Raises InputError if it is not there, or not what has this digest."""
    path = Path(directory) / VECTORS
    require_file(path, f"It belongs to {FILE}. {MADE_BY}")
    content = path.read_bytes()
    if vectors_digest(tree, content) != digest:
        raise InputError(
            f"{path}: holds vectors of other labels than the classifier's, or is not the file that goes with {FILE} "
            "beside it. Run retrieval_based/fit_unseen.py again, or copy both files again."
        )
    return np.load(io.BytesIO(content), allow_pickle=False)


def vectors_digest(tree: LabelTree, content: bytes) -> str:
    texts = "\n".join(label_text(tree.labels[i]) for i in leaves_of(tree))
    return hashlib.sha256(texts.encode() + b"\0" + content).hexdigest()


@dataclass(frozen=True)
class NewLabels:
    """tree: the known labels, in their order, and after them the new ones; texts: what the encoder reads for each of
    its leaves; digest: of the files they came from."""

    tree: LabelTree
    texts: list[str]
    digest: str

    @classmethod
    def read(cls, path: str | Path, known: LabelTree) -> "NewLabels":
        """Those of a file like label.txt, which may hold known ones, too, and may have a graph beside it.

        What its graph says of known labels under known ones is passed over: the checkpoint's parents hold. Raises
        InputError for what no label tree can be, where no label is new, and for a known label under a new one.
        """
        lines, labels, _ = read_labels(path)
        added = [(line, label) for line, label in zip(lines, labels) if label not in known.index]
        if not added:
            raise InputError(f"{path}: no label in it that the checkpoint does not know; add a line for each new one.")
        numbers = [0] * len(known) + [line for line, _ in added]
        labels = [*known.labels, *(label for _, label in added)]
        other_paths = {name: known.labels[i] for name, i in known.index.items() if name != known.labels[i]}
        other_paths |= other_paths_of(graph_path(path))
        tree = LabelTree(labels, path, numbers, other_paths=other_paths)
        edges = read_graph(graph_path(path), tree.index, tree.parents.tolist(), tree.guess)
        if below := [f"{labels[i]!r} under {labels[j]!r}" for i, j in edges if i < len(known) <= j]:
            raise InputError(
                f"{graph_path(path)}: {some(below)}: the checkpoint knows the first, and not the second, and a known "
                "label's parents stay as they were trained. Remove these lines, or train with them."
            )
        further = [*known.further, *(edge for edge in edges if edge[0] >= len(known))]
        tree = LabelTree(labels, path, numbers, further=further)
        digest = "".join(file_digest(one)[:16] for one in files_of_new_labels(path))
        described = descriptions_path(path)
        descriptions = read_descriptions(described, tree) if described.exists() else {}
        texts = [label_text(tree.labels[i], descriptions.get(tree.labels[i], "")) for i in leaves_of(tree)]
        return cls(tree, texts, digest)


def descriptions_path(path: str | Path) -> Path:
    """Where the words of new labels may stand, beside the file of them."""
    return Path(path).with_name(DESCRIPTIONS)


def files_of_new_labels(path: str | Path) -> list[Path]:
    """A file of new labels and, if they are there, the graph and the descriptions beside it."""
    return [*label_files(path), *filter(Path.exists, [descriptions_path(path)])]


def label_text(label: str, description: str = "") -> str:
    """What the encoder reads for a label."""
    return f"{path_text(label)},{description}" if description else path_text(label)


def read_descriptions(path: Path, tree: LabelTree) -> dict[str, str]:
    """{label: description} of lines {"label": path, "description": words}. Raises InputError, which names lines."""
    problems, found = Problems(), dict[str, str]()
    for number, line in read_lines(path, problems):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            label, words = row["label"], row["description"]
            if not isinstance(label, str) or not isinstance(words, str) or not words.strip():
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            problems.add(path, number, 'a line is {"label": "...", "description": "..."}, with words in both')
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

    tree, labels  the known labels, in their order, and the new ones; their full paths
    known         how many the known ones are
    settings      what the new labels' probabilities depend on
    """

    def __init__(self, predictor: Any, encoder: Encoder, new: "NewLabels", curve: Curve, device: str = "cpu"):
        self.predictor, self.encoder, self.new, self.curve, self.device = predictor, encoder, new, curve, device
        self.tree, self.known = new.tree, len(predictor.tree)
        self.tokenizer, self.file = predictor.tokenizer, predictor.file
        self.known_leaves, self.leaves = leaves_of(predictor.tree), leaves_of(new.tree)
        self.places = np.flatnonzero(self.leaves >= self.known)
        column = {leaf: i for i, leaf in enumerate(self.known_leaves.tolist())}
        above = [[column[i] for i in self.tree.ancestors(leaf) if i in column] for leaf in self.leaves[self.places]]
        self.own = np.array([columns[0] if columns else -1 for columns in above], np.int64)
        self.several = {i: columns for i, columns in enumerate(above) if len(columns) > 1}
        self.settings: dict = {"unseen": [new.digest, asdict(curve)]}
        self.vectors: np.ndarray | None = None

    @classmethod
    def read(
        cls,
        predictor: Any,
        path: str | Path,
        encoder: str | Path,
        device: str = "cpu",
        without_paddle: bool = False,
        callers: int | None = None,
    ) -> "WithUnseen":
        """Beside a Predictor, the new labels of a file, see NewLabels.read, and the encoder in a folder.

        without_paddle: the encoder must be an export; callers: threads that call it at once, None: as many as the
        Predictor may use. Raises InputError for what is missing, damaged, or made for another classifier or encoder.
        """
        new = NewLabels.read(path, predictor.tree)
        if not Path(encoder).is_dir():
            raise InputError(f"{encoder}: no such directory. Name the one of retrieval_based/'s encoder.")
        require_file(Path(encoder) / FILE, MADE_BY)  # of a wrong folder it tells more than what else it lacks
        found = Encoder(encoder, batch_size=predictor.batch_size, callers=callers or predictor.cores)
        if without_paddle and not found.onnx:
            raise InputError(
                f"{encoder}: a checkpoint, where an export is needed. Make one with retrieval_based/export_model.py."
            )
        return cls(predictor, found, new, Curve.read(encoder, found.id, predictor.mark), device)

    @property
    def labels(self) -> list[str]:
        return self.tree.labels

    @property
    def version(self) -> str:
        """Tells new labels, their words, the encoder and the Curve from others."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]

    def load(self) -> None:
        """Load both networks, and encode those labels that unseen.npy has no vectors of."""
        if self.vectors is not None:
            return
        tree = self.predictor.tree
        stored = read_vectors(self.encoder.directory, tree, self.curve.vectors)
        self.predictor.load()
        self.encoder.load(self.device)
        there = dict(zip((label_text(tree.labels[i]) for i in leaves_of(tree)), stored))
        added = [text for text in dict.fromkeys(self.new.texts) if text not in there]
        there |= dict(zip(added, self.encoder.encode(added)))
        self.vectors = np.stack([there[text] for text in self.new.texts])

    def predict(
        self, texts: Sequence[str], *, floor: float = FLOOR, certainty: float | None = None, **decision: Any
    ) -> list[Prediction]:
        """As Predictor.predict, whose settings it takes; `unseen` of a Prediction says which of its labels are new."""
        chosen = self.predictor.decision.updated(**decision)
        thresholds_of(chosen, self.predictor.tree)
        require_no_number(chosen)
        return predictions(self, texts, chosen, floor, certainty, self.decide, self.known)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, len(tree)]."""
        return self.begin(texts).result()

    def begin(self, texts: Sequence[str]) -> Begun:
        """`probabilities`, begun, as Predictor.begin."""
        self.load()
        logits, vectors = self.predictor.begin_text_logits(texts), self.encoder.begin(texts)

        def cancel() -> None:
            logits.cancel()
            vectors.cancel()

        return Begun(lambda: self.combine(logits.result(), vectors.result()), cancel)

    def combine(self, logits: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """The probabilities float32 [n, len(tree)] of texts, by the classifier's logits and the encoder's vectors."""
        assert self.vectors is not None
        found = np.zeros((len(logits), len(self.tree)), np.float32)
        similarities, of_leaves = vectors @ self.vectors.T, logits[:, self.known_leaves]
        asked = features(similarities, self.places, of_leaves, self.own, self.several)
        found[:, self.leaves[self.places]] = self.curve.probabilities(asked)
        raise_to_subtree_maximum(found, self.tree)  # new labels above others; known ones are written now
        found[:, : self.known] = probabilities_of(logits, self.predictor.tree, self.predictor.decision)
        return found

    def decide(self, probabilities: np.ndarray, tree: LabelTree, decision: Decision) -> np.ndarray:
        """The known labels as without new ones, and the new ones above their threshold: bool [n, len(tree)].

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

    def predict_file(self, job: Job, decision: Decision) -> None:
        """predictions.predict_file, with the new labels. Raises InputError as that does, and see require_no_number."""
        require_no_number(decision)
        if job.label_path:
            self.require_known_labels(job.label_path)
        job = replace(job, label_path=None)  # which names perhaps the new ones, too
        predict_file(job, self, decision, self.predictor.settings | self.settings, self.decide, self.known)

    def require_known_labels(self, path: Path) -> None:
        """Raise InputError if there is a label.txt, and less the new labels it is not the classifier's."""
        known = self.predictor.tree
        there = LabelTree.read(path) if path.exists() else known
        labels = [label for label in there.labels if label in known.index or label not in self.tree.index]
        further = [line for line in there.graph_lines() if line.split("\t")[0] in known.index]
        if known.labels not in (there.labels, labels) or sorted(further) != sorted(known.graph_lines()):
            require_same_labels(known, path)


def fixed_numbers(decision: Decision) -> list[str]:
    """Which settings of a Decision fix how many labels a text has: their names, and "decoding path"."""
    asked: dict[str, Any] = {"decoding path": decision.decoding == "path", "per_level": decision.per_level}
    asked |= {"top_k": decision.top_k, "max_labels": decision.max_labels}
    return [name for name, value in asked.items() if value]


def require_no_number(decision: Decision, stored: str = "") -> None:
    """Raise InputError for decision settings that fix how many labels a text has: new ones would come on top.

    stored: the file that they come from, where there are no flags for them
    """
    if stored and (named := fixed_numbers(decision)):
        raise InputError(
            f"{stored}: {some(named)} says how many labels a text has, and --unseen gives new ones beside them. Take "
            "that out of the file, or leave --unseen out."
        )
    if named := [f"--{name}" for name in fixed_numbers(decision)]:
        raise InputError(
            f"--unseen: gives new labels beside the known ones, and {some(named)} (stored or given) says how many "
            "a text has. Pass --decoding raw, closure or topdown, and --min_labels 0."
        )
