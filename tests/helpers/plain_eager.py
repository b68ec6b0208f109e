"""Reference for the maps: the same model over prompt and answer in one plain run, under transformers' eager attention.

The numbers do not use the package: inputs come from the processor, positions from its tensors, and attention, hidden
states, logits and gradients from transformers and autograd. Only clips are read by the package, which is tested apart.
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
from qvl_attn.model.preprocess import load_clip
from qvl_attn.vqa.record import Settings
from tests.helpers.recipe import recipe


@contextmanager
def eager(model) -> Iterator[None]:
    """Run the language model under transformers' eager attention; the vision encoder is unchanged."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


def assert_close(actual, expected, tolerance=1e-4) -> None:
    """Assert equality to `tolerance` of each value; for small values, of a hundredth of the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert expected.any(), "the expected values are all zero"
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * 1e-2 * np.abs(expected).max())


@dataclass(eq=False)
class Example:
    """A model, its pictures or clip, and a question."""

    engine: Any
    media: Sequence[Any]
    question: str
    new_tokens: int = 4

    def inputs_of(self, question: str) -> dict[str, Any]:
        """Return the processor's tensors."""
        if isinstance(self.media, list):
            return dict(recipe(self.engine.processor, self.media, question))
        (prepared,) = self.engine.prepare([(self.media, question)], Settings())
        return dict(prepared.prompt.inputs)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return self.inputs_of(self.question)

    @cached_property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @cached_property
    def vision_positions(self) -> np.ndarray:
        return np.flatnonzero(self.inputs["mm_token_type_ids"][0].numpy())

    @cached_property
    def question_positions(self) -> np.ndarray:
        """Positions of the question: between <|vision_end|> and "<|im_end|>\\n<|im_start|>assistant\\n"."""
        return np.arange(self.vision_positions[-1] + 2, self.length - 5)

    @cached_property
    def grids(self) -> list[tuple[int, int, int]]:
        """(steps, rows, columns) of the cells of each picture."""
        name = "image_grid_thw" if "image_grid_thw" in self.inputs else "video_grid_thw"
        return [(t, h // 2, w // 2) for t, h, w in self.inputs[name].tolist()]

    @cached_property
    def ids(self) -> list[int]:
        """Token ids of the model's own answer, with the end token."""
        with torch.inference_mode():
            output = self.engine.model.generate(**self.inputs, do_sample=False, max_new_tokens=self.new_tokens)
        return output[0, self.length :].tolist()

    def supplied(self, answer: str) -> list[int]:
        return self.engine.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def text_indices(self, ids: Sequence[int]) -> list[int]:
        """Return the indices of the answer tokens that are text."""
        special = self.engine.processor.tokenizer.all_special_ids
        return [i for i, token in enumerate(ids) if token not in special]

    def explained_indices(self, query: str, ids: Sequence[int] | None = None) -> list[int]:
        """Return the indices of the explained answer tokens: the first text token, or all with the query `answer`."""
        words = self.text_indices(self.ids if ids is None else ids)
        return words if query == "answer" else words[:1]

    def rows(self, query: str) -> np.ndarray:
        """Return the positions of the query."""
        answer = [self.length - 1 + i for i in self.text_indices(self.ids)]
        return np.array({"question": self.question_positions, "last": [self.length - 1], "answer": answer}[query])

    def full_inputs(self, ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the inputs of prompt and answer."""
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
        return self.run(self.full_inputs())

    def run(self, inputs: dict[str, Any]) -> Any:
        with eager(self.engine.model), torch.no_grad():
            return self.engine.model(**inputs, output_attentions=True, output_hidden_states=True)

    @cached_property
    def attention(self) -> np.ndarray:
        """(L, H, S, S)."""
        return matrices(self.plain)

    def result(self, *methods: str, query: str = "last", **settings: Any) -> Any:
        options = self.engine.settings(query=query, **{"max_new_tokens": self.new_tokens} | settings)
        options = replace(options, methods=methods)
        ((_, result),) = self.engine.answer(self.engine.prepare([(self.media, self.question)], options))
        return result

    def map(self, method: str, query: str = "last", **settings: Any) -> Any:
        (result,) = self.result(method, query=query, **settings).methods
        assert result.method == method
        assert result.values.dtype == np.float32
        assert len(result.values) == len(self.vision_positions)
        return result


def matrices(out: Any) -> np.ndarray:
    return torch.cat(out.attentions).double().numpy()


def cut_by_picture(values: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Cut (V,) into (t, h, w) per picture."""
    maps, start = [], 0
    for t, h, w in grids:
        maps.append(values[start : start + t * h * w].reshape(t, h, w))
        start += t * h * w
    assert start == len(values)
    return maps


def clip_media(engine: Any, path: Any, fps: float) -> Any:
    return load_clip(engine.processor, open_clip(path), Settings(clip=ClipSettings(fps=fps)))
