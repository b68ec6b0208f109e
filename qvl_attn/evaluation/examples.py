"""What a run keeps of a sample to show it later, without the model and without the data set: pictures, map, boxes.

A small file each in the run's `gallery`. Which samples have one beside the best and the worst is a random choice that a
hash of their ids gives: those of a whole data set are among those of its parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.attribution.regions import step_boxes
from qvl_attn.core.errors import StoreError
from qvl_attn.core.files import npz_bytes, read_npz, slug, write_npz
from qvl_attn.core.types import FloatArray, HeatMap
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.render.html.payload import jpeg
from qvl_attn.results.figures import MAX_STEPS, shown_steps
from qvl_attn.vqa.figures import first_frames
from qvl_attn.vqa.result import Result

SCHEMA_VERSION = 1
# How many are chosen at random, and how large a picture is at most, alone or beside others.
SHOWN, LONGEST_PX, SEVERAL_PX = 48, 480, 280
FOLDER = "gallery"
# Of what is read back, which anybody may have written.
MAX_EXAMPLES, MAX_BYTES, MAX_JPEG_BYTES, MAX_BOXES = 64, 4 * 2**20, 2**20, 4096
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True, eq=False, repr=False)
class Example:
    """A sample as it is shown: n pictures of its prompt, or n steps of its clip, with the headline's plain map.

    Attributes:
        id: of the sample.
        jpegs: n JPEG files, at most `LONGEST_PX` on their longest side.
        values: (h, w) float32 of each, attention as the softmax gave it.
        boxes: (G, 4) float64 of each, xyxy in units of the picture's sides.
        places: which pictures of the prompt, or steps of the clip, they are, ascending from 0.
        of: how many of those there are.
        times_s: of a clip, when each step begins; none of pictures.
        uniform: the value that every cell of the prompt would have if the same attention were spread evenly.
        high: the value that is drawn brightest, the 99.5th percentile of all cells of the prompt.

    Raises:
        ValueError: it is not so.
    """

    id: str
    jpegs: tuple[bytes, ...]
    values: tuple[FloatArray, ...]
    boxes: tuple[NDArray[np.float64], ...]
    places: tuple[int, ...]
    of: int
    times_s: tuple[float, ...]
    uniform: float
    high: float

    def __post_init__(self) -> None:
        counts = {len(self.jpegs), len(self.values), len(self.boxes), len(self.places)}
        _require(len(counts) == 1 and 1 <= len(self.jpegs) <= MAX_STEPS, f"pictures, maps, boxes, places: {counts}")
        _require(len(self.times_s) in (0, len(self.jpegs)), f"{len(self.times_s)} times")
        _require(bool(np.isfinite(self.times_s).all()), "times_s: not finite")
        ascending = sorted({*self.places}) == list(self.places)
        _require(ascending and self.places[0] >= 0 and self.places[-1] < self.of, f"places {self.places} of {self.of}")
        _require(bool(np.isfinite([self.uniform, self.high]).all()), f"uniform {self.uniform}, high {self.high}")
        _require(min(self.uniform, self.high) > 0, f"uniform {self.uniform}, high {self.high}")
        for picture, values, boxes in zip(self.jpegs, self.values, self.boxes, strict=True):
            _require(len(picture) <= MAX_JPEG_BYTES, f"a picture of {len(picture)} bytes")
            _require(picture.startswith(_JPEG_BEGIN) and picture.endswith(_JPEG_END), "a picture is no JPEG")
            _require(values.dtype == np.float32 and values.ndim == 2 and values.size > 0, "values: want float32 (h, w)")
            _require(bool(np.isfinite(values).all() and (values >= 0).all()), "values: not attention")
            _require(boxes.dtype == np.float64 and boxes.shape == (len(boxes), 4), "boxes: want float64 (G, 4)")
            _require(len(boxes) <= MAX_BOXES, f"{len(boxes)} boxes")
            _require(bool(np.isfinite(boxes).all()), "boxes: not finite")

    def __repr__(self) -> str:
        return f"Exhibit({self.id!r}, {len(self.jpegs)} of {self.of})"

    @property
    def is_clip(self) -> bool:
        """Whether it shows steps of a clip."""
        return bool(self.times_s)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def chosen_examples(ids: Iterable[str]) -> frozenset[str]:
    """Which of a run's samples are chosen at random: those whose ids have the smallest hashes."""
    return frozenset(nsmallest(SHOWN, ids, key=lambda name: sha256(name.encode()).digest()))


def example_file(name: str) -> str:
    """Where the exhibit of the sample with an id lies, from the folder of its run."""
    return f"{FOLDER}/{slug(name, 48)}-{sha256(name.encode()).hexdigest()[:8]}.npz"


def shown_boxes(sample: Sample, result: Result, places: Sequence[int]) -> list[NDArray[np.float64]]:
    """For each of some pictures of the prompt, or steps of the clip, its boxes, (G, 4) xyxy in units of its sides."""
    if not sample.is_clip:
        return [sample.unit_boxes(i) for i in places]
    there = step_boxes(result.capture.grids[0], sample.unit_boxes(), sample.frames)
    return [there.get(step, np.zeros((0, 4))) for step in places]


def example_of(sample: Sample, result: Result) -> Example:
    """What is kept of an answered sample: the plain map of its headline, whatever methods were asked for.

    Raises:
        CaptureError: there is no attention to show.
    """
    maps = result.heatmaps(query=result.settings.query)
    clip, grid, times = sample.is_clip, result.capture.grids[0], ()
    if clip:
        places, of = shown_steps(maps[0].values), grid.shape[0]
        pictures = first_frames(result, places)
        values = [maps[0].values[step] for step in places]
        times = tuple(grid.times_s[list(places), 0].tolist())
    else:
        places, of = _shown_pictures(sample, maps), len(maps)
        pictures = [result.media[i].frames[0] for i in places]
        values = [maps[i].values[0] for i in places]
    jpegs, longest_px = [], LONGEST_PX if len(places) == 1 else SEVERAL_PX
    for place, picture in zip(places, pictures, strict=True):
        size_px = result.media[0 if clip else place].size_px
        jpegs.append(jpeg(resize_picture(picture, fit_px(size_px, min(longest_px, max(picture.shape[:2]))))))
    return Example(
        id=sample.id,
        jpegs=tuple(jpegs),
        values=tuple(values),
        boxes=tuple(boxes[:MAX_BOXES] for boxes in shown_boxes(sample, result, places)),
        places=places,
        of=of,
        times_s=times,
        uniform=maps[0].uniform,
        high=maps[0].scale.high,
    )


def _shown_pictures(sample: Sample, maps: Sequence[HeatMap]) -> tuple[int, ...]:
    """Of a prompt with many pictures those with boxes, and then those of the strongest cells."""
    boxed = set(sample.frames.tolist())
    order = sorted(range(len(maps)), key=lambda i: (i not in boxed, -float(maps[i].values.max())))
    return tuple(sorted(order[:MAX_STEPS]))


def write_example(folder: Path, example: Example) -> None:
    """Write an exhibit to the folder of its run, in place of what is there.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / example_file(example.id)
    path.parent.mkdir(exist_ok=True)
    write_npz(path, _arrays(example))


def example_bytes(example: Example) -> bytes:
    """An exhibit as it goes from one process to another."""
    return npz_bytes(_arrays(example))


def example_from(data: bytes) -> Example:
    """What `example_bytes` made.

    Raises:
        StoreError: it is not such bytes.
    """
    return _read(BytesIO(data))


def read_examples(folder: Path) -> dict[str, Example]:
    """All exhibits of a run, by the ids of their samples; none where the run kept none.

    Args:
        folder: of the run.

    Raises:
        StoreError: one is damaged, or there are more than a run keeps.
    """
    paths = sorted((folder / FOLDER).glob("*.npz"))
    if len(paths) > MAX_EXAMPLES:
        raise StoreError(f"{folder / FOLDER} has {len(paths)} exhibits; a run keeps fewer than {MAX_EXAMPLES}")
    found = {}
    for path in paths:
        example = _read(path)
        if example_file(example.id) != f"{FOLDER}/{path.name}":
            raise StoreError(f"{path} is the exhibit of another sample, {example.id[:80]!r}")
        found[example.id] = example
    return found


def _arrays(example: Example) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {
        "schema_version": np.array(SCHEMA_VERSION, np.int64),
        "id": np.frombuffer(example.id.encode(), np.uint8),
        "places": np.array(example.places, np.int64),
        "of": np.array(example.of, np.int64),
        "times_s": np.array(example.times_s, np.float64),
        "uniform": np.array(example.uniform, np.float64),
        "high": np.array(example.high, np.float64),
    }
    for i, picture in enumerate(example.jpegs):
        arrays[f"jpeg_{i}"] = np.frombuffer(picture, np.uint8)
        arrays[f"values_{i}"] = example.values[i]
        arrays[f"boxes_{i}"] = example.boxes[i]
    return arrays


def _read(source: Path | BytesIO) -> Example:
    arrays = read_npz(source, MAX_BYTES)
    try:
        example = _from_arrays(arrays)
        for picture in example.jpegs:
            _check_size(picture)
    except (KeyError, ValueError) as fault:
        name = source if isinstance(source, Path) else "what was sent"
        raise StoreError(f"{name} is no exhibit of a known schema ({fault})", "remove it") from None
    return example


def _from_arrays(arrays: Mapping[str, Any]) -> Example:
    def get(name: str, dtype: type, dimensions: int) -> np.ndarray:
        array = arrays[name]
        fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == dimensions
        _require(fits, f"{name}: want {np.dtype(dtype)} of {dimensions} dimensions")
        return np.asarray(array)

    _require(get("schema_version", np.int64, 0) == SCHEMA_VERSION, "schema_version: another one")
    places = tuple(get("places", np.int64, 1).tolist())
    _require(len(places) <= MAX_STEPS, f"{len(places)} places")
    return Example(
        id=get("id", np.uint8, 1).tobytes().decode(),
        jpegs=tuple(get(f"jpeg_{i}", np.uint8, 1).tobytes() for i in range(len(places))),
        values=tuple(get(f"values_{i}", np.float32, 2) for i in range(len(places))),
        boxes=tuple(get(f"boxes_{i}", np.float64, 2) for i in range(len(places))),
        places=places,
        of=int(get("of", np.int64, 0)),
        times_s=tuple(get("times_s", np.float64, 1).tolist()),
        uniform=float(get("uniform", np.float64, 0)),
        high=float(get("high", np.float64, 0)),
    )


def _check_size(picture: bytes) -> None:
    """From its head: a few bytes may unfold to more than a browser can hold."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(picture), formats=["JPEG"]) as image:
                size_px = image.size
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("a picture is no JPEG") from None
    _require(max(size_px) <= LONGEST_PX, f"a picture of {size_px[0]} x {size_px[1]} px")
