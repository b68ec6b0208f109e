"""The training itself: two phases by a number of steps, from a seed; checkpoints continue to the same bits on a CPU.

First the vision tower alone learns to tell what each cell shows, then everything learns to answer questions.
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
from demo_model.forward import Heads, cell_loss, learn, see
from demo_model.lessons import Kind, Lesson, draw_lesson
from demo_model.optimizer import Muon
from demo_model.packing import pack, patches

# Training's generators start with this number, the held-out ones with another.
TRAINING = 1
MOST_THINGS = ((0.04, 1), (0.1, 2), (0.18, 3), (0.26, 4), (1.0, 5))
KINDS: tuple[tuple[Kind, float], ...] = (("picture", 0.5), ("pair", 0.1), ("clip", 0.4))
# From about half-way there is more of what is learnt last, and each word of a question is to know what there is: then
# question words look at things, too.
LATE, INVENTORY_WEIGHT = 0.46, 0.3
REMEMBERED = 300


@dataclass(frozen=True)
class TrainingPlan:
    """What is to be done.

    Attributes:
        seed: of weights and of everything shown.
        look_steps: of the vision tower alone.
        answer_steps: of the whole model, afterwards.
        look_rate: highest learning rate of the first phase.
        answer_rate: of the second.
    """

    seed: int = 0
    look_steps: int = 900
    answer_steps: int = 9000
    look_rate: float = 1.5e-3
    answer_rate: float = 1.5e-3

    @property
    def steps(self) -> int:
        """Of both phases."""
        return self.look_steps + self.answer_steps


class Trainer:
    """A model in training: `step` takes the next one, `save` and `resume` carry it over a break."""

    def __init__(self, plan: TrainingPlan, processor: Qwen2_5_VLProcessor, device: torch.device) -> None:
        self.plan = plan
        self.processor = processor
        self.device = device
        self.model = build_model(build_config(processor.tokenizer), plan.seed).to(device)
        self.heads = Heads(self.model.config.text_config.hidden_size).to(device)
        matrices, others = _split(self.model)
        others += list(self.heads.parameters())
        # Decay of a norm's gain softens the attention behind it a little with every step.
        decayed = {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.03}
        kept = {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0}
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices),
            torch.optim.AdamW([decayed, kept], betas=(0.9, 0.98)),
        ]
        self.done = 0
        self.recent: dict[str, deque[bool]] = {}

    def step(self) -> dict[str, float]:
        """Takes one step and tells its losses."""
        look = self.done < self.plan.look_steps
        rng = np.random.default_rng((TRAINING, self.plan.seed, self.done))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = _rate(self.plan, self.done)
        losses = self._look(rng) if look else self._answer(rng)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.done += 1
        return losses

    def _look(self, rng: Any) -> dict[str, float]:
        lesson = draw_lesson(rng, "clip" if rng.random() < 0.4 else "picture", 5)
        _, _, rows, columns = lesson.grid
        seen = see(self.model.model.visual, patches(lesson, self.processor).to(self.device), rows, columns)
        loss = cell_loss(self.heads, seen.reshape(len(lesson.questions), -1, seen.shape[-1]), lesson)
        loss.backward()
        return {"cells": loss.item()}

    def _answer(self, rng: Any) -> dict[str, float]:
        through = (self.done - self.plan.look_steps) / self.plan.answer_steps
        late = through >= LATE
        kind = rng.choice([kind for kind, _ in KINDS], p=[share for _, share in KINDS])
        lesson = draw_lesson(rng, kind, next(most for until, most in MOST_THINGS if through < until), late)
        packed = pack(lesson, self.processor.tokenizer, self.model)
        packed = type(packed)(**{name: tensor.to(self.device) for name, tensor in vars(packed).items()})
        pixels = patches(lesson, self.processor).to(self.device)
        losses = learn(self.model, self.heads, lesson, pixels, packed)
        helping = 1 - 0.8 * through
        total = losses.answer + helping * (0.2 * losses.cells + 0.15 * losses.place + 0.3 * losses.state)
        if late:
            total = total + INVENTORY_WEIGHT * losses.inventory
        total.backward()
        self._remember(lesson, losses.right.tolist())
        return {name: getattr(losses, name).item() for name in ("answer", "inventory", "cells", "place", "state")}

    def _remember(self, lesson: Lesson, right: list[bool]) -> None:
        asked = [question for row in lesson.questions for question in row]
        for question, correct in zip(asked, right, strict=True):
            name = f"{lesson.kind} {question.kind} {question.language}"
            self.recent.setdefault(name, deque(maxlen=REMEMBERED)).append(correct)

    def accuracy(self) -> dict[str, float]:
        """Share of the latest questions of each kind that were right when they were first seen."""
        return {name: sum(rights) / len(rights) for name, rights in sorted(self.recent.items())}

    def save(self, file: Path) -> None:
        """Writes everything that the next step depends on, in one go."""
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
        """Goes on where a checkpoint was written.

        Raises:
            ValueError: it was written under another plan.
        """
        with safe_open(file, "pt") as opened:
            notes = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if json.loads(notes["plan"]) != asdict(self.plan):
            raise ValueError(f"{file} was written under another plan: {notes['plan']}")
        self.done = int(notes["done"])
        missing, unexpected = self.model.load_state_dict(_under("model.", tensors), strict=False)
        if missing != ["lm_head.weight"] or unexpected:  # tied to the embedding, which is there
            raise ValueError(f"{file} is no checkpoint of this model: {missing + unexpected}")
        self.heads.load_state_dict(_under("heads.", tensors))
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in _under(f"optimizer.{number}.", tensors).items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _split(model: Qwen2_5_VLForConditionalGeneration) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The matrices within blocks and layers, and everything else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inner = (".blocks." in name or ".layers." in name) and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    return matrices, others


def _rate(plan: TrainingPlan, step: int) -> float:
    """Warm-up, then a cosine down to a share of the highest rate, in each phase."""
    if step < plan.look_steps:
        return plan.look_rate * _shape(step, plan.look_steps, 100, 0.15)
    return plan.answer_rate * _shape(step - plan.look_steps, plan.answer_steps, 150, 0.03)


def _shape(step: int, steps: int, warm_up: int, least: float) -> float:
    return min(1.0, (step + 1) / warm_up) * (least + (1 - least) * (1 + cos(pi * step / steps)) / 2)
