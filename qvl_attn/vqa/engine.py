"""A model and how prompts go through it: loading, checks before the weights are there, groups, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from qvl_attn.attribution.settings import Settings, settings_of
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Stages, joined, no_op
from qvl_attn.core.types import Media
from qvl_attn.media.image import PictureLike, load_pictures
from qvl_attn.model.capture import prove_capture
from qvl_attn.model.checkpoint import (
    DEFAULT_MODEL,
    Checkpoint,
    Placement,
    choose_placement,
    find_checkpoint,
    generation_provenance,
    load_config,
    load_processor,
    load_weights,
    model_provenance,
    provenance_fields,
)
from qvl_attn.model.generate import on_model
from qvl_attn.model.memory import free_bytes, on_device, peak_bytes
from qvl_attn.vqa.batching import Group, Run, groups, run_group
from qvl_attn.vqa.estimate import (
    ATTENTION_MODES,
    check_context,
    check_memory,
    choose_attention,
)
from qvl_attn.vqa.explain import method_maps, removal
from qvl_attn.vqa.question import Question, read_question, without_pixels
from qvl_attn.vqa.record import VqaProvenance
from qvl_attn.vqa.result import Result

# How far above the estimate a batch may come: one that does not fit loses the answers of all its questions.
ESTIMATE_MARGIN = 1.25


# A small grey picture to try things with.
DOT = Media(
    kind="picture",
    frames=np.full((1, 56, 56, 3), 127, dtype=np.uint8),
    times_s=np.zeros(1),
    size_px=(56, 56),
    source="self-check",
    sha256="",
)


class Engine:
    """A model with its processor, and the way from questions to results. Make one with `load`.

    The weights are loaded when the first question needs them, so that every fault that can be known without them is
    found first.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Any,
        placement: Placement,
        attn: str = "auto",
        say: Callable[[str], None] = no_op,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.placement = placement
        self.attn = attn
        self.processor = load_processor(checkpoint, config)
        self.say = say
        self._said = ""

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | None = None,
        attn: str = "auto",
        offline: bool = False,
        say: Callable[[str], None] = no_op,
        place: Callable[[Any, str, str, str | None], Placement] = choose_placement,
    ) -> Self:
        """Find a model and get ready to load it.

        Args:
            model: a Hugging Face id, a local folder, or `demo` for the embedded model.
            revision: branch, tag or commit of a hub model.
            device: `auto`, `cpu`, `cuda` or `cuda:1`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`. Auto is bfloat16 on CUDA, and float32 on the CPU while
                the weights fit the free memory.
            device_map: `auto` and its kin spread a model over several GPUs.
            attn: `eager`, the reference; `rows`, the rows alone beside SDPA; `auto`, eager in float32 while it is
                estimated to fit the free memory, and rows otherwise.
            offline: never reach for the hub.
            say: is told what was chosen, a line at a time.
            place: finds where and in what precision the model runs; by default on this machine.

        Raises:
            InputError: a word that is not one of these, or a GPU that is not there.
            ModelError: the model cannot be had or cannot be served.
            MemoryLimitError: the weights do not fit.
        """
        if attn not in ATTENTION_MODES:
            raise InputError(f"--attn {attn}: unknown", f"write {', '.join(ATTENTION_MODES)}")
        checkpoint = find_checkpoint(model, revision, offline=offline)
        config = load_config(checkpoint)
        placement = place(config, device, dtype, device_map)
        where = f"--device-map {device_map}" if device_map else placement.device
        say(f"{model} ({checkpoint.revision[:12]}): {placement.dtype} on {where} ({placement.reason})")
        if placement.dtype != "float32" and attn == "eager":
            say("eager attention in 16 bits can change the answer; --attn rows leaves it alone")
        return cls(checkpoint, config, placement, attn, say)

    @cached_property
    def model(self) -> Any:
        """The loaded model, after it has proved that its attention can be captured."""
        self.say("loading the weights")
        with on_device(self.placement, 0):
            return self._load()

    def _load(self) -> Any:
        model = load_weights(self.checkpoint, self.placement)
        inputs = on_model(read_question(self.processor, self.config, [DOT], "?", Settings()).prompt.inputs, model)
        auto = ("eager", "rows") if self.placement.dtype == "float32" else ("rows",)
        for attention in auto if self.attn == "auto" else (self.attn,):
            prove_capture(model, inputs, attention)
        return model

    def settings(self, **typed: Any) -> Settings:
        """What is asked for, as `settings_of` reads it.

        Raises:
            InputError: a profile or method that cannot be had, or does not fit.
        """
        return settings_of(self.config, self.say, **typed)

    def prepare(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        settings: Settings,
        noun: str = "question",
    ) -> list[Question]:
        """Find every fault that can be known before weights are loaded, and choose how attention is computed.

        One way for all, that of the largest. Of several questions the pixels are given up, and made again to run.

        Args:
            pairs: what is shown, and a question about it.
            settings: as they were typed.
            noun: what one of several pairs is called in a fault.

        Raises:
            InputError: a fault in what was given.
            MemoryLimitError: a prompt is estimated not to fit the memory.
        """
        loaded: dict[str, Media] = {}
        known: dict[tuple[int, ...], Question] = {}
        questions = []
        for i, (pictures, text) in enumerate(pairs):
            try:
                one = self.read(pictures, text, settings, loaded, known)
            except InputError as error:
                where = f"{noun} {i + 1} of {len(pairs)}: " if len(pairs) > 1 else ""
                raise InputError(where + error.message, error.hint) from None
            questions.append(without_pixels(one) if len(pairs) > 1 else one)
        return self.fit(questions)

    def read(
        self,
        pictures: PictureLike | Sequence[PictureLike],
        text: str,
        settings: Settings,
        loaded: dict[str, Media],
        known: dict[tuple[int, ...], Question],
    ) -> Question:
        """Find every fault of one question that can be known without looking at the memory. Asks no device.

        Of questions about the same pictures the first has the pixels.

        Args:
            pictures: what is shown.
            text: the question.
            settings: as they were typed.
            loaded: pictures by path, which are read once.
            known: questions with the same settings, by the identities of their media, which are processed once.

        Raises:
            InputError: a fault in what was given.
        """
        stages = Stages()
        with stages.stage("prepare"):
            media = load_pictures(pictures, loaded)
            same = tuple(map(id, media))
            like = known[same].prompt if same in known else None
            one = read_question(self.processor, self.config, media, text, settings, like)
            known.setdefault(same, one)
        check_context(self.config, one.job, one.pictures)
        return replace(one, seconds=stages.seconds, peak_memory_bytes=stages.peak_bytes)

    def fit(self, questions: Sequence[Question]) -> list[Question]:
        """Choose how attention is computed, one way for all, that of the largest.

        Raises:
            MemoryLimitError: a prompt is estimated not to fit the memory.
        """
        dtype, device, free = self.placement.dtype, self.placement.device, self.free_bytes()
        attention, reason = self.attn, "asked for"
        if attention == "auto" and questions:
            largest = max((one.job for one in questions), key=lambda job: job.tokens)
            attention, reason = choose_attention(self.config, dtype, largest, free, device)
        for one in questions:
            check_memory(self.config, dtype, one.job, attention, free, one.pictures, device)
        return [replace(one, attention=attention, attention_reason=reason) for one in questions]

    def free_bytes(self) -> int | None:
        """Memory for a prompt beside the weights; None where they are spread over several GPUs."""
        if self.placement.device_map is not None and torch.cuda.device_count() > 1:
            return None
        loaded = "model" in self.__dict__
        return free_bytes(self.placement) - (0 if loaded else self.placement.weight_bytes)

    def answer(self, questions: Sequence[Question], batch_size: int = 1) -> Iterator[tuple[int, Result]]:
        """Answer what was prepared, each with its place among the questions, as soon as it is there.

        Grouped as in `ask_many`. The batch is a limit: a smaller one is taken where it would not fit the memory.

        Raises:
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        for group in self.groups(questions, batch_size):
            yield from self.answer_group(questions, group)

    def groups(self, questions: Sequence[Question], batch_size: int) -> Iterator[Group]:
        """Which questions run together, while they are estimated to fit the memory."""
        return groups(questions, self.config, batch_size, self._fits)

    def answer_group(self, questions: Sequence[Question], group: Group) -> Iterator[tuple[int, Result]]:
        """Answer those of the questions that are of a group, as `answer` does."""
        asked = [[questions[i] for i in batch] for batch in group.batches]
        first = asked[0][0]
        if first.attention != self._said:
            self._said = first.attention
            self.say(f"{self._said} attention: {first.attention_reason}")
        loading = Stages()
        with loading.stage("load"):
            model = self.model
        runs = run_group(model, self.processor, self.config, asked, shared=group.shared)
        for batch in group.batches:
            for i in batch:
                explaining = Stages()
                with on_device(self.placement, questions[i].prompt.length):
                    run = next(runs)
                    explained = self._explained(questions[i], run, explaining)
                result = self._result(questions[i], run, joined(loading, explaining), len(batch), group.shared)
                yield i, replace(result, **explained)
                del run, result, explained

    def _explained(self, question: Question, run: Run, stages: Stages) -> dict[str, Any]:
        """Maps of the question's methods, and how faithful they are, as fields of its result."""
        answered, found = run.supplied or run.own, dict[str, Any]()
        asked = self.model, self.processor, self.config, question, answered
        if question.settings.methods:
            with stages.stage("methods"):
                found["methods"] = method_maps(*asked, run.generic)
        if question.settings.faithfulness:
            known = self.free_bytes() is not None
            batch = next((n for n in (16, 8, 4, 2) if known and self._fits(question, n, shared=False)), 1)
            with stages.stage("faithfulness"):
                found["curves"] = removal(*asked, found.get("methods", ()), batch)
        return found

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
                **self.made_by(question),
                attention_reason=question.attention_reason,
                batch=batch,
                shared_pictures=shared,
                **model_provenance(self.config, self.processor),
                generation=generation_provenance(run.generation),
            ),
            seconds={**question.seconds, **stages.seconds, **run.seconds},
            peak_memory_bytes={**question.peak_memory_bytes, **stages.peak_bytes, **run.peak_memory_bytes},
        )

    def made_by(self, question: Question) -> dict[str, Any]:
        """What of the model, its place and the libraries goes into the name of a result."""
        return provenance_fields(self.checkpoint, self.placement, question.attention)
