"""A worked example of a report: five rows, what a model says of them, what is found by that, and the page as parsed.

A page is parsed with html.parser: what a browser would run or load shows as a tag, not as text.
"""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np

from analysis.report import Findings, write_report
from metric import Decision, Scores, decide
from utils import LabelTree, Rows

TREE = LabelTree(["甲", "甲##子", "甲##丑", "乙", "乙##子"])
GOLD = [(0, 1), (0, 1), (0, 1), (3, 4), (3,)]
TEXTS = ["一行", "二行二行", "三行", "四行四行四行", "五行"]
PROBABILITIES = np.array(
    [
        [0.95, 0.95, 0.05, 0.02, 0.02],  # right
        [0.93, 0.12, 0.97, 0.02, 0.02],  # 甲##丑 for 甲##子: siblings
        [0.72, 0.42, 0.62, 0.02, 0.02],  # the same, less sure
        [0.02, 0.55, 0.02, 0.82, 0.32],  # 甲##子 for 乙##子: across branches
        [0.02, 0.02, 0.02, 0.03, 0.02],  # nothing
    ],
    np.float32,
)
ROWS = Rows(TEXTS, GOLD, 0, 0)
TOKENIZER = SimpleNamespace(max_seq_length=6, lengths=lambda texts: [len(text) + 2 for text in texts])


def found(
    decision=Decision(), probabilities=PROBABILITIES, rows=ROWS, tree=TREE, windows=(slice(0, 2), slice(2, None))
):
    """(scores, Findings) of the rows, given in windows."""
    gold, selected = rows.multi_hot(len(tree)), decide(probabilities, tree, decision)
    findings, scores = Findings(tree, decision, len(gold)), Scores(tree)
    scores.update(selected, gold)
    for window in windows:
        numbers = range(*window.indices(len(gold)))
        findings.update(numbers, probabilities[window], selected[window], gold[window])
    return {"dev": scores.result()}, findings


class Page(HTMLParser):
    """The tags of a page with their attributes, the text outside of <style> and <script>, and what a script reads."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.inside, self.data = [], "", [], {}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass  # a tag without an end, such as <meta>

    def handle_data(self, data):
        if not {"style", "script"} & {*self.inside}:
            self.text += data
        elif self.tags[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data = json.loads(data)


def write(path, scores, findings, rows=ROWS, tree=TREE, **facts):
    write_report(path, tree, TOKENIZER, rows, scores, findings, facts)
    return Page(path.read_text(encoding="utf-8"))
