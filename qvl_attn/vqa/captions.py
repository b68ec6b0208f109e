"""What stands beneath a map: whose attention it is, of which layers and heads, by which method and model."""

from __future__ import annotations

from qvl_attn.attribution.methods import METHODS
from qvl_attn.attribution.selection import layer_words
from qvl_attn.core.types import HeatMap
from qvl_attn.vqa.record import Result

MAX_NAMED_CELLS = 12


def headline_caption(result: Result, one: HeatMap) -> list[str]:
    """What the headline map is, a line each."""
    made, profile = result.provenance, result.settings.profile
    model = f"{made.model} · {made.attention} attention in {made.dtype}"
    if result.methods:
        return [*_method_caption(result, one), model]
    named = profile or result.settings.layers or "." in (result.settings.heads or "")
    heads = head_words(result, one)
    depth = "" if named else " (50 to 85 % of the depth)"
    layers = f"{layer_words(one.layers)} of 0-{made.layer_count - 1}{depth} · {heads}"
    if "." in one.heads:  # which says the layers as well
        layers = f"{heads} of {made.layer_count} layers of {made.head_count} heads"
    return [f"{query_words(result, one)} · {layers}", *([profile.standing] if profile else []), model]


def _method_caption(result: Result, one: HeatMap) -> list[str]:
    method, profile = result.methods[0], result.settings.profile
    known = METHODS[method.method]
    asked = f"{query_words(result, one)} · " if known.follows_query else ""
    lines = [f"method {method.method} · {asked}{method.caption}"]
    lines += [profile.standing] if profile and (known.heads or set(method.layers) == set(profile.layers)) else []
    return lines + ([f"crossed out: {removed_words(result)}"] if method.removed else [])


def removed_words(result: Result) -> str:
    """Which cells a method took out, by row and column from 1."""
    method, named = result.methods[0], []
    pictures, steps = len(result.capture.grids), max(grid.shape[0] for grid in result.capture.grids)
    for number in method.removed[:MAX_NAMED_CELLS]:
        media, (step, row, column) = place_of(result, number)
        where = f"picture {media + 1}, " if pictures > 1 else f"step {step + 1}, " if steps > 1 else ""
        named.append(f"{where}row {row + 1}, column {column + 1}")
    more = len(method.removed) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def place_of(result: Result, cell: int) -> tuple[int, tuple[int, int, int]]:
    """Which picture a cell of the V axis is of, and its step, row and column there."""
    for i, grid in enumerate(result.capture.grids):
        if cell < grid.cells:
            _, rows, columns = grid.shape
            return i, (cell // (rows * columns), cell // columns % rows, cell % columns)
        cell -= grid.cells
    raise IndexError("no such cell")


def head_words(result: Result, one: HeatMap) -> str:
    """The heads of a map."""
    return f"mean of all {result.provenance.head_count} heads" if one.heads == "all" else f"heads {one.heads}"


def query_words(result: Result, one: HeatMap) -> str:
    """Whose attention a map is."""
    count = len(one.queries)
    tokens = f"{count} token{'s' if count != 1 else ''}"
    if one.query == "last":
        return "attention of the last prompt token, which produces the answer's first"
    if one.query == "answer":
        return f"attention of the {tokens} that produced the answer"
    if one.query == "question":
        return f"attention of the question, {tokens}"
    return f"attention of “{one.query.removeprefix('text:')}”, {tokens}"
