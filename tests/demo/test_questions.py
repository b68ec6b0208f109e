"""Questions about scenes, pairs and clips have true answers, checked against the drawn things."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.demo import wording
from qvl_attn.demo.clips import Clip, Track, draw_clip
from qvl_attn.demo.questions import MIDDLE, Fact, clip_facts, pair_facts, put_into_words, scene_facts
from qvl_attn.demo.scenes import COLORS, SHAPES, Scene, Thing, draw_scene

BLANK = np.zeros((140, 140, 3), np.uint8)


def by_kind(facts: list[Fact]) -> dict[str, list[Fact]]:
    return {kind: [fact for fact in facts if fact.kind == kind] for kind in dict.fromkeys(f.kind for f in facts)}


def test_facts_of_a_known_scene() -> None:
    cat = Thing("cat", "red", (0, 0, 40, 40))
    cat2 = Thing("cat", "orange", (90, 0, 130, 40))
    star = Thing("star", "red", (50, 100, 86, 136))
    facts = by_kind(scene_facts(Scene(BLANK, (cat, cat2, star)), np.random.default_rng(0)))
    assert [(f.answer, f.shape, f.boxes_xyxy_px) for f in facts["color"]] == [("red", "star", (star.box_xyxy_px,))]
    assert [(f.answer, f.color, f.boxes_xyxy_px) for f in facts["shape"]] == [("cat", "orange", (cat2.box_xyxy_px,))]
    assert [f.answer for f in facts["exist"]] == ["yes", "no", "yes", "no"]
    assert [bool(f.boxes_xyxy_px) for f in facts["exist"]] == [True, False, True, False]
    counts = [(f.answer, f.boxes_xyxy_px) for f in facts["count"]]
    assert counts == [("2", (cat.box_xyxy_px, cat2.box_xyxy_px)), ("1", (star.box_xyxy_px,)), ("0", ())]
    # The star is in the middle between left and right; "the cat" would be ambiguous.
    assert "side" not in facts
    assert "where" not in facts
    assert [(f.answer, f.shape) for f in facts["level"]] == [("bottom", "star")]
    assert facts["describe"][0].things == (("red", "cat"), ("red", "star"), ("orange", "cat"))


@pytest.mark.parametrize(
    ("box", "side", "level"),
    [
        ((0, 0, 40, 40), "left", "top"),
        ((100, 60, 140, 80), "right", None),
        ((60, 100, 80, 140), None, "bottom"),
        ((0, 110, 30, 140), "left", "bottom"),
        ((55, 55, 85, 85), None, None),
    ],
)
def test_places(box: tuple[int, int, int, int], side: str | None, level: str | None) -> None:
    facts = scene_facts(Scene(BLANK, (Thing("cat", "red", box),)), np.random.default_rng(0))
    answers = {fact.kind: fact.answer for fact in facts if fact.kind in ("side", "level", "where")}
    expected = {"side": side, "level": level, "where": f"{level} {side}" if side and level else None}
    assert answers == {kind: answer for kind, answer in expected.items() if answer}


def test_places_are_on_that_side_of_the_middle() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        scene = draw_scene(rng)
        height, width = scene.picture.shape[:2]
        for fact in scene_facts(scene, rng):
            if fact.kind in ("side", "level"):
                (x0, y0, x1, y1) = fact.boxes_xyxy_px[0]
                at = (x0 + x1) / 2 / width if fact.kind == "side" else (y0 + y1) / 2 / height
                assert abs(at - 0.5) >= MIDDLE
                assert (at < 0.5) == (fact.answer in ("left", "top"))


def test_scene_facts_are_true() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        scene = draw_scene(rng)
        by_box = {thing.box_xyxy_px: thing for thing in scene.things}
        for fact in scene_facts(scene, rng):
            boxed = [by_box[box] for box in fact.boxes_xyxy_px]
            assert fact.frames == (0,) * len(boxed)
            matching = [t for t in scene.things if fact.shape in ("", t.shape) and fact.color in ("", t.color)]
            if fact.kind != "describe":
                assert boxed == matching
            if fact.kind == "count":
                assert fact.answer == str(len(matching))
                assert len(matching) <= 4
            elif fact.kind == "exist":
                assert fact.answer == ("yes" if matching else "no")
            elif fact.kind in ("color", "shape"):
                assert [getattr(t, fact.kind) for t in matching] == [fact.answer]


def test_pair_facts_are_true_of_one_picture_alone() -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        pair = draw_scene(rng), draw_scene(rng)
        for fact in pair_facts(pair):
            holding = [
                any(t.shape == fact.shape and fact.color in ("", t.color) for t in scene.things) for scene in pair
            ]
            assert holding == [fact.answer == "first", fact.answer == "second"]
            assert set(fact.frames) == {("first", "second").index(fact.answer)}
            assert set(fact.boxes_xyxy_px) <= {t.box_xyxy_px for t in pair[fact.frames[0]].things}


def known_clip(event: str, frame: int, count: int = 8) -> Clip:
    cat_box, star_box = (10, 10, 50, 50), (60, 60, 100, 100)
    visible = {
        "appear": [k >= frame for k in range(count)],
        "vanish": [k < frame for k in range(count)],
    }.get(event, [True] * count)
    colors = ["green" if event == "recolor" and k >= frame else "red" for k in range(count)]
    actor = Track(
        "cat",
        tuple(color if present else None for color, present in zip(colors, visible, strict=True)),
        tuple(cat_box if present else None for present in visible),
    )
    still = Track("star", ("blue",) * count, (star_box,) * count)
    return Clip(np.zeros((count, 112, 112, 3), np.uint8), 2.0, (actor, still), event, frame)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "frame", "kind", "answer", "frames"),
    [
        ("appear", 4, "appear", "cat", (4, 5, 6, 7)),
        ("appear", 4, "when", "middle", (4, 5, 6, 7)),
        ("appear", 3, "when", "middle", (3, 4, 5, 6, 7)),
        ("appear", 6, "when", "end", (6, 7)),
        ("appear", 7, "when", "end", (7,)),
        ("appear", 2, "when", "start", (2, 3, 4, 5, 6, 7)),
        ("vanish", 2, "vanish", "cat", (0, 1)),
        ("recolor", 5, "recolor", "cat", tuple(range(8))),
        ("recolor", 5, "color_at_start", "red", (0, 1, 2, 3, 4)),
        ("recolor", 5, "color_at_end", "green", (5, 6, 7)),
        ("move", 0, "move_color", "red", tuple(range(8))),
        ("move", 0, "move_shape", "cat", tuple(range(8))),
    ],
)
def test_facts_of_known_clips(event: str, frame: int, kind: str, answer: str, frames: tuple[int, ...]) -> None:
    facts = by_kind(clip_facts(known_clip(event, frame), np.random.default_rng(0)))
    (about_the_cat,) = [f for f in facts[kind] if set(f.boxes_xyxy_px) == {(10, 10, 50, 50)}]
    assert about_the_cat.answer == answer
    assert about_the_cat.frames == frames
    # A thing that is there from the start is asked about only if nothing else appears.
    assert {f.answer for f in facts["when"] if f.shape == "star"} == (set() if event == "appear" else {"start"})


@pytest.mark.parametrize("event", ["move", "appear", "vanish", "recolor"])
def test_no_ambiguous_question_is_asked_about_the_thing_with_the_event(event: str) -> None:
    facts = clip_facts(known_clip(event, 4), np.random.default_rng(0))
    about_the_cat = {f.kind for f in facts if f.shape == "cat" or f.answer == "cat"}
    allowed = {
        "move": {"move_shape"},
        "appear": {"appear", "when", "exist"},
        "vanish": {"vanish"},
        "recolor": {"recolor", "color_at_end", "color_at_start"},
    }
    assert about_the_cat == allowed[event]


@pytest.mark.parametrize("language", wording.LANGUAGES)
@pytest.mark.parametrize("form", sorted(wording.FORMS["en"]))
def test_every_form_is_asked_in_several_ways(language: wording.Language, form: str) -> None:
    texts = {wording.ask(language, form, choice, "cat", "orange") for choice in range(64)}
    assert len(texts) >= 2
    for text in texts:
        assert "{" not in text
        assert (
            ("猫" in text or "橙" in text or form in FIXED)
            if language == "zh"
            else text[-1] == "?" or form == "describe"
        )
    if language == "en" and "colored" in form:
        assert not any(" a orange" in text for text in texts)


FIXED = {"describe", "move_color", "move_shape", "appear", "vanish", "recolor"}


def test_both_languages_have_every_form_and_word() -> None:
    assert set(wording.FORMS["en"]) == set(wording.FORMS["zh"])
    assert {*SHAPES, *COLORS, "yes", "no"} <= set(wording.CHINESE)
    assert len(set(wording.CHINESE.values())) == len(wording.CHINESE)


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_an_answer_is_in_the_language_of_the_question(language: wording.Language) -> None:
    rng = np.random.default_rng(0)
    facts = [fact for _ in range(9) for fact in (*scene_facts(draw_scene(rng), rng), *clip_facts(draw_clip(rng), rng))]
    facts += pair_facts((draw_scene(rng), draw_scene(rng)))
    assert {fact.form for fact in facts} == set(wording.FORMS[language])
    for fact in facts:
        question = put_into_words(fact, language, rng)
        assert question.question.isascii() == (language == "en")
        assert question.answer.isascii() == (language == "en" or fact.kind == "count")


def test_units_and_plurals() -> None:
    assert wording.ask("en", "count", 0, "fish") == "how many fish?"
    assert wording.ask("en", "count", 0, "cat") == "how many cats?"
    assert [wording.ask("zh", "count", 0, shape) for shape in ("cat", "fish", "star")] == [
        "有几只猫？",
        "有几条鱼？",
        "有几颗星星？",
    ]
    assert wording.description("zh", [("red", "cat"), ("blue", "star")]) == "红色的猫，蓝色的星星"
