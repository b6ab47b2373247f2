# SPDX-License-Identifier: Apache-2.0
"""What several sections of the report are made of: legs of a series, and the table of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.core.contenders import OWN
from benchmark.core.document import Table
from benchmark.core.plots import AXES
from benchmark.core.published.library import Recorded
from benchmark.core.ratios import by_point, fastest_rival, find
from benchmark.core.records import Leg

# Whose rates a table shows beside QDP's: the first is PennyLane's, by which the speedup goes.
NAMED = {
    "encoding": ("pennylane", "qiskit", "qiskit-aer"),
    "gradient": ("lightning-adjoint",),
}


def largest(legs: Sequence[Leg]) -> list[Leg]:
    """Return the legs at the most samples that QDP was timed at."""
    most = max((leg.n_samples for leg in legs if leg.contender in OWN and leg.ok), default=0)
    return [leg for leg in legs if leg.n_samples == most]


def select(recorded: Recorded | None, sweep: str, what: str) -> list[Leg]:
    """Return the legs of one series; ``what`` is an encoding or "gradient"."""
    return [
        leg
        for leg in (recorded.legs if recorded else ())
        if leg.sweep == sweep and what in (leg.case.get("encoding"), leg.case["kind"])
    ]


def rate_table(recorded: Recorded, legs: Sequence[Leg], sweep: str) -> Table:
    """Return throughputs of QDP, the rivals named and the fastest one, a row a point."""
    named = NAMED[legs[0].case["kind"]]
    titles = {leg.contender: leg.title for leg in legs}
    first, *rest = [titles.get(name, name) for name in named]
    rows = []
    for found in by_point(legs):
        own, fastest = find(found, "qdp"), fastest_rival(found)
        rival, *others = [find(found, name) for name in named]
        place = (
            recorded.samples(found[0])
            if sweep in ("samples", "batch")
            else recorded.of(found[0], f"{AXES[sweep][1](found[0]):g}", f"case, {sweep}")
        )
        rows.append(
            [
                place,
                recorded.rate(own),
                recorded.rate(rival),
                recorded.ratio(rival, own),
                *(recorded.rate(leg) for leg in others),
                fastest.title if fastest else "-",
                recorded.ratio(fastest, own),
            ]
        )
    head = {"batch": "rows in a call"}.get(sweep, sweep).capitalize()
    return Table(
        [
            head,
            "QDP (s/s)",
            f"{first} (s/s)",
            "Speedup",
            *(f"{title} (s/s)" for title in rest),
            "Fastest rival",
            "Speedup over it",
        ],
        rows,
    )
