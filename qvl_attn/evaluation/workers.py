"""Where the model of a check runs: in this process, or in the workers of a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from typing import Any, Protocol

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import QvlAttnError
from qvl_attn.core.runtime import prefetch
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.loop import FAULTS, ScoringPlan, ask_again, chunks, score_chunks
from qvl_attn.evaluation.outputs import Drawn, draw_both
from qvl_attn.evaluation.score import Score
from qvl_attn.model.placement import Placement
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.result import Result


class Runner(Protocol):
    """Runs the model of a check."""

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Generator[Score, None, None]:
        """Answer and score samples, in any order, except those whose ids `done` returns."""

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Generator[Drawn | QvlAttnError, None, None]:
        """Yield for each sample, in order, its picture for the gallery and its example, or the fault."""


class Workers(Runner, Protocol):
    """Processes of their own that run the model."""

    def place(self, config: Any, device: str, dtype: str, device_map: str | None) -> Placement:
        """Return the device and the precision that the model has in the workers, as `choose_placement` does."""


class InProcess:
    """Runs the model in this process."""

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Generator[Score, None, None]:
        """Score one chunk after another."""
        return score_chunks(engine, chunks(samples, plan.batch_size), plan, done)

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Generator[Drawn | QvlAttnError, None, None]:
        """Draw each sample while the next one is answered."""

        def answered() -> Generator[Result | QvlAttnError, None, None]:
            for sample, _ in pairs:
                try:
                    yield ask_again(engine, sample, settings)
                except FAULTS as fault:
                    yield fault

        with closing(prefetch(answered(), depth=1)) as results:
            for (sample, score), result in zip(pairs, results, strict=True):
                yield result if isinstance(result, QvlAttnError) else draw_both(sample, score, result)
