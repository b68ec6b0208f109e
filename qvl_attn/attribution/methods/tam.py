"""Token activation maps: how strongly each cell's last hidden state speaks for a word of the answer, less its context.

    S_t(v) = (h_v . w_t)+                                               for each token t of question and answer
    I_t    = sum over i before t, i another word, of S_t(i) S_i(v) / sum of S_t(i)   (the context's interference)
    M_t    = (S_t - s I_t)+,  s = <S_t, I_t> / <I_t, I_t>               (least squares)

h (S, D) are the last hidden states, w_t the head's row of t; a token of the answer stands where it was produced. M_t
and the S_t(i) before it are scaled together to [0, 1], and each picture's map goes through the rank Gaussian filter (Li
et al. 2506.23270). Several tokens of the answer are averaged. As published; the authors' code takes for the question's
first token the likeliest word, and for the answer's first token the line break before it. One more pass; (tokens of
question and answer, V) numbers.
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.filters import denoise
from qvl_attn.attribution.heatmap import split_by_picture
from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import CLASSES, Classes, Floats


def activation_map(classes: Classes, target: int) -> Floats:
    """(V,) the map of one token of the answer without interference, scaled to [0, 1] with its context; not filtered."""
    maps, text = classes.vision.astype(np.float64), classes.text[target, :target].astype(np.float64)
    own, others = maps[target], np.flatnonzero(classes.ids[:target] != classes.ids[target])
    total = text[others].sum()
    if total > 0:
        interference = text[others] @ maps[others] / total
        size = interference @ interference
        own = np.maximum(own - (own @ interference / size if size > 0 else 0) * interference, 0)
    both = np.concatenate([own, text])
    span = both.max() - both.min()
    return (own - both.min()) / span if span > 0 else np.zeros_like(own)


def _tam(view: View) -> MethodMap:
    classes, grids = view.signals.classes, view.capture.grids
    assert classes is not None
    maps = []
    for target in classes.targets:
        pictures = split_by_picture(as_map(activation_map(classes, target)), grids)
        maps.append(np.concatenate([denoise(one, "rank-gaussian").ravel() for one in pictures]))
    return MethodMap(
        method="tam",
        values=as_map(np.mean(maps, axis=0)),
        caption=f"token activation map of “{view.signals.explained.strip()}”, without its context's, rank Gaussian",
    )


TAM = Method(
    name="tam",
    compute=_tam,
    needs=frozenset({CLASSES}),
    shows="how strongly each cell's last hidden state speaks for the answer's word, less its context",
    source="Li et al. 2025, arXiv 2506.23270",
    cost="one more pass without an answer",
    when="the answer names a thing: where is that word in the picture?",
    wrong="a number, or yes and no, is nowhere in the picture; hidden states of early cells do not know the question",
    follows_query=False,
)
