"""A lesson as tensors: one shared prefix with the pictures, then all its questions, each seeing the prefix and itself.

Positions start again after the prefix for every question, so each sees exactly the sequence of a single turn.
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
        ids: (N, S).
        positions: (3, N, S) time, height and width.
        visible: (N, 1, S, S) bool, true where a row may look.
        vision: (V,) positions of the vision tokens, the same in all sequences.
        asks: (A, 2) sequence and position of every token that has to be predicted, at the position that predicts it.
        answers: (A,) what it has to predict.
        weights: (A,) of the loss; a question's tokens add up to the square root of their number.
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
    """(N * M * T, h * w * 4, 1176): pixels ordered and scaled as by the real processors, for sides of whole cells."""
    settings = processor.image_processor
    size, merge = settings.patch_size, settings.merge_size
    samples, pictures, frames, height, width, _ = lesson.frames.shape
    rows, columns = height // size // merge, width // size // merge
    pixels = torch.from_numpy(lesson.frames).float() * settings.rescale_factor
    pixels = (pixels - torch.tensor(settings.image_mean)) / torch.tensor(settings.image_std)
    pixels = pixels.view(samples * pictures * frames // 2, 2, rows, merge, size, columns, merge, size, 3)
    return pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(len(pixels), rows * columns * merge**2, -1)


def prefix(lesson: Lesson, tokenizer: Qwen2Tokenizer) -> list[int]:
    """The tokens of system prompt and pictures."""
    pictures, steps, rows, columns = lesson.grid
    pad = "<|video_pad|>" if lesson.kind == "clip" else "<|image_pad|>"
    visual = f"<|vision_start|>{pad * (steps * rows * columns)}<|vision_end|>"
    return list(tokenizer(SYSTEM + visual * pictures).input_ids)


def _prefix_positions(
    lesson: Lesson, ids: list[int], model: Qwen2_5_VLForConditionalGeneration
) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, P) from the model's own rule, and which tokens are vision's."""
    tokens = torch.tensor([ids])
    images, videos = tokens == model.config.image_token_id, tokens == model.config.video_token_id
    pictures, steps, rows, columns = lesson.grid
    grid = torch.tensor([[steps, 2 * rows, 2 * columns]] * pictures)
    how: Mapping[str, object] = {"image_grid_thw": grid}
    if lesson.kind == "clip":
        how = {"video_grid_thw": grid, "second_per_grid_ts": torch.tensor([lesson.seconds_per_step])}
    positions, _ = model.model.get_rope_index(tokens, mm_token_type_ids=images.int() + 2 * videos.int(), **how)
    return positions[:, 0], (images | videos)[0].nonzero()[:, 0]


def _turn(question: Question, tokenizer: Qwen2Tokenizer) -> tuple[list[int], int, int]:
    """A question and its answer as tokens, and how many of them are the question's and the answer's."""
    asked, answer = (list(tokenizer(text).input_ids) for text in (question.question, question.answer + END))
    return [*asked, *tokenizer(TURN).input_ids, *answer], len(asked), len(answer)


def pack(lesson: Lesson, tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration) -> Packed:
    """Lays out a lesson's questions behind one another."""
    head = prefix(lesson, tokenizer)
    start, vision = _prefix_positions(lesson, head, model)
    turns = [[_turn(question, tokenizer) for question in asked] for asked in lesson.questions]
    length = len(head) + max(sum(len(ids) for ids, *_ in row) for row in turns)
    samples = len(turns)
    ids = torch.full((samples, length), tokenizer.pad_token_id)
    segment = torch.full((samples, length), -1)
    positions = torch.zeros((3, samples, length), dtype=torch.long)
    ids[:, : len(head)], segment[:, : len(head)] = torch.tensor(head), 0
    positions[:, :, : len(head)] = start[:, None]
    asks, answers, weights, number, words = [], [], [], [], []
    for sample, row in enumerate(turns):
        at = len(head)
        for index, (tokens, asked, answered) in enumerate(row):
            end = at + len(tokens)
            ids[sample, at:end] = torch.tensor(tokens)
            segment[sample, at:end] = index + 1
            positions[:, sample, at:end] = start[:, -1:] + 1 + torch.arange(len(tokens))
            asks += [(sample, position - 1) for position in range(end - answered, end)]
            answers += tokens[-answered:]
            words += [(sample, position) for position in range(at, at + asked)]
            weights += [answered**-0.5] * answered
            number += [sum(map(len, turns[:sample])) + index] * answered
            at = end
    order = torch.arange(length)
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    visible = (same & (order[None, :] <= order[:, None]))[:, None]
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
