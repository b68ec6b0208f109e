"""The methods by name, and the parsing of method names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qvl_attn.attribution.methods.base import Method, MethodMap, View
from qvl_attn.attribution.methods.gradcam import GRADCAM
from qvl_attn.attribution.methods.gradient import GRADIENT
from qvl_attn.attribution.methods.heads import HEADS
from qvl_attn.attribution.methods.maximum import MAXIMUM
from qvl_attn.attribution.methods.mean import MEAN
from qvl_attn.attribution.methods.relative import GENERIC_PROMPT, RELATIVE
from qvl_attn.attribution.methods.rollout import ROLLOUT
from qvl_attn.attribution.methods.sinks import DIMENSIONS, REDISTRIBUTED, SINKS
from qvl_attn.attribution.methods.tam import TAM
from qvl_attn.core.errors import InputError
from qvl_attn.core.options import of_type
from qvl_attn.core.text import argument, quoted

__all__ = ["DIMENSIONS", "GENERIC_PROMPT", "METHODS", "Method", "MethodMap", "View", "needs_of", "parse_methods"]

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (MEAN, MAXIMUM, HEADS, RELATIVE, SINKS, REDISTRIBUTED, GRADIENT, GRADCAM, ROLLOUT, TAM)
}


def needs_of(names: Sequence[str]) -> frozenset[str]:
    """Return the names of the signals that any of the given methods needs."""
    return frozenset[str]().union(*(METHODS[name].needs for name in names))


def parse_methods(text: str | Sequence[str], argument_name: str = "methods") -> tuple[str, ...]:
    """Parse `mean,relative`, or a sequence of names, to unique names in the given order.

    Raises:
        InputError: the text is empty or has an unknown name.
        TypeError: it is neither text nor names.
    """
    of_type(argument_name, text, str | Sequence[str])
    typed = text if isinstance(text, str) else ",".join(text)
    names = [name.strip() for name in typed.split(",")]
    for name in names:
        if name not in METHODS:
            raise InputError(
                f"{argument(argument_name, typed)}: no method {quoted(name)}", f"there are {', '.join(METHODS)}"
            )
    return tuple(dict.fromkeys(names))
