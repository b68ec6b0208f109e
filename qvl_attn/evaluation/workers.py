"""Where the model of a check works: in this process, or with a scheduler that others keep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import QvlAttnError
from qvl_attn.core.runtime import prefetch
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.loop import FAULTS, ScoringPlan, ask_again, chunks, score_chunks
from qvl_attn.evaluation.outputs import Drawn, draw_both
from qvl_attn.evaluation.score import Score
from qvl_attn.model.checkpoint import Placement, choose_placement
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.result import Result


class Workers(Protocol):
    """Who holds the model."""

    def place(self, config: Any, device: str, dtype: str, device_map: str | None) -> Placement:
        """Where and in what precision the model runs there; as `choose_placement`."""

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Iterator[Score]:
        """Answer and score samples but those whose ids `done` gives, in any order."""

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Iterator[Drawn | QvlAttnError]:
        """Pages of samples for the gallery with their exhibits, in their order, or why there is none."""


class InProcess:
    """This process."""

    def place(self, config: Any, device: str, dtype: str, device_map: str | None) -> Placement:
        """As `choose_placement`."""
        return choose_placement(config, device, dtype, device_map)

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Iterator[Score]:
        """One portion after another."""
        return score_chunks(engine, chunks(samples, plan.batch_size), plan, done)

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Iterator[Drawn | QvlAttnError]:
        """One is asked while the one before is drawn."""

        def asked() -> Generator[Result | QvlAttnError, None, None]:
            for sample, _ in pairs:
                try:
                    yield ask_again(engine, sample, settings)
                except FAULTS as fault:
                    yield fault

        with closing(prefetch(asked(), depth=1)) as results:
            for (sample, score), result in zip(pairs, results, strict=True):
                yield result if isinstance(result, QvlAttnError) else draw_both(sample, score, result)
