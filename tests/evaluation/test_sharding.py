"""Parts of a data set: their samples, and that controls and galleries are those of the whole data set."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import load_samples
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.samples import MediaRef, Sample
from qvl_attn.evaluation.loop import other_samples
from qvl_attn.evaluation.outputs import gallery_scores
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.sharding import MAX_SHARDS, Shard
from tests.helpers.check_runs import without_drawings
from tests.helpers.run_comparison import json_differences, rows_of


def make_sample(names, i) -> Sample:
    media_refs = tuple(MediaRef("picture", name, (56, 56), Path(name)) for name in names)
    return Sample(f"line {i}", f"id-{i}", media_refs, f"question {i}?", (), np.zeros((0, 4)), np.zeros(0, int), index=i)


def samples_about(*pictures) -> list[Sample]:
    """Return a sample for each argument, about one picture or several."""
    return [make_sample([names] if isinstance(names, str) else names, i) for i, names in enumerate(pictures)]


def parts_of(samples, of):
    return [Shard(number, of).own(samples) for number in range(1, of + 1)]


def ids(samples):
    return [sample.id for sample in samples]


# Some names joined together are other names: none may be mistaken for another.
NAMES = [*"abcdef", "ab", "bc", "cd", "abc", "bcd", "a b", "é", "a.png", "./a.png"]
prompts = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple), max_size=60)


@pytest.mark.parametrize(
    ("typed", "want"),
    [("1/1", (1, 1)), ("2/8", (2, 8)), ("8/8", (8, 8)), ("02/08", (2, 8)), ("100000/100000", (100_000, 100_000))],
)
def test_valid_shards(typed, want):
    shard = Shard.parse(typed)
    assert (shard.number, shard.of) == want
    assert Shard.parse(str(shard)) == shard


WRONG = ["0/3", "4/3", "1/0", "0/0", "-1/3", "1/-3", "+1/3", "a/b", "1/b", "/", "1/", "/3", "3", "1/2/3", "1.0/3"]
WRONG += ["", " ", "1 /3", " 1/3", "1/3 ", "1/3\n", "1_0/20", "١/٣", "1/３", "²/3", "1\\3", "0x1/3"]
WRONG += ["1/100001", "1/" + "9" * 30, "9" * 5000 + "/" + "9" * 5000]


@pytest.mark.parametrize("typed", WRONG, ids=lambda typed: repr(typed)[:20])
def test_invalid_shards(typed):
    with pytest.raises(InputError, match="`shard=") as fault:
        Shard.parse(typed)
    assert fault.value.exit_code == 2


def test_the_command_refuses_an_invalid_shard_and_reads_nothing(tmp_path):
    done = CliRunner().invoke(app, ["check", "nowhere.jsonl", "--shard", "4/3", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "--shard 4/3: want 1/N to N/N" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


@given(prompts, st.integers(1, 9))
def test_each_sample_is_in_one_part_in_its_order(pictures, of):
    samples = samples_about(*pictures)
    parts = parts_of(samples, of)
    assert sorted(ids(sample for part in parts for sample in part)) == sorted(ids(samples))
    assert all([sample.index for sample in part] == sorted(sample.index for sample in part) for part in parts)


@given(prompts, st.integers(1, 9))
def test_questions_about_the_same_pictures_are_in_one_part(pictures, of):
    parts_by_names: dict[tuple[str, ...], set[int]] = {}
    for number, part in enumerate(parts_of(samples_about(*pictures), of)):
        for sample in part:
            parts_by_names.setdefault(sample.names, set()).add(number)
    assert all(len(numbers) == 1 for numbers in parts_by_names.values())


@given(prompts, st.integers(1, 9))
def test_parts_are_as_large_as_one_another_but_for_a_picture(pictures, of):
    samples = samples_about(*pictures)
    largest = max(Counter(sample.names for sample in samples).values(), default=0)
    for part in parts_of(samples, of):
        assert abs(len(part) - len(samples) / of) <= largest


@given(prompts, st.integers(1, 9), st.randoms())
def test_the_order_of_the_questions_moves_none_to_another_part(pictures, of, chance: random.Random):
    samples = samples_about(*pictures)
    mixed_samples = chance.sample(samples, len(samples))
    for part, mixed_part in zip(parts_of(samples, of), parts_of(mixed_samples, of), strict=True):
        assert sorted(ids(part)) == sorted(ids(mixed_part))


def test_a_part_holds_pictures_from_the_whole_data_set():
    """Data sets are often sorted, for example by difficulty: a part must not be consecutive samples."""
    samples = samples_about(*(f"picture-{i:04d}.png" for i in range(1000)))
    for part in parts_of(samples, 4):
        assert len(part) == 250
        quarters = Counter(sample.index // 250 for sample in part)
        assert all(40 < quarters[i] < 85 for i in range(4))


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 400))
def test_with_more_parts_than_pictures_some_are_empty(count, more):
    samples = samples_about(*(f"{i}.png" for i in range(count)))
    parts = parts_of(samples, count + more)
    assert sorted(len(part) for part in parts if part) == [1] * count
    assert ids(Shard(MAX_SHARDS, MAX_SHARDS).own(samples)) in ([], *([sample.id] for sample in samples))


def test_where_pictures_go_is_the_same_in_every_process():
    """The hash of a string in Python differs between processes."""
    parts = parts_of(samples_about(*"abcdefghij", ("a", "b")), 3)
    assert ["".join("+".join(sample.names) for sample in part) for part in parts] == ["cdfj", "beha+b", "agi"]


# Galleries


figures = st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0]), st.sampled_from([0.1, 0.25, 0.5]))


@settings(max_examples=300)
@given(st.lists(figures, max_size=40), st.integers(1, 6), st.integers(0, 10**6))
def test_the_best_and_the_worst_of_all_are_among_those_of_the_parts(figure_rows, of, salt):
    """Else a merge would have no drawing of them to copy. Ties are frequent here."""
    part_of_picture = np.random.default_rng(salt).integers(of, size=7)
    scores = [
        Score(f"id-{i}", (f"{picture}.png",), "?", boxes=1, index=i, area=0.1, headline={"pointing": hit, "mass": mass})
        for i, (picture, hit, mass) in enumerate(figure_rows)
    ]
    drawn_ids = {
        score.id
        for part in range(of)
        for _, score in gallery_scores([score for score in scores if part_of_picture[int(score.media[0][0])] == part])
    }
    assert {score.id for _, score in gallery_scores(scores)} <= drawn_ids


# Controls


def test_a_sample_has_the_same_control_in_its_part_as_in_the_whole(demo, tmp_path, monkeypatch):
    """The control uses the boxes of another sample, mostly of another part: figures must not depend on the parts."""
    without_drawings(monkeypatch)
    colors, rows = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200), (200, 40, 200)), []
    for i, color in enumerate(colors):
        Image.fromarray(np.full((112, 112, 3), color, np.uint8)).save(tmp_path / f"{i}.png")
        box = [14 * i, 0, 14 * i + 28, 56 + 8 * i]
        row = {"image": f"{i}.png", "boxes": [box], "box_format": "xyxy", "box_units": "px", "answer": "red"}
        rows += [row | {"id": f"{i}-{j}", "question": f"what color is it?{'?' * j}"} for j in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = load_samples(tmp_path / "rows.jsonl")
    others = other_samples(samples, 0)
    part_by_id = {sample.id: number for number, part in enumerate(parts_of(samples, 2)) for sample in part}
    assert sum(part_by_id[name] != part_by_id[other.id] for name, other in others.items()) > 4, (
        "or the test would prove nothing"
    )

    def controls(out, **options):
        demo.check(samples, tmp_path / out, max_new_tokens=1, **options)
        return {row["id"]: row["controls"]["other"] for row in rows_of(tmp_path / out)}

    whole = controls("whole")
    apart = {name: value for i in (1, 2) for name, value in controls(f"part-{i}", shard=f"{i}/2").items()}
    assert apart.keys() == whole.keys()
    assert [line for name in whole for line in json_differences(whole[name], apart[name], name)] == []
