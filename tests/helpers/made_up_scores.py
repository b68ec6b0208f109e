"""What a scored sample has besides its headline, for scores made by hand."""

import numpy as np

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.evaluation.figures import CONTROLS, FIGURES

_CONTROLLED = (*GROUNDING, "vision_mass")
OTHER_FIGURES = {
    "all_layers": dict.fromkeys(FIGURES, 0.5),
    "controls": dict.fromkeys(CONTROLS, dict.fromkeys(_CONTROLLED, 1.0)),
    "layers": dict.fromkeys(FIGURES, np.ones(2)),
    "layer_controls": dict.fromkeys(("chance", "other"), dict.fromkeys(_CONTROLLED, np.ones(2))),
}
