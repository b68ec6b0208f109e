"""Options and messages of a check with Ray, without starting Ray."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.ray_workers import RayWorkers
from tests.evaluation.test_ray_workers import WITH_RAY, local, needs_ray, write_data

__all__ = ["local"]  # a fixture


@pytest.mark.parametrize("words", [("--concurrency", "2"), ("--gpus-per-worker", "0.5"), ("--concurrency", "1")])
def test_options_of_ray_without_the_engine_are_refused(local, tmp_path, words):
    done = local("nowhere.jsonl", tmp_path / "run", *words)
    assert done.exit_code == 2
    assert "--concurrency and --gpus-per-worker are for --engine ray" in " ".join(done.stderr.split())


@needs_ray
@pytest.mark.parametrize("gpus", [1.5, 2.5, 64.5, 65, -1, -0.5, float("nan"), float("inf"), -float("inf")])
def test_invalid_gpus_per_worker(gpus):
    with pytest.raises(InputError, match=r"`gpus_per_worker=.*`: want a whole number"):
        RayWorkers(1, gpus)


@needs_ray
@pytest.mark.parametrize("gpus", [None, 0, 0.25, 1, 2, 64])
def test_valid_gpus_per_worker(gpus):
    assert RayWorkers(3, gpus).gpus_per_worker == gpus


@needs_ray
@pytest.mark.parametrize("concurrency", [0, -1])
def test_invalid_concurrency(concurrency):
    with pytest.raises(InputError, match="`concurrency="):
        RayWorkers(concurrency)


@needs_ray
def test_invalid_gpus_per_worker_is_an_error_of_one_line(local, tmp_path):
    done = local(write_data(tmp_path, 1, 1), tmp_path / "run", *WITH_RAY, "--gpus-per-worker", 2.5, "--quiet")
    assert done.exit_code == 2
    assert done.stderr == ("error: --gpus-per-worker 2.5: want a whole number, or a fraction between 0 and 1\n")
    assert not (tmp_path / "run").exists()


@needs_ray
def test_ray_does_not_calibrate(local, engine, tmp_path):
    done = local("nowhere.jsonl", tmp_path / "run", *WITH_RAY, "--calibrate", tmp_path / "p.json")
    assert done.exit_code == 2
    assert "--calibrate keeps the maps of all heads in one process" in " ".join(done.stderr.split())
    from qvl_attn import Analyzer, load_samples

    samples = load_samples(write_data(tmp_path, 1, 1))
    with pytest.raises(InputError, match="in one process"):
        Analyzer(engine, RayWorkers()).check(samples, tmp_path / "run", calibrate=tmp_path / "p.json")
    assert not (tmp_path / "run").exists()


def test_without_ray_the_error_names_the_extra_before_anything_is_read(local, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks a module that cannot be imported
    assert find_spec("ray") is None
    done = local("nowhere.jsonl", tmp_path / "run", *WITH_RAY)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: --engine ray needs the library ray",
        "hint: pip install 'qvl-attn[ray]'",
    ]
    with pytest.raises(InputError, match=r"qvl-attn\[ray\]"):
        RayWorkers()
