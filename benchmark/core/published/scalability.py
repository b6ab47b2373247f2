# SPDX-License-Identifier: Apache-2.0
"""The section on scaling: memory, the GPU's readings, sweeps, the roofline, the cost model."""

from __future__ import annotations

from benchmark.core.document import Block, Chart, Heading, Series, Table, Text
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.published.pieces import points, rate_table, select, sweep_chart
from benchmark.core.report import find, state_bytes


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
