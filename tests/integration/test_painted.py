"""A model with known attention: the peak of the map must be in the one painted cell.

The vision blocks add a constant and pass everything else through, so a token encodes the brightness of its cell and
nothing else. In the language model, queries are constant and keys are brightness, in the slowest rotary channel, which
position rotates by less than a thousandth.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from qvl_attn import Analyzer
from tests.conftest import DEMO_MODEL

CELL_PX = 28


def know_brightness(model) -> None:
    vision, text = model.model.visual, model.model.language_model
    for block in vision.blocks:
        for layer in (block.attn.proj, block.mlp.down_proj):
            layer.weight.zero_()
            layer.bias.zero_()
    vision.blocks[0].mlp.down_proj.bias[1] = 1.0
    vision.patch_embed.proj.weight.zero_()
    vision.patch_embed.proj.weight[0] = 1.0 / vision.patch_embed.proj.weight[0].numel()
    vision.merger.ln_q.weight.fill_(1.0)
    first, last = vision.merger.mlp[0], vision.merger.mlp[2]
    width = vision.patch_embed.proj.weight.shape[0]
    for layer in (first, last):
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[0, [0, width, 2 * width, 3 * width]] = 0.25
    first.bias[0] = 20.0  # far from zero, GELU is the identity
    last.weight[0, 0], last.bias[0], last.bias[1] = 1.0, -20.0, 10.0
    text.embed_tokens.weight.zero_()
    text.embed_tokens.weight[:, 1] = 10.0
    for layer in text.layers:
        layer.input_layernorm.weight.fill_(1.0)
        layer.mlp.down_proj.weight.zero_()
        attention = layer.self_attn
        attention.o_proj.weight.zero_()
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        slowest = attention.head_dim // 2 - 1
        attention.q_proj.bias[slowest :: attention.head_dim] = 10.0
        attention.k_proj.weight[slowest :: attention.head_dim, 0] = 10.0


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """The embedded model's tokenizer and settings around random weights with the real head size and rotary base."""
    folder = tmp_path_factory.mktemp("bright")
    for file in DEMO_MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
    config["text_config"]["rope_parameters"] |= {"rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config["vision_config"] |= {"out_hidden_size": 256}
    (folder / "config.json").write_text(json.dumps(config))
    Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    analyzer = Analyzer.load(str(folder), dtype="float32", device="cpu")
    with torch.no_grad():
        know_brightness(analyzer.engine.model)
    return analyzer


def paint(path, size_px, grid, cell, orientation=1):
    """Save a black picture with one white cell of `grid` (rows, columns), stored with the given EXIF orientation."""
    (width, height), (rows, columns) = size_px, grid
    row, column = cell
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside_x = (x >= column * width / columns) & (x < (column + 1) * width / columns)
    inside_y = (y >= row * height / rows) & (y < (row + 1) * height / rows)
    pixels[np.ix_(inside_y, inside_x)] = 255
    # The inverse of the operation that turns the stored picture upright.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    return path


def peak(result, media=0):
    values = result.heatmap(layers="all", query="last", media=media).values[0]
    return tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape)), values


@pytest.mark.parametrize("size_px", [(252, 140), (140, 252)], ids=["wide", "tall"])
def test_every_cell_is_found(bright, tmp_path, size_px):
    columns, rows = size_px[0] // CELL_PX, size_px[1] // CELL_PX
    for cell in np.ndindex(rows, columns):
        result = bright.ask(paint(tmp_path / "p.png", size_px, (rows, columns), cell), "?", max_new_tokens=1)
        strongest, values = peak(result)
        assert strongest == cell
        assert values[cell] > 2 * np.partition(values.ravel(), -2)[-2], "the other cells are dark"
        box = result.capture.grids[0].boxes_px[cell[0] * columns + cell[1]]
        assert box.tolist() == [cell[1] * 28, cell[0] * 28, cell[1] * 28 + 28, cell[0] * 28 + 28]


@pytest.mark.parametrize(
    ("size_px", "limits"),
    [
        ((252, 140), {}),
        ((263, 150), {}),
        ((31, 50), {"min_pixels": 50_000}),
        ((900, 500), {"max_pixels": 100_000}),
        ((500, 901), {"max_pixels": 100_000}),
    ],
    ids=["left as it is", "rounded", "enlarged", "shrunk", "shrunk, tall"],
)
def test_sizes_that_the_processor_changes(bright, tmp_path, size_px, limits):
    width, height = size_px
    resized = smart_resize(height, width, 28, limits.get("min_pixels", 3136), limits.get("max_pixels", 12_845_056))
    rows, columns = resized[0] // CELL_PX, resized[1] // CELL_PX
    for cell in {(0, 0), (0, columns - 1), (rows - 1, 0), (rows // 2, columns // 3), (rows - 1, columns - 1)}:
        path = paint(tmp_path / "p.png", size_px, (rows, columns), cell)
        result = bright.ask(path, "?", max_new_tokens=1, **limits)
        assert result.capture.grids[0].shape == (1, rows, columns)
        assert peak(result)[0] == cell
        box = result.capture.grids[0].boxes_px[cell[0] * columns + cell[1]]
        want = [cell[1] * width / columns, cell[0] * height / rows]
        want += [(cell[1] + 1) * width / columns, (cell[0] + 1) * height / rows]
        assert np.allclose(box, want, atol=1e-3)


def test_the_right_one_of_two_pictures(bright, tmp_path):
    dark = paint(tmp_path / "dark.png", (140, 252), (9, 5), (0, 0))
    Image.fromarray(np.zeros((252, 140, 3), dtype=np.uint8)).save(dark)
    lit = paint(tmp_path / "lit.png", (252, 140), (5, 9), (3, 7))
    for order in ((dark, lit), (lit, dark)):
        result = bright.ask(order[0], "?", [order[1]], max_new_tokens=1)
        maps = result.heatmaps(layers="all", query="last")
        assert [m.values.shape for m in maps] == [(1, 9, 5), (1, 5, 9)][:: 1 if order[0] == dark else -1]
        assert peak(result, media=order.index(lit))[0] == (3, 7)
        assert maps[order.index(dark)].values.max() < maps[order.index(lit)].values.max() / 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph(bright, tmp_path, orientation):
    path = paint(tmp_path / "p.jpg", (252, 140), (5, 9), (1, 7), orientation)
    result = bright.ask(path, "?", max_new_tokens=1)
    assert result.media[0].size_px == (252, 140)
    assert result.capture.grids[0].shape == (1, 5, 9)
    assert peak(result)[0] == (1, 7)


def test_one_photograph_in_eight_orientations_gives_one_map(demo, shared_data):
    maps = []
    for orientation in range(1, 9):
        path = shared_data / "images" / "exif_orientation" / f"Landscape_{orientation}.jpg"
        result = demo.ask(path, "how many cats?", max_pixels=200_000)
        assert result.media[0].size_px == (1800, 1200)
        maps.append(result.heatmap(layers="all", query="last").values.ravel())
    assert np.corrcoef(maps).min() > 0.98
