# SPDX-License-Identifier: Apache-2.0
"""The section on scaling: memory, the GPU's readings, sweeps, the roofline, the cost model."""

from __future__ import annotations

from benchmark.core import gpu_report
from benchmark.core.document import Block, Chart, Heading, Series, Table, Text, number
from benchmark.core.plots import AXES, sweep_chart
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.published.pieces import rate_table, select
from benchmark.core.ratios import by_point, find
from benchmark.core.records import state_bytes
from benchmark.core.styles import Style

SWEEPS = (
    ("batch", "4.3 Batch size"),
    ("layers", "4.4 Layers"),
    ("threads", "4.5 Threads"),
    ("qubits", "4.6 Qubits"),
)


def scalability(library: Library) -> list[Block]:
    """Return section 4."""
    found: list[Block] = [Heading(2, "4. Scalability Analysis"), Heading(3, "4.1 Memory Usage")]
    recorded = library.sweep("samples")
    if recorded is None:
        found.append(missing("memory", "python benchmark/benchmark_scaling.py"))
    else:
        found += memory(recorded)
    found += [Heading(3, "4.2 GPU Utilization"), *gpu_report.blocks(library)]
    for sweep, title in SWEEPS:
        found += [Heading(3, title), *swept(library, sweep)]
    found += [Heading(3, "4.7 Roofline"), *roofline(library), Heading(3, "4.8 Cost model")]
    if "cost_model" not in library.others:
        found.append(missing("the cost model", "python -m benchmark.cost_model"))
    else:
        found.append(
            Text(
                "Fitted times, residuals and what they say of larger sizes stand in "
                f"[cost_model.md](cost_model.md) ({library.others['cost_model'].source()})."
            )
        )
    return found


def memory(recorded: Recorded) -> list[Block]:
    """Return the peak resident memory of each contender against the bytes of the states."""
    rows = []
    series = []
    legs = select(recorded, "samples", "amplitude")
    for found in by_point(legs):
        size = state_bytes(found[0])
        own, rival = find(found, "qdp"), find(found, "pennylane")
        cells = [
            "-"
            if leg is None or leg.peak_memory_bytes is None
            else recorded.of(leg, f"{leg.peak_memory_bytes / 2**20:,.0f}", "peak_memory_bytes")
            + ("*" if leg.extrapolated else "")
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
        timed = [
            leg for leg in legs if leg.ok and leg.contender == contender and leg.peak_memory_bytes
        ]
        if timed:
            series.append(
                Series(
                    timed[0].title,
                    [leg.n_samples for leg in timed],
                    [(leg.peak_memory_bytes or 0) / 2**20 for leg in timed],
                    hollow=[leg.extrapolated for leg in timed],
                )
            )
    qubits = legs[0].case["n_qubits"]
    return [
        Text(
            "Peak resident memory of the process, imports and features included, beside the bytes "
            "of all states; amplitude encoding, "
            f"{recorded.of(legs[0], str(qubits), 'case.n_qubits')} qubits, `complex128`; "
            f"{recorded.source(recorded.threads(legs[0]))}. * held fewer rows than all: those that "
            "its time limit allowed."
        ),
        Table(["Samples", "States (MiB)", "QDP (MiB)", "PennyLane default.qubit (MiB)"], rows),
        Chart(
            "memory",
            f"Amplitude encoding: peak resident memory of the process ({qubits} qubits)",
            AXES["samples"][0],
            "MiB",
            series,
            log_x=True,
        ),
    ]


def swept(library: Library, sweep: str) -> list[Block]:
    """Return chart and tables of one sweep: gradients, and encoding where it was swept too."""
    recorded = library.sweep(sweep)
    legs = select(recorded, sweep, "gradient")
    if recorded is None or not legs:
        return [missing("this sweep", f"python benchmark/benchmark_scaling.py --sweeps {sweep}")]
    first = legs[0]
    sizes = {
        "case.n_qubits": f"{first.case['n_qubits']} qubits",
        "case.n_layers": f"{first.case['n_layers']} layers",
        "n_samples": f"{first.n_samples:,} samples",
    }
    varied = {"qubits": "case.n_qubits", "layers": "case.n_layers", "batch": "n_samples"}
    sizes.pop(varied.get(sweep, ""), None)
    cited = [recorded.of(first, size, name) for name, size in sizes.items()]
    threads = None if sweep == "threads" else recorded.threads(first)
    name = recorded.run["dataset"]["name"]
    found: list[Block] = [
        Text(
            f"Adjoint gradients of the sum of Z, raw features of `{name}` in; "
            f"{', '.join(cited)}; {recorded.source(threads)}."
        ),
        sweep_chart(
            f"scaling_{sweep}_gradients",
            f"Adjoint gradients against {AXES[sweep][0].lower()} ({', '.join(sizes.values())})",
            legs,
            sweep,
        ),
        rate_table(recorded, legs, sweep),
    ]
    encoded = select(recorded, sweep, "amplitude")
    if encoded and sweep != "qubits":  # those of qubits stand in section 1
        found += [Text("Amplitude encoding likewise:"), rate_table(recorded, encoded, sweep)]
    return found


def roofline(library: Library) -> list[Block]:
    """Return the kernels against the machine's peak and bandwidths."""
    recorded = library.others.get("engine_rates")
    if recorded is None:
        return [missing("the kernels", "python -m benchmark.engine_rates")]
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
    for (level, rate), dash in zip(
        machine["bytes_per_s"].items(), ("-", "--", "-.", ":"), strict=False
    ):
        ridge = min(peak / rate, high)
        xs = [low, ridge, high] if ridge < high else [low, high]
        series.append(
            Series(
                f"roof: {level}, {rate / 1e9:.0f} GB/s",
                xs,
                [min(peak, rate * x) / 1e9 for x in xs],
                style=Style("#555555", "", dash),
            )
        )
    rows = []
    for line in kernels:
        if line["kind"] != "adjoint":
            continue
        intensity = line["flop_per_s"] / line["bytes_per_s"]
        rows.append(
            [
                recorded.value(line, str(line["n_qubits"]), "n_qubits"),
                f"`{line['kernel']}`",
                recorded.value(line, number(intensity, 2), "flop_per_s over bytes_per_s"),
                recorded.value(line, number(line["flop_per_s"] / 1e9), "flop_per_s"),
                recorded.value(line, f"{line['flop_per_s'] / peak:.0%}", "flop_per_s"),
                recorded.value(line, number(line["bytes_per_s"] / 1e9), "bytes_per_s"),
            ]
        )
    rates = ", ".join(
        f"`{level}` {recorded.value(machine, f'{rate / 1e9:.0f}', f'bytes_per_s.{level}')}"
        for level, rate in machine["bytes_per_s"].items()
    )
    return [
        Text(
            "Each kernel of the engine within a run, one thread, double precision, against "
            "the machine's measured multiply-add rate "
            f"({recorded.value(machine, f'{peak / 1e9:.0f}', 'flop_per_s')} GFLOP/s) and triad in "
            f"each level of the memory (GB/s: {rates}); {recorded.source()}. The picture has the "
            "kernels of values, adjoint and parameter-shift gradients, a point a size; the table "
            "those of the adjoint. `sweep` applies rotations to a tile of rows, "
            "`sweep_gradient` undoes them and takes their derivatives, `diagonal_gradient` the "
            "same of diagonal ones; `lane_sweep` and `lane_gradient` are theirs for rotations "
            "that pair amplitudes inside a vector register; `load` lays rows into lanes, `store` "
            "writes results from them; `measure` and `rotate` are the parameter-shift rule's "
            "expectation values and shifted rotations "
            "([how it works](../../docs/how-it-works.md))."
        ),
        Chart(
            "roofline",
            "The engine's kernels against the machine, one thread, double precision",
            "FLOP a byte",
            "GFLOP/s",
            series,
            log_x=True,
        ),
        Table(["Qubits", "Kernel", "FLOP a byte", "GFLOP/s", "of peak", "GB/s"], rows),
    ]
