"""A whole check: every sample scored, its row safe on the disk, everything written at the end, a profile calibrated."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qvl_attn.attribution.profiles import Profile, profile_from, profile_json, shape_of
from qvl_attn.attribution.settings import Settings, headline_of
from qvl_attn.core.errors import ModelError, QvlAttnError, StoreError
from qvl_attn.core.files import read_json, write_json, write_png
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.core.text import shortened
from qvl_attn.evaluation.calibration import MAPS_BYTES, RANKED_BY, best_heads, halves, ranking
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import chosen_examples, example_file, write_example
from qvl_attn.evaluation.loop import ScoringPlan, other_samples
from qvl_attn.evaluation.outputs import CSV_FILE, chosen, file_name, write_csv, write_outputs
from qvl_attn.evaluation.run_config import RunConfig, describe_headline, facts_of, run_json
from qvl_attn.evaluation.score import Score, read_scores, score_row
from qvl_attn.evaluation.workers import InProcess, Workers
from qvl_attn.results.run_folder import SUMMARY_FILE, Ledger, open_run

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine


def run_check(
    engine: Engine,
    samples: Sequence[Sample],
    settings: Settings,
    run_config: RunConfig,
    progress: Progress = no_op,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Score samples, or those that a stopped run has left, and write everything to its folder.

    Args:
        engine: the model.
        samples: checked.
        settings: as for one question: layers, heads or profile are the headline's.
        run_config: what else.
        progress: told what is being done.
        workers: who holds the model; by default this process.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: too few samples to calibrate; the folder's run was begun with something else, or is being run.
        StoreError: it cannot be written.
    """
    workers = workers or InProcess()
    parts = {"": run_config.shard.own(samples) if run_config.shard else list(samples)}
    if run_config.profile_file:
        parts = dict(zip(("first", "second"), halves(samples, run_config.seed), strict=True))
    run = run_json(engine, samples, [one for part in parts.values() for one in part], settings, run_config)
    with open_run(run_config.out, run) as ledger:
        was_finished = ledger.finished
        if ledger.done:
            engine.say(
                f"{run_config.out}: {len(ledger.done):,} of {len(run['samples']):,} samples have their row already"
                + ("; the run is finished, and nothing is run" if was_finished else "")
            )
        if not was_finished:
            score = partial(
                _score, workers, engine, ledger, run, other_samples(samples, run_config.seed), run_config, progress
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
                partial(_draw_gallery, workers, run_config.out, engine, samples, settings, progress),
                csv=run_config.csv,
                calibration=calibration,
            )
        elif run_config.csv and not (run_config.out / CSV_FILE).exists():
            write_csv(run_config.out / CSV_FILE, [one for one in read_scores(run_config.out) if one.half != "first"])
        summary = read_json(run_config.out / SUMMARY_FILE)
        if (
            run_config.profile_file
            and summary["with_boxes"]
            and not (was_finished and run_config.profile_file.exists())
        ):
            _write_profile(summary, run_config.profile_file)
    return summary


def _score(
    workers: Workers,
    engine: Engine,
    ledger: Ledger,
    run: dict[str, Any],
    others: dict[str, Sample],
    run_config: RunConfig,
    progress: Progress,
    part: Sequence[Sample],
    settings: Settings,
    half: str,
) -> list[Score]:
    """Score what has no row yet, and give back what the rows say; of the first half with maps to choose heads by."""
    all_heads, keep_maps = run_config.profile_file is not None or run_config.by_head, half == "first"
    headline = headline_of(settings, engine.config)
    words = describe_headline(headline, settings) if half else ""
    asked = _capture_all(settings, engine.config) if all_heads else replace(settings, layers=None)
    shown = frozenset[str]() if half == "first" else chosen_examples(one.id for one in part)
    asked = replace(asked, headline=headline)
    plan = ScoringPlan(asked, headline, all_heads, keep_maps, others, run_config.batch_size, shown)
    maps: dict[str, Any] = {}
    held, total = 0, len(run["samples"])

    def done() -> Collection[str]:
        return () if keep_maps and held <= MAPS_BYTES else ledger.done  # maps are not on the disk

    with ledger.appending(run) as append:
        progress("asking", len(ledger.done), total)
        for score in workers.score(engine, part, plan, done):
            held += sum(weights.nbytes for weights, _ in score.head_maps)
            if held <= MAPS_BYTES:
                maps[score.id] = score.head_maps
            if score.id not in ledger.done:
                if score.example:  # before the row, with which nothing of the sample is left to do
                    ledger.begin(run)
                    write_example(run_config.out, score.example)
                append(score_row(replace(score, half=half, headline_map=words)))
                progress("asking", len(ledger.done), total)
    missing = [one.id for one in part if one.id not in ledger.done]
    if missing:
        raise ModelError(
            f"{len(missing)} samples have no row, since what asked them died: {shortened(', '.join(missing))}",
            "the same command asks them again",
        )
    return [replace(one, head_maps=maps.get(one.id, ())) for one in read_scores(run_config.out) if one.half == half]


def _draw_gallery(
    workers: Workers,
    folder: Path,
    engine: Engine,
    samples: Sequence[Sample],
    settings: Settings,
    progress: Progress,
    scores: Sequence[Score],
    notes: list[str],
) -> list[str]:
    """The best and the worst by the headline, whose map is drawn; what cannot be drawn becomes a note."""
    settings = replace(settings, methods=(), faithfulness=False)
    by_id, files, shown = {one.id: one for one in samples}, [], list(chosen(scores))
    pairs = [(by_id[score.id], score) for _, score in shown]
    for done, ((name, score), drawn) in enumerate(zip(shown, workers.draw(engine, pairs, settings), strict=True), 1):
        if isinstance(drawn, QvlAttnError):
            notes.append(f"gallery: {score.id} could not be drawn ({drawn})")
        else:
            page, example = drawn
            write_png(folder / file_name(name, score), page)
            if not (folder / example_file(score.id)).exists():  # or it was made with the row
                write_example(folder, example)
            files.append(file_name(name, score))
        progress("drawing", done, len(shown))
    return files


def _capture_all(settings: Settings, config: Any) -> Settings:
    """All heads of all layers kept apart."""
    return replace(settings, layers=None, heads=f"0-{config.text_config.num_attention_heads - 1}", profile=None)


def _calibrated(engine: Engine, settings: Settings, first: Sequence[Score], run_config: RunConfig) -> Settings:
    """The same settings with the profile that the first half gave."""
    assert run_config.profile_file is not None
    sound = [one for one in first if one.boxed]
    if not sound:
        raise StoreError("no sample of the first half could be scored: there is nothing to calibrate on")
    checkpoint, together = engine.checkpoint, sum(bool(one.head_maps) for one in sound)
    profile = Profile(
        name=run_config.profile_file.stem,
        evidence="measured",
        source=f"heads ranked on {len(sound)} samples of {run_config.data}, chosen together on {together} of them, "
        f"with {checkpoint.name} ({checkpoint.revision[:12]})",
        model=shape_of(engine.config),
        heads=best_heads(sound, range(engine.config.text_config.num_hidden_layers)),
        query=None if settings.query.startswith("text:") else settings.query,
    )
    return replace(settings, layers=None, heads=None, profile=profile)


def _calibration(first: Sequence[Score], second: Sequence[Score], settings: Settings) -> dict[str, Any]:
    one, other = ([score for score in half if score.boxed] for half in (first, second))
    return {
        "profile": asdict(settings.profile) if settings.profile else None,
        "first_half": {"samples": len(first), "scored": len(one)},
        "second_half": {"samples": len(second), "scored": len(other)},
        "all_layers": {
            half: {name: float(np.mean([score.all_layers[name] for score in some])) for name in RANKED_BY}
            for half, some in (("first_half", one), ("second_half", other))
            if some
        },
        "ranking": ranking(one, other, range(len(one[0].layers["pointing"]))) if other else None,
    }


def _write_profile(summary: dict[str, Any], path: Path) -> None:
    """Beside what is there until it is whole."""
    profile = profile_from(summary["calibration"]["profile"])
    figures = {
        "measured_on": f"{summary['with_boxes']} samples about pictures that had no part in the choice",
        **{name: summary["headline"][name] for name in ("pointing", "lift")},
    }
    draft = path.with_name(f".{path.name}.new")
    try:
        write_json(draft, profile_json(profile, figures))
        os.link(draft, path)  # unlike a rename it spares what came to be there in the meantime
    except FileExistsError:
        raise StoreError(f"--calibrate {path}: has come to be there meanwhile, and was left as it is") from None
    except OSError as error:
        raise StoreError(f"--calibrate {path}: cannot be written ({error.strerror or error})") from None
    finally:
        draft.unlink(missing_ok=True)
