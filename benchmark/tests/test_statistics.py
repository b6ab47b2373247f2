# SPDX-License-Identifier: Apache-2.0
"""Medians, intervals and ratios on samples with known answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmark.core import comparison, statistics


@pytest.mark.parametrize(
    ("samples", "expected"), [([5.0], 5.0), ([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.5)]
)
def test_median(samples: list[float], expected: float) -> None:
    assert statistics.median(samples) == expected
    assert statistics.estimate(samples).median == expected


def test_interval_of_equal_samples_has_no_width() -> None:
    found = statistics.estimate([7.0] * 5)
    assert (found.low, found.median, found.high) == (7.0, 7.0, 7.0)
    assert found.relative_spread == 0.0


def test_interval_stays_within_the_samples_and_repeats() -> None:
    samples = [1.0, 2.0, 3.0, 4.0, 10.0]
    found = statistics.estimate(samples)
    assert 1.0 <= found.low <= found.median == 3.0 <= found.high <= 10.0
    assert statistics.estimate(samples) == found


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        found = statistics.estimate(list(generator.normal(10.0, 1.0, size=25)))
        hits += found.low <= 10.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_ratio_of_clearly_different_samples_is_significant() -> None:
    found = statistics.ratio([10.0, 10.2, 9.8], [2.0, 2.1, 1.9])
    assert found.value == 5.0
    assert found.low < 5.0 < found.high
    assert found.low > 4.5
    assert found.significant


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [
        ([1.0, 2.0, 3.0], [1.5, 2.0, 2.5]),  # the interval contains 1
        ([10.0], [1.0, 1.0]),  # one sample shows no spread
        ([5.0, 5.0], [5.0, 5.0]),
    ],
)
def test_ratio_that_cannot_be_told_from_one(
    numerator: list[float], denominator: list[float]
) -> None:
    assert not statistics.ratio(numerator, denominator).significant


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_bad_samples_are_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        statistics.estimate(samples)


def test_ratio_refuses_a_denominator_of_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        statistics.ratio([1.0], [0.0])


def test_how_often_equal_measurements_lie_apart() -> None:
    places = range(6)
    orders = list(itertools.combinations(places, 3))
    apart = sum(max(one) < 3 or min(one) >= 3 for one in orders) / len(orders)
    assert apart == pytest.approx(2 / 20)
    assert statistics.can_tell_apart(3, 3, level=1 - apart - 1e-9)
    assert not statistics.can_tell_apart(3, 3, level=1 - apart + 1e-9)
    # The median lies outside the range of n samples in 2 / 2**n of all cases.
    n = statistics.LEAST_FOR_INTERVAL
    assert 2 / 2**n <= 1 - statistics.LEVEL < 2 / 2 ** (n - 1)


def test_few_runs_never_cry_wolf(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = [comparison.Key("test", "qdp", case) for case in ("one", "two")]
    before, after = ({keys[0]: [time] * 3, keys[1]: [1.0] * 3} for time in (1.0, 2.0))
    found = {one.key: one for one in comparison.compare(before, after)}
    assert found[keys[0]].ratio.significant
    assert found[keys[0]].word == "not significant", "three a side lie apart in one of ten"
    paths = []
    for time in (1.0, 2.0):
        line = {"contender": "qdp", "encoding": "angle", "rows": 1, "seconds": [time] * 3}
        paths.append(tmp_path / f"encoding_rates_{len(paths)}_0.jsonl")
        lines = [{"record": "run", "cpu": "x"}, line]
        paths[-1].write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert comparison.main(*paths, fail_on_slower=True) == 0
    assert "1 of them have too few runs to show anything" in capsys.readouterr().out
    assert statistics.can_tell_apart(4, 4)
