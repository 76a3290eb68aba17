"""What a large table costs: CPU seconds and memory of convert.py, by what the table is kept in.

    python benchmarks/large_tables.py --rows 1000000
    python benchmarks/large_tables.py --rows 100000 --kinds xlsx

Writes  the tables into --work_dir, where they are left; the data folders are removed

The rows have 40 to 160 Chinese characters and one to three of 300 labels, in three levels: columns of levels in CSV,
lists of paths in JSON and Parquet, class numbers in lines with TABs, five cells in Excel. No two texts are alike. Each
command runs alone, on one core.
"""

import csv
import json
import os
import random
import sys
import tempfile
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.tables.giving_back import give_back
from utils import InputError, check_minima, make_parser, run

COMMANDS = {
    "csv": "--input rows.csv --text_column title body --label_columns top middle leaf",
    "jsonl": "--input rows.jsonl",
    "tsv": "--input rows.tsv --text_column 0 --label_column 1 --label_delimiter , --class_names classes.txt",
    "parquet": "--input rows.parquet",
    "xlsx": "--input rows.xlsx --label_delimiter ;",
}
CHARACTERS = "雷电黄色预警生效东栖部分航班延误有乘客在地铁上刷到这条消息股市今天小幅上涨投资者情绪稳定联赛第三轮开打"
PATHS = [(f"大类{i % 10}", f"中类{i % 60}", f"小类{i}") for i in range(300)]


def parse_args(argv):
    parser = make_parser("Measure convert.py on large tables.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table")
    parser.add_argument("--kinds", nargs="+", choices=COMMANDS, default=list(COMMANDS)[:4], help="of tables")
    parser.add_argument("--work_dir", type=Path, default="large_tables", help="directory of the tables")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=100)
    return args


def rows(count):
    """Yield (title, body, numbers of the labels); the same every time."""
    draw = random.Random(0)
    parts = ["".join(draw.choices(CHARACTERS, k=draw.randint(20, 80))) for _ in range(5000)]
    for i in range(count):
        yield f"{draw.choice(parts)}{i}", draw.choice(parts), draw.sample(range(len(PATHS)), 1 + i % 3)


def write_tables(folder, count, kinds):
    """Write the tables, in all kinds that are cheap, and in the others that are asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join("##".join(path) + "\n" for path in PATHS), encoding="utf-8")
    with open(folder / "rows.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["title", "body", "top", "middle", "leaf"])
        writer.writerows([title, body, *PATHS[labels[0]]] for title, body, labels in rows(count))
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as table:
        for title, body, labels in rows(count):
            row = {"text": title + body, "labels": ["##".join(PATHS[i]) for i in labels]}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(folder / "rows.tsv", "w", encoding="utf-8") as table:
        table.writelines(f"{title} {body}\t{','.join(map(str, labels))}\n" for title, body, labels in rows(count))
    for kind in set(kinds) & {"parquet", "xlsx"}:
        give_back(folder / "rows.jsonl", kind, folder, True)


def measured(folder, command):
    """(CPU seconds, MB of memory at most) of convert.py with these arguments, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as data, tempfile.TemporaryFile() as said:
        arguments = [sys.executable, ROOT / "convert.py", *command.split(), "--save_dir", Path(data, "data").resolve()]
        process = os.posix_spawn(
            sys.executable,
            list(map(str, arguments)),
            os.environ | {"OMP_NUM_THREADS": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), descriptor) for descriptor in (1, 2)],
        )
        _, status, used = os.wait4(process, 0)
        if status:
            said.seek(0)
            raise InputError(f"convert.py {command} failed:\n{said.read()[-2000:].decode(errors='replace')}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main(argv=None):
    args = parse_args(argv)
    write_tables(args.work_dir, args.rows, args.kinds)
    os.chdir(args.work_dir)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(islice(os.sched_getaffinity(0), 1)))
    print(f"{args.rows:,} rows\n{'':<10}{'file, MB':>10}{'CPU s':>10}{'memory, MB':>12}")
    for kind in args.kinds:
        seconds, memory = measured(Path("."), COMMANDS[kind])
        print(f"{kind:<10}{os.path.getsize(f'rows.{kind}') / 1e6:>10,.0f}{seconds:>10.1f}{memory:>12,.0f}", flush=True)


if __name__ == "__main__":
    run(main)
