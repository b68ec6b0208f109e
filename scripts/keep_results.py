"""Make a small result of each kind, as this version writes it: `python scripts/keep_results.py OUT`.

They are kept in `tests/data/kept/schema-1/`: later versions must still load and draw them. Only what is read back is
kept; drawings, films and pages are left out, as they can be made from it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "qvl_attn" / "demo" / "pictures"
MODEL = ("--model", "demo", "--device", "cpu", "--dtype", "float32")
SMALL = ("--draw-size", "160", "--max-pixels", "25088")
COMMANDS = {
    "ask": (
        *("ask", "cats.png", "how many cats?", "--image", "fish.png", "--layers", "1-2", "--heads", "1.2,2.0"),
        *("--query", "last", *SMALL),
    ),
    "ask-methods": (
        *("ask", "cats.png", "how many cats?", "--method", "relative", "--faithfulness", "--answer", "three", *SMALL),
    ),
    "video": ("video", "clip.mp4", "what color is the moving shape?", "--mode", "both", "--max-frames", "4", *SMALL),
    "encoder": ("encoder", "cats.png", "--embeddings", "pca,tsne", "--at", "60,60", *SMALL),
    "check": (
        *(
            "check",
            "scenes/questions.jsonl",
            "--limit",
            "3",
            "--methods",
            "relative,mean",
            "--faithfulness",
            "--by-head",
        ),
        *("--query", "last", "--max-pixels", "25088"),
    ),
}
# Drawings and pages, which are made from the rest.
KEPT = ("result.json", "attention.npz", "picture_*.png", "seen/*.png", "input/*.png", "passes/**/*")
KEPT_OF_RUN = ("run.json", "scores.jsonl", "summary.json", "gallery/*.npz")


def kept_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a result or run that are read back."""
    for pattern in KEPT_OF_RUN if (folder / "run.json").exists() else KEPT:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def main(arguments: list[str] | None = None) -> int:
    """Make all results, and return the exit code."""
    sys.path.insert(0, str(ROOT))
    from qvl_attn.cli.app import app
    from qvl_attn.demo.dataset import write_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, in which each result gets a folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_dataset(work / "scenes", 3)
        for kind, words in COMMANDS.items():
            media = [str(PICTURES / word) if (PICTURES / word).is_file() else word for word in words]
            media = [str(work / word) if word.startswith("scenes/") else word for word in media]
            made = work / kind
            app([*media, *MODEL, "--out", str(made), "--quiet"], standalone_mode=False)
            folder = made if kind == "check" else next(made.glob("*/result.json")).parent
            shutil.rmtree(options.out / kind, ignore_errors=True)
            for file in kept_files(folder):
                target = options.out / kind / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
