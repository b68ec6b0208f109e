"""Saved results of encoders are found without torch exactly where a run would look for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qvl_attn import Drawing, EncoderSettings
from qvl_attn.core.errors import ModelError
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.session import EncoderRequest, find_saved
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.session import Saving
from tests.helpers import tiny_encoders
from tests.helpers.encoder_records import encoder_folder

PICTURE = SimpleNamespace(source="a/cats.png", sha256="00")
ASKED = {
    "a picture": (PICTURE, EncoderSettings()),
    "another picture": (SimpleNamespace(source="a/cats.png", sha256="01"), EncoderSettings()),
    "points": (PICTURE, EncoderSettings(at=((3.0, 4.0),))),
    "a layer": (PICTURE, EncoderSettings(layer=1)),
    "a clip": (PICTURE, EncoderSettings(clip=ClipSettings(fps=4))),
}


@pytest.fixture(params=["demo", *tiny_encoders.NAMES])
def model(request) -> str:
    return request.param if request.param == "demo" else str(tiny_encoders.folder(request.param))


@pytest.fixture(autouse=True)
def unread(monkeypatch):
    """The results are empty files."""
    monkeypatch.setattr("qvl_attn.results.session.read_again", lambda *args: None)


def found(*names, drawing=None, out, model, **options):
    """Return the folders of saved results."""
    requests = [EncoderRequest(ASKED[name][0].source, *ASKED[name]) for name in names]
    results = find_saved(requests, Saving(out, drawing or Drawing()), model, **options)
    return None if results is None else [saved.folder for saved in results]


def finish(folder) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").touch()


@pytest.mark.parametrize("options", [{}, {"device": "cpu", "dtype": "bfloat16"}], ids=["auto", "named"])
def test_every_request_finds_its_own_result_and_no_other(model, options, tmp_path):
    provenance = EncoderEngine.load(model, **options).provenance
    folders = [encoder_folder(tmp_path, *asked, Drawing(), provenance) for asked in ASKED.values()]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert found(*ASKED, out=tmp_path, model=model, **options) is None
        finish(folder)
    assert found(*ASKED, out=tmp_path, model=model, **options) == folders
    assert found("a picture", drawing=Drawing(alpha=0.3), out=tmp_path, model=model, **options) is None
    assert found("a picture", out=tmp_path, model=model, dtype="float16", device="cpu") is None


def test_only_torch_can_tell_where_it_does_not_say_its_version(tmp_path, monkeypatch):
    provenance = EncoderEngine.load("demo").provenance
    finish(encoder_folder(tmp_path, *ASKED["a picture"], Drawing(), provenance))
    monkeypatch.setattr("qvl_attn.model.placement.torch_build", lambda: None)
    assert found("a picture", out=tmp_path, model="demo") is None


def test_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match="'llava' model, not a supported vision encoder"):
        find_saved([], Saving(tmp_path, Drawing()), str(tmp_path))
