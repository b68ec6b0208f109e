"""The score of one sample: figures of its headline, of every layer and, on request, of every head."""

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
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.errors import StoreError
from qvl_attn.core.shape import NUMBER, check_shape
from qvl_attn.core.text import quoted
from qvl_attn.core.types import Capture, FloatArray, IntArray
from qvl_attn.evaluation.answer_accuracy import accuracy
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.results.run_folder import REMEDIES, ROWS_FILE, read_rows
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.evaluation.examples import Example

FIGURES = (*GROUNDING, "vision_mass", *PATTERNS)
CONTROLS = ("chance", "uniform", "centre", "other")
HEAD_FIGURES = (*GROUNDING, "vision_mass")
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


_ALWAYS = ("id", "status", "index", "media", "question", "references", "group", "evidence", "boxes", "accuracy")
_FIGURES = ("area", "inside", "headline", "all_layers", "controls", "layers", "layer_controls", "heads")
_SCORED = ("answer", "right", "grounded", "unsampled", *_FIGURES, "attention", "seconds")
_IF_ANY = ("retried", "half", "headline_map", "methods", "method_chance")
_FRACTIONS = ("pointing", "mass", "auc", "iou")
_BY_LAYER = [NUMBER]
_CONTROLLED = (*GROUNDING, "vision_mass")
# What the lines of `scores.jsonl` hold: all of them, those of errors, those of scored samples, and what some have.
_EVERY_ROW = {"id": str, "status": str, "index": int, "media": [str], "question": str, "references": [str]}
_EVERY_ROW |= {"group": str, "evidence": str, "boxes": int, "accuracy": NUMBER}
_ERROR_ROW = {"error": str}
_SCORED_ROW = {
    **{"answer": str, "unsampled": bool, "area": NUMBER, "inside": NUMBER, "attention": str, "seconds": float},
    **{part: dict.fromkeys(FIGURES, NUMBER) for part in ("headline", "all_layers")},
    "controls": {control: dict.fromkeys(_CONTROLLED, NUMBER) for control in CONTROLS},
    "layers": dict.fromkeys(FIGURES, _BY_LAYER),
    "layer_controls": {control: dict.fromkeys(_CONTROLLED, _BY_LAYER) for control in ("chance", "other")},
    "heads": {str: [_BY_LAYER]},
}
_OPTIONAL = {
    **{"retried": str, "half": str, "headline_map": str},
    **{"methods": {str: {str: NUMBER}}, "method_chance": {str: {str: NUMBER}}},
}


def score_row(score: Score) -> dict[str, Any]:
    """Return a score as a line of `scores.jsonl`: six digits, null where a figure is not defined."""
    names = [*_ALWAYS, *(_SCORED if score.status == "ok" else ("error",))]
    names += [name for name in _IF_ANY if getattr(score, name)]
    row: dict[str, Any] = as_json({name: getattr(score, name) for name in names})
    return row


def read_scores(folder: Path) -> list[Score]:
    """Read all scores of a run, in the order of its data set.

    Raises:
        StoreError: a line is not a row.
    """
    scores = []
    for number, row in enumerate(read_rows(folder), 1):
        try:
            scores.append(score_of(row))
        except ValueError as error:
            message = f"{folder / ROWS_FILE}: line {number} is not a row of this version ({error})"
            raise StoreError(message, REMEDIES["check"]) from None
    return sorted(scores, key=lambda score: score.index)


def read_all_scores(folder: Path, run: Mapping[str, Any]) -> list[Score]:
    """Read the scores of a finished run, one for each sample of its `run.json`, in the order of its data set.

    Raises:
        StoreError: a line is not a row, or a sample has none.
    """
    scores = read_scores(folder)
    # A part, or a calibration on the samples with boxes, has the indices of a larger data set.
    if run["same"].get("--shard") is None and run["same"].get("--calibrate") is None:
        check_indices(folder, scores, len(run["samples"]))
    if len(scores) != len(run["samples"]):  # no row is about another sample, and no sample has two
        raise StoreError(
            f"{folder}: its rows are not those of its samples: {len(scores)} rows, {len(run['samples'])} samples",
            "run the same check again: it asks the missing samples again",
        )
    return scores


def check_indices(folder: Path, scores: Sequence[Score], count: int) -> None:
    """Check that the indices of rows are below the number of samples.

    Raises:
        StoreError: one is not.
    """
    for score in scores:
        if score.index >= count:
            raise StoreError(
                f"{folder / ROWS_FILE}: the row of {quoted(score.id)} has index {score.index} of {count} samples",
                REMEDIES["check"],
            )


def score_of(row: Mapping[str, Any]) -> Score:
    """Return the score of a line of `scores.jsonl`, which has six digits.

    Raises:
        ValueError: it is not such a line.
    """
    check_shape(row, _EVERY_ROW, "row")
    if row["status"] not in ("ok", "error"):
        raise ValueError("row.status: want ok or error")
    scored = row["status"] == "ok"
    check_shape(row, _SCORED_ROW if scored else _ERROR_ROW, "row")
    check_shape(row, {name: shape for name, shape in _OPTIONAL.items() if name in row}, "row")
    if row["index"] < 0:
        raise ValueError("row.index: want 0 or more")
    _check_fractions({name: row.get(name) for name in ("accuracy", "area", "inside")}, "row")
    for part in ("headline", "all_layers") if scored else ():
        _check_fractions({name: row[part][name] for name in _FRACTIONS}, f"row.{part}")
    fields: dict[str, Any] = {name: row[name] for name in _ALWAYS}
    fields |= {name: row[name] for name in _IF_ANY if name in row}
    fields |= {name: tuple(row[name]) for name in ("media", "references")}
    fields["accuracy"] = _number(row["accuracy"])
    if not scored:
        return Score(**fields, error=row["error"])
    fields |= {name: row[name] for name in ("answer", "unsampled", "attention", "seconds")}
    fields |= {name: _number(row[name]) for name in ("area", "inside")}
    fields |= {name: _numbers(row[name]) for name in ("headline", "all_layers")}
    fields |= {name: _arrays(row[name]) for name in ("layers", "heads")}
    for name in ("controls", *(name for name in ("methods", "method_chance") if name in row)):
        fields[name] = {key: _numbers(values) for key, values in row[name].items()}
    fields["layer_controls"] = {name: _arrays(values) for name, values in row["layer_controls"].items()}
    layers = {
        len(values) for part in (fields["layers"], *fields["layer_controls"].values()) for values in part.values()
    }
    heads = {values.shape for values in fields["heads"].values()}
    if len(layers) != 1 or len(heads) > 1 or not {shape[0] for shape in heads} <= layers:
        raise ValueError("row: not one number of layers and of heads")
    if fields["heads"] and fields["heads"].keys() != {*HEAD_FIGURES}:
        raise ValueError("row.heads: not the figures of this version")
    return Score(**fields)


def _check_fractions(values: Mapping[str, float | None], name: str) -> None:
    for figure, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}.{figure}: want 0 to 1")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _arrays(values: Mapping[str, list[Any]]) -> dict[str, Numbers]:
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: lists for arrays, floats of six digits, None for NaN and infinity."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
