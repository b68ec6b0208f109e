"""The text of an answer while it is written: joined, the pieces are the answer; a character is never cut."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import InputError
from tests.conftest import DEMO_PICTURES

CATS = DEMO_PICTURES / "cats.png"


@contextmanager
def answering(model, ids):
    """Let a model choose given tokens one after another."""
    steps = iter(ids)

    def choose(module, args, logits):
        chosen = torch.full_like(logits, -1e4)
        chosen[:, -1, next(steps)] = 1e4
        return chosen

    handle = model.lm_head.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def pieces_of(analyzer, path, question, **options):
    """Return the pieces and the result."""
    pieces = []
    result = analyzer.ask(path, question, on_token=pieces.append, **options)
    assert "".join(pieces) == result.answer
    assert "" not in pieces
    return pieces, result


@pytest.mark.parametrize("question", ["list the objects", "图里有什么？", "how many cats?"])
@pytest.mark.parametrize("method", [None, "relative"])
def test_pieces_come_with_their_tokens(demo, question, method):
    """With the method `relative` the answer stands on a shared cache of the picture."""
    events = []
    result = demo.ask(
        CATS,
        question,
        method=method,
        on_token=events.append,
        progress=lambda *call: events.append(call[1]) if call[0] == "answer tokens" else None,
    )
    pieces = [event for event in events if isinstance(event, str)]
    assert "".join(pieces) == result.answer
    assert all("\ufffd" not in piece for piece in pieces)
    words = [token for token in result.capture.tokens if token.role == "answer"]
    assert len(words) >= len(pieces) >= 1
    for piece, token in zip(pieces, words, strict=False):
        if len(pieces) == len(words):
            assert piece == result.answer[slice(*token.span)]
            assert events[events.index(piece) - 1] > 0, "a piece comes with its token, not at the end"
    assert not any(special in "".join(pieces) for special in demo.engine.processor.tokenizer.all_special_tokens)


def test_only_the_own_answer_is_passed_on(demo, make_picture):
    """Not a supplied one, and not those of the sanity checks."""
    options = {"answer": "seven", "faithfulness": True, "max_new_tokens": 3}
    _, result = pieces_of(demo, make_picture(56, 56), "how many cats?", **options)
    assert result.supplied_answer == "seven"
    assert result.sanity


TEXTS = [
    "two cats",
    "两只猫，一只狗。",
    "👩‍👩‍👧 and 🏳️‍🌈!",
    "naïve café — Ωδή",
    "  \n\n tabs\tand   spaces  ",
    "𠮷野家 ﷽",
]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_come_whole(genuine, make_picture, text):
    tokenizer = genuine.engine.processor.tokenizer
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with answering(genuine.engine.model, ids):
        pieces, result = pieces_of(genuine, make_picture(56, 56), "?", max_new_tokens=len(ids))
    assert result.answer == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) > 1
    assert len(pieces) <= len(ids) - 1


@pytest.mark.parametrize("seed", range(4))
def test_any_tokens_in_any_order(genuine, make_picture, seed):
    """Bytes that are no characters, control tokens in the middle, half a character at the end."""
    tokenizer = genuine.engine.processor.tokenizer
    rng = np.random.default_rng(seed)
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    half = tokenizer("👩‍👧", add_special_tokens=False)["input_ids"][1]
    assert tokenizer.decode([half]) == "\ufffd"
    byte_tokens = [i for i in range(256) if "\ufffd" in tokenizer.decode([i])]
    kinds = [range(len(tokenizer)), byte_tokens, tokenizer.all_special_ids, range(256)]
    ids = [int(rng.choice(kinds[int(rng.integers(len(kinds)))])) for _ in range(24)]
    ids = [token for token in ids if token not in ends] + [half]
    with answering(genuine.engine.model, ids):
        pieces_of(genuine, make_picture(56, 56), "?", max_new_tokens=len(ids))


def test_the_own_answer_of_random_weights(genuine, make_picture):
    pieces, _ = pieces_of(genuine, make_picture(56, 56), "what is this? 这是什么？", max_new_tokens=24)
    assert len(pieces) > 1


def test_a_clip_in_one_prompt(demo, clip_file):
    pieces = []
    result = demo.ask_video(clip_file(6), "what moves?", on_token=pieces.append)
    assert "".join(pieces) == result.answer != ""


@pytest.mark.parametrize("options", [{"mode": "frames"}, {"mode": "both"}, {"window": 2}])
def test_a_clip_in_several_prompts_has_no_single_answer(demo, clip_file, options):
    with pytest.raises(InputError, match="`on_token`: needs one prompt, and this clip is asked about in"):
        demo.ask_video(clip_file(6, size_px=(56, 56)), "what moves?", fps=10, on_token=print, **options)


def test_several_questions_are_refused(demo):
    questions = demo.engine.prepare([(CATS, "how many cats?"), (CATS, "?")], demo.engine.settings())
    with pytest.raises(ValueError, match="on_token is for a single question, not for 2"):
        next(demo.engine.answer(questions, on_token=print))
