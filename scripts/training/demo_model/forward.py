"""The forward pass and the losses of training, with the modules of the transformers model.

The vision encoder computes all windows of one shape together, and the patch embedding as a matrix product; the language
model is unchanged. No loss depends on an attention map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, mse_loss, scaled_dot_product_attention
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from demo_model.lessons import MOST_OF_A_KIND, NOTHING, STATES, Lesson
from demo_model.packing import Packed
from qvl_attn.demo.scenes import COLORS, SHAPES

GROUND_WEIGHT = 0.3
# The layer of the language model after which the auxiliary heads read the vision tokens.
READ_AFTER = 2


@dataclass(frozen=True)
class Losses:
    """Mean losses, and for each question whether all its answer tokens are correct under teacher forcing."""

    answer: torch.Tensor
    inventory: torch.Tensor
    cells: torch.Tensor
    place: torch.Tensor
    state: torch.Tensor
    correct: torch.Tensor


class Heads(nn.Module):
    """Auxiliary classifiers, used in training only.

    For each cell: shape, colour, position and state; for each token of a question: the number of things of each shape
    and colour.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shapes = nn.Linear(width, 2 * (len(SHAPES) + 1))
        self.colors = nn.Linear(width, 2 * (len(COLORS) + 1))
        self.place = nn.Linear(width, 3)
        self.state = nn.Linear(width, len(STATES) + 1)
        self.inventory = nn.Linear(width, (len(SHAPES) + len(COLORS)) * (MOST_OF_A_KIND + 1))


def _windows(rows: int, columns: int, side: int) -> Iterator[torch.Tensor]:
    """Yield the cell numbers, (windows, cells), of all windows of one shape, for each of up to four shapes."""
    cells = torch.arange(rows * columns).view(rows, columns)
    for band in (cells[: rows // side * side], cells[rows // side * side :]):
        for block in (band[:, : columns // side * side], band[:, columns // side * side :]):
            if block.numel():
                height, width = min(side, block.shape[0]), min(side, block.shape[1])
                windows = block.unfold(0, height, height).unfold(1, width, width)
                yield windows.reshape(-1, height * width)


def encode(visual: nn.Module, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Run the vision encoder on B pictures of one size: (B, rows * columns, width), in cell order."""
    config = visual.config
    merge = config.spatial_merge_size
    windows = list(_windows(rows, columns, config.window_size // merge // config.patch_size))
    order = torch.cat([window.ravel() for window in windows])
    patch_order = (order[:, None] * merge**2 + torch.arange(merge**2)).ravel()
    y, x = (
        axis.view(rows, merge, columns, merge).transpose(1, 2).ravel()[patch_order]
        for axis in torch.meshgrid(torch.arange(rows * merge), torch.arange(columns * merge), indexing="ij")
    )
    device = patches.device
    hidden = linear(patches[:, patch_order.to(device)], visual.patch_embed.proj.weight.flatten(1))
    # The module's own forward differs between versions of transformers.
    angles = (torch.stack([y, x], dim=-1).to(device)[..., None] * visual.rotary_pos_emb.inv_freq).flatten(-2)
    cos, sin = (values.repeat(1, 2) for values in (angles.cos(), angles.sin()))
    for number, block in enumerate(visual.blocks):
        attention = block.attn
        normed = block.norm1(hidden)
        query, key, value = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1)).unbind(-3)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        if number in config.fullatt_block_indexes:
            mixed = _attend(query, key, value)
        else:
            sizes = [window.numel() * merge**2 for window in windows]
            parts = zip(*(tensor.split(sizes, dim=1) for tensor in (query, key, value)), windows, strict=True)
            mixed = torch.cat([_attend_in_windows(q, k, v, len(window)) for q, k, v, window in parts], dim=1)
        hidden = hidden + attention.proj(mixed.flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged = visual.merger(hidden).view(len(patches), rows * columns, -1)
    return merged[:, torch.argsort(order).to(device)]


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention with inputs and output of shape (B, n, heads, d)."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attend_in_windows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, windows: int) -> torch.Tensor:
    q, k, v = (tensor.unflatten(1, (windows, -1)).flatten(0, 1) for tensor in (query, key, value))
    return _attend(q, k, v).unflatten(0, (-1, windows)).flatten(1, 2)


def cell_loss(heads: Heads, cells: torch.Tensor, lesson: Lesson) -> torch.Tensor:
    """Cross-entropy of shape and colour from each cell (N, V, width), in both frames of its step."""
    total = cells.new_zeros(())
    for head, labels in ((heads.shapes, lesson.shapes), (heads.colors, lesson.colors)):
        scores = head(cells).unflatten(-1, (2, -1))
        total = total + _class_loss(scores, torch.from_numpy(labels).to(cells.device))
    return total


def _class_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weight = scores.new_ones(scores.shape[-1])
    weight[-1] = GROUND_WEIGHT
    if bool((labels == NOTHING).all()):
        return scores.sum() * 0
    return cross_entropy(scores.flatten(0, -2), labels.ravel(), weight=weight, ignore_index=NOTHING)


def _places(lesson: Lesson) -> torch.Tensor:
    """Return (V, 3): step, row and column of each cell, from -1 to 1 over the clip and the picture."""
    pictures, *sizes = lesson.grid
    axes = [(torch.arange(size) + 0.5) / size * 2 - 1 for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2).repeat(pictures, 1)


def compute_losses(
    model: Qwen2_5_VLForConditionalGeneration, heads: Heads, lesson: Lesson, patches: torch.Tensor, packed: Packed
) -> Losses:
    """Return all losses of one lesson, on the model's device."""
    _, _, rows, columns = lesson.grid
    encoded = encode(model.model.visual, patches, rows, columns)
    samples = len(lesson.questions)
    cells = encoded.reshape(samples, -1, encoded.shape[-1])
    embedded = model.get_input_embeddings()(packed.ids).index_copy(1, packed.vision, cells)
    out = model.model.language_model(
        inputs_embeds=embedded,
        position_ids=packed.positions,
        attention_mask=packed.visible,
        use_cache=False,
        output_hidden_states=True,
    )
    sample, position = packed.asks.T
    scores = model.lm_head(out.last_hidden_state[sample, position])
    token_losses = cross_entropy(scores, packed.answers, reduction="none") * packed.weights
    wrong = torch.zeros(int(packed.question[-1]) + 1, device=scores.device)
    wrong.index_add_(0, packed.question, (scores.argmax(-1) != packed.answers).float())
    sample, position = packed.words.T
    inventory_scores = heads.inventory(out.last_hidden_state[sample, position]).unflatten(-1, (-1, MOST_OF_A_KIND + 1))
    inventory = torch.from_numpy(lesson.inventory).to(inventory_scores.device)[sample]
    hidden = out.hidden_states[READ_AFTER][:, packed.vision]
    places = _places(lesson).to(hidden.device)
    return Losses(
        answer=token_losses.sum() / len(wrong),
        inventory=cross_entropy(inventory_scores.flatten(0, 1), inventory.ravel()),
        cells=cell_loss(heads, cells, lesson),
        place=mse_loss(heads.place(hidden), places.expand(samples, -1, -1)),
        state=_class_loss(heads.state(hidden), torch.from_numpy(lesson.states).to(hidden.device)),
        correct=wrong == 0,
    )
