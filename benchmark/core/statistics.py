# SPDX-License-Identifier: Apache-2.0
"""Medians with bootstrap intervals, and ratios that are only claimed where they are significant.

A benchmark yields few samples, so nothing here assumes a distribution: the interval of a median
is the percentile bootstrap, drawn from a fixed seed so that a record always gives the same report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
# The range of this many samples holds the median in 95 of 100 cases: 1 - 2 / 2**6.
LEAST_FOR_INTERVAL = 6
_SEED = 20260115


@dataclass(frozen=True)
class Estimate:
    """A median and its bootstrap interval, in the unit of the samples."""

    median: float
    low: float
    high: float
    n_samples: int

    @property
    def relative_spread(self) -> float:
        """Half the width of the interval over the median; 0.0 for a single sample."""
        return 0.0 if self.median == 0 else (self.high - self.low) / (2 * self.median)


@dataclass(frozen=True)
class Ratio:
    """How many times larger one median is than another, with its bootstrap interval.

    ``significant`` is False where the interval contains 1, or where either side has fewer than
    two samples, since a single measurement shows no spread.
    """

    value: float
    low: float
    high: float
    significant: bool


def _checked(samples: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected one or more samples, got shape {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError("expected finite samples, got NaN or infinity among them")
    return values


def _bootstrap_medians(
    values: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    draws = generator.integers(0, values.size, size=(RESAMPLES, values.size))
    medians: NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians


def median(samples: Sequence[float]) -> float:
    """Return the median; the mean of the two middle samples where their number is even.

    >>> median([3.0, 1.0, 2.0])
    2.0
    """
    return float(np.median(_checked(samples)))


def estimate(samples: Sequence[float], level: float = LEVEL) -> Estimate:
    """Return the median with its percentile-bootstrap interval.

    >>> estimate([2.0, 2.0, 2.0])
    Estimate(median=2.0, low=2.0, high=2.0, n_samples=3)
    """
    values = _checked(samples)
    medians = _bootstrap_medians(values, np.random.default_rng(_SEED))
    tail = (1 - level) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(float(np.median(values)), float(low), float(high), values.size)


def can_tell_apart(first: int, second: int, level: float = LEVEL) -> bool:
    """Return whether so many samples on either side can differ significantly at all.

    Two sets of equal measurements lie wholly apart in 2 of C(first + second, first) orders: where
    that is more often than the level allows, no difference is too large to be chance.

    >>> can_tell_apart(3, 3), can_tell_apart(4, 4), can_tell_apart(4, 4, level=0.99)
    (False, True, False)
    """
    return 2 / math.comb(first + second, first) <= 1 - level


def chance_of_ranks(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how often equal measurements lie as far apart in rank: Mann and Whitney's exact test.

    Raises ImportError without SciPy, which the extra ``benchmark`` has.

    >>> chance_of_ranks([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), chance_of_ranks([1.0], [2.0])
    (0.1, 1.0)
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(f"{error}; install the extra [benchmark]") from error
    found = stats.mannwhitneyu(_checked(first), _checked(second), method="exact")
    return float(found.pvalue)


def ratio(numerator: Sequence[float], denominator: Sequence[float], level: float = LEVEL) -> Ratio:
    """Return median(numerator) / median(denominator) with its bootstrap interval.

    >>> ratio([10.0, 10.0, 10.0], [2.0, 2.0, 2.0])
    Ratio(value=5.0, low=5.0, high=5.0, significant=True)
    """
    above, below = _checked(numerator), _checked(denominator)
    if np.any(below <= 0):
        raise ValueError("expected positive samples in the denominator of a ratio")
    generator = np.random.default_rng(_SEED)
    ratios = _bootstrap_medians(above, generator) / _bootstrap_medians(below, generator)
    tail = (1 - level) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, [tail, 1 - tail]))
    enough = min(above.size, below.size) >= 2
    significant = enough and not low <= 1.0 <= high
    return Ratio(float(np.median(above) / np.median(below)), low, high, significant)
