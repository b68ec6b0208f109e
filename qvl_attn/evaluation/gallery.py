"""The best and the worst of a checked data set, drawn with the boxes that they were judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvl_attn.core.files import slug
from qvl_attn.core.text import percent
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import Exhibit, exhibit_file, exhibit_of, exhibited, shown_boxes
from qvl_attn.evaluation.score import Score
from qvl_attn.media.resize import Picture
from qvl_attn.render.style import Drawing
from qvl_attn.vqa.figures import draw_result
from qvl_attn.vqa.record import Result

# A page, and what is kept to show the sample in another way.
Drawn = tuple[Picture, Exhibit]
EACH = 6
DRAWING = Drawing(draw_size_px=960)


def chosen(scores: Sequence[Score]) -> Iterator[tuple[str, Score]]:
    """`best_1` and on, and `worst_1` and on; none twice, and no picture twice in either.

    What points into a box comes before what does not, and then what has more in the boxes than chance gives, over the
    most that it could have: `(mass - area) / (1 - area)`. The lift would not do, of which large boxes allow little.
    """
    boxed = [one for one in scores if one.boxed and one.area < 1]
    ranked = sorted(
        boxed, key=lambda one: (-one.headline["pointing"], -(one.headline["mass"] - one.area) / (1 - one.area))
    )
    taken: set[str] = set()
    for name, order in (("best", ranked), ("worst", ranked[::-1])):
        seen: set[tuple[str, ...]] = set()
        for one in order:
            if len(seen) < EACH and one.media not in seen and one.id not in taken:
                seen.add(one.media)
                taken.add(one.id)
                yield f"{name}_{len(seen)}", one


def file_name(name: str, score: Score) -> str:
    """Where a sample is drawn, from the folder of its run."""
    return f"gallery/{name}_{slug(score.id, 48)}.png"


def draw_sample(sample: Sample, score: Score, result: Result) -> Picture:
    """The headline map with the sample's boxes outlined and its figures beneath: (H, W, 3) uint8 RGB."""
    drawn = draw_result(result, DRAWING)
    places = drawn.steps if sample.is_clip else range(len(sample.shown))
    return drawn.overlay(shown_boxes(sample, result, places), _lines(score, clip=sample.is_clip))


def draw_both(sample: Sample, score: Score, result: Result) -> Drawn:
    """A sample's page as `draw_sample` draws it, and its exhibit."""
    return draw_sample(sample, score, result), exhibit_of(sample, result)


def scored_exhibits(scores: Sequence[Score]) -> set[str]:
    """Where the exhibits lie that were made when the samples were scored; those of errors were not."""
    ids = exhibited(one.id for one in scores)
    return {exhibit_file(one.id) for one in scores if one.status == "ok" and one.id in ids}


def _lines(score: Score, *, clip: bool) -> list[str]:
    one, right = score.headline, score.right
    judged = "" if right is None else f" · the answer is {'right' if right else 'wrong'}"
    wanted = f" (accepted: {' | '.join(dict.fromkeys(score.references))})" if right is False else ""
    where = "points into the box" if score.grounded else "points elsewhere"
    where = where if score.inside else "no cell has its centre in the box"
    within = "of the attention on the steps with boxes, one by one," if clip else "of the attention on vision"
    return [
        f"outlined: the evidence · {where} · lift {one['lift']:.2f} (chance 1) · "
        f"{percent(one['mass'])} {within} in the box (area {percent(score.area)}){judged}{wanted}"
    ]
