"""Is what is captured right, on these weights and this machine: the checks of `qvl-attn selftest`.

One small picture and one question. In 16 bits two whole runs differ by rounding that grows through the layers, so what
is judged in every precision is local: on the queries and keys of one forward, the rows that are recorded against the
model's own eager arithmetic on them in float32. A run under eager attention is judged in float32, and told in 16 bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig
from transformers.masking_utils import sdpa_mask

from qvl_attn.analyzer import Analyzer
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Media
from qvl_attn.model.capture import NAMES, record_attention, recorder_of_everything
from qvl_attn.model.generate import Recording, greedy, on_model, own_answers
from qvl_attn.model.prompt import CELL_PX, Prompt
from qvl_attn.model.recorder import Rows
from qvl_attn.vqa.question import read_question

QUESTION = "What is in this picture?"
NEW_TOKENS = 16
TOLERANCE = 1e-5
# Two orders of summation may differ by the last digit of a score, and weights by as much as scores do. Scores of
# thousands are no fault: Qwen2's biases make them. A run of its own may lose some more digits, layer by layer.
_DIGIT = 2.0**-23
RUN_DIGITS = 16
# Oblong, and no multiple of the vision tower's windows of four by four cells.
GRID = (5, 9)
PAINTED = ((0, 0), (0, 8), (4, 0), (4, 8), (2, 4), (1, 6))
# Geometry that is wrong finds none; one may be lost to what the weights make of a red cell.
MAY_MISS = 1
# "sdpa", "flash" and "flex" must not be part of it: transformers looks for these words in the name.
_NAME = "qvl_attn_selftest"
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Check:
    """What one check gave.

    Attributes:
        name: of the check, one word.
        what: what it claims.
        passed: None where it is told and not judged.
        detail: the figures, in words.
        figures: by name.
    """

    name: str
    what: str
    passed: bool | None
    detail: str
    figures: Mapping[str, float]


def selftest(analyzer: Analyzer) -> list[Check]:
    """Run all checks.

    Raises:
        CaptureError: what is recorded beside SDPA is no attention at all.
        MemoryLimitError: the weights do not fit.
    """
    model = analyzer.model
    prompts = [_prompt(analyzer, picture) for picture in painted_pictures()]
    prompt, inputs = prompts[-1], on_model(prompts[-1].inputs, model)
    answer = _answer(model, inputs)
    rows, seen = _recorded(model, inputs, "rows")
    arithmetic = same_arithmetic(model, inputs)
    return [
        arithmetic,
        same_run(model, inputs, rows, seen, arithmetic.figures["largest_score"]),
        sums(rows, prompt.length),
        future(rows, prompt.length),
        painted_cells(analyzer, prompts),
        same_answer(answer, seen),
    ]


def painted_pictures() -> list[Media]:
    """A picture of faint noise, and the same with one cell painted red, for each of `PAINTED`."""
    height, width = (cells * CELL_PX for cells in GRID)
    ground = np.random.default_rng(0).integers(96, 160, (1, height, width, 3), dtype=np.uint8)
    frames = [ground]
    for cell in PAINTED:
        left, top, right, bottom = _box(cell)
        frames.append(ground.copy())
        frames[-1][:, top:bottom, left:right] = (255, 0, 0)
    return [Media("picture", one, np.zeros(1), (width, height), "selftest", "") for one in frames]


def _box(cell: tuple[int, int]) -> tuple[int, int, int, int]:
    row, column = cell
    return column * CELL_PX, row * CELL_PX, (column + 1) * CELL_PX, (row + 1) * CELL_PX


def _prompt(analyzer: Analyzer, picture: Media) -> Prompt:
    size = picture.size_px[0] * picture.size_px[1]  # whatever the checkpoint's own limits: not resized
    settings = Settings(min_pixels=size, max_pixels=size)
    return read_question(analyzer.processor, analyzer.config, [picture], QUESTION, settings).prompt


def _generation(model: Any, new_tokens: int = NEW_TOKENS) -> GenerationConfig:
    generation = greedy(model, new_tokens)
    generation.min_new_tokens = new_tokens  # a short answer would try too few steps
    return generation


def _answer(model: Any, inputs: dict[str, torch.Tensor], new_tokens: int = NEW_TOKENS) -> list[int]:
    with torch.inference_mode():
        ids = model.generate(**inputs, generation_config=_generation(model, new_tokens))
    answer: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return answer


def _recorded(model: Any, inputs: dict[str, torch.Tensor], attention: str) -> tuple[np.ndarray, list[int]]:
    """Rows (L, H, Q, S) of prompt and answer on the prompt, and the answer's tokens."""
    with record_attention(model, recorder_of_everything(model, inputs), attention) as recorder:
        answer = _answer(model, inputs)
    return _by_head(recorder.results()), answer


def _by_head(results: Iterable[Rows]) -> np.ndarray:
    (rows,) = results
    assert rows.by_head is not None
    return rows.by_head


class _Reference:
    """The model's own eager arithmetic in float32, beside the rows that are recorded.

    Attributes:
        weights: of each layer, the rows (H, R, keys) of each forward.
        largest: of each layer, a bound of the scores: |q| |k| scaling.
    """

    def __init__(self) -> None:
        self.weights: dict[int, list[torch.Tensor]] = {}
        self.largest: dict[int, float] = {}

    def beside(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        """An attention function: that of `rows`, and the reference is kept."""
        eager = importlib.import_module(type(module).__module__).eager_attention_forward
        count, keys = query.shape[2], key.shape[2]
        before = torch.ones(count, keys, dtype=torch.bool, device=query.device).tril(keys - count)
        hidden = ~(before if mask is None else mask)
        added = torch.zeros_like(hidden, dtype=torch.float32).masked_fill(hidden, torch.finfo(torch.float32).min)
        _, weights = eager(module, query.float(), key.float(), value.float(), added, **kwargs)
        layer = module.layer_idx
        self.weights.setdefault(layer, []).append(weights[0].cpu())
        largest = query.float().norm(dim=-1).max() * key.float().norm(dim=-1).max() * kwargs["scaling"]
        self.largest[layer] = max(self.largest.get(layer, 0.0), float(largest))
        return AttentionInterface()[NAMES["rows"]](module, query, key, value, mask, **kwargs)


def same_arithmetic(model: Any, inputs: dict[str, torch.Tensor]) -> Check:
    """The recorded rows against eager arithmetic in float32 on the same queries and keys, prefill and three steps."""
    reference, steps = _Reference(), 4
    AttentionInterface.register(_NAME, reference.beside)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    with record_attention(model, recorder_of_everything(model, inputs), "rows") as recorder:
        model.set_attn_implementation({"text_config": _NAME})
        _answer(model, inputs, steps)
    rows = _by_head(recorder.results())
    differences, allowed = [], []
    for layer, got in enumerate(rows):
        want = torch.cat([one[..., : got.shape[-1]] for one in reference.weights.pop(layer)], dim=1).numpy()
        differences.append(float(np.abs(got - want).max()))
        allowed.append(max(TOLERANCE, _DIGIT * reference.largest[layer]))
    worst = int(np.argmax(np.divide(differences, allowed)))
    return Check(
        "arithmetic",
        "rows are eager's, on the same queries and keys",
        differences[worst] <= allowed[worst],
        f"difference at most {differences[worst]:.1e} (layer {worst}; allowed {allowed[worst]:.1e}; "
        f"|score| up to {max(reference.largest.values()):.0f})",
        {
            "difference": differences[worst],
            "allowed": allowed[worst],
            "layer": worst,
            "largest_score": max(reference.largest.values()),
        },
    )


def same_run(
    model: Any, inputs: dict[str, torch.Tensor], rows: np.ndarray, seen: Sequence[int], largest_score: float
) -> Check:
    """A whole run under eager attention against one under SDPA: judged in float32, told in 16 bits."""
    name, what = "run", "rows are eager's, in a run of its own"
    judged = model.dtype == torch.float32
    try:
        eager, answer = _recorded(model, inputs, "eager")
    except CaptureError as error:
        return Check(name, what, False if judged else None, f"eager attention: {error.message}", {})
    same = _same(seen, answer)
    # Every row whose tokens are the same: the next token that is fed is the first that may differ.
    common = inputs["input_ids"].shape[1] + same
    difference = float(np.abs(rows[:, :, :common] - eager[:, :, :common]).max())
    allowed = max(TOLERANCE, RUN_DIGITS * _DIGIT * largest_score)
    said = f"allowed {allowed:.1e}" if judged else "16 bits: not judged"
    return Check(
        name,
        what,
        difference <= allowed if judged else None,
        f"difference at most {difference:.1e} ({said}); eager's first {same} of {len(answer)} tokens are the same",
        {"difference": difference, "allowed": allowed, "same_tokens": same, "tokens": len(answer)},
    )


def _same(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two answers begin alike with."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def sums(rows: np.ndarray, length: int) -> Check:
    """Every row of the prompt sums to one."""
    miss = float(np.abs(rows[:, :, :length].sum(axis=-1, dtype=np.float64) - 1).max())
    detail = f"{rows[:, :, :length, 0].size} rows, off by at most {miss:.1e} (allowed {TOLERANCE:.0e})"
    return Check("sums", "rows sum to one", miss <= TOLERANCE, detail, {"miss": miss})


def future(rows: np.ndarray, length: int) -> Check:
    """No token of the prompt sees one that comes after it."""
    largest = float(rows[:, :, :length][..., np.triu(np.ones((length, length), dtype=bool), k=1)].max())
    detail = f"largest weight on a later token {largest:.1e} (allowed 0)"
    return Check("future", "the future is dark", largest == 0, detail, {"largest": largest})


def painted_cells(analyzer: Analyzer, prompts: Sequence[Prompt]) -> Check:
    """Paint one cell, and the token whose attention changes most is the one that our grid puts there.

    In the first layer the words after the picture ask the same in all prompts, so what changes in the logarithm of
    their attention on a vision token, but for what all vision tokens share, is that token's key.

    Args:
        analyzer: with the model.
        prompts: about `painted_pictures`.
    """
    model = analyzer.model
    recording = Recording("rows", layers=(0,), by_head=True)
    passes = own_answers(model, analyzer.processor.tokenizer, prompts, recording, greedy(model, 1))
    heads = np.stack([np.asarray(one.capture.weights_by_head) for one in passes])
    # (pictures, vision tokens, heads times rows), without those of a head that gives a token less than can be told.
    weights = heads.swapaxes(1, -1).reshape(len(passes), heads.shape[-1], -1)
    told = weights.min(axis=(0, 1)) > _TINY
    weights = weights[..., told]
    change = np.log(weights[1:] / weights[0])
    change = np.abs(change - np.median(change, axis=1, keepdims=True))
    # Every head counts alike, however coarse its 16 bits are.
    change = (change / np.maximum(change.mean(axis=(0, 1)), _TINY)).sum(axis=2)
    # Some tokens change whatever is painted: what counts is how much more they do here than elsewhere.
    elsewhere = (change.sum(axis=0) - change) / (len(change) - 1)
    strength = change / np.maximum(elsewhere + change.mean(), _TINY)
    (grid,) = passes[0].capture.grids
    missed, ratios = [], []
    for cell, tokens in zip(PAINTED, strength, strict=True):
        here = np.abs(grid.boxes_px - np.array(_box(cell))).max(axis=1) < 1
        if not here[tokens.argmax()]:
            missed.append(cell)
        ratios.append(float(tokens[here].max(initial=0) / max(tokens[~here].max(), _TINY)))
    count = len(PAINTED) - len(missed)
    words = f"; missed (row, column): {', '.join(str(cell) for cell in missed)}" if missed else ""
    return Check(
        "cells",
        "a painted cell is found",
        len(missed) <= MAY_MISS,
        f"{count} of {len(PAINTED)} found (allowed {len(PAINTED) - MAY_MISS}); "
        f"the weakest {min(ratios):.1f} times the runner-up, by {told.sum()} of {told.size} rows{words}",
        {"found": count, "painted": len(PAINTED), "weakest_ratio": min(ratios), "rows": int(told.sum())},
    )


def same_answer(plain: Sequence[int], seen: Sequence[int]) -> Check:
    """The answer while rows are recorded is the plain model's, token for token."""
    same = _same(plain, seen)
    detail = f"the first {same} of {len(plain)} tokens are the same"
    figures = {"same_tokens": same, "tokens": len(plain)}
    return Check("answer", "looking does not change the answer", same == len(plain), detail, figures)
