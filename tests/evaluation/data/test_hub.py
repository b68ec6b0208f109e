"""Hugging Face data sets: their columns become records, their pictures are read from the saved bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import date
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.hub import FIELDS, hub_rows, is_hub_set
from qvl_attn.evaluation.data.question_sets import PromptItem
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import read_samples
from qvl_attn.media.image import load_picture, picture_from
from tests.helpers.processes import PATIENCE_S

REPOSITORY = Path(__file__).parents[3]
PICTURE, TEXT, BOX = datasets.Image(), Value("string"), List(Value("float64"))
ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def quiet():
    """Show no progress bars of the tests themselves; `hub_rows` switches off its own."""
    datasets.disable_progress_bars()


@pytest.fixture
def pictures(make_picture):
    """Files of two sizes."""
    return [str(make_picture(64, 32, "a.png")), str(make_picture(20, 60, "b.png", seed=1))]


def table(**columns):
    """Return a table of columns, each given with its feature."""
    return Dataset.from_dict(
        {name: values for name, (values, _) in columns.items()},
        features=Features({name: feature for name, (_, feature) in columns.items()}),
    )


def save(folder, **columns):
    table(**columns).save_to_disk(folder)
    return str(folder)


@pytest.fixture
def one_picture_set(tmp_path, pictures):
    """Save a data set of one picture with a question, and further columns."""

    def write(**columns):
        base = {"image": (pictures[:1], PICTURE), "question": (["Where?"], TEXT)}
        return save(tmp_path / "set", **{**base, **columns})

    return write


def read(name, root, columns=None, box_format=None, box_units=None, split="test", prompts=()):
    """Return the samples of a data set as `check` reads them."""
    records, readers = hub_rows(name, split, columns, box_format, box_units)
    return read_samples(records, root, Faults(), prompts, readers)


def faults_of(*args, **options):
    with pytest.raises(InputError) as caught:
        read(*args, **options)
    assert caught.value.details
    return list(caught.value.details)


def error_of(name, root, **options):
    """Return the one line of the error of a data set that cannot be loaded."""
    with pytest.raises(InputError) as caught:
        read(name, root, **options)
    assert caught.value.hint
    assert caught.value.details == ()
    assert str(caught.value).isprintable()
    return str(caught.value)


def check(*args):
    return CliRunner().invoke(app, ["check", *map(str, args)])


# Names of data sets.


def test_names_of_data_sets(tmp_path, one_picture_set, pictures):
    name = one_picture_set()
    DatasetDict(val=table(image=(pictures, PICTURE))).save_to_disk(tmp_path / "splits")
    assert is_hub_set("hf:lmms-lab/RefCOCO")
    assert is_hub_set(name)
    assert is_hub_set(str(tmp_path / "splits"))


@pytest.mark.parametrize("name", ["rows.jsonl", "", "gone", "lmms-lab/RefCOCO", "a\0b", "a" * 300, "a" * 5000, "/"])
def test_names_of_other_things(tmp_path, make_picture, monkeypatch, name):
    make_picture(4, 4)
    (tmp_path / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert not is_hub_set(name)
    assert not is_hub_set(str(tmp_path))


# Columns.


def test_columns_with_names_of_fields_are_used(tmp_path, pictures):
    name = save(
        tmp_path / "set",
        id=([7, 8], Value("int64")),
        image=(pictures, PICTURE),
        question=(["Where?", "What?"], TEXT),
        answer=([["red", "pink"], ["blue"]], List(TEXT)),
        boxes=([[[1, 2, 5, 8], [0, 0, 64, 32]], []], List(BOX)),
        box_format=(["xyxy", None], TEXT),
        box_units=(["px", None], TEXT),
        split=(["val", "val"], TEXT),
    )
    first, second = read(name, tmp_path)
    assert (first.place, first.id, first.question, first.answers) == ("row 0", "7", "Where?", ("red", "pink"))
    assert first.boxes_px.tolist() == [[1, 2, 5, 8], [0, 0, 64, 32]]
    assert first.frames.tolist() == [0, 0]
    assert (second.place, second.id, second.answers, len(second.boxes_px)) == ("row 1", "8", ("blue",), 0)
    assert [sample.media_refs[0].size_px for sample in (first, second)] == [(64, 32), (20, 60)]


def test_rows_without_an_id_are_numbered(tmp_path, pictures):
    name = save(tmp_path / "set", image=(pictures, PICTURE), question=(["Where?"] * 2, TEXT))
    assert [sample.id for sample in read(name, tmp_path)] == ["row-0", "row-1"]


def test_columns_of_other_names_are_mapped(tmp_path, pictures):
    name = save(
        tmp_path / "set",
        picture=(pictures[:1], PICTURE),
        sent=(["Where?"], TEXT),
        question=(["another"], TEXT),
        bbox=([[[1, 2, 4, 6]]], List(BOX)),
        ref=(["r"], TEXT),
        said=(["red"], TEXT),
    )
    columns = "image=picture, question=sent,boxes = bbox,id=ref,answer=said"
    (sample,) = read(name, tmp_path, columns, "xywh", "px")
    assert (sample.id, sample.question, sample.answers) == ("r", "Where?", ("red",))
    assert sample.boxes_px.tolist() == [[1, 2, 5, 8]]


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_a_single_box_stands_by_itself(tmp_path, pictures, kind):
    boxes = [[1, 2, 5, 8], [3, 4, 6, 10]]
    name = save(
        tmp_path / "set",
        image=(pictures, PICTURE),
        question=(["Where?"] * 2, TEXT),
        bbox=(boxes, List(Value(kind), length=4)),
    )
    samples = read(name, tmp_path, "boxes=bbox", "xyxy", "px")
    assert [sample.boxes_px.tolist() for sample in samples] == [[box] for box in boxes]


def test_a_row_may_have_no_box(tmp_path, pictures):
    columns = {"image": (pictures, PICTURE), "question": (["Where?"] * 2, TEXT)}
    name = save(tmp_path / "set", **columns, boxes=([None, []], List(List(Value("float64")))))
    assert [sample.boxes_px.shape for sample in read(name, tmp_path, None, "xyxy", "px")] == [(0, 4), (0, 4)]


def test_a_column_overrides_an_option(tmp_path, pictures):
    name = save(
        tmp_path / "set",
        image=(pictures[:1] * 3, PICTURE),
        question=(["Where?"] * 3, TEXT),
        boxes=([[0.25, 0.25, 0.5, 0.5], [8, 4, 16, 8], [250, 250, 500, 500]], BOX),
        box_format=(["xyxy", "xywh", None], TEXT),
        units=(["normalized", "px", None], TEXT),
    )
    samples = read(name, tmp_path, "box_units=units", "cxcywh", "permille")
    assert [sample.boxes_px.tolist() for sample in samples] == [[[16, 8, 32, 16]], [[8, 4, 24, 12]], [[0, 0, 32, 16]]]


def test_boxes_say_their_format_and_units(tmp_path, one_picture_set):
    name = one_picture_set(boxes=([[1, 2, 5, 8]], BOX))
    assert [line.split(":")[:2] for line in faults_of(name, tmp_path)] == [
        ["row 0", " box_format"],
        ["row 0", " box_units"],
    ]
    assert [line.split(":")[:2] for line in faults_of(name, tmp_path, box_format="xyxy")] == [["row 0", " box_units"]]


@pytest.mark.parametrize("values", [[1, 2, 5, float("nan")], [1, 2, 5, None], [1, 2, 5], [None]])
def test_values_that_are_not_boxes_name_their_row(tmp_path, one_picture_set, values):
    name = one_picture_set(boxes=([values], BOX))
    assert faults_of(name, tmp_path, None, "xyxy", "px") == ["row 0: boxes[0]: want four finite numbers"]


def test_boxes_that_are_objects_are_faults(tmp_path, one_picture_set):
    name = one_picture_set(boxes=([[{"x": 1.0, "y": 2.0}]], List({"x": Value("float64"), "y": Value("float64")})))
    assert faults_of(name, tmp_path, None, "xyxy", "px") == ["row 0: boxes[0]: want four finite numbers"]


def test_types_that_json_does_not_have_become_strings(tmp_path, one_picture_set):
    (sample,) = read(one_picture_set(id=([date(2025, 1, 2)], Value("date32"))), tmp_path)
    assert sample.id == "2025-01-02"


def test_several_faults_name_their_rows(tmp_path, pictures):
    name = save(
        tmp_path / "set",
        id=(["a", "a", "b"], TEXT),
        image=([*pictures, None], PICTURE),
        question=(["Where?", "Where?", ""], TEXT),
        boxes=([[0, 0, 64, 32], [0, 0, 64, 32], [5, 2, 1, 8]], BOX),
    )
    assert faults_of(name, tmp_path, None, "xyxy", "px") == [
        "row 1: id: 'a' is already used at row 0",
        "row 1: boxes[0]: 0, 0, 64, 32 (px, as xyxy) extends beyond the picture of 20 x 60 px: wrong box_units?",
        "row 2: image: want one of image, images and video; there is none",
        "row 2: boxes[0]: x2 1 is not right of x1 5",
        "row 2: question: want a non-empty string",
    ]


def test_prompts_are_asked_of_pictures_without_a_question(tmp_path, pictures):
    name = save(tmp_path / "set", image=(pictures, PICTURE))
    samples = read(name, tmp_path, prompts=[PromptItem("colour", "Which colour?")])
    assert [sample.id for sample in samples] == ["row-0/colour", "row-1/colour"]
    assert faults_of(name, tmp_path)[0] == "row 0: question: missing, and no `prompts` are given"


def test_rows_beyond_the_limit_are_not_read(tmp_path, pictures):
    name = save(tmp_path / "set", image=([pictures[0], None], PICTURE), question=(["Where?"] * 2, TEXT))
    records, readers = hub_rows(name, "test", None, None, None)
    (sample,) = read_samples(islice(records, 1), tmp_path, Faults(), (), readers)
    assert sample.id == "row-0"
    assert list(readers) == ["row-0-0"]


# Pictures.


def test_several_pictures_of_a_prompt(tmp_path, pictures):
    name = save(
        tmp_path / "set",
        images=([pictures, pictures[1:]], List(PICTURE)),
        question=(["Which?"] * 2, TEXT),
        boxes=([[[0, 15, 10, 60], [32, 0, 64, 32]], [[0, 15, 10, 60]]], List(BOX)),
        frame=([[1, 0], [0]], List(Value("int64"))),
    )
    both, single = read(name, tmp_path, None, "xyxy", "px")
    assert [media_ref.size_px for media_ref in both.media_refs] == [(64, 32), (20, 60)]
    assert both.unit_boxes().tolist() == [[0.5, 0, 1, 1]]
    assert both.unit_boxes(1).tolist() == [[0, 0.25, 0.5, 1]]
    assert [media_ref.size_px for media_ref in single.media_refs] == [(20, 60)]
    for sample, files in ((both, pictures), (single, pictures[1:])):
        for media_ref, file in zip(sample.media_refs, files, strict=True):
            assert media_ref.source() == Path(file).read_bytes()


@pytest.mark.parametrize("feature", [List(PICTURE, length=2), datasets.LargeList(PICTURE)], ids=["fixed", "large"])
def test_lists_of_either_kind(tmp_path, pictures, feature):
    name = save(tmp_path / "set", images=([pictures], feature), question=(["Which?"], TEXT))
    (sample,) = read(name, tmp_path)
    assert [media_ref.size_px for media_ref in sample.media_refs] == [(64, 32), (20, 60)]


def test_the_type_of_the_column_decides_between_one_and_several(tmp_path, pictures):
    columns = {"question": (["Which?"], TEXT)}
    lists = save(tmp_path / "lists", image=([pictures], List(PICTURE)), **columns)
    single = save(tmp_path / "single", images=(pictures[:1], PICTURE), **columns)
    assert [len(sample.media_refs) for sample in read(lists, tmp_path)] == [2]
    assert [len(sample.media_refs) for sample in read(single, tmp_path)] == [1]


def test_rows_about_the_same_picture_share_its_name(tmp_path, pictures):
    rows = [pictures, pictures[1:], [pictures[0]] * 2]
    name = save(tmp_path / "set", images=(rows, List(PICTURE)), question=(["?"] * 3, TEXT))
    records, readers = hub_rows(name, "test", None, None, None)
    both, second, first = read_samples(records, tmp_path, Faults(), (), readers)
    assert both.names == ("row-0-0", "row-0-1")
    assert second.names == ("row-0-1",)
    assert first.names == ("row-0-0", "row-0-0")
    assert {picture: read() for picture, read in readers.items()} == {
        picture: Path(file).read_bytes() for picture, file in zip(both.names, pictures, strict=True)
    }


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_saved_pictures_are_those_of_the_files(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels).save(tmp_path / f"turned.{suffix}", exif=exif)
    Image.fromarray(pixels[::-1]).save(tmp_path / f"plain.{suffix}")
    files = [tmp_path / f"{name}.{suffix}" for name in ("turned", "plain")]
    name = save(tmp_path / "set", image=([*map(str, files)], PICTURE), question=(["?"] * 2, TEXT))
    samples = read(name, tmp_path)
    for file in files:
        file.rename(file.with_suffix(".moved"))
    assert [sample.media_refs[0].size_px for sample in samples] == [(30, 40), (40, 30)]
    for sample, file in zip(samples, files, strict=True):
        saved, original = picture_from(sample.media_refs[0].source(), "saved"), load_picture(file.with_suffix(".moved"))
        assert np.array_equal(saved.frames, original.frames)
        assert (saved.sha256, saved.notes, saved.size_px) == (original.sha256, original.notes, original.size_px)


def test_saved_photographs_are_those_of_the_files(shared_data, tmp_path):
    files = sorted((shared_data / "images" / "exif_orientation").glob("*.jpg"))[4:7]
    files += sorted((shared_data / "images" / "coco128").glob("*.jpg"))[:3]
    name = save(tmp_path / "set", image=([*map(str, files)], PICTURE), question=(["?"] * 6, TEXT))
    for sample, file in zip(read(name, tmp_path), files, strict=True):
        data = sample.media_refs[0].source()
        assert data == file.read_bytes()
        assert sample.media_refs[0].size_px == load_picture(file).size_px == picture_from(data, "saved").size_px


def test_pictures_that_were_decoded_before_they_were_saved(tmp_path):
    drawn = Image.linear_gradient("L").convert("RGB")
    name = save(tmp_path / "set", image=([drawn], PICTURE), question=(["?"], TEXT))
    (sample,) = read(name, tmp_path)
    assert np.array_equal(picture_from(sample.media_refs[0].source(), "saved").frames[0], np.asarray(drawn))


def png_of(size):
    stream = io.BytesIO()
    Image.new("1", size).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello, I am a text", "row-1-0 is not a JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n\0\0", "row-1-0 cannot be decoded"),
        (b"", "there is none"),
        (png_of((9460, 9460)), "row-1-0 has 9,460 x 9,460 = 89,491,600 pixels; the limit is 89,478,485"),
        (png_of((402, 2)), "row-1-0 has 402 x 2 pixels: one side is more than 200 times the other"),
    ],
    ids=["text", "broken", "empty", "large", "narrow"],
)
def test_bytes_that_are_not_a_picture_name_their_row(tmp_path, pictures, data, reason):
    rows = [pictures[0], {"bytes": data, "path": None}, pictures[1]]
    name = save(tmp_path / "set", image=(rows, PICTURE), question=(["?"] * 3, TEXT))
    (line,) = faults_of(name, tmp_path)
    assert line.startswith("row 1: image: ")
    assert reason in line


def test_one_picture_of_several_is_missing(tmp_path, pictures):
    rows = [pictures, [pictures[0], None], []]
    name = save(tmp_path / "set", images=(rows, List(PICTURE)), question=(["?"] * 3, TEXT))
    assert faults_of(name, tmp_path) == [f"row {i}: images: want a list of paths" for i in (1, 2)]


# The column of the pictures.


@pytest.mark.parametrize("typed", ["image=pixels", "images=pixels"])
@pytest.mark.parametrize("values", [(["a.png"], TEXT), ([["a.png"]], List(TEXT)), ([3], Value("int64"))])
def test_a_column_that_holds_no_pictures(tmp_path, one_picture_set, values, typed):
    assert "column pixels holds no pictures" in error_of(one_picture_set(pixels=values), tmp_path, columns=typed)
    name = save(tmp_path / "other", image=values, question=(["?"], TEXT))
    assert "column image holds no pictures" in error_of(name, tmp_path)


def test_a_listed_column_overrides_all_others(tmp_path, one_picture_set, pictures):
    name = one_picture_set(images=(["a.png"], TEXT), other=(pictures[1:], PICTURE))
    message = error_of(name, tmp_path)
    assert (
        "which column holds the pictures? candidates: image and images (name one: `columns='image=COLUMN'`)" in message
    )
    for typed, size in (("image=image", (64, 32)), ("image=other", (20, 60)), ("images=other", (20, 60))):
        (sample,) = read(name, tmp_path, typed)
        assert [media_ref.size_px for media_ref in sample.media_refs] == [size]


def test_a_data_set_without_such_a_column(tmp_path, pictures):
    name = save(tmp_path / "set", photo=(pictures, PICTURE), question=(["?"] * 2, TEXT))
    assert "which column holds the pictures? candidates: photo, question" in error_of(name, tmp_path)
    assert len(read(name, tmp_path, "image=photo")) == 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("question=nothing", "`columns='question=nothing'`: no such column (columns: image, question)"),
        ("video=image", f"`columns='video=image'`: want FIELD=COLUMN (fields: {', '.join(FIELDS)})"),
        ("question", "`columns='question'`: want FIELD=COLUMN"),
        ("question=", "`columns='question='`: want FIELD=COLUMN"),
        ("=question", "`columns='=question'`: want FIELD=COLUMN"),
        ("image=image,,id=question", "`columns=''`: want FIELD=COLUMN"),
    ],
)
def test_columns_that_are_mistyped(tmp_path, one_picture_set, typed, message):
    assert message in error_of(one_picture_set(), tmp_path, columns=typed)


@pytest.mark.parametrize("options", [{"box_format": "yolo"}, {"box_units": "pixels"}])
def test_an_option_that_is_unknown(tmp_path, one_picture_set, options):
    ((field, value),) = options.items()
    assert f"`{field}={value!r}`: unknown (want " in error_of(one_picture_set(), tmp_path, **options)


# Splits, folders and the hub.


def test_splits_of_a_folder(tmp_path, pictures):
    name = str(tmp_path / "set")
    parts = {
        split: table(image=([picture], PICTURE), question=(["?"], TEXT))
        for split, picture in zip(("train", "val"), pictures, strict=True)
    }
    DatasetDict(parts).save_to_disk(name)
    for split, size in (("train", (64, 32)), ("val", (20, 60))):
        (sample,) = read(name, tmp_path, split=split)
        assert sample.media_refs[0].size_px == size
    assert error_of(name, tmp_path) == f"{name} has no split test (`split` train or val)"


def test_a_folder_of_one_split_ignores_the_option(tmp_path, one_picture_set):
    assert len(read(one_picture_set(), tmp_path, split="whatever")) == 1


def test_without_the_library_it_is_named(tmp_path, one_picture_set, monkeypatch):
    name = one_picture_set()
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (name, "hf:a/b"):
        message = error_of(source, tmp_path)
        assert (
            message == f"{source}: Hugging Face data sets need the library datasets (pip install 'qvl-attn[datasets]')"
        )


@pytest.mark.parametrize("cut", [0, 10, 1000])
def test_a_folder_that_is_damaged(tmp_path, one_picture_set, cut):
    name = one_picture_set()
    (file,) = Path(name).glob("*.arrow")
    file.write_bytes(file.read_bytes()[:cut])
    assert error_of(name, tmp_path).startswith(f"{name}, split test: cannot be loaded (")


@pytest.mark.parametrize("file", ["dataset_info.json", "dataset_dict.json"])
def test_a_folder_that_only_has_the_file_of_one(tmp_path, file):
    (tmp_path / file).write_text("{}")
    assert is_hub_set(str(tmp_path))
    assert "cannot be loaded" in error_of(str(tmp_path), tmp_path)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    code = (
        "import sys; from qvl_attn.core.errors import InputError; from qvl_attn.evaluation.data.hub import hub_rows\n"
        "for name in sys.argv[1:]:\n"
        "    try: hub_rows(name, 'test', None, None, None)\n"
        "    except InputError as error: print(error)\n"
    )
    names = ["hf:nobody/nothing", "hf:nobody", "hf:", f"hf:nobody/{'nothing' * 50}"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=REPOSITORY,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"{name}, split test: cannot be loaded (")
        assert line.endswith(") (check its name and `split`)")
        assert len(line.removeprefix(name)) < 300
    assert done.stderr == ""


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """Write a data set with only the paths of its pictures, as a hub may hold it, and return its name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(*paths, **more):
        columns = {"image": ([{"bytes": None, "path": path} for path in paths], PICTURE)}
        columns["question"] = (["Where?"] * len(paths), TEXT)
        (tmp_path / "hub").mkdir()
        pq.write_table(table(**columns, **more).data.table, tmp_path / "hub" / "test.parquet")
        return f"hf:{tmp_path / 'hub'}"

    return write


def test_saved_paths_stay_inside_the_data_root(tmp_path, parquet, pictures):
    (tmp_path / "root").mkdir()
    Path(pictures[1]).rename(tmp_path / "root" / "b.png")
    inside = ["b.png", str(tmp_path / "root" / "b.png")]
    outside = ["../a.png", pictures[0], "/etc/passwd"]
    name = parquet(*inside, *outside, "http://127.0.0.1:9/a.png")
    *outside_faults, url = faults_of(name, tmp_path / "root")
    assert [line.split(" (")[0] for line in outside_faults] == [
        f"row {i}: image: {path} is outside the data root {tmp_path / 'root'}" for i, path in enumerate(outside, 2)
    ]
    assert url.startswith("row 5: image: http://127.0.0.1:9/a.png is a URL")


def test_saved_paths_are_read(tmp_path, parquet, pictures):
    first, second = read(parquet("a.png", pictures[1]), tmp_path)
    assert (first.media_refs[0].source, first.media_refs[0].size_px) == (tmp_path / "a.png", (64, 32))
    assert second.media_refs[0].size_px == (20, 60)


def test_a_split_that_a_hub_does_not_have(tmp_path, parquet):
    assert "split val: cannot be loaded (Unknown split" in error_of(parquet("a.png"), tmp_path, split="val")


def test_no_bars_of_the_library_are_shown(tmp_path, parquet, pictures, capfd):
    name = parquet(*pictures)
    datasets.enable_progress_bars()
    assert len(read(name, tmp_path)) == 2
    assert capfd.readouterr() == ("", "")


# On the command line.


def test_the_command_prints_the_faults_of_a_data_set(tmp_path, one_picture_set):
    name = one_picture_set(bbox=([[60, 0, 70, 9]], BOX))
    options = ["--columns", "boxes=bbox", "--box-format", "xyxy", "--box-units", "px"]
    done = check(name, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert "row 0: boxes[0]: 60, 0, 70, 9 (px, as xyxy) extends beyond the picture of 64 x 32 px" in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_of_columns_are_for_such_data_sets(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a"}))
    for option, value in (("--columns", "id=id"), ("--box-format", "xywh"), ("--box-units", "px")):
        done = check(tmp_path / "rows.jsonl", "--out", tmp_path / "out", option, value)
        assert done.exit_code == 2
        assert "are for Hugging Face data sets" in done.stderr


def test_a_set_of_the_hub_has_no_data_root(tmp_path, parquet):
    done = check(parquet("gone.png"), "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "row 0: image: gone.png is a file outside the data set" in " ".join(done.stderr.split())


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    done = check("a" * 300, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert f"{'a' * 300} does not exist" in done.stderr
