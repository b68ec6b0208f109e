"""Deletion and insertion curves: orders, removed shares, areas, and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qvl_attn.attribution.faithfulness import (
    CONTROLS,
    FILLS,
    KINDS,
    RANDOM_ORDERS,
    STEPS,
    Curves,
    curves_from,
    curves_json,
    curves_of,
    removal_orders,
    removed_shares,
)

rng = np.random.default_rng(5)
NAMES = ("mean", "relative", *CONTROLS)


def some_curves() -> Curves:
    return Curves(NAMES, -rng.random((4, 2, 2, STEPS + 1)))


def test_figures_are_the_areas_under_straight_lines():
    first, last = -rng.random((2, 4, 2, 2, 1))
    curves = Curves(NAMES, first + (last - first) * np.linspace(0, 1, STEPS + 1))
    figures = curves.figures()
    assert list(figures) == list(NAMES)
    for n, name in enumerate(NAMES):
        want = {
            f"{kind}_{fill}": pytest.approx((first + last)[n, k, f, 0] / 2)
            for k, kind in enumerate(("deletion", "insertion"))
            for f, fill in enumerate(("blur", "mean"))
        }
        assert figures[name] == want
    assert curves.shares == pytest.approx(np.linspace(0, 1, STEPS + 1))


def test_curves_come_back_from_json_as_they_were():
    curves = some_curves()
    loaded = curves_from(json.loads(json.dumps(curves_json(curves), allow_nan=False)))
    assert loaded.names == curves.names
    assert np.array_equal(loaded.logprobs, curves.logprobs)
    assert loaded.figures() == curves.figures()


@pytest.mark.parametrize(
    ("names", "logprobs"),
    [
        (NAMES, np.zeros((3, 2, 2, STEPS + 1))),
        (NAMES, np.zeros((4, 2, 2, STEPS))),
        (NAMES, np.zeros((4, 2, 2, STEPS + 1), np.float32)),
        (NAMES, np.full((4, 2, 2, STEPS + 1), np.nan)),
        (NAMES, np.full((4, 2, 2, STEPS + 1), -np.inf)),
        (("mean", "mean", *CONTROLS), np.zeros((4, 2, 2, STEPS + 1))),
        (("random", "mean", *CONTROLS), np.zeros((4, 2, 2, STEPS + 1))),
        ((*CONTROLS, "mean", "relative"), np.zeros((4, 2, 2, STEPS + 1))),
        (("mean", "relative", "max", "uniform"), np.zeros((4, 2, 2, STEPS + 1))),
    ],
)
def test_invalid_curves_are_refused(names, logprobs):
    with pytest.raises(ValueError, match=r"names|logprobs"):
        Curves(names, logprobs)
    if logprobs.dtype == np.float64:
        with pytest.raises(ValueError, match=r"names|logprobs"):
            curves_from({"names": list(names), "logprobs": logprobs.tolist()})


def test_cells_are_removed_strongest_first():
    values = rng.permutation(30).astype(np.float32)
    orders = removal_orders([values, -values], 30, 0)
    assert values[orders[0]].tolist() == list(range(29, -1, -1))
    assert values[orders[1]].tolist() == list(range(30))
    assert orders.shape == (2 + RANDOM_ORDERS, 30)


def test_ties_are_random_and_the_same_in_every_map():
    values = np.repeat(np.float32([1, 3, 2]), 20)
    first, second = removal_orders([values, 2 * values], 60, 4)[:2]
    assert np.array_equal(first, second)
    assert [sorted(part) for part in first.reshape(3, 20)] == [[*range(20, 40)], [*range(40, 60)], [*range(20)]]
    assert first[:20].tolist() != sorted(first[:20])
    assert not np.array_equal(first, removal_orders([values], 60, 5)[0])


def test_random_orders_differ_and_depend_on_the_seed():
    orders = removal_orders([np.zeros(40, np.float32)], 40, 1)
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders.tolist()}) == 1 + RANDOM_ORDERS
    assert np.array_equal(removal_orders([], 40, 1), orders[1:])
    assert not np.array_equal(removal_orders([], 40, 2), orders[1:])


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((5, 1)), np.float32([0, 1, np.nan, 2, 3])])
def test_a_map_that_does_not_fit_is_refused(values):
    with pytest.raises(ValueError, match="a map of shape"):
        removal_orders([values.astype(np.float32)], 5, 0)


@pytest.mark.parametrize("cells", [3, 16, 32, 53])
def test_cells_are_removed_and_restored_one_after_the_other(cells):
    order = rng.permutation(cells)
    shares = removed_shares(order[None])
    assert shares.shape == (2, 2, STEPS + 1, cells)
    assert shares.dtype == np.float32
    for step in range(STEPS + 1):
        count = int(step * cells / STEPS + 0.5)
        want = np.zeros(cells)
        want[order[:count]] = 1
        assert np.array_equal(shares[0, 0, step], want)
        assert np.array_equal(shares[0, 1, step], 1 - want)
        assert shares[1, 0, step].tolist() == [step / STEPS] * cells
        assert shares[1, 1, step].tolist() == [1 - step / STEPS] * cells


def test_random_orders_become_their_mean_curve():
    logprobs = -rng.random((3 + RANDOM_ORDERS, len(KINDS), len(FILLS), STEPS + 1))
    curves = curves_of(["a", "b"], logprobs)
    assert curves.names == ("a", "b", "random", "uniform")
    assert np.array_equal(curves.logprobs[:2], logprobs[:2])
    assert curves.logprobs[2] == pytest.approx(sum(logprobs[2:-1]) / RANDOM_ORDERS)
    assert np.array_equal(curves.logprobs[3], logprobs[-1])
