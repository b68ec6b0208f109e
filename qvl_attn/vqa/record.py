"""What a question gives: the answer, the attention, where it came from, and heat maps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qvl_attn.attribution.faithfulness import Curves
from qvl_attn.attribution.heatmap import heat_maps
from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.selection import default_layers, parse_heads, parse_layers, query_rows
from qvl_attn.attribution.settings import Settings
from qvl_attn.attribution.similarity import Sanity
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Capture, HeatMap, IntArray, Media, Scale
from qvl_attn.results.record import Provenance, Record

MAX_LAYERS = 4096


@dataclass(frozen=True)
class VqaProvenance(Provenance):
    """What made an answer and its maps."""

    attention: str
    layer_count: int
    head_count: int
    generation: dict[str, float | int | bool]
    processor_size: dict[str, int]
    attention_reason: str = ""
    batch: int = 1
    shared_pictures: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.layer_count <= MAX_LAYERS and 0 < self.head_count <= MAX_LAYERS):
            raise ValueError(f"{self.layer_count} layers of {self.head_count} heads")


@dataclass(frozen=True, eq=False, repr=False)
class VqaRecord(Record):
    """One question about one prompt's pictures, or about one clip.

    A clip that was looked at in several passes has them in `passes`, each a result of its own. Windows, and frames with
    mode `frames`, are merged into the whole's `capture` (`merge.py` says how), whose rows are those of the question and
    the last prompt token; with mode `both` the capture is the one of the whole clip in one prompt.

    Attributes:
        question: as it was typed.
        answer: the model's own, greedy. Of several passes, the different ones in the order of time, with ` | ` between.
        answer_logprob: natural logarithm of the probability of the answer's text tokens under the plain model
            (temperature 1, no penalty, end token not counted); 0 for an empty answer.
        supplied_answer: the answer given with `--answer`, whose maps these are; None where the model's own was used.
        supplied_logprob: as `answer_logprob`, for the supplied answer.
        media: the pictures, in prompt order, or the clip.
        capture: the attention rows.
        settings: what was asked for.
        provenance: what made it.
        seconds: by stage. A batch's time is shared evenly; of several questions about the same pictures the first batch
            bears the pictures.
        passes: of a clip that was looked at in several.
        methods: what the methods that were asked for made of it; the first is the headline's.
        curves: what becomes of the answer's probability as cells go, where faithfulness was asked for.
        sanity: by map, how alike it is under changed circumstances, where faithfulness was asked for.
    """

    question: str
    answer: str
    answer_logprob: float
    supplied_answer: str | None
    supplied_logprob: float | None
    media: tuple[Media, ...]
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
        """In how many prompts a clip was looked at: `clip` (one, as of pictures), `windows`, `frames` or `both`."""
        how = self.settings.clip
        if how is None or (how.mode == "clip" and not self.passes):
            return "clip"
        return "windows" if how.mode == "clip" else how.mode

    @property
    def mapped_answer(self) -> str:
        """The answer whose tokens the maps belong to: the supplied one, or else the model's own."""
        return self.answer if self.supplied_answer is None else self.supplied_answer

    def headline_layers(self) -> tuple[int, ...]:
        """The layers of the plain headline: those captured where some were named, else the profile's.

        Without a profile, those at 50 to 85 % of the depth. In a check, or where a saved result is drawn again, those
        that were named for its headline.
        """
        profile, headline = self.settings.profile, self.settings.headline
        if headline is not None:
            return headline.layers or tuple(sorted({layer for layer, _ in headline.heads or ()}))
        if self.settings.layers is not None:
            return tuple(self.capture.layers.tolist())
        if profile is not None:
            return profile.layers or tuple(sorted({layer for layer, _ in profile.heads}))
        return default_layers(self.provenance.layer_count)

    def headline_heads(self) -> tuple[tuple[int, int], ...] | None:
        """The heads that were asked for as (layer, head), in every captured layer, or the profile's; None for all."""
        if self.settings.headline is not None:
            return self.settings.headline.heads
        if self.settings.profile is not None:
            return self.settings.profile.heads or None
        return parse_heads(self.settings.heads, self.capture.layers.tolist(), self.provenance.head_count)

    @property
    def is_cut(self) -> bool:
        """Whether the model's own answer ran into `max_new_tokens`; not known where an answer was supplied."""
        own = self.supplied_answer is None and self.capture.tokens[-1].role == "answer"
        return own or any(one.is_cut for one in self.passes)

    def heatmaps(
        self,
        layers: str | int | Sequence[int] | None = None,
        heads: str | None = None,
        query: str | None = None,
        scale: Scale | None = None,
    ) -> tuple[HeatMap, ...]:
        """Heat maps of all pictures of the prompt, on one scale.

        They are the method's if one was asked for, and nothing is named here; else those of the plain attention.

        Args:
            layers: `all`, `18`, `14-20`, `4,8,12` or numbers; by default the headline's.
            heads: `all`, `3,5` or `21.9,21.11` (the result must have been asked for with heads); by default the
                headline's.
            query: `question`, `last`, `answer` or `text:words`; by default the headline's.
            scale: what to draw them on; by default zero to the 99.5th percentile of their cells.

        Raises:
            InputError: something named is not there.
        """
        if self.methods and layers is None and heads is None and query is None:
            return self.method_maps(self.methods[0], scale)
        count = self.provenance.layer_count
        chosen = self.headline_layers() if layers is None else parse_layers(layers, count)
        typed_heads = heads
        if heads is None and not (layers is not None and "." in (self.settings.heads or "")):
            typed_heads = self.settings.heads
        within = chosen if layers is not None else self.capture.layers.tolist()
        pairs = parse_heads(typed_heads, within if "." in (typed_heads or "") else chosen, self.provenance.head_count)
        if layers is None and heads is None:
            pairs = self.headline_heads() if self.settings.headline else pairs or self.headline_heads()
        named = query or self.settings.query
        rows = query_rows(self.capture, self.question, named)
        return heat_maps(self.capture, layers=chosen, heads=pairs, rows=rows, query=named, scale=scale)

    def method_maps(self, method: MethodMap, scale: Scale | None = None) -> tuple[HeatMap, ...]:
        """What one of its methods made of all pictures of the prompt, on one scale.

        Raises:
            CaptureError: the map is zero everywhere.
        """
        asked = self.settings.query
        averaged = self.heatmaps(query=asked)[0].heads if METHODS[method.method].heads else "all"
        return method_heat_maps(method, self.capture, self.query_rows(), asked, scale, heads=averaged)

    def query_rows(self) -> IntArray:
        """Rows of the capture that the headline's query averages."""
        return query_rows(self.capture, self.question, self.settings.query)

    def heatmap(
        self,
        layers: str | int | Sequence[int] | None = None,
        heads: str | None = None,
        query: str | None = None,
        media: int = 0,
    ) -> HeatMap:
        """The heat map of one picture; `.values` is (t, h, w) float32, attention as the softmax gave it.

        Args:
            layers: as in `heatmaps`.
            heads: as in `heatmaps`.
            query: as in `heatmaps`.
            media: which picture of the prompt, from 0.

        Raises:
            InputError: something named is not there.
        """
        if not 0 <= media < len(self.media):
            raise InputError(f"media {media}: not there", f"the prompt has pictures 0 to {len(self.media) - 1}")
        return self.heatmaps(layers, heads, query)[media]
