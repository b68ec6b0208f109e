"""What memory is free, and what to say when it ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from qvl_attn.errors import MemoryLimitError
from qvl_attn.model import Placement

_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def free_bytes(placement: Placement) -> int:
    """Memory that is free where the model runs."""
    if placement.device.startswith("cuda"):
        device = torch.device(placement.device)
        # What torch keeps for itself but does not use is free for the next question.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


@contextmanager
def on_device(placement: Placement, tokens: int) -> Iterator[None]:
    """Turn an out-of-memory fault into one line, with the device's memory given back.

    Raises:
        MemoryLimitError: the memory ended.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _MEMORY_WORDS):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise MemoryLimitError(
        f"out of memory on {placement.device}" + (f" with a prompt of {tokens} tokens" if tokens else ""),
        "lower --max-pixels, or take a smaller model",
    )
