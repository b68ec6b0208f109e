#!/usr/bin/env bash
# The main job on the embedded model and a picture that ships: prints the answer and the paths of what was drawn.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment ""
# The last prompt token over all layers: where the four layers of the embedded model ground best.
exec .venv/bin/qvl-attn ask qvl_attn/demo/pictures/cats.png "how many cats?" \
    --model demo --query last --layers all "$@"
