"""The shape of the house: the order of the wings, no circles, where heavy libraries live, what --help may cost."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers.import_graph import (
    PACKAGE,
    circles,
    depth,
    figures,
    import_graph,
    imported_names,
    module_files,
    sources,
)

# Each may import those before it, never those after it. What names several may not import among themselves.
ORDER = (
    "core",
    "media",
    "demo",
    "model",
    "attribution",
    "render",
    "results",
    ("vqa", "encoders"),
    "audit",
    "evaluation",
    ("analyzer", "encoder"),
    ("selftest", "report"),
    "app",
    "cli",
)
# May be named by anything: it imports lazily, so that names are at hand without their cost.
FACES = {"qvl_attn", "qvl_attn.__main__"}
ENCODERS = ("capture", "hidden_states", "inputs", "loading", "saliency")
VQA = ("batching", "engine", "explain", "sanity")
TORCH = ("model", *(f"encoders.{name}" for name in ENCODERS), *(f"vqa.{name}" for name in VQA), "selftest")
MAY_IMPORT = {
    "torch": (*TORCH, "cli.selftest"),
    "torchvision": ("model",),
    "transformers": ("model", "vqa.batching", "encoders.loading", "selftest", "cli"),
    "typer": ("cli",),
    "rich": ("cli",),
}
# Saved results are drawn, reported and compared without these.
LIGHT = ("qvl_attn.vqa.redraw", "qvl_attn.encoders.result", "qvl_attn.report", "qvl_attn.evaluation.compare")
GRAPH = import_graph()
PLACE = {wing: i for i, level in enumerate(ORDER) for wing in ([level] if isinstance(level, str) else level)}


def wing(module: str) -> str:
    return module.split(".")[1]


def test_every_file_is_in_a_wing():
    assert {wing(module) for module in GRAPH.keys() - FACES} <= PLACE.keys()


def against_the_order(graph) -> list[str]:
    """Imports of a later wing, or of another wing of the same level."""
    return [
        f"{module} imports {other}"
        for module in sorted(graph.keys() - FACES)
        for other in sorted(graph[module] - FACES)
        if PLACE[wing(other)] > PLACE[wing(module)]
        or (PLACE[wing(other)] == PLACE[wing(module)] and wing(other) != wing(module))
    ]


def test_wings_import_those_before_them():
    assert against_the_order(GRAPH) == []
    assert against_the_order({"qvl_attn.vqa.a": {"qvl_attn.encoders.b"}, "qvl_attn.encoders.b": set()})
    assert against_the_order({"qvl_attn.core.a": {"qvl_attn.cli.b"}, "qvl_attn.cli.b": set()})


def test_no_import_runs_in_a_circle():
    assert circles(GRAPH) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_lazy_imports_and_those_for_types_count(tmp_path):
    for name, line in {
        "a": "def f():\n    from p import b",
        "b": "if TYPE_CHECKING:\n    from p.c import x",
        "c": "",
    }.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(line, encoding="utf-8")
    graph = import_graph(tmp_path / "p")
    assert graph == {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}
    assert depth(graph) == 3
    assert "circles: none" in figures(tmp_path / "p")


def test_heavy_libraries_stay_in_their_rooms():
    for module, path in module_files().items():
        used = {name.partition(".")[0] for name in imported_names(path)} & MAY_IMPORT.keys()
        for library in used:
            homes = tuple(f"qvl_attn.{home}" for home in MAY_IMPORT[library])
            assert any(module == home or module.startswith(f"{home}.") for home in homes), f"{module}: {library}"


@pytest.mark.parametrize("module", LIGHT)
def test_saved_results_need_no_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_files_stay_readable():
    assert not [path.name for path in sources() if len(path.read_text(encoding="utf-8").splitlines()) > 500]


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
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    assert not re.search(
        r"trust_remote_code=True|allow_pickle=True|shell=True|import pickle|torch\.load|cv2\.im(read|write)", text
    )


def test_the_demo_stays_small():
    files = [path for path in (PACKAGE / "demo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
