"""A lesson as tensors: a shared prefix with the pictures, then all questions, each attending to the prefix and itself.

Positions start again after the prefix for every question, so that each question is computed as in a single turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2Tokenizer

from demo_model.lessons import Lesson
from qvl_attn.demo.questions import Question

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclass(frozen=True, eq=False)
class Packed:
    """N sequences of S tokens.

    Attributes:
        ids: (N, S) token ids.
        positions: (3, N, S) position ids for time, height and width.
        visible: (N, 1, S, S) bool, the attention mask: true where a query may attend to a key.
        vision: (V,) positions of the vision tokens, the same in all sequences.
        asks: (A, 2) sequence and position of every query that predicts an answer token.
        answers: (A,) id of the token to predict.
        weights: (A,) loss weights; those of one answer add up to the square root of its length.
        question: (A,) number of the question within the lesson.
        words: (W, 2) sequence and position of every token of the questions.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    vision: torch.Tensor
    asks: torch.Tensor
    answers: torch.Tensor
    weights: torch.Tensor
    question: torch.Tensor
    words: torch.Tensor


def patches(lesson: Lesson, processor: Qwen2_5_VLProcessor) -> torch.Tensor:
    """Return (N * M * T, h * w * 4, 1176): pixels as from the real processors, for sides that are whole cells."""
    settings = processor.image_processor
    size, merge = settings.patch_size, settings.merge_size
    samples, pictures, frames, height, width, _ = lesson.frames.shape
    rows, columns = height // size // merge, width // size // merge
    pixels = torch.from_numpy(lesson.frames).float() * settings.rescale_factor
    pixels = (pixels - torch.tensor(settings.image_mean)) / torch.tensor(settings.image_std)
    pixels = pixels.view(samples * pictures * frames // 2, 2, rows, merge, size, columns, merge, size, 3)
    return pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(len(pixels), rows * columns * merge**2, -1)


def prefix(lesson: Lesson, tokenizer: Qwen2Tokenizer) -> list[int]:
    """Return the tokens of the system prompt and the pictures."""
    pictures, steps, rows, columns = lesson.grid
    pad = "<|video_pad|>" if lesson.kind == "clip" else "<|image_pad|>"
    visual = f"<|vision_start|>{pad * (steps * rows * columns)}<|vision_end|>"
    return list(tokenizer(SYSTEM + visual * pictures).input_ids)


def _prefix_positions(
    lesson: Lesson, ids: list[int], model: Qwen2_5_VLForConditionalGeneration
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (3, P) position ids from the model's own function, and the positions of the vision tokens."""
    tokens = torch.tensor([ids])
    images, videos = tokens == model.config.image_token_id, tokens == model.config.video_token_id
    pictures, steps, rows, columns = lesson.grid
    grid = torch.tensor([[steps, 2 * rows, 2 * columns]] * pictures)
    grids: Mapping[str, object] = {"image_grid_thw": grid}
    if lesson.kind == "clip":
        grids = {"video_grid_thw": grid, "second_per_grid_ts": torch.tensor([lesson.seconds_per_step])}
    positions, _ = model.model.get_rope_index(tokens, mm_token_type_ids=images.int() + 2 * videos.int(), **grids)
    return positions[:, 0], (images | videos)[0].nonzero()[:, 0]


def _turn(question: Question, tokenizer: Qwen2Tokenizer) -> tuple[list[int], int, int]:
    """Return the tokens of a question and its answer, and the numbers of tokens of the question and of the answer."""
    words, answer = (list(tokenizer(text).input_ids) for text in (question.question, question.answer + END))
    return [*words, *tokenizer(TURN).input_ids, *answer], len(words), len(answer)


def pack(lesson: Lesson, tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration) -> Packed:
    """Pack a lesson's questions one after another."""
    head = prefix(lesson, tokenizer)
    start, vision = _prefix_positions(lesson, head, model)
    turns = [[_turn(question, tokenizer) for question in questions] for questions in lesson.questions]
    length = len(head) + max(sum(len(ids) for ids, *_ in row) for row in turns)
    samples = len(turns)
    ids = torch.full((samples, length), tokenizer.pad_token_id)
    segment = torch.full((samples, length), -1)
    positions = torch.zeros((3, samples, length), dtype=torch.long)
    ids[:, : len(head)], segment[:, : len(head)] = torch.tensor(head), 0
    positions[:, :, : len(head)] = start[:, None]
    asks, answers, weights, number, words = [], [], [], [], []
    for sample, row in enumerate(turns):
        begin = len(head)
        for index, (tokens, question_length, answer_length) in enumerate(row):
            end = begin + len(tokens)
            ids[sample, begin:end] = torch.tensor(tokens)
            segment[sample, begin:end] = index + 1
            positions[:, sample, begin:end] = start[:, -1:] + 1 + torch.arange(len(tokens))
            asks += [(sample, position - 1) for position in range(end - answer_length, end)]
            answers += tokens[-answer_length:]
            words += [(sample, position) for position in range(begin, begin + question_length)]
            weights += [answer_length**-0.5] * answer_length
            number += [sum(map(len, turns[:sample])) + index] * answer_length
            begin = end
    order = torch.arange(length)
    attended = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    visible = (attended & (order[None, :] <= order[:, None]))[:, None]
    return Packed(
        ids,
        positions,
        visible,
        vision,
        torch.tensor(np.array(asks)),
        torch.tensor(answers),
        torch.tensor(weights),
        torch.tensor(number),
        torch.tensor(np.array(words)),
    )
