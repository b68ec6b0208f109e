"""The folder of a look: its name, what is written into it, and how it is read back."""

from __future__ import annotations

from pathlib import Path

from qvl_attn.drawing import Drawing
from qvl_attn.eye.result import Look
from qvl_attn.progress import Progress, untold


def save_look(look: Look, out: Path, drawing: Drawing, *, overwrite: bool = False, progress: Progress = untold) -> Path:
    """Draw and write a look into its folder inside `out`."""
    raise NotImplementedError


def load_look(folder: Path) -> Look:
    """Read a look back."""
    raise NotImplementedError
