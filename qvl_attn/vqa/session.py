"""Questions and their folders: find their results without the seconds that torch takes to load, or ask and save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from qvl_attn.attribution.profiles import stated_shape
from qvl_attn.attribution.settings import Settings, settings_of
from qvl_attn.core.runtime import OnToken, Progress, no_progress
from qvl_attn.core.types import Media, Source
from qvl_attn.core.version import __version__
from qvl_attn.model.checkpoint import Checkpoint, find_on_disk, read_config
from qvl_attn.model.placement import LoadOptions, LoadSettings, sure_placement
from qvl_attn.results.session import Saved, Saving, find_results, run_session
from qvl_attn.results.store import is_complete
from qvl_attn.vqa.result import Result, request_folder

if TYPE_CHECKING:
    from qvl_attn.vqa.clip import ClipQuestion
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
    placement = sure_placement(checkpoint, load.device, load.dtype, load.device_map)
    if placement is None:
        return None
    made_by = {
        "qvl_attn": __version__,
        "transformers": version("transformers"),
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "device": placement[0],
        "dtype": placement[1],
    }
    modes = attention_modes(load.attn, placement[1])
    folders = [_request_folders(saving, media, text, settings, made_by, modes) for text in questions]
    return None if saving.overwrite else find_results(folders, Result.load)


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
    questions: Sequence[Question],
    saving: Saving,
    *,
    batch_size: int = 1,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[Saved[Result]]:
    """Yield the saved result of each prepared question: found again, or answered and saved.

    Args:
        engine: the model that answers.
        questions: the prepared questions.
        saving: where the results are saved.
        batch_size: most prompts per batch.
        progress: called with (stage, done, total).
        on_token: of a single question, called with each new piece of its answer, unless that is found again.

    Raises:
        CaptureError: the captured attention is invalid.
        MemoryLimitError: a prompt does not fit the memory.
        StoreError: a result cannot be written or read.
    """

    def answer(missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        return engine.answer([questions[i] for i in missing], batch_size, progress, on_token)

    prompts = [(question, question.media) for question in questions]
    return _session(engine, prompts, answer, saving, progress)


def answered_clip(
    engine: Engine,
    questions: Sequence[ClipQuestion],
    saving: Saving,
    *,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[Saved[Result]]:
    """Do as `answered` for questions about a clip."""
    from qvl_attn.vqa.clip import answer_clip

    def answer(missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        return answer_clip(engine, [questions[i] for i in missing], progress, on_token)

    prompts = [(question.prompts[0], [question.media]) for question in questions]
    return _session(engine, prompts, answer, saving, progress)


def _session(
    engine: Engine,
    prompts: Sequence[tuple[Question, Sequence[Media]]],
    answer: Callable[[Sequence[int]], Iterator[tuple[int, Result]]],
    saving: Saving,
    progress: Progress,
) -> Iterator[Saved[Result]]:
    from qvl_attn.vqa.sanity import add_sanity

    return run_session(
        [result_folder(engine, prompt, media, saving) for prompt, media in prompts],
        answer,
        save=lambda result: result.save(saving.out, saving.drawing, overwrite=saving.overwrite, progress=progress),
        load=Result.load,
        add=lambda result: add_sanity(engine, result, progress),
        overwrite=saving.overwrite,
    )


def result_folder(engine: Engine, prompt: Question, media: Sequence[Media], saving: Saving) -> Path:
    """Return the folder of a question's result: a saved one of any of `attention_modes`, else that of a new one.

    Args:
        engine: the model that answers.
        prompt: the question, or one of its prompts.
        media: the pictures or the clip of the question.
        saving: where the result is saved.
    """
    modes = () if saving.overwrite else attention_modes(engine.attn, engine.placement.dtype)
    modes, text = (*modes, prompt.attention), prompt.prompt.question
    *saved, new = _request_folders(saving, media, text, prompt.settings, engine.made_by(prompt), modes)
    return next(filter(is_complete, saved), new)


def _request_folders(
    saving: Saving,
    media: Sequence[Source],
    question: str,
    settings: Settings,
    made_by: Mapping[str, Any],
    modes: Sequence[str],
) -> list[Path]:
    """Return the folder of a result for each kind of attention: see `request_folder`."""
    return [
        request_folder(saving.out, media, question, settings, saving.drawing, {**made_by, "attention": mode})
        for mode in modes
    ]
