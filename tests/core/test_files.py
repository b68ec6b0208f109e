from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.core.errors import InputError, ResultExistsError, StoreError
from qvl_attn.core.files import (
    check_new,
    check_writable,
    new_folder,
    read_json,
    read_npz,
    read_png,
    slug,
    whole_folder,
    write_json,
    write_npz,
    write_png,
)
from qvl_attn.results.run_folder import check_begun
from tests.helpers.processes import ENV


@given(st.text(max_size=400))
def test_a_slug_is_a_safe_name(text):
    name = slug(text)
    assert 0 < len(name.encode()) <= 41
    assert not set(name) & set('/\\:*?"<>|. \0\n')
    assert name.lower() not in ("con", "nul", "aux", "prn", "com1", "lpt9")
    assert slug(name) == name or name.endswith("-")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("how many cats?", "how-many-cats"),
        ("../../etc/passwd", "etc-passwd"),
        ("CON", "con-"),
        ("🐈", "x"),
        ("", "x"),
        ("图中有几只猫？", "图中有几只猫"),
    ],
)
def test_slugs(text, name):
    assert slug(text) == name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    write_npz(folder / "a.npz", {"a": np.arange(3)})
    write_json(folder / "result.json", {"a": "猫", "b": 1.5})


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "out" / "one"
    with whole_folder(target, overwrite=False) as draft:
        fill(draft)
        assert not target.exists()
    assert read_json(target / "result.json") == {"a": "猫", "b": 1.5}
    assert read_npz(target / "a.npz")["a"].tolist() == [0, 1, 2]
    assert names(target.parent) == ["one"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_half_way_leaves_the_old_result_unchanged(tmp_path, error):
    target = tmp_path / "one"
    with whole_folder(target, overwrite=False) as draft:
        fill(draft)

    def break_off():
        with whole_folder(target, overwrite=True) as draft:
            (draft / "half").write_text("")
            raise error

    with pytest.raises(error):
        break_off()
    assert names(tmp_path) == ["one"]
    assert names(target) == ["a.npz", "result.json"]


def test_nothing_is_overwritten_by_default(tmp_path):
    target = tmp_path / "one"
    with whole_folder(target, overwrite=False) as draft:
        fill(draft)

    def again(overwrite):
        with whole_folder(target, overwrite=overwrite) as draft:
            write_json(draft / "result.json", {"new": True})

    with pytest.raises(ResultExistsError, match="`overwrite=True` replaces it"):
        again(overwrite=False)
    assert read_json(target / "result.json")["a"] == "猫"
    again(overwrite=True)
    assert read_json(target / "result.json") == {"new": True}
    assert names(tmp_path) == ["one"]


def test_a_disk_that_is_full(tmp_path):
    """The kernel's file size limit simulates a full disk."""
    resource = pytest.importorskip("resource")
    target = tmp_path / "one"
    with whole_folder(target, overwrite=False) as draft:
        fill(draft)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_much():
        with whole_folder(target, overwrite=True) as draft:
            write_npz(draft / "a.npz", {"a": np.random.default_rng(0).random(200_000)})

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match="nothing was changed"):
            write_much()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["one"]
    assert read_json(target / "result.json")["a"] == "猫"


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`out=.*`: "):
        check_writable(tmp_path / "file")
    with pytest.raises(InputError, match=r"`out=.*`: "):
        check_writable(tmp_path / "file" / "deeper")
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_folder_whose_name_is_no_path(tmp_path, name):
    for check in (check_writable, check_new, check_begun):
        with pytest.raises(InputError, match="not a path"):
            check(tmp_path / name)
    for write in (new_folder, partial(whole_folder, overwrite=True)):
        with pytest.raises(StoreError, match="not a path"), write(tmp_path / name / "result"):
            pass


def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    changed = hasattr(os, "geteuid") and os.geteuid() == 0
    if changed:
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o111)
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(folder)
    finally:
        if changed:
            os.seteuid(0)


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 30, 3)])
def test_a_picture_is_read_as_it_was_written(tmp_path, shape):
    pixels = np.random.default_rng(4).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "layers" / "a.png", pixels)
    assert np.array_equal(read_png(tmp_path / "layers" / "a.png"), pixels)


def test_numbers_that_json_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        write_npz(tmp_path / "a.npz", {"a": np.array([{}])})
    np.savez(tmp_path / "b.npz", a=np.array([{}], dtype=object), b=np.array([1]))
    arrays = read_npz(tmp_path / "b.npz")
    with pytest.raises(StoreError, match=r"b.npz: a has numbers of type object, which no result has"):
        arrays["a"]
    assert arrays["b"].tolist() == [1]


def test_an_archive_that_would_unpack_to_much(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", {"a": np.zeros(10**6)})
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    monkeypatch.setattr("qvl_attn.core.files.MAX_NPZ_BYTES", 10**6)
    with pytest.raises(StoreError, match="unpack"):
        dict(read_npz(tmp_path / "a.npz"))


def test_arrays_that_nobody_asks_for_are_not_unpacked(tmp_path):
    write_npz(tmp_path / "a.npz", {"huge": np.zeros(10**6), "a": np.arange(3), "b": np.ones((2, 5), np.float32)})
    arrays = read_npz(tmp_path / "a.npz", max_bytes=500)
    assert [*arrays] == ["huge", "a", "b"]
    assert "huge" in arrays
    assert arrays["a"].tolist() == [0, 1, 2]
    assert arrays["a"] is arrays["a"]
    assert arrays.get("c") is None
    with pytest.raises(StoreError, match=r"would unpack to 0.0 GiB"):
        arrays["huge"]
    with pytest.raises(KeyError):
        arrays["c"]


def test_all_arrays_together_are_limited(tmp_path):
    write_npz(tmp_path / "a.npz", {name: np.zeros(100) for name in "abc"})
    arrays = read_npz(tmp_path / "a.npz", max_bytes=2500)
    assert arrays["a"].shape == arrays["b"].shape
    with pytest.raises(StoreError, match="would unpack"):
        arrays["c"]


@pytest.mark.parametrize("shape", [(10**15,), (-10, -1), (9,), (10**9, 10**9), ()])
@pytest.mark.parametrize("version", [(1, 0), (3, 0)])
def test_an_array_of_another_size_than_its_header_states_is_refused_before_room_is_made(tmp_path, shape, version):
    """NumPy would ask for the memory first: 8 PB."""
    header = BytesIO()
    np.lib.format.write_array(header, np.zeros(10), version=version)
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(header.getvalue()) - 80 - (10 if version == (1, 0) else 12)
    data = header.getvalue()[: -length - 80] + text.ljust(length - 1) + b"\n" + bytes(80)
    assert len(data) == len(header.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(StoreError, match=r"a.npz: a does not have the size that it states"):
        read_npz(tmp_path / "a.npz")["a"]


@pytest.mark.parametrize(
    "array", [np.array("猫"), np.array([], str), np.array(["", ""]), np.array(1), np.zeros((0, 4))]
)
def test_arrays_of_any_shape_come_back(tmp_path, array):
    write_npz(tmp_path / "a.npz", {"a": array, "f": np.asfortranarray(np.arange(6).reshape(2, 3))})
    arrays = read_npz(tmp_path / "a.npz")
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["f"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(StoreError, match="arrays"):
        read_npz(tmp_path / "a.npz")


def test_an_archive_with_damaged_contents(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY broken")
    with pytest.raises(StoreError, match="arrays"):
        read_npz(tmp_path / "a.npz")["a"]


def test_files_that_are_no_json_object(tmp_path):
    with pytest.raises(StoreError, match="is not a complete result"):
        read_json(tmp_path / "result.json")
    for content, fault in (
        (b"\xff", "JSON"),
        (b"{", "JSON"),
        (json.dumps([1]).encode(), "JSON"),
        (b'{"a": %b}' % (b"1" * 5000), "a number with too many digits"),
    ):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(StoreError, match=fault):
            read_json(tmp_path / "a.json")


KILLED = """
import os, signal, sys
from pathlib import Path
from qvl_attn.core.files import whole_folder
with whole_folder(Path(sys.argv[1]), overwrite=False) as draft:
    (draft / "half").write_text("x")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print(draft.name, flush=True)
    sys.stdin.read()
"""


def start_draft(target, way):
    words = [sys.executable, "-c", KILLED, str(target), way]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV)


def drafts_in(folder):
    return sorted(path.name for path in folder.glob(".draft-*"))


def test_the_draft_of_a_killed_process_is_cleared_by_the_next_and_a_living_one_is_not(tmp_path):
    with start_draft(tmp_path / "killed", "kill") as killed:
        assert killed.wait() == -signal.SIGKILL
    (left,) = drafts_in(tmp_path)
    elsewhere = tmp_path / ".draft-another-machine.abc"
    shutil.copytree(tmp_path / left, elsewhere)
    with start_draft(tmp_path / "living", "wait") as living:
        alive = living.stdout.readline().strip()
        assert drafts_in(tmp_path) == sorted([alive, elsewhere.name])
        with whole_folder(tmp_path / "next", overwrite=False) as draft:
            fill(draft)
            assert drafts_in(tmp_path) == sorted([alive, elsewhere.name, draft.name])
        living.stdin.close()
        assert living.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [elsewhere.name, "living", "next"]
    assert sorted(path.name for path in (tmp_path / "living").iterdir()) == ["half"], "the lock is not part of it"


def test_a_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def fails(*args, **more):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("qvl_attn.core.files.FileLock.acquire", fails)
    with whole_folder(tmp_path / "result", overwrite=False) as draft:
        fill(draft)
    with whole_folder(tmp_path / "other", overwrite=False) as draft:
        fill(draft)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "result"]
