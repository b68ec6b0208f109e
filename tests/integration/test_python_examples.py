"""The Python examples of the READMEs and of the package's docstring run as they stand, and show all that is public."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from PIL import Image

import qvl_attn
from qvl_attn.demo.dataset import write_dataset
from tests.conftest import DEMO_PICTURES

ROOT = Path(__file__).parents[2]
HEADINGS = {"README.md": "## From Python", "README.zh-CN.md": "## 在 Python 里"}
# For the package's own use: they take what is parsed, where `heatmaps` takes what users write, make the page that
# `make_report` writes, or read a folder whose `result.json` is parsed already.
OF_PACKAGE = {"page", "chosen", "headline_heads", "method_maps", "plain_maps", "query_rows"}
OF_PACKAGE |= {"load_with", "saved_json", "schema"}


def section(name: str) -> str:
    """Return the section about Python."""
    return re.split(f"^{HEADINGS[name]}$", (ROOT / name).read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]


def example(name: str) -> str:
    """Return the Python code of the section."""
    return "\n".join(re.findall(r"```python\n(.*?)```", section(name), flags=re.DOTALL))


def called(code: str, values: dict[str, Any]) -> tuple[set[object], set[str]]:
    """Return the functions that code calls by a name, or on a named object, and the keywords that it gives.

    Args:
        code: the code.
        values: its variables, after it ran.
    """
    functions, keywords = set(), set()
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        keywords |= {keyword.arg for keyword in call.keywords}
        if isinstance(call.func, ast.Name):
            functions.add(values.get(call.func.id))
        elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            owner = values.get(call.func.value.id)
            functions.add(plain(getattr(owner, call.func.attr, None)))
    return functions, keywords


def plain(function: Any) -> object:
    """Return a function itself, of a bound method, too."""
    return getattr(function, "__func__", function)


def public_functions() -> dict[str, object]:
    """Return the functions of the package, and the methods of the classes that do the work and that hold results."""
    found = {name: value for name in qvl_attn.__all__ if isinstance(value := getattr(qvl_attn, name), FunctionType)}
    for kind in (qvl_attn.Analyzer, qvl_attn.Encoder, qvl_attn.Result, qvl_attn.EncoderResult):
        names = [name for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name))]
        found |= {f"{kind.__name__}.{name}": plain(getattr(kind, name)) for name in names if name not in OF_PACKAGE}
    return found


@pytest.fixture
def folder(tmp_path, clip_file, monkeypatch):
    """A folder with the files that the examples name, which is also the current one."""
    clip = clip_file(8)
    folder = tmp_path / "scenes"
    write_dataset(folder, 2)
    clip.rename(folder / clip.name)
    cats = Image.open(DEMO_PICTURES / "cats.png").convert("RGB")
    for name in ("cats.png", "a.jpg", "b.jpg", "photos/cats/1.png", "photos/cats/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cats.save(folder / name)
    monkeypatch.chdir(folder)
    return folder


def test_the_readme_runs(folder, capsys):
    values = {}
    exec(compile(example("README.md"), "README.md", "exec"), values)
    assert values["result"].answer == "2"
    printed = capsys.readouterr().out
    assert re.search("^2", printed, flags=re.MULTILINE), "the text of the answer"
    assert "tokens/b False" in printed
    assert "`quary`: no such argument did you mean `query`?" in printed
    assert (folder / "runs" / "last" / "summary.json").exists()
    functions, keywords = called(example("README.md"), values)
    assert [shown for shown, function in public_functions().items() if function not in functions] == []
    assert {*qvl_attn.SaveOptions.__annotations__, "progress", "cancel", "on_token"} <= keywords


def test_the_readmes_run_the_same_code():
    """But for comments and the language of the questions."""
    english, chinese = (re.sub(r"  #.*|\"[^\"]*[?？]\"", "", example(name)) for name in HEADINGS)
    assert english == chinese


def test_the_docstring_runs(folder):
    code = qvl_attn.__doc__.split("\n\n", 1)[1]
    values: dict[str, Any] = {}
    exec(compile(code, "docstring", "exec"), values)
    assert values["result"].answer == "2"
    assert called(code, values)[0] >= {plain(qvl_attn.Result.load), qvl_attn.Result.heatmap}


@pytest.mark.parametrize("name", HEADINGS)
def test_the_readme_names_all_that_is_public(name):
    words = {*re.findall(r"\w+", section(name), re.ASCII)}
    assert {*qvl_attn.__all__} - words == {"__version__"}


def test_calls_are_found_by_what_they_call():
    code = "result.save('out')\nAnalyzer.load('demo').ask('a', 'b')\nrun_session([])\nresult.heatmap, 'folder()'"
    values = {"result": object.__new__(qvl_attn.Result), "run_session": qvl_attn.run_session}
    functions, keywords = called(f"{code}\nencoded.load(x=1)", {**values, "encoded": qvl_attn.EncoderResult})
    assert functions - {None} == {qvl_attn.Result.save, plain(qvl_attn.EncoderResult.load), qvl_attn.run_session}
    assert keywords == {"x"}


def test_every_public_name_can_be_imported():
    for name in qvl_attn.__all__:
        assert getattr(qvl_attn, name) is not None
    assert set(dir(qvl_attn)) == set(qvl_attn.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = qvl_attn.nothing
