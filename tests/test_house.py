"""The structure of the package: the order of its parts, no circles, homes of heavy libraries, what --help costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

import qvl_attn
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

# Each part may import those before it, never those after it. Parts of one level do not import each other. `audit` and
# `app` do not exist yet.
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
    ("selftest", "kinds"),
    "report",
    "app",
    "cli",
)
# They import lazily, so that names are available without their cost.
FACES = {"qvl_attn", "qvl_attn.__main__"}
ENCODERS = ("capture", "hidden_states", "inputs", "loading", "saliency")
VQA = ("batching", "engine", "explain", "sanity")
MODEL = ("cancellation", "capture", "generate", "loading", "memory", "preprocess", "probe", "recorder")
TORCH = (
    *(f"model.{name}" for name in MODEL),
    *(f"encoders.{name}" for name in ENCODERS),
    *(f"vqa.{name}" for name in VQA),
    "selftest",
)
MAY_IMPORT = {
    "torch": (*TORCH, "cli.selftest"),
    "torchvision": ("model.preprocess",),
    "qwen_vl_utils": ("model.preprocess", "model.prompt", "encoders.inputs"),  # imports torch
    "transformers": (
        *(f"model.{name}" for name in ("capture", "generate", "loading", "positions", "released")),
        *("vqa.batching", "encoders.loading", "selftest", "cli.console", "cli.selftest"),
    ),
    "matplotlib": (
        "render.charts",
        "results.timeline",
        *(f"encoders.{name}" for name in ("charts", "embedding_charts", "timeline")),
    ),
    "typer": ("cli",),
    "rich": ("cli",),
}
# What the order alone would allow.
FORBIDDEN = {("media", "demo"), ("model", "demo"), ("attribution", "demo"), ("render", "demo"), ("render", "model")}
# Saved results are found, drawn, reported and compared without torch and transformers.
LIGHT = (
    "qvl_attn.vqa.session",
    "qvl_attn.encoders.session",
    "qvl_attn.results.redraw",
    "qvl_attn.encoders.result",
    "qvl_attn.kinds",
    "qvl_attn.report",
    "qvl_attn.evaluation.compare",
)
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


def test_parts_do_not_know_what_they_need_not_know():
    pairs = {(wing(module), wing(other)) for module in GRAPH.keys() - FACES for other in GRAPH[module] - FACES}
    assert not pairs & FORBIDDEN
    attribution = [module for module in GRAPH.keys() - FACES if wing(module) == "attribution"]
    used = {other for module in attribution for other in GRAPH[module] if wing(other) in ("model", "media")}
    assert used <= {"qvl_attn.model", "qvl_attn.media", "qvl_attn.model.signals", "qvl_attn.media.sampling"}


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
        "import sys; from typer.testing import CliRunner; from qvl_attn.cli.app import app;"
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


def test_relative_imports_are_refused(tmp_path):
    for line in ("from . import b", "from .. import b", "from .b import c"):
        (tmp_path / "a.py").write_text(line, encoding="utf-8")
        with pytest.raises(AssertionError, match="relative"):
            imported_names(tmp_path / "a.py")


def test_packages_count_where_their_modules_are_imported(tmp_path):
    (tmp_path / "p" / "q").mkdir(parents=True)
    (tmp_path / "p" / "q" / "__init__.py").write_text("from p.q.a import x", encoding="utf-8")
    (tmp_path / "p" / "q" / "a.py").write_text("x = 1", encoding="utf-8")
    assert circles(import_graph(tmp_path / "p")) == [{"p.q", "p.q.a"}]


def test_every_progress_is_the_one_protocol():
    arguments = {
        (module, ast.unparse(argument.annotation) if argument.annotation else "")
        for module, path in module_files().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.arg == "progress"
    }
    assert len(arguments) > 20
    assert {annotation for _, annotation in arguments} == {"Progress", "Progress | None"}, arguments


def test_modules_are_not_imported_by_name():
    """The graph cannot see it; the lazy names of the package itself are those that type checkers see."""
    for module, path in module_files().items():
        text = path.read_text(encoding="utf-8")
        if module != "qvl_attn":
            assert not re.search(r"import_module\((?!type\()|__import__\(", text), module
    seen_by_type_checkers = {name for name in imported_names(PACKAGE / "__init__.py") if name.startswith("qvl_attn.")}
    lazy = {f"qvl_attn.{home}.{name}" for name, home in qvl_attn._MODULES.items()}
    assert lazy == seen_by_type_checkers - {"qvl_attn.core.version.__version__"}
