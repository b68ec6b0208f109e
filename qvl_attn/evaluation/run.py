"""A whole check: score every sample, save its row, write all outputs at the end, and calibrate a profile."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qvl_attn.attribution.profiles import Profile, profile_json, shape_of
from qvl_attn.attribution.settings import Settings, headline_of
from qvl_attn.core.errors import ModelError, QvlAttnError, StoreError
from qvl_attn.core.files import check_new, write_json, write_png
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument, pluralize, shortened
from qvl_attn.core.typed_json import decoded
from qvl_attn.evaluation.calibration import MAPS_BYTES, RANKED_BY, best_heads, halves, ranking
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import chosen_examples, example_file, write_example
from qvl_attn.evaluation.loop import ScoringPlan, other_samples
from qvl_attn.evaluation.outputs import CSV_FILE, file_name, gallery_scores, write_csv, write_outputs
from qvl_attn.evaluation.rows import check_indices, read_scores, score_row
from qvl_attn.evaluation.run_config import RunConfig, describe_headline, facts_of, run_json
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary_json import Summary, read_summary
from qvl_attn.evaluation.workers import InProcess, Runner
from qvl_attn.results.run_folder import SUMMARY_FILE, Ledger, Run, open_run
from qvl_attn.results.store import damage

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

LOG = logging.getLogger(__name__)


def run_check(
    engine: Engine,
    samples: Sequence[Sample],
    settings: Settings,
    run_config: RunConfig,
    progress: Progress = no_progress,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Score all samples, or those that a stopped run has not scored, and write everything to the run's folder.

    Args:
        engine: the model.
        samples: the samples of the whole data set.
        settings: the settings of every question; layers, heads or profile are those of the headline.
        run_config: the options of the check.
        progress: called with (stage, done, total).
        runner: runs the model; by default this process.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: there are too few samples to calibrate; the folder has a run of something else, or another process
            is running it.
        StoreError: the run cannot be written.
    """
    runner = runner or InProcess()
    parts = {"": run_config.shard.own(samples) if run_config.shard else list(samples)}
    if run_config.profile_file:
        parts = dict(zip(("first", "second"), halves(samples, run_config.seed), strict=True))
    own = [sample for part in parts.values() for sample in part]
    run = run_json(engine, samples, own, settings, run_config)
    with open_run(run_config.out, run) as ledger:
        was_finished = ledger.finished
        # A damaged row is refused before anything is asked.
        check_indices(run_config.out, read_scores(run_config.out), len(samples))
        if ledger.done:
            LOG.info(
                f"{run_config.out}: {len(ledger.done):,} of {len(run['samples']):,} samples are already done"
                + ("; the run is finished, nothing is left to do" if was_finished else "")
            )
        if not was_finished:
            if run_config.profile_file:
                check_new(run_config.profile_file, "calibrate", empty_folder=False)
            score = partial(
                _score_part, runner, engine, ledger, run, other_samples(samples, run_config.seed), run_config, progress
            )
            if run_config.profile_file:
                first = score(parts["first"], settings, "first")
                settings = _calibrated(engine, settings, first, run_config)
                second = score(parts["second"], settings, "second")
                calibration, scores = _calibration(first, second, settings), second
            else:
                calibration, scores = None, score(parts[""], settings, "")
            write_outputs(
                run_config.out,
                facts_of(engine, settings, run_config),
                scores,
                partial(_draw_gallery, runner, run_config.out, engine, samples, settings, progress),
                csv=run_config.csv,
                calibration=calibration,
            )
        elif run_config.csv and not (run_config.out / CSV_FILE).exists():
            scores = [score for score in read_scores(run_config.out) if score.half != "first"]
            write_csv(run_config.out / CSV_FILE, scores)
        summary = read_summary(run_config.out)
        if run_config.profile_file and not (was_finished and run_config.profile_file.exists()):
            with damage(run_config.out / SUMMARY_FILE):
                if summary["with_boxes"]:
                    _write_profile(summary, run_config.profile_file)
    return {**summary}


def _score_part(
    runner: Runner,
    engine: Engine,
    ledger: Ledger,
    run: Run,
    others: dict[str, Sample],
    run_config: RunConfig,
    progress: Progress,
    part: Sequence[Sample],
    settings: Settings,
    half: str,
) -> list[Score]:
    """Score samples that have no row yet, and return the scores of all rows, of the first half with `head_maps`."""
    all_heads, keep_maps = run_config.profile_file is not None or run_config.by_head, half == "first"
    headline = headline_of(settings, engine.selection(settings))
    headline_map = describe_headline(headline, settings) if half else ""
    capture_settings = _capture_all(settings, engine.config) if all_heads else replace(settings, layers=None)
    capture_settings = replace(capture_settings, headline=headline)
    example_ids = frozenset[str]() if half == "first" else chosen_examples(sample.id for sample in part)
    plan = ScoringPlan(capture_settings, headline, all_heads, keep_maps, others, run_config.batch_size, example_ids)
    maps: dict[str, Any] = {}
    maps_bytes, total = 0, len(run["samples"])

    def done() -> Collection[str]:
        return () if keep_maps and maps_bytes <= MAPS_BYTES else ledger.done  # maps are not on the disk

    with ledger.appending(run) as append, closing(runner.score(engine, part, plan, done)) as new_scores:
        progress("asking", len(ledger.done), total)
        for score in new_scores:
            maps_bytes += sum(weights.nbytes for weights, _ in score.head_maps)
            if maps_bytes <= MAPS_BYTES:
                maps[score.id] = score.head_maps
            if score.id not in ledger.done:
                if score.example:  # before the row, because a sample with a row is done
                    ledger.begin(run)
                    write_example(run_config.out, score.example)
                append(score_row(replace(score, half=half, headline_map=headline_map)))
                progress("asking", len(ledger.done), total)
    missing = [sample.id for sample in part if sample.id not in ledger.done]
    if missing:
        raise ModelError(
            f"no row of {pluralize(len(missing), 'sample')}, because the worker died: {shortened(', '.join(missing))}",
            "run the same check again: it continues",
        )
    scores = [score for score in read_scores(run_config.out) if score.half == half]
    return [replace(score, head_maps=maps.get(score.id, ())) for score in scores]


def _draw_gallery(
    runner: Runner,
    folder: Path,
    engine: Engine,
    samples: Sequence[Sample],
    settings: Settings,
    progress: Progress,
    scores: Sequence[Score],
    notes: list[str],
) -> list[str]:
    """Draw the best and the worst samples by the headline, and return the files; a fault becomes a note."""
    settings = replace(settings, methods=(), faithfulness=False)
    by_id, files, best_and_worst = {sample.id: sample for sample in samples}, [], list(gallery_scores(scores))
    pairs = [(by_id[score.id], score) for _, score in best_and_worst]
    with closing(runner.draw(engine, pairs, settings)) as drawings:
        for done, ((name, score), drawn) in enumerate(zip(best_and_worst, drawings, strict=True), 1):
            if isinstance(drawn, QvlAttnError):
                notes.append(f"gallery: {score.id} could not be drawn ({drawn})")
            else:
                picture, example = drawn
                write_png(folder / file_name(name, score), picture)
                if not (folder / example_file(score.id)).exists():  # it may have been written with the row
                    write_example(folder, example)
                files.append(file_name(name, score))
            progress("drawing", done, len(best_and_worst))
    return files


def _capture_all(settings: Settings, config: Any) -> Settings:
    """Return the settings that capture all heads of all layers."""
    return replace(settings, layers=None, heads=f"0-{config.text_config.num_attention_heads - 1}", profile=None)


def _calibrated(engine: Engine, settings: Settings, first: Sequence[Score], run_config: RunConfig) -> Settings:
    """Return the settings with the profile that was calibrated on the first half."""
    assert run_config.profile_file is not None
    scored = [score for score in first if score.boxed]
    if not scored:
        raise StoreError("no sample of the first half could be scored: there is nothing to calibrate on")
    checkpoint, with_maps = engine.checkpoint, sum(bool(score.head_maps) for score in scored)
    profile = Profile(
        name=run_config.profile_file.stem,
        evidence="measured",
        source=f"heads ranked on {pluralize(len(scored), 'sample')} of {run_config.data}, chosen together on "
        f"{with_maps} of them, with {checkpoint.name} ({checkpoint.revision[:12]})",
        model=shape_of(engine.config),
        heads=best_heads(scored, range(engine.config.text_config.num_hidden_layers)),
        query=None if engine.selection(settings).query.words else settings.query,
    )
    return replace(settings, layers=None, heads=None, profile=profile)


def _calibration(first: Sequence[Score], second: Sequence[Score], settings: Settings) -> dict[str, Any]:
    first_scored, second_scored = ([score for score in half if score.boxed] for half in (first, second))
    return {
        "profile": asdict(settings.profile) if settings.profile else None,
        "first_half": {"samples": len(first), "scored": len(first_scored)},
        "second_half": {"samples": len(second), "scored": len(second_scored)},
        "all_layers": {
            half: {name: float(np.mean([score.all_layers[name] for score in scored])) for name in RANKED_BY}
            for half, scored in (("first_half", first_scored), ("second_half", second_scored))
            if scored
        },
        "ranking": ranking(first_scored, second_scored, range(len(first_scored[0].layers["pointing"])))
        if second_scored
        else None,
    }


def _write_profile(summary: Summary, path: Path) -> None:
    """Write the calibrated profile to a draft, and link it to its path when it is complete.

    Raises:
        StoreError: it cannot be written, or the path exists now.
    """
    calibration = summary["calibration"]
    profile = decoded(calibration and calibration["profile"], Profile, "calibration.profile")
    figures = {
        "measured_on": f"{pluralize(summary['with_boxes'], 'sample')} about pictures that were not used to choose the "
        "heads",
        **{name: summary["headline"][name] for name in ("pointing", "lift")},
    }
    draft = path.with_name(f".{path.name}.new")
    try:
        write_json(draft, profile_json(profile, figures))
        os.link(draft, path)  # unlike a rename, it does not replace a file that was created meanwhile
    except FileExistsError:
        raise StoreError(
            f"{argument('calibrate', path)}: was created by another process meanwhile, and was not replaced"
        ) from None
    except OSError as error:
        raise StoreError(f"{argument('calibrate', path)}: cannot be written ({error.strerror or error})") from None
    finally:
        draft.unlink(missing_ok=True)
