"""The hidden states of an encoder, layer by layer, in the picture's order; embeddings and pooled vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import Accumulator, in_chunks, layers_of, run_encoder, sequence_order
from qvl_attn.encoders.embedding import Projection, embed_patches, project_pca
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import PatchEmbedding
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import keep_encoder_states

StatesCallback = Callable[[int, torch.Tensor], None]


def read_states(model: Any, spec: EncoderSpec, inputs: Inputs, on_states: StatesCallback) -> None:
    """Run an encoder and pass the hidden states of each layer to a callback; nothing is kept.

    They are the states that a layer passes to the next: a norm after the last layer is not applied.

    Args:
        model: the result of `load_encoder_weights`.
        spec: its specification.
        inputs: inputs whose steps all run in one batch: a chunk of `in_chunks`.
        on_states: called with a layer, -1 for the input of the first, and its states, (t, T, D) float32 on the model's
            device: for each step the prefix tokens, then the patches in the picture's order.

    Raises:
        CaptureError: the encoder does not run as its family does, or states are not finite.
    """
    t, h, w = inputs.grid
    tokens = len(spec.prefix) + h * w
    order = torch.from_numpy(sequence_order(model, spec, inputs)).to(model.device) if spec.model_type == QWEN else None
    reached: list[int] = []

    def receive(layer: int, states: torch.Tensor) -> None:
        states = states.float()
        if order is not None:
            placed = torch.empty_like(states)
            placed[order] = states
            states = placed.view(t, tokens, -1)
        if states.shape[:2] != (t, tokens):
            raise CaptureError(f"the encoder has states {tuple(states.shape)}, expected {t} x {tokens}")
        if not states.isfinite().all():
            hint = f"try {argument('dtype', 'float32')} or bfloat16"
            raise CaptureError(f"layer {layer}: the embeddings are not finite (NaN or infinite)", hint)
        reached.append(layer)
        on_states(layer, states)

    with _hooks(layers_of(model, spec), receive), torch.inference_mode():
        run_encoder(model, spec, inputs)
    if reached != list(range(-1, spec.layers)):
        raise CaptureError("the encoder did not run each of its layers once")


@contextmanager
def _hooks(layers: torch.nn.ModuleList, receive: StatesCallback) -> Iterator[None]:
    """Pass the input of the first layer and the output of each layer to a callback inside the `with` block."""

    def before(module: Any, args: tuple[Any, ...]) -> None:
        del module
        receive(-1, args[0])

    def after(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            del module, args
            receive(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = [layers[0].register_forward_pre_hook(before)]
    hooks += [module.register_forward_hook(after(layer)) for layer, module in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def similarity_of(patches: torch.Tensor, query_patches: Sequence[int], grid: tuple[int, int, int]) -> FloatArray:
    """Return the cosine similarity of query patches to all patches of their step: (A, t, h, w) float32.

    Args:
        patches: (t, h * w, D) float32.
        query_patches: (A,) places in a step, row * w + column.
        grid: (t, h, w).
    """
    directions = torch.nn.functional.normalize(patches, dim=-1)
    similarity = torch.einsum("tad,tpd->atp", directions[:, list(query_patches)], directions)
    return np.ascontiguousarray(similarity.clamp(-1, 1).cpu().numpy().reshape(len(query_patches), *grid))


def read_embedding(
    model: Any, spec: EncoderSpec, inputs: Inputs, query_patches: Sequence[int], embeddings: Sequence[str], seed: int
) -> tuple[FloatArray | None, PatchEmbedding | None]:
    """Run the encoder once and return the similarities of the query patches and the projected embeddings.

    A long clip runs in chunks. Its components are of the patches of all steps, so with embeddings the patches of every
    layer, (E, P, D) float32, are held in memory until the layer has all chunks. For a picture this is one layer at a
    time. Without embeddings only the returned arrays are held.

    Args:
        model: the result of `load_encoder_weights`.
        spec: its specification.
        inputs: the result of `read_inputs`.
        query_patches: (A,) places in a step, row * w + column.
        embeddings: `pca`, `tsne`, both or neither.
        seed: seed of t-SNE.

    Returns:
        (E, A, t, h, w) float32 cosine similarity after layers -1, 0 and so on, None without query patches; and the
        projected embeddings, None without `embeddings`.

    Raises:
        CaptureError: see `read_states`.
        InputError: see `embed_patches`.
    """
    t, h, w = inputs.grid
    similarities: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]
    held: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]
    projections: list[Projection] = []
    last: list[FloatArray] = []

    def on_states(layer: int, states: torch.Tensor) -> None:
        patches = states[:, len(spec.prefix) :]
        if query_patches:
            similarities[layer + 1].append(similarity_of(patches, query_patches, (len(patches), h, w)))
        if not embeddings:
            return
        chunks = held[layer + 1]
        chunks.append(patches.flatten(0, 1).cpu().numpy())
        if sum(map(len, chunks)) == t * h * w:
            points = np.concatenate(chunks)
            chunks.clear()
            projections.append(project_pca(points))
            last[:] = [points] if layer == spec.layers - 1 else []

    for chunk in in_chunks(spec, inputs):
        read_states(model, spec, chunk, on_states)
    similarity = np.stack([np.concatenate(steps, axis=1) for steps in similarities]) if query_patches else None
    embedding = embed_patches(projections, last[0], seed if "tsne" in embeddings else None) if embeddings else None
    return similarity, embedding


def read_pooled(model: Any, spec: EncoderSpec, inputs: Inputs, progress: Progress = no_progress) -> FloatArray:
    """Return one vector for the whole picture or clip after layers -1, 0 and so on: (E, D) float32.

    It is the state of [CLS], or without [CLS] the mean over the patches; for a clip the mean over its steps.

    Args:
        model: the result of `load_encoder_weights`.
        spec: its specification.
        inputs: the result of `read_inputs`.
        progress: as in `capture_attention`.

    Raises:
        CaptureError: see `read_states`.
    """
    pooled: list[list[FloatArray]] = [[] for _ in range(spec.layers + 1)]
    steps_done = 0

    def on_states(layer: int, states: torch.Tensor) -> None:
        nonlocal steps_done
        vectors = states[:, 0] if "cls" in spec.prefix else states.mean(dim=1)
        pooled[layer + 1].append(vectors.cpu().numpy())
        if layer >= 0:
            steps_done += len(vectors)
            if layers_done := steps_done // inputs.grid[0]:
                progress("encoding", layers_done, spec.layers)

    progress("encoding", 0, spec.layers)
    for chunk in in_chunks(spec, inputs):
        read_states(model, spec, chunk, on_states)
    return np.stack([np.concatenate(steps).mean(axis=0) for steps in pooled])


def capture_and_pool(model: Any, spec: EncoderSpec, inputs: Inputs) -> tuple[EncoderAttention, FloatArray]:
    """Return the attention on a picture and the vectors of `read_pooled`, from one run of the encoder.

    Raises:
        CaptureError: see `capture_attention` and `read_states`.
    """
    accumulator = Accumulator(spec, inputs, sequence_order(model, spec, inputs), (), model.device)
    with keep_encoder_states(model, accumulator):
        pooled = read_pooled(model, spec, inputs)
    return accumulator.attention(), pooled
