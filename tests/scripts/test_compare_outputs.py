"""What the script that compares the outputs of two versions finds, and what it passes over."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import av
import compare_outputs
import numpy as np
import pytest
from compare_outputs import COMMANDS, EXIT_CODES, NEW, STOPPED, Comparison, Side, compare, with_needed
from PIL import Image

from qvl_attn.render.html.payload import pack_rows

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
WEIGHTS = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


def found(old, new, **options) -> list[str]:
    return list(Comparison(**options).differences(old, new))


def files(folder: Path, name: str, *contents: bytes) -> list[Path]:
    """Files of a name, each in a folder of its own."""
    made = []
    for i, content in enumerate(contents):
        (folder / str(i)).mkdir(exist_ok=True)
        made.append(folder / str(i) / name)
        made[-1].write_bytes(content)
    return made


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def image(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def video(levels: list[int], step: int = 1) -> bytes:
    """Grey frames."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        track.width = track.height = 32
        for i, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts = i * step
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def page(*blocks: np.ndarray, high: float = 1.5, level: int = 90, name: str = "high") -> bytes:
    """A page with blocks of maps, a number and a picture."""
    picture = base64.b64encode(image(np.full((8, 8, 3), level, np.uint8), "JPEG")).decode()
    blocks = blocks or (WEIGHTS,)
    data = {name: high, "blocks": [block.shape for block in blocks]}
    return (
        f'<html><img src="data:image/jpeg;base64,{picture}">\n'
        f'<script type="application/json" id="data">{json.dumps(data)}</script>\n'
        + "".join(
            f'<script type="text/plain" id="block-{i}">{pack_rows(block)}</script>\n' for i, block in enumerate(blocks)
        )
        + f'<script type="text/plain" id="picture-0">{picture}</script>\n</html>'
    ).encode()


CASES = {
    "value.json": (b'{"a": [1, 2.5]}', b'{"a": [1, 2.5000000000000004]}', "a: 1: 2.5, 2.5000000000000004"),
    "type.json": (b'{"a": 1}', b'{"a": 1.0}', "a: 1, 1.0"),
    "key.json": (b'{"a": 1, "b": 2}', b'{"a": 1, "c": 2}', "b: only in REF"),
    "length.json": (b"[1]", b"[1, 2]", "1: only in this tree"),
    "rows.jsonl": (b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a": 3}\n', "1: a: 2, 3"),
    "scores.csv": (b"id,mass\r\none,.5\r\n", b"id,mass\r\none,.6\r\n", "rows: 0: mass: '.5', '.6'"),
    "heading.csv": (b"id,mass\r\n", b"mass,id\r\n", "heading: 0: 'id', 'mass'"),
    "json.stdout": (b'{"a": 1}\n', b'{"a": 2}\n', "0: a: 1, 2"),
    "text.stdout": (b"mass: .347 [.2 to .4]", b"mass: .347 [.2 to .5]", "(numbers): 2: '.4', '.5'"),
    "values.npz": (npz(a=WEIGHTS), npz(a=np.nextafter(WEIGHTS, 2)), "a: [0, 0]: 0.0, 1.40129846"),
    "zero.npz": (npz(a=np.zeros(2)), npz(a=-np.zeros(2)), "a: [0]: 0.0, -0.0 (2 of 2 differ)"),
    "dtype.npz": (npz(a=WEIGHTS), npz(a=WEIGHTS.astype(float)), "a: float32 (2, 3), float64 (2, 3)"),
    "names.npz": (npz(a=WEIGHTS), npz(a=WEIGHTS, b=WEIGHTS), "b: only in this tree"),
    "pixel.png": (image(PIXELS), image(PIXELS ^ (PIXELS == 47)), "0: [3, 3, 2]: 47, 46 (1 of 48 differ)"),
    "size.png": (image(PIXELS), image(PIXELS[:3]), "0: uint8 (4, 4, 3), uint8 (3, 4, 3)"),
    "moving.gif": (
        image(PIXELS, "GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
        image(PIXELS, "GIF"),
        "1: only in REF",
    ),
    "frame.mp4": (video([20, 60]), video([20, 90]), "1: pixels: [0, 0, 0]: "),
    "dropped.mp4": (video([20, 60, 90]), video([20, 60]), "2: only in REF"),
    "time.mp4": (video([20, 60]), video([20, 60], step=2), "1: time: "),
    "row.html": (page(), page(WEIGHTS + 1), "rows: 3 cells up to 0.400000006, "),
    "bit.html": (page(), page(np.nextafter(WEIGHTS, 2)), "rows: 3 cells up to 0.400000006, "),
    "data.html": (page(), page(high=2.5), "numbers: 1.5: only in REF"),
    "picture.html": (page(), page(level=91), "pictures: 8 x 8 x 3, "),
    "other.txt": (b"one", b"onE", "[2]: 101, 69 (1 of 3 differ)"),
}


@pytest.mark.parametrize("name", CASES)
def test_files_of_every_kind(tmp_path, name):
    first, second, told = CASES[name]
    old, same, new = files(tmp_path, name, first, first, second)
    assert found(old, same) == []
    assert found(old, new)[0].startswith(told)


def test_what_is_packed_otherwise_is_the_same(tmp_path):
    stored = io.BytesIO()
    np.savez(stored, a=WEIGHTS)
    assert found(*files(tmp_path, "a.npz", npz(a=WEIGHTS), stored.getvalue())) == []
    assert found(*files(tmp_path, "a.png", image(PIXELS, compress_level=0), image(PIXELS, compress_level=9))) == []
    assert found(*files(tmp_path, "a.json", b'{"a": 1, "b": 2}', b'{"b":2,"a":1}')) == []


def test_a_page_may_lay_out_otherwise_what_it_carries(tmp_path):
    assert found(*files(tmp_path, "a.html", page(), page(WEIGHTS[1:], WEIGHTS[:1], WEIGHTS, name="end"))) == []


def with_any_script(html: str) -> str:
    """A page whose policy allows that its script was changed."""
    return re.sub("script-src '[^']*'", "script-src 'unsafe-inline'", html)


@pytest.mark.browser
def test_what_pages_draw_is_compared_state_by_state(tmp_path, chromium, page_file, encoder_page_file):
    """A fault in the script of a copy is found in the states that it concerns, and nowhere else."""
    faults = {
        page_file("one"): {
            "level + 0.5) | 0": ("level + 1.5) | 0", {"start", "layer", "head", "cell", "side by side"}),
            "Math.floor(((2 * i + 1) * cells) / (2 * pixels))": ("0", {"viridis, cells", "shared scale", "head"}),
        },
        encoder_page_file("cls"): {"shared: map.shared[row]": ("shared: source.high[row]", {"shared scale"})},
    }
    for file, by_text in faults.items():
        assert list(Comparison(browser=chromium).differences(file, file)) == []
        reworded = tmp_path / "reworded.html"
        reworded.write_text(with_any_script(file.read_text(encoding="utf-8").replace('"Opacity"', '"Strength"')))
        assert list(Comparison(browser=chromium).differences(file, reworded)) == []
        (found_word, *_) = Comparison(browser=chromium, words=True).differences(file, reworded)
        assert "'Opacity', 'Strength'" in found_word
        for text, (other, states) in by_text.items():
            html = file.read_text(encoding="utf-8")
            assert text in html
            broken = tmp_path / "broken.html"
            broken.write_text(with_any_script(html.replace(text, other)))
            lines = list(Comparison(browser=chromium).differences(file, broken))
            states_found = {line.split(":")[0] for line in lines if ": canvases: " in line}
            assert states <= states_found, lines
            assert ("start" in states) == ("start" in states_found)


def test_a_file_that_is_missing(tmp_path):
    old, new = files(tmp_path, "a.json", b"1", b"1")
    assert found({"stdout": old, "x/a.json": old}, {"stdout": new}) == ["x/a.json: only in REF"]
    assert found({}, {"x/a.json": new}) == ["x/a.json: only in this tree"]


def test_time_and_memory_are_passed_over():
    assert (
        found({"seconds": 1.2, "a": {"peak_memory_bytes": [3]}}, {"seconds": 2, "a": {"peak_memory_bytes": []}}) == []
    )
    assert found({"seconds": 1.2}, {}) == ["seconds: only in REF"]


def test_prose_is_compared_with_words_alone(tmp_path):
    old, new = {"notes": ["a picture"], "profile": {"source": "a", "n": 1}}, {"notes": [], "profile": {"source": "b"}}
    assert found(old, new) == ["profile: n: only in REF"], "an object is no prose"
    assert found(old, new, words=True) == [
        "notes: 0: only in REF",
        "profile: source: 'a', 'b'",
        "profile: n: only in REF",
    ]
    lines = files(tmp_path, "a.stdout", b"mass in the box: 0.3 of 12", b"share within boxes 0.3 of 12")
    assert found(*lines) == []
    assert found(*lines, words=True) == ["(lines): 0: 'mass in the box: 0.3 of 12', 'share within boxes 0.3 of 12'"]


def test_hashes_may_be_passed_over(tmp_path):
    old, new = files(tmp_path, "a.json", b'{"folder": "out/cats-1a2b3c4d"}', b'{"folder": "out/cats-00000000"}')
    sides = {"cats-1a2b3c4d/a.json": old}, {"cats-00000000/a.json": new}
    assert len(found(*sides)) == 2
    assert found(*sides, any_hash=True) == []
    assert found({"a": "cats-1a2b3c4"}, {"a": "cats-1a2b3c5"}, any_hash=True) != []


def test_names_that_change_on_purpose(tmp_path, monkeypatch):
    monkeypatch.setitem(compare_outputs.RENAMED_KEYS, "mass", "share")
    monkeypatch.setitem(compare_outputs.RENAMED_KEYS, "turned.png", "input.png")
    monkeypatch.setitem(compare_outputs.RENAMED_VALUES, "turned.png", "input.png")
    pictures = files(tmp_path, "a.png", image(PIXELS), image(PIXELS))
    assert found({"x/turned.png": pictures[0]}, {"x/input.png": pictures[1]}) == []
    assert found({"mass": 1, "files": ["x/turned.png"]}, {"share": 1, "files": ["x/input.png"]}) == []
    assert found(*files(tmp_path, "a.npz", npz(mass=WEIGHTS), npz(share=WEIGHTS))) == []
    assert found(*files(tmp_path, "a.csv", b"mass\r\n1\r\n", b"share\r\n1\r\n")) == []
    assert found({"share": 1}, {"mass": 1}) == ["share: only in REF", "mass: only in this tree"]


def test_a_page_without_data_is_no_page(tmp_path):
    with pytest.raises(ValueError, match="without data"):
        found(*files(tmp_path, "a.html", b"<html></html>", b"<html></html>"))


def side(folder: Path, program: str) -> Side:
    """A tree whose package is one program, and where it runs."""
    (folder / "tree" / "qvl_attn").mkdir(parents=True)
    (folder / "work").mkdir()
    (folder / "tree" / "qvl_attn" / "__init__.py").touch()
    (folder / "tree" / "qvl_attn" / "__main__.py").write_text(f"import pathlib, sys\n{program}\n", encoding="utf-8")
    return Side(folder / "tree", folder / "work")


def test_both_versions_run_and_are_compared(tmp_path):
    write = "pathlib.Path(sys.argv[-1], 'a.json').write_text('0'); print({!r}); sys.exit({})"
    old, same, other, failing = (
        side(tmp_path / str(i), write.format(*how))
        for i, how in enumerate([("[1]", 0), ("[1]", 0), ("[2]", 0), ("", 3)])
    )
    for one in (old, same, other, failing):
        one.check()
    assert compare("ask", [old, same], Comparison())[0] == []
    assert [*old.outputs("ask")] == ["stdout", "a.json"]
    assert compare("demo-data", [old, other], Comparison())[0] == ["stdout: 0: 0: 1, 2"]
    codes = compare("merge", [failing, failing], Comparison())[0]
    assert [line.split(":")[:2] for line in codes] == [["exit code", " 3 in work, want 0"]] * 2
    assert compare("ask-missing", [old, old], Comparison())[0][0].startswith("exit code: 0 in work, want 2")


def test_what_is_new_may_be_refused_by_ref_alone(tmp_path):
    codes = {"refusing": 2, "same": 0, "failing": 1}
    sides = {name: side(tmp_path / name, f"sys.exit({code})") for name, code in codes.items()}

    def differences(name: str, *names: str) -> list[str] | None:
        for one in sides.values():
            shutil.rmtree(one.work / name, ignore_errors=True)
        return compare(name, [sides[each] for each in names], Comparison())[0]

    assert differences("render-encoder", "refusing", "same") is None
    for pair in (("same", "refusing"), ("failing", "same"), ("refusing", "failing"), ("refusing", "refusing")):
        assert differences("render-encoder", *pair), pair
    assert differences("render-encoder", "same", "same") == []
    assert differences("render", "refusing", "same"), "it is not new"


def test_a_package_from_elsewhere_is_refused(tmp_path):
    lost = side(tmp_path / "lost", "")
    (lost.tree / "qvl_attn").rename(lost.tree / "elsewhere")
    with pytest.raises(SystemExit, match="does not find the package"):
        lost.check()


def test_commands_run_after_those_that_they_read():
    names = [*COMMANDS]
    assert {*EXIT_CODES, *NEW, *STOPPED, *STOPPED.values()} <= {*names}
    assert with_needed(["report-several"]) == ["ask", "ask-questions", "ask-methods", "report-several"]
    assert with_needed(["check-resumed"]) == ["check", "check-resumed"]
    for i, name in enumerate(names):
        assert with_needed([name])[-1] == name, "it reads what is made later"
        assert {*with_needed([name])} <= {*names[: i + 1]}


def test_drawings_can_be_left_out(tmp_path):
    for name, level in (("old", 20), ("new", 90)):
        (tmp_path / f"{name}.png").write_bytes(image(np.full((4, 4, 3), level, np.uint8)))
        (tmp_path / f"{name}.mp4").write_bytes(video([level, level]))
    for suffix in (".png", ".mp4"):
        files = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
        assert list(Comparison().differences(*files))
        assert not list(Comparison(drawings=False).differences(*files))
    old, new = {"inline-0": [np.zeros(3)], "block-0": np.zeros(3)}, {"inline-0": [np.ones(3)], "block-0": np.ones(3)}
    assert len(list(Comparison(drawings=False).differences(old, new))) == 1, "maps are still compared"
