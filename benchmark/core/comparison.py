# SPDX-License-Identifier: Apache-2.0
"""Tells two sets of records apart: what became faster, what slower, and what nobody can say.

Measurements are matched by benchmark, case, samples and contender. A difference counts where the
bootstrap interval of the ratio of medians leaves out one, at a level corrected for the number of
comparisons (Bonferroni), and where there are enough runs for that level: three on either side lie
apart by chance in one of ten. So of twenty comparisons of the same speed about one cries wolf, as
far as runs of one process are independent; a machine that changed between the sets is not seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.core import statistics
from benchmark.core.records import Leg, read_records

EXIT_SLOWER = 3
# What tells one measurement of the scripts without legs from another.
_NAMES = ("record", "kind", "encoding", "format", "dtype", "n_qubits", "precision", "threads")
_LEG_FILES = ("gradient_benchmark", "scaling_benchmark")

Key = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One measurement in both sets; ``ratio`` is time before over time after."""

    key: Key
    ratio: statistics.Ratio
    enough_runs: bool = True

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance."""
        return self.enough_runs and self.ratio.significant

    @property
    def word(self) -> str:
        """Return faster, slower, or not significant."""
        if not self.significant:
            return "not significant"
        return "faster" if self.ratio.value > 1 else "slower"


def measurements(path: Path) -> tuple[dict[Key, list[float]], set[str]]:
    """Return the times a sample of every measurement in a file or folder, and its processors."""
    if not path.exists():
        raise ValueError(f"expected a file or folder of records, got {path}, which is not there")
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"expected .jsonl files in {path}, got none")
    found: dict[Key, list[float]] = {}
    machines: set[str] = set()
    for one in paths:
        name = one.stem.rsplit("_", 2)[0]
        if name in _LEG_FILES:
            run, legs = read_records(one)
            machines.add(str(run.get("environment", {}).get("cpu")))
            for leg in legs:
                if leg.ok:
                    found[leg_key(name, run, leg)] = [time / leg.n_samples for time in leg.totals]
            continue
        for line in map(json.loads, one.read_text(encoding="utf-8").splitlines()):
            if "cpu" in line:
                machines.add(str(line["cpu"]))
            if isinstance(line.get("seconds"), list) and "rows" in line:
                key = (name, str(line.get("contender", "qdp")))
                key += tuple(str(line[field]) for field in _NAMES if field in line)
                found[key] = [seconds / line["rows"] for seconds in line["seconds"]]
    return found, machines


def leg_key(name: str, run: Mapping[str, Any], leg: Leg) -> Key:
    """Return what tells a leg from others: its case without the parameters' values."""
    case = dict(leg.case or run["case"])
    case.pop("parameters", None)
    words = " ".join(f"{field}={value}" for field, value in sorted(case.items()))
    return name, leg.contender, leg.sweep, words, f"samples={leg.n_samples}"


def compare(
    before: Mapping[Key, list[float]], after: Mapping[Key, list[float]]
) -> list[Difference]:
    """Return the measurements that are in both, the largest differences first."""
    shared = [key for key in before if key in after]
    level = 1 - (1 - statistics.LEVEL) / max(1, len(shared))
    found = [
        Difference(
            key,
            statistics.ratio(before[key], after[key], level=level),
            statistics.can_tell_apart(len(before[key]), len(after[key]), level),
        )
        for key in shared
    ]
    return sorted(found, key=lambda one: (not one.significant, one.ratio.value))


def main(before: Path, after: Path, fail_on_slower: bool = False) -> int:
    """Print the comparison; return the exit status."""
    old, old_machines = measurements(before)
    new, new_machines = measurements(after)
    found = compare(old, new)
    if not found:
        raise ValueError(
            f"expected measurements that are in both {before.name} and {after.name}, got none"
        )
    if old_machines != new_machines:
        print(
            f"The processors differ ({', '.join(sorted(old_machines))}; "
            f"{', '.join(sorted(new_machines))}): so may the times for that reason alone."
        )
    for one in found:
        interval = f"{one.ratio.low:.3g} to {one.ratio.high:.3g}"
        print(f"{one.word:16s}{one.ratio.value:8.3g}x ({interval})  {' '.join(one.key)}")
    counts = {
        word: sum(one.word == word for one in found)
        for word in ("faster", "slower", "not significant")
    }
    missing = len(old) + len(new) - 2 * len(found)
    print(
        f"{len(found)} measurements in both: "
        + ", ".join(f"{number} {word}" for word, number in counts.items())
        + f"; {missing} in one only"
    )
    few = sum(not one.enough_runs for one in found)
    if few:
        level = 1 - (1 - statistics.LEVEL) / len(found)
        least = next(runs for runs in range(2, 99) if statistics.can_tell_apart(runs, runs, level))
        print(
            f"{few} of them have too few runs to show anything: among {len(found)} measurements "
            f"each side needs {least} (--runs {least})"
        )
    if fail_on_slower and counts["slower"]:
        print(f"error: {counts['slower']} measurements are slower", file=sys.stderr)
        return EXIT_SLOWER
    return 0
