"""Pictures of a report of analysis/evaluate.py, for the documentation.

    python train.py --dataset_dir data --model_name data/tiny-ernie --device cpu --save_dir checkpoint \\
        --batch_size 16 --learning_rate 1e-3 --warmup_steps 200 --epochs 20 --keep_dynamics
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --device cpu --baseline --data_map \\
        --report report.html
    python benchmarks/report_pictures.py --report report.html --pictures analysis/images

Reads   report
Writes  pictures/report.png      the page down to the data map, or to the lists at its end
        pictures/data-map.png    the data map, by what the training made of its rows, if that is known
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from utils import make_parser, require_file, run

WIDTH, LISTED = 1100, 300  # pixels, and how many of the list of suspects
MAP = 900  # pixels of the map and the rows below it


def take(page, folder):
    """Pictures of a page of Playwright that shows a report."""
    folder.mkdir(parents=True, exist_ok=True)
    has_map = page.locator("#map-place").count()
    end = page.locator("#map" if has_map else "#suspects").bounding_box()["y"] + (0 if has_map else LISTED)
    shoot(page, folder / "report.png", {"x": 0, "y": 0, "width": WIDTH, "height": end})
    if has_map:
        page.select_option("#map-place", "training")
        box = page.locator("#map").bounding_box()
        clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], MAP)}
        shoot(page, folder / "data-map.png", clip)


def shoot(page, path, clip):
    """A part of a page as a picture of 128 colours, a third of the bytes."""
    from PIL import Image

    page.screenshot(path=path, full_page=True, clip=clip)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def parse_args(argv):
    parser = make_parser("Pictures of a report.")
    parser.add_argument("--report", type=Path, required=True, help="what evaluate.py --report wrote")
    parser.add_argument("--pictures", type=Path, required=True, help="folder for them")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    require_file(args.report, "evaluate.py --report writes it.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(args.report.resolve().as_uri())
        take(page, args.pictures)
        browser.close()


if __name__ == "__main__":
    run(main)
