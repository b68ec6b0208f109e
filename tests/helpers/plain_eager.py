"""What maps are held against: the same model over prompt and answer in one plain run, under transformers' own eager.

Nothing of the package is in the numbers: inputs come from the processor, positions from its tensors, attention, hidden
states, logits and gradients from transformers and autograd. Of the package is only the clip's reading, which has tests
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.vqa.clip import load_clip
from qvl_attn.vqa.record import Settings
from tests.helpers.recipe import recipe


@contextmanager
def eager(model) -> Iterator[None]:
    """The language model under transformers' own eager attention, the tower as it is."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


def alike(got, want, tolerance=1e-4) -> None:
    """Within that much of each value, and of a hundredth of the largest where the values are small."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert want.any(), "nothing is held against nothing"
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 1e-2 * np.abs(want).max())


@dataclass(eq=False)
class Example:
    """A model and what it is shown."""

    analyzer: Any
    shown: Sequence[Any]
    question: str
    new_tokens: int = 4

    def inputs_of(self, question: str) -> dict[str, Any]:
        """The processor's tensors."""
        if isinstance(self.shown, list):
            return dict(recipe(self.analyzer.processor, self.shown, question))
        (prepared,) = self.analyzer.prepare([(self.shown, question)], Settings())
        return dict(prepared.prompt.inputs)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return self.inputs_of(self.question)

    @cached_property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @cached_property
    def vision(self) -> np.ndarray:
        return np.flatnonzero(self.inputs["mm_token_type_ids"][0].numpy())

    @cached_property
    def asking(self) -> np.ndarray:
        """Where the question stands: between <|vision_end|> and "<|im_end|>\\n<|im_start|>assistant\\n"."""
        return np.arange(self.vision[-1] + 2, self.length - 5)

    @cached_property
    def grids(self) -> list[tuple[int, int, int]]:
        """(steps, rows, columns) of the cells of each picture."""
        name = "image_grid_thw" if "image_grid_thw" in self.inputs else "video_grid_thw"
        return [(t, h // 2, w // 2) for t, h, w in self.inputs[name].tolist()]

    @cached_property
    def ids(self) -> list[int]:
        """The model's own answer, with what ends it."""
        with torch.inference_mode():
            made = self.analyzer.model.generate(**self.inputs, do_sample=False, max_new_tokens=self.new_tokens)
        return made[0, self.length :].tolist()

    def supplied(self, answer: str) -> list[int]:
        return self.analyzer.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def spoken(self, ids: Sequence[int]) -> list[int]:
        """Which of an answer's tokens are text."""
        special = self.analyzer.processor.tokenizer.all_special_ids
        return [i for i, token in enumerate(ids) if token not in special]

    def explained(self, query: str, ids: Sequence[int] | None = None) -> list[int]:
        """Which of an answer's tokens are explained: the first word, or all words where the whole answer asks."""
        words = self.spoken(self.ids if ids is None else ids)
        return words if query == "answer" else words[:1]

    def rows(self, query: str) -> np.ndarray:
        """Positions of the query."""
        produced = [self.length - 1 + i for i in self.spoken(self.ids)]
        return np.array({"question": self.asking, "last": [self.length - 1], "answer": produced}[query])

    def whole(self, ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Prompt and answer."""
        ids = self.ids if ids is None else ids
        inputs = dict(self.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros((1, len(ids)), dtype=types.dtype)], dim=1)
        return inputs

    @cached_property
    def plain(self) -> Any:
        """Attention of all layers, hidden states, and the logits of all positions."""
        return self.run(self.whole())

    def run(self, inputs: dict[str, Any]) -> Any:
        with eager(self.analyzer.model), torch.no_grad():
            return self.analyzer.model(**inputs, output_attentions=True, output_hidden_states=True)

    @cached_property
    def attention(self) -> np.ndarray:
        """(L, H, S, S)."""
        return matrices(self.plain)

    def result(self, *methods: str, query: str = "last", **settings: Any) -> Any:
        chosen = self.analyzer.settings(query=query, **{"max_new_tokens": self.new_tokens} | settings)
        chosen = replace(chosen, methods=methods)
        ((_, result),) = self.analyzer.answer(self.analyzer.prepare([(self.shown, self.question)], chosen))
        return result

    def map(self, method: str, query: str = "last", **settings: Any) -> Any:
        (found,) = self.result(method, query=query, **settings).methods
        assert found.method == method
        assert found.values.dtype == np.float32
        assert len(found.values) == len(self.vision)
        return found


def matrices(out: Any) -> np.ndarray:
    return torch.cat(out.attentions).double().numpy()


def cut_by_picture(values: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """(V,) as (t, h, w) of each picture."""
    found, start = [], 0
    for t, h, w in grids:
        found.append(values[start : start + t * h * w].reshape(t, h, w))
        start += t * h * w
    assert start == len(values)
    return found


def clip_media(analyzer: Any, path: Any, fps: float) -> Any:
    return load_clip(analyzer.processor, open_clip(path), Settings(clip=ClipSettings(fps=fps)))
