"""Captions of a question's result: query, layers, heads, method, removed cells."""

from __future__ import annotations

from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.attribution.selection import describe_heads, describe_layers
from qvl_attn.core.text import pluralize
from qvl_attn.core.types import HeatMap
from qvl_attn.vqa.record import VqaRecord

MAX_NAMED_CELLS = 12


def headline_caption(result: VqaRecord, heat: HeatMap) -> list[str]:
    """Return the lines that describe the headline map."""
    provenance, profile = result.provenance, result.settings.profile
    model = f"{provenance.model} · {provenance.attention} attention in {provenance.dtype}"
    if result.methods:
        return [*_method_caption(result, heat), model]
    heads = headline_heads_text(result)
    depth = "" if result.settings.names_layers else " (50 to 85 % of the depth)"
    layers = f"{describe_layers(heat.layers)} of 0-{provenance.layer_count - 1}{depth} · {heads}"
    if result.headline.heads is not None:  # the heads include their layers
        layers = f"{heads} of {provenance.layer_count} layers of {provenance.head_count} heads"
    return [f"{describe_query(result, heat)} · {layers}", *([profile.status] if profile else []), model]


def _method_caption(result: VqaRecord, heat: HeatMap) -> list[str]:
    method, profile = result.methods[0], result.settings.profile
    spec = METHODS[method.method]
    query = f"{describe_query(result, heat)} · " if spec.follows_query else ""
    lines = [f"method {method.method} · {query}{method.caption}"]
    lines += [profile.status] if profile and (spec.heads or set(method.layers) == set(profile.layers)) else []
    return lines + ([f"crossed out: {describe_removed(result)}"] if method.removed else [])


def describe_removed(result: VqaRecord) -> str:
    """Return the cells that a method removed, by row and column counted from 1."""
    method, named = result.methods[0], []
    pictures, steps = len(result.capture.grids), max(grid.shape[0] for grid in result.capture.grids)
    for number in method.removed[:MAX_NAMED_CELLS]:
        media, (step, row, column) = place_of(result, number)
        where = f"picture {media + 1}, " if pictures > 1 else f"step {step + 1}, " if steps > 1 else ""
        named.append(f"{where}row {row + 1}, column {column + 1}")
    more = len(method.removed) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def place_of(result: VqaRecord, cell: int) -> tuple[int, tuple[int, int, int]]:
    """Return the picture of a cell on the V axis, and the cell's (step, row, column) in it."""
    for i, grid in enumerate(result.capture.grids):
        if cell < grid.cells:
            _, rows, columns = grid.shape
            return i, (cell // (rows * columns), cell // columns % rows, cell % columns)
        cell -= grid.cells
    raise IndexError("no such cell")


def headline_heads_text(result: VqaRecord) -> str:
    """Return the heads of the plain headline as text."""
    heads = result.headline.heads
    return f"mean of all {result.provenance.head_count} heads" if heads is None else f"heads {describe_heads(heads)}"


def describe_query(result: VqaRecord, heat: HeatMap) -> str:
    """Return the headline's query, whose map this is, as text."""
    query, tokens = result.selection.query, pluralize(len(heat.queries), "token")
    if query.kind == "last":
        return "attention of the last prompt token, which produces the answer's first token"
    if query.kind == "answer":
        return f"attention of the {tokens} that produced the answer"
    if query.kind == "question":
        return f"attention of the question, {tokens}"
    return f"attention of “{query.words}”, {tokens}"


def describe_answer(result: VqaRecord) -> str:
    """Return the answer to which the maps belong; of a supplied one also the model's own."""
    if result.supplied_answer is None:
        return result.answer
    return f"{result.supplied_answer}   (supplied; the model's own answer: {result.answer})"


def describe_sheets(result: VqaRecord, plain: HeatMap) -> str:
    """Return the caption of the sheets of layers.

    Args:
        result: the result.
        plain: its headline map of plain attention.
    """
    heads = "mean of all heads" if result.headline_heads() is None else "named heads, else the mean of all"
    query = describe_query(result, plain)
    if result.methods and result.methods[0].layer_numbers:
        follows = METHODS[result.methods[0].method].follows_query
        return f"method {result.methods[0].method}" + (f" · {query}" if follows else "")
    text = f"{query} · {heads}"
    return f"{result.methods[0].method} has no layers: plain attention · {text}" if result.methods else text
