"""Feed a prompt with its answer once more, and take from the model what methods need beside the attention rows.

One pass for all of them, with a backward pass where one wants gradients. Nothing that grows with the square of the
tokens is ever held.
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
from qvl_attn.core.types import FloatArray, Token
from qvl_attn.model.capture import attention_rows, keep_states, visible
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
    """Of one layer: query (1, H, S, D), key and value (1, K, S, D), the mask, and the gradient of what it gave."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor | None
    mask: torch.Tensor | None
    scaling: float
    gradient: torch.Tensor | None = None


class Flow:
    """Keeps what each layer attends with; an `Observer` of one prompt.

    Args:
        differentiate: keep values and gradients as well. A backward pass is to follow.
        causal: whether a token without a mask sees what came before it alone, and not all tokens as in an encoder.
    """

    def __init__(self, *, differentiate: bool, causal: bool = True) -> None:
        self._differentiate = differentiate
        self._causal = causal
        self._layers: dict[int, _LayerTensors] = {}

    def see(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """As `Observer` says."""
        kept = value.detach() if self._differentiate else None
        self._layers[layer] = _LayerTensors(query.detach(), key.detach(), kept, mask, scaling)
        if self._differentiate:
            output.register_hook(partial(self._keep_gradient, layer))  # type: ignore[no-untyped-call]

    def _keep_gradient(self, layer: int, gradient: torch.Tensor) -> None:
        self._layers[layer].gradient = gradient.transpose(1, 2)  # as the query lies

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Of what each layer's heads gave."""
        return tuple(kept.gradient for kept in self._layers.values() if kept.gradient is not None)

    def attention(self) -> tuple[Product, ...]:
        """For each layer r -> r A, with A the mean over heads."""
        return self._products(relevant=False)

    def relevance(self) -> tuple[Product, ...]:
        """For each layer r -> r mean over heads of (A * dy/dA)+ (Chefer et al. 2103.15679, equation 5)."""
        return self._products(relevant=True)

    def _products(self, *, relevant: bool) -> tuple[Product, ...]:
        kept = [self._layers[layer] for layer in sorted(self._layers)]
        return tuple(partial(_product, one, relevant=relevant, causal=self._causal) for one in kept)


def _product(kept: _LayerTensors, vector: Floats, *, relevant: bool, causal: bool) -> Floats:
    row = torch.from_numpy(np.ascontiguousarray(vector)).to(kept.query.device, torch.float32)
    product = torch.zeros(kept.key.shape[2], device=kept.query.device)
    for block in _blocks(row):
        masked = causal or kept.mask is not None
        seen = visible(kept.mask, kept.query, kept.key, block)[0, 0] if masked else None
        weights = attention_rows(kept.query[0][:, block], kept.key[0], kept.scaling, seen)
        if relevant:
            weights = weights.mul_(_gradient_rows(kept, block)).clamp_(min=0)
        product += row[block] @ weights.mean(dim=0)
    found: Floats = product.double().cpu().numpy()
    return found


def _blocks(row: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rows that count at all, some at a time."""
    some = row.nonzero()[:, 0]
    for start in range(0, len(some), BLOCK_ROWS):
        yield some[start : start + BLOCK_ROWS]


def _gradient_rows(kept: _LayerTensors, block: torch.Tensor) -> torch.Tensor:
    """(H, R, keys) gradient with respect to rows of the attention: what the heads give is A V, so dy/dA = dy/dO V^T."""
    assert kept.gradient is not None
    assert kept.value is not None
    gradient, value = kept.gradient[0][:, block].float(), kept.value[0].float()
    heads, rows, size = gradient.shape
    grouped = gradient.reshape(len(value), heads // len(value) * rows, size)
    return (grouped @ value.transpose(1, 2)).view(heads, rows, -1)


OutputHook = Callable[[torch.Tensor], torch.Tensor | None]


class Probe:
    """A prompt and its answer, and what of the answer is explained.

    Args:
        prompt: with its pixels.
        ids: of the answer's tokens.
        tokens: of the answer.
        whole: explain all of the answer's text, and not its first token alone.
    """

    def __init__(self, prompt: Prompt, ids: Sequence[int], tokens: Sequence[Token], *, whole: bool) -> None:
        self.prompt = prompt
        self.ids = tuple(ids)
        text = [i for i, token in enumerate(tokens) if token.role == "answer"] or [0]
        self.explained = tuple(text if whole else text[:1])
        self.words = "".join(tokens[i].text for i in self.explained)

    @property
    def seeds(self) -> Floats:
        """(S,) where the explained tokens are produced, summing to one."""
        seeds = np.zeros(self.prompt.length + len(self.ids))
        seeds[[self.prompt.length - 1 + i for i in self.explained]] = 1 / len(self.explained)
        return seeds

    def run(self, model: Any, needs: Collection[str], sink_dimensions: Sequence[int]) -> Signals:
        """Feed it, and collect.

        Args:
            model: a `Qwen2_5_VLForConditionalGeneration`.
            needs: names of what to collect, as `Signals` has them.
            sink_dimensions: of the hidden state; empty for all.

        Raises:
            CaptureError: what came is not finite.
        """
        differentiate = bool({RELEVANCE, TOWER} & {*needs})
        states, flow, found = _HiddenStates(self.prompt, sink_dimensions), Flow(differentiate=differentiate), {}
        inputs = on_model(with_answer(self.prompt, self.ids), model)
        language, tower = model.model.language_model, model.model.visual

        def keep(name: str) -> OutputHook:
            def seen(output: torch.Tensor) -> None:
                found[name] = output.detach()

            return seen

        def leaf(output: torch.Tensor) -> torch.Tensor:
            found["tower"] = output.detach().requires_grad_()
            return found["tower"]

        with ExitStack() as stack:
            if STATES in needs:
                for layer in language.layers:
                    stack.enter_context(_before(layer, states.see))
            if CLASSES in needs:
                stack.enter_context(_after(language.norm, keep("last")))
            if differentiate:
                stack.enter_context(_after(tower.blocks[-1], leaf))
            if {ATTENTION, RELEVANCE} & {*needs}:
                stack.enter_context(keep_states(model, flow))
            stack.enter_context(torch.enable_grad() if differentiate else torch.no_grad())
            logits = model(**inputs, use_cache=False, logits_to_keep=len(self.ids) + 1).logits[0, :-1]
            check_finite("the model's output", logits)
            if differentiate:
                rows = torch.tensor(self.explained, device=logits.device)
                classes = torch.tensor([self.ids[i] for i in self.explained], device=logits.device)
                logits[rows, classes].float().sum().backward()
                for gradient in (found["tower"].grad, *flow.gradients()):
                    assert gradient is not None
                    check_finite("a gradient", gradient)
        return Signals(
            seeds=self.seeds,
            explained=self.words,
            states=states.result() if STATES in needs else None,
            attention=flow.attention() if ATTENTION in needs else (),
            relevance=flow.relevance() if RELEVANCE in needs else (),
            tower=_tower(model, self.prompt, inputs, found["tower"]) if TOWER in needs else None,
            classes=self._classes(model, found["last"][0]) if CLASSES in needs else None,
        )

    def _classes(self, model: Any, last: torch.Tensor) -> Classes:
        question, length = self.prompt.positions("question"), self.prompt.length
        prompt_ids = self.prompt.inputs["input_ids"][0]
        ids = torch.cat([prompt_ids[list(question)].cpu(), torch.tensor(self.ids)])
        if model.lm_head.weight.is_meta:
            raise MemoryLimitError("the head's weights are not in memory, and tam reads them", "take a smaller model")
        head = model.lm_head.weight[ids.to(model.lm_head.weight.device)].detach().float()
        stand = [*question, *range(length - 1, length - 1 + len(self.ids))]

        def activation(positions: Sequence[int]) -> FloatArray:
            hidden = last[list(positions)].float().to(head.device)
            found: FloatArray = (head @ hidden.T).clamp(min=0).cpu().numpy()
            return found

        return Classes(
            ids=ids.numpy(),
            targets=tuple(len(question) + i for i in self.explained),
            vision=activation(self.prompt.positions("vision")),
            text=activation(stand),
        )


def check_finite(what: str, values: torch.Tensor) -> None:
    """See that all values are numbers.

    Raises:
        CaptureError: one is not finite.
    """
    if not torch.isfinite(values).all():
        raise CaptureError(f"{what} is not finite (NaN or infinite)", "try --dtype float32 or bfloat16")


class _HiddenStates:
    """Length and sink score of the vision tokens' hidden states before each layer."""

    def __init__(self, prompt: Prompt, dimensions: Sequence[int]) -> None:
        self._vision = list(prompt.positions("vision"))
        self._dimensions = tuple(dimensions)
        self._norms: list[FloatArray] = []
        self._scores: list[FloatArray] = []

    def see(self, hidden: torch.Tensor) -> None:
        states = hidden[0, self._vision].detach().float()
        norms = states.norm(dim=-1)
        chosen = states[:, list(self._dimensions)] if self._dimensions else states
        rms = norms / states.shape[1] ** 0.5
        self._norms.append(norms.cpu().numpy())
        self._scores.append((chosen.abs().amax(dim=-1) / rms).nan_to_num(0).cpu().numpy())

    def result(self) -> States:
        return States(np.stack(self._norms), np.stack(self._scores), self._dimensions)


@contextmanager
def _before(module: Any, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Show what goes into a module, whether it is named or not."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _after(module: Any, seen: OutputHook) -> Iterator[None]:
    """Show what comes out of a module, and put what `seen` gives in its place."""
    handle = module.register_forward_hook(lambda module, args, output: seen(output))
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


class _Stop(Exception):  # noqa: N818  nothing is wrong
    """Ends a pass from within."""


def window_order(tower: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """In which order the vision tower's layers see the patches: (P,) numbers of patches in the processor's order.

    Found by painting: every patch is given its number after the embedding, and these are read before the first layer.
    So nothing is assumed of how the tower makes its windows.
    """
    clips = "pixel_values_videos" in inputs
    pixels = inputs["pixel_values_videos" if clips else "pixel_values"]
    grid = inputs["video_grid_thw" if clips else "image_grid_thw"]
    seen: list[torch.Tensor] = []

    def paint(embedded: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(embedded), dtype=torch.float64, device=embedded.device)[:, None]

    def read(numbers: torch.Tensor) -> None:
        seen.append(numbers[:, 0].long())
        raise _Stop

    with _after(tower.patch_embed, paint), _before(tower.blocks[0], read), torch.no_grad():
        try:
            tower(pixels.type(tower.dtype), grid_thw=grid)
        except _Stop:
            return seen[0]
    raise CaptureError("the vision tower does not run as Qwen2.5-VL's does")
