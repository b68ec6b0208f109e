"""End the run of a model between two of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qvl_attn.core.runtime import CANCEL


@contextmanager
def cancellable(model: torch.nn.Module) -> Iterator[None]:
    """Inside a `cancelling` block, ask after each layer of a model whether to end, in forward and backward passes.

    A layer is a member of a `ModuleList`: a vision block or a decoder layer. Outside of a `cancelling` block the layers
    get no hooks; after this block they have none.

    Raises:
        Cancelled: the caller's `cancel()` returned true.
    """
    end_if_cancelled = CANCEL.get()
    if end_if_cancelled is None:
        yield
        return

    def after(module: Any, args: Any, output: Any) -> None:
        del module, args
        end_if_cancelled()
        states = output[0] if isinstance(output, tuple) else output
        if isinstance(states, torch.Tensor) and states.requires_grad:
            states.register_hook(lambda gradient: end_if_cancelled())  # type: ignore[no-untyped-call]

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    hooks = [layer.register_forward_hook(after) for layers in lists for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
