"""What recall.py leaves for evaluate.py: text<TAB>label<TAB>similarity, and the settings to score them with."""

import math
from pathlib import Path

from hierarchical.console import ON_PAGE, shown
from hierarchical.errors import InputError, Problems
from hierarchical.files import read_lines, require_file


def settings_directory(path):
    """Where the labels and the decision settings of a result file lie: in a directory named after it."""
    return Path(f"{path}.settings")


def read_retrieved(path, texts, tree):
    """Per text [(class index, similarity), ...] as in the recall file. Raises InputError where the two do not match."""
    require_file(path, "Make it with retrieval_based/recall.py.")
    texts, problems, groups, before = [shown(text, ON_PAGE) for text in texts], Problems(), [], None
    for number, line in read_lines(path, problems):
        text, *rest = line.split("\t")
        try:
            label, similarity = rest
            similarity = float(similarity)
            if not math.isfinite(similarity):
                raise ValueError
        except ValueError:
            problems.add(path, number, "a line is: text<TAB>label<TAB>similarity, a number")
            continue
        if label and label not in tree.index:
            problems.add(path, number, f"unknown label {label!r}; the labels are in {settings_directory(path)}")
            continue
        # A row's labels differ, so the same text with a label again is a second row with this text.
        if text != before or not label or any(known == tree.index[label] for known, _ in groups[-1]):
            before = text
            groups.append([])
            if len(groups) > len(texts) or text != texts[len(groups) - 1]:
                problems.raise_if_any()
                raise InputError(f"{path}:{number}: {text[:20]!r} is not the row in its place; run recall.py again.")
        if label:
            groups[-1].append((tree.index[label], similarity))
    problems.raise_if_any()
    if len(groups) != len(texts):
        raise InputError(f"{path}: has {len(groups)} texts, the rows are {len(texts)}. Run recall.py again.")
    return groups
