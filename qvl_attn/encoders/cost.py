"""What looking takes in memory at least, from an encoder's configuration and a picture's grid alone: no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from qvl_attn.encoders.spec import Eye


class Taken(NamedTuple):
    """Bytes that a look takes where the model runs, and on the host: of a model on the CPU both are the host's."""

    device: int
    host: int


def held_bytes(eye: Eye, grid: tuple[int, int, int], asked: int) -> Taken:
    """Of what is added up over the layers, as `look.Tally` holds it.

    Received attention and three sums in float64 where the model runs, 8 (L H t T + 3 L H t); and on the host, in
    float32, the row of [CLS] where there is one and those of the patches asked about, 4 L H t T for each.

    Args:
        eye: of the encoder.
        grid: (t, h, w) steps, rows and columns of patches.
        asked: of how many places in a step the rows are kept.
    """
    t, h, w = grid
    per_token = eye.layers * eye.heads * t
    values = per_token * (len(eye.prefix) + h * w)
    return Taken(8 * (values + 3 * per_token), 4 * values * (("cls" in eye.prefix) + asked))


def pass_bytes(eye: Eye, config: Any, item_bytes: int, grid: tuple[int, int, int]) -> int:
    """Of the activations of a layer, at least, for the tokens that run together.

    In its attention what goes in, the normed, queries, keys and values are there at once, 5 D a token; in its MLP what
    goes in, and the inner width I before and after the activation, D + 2 I.

    Args:
        eye: of the encoder.
        config: of the encoder, or of the model that it is a part of.
        item_bytes: of a number.
        grid: of the steps that run together.
    """
    t, h, w = grid
    vision = config.vision_config if eye.family.nested else config
    width = vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return int(t * (len(eye.prefix) + h * w) * max(5 * width, width + 2 * inner) * item_bytes)


def states_bytes(eye: Eye, config: Any, grid: tuple[int, int, int]) -> int:
    """Of all layers' patches in float32, (E, P, D), as the components of a clip in several parts want them."""
    vision = config.vision_config if eye.family.nested else config
    t, h, w = grid
    return int(4 * (eye.layers + 1) * t * h * w * vision.hidden_size)
