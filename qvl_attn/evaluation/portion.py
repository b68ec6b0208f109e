"""Samples read from the disk, a portion at a time: their pictures and clips, their prompts, what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Media
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.data.shown import Shown
from qvl_attn.media.image import fingerprint, load_picture, picture_from
from qvl_attn.media.video import open_clip
from qvl_attn.vqa.clip import load_clip
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.question import Question

# Questions in a row that are prepared together, and batches of which they should make several; with more bytes of
# pictures the portion is cut before.
AT_ONCE, BATCHES_AT_ONCE, PORTION_BYTES = 16, 4, 2**29


def portions(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Samples about the same pictures together, else in their order; cut where the pictures change if that is soon."""
    most = max(AT_ONCE, BATCHES_AT_ONCE * batch_size)
    about: dict[tuple[bool, tuple[str, ...]], list[Sample]] = {}
    for sample in samples:
        about.setdefault((sample.is_clip, sample.names), []).append(sample)
    together: list[Sample] = []
    held = 0
    for alike in about.values():
        if together and (len(together) >= most or held >= PORTION_BYTES or alike[0].is_clip):
            yield together
            together, held = [], 0
        held += _bytes(alike[0])
        for sample in alike:
            if len(together) >= 4 * most:
                yield together
                together, held = [], _bytes(sample)
            together.append(sample)
    if together:
        yield together


def _bytes(sample: Sample) -> int:
    """Of its pictures, decoded, and as the processor gives them, which is about five times as many."""
    return sum(3 * width * height for width, height in (one.size_px for one in sample.shown)) * 6


@dataclass(eq=False)
class Prepared:
    """A sample that was read, or what was wrong with it, if its files could not be read; and what was so at first."""

    sample: Sample
    question: Question | None = None
    fault: str = ""
    unread: bool = False
    first_fault: str = ""


def read_portion(engine: Engine, portion: Sequence[Sample], settings: Settings, stop: Event) -> list[Prepared]:
    """Read a portion's files, and make prompts; what cannot be read is tried once more when the others are there."""
    loaded: dict[tuple[str, str], Media] = {}
    known: dict[tuple[int, ...], Question] = {}
    found = [Prepared(sample) for sample in portion]
    for one in found:
        if not stop.is_set():
            _read_one(engine, one, settings, loaded, known)
    for one in found:
        if one.unread and not stop.is_set():
            one.first_fault = one.fault
            _read_one(engine, one, settings, loaded, known)
    return found


def _read_one(
    engine: Engine,
    one: Prepared,
    settings: Settings,
    loaded: dict[tuple[str, str], Media],
    known: dict[tuple[int, ...], Question],
) -> None:
    one.fault, one.unread = "", True
    try:
        media = [load_media(engine, shown, settings, loaded) for shown in one.sample.shown]
        one.unread = False
        one.question = engine.read(media, one.sample.question, settings, {}, known)
    except Exception as fault:  # files hold anything
        one.fault = told(fault)


def load_media(engine: Engine, shown: Shown, settings: Settings, loaded: dict[tuple[str, str], Media]) -> Media:
    """A picture, or a clip's sampled frames.

    Args:
        engine: whose processor says how large the frames are.
        shown: what is wanted.
        settings: their `clip` says which frames.
        loaded: what is there already, by kind and name; it is added.

    Raises:
        InputError: it cannot be read, or is not what was checked.
    """
    key = shown.kind, shown.name
    if key not in loaded:
        if not isinstance(shown.source, Path):
            found = picture_from(shown.source(), shown.name)
        elif shown.kind == "clip":
            found = load_clip(engine.processor, open_clip(shown.source), settings)
        else:
            found = load_picture(shown.source)
        other_file = isinstance(shown.source, Path) and fingerprint(shown.source) != shown.fingerprint
        if other_file or found.size_px != shown.size_px:
            raise InputError(f"{shown.name} is not what it was when it was checked")
        loaded[key] = found
    return loaded[key]


def told(fault: Exception) -> str:
    """A fault as rows tell it."""
    return f"{type(fault).__name__}: {fault}"
