"""Text on pictures: sanitising, fonts, wrapping, drawing.

Latin text is drawn in the typeface that comes with Pillow, so that figures look the same on every machine. Characters
that it lacks come from the machine's fonts, chosen by word and then by character. A run of characters that no font has
is drawn as `[3 chars: no font]` instead of empty boxes, and `undrawable` returns it.
Knows nothing about attention or figures. Sizes are in pixels, colours are RGB.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import plain

Color = tuple[int, int, int]
Runs = tuple[tuple[str, str], ...]

FONT_VARIABLE = "QVL_ATTN_FONT"
BUNDLED = ""

_DIRECTORIES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "${WINDIR}/Fonts",
    "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)

# Prefixes of file names in order of preference: broad Latin, then Chinese, Japanese, Korean, then all of Unicode.
_FAMILIES = (
    *("notosans-regular", "notosans[", "dejavusans", "liberationsans-", "segoeui", "arial"),
    *(
        "notosanscjksc",
        "notosanscjk",
        "notosanssc",
        "sourcehansanssc",
        "sourcehansans",
        "pingfang",
        "hiragino sans gb",
    ),
    *(
        "msyh",
        "wqy-microhei",
        "wqy-zenhei",
        "droidsansfallback",
        "simhei",
        "simsun",
        "stheiti",
        "notoserifcjk",
    ),
    *(
        "uming",
        "ukai",
        "hiragino",
        "yugoth",
        "meiryo",
        "ipag",
        "malgun",
        "applesdgothicneo",
        "nanumgothic",
        "unifont",
    ),
)

_SUBSTITUTES = {"×": "x", "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-"}

_CJK = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_OPENING = "（《「『【〈“‘"
_CLOSING = "）》」』】〉”’，。、！？：；…"
# A line may break between these pieces: spaces, ideographs with their punctuation, words. A piece has at most 40
# characters, so that long text without a space still wraps.
_PIECES = re.compile(rf"\s+|[{_OPENING}]*[{_CJK}][{_CLOSING}]*|[^\s{_CJK}]{{1,40}}")


def undrawable(text: str) -> str:
    """Return the characters of a text that no font here has, each once, in order."""
    return "".join(dict.fromkeys(char for char in plain(text) if not _can_draw(char)))


def measure(text: str, size_px: int) -> float:
    """Return the width in pixels of a text on one line."""
    return _width_px(_typeset(text, _font_paths()), size_px)


# The next two are cached because the pictures of a result share their texts.
@lru_cache(maxsize=4096)
def _typeset(text: str, fonts: tuple[str, ...]) -> Runs:
    """Split any text, as it is drawn, into runs of one font each; `fonts` is only part of the cache's key."""
    del fonts
    return tuple(_runs(_drawable_text(text)))


@lru_cache(maxsize=4096)
def _width_px(runs: Runs, size_px: int) -> float:
    return sum(_font(path, size_px).getlength(run) for path, run in runs)


def line_height_px(size_px: int) -> int:
    """Return the distance from one baseline to the next."""
    return round(size_px * 1.36)


def wrap(text: str, width_px: float, size_px: int, max_lines: int | None = None) -> list[str]:
    """Break a text into lines no wider than `width_px`; text cut off by `max_lines` ends in an ellipsis.

    Lines break at spaces and between ideographs, and inside a word only if the word is wider than a line.
    """
    lines: list[str] = []
    drawn = "".join(run for _, run in _typeset(text, _font_paths())).strip()
    if drawn and measure(drawn, size_px) <= width_px:
        return [drawn]
    for line in _lines(drawn, width_px, size_px):
        if len(lines) == max_lines:
            lines[-1] = _with_ellipsis(lines[-1], width_px, size_px)
            break
        lines.append(line)
    return lines


def draw_line(image: Image.Image, xy: tuple[float, float], text: str, size_px: int, color: Color) -> None:
    """Draw a text on one line of an RGB image; its baseline starts at `xy`, in pixels."""
    draw = ImageDraw.Draw(image)
    x, baseline = xy
    for path, run in _typeset(text, _font_paths()):
        font = _font(path, size_px)
        draw.text((x, baseline), run, fill=color, font=font, anchor="ls")
        x += font.getlength(run)


def draw_lines(image: Image.Image, xy: tuple[float, float], lines: list[str], size_px: int, color: Color) -> int:
    """Draw lines below each other, the top of the first at `xy`; return the height used, in pixels."""
    step = line_height_px(size_px)
    for index, line in enumerate(lines):
        draw_line(image, (xy[0], xy[1] + index * step + size_px), line, size_px, color)
    return step * len(lines)


def _lines(text: str, width_px: float, size_px: int) -> Iterator[str]:
    line = ""
    for piece in _pieces(text, width_px, size_px):
        if line and not piece.isspace() and measure(line + piece, size_px) > width_px:
            yield line.rstrip()
            line = ""
        if line or not piece.isspace():
            line += piece
    if line:
        yield line.rstrip()


def _pieces(text: str, width_px: float, size_px: int) -> Iterator[str]:
    for match in _PIECES.finditer(text):
        piece = match.group()
        if piece.isspace() or measure(piece, size_px) <= width_px:
            yield piece
        else:
            yield from piece


def _with_ellipsis(line: str, width_px: float, size_px: int) -> str:
    while line and measure(line + "…", size_px) > width_px:
        line = line[:-1]
    return line.rstrip() + "…"


def _drawable_text(text: str) -> str:
    """Replace each run of characters that no font has by a note of its length."""
    drawable_text = ""
    for drawable, run in groupby(plain(text), _can_draw):
        chars = "".join(run)
        if drawable:
            drawable_text += "".join(char if _path_for(char) is not None else _SUBSTITUTES[char] for char in chars)
        else:
            drawable_text += f"[{len(chars)} char{'s' * (len(chars) > 1)}: no font]"
    return drawable_text


def _can_draw(char: str) -> bool:
    return char in _SUBSTITUTES or _path_for(char) is not None


def _path_for(char: str) -> str | None:
    return next((path for path in _font_paths() if _covers(path, char)), None)


def _runs(text: str) -> list[tuple[str, str]]:
    """Split a drawable text into runs of one font each: (path of the font, text)."""
    fonts: list[tuple[str, str]] = []
    for _, group in groupby(text, lambda char: (char == " ", unicodedata.category(char)[0] in "LMN")):
        word = "".join(group)
        font = next((path for path in _font_paths() if all(_covers(path, char) for char in word)), None)
        fonts += [(font if font is not None else _path_for(char) or BUNDLED, char) for char in word]
    return [(path, "".join(char for _, char in run)) for path, run in groupby(fonts, lambda pair: pair[0])]


@cache
def _covers(path: str, char: str) -> bool:
    """Whether a font has a glyph: not blank, and not the one it draws for U+10FFFF, which no font has."""
    if char == " ":
        return True
    font = _unshaped(path)
    mask, missing = font.getmask(char), font.getmask("\U0010ffff")
    return mask.getbbox() is not None and (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@cache
def _unshaped(path: str) -> ImageFont.FreeTypeFont:
    """Open a font without shaping: shaping draws a lone mark with a dotted circle, as if it had a glyph."""
    font = _font(path, 24)
    if path == BUNDLED:
        return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    # Before Pillow 13 a font's variant always keeps its layout engine.
    return ImageFont.truetype(path, 24, index=font.index, layout_engine=ImageFont.Layout.BASIC)


@cache
def _font(path: str, size_px: int) -> ImageFont.FreeTypeFont:
    if path == BUNDLED:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size_px))
    font = ImageFont.truetype(path, size_px)
    if Path(path).suffix.lower() == ".ttc":
        font = _simplified_chinese(font, path, size_px)
    try:
        axes = font.get_variation_axes()
    except OSError:
        return font
    # A variable font may open at its thinnest weight.
    font.set_variation_by_axes([400 if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes])
    return font


def _simplified_chinese(font: ImageFont.FreeTypeFont, path: str, size_px: int) -> ImageFont.FreeTypeFont:
    """Return a collection's face for simplified Chinese if it has one: ideographs differ between countries."""
    for index in range(1, 20):
        try:
            face = ImageFont.truetype(path, size_px, index=index)
        except OSError:
            break
        if (face.getname()[0] or "").endswith(" SC"):
            return face
    return font


@cache
def _font_paths() -> tuple[str, ...]:
    """Return the fonts to draw with, in order of preference; the first is always available."""
    user_font = os.environ.get(FONT_VARIABLE, "")
    if user_font and not _opens(user_font):
        raise InputError(f"{FONT_VARIABLE}={plain(user_font)}: not a font file", "name a .ttf, .otf or .ttc file")
    system_fonts = (path for path in _system_fonts(_DIRECTORIES) if _opens(path))
    return (BUNDLED, *([user_font] if user_font else []), *system_fonts)


def _opens(path: str) -> bool:
    try:
        _font(path, 24)
    except OSError:
        return False
    return True


def _system_fonts(directories: tuple[str, ...]) -> list[str]:
    """Return one file of each family found under the directories, in the order of `_FAMILIES`."""
    files = [
        Path(folder, name)
        for directory in directories
        for folder, _, names in os.walk(Path(os.path.expandvars(directory)).expanduser())
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc"))
    ]
    paths = []
    for family in _FAMILIES:
        members = [file for file in files if file.name.lower().startswith(family)]
        if members:
            paths.append(str(min(members, key=_rank)))
    return list(dict.fromkeys(paths))


def _rank(file: Path) -> tuple[bool, int, str]:
    """Sort key: regular before bold and italic, then the shortest name, which is usually the family's plain face."""
    return "regular" not in file.name.lower(), len(file.name), str(file)
