"""What the figures of layers say in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qvl_attn.eye.figures import Figure

LOCAL_SHARE = 0.5


def local_until(distance_px: Figure) -> int | None:
    """The last layer to which, it and all before it, the mean distance over heads is below half of chance."""
    far = distance_px.values.mean(axis=1) >= LOCAL_SHARE * distance_px.chance
    first = int(far.argmax()) if far.any() else len(far)
    return first - 1 if first else None


def gathers_most(tokens_50: Figure) -> int:
    """The layer where the fewest tokens, over their count by chance, carry half of the attention."""
    return int((tokens_50.values.mean(axis=1) / tokens_50.chance).argmin())


def said(figures: Mapping[str, Figure]) -> list[str]:
    """Until which layer the encoder is local, and where it gathers on few tokens, a sentence each.

    Args:
        figures: `distance_px` and `tokens_50` among them.
    """
    distance, tokens = figures["distance_px"], figures["tokens_50"]
    last, few = local_until(distance), gathers_most(tokens)
    at = 0 if last is None else last
    there = f"{distance.values[at].mean():.0f} px, by chance {distance.chance[at]:.0f} px"
    if last is None:
        local = (
            f"not local at first: already in layer 0 the mean attention distance is half of chance or more ({there})"
        )
    elif last == len(distance.chance) - 1:
        local = (
            f"local until the last layer, {last}: the mean attention distance is below half of chance in all ({there})"
        )
    else:
        local = (
            f"local until layer {last}: up to it the mean attention distance is below half of chance (there {there})"
        )
    count, even = f"{tokens.values[few].mean():.1f}", f"{tokens.chance[few]:.1f}"
    gathers = f"half of the attention is on {count} of them, by chance on {even}"
    return [local, f"gathers most on few tokens in layer {few}: {gathers}"]
