"""Results that earlier versions wrote are loaded and drawn, and their stored figures follow from their arrays."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import layer_figures
from qvl_attn.attribution.settings import settings_from
from qvl_attn.core.errors import InputError
from qvl_attn.core.typed_json import decoded
from qvl_attn.encoders.figures import draw_encoder_result
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.evaluation.compare import compare_runs
from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.rows import read_scores, score_row
from qvl_attn.evaluation.summary import summarise
from qvl_attn.evaluation.summary_json import Facts, read_summary
from qvl_attn.kinds import read_saved
from qvl_attn.render.style import Drawing
from qvl_attn.report import make_report
from qvl_attn.results.redraw import redrawn
from qvl_attn.results.result import request_folder
from qvl_attn.results.run_folder import open_run, read_run
from qvl_attn.vqa.figures import draw_result
from qvl_attn.vqa.result import request_key
from tests.helpers.encoder_records import encoder_folder
from tests.helpers.kept import KEPT, write_kept

SCHEMAS = sorted(path.name for path in KEPT.parent.iterdir() if path.is_dir())
SMALL = Drawing(draw_size_px=96)


def stored(folder: Path, name: str = "result.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def assert_close(actual, expected, place=""):
    """Compare two JSON values; numbers to a relative 1e-5, since sums may be made in another order."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_close(actual[name], value, f"{place}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), place
        for i, value in enumerate(expected):
            assert_close(actual[i], value, f"{place}[{i}]")
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-6), place
    else:
        assert actual == expected, place


def test_schemas_are_never_removed():
    assert "schema-1" in SCHEMAS


@pytest.mark.parametrize("kind", ["ask", "ask-methods", "video"])
def test_a_kept_result_is_loaded_and_drawn(tmp_path, kind):
    folder, value = write_kept(kind, tmp_path / kind), stored(KEPT / kind)
    result = read_saved(folder)
    assert (result.answer, result.answer_logprob) == (value["answer"], value["answer_logprob"])
    arrays = np.load(KEPT / kind / "attention.npz")
    np.testing.assert_array_equal(result.capture.weights, arrays["weights"])
    maps, headline = result.heatmaps(), value["headline"]
    cells = np.concatenate([heat.values.ravel() for heat in maps])
    assert_close(
        {"maximum": float(cells.max()), "minimum": float(cells.min()), **layer_figures(maps, result.capture.grids)},
        {name: headline[name] for name in ("maximum", "minimum", "vision_mass", "entropy_bits", "spread_px")},
    )
    drawn = draw_result(result, SMALL)
    again = json.loads(json.dumps(result._json(drawn.headline, value["files"], value["notes"])))
    assert_close(again, value)
    assert_close(value, again)
    pictures = dict(drawn.images())
    assert {name: make().ndim for name, make in pictures.items()} == dict.fromkeys(pictures, 3)
    assert {*pictures} <= {*value["files"]}
    assert redrawn(result, layers="0" if kind != "ask" else "1").heatmaps()[0].layers == (
        (0,) if kind != "ask" else (1,)
    )
    assert value["answer"] in make_report(folder).read_text(encoding="utf-8")


def test_the_parts_of_a_kept_result_are_there():
    two, methods, clip = (read_saved(KEPT / kind) for kind in ("ask", "ask-methods", "video"))
    assert (len(two.media), two.headline_heads()) == (2, ((1, 2), (2, 0)))
    assert [method.method for method in methods.methods] == ["relative"]
    assert methods.supplied_answer == "three"
    assert methods.curves
    assert {*methods.sanity} == {"relative"}
    assert (clip.pass_mode, len(clip.passes)) == ("both", len(clip.media[0].frames))


def test_a_kept_encoder_result_is_loaded_and_drawn(tmp_path):
    folder, value = write_kept("encoder", tmp_path / "encoder"), stored(KEPT / "encoder")
    result = EncoderResult.load(folder)
    arrays = np.load(KEPT / "encoder" / "attention.npz")
    np.testing.assert_array_equal(result.embedding.components, arrays["space_components"])
    np.testing.assert_array_equal(result.embedding.tsne, arrays["space_tsne"])
    again = json.loads(json.dumps(result._json((), value["files"], value["notes"])))
    assert_close(again, value)
    assert_close(value, again)
    pictures = dict(draw_encoder_result(result, SMALL).images())
    assert {*pictures} <= {*value["files"]}
    assert {make().ndim for make in pictures.values()} == {3}
    assert redrawn(result, layer=0, over="max")._figures(SMALL).overlay().ndim == 3
    assert "cats" in make_report(folder).read_text(encoding="utf-8")


def test_a_kept_check_is_read_resumed_compared_and_written_as_a_page(tmp_path):
    folder, summary = write_kept("check", tmp_path / "check"), stored(KEPT / "check", "summary.json")
    scores = read_scores(folder)
    rows = [json.loads(line) for line in (KEPT / "check" / "scores.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [score_row(score) for score in scores] == sorted(rows, key=lambda row: row["index"])
    again = summarise(scores, range(summary["model"]["layer_count"]), summary["bootstrap"]["seed"])
    for name in ("samples", "with_boxes", "answers_and_grounding"):
        assert again[name] == summary[name]
    assert {*summary["methods"]} >= {"relative", "mean"}
    means = {name: figure["mean"] for name, figure in again["headline"].items() if figure["n"]}
    assert_close(means, {name: summary["headline"][name]["mean"] for name in means})
    assert {*read_examples(folder)} == {score.id for score in scores}
    with open_run(folder, stored(KEPT / "check", "run.json")) as ledger:
        assert ledger.finished
    copy = write_kept("check", tmp_path / "copy")
    (comparison,) = compare_runs([folder, copy])["comparisons"]
    assert {figure["difference"] for figure in comparison["figures"].values()} <= {0.0, None}
    assert scores[0].question in make_report(folder).read_text(encoding="utf-8")


def test_the_types_of_a_run_have_every_field_that_is_written():
    run, summary = (stored(KEPT / "check", name) for name in ("run.json", "summary.json"))
    assert read_run(KEPT / "check") == run
    assert decoded(run["facts"], Facts, "facts") == run["facts"]
    assert read_summary(KEPT / "check") == summary
    assert json.loads(json.dumps(asdict(settings_from(run["facts"]["settings"], 4)))) == run["facts"]["settings"]


def without_stretch(kind: str, folder: Path) -> Path:
    """Write a kept result as versions before `--stretch` wrote it."""
    write_kept(kind, folder)
    for path in (folder / name for name in ("result.json", "run.json") if (folder / name).exists()):
        value = json.loads(path.read_text(encoding="utf-8"))
        removed = [
            part.pop(name)
            for part, name in ((value.get("settings", {}), "stretch"), (value.get("same", {}), "--stretch"))
            if name in part
        ]
        assert removed == [False]
        path.write_text(json.dumps(value), encoding="utf-8")
    return folder


def test_results_of_versions_before_stretch_are_found_again(tmp_path):
    """The folders' names are those that the version before it gave these requests."""
    asked = read_saved(without_stretch("ask", tmp_path / "ask"))
    encoded = EncoderResult.load(without_stretch("encoder", tmp_path / "encoder"))
    made_by, drawing = asdict(asked.provenance), Drawing()

    def folder_of_question(settings):
        key = request_key(asked.media, asked.question, settings, made_by)
        return request_folder(tmp_path, asked.media, asked.question, key, drawing).name

    def folder_of_encoder(settings):
        return encoder_folder(tmp_path, encoded.media[0], settings, drawing, encoded.provenance).name

    assert folder_of_question(asked.settings) == "cats-how-many-cats-4b718287"
    assert folder_of_encoder(encoded.settings) == "cats-demo-2da41916"
    assert folder_of_question(replace(asked.settings, stretch=True)) != "cats-how-many-cats-4b718287"
    assert folder_of_encoder(replace(encoded.settings, stretch=True)) != "cats-demo-2da41916"


def test_a_check_of_a_version_before_stretch_is_resumed(tmp_path):
    folder, run = without_stretch("check", tmp_path / "check"), stored(KEPT / "check", "run.json")
    with open_run(folder, run) as ledger:
        assert ledger.finished
    with (
        pytest.raises(InputError) as refused,
        open_run(folder, run | {"same": run["same"] | {"--stretch": True}}),
    ):
        pass
    assert refused.value.details == ("`stretch`: False before, True now",)
