"""The installed wheel tells type checkers what a user's program gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, assert_type

from numpy import float32
from numpy.typing import NDArray

from qvl_attn import (
    METHODS, Analyzer, AskOptions, AskVideoOptions, Cancel, Cancelled, Capture, CheckOptions, ClipOptions, ClipSettings,
    CommonOptions, Curves, Drawing, EncodeOptions, Encoder, EncoderAttention, EncoderFolderOptions, EncoderOptions,
    EncoderResult, EncoderSettings, Estimate, HeatMap, LoadOptions, Media, Method, MethodMap, OnToken, PictureLike,
    Progress, QuestionOptions, QvlAttnError, RedrawOptions, Result, Sample, SamplingOptions, Saved, SaveOptions,
    Settings, VideoOptions, VqaProvenance, __version__, compare_runs, load_samples, make_report, merge_runs, redrawn,
    run_session,
)
from qvl_attn.only_in_the_wheel import HERE

assert_type(HERE, str)
version: str = __version__


def ask(picture: Path, out: Path) -> Result:
    analyzer = Analyzer.load("demo", device="cpu", dtype="float32")
    assert_type(analyzer, Analyzer)
    result = analyzer.ask(picture, "how many cats?", [picture], layers="1-2", method="mean")
    assert_type(result, Result)
    assert_type(analyzer.ask(picture, "how many cats?", picture, layers=2), Result)
    assert_type(analyzer.ask_many([(picture, "how many cats?")], layers=[1, 2]), list[Result])
    assert_type(result.answer, str)
    assert_type(result.answer_logprob, float)
    assert_type(result.supplied_answer, str | None)
    assert_type(result.heatmap(query="last"), HeatMap)
    assert_type(result.heatmap().values, NDArray[float32])
    assert_type(result.heatmap().vision_mass, float)
    assert_type(result.capture.weights, NDArray[float32])
    assert_type(result.media[0].size_px, tuple[int, int])
    assert_type(result.provenance.model, str)
    options: QuestionOptions = {"query": "last", "max_new_tokens": 8, "store_heads": "float16"}
    clip: ClipOptions = {"fps": 2, "mode": "frames"}
    both: VideoOptions = {**options, **clip}
    assert_type(analyzer.ask(picture, "how many cats?", **options), Result)
    assert_type(analyzer.ask_video("clip.mp4", "what moves?", fps=2, end_s=1.5, layers="1-2"), Result)
    assert_type(analyzer.ask_video("clip.mp4", "what moves?", **both), Result)
    assert_type(analyzer.ask_many([(picture, "how many cats?")], batch_size=2, **options), list[Result])
    assert_type(live(analyzer, picture, lambda stage, done, total: None), str)
    assert_type(live(analyzer, picture), str)
    assert_type(analyzer.estimate(picture, max_pixels=9000), Estimate)
    assert_type(analyzer.estimate(picture).needed_bytes, dict[str, int])
    keep: SaveOptions = {"out": out, "drawing": Drawing(draw_size_px=640), "overwrite": True}
    everything: AskOptions = {**options, **keep}
    of_a_clip: AskVideoOptions = {**both, **keep}
    assert_type(analyzer.ask(picture, "how many cats?", **everything), Result)
    assert_type(analyzer.ask(picture, "how many cats?", out=out, drawing=Drawing(), overwrite=False), Result)
    assert_type(analyzer.ask_many([(picture, "how many cats?")], out="out", overwrite=True), list[Result])
    assert_type(analyzer.ask_video("clip.mp4", "what moves?", **of_a_clip), Result)
    assert_type(METHODS["mean"], Method)
    assert_type(METHODS["mean"].shows, str)
    headline: RedrawOptions = {"layers": [1, 2], "query": "last"}
    assert_type(redrawn(result, media=[picture], **headline), Result)
    try:
        folder = result.save(out, Drawing(alpha=0.4), overwrite=True)
    except QvlAttnError as error:
        assert_type((error.message, error.hint, error.exit_code), tuple[str, str, int])
        raise
    assert_type(folder, Path)
    assert_type(result.folder(out, Drawing()), Path)
    assert_type(Result.load(folder), Result)
    return result


def parts(result: Result) -> tuple[Media, Capture, Settings, VqaProvenance, MethodMap, Curves | None]:
    assert_type(result.heatmaps(layers=[1, 2]), tuple[HeatMap, ...])
    return (
        result.media[0], result.capture, result.settings, result.provenance, result.methods[0], result.curves,
    )


def all_saved(analyzer: Analyzer, pictures: Sequence[PictureLike], out: Path) -> list[Saved[Result]]:
    def missing_results(missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        for i in missing:
            yield i, analyzer.ask(pictures[i], "how many cats?")

    def save(result: Result) -> Path:
        return result.save(out)

    folders = [out / str(i) for i in range(len(pictures))]
    results = list(run_session(folders, missing_results, save=save, load=Result.load, overwrite=True))
    assert_type(results, list[Saved[Result]])
    assert_type((results[0].result, results[0].folder, results[0].reused), tuple[Result, Path, bool])
    return results


def show(stage: str, done: int, total: int) -> None:
    print(stage, done, total)


def live(analyzer: Analyzer, picture: PictureLike, progress: Progress = show, cancel: Cancel = Event().is_set) -> str:
    pieces: list[str] = []
    on_token: OnToken = pieces.append
    try:
        analyzer.ask(picture, "how many cats?", on_token=on_token, cancel=cancel, progress=progress)
        analyzer.ask_many([(picture, "how many cats?")], cancel=lambda: True, progress=show)
        analyzer.ask_video("clip.mp4", "what moves?", on_token=print, cancel=None, progress=show)
    except Cancelled as error:
        assert_type(error.exit_code, int)
    return "".join(pieces)


def encode(picture: Path, out: Path) -> EncoderResult:
    encoder = Encoder.load("demo", device="cpu")
    assert_type(encoder, Encoder)
    result = encoder.encode(picture, EncoderSettings(at=((10.0, 20.0),)))
    assert_type(result, EncoderResult)
    options: EncoderOptions = {"at": [(10, 20)], "over": "max", "embeddings": "pca"}
    assert_type(encoder.encode(picture, **options), EncoderResult)
    keep: EncodeOptions = {**options, "out": out, "drawing": Drawing(alpha=0.4), "overwrite": True}
    assert_type(encoder.encode(picture, progress=show, cancel=Event().is_set, **keep), EncoderResult)
    assert_type(encoder.encode("clip.mp4", clip=ClipSettings(fps=1), out="out", drawing=None), EncoderResult)
    assert_type(encoder.pooled(picture, max_pixels=9000), NDArray[float32])
    assert_type(result.attention, EncoderAttention)
    assert_type(result.attention.grid, tuple[int, int, int])
    assert_type(EncoderResult.load(result.save(out)), EncoderResult)
    of_a_folder: EncoderFolderOptions = {"embeddings": ["pca", "tsne"]}
    summary = encoder.encode_folder(picture.parent, out, progress=show, cancel=lambda: False, **of_a_folder)
    assert_type(summary, dict[str, Any])
    return result


def check(rows: Path, out: Path) -> None:
    where: LoadOptions = {"device_map": "auto", "attn": "rows", "offline": True}
    common: CommonOptions = {"query": "last", "faithfulness": True}
    sampling: SamplingOptions = {"fps": 4}
    options: CheckOptions = {**common, **sampling}
    analyzer, samples = Analyzer.load("demo", **where), load_samples(rows)
    assert_type(samples, list[Sample])
    assert_type(analyzer.check(samples, out, methods=["mean"], **options), dict[str, Any])
    assert_type(analyzer.check(samples, out, progress=show, cancel=Event().is_set), dict[str, Any])
    compare_runs([out, out])
    merge_runs([out], out / "merged")
    make_report([out], out / "page.html")
"""
MISTAKES = """
from pathlib import Path
from qvl_attn import METHODS, Analyzer, Drawing, Encoder, Result, SaveOptions, Saved, load_samples, redrawn, run_session
analyzer, encoder = Analyzer.load("demo"), Encoder.load("demo")
number: int = analyzer.ask("cats.png", "how many cats?").answer
analyzer.ask("cats.png", "?").save("out", colour="red")
analyzer.ask(7, "how many cats?")
encoder.encode("cats.png").no_such_field
Result.load(3)
Analyzer.load("demo", devise="cpu")
Analyzer.load("demo", dtype="int8")
Encoder.load("demo", attn="rows")
Encoder.load("demo", offline="yes")
analyzer.ask("cats.png", "?", quary="last")
analyzer.ask("cats.png", "?", max_new_tokens="8")
analyzer.ask("cats.png", "?", store_heads="float8")
analyzer.ask_many([("cats.png", "?")], fps=2)
analyzer.ask_many([("cats.png", "?")], on_token=print)
analyzer.ask("cats.png", "?", cancel=True)
analyzer.ask("cats.png", "?", cancel=len)
analyzer.ask("cats.png", "?", on_token=len)
analyzer.ask("cats.png", "?", progress=len)
analyzer.ask("cats.png", "?", out=3)
analyzer.ask("cats.png", "?", out="out", drawing="red")
analyzer.ask_many([("cats.png", "?")], out="out", overwrite="yes")
analyzer.ask_video("clip.mp4", "?", out="out", draw="red")
saving: SaveOptions = {"folder": "out"}
Drawing(colormap="red")
Saved(analyzer.ask("cats.png", "?"), "folder", False)
run_session([], enumerate, save=[Path()].pop, load=hash, overwrite="yes")
redrawn("folder")
redrawn(analyzer.ask("cats.png", "?"), out="out")
METHODS["mean"].draws
analyzer.ask_many([("cats.png", "?")], layers=1.5)
analyzer.ask_video("clip.mp4", "?", frames=3)
analyzer.ask_video("clip.mp4", "?", mode="film")
analyzer.check(load_samples("rows.jsonl"), "out", answer="2")
analyzer.check(load_samples("rows.jsonl"), "out", by_head=None)
analyzer.check(load_samples("rows.jsonl"), "out", drawing=Drawing())
analyzer.check(load_samples("rows.jsonl"), "out", cancel=False)
analyzer.estimate("cats.png", maxpixels=9000)
encoder.encode("cats.png", layers=1)
encoder.encode("cats.png", at=5)
encoder.encode("cats.png", out=b"out")
encoder.encode("cats.png", on_token=print)
encoder.pooled("cats.png", out="out")
encoder.encode_folder("photos", "out", at=[(1, 2)])
encoder.encode_folder("photos", "out", overwrite=True)
analyzer.model
encoder.processor
"""
# Only the package's own types are in question, and reading the libraries' would take minutes.
CONFIG = """
[mypy]
strict = true
python_version = 3.11
[mypy-torch.*,transformers.*,cv2.*,matplotlib.*,av.*,huggingface_hub.*,safetensors.*,jinja2.*,rich.*,typer.*]
follow_imports = skip
ignore_missing_imports = true
"""


def run(*command: object, cwd: Path, fails: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "MYPY"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """A folder with a program without mistakes, one whose every line from the fourth on is a mistake, and PYTHON."""
    folder = tmp_path_factory.mktemp("program")
    settings = {"pythonVersion": "3.11", "typeCheckingMode": "strict", "reportUnusedExpression": False}
    files = {"program.py": PROGRAM, "mistakes.py": MISTAKES, "mypy.ini": CONFIG}
    for name, text in (files | {"pyrightconfig.json": json.dumps(settings)}).items():
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *options, "--target", packages, wheel, cwd=folder)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "qvl_attn" / "only_in_the_wheel.py").write_text("HERE: str = ''\n")
    return folder


# In the folder of the programs: an interpreter with the wheel, and behind it the libraries that are installed here.
PYTHON = Path("venv", "bin", "python")
MISTAKEN = [f"mistakes.py:{line}" for line in range(4, len(MISTAKES.strip().splitlines()) + 1)]


def test_a_users_program_is_checked_by_mypy(program):
    options = ("--config-file", "mypy.ini", "--python-executable", PYTHON, "--no-error-summary")
    out = run(sys.executable, "-m", "mypy", *options, "program.py", "mistakes.py", cwd=program, fails=True)
    errors = [line.partition(": error: ") for line in out.splitlines() if ": error: " in line]
    assert [place for place, _, _ in errors] == MISTAKEN, out
    kinds = {text.rpartition("[")[2].rstrip("]") for _, _, text in errors}
    assert kinds == {"assignment", "call-arg", "arg-type", "attr-defined", "type-var", "typeddict-unknown-key"}, out


def test_a_users_program_is_checked_by_basedpyright(program):
    options = ("--pythonpath", PYTHON, "--outputjson", "program.py", "mistakes.py")
    out = run(sys.executable, "-m", "basedpyright", *options, cwd=program, fails=True)
    errors = [fault for fault in json.loads(out)["generalDiagnostics"] if fault["severity"] == "error"]
    places = [f"{Path(fault['file']).name}:{fault['range']['start']['line'] + 1}" for fault in errors]
    assert list(dict.fromkeys(places)) == MISTAKEN, out
