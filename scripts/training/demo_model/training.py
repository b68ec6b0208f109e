"""Training in two phases from a seed; on a CPU, a resumed run gives bit-identical weights.

The first phase trains the vision encoder to classify each cell, the second the whole model to answer questions.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from demo_model.build import build_config, build_model
from demo_model.forward import Heads, cell_loss, compute_losses, encode
from demo_model.lessons import Kind, Lesson, draw_lesson
from demo_model.optimizer import Muon
from demo_model.packing import pack, patches

# First number of every training seed; the held-out seeds start with another one.
TRAINING = 1
MOST_THINGS = ((0.04, 1), (0.1, 2), (0.18, 3), (0.26, 4), (1.0, 5))
KINDS: tuple[tuple[Kind, float], ...] = (("picture", 0.5), ("pair", 0.1), ("clip", 0.4))
# From this share of the second phase on, harder data is drawn and the inventory loss is used, which makes question
# tokens attend to things, too.
LATE, INVENTORY_WEIGHT = 0.46, 0.3
ACCURACY_WINDOW = 300


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a training run.

    Attributes:
        seed: seed of the weights and of all data.
        look_steps: steps of the first phase, of the vision encoder.
        answer_steps: steps of the second phase, of the whole model.
        look_rate: highest learning rate of the first phase.
        answer_rate: highest learning rate of the second phase.
    """

    seed: int = 0
    look_steps: int = 900
    answer_steps: int = 9000
    look_rate: float = 1.5e-3
    answer_rate: float = 1.5e-3

    @property
    def steps(self) -> int:
        """Number of steps of both phases."""
        return self.look_steps + self.answer_steps


class Trainer:
    """A model in training: `step` runs one step, `save` and `resume` write and read checkpoints."""

    def __init__(self, plan: TrainingPlan, processor: Qwen2_5_VLProcessor, device: torch.device) -> None:
        self.plan = plan
        self.processor = processor
        self.device = device
        self.model = build_model(build_config(processor.tokenizer), plan.seed).to(device)
        self.heads = Heads(self.model.config.text_config.hidden_size).to(device)
        matrices, others = _split(self.model)
        others += list(self.heads.parameters())
        # Weight decay on norm gains would make attention slightly flatter with every step.
        decayed = {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.03}
        undecayed = {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0}
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices),
            torch.optim.AdamW([decayed, undecayed], betas=(0.9, 0.98)),
        ]
        self.done = 0
        self.recent: dict[str, deque[bool]] = {}

    def step(self) -> dict[str, float]:
        """Run one step and return its losses."""
        first_phase = self.done < self.plan.look_steps
        rng = np.random.default_rng((TRAINING, self.plan.seed, self.done))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = _rate(self.plan, self.done)
        losses = self._train_encoder(rng) if first_phase else self._train_answers(rng)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.done += 1
        return losses

    def _train_encoder(self, rng: Any) -> dict[str, float]:
        lesson = draw_lesson(rng, "clip" if rng.random() < 0.4 else "picture", 5)
        _, _, rows, columns = lesson.grid
        encoded = encode(self.model.model.visual, patches(lesson, self.processor).to(self.device), rows, columns)
        loss = cell_loss(self.heads, encoded.reshape(len(lesson.questions), -1, encoded.shape[-1]), lesson)
        loss.backward()
        return {"cells": loss.item()}

    def _train_answers(self, rng: Any) -> dict[str, float]:
        progress = (self.done - self.plan.look_steps) / self.plan.answer_steps
        late = progress >= LATE
        kind = rng.choice([kind for kind, _ in KINDS], p=[share for _, share in KINDS])
        lesson = draw_lesson(rng, kind, next(most for until, most in MOST_THINGS if progress < until), late)
        packed = pack(lesson, self.processor.tokenizer, self.model)
        packed = type(packed)(**{name: tensor.to(self.device) for name, tensor in vars(packed).items()})
        pixels = patches(lesson, self.processor).to(self.device)
        losses = compute_losses(self.model, self.heads, lesson, pixels, packed)
        auxiliary_weight = 1 - 0.8 * progress
        total = losses.answer + auxiliary_weight * (0.2 * losses.cells + 0.15 * losses.place + 0.3 * losses.state)
        if late:
            total = total + INVENTORY_WEIGHT * losses.inventory
        total.backward()
        self._record_accuracy(lesson, losses.correct.tolist())
        return {name: getattr(losses, name).item() for name in ("answer", "inventory", "cells", "place", "state")}

    def _record_accuracy(self, lesson: Lesson, correct: list[bool]) -> None:
        questions = [question for row in lesson.questions for question in row]
        for question, is_correct in zip(questions, correct, strict=True):
            name = f"{lesson.kind} {question.kind} {question.language}"
            self.recent.setdefault(name, deque(maxlen=ACCURACY_WINDOW)).append(is_correct)

    def accuracy(self) -> dict[str, float]:
        """Return the accuracy on the latest questions of each kind, before the model was trained on them."""
        return {name: sum(correct) / len(correct) for name, correct in sorted(self.recent.items())}

    def save(self, file: Path) -> None:
        """Write everything that the next step depends on, to a draft file that is then renamed."""
        tensors = {
            f"model.{name}": tensor for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"
        }
        tensors |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in state.items()}
        draft = file.with_suffix(".draft")
        save_file(tensors, draft, {"plan": json.dumps(asdict(self.plan)), "done": str(self.done)})
        draft.replace(file)

    def resume(self, file: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: the checkpoint has another plan, or is not one of this model.
        """
        with safe_open(file, "pt") as checkpoint:
            metadata = checkpoint.metadata()
            tensors = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}  # noqa: SIM118
        if json.loads(metadata["plan"]) != asdict(self.plan):
            raise ValueError(f"{file} has another plan: {metadata['plan']}")
        self.done = int(metadata["done"])
        missing, unexpected = self.model.load_state_dict(_with_prefix("model.", tensors), strict=False)
        if missing != ["lm_head.weight"] or unexpected:  # lm_head is tied to the embedding
            raise ValueError(f"{file} is not a checkpoint of this model: {missing + unexpected}")
        self.heads.load_state_dict(_with_prefix("heads.", tensors))
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in _with_prefix(f"optimizer.{number}.", tensors).items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _split(model: Qwen2_5_VLForConditionalGeneration) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Return the matrices within blocks and layers, and all other parameters."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inner = (".blocks." in name or ".layers." in name) and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    return matrices, others


def _rate(plan: TrainingPlan, step: int) -> float:
    """Return the learning rate: in each phase a warm-up, then a cosine decay to a share of the highest rate."""
    if step < plan.look_steps:
        return plan.look_rate * _schedule(step, plan.look_steps, 100, 0.15)
    return plan.answer_rate * _schedule(step - plan.look_steps, plan.answer_steps, 150, 0.03)


def _schedule(step: int, steps: int, warm_up: int, minimum: float) -> float:
    return min(1.0, (step + 1) / warm_up) * (minimum + (1 - minimum) * (1 + cos(pi * step / steps)) / 2)
