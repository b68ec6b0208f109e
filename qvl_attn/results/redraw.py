"""A saved result with other layers, another headline or its original files, ready to be drawn again without a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict, TypeVar, Unpack

from qvl_attn.core.errors import InputError
from qvl_attn.core.options import check_names, of_type, with_types
from qvl_attn.core.text import argument, pluralize
from qvl_attn.core.types import Media
from qvl_attn.media.given import PictureLike, is_path, listed, load_given
from qvl_attn.media.image import check_local
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.record import Over, RecordSettings
from qvl_attn.results.result import StoredResult

R = TypeVar("R", bound=StoredResult)


class RedrawOptions(TypedDict, total=False):
    """Another headline of a saved result: the first four of a question's, the others of an encoder's.

    Attributes:
        layers: as in `Result.heatmaps`; the headline becomes plain attention.
        heads: like `layers`.
        query: as in `Result.heatmaps`; without a method, the headline becomes plain attention.
        method: a saved method, whose map is for the query that was asked, or `mean` for plain attention.
        layer: the layer whose heads are drawn one by one.
        over: how heads are joined in the maps of layers.
    """

    layers: str | int | Sequence[int] | None
    heads: str | None
    query: str | None
    method: str | None
    layer: int | None
    over: Over | None


def redrawn(result: R, *, media: PictureLike | Sequence[PictureLike] = (), **options: Unpack[RedrawOptions]) -> R:
    """Return the same result with another headline, ready to be saved.

    What belongs to another map is dropped, and the log names it.

    Args:
        result: a saved result, itself redrawn or not.
        media: the original, or the originals in prompt order, if the saved copies are not enough.
        options: see `RedrawOptions`.

    Raises:
        InputError: a layer, head, query or method does not exist in the result, an option is of another kind of
            result, or a file is not the original.
        CaptureError: there is no attention to draw.
        TypeError: the result or an option is of another type.
    """
    check_names(options, RedrawOptions, redrawn)
    of_type("result", result, StoredResult)
    choices = {name: value for name, value in with_types(options, RedrawOptions).items() if value is not None}
    for name, value in choices.items():
        if name not in result.choices:
            raise InputError(
                f"{argument(name, value)} is not for a result of {' or '.join(result.kinds)}",
                f"it has {', '.join(map(argument, result.choices))}" if result.choices else "leave it out",
            )
    drawn, originals = result._with_choices(**choices), listed("media", media)
    return replace(drawn, media=_originals(drawn, originals)) if originals else drawn


def _originals(result: StoredResult, given: Sequence[PictureLike]) -> tuple[Media, ...]:
    """Return the pictures, or the clip, with their originals."""
    if len(given) != len(result.media):
        count = pluralize(len(result.media), result.media[0].kind)
        raise InputError(
            f"{argument('media')} names {len(given)}, and the result has {count}", "name all of them, in prompt order"
        )
    return tuple(_original(medium, each, result.settings) for medium, each in zip(result.media, given, strict=True))


def _original(media: Media, given: PictureLike, settings: RecordSettings) -> Media:
    try:
        if media.clip is None or not is_path(given):
            picture = load_given(given, settings.stretch)
            sha256, original = picture.sha256, replace(media, frames=picture.frames)
        else:
            from qvl_attn.media.video import open_clip  # loads PyAV

            sha256 = open_clip(given, (settings.clip or ClipSettings()).source_fps).sha256
            original = replace(media, path=os.fspath(given))
    except InputError as error:
        raise InputError(f"{argument('media')} {error.message}", f"name the {media.kind} of the result") from None
    if sha256 != media.sha256:
        name = check_local(os.fspath(given)) if is_path(given) else picture.source
        raise InputError(
            f"{argument('media')} {name}: not the file of the result", f"name the file with sha256 {media.sha256}"
        )
    return original
