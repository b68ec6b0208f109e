"""The Python examples of the READMEs and of the package's docstring run as they stand, and name all that is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import qvl_attn
from qvl_attn.demo.dataset import write_dataset
from tests.conftest import DEMO_PICTURES

ROOT = Path(__file__).parents[2]
HEADINGS = {"README.md": "## From Python", "README.zh-CN.md": "## 在 Python 里"}


def example(name: str) -> str:
    """Return the Python code of the section about Python."""
    section = re.split(f"^{HEADINGS[name]}$", (ROOT / name).read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))


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


@pytest.mark.parametrize("name", HEADINGS)
def test_the_readme_runs(name, folder, capsys):
    values = {}
    exec(compile(example(name), name, "exec"), values)
    assert values["result"].answer == "2"
    printed = capsys.readouterr().out
    assert re.search("^2", printed, flags=re.MULTILINE), "the text of the answer"
    assert "tokens/b False" in printed
    assert (folder / "runs" / "last" / "summary.json").exists()


def test_the_readmes_run_the_same_code():
    """But for comments and the language of the questions."""
    english, chinese = (re.sub(r"  #.*|\"[^\"]*[?？]\"", "", example(name)) for name in HEADINGS)
    assert english == chinese


def test_the_readme_names_all_that_is_public():
    section = (ROOT / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
    assert [name for name in qvl_attn.__all__ if not re.search(rf"\b{name}\b", section)] == ["__version__"]


def test_every_public_name_can_be_imported():
    for name in qvl_attn.__all__:
        assert getattr(qvl_attn, name) is not None
    assert set(dir(qvl_attn)) == set(qvl_attn.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = qvl_attn.nothing
