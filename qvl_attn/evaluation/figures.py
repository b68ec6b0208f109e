"""The figures of a map by name, as objects of JSON: of one map, or a list by layer, or a table by layer and head."""

from __future__ import annotations

from typing import Generic, TypedDict, TypeVar

F = TypeVar("F")


class Grounded(TypedDict, Generic[F]):
    """The figures of `GROUNDING`."""

    pointing: F
    mass: F
    lift: F
    auc: F
    iou: F


class Controlled(Grounded[F], Generic[F]):
    """The figures that controls and single heads have."""

    vision_mass: F


class Figures(Controlled[F], Generic[F]):
    """All figures: those of `GROUNDING`, the attention on vision, and those of `PATTERNS`."""

    entropy: F
    top10_share: F
    spread: F
    distance: F


class LayerControls(TypedDict, Generic[F]):
    """The controls of every layer: chance, and the boxes of another sample."""

    chance: F
    other: F


class Controls(LayerControls[F], Generic[F]):
    """The controls of the headline: also a uniform map, and a map that is strongest in the centre."""

    uniform: F
    centre: F


FIGURES = tuple(Figures.__annotations__)
HEAD_FIGURES = tuple(Controlled.__annotations__)
CONTROLS = ("chance", "uniform", "centre", "other")
