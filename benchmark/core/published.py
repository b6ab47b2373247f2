# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 (multiplication signs)
"""The published report's contents, made from the records of a folder and from nothing else.

Every number is cited from a record (core/document.py); the date is that of the newest record, so
the same records always give the same report. A section whose records are missing says which
command makes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.core import records, statistics
from benchmark.core.contenders import OWN, ROADMAP_RIVAL
from benchmark.core.document import (
    Block,
    Book,
    Chart,
    Code,
    Heading,
    Items,
    Series,
    Table,
    Text,
)
from benchmark.core.plots import AXES
from benchmark.core.records import Leg
from benchmark.core.report import GOALS, fastest_rival, find, speedup, state_bytes, times
from benchmark.core.training import epoch_parts, epoch_seconds

TITLE = "QDP Performance Benchmark Report"
SOFTWARE = ("qdp", "pennylane", "pennylane-lightning", "torch", "numpy")


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


def blocks(folder: Path, book: Book) -> list[Block]:
    """Return the whole report."""
    library = Library(folder, book)
    return [
        Heading(1, TITLE),
        *head(library),
        *summary(library),
        *raw_encoding(library),
        *gradients(library),
        *training(library),
        *dataset_impact(library),
        *scalability(library),
        *methodology(library),
        *reproducibility(library),
        *recommendations(library),
        *conclusions(library),
    ]


def head(library: Library) -> list[Block]:
    """Return date, hardware and software."""
    newest = library.newest
    machine = newest.run["environment"]
    memory = newest.fact("environment.memory_bytes", f"{machine['memory_bytes'] / 2**30:.0f}")
    gpu = ", ".join(machine["gpus"]) or "no GPU"
    versions = newest.run["versions"]
    software = ", ".join(
        f"{name} v{newest.fact(f'versions.{name}')}" for name in SOFTWARE if name in versions
    )
    return [
        Text(f"**Date**: {newest.fact('created', newest.run['created'][:10])}"),
        Text(
            f"**Hardware**: {newest.fact('environment.cpu')}, "
            f"{newest.fact('environment.cpus_usable')} cores, {memory} GB; {gpu}"
        ),
        Text(f"**Software**: {software}"),
    ]


def headline(library: Library) -> str:
    """Return what the project's front page says of gradients, with the command that measures it."""
    recorded = library.gradients.get((12, "adjoint", "sum-z"))
    if recorded is None:
        return "No record of the headline has been taken."
    legs = largest(recorded.legs)
    own, rival = find(legs, "qdp-fused"), fastest_rival(legs)
    roadmap = library.gradients.get((12, "parameter-shift", "z0"))
    if own is None or rival is None:
        return "No record of the headline has been taken."
    case = recorded.run["case"]
    names = recorded.run["arguments"]["contenders"]
    lines = [
        f"Per-sample gradients of {case['n_qubits']} qubits and {len(case['parameters'])} "
        f"parameters, {own.n_samples:,} images, {case['threads']} cores of an "
        f"{recorded.run['environment']['cpu']}: "
        f"{1e3 * own.total.median / own.n_samples:.2g} µs a sample. "
        f"**{recorded.ratio(rival, own)} as fast as the fastest of {len(names) - 2} rivals** "
        f"({rival.title})",
    ]
    library_path = find(legs, "lightning-adjoint")
    if library_path is not None:
        lines[0] += f", {recorded.ratio(library_path, own)} as fast as a `lightning.qubit` QNode"
    if roadmap is not None:
        at_most = largest(roadmap.legs)
        lines[0] += (
            ", and by the parameter-shift rule "
            f"{roadmap.ratio(find(at_most, ROADMAP_RIVAL), find(at_most, 'qdp'))} as fast as "
            "embedding in every evaluation on `default.qubit`"
        )
    lines[0] += "."
    return "\n\n".join(
        [
            *lines,
            "![Per-sample gradients against the number of samples]"
            "(benchmark/docs/results/gradient_samples.png)",
            "```bash\npython -m benchmark run --full --only gradient-12-adjoint gradient-roadmap\n"
            "```",
        ]
    )


# Summary


def summary(library: Library) -> list[Block]:
    """Return the headline against the fastest rival, the roadmap's comparison, and the losses."""
    items = []
    headline = library.gradients.get((12, "adjoint", "sum-z"))
    if headline is not None:
        legs = largest(headline.legs)
        own, rival = find(legs, "qdp-fused"), fastest_rival(legs)
        if own is not None and rival is not None:
            items.append(
                f"**Per-sample gradients** (adjoint, {headline.fact('case.n_qubits')} qubits, "
                f"{headline.samples(own)} samples, raw features in): "
                f"**{headline.ratio(rival, own)}** as fast as the fastest rival, "
                f"{rival.title}."
            )
            encoded = find(legs, "qdp")
            items.append(
                "The same with states encoded first and kept, the roadmap's path: "
                f"{headline.ratio(rival, encoded)}."
            )
    shift = library.gradients.get((12, "parameter-shift", "sum-z"))
    if shift is not None:
        legs = largest(shift.legs)
        rival = fastest_rival(legs, "parameter-shift")
        items.append(
            f"**Parameter-shift gradients** ({shift.fact('case.n_qubits')} qubits): "
            f"{shift.ratio(rival, find(legs, 'qdp-fused'))} as fast as the fastest rival with the "
            f"same rule, {rival.title if rival else 'none'}."
        )
    roadmap = library.gradients.get((12, "parameter-shift", "z0"))
    if roadmap is not None:
        legs = largest(roadmap.legs)
        items.append(
            "**The roadmap's own comparison**, encode once against embed in every evaluation "
            f"of `default.qubit`: {roadmap.ratio(find(legs, ROADMAP_RIVAL), find(legs, 'qdp'))} at "
            f"{roadmap.samples(legs[0])} samples; the roadmap asks "
            f"{library.book.cite('5×', roadmap.path.name, 1, 'the gate --min-speedup')}."
        )
    for (name, sweep), recorded in library.scaling.items():
        legs = select(recorded, "samples", "amplitude")
        if legs and sweep == "samples" and name != "synthetic":
            legs = largest(legs)
            own = find(legs, "qdp")
            items.append(
                f"**Raw amplitude encoding** of {name} at {recorded.samples(legs[0])} samples: "
                f"{recorded.ratio(find(legs, 'pennylane'), own)} as fast as PennyLane, "
                f"{recorded.ratio(fastest_rival(legs), own)} as fast as the fastest rival."
            )
    for (name, encoding, classes), (recorded, lines) in models(library).items():
        own = [
            second for one in lines if one["contender"] == "qdp" for second in epoch_seconds(one)
        ]
        rivals = {one["contender"]: one for one in lines if not one["contender"].startswith("qdp")}
        times_of = {
            contender: [
                second
                for one in lines
                if one["contender"] == contender
                for second in epoch_seconds(one)
            ]
            for contender in rivals
        }
        if not own or not rivals:
            continue
        fastest = min(rivals, key=lambda contender: statistics.median(times_of[contender]))
        ratio = statistics.ratio(times_of[fastest], own)
        text = f"{times(ratio.value)} ({times(ratio.low)} to {times(ratio.high)})"
        what = f"{encoding} encoding, classes {classes}"
        items.append(
            f"**Training** on {name} ({recorded.value(rivals[fastest], what, 'case')}): an epoch "
            f"{recorded.value(rivals[fastest], text, 'epochs against those of qdp')} as fast as "
            f"with {rivals[fastest]['title']}, the fastest rival."
        )
    return [
        Heading(2, "Executive Summary"),
        Items(items),
        Heading(3, "Goals missed, and where QDP loses"),
        *losses(library),
        Text("**Recommendation**: use QDP when"),
        Items(
            [
                "one circuit runs over many rows: its time a row falls until the batch fills the "
                "lanes and threads;",
                "gradients are wanted for each sample, by the adjoint method or by the "
                "parameter-shift rule;",
                "data sets are large (MNIST and beyond), on disk or streamed.",
            ]
        ),
        Text("When to take something else stands under Recommendations."),
    ]


def largest(legs: Sequence[Leg]) -> list[Leg]:
    """Return the legs at the most samples that QDP was timed at."""
    most = max((leg.n_samples for leg in legs if leg.contender in OWN and leg.ok), default=0)
    return [leg for leg in legs if leg.n_samples == most]


def losses(library: Library) -> list[Block]:
    """Return the goals that were missed and the points where a rival was faster."""
    rows = []
    for goal in GOALS:
        recorded = library.gradients.get((goal.n_qubits, goal.method, goal.observable))
        if recorded is None:
            continue
        legs = largest(recorded.legs)
        rival = find(legs, goal.rival)
        own = [leg for leg in (find(legs, "qdp-fused"), find(legs, "qdp")) if leg is not None]
        if rival is None or not own:
            continue
        best = max(own, key=lambda leg: speedup(rival, leg).value)
        reached = speedup(rival, best).value >= goal.times
        rows.append(
            [
                f"{goal.method}, {recorded.fact('case.n_qubits')} qubits, `{goal.observable}`",
                rival.title,
                library.book.cite(f"{goal.times:g}×", recorded.path.name, 1, "the design's goal"),
                recorded.ratio(rival, best),
                "reached" if reached else "**missed**",
            ]
        )
    lost = []
    for (name, sweep), recorded in library.scaling.items():
        for legs in points([leg for leg in recorded.legs if leg.sweep == sweep]):
            own, rival = find(legs, "qdp"), fastest_rival(legs)
            if own is None or rival is None or not speedup(rival, own).high < 1:
                continue
            lost.append(
                [
                    name,
                    point_words(recorded, own),
                    rival.title,
                    recorded.ratio(rival, own),
                ]
            )
    found: list[Block] = [
        Text(
            "The design's goals, each against the rival that it names; time of the rival over "
            "QDP's better leg, with its interval of ninety-five per cent."
        ),
        Table(["what", "rival", "goal", "measured", ""], rows),
    ]
    found.append(
        Text(
            "The goals of encoders, file streams, the state cache and the fidelity kernel stand in "
            "[performance.md](../../docs/performance.md)."
        )
    )
    if lost:
        found += [
            Text("Points of the scaling runs at which a rival was faster than QDP:"),
            Table(["data", "point", "rival", "its time over QDP's"], unique(lost)),
        ]
    elif library.scaling:
        found.append(Text("QDP lost to no rival at any point of the scaling runs."))
    return found


def unique(rows: Sequence[list[str]]) -> list[list[str]]:
    """Return the rows without repetitions: crossing sweeps share their points."""
    return [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]


def points(legs: Sequence[Leg]) -> list[list[Leg]]:
    """Return the legs of each point."""
    found: dict[tuple[str, str, int], list[Leg]] = {}
    for leg in legs:
        found.setdefault((leg.sweep, repr(leg.case), leg.n_samples), []).append(leg)
    return list(found.values())


def point_words(recorded: Recorded, leg: Leg) -> str:
    """Return what a point measures."""
    case = leg.case
    if case["kind"] == "encoding":
        what = f"{case['encoding']} encoding"
    else:
        layers = recorded.of(leg, str(case["n_layers"]), "case.n_layers")
        what = f"{case['method']} gradients, {layers} layers"
    qubits = recorded.of(leg, str(case["n_qubits"]), "case.n_qubits")
    threads = recorded.of(leg, str(case["threads"]), "case.threads")
    return f"{what}, {qubits} qubits, {recorded.samples(leg)} samples, threads: {threads}"


# Sections


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


def select(recorded: Recorded, sweep: str, what: str) -> list[Leg]:
    """Return the legs of one series; ``what`` is an encoding or "gradient"."""
    return [
        leg
        for leg in recorded.legs
        if leg.sweep == sweep and what in (leg.case.get("encoding"), leg.case["kind"])
    ]


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


def raw_encoding(library: Library) -> list[Block]:
    """Return section 1."""
    found: list[Block] = [Heading(2, "1. Raw Encoding Performance")]
    recorded = library.sweep("samples")
    if recorded is None:
        return [*found, missing("raw encoding", "python benchmark/benchmark_scaling.py")]
    found.append(
        Text(
            f"Amplitude encoding of {recorded.run['dataset']['name']}, `float64` features to "
            f"`complex128` states ({recorded.link()}); * on fewer rows, times extrapolated. QDP "
            "writes into a reused array, as NumPy and PyTorch do here; the rest return new ones."
        )
    )
    for number, sweep in enumerate(("samples", "qubits"), start=1):
        taken = library.sweep(sweep)
        legs = [] if taken is None else select(taken, sweep, "amplitude")
        if taken is None or not legs:
            continue
        title = {
            "samples": f"Throughput vs Sample Count ({legs[0].case['n_qubits']} qubits)",
            "qubits": f"Throughput vs Qubit Count ({legs[0].n_samples} samples)",
        }[sweep]
        name = f"scaling_{sweep}_throughput"
        found += [
            Heading(3, f"1.{number} {title}"),
            sweep_chart(name, f"Amplitude encoding: {title}", legs, sweep, latency=False),
            rate_table(taken, legs, sweep),
        ]
        if sweep == "samples":
            chart = sweep_chart(
                "scaling_samples_latency",
                "Amplitude encoding: latency of a sample",
                legs,
                sweep,
                latency=True,
            )
            found.append(chart)
    rows = []
    for encoding in ("angle", "iqp-embedding"):
        for legs in points(select(recorded, "samples", encoding)):
            own = find(legs, "qdp")
            fastest = fastest_rival(legs)
            rows.append(
                [
                    encoding,
                    recorded.samples(legs[0]),
                    recorded.rate(own),
                    recorded.rate(find(legs, "pennylane")),
                    recorded.ratio(find(legs, "pennylane"), own),
                    fastest.title if fastest else "-",
                    recorded.ratio(fastest, own),
                ]
            )
    if rows:
        found += [
            Heading(3, "1.3 Other encodings"),
            Table(
                [
                    "Encoding",
                    "Samples",
                    "QDP (s/s)",
                    "PennyLane (s/s)",
                    "Speedup",
                    "Fastest rival",
                    "Speedup over it",
                ],
                rows,
            ),
        ]
    return found


def gradients(library: Library) -> list[Block]:
    """Return section 2."""
    found: list[Block] = [Heading(2, "2. Parameter-Shift Gradient Performance")]
    roadmap = library.gradients.get((12, "parameter-shift", "z0"))
    if roadmap is None:
        command = "python benchmark/benchmark_gradient.py --n-samples 100 500 1000 2000"
        return [*found, missing("the roadmap's comparison", command)]
    parameters = roadmap.fact("case.parameters", str(len(roadmap.run["case"]["parameters"])))
    found += [
        Heading(3, "2.1 Configuration"),
        Items(
            [
                f"Circuit: {roadmap.fact('case.n_qubits')} qubits, "
                f"{roadmap.fact('case.n_layers')} layers, {parameters} parameters; RY and RZ on "
                "every qubit, then a ladder of CNOT",
                "Gradient method: parameter-shift rule, two evaluations for each parameter and "
                "sample; QDP encodes a sample once, PennyLane's path embeds it in each evaluation "
                f"({roadmap.link()})",
            ]
        ),
        Heading(3, "2.2 Results"),
    ]
    rows = []
    sizes = points(roadmap.legs)
    for legs in sizes:
        own, rival = find(legs, "qdp"), find(legs, ROADMAP_RIVAL)
        rows.append(
            [
                roadmap.samples(legs[0]),
                roadmap.ms(own),
                roadmap.ms(rival),
                roadmap.ratio(rival, own),
            ]
        )
    found += [
        Table(["Samples", "QDP (ms)", "PennyLane (ms)", "Speedup"], rows),
        Text("* measured on the first rows only, since a leg's time is limited; extrapolated."),
        gradient_chart(roadmap),
        Heading(3, "2.3 Time Breakdown"),
    ]
    legs = largest(roadmap.legs)
    timed = [leg for name in ("qdp", ROADMAP_RIVAL) if (leg := find(legs, name)) is not None]
    found += [
        Chart(
            "gradient_breakdown",
            f"Where the time goes, {legs[0].n_samples} samples",
            "",
            "ms",
            [
                Series("encoding", [leg.title for leg in timed], [leg.encoding for leg in timed]),
                Series("circuits", [leg.title for leg in timed], [leg.circuit for leg in timed]),
            ],
            bars=True,
        ),
        Items(
            [
                f"{leg.title}: encoding {roadmap.of(leg, f'{leg.encoding:,.4g}', 'encoding_ms')} "
                f"ms, circuits {roadmap.of(leg, f'{leg.circuit:,.4g}', 'circuit_ms')} ms"
                for leg in timed
            ]
        ),
        Text(
            "The circuits' time is not the same, as the roadmap expected: QDP's engine runs the "
            "batch, PennyLane's device a sample at a time."
        ),
        Heading(3, "2.4 Every rival, by size and rule"),
        Text(
            "The sum of Z over all qubits, raw features in, at the most rows measured. "
            "The first of QDP's columns has the features encoded inside the run, the second "
            "encodes them all first."
        ),
    ]
    for (n_qubits, method, observable), recorded in sorted(library.gradients.items()):
        if observable != "sum-z":
            continue
        found += contender_table(recorded, n_qubits, method)
    return found


def gradient_chart(recorded: Recorded) -> Chart:
    """Return time against samples, a line a contender."""
    series = []
    for contender in dict.fromkeys(leg.contender for leg in recorded.legs):
        own = [leg for leg in recorded.legs if leg.ok and leg.contender == contender]
        if own:
            totals = [leg.total for leg in own]
            series.append(
                Series(
                    f"{own[0].title} ({own[0].rule})",
                    [leg.n_samples for leg in own],
                    [total.median for total in totals],
                    [total.low for total in totals],
                    [total.high for total in totals],
                )
            )
    case = recorded.run["case"]
    title = f"Per-sample gradients, {case['n_qubits']} qubits, {len(case['parameters'])} parameters"
    return Chart("gradient_samples", title, "Samples", "ms", series, log_x=True)


def contender_table(recorded: Recorded, n_qubits: int, method: str) -> list[Block]:
    """Return the table of one comparison, fastest first."""
    legs = largest(recorded.legs)
    fused, own = find(legs, "qdp-fused"), find(legs, "qdp")
    timed = sorted((leg for leg in legs if leg.ok), key=lambda leg: leg.total.median)
    rows = []
    for leg in timed:
        rival = leg.contender not in OWN
        per_row = f"{1e3 * leg.total.median / leg.n_samples:.4g}"
        rows.append(
            [
                leg.title + ("*" if leg.extrapolated else ""),
                leg.rule,
                recorded.of(leg, per_row, "total_ms.median"),
                recorded.ratio(leg, fused) if rival and fused else "",
                recorded.ratio(leg, own) if rival and own else "",
            ]
        )
    stopped = [leg for leg in legs if not leg.ok]
    found: list[Block] = [
        Text(
            f"**{recorded.fact('case.n_qubits')} qubits, {method}**, {recorded.samples(legs[0])} "
            f"samples of {recorded.run['dataset']['name']}, {recorded.fact('case.threads')} "
            f"threads ({recorded.link()}):"
        ),
        Table(["Contender", "Rule", "µs a sample", "over QDP, fused", "over QDP"], rows),
    ]
    if stopped:
        words = "; ".join(f"{leg.title}: {leg.status}" for leg in stopped)
        found.append(Text(f"Did not run: {words}."))
    return found


def training(library: Library) -> list[Block]:
    """Return the section on end-to-end training."""
    found: list[Block] = [Heading(2, "End-to-End Training")]
    if not library.training:
        command = "python benchmark/benchmark_qdp_pennylane.py"
        return [*found, missing("training", command)]
    found.append(
        Text(
            "The same model on the same data to the same loss: same initial parameters, batches "
            "and optimiser, losses equal epoch by epoch; train, validation and test rows apart, "
            "test rows looked at once, after training. [How](training_benchmark.md)."
        )
    )
    for (name, encoding, classes), (recorded, lines) in models(library).items():
        found += trained(recorded, lines, f"{encoding} encoding, classes {classes}", name)
    return found


Model = tuple[Recorded, list[Mapping[str, Any]]]


def models(library: Library) -> dict[tuple[str, str, str], Model]:
    """Return the trainings by data set, encoding and classes, of the newest record of each."""
    groups: dict[tuple[str, str, str], Model] = {}
    for recorded in library.training:
        for line in recorded.lines:
            if line.get("kind") == "training" and line["status"] == "ok":
                key = (recorded.run["dataset"]["name"], line["encoding"], line["classes"])
                if key not in groups or groups[key][0] is not recorded:
                    groups[key] = (recorded, [])
                groups[key][1].append(line)
    return groups


def trained(
    recorded: Recorded, lines: Sequence[Mapping[str, Any]], title: str, dataset: str
) -> list[Block]:
    """Return table and learning curves of one model."""
    rows = []
    series = []
    for contender in dict.fromkeys(line["contender"] for line in lines):
        own = [line for line in lines if line["contender"] == contender]
        line = own[0]
        seconds = statistics.median([second for one in own for second in epoch_seconds(one)])
        parts = [
            recorded.value(line, f"{milliseconds:,.3g}", "epochs")
            for milliseconds in (1e3 * seconds, *epoch_parts(own))
        ]
        to_target = [one["time_to_target_s"] for one in own if one["time_to_target_s"] is not None]
        target = "-"
        if to_target:
            mark = "*" if any(one["time_to_target_extrapolated"] for one in own) else ""
            text = f"{statistics.median(to_target):.3g}"
            target = recorded.value(line, text, "time_to_target_s") + mark
        accuracy = next((one["test_accuracy"] for one in own if one["complete"]), None)
        rows.append(
            [
                line["title"],
                *parts,
                target,
                "-" if accuracy is None else recorded.value(line, f"{accuracy:.1%}", "accuracy"),
            ]
        )
        elapsed, total = [], 0.0
        for epoch in line["epochs"]:
            total += epoch["seconds"]
            elapsed.append(total)
        losses_ = [epoch["validation_loss"] for epoch in line["epochs"]]
        series.append(Series(line["title"], elapsed, losses_))
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower())
    case = lines[0]["case"]
    qubits = recorded.value(lines[0], str(case["n_qubits"]), "case.n_qubits")
    words = recorded.value(lines[0], title, "case") if any(map(str.isdigit, title)) else title
    return [
        Text(
            f"**{words}** of {dataset}, {qubits} qubits ({recorded.link()}); milliseconds an epoch "
            "(medians; encoding that happens once is spread over the epochs), and seconds to the "
            "target loss; * stopped before, the epochs missing counted at its median:"
        ),
        Table(
            [
                "Contender",
                "epoch",
                "encoding",
                "forward",
                "backward",
                "optimiser",
                "to target (s)",
                "test accuracy",
            ],
            rows,
        ),
        Chart(
            f"training_{slug}",
            f"Validation loss against seconds: {title}",
            "Seconds",
            "Validation loss",
            series,
            log_x=True,
            log_y=False,
        ),
    ]


def dataset_impact(library: Library) -> list[Block]:
    """Return section 3."""
    found: list[Block] = [Heading(2, "3. Dataset Impact"), Heading(3, "3.1 Synthetic vs MNIST")]
    taken = {name: one for (name, sweep), one in library.scaling.items() if sweep == "samples"}
    if len(taken) < 2:
        command = "python benchmark/benchmark_scaling.py --dataset mnist"
        return [*found, missing("a second data set", command)]
    rows = []
    series = []
    for name, recorded in taken.items():
        for what in ("amplitude", "gradient"):
            legs = select(recorded, "samples", what)
            if not legs:
                continue
            legs = largest(legs)
            own, rival = find(legs, "qdp"), fastest_rival(legs)
            rows.append(
                [
                    name,
                    "amplitude encoding" if what == "amplitude" else "adjoint gradients",
                    recorded.samples(legs[0]),
                    recorded.rate(own),
                    recorded.ratio(rival, own),
                ]
            )
        legs = largest(select(recorded, "samples", "amplitude"))
        timed = [leg for leg in legs if leg.ok]
        series.append(Series(name, [leg.title for leg in timed], [leg.throughput for leg in timed]))
    chart = Chart(
        "dataset_throughput",
        "Amplitude encoding by data set",
        "",
        "Throughput (samples/s)",
        series,
        bars=True,
    )
    return [
        *found,
        Table(["Data", "Task", "Samples", "QDP (s/s)", "over the fastest rival"], rows),
        chart,
        Text(
            "The amplitudes' values do not change what is computed; images narrower than the state "
            "read fewer bytes and write zeros instead."
        ),
    ]


def scalability(library: Library) -> list[Block]:
    """Return section 4."""
    found: list[Block] = [Heading(2, "4. Scalability Analysis"), Heading(3, "4.1 Memory Usage")]
    recorded = library.sweep("samples")
    if recorded is None:
        found.append(missing("memory", "python benchmark/benchmark_scaling.py"))
    else:
        found += memory(recorded)
    found.append(Heading(3, "4.2 GPU Utilization"))
    with_gpu = [
        (one, leg)
        for one in library.everything
        for leg in one.legs
        if any("gpu" in sample for sample in leg.metering)
    ]
    if not with_gpu:
        found.append(Text("Not yet measured: none of the records was taken on a GPU."))
    else:
        rows = []
        for one, leg in with_gpu:
            forms = {
                "utilization_percent": ("{:.0f} %", 1.0),
                "power_w": ("{:.0f} W", 1.0),
                "memory_bytes": ("{:.1f} GiB", 2.0**-30),
            }
            rows.append(
                [
                    leg.title,
                    one.samples(leg),
                    *(
                        one.of(leg, form.format(leg.gpu[name] * scale), f"metering.gpu.{name}")
                        if name in leg.gpu
                        else "-"
                        for name, (form, scale) in forms.items()
                    ),
                ]
            )
        found.append(Table(["Contender", "Samples", "utilisation", "power", "memory"], rows))
    for sweep, title in (
        ("batch", "4.3 Batch size"),
        ("layers", "4.4 Layers"),
        ("threads", "4.5 Threads"),
        ("qubits", "4.6 Qubits"),
    ):
        taken = library.sweep(sweep)
        legs = [] if taken is None else select(taken, sweep, "gradient")
        found.append(Heading(3, title))
        if taken is None or not legs:
            command = f"python benchmark/benchmark_scaling.py --sweeps {sweep}"
            found.append(missing("this sweep", command))
            continue
        chart = sweep_chart(
            f"scaling_{sweep}_gradients",
            f"Adjoint gradients against {sweep}",
            legs,
            sweep,
            latency=False,
        )
        found += [chart, rate_table(taken, legs, sweep)]
    found += roofline(library)
    found.append(Heading(3, "4.8 Cost model"))
    if "cost_model" not in library.others:
        found.append(missing("the cost model", "python -m benchmark.cost_model"))
    else:
        found.append(
            Text(
                "Fitted times, residuals and what they say of larger sizes stand in "
                f"[cost_model.md](cost_model.md) ({library.others['cost_model'].link()})."
            )
        )
    return found


def memory(recorded: Recorded) -> list[Block]:
    """Return the peak resident memory of each contender against the bytes of the states."""
    rows = []
    series = []
    legs = select(recorded, "samples", "amplitude")
    for found in points(legs):
        size = state_bytes(found[0])
        own, rival = find(found, "qdp"), find(found, "pennylane")
        cells = [
            "-"
            if leg is None or leg.peak_memory_bytes is None
            else recorded.of(leg, f"{leg.peak_memory_bytes / 2**20:,.0f}", "peak_memory_bytes")
            for leg in (own, rival)
        ]
        states = "-" if size is None else f"{size / 2**20:,.1f}"
        rows.append(
            [
                recorded.samples(found[0]),
                recorded.of(found[0], states, "case and n_samples"),
                *cells,
            ]
        )
    for contender in dict.fromkeys(leg.contender for leg in legs):
        own_legs = [
            leg for leg in legs if leg.ok and leg.contender == contender and leg.peak_memory_bytes
        ]
        if own_legs:
            series.append(
                Series(
                    own_legs[0].title,
                    [leg.n_samples for leg in own_legs],
                    [(leg.peak_memory_bytes or 0) / 2**20 for leg in own_legs],
                )
            )
    chart = Chart(
        "memory",
        "Peak resident memory of the contender's process",
        "Number of samples",
        "MiB",
        series,
        log_x=True,
    )
    return [
        Text(
            "Peak resident memory of the process, imports and features included, beside the bytes "
            "of all states (MiB), amplitude encoding. An extrapolated contender held fewer rows."
        ),
        Table(["Samples", "States", "QDP", "PennyLane"], rows),
        chart,
    ]


def roofline(library: Library) -> list[Block]:
    """Return the kernels against the machine's peak and bandwidths."""
    found: list[Block] = [Heading(3, "4.7 Roofline")]
    recorded = library.others.get("engine_rates")
    if recorded is None:
        return [*found, missing("the kernels", "python -m benchmark.engine_rates")]
    machine = next(line for line in recorded.lines if line["record"] == "machine")
    kernels = [
        line
        for line in recorded.lines
        if line["record"] == "kernel" and line["bytes_per_s"] and line["flop_per_s"]
    ]
    peak = machine["flop_per_s"]
    series = []
    for kernel in dict.fromkeys(line["kernel"] for line in kernels):
        own = sorted(
            (line for line in kernels if line["kernel"] == kernel),
            key=lambda line: line["flop_per_s"] / line["bytes_per_s"],
        )
        series.append(
            Series(
                kernel,
                [line["flop_per_s"] / line["bytes_per_s"] for line in own],
                [line["flop_per_s"] / 1e9 for line in own],
                line=False,
            )
        )
    low, high = 0.05, 8.0
    for level, rate in machine["bytes_per_s"].items():
        ridge = min(peak / rate, high)
        xs = [low, ridge, high] if ridge < high else [low, high]
        series.append(Series(f"roof: {level}", xs, [min(peak, rate * x) / 1e9 for x in xs]))
    rows = []
    for line in kernels:
        if line["kind"] != "adjoint":
            continue
        rows.append(
            [
                recorded.value(line, str(line["n_qubits"]), "n_qubits"),
                line["kernel"],
                recorded.value(
                    line, f"{line['flop_per_s'] / line['bytes_per_s']:.2g}", "flop/byte"
                ),
                recorded.value(line, f"{line['flop_per_s'] / 1e9:.3g}", "flop_per_s"),
                recorded.value(line, f"{line['flop_per_s'] / peak:.0%}", "flop_per_s"),
                recorded.value(line, f"{line['bytes_per_s'] / 1e9:.3g}", "bytes_per_s"),
            ]
        )
    rates = ", ".join(
        f"`{level}` {recorded.value(machine, f'{rate / 1e9:.0f}', f'bytes_per_s.{level}')}"
        for level, rate in machine["bytes_per_s"].items()
    )
    return [
        *found,
        Text(
            "Each kernel of the engine within a run, on one thread in double precision, against "
            "the machine's measured multiply-add rate "
            f"({recorded.value(machine, f'{peak / 1e9:.0f}', 'flop_per_s')} GFLOP/s) and triad in "
            f"each level of the memory (GB/s: {rates}); {recorded.link()}."
        ),
        Chart(
            "roofline",
            "Kernels against the machine",
            "FLOP a byte",
            "GFLOP/s",
            series,
            log_x=True,
        ),
        Table(["Qubits", "Kernel", "FLOP a byte", "GFLOP/s", "of peak", "GB/s"], rows),
    ]


def methodology(library: Library) -> list[Block]:
    """Return section 5."""
    newest = library.newest
    machine = newest.run["environment"]
    protocols = []
    for one in library.everything:
        arguments = one.run.get("arguments")
        if not isinstance(arguments, Mapping) or "warmup" not in arguments:
            continue
        protocols.append(
            [
                one.link(),
                one.fact("arguments.warmup"),
                one.fact("arguments.runs"),
                one.fact("arguments.time_limit"),
                one.fact(
                    "environment.git.commit", f"`{one.run['environment']['git']['commit'][:10]}`"
                ),
            ]
        )
    versions: dict[str, str] = {}
    for one in library.everything:
        for leg in one.legs:
            versions.update(leg.versions)
    gpu = ", ".join(machine["gpus"]) or "none"
    memory_gb = f"{machine['memory_bytes'] / 2**30:.0f}"
    return [
        Heading(2, "5. Methodology"),
        Heading(3, "5.1 Hardware"),
        Items(
            [
                f"GPU: {gpu}",
                f"CPU: {newest.fact('environment.cpu')}, "
                f"{newest.fact('environment.cpus_usable')} cores usable, "
                f"{', '.join(f'`{name}`' for name in machine['vector_extensions'])}",
                f"RAM: {newest.fact('environment.memory_bytes', memory_gb)} GB",
                "CUDA: none" if gpu == "none" else "CUDA: as the GPU records say",
                f"System: `{machine['system']}`, Python {newest.fact('environment.python')}",
            ]
        ),
        Text(
            "A shared virtual machine: ratios within one table can be trusted to their intervals, "
            "absolute times move by tens of per cent from day to day."
        ),
        Heading(3, "5.2 Software Versions"),
        Code("\n".join(f"{name}=={version}" for name, version in sorted(versions.items())), "text"),
        Heading(3, "5.3 Measurement Protocol"),
        Items(
            [
                "Every contender in a fresh process with its best documented settings and all "
                "threads, checked against the reference backend before anything is timed; all "
                "timed results are compared once more.",
                "Contenders take turns, in alternating order; a repetition shorter than a tenth of "
                "a second follows an untimed one, whoever's it is.",
                "Medians, with percentile-bootstrap intervals of ninety-five per cent; a ratio "
                "whose interval holds one is not significant.",
                "Timing: `time.perf_counter`; CUDA events and synchronisation for GPU code.",
                "A leg has a time limit; a slower contender runs on the first rows only and is "
                "marked. A leg that did not run says failed, skipped, unsupported or timed out.",
            ]
        ),
        Table(["Records", "Warmup", "Runs", "Seconds a leg", "Commit"], protocols),
    ]


def command_of(recorded: Recorded) -> str | None:
    """Return the command line that took a file of records, from its arguments."""
    scripts = {
        "gradient": "benchmark/benchmark_gradient.py",
        "scaling": "benchmark/benchmark_scaling.py",
        "training": "benchmark/benchmark_qdp_pennylane.py",
    }
    script = scripts.get(str(recorded.run.get("benchmark")))
    if script is None:
        return None
    left_out = ("output_dir", "data_dir", "progress", "no_save", "resume", "verify", "min_speedup")
    parts = [f"python {script}"]
    for name, value in recorded.run["arguments"].items():
        if name in left_out or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            parts.append(f"{flag} {' '.join(map(str, value))}")
        else:
            parts.append(flag if value is True else f"{flag} {value}")
    return " \\\n    ".join(parts)


def reproducibility(library: Library) -> list[Block]:
    """Return section 6."""
    commands = [command for one in library.everything if (command := command_of(one)) is not None]
    return [
        Heading(2, "6. Reproducibility"),
        Heading(3, "6.1 Commands"),
        Text("The set-up, the whole suite, and this report:"),
        Code("make bench\npython -m benchmark run --full\npython -m benchmark report"),
        Text("Each file of records was taken by one of these:"),
        Code("\n\n".join(commands)),
        Heading(3, "6.2 Data Availability"),
        Text(
            "All raw benchmark data is in [benchmark/results](../results): JSON lines with every "
            "raw time, versions, hardware and commit. "
            "`python -m benchmark report --provenance` lists the record behind each number here."
        ),
    ]


def recommendations(library: Library) -> list[Block]:
    """Return when to use QDP, and when not."""
    return [
        Heading(2, "Recommendations"),
        Table(
            ["You want", "Take"],
            [
                ["gradients or values of one circuit over many rows", "QDP"],
                ["the parameter-shift rule over many rows, as hardware would do it", "QDP"],
                ["rows encoded once and used many times, or streamed from files", "QDP"],
                ["a quantum layer in a PyTorch model on the CPU", "QDP, or PennyLane's templates"],
            ],
        ),
        Heading(3, "When not to use QDP"),
        Items(
            [
                "A single sample and a small circuit: the fixed cost of a call exceeds the work; "
                "the batch sweep above shows from how many rows on it pays.",
                "A single large state beyond two dozen qubits: Lightning, Qiskit Aer or a tensor "
                "network.",
                "Noise, density matrices, measurements in mid-circuit: PennyLane, Qiskit Aer.",
                "Real hardware and transpilation: Qiskit, PennyLane.",
                "Circuits of Clifford gates alone, error correction: Stim.",
                "Second derivatives, or a circuit inside a larger compiled program: JAX with "
                "TensorCircuit.",
                "Raw encoding of a few dozen rows: NumPy is as fast.",
            ]
        ),
    ]


def conclusions(library: Library) -> list[Block]:
    """Return what the records support."""
    items = [
        "A batched engine is what makes the difference: samples lie side by side in the lanes of "
        "the registers, so that gates cost no shuffles and Python is paid once a batch.",
        "Encoding once, which the roadmap set out to show, saves what encoding costs; it is the "
        "smaller part of what QDP gains over the roadmap's PennyLane path.",
    ]
    if not any(
        leg.metering and "gpu" in leg.metering[0] for one in library.everything for leg in one.legs
    ):
        items.append("All figures are of CPUs: no GPU record has been taken yet.")
    return [Heading(2, "7. Conclusions"), Items(items)]
