"""n_grams.py against scikit-learn and by hand: what a text is cut into, vocabularies, TF-IDF, look-up."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from hierarchical import n_grams as module
from hierarchical.n_grams import NGrams, codes_of, hashed, normalised
from tests.conftest import SAMPLE
from utils import LabelTree, load_rows


@pytest.fixture(scope="module")
def texts():
    rows = load_rows(SAMPLE / "train.txt", LabelTree.read(SAMPLE / "label.txt"))
    return [*rows.texts[:300], "It's  ROOM\n\t42", "b", "a a a aa aaaa"]


def dense(n_grams, texts):
    rows, numbers, values = n_grams.features([codes_of(text) for text in texts])
    return csr_matrix((values, (rows, numbers)), (len(texts), len(n_grams))).toarray()


def test_what_a_text_is_cut_into():
    assert normalised("A  b\n\nC") == ("a b c", [0, 1, 3, 4, 6])
    assert normalised("\0国\u3000\u3000足") == (" 国 足", [0, 1, 2, 4])
    assert normalised("") == ("", [])
    assert len(normalised("İstanbul")[0]) == 8  # whose first small letter would be two
    assert codes_of("国A").tolist() == [ord("国"), ord("a")]
    assert codes_of("\ud800").tolist() == [0xD800]  # half a character, as broken JSON brings it


def test_n_grams_of_two_texts():
    bits, rows = hashed([codes_of("aba"), codes_of(""), codes_of("ab")])
    # a b a a b | ab ba ab | aba
    assert rows.tolist() == [0, 0, 0, 2, 2, 0, 0, 2, 0]
    assert len(np.unique(bits)) == 5
    assert bits[0] == bits[2] == bits[3] and bits[5] == bits[7]
    assert [part.tolist() for part in hashed([])] == [[], []] == [part.tolist() for part in hashed([codes_of("")])]


def test_equal_to_scikit_learn(texts):
    from sklearn.feature_extraction.text import TfidfVectorizer

    theirs = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    train, others = texts[:200], texts[200:]
    expected = theirs.fit_transform(train).toarray()
    n_grams = NGrams.of(iter(train))
    assert len(n_grams) == len(theirs.vocabulary_)
    # in another order: each of theirs is looked up
    names = theirs.get_feature_names_out()
    bits = np.array([hashed([codes_of(name)])[0][-1] for name in names])
    places, numbers = n_grams.find(bits)
    assert len(places) == len(bits) and sorted(numbers) == list(range(len(bits)))
    np.testing.assert_allclose(dense(n_grams, train)[:, numbers], expected, atol=1e-6)
    np.testing.assert_allclose(dense(n_grams, others)[:, numbers], theirs.transform(others).toarray(), atol=1e-6)


def test_a_text_does_not_depend_on_its_batch(texts):
    n_grams = NGrams.of(texts)
    together = dense(n_grams, texts)
    assert np.array_equal(together, np.concatenate([dense(n_grams, [text]) for text in texts]))
    assert np.array_equal(together, dense(n_grams, texts[::-1])[::-1])


def test_vocabularies_do_not_depend_on_chunks(texts, monkeypatch):
    whole = NGrams.of(texts)
    monkeypatch.setattr(module, "CHUNK", 7)
    parts = NGrams.of(texts)
    assert np.array_equal(whole.bits, parts.bits) and np.array_equal(whole.idf, parts.idf)
    monkeypatch.setattr(module, "HELD", 500)  # those that came once are forgotten now and then
    fewer = NGrams.of(texts)
    assert set(fewer.bits) < set(whole.bits) and len(fewer) > len(whole) / 5
    common = NGrams.of(texts, most=10)
    assert len(common) == 10 and set(common.bits) < set(whole.bits) and common.idf.max() <= np.sort(whole.idf)[9]
    assert (np.diff(common.bits.astype(float)) > 0).all()


def test_counting_grows_with_the_texts(monkeypatch):
    """Four times the texts, each with n-grams of its own: what is merged does not grow sixteenfold."""
    merged, real = [], module._merged
    monkeypatch.setattr(
        module, "_merged", lambda *parts: merged.append(sum(len(one[0]) for one in parts)) or real(*parts)
    )
    monkeypatch.setattr(module, "CHUNK", 4)
    texts, sums = ["".join(map(chr, range(0x4E00 + 8 * i, 0x4E08 + 8 * i))) for i in range(1024)], []
    for n_texts in (256, 1024):
        merged.clear()
        assert len(NGrams.of(texts[:n_texts])) == n_texts * (8 + 7 + 6 + 5)
        sums.append(sum(merged))
    assert sums[1] < 6 * sums[0]


def test_n_grams_of_one_text_alone():
    n_grams = NGrams.of(["甲", "乙"])  # no two share any
    assert dense(n_grams, ["甲", "丙", ""]).sum(1).tolist() == [1, 0, 0]
    np.testing.assert_allclose(n_grams.idf, np.log(3 / 2) + 1)
    empty = NGrams.of([])
    assert len(empty) == 0 and dense(empty, ["甲"]).shape == (1, 0)


def test_two_n_grams_with_the_same_bits_count_as_one(monkeypatch):
    """What a collision would do: made likely here, by bits of which 60 are forgotten."""
    real = hashed

    def colliding(codes):
        bits, rows = real(codes)
        return bits & np.uint64(15), rows

    monkeypatch.setattr(module, "hashed", colliding)
    texts = ["国足今晚出战", "两市小幅收涨", "国足出战"]
    n_grams = NGrams.of(texts)
    assert 0 < len(n_grams) <= 16
    values = dense(n_grams, texts)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(np.square(values).sum(1), 1)


def test_find_is_a_binary_search():
    rng = np.random.default_rng(0)
    bits = np.unique(rng.integers(0, 2**63, 5000, np.uint64) * np.uint64(2))
    bits[-1] = ~np.uint64(0)  # the highest there is
    n_grams = NGrams(bits, np.ones(len(bits), np.float32))
    asked = np.concatenate([bits, bits + np.uint64(1), bits - np.uint64(1), np.array([0, 1], np.uint64)])
    places, numbers = n_grams.find(asked)
    known = np.isin(asked, bits)
    assert np.array_equal(places, np.flatnonzero(known)) and known.sum() == 5000
    assert np.array_equal(bits[numbers], asked[places])
