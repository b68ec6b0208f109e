"""`check --faithfulness`: curve areas and sanity checks in rows, summary, printed table and CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.load import load_samples
from tests.helpers.check_runs import invoke, without_drawings
from tests.helpers.loading import without_loading
from tests.helpers.run_comparison import rows_of, summary_of

GROUNDING = ("pointing", "mass", "lift", "auc", "iou")
AREAS = ("deletion_blur", "deletion_mean", "insertion_blur", "insertion_mean")
SANITY = [f"{what}_{how}" for how in ("rank", "ssim") for what in ("weights", "question", "picture")]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    write_dataset(folder, 1)
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def check(demo):
    """Run the command without loading the weights each time, and without charts."""
    with pytest.MonkeyPatch.context() as patch:
        without_loading(patch, demo)
        without_drawings(patch)
        yield lambda data, out, *args: invoke(data, *args, out=out)


def samples_of(scenes):
    return {sample.id: sample for sample in load_samples(str(scenes))}


@pytest.fixture(scope="module")
def faithful(check, scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithful") / "run"
    done = check(scenes, folder, "--methods", "gradient", "--faithfulness", "--limit", 2, "--max-pixels", 6272, "--csv")
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def test_a_row_has_the_areas_and_similarities_of_the_sample_asked_alone(faithful, scenes, demo):
    samples = samples_of(scenes)
    row = rows_of(faithful[0])[1]
    sample = samples[row["id"]]
    alone = demo.ask(
        sample.media_refs[0].source,
        sample.question,
        method="gradient",
        faithfulness=True,
        max_pixels=6272,
        max_new_tokens=64,
    )
    assert list(row["methods"]) == ["gradient", "random", "uniform"]
    assert list(row["methods"]["gradient"]) == [*GROUNDING, "empty", *AREAS, *SANITY]
    assert list(row["methods"]["random"]) == list(AREAS) == list(row["methods"]["uniform"])
    for name, figures in alone.curves.figures().items():
        for figure, value in figures.items():
            assert row["methods"][name][figure] == pytest.approx(value, rel=1e-3, abs=1e-3)
    checks = alone.sanity["gradient"]
    for name, similarity in (
        ("weights", checks.weights[3]),
        ("question", checks.question),
        ("picture", checks.picture),
    ):
        for measure, value in (("rank", similarity.rank_correlation), ("ssim", similarity.ssim)):
            assert row["methods"]["gradient"][f"{name}_{measure}"] == pytest.approx(value, abs=2e-3)
    assert "top 4 of 4" in checks.weights[3].label


def test_faithfulness_is_in_summary_table_and_csv(faithful):
    rows, table = rows_of(faithful[0]), summary_of(faithful[0])["methods"]
    for name, figures in table.items():
        for figure in figures:
            values = [row["methods"][name][figure] for row in rows if row["methods"][name][figure] is not None]
            assert figures[figure]["mean"] == pytest.approx(np.mean(values), rel=2e-5, abs=2e-6)
            assert ("chance" in figures[figure]) == (figure in GROUNDING)
    lines = faithful[1].splitlines()
    for title, columns, names in (
        ("area, nats", ("deletion_blur", "deletion_mean", "insertion_blur", "insertion_mean"), list(table)),
        ("rank correlation", ("weights_rank", "question_rank", "picture_rank"), ["gradient"]),
    ):
        head = next(i for i, line in enumerate(lines) if line.startswith(title))
        for line, name in zip(lines[head + 1 :], names, strict=False):
            assert line.split()[0] == name
            means = [table[name][column]["mean"] if column in table[name] else None for column in columns]
            assert [cell for cell in line.split()[1:] if "[" not in cell and "]" not in cell] == [
                "-" if mean is None else f"{mean:.3f}" for mean in means
            ]
    header = (faithful[0] / "scores.csv").read_text(encoding="utf-8-sig").splitlines()[0].split(",")
    assert {"deletion_blur_random", "insertion_mean_uniform", "weights_rank_gradient"} <= set(header)
    assert "weights_rank_random" not in header


def test_without_methods_the_chosen_headline_is_tested(check, scenes, tmp_path, demo):
    """Curves and sanity checks are those of the chosen layers and heads, not of the default ones."""
    sample = next(iter(samples_of(scenes).values()))
    alone = demo.ask(
        sample.media_refs[0].source, sample.question, faithfulness=True, max_pixels=6272, max_new_tokens=64, heads="1.0"
    )
    done = check(
        scenes, tmp_path / "run", "--faithfulness", "--limit", 1, "--max-pixels", 6272, "--heads", "1.0", "--by-head"
    )
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "run")
    assert list(row["methods"]) == ["headline", "random", "uniform"]
    assert "method_chance" not in row
    want = alone.curves.figures()["headline"] | alone.sanity["headline"].figures()
    for figure, value in want.items():
        assert row["methods"]["headline"][figure] == pytest.approx(value, abs=2e-3), figure
