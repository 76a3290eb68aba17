"""The pages that the analysis scripts write: self-contained HTML, from the templates in analysis/templates.

    render("report.html", title=...)         -> str; every value is escaped, so that a text is shown, never executed
    findings = Findings(tree, decision, n)   what the report needs to know of each dev row, window by window
    write_report(path, ...)                  the page of `python analysis/evaluate.py --report report.html`

The pages load nothing: no script, style, font or picture from elsewhere. Charts are SVG whose coordinates are worked
out here; colours follow the reader's light or dark mode.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.comparison import verdicts
from analysis.data_map import MOST_POINTS
from analysis.suspicion import RARE, contradiction
from hierarchical.calibrating import Reliability
from hierarchical.calibration import logits_of
from hierarchical.console import cut
from hierarchical.decisions import decide
from hierarchical.files import atomic_write
from hierarchical.labels import SEPARATOR
from hierarchical.metric import Scores

THRESHOLDS = [0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99]
BINS = 10  # of probabilities, for the reliability chart
SURE = 0.8  # a given label below 1 - SURE, or another one above SURE, is a suspected label error
EXCHANGE = 1.0  # nats: of a model that is very sure, two labels that speak together outdo each one that speaks alone
SHOWN_SUSPECTS, SHOWN_CONFUSIONS = 50, 20
MOST_BYTES = 7_500_000  # of wrong rows in the page
WAYS = (  # to stay below: (of each label so many of the worst, characters of a text); None: all
    *((None, longest) for longest in (None, 1000, 300, 100)),
    *((of_label, 100) for of_label in (1000, 300, 100, 30, 10, 3, 1)),
)
CORRECT, MISSED, EXTRA = range(3)  # labels of a wrong row
SHOWN_TURNED = 100  # rows that are newly right, and newly wrong
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 280, 48, 14, 12, 44  # of a chart, in SVG units


def render(template, **values):
    """A page as HTML text; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # text as it is, not as six characters for each; what HTML would take for a tag is spelt otherwise all the same
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters |= {"percent": lambda share, digits=2: f"{100 * share:.{digits}f}", "leaf": leaf, "cut": cut}
    return environment.get_template(template).render(**values)


def leaf(label):
    """The path above a label's own name, and the name: what the pages show in grey and in black."""
    above, separator, name = label.rpartition(SEPARATOR)
    return above + separator, name


# ---- what is collected while the dev rows are scored -----------------------------------------------------------------


class Findings:
    """Collected from windows of rows, so that memory grows with the wrong rows only, not with rows x labels.

    curve        {threshold: metric.Scores}, one threshold for all labels, decoded as the decision says
    reliability  float64 [3, BINS]: cells, sum of their probabilities, cells that are gold
    calibration  calibrating.Reliability: how far probabilities are from that, by level
    confused     Counter {(missed, predicted): rows}, class indices of one level
    cases        the wrong rows: {row, labels: [{label, probability, gold, predicted}], surest: highest contradiction of
                 a label, gain: of the best change of its labels, see suspicion.contradiction}
    row_counts   int64 [N, 3]: right, wrongly predicted and missed labels of each row
    missed, extra    int64 [L]: the rows in which each label is missing or wrongly predicted
    """

    def __init__(self, tree, decision, n_rows):
        self.tree, self.decision = tree, decision
        chosen = [] if isinstance(decision.threshold, list) else [decision.threshold]
        thresholds = sorted({*THRESHOLDS, *chosen}) if decision.needs_threshold else []
        self.curve = {threshold: Scores(tree) for threshold in thresholds}
        self.reliability, self.calibration = np.zeros((3, BINS)), Reliability(tree)
        self.confused, self.example, self.cases = Counter(), {}, []
        self.row_counts = np.zeros((n_rows, 3), np.int64)
        self.missed, self.extra = np.zeros((2, len(tree)), np.int64)

    def update(self, window, probabilities, predicted, gold):
        """Rows numbered `window`: probabilities float [n, L], predicted and gold bool [n, L]."""
        for threshold, scores in self.curve.items():
            scores.update(decide(probabilities, self.tree, replace(self.decision, threshold=threshold)), gold)
        cells = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
        for sums, weights in zip(self.reliability, (None, probabilities.ravel(), gold.ravel())):
            sums += np.bincount(cells, weights, BINS)
        self.calibration.add(probabilities, gold)
        kinds = predicted & gold, predicted & ~gold, gold & ~predicted
        self.row_counts[window.start : window.stop] = np.stack([kind.sum(1) for kind in kinds], 1)
        self.extra += kinds[1].sum(0)
        self.missed += kinds[2].sum(0)
        wrong = np.flatnonzero((predicted != gold).any(1))
        gains = contradiction(logits_of(probabilities[wrong]), gold[wrong], self.tree, EXCHANGE)
        for i, gain in zip(wrong, gains.tolist()):
            self._add_case(window[i], probabilities[i], predicted[i], gold[i], gain)

    def _add_case(self, row, probabilities, predicted, gold, gain):
        missed, extra = np.flatnonzero(gold & ~predicted), np.flatnonzero(predicted & ~gold)
        for pair in ((m, x) for m in missed for x in extra if self.tree.levels[m] == self.tree.levels[x]):
            self.confused[pair] += 1
            self.example.setdefault(pair, row)
        labels = [
            {"label": self.tree.labels[i], "probability": float(probabilities[i])}
            | {"gold": bool(gold[i]), "predicted": bool(predicted[i])}
            for i in np.flatnonzero(gold | predicted)
        ]
        wrong = [*missed, *extra]
        surest = float(np.abs(gold[wrong] - probabilities[wrong]).max())
        self.cases.append({"row": row, "labels": labels, "surest": surest, "gain": gain})


# ---- charts ----------------------------------------------------------------------------------------------------------


class Chart:
    """Coordinates of an SVG chart; y runs from 0 to 1. The template draws what is in it."""

    def __init__(self, x_name, y_name, x_range, x_ticks, logarithmic=False):
        self.x_name, self.y_name, self.width, self.height = x_name, y_name, WIDTH, HEIGHT
        self.left, self.right, self.top, self.bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        self.scale = np.log10 if logarithmic else float
        self.low, self.high = map(self.scale, x_range)
        self.x_ticks = [(self.x(tick), f"{tick:g}") for tick in x_ticks]
        self.y_ticks = [(self.y(tick), f"{tick:g}") for tick in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        self.lines, self.dots, self.marks = [], [], []

    def x(self, value):
        share = (self.scale(value) - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value):
        return round(self.bottom - value * (self.bottom - self.top), 1)

    def line(self, name, xs, ys, style):
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in zip(xs, ys))
        self.lines.append({"name": name, "points": points, "style": style})

    def dot(self, x, y, title, radius=4.0):
        self.dots.append({"x": self.x(x), "y": self.y(y), "title": title, "radius": radius})

    def mark(self, x, title):
        self.marks.append({"x": self.x(x), "title": title})


def threshold_chart(findings):
    """Precision, recall and F1 against the threshold, with the chosen one; None where thresholds do not count."""
    if not findings.curve:
        return None
    chart = Chart("threshold", "score", (0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1])
    results = {threshold: scores.result() for threshold, scores in findings.curve.items()}
    curves = {"micro_precision": "dashed", "micro_recall": "dotted", "micro_f1": "main", "macro_f1": "mixed"}
    titles = {name: name.replace("_", " ").replace("f1", "F1") for name in curves}
    for name, style in curves.items():
        chart.line(titles[name], results, [result[name] for result in results.values()], style)
    chosen = findings.decision.threshold
    if isinstance(chosen, list):
        chart.mark(float(np.median(chosen)), f"median of the thresholds: {np.median(chosen):.2f}")
    else:
        chart.mark(chosen, f"chosen threshold: {chosen:g}")
        for name in curves:
            chart.dot(chosen, results[chosen][name], f"{titles[name]}: {results[chosen][name]:.3f}")
    return chart


def reliability_chart(findings):
    cells, sums, gold = findings.reliability
    chart = Chart("mean probability", "share that is right", (0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1])
    chart.line("perfect", [0, 1], [0, 1], "guide")
    used = np.flatnonzero(cells)
    mean, share = sums[used] / cells[used], gold[used] / cells[used]
    chart.line("this model", mean, share, "main")
    for x, y, n in zip(mean, share, cells[used]):
        chart.dot(x, y, f"{n:,.0f} cells: mean probability {x:.3f}, right {y:.3f}", 3 + np.log10(n))
    return chart


def support_chart(tree, scores):
    """F1 of each label against its number of train rows; None without train rows, or without a label in dev."""
    if "train" not in scores:
        return None
    points = []
    for label in tree.labels:
        train, dev = (scores[name]["labels"][label] for name in ("train", "dev"))
        if dev["support"]:
            points.append(
                (max(train["support"], 1), dev["f1"], f"{label}: {train['support']} train rows, F1 {dev['f1']:.3f}")
            )
    if not points:
        return None
    points.sort()
    lowest, highest = int(np.log10(points[0][0])), int(np.log10(points[-1][0])) + 1
    ticks = [10**i for i in range(lowest, highest + 1)]
    chart = Chart("train rows", "F1", (ticks[0], ticks[-1]), ticks, logarithmic=True)
    for x, y, title in points:
        chart.dot(x, y, title)
    groups = [group for group in np.array_split(np.array([point[:2] for point in points]), 4) if len(group)]
    means = [(np.exp(np.log(group[:, 0]).mean()), group[:, 1].mean()) for group in groups]
    chart.line("mean of a quarter of the labels", *zip(*means), "main")
    return chart


def length_groups(findings, lengths, limit):
    """Micro F1 of rows of like length (tokens): [{name, f1, rows, right}]; cut rows are a group of their own."""
    lengths, whole = np.asarray(lengths), np.asarray(lengths) <= limit
    groups = []
    if whole.any():
        longest = np.unique(np.quantile(lengths[whole], np.linspace(0, 1, 7)[1:], method="higher"))
        group_of = np.searchsorted(longest, lengths)
        groups = [whole & (group_of == g) for g in range(len(longest))]
    table = []
    for note, rows in (*(("", rows) for rows in groups), (" (cut)", ~whole)):
        if not rows.any():
            continue
        tp, fp, fn = findings.row_counts[rows].sum(0)
        shortest, longest = lengths[rows].min(), lengths[rows].max()
        name = f"{shortest}" if shortest == longest else f"{shortest}–{longest}"
        right = float((findings.row_counts[rows][:, 1:].sum(1) == 0).mean())
        f1 = float(2 * tp / max(2 * tp + fp + fn, 1))
        table.append({"name": name + note, "f1": f1, "rows": int(rows.sum()), "right": right})
    return table


# ---- tables ----------------------------------------------------------------------------------------------------------


def label_table(tree, scores, findings):
    """One dict a label: its scores, train rows, missed and wrong rows, and what it is most often taken for."""
    taken_for = {}
    for (missed, extra), count in findings.confused.most_common():
        taken_for.setdefault(missed, (tree.labels[extra], count))
    table = []
    for i, label in enumerate(tree.labels):
        row = scores["dev"]["labels"][label] | {"label": label, "level": int(tree.levels[i])}
        row |= {"missed": int(findings.missed[i]), "extra": int(findings.extra[i]), "taken_for": taken_for.get(i)}
        row["train"] = scores["train"]["labels"][label]["support"] if "train" in scores else None
        table.append(row)
    return table


def confusion_tables(tree, findings, rows):
    """(within siblings, across branches): [{missed, extra, count, support, text}], the most frequent first."""
    support = Counter(i for labels in rows.labels for i in labels)
    siblings, across = [], []
    for (missed, extra), count in findings.confused.most_common():
        related = set(tree.parents_of(missed)).intersection(tree.parents_of(extra))
        text = rows.texts[findings.example[missed, extra]]
        entry = {"missed": tree.labels[missed], "extra": tree.labels[extra], "count": count}
        (siblings if related else across).append(entry | {"support": support[missed], "text": text})
    return siblings[:SHOWN_CONFUSIONS], across[:SHOWN_CONFUSIONS]


def wrong_rows(findings, rows):
    """What the page holds of the wrong rows: {rows, of_label, longest}; the worst first.

    A row is [its number, its text, [class index, CORRECT, MISSED or EXTRA, probability in %, the next class, ...]]; one
    whose text is cut has the number of its characters besides. of_label, longest: see WAYS
    """
    index = findings.tree.index
    cases = [
        (case["row"], rows.texts[case["row"]], [value for label in case["labels"] for value in _coded(label, index)])
        for case in sorted(findings.cases, key=lambda case: -case["surest"])
    ]
    for of_label, longest in WAYS:
        chosen = [_cut_case(case, longest) for case in _worst_of_each(cases, of_label)]
        if sum(len(text.encode()) + 20 + 9 * len(labels) // 3 for _, text, labels, *_ in chosen) <= MOST_BYTES:
            break
    return {"rows": chosen, "of_label": of_label, "longest": longest}


def _coded(label, index):
    kind = (CORRECT if label["predicted"] else MISSED) if label["gold"] else EXTRA
    return index[label["label"]], kind, round(100 * label["probability"])


def _worst_of_each(cases, of_label):
    """The cases in which some wrong label is among its `of_label` worst; None: all."""
    seen = Counter()
    for case in cases:
        codes = case[2]
        wrong = [codes[i] for i in range(0, len(codes), 3) if codes[i + 1] != CORRECT]
        if of_label is None or any(seen[i] < of_label for i in wrong):
            seen.update(wrong)
            yield case


def _cut_case(case, longest):
    number, text, codes = case
    if longest is None or len(text) <= longest:
        return [number, text, codes]
    return [number, text[:longest], codes, len(text)]


def suspects(findings, checked=frozenset()):
    """The wrong rows of which a label is surely contradicted, each with the labels in question; see `contradiction`.

    checked: numbers of rows whose labels somebody has confirmed
    """
    found = []
    for case in sorted(findings.cases, key=lambda case: -case["gain"]):
        doubted = [
            label
            for label in case["labels"]
            if label["gold"] != label["predicted"] and abs(label["gold"] - label["probability"]) >= SURE
        ]
        if doubted and case["row"] not in checked:
            found.append({"row": case["row"], "labels": sorted(doubted, key=lambda label: not label["gold"])})
    return found[:SHOWN_SUSPECTS]


def by_rarity(found, scores):
    """Suspects as ([those whose doubted labels have train rows enough], [those of a rare label]).

    A model knows little of a label with few train rows, so what it says against one is worth less. Without the scores
    of train all are of the first kind.
    """
    support = {label: row["support"] for label, row in scores["train"]["labels"].items()} if "train" in scores else {}
    rare = [any(support.get(label["label"], RARE) < RARE for label in one["labels"]) for one in found]
    return [one for one, is_rare in zip(found, rare) if not is_rare], [
        one for one, is_rare in zip(found, rare) if is_rare
    ]


def decision_facts(decision):
    """The settings of a decision that are in use, as {name: text}."""
    settings = {name: value for name, value in decision.to_dict().items() if value is not None}
    if not decision.min_labels:
        del settings["min_labels"]
    for name, unused in (("per_level", 0), ("stop", "leaf")):
        if settings[name] == unused:
            del settings[name]
    if decision.calibration:
        settings["calibration"] = decision.calibration.method
    if not decision.needs_threshold:
        del settings["threshold"]
    elif isinstance(decision.threshold, list):
        settings["threshold"] = (
            f"{len(decision.threshold)} of them, {min(decision.threshold):.2f} to {max(decision.threshold):.2f}"
        )
    return settings


def write_report(
    path, tree, tokenizer, rows, scores, findings, facts,
    left_out=None, checked=frozenset(), comparison=None, points=None,
):  # fmt: skip
    """Write the page about the dev rows.

    rows     rows.Rows of dev
    scores   {"dev": result dict of metric.Scores, and "train", "baseline" where there are any}
    facts    {name: what stands at the head of the page}, besides the settings of tokenizer and decision
    left_out the dict of left_out.LeftOut
    checked  numbers of dev rows whose labels somebody has confirmed: they are no suspects
    comparison  the comparison.Comparison with an older model, if there is one
    points   what data_map.map_points gives, if there is to be a map
    """
    siblings, across = confusion_tables(tree, findings, rows)
    common, rare = by_rarity(suspects(findings, checked), scores)
    cells, sums, gold = findings.reliability[:, -1]
    page = render(
        "report.html",
        title="Evaluation report",
        facts=facts | {"max_seq_length": tokenizer.max_seq_length} | decision_facts(findings.decision),
        scores=scores,
        left_out=left_out or {},
        labels=label_table(tree, scores, findings),
        levels=range(1, tree.depth + 1),
        siblings=siblings,
        across=across,
        threshold=threshold_chart(findings),
        reliability=reliability_chart(findings),
        calibration=findings.calibration.result(),
        surest={"cells": int(cells), "mean": sums / cells, "right": gold / cells} if cells else None,
        support=support_chart(tree, scores),
        lengths=length_groups(findings, tokenizer.lengths(rows.texts), tokenizer.max_seq_length),
        rows=rows,
        wrong=wrong_rows(findings, rows),
        n_cases=len(findings.cases),
        suspects=common,
        rare_suspects=rare,
        rare=RARE,
        checked=len(checked),
        comparison=comparison,
        verdicts=verdicts(comparison) if comparison else [],
        shown_turned=SHOWN_TURNED,
        tree_labels=tree.labels,
        sure=SURE,
        points=points,
        most_points=MOST_POINTS,
    )
    with atomic_write(path) as file:
        file.write(page)
