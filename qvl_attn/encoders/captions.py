"""Captions of an encoder's result: query, layer, heads, attention shares, visible region. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.text import percent, pluralize
from qvl_attn.core.types import Box
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import window_shapes
from qvl_attn.media.resize import Picture
from qvl_attn.results.record import Over

OVER_WORDS = {"mean": "mean of", "max": "maximum over", "min": "minimum over"}


def describe_query(record: EncoderRecord, query: str) -> str:
    """Return the name of a query as text."""
    if query == "cls":
        return "[CLS]"
    if query == "patch":
        return "attention received: mean over all patches"
    x, y = record.settings.at[int(query.removeprefix("at_")) - 1]
    return f"patch at {x:g},{y:g}"


def describe_joining(attention: EncoderAttention, over: Over) -> str:
    """Return how the heads are joined, as `mean of 12 heads`."""
    return f"{OVER_WORDS[over]} {pluralize(attention.head_count, 'head')}"


def layer_name(attention: EncoderAttention, layer: int) -> str:
    """Return a short label of a layer; if the encoder has windowed layers, with its kind."""
    return f"layer {layer}" + ("" if attention.full.all() else " · full" if attention.full[layer] else " · windows")


def describe_layer(attention: EncoderAttention, layer: int) -> str:
    """Return a layer with the range of layers and, if it is windowed, the size of its windows."""
    kind = (
        ""
        if attention.full.all()
        else " · full"
        if attention.full[layer]
        else f" · windows of {describe_window(attention)}"
    )
    return f"layer {layer} of 0-{attention.layer_count - 1}{kind}"


def kind_lines(attention: EncoderAttention, query: str) -> list[str]:
    """Return the line that explains `full` and `windows`, if the encoder has both kinds of layers."""
    if attention.full.all():
        return []
    own = ", and uniform is over that window" if query.startswith("at_") else ""
    return [f"windows: a patch attends to its own window of {describe_window(attention)}{own}; full: to all patches"]


def map_title(record: EncoderRecord, query: str, layer: int) -> str:
    """Return the title of a map: its query, its layer, and how the heads are joined."""
    attention = record.attention
    layer_text = describe_layer(attention, layer)
    return f"{describe_query(record, query)} · {layer_text} · {describe_joining(attention, record.settings.over)}"


def describe_window(attention: EncoderAttention) -> str:
    """Return the size of the largest window in pixels of the encoder's input."""
    columns, rows = largest_window(attention)
    width, height = columns * attention.patch_px, rows * attention.patch_px
    return f"{width} px" if width == height else f"{width} x {height} px"


def largest_window(attention: EncoderAttention) -> tuple[int, int]:
    """Return the (columns, rows) of patches of the largest window."""
    shapes = window_shapes(attention)
    columns, rows = shapes[shapes.prod(axis=1).argmax()].tolist()
    return columns, rows


def describe_share(attention: EncoderAttention, query: str, layer: int, over: Over) -> str:
    """Return the shares of a query's attention on patches, [CLS] and registers, the mean over heads and steps.

    A maximum or minimum over heads does not sum to one and has no shares of its own: those of the mean are named.
    """
    if not attention.prefix:
        return "all attention is on patches: there are no other tokens"
    shares = attention.tokens(query)[layer].mean(axis=(0, 1), dtype=np.float64)
    roles = np.array([*attention.prefix, *["patch"] * (len(shares) - len(attention.prefix))])
    registers = attention.prefix.count("register")
    names = {"patch": "patches", "cls": "[CLS]", "register": pluralize(registers, "register")}
    description = [
        f"{format_share(float(shares[roles == role].sum()))} on {names[role]}" for role in names if role in roles
    ]
    subject = "attention" if over == "mean" else "attention, mean over heads"
    return f"{subject}: {_join_words(description)}"


def describe_prefix(attention: EncoderAttention) -> str:
    """Return the names of the prefix tokens, which are not drawn; empty if there are none."""
    registers = attention.prefix.count("register")
    names = ["[CLS]"] * ("cls" in attention.prefix) + [pluralize(registers, "register")] * bool(registers)
    return _join_words(names)


def describe_input(attention: EncoderAttention) -> str:
    """Return the size of the encoder's input and of its patches."""
    (t, h, w), (width, height) = attention.grid, attention.input_px
    steps = f"{t} steps of " if t > 1 else ""
    return f"input {steps}{width} x {height} px · {w} x {h} patches of {attention.patch_px} px"


def describe_provenance(record: EncoderRecord) -> str:
    """Return the family, the model and the precision of the vision encoder."""
    return f"{record.provenance.family} · {record.provenance.model} · {record.provenance.dtype}"


def foot_lines(record: EncoderRecord, query: str, layer: int | None = None) -> list[str]:
    """Return the caption beneath every picture: the vision encoder, its input, the part of the original that it sees.

    Args:
        record: the result that is drawn.
        query: one of the queries of its attention.
        layer: the layer that is drawn; None for several.
    """
    part, attention = describe_visible_region(record), record.attention
    step_uniform = attention.uniform(query, int(attention.full.argmax()))
    uniform = step_uniform if layer is None else attention.uniform(query, layer)
    of_step = " of a step" if attention.grid[0] > 1 else ""
    tokens = f"{round(1 / uniform)} tokens{of_step if uniform == step_uniform else ' of its window'}"
    lines = [describe_provenance(record), f"{describe_input(attention)} · uniform: each of {tokens} the same"]
    return [*lines, *([part] if part else [])]


def format_share(share: float) -> str:
    """Return a share as text; only a share of exactly 1 becomes `100 %`."""
    if 0.995 <= share < 1:
        return f"{100 * share:.1f} %" if share < 0.9995 else ">99.9 %"
    return percent(share)


def _join_words(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def visible_box_px(attention: EncoderAttention) -> Box:
    """Return the region of the upright original that the patches cover, xyxy; it may extend beyond the picture."""
    x0, y0 = attention.boxes_px[:, :2].min(axis=0).tolist()
    x1, y1 = attention.boxes_px[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def visible_size_px(attention: EncoderAttention) -> tuple[int, int]:
    """Return the (width, height) of that region in pixels of the original."""
    x0, y0, x1, y1 = visible_box_px(attention)
    return max(1, round(x1 - x0)), max(1, round(y1 - y0))


def visible_picture(record: EncoderRecord, step: int, size_px: tuple[int, int]) -> Picture:
    """Return the part of a step's first frame that its patches cover, cropped with subpixel accuracy and resized.

    Args:
        record: the result of a picture or a clip.
        step: a step of the clip, 0 for a picture.
        size_px: (width, height) of the output; resizing is antialiased and bicubic.

    Returns:
        (H, W, 3) uint8 RGB, black outside the picture.
    """
    frame = record.media[0].frames[record.frames[step, 0]]
    scale = np.array([frame.shape[1], frame.shape[0]] * 2) / np.array([*record.media[0].size_px] * 2)
    return crop_and_resize(frame, np.array(visible_box_px(record.attention)) * scale, size_px)


def crop_and_resize(frame: Picture, box_px: NDArray[np.float64], size_px: tuple[int, int]) -> Picture:
    """Return a box of a picture, xyxy in its pixels, at (width, height): (H, W, 3) uint8, black outside the picture."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box_px.tolist()
    # A crop is estimated with a fitted line and rounded to 0.01 px: less than 0.05 px does not count as outside.
    left, top = (max(0, math.ceil(-side - 0.05)) for side in (x0, y0))
    right, bottom = (max(0, math.ceil(side - 0.05)) for side in (x1 - width, y1 - height))
    if left or top or right or bottom:
        frame = np.pad(frame, ((top, bottom), (left, right), (0, 0)))
    height, width = frame.shape[:2]
    x0, x1 = np.clip([x0 + left, x1 + left], 0, width).tolist()
    y0, y1 = np.clip([y0 + top, y1 + top], 0, height).tolist()
    return np.asarray(Image.fromarray(frame).resize(size_px, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))


def describe_visible_region(record: EncoderRecord) -> str | None:
    """Return which part of the original the encoder sees; None if it is the whole picture, to within a pixel."""
    (x0, y0, x1, y1), (width, height) = visible_box_px(record.attention), record.media[0].size_px
    # The tolerance of the estimated crop: half a pixel of the encoder's input, at least one of the original.
    input_px = record.attention.input_px
    tolerance_x, tolerance_y = (max(1.0, 0.5 * (x1 - x0) / input_px[0]), max(1.0, 0.5 * (y1 - y0) / input_px[1]))
    whole = f"{width} x {height} px"
    if max(abs(x0), abs(x1 - width)) <= tolerance_x and max(abs(y0), abs(y1 - height)) <= tolerance_y:
        return None
    part = f"{x1 - x0:.0f} x {y1 - y0:.0f}"
    if min(x0, width - x1) < -tolerance_x or min(y0, height - y1) < -tolerance_y:
        return f"the encoder sees {part} px, more than the picture's {whole}: the rest is black"
    if abs(x0 + x1 - width) <= 2 * tolerance_x and abs(y0 + y1 - height) <= 2 * tolerance_y:
        return f"the encoder sees the middle {part} of {whole}"
    return f"the encoder sees {part} of {whole}, from {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}"


def describe_layer_output(layer: int) -> str:
    """Return the place of a layer's output as text: `before layer 0` for -1, else `after layer N`."""
    return "before layer 0" if layer < 0 else f"after layer {layer}"
