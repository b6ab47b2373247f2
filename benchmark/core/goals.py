# SPDX-License-Identifier: Apache-2.0
"""The design's goals, and what a file of records says of those of the data plane.

A goal of gradients is a ratio to the rival that the design names for a size; whoever reports it
says who else was faster. A goal of the data plane is a share of what the machine can do, a ratio
to the best rival, or a bound on memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.core import statistics
from benchmark.core.ratios import interval_words


@dataclass(frozen=True)
class Goal:
    """A figure to reach: how many times a rival's time is QDP's, at one size."""

    n_qubits: int
    method: str
    observable: str
    rival: str
    times: float


# The second is the report's headline, against the fastest rival there is.
GOALS = (
    Goal(12, "adjoint", "sum-z", "jax", 60),
    Goal(12, "adjoint", "sum-z", "lightning-cpp", 60),
    Goal(12, "parameter-shift", "sum-z", "scaluq", 100),
    Goal(12, "parameter-shift", "sum-z", "lightning-shift", 800),
    Goal(12, "parameter-shift", "z0", "pennylane", 500),
    Goal(4, "adjoint", "sum-z", "numpy", 25),
    Goal(8, "adjoint", "sum-z", "numpy", 40),
    Goal(10, "adjoint", "sum-z", "numpy", 50),
    Goal(14, "adjoint", "sum-z", "lightning-cpp", 30),
    Goal(16, "adjoint", "sum-z", "lightning-cpp", 20),
)
# How many times the best rival's time an encoding should be, where no bandwidth is its goal.
_ENCODING_TIMES = {"angle": 10, "iqp-embedding": 25}

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A goal of the data plane, the record's line that it was measured by, and what that says."""

    what: str
    goal: str
    measured: str
    reached: bool
    line: Line


def time_over(line: Line, other: Line) -> str:
    """Return how many times the other's time a row takes, with its interval."""
    above, below = ([one / given["rows"] for one in given["seconds"]] for given in (line, other))
    return interval_words(statistics.ratio(above, below))


def best_rival(lines: Sequence[Line], own: Line, *same: str) -> Line:
    """Return the fastest line of another contender that has these fields in common."""
    rivals = [
        line
        for line in lines
        if line["record"] == own["record"]
        and not line["contender"].startswith("qdp")
        and all(line[name] == own[name] for name in same)
    ]
    return min(rivals, key=lambda line: line["us_per_row"])


def best_triad(lines: Sequence[Line]) -> float:
    """Return the bytes a second of the machine's best triad over large arrays."""
    rates = [line["triad_bytes_per_s"].values() for line in lines if line["record"] == "machine"]
    return max(float(rate) for found in rates for rate in found)


def data_plane(lines: Sequence[Line]) -> list[Outcome]:
    """Return the outcomes that the lines of one run of benchmark.encoding_rates give."""
    triad = best_triad(lines)
    found = []
    for line in lines:
        kind, own = line["record"], line.get("contender") == "qdp"
        if kind == "encoding" and own and line["n_qubits"] >= 12:
            what = f"{line['encoding']} encoding, n = {line['n_qubits']}"
            if line["encoding"] == "amplitude":
                share = line["bytes_per_s"] / triad
                goal = "80 % of the best triad"
                found.append(Outcome(what, goal, f"{share:.0%}", share >= 0.8, line))
                continue
            times = _ENCODING_TIMES[line["encoding"]]
            rival = best_rival(lines, line, "encoding", "n_qubits")
            reached = rival["us_per_row"] / line["us_per_row"] >= times
            goal = f"{times} times the best rival ({rival['contender']})"
            found.append(Outcome(what, goal, time_over(rival, line), reached, line))
        if kind == "stream" and "fraction_of_ideal" in line:
            share = line["fraction_of_ideal"]
            what = f"{line['format']} to states, n = {line['n_qubits']}"
            goal = "80 % of reading and then encoding"
            found.append(Outcome(what, goal, f"{share:.0%}", share >= 0.8, line))
        if kind == "kernel" and own:
            rival = best_rival(lines, line, "dtype")
            share = line["us_per_row"] / rival["us_per_row"]
            what = f"fidelity kernel, {line['dtype']}, {line['rows']} states"
            goal = f"at most 0.6 of the time of the fastest ({rival['contender']})"
            found.append(Outcome(what, goal, f"{share:.2f}", share <= 0.6, line))
        if kind == "large-stream":
            mib = line["peak_anonymous_bytes"] / 2**20
            what = f"{line['file_bytes'] / 2**30:.0f} GiB streamed, n = {line['n_qubits']}"
            goal = "at most 1 GiB of anonymous memory"
            found.append(Outcome(what, goal, f"{mib:.0f} MiB", mib <= 1024, line))
    return found
