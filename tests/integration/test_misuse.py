"""What a program may get wrong is refused at once, in one line, before anything large is made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qvl_attn import InputError, MemoryLimitError, Result, load_samples, merge_runs, redrawn
from qvl_attn.model import prompt
from tests.conftest import DEMO_PICTURES
from tests.helpers.kept import write_kept

CATS = DEMO_PICTURES / "cats.png"
QUESTION = "how many cats?"


@pytest.mark.parametrize("options", [{"min_pixels": 10**9}, {"max_pixels": 10**12}, {"max_pixels": 3}])
def test_limits_of_pixels_have_limits(demo, options):
    with pytest.raises(InputError, match="want 3136 to 100352000"):
        demo.ask(CATS, QUESTION, **options)


def test_a_picture_is_not_enlarged_beyond_the_memory(demo, monkeypatch):
    memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=48 * 50_000_000))
    monkeypatch.setattr(prompt, "psutil", memory)
    with pytest.raises(MemoryLimitError, match=r"`min_pixels=50000001`: .* about 2\.2 GiB, and 2\.2 GiB are free"):
        demo.ask(CATS, QUESTION, min_pixels=50_000_001)


def test_a_check_of_nothing_leaves_no_run(demo, tmp_path):
    with pytest.raises(InputError, match="no samples to check"):
        demo.check([], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(tmp_path, limit):
    with pytest.raises(InputError, match=f"`limit={limit}`: want 1 or more"):
        load_samples(tmp_path / "questions.jsonl", limit=limit)


def test_one_path_is_one_path(tmp_path, demo):
    """And not the letters of its name."""
    part = write_kept("check", tmp_path / "part")
    with pytest.raises(InputError) as error:
        merge_runs(str(part), tmp_path / "all")
    assert "part is not a part" in " ".join(error.value.details)
    folder = demo.ask(CATS, QUESTION).save(tmp_path)
    assert redrawn(Result.load(folder), layers="1", media=str(CATS)).media[0].frames.shape[1:3] == (224, 252)


def test_an_empty_folder_name_is_no_folder(demo):
    with pytest.raises(InputError, match="`out=''`: no folder is named"):
        demo.ask(CATS, QUESTION, out="")


def test_saving_reports_its_progress(demo, tmp_path):
    calls = []
    demo.ask(CATS, QUESTION, out=tmp_path, progress=lambda *call: calls.append(call))
    drawn = [(done, total) for stage, done, total in calls if stage == "drawing"]
    assert len(drawn) > 5
    assert drawn == [(i + 1, len(drawn)) for i in range(len(drawn))]


def test_the_faults_of_a_data_set_are_shown(tmp_path):
    """A traceback shows what `str` gives."""
    file = tmp_path / "questions.jsonl"
    file.write_text('{"image": "none.png", "question": "?"}\n' * 20)
    with pytest.raises(InputError) as error:
        load_samples(file)
    first, *lines = str(error.value).split("\n")
    assert "faults" in first
    assert lines[0] == f"  {error.value.details[0]}"
    assert lines[-1] == f"  and {len(error.value.details) - 10} more (.details)"
    assert len(lines) == 11
