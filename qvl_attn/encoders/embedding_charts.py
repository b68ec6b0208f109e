"""Charts of embeddings: scatter plots of patches and pictures, separation of classes. (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qvl_attn.core.text import percent, plain, pluralize
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.captions import describe_layer_output
from qvl_attn.encoders.embedding import FolderEmbedding
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, paper
from qvl_attn.render.charts import ACCENT, DPI, GREY, INK, LINE, MARGIN_PX, pixels_of, titled
from qvl_attn.render.lettering import line_height_px
from qvl_attn.results.figures import NamedPictures

SHOWN_LAYERS = 6
MOST_CLASSES = 20
OTHERS = "\0"  # cannot be the name of a class
LEGEND_PX, DOT_PX = 16, 13
Colors = NDArray[np.float64]


class ClassKey(NamedTuple):
    """The colour and the label of a class in the legend."""

    color: tuple[float, float, float]
    label: str


def patch_colors(record: EncoderRecord) -> Colors:
    """Return the mean colour of each patch: (P, 3) from 0 to 1, in the picture's order."""
    t, h, w = record.attention.grid
    side = record.attention.patch_px
    squares = record.reconstruction.reshape(t, h, side, w, side, 3)
    return np.asarray(squares.mean(axis=(2, 4)).reshape(-1, 3) / 255)


def draw_patches(record: EncoderRecord) -> Picture:
    """Draw the patches after a few layers on their first two components, each in its mean colour."""
    assert record.embedding is not None
    embedding, colors = record.embedding, patch_colors(record)
    figure, panels = _panels(indices := _evenly_spaced(len(embedding.layers), 3))
    for axes, i in zip(panels, indices, strict=True):
        _label_components(axes, int(embedding.layers[i]), embedding.explained[i])
        _draw_dots(axes, embedding.components[i, :, :2], colors)
    title = f"{_source(record)} · patches on their first two principal components, each in its mean colour"
    return _render(figure, title)


def draw_patch_tsne(record: EncoderRecord) -> Picture:
    """Draw t-SNE of the last layer's patches, each in its mean colour."""
    assert record.embedding is not None
    assert record.embedding.tsne is not None
    assert record.embedding.tsne_patches is not None
    figure, (axes,) = _panels([0], 7.5)
    _hide_ticks(axes)
    _draw_dots(axes, record.embedding.tsne, patch_colors(record)[record.embedding.tsne_patches])
    count, total = len(record.embedding.tsne), record.embedding.components.shape[1]
    subset = f" · {count} of {total} patches, evenly spaced" if count < total else ""
    layer = describe_layer_output(int(record.embedding.layers[-1]))
    title = f"{_source(record)} · t-SNE of the patches {layer}, seed {record.settings.seed}"
    return _render(figure, f"{title}{subset}")


def folder_images(embedding: FolderEmbedding, title: str, embeddings: Sequence[str]) -> NamedPictures:
    """Yield the names of the charts of a folder's embeddings, each with the function that draws it.

    Args:
        embedding: the embeddings of its pictures.
        title: names the model and the pictures.
        embeddings: `pca`, `tsne` or both.
    """
    if "pca" in embeddings:
        yield "embeddings/scatter.png", partial(draw_folder, embedding, title)
    if embedding.tsne is not None:
        yield "embeddings/tsne.png", partial(draw_folder_tsne, embedding, title)
    if embedding.separation is not None:
        yield "embeddings/separation.png", partial(draw_separation, embedding, title)


def draw_folder(embedding: FolderEmbedding, title: str) -> Picture:
    """Draw the pictures after a few layers on their first two components, each in the colour of its class."""
    figure, panels = _panels(indices := _evenly_spaced(len(embedding.layers), SHOWN_LAYERS))
    for axes, i in zip(panels, indices, strict=True):
        _label_components(axes, int(embedding.layers[i]), embedding.explained[i])
        _draw_by_class(axes, embedding.components[i], embedding.classes, embedding)
    return _render(
        figure,
        f"{title} · {pluralize(len(embedding.names), 'picture')} on the first two principal components",
        embedding,
    )


def draw_folder_tsne(embedding: FolderEmbedding, title: str) -> Picture:
    """Draw t-SNE of the pictures' vectors after the last layer, each in the colour of its class."""
    assert embedding.tsne is not None
    assert embedding.tsne_pictures is not None
    figure, (axes,) = _panels([0], 7.5)
    _hide_ticks(axes)
    _draw_by_class(axes, embedding.tsne, [embedding.classes[i] for i in embedding.tsne_pictures.tolist()], embedding)
    pictures = describe_subset(len(embedding.tsne), len(embedding.names))
    return _render(
        figure, f"{title} · t-SNE of {pictures} {describe_layer_output(int(embedding.layers[-1]))}", embedding
    )


def describe_subset(count: int, total: int) -> str:
    """Return how many of how many pictures are drawn or compared."""
    return pluralize(count, "picture") if count == total else f"{count:,} of {total:,} pictures, evenly spaced,"


def draw_separation(embedding: FolderEmbedding, title: str) -> Picture:
    """Draw the separation of classes by layer: silhouette, and nearest neighbours of the same class with chance."""
    assert embedding.separation is not None
    separation, layers = embedding.separation, embedding.layers
    figure, (left, right) = _panels([0, 1], 6.2, 4.6)
    _label_by_layer(left, layers.tolist(), "silhouette")
    left.plot(layers, separation.silhouette, color=LINE, linewidth=2, marker="o", markersize=4)
    left.axhline(0, color=INK, linewidth=1.3, linestyle=":", label="0: as near to another class as to their own")
    lowest = float(np.nanmin([0.0, *separation.silhouette.tolist()]))
    left.set_ylim(min(-0.1, lowest - 0.05), 1)
    _label_by_layer(right, layers.tolist(), "nearest other picture is of the same class")
    right.fill_between(
        layers, separation.shuffled[:, 1], separation.shuffled[:, 2], color=GREY, alpha=0.2, linewidth=0,
        label="labels shuffled, the middle 95 %",
    )  # fmt: skip
    right.plot(layers, separation.shuffled[:, 0], color=GREY, linewidth=1.2, label="labels shuffled, mean")
    right.axhline(separation.largest_class, color=INK, linewidth=1.3, linestyle=":", label="share of the largest class")
    right.plot(
        layers, separation.neighbour, color=ACCENT, linewidth=2, marker="o", markersize=4, label="share of pictures"
    )
    right.set_ylim(0, 1.03)
    for axes in (left, right):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2, frameon=False, fontsize=9)
    classes = len({embedding.classes[i] for i in separation.pictures.tolist()})
    pictures = describe_subset(len(separation.pictures), separation.named).removesuffix(",")
    return _render(figure, f"{title} · {classes} classes, {pictures}, cosine distance of their vectors")


def _source(record: EncoderRecord) -> str:
    return f"{plain(record.media[0].source.rpartition('/')[2])} · {record.provenance.family}"


def _evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `count`, including the first and the last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most)).tolist()})


def _panels(indices: Sequence[int], width: float = 5.2, height: float | None = None) -> tuple[Figure, list[Axes]]:
    columns = min(len(indices), 3)
    rows = -(-len(indices) // columns)
    figure = Figure(figsize=(width * columns, (height or width) * rows), dpi=DPI, facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in panels[len(indices) :]:
        empty.set_axis_off()
    return figure, panels[: len(indices)]


def _hide_ticks(axes: Axes) -> None:
    """Remove the ticks: only relative positions have a meaning."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#c9ccd2")


def _label_components(axes: Axes, layer: int, explained: FloatArray) -> None:
    _hide_ticks(axes)
    axes.set_title(describe_layer_output(layer), loc="left", fontsize=11, color=INK)
    axes.set_xlabel(f"component 1: {percent(float(explained[0]))} of the variance", color=GREY)
    axes.set_ylabel(f"component 2: {percent(float(explained[1]))}", color=GREY)


def _draw_dots(axes: Axes, positions: FloatArray, colors: Colors) -> None:
    area = float(np.clip(16000 / len(positions), 9, 60))
    edge = 0.05 * area**0.5
    axes.scatter(positions[:, 0], positions[:, 1], s=area, c=colors, edgecolors="#5c616b", linewidths=edge)


def _label_by_layer(axes: Axes, layers: list[int], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("after layer (-1: before the first)", color=GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)


def _draw_by_class(axes: Axes, positions: FloatArray, classes: Sequence[str], embedding: FolderEmbedding) -> None:
    keys = _class_keys(embedding)
    colors = np.array([keys[name if name in keys else OTHERS].color for name in classes])
    order = np.random.default_rng(0).permutation(len(colors))  # so that no class covers all others
    _draw_dots(axes, positions[order], colors[order])


def _class_keys(embedding: FolderEmbedding) -> dict[str, ClassKey]:
    """Return the colours and labels of the largest classes; smaller classes and pictures without a class are grey."""
    sizes = Counter(name for name in embedding.classes if name)
    largest = sorted(name for name, _ in sizes.most_common(MOST_CLASSES))
    table = colormaps["tab10" if len(largest) <= 10 else "tab20"]
    keys = {name: ClassKey(to_rgb(table(i)), f"{plain(name)} ({sizes[name]})") for i, name in enumerate(largest)}
    if "" in embedding.classes:
        keys[""] = ClassKey(to_rgb("#c9ccd2"), f"no class ({embedding.classes.count('')})")
    if len(sizes) > len(largest):
        keys[OTHERS] = ClassKey(to_rgb(GREY), f"{len(sizes) - len(largest)} smaller classes")
    return keys


def _render(figure: Figure, title: str, embedding: FolderEmbedding | None = None) -> Picture:
    """Render a chart with its title and, if there are classes, a legend in a font that has all scripts."""
    canvas = FigureCanvasAgg(figure)
    figure.tight_layout(pad=1.6)
    chart = titled(pixels_of(canvas), title)
    return chart if embedding is None or not any(embedding.classes) else _with_legend(chart, _class_keys(embedding))


def _legend_dot(key: ClassKey) -> Image.Image:
    large = Image.new("RGB", (8 * DOT_PX, 8 * DOT_PX), paper.PAGE)
    ImageDraw.Draw(large).ellipse((0, 0, 8 * DOT_PX - 1, 8 * DOT_PX - 1), to_hex(key.color))
    return large.resize((DOT_PX, DOT_PX), Image.Resampling.BOX)


def _with_legend(chart: Picture, keys: Mapping[str, ClassKey]) -> Picture:
    inner = chart.shape[1] - 2 * MARGIN_PX
    labels = {name: lettering.wrap(text, inner - 24, LEGEND_PX, max_lines=1)[0] for name, (_, text) in keys.items()}
    step, x, y = line_height_px(LEGEND_PX), 0.0, 0
    places = {}
    for name, text in labels.items():
        width = 20 + lettering.measure(text, LEGEND_PX) + 22
        if x and x + width > inner:
            x, y = 0.0, y + step
        places[name] = (MARGIN_PX + x, chart.shape[0] + y)
        x += width
    page = Image.new("RGB", (chart.shape[1], chart.shape[0] + y + step + MARGIN_PX), paper.PAGE)
    page.paste(Image.fromarray(chart), (0, 0))
    for name, (left, top) in places.items():
        page.paste(_legend_dot(keys[name]), (round(left), round(top) + 5))
        lettering.draw_lines(page, (left + 20, top), [labels[name]], LEGEND_PX, paper.INK)
    return np.asarray(page)
