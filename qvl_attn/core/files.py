"""Files: safe names, folders that are created completely or not at all, and NPZ, JSON and PNG of any content."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout
from PIL import Image

from qvl_attn.core.errors import InputError, ResultExistsError, StoreError
from qvl_attn.core.text import argument, json_fault
from qvl_attn.core.typed_json import parse_json

_DRAFT_LOCK = ".lock"
MAX_NPZ_BYTES = 8 * 2**30
MAX_JSON_BYTES = 256 * 2**20
MAX_PNG_PIXELS = 89_478_485
# Kinds of NumPy types in our files: truth values, whole numbers, floats, text.
_KINDS = "biufU"
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}


def slug(text: str, limit: int = 40) -> str:
    """Return a text as part of a file name: letters and digits of any script, at most `limit` bytes; never empty."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())
    name = "-".join(words).encode()[:limit].decode(errors="ignore").strip("-")
    return f"{name}-" if name in _RESERVED else name or "x"


def path_fault(error: OSError | ValueError) -> str:
    """Return why a path cannot be opened; a ValueError is raised for a null character or half of a surrogate pair."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"


def check_writable(folder: Path) -> None:
    """Check that results can be written to a folder, before anything is computed; create the folder if it is missing.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    try:
        file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        if file is not None:
            raise InputError(
                f"{argument('out', folder)}: {file} is a file, and results go into a folder", "name a folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{argument('out', folder)}: cannot be written to ({path_fault(error)})", "choose another folder"
        ) from None


def check_new(target: Path, name: str = "out", *, empty_folder: bool = True) -> None:
    """Check that a folder or file can be created without replacing anything.

    Args:
        target: the path to create.
        name: the argument that it is the value of.
        empty_folder: whether an empty folder of that name is allowed.

    Raises:
        InputError: the path already exists, or the name is invalid.
    """
    try:
        target.lstat()
        if empty_folder and target.is_dir() and not any(target.iterdir()):
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(
            f"{argument(name, target)}: cannot be created ({path_fault(error)})", "name another one"
        ) from None
    raise InputError(f"{argument(name, target)}: already exists", "name another one")


@contextmanager
def whole_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a result folder: a draft folder beside `target` is renamed to it once all its files are on disk.

    An error leaves an older result unchanged. A rename can replace only an empty folder, so the old result is moved
    aside first, and moved back if the new one cannot take its place; a kill between the two leaves it in `.old-*`.

    Args:
        target: the folder to create.
        overwrite: whether a complete result may be replaced.

    Yields:
        The draft folder.

    Raises:
        ResultExistsError: a complete result already exists.
        StoreError: the folder cannot be written.
    """
    with _draft_of(target) as draft:
        yield draft
        (draft / _DRAFT_LOCK).unlink(missing_ok=True)
        sync_folder(draft)
        _put_in_place(draft, target, overwrite)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Write a new folder: a draft folder beside `target` is renamed to it once all its files are on disk.

    Nothing is replaced except an empty folder, even if `target` was created in the meantime.

    Args:
        target: the folder to create.

    Yields:
        The draft folder.

    Raises:
        InputError: `target` already exists.
        StoreError: the folder cannot be written.
    """
    with _draft_of(target) as draft:
        yield draft
        (draft / _DRAFT_LOCK).unlink(missing_ok=True)
        sync_folder(draft)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise InputError(f"{target} already exists", "name another folder") from None


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_drafts(target.parent)
        draft, lock = _locked_draft(target.parent)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot write to {target.parent}: {path_fault(error)}", f"choose another folder with {argument('out')}"
        ) from None
    try:
        draft.chmod(0o777 & ~_umask())
        yield draft
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}", "nothing was changed") from None
    finally:
        lock.release()
        shutil.rmtree(draft, ignore_errors=True)


def _draft_prefix() -> str:
    return f".draft-{slug(platform.node())}."


def _locked_draft(folder: Path) -> tuple[Path, BaseFileLock]:
    while True:
        draft = Path(tempfile.mkdtemp(prefix=_draft_prefix(), dir=folder))
        lock = FileLock(draft / _DRAFT_LOCK, timeout=10)
        try:
            lock.acquire()
        except (OSError, NotImplementedError, Timeout):  # a disk without locks
            (draft / _DRAFT_LOCK).unlink(missing_ok=True)  # so nobody takes the draft for an abandoned one
            return draft, lock
        if (draft / _DRAFT_LOCK).exists():  # else another process cleared it before it was locked
            return draft, lock
        lock.release()


def _clear_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes of this machine left.

    Who writes a draft holds the lock in it, which the system frees when the process ends in whatever way. Drafts of
    other machines are left alone, because on a shared disk a lock may be seen by one machine only.
    """
    for draft in folder.glob(f"{_draft_prefix()}*"):
        if (draft / _DRAFT_LOCK).is_file():
            with suppress(OSError, NotImplementedError, Timeout), FileLock(draft / _DRAFT_LOCK, timeout=0):
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
            # Another run finished the same result between the two lines above.
        else:
            return
    if (target / "result.json").exists() and not overwrite:
        raise ResultExistsError(f"{target} already exists", f"{argument('overwrite', True)} replaces it")
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent)) / target.name  # a kill leaves it there
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        old.rename(target)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entries to disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _synced(path: Path) -> Iterator[Any]:
    """Open a draft file that replaces `path` once all of it is on disk."""
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
    """Write (H, W, 3) uint8 RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _synced(path) as stream:
        # Blended pictures have hardly any repeats: this takes half the time and gives about as many bytes.
        Image.fromarray(pixels).save(stream, format="PNG", compress_type=zlib.Z_RLE)


def read_png(path: Path, size_px: tuple[int, int] | None = None) -> np.ndarray:
    """Read a PNG as (H, W, 3) uint8 RGB.

    Args:
        path: the file.
        size_px: (width, height) that it must have; None for any.

    Raises:
        StoreError: the file is missing, not a PNG, broken, of another size, or larger than `MAX_PNG_PIXELS`.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if size_px is not None and picture.size != size_px:
                raise StoreError(f"{path} has {picture.width} x {picture.height} px, not {size_px[0]} x {size_px[1]}")
            if picture.width * picture.height > MAX_PNG_PIXELS:
                raise StoreError(f"{path} has more than {MAX_PNG_PIXELS} pixels")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read as a PNG ({type(error).__name__})") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed NPZ file.

    Raises:
        ValueError: an array has dtype object, which only a pickle could hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _synced(path) as stream:
        _write_arrays(stream, arrays)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes that `write_npz` would write."""
    stream = BytesIO()
    _write_arrays(stream, arrays)
    return stream.getvalue()


def _write_arrays(stream: Any, arrays: Mapping[str, np.ndarray]) -> None:
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"{objects[0]} is an array of objects")
    keywords: dict[str, Any] = dict(arrays)
    np.savez_compressed(stream, **keywords)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object; NaN and infinities raise a ValueError."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; lone surrogates, which file names may hold, are written as escapes that JSON can read."""
    with _synced(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an NPZ file, each unpacked when it is asked for first; nothing is unpickled.

    Names and sizes are checked first. Arrays that no reader asks for, which a file may have, cost nothing.

    Args:
        source: a file, or the bytes of `npz_bytes`.
        max_bytes: limit on the size of all arrays that are asked for.

    Raises:
        StoreError: not an NPZ file; later, for an array: it is damaged, or too large.
    """

    def __init__(self, source: Path | BytesIO, max_bytes: int) -> None:
        self._name = source if isinstance(source, Path) else "the received data"
        self._max_bytes, self._bytes = max_bytes, 0
        self._arrays: dict[str, np.ndarray] = {}
        with self._naming():
            self._archive = zipfile.ZipFile(source)  # closed with this object
        files = [name for name in self._archive.namelist() if name.endswith(".npy")]
        self._names = dict.fromkeys(name.removesuffix(".npy") for name in files)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._arrays:
            with self._naming():
                self._arrays[name] = self._unpacked(name)
        return self._arrays[name]

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # zipfile and NumPy's header parser raise almost any type
            raise StoreError(f"{self._name} cannot be read as arrays ({type(error).__name__})") from None

    def _unpacked(self, name: str) -> np.ndarray:
        file = self._archive.getinfo(f"{name}.npy")
        self._bytes += file.file_size
        if self._bytes > self._max_bytes:
            raise StoreError(
                f"{self._name} would unpack to {self._bytes / 2**30:.1f} GiB",
                f"the limit is {self._max_bytes / 2**30:g} GiB",
            )
        with self._archive.open(file) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(stream)
            if dtype.kind not in _KINDS:
                raise StoreError(f"{self._name}: {name} has numbers of type {dtype}, which no result has")
            # Room is made for what the header says.
            if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != file.file_size - stream.tell():
                raise StoreError(f"{self._name}: {name} does not have the size that it states")
            array = np.empty(shape, dtype, "F" if fortran_order else "C")
            array.reshape(-1, order="A").view(np.uint8)[:] = np.frombuffer(stream.read(array.nbytes), np.uint8)
        return array


def read_npz(path: Path | BytesIO, max_bytes: int | None = None) -> Arrays:
    """Open an NPZ file.

    Args:
        path: a file, or the bytes of `npz_bytes`.
        max_bytes: limit on the size of all arrays that are asked for; by default `MAX_NPZ_BYTES`.

    Raises:
        StoreError: not an NPZ file.
    """
    return Arrays(path, MAX_NPZ_BYTES if max_bytes is None else max_bytes)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: the file is missing, larger than `MAX_JSON_BYTES`, or not a JSON object with finite numbers.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise StoreError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB")
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path.parent} is not a complete result: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({json_fault(error, type(error).__name__)})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not a JSON object")
    return value
