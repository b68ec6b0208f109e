"""Fixtures of checks of data sets."""

from pathlib import Path

import pytest

from qvl_attn.demo.dataset import write_dataset
from tests.helpers.check_runs import invoke, make_data, without_drawings
from tests.helpers.loading import without_loading


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "set"
    write_dataset(folder, 4)
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def once(scenes, demo) -> Path:
    """An uninterrupted run in this process; its output is in the file `stdout` beside it."""
    folder = scenes.parent.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        without_loading(patch, demo)
        done = invoke(scenes)
    assert done.exit_code == 0, done.output
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder / "run"


@pytest.fixture
def check(tmp_path, monkeypatch, demo):
    """Run the command in an empty folder, without loading the weights each time and without most of the drawing."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    without_drawings(monkeypatch)
    return lambda data, *args, out="run": invoke(data, "--max-new-tokens", 4, *args, out=out)


@pytest.fixture
def rows(tmp_path):
    return make_data(tmp_path)
