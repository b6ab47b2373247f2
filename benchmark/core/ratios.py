# SPDX-License-Identifier: Apache-2.0
"""Which leg is QDP's and which the fastest rival's, and the ratio of the two in words.

What console, pictures and report say alike of legs; the statistics are core/statistics.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.core import statistics
from benchmark.core.contenders import OWN
from benchmark.core.records import Leg


def find(legs: Sequence[Leg], contender: str) -> Leg | None:
    """Return the leg of a contender where it was timed, else None."""
    return next((leg for leg in legs if leg.contender == contender and leg.ok), None)


def fastest_rival(legs: Sequence[Leg], rule: str | None = None) -> Leg | None:
    """Return the fastest timed leg that is not QDP's, of one gradient rule if given."""
    rivals = [
        leg
        for leg in legs
        if leg.ok and leg.contender not in OWN and (rule is None or leg.rule == rule)
    ]
    return min(rivals, key=lambda leg: leg.total.median, default=None)


def by_point(legs: Sequence[Leg]) -> list[list[Leg]]:
    """Return the legs of each point of a sweep, in the order of the records."""
    found: dict[tuple[str, str, int], list[Leg]] = {}
    for leg in legs:
        found.setdefault(leg.point, []).append(leg)
    return list(found.values())


def speedup(rival: Leg, own: Leg) -> statistics.Ratio:
    """Return how many times QDP's time the rival takes."""
    return statistics.ratio(rival.totals, own.totals)


def ratio_words(rival: Leg, own: Leg) -> str:
    """Say how the two compare, with the interval, or that they cannot be told apart."""
    found = speedup(rival, own)
    if min(len(rival.totals), len(own.totals)) < 2:
        return f"{times(found.value)} (single runs, no interval)"
    return interval_words(found)


def interval_words(ratio: statistics.Ratio) -> str:
    """Write a ratio with its interval, or the interval alone where it holds one."""
    interval = f"{times(ratio.low)} to {times(ratio.high)}"
    return f"{times(ratio.value) if ratio.significant else 'not significant'} ({interval})"


def times(ratio: float) -> str:
    """Write a ratio with about three digits.

    >>> times(2.4567), times(33.33), times(1234.5)
    ('2.46x', '33.3x', '1,234x')
    """
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x" if ratio < 100 else f"{ratio:,.0f}x"
