"""deploy/simple_serving/page.html in a browser: many texts, links, the threshold, keys, dark mode, a phone."""

import csv
import io

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
from tests.deploy.simple_serving.conftest import wait_until  # isort: skip

pytestmark = pytest.mark.slow
TEXT = "国足今晚出战"


@pytest.fixture
def open_page(chromium):
    """open_page(url, **how): a page whose faults end the test."""
    faults = []

    def open_page(url, width=1280, **how):
        page = chromium.new_page(viewport={"width": width, "height": 800}, locale="en", **how)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.goto(url)
        page.locator("#model", has_text="labels").wait_for()  # its policy forbids wait_for_function
        return page

    yield open_page
    assert faults == []


def test_many_texts(shared, client, open_page, tmp_path):
    """Lines that are pasted, and a CSV file of any column and encoding; five texts at most go in a request."""
    page = open_page(shared.url, width=390)
    lines = [TEXT, "", "央行下调利率", '他说"好", 然后', "<b>x</b>", "两市小幅收涨", "门将扑出点球"]
    results = [client.post("/v1/classify", json={"texts": text}).json()["results"][0] for text in lines]
    page.fill("#text", "\n".join(lines))
    assert not page.is_checked("#each")  # a text may have several lines
    page.check("#each")
    page.click("#send")
    page.locator("#told", has_text="7 of 7 texts").wait_for()
    assert page.locator("#rows tr").count() == 7 and page.locator("#rows b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as download:
        page.click("#download")
    content = download.value.path().read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")  # so that spreadsheets read it as UTF-8
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [(row["text"], row["labels"]) for row in rows] == [(row["text"], ",".join(row["labels"])) for row in results]

    written = io.StringIO()
    csv.writer(written).writerows([["id", "text"], *([i, text] for i, text in enumerate(lines))])
    (tmp_path / "rows.csv").write_bytes(written.getvalue().encode("gb18030"))
    page.set_input_files("#file", tmp_path / "rows.csv")
    page.locator("#columns").wait_for()  # it shows when the file has been read
    assert page.input_value("#column") == "1"  # the one that is called text
    page.click("#send")
    page.locator("#told", has_text="7 of 7 texts").wait_for()
    assert page.locator("#rows td:first-child").all_inner_texts() == lines


def test_a_link_and_the_way_back(shared, client, open_page):
    page = open_page(shared.url)
    page.fill("#text", " \n")
    page.click("#send")
    page.locator("#error", has_text="blank").wait_for()
    page.fill("#text", TEXT)
    page.locator("#threshold").fill("0.98")
    assert page.inner_text("#shown") == "0.98"
    page.click("#send")
    page.wait_for_selector("#words span[style]", timeout=30_000)
    few = page.locator(".node.predicted").count()
    page.click("#link")
    other = open_page(page.url)  # it asks by itself
    other.wait_for_selector("#words span[style]", timeout=30_000)
    assert other.input_value("#text") == TEXT and other.inner_text("#shown") == "0.98"
    assert other.locator(".node.predicted").count() == few
    other.click("#stored")
    assert other.inner_text("#shown") == "as stored" and other.is_hidden("#stored")
    other.click("#send")
    labels = client.post("/v1/classify", json={"texts": TEXT}).json()["results"][0]["labels"]
    wait_until(lambda: other.locator(".node.predicted").count() == len(labels))
    assert len(labels) != few


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keyboard_dark_mode_and_numbers_in_one_line(shared, open_page, scheme):
    page = open_page(shared.url, width=390, color_scheme=scheme)
    page.fill("#text", TEXT)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#words span[style]", timeout=30_000)
    page.locator(".node").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.node')[1]")
    page.keyboard.press("Enter")
    assert page.locator(".node").nth(1).get_attribute("class").endswith("chosen")
    page.wait_for_selector("#words span[style]", timeout=30_000)
    heights = page.evaluate(
        "[...document.querySelectorAll('.number')].map(n => n.getClientRects().length && n.offsetHeight)"
    )
    assert max(heights) < 30
    colour, back = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    brightness = [sum(map(int, value[4:-1].split(","))) for value in (colour, back)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark") and abs(brightness[0] - brightness[1]) > 400


def test_models_and_keys(start, tiny_export, plain_export, open_page):
    one = start("--model_path", tiny_export, "--model", f"other={plain_export}")
    page = open_page(one.url)
    page.wait_for_selector("#choice")
    assert page.locator("#which option").all_inner_texts() == ["default", "other"]
    page.select_option("#which", "other")
    page.fill("#text", TEXT)
    with page.expect_request("**/v1/classify") as asked:
        page.click("#send")
    assert asked.value.post_data_json == {"texts": [TEXT], "model": "other"}
    page.wait_for_selector("#words span[style]", timeout=30_000)
