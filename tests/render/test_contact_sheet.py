import numpy as np
import pytest

from qvl_attn.render.contact_sheet import CellText, draw_key, draw_sheet, plan_sheet
from qvl_attn.render.style import Drawing


def noise(size_px, seed):
    width, height = size_px
    return np.random.default_rng(seed).integers(0, 250, (height, width, 3)).astype(np.uint8)


def place_of(page, picture):
    """Return the (y, x) of a picture that is on a page once."""
    height, width = picture.shape[:2]
    corners = np.argwhere((page == picture[0, 0]).all(axis=-1)).tolist()
    ((y, x),) = [(y, x) for y, x in corners if np.array_equal(page[y : y + height, x : x + width], picture)]
    return y, x


@pytest.mark.parametrize("aspects", [[1.5], [0.2], [1.5, 1.0, 1.5]])
def test_a_sheet_shows_the_pictures_of_its_cells_in_order(aspects):
    plan = plan_sheet([CellText(f"cell {i}", ["12 %"]) for i in range(7)], aspects, Drawing())
    rows = [[noise(size_px, (i, j)) for j, size_px in enumerate(plan.picture_px)] for i in range(7)]
    page = draw_sheet(plan, iter(rows), title_lines=["title", "a line"])
    places = [[place_of(page, picture) for picture in row] for row in rows]
    assert places == sorted(places)
    assert all(len({y for y, _ in row}) == 1 for row in places)
    for (width, height), aspect in zip(plan.picture_px, aspects, strict=True):
        assert width / height == pytest.approx(aspect, abs=2 / height)
    assert page.shape[1] <= 2400


def test_the_size_of_drawings_and_the_largest_size_bound_the_pictures():
    texts = [CellText("a"), CellText("b")]
    assert plan_sheet(texts, [2.0], Drawing(draw_size_px=100)).picture_px == [(100, 50)]
    assert plan_sheet(texts, [2.0], Drawing(draw_size_px=0)).picture_px == [(560, 280)]
    assert plan_sheet(texts, [2.0], Drawing(), largest_px=(640, 640)).picture_px == [(640, 320)]


def test_a_key_takes_its_own_height_and_numbers_theirs():
    texts = [CellText("a"), CellText("b")]
    plain, numbered = (plan_sheet(cells, [1.0], Drawing()) for cells in (texts, [CellText("a", ["1", "2"]), texts[1]]))
    rows = [[noise(plain.picture_px[0], i)] for i in range(2)]
    key = draw_key("0 to 1", Drawing())
    without, with_key, with_numbers = (
        draw_sheet(plan, rows, title_lines=["title"], key=shown)
        for plan, shown in ((plain, None), (plain, key), (numbered, None))
    )
    assert (
        len(with_key) - len(without)
        == key.height
        == place_of(with_key, rows[0][0])[0] - place_of(without, rows[0][0])[0]
    )
    assert len(with_numbers) > len(without)
    place_of(with_key, np.asarray(key))


def test_a_sheet_wants_the_pictures_of_all_its_cells():
    plan = plan_sheet([CellText("a"), CellText("b")], [1.0], Drawing())
    with pytest.raises(ValueError, match="shorter"):
        draw_sheet(plan, [[noise(plan.picture_px[0], 0)]], title_lines=[])
