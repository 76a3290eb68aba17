"""How many of the first suspects of a report are planted errors: of analysis/evaluate.py --report, on the dev rows.

    python benchmarks/report_suspects.py --dataset_dir duee --params_path checkpoint

Of `--draws` draws of `--errors` dev rows with an error, for each kind of error: the share of wrong rows among the first
`--looked_at` suspects, rare labels not apart, and, for comparison, of the same suspects by their surest label alone.
"""

import random
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from analysis import report
from benchmarks.planting import ERROR_KINDS, wrong_labels
from hierarchical.predictor import Predictor
from metric import decide
from utils import InputError, Rows, check_minima, load_rows, make_parser, run


def suspects_of(rows, probabilities, tree, decision):
    """(row numbers of the report's suspects, the same by their surest label), of all dev rows."""
    gold, predicted = rows.multi_hot(len(tree)), decide(probabilities, tree, decision)
    findings = report.Findings(tree, decision, len(gold))
    findings.update(range(len(gold)), probabilities, predicted, gold)
    surest = {case["row"]: case["surest"] for case in findings.cases}
    found = [one["row"] for one in report.suspects(findings)]
    return found, sorted(found, key=lambda row: -surest[row])


def parse_args(argv):
    parser = make_parser("Planted errors among the suspects of a report.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--params_path", required=True, help="checkpoint that was trained without these rows")
    parser.add_argument("--errors", type=int, default=60, help="dev rows that get a wrong label")
    parser.add_argument("--draws", type=int, default=5, help="of the errors")
    parser.add_argument("--looked_at", type=int, default=30, help="suspects")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    args = parser.parse_args(argv)
    check_minima(parser, args, errors=1, draws=1, looked_at=1)
    return args


def main(argv=None):
    args = parse_args(argv)
    report.SHOWN_SUSPECTS = sys.maxsize
    predictor = Predictor(args.params_path, kind="checkpoint", device=args.device)
    predictor.load()
    tree, rows = predictor.tree, load_rows(args.dataset_dir / "dev.txt", predictor.tree, unlabelled="skip")
    if args.errors > len(rows.texts):
        raise InputError(f"--errors {args.errors}: there are {len(rows.texts)} labelled dev rows.")
    probabilities = predictor.probabilities(rows.texts)
    for kind in ERROR_KINDS:
        shares = []
        for seed in range(args.draws):
            rng = random.Random(seed)
            wrong = np.zeros(len(rows.texts), bool)
            wrong[rng.sample(range(len(wrong)), args.errors)] = True
            labels = [
                wrong_labels(tree, own, kind, rng) if is_wrong else own for own, is_wrong in zip(rows.labels, wrong)
            ]
            planted = Rows(rows.texts, labels, 0, 0)
            orders = suspects_of(planted, probabilities, tree, predictor.decision)
            shares.append([100 * wrong[order[: args.looked_at]].mean() for order in orders])
        now, before = np.mean(shares, 0)
        low, high = np.min(shares, 0)[0], np.max(shares, 0)[0]
        print(f"{kind}: {now:.1f} % ({low:.0f} to {high:.0f}); by the surest label {before:.1f} %", flush=True)


if __name__ == "__main__":
    run(main)
