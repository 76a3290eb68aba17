"""Small files of the shapes in which strangers keep labelled texts, all made up here; docs/data.md has the commands.

write(folder)   all of them, under the names that the commands use
COMMANDS        the commands, from the table of docs/data.md
"""

import gzip
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = ["admiration", "joy", "anger", "fear", "neutral"]
CITIES = ["霁城", "东栖", "翎山", "云浦", "南苇", "白泽"]


def commands(page="docs/data.md"):
    """The commands in the first table of a page, as lists of words behind `python convert.py`."""
    import shlex

    table = re.search(r"^\|.*\|\n\| --- .*\n((?:\|.*\n)+)", (ROOT / page).read_text("utf-8"), re.M)[1]
    return [shlex.split(found.replace("\\|", "|")) for found in re.findall(r"`python convert\.py (.*?)`", table)]


def write(folder):
    """Write all files into a folder that exists."""
    for make in (levels, cells, onehot, numbers, names, benchmark, tokens, news, headlines, nested, patents, more):
        make(Path(folder))


def lines(path, *rows, encoding="utf-8"):
    path.write_text("".join(f"{row}\n" for row in rows), encoding=encoding)


def levels(folder):
    """A shop's table: a column for each level, some paths shorter, an ID nobody needs. Other rows have two paths each."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.append(["id", "title", "body", "Cat1", "Cat2", "Cat3"])
    paths = [
        ("Home", "Kitchen", "Pans"),
        ("Home", "Garden", None),
        ("Toys", "Puzzles", "3D  Puzzles "),
        ("Toys", None, None),
    ]
    for i in range(40):
        sheet.append([i, f"Item {i}", f"Bought in {2000 + i}, works well", *paths[i % 4]])
    book.save(folder / "sales.xlsx")
    lines(
        folder / "goods.csv",
        "name,main1,main2,side1,side2",
        *(f'"Thing {i}, new",Home,{["Kitchen", "Garden"][i % 2]},{["Toys", ""][i % 2]},' for i in range(20)),
    )


def cells(folder):
    """Reviews as a Chinese Excel saves them: in GB18030; several labels in a cell, levels joined."""
    tags = ["服务 > 前台;位置", "位置 > 地铁", "房间;服务 > 早餐"]
    rows = (f'"{CITIES[i % 6]}的酒店{i}号店, 位置不错",{tags[i % 3]}' for i in range(30))
    lines(folder / "reviews.csv", "review,tags", *rows, encoding="gb18030")


def onehot(folder):
    """A column of 0 and 1 for each label; rows to which none applies."""
    rows = (f'"well, text {i}",{int(i % 2 == 0)},{int(i % 3 == 0)},{int(i % 5 == 0)}' for i in range(40))
    lines(folder / "onehot.csv", "text,joy,anger,fear", *rows)


def numbers(folder):
    """Comments with class numbers and ids, no header, stray quotes; the names apart, and a tree of them."""
    for name, count in (("train", 40), ("dev", 10)):
        rows = (
            f'"Well {name} {i}, he said\t{",".join(map(str, sorted({i % 5, i * 3 % 4})))}\tid{i}' for i in range(count)
        )
        lines(folder / f"{name}.tsv", *rows)
    lines(folder / "emotions.txt", *EMOTIONS)
    moods = {"positive": ["admiration", "joy"], "negative": ["anger", "fear"], "neutral": []}
    (folder / "moods.json").write_text(json.dumps(moods), encoding="utf-8")


def names(folder):
    """Memes with the names of techniques, which are in a graph where one hangs under two others; some have none."""
    labels = [["Smears"], ["Repetition", "Flag-waving"], []]
    rows = [{"id": str(i), "text": f"MEME {i}\nsecond line", "labels": labels[i % 3], "link": None} for i in range(30)]
    (folder / "memes.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    edges = ["Root\tEthos\tLogos\tPathos", "Ethos\tAd Hominem", "Ad Hominem\tSmears\tDoubt", "Logos\tRepetition"]
    lines(folder / "techniques.txt", *edges, "Pathos\tFlag-waving\tSmears")


def benchmark(folder):
    """A benchmark's intents with a scenario before each, in quotes; train and test apart, no dev."""
    intents = ["card_lost", "card_pin", "transfer_failed", "transfer_fee"]
    for name, count in (("train", 40), ("test", 8)):
        rows = (f'"Please, {name} {i}",{intents[i % 4]}' for i in range(count))
        lines(folder / f"intents_{name}.csv", "text,category", *rows)


def tokens(folder):
    """News cut into tokens, paths joined by --, three parts, the tree as parent and children."""
    paths = [["C--C1--C15"], ["M--M1"], ["C--C2", "M--M1--M11"]]
    for part, count in (("train", 30), ("dev", 6), ("test", 6)):
        rows = (
            {
                "doc_label": paths[i % 3],
                "doc_token": [part, "shares", "rose", str(i)],
                "doc_keyword": [],
                "doc_topic": [],
            }
            for i in range(count)
        )
        lines(folder / f"news_{part}.json", *map(json.dumps, rows))
    lines(folder / "news.taxonomy", "Root\tC\tM", "C\tC1\tC2", "C1\tC15", "M\tM1", "M1\tM11\tM12")


def news(folder):
    """Headlines with the number of a class, one level, the classes from 0 in a file of their own."""
    for part, count in (("train", 30), ("dev", 6)):
        rows = (f"{CITIES[i % 6]}第{i}届{part}运动会开幕\t{i % 3}" for i in range(count))
        lines(folder / f"headlines.{part}.txt", *rows)
    lines(folder / "class.txt", "体育", "财经", "教育")


def headlines(folder):
    """Lines with _!_ between the cells: id, code, name, title, keywords."""
    kinds = [(101, "民生"), (103, "体育"), (104, "财经")]
    rows = (
        f"6551{i}_!_{kinds[i % 3][0]}_!_{kinds[i % 3][1]}_!_{CITIES[i % 6]}头条{i}，速看_!_关键,词" for i in range(30)
    )
    lines(folder / "toutiao.txt", *rows)


def nested(folder):
    """Reviews of hotels with aspects in objects in lists in objects, compressed."""
    aspects = [["ROOM#CLEANLINESS", "LOCATION#GENERAL"], ["SERVICE#GENERAL"], ["ROOM#COMFORT"]]
    rows = (
        {
            "review": {"content": f"Khách sạn {i} rất tốt"},
            "meta": {"aspects": [{"name": name} for name in aspects[i % 3]]},
        }
        for i in range(30)
    )
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "hotels.jsonl.gz").write_bytes(gzip.compress(content.encode("utf-8")))


def patents(folder):
    """Abstracts in Parquet, in two files, with lists of codes; the scheme of the codes as YAML."""
    import pyarrow
    from pyarrow import parquet

    codes = [["A01B", "G06F"], ["A01C"], ["G06F", "G06N"]]
    (folder / "patents").mkdir()
    for part in range(2):
        held = {
            "title": [f"Device {part}-{i}" for i in range(15)],
            "abstract": [f"A device with {i} wheels" for i in range(15)],
            "codes": [codes[i % 3] for i in range(15)],
        }
        parquet.write_table(pyarrow.table(held), folder / "patents" / f"{part}.parquet")
    lines(folder / "scheme.yaml", "A:", "  A01: [A01B, A01C]", "G:", "  G06:", "    - G06F", "    - G06N")


def more(folder):
    """A taxonomy alone; older rows of this project; rows for a second run; texts alone; predictions."""
    lines(
        folder / "google.txt",
        "# Taxonomy of 2021",
        "Animals",
        "Animals > Pet Supplies > Bird Supplies",
        "Arts > Crafts",
    )
    (folder / "old").mkdir()
    rows = (f"{CITIES[i % 6]}旧闻{i}\t天气,天气##{['暴雨', '大风'][i % 2]}" for i in range(20))
    lines(folder / "old" / "rows.txt", *rows, encoding="gb18030")
    (folder / "labels_of_before.txt").write_text("Toys\nHome\nHome##Garden\nHome##Kitchen\n", encoding="utf-8")
    lines(folder / "new.csv", "id,body", *(f"{i},{'' if i == 3 else f'New text {i}'}" for i in range(8)))
    results = (
        {
            "text": f"=Text {i}",
            "labels": ["A", "A##B"],
            "probabilities": {"A": 0.9, "A##B": 0.7, "C": 0.1},
            "levels": {"1": ["A"], "2": ["A##B"]},
        }
        for i in range(4)
    )
    lines(folder / "predictions.jsonl", *map(json.dumps, results))
