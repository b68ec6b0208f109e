"""Run an encoder on a picture and accumulate the attention of its patches, one block of rows at a time.

The attention matrix of a layer is never held as a whole. SDPA computes the layers' output; the attention rows are
computed beside it in float32, whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, IntArray
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import attention_rows, keep_encoder_states
from qvl_attn.model.probe import window_order
from qvl_attn.model.recorder import SUM_TOLERANCE

# The attention rows that are held at a time.
BLOCK_BYTES = 32 * 2**20
# The steps of a clip that run in one batch have at most this many tokens: eight steps of CLIP at 336 px.
TOKENS_AT_ONCE = 4800


def encoder_of(model: Any, spec: EncoderSpec) -> Any:
    """Return the vision encoder of a model: called with `pixel_values`, it runs nothing else."""
    if spec.family.nested and spec.model_type != QWEN:
        return model.vision_model
    return getattr(model, model.base_model_prefix, model) if spec.model_class.endswith("Classification") else model


def layers_of(model: Any, spec: EncoderSpec) -> torch.nn.ModuleList:
    """Return the encoder's list of layers: its only `ModuleList` of `spec.layers` modules.

    Raises:
        CaptureError: there is no such list, or more than one.
    """
    modules = encoder_of(model, spec).modules()
    lists = [module for module in modules if isinstance(module, torch.nn.ModuleList) and len(module) == spec.layers]
    if len(lists) != 1:
        raise CaptureError(f"the encoder has {len(lists)} lists of {spec.layers} layers, expected one")
    return lists[0]


def run_encoder(model: Any, spec: EncoderSpec, inputs: Inputs) -> Any:
    """Run the encoder and return transformers' output; its hidden states are in the encoder's own order."""
    tower = encoder_of(model, spec)
    pixels = inputs.tensors["pixel_values"].to(tower.device, tower.dtype)
    if spec.model_type == QWEN:
        return tower(pixels, grid_thw=inputs.tensors["grid_thw"].to(tower.device))
    return tower(pixels, **forward_kwargs(spec, inputs))


def forward_kwargs(spec: EncoderSpec, inputs: Inputs) -> dict[str, bool]:
    """Return the arguments of `forward` besides the pixels. DINOv2 always interpolates and has no such argument."""
    return {} if spec.model_type.startswith("dinov2") else {"interpolate_pos_encoding": inputs.interpolate}


def sequence_order(model: Any, spec: EncoderSpec, inputs: Inputs) -> IntArray:
    """Return the place in the picture's order of each patch in the sequence of the encoder's layers: (P,) int64.

    For Qwen2.5-VL it is measured: patches are numbered after the embedding and read before the first layer.
    """
    if spec.model_type != QWEN:
        return inputs.place
    tower = encoder_of(model, spec)
    tensors = {"pixel_values": inputs.tensors["pixel_values"], "image_grid_thw": inputs.tensors["grid_thw"]}
    permutation = window_order(tower, {name: tensor.to(tower.device) for name, tensor in tensors.items()})
    order: IntArray = inputs.place[permutation.cpu().numpy()]
    return order


def capture_attention(
    model: Any,
    spec: EncoderSpec,
    inputs: Inputs,
    query_patches: Sequence[int] = (),
    patch_rows: PatchRows | None = None,
    progress: Progress = no_progress,
) -> EncoderAttention:
    """Run an encoder on a picture or clip and return its attention.

    Args:
        model: the result of `load_encoder_weights`.
        spec: its specification.
        inputs: the result of `read_inputs`.
        query_patches: places in a step, row * w + column, of the patches whose own rows are kept.
        patch_rows: if given, filled with the rows of its patches.
        progress: called with (stage, done, total); the unit is a layer with all steps.

    Raises:
        CaptureError: the weights are not attention, or the encoder does not run as its family does.
    """
    accumulator = Accumulator(
        spec, inputs, sequence_order(model, spec, inputs), query_patches, model.device, patch_rows, progress
    )
    progress("encoding", 0, spec.layers)
    with keep_encoder_states(model, accumulator), torch.inference_mode():
        for chunk in in_chunks(spec, inputs):
            run_encoder(model, spec, chunk)
    return accumulator.attention()


def in_chunks(spec: EncoderSpec, inputs: Inputs) -> Iterator[Inputs]:
    """Split the inputs into chunks of a few steps, so that memory does not grow with the length of a clip.

    A step attends only to itself, so the results are the same. Qwen2.5-VL gets all steps as one sequence, unsplit.
    """
    t, h, w = inputs.grid
    if spec.model_type == QWEN:
        yield inputs
        return
    steps = max(1, TOKENS_AT_ONCE // (h * w + len(spec.prefix)))
    for start in range(0, t, steps):
        chunk = slice(start, min(start + steps, t))
        count = chunk.stop - start
        yield replace(
            inputs,
            tensors={"pixel_values": inputs.tensors["pixel_values"][chunk]},
            grid=(count, h, w),
            boxes_px=inputs.boxes_px[: count * h * w],
            place=inputs.place[: count * h * w],
            frames=inputs.frames[chunk],
        )


def windows_of(spec: EncoderSpec, grid: tuple[int, int, int]) -> IntArray | None:
    """Return the index of each patch's window in a step: (h * w,) int64; None if the family has no windows.

    Windows start at the top left; their side is `window_px` rounded down to whole merged cells (arXiv 2502.13923).
    """
    if not spec.window_px or all(spec.full):
        return None
    _, h, w = grid
    side = spec.window_px // (spec.patch_px * spec.merge) * spec.merge
    rows, columns = np.arange(h)[:, None] // side, np.arange(w) // side
    return np.ascontiguousarray((rows * (-(-w // side)) + columns).reshape(-1), dtype=np.int64)


class Accumulator:
    """Accumulates attention while the layers run; an `Observer` of an encoder.

    Args:
        spec: the specification of the encoder.
        inputs: its inputs.
        order: (P,) the result of `sequence_order`.
        query_patches: places in a step of the patches whose own rows are kept.
        device: the device of the model.
        patch_rows: if given, filled with the rows of its patches.
        progress: as in `capture_attention`.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        inputs: Inputs,
        order: IntArray,
        query_patches: Sequence[int],
        device: torch.device,
        patch_rows: PatchRows | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self._spec, self._inputs, self._query_patches = spec, inputs, tuple(query_patches)
        self._patch_rows, self._progress = patch_rows, progress
        t, h, w = inputs.grid
        L, H, R, cells = spec.layers, spec.heads, len(spec.prefix), h * w
        window = windows_of(spec, inputs.grid)
        self._window_of = window
        # The step and the token of each position in the encoder's sequence.
        self._steps: IntArray | None = None
        if spec.model_type == QWEN:
            self._steps, self._tokens = order // cells, torch.from_numpy(order % cells).to(device)
            # The group that each position attends within, in full layers and in windowed ones.
            windowed = self._steps if window is None else self._steps * cells + window[order % cells]
            self._groups = {True: self._steps, False: windowed}
        else:
            self._tokens = torch.arange(R + cells, device=device)
        places = torch.arange(R + cells, device=device) - R
        self._is_patch = places >= 0
        places = places.clamp(min=0)
        self._centres = torch.stack([places // w, places % w], dim=1).float() * spec.patch_px
        self._windows = None if window is None else torch.from_numpy(window).to(device)[places]

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._received = zeros(L, H, t, R + cells)
        self._sums = {name: zeros(L, H, t) for name in ("distance", "entropy", "window")}
        self._cls = torch.zeros(L, H, t, R + cells) if "cls" in spec.prefix else None
        self._rows = torch.zeros(L, H, len(self._query_patches), t, R + cells)
        self._done = np.zeros((L, t), dtype=np.int64)
        self._reached = [0] * L
        self._sum_error = torch.zeros(L, device=device)

    def observe(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """See `Observer`."""
        if layer >= self._spec.layers or mask is not None:
            raise CaptureError("the encoder does not attend as its family does")
        for sample in range(len(query)):
            step, tokens = self._next_tokens(layer, query.shape[2])
            rows = max(1, BLOCK_BYTES // (4 * query.shape[1] * query.shape[2]))
            for start in range(0, query.shape[2], rows):
                block = slice(start, start + rows)
                weights = attention_rows(query[sample][:, block], key[sample], scaling)
                self._add(layer, step, tokens[block], tokens, weights)
            self._done[layer, step] += len(tokens)
        _, h, w = self._inputs.grid
        layers_done = int(self._done.sum()) // (self._done.shape[1] * (len(self._spec.prefix) + h * w))
        if layers_done:
            self._progress("encoding", layers_done, self._spec.layers)

    def _next_tokens(self, layer: int, count: int) -> tuple[int, torch.Tensor]:
        """Return the step and the tokens of the next `count` positions that a layer attends with."""
        if self._steps is None:
            if count != len(self._tokens):
                raise CaptureError(f"the encoder has {count} tokens, expected {len(self._tokens)}")
            step = self._reached[layer]
            self._reached[layer] += 1
            return step, self._tokens
        part = slice(self._reached[layer], self._reached[layer] + count)
        self._reached[layer] = part.stop
        groups = self._groups[self._spec.full[layer]]
        own = groups[part]
        if len(own) != count or not np.array_equal(own, groups[groups == own[0]]):
            raise CaptureError(f"layer {layer} does not attend within the windows of Qwen2.5-VL")
        return int(self._steps[part.start]), self._tokens[part]

    def _add(self, layer: int, step: int, queries: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> None:
        """Add a block of attention rows.

        Args:
            layer: the layer.
            step: the step.
            queries: (R,) the tokens of the rows.
            keys: (S,) the tokens of the columns.
            weights: (H, R, S) float32.
        """
        error = (weights.sum(dim=-1) - 1).abs().max()
        self._sum_error[layer] = torch.maximum(self._sum_error[layer], error)
        for i, place in enumerate(self._query_patches):
            self._copy_row(self._rows[layer, :, i, step], queries == place + len(self._spec.prefix), keys, weights)
        if self._patch_rows is not None:
            self._patch_rows.add(layer, step, queries, keys, weights)
        if self._cls is not None:
            self._copy_row(self._cls[layer, :, step], queries == 0, keys, weights)
        patches = self._is_patch[queries]
        if not patches.all():
            queries, weights = queries[patches], weights[:, patches]
        self._received[layer, :, step].index_add_(1, keys, weights.sum(dim=1).double())
        entropy = torch.special.entr(weights).sum(dim=-1)
        self._sums["entropy"][layer, :, step] += entropy.sum(dim=1, dtype=torch.float64) / np.log(2)
        on_patches = weights * self._is_patch[keys]
        total = on_patches.sum(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        distances = torch.cdist(
            self._centres[queries], self._centres[keys], compute_mode="donot_use_mm_for_euclid_dist"
        )
        distance = torch.einsum("hrs,rs->hr", on_patches, distances) / total
        self._sums["distance"][layer, :, step] += distance.sum(dim=1, dtype=torch.float64)
        if self._windows is not None:
            own = (self._windows[queries][:, None] == self._windows[keys]).float()
            within = torch.einsum("hrs,rs->hr", on_patches, own) / total
            self._sums["window"][layer, :, step] += within.sum(dim=1, dtype=torch.float64)

    @staticmethod
    def _copy_row(target: torch.Tensor, is_row: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> None:
        """Copy the row where `is_row` (R,) is true, if there is one, to `target` (H, T)."""
        rows = is_row.nonzero()[:, 0]
        if len(rows):
            target[:, keys.cpu()] = weights[:, int(rows[0])].cpu()

    def attention(self) -> EncoderAttention:
        """Return the accumulated attention.

        Raises:
            CaptureError: a layer or rows are missing, or the weights are not attention.
        """
        t, h, w = self._inputs.grid
        for layer, error in enumerate(self._sum_error.tolist()):
            if not np.isfinite(error):
                hint = f"try {argument('dtype', 'float32')} or bfloat16"
                raise CaptureError(f"layer {layer}: the attention is not finite (NaN or infinite)", hint)
            if error > SUM_TOLERANCE[torch.float32]:
                raise CaptureError(f"layer {layer}: the sum of an attention row differs from one by {error:.2g}")
        if (self._done != len(self._spec.prefix) + h * w).any():
            raise CaptureError("the attention of some layers or patches was not captured")

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
            query_patches=np.array(self._query_patches, dtype=np.int64),
            rows=self._rows.numpy(),
            distance_px=per_patch("distance"),
            entropy_bits=per_patch("entropy"),
            window_share=None if self._windows is None else per_patch("window"),
        )


# The most values that `PatchRows` keeps: about 3 MB of a page.
GRID_VALUES = 1_400_000


def evenly_spaced_places(grid: tuple[int, int, int], most: int) -> IntArray:
    """Return at most `most` places in a step, evenly spaced: (K,) int64.

    These are all patches, or one in 1 x 2, in 2 x 2, in 2 x 3 and so on; none if `most` is below four.
    """
    _, h, w = grid
    for sides in range(2, h + w + 1):
        strides = sides // 2, sides - sides // 2
        rows, columns = (
            np.arange((size - 1) % stride // 2, size, stride) for size, stride in zip((h, w), strides, strict=True)
        )
        if len(rows) * len(columns) <= most and most >= 4:
            return np.asarray((rows[:, None] * w + columns).reshape(-1), dtype=np.int64)
    return np.zeros(0, dtype=np.int64)


class PatchRows:
    """Collects the attention rows of evenly spaced patches, averaged over the heads, while the layers run.

    Args:
        spec: the specification of the encoder.
        inputs: its inputs.
    """

    def __init__(self, spec: EncoderSpec, inputs: Inputs) -> None:
        t, h, w = self._grid = inputs.grid
        self._prefix = len(spec.prefix)
        self.places = evenly_spaced_places(inputs.grid, GRID_VALUES // (spec.layers * t * h * w))
        self._index = torch.full((self._prefix + h * w,), -1)
        self._index[self._prefix + torch.from_numpy(self.places)] = torch.arange(len(self.places))
        self._rows = torch.zeros(spec.layers, len(self.places), t, h * w)

    def add(self, layer: int, step: int, queries: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> None:
        """Keep the rows of its patches; arguments as in `Accumulator._add`."""
        index = self._index[queries.cpu()]
        selected, patches = index >= 0, keys.cpu() - self._prefix
        if selected.any():
            mean = weights[:, selected.to(weights.device)].mean(dim=0).cpu()
            self._rows[layer, index[selected][:, None], step, patches[patches >= 0]] = mean[:, patches >= 0]

    def values(self) -> FloatArray:
        """Return the attention of the patches at `places` on every patch of their step: (L, K, t, h, w) float32."""
        return self._rows.numpy().reshape(*self._rows.shape[:2], *self._grid)
