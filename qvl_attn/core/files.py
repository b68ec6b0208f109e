"""Files: safe names, folders that appear whole or not at all, NPZ, JSON and PNG, whatever is in them."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from qvl_attn.core.errors import InputError, ResultExistsError, StoreError

MAX_NPZ_BYTES = 8 * 2**30
MAX_JSON_BYTES = 256 * 2**20
MAX_PNG_PIXELS = 89_478_485
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}


def slug(text: str, limit: int = 40) -> str:
    """A text as part of a file name: letters and digits of any script, at most `limit` bytes; never empty."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())
    name = "-".join(words).encode()[:limit].decode(errors="ignore").strip("-")
    return f"{name}-" if name in _RESERVED else name or "x"


def check_writable(folder: Path) -> None:
    """Find out before anything is computed whether results can be written into a folder, which is made if need be.

    Raises:
        InputError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to ({error.strerror})", "choose another folder") from None


def check_new(target: Path, option: str = "--out", *, empty_folder: bool = True) -> None:
    """Find out whether a folder or file can be made without touching anything that is there.

    Args:
        target: to be made.
        option: that named it.
        empty_folder: whether an empty folder may be there.

    Raises:
        InputError: something of that name is there already, or no such name can be.
    """
    try:
        target.lstat()
        if empty_folder and target.is_dir() and not any(target.iterdir()):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{option} {target}: cannot be made ({error.strerror})", "name another one") from None
    raise InputError(f"{option} {target}: is there already", "name another one")


@contextmanager
def whole_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write into a folder beside `target` that takes its name only when everything in it is on disk.

    A fault leaves what was there before as it was. A rename replaces a folder only when it is empty, so an old result
    is moved aside first, and back if the new one cannot take its place; a kill between the two leaves it in `.old-*`.

    Args:
        target: the folder to be.
        overwrite: whether a complete result may be replaced.

    Raises:
        ResultExistsError: it is there already.
        StoreError: it cannot be written.
    """
    with _draft_of(target) as draft:
        yield draft
        sync_folder(draft)
        _put_in_place(draft, target, overwrite)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Write into a folder beside `target` that takes its name only when everything in it is on disk.

    Whatever has come to be there in the meantime stays, but for an empty folder.

    Args:
        target: the folder to be.

    Raises:
        InputError: something else took the name first.
        StoreError: it cannot be written.
    """
    with _draft_of(target) as draft:
        yield draft
        sync_folder(draft)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise InputError(f"{target} is there already", "name a folder that is not there") from None


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    except OSError as error:
        raise StoreError(
            f"cannot write to {target.parent}: {error.strerror}", "choose another folder with --out"
        ) from None
    try:
        draft.chmod(0o777 & ~_umask())
        yield draft
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}", "nothing was changed") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put_in_place(draft: Path, target: Path, overwrite: bool) -> None:
    if not target.exists():
        try:
            draft.rename(target)
        except OSError:
            if not (target / "result.json").exists():
                raise
            # another run finished the same result between the two lines above
        else:
            return
    if (target / "result.json").exists() and not overwrite:
        raise ResultExistsError(f"{target} is there already", "--overwrite (overwrite=True) replaces it")
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent)) / target.name  # a kill here leaves it there
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        old.rename(target)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Come back when the names in a folder are on the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _synced(path: Path) -> Iterator[Any]:
    """A file that takes its name when all of it is on the disk, in place of what had it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _synced(path) as stream:
        # Blended pictures have hardly any repeats to look for: this takes half the time, and about as many bytes.
        Image.fromarray(pixels).save(stream, format="PNG", compress_type=zlib.Z_RLE)


def read_png(path: Path) -> np.ndarray:
    """Read (H, W, 3) uint8 RGB that `write_png` wrote, of any shape.

    Raises:
        StoreError: missing, no PNG, broken, or too large.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PNG_PIXELS:
                raise StoreError(f"{path} has more than {MAX_PNG_PIXELS} pixels")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read as a PNG ({type(error).__name__})") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of plain types, compressed.

    Raises:
        ValueError: an array of objects, which only a pickle could hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _synced(path) as stream:
        _save(stream, arrays)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """As `write_npz`, without a file."""
    stream = BytesIO()
    _save(stream, arrays)
    return stream.getvalue()


def _save(stream: Any, arrays: Mapping[str, np.ndarray]) -> None:
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"{objects[0]} is an array of objects")
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(stream, **named)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with every number finite."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; of what is no Unicode (names of files may hold it) the escape that JSON reads back."""
    with _synced(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def read_npz(path: Path | BytesIO, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """Read arrays; nothing is unpickled, and what would be unpacked is bounded first.

    Args:
        path: a file, or what `npz_bytes` made.
        max_bytes: that it may unpack to; by default `MAX_NPZ_BYTES`.

    Raises:
        StoreError: not an NPZ file, or too large.
    """
    limit = MAX_NPZ_BYTES if max_bytes is None else max_bytes
    name = path if isinstance(path, Path) else "what was sent"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > limit:
            raise StoreError(f"{name} would unpack to {size / 2**30:.1f} GiB", f"the limit is {limit / 2**30:g} GiB")
        if isinstance(path, BytesIO):
            path.seek(0)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except StoreError:
        raise
    except Exception as error:  # zipfile and NumPy's parser of headers raise nearly anything
        raise StoreError(f"{name} cannot be read as arrays ({type(error).__name__})") from None


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(typed: str) -> float:
    value = float(typed)
    return value if math.isfinite(value) else _refused(typed)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise StoreError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused, parse_float=_finite)
    except FileNotFoundError:
        raise StoreError(f"{path.parent} is no complete result: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not a JSON object")
    return value
