"""What benchmarks share: a command's time, and when a machine is too busy to measure on."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from hierarchical.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
TUNING = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "FLAGS_")  # settings that each side is to make itself
BUSY = 0.3  # load average above which the machine is not idle


def timed(arguments, python=sys.executable):
    """Run a Python command in the repository's root: {"seconds", "cpu_seconds"}, the latter over all its threads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed:\n{done.stdout[-2000:].decode(errors='replace')}")
    return {"seconds": seconds, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
