"""A question's result as arrays and JSON (schema 1), and back: names and shapes on disk. Opens no file.

Saved files are untrusted: the dataclasses check every value that is read, and no path from the files is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from msgspec import Meta

from qvl_attn.attribution.faithfulness import CONTROLS, HEADLINE, Curves, curves_from, curves_json
from qvl_attn.attribution.heatmap import CLIP_PERCENTILE, heat_maps, layer_figures, over_chance
from qvl_attn.attribution.methods.maps import method_arrays, methods_from, methods_json
from qvl_attn.attribution.settings import Settings, settings_from
from qvl_attn.attribution.similarity import Sanity
from qvl_attn.core.typed_json import Count, Finite, LayerOrHead
from qvl_attn.core.types import Apart, Capture, HeatMap, Media, Token
from qvl_attn.media.sampling import MOST_FRAMES
from qvl_attn.model.token_grid import grid_of
from qvl_attn.results.codec import Arrays, ResultJson, Times, grid_arrays, grid_sizes, shared_arrays
from qvl_attn.results.store import PASSES
from qvl_attn.vqa.merge_passes import RULE
from qvl_attn.vqa.record import VqaProvenance, VqaRecord

R = TypeVar("R", bound=VqaRecord)


@dataclass(frozen=True)
class FiguresJson:
    """The figures of `layer_figures`; None for a map without attention."""

    vision_mass: Finite
    entropy_bits: Finite | None
    top10_share: Finite | None
    spread_px: Finite | None


@dataclass(frozen=True)
class LayerJson(FiguresJson):
    """The figures of a layer."""

    layer: LayerOrHead


@dataclass(frozen=True)
class HeadlineJson(FiguresJson):
    """The headline map, its extremes and its figures."""

    query: str
    layers: tuple[LayerOrHead, ...]
    heads: str
    method: str
    queries: tuple[Count, ...]
    uniform: Finite
    maximum: Finite
    minimum: Finite


@dataclass(frozen=True)
class ScaleJson:
    """The scale of the drawn headline map, and the cells that are above it."""

    low: Finite
    high: Finite
    percentile: Finite
    clipped_cells: Count
    cells: Count


@dataclass(frozen=True)
class StepJson:
    """A step of a clip: its share of the headline's attention, and the ratio of that to a uniform map."""

    times_s: tuple[Finite, Finite]
    share: Finite
    over_chance: Finite


@dataclass(frozen=True)
class PassJson:
    """A pass over a part of a clip; its result is in a folder of its own."""

    folder: str
    frame_indices: tuple[Count, ...]
    times_s: Times
    answer: str
    answer_logprob: Finite
    vision_mass: Finite


@dataclass(frozen=True)
class PassesJson:
    """The passes over a clip, and the rule by which they were merged."""

    mode: str
    merged: str | None
    results: Annotated[tuple[PassJson, ...], Meta(max_length=MOST_FRAMES)]


@dataclass(frozen=True)
class FaithfulnessJson:
    """The curves, which an empty answer does not have, and for each map the sanity checks."""

    curves: dict[str, Any] | None
    sanity: dict[str, Sanity]


@dataclass(frozen=True, kw_only=True)
class QuestionJson(ResultJson):
    """The contents of a question's `result.json`."""

    provenance: VqaProvenance
    question: str
    answer: str
    answer_logprob: Finite
    supplied_answer: str | None
    supplied_logprob: Finite | None
    tokens: tuple[Token, ...]
    steps: tuple[StepJson, ...] | None = None
    passes: PassesJson | None = None
    headline: HeadlineJson
    faithfulness: FaithfulnessJson | None = None
    methods: tuple[dict[str, Any], ...] = ()
    scale: ScaleJson
    layers: tuple[LayerJson, ...]

    def __post_init__(self) -> None:
        if (self.supplied_answer is None) != (self.supplied_logprob is None):
            raise ValueError("supplied_answer and supplied_logprob: one given without the other")


def question_arrays(result: VqaRecord) -> Arrays:
    """Return the contents of `attention.npz`: those of `shared_arrays`, and a question's own.

    `produces`, `weights_max`, `heads` and `head_layers` as in `Capture`; and the arrays of each method.
    """
    capture = result.capture
    arrays = shared_arrays(
        capture.grids,
        weights=capture.weights,
        weights_by_head=capture.weights_by_head,
        layers=capture.layers,
        queries=capture.queries,
        query_role=capture.query_role,
        vision_tokens=capture.vision_tokens,
        vision_mass=capture.vision_mass,
    )
    arrays["produces"] = capture.produces
    if capture.weights_max is not None:
        arrays["weights_max"] = capture.weights_max
    if capture.apart is not None:
        arrays["head_layers"] = np.array(capture.apart.layers, dtype=np.int64)
        arrays["heads"] = np.array(capture.apart.heads, dtype=np.int64)
    return arrays | method_arrays(result.methods)


def _capture_from(arrays: Mapping[str, np.ndarray], tokens: Sequence[Token], media: Sequence[Media]) -> Capture:
    sizes, merge_size = grid_sizes(arrays, len(media))
    positions, grids, first = arrays["vision_tokens"], [], 0
    for size, medium in zip(sizes, media, strict=True):
        grid = grid_of(size, merge_size, int(positions[first]), medium)
        first += grid.cells
        grids.append(grid)
    apart = None
    if "heads" in arrays:
        apart = Apart(tuple(arrays["head_layers"].tolist()), tuple(arrays["heads"].tolist()))
    capture = Capture(
        layers=arrays["layers"],
        queries=arrays["queries"],
        query_role=arrays["query_role"],
        produces=arrays["produces"],
        weights=arrays["weights"],
        vision_mass=arrays["vision_mass"],
        grids=tuple(grids),
        tokens=tuple(tokens),
        weights_by_head=arrays.get("weights_by_head"),
        apart=apart,
        weights_max=arrays.get("weights_max"),
    )
    derived = {"vision_tokens": capture.vision_tokens, **grid_arrays(grids)}
    for name in ("vision_tokens", "boxes_px", "frame_span", "times_s"):
        if not np.array_equal(derived[name], arrays[name]):
            raise ValueError(f"{name} does not fit the grids")
    return capture


def question_json(result: VqaRecord, drawn: Sequence[HeatMap], **common: Any) -> QuestionJson:
    """Return the contents of `result.json`.

    Args:
        result: the result.
        drawn: the headline maps as drawn, after filters.
        common: the fields that every kind has.
    """
    capture, headline = result.capture, result.heatmaps()
    first, scale = headline[0], drawn[0].scale
    rows = result.query_rows()
    return QuestionJson(
        **common,
        question=result.question,
        answer=result.answer,
        answer_logprob=result.answer_logprob,
        supplied_answer=result.supplied_answer,
        supplied_logprob=result.supplied_logprob,
        tokens=capture.tokens,
        steps=_steps(result),
        passes=_passes(result),
        headline=HeadlineJson(
            query=first.query,
            layers=first.layers,
            heads=first.heads,
            method=first.method,
            queries=first.queries,
            uniform=first.uniform,
            maximum=float(max(heat.values.max() for heat in headline)),
            minimum=float(min(heat.values.min() for heat in headline)),
            **layer_figures(headline, capture.grids),
        ),
        faithfulness=_faithfulness(result),
        methods=tuple(methods_json(result.methods, capture)),
        scale=ScaleJson(
            low=scale.low,
            high=scale.high,
            percentile=CLIP_PERCENTILE,
            clipped_cells=sum(heat.clipped for heat in drawn),
            cells=sum(grid.cells for grid in capture.grids),
        ),
        layers=tuple(_layer(capture, layer, rows, first.query) for layer in capture.layers.tolist()),
    )


def faithfulness_json(result: VqaRecord) -> dict[str, Any] | None:
    """Return the deletion and insertion curves and the sanity checks; None if faithfulness was not requested."""
    saved = _faithfulness(result)
    return None if saved is None else asdict(saved)


def _faithfulness(result: VqaRecord) -> FaithfulnessJson | None:
    if not result.settings.faithfulness:
        return None
    curves = {**curves_json(result.curves), "areas": result.curves.figures()} if result.curves else None
    return FaithfulnessJson(curves, {**(result.sanity or {})})


def _steps(result: VqaRecord) -> tuple[StepJson, ...] | None:
    if not result.is_clip:
        return None
    values = result.heatmaps()[0].values
    totals = values.sum(axis=(1, 2), dtype=np.float64)
    return tuple(
        StepJson((float(first_s), float(last_s)), float(total / totals.sum()), float(over))
        for (first_s, last_s), total, over in zip(
            result.capture.grids[0].times_s, totals, over_chance(values), strict=True
        )
    )


def pass_folder(number: int) -> str:
    """Return the folder of a pass's result, relative to the folder of the whole result."""
    return f"{PASSES}/{number:03d}"


def _passes(result: VqaRecord) -> PassesJson | None:
    if not result.passes:
        return None
    return PassesJson(
        mode="windows" if result.pass_mode == "windows" else "frames",
        merged=None if result.pass_mode == "both" else RULE,
        results=tuple(
            PassJson(
                folder=pass_folder(i),
                frame_indices=_frame_indices(result, i),
                times_s=tuple(part.media[0].times_s.tolist()),
                answer=part.answer,
                answer_logprob=part.answer_logprob,
                vision_mass=part.heatmaps()[0].vision_mass,
            )
            for i, part in enumerate(result.passes)
        ),
    )


def _frame_indices(result: VqaRecord, number: int) -> tuple[int, ...]:
    """Return the numbers of the source frames in a pass, which may be one frame: a picture."""
    whole, facts = result.media[0], result.passes[number].media[0].clip
    if facts is not None:
        return facts.frame_indices
    return (whole.clip.frame_indices[number],) if whole.clip else ()


def _layer(capture: Capture, layer: int, rows: np.ndarray, query: str) -> LayerJson:
    index = capture.layers.tolist().index(layer)
    if not capture.weights[index][rows].any():
        return LayerJson(vision_mass=0.0, entropy_bits=None, top10_share=None, spread_px=None, layer=layer)
    maps = heat_maps(capture, layers=[layer], heads=None, rows=rows, query=query)
    return LayerJson(layer=layer, **layer_figures(maps, capture.grids))


def _faithfulness_from(
    saved: FaithfulnessJson | None, settings: Settings
) -> tuple[Curves | None, dict[str, Sanity] | None]:
    if (saved is not None) != settings.faithfulness:
        raise ValueError("faithfulness: does not agree with the settings")
    if saved is None:
        return None, None
    curves = curves_from(saved.curves) if saved.curves else None
    maps = settings.methods or (HEADLINE,)
    if (curves and curves.names != (*maps, *CONTROLS)) or {*saved.sanity} != {*maps}:
        raise ValueError(f"faithfulness: not of the maps {maps}")
    return curves, saved.sanity


def record_from(
    kind: type[R], saved: QuestionJson, arrays: Mapping[str, np.ndarray], passes: tuple[R, ...], **common: Any
) -> R:
    """Return a record from its JSON and arrays.

    Args:
        kind: class of the record.
        saved: contents of `result.json`.
        arrays: contents of `attention.npz`.
        passes: the results of the passes.
        common: the fields that every kind has.

    Raises:
        InputError: layers, heads or query of the settings cannot be parsed.
        KeyError: an array is missing.
        ValueError: a field is out of range, or an array has another type or shape.
    """
    settings = settings_from(saved.settings, saved.provenance.layer_count)
    curves, sanity = _faithfulness_from(saved.faithfulness, settings)
    record = kind(
        **{**common, "settings": settings},
        question=saved.question,
        answer=saved.answer,
        answer_logprob=saved.answer_logprob,
        supplied_answer=saved.supplied_answer,
        supplied_logprob=saved.supplied_logprob,
        capture=_capture_from(arrays, saved.tokens, common["media"]),
        methods=methods_from(saved.methods, arrays, settings.methods),
        curves=curves,
        sanity=sanity,
        passes=passes,
    )
    _ = record.selection  # what was typed is parsed here, and not where it is needed
    record.heatmaps()  # a result without them is damaged
    return record
