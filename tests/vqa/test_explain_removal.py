"""Deletion and insertion curves, compared with the plain model on pictures whose pixels were replaced."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from qvl_attn.attribution import faithfulness
from qvl_attn.attribution.faithfulness import FILLS, KINDS, STEPS, blurred, flat, removal_orders
from qvl_attn.attribution.regions import picture_region
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Media
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import load_clip
from qvl_attn.vqa import explain
from qvl_attn.vqa.batching import run_group
from qvl_attn.vqa.explain import removal_curves
from qvl_attn.vqa.question import read_question, without_pixels
from tests.conftest import DEMO_PICTURES

CELL_PX = 28
SEED = 3
rng = np.random.default_rng(8)


@dataclass
class AnsweredQuestion:
    """A question with its answer, and the plain model without our code."""

    engine: object
    question: object
    ids: tuple[int, ...]
    tokens: tuple
    logprob: float

    def curves(self, maps, batch=16, seed=SEED, **changed):
        engine, given = self.engine, {"question": self.question, "ids": self.ids, "tokens": self.tokens} | changed
        return removal_curves(engine.model, engine.processor, engine.config, **given, maps=maps, batch=batch, seed=seed)

    def inputs(self, media):
        engine, question = self.engine, self.question
        return read_question(
            engine.processor, engine.config, media, question.prompt.question, question.settings
        ).prompt.inputs

    def plain(self, inputs):
        """Return the log-probability of the answer's text, token by token in float64."""
        length, special = inputs["input_ids"].shape[1], {*self.engine.processor.tokenizer.all_special_ids}
        behind = torch.tensor([self.ids])
        fed = dict(inputs)
        fed["input_ids"] = torch.cat([inputs["input_ids"], behind], dim=1)
        fed["attention_mask"] = torch.ones_like(fed["input_ids"])
        fed["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(behind)], dim=1)
        with torch.inference_mode():
            logprobs = self.engine.model(**fed).logits[0].double().log_softmax(-1)
        return sum(float(logprobs[length - 1 + i, token]) for i, token in enumerate(self.ids) if token not in special)


def as_media(frame) -> Media:
    height, width = frame.shape[:2]
    return Media("picture", np.ascontiguousarray(frame)[None], np.zeros(1), (width, height), "made", "")


def picture(name, box_px) -> Media:
    with Image.open(DEMO_PICTURES / name) as image:
        return as_media(np.asarray(image.convert("RGB").crop(box_px)))


def media_of(engine, what):
    if what == "clip":
        clip = load_clip(engine.processor, open_clip(DEMO_PICTURES / "clip.mp4"), clip_settings(engine))
        assert len(clip.frames) == 3, "the last step repeats the last frame"
        darker = clip.frames * np.array([1, 0.8, 0.6])[:, None, None, None]
        return [replace(clip, frames=darker.astype(np.uint8))]
    cat = picture("two_animals.png", (6, 12, 118, 124))
    return [cat] if what == "picture" else [cat, picture("wide.png", (84, 28, 168, 112))]


def clip_settings(engine):
    return engine.settings(profile="none", clip=ClipSettings(fps=1.5, max_frames=3))


def ask(engine, media, text, **settings):
    (question,) = engine.prepare([(media, text)], engine.settings(profile="none", **settings))
    (run,) = run_group(engine.model, engine.processor, engine.config, [[question]], shared=False)
    mapped = run.supplied or run.own
    return AnsweredQuestion(
        engine, question, mapped.ids, mapped.capture.tokens[question.prompt.length :], mapped.logprob
    )


TEXTS = {"picture": "what color is the cat?", "pictures": "what color is the cat?", "clip": "what is moving?"}


@pytest.fixture(scope="module", params=["picture", "pictures", "clip"])
def answered(engine, request):
    return ask(engine, media_of(engine, request.param), TEXTS[request.param])


@pytest.fixture(scope="module")
def cat(engine):
    return ask(engine, media_of(engine, "picture"), TEXTS["picture"])


@pytest.fixture
def once(monkeypatch):
    """One random order instead of several, to save time."""
    monkeypatch.setattr(faithfulness, "RANDOM_ORDERS", 1)


@pytest.fixture(scope="module")
def some_map(answered):
    """A map without ties."""
    return rng.random(sum(grid.cells for grid in answered.question.prompt.grids)).astype(np.float32)


@pytest.fixture(scope="module")
def curves(answered, some_map):
    """The curves of `some_map`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "RANDOM_ORDERS", 1)
        return answered.curves({"some": some_map})


def places(media):
    """Yield the picture's index and the slices of each cell's pixels (frames, rows, columns), in token order."""
    for i, medium in enumerate(media):
        count, height, width = medium.frames.shape[:3]
        step = 2 if medium.kind == "clip" else 1
        for t in range(0, count, step):
            for y in range(0, height, CELL_PX):
                for x in range(0, width, CELL_PX):
                    yield i, np.s_[t : t + step, y : y + CELL_PX, x : x + CELL_PX]


def replaced(media, cells, fill):
    """Return the media with the pixels of some cells replaced by the fill."""
    kinds = {"blur": lambda medium: np.stack([blurred(frame) for frame in medium]), "mean": flat}
    filled, frames, where = (
        [kinds[fill](medium.frames) for medium in media],
        [medium.frames.copy() for medium in media],
        [*places(media)],
    )
    for cell in cells:
        i, pixels = where[cell]
        frames[i][pixels] = filled[i][pixels]
    return [replace(medium, frames=changed) for medium, changed in zip(media, frames, strict=True)]


def test_each_cell_has_four_rows_in_the_order_of_the_tokens(answered):
    media = [replace(medium, frames=np.zeros_like(medium.frames)) for medium in answered.question.media]
    where = [*places(media)]
    assert len(where) == sum(grid.cells for grid in answered.question.prompt.grids)
    (name,) = {"pixel_values", "pixel_values_videos"} & answered.inputs(media).keys()
    black = answered.inputs(media)[name]
    for cell, (i, pixels) in enumerate(where):
        painted = [medium.frames.copy() for medium in media]
        painted[i][pixels] = 255
        rows = answered.inputs(
            [replace(medium, frames=pixel_frames) for medium, pixel_frames in zip(media, painted, strict=True)]
        )[name]
        assert torch.nonzero((rows != black).any(dim=1))[:, 0].tolist() == list(range(4 * cell, 4 * cell + 4))


def test_curves_are_those_of_pictures_whose_pixels_were_replaced(answered, some_map, curves):
    cells, order = len(some_map), np.argsort(-some_map)
    for kind, fill, step in [(0, 0, 5), (0, 1, 3), (0, 1, 12), (1, 0, 2), (1, 1, 5), (1, 1, 11), (0, 0, 16), (1, 1, 0)]:
        count = int(step * cells / STEPS + 0.5)
        removed = order[:count] if KINDS[kind] == "deletion" else order[count:]
        expected = answered.plain(answered.inputs(replaced(answered.question.media, removed, FILLS[fill])))
        assert curves.logprobs[0, kind, fill, step] == pytest.approx(expected, abs=1e-4)
    assert np.ptp(curves.logprobs[0], axis=-1).min() > 0.1


def test_the_ends_are_the_answer_and_nothing_left(answered, some_map, curves):
    assert curves.names == ("some", "random", "uniform")
    assert curves.logprobs[:, 0, :, 0] == pytest.approx(answered.logprob, abs=1e-4)
    assert curves.logprobs[:, 1, :, -1] == pytest.approx(answered.logprob, abs=1e-4)
    for f in range(len(FILLS)):
        nothing = curves.logprobs[0, 0, f, -1]
        assert curves.logprobs[:, 0, f, -1].tolist() == [nothing] * 3
        assert curves.logprobs[:, 1, f, 0].tolist() == [nothing] * 3
        assert nothing == pytest.approx(
            answered.plain(answered.inputs(replaced(answered.question.media, range(len(some_map)), FILLS[f]))), abs=1e-4
        )


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_does_not_matter(cat, once, batch):
    assert cat.curves({}, batch=batch).logprobs == pytest.approx(cat.curves({}).logprobs, abs=1e-4)


def test_a_uniform_map_takes_the_same_share_of_every_cell(cat, once):
    curves = cat.curves({})
    inputs = cat.inputs(cat.question.media)
    for f, fill in enumerate(FILLS):
        filled = cat.inputs(replaced(cat.question.media, range(16), fill))["pixel_values"]
        for step in (3, 8, 15):
            mixed = torch.lerp(inputs["pixel_values"], filled, step / STEPS)
            want = cat.plain({**inputs, "pixel_values": mixed})
            assert curves.logprobs[-1, 0, f, step] == pytest.approx(want, abs=1e-4)
            assert curves.logprobs[-1, 1, f, STEPS - step] == pytest.approx(want, abs=1e-4)


def test_random_is_the_mean_over_the_random_orders(cat, monkeypatch):
    monkeypatch.setattr(faithfulness, "RANDOM_ORDERS", 2)
    orders = removal_orders([], 16, SEED)
    maps = {str(i): -np.argsort(order).astype(np.float32) for i, order in enumerate(orders)}
    curves = cat.curves(maps)
    assert curves.names == ("0", "1", "random", "uniform")
    assert curves.logprobs[2] == pytest.approx(curves.logprobs[:2].mean(axis=0), abs=1e-4)
    assert np.ptp(curves.logprobs[:2], axis=0).max() > 0.1
    other_seed = cat.curves({}, seed=SEED + 1)
    assert np.abs(other_seed.logprobs[0] - curves.logprobs[2]).max() > 1e-2


def test_a_map_has_its_curve_whatever_stands_beside_it(cat, once):
    values = rng.random(16).astype(np.float32).round(1)
    alone = cat.curves({"some": values})
    beside = cat.curves({"other": -values, "some": values})
    assert beside.names == ("other", "some", "random", "uniform")
    assert beside.logprobs[1:] == pytest.approx(alone.logprobs, abs=1e-4)
    assert np.abs(beside.logprobs[0] - alone.logprobs[0]).max() > 1e-2
    json.dumps(faithfulness.curves_json(beside), allow_nan=False)


def test_every_input_runs_once_in_batches_with_the_answer_alone(cat, once, monkeypatch):
    calls, forward = [], cat.engine.model.forward

    def watched(**inputs):
        calls.append((len(inputs["input_ids"]), inputs["logits_to_keep"], inputs["use_cache"]))
        assert torch.is_inference_mode_enabled()
        return forward(**inputs)

    monkeypatch.setattr(cat.engine.model, "forward", watched)
    cat.curves({"some": rng.random(16).astype(np.float32)}, batch=9)
    distinct = 2 + 2 * 2 * (STEPS - 1) + STEPS - 1  # the ends, two orders both ways, the same share of every cell
    assert sum(count for count, _, _ in calls) == len(FILLS) * distinct
    assert [count for count, _, _ in calls] == [*([9] * (distinct // 9)), distinct % 9] * len(FILLS)
    assert {others for _, *others in map(tuple, calls) for others in [tuple(others)]} == {(len(cat.ids) + 1, False)}


def test_the_object_asked_about_deletes_better_than_all_else(engine, cats, once):
    answered = ask(engine, cats, "what color is the dog?")
    dog = np.array([[152, 31, 212, 83]]) / [252, 224, 252, 224]
    covered = picture_region(answered.question.prompt.grids, [dog], [(252, 224)]).covered.astype(np.float32)
    figures = answered.curves({"dog": covered, "all else": -covered}).figures()
    for fill in FILLS:
        deletion, insertion = f"deletion_{fill}", f"insertion_{fill}"
        assert figures["dog"][deletion] < figures["random"][deletion] - 0.5
        assert figures["dog"][deletion] < figures["all else"][deletion] - 0.5
        assert figures["dog"][insertion] > figures["all else"][insertion] + 0.5


def test_of_several_tokens_the_text_alone_is_summed(engine, once):
    answered = ask(engine, media_of(engine, "picture"), "what color is the cat?", answer="red star")
    assert len(answered.ids) > 1
    curves = answered.curves({})
    assert curves.logprobs[0, 0, :, 0] == pytest.approx(answered.logprob, abs=1e-4)
    end = engine.processor.tokenizer.eos_token_id
    (last,) = ask(engine, media_of(engine, "picture"), "what color is the cat?").tokens[1:]
    ended = answered.curves({}, ids=(*answered.ids, end, end), tokens=(*answered.tokens, last, last))
    assert ended.logprobs == pytest.approx(curves.logprobs, abs=1e-4)
    first = answered.curves({}, tokens=(answered.tokens[0], *[last] * (len(answered.ids) - 1)))
    assert first.logprobs[0, 0, 0, 0] > curves.logprobs[0, 0, 0, 0] + 1e-3


def test_pixels_that_were_given_up_are_made_again(cat, once):
    recomputed = cat.curves({}, question=without_pixels(cat.question))
    assert np.array_equal(recomputed.logprobs, cat.curves({}).logprobs)


def test_a_picture_that_is_resized_is_filled_before(engine, once):
    media = picture("cats.png", (140, 20, 230, 97))
    answered = ask(engine, [media], "what color is the dog?")
    assert answered.question.prompt.grids[0].shape != (1, 90 / CELL_PX, 77 / CELL_PX)
    curves = answered.curves({})
    for f, frame in enumerate((blurred(media.frames[0]), flat(media.frames)[0])):
        want = answered.plain(answered.inputs([as_media(frame)]))
        assert curves.logprobs[0, 0, f, -1] == pytest.approx(want, abs=1e-4)


def test_an_answer_without_text_has_no_curves(cat):
    with pytest.raises(CaptureError, match="no text"):
        cat.curves({}, ids=cat.ids[1:], tokens=cat.tokens[1:])


def test_a_map_that_does_not_fit_is_refused(cat):
    with pytest.raises(ValueError, match="a map of shape"):
        cat.curves({"some": np.zeros(15, np.float32)})


@pytest.mark.parametrize("name", ["input_ids", "image_grid_thw", "pixel_values"])
def test_a_processor_that_makes_something_else_of_filled_pictures_is_a_fault(cat, monkeypatch, name):
    def otherwise(*args):
        question = read_question(*args)
        inputs = dict(question.prompt.inputs)
        inputs[name] = inputs[name][:-4] if name == "pixel_values" else inputs[name] + 1
        return replace(question, prompt=replace(question.prompt, inputs=inputs))

    monkeypatch.setattr(explain, "read_question", otherwise)
    with pytest.raises(CaptureError, match="another prompt"):
        cat.curves({})


def test_what_is_not_finite_is_a_fault(cat):
    def broken(module, args, output):
        return output * float("nan")

    hook = cat.engine.model.lm_head.register_forward_hook(broken)
    try:
        with pytest.raises(CaptureError, match="not finite"):
            cat.curves({})
    finally:
        hook.remove()
