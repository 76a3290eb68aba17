"""The data map of a report: rows and texts as points, alike to the model where they are near each other.

    marks = {name: Marks(len(part.texts)) for name, part in rows.items()}       # updated while the rows are scored
    points = map_points(predictor, rows, marks, paths, seen)                    # for report.write_report

The two directions are those in which the model's features vary most: principal components. Where a training has kept
how sure the model was of its rows (train.py --keep_dynamics), these have a second place: by that, see dynamics.py.
"""

import numpy as np

from analysis.features import Features
from hierarchical.dynamics import KINDS
from hierarchical.long_texts import CUT

MOST_POINTS = 2000  # of dev, of train, and of the unlabelled texts
HARDEST = 100  # train rows that are there in any case, if it is known which those are
SIDE = 1000  # coordinates are whole numbers up to this
LONGEST = 100  # characters of a point's text
SPLITS = ("train", "dev", "unlabelled")  # in the order in which they are drawn, and numbered


class Marks:
    """Of each row: whether its predicted labels are wrong, and how surely the model contradicts one of its labels.

    wrong bool [N]; surest float32 [N], the largest distance of a probability from what was given
    """

    def __init__(self, n_rows):
        self.wrong, self.surest = np.zeros(n_rows, bool), np.zeros(n_rows, np.float32)

    def update(self, window, probabilities, predicted, gold):
        """Rows numbered `window`: probabilities float [n, L], predicted and gold bool [n, L]."""
        rows = slice(window.start, window.stop)
        self.wrong[rows] = (predicted != gold).any(1)
        self.surest[rows] = np.abs(gold - probabilities).max(1)


def map_points(predictor, rows, marks, paths, seen=None, seed=3):
    """{points, share, kinds, epochs}, to be shown; kinds: how many train rows were easy, ambiguous and hard, or {}.

    A point is [x, y, number in SPLITS, row number, 1 if wrong, surest in %, class indices, text, length of a text that
    is cut, else 0], and for train rows of which it is known also [confidence, variability in tenths of %, number in
    KINDS].
    rows, paths: name in SPLITS -> Rows, whose texts may be read anew each time, and the file; marks: of dev and train;
    seen: the dynamics.Seen of train, or None. Of more than MOST_POINTS a random draw. share: of the features' variance
    that is in the two directions.
    """
    rng, kinds = np.random.default_rng(seed), seen.kinds() if seen else []
    hardest = np.argsort(seen.confidence, kind="stable")[:HARDEST].tolist() if seen else ()  # unknown ones sort last
    drawn = {}
    for name in (name for name in SPLITS if name in rows):
        numbers = draw(len(rows[name].texts), rng, hardest if name == "train" else ())
        drawn[name] = [(i, text) for i, text in enumerate(rows[name].texts) if i in numbers]
    if "unlabelled" in drawn:
        drawn["unlabelled"] = new_ones(drawn["unlabelled"], {text for name in marks for text in rows[name].texts})
    tokenizer = predictor.tokenizer
    if tokenizer.windows:
        tokenizer = tokenizer.reading(CUT)  # one place for each text: that of its beginning
    directory, bf16 = paths["dev"].parent, predictor.bf16
    kept = Features(predictor, predictor.engine.model, tokenizer, predictor.batch_size, directory, bf16)
    texts = {name: [text for _, text in part] for name, part in drawn.items() if part}
    found = [
        kept.of(part, paths[name] if len(part) == len(rows[name].texts) else part_of(paths[name]), f"data map, {name}")
        for name, part in texts.items()
    ]
    places, share = flattened(np.concatenate(found))
    points = []
    for (x, y), (name, i, text) in zip(places.tolist(), ((name, *one) for name, part in drawn.items() for one in part)):
        wrong, surest, labels = 0, 0, []
        if name in marks:
            wrong, surest = int(marks[name].wrong[i]), round(100 * float(marks[name].surest[i]))
            labels = list(rows[name].labels[i])
        length = len(text) if len(text) > LONGEST else 0
        point = [x, y, SPLITS.index(name), i, wrong, surest, labels, text[:LONGEST], length]
        if name == "train" and kinds and kinds[i]:
            of_training = round(1000 * float(seen.confidence[i])), round(1000 * float(seen.variability[i]))
            point += [*of_training, KINDS.index(kinds[i])]
        points.append(point)
    counts = {kind: kinds.count(kind) for kind in KINDS} if any(kinds) else {}
    return {"points": points, "share": share, "kinds": counts, "epochs": seen.epochs if seen else 0}


def part_of(path):
    """A name for a part of a file's texts, whose features are not to take the place of all of them."""
    return path.with_name(f"map-{path.name}")


def new_ones(numbered, known):
    """Those of [(row number, text)] whose texts are not known; of texts that repeat the first."""
    first = {}
    for i, text in numbered:
        if text not in known:
            first.setdefault(text, i)
    return [(i, text) for text, i in first.items()]


def draw(n_rows, rng, first=()):
    """A set of at most MOST_POINTS row numbers, `first` among them."""
    if n_rows <= MOST_POINTS:
        return set(range(n_rows))
    others = np.setdiff1d(np.arange(n_rows), first)
    return {*first, *rng.choice(others, MOST_POINTS - len(first), replace=False).tolist()}


def flattened(features):
    """(int64 [N, 2] from 0 to SIDE, the share of variance in them) of features float32 [N, H]."""
    from sklearn.decomposition import PCA

    if len(features) < 3 or not np.ptp(features, 0).any():
        return np.full((len(features), 2), SIDE // 2), 1.0
    pca = PCA(2, random_state=0)
    places = pca.fit_transform(features)
    low, high = places.min(0), places.max(0)
    scaled = np.rint(SIDE * (places - low) / np.maximum(high - low, 1e-12)).astype(np.int64)
    return scaled, float(pca.explained_variance_ratio_.sum())
