"""The device and the precision of a model, and the options that name them. Imports no torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from ctypes import CDLL
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, Literal, TypedDict

import psutil
from safetensors import SafetensorError

from qvl_attn.core.errors import InputError
from qvl_attn.core.options import set_types
from qvl_attn.core.text import argument
from qvl_attn.core.version import __version__
from qvl_attn.model.checkpoint import Checkpoint
from qvl_attn.model.checkpoint_files import weight_counts

PRECISIONS = ("float32", "bfloat16", "float16")
ATTENTION_MODES = ("auto", "eager", "rows")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
# More than torch and transformers take before the free memory is asked for.
SPARE_BYTES = 2 * 2**30


class EncoderLoadOptions(TypedDict, total=False):
    """How a vision encoder is found and loaded.

    Attributes:
        revision: branch, tag or commit of a model on the Hub.
        device: `auto`, the default, `cpu`, `cuda` or `cuda:1`.
        dtype: `auto`, the default, `float32`, `bfloat16` or `float16`. `auto` is bfloat16 on CUDA (float16 on a GPU
            that only emulates it), and float32 on the CPU if the weights fit the free memory.
        offline: whether to work without network access; False by default.
    """

    revision: str | None
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    offline: bool


class LoadOptions(EncoderLoadOptions, total=False):
    """How a model is found and loaded: `EncoderLoadOptions`, and these.

    Attributes:
        device_map: `auto` or another value of transformers, which spreads a model over several GPUs.
        attn: `eager`, the reference; `rows`, SDPA plus the recorded rows alone; `auto`, the default, eager in float32
            if it is estimated to fit the free memory, else rows.
    """

    device_map: str | None
    attn: Literal["auto", "eager", "rows"]


@dataclass(frozen=True)
class LoadSettings:
    """`LoadOptions` with their defaults.

    Raises:
        InputError: an unknown value, or a device beside a device map.
        TypeError: a value of another type.
    """

    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    attn: str = "auto"
    offline: bool = False

    def __post_init__(self) -> None:
        set_types(self)
        if self.attn not in ATTENTION_MODES:
            raise InputError(f"{argument('attn', self.attn)}: unknown", f"write {', '.join(ATTENTION_MODES)}")
        check_options(self.device, self.dtype, self.device_map)


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
        device: as typed: auto, cpu, cuda or cuda:1.
        dtype: as typed: auto, or one of `PRECISIONS`.
        device_map: as typed: one of `DEVICE_MAPS`, or None.

    Raises:
        InputError: an unknown value, or a device beside a device map.
    """
    if dtype != "auto" and dtype not in PRECISIONS:
        raise InputError(f"{argument('dtype', dtype)}: unknown", f"write auto, {', '.join(PRECISIONS)}")
    if device_map is not None and device_map not in DEVICE_MAPS:
        known = "auto, balanced, balanced_low_0 or sequential"
        raise InputError(f"{argument('device_map', device_map)}: unknown", f"write {known}")
    if device_map is not None and device != "auto":
        raise InputError(f"{argument('device', device)} and {argument('device_map', device_map)}: give one of them")
    if device == "mps":
        raise InputError(f"{argument('device', device)}: not supported", f"use {argument('device', 'cpu')}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device, re.ASCII):
        raise InputError(f"{argument('device', device)}: unknown", "write auto, cpu, cuda or cuda:0")


def sure_placement(
    checkpoint: Checkpoint, device: str, dtype: str, device_map: str | None = None
) -> tuple[str, str] | None:
    """Return the device and the precision that torch would choose; None if only torch can tell.

    That is the CPU where it is named or no driver of a GPU is installed; for `auto`, float32 where the weights leave
    plenty of memory.

    Args:
        checkpoint: the model, with its weights.
        device: as in `check_options`.
        dtype: as in `check_options`.
        device_map: as in `check_options`.
    """
    if device_map is not None or device.startswith("cuda") or (device == "auto" and _may_have_gpu()):
        return None
    if dtype != "auto":
        return "cpu", dtype
    try:
        weights = sum(weight_counts(checkpoint.folder).values())
    except (OSError, SafetensorError):
        return None
    plenty = weights > 0 and 4 * weights + SPARE_BYTES < psutil.virtual_memory().available
    return ("cpu", "float32") if plenty else None


def sure_provenance(checkpoint: Checkpoint, load: LoadSettings) -> dict[str, str] | None:
    """Return the fields of the `Provenance` of results of a model that is not loaded; None if only torch can tell.

    Args:
        checkpoint: the model, with its weights.
        load: how it would be loaded.
    """
    placement, torch = sure_placement(checkpoint, load.device, load.dtype, load.device_map), torch_build()
    return None if placement is None or torch is None else made_by(checkpoint, torch["__version__"], *placement)


def made_by(checkpoint: Checkpoint, torch: str, device: str, dtype: str) -> dict[str, str]:
    """Return the fields of a `Provenance`.

    Args:
        checkpoint: the model.
        torch: version of torch.
        device: its device, or the device map.
        dtype: its precision.
    """
    return {
        "qvl_attn": __version__,
        "transformers": version("transformers"),
        "torch": torch,
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": dtype,
        "device": device,
    }


def torch_build() -> Mapping[str, Any] | None:
    """Return the version of torch and what it is built for, without importing it; None if it does not say."""
    torch = find_spec("torch")
    try:
        return run_path(str(Path(torch.origin).with_name("version.py"))) if torch and torch.origin else None
    except Exception:  # whatever another version writes there
        return None


def _may_have_gpu() -> bool:
    """Return whether torch might find a GPU: it is built for one, and the driver that it opens is installed."""
    build = torch_build()
    if build is not None and build.get("cuda", "") is None and build.get("hip", "") is None:
        return False
    if sys.platform != "linux" or Path("/dev/kfd").exists():  # AMD's
        return True
    try:
        CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
