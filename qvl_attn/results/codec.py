"""Media in the folder of a result: their entry in `result.json`, their picture files, and how they are read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.core.files import read_png, write_png
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.media.image import check_size
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing


def base_name(source: str) -> str:
    """Return the last part of a path; bytes that are not valid Unicode, which file systems allow, are replaced."""
    return source.replace("\\", "/").rsplit("/", 1)[-1].encode(errors="replace").decode()


def media_json(media: Media, grid_thw: Sequence[int]) -> dict[str, Any]:
    """Return the entry of a picture or clip in `result.json`."""
    return {
        "name": base_name(media.source),
        "sha256": media.sha256,
        "size_px": list(media.size_px),
        "grid_thw": list(grid_thw),
        "times_s": media.times_s.tolist(),
        "notes": list(media.notes),
        "clip": media.clip and {**asdict(media.clip), "sampled_frames": len(media.frames)},
    }


def clip_facts_from(value: Mapping[str, Any]) -> ClipFacts:
    """Return the facts of a clip from its entry in `result.json`."""
    declared = value["declared_frames"]
    return ClipFacts(
        start_s=float(value["start_s"]),
        end_s=float(value["end_s"]),
        rate_fps=float(value["rate_fps"]),
        sampled_fps=float(value["sampled_fps"]),
        frame_indices=tuple(int(number) for number in value["frame_indices"]),
        declared_frames=None if declared is None else int(declared),
        decoded_frames=int(value["decoded_frames"]),
        skipped_s=tuple(float(time_s) for time_s in value["skipped_s"]),
    )


def picture_file(index: int) -> str:
    """Return the file name of a picture, saved at its drawn size so that a result can be drawn again."""
    return f"picture_{index + 1}.png"


def as_stored(media: Media, drawing: Drawing) -> Media:
    """Return a picture or clip as its folder stores it, so that a page written again later is the same."""
    if media.clip is not None:
        return media
    return replace(media, frames=resize_picture(media.frames[0], drawn_size_px(media.size_px, drawing))[None])


def sampled_frame_file(index: int) -> str:
    """Return the file name of a clip's sampled frame, saved as the model saw it."""
    return f"seen/{index:06d}.png"


def write_sampled_frames(folder: Path, clip: Media) -> list[str]:
    """Save a clip's sampled frames as the model saw them, and return their file names."""
    for i, frame in enumerate(clip.frames):
        write_png(folder / sampled_frame_file(i), frame)
    return [sampled_frame_file(i) for i in range(len(clip.frames))]


def media_from(folder: Path, index: int, item: Mapping[str, Any]) -> Media:
    """Read a picture or clip from its entry in `result.json` and its files.

    Raises:
        StoreError: a file is missing or damaged.
        KeyError: a field is missing.
        ValueError: a file does not match the entry.
    """
    width, height = (int(side) for side in item["size_px"])
    check_size(width, height, base_name(str(item["name"])))
    clip, times_s = item.get("clip"), np.array(item["times_s"], dtype=np.float64)
    if clip is None:
        frames = read_png(folder / picture_file(index))[None]
        if folder.parent.name != "passes" and frames.shape[2:0:-1] != fit_px((width, height), max(frames.shape[1:3])):
            raise ValueError(f"{picture_file(index)} has another aspect ratio than the picture")
    else:
        frames = np.stack([read_png(folder / sampled_frame_file(i)) for i in range(len(times_s))])
    return Media(
        kind="picture" if clip is None else "clip",
        frames=frames,
        times_s=times_s,
        size_px=(width, height),
        source=base_name(str(item["name"])),
        sha256=str(item["sha256"]),
        notes=tuple(str(note) for note in item["notes"]),
        clip=clip and clip_facts_from(clip),
    )
