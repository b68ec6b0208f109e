"""The score of one sample: figures of its headline, of every layer and, on request, of every head."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution import grounding
from qvl_attn.attribution.grounding import GROUNDING, Cells
from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.regions import Floats, Region, picture_region, step_boxes, step_region
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.types import Capture, FloatArray, IntArray
from qvl_attn.evaluation.answer_accuracy import accuracy
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.figures import HEAD_FIGURES
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.evaluation.examples import Example

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """The score of a sample; NaN where a figure is not defined, for example without boxes.

    Attributes:
        id: the id of the sample.
        media: the names of its pictures or clip.
        question: the question.
        status: `ok` or `error`.
        answer: the answer of the model.
        references: the accepted answers.
        accuracy: the accuracy of the answer, 0 to 1; 0 for an error, NaN without references.
        boxes: the number of boxes of the sample.
        group: the group of the sample.
        index: the index of the sample.
        evidence: the hash of the sample's pictures and boxes.
        unsampled: whether boxes of a clip are on frames that were not sampled.
        headline: `FIGURES` of the headline map.
        all_layers: `FIGURES` of the mean over all layers and heads.
        controls: `GROUNDING` and `vision_mass` of each of `CONTROLS`, for the headline.
        layers: (L,) for each of `FIGURES`.
        layer_controls: (L,) for each of `GROUNDING` and `vision_mass`, of `chance` and `other`.
        heads: (L, H) for each of `HEAD_FIGURES`; empty if heads were not scored.
        methods: the figures of each method's map by the method's name, and those of `FAITHFUL` of the controls.
        method_chance: `GROUNDING` at chance for each method's map.
        head_maps: the maps of all heads, (L * H, n), on each region's cells, for calibration; not written.
        example: the example of the sample, if it was chosen for one; written beside the rows.
        area: the boxes' share of the cells' area.
        inside: the share of cells whose centre is in a box.
        attention: how the attention was computed.
        error: the fault, if the status is `error`.
        retried: the fault of the first attempt, if there was a second one.
        half: the half of a calibration that the sample is in: `first` or `second`.
        headline_map: what the headline averages, if the halves differ.
        seconds: the time the sample took.
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
        """Whether the sample was scored and has boxes."""
        return self.status == "ok" and bool(np.isfinite(self.area)) and self.area > 0

    @property
    def right(self) -> bool | None:
        """Whether the answer is right: an accuracy of one half or more; None without references."""
        return None if np.isnan(self.accuracy) else self.accuracy >= 0.5

    @property
    def grounded(self) -> bool | None:
        """Whether the headline points into a box, for a clip in half of its steps or more; None without boxes."""
        return self.headline["pointing"] >= 0.5 if self.boxed else None


def score_sample(
    sample: Sample, result: Result, headline: Headline, other: Sample | None, *, by_head: bool, keep_maps: bool = False
) -> Score:
    """Score an answered sample.

    Args:
        sample: the sample.
        result: its result.
        headline: the layers or heads of the headline.
        other: a sample about another picture, whose boxes are the control; None if there is none.
        by_head: whether to score every head as well.
        keep_maps: whether to keep the maps of every head.

    Raises:
        InputError: the headline uses heads that were not captured.
    """
    capture = result.capture
    rows = result.query_rows()
    layers = capture.layers.tolist()
    maps = np.stack(
        [
            mean_over(capture, headline.layers, headline.heads, rows),
            mean_over(capture, layers, None, rows),
            *capture.weights[:, rows].mean(axis=1, dtype=np.float64),
        ]
    ).astype(np.float64)
    regions = _regions(sample, capture)
    other_regions = _other_regions(regions, sample, other, capture) if other and regions else []
    figures = _grounding(maps, regions)
    figures |= {"vision_mass": maps.sum(axis=1), **grounding.patterns(maps, _cells(sample, capture))}
    figures["distance"] = _mean([grounding.distance(maps[:, region.cells], region) for region in regions], len(maps))
    chance = _mean_figures([grounding.chance(maps[:, region.cells], region) for region in regions], len(maps))
    chance["vision_mass"] = np.full(len(maps), _expected_vision_mass(capture, rows))
    # The share of attention on vision does not depend on boxes.
    other_figures = _grounding(maps, other_regions) | {"vision_mass": np.full(len(maps), np.nan)}
    methods, method_chance = _methods(result, regions)
    baselines = [grounding.baselines(region) for region in regions]
    controls = {"chance": _at(chance, 0), "other": _at(other_figures, 0)}
    for name in ("uniform", "centre"):
        controls[name] = {
            figure: float(np.mean([baseline[name][figure] for baseline in baselines])) if baselines else np.nan
            for figure in GROUNDING
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
        layer_controls={"chance": _from(chance, 2), "other": _from(other_figures, 2)},
        methods=methods,
        method_chance=method_chance,
        heads=_heads(capture, rows, regions) if by_head else {},
        head_maps=_head_maps(capture, rows, regions) if keep_maps else (),
        area=float(np.mean([region.covered.mean() for region in regions])) if regions else np.nan,
        inside=float(np.mean([region.inside.mean() for region in regions])) if regions else np.nan,
        attention=result.provenance.attention,
        seconds=round(sum(result.seconds.get(stage, 0.0) for stage in ("prepare", "answer")), 3),
    )


def _methods(
    result: Result, regions: Sequence[Region]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the figures of each method's map, and those of chance."""
    faithful = {} if result.curves is None else result.curves.figures()
    for name, sanity in (result.sanity or {}).items():
        faithful[name] = faithful.get(name, {}) | sanity.figures()
    if not result.methods:
        return faithful, {}
    maps = np.stack([method_map.values for method_map in result.methods]).astype(np.float64)
    figures = _grounding(maps, regions)
    chance = _mean_figures([grounding.chance(maps[:, region.cells], region) for region in regions], len(maps))
    names = [method_map.method for method_map in result.methods]
    empty = {name: {"empty": float(not maps[i].any())} for i, name in enumerate(names)}
    scored = {name: _at(figures, i) | empty[name] | faithful.pop(name, {}) for i, name in enumerate(names)}
    return scored | faithful, {name: _at(chance, i) for i, name in enumerate(names)}


def _heads(capture: Capture, rows: IntArray, regions: Sequence[Region]) -> dict[str, Numbers]:
    """Return (L, H) for each figure of every head."""
    assert capture.weights_by_head is not None
    count = capture.weights_by_head.shape[1]
    by_layer: dict[str, list[Numbers]] = {name: [] for name in HEAD_FIGURES}
    for layer in capture.weights_by_head:  # one layer at a time, to limit the memory
        maps = layer[:, rows].mean(axis=1, dtype=np.float64)
        figures = _grounding(maps, regions) | {"vision_mass": maps.sum(axis=1)}
        for name in HEAD_FIGURES:
            by_layer[name].append(figures[name])
    return {name: np.stack(values).reshape(-1, count) for name, values in by_layer.items()}


def _head_maps(capture: Capture, rows: IntArray, regions: Sequence[Region]) -> tuple[tuple[FloatArray, Region], ...]:
    assert capture.weights_by_head is not None
    maps = capture.weights_by_head[:, :, rows].mean(axis=2, dtype=np.float32).reshape(-1, len(capture.vision_tokens))
    return tuple((maps[:, region.cells], region) for region in regions)


def _regions(sample: Sample, capture: Capture) -> list[Region]:
    """Return the regions of a sample: one for all pictures of the prompt, or one per step of a clip that has boxes."""
    if not len(sample.boxes_px):
        return []
    if sample.is_clip:
        grid = capture.grids[0]
        boxes_by_step = step_boxes(grid, sample.unit_boxes(), sample.frames)
        return [step_region(grid, step, boxes, sample.media_refs[0].size_px) for step, boxes in boxes_by_step.items()]
    boxes = [sample.unit_boxes(i) for i in range(len(sample.media_refs))]
    return [picture_region(capture.grids, boxes, [media_ref.size_px for media_ref in sample.media_refs])]


def _other_regions(regions: Sequence[Region], sample: Sample, other: Sample, capture: Capture) -> list[Region]:
    """Return the same cells with the boxes of another sample, on the pictures with boxes or spread over the steps."""
    if sample.is_clip:
        grid, frames = capture.grids[0], np.unique(other.frames)
        cells_per_step = grid.cells // grid.shape[0]
        other_regions = []
        for i, region in enumerate(regions):
            boxes = other.unit_boxes()[other.frames == frames[i * len(frames) // len(regions)]]
            step = int(region.cells[0]) // cells_per_step
            other_regions.append(step_region(grid, step, boxes, sample.media_refs[0].size_px))
        return other_regions
    boxes = other.unit_boxes(int(other.frames[0]))
    with_boxes = set(sample.frames.tolist())
    boxes_by_picture = [boxes if i in with_boxes else np.zeros((0, 4)) for i in range(len(sample.media_refs))]
    return [picture_region(capture.grids, boxes_by_picture, [media_ref.size_px for media_ref in sample.media_refs])]


def _cells(sample: Sample, capture: Capture) -> Cells:
    boxes = np.concatenate([grid.boxes_px for grid in capture.grids]).astype(np.float64)
    centres = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)], axis=1)
    diagonals_px = np.array([np.hypot(*media_ref.size_px) for media_ref in sample.media_refs])
    return Cells(centres, diagonals_px[capture.media_index], capture.media_index)


def _expected_vision_mass(capture: Capture, rows: IntArray) -> float:
    """Return the vision mass of attention that is spread evenly over all tokens up to the query."""
    before = capture.vision_tokens[None] <= capture.queries[rows][:, None]
    return float((before.sum(axis=1) / (capture.queries[rows] + 1)).mean())


def _grounding(maps: Floats, regions: Sequence[Region]) -> dict[str, Numbers]:
    return _mean_figures([grounding.grounding(maps[:, region.cells], region) for region in regions], len(maps))


def _mean_figures(by_region: Sequence[dict[str, Numbers]], count: int) -> dict[str, Numbers]:
    return {name: _mean([figures[name] for figures in by_region], count) for name in GROUNDING}


def _mean(by_region: Sequence[Numbers], count: int) -> Numbers:
    """Return the mean over the regions that define the figure, (count,)."""
    if not by_region:
        return np.full(count, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure that no region defines is NaN
        return np.asarray(np.nanmean(np.stack(by_region), axis=0))


def _at(figures: dict[str, Numbers], i: int) -> dict[str, float]:
    return {name: float(values[i]) for name, values in figures.items()}


def _from(figures: dict[str, Numbers], i: int) -> dict[str, Numbers]:
    return {name: values[i:] for name, values in figures.items()}
