"""Shared fixtures: the embedded model, a random model with the genuine vocabulary, pictures, clips, pages."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import typer.testing

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models are small: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs (`nohup ... &`) with Ctrl-C ignored, and the processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

DEMO_MODEL = Path(__file__).parent.parent / "qvl_attn" / "demo" / "model"
CLIP_FPS = 10
# No test depends on how fast the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
DEMO_PICTURES = Path(__file__).parent.parent / "qvl_attn" / "demo" / "pictures"


# Typer would build the whole command line anew for every command that a test runs.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def pytest_sessionstart():
    """Do not look for garbage among the libraries and tests, which stay until the end."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, broken files and the genuine tokenizer, which are not part of the repository."""
    folder = Path(os.environ.get("QVL_ATTN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no shared data; name its folder in QVL_ATTN_DATA")
    return folder


@pytest.fixture(scope="session")
def cats() -> Path:
    return DEMO_PICTURES / "cats.png"


@pytest.fixture(scope="session")
def wide() -> Path:
    return DEMO_PICTURES / "wide.png"


@pytest.fixture(scope="session")
def demo():
    """The embedded model, loaded once."""
    from qvl_attn import Analyzer

    analyzer = Analyzer.load("demo", dtype="float32", device="cpu")
    _ = analyzer.engine.model
    return analyzer


@pytest.fixture(scope="session")
def engine(demo):
    """The model behind `demo`."""
    return demo.engine


@pytest.fixture(scope="session")
def genuine_folder(shared_data, tmp_path_factory) -> Path:
    """A checkpoint on disk: a small model with random weights, and the vocabulary, template and settings of Qwen2.5-VL.

    What addresses tokens has the real geometry: head size 128, M-RoPE sections, grouped queries, windows.
    """
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    source = shared_data / "tokenizer" / "7B"
    folder = tmp_path_factory.mktemp("genuine")
    for file in source.iterdir():
        if file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, folder / file.name)
    config = json.loads((source / "config.json").read_text())
    config |= {
        "hidden_size": 256,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    config["vision_config"] |= {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [1],
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder))
    model.to(torch.bfloat16).save_pretrained(folder)
    # save_pretrained writes defaults; the tests need the settings of the checkpoint.
    shutil.copy(source / "generation_config.json", folder / "generation_config.json")
    return folder


@pytest.fixture(scope="session")
def genuine(genuine_folder):
    """The random model with the genuine vocabulary, loaded like any local checkpoint."""
    from qvl_attn import Analyzer

    return Analyzer.load(str(genuine_folder), dtype="float32", device="cpu")


@pytest.fixture
def make_picture(tmp_path):
    """Write a picture of random colours with the given width and height."""
    from PIL import Image

    def make(width: int, height: int, name: str = "random.png", seed: int = 0) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return make


def numbered_frames(count: int, size_px=(64, 48)) -> list[np.ndarray]:
    """Return frames that differ and compress well."""
    width, height = size_px
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 40, np.uint8)
        frame[:, : (i + 1) * width // count] = (200, (60 + 3 * i) % 256, 90)
        frames.append(frame)
    return frames


@pytest.fixture(scope="session")
def examples(request, tmp_path_factory):
    """By model and kind (`one`, `two` pictures, `clip`): an `Example`, whose plain run is computed once."""
    from functools import cache

    from PIL import Image

    from qvl_attn.media.mp4 import write_mp4
    from tests.helpers.plain_eager import Example, clip_media

    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(4)
    for name, (width, height) in {"a": (200, 120), "b": (90, 150)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    times = [i / CLIP_FPS for i in range(7)]
    write_mp4(folder / "clip.mp4", zip(numbered_frames(7, (140, 84)), times, strict=True), 0.7, rate_fps=CLIP_FPS)

    @cache
    def example(model: str, kind: str) -> Example:
        engine = request.getfixturevalue(model).engine
        if kind == "clip":
            return Example(engine, clip_media(engine, folder / "clip.mp4", CLIP_FPS), "what moves?")
        paths = {
            "demo": [DEMO_PICTURES / "cats.png", DEMO_PICTURES / "wide.png"],
            "genuine": [folder / "a.png", folder / "b.png"],
        }[model]
        question = {"demo": "how many cats?", "genuine": "how many cats? 有几只猫?"}[model]
        return Example(engine, paths[: 1 if kind == "one" else 2], question)

    return example


@pytest.fixture(scope="session")
def results(demo, cats, wide, tmp_path_factory):
    """By name: results of every kind that a page shows, each computed once."""
    from qvl_attn.media.mp4 import write_mp4
    from tests.helpers.pages import results_of

    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = zip(numbered_frames(7, (140, 84)), (i / CLIP_FPS for i in range(7)), strict=True)
    write_mp4(clip, frames, 0.7, rate_fps=CLIP_FPS)
    return results_of(demo, cats, wide, clip)


@pytest.fixture(scope="session")
def page_file(results, tmp_path_factory):
    """By names of `results`: the file of their page."""
    from functools import cache

    from qvl_attn.results.page_data import results_html

    folder = tmp_path_factory.mktemp("pages")

    @cache
    def write(*names: str) -> Path:
        file = folder / f"{'-'.join(names).replace(' ', '-')}.html"
        file.write_text(results_html([results(name) for name in names]), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def finished_check(demo, tmp_path_factory):
    """By kind (see `check_pages.KINDS`): a finished check, run once."""
    from functools import cache

    from tests.helpers.check_pages import FinishedCheck, run_check_of_kind

    @cache
    def run_once(kind: str) -> FinishedCheck:
        return run_check_of_kind(demo, kind, tmp_path_factory.mktemp(kind))

    return run_once


@pytest.fixture
def open_check_page(chromium, finished_check):
    """Open the page of a check, by its kind or file; it must report no errors and make no requests."""
    from contextlib import ExitStack

    from tests.helpers.check_pages import CheckPage
    from tests.helpers.pages import open_in_browser

    with ExitStack() as stack:

        def open_page(kind_or_file, **options) -> CheckPage:
            file = kind_or_file if isinstance(kind_or_file, Path) else finished_check(kind_or_file).page
            options = {"viewport": {"width": 1200, "height": 800}} | options
            return CheckPage(stack.enter_context(open_in_browser(chromium, file, **options)))

        yield open_page


@pytest.fixture
def clip_file(tmp_path):
    """Write a clip of `count` frames at 10 per second, or at the given times."""

    def write(count=20, name="clip.mp4", times_s=None, size_px=(64, 48), end_s=None) -> Path:
        from qvl_attn.media.mp4 import write_mp4

        times = [i / CLIP_FPS for i in range(count)] if times_s is None else times_s
        end = times[-1] + 1 / CLIP_FPS if end_s is None else end_s
        write_mp4(tmp_path / name, zip(numbered_frames(count, size_px), times, strict=True), end, rate_fps=CLIP_FPS)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def chromium():
    """A real headless browser. Without one the tests are skipped, or fail if QVL_ATTN_REQUIRE_BROWSER is set."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if path is None:
        if os.environ.get("QVL_ATTN_REQUIRE_BROWSER"):
            pytest.fail("no Chromium")
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, page_file):
    """Open a page of some of `results`, with options of the browser context; see `pages.open_in_browser`."""
    from contextlib import ExitStack

    from tests.helpers.pages import open_in_browser

    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(open_in_browser(chromium, page_file(*names), **options))


@pytest.fixture(scope="session")
def encoder_results():
    """Results of encoders by name, one of every kind that a page shows."""
    from tests.helpers.made_up_encoder_results import results_of

    return results_of()


@pytest.fixture(scope="session")
def encoder_page_file(encoder_results, tmp_path_factory):
    """The file of the page of one of `encoder_results`."""
    from functools import cache

    from qvl_attn.results.page_data import results_html

    folder = tmp_path_factory.mktemp("encoder-pages")

    @cache
    def write(name: str) -> Path:
        (folder / f"{name}.html").write_text(results_html([encoder_results(name)], [["a note"]]), encoding="utf-8")
        return folder / f"{name}.html"

    return write


@pytest.fixture
def open_encoder_page(chromium, encoder_page_file):
    """Open the page of one of `encoder_results`, with options of the browser context; see `pages.open_in_browser`."""
    from contextlib import ExitStack

    from tests.helpers.pages import open_in_browser

    with ExitStack() as stack:
        yield lambda name, **options: stack.enter_context(open_in_browser(chromium, encoder_page_file(name), **options))
