"""Data sets as files: their lines, their pictures and clips, the positions of boxes, and the message of each fault."""

from __future__ import annotations

import http.server
import json
import math
import os
import shutil
import threading
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.jsonl import MAX_LINE_BYTES, MAX_ROWS, read_jsonl
from qvl_attn.evaluation.data.load import load_samples
from qvl_attn.evaluation.data.question_sets import PromptItem
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import (
    MediaRef,
    Sample,
    picture_rows,
    read_samples,
)
from qvl_attn.media.image import load_picture, printable
from tests.conftest import numbered_frames

PROMPTS = (PromptItem("colour", "Which colour?"), PromptItem("where", "Where is it?"))
PIXELS = {"box_format": "xyxy", "box_units": "px"}
ORIENTATION = 0x0112


def read(path, root=None, **options):
    """Return the samples of a JSONL file as `check` reads them."""
    faults = Faults()
    return read_samples(read_jsonl(path, printable(os.fspath(path)), faults), root or path.parent, faults, **options)


def write(folder, *rows):
    """Write a JSONL file of records, or of lines given as strings."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "rows.jsonl"


def record(**fields):
    """Return a record with an id and a question."""
    return {"id": "a", "question": "Where?", **fields}


def boxed_record(*boxes, image="a.png", **fields):
    return record(image=image, boxes=list(boxes), **{**PIXELS, **fields})


def read_one(folder, row, **options):
    (sample,) = read(write(folder, row), **options)
    return sample


def samples_or_faults(root, *rows, **options):
    """Return the samples of records and their faults; one of them is empty."""
    try:
        return read_samples(((f"line {i}", row) for i, row in enumerate(rows, 1)), root, Faults(), **options), ()
    except InputError as error:
        return [], error.details


def faults_of(folder, *rows, **options):
    """Return all faults of records."""
    with pytest.raises(InputError) as caught:
        read(write(folder, *rows), **options)
    faults = caught.value.details
    assert caught.value.message == f"the data set has {len(faults)} fault{'' if len(faults) == 1 else 's'}"
    assert all(line.isprintable() for line in faults)
    return list(faults)


@pytest.fixture
def root(tmp_path, make_picture):
    """A data root with pictures of two sizes, and beside it a picture that must not be read."""
    make_picture(8, 8, "secret.png")
    for name, size in {"a.png": (64, 32), "b.png": (20, 60)}.items():
        make_picture(*size, name)
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(folder / name)
    shutil.copy(folder / "a.png", folder / "deep" / "c.png")
    return folder


@pytest.fixture
def clip(clip_file, root):
    """A clip of 20 frames of 64 x 48 in the data root."""
    return clip_file(20).rename(root / "clip.mp4")


@pytest.fixture
def frames(root):
    """A folder of three frames in the data root."""
    folder = root / "frames"
    folder.mkdir()
    for number, frame in zip((4, 6, 20), numbered_frames(3), strict=True):
        Image.fromarray(frame).save(folder / f"{number:05}.png")
    return folder


# Lines.


def test_a_sample_is_what_its_row_says(root):
    row = {"id": 7, "image": "a.png", "question": "Where?", "answer": ["left", "right"], "meta": "val"}
    sample = read_one(root, {**row, "boxes": [[1, 2, 5, 8], [0, 0, 64, 32]], **PIXELS})
    assert (sample.place, sample.id, sample.question, sample.answers) == ("line 1", "7", "Where?", ("left", "right"))
    assert sample.boxes_px.tolist() == [[1, 2, 5, 8], [0, 0, 64, 32]]
    assert (sample.boxes_px.dtype, sample.frames.dtype) == (np.float64, np.int64)
    assert sample.frames.tolist() == [0, 0]
    assert (sample.names, sample.is_clip) == (("a.png",), False)
    (media_ref,) = sample.media_refs
    assert (media_ref.kind, media_ref.size_px, media_ref.source, media_ref.frame_count) == (
        "picture",
        (64, 32),
        root / "a.png",
        1,
    )


def test_every_faulty_line_is_reported_with_its_number(root):
    rows = [
        record(image="a.png"),
        "{'id': 'b'}",
        "",
        {"image": "a.png", "question": ""},
        "   ",
        '[{"id": "c"}]',
        '{"id": "d", "image": "a.png"',
        record(id="e", image="gone.png"),
        record(id="f", image="a.png", boxes=[[1, 2, 3]], **PIXELS),
    ]
    assert faults_of(root, *rows) == [
        "line 2: not JSON",
        "line 4: id: missing",
        "line 4: question: want a non-empty string",
        "line 6: not a JSON object",
        "line 7: not JSON",
        "line 8: image: gone.png does not exist (check the path)",
        "line 9: boxes[0]: want four finite numbers",
    ]


def test_all_faults_of_one_line_are_reported_in_one_round(root):
    first = record(image="a.png", answer=2.5)
    second = record(image="none.png", question="", awnser="2", boxes=[[0, 0, 0, 0]])
    third = record(id="c", images=["a.png", "gone.png"], answer=[], boxes=[[1, 2, 3], [0, 0, 99, 9]], frame=[0, 1])
    fourth = record(id="", image="a.png", boxes=[[0, 0, 9, 9], [0, 0, 99, 9], "x"], **PIXELS)
    assert faults_of(root, first, second, {**third, **PIXELS}, fourth) == [
        "line 1: answer: want a non-empty string or a list of them",
        "line 2: awnser: unknown field: did you mean answer? (meta and x_... are free)",
        "line 2: box_format: missing: want xyxy, xywh, cxcywh",
        "line 2: box_units: missing: want px, normalized, permille",
        "line 2: question: want a non-empty string",
        "line 2: id: 'a' is already used at line 1",
        "line 2: image: none.png does not exist (check the path)",
        "line 3: boxes[0]: want four finite numbers",
        "line 3: answer: want a non-empty string or a list of them",
        "line 3: images: gone.png does not exist (check the path)",
        "line 4: boxes[2]: want four finite numbers",
        "line 4: id: want a non-empty string or a whole number",
        "line 4: boxes[1]: 0, 0, 99, 9 (px, as xyxy) extends beyond the picture of 64 x 32 px: wrong box_units?",
    ]


def test_a_lone_separator_of_lines_is_no_end_of_a_line(root):
    path = root / "rows.jsonl"
    path.write_text(json.dumps(record(image="a.png", question="first\u2028second?"), ensure_ascii=False), "utf-8")
    assert [sample.question for sample in read(path)] == ["first\u2028second?"]


def test_the_fault_of_one_line_is_reported_alone(root):
    assert faults_of(root, record(image="a.png"), "x", record(id="b", image="a.png")) == ["line 2: not JSON"]


def test_empty_lines_are_skipped_and_counted(root):
    path = write(root, "", record(image="a.png"), " \t", record(id="b", image="b.png"), "", "")
    assert [sample.place for sample in read(path)] == ["line 2", "line 4"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_other_editors_files(root, ending):
    lines = [
        json.dumps(record(image="a.png", question="在哪里？"), ensure_ascii=False),
        json.dumps(record(id="b", image="a.png")),
    ]
    path = root / "rows.jsonl"
    path.write_bytes(("\ufeff" + ending.join(lines) + ending).encode())
    assert [sample.question for sample in read(path)] == ["在哪里？", "Where?"]


def test_a_byte_order_mark_stands_at_the_beginning_only(root):
    assert faults_of(root, record(image="a.png"), "\ufeff" + json.dumps(record(id="b", image="a.png"))) == [
        "line 2: not JSON"
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param(b'{"id": "\xe9"}', "not UTF-8", id="latin-1"),
        pytest.param(b'{"id": "a", "meta": {"x": 1, "x": 2}}', "'x' is there twice", id="twice"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "nested too deeply", id="deep"),
        pytest.param(b'{"id": ' + b"1" * 5000 + b"}", "a number with too many digits", id="digits"),
        pytest.param(b"\0", "not JSON", id="zero"),
        pytest.param(b"{} {}", "not JSON", id="two"),
    ],
)
def test_a_line_that_cannot_be_read_does_not_stop_the_others(root, line, fault):
    path = root / "rows.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(record(image="a.png")).encode())
    faults = Faults()
    assert [place for place, _ in read_jsonl(path, path.name, faults)] == ["line 2"]
    assert faults.lines == [f"line 1: {fault}"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (
            json.dumps([{"id": "a"}] * 9, indent=1).encode(),
            ": a JSON file, an array (want JSONL: one JSON object a line)",
        ),
        (b'\xef\xbb\xbf\n[{"id": 1}, {"id": 2}]', ": a JSON file, an array (want JSONL: one JSON object a line)"),
        (b'{\n"id": "a"\n}', ": a JSON file, an object over several lines (want JSONL: one JSON object a line)"),
        *(
            ('{"id": "a"}\n{}'.encode(code), " is UTF-16, not UTF-8 (save it as UTF-8)")
            for code in ("utf-16", "utf-16-be")
        ),
    ],
)
def test_a_file_of_another_format_is_one_fault(root, data, fault):
    path = root / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path}{fault}"


def test_nan_and_infinity_are_faults(root):
    lines = [json.dumps(boxed_record([0, 0, value, 9], id=str(value))) for value in (math.nan, math.inf)]
    assert "NaN" in lines[0]
    assert "Infinity" in lines[1]
    assert faults_of(root, *lines) == [
        "line 1: boxes[0]: want four finite numbers",
        "line 2: boxes[0]: want four finite numbers",
    ]


def test_an_id_that_stands_twice_names_the_first_line(root):
    rows = [record(id=sample_id, image="a.png") for sample_id in ("b", "1", "b", 1, "c", "b")]
    assert faults_of(root, *rows) == [
        "line 3: id: 'b' is already used at line 1",
        "line 4: id: '1' is already used at line 2",
        "line 6: id: 'b' is already used at line 1",
    ]


def test_a_line_may_be_so_long(root):
    row = json.dumps(record(image="a.png"))
    path = write(root, row[:-1] + " " * (MAX_LINE_BYTES - len(row) - 1) + "}", record(id="b", image="a.png"))
    assert path.read_bytes().index(b"\n") == MAX_LINE_BYTES - 1
    assert len(read(path)) == 2


@pytest.mark.parametrize("ending", ["", "\n", "\n{}"])
def test_a_line_that_is_too_long(root, ending):
    path = write(root, record(image="a.png"), "x" * (MAX_LINE_BYTES + 1) + ending)
    with pytest.raises(InputError, match=r"rows\.jsonl: line 2 is longer than 1 MiB"):
        read(path)


def test_a_file_of_too_many_lines(root):
    path = root / "rows.jsonl"
    path.write_bytes(b"\n" * (MAX_ROWS - 1) + json.dumps(record(image="a.png")).encode())
    assert [sample.place for sample in read(path)] == [f"line {MAX_ROWS}"]
    with path.open("ab") as file:
        file.write(b"\n\n")
    with pytest.raises(InputError, match="has more than 1,000,000 lines"):
        read(path)


@pytest.mark.parametrize(("name", "reason"), [("gone\x1b.jsonl", "no such file"), ("deep", "is a directory")])
def test_a_file_that_cannot_be_read(root, name, reason):
    with pytest.raises(InputError, match=f"cannot be read: {reason}") as caught:
        read(root / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_rows(root, lines):
    with pytest.raises(InputError, match="the data set has no samples"):
        read(write(root, *lines))


def test_records_beyond_the_limit_are_not_read(root):
    path, faults = write(root, record(image="a.png"), "x", "y"), Faults()
    (sample,) = read_samples(islice(read_jsonl(path, path.name, faults), 1), root, faults)
    assert sample.id == "a"


def test_progress_counts_the_records(root):
    calls = []
    read(
        write(root, record(image="a.png"), "", record(id="b", image="a.png")), progress=lambda *call: calls.append(call)
    )
    assert calls == [("checking the data", done, total) for done, total in ((1, 0), (2, 0), (2, 2))]


# Files.


def test_paths_are_relative_to_the_data_root(root, tmp_path):
    row = record(image="deep/c.png")
    assert read_one(tmp_path, row, root=root).media_refs[0].source == root / "deep" / "c.png"
    assert faults_of(tmp_path, row) == ["line 1: image: deep/c.png does not exist (check the path)"]


def test_a_file_is_opened_once(root):
    first, second = read(write(root, record(image="a.png"), record(id="b", image="a.png")))
    assert first.media_refs[0] is second.media_refs[0]


@pytest.fixture
def outside_links(root):
    """Links that point outside the data root."""
    (root / "link.png").symlink_to("../secret.png")
    (root / "again.png").symlink_to("link.png")
    (root / "linked").symlink_to("..")
    (root.parent / "root2").mkdir()
    shutil.copy(root.parent / "secret.png", root.parent / "root2")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "/",
        "..",
        "../secret.png",
        "deep/../../secret.png",
        "gone/../../secret.png",
        "../gone.png",
        "../root2/secret.png",
        "ABSOLUTE",
        "link.png",
        "again.png",
        "linked/secret.png",
        "linked",
        "deep/../linked/secret.png",
    ],
)
@pytest.mark.parametrize("field", ["image", "images", "video"])
@pytest.mark.usefixtures("outside_links")
def test_no_path_is_outside_the_data_root(root, name, field):
    name = name.replace("ABSOLUTE", str(root.parent / "secret.png"))
    (line,) = faults_of(root, record(**{field: [name] if field == "images" else name}))
    assert line == f"line 1: {field}: {name} is outside the data root {root} (set `data_root`)"


def test_a_wider_data_root_lets_it_in(root):
    assert read_one(root, record(image="root/../secret.png"), root=root.parent).media_refs[0].size_px == (8, 8)


@pytest.mark.parametrize("name", ["ABSOLUTE", "deep/../a.png", "./a.png", "link.png", "linked/c.png"])
def test_paths_that_stay_inside_the_data_root(root, name):
    (root / "link.png").symlink_to("deep/c.png")
    (root / "linked").symlink_to(root / "deep")
    assert read_one(root, record(image=name.replace("ABSOLUTE", str(root / "a.png")))).media_refs[0].size_px == (64, 32)


def test_the_data_root_may_be_a_link(root):
    (root.parent / "linked").symlink_to("root")
    assert read_one(root, record(image="deep/c.png"), root=root.parent / "linked").media_refs[0].size_px == (64, 32)
    absolute = str(root / "a.png")
    assert read_one(root, record(image=absolute), root=root.parent / "linked").names == (absolute,)


def test_a_folder_of_frames_stays_within(root, frames):
    (frames / "00021.png").symlink_to("00004.png")
    (root / "linked").symlink_to("frames")
    first, second = read(write(root, record(video="frames"), record(id="b", video="linked")))
    assert (first.media_refs[0].frame_count, second.media_refs[0].frame_count) == (4, 4)


def test_a_folder_of_frames_with_a_link_outside(root, frames):
    (frames / "00021.png").symlink_to(root.parent / "secret.png")
    want = f"line 1: video: frames is outside the data root {root} (set `data_root`)"
    assert faults_of(root, record(video="frames")) == [want]


def test_a_link_to_a_folder_of_frames_outside(root, frames):
    frames.rename(root.parent / "frames")
    (root / "linked").symlink_to("../frames")
    want = f"line 1: video: linked is outside the data root {root} (set `data_root`)"
    assert faults_of(root, record(video="linked")) == [want]


@pytest.fixture
def listener():
    """A local server that records the requested paths."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("field", ["image", "images", "video"])
def test_nothing_is_fetched(root, listener, field):
    address, paths = listener
    for url in (f"{address}/a.png", f"{address}/a.mp4", f" {address}/a", f"file://{root}/a.png", "hf://a/b.png"):
        (line,) = faults_of(root, record(**{field: [url] if field == "images" else url}))
        assert line.startswith(f"line 1: {field}: {url} is a URL")
    assert paths == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.png", None, "does not exist"),
        ("a.png/b.png", None, "cannot be read: not a directory"),
        ("deep", None, "is a directory"),
        ("a\0.png", None, "is not a path"),
        ("text.png", b"hello, I am a text\n", "is not a JPEG, PNG"),
        ("empty.png", b"", "is empty"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "cannot be decoded"),
        ("page.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "is not a JPEG, PNG"),
        ("text.mp4", b"hello", "is a clip (name it in the field video)"),
        ("a" * 300, None, "a" * 300),
    ],
)
def test_files_that_are_not_pictures(root, name, content, reason):
    if content is not None:
        (root / name).write_bytes(content)
    single_fault, list_fault = faults_of(root, record(image=name), record(id="b", images=["a.png", name]))
    assert single_fault.startswith("line 1: image: ")
    assert list_fault.startswith("line 2: images: ")
    assert reason in single_fault
    assert reason in list_fault


@pytest.mark.usefixtures("clip")
def test_a_clip_is_no_picture(root):
    shutil.copy(root / "clip.mp4", root / "clip.png")
    clip_fault, disguised_fault = faults_of(root, record(image="clip.mp4"), record(id="b", image="clip.png"))
    assert clip_fault == "line 1: image: clip.mp4 is a clip (name it in the field video)"
    assert disguised_fault.startswith("line 2: image: clip.png is not a JPEG, PNG")


def test_a_picture_is_no_clip(root):
    Image.open(root / "a.png").save(root / "a.jpg")
    png, jpeg, gone = faults_of(root, *(record(id=name, video=name) for name in ("a.png", "a.jpg", "gone.mp4")))
    assert "line 1: video: " in png
    assert "does not move" in png
    assert "line 2: video: " in jpeg
    assert "is a picture, not a clip" in jpeg
    assert "gone.mp4 does not exist" in gone


def test_every_missing_picture_of_a_prompt_is_reported(root):
    assert faults_of(root, record(images=["gone.png", "a.png", "lost.png"])) == [
        "line 1: images: gone.png does not exist (check the path)",
        "line 1: images: lost.png does not exist (check the path)",
    ]


def test_boxes_beside_a_missing_picture_are_not_measured_by_another(root):
    row = record(images=["a.png", "gone.png"], boxes=[[0, 0, 500, 500]], frame=1, **PIXELS)
    assert faults_of(root, row) == ["line 1: images: gone.png does not exist (check the path)"]


def test_pictures_that_are_not_files_are_read_by_their_readers(root):
    readers = {}

    def records():
        for name in ("a.png", "b.png"):
            readers[f"saved {name}"] = (root / name).read_bytes
            yield name, record(id=name, image=f"saved {name}")

    samples = read_samples(records(), root, Faults(), (), readers)
    assert [sample.media_refs[0].size_px for sample in samples] == [(64, 32), (20, 60)]
    assert [sample.media_refs[0].source() for sample in samples] == [
        (root / name).read_bytes() for name in ("a.png", "b.png")
    ]


def test_a_missing_file_is_reported_for_every_record(root):
    rows = faults_of(root, record(image="gone.png"), record(id="b", image="gone.png"))
    assert [row.split(":")[0] for row in rows] == ["line 1", "line 2"]


def test_links_to_themselves(root):
    (root / "loop.png").symlink_to("loop.png")
    (line,) = faults_of(root, record(image="loop.png"))
    assert line.startswith("line 1: image: loop.png ")


def test_links_to_themselves_in_a_folder_of_frames(root, frames):
    (frames / "00021.png").symlink_to("00021.png")
    (line,) = faults_of(root, record(video="frames"))
    assert line.startswith("line 1: video: frames")


@pytest.mark.parametrize("size", [(9460, 9460), (402, 2)])
def test_pictures_beyond_the_limits(root, size):
    Image.new("1", size).save(root / "large.png")
    (line,) = faults_of(root, record(image="large.png"))
    assert line.startswith(f"line 1: image: large.png has {size[0]:,} x {size[1]:,}")


def test_a_file_beyond_the_limits(root):
    os.truncate(root / "a.png", 513 * 2**20)
    (line,) = faults_of(root, record(image="a.png"))
    assert "the limit is" in line


def test_broken_files_are_faults_and_valid_ones_have_their_decoded_size(shared_data):
    faulty = measured = 0
    for path in sorted((shared_data / "images").glob("[ce]*/**/*.*")):
        if path.parent.name in ("coco128", "exif_orientation"):
            continue
        try:
            decoded = load_picture(path).size_px
        except InputError:
            decoded = None
        samples, faults = samples_or_faults(shared_data, record(image=str(path.relative_to(shared_data))))
        if faults:
            faulty += 1
            assert decoded is None
            assert len(faults) == 1
            assert path.name in faults[0]
        else:
            measured += decoded is not None
            assert decoded in (None, samples[0].media_refs[0].size_px)
    assert faulty > 30
    assert measured > 80


# Boxes.


@pytest.mark.parametrize("orientation", range(9))
def test_photographs_in_every_orientation_have_the_same_boxes(shared_data, tmp_path, orientation):
    folder = shared_data / "images" / "exif_orientation"
    rows = [
        boxed_record([1700, 1100, 1790, 1190], image=f"Landscape_{orientation}.jpg"),
        boxed_record([0.5, 0.25, 1, 1], id="b", image=f"Landscape_{orientation}.jpg", box_units="normalized"),
    ]
    pixels, shares = read(write(tmp_path, *rows), root=folder)
    assert pixels.media_refs[0].size_px == (1800, 1200)
    assert pixels.boxes_px.tolist() == [[1700, 1100, 1790, 1190]]
    assert shares.boxes_px.tolist() == [[900, 300, 1800, 1200]]


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_boxes_are_in_the_upright_picture(root, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (32, 64) if orientation > 4 else (64, 32)).save(root / f"turned.{suffix}", exif=exif)
    assert load_picture(root / f"turned.{suffix}").size_px == (64, 32)
    sample = read_one(root, boxed_record([60, 1, 64, 8], image=f"turned.{suffix}"))
    assert sample.media_refs[0].size_px == (64, 32)
    assert sample.unit_boxes().tolist() == [[60 / 64, 1 / 32, 1, 8 / 32]]
    (line,) = faults_of(root, boxed_record([1, 60, 8, 64], image=f"turned.{suffix}"))
    assert "extends beyond the picture of 64 x 32 px" in line


@pytest.mark.parametrize(
    ("units", "box"),
    [("px", [16, 4, 32, 24]), ("normalized", [0.25, 0.125, 0.5, 0.75]), ("permille", [250, 125, 500, 750])],
)
def test_units_become_pixels(root, units, box):
    sample = read_one(root, boxed_record(box, box_units=units))
    assert sample.boxes_px.tolist() == [[16, 4, 32, 24]]
    assert sample.unit_boxes().tolist() == [[0.25, 0.125, 0.5, 0.75]]


@pytest.mark.parametrize(("form", "box"), [("xywh", [0.25, 0.125, 0.5, 0.75]), ("cxcywh", [0.5, 0.5, 0.5, 0.75])])
def test_formats_become_corners(root, form, box):
    sample = read_one(root, boxed_record(box, box_format=form, box_units="normalized"))
    assert sample.boxes_px.tolist() == [[16, 4, 48, 28]]


@pytest.mark.parametrize(
    ("units", "box", "cut"),
    [
        ("px", [-1, -1, 65, 33], [0, 0, 64, 32]),
        ("px", [-0.5, 3, 64.5, 32.25], [0, 3, 64, 32]),
        ("px", [60, 30, 65, 33], [60, 30, 64, 32]),
        ("normalized", [-1 / 64, -1 / 32, 1 + 1 / 64, 1 + 1 / 32], [0, 0, 64, 32]),
        ("permille", [-15, 500, 1015, 1031], [0, 16, 64, 32]),
    ],
)
def test_boxes_are_clipped_if_they_extend_by_a_pixel(root, units, box, cut):
    assert read_one(root, boxed_record(box, box_units=units)).boxes_px.tolist() == [cut]


@pytest.mark.parametrize(
    ("units", "box"),
    [
        ("px", [-1.01, 0, 9, 9]),
        ("px", [0, -1.01, 9, 9]),
        ("px", [0, 0, 65.01, 9]),
        ("px", [0, 0, 9, 33.01]),
        ("px", [100, 100, 200, 200]),
        ("px", [-20, -20, -10, -10]),
        ("normalized", [0, 0, 1.02, 1]),
        ("normalized", [0, 0, 1, 1.04]),
        ("normalized", [16, 4, 32, 24]),
        ("permille", [0, 0, 1020, 9]),
        ("px", [0, 0, 1e308, 1e308]),
    ],
)
def test_a_box_outside_of_the_picture(root, units, box):
    text = ", ".join(f"{value:g}" for value in box)
    want = f"boxes[1]: {text} ({units}, as xyxy) extends beyond the picture of 64 x 32 px: wrong box_units?"
    valid_box = {"px": [1, 1, 5, 5], "normalized": [0, 0, 1, 1], "permille": [0, 0, 90, 90]}[units]
    assert faults_of(root, boxed_record(valid_box, box, box_units=units)) == [f"line 1: {want}"]


def test_numbers_that_overflow_leave_the_picture(root):
    (line,) = faults_of(root, boxed_record([1e308, 0, 1e308, 9], box_format="xywh"))
    assert line.startswith("line 1: boxes[0]: 1e+308, 0, inf, 9 (px, as xyxy) extends beyond the picture")


@pytest.mark.parametrize("box", [[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]])
def test_pixels_that_look_like_shares(root, box):
    (line,) = faults_of(root, boxed_record(box))
    text = ", ".join(f"{value:g}" for value in box)
    assert line == f"line 1: boxes[0]: {text} (px, as xyxy) is smaller than a pixel: wrong box_units?"
    assert read_one(root, boxed_record(box, box_units="normalized")).unit_boxes() == pytest.approx(np.array([box]))


@pytest.mark.parametrize("box", [[0, 0, 1, 1.5], [63, 31, 64, 32], [0.1, 0.1, 1.1, 0.9]])
def test_a_box_of_a_pixel(root, box):
    assert read_one(root, boxed_record(box)).boxes_px.tolist() == [box]


def test_a_picture_of_a_pixel(make_picture, tmp_path):
    make_picture(1, 1, "dot.png")
    assert read_one(tmp_path, boxed_record([0, 0, 1, 1], image="dot.png")).boxes_px.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("box", [[64, 1, 65, 9], [1, 32.25, 9, 33], [-1, 1, 0, 9], [9, -1, 10, -0.5]])
def test_a_box_with_no_area_after_clipping(root, box):
    (line,) = faults_of(root, boxed_record(box))
    assert line.endswith("has no area inside the picture of 64 x 32 px")


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    folder = tmp_path_factory.mktemp("still")
    Image.new("RGB", (64, 32)).save(folder / "a.png")
    return folder


@given(
    st.lists(st.floats(-80, 80) | st.floats(-0.1, 1.1) | st.floats(), min_size=4, max_size=4),
    st.sampled_from(["xyxy", "xywh", "cxcywh"]),
    st.sampled_from(["px", "normalized", "permille"]),
)
def test_a_sound_box_lies_within_the_picture(still, box, form, units):
    row = json.loads(json.dumps(boxed_record(box, box_format=form, box_units=units)))
    samples, faults = samples_or_faults(still, row)
    assert all(line.startswith("line 1: boxes[0]: ") for line in faults)
    if faults:
        return
    ((x1, y1, x2, y2),) = samples[0].unit_boxes().tolist()
    assert 0 <= x1 < x2 <= 1
    assert 0 <= y1 < y2 <= 1
    a, b, c, d = np.array(box) / {"px": np.array([64, 32] * 2), "normalized": 1, "permille": 1000}[units]
    written = {"xyxy": (a, b, c, d), "xywh": (a, b, a + c, b + d)}.get(
        form, (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    )
    assert np.abs((np.array(written) - [x1, y1, x2, y2]) * [64, 32, 64, 32]).max() <= 1 + 1e-9


def test_boxes_of_several_pictures_are_measured_by_their_own(root):
    row = record(images=["a.png", "b.png"], boxes=[[0, 15, 10, 60], [32, 0, 64, 32], [10, 0, 20, 6]], **PIXELS)
    sample = read_one(root, {**row, "frame": [1, 0, 1]})
    assert sample.names == ("a.png", "b.png")
    assert sample.unit_boxes().tolist() == [[0.5, 0, 1, 1]]
    assert sample.unit_boxes(1).tolist() == [[0, 0.25, 0.5, 1], [0.5, 0, 1, 0.1]]
    (line,) = faults_of(root, {**row, "frame": [0, 0, 1]})
    assert line.startswith("line 1: boxes[0]: 0, 15, 10, 60 (px, as xyxy) extends beyond the picture of 64 x 32 px")


def test_a_picture_without_boxes_of_its_own(root):
    sample = read_one(root, record(images=["a.png", "b.png"], boxes=[[0, 15, 10, 60]], frame=1, **PIXELS))
    assert sample.unit_boxes(0).shape == (0, 4)
    assert sample.unit_boxes(1).shape == (1, 4)
    assert read_one(root, record(image="a.png")).unit_boxes().shape == (0, 4)


@pytest.mark.usefixtures("clip")
def test_boxes_of_a_clip_are_on_its_frames(root):
    sample = read_one(root, record(video="clip.mp4", boxes=[[0, 0, 32, 48]] * 2, frame=[19, 0], **PIXELS))
    assert sample.is_clip
    assert (sample.media_refs[0].kind, sample.media_refs[0].size_px, sample.media_refs[0].frame_count) == (
        "clip",
        (64, 48),
        20,
    )
    assert sample.frames.tolist() == [19, 0]
    assert sample.unit_boxes().tolist() == sample.unit_boxes(1).tolist() == [[0, 0, 0.5, 1]] * 2


@pytest.mark.usefixtures("clip", "frames")
def test_a_frame_beyond_the_last(root):
    box = {"boxes": [[0, 0, 32, 48]] * 2, **PIXELS}
    rows = [record(video="clip.mp4", frame=[19, 20], **box), record(id="b", video="frames", frame=[3, 20], **box)]
    assert faults_of(root, *rows) == [
        "line 1: frame: frame 20 does not exist: want 0 to 19",
        "line 2: frame: frame 3 does not exist: want 0 to 2",
        "line 2: frame: frame 20 does not exist: want 0 to 2",
    ]


@pytest.mark.usefixtures("clip")
def test_a_frame_beyond_all_numbers(root):
    (line,) = faults_of(root, record(video="clip.mp4", boxes=[[0, 0, 32, 48]], frame=10**30, **PIXELS))
    assert line.startswith("line 1: frame: frame 1000")


def test_an_animation_is_a_picture_or_a_clip_as_it_is_named(root):
    moving = [Image.fromarray(frame) for frame in numbered_frames(5)]
    moving[0].save(root / "moving.gif", save_all=True, append_images=moving[1:], duration=100)
    still, clip = read(write(root, record(image="moving.gif"), record(id="b", video="moving.gif")))
    assert (still.is_clip, clip.is_clip) == (False, True)
    assert (still.media_refs[0].frame_count, clip.media_refs[0].frame_count) == (1, 5)


@pytest.mark.parametrize(("boxes", "frames"), [((1, 4), 2), ((0, 4), 1), ((2, 3), 2), ((4,), 1)])
def test_a_sample_has_a_frame_for_each_box(boxes, frames):
    media_refs = (MediaRef("picture", "a.png", (4, 4), Path("a.png")),)
    with pytest.raises(ValueError, match="boxes"):
        Sample("line 1", "a", media_refs, "?", (), np.zeros(boxes), np.zeros(frames, np.int64))
    with pytest.raises(ValueError, match="boxes"):
        Sample("line 1", "a", (), "?", (), np.zeros((0, 4)), np.zeros(0, np.int64))


# Question sets.


def test_prompts_are_asked_of_rows_without_a_question(root):
    bare = {"id": "b", "image": "a.png", "boxes": [[1, 2, 5, 8]], "answer": "red", **PIXELS}
    samples = read(write(root, record(image="a.png"), bare), prompts=PROMPTS)
    assert [(sample.id, sample.question, sample.place) for sample in samples] == [
        ("a", "Where?", "line 1"),
        ("b/colour", "Which colour?", "line 2"),
        ("b/where", "Where is it?", "line 2"),
    ]
    for sample in samples[1:]:
        assert (sample.boxes_px.tolist(), sample.answers, sample.names) == ([[1, 2, 5, 8]], ("red",), ("a.png",))


def test_a_row_without_a_question_wants_prompts(root):
    rows = [record(image="a.png"), {"id": "b", "image": "a.png"}, {"id": "c", "image": "a.png", "question": None}]
    want = "question: missing, and no `prompts` are given"
    assert faults_of(root, *rows) == [f"line 2: {want}", f"line 3: {want}"]


def test_ids_stand_once_with_prompts_too(root):
    rows = [record(id="a/colour", image="a.png"), {"id": "a", "image": "a.png"}]
    (line,) = faults_of(root, *rows, prompts=PROMPTS)
    assert line.startswith("line 2: id: 'a/colour'")
    assert line.endswith("is already used at line 1")
    assert len(read(write(root, record(id="a/size", image="a.png"), rows[1]), prompts=PROMPTS)) == 3


def test_every_picture_of_a_folder_is_asked_about(root, clip):
    for name in ("notes.txt", "rows.jsonl", "deep/empty.png"):
        (root / name).write_text("")
    (root / ".hidden.png").write_bytes((root / "a.png").read_bytes())
    (root / "deep" / "no ending").write_bytes((root / "a.png").read_bytes())
    (root / "gone.png").symlink_to("nothing.png")
    names = ["a.png", "b.png", "deep/c.png", "deep/no ending"]
    assert list(picture_rows(root)) == [(name, {"id": name, "image": name}) for name in names]
    samples = read_samples(picture_rows(root), root, Faults(), PROMPTS)
    assert [sample.id for sample in samples] == [f"{name}/{item.id}" for name in names for item in PROMPTS]
    assert [sample.media_refs[0].size_px for sample in samples[::2]] == [(64, 32), (20, 60), (64, 32), (64, 32)]
    assert clip.is_file()


def test_one_picture_is_asked_about(root):
    path = root / "deep" / "c.png"
    (sample,) = read_samples(picture_rows(path), path.parent, Faults(), PROMPTS[:1])
    assert (sample.place, sample.id, sample.names) == ("c.png", "c.png/colour", ("c.png",))
    assert load_picture(sample.media_refs[0].source).size_px == sample.media_refs[0].size_px


def test_faults_of_a_folder_name_the_picture(root):
    (root / "broken.png").write_bytes((root / "a.png").read_bytes()[:12])
    (root / "out.png").symlink_to("../secret.png")
    with pytest.raises(InputError) as caught:
        read_samples(picture_rows(root), root, Faults(), PROMPTS)
    broken, out = caught.value.details
    assert broken.startswith("broken.png: image: broken.png ")
    assert out.startswith("out.png: image: out.png is outside the data root")


def test_a_picture_of_a_folder_that_may_not_be_read():
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        Image.new("RGB", (4, 4)).save(folder / "a.png")
        (folder / "a.png").chmod(0)
        root = os.geteuid() == 0  # root may read everything, so become another user for a moment
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(InputError):
                read_samples(picture_rows(folder), folder, Faults(), PROMPTS)
        finally:
            if root:
                os.seteuid(0)


def test_pictures_want_prompts(root):
    with pytest.raises(InputError) as caught:
        read_samples(picture_rows(root), root, Faults())
    assert caught.value.details[0] == "a.png: question: missing, and no `prompts` are given"
    assert len(caught.value.details) == 3


def test_a_folder_without_prompts_names_its_file_of_rows_in_one_line(root):
    with pytest.raises(InputError) as caught:
        load_samples(root)
    assert str(caught.value).startswith(f"{root} is a folder of pictures, and no `prompts` are given (`prompts=")
    write(root, record(image="a.png"))
    with pytest.raises(InputError) as caught:
        load_samples(root)
    assert caught.value.hint == f"it holds rows: name their file, {root / 'rows.jsonl'}"
    assert caught.value.details == ()
    with pytest.raises(InputError, match=r"a.png is not a file of rows \(.jsonl, .ndjson, .json\), and no `prompts`"):
        load_samples(root / "a.png")
    samples = load_samples(root / "a.png", prompts="generic", limit=1)
    assert samples[0].id == "a.png/generic-general"


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="the data set has no samples"):
        read_samples(picture_rows(tmp_path), tmp_path, Faults(), PROMPTS)


# Real photographs.


def test_every_photograph_with_its_boxes_is_sound(shared_data, tmp_path):
    index = json.loads((shared_data / "images" / "grounding_index.json").read_text())
    rows = [
        {
            **{name: photograph[name] for name in ("image", "question")},
            "id": f"{i}",
            "boxes": photograph["boxes_xywh"],
            "box_format": "xywh",
            "box_units": "px",
        }
        for i, photograph in enumerate(index)
    ]
    samples = read(write(tmp_path, *rows), root=shared_data)
    assert len(samples) == len(index) > 100
    for sample, photograph in zip(samples, index, strict=True):
        assert sample.media_refs[0].size_px == (photograph["width"], photograph["height"])
        assert len(sample.boxes_px) == photograph["n"]
        x, y, w, h = np.array(photograph["boxes_xywh"]).T
        assert sample.boxes_px == pytest.approx(np.stack([x, y, x + w, y + h], axis=1), abs=1)
        if photograph["n"] == 1:
            (x1, y1, x2, y2) = sample.unit_boxes()[0]
            assert math.isclose((x2 - x1) * (y2 - y1), photograph["area_frac"], abs_tol=0.01)
