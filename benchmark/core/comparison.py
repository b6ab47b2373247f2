# SPDX-License-Identifier: Apache-2.0
"""Tells two sets of records apart: what became faster, what slower, and what nobody can say.

Measurements are matched by benchmark, contender, case, data set and samples. A difference counts
where the rank sums of the raw times say so (Mann and Whitney's exact test) at a level corrected for
the number of comparisons (Bonferroni): one run of the command in twenty cries wolf, as far as runs
of one process are independent. With too few runs nothing can reach that level. The ratio of medians
has its bootstrap interval of 95 %, uncorrected. Rivals are the control: where their times moved as
well, the machine did.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.core import statistics
from benchmark.core.ratios import times
from benchmark.core.records import Leg, read_lines, read_records
from benchmark.core.training import epoch_seconds

EXIT_SLOWER = 3
_LEG_FILES = ("gradient_benchmark", "scaling_benchmark")
# What a line without legs says of its outcome or its machine, and not of what was measured.
_OUTCOMES = (
    "contender",
    "calls",
    "operations_per_row",
    "instruction_set",
    "decision",
    "reason",
    "best",
    "extrapolated",
)
# Legs of QDP that the data plane's records name by what they do.
_OWN_STEPS = ("encode", "stream", "re-read", "verify", "hit to first batch")
# A shift of the rivals' median from which the machine is said to have changed.
_DRIFT = 0.05


@dataclass(frozen=True)
class Key:
    """What was measured: by which benchmark, of whom, and the words that tell it from others."""

    benchmark: str
    contender: str
    case: str

    @property
    def own(self) -> bool:
        """Whether the contender is QDP's; all others are the control."""
        return self.contender.lower().startswith("qdp") or self.contender in _OWN_STEPS


@dataclass(frozen=True)
class Difference:
    """One measurement in both sets; ``ratio`` is time before over time after.

    ``significant`` is whether the difference is more than chance, ``enough_runs`` whether any could
    have been.
    """

    key: Key
    ratio: statistics.Ratio
    significant: bool
    enough_runs: bool = True

    @property
    def word(self) -> str:
        """Return faster, slower, or not significant."""
        if not self.significant:
            return "not significant"
        return "faster" if self.ratio.value > 1 else "slower"


Measurements = dict[Key, list[float]]


def measurements(path: Path) -> tuple[Measurements, set[str]]:
    """Return the times a sample of every measurement in a file or folder, and its processors."""
    if not path.exists():
        raise ValueError(f"expected a file or folder of records, got {path}, which is not there")
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"expected .jsonl files in {path}, got none")
    found: Measurements = {}
    machines: set[str] = set()
    for one in paths:
        name = one.stem.rsplit("_", 2)[0]
        run = read_lines(one)[0]
        machines.add(str(run.get("environment", run).get("cpu")))
        taken: Measurements = {}
        for key, seconds in _legs(name, one) if name in _LEG_FILES else _lines(name, one):
            taken.setdefault(key, []).extend(seconds)
        found |= taken  # the newer file is the measurement
    return found, machines


def _legs(name: str, path: Path) -> Iterator[tuple[Key, list[float]]]:
    """Yield the times a sample of a file of legs."""
    run, legs = read_records(path)
    seen = set()
    for leg in legs:
        key = leg_key(name, run, leg)
        if leg.ok and key not in seen:  # crossing sweeps note a point twice
            seen.add(key)
            yield key, [time / leg.n_samples for time in leg.totals]


def leg_key(name: str, run: Mapping[str, Any], leg: Leg) -> Key:
    """Return what tells a leg from others: its case without the parameters' values."""
    case = dict(leg.case or run["case"])
    case.pop("parameters", None)
    case |= {"samples": leg.n_samples, "dataset": run["dataset"]["name"]}
    return Key(name, leg.contender, _words(case))


def _lines(name: str, path: Path) -> Iterator[tuple[Key, list[float]]]:
    """Yield the times a row, or an epoch, of a file of other lines."""
    run, *lines = read_lines(path)
    for line in lines:
        if name == "training_benchmark":
            if line["kind"] == "training" and line["status"] == "ok":
                case = line["case"] | {"kind": "epoch", "dataset": run["dataset"]["name"]}
                yield Key(name, line["contender"], _words(case)), epoch_seconds(line)
            continue
        if "seconds" not in line or "rows" not in line:
            continue
        case = {
            field: value
            for field, value in line.items()
            if isinstance(value, str | int)
            and field not in _OUTCOMES
            and not field.endswith("_bytes")
        }
        contender = str(line.get("contender") or case.pop("what", "qdp"))
        plans = line["seconds"] if isinstance(line["seconds"], dict) else {"": line["seconds"]}
        for plan, seconds in plans.items():
            words = _words(case | ({"plan": plan} if plan else {}))
            yield Key(name, contender, words), [one / line["rows"] for one in seconds]


def _words(case: Mapping[str, Any]) -> str:
    """Return a case in words: what it is first, then its sizes."""
    text = {field: value for field, value in case.items() if isinstance(value, str)}
    sizes = {field: value for field, value in case.items() if field not in text}
    dataset = text.pop("dataset", None)
    words = [*text.values(), *(f"{field}={value}" for field, value in sizes.items())]
    return " ".join([*words, *([f"of {dataset}"] if dataset else [])])


def compare(
    before: Mapping[Key, list[float]], after: Mapping[Key, list[float]]
) -> list[Difference]:
    """Return the measurements that are in both: slower ones first, then faster, then the rest."""
    shared = [key for key in before if key in after]
    allowed = (1 - statistics.LEVEL) / max(1, len(shared))
    found = []
    for key in shared:
        pair = before[key], after[key]
        chance = statistics.chance_of_ranks(*pair)
        enough = statistics.can_tell_apart(len(pair[0]), len(pair[1]), 1 - allowed)
        found.append(Difference(key, statistics.ratio(*pair), chance <= allowed, enough))
    return sorted(found, key=lambda one: (not one.significant, one.ratio.value))


def main(
    before: Path, after: Path, *, fail_on_slower: bool = False, everything: bool = False
) -> int:
    """Print the comparison, of what is not significant only on demand; return the exit status."""
    old, old_machines = measurements(before)
    new, new_machines = measurements(after)
    found = compare(old, new)
    if not found:
        raise ValueError(
            f"expected measurements that are in both {before.name} and {after.name}, got none"
        )
    print("Time before over time after, median and interval: above 1 the second set is faster.")
    if old_machines != new_machines:
        print(
            f"The processors differ ({', '.join(sorted(old_machines))}; "
            f"{', '.join(sorted(new_machines))}): so may the times for that reason alone."
        )
    own = [one for one in found if one.key.own]
    rivals = [one for one in found if not one.key.own]
    for title, part in (("QDP", own), ("Rivals, the control", rivals)):
        if part:
            print(f"\n{title}: {_counts(part)}")
            for one in part:
                if one.significant or everything:
                    print(_row(one))
    print(
        f"\n{len(found)} measurements in both, {len(old) + len(new) - 2 * len(found)} in one only"
    )
    if not everything and not all(one.significant for one in found):
        print("--all lists those that are not significant too")
    _remarks(found, rivals)
    slower = sum(one.word == "slower" for one in own)
    if fail_on_slower and slower:
        print(f"error: {slower} measurements of QDP are slower", file=sys.stderr)
        return EXIT_SLOWER
    return 0


def _row(one: Difference) -> str:
    interval = f"({times(one.ratio.low)} to {times(one.ratio.high)})"
    benchmark = one.key.benchmark.removesuffix("_benchmark")
    return (
        f"  {one.word:16s}{times(one.ratio.value):>8s} {interval:20s}  {one.key.contender}, "
        f"{benchmark}: {one.key.case}"
    )


def _counts(part: Sequence[Difference]) -> str:
    """Return how many measurements became what."""
    words = ("slower", "faster", "not significant")
    return ", ".join(f"{sum(one.word == word for one in part)} {word}" for word in words)


def _remarks(found: Sequence[Difference], rivals: Sequence[Difference]) -> None:
    """Print what the whole says of the machine, and of the number of runs."""
    if rivals:
        middle = statistics.median([one.ratio.value for one in rivals])
        moved = abs(middle - 1) > _DRIFT
        print(
            f"The rivals' median ratio is {times(middle)}: "
            + (
                "the machine, or their versions, changed as well"
                if moved
                else "the machine is about as fast in both"
            )
        )
    few = sum(not one.enough_runs for one in found)
    if few:
        level = 1 - (1 - statistics.LEVEL) / len(found)
        least = next(runs for runs in range(2, 99) if statistics.can_tell_apart(runs, runs, level))
        print(
            f"{few} of them have too few runs to show anything: among {len(found)} measurements "
            f"each side needs {least} (--runs {least})"
        )
