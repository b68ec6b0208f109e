"""Samples of a data set: records and their files, all checked before a model is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.question_sets import PromptItem
from qvl_attn.evaluation.data.rows import BOX_UNITS, Faults, Row, parse_row
from qvl_attn.media.image import _of_bytes, check_local, fingerprint, is_clip, is_picture, printable, upright_size_px
from qvl_attn.media.video import open_clip

# Gives the bytes of a picture that is no file of its own.
Reader = Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class MediaRef:
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
        self._found: dict[tuple[str, str], MediaRef] = {}

    def find(self, name: str, kind: str) -> MediaRef:
        """A picture or clip by its name.

        Raises:
            InputError: outside of the folder, not there, or not such a file.
        """
        if (name, kind) not in self._found:
            self._found[name, kind] = self._open(name, kind)
        return self._found[name, kind]

    def _open(self, name: str, kind: str) -> MediaRef:
        if name in self._readers:
            reader = self._readers[name]
            data = reader()
            size_px = upright_size_px(data, printable(name))
            return MediaRef(kind, name, size_px, reader, identity=name, fingerprint=_of_bytes([data], len(data)))
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
            video = open_clip(path)
            return MediaRef(kind, name, video.size_px, path, len(video.times_s), str(real), fingerprint(real))
        if is_clip(name):
            raise InputError(f"{printable(name)} is a clip", "write it as video")
        size_px = upright_size_px(path, printable(name))
        return MediaRef(kind, name, size_px, path, identity=str(real), fingerprint=fingerprint(real))

    def _leads_out(self, folder: Path) -> bool:
        return any(not file.resolve().is_relative_to(self._real) for file in folder.iterdir() if file.is_symlink())


MAX_LINE_BYTES = 2**20
MAX_ROWS = 1_000_000
# How far a box may stick out of the picture, since annotations are rounded; it is cut off there.
SLACK_PX = 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A question about pictures or a clip, and where its evidence is.

    Attributes:
        place: where it stands in the data set.
        id: unique in it.
        shown: the pictures of the prompt, or the clip.
        question: what is asked.
        answers: accepted ones; empty if none is known.
        boxes_px: (G, 4) float64 xyxy in the pixels of the upright picture, within it.
        frames: (G,) int64, of a clip the number of each box's frame, of pictures which of them it is on.
        group: the same for samples that share a picture, or are linked by others that do: they are not independent.
        index: how many stand before it in the data set.
    """

    place: str
    id: str
    media_refs: tuple[MediaRef, ...]
    question: str
    answers: tuple[str, ...]
    boxes_px: NDArray[np.float64]
    frames: NDArray[np.int64]
    group: str = ""
    index: int = 0

    def __post_init__(self) -> None:
        if self.boxes_px.shape != (len(self.frames), 4) or not self.media_refs:
            raise ValueError(f"boxes {self.boxes_px.shape}, frames {self.frames.shape}")

    @property
    def names(self) -> tuple[str, ...]:
        """What is shown: samples with the same names are about the same pictures."""
        return tuple(one.name for one in self.media_refs)

    @property
    def is_clip(self) -> bool:
        """Whether it is about a clip."""
        return self.media_refs[0].kind == "clip"

    @property
    def evidence(self) -> str:
        """The same for the same pictures under the same boxes: 16 digits of a hash of their content."""
        pictures = "\0".join(one.fingerprint for one in self.media_refs).encode()
        return sha256(pictures + b"\1" + self.boxes_px.tobytes() + self.frames.tobytes()).hexdigest()[:16]

    def unit_boxes(self, picture: int = 0) -> NDArray[np.float64]:
        """(G', 4) the boxes on one picture, or all of the clip's, in units of its sides."""
        own = self.boxes_px if self.is_clip else self.boxes_px[self.frames == picture]
        return np.asarray(own / np.tile(self.media_refs[0 if self.is_clip else picture].size_px, 2))


def read_jsonl(path: Path, faults: Faults) -> Iterator[tuple[str, object]]:
    """Each line that is not empty, with its place.

    Raises:
        InputError: the file cannot be read, or is too long.
    """
    name = printable(os.fspath(path))
    try:
        with path.open("rb") as lines:
            for number in range(1, MAX_ROWS + 2):
                line = lines.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if number > MAX_ROWS:
                    raise InputError(f"{name} has more than {MAX_ROWS:,} lines", "split it")
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{name}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    if text:
                        yield f"line {number}", json.loads(text)
                except (ValueError, RecursionError):
                    faults.add(f"line {number}", "", "not JSON")
    except OSError as error:
        raise InputError(f"{name} cannot be read: {(error.strerror or 'not a file').lower()}") from None


def picture_rows(path: Path) -> Iterator[tuple[str, object]]:
    """A record for each picture in a folder and the folders in it, or for one picture, without a question."""
    if path.is_file():
        yield path.name, {"id": path.name, "image": path.name}
        return
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")) and _may_be_picture(file):
            yield name, {"id": name, "image": name}


def _may_be_picture(file: Path) -> bool:
    """Whether it begins as one, or cannot be read, which is told as a fault like all others."""
    try:
        with file.open("rb") as stream:
            return is_picture(stream.read(64))
    except OSError:
        return True


def read_samples(
    records: Iterable[tuple[str, object]],
    root: Path | None,
    faults: Faults,
    prompts: Sequence[PromptItem] = (),
    readers: Mapping[str, Reader] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Check all records and their files, and say everything that is wrong at once.

    Args:
        records: each with its place.
        root: the folder that all paths must stay within, and from which they are relative; None for no files at all.
        faults: what is wrong so far.
        prompts: asked of each record that has no question of its own.
        readers: of pictures that are no files, by name.
        progress: told how many records are checked.

    Raises:
        InputError: with every fault, its place and its field.
    """
    within = Root(root, {} if readers is None else readers)
    samples: list[Sample] = []
    first: dict[str, str] = {}
    for done, (place, value) in enumerate(records, 1):
        row = parse_row(value, place, faults)
        if row is not None:
            if row.id in first:
                faults.add(place, "id", f"{row.id!r} stands at {first[row.id]} already")
            first.setdefault(row.id, place)
            samples += _samples(row, within, prompts, faults)
        progress(done)
    if prompts and not faults.lines:
        _check_made_ids(samples, faults)
    if faults.lines:
        raise all_faults(faults.lines)
    if not samples:
        raise InputError("the data set has no sample")
    return _grouped(samples)


def all_faults(lines: Sequence[str]) -> InputError:
    """One error with everything that is wrong with a data set."""
    return InputError(f"the data set has {len(lines)} fault{'s' if len(lines) > 1 else ''}", "", tuple(lines))


def _grouped(samples: Sequence[Sample]) -> list[Sample]:
    """Samples numbered, and with their groups, each named by the first name in it wherever that lies."""
    parents: dict[str, str] = {}

    def root(picture: str) -> str:
        while parents.setdefault(picture, picture) != picture:
            parents[picture] = parents[parents[picture]]
            picture = parents[picture]
        return picture

    for one in samples:
        first, *others = (media_refs.identity for media_refs in one.media_refs)
        for other in others:
            parents[root(other)] = root(first)
    names: dict[str, str] = {}
    for one in samples:
        group = root(one.media_refs[0].identity)
        names[group] = min([*one.names, *([names[group]] if group in names else [])])
    return [replace(one, group=names[root(one.media_refs[0].identity)], index=i) for i, one in enumerate(samples)]


def _check_made_ids(samples: Sequence[Sample], faults: Faults) -> None:
    """Ids of records stand once; with those of questions behind them they might not."""
    places: dict[str, str] = {}
    for one in samples:
        if one.id in places:
            faults.add(one.place, "id", f"{one.id!r}, with that of its question, stands at {places[one.id]} already")
        places.setdefault(one.id, one.place)


def _samples(row: Row, root: Root, prompts: Sequence[PromptItem], faults: Faults) -> list[Sample]:
    kind = "clip" if row.media == "video" else "picture"
    media_refs = []
    for path in row.paths:
        try:
            media_refs.append(root.find(path, kind))
        except InputError as error:
            faults.add(row.place, row.media, str(error))
    if len(media_refs) < len(row.paths):
        return []
    boxes = [_within(row, i, media_refs, faults) for i in range(len(row.boxes))]
    if row.question is None and not prompts:
        faults.add(row.place, "question", "missing, and no --prompts are asked instead")
        return []
    one = Sample(
        place=row.place,
        id=row.id,
        media_refs=tuple(media_refs),
        question=row.question or "",
        answers=row.answers,
        boxes_px=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        frames=np.array(row.frames, dtype=np.int64),
    )
    if row.question is not None:
        return [one]
    return [replace(one, id=f"{row.id}/{item.id}", question=item.question) for item in prompts]


def _within(row: Row, i: int, media_refs: Sequence[MediaRef], faults: Faults) -> list[float]:
    """A box in pixels, cut off at the picture's edges."""
    frame, per_side, field = row.frames[i], BOX_UNITS[row.box_units], f"boxes[{i}]"
    one = media_refs[0 if row.media == "video" or frame >= len(media_refs) else frame]
    if row.media == "video" and frame >= one.frame_count:
        faults.add(row.place, "frame", f"there is no frame {frame}: they are 0 to {one.frame_count - 1}")
    width, height = one.size_px
    sides = (width, height, width, height)
    box = [
        value if per_side is None else value / per_side * side for value, side in zip(row.boxes[i], sides, strict=True)
    ]
    cut = [min(max(value, 0.0), float(side)) for value, side in zip(box, sides, strict=True)]
    named = f"{', '.join(f'{value:g}' for value in row.boxes[i])} ({row.box_units}, as xyxy)"
    if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > SLACK_PX:
        faults.add(row.place, field, f"{named} leaves the picture of {width} x {height} px: is it in other units?")
    elif max(box) <= 1 < min(width, height):
        faults.add(row.place, field, f"{named} is smaller than a pixel: is it in other units?")
    elif cut[0] >= cut[2] or cut[1] >= cut[3]:
        faults.add(row.place, field, f"{named} has no area within the picture of {width} x {height} px")
    return cut
