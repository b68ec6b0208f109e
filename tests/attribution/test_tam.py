"""Token activation maps against their definition: plain loops over the logits of the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.attribution.methods.tam import activation_map
from qvl_attn.model.signals import Classes
from tests.helpers.plain_eager import Example, assert_close, cut_by_picture

EXAMPLES = [(which, kind) for which in ("demo", "genuine") for kind in ("one", "two", "clip")]


@pytest.fixture(params=EXAMPLES, ids="-".join)
def example(request, examples) -> Example:
    return examples(*request.param)


def rank_gaussian(picture: np.ndarray) -> np.ndarray:
    """Filter one picture or step, cell by cell."""
    padded, filtered = np.pad(picture, 1, mode="reflect"), np.zeros_like(picture)
    for i in range(picture.shape[0]):
        for j in range(picture.shape[1]):
            ordered = sorted(padded[i : i + 3, j : j + 3].ravel())
            mean = sum(ordered) / 9
            if mean > 0 and np.std(ordered) > 0:
                sigma = np.std(ordered) / mean
                kernel = [np.exp(-((rank - 4) ** 2) / (2 * sigma**2)) for rank in range(9)]
                filtered[i, j] = sum(k * value for k, value in zip(kernel, ordered, strict=True)) / sum(kernel)
            else:
                filtered[i, j] = mean
    return filtered


def by_hand(
    example: Example, logits: np.ndarray, ids, target: int, replaced: dict[int, int] | None = None
) -> np.ndarray:
    """Return the map of the answer's token number `target`, (V,).

    `replaced` has, by place in question and answer, other tokens whose logits are taken.
    """
    question = example.inputs["input_ids"][0, example.question_positions].tolist()
    words = [*question, *ids[:target]]
    classes = [(replaced or {}).get(i, word) for i, word in enumerate([*words, ids[target]])]
    # The position of each: a question token at its own position, an answer token where it is produced.
    places = [*example.question_positions, *(example.length - 1 + i for i in range(target))]
    target_id = ids[target]
    strength = [max(float(logits[place, classes[-1]]), 0) for place in places]
    scores = np.array([max(float(logits[cell, classes[-1]]), 0) for cell in example.vision_positions])
    interference, total = np.zeros(len(scores)), 0.0
    for word, logit_of, weight in zip(words, classes[:-1], strength, strict=True):
        if word != target_id:
            interference += weight * np.maximum(logits[example.vision_positions, logit_of], 0)
            total += weight
    interference /= total + 1e-8
    if interference.any():
        slope = np.linalg.lstsq(interference[:, None], scores, rcond=None)[0][0]
        scores = np.maximum(scores - slope * interference, 0)
    together = [*scores, *strength]
    scaled = (scores - min(together)) / (max(together) - min(together))
    pictures = cut_by_picture(scaled, example.grids)
    return np.concatenate([rank_gaussian(step).ravel() for picture in pictures for step in picture])


@pytest.mark.parametrize("query", ["last", "answer"])
def test_the_published_definition_in_loops(example, query):
    method_map = example.map("tam", query)
    logits = example.plain.logits[0].double().numpy()
    want = [by_hand(example, logits, example.ids, target) for target in example.explained_indices(query)]
    assert_close(method_map.values, np.mean(want, axis=0), 3e-4)
    assert (method_map.layers, method_map.layer_values) == ((), None)


@pytest.mark.parametrize(("kind", "correlation"), [("one", 0.43), ("two", 0.54), ("clip", -0.88)])
def test_the_authors_code_maps_the_line_break_in_place_of_the_first_token(examples, kind, correlation):
    """Their tam.py (github.com/xmed-lab/TAM) takes, where the paper has the question's first token, the likeliest word
    after it, and where the paper has the answer's first token the token before it. The README has these figures."""
    example = examples("demo", kind)
    logits = example.plain.logits[0].double().numpy()
    start, count = example.question_positions[0], len(example.question_positions)
    line_break = example.inputs["input_ids"][0, -1].item()
    assert example.engine.processor.tokenizer.decode([line_break]) == "\n"
    replaced = {0: int(logits[start].argmax()), count: line_break}
    theirs = by_hand(example, logits, example.ids, 0, replaced)
    assert np.corrcoef(example.map("tam", "last").values, theirs)[0, 1] == pytest.approx(correlation, abs=0.01)


def test_a_supplied_answer_with_words_of_the_question(examples):
    """An earlier occurrence of a word does not belong to its context."""
    example = examples("demo", "one")
    ids = example.supplied("many cats cats")
    question_ids = example.inputs["input_ids"][0, example.question_positions].tolist()
    assert set(ids) & set(question_ids)
    assert ids[-1] in ids[:-1]
    logits = example.run(example.full_inputs(ids)).logits[0].double().numpy()
    want = [by_hand(example, logits, ids, target) for target in range(len(ids))]
    assert_close(example.map("tam", "answer", answer="many cats cats").values, np.mean(want, axis=0), 3e-4)
    assert_close(example.map("tam", "last", answer="many cats cats").values, want[0], 3e-4)


def classes(vision, text, ids):
    return Classes(np.array(ids), (len(ids) - 1,), np.array(vision, np.float32), np.array(text, np.float32))


def test_a_word_alone_is_its_own_activation():
    """No other word precedes it: no interference, and no division by zero."""
    text = np.array([[3.0, 9], [4, 9]])
    same = activation_map(classes([[9, 9, 9], [0, 2, 4]], text, [5, 5]), 1)
    assert same == pytest.approx([0, 0.5, 1])
    silent = activation_map(classes([[9, 9, 9], [0, 2, 4]], np.zeros((2, 2)), [5, 6]), 1)
    assert silent == pytest.approx([0, 0.5, 1])
    assert activation_map(classes(np.zeros((2, 3)), np.zeros((2, 2)), [5, 6]), 1).tolist() == [0, 0, 0]


def test_interference_is_subtracted_and_clamped_at_zero():
    # s = <S, I> / <I, I> = (2 * 1 + 4 * 2) / 5 = 2: (5, 2, 4) becomes (5, 0, 0).
    values = activation_map(classes([[0, 1, 2], [5, 2, 4]], [[1, 0], [10, 0]], [5, 6]), 1)
    assert values == pytest.approx([0.5, 0, 0])
