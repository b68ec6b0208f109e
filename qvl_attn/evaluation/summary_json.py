"""The contents of `summary.json`, and of the field `facts` of `run.json`, as types; how a summary is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

from qvl_attn.attribution.settings import settings_from
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import read_json
from qvl_attn.core.typed_json import Count, Finite, LayerOrHead, Number, decoded
from qvl_attn.evaluation.figures import Controlled, Figures
from qvl_attn.results.run_folder import SUMMARY_FILE

SUMMARY_REMEDY = "remove summary.json and run the same check again, which writes it anew"


class Model(TypedDict):
    """The model of a run."""

    name: str
    qvl_attn: str
    transformers: str
    torch: str
    revision: str
    dtype: str
    device: str
    attention: str
    layer_count: LayerOrHead
    head_count: LayerOrHead
    processor_size: dict[str, Count]


class _Stated(TypedDict):
    data: str
    headline_map: str
    headline_of: dict[str, Any]  # a `Headline`
    settings: dict[str, Any]  # `Settings`
    shard: dict[str, Count] | None  # a `Shard`
    model: Model


class Facts(_Stated):
    """The facts of a run that its summary states besides the figures."""

    seed: Count


class Estimate(TypedDict):
    """A mean with the ends of its 95 % interval, and how many samples define it."""

    mean: Number
    low: Number
    high: Number
    n: Count


class HeadlineFigure(Estimate):
    """A figure of the headline, with its controls."""

    chance: Number
    uniform: Number
    centre: Number
    other: Number
    all_layers: Estimate
    over_all_layers: Estimate


class LayerFigure(Estimate, total=False):
    """A figure of a layer."""

    chance: Number
    other: Number


class LayerRow(Figures[LayerFigure]):
    """The figures of a layer."""

    layer: LayerOrHead


class MethodFigure(Estimate, total=False):
    """A figure of a method."""

    chance: Number
    over_random: Estimate


class Answers(TypedDict):
    """How many answers are right or wrong, by whether the headline points into a box."""

    right_grounded: Count
    right_elsewhere: Count
    wrong_grounded: Count
    wrong_elsewhere: Count


class Bootstrap(TypedDict):
    """How the intervals were computed."""

    draws: Count
    level: Finite
    unit: str
    seed: Count


class Half(TypedDict):
    """How many samples are in a half of a calibration, and how many of them were scored."""

    samples: Count
    scored: Count


class Ranked(TypedDict):
    """The means that layers and heads are ranked by."""

    pointing: Number
    lift: Number


class RankedLayer(TypedDict):
    """A layer in a ranking."""

    layer: LayerOrHead
    first_half: Ranked
    second_half: Ranked


class RankedHead(RankedLayer):
    """A head in a ranking."""

    head: LayerOrHead


class Ranking(TypedDict):
    """Layers and heads, the best first."""

    layers: list[RankedLayer]
    heads: list[RankedHead]


class Calibration(TypedDict):
    """How a headline was calibrated."""

    profile: dict[str, Any] | None  # a `Profile`
    first_half: Half
    second_half: Half
    all_layers: dict[str, Ranked]
    ranking: Ranking | None


class Summary(_Stated):
    """The contents of `summary.json`."""

    schema_version: Literal[1]
    kind: Literal["check"]
    samples: Count
    errors: Count
    retried: Count
    pictures: Count
    groups: Count
    with_boxes: Count
    first_error: str | None
    unsampled_boxes: Count
    errors_with_boxes: Count
    no_cell_inside: Count
    with_answers: Count
    accuracy: Estimate | None
    headline: dict[str, HeadlineFigure]
    answers_and_grounding: Answers
    layers: list[LayerRow]
    methods: dict[str, dict[str, MethodFigure]]
    heads: Controlled[list[list[Number]]] | None
    bootstrap: Bootstrap
    calibration: Calibration | None
    notes: list[str]
    files: list[str]


def read_summary(folder: Path) -> Summary:
    """Return the contents of the `summary.json` of a check.

    Raises:
        StoreError: it is damaged.
    """
    try:
        summary = decoded(read_json(folder / SUMMARY_FILE), Summary, "summary")
        settings_from(summary["settings"], summary["model"]["layer_count"])
        return summary
    except (ValueError, InputError) as error:
        raise StoreError(f"{folder / SUMMARY_FILE} is damaged: {error}", SUMMARY_REMEDY) from None
