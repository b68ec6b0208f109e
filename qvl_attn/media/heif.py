"""HEIC pictures, those of phones: told from other files, and read where pillow-heif is installed."""

from __future__ import annotations

from qvl_attn.core.errors import InputError

# Major brands of ISO/IEC 23008-12; `mif1` and `msf1` are containers of AVIF, too.
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
# Enough of a file for its `ftyp` box.
HEAD_BYTES = 256


def is_heif(head: bytes) -> bool:
    """Whether a file with these first `HEAD_BYTES` is a HEIC picture; an AVIF picture is none."""
    if head[4:8] != b"ftyp" or head[8:12] not in _BRANDS:
        return False
    end = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    return not _AVIF_BRANDS & {head[i : i + 4] for i in range(16, end, 4)}


def heif_format(name: str) -> str:
    """Return the name of Pillow's format for HEIC pictures, after making it known to Pillow.

    Args:
        name: the path of a HEIC picture, made printable.

    Raises:
        InputError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"{name} is a HEIC picture, and pillow-heif is not installed",
            "pip install 'qvl-attn[heif]', or save it as JPEG or PNG",
        ) from None
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return "HEIF"
