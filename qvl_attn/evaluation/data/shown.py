"""Pictures and clips of a data set: found within its folder, opened once each, known by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_attn.core.errors import InputError
from qvl_attn.media.image import _of_bytes, check_local, fingerprint, is_clip, printable, upright_size_px
from qvl_attn.media.video import open_clip

# Gives the bytes of a picture that is no file of its own.
Reader = Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture or clip of a sample.

    Attributes:
        kind: `picture` or `clip`.
        name: as it was written.
        size_px: (width, height), upright.
        source: where it lies, or what reads it.
        frame_count: of a clip, how many it has.
        identity: the same for the same picture, however it was written.
        fingerprint: the same for the same content, wherever it lies.
    """

    kind: str
    name: str
    size_px: tuple[int, int]
    source: Path | Reader
    frame_count: int = 1
    identity: str = ""
    fingerprint: str = ""


class Root:
    """Finds files that stay within a folder, each opened once however many samples are about it."""

    def __init__(self, root: Path | None, readers: Mapping[str, Reader]) -> None:
        self._root = root
        self._real = Path() if root is None else root.resolve()
        self._readers = readers
        self._found: dict[tuple[str, str], Shown] = {}

    def find(self, name: str, kind: str) -> Shown:
        """A picture or clip by its name.

        Raises:
            InputError: outside of the folder, not there, or not such a file.
        """
        if (name, kind) not in self._found:
            self._found[name, kind] = self._open(name, kind)
        return self._found[name, kind]

    def _open(self, name: str, kind: str) -> Shown:
        if name in self._readers:
            reader = self._readers[name]
            data = reader()
            size_px = upright_size_px(data, printable(name))
            return Shown(kind, name, size_px, reader, identity=name, fingerprint=_of_bytes([data], len(data)))
        check_local(name)
        if self._root is None:
            raise InputError(f"{printable(name)} is a file beside the data set", "name its folder with --data-root")
        path = self._root / name
        try:
            real = path.resolve()
            within = real.is_relative_to(self._real) and not (real.is_dir() and self._leads_out(real))
        except (OSError, ValueError, RuntimeError):  # too long, a null character, links in a circle
            raise InputError(f"{printable(name)} is not a path") from None
        if not within:
            raise InputError(f"{printable(name)} leads out of the data root {self._root}", "set --data-root")
        if kind == "clip":
            footage = open_clip(path)
            return Shown(kind, name, footage.size_px, path, len(footage.times_s), str(real), fingerprint(real))
        if is_clip(name):
            raise InputError(f"{printable(name)} is a clip", "write it as video")
        size_px = upright_size_px(path, printable(name))
        return Shown(kind, name, size_px, path, identity=str(real), fingerprint=fingerprint(real))

    def _leads_out(self, folder: Path) -> bool:
        return any(not file.resolve().is_relative_to(self._real) for file in folder.iterdir() if file.is_symlink())
