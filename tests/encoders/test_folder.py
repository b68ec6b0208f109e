"""A look's folder: what is in it, that it comes back the same, its name, and what damage leads to."""

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

from qvl_attn.core.errors import ResultExistsError, StoreError
from qvl_attn.encoders import result as result_module
from qvl_attn.encoders.inputs import load_encoder_clip
from qvl_attn.encoders.record import EncoderSettings, SaliencyMap
from qvl_attn.encoders.result import EncoderResult, request_folder
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.render.style import Drawing
from qvl_attn.results import store
from tests.helpers import tiny_encoders

SMALL = Drawing(draw_size_px=64)
CLIP = ClipSettings(fps=2, max_frames=3)
FRAMES = tiny_encoders.clip(96, 80, 3)
FRAMES = replace(FRAMES, clip=replace(FRAMES.clip, frame_indices=(3, 7, 12)))
# By name: the encoder, what is shown, and what is asked.
ASKED = {
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
def looked(name: str) -> EncoderResult:
    encoder, media, asked = ASKED[name]
    return tiny_encoders.encoder(encoder).encode(media, EncoderSettings(**asked))


# Which are drawn, too: that takes most of the time.
DRAWN = ("clip", "qwen", "frames")


@cache
def saved(name: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        if name not in DRAWN:
            undraw(patch)
        return looked(name).save(tiny_encoders.root() / "looks", SMALL)


def undraw(patch) -> None:
    patch.setattr(result_module, "embedding_images", lambda *args: ())
    drawn = result_module.DrawnEncoderResult
    patch.setattr(drawn, "images", lambda one: () if one._is_clip else [("picture_1.png", one._original)])
    patch.setattr("qvl_attn.encoders.timeline.export_clip", lambda *args: ([], []))


@pytest.fixture
def undrawn(monkeypatch):
    """Without most pictures, for tests of what is done with files."""
    undraw(monkeypatch)


@pytest.fixture
def damaged(tmp_path):
    """A copy that may be damaged."""

    def copy(name: str = "clip") -> Path:
        return Path(shutil.copytree(saved(name), tmp_path / "look", dirs_exist_ok=True))

    return copy


def same(one, other, within: float = 0.0) -> bool:
    """Arrays of the same type and values; anything else equal."""
    if not isinstance(one, np.ndarray):
        return one == other
    if one.dtype == np.bool_:
        return other.dtype == np.bool_ and np.array_equal(one, other)
    return one.dtype == other.dtype and one.shape == other.shape and bool((np.abs(one - other) <= within).all())


def json_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ASKED)
def test_what_is_saved_comes_back(name):
    look, back = looked(name), EncoderResult.load(saved(name))
    for one in fields(look.attention):
        assert same(getattr(look.attention, one.name), getattr(back.attention, one.name)), one.name
    for one in ("frames", "similarity", "similarity_layers", "reconstruction", "patch_row_places", "settings"):
        assert same(getattr(look, one), getattr(back, one)), one
    assert look.provenance == back.provenance
    assert same(look.patch_rows, back.patch_rows, 5e-4)
    assert (look.embedding is None) == (back.embedding is None) == ("embeddings" not in ASKED[name][2])
    if look.embedding is not None:
        assert all(
            same(getattr(look.embedding, one.name), getattr(back.embedding, one.name)) for one in fields(look.embedding)
        )
    assert len(look.saliency) == len(back.saliency) == (2 if "saliency" in ASKED[name][2] else 0)
    for one, other in zip(look.saliency, back.saliency, strict=True):
        assert all(same(getattr(one, part.name), getattr(other, part.name)) for part in fields(SaliencyMap))
    for one in ("kind", "times_s", "size_px", "source", "sha256", "notes", "clip"):
        assert same(getattr(look.media, one), getattr(back.media, one)), one
    if look.media.clip is not None:  # a picture is kept at the size that it was drawn at
        assert same(look.media.frames, back.media.frames)
    assert {*back.seconds} == {*look.seconds, "draw"}
    assert {*back.peak_memory_bytes} == {*look.peak_memory_bytes, "draw"}


@pytest.mark.parametrize("name", ASKED)
def test_the_arrays_have_the_names_and_shapes_that_are_told(name):
    look = looked(name)
    with np.load(saved(name) / "attention.npz", allow_pickle=False) as file:
        arrays = dict(file)
    t, h, w = look.attention.grid
    L, H, Q, R = (
        look.attention.layer_count,
        look.attention.head_count,
        len(look.attention.queries),
        len(look.attention.prefix),
    )
    P = t * h * w
    reported = {
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
    for key, (kind, shape) in reported.items():
        assert (arrays[key].dtype, arrays[key].shape) == (np.dtype(kind), shape), key
    asked, has_cls = look.settings.at, look.attention.cls is not None
    assert arrays["query_role"].tolist() == ["cls"] * has_cls + ["patch"] * (1 + len(asked))
    assert arrays["queries"].tolist()[: 1 + has_cls] == [0] * has_cls + [-1]
    boxes = arrays["boxes_px"]
    for place, (x, y) in zip(arrays["queries"][1 + has_cls :] - R, asked, strict=True):
        x0, y0, x1, y1 = boxes[place]
        assert x0 <= x < x1
        assert y0 <= y < y1
    # A step's tokens stand behind each other: the prefix first.
    assert arrays["vision_tokens"].tolist() == [s * (R + h * w) + R + i for s in range(t) for i in range(h * w)]
    whole = arrays["weights_by_head"].reshape(L, H, Q, t, -1).sum(axis=-1) + arrays["prefix_weights"].sum(axis=-1)
    assert np.abs(whole - 1).max() < 1e-5
    mean = arrays["weights_by_head"].mean(axis=1)
    assert np.abs(arrays["weights"] - mean).max() < 1e-6
    assert np.abs(arrays["vision_mass"] - mean.reshape(L, Q, t, -1).sum(axis=-1).mean(axis=-1)).max() < 1e-6
    if look.media.clip is not None:
        first, last = look.frames[:, 0], look.frames[:, 1]
        assert arrays["times_s"].reshape(t, -1, 2)[:, 0].tolist() == [
            [look.media.times_s[a], look.media.times_s[b]] for a, b in zip(first, last, strict=True)
        ]
        numbers = look.media.clip.frame_indices
        assert arrays["frame_span"][:: h * w].tolist() == [
            [numbers[a], numbers[b]] for a, b in zip(first, last, strict=True)
        ]


@pytest.mark.parametrize("name", ["dino", "registers"])
def test_the_weights_are_those_of_plain_eager(name):
    encoder, media, _ = ASKED[name]
    look, eye = looked(name), tiny_encoders.encoder(encoder)
    inputs, _ = eye.read(media, look.settings)
    kwargs = {} if "registers" in encoder else {"interpolate_pos_encoding": inputs.interpolate}
    with torch.no_grad():
        found = tiny_encoders.plain(encoder)(inputs.tensors["pixel_values"], output_attentions=True, **kwargs)
    plain = torch.stack(found.attentions)[:, 0].mean(dim=1).numpy()  # (L, T, T)
    R = len(look.attention.prefix)
    with np.load(saved(name) / "attention.npz", allow_pickle=False) as arrays:
        weights = arrays["weights"]
    assert np.abs(weights[:, 0] - plain[:, 0, R:]).max() < 1e-6
    assert np.abs(weights[:, 1] - plain[:, R:, R:].mean(axis=1)).max() < 1e-6


@pytest.mark.parametrize("name", ASKED)
def test_every_file_is_told_and_nothing_else_is_there(name):
    folder, value = saved(name), json_of(saved(name))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {*value["files"]}
    assert len(value["files"]) == len(there)
    assert "NaN" not in (folder / "result.json").read_text(encoding="utf-8")
    assert value["kind"] == "encoder"
    assert [*folder.parent.glob(".draft*")] == []
    counts = {one["role"]: (one["first"], one["count"]) for one in value["tokens"]}
    R, cells = len(looked(name).attention.prefix), np.prod(looked(name).attention.grid[1:])
    assert counts["patch"] == (R, cells)
    assert ("cls" in counts) == (looked(name).attention.cls is not None)


@pytest.mark.parametrize("name", ASKED)
def test_headline_and_layers_are_those_of_the_arrays(name):
    look, value = looked(name), json_of(saved(name))
    values = look.attention.tokens(look.attention.queries[0])[-1, ..., len(look.attention.prefix) :]
    joined = {"mean": np.mean, "max": np.max, "min": np.min}[look.settings.over](values, axis=0)
    assert value["headline"]["minimum"] == pytest.approx(joined.min(), abs=1e-7)
    assert value["headline"]["maximum"] == pytest.approx(joined.max(), abs=1e-7)
    assert value["headline"]["uniform"] == pytest.approx(1 / look.attention.received.shape[-1])
    for layer, row in enumerate(value["layers"]):
        entropy = look.attention.entropy_bits[layer].mean(axis=-1)
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
    looked("dino").save(tmp_path, SMALL)
    assert written[-1] == "result.json"
    assert {*written} >= {"attention.npz", "picture_1.png", "report.html"}


def test_the_name_is_the_same_for_the_same_request_alone():
    look = looked("clip")
    settings, drawing, provenance = look.settings, SMALL, look.provenance

    def name(media=look.media, settings=settings, drawing=drawing, provenance=provenance):
        return request_folder(Path("out"), media, settings, drawing, provenance).name

    first = name()
    assert first == saved("clip").name
    assert name(media=tiny_encoders.picture(33, 44)) == first, "the content alone counts, which has the same hash here"
    other = {
        "at": ((1.0, 2.0),),
        "min_pixels": 5000,
        "max_pixels": 5000,
        "layer": 0,
        "over": "min",
        "embeddings": ("pca",),
        "saliency": False,
        "texts": ("a dog",),
        "label": "cat",
        "seed": 1,
        "clip": ClipSettings(),
    }
    assert {*other} == {one.name for one in fields(EncoderSettings)}
    drawn = {
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
    assert {*drawn} == {one.name for one in fields(Drawing)}
    names = [first, name(media=replace(look.media, sha256="1" * 64))]
    names += [
        name(settings=replace(settings, **({"texts": ()} if one == "saliency" else {}), **{one: value}))
        for one, value in other.items()
    ]
    names += [name(drawing=replace(drawing, **{one: value})) for one, value in drawn.items()]
    names += [name(provenance=replace(provenance, **{one: f"{value}x"})) for one, value in asdict(provenance).items()]
    assert len({one[-8:] for one in names}) == len(names)


def test_names_are_safe(tmp_path):
    look = looked("dino")
    for source in ("../../etc/passwd", "a\x1b[31m\nb.png", "猫 \udcff.png", "x" * 300 + ".png", "con.png", ""):
        target = request_folder(tmp_path, replace(look.media, source=source), look.settings, SMALL, look.provenance)
        assert target.parent == tmp_path
        assert len(target.name) < 100
        assert target.name.isprintable()


def test_a_source_that_is_no_unicode_is_saved(tmp_path, undrawn):
    look = looked("dino")
    folder = replace(look, media=replace(look.media, source="/x/a\udcff<script>\x1b.png")).save(tmp_path, SMALL)
    assert EncoderResult.load(folder).media.source == "a?<script>\x1b.png"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>\x1b" not in page


def test_it_is_not_replaced_unasked(tmp_path, undrawn):
    look = looked("dino")
    folder = look.save(tmp_path, SMALL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ResultExistsError, match="is there already"):
        look.save(tmp_path, SMALL)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "left.txt").write_text("x")
    assert look.save(tmp_path, SMALL, overwrite=True) == folder
    assert not (folder / "left.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_in_between_leaves_nothing(tmp_path, undrawn, monkeypatch, fault):
    def stop(*args):
        raise fault

    monkeypatch.setattr(store, "write_text", stop)
    kind = StoreError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        looked("dino").save(tmp_path, SMALL)
    assert [*tmp_path.iterdir()] == []


def test_a_fault_in_between_leaves_the_old_one(tmp_path, undrawn, monkeypatch):
    folder = looked("dino").save(tmp_path, SMALL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(store, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StoreError):
        looked("dino").save(tmp_path, SMALL, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_clip_of_a_file_comes_back(tmp_path, undrawn):
    from qvl_attn.media.mp4 import write_mp4
    from tests.conftest import numbered_frames

    times = [i / 10 for i in range(7)]
    write_mp4(tmp_path / "m.mp4", zip(numbered_frames(7), times, strict=True), 0.7, rate_fps=10)
    eye, how = tiny_encoders.encoder("dinov2"), ClipSettings(fps=5, max_frames=3)
    settings = EncoderSettings(clip=how)
    look = eye.encode(load_encoder_clip(eye.spec, eye.processor, tmp_path / "m.mp4", how, settings), settings)
    back = EncoderResult.load(look.save(tmp_path / "out", SMALL))
    assert same(back.media.frames, look.media.frames)
    assert back.media.clip == look.media.clip
    assert back.settings == settings


# Damage


def reported(folder: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        EncoderResult.load(folder)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value


@pytest.mark.parametrize("file", ["result.json", "attention.npz", "picture_1.png", "input/000000.png"])
@pytest.mark.parametrize("how", ["missing", "empty", "half", "noise"])
def test_a_damaged_file_is_told(damaged, file, how):
    path = damaged() / file
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": os.urandom(500)}[how])
    reported(path.parent if "/" not in file else path.parent.parent)


def changed(folder: Path, name: str, value) -> Path:
    """An array of another value; None takes it out."""
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


def spoil(values: np.ndarray, how: str) -> np.ndarray:
    if how == "longer":
        return np.concatenate([values, values]) if values.ndim else np.array([values, values])
    if how == "text":
        return np.full(values.shape, "x" * 30)
    if how == "deeper":
        return values[None]
    other = values.astype(np.float32) if values.dtype.kind != "U" else values
    return np.full(values.shape, np.nan, other.dtype) if values.dtype.kind in "fiu" else values[..., None]


def test_arrays_that_are_missing_or_changed_are_told(monkeypatch):
    folder = saved("clip")
    arrays = result_module.read_npz(folder / "attention.npz")
    for name in NEEDED:
        gone = {one: values for one, values in arrays.items() if one != name}
        monkeypatch.setattr(result_module, "read_npz", lambda path, gone=gone: gone)
        reported(folder)
        for how in ("longer", "text", "deeper", "nan"):
            if (name, how) == ("grid_thw", "longer"):
                continue  # what stands behind the first is not read
            other = arrays | {name: spoil(arrays[name], how)}
            monkeypatch.setattr(result_module, "read_npz", lambda path, other=other: other)
            reported(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid_thw", [[2**40, 2**40, 2**40]]),
        ("grid_thw", [[1, -5, -5]]),
        ("grid_thw", [[0, 5, 5]]),
        ("grid_thw", [[1, 1, 25]]),
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
def test_hostile_arrays_are_told(damaged, name, value):
    reported(changed(damaged(), name, value))


@pytest.mark.parametrize("name", ["space_components", "space_explained", "space_tsne", "space_tsne_patches"])
def test_hostile_embeddings_are_told(damaged, name):
    for value in (
        lambda v: v[:1],
        lambda v: v[None],
        lambda v: v.astype("U8"),
        lambda v: v.astype(np.float32) * np.nan,
    ):
        reported(changed(damaged("dino"), name, value))
    reported(changed(damaged("dino"), name, None)) if name != "space_tsne" else None


def test_arrays_of_objects_are_not_unpickled(damaged):
    folder = damaged()
    with np.load(folder / "attention.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays["weights_by_head"] = np.array([Bomb()], dtype=object)
    np.savez(folder / "attention.npz", **arrays)
    reported(folder)
    assert not Bomb.gone_off


class Bomb:
    """Says so when it is unpickled."""

    gone_off = False

    def __reduce__(self):
        return (setattr, (Bomb, "gone_off", True))


HOSTILE = (None, "x", -1, 2**70, 1.5, [], {}, [None], {"a": 1}, True, "\x1b[31m")


def places(value, path=()):
    """Where something stands in JSON; of lists the first alone."""
    items = value.items() if isinstance(value, dict) else [*enumerate(value)][:1] if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


@pytest.mark.parametrize("name", ["clip", "qwen frames"])
def test_hostile_json_is_told_or_does_no_harm(damaged, monkeypatch, name):
    """Whatever stands at any place: a look whose parts are of their types, or one line."""
    folder, value = damaged(name), json_of(saved(name))
    arrays = result_module.read_npz(folder / "attention.npz")
    monkeypatch.setattr(result_module, "read_npz", lambda path: arrays)  # the same, a thousand times
    pictures = {}
    real = result_module.read_png
    for room in ("qvl_attn.encoders.result", "qvl_attn.results.codec"):
        monkeypatch.setattr(f"{room}.read_png", lambda path: pictures.setdefault(path, real(path)))
    refused, count, lines = 0, 0, set()
    wanted = ("media", "settings") if name == "qwen frames" else {*value} - {"layers", "headline", "said", "tokens"}
    for path in places({one: value[one] for one in wanted}):
        for hostile in (*HOSTILE, "gone"):
            spoilt = json.loads(json.dumps(value))
            at = spoilt
            for key in path[:-1]:
                at = at[key]
            if hostile == "gone":
                del at[path[-1]]
            else:
                at[path[-1]] = hostile
            (folder / "result.json").write_text(json.dumps(spoilt))
            count += 1
            try:
                look = EncoderResult.load(folder)
            except StoreError as error:
                refused += 1
                lines.add(error.message)
            else:
                assert look.provenance.model.encode(), path
                assert 0 <= look.head_layer < look.attention.layer_count, path
                assert {type(one) for one in look.seconds.values()} <= {float}, path
                assert all({"host", "before"} <= {*peak} for peak in look.peak_memory_bytes.values()), path
                assert isinstance(look.settings.label, str | None), path
                assert isinstance(look.settings.min_pixels, int | None), path
    assert refused > 0.3 * count
    assert not [line for line in lines if "\n" in line]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 10**5, '{"schema_version": NaN}', '{"schema_version": 2, "kind": "encoder"}', "1e999"]
)
def test_what_is_no_result_is_told(damaged, text):
    folder = damaged()
    (folder / "result.json").write_text(text)
    reported(folder)


def test_numbers_without_end_are_told(damaged):
    folder = damaged()
    text = (folder / "result.json").read_text(encoding="utf-8")
    value = json_of(folder)["seconds"]["look"]
    (folder / "result.json").write_text(text.replace(str(value), "1e999"), encoding="utf-8")
    reported(folder)


def test_a_result_of_ask_is_told(tmp_path):
    (tmp_path / "result.json").write_text('{"schema_version": 1, "question": "?"}')
    assert "no look of an encoder" in reported(tmp_path).message


def test_a_picture_of_another_shape_is_told(damaged):
    from PIL import Image

    for file in ("picture_1.png", "input/000000.png"):
        folder = damaged()
        Image.new("RGB", (7, 60)).save(folder / file)
        reported(folder)
