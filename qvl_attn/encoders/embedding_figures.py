"""Pictures of embeddings by layer: principal components as colours of the patches, and similarity to a patch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.text import compact, percent, plain
from qvl_attn.core.types import FloatArray, Scale
from qvl_attn.encoders.captions import describe_layer_output
from qvl_attn.encoders.input_figures import mark_patch
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.render import overlay
from qvl_attn.render.contact_sheet import CellText, draw_key, draw_sheet, plan_sheet
from qvl_attn.render.paper import Size
from qvl_attn.results.figures import Figures, NamedPictures, describe_steps

# The colour range of a component leaves out this percentage of the patches at either end.
CLIPPED_PERCENT = 1
# The longest side of a picture of one layer.
LARGE_PX = 640


def embedding_images(record: EncoderRecord, figures: Figures) -> NamedPictures:
    """Yield the names of the pictures of a result's embeddings, each with the function that draws it.

    Yields nothing without embeddings and without query patches.
    """
    for i in range(0 if record.similarity is None else record.similarity.shape[1]):
        yield f"at_{i + 1}/similarity.png", partial(draw_similarity, record, i, figures)
    if record.embedding is None:
        return
    from qvl_attn.encoders.embedding_charts import draw_patch_tsne, draw_patches  # loads matplotlib

    if "pca" in record.settings.embeddings:
        yield "embeddings/pca_layers.png", partial(draw_components, record, figures)
        for i, layer in enumerate(record.embedding.layers.tolist()):
            name = "before" if layer < 0 else f"layer_{layer:02d}"
            yield f"embeddings/pca/{name}.png", partial(draw_layer, record, i, figures)
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


def draw_components(record: EncoderRecord, figures: Figures) -> Picture:
    """Draw a sheet: the picture, and for each layer its first three components as the colours of the patches."""
    assert record.embedding is not None
    lines = [
        _title(record, "embeddings by layer"),
        "the first three principal components of each layer's patches, as red, green and blue",
        f"each from its {CLIPPED_PERCENT}st to its {100 - CLIPPED_PERCENT}th percentile in its layer; "
        "colours of different layers cannot be compared",
    ]
    layers = record.embedding.layers.tolist()
    texts = [
        CellText(describe_layer_output(layer), [_explained(explained)])
        for layer, explained in zip(layers, record.embedding.explained, strict=True)
    ]
    return _component_sheet(record, range(len(layers)), texts, lines, figures)


def draw_layer(record: EncoderRecord, index: int, figures: Figures) -> Picture:
    """Draw one layer's first three components as the colours of the patches, large, beside the picture.

    Args:
        record: a result with an embedding.
        index: index of the layer in `record.embedding.layers`.
        figures: the pictures of the result; they give the size and the steps.
    """
    assert record.embedding is not None
    layer = describe_layer_output(int(record.embedding.layers[index]))
    lines = [
        _title(record, f"embeddings {layer}"),
        f"the first three principal components of the patches {layer}, as red, green and blue",
    ]
    texts = [CellText(layer, [_explained(record.embedding.explained[index])])]
    side = min(LARGE_PX, figures.drawing.draw_size_px or LARGE_PX)
    largest_px = (side * len(figures.steps), side)
    return _component_sheet(record, [index], texts, lines, figures, largest_px)


def _component_sheet(
    record: EncoderRecord,
    indices: Sequence[int],
    texts: Sequence[CellText],
    lines: Sequence[str],
    figures: Figures,
    largest_px: Size | None = None,
) -> Picture:
    """Draw a sheet of what the encoder sees and the components of some layers."""
    texts = [CellText("what the encoder sees"), *texts]
    plan = plan_sheet(texts, _aspects(figures), figures.drawing, largest_px=largest_px)
    size_px = plan.picture_px[0]
    seen = [figures.maps.picture(0, step, size_px) for step in figures.steps]
    rows = (_component_pictures(record, index, figures.steps, size_px) for index in indices)
    return draw_sheet(plan, chain([seen], rows), title_lines=[*lines, *_steps_line(figures)])


def draw_similarity(record: EncoderRecord, index: int, figures: Figures) -> Picture:
    """Draw a sheet: for each layer the cosine similarity of all patches of a step to a query patch, on one scale.

    Args:
        record: a result with similarities.
        index: index of the query patch.
        figures: the pictures of the result; they give size, colours, interpolation and steps.
    """
    assert record.similarity is not None
    assert record.similarity_layers is not None
    values, drawing, steps = record.similarity[:, index], figures.drawing, figures.steps
    scale = Scale(min(float(values.min()), 1 - 1e-3), 1.0)
    texts = [
        CellText(
            describe_layer_output(layer),
            [f"{compact(float(maps.min()))} to {compact(float(maps.max()))} · mean {compact(float(maps.mean()))}"],
        )
        for layer, maps in zip(record.similarity_layers.tolist(), values, strict=True)
    ]
    plan = plan_sheet(texts, _aspects(figures), drawing)
    size_px = plan.picture_px[0]
    pictures = [figures.maps.picture(0, step, size_px) for step in steps]
    place = int(record.attention.query_patches[index])

    def blended(picture: Picture, cells: FloatArray) -> Picture:
        drawn = overlay.blend(picture, overlay.upsample(cells, size_px, drawing), scale, drawing)
        return mark_patch(drawn, place, record.attention.grid[1:])

    rows = ([blended(picture, maps[step]) for picture, step in zip(pictures, steps, strict=True)] for maps in values)
    x, y = record.settings.at[index]
    lines = [
        _title(record, "similarity to a patch"),
        f"cosine similarity of the patch at {x:g},{y:g} (outlined) to all patches, by layer, all on one scale",
    ]
    key = draw_key(f"{compact(scale.low)} to {compact(scale.high)}", drawing)
    return draw_sheet(plan, rows, title_lines=[*lines, *_steps_line(figures)], key=key)


def _title(record: EncoderRecord, what: str) -> str:
    return f"{plain(record.media[0].source.rpartition('/')[2])} · {what} · {record.provenance.family}"


def _explained(shares: NDArray[np.float32]) -> str:
    return " + ".join(percent(share) for share in shares.tolist()) + " of variance"


def _steps_line(figures: Figures) -> list[str]:
    return describe_steps(figures.maps, figures.steps, whole=True)


def _aspects(figures: Figures) -> list[float]:
    """Return width over height of what the encoder sees, for each step that is drawn."""
    width, height = figures.maps.size_px(0)
    return [width / height] * len(figures.steps)


def _component_pictures(record: EncoderRecord, index: int, steps: Sequence[int], size_px: Size) -> list[Picture]:
    """Return a layer's components as colours, for some steps; the colour range is that of all steps."""
    assert record.embedding is not None
    colors = component_colors(record.embedding.components[index]).reshape(*record.attention.grid, 3)
    return [
        np.stack([overlay.cell_boxes(colors[step, ..., channel], size_px) for channel in range(3)], axis=-1)
        for step in steps
    ]
