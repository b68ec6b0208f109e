"""Puts the figures of `docs/figures` into the READMEs, where their comments name them.

    python scripts/benchmarks/readme.py

`2.9<!-- many.one picture -->`: the number before the comment is `one picture` of the figures in `many.json`. After a
line `<!-- table attention.ways -->` stands a table whose rows are those of `ways` in `attention.json`; its heading is
free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from measuring import FIGURES

READMES = [FIGURES.parents[1] / name for name in ("README.md", "README.zh-CN.md")]
FIGURE = re.compile(r"[\d.,]+(?=<!-- (\w+)\.([^<>]+) -->)")
TABLE = re.compile(r"(<!-- table (\w+)\.(\w[\w ]*) -->\n\|[^\n]*\n\|[-|]+\n)(?:\|[^\n]*\n)*")


def kept_figures() -> dict[str, Any]:
    """Return what each benchmark kept, by the name of its file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIGURES.glob("*.json"))}


def filled(text: str, kept: Mapping[str, Any]) -> str:
    """Return a document with the figures that were kept.

    Raises:
        KeyError: the document names a figure that was not kept.
    """

    def figure(match: re.Match[str]) -> str:
        value = kept[match[1]]["figures"][match[2]]
        return value if isinstance(value, str) else f"{value:,}"

    def table(match: re.Match[str]) -> str:
        rows = kept[match[2]]["tables"][match[3]]
        return match[1] + "".join(f"| {' | '.join(row)} |\n" for row in rows)

    return TABLE.sub(table, FIGURE.sub(figure, text))


def main() -> None:
    kept = kept_figures()
    for path in READMES:
        path.write_text(filled(path.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main()
