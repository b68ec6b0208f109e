"""Examples: the pictures, heat map and boxes that a run saves of a sample, to show it without model and data set.

Each example is a small file in the run's `gallery`. The best and the worst samples have one, and a random choice of the
others, by a hash of their ids: the choice from a whole data set is contained in the choices from its shards.
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
from qvl_attn.render.layout import MAX_STEPS, drawn_steps
from qvl_attn.results.record import first_frame
from qvl_attn.vqa.result import Result

SCHEMA_VERSION = 1
# The number of examples chosen at random, and the longest side of an example's only picture, or of one of several.
RANDOM_EXAMPLES, LONGEST_PX, SEVERAL_PX = 48, 480, 280
FOLDER = "gallery"
# Limits for files that are read back, because anybody may have written them.
MAX_EXAMPLES, MAX_BYTES, MAX_JPEG_BYTES, MAX_BOXES = 64, 4 * 2**20, 2**20, 4096
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True, eq=False, repr=False)
class Example:
    """n pictures of a sample's prompt, or n steps of its clip, with the headline's plain heat map.

    Attributes:
        id: the id of the sample.
        jpegs: n JPEG files, at most `LONGEST_PX` on their longest side.
        values: n arrays (h, w) float32, attention as the softmax gave it.
        boxes: n arrays (G, 4) float64, xyxy as shares of the picture's sides.
        places: the numbers of the pictures in the prompt, or of the steps in the clip, ascending from 0.
        of: the number of pictures in the prompt, or of steps in the clip.
        times_s: the start of each step of a clip; empty for pictures.
        uniform: the value that every cell of the prompt would have if the same attention were spread evenly.
        high: the value that is drawn brightest, the 99.5th percentile of all cells of the prompt.

    Raises:
        ValueError: a field does not have this shape, type or range.
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
            _require(picture.startswith(_JPEG_BEGIN) and picture.endswith(_JPEG_END), "a picture is not a JPEG")
            _require(values.dtype == np.float32 and values.ndim == 2 and values.size > 0, "values: want float32 (h, w)")
            _require(bool(np.isfinite(values).all() and (values >= 0).all()), "values: not attention")
            _require(boxes.dtype == np.float64 and boxes.shape == (len(boxes), 4), "boxes: want float64 (G, 4)")
            _require(len(boxes) <= MAX_BOXES, f"{len(boxes)} boxes")
            _require(bool(np.isfinite(boxes).all()), "boxes: not finite")

    def __repr__(self) -> str:
        return f"Example({self.id!r}, {len(self.jpegs)} of {self.of})"

    @property
    def is_clip(self) -> bool:
        """Whether the example has steps of a clip."""
        return bool(self.times_s)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def chosen_examples(ids: Iterable[str]) -> frozenset[str]:
    """Return the ids of the samples chosen at random: those with the smallest hashes."""
    return frozenset(nsmallest(RANDOM_EXAMPLES, ids, key=lambda name: sha256(name.encode()).digest()))


def example_file(name: str) -> str:
    """Return the path of a sample's example, relative to the folder of its run, by the sample's id."""
    return f"{FOLDER}/{slug(name, 48)}-{sha256(name.encode()).hexdigest()[:8]}.npz"


def example_boxes(sample: Sample, result: Result, places: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the boxes of these pictures of the prompt, or steps of the clip, each (G, 4) xyxy as shares of its sides.

    Args:
        sample: the sample.
        result: its result.
        places: the numbers of the pictures in the prompt, or of the steps in the clip.
    """
    if not sample.is_clip:
        return [sample.unit_boxes(i) for i in places]
    boxes_by_step = step_boxes(result.capture.grids[0], sample.unit_boxes(), sample.frames)
    return [boxes_by_step.get(step, np.zeros((0, 4))) for step in places]


def example_of(sample: Sample, result: Result) -> Example:
    """Return the example of an answered sample, with the plain heat map of its headline, whatever methods were used.

    Raises:
        CaptureError: there is no attention on the pictures.
    """
    maps = result.plain_maps()
    clip, grid, times = sample.is_clip, result.capture.grids[0], ()
    if clip:
        places, of = drawn_steps(maps[0].values), grid.shape[0]
        pictures = [first_frame(result.media[0], grid, step) for step in places]
        values = [maps[0].values[step] for step in places]
        times = tuple(grid.times_s[list(places), 0].tolist())
    else:
        places, of = _choose_pictures(sample, maps), len(maps)
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
        boxes=tuple(boxes[:MAX_BOXES] for boxes in example_boxes(sample, result, places)),
        places=places,
        of=of,
        times_s=times,
        uniform=maps[0].uniform,
        high=maps[0].scale.high,
    )


def _choose_pictures(sample: Sample, maps: Sequence[HeatMap]) -> tuple[int, ...]:
    """Choose at most `MAX_STEPS` pictures of a prompt: first those with boxes, then those with the strongest cells."""
    with_boxes = set(sample.frames.tolist())
    order = sorted(range(len(maps)), key=lambda i: (i not in with_boxes, -float(maps[i].values.max())))
    return tuple(sorted(order[:MAX_STEPS]))


def write_example(folder: Path, example: Example) -> None:
    """Write an example to the folder of its run, replacing an earlier one.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / example_file(example.id)
    path.parent.mkdir(exist_ok=True)
    write_npz(path, _arrays(example))


def example_bytes(example: Example) -> bytes:
    """Return an example as bytes, to send it to another process."""
    return npz_bytes(_arrays(example))


def example_from(data: bytes) -> Example:
    """Return the example that `example_bytes` encoded.

    Raises:
        StoreError: the bytes are not an example.
    """
    return _read(BytesIO(data))


def read_examples(folder: Path) -> dict[str, Example]:
    """Read all examples of a run, by the id of their sample; an older run may have none.

    Args:
        folder: the folder of the run.

    Raises:
        StoreError: an example is damaged, or there are more than a run saves.
    """
    paths = sorted((folder / FOLDER).glob("*.npz"))
    if len(paths) > MAX_EXAMPLES:
        raise StoreError(f"{folder / FOLDER} has {len(paths)} examples; a run saves at most {MAX_EXAMPLES}")
    examples = {}
    for path in paths:
        example = _read(path)
        if example_file(example.id) != f"{FOLDER}/{path.name}":
            raise StoreError(f"{path} is the example of another sample, {example.id[:80]!r}")
        examples[example.id] = example
    return examples


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
            width, height = jpeg_size_px(picture)
            _require(max(width, height) <= LONGEST_PX, f"a picture of {width} x {height} px")
    except (KeyError, ValueError) as fault:
        name = source if isinstance(source, Path) else "the data"
        raise StoreError(f"{name} is not an example of a known schema ({fault})", "remove it") from None
    return example


def _from_arrays(arrays: Mapping[str, Any]) -> Example:
    def get(name: str, dtype: type, dimensions: int) -> np.ndarray:
        array = arrays[name]
        fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == dimensions
        _require(fits, f"{name}: want {np.dtype(dtype)} with {dimensions} dimensions")
        return np.asarray(array)

    _require(get("schema_version", np.int64, 0) == SCHEMA_VERSION, f"schema_version: want {SCHEMA_VERSION}")
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


def jpeg_size_px(picture: bytes) -> tuple[int, int]:
    """Return the (width, height) in a JPEG's header: a few bytes may decode to more pixels than a browser can hold.

    Raises:
        ValueError: not a JPEG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(picture), formats=["JPEG"]) as image:
                return image.size
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("a picture is not a JPEG") from None
