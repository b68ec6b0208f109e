import hashlib
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, features

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Media
from qvl_attn.media.image import MAX_BYTES, first_of_little_range, is_clip, load_picture
from tests.helpers.processes import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
ORIENTATION = 0x0112

# From the EXIF standard: the sides where the stored picture's first row and first column are displayed.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}

# Name, settings for Pillow's writer, and the largest pixel difference of the format.
FORMATS = [
    pytest.param("a.jpg", {"quality": 95, "subsampling": 0}, 12, id="jpeg"),
    pytest.param("a.jpg", {"quality": 95, "subsampling": 0, "progressive": True}, 12, id="progressive"),
    pytest.param("a.png", {}, 0, id="png"),
    pytest.param("a.webp", {"lossless": True}, 0, id="webp"),
    pytest.param("a.tif", {}, 0, id="tiff"),
    pytest.param("a.tif", {"compression": "tiff_lzw"}, 0, id="tiff-lzw"),
    pytest.param("a.bmp", {}, 0, id="bmp"),
    pytest.param(
        "a.avif",
        {"quality": 95, "subsampling": "4:4:4"},
        12,
        id="avif",
        marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF"),
    ),
]

ANSWER = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from qvl_attn.core.errors import InputError
from qvl_attn.media.image import load_picture
for path in sys.argv[1:]:
    started = time.process_time()
    try:
        answer = {"frames": load_picture(path).frames.shape}
    except InputError as error:
        answer = {"error": str(error)}
    print(json.dumps([path, time.process_time() - started, answer]), flush=True)
"""


def answers(*paths):
    """Load files in a process with 3 GiB at most: {path: (seconds of CPU, {"frames" or "error"})}, and its stderr."""
    command = [sys.executable, "-c", ANSWER, *map(str, paths)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {path: (seconds, answer) for path, seconds, answer in lines}, done.stderr


def refusal(path):
    """The text of the error: one line that names the file and is not Pillow's."""
    with pytest.raises(InputError) as caught:
        load_picture(path)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    check_text(text, path)
    return text


def check_text(text, path):
    assert "\n" not in text
    assert Path(path).name in text
    assert not any(word in text for word in ("0x", "<_io", "BytesIO", "Traceback"))


def smooth(width=48, height=32):
    """A picture without symmetry that JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5, y * 7, 255 - x * 2 - y * 3], axis=2).astype(np.uint8)


def stored(upright, orientation):
    """The pixels that a camera writes so that `orientation` shows them as `upright`."""
    row, column = SIDES[orientation]
    pixels = upright if row in ("top", "bottom") else upright.swapaxes(0, 1)
    if row in ("bottom", "right"):
        pixels = pixels[::-1]
    if column in ("bottom", "right"):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def difference(actual, expected):
    return np.abs(actual.astype(int) - expected.astype(int))


def png(width, height, bits, colour_type, rows, *chunks):
    """A PNG file built by hand, for kinds that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    more = b"".join(chunk(name, data) for name, data in chunks)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + more + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "settings", "noise"), FORMATS)
def test_a_picture_arrives_as_it_was_drawn(tmp_path, name, settings, noise):
    path = tmp_path / name
    Image.fromarray(smooth()).save(path, **settings)
    media = load_picture(path)
    assert difference(media.frames[0], smooth()).max() <= noise
    assert media.frames.shape == (1, 32, 48, 3)
    assert media.frames.flags.c_contiguous
    assert media.frames.flags.writeable
    assert media.times_s.tolist() == [0.0]
    assert media.size_px == (48, 32)
    assert media.source == str(path)
    assert media.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert media.notes == ()


def test_the_source_is_the_path_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(smooth()).save("a b.png")
    assert load_picture("./a b.png").source == "./a b.png"


# Row 1: missing, a directory, unreadable.


def test_a_missing_path(tmp_path):
    assert "does not exist" in refusal(tmp_path / "gone.png")


def test_a_directory(tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.png")


def test_an_empty_path():
    with pytest.raises(InputError, match="the path is empty"):
        load_picture("")


def test_an_unreadable_file(make_picture):
    path = make_picture(4, 4)
    path.chmod(0)
    root = os.geteuid() == 0  # root may read everything: act as another user
    if root:
        os.seteuid(65534)
    try:
        assert "cannot be read: permission denied" in refusal(path)
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.png/b.png", "not a directory"),
        ("a" * 300 + ".png", "file name too long"),
        ("a\0b.png", "not a path"),
        ("\ud800.png", "not a path"),
    ],
)
def test_a_path_that_cannot_be(make_picture, tmp_path, name, reason):
    make_picture(4, 4, "a.png")
    with pytest.raises(InputError, match=reason):
        load_picture(f"{tmp_path}/{name}")


def test_a_name_with_control_characters_stays_one_harmless_line(tmp_path):
    with pytest.raises(InputError) as caught:
        load_picture(f"{tmp_path}/a\nb\x1b[31m\u202e\udcff.png")
    assert str(caught.value).isprintable()
    assert r"a\nb\x1b[31m\u202e\udcff.png" in str(caught.value)


def test_a_pipe_and_a_device_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    paths = [str(tmp_path / "pipe.png"), "/dev/zero"]
    results, _ = answers(*paths)
    for path in paths:
        assert "is not a regular file" in results[path][1]["error"]


# Row 2: empty, text, too large.


def test_an_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    assert "is empty" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"hello, I am a text\n", b"\0" * 5000, b"x"])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert "is not a JPEG, PNG, WebP, GIF, BMP, TIFF" in refusal(tmp_path / "a.png")


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"{MAX_BYTES:,}" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


# Row 3: truncated.


@pytest.mark.parametrize(("name", "settings", "noise"), FORMATS)
def test_a_truncated_picture_is_never_drawn_in_part(tmp_path, name, settings, noise):
    path = tmp_path / name
    Image.fromarray(smooth()).save(path, **settings)
    data, whole = path.read_bytes(), load_picture(path).frames
    path.write_bytes(data[: len(data) * 2 // 3])
    assert any(word in refusal(path) for word in ("is truncated", "incomplete"))
    for length in range(1, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(load_picture(path).frames, whole)
        except InputError as error:
            check_text(str(error), path)


def test_a_cut_photograph_is_called_truncated(shared_data, tmp_path):
    data = (shared_data / "images" / "demo" / "sam2_truck.jpg").read_bytes()
    for part in (2, 10, 100):
        (tmp_path / "cut.jpg").write_bytes(data[: len(data) // part])
        assert "is truncated" in refusal(tmp_path / "cut.jpg")
    assert "is truncated" in refusal(shared_data / "images" / "corrupt" / "truncated_image.png")


@pytest.mark.parametrize(("name", "settings", "noise"), FORMATS)
def test_a_damaged_picture_gives_a_picture_or_a_clear_line(tmp_path, name, settings, noise):
    path = tmp_path / name
    Image.fromarray(smooth()).save(path, **settings)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        try:
            assert load_picture(path).frames.dtype == np.uint8
        except InputError as error:
            refused += 1
            check_text(str(error), path)
    assert refused or name.endswith(("bmp", "tif"))


# Row 4: too many pixels.


@pytest.mark.parametrize("size", [(9460, 9460), (20_000, 20_000), (65_000, 65_000)])
@pytest.mark.parametrize("action", ["ignore", "error", "default"])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, size, action):
    (tmp_path / "a.png").write_bytes(png(*size, 8, 2, [b""]))
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter(action)
        assert "89,478,485" in refusal(tmp_path / "a.png")
    assert leaked == []


def test_the_pixel_limit_is_ours_and_not_the_process_s(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(9460, 9460, 8, 2, [b""]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "9,460 x 9,460 = 89,491,600 pixels; the limit is 89,478,485" in refusal(tmp_path / "a.png")
    assert Image.MAX_IMAGE_PIXELS is None


def test_the_limit_lets_pass_what_is_below_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9459, 9459, 8, 0, [b""]))
    assert "is truncated" in refusal(tmp_path / "a.png")


# Row 5: other formats in disguise.


def test_postscript_named_jpg(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    assert "is not a JPEG" in refusal(path)


def test_photoshop_named_jpg(shared_data, tmp_path):
    path = tmp_path / "a.jpg"
    shutil.copyfile(shared_data / "images" / "edge" / "other" / "hopper.psd", path)
    with Image.open(path) as image:
        assert image.format == "PSD"
    assert "is not a JPEG" in refusal(path)


def test_the_name_s_ending_does_not_matter(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.dat", format="PNG")
    assert np.array_equal(load_picture(tmp_path / "a.dat").frames[0], smooth())


# Row 6: orientation.


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize(("name", "settings", "noise"), [form for form in FORMATS if form.id != "bmp"])
def test_every_orientation_is_applied_once(tmp_path, name, settings, noise, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored(smooth(), orientation)).save(tmp_path / name, exif=exif, **settings)
    media = load_picture(tmp_path / name)
    assert media.size_px == (48, 32)
    assert difference(media.frames[0], smooth()).max() <= noise
    assert media.notes == (() if orientation == 1 else ("turned upright as its EXIF orientation says",))


@pytest.mark.parametrize("orientation", range(9))
def test_photographs_in_every_orientation_agree(shared_data, orientation):
    folder = shared_data / "images" / "exif_orientation"
    upright = cv2.cvtColor(cv2.imread(str(folder / "Landscape_1.jpg")), cv2.COLOR_BGR2RGB)
    media = load_picture(folder / f"Landscape_{orientation}.jpg")
    assert media.size_px == (1800, 1200)
    assert difference(media.frames[0], upright).mean() < 5
    if orientation in (2, 3, 4):
        assert difference(media.frames[0], stored(upright, orientation)).mean() > 20


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, ORIENTATION, 2, 4) + b"six\0" + bytes(4),
    ],
    ids=["garbage", "offset", "text"],
)
def test_broken_exif_does_not_spoil_a_picture(tmp_path, exif):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert difference(load_picture(tmp_path / "a.jpg").frames[0], smooth()).max() <= 12


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=exif)
    media = load_picture(tmp_path / "a.png")
    assert np.array_equal(media.frames[0], smooth())
    assert media.notes == ()


# Row 7: conversions.


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    media = load_picture(tmp_path / "a.png")
    assert np.array_equal(media.frames[0], np.repeat(np.rint(values / 257)[:, :, None], 3, axis=2))
    assert media.notes == ("16-bit grey: 0 to 65535 scaled to 8 bits",)


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_one_value_of_16_bits(tmp_path, shape, stretch):
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 514, np.uint16))
    note = load_picture(tmp_path / "a.png", stretch).notes[-1]
    used = "514 of 0 to 65535" if len(shape) == 2 else "2 of 0 to 255"
    assert note == f"it has one value, {used}: there is nothing to see or to stretch"


def test_16_bit_grey_of_either_byte_order(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        path = tmp_path / "a.tif"
        Image.frombytes(mode, (32, 32), values.astype(order).tobytes()).save(path)
        with Image.open(path) as image:
            assert image.mode == mode
        assert np.array_equal(load_picture(path).frames[0, :, :, 1], np.rint(values / 257))


def test_16_bit_colour_is_scaled(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (16, 20, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values[:, :, ::-1])
    assert difference(load_picture(tmp_path / "a.png").frames[0], np.rint(values / 257)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("top", "noted"), [(4095, True), (8190, True), (8300, False)])
def test_a_range_of_which_less_than_an_eighth_is_used(tmp_path, suffix, top, noted):
    """Of 16-bit colours Pillow decodes the upper 8 bits, so these are stretched in fewer levels."""
    values = np.linspace(0, top, 48 * 64).round().astype(np.uint16).reshape(48, 64)
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), values)
    cv2.imwrite(str(tmp_path / f"colour.{suffix}"), np.repeat(values[:, :, None], 3, axis=2))
    for name in ("grey", "colour"):
        plain, stretched = (load_picture(tmp_path / f"{name}.{suffix}", stretch) for stretch in (False, True))
        assert difference(plain.frames[0, :, :, 0], np.rint(values / 257)).max() <= 1
        assert any("--stretch" in note for note in plain.notes) == noted
        assert not any("--stretch" in note for note in stretched.notes)
        said = first_of_little_range([stretched, plain])
        assert ("little contrast (`stretch=True` scales what it uses); said of the first" in said) == noted
        step = 1 if name == "grey" else 255 / (top // 256)
        assert difference(stretched.frames[0, :, :, 0], values / top * 255).max() <= step


@pytest.mark.parametrize("kind", ["colour.png", "grey.png", "colour.tif"])
def test_16_bit_with_an_alpha_channel_is_stretched_before_it_is_drawn_on_white(tmp_path, kind):
    """The range is that of the pixels that can be seen: what is wholly transparent may have any colour."""
    path, seen = tmp_path / kind, np.s_[8:]
    values = np.linspace(0, 4095, 48 * 64).round().astype(np.uint16).reshape(48, 64)[::-1].copy()
    alpha = np.full_like(values, 65535)
    values[:8], alpha[:8] = 65535, 0
    if kind == "grey.png":
        path.write_bytes(png(64, 48, 16, 4, [row.astype(">u2").tobytes() for row in np.dstack([values, alpha])]))
    else:
        cv2.imwrite(str(path), np.dstack([values, values, values, alpha]))
    plain, stretched = (load_picture(path, stretch) for stretch in (False, True))
    assert difference(plain.frames[0, seen, :, 0], values[seen] / 257).max() <= 1
    assert any("it uses 0 to 13 of 0 to 255" in note for note in plain.notes)
    top = values[seen].max()
    assert difference(stretched.frames[0, seen, :, 0], values[seen] / top * 255).max() <= 255 / (top // 256)
    assert stretched.notes == ("transparency: drawn on white", "16-bit colour: 0 to 13 of 255 scaled, 14 levels")
    assert (stretched.frames[0, :8] == 255).all()


def test_what_cannot_be_stretched_or_need_not_be(tmp_path, cats):
    cv2.imwrite(str(tmp_path / "one.png"), np.full((20, 30), 300, np.uint16))
    for path in (tmp_path / "one.png", cats):
        plain, stretched = load_picture(path), load_picture(path, stretch=True)
        assert np.array_equal(plain.frames, stretched.frames)
        assert plain.notes == stretched.notes


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.array([[0, 300, 65535]], np.int32), 0, 65535),
        (np.array([[0, 30_000, 40_000]], np.int32), 0, 65535),
        (np.array([[-100, 0, 900]], np.int32), -100, 900),
        (np.array([[0, 1_000_000, 2_000_000_000]], np.int32), 0, 2e9),
        (np.array([[0.0, 0.25, 1.0]], np.float32), 0, 1),
        (np.array([[0.1, 0.2, 0.3]], np.float32), 0, 1),
        (np.array([[-3e38, 0, 3e38]], np.float32), -3e38, 3e38),
        (np.array([[0.0, 128.0, 255.0]], np.float32), 0, 255),
    ],
)
def test_32_bit_grey_is_scaled_from_its_range(tmp_path, values, low, high):
    Image.fromarray(values).save(tmp_path / "a.tif")
    media = load_picture(tmp_path / "a.tif")
    expected = np.rint((values.astype(np.float64) - low) / (high - low) * 255)
    assert np.array_equal(media.frames[0], np.repeat(expected[:, :, None], 3, axis=2))
    assert media.notes == (f"32-bit grey: {low:g} to {high:g} scaled to 8 bits",)


def test_floats_that_are_no_numbers(tmp_path):
    values = np.array([[np.nan, -np.inf, 2.0, 3.0, 4.0, np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert load_picture(tmp_path / "a.tif").frames[0, 0, :, 0].tolist() == [0, 0, 0, 128, 255, 255]
    for value in (np.nan, 7.0):
        Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "a.tif")
        assert not load_picture(tmp_path / "a.tif").frames.any()


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_transparency_is_drawn_on_white(tmp_path, name):
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4)).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    colour, alpha = rgba[:, :, :3].astype(float), rgba[:, :, 3:].astype(float)
    media = load_picture(tmp_path / name)
    assert np.array_equal(media.frames[0], np.rint((colour * alpha + 255 * (255 - alpha)) / 255))
    assert media.notes == ("transparency: drawn on white",)


def test_an_opaque_alpha_channel_needs_no_note(tmp_path):
    Image.fromarray(smooth()).convert("RGBA").save(tmp_path / "a.png")
    media = load_picture(tmp_path / "a.png")
    assert np.array_equal(media.frames[0], smooth())
    assert media.notes == ()


def test_grey_with_alpha(tmp_path):
    Image.fromarray(np.array([[[0, 255], [0, 0], [100, 51]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").frames[0, 0, :, 2].tolist() == [0, 255, 224]


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_palette_with_a_transparent_colour(tmp_path, name):
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / name, transparency=1)
    media = load_picture(tmp_path / name)
    assert media.frames[0, 0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255], [255, 255, 255]]
    assert media.notes == ("transparency: drawn on white",)


def test_a_palette_with_several_alphas(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=bytes([255, 51, 0]))
    assert load_picture(tmp_path / "a.png").frames[0, 0].tolist() == [[255, 0, 0], [204, 255, 204], [255, 255, 255]]


@pytest.mark.parametrize(
    ("colour_type", "row", "key", "expected"),
    [
        (0, bytes([10, 20]), b"\0\x14", [[10, 10, 10], [255, 255, 255]]),
        (2, bytes([1, 2, 3, 4, 5, 6]), b"\0\1\0\2\0\3", [[255, 255, 255], [4, 5, 6]]),
    ],
)
def test_a_transparent_colour_without_a_palette(tmp_path, colour_type, row, key, expected):
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, colour_type, [row], (b"tRNS", key)))
    assert load_picture(tmp_path / "a.png").frames[0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours(tmp_path, mode):
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert(mode).save(tmp_path / "a.png")
    media = load_picture(tmp_path / "a.png")
    assert media.frames[0].tolist() == [[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]]
    assert media.notes == ()


def test_cmyk(tmp_path):
    inks = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, expected in inks.items():
        for name in ("a.jpg", "a.tif"):
            Image.new("CMYK", (16, 16), ink).save(tmp_path / name)
            media = load_picture(tmp_path / name)
            assert difference(media.frames[0], np.array(expected)).max() <= 3
            assert media.notes == ("CMYK: converted to RGB without its colour profile",)


def test_a_cmyk_photograph_as_opencv_reads_it(shared_data):
    path = shared_data / "images" / "edge" / "cmyk" / "pil_sample_cmyk.jpg"
    expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert difference(load_picture(path).frames[0], expected).mean() < 3


def test_lab(tmp_path):
    rgb = np.random.default_rng(0).integers(90, 160, (16, 16, 3)).astype(np.uint8)
    signed = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB) ^ np.array([0, 128, 128], np.uint8)
    Image.frombytes("LAB", (16, 16), signed.tobytes()).save(tmp_path / "a.tif")
    media = load_picture(tmp_path / "a.tif")
    assert difference(media.frames[0], rgb).mean() < 3
    assert media.notes == ("LAB: converted to sRGB",)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("a.gif", "animated: only the first frame is used"),
        ("a.webp", "animated: only the first frame is used"),
        ("a.png", "animated: only the first frame is used"),
        ("a.tif", "several pages: only the first page is used"),
        ("a.mpo", "several pictures: only the first picture is used"),
    ],
)
def test_of_several_frames_the_first_is_used(tmp_path, name, note):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    media = load_picture(tmp_path / name)
    assert difference(media.frames, np.array([255, 0, 0])).max() <= 3
    assert len(media.frames) == 1
    assert media.notes == (note,)


@pytest.mark.parametrize("second", [b"", b",", b"," + bytes(8) + b"\x80", b"!\xf9", b"rubbish"])
def test_what_is_broken_behind_the_first_frame_does_not_matter(tmp_path, second):
    path = tmp_path / "a.gif"
    Image.radial_gradient("L").save(path)
    whole, data = load_picture(path).frames, path.read_bytes()
    assert data[-1:] == b";"
    path.write_bytes(data[:-1] + second)
    assert np.array_equal(load_picture(path).frames, whole)


def test_a_phone_s_jpg_with_several_pictures_inside(shared_data, tmp_path):
    path = tmp_path / "IMG_0001.jpg"
    shutil.copyfile(shared_data / "images" / "edge" / "other" / "frozenpond.mpo", path)
    expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert difference(load_picture(path).frames[0], expected).mean() < 2


# Row 8: shapes.


@pytest.mark.parametrize(("name", "settings", "noise"), FORMATS)
def test_one_pixel(tmp_path, name, settings, noise):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / name, **settings)
    media = load_picture(tmp_path / name)
    assert media.frames.shape == (1, 1, 1, 3)
    assert difference(media.frames, np.array([200, 100, 50])).max() <= noise


@pytest.mark.parametrize(
    ("width", "height", "fits"), [(200, 1, True), (201, 1, False), (2, 400, True), (2, 401, False)]
)
def test_one_side_much_longer_than_the_other(make_picture, width, height, fits):
    path = make_picture(width, height)
    if fits:
        assert load_picture(path).size_px == (width, height)
    else:
        text = refusal(path)
        assert f"{width} x {height} pixels: one side is more than 200 times the other" in text


# Row 14: nothing is fetched.


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "HTTPS://example.com/a.jpg",
        "https:/example.com/a.jpg",
        " https://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "s3://bucket/a.jpg",
        "gs://bucket/a.jpg",
        "rtsp://camera/a.jpg",
        "file:///tmp/a.jpg",
        "file:/tmp/a.jpg",
        "data:image/png;base64,AAAA/a.jpg",
        "data:image/png;base64," + "A" * 100_000 + "/a.jpg",
    ],
)
def test_a_url_is_refused_and_no_socket_is_opened(monkeypatch, url):
    def no_socket(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    text = refusal(url)
    assert "is a URL" in text
    assert "download it first" in text
    assert len(text) < 500


@pytest.mark.parametrize("name", ["C:/pictures/a.png", "c:a.png", "half past 10:30.png", "2024-01-01T10:30.png"])
def test_a_colon_alone_makes_no_url(name):
    assert "does not exist" in refusal(name)


def test_a_playlist_in_disguise(tmp_path):
    (tmp_path / "a.jpg").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n")
    assert "is not a JPEG" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["clip.mp4", "CLIP.MOV", "a.b.mkv", "a.webm", "a.avi", "a.m4v", "a.mpg", "a.mpeg"])
def test_a_clip_belongs_to_the_other_command(tmp_path, name):
    (tmp_path / name).write_bytes(b"any bytes")
    assert is_clip(name)
    text = refusal(tmp_path / name)
    assert f"{name} is a clip, and a picture is wanted here" in text
    assert "ask about clips with ask_video (qvl-attn video)" in text


@pytest.mark.parametrize("name", ["a.png", "mp4", "a.mp4.png", "mp4/a.jpg", "a.gif"])
def test_a_picture_s_name_is_no_clip_s(name):
    assert not is_clip(Path(name))


# All real files, good and bad.


def test_every_real_file_gives_a_picture_or_a_clear_line(shared_data):
    images = shared_data / "images"
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    results, stderr = answers(*paths)
    assert set(results) == {str(path) for path in paths}
    for path, (seconds, answer) in results.items():
        assert seconds < 60, path
        assert "error" not in answer or check_text(answer["error"], path) is None
        if Path(path).parent.name in ("coco128", "demo", "exif_orientation", "orient", "alpha", "cmyk", "exif"):
            assert "frames" in answer, (path, answer)
    assert "Warning" not in stderr
    assert "More samples per pixel" not in stderr
    assert "broken" in results[str(images / "corrupt" / "libtiff_segfault.tif")][1]["error"]
    for name in ("bmp_b_reallybig.bmp", "decompression_bomb.gif"):
        assert "89,478,485" in results[str(images / "corrupt" / name)][1]["error"]


def test_pillow_is_left_as_it_was(make_picture):
    limit = Image.MAX_IMAGE_PIXELS
    assert isinstance(load_picture(make_picture(4, 4)), Media)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.fixture
def broken_tiff(tmp_path) -> Path:
    """A TIFF about which libtiff prints a line."""
    path = tmp_path / "broken.tif"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, compression="tiff_lzw")
    data = path.read_bytes()
    path.write_bytes(data[:200] + b"\xff" * 1800 + data[2000:])
    return path


def test_libtiff_prints_nothing_and_what_other_threads_print_arrives(broken_tiff, capfd):
    printing = threading.Event()

    def load() -> None:
        while True:
            with pytest.raises(InputError, match="broken"):
                load_picture(broken_tiff)
            if not printing.is_set():
                return

    printing.set()
    thread = threading.Thread(target=load)
    thread.start()
    lines = [f"line {i}" for i in range(200)]
    for line in lines:
        os.write(2, f"{line}\n".encode())
        time.sleep(0.0005)
    printing.clear()
    thread.join()
    assert capfd.readouterr().err.splitlines() == lines


def test_a_tiff_is_read_in_a_process_without_stderr(tmp_path):
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "a.tif")
    script = (
        "import sys; from qvl_attn.core.runtime import suppress_stderr; from qvl_attn.media.image import load_picture;"
        "suppress_stderr().__enter__(); print(sys.stderr, load_picture(sys.argv[1]).size_px)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "a.tif")]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *words], stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout == "None (30, 20)\n"
