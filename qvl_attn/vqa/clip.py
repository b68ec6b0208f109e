"""Questions about a clip: in one prompt, in windows, or about each frame alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import OnToken, Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.vqa.merge_passes import merge_captures
from qvl_attn.vqa.question import Question
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

FRAMES_AT_ONCE = 8  # the largest batch of prompts with one frame each; smaller if it would not fit the memory


@dataclass(frozen=True, eq=False)
class ClipQuestion:
    """A question about a clip, ready for the model.

    Attributes:
        media: the clip.
        question: text of the question.
        settings: settings of the run.
        whole: the prompt with all frames; None if there are only passes.
        passes: the prompts with parts of the clip, in temporal order.
        first_steps: for each pass, the index of its first step in the whole clip.
    """

    media: Media
    question: str
    settings: Settings
    whole: Question | None
    passes: tuple[Question, ...]
    first_steps: tuple[int, ...]

    @property
    def prompts(self) -> tuple[Question, ...]:
        """All prompts: the whole clip, if there is one, then the passes."""
        return (*([self.whole] if self.whole else []), *self.passes)


def prepare_clip(engine: Engine, media: Media, questions: Sequence[str], settings: Settings) -> list[ClipQuestion]:
    """Prepare questions about a clip, with every check that needs no weights.

    Raises:
        InputError: the question or a setting is invalid.
        MemoryLimitError: a prompt is estimated not to fit the memory.
    """
    clip_settings = settings.clip or ClipSettings()
    parts, first_steps = _parts(media, clip_settings)
    of_answer = engine.selection(settings).query.kind == "answer"
    if clip_settings.mode == "clip" and parts and of_answer:
        raise InputError(
            f"{argument('query', 'answer')}: each window has an answer of its own",
            f"use {argument('query', 'last')}, or drop {argument('window')}",
        )
    if clip_settings.mode == "frames" and of_answer:
        raise InputError(
            f"{argument('query', 'answer')}: each frame has an answer of its own",
            f"use {argument('query', 'last')}, or {argument('mode', 'clip')}",
        )
    inputs = [*([media] if clip_settings.mode == "both" or not parts else []), *parts]
    if parts and (settings.methods or settings.faithfulness):
        asked, other = "faithfulness", "faithfulness"
        if settings.methods:
            asked, other = argument("method", ",".join(settings.methods)), argument("method")
        raise InputError(
            f"{asked}: needs one prompt, and this clip is asked about in {len(parts)}",
            f"drop {argument('mode')} and {argument('window')}, or {other}",
        )
    prepared = engine.prepare([(part, question) for question in questions for part in inputs], settings, "prompt")
    clip_questions = []
    for i, question in enumerate(questions):
        prompts = prepared[i * len(inputs) : (i + 1) * len(inputs)]
        whole = prompts[0] if len(inputs) > len(parts) else None
        passes = tuple(prompts[len(prompts) - len(parts) :])
        clip_questions.append(ClipQuestion(media, question, settings, whole, passes, first_steps))
    return clip_questions


def _parts(media: Media, settings: ClipSettings) -> tuple[list[Media], tuple[int, ...]]:
    """Return the part of the clip in each pass, and the index of its first step in the whole clip."""
    count = len(media.frames)
    if settings.mode != "clip":
        return [_frame(media, i) for i in range(count)], tuple(range(count))
    windows = settings.windows(count)
    if len(windows) == 1:
        return [], ()
    return [_window(media, start, stop) for start, stop in windows], tuple(start // 2 for start, _ in windows)


def _window(media: Media, start: int, stop: int) -> Media:
    facts = media.facts
    times_s = facts.start_s + np.arange(start, stop + 1) / facts.sampled_fps
    return replace(
        media,
        frames=media.frames[start:stop],
        times_s=media.times_s[start:stop],
        notes=(),
        clip=replace(
            facts,
            start_s=float(times_s[0]),
            end_s=float(min(times_s[-1], facts.end_s)),
            frame_indices=facts.frame_indices[start:stop],
        ),
    )


def _frame(media: Media, i: int) -> Media:
    frames = media.frames[i : i + 1]
    return Media(
        kind="picture",
        frames=frames,
        times_s=media.times_s[i : i + 1],
        size_px=media.size_px,
        source=media.source,
        sha256=hashlib.sha256(frames.tobytes()).hexdigest(),
    )


def answer_clip(
    engine: Engine,
    clip_questions: Sequence[ClipQuestion],
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[tuple[int, Result]]:
    """Answer prepared questions; yield (index of the question, result) as soon as all of its passes are done.

    Raises:
        InputError: `on_token` is given, and there are several prompts: see `Engine.answer`.
    """
    prompts = [(i, k, prompt) for i, question in enumerate(clip_questions) for k, prompt in enumerate(question.prompts)]
    if on_token is not None and len(prompts) > 1:
        raise InputError(
            f"{argument('on_token')}: needs one prompt, and this clip is asked about in {len(prompts)}",
            f"drop {argument('mode')} and {argument('window')}, or {argument('on_token')}",
        )
    results: list[dict[int, Result]] = [{} for _ in clip_questions]
    progress("asking", 0, len(prompts))
    answers = engine.answer([prompt for _, _, prompt in prompts], FRAMES_AT_ONCE, progress, on_token)
    for done, (index, result) in enumerate(answers, 1):
        i, k, _ = prompts[index]
        results[i][k] = result
        progress("asking", done, len(prompts))
        if len(results[i]) == len(clip_questions[i].prompts):
            yield i, _join(clip_questions[i], [results[i].pop(k) for k in sorted(results[i])])


def _join(question: ClipQuestion, results: Sequence[Result]) -> Result:
    """Join the results of a question's prompts into one."""
    if not question.passes:
        return results[0]
    passes = tuple(results[-len(question.passes) :])
    if question.whole:
        return replace(results[0], passes=passes)
    answers = dict.fromkeys(result.answer.strip() for result in passes)
    supplied = [result.supplied_logprob for result in passes if result.supplied_logprob is not None]
    stages = dict.fromkeys(stage for result in passes for stage in result.seconds)
    return replace(
        passes[0],
        answer=" | ".join(answers),
        answer_logprob=sum(result.answer_logprob for result in passes),
        supplied_logprob=sum(supplied) if supplied else None,
        media=(question.media,),
        capture=merge_captures([result.capture for result in passes], question.first_steps, question.media),
        seconds={stage: round(sum(result.seconds.get(stage, 0) for result in passes), 3) for stage in stages},
        passes=passes,
    )
