"""Products of a vector with a layer's whole attention matrix, a block of its rows at a time.

What a layer attended with is kept, which grows with the tokens; of the matrix itself, which grows with their square,
there is never more than a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from qvl_attn.model.capture import attention_rows, visible
from qvl_attn.model.memory import BLOCK_ROWS
from qvl_attn.model.signals import Floats, Product


@dataclass(eq=False)
class _Kept:
    """Of one layer: query (1, H, S, D), key and value (1, K, S, D), the mask, and the gradient of what it gave."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor | None
    mask: torch.Tensor | None
    scaling: float
    gradient: torch.Tensor | None = None


class Flow:
    """Keeps what each layer attends with; an `Observer` of one prompt.

    Args:
        differentiate: keep values and gradients as well. A backward pass is to follow.
        causal: whether a token without a mask sees what came before it alone, and not all tokens as in an encoder.
    """

    def __init__(self, *, differentiate: bool, causal: bool = True) -> None:
        self._differentiate = differentiate
        self._causal = causal
        self._layers: dict[int, _Kept] = {}

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
        kept = value.detach() if self._differentiate else None
        self._layers[layer] = _Kept(query.detach(), key.detach(), kept, mask, scaling)
        if self._differentiate:
            output.register_hook(partial(self._keep_gradient, layer))  # type: ignore[no-untyped-call]

    def _keep_gradient(self, layer: int, gradient: torch.Tensor) -> None:
        self._layers[layer].gradient = gradient.transpose(1, 2)  # as the query lies

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Of what each layer's heads gave."""
        return tuple(kept.gradient for kept in self._layers.values() if kept.gradient is not None)

    def attention(self) -> tuple[Product, ...]:
        """For each layer r -> r A, with A the mean over heads."""
        return self._products(relevant=False)

    def relevance(self) -> tuple[Product, ...]:
        """For each layer r -> r mean over heads of (A * dy/dA)+ (Chefer et al. 2103.15679, equation 5)."""
        return self._products(relevant=True)

    def _products(self, *, relevant: bool) -> tuple[Product, ...]:
        kept = [self._layers[layer] for layer in sorted(self._layers)]
        return tuple(partial(_product, one, relevant=relevant, causal=self._causal) for one in kept)


def _product(kept: _Kept, vector: Floats, *, relevant: bool, causal: bool) -> Floats:
    row = torch.from_numpy(np.ascontiguousarray(vector)).to(kept.query.device, torch.float32)
    product = torch.zeros(kept.key.shape[2], device=kept.query.device)
    for block in _blocks(row):
        masked = causal or kept.mask is not None
        seen = visible(kept.mask, kept.query, kept.key, block)[0, 0] if masked else None
        weights = attention_rows(kept.query[0][:, block], kept.key[0], kept.scaling, seen)
        if relevant:
            weights = weights.mul_(_gradient_rows(kept, block)).clamp_(min=0)
        product += row[block] @ weights.mean(dim=0)
    found: Floats = product.double().cpu().numpy()
    return found


def _blocks(row: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rows that count at all, some at a time."""
    some = row.nonzero()[:, 0]
    for start in range(0, len(some), BLOCK_ROWS):
        yield some[start : start + BLOCK_ROWS]


def _gradient_rows(kept: _Kept, block: torch.Tensor) -> torch.Tensor:
    """(H, R, keys) gradient with respect to rows of the attention: what the heads give is A V, so dy/dA = dy/dO V^T."""
    assert kept.gradient is not None
    assert kept.value is not None
    gradient, value = kept.gradient[0][:, block].float(), kept.value[0].float()
    heads, rows, size = gradient.shape
    grouped = gradient.reshape(len(value), heads // len(value) * rows, size)
    return (grouped @ value.transpose(1, 2)).view(heads, rows, -1)
