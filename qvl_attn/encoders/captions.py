"""What stands in the pictures of a look: who asks, which layer, which heads, where the attention goes. Pure."""

from __future__ import annotations

import numpy as np

from qvl_attn.core.text import percent
from qvl_attn.encoders.attention import Over, Sight
from qvl_attn.encoders.record import Look
from qvl_attn.encoders.seen import seen_words
from qvl_attn.encoders.statistics import window_cells

OVER_WORDS = {"mean": "mean of", "max": "maximum over", "min": "minimum over"}


def asks(look: Look, query: str) -> str:
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


def maker_words(look: Look) -> str:
    """Whose eye it is."""
    return f"{look.maker.family} · {look.maker.model} · {look.maker.dtype}"


def foot_lines(look: Look, query: str, layer: int | None = None) -> list[str]:
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
