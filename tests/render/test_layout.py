from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qvl_attn.attribution import heatmap
from qvl_attn.core import text as numbers
from qvl_attn.core.types import HeatMap, Scale
from qvl_attn.render import lettering, overlay
from qvl_attn.render.layout import Panel, headline, scale_line, sheet
from qvl_attn.render.paper import ACCENT
from qvl_attn.render.style import Drawing

rng = np.random.default_rng(3)
GREY_PICTURE = np.full((300, 400, 3), 128, np.uint8)


def heat_map(values, media_index=0, scale=None, uniform=0.001, vision_mass=0.23):
    values = np.asarray(values, np.float32)[None]
    scale = scale or heatmap.percentile_scale(values)
    return HeatMap(values, media_index, (18,), "all", "question", (5,), uniform, vision_mass, scale)


def random_panel(h=6, w=8, label="layer 18", **settings):
    return Panel(label, (heat_map(rng.random((h, w)) * 0.01, **settings),))


def draw(pictures, panel, question="What is this?", answer="A cat.", captions=("layer 18 of 36",), **settings):
    return headline(
        pictures, panel, question=question, answer=answer, caption_lines=captions, drawing=Drawing(**settings)
    )


def find(page, patch):
    """Every (row, column) where a patch stands on a page."""
    height, width = patch.shape[:2]
    corners = np.argwhere((page[: 1 - height or None, : 1 - width or None] == patch[0, 0]).all(axis=-1))
    return [(y, x) for y, x in corners if np.array_equal(page[y : y + height, x : x + width], patch)]


def test_the_map_stands_on_the_page_as_render_makes_it():
    picture = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    panel, drawing = random_panel(), Drawing()
    values = overlay.upsample(panel.cells[0], (640, 480), drawing)
    assert len(find(draw([picture], panel), overlay.blend(picture, values, panel.scale, drawing))) == 1


def test_a_painted_cell_is_brightest_at_its_box():
    values = np.full((6, 8), 0.001)
    values[4, 1] = 0.02
    panel = Panel("", (heat_map(values, scale=Scale(0, 0.02)),))
    picture = np.full((480, 640, 3), 128, np.uint8)
    picture[0, 0] = (0, 255, 0)  # a corner to find it by
    page = draw([picture], panel, interp="cells").astype(int)
    blended = overlay.blend(
        picture, overlay.upsample(panel.cells[0], (640, 480), Drawing(interp="cells")), panel.scale, Drawing()
    )
    ((top, left),) = find(page, blended)
    region = page[top : top + 480, left : left + 640].sum(axis=-1)
    bright = np.argwhere(region == region.max())
    assert bright.min(axis=0).tolist() == [320, 80]
    assert bright.max(axis=0).tolist() == [399, 159]


def test_only_the_strongest_cells_are_coloured():
    values = np.arange(48).reshape(6, 8) / 1000
    page = draw([np.full((480, 640, 3), (10, 200, 30), np.uint8)], Panel("", (heat_map(values),)), top_percent=10)
    assert (page == (10, 200, 30)).all(axis=-1).sum() == (48 - 5) * 80 * 80


def test_pictures_drawn_at_the_same_time_are_those_drawn_one_after_another():
    panels = [random_panel(label=f"layer {i}") for i in range(12)]
    sequential = [draw([GREY_PICTURE], panel, answer=panel.label) for panel in panels]
    with ThreadPoolExecutor(6) as pool:
        parallel = list(pool.map(lambda panel: draw([GREY_PICTURE], panel, answer=panel.label), panels))
    assert all(map(np.array_equal, sequential, parallel))


@pytest.mark.parametrize(("width", "height"), [(400, 300), (60, 600), (600, 60), (1, 1), (3000, 2000)])
@pytest.mark.parametrize("grid", [(1, 1), (7, 5)])
def test_any_shape_of_picture_gives_a_legible_page(width, height, grid):
    picture = np.full((height, width, 3), 90, np.uint8)
    page = draw([picture], random_panel(*grid), question="What is written on the label of the bottle? " * 2)
    assert page.dtype == np.uint8
    assert page.shape[1] >= 750
    assert (page[:30] == 255).all()
    assert (page[-30:] == 255).all()
    assert (page[:, :30] == 255).all()
    assert (page[:, -30:] == 255).all()
    contact_sheet = sheet([picture], [random_panel(*grid)] * 5, title_lines=["What is it?"], drawing=Drawing())
    assert 700 <= contact_sheet.shape[1] <= 2400


@pytest.mark.parametrize(("longest", "expected"), [(640, 640), (300, 300), (0, 400)])
def test_the_draw_size_bounds_the_map_and_not_the_margins(longest, expected):
    picture = np.full((300, 400, 3), (0, 0, 255), np.uint8)
    page = draw([picture], random_panel(), alpha=0, draw_size_px=longest)
    blue = np.argwhere((page == (0, 0, 255)).all(axis=-1))
    height, width = blue.max(axis=0) - blue.min(axis=0) + 1
    assert (width, height) == (expected, expected * 3 // 4)


def test_two_pictures_stand_side_by_side_at_equal_height():
    red = np.full((300, 400, 3), (255, 0, 0), np.uint8)
    blue = np.full((900, 450, 3), (0, 0, 255), np.uint8)
    scale = Scale(0, 1)
    both = Panel("", (heat_map(np.ones((6, 8)), 0, scale), heat_map(np.ones((18, 9)), 1, scale)))
    page = draw([red, blue], both, alpha=0)
    left, right = (np.argwhere((page == color).all(axis=-1)) for color in ((255, 0, 0), (0, 0, 255)))
    assert left.min(axis=0)[0] == right.min(axis=0)[0]
    assert left.max(axis=0)[0] == right.max(axis=0)[0]
    assert left.max(axis=0)[1] < right.min(axis=0)[1]
    for box, aspect in ((left, 4 / 3), (right, 1 / 2)):
        height, width = box.max(axis=0) - box.min(axis=0) + 1
        assert width / height == pytest.approx(aspect, rel=0.01)


def test_a_map_is_drawn_on_the_picture_that_it_names():
    red, blue = (np.full((300, 400, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    page = draw([red, blue], Panel("", (heat_map(np.ones((6, 8)), 1),)), alpha=0)
    assert (page == (0, 0, 255)).all(axis=-1).sum() == 640 * 480
    assert not (page == (255, 0, 0)).all(axis=-1).any()


def test_the_answer_is_in_the_accent_and_its_absence_is_noted():
    panel = random_panel()

    def accented(answer):
        return (draw([GREY_PICTURE], panel, answer=answer) == ACCENT).all(axis=-1).sum()

    assert accented("A cat.") > 50
    assert accented("A cat sits on the mat.") > accented("A cat.")
    assert accented("") == accented(" \n\u200b") == 0
    assert not np.array_equal(draw([GREY_PICTURE], panel, answer=""), draw([GREY_PICTURE], panel, answer="A cat."))


def test_a_long_question_grows_the_page_up_to_a_limit():
    panel = random_panel()
    heights = [draw([GREY_PICTURE], panel, question="why " * count).shape[0] for count in (1, 40, 2000, 8000)]
    assert heights[0] < heights[1] < heights[2] == heights[3]


@pytest.fixture
def drawn_lines(monkeypatch):
    """Every line that is drawn, before undrawable characters are replaced."""
    lines = []
    draw_line = lettering.draw_line

    def record(image, xy, text, size_px, color):
        lines.append(text)
        draw_line(image, xy, text, size_px, color)

    monkeypatch.setattr(lettering, "draw_line", record)
    return lines


def test_the_colour_bar_says_attention_and_multiples_of_uniform(drawn_lines):
    draw([GREY_PICTURE], random_panel(scale=Scale(0, 0.0123), uniform=0.002))
    for text in ("0.0123", "6.2× uniform", "0.00615", "3.1× uniform", "0", "0× uniform"):
        assert text in drawn_lines


def test_the_scale_line_shows_the_numbers():
    values = [[0.00001, 0.002, 0.003], [0.004, 0.0123, 0.01]]
    panel = Panel("", (heat_map(values, scale=Scale(0, 0.005), uniform=0.001, vision_mass=0.231),))
    assert scale_line(panel, Drawing()) == (
        "min 1.0e-05 · max 0.0123 = 12.3× uniform · 2 of 6 cells above the scale · 23 % of the attention on vision"
    )
    line = scale_line(panel, Drawing(interp="cells", blur_cells=1.5, top_percent=10))
    assert line.endswith(
        "each cell drawn as its box · after a blur (sigma 1.5 in cells) · only the strongest 10 % of the cells coloured"
    )


def test_the_numbers_of_two_maps_are_those_of_both():
    scale = Scale(0, 0.01)
    both = Panel("", (heat_map([[0.001, 0.02]], 0, scale), heat_map([[0.03], [0.0005], [0.004]], 1, scale)))
    assert scale_line(both, Drawing()).startswith("min 0.0005 · max 0.03 = 30.0× uniform · 2 of 5 cells above")


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.0001, "<0.1 %"), (0.034, "3.4 %"), (0.0999, "10 %"), (1, "100 %")]
)
def test_percent(share, text):
    assert numbers.percent(share) == text


def test_every_panel_of_a_sheet_shows_its_numbers(drawn_lines):
    panel = Panel("layer 3", (heat_map([[0.00003, 0.0123]], scale=Scale(0, 0.01), uniform=0.005),))
    sheet([GREY_PICTURE], [panel] * 4, title_lines=["What is it?", "one scale"], drawing=Drawing())
    for text in ("layer 3", "min 3.0e-05 · max 0.0123", "2.5× uniform · 1 clipped · vision 23 %"):
        assert drawn_lines.count(text) == 4
    for text in ("What is it?", "one scale", "0 to 0.01 = 2.0× uniform"):
        assert drawn_lines.count(text) == 1


def test_a_sheet_names_the_filters_after_its_titles(drawn_lines):
    panels = [random_panel()] * 4
    sheet([GREY_PICTURE], panels, title_lines=["title", "a line"], drawing=Drawing())
    assert not any("filter" in line or "blur" in line for line in drawn_lines)
    sheet([GREY_PICTURE], panels, title_lines=["title", "a line"], drawing=Drawing(denoise="median", blur_cells=2))
    place = drawn_lines.index("after the filter median (3x3 cells) · after a blur (sigma 2 in cells)")
    assert drawn_lines[place - 1] == "a line"


def test_panels_are_drawn_each_on_its_own_scale():
    values = np.full((6, 8), 0.005)
    panels = [Panel("", (heat_map(values, scale=Scale(0, high)),)) for high in (0.005, 1)]
    black = np.zeros((300, 400, 3), np.uint8)
    page = sheet([black], panels, title_lines=[], drawing=Drawing(alpha=1), columns=2)
    bright, dark = (overlay.colorize(np.float32([[value]]), Scale(0, 1), "inferno")[0, 0] for value in (1, 0.005))
    assert (page == bright).all(axis=-1).sum() >= 560 * 420
    assert (page == dark).all(axis=-1).sum() >= 560 * 420


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (28, 6), (36, 6)])
def test_a_sheet_has_a_usual_shape(count, columns):
    page = sheet([GREY_PICTURE], [random_panel(label="")] * count, title_lines=[], drawing=Drawing(alpha=0))
    rows = -(-count // columns)
    picture = (page == 128).all(axis=-1)
    assert np.count_nonzero(np.diff(picture.any(axis=0).astype(int)) == 1) == columns
    assert np.count_nonzero(np.diff((picture.sum(axis=1) > 200).astype(int)) == 1) == rows
    assert page.shape[1] <= 2400


@pytest.mark.parametrize(("requested", "columns"), [(1, 1), (3, 3), (500, 10)])
def test_columns_are_as_requested_as_far_as_they_fit(requested, columns):
    page = sheet(
        [GREY_PICTURE], [random_panel(label="")] * 20, title_lines=[], drawing=Drawing(alpha=0), columns=requested
    )
    count = np.count_nonzero(np.diff((page == 128).all(axis=-1).any(axis=0).astype(int)) == 1)
    assert page.shape[1] <= 2400
    assert count == columns if requested < 500 else 6 <= count <= columns


def test_panels_that_cannot_be_drawn_together_are_refused():
    with pytest.raises(ValueError, match="share one scale"):
        Panel("", (heat_map([[1]], scale=Scale(0, 1)), heat_map([[1]], scale=Scale(0, 2))))
    with pytest.raises(ValueError, match="one or more maps"):
        Panel("", ())
    with pytest.raises(ValueError, match="same pictures"):
        sheet([GREY_PICTURE] * 2, [random_panel(), random_panel(media_index=1)], title_lines=[], drawing=Drawing())
    with pytest.raises(ValueError, match="same pictures"):
        sheet([GREY_PICTURE], [], title_lines=[], drawing=Drawing())
