"""The folder of an encoder's result: its contents, loading it again, its name, and damaged files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import InputError, ResultExistsError, StoreError
from qvl_attn.encoders.inputs import load_encoder_clip
from qvl_attn.encoders.record import EncoderSettings, SaliencyMap
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.render.style import Drawing
from qvl_attn.results import codec, store
from qvl_attn.results import result as result_module
from tests.helpers import tiny_encoders
from tests.helpers.encoder_records import encoder_folder, skip_drawing

SMALL = Drawing(draw_size_px=64)
CLIP = ClipSettings(fps=2, max_frames=3)
FRAMES = tiny_encoders.clip(96, 80, 3)
FRAMES = replace(FRAMES, clip=replace(FRAMES.clip, frame_indices=(3, 7, 12)))
# By name: the encoder, the media and the settings.
REQUESTS = {
    "clip": (
        "clip",
        tiny_encoders.picture(120, 97),
        {"at": ((60, 40), (50.5, 60)), "saliency": True, "texts": ("a cat",)},
    ),
    "dino": ("dino", tiny_encoders.picture(90, 130), {"embeddings": ("pca", "tsne"), "over": "max", "layer": 1}),
    "registers": (
        "registers-classes",
        tiny_encoders.picture(81, 90),
        {"max_pixels": 9000, "saliency": True, "label": "dog"},
    ),
    "siglip": (
        "siglip-vision",
        tiny_encoders.picture(100, 64),
        {"at": ((3, 3),), "min_pixels": 3000, "max_pixels": 6000},
    ),
    "qwen": ("qwen", tiny_encoders.picture(170, 112), {"at": ((100, 50),), "embeddings": ("pca",)}),
    "frames": ("registers", FRAMES, {"at": ((40, 40),), "clip": CLIP}),
    "qwen frames": ("qwen", tiny_encoders.clip(84, 56, 3), {"at": ((40, 40),), "clip": CLIP}),
}


@cache
def encoded(name: str) -> EncoderResult:
    encoder, media, settings = REQUESTS[name]
    return tiny_encoders.encoder(encoder).encode(media, EncoderSettings(**settings))


# The results that are drawn, too: drawing takes most of the time.
DRAWN = ("clip", "qwen", "frames")


@cache
def saved(name: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        if name not in DRAWN:
            skip_drawing(patch)
        return encoded(name).save(tiny_encoders.root() / "results", SMALL)


@pytest.fixture
def undrawn(monkeypatch):
    """Draw almost no pictures, for tests of files."""
    skip_drawing(monkeypatch)


@pytest.fixture
def damaged(tmp_path):
    """A function that makes a copy of a folder, which a test may damage."""

    def copy(name: str = "clip") -> Path:
        return Path(shutil.copytree(saved(name), tmp_path / "result", dirs_exist_ok=True))

    return copy


def same(value, expected, tolerance: float = 0.0) -> bool:
    """Return whether arrays have the same type and values, or other values are equal."""
    if not isinstance(value, np.ndarray):
        return value == expected
    if value.dtype == np.bool_:
        return expected.dtype == np.bool_ and np.array_equal(value, expected)
    if value.dtype != expected.dtype or value.shape != expected.shape:
        return False
    return bool((np.abs(value - expected) <= tolerance).all())


def json_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_saved_result_is_loaded_unchanged(name):
    result, loaded = encoded(name), EncoderResult.load(saved(name))
    for field in fields(result.attention):
        assert same(getattr(result.attention, field.name), getattr(loaded.attention, field.name)), field.name
    for attribute in ("frames", "similarity", "similarity_layers", "reconstruction", "patch_row_places", "settings"):
        assert same(getattr(result, attribute), getattr(loaded, attribute)), attribute
    assert result.provenance == loaded.provenance
    assert same(result.patch_rows, loaded.patch_rows, 5e-4)
    assert (result.embedding is None) == (loaded.embedding is None) == ("embeddings" not in REQUESTS[name][2])
    if result.embedding is not None:
        assert all(
            same(getattr(result.embedding, field.name), getattr(loaded.embedding, field.name))
            for field in fields(result.embedding)
        )
    assert len(result.saliency) == len(loaded.saliency) == (2 if "saliency" in REQUESTS[name][2] else 0)
    for saliency, loaded_saliency in zip(result.saliency, loaded.saliency, strict=True):
        for field in fields(SaliencyMap):
            assert same(getattr(saliency, field.name), getattr(loaded_saliency, field.name)), field.name
    for attribute in ("kind", "times_s", "size_px", "source", "sha256", "notes", "clip"):
        assert same(getattr(result.media[0], attribute), getattr(loaded.media[0], attribute)), attribute
    if result.media[0].clip is not None:  # a picture is saved at the size that it was drawn at
        assert same(result.media[0].frames, loaded.media[0].frames)
    assert {*loaded.seconds} == {*result.seconds, "draw"}
    assert {*loaded.peak_memory_bytes} == {*result.peak_memory_bytes, "draw"}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_arrays_have_the_documented_names_and_shapes(name):
    result = encoded(name)
    with np.load(saved(name) / "attention.npz", allow_pickle=False) as file:
        arrays = dict(file)
    t, h, w = result.attention.grid
    L, H, Q, R = (
        result.attention.layer_count,
        result.attention.head_count,
        len(result.attention.queries),
        len(result.attention.prefix),
    )
    P = t * h * w
    documented = {
        "weights": ("f4", (L, Q, P)),
        "weights_by_head": ("f4", (L, H, Q, P)),
        "prefix_weights": ("f4", (L, H, Q, t, R)),
        "layers": ("i8", (L,)),
        "queries": ("i8", (Q,)),
        "vision_tokens": ("i8", (P,)),
        "vision_mass": ("f4", (L, Q)),
        "grid_thw": ("i8", (1, 3)),
        "merge_size": ("i8", ()),
        "media_index": ("i8", (P,)),
        "boxes_px": ("f4", (P, 4)),
        "frame_span": ("i8", (P, 2)),
        "times_s": ("f8", (P, 2)),
        "step_frames": ("i8", (t, 2)),
        "patch_px": ("i8", ()),
        "full": ("?", (L,)),
        "distance_px": ("f4", (L, H, t)),
        "entropy_bits": ("f4", (L, H, t)),
    }
    for key, (kind, shape) in documented.items():
        assert (arrays[key].dtype, arrays[key].shape) == (np.dtype(kind), shape), key
    at, has_cls = result.settings.at, result.attention.cls is not None
    assert arrays["query_role"].tolist() == ["cls"] * has_cls + ["patch"] * (1 + len(at))
    assert arrays["queries"].tolist()[: 1 + has_cls] == [0] * has_cls + [-1]
    boxes = arrays["boxes_px"]
    for place, (x, y) in zip(arrays["queries"][1 + has_cls :] - R, at, strict=True):
        x0, y0, x1, y1 = boxes[place]
        assert x0 <= x < x1
        assert y0 <= y < y1
    # The tokens of a step are consecutive, the prefix first.
    assert arrays["vision_tokens"].tolist() == [s * (R + h * w) + R + i for s in range(t) for i in range(h * w)]
    total = arrays["weights_by_head"].reshape(L, H, Q, t, -1).sum(axis=-1) + arrays["prefix_weights"].sum(axis=-1)
    assert np.abs(total - 1).max() < 1e-5
    mean = arrays["weights_by_head"].mean(axis=1)
    assert np.abs(arrays["weights"] - mean).max() < 1e-6
    assert np.abs(arrays["vision_mass"] - mean.reshape(L, Q, t, -1).sum(axis=-1).mean(axis=-1)).max() < 1e-6
    if result.media[0].clip is not None:
        first, last = result.frames[:, 0], result.frames[:, 1]
        assert arrays["times_s"].reshape(t, -1, 2)[:, 0].tolist() == [
            [result.media[0].times_s[a], result.media[0].times_s[b]] for a, b in zip(first, last, strict=True)
        ]
        numbers = result.media[0].clip.frame_indices
        assert arrays["frame_span"][:: h * w].tolist() == [
            [numbers[a], numbers[b]] for a, b in zip(first, last, strict=True)
        ]


@pytest.mark.parametrize("name", ["dino", "registers"])
def test_the_weights_are_those_of_plain_eager(name):
    encoder, media, _ = REQUESTS[name]
    result = encoded(name)
    inputs, _ = tiny_encoders.encoder(encoder).read(media, result.settings)
    kwargs = {} if "registers" in encoder else {"interpolate_pos_encoding": inputs.interpolate}
    with torch.no_grad():
        output = tiny_encoders.plain(encoder)(inputs.tensors["pixel_values"], output_attentions=True, **kwargs)
    plain = torch.stack(output.attentions)[:, 0].mean(dim=1).numpy()  # (L, T, T)
    R = len(result.attention.prefix)
    with np.load(saved(name) / "attention.npz", allow_pickle=False) as arrays:
        weights = arrays["weights"]
    assert np.abs(weights[:, 0] - plain[:, 0, R:]).max() < 1e-6
    assert np.abs(weights[:, 1] - plain[:, R:, R:].mean(axis=1)).max() < 1e-6


@pytest.mark.parametrize("name", REQUESTS)
def test_the_files_are_those_that_are_listed(name):
    folder, value = saved(name), json_of(saved(name))
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {*value["files"]}
    assert len(value["files"]) == len(written)
    assert "NaN" not in (folder / "result.json").read_text(encoding="utf-8")
    assert value["kind"] == "encoder"
    assert [*folder.parent.glob(".draft*")] == []
    counts = {group["role"]: (group["first"], group["count"]) for group in value["tokens"]}
    R, cells = len(encoded(name).attention.prefix), np.prod(encoded(name).attention.grid[1:])
    assert counts["patch"] == (R, cells)
    assert ("cls" in counts) == (encoded(name).attention.cls is not None)


@pytest.mark.parametrize("name", REQUESTS)
def test_headline_and_layers_are_those_of_the_arrays(name):
    result, value = encoded(name), json_of(saved(name))
    values = result.attention.tokens(result.attention.queries[0])[-1, ..., len(result.attention.prefix) :]
    joined = {"mean": np.mean, "max": np.max, "min": np.min}[result.settings.over](values, axis=0)
    assert value["headline"]["minimum"] == pytest.approx(joined.min(), abs=1e-7)
    assert value["headline"]["maximum"] == pytest.approx(joined.max(), abs=1e-7)
    assert value["headline"]["uniform"] == pytest.approx(1 / result.attention.received.shape[-1])
    for layer, row in enumerate(value["layers"]):
        entropy = result.attention.entropy_bits[layer].mean(axis=-1)
        assert row["entropy_bits"]["mean"] == pytest.approx(entropy.mean(), rel=1e-5)
        assert row["entropy_bits"]["least"] == pytest.approx(entropy.min(), rel=1e-5)
        assert row["entropy_bits"]["most"] == pytest.approx(entropy.max(), rel=1e-5)


def test_result_json_is_written_last(tmp_path, monkeypatch, undrawn):
    written = []
    for kind in ("npz", "png", "json", "text"):
        name = f"write_{kind}"
        real = getattr(store, name)

        def write(path, value, real=real):
            written.append(path.name)
            real(path, value)

        monkeypatch.setattr(store, name, write)
    encoded("dino").save(tmp_path, SMALL)
    assert written[-1] == "result.json"
    assert {*written} >= {"attention.npz", "picture_1.png", "report.html"}


def test_only_the_same_request_has_the_same_name():
    result = encoded("clip")
    settings, drawing, provenance = result.settings, SMALL, result.provenance

    def name(media=result.media[0], settings=settings, drawing=drawing, provenance=provenance):
        return encoder_folder(Path("out"), media, settings, drawing, provenance).name

    first = name()
    assert first == saved("clip").name
    assert name(media=tiny_encoders.picture(33, 44)) == first, "only the content counts, which has the same hash here"
    changed_settings = {
        "at": ((1.0, 2.0),),
        "min_pixels": 5000,
        "max_pixels": 5000,
        "stretch": True,
        "layer": 0,
        "over": "min",
        "embeddings": ("pca",),
        "saliency": False,
        "texts": ("a dog",),
        "label": "cat",
        "seed": 1,
        "clip": ClipSettings(),
    }
    assert {*changed_settings} == {field.name for field in fields(EncoderSettings)}
    changed_drawing = {
        "colormap": "jet",
        "alpha": 0.6,
        "interp": "cells",
        "blur_cells": 1.0,
        "scale": "shared",
        "top_percent": 50.0,
        "draw_size_px": 65,
        "clip_scale": "frame",
        "smooth": True,
        "side_by_side": True,
        "denoise": "median",
    }
    assert {*changed_drawing} == {field.name for field in fields(Drawing)}
    names = [first, name(media=replace(result.media[0], sha256="1" * 64))]
    names += [
        name(settings=replace(settings, **({"texts": ()} if field == "saliency" else {}), **{field: value}))
        for field, value in changed_settings.items()
    ]
    names += [name(drawing=replace(drawing, **{field: value})) for field, value in changed_drawing.items()]
    names += [
        name(provenance=replace(provenance, **{field: f"{value}x"})) for field, value in asdict(provenance).items()
    ]
    assert len({folder_name[-8:] for folder_name in names}) == len(names)


def test_names_are_safe(tmp_path):
    result = encoded("dino")
    for source in ("../../etc/passwd", "a\x1b[31m\nb.png", "猫 \udcff.png", "x" * 300 + ".png", "con.png", ""):
        target = encoder_folder(
            tmp_path, replace(result.media[0], source=source), result.settings, SMALL, result.provenance
        )
        assert target.parent == tmp_path
        assert len(target.name) < 100
        assert target.name.isprintable()


def test_a_source_that_is_not_unicode_is_saved(tmp_path, undrawn):
    result = encoded("dino")
    folder = replace(result, media=(replace(result.media[0], source="/x/a\udcff<script>\x1b.png"),)).save(
        tmp_path, SMALL
    )
    assert EncoderResult.load(folder).media[0].source == "a?<script>\x1b.png"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>\x1b" not in page


def test_a_result_is_only_replaced_with_overwrite(tmp_path, undrawn):
    result = encoded("dino")
    folder = result.save(tmp_path, SMALL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ResultExistsError, match="already exists"):
        result.save(tmp_path, SMALL)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "left.txt").write_text("x")
    assert result.save(tmp_path, SMALL, overwrite=True) == folder
    assert not (folder / "left.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_while_saving_leaves_nothing(tmp_path, undrawn, monkeypatch, error):
    def stop(*args):
        raise error

    monkeypatch.setattr(store, "write_text", stop)
    kind = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        encoded("dino").save(tmp_path, SMALL)
    assert [*tmp_path.iterdir()] == []


def test_an_error_while_saving_leaves_the_old_result(tmp_path, undrawn, monkeypatch):
    folder = encoded("dino").save(tmp_path, SMALL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(store, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StoreError):
        encoded("dino").save(tmp_path, SMALL, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_clip_of_a_file_is_loaded_unchanged(tmp_path, undrawn):
    from qvl_attn.media.mp4 import write_mp4
    from tests.conftest import numbered_frames

    times = [i / 10 for i in range(7)]
    write_mp4(tmp_path / "m.mp4", zip(numbered_frames(7), times, strict=True), 0.7, rate_fps=10)
    encoder, clip_settings = tiny_encoders.encoder("dinov2"), ClipSettings(fps=5, max_frames=3)
    settings = EncoderSettings(clip=clip_settings)
    media = load_encoder_clip(encoder.spec, encoder.processor, tmp_path / "m.mp4", settings)
    result = encoder.encode(media, settings)
    loaded = EncoderResult.load(result.save(tmp_path / "out", SMALL))
    assert same(loaded.media[0].frames, result.media[0].frames)
    assert loaded.media[0].clip == result.media[0].clip
    assert loaded.settings == settings


# Damage


def load_error(folder: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        EncoderResult.load(folder)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value


@pytest.mark.parametrize("file", ["result.json", "attention.npz", "picture_1.png", "input/000000.png"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "noise"])
def test_a_damaged_file_is_refused(damaged, file, damage):
    path = damaged() / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": os.urandom(500)}[damage])
    load_error(path.parent if "/" not in file else path.parent.parent)


def change_array(folder: Path, name: str, value) -> Path:
    """Change the value of an array in a folder; None removes it."""
    with np.load(folder / "attention.npz", allow_pickle=False) as file:
        arrays = dict(file)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value(arrays[name]) if callable(value) else np.array(value)
    np.savez(folder / "attention.npz", **arrays)
    return folder


NEEDED = ("weights_by_head", "prefix_weights", "prefix_role", "queries", "query_role", "grid_thw", "boxes_px")
NEEDED += ("step_frames", "patch_px", "full", "distance_px", "entropy_bits", "similarity_layers", "grid_places")
NEEDED += ("saliency_0", "saliency_1")


def spoil(values: np.ndarray, change: str) -> np.ndarray:
    if change == "longer":
        return np.concatenate([values, values]) if values.ndim else np.array([values, values])
    if change == "text":
        return np.full(values.shape, "x" * 30)
    if change == "deeper":
        return values[None]
    as_float = values.astype(np.float32) if values.dtype.kind != "U" else values
    return np.full(values.shape, np.nan, as_float.dtype) if values.dtype.kind in "fiu" else values[..., None]


def test_arrays_that_are_missing_or_changed_are_refused(monkeypatch):
    folder = saved("clip")
    arrays = dict(result_module.read_npz(folder / "attention.npz"))
    for name in NEEDED:
        without = {key: values for key, values in arrays.items() if key != name}
        monkeypatch.setattr(result_module, "read_npz", lambda *args, without=without: without)
        load_error(folder)
        for change in ("longer", "text", "deeper", "nan"):
            spoilt = arrays | {name: spoil(arrays[name], change)}
            monkeypatch.setattr(result_module, "read_npz", lambda *args, spoilt=spoilt: spoilt)
            load_error(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid_thw", [[2**40, 2**40, 2**40]]),
        ("grid_thw", [[1, -5, -5]]),
        ("grid_thw", [[0, 5, 5]]),
        ("grid_thw", [[1, 1, 25]]),
        ("grid_thw", [[1, 5, 5], [1, 5, 5]]),
        ("grid_thw", [[1, 5]]),
        ("grid_thw", []),
        ("patch_px", 2**40),
        ("patch_px", -14),
        ("patch_px", 0),
        ("patch_px", 15),
        ("queries", [0, -1, 1, 99]),
        ("queries", [0, -1, 1, -7]),
        ("query_role", ["patch", "cls", "patch", "patch"]),
        ("query_role", []),
        ("prefix_role", ["patch"]),
        ("prefix_role", ["register"]),
        ("step_frames", [[0, 1]]),
        ("step_frames", [[-1, 0]]),
        ("full", [True, True, False]),
        ("weights_by_head", lambda values: values * 2),
        ("weights_by_head", lambda values: -values),
        ("boxes_px", lambda values: values * np.float32(np.nan)),
        ("similarity", lambda values: values * np.float32(np.inf)),
        ("grid_rows", lambda values: values[:, :1]),
        ("grid_places", lambda values: values + 99),
        ("saliency_0", lambda values: -values - 1),
    ],
    ids=lambda value: "changed" if callable(value) else str(value),
)
def test_hostile_arrays_are_refused(damaged, name, value):
    load_error(change_array(damaged(), name, value))


@pytest.mark.parametrize("name", ["space_components", "space_explained", "space_tsne", "space_tsne_patches"])
def test_hostile_embeddings_are_refused(damaged, name):
    for value in (
        lambda v: v[:1],
        lambda v: v[None],
        lambda v: v.astype("U8"),
        lambda v: v.astype(np.float32) * np.nan,
    ):
        load_error(change_array(damaged("dino"), name, value))
    load_error(change_array(damaged("dino"), name, None)) if name != "space_tsne" else None


def test_arrays_of_objects_are_not_unpickled(damaged):
    folder = damaged()
    with np.load(folder / "attention.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays["weights_by_head"] = np.array([Bomb()], dtype=object)
    np.savez(folder / "attention.npz", **arrays)
    load_error(folder)
    assert not Bomb.exploded


class Bomb:
    """Sets a flag when it is unpickled."""

    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


HOSTILE = (None, "x", -1, 2**70, 1.5, [], {}, [None], {"a": 1}, True, "\x1b[31m")


def json_paths(value, path=()):
    """Yield the path of each value in JSON; of lists only the first item."""
    items = value.items() if isinstance(value, dict) else [*enumerate(value)][:1] if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from json_paths(item, (*path, key))


@pytest.mark.parametrize("name", ["clip", "qwen frames"])
def test_hostile_json_is_refused_or_harmless(damaged, monkeypatch, name):
    """With any value at any path: a result whose fields have their types, or an error of one line."""
    folder, value = damaged(name), json_of(saved(name))
    arrays = dict(result_module.read_npz(folder / "attention.npz"))
    monkeypatch.setattr(result_module, "read_npz", lambda *args: arrays)  # read once, not a thousand times
    pictures, real = {}, codec.read_png
    monkeypatch.setattr(codec, "read_png", lambda path, *size: pictures.setdefault(path, real(path, *size)))
    refused, count, lines = 0, 0, set()
    keys = ("media", "settings") if name == "qwen frames" else {*value} - {"tokens"}
    for path in json_paths({key: value[key] for key in keys}):
        for hostile in (*HOSTILE, "missing"):
            spoilt = json.loads(json.dumps(value))
            parent = spoilt
            for key in path[:-1]:
                parent = parent[key]
            if hostile == "missing":
                del parent[path[-1]]
            else:
                parent[path[-1]] = hostile
            (folder / "result.json").write_text(json.dumps(spoilt))
            count += 1
            try:
                result = EncoderResult.load(folder)
            except InputError as error:
                assert path == ("kind",)
                refused += 1
                lines.add(error.message)
            except StoreError as error:
                refused += 1
                lines.add(error.message)
            else:
                assert result.provenance.model.encode(), path
                assert 0 <= result.head_layer < result.attention.layer_count, path
                assert {type(seconds) for seconds in result.seconds.values()} <= {float}, path
                sizes = (size for peak in result.peak_memory_bytes.values() for size in peak.values())
                assert {type(size) for size in sizes} <= {int}, path
                assert isinstance(result.settings.label, str | None), path
                assert isinstance(result.settings.min_pixels, int | None), path
    assert refused > 0.3 * count
    assert not [line for line in lines if "\n" in line]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 10**5, '{"schema_version": NaN}', '{"schema_version": 2, "kind": "encoder"}', "1e999"]
)
def test_json_that_is_not_a_result_is_refused(damaged, text):
    folder = damaged()
    (folder / "result.json").write_text(text)
    load_error(folder)


def test_a_method_of_saliency_that_names_a_path_is_refused(damaged):
    """It is a part of a picture's name."""
    folder, value = damaged(), json_of(saved("clip"))
    value["saliency"][1]["method"] = "x/../../../y"
    (folder / "result.json").write_text(json.dumps(value))
    assert "result.saliency[1].method: invalid enum value" in load_error(folder).message


def test_infinite_numbers_are_refused(damaged):
    folder = damaged()
    text = (folder / "result.json").read_text(encoding="utf-8")
    value = json_of(folder)["seconds"]["look"]
    (folder / "result.json").write_text(text.replace(str(value), "1e999"), encoding="utf-8")
    load_error(folder)


def test_a_result_of_ask_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"schema_version": 1, "question": "?"}')
    assert "kind: want a text" in load_error(tmp_path).message


def test_a_picture_of_another_shape_is_refused(damaged):
    from PIL import Image

    for file in ("picture_1.png", "input/000000.png"):
        folder = damaged()
        Image.new("RGB", (7, 60)).save(folder / file)
        load_error(folder)
