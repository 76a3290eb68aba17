#!/usr/bin/env bash
# Form, likely mistakes and types, as CI and pre-commit check them. Changes no file: `ruff format . && ruff check --fix .`
# mends most of what the first two find. The settings are in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh requirements-test.txt
failed=0
ruff format --check . || failed=1
ruff check . || failed=1
mypy || failed=1
exit "$failed"
