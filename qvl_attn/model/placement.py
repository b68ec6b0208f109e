"""The device and the precision of a model, and the options that name them. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvl_attn.core.errors import InputError

PRECISIONS = ("float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Device and precision of a model, the size of its weights there, and the reason for the choice."""

    device: str
    dtype: str
    device_map: str | None
    weight_bytes: int
    reason: str


def check_options(device: str, dtype: str, device_map: str | None) -> None:
    """Check the form of the options; whether such a GPU exists is checked where the model is placed.

    Args:
        device: the value of `--device`.
        dtype: the value of `--dtype`.
        device_map: the value of `--device-map`.

    Raises:
        InputError: an unknown value, or a device beside a device map.
    """
    if dtype != "auto" and dtype not in PRECISIONS:
        raise InputError(f"--dtype {dtype}: unknown", f"write auto, {', '.join(PRECISIONS)}")
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise InputError(f"--device-map {device_map}: unknown", "write auto, balanced, balanced_low_0 or sequential")
    if device_map is not None and device != "auto":
        raise InputError(f"--device {device} and --device-map {device_map}: give one of them")
    if device == "mps":
        raise InputError("--device mps: not supported", "use --device cpu")
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device, re.ASCII):
        raise InputError(f"--device {device}: unknown", "write auto, cpu, cuda or cuda:0")
