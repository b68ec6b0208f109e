"""What the benchmarks share: processes of their own, peak memory, and the figures that the documents quote.

With `--write` a benchmark keeps its figures in `docs/figures/<its name>.json`, with the command, the date, the versions
and the machine; `readme.py` beside this file puts them into the README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns in a new process: a process never gives back all its memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def keep_no_freed_blocks() -> None:
    """Let the processes that follow return freed memory at once, unless the environment says otherwise.

    By default glibc keeps freed blocks of up to 32 MiB, and how many differs between runs, independently of attention.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 2**20))


def resident_bytes() -> int:
    """Return the resident size of this process in bytes."""
    return _status_bytes("VmRSS") if _STATUS.exists() else psutil.Process().memory_info().rss


def forget_peak() -> None:
    """Let the peak of this process begin anew."""
    _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the largest resident size of this process in bytes, since its start or since `forget_peak`."""
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def ratio(one: float, other: float) -> float | None:
    """Return one over the other; None where that says nothing, as for no memory at all."""
    return one / other if other > 0 else None


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the median of the ratios of pairs that ran side by side; None if one of them says nothing."""
    ratios = [ratio(one, other) for one, other in zip(ones, others, strict=True)]
    return None if None in ratios else statistics.median(ratios)


def shown(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, with three digits at least before it is rounded to whole ones; None is a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.{digits}f}"


def add_write_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--write`, which keeps the figures for the documents."""
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=FIGURES / f"{name}.json",
        help=f"keep the figures; in docs/figures/{name}.json, if no file is named",
    )


def write_figures(
    path: Path | None,
    name: str,
    arguments: Sequence[str] | None,
    figures: dict[str, float | str],
    tables: dict[str, list[list[str]]] | None = None,
    device: str = "cpu",
) -> None:
    """Keep figures with what made them; without a path, nothing.

    Args:
        path: the file.
        name: the name of the benchmark.
        arguments: its arguments; None for those of this process.
        figures: numbers as the documents quote them, by name.
        tables: rows of cells as the documents show them, by name; the first cell is the row's label.
        device: the device that was measured.
    """
    if path is None:
        return
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--write" in words:
        words = words[: words.index("--write")]
    report = {
        "command": " ".join([*_settings(), "python", f"scripts/benchmarks/{name}.py", *map(shlex.quote, words)]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(device),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("qvl-attn", "torch", "transformers")},
        "figures": figures,
        "tables": tables or {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _settings() -> list[str]:
    threads = os.environ.get("OMP_NUM_THREADS")
    return [f"OMP_NUM_THREADS={threads}"] if threads else []


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine in words: processor, cores, threads, memory, GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }
