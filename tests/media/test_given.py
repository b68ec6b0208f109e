"""Pictures that are given as Pillow's images and arrays are those that their files would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from qvl_attn.core.errors import InputError
from qvl_attn.media.given import listed, load_given, load_pictures
from qvl_attn.media.image import MAX_PIXELS, load_picture

ORIENTATION = 0x0112
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def images() -> dict[str, Image.Image]:
    rgb = Image.fromarray(PIXELS)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200)
    return {
        "RGB": rgb,
        "L": rgb.convert("L"),
        "1": rgb.convert("1"),
        "P": rgb.quantize(16),
        "LA": alpha.convert("LA"),
        "RGBA": alpha,
        "I;16": deep,
    }


@pytest.mark.parametrize("mode", images())
@pytest.mark.parametrize("orientation", [1, 6, 4])
@pytest.mark.parametrize("loaded", [False, True])
def test_an_image_has_the_pixels_size_and_notes_of_its_file(tmp_path, mode, orientation, loaded):
    image, file = images()[mode], tmp_path / "a.png"
    assert image.mode == mode
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(file, exif=exif)
    expected = load_picture(file)
    with Image.open(file) as opened:
        if loaded:
            opened.load()
        given = load_given(opened)
    assert np.array_equal(given.frames, expected.frames)
    assert (given.size_px, given.notes, given.source) == (expected.size_px, expected.notes, "a.png")
    assert given.size_px == ((20, 31) if orientation == 6 else (31, 20))


@pytest.mark.parametrize("suffix", ["tif", "jpg", "webp"])
def test_an_orientation_is_applied_once(tmp_path, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(file, exif=exif)
    expected = load_picture(file).frames
    with Image.open(file) as opened:
        assert np.array_equal(load_given(opened).frames, expected)
        assert np.array_equal(load_given(opened).frames, expected), "the second time, too"
        assert np.array_equal(load_given(ImageOps.exif_transpose(opened)).frames, expected)


def test_16_bits_are_stretched_as_in_the_file(tmp_path):
    file = tmp_path / "a.png"
    images()["I;16"].save(file)
    with Image.open(file) as opened:
        assert np.array_equal(load_given(opened, stretch=True).frames, load_picture(file, stretch=True).frames)


def test_an_array_is_its_image_and_its_identity_is_its_pixels_and_size():
    array, image = load_given(PIXELS), load_given(Image.fromarray(PIXELS))
    assert np.array_equal(array.frames[0], PIXELS)
    assert array.sha256 == image.sha256
    assert (array.source, image.source, array.size_px) == ("picture", "picture", (31, 20))
    other = PIXELS.copy()
    other[3, 4, 1] ^= 1
    assert load_given(other).sha256 != array.sha256
    assert load_given(PIXELS.reshape(31, 20, 3)).sha256 != array.sha256
    turned = np.ascontiguousarray(PIXELS[:, ::-1])
    assert load_given(PIXELS[:, ::-1]).sha256 == load_given(turned).sha256


def test_an_array_is_copied():
    pixels = PIXELS.copy()
    given = load_given(pixels)
    pixels[:] = 0
    assert np.array_equal(given.frames[0], PIXELS)


def test_the_frame_that_an_animation_is_at_is_used(tmp_path):
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (0, 100, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(tmp_path / "a.webp") as opened:
        assert load_given(opened).notes == ("animated: only the first frame is used",)
        opened.seek(2)
        given = load_given(opened)
    assert given.frames.min() == given.frames.max() == 200
    assert given.notes == ("animated: only frame 3 is used",)


def test_media_and_paths_are_taken_as_before(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    media = load_picture(file)
    assert load_given(media) is media
    assert load_given(file).sha256 == media.sha256


def test_what_is_given_twice_is_one_media(tmp_path):
    image, loaded = Image.fromarray(PIXELS), {}
    first, second, third = load_pictures([image, PIXELS, image.copy()], loaded)
    assert first is second is third
    assert load_pictures(image, loaded)[0] is first
    assert load_pictures(PIXELS, loaded)[0] is first


def test_one_and_several_are_in_order():
    assert listed("images", "ab") == ("ab",)
    assert listed("images", ["a", "b"]) == ("a", "b")
    (one,) = listed("images", PIXELS)
    assert one is PIXELS


ACCEPTED = "`images`: want a path, a PIL image, an array (height, width, 3) of uint8 or a Media, got "


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (3, "int"),
        (None, "NoneType"),
        (b"cats.png", "bytes"),
        ([["a.png"]], "list"),
        (["a.png", 3], "int"),
        (PIXELS.astype(np.float32), "an array (20, 31, 3) of float32"),
        (PIXELS[:, :, 0], "an array (20, 31) of uint8"),
        (PIXELS[None], "an array (1, 20, 31, 3) of uint8"),
        (np.zeros((4, 4, 4), np.uint8), "an array (4, 4, 4) of uint8"),
        (np.zeros((0, 4, 3), np.uint8), "an array (0, 4, 3) of uint8"),
    ],
)
def test_anything_else_is_a_type_error_that_names_what_is_accepted(given, got):
    with pytest.raises(TypeError) as caught:
        listed("images", given)
    assert str(caught.value) == ACCEPTED + got


def test_an_open_file_is_no_picture():
    with Path(__file__).open("rb") as file, pytest.raises(TypeError, match="got BufferedReader"):
        load_pictures(file, {})


def test_limits_hold():
    wide = np.broadcast_to(np.zeros(3, np.uint8), (1, MAX_PIXELS + 1, 3))
    with pytest.raises(InputError, match="the limit is"):
        load_given(wide)
    with pytest.raises(InputError, match="picture has 201 x 1 pixels: one side is more than"):
        load_given(np.zeros((1, 201, 3), np.uint8))
    with pytest.raises(InputError, match="one side is more than"):
        load_given(Image.new("RGB", (1, 201)))


def test_an_image_that_cannot_be_decoded_is_the_users(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(file)
    file.write_bytes(file.read_bytes()[:-300])
    with Image.open(file) as opened, pytest.raises(InputError, match=r"a\.png is truncated"):
        load_given(opened)
