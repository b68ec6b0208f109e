"""One self-contained HTML page: template, style, script and data, under a strict Content-Security-Policy."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qvl_attn.core.text import plain
from qvl_attn.render.html.payload import COARSE, TOP, Payload
from qvl_attn.render.overlay import COLORMAPS, color_table

REPORT_FILE = "report.html"
# The files of each page's script, in order: what a file uses while it is read stands in those before it.
COMMON = ("words", "unpack", "draw", "colours", "picture", "chart", "matrix")
SCRIPTS = {
    "result": (
        "strings",
        "strings_encoder",
        *COMMON,
        "unpack_all",
        "scale",
        "state",
        "describe",
        "panels",
        "inspect",
        "controls",
        "clip",
        "question",
        "faith",
        "encoder",
        "thumbs",
        "statistics",
        "kinds",
        "save",
        "result",
    ),
    "check": ("strings", "strings_check", *COMMON, "cards", "table", "check"),
}


@dataclass(frozen=True)
class Still:
    """A picture for readers without scripts: a JPEG file in base64, and its caption."""

    picture: str
    caption: str


def page_html(
    kind: str,
    title: str,
    data: dict[str, Any],
    payload: Payload,
    first: Collection[int] = (),
    still: Still | None = None,
) -> str:
    """Return the HTML of a page.

    Args:
        kind: `result` or `check`.
        title: title of the window.
        data: input of the page's script; embedded with `tojson`.
        payload: maps and pictures.
        first: numbers of the blocks placed before the script; the other blocks follow it.
        still: what the page shows where scripts are off.
    """
    style, script = _read("style.css"), concatenated(_read(f"{name}.js") for name in SCRIPTS[kind])
    tables = {name: b64encode(color_table(name).tobytes()).decode() for name in COLORMAPS}
    blocks = list(enumerate(payload.blocks))
    html: str = _template(kind).render(
        title=plain(title),
        policy=Markup(
            f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        script=Markup(script),
        data=data
        | {"blocks": payload.shapes, "signed": payload.signed, "tables": tables, "cells_a_side": COARSE, "top": TOP},
        first=[block for block in blocks if block[0] in first],
        later=[block for block in blocks if block[0] not in first],
        pictures=list(enumerate(payload.pictures)),
        still=still,
    )
    return html


def concatenated(texts: Iterable[str]) -> str:
    """Return a page's script: the texts of its files, from line 2 on, with an empty line after each."""
    return "\n".join(['"use strict";', *texts])


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


@cache
def _read(name: str) -> str:
    return (files("qvl_attn.render.html") / "assets" / name).read_text(encoding="utf-8")


@cache
def _template(kind: str) -> Any:
    loader = PackageLoader("qvl_attn.render.html", "assets")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # replaces sort_keys: keys keep their order
    return environment.get_template(f"{kind}.html")
