"""The hidden states of an encoder, layer by layer, in the picture's order; and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import Accumulator, in_parts, layers_of, run_encoder, sequence_order
from qvl_attn.encoders.embedding import Projection, patch_space, principal
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import PatchEmbedding
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import keep_encoder_states

See = Callable[[int, torch.Tensor], None]


def read_states(model: Any, spec: EncoderSpec, inputs: Inputs, see: See) -> None:
    """Run an encoder and show the states after each of its layers; nothing is kept.

    They are what a layer hands on to the next: no norm that follows the last one is applied.

    Args:
        model: as `load_encoder_weights` gives it.
        spec: what is known of it.
        inputs: all of whose steps run together: a part, as `in_parts` gives it.
        see: is told a layer, -1 for before the first, and (t, T, D) float32 on the model's device: of each step the
            tokens before the patches, then the patches in the picture's order.

    Raises:
        CaptureError: the encoder is not built as its family is, or states are not finite.
    """
    t, h, w = inputs.grid
    tokens = len(spec.prefix) + h * w
    order = torch.from_numpy(sequence_order(model, spec, inputs)).to(model.device) if spec.model_type == QWEN else None
    reached: list[int] = []

    def show(layer: int, states: torch.Tensor) -> None:
        states = states.float()
        if order is not None:
            placed = torch.empty_like(states)
            placed[order] = states
            states = placed.view(t, tokens, -1)
        if states.shape[:2] != (t, tokens):
            raise CaptureError(f"the encoder has states {tuple(states.shape)}, where {t} x {tokens} were expected")
        if not states.isfinite().all():
            hint = "try --dtype float32 or bfloat16"
            raise CaptureError(f"layer {layer}: the embeddings are not finite (NaN or infinite)", hint)
        reached.append(layer)
        see(layer, states)

    with _shown(layers_of(model, spec), show), torch.inference_mode():
        run_encoder(model, spec, inputs)
    if reached != list(range(-1, spec.layers)):
        raise CaptureError("the encoder did not run each of its layers once")


@contextmanager
def _shown(layers: torch.nn.ModuleList, show: See) -> Iterator[None]:
    """While it lasts, what goes into the first layer and what comes out of each is shown."""

    def before(module: Any, args: tuple[Any, ...]) -> None:
        del module
        show(-1, args[0])

    def after(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            del module, args
            show(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = [layers[0].register_forward_pre_hook(before)]
    hooks += [one.register_forward_hook(after(layer)) for layer, one in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def similarity_of(patches: torch.Tensor, asked: Sequence[int], grid: tuple[int, int, int]) -> FloatArray:
    """How like the patches at some places those of their step are: (A, t, h, w) float32 cosine similarity.

    Args:
        patches: (t, h * w, D) float32.
        asked: (A,) places in a step, row * w + column.
        grid: (t, h, w).
    """
    directions = torch.nn.functional.normalize(patches, dim=-1)
    alike = torch.einsum("tad,tpd->atp", directions[:, list(asked)], directions)
    return np.ascontiguousarray(alike.clamp(-1, 1).cpu().numpy().reshape(len(asked), *grid))


def read_embedding(
    model: Any, spec: EncoderSpec, inputs: Inputs, asked: Sequence[int], embeddings: Sequence[str], seed: int
) -> tuple[FloatArray | None, PatchEmbedding | None]:
    """In one pass of the model: how like others the patches asked about are, and the patches' space.

    A long clip is run in parts. Its components are of the patches of all steps, so where embeddings are wanted every
    layer's patches of the parts that ran are held in memory, (E, P, D) float32, and a layer's are let go as soon as it
    is complete. Of a picture no more than one layer's are held. Else nothing is held but what is given back.

    Args:
        model: as `load_encoder_weights` gives it.
        spec: what is known of it.
        inputs: as `read_inputs` gives them.
        asked: (A,) places in a step, row * w + column.
        embeddings: `pca`, `tsne`, both or neither.
        seed: of t-SNE.

    Returns:
        (E, A, t, h, w) float32 cosine similarity after layers -1, 0 and so on, None where nothing was asked; the space,
        None where no embeddings are wanted.

    Raises:
        CaptureError: as `read_states`.
        InputError: as `patch_space`.
    """
    t, h, w = inputs.grid
    alike: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]
    held: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]
    projections: list[Projection] = []
    last: list[FloatArray] = []

    def see(layer: int, states: torch.Tensor) -> None:
        patches = states[:, len(spec.prefix) :]
        if asked:
            alike[layer + 1].append(similarity_of(patches, asked, (len(patches), h, w)))
        if not embeddings:
            return
        parts = held[layer + 1]
        parts.append(patches.flatten(0, 1).cpu().numpy())
        if sum(map(len, parts)) == t * h * w:
            points = np.concatenate(parts)
            parts.clear()
            projections.append(principal(points))
            last[:] = [points] if layer == spec.layers - 1 else []

    for part in in_parts(spec, inputs):
        read_states(model, spec, part, see)
    similarity = np.stack([np.concatenate(one, axis=1) for one in alike]) if asked else None
    embedding = patch_space(projections, last[0], seed if "tsne" in embeddings else None) if embeddings else None
    return similarity, embedding


def read_pooled(model: Any, spec: EncoderSpec, inputs: Inputs) -> FloatArray:
    """One vector for the whole picture after each layer, -1, 0 and so on: (E, D) float32.

    That is the state of [CLS] where there is one, else the mean over the patches; of a clip the mean over its steps.

    Raises:
        CaptureError: as `read_states`.
    """
    pooled: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]

    def see(layer: int, states: torch.Tensor) -> None:
        whole = states[:, 0] if "cls" in spec.prefix else states.mean(dim=1)
        pooled[layer + 1].append(whole.cpu().numpy())

    for part in in_parts(spec, inputs):
        read_states(model, spec, part, see)
    return np.stack([np.concatenate(steps).mean(axis=0) for steps in pooled])


def capture_and_pool(model: Any, spec: EncoderSpec, inputs: Inputs) -> tuple[EncoderAttention, FloatArray]:
    """How a picture is looked at, and its vectors as `read_pooled` has them, in one pass of the model.

    Raises:
        CaptureError: as `capture_attention` and `read_states`.
    """
    accumulator = Accumulator(spec, inputs, sequence_order(model, spec, inputs), (), model.device)
    with keep_encoder_states(model, accumulator):
        pooled = read_pooled(model, spec, inputs)
    return accumulator.attention(), pooled
