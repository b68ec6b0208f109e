"""Which patches decided a class, or how like a text a picture is: two maps of each.

    gradcam(p) = (sum over c of alpha_c F[p, c])+,  alpha_c = mean over patches p of dy/dF[p, c]

Grad-CAM (Selvaraju et al. 1610.02391, equations 1 and 2) with y the logit of the class, or the cosine similarity of the
picture's embedding and the text's. F (P, C) is what the patches are at the last place that all of their say in y passes
through. Where the head reads [CLS] alone (ViT, and CLIP with texts) they speak through the last layer's attention only,
and it is what that layer's first norm gives, as in pytorch-grad-cam (jacobgil, `blocks[-1].norm1`); after the last
layer they have no gradient. Elsewhere they also stand beside that attention, and it is what goes into that norm.

    attention_gradient = r (R - I) on the patches,  R = (I + A_L) ... (I + A_1),
    A_l = mean over heads of (A[l, h] * dy/dA[l, h])+

Attention times gradient (Chefer et al. 2103.15679, equations 5 and 6), without the identity that R begins with (their
equation 8), followed from the last layer down as a row (T,) from r, by which the head reads the tokens:

- ViT, and CLIP with texts: r is one at [CLS]. On the patches the identity is zero then.
- CLIP and SigLIP with classes average the patches: r is 1 / P at each. DINOv2 reads both: r is the two together.
- SigLIP with texts asks by attention, from a learned probe: r is the row of (A * dy/dA)+ of that attention.

With the identity an average would add the same to all patches, and a probe's row what its values hold of the whole
picture by then. In small encoders trained to tell the colour of a square in one of 16 places, that left 6 to 18 % of
the map on the square where averages are read, not 27 to 58 %, and a probe's map pointed at it in 38 to 60 % of the
pictures, not in 78 to 90 %.

Steps of a clip are pictures of their own. One pass for the scores, a few steps at a time, and one with backward
passes for each step.
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
from qvl_attn.encoders.capture import description, encoder_of, in_parts, layers_of
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import EncoderSettings, SaliencyMap
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.model.capture import attention_rows, keep_encoder_states
from qvl_attn.model.probe import Flow, check_finite
from qvl_attn.model.prompt import check_text
from qvl_attn.model.signals import Floats


@dataclass(frozen=True)
class SaliencyTarget:
    """What is explained.

    Attributes:
        label: the number of a class; None for the likeliest one, or where there are texts.
        texts: as they were typed; none where the encoder has classes.
        tokens: of each text what the text tower is given, by name.
    """

    label: int | None = None
    texts: tuple[str, ...] = ()
    tokens: tuple[Mapping[str, Sequence[int]], ...] = ()


def check_saliency(
    spec: EncoderSpec, config: Any, settings: EncoderSettings, tokenizer: Callable[[], Any]
) -> SaliencyTarget:
    """Read what is to be explained.

    Args:
        spec: of the encoder.
        config: the model's whole configuration.
        settings: with `saliency`.
        tokenizer: gives the text side's, where there is one.

    Raises:
        InputError: the encoder has no head; a class that it does not know; no text, one that is empty, too long or has
            control tokens in it; a class for a model that compares with texts, or the other way round.
    """
    if spec.head is None or (spec.head == "classes" and not config.num_labels):
        also = "; of Qwen2.5-VL's answers: qvl-attn ask ... --method gradient" if spec.model_type == QWEN else ""
        raise InputError(
            f"--saliency: this {spec.family.name} encoder has neither classes nor a text side, so nothing is decided",
            f"take one that has, as google/vit-base-patch16-224 or openai/clip-vit-base-patch32{also}",
        )
    if spec.head == "classes":
        if settings.texts:
            raise InputError(
                f"--text: this {spec.family.name} encoder has classes and no text side", "name a class with --label"
            )
        return SaliencyTarget(label=None if settings.label is None else _number_of(settings.label, config.id2label))
    if settings.label is not None:
        raise InputError(
            f"--label {settings.label}: {spec.family.name} compares with texts and has no classes",
            'write --text "a photo of a cat"',
        )
    if not settings.texts:
        raise InputError(
            f"--saliency: {spec.family.name} compares a picture with texts, and there is none",
            'write --text "a photo of a cat"',
        )
    if len({*settings.texts}) < len(settings.texts):
        raise InputError("--text: the same text is there twice")
    words = tokenizer()
    tokens = tuple(_tokens(spec, config, words, text) for text in settings.texts)
    for i, one in enumerate(tokens):
        if one in tokens[:i]:
            alike = [shorten(settings.texts[at], 60) for at in (tokens.index(one), i)]
            raise InputError(
                f"--text: {alike[0]!r} and {alike[1]!r} are the same to the model's tokenizer",
                "word them so that they differ in more than case or signs",
            )
    return SaliencyTarget(texts=settings.texts, tokens=tokens)


def _number_of(label: str, names: Mapping[int, str]) -> int:
    """The number of a class.

    Args:
        label: its name, whole and in any case, or its number.
        names: by number.
    """
    typed = label.strip().casefold()
    found = [number for number, name in names.items() if name.casefold() == typed]
    if len(found) > 1:
        numbers = ", ".join(str(number) for number in found)
        raise InputError(f"--label {label}: {len(found)} classes have this name", f"write one of the numbers {numbers}")
    if found:
        return int(found[0])
    if typed.isdecimal() and int(typed) in names:
        return int(typed)
    known = {name.casefold(): name for name in names.values()}
    near = [name for key, name in known.items() if typed and typed in key][:3]
    near += [known[key] for key in get_close_matches(typed, known, n=3) if known[key] not in near]
    hint = f"the nearest: {'; '.join(near)}" if near else f"its name, or a number from {min(names)} to {max(names)}"
    raise InputError(f"--label {label}: the encoder knows {len(names)} classes, and none of this name or number", hint)


def _tokens(spec: EncoderSpec, config: Any, tokenizer: Any, text: str) -> dict[str, list[int]]:
    """A text as the family was trained with it: SigLIP's is filled up to its full length, and the filling is read."""
    check_text("text after --text", text, _control_words(tokenizer))
    most = config.text_config.max_position_embeddings
    filled = spec.model_type == "siglip"
    # A length of its own would be one more warning; what is too long is refused below.
    description = {"padding": "max_length", "max_length": most} if filled else {}
    found = tokenizer(text, **description, verbose=False)
    count = len(found["input_ids"])
    if count > most:
        raise InputError(f"--text: {shorten(text, 60)!r} has {count} tokens, and the encoder reads at most {most}")
    names = ("input_ids",) if filled else ("input_ids", "attention_mask")
    return {name: list(found[name]) for name in names if name in found}


def _control_words(tokenizer: Any) -> list[str]:
    """What a tokenizer reads as commands; a plain `!`, with which some of CLIP's fill up, is none."""
    special = {one.content for one in tokenizer.added_tokens_decoder.values() if one.special}
    return sorted(word for word in {*special, *tokenizer.all_special_tokens} if len(word) > 1)


METHODS = ("gradcam", "attention_gradient")
# By which tokens a model's head reads the layers' output.
READS: Mapping[str, tuple[str, ...]] = {
    "ViTForImageClassification": ("cls",),
    "CLIPModel": ("cls",),
    "CLIPForImageClassification": ("patches",),
    "SiglipForImageClassification": ("patches",),
    "SiglipModel": ("probe",),
    "Dinov2ForImageClassification": ("cls", "patches"),
    "Dinov2WithRegistersForImageClassification": ("cls", "patches"),
}
# (t, 3, H, W) pixels in, (t, N) logits of all classes, or cosine similarities to all texts, out.
Outcome = Callable[[torch.Tensor], torch.Tensor]


def saliency(model: Any, spec: EncoderSpec, inputs: Inputs, saliency_target: SaliencyTarget) -> tuple[SaliencyMap, ...]:
    """Maps of what decided.

    Args:
        model: as `load_encoder_weights` gives it.
        spec: what is known of it.
        inputs: as `read_inputs` gives them.
        saliency_target: as `check_saliency` gives it.

    Returns:
        Of each text, or of the class, a map by each of `METHODS`.

    Raises:
        CaptureError: the outcome, or a gradient, is not finite.
    """
    outcome = partial(_logits, model, description(spec, inputs))
    if saliency_target.texts:
        outcome = partial(_likeness, model, description(spec, inputs), _embedded(model, saliency_target))
    with torch.no_grad():
        scores = torch.cat([outcome(_placed(model, part.tensors["pixel_values"])) for part in in_parts(spec, inputs)])
    check_finite("the model's outcome", scores)
    if saliency_target.texts:
        names, columns = saliency_target.texts, range(len(saliency_target.texts))
    else:
        scores = _probabilities(model, scores)
        label = int(scores.mean(dim=0).argmax()) if saliency_target.label is None else saliency_target.label
        names, columns = (model.config.id2label[label],), range(label, label + 1)
    steps = [
        _explain(model, spec, outcome, _placed(model, one[None]), columns) for one in inputs.tensors["pixel_values"]
    ]
    values = np.stack(steps, axis=2).astype(np.float32)
    return tuple(
        SaliencyMap(method, name, float(scores[:, column].mean()), values[i, j].reshape(inputs.grid))
        for i, (name, column) in enumerate(zip(names, columns, strict=True))
        for j, method in enumerate(METHODS)
    )


def _placed(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return pixels.to(model.device, model.dtype)


def _logits(model: Any, how: dict[str, bool], pixels: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(pixel_values=pixels, **how).logits.float()
    return logits


def _likeness(model: Any, how: dict[str, bool], texts: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    pictures = model.get_image_features(pixel_values=pixels, **how).pooler_output.float()
    found: torch.Tensor = torch.nn.functional.normalize(pictures, dim=-1) @ texts.T
    return found


def _embedded(model: Any, saliency_target: SaliencyTarget) -> torch.Tensor:
    """(N, C) the texts' embeddings, each of length one."""
    with torch.no_grad():
        found = [
            model.get_text_features(**{name: torch.tensor([ids], device=model.device) for name, ids in one.items()})
            for one in saliency_target.tokens
        ]
    return torch.nn.functional.normalize(torch.cat([one.pooler_output for one in found]).float(), dim=-1)


def _probabilities(model: Any, logits: torch.Tensor) -> torch.Tensor:
    several = model.config.problem_type == "multi_label_classification"
    return logits.sigmoid() if several else torch.softmax(logits, dim=-1)


def _explain(model: Any, spec: EncoderSpec, outcome: Outcome, pixels: torch.Tensor, columns: Sequence[int]) -> Floats:
    """(N, 2, P) of each column of one step's outcome the maps."""
    flow, R = Flow(differentiate=True, causal=False), len(spec.prefix)
    with _watched(model, spec) as seen, keep_encoder_states(model, flow), torch.enable_grad():
        found = outcome(pixels)[0]
    maps = []
    for column in columns:
        wanted = [seen[name] for name in ("embedded", "states", "pooled") if name in seen]
        _, *gradients = torch.autograd.grad(found[column], wanted, retain_graph=column != columns[-1])
        for gradient in (*gradients, *flow.gradients()):
            check_finite("a gradient", gradient)
        if "probe" in seen:
            row = _probe_row(encoder_of(model, spec).head.attention, seen["probe"], seen["asked"], gradients[1])
        else:
            row = _plain_row(spec, seen["states"].shape[1])
        relevant = relevance(row, flow.relevance()) - row
        maps.append(np.stack([_grad_cam(seen["states"][0, R:], gradients[0][0, R:]), relevant[R:]]))
    return np.stack(maps)


@contextmanager
def _watched(model: Any, spec: EncoderSpec) -> Iterator[dict[str, torch.Tensor]]:
    """While it lasts, what gradients are taken of is kept.

    Gives:
        By name: `embedded`, where gradients begin; `states` (1, T, C) of Grad-CAM; and where a probe asks, `probe`,
        `asked` and `pooled`, what its attention gives.
    """
    seen: dict[str, torch.Tensor] = {}
    tower = encoder_of(model, spec)

    def leaf(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        del module, args
        seen["embedded"] = output.detach().requires_grad_()
        return seen["embedded"]

    def norm(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        del module
        seen["states"] = output if READS[spec.model_class] == ("cls",) else args[0]

    def probe(module: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        del module
        seen["probe"], seen["asked"], seen["pooled"] = *args[:2], output[0]

    hooks: list[tuple[Any, Callable[..., Any]]] = [(tower.embeddings, leaf), (_last_norm(model, spec), norm)]
    if "probe" in READS[spec.model_class]:
        hooks.append((tower.head.attention, probe))
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield seen


def _last_norm(model: Any, spec: EncoderSpec) -> Any:
    """The first norm of the last layer."""
    return next(one for one in layers_of(model, spec)[-1].modules() if isinstance(one, torch.nn.LayerNorm))


def _plain_row(spec: EncoderSpec, tokens: int) -> Floats:
    """(T,) by which a head reads [CLS], the mean of the patches, or both."""
    R, row, reads = len(spec.prefix), np.zeros(tokens), READS[spec.model_class]
    if "cls" in reads:
        row[0] = 1
    if "patches" in reads:
        row[R:] = 1 / (tokens - R)
    return row


def _grad_cam(states: torch.Tensor, gradients: torch.Tensor) -> Floats:
    """(P,) of (P, C) hidden states and gradients."""
    found: Floats = (states.detach().double() @ gradients.double().mean(dim=0)).clamp(min=0).cpu().numpy()
    return found


def _probe_row(attention: Any, probe: torch.Tensor, states: torch.Tensor, gradient: torch.Tensor) -> Floats:
    """(T,) mean over heads of (A * dy/dA)+ of the attention by which a probe asks.

    Args:
        attention: a `torch.nn.MultiheadAttention`.
        probe: (1, 1, C) what asks.
        states: (1, T, C) what is asked.
        gradient: (1, 1, C) of y with respect to what the attention gives.
    """
    weights, biases = attention.in_proj_weight.float().chunk(3), attention.in_proj_bias.float().chunk(3)

    def by_head(values: torch.Tensor) -> torch.Tensor:
        return values.view(len(values), attention.num_heads, -1).transpose(0, 1)

    query, key, value = (
        by_head(one.detach()[0].float() @ weight.T + bias)
        for one, weight, bias in zip((probe, states, states), weights, biases, strict=True)
    )
    heads = by_head(gradient[0].float() @ attention.out_proj.weight.float())  # before the heads are mixed
    rows = attention_rows(query, key, attention.head_dim**-0.5) * (heads @ value.transpose(1, 2))
    found: Floats = rows.clamp(min=0).mean(dim=0)[0].double().cpu().numpy()
    return found
