"""Pictures of embeddings by layer: principal components as colours of the patches, and similarity to a patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.text import compact, percent, plain
from qvl_attn.core.types import FloatArray, Scale
from qvl_attn.encoders.captions import NamedPictures, describe_layer_output, visible_picture, visible_size_px
from qvl_attn.encoders.input_figures import mark_patch
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media import resize
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, overlay
from qvl_attn.render.layout import GREY, INK, PAGE
from qvl_attn.render.lettering import Color, line_height_px
from qvl_attn.render.style import Drawing

# The most steps of a clip that are drawn side by side.
MOST_STEPS = 3
# The colour range of a component leaves out this percentage of the patches at either end.
CLIPPED_PERCENT = 1
MARGIN_PX, GAP_PX, BETWEEN_PX = 44, 24, 6
TITLE_PX, LINE_PX, LABEL_PX, NUMBER_PX = 30, 18, 18, 15
SHEET_PX = 2300
CELL_PX, NARROWEST_PX, TALLEST_PX = 340, 190, 420


class Cell(NamedTuple):
    """One picture of a sheet and the text beneath it."""

    picture: Picture
    label: str
    number: str = ""


def embedding_images(record: EncoderRecord, drawing: Drawing) -> NamedPictures:
    """Yield the names of the pictures of a result's embeddings, each with the function that draws it.

    Yields nothing without embeddings and without query patches.
    """
    for i in range(0 if record.similarity is None else record.similarity.shape[1]):
        yield f"at_{i + 1}/similarity.png", partial(draw_similarity, record, i, drawing)
    if record.embedding is None:
        return
    from qvl_attn.encoders.embedding_charts import draw_patch_tsne, draw_patches  # loads matplotlib

    if "pca" in record.settings.embeddings:
        yield "embeddings/pca_layers.png", partial(draw_components, record, drawing)
        for i, layer in enumerate(record.embedding.layers.tolist()):
            name = "before" if layer < 0 else f"layer_{layer:02d}"
            yield f"embeddings/pca/{name}.png", partial(draw_layer, record, i, drawing)
        yield "embeddings/scatter.png", partial(draw_patches, record)
    if record.embedding.tsne is not None:
        yield "embeddings/tsne.png", partial(draw_patch_tsne, record)


def component_colors(components: FloatArray) -> Picture:
    """Convert three components to red, green and blue, each from its 1st to its 99th percentile: (P, 3) uint8.

    A component that does not vary gets the middle level.

    Args:
        components: (P, 3) float32.
    """
    low, high = np.percentile(components, (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT), axis=0)
    varies = high > low
    share = (components - low) / np.where(varies, high - low, 1)
    return np.asarray(np.rint(255 * np.clip(np.where(varies, share, 0.5), 0, 1)), dtype=np.uint8)


def draw_components(record: EncoderRecord, drawing: Drawing) -> Picture:
    """Draw a sheet: the picture, and for each layer its first three components as the colours of the patches."""
    assert record.embedding is not None
    size_px = _size_px(record, drawing, CELL_PX)
    cells = [
        Cell(
            _side_by_side([visible_picture(record, step, size_px) for step in _drawn_steps(record)]),
            "what the encoder sees",
        )
    ]
    for i, layer in enumerate(record.embedding.layers.tolist()):
        explained = record.embedding.explained[i]
        cells.append(
            Cell(
                _side_by_side(_component_pictures(record, i, size_px)),
                describe_layer_output(layer),
                f"{_explained(explained)} of variance",
            )
        )
    lines = [
        "the first three principal components of each layer's patches, as red, green and blue",
        f"each from its {CLIPPED_PERCENT}st to its {100 - CLIPPED_PERCENT}th percentile in its layer; "
        "colours of different layers cannot be compared",
    ]
    return sheet(_title(record, "embeddings by layer"), [*lines, *_steps_line(record)], cells)


def draw_layer(record: EncoderRecord, index: int, drawing: Drawing) -> Picture:
    """Draw one layer's first three components as the colours of the patches, large, beside the picture.

    Args:
        record: a result with an embedding.
        index: index of the layer in `record.embedding.layers`.
        drawing: gives the size.
    """
    assert record.embedding is not None
    layer = int(record.embedding.layers[index])
    size_px = _size_px(record, drawing, min(drawing.draw_size_px or 16384, 640))
    pictures = [visible_picture(record, step, size_px) for step in _drawn_steps(record)]
    cells = [Cell(_side_by_side(pictures), "what the encoder sees")]
    cells.append(
        Cell(
            _side_by_side(_component_pictures(record, index, size_px)),
            f"{_explained(record.embedding.explained[index])} of variance",
        )
    )
    lines = [
        f"the first three principal components of the patches {describe_layer_output(layer)}, as red, green and blue"
    ]
    return sheet(_title(record, f"embeddings {describe_layer_output(layer)}"), [*lines, *_steps_line(record)], cells)


def draw_similarity(record: EncoderRecord, index: int, drawing: Drawing) -> Picture:
    """Draw a sheet: for each layer the cosine similarity of all patches of a step to a query patch, on one scale.

    Args:
        record: a result with similarities.
        index: index of the query patch.
        drawing: size, colours and interpolation.
    """
    assert record.similarity is not None
    assert record.similarity_layers is not None
    values = record.similarity[:, index]
    scale = Scale(min(float(values.min()), 1 - 1e-3), 1.0)
    size_px = _size_px(record, drawing, CELL_PX)
    pictures = [visible_picture(record, step, size_px) for step in _drawn_steps(record)]
    place = int(record.attention.query_patches[index])
    cells = []
    for layer, maps in zip(record.similarity_layers.tolist(), values, strict=True):
        blended = [
            mark_patch(
                overlay.blend(picture, overlay.upsample(maps[step], size_px, drawing), scale, drawing),
                place,
                record.attention.grid[1:],
            )
            for picture, step in zip(pictures, _drawn_steps(record), strict=True)
        ]
        number = f"{compact(float(maps.min()))} to {compact(float(maps.max()))} · mean {compact(float(maps.mean()))}"
        cells.append(Cell(_side_by_side(blended), describe_layer_output(layer), number))
    x, y = record.settings.at[index]
    lines = [f"cosine similarity of the patch at {x:g},{y:g} (outlined) to all patches, by layer, all on one scale"]
    key = _draw_key(scale, drawing)
    return sheet(_title(record, "similarity to a patch"), [*lines, *_steps_line(record)], cells, key)


def _title(record: EncoderRecord, what: str) -> str:
    return f"{plain(record.media[0].source.rpartition('/')[2])} · {what} · {record.provenance.family}"


def _explained(shares: NDArray[np.float32]) -> str:
    return " + ".join(percent(share) for share in shares.tolist())


def _drawn_steps(record: EncoderRecord) -> list[int]:
    """Return the steps that are drawn, evenly spaced."""
    count = record.attention.grid[0]
    return sorted({round(step) for step in np.linspace(0, count - 1, min(count, MOST_STEPS)).tolist()})


def _steps_line(record: EncoderRecord) -> list[str]:
    if record.media[0].clip is None:
        return []
    steps = ", ".join(f"{i + 1} ({record.media[0].times_s[record.frames[i, 0]]:.2f} s)" for i in _drawn_steps(record))
    return [f"from left to right: step {steps} of {record.attention.grid[0]}"]


def _size_px(record: EncoderRecord, drawing: Drawing, longest_px: int) -> tuple[int, int]:
    """Return the (width, height) of one step in a sheet."""
    longest = min(longest_px, drawing.draw_size_px or longest_px)
    size_px = resize.fit_px(visible_size_px(record.attention), longest)
    return resize.fit_px(size_px, TALLEST_PX) if longest_px == CELL_PX and size_px[1] > TALLEST_PX else size_px


def _component_pictures(record: EncoderRecord, index: int, size_px: tuple[int, int]) -> list[Picture]:
    """Return a layer's components as colours for each step that is drawn; the colour range is that of all steps."""
    assert record.embedding is not None
    colors = component_colors(record.embedding.components[index]).reshape(*record.attention.grid, 3)
    return [
        np.stack([overlay.cell_boxes(colors[step, ..., channel], size_px) for channel in range(3)], axis=-1)
        for step in _drawn_steps(record)
    ]


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Put pictures of one size side by side."""
    height, width = pictures[0].shape[:2]
    row = np.full((height, len(pictures) * (width + BETWEEN_PX) - BETWEEN_PX, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        row[:, i * (width + BETWEEN_PX) :][:, :width] = picture
    return row


def _draw_key(scale: Scale, drawing: Drawing) -> Picture:
    """Draw the colour bar of a sheet and the values of its ends."""
    width, height = 180, line_height_px(NUMBER_PX)
    text = f"{compact(scale.low)} to {compact(scale.high)}"
    key = Image.new("RGB", (width + 12 + math.ceil(lettering.measure(text, NUMBER_PX)), height), PAGE)
    key.paste(Image.fromarray(np.rot90(overlay.colorbar(width, 12, drawing.colormap), -1)), (0, 4))
    lettering.draw_lines(key, (width + 12, 0), [text], NUMBER_PX, GREY)
    return np.asarray(key)


def sheet(title: str, lines: Sequence[str], cells: Sequence[Cell], key: Picture | None = None) -> Picture:
    """Draw pictures in rows, each with a label and a number beneath: (H, W, 3) uint8 RGB.

    Args:
        title: the title, drawn large.
        lines: grey lines beneath the title.
        cells: pictures of one size.
        key: a colour bar, drawn above the first row.
    """
    height, width = cells[0].picture.shape[:2]
    text_widths = [lettering.measure(cell.label, LABEL_PX) for cell in cells]
    text_widths += [lettering.measure(cell.number, NUMBER_PX) for cell in cells]
    cell_width = max(width, NARROWEST_PX, math.ceil(max(text_widths)))
    text_height = line_height_px(LABEL_PX)
    text_height += line_height_px(NUMBER_PX) if any(cell.number for cell in cells) else 0
    cell_height = height + 8 + text_height
    columns = min(len(cells), max(1, (SHEET_PX + GAP_PX) // (cell_width + GAP_PX)))
    columns = min(columns, max(1, math.ceil(math.sqrt(1.5 * len(cells) * cell_height / cell_width))))
    rows = math.ceil(len(cells) / columns)
    inner = max(columns * (cell_width + GAP_PX) - GAP_PX, 640)
    texts: list[tuple[list[str], int, Color]] = [(lettering.wrap(title, inner, TITLE_PX, max_lines=3), TITLE_PX, INK)]
    texts += [(lettering.wrap(line, inner, LINE_PX, max_lines=4), LINE_PX, GREY) for line in lines]
    top = MARGIN_PX + sum(len(text) * line_height_px(size) for text, size, _ in texts) + GAP_PX // 2
    first = top + (0 if key is None else key.shape[0] + GAP_PX // 2) + GAP_PX // 3
    bottom = first + rows * (cell_height + GAP_PX) - GAP_PX + MARGIN_PX
    page = Image.new("RGB", (inner + 2 * MARGIN_PX, bottom), PAGE)
    y = MARGIN_PX
    for text, size, color in texts:
        y += lettering.draw_lines(page, (MARGIN_PX, y), text, size, color)
    if key is not None:
        page.paste(Image.fromarray(key), (MARGIN_PX, top))
    for i, (picture, label, number) in enumerate(cells):
        x, y = MARGIN_PX + i % columns * (cell_width + GAP_PX), first + i // columns * (cell_height + GAP_PX)
        page.paste(Image.fromarray(picture), (x, y))
        y += height + 8
        y += lettering.draw_lines(page, (x, y), [label], LABEL_PX, INK)
        lettering.draw_lines(page, (x, y), [number], NUMBER_PX, GREY)
    return np.asarray(page)
