"""Which patches decided a class, or how like a text a picture is: two maps of each.

    gradcam(p) = (sum over c of alpha_c F[p, c])+,  alpha_c = mean over patches p of dy/dF[p, c]

Grad-CAM (Selvaraju et al. 1610.02391, equations 1 and 2) with y the logit of the class, or the cosine similarity of the
picture's embedding and the text's, and F (P, C) the patches' hidden states as they come into the last layer. After the
last layer the patches of an encoder that is read from [CLS] have no gradient, so this is the last place that serves
every family.

    attention_gradient = r (I + A_L) ... (I + A_1) on the patches,  A_l = mean over heads of (A[l, h] * dy/dA[l, h])+

Attention times gradient (Chefer et al. 2103.15679, equations 5 and 6), followed from the last layer down as a row (T,)
from r, which is what the head reads the layers' output by:

- ViT and CLIP with texts read [CLS]: r is one there.
- SigLIP with texts asks by attention, from a learned probe: r is the row of that attention, times its gradient, by
  equation 5.
- The other heads average patches, DINOv2's beside [CLS], and are linear in what they read, X (T, C): r is the token's
  share of y, (sum over c of X[p, c] dy/dX[p, c])+. It is equation 5 again, of an attention that is the same for all.

Steps of a clip are pictures of their own. One pass for the scores, and one with backward passes for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from qvl_attn.capture import attention_rows, keep_encoder_states
from qvl_attn.evidence import Floats
from qvl_attn.eye.aim import Aim
from qvl_attn.eye.families import Eye
from qvl_attn.eye.inputs import Inputs
from qvl_attn.eye.look import encoder_of, told
from qvl_attn.eye.result import SaliencyMap
from qvl_attn.flow import Flow
from qvl_attn.methods.gradient import relevance
from qvl_attn.probe import check_finite

METHODS = ("gradcam", "attention_gradient")
# (t, 3, H, W) pixels in, (t, N) logits of all classes, or cosine similarities to all texts, out.
Outcome = Callable[[torch.Tensor], torch.Tensor]


def saliency(model: Any, eye: Eye, inputs: Inputs, aim: Aim) -> tuple[SaliencyMap, ...]:
    """Maps of what decided.

    Args:
        model: as `load_eye_weights` gives it.
        eye: what is known of it.
        inputs: as `read_inputs` gives them.
        aim: as `check_saliency` gives it.

    Returns:
        Of each text, or of the class, a map by each of `METHODS`.

    Raises:
        CaptureError: the outcome, or a gradient, is not finite.
    """
    outcome = partial(_logits, model, told(eye, inputs))
    if aim.texts:
        outcome = partial(_likeness, model, told(eye, inputs), _embedded(model, aim))
    pixels = inputs.tensors["pixel_values"].to(model.device, model.dtype)
    with torch.no_grad():
        scores = outcome(pixels)
    check_finite("the model's outcome", scores)
    if aim.texts:
        names, columns = aim.texts, range(len(aim.texts))
    else:
        scores = _probabilities(model, scores)
        label = int(scores.mean(dim=0).argmax()) if aim.label is None else aim.label
        names, columns = (model.config.id2label[label],), range(label, label + 1)
    steps = [_explain(model, eye, outcome, one[None], columns) for one in pixels]
    values = np.stack(steps, axis=2).clip(min=0).astype(np.float32)
    return tuple(
        SaliencyMap(method, name, float(scores[:, column].mean()), values[i, j].reshape(inputs.grid))
        for i, (name, column) in enumerate(zip(names, columns, strict=True))
        for j, method in enumerate(METHODS)
    )


def _logits(model: Any, how: dict[str, bool], pixels: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(pixel_values=pixels, **how).logits
    return logits.float()


def _likeness(model: Any, how: dict[str, bool], texts: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    pictures = model.get_image_features(pixel_values=pixels, **how).pooler_output.float()
    found: torch.Tensor = torch.nn.functional.normalize(pictures, dim=-1) @ texts.T
    return found


def _embedded(model: Any, aim: Aim) -> torch.Tensor:
    """(N, C) the texts' embeddings, each of length one."""
    with torch.no_grad():
        found = [
            model.get_text_features(**{name: torch.tensor([ids], device=model.device) for name, ids in one.items()})
            for one in aim.tokens
        ]
    return torch.nn.functional.normalize(torch.cat([one.pooler_output for one in found]).float(), dim=-1)


def _probabilities(model: Any, logits: torch.Tensor) -> torch.Tensor:
    several = model.config.problem_type == "multi_label_classification"
    return logits.sigmoid() if several else logits.softmax(dim=-1)


def _explain(model: Any, eye: Eye, outcome: Outcome, pixels: torch.Tensor, columns: Sequence[int]) -> Floats:
    """(N, 2, P) of each column of one step's outcome the maps."""
    flow, read, seen, R = Flow(differentiate=True, causal=False), _read_by(eye), dict[str, Any](), len(eye.prefix)
    tower = encoder_of(model, eye)

    def leaf(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        seen["embedded"] = output.detach().requires_grad_()
        return seen["embedded"]

    def before_last(module: Any, args: tuple[Any, ...]) -> None:
        seen["states"] = args[0]

    def after(module: Any, args: Any, output: Any) -> None:
        seen["output"] = output.last_hidden_state

    def pooled(module: Any, args: tuple[Any, ...], output: Any) -> None:
        seen["asked"], seen["output"] = args, output[0]

    with ExitStack() as stack:
        hooks = [
            tower.embeddings.register_forward_hook(leaf),
            _last_layer(tower, eye).register_forward_pre_hook(before_last),
            tower.head.attention.register_forward_hook(pooled)
            if read == "probe"
            else tower.register_forward_hook(after),
        ]
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(keep_encoder_states(model, flow))
        stack.enter_context(torch.enable_grad())
        found = outcome(pixels)[0]
    maps = []
    for column in columns:
        wanted = [seen["states"], seen["output"], seen["embedded"]]
        gradients = torch.autograd.grad(found[column], wanted, retain_graph=column != columns[-1])
        for gradient in (*gradients, *flow.gradients()):
            check_finite("a gradient", gradient)
        if read == "cls":
            row = torch.zeros(seen["output"].shape[1])
            row[0] = 1
        elif read == "probe":
            row = _probe_row(tower.head.attention, *seen["asked"][:2], gradients[1])
        else:
            row = (seen["output"][0].detach().float() * gradients[1][0].float()).sum(dim=-1).clamp(min=0)
        row = relevance(row.double().cpu().numpy(), flow.relevance())
        maps.append(np.stack([_grad_cam(seen["states"].detach()[0, R:], gradients[0][0, R:]), row[R:]]))
    return np.stack(maps)


def _read_by(eye: Eye) -> str:
    """How the head reads the layers' output."""
    if eye.head == "text":
        return "cls" if eye.family.cls else "probe"
    return "cls" if eye.model_type == "vit" else "mean"


def _last_layer(tower: Any, eye: Eye) -> Any:
    """The last of the one list of as many modules as the encoder has layers."""
    lists = [one for one in tower.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == eye.layers]
    return lists[0][-1]


def _grad_cam(states: torch.Tensor, gradients: torch.Tensor) -> Floats:
    """(P,) of (P, C) hidden states and gradients."""
    found: Floats = (states.double() @ gradients.double().mean(dim=0)).clamp(min=0).cpu().numpy()
    return found


def _probe_row(attention: Any, probe: torch.Tensor, states: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
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
    return rows.clamp(min=0).mean(dim=0)[0].detach()
