"""A run of an encoder over a folder of pictures: its summary, and that it survives errors and kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError, ModelError, StoreError
from qvl_attn.encoders import folder_run as folder_run_module
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.folder_json import ByStatistic, read_folder_rows
from qvl_attn.encoders.folder_pictures import list_pictures
from qvl_attn.encoders.folder_run import encode_folder
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import STATISTICS, statistics_of
from qvl_attn.media.image import load_picture
from qvl_attn.results.run_folder import read_rows
from tests.helpers import tiny_encoders
from tests.helpers.check_runs import line_count
from tests.helpers.processes import signal_at_call, start_command

SIZES = {"cats/a b.png": (90, 80), "cats/猫.png": (80, 101), "dogs/c.png": (120, 70), "dogs/deep/d\ne.png": (75, 75)}
SIZES |= {"loose.png": (99, 88)}
EMBED = EncoderSettings(embeddings=("pca",))


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Draw no charts: they take most of the time of a small run."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(
            "qvl_attn.encoders.folder_summary.draw_folder_statistics", lambda *args: np.zeros((4, 4, 3), np.uint8)
        )
        monkeypatch.setattr("qvl_attn.encoders.folder_summary.folder_images", lambda *args: ())


@pytest.fixture
def drawn():
    """Do draw the charts."""


def write(folder: Path, name: str, size=(80, 80), seed=0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny_encoders.pixels(*size, seed)[0]).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for seed, (name, size) in enumerate(SIZES.items()):
        write(folder, name, size, seed)
    return folder


def encoder(name: str = "dino") -> EncoderEngine:
    return tiny_encoders.encoder(name)


def rows(out: Path) -> dict[str, dict]:
    return {row["id"]: row for row in read_rows(out)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words, model: str = "dino"):
    return CliRunner().invoke(app, ["encoder", "--model", str(tiny_encoders.folder(model)), *map(str, words)])


@pytest.fixture
def loaded(monkeypatch):
    """Run the command with an encoder that is already loaded."""
    monkeypatch.setattr(EncoderEngine, "load", lambda model, **options: encoder(Path(model).name))


@pytest.mark.parametrize("name", ["dino", "registers", "qwen"])
def test_mean_and_spread_are_those_of_single_results(photos, tmp_path, name):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    limits = {"max_pixels": 9000} if name == "qwen" else {}
    summary = encode_folder(encoder(name), photos, tmp_path / "out", EncoderSettings(**limits))
    results = [encoder(name).encode(load_picture(photos / file), EncoderSettings(**limits)) for file in SIZES]
    assert (summary["pictures"], summary["looked_at"], summary["errors"]) == (6, 5, 1)
    all_statistics = [statistics_of(result.attention) for result in results]
    assert ("window_share" in all_statistics[0]) == (name == "qwen")
    for key in all_statistics[0]:
        values = np.array([statistics[key].values.mean(axis=1) for statistics in all_statistics])  # (N, L)
        chance = np.array([statistics[key].chance for statistics in all_statistics]).mean(axis=0)
        for layer, row in enumerate(summary["layers"]):
            summary_row = row[key]
            assert summary_row["mean"] == pytest.approx(values[:, layer].mean(), rel=1e-5)
            assert summary_row["deviation"] == pytest.approx(values[:, layer].std(ddof=1), rel=1e-3, abs=1e-5)
            assert summary_row["low"] == pytest.approx(np.percentile(values[:, layer], 5), rel=1e-5)
            assert summary_row["high"] == pytest.approx(np.percentile(values[:, layer], 95), rel=1e-5)
            assert summary_row["chance"] == pytest.approx(chance[layer], rel=1e-5)
    by_id = rows(tmp_path / "out")
    assert {key: row["label"] for key, row in by_id.items()} == {
        "broken.png": "",
        "cats/a b.png": "cats",
        "cats/猫.png": "cats",
        "dogs/c.png": "dogs",
        "dogs/deep/d\ne.png": "dogs",
        "loose.png": "",
    }
    assert by_id["broken.png"]["status"] == "error"
    assert "broken" in by_id["broken.png"]["error"]
    assert {*summary["files"]} == {*files(tmp_path / "out")}
    assert json.loads(json.dumps([*read_folder_rows(tmp_path / "out")])) == [*read_rows(tmp_path / "out")]
    assert tuple(ByStatistic.__annotations__) == STATISTICS


def test_embeddings_are_those_of_single_pictures(photos, tmp_path):
    summary = encode_folder(encoder("registers"), photos, tmp_path / "out", EMBED)
    with np.load(tmp_path / "out" / "embeddings.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert sorted(arrays["names"].tolist()) == sorted(SIZES)
    for name, label, vectors in zip(
        arrays["names"], arrays["classes"], arrays["vectors"].transpose(1, 0, 2), strict=True
    ):
        assert np.allclose(vectors, encoder("registers").pooled(load_picture(photos / name)), atol=1e-5)
        assert label == ("" if "/" not in name else name.partition("/")[0])
    assert not (tmp_path / "out" / "vectors").exists()
    assert len(summary["separation"]) == tiny_encoders.LAYERS + 1


def test_a_finished_run_is_reported_again_without_weights(photos, tmp_path, monkeypatch):
    first = encode_folder(encoder(), photos, tmp_path / "out", EncoderSettings())
    before = files(tmp_path / "out")
    monkeypatch.setattr(EncoderEngine, "capture", lambda *args, **options: pytest.fail("it encoded again"))
    fresh = EncoderEngine.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    assert encode_folder(fresh, photos, tmp_path / "out", EncoderSettings()) == first
    assert files(tmp_path / "out") == before
    assert "model" not in vars(fresh)


def test_a_stopped_run_is_resumed(photos, tmp_path, monkeypatch):
    whole = encode_folder(encoder(), photos, tmp_path / "whole", EMBED)
    sources, capture = [], EncoderEngine.capture

    def stopping(self, media, settings=None, **options):
        sources.append(media.source)
        if len(sources) == 3:
            raise KeyboardInterrupt
        return capture(self, media, settings, **options)

    monkeypatch.setattr(EncoderEngine, "capture", stopping)
    with pytest.raises(KeyboardInterrupt):
        encode_folder(encoder(), photos, tmp_path / "out", EMBED)
    assert len(rows(tmp_path / "out")) == 2
    with (tmp_path / "out" / "scores.jsonl").open("ab") as file:
        file.write(b'{"id": "dogs/c.png", "sta')  # torn by a kill
    sources.clear()
    sources.extend(["x"] * 3)
    assert encode_folder(encoder(), photos, tmp_path / "out", EMBED) == whole
    assert len(sources) == 3 + 3
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    ours, theirs = files(tmp_path / "out"), files(tmp_path / "whole")
    assert {*ours} == {*theirs}
    assert ours["embeddings.npz"] == theirs["embeddings.npz"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda folder: write(folder, "cats/a b.png", seed=99), "pictures changed: 1"),
        (lambda folder: (folder / "loose.png").unlink(), "pictures removed: 1"),
        (lambda folder: (folder / "loose.png").rename(folder / "dogs" / "loose.png"), "pictures removed: 1"),
    ],
)
def test_changed_pictures_are_refused(photos, tmp_path, change, word):
    encode_folder(encoder(), photos, tmp_path / "out", EncoderSettings())
    before = files(tmp_path / "out")
    change(photos)
    with pytest.raises(InputError) as caught:
        encode_folder(encoder(), photos, tmp_path / "out", EncoderSettings())
    assert any(word in line for line in caught.value.details)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("settings", [EMBED, EncoderSettings()], ids=str)
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_is_extended_with_new_and_repaired_pictures(photos, tmp_path, monkeypatch, settings, killed):
    for name in ("cats/broken.png", "removed.png"):
        (photos / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    first = encode_folder(encoder(), photos, tmp_path / "out", settings)
    assert (first["looked_at"], first["errors"]) == (5, 2)
    if killed:
        (tmp_path / "out" / "summary.json").unlink()
    write(photos, "cats/broken.png", seed=7)
    write(photos, "dogs/a new.png", seed=8)
    (photos / "removed.png").unlink()
    (photos / "still.png").write_bytes(b"x")
    names, capture = [], EncoderEngine.capture

    def counting(self, media, settings=None, **options):
        names.append(Path(media.source).name)
        return capture(self, media, settings, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderEngine, "capture", counting)
        grown = encode_folder(encoder(), photos, tmp_path / "out", settings)
        assert sorted(names) == ["a new.png", "broken.png"]
        assert encode_folder(encoder(), photos, tmp_path / "out", settings) == grown
    assert (grown["looked_at"], grown["errors"], grown["pictures"]) == (7, 1, 8)
    assert encode_folder(encoder(), photos, tmp_path / "whole", settings) == grown
    ours, theirs = files(tmp_path / "out"), files(tmp_path / "whole")
    assert {*ours} == {*theirs}
    assert [name for name in ours if name != "scores.jsonl" and ours[name] != theirs[name]] == []
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_capture_with_pooled_is_encode_and_pooled():
    for name in ("registers", "qwen"):
        media = tiny_encoders.picture(90, 130)
        attention, vectors = encoder(name).capture(media, EncoderSettings(max_pixels=9000), pooled=True)
        attention_only = encoder(name).encode(media, EncoderSettings(max_pixels=9000)).attention
        for field in ("received", "distance_px", "entropy_bits"):
            np.testing.assert_allclose(getattr(attention, field), getattr(attention_only, field), atol=1e-5)
        np.testing.assert_allclose(vectors, encoder(name).pooled(media, EncoderSettings(max_pixels=9000)), atol=1e-5)


def test_the_current_folder_has_a_name(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert encode_folder(encoder(), Path(), tmp_path / "out", EncoderSettings())["input"] == "photos"
    assert encode_folder(encoder(), photos / "cats" / "..", tmp_path / "other", EncoderSettings())["input"] == "photos"


def test_other_files_and_errors_are_reported(photos, tmp_path, loaded):
    (photos / "cats" / "clip.mp4").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    (photos / ".hidden").write_text("x")
    for i in range(4):
        (photos / f"broken {i}.png").write_bytes(b"x")
    done = run("--input-dir", photos, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    stderr = " ".join(done.stderr.split())
    assert "2 other files" in stderr
    named = [f"could not be encoded: broken {i}.png:" in stderr for i in range(4)]
    assert ["broken" in stderr, *named] == [True] * 4 + [False]
    assert f"all 4 in {tmp_path / 'out' / 'scores.jsonl'}" in stderr
    assert stderr.count("peak memory") == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["other_files"], summary["errors"]) == (2, 4)
    table = done.stdout.splitlines()
    start = next(i for i, line in enumerate(table) if line.startswith("layer "))
    lines = table[start : start + 1 + tiny_encoders.LAYERS]
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    names = lines[0].split()[1:]
    for line, row in zip(lines[1:], summary["layers"], strict=True):
        cells = re.findall(r"(\S+) ± (\S+) \((\S+)\)", line)
        for name, cell in zip(names, cells, strict=True):
            assert len({len(number.partition(".")[2]) for number in cell}) == 1, "one notation"
            expected = [row[name][key] for key in ("mean", "deviation", "chance")]
            np.testing.assert_allclose([float(number) for number in cell], expected, rtol=2e-3, atol=0.06)
            assert any(line.startswith(f"{name}: ") for line in table[:start])


def test_the_separation_of_classes_is_reported(tmp_path, loaded):
    for i in range(6):
        path = tmp_path / "in" / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((80, 80, 3), [20, 200][i % 2] + i, np.uint8)).save(path)
    done = run("--input-dir", tmp_path / "in", "--out", tmp_path / "out", "--embeddings", "tsne,pca")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("classes are separated best")]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    best = max(layer["nearest_neighbour"] or 0 for layer in summary["separation"])
    assert f"{100 * best:.0f}" in line
    assert "with labels shuffled" in line
    assert summary["tsne"] == {"pictures": 6, "of": 6}
    again = run("--input-dir", tmp_path / "in", "--out", tmp_path / "out", "--embeddings", "pca,tsne,pca")
    assert "the run is finished" in again.stderr


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"settings": EncoderSettings(max_pixels=7000)}, "`max_pixels`"),
        ({"settings": EncoderSettings(min_pixels=7000)}, "`min_pixels`"),
        ({"settings": EncoderSettings(seed=1)}, "`seed`"),
        ({"settings": EMBED}, "`embeddings`"),
        ({"encoder": "dinov2"}, "model"),
    ],
    ids=str,
)
def test_other_settings_and_models_are_refused(photos, tmp_path, other, word):
    encode_folder(encoder(), photos, tmp_path / "out", EncoderSettings())
    with pytest.raises(InputError) as caught:
        encode_folder(
            encoder(other.get("encoder", "dino")), photos, tmp_path / "out", other.get("settings", EncoderSettings())
        )
    assert any(line.startswith(f"{word}:") for line in caught.value.details)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (EncoderSettings(at=((1, 1),)), "`at` is for single pictures, not for `encode_folder`"),
        (EncoderSettings(layer=99), "`layer`"),
        (EncoderSettings(layer=0), "`layer`"),
        (EncoderSettings(over="max"), "`over`"),
        (EncoderSettings(saliency=True), "`saliency`"),
        (EncoderSettings(max_pixels=3), "`max_pixels=3`"),
        (EncoderSettings(min_pixels=2**40), "`min_pixels="),
        (EncoderSettings(min_pixels=9000, max_pixels=8000), "above `max_pixels"),
        (EncoderSettings(embeddings=("tsne",)), "`embeddings='tsne'`: 2 pictures"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["dino", "qwen"])
def test_settings_that_fit_no_picture_are_refused_before_the_weights_are_loaded(tmp_path, settings, word, name):
    for i in range(2):
        write(tmp_path / "in", f"{i}.png")
    fresh = EncoderEngine.load(str(tiny_encoders.folder(name)), device="cpu", dtype="float32")
    with pytest.raises(InputError, match=word):
        encode_folder(fresh, tmp_path / "in", tmp_path / "out", settings)
    assert "model" not in vars(fresh)
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_loaded_do_not_make_error_rows(photos, tmp_path):
    model = shutil.copytree(tiny_encoders.folder("dino"), tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    broken = EncoderEngine.load(str(model), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="weights"):
        encode_folder(broken, photos, tmp_path / "out", EncoderSettings())
    assert not (tmp_path / "out").exists()


def test_a_full_disk_does_not_make_error_rows(photos, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder_run_module, "write_npz", full)
        with pytest.raises(StoreError, match="No space left"):
            encode_folder(encoder(), photos, tmp_path / "out", EMBED)
    assert rows(tmp_path / "out") == {}
    assert encode_folder(encoder(), photos, tmp_path / "out", EMBED)["looked_at"] == 5


def test_one_picture_has_no_spread(tmp_path, loaded):
    write(tmp_path / "one", "a.png")
    done = run("--input-dir", tmp_path / "one", "--out", tmp_path / "out", "--embeddings", "pca")
    assert done.exit_code == 0, done.output
    assert "±" not in done.stdout.partition("\n")[2]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {row["entropy_bits"]["deviation"] for row in summary["layers"]} == {None}
    assert summary["separation"] is None


def test_only_broken_pictures(tmp_path, loaded):
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "bad" / name).write_bytes(b"x")
    for _ in range(2):
        done = run("--input-dir", tmp_path / "bad", "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert "none of 2 pictures could be encoded" in done.stderr
        assert done.stdout == ""
        assert {row["status"] for row in rows(tmp_path / "out").values()} == {"error"}


def test_no_picture(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("x")
    write(tmp_path / "none", ".hidden.png")
    write(tmp_path / "none", ".hidden/a.png")
    write(tmp_path / "none", "folder.png/.b.png")
    for folder, word in ((tmp_path / "none", "0 pictures in it"), (tmp_path / "missing", "not a folder")):
        with pytest.raises(InputError, match=word):
            list_pictures(folder)
    with pytest.raises(InputError, match="not a folder"):
        list_pictures(tmp_path / "none" / "readme.txt")
    with pytest.raises(InputError, match="URL"):
        list_pictures(Path("https://example.org/photos"))


@pytest.mark.skipif(os.name != "posix", reason="names and links of POSIX")
def test_names_of_any_kind(tmp_path, drawn):
    folder = tmp_path / "in"
    write(folder, "a.png")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / os.fsdecode(b"\xff\xfe")).mkdir()
    write(folder, os.fsdecode(b"\xff\xfe/\xe9.png"), seed=1)
    write(folder, "x\x1b[31m\r\n.PNG", seed=2)
    first = encode_folder(encoder(), folder, tmp_path / "out", EMBED)
    assert first["looked_at"] == 4
    assert encode_folder(encoder(), folder, tmp_path / "out", EMBED) == first
    (tmp_path / "out" / "summary.json").unlink()
    assert {*rows(tmp_path / "out")} == {"a.png", "link.png", os.fsdecode(b"\xff\xfe/\xe9.png"), "x\x1b[31m\r\n.PNG"}


def test_results_within_the_folder_are_left_out(photos, monkeypatch):
    monkeypatch.chdir(photos)
    for out in (Path("results"), photos / "dogs" / "run"):
        first = encode_folder(encoder(), Path(), out, EncoderSettings())
        assert first["pictures"] == 5 if out == Path("results") else 6
        assert encode_folder(encoder(), Path(), out, EncoderSettings()) == first
    with pytest.raises(InputError, match="already exists"):
        encode_folder(encoder(), photos, photos, EncoderSettings())


def test_two_runs_at_once(photos, tmp_path, loaded):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        done = run("--input-dir", photos, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "another process is writing" in done.stderr


def spoilt_line(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("scores.jsonl", lambda text: "x\n" + text),
        ("scores.jsonl", lambda text: text + text.splitlines()[0] + "\n"),
        ("scores.jsonl", lambda text: spoilt_line(text, '"status"', '"state"')),
        ("scores.jsonl", lambda text: spoilt_line(text, '"figures"', '"figure"')),
        ("scores.jsonl", lambda text: spoilt_line(text, '"entropy_bits": [[', '"entropy_bits": [["x", ')),
        ("scores.jsonl", lambda text: spoilt_line(text, '"entropy_bits": [[', '"entropy_bits": [[1, ')),
        ("scores.jsonl", lambda text: spoilt_line(text, '"entropy_bits": [[', '"entropy_bits": [[1e999, ')),
        ("scores.jsonl", lambda text: spoilt_line(text, '"label"', '"labels"')),
        ("run.json", lambda text: text[:50]),
        ("run.json", lambda text: text.replace('"survey"', '"other"')),
        ("run.json", lambda text: text.replace('"samples"', '"sample"')),
    ],
)
def test_damaged_runs_are_refused(photos, tmp_path, file, spoil):
    out = tmp_path / "out"
    encode_folder(encoder(), photos, out, EMBED)
    for name in SIZES:  # as in a run that was killed before its end
        vectors = out / folder_run_module.vectors_file(name)
        vectors.parent.mkdir(exist_ok=True)
        folder_run_module.write_npz(vectors, {"vectors": encoder().pooled(load_picture(photos / name))})
    (out / "summary.json").unlink()
    (out / file).write_text(spoil((out / file).read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        encode_folder(encoder(), photos, out, EMBED)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("damage", ["missing", "torn", "another shape", "another name"])
def test_damaged_vectors_are_refused(photos, tmp_path, monkeypatch, damage):
    out = tmp_path / "out"
    monkeypatch.setattr(folder_run_module, "summarize_folder", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_folder(encoder(), photos, out, EMBED)
    monkeypatch.undo()
    path = out / folder_run_module.vectors_file("loose.png")
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:40])
    else:
        np.savez(path, **{"vectors" if "shape" in damage else "other": np.zeros((1, 2), np.float32)})
    with pytest.raises(StoreError):
        encode_folder(encoder(), photos, out, EMBED)


@pytest.mark.parametrize("text", ["{}", '{"looked_at": 1, "errors": 0, "layers": []}', "[]", '{"layers": 3}'])
def test_a_damaged_summary_is_refused(photos, tmp_path, loaded, text):
    encode_folder(encoder(), photos, tmp_path / "out", EncoderSettings())
    (tmp_path / "out" / "summary.json").write_text(text)
    done = run("--input-dir", photos, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "summary.json" in done.stderr


def test_too_few_for_tsne_at_the_end(tmp_path, monkeypatch):
    for i in range(8):
        write(tmp_path / "in", f"{i}.png", seed=i)
    monkeypatch.setattr("qvl_attn.encoders.folder_summary.LEAST_POINTS", 9)
    summary = encode_folder(encoder(), tmp_path / "in", tmp_path / "out", EncoderSettings(embeddings=("pca", "tsne")))
    assert any("no t-SNE" in line for line in summary["said"])


# Other commands and this folder


@cache
def finished() -> Path:
    folder = tiny_encoders.root() / "folder_run"
    write(folder / "in", "a.png")
    encode_folder(encoder(), folder / "in", folder / "out", EncoderSettings())
    return folder / "out"


@pytest.mark.parametrize("words", ["report {}", "render {}", "compare {} {}", "merge {} {} --out m", "report {} {}"])
def test_other_commands_refuse_the_folder_by_name(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words.format(finished(), finished()).split())
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit)
    assert "damaged" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert done.stdout == ""
    assert [*tmp_path.iterdir()] == []


def test_a_check_and_a_folder_run_do_not_share_a_folder(tmp_path, loaded, monkeypatch):
    from tests.helpers.check_runs import make_data, write_rows

    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path, make_data(tmp_path, 1))
    before = files(finished())
    done = CliRunner().invoke(app, ["check", str(data), "--model", "demo", "--out", str(finished())])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "encoder" in done.stderr
    assert files(finished()) == before
    check = tmp_path / "check"
    check.mkdir()
    started = {"schema_version": 1, "kind": "check", "same": {}, "facts": {}, "samples": {}}
    (check / "run.json").write_text(json.dumps(started))
    done = run("--input-dir", tmp_path, "--out", check)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is a check" in done.stderr


# Real processes


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_run_is_resumed(tmp_path):
    for i in range(12):
        write(tmp_path / "in", f"{'ab'[i % 2]}/{i}.png", seed=i)
    out = tmp_path / "out"
    words = ["encoder", "--input-dir", tmp_path / "in", "--model", tiny_encoders.folder("dino"), "--out", out]
    words += ["--device", "cpu", "--dtype", "float32", "--embeddings", "pca"]
    killing = signal_at_call("qvl_attn.results.run_folder:_write", 4, signal.SIGKILL)
    assert start_command(words, tmp_path, killing).completed().returncode == -signal.SIGKILL
    assert line_count(out) == 3
    resumed = encode_folder(encoder(), tmp_path / "in", out, EMBED)
    whole = encode_folder(encoder(), tmp_path / "in", tmp_path / "whole", EMBED)
    ours, theirs = files(out), files(tmp_path / "whole")
    assert {*ours} == {*theirs}
    assert [name for name in ours if name != "run.json" and ours[name] != theirs[name]] == []
    assert resumed == whole


def test_that_pictures_use_little_of_their_range_is_said_once(tmp_path, loaded):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.linspace(0, 4095, 80 * 80).astype(np.uint16).reshape(80, 80)).save(
            tmp_path / "photos" / name
        )
    plain = run("--input-dir", tmp_path / "photos", "--out", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    assert plain.stderr.count("model sees little contrast") == 1
    assert re.search(
        r"a\.png: it uses 0 to 4095 of 0 to 65535, .* scales what it uses\); said of the first", plain.stderr
    )
    stretched = run("--input-dir", tmp_path / "photos", "--out", tmp_path / "stretched", "--stretch")
    assert "little contrast" not in stretched.stderr
    assert rows(tmp_path / "plain")["a.png"]["figures"] != rows(tmp_path / "stretched")["a.png"]["figures"]
