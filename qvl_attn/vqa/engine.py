"""A model that answers questions: checks before the weights are loaded, loading, groups of questions, results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self, Unpack, cast

import torch

from qvl_attn.attribution.profiles import shape_of
from qvl_attn.attribution.selection import Selection
from qvl_attn.attribution.settings import QuestionOptions, Settings, selection_of, settings_of
from qvl_attn.core.errors import numbered
from qvl_attn.core.runtime import (
    OnToken,
    Progress,
    Stages,
    check_cancelled,
    joined,
    loading,
    no_progress,
)
from qvl_attn.core.text import argument, quoted
from qvl_attn.core.turns import Turns
from qvl_attn.core.types import Media
from qvl_attn.media.given import PictureLike, load_pictures
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.model.cancellation import cancellable
from qvl_attn.model.capture import prove_capture
from qvl_attn.model.checkpoint import DEFAULT_MODEL, Checkpoint, find_checkpoint, guarded, with_weights
from qvl_attn.model.config_check import WRONG_CONFIG
from qvl_attn.model.generate import on_model
from qvl_attn.model.loading import (
    choose_placement,
    generation_provenance,
    load_config,
    load_processor,
    load_weights,
    model_provenance,
    provenance_fields,
)
from qvl_attn.model.memory import free_bytes, mapped_bytes, on_device, peak_bytes, process_bytes
from qvl_attn.model.placement import LoadOptions, LoadSettings, Placement
from qvl_attn.model.positions import checked_media, grey_picture, prove_positions
from qvl_attn.vqa.batching import Group, Run, groups, run_group
from qvl_attn.vqa.estimate import Estimate, check_context, check_memory, choose_attention, estimate_of
from qvl_attn.vqa.explain import method_maps, removal
from qvl_attn.vqa.question import Question, read_question, without_pixels
from qvl_attn.vqa.record import VqaProvenance
from qvl_attn.vqa.result import Result

LOG = logging.getLogger(__name__)
# Safety factor on the estimate of a batch: a batch that runs out of memory loses the answers to all its questions.
ESTIMATE_MARGIN = 1.25


# A small grey picture for checks of the model.
DOT = grey_picture(56, 56)


class Engine:
    """A model with its processor, which turns questions into results. Create one with `load`.

    The weights are loaded when the first question needs them, so every check that needs no weights runs first.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Any,
        placement: Placement,
        attn: str = "auto",
        *,
        offline: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.placement = placement
        self.attn = attn
        self.offline = offline
        self.processor = load_processor(checkpoint, config)
        self.turns = Turns("one question at a time: ask after this one has ended")
        self._reported_attention = ""

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        place: Callable[[Any, str, str, str | None], Placement] | None = None,
        weights: bool = True,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Find a model and prepare to load it.

        Args:
            model: a Hugging Face id, a local folder, or `demo` for the embedded model.
            place: returns the device and precision of the model; by default chosen on this machine.
            weights: whether the weights must be there and fit the memory; see `Analyzer.load`.
            options: see `LoadOptions`.

        Raises:
            InputError: an option has an unknown value, or the GPU does not exist.
            ModelError: the model cannot be found, or is not supported.
            MemoryLimitError: the weights do not fit the memory.
        """
        load = LoadSettings(**options)
        checkpoint = find_checkpoint(model, load.revision, offline=load.offline, weights=weights)
        config = load_config(checkpoint)
        place = place or partial(choose_placement, must_fit=weights)
        placement = place(config, load.device, load.dtype, load.device_map)
        where = argument("device_map", load.device_map) if load.device_map else placement.device
        LOG.info(f"{model} ({checkpoint.revision[:12]}): {placement.dtype} on {where} ({placement.reason})")
        if placement.dtype != "float32" and load.attn == "eager":
            LOG.info(f"eager attention in 16 bits can change the answer; {argument('attn', 'rows')} does not")
        return cls(checkpoint, config, placement, load.attn, offline=load.offline)

    @cached_property
    def model(self) -> Any:
        """The loaded model, after a check that its attention can be captured."""
        with loading(self.placement.weight_bytes), on_device(self.placement, 0):
            return self._load()

    def _load(self) -> Any:
        checkpoint = with_weights(self.checkpoint, offline=self.offline)
        model = load_weights(checkpoint, self.config, self.placement)
        inputs = on_model(read_question(self.processor, self.config, [DOT], "?", Settings()).prompt.inputs, model)
        try:
            self._prove(model, inputs)
        except Exception:
            # Without our code: if that fails too, it is the model's own fault.
            with guarded(f"{self.checkpoint.name}: the model cannot run", WRONG_CONFIG), torch.inference_mode():
                model(**inputs, logits_to_keep=1)
            raise
        return model

    def _prove(self, model: Any, inputs: dict[str, Any]) -> None:
        for media in checked_media():
            prove_positions(model, read_question(self.processor, self.config, media, "?", Settings()).prompt)
        auto = ("eager", "rows") if self.placement.dtype == "float32" else ("rows",)
        for attention in auto if self.attn == "auto" else (self.attn,):
            prove_capture(model, inputs, attention)

    def settings(
        self,
        *,
        methods: str | Sequence[str] | None = None,
        clip: ClipSettings | None = None,
        **options: Unpack[QuestionOptions],
    ) -> Settings:
        """Return the settings of a question, see `settings_of`, and log the profile of its headline.

        Raises:
            InputError: a profile or method does not exist, or does not fit the model.
        """
        settings = settings_of(shape_of(self.config), methods=methods, clip=clip, **options)
        if profile := settings.profile:
            instead = f"{argument('profile', 'none')} for the default layers"
            LOG.info(f"headline: {profile.selection} ({profile.status}; {instead})")
        return settings

    def selection(self, settings: Settings) -> Selection:
        """Return the layers, heads and query of settings, parsed: see `selection_of`.

        Raises:
            InputError: a text cannot be parsed, or the model has no such layer or head.
        """
        shape = shape_of(self.config)
        return selection_of(settings, shape.layers, shape.heads)

    def prepare(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        settings: Settings,
        noun: str = "question",
    ) -> list[Question]:
        """Check everything that can be checked before weights are loaded, and choose how attention is computed.

        The choice is the same for all questions and follows the largest one. With several questions, the pixels are
        dropped here and computed again when a question runs.

        Args:
            pairs: (picture or pictures, question) pairs.
            settings: settings of all questions.
            noun: what error messages call one of several pairs.

        Raises:
            InputError: a picture, question or setting is invalid.
            MemoryLimitError: a prompt is estimated not to fit the memory.
            TypeError: a pair is none, or its parts have other types.
        """
        return self.fit(self.read_all(pairs, settings, noun))

    def read_all(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        settings: Settings,
        noun: str = "question",
    ) -> list[Question]:
        """Do as `prepare` without `fit`: every check that needs neither device nor free memory."""
        for pair in cast(Sequence[Any], pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"{argument('pairs')}: want pairs of pictures and a question, got {quoted(pair)}")
        loaded: dict[str, Media] = {}
        by_media: dict[tuple[int, ...], Question] = {}
        questions = []
        for i, (pictures, text) in enumerate(pairs):
            with numbered(i, len(pairs), noun):
                question = self.read(pictures, text, settings, loaded, by_media)
            questions.append(without_pixels(question) if len(pairs) > 1 else question)
        return questions

    def read(
        self,
        pictures: PictureLike | Sequence[PictureLike],
        text: str,
        settings: Settings,
        loaded: dict[str, Media],
        by_media: dict[tuple[int, ...], Question],
    ) -> Question:
        """Prepare one question, with every check that needs neither device nor free memory.

        Of several questions about the same pictures, only the first has the pixels.

        Args:
            pictures: the picture or pictures.
            text: the question.
            settings: settings of the question.
            loaded: pictures by path, so that each is read once; added to.
            by_media: questions with the same settings by the `id` of their media, so that each picture is processed
                once; added to.

        Raises:
            InputError: a picture, the question or a setting is invalid.
        """
        check_cancelled()
        stages = Stages()
        with stages.stage("prepare"):
            media = load_pictures(pictures, loaded, settings.stretch)
            key = tuple(map(id, media))
            like = by_media[key].prompt if key in by_media else None
            question = read_question(self.processor, self.config, media, text, settings, like)
            by_media.setdefault(key, question)
        check_context(self.config, question.job, question.pictures)
        return replace(question, seconds=stages.seconds, peak_memory_bytes=stages.peak_bytes)

    def fit(self, questions: Sequence[Question]) -> list[Question]:
        """Choose how attention is computed: the same way for all questions, as the largest one needs it.

        Raises:
            MemoryLimitError: a prompt is estimated not to fit the memory.
        """
        dtype, device, free = self.placement.dtype, self.placement.device, self.free_bytes()
        attention, reason = self.attn, "asked for"
        if attention == "auto" and questions:
            largest = max((question.job for question in questions), key=lambda job: job.tokens)
            attention, reason = choose_attention(self.config, dtype, largest, free, device)
        for question in questions:
            check_memory(self.config, dtype, question.job, attention, free, question.pictures, device)
        return [replace(question, attention=attention, attention_reason=reason) for question in questions]

    def free_bytes(self) -> int | None:
        """Return the free memory beside the weights; None if they are spread over several GPUs."""
        if self.placement.device_map is not None and torch.cuda.device_count() > 1:
            return None
        loaded = "model" in self.__dict__
        return free_bytes(self.placement) - (0 if loaded else self.placement.weight_bytes)

    def estimate(self, media: Sequence[Media], text: str, settings: Settings) -> Estimate:
        """Estimate what a question costs, whether or not it fits.

        Raises:
            InputError: the question or a setting is invalid.
        """
        prepared = read_question(self.processor, self.config, media, text, settings)
        loaded = "model" in self.__dict__ and self.placement.device == "cpu"
        return estimate_of(
            self.config,
            self.placement,
            prepared,
            self.free_bytes(),
            process_bytes() - (self.placement.weight_bytes if loaded else 0),
            mapped_bytes(self.config, self.placement, self.checkpoint.folder),
        )

    def answer(
        self,
        questions: Sequence[Question],
        batch_size: int = 1,
        progress: Progress = no_progress,
        on_token: OnToken | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Answer prepared questions; yield (index of the question, result) as soon as each is done.

        Questions are grouped as in `ask_many`.

        Args:
            questions: the result of `prepare`.
            batch_size: a limit: batches are smaller if they would not fit.
            progress: called with the number of tokens of each answer so far.
            on_token: of a single question, called with each new piece of the model's own answer.

        Raises:
            Cancelled: in a block of `core.runtime.cancelling`, its `cancel()` returned true.
            CaptureError: the captured attention fails its checks.
            MemoryLimitError: a question does not fit the memory.
            ValueError: `on_token` with several questions.
        """
        if on_token is not None and len(questions) > 1:
            raise ValueError(f"on_token is for a single question, not for {len(questions)}")
        for group in self.groups(questions, batch_size):
            yield from self.answer_group(questions, group, progress, on_token)

    def groups(self, questions: Sequence[Question], batch_size: int) -> Iterator[Group]:
        """Yield groups of questions that run together and are estimated to fit the memory."""
        return groups(questions, self.config, batch_size, self._fits)

    def answer_group(
        self,
        questions: Sequence[Question],
        group: Group,
        progress: Progress = no_progress,
        on_token: OnToken | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Answer the questions of one group, like `answer`."""
        batches = [[questions[i] for i in batch] for batch in group.batches]
        first = batches[0][0]
        if first.attention != self._reported_attention:
            self._reported_attention = first.attention
            LOG.info(f"{first.attention} attention: {first.attention_reason}")
        loading = Stages()
        with loading.stage("load"):
            model = self.model
        inputs = model, self.processor, self.config, batches
        runs = run_group(*inputs, shared=group.shared, progress=progress, on_token=on_token)
        for batch in group.batches:
            for i in batch:
                explaining = Stages()
                with on_device(self.placement, questions[i].prompt.length), cancellable(model):
                    run = next(runs)
                    fields = self._explain(questions[i], run, explaining)
                result = self._result(questions[i], run, joined(loading, explaining), len(batch), group.shared)
                yield i, replace(result, **fields)
                del run, result, fields

    def _explain(self, question: Question, run: Run, stages: Stages) -> dict[str, Any]:
        """Return the fields of the result that hold the methods' maps and their faithfulness."""
        answer, fields = run.supplied or run.own, dict[str, Any]()
        inputs = self.model, self.processor, self.config, question, answer
        if question.settings.methods:
            with stages.stage("methods"):
                fields["methods"] = method_maps(*inputs, run.generic)
        if question.settings.faithfulness:
            memory_known = self.free_bytes() is not None
            batch = next((n for n in (16, 8, 4, 2) if memory_known and self._fits(question, n, shared=False)), 1)
            with stages.stage("faithfulness"):
                fields["curves"] = removal(*inputs, fields.get("methods", ()), batch)
        return fields

    def _fits(self, longest: Question, count: int, shared: bool) -> bool:
        job = replace(longest.job, batch=count, shared=shared, probed=False)
        placement, free = self.placement, self.free_bytes()
        needed = peak_bytes(self.config, placement.dtype, job, longest.attention, placement.device)
        return free is None or needed * ESTIMATE_MARGIN <= free

    def _result(self, question: Question, run: Run, stages: Stages, batch: int, shared: bool) -> Result:
        return Result(
            question=question.prompt.question,
            answer=run.own.answer,
            answer_logprob=run.own.logprob,
            supplied_answer=run.supplied.answer if run.supplied else None,
            supplied_logprob=run.supplied.logprob if run.supplied else None,
            media=question.media,
            capture=(run.supplied or run.own).capture,
            settings=question.settings,
            provenance=VqaProvenance(
                **self.made_by(question.attention),
                attention_reason=question.attention_reason,
                batch=batch,
                shared_pictures=shared,
                **model_provenance(self.config, self.processor),
                generation=generation_provenance(run.generation),
            ),
            seconds={**question.seconds, **stages.seconds, **run.seconds},
            peak_memory_bytes={**question.peak_memory_bytes, **stages.peak_bytes, **run.peak_memory_bytes},
        )

    def made_by(self, attention: str) -> dict[str, Any]:
        """Return the provenance fields that name a result: model, device, precision and versions of the libraries."""
        return {**provenance_fields(self.checkpoint, self.placement), "attention": attention}
