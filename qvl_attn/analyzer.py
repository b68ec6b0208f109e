"""Ask a model about pictures and clips and capture where it looked: the public way in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_attn.attribution.profiles import NO_PROFILE
from qvl_attn.attribution.settings import headline_of
from qvl_attn.core.errors import InputError
from qvl_attn.core.files import check_new, check_writable
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.media.image import PictureLike, load_pictures
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.vqa.clip import ask_video
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.estimate import Estimate, estimate_of
from qvl_attn.vqa.question import read_question
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.sanity import with_sanity

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample
    from qvl_attn.evaluation.workers import Workers


class Analyzer(Engine):
    """A model that answers questions about pictures and clips and shows where each layer looked.

    Make one with `Analyzer.load`. The weights are loaded when the first question needs them, so that every fault that
    can be known without them is found first.
    """

    def ask(
        self,
        picture: PictureLike,
        question: str,
        images: Sequence[PictureLike] = (),
        *,
        query: str | None = None,
        profile: str | None = None,
        method: str | None = None,
        faithfulness: bool = False,
        layers: str | None = None,
        heads: str | None = None,
        system: str | None = None,
        answer: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int = 128,
        seed: int = 0,
        store_heads: str = "float32",
    ) -> Result:
        """Ask one question, and capture the attention of the question's tokens, the last one and the answer's.

        Args:
            picture: path of a picture, or one that was loaded.
            question: any text without control tokens.
            images: further pictures for the same prompt.
            query: what the headline map shows: `question`, `last`, `answer` or `text:words`; by default the profile's,
                else `question`.
            profile: which layers or heads the headline averages: the name of a profile that ships, a file, or `none`;
                by default the one for models of this shape.
            method: how the headline map is made: one of `qvl_attn.attribution.methods.METHODS`; by default the mean
                of the layers or heads of the headline.
            faithfulness: also how the answer's probability changes as cells go in the map's order, and how alike the
                map is under scrambled weights, another question, another picture: `Result.curves` and `.sanity`.
            layers: layers to capture and average instead; without them and a profile all are captured, and the headline
                averages those at 50 to 85 % of the depth.
            heads: heads to keep apart and average: `3,5`, or `21.9,21.11` for layer.head.
            system: a system prompt in place of the template's own.
            answer: an answer to be teacher-forced: the maps are then its tokens', beside the model's own answer.
            min_pixels: smallest size to which a picture is resized, in pixels; by default the checkpoint's.
            max_pixels: largest size to which a picture is resized, in pixels; by default the checkpoint's.
            max_new_tokens: where an answer is cut.
            seed: for torch; the answer is greedy and does not depend on it.
            store_heads: `float32`, or `float16` to keep the heads apart in half the space; weights are then rounded by
                at most 2^-11 of themselves, and by 2^-25 below 2^-14.

        Returns:
            The answer and the captured attention.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        settings = self.settings(
            query=query,
            profile=profile,
            method=method,
            faithfulness=faithfulness,
            layers=layers,
            heads=heads,
            system=system,
            answer=answer,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_new_tokens=max_new_tokens,
            seed=seed,
            store_heads=store_heads,
        )
        ((_, result),) = with_sanity(self, self.answer(self.prepare([((picture, *images), question)], settings)))
        return result

    def ask_many(
        self,
        pairs: Sequence[tuple[PictureLike | Sequence[PictureLike], str]],
        *,
        batch_size: int = 8,
        **options: Any,
    ) -> list[Result]:
        """Ask many questions in batches of like length; those about the same pictures read them once.

        In float32 the numbers are those one by one, but for rounding (1e-5); in 16 bits that can tip a near tie.

        Args:
            pairs: a picture, or the pictures of one prompt, and a question about them.
            batch_size: how many prompts run at once, while they are estimated to fit the memory.
            options: the keywords of `ask` but `images`, for all of them.

        Returns:
            Results in the order of the pairs.

        Raises:
            InputError: a fault in what was given, found before anything runs.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: a prompt does not fit the memory.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: want at least 1")
        questions = self.prepare(list(pairs), self.settings(**options))
        answers = with_sanity(self, self.answer(questions, batch_size))
        return [result for _, result in sorted(answers, key=lambda pair: pair[0])]

    def ask_video(
        self,
        path: str | os.PathLike[str],
        question: str,
        *,
        fps: float = ClipSettings.fps,
        max_frames: int = ClipSettings.max_frames,
        start_s: float = 0.0,
        end_s: float | None = None,
        source_fps: float = ClipSettings.source_fps,
        mode: str = "clip",
        window: int = 0,
        stride: int = 0,
        progress: Progress = no_op,
        **options: Any,
    ) -> Result:
        """Ask one question about a clip.

        Args:
            path: a video file (MP4, MOV, MKV, WebM, AVI, ...), an animated GIF, WebP or PNG, or a folder of numbered
                frames.
            question: any text without control tokens.
            fps: frames sampled a second, at most those that the clip has.
            max_frames: frames sampled at most; beyond it they are taken further apart.
            start_s: where in the clip to begin, in seconds.
            end_s: where to end; by default the clip's end.
            source_fps: of a folder of frames, how many of the numbers in their names pass in a second.
            mode: `clip`, all frames in one prompt; `frames`, each asked about alone; `both`.
            window: with `clip`, sampled frames a prompt; 0 for all in one.
            stride: sampled frames from one window's beginning to the next's; 0 for half a window.
            progress: told what is being done, how much of it is done, and of how much.
            options: the keywords of `ask` but `images`; `max_pixels` is a frame's, 151,200 by default.

        Returns:
            The answer and the captured attention; `heatmap().values` is (t, h, w), a map for each step of tokens.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        how = ClipSettings(fps, max_frames, start_s, end_s, source_fps, mode, window, stride)  # type: ignore[arg-type]
        return ask_video(self, path, question, self.settings(**options, clip=how), progress)

    def check(
        self,
        samples: Sequence[Sample],
        out: str | os.PathLike[str],
        *,
        name: str = "samples",
        by_head: bool = False,
        methods: str | Sequence[str] | None = None,
        faithfulness: bool = False,
        calibrate: str | os.PathLike[str] | None = None,
        csv: bool = False,
        seed: int = 0,
        shard: str | None = None,
        batch_size: int = 8,
        fps: float = ClipSettings.fps,
        max_frames: int = ClipSettings.max_frames,
        workers: Workers | None = None,
        progress: Progress = no_op,
        **options: Any,
    ) -> dict[str, Any]:
        """Answer every sample of a data set, and measure whether the model looked where the evidence is.

        Args:
            samples: as `load_samples` gives them.
            out: a folder to make, for rows, summary, charts and a gallery; that of a run that was stopped goes on.
            name: of the data set, to be read.
            by_head: score every head as well.
            methods: score the maps of these as well, `mean,relative` or apart: `qvl_attn.attribution.methods.METHODS`.
            faithfulness: deletion, insertion and sanity checks of each method's map, or of the headline's.
            calibrate: a file to be: rank layers and heads on one half of the pictures, judge the best heads on the
                other, and write them there as a profile.
            csv: write `scores.csv` as well.
            seed: of intervals, halves and controls.
            shard: `2/8` for one of eight parts, which a hash of the pictures' names gives; `merge_runs` puts them
                together.
            batch_size: how many prompts run at once, while they are estimated to fit the memory.
            fps: of clips, frames sampled a second.
            max_frames: of clips, frames at most.
            workers: who holds the model, with whose `place` this one was loaded; by default this process.
            progress: told what is being done, how much of it is done, and of how much.
            options: the keywords of `ask` but `images`, `answer` and `method`; layers, heads and profile are the
                headline's.

        Returns:
            The contents of `summary.json`.

        Raises:
            InputError: a fault in what was given, found before anything runs.
            ModelError: the weights cannot be loaded.
            StoreError: it cannot be written.
        """
        from qvl_attn.evaluation.calibration import halves
        from qvl_attn.evaluation.loop import check_questions
        from qvl_attn.evaluation.run import run_check
        from qvl_attn.evaluation.run_config import RunConfig
        from qvl_attn.evaluation.sharding import Shard
        from qvl_attn.results.run_folder import check_begun, is_finished

        folder, profile_file = Path(out), None if calibrate is None else Path(calibrate)
        part = None if shard is None else Shard.parse(shard)
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: want at least 1")
        check_begun(folder)
        if profile_file is not None:
            if part or workers:
                raise InputError("--calibrate keeps the maps of all heads in one process", "leave --shard and workers")
            if not is_finished(folder):
                check_new(profile_file, "--calibrate", empty_folder=False)
            if profile_file.absolute() == folder.absolute():
                raise InputError(f"--calibrate {profile_file}: is --out as well", "name a file")
            halves(samples, seed)
            if methods is not None or faithfulness:
                raise InputError(
                    "--calibrate finds heads, and --methods compares maps: one at a time",
                    "calibrate first, then --methods with --profile",
                )
            if any(options.get(name) is not None for name in ("profile", "layers", "heads")):
                raise InputError("--calibrate chooses the headline itself", "leave --profile, --layers and --heads")
            options["profile"] = NO_PROFILE
        settings = self.settings(
            **options,
            method=methods,
            method_option="--methods",
            faithfulness=faithfulness,
            seed=seed,
            clip=ClipSettings(fps, max_frames),
        )
        headline_of(settings, self.config)
        check_questions(self, samples, settings)
        for parent in (folder, *([] if profile_file is None else [profile_file.absolute().parent])):
            check_writable(parent)
        run_config = RunConfig(folder, name, by_head, profile_file, csv, seed, part, batch_size)
        return run_check(self, samples, settings, run_config, progress, workers)

    def estimate(
        self, pictures: PictureLike | Sequence[PictureLike], question: str = "Describe this image.", **options: Any
    ) -> Estimate:
        """What a question will cost, whether or not it fits: tokens, grids, and memory by way of computing attention.

        Args:
            pictures: one, or those of one prompt.
            question: about them.
            options: the keywords of `ask` but `images`.

        Raises:
            InputError: a fault in what was given.
        """
        media = load_pictures(pictures, {})
        asked = read_question(self.processor, self.config, media, question, self.settings(**options))
        return estimate_of(self.config, self.placement, asked, self.free_bytes())
