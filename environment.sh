# Sourced by quickstart.sh, run_tests.sh and lint.sh: makes .venv once, installs `$1` and the package when what they are
# made from has changed, activates it.
requirements=$1
if [ ! -x .venv/bin/python ]; then
    for python in ${PYTHON:-python3.11 python3.12 python3.10 python3}; do
        if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            "$python" -m venv .venv
            break
        fi
    done
    [ -x .venv/bin/python ] || { echo "error: Python 3.10, 3.11 or 3.12 is needed; name it with PYTHON=..." >&2; exit 2; }
fi
source .venv/bin/activate
# Many containers set this. Each process would then compile all that it imports: to load Paddle took 6 seconds, not 2.
unset PYTHONDONTWRITEBYTECODE
stamp=.venv/installed-$requirements
stated() { cat requirements*.txt */requirements-*.txt deploy/*/requirements.txt pyproject.toml; grep __version__ hierarchical/__init__.py; }
if ! stated | cmp -s - "$stamp"; then
    echo "Installing $requirements into .venv (a few minutes the first time) ..."
    # --use-pep517: the pip that comes with Python 3.10 would build old packages in a way that fails
    # --no-compile: most of what lies there is never imported, and an import compiles by itself
    python -m pip install --quiet --disable-pip-version-check --no-compile --use-pep517 -r "$requirements"
    # Where the code is, not a copy of it: `import hierarchical` then works from any folder.
    python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    stated > "$stamp"
fi
