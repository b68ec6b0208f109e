"""The shape of the house: who may import whom, and what --help may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qvl_attn"
TORCH_ROOMS = {"model", "capture", "recorder", "memory", "passes", "runs", "origin", "engine", "resize", "selftest"}
TORCH_ROOMS |= {"flow", "probe", "removal", "scramble"}
# Of the room of encoders; a name may stand for a pure room elsewhere.
EYE_TORCH_ROOMS = {"grid_rows", "load", "part", "inputs", "look", "states", "saliency"}
PURE = {
    "types": set(),
    "drawing": {"errors"},
    "errors": set(),
    "select": {"types", "errors"},
    "grid": {"types", "errors"},
    "reduce": {"types", "errors", "select", "grid", "render"},
    "render": {"types", "drawing"},
    "plain": set(),
    "lettering": {"errors", "plain"},
    "numbers": set(),
    "film": {"types", "drawing", "render", "lettering", "plain", "numbers", "figures"},
    "figures": {"types", "drawing", "render", "lettering", "plain", "numbers"},
    "store": {"types", "errors"},
    "media": {"types", "errors", "rgb"},
    "rgb": set(),
    "mp4": set(),
    "footage": set(),
    "sampling": {"errors", "footage"},
    "merge": {"types", "errors", "grid"},
    "accuracy": set(),
    "region": {"types"},
    "metrics": {"region"},
    "rows": set(),
    "profile": {"errors", "select"},
    "calibrate": {"errors", "metrics", "samples", "scoring"},
    "summary": {"metrics", "scoring"},
    "charts": {"render", "lettering"},
    "shard": {"errors", "samples"},
    "ledger": {"errors", "plain", "store"},
    "scores": {"errors", "ledger", "scoring"},
    "compare": {"errors", "ledger", "metrics", "plain", "scores", "scoring", "store", "summary"},
    "answer": {"types"},
    "evidence": {"types"},
    "denoise": {"errors", "types"},
    **{
        f"methods/{path.stem}": {"errors", "types", "evidence", "select", "reduce", "render", "denoise", "methods"}
        for path in (PACKAGE / "methods").glob("*.py")
    },
    "hushed": set(),
    "jpeg": {"render"},
    "report/pack": {"jpeg", "render"},
    "report/page": {"plain", "render", "report"},
    "perturb": {"types"},
    "similarity": set(),
    "eye/families": {"errors"},
    "eye/cost": {"eye"},
    "eye/sight": {"errors", "types"},
    "eye/figures": {"eye"},
    "eye/said": {"eye", "select"},
    "eye/words": {"eye", "numbers"},
    "eye/seen": {"eye", "render"},
    "eye/listing": {"errors", "media"},
    "eye/captioned": {"figures", "lettering", "render"},
    "eye/grid_picture": {"drawing", "eye", "figures", "lettering", "render"},
    "eye/saliency_map": {"drawing", "errors", "eye", "panels", "render", "types"},
    "eye/schema": {"eye", "kept", "sampling", "types"},
    "eye/space": {"errors", "eye", "types"},
    "faithfulness": {"perturb", "types"},
    "exhibit": {"errors", "jpeg", "pictures", "region", "render", "result", "samples", "store", "types"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_torch_is_imported_in_its_rooms_only(path):
    names = {name.partition(".")[0] for name in imports(path)}
    rooms = EYE_TORCH_ROOMS if path.parent.name == "eye" else TORCH_ROOMS
    if path.stem not in rooms and path.parent.name != "cli":
        assert not names & {"torch", "torchvision"}
    if path.parent.name != "cli":
        assert not names & {"typer", "rich"}, "typer and rich live in cli/ and nowhere else"


@pytest.mark.parametrize("room", sorted(PURE))
def test_rooms_import_only_those_before_them(room):
    ours = {name.split(".")[1] for name in imports(PACKAGE / f"{room}.py") if name.startswith("qvl_attn.")}
    assert ours <= PURE[room]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 330


@pytest.mark.parametrize("command", ["ask", "encoder", "render"])
def test_help_imports_neither_torch_nor_numpy(command):
    code = (
        "import sys; from typer.testing import CliRunner; from qvl_attn.cli import app;"
        f"assert CliRunner().invoke(app, ['{command}', '--help']).exit_code == 0;"
        "print(sorted({'torch', 'transformers', 'numpy', 'cv2', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_security_trap_in_the_package():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert not re.search(
        r"trust_remote_code=True|allow_pickle=True|shell=True|import pickle|torch\.load|cv2\.im(read|write)", text
    )


def test_the_demo_stays_small():
    files = [path for path in (PACKAGE / "demo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
