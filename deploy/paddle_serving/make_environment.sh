#!/usr/bin/env bash
# Makes .venv-paddle-serving beside .venv: an environment of about 1 GB for Paddle Serving alone. Installs anew when
# requirements.txt here, what it includes, or this file has changed. Another folder can be named:
# make_environment.sh DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=${1:-$here/../../.venv-paddle-serving}
version=0.9.0  # of 2022, the last

if [ ! -x "$environment/bin/python" ]; then
    for python in ${PYTHON:-"$here/../../.venv/bin/python" python3.11 python3.12 python3.10 python3}; do
        if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            "$python" -m venv "$environment"
            break
        fi
    done
    [ -x "$environment/bin/python" ] || { echo "error: Python 3.10, 3.11 or 3.12 is needed; name it with PYTHON=..." >&2; exit 2; }
fi
python=$environment/bin/python
stamp=$environment/installed
stated() { cat "$here"/../../requirements-{base,paddle,deploy}.txt "$here/requirements.txt" "$here/make_environment.sh"; }
if ! stated | cmp -s - "$stamp"; then
    echo "Installing Paddle Serving into $environment (a minute or two) ..."
    pip() { "$python" -m pip --disable-pip-version-check "$@"; }
    # --no-compile: most of what lies there is never imported, and an import compiles by itself
    # --use-pep517: the pip that comes with Python 3.10 would build old packages in a way that fails
    pip install --quiet --no-compile --use-pep517 -r "$here/requirements.txt"
    # Their own requirements cannot be met by a Python of today, and most of them are for parts that are not used here.
    pip install --quiet --no-compile --no-deps "paddle-serving-server==$version" "paddle-serving-app==$version"
    # The client is declared to be for Python 3.9; what is needed of it is pure Python, so it is unpacked by hand.
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    pip download --quiet --no-deps --python-version 3.9 --only-binary :all: -d "$wheels" "paddle-serving-client==$version"
    "$python" -m zipfile -e "$wheels"/*.whl "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    stated > "$stamp"
fi
