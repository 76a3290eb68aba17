"""Two rounds of analysis/improve.py with the page worked on by keyboard, as a person would who knows the right labels.

    python benchmarks/review_walk.py --work_dir output/walk --pictures output/pictures
    python benchmarks/review_walk.py --work_dir output/walk --dataset_dir duee --model_name encoder -- --epochs 5

Reads   dataset_dir/{train.txt, dev.txt, label.txt}    of which `--errors` rows get another leaf at random
Writes  work_dir/data                 the data folder with these errors, and what the rounds leave in it
        work_dir/walk.json            what each round cost and found
        pictures/*.png                the page

The time of a person is worked out from what was done: reading at 255 characters a minute (Chinese; Trauzettel-Klosinski
and Dietz 2012), for each answer 1.35 s to decide and 0.28 s a key (Card, Moran and Newell 1980), and the measured time
from the last key to the next row on the screen. A Chinese character that is searched for counts as one key.
"""

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.planting import add_planting_arguments, plant
from utils import SEPARATOR, LabelTree, make_parser, run

READ, DECIDE, KEY = 60 / 255, 1.35, 0.28  # seconds: a character, an answer, a key


def deepest(names):
    return sorted(name for name in names if not any(other.startswith(name + SEPARATOR) for other in names))


def typed(label, names):
    """What is typed to find a label: its own name, and where others have that too, the name of its branch before it."""
    own = label.rpartition(SEPARATOR)[2]
    others = [name for name in names if name != label and own in name.rpartition(SEPARATOR)[2]]
    return f"{label.partition(SEPARATOR)[0]} {own}" if others else own


def answer(page, item, right, names):
    """Answer one row by keyboard; how many keys that took. names: all labels"""
    if item["labels"] is not None and right == set(item["labels"]):
        keys = ["k"]
    elif right == set(item["proposal"]):
        keys = ["p"]
    else:
        page.keyboard.press("c")
        page.wait_for_selector("#chooser[open]")
        undoubted = page.locator("#chosen button").count()
        keys = ["Backspace"] * undoubted
        for label in deepest(right):
            keys += [*typed(label, names), "Enter"]
        for key in keys:
            page.keyboard.press(key) if len(key) > 1 else page.keyboard.insert_text(key)
        page.keyboard.press("Enter")
        return len(keys) + 2
    page.keyboard.press(keys[0])
    return 1


def work(url, truth, names, number, pictures):
    """Answer that many rows in Chromium: {"rows", "keys", "characters", "waits", "errors"}."""
    from playwright.sync_api import sync_playwright

    found = {"rows": 0, "keys": 0, "characters": 0, "waits": [], "errors": 0}
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page, items = browser.new_page(viewport={"width": 1000, "height": 800}, locale="en"), []

        def note(response):
            if response.url.endswith("/api/next"):
                items.append(response.json()["item"])

        page.on("response", note)
        page.goto(url)
        page.wait_for_selector("#row:not([hidden])")
        for count in range(number):
            item = items[-1]
            page.locator("#text", has_text=item["text"]).wait_for()
            if pictures and count == 2:
                take_pictures(page, pictures)
            found["characters"] += len(item["text"]) + sum(map(len, deepest(item["proposal"])))
            found["errors"] += truth[item["text"]] != set(item["labels"])
            before = len(items)
            found["keys"] += answer(page, item, truth[item["text"]], names)
            pressed = time.perf_counter()
            page.wait_for_function("text => document.querySelector('#text').innerText !== text", arg=item["text"])
            found["waits"].append(time.perf_counter() - pressed)
            found["rows"] += 1
            while len(items) == before:
                page.wait_for_timeout(10)
        if pictures:
            page.wait_for_selector("#near[aria-busy=false]")
            page.screenshot(path=pictures / "review-stop.png", clip={"x": 0, "y": 0, "width": 1000, "height": 420})
        page.click("#finish")
        page.locator("#empty", has_text="ended").wait_for()
        browser.close()
    return found


def take_pictures(page, folder):
    page.wait_for_selector("#near[aria-busy=false]")
    page.locator("#text .word").first.wait_for(timeout=60_000)
    page.screenshot(path=folder / "review.png")
    page.keyboard.press("c")
    page.keyboard.insert_text("人事")
    page.screenshot(path=folder / "review-choose.png")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=folder / "review-phone.png")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1000, "height": 800})


def minutes(found):
    """A person's minutes for 100 rows."""
    seconds = found["characters"] * READ + found["rows"] * DECIDE + found["keys"] * KEY + sum(found["waits"])
    return seconds / 60 * 100 / found["rows"]


def one_round(command, truth, names, number, pictures):
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    found = None
    for line in process.stderr:
        print(line, end="", flush=True)
        if address := re.search(r"Open (http://\S+)", line):
            found = work(address[1], truth, names, number, pictures)
    if process.wait():
        sys.exit(f"improve.py ended with exit code {process.returncode}")
    return found


def parse_args(argv):
    parser = make_parser("Two rounds of improve.py, the page worked on by keyboard.")
    parser.add_argument("--params_path", help="checkpoint: the page alone, nothing is trained and compared")
    add_planting_arguments(parser)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the page")
    parser.add_argument("--answers", type=int, default=50, help="in each round")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    truth = plant(args.dataset_dir, args.work_dir / "data", args.errors, args.seed)
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    base = [sys.executable, "analysis/improve.py", "--work_dir", str(args.work_dir / "rounds"), "--port", "0"]
    first = ["--dataset_dir", str(args.work_dir / "data"), "--model_name", args.model_name, "--device", "cpu"]
    skipped = ["--skip", "report", "texts", "retrain", "compare"] if args.params_path else []
    first += ["--params_path", args.params_path] if args.params_path else []
    names, rounds = LabelTree.read(args.dataset_dir / "label.txt").labels, []
    for number in (1, 2):
        flags = [*skipped, *([*first, "--", *args.train_flags] if number == 1 else [])]
        found = one_round([*base, *flags], truth, names, args.answers, args.pictures if number == 1 else None)
        cost, waits = minutes(found), found.pop("waits")
        found |= {"minutes_for_100": cost, "wait_median": statistics.median(waits), "wait_longest": max(waits)}
        if not args.params_path:
            scores = json.loads((args.work_dir / "rounds" / f"scores-{number}.json").read_bytes())
            found["scores"] = scores["comparison"]["scores"]
        rounds.append(found)
        (args.work_dir / "walk.json").write_text(json.dumps(rounds, indent=1), "utf-8")
        print(json.dumps(rounds[-1], indent=1))


if __name__ == "__main__":
    run(main)
