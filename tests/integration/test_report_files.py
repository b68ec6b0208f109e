"""Files of pages: where they are written, making them again, errors, and results in a notebook."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn import Drawing, Result
from qvl_attn.cli.app import app
from qvl_attn.core import files as core_files
from qvl_attn.core import typed_json
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.report import make_report
from qvl_attn.results.page_data import results_html
from tests.cli.test_cli import fails
from tests.helpers.check_runs import without_drawings
from tests.helpers.kept import write_kept
from tests.helpers.loading import without_loading
from tests.helpers.pages import EVIL, Reader, assert_close, read_png
from tests.helpers.processes import PATIENCE_S

ROOT = Path(__file__).parents[2]
QUESTION = "how many cats?"


@pytest.fixture(scope="module")
def result(demo, cats, wide):
    return demo.ask(cats, QUESTION, [wide], answer="two 猫", heads="0-3")


@pytest.fixture(scope="module")
def saved_once(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def second(demo, wide, tmp_path_factory):
    return demo.ask(wide, "how many cats?").save(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def scored(demo, tmp_path_factory):
    """A finished check of four scenes."""
    from qvl_attn.demo.dataset import write_dataset
    from tests.helpers.check_runs import invoke

    folder = tmp_path_factory.mktemp("check")
    write_dataset(folder / "set", 4)
    with pytest.MonkeyPatch.context() as patch:
        without_loading(patch, demo)
        without_drawings(patch)
        done = invoke(folder / "set" / "questions.jsonl", out=folder / "run")
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture
def saved(saved_once, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved_once, tmp_path / "copy"))


def report(*args):
    return CliRunner().invoke(app, ["report", *(str(arg) for arg in args)])


def result_json(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def edit_json(folder, **values):
    (folder / "result.json").write_text(json.dumps(result_json(folder) | values), encoding="utf-8")


# Where the page is written


def test_it_is_written_beside_every_result_and_listed(saved_once):
    assert "report.html" in result_json(saved_once)["files"]
    assert (saved_once / "report.html").is_file()
    assert Reader((saved_once / "report.html").read_text(encoding="utf-8")).data["results"][0]["question"] == QUESTION


def test_ask_and_video_write_it(demo, cats, clip_file, tmp_path, monkeypatch):
    without_loading(monkeypatch, demo)
    for command, medium in (("ask", cats), ("video", clip_file(4))):
        words = [command, str(medium), QUESTION, "--model", "demo", "--json", "--out", str(tmp_path / command)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
        assert "report.html" in result_json(folder)["files"]
        page = Reader((folder / "report.html").read_text(encoding="utf-8"))
        assert (page.data["results"][0]["clip"] is None) == (command == "ask")
        assert page.data["results"][0]["notes"] == result_json(folder)["notes"]


def test_a_check_writes_it_too(scored):
    page = Reader((scored / "report.html").read_text(encoding="utf-8"))
    assert len(page.data["rows"]) == len((scored / "scores.jsonl").read_text(encoding="utf-8").splitlines())
    assert "report.html" in json.loads((scored / "summary.json").read_text(encoding="utf-8"))["files"]


# Making it again


@pytest.mark.parametrize("size", [0, 100, 640, 1280])
def test_made_again_it_is_the_same_whatever_the_size_of_the_pictures(result, tmp_path, size):
    folder = result.save(tmp_path, Drawing(draw_size_px=size))
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert make_report([folder]) == folder / "report.html"
    assert (folder / "report.html").read_bytes() == before
    drawn_px = Reader(before.decode()).data["results"][0]["media"][0]["drawn_px"]
    assert max(drawn_px) == (252 if size == 0 else 100 if size == 100 else 640)


def test_the_command_makes_it_again_and_never_imports_torch(saved, scored, tmp_path):
    before = (saved / "report.html").read_bytes()
    (saved / "report.html").unlink()
    code = (
        "import sys; from qvl_attn.cli.app import app\n"
        "for words in (['report', sys.argv[1]], ['report', sys.argv[2], '--out', sys.argv[3]]):\n"
        "    app(words, standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'torchvision', 'matplotlib'} & {*sys.modules}))"
    )
    args = [sys.executable, "-c", code, str(saved), str(scored), str(tmp_path / "check.html")]
    done = subprocess.run(
        args, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.splitlines() == [
        f"report: {saved / 'report.html'}",
        f"report: {tmp_path / 'check.html'}",
        "[]",
    ]
    assert (saved / "report.html").read_bytes() == before
    assert (tmp_path / "check.html").read_bytes() == (scored / "report.html").read_bytes()


def test_a_clip_is_made_again_the_same(demo, clip_file, tmp_path):
    folder = demo.ask_video(clip_file(5), "what moves?", fps=10, mode="both").save(tmp_path)
    before = (folder / "report.html").read_bytes()
    make_report([folder])
    assert (folder / "report.html").read_bytes() == before
    assert make_report(
        [folder / result_json(folder)["passes"]["results"][0]["folder"]], tmp_path / "pass.html"
    ).is_file()
    with pytest.raises(InputError, match="one pass of a result"):
        make_report(folder / "passes" / "000")
    assert not (folder / "passes" / "000" / "report.html").exists()


def test_several_stand_side_by_side_in_one_page(saved_once, second, tmp_path):
    out = tmp_path / "both.html"
    done = report(saved_once, second, "--out", out)
    assert (done.exit_code, done.stdout) == (0, f"report: {out}\n")
    page = Reader(out.read_text(encoding="utf-8"))
    assert [panel["question"] for panel in page.data["results"]] == [QUESTION, QUESTION]
    for number, folder in enumerate((saved_once, second)):
        values = np.concatenate([heat.values.ravel() for heat in Result.load(folder).heatmaps()])
        assert_close(page.maps("headline", result=number)[0], values)
        assert page.data["results"][number]["notes"] == result_json(folder)["notes"]


def test_notes_are_those_of_the_folder(saved):
    edit_json(saved, notes=["one", EVIL])
    make_report([saved])
    page = Reader((saved / "report.html").read_text(encoding="utf-8"))
    assert page.data["results"][0]["notes"] == ["one", EVIL]


# Errors


def test_a_folder_that_is_not_there(tmp_path):
    fails(report(tmp_path / "nowhere"), 2, "nowhere does not exist", "hint: ")


def test_a_folder_with_nothing_in_it(tmp_path):
    fails(report(tmp_path), 2, "is not a complete result")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_was_not_finished(saved):
    (saved / "result.json").unlink()
    fails(report(saved), 2, "is not a complete result")


def test_a_folder_of_results(saved_once):
    fails(report(saved_once.parent), 2, "is not a complete result", saved_once.name)


def test_a_check_that_is_not_finished(scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / "run")
    (folder / "summary.json").unlink()
    fails(report(folder), 2, "is not finished: it has no summary.json", "run the same check again: it continues")


def test_a_check_stands_alone(saved_once, scored, tmp_path):
    for pair in ((saved_once, scored), (scored, saved_once)):
        fails(report(*pair, "--out", tmp_path / "page.html"), 2, f"{scored} is a check", "name it alone")
    assert not (tmp_path / "page.html").exists()


def test_several_need_a_name(saved_once, second):
    fails(report(saved_once, second), 2, "2 folders", "--out page.html")
    with pytest.raises(InputError, match="0 folders"):
        make_report([])


def test_nothing_that_is_there_is_replaced(saved_once, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    fails(report(saved_once, "--out", tmp_path / "mine.html"), 2, "mine.html: already exists")
    assert (tmp_path / "mine.html").read_text() == "mine"
    fails(report(saved_once, "--out", tmp_path), 2, "already exists")


def test_a_page_that_cannot_be_written(saved_once, tmp_path):
    fails(report(saved_once, "--out", tmp_path / "no" / "page.html"), 1, "cannot be written")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}', "\x00"])
def test_a_result_json_that_is_none(saved, text):
    before = (saved / "report.html").read_bytes()
    (saved / "result.json").write_text(text)
    fails(report(saved), 1, "result.json" if text != '{"schema_version": 1}' else "is damaged")
    assert (saved / "report.html").read_bytes() == before, "the existing page stays"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("notes",), None),
        (("notes",), 3),
        (("settings", "query"), 7),
        (("settings", "query"), "text:dogs"),
        (("settings", "query"), []),
        (("settings", "heads"), {}),
        (("provenance", "layer_count"), "x"),
        (("provenance", "head_count"), None),
        (("schema_version",), 99),
        (("media",), []),
        (("tokens",), []),
    ],
)
def test_a_result_json_with_something_else_in_it(saved, path, value):
    whole = result_json(saved)
    at = whole
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    edit_json(saved, **whole)
    done = report(saved)
    fails(done, done.exit_code)
    assert done.exit_code in (1, 2)


def test_without_its_notes(saved):
    whole = result_json(saved)
    del whole["notes"]
    (saved / "result.json").write_text(json.dumps(whole))
    fails(report(saved), 1, f"{saved} is damaged", "missing required field notes")


@pytest.mark.parametrize("how", ["cut", "gone", "noise", "empty"])
def test_attention_that_is_damaged(saved, how):
    file = saved / "attention.npz"
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"noise" * 99, "empty": b""}[how])
    fails(report(saved), 1, "attention.npz")


def test_a_picture_that_is_gone(saved):
    (saved / "picture_2.png").unlink()
    fails(report(saved), 1, "picture_2.png")


def test_a_summary_that_is_damaged(scored, tmp_path):
    folder = shutil.copytree(scored, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for name in ("model", "settings", "notes"):
        (folder / "summary.json").write_text(json.dumps({key: value for key, value in summary.items() if key != name}))
        fails(report(folder), 1, "summary.json is damaged")
    with pytest.raises(StoreError):
        make_report([folder])


# In a notebook


def read_cell(html):
    """Return the attributes of the frame and of the picture in a notebook cell."""
    page = Reader(html)
    (frame,) = [attrs for tag, attrs in page.tags if tag == "iframe"]
    (picture,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [tag for tag, _ in page.tags] == ["div", "img", "iframe"]
    return frame, picture


def test_a_result_shows_itself_in_a_frame_that_reaches_nothing(result, saved_once):
    frame, picture = read_cell(result._repr_html_())
    assert frame["sandbox"].split() == ["allow-scripts", "allow-downloads"]
    assert frame["srcdoc"] == results_html([result], [result_json(saved_once)["notes"]])
    assert "src" not in frame
    assert picture["alt"] == frame["title"] == f"{QUESTION} — two 猫"
    kind, _, text = picture["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with np.errstate(all="raise"):
        pixels = read_png(b64decode(text))
    want = read_png((saved_once / "overlay.png").read_bytes())
    assert pixels.shape == want.shape
    assert np.abs(pixels.astype(int) - want).mean() < 3


def test_an_evil_question_stays_inside_the_frame(result):
    evil = replace(result, question=f'"><script>evil()</script>{EVIL}', answer=EVIL, supplied_answer=EVIL)
    html = evil._repr_html_()
    frame, picture = read_cell(html)
    assert Reader(frame["srcdoc"]).data["results"][0]["question"] == evil.question
    assert picture["alt"].startswith('"><script>evil()</script>')
    assert not [name for attrs in (frame, picture) for name in attrs if name.startswith("on")]


def test_without_attention_on_the_picture_there_is_nothing_to_show(result):
    capture = replace(
        result.capture,
        weights=np.zeros_like(result.capture.weights),
        weights_by_head=np.zeros_like(result.capture.weights_by_head),
    )
    assert replace(result, capture=capture)._repr_html_() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("provenance", {"layer_count": 10**12}), ("provenance", {"head_count": 0}), ("answer_logprob", float("nan"))],
)
def test_of_numbers_without_end_a_page_is_refused_at_once(results, tmp_path, name, value):
    folder = results("one").save(tmp_path)
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    content[name] = content[name] | value if isinstance(value, dict) else value
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(StoreError, match=r"damaged|cannot be read as JSON"):
        make_report(folder)


def test_a_name_that_no_file_can_have_is_one_line():
    with pytest.raises(InputError, match="does not exist"):
        make_report(["x" * 300])


def test_one_folder_needs_no_list(results, tmp_path):
    folder = results("last").save(tmp_path)
    assert make_report(str(folder)) == make_report(folder) == folder / "report.html"


def test_a_picture_of_another_shape_is_not_drawn_under_the_map(results, tmp_path, wide):
    folder = results("last").save(tmp_path)
    shutil.copy(wide, folder / "picture_1.png")
    with pytest.raises(StoreError, match="another aspect ratio"):
        make_report(folder)
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    content["media"][0]["times_s"] = [None]
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(StoreError, match="damaged"):
        make_report(folder)


def test_a_check_that_lacks_rows_or_has_words_for_figures_is_told_so(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "run")
    rows = (tmp_path / "run" / "scores.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "run" / "scores.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    with pytest.raises(StoreError, match=f"not those of its samples: {len(rows) - 1} rows, {len(rows)} samples"):
        make_report(tmp_path / "run")
    (tmp_path / "run" / "scores.jsonl").write_text("".join(rows), encoding="utf-8")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    summary["headline"]["vision_mass"]["low"] = "x"
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(
        StoreError, match=r"summary.json is damaged: summary.headline\[...\].low: expected float \| null, got str"
    ):
        make_report(tmp_path / "run")


def test_each_file_is_parsed_once(tmp_path, monkeypatch):
    folders = [write_kept(kind, tmp_path / kind) for kind in ("ask", "encoder")]
    files = [folder / "result.json" for folder in folders]
    parse, texts = typed_json.parse_json, []
    monkeypatch.setattr(core_files, "parse_json", lambda text: texts.append(text) or parse(text))
    make_report(folders, tmp_path / "page.html")
    assert texts == [file.read_text(encoding="utf-8") for file in files]
