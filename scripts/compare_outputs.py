"""Prove that a refactoring changed no output: run the same commands on two versions and compare all that they write.

    python scripts/compare_outputs.py REF [--only NAME ...] [--words] [--any-hash] [--list]

REF is checked out in a temporary git worktree. Every command runs once from there and once from the tree that this
script stands in, side by side, one thread each, on the same inputs, with the Python that runs this script. Compared are
exit codes, stdout and all files: arrays bit by bit, JSON, JSONL and CSV by structure, pictures pixel by pixel, videos
frame by frame. Pages are compared by the maps, pictures and numbers that they carry, in any layout, and by what they
draw in Chromium in some states (see compare_pages.py). One line a command is printed, with the first difference (REF's
value, then this tree's); the exit code is 1 if anything differs. A command of NEW that REF refuses is not compared.

Pictures and videos have captions, so a change of wording changes their pixels: move code, compare, then reword.
After a change of wording, `--no-drawings` still compares everything else.
Without --words, text that is only there to be read is not compared: of stdout and of pages the words, in JSON the
values of PROSE_KEYS. Names that change on purpose go into the two tables below.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from compare_pages import NUMBER, carried, chromium, drawn, frames
from PIL import Image

TREE = Path(__file__).resolve().parent.parent

# REF's name: this tree's. Of keys of JSON, arrays, columns of CSV, files and folders.
RENAMED_KEYS: dict[str, str] = {}
# The same of texts in JSON and CSV, whole or a part between slashes; JSON also lists files.
RENAMED_VALUES: dict[str, str] = {}
# Never compared: time, memory, sentences that quote the free memory, and versions.
UNSTABLE_KEYS = {"seconds", "peak_memory_bytes", "free_bytes", "attention_reason", "reason", "versions", "qvl_attn"}
# Compared with --words alone: sentences. Those in brackets are this script's own: lines of stdout and of a page.
PROSE_KEYS = {"(lines)", "notes", "said", "headline_map", "differences", "merged", "what", "detail"}
PROSE_KEYS |= {"shows", "needs", "cost", "when", "wrong", "source", "measured_on"}
PROSE_KEYS |= {"caption", "label", "layer_label", "still", "profile", "left_out"}

# name: command line. A word with * stands for the paths that match; `-m demo` and `--out NAME` are added where they
# belong and are missing. A command writes into the folder of its own name, and may read those of earlier ones.
COMMAND_LINES = """
demo-data: demo-data --n 3
demo-data-video: demo-data --n 2 --video
methods: methods
methods-json: methods --json
prompts: prompts --json
prompts-set: prompts counting --json
estimate: estimate ../in/cats.png --image ../in/wide.png -m demo --heads 0-3 --json
selftest: selftest -m demo --json
ask: ask ../in/cats.png "how many cats?"
ask-again: ask ../in/cats.png "how many cats?" --json --out ask
ask-missing: ask ../in/none.png "how many cats?"
ask-questions: ask ../in/shapes.png "how many circles?" "is there a star?" "what color is the square?"
    --query last --heads 0-3 --interp cells --colormap viridis
ask-pictures: ask ../in/cats.png "in which picture is the fish?" --image ../in/fish.png
    --query answer --heads 0.1,3.2 --store-heads float16 --scale shared --alpha 0.7
ask-answer: ask ../in/two_animals.png "how many cats and dogs?" --answer three
    --query text:cats --layers 1-2 --blur 0.5 --top-percent 30 --draw-size full --json
ask-rows: ask ../in/wide.png "what color is the fish?" --attn rows --query last --colormap jet
ask-bfloat16: ask ../in/tall.png "how many shapes?" --dtype bfloat16
ask-chinese: ask ../in/turned.jpg "有几只猫？" --denoise rank-gaussian --system "Answer with one word."
ask-prompts: ask ../in/moving.gif --prompts counting --max-new-tokens 8 -q
ask-methods: ask ../in/cats.png "how many cats?" --query last --denoise median --faithfulness
    --method relative,mean,max,sinks,sinks-redistributed,gradient,gradcam,rollout,tam
video: video ../in/clip.mp4 "what is moving?" --fps 4 --query last --heads 1
video-frames: video ../in/clip.mp4 "what color is the moving shape?" --mode frames --scale frame
video-both: video ../in/clip.mp4 "移动的物体是什么颜色？" --mode both --smooth --side-by-side --query answer
video-windows: video ../in/moving.gif "what moves?" --fps 5 --window 4 --stride 2
video-folder: video ../in/frames "what moves?" --source-fps 5 --fps 5 --start 0.4 --end 1.6 --method relative
check: check ../in/scenes/questions.jsonl --query last --layers all --by-head --csv
check-again: check ../in/scenes/questions.jsonl --query last --layers all --by-head --json --out check
check-resumed: check ../in/scenes/questions.jsonl --query last --layers all --by-head
check-part-1: check ../in/scenes/questions.jsonl --batch-size 3 --shard 1/2 -q
check-part-2: check ../in/scenes/questions.jsonl --batch-size 3 --shard 2/2 -q
merge: merge check-part-2 check-part-1 --csv
compare: compare check merge --by lift --csv compare/rows.csv
compare-json: compare merge check --top 3 --json
calibrate: check ../in/scenes/questions.jsonl --calibrate calibrate/mine.json --out calibrate/run
ask-profile: ask ../in/cats.png "how many cats?" --profile calibrate/mine.json --method heads
check-methods: check ../in/scenes/questions.jsonl --limit 3 --methods mean,relative,gradient --faithfulness --csv
check-clips: check ../in/clips/questions.jsonl --limit 12 --fps 4
check-faulty: check ../in/faulty.jsonl --fail-under pointing=0.99 --json
check-folder: check ../in/photos --prompts existence --limit 6
encoder: encoder ../in/cats.png --at 60,160 --at 10,10 --layer 1 --over max --embeddings pca,tsne
encoder-clip: encoder ../in/clip.mp4 --fps 4 --side-by-side --smooth --at 60,60
encoder-classes: encoder ../in/shapes.png ../in/turned.jpg -m ../in/encoder --saliency --at 90,90 --json
encoder-whole: encoder ../in/wide.png -m ../in/encoder --saliency --label cat --max-pixels 20000 --over min
encoder-scale: encoder ../in/cats.png ../in/wide.png --denoise median --blur 0.5 --scale shared --draw-size 300
encoder-clip-scale: encoder ../in/frames --source-fps 5 --fps 5 --denoise rank-gaussian --scale frame --layer 0
encoder-folder: encoder --input-dir ../in/photos --embeddings pca,tsne
render: render ask-methods/* --method gradient --colormap viridis --interp cells --draw-size 300
render-picture: render ask/* --layers 1-2 --query last --media ../in/cats.png --scale shared --draw-size full
render-clip: render video/* --heads 1 --media ../in/clip.mp4 --smooth --scale frame
render-encoder: render encoder/* --layer 0 --over min --media ../in/cats.png --blur 0.5 --draw-size full --json
render-encoder-clip: render encoder-clip/* --layer 0 --media ../in/clip.mp4 --smooth --scale frame
report: report ask/* --out report/page.html
report-several: report ask-questions/* ask/* ask-methods/* --out report-several/page.html
report-clip: report video-both/* --out report-clip/page.html
report-check: report check-methods --out report-check/page.html
report-encoder: report encoder/* --out report-encoder/page.html
report-kinds: report ask/* encoder/* encoder-clip/* --out report-kinds/page.html
"""
# Those that an older version may refuse as a user's error; it then has nothing to compare.
NEW = {"encoder-scale", "encoder-clip-scale", "render-encoder", "render-encoder-clip", "report-kinds"}
# Of those that are to fail; of all others it is 0.
EXIT_CODES = {"ask-missing": 2, "check-faulty": 1}
# Goes on with that check, which is copied as if it had been stopped half way.
STOPPED = {"check-resumed": "check"}


def whole(name: str, words: list[str]) -> list[str]:
    """A command line with the model and the folder for its results."""
    kind = words[0]
    model = kind in ("ask", "video", "check", "encoder") and "-m" not in words
    out = kind in ("ask", "video", "check", "encoder", "render", "merge", "demo-data") and "--out" not in words
    return [*words, *(["-m", "demo"] if model else []), *(["--out", name] if out else [])]


COMMANDS = {
    name: whole(name, shlex.split(line))
    for name, line in re.findall(r"^([\w-]+): (.+(?:\n +.+)*)", COMMAND_LINES, re.M)
}


@dataclass(frozen=True)
class Side:
    """A tree, and the folder in which its commands run."""

    tree: Path
    work: Path

    def run(self, name: str) -> tuple[int, float]:
        """Run a command, stdout and stderr into files. The exit code, and the seconds that it took."""
        begun, out = time.monotonic(), self.work / name
        if name in STOPPED:
            shutil.copytree(self.work / STOPPED[name], out)
            (out / "summary.json").unlink()
            rows = (out / "scores.jsonl").read_bytes().splitlines(keepends=True)
            (out / "scores.jsonl").write_bytes(b"".join(rows[: len(rows) // 2]))
        out.mkdir(exist_ok=True)
        words: list[str] = []
        for word in COMMANDS[name]:
            paths = sorted(self.work.glob(word)) if "*" in word else []
            words += [str(path.relative_to(self.work)) for path in paths] or [word]
        with (self.work / f"{name}.stdout").open("wb") as stdout, (self.work / f"{name}.stderr").open("wb") as stderr:
            done = self.python("-m", "qvl_attn", *words, stdout=stdout, stderr=stderr)
        return done.returncode, time.monotonic() - begun

    def python(self, *words: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run Python with the tree's package: one thread, no GPU, no network."""
        fixed = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
        fixed |= {"PYTHONPATH": str(self.tree), "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
        return subprocess.run([sys.executable, *words], cwd=self.work, env=os.environ | fixed, check=False, **options)

    def check(self) -> None:
        """Leave unless Python finds the tree's own package."""
        where = "import qvl_attn; print(qvl_attn.__file__)"
        found = self.python("-c", where, stdout=subprocess.PIPE, text=True).stdout.strip()
        if not Path(found).resolve().is_relative_to(self.tree.resolve()):
            sys.exit(f"Python does not find the package in {self.tree}, but {found or 'none'}")

    def outputs(self, name: str) -> dict[str, Path]:
        """What a command left: stdout, and its files by name."""
        files = sorted(path for path in (self.work / name).rglob("*") if path.is_file())
        named = {path.relative_to(self.work / name).as_posix(): path for path in files}
        return {"stdout": self.work / f"{name}.stdout", **named}


@contextmanager
def worktree(ref: str, folder: Path) -> Iterator[Path]:
    """Check out REF in a folder, which goes again at the end."""
    git = ["git", "-C", str(TREE), "worktree"]
    if subprocess.run([*git, "add", "--quiet", "--detach", str(folder), ref], check=False).returncode:
        sys.exit(2)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


def make_inputs(side: Side, folder: Path) -> None:
    """Make the pictures, clips, data sets and the small random encoder that the commands are given."""
    shutil.copytree(next(side.tree.rglob("pictures/cats.png")).parent, folder)
    for name, more in (("scenes", ["--n", "3"]), ("clips", ["--n", "2", "--video"])):
        made = side.python("-m", "qvl_attn", "demo-data", "--out", str(folder / name), *more, capture_output=True)
        if made.returncode:
            sys.exit(made.stderr.decode())
    cats = Image.open(folder / "cats.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: a quarter turn
    cats.save(folder / "turned.jpg", exif=exif)
    frames = [cats.transform(cats.size, Image.Transform.AFFINE, (1, 0, 9 * i, 0, 1, 0)) for i in range(9)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=200)
    (folder / "frames").mkdir()
    for i, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{i:03d}.png")
    for kind, names in {"animals": ("cats", "two_animals", "fish"), "shapes": ("shapes", "wide")}.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(folder / f"{name}.png", folder / "photos" / kind)
    (folder / "broken.png").write_bytes((folder / "cats.png").read_bytes()[:2000])
    boxes = {"boxes": [[10, 10, 90, 90]], "box_format": "xyxy", "box_units": "px"}
    question = {"question": "how many cats?", "answer": ["2", "two"], **boxes}
    rows = [{"id": "two", "images": ["cats.png", "fish.png"], "frame": [0], **question}]
    rows += [{"id": "none", "image": "shapes.png", "question": "is there a dog?", "answer": "no"}]
    rows += [{"id": "broken", "image": "broken.png", **question}]
    (folder / "faulty.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    make_encoder(folder / "encoder")


def make_encoder(folder: Path) -> None:
    """Save a small random DINOv2 with registers and two classes."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    size = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    config = transformers.Dinov2WithRegistersConfig(**size, **labels, num_register_tokens=4, initializer_range=0.5)
    transformers.Dinov2WithRegistersForImageClassification(config).save_pretrained(folder)
    cut = {"size": {"shortest_edge": 80}, "crop_size": {"height": 70, "width": 70}}
    transformers.BitImageProcessor(**cut).save_pretrained(folder)


HASH = re.compile(r"-[0-9a-f]{8}(?![\w-])")


def json_lines(file: bytes) -> list[Any]:
    return [json.loads(line) for line in file.splitlines()]


def printed(file: bytes) -> Any:
    """JSON, or else text: its numbers (but for hashes), and its lines."""
    try:
        return json_lines(file)
    except ValueError:
        text = file.decode()
        return {"(numbers)": NUMBER.findall(HASH.sub("", text)), "(lines)": text.splitlines()}


def table(file: bytes) -> dict[str, Any]:
    rows = csv.DictReader(io.StringIO(file.decode("utf-8-sig"), newline=""))
    return {"heading": [RENAMED_KEYS.get(name, name) for name in rows.fieldnames or ()], "rows": list(rows)}


def arrays(file: bytes) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(file), allow_pickle=False))


def video_frames(file: bytes) -> list[dict[str, Any]]:
    with av.open(io.BytesIO(file), "r") as container:
        frames = container.decode(video=0)
        return [{"time": float(frame.time), "pixels": frame.to_ndarray(format="rgb24")} for frame in frames]


def raw(file: bytes) -> np.ndarray:
    return np.frombuffer(file, np.uint8)


READERS: dict[str, Callable[[bytes], Any]] = {
    ".json": json.loads,
    ".jsonl": json_lines,
    ".stdout": printed,
    ".csv": table,
    ".npz": arrays,
    ".mp4": video_frames,
    ".html": carried,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif"), frames),
}


@dataclass(frozen=True)
class Comparison:
    """How two outputs are compared.

    Attributes:
        words: compare prose as well.
        any_hash: treat names as equal that differ only in the eight hex digits at their end.
        drawings: compare the pixels of pictures and videos, whose captions change with the wording.
        browser: a Chromium in which pages are opened; without it, what they draw is not compared.
    """

    words: bool = False
    any_hash: bool = False
    drawings: bool = True
    browser: Any = None

    def differences(self, old: Any, new: Any) -> Iterator[str]:
        """Where two values differ: files are read, dicts compared by key, lists by place, arrays bit by bit."""
        if isinstance(old, Path) and isinstance(new, Path):
            reader = READERS.get(new.suffix, raw)
            if reader in (frames, video_frames) and not self.drawings:
                return
            yield from self.differences(reader(old.read_bytes()), reader(new.read_bytes()))
            if reader is carried and self.browser:
                yield from self.differences(drawn(self.browser, old), drawn(self.browser, new))
        elif isinstance(old, dict) and isinstance(new, dict):
            old = {self.name(key, RENAMED_KEYS): value for key, value in old.items()}
            new = {self.name(key): value for key, value in new.items()}
            for key in dict.fromkeys([*old, *new]):
                if key not in old or key not in new:
                    yield f"{key}: only in {'REF' if key in old else 'this tree'}"
                elif key not in UNSTABLE_KEYS and not self.skips(key, old[key]):
                    yield from (f"{key}: {line}" for line in self.differences(old[key], new[key]))
        elif isinstance(old, list) and isinstance(new, list):
            yield from self.differences(*({str(i): item for i, item in enumerate(side)} for side in (old, new)))
        elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
            yield from array_differences(old, new)
        elif isinstance(old, str) and isinstance(new, str):
            if self.name(old, RENAMED_VALUES) != self.name(new):
                yield f"{old!r:.100}, {new!r:.100}"
        elif repr(old) != repr(new):
            yield f"{old!r:.100}, {new!r:.100}"

    def skips(self, key: str, value: Any) -> bool:
        """Whether a value is not compared: prose, or a drawing in a page."""
        if key.startswith("inline-") and not self.drawings:
            return True
        texts = value if isinstance(value, list) else [value]
        return key in PROSE_KEYS and not self.words and all(isinstance(text, str) for text in texts)

    def name(self, text: str, renamed: Mapping[str, str] = MappingProxyType({})) -> str:
        """A text as it is compared."""
        text = renamed.get(text) or "/".join(renamed.get(part, part) for part in text.split("/"))
        return HASH.sub("-hash", text) if self.any_hash else text


def array_differences(old: np.ndarray, new: np.ndarray) -> Iterator[str]:
    """The first place where two arrays differ in a bit."""
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        yield f"{old.dtype} {old.shape}, {new.dtype} {new.shape}"
    elif old.tobytes() != new.tobytes():
        bits = (np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize) for array in (old, new))
        apart = np.not_equal(*bits).any(axis=1)
        first = tuple(int(i) for i in np.unravel_index(apart.argmax(), old.shape))
        yield f"{list(first)}: {old[first]}, {new[first]} ({apart.sum()} of {apart.size} differ)"


def with_needed(names: Sequence[str]) -> list[str]:
    """These commands and those whose folders they read, in order."""
    needed = set(names)
    for name in reversed(COMMANDS):
        if name in needed:
            needed |= {word.split("/")[0] for word in [*COMMANDS[name][1:], STOPPED.get(name, "")]} & {*COMMANDS}
    return [name for name in COMMANDS if name in needed]


def compare(name: str, sides: Sequence[Side], comparison: Comparison) -> tuple[list[str] | None, np.ndarray]:
    """Run a command on both sides. All differences, None if REF refuses what is new; and the seconds of each side."""
    with ThreadPoolExecutor() as pool:
        codes, seconds = zip(*pool.map(lambda side: side.run(name), sides), strict=True)
    differences, expected = [], EXIT_CODES.get(name, 0)
    if name in NEW and codes == (2, expected):
        return None, np.array(seconds)
    for side, code in zip(sides, codes, strict=True):
        if code != expected:
            message = " ".join((side.work / f"{name}.stderr").read_text(errors="replace").split())
            differences.append(f"exit code: {code} in {side.work.name}, want {expected}: {message[-300:]}")
    old, new = (side.outputs(name) for side in sides)
    return [*differences, *comparison.differences(old, new)], np.array(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ref", metavar="REF", nargs="?", help="a commit, branch or tag")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=COMMANDS,
        help="run these commands, and those whose outputs they read",
    )
    parser.add_argument("--words", action="store_true", help="compare prose as well")
    parser.add_argument("--any-hash", action="store_true", help="folders may differ in the hash of their settings")
    parser.add_argument("--no-drawings", action="store_true", help="skip the pixels of pictures and videos")
    parser.add_argument("--no-browser", action="store_true", help="do not open pages in Chromium")
    parser.add_argument("--list", action="store_true", help="list the commands and exit")
    options = parser.parse_args()
    names = with_needed(options.only or [*COMMANDS])
    if options.list:
        print("\n".join(f"{name}: {shlex.join(COMMANDS[name])}" for name in names))
        return 0
    if options.ref is None:
        parser.error("REF is missing: name the commit to compare this tree with")
    differing, seconds = 0, np.zeros(2)
    with (
        tempfile.TemporaryDirectory() as made,
        worktree(options.ref, Path(made) / "tree") as tree,
        nullcontext() if options.no_browser else chromium() as browser,
    ):
        comparison = Comparison(options.words, options.any_hash, not options.no_drawings, browser)
        sides = [Side(tree, Path(made) / "REF"), Side(TREE, Path(made) / "this tree")]
        for side in sides:
            side.work.mkdir()
            side.check()
        make_inputs(sides[0], Path(made) / "in")
        for name in names:
            differences, took = compare(name, sides, comparison)
            differing, seconds = differing + bool(differences), seconds + took
            found = "new: REF refuses it" if differences is None else "same"
            if differences:
                more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
                found = f"differs: {differences[0]}{more}"
            print(f"{name}: {found}", flush=True)
    print(f"{len(names)} commands, {differing} differ; {seconds[0]:.0f} s for REF, {seconds[1]:.0f} s for this tree")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
