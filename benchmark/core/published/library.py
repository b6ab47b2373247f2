# SPDX-License-Identifier: Apache-2.0
"""The records of a folder as the report reads them: the newest of each kind, and their citations.

Every number of the report is written by a method of ``Recorded``, which notes the line that it
comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.core import records
from benchmark.core.document import Book, Text
from benchmark.core.records import Leg
from benchmark.core.report import speedup, times


@dataclass
class Recorded:
    """One file of records, with the citations that it backs."""

    book: Book
    path: Path
    run: Mapping[str, Any]
    legs: list[Leg] = field(default_factory=list)
    lines: list[Mapping[str, Any]] = field(default_factory=list)

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

    def value(self, line: Mapping[str, Any], text: str, name: str) -> str:
        """Cite a figure of one of the file's other lines."""
        number = next(index for index, one in enumerate(self.lines) if one is line) + 1
        return self.book.cite(text, self.path.name, number, name)

    def rate(self, leg: Leg | None) -> str:
        """Samples a second, marked where they were extrapolated."""
        if leg is None:
            return "-"
        mark = "*" if leg.extrapolated else ""
        return self.of(leg, f"{leg.throughput:,.0f}", "rows_per_second") + mark

    def ms(self, leg: Leg | None) -> str:
        """Milliseconds of the median repetition."""
        if leg is None:
            return "-"
        mark = "*" if leg.extrapolated else ""
        return self.of(leg, f"{leg.total.median:,.4g}", "total_ms.median") + mark

    def ratio(self, rival: Leg | None, own: Leg | None) -> str:
        """How many times QDP's time the rival takes, with the interval."""
        if rival is None or own is None:
            return "-"
        found = speedup(rival, own)
        text = f"{times(found.value)} ({times(found.low)} to {times(found.high)})"
        if not found.significant:
            text = f"not significant ({times(found.low)} to {times(found.high)})"
        return self.of(rival, text, f"total_ms against that of {own.contender}")

    def samples(self, leg: Leg) -> str:
        """The number of samples."""
        return self.of(leg, f"{leg.n_samples:,}", "n_samples")

    def link(self) -> str:
        """A link to the file from the report's folder."""
        return f"[{self.path.stem.split('_2')[0]}](../results/{self.path.name})"


class Library:
    """All records of a folder, the newest of each kind where several are there."""

    def __init__(self, folder: Path, book: Book) -> None:
        self.book = book
        self.gradients: dict[tuple[int, str, str], Recorded] = {}
        self.scaling: dict[tuple[str, str], Recorded] = {}  # by data set and sweep
        self.training: list[Recorded] = []
        self.others: dict[str, Recorded] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self._add(path)

    def _add(self, path: Path) -> None:
        name = path.stem.rsplit("_", 2)[0]
        if name in ("gradient_benchmark", "scaling_benchmark"):
            run, legs = records.read_records(path)
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
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = Recorded(self.book, path, lines[0], lines=lines)
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

    def sweep(self, sweep: str) -> Recorded | None:
        """Return the run of a sweep, on real data if there is one, else on synthetic rows."""
        runs = [one for (name, which), one in self.scaling.items() if which == sweep]
        named = [one for one in runs if one.run["dataset"]["name"] != "synthetic"]
        return (named or runs or [None])[0]

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


def missing(what: str, command: str) -> Text:
    """Say that a section has no records yet."""
    return Text(f"No records of {what} have been taken; `{command}` makes them.")
