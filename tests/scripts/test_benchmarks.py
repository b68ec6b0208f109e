"""Every benchmark runs, in this process and on sizes too small to measure anything; every shape can be built."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import attention, encoder, evaluate_methods, methods, readme, report, startup
from transformers import AutoModelForImageTextToText

from qvl_attn.model.loading import load_processor
from tests.helpers.run_comparison import ENVIRONMENT, ROOT

SCRIPTS = ROOT / "scripts" / "benchmarks"
SHARED = {"__init__", "measuring", "random_checkpoint", "readme"}
SMALL = ((128, 96, 2, 1, 1), (32, 48, 2, 2))


@pytest.fixture
def here(monkeypatch):
    """Run in this process what would run in its own, with the environment as it was."""
    modules = [module for name, module in sys.modules.items() if name.rpartition(".")[2] == "measuring"]
    for module in modules:
        monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))
        monkeypatch.setattr(module, "keep_no_freed_blocks", lambda: None)


def figures(name: str, arguments: str, folder: Path) -> dict:
    """Call the main of a benchmark; return what it kept."""
    module, path = importlib.import_module(f"benchmarks.{name}"), folder / f"{name}.json"
    module.main([*shlex.split(arguments), "--write", str(path)])
    kept = json.loads(path.read_text())
    assert kept["command"].endswith(f"python scripts/benchmarks/{name}.py {arguments}".strip())
    assert {"date", "machine", "versions", "figures", "tables"} < kept.keys()
    return kept


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in cells if cell != "–"]


@pytest.mark.parametrize("shape", attention.SHAPES)
def test_every_shape_can_be_built_and_has_the_tokenizers_words(demo, shape):
    config = attention.shape_config(shape)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert {"3b": 3_754_622_976, "7b": 8_292_166_656}.get(shape, count) == count, "as released"
    processor = load_processor(demo.engine.checkpoint, config)
    assert model.get_input_embeddings().num_embeddings >= len(processor.tokenizer)
    job = attention.noise_question(processor, config, 16, 2).job
    assert (job.cells, job.layers) == (16, config.text_config.num_hidden_layers)


def test_attention_measures_all_ways_which_record_the_same(here, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    runs, measure = [], attention.measure
    monkeypatch.setattr(attention, "measure", lambda case: runs.append(measure(case)) or runs[-1])
    kept = figures("attention", "--shape small --tokens 16 --repeats 1 --device cpu --dtype float32", tmp_path)
    ((tokens, *cells),) = kept["tables"]["ways"]
    assert tokens == "16"
    assert len(cells) == 3 * 2 + 2
    assert all(value >= 0 for value in numbers(cells))
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    shares = {run["way"]: run["vision_share"] for run in runs}
    assert shares.pop("plain") is None
    assert list(shares.values()) == pytest.approx([shares["usual"]] * 3, abs=1e-5)


def test_what_does_not_fit_is_left_out_with_its_estimate(here, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "free_bytes", lambda placement: 2**27)
    monkeypatch.setattr(attention, "draw", lambda *arguments: None)
    options = "--shape small --tokens 16,4096 --repeats 1 --device cpu --dtype float32 --ways usual,plain"
    kept = figures("attention", options, tmp_path)
    assert list(kept["figures"].items()) == [("usual 4096 GiB", 3), ("plain 4096 GiB", 0)]
    assert [row[0] for row in kept["tables"]["ways"]] == ["16"]


def test_encoder_measures_what_is_too_small_to_measure(here, tmp_path):
    tables = figures("encoder", "--patches 16 --layers 1 --repeats 1", tmp_path)["tables"]
    assert {name: [len(row) for row in rows] for name, rows in tables.items()} == {"clip": [7], "qwen": [7]}
    runs = [{"way": way, "seconds": 1.0, "host_bytes": 0} for way in encoder.WAYS]
    assert encoder.table_row(runs) == ["1.0", "0", "1.00", "–", "1.00", "–"], "nothing is divided by no memory"


def test_methods_are_timed_against_the_plain_capture(here, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "GEOMETRY", SMALL)
    kept = figures("methods", "--ways plain gradient --cells 16 64 --repeats 1", tmp_path)
    assert [row[:2] for row in kept["tables"]["costs"]] == [
        [way, row[1]] for way in ("plain", "gradient") for row in kept["tables"]["costs"][:2]
    ]
    assert [row[2] for row in kept["tables"]["costs"][:2]] == ["1.00", "1.00"]
    assert methods.exponent(0, 100, 10, 20) is None
    assert methods.exponent(100, 200, 10, 20) == pytest.approx(1)


def test_a_check_is_timed_against_a_plain_loop(tmp_path):
    kept = figures("check", "--scenes 2 --limit 4 --batch-sizes 1 2 --max-new-tokens 2 --repeats 1", tmp_path)
    assert kept["figures"] == {"questions": 4, "pictures": 1}
    assert [row[0] for row in kept["tables"]["batches"]] == ["1", "2"]
    assert all(len(row) == 3 and min(numbers(row)) > 0 for row in kept["tables"]["batches"])


def test_many_questions_are_timed_against_single_ones(tmp_path):
    kept = figures("many", "--side-px 56 --pictures 2 --batch-size 2 --repeats 1", tmp_path)
    assert min(numbers(list(kept["figures"].values()))) > 0
    assert kept["figures"].keys() == {"pictures", "one picture"}


def test_what_needs_no_model_is_small(tmp_path, monkeypatch):
    """Torch alone takes hundreds of megabytes."""
    monkeypatch.setattr(startup, "LOAD_ONLY", "")
    kept = figures("startup", "--times 1", tmp_path)["figures"]
    assert 0 < float(kept["empty question MB"]) < float(kept["found MB"]) < 200


def test_drawing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "LAYERS", 2)
    monkeypatch.setattr(startup, "SIZE_PX", (184, 136))
    kept = figures("startup", "--draw --times 1", tmp_path)
    assert numbers([kept["figures"]["drawing s"]])


def test_a_clip_is_drawn_beside_matplotlib(tmp_path):
    pytest.importorskip("matplotlib")
    kept = figures("video", "--seconds 0.2 --repeats 1", tmp_path)["figures"]
    assert min(kept.values()) > 0
    assert kept["drawing over matplotlib's"] == pytest.approx(
        kept["drawing alone"] / kept["matplotlib, drawing alone"], rel=0.5
    )


@pytest.mark.browser
def test_a_page_is_timed_in_the_browser(tmp_path):
    kept = figures("report", "--layers 2 --heads 2 --words 3 --rows 4 --columns 5", tmp_path)["figures"]
    assert kept["MB"] < "1"
    assert 0 < kept["change ms"] <= kept["worst ms"]
    assert report.main is importlib.import_module("benchmarks.report").main


def test_methods_are_evaluated_on_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_methods, "METHODS", {name: evaluate_methods.METHODS[name] for name in ("mean", "tam")})
    monkeypatch.setattr(evaluate_methods, "FAITHFULNESS", False)
    tables = figures("evaluate_methods", f"--out {tmp_path}/out --scenes 3 --clips 0 --timed 1", tmp_path)["tables"]
    *rows, chance = tables["scenes"]
    assert [row[0] for row in rows] == ["mean", "tam"]
    assert all(len(row) == 9 and min(map(float, row[-2:])) > 0 for row in rows)
    assert float(chance[3]) == 0.5


# As a reader would run them, from the root of the repository.
COMMANDS = sorted(
    {
        command.strip()
        for command in re.findall(
            r"((?:OMP_NUM_THREADS=\d )?python scripts/benchmarks/[^`#\n]*)", (ROOT / "README.md").read_text()
        )
    }
)


def test_the_documents_name_every_benchmark():
    named = {re.search(r"benchmarks/(\w+)\.py", command)[1] for command in COMMANDS}
    assert named >= {path.stem for path in SCRIPTS.glob("*.py")} - SHARED


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_documents_name_runs(command, tmp_path):
    """From minutes to an hour each."""
    if "--device cuda" in command and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    *settings, _, script, words = re.fullmatch(r"(?:(\w+=\d+) )?(python) (\S+)(.*)", command).groups()
    words = [str(tmp_path / "out") if word.startswith("runs/") else word for word in shlex.split(words)]
    environment = ENVIRONMENT | dict(setting.split("=") for setting in settings if setting)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *words, "--write", str(tmp_path / "figures.json")],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["figures"] or kept["tables"]


@pytest.mark.parametrize("path", readme.READMES, ids=lambda path: path.name)
def test_the_readmes_have_the_figures_that_were_measured(path):
    text = path.read_text()
    assert readme.filled(text, readme.kept_figures()) == text, "run scripts/benchmarks/readme.py"


def other_digits(value):
    """Return JSON whose values, but not whose keys, have other digits."""
    if isinstance(value, dict):
        return {key: other_digits(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(other_digits, value))
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return type(value)(re.sub("[1-9]", lambda digit: str(int(digit[0]) % 9 + 1), str(value)))
    return value


def test_the_readme_quotes_every_file_of_figures():
    text, kept = readme.READMES[0].read_text(), readme.kept_figures()
    for name in kept:
        assert readme.filled(text, {**kept, name: other_digits(kept[name])}) != text, f"{name} is quoted"


def test_what_was_measured_names_its_command_and_no_place():
    for name, kept in readme.kept_figures().items():
        script = re.search(r"scripts/benchmarks/(\w+)\.py", kept["command"])[1]
        assert name.startswith(script)
        assert kept["command"] in readme.READMES[0].read_text(), "the document has the command that made its figures"
        assert set(kept["versions"]) == {"python", "qvl-attn", "torch", "transformers"}
        assert kept["machine"].keys() == {"cpu", "cores", "threads", "memory_gib", "gpu"}
        assert "/work" not in str(kept)
        assert "/tmp" not in str(kept)
