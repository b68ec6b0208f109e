"""Estimates before a question runs: tokens, memory, the chosen attention, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from benchmarks import measuring, memory
from transformers import AutoConfig
from typer.testing import CliRunner

from qvl_attn import Analyzer
from qvl_attn.attribution.settings import Settings
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError
from qvl_attn.media.image import load_picture
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.loading import choose_placement
from qvl_attn.model.memory import CUDA_BYTES, ESTIMATED_MODES, ITEM_BYTES, Job, mapped_bytes, peak_bytes
from qvl_attn.model.placement import Placement
from qvl_attn.model.preprocess import load_clip
from qvl_attn.vqa.estimate import check_context, check_memory, choose_attention, estimate_of
from qvl_attn.vqa.fitting import NEW_TOKENS, QUERIES, WORDS, fit_of
from qvl_attn.vqa.question import read_question
from tests.conftest import DEMO_MODEL, DEMO_PICTURES

QUESTION = "how many cats?"
JOB = Job(cells=4000, words=25, new_tokens=128, queries=6, layers=36)


@pytest.fixture(scope="module")
def clip():
    return DEMO_PICTURES / "clip.mp4"


@pytest.fixture(scope="module")
def three_b():
    """Configuration with the sizes of the 3B model."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
        },
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16},
    )


def read(engine, paths, settings=None):
    media = [load_picture(path) for path in paths]
    return read_question(engine.processor, engine.config, media, QUESTION, settings or Settings())


def run(*args):
    return CliRunner().invoke(app, ["estimate", *(str(arg) for arg in args)])


def test_tokens_and_grids_are_the_processors(engine, cats, wide):
    question = read(engine, [cats, wide])
    estimate = estimate_of(engine.config, engine.placement, question, 2**34)
    inputs = question.prompt.inputs
    assert estimate.job.tokens == inputs["input_ids"].shape[1]
    assert estimate.job.cells == int((inputs["mm_token_type_ids"] == 1).sum())
    assert [list(grid.grid_thw) for _, _, grid in estimate.pictures] == inputs["image_grid_thw"].tolist()
    assert [(name, size) for name, size, _ in estimate.pictures] == [
        (media.source, media.size_px) for media in question.media
    ]
    assert estimate.faults == ()
    assert estimate.max_pixels is None
    assert all(estimate.fits(mode) for mode in ESTIMATED_MODES)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cells", [4, 256, 1000, 4000, 16000])
@pytest.mark.parametrize("new_tokens", [1, 4096])
def test_rows_need_no_more_than_eager_and_eager_no_more_than_the_usual_way(three_b, device, dtype, cells, new_tokens):
    job = replace(JOB, cells=cells, new_tokens=new_tokens)
    eager, rows, usual = (peak_bytes(three_b, dtype, job, mode, device) for mode in ESTIMATED_MODES)
    assert 0 < rows <= eager <= usual


def test_rows_grow_with_the_prompt_and_the_usual_way_with_its_square(three_b):
    def growth(mode):
        sizes = [peak_bytes(three_b, "float32", replace(JOB, cells=cells), mode, "cuda") for cells in (16000, 32000)]
        return sizes[1] / sizes[0]

    assert growth("rows") == pytest.approx(2, rel=0.05)
    assert growth("usual") == pytest.approx(4, rel=0.05)


def test_the_usual_way_is_two_times_all_matrices(three_b):
    """41 GB for the 3B in bfloat16 at 4k, 2 * layers * heads * S^2 * 2 bytes."""
    matrices = 2 * 36 * 16 * JOB.tokens**2 * 2
    assert peak_bytes(three_b, "bfloat16", JOB, "usual", "cuda") == pytest.approx(matrices, rel=0.1)


def test_recorded_rows_are_in_the_hosts_memory(three_b):
    apart = replace(JOB, heads=16, queries=200, new_tokens=1000)
    on_gpu = [peak_bytes(three_b, "bfloat16", replace(apart, heads=heads), "rows", "cuda:0") for heads in (0, 16)]
    assert on_gpu[0] == on_gpu[1] < apart.result_bytes
    assert peak_bytes(three_b, "bfloat16", apart, "rows") >= apart.result_bytes


def test_what_is_kept(three_b, engine, cats):
    """The mean over heads in float32, plus single heads in the precision that stores them."""
    cells, layers = 72, 4
    for settings, weight_bytes in (
        (Settings(), 4),
        (Settings(heads="0"), 4 + 4 * 4),
        (Settings(heads="0", store_heads="float16"), 4 + 4 * 2),
    ):
        (question,) = engine.prepare([([cats], QUESTION)], settings)
        assert question.job.cells == cells
        assert question.job.result_bytes == layers * cells * (question.job.queries + 128) * weight_bytes
    (long,) = engine.prepare([([cats], QUESTION)], Settings(max_new_tokens=2, answer="cat " * 50))
    assert long.job.new_tokens >= 50, "a supplied answer counts"


def test_a_batch_needs_more(three_b):
    single, four = (peak_bytes(three_b, "float32", replace(JOB, batch=batch), "rows") for batch in (1, 4))
    assert 3 * single < four


@pytest.mark.parametrize("attention", ["eager", "rows"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_shared_batch_needs_its_keys_and_values_and_not_its_pictures(three_b, attention, device):
    single, eight, apart = (
        peak_bytes(three_b, "bfloat16", replace(JOB, batch=batch, shared=shared), attention, device)
        for batch, shared in ((1, True), (8, True), (8, False))
    )
    keys_and_values = 36 * 2 * 2 * 128 * 2 * JOB.tokens
    assert single + 7 * keys_and_values < eight < apart / 2


def test_a_method_needs_what_its_pass_keeps(three_b):
    plain, states, products, gradients = (
        peak_bytes(three_b, "float32", replace(JOB, **more), "rows")
        for more in (
            {},
            {"probed": True},
            {"probed": True, "products": True},
            {"probed": True, "products": True, "gradients": True},
        )
    )
    assert plain == states, "hidden states are read, not stored"
    queries_and_keys = 36 * (2048 + 2 * 128) * 4 * JOB.tokens
    activations = 36 * 3 * 11008 * 4 * JOB.tokens
    assert queries_and_keys < products < 2 * queries_and_keys + plain
    assert queries_and_keys + activations < gradients < 1.5 * (queries_and_keys + activations) + plain
    double = replace(JOB, cells=2 * JOB.cells, probed=True, products=True, gradients=True)
    assert peak_bytes(three_b, "float32", double, "rows") < 2.1 * gradients, "linear in the tokens"


def test_a_method_that_does_not_fit_is_refused_before_anything_runs(engine, cats, monkeypatch):
    plain, gradient = (engine.settings(method=method) for method in (None, "gradient"))
    (question,) = engine.prepare([([cats], QUESTION)], plain)
    free = peak_bytes(engine.config, "float32", question.job, "rows") + 1
    monkeypatch.setattr(type(engine), "free_bytes", lambda self: free)
    engine.prepare([([cats], QUESTION)], plain)
    with pytest.raises(MemoryLimitError):
        engine.prepare([([cats], QUESTION)], gradient)


def test_eager_is_taken_in_float32_while_it_fits(three_b):
    needed = peak_bytes(three_b, "float32", JOB, "eager")
    attention, reason = choose_attention(three_b, "float32", JOB, needed)
    assert attention == "eager"
    assert re.fullmatch(r"float32, and it needs about [\d.]+ GiB of the [\d.]+ GiB that are free", reason)
    attention, reason = choose_attention(three_b, "float32", JOB, needed - 1)
    assert attention == "rows"
    assert re.fullmatch(r"eager attention would need about [\d.]+ GiB of the [\d.]+ GiB that are free", reason)


def test_rows_are_taken_in_16_bits_and_on_several_gpus(three_b):
    assert choose_attention(three_b, "bfloat16", JOB, 2**50)[0] == "rows"
    attention, reason = choose_attention(three_b, "float32", JOB, None)
    assert attention == "rows"
    assert "several GPUs" in reason
    check_memory(three_b, "float32", replace(JOB, cells=10**5), "eager", None, 1)


def named_pixels(error):
    return int(re.search(r"`max_pixels=(\d+)` fits", error.hint)[1])


@pytest.mark.parametrize("pictures", [1, 3])
def test_a_prompt_longer_than_the_context_names_what_fits(three_b, pictures):
    long = replace(JOB, cells=130_000)
    with pytest.raises(InputError, match=r"context is 128000.*`max_pixels=\d+` fits") as caught:
        check_context(three_b, long, pictures)
    cells = named_pixels(caught.value) // 28**2
    check_context(three_b, replace(long, cells=pictures * cells), pictures)
    with pytest.raises(InputError):
        check_context(three_b, replace(long, cells=pictures * (cells + 2)), pictures)
    with pytest.raises(InputError, match="shorten the question"):
        check_context(three_b, replace(JOB, words=128_000), 1)


@pytest.mark.parametrize("attention", ["eager", "rows"])
def test_a_prompt_over_the_memory_names_what_fits(three_b, attention):
    free = peak_bytes(three_b, "float32", JOB, attention) // 2
    with pytest.raises(MemoryLimitError, match=r"4000 vision tokens need about.*`max_pixels=\d+` fits") as caught:
        check_memory(three_b, "float32", JOB, attention, free, 1)
    cells = named_pixels(caught.value) // 28**2
    assert 1000 < cells < 4000
    check_memory(three_b, "float32", replace(JOB, cells=cells), attention, free, 1)
    with pytest.raises(MemoryLimitError, match="take a smaller model"):
        check_memory(three_b, "float32", JOB, attention, -1, 1)


def test_rows_are_named_where_eager_does_not_fit(engine):
    long = replace(JOB, cells=1000, words=20_000)
    free = peak_bytes(engine.config, "float32", long, "rows")
    assert free < peak_bytes(engine.config, "float32", long, "eager")
    with pytest.raises(MemoryLimitError, match="`attn='rows'` fits"):
        check_memory(engine.config, "float32", long, "eager", free, 1)


def test_more_rows_than_a_result_may_hold(engine, cats, monkeypatch):
    monkeypatch.setattr("qvl_attn.vqa.estimate.MAX_NPZ_BYTES", 10**5)
    with pytest.raises(MemoryLimitError, match="rows of attention"):
        engine.prepare([([cats], QUESTION)], Settings(heads="0"))


def test_what_is_named_is_taken(engine, make_picture, monkeypatch):
    """The hint leads to a prompt that runs and is not much smaller than necessary."""
    large = make_picture(1400, 1400)
    settings = Settings(max_pixels=4_000_000, max_new_tokens=3000)
    with pytest.raises(InputError, match=r"context is 4096.*`max_pixels=\d+` fits") as caught:
        engine.prepare([([large], QUESTION)], settings)
    fits = replace(settings, max_pixels=named_pixels(caught.value))
    assert 4096 - 120 < engine.prepare([([large], QUESTION)], fits)[0].prompt.length + 3000 <= 4096

    whole = engine.prepare([([large], QUESTION)], Settings())[0]
    half = peak_bytes(engine.config, "float32", whole.job, "eager") // 2
    monkeypatch.setattr(type(engine), "free_bytes", lambda self: half)
    with pytest.raises(MemoryLimitError, match=r"`max_pixels=\d+` fits") as caught:
        engine.prepare([([large], QUESTION)], Settings())
    fits = Settings(max_pixels=named_pixels(caught.value))
    smaller = engine.prepare([([large], QUESTION)], fits)[0]
    assert 0.3 < smaller.job.cells / whole.job.cells < 1


def test_an_estimate_of_what_cannot_be_asked(three_b, engine, cats):
    question = read(engine, [cats])
    question = replace(question, job=replace(question.job, cells=200_000))
    estimate = estimate_of(three_b, Placement("cpu", "float32", None, 2**33, ""), question, 2**33)
    context, memory = estimate.faults
    assert "context is 128000" in context
    assert "are free" in memory
    assert not any(estimate.fits(mode) for mode in ESTIMATED_MODES)
    cells = estimate.max_pixels // 28**2
    again = replace(question, job=replace(question.job, cells=cells))
    assert estimate_of(three_b, Placement("cpu", "float32", None, 2**33, ""), again, 2**33).faults == ()


def test_a_model_without_weights_that_would_not_fit(demo, cats, tmp_path, monkeypatch):
    folder, options = tmp_path / "model", {"device": "cpu", "dtype": "float32"}
    shutil.copytree(DEMO_MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelError, match="no safetensors weights"):
        Analyzer.load(str(folder), **options)
    analyzer = Analyzer.load(str(folder), weights=False, **options)
    assert analyzer.estimate(cats, QUESTION).job == demo.estimate(cats, QUESTION).job
    with pytest.raises(ModelError, match="no safetensors weights"):
        analyzer.ask(cats, QUESTION)
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
        with pytest.raises(MemoryLimitError, match="the weights do not fit"):
            Analyzer.load("demo", **options)
        estimate = Analyzer.load(str(folder), weights=False, **options).estimate(cats, QUESTION)
        assert re.match(r"the weights need \d+ MiB more than is free", estimate.faults[0])
        with pytest.raises(MemoryLimitError, match="0 MiB are free"):
            Analyzer.load("demo", weights=False, **options).ask(cats, QUESTION)
    there = Analyzer.load("demo", weights=False, **options)
    assert there.ask(cats, QUESTION).answer == demo.ask(cats, QUESTION).answer


def test_the_command_loads_no_weights(cats, monkeypatch):
    for module in ("model.loading", "vqa.engine"):
        monkeypatch.setattr(f"qvl_attn.{module}.load_weights", lambda *args: pytest.fail("weights were loaded"))
    done = run(cats, "--model", "demo", "--device", "cpu", "--question", QUESTION)
    assert done.exit_code == 0, done.output
    for words in (
        "float32 on cpu",
        "8 rows x 9 columns = 72 vision tokens",
        "the usual way",
        "--attn auto takes eager",
    ):
        assert words in done.stdout


def test_the_command_as_json(cats, wide, engine):
    args = ["--model", "demo", "--device", "cpu", "--dtype", "float32", "--question", QUESTION, "--json"]
    done = run(cats, "-i", wide, "--max-new-tokens", 7, *args)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    question = read(engine, [cats, wide], Settings(max_new_tokens=7))
    assert report["prompt_tokens"] == question.prompt.length
    assert [picture["vision_tokens"] for picture in report["pictures"]] == [g.cells for g in question.prompt.grids]
    assert [picture["size_px"] for picture in report["pictures"]] == [[252, 224], [252, 140]]
    assert report["weight_bytes"] == engine.placement.weight_bytes
    assert (report["max_new_tokens"], report["context"], report["attention"]) == (7, 4096, "eager")
    assert (report["faults"], report["max_pixels"]) == ([], None)
    for mode in ESTIMATED_MODES:
        cost = report["ways"][mode]
        assert cost["bytes"] == peak_bytes(engine.config, "float32", question.job, mode)
        assert cost["with_weights_bytes"] == cost["bytes"] + report["weight_bytes"]
        assert cost["fits"]


def test_the_command_says_what_does_not_fit_and_still_prints(cats):
    done = run(cats, "--model", "demo", "--device", "cpu", "--min-pixels", 4_000_000, "--max-pixels", 5_000_000)
    assert done.exit_code == 0, done.output
    assert "the usual way" in done.stdout
    assert re.search(r"does not fit: the prompt is .* context is 4096 \(--max-pixels \d+ fits\)", done.stdout)


def test_the_command_refuses_as_ask_does(cats, tmp_path):
    for args, code in (([tmp_path / "no.png"], 2), ([cats, "--layers", "99"], 2), (["--image", cats], 2)):
        done = run(*args, "--model", "demo", "--device", "cpu")
        assert done.exit_code == code, done.output
        assert done.stderr.startswith("error: ")
        assert done.stdout == ""


def test_the_stderr_line_says_why(cats, caplog):
    caplog.set_level("INFO", "qvl_attn")
    Analyzer.load("demo", dtype="float32", device="cpu").ask(cats, QUESTION, max_new_tokens=2)
    assert any(
        re.fullmatch(r"eager attention: float32, and it needs about \d+ MiB of the [\d.]+ GiB that are free", line)
        for line in caplog.messages
    )


def test_a_clip_is_estimated_as_video_asks_it(engine, clip):
    settings = engine.settings(clip=ClipSettings(fps=4, max_frames=6))
    question = engine.prepare([(load_clip(engine.processor, open_clip(clip), settings), QUESTION)], settings)[0]
    done = run(
        clip, "--model", "demo", "--device", "cpu", "--question", QUESTION, "--fps", 4, "--max-frames", 6, "--json"
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    (grid,) = question.prompt.grids
    assert report["prompt_tokens"] == question.prompt.length
    assert [picture["grid_thw"] for picture in report["pictures"]] == [list(grid.grid_thw)]
    assert grid.grid_thw[0] == 3
    refused = run(clip, "--image", clip, "--model", "demo")
    assert refused.exit_code == 2
    assert "is a clip, which is asked about alone" in refused.stderr


def sizes(*args):
    done = run(*args)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_without_a_picture_it_says_what_fits(shared_data):
    report = json.loads(sizes("--json"))
    fits = {(fit["model"].split("-")[2], fit["dtype"]): fit["max_pixels"] for fit in report["models"]}
    assert fits.keys() == {(model, dtype) for model in ("3B", "7B") for dtype in ITEM_BYTES}
    assert report["device"] == "cuda"
    for model in ("3B", "7B"):
        assert fits[model, "bfloat16"] == fits[model, "float16"]
        config = AutoConfig.from_pretrained(shared_data / "tokenizer" / model)
        for dtype in ("bfloat16", "float32"):
            weights = choose_placement(config, "cpu", dtype, must_fit=False).weight_bytes
            assert list(fits[model, dtype]) == ["8", "16", "24", "48", "80"]
            for gb, pixels in fits[model, dtype].items():
                job = Job(pixels // 28**2, WORDS, NEW_TOKENS, QUERIES, config.text_config.num_hidden_layers)
                needed = weights + CUDA_BYTES + peak_bytes(config, dtype, job, "rows", "cuda")
                assert not pixels or needed <= int(gb) * 10**9
                longer = replace(job, cells=job.cells + 8)
                needed = weights + CUDA_BYTES + peak_bytes(config, dtype, longer, "rows", "cuda")
                assert needed > int(gb) * 10**9 or longer.tokens + NEW_TOKENS > 128_000
    lines = sizes().splitlines()
    assert lines[2].split() == [
        "model",
        "precision",
        "weights",
        *(part for gb in fits["3B", "float32"] for part in (gb, "GB")),
    ]
    assert lines[3].split() == ["Qwen/Qwen2.5-VL-3B-Instruct", "float32", "14.0", "GiB", "-", "-", "any", "any", "any"]


def test_without_a_picture_precision_and_length_of_the_answer_are_those_that_are_named():
    def pixels(*args):
        report = json.loads(sizes("--model", "demo", "--device", "cpu", *args, "--json"))
        assert [fit["dtype"] for fit in report["models"]] == ["bfloat16"]
        return report["max_new_tokens"], report["models"][0]["max_pixels"]["80"]

    short, long = pixels("--dtype", "bfloat16"), pixels("--dtype", "bfloat16", "--max-new-tokens", "300")
    assert (short[0], long[0]) == (NEW_TOKENS, 300)
    cells = [count // 28**2 for _, count in (short, long)]
    assert cells[0] - cells[1] == 300 - NEW_TOKENS, "the context holds the picture and the answer"
    table = sizes("--model", "demo", "--dtype", "bfloat16", "--max-new-tokens", "1")
    assert "(--attn rows, answers of up to 1 token)" in table
    assert "float32" not in table


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("--device", "nonsense", "--device nonsense: unknown"),
        ("--max-new-tokens", "99999999", "--max-new-tokens 99999999: want 1 to 4096"),
        *(
            (option, value, f"{option} needs a picture")
            for option, value in (
                ("--question", "what?"),
                ("--system", "Be brief."),
                ("--layers", "all"),
                ("--heads", "1"),
                ("--profile", "none"),
                ("--min-pixels", "4000"),
                ("--max-pixels", "90000"),
                ("--fps", "1"),
                ("--max-frames", "2"),
                ("--start", "1"),
                ("--end", "2"),
            )
        ),
    ],
)
def test_without_a_picture_nothing_that_was_typed_is_ignored(option, value, error):
    done = run(option, value)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {error}")
    assert done.stdout == ""


def test_the_memory_of_a_machine_holds_the_process_too(engine):
    on_gpu, on_cpu = (
        json.loads(sizes("--model", "demo", "--device", device, "--json"))["models"] for device in ("auto", "cpu")
    )
    assert [fit["weight_bytes"] for fit in on_cpu] == [fit["weight_bytes"] for fit in on_gpu]
    assert on_cpu[0]["weight_bytes"] == engine.placement.weight_bytes
    assert fit_of("demo", engine.config, "float32", 2_000_000, "cpu", 8 * 10**9).max_pixels[8] == 0
    assert fit_of("demo", engine.config, "float32", 2_000_000, "cpu", 10**9).max_pixels[8] > 0


def test_pages_of_the_files_are_beside_weights_of_another_precision(engine, genuine_folder, tmp_path):
    files = sum(file.stat().st_size for file in genuine_folder.glob("*.safetensors"))
    config = AutoConfig.from_pretrained(genuine_folder)
    placements = {dtype: choose_placement(config, "cpu", dtype) for dtype in ITEM_BYTES}
    beside = {dtype: mapped_bytes(config, placement, genuine_folder) for dtype, placement in placements.items()}
    assert beside == {"float32": files, "bfloat16": 0, "float16": files}
    counted = mapped_bytes(config, placements["float32"], tmp_path)
    assert counted == pytest.approx(files, rel=0.1), "weights that are not here yet"


def measured(cats, clip, genuine, picture, out):
    """In one process: what was estimated and used, by precision, size and kind of medium."""
    model = "--model", "demo", "--device", "cpu", "--dtype", "float32"
    report = json.loads(run(cats, *model, "--json").stdout)
    measuring.forget_peak()
    assert CliRunner().invoke(app, ["ask", cats, "Describe this image.", *model, "--out", out]).exit_code == 0
    command = report["ways"]["eager"]["peak_bytes"], measuring.peak_bytes()
    return {
        "command": {"loading": command, "process": command},
        "clip": memory.measure("demo", clip, "rows", "bfloat16", save=False, max_new_tokens=2),
        "large": memory.measure(genuine, picture, "eager", "float32", save=False, max_pixels=800_000, max_new_tokens=2),
        "half": memory.measure(genuine, picture, "rows", "float16", save=False, max_pixels=300_000, max_new_tokens=2),
    }


def test_no_process_uses_more_than_was_estimated(cats, clip, genuine_folder, make_picture, tmp_path):
    paths = cats, clip, genuine_folder, make_picture(1300, 1200), tmp_path / "out"
    rows = measuring.in_own_process(measured, *map(str, paths))
    assert rows["large"]["tokens"] > 1000
    for name, row in rows.items():
        for stage in ("loading", "process"):
            estimated, used = row[stage]
            assert used <= estimated <= 1.5 * used, (name, stage, rows)
