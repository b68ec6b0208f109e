"""Damage to saved results and runs that ended in a traceback, a crash or a hang: one line now."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.evaluation.compare import compare_runs
from qvl_attn.evaluation.sharding import merge_runs
from qvl_attn.kinds import read_saved
from qvl_attn.report import make_report
from qvl_attn.results.run_folder import open_run
from qvl_attn.vqa.result import Result
from tests.helpers.kept import kept_files, write_kept

CHECK = kept_files("check")
RUN = json.loads(CHECK["run.json"])
ROWS = [json.loads(line) for line in CHECK["scores.jsonl"].splitlines()]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def run_with(folder, name, rows=ROWS, *, typed=None, **facts):
    """Write the kept run with other rows or facts; `typed` is its --shard, by default that of the facts."""
    shard = facts.get("shard")
    if typed is None and isinstance(shard, dict):
        typed = f"{shard['number']}/{shard['of']}"
    run = RUN | {"facts": {**RUN["facts"], **facts}, "same": {**RUN["same"], "--shard": typed}}
    changed = {"run.json": json.dumps(run).encode(), "scores.jsonl": lines(rows)}
    return write_kept("check", folder / name, **changed)


def one_line(error) -> str:
    text = error.value.in_one_line()
    assert "\n" not in text
    return text


def test_a_question_that_is_a_number_is_named_by_compare(tmp_path):
    whole, other = write_kept("check", tmp_path / "a"), run_with(tmp_path, "b", [ROWS[0] | {"question": 7}, *ROWS[1:]])
    with pytest.raises(StoreError) as error:
        compare_runs([whole, other])
    assert "scores.jsonl: line 1 is not a row of this version (row.question: expected str, got int)" in one_line(error)


def test_a_row_of_a_sample_that_is_not_in_the_run_is_never_counted(tmp_path):
    run = run_with(tmp_path, "run", [*ROWS, ROWS[0] | {"id": "nobody-asked"}])
    whole = write_kept("check", tmp_path / "whole")
    for use in (lambda: open_run(run, RUN).__enter__(), lambda: make_report(run), lambda: compare_runs([run, whole])):
        with pytest.raises(StoreError) as error:
            use()
        assert "line 4 is about 'nobody-asked', no sample of this run (remove the line)" in one_line(error)


def test_a_run_that_lacks_a_row_is_refused_alike(tmp_path):
    whole, shard = write_kept("check", tmp_path / "whole"), {"number": 1, "of": 1}
    run, part = run_with(tmp_path, "run", ROWS[1:]), run_with(tmp_path, "part", ROWS[1:], shard=shard)
    for folder, use in (
        (run, lambda: compare_runs([whole, run])),
        (run, lambda: compare_runs([run, whole])),
        (run, lambda: make_report(run)),
        (part, lambda: merge_runs([part], tmp_path / "all")),
    ):
        with pytest.raises(StoreError) as error:
            use()
        assert f"{folder}: its rows are not those of its samples: 2 rows, 3 samples" in one_line(error)
        assert "run the same check again: it asks the missing samples again" in one_line(error)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (None, "is not a part: it was run without `shard`"),
        ("1/2", "run.json: shard: expected object, got str"),
        ({"number": 1, "of": 10**8}, "want 1/N to N/N, with N at most 100,000"),
        ({"number": 3, "of": 2}, "want 1/N to N/N"),
        ({"number": "1", "of": 2}, "run.json: shard.number: expected int, got str"),
        ({"number": True, "of": 2}, "run.json: shard.number: expected int, got bool"),
    ],
)
def test_a_part_with_another_shard_is_refused_in_one_line(tmp_path, shard, message):
    part = run_with(tmp_path, "part", shard=shard)
    with pytest.raises((InputError, StoreError)) as error:
        merge_runs([part], tmp_path / "all")
    assert message in " ".join([one_line(error), *error.value.details])
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("typed", ["1/99999999999", "2/2", 1])
def test_a_part_whose_settings_name_another_shard_is_refused(tmp_path, typed):
    part = run_with(tmp_path, "part", shard={"number": 1, "of": 2}, typed=typed)
    with pytest.raises(InputError) as error:
        merge_runs([part], tmp_path / "all")
    assert f"`shard` is '{typed}', but facts.shard is 1/2" in " ".join(error.value.details)


def with_file(change):
    """Return the kept file of a change to a JSON object, or the text itself."""
    name, value = change
    content = json.loads(CHECK[name])
    return {name: json.dumps(content | value if isinstance(value, dict) else value).encode()}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (("run.json", []), "run.json is not a JSON object"),
        (("run.json", {"schema_version": 99}), "run.json has schema 99 (this version reads 1)"),
        (("run.json", {"kind": "x"}), "is not a check: run.json has kind 'x'"),
        (("summary.json", {"headline": "x"}), "summary.json is damaged: summary.headline: expected object, got str"),
        (("summary.json", {"data": None}), "summary.json is damaged: summary.data: expected str, got null"),
    ],
)
def test_compare_and_report_say_the_same_of_a_damaged_run(tmp_path, file, message):
    whole, run = write_kept("check", tmp_path / "whole"), write_kept("check", tmp_path / "run", **with_file(file))
    texts = []
    for words in (["compare", str(whole), str(run)], ["report", str(run)]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1, done.output
        texts.append(" ".join(done.stderr.split()))
    assert texts[0] == texts[1]
    assert message.partition(" (")[0] in texts[0]


def test_an_index_beyond_the_samples_is_refused_alike(tmp_path):
    rows, shard = [ROWS[0] | {"index": 3}, *ROWS[1:]], {"number": 1, "of": 1}
    run, part = run_with(tmp_path, "run", rows), run_with(tmp_path, "part", rows, shard=shard)
    whole = write_kept("check", tmp_path / "whole")
    for use in (
        lambda: compare_runs([whole, run]),
        lambda: make_report(run),
        lambda: merge_runs([part], tmp_path / "all"),
    ):
        with pytest.raises(StoreError) as error:
            use()
        assert f"scores.jsonl: the row of {ROWS[0]['id']!r} has index 3 of 3 samples" in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 5}, "result.answer: expected str, got int"),
        ({"question": None}, "result.question: expected str, got null"),
        ({"headline": {"vision_mass": "x"}}, "result.headline.vision_mass: expected float, got str"),
        (
            {"layers": [{"layer": 0, "vision_mass": "x"}]},
            "result.layers[0].vision_mass: expected float, got str",
        ),
    ],
)
def test_a_value_of_another_kind_in_a_result_is_damage(tmp_path, change, message):
    result = json.loads(kept_files("ask")["result.json"]) | change
    folder = write_kept("ask", tmp_path / "result", **{"result.json": json.dumps(result).encode()})
    with pytest.raises(StoreError) as error:
        make_report(folder)
    assert "is damaged" in one_line(error)
    assert message in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_indices": [0, 8, 16, 2**40]}, "frame_indices: out of range"),
        ({"frame_indices": [0, 8, 16, 10**40]}, "frame_indices[3]: expected int <= "),
        ({"frame_indices": [-1, 8, 16, 24]}, "frame_indices[0]: expected int >= 0"),
        ({"frame_indices": [0, 16, 8, 24]}, "frame_indices: none, or not ascending"),
        ({"end_s": 1e50}, "end 1e+50 s"),
        ({"rate_fps": 1e50}, "rate_fps 1e+50"),
        ({"sampled_fps": 1e50}, "sampled_fps 1e+50"),
    ],
)
def test_facts_that_no_clip_has_are_damage(tmp_path, change, message):
    """Room for as many frames as the last index says was made before anything was compared with it."""
    result = json.loads(kept_files("video")["result.json"])
    result["media"][0]["clip"] |= change
    folder = write_kept("video", tmp_path / "result", **{"result.json": json.dumps(result).encode()})
    with pytest.raises(StoreError) as error:
        read_saved(folder)
    assert message in one_line(error)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"model": {**RUN["facts"]["model"], "layer_count": 10**9}}, "facts.model.layer_count: expected int <= 65536"),
        ({"model": {**RUN["facts"]["model"], "layer_count": 5}}, "layer_count: not that of the rows"),
        ({"seed": -1}, "facts.seed: expected int >= 0"),
        ({"headline_of": {"layers": ["all"], "heads": None}}, "facts.headline_of.layers[0]: expected int, got str"),
        ({"headline_of": {"layers": [], "heads": None}}, "a headline without layers or heads"),
        (
            {"headline_of": {"layers": [], "heads": [[1]]}},
            "headline_of.heads[0]: expected array of length 2, got 1",
        ),
        ({"headline_of": {"layers": [10**9], "heads": None}}, "facts.headline_of: the model has layers 0 to"),
        ({"headline_of": {"layers": [], "heads": [[-1, 0]]}}, "facts.headline_of: the model has layers 0 to"),
        ({"settings": None}, "facts.settings: expected object, got null"),
    ],
)
def test_facts_that_a_run_cannot_have_are_refused_by_merge(tmp_path, facts, message):
    part = run_with(tmp_path, "part", **{"shard": {"number": 1, "of": 1}, **facts})
    with pytest.raises(StoreError) as error:
        merge_runs([part], tmp_path / "all")
    assert message in one_line(error)


def test_a_sample_in_two_parts_is_not_counted_twice(tmp_path):
    parts = [run_with(tmp_path, f"part-{number}", shard={"number": number, "of": 2}) for number in (1, 2)]
    with pytest.raises(StoreError) as error:
        merge_runs(parts, tmp_path / "all")
    assert f"sample {ROWS[0]['id']!r} is in more than one part" in one_line(error)


def test_a_folder_that_is_no_run_is_named_by_merge(tmp_path):
    part = run_with(tmp_path, "part", shard={"number": 1, "of": 1})
    done = CliRunner().invoke(app, ["merge", str(part), str(tmp_path / "nope"), "--out", str(tmp_path / "all")])
    assert done.exit_code == 2, done.output
    assert f"{tmp_path}/nope is not a folder: name the --out folder of a part" in " ".join(done.stderr.split())


def arrays_with(kind, **changed):
    arrays = dict(np.load(io.BytesIO(kept_files(kind)["attention.npz"])))
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays | {name: change(arrays[name]) for name, change in changed.items()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("encoder", "boxes_px", lambda array: array + np.float32(1e5)),
        ("encoder", "boxes_px", lambda array: array * np.float32(1e6)),
        ("encoder", "boxes_px", lambda array: array[:, [2, 3, 0, 1]]),
        ("encoder", "grid_rows", lambda array: array.astype(np.complex64)),
        ("encoder", "weights_by_head", lambda array: array[:0]),
        ("ask", "query_role", lambda array: np.where(array == "last", "question", array)),
        ("ask", "weights", lambda array: array.astype("M8[s]")),
        ("ask", "layers", lambda array: array[:0]),
    ],
)
def test_damaged_arrays_are_an_error_before_anything_is_drawn(tmp_path, kind, name, change):
    """Boxes outside the picture ended the whole process: OpenCV divides by zero for an empty array."""
    folder = write_kept(kind, tmp_path / "result", **{"attention.npz": arrays_with(kind, **{name: change})})
    with pytest.raises((StoreError, InputError)) as error:
        make_report(folder)
    one_line(error)


@pytest.mark.parametrize("value", [{"a": 1}, 7, ["1.2"]])
def test_a_setting_that_is_no_text_is_damage(tmp_path, value):
    result = json.loads(kept_files("ask")["result.json"])
    result["settings"]["heads"] = value
    folder = write_kept("ask", tmp_path / "result", **{"result.json": json.dumps(result).encode()})
    with pytest.raises(StoreError, match=r"is damaged: .*settings.heads: expected str \| null, got "):
        read_saved(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sharpen": 1}, "settings.sharpen: unknown"),
        ({"query": None}, "settings.query: expected str, got null"),
        ({"methods": ["best"]}, "no method 'best'"),
        ({"layers": [1, 9]}, "9"),
        ({"clip": {"fps": 5000}}, "settings: `fps=5000"),
        ({"headline": {"layers": [], "heads": [[1, 2, 3]]}}, "settings.headline.heads[0]: expected array of length 2"),
    ],
)
def test_settings_that_this_version_does_not_write_are_damage(tmp_path, change, message):
    result = json.loads(kept_files("ask")["result.json"])
    result["settings"] |= change
    folder = write_kept("ask", tmp_path / "result", **{"result.json": json.dumps(result).encode()})
    with pytest.raises(StoreError) as error:
        read_saved(folder)
    assert message in one_line(error)
    del result["settings"]["query"]
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(StoreError, match="settings: object missing required field query"):
        read_saved(folder)


@pytest.mark.parametrize(("name", "value"), [("layers", "0-9"), ("heads", "1.x"), ("query", "cats")])
def test_a_setting_that_cannot_be_parsed_is_damage(tmp_path, name, value):
    result = json.loads(kept_files("ask")["result.json"])
    result["settings"][name] = value
    folder = write_kept("ask", tmp_path / "result", **{"result.json": json.dumps(result).encode()})
    with pytest.raises(StoreError, match=f"is damaged: `{name}='{value}'`"):
        read_saved(folder)


@pytest.mark.parametrize("value", [4.0, True, "4", None])
def test_a_number_of_layers_that_is_no_whole_number_is_damage(tmp_path, value):
    """In a pass of a clip it was found only when the pass was drawn again."""
    file = "passes/000/result.json"
    result = json.loads(kept_files("video")[file])
    result["provenance"]["layer_count"] = value
    folder = write_kept("video", tmp_path / "result", **{file: json.dumps(result).encode()})
    with pytest.raises(StoreError, match=r"is damaged: .*provenance.layer_count: expected int, got "):
        read_saved(folder)


def test_a_result_of_another_kind_is_told_apart(tmp_path):
    ask, encoder = write_kept("ask", tmp_path / "ask"), write_kept("encoder", tmp_path / "encoder")
    with pytest.raises(InputError, match=r"is a result of ask, not of encoder \(the class of its kind loads it"):
        EncoderResult.load(ask)
    with pytest.raises(InputError, match=r"is a result of encoder, not of ask or video \(the class"):
        Result.load(encoder)
    assert (type(read_saved(ask)), type(read_saved(encoder))) == (Result, EncoderResult)
