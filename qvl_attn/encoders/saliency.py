"""Which patches raise the score of a class or of a text: two saliency maps of each target.

    gradcam(p) = (sum over c of alpha_c F[p, c])+,  alpha_c = mean over patches p of dy/dF[p, c]

Grad-CAM (Selvaraju et al. 1610.02391, equations 1 and 2) with y the logit of the class, or the cosine similarity of the
embeddings of the picture and the text. F (P, C) are the states of the patches at the last point through which all of
their influence on y passes. If the head reads only [CLS] (ViT, and CLIP with texts), the patches act only through the
last layer's attention, and F is the output of that layer's first norm, as in pytorch-grad-cam (jacobgil,
`blocks[-1].norm1`); after the last layer they have no gradient. In other models the patches also act through the
residual path, and F is the input of that norm.

    attention_gradient = r (R - I) on the patches,  R = (I + A_L) ... (I + A_1),
    A_l = mean over heads of (A[l, h] * dy/dA[l, h])+

Attention times gradient (Chefer et al. 2103.15679, equations 5 and 6), without the identity that R starts with (their
equation 8). It is computed from the last layer down as a row (T,) that starts at r, the weights with which the head
reads the tokens:

- ViT, and CLIP with texts: r is one at [CLS]. The identity is then zero on the patches.
- CLIP and SigLIP with classes average the patches: r is 1 / P at each. DINOv2 reads both: r is the sum of the two.
- SigLIP with texts reads by attention from a learned probe: r is the row of (A * dy/dA)+ of that attention.

The identity would add the same value to all patches for an average, and for a probe its row of attention, although the
patches hold information of the whole picture by then. In small encoders trained to classify the colour of a square in
one of 16 places, with the identity 6 to 18 % of the map was on the square for averages, without it 27 to 58 %; for a
probe the map pointed at the square in 38 to 60 % of the pictures with it, in 78 to 90 % without.

The steps of a clip are treated as separate pictures. One forward pass computes the scores, a few steps at a time, and
another one with backward passes runs for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from qvl_attn.attribution.methods.gradient import relevance
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.encoders.capture import encoder_of, forward_kwargs, in_chunks, layers_of
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import EncoderSettings, SaliencyMap, SaliencyMethod
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import attention_rows, keep_encoder_states
from qvl_attn.model.probe import Flow, check_finite
from qvl_attn.model.prompt import check_text
from qvl_attn.model.signals import Floats


@dataclass(frozen=True)
class SaliencyTarget:
    """What the saliency maps explain: a class or texts.

    Attributes:
        label: the number of a class; None for the likeliest one, or with texts.
        texts: the texts as the user typed them; empty if the encoder has classes.
        tokens: for each text the inputs of the text tower by name.
    """

    label: int | None = None
    texts: tuple[str, ...] = ()
    tokens: tuple[Mapping[str, Sequence[int]], ...] = ()


def check_saliency(
    spec: EncoderSpec, config: Any, settings: EncoderSettings, tokenizer: Callable[[], Any]
) -> SaliencyTarget:
    """Check the target of the saliency maps and tokenize its texts.

    Args:
        spec: the specification of the encoder.
        config: the model's whole configuration.
        settings: settings with `saliency`.
        tokenizer: returns the tokenizer; called only for models with a text tower.

    Raises:
        InputError: the encoder has no head; the class is unknown; there is no text, or one is empty, too long, repeated
            or has control tokens; or a class was given for a model that compares with texts, or the other way round.
    """
    if spec.head is None or (spec.head == "classes" and not config.num_labels):
        ask = f"; or ask Qwen2.5-VL with {argument('method', 'gradient')}" if spec.model_type == QWEN else ""
        raise InputError(
            f"{argument('saliency')}: this {spec.family.name} encoder has neither classes nor a text tower, so "
            "there is no score",
            f"use one that has, such as google/vit-base-patch16-224 or openai/clip-vit-base-patch32{ask}",
        )
    if spec.head == "classes":
        if settings.texts:
            raise InputError(
                f"{argument('texts')}: this {spec.family.name} encoder has classes and no text tower",
                f"name a class with {argument('label')}",
            )
        return SaliencyTarget(label=None if settings.label is None else _class_number(settings.label, config.id2label))
    if settings.label is not None:
        raise InputError(
            f"{argument('label', settings.label)}: {spec.family.name} compares with texts and has no classes",
            f'write {argument("texts")} "a photo of a cat"',
        )
    if not settings.texts:
        raise InputError(
            f"{argument('saliency')}: {spec.family.name} compares a picture with texts, and none is given",
            f'write {argument("texts")} "a photo of a cat"',
        )
    if len({*settings.texts}) < len(settings.texts):
        raise InputError(f"{argument('texts')}: the same text is given twice", "write each text once")
    loaded = tokenizer()
    tokens = tuple(_tokenize(spec, config, loaded, text) for text in settings.texts)
    for i, ids in enumerate(tokens):
        if ids in tokens[:i]:
            first, second = (shorten(settings.texts[j], 60) for j in (tokens.index(ids), i))
            raise InputError(
                f"{argument('texts')}: {first!r} and {second!r} are the same to the model's tokenizer",
                "change one: they must differ in more than case or punctuation",
            )
    return SaliencyTarget(texts=settings.texts, tokens=tokens)


def _class_number(label: str, names: Mapping[int, str]) -> int:
    """Return the number of a class.

    Args:
        label: its full name in any case, or its number.
        names: names by number.
    """
    key = label.strip().casefold()
    matches = [number for number, name in names.items() if name.casefold() == key]
    if len(matches) > 1:
        numbers = ", ".join(str(number) for number in matches)
        raise InputError(
            f"{argument('label', label)}: {len(matches)} classes have this name", f"use one of the numbers {numbers}"
        )
    if matches:
        return int(matches[0])
    if key.isdecimal() and int(key) in names:
        return int(key)
    known = {name.casefold(): name for name in names.values()}
    similar = [name for folded, name in known.items() if key and key in folded][:3]
    similar += [known[folded] for folded in get_close_matches(key, known, n=3) if known[folded] not in similar]
    range_hint = f"use a name, or a number from {min(names)} to {max(names)}"
    hint = f"similar names: {'; '.join(similar)}" if similar else range_hint
    raise InputError(
        f"{argument('label', label)}: none of the encoder's {len(names)} classes has this name or number", hint
    )


def _tokenize(spec: EncoderSpec, config: Any, tokenizer: Any, text: str) -> dict[str, list[int]]:
    """Tokenize a text as in the family's training: for SigLIP it is padded to full length without a mask."""
    check_text(f"text after {argument('texts')}", text, _control_tokens(tokenizer))
    most = config.text_config.max_position_embeddings
    padded = spec.model_type == "siglip"
    # No truncation and no warning: a text that is too long is refused below.
    kwargs = {"padding": "max_length", "max_length": most} if padded else {}
    encoding = tokenizer(text, **kwargs, verbose=False)
    count = len(encoding["input_ids"])
    if count > most:
        raise InputError(
            f"{argument('texts')}: {shorten(text, 60)!r} has {count} tokens; the encoder reads at most {most}"
        )
    names = ("input_ids",) if padded else ("input_ids", "attention_mask")
    return {name: list(encoding[name]) for name in names if name in encoding}


def _control_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens of a tokenizer, except a plain `!`, which some of CLIP's use for padding."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(token for token in {*special, *tokenizer.all_special_tokens} if len(token) > 1)


METHODS: tuple[SaliencyMethod, ...] = ("gradcam", "attention_gradient")
# Which tokens of the last layer's output a model's head reads.
HEAD_READS: Mapping[str, tuple[str, ...]] = {
    "ViTForImageClassification": ("cls",),
    "CLIPModel": ("cls",),
    "CLIPForImageClassification": ("patches",),
    "SiglipForImageClassification": ("patches",),
    "SiglipModel": ("probe",),
    "Dinov2ForImageClassification": ("cls", "patches"),
    "Dinov2WithRegistersForImageClassification": ("cls", "patches"),
}
# From (t, 3, H, W) pixels to (t, N) logits of all classes, or cosine similarities to all texts.
Scores = Callable[[torch.Tensor], torch.Tensor]


def saliency(model: Any, spec: EncoderSpec, inputs: Inputs, saliency_target: SaliencyTarget) -> tuple[SaliencyMap, ...]:
    """Compute the saliency maps.

    Args:
        model: the result of `load_encoder_weights`.
        spec: its specification.
        inputs: the result of `read_inputs`.
        saliency_target: the result of `check_saliency`.

    Returns:
        For each text, or for the class, one map of each of `METHODS`.

    Raises:
        CaptureError: a score or a gradient is not finite.
    """
    score = partial(_logits, model, forward_kwargs(spec, inputs))
    if saliency_target.texts:
        score = partial(_similarities, model, forward_kwargs(spec, inputs), _embed_texts(model, saliency_target))
    with torch.no_grad():
        scores = torch.cat(
            [score(_to_model(model, chunk.tensors["pixel_values"])) for chunk in in_chunks(spec, inputs)]
        )
    check_finite("a score of the model", scores)
    if saliency_target.texts:
        names, columns = saliency_target.texts, range(len(saliency_target.texts))
    else:
        scores = _probabilities(model, scores)
        label = int(scores.mean(dim=0).argmax()) if saliency_target.label is None else saliency_target.label
        names, columns = (model.config.id2label[label],), range(label, label + 1)
    steps = [
        _explain(model, spec, score, _to_model(model, pixels[None]), columns)
        for pixels in inputs.tensors["pixel_values"]
    ]
    values = np.stack(steps, axis=2).astype(np.float32)
    return tuple(
        SaliencyMap(method, name, float(scores[:, column].mean()), values[i, j].reshape(inputs.grid))
        for i, (name, column) in enumerate(zip(names, columns, strict=True))
        for j, method in enumerate(METHODS)
    )


def _to_model(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return pixels.to(model.device, model.dtype)


def _logits(model: Any, kwargs: dict[str, bool], pixels: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(pixel_values=pixels, **kwargs).logits.float()
    return logits


def _similarities(model: Any, kwargs: dict[str, bool], texts: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    pictures = model.get_image_features(pixel_values=pixels, **kwargs).pooler_output.float()
    similarities: torch.Tensor = torch.nn.functional.normalize(pictures, dim=-1) @ texts.T
    return similarities


def _embed_texts(model: Any, saliency_target: SaliencyTarget) -> torch.Tensor:
    """Return the normalised embeddings of the texts: (N, C)."""
    with torch.no_grad():
        outputs = [
            model.get_text_features(**{name: torch.tensor([ids], device=model.device) for name, ids in tokens.items()})
            for tokens in saliency_target.tokens
        ]
    return torch.nn.functional.normalize(torch.cat([output.pooler_output for output in outputs]).float(), dim=-1)


def _probabilities(model: Any, logits: torch.Tensor) -> torch.Tensor:
    is_multi_label = model.config.problem_type == "multi_label_classification"
    return logits.sigmoid() if is_multi_label else torch.softmax(logits, dim=-1)


def _explain(model: Any, spec: EncoderSpec, score: Scores, pixels: torch.Tensor, columns: Sequence[int]) -> Floats:
    """Return the maps of some columns of the scores of one step: (N, 2, P)."""
    flow, R = Flow(differentiate=True, causal=False), len(spec.prefix)
    with _hooks(model, spec) as captured, keep_encoder_states(model, flow), torch.enable_grad():
        scores = score(pixels)[0]
    maps = []
    for column in columns:
        sources = [captured[name] for name in ("embedded", "states", "pooled") if name in captured]
        _, *gradients = torch.autograd.grad(scores[column], sources, retain_graph=column != columns[-1])
        for gradient in (*gradients, *flow.gradients()):
            check_finite("a gradient", gradient)
        if "probe" in captured:
            attention = encoder_of(model, spec).head.attention
            row = _probe_row(attention, captured["probe"], captured["keys"], gradients[1])
        else:
            row = _head_row(spec, captured["states"].shape[1])
        token_relevance = relevance(row, flow.relevance()) - row
        maps.append(np.stack([_grad_cam(captured["states"][0, R:], gradients[0][0, R:]), token_relevance[R:]]))
    return np.stack(maps)


@contextmanager
def _hooks(model: Any, spec: EncoderSpec) -> Iterator[dict[str, torch.Tensor]]:
    """Capture the tensors that gradients are taken of inside the `with` block.

    Yields:
        By name: `embedded`, the leaf of the graph; `states` (1, T, C) of Grad-CAM; and if a probe reads the tokens,
        `probe`, `keys` and `pooled`, the query, the keys and the output of its attention.
    """
    captured: dict[str, torch.Tensor] = {}
    tower = encoder_of(model, spec)

    def leaf(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        del module, args
        captured["embedded"] = output.detach().requires_grad_()
        return captured["embedded"]

    def norm(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        del module
        captured["states"] = output if HEAD_READS[spec.model_class] == ("cls",) else args[0]

    def probe(module: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        del module
        captured["probe"], captured["keys"], captured["pooled"] = *args[:2], output[0]

    hooks: list[tuple[Any, Callable[..., Any]]] = [(tower.embeddings, leaf), (_last_norm(model, spec), norm)]
    if "probe" in HEAD_READS[spec.model_class]:
        hooks.append((tower.head.attention, probe))
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield captured


def _last_norm(model: Any, spec: EncoderSpec) -> Any:
    """Return the first norm of the last layer."""
    modules = layers_of(model, spec)[-1].modules()
    return next(module for module in modules if isinstance(module, torch.nn.LayerNorm))


def _head_row(spec: EncoderSpec, tokens: int) -> Floats:
    """Return the weights with which a head reads [CLS], the mean of the patches, or both: (T,)."""
    R, row, reads = len(spec.prefix), np.zeros(tokens), HEAD_READS[spec.model_class]
    if "cls" in reads:
        row[0] = 1
    if "patches" in reads:
        row[R:] = 1 / (tokens - R)
    return row


def _grad_cam(states: torch.Tensor, gradients: torch.Tensor) -> Floats:
    """Return the Grad-CAM map of (P, C) hidden states and gradients: (P,)."""
    values: Floats = (states.detach().double() @ gradients.double().mean(dim=0)).clamp(min=0).cpu().numpy()
    return values


def _probe_row(attention: Any, probe: torch.Tensor, states: torch.Tensor, gradient: torch.Tensor) -> Floats:
    """Return the mean over heads of (A * dy/dA)+ of a probe's attention: (T,).

    Args:
        attention: a `torch.nn.MultiheadAttention`.
        probe: (1, 1, C), the query.
        states: (1, T, C), the keys and values.
        gradient: (1, 1, C), the gradient of y with respect to the output of the attention.
    """
    weights, biases = attention.in_proj_weight.float().chunk(3), attention.in_proj_bias.float().chunk(3)

    def by_head(values: torch.Tensor) -> torch.Tensor:
        return values.view(len(values), attention.num_heads, -1).transpose(0, 1)

    query, key, value = (
        by_head(vectors.detach()[0].float() @ weight.T + bias)
        for vectors, weight, bias in zip((probe, states, states), weights, biases, strict=True)
    )
    heads = by_head(gradient[0].float() @ attention.out_proj.weight.float())  # before the heads are mixed
    rows = attention_rows(query, key, attention.head_dim**-0.5) * (heads @ value.transpose(1, 2))
    row: Floats = rows.clamp(min=0).mean(dim=0)[0].double().cpu().numpy()
    return row
