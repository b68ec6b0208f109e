"""HEIC pictures: named as such, and read with pillow-heif: upright, in 8 bits, within the limits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from qvl_attn.core.errors import InputError
from qvl_attn.media import image
from qvl_attn.media.heif import is_heif
from qvl_attn.media.image import is_picture, load_picture, upright_size_px
from qvl_attn.media.video import open_clip

WIDTH, HEIGHT = 96, 64


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    brands = b"".join(compatible)
    return (16 + len(brands)).to_bytes(4, "big") + b"ftyp" + major + bytes(4) + brands


def smooth() -> np.ndarray:
    """A picture whose colours tell left from right and top from bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return np.stack([x, y, 255 - x], axis=2).round().astype(np.uint8)


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif")


@pytest.fixture
def heic(heif, tmp_path):
    """Write a HEIC picture."""

    def write(name="a.heic", pixels=None, bits=8, **options):
        pixels = smooth() if pixels is None else pixels
        if bits == 8:
            heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / name, quality=-1, chroma=444, **options)
        else:
            data = (pixels.astype(np.uint16) * 257).tobytes()
            heif.encode("RGB;16", (WIDTH, HEIGHT), data, tmp_path / name, quality=-1, chroma=444, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("head", "heic"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), True),
        (ftyp(b"heix", b"mif1"), True),
        (ftyp(b"mif1", b"mif1", b"heic"), True),
        (ftyp(b"msf1", b"hevc"), True),
        (ftyp(b"mif1", b"mif1", b"avif", b"miaf"), False),
        (ftyp(b"avif", b"mif1"), False),
        (ftyp(b"isom", b"heic"), False),
        (ftyp(b"qt  "), False),
        (b"", False),
        (ftyp(b"mif1") + b"avif", True),  # after the box
    ],
)
def test_the_brands(head, heic):
    assert is_heif(head) == heic
    assert is_picture(head) == (b"isom" not in head and b"qt" not in head and head != b"")


@pytest.mark.parametrize("major", [b"heic", b"heix", b"mif1", b"msf1", b"hevc"])
def test_without_pillow_heif_it_is_named_with_the_remedy(tmp_path, monkeypatch, major):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.jpg"  # whatever its name
    path.write_bytes(ftyp(major, b"heic") + bytes(400))
    for read in (load_picture, lambda path: upright_size_px(path, "IMG_0001.jpg")):
        with pytest.raises(
            InputError, match=r"IMG_0001.jpg is a HEIC picture, and pillow-heif is not installed"
        ) as fault:
            read(path)
        assert "pip install 'qvl-attn[heif]'" in fault.value.hint
    with pytest.raises(InputError, match="is a picture, not a clip"):
        open_clip(path)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_a_mif1_that_is_an_avif_is_read_without_pillow_heif(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.fromarray(smooth()).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    data = (tmp_path / "a.avif").read_bytes()
    assert data[8:12] == b"avif"
    (tmp_path / "b.avif").write_bytes(data[:8] + b"mif1" + data[12:])
    first, second = (load_picture(tmp_path / name).frames for name in ("a.avif", "b.avif"))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("bits", [8, 10])
def test_it_is_read(heic, bits):
    path = heic(bits=bits)
    media = load_picture(path)
    assert (media.size_px, media.notes) == ((WIDTH, HEIGHT), ())
    assert np.abs(media.frames[0].astype(int) - smooth()).max() <= 3
    assert upright_size_px(path, "a.heic") == upright_size_px(path.read_bytes(), "a.heic") == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_once(heic, tmp_path, orientation):
    """A JPEG with the same orientation is the reference. In the HEIC it is written as `irot` and `imir`, too."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    path = heic(exif=exif.tobytes())
    turned, wanted = load_picture(path), load_picture(tmp_path / "a.jpg")
    assert turned.size_px == wanted.size_px == upright_size_px(path, "a.heic")
    assert np.abs(turned.frames[0].astype(int) - wanted.frames[0]).max() <= 8


def test_of_several_the_main_one_is_used(heif, tmp_path):
    file = heif.HeifFile()
    for level in (10, 200):
        file.add_from_pillow(Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3))
    file.save(tmp_path / "a.heic", primary_index=1)
    media = load_picture(tmp_path / "a.heic")
    assert abs(int(media.frames.mean()) - 200) <= 3
    assert media.notes == ("several pictures: only the main picture is used",)


def test_limits_and_broken_files(heic, tmp_path, monkeypatch, capfd):
    path = heic()
    data = path.read_bytes()
    for cut in (40, 300, len(data) // 2, len(data) - 20):
        (tmp_path / "cut.heic").write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"cut.heic (is truncated|cannot be decoded)"):
            load_picture(tmp_path / "cut.heic")
    monkeypatch.setattr(image, "MAX_PIXELS", 6000)
    for read in (load_picture, lambda path: upright_size_px(path, "a.heic")):
        with pytest.raises(InputError, match=r"has 96 x 64 = 6,144 pixels; the limit is 6,000"):
            read(path)
    assert capfd.readouterr() == ("", "")


def test_a_question_about_it(demo, heic, cats):
    pixels = np.asarray(Image.open(cats).convert("RGB"))
    assert demo.ask(heic(pixels=pixels), "how many cats?").answer == demo.ask(cats, "how many cats?").answer
