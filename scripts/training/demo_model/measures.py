"""Answers and attention maps of a checkpoint on held-out samples, with the real processors and `generate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from qvl_attn.demo.clips import Clip
from qvl_attn.demo.heldout import HeldOut
from qvl_attn.demo.questions import Question
from qvl_attn.demo.scenes import Box, Scene
from qvl_attn.model.capture import record_attention
from qvl_attn.model.prompt import CELL_PX
from qvl_attn.model.recorder import AttentionRecorder, Target

MAX_NEW_TOKENS = 24
BATCH = 16
Map = NDArray[np.float64]
Content = Scene | tuple[Scene, Scene] | Clip


@dataclass(frozen=True, eq=False)
class EvaluatedQuestion:
    """One question with the model's answer and attention maps.

    Attributes:
        question: the question.
        answer: the model's answer.
        last: (t, h, w) attention of the last prompt token, averaged over heads and layers.
        words: (t, h, w) attention of the question's tokens, averaged also over them.
        size_px: (width, height) of the picture or clip.
        frames: number of frames of the clip, 1 for a picture.
        fps: frames per second of the clip, 0 for a picture.
    """

    question: Question
    answer: str
    last: Map
    words: Map
    size_px: tuple[int, int]
    frames: int
    fps: float

    @property
    def correct(self) -> bool:
        """Whether the answer is exactly the expected one."""
        return self.answer == self.question.answer


def ask_all(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, samples: Iterable[HeldOut]
) -> list[EvaluatedQuestion]:
    """Ask every question about every sample, in batches of samples of one size."""
    groups: dict[tuple[object, ...], list[tuple[Question, Content]]] = {}
    for sample in samples:
        content = sample.content
        shape = content.frames.shape if isinstance(content, Clip) else _scenes(content)[0].picture.shape
        for question in sample.questions:
            # Long answers have their own batches, so that other batches do not wait for them.
            groups.setdefault((shape, question.kind == "describe"), []).append((question, content))
    evaluated = []
    for items in groups.values():
        for start in range(0, len(items), BATCH):
            evaluated += _ask_batch(model, processor, items[start : start + BATCH])
    return evaluated


def _scenes(content: Scene | tuple[Scene, Scene]) -> tuple[Scene, ...]:
    return (content,) if isinstance(content, Scene) else content


def _inputs(processor: Qwen2_5_VLProcessor, items: Sequence[tuple[Question, Content]]) -> dict[str, torch.Tensor]:
    content = items[0][1]
    visuals = [{"type": "video"}] if isinstance(content, Clip) else [{"type": "image"}] * len(_scenes(content))
    text = [
        processor.apply_chat_template(
            [{"role": "user", "content": [*visuals, {"type": "text", "text": question.question}]}],
            add_generation_prompt=True,
        )
        for question, _ in items
    ]
    options = {"text": text, "return_tensors": "pt", "padding": True, "padding_side": "left"}
    if isinstance(content, Clip):
        clips = [clip for _, clip in items]
        metadata = [
            {"total_num_frames": len(clip.frames), "fps": clip.fps, "frames_indices": list(range(len(clip.frames)))}
            for clip in clips
        ]
        return dict(
            processor(
                **options, videos=[clip.frames for clip in clips], video_metadata=metadata, do_sample_frames=False
            )
        )
    pictures = [[Image.fromarray(scene.picture) for scene in _scenes(scenes)] for _, scenes in items]
    return dict(processor(**options, images=pictures))


def _ask_batch(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    items: Sequence[tuple[Question, Content]],
) -> list[EvaluatedQuestion]:
    inputs = _inputs(processor, items)
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    targets = []
    for row, mask, (question, _) in zip(ids, inputs["attention_mask"], items, strict=True):
        padding = length - int(mask.sum())
        vision = ((row == model.config.image_token_id) | (row == model.config.video_token_id)).nonzero()[:, 0]
        first = int(vision[-1]) + 2 - padding
        words = len(processor.tokenizer(question.question).input_ids)
        rows = (*range(first, first + words), length - padding - 1)
        targets.append(Target(rows, tuple((vision - padding).tolist()), padding))
    layers = range(model.config.text_config.num_hidden_layers)
    recorder = AttentionRecorder(layers, targets, length)
    with record_attention(model, recorder, "rows"), torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    answers = processor.batch_decode(out[:, length:], skip_special_tokens=True)
    grid = inputs["video_grid_thw"][0] if "video_grid_thw" in inputs else inputs["image_grid_thw"][0]
    steps, rows, columns = int(grid[0]), int(grid[1]) // 2, int(grid[2]) // 2
    evaluated = []
    for (question, content), target, recorded, answer in zip(items, targets, recorder.results(), answers, strict=True):
        prompt = recorded.weights[:, : len(target.rows)].mean(axis=0, dtype=np.float64)
        maps = prompt.reshape(len(target.rows), -1, rows, columns)  # the two pictures of a pair are like two steps
        height, width = rows * CELL_PX, columns * CELL_PX
        frames, fps = (2 * steps, content.fps) if isinstance(content, Clip) else (1, 0.0)
        words = maps[:-1].mean(axis=0)
        evaluated.append(EvaluatedQuestion(question, answer, maps[-1], words, (width, height), frames, fps))
    return evaluated


def inside(boxes: Sequence[Box], shape: tuple[int, int], size_px: tuple[int, int]) -> tuple[Map, NDArray[np.bool_]]:
    """Return the share of each cell's area in the union of boxes, (h, w), and whether its centre lies in a box."""
    width, height = size_px
    covered = np.zeros((height, width))
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = 1
    rows, columns = shape
    blocks = covered.reshape(rows, height // rows, columns, width // columns)
    centers = covered[height // rows // 2 :: height // rows, width // columns // 2 :: width // columns] > 0
    return blocks.mean(axis=(1, 3)), centers


def points(values: Map, centers: NDArray[np.bool_]) -> bool:
    """Pointing game: whether the centre of the highest cell is in a box; false for ties and empty maps."""
    highest = values == values.max()
    return bool(values.max() > 0 and highest.sum() == 1 and centers[highest][0])


def lift(values: Map, share: Map) -> float:
    """Return the map's share of mass in the boxes over the boxes' share of the area: 1 for a uniform map."""
    return float((values * share).sum() / values.sum() / share.mean())
