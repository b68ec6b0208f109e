"""Pictures, clips and their folders: find results without the seconds that torch takes to load, or encode and save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.types import Source
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings
from qvl_attn.encoders.result import EncoderResult, request_key, request_label
from qvl_attn.encoders.spec import FAMILIES, family_of
from qvl_attn.media.given import PictureLike, is_path, load_given
from qvl_attn.media.image import load_picture, moves
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip
from qvl_attn.model.checkpoint import check_config, find_on_disk
from qvl_attn.model.checkpoint_files import read_object
from qvl_attn.model.placement import EncoderLoadOptions, LoadSettings, sure_provenance
from qvl_attn.results.result import request_folder
from qvl_attn.results.session import Asked, Saved, Saving, compute_missing, find_again

if TYPE_CHECKING:
    from qvl_attn.encoders.engine import EncoderEngine


@dataclass(frozen=True)
class FileId:
    """A file's name and content, without its pixels: see `Source`."""

    source: str
    sha256: str


@dataclass(frozen=True, eq=False)
class EncoderRequest:
    """A picture or clip to encode.

    Attributes:
        picture: path of a picture, a clip or a folder of numbered frames, or another `PictureLike`.
        source: its name and SHA-256.
        settings: settings of the run.
    """

    picture: PictureLike
    source: Source
    settings: EncoderSettings


def request(
    picture: PictureLike, settings: EncoderSettings, clip: ClipSettings | None = None, *, keep: bool = False
) -> EncoderRequest:
    """Return a request, after a check that the picture can be read, or the clip opened and its frames found.

    Args:
        picture: path of a picture, a clip or a folder of numbered frames, or another `PictureLike`.
        settings: settings of the run.
        clip: which frames are sampled, if it is a clip.
        keep: whether a picture stays in memory, so that it is decoded once for its name, the checks and the run.

    Raises:
        InputError: it cannot be read, or has no such frames.
    """
    if not is_path(picture) or (keep and not moves(picture)):
        media = load_given(picture, settings.stretch)
        return EncoderRequest(media, media, settings if media.clip else replace(settings, clip=None))
    if not moves(picture):
        loaded, settings = load_picture(picture, settings.stretch), replace(settings, clip=None)
        return EncoderRequest(picture, FileId(loaded.source, loaded.sha256), settings)
    clip = clip or ClipSettings()
    video = open_clip(picture, clip.source_fps)
    plan_frames(video, clip)
    return EncoderRequest(picture, video, replace(settings, clip=clip))


def find_saved(
    requests: Sequence[EncoderRequest],
    saving: Saving,
    model: str,
    **options: Unpack[EncoderLoadOptions],
) -> Iterator[Saved[EncoderResult]] | None:
    """Return the saved results of requests.

    Args:
        requests: pictures and clips with their settings.
        saving: where the results are saved.
        model: as in `EncoderEngine.load`.
        options: as in `EncoderEngine.load`.

    Returns:
        The results, in the same order. None if one is missing or to be overwritten, or if only torch can tell which
        result it would be.

    Raises:
        InputError: an option is invalid.
        ModelError: the model is not supported, or cannot be found and may not be downloaded.
    """
    load = LoadSettings(**options)
    checkpoint = find_on_disk(model, load.revision, offline=load.offline, weights=False)
    if checkpoint is None:
        return None
    config = read_object(checkpoint.folder / "config.json", model)
    family = FAMILIES[family_of(model, config)]
    check_config(model, config)
    fields = sure_provenance(checkpoint, load)
    if fields is None:
        return None
    return find_again(EncoderResult, _asked(requests, EncoderProvenance(**fields, family=family.name), saving), saving)


def encoded(
    encoder: EncoderEngine,
    requests: Sequence[EncoderRequest],
    saving: Saving,
    *,
    progress: Progress = no_progress,
) -> Iterator[Saved[EncoderResult]]:
    """Yield the saved result of each request: found again, or encoded and saved. One picture is in memory at a time.

    Args:
        encoder: the vision encoder.
        requests: pictures and clips with their settings.
        saving: where the results are saved.
        progress: called with (stage, done, total).

    Raises:
        InputError: a setting or a picture is invalid; of pictures, raised before the weights are loaded.
        CaptureError: the captured weights are not attention.
        MemoryLimitError: a run does not fit into memory.
        StoreError: a result cannot be written or read.
    """

    def encode(missing: Sequence[int]) -> Iterator[tuple[int, EncoderResult]]:
        for i in missing:
            if requests[i].settings.clip is None:
                encoder.read(load_given(requests[i].picture, requests[i].settings.stretch), requests[i].settings)
        for i in missing:
            yield i, encoder.encode(requests[i].picture, requests[i].settings, progress)

    asked = _asked(requests, encoder.provenance, saving)
    return compute_missing(EncoderResult, asked, encode, saving, progress)


def _asked(requests: Sequence[EncoderRequest], provenance: EncoderProvenance, saving: Saving) -> list[Asked]:
    label, asked = request_label(provenance), []
    for each in requests:
        media, key = [each.source], request_key(each.source, each.settings, provenance)
        asked.append(Asked(media, [request_folder(saving.out, media, label, key, saving.drawing)]))
    return asked
