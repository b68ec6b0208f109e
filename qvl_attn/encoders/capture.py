"""Look at a picture with an encoder, and take what its patches' attention adds up to, a block of rows at a time.

No matrix of all patches is ever held, in no layer. SDPA gives the layers' output; beside it the rows are computed in
float32, whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.core.types import FloatArray, IntArray
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import attention_rows, keep_encoder_states
from qvl_attn.model.probe import window_order
from qvl_attn.model.recorder import SUM_TOLERANCE

# Of the attention that is held at a time.
BLOCK_BYTES = 32 * 2**20
# Of the steps of a clip that run together: eight of CLIP's at 336 px.
TOKENS_AT_ONCE = 4800


def encoder_of(model: Any, spec: EncoderSpec) -> Any:
    """The part of a model that sees: called with `pixel_values`, it runs the encoder and nothing else."""
    if spec.family.nested and spec.model_type != QWEN:
        return model.vision_model
    return getattr(model, model.base_model_prefix, model) if spec.model_class.endswith("Classification") else model


def layers_of(model: Any, spec: EncoderSpec) -> torch.nn.ModuleList:
    """The one list of as many modules as the encoder has layers.

    Raises:
        CaptureError: there is none, or more than one.
    """
    modules = encoder_of(model, spec).modules()
    found = [one for one in modules if isinstance(one, torch.nn.ModuleList) and len(one) == spec.layers]
    if len(found) != 1:
        raise CaptureError(f"the encoder has {len(found)} lists of {spec.layers} layers, where one was expected")
    return found[0]


def run_encoder(model: Any, spec: EncoderSpec, inputs: Inputs) -> Any:
    """Run it: transformers' output, hidden states in the encoder's own order."""
    tower = encoder_of(model, spec)
    pixels = inputs.tensors["pixel_values"].to(tower.device, tower.dtype)
    if spec.model_type == QWEN:
        return tower(pixels, grid_thw=inputs.tensors["grid_thw"].to(tower.device))
    return tower(pixels, **description(spec, inputs))


def description(spec: EncoderSpec, inputs: Inputs) -> dict[str, bool]:
    """What a model is told beside the pixels. DINOv2 interpolates by itself, and takes no such word."""
    return {} if spec.model_type.startswith("dinov2") else {"interpolate_pos_encoding": inputs.interpolate}


def sequence_order(model: Any, spec: EncoderSpec, inputs: Inputs) -> IntArray:
    """(S,) the place in the picture's order of each patch as the encoder's layers see them.

    Of Qwen2.5-VL by painting: patches are numbered after the embedding, and read before the first layer.
    """
    if spec.model_type != QWEN:
        return inputs.place
    tower = encoder_of(model, spec)
    tensors = {"pixel_values": inputs.tensors["pixel_values"], "image_grid_thw": inputs.tensors["grid_thw"]}
    seen = window_order(tower, {name: one.to(tower.device) for name, one in tensors.items()})
    order: IntArray = inputs.place[seen.cpu().numpy()]
    return order


def capture_attention(
    model: Any,
    spec: EncoderSpec,
    inputs: Inputs,
    asked: Sequence[int] = (),
    patch_rows: PatchRows | None = None,
    progress: Progress = no_op,
) -> EncoderAttention:
    """Look at a picture or clip.

    Args:
        model: as `load_encoder_weights` gives it.
        spec: what is known of it.
        inputs: as `read_inputs` gives them.
        asked: places in a step, row * w + column, whose own rows are kept.
        patch_rows: is filled, where it is given.
        progress: told how many layers' worth of all steps is done, and of how many.

    Raises:
        CaptureError: what came is no attention, or the encoder does not run as its family does.
    """
    accumulator = Accumulator(
        spec, inputs, sequence_order(model, spec, inputs), asked, model.device, patch_rows, progress
    )
    progress("looking", 0, spec.layers)
    with keep_encoder_states(model, accumulator), torch.inference_mode():
        for part in in_parts(spec, inputs):
            run_encoder(model, spec, part)
    return accumulator.attention()


def in_parts(spec: EncoderSpec, inputs: Inputs) -> Iterator[Inputs]:
    """Inputs of a few steps each, so that the layers of a long clip need no more memory than those of a short one.

    A step attends to itself alone, so nothing else changes. Qwen2.5-VL's steps are one sequence to it, and stay so.
    """
    t, h, w = inputs.grid
    if spec.model_type == QWEN:
        yield inputs
        return
    steps = max(1, TOKENS_AT_ONCE // (h * w + len(spec.prefix)))
    for start in range(0, t, steps):
        part = slice(start, min(start + steps, t))
        count = part.stop - start
        yield replace(
            inputs,
            tensors={"pixel_values": inputs.tensors["pixel_values"][part]},
            grid=(count, h, w),
            boxes_px=inputs.boxes_px[: count * h * w],
            place=inputs.place[: count * h * w],
            frames=inputs.frames[part],
        )


def windows_of(spec: EncoderSpec, grid: tuple[int, int, int]) -> IntArray | None:
    """(h * w,) the number of each patch's window in a step; None where the family has no windows.

    Windows lie from the top left, `window_px` a side, rounded down to whole merged cells (arXiv 2502.13923).
    """
    if not spec.window_px or all(spec.full):
        return None
    _, h, w = grid
    side = spec.window_px // (spec.patch_px * spec.merge) * spec.merge
    rows, columns = np.arange(h)[:, None] // side, np.arange(w) // side
    return np.ascontiguousarray((rows * (-(-w // side)) + columns).reshape(-1), dtype=np.int64)


class Accumulator:
    """Adds up attention as the layers come by; an `Observer` of an encoder.

    Args:
        eye: of the encoder.
        inputs: what is looked at.
        order: (P,) as `sequence_order` gives it.
        asked: places in a step whose rows are kept.
        device: of the model.
        grid_rows: is filled, where it is given.
        progress: as `capture_attention` has it.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        inputs: Inputs,
        order: IntArray,
        asked: Sequence[int],
        device: torch.device,
        patch_rows: PatchRows | None = None,
        progress: Progress = no_op,
    ) -> None:
        self._spec, self._inputs, self._asked = spec, inputs, tuple(asked)
        self._grid_rows, self._progress = patch_rows, progress
        t, h, w = inputs.grid
        L, H, R, cells = spec.layers, spec.heads, len(spec.prefix), h * w
        window = windows_of(spec, inputs.grid)
        self._window_of = window
        # Of each position in a sequence of the encoder: step and token.
        self._steps: IntArray | None = None
        if spec.model_type == QWEN:
            self._steps, self._tokens = order // cells, torch.from_numpy(order % cells).to(device)
            # Of each position in it: with whom it attends, in full layers and in the others.
            near = self._steps if window is None else self._steps * cells + window[order % cells]
            self._parts = {True: self._steps, False: near}
        else:
            self._tokens = torch.arange(R + cells, device=device)
        at = torch.arange(R + cells, device=device) - R
        self._is_patch = at >= 0
        at = at.clamp(min=0)
        self._centres = torch.stack([at // w, at % w], dim=1).float() * spec.patch_px
        self._windows = None if window is None else torch.from_numpy(window).to(device)[at]

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._received = zeros(L, H, t, R + cells)
        self._sums = {name: zeros(L, H, t) for name in ("distance", "entropy", "window")}
        self._cls = torch.zeros(L, H, t, R + cells) if "cls" in spec.prefix else None
        self._rows = torch.zeros(L, H, len(self._asked), t, R + cells)
        self._done = np.zeros((L, t), dtype=np.int64)
        self._reached = [0] * L
        self._miss = torch.zeros(L, device=device)

    def see(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """As `Observer` says."""
        if layer >= self._spec.layers or mask is not None:
            raise CaptureError("the encoder does not attend as its family does")
        for sample in range(len(query)):
            step, tokens = self._which(layer, query.shape[2])
            rows = max(1, BLOCK_BYTES // (4 * query.shape[1] * query.shape[2]))
            for start in range(0, query.shape[2], rows):
                block = slice(start, start + rows)
                weights = attention_rows(query[sample][:, block], key[sample], scaling)
                self._add(layer, step, tokens[block], tokens, weights)
            self._done[layer, step] += len(tokens)
        _, h, w = self._inputs.grid
        worth = int(self._done.sum()) // (self._done.shape[1] * (len(self._spec.prefix) + h * w))
        if worth:
            self._progress("looking", worth, self._spec.layers)

    def _which(self, layer: int, count: int) -> tuple[int, torch.Tensor]:
        """The step that a sequence, or a part of one, belongs to, and its tokens."""
        if self._steps is None:
            if count != len(self._tokens):
                raise CaptureError(f"the encoder has {count} tokens, where {len(self._tokens)} were expected")
            step = self._reached[layer]
            self._reached[layer] += 1
            return step, self._tokens
        part = slice(self._reached[layer], self._reached[layer] + count)
        self._reached[layer] = part.stop
        windows = self._parts[self._spec.full[layer]]
        own = windows[part]
        if len(own) != count or not np.array_equal(own, windows[windows == own[0]]):
            raise CaptureError(f"layer {layer} attends over other windows than Qwen2.5-VL's")
        return int(self._steps[part.start]), self._tokens[part]

    def _add(self, layer: int, step: int, asking: torch.Tensor, seen: torch.Tensor, weights: torch.Tensor) -> None:
        """Add a block of rows.

        Args:
            layer: whose.
            step: whose.
            asking: (R,) tokens that ask.
            seen: (S,) tokens that are seen.
            weights: (H, R, S) float32.
        """
        self._miss[layer] = torch.maximum(self._miss[layer], (weights.sum(dim=-1) - 1).abs().max())
        for i, place in enumerate(self._asked):
            self._keep(self._rows[layer, :, i, step], asking == place + len(self._spec.prefix), seen, weights)
        if self._grid_rows is not None:
            self._grid_rows.add(layer, step, asking, seen, weights)
        if self._cls is not None:
            self._keep(self._cls[layer, :, step], asking == 0, seen, weights)
        patches = self._is_patch[asking]
        if not patches.all():
            asking, weights = asking[patches], weights[:, patches]
        self._received[layer, :, step].index_add_(1, seen, weights.sum(dim=1).double())
        entropy = torch.special.entr(weights).sum(dim=-1)
        self._sums["entropy"][layer, :, step] += entropy.sum(dim=1, dtype=torch.float64) / np.log(2)
        on_patches = weights * self._is_patch[seen]
        whole = on_patches.sum(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        distances = torch.cdist(self._centres[asking], self._centres[seen], compute_mode="donot_use_mm_for_euclid_dist")
        far = torch.einsum("hrs,rs->hr", on_patches, distances) / whole
        self._sums["distance"][layer, :, step] += far.sum(dim=1, dtype=torch.float64)
        if self._windows is not None:
            own = (self._windows[asking][:, None] == self._windows[seen]).float()
            within = torch.einsum("hrs,rs->hr", on_patches, own) / whole
            self._sums["window"][layer, :, step] += within.sum(dim=1, dtype=torch.float64)

    @staticmethod
    def _keep(kept: torch.Tensor, rows: torch.Tensor, seen: torch.Tensor, weights: torch.Tensor) -> None:
        """Keep the one row that is meant, if it is among these: `kept` is (H, T)."""
        where = rows.nonzero()[:, 0]
        if len(where):
            kept[:, seen.cpu()] = weights[:, int(where[0])].cpu()

    def attention(self) -> EncoderAttention:
        """What was added up.

        Raises:
            CaptureError: a layer or rows are missing, or what came is no attention.
        """
        t, h, w = self._inputs.grid
        for layer, miss in enumerate(self._miss.tolist()):
            if not np.isfinite(miss):
                hint = "try --dtype float32 or bfloat16"
                raise CaptureError(f"layer {layer}: the attention is not finite (NaN or infinite)", hint)
            if miss > SUM_TOLERANCE[torch.float32]:
                raise CaptureError(f"layer {layer}: a row of attention sums to one only within {miss:.2g}")
        if (self._done != len(self._spec.prefix) + h * w).any():
            raise CaptureError("the encoder did not show the attention of all of its layers and patches")

        def per_patch(name: str) -> NDArray[np.float32]:
            return np.asarray((self._sums[name] / (h * w)).float().cpu().numpy())

        return EncoderAttention(
            family=self._spec.family.name,
            grid=(t, h, w),
            prefix=self._spec.prefix,
            boxes_px=self._inputs.boxes_px,
            patch_px=self._spec.patch_px,
            full=np.array(self._spec.full, dtype=np.bool_),
            window=self._window_of,
            received=(self._received / (h * w)).float().cpu().numpy(),
            cls=None if self._cls is None else self._cls.numpy(),
            query_patches=np.array(self._asked, dtype=np.int64),
            rows=self._rows.numpy(),
            distance_px=per_patch("distance"),
            entropy_bits=per_patch("entropy"),
            window_share=None if self._windows is None else per_patch("window"),
        )


# How many values are kept: some 3 MB of a page.
GRID_VALUES = 1_400_000


def even_places(grid: tuple[int, int, int], most: int) -> IntArray:
    """(K,) places in a step, at most `most`, that lie evenly over it: every patch, or one of 1 x 2, of 2 x 2, of 2 x 3.

    None where there is no room for four.
    """
    _, h, w = grid
    for sides in range(2, h + w + 1):
        every = sides // 2, sides - sides // 2
        rows, columns = (np.arange((size - 1) % n // 2, size, n) for size, n in zip((h, w), every, strict=True))
        if len(rows) * len(columns) <= most and most >= 4:
            return np.asarray((rows[:, None] * w + columns).reshape(-1), dtype=np.int64)
    return np.zeros(0, dtype=np.int64)


class PatchRows:
    """The rows of patches that lie evenly over a step, the mean over the heads, as the layers come by.

    Args:
        eye: of the encoder.
        inputs: what is looked at.
    """

    def __init__(self, spec: EncoderSpec, inputs: Inputs) -> None:
        t, h, w = self._grid = inputs.grid
        self._prefix = len(spec.prefix)
        self.places = even_places(inputs.grid, GRID_VALUES // (spec.layers * t * h * w))
        self._number = torch.full((self._prefix + h * w,), -1)
        self._number[self._prefix + torch.from_numpy(self.places)] = torch.arange(len(self.places))
        self._rows = torch.zeros(spec.layers, len(self.places), t, h * w)

    def add(self, layer: int, step: int, asking: torch.Tensor, seen: torch.Tensor, weights: torch.Tensor) -> None:
        """Take what is meant of a block of rows: as `Accumulator._add` has it."""
        number = self._number[asking.cpu()]
        meant, patches = number >= 0, seen.cpu() - self._prefix
        if meant.any():
            mean = weights[:, meant.to(weights.device)].mean(dim=0).cpu()
            self._rows[layer, number[meant][:, None], step, patches[patches >= 0]] = mean[:, patches >= 0]

    def values(self) -> FloatArray:
        """(L, K, t, h, w) float32: what the patches at `places` give every patch of their step."""
        return self._rows.numpy().reshape(*self._rows.shape[:2], *self._grid)
