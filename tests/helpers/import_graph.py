"""The package's import graph, read from its source: who imports whom, circles, depth.

`python -m tests.helpers.import_graph [FOLDER]` prints its figures, of `qvl_attn/` by default.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "qvl_attn"
Graph = Mapping[str, frozenset[str]]


def module_files(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module by its dotted name."""
    names = {
        path: ".".join((package.name, *path.relative_to(package).with_suffix("").parts)) for path in sources(package)
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def sources(package: Path = PACKAGE) -> list[Path]:
    """The package's Python files."""
    return sorted(package.rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """All dotted names that a file imports: at its top, inside functions, and for types alone."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph(package: Path = PACKAGE) -> Graph:
    """For each module the modules of the package that it imports.

    To import `a.b.c` is to import `a` and `a.b` as well: these packages' own files count, except the top one's, which
    imports lazily.
    """
    modules = module_files(package)
    graph = {}
    for module, path in modules.items():
        named = {name if name in modules else name.rpartition(".")[0] for name in imported_names(path)} & modules.keys()
        parents = {parent for name in (*named, module) for parent in _parents(name)} & modules.keys()
        graph[module] = frozenset(named | parents) - {module}
    return graph


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(2, len(parts))]


def circles(graph: Graph) -> list[set[str]]:
    """The groups of modules that import each other, directly or through others (each reaches the other)."""
    reach = {module: _reachable(graph, module) for module in graph}
    groups = {frozenset({module, *(other for other in reach[module] if module in reach[other])}) for module in graph}
    return [set(group) for group in groups if len(group) > 1]


def _reachable(graph: Graph, module: str) -> set[str]:
    seen, waiting = set(), [module]
    while waiting:
        for other in graph[waiting.pop()]:
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def depth(graph: Graph) -> int:
    """How many modules the longest chain of imports has. A circle counts with all its modules."""
    member = {module: min(group) for group in circles(graph) for module in group}
    size: dict[str, int] = {}
    merged: dict[str, set[str]] = {}
    for module, imported in graph.items():
        own = member.get(module, module)
        size[own] = size.get(own, 0) + 1
        merged.setdefault(own, set()).update({member.get(other, other) for other in imported} - {own})
    levels: dict[str, int] = {}
    for module in TopologicalSorter(merged).static_order():
        levels[module] = size[module] + max((levels[other] for other in merged[module]), default=0)
    return max(levels.values())


def figures(package: Path) -> str:
    """Files, lines, names at the top, circles and depth, a line each."""
    graph, files = import_graph(package), sources(package)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    top = [path.name for path in package.iterdir() if path.name != "__pycache__"]
    sizes = sorted((len(group) for group in circles(graph)), reverse=True)
    return "\n".join(
        (
            f"files: {len(files)}",
            f"lines: {lines}",
            f"longest file: {max(len(path.read_text(encoding='utf-8').splitlines()) for path in files)} lines",
            f"names at the top: {len(top)}",
            f"circles: {sizes or 'none'}",
            f"depth: {depth(graph)}",
        )
    )


if __name__ == "__main__":
    print(figures(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE))
