"""What one answered sample scores: figures of its headline, of every layer and, on request, of every head."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution import grounding
from qvl_attn.attribution.grounding import GROUNDING, PATTERNS, Cells
from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.regions import Floats, Region, picture_region, step_boxes, step_region
from qvl_attn.attribution.selection import query_rows
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.errors import StoreError
from qvl_attn.core.types import Capture, FloatArray, IntArray
from qvl_attn.evaluation.answer_accuracy import accuracy
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.results.run_folder import ROWS_FILE, read_rows
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.evaluation.examples import Example

FIGURES = (*GROUNDING, "vision_mass", *PATTERNS)
CONTROLS = ("chance", "uniform", "centre", "other")
HEAD_FIGURES = (*GROUNDING, "vision_mass")
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """What a sample scored; NaN where a figure is not defined, as without boxes.

    Attributes:
        id: of the sample.
        media: the names of what was shown.
        question: what was asked.
        status: `ok` or `error`.
        answer: the model's own.
        references: accepted answers.
        accuracy: of the answer, 0 to 1, of an error 0; NaN without references.
        boxes: how many the sample has.
        group: of the sample.
        index: of the sample.
        evidence: of the sample.
        unsampled: whether boxes of a clip are on frames that the model was not shown.
        headline: `FIGURES` of the headline map.
        all_layers: `FIGURES` of the mean over all layers and heads.
        controls: `GROUNDING` and `vision_mass` of each of `CONTROLS`, for the headline.
        layers: (L,) each of `FIGURES`.
        layer_controls: (L,) each of `GROUNDING` and `vision_mass`, of `chance` and `other`.
        heads: (L, H) each of `HEAD_FIGURES`; empty where heads were not asked for.
        methods: figures of each method's map, by its name; those of `FAITHFUL` of the controls as well.
        method_chance: what chance gives each method's map, `GROUNDING`.
        head_maps: maps of all heads, (L * H, n), on each region's cells, to calibrate with; not written.
        example: what is kept to show the sample, of those that are chosen for it; written beside the rows.
        area: the boxes' share of the cells' area.
        inside: the share of the cells whose centre lies in a box.
        attention: how it was computed.
        error: what went wrong.
        retried: what went wrong at first, where it was tried once more.
        half: of a calibration, in which the sample is: `first` or `second`.
        headline_map: what the headline averages, where the halves differ.
        seconds: that it took.
    """

    id: str
    media: tuple[str, ...]
    question: str
    status: str = "ok"
    answer: str = ""
    references: tuple[str, ...] = ()
    accuracy: float = np.nan
    boxes: int = 0
    group: str = ""
    index: int = 0
    evidence: str = ""
    unsampled: bool = False
    headline: dict[str, float] = field(default_factory=dict)
    all_layers: dict[str, float] = field(default_factory=dict)
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    layers: dict[str, Numbers] = field(default_factory=dict)
    layer_controls: dict[str, dict[str, Numbers]] = field(default_factory=dict)
    heads: dict[str, Numbers] = field(default_factory=dict)
    methods: dict[str, dict[str, float]] = field(default_factory=dict)
    method_chance: dict[str, dict[str, float]] = field(default_factory=dict)
    head_maps: tuple[tuple[FloatArray, Region], ...] = ()
    example: Example | None = None
    area: float = np.nan
    inside: float = np.nan
    attention: str = ""
    error: str = ""
    retried: str = ""
    half: str = ""
    headline_map: str = ""
    seconds: float = 0.0

    @property
    def boxed(self) -> bool:
        """Whether it says where the evidence is."""
        return self.status == "ok" and bool(np.isfinite(self.area)) and self.area > 0

    @property
    def right(self) -> bool | None:
        """Whether the answer is right: an accuracy of one half or more; None where it is not known."""
        return None if np.isnan(self.accuracy) else self.accuracy >= 0.5

    @property
    def grounded(self) -> bool | None:
        """Whether the headline points into a box, of a clip in half of its steps; None without boxes."""
        return self.headline["pointing"] >= 0.5 if self.boxed else None


def score_sample(
    sample: Sample, result: Result, headline: Headline, other: Sample | None, *, by_head: bool, keep_maps: bool = False
) -> Score:
    """Score an answered sample.

    Args:
        sample: what was asked.
        result: what came of it.
        headline: layers or heads of the headline.
        other: a sample about another picture, whose boxes are the control; None if there is none.
        by_head: score every head as well.
        keep_maps: keep the maps of every head.

    Raises:
        InputError: heads that were not kept apart.
    """
    capture = result.capture
    rows = query_rows(capture, result.question, result.settings.query)
    layers = capture.layers.tolist()
    maps = np.stack(
        [
            mean_over(capture, headline.layers, headline.heads, rows),
            mean_over(capture, layers, None, rows),
            *capture.weights[:, rows].mean(axis=1, dtype=np.float64),
        ]
    ).astype(np.float64)
    regions = _regions(sample, capture)
    others = _other_regions(regions, sample, other, capture) if other and regions else []
    figures = _grounding(maps, regions)
    figures |= {"vision_mass": maps.sum(axis=1), **grounding.patterns(maps, _cells(sample, capture))}
    figures["distance"] = _mean([grounding.distance(maps[:, one.cells], one) for one in regions], len(maps))
    chance = _mean_of([grounding.chance(maps[:, one.cells], one) for one in regions], len(maps))
    chance["vision_mass"] = np.full(len(maps), _expected_vision_mass(capture, rows))
    moved = _grounding(maps, others) | {"vision_mass": np.full(len(maps), np.nan)}  # it does not depend on boxes
    methods, method_chance = _methods(result, regions)
    fixed = [grounding.baselines(one) for one in regions]
    controls = {"chance": _at(chance, 0), "other": _at(moved, 0)}
    for name in ("uniform", "centre"):
        controls[name] = {
            figure: float(np.mean([one[name][figure] for one in fixed])) if fixed else np.nan for figure in GROUNDING
        } | {"vision_mass": np.nan}
    return Score(
        id=sample.id,
        media=sample.names,
        question=sample.question,
        answer=result.answer,
        references=sample.answers,
        boxes=len(sample.boxes_px),
        group=sample.group,
        index=sample.index,
        evidence=sample.evidence,
        unsampled=sample.is_clip and not np.isin(sample.frames, result.media[0].facts.frame_indices).all(),
        accuracy=accuracy(result.answer, sample.answers) if sample.answers else np.nan,
        headline=_at(figures, 0),
        all_layers=_at(figures, 1),
        controls=controls,
        layers={name: values[2:] for name, values in figures.items()},
        layer_controls={"chance": _from(chance, 2), "other": _from(moved, 2)},
        methods=methods,
        method_chance=method_chance,
        heads=_heads(capture, rows, regions) if by_head else {},
        head_maps=_head_maps(capture, rows, regions) if keep_maps else (),
        area=float(np.mean([one.covered.mean() for one in regions])) if regions else np.nan,
        inside=float(np.mean([one.inside.mean() for one in regions])) if regions else np.nan,
        attention=result.provenance.attention,
        seconds=round(sum(result.seconds.get(stage, 0.0) for stage in ("prepare", "answer")), 3),
    )


def _methods(
    result: Result, regions: Sequence[Region]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """What the map of each method scores, and what chance gives it."""
    faithful = {} if result.curves is None else result.curves.figures()
    for name, sanity in (result.sanity or {}).items():
        faithful[name] = faithful.get(name, {}) | sanity.figures()
    if not result.methods:
        return faithful, {}
    maps = np.stack([one.values for one in result.methods]).astype(np.float64)
    figures = _grounding(maps, regions)
    chance = _mean_of([grounding.chance(maps[:, one.cells], one) for one in regions], len(maps))
    names = [one.method for one in result.methods]
    empty = {name: {"empty": float(not maps[i].any())} for i, name in enumerate(names)}
    scored = {name: _at(figures, i) | empty[name] | faithful.pop(name, {}) for i, name in enumerate(names)}
    return scored | faithful, {name: _at(chance, i) for i, name in enumerate(names)}


def _heads(capture: Capture, rows: IntArray, regions: Sequence[Region]) -> dict[str, Numbers]:
    """(L, H) figures of every head."""
    assert capture.weights_by_head is not None
    count = capture.weights_by_head.shape[1]
    found: dict[str, list[Numbers]] = {name: [] for name in HEAD_FIGURES}
    for layer in capture.weights_by_head:  # one at a time: a layer's heads are as many maps as there are
        maps = layer[:, rows].mean(axis=1, dtype=np.float64)
        figures = _grounding(maps, regions) | {"vision_mass": maps.sum(axis=1)}
        for name in HEAD_FIGURES:
            found[name].append(figures[name])
    return {name: np.stack(values).reshape(-1, count) for name, values in found.items()}


def _head_maps(capture: Capture, rows: IntArray, regions: Sequence[Region]) -> tuple[tuple[FloatArray, Region], ...]:
    assert capture.weights_by_head is not None
    maps = capture.weights_by_head[:, :, rows].mean(axis=2, dtype=np.float32).reshape(-1, len(capture.vision_tokens))
    return tuple((maps[:, one.cells], one) for one in regions)


def _regions(sample: Sample, capture: Capture) -> list[Region]:
    """What is scored apart: the pictures of the prompt together, or each step of a clip; none without boxes."""
    if not len(sample.boxes_px):
        return []
    if sample.is_clip:
        grid = capture.grids[0]
        found = step_boxes(grid, sample.unit_boxes(), sample.frames)
        return [step_region(grid, step, boxes, sample.media_refs[0].size_px) for step, boxes in found.items()]
    boxes = [sample.unit_boxes(i) for i in range(len(sample.media_refs))]
    return [picture_region(capture.grids, boxes, [one.size_px for one in sample.media_refs])]


def _other_regions(regions: Sequence[Region], sample: Sample, other: Sample, capture: Capture) -> list[Region]:
    """The same cells under another sample's boxes: on the picture that has boxes, or in step after step of a clip."""
    if sample.is_clip:
        grid, frames = capture.grids[0], np.unique(other.frames)
        cells = grid.cells // grid.shape[0]
        found = []
        for i, region in enumerate(regions):
            boxes = other.unit_boxes()[other.frames == frames[i * len(frames) // len(regions)]]
            found.append(step_region(grid, int(region.cells[0]) // cells, boxes, sample.media_refs[0].size_px))
        return found
    boxes = other.unit_boxes(int(other.frames[0]))
    with_boxes = set(sample.frames.tolist())
    placed = [boxes if i in with_boxes else np.zeros((0, 4)) for i in range(len(sample.media_refs))]
    return [picture_region(capture.grids, placed, [one.size_px for one in sample.media_refs])]


def _cells(sample: Sample, capture: Capture) -> Cells:
    boxes = np.concatenate([grid.boxes_px for grid in capture.grids]).astype(np.float64)
    centres = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)], axis=1)
    diagonals = np.array([np.hypot(*one.size_px) for one in sample.media_refs])
    return Cells(centres, diagonals[capture.media_index], capture.media_index)


def _expected_vision_mass(capture: Capture, rows: IntArray) -> float:
    """The share on vision of attention that is spread evenly over all tokens that a query sees."""
    before = capture.vision_tokens[None] <= capture.queries[rows][:, None]
    return float((before.sum(axis=1) / (capture.queries[rows] + 1)).mean())


def _grounding(maps: Floats, regions: Sequence[Region]) -> dict[str, Numbers]:
    return _mean_of([grounding.grounding(maps[:, one.cells], one) for one in regions], len(maps))


def _mean_of(parts: Sequence[dict[str, Numbers]], count: int) -> dict[str, Numbers]:
    return {name: _mean([part[name] for part in parts], count) for name in GROUNDING}


def _mean(parts: Sequence[Numbers], count: int) -> Numbers:
    """Over the regions where it is defined."""
    if not parts:
        return np.full(count, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure that no region defines is NaN
        return np.asarray(np.nanmean(np.stack(parts), axis=0))


def _at(figures: dict[str, Numbers], i: int) -> dict[str, float]:
    return {name: float(values[i]) for name, values in figures.items()}


def _from(figures: dict[str, Numbers], i: int) -> dict[str, Numbers]:
    return {name: values[i:] for name, values in figures.items()}


_ALWAYS = ("id", "status", "index", "media", "question", "references", "group", "evidence", "boxes", "accuracy")
_FIGURES = ("area", "inside", "headline", "all_layers", "controls", "layers", "layer_controls", "heads")
_SCORED = ("answer", "right", "grounded", "unsampled", *_FIGURES, "attention", "seconds")
_IF_ANY = ("retried", "half", "headline_map", "methods", "method_chance")


def score_row(score: Score) -> dict[str, Any]:
    """A line of `scores.jsonl`: six digits, null where a figure is not defined."""
    named = [*_ALWAYS, *(_SCORED if score.status == "ok" else ("error",))]
    row = {name: getattr(score, name) for name in (*named, *(name for name in _IF_ANY if getattr(score, name)))}
    found: dict[str, Any] = as_json(row)
    return found


def read_scores(folder: Path) -> list[Score]:
    """All scores of a run, in the order of its data set.

    Raises:
        StoreError: a line is no row.
    """
    found = []
    for number, row in enumerate(read_rows(folder), 1):
        try:
            found.append(score_of(row))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(f"{folder / ROWS_FILE}: line {number} is not a row of this version") from None
    return sorted(found, key=lambda score: score.index)


def score_of(row: Mapping[str, Any]) -> Score:
    """The score that a line of `scores.jsonl` tells of, to six digits.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: it is not such a line.
    """
    told: dict[str, Any] = {name: row[name] for name in _ALWAYS}
    told |= {name: row[name] for name in _IF_ANY if name in row}
    told |= {name: tuple(row[name]) for name in ("media", "references")}
    told["index"] = int(row["index"])
    told["accuracy"] = _number(row["accuracy"])
    if row["status"] != "ok":
        return Score(**told, error=row["error"])
    told |= {name: row[name] for name in ("answer", "unsampled", "attention", "seconds")}
    told |= {name: _number(row[name]) for name in ("area", "inside")}
    told |= {name: _numbers(row[name]) for name in ("headline", "all_layers")}
    told |= {name: _arrays(row[name]) for name in ("layers", "heads")}
    for name in ("controls", *(name for name in ("methods", "method_chance") if name in row)):
        told[name] = {key: _numbers(values) for key, values in row[name].items()}
    told["layer_controls"] = {name: _arrays(values) for name, values in row["layer_controls"].items()}
    return Score(**told)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _arrays(values: Mapping[str, list[Any]]) -> dict[str, Numbers]:
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def as_json(value: Any) -> Any:
    """A value as JSON may hold it: lists for arrays, six digits, null for what is not defined."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
