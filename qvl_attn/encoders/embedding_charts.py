"""Charts of embeddings: patches and pictures as dots, and how far apart classes lie. (H, W, 3) uint8 RGB."""

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

from qvl_attn.core.text import percent, plain
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.captions import Named, describe_layer_output
from qvl_attn.encoders.embedding import FolderEmbedding
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering
from qvl_attn.render.charts import ACCENT, DPI, GREY, INK, LINE, MARGIN_PX, PAGE, TEXT, pixels_of, titled
from qvl_attn.render.lettering import line_height_px

SHOWN_LAYERS = 6
MOST_CLASSES = 20
OTHERS = "\0"  # no class is called so
LEGEND_PX, DOT_PX = 16, 13
Dots = NDArray[np.float64]


class ClassKey(NamedTuple):
    """How a class is shown."""

    color: tuple[float, float, float]
    words: str


def patch_colors(record: EncoderRecord) -> Dots:
    """The mean colour of what the encoder sees in each patch: (P, 3) from 0 to 1, in the picture's order."""
    t, h, w = record.attention.grid
    side = record.attention.patch_px
    squares = record.reconstruction.reshape(t, h, side, w, side, 3)
    return np.asarray(squares.mean(axis=(2, 4)).reshape(-1, 3) / 255)


def draw_patches(record: EncoderRecord) -> Picture:
    """The patches after a few layers on their first two components, each in the mean colour of its piece of picture."""
    assert record.embedding is not None
    embedding, colors = record.embedding, patch_colors(record)
    figure, panels = _panels(shown := _spread(len(embedding.layers), 3))
    for axes, i in zip(panels, shown, strict=True):
        _components(axes, int(embedding.layers[i]), embedding.explained[i])
        _dots(axes, embedding.components[i, :, :2], colors)
    title = f"{_source(record)} · patches on their first two principal components, in the mean colour of what they show"
    return _drawn(figure, title)


def draw_patch_tsne(record: EncoderRecord) -> Picture:
    """t-SNE of the last layer's patches, each in the mean colour of its piece of picture."""
    assert record.embedding is not None
    assert record.embedding.tsne is not None
    assert record.embedding.tsne_patches is not None
    figure, (axes,) = _panels([0], 7.5)
    _bare(axes)
    _dots(axes, record.embedding.tsne, patch_colors(record)[record.embedding.tsne_patches])
    shown, every = len(record.embedding.tsne), record.embedding.components.shape[1]
    some = f" · {shown} of {every} patches, evenly chosen" if shown < every else ""
    layer = describe_layer_output(int(record.embedding.layers[-1]))
    title = f"{_source(record)} · t-SNE of the patches {layer}, seed {record.settings.seed}"
    return _drawn(figure, f"{title}{some}")


def folder_images(embedding: FolderEmbedding, title: str, embeddings: Sequence[str]) -> Named:
    """Names of what is drawn of a folder's embeddings, and what draws them.

    Args:
        embedding: of its pictures.
        title: what was looked at, by what.
        embeddings: `pca`, `tsne` or both.
    """
    if "pca" in embeddings:
        yield "embeddings/scatter.png", partial(draw_folder, embedding, title)
    if embedding.tsne is not None:
        yield "embeddings/tsne.png", partial(draw_folder_tsne, embedding, title)
    if embedding.separation is not None:
        yield "embeddings/separation.png", partial(draw_separation, embedding, title)


def draw_folder(embedding: FolderEmbedding, title: str) -> Picture:
    """The pictures after a few layers on their first two components, each in the colour of its class."""
    figure, panels = _panels(shown := _spread(len(embedding.layers), SHOWN_LAYERS))
    for axes, i in zip(panels, shown, strict=True):
        _components(axes, int(embedding.layers[i]), embedding.explained[i])
        _by_class(axes, embedding.components[i], embedding.classes, embedding)
    return _drawn(
        figure, f"{title} · {len(embedding.names):,} pictures on the first two principal components", embedding
    )


def draw_folder_tsne(embedding: FolderEmbedding, title: str) -> Picture:
    """t-SNE of the pictures' vectors after the last layer, each in the colour of its class."""
    assert embedding.tsne is not None
    assert embedding.tsne_pictures is not None
    figure, (axes,) = _panels([0], 7.5)
    _bare(axes)
    _by_class(axes, embedding.tsne, [embedding.classes[i] for i in embedding.tsne_pictures.tolist()], embedding)
    shown = of_words(len(embedding.tsne), len(embedding.names))
    return _drawn(figure, f"{title} · t-SNE of {shown} {describe_layer_output(int(embedding.layers[-1]))}", embedding)


def of_words(count: int, every: int) -> str:
    """How many pictures of how many were taken."""
    return f"{count:,} pictures" if count == every else f"{count:,} of {every:,} pictures, evenly chosen,"


def draw_separation(embedding: FolderEmbedding, title: str) -> Picture:
    """How far apart the classes lie, by layer: silhouette, and nearest neighbours of the own class, with chance."""
    assert embedding.separation is not None
    apart, layers = embedding.separation, embedding.layers
    figure, (left, right) = _panels([0, 1], 6.2, 4.6)
    _by_layer(left, layers.tolist(), "silhouette")
    left.plot(layers, apart.silhouette, color=LINE, linewidth=2, marker="o", markersize=4)
    left.axhline(0, color=INK, linewidth=1.3, linestyle=":", label="0: as near to another class as to their own")
    least = float(np.nanmin([0.0, *apart.silhouette.tolist()]))
    left.set_ylim(min(-0.1, least - 0.05), 1)
    _by_layer(right, layers.tolist(), "nearest other picture is of the same class")
    right.fill_between(
        layers, apart.shuffled[:, 1], apart.shuffled[:, 2], color=GREY, alpha=0.2, linewidth=0,
        label="labels shuffled, the middle 95 %",
    )  # fmt: skip
    right.plot(layers, apart.shuffled[:, 0], color=GREY, linewidth=1.2, label="labels shuffled, mean")
    right.axhline(apart.largest_class, color=INK, linewidth=1.3, linestyle=":", label="share of the largest class")
    right.plot(layers, apart.neighbour, color=ACCENT, linewidth=2, marker="o", markersize=4, label="share of pictures")
    right.set_ylim(0, 1.03)
    for axes in (left, right):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2, frameon=False, fontsize=9)
    classes = len({embedding.classes[i] for i in apart.pictures.tolist()})
    compared = of_words(len(apart.pictures), apart.named).removesuffix(",")
    return _drawn(figure, f"{title} · {classes} classes, {compared}, cosine distance of their vectors")


def _source(record: EncoderRecord) -> str:
    return f"{plain(record.media.source.rpartition('/')[2])} · {record.provenance.family}"


def _spread(count: int, most: int) -> list[int]:
    """At most so many numbers below a count, evenly apart, first and last among them."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most)).tolist()})


def _panels(shown: Sequence[int], width: float = 5.2, height: float | None = None) -> tuple[Figure, list[Axes]]:
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(width * columns, (height or width) * rows), dpi=DPI, facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in panels[len(shown) :]:
        empty.set_axis_off()
    return figure, panels[: len(shown)]


def _bare(axes: Axes) -> None:
    """Without ticks: only what lies near what means something."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#c9ccd2")


def _components(axes: Axes, layer: int, explained: FloatArray) -> None:
    _bare(axes)
    axes.set_title(describe_layer_output(layer), loc="left", fontsize=11, color=INK)
    axes.set_xlabel(f"component 1: {percent(float(explained[0]))} of the variance", color=GREY)
    axes.set_ylabel(f"component 2: {percent(float(explained[1]))}", color=GREY)


def _dots(axes: Axes, places: FloatArray, colors: Dots) -> None:
    area = float(np.clip(16000 / len(places), 9, 60))
    edge = 0.05 * area**0.5
    axes.scatter(places[:, 0], places[:, 1], s=area, c=colors, edgecolors="#5c616b", linewidths=edge)


def _by_layer(axes: Axes, layers: list[int], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("after layer (-1: before the first)", color=GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)


def _by_class(axes: Axes, places: FloatArray, classes: Sequence[str], embedding: FolderEmbedding) -> None:
    keys = _class_keys(embedding)
    named = [name if name in keys else OTHERS for name in classes]
    colors = np.array([keys[name].color for name in named])
    order = np.random.default_rng(0).permutation(len(named))  # so that no class lies above all others
    _dots(axes, places[order], colors[order])


def _class_keys(embedding: FolderEmbedding) -> dict[str, ClassKey]:
    """Of each class its colour and its words: the largest have one each, pictures without one and others are grey."""
    sizes = Counter(name for name in embedding.classes if name)
    largest = sorted(name for name, _ in sizes.most_common(MOST_CLASSES))
    table = colormaps["tab10" if len(largest) <= 10 else "tab20"]
    keys = {name: ClassKey(to_rgb(table(i)), f"{plain(name)} ({sizes[name]})") for i, name in enumerate(largest)}
    if "" in embedding.classes:
        keys[""] = ClassKey(to_rgb("#c9ccd2"), f"no class ({embedding.classes.count('')})")
    if len(sizes) > len(largest):
        keys[OTHERS] = ClassKey(to_rgb(GREY), f"{len(sizes) - len(largest)} smaller classes")
    return keys


def _drawn(figure: Figure, title: str, embedding: FolderEmbedding | None = None) -> Picture:
    """The chart with its title, and a legend of classes where there are any; words in letters that have all scripts."""
    canvas = FigureCanvasAgg(figure)
    figure.tight_layout(pad=1.6)
    chart = titled(pixels_of(canvas), title)
    return chart if embedding is None or not any(embedding.classes) else _with_legend(chart, _class_keys(embedding))


def _dot(key: ClassKey) -> Image.Image:
    large = Image.new("RGB", (8 * DOT_PX, 8 * DOT_PX), PAGE)
    ImageDraw.Draw(large).ellipse((0, 0, 8 * DOT_PX - 1, 8 * DOT_PX - 1), to_hex(key.color))
    return large.resize((DOT_PX, DOT_PX), Image.Resampling.BOX)


def _with_legend(chart: Picture, keys: Mapping[str, ClassKey]) -> Picture:
    inner = chart.shape[1] - 2 * MARGIN_PX
    words = {name: lettering.wrap(text, inner - 24, LEGEND_PX, max_lines=1)[0] for name, (_, text) in keys.items()}
    step, x, y = line_height_px(LEGEND_PX), 0.0, 0
    places = {}
    for name, text in words.items():
        width = 20 + lettering.measure(text, LEGEND_PX) + 22
        if x and x + width > inner:
            x, y = 0.0, y + step
        places[name] = (MARGIN_PX + x, chart.shape[0] + y)
        x += width
    page = Image.new("RGB", (chart.shape[1], chart.shape[0] + y + step + MARGIN_PX), PAGE)
    page.paste(Image.fromarray(chart), (0, 0))
    for name, (left, top) in places.items():
        page.paste(_dot(keys[name]), (round(left), round(top) + 5))
        lettering.draw_lines(page, (left + 20, top), [words[name]], LEGEND_PX, TEXT)
    return np.asarray(page)
