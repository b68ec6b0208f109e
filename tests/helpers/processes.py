"""Real processes that send themselves a signal at a given call or import, so that no test depends on speed."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

ROOT = Path(__file__).resolve().parents[2]
# New processes import the package of this checkout.
ENV = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
# A guard against hanging, far beyond what the slowest machine needs.
PATIENCE_S = 600
# What takes a new process seconds to import, before anything of ours runs.
LIBRARIES = (
    "pydantic.type_adapter",
    "torch",
    "transformers.generation.utils",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "qvl_attn.analyzer",
    "qvl_attn.cli.app",
)


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


class Command(ForkServerProcess):
    """`qvl-attn` in a new process, forked from one that has imported the libraries; it is used like a `Popen`."""

    def __init__(self, words: Sequence[Any], cwd: Path, code: str) -> None:
        super().__init__(daemon=True)
        self.args, self.cwd, self.code = ["qvl-attn", *map(str, words)], cwd, code
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder)

    def run(self) -> None:
        """Run the command, in the process that was forked."""
        for number in (1, 2):
            os.dup2(os.open(self.folder / str(number), os.O_WRONLY | os.O_CREAT), number)
        os.chdir(self.cwd)
        sys.argv = self.args
        exec(self.code, {})
        from qvl_attn.__main__ import main

        main()

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float) -> int:
        self.join(timeout)
        assert self.exitcode is not None, f"still running after {timeout} s: {self.args}"
        return int(self.exitcode)

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        self.wait(timeout)
        out, err = ((self.folder / str(number)).read_text(encoding="utf-8") for number in (1, 2))
        return out, err

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Wait until the command ends."""
        output = self.communicate()
        return subprocess.CompletedProcess(self.args, self.returncode, *output)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


@cache
def _import_libraries() -> None:
    multiprocessing.forkserver.set_forkserver_preload([*LIBRARIES])
    with patch.dict(os.environ, ENV, clear=True):
        multiprocessing.forkserver.ensure_running()
    # A process that a failed test left stopped would be waited for.
    atexit.register(lambda: [process.kill() for process in multiprocessing.active_children()])


def start_command(words: Sequence[Any], cwd: Path, code: str = "") -> Command:
    """Start `qvl-attn` in a process that has imported the libraries, optionally with Python code that runs first."""
    _import_libraries()
    command = Command(words, cwd, code)
    command.start()
    return command


def start_python(words: Sequence[Any], cwd: Path, code: str = "") -> subprocess.Popen[str]:
    """Start `qvl-attn` in a new Python, optionally with Python code that runs before its first import."""
    start = ["-c", f"{code}\nfrom qvl_attn.__main__ import main\nmain()\n"] if code else ["-m", "qvl_attn"]
    return subprocess.Popen(
        [sys.executable, *start, *map(str, words)],
        cwd=cwd,
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str] | Command) -> None:
    """Wait until a condition is true; it fails if the process ends before."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "the condition was never true"
        time.sleep(0.002)


def wait_until_stopped(process: subprocess.Popen[str] | Command) -> None:
    """Wait until a process has stopped itself with SIGSTOP."""
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, process)
