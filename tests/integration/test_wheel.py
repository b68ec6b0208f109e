"""The installed wheel tells type checkers what a user's program gets."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from pathlib import Path
from typing import assert_type

from numpy import float32
from numpy.typing import NDArray

from qvl_attn import (
    Analyzer, Drawing, Encoder, EncoderResult, EncoderSettings, HeatMap, QvlAttnError, Result, __version__,
    compare_runs, load_samples, make_report, merge_runs,
)
from qvl_attn.only_in_the_wheel import HERE

assert_type(HERE, str)
assert_type(__version__, str)


def ask(picture: Path, out: Path) -> Result:
    analyzer = Analyzer.load("demo", device="cpu", dtype="float32", say=print)
    result = analyzer.ask(picture, "how many cats?", [picture], layers="1-2", method="mean")
    assert_type(result, Result)
    assert_type(result.answer, str)
    assert_type(result.answer_logprob, float)
    assert_type(result.supplied_answer, str | None)
    assert_type(result.heatmap(query="last"), HeatMap)
    assert_type(result.heatmap().values, NDArray[float32])
    assert_type(result.heatmap().vision_mass, float)
    assert_type(result.capture.weights, NDArray[float32])
    assert_type(result.media[0].size_px, tuple[int, int])
    assert_type(result.provenance.model, str)
    assert_type(analyzer.ask_video("clip.mp4", "what moves?", fps=2), Result)
    assert_type(analyzer.ask_many([(picture, "how many cats?")]), list[Result])
    try:
        folder = result.save(out, Drawing(alpha=0.4), overwrite=True)
    except QvlAttnError as error:
        assert_type((error.message, error.hint, error.exit_code), tuple[str, str, int])
        raise
    assert_type(folder, Path)
    assert_type(Result.load(folder), Result)
    return result


def encode(picture: Path, out: Path) -> EncoderResult:
    encoder = Encoder.load("demo", device="cpu")
    result = encoder.encode(picture, EncoderSettings(at=((10.0, 20.0),)))
    assert_type(result, EncoderResult)
    assert_type(result.attention.grid, tuple[int, int, int])
    assert_type(EncoderResult.load(result.save(out)), EncoderResult)
    encoder.encode_folder(picture.parent, out)
    return result


def check(rows: Path, out: Path) -> None:
    analyzer = Analyzer.load("demo")
    analyzer.check(load_samples(rows), out, methods=["mean"])
    compare_runs([out, out])
    merge_runs([out], out / "merged")
    make_report([out], out / "page.html")
"""
MISTAKES = """
from qvl_attn import Analyzer, Encoder, Result

result = Analyzer.load("demo").ask("cats.png", "how many cats?")
number: int = result.answer
result.save("out", colour="red")
Analyzer.load("demo").ask(7, "how many cats?")
Encoder.load("demo").encode("cats.png").no_such_field
Result.load(3)
"""
# Only the package's own types are in question, and reading the libraries' would take minutes.
CONFIG = """
[mypy]
strict = true
python_version = 3.11
[mypy-torch.*,transformers.*,cv2.*,matplotlib.*,PIL.*,av.*,huggingface_hub.*,safetensors.*,jinja2.*,rich.*,typer.*]
follow_imports = skip
ignore_missing_imports = true
"""


def run(*command: object, cwd: Path, fails: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "MYPY"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path) -> Path:
    """The interpreter of an environment with the wheel, and behind it the libraries that are installed here."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *options, "--target", packages, wheel, cwd=tmp_path)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "qvl_attn" / "only_in_the_wheel.py").write_text("HERE: str = ''\n")
    return tmp_path / "venv" / "bin" / "python"


def test_a_users_program_is_checked_against_the_wheel(installed, tmp_path):
    files = {"program.py": PROGRAM, "mistakes.py": MISTAKES, "mypy.ini": CONFIG}
    for name, text in files.items():
        (tmp_path / name).write_text(text.lstrip("\n"), encoding="utf-8")
    options = ("--config-file", "mypy.ini", "--python-executable", installed, "--no-error-summary")
    out = run(sys.executable, "-m", "mypy", *options, "program.py", "mistakes.py", cwd=tmp_path, fails=True)
    errors = [line.partition(": error: ") for line in out.splitlines() if ": error: " in line]
    found = [(place, text.rpartition("[")[2].rstrip("]")) for place, _, text in errors]
    assert found == [
        ("mistakes.py:4", "assignment"),
        ("mistakes.py:5", "call-arg"),
        ("mistakes.py:6", "arg-type"),
        ("mistakes.py:7", "attr-defined"),
        ("mistakes.py:8", "arg-type"),
    ], out
