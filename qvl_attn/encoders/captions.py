"""What stands in the pictures of a look: who asks, which layer, which heads, where the attention goes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.text import percent
from qvl_attn.encoders.attention import Over, Sight
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import window_cells
from qvl_attn.media.resize import Picture

OVER_WORDS = {"mean": "mean of", "max": "maximum over", "min": "minimum over"}


def asks(look: EncoderRecord, query: str) -> str:
    """Who asks."""
    if query == "cls":
        return "[CLS]"
    if query == "patch":
        return "attention received: mean over all patches that ask"
    x, y = look.settings.at[int(query.removeprefix("at_")) - 1]
    return f"patch at {x:g},{y:g}"


def heads_words(sight: Sight, over: Over) -> str:
    """How heads are joined."""
    return f"{OVER_WORDS[over]} {counted(sight.head_count, 'head')}"


def layer_name(sight: Sight, layer: int) -> str:
    """A layer in few words; whether it sees windows, where some do."""
    return f"layer {layer}" + ("" if sight.full.all() else " · full" if sight.full[layer] else " · windows")


def layer_words(sight: Sight, layer: int) -> str:
    """A layer, and of how many; how large its windows are."""
    kind = "" if sight.full.all() else " · full" if sight.full[layer] else f" · windows of {window_words(sight)}"
    return f"layer {layer} of 0-{sight.layer_count - 1}{kind}"


def kind_lines(sight: Sight, query: str) -> list[str]:
    """What `full` and `windows` are, where there are both."""
    if sight.full.all():
        return []
    own = ", and uniform is even within it" if query.startswith("at_") else ""
    return [f"windows: a patch sees its own of {window_words(sight)}{own}; full: it sees all"]


def window_words(sight: Sight) -> str:
    """The size of the largest window in pixels of the input."""
    columns, rows = largest_window(sight)
    width, height = columns * sight.patch_px, rows * sight.patch_px
    return f"{width} px" if width == height else f"{width} x {height} px"


def largest_window(sight: Sight) -> tuple[int, int]:
    """(columns, rows) of patches."""
    w = sight.grid[2]
    shapes = [(len({*(cells % w).tolist()}), len({*(cells // w).tolist()})) for cells in window_cells(sight)]
    return max(shapes, key=lambda shape: shape[0] * shape[1])


def share_words(sight: Sight, query: str, layer: int, over: Over) -> str:
    """Where a query's attention in a layer goes: patches, [CLS], registers; the mean of all heads and steps.

    A maximum or minimum over heads is nobody's attention, and has no shares of its own.
    """
    if not sight.prefix:
        return "all attention is on patches: there are no other tokens"
    shares = sight.tokens(query)[layer].mean(axis=(0, 1), dtype=np.float64)
    roles = np.array([*sight.prefix, *["patch"] * (len(shares) - len(sight.prefix))])
    registers = sight.prefix.count("register")
    names = {"patch": "patches", "cls": "[CLS]", "register": counted(registers, "register")}
    told = [f"{share_of_all(float(shares[roles == role].sum()))} on {names[role]}" for role in names if role in roles]
    whose = "attention" if over == "mean" else "attention, of the mean over heads"
    return f"{whose}: {_listed(told)}"


def prefix_words(sight: Sight) -> str:
    """The tokens before the patches, which are not drawn; empty where there are none."""
    registers = sight.prefix.count("register")
    names = ["[CLS]"] * ("cls" in sight.prefix) + [counted(registers, "register")] * bool(registers)
    return _listed(names)


def input_words(sight: Sight) -> str:
    """What goes in: its size and its patches."""
    (t, h, w), (width, height) = sight.grid, sight.input_px
    steps = f"{t} steps of " if t > 1 else ""
    return f"input {steps}{width} x {height} px · {w} x {h} patches of {sight.patch_px} px"


def maker_words(look: EncoderRecord) -> str:
    """Whose eye it is."""
    return f"{look.maker.family} · {look.maker.model} · {look.maker.dtype}"


def foot_lines(look: EncoderRecord, query: str, layer: int | None = None) -> list[str]:
    """What stands beneath every picture: the encoder, its input, the part of the original that it sees.

    Args:
        look: what is drawn.
        query: who asks.
        layer: which one is drawn; None for several.
    """
    part, sight = seen_words(look), look.sight
    whole = sight.even(query, int(sight.full.argmax()))
    even, of = whole if layer is None else sight.even(query, layer), " of a step" if sight.grid[0] > 1 else ""
    uniform = f"uniform: each of {round(1 / even)} tokens{of if even == whole else ' of its window'} the same"
    return [maker_words(look), f"{input_words(sight)} · {uniform}", *([part] if part else [])]


def share_of_all(share: float) -> str:
    """A share, to be read; all but a little is not told as all."""
    if 0.995 <= share < 1:
        return f"{100 * share:.1f} %" if share < 0.9995 else ">99.9 %"
    return percent(share)


def counted(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


Box = tuple[float, float, float, float]


def seen_box_px(sight: Sight) -> Box:
    """The part of the upright original that all patches of a step cover, xyxy; it may reach beyond the picture."""
    x0, y0 = sight.boxes_px[:, :2].min(axis=0).tolist()
    x1, y1 = sight.boxes_px[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def seen_size_px(sight: Sight) -> tuple[int, int]:
    """(width, height) of that part in the original's pixels."""
    x0, y0, x1, y1 = seen_box_px(sight)
    return max(1, round(x1 - x0)), max(1, round(y1 - y0))


def seen(look: EncoderRecord, step: int, size_px: tuple[int, int]) -> Picture:
    """The part of a step's first frame that its patches cover, cut out to a fraction of a pixel and resized.

    Args:
        look: of a picture or a clip.
        step: of the clip, 0 for a picture.
        size_px: (width, height) to which it is resized, antialiased and bicubic.

    Returns:
        (H, W, 3) uint8 RGB; what lies outside the picture is black.
    """
    frame = look.media.frames[look.frames[step, 0]]
    kept = np.array([frame.shape[1], frame.shape[0]] * 2) / np.array([*look.media.size_px] * 2)
    return cut_out(frame, np.array(seen_box_px(look.sight)) * kept, size_px)


def cut_out(frame: Picture, box_px: NDArray[np.float64], size_px: tuple[int, int]) -> Picture:
    """A part of a picture, xyxy in its pixels, at another size: (H, W, 3) uint8; black outside the picture."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box_px.tolist()
    # A crop is found by a line through pixels and told to a hundredth: less than that is not outside.
    left, top = (max(0, math.ceil(-side - 0.05)) for side in (x0, y0))
    right, bottom = (max(0, math.ceil(side - 0.05)) for side in (x1 - width, y1 - height))
    if left or top or right or bottom:
        frame = np.pad(frame, ((top, bottom), (left, right), (0, 0)))
    height, width = frame.shape[:2]
    x0, x1 = np.clip([x0 + left, x1 + left], 0, width).tolist()
    y0, y1 = np.clip([y0 + top, y1 + top], 0, height).tolist()
    shown = Image.fromarray(frame).resize(size_px, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    return np.asarray(shown)


def seen_words(look: EncoderRecord) -> str | None:
    """Which part of the original the encoder sees; None where it is all of it, but for less than a pixel."""
    (x0, y0, x1, y1), (width, height) = seen_box_px(look.sight), look.media.size_px
    # As exact as its place can be known: half a pixel of what the encoder sees, at least one of the original.
    input_px = look.sight.input_px
    near_x, near_y = (max(1.0, 0.5 * (x1 - x0) / input_px[0]), max(1.0, 0.5 * (y1 - y0) / input_px[1]))
    whole = f"{width} x {height} px"
    if max(abs(x0), abs(x1 - width)) <= near_x and max(abs(y0), abs(y1 - height)) <= near_y:
        return None
    part = f"{x1 - x0:.0f} x {y1 - y0:.0f}"
    if min(x0, width - x1) < -near_x or min(y0, height - y1) < -near_y:
        return f"the encoder sees {part} px, more than the picture's {whole}: the rest is black"
    if abs(x0 + x1 - width) <= 2 * near_x and abs(y0 + y1 - height) <= 2 * near_y:
        return f"the encoder sees the middle {part} of {whole}"
    return f"the encoder sees {part} of {whole}, from {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}"


Named = Iterator[tuple[str, Callable[[], Picture]]]


def after_layer_words(layer: int) -> str:
    """After which layer, to be read."""
    return "before layer 0" if layer < 0 else f"after layer {layer}"
