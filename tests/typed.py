"""Scripts asked for their --help or --version as if each were typed, but in one process: they all load the same."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

ASK = """
import io, json, os, runpy, sys
from contextlib import redirect_stdout
flag, *scripts = sys.argv[1:]
answers, path = {}, sys.path[1:]
for script in scripts:
    sys.argv, sys.path[:] = [script, flag], [os.path.dirname(script), *path]
    try:
        with redirect_stdout(io.StringIO()) as said:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        answers[script] = said.getvalue(), end.code
print(json.dumps(answers))
"""


def ask(flag, scripts, **environment):
    """script -> [what it says, exit code], of paths from the root; nothing may go to stderr."""
    command = [sys.executable, "-c", ASK, flag, *scripts]
    env = os.environ | {"PYTHONIOENCODING": "utf-8"} | environment
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)
