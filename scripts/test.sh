#!/usr/bin/env bash
# Runs the whole test suite, in one process a core and four at most (each takes about 2 GB of memory).
# Arguments go to pytest: scripts/test.sh -m slow, scripts/test.sh -n 0 tests/render
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment test
exec .venv/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal "$@"
