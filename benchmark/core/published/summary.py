# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 (multiplication signs)
"""The report's head and summary: what was gained, which goals were missed, where QDP loses.

Not the evidence: that is the other sections'. The headline also stands on the project's front page.
"""

from __future__ import annotations

from benchmark.core import statistics
from benchmark.core.contenders import ROADMAP_RIVAL
from benchmark.core.document import Block, Heading, Items, Table, Text
from benchmark.core.published.library import Library, Recorded
from benchmark.core.published.pieces import largest, points, select, unique
from benchmark.core.published.training import models
from benchmark.core.records import Leg
from benchmark.core.report import GOALS, fastest_rival, find, speedup, times
from benchmark.core.training import epoch_seconds

SOFTWARE = ("qdp", "pennylane", "pennylane-lightning", "torch", "numpy")


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
