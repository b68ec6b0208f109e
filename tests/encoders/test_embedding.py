"""Principal components, t-SNE and separation of classes, against NumPy and scikit-learn; and their pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib import colormaps
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Scale
from qvl_attn.encoders import embedding as embedding_module
from qvl_attn.encoders import embedding_charts, embedding_figures
from qvl_attn.encoders.embedding import (
    LEAST_POINTS,
    check_available,
    embed_folder,
    embed_patches,
    even_subset,
    project_pca,
    project_tsne,
    separation_of,
)
from qvl_attn.encoders.embedding_charts import folder_images, patch_colors
from qvl_attn.encoders.embedding_figures import component_colors, embedding_images
from qvl_attn.encoders.figures import draw_encoder_result
from qvl_attn.encoders.input_figures import mark_patch
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.render import overlay
from qvl_attn.render.contact_sheet import draw_sheet
from qvl_attn.render.style import Drawing
from tests.helpers import tiny_encoders

BOTH = ("pca", "tsne")


def points_of(n, dimensions, seed=0):
    """Points that vary differently in every direction, far from the origin."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, dimensions)) * np.linspace(3, 0.2, dimensions) @ rng.normal(size=(dimensions,) * 2)
    return (mixed + 20 * rng.normal(size=dimensions)).astype(np.float32)


@pytest.mark.parametrize(("n", "dimensions"), [(200, 24), (24, 24), (10, 40), (4, 6), (50, 3)])
def test_principal_components_are_those_of_the_svd(n, dimensions):
    points = points_of(n, dimensions)
    centred = points.astype(np.float64) - points.astype(np.float64).mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    largest_loadings = axes[np.arange(3), np.abs(axes[:3]).argmax(axis=1)]
    expected = centred @ (axes[:3] * np.sign(largest_loadings)[:, None]).T
    result = project_pca(points)
    np.testing.assert_allclose(result.components, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(result.explained, (sizes**2 / (sizes**2).sum())[:3], atol=1e-6)
    assert (result.components.dtype, result.explained.dtype) == (np.float32, np.float32)
    assert project_pca(points, 2).components.shape == (n, 2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points_have_as_many_components_as_their_rank(n):
    points = points_of(n, 8)
    result = project_pca(points)
    assert result.components.shape == (n, 3)
    assert (np.abs(result.components).max(axis=0) > 0).tolist() == [i < n - 1 for i in range(3)]
    np.testing.assert_allclose(result.explained.sum(), 1 if n > 1 else 0, atol=1e-6)
    distance = np.linalg.norm(result.components[0] - result.components[-1])
    np.testing.assert_allclose(distance, np.linalg.norm(points[0] - points[-1]), rtol=1e-5)


def test_points_in_a_plane_have_no_third_component():
    rng = np.random.default_rng(0)
    flat = (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 12)) + 5).astype(np.float64)
    result = project_pca(flat)
    assert not result.components[:, 2].any()
    assert result.explained[2] == 0


@pytest.mark.parametrize("value", [0.0, 1e-20, 0.1, 1000.1])
def test_equal_points_are_at_the_origin(value):
    points = np.full((9, 5), value, dtype=np.float32)
    assert not project_pca(points).components.any()
    assert not project_pca(points).explained.any()
    assert not project_tsne(points, 0).any()
    noisy = points * (1 + 1e-7 * np.random.default_rng(0).normal(size=points.shape)).astype(np.float32)
    assert not project_pca(noisy).components.any()


def clusters(dimensions=12, each=20):
    rng = np.random.default_rng(1)
    middles = 8 * rng.normal(size=(3, dimensions))
    points = np.concatenate([middle + rng.normal(size=(each, dimensions)) for middle in middles]).astype(np.float32)
    return points, np.repeat(np.arange(3), each)


@pytest.mark.parametrize("dimensions", [12, 80])
def test_tsne_keeps_neighbours_together(dimensions):
    points, labels = clusters(dimensions)
    result = project_tsne(points, 3)
    assert result.shape == (60, 2)
    assert result.dtype == np.float32
    assert silhouette_score(result, labels) > 0.6
    np.testing.assert_array_equal(result, project_tsne(points, 3))


def test_tsne_follows_its_seed():
    points = np.random.default_rng(0).normal(size=(120, 40)).astype(np.float32)
    once = project_tsne(points, 3)
    np.testing.assert_array_equal(once, project_tsne(points, 3))
    assert not np.array_equal(once, project_tsne(points, 4))


def test_tsne_of_few_points():
    for n in (LEAST_POINTS, LEAST_POINTS + 1):
        assert np.isfinite(project_tsne(points_of(n, 8), 0)).all()
    with pytest.raises(InputError, match=r"`embeddings='tsne'`: 3 patches; t-SNE needs 5 or more"):
        embed_patches([project_pca(points_of(3, 8))], points_of(3, 8), 0)
    with pytest.raises(InputError, match=r"`embeddings='tsne'`: 4 pictures; t-SNE needs 5 or more"):
        embed_folder([*"abcd"], [*"xxyy"], points_of(4, 8)[None], 0)
    assert embed_folder([*"abcd"], [*"xxyy"], points_of(4, 8)[None]).tsne is None


def test_tsne_of_very_many_patches_is_of_an_even_subset(monkeypatch):
    points = points_of(5003, 4)
    inputs = []
    monkeypatch.setattr(embedding_module, "project_tsne", lambda points, seed: inputs.append(points) or points[:, :2])
    result = embed_patches([project_pca(points)], points, 0)
    assert len(result.tsne_patches) == 5000
    np.testing.assert_array_equal(inputs[0], points[result.tsne_patches])
    np.testing.assert_array_equal(even_subset(10, 4), [0, 2, 5, 7])
    np.testing.assert_array_equal(even_subset(3, 4), [0, 1, 2])
    for count in (5001, 9999, 20011):
        subset = even_subset(count)
        assert len({*subset.tolist()}) == 5000
        assert np.diff(subset).min() >= count // 5000
        assert np.diff(subset).max() <= count // 5000 + 1


def test_installed_scikit_learn_is_found():
    check_available()


def mixed_classes():
    points, labels = clusters()
    points = points + 6 * np.random.default_rng(2).normal(size=points.shape).astype(np.float32)
    return points, np.array(["b", "a", "c"])[labels]


def test_separation_is_that_of_scikit_learn():
    points, labels = mixed_classes()
    keep = np.r_[0:20, 20:45, 45:52]  # classes of different sizes
    points, labels = points[keep], labels[keep]
    result = separation_of(labels.tolist(), np.stack([points, clusters()[0][keep]]))
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    for i, layer in enumerate((points, clusters()[0][keep])):
        assert result.silhouette[i] == pytest.approx(silhouette_score(layer, labels, metric="cosine"), abs=1e-6)
        expected = cross_val_score(nearest, layer, labels, cv=LeaveOneOut()).mean()
        assert result.neighbour[i] == pytest.approx(expected, abs=1e-9)
    assert result.neighbour[0] < result.neighbour[1] == 1
    assert result.largest_class == pytest.approx(20 / 52)
    assert len(result.pictures) == result.named == 52
    sizes = np.array([20, 20, 12])
    chance = (sizes * (sizes - 1)).sum() / (52 * 51)
    np.testing.assert_allclose(result.shuffled[:, 0], chance, atol=0.02)
    assert (result.shuffled[:, 1] < result.shuffled[:, 0]).all()
    assert (result.shuffled[:, 0] < result.shuffled[:, 2]).all()


def test_random_classes_are_not_separated():
    rng = np.random.default_rng(4)
    points = rng.normal(size=(1, 200, 16)).astype(np.float32)
    result = separation_of([str(n) for n in rng.integers(0, 4, 200)], points)
    assert abs(result.silhouette[0]) < 0.03
    assert result.shuffled[0, 1] - 0.05 < result.neighbour[0] < result.shuffled[0, 2] + 0.05


def test_chance_for_few_pictures_excludes_the_picture_itself():
    labels = ["a", "a", "b", "b", "b"]
    result = separation_of(labels, points_of(5, 4)[None])
    expected = (2 * 1 + 3 * 2) / (5 * 4)  # the probability that two different pictures are of one class
    assert result.shuffled[0, 0] == pytest.approx(expected, abs=0.05)


def test_separation_leaves_out_pictures_without_a_class():
    points, labels = mixed_classes()
    whole = separation_of(labels.tolist(), points[None])
    all_points = np.concatenate([points[:7] + 0.01, points])
    result = separation_of(["", *[""] * 6, *labels], all_points[None])
    assert (result.silhouette, result.neighbour) == (whole.silhouette, whole.neighbour)
    assert result.pictures.tolist() == [*range(7, 67)]


def test_separation_without_classes_or_with_equal_points():
    points, labels = mixed_classes()
    assert separation_of(["a"] * 60, points[None]) is None
    assert separation_of([""] * 60, points[None]) is None
    assert separation_of([str(i) for i in range(60)], points[None]) is None
    lengths = np.linspace(1, 2, 60, dtype=np.float32)[:, None]
    for equal in (np.ones_like(points), lengths * np.ones_like(points)):
        result = separation_of(labels.tolist(), np.stack([equal, points]))
        assert np.isnan(result.silhouette).tolist() == [True, False]
        assert np.isnan(result.neighbour).tolist() == [True, False]


def test_the_embedding_of_a_folder():
    points, labels = mixed_classes()
    rolled = np.roll(points, 10, axis=0)  # half of each class has the points of another
    layers = np.stack([rolled, points])
    result = embed_folder([f"{i}.png" for i in range(60)], labels.tolist(), layers, seed=1)
    np.testing.assert_array_equal(result.components[1], project_pca(points, 2).components)
    np.testing.assert_array_equal(result.explained[0], project_pca(rolled, 2).explained)
    np.testing.assert_array_equal(result.tsne, project_tsne(points, 1))
    assert result.layers.tolist() == [-1, 0]
    assert result.separation.neighbour[0] < result.separation.neighbour[1]


def test_of_very_many_pictures_an_even_subset_is_compared(monkeypatch, dots):
    monkeypatch.setattr(embedding_module, "MOST_POINTS", 20)
    points, labels = mixed_classes()
    points = np.concatenate([points[:7], points])
    classes = [*[""] * 7, *labels.tolist()]
    result = embed_folder([f"{i}.png" for i in range(67)], classes, points[None], seed=1)
    projected, compared = result.tsne_pictures, result.separation.pictures
    assert projected.tolist() == [i * 67 // 20 for i in range(20)]
    assert compared.tolist() == [7 + 3 * i for i in range(20)]
    assert result.separation.named == 60
    np.testing.assert_array_equal(result.tsne, project_tsne(points[projected], 1))
    alone = separation_of([classes[i] for i in compared], points[compared][None])
    assert (alone.silhouette, alone.neighbour) == (result.separation.silhouette, result.separation.neighbour)
    assert result.components.shape == (1, 67, 2)
    titles = []
    monkeypatch.setattr(embedding_charts, "_render", lambda figure, title, embedding=None: titles.append(title))
    for _, draw in folder_images(result, "many", BOTH):
        draw()
    assert "67 pictures on" in titles[0]
    assert "t-SNE of 20 of 67 pictures, evenly spaced" in titles[1]
    assert "3 classes, 20 of 60 pictures, evenly spaced, cosine" in titles[2]
    keys = embedding_charts._class_keys(result)
    (positions, colors) = dots[-1]
    expected = [
        [*position, *keys[classes[i]].color]
        for position, i in zip(result.tsne.tolist(), projected.tolist(), strict=True)
    ]
    np.testing.assert_allclose(sorted(np.hstack([positions, colors]).tolist()), sorted(expected), atol=1e-6)


def test_one_picture_is_a_folder_too():
    result = embed_folder(["a"], [""], points_of(1, 4)[None])
    assert (result.tsne, result.separation) == (None, None)
    assert [name for name, draw in folder_images(result, "one", ("pca",)) if draw().ndim == 3] == [
        "embeddings/scatter.png"
    ]


# The pictures.


@cache
def encoded(name="registers", at=((60.0, 40.0),)):
    settings = EncoderSettings(at=at, embeddings=("pca", "tsne"), max_pixels=70 * 70)
    return tiny_encoders.encoder(name).encode(tiny_encoders.picture(98, 60), settings)


def figures_of(result, drawing=None):
    return draw_encoder_result(result, drawing or Drawing())


def images_of(result, drawing=None):
    return embedding_images(result, figures_of(result, drawing))


def test_components_become_colours():
    rng = np.random.default_rng(0)
    components = rng.normal(size=(400, 3)).astype(np.float32) * (1, 10, 1e-4)
    colors = component_colors(components).astype(int)
    for channel in range(3):
        values, levels = components[:, channel], colors[:, channel]
        order = np.argsort(values)
        assert (np.diff(levels[order]) >= 0).all()
        low, high = np.percentile(values, (1, 99))
        np.testing.assert_allclose(levels, np.clip(255 * (values - low) / (high - low), 0, 255), atol=0.51)
    assert (component_colors(np.zeros((5, 3), dtype=np.float32)) == 128).all()


def test_regions_that_differ_have_different_colours_at_their_places():
    result = encoded()
    _, h, w = result.attention.grid
    embeddings = np.zeros((h, w, 6), dtype=np.float32)
    embeddings[:2, : w // 2] = (9, 0, 0, 1, 0, 0)
    embeddings[2:, w // 2 :] = (0, 5, 0, 0, 2, 1)
    projection = project_pca(embeddings.reshape(-1, 6))
    components = np.repeat(projection.components[None], 4, axis=0)
    changed = replace(result, embedding=replace(result.embedding, components=components))
    (picture,) = embedding_figures._component_pictures(changed, 0, [0], (w * 10, h * 10))
    first, second, rest = picture[5, 5], picture[-5, -5], picture[5, -5]
    assert len({tuple(color.tolist()) for color in (first, second, rest)}) == 3
    assert (picture[:20, : w // 2 * 10] == first).all()
    assert (picture[20:, w // 2 * 10 :] == second).all()
    assert (picture[20:, : w // 2 * 10] == rest).all()
    assert (picture[:20, w // 2 * 10 :] == rest).all()


def test_patches_have_their_mean_colours():
    pixels = np.zeros((56, 84, 3), dtype=np.uint8)
    pixels[:28, 28:56] = (250, 10, 10)
    pixels[28:, 56:] = (0, 100, 200)
    settings = EncoderSettings(embeddings=("pca",))
    result = tiny_encoders.encoder(tiny_encoders.QWEN).encode(tiny_encoders.picture_of(pixels), settings)
    assert result.attention.grid == (1, 4, 6)
    colors = patch_colors(result).reshape(4, 6, 3) * 255
    np.testing.assert_allclose(colors[:2, 2:4], np.broadcast_to((250, 10, 10), (2, 2, 3)), atol=2)
    np.testing.assert_allclose(colors[2:, 4:], np.broadcast_to((0, 100, 200), (2, 2, 3)), atol=2)
    assert colors[:2, :2].max() < 2


def find_panel(page, picture):
    """Return the (y, x) of a picture in a page."""
    height, width = picture.shape[:2]
    for y, x in np.argwhere((page[:, :, :] == picture[0, 0]).all(axis=-1)).tolist():
        if y + height <= len(page) and x + width <= page.shape[1]:
            part = page[y : y + height, x : x + width]
            if (part == picture).all():
                return y, x
    return None


@pytest.mark.parametrize("index", [0, 1])
def test_similarity_is_drawn_on_one_scale_with_the_patch_outlined(index, monkeypatch):
    plans = []
    monkeypatch.setattr(
        embedding_figures,
        "draw_sheet",
        lambda plan, *args, **kwargs: plans.append(plan) or draw_sheet(plan, *args, **kwargs),
    )
    result = encoded(at=((60.0, 40.0), (20.0, 10.0)))
    _, h, w = result.attention.grid
    drawing = Drawing(alpha=1.0, interp="cells")
    drawn = embedding_figures.draw_similarity(result, index, figures_of(result, drawing))
    values = result.similarity[:, index]
    (size_px,) = plans[0].picture_px
    scale = Scale(float(values.min()), 1.0)
    places = []
    for maps in values:
        colors = overlay.colorize(overlay.cell_boxes(maps[0], size_px), scale, "inferno")
        places.append(find_panel(drawn, mark_patch(colors, int(result.attention.query_patches[index]), (h, w))))
    assert None not in places
    assert len({*places}) == len(values)


def test_equal_similarities_can_be_drawn():
    result = encoded()
    equal = replace(result, similarity=np.ones_like(result.similarity))
    assert embedding_figures.draw_similarity(equal, 0, figures_of(equal)).dtype == np.uint8


def test_the_pictures_of_a_result():
    result = encoded(at=((60.0, 40.0), (20.0, 10.0)))
    images = dict(images_of(result))
    layers = [f"embeddings/pca/{name}.png" for name in ("before", "layer_00", "layer_01", "layer_02")]
    assert [*images] == [
        *("at_1/similarity.png", "at_2/similarity.png", "embeddings/pca_layers.png"),
        *(*layers, "embeddings/scatter.png", "embeddings/tsne.png"),
    ]
    for name, draw in images.items():
        drawn = draw()
        assert drawn.dtype == np.uint8, name
        assert drawn.shape[2:] == (3,)
        assert (drawn[:8] == 255).all(), "a margin"
    tsne_only = replace(
        result, similarity=None, similarity_layers=None, settings=replace(result.settings, embeddings=("tsne",))
    )
    assert [*dict(images_of(tsne_only))] == ["embeddings/tsne.png"]
    assert not [*images_of(replace(result, similarity=None, similarity_layers=None, embedding=None))]
    assert "embeddings/tsne.png" not in dict(
        images_of(replace(result, embedding=replace(result.embedding, tsne=None, tsne_patches=None)))
    )


@pytest.mark.parametrize("media", [tiny_encoders.clip(84, 56, 8), tiny_encoders.clip(84, 56, 1)])
def test_a_clip_is_drawn_a_few_steps_side_by_side(media):
    settings = EncoderSettings(at=((60.0, 40.0),), embeddings=("pca", "tsne"))
    result = tiny_encoders.encoder(tiny_encoders.QWEN).encode(media, settings)
    figures = figures_of(result)
    assert figures.steps == ((0, 1, 2, 3) if len(media.frames) == 8 else (0,))
    for name, draw in embedding_images(result, figures):
        assert draw().ndim == 3, name


@pytest.mark.parametrize("size", [(28, 28), (56, 28), (28, 560), (560, 28)])
def test_small_and_long_pictures_are_drawn(size):
    result = tiny_encoders.encoder(tiny_encoders.QWEN).encode(
        tiny_encoders.picture(*size), EncoderSettings(at=((3, 3),), embeddings=("pca",))
    )
    for _, draw in images_of(result, Drawing(draw_size_px=64)):
        draw()
    for name, draw in images_of(result):
        height, width = draw().shape[:2]
        assert max(height, width) < 3000, name


def folder_of(classes):
    n = len(classes)
    points = points_of(n, 8)
    pooled = np.stack([np.ones_like(points), points, points[::-1]])
    return embed_folder([f"{i}.png" for i in range(n)], classes, pooled, seed=0)


def test_a_folder_is_drawn_with_a_legend_of_its_classes():
    embedding = folder_of([*["cats"] * 6, *["狗 $x_1$ <b>"] * 5, *[""] * 3])
    images = {name: draw() for name, draw in folder_images(embedding, "a folder", BOTH)}
    assert [*images] == [f"embeddings/{name}.png" for name in ("scatter", "tsne", "separation")]
    first, second = (np.rint(255 * np.array(colormaps["tab10"](i)[:3])) for i in range(2))
    for name in ("embeddings/scatter.png", "embeddings/tsne.png"):
        legend = images[name][-50:]
        for color in (first, second):
            assert (legend == color).all(axis=-1).sum() > 50, name
    keys = embedding_charts._class_keys(embedding)
    assert [*keys] == ["cats", "狗 $x_1$ <b>", ""]
    assert [key.label.rpartition(" ")[2] for key in keys.values()] == ["(6)", "(5)", "(3)"]


def test_very_many_classes_share_a_grey():
    classes = [f"class {i:02d} with a long name" for i in range(25) for _ in range(1 + (i < 18))]
    keys = embedding_charts._class_keys(folder_of(classes))
    assert len(keys) == 21
    assert keys[embedding_charts.OTHERS].label == "5 smaller classes"
    assert len({key.color for key in keys.values()}) == 21
    for _, draw in folder_images(folder_of(classes), "many", BOTH):
        draw()


def test_a_folder_without_classes_has_no_legend():
    without, named = folder_of([""] * 8), folder_of(["a"] * 8)
    draw = embedding_charts.draw_folder_tsne
    assert len(draw(without, "x")) < len(draw(named, "x"))
    assert "embeddings/separation.png" not in dict(folder_images(without, "x", BOTH))


@pytest.fixture
def dots(monkeypatch):
    """The dots of the charts: one (positions, colours) pair for each."""
    drawn = []
    monkeypatch.setattr(
        embedding_charts, "_draw_dots", lambda axes, positions, colors: drawn.append((positions, colors))
    )
    return drawn


def test_patches_of_a_subset_keep_their_colours(dots):
    result = encoded()
    subset = np.array([1, 4, 7])
    changed = replace(
        result, embedding=replace(result.embedding, tsne=result.embedding.tsne[subset], tsne_patches=subset)
    )
    embedding_charts.draw_patch_tsne(changed)
    ((positions, colors),) = dots
    np.testing.assert_array_equal(positions, result.embedding.tsne[subset])
    np.testing.assert_array_equal(colors, patch_colors(result)[subset])


def test_pictures_of_a_class_have_its_colour(dots):
    embedding = folder_of([*"abcab", "", *"cca"])
    embedding_charts.draw_folder_tsne(embedding, "x")
    embedding_charts.draw_folder(embedding, "x")
    keys = embedding_charts._class_keys(embedding)
    assert len(dots) == 1 + len(embedding.layers)
    for (positions, colors), points in zip(dots, (embedding.tsne, *embedding.components), strict=True):
        expected = sorted([*xy, *keys[name].color] for xy, name in zip(points.tolist(), embedding.classes, strict=True))
        np.testing.assert_allclose(sorted(np.hstack([positions, colors]).tolist()), expected, atol=1e-6)
