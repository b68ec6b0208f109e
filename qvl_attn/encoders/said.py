"""What the figures of layers say in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qvl_attn.attribution.selection import layer_words
from qvl_attn.encoders.statistics import Figure

LOCAL_SHARE = 0.5
# Of the tokens that carry half of it by chance: with nearly as many it is not gathered.
GATHERED_SHARE = 0.8


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
    return [_local(figures["distance_px"]), _gathers(figures["tokens_50"])]


def _local(distance_px: Figure) -> str:
    """A layer is local where attention reaches less than half as far as if it were spread over the whole picture."""
    last, even = local_until(distance_px), even_px(distance_px)
    means = distance_px.values.mean(axis=1)
    near = (means < LOCAL_SHARE * even).nonzero()[0].tolist()
    windows = [layer for layer in near if distance_px.chance[layer] < even]
    at = 0 if last is None else last
    reach = f"attention reaches {means[at]:.0f} px on average, {even:.0f} px if spread over the whole picture"
    if len(near) == len(means):
        told = f"local in all layers (in layer {at} {reach})"
    elif last is None:
        told = f"not local in layer 0, where {reach}"
    else:
        told = f"local until layer {last}, where {reach}"
    again = [layer for layer in near if layer > (-1 if last is None else last)]
    told += f"; local again: {layer_words(again)}" if again else ""
    return told + (f"; by their windows: {layer_words(windows)}" if windows else "")


def _gathers(tokens_50: Figure) -> str:
    few = gathers_most(tokens_50)
    count, even = tokens_50.values[few].mean(), tokens_50.chance[few]
    where = "most on few tokens in" if count < GATHERED_SHARE * even else "on few tokens in no layer, not even in"
    half = f"half of what all patches give together is on {count:.1f} of them, by chance on {even:.1f}"
    return f"gathers {where} layer {few}: {half}"
