"""Token activation maps: how strongly each cell's last hidden state activates an answer token, minus its context.

    S_t(v) = (h_v . w_t)+                                               for each token t of question and answer
    I_t    = sum over i before t, i another word, of S_t(i) S_i(v) / sum of S_t(i)   (the context's interference)
    M_t    = (S_t - s I_t)+,  s = <S_t, I_t> / <I_t, I_t>               (least squares)

h (S, D) are the last hidden states, w_t is the LM head's row of t; an answer token has the position that produced it.
M_t and the S_t(i) before it are scaled together to [0, 1], and the rank Gaussian filter is applied to each picture's
map (Li et al. 2506.23270). The maps of several answer tokens are averaged. This follows the paper; the authors' code
takes the likeliest word in place of the question's first token, and in place of the answer's first token the line break
before it.
Cost: one more pass; memory (tokens of question and answer) x V.
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.filters import denoise
from qvl_attn.attribution.heatmap import split_by_picture
from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import CLASSES, Classes, Floats


def activation_map(classes: Classes, target: int) -> Floats:
    """Return the unfiltered map of one answer token without interference, (V,), scaled to [0, 1] with its context."""
    maps, text = classes.vision.astype(np.float64), classes.text[target, :target].astype(np.float64)
    values, context = maps[target], np.flatnonzero(classes.ids[:target] != classes.ids[target])
    total = text[context].sum()
    if total > 0:
        interference = text[context] @ maps[context] / total
        size = interference @ interference
        values = np.maximum(values - (values @ interference / size if size > 0 else 0) * interference, 0)
    joined = np.concatenate([values, text])
    span = joined.max() - joined.min()
    return (values - joined.min()) / span if span > 0 else np.zeros_like(values)


def _tam(view: View) -> MethodMap:
    classes, grids = view.signals.classes, view.capture.grids
    assert classes is not None
    maps = []
    for target in classes.targets:
        pictures = split_by_picture(as_map(activation_map(classes, target)), grids)
        maps.append(np.concatenate([denoise(picture, "rank-gaussian").ravel() for picture in pictures]))
    return MethodMap(
        method="tam",
        values=as_map(np.mean(maps, axis=0)),
        caption=f"token activation map of “{view.signals.explained.strip()}”, without its context's, rank Gaussian",
    )


TAM = Method(
    name="tam",
    compute=_tam,
    needs=frozenset({CLASSES}),
    shows="how strongly each cell's last hidden state activates the answer's token, minus its context",
    source="Li et al. 2025, arXiv 2506.23270",
    cost="one more pass without generation",
    when="the answer names a thing, and you ask where it is in the picture",
    wrong="a number, yes or no has no place in the picture; hidden states of cells before the question do not know it",
    differs="follows the paper; the authors' code explains the line break before the answer in place of its first "
    "token and takes the likeliest word in place of the question's: another map",
    follows_query=False,
)
