"""What a prompt will cost before it runs, and what to say when the memory ends all the same."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from qvl_attn.capture import BLOCK_ROWS
from qvl_attn.errors import InputError, MemoryLimitError
from qvl_attn.model import DTYPES, Placement
from qvl_attn.prompt import Prompt
from qvl_attn.store import MAX_NPZ_BYTES

_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def forward_bytes(config: Any, length: int, patches: int, item: int) -> int:
    """Estimated peak of one eager forward beyond the weights.

    The largest of the vision tower's block and the language model's, each with what stays alive through it: pixels and
    features there; hidden states, the mask (S, S), keys and values of all layers here. A block of attention holds
    scores, their softmax in float32 and its copy in the model's precision.

    Args:
        config: of the model.
        length: tokens of the prompt, answer included.
        patches: patches of all pictures, before merging.
        item: bytes of a number in the model's precision.
    """
    text, vision = config.text_config, config.vision_config
    head_size = text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * length * item
    attention = text.num_attention_heads * min(BLOCK_ROWS, length) * length * (4 + 2 * item)
    repeated = 2 * text.hidden_size * length * item
    mlp = 3 * text.intermediate_size * length * item
    language = (
        cache + length * length * (item + 1) + 6 * text.hidden_size * length * item + max(attention + repeated, mlp)
    )
    pixels = patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * (4 + item)
    tower = pixels + patches * item * (8 * vision.hidden_size + 3 * vision.intermediate_size)
    return int(max(language, tower))


def free_bytes(placement: Placement) -> int:
    """Memory that is free where the model runs."""
    if placement.device.startswith("cuda"):
        device = torch.device(placement.device)
        # What torch keeps for itself but does not use is free for the next question.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


def check_fits(
    config: Any, placement: Placement, prompt: Prompt, max_new_tokens: int, kept_rows: int, *, weights_loaded: bool
) -> None:
    """Refuse a prompt that is longer than the context or whose estimate is over the free memory.

    Args:
        config: of the model.
        placement: where it runs.
        prompt: what is asked.
        max_new_tokens: how many tokens may follow.
        kept_rows: rows of attention that are recorded, over all layers, and heads where they are kept apart.
        weights_loaded: whether the weights are in memory already.

    Raises:
        InputError: longer than the model's context.
        MemoryLimitError: the estimate is over the memory; the hint names the `--max-pixels` that fits.
    """
    text, vision = config.text_config, config.vision_config
    context: int = text.max_position_embeddings
    item = DTYPES[placement.dtype].itemsize
    cell_px = (vision.patch_size * vision.spatial_merge_size) ** 2
    words = prompt.length - sum(grid.cells for grid in prompt.grids) + max_new_tokens
    pictures = len(prompt.grids)

    if prompt.length + max_new_tokens > context:
        room = max(0, context - words) // pictures
        raise InputError(
            f"the prompt is {prompt.length} tokens and {max_new_tokens} may follow; the model's context is {context}",
            f"--max-pixels {room * cell_px} fits" if room >= 4 else "shorten the question",
        )
    # Over several GPUs each holds a share that is not known before the weights are placed.
    on_gpu = placement.device.startswith("cuda")
    if placement.device_map is not None and on_gpu:
        return

    def needed(cells: int) -> int:
        forward: int = forward_bytes(config, cells + words, cells * vision.spatial_merge_size**2, item)
        logits = 4 * max_new_tokens * int(text.vocab_size)
        # Rows are recorded in the host's memory, once as they come and once joined.
        return forward + logits + (0 if on_gpu else 2 * 4 * kept_rows * cells)

    free = free_bytes(placement)
    if not weights_loaded:
        free -= placement.weight_bytes
    cells = prompt.length + max_new_tokens - words
    if 4 * kept_rows * cells > MAX_NPZ_BYTES:
        raise MemoryLimitError(
            f"{kept_rows} rows of attention on {cells} vision tokens are {4 * kept_rows * cells / 2**30:.1f} GiB, "
            f"more than a result may hold ({MAX_NPZ_BYTES >> 30} GiB)",
            "name fewer --layers, no --heads, or a lower --max-pixels",
        )
    if needed(cells) <= free:
        return
    low, high = 0, cells
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= free else (low, middle)
    fits = low // pictures * cell_px
    raise MemoryLimitError(
        f"{cells} vision tokens need about {needed(cells) / 2**30:.1f} GiB beside the weights, "
        f"{max(free, 0) / 2**30:.1f} are free",
        f"--max-pixels {fits} fits" if fits >= 4 * cell_px else "take a smaller model",
    )


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
