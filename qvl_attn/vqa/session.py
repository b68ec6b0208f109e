"""Questions and their folders: find their results without the seconds that torch takes to load, or ask and save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from qvl_attn.attribution.profiles import stated_shape
from qvl_attn.attribution.settings import Settings, settings_of
from qvl_attn.core.runtime import OnToken, Progress, no_progress
from qvl_attn.core.types import Media, Source
from qvl_attn.model.checkpoint import Checkpoint, find_on_disk, read_config
from qvl_attn.model.placement import LoadOptions, LoadSettings, sure_provenance
from qvl_attn.results.result import request_folder
from qvl_attn.results.session import Asked, Saved, Saving, compute_missing, find_again
from qvl_attn.vqa.result import Result, request_key

if TYPE_CHECKING:
    from qvl_attn.media.given import PictureLike
    from qvl_attn.media.video_source import VideoSource
    from qvl_attn.vqa.engine import Engine
    from qvl_attn.vqa.question import Question


def find_saved(
    media: Sequence[Source],
    questions: Sequence[str],
    saving: Saving,
    typed: Mapping[str, Any],
    model: str,
    **options: Unpack[LoadOptions],
) -> Iterator[Saved[Result]] | None:
    """Return the questions' saved results.

    Args:
        media: the pictures of the prompt, or the clip.
        questions: texts of the questions.
        saving: where the results are saved.
        typed: the keywords of `Engine.settings`.
        model: as in `Engine.load`.
        options: as in `Engine.load`.

    Returns:
        The results, in the order of the questions. None if one is missing or to be overwritten, or if only torch can
        tell which result it would be.

    Raises:
        InputError: an option or a setting is invalid.
        ModelError: the model is not supported, or cannot be found and may not be downloaded.
    """
    load, checked = LoadSettings(**options), check_settings(typed, model, **options)
    if checked is None:
        return None
    checkpoint, settings = checked
    fields = sure_provenance(checkpoint, load)
    if fields is None:
        return None
    modes = attention_modes(load.attn, fields["dtype"])
    return find_again(Result, [_asked(saving, media, text, settings, fields, modes) for text in questions], saving)


def check_settings(
    typed: Mapping[str, Any], model: str, **options: Unpack[LoadOptions]
) -> tuple[Checkpoint, Settings] | None:
    """Return the model and the settings of a request; None if the model is not on disk, or its shape not in a file.

    Arguments and errors are those of `find_saved`.
    """
    load = LoadSettings(**options)
    checkpoint = find_on_disk(model, load.revision, offline=load.offline)
    if checkpoint is None or (shape := stated_shape(read_config(checkpoint))) is None:
        return None
    return checkpoint, settings_of(shape, **typed)


def attention_modes(attn: str, dtype: str) -> tuple[str, ...]:
    """Return the kinds of attention that may have computed a result: in float32, `auto` takes what fits the memory.

    Args:
        attn: as in `Engine.load`.
        dtype: the model's precision.
    """
    if attn != "auto":
        return (attn,)
    return ("eager", "rows") if dtype == "float32" else ("rows",)


def answered(
    engine: Engine,
    pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
    settings: Settings,
    saving: Saving,
    *,
    batch_size: int = 1,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[Saved[Result]]:
    """Yield the saved result of each question: found again, or answered and saved.

    Args:
        engine: the model that answers.
        pairs: (picture or pictures, question) pairs.
        settings: settings of all questions.
        saving: where the results are saved.
        batch_size: most prompts per batch.
        progress: called with (stage, done, total).
        on_token: of a single question, called with each new piece of its answer, unless that is found again.

    Raises:
        InputError: a picture, question or setting is invalid.
        CaptureError: the captured attention is invalid.
        MemoryLimitError: a prompt does not fit the memory.
        StoreError: a result cannot be written or read.
    """
    questions = engine.read_all(pairs, settings)
    found = [
        _asked_of(engine, question.media, question.prompt.question, settings, saving).found(saving)
        for question in questions
    ]
    fitted = iter(engine.fit([question for question, folder in zip(questions, found, strict=True) if folder is None]))
    ready = [question if folder else next(fitted) for question, folder in zip(questions, found, strict=True)]

    def answer(missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        answers = engine.answer([ready[i] for i in missing], batch_size, progress, on_token)
        return ((missing[position], result) for position, result in answers)

    prompts = [(folder, question, question.media) for folder, question in zip(found, ready, strict=True)]
    return _session(engine, prompts, answer, saving, progress)


def answered_clip(
    engine: Engine,
    video: VideoSource,
    texts: Sequence[str],
    settings: Settings,
    saving: Saving,
    *,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[Saved[Result]]:
    """Do as `answered` for questions about a clip, which is not decoded if all their results are found."""
    from qvl_attn.model.preprocess import load_clip
    from qvl_attn.vqa.clip import answer_clip, prepare_clip

    asked = [_asked_of(engine, [video], text, settings, saving) for text in texts]
    results = find_again(Result, asked, saving)
    if results is not None:
        return results
    media = load_clip(engine.processor, video, settings, progress)
    questions = prepare_clip(engine, media, texts, settings)

    def answer(missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        answers = answer_clip(engine, [questions[i] for i in missing], progress, on_token)
        return ((missing[position], result) for position, result in answers)

    prompts = [
        (each.found(saving), question.prompts[0], [media]) for each, question in zip(asked, questions, strict=True)
    ]
    return _session(engine, prompts, answer, saving, progress)


def _session(
    engine: Engine,
    prompts: Sequence[tuple[Path | None, Question, Sequence[Media]]],
    answer: Callable[[Sequence[int]], Iterator[tuple[int, Result]]],
    saving: Saving,
    progress: Progress,
) -> Iterator[Saved[Result]]:
    from qvl_attn.vqa.sanity import add_sanity

    asked = [Asked(media, [found or result_folder(engine, prompt, media, saving)]) for found, prompt, media in prompts]
    return compute_missing(Result, asked, answer, saving, progress, lambda result: add_sanity(engine, result, progress))


def result_folder(engine: Engine, prompt: Question, media: Sequence[Media], saving: Saving) -> Path:
    """Return the folder of a new result.

    Args:
        engine: the model that answers.
        prompt: the question, or one of its prompts.
        media: the pictures or the clip of the question.
        saving: where the result is saved.
    """
    made_by, text = engine.made_by(prompt.attention), prompt.prompt.question
    (folder,) = _asked(saving, media, text, prompt.settings, made_by, [prompt.attention]).folders
    return folder


def _asked_of(engine: Engine, media: Sequence[Source], text: str, settings: Settings, saving: Saving) -> Asked:
    """Return what is asked of a model, before it is known which of `attention_modes` fits the memory."""
    modes = attention_modes(engine.attn, engine.placement.dtype)
    return _asked(saving, media, text, settings, engine.made_by(""), modes)


def _asked(
    saving: Saving,
    media: Sequence[Source],
    question: str,
    settings: Settings,
    made_by: Mapping[str, Any],
    modes: Sequence[str],
) -> Asked:
    """Return what is asked for, with a folder for each kind of attention: see `request_folder`."""
    keys = [request_key(media, question, settings, {**made_by, "attention": mode}) for mode in modes]
    return Asked(media, [request_folder(saving.out, media, question, key, saving.drawing) for key in keys])
