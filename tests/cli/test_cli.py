"""The command line through typer's runner, one test per option; real processes for signals and start-up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import Result, __version__
from qvl_attn.cli.app import app
from tests.conftest import DEMO_PICTURES
from tests.helpers.loading import without_loading
from tests.helpers.processes import PATIENCE_S, signal_at_call, signal_at_import, start_command, start_python

QUESTION = "how many cats?"
SHIPPED = json.loads((DEMO_PICTURES / "pictures.json").read_text(encoding="utf-8"))
TRUTH = {
    item["question"]: item["answer"] for entry in SHIPPED if entry["file"] == "cats.png" for item in entry["questions"]
}
COUNT = TRUTH[QUESTION]


@pytest.fixture
def run(tmp_path, monkeypatch, demo):
    """`qvl-attn ask` on the embedded model, in an empty folder, without loading its weights each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qvl_attn.model.loading.load_weights", lambda *args: demo.engine.model)
    without_loading(monkeypatch, demo)
    return invoke


def invoke(*args, model="demo"):
    """Ask; drawings are small unless their size is named."""
    size = () if "--draw-size" in args else ("--draw-size", "320")
    return CliRunner().invoke(app, ["ask", *(str(arg) for arg in args), *size, "--model", model])


def ask(run, *args):
    """Run, expect success, and return the folder and the JSON rows."""
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(rows[-1]["folder"]), rows


def attention(folder):
    with np.load(folder / "attention.npz") as arrays:
        return dict(arrays)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def fails(done, code, *words):
    """Assert the exit code, exactly one error line with these words, and no traceback."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


def test_the_main_job(run, cats):
    done = run(cats, QUESTION)
    assert done.exit_code == 0
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["question"] == QUESTION
    assert lines["answer"] == COUNT
    folder = Path(lines["overlay"]).parent
    assert folder.parent == Path("qvl-attn-out")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "report.html",
        "overlay.png",
        "layers.png",
        "layers_shared.png",
        "tokens.png",
        "picture_1.png",
        "attention.npz",
        "result.json",
        *(f"layers/layer_{layer:02d}.png" for layer in range(4)),
    }
    assert set(json.loads((folder / "result.json").read_text())["files"]) == names
    assert all(Path(path).exists() for name, path in lines.items() if name not in ("question", "answer"))
    assert "demo" in done.stderr
    assert "float32 on cpu" in done.stderr
    assert not list(Path("qvl-attn-out").glob(".*")), "no draft is left"


def test_progress_of_the_weights_and_of_the_answer(run, cats, monkeypatch):
    reported = []

    @contextmanager
    def bars(*, enabled):
        yield lambda *values: reported.append(values)

    monkeypatch.setattr(sys.modules["qvl_attn.cli.ask"], "progress_bars", bars)
    done = run(cats, QUESTION, "--overwrite")
    assert re.search(r"^loading the weights: 8 MiB\nloaded in \d+\.\d s$", done.stderr, re.MULTILINE)
    tokens = [count for stage, *count in reported if stage == "answer tokens"]
    assert tokens == [[0, 0], [1, 0], [2, 0], [2, 2]], "a digit, and the end"


def test_several_questions_and_a_set(run, cats):
    Path("set.jsonl").write_text(
        '{"id": "a", "question": "is there a dog?"}\n\n{"id": "b", "question": "有几只猫？"}\n'
    )
    _, rows = ask(run, cats, *TRUTH, "--prompts", "set.jsonl")
    answers = {row["question"]: row["answer"] for row in rows}
    assert list(answers) == [*dict.fromkeys([*TRUTH, "is there a dog?", "有几只猫？"])]
    assert answers == {"is there a dog?": "yes"} | TRUTH
    assert len({row["folder"] for row in rows}) == len(answers)


def test_a_built_in_set(run, cats):
    _, rows = ask(run, cats, "--prompts", "counting")
    assert len(rows) >= 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"id": "a", "question": "x?"}\nnot json\n{"id": 3}', ["line 2", "line 3: id"]),
        ('{"id": "a", "question": "x?"}\n{"id": "a", "question": "y?"}', ["line 2", "twice"]),
        ('{"id": "a", "question": " "}', ["line 1: question"]),
        ("[]", ["line 1"]),
        ("", ["no question"]),
    ],
)
def test_a_set_with_faults_names_them_all(run, cats, lines, words):
    Path("set.jsonl").write_text(lines)
    fails(run(cats, "--prompts", "set.jsonl"), 2, *words)


def test_an_unknown_set_names_the_known_ones(run, cats):
    fails(run(cats, "--prompts", "nothing"), 2, "counting")


def test_image_adds_a_picture(run, cats, wide):
    folder, _ = ask(run, cats, "what color is the dog?", "--image", wide)
    result = Result.load(folder)
    assert [media.source for media in result.media] == ["cats.png", "wide.png"]
    assert [m.values.shape for m in result.heatmaps()] == [grid.shape for grid in result.capture.grids]
    assert (folder / "picture_2.png").exists()


def test_a_question_that_is_a_file_points_to_image(run, cats, wide):
    fails(run(cats, wide), 2, "--image")


def test_a_question_may_be_the_name_of_another_file(run, cats):
    Path("how many cats").write_text("notes")
    done = run(cats, "how many cats")
    assert done.exit_code == 0, done.stderr


def test_an_empty_path(run):
    fails(run("", QUESTION), 2, "the path is empty")


def test_no_question(run, cats):
    fails(run(cats), 2, "no question")


def test_layers(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--layers", "1-2")
    arrays = attention(folder)
    assert arrays["layers"].tolist() == [1, 2]
    assert json.loads((folder / "result.json").read_text())["headline"]["layers"] == [1, 2]
    assert sorted(path.name for path in (folder / "layers").iterdir()) == ["layer_01.png", "layer_02.png"]


@pytest.mark.parametrize("layers", ["4", "0-9", "x"])
def test_layers_the_model_does_not_have(run, cats, layers):
    fails(run(cats, QUESTION, "--layers", layers), 2, "--layers")


def test_heads(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--heads", "2.0,2.3")
    arrays = attention(folder)
    result = Result.load(folder)
    rows = arrays["query_role"] == "question"
    expected = arrays["weights_by_head"][2][[0, 3]][:, rows].mean(axis=(0, 1))
    assert np.allclose(result.heatmap().values.ravel(), expected, atol=1e-7)
    assert result.heatmap().heads == "2.0,2.3"
    assert np.allclose(arrays["weights_by_head"].mean(axis=1), arrays["weights"], atol=1e-6)


@pytest.mark.parametrize("heads", ["4", "9.0", "1.4", "x.y"])
def test_heads_the_model_does_not_have(run, cats, heads):
    fails(run(cats, QUESTION, "--heads", heads), 2, "--heads")


@pytest.mark.parametrize("query", ["question", "last", "answer", "text:cats"])
def test_query(run, cats, query):
    folder, _ = ask(run, cats, QUESTION, "--query", query)
    arrays = attention(folder)
    assert set(arrays["query_role"].tolist()) >= {"question", "last"}, "all are captured whatever the headline is"
    headline = json.loads((folder / "result.json").read_text())["headline"]
    assert headline["query"] == query
    assert len(headline["queries"]) == {"question": 4, "last": 1, "answer": 1, "text:cats": 1}[query]


def test_query_in_chinese(run, cats):
    folder, _ = ask(run, cats, "有几只猫？", "--query", "text:猫")
    assert json.loads((folder / "result.json").read_text())["headline"]["queries"]


def test_an_unknown_text_names_the_known_words(run, cats):
    fails(run(cats, QUESTION, "--query", "text:dogs"), 2, "how, many, cats, ?")


def test_system(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--system", "You are a cat.")
    tokens = json.loads((folder / "result.json").read_text())["tokens"]
    assert "".join(token["text"] for token in tokens if token["role"] == "system") == "You are a cat."


def test_answer(run, cats):
    done = run(cats, QUESTION, "--answer", "dog")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["answer"] == COUNT
    assert lines["supplied answer"] == "dog"
    assert float(lines["supplied log-probability"]) < float(lines["answer log-probability"]) <= 0
    assert Result.load(Path(lines["overlay"]).parent).mapped_answer == "dog"


def test_pixels(run, cats):
    small, _ = ask(run, cats, QUESTION, "--max-pixels", 20000)
    large, _ = ask(run, cats, QUESTION, "--min-pixels", 200000)
    assert Result.load(small).capture.grids[0].cells * 784 <= 20000
    assert Result.load(large).capture.grids[0].cells * 784 >= 200000


def test_max_new_tokens(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--max-new-tokens", 1)
    assert json.loads((folder / "result.json").read_text())["provenance"]["generation"]["max_new_tokens"] == 1
    fails(run(cats, QUESTION, "--max-new-tokens", 0), 2, "--max-new-tokens")


def test_seed_device_dtype_attn_are_recorded(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--seed", 7, "--device", "cpu", "--dtype", "float32", "--attn", "eager")
    value = json.loads((folder / "result.json").read_text())
    assert value["settings"]["seed"] == 7
    provenance = value["provenance"]
    fields = [provenance[name] for name in ("device", "dtype", "attention", "model")]
    assert fields == ["cpu", "float32", "eager", "demo"]
    assert provenance["qvl_attn"] == __version__
    assert {"transformers", "torch", "revision", "generation", "processor_size"} <= set(provenance)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--device", "cuda:7"),
        ("--device", "tpu"),
        ("--device", "mps"),
        ("--dtype", "int4"),
        ("--attn", "magic"),
        ("--device-map", "magic"),
        ("--revision", "main"),
        ("--query", "cats"),
        ("--alpha", "2"),
        ("--blur", "-1"),
        ("--top-percent", "0"),
        ("--draw-size", "1"),
        ("--draw-size", "0"),
        ("--draw-size", "big"),
        ("--colormap", "rainbow"),
        ("--min-pixels", "10"),
    ],
)
def test_values_that_are_not_among_the_choices(run, cats, flag, value):
    done = run(cats, QUESTION, flag, value)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert "Value error" not in done.output


@pytest.mark.parametrize(
    "flags",
    [
        ["--colormap", "jet"],
        ["--colormap", "viridis"],
        ["--alpha", "0.9"],
        ["--interp", "cells"],
        ["--blur", "1.5"],
        ["--top-percent", "10"],
    ],
)
def test_drawing_flags_change_the_picture(run, cats, flags):
    plain, _ = ask(run, cats, QUESTION)
    drawn, _ = ask(run, cats, QUESTION, *flags)
    assert plain != drawn
    first, second = (pixels(folder / "overlay.png") for folder in (plain, drawn))
    assert first.shape != second.shape or np.abs(first.astype(int) - second).max() > 30
    assert (plain / "attention.npz").read_bytes() == (drawn / "attention.npz").read_bytes()


def test_scale(run, cats):
    own, _ = ask(run, cats, QUESTION)
    shared, _ = ask(run, cats, QUESTION, "--scale", "shared")
    name = "layers/layer_00.png"
    assert (own / "layers.png").read_bytes() == (shared / "layers.png").read_bytes()
    assert (own / name).read_bytes() != (shared / name).read_bytes()


def test_draw_size(run, tmp_path):
    Image.fromarray(np.zeros((300, 600, 3), dtype=np.uint8)).save("large.png")
    for flag, width in (("400", 400), ("320", 320), ("full", 600)):
        folder, _ = ask(run, "large.png", QUESTION, "--draw-size", flag, "--max-new-tokens", 2)
        assert pixels(folder / "picture_1.png").shape == (width // 2, width, 3)


def test_out_and_reuse_and_overwrite(run, cats):
    folder, _ = ask(run, cats, QUESTION, "--out", "a/b")
    assert folder.parent == Path("a/b")
    before = (folder / "result.json").stat().st_mtime_ns
    done = run(cats, QUESTION, "--out", "a/b")
    assert "nothing was computed" in done.stderr
    assert f"answer: {COUNT}" in done.stdout
    assert (folder / "result.json").stat().st_mtime_ns == before
    again, rows = ask(run, cats, QUESTION, "--out", "a/b", "--overwrite")
    assert again == folder
    assert not rows[0]["reused"]
    assert (folder / "result.json").stat().st_mtime_ns > before
    assert [path.name for path in Path("a/b").iterdir()] == [folder.name]


def test_an_unfinished_folder_is_computed_again(run, cats):
    folder, _ = ask(run, cats, QUESTION)
    (folder / "result.json").unlink()
    _, rows = ask(run, cats, QUESTION)
    assert not rows[0]["reused"]
    assert (folder / "result.json").exists()


def test_a_folder_that_cannot_be_written(run, cats):
    Path("file").write_text("")
    for out in ("file", "file/deeper"):
        fails(run(cats, QUESTION, "--out", out), 2, f"--out {out}: file is a file, and results go into a folder")
    fails(run(cats, QUESTION, "--out", "/proc/nothing"), 2, "--out")


def test_json(run, cats):
    done = run(cats, QUESTION, "--json")
    (row,) = (json.loads(line) for line in done.stdout.splitlines())
    assert row["answer"] == COUNT
    assert 0 < row["vision_mass"] <= 1
    assert Path(row["overlay"]).exists()


@pytest.mark.parametrize("question", ["how many cats? " + "x" * 300, "有几只猫？" * 60])
def test_questions_longer_than_a_file_name(run, cats, question):
    folder, rows = ask(run, cats, question)
    assert rows[0]["question"] == question
    assert len(folder.name.encode()) < 100
    fails(run(cats, "--prompts", question), 2, "no such file")
    fails(invoke(cats, "?", model=question), 2, "no such folder")


def test_json_is_plain_ascii(run, cats):
    done = run(cats, "有几只猫\u202e\x9b？", "--json")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["question"] == "有几只猫\u202e\x9b？"


@pytest.mark.parametrize("size", [(8159, 41), (12800, 64), (41, 8159)])
def test_a_picture_that_the_processor_makes_too_long(run, size):
    Image.new("RGB", size).save("long.png")
    fails(run("long.png", QUESTION), 2, "long.png", "200")


def test_a_long_picture_is_reused(run):
    Image.new("RGB", (3500, 28)).save("long.png")
    folder, _ = ask(run, "long.png", QUESTION)
    _, rows = ask(run, "long.png", QUESTION)
    assert rows[0]["reused"]
    assert Result.load(folder).media[0].size_px == (3500, 28)


@pytest.mark.parametrize("limit", [3136, 3200, 5000])
def test_a_small_max_pixels(run, cats, limit):
    folder, _ = ask(run, cats, QUESTION, "--max-pixels", limit)
    assert Result.load(folder).capture.grids[0].cells <= 6


def test_limits_below_four_cells(run, cats):
    fails(run(cats, QUESTION, "--max-pixels", 3135), 2, "--max-pixels 3135", "the pixels of 4 and of")
    fails(run(cats, QUESTION, "--min-pixels", 784), 2, "--min-pixels 784", "the pixels of 4 and of")


@pytest.mark.skipif(sys.platform == "win32", reason="names of bytes")
def test_a_name_that_is_not_unicode(run, cats):
    name = os.fsdecode(b"bad\xff.png")
    Path(name).write_bytes(Path(cats).read_bytes())
    folder, _ = ask(run, name, QUESTION)
    assert Result.load(folder).media[0].source == "bad?.png"


def test_an_answer_that_was_cut_says_so(run, cats):
    done = run(cats, "有几只猫？ how how", "--max-new-tokens", 1)
    assert "cut at 1 tokens" in done.stderr


def test_heads_apply_to_the_sheets_too(run, cats):
    mean, _ = ask(run, cats, QUESTION)
    heads, _ = ask(run, cats, QUESTION, "--heads", "1")
    for name in ("layers.png", "tokens.png", "layers/layer_01.png"):
        assert (mean / name).read_bytes() != (heads / name).read_bytes(), name


def test_shell_completion():
    completion = {"_QVL_ATTN_COMPLETE": "complete_bash", "COMP_WORDS": "qvl-attn ask --method gr", "COMP_CWORD": "3"}
    code = (
        "import atexit, sys; from qvl_attn.cli.app import app;"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'PIL'} & set(sys.modules)), file=sys.stderr));"
        "app(prog_name='qvl-attn')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | completion, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["gradient", "gradcam"]
    assert done.stderr.strip() == "[]", "it answers before heavy libraries are loaded"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_stdout_on_a_full_disk():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "qvl_attn", "methods"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "error: cannot write to stdout: No space left on device\n"
    assert done.returncode == 1


def test_quiet(run, cats):
    done = run(cats, QUESTION, "--quiet")
    assert done.stdout == f"{COUNT}\n"
    assert done.stderr == ""


def test_debug_shows_the_traceback_and_keeps_the_exit_code(run):
    done = run("nothing.png", QUESTION, "--debug")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert "InputError" in done.stderr
    assert "error: " in done.stderr


def test_offline(run, cats, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    assert run(cats, QUESTION, "--offline").exit_code == 0
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"qvl-attn {__version__}\n")


def test_control_characters_never_reach_the_terminal(run, cats):
    question = "how many \x1b[31mcats\x07\u202e?</script><img onerror=x>[red]"
    done = run(cats, question)
    assert done.exit_code == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout + done.stderr)
    assert "</script><img onerror=x>[red]" in done.stdout
    folder = Path(dict(line.split(": ", 1) for line in done.stdout.splitlines())["overlay"]).parent
    assert Result.load(folder).question == question


@pytest.mark.parametrize(
    ("media", "words"),
    [
        ("missing.png", ["missing.png"]),
        (".", ["directory"]),
        ("https://example.org/cat.png", ["download"]),
        ("clip.mp4", ["qvl-attn video"]),
    ],
)
def test_media_that_are_not_a_picture(run, media, words):
    Path("clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    fails(run(media, QUESTION), 2, *words)


@pytest.mark.parametrize("question", ["", "   ", "how many <|image_pad|> cats?", "<image>\nhow many cats?"])
def test_questions_that_are_refused(run, cats, question):
    fails(run(cats, question), 2, "question")


def test_all_questions_are_checked_before_the_first_is_asked(run, cats):
    fails(run(cats, QUESTION, "how many <|im_end|>?"), 2, "command")
    assert not list(Path("qvl-attn-out").iterdir())


def test_the_default_model_is_never_replaced_silently(run, cats, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    done = run(cats, QUESTION, "--offline", model="Qwen/Qwen2.5-VL-3B-Instruct")
    fails(done, 1, "hf download Qwen/Qwen2.5-VL-3B-Instruct", "--model demo")


def run_command(cwd, *args, code=""):
    """Run a real process to its end: its exit code, stdout and stderr."""
    done = start_command(args, cwd, code).completed()
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_run_keeps_finished_results(cats, tmp_path, number, code):
    """The signal comes while the third result is written; a kill leaves its draft, which nobody reads."""
    lines = [json.dumps({"id": str(i), "question": f"how many cats? {i}"}) for i in range(5)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    ending = signal_at_call("qvl_attn.results.store:write_text", 3, number)
    words = ("ask", cats, "--prompts", "set.jsonl", "-m", "demo", "--draw-size", 256)
    returned, _, err = run_command(tmp_path, *words, code=ending)
    assert returned == code, err
    assert "Traceback" not in err
    folders = list((tmp_path / "qvl-attn-out").iterdir())
    if number != signal.SIGKILL:
        assert "interrupted; any finished results are kept" in err
        assert len(folders) == 2
    results = [Result.load(folder) for folder in folders if not folder.name.startswith(".")]
    assert len(results) == 2
    assert all(result.answer for result in results)


@pytest.mark.parametrize("module", ["typer", "torch.nn", "transformers"])
def test_an_interrupt_while_it_loads_its_libraries(cats, tmp_path, module):
    code = signal_at_import(module, signal.SIGINT)
    process = start_python(("ask", cats, QUESTION, "-m", "demo"), tmp_path, code)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err


def test_two_runs_in_one_folder(cats, tmp_path):
    """Real processes, at the same time."""
    words = ("ask", cats, QUESTION, "-m", "demo", "-q", "--draw-size", 256)
    processes = [start_command(words, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert outputs == [(f"{COUNT}\n", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    (folder,) = (tmp_path / "qvl-attn-out").iterdir()
    assert Result.load(folder).answer == COUNT


# Broken and unusual files in the quick suite, all files in the slow one.
def _all_files(folder):
    return [path for path in sorted((folder / "images").rglob("*")) if path.is_file() and path.suffix != ".json"]


def _passes(run, path):
    small = ("--max-pixels", 60_000, "--draw-size", 128, "--max-new-tokens", 2)
    done = run(path, QUESTION, *small, "--json")
    if done.exit_code:
        fails(done, 2, path.name)
        return False
    assert Path(json.loads(done.stdout)["overlay"]).exists()
    return True


def test_odd_and_broken_files_give_an_answer_or_one_clear_line(run, shared_data):
    files = [
        path for path in _all_files(shared_data) if path.parent.name in ("corrupt", "demo", "palette", "cmyk", "alpha")
    ]
    answered = sum(_passes(run, path) for path in files)
    assert 10 < answered < len(files) - 10


@pytest.mark.slow
def test_every_file_gives_an_answer_or_one_clear_line(run, shared_data):
    files = _all_files(shared_data)
    answered = sum(_passes(run, path) for path in files)
    print(f"{answered} of {len(files)} answered")
    assert 80 < answered < len(files) - 10


def test_a_broken_tiff_gives_one_line_though_libtiff_writes_its_own(shared_data, tmp_path):
    path = shared_data / "images" / "corrupt" / "crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif"
    returned, out, err = run_command(tmp_path, "ask", path, QUESTION, "-m", "demo")
    assert (returned, out) == (2, "")
    assert len([line for line in err.splitlines() if not line.startswith("hint: ")]) == 1, err
