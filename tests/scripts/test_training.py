"""The training of the embedded model: the same sequences as the real model, bit-identical weights after a resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_model import lessons, training
from demo_model.build import build_config, build_model, build_processor, build_tokenizer, save
from demo_model.forward import compute_losses, encode
from demo_model.lessons import NOTHING, STATES, draw_lesson
from demo_model.packing import END, pack, patches
from demo_model.training import Trainer, TrainingPlan
from safetensors.torch import load_file

from qvl_attn.demo import wording
from qvl_attn.demo.scenes import COLORS, SHAPES

SCRIPTS = Path(__file__).parents[2] / "scripts" / "training"
KINDS = ("picture", "pair", "clip")


@pytest.fixture(scope="module")
def processor():
    return build_processor((SCRIPTS / "demo_model" / "chat_template.jinja").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def untrained(processor):
    return build_model(build_config(processor.tokenizer), seed=3).eval()


@pytest.fixture
def small_lessons(monkeypatch):
    monkeypatch.setattr(lessons, "SAMPLES_PER_LESSON", {"picture": 2, "pair": 2, "clip": 2})


def real_inputs(processor, lesson, sample, question):
    """The model inputs of one question in a single turn, followed by its answer."""
    frames = lesson.frames[sample]
    visuals = [{"type": "video"}] if lesson.kind == "clip" else [{"type": "image"}] * len(frames)
    message = {"role": "user", "content": [*visuals, {"type": "text", "text": question.question}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True) + question.answer + END
    if lesson.kind == "clip":
        count = len(frames[0])
        metadata = {
            "total_num_frames": count,
            "fps": 2 / lesson.seconds_per_step,
            "frames_indices": list(range(count)),
        }
        clip = {"videos": [frames[0]], "video_metadata": [metadata], "do_sample_frames": False}
        return processor(text=[text], return_tensors="pt", **clip)
    return processor(text=[text], images=[picture[0] for picture in frames], return_tensors="pt")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_the_real_model_computes(processor, untrained, small_lessons, kind) -> None:
    """Every packed question has the logits of its single turn through the real processor and forward pass."""
    for seed in range(2):
        lesson = draw_lesson(np.random.default_rng((5, seed)), kind, 4)
        pixels, packed = patches(lesson, processor), pack(lesson, processor.tokenizer, untrained)
        _, _, rows, columns = lesson.grid
        encoded = encode(untrained.model.visual, pixels, rows, columns).reshape(len(lesson.questions), -1, 128)
        embedded = untrained.get_input_embeddings()(packed.ids).index_copy(1, packed.vision, encoded)
        with torch.inference_mode():
            out = untrained.model.language_model(
                inputs_embeds=embedded, position_ids=packed.positions, attention_mask=packed.visible, use_cache=False
            )
            scores = untrained.lm_head(out.last_hidden_state[packed.asks[:, 0], packed.asks[:, 1]])
        number = 0
        for sample, questions in enumerate(lesson.questions):
            for question in questions:
                inputs = real_inputs(processor, lesson, sample, question)
                with torch.inference_mode():
                    expected = untrained(**inputs).logits[0]
                selected = packed.question == number
                answer_length = int(selected.sum())
                assert torch.equal(packed.answers[selected], inputs["input_ids"][0, -answer_length:])
                assert torch.allclose(scores[selected], expected[-answer_length - 1 : -1], atol=2e-5)
                number += 1


def test_every_word_of_the_demo_is_one_token_and_others_can_be_decoded() -> None:
    tokenizer = build_tokenizer()
    words = [*SHAPES, *COLORS, *"01234", "yes", "no", "left", "right", "top", "bottom", "first", "second"]
    for word in (*words, *wording.CHINESE.values(), *(f" {word}" for word in (*SHAPES, *COLORS))):
        assert len(tokenizer(word).input_ids) == 1, word
    for text in ("Qwen2.5-VL 看图 🐈‍⬛", "zebra\n\t", "a  b"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_tokenizer_is_the_same_each_time() -> None:
    first, second = build_tokenizer(), build_tokenizer()
    assert first.get_vocab() == second.get_vocab()


def test_cells_are_labelled_by_their_content() -> None:
    lesson = draw_lesson(np.random.default_rng(8), "picture", 5)
    assert (lesson.shapes == SHAPES.index("square")).any()
    _, _, rows, columns = lesson.grid
    for frames, shapes, colors in zip(lesson.frames, lesson.shapes, lesson.colors, strict=True):
        picture = frames[0, 0].astype(int)
        for cell, (shape, color) in enumerate(zip(shapes[:, 0], colors[:, 0], strict=True)):
            assert (shape == NOTHING) == (color == NOTHING)
            assert (shape == len(SHAPES)) == (color == len(COLORS))
            y, x = divmod(cell, columns)
            block = picture[28 * y : 28 * y + 28, 28 * x : 28 * x + 28].reshape(-1, 3)
            spread = block.max(axis=0) - block.min(axis=0)
            if shape == len(SHAPES):
                assert spread.max() <= 80, "the background has only noise or stripes"
            elif shape == SHAPES.index("square"):  # other shapes do not fill their box
                near = np.abs(block - np.array(list(COLORS.values())[color])).max(axis=1) <= 20
                assert near.any(), "the labelled colour is in the cell"
        assert rows * columns == len(shapes)


def test_states_do_not_depend_on_later_steps() -> None:
    first_states = set()
    for seed in range(12):
        lesson = draw_lesson(np.random.default_rng((9, seed)), "clip", 5)
        _, steps, rows, columns = lesson.grid
        for states in lesson.states.reshape(-1, steps, rows * columns):
            first = set(states[0].tolist()) - {NOTHING, len(STATES)}
            first_states |= first
            assert first <= {STATES.index("still"), STATES.index("moving")}
    assert len(first_states) == 2


def test_losses_fall_and_every_part_gets_a_gradient(processor, small_lessons) -> None:
    trainer = Trainer(TrainingPlan(seed=1, look_steps=1, answer_steps=400), processor, torch.device("cpu"))
    trainer.step()
    lesson = draw_lesson(np.random.default_rng(4), "clip", 5)
    pixels, packed = patches(lesson, processor), pack(lesson, processor.tokenizer, trainer.model)
    losses = compute_losses(trainer.model, trainer.heads, lesson, pixels, packed)
    (losses.answer + losses.inventory + losses.cells + losses.place + losses.state).backward()
    parameters = [*trainer.model.named_parameters(), *trainer.heads.named_parameters()]
    assert [name for name, p in parameters if p.grad is None or not p.grad.abs().sum()] == []
    losses = [trainer.step()["answer"] for _ in range(20)]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6]), losses


def test_a_resumed_run_gives_the_same_weights(processor, small_lessons, tmp_path) -> None:
    """Saved and resumed after its fourth step, of which two are answers."""
    plan = TrainingPlan(seed=2, look_steps=2, answer_steps=6)
    uninterrupted, second = (Trainer(plan, processor, torch.device("cpu")) for _ in range(2))
    for _ in range(4):
        uninterrupted.step()
    uninterrupted.save(tmp_path / "checkpoint.safetensors")
    second.resume(tmp_path / "checkpoint.safetensors")
    for trainer in (uninterrupted, second):
        while trainer.done < plan.steps:
            trainer.step()
    for name, tensor in uninterrupted.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_a_checkpoint_of_another_plan_is_refused(processor, tmp_path) -> None:
    Trainer(TrainingPlan(seed=2), processor, torch.device("cpu")).save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="another plan"):
        Trainer(TrainingPlan(seed=3), processor, torch.device("cpu")).resume(tmp_path / "checkpoint.safetensors")


def test_a_saved_checkpoint_is_bfloat16_and_its_config_says_so(processor, untrained, tmp_path) -> None:
    from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    save(untrained, processor, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    config = AutoConfig.from_pretrained(tmp_path)
    assert {config.dtype, config.text_config.dtype, config.vision_config.dtype} == {torch.bfloat16}
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.visual.merger.mlp[0].weight, untrained.model.visual.merger.mlp[0].weight.bfloat16())
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert (
        reloaded.tokenizer("what color is the 猫？").input_ids
        == processor.tokenizer("what color is the 猫？").input_ids
    )
    assert reloaded.video_processor.size["shortest_edge"] == reloaded.video_processor.clip_min_pixels == 3136


def test_every_step_is_drawn_anew_from_the_seed(monkeypatch, processor, small_lessons) -> None:
    drawn = []
    real = training.draw_lesson
    monkeypatch.setattr(training, "draw_lesson", lambda *args: drawn.append(real(*args)) or drawn[-1])
    for seed in (0, 0, 1):
        trainer = Trainer(TrainingPlan(seed=seed, look_steps=2, answer_steps=2), processor, torch.device("cpu"))
        trainer.step()
        trainer.step()
    first, second, repeated, _, other_seed, _ = (lesson.frames for lesson in drawn)
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other_seed)


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_in_one_go(tmp_path) -> None:
    """The script itself, killed with SIGKILL at about half of 30 steps."""

    def start(name: str) -> subprocess.Popen:
        steps = ["--look-steps", "10", "--answer-steps", "20", "--save-every", "2", "--threads", "1"]
        place = ["--work", str(tmp_path / name), "--out", str(tmp_path / f"{name}-out"), "--skip-evaluation"]
        return subprocess.Popen([sys.executable, str(SCRIPTS / "train_demo_model.py"), *steps, *place])

    assert start("whole").wait() == 0
    killed = start("broken")
    log = tmp_path / "broken" / "log.txt"
    while not (log.exists() and "step 14" in log.read_text()):
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "broken-out").exists()
    assert start("broken").wait() == 0
    whole, broken = (load_file(tmp_path / f"{name}-out" / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
