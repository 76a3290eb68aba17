"""Character n-grams as features: Chinese needs no word segmentation."""

from typing import Any


def fit_n_grams(texts: list[str]) -> tuple[Any, Any]:
    """(fitted vectorizer, sparse features [N, D]) of texts: TF-IDF of character 1- to 4-grams, of rows of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError:  # no two rows share a character
        return vectorizer, vectorizer.set_params(min_df=1).fit_transform(texts)
