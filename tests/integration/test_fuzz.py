"""A quick, seeded fuzz of everything that reads a user's file; `scripts/fuzz.py` does it at length."""

from __future__ import annotations

from types import SimpleNamespace

import fuzz as fuzz_script
import pytest

from qvl_attn.core.errors import InputError
from tests.helpers.fuzz import QUICK_INPUTS, fuzz, fuzz_modules

# A fault only if an input would never end: the machine may be as slow as it likes.
LIMIT_S = 120


@pytest.mark.parametrize("name", fuzz_modules())
def test_a_mutated_file_is_a_value_or_our_own_error(name):
    module = fuzz_modules()[name]
    inputs = getattr(module, "QUICK_INPUTS", QUICK_INPUTS)
    outcome = fuzz(module, inputs, limit_s=LIMIT_S)
    assert not outcome.faults, "\n".join(f"seed {seed}: {kind}\n{trace}" for seed, kind, trace in outcome.faults[:3])
    assert (outcome.inputs, outcome.values + outcome.own_errors) == (inputs, inputs)
    assert outcome.values, f"the mutations are too strong: {outcome}"


def _loader(act):
    return SimpleNamespace(NAME="made up", try_one=act)


def test_faults_are_told_from_our_own_errors_and_values(tmp_path):
    def act(rng, folder):
        assert list(folder.iterdir()) == []
        chance = rng.random()
        if chance < 0.4:
            raise InputError("no such thing")
        if chance < 0.8:
            raise KeyError("a bug")

    outcome = fuzz(_loader(act), 100, seed=7)
    assert min(outcome.values, outcome.own_errors, len(outcome.faults)) > 5
    assert outcome.values + outcome.own_errors + len(outcome.faults) == outcome.inputs == 100
    seed, kind, trace = outcome.faults[0]
    assert kind.startswith("KeyError: 'a bug' (")
    assert "a bug" in trace
    again = fuzz(_loader(act), 1, seed=seed)
    assert [fault[:2] for fault in again.faults] == [(seed, kind)], "the seed builds the same input"


def test_an_endless_loader_and_a_warning_are_faults():
    def endless(rng, folder):
        while True:
            try:
                folder.exists()
            except Exception:
                continue

    def warns(rng, folder):
        import warnings

        warnings.warn("on the user's terminal", RuntimeWarning, stacklevel=2)

    for act, kind in ((endless, "TooSlow: more than 0.1 s"), (warns, "RuntimeWarning")):
        assert [fault[1].startswith(kind) for fault in fuzz(_loader(act), 1, limit_s=0.1).faults] == [True]


def test_the_script_prints_a_line_a_loader_and_fails_on_a_fault(capsys, monkeypatch):
    import tests.helpers.fuzz.rows as rows

    assert fuzz_script.main(["--inputs", "3", "--only", "rows"]) == 0
    assert capsys.readouterr().out.startswith("rows: 3 inputs, ")

    def fails(rng, folder):
        raise KeyError("a bug")

    monkeypatch.setattr(rows, "try_one", fails)
    assert fuzz_script.main(["--inputs", "2", "--only", "rows", "--seed", "5"]) == 1
    out = capsys.readouterr().out
    assert "--only rows --seed 5 --inputs 1: KeyError" in out
    assert "--only rows --seed 6 --inputs 1: KeyError" in out
    assert "2 faults" in out
