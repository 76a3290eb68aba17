"""What the page of analysis/review.py shows beside a text: the words that mattered, and the nearest train rows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from analysis.words import word_spans

MOST_WORDS = 60  # that are left out one by one
NEIGHBOURS = 5


class Evidence:
    """Computed when it is asked for, each kind in a thread of its own: models and matrices load while people read.

    predictor: a Predictor, or None where there is no model; train: Rows
    """

    def __init__(self, predictor, train, tree):
        self.predictor, self.train, self.tree = predictor, train, tree
        self.model_thread, self.row_thread = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.rows = self.row_thread.submit(self._features)

    def predict(self, texts):
        """The Predictions of texts; of each None without a model."""
        if self.predictor is None or not texts:
            return [None] * len(texts)
        return self.model_thread.submit(self.predictor.predict, texts).result()

    def words(self, text, towards, against):
        """[(start, end, effect)] of the words of a text, in characters; [] without a model.

        The effect is by how much the logit of `towards` falls without the word, less by how much that of `against`
        does; either may be None.
        """
        return self.model_thread.submit(self._words, text, towards, against).result()

    def neighbours(self, text):
        """[(row number, cosine)] of the train rows with the most n-grams in common, the nearest first."""
        return self.row_thread.submit(self._neighbours, text).result()

    def close(self):
        for thread in (self.model_thread, self.row_thread):
            thread.shutdown(wait=False, cancel_futures=True)

    def _words(self, text, towards, against):
        spans = word_spans(text)[:MOST_WORDS]
        if self.predictor is None or not spans:
            return []
        without = [text[:start] + text[end:] for start, end in spans]
        logits = self.predictor.text_logits([one if one.strip() else "。" for one in (text, *without)])
        columns = np.zeros(len(spans) + 1)
        for label, sign in ((towards, 1), (against, -1)):
            if label is not None:
                columns += sign * logits[:, self.tree.index[label]]
        return [(start, end, float(columns[0] - left)) for (start, end), left in zip(spans, columns[1:])]

    def _features(self):
        from hierarchical.linear_training import feature_matrix
        from hierarchical.n_grams import NGrams

        n_grams = NGrams.of(self.train.texts)
        return n_grams, feature_matrix(n_grams, self.train.texts)

    def _neighbours(self, text):
        from hierarchical.linear_training import feature_matrix

        n_grams, rows = self.rows.result()
        similarity = np.asarray((rows @ feature_matrix(n_grams, [text]).T).todense()).ravel()
        best = np.argsort(-similarity, kind="stable")[: NEIGHBOURS + 1].tolist()
        others = [i for i in best if self.train.texts[i] != text][:NEIGHBOURS]
        return [(i, float(similarity[i])) for i in others]
