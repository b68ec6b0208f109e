"""The inputs of an encoder: against the processor's own output, and with bright squares that must lie in the boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from transformers import AutoImageProcessor, BitImageProcessor, CLIPImageProcessor

from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.encoders.inputs import MOST_PIXELS, input_box_px, merged_order, read_inputs, reconstruct
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders

SIZES = [(70, 70), (190, 100), (64, 203), (1000, 40), (33, 500), (20, 31), (1, 1), (3, 2)]
LIMITS = [(None, None), (None, 9000), (4000, 8000), (30000, None)]


def processed(encoder, image: np.ndarray, low=None, high=None):
    media = tiny_encoders.picture_of(image)
    inputs = read_inputs(encoder.spec, encoder.processor, media, low, high)
    return inputs, reconstruct(encoder.spec, encoder.processor, inputs)


@pytest.mark.parametrize("size_px", SIZES, ids=str)
@pytest.mark.parametrize("name", ["clip", "siglip", "siglip-vision", "dino", "dinov2", "registers-classes"])
def test_without_limits_the_input_is_that_of_the_checkpoints_processor(name, size_px):
    image = tiny_encoders.pixels(*size_px)[0]
    processor = AutoImageProcessor.from_pretrained(tiny_encoders.folder(name))
    expected = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
    inputs, _ = processed(tiny_encoders.encoder(name), image)
    assert torch.equal(inputs.tensors["pixel_values"], expected)
    side = tiny_encoders.encoder(name).spec.trained_px // tiny_encoders.encoder(name).spec.patch_px
    assert inputs.grid == (1, side, side)
    assert not inputs.interpolate


@pytest.mark.parametrize("size_px", SIZES[:6], ids=str)
@pytest.mark.parametrize("limits", LIMITS[1:], ids=str)
@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "dinov2"])
def test_with_limits_the_input_is_the_whole_picture_with_its_aspect_ratio(name, limits, size_px):
    encoder, (width, height) = tiny_encoders.encoder(name), size_px
    inputs, reconstruction = processed(encoder, tiny_encoders.pixels(*size_px)[0], *limits)
    _, h, w = inputs.grid
    patch = encoder.spec.patch_px
    # The same scale for both sides, to within a patch.
    assert max((w - 1) / width, (h - 1) / height) < min((w + 1) / width, (h + 1) / height)
    low, high = limits
    if high is None:  # the minimum is also the maximum, because it is above the size of the training pictures
        assert abs(h * w - low / patch**2) <= h + w
    else:
        assert (low or 0) <= h * w * patch**2 <= high
    assert inputs.interpolate == ((h * patch, w * patch) != (encoder.spec.trained_px,) * 2)
    assert reconstruction.shape == (1, h * patch, w * patch, 3)
    x = np.linspace(0, width, w + 1)
    y = np.linspace(0, height, h + 1)
    boxes = [(x[j], y[i], x[j + 1], y[i + 1]) for i in range(h) for j in range(w)]
    np.testing.assert_allclose(inputs.boxes_px, boxes, atol=0.011)


def overlap(boxes: np.ndarray, square: tuple[float, float, float, float]) -> np.ndarray:
    """Return the share of each box that a square covers: (P,)."""
    x0, y0, x1, y1 = square
    width = (np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0)).clip(min=0)
    height = (np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0)).clip(min=0)
    return width * height / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def brightness(reconstruction: np.ndarray, size: int) -> np.ndarray:
    """Return the brightness of each patch, 0 to 1: (P,)."""
    t, height, width, _ = reconstruction.shape
    patches = reconstruction.reshape(t, height // size, size, width // size, size, 3) / 255
    return patches.mean(axis=(2, 4, 5)).reshape(-1)


@pytest.mark.parametrize("size_px", [(90, 84), (230, 120), (97, 260), (700, 56), (37, 51)], ids=str)
@pytest.mark.parametrize("limits", [(None, None), (None, 12000)], ids=["squares", "whole"])
@pytest.mark.parametrize("name", ["clip", "siglip", "siglip-vision", "dino", "dinov2", "registers", tiny_encoders.QWEN])
def test_a_bright_square_lies_in_the_patches_whose_boxes_hold_it(name, limits, size_px):
    encoder, (width, height) = tiny_encoders.encoder(name), size_px
    largest = []
    for left, top in ((0.4, 0.35), (0.55, 0.5), (0.0, 0.0), (0.7, 0.8)):
        x0, y0 = round(left * width), round(top * height)
        x1, y1 = x0 + max(3, round(0.3 * width)), y0 + max(3, round(0.2 * height))
        image = np.zeros((height, width, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        inputs, reconstruction = processed(encoder, image, *limits)
        covered = overlap(inputs.boxes_px, (x0, y0, min(x1, width), min(y1, height)))
        bright = brightness(reconstruction, encoder.spec.patch_px)
        # Resizing may blur an edge over some pixels of a patch.
        assert np.abs(bright - covered).max() < 0.16
        largest.append(covered.max())
    assert max(largest) > 0.19, "no square was ever visible"


@pytest.mark.parametrize("size_px", [(30, 20), (64, 48), (60, 200)], ids=str)
def test_a_crop_that_is_larger_than_the_picture(size_px):
    """The boxes of the padding lie outside the picture."""
    encoder = tiny_encoders.encoder("clip")
    small = CLIPImageProcessor(size={"shortest_edge": 42}, crop_size={"height": 70, "width": 70})
    media = tiny_encoders.picture_of(np.full((size_px[1], size_px[0], 3), 255, np.uint8))
    inputs = read_inputs(encoder.spec, small, media)
    reconstruction = reconstruct(encoder.spec, small, inputs)
    covered = overlap(inputs.boxes_px, (0, 0, *size_px))
    assert covered.min() == 0
    assert np.abs(brightness(reconstruction, 14) - covered).max() < 0.05


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "dinov2", "registers"])
@pytest.mark.parametrize("limits", [(None, None), (None, 9000)], ids=["squares", "whole"])
@pytest.mark.parametrize("size_px", [(190, 100), (64, 203), (20, 31)], ids=str)
def test_the_reconstruction_is_the_resized_picture(name, limits, size_px):
    encoder, image = tiny_encoders.encoder(name), tiny_encoders.pixels(*size_px)[0]
    inputs, reconstruction = processed(encoder, image, *limits)
    processor, (_, h, w) = AutoImageProcessor.from_pretrained(tiny_encoders.folder(name)), inputs.grid
    size = encoder.spec.patch_px
    kwargs = (
        {} if limits == (None, None) else {"size": {"height": h * size, "width": w * size}, "do_center_crop": False}
    )
    plain = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt", **kwargs)["pixel_values"]
    assert np.array_equal(reconstruction, plain.permute(0, 2, 3, 1).numpy()[:, : h * size, : w * size])


@pytest.mark.parametrize("size_px", [(112, 84), (190, 100), (64, 203), (5, 60)], ids=str)
@pytest.mark.parametrize("limits", [(None, None), (4000, 9000)], ids=str)
def test_qwens_reconstruction_is_the_resized_picture(size_px, limits):
    image = tiny_encoders.pixels(*size_px)[0]
    low, high = limits[0] or 4 * 28**2, limits[1] or 2**20
    content = [{"type": "image", "image": Image.fromarray(image), "min_pixels": low, "max_pixels": high}]
    (resized,), _ = process_vision_info([{"role": "user", "content": content}])
    inputs, reconstruction = processed(tiny_encoders.encoder(tiny_encoders.QWEN), image, *limits)
    assert np.array_equal(reconstruction[0], np.array(resized))
    assert inputs.grid == (1, resized.height // 14, resized.width // 14)
    np.testing.assert_allclose(inputs.boxes_px[-1, 2:], size_px)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_reconstruction_of_qwens_clip_is_the_first_frame_of_each_step(frames):
    encoder, media = tiny_encoders.encoder(tiny_encoders.QWEN), tiny_encoders.clip(140, 84, frames, size_px=(1000, 700))
    inputs = read_inputs(encoder.spec, encoder.processor, media)
    assert np.array_equal(reconstruct(encoder.spec, encoder.processor, inputs), media.frames[::2])
    assert inputs.frames.tolist() == [[i, min(i + 1, frames - 1)] for i in range(0, frames, 2)]
    assert (
        inputs.boxes_px[12].tolist()
        == inputs.boxes_px[-60 + 12].tolist()
        == pytest.approx([200, 700 / 6, 300, 1400 / 6])
    )


def test_in_other_families_each_frame_of_a_clip_is_a_step():
    encoder, media = tiny_encoders.encoder("dino"), tiny_encoders.clip(70, 70, 3, size_px=(700, 350))
    inputs = read_inputs(encoder.spec, encoder.processor, media)
    assert inputs.grid == (3, 5, 5)
    assert inputs.frames.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert np.array_equal(reconstruct(encoder.spec, encoder.processor, inputs), media.frames)
    assert inputs.boxes_px[6].tolist() == inputs.boxes_px[56].tolist() == [140, 70, 280, 140]


def test_a_wrong_order_is_visible_in_the_reconstruction():
    encoder, media = tiny_encoders.encoder(tiny_encoders.QWEN), tiny_encoders.picture(140, 84)
    inputs = read_inputs(encoder.spec, encoder.processor, media)
    wrong = replace(inputs, place=np.roll(inputs.place, 1))
    assert not np.array_equal(reconstruct(encoder.spec, encoder.processor, wrong)[0], media.frames[0])


def test_the_order_of_patches_that_merge():
    # Two by two: 0 1 are above 6 7, then 2 3 above 8 9.
    assert merged_order((1, 2, 6), 2).tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert merged_order((2, 4, 2), 2).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert merged_order((1, 4, 4), 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


@pytest.mark.parametrize("name", ["clip", "dino", tiny_encoders.QWEN])
def test_a_point_gives_the_patch_that_covers_it(name):
    encoder, media = tiny_encoders.encoder(name), tiny_encoders.picture(190, 100)
    limits = {} if name == tiny_encoders.QWEN else {"max_pixels": 9000}
    for x, y in ((0.0, 0.0), (95.0, 50.0), (189.9, 99.9), (0.0, 99.0), (140.5, 20.25)):
        inputs, (place,) = encoder.read(media, EncoderSettings(at=((x, y),), **limits))
        _, h, w = inputs.grid
        assert place == int(y / 100 * h) * w + int(x / 190 * w)


@pytest.mark.parametrize(
    ("name", "at", "words"),
    [
        ("clip", (2.0, 50.0), r"`at=\[\(2.0, 50.0\)\]`: the encoder does not see this point, only the region from"),
        ("dino", (190.0, 50.0), "outside the picture, which has"),
        ("dino", (-1.0, 50.0), "outside the picture, which has"),
        (tiny_encoders.QWEN, (10.0, 100.0), "outside the picture, which has"),
    ],
)
def test_a_point_that_no_patch_covers(name, at, words):
    with pytest.raises(InputError, match=words):
        tiny_encoders.encoder(name).read(tiny_encoders.picture(190, 100), EncoderSettings(at=(at,)))


@pytest.mark.parametrize(
    "at", [(100, 100), 5, ((1, 2, 3),), (("a", "b"),), "12", ((None, 1),), [[(1, 2), (3, 4)]]], ids=str
)
def test_points_that_are_not_pairs(at):
    with pytest.raises(InputError, match=r"`at=.*`: not .x, y. pairs") as caught:
        EncoderSettings(at=at)
    assert caught.value.hint == "such as [(100, 100)]"


def test_a_name_that_is_too_long_for_a_path():
    with pytest.raises(InputError, match="xxx"):
        tiny_encoders.encoder("dino").encode("x" * 5000)


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "dinov2", tiny_encoders.QWEN])
@pytest.mark.parametrize("size_px", [(1, 1000), (1000, 1), (10, 2001)], ids=str)
def test_pictures_that_are_too_long_and_narrow(name, size_px):
    for limits in ({}, {"max_pixels": 9000}):
        with pytest.raises(InputError, match=f"{size_px[0]}x{size_px[1]}: too long and narrow"):
            tiny_encoders.encoder(name).read(tiny_encoders.picture(*size_px), EncoderSettings(**limits))


@pytest.mark.parametrize("name", ["clip", "siglip", tiny_encoders.QWEN])
@pytest.mark.parametrize("size_px", [(10, 1990), (1990, 10)], ids=str)
def test_pictures_that_are_narrower_than_a_patch_within_the_limits(name, size_px):
    with pytest.raises(InputError, match="too long and narrow"):
        tiny_encoders.encoder(name).read(tiny_encoders.picture(*size_px), EncoderSettings(max_pixels=9000))


def test_a_picture_that_only_its_rounding_makes_too_narrow():
    with pytest.raises(InputError, match="too long and narrow"):
        tiny_encoders.encoder(tiny_encoders.QWEN).read(tiny_encoders.picture(60, 12000), EncoderSettings())


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("clip", {"max_pixels": 783}, f"`max_pixels=783`: must be from 784 to {MOST_PIXELS}"),
        ("clip", {"min_pixels": MOST_PIXELS + 1}, f"`min_pixels={MOST_PIXELS + 1}`: must be from 784"),
        ("siglip", {"max_pixels": 1023}, "`max_pixels=1023`: must be from 1024"),
        ("dino", {"min_pixels": 9000, "max_pixels": 8000}, "`min_pixels=9000` is above `max_pixels=8000`"),
        (tiny_encoders.QWEN, {"max_pixels": 3135}, "`max_pixels=3135`: want 3136 to 100352000"),
        (tiny_encoders.QWEN, {"min_pixels": 9000, "max_pixels": 8000}, "`min_pixels=9000` is above"),
    ],
)
def test_limits_out_of_range(name, limits, words):
    with pytest.raises(InputError, match=words):
        tiny_encoders.encoder(name).read(tiny_encoders.picture(90, 90), EncoderSettings(**limits))


@pytest.mark.parametrize("layer", [-1, 3, 100])
def test_a_layer_that_does_not_exist(layer):
    with pytest.raises(InputError, match=f"`layer={layer}`: the encoder has layers 0 to 2"):
        tiny_encoders.encoder("clip").read(tiny_encoders.picture(90, 90), EncoderSettings(layer=layer))


@pytest.mark.parametrize("settings", [{"over": "median"}, {"embeddings": ("umap",)}])
def test_unknown_settings(settings):
    with pytest.raises(InputError, match="unknown"):
        EncoderSettings(**settings)


class GammaProcessor(BitImageProcessor):
    """Changes pixel values, too."""

    def _preprocess(self, images, **kwargs):
        outputs = super()._preprocess(images, **kwargs)
        outputs["pixel_values"] = outputs["pixel_values"] ** 1.5
        return outputs


def test_a_processor_that_does_more_than_scale_and_crop():
    with pytest.raises(CaptureError, match="does more than scale and crop"):
        input_box_px(GammaProcessor(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}), (300, 200))


def test_a_processor_that_does_not_resize():
    plain = BitImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 70, "width": 84})
    assert input_box_px(plain, (100, 90)) == pytest.approx((8, 10, 92, 80), abs=1e-3)
    assert input_box_px(plain, (60, 90)) == pytest.approx((-12, 10, 72, 80), abs=1e-3)
    assert input_box_px(plain, (20, 10)) == pytest.approx((-32, -30, 52, 40), abs=1e-3)
