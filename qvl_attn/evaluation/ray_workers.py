"""A check on a Ray cluster: Ray Data's actors hold the model, and this process writes the rows.

Portions of samples go to a pool of actors with `map_batches`. Ray starts an actor anew that died, and its work is done
again; what comes back is rows, errors among them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError, ModelError, QvlAttnError
from qvl_attn.core.runtime import suppress_stderr
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import example_bytes, example_from
from qvl_attn.evaluation.loop import FAULTS, Prepared, ScoringPlan, ask_again, chunks, error_score, score_chunks
from qvl_attn.evaluation.outputs import Drawn, draw_both
from qvl_attn.evaluation.score import Score, score_of, score_row
from qvl_attn.media.resize import Picture
from qvl_attn.model.checkpoint import Checkpoint, Placement, choose_placement, find_checkpoint, load_config
from qvl_attn.vqa.engine import Engine

# Portions that an actor is given at a time, so that it reads one while the model is at work on another; fewer where
# each actor would not be given work so many times, so that none is idle for long at the end.
CHUNKS_AT_ONCE, LEAST_TIMES = 4, 4
# How often what an actor died over is tried again. An actor is started again for each of these tries, as Ray Data waits
# for ever once none is left, and some times more; but not without end, for weights that no machine has the memory for.
TRIES, RESTARTS = 3, 20


@dataclass(frozen=True)
class RayWorkers:
    """Actors of Ray Data, each with a model of its own.

    Connects to the cluster that `RAY_ADDRESS` names, to one that runs on this machine, or else starts one here. All
    machines must have the same files under the same paths.

    Attributes:
        concurrency: how many actors.
        gpus_per_worker: of each, a fraction for several on one; by default one where the cluster has any.
        say: is told what is waited for.

    Raises:
        InputError: less than one actor, or no such share of a GPU; Ray is not installed.
    """

    concurrency: int = 1
    gpus_per_worker: float | None = None
    say: Callable[[str], None] = lambda message: None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"--concurrency {self.concurrency}: want at least 1")
        gpus = self.gpus_per_worker
        if gpus is not None and not (0 <= gpus <= 64 and (gpus <= 1 or gpus == int(gpus))):
            raise InputError(f"--gpus-per-worker {gpus:g}: want a whole number, or a share of one between 0 and 1")
        if find_spec("ray") is None:
            raise InputError("--engine ray needs the library ray", "pip install 'qvl-attn[ray]'")

    def place(self, config: Any, device: str, dtype: str, device_map: str | None) -> Placement:
        """As `choose_placement` finds it on a machine of the cluster that has what an actor is given."""
        ray = self._connected()

        def found() -> Placement | QvlAttnError:
            try:
                return choose_placement(config, device, dtype, device_map)
            except QvlAttnError as fault:
                return fault

        with _ray_faults(ray):
            placed: Placement | QvlAttnError = ray.get(ray.remote(num_cpus=0, num_gpus=self._gpus(ray))(found).remote())
        if isinstance(placed, QvlAttnError):
            raise placed
        return placed

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Iterator[Score]:
        """Several portions in each hand; their rows come back when all of it is done."""
        finished = set(done())
        asked = list(chunks(samples, plan.batch_size))
        left = [i for i, chunk in enumerate(asked) if any(one.id not in finished for one in chunk)]
        many = max(1, min(CHUNKS_AT_ONCE, len(left) // (LEAST_TIMES * self.concurrency)))
        hands = [left[i : i + many] for i in range(0, len(left), many)]
        yield from self._scored(engine, asked, plan, finished, hands)
        # What an actor died over lost all that it had in hand: one by one, only what kills it is lost.
        lost = [[one] for one in samples if one.id not in finished]
        yield from self._scored(engine, lost, plan, finished, [[i] for i in range(len(lost))])
        for (one,) in lost:
            if one.id not in finished:
                yield error_score(Prepared(one, fault=f"the actor that asked it died, {TRIES + 1} times"))

    def _scored(
        self,
        engine: Engine,
        asked: Sequence[Sequence[Sample]],
        plan: ScoringPlan,
        finished: set[str],
        hands: Sequence[Sequence[int]],
    ) -> Iterator[Score]:
        for row in self._map(_Scorer, "to ask", engine, (asked, plan, frozenset(finished)), hands):
            score = score_of(json.loads(row["row"]))
            if row["example"]:
                score = replace(score, example=example_from(row["example"]))
            finished.add(score.id)
            yield score

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Iterator[Drawn | QvlAttnError]:
        """One after another by an actor."""
        found: dict[int, Drawn | QvlAttnError] = {}
        for row in self._map(_Drawer, "to draw the gallery", engine, (pairs, settings), [list(range(len(pairs)))]):
            there = row["png"] and (_picture(row["png"]), example_from(row["example"]))
            found[row["place"]] = there or InputError(row["fault"])
        for place in range(len(pairs)):
            yield found.get(place, ModelError("its actor died"))

    def _map(
        self, worker: type, what: str, engine: Engine, work: object, hands: Sequence[Sequence[int]]
    ) -> Iterator[Any]:
        """Rows that the actors give, as they come."""
        if not hands:
            return
        ray = self._connected()
        gpus, size = self._gpus(ray), min(self.concurrency, len(hands))
        actors = f"{size} actors" if size > 1 else "1 actor"
        self.say(f"Ray: {actors} {what}, with {gpus:g} GPUs each; the cluster has {_total(ray, 'GPU'):g}")
        held = ray.put(work)
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        model = _Model(engine.checkpoint, engine.placement, engine.attn, offline, Path.cwd())
        items = ray.data.from_items([json.dumps(hand) for hand in hands], override_num_blocks=len(hands))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of both bounds, until Ray 2.64 has another way
            mapped = items.map_batches(
                worker,
                batch_size=1,
                # Nothing waits at an actor behind what it is at work on: it would lose a try whenever the actor dies.
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
                num_gpus=gpus or None,
                num_cpus=None if gpus else _cpus(ray, size),
                fn_constructor_args=(model, [held]),
                max_task_retries=TRIES,
                max_restarts=RESTARTS + (TRIES + 1) * len(hands),
            )
        with _ray_faults(ray):
            for row in mapped.iter_rows():
                if row["bug"]:
                    raise RuntimeError(f"in an actor of Ray:\n{row['bug']}")
                if row["failed"]:
                    raise ModelError(f"an actor of Ray: {row['failed']}")
                yield row

    def _gpus(self, ray: Any) -> float:
        there = _total(ray, "GPU")
        if self.gpus_per_worker is None:
            return 1.0 if there else 0.0
        if self.gpus_per_worker > there and len(ray.nodes()) == 1:
            raise InputError(f"--gpus-per-worker {self.gpus_per_worker:g}: this machine has {there:g} GPUs")
        return self.gpus_per_worker

    def _connected(self) -> Any:
        """Ray, quiet, and without its report of usage to its makers."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # of an actor that died it tells on stdout
        import ray
        import ray.data

        if not ray.is_initialized():
            self.say(f"connecting to Ray ({os.environ.get('RAY_ADDRESS', 'this machine')})")
            with _ray_faults(ray), _signals_kept(), suppress_stderr():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        # Ray Data logs a traceback for each hand that is given up: who asked is told of what is missing.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # whose actors died again and again; the others' rows are wanted
        return ray


@contextmanager
def _ray_faults(ray: Any) -> Iterator[None]:
    """Ray's own faults in one line."""
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError, TimeoutError) as fault:
        words = " ".join(str(fault).split())[:200]
        raise ModelError(f"Ray: {words}", "see its logs; the same command goes on with what is left") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _total(ray: Any, resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))


def _cpus(ray: Any, size: int) -> int:
    """Of each actor without a GPU: its share of the smallest machine, on which torch then uses as many threads."""
    machines = [node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(machines)) // ceil(size / len(machines)))


@dataclass(frozen=True)
class _Model:
    """What an actor needs to know to have the model of this process."""

    checkpoint: Checkpoint
    placement: Placement
    attn: str
    offline: bool
    folder: Path

    def load(self) -> Engine:
        """With its weights."""
        os.chdir(self.folder)
        name, wanted = self.checkpoint.name, self.checkpoint.revision
        of_hub = self.checkpoint.folder.name == wanted  # a commit; that of a folder is a fingerprint
        found = find_checkpoint(name, wanted if of_hub else None, offline=self.offline)
        if found.revision != wanted:
            raise ModelError(f"{name} has other files on another machine of the cluster")
        engine = Engine(found, load_config(found), self.placement, self.attn)
        _ = engine.model
        return engine


class _Actor(ABC):
    """Loads the model once; what keeps it from it is told to whoever asks."""

    def __init__(self, model: _Model, held: Sequence[Any]) -> None:
        import ray

        self.failed = ""
        try:
            self.engine = model.load()
            self.work = ray.get(held[0])
        except (QvlAttnError, OSError) as fault:
            self.failed = str(fault)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        (hand,) = batch["item"].tolist()
        rows: list[dict[str, Any]] = [{"failed": self.failed}] if self.failed else []
        if not rows:
            try:
                rows = list(self.answer(json.loads(hand)))
            except Exception:
                rows = [{"bug": traceback.format_exc()}]
        return {name: [row.get(name, none) for row in rows] for name, none in self.columns.items()}

    columns: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def answer(self, hand: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What comes of the items of a hand, a row at a time."""


class _Scorer(_Actor):
    columns: ClassVar[Mapping[str, Any]] = {"row": "", "example": b"", "failed": "", "bug": ""}

    def answer(self, hand: Sequence[int]) -> Iterator[dict[str, Any]]:
        asked, plan, finished = self.work
        for score in score_chunks(self.engine, [asked[i] for i in hand], plan, lambda: finished):
            example = example_bytes(score.example) if score.example else b""
            yield {"row": json.dumps(score_row(score)), "example": example}


class _Drawer(_Actor):
    columns: ClassVar[Mapping[str, Any]] = {
        "place": 0,
        "png": b"",
        "example": b"",
        "fault": "",
        "failed": "",
        "bug": "",
    }

    def answer(self, hand: Sequence[int]) -> Iterator[dict[str, Any]]:
        pairs, settings = self.work
        for place in hand:
            sample, score = pairs[place]
            try:
                page, example = draw_both(sample, score, ask_again(self.engine, sample, settings))
            except FAULTS as fault:
                yield {"place": place, "fault": str(fault)}
                continue
            yield {"place": place, "png": _png(page), "example": example_bytes(example)}


def _png(pixels: Picture) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _picture(png: bytes) -> Picture:
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.array(image)
