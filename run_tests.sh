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
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q --durations=15 "$@"
