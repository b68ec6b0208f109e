# Sourced by the other scripts: creates .venv once and installs the package with the versions in constraints.txt.
# usage: setup_environment EXTRA        (EXTRA: "", "test" or "dev")

setup_environment() {
    local extra="$1" python="${PYTHON:-python3}"
    "$python" - <<'CHECK' || return 1
import sys
if sys.version_info < (3, 11):
    sys.exit("qvl-attn needs Python 3.11 or later, this is %s; set PYTHON=/path/to/python3.11" % sys.version.split()[0])
CHECK
    local stamp
    stamp=".venv/.installed-${extra:-base}-$(cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)"
    if [ ! -e "$stamp" ]; then
        [ -x .venv/bin/python ] || "$python" -m venv .venv || return 1
        echo "installing into .venv (a few GB with torch; some minutes the first time)" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable ".${extra:+[$extra]}" || return 1
        touch "$stamp"
    fi
}
