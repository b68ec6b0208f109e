"""The page of an encoder's result, made again without a model."""

from __future__ import annotations

import json

import pytest

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.report import make_report
from tests.helpers import tiny_encoders
from tests.helpers.kept import write_kept
from tests.helpers.pages import Reader, assert_close
from tests.helpers.small import SMALL_DRAWING


@pytest.fixture(scope="module")
def result():
    return tiny_encoders.encoder("registers").encode(
        tiny_encoders.picture(120, 118), EncoderSettings(at=((60.0, 50.0),))
    )


@pytest.fixture(scope="module")
def saved_folder(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("out"), SMALL_DRAWING)


def test_the_page_is_written_and_made_again(result, saved_folder, tmp_path):
    first = Reader((saved_folder / "report.html").read_text(encoding="utf-8"))
    assert make_report(saved_folder, tmp_path / "again.html") == tmp_path / "again.html"
    again = Reader((tmp_path / "again.html").read_text(encoding="utf-8"))
    assert again.scripts["code"] == first.scripts["code"]
    notes = json.loads((saved_folder / "result.json").read_text(encoding="utf-8"))["notes"]
    assert again.data["notes"] == first.data["notes"] == notes
    loaded = EncoderResult.load(saved_folder)
    for page, source in ((first, result), (again, loaded)):
        for number, name in enumerate(source.attention.queries):
            block = page.data["queries"][number]["maps"]["mean"]["block"]
            layers = [source.attention.map(name, layer) for layer in range(source.attention.layer_count)]
            assert_close(page.block(block), [values.ravel() for values in layers])
        clicked = page.data["clicked"]
        assert clicked["places"] == result.patch_row_places.tolist()
        for layer, block in enumerate(clicked["blocks"]):
            assert_close(page.block(block), loaded.patch_rows[layer].reshape(len(clicked["places"]), -1))
    make_report(saved_folder)
    assert (saved_folder / "report.html").read_text(encoding="utf-8") == (tmp_path / "again.html").read_text(
        encoding="utf-8"
    )


def test_results_of_two_kinds_have_no_page(saved_folder, tmp_path):
    asked = write_kept("ask", tmp_path / "ask")
    with pytest.raises(InputError, match="is a result of another kind than") as caught:
        make_report([saved_folder, asked], tmp_path / "both.html")
    assert "name results of one kind" in str(caught.value.hint)


def test_a_damaged_folder_is_reported(saved_folder, tmp_path):
    value = json.loads((saved_folder / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "result.json").write_text(json.dumps({**value, "notes": 3}), encoding="utf-8")
    for path in saved_folder.iterdir():
        if path.name not in ("result.json", "report.html"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(StoreError, match="damaged"):
        make_report(tmp_path)
    (tmp_path / "attention.npz").unlink()
    with pytest.raises(StoreError):
        make_report(tmp_path)


@pytest.mark.parametrize("name", ["picture", "clip"])
def test_a_page_that_is_made_again_is_the_same(tmp_path, name):
    media = tiny_encoders.picture(96, 80) if name == "picture" else tiny_encoders.clip(84, 56, 5)
    result = tiny_encoders.encoder("dinov2").encode(media, EncoderSettings(at=((40.0, 28.0),)))
    folder = result.save(tmp_path, SMALL_DRAWING)
    first = (folder / "report.html").read_text(encoding="utf-8")
    assert make_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") == first
