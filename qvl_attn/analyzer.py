"""The public API for questions: ask a model about pictures and clips, and capture where it looked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from qvl_attn.attribution.profiles import NO_PROFILE
from qvl_attn.attribution.settings import CheckOptions, CommonOptions, QuestionOptions, Settings, VideoOptions
from qvl_attn.core.errors import InputError
from qvl_attn.core.files import check_new, check_writable
from qvl_attn.core.options import check_names, of_type, part_of
from qvl_attn.core.runtime import Cancel, OnToken, Progress, cancelling
from qvl_attn.core.text import argument
from qvl_attn.core.turns import in_turn
from qvl_attn.core.types import Media
from qvl_attn.media.given import PictureLike, checked, is_path, listed, load_pictures
from qvl_attn.media.image import moves
from qvl_attn.media.sampling import ClipOptions, ClipSettings, SamplingOptions
from qvl_attn.media.video import open_clip
from qvl_attn.model.checkpoint import DEFAULT_MODEL
from qvl_attn.model.placement import LoadOptions
from qvl_attn.model.preprocess import load_clip
from qvl_attn.results.session import SaveOptions, Saving, logged, saving_of
from qvl_attn.vqa.clip import answer_clip, prepare_clip
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.estimate import Estimate
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.sanity import with_sanity
from qvl_attn.vqa.session import answered, answered_clip

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample
    from qvl_attn.evaluation.workers import Workers


class AskOptions(QuestionOptions, SaveOptions, total=False):
    """Options of a question and of where its result is saved."""


class AskVideoOptions(VideoOptions, SaveOptions, total=False):
    """Options of a question about a clip and of where its result is saved."""


class Analyzer:
    """A model that answers questions about pictures and clips and shows where each layer looked.

    Create one with `Analyzer.load`. The weights are loaded for the first question, so that all errors that can be
    found without them are raised before.

    Calls from several threads wait for each other. A call from inside `progress`, `cancel` or `on_token` of another is
    an `InputError`.

    Attributes:
        engine: the model behind it, for those who build on parts of the package.
    """

    def __init__(self, engine: Engine, workers: Workers | None = None) -> None:
        self.engine = engine
        self._workers = workers

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        workers: Workers | None = None,
        weights: bool = True,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Find a model and prepare to load it.

        Args:
            model: a Hugging Face id, a local folder, or `demo` for the embedded model.
            workers: processes that run the model of a check, and choose its device: `RayWorkers` of
                `qvl_attn.evaluation.ray_workers`; by default this process.
            weights: False for `estimate`, which needs none: they are neither searched for nor downloaded before the
                first question, and need not fit the memory.
            options: see `LoadOptions`.

        Raises:
            InputError: an option is unknown or has an unknown value, or the GPU does not exist.
            ModelError: the model cannot be found, or is not supported.
            MemoryLimitError: the weights do not fit the memory.
        """
        check_names(options, LoadOptions, cls.load)
        place = workers.place if workers else None
        return cls(Engine.load(model, place=place, weights=weights, **options), workers)

    @in_turn
    def ask(
        self,
        picture: PictureLike,
        question: str,
        images: PictureLike | Sequence[PictureLike] = (),
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        on_token: OnToken | None = None,
        **options: Unpack[AskOptions],
    ) -> Result:
        """Ask one question, and capture the attention of its tokens, of the last prompt token and of the answer.

        Args:
            picture: path of a picture, a PIL image, an array (H, W, 3) uint8 of upright RGB, or a `Media`.
            question: any text without control tokens.
            images: more pictures for the same prompt, one or several.
            progress: called with (stage, done, total): the tokens of the answer, then the sanity checks.
            cancel: called after each layer of the model, so it must be quick, such as `threading.Event().is_set`. Once
                it returns true, the question ends with `Cancelled`, and the model is as it was.
            on_token: called with each new piece of the model's own answer; joined, they are `Result.answer`. What it
                raises ends the question, too. It is not called for a result that is found again.
            options: see `QuestionOptions` and `SaveOptions`.

        Returns:
            The answer and the captured attention.

        Raises:
            InputError: an argument is wrong.
            Cancelled: `cancel()` returned true.
            CaptureError: the captured attention is invalid.
            MemoryLimitError: the prompt does not fit the memory.
            StoreError: the result cannot be saved.
        """
        check_names(options, AskOptions, self.ask)
        saving, settings = saving_of(part_of(options, SaveOptions)), self._settings(options)
        with cancelling(cancel, progress, on_token) as (progress, on_token):
            pictures = checked("picture", picture), *listed("images", images)
            ((_, result),) = self._answers([(pictures, question)], settings, saving, 1, progress, on_token)
        return result

    @in_turn
    def ask_many(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        *,
        batch_size: int = 8,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[AskOptions],
    ) -> list[Result]:
        """Ask many questions in batches of similar length. Pictures that several questions share are encoded once.

        In float32 the numbers equal those of single questions up to rounding (1e-5). In 16 bits, rounding can change
        an answer where two tokens are almost equally likely.

        Args:
            pairs: (a picture or the pictures of one prompt, a question about them).
            batch_size: most prompts per batch; fewer are taken where the estimate does not fit the memory.
            progress: called with (stage, done, total): the answered questions, and the tokens of each batch. There is
                no `on_token`: the answers of a batch are written at the same time.
            cancel: as in `ask`; no results are returned then, but with `out` those that are done are saved.
            options: for all questions; see `QuestionOptions` and `SaveOptions`.

        Returns:
            The results, in the order of the pairs.

        Raises:
            InputError: an argument is wrong; raised before anything runs.
            Cancelled: `cancel()` returned true.
            CaptureError: the captured attention is invalid.
            MemoryLimitError: a prompt does not fit the memory.
            StoreError: a result cannot be saved.
        """
        check_names(options, AskOptions, self.ask_many)
        _check_batch_size(batch_size)
        saving, settings = saving_of(part_of(options, SaveOptions)), self._settings(options)
        results: dict[int, Result] = {}
        with cancelling(cancel, progress) as (progress, _):
            answers = self._answers(pairs, settings, saving, batch_size, progress)
            progress("asking", 0, len(pairs))
            for i, result in answers:
                results[i] = result
                progress("asking", len(results), len(pairs))
        return [results[i] for i in sorted(results)]

    def _settings(self, options: AskOptions) -> Settings:
        return self.engine.settings(**part_of(options, QuestionOptions))

    def _answers(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        settings: Settings,
        saving: Saving | None,
        batch_size: int,
        progress: Progress,
        on_token: OnToken | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index of the pair, result)."""
        if saving is not None:
            asked = self.engine, pairs, settings, saving
            return enumerate(logged(answered(*asked, batch_size=batch_size, progress=progress, on_token=on_token)))
        questions = self.engine.prepare(pairs, settings)
        return with_sanity(self.engine, self.engine.answer(questions, batch_size, progress, on_token), progress)

    @in_turn
    def ask_video(
        self,
        path: str | os.PathLike[str],
        question: str,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        on_token: OnToken | None = None,
        **options: Unpack[AskVideoOptions],
    ) -> Result:
        """Ask one question about a clip.

        Args:
            path: a video file (MP4, MOV, MKV, WebM, AVI, ...), an animated GIF, WebP or PNG, or a folder of numbered
                frames.
            question: any text without control tokens.
            progress: called with (stage, done, total).
            cancel: as in `ask`; called for each decoded frame, too.
            on_token: as in `ask`; refused with windows or a `mode` other than `clip`, which have several answers.
            options: see `QuestionOptions`, `ClipOptions` and `SaveOptions`.

        Returns:
            The answer and the captured attention; `heatmap().values` is (t, h, w), one map per step.

        Raises:
            InputError: an argument is wrong.
            Cancelled: `cancel()` returned true.
            CaptureError: the captured attention is invalid.
            MemoryLimitError: the prompt does not fit the memory.
            StoreError: the result cannot be saved.
        """
        check_names(options, AskVideoOptions, self.ask_video)
        saving, settings = saving_of(part_of(options, SaveOptions)), self._clip_settings(options)
        engine, clip = self.engine, settings.clip or ClipSettings()
        with cancelling(cancel, progress, on_token) as (progress, on_token):
            video = open_clip(path, clip.source_fps)
            if saving is not None:
                asked = engine, video, [question], settings, saving
                (result,) = logged(answered_clip(*asked, progress=progress, on_token=on_token))
                return result
            media = load_clip(engine.processor, video, settings, progress)
            questions = prepare_clip(engine, media, [question], settings)
            ((_, result),) = with_sanity(engine, answer_clip(engine, questions, progress, on_token), progress)
            return result

    @in_turn
    def check(
        self,
        samples: Sequence[Sample],
        out: str | os.PathLike[str],
        *,
        name: str = "samples",
        by_head: bool = False,
        methods: str | Sequence[str] | None = None,
        calibrate: str | os.PathLike[str] | None = None,
        csv: bool = False,
        shard: str | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[CheckOptions],
    ) -> dict[str, Any]:
        """Answer every sample of a data set, and measure whether the model looked at the evidence.

        Args:
            samples: the samples, from `load_samples`.
            out: the run folder, for rows, summary, charts and gallery. A new folder, or that of a stopped run, which
                is continued.
            name: name of the data set, for the summary.
            by_head: also score every head.
            methods: also score the maps of these methods, as `mean,relative` or as a list of names that
                `qvl-attn methods` lists.
            calibrate: a new file. Layers and heads are ranked on one half of the pictures and measured on the other,
                and the best heads are written to this file as a profile.
            csv: also write `scores.csv`.
            shard: `2/8` for the second of eight parts, split by a hash of the pictures' names; `merge_runs` merges
                them.
            batch_size: most prompts per batch; fewer are taken where the estimate does not fit the memory.
            progress: called with (stage, done, total).
            cancel: as in `ask`; the rows that are written stay, and the same call continues the run. With workers it is
                called once a row arrives.
            options: for all questions; see `CommonOptions` and `SamplingOptions`. Layers, heads and profile are those
                of the headline map.

        Returns:
            The contents of `summary.json`.

        Raises:
            InputError: an argument is wrong; raised before anything runs.
            Cancelled: `cancel()` returned true.
            ModelError: the weights cannot be loaded.
            StoreError: the run cannot be written.
        """
        from qvl_attn.evaluation.calibration import halves
        from qvl_attn.evaluation.loop import check_questions
        from qvl_attn.evaluation.run import run_check
        from qvl_attn.evaluation.run_config import RunConfig
        from qvl_attn.evaluation.sharding import Shard
        from qvl_attn.results.run_folder import check_begun, is_finished

        check_names(options, CheckOptions, self.check)
        if not samples:
            raise InputError("there are no samples to check", "load_samples reads them")
        folder, profile_file = Path(out), None if calibrate is None else Path(calibrate)
        parsed_shard = None if shard is None else Shard.parse(shard)
        seed = options.get("seed", Settings.seed)
        _check_batch_size(batch_size)
        check_begun(folder)
        if profile_file is not None:
            if parsed_shard or self._workers:
                raise InputError(
                    f"{argument('calibrate')} keeps the maps of all heads in one process",
                    f"leave out {argument('shard')} and workers",
                )
            if not is_finished(folder):
                check_new(profile_file, "calibrate", empty_folder=False)
            if profile_file.absolute() == folder.absolute():
                raise InputError(
                    f"{argument('calibrate')} {profile_file}: this is also {argument('out')}", "name another file"
                )
            halves(samples, seed)
            if methods is not None or options.get("faithfulness"):
                raise InputError(
                    f"{argument('calibrate')} finds heads and {argument('methods')} compares maps: one at a time",
                    f"run {argument('calibrate')} first, then {argument('methods')} with its {argument('profile')}",
                )
            if any(options.get(option) is not None for option in ("profile", "layers", "heads")):
                raise InputError(
                    f"{argument('calibrate')} chooses the headline itself",
                    f"leave out {argument('profile')}, {argument('layers')} and {argument('heads')}",
                )
            options["profile"] = NO_PROFILE
        settings = self.engine.settings(
            **part_of(options, CommonOptions), methods=methods, clip=ClipSettings(**part_of(options, SamplingOptions))
        )
        check_questions(self.engine, samples, settings)
        for parent in (folder, *([] if profile_file is None else [profile_file.absolute().parent])):
            check_writable(parent)
        run_config = RunConfig(folder, name, by_head, profile_file, csv, seed, parsed_shard, batch_size)
        with cancelling(cancel, progress) as (progress, _):
            return run_check(self.engine, samples, settings, run_config, progress, self._workers)

    @in_turn
    def estimate(
        self,
        media: PictureLike | Sequence[PictureLike],
        question: str = "Describe this image.",
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[VideoOptions],
    ) -> Estimate:
        """Estimate what a question costs, whether or not it fits: tokens, grids, and memory by kind of attention.

        A model that is too large for this machine, or not downloaded, is loaded with `weights=False`.

        Args:
            media: a picture, the pictures of one prompt, or a clip: a file, or a folder of numbered frames.
            question: a question about them.
            progress: called with (stage, done, total): the decoded frames of a clip.
            cancel: called for each decoded frame of a clip.
            options: see `QuestionOptions` and `ClipOptions`; of a clip the prompt of all frames is estimated.

        Raises:
            InputError: an argument is wrong.
            Cancelled: `cancel()` returned true.
        """
        check_names(options, VideoOptions, self.estimate)
        settings = self._clip_settings(options)
        if is_path(media) and moves(media):
            video = open_clip(media, (settings.clip or ClipSettings()).source_fps)
            with cancelling(cancel, progress) as (progress, _):
                loaded: tuple[Media, ...] = (load_clip(self.engine.processor, video, settings, progress),)
        else:
            loaded = load_pictures(listed("media", media), {}, settings.stretch)
        return self.engine.estimate(loaded, question, settings)

    def _clip_settings(self, options: VideoOptions) -> Settings:
        clip = ClipSettings(**part_of(options, ClipOptions))
        return self.engine.settings(**part_of(options, QuestionOptions), clip=clip)


def _check_batch_size(batch_size: int) -> None:
    if of_type("batch_size", batch_size, int) < 1:
        raise InputError(f"{argument('batch_size', batch_size)}: want at least 1")
