"""Run a prompt with its answer once more and collect the signals that methods need besides the attention rows.

One pass serves all methods, with a backward pass if one of them needs gradients. No tensor that grows with the square
of the sequence length is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError, MemoryLimitError
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, Token
from qvl_attn.model.capture import attention_rows, keep_states, visible_keys
from qvl_attn.model.generate import on_model, with_answer
from qvl_attn.model.memory import BLOCK_ROWS
from qvl_attn.model.prompt import Prompt
from qvl_attn.model.signals import (
    ATTENTION,
    CLASSES,
    RELEVANCE,
    STATES,
    TOWER,
    Classes,
    Floats,
    Product,
    Signals,
    States,
    Tower,
)


@dataclass(eq=False)
class _LayerTensors:
    """One layer's query (1, H, S, D), key and value (1, K, S, D), mask, and the gradient of its heads' output."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor | None
    mask: torch.Tensor | None
    scaling: float
    gradient: torch.Tensor | None = None


class Flow:
    """An `Observer` that keeps the attention inputs of each layer of one prompt.

    Args:
        differentiate: also keep values and gradients; a backward pass must follow.
        causal: without a mask, each token attends only to itself and earlier tokens. False for an encoder, whose
            tokens attend to all tokens.
    """

    def __init__(self, *, differentiate: bool, causal: bool = True) -> None:
        self._differentiate = differentiate
        self._causal = causal
        self._layers: dict[int, _LayerTensors] = {}

    def observe(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """Keep the tensors of one layer; see `Observer.observe`."""
        values = value.detach() if self._differentiate else None
        self._layers[layer] = _LayerTensors(query.detach(), key.detach(), values, mask, scaling)
        if self._differentiate:
            output.register_hook(partial(self._keep_gradient, layer))  # type: ignore[no-untyped-call]

    def _keep_gradient(self, layer: int, gradient: torch.Tensor) -> None:
        self._layers[layer].gradient = gradient.transpose(1, 2)  # (1, H, S, D), as the query

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Return the gradients of the heads' outputs, one for each layer."""
        return tuple(tensors.gradient for tensors in self._layers.values() if tensors.gradient is not None)

    def attention(self) -> tuple[Product, ...]:
        """Return for each layer the product r -> r A, where A is the mean over heads."""
        return self._products(relevant=False)

    def relevance(self) -> tuple[Product, ...]:
        """Return for each layer r -> r mean over heads of (A * dy/dA)+ (Chefer et al. 2103.15679, equation 5)."""
        return self._products(relevant=True)

    def _products(self, *, relevant: bool) -> tuple[Product, ...]:
        layers = [self._layers[number] for number in sorted(self._layers)]
        return tuple(partial(_product, layer, relevant=relevant, causal=self._causal) for layer in layers)


def _product(layer: _LayerTensors, vector: Floats, *, relevant: bool, causal: bool) -> Floats:
    row = torch.from_numpy(np.ascontiguousarray(vector)).to(layer.query.device, torch.float32)
    product = torch.zeros(layer.key.shape[2], device=layer.query.device)
    for block in _blocks(row):
        masked = causal or layer.mask is not None
        visible = visible_keys(layer.mask, layer.query, layer.key, block)[0, 0] if masked else None
        weights = attention_rows(layer.query[0][:, block], layer.key[0], layer.scaling, visible)
        if relevant:
            weights = weights.mul_(_gradient_rows(layer, block)).clamp_(min=0)
        product += row[block] @ weights.mean(dim=0)
    result: Floats = product.double().cpu().numpy()
    return result


def _blocks(row: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the indices of the non-zero elements, a block at a time."""
    indices = row.nonzero()[:, 0]
    for start in range(0, len(indices), BLOCK_ROWS):
        yield indices[start : start + BLOCK_ROWS]


def _gradient_rows(layer: _LayerTensors, block: torch.Tensor) -> torch.Tensor:
    """Return dy/dA of some rows of the attention, (H, R, keys). The heads' output is O = A V, so dy/dA = dy/dO V^T."""
    assert layer.gradient is not None
    assert layer.value is not None
    gradient, value = layer.gradient[0][:, block].float(), layer.value[0].float()
    heads, rows, size = gradient.shape
    grouped = gradient.reshape(len(value), heads // len(value) * rows, size)
    return (grouped @ value.transpose(1, 2)).view(heads, rows, -1)


OutputHook = Callable[[torch.Tensor], torch.Tensor | None]


class Probe:
    """A prompt with its answer, and the answer tokens to explain.

    Args:
        prompt: the prompt, with its pixels.
        ids: ids of the answer's tokens.
        tokens: the answer's tokens.
        whole: explain all text tokens of the answer, not only the first.
    """

    def __init__(self, prompt: Prompt, ids: Sequence[int], tokens: Sequence[Token], *, whole: bool) -> None:
        self.prompt = prompt
        self.ids = tuple(ids)
        text = [i for i, token in enumerate(tokens) if token.role == "answer"] or [0]
        self.explained = tuple(text if whole else text[:1])
        self.explained_text = "".join(tokens[i].text for i in self.explained)

    @property
    def seeds(self) -> Floats:
        """(S,) weights that sum to one, equal on the positions that produce the explained tokens."""
        seeds = np.zeros(self.prompt.length + len(self.ids))
        seeds[[self.prompt.length - 1 + i for i in self.explained]] = 1 / len(self.explained)
        return seeds

    def run(self, model: Any, needs: Collection[str], sink_dimensions: Sequence[int]) -> Signals:
        """Run the model and collect the signals.

        Args:
            model: a `Qwen2_5_VLForConditionalGeneration`.
            needs: names of the signals to collect, as in `Signals`.
            sink_dimensions: sink dimensions of the hidden state; empty for all dimensions.

        Raises:
            CaptureError: the output or a gradient is not finite.
        """
        differentiate = bool({RELEVANCE, TOWER} & {*needs})
        states, flow, outputs = _HiddenStates(self.prompt, sink_dimensions), Flow(differentiate=differentiate), {}
        inputs = on_model(with_answer(self.prompt, self.ids), model)
        language, tower = model.model.language_model, model.model.visual

        def store(name: str) -> OutputHook:
            def hook(output: torch.Tensor) -> None:
                outputs[name] = output.detach()

            return hook

        def make_leaf(output: torch.Tensor) -> torch.Tensor:
            outputs["tower"] = output.detach().requires_grad_()
            return outputs["tower"]

        with ExitStack() as stack:
            if STATES in needs:
                for layer in language.layers:
                    stack.enter_context(_before(layer, states.add))
            if CLASSES in needs:
                stack.enter_context(_after(language.norm, store("last")))
            if differentiate:
                stack.enter_context(_after(tower.blocks[-1], make_leaf))
            if {ATTENTION, RELEVANCE} & {*needs}:
                stack.enter_context(keep_states(model, flow))
            stack.enter_context(torch.enable_grad() if differentiate else torch.no_grad())
            logits = model(**inputs, use_cache=False, logits_to_keep=len(self.ids) + 1).logits[0, :-1]
            check_finite("the model's output", logits)
            if differentiate:
                rows = torch.tensor(self.explained, device=logits.device)
                classes = torch.tensor([self.ids[i] for i in self.explained], device=logits.device)
                logits[rows, classes].float().sum().backward()
                for gradient in (outputs["tower"].grad, *flow.gradients()):
                    assert gradient is not None
                    check_finite("a gradient", gradient)
        return Signals(
            seeds=self.seeds,
            explained=self.explained_text,
            states=states.result() if STATES in needs else None,
            attention=flow.attention() if ATTENTION in needs else (),
            relevance=flow.relevance() if RELEVANCE in needs else (),
            tower=_tower(model, self.prompt, inputs, outputs["tower"]) if TOWER in needs else None,
            classes=self._classes(model, outputs["last"][0]) if CLASSES in needs else None,
        )

    def _classes(self, model: Any, last: torch.Tensor) -> Classes:
        question, length = self.prompt.positions("question"), self.prompt.length
        prompt_ids = self.prompt.inputs["input_ids"][0]
        ids = torch.cat([prompt_ids[list(question)].cpu(), torch.tensor(self.ids)])
        if model.lm_head.weight.is_meta:
            raise MemoryLimitError("tam needs the LM head's weights, which are not in memory", "take a smaller model")
        head = model.lm_head.weight[ids.to(model.lm_head.weight.device)].detach().float()
        positions = [*question, *range(length - 1, length - 1 + len(self.ids))]

        def activation(columns: Sequence[int]) -> FloatArray:
            hidden = last[list(columns)].float().to(head.device)
            result: FloatArray = (head @ hidden.T).clamp(min=0).cpu().numpy()
            return result

        return Classes(
            ids=ids.numpy(),
            targets=tuple(len(question) + i for i in self.explained),
            vision=activation(self.prompt.positions("vision")),
            text=activation(positions),
        )


def check_finite(what: str, values: torch.Tensor) -> None:
    """Check that all values are finite.

    Args:
        what: name of the values, for the message.
        values: any shape.

    Raises:
        CaptureError: a value is not finite.
    """
    if not torch.isfinite(values).all():
        raise CaptureError(f"{what} is not finite (NaN or infinite)", f"try {argument('dtype', 'float32')} or bfloat16")


class _HiddenStates:
    """Collect the norm and sink score of the vision tokens' hidden states before each layer."""

    def __init__(self, prompt: Prompt, dimensions: Sequence[int]) -> None:
        self._vision = list(prompt.positions("vision"))
        self._dimensions = tuple(dimensions)
        self._norms: list[FloatArray] = []
        self._scores: list[FloatArray] = []

    def add(self, hidden: torch.Tensor) -> None:
        states = hidden[0, self._vision].detach().float()
        norms = states.norm(dim=-1)
        chosen = states[:, list(self._dimensions)] if self._dimensions else states
        rms = norms / states.shape[1] ** 0.5
        self._norms.append(norms.cpu().numpy())
        self._scores.append((chosen.abs().amax(dim=-1) / rms).nan_to_num(0).cpu().numpy())

    def result(self) -> States:
        return States(np.stack(self._norms), np.stack(self._scores), self._dimensions)


@contextmanager
def _before(module: Any, callback: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call `callback` with the input of a module, whether it is a positional or a keyword argument."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        callback(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _after(module: Any, callback: OutputHook) -> Iterator[None]:
    """Call `callback` with the output of a module, and replace the output if it returns a tensor."""
    handle = module.register_forward_hook(lambda module, args, output: callback(output))
    try:
        yield
    finally:
        handle.remove()


def _tower(model: Any, prompt: Prompt, inputs: dict[str, torch.Tensor], leaf: torch.Tensor) -> Tower:
    merge = prompt.grids[0].merge_size ** 2
    order = window_order(model.model.visual, inputs).cpu()
    assert leaf.grad is not None

    def by_cell(values: torch.Tensor) -> FloatArray:
        placed = torch.empty_like(values)
        placed[order.to(values.device)] = values
        return placed.reshape(-1, merge, values.shape[-1]).float().cpu().numpy()

    return Tower(by_cell(leaf.detach()), by_cell(leaf.grad))


class _Stop(Exception):  # noqa: N818  not an error
    """Ends a forward pass early."""


def window_order(tower: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the order of the patches in the vision encoder's layers: (P,) patch numbers in the processor's order.

    A hook replaces each patch's embedding with the patch's number, and a second hook reads the numbers before the first
    layer. So the function assumes nothing about the windows.

    Raises:
        CaptureError: the vision encoder is not built like Qwen2.5-VL's.
    """
    clips = "pixel_values_videos" in inputs
    pixels = inputs["pixel_values_videos" if clips else "pixel_values"]
    grid = inputs["video_grid_thw" if clips else "image_grid_thw"]
    order: list[torch.Tensor] = []

    def number(embedded: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(embedded), dtype=torch.float64, device=embedded.device)[:, None]

    def read(numbers: torch.Tensor) -> None:
        order.append(numbers[:, 0].long())
        raise _Stop

    with _after(tower.patch_embed, number), _before(tower.blocks[0], read), torch.no_grad():
        try:
            tower(pixels.type(tower.dtype), grid_thw=grid)
        except _Stop:
            return order[0]
    raise CaptureError("the vision encoder does not run as Qwen2.5-VL's does")
