"""Real processes that send themselves a signal at a given call or import, so that no test depends on speed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# New processes import the package of this checkout.
ENV = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
# A guard against hanging, far beyond what the slowest machine needs.
PATIENCE_S = 600


def signal_at_call(function: str, nth: int, number: int) -> str:
    """Return Python code after which the nth call of a function (`module:name`, `module:Class.name`) sends a signal."""
    return (
        "import os, pkgutil\n"
        f"module, _, path = {function!r}.partition(':')\n"
        "*owner, name = path.split('.')\n"
        "owner = pkgutil.resolve_name(':'.join([module, *owner]))\n"
        "original, calls = getattr(owner, name), []\n"
        "def signalling(*args, **options):\n"
        "    calls.append(0)\n"
        f"    if len(calls) == {nth}: os.kill(os.getpid(), {int(number)})\n"
        "    return original(*args, **options)\n"
        "setattr(owner, name, signalling)\n"
    )


def signal_at_import(module: str, number: int) -> str:
    """Return Python code after which the first import of a module sends a signal."""
    return (
        "import os, sys\n"
        "sent = []\n"
        "def hook(event, args):\n"
        f"    if event == 'import' and args[0] == {module!r} and not sent:\n"
        "        sent.append(0)\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(hook)\n"
    )


def start_command(words: Sequence[Any], cwd: Path, code: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start `qvl-attn` in a new process, optionally with Python code that runs first."""
    start = ["-c", f"{code}\nfrom qvl_attn.__main__ import main\nmain()\n"] if code else ["-m", "qvl_attn"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, *start, *map(str, words)], cwd=cwd, text=True, **{"env": ENV} | pipes | options
    )


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until a condition is true; it fails if the process ends before."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "the condition was never true"
        time.sleep(0.002)


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    """Wait until a process has stopped itself with SIGSTOP."""
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, process)
