"""A session of any kind of result: here texts, whose folders hold one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qvl_attn import Drawing
from qvl_attn.core.errors import CaptureError, ResultExistsError
from qvl_attn.results.session import Asked, Saving, find_again, run_session

NAMES = ("a", "b", "c")


@dataclass
class Texts:
    """Computes texts in a given order, and remembers what it was asked for."""

    out: Path
    order: tuple[int, ...] = ()
    asked: list[int] = field(default_factory=list)
    fails_at: str = ""
    finished_meanwhile: str = ""

    def compute(self, missing):
        self.asked += missing
        for position in self.order or range(len(missing)):
            name = NAMES[missing[position]]
            if name == self.fails_at:
                raise CaptureError(name)
            yield missing[position], name

    def save(self, text):
        folder = self.out / text[0]
        if text[0] == self.finished_meanwhile:
            write(folder, "theirs")
            raise ResultExistsError(text)
        return write(folder, text)

    def run(self, **options):
        folders = [self.out / name for name in NAMES]
        return run_session(folders, self.compute, save=self.save, load=read, **options)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(text)
    return folder


def read(folder: Path) -> str:
    return (folder / "result.json").read_text()


def outcome(results):
    return [(saved.result, saved.folder.name, saved.reused) for saved in results]


def test_what_is_there_is_read_and_the_rest_is_computed(tmp_path):
    texts = Texts(tmp_path)
    write(tmp_path / "b", "old")
    assert outcome(texts.run()) == [("a", "a", False), ("old", "b", True), ("c", "c", False)]
    assert texts.asked == [0, 2]
    assert outcome(texts.run()) == [("a", "a", True), ("old", "b", True), ("c", "c", True)]
    assert texts.asked == [0, 2]


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_results_come_in_the_order_of_the_requests(tmp_path, order):
    assert [result for result, *_ in outcome(Texts(tmp_path, order).run())] == ["a", "b", "c"]


def test_requests_with_one_folder_are_computed_once(tmp_path):
    texts = Texts(tmp_path)
    folders = [str(tmp_path / name) for name in ("a", "b", "a", "a")]
    results = run_session(folders, texts.compute, save=texts.save, load=read)
    assert outcome(results) == [("a", "a", False), ("b", "b", False), ("a", "a", True), ("a", "a", True)]
    assert texts.asked == [0, 1]
    again = run_session(folders, texts.compute, save=texts.save, load=read, overwrite=True)
    assert len(outcome(again)) == 4
    assert texts.asked == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("computed", "message"),
    [
        ([], "no result for request 0"),
        ([(0, "a")], "no result for request 2"),
        ([(1, "b")], r"a result for request 1, which is not missing: \[0, 2\] are"),
        ([(7, "x")], "a result for request 7"),
    ],
)
def test_what_computes_other_results_is_told(tmp_path, computed, message):
    write(tmp_path / "b", "old")
    folders = [tmp_path / name for name in NAMES]
    with pytest.raises(ValueError, match=message):
        list(run_session(folders, lambda missing: computed, save=Texts(tmp_path).save, load=read))


def test_each_is_saved_as_soon_as_it_is_computed(tmp_path):
    results = Texts(tmp_path).run()
    assert next(results).result == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    failing = Texts(tmp_path, fails_at="c").run()
    with pytest.raises(CaptureError):
        list(failing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_overwriting_computes_all_again(tmp_path):
    write(tmp_path / "b", "old")
    assert outcome(Texts(tmp_path).run(overwrite=True)) == [("a", "a", False), ("b", "b", False), ("c", "c", False)]
    assert read(tmp_path / "b") == "b"


def test_what_another_process_finished_meanwhile_is_read(tmp_path):
    results = outcome(Texts(tmp_path, finished_meanwhile="b").run())
    assert results == [("a", "a", False), ("theirs", "b", True), ("c", "c", False)]


def test_what_is_added_is_saved(tmp_path):
    results = outcome(Texts(tmp_path).run(add=lambda text: f"{text}+"))
    assert [result for result, *_ in results] == ["a+", "b+", "c+"]
    assert read(tmp_path / "a") == "a+"


@dataclass(frozen=True)
class Text:
    """A kind of result without media."""

    text: str
    media: tuple[()] = ()

    @classmethod
    def load(cls, folder):
        return cls(read(folder))


def again(folders, out, overwrite=False):
    found = find_again(Text, [Asked([], of_one) for of_one in folders], Saving(out, Drawing(), overwrite))
    return found and [(saved.result.text, saved.folder.name, saved.reused) for saved in found]


def test_saved_results_are_found_where_none_is_missing(tmp_path):
    folders = [[tmp_path / "x", tmp_path / name] for name in NAMES]
    for name in NAMES:
        assert again(folders, tmp_path) is None
        write(tmp_path / name, name)
    assert again(folders, tmp_path) == [("a", "a", True), ("b", "b", True), ("c", "c", True)]
    assert again(folders, tmp_path, overwrite=True) is None
    write(tmp_path / "x", "first")
    assert again(folders, tmp_path)[0] == ("first", "x", True)
    assert again([], tmp_path) == []


def test_finding_reads_each_when_it_is_its_turn(tmp_path):
    for name in NAMES:
        write(tmp_path / name, name)
    results = find_again(Text, [Asked([], [tmp_path / name]) for name in NAMES], Saving(tmp_path, Drawing()))
    (tmp_path / "c" / "result.json").unlink()
    assert next(results).result.text == "a"
