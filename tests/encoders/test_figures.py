"""The pictures of an encoder's result, on results whose every number is known."""

from dataclasses import replace

import numpy as np
import pytest
import transformers

from qvl_attn.core.errors import CaptureError
from qvl_attn.encoders import input_figures as input_figures_module
from qvl_attn.encoders import maps as maps_module
from qvl_attn.encoders.captions import (
    crop_and_resize,
    describe_layer,
    describe_query,
    describe_share,
    describe_visible_region,
    format_share,
    visible_picture,
)
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.figures import draw_encoder_result, saliency_heat_map
from qvl_attn.encoders.input_figures import (
    WINDOW_COLOR,
    draw_grid,
    draw_reconstruction,
    grid_patch_px,
    level_difference,
    mark_patch,
    with_patch_lines,
    with_window_lines,
)
from qvl_attn.encoders.inputs import read_inputs, reconstruct
from qvl_attn.encoders.record import EncoderSettings, SaliencyMap
from qvl_attn.encoders.spec import EncoderSpec
from qvl_attn.media.image import load_picture
from qvl_attn.model.token_grid import cell_boxes_px
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import color_table
from qvl_attn.render.style import Drawing
from qvl_attn.results import figures as figures_module
from qvl_attn.results import result as result_module
from qvl_attn.results import store
from tests.conftest import DEMO_PICTURES
from tests.helpers.encoder_records import made_attention, made_clip, made_picture, made_record, random_attention

CYAN = (90, 220, 255)
BOXES = Drawing(alpha=1, interp="cells")


def drawn_part(page):
    """Return the (y0, y1, x0, x1) of the picture on a page of `headline`: the part that is not white."""
    margin = np.flatnonzero((page != 255).any(axis=(0, 2)))[0]
    column = (page[:, margin + 1] != 255).any(axis=-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column, [0]])))
    y0, y1 = max(edges.reshape(-1, 2), key=lambda run: run[1] - run[0])
    row = (page[(y0 + y1) // 2] != 255).any(axis=-1)
    return y0, y1, margin, margin + int(np.argmin(row[margin:]))


def where(picture, color):
    """Return the (x0, y0, x1, y1) of all pixels of a colour."""
    pixels = np.argwhere((picture == color).all(axis=-1))
    (y0, x0), (y1, x1) = pixels.min(axis=0), pixels.max(axis=0) + 1
    return x0, y0, x1, y1


def one_hot(attention, place, share=0.9):
    """Return (L, H, t, T) attention that is uniform except on one patch."""
    shape = attention.received.shape
    values = np.full(shape, (1 - share) / (shape[-1] - 1), np.float32)
    values[..., len(attention.prefix) + place] = share
    return values


@pytest.fixture
def recorded(monkeypatch):
    """The arguments that each picture of a result is drawn from, by name: pictures, panel or panels, texts."""

    def record(result, drawing=None):
        by_name, calls = {}, []

        def keep(pictures, panels, **texts):
            calls.append((pictures, panels, texts))
            return np.zeros((1, 1, 3), np.uint8)

        monkeypatch.setattr(figures_module, "sheet", keep)
        monkeypatch.setattr(figures_module, "headline", keep)
        for name, draw in draw_encoder_result(result, drawing or Drawing()).images():
            if name not in UNMAPPED and not name.startswith("input/"):
                draw()
                by_name[name] = calls.pop()
        assert not calls
        return by_name

    return record


UNMAPPED = ("picture_1.png", "grid.png", "turned_back.png", "figures.png")


def names_of(result):
    return [name for name, _ in draw_encoder_result(result, Drawing()).images()]


def test_names():
    settings = EncoderSettings(at=((35.0, 5.0), (15.0, 15.0)))
    result = made_record(made_attention(query_patches=np.array([3, 7])), settings=settings)
    queries = [
        name
        for query in ("cls", "patch", "at_1", "at_2")
        for name in (
            f"{query}/layers.png",
            f"{query}/layers_shared.png",
            *(f"{query}/layers/layer_0{i}.png" for i in range(3)),
            f"{query}/heads.png",
            f"{query}/heads_shared.png",
        )
    ]
    assert names_of(result) == ["picture_1.png", "overlay.png", *queries, *UNMAPPED[1:], "input/000000.png"]


def test_every_picture_is_rgb_and_none_is_blank():
    result = made_record(made_attention(query_patches=np.array([3])), settings=EncoderSettings(at=((35.0, 5.0),)))
    for name, draw in draw_encoder_result(result, Drawing()).images():
        picture = draw()
        assert (picture.dtype, picture.ndim, picture.shape[-1]) == (np.uint8, 3, 3), name
        assert picture.std() > 1 or name == "input/000000.png", name


def test_the_strongest_patch_is_brightest_at_its_place():
    attention = made_attention(prefix=("cls", "register"))
    values = one_hot(attention, place=2 * 6 + 4)
    values[:-1] = one_hot(attention, place=0)[:-1]  # the overlay is of the last layer
    page = draw_encoder_result(made_record(made_attention(cls=values)), BOXES).overlay()
    y0, y1, x0, x1 = drawn_part(page)
    assert (x1 - x0, y1 - y0) == (640, 427)
    box = where(page[y0:y1, x0:x1], color_table("inferno")[255, 0])
    assert box == pytest.approx((640 * 4 / 6, 427 * 2 / 4, 640 * 5 / 6, 427 * 3 / 4), abs=1)


def test_single_layers_are_drawn_with_their_own_maps():
    attention = made_attention(prefix=())
    values = np.stack([one_hot(attention, place)[place // 5] for place in (0, 9, 13)])
    attention = made_attention(prefix=(), received=values)
    images = dict(draw_encoder_result(made_record(attention), BOXES).images())
    for layer, (row, column) in enumerate(((0, 0), (1, 3), (2, 1))):
        page = images[f"patch/layers/layer_{layer:02d}.png"]()
        y0, y1, x0, x1 = drawn_part(page)
        box = where(page[y0:y1, x0:x1], color_table("inferno")[255, 0])
        assert box[:2] == pytest.approx((640 * column / 6, 427 * row / 4), abs=1)


def test_panels_of_layers_are_the_mean_over_heads_and_the_scale_is_named(recorded):
    attention = made_attention(layers=4, heads=3)
    result = made_record(attention)
    drawn = recorded(result)
    for query, values in (("cls", attention.cls), ("patch", attention.received)):
        expected = values.mean(axis=1)[..., 2:].reshape(4, 4, 6)
        for name in ("layers", "layers_shared"):
            _, panels, _ = drawn[f"{query}/{name}.png"]
            assert [panel.label.split(" · ")[0] for panel in panels] == [f"layer {i}" for i in range(4)]
            np.testing.assert_allclose([panel.cells[0] for panel in panels], expected, rtol=1e-5)
            assert {panel.maps[0].uniform for panel in panels} == {1 / 26}
            assert not any(panel.maps[0].queries for panel in panels)
        own, shared = (drawn[f"{query}/{name}.png"][1] for name in ("layers", "layers_shared"))
        np.testing.assert_allclose(
            [panel.scale.high for panel in own], np.percentile(expected.reshape(4, -1), 99.5, axis=1), rtol=1e-5
        )
        np.testing.assert_allclose([panel.scale.high for panel in shared], np.percentile(expected, 99.5), rtol=1e-5)
        assert "own scale" in drawn[f"{query}/layers.png"][2]["title_lines"][1]
        assert "one scale" in drawn[f"{query}/layers_shared.png"][2]["title_lines"][1]
        share = expected.sum(axis=(1, 2))
        assert [panel.label for panel in own] == [f"layer {i} · {100 * share[i]:.0f} %" for i in range(4)]


def test_panels_of_heads(recorded):
    attention = made_attention(layers=4, heads=3)
    _, panels, texts = recorded(made_record(attention, settings=EncoderSettings(layer=1)))["cls/heads.png"]
    heads = attention.cls[1, :, 0, 2:].reshape(3, 4, 6)
    values = np.stack([panel.cells[0] for panel in panels])
    np.testing.assert_allclose(values, [*heads, heads.mean(axis=0), heads.max(axis=0), heads.min(axis=0)], rtol=1e-5)
    assert [panel.label.split(" · ")[0] for panel in panels] == [
        *("head 0", "head 1", "head 2", "mean", "maximum", "minimum")
    ]
    assert "layer 1 of 0-3" in texts["title_lines"][0]
    np.testing.assert_allclose(
        [panel.scale.high for panel in panels], np.percentile(values.reshape(6, -1), 99.5, axis=1), rtol=1e-5
    )
    assert len({panel.scale for panel in recorded(made_record(attention))["cls/heads_shared.png"][1]}) == 1


@pytest.mark.parametrize("over", ["mean", "max", "min"])
def test_the_overlay_is_the_last_layer_joined_over_its_heads(recorded, over):
    attention = made_attention(heads=3)
    _, panel, texts = recorded(made_record(attention, settings=EncoderSettings(over=over)))["overlay.png"]
    expected = getattr(attention.cls[-1, :, 0, 2:], over)(axis=0).reshape(4, 6)
    np.testing.assert_allclose(panel.cells[0], expected, rtol=1e-5)
    word = {"mean": "mean of", "max": "maximum over", "min": "minimum over"}[over]
    assert texts["question"] == f"[CLS] · layer 2 of 0-2 · {word} 3 heads"


def test_the_overlay_without_cls_is_of_all_patches(recorded):
    _, panel, texts = recorded(made_record(made_attention(prefix=())))["overlay.png"]
    assert texts["question"].startswith("attention received: mean over all patches ·")
    assert panel.maps[0].query == "patch"
    assert texts["answer"] == "all attention is on patches: there are no other tokens"


def test_single_layers_on_a_shared_scale(recorded):
    drawn = recorded(made_record(), Drawing(scale="shared"))
    panels = [drawn[f"cls/layers/layer_{i:02d}.png"][1] for i in range(3)]
    assert len({panel.scale for panel in panels}) == 1
    assert "one scale" in drawn["cls/layers/layer_00.png"][2]["caption_lines"][0]


def test_shares_are_of_the_layer_over_all_heads_and_steps():
    values = random_attention(np.random.default_rng(0), 2, 3, 2, 3 + 24)
    cls = np.array([[0.01, 0.09], [0.02, 0.08], [0.03, 0.07]], np.float32)  # by head and step
    values[1, ..., 0], values[1, ..., 1:3] = cls, 0.2
    values[1, ..., 3:] *= ((0.6 - cls) / values[1, ..., 3:].sum(axis=-1))[..., None]
    attention = made_attention((2, 4, 6), ("cls", "register", "register"), 2, 3, cls=values)
    assert (
        describe_share(attention, "cls", 1, "mean")
        == "attention: 55 % on patches, 5.0 % on [CLS] and 40 % on 2 registers"
    )


def test_only_a_share_of_one_becomes_100_percent():
    assert [format_share(share) for share in (0.5, 0.994, 0.9961, 0.99991, 1.0)] == [
        *("50 %", "99 %", "99.6 %", ">99.9 %", "100 %")
    ]


def test_windows_are_described():
    window = np.repeat([0, 1], 12)
    attention = made_attention(prefix=(), window=window, full=[False, True, False])
    assert describe_layer(attention, 0) == "layer 0 of 0-2 · windows of 84 x 28 px"
    assert describe_layer(attention, 1) == "layer 1 of 0-2 · full"
    assert describe_layer(made_attention(), 1) == "layer 1 of 0-2"


def test_a_patch_is_named_by_its_point():
    attention = made_attention(query_patches=np.array([3, 7]))
    result = made_record(attention, settings=EncoderSettings(at=((35.0, 5.5), (15.0, 15.0))))
    assert [describe_query(result, "at_1"), describe_query(result, "at_2")] == ["patch at 35,5.5", "patch at 15,15"]


# The visible region of the original.


def ramp(width, height):
    """Return a picture whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_crop_is_accurate_to_a_fraction_of_a_pixel(scale):
    box = np.array([40.3, 20.6, 200.9, 140.2])
    width, height = round(160.6 * scale), round(119.6 * scale)
    cropped = crop_and_resize(ramp(256, 200), box, (width, height)).astype(float)
    x = 40.3 + (np.arange(width) + 0.5) * 160.6 / width - 0.5
    y = 20.6 + (np.arange(height) + 0.5) * 119.6 / height - 0.5
    inner = slice(4, -4)
    assert np.abs(cropped[inner, inner, 0] - x[inner]).max() < 0.56
    assert np.abs(cropped[inner, inner, 1] - y[inner, None]).max() < 0.56


def test_beyond_the_picture_is_black():
    cropped = crop_and_resize(np.full((50, 100, 3), 200, np.uint8), np.array([-20.0, -30.0, 120.0, 80.0]), (140, 110))
    assert where(cropped, (200, 200, 200)) == (20, 30, 120, 80)
    assert not cropped[:28].any()
    assert not cropped[82:].any()
    assert not cropped[:, :18].any()
    assert not cropped[:, 122:].any()


def test_a_smaller_copy_of_the_original_shows_the_same_region():
    boxes = cell_boxes_px(4, 6, (120, 80)) + np.array([60, 40, 60, 40], np.float32)
    attention, media = made_attention(boxes_px=boxes), made_picture((240, 160))
    reduced = made_picture((240, 160), media.frames[0][::2, ::2])
    whole, small = (
        visible_picture(made_record(attention, picture), 0, (60, 40)).astype(int) for picture in (media, reduced)
    )
    assert np.abs(whole - small).max() <= 3
    assert whole[0, 0, 0] == pytest.approx(255 * 61 / 240, abs=2)


def test_pictures_are_drawn_on_the_region_that_the_patches_cover(recorded):
    boxes = cell_boxes_px(4, 4, (100, 100)) + np.array([50, 0, 50, 0], np.float32)
    attention = made_attention((1, 4, 4), boxes_px=boxes)
    result = made_record(attention, made_picture((200, 100)))
    pictures, _, texts = recorded(result)["overlay.png"]
    assert pictures[0].shape == (640, 640, 3)
    assert pictures[0][320, [2, -3], 0].tolist() == pytest.approx([64, 191], abs=2)
    part = "the encoder sees the middle 100 x 100 of 200 x 100 px"
    assert part in texts["caption_lines"]
    assert part in draw_encoder_result(result, Drawing()).notes
    assert dict(draw_encoder_result(result, Drawing()).images())["picture_1.png"]().shape == (320, 640, 3)


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ((0, 0, 640, 480), None),
        ((0.4, -0.3, 640.6, 480.2), None),
        ((80, 0, 560, 480), "the encoder sees the middle 480 x 480 of 640 x 480 px"),
        ((0, 0, 630, 476), "the encoder sees 630 x 476 of 640 x 480 px, from 0,0 to 630,476"),
        ((0, -80, 640, 560), "the encoder sees 640 x 640 px, more than the picture's 640 x 480 px: the rest is black"),
    ],
)
def test_the_visible_region_is_described(box, text):
    x0, y0, x1, y1 = box
    boxes = cell_boxes_px(48, 64, (1, 1)) * np.array([x1 - x0, y1 - y0] * 2) + np.array([x0, y0] * 2)
    attention = made_attention((1, 48, 64), layers=1, heads=1, boxes_px=boxes.astype(np.float32))
    assert describe_visible_region(made_record(attention, made_picture((640, 480)))) == text


# Marks, the grid, the reconstruction.


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (3, 5)])
def test_the_outline_goes_around_the_patch(row, column):
    grey = np.full((400, 600, 3), 128, np.uint8)
    marked = mark_patch(grey, row * 6 + column, (4, 6))
    x0, y0, x1, y1 = where(marked, CYAN)
    assert abs(x0 - 100 * column) <= 5
    assert abs(x1 - 100 * (column + 1)) <= 5
    assert abs(y0 - 100 * row) <= 5
    assert abs(y1 - 100 * (row + 1)) <= 5
    edge = 6
    inside = marked[100 * row + edge : 100 * (row + 1) - edge, 100 * column + edge : 100 * (column + 1) - edge]
    assert (inside == 128).all()
    if 0 < row < 3:  # away from the border the outline covers nothing of the patch
        assert (marked[100 * row + 1 : 100 * (row + 1) - 1, 100 * column + 1 : 100 * (column + 1) - 1] == 128).all()


@pytest.mark.parametrize("name", ["at_1/layers/layer_00.png", "at_1/layers.png", "at_1/heads.png"])
def test_the_query_patch_is_marked_only_in_its_own_pictures(name):
    result = made_record(made_attention(query_patches=np.array([9])), settings=EncoderSettings(at=((35.0, 15.0),)))
    images = dict(draw_encoder_result(result, Drawing(alpha=0)).images())
    count = {"at_1/layers/layer_00.png": 1, "at_1/layers.png": 3, "at_1/heads.png": 5}[name]
    marked = (images[name]() == CYAN).all(axis=-1)
    assert marked.any()
    assert not (images[name.replace("at_1", "cls")]() == CYAN).all(axis=-1).any()
    columns = np.flatnonzero(np.diff(np.concatenate([[0], marked.any(axis=0), [0]]))).reshape(-1, 2)
    rows = np.flatnonzero(np.diff(np.concatenate([[0], marked.any(axis=1), [0]]))).reshape(-1, 2)
    assert count <= len(columns) * len(rows) < count + len(columns)


def test_each_place_has_its_own_mark():
    attention = made_attention(query_patches=np.array([0, 3 * 6 + 4]))
    result = made_record(attention, settings=EncoderSettings(at=((5.0, 5.0), (45.0, 35.0))))
    page = dict(draw_encoder_result(result, Drawing(alpha=0)).images())["at_2/layers/layer_00.png"]()
    y0, y1, x0, x1 = drawn_part(page)
    box = where(page[y0:y1, x0:x1], CYAN)
    assert box == pytest.approx((640 * 4 / 6, 427 * 3 / 4, 640 * 5 / 6, 427), abs=5)


def test_patch_lines_are_between_patches_and_leave_them_clear():
    picture = np.full((4 * 20, 6 * 20, 3), 100, np.uint8)
    lines = (with_patch_lines(picture, 20) != 100).any(axis=-1)
    edges = np.arange(1, 6) * 20
    assert np.flatnonzero(lines.all(axis=0)).tolist() == sorted([*(edges - 1), *edges])
    edges = np.arange(1, 4) * 20
    assert np.flatnonzero(lines.all(axis=1)).tolist() == sorted([*(edges - 1), *edges])
    assert not lines[1:19, 1:19].any()


@pytest.mark.parametrize("grid", [(4, 4), (60, 80), (3, 300)])
def test_patches_are_visible_beneath_their_lines(grid):
    side = grid_patch_px(grid, Drawing())
    assert side * max(grid) <= 2400
    picture = np.full((grid[0] * side, grid[1] * side, 3), 100, np.uint8)
    clear = (with_patch_lines(picture, side) == 100).all(axis=-1).mean()
    assert clear > 0.7
    assert side >= 24 or side == 2400 // max(grid)


def test_window_lines_are_where_windows_meet():
    window = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3]])
    drawn = with_window_lines(np.zeros((120, 160, 3), np.uint8), window, 40)
    yellow = (drawn == WINDOW_COLOR).all(axis=-1)
    assert yellow[20, 80]
    assert yellow[60, 80]
    assert not yellow[20, 120]
    assert not yellow[20, 40]
    assert yellow[100, 120]
    assert not yellow[100, 80]
    assert yellow[80, [20, 60, 100, 140]].all()
    assert not yellow[40, [20, 60, 100, 140]].any()


def record_captions(monkeypatch):
    """Record the arguments of `captioned`: the picture, its title and its lines."""
    calls = []
    monkeypatch.setattr(input_figures_module, "captioned", lambda *args: calls.append(args) or args[0])
    return calls


def test_the_grid_shows_the_input_and_counts(monkeypatch):
    calls, rng = record_captions(monkeypatch), np.random.default_rng(0)
    reconstruction = rng.integers(0, 256, (1, 56, 84, 3), dtype=np.uint8)
    window = np.repeat([0, 1], 12)
    attention = made_attention(prefix=(), window=window, full=[False, True, False], query_patches=np.array([9]))
    draw_grid(
        made_record(attention, settings=EncoderSettings(at=((35.0, 15.0),)), reconstruction=reconstruction), Drawing()
    )
    ((picture, title, lines),) = calls
    side = picture.shape[1] // 6
    assert picture.shape == (4 * side, 6 * side, 3)
    np.testing.assert_array_equal(picture[side // 28, side // 28], reconstruction[0, 0, 0])  # the first pixel's middle
    np.testing.assert_array_equal(picture[round(side * 35.5 / 14), round(side * 7.5 / 14)], reconstruction[0, 35, 7])
    assert title == "6 x 4 patches of 14 px, as the processor cut them"
    assert lines[1] == "original 60 x 40 px · input 84 x 56 px · 24 patches"
    assert lines[2:] == ["thick lines: 2 windows, the largest of 84 x 28 px", "outlined: 1: patch at 35,15"]
    x0, y0, _x1, _y1 = where(picture[side : 2 * side + 20, 2 * side : 4 * side + 12], CYAN)
    assert (x0, y0) == pytest.approx((side, 0), abs=8)


@pytest.mark.parametrize("change", ["none", "swap", "one"])
def test_a_wrong_order_is_visible_in_the_reconstruction(monkeypatch, change):
    calls, attention = record_captions(monkeypatch), made_attention()
    media = made_picture((84, 56))
    attention = made_attention(boxes_px=cell_boxes_px(4, 6, (84, 56)))
    pixels = media.frames.copy()
    if change == "swap":
        pixels[0, :, :14], pixels[0, :, 28:42] = media.frames[0, :, 28:42], media.frames[0, :, :14]
    if change == "one":
        pixels[0, 5, 5, 2] += 55
    draw_reconstruction(made_record(attention, media, reconstruction=pixels))
    ((picture, _, lines),) = calls
    difference = np.abs(pixels.astype(int) - media.frames)
    assert f"by {difference.mean():.1f} of 255 levels on average, by {difference.max()} at most" in lines[1]
    assert (change == "none") == (difference.max() == 0)
    half = (picture.shape[1] - 24) // 2
    left, right = picture[:, :half], picture[:, -half:]
    assert np.array_equal(left, right) == (change == "none")


# Clips, saliency, notes.


def test_a_few_steps_of_a_clip_are_drawn_side_by_side(recorded):
    attention, media = made_attention((9, 4, 6), ("cls",)), made_clip((60, 40), 18)
    result = made_record(attention, media)
    drawn = recorded(result)
    assert "picture_1.png" not in names_of(result)
    steps = draw_encoder_result(result, Drawing()).steps
    last = attention.map("cls", 2)
    assert len(steps) == 6
    assert int(last.max(axis=(1, 2)).argmax()) in steps
    pictures, panels, texts = drawn["cls/layers.png"]
    assert [int(picture[5, 5, 0]) for picture in pictures] == [20 * step for step in steps]  # the first of two frames
    np.testing.assert_allclose(list(panels[2].cells), last[list(steps)], rtol=1e-6)
    assert texts["title_lines"][-1].startswith(f"from left to right: step {steps[0] + 1} ({2 * steps[0]:.2f} s)")
    assert "these steps only" in texts["title_lines"][-1]
    assert {panel.maps[0].uniform for panel in panels} == {1 / 25}
    assert [name for name in drawn if name.startswith("cls/layers/")]


def test_the_patch_is_marked_in_every_step_of_a_clip(recorded):
    attention = made_attention((3, 4, 6), query_patches=np.array([9]))
    result = made_record(attention, made_clip((60, 40), 6), settings=EncoderSettings(at=((35.0, 15.0),)))
    assert len(recorded(result)["at_1/heads.png"][1][0].marks) == 3


def test_the_picture_of_a_clip_has_a_mark_in_each_step():
    attention = made_attention((3, 4, 6), query_patches=np.array([9]))
    result = made_record(attention, made_clip((60, 40), 6), settings=EncoderSettings(at=((35.0, 15.0),)))
    page = dict(draw_encoder_result(result, Drawing(alpha=0)).images())["at_1/layers/layer_01.png"]()
    marked = (page == CYAN).all(axis=-1).any(axis=0)
    assert (np.diff(marked.astype(int)) == 1).sum() == 3


def saliency(values, target="a cat", method="gradcam", score=0.273):
    return SaliencyMap(method, target, score, np.asarray(values, np.float32)[None])


def test_saliency_is_in_multiples_of_its_own_mean(recorded):
    values = np.random.default_rng(0).random((4, 6)) ** 4
    settings = EncoderSettings(texts=("a cat",), saliency=True)
    maps = (saliency(values), saliency(values, "狗 dog!", "attention_gradient", 0.9))
    drawn = recorded(made_record(settings=settings, saliency=maps))
    _, panel, texts = drawn["saliency/01_gradcam_a-cat.png"]
    assert (texts["question"], texts["answer"]) == ("a cat", "cosine similarity 0.273")
    assert drawn["saliency/02_attention_gradient_狗-dog.png"][2]["answer"] == "probability 0.900"
    line = scale_line(panel, Drawing())
    assert f"max {values.max():.3g} = {values.max() / values.mean():.1f}× mean" in line
    assert "uniform" not in line + " ".join(texts["caption_lines"])
    assert panel.scale.low == 0
    assert panel.scale.high == pytest.approx(np.percentile(values, 99.5))


def test_zero_saliency_is_not_drawn_but_noted():
    zero = saliency(np.zeros((4, 6)), "a tiger")
    spot = np.zeros((4, 6))
    spot[2, 2] = 1
    result = made_record(saliency=(zero, saliency(spot)))
    assert [name for name in names_of(result) if "saliency" in name] == ["saliency/02_gradcam_a-cat.png"]
    (note,) = draw_encoder_result(result, Drawing()).notes
    assert "“a tiger”" in note
    assert "zero everywhere and not drawn" in note
    assert saliency_heat_map(saliency(spot), Drawing(denoise="median")) is None
    assert "after the filter" in draw_encoder_result(result, Drawing(denoise="median")).notes[1]
    heat = saliency_heat_map(saliency(np.random.default_rng(0).random((4, 6))), Drawing(denoise="median"))
    assert heat.uniform == pytest.approx(heat.values.mean())


def test_notes():
    media = made_picture((1000, 500), np.zeros((50, 100, 3), np.uint8), notes=("transparency: drawn on white",))
    notes = draw_encoder_result(
        made_record(made_attention(boxes_px=cell_boxes_px(4, 6, (1000, 500))), media), Drawing()
    ).notes
    assert notes[0] == "picture 1: transparency: drawn on white"
    assert "stored 100 pixels wide" in notes[1]
    assert len(notes) == 2
    assert draw_encoder_result(made_record(), Drawing()).notes == ()


def test_an_overlay_that_a_filter_makes_empty_is_refused():
    attention = made_attention(prefix=())
    received = np.zeros_like(attention.received)
    received[..., 3] = 1
    result = made_record(made_attention(prefix=(), received=received))
    with pytest.raises(CaptureError, match="leaves nothing of the map"):
        draw_encoder_result(result, Drawing(denoise="median")).overlay()
    assert not [
        name
        for name in (n for n, _ in draw_encoder_result(result, Drawing(denoise="median")).images())
        if "layers" in name
    ]


def test_a_panel_needs_a_mark_for_each_map():
    attention = made_attention((2, 4, 6))
    result = made_record(attention, made_clip((60, 40), 2))
    drawn = draw_encoder_result(result, Drawing())
    (panel, *_) = drawn.panels(drawn.maps.layer_maps("cls"))
    with pytest.raises(ValueError, match=r"zip\(\)"):
        drawn.draw_large(Panel("", panel.maps, (lambda picture: picture,)), drawn.maps.describe(drawn.maps.headline))


@pytest.fixture(scope="module")
def demo_result():
    media = load_picture(DEMO_PICTURES / "tall.png")
    width, height = media.size_px
    return EncoderEngine.load("demo", device="cpu", dtype="float32").encode(
        media, EncoderSettings(at=((width / 3, height / 2),), max_pixels=40000)
    )


def test_the_texts_of_a_trained_encoder_fit(demo_result, monkeypatch):
    cut = []
    wrap = figures_module.sheet.__globals__["lettering"].wrap

    def recording_wrap(text, *args, **kwargs):
        lines = wrap(text, *args, **kwargs)
        cut.extend(line for line in lines if line.endswith("…"))
        return lines

    monkeypatch.setattr(figures_module.sheet.__globals__["lettering"], "wrap", recording_wrap)
    images = draw_encoder_result(demo_result, Drawing()).images()
    pages = {name: draw() for name, draw in images if name != "figures.png"}
    assert not cut
    assert pages["patch/layers.png"].shape[1] <= 2400
    calls = record_captions(monkeypatch)
    draw_reconstruction(demo_result)
    assert float(calls[0][2][1].split(" of 255")[0].split()[-1]) < 2


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 56}},
            "the encoder sees the middle 160 x 160 of 240 x 160 px",
        ),
        ("BitImageProcessor", {"size": {"shortest_edge": 80}}, "the encoder sees the middle 112 x 112 of 240 x 160 px"),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 30}},
            "more than the picture's 240 x 160 px: the rest is black",
        ),
    ],
)
def test_the_visible_picture_is_the_crop_of_the_processor(name, kwargs, text):
    processor = getattr(transformers, name)(**kwargs, crop_size={"height": 56, "width": 56})
    spec = EncoderSpec("clip", "CLIPModel", 1, 1, 14, ("cls",), 56, 1, 0, (True,))
    y, x = np.mgrid[:160, :240]
    waves = 127 + 60 * np.sin(x / 9)[..., None] + 60 * np.cos(y[..., None] / [11.0, 13.0, 17.0])
    media = made_picture((240, 160), waves.astype(np.uint8))
    inputs = read_inputs(spec, processor, media)
    attention = made_attention((1, 4, 4), ("cls",), 1, 1, boxes_px=inputs.boxes_px)
    reconstruction = reconstruct(spec, processor, inputs)
    result = made_record(attention, media, reconstruction=reconstruction)
    assert text in (describe_visible_region(result) or "")
    inside = np.s_[14:42, 14:42]  # at the edge of the black, resizing and padding do not commute
    largest, mean = level_difference(visible_picture(result, 0, (56, 56))[inside], reconstruction[0][inside])
    assert mean < 1
    assert largest <= 4


def test_what_the_encoder_sees_bounds_how_many_pictures_are_drawn_at_once(monkeypatch, tmp_path):
    record = made_record()
    width, height = maps_module.EncoderMaps(record).size_px(0)
    larger = replace(
        record, attention=replace(record.attention, boxes_px=2 * record.attention.boxes_px)
    )  # black around
    threads = []
    monkeypatch.setattr(store, "MAX_PIXELS_AT_ONCE", 8 * width * height)
    monkeypatch.setattr(store.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(result_module, "save_record", lambda *arguments, **_: threads.append(arguments[3]))
    for saved in (record, larger):
        saved.save(tmp_path, Drawing(draw_size_px=0))
    assert threads == [8, 2]
