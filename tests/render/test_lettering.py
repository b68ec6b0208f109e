import os
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageFont

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import plain
from qvl_attn.render import lettering

CHINESE = "图中有几只猫？"
INK = (0, 0, 0)


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(lettering, "_font_paths", lambda: (lettering.BUNDLED,))


@pytest.fixture
def chinese_font():
    if lettering.undrawable(CHINESE):
        assert not os.environ.get("QVL_ATTN_REQUIRE_FONT"), "QVL_ATTN_REQUIRE_FONT: no font with Chinese characters"
        pytest.skip("no font with Chinese characters")


def ink(text, size_px=20):
    """Which pixels a text darkens on a white image."""
    image = Image.new("RGB", (900, 60), (255, 255, 255))
    lettering.draw_line(image, (4, 40), text, size_px, INK)
    return np.asarray(image)[..., 0] < 128


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\tand\r\nmore", "two lines and  more"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\u202eb\u2066c\u200b\u200d\ufeffd", "abcd"),
        ("e\u0301", "é"),
        ("heart \u2764\ufe0f", "heart \u2764"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("\ud83d", "\ufffd"),
        ("a\x85b\u2029c", "a b c"),  # shaping fails on paragraph separators
        ("\x00\x7f\x9b", ""),
        (CHINESE, CHINESE),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


def test_plain_leaves_no_control_character_of_all_unicode():
    cleaned = plain("".join(map(chr, range(0x20000))))
    assert not {"Cc", "Cf", "Cs"} & {unicodedata.category(char) for char in cleaned}


@pytest.mark.usefixtures("no_fonts")
def test_without_fonts_missing_characters_are_noted_not_boxed():
    assert lettering.undrawable(f"{CHINESE} cats 猫") == CHINESE
    assert np.array_equal(ink(f"a {CHINESE} b"), ink("a [7 chars: no font] b"))
    assert np.array_equal(ink("猫"), ink("[1 char: no font]"))
    assert lettering.wrap(CHINESE, 400, 20) == ["[7 chars: no font]"]


@pytest.mark.usefixtures("no_fonts")
def test_without_fonts_no_character_looks_like_the_empty_box():
    box = bytes(ImageFont.load_default(20).getmask("\U0010ffff"))
    for code in (*range(0x20, 0x250), *range(0x370, 0x600, 7), 0x2014, 0x263A, 0x940, 0x301, 0x4E00, 0x1F600, 0xE000):
        for path, run in lettering._runs(lettering._drawable_text(chr(code))):
            assert all(bytes(lettering._font(path, 20).getmask(char)) != box for char in run), hex(code)


@pytest.mark.font
@pytest.mark.usefixtures("chinese_font")
def test_what_was_measured_with_other_fonts_is_forgotten(monkeypatch):
    with_font = lettering.measure(CHINESE, 20)
    monkeypatch.setattr(lettering, "_font_paths", lambda: (lettering.BUNDLED,))
    assert lettering.measure(CHINESE, 20) == lettering.measure("[7 chars: no font]", 20) != with_font


@pytest.mark.usefixtures("no_fonts")
def test_marks_that_mean_the_same_stand_in():
    assert lettering.undrawable("2.4× — 3–4") == ""
    assert np.array_equal(ink("2.4× — 3–4"), ink("2.4x - 3-4"))


def test_a_mark_beside_a_dotted_circle_is_not_a_glyph():
    dejavu = next((path for path in lettering._font_paths() if path.endswith("DejaVuSans.ttf")), None)
    if dejavu is None:
        pytest.skip("no DejaVu Sans")
    assert not lettering._covers(dejavu, "\u0940")  # it has no Devanagari


def test_a_glyph_of_nothing_is_no_glyph(monkeypatch):
    class Blank:
        def getmask(self, char):
            return Image.new("L", (9 if char == "a" else 5, 9)).im

    monkeypatch.setattr(lettering, "_unshaped", lambda path: Blank())
    assert not lettering._covers("blank.ttf", "a")
    assert lettering._covers("blank.ttf", " ")


def test_a_character_that_no_font_has_is_named():
    assert lettering.undrawable("a\U0010fffeb\U0010fffe") == "\U0010fffe"
    assert np.array_equal(ink("a\U0010fffe\U0010fffeb"), ink("a[2 chars: no font]b"))


def test_ordinary_english_can_be_drawn_anywhere():
    assert lettering.undrawable("How many cats are on the “sofa”? 0.0123, 23 % · 4…") == ""


@pytest.mark.font
@pytest.mark.usefixtures("chinese_font")
def test_chinese_is_drawn_in_a_font_that_has_it():
    shapes = [ink(char) for char in "猫图只"]
    assert all(shape.sum() > 20 for shape in shapes)
    assert not np.array_equal(shapes[0], shapes[1])
    assert {path for path, _ in lettering._runs(f"cat {CHINESE}")} > {lettering.BUNDLED}


@pytest.mark.font
@pytest.mark.usefixtures("chinese_font")
def test_chinese_wraps_between_characters_and_not_before_punctuation():
    text = "图中有几只猫？它们在做什么，" * 6
    lines = lettering.wrap(text, 200, 20)
    assert "".join(lines) == text
    assert len(lines) > 6
    assert all(lettering.measure(line, 20) <= 200 for line in lines)
    assert all(lettering.measure(line, 20) > 140 for line in lines[:-1])
    assert not any(line[0] in "？，" for line in lines)


def test_english_wraps_at_spaces():
    text = "How many of the cats in this picture are asleep on the sofa?"
    lines = lettering.wrap(text, 180, 20)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert all(lettering.measure(line, 20) <= 180 for line in lines)


def test_a_word_wider_than_the_line_is_broken_and_kept_whole():
    word = "w" * 5000
    lines = lettering.wrap(f"see {word}", 180, 20)
    assert "".join(lines) == f"see {word}"
    assert all(lettering.measure(line, 20) <= 180 for line in lines)


def test_a_cap_in_lines_ends_in_an_ellipsis():
    lines = lettering.wrap("many words " * 100, 180, 20, max_lines=3)
    assert len(lines) == 3
    assert lines[2].endswith("…")
    assert all(lettering.measure(line, 20) <= 180 for line in lines)
    assert lettering.wrap("short", 180, 20, max_lines=1) == ["short"]
    assert lettering.wrap("", 180, 20) == lettering.wrap("  \n ", 180, 20) == []


def test_measure_is_what_is_drawn():
    columns = np.flatnonzero(ink("WHAT IS HERE").any(axis=0))
    assert lettering.measure("WHAT IS HERE", 20) == pytest.approx(columns[-1] - columns[0], abs=4)


def test_lines_are_drawn_beneath_each_other():
    image = Image.new("RGB", (300, 200), (255, 255, 255))
    used = lettering.draw_lines(image, (10, 20), ["Ax", "Ax", "Ax"], 20, (200, 0, 0))
    dark = np.flatnonzero((np.asarray(image)[..., 1] < 128).any(axis=1))
    assert used == 3 * lettering.line_height_px(20)
    assert dark.min() >= 20
    assert dark.max() < 20 + used
    assert np.count_nonzero(np.diff(dark) > 1) == 2
    assert (np.asarray(image)[..., 0] >= 200).all()  # red stays in the first channel


def test_fonts_are_found_by_family_regular_before_bold(tmp_path):
    for name in (
        "NotoSansCJK-Bold.ttc",
        "NotoSansCJK-Regular.ttc",
        "simhei.ttf",
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
    ):
        (tmp_path / name).touch()
    (tmp_path / "readme.txt").touch()
    paths = lettering._system_fonts((str(tmp_path), str(tmp_path / "missing")))
    assert [path.rpartition("/")[2] for path in paths] == ["DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "simhei.ttf"]


@pytest.fixture
def fresh_search():
    lettering._font_paths.cache_clear()
    yield
    lettering._font_paths.cache_clear()


@pytest.mark.usefixtures("fresh_search")
def test_a_font_that_is_not_one_is_the_users_fault(monkeypatch, tmp_path):
    (tmp_path / "font.ttf").write_text("not a font")
    for name in ("font.ttf", "missing.ttf"):
        monkeypatch.setenv("QVL_ATTN_FONT", str(tmp_path / name))
        with pytest.raises(InputError, match="QVL_ATTN_FONT"):
            lettering.undrawable("猫")


@pytest.mark.font
@pytest.mark.usefixtures("chinese_font")
def test_the_users_font_comes_before_those_of_the_machine(monkeypatch):
    user_font = next(path for path, _ in lettering._runs("猫"))
    monkeypatch.setenv("QVL_ATTN_FONT", user_font)
    monkeypatch.setattr(lettering, "_DIRECTORIES", ())
    lettering._font_paths.cache_clear()
    try:
        assert lettering._font_paths() == (lettering.BUNDLED, user_font)
        assert lettering.undrawable(CHINESE) == ""
    finally:
        lettering._font_paths.cache_clear()


@pytest.mark.usefixtures("fresh_search")
def test_a_broken_font_of_the_machine_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "simhei.ttf").write_bytes(b"broken")
    monkeypatch.delenv("QVL_ATTN_FONT", raising=False)
    monkeypatch.setattr(lettering, "_DIRECTORIES", (str(tmp_path),))
    assert lettering._font_paths() == (lettering.BUNDLED,)
