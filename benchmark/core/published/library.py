# SPDX-License-Identifier: Apache-2.0
"""The records of a folder as the report reads them: the newest of each kind, and their citations.

Every number of the report is written by a method of ``Recorded``, which notes the line that it
comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.core import records
from benchmark.core.contenders import ON_GPU
from benchmark.core.document import Book, Text, number
from benchmark.core.ratios import ratio_words
from benchmark.core.records import Leg

Line = Mapping[str, Any]


@dataclass
class Recorded:
    """One file of records, with the citations that it backs."""

    book: Book
    path: Path
    run: Line
    legs: list[Leg] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    @property
    def environment(self) -> Line:
        """The machine, which some scripts note in the run's line itself."""
        found: Line = self.run.get("environment", self.run)
        return found

    def fact(self, name: str, text: str | None = None) -> str:
        """Cite a value of the run's line by its dotted name."""
        value: Any = self.run
        for part in name.split("."):
            value = value[part]
        return self.book.cite(str(value) if text is None else text, self.path.name, 1, name)

    def of(self, leg: Leg, text: str, name: str) -> str:
        """Cite a figure of one leg."""
        line = next(index for index, one in enumerate(self.legs) if one is leg) + 2
        return self.book.cite(text, self.path.name, line, name)

    def value(self, line: Line, text: str, name: str) -> str:
        """Cite a figure of one of the file's other lines."""
        place = next(index for index, one in enumerate(self.lines) if one is line) + 1
        return self.book.cite(text, self.path.name, place, name)

    def rate(self, leg: Leg | None) -> str:
        """Samples a second."""
        if leg is None:
            return "-"
        return self.of(leg, f"{leg.throughput:,.0f}", "rows_per_second") + marks(leg)

    def ms(self, leg: Leg | None) -> str:
        """Milliseconds of the median repetition."""
        if leg is None:
            return "-"
        return self.of(leg, number(leg.total.median, 4), "total_ms.median") + marks(leg)

    def us_a_sample(self, leg: Leg) -> str:
        """Microseconds a sample, with the interval."""
        total, scale = leg.total, 1e3 / leg.n_samples
        spread = f"{number(total.low * scale, 4)} to {number(total.high * scale, 4)}"
        return (
            self.of(leg, number(total.median * scale, 4), "total_ms.median")
            + marks(leg)
            + f" ({self.of(leg, spread, 'total_ms.low and total_ms.high')})"
        )

    def ratio(self, rival: Leg | None, own: Leg | None) -> str:
        """How many times QDP's time the rival takes, with the interval."""
        if rival is None or own is None:
            return "-"
        return self.of(rival, ratio_words(rival, own), f"total_ms against that of {own.contender}")

    def samples(self, leg: Leg) -> str:
        """The number of samples."""
        return self.of(leg, f"{leg.n_samples:,}", "n_samples")

    def link(self, text: str | None = None) -> str:
        """A link to the file from the report's folder."""
        return f"[{text or self.path.stem.rsplit('_', 2)[0]}](../results/{self.path.name})"

    def threads(self, leg: Leg) -> str:
        """The threads that a leg's contender may use, which one case of a file says for all."""
        if not leg.case:
            return self.fact("case.threads")
        return self.of(leg, str(leg.case["threads"]), "case.threads")

    def source(self, threads: str | None = None) -> str:
        """The file, the processor, and the threads where they are the same for all."""
        key = "environment.cpu" if "environment" in self.run else "cpu"
        found = f"{self.link()}, {self.fact(key)}"
        return found if threads is None else f"{found}, threads: {threads}"


class Library:
    """All records of a folder, the newest of each kind where several are there."""

    def __init__(self, folder: Path, book: Book) -> None:
        self.book = book
        self.gradients: dict[tuple[int, str, str], Recorded] = {}  # qubits, method, observable
        self.scaling: dict[tuple[str, str], Recorded] = {}  # by data set and sweep
        self.training: list[Recorded] = []
        self.others: dict[str, Recorded] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self._add(path)

    def _add(self, path: Path) -> None:
        name = path.stem.rsplit("_", 2)[0]
        if name in ("gradient_benchmark", "scaling_benchmark"):
            run, legs = records.read_records(path)
            if any(leg.ok and leg.contender in ON_GPU for leg in legs):
                # Their rows lie in device memory before the clock starts: benchmark/gpu_rates.py
                # compares them with each other.
                return
            found = Recorded(self.book, path, run, legs)
            if name == "scaling_benchmark":
                for sweep in dict.fromkeys(leg.sweep for leg in legs):
                    self.scaling[run["dataset"]["name"], sweep] = found
                return
            arguments = run["arguments"]
            key = (run["case"]["n_qubits"], arguments["method"], arguments["observable"])
            if run["case"]["precision"] == "double":
                self.gradients[key] = found
            return
        lines = records.read_lines(path)
        found = Recorded(self.book, path, lines[0], lines=list(lines))
        if name == "training_benchmark":
            self.training.append(found)
        else:
            self.others[name] = found

    @property
    def everything(self) -> list[Recorded]:
        """All files taken, each once."""
        found = [
            *self.gradients.values(),
            *self.scaling.values(),
            *self.training,
            *self.others.values(),
        ]
        return list({one.path: one for one in found}.values())

    @property
    def machines(self) -> list[list[Recorded]]:
        """The files taken, by the machine that they were taken on."""
        found: dict[tuple[str, ...], list[Recorded]] = {}
        for one in self.everything:
            names = ("cpu", "cpus_usable", "memory_bytes", "gpus", "system", "python")
            key = tuple(str(one.environment[name]) for name in names)
            found.setdefault(key, []).append(one)
        return list(found.values())

    def sweep(self, sweep: str) -> Recorded | None:
        """Return the run of a sweep, on real data if there is one, else on synthetic rows."""
        runs = [one for (name, which), one in self.scaling.items() if which == sweep]
        named = [one for one in runs if one.run["dataset"]["name"] != "synthetic"]
        return next(iter([*named, *runs]), None)

    @property
    def newest(self) -> Recorded:
        """The file with the newest date."""
        dated = [one for one in self.everything if "created" in one.run]
        if not dated:
            raise ValueError(
                "expected records to report on, got none; make them with "
                "python -m benchmark run --quick"
            )
        return max(dated, key=lambda one: (one.run["created"], one.path.name))


def marks(leg: Leg) -> str:
    """Return a star where a figure was extrapolated, a dagger where it is too noisy to trust."""
    return ("*" if leg.extrapolated else "") + ("†" if leg.noisy else "")


def missing(what: str, command: str) -> Text:
    """Say that a section has no records yet."""
    return Text(f"No records of {what} have been taken; `{command}` makes them.")
