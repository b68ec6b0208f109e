"""Saved results are found without torch exactly where the model's own run would look for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qvl_attn.attribution.profiles import Profile, profile_json, shape_of
from qvl_attn.core.errors import InputError
from qvl_attn.core.files import write_json
from qvl_attn.media.image import load_picture
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model import placement
from qvl_attn.model.checkpoint import Checkpoint, find_checkpoint
from qvl_attn.model.loading import choose_placement, load_config
from qvl_attn.model.placement import sure_placement
from qvl_attn.model.preprocess import load_clip
from qvl_attn.render.style import Drawing
from qvl_attn.results.session import Saving
from qvl_attn.vqa.clip import prepare_clip
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.session import find_saved, result_folder

QUESTION = "how many cats?"
REQUESTS = {
    "as it is": {},
    "another question": {"text": "how many dogs?"},
    "two pictures": {"pictures": 2},
    "a method": {"method": "relative,mean"},
    "layers": {"layers": "1-2"},
    "heads": {"heads": "1.2"},
    "a query": {"query": "last"},
    "an answer": {"answer": "two"},
    "a system prompt": {"system": "Be brief."},
    "pixels": {"max_pixels": 20_000},
    "stretched pictures": {"stretch": True},
    "new tokens": {"max_new_tokens": 3},
    "half heads": {"heads": "1", "store_heads": "float16"},
    "a profile": {"profile": "mine.json"},
    "faithfulness": {"faithfulness": True},
    "a drawing": {"drawing": Drawing(alpha=0.3)},
    "rows": {"attn": "rows"},
    "16 bits": {"dtype": "bfloat16"},
    "a copied model": {"model": "copy"},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory, engine):
    """A folder with a profile and a copy of the embedded model whose tokenizer's settings differ by a space."""
    folder = tmp_path_factory.mktemp("here")
    profile = Profile("mine", "measured", "a test", shape_of(engine.config), heads=((1, 0), (3, 2)), query="last")
    write_json(folder / "mine.json", profile_json(profile, {}))
    shutil.copytree(engine.checkpoint.folder, folder / "copy")
    with (folder / "copy" / "config.json").open("a") as file:
        file.write(" ")
    return folder


@pytest.fixture
def in_folder(here, monkeypatch):
    monkeypatch.chdir(here)


def request(cats, wide, text=QUESTION, pictures=1, drawing=None, model="demo", attn="auto", dtype="auto", **typed):
    """Return the arguments of `find_saved` but the folder of the results, and the options of the model."""
    media = [load_picture(path) for path in (cats, wide)[:pictures]]
    options = {"model": model, "device": "auto", "dtype": dtype, "attn": attn}
    return media, text, drawing or Drawing(), typed, options


def folder_of_the_model(media, text, drawing, typed, options, out):
    """Return the folder that a run of the model would write."""
    engine = Engine.load(**options)
    (question,) = engine.prepare([(media, text)], engine.settings(**typed))
    return result_folder(engine, question, media, Saving(out, drawing))


def found(media, text, drawing, typed, options, out):
    return folders_of(find_saved(media, [text], Saving(out, drawing), typed, **options))


def folders_of(results):
    return None if results is None else [saved.folder for saved in results]


@pytest.fixture(autouse=True)
def unread(monkeypatch):
    """The results are empty files."""
    monkeypatch.setattr("qvl_attn.results.session.read_again", lambda *args: None)


def finish(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").touch()


def test_every_request_finds_its_own_result_and_no_other(in_folder, cats, wide, tmp_path):
    requests = {name: request(cats, wide, **options) for name, options in REQUESTS.items()}
    folders = {name: folder_of_the_model(*asked, tmp_path) for name, asked in requests.items()}
    assert len(set(folders.values())) == len(folders)
    for name, asked in requests.items():
        assert found(*asked, tmp_path) is None, name
    for name in requests:
        finish(folders[name])
    for name, asked in requests.items():
        assert found(*asked, tmp_path) == [folders[name]], name


def test_auto_takes_either_kind_of_attention(cats, wide, tmp_path):
    for attn in ("rows", "eager"):
        named = request(cats, wide, attn=attn)
        folder = folder_of_the_model(*named, tmp_path / attn)
        finish(folder)
        assert found(*request(cats, wide), tmp_path / attn) == [folder]


def test_all_questions_or_none(cats, wide, tmp_path):
    asked = [request(cats, wide, text=text) for text in (QUESTION, "how many dogs?")]
    folders = [folder_of_the_model(*one, tmp_path) for one in asked]
    media, _, drawing, typed, options = asked[0]

    def of_both():
        texts = [text for _, text, *_ in asked]
        return folders_of(find_saved(media, texts, Saving(tmp_path, drawing), typed, **options))

    finish(folders[1])
    assert of_both() is None
    finish(folders[0])
    assert of_both() == folders


@pytest.mark.parametrize("mode", ["clip", "frames", "both"])
def test_a_clip_is_not_decoded(engine, clip_file, tmp_path, mode):
    path = clip_file(8)
    typed = {"clip": ClipSettings(fps=4, mode=mode)}
    video = open_clip(path)
    settings = engine.settings(**typed)
    media = load_clip(engine.processor, video, settings)
    (question,) = prepare_clip(engine, media, [QUESTION], settings)
    folder = result_folder(engine, question.prompts[0], (media,), Saving(tmp_path / "out", Drawing()))
    finish(folder)
    undecoded = SimpleNamespace(source=video.source, sha256=video.sha256)
    saved = find_saved([undecoded], [QUESTION], Saving(tmp_path / "out", Drawing()), typed, "demo", dtype="float32")
    assert folders_of(saved) == [folder]


def test_the_placement_is_that_of_torch():
    checkpoint = find_checkpoint("demo")
    config = load_config(checkpoint)
    for device in ("auto", "cpu"):
        for dtype in ("auto", "float32", "bfloat16", "float16"):
            sure = sure_placement(checkpoint, device, dtype, None)
            placed = choose_placement(config, device, dtype)
            assert sure in (None, (placed.device, placed.dtype))
            assert sure is not None or device == "auto", "the CPU was named"


def test_what_torch_says_of_itself_is_read_without_it(monkeypatch, tmp_path):
    assert placement.torch_build()["__version__"] == torch.__version__
    assert placement.torch_build()["cuda"] == torch.version.cuda
    for origin in (None, str(tmp_path / "__init__.py")):
        monkeypatch.setattr(placement, "find_spec", lambda name, origin=origin: SimpleNamespace(origin=origin))
        assert placement.torch_build() is None


@pytest.mark.parametrize(
    ("build", "driver", "sure"),
    [
        ({"cuda": None, "hip": None}, True, True),
        ({"cuda": "13.0", "hip": None}, False, True),
        ({"cuda": "13.0", "hip": None}, True, False),
        ({"cuda": None, "hip": "7.0"}, True, False),
        ({}, True, False),
        (None, True, False),
    ],
)
def test_only_torch_can_tell_where_a_driver_is_installed(monkeypatch, build, driver, sure):
    def load(name):
        if not driver:
            raise OSError(name)

    monkeypatch.setattr(placement, "CDLL", load)
    monkeypatch.setattr(placement, "torch_build", lambda: build)
    monkeypatch.setattr(placement.sys, "platform", "linux")
    checkpoint = find_checkpoint("demo")
    assert (sure_placement(checkpoint, "auto", "float32", None) is not None) == sure
    assert sure_placement(checkpoint, "cpu", "float32", None) == ("cpu", "float32")
    assert sure_placement(checkpoint, "cuda", "float32", None) is None
    assert sure_placement(checkpoint, "auto", "float32", "auto") is None


def test_only_torch_can_tell_where_memory_is_short(engine, monkeypatch):
    checkpoint = find_checkpoint("demo")
    needed = 4 * sum(parameter.numel() for parameter in engine.model.parameters()) + placement.SPARE_BYTES
    for free, sure in ((needed, False), (needed + 1, True)):
        monkeypatch.setattr(placement.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert (sure_placement(checkpoint, "cpu", "auto", None) is not None) == sure
        assert sure_placement(checkpoint, "cpu", "bfloat16", None) == ("cpu", "bfloat16")


def test_only_torch_can_tell_what_is_wrong_with_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert sure_placement(Checkpoint("broken", tmp_path, ""), "cpu", "auto", None) is None


def test_what_transformers_would_fill_in_is_left_to_it(here, cats, wide, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(here / "copy", folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers"', '"n_layers"'))
    assert found(*request(cats, wide, model=str(folder)), tmp_path) is None


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"method": "foo"}, InputError, "no method 'foo'"),
        ({"layers": "2-99"}, InputError, "no layer 99"),
        ({"heads": "9"}, InputError, "no head 9"),
        ({"query": "words"}, InputError, "`query='words'`: unknown"),
        ({"answer": " "}, InputError, "the answer is empty"),
        ({"max_new_tokens": 0}, InputError, "`max_new_tokens=0`: want"),
        ({"store_heads": "int8"}, InputError, "`store_heads='int8'`: unknown"),
        ({"profile": "none", "method": "heads"}, InputError, "no profile with heads"),
        ({"dtype": "int8"}, InputError, "`dtype='int8'`"),
        ({"model": "nowhere"}, InputError, "no such folder"),
        ({"model": "."}, InputError, r"no config\.json"),
    ],
)
def test_what_is_wrong_is_refused(in_folder, cats, wide, tmp_path, changed, error, words):
    with pytest.raises(error, match=words):
        found(*request(cats, wide, **changed), tmp_path)
