# SPDX-License-Identifier: Apache-2.0
"""The report's sections on rows becoming states: raw encoding, and what the data set changes."""

from __future__ import annotations

from benchmark.core.document import Block, Chart, Heading, Series, Table, Text, number
from benchmark.core.goals import best_rival, best_triad, time_over
from benchmark.core.plots import sweep_chart
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.published.pieces import largest, rate_table, select
from benchmark.core.ratios import fastest_rival, find


def raw_encoding(library: Library) -> list[Block]:
    """Return section 1."""
    found: list[Block] = [Heading(2, "1. Raw Encoding Performance")]
    recorded = library.sweep("samples")
    if recorded is None:
        return [*found, missing("raw encoding", "python benchmark/benchmark_scaling.py")]
    found.append(
        Text(
            f"`float64` rows of `{recorded.run['dataset']['name']}` become `complex128` states in "
            "memory; all threads. Amplitude encoding pads a row with zeros and divides it by its "
            "norm. QDP, NumPy and PyTorch write into one array that is used again, the others "
            "return a new one each call. NumPy and PyTorch are written by hand for this benchmark, "
            "block by block."
        )
    )
    for place, sweep in enumerate(("samples", "qubits"), start=1):
        taken = library.sweep(sweep)
        legs = select(taken, sweep, "amplitude")
        if taken is None or not legs:
            continue
        title = {
            "samples": f"Throughput vs Sample Count ({legs[0].case['n_qubits']} qubits)",
            "qubits": f"Throughput vs Qubit Count ({legs[0].n_samples} samples)",
        }[sweep]
        found += [
            Heading(3, f"1.{place} {title}"),
            Text(f"Amplitude encoding; {taken.source(taken.threads(legs[0]))}."),
            sweep_chart(f"scaling_{sweep}_throughput", f"Amplitude encoding: {title}", legs, sweep),
            rate_table(taken, legs, sweep),
        ]
        if sweep == "samples":
            title = f"Amplitude encoding: Latency of a sample ({legs[0].case['n_qubits']} qubits)"
            found.append(sweep_chart("scaling_samples_latency", title, legs, sweep, "latency"))
    found.append(Heading(3, "1.3 Other encodings"))
    for encoding, title in (("angle", "Angle encoding"), ("iqp-embedding", "IQP embedding")):
        legs = select(recorded, "samples", encoding)
        if legs:
            qubits = recorded.of(legs[0], str(legs[0].case["n_qubits"]), "case.n_qubits")
            source = recorded.source(recorded.threads(legs[0]))
            found += [
                Text(f"**{title}**, {qubits} qubits and as many features; {source}:"),
                rate_table(recorded, legs, "samples"),
            ]
        else:
            command = f"python benchmark/benchmark_scaling.py --encodings {encoding}"
            found.append(missing(f"the {title}", command))
    return found + bandwidth(library)


def bandwidth(library: Library) -> list[Block]:
    """Return the encoders against what the machine's memory allows, and what new arrays cost."""
    found: list[Block] = [Heading(3, "1.4 Against the machine's memory")]
    recorded = library.others.get("encoding_rates")
    if recorded is None:
        return [*found, missing("the encoders' bandwidth", "python -m benchmark.encoding_rates")]
    lines = recorded.lines
    triad = best_triad(lines)
    machine = next(
        one for one in lines if one["record"] == "machine" and best_triad([one]) == triad
    )
    rows = []
    for line in lines:
        if line["record"] != "encoding" or line["contender"] != "qdp":
            continue
        same = ("encoding", "n_qubits")
        fresh = next(
            one
            for one in lines
            if one.get("contender") == "qdp-fresh" and all(one[key] == line[key] for key in same)
        )
        rival = best_rival(lines, line, *same)
        both = [time_over(rival, one) for one in (line, fresh)]
        low, high = line["us_per_row_interval"]
        share = f"{line['bytes_per_s'] / triad:.0%}"
        rows.append(
            [
                line["encoding"],
                recorded.value(line, str(line["n_qubits"]), "n_qubits"),
                recorded.value(line, f"{line['rows']:,}", "rows"),
                recorded.value(
                    line,
                    f"{number(line['us_per_row'], 4)} ({number(low, 4)} to {number(high, 4)})",
                    "us_per_row and us_per_row_interval",
                ),
                recorded.value(line, number(line["bytes_per_s"] / 1e9), "bytes_per_s"),
                recorded.value(line, share, "bytes_per_s over the machine's triad"),
                f"`{rival['contender']}`",
                recorded.value(rival, both[0], "seconds over those of qdp"),
                recorded.value(rival, both[1], "seconds over those of qdp-fresh"),
            ]
        )
    threads = recorded.value(machine, str(machine["threads"]), "threads")
    rate = recorded.value(machine, number(triad / 1e9), "triad_bytes_per_s")
    return [
        *found,
        Text(
            "Synthetic rows into one array used again, features read and states written counted as "
            f"traffic, beside the machine's best triad over arrays as large ({rate} GB/s); "
            f"{recorded.source(threads)}. The last column is what remains of the "
            "speedup when QDP writes into a new array each call, whose pages the system has to "
            "clear, and the rival still into one used again."
        ),
        Table(
            [
                "Encoding",
                "Qubits",
                "Rows",
                "QDP (µs a row)",
                "GB/s",
                "of the triad",
                "Fastest rival",
                "Speedup over it",
                "QDP into a new array",
            ],
            rows,
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
        for what, task in (("amplitude", "amplitude encoding"), ("gradient", "adjoint gradients")):
            legs = largest(select(recorded, "samples", what))
            if not legs:
                continue
            own, rival = find(legs, "qdp"), fastest_rival(legs)
            rows.append(
                [
                    recorded.link(name),
                    task,
                    recorded.of(legs[0], str(legs[0].case["n_qubits"]), "case.n_qubits"),
                    recorded.samples(legs[0]),
                    recorded.rate(own),
                    rival.title if rival else "-",
                    recorded.ratio(rival, own),
                ]
            )
        timed = [leg for leg in largest(select(recorded, "samples", "amplitude")) if leg.ok]
        series.append(Series(name, [leg.title for leg in timed], [leg.throughput for leg in timed]))
    return [
        *found,
        Text(_sources(list(taken.values()))),
        Table(
            [
                "Data",
                "Task",
                "Qubits",
                "Samples",
                "QDP (s/s)",
                "Fastest rival",
                "Speedup over it",
            ],
            rows,
        ),
        Chart(
            "dataset_throughput",
            "Amplitude encoding by data set",
            "",
            "Throughput (samples/s)",
            series,
            bars=True,
        ),
        Text(
            "What the amplitudes are does not change what is computed; how many there are does. "
            "Synthetic rows fill the state, images have fewer features: less is read, and zeros "
            "are written instead. PennyLane's template pads the rows in a step of its own, and "
            "is slower for it."
        ),
    ]


def _sources(taken: list[Recorded]) -> str:
    """Return what the rows of each data set are."""
    parts = [
        f"`{one.run['dataset']['name']}`: {one.fact('dataset.description')}".partition(";")[0]
        for one in taken
    ]
    return f"{'; '.join(parts)}; {taken[0].source(taken[0].threads(taken[0].legs[0]))}."
