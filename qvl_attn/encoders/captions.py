"""What stands in the pictures of a look: who asks, which layer, which heads, where the attention goes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.text import percent
from qvl_attn.encoders.attention import EncoderAttention, Over
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import window_cells
from qvl_attn.media.resize import Picture

OVER_WORDS = {"mean": "mean of", "max": "maximum over", "min": "minimum over"}


def describe_query(record: EncoderRecord, query: str) -> str:
    """Who asks."""
    if query == "cls":
        return "[CLS]"
    if query == "patch":
        return "attention received: mean over all patches that ask"
    x, y = record.settings.at[int(query.removeprefix("at_")) - 1]
    return f"patch at {x:g},{y:g}"


def describe_joining(attention: EncoderAttention, over: Over) -> str:
    """How heads are joined."""
    return f"{OVER_WORDS[over]} {counted(attention.head_count, 'head')}"


def layer_name(attention: EncoderAttention, layer: int) -> str:
    """A layer in few words; whether it sees windows, where some do."""
    return f"layer {layer}" + ("" if attention.full.all() else " · full" if attention.full[layer] else " · windows")


def describe_layer(attention: EncoderAttention, layer: int) -> str:
    """A layer, and of how many; how large its windows are."""
    kind = (
        ""
        if attention.full.all()
        else " · full"
        if attention.full[layer]
        else f" · windows of {describe_window(attention)}"
    )
    return f"layer {layer} of 0-{attention.layer_count - 1}{kind}"


def kind_lines(attention: EncoderAttention, query: str) -> list[str]:
    """What `full` and `windows` are, where there are both."""
    if attention.full.all():
        return []
    own = ", and uniform is even within it" if query.startswith("at_") else ""
    return [f"windows: a patch sees its own of {describe_window(attention)}{own}; full: it sees all"]


def map_title(record: EncoderRecord, query: str, layer: int) -> str:
    """Who asks in a map, in which layer, and how heads are joined."""
    attention = record.attention
    layer_text = describe_layer(attention, layer)
    return f"{describe_query(record, query)} · {layer_text} · {describe_joining(attention, record.settings.over)}"


def describe_window(attention: EncoderAttention) -> str:
    """The size of the largest window in pixels of the input."""
    columns, rows = largest_window(attention)
    width, height = columns * attention.patch_px, rows * attention.patch_px
    return f"{width} px" if width == height else f"{width} x {height} px"


def largest_window(attention: EncoderAttention) -> tuple[int, int]:
    """(columns, rows) of patches."""
    w = attention.grid[2]
    shapes = [(len({*(cells % w).tolist()}), len({*(cells // w).tolist()})) for cells in window_cells(attention)]
    return max(shapes, key=lambda shape: shape[0] * shape[1])


def describe_share(attention: EncoderAttention, query: str, layer: int, over: Over) -> str:
    """Where a query's attention in a layer goes: patches, [CLS], registers; the mean of all heads and steps.

    A maximum or minimum over heads is nobody's attention, and has no shares of its own.
    """
    if not attention.prefix:
        return "all attention is on patches: there are no other tokens"
    shares = attention.tokens(query)[layer].mean(axis=(0, 1), dtype=np.float64)
    roles = np.array([*attention.prefix, *["patch"] * (len(shares) - len(attention.prefix))])
    registers = attention.prefix.count("register")
    names = {"patch": "patches", "cls": "[CLS]", "register": counted(registers, "register")}
    description = [
        f"{share_of_all(float(shares[roles == role].sum()))} on {names[role]}" for role in names if role in roles
    ]
    whose = "attention" if over == "mean" else "attention, of the mean over heads"
    return f"{whose}: {_listed(description)}"


def describe_prefix(attention: EncoderAttention) -> str:
    """The tokens before the patches, which are not drawn; empty where there are none."""
    registers = attention.prefix.count("register")
    names = ["[CLS]"] * ("cls" in attention.prefix) + [counted(registers, "register")] * bool(registers)
    return _listed(names)


def describe_input(attention: EncoderAttention) -> str:
    """What goes in: its size and its patches."""
    (t, h, w), (width, height) = attention.grid, attention.input_px
    steps = f"{t} steps of " if t > 1 else ""
    return f"input {steps}{width} x {height} px · {w} x {h} patches of {attention.patch_px} px"


def describe_provenance(record: EncoderRecord) -> str:
    """Whose eye it is."""
    return f"{record.provenance.family} · {record.provenance.model} · {record.provenance.dtype}"


def foot_lines(record: EncoderRecord, query: str, layer: int | None = None) -> list[str]:
    """What stands beneath every picture: the encoder, its input, the part of the original that it sees.

    Args:
        record: what is drawn.
        query: who asks.
        layer: which one is drawn; None for several.
    """
    part, attention = describe_visible_region(record), record.attention
    whole = attention.even(query, int(attention.full.argmax()))
    even, of = whole if layer is None else attention.even(query, layer), " of a step" if attention.grid[0] > 1 else ""
    uniform = f"uniform: each of {round(1 / even)} tokens{of if even == whole else ' of its window'} the same"
    return [describe_provenance(record), f"{describe_input(attention)} · {uniform}", *([part] if part else [])]


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


def visible_box_px(attention: EncoderAttention) -> Box:
    """The part of the upright original that all patches of a step cover, xyxy; it may reach beyond the picture."""
    x0, y0 = attention.boxes_px[:, :2].min(axis=0).tolist()
    x1, y1 = attention.boxes_px[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def visible_size_px(attention: EncoderAttention) -> tuple[int, int]:
    """(width, height) of that part in the original's pixels."""
    x0, y0, x1, y1 = visible_box_px(attention)
    return max(1, round(x1 - x0)), max(1, round(y1 - y0))


def seen(record: EncoderRecord, step: int, size_px: tuple[int, int]) -> Picture:
    """The part of a step's first frame that its patches cover, cut out to a fraction of a pixel and resized.

    Args:
        record: of a picture or a clip.
        step: of the clip, 0 for a picture.
        size_px: (width, height) to which it is resized, antialiased and bicubic.

    Returns:
        (H, W, 3) uint8 RGB; what lies outside the picture is black.
    """
    frame = record.media.frames[record.frames[step, 0]]
    kept = np.array([frame.shape[1], frame.shape[0]] * 2) / np.array([*record.media.size_px] * 2)
    return cut_out(frame, np.array(visible_box_px(record.attention)) * kept, size_px)


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


def describe_visible_region(record: EncoderRecord) -> str | None:
    """Which part of the original the encoder sees; None where it is all of it, but for less than a pixel."""
    (x0, y0, x1, y1), (width, height) = visible_box_px(record.attention), record.media.size_px
    # As exact as its place can be known: half a pixel of what the encoder sees, at least one of the original.
    input_px = record.attention.input_px
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


def describe_layer_output(layer: int) -> str:
    """After which layer, to be read."""
    return "before layer 0" if layer < 0 else f"after layer {layer}"
