"""How alike a map is to those under changed circumstances, as values: what sanity checks find. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Likeness:
    """How alike the map is under one circumstance.

    Attributes:
        label: what was changed, in words.
        rank_correlation: Spearman's, -1 to 1; None where no map can be drawn, or one of the two is constant.
        ssim: structural similarity, -1 to 1; None likewise.
    """

    label: str
    rank_correlation: float | None
    ssim: float | None

    def __post_init__(self) -> None:
        for value in (self.rank_correlation, self.ssim):
            if value is not None and not -1 - 1e-6 <= value <= 1 + 1e-6:
                raise ValueError(f"{self.label}: a likeness of {value}")


@dataclass(frozen=True)
class Sanity:
    """The sanity checks of one headline map.

    Attributes:
        weights: by how many layers were scrambled, ascending.
        question: of another question about the same pictures.
        picture: of the same question about other pictures.
    """

    weights: tuple[Likeness, ...]
    question: Likeness
    picture: Likeness

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("weights: no likeness")

    def figures(self) -> dict[str, float]:
        """Rank correlation and SSIM with all layers scrambled, of the other question and picture; NaN where none is."""
        found = {"weights": self.weights[-1], "question": self.question, "picture": self.picture}
        values = {f"{name}_rank": one.rank_correlation for name, one in found.items()}
        values |= {f"{name}_ssim": one.ssim for name, one in found.items()}
        return {name: float("nan") if value is None else value for name, value in values.items()}


def sanity_json(sanity: Sanity) -> dict[str, Any]:
    """As plain values."""
    return {**asdict(sanity), "weights": [asdict(one) for one in sanity.weights]}


def sanity_from(written: Mapping[str, Any]) -> Sanity:
    """From what `sanity_json` wrote."""
    weights = tuple(Likeness(**one) for one in written["weights"])
    return Sanity(weights, Likeness(**written["question"]), Likeness(**written["picture"]))
