# SPDX-License-Identifier: Apache-2.0
"""What several sections of the report are made of: points of a sweep, their table, their chart."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.core.contenders import OWN
from benchmark.core.document import Chart, Series, Table
from benchmark.core.plots import AXES
from benchmark.core.published.library import Recorded
from benchmark.core.records import Leg
from benchmark.core.report import fastest_rival, find


def largest(legs: Sequence[Leg]) -> list[Leg]:
    """Return the legs at the most samples that QDP was timed at."""
    most = max((leg.n_samples for leg in legs if leg.contender in OWN and leg.ok), default=0)
    return [leg for leg in legs if leg.n_samples == most]


def unique(rows: Sequence[list[str]]) -> list[list[str]]:
    """Return the rows without repetitions: crossing sweeps share their points."""
    return [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]


def points(legs: Sequence[Leg]) -> list[list[Leg]]:
    """Return the legs of each point."""
    found: dict[tuple[str, str, int], list[Leg]] = {}
    for leg in legs:
        found.setdefault((leg.sweep, repr(leg.case), leg.n_samples), []).append(leg)
    return list(found.values())


def select(recorded: Recorded, sweep: str, what: str) -> list[Leg]:
    """Return the legs of one series; ``what`` is an encoding or "gradient"."""
    return [
        leg
        for leg in recorded.legs
        if leg.sweep == sweep and what in (leg.case.get("encoding"), leg.case["kind"])
    ]


def sweep_chart(name: str, title: str, legs: Sequence[Leg], sweep: str, *, latency: bool) -> Chart:
    """Return throughput, or latency, against what a sweep varies."""
    words, number = AXES[sweep]
    series = []
    for contender in dict.fromkeys(leg.contender for leg in legs):
        own = sorted((leg for leg in legs if leg.ok and leg.contender == contender), key=number)
        if not own:
            continue
        scale = [leg.n_samples for leg in own]
        totals = [leg.total for leg in own]
        if latency:
            y = [total.median / n for total, n in zip(totals, scale, strict=True)]
            low = [total.low / n for total, n in zip(totals, scale, strict=True)]
            high = [total.high / n for total, n in zip(totals, scale, strict=True)]
        else:
            y = [1e3 * n / total.median for total, n in zip(totals, scale, strict=True)]
            low = [1e3 * n / total.high for total, n in zip(totals, scale, strict=True)]
            high = [1e3 * n / total.low for total, n in zip(totals, scale, strict=True)]
        series.append(Series(own[0].title, [number(leg) for leg in own], y, low, high))
    return Chart(
        name,
        title,
        words,
        "Latency (ms a sample)" if latency else "Throughput (samples/s)",
        series,
        log_x=sweep in ("samples", "batch"),
    )


def rate_table(recorded: Recorded, legs: Sequence[Leg], sweep: str) -> Table:
    """Return throughputs of QDP, PennyLane and the fastest rival."""
    rows = []
    for found in points(legs):
        own = find(found, "qdp")
        names = ("pennylane", "lightning", "lightning-adjoint")
        rival = next((leg for name in names if (leg := find(found, name)) is not None), None)
        fastest = fastest_rival(found)
        first = found[0]
        place = (
            recorded.samples(first)
            if sweep in ("samples", "batch")
            else recorded.of(first, f"{AXES[sweep][1](first):g}", f"case, {sweep}")
        )
        rows.append(
            [
                place,
                recorded.rate(own),
                recorded.rate(rival),
                recorded.ratio(rival, own),
                fastest.title if fastest else "-",
                recorded.ratio(fastest, own),
            ]
        )
    head = {"batch": "rows in a call"}.get(sweep, sweep).capitalize()
    return Table(
        [head, "QDP (s/s)", "PennyLane (s/s)", "Speedup", "Fastest rival", "Speedup over it"], rows
    )
