"""`rows` beside SDPA: against eager `output_attentions` in float32, and against float32 in 16 bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from qvl_attn import Analyzer
from qvl_attn.attribution.settings import Settings
from qvl_attn.model.capture import attention_rows, record_attention
from qvl_attn.model.generate import Recording, greedy, own_answers, padded_batch
from qvl_attn.model.prompt import answer_tokens
from qvl_attn.model.recorder import AttentionRecorder, Target
from tests.conftest import DEMO_PICTURES
from tests.helpers.recipe import recipe
from tests.helpers.small import SMALL_DRAWING
from tests.model.test_capture import plain

MODES = ["eager", "rows"]
QUESTIONS = [
    *(f"what color is the {shape}?" for shape in ("cat", "dog", "star", "circle", "square", "fish", "triangle")),
    *(f"how many {shape}s?" for shape in ("cat", "dog", "star", "circle")),
]


def clip(processor, frames=6, size_px=(84, 112), question="what appears?"):
    """Return the real video processor's tensors of a clip of noise, frames 0.5 s apart."""
    rng = np.random.default_rng(3)
    video = rng.integers(0, 256, (frames, size_px[1], size_px[0], 3), dtype=np.uint8)
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = {"total_num_frames": frames, "fps": 2.0, "frames_indices": list(range(frames))}
    inputs = processor(
        text=[text], videos=[video], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    assert [float(seconds) for seconds in inputs["second_per_grid_ts"]] == [1.0], "two frames a step"
    return dict(inputs)


def recorded(model, inputs, mode, max_new_tokens=6, targets=None):
    """Return the rows of all prompt and generated tokens by head, on all prompt tokens, and the generated tokens."""
    length = inputs["input_ids"].shape[1]
    everything = tuple(range(length))
    recorder = AttentionRecorder(
        range(model.config.text_config.num_hidden_layers),
        targets or [Target(everything, everything)],
        length,
        by_head=True,
    )
    with record_attention(model, recorder, mode), torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return recorder.results(), ids[:, length:].tolist()


def whole(model, inputs, max_new_tokens=6):
    """Return the same, from transformers' own eager attention."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        full, ids = plain(model, inputs, max_new_tokens)
    finally:
        model.set_attn_implementation("sdpa")
    length = inputs["input_ids"].shape[1]
    return full[..., :length], ids


@pytest.mark.parametrize("mode", MODES)
def test_a_clip(engine, mode):
    inputs = clip(engine.processor)
    full, _ = whole(engine.model, inputs)
    (rows,), _ = recorded(engine.model, inputs, mode)
    assert (inputs["mm_token_type_ids"][0] == 2).sum() == 3 * 4 * 3
    assert rows.queries.tolist() == list(range(full.shape[2]))
    assert np.abs(rows.by_head - full).max() <= 1e-5


@pytest.fixture(scope="module")
def sliding(genuine_folder):
    """A random model in float32 on the CPU; the last two of its three layers have a sliding window of 40 tokens."""
    config = AutoConfig.from_pretrained(genuine_folder)
    config.text_config.use_sliding_window = True
    config.text_config.sliding_window = 40
    config.text_config.layer_types = ["full_attention", "sliding_attention", "sliding_attention"]
    torch.manual_seed(1)
    return Qwen2_5_VLForConditionalGeneration(config).float().eval()


@pytest.mark.parametrize("mode", MODES)
def test_sliding_layers_in_prefill_and_decode(sliding, genuine, make_picture, mode):
    inputs = dict(recipe(genuine.engine.processor, [make_picture(280, 196)], "how many?"))
    (rows,), ids = recorded(sliding, inputs, mode, max_new_tokens=12)
    length = inputs["input_ids"].shape[1]
    assert length > 60
    assert len(ids[0]) == 12
    sliding.set_attn_implementation({"text_config": "eager"})
    # One forward pass over all tokens, since eager's matrices of sliding layers lose columns during generation.
    ids = torch.cat([inputs["input_ids"], torch.tensor(ids)], dim=1)[:, :-1]
    more = ids.shape[1] - length
    forced = inputs | {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more)),
    }
    try:
        with torch.inference_mode():
            attentions = sliding(**forced, output_attentions=True).attentions
    finally:
        sliding.set_attn_implementation("sdpa")
    full = torch.cat(attentions).numpy()[..., :length]
    assert np.abs(rows.by_head - full).max() <= 1e-5
    assert (full[1, :, 60, :20] == 0).all(), "the window is active"
    assert (full[0, :, 60, :20] > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_left_padded_batch(engine, cats, wide, mode):
    """Against transformers' eager attention on a batch padded by the processor itself."""
    processor = engine.processor
    texts, images = [], []
    for path, question in ((cats, "how many cats?"), (wide, "what color is the star in the picture?")):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
        images.append(Image.open(path).convert("RGB"))
    inputs = dict(processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"))
    prompts = [
        engine.prepare([([path], question)], Settings())[0].prompt
        for path, question in ((cats, "how many cats?"), (wide, "what color is the star in the picture?"))
    ]
    ours = padded_batch(prompts)
    visible = inputs["attention_mask"].bool()
    for name in ("attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(ours[name], inputs[name]), name
    assert torch.equal(ours["input_ids"][visible], inputs["input_ids"][visible])
    for row, unpadded in zip(ours["input_ids"], visible, strict=True):
        assert set(row[~unpadded].tolist()) <= set(row[unpadded].tolist()), "padding must not affect the penalty"

    length = inputs["input_ids"].shape[1]
    paddings = (length - visible.sum(dim=1)).tolist()
    assert sorted(paddings)[0] == 0 < sorted(paddings)[1]
    everything = [tuple(range(length - padding)) for padding in paddings]
    targets = [Target(every, every, padding) for every, padding in zip(everything, paddings, strict=True)]
    results, _ = recorded(engine.model, ours, mode, targets=targets)
    engine.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            out = engine.model.generate(
                **inputs, max_new_tokens=6, do_sample=False, output_attentions=True, return_dict_in_generate=True
            )
    finally:
        engine.model.set_attn_implementation("sdpa")
    for sample, padding in enumerate(paddings):
        prefill = torch.stack([layer[sample, :, padding:, padding:] for layer in out.attentions[0]])
        steps = [torch.stack([layer[sample, :, :, padding:length] for layer in step]) for step in out.attentions[1:]]
        full = torch.cat([prefill, *steps], dim=2).numpy()
        assert results[sample].queries.tolist() == list(range(full.shape[2]))
        assert np.abs(results[sample].by_head - full).max() <= 1e-5


def test_the_formula():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(6, 3, 8)), rng.normal(size=(2, 11, 8))
    visible = rng.random((3, 11)) < 0.7
    visible[:, 0] = True
    got = attention_rows(
        torch.tensor(query, dtype=torch.float32), torch.tensor(key, dtype=torch.float32), 0.3, torch.tensor(visible)
    )
    for head in range(6):
        scores = np.where(visible, query[head] @ key[head // 3].T * 0.3, -np.inf)
        want = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        assert np.abs(got[head].numpy() - want).max() <= 1e-6


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def half(request):
    """The demo model in 16 bits."""
    return Analyzer.load("demo", dtype=request.param, device="cpu", attn="rows")


@pytest.fixture(scope="module")
def prompts(engine):
    """66 prompts: every demo picture with every question."""
    pictures = sorted(DEMO_PICTURES.glob("*.png"))
    return [engine.prepare([([path], question)], Settings())[0].prompt for path in pictures for question in QUESTIONS]


def rows_of(model, prompt, mode):
    recorder = AttentionRecorder(
        range(model.config.text_config.num_hidden_layers),
        [Target((*prompt.positions("question"), prompt.length - 1), prompt.positions("vision"))],
        prompt.length,
        by_head=True,
    )
    with record_attention(model, recorder, mode), torch.inference_mode():
        model(**prompt.inputs, use_cache=True, logits_to_keep=1)
    return recorder.results()[0].by_head


def bare_eager(model, prompt):
    """Return the rows of `rows_of` from transformers' own `output_attentions`."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            layers = model(**prompt.inputs, output_attentions=True, logits_to_keep=1).attentions
    finally:
        model.set_attn_implementation("sdpa")
    rows = [*prompt.positions("question"), prompt.length - 1]
    return torch.stack(layers)[:, 0, :, rows][..., list(prompt.positions("vision"))].float().numpy()


@pytest.fixture(scope="module")
def truths(engine, prompts):
    """The rows of each prompt in float32, from transformers' own eager attention."""
    return [bare_eager(engine.model, prompt) for prompt in prompts]


def test_in_16_bits_rows_are_no_further_from_float32_than_eager(half, prompts, truths):
    """The demo weights were saved in bfloat16, so float32 has the same weights."""
    assert len(prompts) >= 50
    distances = {"bare eager": [], "eager": [], "rows": []}
    for prompt, truth in zip(prompts, truths, strict=True):
        bare = bare_eager(half.engine.model, prompt)
        for name, got in (
            ("bare eager", bare),
            ("eager", rows_of(half.engine.model, prompt, "eager")),
            ("rows", rows_of(half.engine.model, prompt, "rows")),
        ):
            distances[name].append(np.abs(got - truth).mean())
    medians = {name: float(np.median(values)) for name, values in distances.items()}
    line = ", ".join(f"{name} {value:.3e}" for name, value in medians.items())
    print(f"\n{half.engine.placement.dtype}, {len(prompts)} prompts: median distance from float32: {line}")
    assert medians["rows"] <= medians["bare eager"]
    assert medians["rows"] <= medians["eager"]


def test_a_batch_in_16_bits_has_a_note(half, cats, tmp_path):
    batch = half.ask_many([(cats, "how many cats?"), (cats, "what color is the dog?")])
    for result in (*batch, half.ask(cats, "how many cats?")):
        notes = json.loads((result.save(tmp_path, SMALL_DRAWING, overwrite=True) / "result.json").read_text())["notes"]
        assert any("run together" in note for note in notes) is result.provenance.shared_pictures


def assert_answers_are_those_of_sdpa(engine, prompts):
    """Recording as `ask` does, against `generate` alone, token for token."""
    generation, recording = greedy(engine.model, 12), Recording("rows", (0, 1, 2, 3), by_head=True)
    for prompt in prompts:
        with torch.inference_mode():
            bare = engine.model.generate(**prompt.inputs, generation_config=generation)[0, prompt.length :]
        (result,) = own_answers(engine.model, engine.processor.tokenizer, [prompt], recording, generation)
        tokens, text = answer_tokens(engine.processor.tokenizer, bare.tolist(), prompt.length)
        assert result.capture.tokens[prompt.length :] == tokens
        assert result.answer == text


def test_answers_are_those_of_sdpa(engine, prompts):
    assert_answers_are_those_of_sdpa(engine, prompts[::3])


def test_answers_in_16_bits_are_those_of_sdpa(half, prompts):
    assert_answers_are_those_of_sdpa(half.engine, prompts[::3])


def test_finite_where_eager_overflows_in_fp16(cats):
    """Products of queries and keys exceed 65,504: eager's scores are infinite, and NaN after the softmax."""
    analyzer = Analyzer.load("demo", dtype="float16", device="cpu", attn="rows")
    model = analyzer.engine.model
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight.mul_(90)
                projection.bias.mul_(90)
    prompt = analyzer.engine.prepare([([cats], "how many cats?")], Settings())[0].prompt
    model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        eager = model(**prompt.inputs, output_attentions=True)
    model.set_attn_implementation("sdpa")
    assert any(weights.isnan().any() for weights in eager.attentions)
    result = analyzer.ask(cats, "how many cats?", heads="0-3", max_new_tokens=4)
    assert np.isfinite(result.capture.weights_by_head).all()
    assert np.isfinite(result.answer_logprob)

    truth = model.float()
    want = rows_of(truth, prompt, "eager")
    got = result.capture.weights_by_head[:1, :, : want.shape[2]]
    assert np.abs(got - want[:1]).max() < 0.05, "the first layer, before rounding errors add up"


class Squares(TorchDispatchMode):
    """Collects tensors in the language model whose last two axes are both at least as long as the prompt."""

    def __init__(self, length):
        super().__init__()
        self.length = length
        self.inside = False
        self.tensors = set()

    def enter(self, *args):
        self.inside = True

    def leave(self, *args):
        self.inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            square = isinstance(value, torch.Tensor) and value.ndim >= 2 and min(value.shape[-2:]) >= self.length
            if self.inside and square:
                self.tensors.add((str(func), tuple(value.shape)))
        return out


@pytest.mark.parametrize("mode", ["rows", "eager", "bare eager"])
def test_no_square_of_the_prompt_exists(genuine, make_picture, monkeypatch, mode):
    """The prompt is longer than a block of rows, and longer than any width of the model."""
    monkeypatch.setattr("qvl_attn.model.capture.BLOCK_ROWS", 64)
    (question,) = genuine.engine.prepare([([make_picture(560, 560)], "how many cats?")], Settings(max_new_tokens=2))
    prompt = question.prompt
    assert prompt.length > 400 > 4 * 64
    generation, squares = greedy(genuine.engine.model, 2), Squares(prompt.length)
    language = genuine.engine.model.model.language_model
    hooks = [language.register_forward_pre_hook(squares.enter), language.register_forward_hook(squares.leave)]
    try:
        with squares:
            if mode == "bare eager":
                bare_eager(genuine.engine.model, prompt)
            else:
                recording = Recording(mode, (0, 1, 2), by_head=True)
                own_answers(genuine.engine.model, genuine.engine.processor.tokenizer, [prompt], recording, generation)
    finally:
        for hook in hooks:
            hook.remove()
    if mode == "bare eager":
        assert any(shape[-2:] == (prompt.length, prompt.length) for _, shape in squares.tensors), "the test can fail"
    else:
        assert not squares.tensors
