"""Pictures as callers have them: paths, Pillow's images, arrays, or loaded media."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.media.image import check_size, load_picture, picture_media, pixels_of, printable

PictureLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | Media
UNNAMED = "picture"


def is_path(picture: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a picture or clip is given by its path."""
    return isinstance(picture, (str, os.PathLike))


def checked(name: str, picture: PictureLike) -> PictureLike:
    """Return the picture of an argument.

    Raises:
        TypeError: it is none.
    """
    if is_path(picture) or isinstance(picture, (Image.Image, Media)):
        return picture
    got = type(picture).__name__
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size:
            return picture
        got = f"an array {picture.shape} of {picture.dtype}"
    raise TypeError(
        f"{argument(name)}: want a path, a PIL image, an array (height, width, 3) of uint8 or a Media, got {got}"
    )


def listed(name: str, pictures: PictureLike | Sequence[PictureLike]) -> tuple[PictureLike, ...]:
    """Return the pictures of an argument that takes one or several.

    Raises:
        TypeError: something else was given.
    """
    if isinstance(pictures, Sequence) and not isinstance(pictures, (str, bytes)):
        return tuple(checked(name, picture) for picture in pictures)
    return (checked(name, pictures),)


def load_pictures(
    pictures: PictureLike | Sequence[PictureLike], loaded: dict[str, Media], stretch: bool = False
) -> tuple[Media, ...]:
    """Load the pictures of one prompt, one or several; `loaded` is a cache by path or content, and is added to.

    Raises:
        InputError: as `load_picture`.
        TypeError: they are no pictures.
    """
    media = []
    for picture in listed("pictures", pictures):
        if is_path(picture):
            key = os.fspath(picture)
            if key not in loaded:
                loaded[key] = load_picture(key, stretch)
            media.append(loaded[key])
        else:
            given = load_given(picture, stretch)
            # No path has this character. The same media again, so that they are processed once.
            media.append(given if given is picture else loaded.setdefault(f"{given.source}\0{given.sha256}", given))
    return tuple(media)


def load_given(picture: PictureLike, stretch: bool = False) -> Media:
    """Return a picture as `load_picture` returns one of the same content, and loaded media as they are.

    The SHA-256 of what has no file is that of its upright pixels and their size.

    Args:
        picture: a path; a PIL image, whose current frame is used; an array (H, W, 3) uint8, upright RGB; or
            loaded media.
        stretch: as in `load_picture`.

    Raises:
        InputError: as `load_picture`.
        TypeError: it is nothing of these.
    """
    checked("picture", picture)
    if isinstance(picture, (str, os.PathLike)):
        return load_picture(picture, stretch)
    if isinstance(picture, Media):
        return picture
    name, notes = UNNAMED, tuple[str, ...]()
    if isinstance(picture, Image.Image):
        file = os.fsdecode(getattr(picture, "filename", "") or "")
        name = os.path.basename(file) or UNNAMED  # noqa: PTH119  pathlib has no name for `/`
        frame, notes = pixels_of(picture, printable(name), stretch)
    else:
        check_size(picture.shape[1], picture.shape[0], name)
        frame = np.array(picture, order="C")  # a copy: the caller may draw into it later
    height, width, _ = frame.shape
    digest = sha256(f"{width}x{height}\0".encode() + frame.tobytes()).hexdigest()
    return picture_media(frame, name, digest, notes)
