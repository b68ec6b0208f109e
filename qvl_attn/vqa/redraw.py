"""Another headline of a saved result: layers, heads, query or method, from its arrays.

Layers, heads or a query named without a method select plain attention. A method's map is drawn as saved, for the query
that was asked. If plain attention replaces a method, the new result drops methods and faithfulness, which belong to
other maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from qvl_attn.attribution.faithfulness import CONTROLS, Curves
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.attribution.selection import Query
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.vqa.record import VqaRecord

PLAIN = "mean"  # the method that is plain attention and therefore always available
R = TypeVar("R", bound=VqaRecord)


def with_headline(
    result: R,
    layers: str | int | Sequence[int] | None = None,
    heads: str | None = None,
    query: str | None = None,
    method: str | None = None,
) -> R:
    """Return a result with another headline: see `results.redraw.redrawn`."""
    if method is not None and (layers is not None or heads is not None):
        other = argument("layers" if layers is not None else "heads")
        raise InputError(
            f"{argument('method', method)} cannot be combined with {other}", f"{other} alone selects plain attention"
        )
    headline, parsed_query = result.chosen(layers, heads, query)
    if method in result.settings.methods and query in (None, result.settings.query):
        return _with_first(result, method)
    if method not in (None, PLAIN):
        raise _method_error(result, method, query)
    if layers is heads is query is method is None:
        return result
    return _plain(result, None if layers is heads is None else headline, parsed_query)


def left_behind(saved: VqaRecord, drawn: VqaRecord) -> list[str]:
    """Return the parts of a saved result that its redrawn version drops because they belong to another map."""
    dropped = [f"method {method.method}" for method in saved.methods if method not in drawn.methods]
    return dropped + ["faithfulness"] * (saved.settings.faithfulness and not drawn.settings.faithfulness)


def _plain(result: R, headline: Headline | None, query: Query) -> R:
    """Return the result with plain attention as the headline, also in its passes; of None with its own headline.

    With a headline the profile is dropped, as when a question names layers or heads; `layers` still lists the captured
    layers.
    """
    if query.kind == "answer" and result.passes and result.pass_mode != "both":
        raise InputError(
            f"{argument('query', 'answer')}: each pass over the clip has an answer of its own",
            f"use {argument('query', 'last')}",
        )
    result.plain_maps(headline, query)  # refuses what was not captured
    settings = replace(result.settings, query=str(query), methods=())
    if headline is not None:
        averaged = Headline(headline.averaged_layers, headline.heads)
        settings = replace(settings, headline=averaged, profile=None, layers=settings.layers or "all")
    if settings == result.settings:
        return result
    return replace(
        result,
        settings=replace(settings, faithfulness=False),
        passes=tuple(_plain(pass_result, headline, query) for pass_result in result.passes),
        methods=(),
        curves=None,
        sanity=None,
    )


def _with_first(result: R, method: str) -> R:
    """Return the result with the map of a saved method as the headline."""
    names = (method, *(name for name in result.settings.methods if name != method))
    by_name = {saved.method: saved for saved in result.methods}
    return replace(
        result,
        settings=replace(result.settings, methods=names),
        methods=tuple(by_name[name] for name in names),
        curves=result.curves and _in_order(result.curves, (*names, *CONTROLS)),
        sanity=result.sanity and {name: result.sanity[name] for name in names},
    )


def _in_order(curves: Curves, names: tuple[str, ...]) -> Curves:
    return Curves(names, curves.logprobs[[curves.names.index(name) for name in names]])


def _method_error(result: VqaRecord, method: str, query: str | None) -> InputError:
    """Return the error for a method that the result cannot show."""
    saved = result.settings.methods
    if method not in METHODS:
        return InputError(f"{argument('method', method)}: no method {method!r}", f"there are {', '.join(METHODS)}")
    if method not in saved:
        available = f"which has {', '.join(saved)}" if saved else "which has no methods"
        return InputError(
            f"{argument('method', method)}: not saved in this result, {available}",
            f"ask again with {argument('method', method)}, or use {argument('method', PLAIN)}, plain attention",
        )
    asked = argument("query", result.settings.query)
    reason = f"is for {asked}" if METHODS[method].follows_query else "depends on no query"
    return InputError(
        f"{argument('query', query)}: the map of method {method} {reason}",
        f"drop {argument('query')} or {argument('method')}",
    )
