"""Layers that forget what they learned, for a while.

A map that shows what a model has learned must change with its weights. Adebayo et al. 2018 (arXiv 1810.03292) draw them
anew; here each tensor's elements change places, so that it keeps its distribution and no second copy is needed: the
permutation comes from a seed, and is undone by drawing it once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from qvl_attn.core.errors import MemoryLimitError


@contextmanager
def scrambled(layers: Sequence[torch.nn.Module], seed: int) -> Iterator[None]:
    """Shuffle the elements of each parameter of some layers while this lasts; afterwards every bit is as it was.

    The n-th parameter is shuffled in the same way whatever comes behind it. One whose elements are all equal, as of a
    norm that was never trained, stays what it is. Needs the memory of one tensor, and of its places in int64.

    Args:
        layers: whose parameters to shuffle, each once, however often it is there.
        seed: of the permutations.

    Raises:
        MemoryLimitError: a parameter is not in memory.
    """
    parameters = list(dict.fromkeys(one for layer in layers for one in layer.parameters()))
    if any(one.is_meta for one in parameters):
        raise MemoryLimitError("some weights are on the disk, where they cannot be shuffled", "take a smaller model")
    with ExitStack() as stack:
        for number, parameter in enumerate(parameters):
            _shuffle(parameter, seed + number)
            stack.callback(_put_back, parameter, seed + number)
        yield


def _places(parameter: torch.Tensor, seed: int) -> torch.Tensor:
    """(elements,) from which place each element comes."""
    generator = torch.Generator(parameter.device).manual_seed(seed)
    return torch.randperm(parameter.numel(), generator=generator, device=parameter.device)


@torch.no_grad()
def _shuffle(parameter: torch.Tensor, seed: int) -> None:
    parameter.copy_(parameter.reshape(-1)[_places(parameter, seed)].reshape(parameter.shape))


@torch.no_grad()
def _put_back(parameter: torch.Tensor, seed: int) -> None:
    elements = torch.empty_like(parameter.reshape(-1))
    elements[_places(parameter, seed)] = parameter.reshape(-1)
    parameter.copy_(elements.reshape(parameter.shape))
