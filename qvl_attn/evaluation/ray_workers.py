"""A check on a Ray cluster: actors of Ray Data run the model, and this process writes the rows.

Chunks of samples go to a pool of actors with `map_batches`. Ray restarts an actor that died and repeats its task. The
actors return rows, including those of errors.
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
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
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
from qvl_attn.core.text import argument
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import example_bytes, example_from
from qvl_attn.evaluation.loop import FAULTS, Prepared, ScoringPlan, ask_again, chunks, error_score, score_chunks
from qvl_attn.evaluation.outputs import Drawn, draw_both
from qvl_attn.evaluation.rows import score_of, score_row
from qvl_attn.evaluation.score import Score
from qvl_attn.media.resize import Picture
from qvl_attn.model.checkpoint import Checkpoint, find_checkpoint
from qvl_attn.model.loading import choose_placement, load_config
from qvl_attn.model.placement import Placement
from qvl_attn.vqa.engine import Engine

LOG = logging.getLogger(__name__)
# Chunks per task, so that an actor reads one chunk while the model runs on another. A task has fewer chunks if there
# would be less than MIN_TASKS tasks per actor, so that no actor is idle for long at the end.
CHUNKS_PER_TASK, MIN_TASKS = 4, 4
# Retries of a task whose actor died, and restarts of an actor beyond those for retries. Ray Data waits for ever if no
# restart is left, and restarts must be limited in case no machine has enough memory for the weights.
RETRIES, RESTARTS = 3, 20


@dataclass(frozen=True)
class RayWorkers:
    """Actors of Ray Data, each with its own copy of the model.

    It connects to the cluster of `RAY_ADDRESS`, or to one that runs on this machine, or else starts one here. All
    machines must have the same files under the same paths.

    Attributes:
        concurrency: the number of actors.
        gpus_per_worker: GPUs per actor, a fraction for several actors per GPU; by default 1 if the cluster has GPUs.

    Raises:
        InputError: `concurrency` or `gpus_per_worker` is out of range, or Ray is not installed.
    """

    concurrency: int = 1
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"{argument('concurrency', self.concurrency)}: want at least 1")
        gpus = self.gpus_per_worker
        if gpus is not None and not (0 <= gpus <= 64 and (gpus <= 1 or gpus == int(gpus))):
            raise InputError(f"{argument('gpus_per_worker', gpus)}: want a whole number, or a fraction between 0 and 1")
        if find_spec("ray") is None:
            raise InputError("workers of Ray need the library ray", "pip install 'qvl-attn[ray]'")

    def place(self, config: Any, device: str, dtype: str, device_map: str | None) -> Placement:
        """Return the placement of `choose_placement` on a machine of the cluster, with the resources of an actor."""
        ray = self._connect()

        def choose() -> Placement | QvlAttnError:
            try:
                return choose_placement(config, device, dtype, device_map)
            except QvlAttnError as fault:
                return fault

        with _ray_errors(ray):
            task = ray.remote(num_cpus=0, num_gpus=self._gpus(ray))(choose)
            placement: Placement | QvlAttnError = ray.get(task.remote())
        if isinstance(placement, QvlAttnError):
            raise placement
        return placement

    def score(
        self, engine: Engine, samples: Sequence[Sample], plan: ScoringPlan, done: Callable[[], Collection[str]]
    ) -> Generator[Score, None, None]:
        """Score several chunks per task; the rows of a task arrive when all of it is done."""
        finished = set(done())
        sample_chunks = list(chunks(samples, plan.batch_size))
        open_chunks = [i for i, chunk in enumerate(sample_chunks) if any(sample.id not in finished for sample in chunk)]
        per_task = max(1, min(CHUNKS_PER_TASK, len(open_chunks) // (MIN_TASKS * self.concurrency)))
        tasks = [open_chunks[i : i + per_task] for i in range(0, len(open_chunks), per_task)]
        yield from self._score_tasks(engine, sample_chunks, plan, finished, tasks)
        # A task whose actor died lost all its samples. One sample per task, only the sample that kills it is lost.
        lost = [[sample] for sample in samples if sample.id not in finished]
        yield from self._score_tasks(engine, lost, plan, finished, [[i] for i in range(len(lost))])
        for (sample,) in lost:
            if sample.id not in finished:
                yield error_score(Prepared(sample, fault=f"the actor that ran this sample died {RETRIES + 1} times"))

    def _score_tasks(
        self,
        engine: Engine,
        sample_chunks: Sequence[Sequence[Sample]],
        plan: ScoringPlan,
        finished: set[str],
        tasks: Sequence[Sequence[int]],
    ) -> Iterator[Score]:
        for row in self._map(_Scorer, "to score", engine, (sample_chunks, plan, frozenset(finished)), tasks):
            score = score_of(json.loads(row["row"]))
            if row["example"]:
                score = replace(score, example=example_from(row["example"]))
            finished.add(score.id)
            yield score

    def draw(
        self, engine: Engine, pairs: Sequence[tuple[Sample, Score]], settings: Settings
    ) -> Generator[Drawn | QvlAttnError, None, None]:
        """Draw one sample after another in one actor."""
        drawings: dict[int, Drawn | QvlAttnError] = {}
        for row in self._map(_Drawer, "to draw the gallery", engine, (pairs, settings), [list(range(len(pairs)))]):
            drawn = row["png"] and (_decode_png(row["png"]), example_from(row["example"]))
            drawings[row["place"]] = drawn or InputError(row["fault"])
        for place in range(len(pairs)):
            yield drawings.get(place, ModelError("its actor died"))

    def _map(
        self, actor: type, purpose: str, engine: Engine, work: object, tasks: Sequence[Sequence[int]]
    ) -> Iterator[Any]:
        """Yield the rows of the actors as they arrive.

        Args:
            actor: the class of the actors.
            purpose: what they do, for the user.
            engine: the model.
            work: the data that all tasks share.
            tasks: the indices of each task into `work`.
        """
        if not tasks:
            return
        ray = self._connect()
        gpus, size = self._gpus(ray), min(self.concurrency, len(tasks))
        actors = f"{size} actors" if size > 1 else "1 actor"
        LOG.info(f"Ray: {actors} {purpose}, with {gpus:g} GPUs each; the cluster has {_total(ray, 'GPU'):g}")
        work_ref = ray.put(work)
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        model = _Model(engine.checkpoint, engine.placement, engine.attn, offline, Path.cwd())
        items = ray.data.from_items([json.dumps(task) for task in tasks], override_num_blocks=len(tasks))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # for retries and restarts, until Ray 2.64 replaces them
            dataset = items.map_batches(
                actor,
                batch_size=1,
                # No task waits at a busy actor, because it would lose a retry whenever that actor dies.
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
                num_gpus=gpus or None,
                num_cpus=None if gpus else _cpus(ray, size),
                fn_constructor_args=(model, [work_ref]),
                max_task_retries=RETRIES,
                max_restarts=RESTARTS + (RETRIES + 1) * len(tasks),
            )
        with _ray_errors(ray):
            for row in dataset.iter_rows():
                if row["bug"]:
                    raise RuntimeError(f"in an actor of Ray:\n{row['bug']}")
                if row["failed"]:
                    raise ModelError(f"an actor of Ray: {row['failed']}")
                yield row

    def _gpus(self, ray: Any) -> float:
        """Return the GPUs per actor."""
        total = _total(ray, "GPU")
        if self.gpus_per_worker is None:
            return 1.0 if total else 0.0
        if self.gpus_per_worker > total and len(ray.nodes()) == 1:
            raise InputError(f"{argument('gpus_per_worker', self.gpus_per_worker)}: this machine has {total:g} GPUs")
        return self.gpus_per_worker

    def _connect(self) -> Any:
        """Return the module `ray`, connected, without log output and usage reports."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else Ray prints to stdout about actors that died
        import ray
        import ray.data

        if not ray.is_initialized():
            LOG.info(f"connecting to Ray ({os.environ.get('RAY_ADDRESS', 'this machine')})")
            with _ray_errors(ray), _keep_sigterm_handler(), suppress_stderr():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        # Ray Data logs a traceback for each task that fails for good; its samples become error rows here.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a task that fails for good must not stop the others
        return ray


@contextmanager
def _ray_errors(ray: Any) -> Iterator[None]:
    """Turn Ray's own errors into a `ModelError` of one line."""
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError, TimeoutError) as fault:
        message = " ".join(str(fault).split())[:200]
        raise ModelError(f"Ray: {message}", "see Ray's logs; run the same command to continue") from None


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _total(ray: Any, resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))


def _cpus(ray: Any, size: int) -> int:
    """Return the CPUs of an actor without a GPU: its share of the smallest machine. Torch uses as many threads."""
    machines = [node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(machines)) // ceil(size / len(machines)))


@dataclass(frozen=True)
class _Model:
    """What an actor needs to load the model of this process."""

    checkpoint: Checkpoint
    placement: Placement
    attn: str
    offline: bool
    folder: Path

    def load(self) -> Engine:
        """Return the engine with its weights loaded.

        Raises:
            ModelError: this machine has other files of the model.
        """
        os.chdir(self.folder)
        name, revision = self.checkpoint.name, self.checkpoint.revision
        from_hub = self.checkpoint.folder.name == revision  # a commit; the revision of a folder is a fingerprint
        checkpoint = find_checkpoint(name, revision if from_hub else None, offline=self.offline)
        if checkpoint.revision != revision:
            raise ModelError(f"{name} has other files on another machine of the cluster")
        engine = Engine(checkpoint, load_config(checkpoint), self.placement, self.attn)
        _ = engine.model
        return engine


class _Actor(ABC):
    """Loads the model once, and runs tasks; if it cannot load the model, every task returns the fault."""

    def __init__(self, model: _Model, work_refs: Sequence[Any]) -> None:
        import ray

        self.failed = ""
        try:
            self.engine = model.load()
            self.work = ray.get(work_refs[0])
        except (QvlAttnError, OSError) as fault:
            self.failed = str(fault)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        (task,) = batch["item"].tolist()
        rows: list[dict[str, Any]] = [{"failed": self.failed}] if self.failed else []
        if not rows:
            try:
                rows = list(self.answer(json.loads(task)))
            except Exception:
                rows = [{"bug": traceback.format_exc()}]
        return {name: [row.get(name, default) for row in rows] for name, default in self.columns.items()}

    columns: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def answer(self, task: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a task, which is a list of indices into `work`."""


class _Scorer(_Actor):
    columns: ClassVar[Mapping[str, Any]] = {"row": "", "example": b"", "failed": "", "bug": ""}

    def answer(self, task: Sequence[int]) -> Iterator[dict[str, Any]]:
        sample_chunks, plan, finished = self.work
        for score in score_chunks(self.engine, [sample_chunks[i] for i in task], plan, lambda: finished):
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

    def answer(self, task: Sequence[int]) -> Iterator[dict[str, Any]]:
        pairs, settings = self.work
        for place in task:
            sample, score = pairs[place]
            try:
                picture, example = draw_both(sample, score, ask_again(self.engine, sample, settings))
            except FAULTS as fault:
                yield {"place": place, "fault": str(fault)}
                continue
            yield {"place": place, "png": _encode_png(picture), "example": example_bytes(example)}


def _encode_png(pixels: Picture) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _decode_png(png: bytes) -> Picture:
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.array(image)
