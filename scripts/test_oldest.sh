#!/usr/bin/env bash
# Runs the test suite with the oldest version of every dependency that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=".venv-oldest/.installed-$(cksum <pyproject.toml | cut -d ' ' -f 1)"
if [ ! -e "$stamp" ]; then
    "${PYTHON:-python3}" -m venv --clear .venv-oldest
    .venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
    .venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable '.[test]'
    touch "$stamp"
fi
.venv-oldest/bin/uv pip list --python .venv-oldest/bin/python 2>/dev/null | grep -E '^(torch|transformers|numpy|pillow|typer) '
# Old libraries warn about each other: these warnings are errors only with the newest versions.
exec .venv-oldest/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal \
    -W ignore::DeprecationWarning -W ignore::ResourceWarning "$@"
