"""The record of a question: answer, attention, provenance, and heat maps computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from msgspec import Meta

from qvl_attn.attribution.faithfulness import Curves
from qvl_attn.attribution.heatmap import heat_maps
from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.methods.registry import METHODS, MethodMap
from qvl_attn.attribution.selection import Pairs, Query, Selection, parse_selection, query_rows
from qvl_attn.attribution.settings import Headline, QuestionOptions, Settings, headline_of, selection_of
from qvl_attn.attribution.similarity import Sanity
from qvl_attn.core.errors import InputError
from qvl_attn.core.options import with_types
from qvl_attn.core.types import Capture, HeatMap, IntArray, Scale
from qvl_attn.results.record import Provenance, Record

# More than any model has; lists are made of as many.
_LayerCount = Annotated[int, Meta(ge=1, le=4096)]


@dataclass(frozen=True)
class VqaProvenance(Provenance):
    """Versions, model and settings behind an answer and its maps."""

    attention: str
    layer_count: _LayerCount
    head_count: _LayerCount
    generation: dict[str, float | int | bool]
    processor_size: dict[str, int]
    attention_reason: str = ""
    batch: int = 1
    shared_pictures: bool = False


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class VqaRecord(Record):
    """One question about one prompt's pictures, or about one clip.

    If a clip was asked about in several passes, `passes` holds a result for each. Windows, and the frames of mode
    `frames`, are merged into the `capture` of the whole (see `merge_passes.py`), with the rows of the question and the
    last prompt token; with mode `both` the capture is that of the whole clip in one prompt.

    Attributes:
        question: text of the question.
        answer: the model's own answer, greedy. With several passes, the distinct answers in temporal order, joined by
            ` | `.
        answer_logprob: natural logarithm of the probability of the answer's text tokens under the plain model
            (temperature 1, no penalty, end token not counted); 0 for an empty answer.
        supplied_answer: the answer given with `answer`, to which the maps then belong; None if there is none.
        supplied_logprob: like `answer_logprob`, for the supplied answer.
        capture: the attention rows.
        settings: settings of the question.
        provenance: versions, model and settings behind the result.
        seconds: duration of each stage. A batch's time is divided evenly; if several questions share their pictures,
            the first batch includes the time of the pictures.
        passes: results of the passes over parts of a clip.
        methods: maps of the requested methods; the first is the headline's.
        curves: deletion and insertion curves, if faithfulness was requested.
        sanity: for each map's name, its similarity to the map under changed conditions, if faithfulness was requested.
    """

    question: str
    answer: str
    answer_logprob: float
    supplied_answer: str | None
    supplied_logprob: float | None
    capture: Capture
    settings: Settings
    provenance: VqaProvenance
    passes: tuple[VqaRecord, ...] = ()
    methods: tuple[MethodMap, ...] = ()
    curves: Curves | None = None
    sanity: Mapping[str, Sanity] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.question!r}, answer={self.answer!r}, {self.media[0].kind}s={len(self.media)})"
        )

    @property
    def pass_mode(self) -> str:
        """How a clip was split into prompts: `clip` (one prompt, as for pictures), `windows`, `frames` or `both`."""
        clip = self.settings.clip
        if clip is None or (clip.mode == "clip" and not self.passes):
            return "clip"
        return "windows" if clip.mode == "clip" else clip.mode

    @property
    def mapped_answer(self) -> str:
        """The answer to which the maps belong: the supplied one, else the model's own."""
        return self.answer if self.supplied_answer is None else self.supplied_answer

    @cached_property
    def selection(self) -> Selection:
        """The layers, heads and query of the settings, parsed.

        Raises:
            InputError: the settings of a saved result were changed to what cannot be parsed.
        """
        return selection_of(self.settings, self.provenance.layer_count, self.provenance.head_count)

    @cached_property
    def headline(self) -> Headline:
        """The layers, or (layer, head) pairs, that the plain headline averages."""
        return headline_of(self.settings, self.selection)

    def headline_heads(self) -> Pairs | None:
        """Return the headline's (layer, head) pairs, named heads in every captured layer; None for all heads."""
        heads = self.selection.heads
        if self.settings.headline is not None or heads is None:
            return self.headline.heads
        return heads.of(self.capture.layers.tolist())

    @property
    def is_cut(self) -> bool:
        """Whether the model's own answer reached `max_new_tokens`; False if an answer was supplied."""
        cut = self.supplied_answer is None and self.capture.tokens[-1].role == "answer"
        return cut or any(pass_result.is_cut for pass_result in self.passes)

    def heatmaps(
        self,
        layers: str | int | Sequence[int] | None = None,
        heads: str | None = None,
        query: str | None = None,
        scale: Scale | None = None,
    ) -> tuple[HeatMap, ...]:
        """Return heat maps of all pictures of the prompt, on one scale.

        Without arguments, they are those of the first method, if there is one; else those of plain attention.

        Args:
            layers: `all`, `18`, `14-20`, `4,8,12` or numbers; by default the headline's.
            heads: `all`, `3,5` or `21.9,21.11` (these heads must have been recorded); by default the headline's.
            query: `question`, `last`, `answer` or `text:words`; by default the headline's.
            scale: scale for drawing; by default from zero to the 99.5th percentile of the cells.

        Raises:
            InputError: a layer, head or query does not exist in the result.
        """
        if self.methods and layers is None and heads is None and query is None:
            return self.method_maps(self.methods[0], scale)
        return self.plain_maps(*self.chosen(layers, heads, query), scale)

    def chosen(
        self, layers: str | int | Sequence[int] | None, heads: str | None, query: str | None
    ) -> tuple[Headline, Query]:
        """Parse the arguments of `heatmaps`; what is None is the headline's.

        Raises:
            InputError: a text has another form, or there is no such layer or head.
            TypeError: an argument is of another type.
        """
        layers, heads, query = with_types({"layers": layers, "heads": heads, "query": query}, QuestionOptions).values()
        own, headline = self.selection.heads, self.headline
        selection = parse_selection(
            layers,
            heads,
            self.settings.query if query is None else query,
            self.provenance.layer_count,
            self.provenance.head_count,
        )
        if layers is None and heads is None:
            return headline, selection.query
        numbers = (headline.layers or headline.averaged_layers) if layers is None else selection.layers
        # Pairs that were named for other layers do not apply.
        named = selection.heads if heads is not None else own if own and own.numbers else None
        return Headline(numbers, named.of(numbers) if named else None), selection.query

    def plain_maps(
        self, headline: Headline | None = None, query: Query | None = None, scale: Scale | None = None
    ) -> tuple[HeatMap, ...]:
        """Return heat maps of plain attention of all pictures of the prompt, on one scale.

        Args:
            headline: the layers or heads to average; by default those of the headline.
            query: by default the headline's.
            scale: as in `heatmaps`.

        Raises:
            InputError: a layer or head was not captured, or there are no such query tokens.
            CaptureError: there is no attention on the pictures.
        """
        headline, query = headline or self.headline, query or self.selection.query
        rows = query_rows(self.capture, self.question, query)
        return heat_maps(
            self.capture, layers=headline.layers, heads=headline.heads, rows=rows, query=str(query), scale=scale
        )

    def method_maps(self, method: MethodMap, scale: Scale | None = None) -> tuple[HeatMap, ...]:
        """Return one of its methods' heat maps of all pictures of the prompt, on one scale.

        Raises:
            CaptureError: the map is zero everywhere.
        """
        heads = self.headline.heads if METHODS[method.method].heads else None
        query = str(self.selection.query)
        return method_heat_maps(method, self.capture, self.query_rows(), query, scale, heads=heads)

    def query_rows(self) -> IntArray:
        """Return the rows of the capture that the headline's query averages."""
        return query_rows(self.capture, self.question, self.selection.query)

    def heatmap(
        self,
        layers: str | int | Sequence[int] | None = None,
        heads: str | None = None,
        query: str | None = None,
        media: int = 0,
    ) -> HeatMap:
        """Return the heat map of one picture; `.values` is (t, h, w) float32 softmax attention.

        Args:
            layers: as in `heatmaps`.
            heads: as in `heatmaps`.
            query: as in `heatmaps`.
            media: index of the picture in the prompt.

        Raises:
            InputError: a layer, head, query or picture does not exist in the result.
        """
        if not 0 <= media < len(self.media):
            raise InputError(f"media {media}: no such picture", f"the prompt has pictures 0 to {len(self.media) - 1}")
        return self.heatmaps(layers, heads, query)[media]
