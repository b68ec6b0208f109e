"""Figures as they are written in pictures."""

from __future__ import annotations


def times_uniform(multiple: float, unit: str = "uniform") -> str:
    """A multiple of a uniform map, or of another unit, to be read."""
    return f"{multiple:.{1 if 0 < multiple < 100 else 0}f}× {unit}"


def compact(value: float) -> str:
    """An attention weight, to be read."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share, to be read."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.{1 if share < 0.0995 else 0}f} %"
