"""What benchmarks share: scripts as they are typed, their time, when a machine is too busy, a network's operations."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hierarchical.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
TUNING = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "FLAGS_")  # settings that each side is to make itself
BUSY = 0.3  # load average above which the machine is not idle


def call(log, script, *arguments):
    """Run one of the toolkit's scripts; its output goes to a log file."""
    with open(log, "a", encoding="utf-8") as file:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise InputError(f"{script} failed; {log} tells why.")


def cpu_seconds(whose=resource.RUSAGE_CHILDREN):
    """Of the processes that were waited for so far, or of this one (resource.RUSAGE_SELF)."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def timed(arguments, python=sys.executable):
    """Run a Python command in the repository's root: {"seconds", "cpu_seconds"}, the latter over all its threads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
    before, began = cpu_seconds(), time.perf_counter()
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds, used = time.perf_counter() - began, cpu_seconds() - before
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed:\n{done.stdout[-2000:].decode(errors='replace')}")
    return {"seconds": seconds, "cpu_seconds": used}


def operations(config, lengths):
    """Operations of all matrix products of an encoder for rows of these lengths, without padding and the head."""
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    inner = config["intermediate_size"]
    tokens = np.asarray(lengths, np.float64)
    linear = 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 2 * 2 * tokens**2 * hidden
    return float(layers * (linear + attention).sum())


def take_turns(sides, ids, repetitions, size):
    """name -> (logits float32 [N, L], seconds); sides: name -> function from lists of token ids to logits.

    All sides have the same `size` texts, one after the other, before they get the next ones, so that whatever else the
    machine does hits all of them; the time is the sum of each turn's best of so many repetitions.
    """
    turns = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]
    best = {name: np.full(len(turns), np.inf) for name in sides}
    outputs = {name: [] for name in sides}
    for turn, rows in enumerate(turns):
        some = [ids[row] for row in rows]
        for repetition in range(repetitions):
            for name, compute in sides.items():
                began = time.perf_counter()
                logits = compute(some)
                best[name][turn] = min(best[name][turn], time.perf_counter() - began)
                if not repetition:
                    outputs[name].append(logits)
    return {name: (np.concatenate(outputs[name]), best[name].sum()) for name in sides}
