#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them all; further arguments go to pytest: -m "not slow", tests/test_metric.py
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh requirements-test.txt
python -m pip check
# Beside the environment's packages, where pip check does not look: one of these asks for PyTorch.
encoders=.venv/encoders list=requirements-encoders.txt
if ! cmp -s "$list" "$encoders/$list"; then
    python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --upgrade --target "$encoders" -r "$list"
    cp "$list" "$encoders"
fi
export PYTHONPATH="$PWD/$encoders${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # two test processes, one thread each
# A test process that dies ends the run: what a new one would be given, pytest-xdist can wait for without end.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -q --durations=15 "$@"
