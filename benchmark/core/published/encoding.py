# SPDX-License-Identifier: Apache-2.0
"""The report's sections on rows becoming states: raw encoding, and what the data set changes."""

from __future__ import annotations

from benchmark.core.document import Block, Chart, Heading, Series, Table, Text
from benchmark.core.published.library import Library, missing
from benchmark.core.published.pieces import largest, points, rate_table, select, sweep_chart
from benchmark.core.report import fastest_rival, find


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
