"""Conversion of COCO instances and RefCOCO-like refs to the JSONL that `qvl-attn check` reads."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_attn.evaluation.data.converters import grounding

FIELDS = ["id", "image", "question", "boxes", "box_format", "box_units"]


def annotation(number: int, image: int, category: int, bbox: list[float], **more: object) -> dict[str, object]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def coco() -> dict[str, list[dict[str, object]]]:
    return {
        "images": [{"id": 1, "file_name": "one.jpg"}, {"id": 2, "file_name": "deep/二.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "person"}],
        "annotations": [
            annotation(10, 1, 18, [73.53, 0, 0.1, 41.339999999999996]),
            annotation(11, 1, 44, [1, 2, 3, 4]),
            annotation(12, 1, 44, [5, 6, 7, 8]),
            annotation(13, 2, 44, [1, 2, 3, 4]),
            annotation(14, 2, 44, [0, 0, 99, 99], iscrowd=1),
            annotation(15, 2, 18, [9, 9, 9, 9]),
        ],
    }


def refs() -> list[dict[str, object]]:
    return [
        {
            "ref_id": 7,
            "ann_id": 11,
            "image_id": 1,
            "split": "val",
            "sentences": [{"sent": "left man", "raw": "Left man"}, {"raw": "Man, left"}, {"sent": " "}],
        },
        {"ref_id": 8, "ann_id": 15, "image_id": 2, "split": "train", "sentences": [{"sent": "狗"}]},
    ]


class Folder:
    """A folder with both files, and the script run on them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys
        self.out = path / "out.jsonl"
        self.put(coco=coco(), refs=refs())

    def put(self, **files: object) -> None:
        for name, content in files.items():
            (self.path / f"{name}.json").write_text(json.dumps(content), "utf-8")

    def run(self, kind: str, *more: str, images: str = "images/val") -> tuple[int, str, str]:
        inputs = [str(self.path / f"{name}.json") for name in (["refs"] if kind == "refcoco" else []) + ["coco"]]
        arguments = [kind, *inputs, "--images", str(self.path / images), "--out", str(self.out), *more]
        return (grounding.main(arguments), *self.capsys.readouterr())

    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.read_text("utf-8").splitlines()]

    def refused(self, kind: str, *more: str, message: str) -> None:
        before = sorted(self.path.iterdir())
        code, output, errors = self.run(kind, *more)
        assert (code, output) == (2, "")
        assert message in errors
        assert errors.count("\n") == 1
        assert sorted(self.path.iterdir()) == before


@pytest.fixture
def folder(tmp_path, capsys) -> Folder:
    return Folder(tmp_path, capsys)


def test_coco_has_a_row_for_each_picture_and_category(folder):
    code, output, errors = folder.run("coco")
    assert (code, errors) == (0, "")
    assert output == f"{folder.out}: 3 written, 1 left out, 1 for a crowd\n"
    rows = folder.rows()
    assert all(list(row) == FIELDS for row in rows)
    assert {(row["box_format"], row["box_units"]) for row in rows} == {("xywh", "px")}
    assert [(row["id"], row["image"], row["question"], row["boxes"]) for row in rows] == [
        ("coco-1-18", "images/val/one.jpg", "Where is the dog?", [[73.53, 0, 0.1, 41.339999999999996]]),
        ("coco-1-44", "images/val/one.jpg", "Where is the person?", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("coco-2-18", "images/val/deep/二.jpg", "Where is the dog?", [[9, 9, 9, 9]]),
    ]


def test_one_instance_keeps_only_categories_with_one_instance(folder):
    code, output, _ = folder.run("coco", "--one-instance")
    assert code == 0
    assert "2 written, 2 left out, 1 for more than one instance, 1 for a crowd" in output
    assert [row["id"] for row in folder.rows()] == ["coco-1-18", "coco-2-18"]


def test_boxes_without_area_are_left_out(folder):
    folder.put(coco=coco() | {"annotations": [annotation(1, 1, 18, [3, 3, 0, 5]), annotation(2, 2, 18, [3, 3, 1, 5])]})
    assert "1 written, 1 left out, 1 for a box without area" in folder.run("coco")[1]


def test_refcoco_has_a_row_for_each_sentence(folder):
    code, output, errors = folder.run("refcoco", "--question", "Find {phrase} {here}")
    assert (code, errors) == (0, "")
    assert "3 written, 1 left out, 1 for no words" in output
    rows = folder.rows()
    assert all(list(row) == FIELDS for row in rows)
    assert [(row["id"], row["image"], row["question"], row["boxes"]) for row in rows] == [
        ("refcoco-7-0", "images/val/one.jpg", "Find left man {here}", [[1, 2, 3, 4]]),
        ("refcoco-7-1", "images/val/one.jpg", "Find Man, left {here}", [[1, 2, 3, 4]]),
        ("refcoco-8-0", "images/val/deep/二.jpg", "Find 狗 {here}", [[9, 9, 9, 9]]),
    ]


def test_refcoco_keeps_one_split(folder):
    assert "1 written, 3 left out, 3 for another split" in folder.run("refcoco", "--split", "train")[1]
    assert [(row["id"], row["question"]) for row in folder.rows()] == [("refcoco-8-0", "Where is 狗?")]


@pytest.mark.parametrize("kind", ["coco", "refcoco"])
def test_ids_are_unique(folder, kind):
    folder.run(kind)
    ids = [row["id"] for row in folder.rows()]
    assert len(ids) == len(set(ids)) == 3


def test_paths_are_relative_to_the_file(folder):
    (folder.path / "sets" / "pictures").mkdir(parents=True)
    (folder.path / "sets" / "pictures" / "one.jpg").write_text("picture")
    folder.out = folder.path / "sets" / "out.jsonl"
    assert folder.run("coco", images="sets/pictures")[0] == 0
    assert (folder.out.parent / folder.rows()[0]["image"]).read_text() == "picture"


def test_a_file_that_its_pictures_are_not_below_is_refused(folder):
    folder.out = folder.path / "sets" / "out.jsonl"
    folder.out.parent.mkdir()
    code, _, errors = folder.run("coco", images="pictures")
    assert code == 2
    assert "write --out to a folder above the pictures" in errors


def test_it_runs_as_a_script(folder):
    command = [sys.executable, grounding.__file__, "coco", "coco.json", "--images", ".", "--out", "out.jsonl"]
    done = subprocess.run(command, cwd=folder.path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert folder.rows()[0]["image"] == "one.jpg"
    done = subprocess.run(command, cwd=folder.path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "--out out.jsonl: already exists\n")


def test_half_a_surrogate_pair_is_still_json(folder):
    folder.put(coco=coco() | {"categories": [{"id": 18, "name": "\ud800"}, {"id": 44, "name": "person"}]})
    assert folder.run("coco")[0] == 0
    assert folder.rows()[0]["question"] == "Where is the \ud800?"


@pytest.mark.parametrize("kind", ["coco", "refcoco"])
def test_a_question_without_its_phrase_is_refused(folder, kind):
    folder.refused(
        kind, "--question", "Where is the {thing}?", message="'Where is the {thing}?': does not contain {phrase}"
    )


@pytest.mark.parametrize("dangling", [False, True])
def test_an_existing_file_is_not_replaced(folder, dangling):
    if dangling:
        folder.out.symlink_to("nowhere")
    else:
        folder.out.write_text("mine")
    folder.put(coco="never read")
    folder.refused("coco", message="out.jsonl: already exists")
    assert folder.out.is_symlink() if dangling else folder.out.read_text() == "mine"


def test_a_file_created_meanwhile_is_not_replaced(folder, monkeypatch):
    real = grounding.box_of

    def write_meanwhile(record):
        folder.out.write_text("mine")
        return real(record)

    monkeypatch.setattr(grounding, "box_of", write_meanwhile)
    code, _, errors = folder.run("coco")
    assert (code, errors) == (2, f"--out {folder.out}: already exists\n")
    assert folder.out.read_text() == "mine"
    assert sorted(path.name for path in folder.path.iterdir()) == ["coco.json", "out.jsonl", "refs.json"]


class Trap:
    """Fails the test if a pickle of it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("the pickle was read",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused(folder, protocol):
    (folder.path / "refs.json").write_bytes(pickle.dumps([Trap()], protocol))
    folder.refused("refcoco", message="refs.json: is not JSON; a pickle is never read")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"1" * 5000, "a number with too many digits"),
    ],
)
def test_files_that_cannot_be_read_are_refused(folder, content, fault):
    (folder.path / "coco.json").write_bytes(content)
    folder.refused("coco", message=f"coco.json: {fault}")


def test_files_that_cannot_be_opened_are_refused(folder):
    (folder.path / "coco.json").unlink()
    folder.refused("coco", message="coco.json")
    folder.put(coco=coco())
    folder.out = folder.path / "not there" / "out.jsonl"
    folder.refused("coco", message="not there")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../one.jpg", "a/../../one.jpg", "..\\one.jpg", "C:\\one.jpg", "", "."]
)
@pytest.mark.parametrize("kind", ["coco", "refcoco"])
def test_pictures_outside_the_folder_are_refused(folder, kind, name):
    folder.put(coco=coco() | {"images": [{"id": 1, "file_name": "one.jpg"}, {"id": 2, "file_name": name}]})
    folder.refused(kind, message=f"image 2: file_name {name!r} is not inside the folder of pictures")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": 99}, "ref 7, ann_id: 99 is not among the annotations"),
        ({"ann_id": None}, "ref 7: ann_id is missing or is not of type int"),
        ({"image_id": 2}, "ref 7: annotation 11 does not belong to picture 2"),
        ({"ref_id": 8}, "ref_id 8 is used twice"),
        ({"sentences": ["left man"]}, "ref 7, sentence 0: raw is missing or is not of type str"),
        ({"sentences": "left man"}, "ref 7: sentences is missing or is not of type list"),
    ],
)
def test_refs_at_fault_are_named(folder, change, message):
    folder.put(refs=[refs()[0] | change, refs()[1]])
    folder.refused("refcoco", message=message)


def test_refs_that_are_not_a_list_are_refused(folder):
    folder.put(refs={"refs": refs()})
    folder.refused("refcoco", message="refs.json: is not a list")


def test_an_unknown_split_writes_nothing(folder):
    folder.refused("refcoco", "--split", "vall", message="0 written, 4 left out, 4 for another split")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, "coco-3-18, image_id: 3 is not among the images"),
        ({"category_id": 3}, "coco-1-3, category_id: 3 is not among the categories"),
        ({"category_id": "dog"}, "annotation 10: category_id is missing or is not of type int"),
        ({"bbox": [1, 2, 3]}, "annotation 10: bbox [1, 2, 3] is not four numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 10: bbox [1, 2, 3, nan] is not four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 10: bbox [1, 2, 3, '4'] is not four numbers"),
        ({"id": 11}, "annotations: id 11 is used twice"),
        ({"id": None}, "annotations, record 0: id is missing or is not of type int"),
    ],
)
def test_instances_at_fault_are_named(folder, change, message):
    whole = coco()
    whole["annotations"][0] |= change
    folder.put(coco=whole)
    folder.refused("coco", message=message)


def test_an_interrupt_half_way_leaves_no_file(folder, monkeypatch):
    real = grounding.json.dumps

    def fails(row, **more):
        if row["id"] == "coco-2-18":
            raise KeyboardInterrupt
        return real(row, **more)

    monkeypatch.setattr(grounding.json, "dumps", fails)
    with pytest.raises(KeyboardInterrupt):
        folder.run("coco")
    assert sorted(path.name for path in folder.path.iterdir()) == ["coco.json", "refs.json"]
