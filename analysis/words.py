"""Chinese words: the segmenter, and dictionaries of words that may stand for each other.

    load_dictionary("synonym", None)          {word: [another word, ...]}, from CC-CEDICT
    load_dictionary("synonym", "same.json")   the same, from {"word": ["another word", ...], ...}, a file of one's own

CC-CEDICT is a Chinese-English dictionary that the package lindera-python-cc-cedict brings along: synonyms share an
English meaning, homonyms the pinyin without tones.
"""

import json
import logging
import math
import re
import warnings
from collections import Counter, defaultdict
from pathlib import Path

from hierarchical.errors import InputError, Problems
from hierarchical.files import require_file

FREQUENT = 20  # a replacement must be at least so frequent in jieba's word list
SHARED_MEANING = 0.35  # cosine of two words' meanings from which they are synonyms
PINYIN, MEANINGS = 4, 7  # columns of an entry: the pinyin, and the first part of the meanings, which hold commas
VAGUE = 12  # a meaning that more words share tells nothing
UNWRITABLE = re.compile("[\t\r\n\ud800-\udfff]")  # breaks a row; half of a surrogate pair, the whole file
CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
NOT_PLAIN = re.compile(r"(see |variant|old variant|surname|cl:|abbr|used in|also |pr\.|fig\.|lit\.|coll|idiom)")


def load_jieba():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own use of pkg_resources
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return jieba


def word_spans(text):
    """(start, end) of each word: by jieba in Chinese text, else what stands between blanks."""
    if not CHINESE.search(text):
        return [match.span() for match in re.finditer(r"\S+", text)]
    return [(start, end) for word, start, end in load_jieba().tokenize(text) if word.strip()]


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
        if not isinstance(others, list) or not all(map(is_usable, others)):
            shown = json.dumps(others, ensure_ascii=False)[:60]
            problems.add(path, None, f"{word!r} must have a list of words, without TABs or line ends, not {shown}")
    problems.raise_if_any()
    found = {word: [other for other in dict.fromkeys(others) if other != word] for word, others in entries.items()}
    if not any(found.values()):
        raise InputError(f"{path}: no word in it has another one.")
    return {word: others for word, others in found.items() if others}


def is_usable(other):
    return isinstance(other, str) and bool(other.strip()) and not UNWRITABLE.search(other)


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
        if len(tokens) == 1 and len(tokens[0].details) > MEANINGS:
            details = tokens[0].details
            pinyin = re.sub(r"[\d\s]", "", details[PINYIN].lower())
            meanings = re.split("[/;]", re.sub(r"\([^)]*\)", "", ",".join(details[MEANINGS:])).lower())
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
    """{word: list of other words}: the file's, if `path` is one, else of "synonym" or "homonym". Raises InputError."""
    return read_dictionary(path) if path else synonyms() if aug_type == "synonym" else homonyms()
