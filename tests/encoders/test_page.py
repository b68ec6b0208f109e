"""The page of an encoder's result, made again without a model."""

from __future__ import annotations

import json

import pytest

from qvl_attn.core.errors import StoreError
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.report import make_report
from tests.helpers import tiny_encoders
from tests.helpers.kept import KEPT
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
    (first_part,), (part,) = first.data["results"], again.data["results"]
    assert part["notes"] == first_part["notes"] == notes
    loaded = EncoderResult.load(saved_folder)
    for page, source in ((first, result), (again, loaded)):
        queries, places = source.attention.queries, loaded.patch_row_places.tolist()
        assert page.data["results"][0]["cell_rows"] == places
        for layer in range(source.attention.layer_count):
            maps = [source.attention.map(name, layer).ravel() for name in queries]
            block = page.maps(layer)
            assert len(block) == len(queries) + len(places)
            assert_close(block[: len(queries)], maps)
            assert_close(block[len(queries) :], loaded.patch_rows[layer].reshape(len(places), -1))
    make_report(saved_folder)
    assert (saved_folder / "report.html").read_text(encoding="utf-8") == (tmp_path / "again.html").read_text(
        encoding="utf-8"
    )


def test_results_of_two_kinds_stand_on_one_page(saved_folder, tmp_path):
    make_report([KEPT / "ask", saved_folder], tmp_path / "both.html")
    page = Reader((tmp_path / "both.html").read_text(encoding="utf-8"))
    assert [part["kind"] for part in page.data["results"]] == ["question", "encoder"]
    assert page.data["results"][1]["cell_rows"]


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
