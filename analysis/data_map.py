"""The data map of a report: dev and train rows as points, alike to the model where they are near each other.

    marks = {name: Marks(len(part.texts)) for name, part in rows.items()}       # updated while the rows are scored
    points = map_points(predictor, rows, marks, paths)                          # for report.write_report

The two directions are those in which the model's features vary most: principal components.
"""

from itertools import chain

import numpy as np

from analysis.features import Features
from hierarchical.long_texts import CUT

MOST_POINTS = 2000  # of dev, and of train
SIDE = 1000  # coordinates are whole numbers up to this
LONGEST = 100  # characters of a point's text
SPLITS = ("train", "dev")  # in the order in which they are drawn


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


def map_points(predictor, rows, marks, paths, seed=3):
    """{points, share}; a point is [x, y, 1 for dev, row number, 1 if wrong, surest in %, class indices, text, length].

    rows, marks, paths: name -> Rows, Marks, and the file. Of more than MOST_POINTS a random draw. share: of the
    features' variance that is in the two directions. Length is there only where the text is cut.
    """
    rng = np.random.default_rng(seed)
    drawn = {name: draw(len(rows[name].texts), rng) for name in SPLITS if name in rows}
    tokenizer = predictor.tokenizer
    if tokenizer.windows:
        tokenizer = tokenizer.reading(CUT)  # one place for each text: that of its beginning
    kept = Features(predictor, predictor.engine.model, tokenizer, predictor.batch_size, paths["dev"].parent)
    texts = {name: [rows[name].texts[i] for i in numbers] for name, numbers in drawn.items()}
    found = [kept.of(part, paths[name], f"data map, {name}") for name, part in texts.items()]
    places, share = flattened(np.concatenate(found))
    points = []
    numbered = [(name, i) for name, numbers in drawn.items() for i in numbers]
    for (x, y), (name, i), text in zip(places.tolist(), numbered, chain.from_iterable(texts.values())):
        mark, labels = marks[name], list(rows[name].labels[i])
        about = [SPLITS.index(name), i, int(mark.wrong[i]), round(100 * float(mark.surest[i])), labels, text[:LONGEST]]
        points.append([x, y, *about, *([len(text)] if len(text) > LONGEST else [])])
    return {"points": points, "share": share}


def draw(n_rows, rng):
    return sorted(rng.choice(n_rows, min(n_rows, MOST_POINTS), replace=False).tolist())


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
