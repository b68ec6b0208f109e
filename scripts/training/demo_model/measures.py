"""How well a checkpoint answers and where it looks, on held-out samples, through the real processors and `generate`."""

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
MediaRef = Scene | tuple[Scene, Scene] | Clip


@dataclass(frozen=True, eq=False)
class Asked:
    """One question that was answered, and where the model looked.

    Attributes:
        question: what was asked.
        answer: what the model said.
        last: (t, h, w) attention of the last prompt token, heads and layers averaged.
        words: (t, h, w) of the question's own tokens, averaged.
        size_px: (width, height) of what was shown.
        frames: of the clip, 1 for a picture.
        fps: of the clip, 0 for a picture.
    """

    question: Question
    answer: str
    last: Map
    words: Map
    size_px: tuple[int, int]
    frames: int
    fps: float

    @property
    def right(self) -> bool:
        """Whether the answer is the expected one, letter by letter."""
        return self.answer == self.question.answer


def ask_all(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, samples: Iterable[HeldOut]
) -> list[Asked]:
    """Puts every question of every sample to the model; what is of one size goes in batches."""
    together: dict[tuple[object, ...], list[tuple[Question, MediaRef]]] = {}
    for sample in samples:
        shape = sample.shown.frames.shape if isinstance(sample.shown, Clip) else _scenes(sample.shown)[0].picture.shape
        for question in sample.questions:
            # Long answers apart, or every batch would wait for one.
            together.setdefault((shape, question.kind == "describe"), []).append((question, sample.shown))
    asked = []
    for items in together.values():
        for start in range(0, len(items), BATCH):
            asked += _ask_batch(model, processor, items[start : start + BATCH])
    return asked


def _scenes(shown: Scene | tuple[Scene, Scene]) -> tuple[Scene, ...]:
    return (shown,) if isinstance(shown, Scene) else shown


def _inputs(processor: Qwen2_5_VLProcessor, items: Sequence[tuple[Question, MediaRef]]) -> dict[str, torch.Tensor]:
    shown = items[0][1]
    visuals = [{"type": "video"}] if isinstance(shown, Clip) else [{"type": "image"}] * len(_scenes(shown))
    text = [
        processor.apply_chat_template(
            [{"role": "user", "content": [*visuals, {"type": "text", "text": question.question}]}],
            add_generation_prompt=True,
        )
        for question, _ in items
    ]
    how = {"text": text, "return_tensors": "pt", "padding": True, "padding_side": "left"}
    if isinstance(shown, Clip):
        clips = [clip for _, clip in items]
        metadata = [
            {"total_num_frames": len(clip.frames), "fps": clip.fps, "frames_indices": list(range(len(clip.frames)))}
            for clip in clips
        ]
        return dict(
            processor(**how, videos=[clip.frames for clip in clips], video_metadata=metadata, do_sample_frames=False)
        )
    pictures = [[Image.fromarray(scene.picture) for scene in _scenes(scenes)] for _, scenes in items]
    return dict(processor(**how, images=pictures))


def _ask_batch(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    items: Sequence[tuple[Question, MediaRef]],
) -> list[Asked]:
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
    asked = []
    for (question, shown), target, recorded, answer in zip(items, targets, recorder.results(), answers, strict=True):
        prompt = recorded.weights[:, : len(target.rows)].mean(axis=0, dtype=np.float64)
        maps = prompt.reshape(len(target.rows), -1, rows, columns)  # a pair's two pictures stand like two steps
        height, width = rows * CELL_PX, columns * CELL_PX
        frames, fps = (2 * steps, shown.fps) if isinstance(shown, Clip) else (1, 0.0)
        asked.append(Asked(question, answer, maps[-1], maps[:-1].mean(axis=0), (width, height), frames, fps))
    return asked


def inside(boxes: Sequence[Box], shape: tuple[int, int], size_px: tuple[int, int]) -> tuple[Map, NDArray[np.bool_]]:
    """Share of each cell's area in the union of boxes, (h, w), and whether the cell's centre lies in one of them."""
    width, height = size_px
    covered = np.zeros((height, width))
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = 1
    rows, columns = shape
    blocks = covered.reshape(rows, height // rows, columns, width // columns)
    centers = covered[height // rows // 2 :: height // rows, width // columns // 2 :: width // columns] > 0
    return blocks.mean(axis=(1, 3)), centers


def points(values: Map, centers: NDArray[np.bool_]) -> bool:
    """Whether the one highest cell has its centre inside; a tie or an empty map does not point (the pointing game)."""
    best = values == values.max()
    return bool(values.max() > 0 and best.sum() == 1 and centers[best][0])


def lift(values: Map, share: Map) -> float:
    """The map's mass inside over the area inside: 1 for a uniform map."""
    return float((values * share).sum() / values.sum() / share.mean())
