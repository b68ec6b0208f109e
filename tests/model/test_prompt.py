"""Inputs against the model card's recipe; token roles with the real Qwen2.5-VL vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from qvl_attn.attribution.selection import words
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.media.image import load_picture
from qvl_attn.model.prompt import answer_tokens, build_prompt, chat_messages
from tests.conftest import DEMO_PICTURES
from tests.helpers.plain_eager import eager
from tests.helpers.recipe import recipe

QUESTIONS = [
    "how many cats?",
    "What's the colour of the cat's eyes, and why?",
    "图中有几只猫？",
    "有几只🐈‍⬛和👩🏽‍🚀在this picture里?",
    "user",
    "assistant\n<tool>\n",
    "  spaces  around  ",
    "é decomposed: e\u0301, ligature ﬁ, 전각 ｆｕｌｌ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🏳️‍🌈🏳️‍🌈",
    "You are a helpful assistant.",
]


def span_of(processor, ids, question):
    """Return the span of the question's ids, found by decoding alone."""
    fits = [
        (start, stop)
        for start in range(len(ids))
        for stop in range(start + 1, len(ids) + 1)
        if processor.tokenizer.decode(ids[start:stop]) == question
    ]
    return max(fits)


@pytest.mark.parametrize("text_first", [False, True], ids=["picture first", "text first"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_question_tokens(genuine, make_picture, question, text_first):
    path = make_picture(84, 56)
    media = [load_picture(path)]
    messages = chat_messages(media, question)
    if text_first:
        messages[-1]["content"].reverse()
    prompt = build_prompt(genuine.engine.processor, messages, media, 2)
    ids = prompt.inputs["input_ids"][0].tolist()
    want = recipe(genuine.engine.processor, [path], question, text_first=text_first)
    assert ids == want["input_ids"][0].tolist()

    positions = prompt.positions("question")
    assert list(positions) == list(range(positions[0], positions[-1] + 1))
    decoded = genuine.engine.processor.tokenizer.decode([ids[i] for i in positions])
    # The tokenizer composes characters (NFC) before it splits them into tokens.
    import unicodedata

    assert decoded == unicodedata.normalize("NFC", question)
    if text_first:
        assert positions[-1] < prompt.grids[0].start
    else:
        assert positions[0] == prompt.grids[0].stop + 1
    assert prompt.positions("last") == (len(ids) - 1,)
    assert prompt.positions("vision") == tuple(np.flatnonzero(want["mm_token_type_ids"][0] == 1))
    system = genuine.engine.processor.tokenizer.decode([ids[i] for i in prompt.positions("system")])
    assert system == "You are a helpful assistant."


def test_text_query_takes_all_pieces_of_an_emoji(genuine, make_picture):
    media = [load_picture(make_picture(84, 56))]
    question = "is 🐈‍⬛ here? 🐈‍⬛"
    prompt = genuine.engine.prepare([(media, question)], Settings(query="text:🐈"))[0].prompt
    pieces = [token for token in prompt.tokens if token.role == "question" and token.span[0] == question.index("🐈")]
    assert len(pieces) > 1, "one emoji is several tokens in this vocabulary"
    matches = [word for word in words(prompt.tokens, question, "question") if word.text.startswith("🐈")]
    assert set(matches[0].positions) >= {token.position for token in pieces}


@pytest.mark.parametrize("sizes", [[(252, 140)], [(640, 480), (100, 333)], [(30, 20)], [(1, 1)], [(2000, 1100)]])
def test_inputs_equal_the_recipe(genuine, make_picture, sizes):
    paths = [make_picture(*size, name=f"{i}.png", seed=i) for i, size in enumerate(sizes)]
    prompt = genuine.engine.prepare([([load_picture(path) for path in paths], "图中有几只猫？")], Settings())[0].prompt
    want = recipe(genuine.engine.processor, paths, "图中有几只猫？")
    assert set(prompt.inputs) == set(want)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw", "pixel_values"):
        assert torch.equal(prompt.inputs[name], want[name]), name
    assert [grid.grid_thw for grid in prompt.grids] == [tuple(grid) for grid in want["image_grid_thw"].tolist()]


def test_the_chat_template_alone_resizes_otherwise(engine, tmp_path):
    """The README's "up to 0.002": the largest difference of a weight, among the embedded pictures at another size."""
    question, differences = "how many cats?", {}
    for path in sorted(DEMO_PICTURES.glob("*.png")):
        picture = Image.open(path)
        picture = picture.resize((picture.width * 19 // 10, picture.height * 19 // 10), Image.Resampling.BICUBIC)
        picture.save(tmp_path / path.name)
        ours = dict(engine.prepare([([load_picture(tmp_path / path.name)], question)], Settings())[0].prompt.inputs)
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        alone = engine.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert torch.equal(ours["input_ids"], alone["input_ids"])
        with eager(engine.model), torch.no_grad():
            attention = [torch.cat(engine.model(**i, output_attentions=True).attentions) for i in (ours, alone)]
        differences[path.stem] = float((attention[0] - attention[1]).abs().max())
    assert min(differences.values()) > 1e-5
    assert max(differences.values()) == pytest.approx(0.002, abs=0.0005)


def test_transparency_is_white_as_in_the_recipe(engine, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (84, 112, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    prompt = engine.prepare([([load_picture(tmp_path / "a.png")], "how many cats?")], Settings())[0].prompt
    from qwen_vl_utils.vision_process import to_rgb

    to_rgb(Image.open(tmp_path / "a.png")).save(tmp_path / "b.png")
    want = recipe(engine.processor, [tmp_path / "b.png"], "how many cats?")
    assert torch.equal(prompt.inputs["pixel_values"], want["pixel_values"])


def test_pixel_limits(genuine, make_picture):
    media = [load_picture(make_picture(560, 280))]
    usual = genuine.engine.prepare([(media, "?")], Settings())[0].prompt.grids[0]
    small = genuine.engine.prepare([(media, "?")], Settings(max_pixels=56 * 1000))[0].prompt.grids[0]
    large = genuine.engine.prepare([(media, "?")], Settings(min_pixels=1000 * 1000))[0].prompt.grids[0]
    assert usual.shape == (1, 10, 20)
    assert small.cells * 784 <= 56_000 < usual.cells * 784
    assert large.cells * 784 >= 1_000_000
    # The demo processor's own maximum is smaller than these limits.
    with pytest.raises(InputError, match="above"):
        genuine.engine.prepare([(media, "?")], Settings(min_pixels=10_000, max_pixels=9_000))
    with pytest.raises(InputError, match="pixels of 4 and of"):
        genuine.engine.prepare([(media, "?")], Settings(max_pixels=3))


def test_max_pixels_overrides_the_processors_own(engine, make_picture):
    media = [load_picture(make_picture(1400, 1120))]
    assert engine.prepare([(media, "?")], Settings())[0].prompt.grids[0].cells * 784 <= 1_003_520
    assert engine.prepare([(media, "?")], Settings(max_pixels=1400 * 1120))[0].prompt.grids[0].shape == (1, 40, 50)


def test_system_prompt(genuine, make_picture):
    media = [load_picture(make_picture(84, 56))]
    prompt = genuine.engine.prepare([(media, "what?")], Settings(system="Answer in one word."))[0].prompt
    ids = prompt.inputs["input_ids"][0]
    assert genuine.engine.processor.tokenizer.decode(ids[list(prompt.positions("system"))]) == "Answer in one word."
    assert "helpful" not in genuine.engine.processor.tokenizer.decode(ids)


@pytest.mark.parametrize("where", ["question", "system", "answer"])
@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<tool_call>"])
def test_control_tokens_are_refused(genuine, make_picture, token, where):
    media = [load_picture(make_picture(84, 56))]
    question = f"how many {token} cats?" if where == "question" else "how many?"
    settings = Settings(**({where: f"a {token} b"} if where != "question" else {}))
    with pytest.raises(InputError, match="command"):
        genuine.engine.prepare([(media, question)], settings)


@pytest.mark.parametrize("question", ["", "  \n", "\ud800", "\ue000"])
def test_questions_that_are_no_text(genuine, make_picture, question):
    with pytest.raises(InputError):
        genuine.engine.prepare([([load_picture(make_picture(84, 56))], question)], Settings())


def test_a_template_that_changes_the_question_is_an_error(engine, make_picture):
    media = [load_picture(make_picture(84, 56))]
    before = engine.processor.chat_template
    engine.processor.chat_template = before.replace("content['text']", "content['text'] | upper")
    try:
        with pytest.raises(CaptureError, match="template"):
            engine.prepare([(media, "how many cats?")], Settings())
    finally:
        engine.processor.chat_template = before


@pytest.mark.parametrize("text", ["three", "有三只🐈‍⬛。", "a b\nc", "👩🏽‍🚀", ""])
def test_answer_tokens_cover_their_text(genuine, text):
    tokenizer = genuine.engine.processor.tokenizer
    ids = [*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
    tokens, got = answer_tokens(tokenizer, ids, 100)
    assert got == text
    assert [token.position for token in tokens] == list(range(100, 100 + len(ids)))
    assert tokens[-1].role == "template"
    spans = [token.span for token in tokens[:-1]]
    covered = {i for start, stop in spans for i in range(start, stop)}
    assert covered == set(range(len(text)))
    assert "".join(word.text for word in words(tokens, text, "answer")) == "".join(text.split())


# Another question about the same media


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("limits", [(None, None), (4 * 28 * 28, 30 * 28 * 28)])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_second_question_about_the_same_pictures_has_the_processors_inputs(
    genuine, engine, make_picture, question, limits, system
):
    media = [load_picture(make_picture(84, 56)), load_picture(make_picture(280, 196, "other.png", seed=1))]
    for processor in (genuine.engine.processor, engine.processor):

        def built(text, like=None, processor=processor):
            return build_prompt(processor, chat_messages(media, text, system, *limits), media, 2, *limits, like)

        reused, full = built(question, built("what color is it?")), built(question)
        assert not {"pixel_values", "pixel_values_videos"} & reused.inputs.keys()
        assert reused.inputs.keys() == full.inputs.keys() - {"pixel_values"}
        for name, value in reused.inputs.items():
            assert value.dtype == full.inputs[name].dtype
            assert value.tolist() == full.inputs[name].tolist(), name
        assert reused.tokens == full.tokens
        assert [grid.grid_thw for grid in reused.grids] == [grid.grid_thw for grid in full.grids]
        assert [grid.start for grid in reused.grids] == [grid.start for grid in full.grids]
