# SPDX-License-Identifier: Apache-2.0
"""The report's section on per-sample gradients: the roadmap's comparison, and every rival."""

from __future__ import annotations

from benchmark.core.contenders import OWN, ROADMAP_RIVAL
from benchmark.core.document import Block, Chart, Heading, Items, Series, Table, Text, number
from benchmark.core.plots import ranking_of, sweep_chart
from benchmark.core.published.library import Library, Recorded, missing
from benchmark.core.published.pieces import largest
from benchmark.core.ratios import by_point, find

ROADMAP = (12, "parameter-shift", "z0")
HEADLINE = (12, "adjoint")


def gradients(library: Library) -> list[Block]:
    """Return section 2."""
    found: list[Block] = [Heading(2, "2. Parameter-Shift Gradient Performance")]
    roadmap = library.gradients.get(ROADMAP)
    if roadmap is None:
        command = "python benchmark/benchmark_gradient.py --n-samples 100 500 1000 2000"
        found.append(missing("the roadmap's comparison", command))
    else:
        found += configuration(roadmap) + results(roadmap) + breakdown(roadmap)
    found += [
        Heading(3, "2.4 Every rival, by size and rule"),
        Text(
            "The observable is the sum of Z over all qubits: of Z of the first qubit alone most "
            "gradients of this circuit are zero, and a system that skipped them would look fast. "
            "Raw features in, at the most rows measured. QDP with fused encoding takes features "
            "into the run and stores no state; QDP without encodes all rows first. `adjoint` "
            "stands for every way of one walk back, automatic differentiation included; "
            "`parameter-shift` for two evaluations a parameter. The last two columns are the "
            "contender's time over QDP's."
        ),
    ]
    for (n_qubits, method, observable), recorded in sorted(library.gradients.items()):
        if observable == "sum-z":
            caption = f"{recorded.fact('case.n_qubits', str(n_qubits))} qubits, {method}"
            found += contender_table(recorded, caption)
            if (n_qubits, method) == HEADLINE:
                legs = largest(recorded.legs)
                title = (
                    f"Adjoint gradients of {legs[0].n_samples:,} samples, {n_qubits} qubits, "
                    f"{len(recorded.run['case']['parameters'])} parameters"
                )
                found.append(ranking_of("gradient_rivals", title, legs))
    pruned = library.gradients.get((12, "adjoint", "z0"))
    if pruned is not None and find(pruned.legs, "qdp-pruned") is not None:
        qubits = pruned.fact("case.n_qubits")
        found += [
            Heading(3, "2.5 Pruning, reported apart"),
            Text(
                "For Z of the first qubit most gradients of this circuit are zero, and rotations "
                "that cannot matter can be left out (`prune=True`). That is less work than the "
                "rivals do, so it is off everywhere else in this report."
            ),
            *contender_table(pruned, f"{qubits} qubits, adjoint, one observable"),
        ]
    return found


def configuration(recorded: Recorded) -> list[Block]:
    """Return what the roadmap's comparison compares."""
    parameters = recorded.fact("case.parameters", str(len(recorded.run["case"]["parameters"])))
    return [
        Heading(3, "2.1 Configuration"),
        Items(
            [
                f"Circuit: {recorded.fact('case.n_qubits')} qubits, "
                f"{recorded.fact('case.n_layers')} layers, {parameters} parameters; RY and RZ on "
                "every qubit, then a ladder of CNOT; the observable is Z of the first qubit",
                f"Data: {recorded.fact('dataset.description')}; `float64`",
                "Gradient method: parameter-shift rule, two evaluations for each parameter and "
                "sample",
                "QDP encodes each sample once and keeps the states; PennyLane's path on "
                "`default.qubit` embeds the sample in each evaluation",
                f"Records: {recorded.source(recorded.fact('case.threads'))}",
            ]
        ),
    ]


def results(recorded: Recorded) -> list[Block]:
    """Return the roadmap's table, and time against samples."""
    rows = []
    for legs in by_point(recorded.legs):
        own, rival = find(legs, "qdp"), find(legs, ROADMAP_RIVAL)
        rows.append(
            [
                recorded.samples(legs[0]),
                recorded.ms(own),
                recorded.ms(rival),
                recorded.ratio(rival, own),
                "-"
                if rival is None
                else recorded.of(rival, str(rival.rows_measured), "rows_measured"),
            ]
        )
    case = recorded.run["case"]
    title = (
        f"Per-sample gradients by the parameter-shift rule, {case['n_qubits']} qubits, "
        f"{len(case['parameters'])} parameters"
    )
    return [
        Heading(3, "2.2 Results"),
        Table(
            ["Samples", "QDP (ms)", "PennyLane (ms)", "Speedup", "PennyLane timed on (samples)"],
            rows,
        ),
        Text(
            "Times marked * are extrapolated: a leg's time is limited, so each run of PennyLane's "
            "path took the first samples only, as many as the last column says, and its time was "
            "multiplied up. It takes samples one by one, so time is proportional to their number."
        ),
        sweep_chart("gradient_samples", title, recorded.legs, "samples", "time"),
    ]


def breakdown(recorded: Recorded) -> list[Block]:
    """Return encoding and circuits of both paths, and what encoding once saves."""
    legs = largest(recorded.legs)
    timed = [leg for name in ("qdp", ROADMAP_RIVAL) if (leg := find(legs, name)) is not None]
    titles = [leg.title for leg in timed]
    found: list[Block] = [
        Heading(3, "2.3 Time Breakdown"),
        Chart(
            "gradient_breakdown",
            f"Where the time of parameter-shift gradients goes, {recorded.run['case']['n_qubits']} "
            f"qubits, {legs[0].n_samples:,} samples",
            "",
            "Time of all samples (ms)",
            [
                Series("encoding", titles, [leg.encoding for leg in timed]),
                Series("circuits", titles, [leg.circuit for leg in timed]),
            ],
            bars=True,
        ),
        Items(
            [
                f"{leg.title}: encoding "
                f"{recorded.of(leg, number(leg.encoding, 4), 'encoding_ms')} ms "
                f"({recorded.of(leg, f'{leg.encoding / leg.total.median:.0%}', 'encoding_ms')}), "
                f"circuits {recorded.of(leg, number(leg.circuit, 4), 'circuit_ms')} ms"
                for leg in timed
            ]
        ),
        Text(
            "PennyLane's encoding is inside its circuits: its time is that of circuits of the "
            "embedding alone, run as often. The roadmap expected equal times for the circuits; "
            "they differ, since QDP's engine runs the batch and PennyLane's device one sample "
            "after the other."
        ),
    ]
    rival, cached = find(legs, ROADMAP_RIVAL), find(legs, "pennylane-stateprep")
    if rival is not None and cached is not None:
        found.append(
            Text(
                "Encoding once is not what makes the difference. When PennyLane's own path gets "
                "its states encoded once and handed to `StatePrep`, its gain over embedding in "
                f"every evaluation is: {recorded.ratio(rival, cached)}."
            )
        )
    return found


def contender_table(recorded: Recorded, caption: str) -> list[Block]:
    """Return the table of one comparison, fastest first."""
    legs = largest(recorded.legs)
    fused, own = find(legs, "qdp-fused"), find(legs, "qdp")
    timed = sorted((leg for leg in legs if leg.ok), key=lambda leg: leg.total.median)
    rows = []
    for leg in timed:
        rival = leg.contender not in OWN
        rows.append(
            [
                leg.title,
                leg.rule,
                recorded.us_a_sample(leg),
                recorded.ratio(leg, fused) if rival and fused else "",
                recorded.ratio(leg, own) if rival and own else "",
            ]
        )
    found: list[Block] = [
        Text(
            f"**{caption}**, {recorded.samples(legs[0])} samples of "
            f"`{recorded.run['dataset']['name']}` "
            f"({recorded.source(recorded.fact('case.threads'))}):"
        ),
        Table(
            ["Contender", "Rule", "µs a sample (interval)", "over QDP, fused", "over QDP"],
            rows,
        ),
    ]
    stopped = [leg for leg in legs if not leg.ok]
    if stopped:
        words = "; ".join(f"{leg.title}: {leg.status}" for leg in stopped)
        found.append(Text(f"Did not run: {words}."))
    return found
