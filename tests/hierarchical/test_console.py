"""console.py: one log for every script, and native code that says nothing unless it fails."""

import os
import subprocess
import sys

from hierarchical.console import FLAT, IN_LOG, ON_PAGE, cut, get_logger, shown
from tests.conftest import ROOT


def ended(code, **environment):
    """A process that runs `code`."""
    command = [sys.executable, "-c", f"from hierarchical.console import get_logger, progress_bar, quiet\n{code}"]
    env = os.environ | {"PYTHONIOENCODING": "utf-8"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, encoding="utf-8", env=env)


def test_the_logger_writes_to_a_file_as_well(tmp_path):
    code = f"log = get_logger({str(tmp_path / 'a.log')!r})\nlog.info('训练')\nget_logger().warning('完')"
    done = ended(code)
    written = (tmp_path / "a.log").read_text(encoding="utf-8")
    assert done.stderr == written and len(written.splitlines()) == 2 and "[    INFO] - 训练" in written


def test_native_code_is_kept_off_the_terminal_and_heard_when_it_fails():
    code = """
import os
print("before", flush=True)
with quiet():
    os.write(1, b"noise\\n")
    os.write(2, b"more noise\\n")
print("between", flush=True)
try:
    with quiet():
        os.write(1, b"the reason\\n")
        raise ValueError
except ValueError:
    print("after")
"""
    done = ended(code)
    assert (done.returncode, done.stdout) == (0, "before\nbetween\nafter\n")
    assert done.stderr == "the reason\n"


def test_a_bar_shows_on_a_terminal_only():
    done = ended("with progress_bar(3, 'dev') as bar:\n    bar.update(3)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # its stderr is a pipe


def test_a_text_cannot_give_a_terminal_orders():
    assert "一\t二\r\n三\x1b[31m四\x7f\x9b五\u3000六".translate(FLAT) == "一 二  三 [31m四  五\u3000六"


def test_long_texts_are_shown_by_their_beginning():
    assert shown("一\t二\n三\x1b") == "一 二 三 " and cut("一\n二") == "一\n二"
    assert shown("长" * IN_LOG) == "长" * 200
    assert shown("\t" + "长" * 1_000_000) == " " + "长" * 199 + "... (1,000,001 characters)"
    assert cut("长" * ON_PAGE) == "长" * 1000 and cut("长" * 1001) == "长" * 1000 + "... (1,001 characters)"


def test_no_text_gives_the_terminal_orders_by_way_of_the_log(capsys):
    get_logger().warning("a\x1b[31mred\x9b2J\ttab\nline")
    assert "- a [31mred 2J\ttab\nline\n" in capsys.readouterr().err
