# SPDX-License-Identifier: Apache-2.0
"""The report's section on per-sample gradients: the roadmap's comparison, and every rival."""

from __future__ import annotations

from benchmark.core.contenders import OWN, ROADMAP_RIVAL
from benchmark.core.document import Block, Chart, Heading, Items, Series, Table, Text
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.published.pieces import largest, points
from benchmark.core.report import find


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
