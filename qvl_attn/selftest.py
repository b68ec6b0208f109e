"""The checks of `qvl-attn selftest`: is attention captured correctly for these weights on this machine?

They use small pictures and one question. In 16 bits two whole runs differ by rounding that grows through the layers.
The check that counts in every precision is therefore local: it takes the queries and keys of one forward pass and
compares the recorded rows with the model's own eager attention on them in float32. A whole run under eager attention is
judged in float32, and only reported in 16 bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig
from transformers.masking_utils import sdpa_mask

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Media
from qvl_attn.model.capture import NAMES, record_attention, recorder_of_everything
from qvl_attn.model.generate import Recording, greedy, on_model, own_answers
from qvl_attn.model.prompt import CELL_PX, Prompt
from qvl_attn.model.recorder import Rows
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.question import read_question

QUESTION = "What is in this picture?"
NEW_TOKENS = 16
TOLERANCE = 1e-5
# Two orders of summation may differ in the last bit of a score, and weights differ as much as scores do. Scores of
# thousands are normal: Qwen2's biases cause them. A separate run may lose some more bits, layer by layer.
_LAST_BIT = 2.0**-23
RUN_BITS = 16
# (rows, columns) of cells: not square, and no multiple of the vision encoder's windows of four by four cells.
GRID = (5, 9)
PAINTED = ((0, 0), (0, 8), (4, 0), (4, 8), (2, 4), (1, 6))
# A wrong grid finds none of the cells. One may be missed because of how the weights respond to a red cell.
MAX_MISSED = 1
# Must not contain "sdpa", "flash" or "flex": transformers searches the name for these words.
_NAME = "qvl_attn_selftest"
CHECKS = 6
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: one word.
        what: what the check claims.
        passed: None if the check is reported but not judged.
        detail: the figures as text.
        figures: the figures by name.
    """

    name: str
    what: str
    passed: bool | None
    detail: str
    figures: Mapping[str, float]


def selftest(engine: Engine) -> list[Check]:
    """Run all checks.

    Raises:
        CaptureError: the rows recorded under SDPA are invalid.
        MemoryLimitError: the weights do not fit.
    """
    return list(iterate_checks(engine))


def iterate_checks(engine: Engine) -> Iterator[Check]:
    """Run the checks one by one, like `selftest`; yield each outcome as soon as it is known."""
    model = engine.model
    prompts = [_prompt(engine, picture) for picture in painted_pictures()]
    prompt, inputs = prompts[-1], on_model(prompts[-1].inputs, model)
    answer = _answer(model, inputs)
    rows, recorded_answer = _record(model, inputs, "rows")
    arithmetic = same_arithmetic(model, inputs)
    yield arithmetic
    yield same_run(model, inputs, rows, recorded_answer, arithmetic.figures["largest_score"])
    yield sums(rows, prompt.length)
    yield future(rows, prompt.length)
    yield painted_cells(engine, prompts)
    yield same_answer(answer, recorded_answer)


def painted_pictures() -> list[Media]:
    """Return a picture of faint noise and, for each cell of `PAINTED`, a copy with this cell painted red."""
    height, width = (cells * CELL_PX for cells in GRID)
    background = np.random.default_rng(0).integers(96, 160, (1, height, width, 3), dtype=np.uint8)
    frames = [background]
    for cell in PAINTED:
        left, top, right, bottom = _box_px(cell)
        frames.append(background.copy())
        frames[-1][:, top:bottom, left:right] = (255, 0, 0)
    return [Media("picture", frame, np.zeros(1), (width, height), "selftest", "") for frame in frames]


def _box_px(cell: tuple[int, int]) -> tuple[int, int, int, int]:
    row, column = cell
    return column * CELL_PX, row * CELL_PX, (column + 1) * CELL_PX, (row + 1) * CELL_PX


def _prompt(engine: Engine, picture: Media) -> Prompt:
    pixels = picture.size_px[0] * picture.size_px[1]  # not resized, whatever the checkpoint's limits
    settings = Settings(min_pixels=pixels, max_pixels=pixels)
    return read_question(engine.processor, engine.config, [picture], QUESTION, settings).prompt


def _generation(model: Any, new_tokens: int = NEW_TOKENS) -> GenerationConfig:
    generation = greedy(model, new_tokens)
    generation.min_new_tokens = new_tokens  # a short answer would test too few steps
    return generation


def _answer(model: Any, inputs: dict[str, torch.Tensor], new_tokens: int = NEW_TOKENS) -> list[int]:
    with torch.inference_mode():
        ids = model.generate(**inputs, generation_config=_generation(model, new_tokens))
    answer: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return answer


def _record(model: Any, inputs: dict[str, torch.Tensor], attention: str) -> tuple[np.ndarray, list[int]]:
    """Return the rows (L, H, Q, S) of prompt and answer on the prompt, and the token ids of the answer."""
    with record_attention(model, recorder_of_everything(model, inputs), attention) as recorder:
        answer = _answer(model, inputs)
    return _by_head(recorder.results()), answer


def _by_head(results: Iterable[Rows]) -> np.ndarray:
    (rows,) = results
    assert rows.by_head is not None
    return rows.by_head


class _Reference:
    """Eager attention in float32, computed by the model's own function beside the recorded rows.

    Attributes:
        weights: for each layer, the rows (H, R, keys) of each forward pass.
        largest: for each layer, an upper bound of the scores: |q| |k| scaling.
    """

    def __init__(self) -> None:
        self.weights: dict[int, list[torch.Tensor]] = {}
        self.largest: dict[int, float] = {}

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        """The attention function of `rows`, which also keeps the eager weights. Signature of `AttentionInterface`."""
        eager = importlib.import_module(type(module).__module__).eager_attention_forward
        count, keys = query.shape[2], key.shape[2]
        causal = torch.ones(count, keys, dtype=torch.bool, device=query.device).tril(keys - count)
        hidden = ~(causal if mask is None else mask)
        additive_mask = torch.zeros_like(hidden, dtype=torch.float32).masked_fill(
            hidden, torch.finfo(torch.float32).min
        )
        _, weights = eager(module, query.float(), key.float(), value.float(), additive_mask, **kwargs)
        layer = module.layer_idx
        self.weights.setdefault(layer, []).append(weights[0].cpu())
        largest = query.float().norm(dim=-1).max() * key.float().norm(dim=-1).max() * kwargs["scaling"]
        self.largest[layer] = max(self.largest.get(layer, 0.0), float(largest))
        return AttentionInterface()[NAMES["rows"]](module, query, key, value, mask, **kwargs)


def same_arithmetic(model: Any, inputs: dict[str, torch.Tensor]) -> Check:
    """Compare recorded rows with eager attention in float32 on the same queries and keys: prefill and three steps."""
    reference, steps = _Reference(), 4
    AttentionInterface.register(_NAME, reference.attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    with record_attention(model, recorder_of_everything(model, inputs), "rows") as recorder:
        model.set_attn_implementation({"text_config": _NAME})
        _answer(model, inputs, steps)
    rows = _by_head(recorder.results())
    differences, allowed = [], []
    for layer, recorded in enumerate(rows):
        passes = reference.weights.pop(layer)
        expected = torch.cat([weights[..., : recorded.shape[-1]] for weights in passes], dim=1).numpy()
        differences.append(float(np.abs(recorded - expected).max()))
        allowed.append(max(TOLERANCE, _LAST_BIT * reference.largest[layer]))
    worst = int(np.argmax(np.divide(differences, allowed)))
    return Check(
        "arithmetic",
        "rows equal eager attention on the same queries and keys",
        differences[worst] <= allowed[worst],
        f"largest difference {differences[worst]:.1e} (layer {worst}; allowed {allowed[worst]:.1e}; "
        f"|score| up to {max(reference.largest.values()):.0f})",
        {
            "difference": differences[worst],
            "allowed": allowed[worst],
            "layer": worst,
            "largest_score": max(reference.largest.values()),
        },
    )


def same_run(
    model: Any, inputs: dict[str, torch.Tensor], rows: np.ndarray, recorded_answer: Sequence[int], largest_score: float
) -> Check:
    """Compare a whole run under eager attention with one under SDPA: judged in float32, only reported in 16 bits."""
    name, what = "run", "rows equal those of a separate run under eager attention"
    judged = model.dtype == torch.float32
    try:
        eager, answer = _record(model, inputs, "eager")
    except CaptureError as error:
        return Check(name, what, False if judged else None, f"eager attention: {error.message}", {})
    same = _common_length(recorded_answer, answer)
    # The rows of all tokens up to the first one that differs.
    common = inputs["input_ids"].shape[1] + same
    difference = float(np.abs(rows[:, :, :common] - eager[:, :, :common]).max())
    allowed = max(TOLERANCE, RUN_BITS * _LAST_BIT * largest_score)
    limit = f"allowed {allowed:.1e}" if judged else "16 bits: not judged"
    return Check(
        name,
        what,
        difference <= allowed if judged else None,
        f"largest difference {difference:.1e} ({limit}); the first {same} of {len(answer)} answer tokens are the same",
        {"difference": difference, "allowed": allowed, "same_tokens": same, "tokens": len(answer)},
    )


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two answers have in common from the start."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def sums(rows: np.ndarray, length: int) -> Check:
    """Check that every row of the prompt sums to one."""
    error = float(np.abs(rows[:, :, :length].sum(axis=-1, dtype=np.float64) - 1).max())
    detail = f"{rows[:, :, :length, 0].size} rows, largest error {error:.1e} (allowed {TOLERANCE:.0e})"
    return Check("sums", "rows sum to one", error <= TOLERANCE, detail, {"miss": error})


def future(rows: np.ndarray, length: int) -> Check:
    """Check that no token of the prompt attends to a later one."""
    largest = float(rows[:, :, :length][..., np.triu(np.ones((length, length), dtype=bool), k=1)].max())
    detail = f"largest weight on a later token {largest:.1e} (allowed 0)"
    return Check("future", "no token attends to a later one", largest == 0, detail, {"largest": largest})


def painted_cells(engine: Engine, prompts: Sequence[Prompt]) -> Check:
    """Check that painting one cell changes most the token that the grid puts there.

    In the first layer the words after the picture have the same queries in all prompts. The log of their attention on a
    vision token, minus what all vision tokens share, therefore changes only if the key of that token changes.

    Args:
        engine: the model.
        prompts: prompts about `painted_pictures`.
    """
    model = engine.model
    recording = Recording("rows", layers=(0,), by_head=True)
    passes = own_answers(model, engine.processor.tokenizer, prompts, recording, greedy(model, 1))
    heads = np.stack([np.asarray(run.capture.weights_by_head) for run in passes])
    # (pictures, vision tokens, heads times rows), without rows whose weights are too small for a logarithm.
    weights = heads.swapaxes(1, -1).reshape(len(passes), heads.shape[-1], -1)
    usable = weights.min(axis=(0, 1)) > _TINY
    weights = weights[..., usable]
    change = np.log(weights[1:] / weights[0])
    change = np.abs(change - np.median(change, axis=1, keepdims=True))
    # Give every head the same weight, however coarse its 16 bits are.
    change = (change / np.maximum(change.mean(axis=(0, 1)), _TINY)).sum(axis=2)
    # Some tokens change whatever is painted: compare their change here with that for other painted cells.
    elsewhere = (change.sum(axis=0) - change) / (len(change) - 1)
    strength = change / np.maximum(elsewhere + change.mean(), _TINY)
    (grid,) = passes[0].capture.grids
    missed, ratios = [], []
    for cell, tokens in zip(PAINTED, strength, strict=True):
        at_cell = np.abs(grid.boxes_px - np.array(_box_px(cell))).max(axis=1) < 1
        if not at_cell[tokens.argmax()]:
            missed.append(cell)
        ratios.append(float(tokens[at_cell].max(initial=0) / max(tokens[~at_cell].max(), _TINY)))
    count = len(PAINTED) - len(missed)
    missed_cells = f"; missed (row, column): {', '.join(str(cell) for cell in missed)}" if missed else ""
    return Check(
        "cells",
        "a painted cell is found where the grid puts it",
        len(missed) <= MAX_MISSED,
        f"{count} of {len(PAINTED)} found (allowed {len(PAINTED) - MAX_MISSED}); "
        f"the weakest changes {min(ratios):.1f} times as much as the runner-up, "
        f"over {usable.sum()} of {usable.size} rows{missed_cells}",
        {"found": count, "painted": len(PAINTED), "weakest_ratio": min(ratios), "rows": int(usable.sum())},
    )


def same_answer(plain: Sequence[int], recorded: Sequence[int]) -> Check:
    """Check that the answer is the same with and without capture, token for token."""
    same = _common_length(plain, recorded)
    detail = f"the first {same} of {len(plain)} tokens are the same"
    figures = {"same_tokens": same, "tokens": len(plain)}
    return Check("answer", "capture does not change the answer", same == len(plain), detail, figures)
