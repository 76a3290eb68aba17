"""What --long_text is worth: short rows that are buried in long documents, read in each of the ways. Nothing is trained.

    python benchmarks/long_documents.py --model_path export --dataset_dir data --rows 300

Reads   an export or a checkpoint; dataset_dir/dev.txt, of which evenly spread rows are taken

Two kinds of documents are made of the rows. late: 300 to 500 characters about nothing in particular, then the row, then
a sentence or two; its labels are those of the row. several: eight rows, one after the other; its labels are those of
them all, most of which stand late. "alone" is the model on the rows by themselves: the score to reach (of several, what
is predicted for each of the eight, together).

Each way is scored by the stored decision settings, and with one threshold tuned on the documents, by those left out of
the tuning. Windows are joined by the largest logit, as the scripts do, and for comparison by the mean.
"""

import random
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.decisions import probabilities_of
from hierarchical.predictor import Predictor
from metric import decide, dev_cells, evaluate, tuned_decision
from utils import check_minima, load_rows, make_parser, progress_bar, run

ROWS_OF_DOCUMENT = 8
LEAD = 300, 500  # characters before the row
PLAIN = (  # in which nothing happens that a label could be about
    "本栏目每周二和周五更新，欢迎读者来信。", "这条小路两旁种着梧桐，树荫很浓。", "窗外的天色渐渐暗了下来。",
    "老城区的屋顶大多是灰色的瓦片。", "图书馆的开放时间是上午九点到下午五点。", "桌上放着一杯茶，还冒着热气。",
    "河水很浅，可以看见底下的石子。", "编者按：以下内容根据资料整理。", "山里的空气清凉，适合散步。",
    "这种布料柔软，摸上去像棉花。", "院子里有一口井，井边长着青苔。", "他习惯在早晨写字，下午读书。",
    "地图上用蓝色的线表示河流。", "邻居家的猫常常趴在墙头晒太阳。", "稿件请用方格纸抄写清楚。",
    "车站旁边有一家卖面条的小店。", "雨停之后，石板路上留下几处水洼。", "字典按照拼音的顺序排列。",
    "湖面平静，倒映着远处的塔。", "这里的春天来得比别处晚一些。", "木头椅子的颜色已经很旧了。",
    "说明书共有十二页，附有插图。", "傍晚时分，炊烟从屋后升起。", "走廊的尽头是一扇朝南的窗。",
    "书架上的书按照作者排列。", "秋天的时候，满地都是黄色的叶子。", "请将信件投入门口的绿色信箱。",
    "这张照片的背面写着一行小字。", "田埂上开着不知名的小花。", "钟声每隔一小时响一次。",
)  # fmt: skip


def parse_args(argv):
    parser = make_parser("Score the ways to read long texts on rows buried in long documents.")
    parser.add_argument("--model_path", type=Path, required=True, help="an export or a checkpoint")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt")
    parser.add_argument("--rows", type=int, default=300, help="documents of each kind")
    parser.add_argument("--window_stride", type=int, help="of the windows (default: half of one)")
    parser.add_argument("--max_windows", type=int, help="of a document (default: 16)")
    parser.add_argument("--seed", type=int, default=3, help="of what is put together")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=10, window_stride=1, max_windows=1, seed=0)
    return args


def plain_text(chance, least):
    """Sentences without an event, so many characters at least."""
    found = ""
    while len(found) < least:
        found += chance.choice(PLAIN)
    return found


def late(texts, gold, chance):
    """(documents, labels bool [n, L], rows that each is made of): one row each."""
    made = [plain_text(chance, chance.randint(*LEAD)) + text + plain_text(chance, 20) for text in texts]
    return made, gold, [[i] for i in range(len(texts))]


def several(texts, gold, chance):
    """The same with ROWS_OF_DOCUMENT rows each."""
    rows = [chance.sample(range(len(texts)), ROWS_OF_DOCUMENT) for _ in texts]
    return ["".join(texts[i] for i in part) for part in rows], np.array([gold[part].any(0) for part in rows]), rows


def mean_logits(predictor, documents):
    """The mean over a document's windows of each label's logit, float32 [n, L]."""
    rows, owners = predictor.tokenizer.windows.expand(predictor.tokenizer.encode(documents))
    logits = predictor.logits(rows)  # none of them is longer than a window
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    return np.add.reduceat(logits, starts, axis=0) / np.bincount(owners)[:, None]


def show(kind, name, predicted, gold, tree, honest=None, tokens=None):
    scores = evaluate(predicted, gold, tree)
    after = f"  tuned {100 * honest['micro_f1']:6.2f} {100 * honest['macro_f1']:6.2f}" if honest else " " * 21
    read = f"  {tokens:6.1f} tokens a document" if tokens else ""
    print(
        f"{kind:8} {name:14} {100 * scores['micro_f1']:6.2f} {100 * scores['macro_f1']:6.2f}{after}{read}", flush=True
    )


def score(kind, name, logits, gold, predictor, tokens=None):
    tree, decision = predictor.tree, predictor.decision
    probabilities = probabilities_of(logits, tree, decision)
    cells = dev_cells(tree, decision)
    cells.add(probabilities, gold)
    _, honest = tuned_decision(cells.finish(), tree, decision, "global", "macro_f1")
    show(kind, name, decide(probabilities, tree, decision), gold, tree, honest, tokens)


def main(argv=None):
    args = parse_args(argv)
    windows = {"window_stride": args.window_stride, "max_windows": args.max_windows}
    ways = [("cut", {}), ("head_tail", {}), ("windows", {k: v for k, v in windows.items() if v is not None})]
    predictors = {way: Predictor(args.model_path, long_text=way, **more) for way, more in ways}
    cut = predictors["cut"]
    rows = load_rows(args.dataset_dir / "dev.txt", cut.tree)
    chosen = np.linspace(0, len(rows.texts) - 1, args.rows).round().astype(int)
    texts, gold = [rows.texts[i] for i in chosen], rows.multi_hot(len(cut.tree), chosen)
    alone = decide(cut.probabilities(texts), cut.tree, cut.decision)
    print(f"{len(texts)} documents of each kind; {predictors['windows'].tokenizer.windows}")
    print(f"{'':8} {'':14}  micro  macro")
    for make in (late, several):
        documents, labels, parts = make(texts, gold, random.Random(args.seed))
        lengths = cut.tokenizer.lengths(documents)
        print(f"{make.__name__}: {np.mean(lengths):.0f} tokens a document on average, {max(lengths)} at most")
        show(make.__name__, "alone", np.array([alone[part].any(0) for part in parts]), labels, cut.tree)
        for way, predictor in predictors.items():
            tokens = np.mean([len(ids) for ids in predictor.tokenizer.encode(documents)])
            with progress_bar(len(documents), way) as bar:
                score(make.__name__, way, predictor.text_logits(documents, bar.update), labels, predictor, tokens)
        score(make.__name__, "windows, mean", mean_logits(predictor, documents), labels, predictor)


if __name__ == "__main__":
    run(main)
