#!/usr/bin/env bash
# Asks the embedded model about a shipped picture: prints the answer and the paths of the drawn files.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment ""
# The last prompt token over all layers has the best grounding with the four layers of the embedded model.
exec .venv/bin/qvl-attn ask qvl_attn/demo/pictures/cats.png "how many cats?" \
    --model demo --query last --layers all "$@"
