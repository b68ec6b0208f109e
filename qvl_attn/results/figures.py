"""The figures of every kind of result: one large map, sheets of layers and of heads, single layers, rows of steps.

A few steps of a clip appear side by side, like the pictures of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.types import HeatMap, Media
from qvl_attn.media.resize import Picture, fit_px, resize_picture
from qvl_attn.render.layout import (
    LEAST_STEP_PX,
    MAX_ROW_PX,
    ROW_SCALE,
    Panel,
    drawn_steps,
    filtered,
    headline,
    on_one_scale,
    sheet,
)
from qvl_attn.render.lettering import undrawable
from qvl_attn.render.overlay import drawn_size_px, outlined
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results.record import Description, MapSelection, MapSource

NamedPictures = Iterator[tuple[str, Callable[[], Picture]]]
OWN, SHARED = "drawn on its own scale", "drawn on one scale for all layers"
Marks = tuple[Callable[[Picture], Picture], ...]


@dataclass(frozen=True, eq=False)
class Figures:
    """The pictures of a result, each drawn on demand. A kind overrides its texts, and adds pictures of its own.

    Attributes:
        maps: the maps that are drawn.
        drawing: size, colours, scale and filters.
        notes: what the reader of the pictures should know, a line each.
    """

    maps: MapSource
    drawing: Drawing
    notes: tuple[str, ...]

    def images(self) -> NamedPictures:
        """Yield file names relative to the folder, each with a thread-safe function that draws (H, W, 3) uint8 RGB."""
        if not self.is_clip:
            for i, media in enumerate(self.maps.media):
                yield f"picture_{i + 1}.png", partial(_original, media, self.drawing)
        _ = self.pictures  # once, before threads draw on them
        yield "overlay.png", self.overlay
        for query in self.maps.queries:
            yield from self.layer_sheets(query)
            yield from self.head_sheets(query)

    def overlay(self, boxes: Sequence[NDArray[np.float64]] = (), further_lines: Sequence[str] = ()) -> Picture:
        """Draw the headline map, large: (H, W, 3) uint8 RGB.

        Args:
            boxes: boxes to outline: for each picture, or each drawn step of a clip, (G, 4) xyxy in shares of its size.
            further_lines: lines to add to the caption.
        """
        described, panel = self.describe_headline(), self.panel(self.headline, self.maps.headline)
        described = replace(described, lines=(*described.lines, *self.step_lines(), *further_lines))
        if boxes:
            marks = panel.marks or (np.asarray,) * len(boxes)
            panel = replace(panel, marks=tuple(map(_with_boxes, marks, boxes)))
        return draw_large(self.pictures, panel, described, self.drawing, ROW_SCALE if self.is_clip else 1)

    def describe_headline(self) -> Description:
        """Return the texts around `overlay.png`."""
        return self.maps.describe(self.maps.headline)

    def frame_overlay(self) -> FrameOverlay:
        """Return the maps and texts for the frames of a clip's video."""
        from qvl_attn.results.clip_export import map_overlay  # loads PyAV

        return map_overlay(self.maps, self.maps.media[0], self.headline[0])

    def timeline(self) -> Picture:
        """Draw the timeline of a clip: (H, W, 3) uint8 RGB."""
        from qvl_attn.results.timeline import draw_timeline  # loads matplotlib

        return draw_timeline(self.maps, self.maps.media[0])

    @cached_property
    def headline(self) -> tuple[HeatMap, ...]:
        """The maps of `overlay.png`, after the filters of the drawing.

        Raises:
            CaptureError: there is no attention to draw, or a filter leaves nothing of it.
        """
        return filtered(self.maps.heat_map(self.maps.headline), self.drawing)

    @property
    def is_clip(self) -> bool:
        """Whether it is the result of a clip."""
        return self.maps.media[0].clip is not None

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps of a clip that are drawn side by side; for pictures the only one."""
        return drawn_steps(self.headline[0].values) if self.is_clip else (0,)

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """What is drawn beneath the maps: each picture, or the first frame of each drawn step of a clip."""
        return self.pictures_of(self.steps)

    def pictures_of(self, steps: Sequence[int]) -> tuple[Picture, ...]:
        """Return the pictures, or the first frames of some steps of a clip."""
        maps = self.maps
        sizes_px = [drawn_size_px(maps.size_px(i), self.drawing) for i in range(len(maps.media))]
        if not self.is_clip:
            return tuple(maps.picture(i, 0, size_px) for i, size_px in enumerate(sizes_px))
        longest_px = min(max(sizes_px[0]), max(LEAST_STEP_PX, ROW_SCALE * max(sizes_px[0]) // len(steps)))
        size_px = fit_px(maps.size_px(0), longest_px)
        return tuple(maps.picture(0, step, size_px) for step in steps)

    def layer_sheets(self, query: str) -> NamedPictures:
        """Yield the sheets of layers of a query, and each layer as a large map."""
        selections, (own, _) = self.maps.layer_maps(query), self.sheet_panels[query]
        if not own:
            return
        shared, folder = on_one_scale(own), self.folder(query)
        for name, panels, scale in (
            ("layers", own, "each on its own scale"),
            ("layers_shared", shared, "all on one scale"),
        ):
            lines = [*self.sheet_lines(query, f"a layer at a time, {scale}"), *self.step_lines()]
            yield f"{folder}{name}.png", partial(self.draw_sheet, panels, lines)
        is_shared = self.drawing.scale == "shared"
        for panel in shared if is_shared else own:
            selection = selections[panel.label]
            draw = partial(self.draw_layer, panel, selection, is_shared=is_shared)
            yield f"{folder}layers/layer_{selection.layers[0]:02d}.png", draw

    def head_sheets(self, query: str) -> NamedPictures:
        """Yield the sheets of heads of a query; nothing if single heads are not recorded."""
        _, own = self.sheet_panels[query]
        if not own:
            return
        for name, panels, scale in (
            ("heads", own, "each on its own scale"),
            ("heads_shared", on_one_scale(own), "all on one scale"),
        ):
            what = f"every head and the mean, maximum and minimum over them, {scale}"
            lines = [*self.sheet_lines(query, what, heads=True), *self.step_lines()]
            yield f"{self.folder(query)}{name}.png", partial(self.draw_sheet, panels, lines)

    def folder(self, query: str) -> str:
        """Return the start of the file names of a query's sheets."""
        return "" if len(self.maps.queries) == 1 else f"{slug(query)}/"

    def sheet_lines(self, query: str, what: str, *, heads: bool = False) -> list[str]:
        """Return the lines above a sheet.

        Args:
            query: one of the queries of the maps.
            what: what is drawn, and on which scale.
            heads: whether it is a sheet of heads, not of layers.
        """
        described = self.maps.describe(self.maps.headline)
        return [described.title, f"{query} · {what}", *described.lines]

    def draw_layer(self, panel: Panel, selection: MapSelection, *, is_shared: bool) -> Picture:
        """Draw the map of one layer, large, on its own scale or on that of all layers: (H, W, 3) uint8 RGB."""
        return self.draw_large(panel, self.layer_description(selection, is_shared=is_shared))

    def layer_description(self, selection: MapSelection, *, is_shared: bool) -> Description:
        """Return the texts around the large map of one layer."""
        described = self.maps.describe(selection)
        return replace(described, lines=(SHARED if is_shared else OWN, *described.lines))

    def marks(self, selection: MapSelection) -> Marks:
        """Return functions that draw over a map, one for each of the pictures side by side; empty for none."""
        return ()

    def panels(self, selections: Mapping[str, MapSelection]) -> list[Panel]:
        """Return a panel for each map, without those of which nothing is left to draw."""
        panels = []
        for label, selection in selections.items():
            try:
                maps = filtered(self.maps.heat_map(selection), self.drawing)
            except CaptureError:
                continue
            panels.append(self.panel(maps, selection, label))
        return panels

    @cached_property
    def sheet_panels(self) -> dict[str, tuple[list[Panel], list[Panel]]]:
        """The panels of the sheet of layers and of the sheet of heads, by query."""
        maps = self.maps
        return {
            query: (self.panels(maps.layer_maps(query)), self.panels(maps.head_maps(query))) for query in maps.queries
        }

    def filter_notes(self) -> list[str]:
        """Return the notes on maps of which the drawing's filter leaves nothing, and which are therefore not drawn."""
        notes = []
        for query, sheets in self.sheet_panels.items() if self.drawing.denoise else ():
            drawn = {panel.label for panels in sheets for panel in panels}
            maps = {**self.maps.layer_maps(query), **self.maps.head_maps(query)}
            emptied = [label for label in maps if label not in drawn and self._has_attention(maps[label])]
            if emptied:
                notes.append(f"the filter {self.drawing.denoise} leaves nothing of {query}: {', '.join(emptied)}")
        return notes

    def _has_attention(self, selection: MapSelection) -> bool:
        """Return whether there is something of a map before the filter."""
        try:
            self.maps.heat_map(selection)
        except CaptureError:
            return False
        return True

    def panel(self, maps: tuple[HeatMap, ...], selection: MapSelection, label: str = "") -> Panel:
        """Return the panel of maps that are filtered already."""
        return Panel(label, self.side_by_side(maps), self.marks(selection))

    def side_by_side(self, maps: tuple[HeatMap, ...]) -> tuple[HeatMap, ...]:
        """Return a map for each picture, or for each drawn step of a clip."""
        return of_steps(maps[0], self.steps) if self.is_clip else maps

    def step_lines(self) -> list[str]:
        """Return the line that says which steps of a clip are drawn; none for pictures."""
        return describe_steps(self.maps, self.steps)

    def draw_sheet(self, panels: Sequence[Panel], lines: Sequence[str]) -> Picture:
        """Draw a contact sheet: (H, W, 3) uint8 RGB."""
        return sheet(self.pictures, panels, title_lines=lines, drawing=self.drawing)

    def draw_large(self, panel: Panel, described: Description) -> Picture:
        """Draw one panel, large, and the texts around it: (H, W, 3) uint8 RGB."""
        described = replace(described, lines=(*described.lines, *self.step_lines()))
        return draw_large(self.pictures, panel, described, self.drawing)


def draw_large(
    pictures: Sequence[Picture], panel: Panel, described: Description, drawing: Drawing, row_scale: int = 1
) -> Picture:
    """Draw one panel, large, with a longer row for more than two steps of a clip: (H, W, 3) uint8 RGB."""
    if len(panel.maps) > 2:
        drawing = replace(drawing, draw_size_px=min(drawing.draw_size_px * row_scale, MAX_ROW_PX))
    return headline(
        pictures,
        replace(panel, label=described.label),
        question=described.title,
        answer=described.answer,
        caption_lines=described.lines,
        drawing=drawing,
    )


def of_steps(heat: HeatMap, steps: Sequence[int]) -> tuple[HeatMap, ...]:
    """Return one map for each of some steps of a clip."""
    return tuple(replace(heat, values=heat.values[step : step + 1], media_index=i) for i, step in enumerate(steps))


def describe_steps(maps: MapSource, steps: Sequence[int], *, whole: bool = False) -> list[str]:
    """Return the line that says which steps of a clip are drawn; none for pictures.

    Args:
        maps: the maps that are drawn.
        steps: the steps.
        whole: whether the numbers beside the map are of all steps, not of the drawn ones only.
    """
    if maps.media[0].clip is None:
        return []
    grid, count = maps.grids[0], maps.grids[0].shape[0]
    labels = ", ".join(f"{step + 1} ({grid.times_s[step, 0]:.2f} s)" for step in steps)
    limit = "" if whole or len(steps) == count else "; minimum, maximum and cells are of these steps only"
    return [f"from left to right: step {labels} of {count}{limit}"]


def media_notes(media: Sequence[Media], drawing: Drawing) -> list[str]:
    """Return the notes on pictures and clips: their own, and whether a stored copy is drawn larger than it is."""
    notes = [
        f"{medium.kind} {i + 1}: {note}" if medium.clip is None else f"clip: {note}"
        for i, medium in enumerate(media)
        for note in medium.notes
    ]
    for i, medium in enumerate(media):
        stored_px, drawn_px = medium.frames.shape[2], min(medium.size_px[0], drawn_size_px(medium.size_px, drawing)[0])
        if medium.clip is None and stored_px < drawn_px:
            notes.append(
                f"picture {i + 1} is stored {stored_px} pixels wide and drawn larger: --media names the original"
            )
    return notes


def font_notes(text: str) -> list[str]:
    """Return the note on characters that no font of this machine has; none if all can be drawn."""
    missing = undrawable(text)
    if not missing:
        return []
    return [
        f"no font on this machine has {missing!r}: the pictures mark where it is left out; install a font "
        "that has it (such as fonts-noto-cjk) or name one in QVL_ATTN_FONT"
    ]


def _with_boxes(mark: Callable[[Picture], Picture], boxes: NDArray[np.float64]) -> Callable[[Picture], Picture]:
    return lambda picture: outlined(mark(picture), boxes)


def _original(media: Media, drawing: Drawing) -> Picture:
    """Draw a whole picture at its drawn size, as its folder keeps it."""
    return resize_picture(media.frames[0], drawn_size_px(media.size_px, drawing))
