"""The public API for questions: ask a model about pictures and clips, and capture where it looked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qvl_attn.attribution.profiles import NO_PROFILE
from qvl_attn.core.errors import InputError
from qvl_attn.core.files import check_new, check_writable
from qvl_attn.core.runtime import Progress, no_op, no_progress
from qvl_attn.core.types import Media
from qvl_attn.media.image import PictureLike, load_pictures, moves
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.checkpoint import DEFAULT_MODEL
from qvl_attn.model.loading import choose_placement
from qvl_attn.model.memory import mapped_bytes, process_bytes
from qvl_attn.model.placement import Placement
from qvl_attn.vqa.clip import ask_video, load_clip
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

    Create one with `Analyzer.load`. The weights are loaded for the first question, so that all errors that can be
    found without them are raised before.
    """

    workers: Workers | None = None

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
        workers: Workers | None = None,
    ) -> Self:
        """Find a model and prepare to load it.

        Args:
            model: as in `Engine.load`.
            revision: as in `Engine.load`.
            device: as in `Engine.load`.
            dtype: as in `Engine.load`.
            device_map: as in `Engine.load`.
            attn: as in `Engine.load`.
            offline: as in `Engine.load`.
            say: as in `Engine.load`.
            place: as in `Engine.load`.
            workers: processes that run the model of a check, and choose its device in place of `place`; by default this
                process.

        Raises:
            InputError: as in `Engine.load`.
            ModelError: as in `Engine.load`.
            MemoryLimitError: as in `Engine.load`.
        """
        analyzer = super().load(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            attn=attn,
            offline=offline,
            say=say,
            place=workers.place if workers else place,
        )
        analyzer.workers = workers
        return analyzer

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
        stretch: bool = False,
        max_new_tokens: int = 128,
        seed: int = 0,
        store_heads: str = "float32",
    ) -> Result:
        """Ask one question, and capture the attention of its tokens, of the last prompt token and of the answer.

        Args:
            picture: path of a picture, or a loaded picture.
            question: any text without control tokens.
            images: more pictures for the same prompt.
            query: tokens whose attention the headline map shows: `question`, `last`, `answer` or `text:words`; by
                default the profile's, else `question`.
            profile: layers or heads that the headline map averages: the name of a built-in profile, a file, or `none`;
                by default the profile for models of this shape.
            method: how the headline map is computed: a name in `attribution.methods.registry`; by default the mean
                over the layers or heads of the headline map.
            faithfulness: also measure how the answer's probability changes when cells are removed in the map's order
                (`Result.curves`), and how similar the map is under scrambled weights, another question and another
                picture (`Result.sanity`).
            layers: layers to capture and average, in place of a profile. Without layers and profile all are captured,
                and the headline map averages those at 50 to 85 % of the depth.
            heads: heads to store one by one and to average: `3,5`, or `21.9,21.11` for layer.head.
            system: a system prompt, in place of the template's.
            answer: an answer to teacher-force: the maps are those of its tokens; the model's own answer is kept too.
            min_pixels: pictures are resized to at least this many pixels; by default the checkpoint's limit.
            max_pixels: pictures are resized to at most this many pixels; by default the checkpoint's limit.
            stretch: of pictures of more than 8 bits per channel, scale the range that they use, not the whole one.
            max_new_tokens: longest answer, in tokens.
            seed: seed for torch; the answer is greedy and does not depend on it.
            store_heads: `float32`, or `float16` to store single heads in half the space; each weight is then rounded
                by at most 2^-11 of its value (by 2^-25 below 2^-14).

        Returns:
            The answer and the captured attention.

        Raises:
            InputError: an argument is wrong.
            CaptureError: the captured attention is invalid.
            MemoryLimitError: the prompt does not fit the memory.
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
            stretch=stretch,
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
        """Ask many questions in batches of similar length. Pictures that several questions share are encoded once.

        In float32 the numbers equal those of single questions up to rounding (1e-5). In 16 bits, rounding can change
        an answer where two tokens are almost equally likely.

        Args:
            pairs: (a picture or the pictures of one prompt, a question about them).
            batch_size: most prompts per batch; fewer are taken where the estimate does not fit the memory.
            options: the keywords of `ask` except `images`, for all questions.

        Returns:
            The results, in the order of the pairs.

        Raises:
            InputError: an argument is wrong; raised before anything runs.
            CaptureError: the captured attention is invalid.
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
        progress: Progress = no_progress,
        **options: Any,
    ) -> Result:
        """Ask one question about a clip.

        Args:
            path: a video file (MP4, MOV, MKV, WebM, AVI, ...), an animated GIF, WebP or PNG, or a folder of numbered
                frames.
            question: any text without control tokens.
            fps: frames sampled per second; at most the clip's own rate.
            max_frames: most frames to sample; a longer clip is sampled more sparsely.
            start_s: start of the part to sample, in seconds.
            end_s: end of that part, in seconds; by default the clip's end.
            source_fps: for a folder of frames, how many frame numbers make one second.
            mode: `clip`, all frames in one prompt; `frames`, one prompt per frame; `both`.
            window: with `clip`, sampled frames per prompt; 0 for all in one.
            stride: sampled frames from the start of one window to the next; 0 for half a window.
            progress: called with (stage, done, total).
            options: the keywords of `ask` except `images`; `max_pixels` applies to a frame, by default 151,200.

        Returns:
            The answer and the captured attention; `heatmap().values` is (t, h, w), one map per step.

        Raises:
            InputError: an argument is wrong.
            CaptureError: the captured attention is invalid.
            MemoryLimitError: the prompt does not fit the memory.
        """
        clip = ClipSettings(fps, max_frames, start_s, end_s, source_fps, mode, window, stride)  # type: ignore[arg-type]
        return ask_video(self, path, question, self.settings(**options, clip=clip), progress)

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
        progress: Progress = no_progress,
        **options: Any,
    ) -> dict[str, Any]:
        """Answer every sample of a data set, and measure whether the model looked at the evidence.

        Args:
            samples: the samples, from `load_samples`.
            out: the run folder, for rows, summary, charts and gallery. A new folder, or that of a stopped run, which
                is continued.
            name: name of the data set, for the summary.
            by_head: also score every head.
            methods: also score the maps of these methods, as `mean,relative` or as a list of names from
                `qvl_attn.attribution.methods.registry.METHODS`.
            faithfulness: deletion, insertion and sanity checks of each method's map, or of the headline map.
            calibrate: a new file. Layers and heads are ranked on one half of the pictures and measured on the other,
                and the best heads are written to this file as a profile.
            csv: also write `scores.csv`.
            seed: seed of intervals, halves and controls.
            shard: `2/8` for the second of eight parts, split by a hash of the pictures' names; `merge_runs` merges
                them.
            batch_size: most prompts per batch; fewer are taken where the estimate does not fit the memory.
            fps: for clips, frames sampled per second.
            max_frames: for clips, most frames to sample.
            progress: called with (stage, done, total).
            options: the keywords of `ask` except `images`, `answer` and `method`; layers, heads and profile are those
                of the headline map.

        Returns:
            The contents of `summary.json`.

        Raises:
            InputError: an argument is wrong; raised before anything runs.
            ModelError: the weights cannot be loaded.
            StoreError: the run cannot be written.
        """
        from qvl_attn.evaluation.calibration import halves
        from qvl_attn.evaluation.loop import check_questions
        from qvl_attn.evaluation.run import run_check
        from qvl_attn.evaluation.run_config import RunConfig
        from qvl_attn.evaluation.sharding import Shard
        from qvl_attn.results.run_folder import check_begun, is_finished

        folder, profile_file = Path(out), None if calibrate is None else Path(calibrate)
        parsed_shard = None if shard is None else Shard.parse(shard)
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: want at least 1")
        check_begun(folder)
        if profile_file is not None:
            if parsed_shard or self.workers:
                raise InputError(
                    "--calibrate keeps the maps of all heads in one process", "leave out --shard and workers"
                )
            if not is_finished(folder):
                check_new(profile_file, "calibrate", empty_folder=False)
            if profile_file.absolute() == folder.absolute():
                raise InputError(f"--calibrate {profile_file}: this is also --out", "name another file")
            halves(samples, seed)
            if methods is not None or faithfulness:
                raise InputError(
                    "--calibrate finds heads and --methods compares maps: one at a time",
                    "run --calibrate first, then --methods with its --profile",
                )
            if any(options.get(option) is not None for option in ("profile", "layers", "heads")):
                raise InputError("--calibrate chooses the headline itself", "leave out --profile, --layers and --heads")
            options["profile"] = NO_PROFILE
        settings = self.settings(
            **options,
            method=methods,
            method_option="methods",
            faithfulness=faithfulness,
            seed=seed,
            clip=ClipSettings(fps, max_frames),
        )
        check_questions(self, samples, settings)
        for parent in (folder, *([] if profile_file is None else [profile_file.absolute().parent])):
            check_writable(parent)
        run_config = RunConfig(folder, name, by_head, profile_file, csv, seed, parsed_shard, batch_size)
        return run_check(self, samples, settings, run_config, progress, self.workers)

    def estimate(
        self,
        media: PictureLike | Sequence[PictureLike],
        question: str = "Describe this image.",
        *,
        fps: float = ClipSettings.fps,
        max_frames: int = ClipSettings.max_frames,
        start_s: float = 0.0,
        end_s: float | None = None,
        **options: Any,
    ) -> Estimate:
        """Estimate what a question costs, whether or not it fits: tokens, grids, and memory by kind of attention.

        Args:
            media: a picture, the pictures of one prompt, or a clip: a file, or a folder of numbered frames.
            question: a question about them.
            fps: as in `ask_video`, whose prompt of all frames is estimated.
            max_frames: as in `ask_video`.
            start_s: as in `ask_video`.
            end_s: as in `ask_video`.
            options: the keywords of `ask` except `images`.

        Raises:
            InputError: an argument is wrong.
        """
        if isinstance(media, (str, os.PathLike)) and moves(media):
            settings = self.settings(**options, clip=ClipSettings(fps, max_frames, start_s, end_s))
            loaded: tuple[Media, ...] = (load_clip(self.processor, open_clip(media), settings),)
        else:
            settings = self.settings(**options)
            loaded = load_pictures(media, {}, settings.stretch)
        prepared = read_question(self.processor, self.config, loaded, question, settings)
        weights_here = self.placement.weight_bytes if "model" in self.__dict__ and self.placement.device == "cpu" else 0
        return estimate_of(
            self.config,
            self.placement,
            prepared,
            self.free_bytes(),
            process_bytes() - weights_here,
            mapped_bytes(self.config, self.placement, self.checkpoint.folder),
        )
