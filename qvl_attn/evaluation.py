"""A whole check: every sample scored, rows and summary written, charts and gallery drawn, a profile calibrated."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qvl_attn.calibrate import MAPS_BYTES, RANKED_BY, best_heads, halves, ranking
from qvl_attn.check import Plan, other_samples, score_samples
from qvl_attn.errors import StoreError
from qvl_attn.origin import made_by, of_model
from qvl_attn.plain import shortened
from qvl_attn.profile import Profile, profile_json, shape_of
from qvl_attn.progress import Progress, untold
from qvl_attn.result import Settings
from qvl_attn.samples import Sample
from qvl_attn.scoring import Headline, Score, as_json, score_row
from qvl_attn.select import default_layers, describe, parse_heads, parse_layers
from qvl_attn.store import write_json
from qvl_attn.summary import summarise

if TYPE_CHECKING:
    from qvl_attn.engine import Engine

SCHEMA_VERSION = 1
# With fewer a bootstrap says little.
FEW_GROUPS = 10
ROWS_FILE, SUMMARY_FILE = "scores.jsonl", "summary.json"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a check beside its figures.

    Attributes:
        out: the folder to write into.
        data: the data set's name.
        by_head: score every head.
        profile_file: where to write a calibrated profile; None to calibrate none.
        csv: also write `scores.csv`.
        seed: of the bootstrap, of the other pictures, and of the halves.
    """

    out: Path
    data: str
    by_head: bool = False
    profile_file: Path | None = None
    csv: bool = False
    seed: int = 0


def headline_of(settings: Settings, config: Any) -> Headline:
    """What the headline averages: what was named, else the profile's, else the layers at 50 to 85 % of the depth."""
    text = config.text_config
    count, profile = text.num_hidden_layers, settings.profile
    if profile is not None:
        return Headline(profile.layers, profile.heads or None)
    layers = default_layers(count) if settings.layers is None else parse_layers(settings.layers, count)
    # layer.head pairs name layers of their own
    within = range(count) if settings.layers is None and "." in (settings.heads or "") else layers
    return Headline(layers, parse_heads(settings.heads, list(within), text.num_attention_heads))


def headline_words(headline: Headline, settings: Settings) -> str:
    """What the headline averages, to be read."""
    if headline.heads is not None:
        words = "heads " + ",".join(f"{layer}.{head}" for layer, head in headline.heads)
    else:
        words = f"layer{'s' if len(headline.layers) > 1 else ''} {describe(headline.layers)}, mean of all heads"
    standing = f" ({settings.profile.standing})" if settings.profile else ""
    return f"{words}{standing}, attention of {settings.query}"


def run_check(
    engine: Engine, samples: Sequence[Sample], settings: Settings, wanted: Wanted, progress: Progress = untold
) -> dict[str, Any]:
    """Score samples and write everything to a folder; `summary.json` is written last.

    Args:
        engine: the model.
        samples: checked.
        settings: as for one question: layers, heads or profile are the headline's.
        wanted: what else.
        progress: told what is being done.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: too few samples to calibrate.
        StoreError: it cannot be written.
    """
    from qvl_attn.outputs import write_charts, write_csv, write_gallery  # loads matplotlib

    calibrating = wanted.profile_file is not None
    parts = halves(samples, wanted.seed) if calibrating else ([], list(samples))
    others = other_samples(samples, wanted.seed)
    asked = _capture_all(settings, engine.config) if calibrating or wanted.by_head else replace(settings, layers=None)
    total, done = sum(map(len, parts)), 0
    _ = engine.model  # nothing is written for a model that cannot be loaded
    try:
        with (wanted.out / ROWS_FILE).open("x", encoding="utf-8", newline="\n") as lines:

            def scored(some: Sequence[Sample], half: str | None) -> list[Score]:
                nonlocal done
                headline, all_heads = headline_of(settings, engine.config), calibrating or wanted.by_head
                words = headline_words(headline, settings)
                plan = Plan(asked, headline, all_heads, half == "first", others)
                found: list[Score] = []
                held = 0
                for score in score_samples(engine, some, plan):
                    row = score_row(score) | ({"half": half, "headline_map": words} if half else {})
                    lines.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())
                    held += sum(maps.nbytes for maps, _ in score.head_maps)
                    found.append(score if held <= MAPS_BYTES else replace(score, head_maps=()))
                    done += 1
                    progress("asking", done, total)
                place = {one.id: i for i, one in enumerate(samples)}  # not as they were finished
                return sorted(found, key=lambda score: place[score.id])

            first = scored(parts[0], "first") if calibrating else []
            if calibrating:
                settings = _calibrated(engine, settings, first, wanted)
            scores = scored(parts[1], "second" if calibrating else None)
        headline = headline_of(settings, engine.config)
        summary = {
            "schema_version": SCHEMA_VERSION,
            "kind": "check",
            "data": wanted.data,
            "model": _model(engine, scores),
            "headline_map": headline_words(headline, settings),
            "settings": asdict(settings),
            **summarise(scores, list(range(engine.config.text_config.num_hidden_layers)), wanted.seed),
            "calibration": _calibration(first, scores, settings) if calibrating else None,
        }
        summary["notes"] = _notes(summary)
        title = f"{shortened(engine.checkpoint.name)} on {shortened(wanted.data)}: {summary['samples']} samples about "
        title += f"{summary['pictures']} pictures, attention of {settings.query}"
        title += ", the half that had no part in the choice" if calibrating else ""
        files = write_charts(wanted.out, summary, headline, title)
        files += write_gallery(wanted.out, engine, samples, scores, settings, progress, summary["notes"])
        if wanted.csv:
            write_csv(wanted.out / "scores.csv", scores)
            files.append("scores.csv")
        if wanted.profile_file and settings.profile and summary["with_boxes"]:
            _write_profile(settings.profile, summary, wanted.profile_file)
        summary["files"] = sorted([ROWS_FILE, SUMMARY_FILE, *files])
        written: dict[str, Any] = as_json(summary)
        write_json(wanted.out / SUMMARY_FILE, written)
    except OSError as error:
        raise StoreError(f"cannot write to {wanted.out}: {error.strerror or error}") from None
    return written


def _capture_all(settings: Settings, config: Any) -> Settings:
    """All heads of all layers kept apart."""
    return replace(settings, layers=None, heads=f"0-{config.text_config.num_attention_heads - 1}", profile=None)


def _calibrated(engine: Engine, settings: Settings, first: Sequence[Score], wanted: Wanted) -> Settings:
    """The same settings with the profile that the first half gave."""
    assert wanted.profile_file is not None
    sound = [one for one in first if one.boxed]
    if not sound:
        raise StoreError("no sample of the first half could be scored: there is nothing to calibrate on")
    checkpoint, together = engine.checkpoint, sum(bool(one.head_maps) for one in sound)
    profile = Profile(
        name=wanted.profile_file.stem,
        evidence="measured",
        source=f"heads ranked on {len(sound)} samples of {wanted.data}, chosen together on {together} of them, with "
        f"{checkpoint.name} ({checkpoint.revision[:12]})",
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


def _write_profile(profile: Profile, summary: dict[str, Any], path: Path) -> None:
    """Beside what is there until it is whole."""
    figures = {
        "measured_on": f"{summary['with_boxes']} samples about pictures that had no part in the choice",
        **{name: as_json(summary["headline"][name]) for name in ("pointing", "lift")},
    }
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    try:
        write_json(draft, profile_json(profile, figures))
        os.link(draft, path)  # unlike a rename it spares what came to be there in the meantime
    except FileExistsError:
        raise StoreError(f"--calibrate {path}: has come to be there meanwhile, and was left as it is") from None
    finally:
        draft.unlink(missing_ok=True)


def _model(engine: Engine, scores: Sequence[Score]) -> dict[str, Any]:
    ways = sorted({one.attention for one in scores if one.attention})
    made = made_by(engine.checkpoint, engine.placement, ", ".join(ways))
    return {"name": made.pop("model"), **made, **of_model(engine.config, engine.processor)}


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = []
    if summary["errors"]:
        notes.append(
            f"{summary['errors']} of {summary['samples']} samples could not be scored: they count as wrong answers, "
            f"for --fail-under pointing as misses too, and are in no other figure; the first: {summary['first_error']}"
        )
    if summary["calibration"] and not summary["with_boxes"]:
        notes.append("no sample of the second half could be scored: no profile was written")
    if summary["no_cell_inside"]:
        notes.append(
            f"in {summary['no_cell_inside']} samples no cell has its centre in a box: the pointing game cannot be won "
            "there, and the ROC-AUC is not defined (a higher --max-pixels makes smaller cells)"
        )
    if not summary["with_boxes"]:
        notes.append("no sample has boxes: nothing says where the evidence is")
    elif summary["groups"] < FEW_GROUPS:
        notes.append(f"the intervals rest on {summary['groups']} independent pictures or clips: too few to trust them")
    if summary["unsampled_boxes"]:
        notes.append(
            f"in {summary['unsampled_boxes']} samples boxes are on frames that were not sampled: those of the nearest "
            "frame of the same step stand in, or none (a higher --fps samples more)"
        )
    over = summary["headline"].get("pointing", {}).get("over_all_layers")
    if summary["calibration"] and over and over["high"] < 0:
        notes.append("the calibrated heads point worse than the mean of all layers: see over_all_layers")
    return notes
