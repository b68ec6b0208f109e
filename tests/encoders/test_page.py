"""The page of an encoder's folder, made again without a model."""

from __future__ import annotations

import json

import pytest

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.report import make_report
from tests.helpers import tiny_encoders
from tests.helpers.pages import Reader, assert_close


@pytest.fixture(scope="module")
def look():
    return tiny_encoders.encoder("registers").encode(
        tiny_encoders.picture(120, 118), EncoderSettings(at=((60.0, 50.0),))
    )


@pytest.fixture(scope="module")
def kept(look, tmp_path_factory):
    return look.save(tmp_path_factory.mktemp("out"))


def test_it_is_there_and_is_made_again(look, kept, tmp_path):
    first = Reader((kept / "report.html").read_text(encoding="utf-8"))
    assert make_report(kept, tmp_path / "again.html") == tmp_path / "again.html"
    again = Reader((tmp_path / "again.html").read_text(encoding="utf-8"))
    assert again.scripts["code"] == first.scripts["code"]
    notes = json.loads((kept / "result.json").read_text(encoding="utf-8"))["notes"]
    assert again.data["notes"] == first.data["notes"] == notes
    read = EncoderResult.load(kept)
    for page, shown in ((first, look), (again, read)):
        for number, name in enumerate(shown.attention.queries):
            block = page.data["queries"][number]["maps"]["mean"]["block"]
            layers = [shown.attention.map(name, layer) for layer in range(shown.attention.layer_count)]
            assert_close(page.block(block), [one.ravel() for one in layers])
        clicked = page.data["clicked"]
        assert clicked["places"] == look.patch_row_places.tolist()
        for layer, block in enumerate(clicked["blocks"]):
            assert_close(page.block(block), read.patch_rows[layer].reshape(len(clicked["places"]), -1))
    make_report(kept)
    assert (kept / "report.html").read_text(encoding="utf-8") == (tmp_path / "again.html").read_text(encoding="utf-8")


def test_it_stands_alone(kept, tmp_path):
    with pytest.raises(InputError, match="is an encoder result") as fault:
        make_report([kept, tmp_path], tmp_path / "both.html")
    assert "name it alone" in str(fault.value.hint)


def test_a_damaged_folder_is_told(kept, tmp_path):
    reported = json.loads((kept / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "result.json").write_text(json.dumps({**reported, "notes": 3}), encoding="utf-8")
    for one in kept.iterdir():
        if one.name not in ("result.json", "report.html"):
            (tmp_path / one.name).symlink_to(one)
    with pytest.raises(StoreError, match="damaged"):
        make_report(tmp_path)
    (tmp_path / "attention.npz").unlink()
    with pytest.raises(StoreError):
        make_report(tmp_path)


@pytest.mark.parametrize("name", ["picture", "clip"])
def test_a_page_that_is_made_again_is_the_same(tmp_path, name):
    media = tiny_encoders.picture(96, 80) if name == "picture" else tiny_encoders.clip(84, 56, 5)
    folder = tiny_encoders.encoder("dinov2").encode(media, EncoderSettings(at=((40.0, 28.0),))).save(tmp_path)
    first = (folder / "report.html").read_text(encoding="utf-8")
    assert make_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") == first
