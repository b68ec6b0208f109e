"""A saved result drawn again: other layers, heads, query or method, from what was kept. Knows no model, needs no torch.

What is named without a method is plain attention. A method's map is drawn as it was saved, of the query that was asked;
where plain attention takes its place, methods and faithfulness, which are of other maps, are left to the old result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qvl_attn.attribution.faithfulness import CONTROLS, Curves
from qvl_attn.attribution.methods import METHODS
from qvl_attn.attribution.selection import parse_heads, parse_query
from qvl_attn.attribution.settings import Headline, Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import HeatMap, Media
from qvl_attn.media.image import check_local, load_picture
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.run_folder import RUN_FILE
from qvl_attn.results.store import damage, is_complete
from qvl_attn.vqa.result import REMEDY, Result

PLAIN = "mean"  # the method that is plain attention, and so always there


def read_result(folder: str | os.PathLike[str]) -> Result:
    """Read a saved result.

    Raises:
        InputError: no such folder, or one of something else.
        StoreError: it is damaged.
    """
    path, name = Path(folder), check_local(os.fspath(folder))
    if not os.path.isdir(path):  # pathlib raises on names that are too long  # noqa: PTH112
        what = "is not a folder" if os.path.lexists(path) else "does not exist"
        raise InputError(f"{name} {what}", "name the folder of a result: result.json is in it")
    if os.path.isfile(path / RUN_FILE):  # noqa: PTH113
        raise InputError(f"{name} is the folder of a run over many", "results are what ask and video write")
    if not is_complete(path):
        inside = next(iter(sorted(path.glob("*/result.json"))), None)
        hint = (
            f"results are in it: name one, such as {inside.parent}"
            if inside
            else "results are what ask and video write"
        )
        raise InputError(f"{name} is no complete result: it has no result.json", hint)
    result = Result.load(path)
    with damage(name, REMEDY):
        result.heatmaps()
    return result


def check_whole(folder: Path) -> None:
    """Find out whether something may be written into a result, or beside it.

    Raises:
        InputError: it is one pass of a result, whose folder is finished.
    """
    passes = folder.absolute().parent
    if passes.name == "passes" and is_complete(passes.parent):
        raise InputError(f"{folder} is one pass of a result", f"name the whole, {passes.parent}, or --out")


def redrawn(
    result: Result,
    *,
    layers: str | int | Sequence[int] | None = None,
    heads: str | None = None,
    query: str | None = None,
    method: str | None = None,
    media: Sequence[str | os.PathLike[str]] = (),
) -> Result:
    """The same result with another headline, ready to be saved.

    Args:
        result: as it was asked for, or drawn again before.
        layers: as in `Result.heatmaps`: the headline is plain attention.
        heads: as `layers`.
        query: as `layers`, without a method.
        method: one that was saved, whose map is of the query that was asked; or `mean` for plain attention.
        media: the original files, in prompt order, where what was kept is not enough.

    Raises:
        InputError: something named is not there, or is another file.
        CaptureError: there is no attention to draw.
    """
    if method is not None and (layers is not None or heads is not None):
        option = "--layers" if layers is not None else "--heads"
        raise InputError(f"--method {method} stands beside {option}", f"{option} alone is plain attention of these")
    if query is not None:
        parse_query(query)
    if media:
        result = replace(result, media=_originals(result, media))
    if method in result.settings.methods and query in (None, result.settings.query):
        return _with_first(result, method)
    if method not in (None, PLAIN):
        raise _refused(result, method, query)
    if layers is heads is query is method is None:
        return result
    return _plain(result, layers, heads, query or result.settings.query)


def left_behind(saved: Result, drawn: Result) -> list[str]:
    """What a result had that is not in what is drawn of it, since it is of another map."""
    gone = [f"method {one.method}" for one in saved.methods if one not in drawn.methods]
    return gone + ["faithfulness"] * (saved.settings.faithfulness and not drawn.settings.faithfulness)


def _plain(result: Result, layers: str | int | Sequence[int] | None, heads: str | None, query: str) -> Result:
    """With plain attention as the headline, in its passes as well."""
    if query == "answer" and result.passes and result.pass_mode != "both":
        raise InputError("--query answer: each pass over the clip has an answer of its own", "use --query last")
    chosen = result.heatmaps(layers, heads, query)[0]
    settings = replace(result.settings, query=query, methods=())
    if layers is not None or heads is not None:
        settings = _with_headline(settings, chosen, result.provenance.head_count)
    if settings == result.settings:
        return result
    return replace(
        result,
        settings=replace(settings, faithfulness=False),
        passes=tuple(_plain(one, layers, heads, query) for one in result.passes),
        methods=(),
        curves=None,
        sanity=None,
    )


def _with_headline(settings: Settings, one: HeatMap, head_count: int) -> Settings:
    """With what a map averages as the headline.

    As when they are named with a question, that leaves no room for a profile; `layers` go on saying what was captured.
    """
    headline = Headline(one.layers, parse_heads(one.heads, one.layers, head_count))
    return replace(settings, headline=headline, profile=None, layers=settings.layers or "all")


def _with_first(result: Result, method: str) -> Result:
    """With the map of a method that was saved as the headline."""
    names = (method, *(name for name in result.settings.methods if name != method))
    by_name = {one.method: one for one in result.methods}
    return replace(
        result,
        settings=replace(result.settings, methods=names),
        methods=tuple(by_name[name] for name in names),
        curves=result.curves and _in_order(result.curves, (*names, *CONTROLS)),
        sanity=result.sanity and {name: result.sanity[name] for name in names},
    )


def _in_order(curves: Curves, names: tuple[str, ...]) -> Curves:
    return Curves(names, curves.logprobs[[curves.names.index(name) for name in names]])


def _refused(result: Result, method: str, query: str | None) -> InputError:
    saved, asked = result.settings.methods, result.settings.query
    if method not in METHODS:
        return InputError(f"--method {method}: no method {method!r}", f"there are {', '.join(METHODS)}")
    if method not in saved:
        there = f"it has {', '.join(saved)}" if saved else "it has none"
        return InputError(
            f"--method {method}: not saved in this result, {there}",
            f"ask again with --method {method}, or use --method {PLAIN}, plain attention",
        )
    of = f"is of --query {asked}" if METHODS[method].follows_query else "follows no query"
    return InputError(f"--query {query}: the map of method {method} {of}", "leave --query, or --method")


def _originals(result: Result, paths: Sequence[str | os.PathLike[str]]) -> tuple[Media, ...]:
    """The pictures, or the clip, with the files that they came from."""
    if len(paths) != len(result.media):
        count = f"{len(result.media)} {result.media[0].kind}{'s' if len(result.media) > 1 else ''}"
        raise InputError(f"--media names {len(paths)}, and the result is of {count}", "name all, in prompt order")
    return tuple(_original(one, path, result.settings.clip) for one, path in zip(result.media, paths, strict=True))


def _original(media: Media, path: str | os.PathLike[str], how: ClipSettings | None) -> Media:
    if media.clip is None:
        picture = load_picture(path)
        sha256, found = picture.sha256, replace(media, frames=picture.frames)
    else:
        from qvl_attn.media.video import open_clip  # loads PyAV

        sha256 = open_clip(path, (how or ClipSettings()).source_fps).sha256
        found = replace(media, path=os.fspath(path))
    if sha256 != media.sha256:
        name = check_local(os.fspath(path))
        raise InputError(f"--media {name}: not the file that was asked about", f"its sha256 would be {media.sha256}")
    return found
