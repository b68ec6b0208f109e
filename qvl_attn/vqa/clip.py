"""Questions about a clip: in one prompt, in windows, or of each frame alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.core.types import Media
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from qvl_attn.media.video_source import VideoSource
from qvl_attn.model.preprocess import frame_resizer
from qvl_attn.vqa.merge_passes import merge_captures
from qvl_attn.vqa.question import Question
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.sanity import with_sanity

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

FRAMES_AT_ONCE = 8  # prompts with one frame each, while they are estimated to fit the memory


@dataclass(frozen=True, eq=False)
class ClipQuestion:
    """A question about a clip, ready for the model.

    Attributes:
        media: the clip.
        question: as it was typed.
        settings: what was asked for.
        whole: the prompt with all frames; None where there are only passes.
        passes: the prompts with parts of the clip, in the order of time.
        first_steps: where each pass begins among the steps of the whole.
    """

    media: Media
    question: str
    settings: Settings
    whole: Question | None
    passes: tuple[Question, ...]
    first_steps: tuple[int, ...]

    @property
    def prompts(self) -> tuple[Question, ...]:
        """All prompts."""
        return (*([self.whole] if self.whole else []), *self.passes)


def load_clip(processor: Any, video: VideoSource, settings: Settings, progress: Progress = no_op) -> Media:
    """Sample a clip's frames, at the size that the processor wants.

    Args:
        processor: of the model.
        video: the clip.
        settings: their `clip` says which frames, their limits of pixels how large.
        progress: told what is being done, how much of it is done, and of how much.

    Raises:
        InputError: nothing to see at the times that were asked for, or too much of it broken.
    """
    plan = plan_frames(video, settings.clip or ClipSettings())
    resize = frame_resizer(processor, settings.min_pixels, settings.max_pixels, len(plan.wanted))
    return sample_clip(video, plan, resize, lambda done: progress("decoding", done, plan.stop - plan.first))


def prepare_clip(engine: Engine, media: Media, questions: Sequence[str], settings: Settings) -> list[ClipQuestion]:
    """Find every fault that can be known before weights are loaded.

    Raises:
        InputError: a fault in what was given.
        MemoryLimitError: a prompt is estimated not to fit the memory.
    """
    how = settings.clip or ClipSettings()
    parts, first_steps = _parts(media, how)
    if how.mode == "clip" and parts and settings.query == "answer":
        raise InputError("--query answer: each window has an answer of its own", "use --query last, or leave --window")
    if how.mode == "frames" and settings.query == "answer":
        raise InputError("--query answer: each frame has an answer of its own", "use --query last, or --mode clip")
    shown = [*([media] if how.mode == "both" or not parts else []), *parts]
    if parts and (settings.methods or settings.faithfulness):
        option, what = ("--method", "a method looks at") if settings.methods else ("faithfulness", "it is measured in")
        raise InputError(
            f"{' '.join([option, ','.join(settings.methods)]).strip()}: {what} one prompt, and this clip is looked at "
            f"in {len(parts)}",
            f"leave --mode and --window, or {option}",
        )
    prepared = engine.prepare([(one, question) for question in questions for one in shown], settings, "prompt")
    asked = []
    for i, question in enumerate(questions):
        own = prepared[i * len(shown) : (i + 1) * len(shown)]
        whole = own[0] if len(shown) > len(parts) else None
        asked.append(ClipQuestion(media, question, settings, whole, tuple(own[len(own) - len(parts) :]), first_steps))
    return asked


def _parts(media: Media, how: ClipSettings) -> tuple[list[Media], tuple[int, ...]]:
    """What the passes are about, and the step of the whole at which each begins."""
    count = len(media.frames)
    if how.mode != "clip":
        return [_frame(media, i) for i in range(count)], tuple(range(count))
    windows = how.windows(count)
    if len(windows) == 1:
        return [], ()
    return [_window(media, start, stop) for start, stop in windows], tuple(start // 2 for start, _ in windows)


def _window(media: Media, start: int, stop: int) -> Media:
    facts = media.facts
    moments = facts.start_s + np.arange(start, stop + 1) / facts.sampled_fps
    return replace(
        media,
        frames=media.frames[start:stop],
        times_s=media.times_s[start:stop],
        notes=(),
        clip=replace(
            facts,
            start_s=float(moments[0]),
            end_s=float(min(moments[-1], facts.end_s)),
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
    engine: Engine, asked: Sequence[ClipQuestion], progress: Progress = no_op
) -> Iterator[tuple[int, Result]]:
    """Answer what was prepared, each with its place among the questions, as soon as all of its passes are there."""
    prompts = [(i, k, one) for i, question in enumerate(asked) for k, one in enumerate(question.prompts)]
    found: list[dict[int, Result]] = [{} for _ in asked]
    progress("asking", 0, len(prompts))
    answers = engine.answer([one for _, _, one in prompts], FRAMES_AT_ONCE)
    for done, (place, result) in enumerate(answers, 1):
        i, k, _ = prompts[place]
        found[i][k] = result
        progress("asking", done, len(prompts))
        if len(found[i]) == len(asked[i].prompts):
            yield i, _joined(asked[i], [found[i].pop(k) for k in sorted(found[i])])


def _joined(asked: ClipQuestion, results: Sequence[Result]) -> Result:
    if not asked.passes:
        return results[0]
    passes = tuple(results[-len(asked.passes) :])
    if asked.whole:
        return replace(results[0], passes=passes)
    words = dict.fromkeys(one.answer.strip() for one in passes)
    supplied = [one.supplied_logprob for one in passes if one.supplied_logprob is not None]
    stages = dict.fromkeys(stage for one in passes for stage in one.seconds)
    return replace(
        passes[0],
        answer=" | ".join(words),
        answer_logprob=sum(one.answer_logprob for one in passes),
        supplied_logprob=sum(supplied) if supplied else None,
        media=(asked.media,),
        capture=merge_captures([one.capture for one in passes], asked.first_steps, asked.media),
        seconds={stage: round(sum(one.seconds.get(stage, 0) for one in passes), 3) for stage in stages},
        passes=passes,
    )


def ask_video(
    engine: Engine, path: str | os.PathLike[str], question: str, settings: Settings, progress: Progress = no_op
) -> Result:
    """Ask one question about a clip: see `Analyzer.ask_video`."""
    how = settings.clip or ClipSettings()
    media = load_clip(engine.processor, open_clip(path, how.source_fps), settings, progress)
    asked = prepare_clip(engine, media, [question], settings)
    ((_, result),) = with_sanity(engine, answer_clip(engine, asked, progress), progress)
    return result
