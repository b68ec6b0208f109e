"""What the figures of layers say in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qvl_attn.eye.figures import Figure

LOCAL_SHARE = 0.5


def local_until(distance_px: Figure) -> int | None:
    """The last layer to which, it and all before it, the mean distance over heads is below half of what is even.

    Even is attention spread over the whole picture: a layer of windows is local however it spreads within them.
    """
    far = distance_px.values.mean(axis=1) >= LOCAL_SHARE * even_px(distance_px)
    first = int(far.argmax()) if far.any() else len(far)
    return first - 1 if first else None


def even_px(distance_px: Figure) -> float:
    """The mean distance of attention that is spread over the whole picture: chance of the layers that see most."""
    return float(distance_px.chance.max())


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
    reach = f"{distance.values[at].mean():.0f} px on average, {even_px(distance):.0f} px if spread over the picture"
    if last is None:
        local = f"not local, from layer 0 on: there attention reaches {reach}"
    elif last == len(distance.chance) - 1:
        local = f"local in all layers: less than half as far as if spread evenly; the last reaches {reach}"
    else:
        local = f"local until layer {last}: up to it less than half as far as if spread evenly; it reaches {reach}"
    count, even = f"{tokens.values[few].mean():.1f}", f"{tokens.chance[few]:.1f}"
    gathers = f"half of the attention is on {count} of them, by chance on {even}"
    return [local, f"gathers most on few tokens in layer {few}: {gathers}"]
