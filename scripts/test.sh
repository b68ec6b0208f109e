#!/usr/bin/env bash
# Runs the whole test suite. Arguments go to pytest: scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment test
exec .venv/bin/python -m pytest "$@"
