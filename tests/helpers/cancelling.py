"""Cancel a run at a chosen place, and compare what a model is like before and after."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import torch

from qvl_attn.model import capture

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def running() -> set[str]:
    """Return the qualified names of the functions that are running in this thread."""
    names, frame = set(), sys._getframe(1)
    while frame is not None:
        names.add(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


class Cancel:
    """A `cancel` that returns true from the `nth` call on in which all of some functions are running.

    Attributes:
        calls: how often it was called.
        matches: in how many calls all of the functions were running.
    """

    def __init__(self, *functions: str, nth: int = 1, also: Callable[[], bool] = lambda: True) -> None:
        self.functions = {*functions}
        self.nth = nth
        self.also = also
        self.calls = self.matches = 0

    def __call__(self) -> bool:
        self.calls += 1
        if self.functions <= running() and self.also():
            self.matches += 1
        return self.matches >= self.nth


def state_of(model: Any) -> dict[str, Any]:
    """Return all that a run could leave behind in a model, in torch and in the package."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy())
    modules = dict(model.named_modules())
    return {
        "weights": digest.hexdigest(),
        "hooks": {name: counts for name, module in modules.items() if any(counts := hook_counts(module))},
        "requires_grad": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "training": [name for name, module in modules.items() if module.training],
        "attention": {
            name: module.config._attn_implementation for name, module in modules.items() if hasattr(module, "config")
        },
        "recorded": [*capture._recorders, *capture._observers],
        "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def hook_counts(module: torch.nn.Module) -> tuple[int, ...]:
    return tuple(len(getattr(module, kind)) for kind in HOOKS)
