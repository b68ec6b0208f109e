"""The samples of a data set: records and their media files, all checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError, QvlAttnError
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument, pluralize, quoted
from qvl_attn.evaluation.data.question_sets import PromptItem
from qvl_attn.evaluation.data.rows import BOX_UNITS, Box, Faults, Row, parse_row
from qvl_attn.media.image import _hash_parts, check_local, fingerprint, is_clip, is_picture, printable, upright_size_px
from qvl_attn.media.video import open_clip

STAGE = "checking the data"
# Returns the bytes of a picture that is stored inside a data set instead of in a file.
Reader = Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class MediaRef:
    """A picture or clip of a sample.

    Attributes:
        kind: `picture` or `clip`.
        name: the name as the record spells it.
        size_px: (width, height), upright.
        source: the path, or the function that reads the bytes.
        frame_count: the number of frames of a clip; 1 for a picture.
        identity: equal for two references to the same file, however they spell it.
        fingerprint: equal for files with the same content, whatever their path.
    """

    kind: str
    name: str
    size_px: tuple[int, int]
    source: Path | Reader
    frame_count: int = 1
    identity: str = ""
    fingerprint: str = ""


class Root:
    """Resolves names to files inside a folder. Each file is opened once, however many samples refer to it."""

    def __init__(self, root: Path | None, readers: Mapping[str, Reader]) -> None:
        self._root = root
        self._real = Path() if root is None else root.resolve()
        self._readers = readers
        self._media_refs: dict[tuple[str, str], MediaRef] = {}

    def find(self, name: str, kind: str) -> MediaRef:
        """Return the picture or clip of a name.

        Raises:
            InputError: it is outside the folder, does not exist, or is not a file of this kind.
        """
        if (name, kind) not in self._media_refs:
            self._media_refs[name, kind] = self._open(name, kind)
        return self._media_refs[name, kind]

    def _open(self, name: str, kind: str) -> MediaRef:
        if name in self._readers:
            reader = self._readers[name]
            data = reader()
            size_px = upright_size_px(data, printable(name))
            return MediaRef(kind, name, size_px, reader, identity=name, fingerprint=_hash_parts([data], len(data)))
        check_local(name)
        if self._root is None:
            raise InputError(
                f"{printable(name)} is a file outside the data set", f"name its folder with {argument('data_root')}"
            )
        path = self._root / name
        try:
            real = path.resolve()
            within = real.is_relative_to(self._real) and not (real.is_dir() and self._links_outside(real))
        except (OSError, ValueError, RuntimeError):  # too long, a null character, a loop of links
            raise InputError(f"{printable(name)} is not a path") from None
        if not within:
            raise InputError(f"{printable(name)} is outside the data root {self._root}", f"set {argument('data_root')}")
        if kind == "clip":
            video = open_clip(path)
            return MediaRef(kind, name, video.size_px, path, len(video.times_s), str(real), fingerprint(real))
        if is_clip(name):
            raise InputError(f"{printable(name)} is a clip", "name it in the field video")
        size_px = upright_size_px(path, printable(name))
        return MediaRef(kind, name, size_px, path, identity=str(real), fingerprint=fingerprint(real))

    def _links_outside(self, folder: Path) -> bool:
        return any(not file.resolve().is_relative_to(self._real) for file in folder.iterdir() if file.is_symlink())


# All words that are commands have it; a question without it is checked without a model.
COMMAND_MARK = "<"
# How far a box may extend beyond the picture, because annotations are rounded; it is clipped to the picture.
SLACK_PX = 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A question about pictures or a clip, with the boxes of its evidence.

    Attributes:
        place: the position in the data set, such as `line 3`.
        id: unique in the data set.
        media_refs: the pictures of the prompt, or the clip.
        question: the question.
        answers: the accepted answers; empty if none is known.
        boxes_px: (G, 4) float64 xyxy in pixels of the upright picture, inside it.
        frames: (G,) int64, the frame number of each box of a clip, or the picture number of each box of a prompt.
        group: equal for samples that share a picture, directly or through other samples: they are not independent.
        index: the number of samples before it in the data set.
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
        """The names of the media: samples with the same names are about the same pictures."""
        return tuple(media_ref.name for media_ref in self.media_refs)

    @property
    def is_clip(self) -> bool:
        """Whether the sample is about a clip."""
        return self.media_refs[0].kind == "clip"

    @property
    def evidence(self) -> str:
        """A hash of the pictures' content and the boxes, 16 hex digits."""
        pictures = "\0".join(media_ref.fingerprint for media_ref in self.media_refs).encode()
        return sha256(pictures + b"\1" + self.boxes_px.tobytes() + self.frames.tobytes()).hexdigest()[:16]

    def unit_boxes(self, picture: int = 0) -> NDArray[np.float64]:
        """Return the boxes of one picture, or all boxes of the clip, (G', 4) xyxy as shares of its sides."""
        boxes_px = self.boxes_px if self.is_clip else self.boxes_px[self.frames == picture]
        return np.asarray(boxes_px / np.tile(self.media_refs[0 if self.is_clip else picture].size_px, 2))


def picture_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Yield a record without a question for each picture in a folder and its subfolders, or for one picture file."""
    if path.is_file():
        yield path.name, {"id": path.name, "image": path.name}
        return
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")) and _may_be_picture(file):
            yield name, {"id": name, "image": name}


def _may_be_picture(file: Path) -> bool:
    """Whether a file starts like a picture. True if it cannot be read, so that it is reported as a fault later."""
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
    question_check: Callable[[], Callable[[str], None]] = lambda: lambda question: None,
    progress: Progress = no_progress,
) -> list[Sample]:
    """Check all records and their files, and report all faults at once.

    Args:
        records: pairs of a place and a JSON value.
        root: the folder that paths are relative to and must stay inside; None if no files are allowed.
        faults: the faults so far.
        prompts: the questions for each record without a question.
        readers: the readers of pictures that are not files, by name.
        question_check: as in `load_samples`.
        progress: as in `load_samples`.

    Raises:
        InputError: lists every fault with its place and field.
    """
    suspects = [
        (f"{argument('prompts')} {item.id}", item.question) for item in prompts if COMMAND_MARK in item.question
    ]
    resolver = Root(root, {} if readers is None else readers)
    samples: list[Sample] = []
    places: dict[str, str] = {}
    sample_ids: list[tuple[str, str]] = []
    done = 0
    for done, (place, value) in enumerate(records, 1):
        before = len(faults.lines)
        row = parse_row(value, place, faults)
        if row is not None:
            if row.id in places:
                faults.add(place, "id", f"{quoted(row.id)} is already used at {places[row.id]}")
            elif row.id:
                places[row.id] = place
                names = [row.id] if row.question is not None else [f"{row.id}/{item.id}" for item in prompts]
                sample_ids += [(name, place) for name in names]
            media_refs = _find_media(row, resolver, faults)
            boxes = _clipped_boxes(row, media_refs, faults) if media_refs else []
            if row.question is not None and COMMAND_MARK in row.question:
                suspects.append((place, row.question))
            if row.question is None and not prompts:
                faults.add(row.place, "question", f"missing, and no {argument('prompts')} are given")
            if len(faults.lines) == before:
                samples += _samples(row, media_refs, boxes, prompts)
        progress(STAGE, done, 0)
    _check_sample_ids(sample_ids, faults)
    if suspects:
        _check_questions(suspects, question_check, faults)
    if faults.lines:
        raise all_faults(faults.lines)
    if not samples:
        raise InputError("the data set has no samples")
    progress(STAGE, done, done)
    return _grouped(samples)


def all_faults(lines: Sequence[str], hint: str = "") -> InputError:
    """Return one error that lists all faults of a data set."""
    return InputError(f"the data set has {pluralize(len(lines), 'fault')}", hint, tuple(lines))


def _grouped(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with their index and group; a group is named by its alphabetically first media name."""
    parents: dict[str, str] = {}

    def root(picture: str) -> str:
        while parents.setdefault(picture, picture) != picture:
            parents[picture] = parents[parents[picture]]
            picture = parents[picture]
        return picture

    for sample in samples:
        first, *others = (media_ref.identity for media_ref in sample.media_refs)
        for identity in others:
            parents[root(identity)] = root(first)
    names: dict[str, str] = {}
    for sample in samples:
        group = root(sample.media_refs[0].identity)
        names[group] = min([*sample.names, *([names[group]] if group in names else [])])
    return [
        replace(sample, group=names[root(sample.media_refs[0].identity)], index=i) for i, sample in enumerate(samples)
    ]


def _check_sample_ids(ids: Sequence[tuple[str, str]], faults: Faults) -> None:
    """Find ids, each with its place, that are no longer unique after a question's id was appended to the record's."""
    places: dict[str, str] = {}
    for name, place in ids:
        if name in places:
            message = f"{quoted(name)}, with the id of its question, is already used at {places[name]}"
            faults.add(place, "id", message)
        places.setdefault(name, place)


def _check_questions(
    questions: Sequence[tuple[str, str]], question_check: Callable[[], Callable[[str], None]], faults: Faults
) -> None:
    """Check questions, each with its place. The faults so far are raised if there is no model to check them with."""
    try:
        check = question_check()
    except QvlAttnError as error:
        if not faults.lines:
            raise
        raise all_faults(faults.lines, f"questions with {COMMAND_MARK} are not checked yet: {error.message}") from None
    for place, question in questions:
        try:
            check(question)
        except InputError as error:
            faults.add(place, "question", str(error))


def _find_media(row: Row, resolver: Root, faults: Faults) -> tuple[MediaRef, ...]:
    """Return the pictures or the clip of a record; nothing if one of them has a fault."""
    media_refs = []
    for path in row.paths:
        try:
            media_refs.append(resolver.find(path, "clip" if row.media == "video" else "picture"))
        except InputError as error:
            faults.add(row.place, row.media, str(error))
    return tuple(media_refs) if len(media_refs) == len(row.paths) else ()


def _samples(
    row: Row, media_refs: tuple[MediaRef, ...], boxes: Sequence[Sequence[float]], prompts: Sequence[PromptItem]
) -> list[Sample]:
    sample = Sample(
        place=row.place,
        id=row.id,
        media_refs=media_refs,
        question=row.question or "",
        answers=row.answers,
        boxes_px=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        frames=np.array(row.frames, dtype=np.int64),
    )
    if row.question is not None:
        return [sample]
    return [replace(sample, id=f"{row.id}/{item.id}", question=item.question) for item in prompts]


def _clipped_boxes(row: Row, media_refs: Sequence[MediaRef], faults: Faults) -> list[list[float]]:
    """Return the boxes without a fault as xyxy in pixels, clipped to their pictures."""
    places = zip(row.boxes, row.frames, strict=False)  # frames with a fault are not there
    return [
        _clipped_box(row, i, box, frame, media_refs, faults) for i, (box, frame) in enumerate(places) if box is not None
    ]


def _clipped_box(
    row: Row, i: int, xyxy: Box, frame: int, media_refs: Sequence[MediaRef], faults: Faults
) -> list[float]:
    """Return a box as xyxy in pixels, clipped to the picture."""
    per_side, field = BOX_UNITS[row.box_units], f"boxes[{i}]"
    media_ref = media_refs[0 if row.media == "video" or frame >= len(media_refs) else frame]
    if row.media == "video" and frame >= media_ref.frame_count:
        faults.add(row.place, "frame", f"frame {frame} does not exist: want 0 to {media_ref.frame_count - 1}")
    width, height = media_ref.size_px
    sides = (width, height, width, height)
    box = [value if per_side is None else value / per_side * side for value, side in zip(xyxy, sides, strict=True)]
    clipped = [min(max(value, 0.0), float(side)) for value, side in zip(box, sides, strict=True)]
    text = f"{', '.join(f'{value:g}' for value in xyxy)} ({row.box_units}, as xyxy)"
    if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > SLACK_PX:
        faults.add(row.place, field, f"{text} extends beyond the picture of {width} x {height} px: wrong box_units?")
    elif max(box) <= 1 < min(width, height):
        faults.add(row.place, field, f"{text} is smaller than a pixel: wrong box_units?")
    elif clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        faults.add(row.place, field, f"{text} has no area inside the picture of {width} x {height} px")
    return clipped
