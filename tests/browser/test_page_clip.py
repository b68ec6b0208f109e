"""The page in a real browser: a clip's frames and steps, the saved view, and results in a notebook."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import over_chance, percentile_scale
from tests.helpers.pages import (
    EVIL,
    assert_evil_free,
    assert_painted,
    assert_shows,
    flatten,
    open_in_browser,
    panel_caption,
    panel_values,
    read_png,
    saved_view,
    set_control,
    stopped_clock,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser
STEP_OF = (0, 0, 1, 1, 2, 2, 3)


def visible_frame(page, panel=0):
    src = page.locator(".picture img").nth(panel).get_attribute("src")
    return read_png(base64.b64decode(src.partition(",")[2])).astype(int)


def on_timeline(page, time_s, end_s=0.7):
    """Return the place of a time of the timeline on the screen."""
    svg = page.locator("#timeline svg")
    svg.scroll_into_view_if_needed()
    box, width = svg.bounding_box(), float(svg.get_attribute("viewBox").split()[2])
    x = 46 + time_s / end_s * (width - 46 - 12)
    return box["x"] + x / width * box["width"], box["y"] + box["height"] / 2


def test_each_frame_shows_its_picture_and_the_map_of_its_step(open_page, results):
    result, page = results("clip"), open_page("clip")
    (heatmap,), media = result.heatmaps(), result.media[0]
    frames = media.frames.astype(int)
    assert len(frames) == len(STEP_OF) == int(page.locator("#frame").get_attribute("max")) + 1
    for frame in (0, 1, 2, 6, 5):
        set_control(page, "frame", frame)
        distance = [np.abs(visible_frame(page) - pixels).mean() for pixels in frames]
        assert np.argmin(distance) == frame
        assert distance[frame] < 2
        assert_painted(page, heatmap.values[STEP_OF[frame]], heatmap.scale.high)
        text = f"{frame / 10:.2f} s · frame {frame + 1} of 7 · step {STEP_OF[frame] + 1} of 4"
        assert (
            page.locator("#frame-value").inner_text() == page.locator("#frame").get_attribute("aria-valuetext") == text
        )
        now = float(page.locator("#timeline .now").get_attribute("x1"))
        width = float(page.locator("#timeline svg").get_attribute("viewBox").split()[2])
        assert now == pytest.approx(46 + frame / 10 / 0.7 * (width - 58), abs=0.1)
    set_control(page, "layer", 0)
    (first_layer,) = result.heatmaps(layers=0, heads="all")
    assert_shows(page, [first_layer], step=STEP_OF[5])


def test_a_cell_of_a_clip_belongs_to_the_visible_step(open_page, results):
    result, page = results("clip"), open_page("clip")
    values = flatten(result.heatmaps())
    for frame in (0, 3, 6):
        set_control(page, "frame", frame)
        box = page.locator(".picture").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 3.5 / 5, box["y"] + box["height"] * 1.5 / 3)
        index = STEP_OF[frame] * 15 + 5 + 3
        text = page.locator("#cell").inner_text()
        assert text.startswith(f"step {STEP_OF[frame] + 1}, row 2, column 4: ")
        assert float(text.split(": ")[1].split()[0]) == pytest.approx(values[index], rel=6e-3)
        assert f"rank {(values > values[index]).sum() + 1} of 60" in text
        assert text.endswith("pixels x 84-112, y 28-56")
    page.mouse.click(box["x"] + box["width"] * 3.5 / 5, box["y"] + box["height"] * 1.5 / 3)
    wait_until_drawn(page)
    assert page.locator(".picture rect.kept").count() == 2
    set_control(page, "frame", 0)
    assert page.locator(".picture rect.kept").count() == 0, "it belongs to another step"


def test_keys_and_play_go_through_the_frames(open_page):
    page = open_page("clip")
    value = "Number(document.getElementById('frame').value)"
    frames = []
    for key in [","] + ["."] * 8 + [","]:
        page.keyboard.press(key)
        wait_until_drawn(page)
        frames.append(page.evaluate(value))
    assert frames == [0, 1, 2, 3, 4, 5, 6, 6, 6, 5]
    with stopped_clock(page) as pass_ms:
        page.locator("#film-play").click()
        assert page.locator("#film-play").inner_text() == "Stop"
        assert page.locator("#film-play").get_attribute("aria-pressed") == "true"
        for frame in (6, 0, 1):
            pass_ms(520)
            assert page.evaluate(value) == frame
        page.locator("#film-play").click()
        pass_ms(5000)
        assert page.evaluate(value) == 1


def test_a_click_on_the_timeline_goes_there(open_page):
    page = open_page("clip")
    for time_s, frame in ((0.35, 3), (0.001, 0), (0.62, 6), (0.41, 4)):
        page.mouse.click(*on_timeline(page, time_s))
        wait_until_drawn(page)
        assert page.locator("#frame").input_value() == str(frame)


def test_the_timeline_shows_the_attention_on_each_step(open_page, results):
    result, page = results("both"), open_page("both")

    def stairs(kind):
        path = page.locator(f"#timeline path.{kind}").get_attribute("d")
        return np.array([float(y) for y in re.findall(r",([\d.]+)H", path)])

    uniform = float(re.findall(r",([\d.]+)", page.locator("#timeline path.chance").get_attribute("d"))[0])
    height = (164 - stairs("main")) / (164 - uniform)
    assert height == pytest.approx(over_chance(result.heatmaps()[0].values), rel=1e-3)
    assert page.locator("#timeline path.other").count() == 0, "it is the headline"
    set_control(page, "layer", 0)
    height = (164 - stairs("main")) / (164 - stairs("other")) * (164 - stairs("other"))
    uniform = float(re.findall(r",([\d.]+)", page.locator("#timeline path.chance").get_attribute("d"))[0])
    assert height / (164 - uniform) == pytest.approx(over_chance(result.heatmaps(layers=0)[0].values), rel=1e-3)
    headline = (164 - stairs("other")) / (164 - uniform)
    assert headline == pytest.approx(over_chance(result.heatmaps()[0].values), rel=1e-3)
    alone = np.array([each.heatmap().vision_mass for each in result.passes])
    dots = page.locator("#timeline circle").evaluate_all("(all) => all.map((dot) => Number(dot.getAttribute('cy')))")
    assert (164 - np.array(dots)) / (164 - uniform) == pytest.approx(alone / alone.mean(), rel=1e-3)
    page.locator("#passes summary").click()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#passes tbody tr").all()]
    assert rows == [[f"{i / 10:.2f} s", each.answer] for i, each in enumerate(result.passes)]


def test_a_scale_for_each_frame(open_page, results):
    result, page = results("clip"), open_page("clip")
    (heatmap,) = result.heatmaps()
    set_control(page, "scale", "frame")
    for frame in (0, 6):
        set_control(page, "frame", frame)
        step = heatmap.values[STEP_OF[frame]]
        assert_painted(page, step, percentile_scale([step]).high)
        assert float(page.locator(".high").inner_text()) == pytest.approx(percentile_scale([step]).high, rel=6e-3)
    assert open_page("one").locator("#scale-frame").is_disabled()


def test_a_clip_beside_a_picture(open_page, results):
    page = open_page("clip", "one")
    with stopped_clock(page) as pass_ms:
        page.locator("#film-play").click()
        page.locator("#compare").click()
        pass_ms(50)
        assert_shows(page, results("one").heatmaps(), panel=1)
        assert page.locator("#film").is_hidden()
        assert page.locator("#scale-frame").is_disabled()
        page.keyboard.press(".")
        pass_ms(1100)
    page.locator(".pick").first.click()
    wait_until_drawn(page)
    assert page.locator("#film").is_visible()
    set_control(page, "scale", "frame")
    set_control(page, "frame", 4)
    page.locator("#film-play").click()
    assert np.allclose(panel_values(page, 0), flatten(results("clip").heatmaps()), rtol=1e-3)


# The view as a picture


def cells_of_view(view, left, wide, aspect, rows, columns, high_levels):
    """Return the colour levels of the cells in a saved view, and the top and height of its map."""
    tall = round(wide / aspect)
    column = (view[:, left + 3 : left + wide - 3 : 40] != 255).any(axis=2).all(axis=1)
    top = next(y for y in range(len(column) - tall + 1) if column[y : y + tall].all())
    found_levels = []
    for row in range(rows):
        for col in range(columns):
            pixel = view[top + int((row + 0.5) * tall / rows), left + int((col + 0.5) * wide / columns)]
            distance = np.abs(high_levels - pixel.astype(int)).sum(axis=1)
            assert distance.min() <= 6
            found_levels.append(int(distance.argmin()))
    return np.array(found_levels), top, tall


def test_the_view_is_saved_as_a_png(open_page, results):
    from qvl_attn.render.overlay import color_table

    result, page = results("one"), open_page("one")
    set_control(page, "alpha", 1)
    set_control(page, "interp", "cells")
    set_control(page, "colormap", "viridis")
    table = color_table("viridis")[:, 0].astype(int)
    view, name = saved_view(page)
    assert name == "qvl-attn-how-many-cats.png"
    assert view.shape[1] == 1280 + 64
    (heatmap,) = result.heatmaps()
    found_levels, top, tall = cells_of_view(view, 32, 1280, 252 / 224, 8, 9, table)
    want = np.rint(255 * np.clip(heatmap.values.ravel() / heatmap.scale.high, 0, 1))
    assert np.abs(found_levels - want).max() <= 3
    assert (view[:32] == 255).all(), "a margin"
    assert (view[32 : top - 12] < 100).any(), "the question is written above"
    assert (view[top + tall + 45 :] < 150).any(), "the captions are written beneath"
    box = page.locator(".picture").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / 9, box["y"] + box["height"] * 4.5 / 8)
    wait_until_drawn(page)
    marked, _ = saved_view(page)
    edge = marked[round(top + 4.5 * tall / 8), round(32 + 2 * 1280 / 9)]
    assert np.abs(edge.astype(int) - (0x5A, 0xDC, 0xFF)).max() < 12, "the selected cell is outlined"


def test_two_panels_are_saved_side_by_side(open_page, results):
    from qvl_attn.render.overlay import color_table

    result, page = results("one"), open_page("one")
    set_control(page, "alpha", 1)
    set_control(page, "interp", "cells")
    page.locator("#compare").click()
    wait_until_drawn(page)
    view, _ = saved_view(page)
    assert view.shape[1] == 2 * (760 + 32) + 32
    for left, maps in ((32, result.heatmaps()), (32 + 760 + 32, result.heatmaps(layers=3, heads="all"))):
        found_levels, *_ = cells_of_view(view, left, 760, 252 / 224, 8, 9, color_table("inferno")[:, 0].astype(int))
        want = np.rint(255 * np.clip(maps[0].values.ravel() / maps[0].scale.high, 0, 1))
        assert np.abs(found_levels - want).max() <= 3


def test_opacity_is_that_of_the_saved_view(open_page, results):
    page = open_page("clip")
    set_control(page, "alpha", 0)
    set_control(page, "frame", 3)
    view, name = saved_view(page)
    assert name == "qvl-attn-what-moves.png"
    tall = round(1280 * 84 / 140)
    frame = results("clip").media[0].frames[3].astype(int)
    top = next(y for y in range(32, 300) if (view[y : y + tall, 36] != 255).any(axis=1).all())
    for x, y in ((0.1, 0.3), (0.9, 0.6), (0.5, 0.5)):
        pixel = view[top + int(y * tall), 32 + int(x * 1280)].astype(int)
        height, width, _ = frame.shape
        assert np.abs(pixel - frame[int(y * height), int(x * width)]).max() < 12


# In a notebook


@pytest.fixture
def notebook(chromium, tmp_path):
    from contextlib import ExitStack

    with ExitStack() as stack:

        def show(html):
            (tmp_path / "notebook.html").write_text(
                f"<!doctype html><meta charset=utf-8><title>secret</title><body>{html}", encoding="utf-8"
            )
            return stack.enter_context(open_in_browser(chromium, tmp_path / "notebook.html", state=""))

        yield show


def test_in_a_notebook_the_page_works_and_is_isolated(notebook, results):
    result = results("one")
    page = notebook(result._repr_html_())
    frame = next(frame for frame in page.frames if frame.parent_frame)
    frame.wait_for_selector("html[data-state=fine]", state="attached")
    assert_shows(frame, result.heatmaps())
    frame.locator("#answer .word").first.click()
    wait_until_drawn(frame)
    assert f"“{result.answer}”" in panel_caption(frame)
    assert frame.evaluate("self.origin") == "null"
    for reach in ("parent.document.title", "localStorage.length", "document.cookie", "top.document.body"):
        error = frame.evaluate(
            f"(() => {{ try {{ return String({reach}); }} catch (error) {{ return error.name; }} }})()"
        )
        assert error == "SecurityError", reach
    with page.expect_download() as download:
        frame.locator("#save").click()
    assert download.value.suggested_filename == "qvl-attn-how-many-cats.png"
    assert read_png(download.value.path().read_bytes()).shape[1] == 1344
    box, picture = page.locator("iframe").bounding_box(), page.locator("div").first.bounding_box()
    assert (box["width"], box["height"]) == (picture["width"], picture["height"])
    assert box["height"] >= 860


def test_where_frames_are_stripped_the_picture_is_visible(notebook, results):
    page = notebook(re.sub(r"<iframe.*</iframe>", "", results("one")._repr_html_(), flags=re.S))
    picture = page.locator("img")
    assert picture.is_visible()
    assert picture.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 300
    assert picture.bounding_box()["height"] > 300


def test_an_evil_question_does_nothing_in_a_notebook(notebook, results):
    page = notebook(replace(results("empty"), question=f'"></iframe>{EVIL}')._repr_html_())
    frame = next(frame for frame in page.frames if frame.parent_frame)
    frame.wait_for_selector("html[data-state=fine]", state="attached")
    for where in (page, frame):
        assert_evil_free(where)
    assert len(page.frames) == 2
