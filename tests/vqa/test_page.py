"""The data in a page: maps compared with their source arrays, inert text, a strict content policy."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from functools import cache
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks.report import MAX_BYTES, large_result

from qvl_attn import __version__
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.media.resize import resize_picture
from qvl_attn.render.html.payload import Payload, coarse, pack_rows
from qvl_attn.results.page_data import results_html
from qvl_attn.vqa import page as maps
from qvl_attn.vqa.page import MAX_TEXT, MAX_WORD, question_page_part
from qvl_attn.vqa.result import Result
from tests.attribution.test_profiles import demo_profile
from tests.helpers.kept import KEPT
from tests.helpers.pages import ANSWER, EVIL, METHODS, Reader, assert_close, unpack
from tests.helpers.small import SMALL_DRAWING

LAYERS = range(4)


@pytest.fixture(scope="module")
def read(results):
    return cache(lambda name: Reader(results_html([results(name)])))


def rows_of(result, role, start, stop):
    """Return the capture's rows for [start, stop) of a text; for the answer, the rows that produced its tokens."""
    capture = result.capture
    positions = {
        token.position
        for token in capture.tokens
        if token.role == role and token.span and token.span[0] < stop and token.span[1] > start
    }
    of = capture.queries if role == "question" else capture.produces
    return [row for row, position in enumerate(of.tolist()) if position in positions]


def words_of(panel, role):
    """Return (text, row, start, stop) of each clickable word."""
    words, start = [], 0
    for text, row in panel["pieces"][role]:
        if row is not None:
            words.append((text, row, start, start + len(text)))
        start += len(text)
    return words


def mean(result, layers, rows):
    index = {layer: i for i, layer in enumerate(result.capture.layers.tolist())}
    return np.mean(
        [result.capture.weights[index[number]][row].astype(np.float64) for number in layers for row in rows], axis=0
    )


def flat(maps):
    return np.concatenate([heat.values.ravel() for heat in maps])


# The format


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-20, 1e-38, 1.0e4])
def test_packed_rows_are_the_values_to_eleven_bits(scale):
    rng = np.random.default_rng(0)
    rows = (rng.lognormal(0, 3, (6, 500)) * scale).astype(np.float32)
    rows[1] = 0
    rows[2, 1:] = 0
    rows[3, 7] = rows[3].max() * 1e5  # a sink
    rows[4, ::2] = rows[4].max() * 1e-9  # the smallest value at full precision
    got = unpack(pack_rows(rows), *rows.shape)
    most = rows.max(axis=1, keepdims=True).astype(np.float64)
    rows = rows.astype(np.float64)
    whole = rows >= most * 2**-29
    assert whole.mean() > 0.7
    error = np.abs(got - rows)
    assert (error <= np.where(whole, rows * 2.0**-11 * 1.001, most * 2.0**-39)).all()
    assert not got[1].any()
    assert (got[np.arange(6), rows.argmax(axis=1)] == most[:, 0]).all(), "the largest value is exact"


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (2, 4, 3, 5), (1, 2, 1, 1), (2, 1, 4, 8), (1, 3, 5, 4)])
def test_coarse_maps_are_means_of_four_by_four_cells_and_fewer_at_the_edges(shape):
    maps = np.random.default_rng(1).random(shape)
    n, t, h, w = shape
    want = [
        [maps[i, s, r : r + 4, c : c + 4].mean() for s in range(t) for r in range(0, h, 4) for c in range(0, w, 4)]
        for i in range(n)
    ]
    assert np.allclose(coarse(maps), want, rtol=1e-12)


# The maps


@pytest.mark.parametrize(
    "name", ["one", "two", "methods", "few", "single", "named heads", "half", "text", "last", "clip"]
)
def test_the_headline_and_the_layers_are_those_of_the_result(results, read, name):
    result, page = results(name), read(name)
    panel = page.data["results"][0]
    headline_query = result.settings.query
    assert_close(page.maps("headline")[0], flat(result.heatmaps(query=headline_query)))
    captured = result.capture.layers.tolist()
    for layer in captured:
        named = (
            ",".join(f"{own_layer}.{head}" for own_layer, head in result.headline_heads() or () if own_layer == layer)
            or "all"
        )
        assert_close(page.maps(layer)[0], flat(result.heatmaps(layers=layer, heads=named, query=headline_query)))
        assert page.source(layer)["heads"] == ("all" if named.count(".") in (0, 4) else named)
    assert [entry["layers"] for entry in panel["maps"][0]["sources"] if entry["id"] == "layer"] == [
        [layer] for layer in captured
    ]
    if name == "single":
        assert "all" not in [entry["id"] for entry in panel["maps"][0]["sources"]], (
            "all layers together are the headline"
        )
    else:
        assert_close(page.maps("all")[0], flat(result.heatmaps(layers=captured, heads="all", query=headline_query)))
    assert page.source("headline")["layers"] == list(result.heatmaps(query=headline_query)[0].layers)
    assert (panel["layer_count"], panel["head_count"]) == (4, 4)


def test_the_arrays_on_disk_are_what_is_in_the_page(results, tmp_path):
    folder = results("two").save(tmp_path, SMALL_DRAWING)
    page = Reader((folder / "report.html").read_text(encoding="utf-8"))
    with np.load(folder / "attention.npz") as arrays:
        weights, roles, produces = (arrays[name] for name in ("weights", "query_role", "produces"))
    query_rows = {"question": roles == "question", "last": roles == "last", "answer": produces >= 0}
    row_data = page.data["results"][0]["rows"]
    for row, kind in enumerate(("question", "last", "answer")):
        assert row_data[row] == {"kind": kind, "text": "", "tokens": int(query_rows[kind].sum())}
        for layer in LAYERS:
            assert_close(page.maps(layer)[row], weights[layer][query_rows[kind]].mean(axis=0, dtype=np.float64))
        assert_close(page.maps("all")[row], weights[:, query_rows[kind]].mean(axis=(0, 1), dtype=np.float64))


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("two", ["how", " many", " cats", "?", "有", "几", "只", "猫"], ["two", "猫", " cats", "!"]),
        ("text", ["how", " many", " cats", " and", " cats", "?"], ["2"]),
        ("clip", ["what", " moves", "?"], ["dog"]),
    ],
)
def test_each_word_has_its_own_maps(results, read, name, question, answer):
    result, page = results(name), read(name)
    panel = page.data["results"][0]
    for role, expected in (("question", question), ("answer", answer)):
        words = words_of(panel, role)
        assert [text for text, *_ in words] == expected
        for text, row, start, stop in words:
            rows = rows_of(result, role, start, stop)
            want = {"kind": f"{role} word", "text": text.strip(), "tokens": len(rows), "is_word": True}
            assert panel["rows"][row] == want
            for which in ("headline", "all", *LAYERS):
                assert_close(page.maps(which)[row], mean(result, page.source(which)["layers"], rows))
    assert name != "two" or panel["rows"][words[0][1]]["tokens"] == 3, "the tokens t, w and o"


def test_the_first_row_is_what_was_asked_for_and_each_stands_once(read):
    kinds = {
        name: [row["kind"] for row in read(name).data["results"][0]["rows"]]
        for name in ("one", "last", "text", "empty")
    }
    assert kinds["one"][:4] == ["question", "last", "answer", "question word"]
    assert kinds["last"][:4] == ["last", "question", "answer", "question word"]
    assert kinds["text"][:5] == ["text", "question", "last", "answer", "question word"]
    assert "answer" not in kinds["empty"]
    assert "answer word" not in kinds["empty"]
    assert read("text").data["results"][0]["rows"][0] == {"kind": "text", "text": "cats", "tokens": 2}


@pytest.mark.parametrize("name", ["one", "two", "text", "empty", "clip", "windows"])
def test_the_pieces_join_to_the_text(results, read, name):
    result, panel = results(name), read(name).data["results"][0]
    for role, expected in (("question", result.question), ("answer", result.mapped_answer)):
        pieces = panel["pieces"][role]
        assert "".join(text for text, _ in pieces) == expected == panel[role]
        numbers = [row for _, row in pieces if row is not None]
        assert numbers == sorted(numbers)
        assert len({*numbers}) == len(numbers)
    assert [i for i, row in enumerate(panel["rows"]) if row["kind"].endswith(" word")] == [
        row for role in ("question", "answer") for _, row, *_ in words_of(panel, role)
    ]


def test_a_supplied_answer_stands_beside_the_models_own(results, read):
    result, panel = results("two"), read("two").data["results"][0]
    assert (panel["answer"], panel["own_answer"]) == (ANSWER, result.answer)
    panel = read("one").data["results"][0]
    assert (panel["answer"], panel["own_answer"]) == (results("one").answer, None)


@pytest.mark.parametrize("name", ["one", "half"])
def test_each_head_has_its_map(results, read, name):
    result, page = results(name), read(name)
    heads = page.data["results"][0]["maps"][0]["heads"]
    assert (heads["layers"], heads["numbers"]) == ([*LAYERS], [*range(4)])
    question_rows = result.capture.query_role == "question"
    every = result.capture.weights_by_head[:, :, question_rows].astype(np.float64).mean(axis=2)
    for layer in LAYERS:
        got = page.block(heads["blocks"][layer])
        for head in range(4):
            expected = every[layer, head]
            assert_close(got[head], expected)
            assert heads["mass"][layer][head] == pytest.approx(expected.sum(), rel=1e-5)
            assert heads["top10"][layer][head] == pytest.approx(
                np.sort(expected)[-10:].sum() / expected.sum(), rel=1e-4
            )
            assert heads["high"][layer][head] == pytest.approx(percentile_scale([expected]).high, rel=1e-5)
    assert heads["shared"] == [pytest.approx(percentile_scale([every]).high, rel=1e-5)]


def test_of_a_profile_the_heads_that_were_kept_apart(engine, cats, results, read):
    settings = replace(engine.settings(), profile=demo_profile())
    ((_, result),) = engine.answer(engine.prepare([([cats], "how many cats?")], settings))
    page = Reader(results_html([result]))
    panel = page.data["results"][0]
    heads, question_rows = panel["maps"][0]["heads"], result.capture.query_role == "question"
    assert (heads["layers"], heads["numbers"]) == ([1, 2], [0, 2])
    assert page.source("headline")["heads"] == "1.0,2.2"
    assert panel["notes"][0].startswith("profile own")
    by_head = results("one").capture.weights_by_head[:, :, question_rows].astype(np.float64).mean(axis=2)
    assert_close(page.maps("headline")[0], (by_head[1, 0] + by_head[2, 2]) / 2)
    assert_close(page.maps("headline")[0], flat(result.heatmaps()))
    for i, layer in enumerate((1, 2)):
        for j, head in enumerate((0, 2)):
            np.testing.assert_allclose(page.block(heads["blocks"][i])[j], by_head[layer, head], rtol=1e-3)
    named = read("few").data["results"][0]["maps"][0]
    assert (named["heads"]["layers"], named["sources"][0]["heads"]) == ([1, 2], "1.1,1.3,2.1,2.3")


def test_methods_have_maps_of_their_own(results, read):
    result, page = results("methods"), read("methods")
    panel = page.data["results"][0]
    assert [entry["name"] for entry in panel["maps"]] == ["attention", *METHODS]
    assert panel["headline"] == 1
    assert_close(page.maps("headline", method=1)[0], flat(result.heatmaps()))
    for number, method in enumerate(result.methods, start=1):
        map_ = panel["maps"][number]
        assert_close(page.maps("headline", method=number)[0], method.values)
        assert (map_["caption"], map_["removed"], map_["heads"]) == (method.caption, list(method.removed), None)
        for layer, values in zip(
            method.layer_numbers, method.layer_values if method.layer_numbers else (), strict=True
        ):
            assert_close(page.maps(layer, method=number)[0], values)
        assert sum(entry["id"] == "layer" for entry in map_["sources"]) == len(method.layer_numbers)
    assert panel["maps"][1]["removed"] == [3, 80]


@pytest.mark.parametrize("name", ["one", "two", "methods", "few", "clip"])
def test_scales_shares_and_coarse_maps_belong_to_their_maps(results, read, name):
    page = read(name)
    grids = [grid.shape for grid in results(name).capture.grids]
    for number, map_ in enumerate(page.data["results"][0]["maps"]):
        small = page.block(map_["coarse"])
        layers = [page.block(source["block"]) for source in map_["sources"] if source["id"] == "layer"]
        for source in map_["sources"]:
            maps = page.block(source["block"])
            assert source["rows"] == len(maps)
            assert source["mass"] == pytest.approx(maps.sum(axis=1).tolist(), rel=1e-3)
            assert source["high"] == pytest.approx([percentile_scale([row]).high for row in maps], rel=1e-3)
            cut = np.split(maps, np.cumsum([np.prod(grid) for grid in grids])[:-1], axis=1)
            want = np.concatenate(
                [coarse(part.reshape(-1, *grid)) for part, grid in zip(cut, grids, strict=True)], axis=1
            )
            np.testing.assert_allclose(small[source["coarse_at"] :][: len(maps)], want, rtol=2e-3)
        for row, high in enumerate(map_["shared"]):
            of = [maps[row] for maps in layers] or [page.maps("headline", method=number)[row]]
            assert high == pytest.approx(percentile_scale(of).high, rel=1e-3)
    assert [s["high"][0] for s in page.data["results"][0]["maps"][0]["sources"]][:1] == pytest.approx(
        [results(name).heatmaps(query="question")[0].scale.high], rel=1e-6
    )


# Pictures and clips


def test_pictures_and_their_cells(results, read):
    result, page = results("two"), read("two")
    entries = page.data["results"][0]["media"]
    assert [entry["name"] for entry in entries] == ["cats.png", "wide.png"]
    for entry, media, grid in zip(entries, result.media, result.capture.grids, strict=True):
        steps, rows, columns = entry["grid"]
        assert (steps, rows, columns) == grid.shape
        assert tuple(entry["size_px"]) == media.size_px
        boxes = [
            [entry["xs"][c], entry["ys"][r], entry["xs"][c + 1], entry["ys"][r + 1]]
            for r in range(rows)
            for c in range(columns)
        ]
        assert np.array_equal(np.array(boxes, np.float32), grid.boxes_px)
        picture = page.picture(entry["picture"])
        assert picture.shape[1::-1] == tuple(entry["drawn_px"])
        expected = resize_picture(media.frames[0], tuple(entry["drawn_px"]))
        assert np.abs(picture.astype(int) - expected).mean() < 4


def test_frames_of_a_clip_their_times_and_steps(results, read):
    result, page = results("clip"), read("clip")
    clip, media, grid = page.data["results"][0]["clip"], result.media[0], result.capture.grids[0]
    count = len(media.frames)
    assert count == 7 == len(clip["frames"])
    assert clip["step_of"] == [0, 0, 1, 1, 2, 2, 3]
    assert clip["times_s"] == media.sampled_s.tolist()
    assert clip["times_s"] == sorted(clip["times_s"])
    edges = clip["edges_s"]
    assert len(edges) == grid.shape[0] + 1
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(0.7)
    for time, step in zip(clip["times_s"], clip["step_of"], strict=True):
        assert edges[step] - 1e-9 <= time <= edges[step + 1] + 1e-9
    for number, frame in zip(clip["frames"], media.frames, strict=True):
        assert np.abs(page.picture(number).astype(int) - frame).mean() < 4
    assert len({*clip["frames"]}) == 7
    assert page.data["results"][0]["media"][0]["picture"] is None
    assert (clip["way"], clip["alone"], clip["passes"]) == ("clip", [], [])


@pytest.mark.parametrize("name", ["both", "windows"])
def test_passes_of_a_clip_are_told(results, read, name):
    result, clip = results(name), read(name).data["results"][0]["clip"]
    assert clip["way"] == name
    assert [part["answer"] for part in clip["passes"]] == [part.answer for part in result.passes]
    assert all(part["when"].endswith(" s") for part in clip["passes"])
    mass = np.array([part.heatmap().vision_mass for part in result.passes])
    assert clip["alone"] == (pytest.approx(mass / mass.mean()) if name == "both" else [])
    assert_close(read(name).maps("headline")[0], flat(result.heatmaps()))


# The file


def test_provenance_notes_and_what_is_left_out_are_said(results, engine):
    page = Reader(results_html([results("one")], [["a note"]]))
    panel = page.data["results"][0]
    assert panel["notes"] == ["a note"]
    assert (panel["made"]["qvl_attn"], panel["made"]["model"]) == (__version__, "demo")
    assert panel["left_out"] == [["heads_by_word"]]
    assert page.texts["title"] == "how many cats? · qvl-attn"


@pytest.mark.parametrize("most", [1, 300, 2000, 3000])
def test_what_is_beyond_the_limit_is_left_out_and_said(results, monkeypatch, most):
    result = results("one")
    monkeypatch.setattr(maps, "MAX_VALUES", most)
    page = Reader(results_html([result]))
    panel = page.data["results"][0]
    words = min(5, max(most // 2 // 72 - 3, 0))
    assert len(panel["rows"]) == page.source("headline")["rows"] == 3 + words
    clickable = [text for text, row in [*panel["pieces"]["question"], *panel["pieces"]["answer"]] if row is not None]
    assert len(clickable) == words
    for layer in LAYERS:
        assert page.source(layer)["rows"] == 3
        assert len(page.source(layer)["mass"]) == 3 + words, "shares are stored even for maps that are left out"
        assert_close(page.maps(layer)[2], flat(result.heatmaps(layers=layer, heads="all", query="answer")))
    has_heads = most == 3000
    assert (panel["maps"][0]["heads"] is not None) == has_heads
    left = {1: [["words", 0, 5], ["heads"]], 300: [["words", 0, 5], ["heads"]]}
    left |= {2000: [["words_by_layer"], ["heads"]], 3000: [["words_by_layer"], ["heads_by_word"]]}
    assert panel["left_out"] == left[most]


def test_a_large_result_is_less_than_5_mb_beside_its_picture():
    page = Reader(results_html([large_result()]))
    beside = len(page.html.encode()) - len(page.scripts["picture-0"])
    assert beside < MAX_BYTES == 5_000_000
    assert page.source("headline")["rows"] == 43 + 2
    assert len(page.data["results"][0]["maps"][0]["heads"]["blocks"]) == 28


@pytest.mark.parametrize("name", ["one", "two", "empty", "clip"])
def test_it_reaches_for_nothing_and_runs_its_own_script_alone(read, name):
    page = read(name)
    rest = page.html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//cdn|@import|\burl\(", rest)
    assert not [attrs for _, attrs in page.tags if attrs.get("src")]
    assert [attrs["href"] for _, attrs in page.tags if attrs.get("href")] == ["data:,"]
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    style, script = (
        b64encode(sha256(text.encode()).digest()).decode() for text in (page.texts["style"], page.scripts["code"])
    )
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{style}'",
        "script-src": f"'sha256-{script}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"].count(None) == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    heads = [tag for tag, _ in page.tags]
    assert heads.index("meta") < heads.index("title") < heads.index("style")


def test_what_others_wrote_stays_text(results):
    plain, evil = Reader(results_html([results("one")])), replace(results("one"), question=EVIL, answer=EVIL)
    evil = replace(evil, media=(replace(evil.media[0], source=EVIL),), provenance=replace(evil.provenance, model=EVIL))
    spans = {token.role: token.span for token in evil.capture.tokens if token.span}
    assert spans["question"][1] <= len(EVIL)
    page = Reader(results_html([evil], [[EVIL]]))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    panel = page.data["results"][0]
    assert (panel["question"], panel["answer"], panel["notes"], panel["made"]["model"]) == (EVIL, EVIL, [EVIL], EVIL)
    assert page.policy.split("script-src")[1] == plain.policy.split("script-src")[1]
    assert page.texts["title"].startswith("</script></style><img")


def test_several_results_share_their_pictures(results, read):
    first, second, third = (results(name) for name in ("one", "text", "two"))
    page = Reader(results_html([first, second, third]))
    panels = page.data["results"]
    assert [result["question"] for result in panels] == [first.question, second.question, third.question]
    pictures = [medium["picture"] for result in panels for medium in result["media"]]
    assert pictures == [0, 0, 0, 1], "the same picture is stored once"
    for number, result in enumerate((first, second, third)):
        assert_close(page.maps("headline", result=number)[0], flat(result.heatmaps()))
    assert page.texts["title"].count(" · ") == 3


def test_an_endless_word_is_cut_in_the_page_and_whole_in_the_result():
    """A browser took seconds to lay out a word of 100 KB."""
    result = Result.load(KEPT / "ask")
    count, step = sum(token.role == "question" for token in result.capture.tokens), 10_000
    spans = iter((i * step, (i + 1) * step) for i in range(count))
    tokens = [
        replace(token, span=next(spans)) if token.role == "question" else token for token in result.capture.tokens
    ]
    question = "w" * (count * step)
    result = replace(result, question=question, capture=replace(result.capture, tokens=tuple(tokens)))
    panel = question_page_part(result, (), Payload()).data
    text = "w" * (MAX_WORD - 1) + "…"
    assert [piece for piece, _ in panel["pieces"]["question"]] == [text]
    assert [row["text"] for row in panel["rows"] if row["kind"] == "question word"] == [text]
    assert panel["question"] == "w" * (MAX_TEXT - 1) + "…"
    assert ["long_words", MAX_WORD] in panel["left_out"]
    assert len(results_html([result])) < len(question) + len(results_html([Result.load(KEPT / "ask")]))
    assert result._json(result.heatmaps(), [], [])["question"] == question


def test_separators_of_lines_and_paragraphs_are_drawn():
    capture = SimpleNamespace(tokens=())
    assert maps._pieces(capture, "first\u2028second\u2029third", "question", [], []) == [["first\nsecond\nthird", None]]
