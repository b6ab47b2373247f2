# SPDX-License-Identifier: Apache-2.0
"""The report's head and summary: what was gained, which goals were missed, where QDP loses.

Not the evidence: that is the other sections'. The headline also stands on the project's front page.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.core.contenders import ROADMAP_RIVAL
from benchmark.core.document import Block, Heading, Items, Table, Text, number
from benchmark.core.goals import GOALS, best_rival, data_plane, time_over
from benchmark.core.published.gradients import ROADMAP
from benchmark.core.published.library import Library, Recorded
from benchmark.core.published.method import machine_words, subject
from benchmark.core.published.pieces import largest, select
from benchmark.core.published.training import models
from benchmark.core.ratios import by_point, fastest_rival, find, speedup
from benchmark.core.records import Leg

SOFTWARE = ("qdp", "pennylane", "pennylane-lightning", "torch", "numpy")
TIMES = "\N{MULTIPLICATION SIGN}"


def head(library: Library) -> list[Block]:
    """Return date, hardware and software."""
    newest = library.newest
    versions = newest.run["versions"]
    software = ", ".join(
        f"{name} v{newest.fact(f'versions.{name}')}" for name in SOFTWARE if name in versions
    )
    machines = "; and ".join(machine_words(taken[0]) for taken in library.machines)
    return [
        Text(f"**Date**: {newest.fact('created', newest.run['created'][:10])}"),
        Text(f"**Hardware**: {machines}"),
        Text(f"**Software**: {software}"),
    ]


def headline(library: Library) -> str:
    """Return what the project's front page says of gradients, with the command that measures it."""
    recorded = library.gradients.get((12, "adjoint", "sum-z"))
    legs = largest(recorded.legs) if recorded is not None else []
    own, rival = find(legs, "qdp-fused"), fastest_rival(legs)
    if recorded is None or own is None or rival is None:
        return "No record of the headline has been taken."
    case = recorded.run["case"]
    rivals = sum(not name.startswith("qdp") for name in recorded.run["arguments"]["contenders"])
    words = (
        f"Per-sample gradients of {case['n_qubits']} qubits and {len(case['parameters'])} "
        f"parameters, {own.n_samples:,} images, {case['threads']} cores of an "
        f"{recorded.environment['cpu']}: "
        f"{number(1e3 * own.total.median / own.n_samples, 2)} µs a sample. "
        f"**{recorded.ratio(rival, own)} as fast as the fastest of {rivals} rivals** "
        f"({rival.title})"
    )
    library_path = find(legs, "lightning-adjoint")
    if library_path is not None:
        words += f", {recorded.ratio(library_path, own)} as fast as a `lightning.qubit` QNode"
    roadmap = library.gradients.get(ROADMAP)
    if roadmap is not None:
        at_most = largest(roadmap.legs)
        words += (
            ", and by the parameter-shift rule "
            f"{roadmap.ratio(find(at_most, ROADMAP_RIVAL), find(at_most, 'qdp'))} as fast as "
            "embedding in every evaluation on `default.qubit`"
        )
    return "\n\n".join(
        [
            f"{words}. In brackets: 95 % intervals of the ratio.",
            "![Time of a sample's gradients, QDP and every rival]"
            "(benchmark/docs/results/gradient_rivals.png)",
            "```bash\npython -m benchmark run --full --only gradient-12-adjoint gradient-roadmap\n"
            "```",
        ]
    )


def summary(library: Library) -> list[Block]:
    """Return the headline against the fastest rival, the roadmap's comparison, and the losses."""
    items = [
        *_gradient_items(library),
        *_encoding_items(library),
        *_training_items(library),
    ]
    return [
        Heading(2, "Executive Summary"),
        Items(items),
        Text("**Recommendation**: use QDP when"),
        Items(
            [
                "one circuit runs over many rows: its time a row falls until the batch fills the "
                "lanes and threads ([batch size](#43-batch-size));",
                "gradients are wanted for each sample, by the adjoint method or by the "
                "parameter-shift rule;",
                "data sets are large (MNIST and beyond), in memory or streamed.",
            ]
        ),
        Text(
            "When to take something else stands under [Recommendations](#recommendations). "
            "**How to read the numbers**: a ratio is the rival's median time over QDP's, in "
            "brackets its bootstrap interval of ninety-five per cent; `s/s` are samples a second; "
            "* and hollow points were timed on the first rows only and multiplied up; † has an "
            "interval wider than a quarter of its median to either side, and wants measuring "
            "again. Each contender has its best documented settings and all threads."
        ),
        Heading(3, "Goals missed, and where QDP loses"),
        *goals(library),
        *losses(library),
    ]


def _gradient_items(library: Library) -> list[str]:
    items = []
    recorded = library.gradients.get((12, "adjoint", "sum-z"))
    legs = largest(recorded.legs) if recorded is not None else []
    own, rival = find(legs, "qdp-fused"), fastest_rival(legs)
    if recorded is not None and own is not None and rival is not None:
        items.append(
            f"**Per-sample gradients** (adjoint, {recorded.fact('case.n_qubits')} qubits, "
            f"{recorded.samples(own)} samples, raw features in): "
            f"**{recorded.ratio(rival, own)}** as fast as the fastest rival, {rival.title}. "
            "With states encoded first and kept, the roadmap's path: "
            f"{recorded.ratio(rival, find(legs, 'qdp'))}."
        )
    others = []
    for (n_qubits, method, observable), other in sorted(library.gradients.items()):
        legs = largest(other.legs)
        own, rival = find(legs, "qdp-fused"), fastest_rival(legs)
        if (method, observable) == ("adjoint", "sum-z") and n_qubits != 12 and own and rival:
            qubits = other.fact("case.n_qubits")
            others.append(f"{other.ratio(rival, own)} at {qubits} ({rival.title})")
    if others:
        items.append(f"**At other numbers of qubits**, likewise: {'; '.join(others)}.")
    shift = library.gradients.get((12, "parameter-shift", "sum-z"))
    if shift is not None:
        legs = largest(shift.legs)
        rival = fastest_rival(legs, "parameter-shift")
        parameters = shift.fact("case.parameters", str(len(shift.run["case"]["parameters"])))
        items.append(
            f"**Parameter-shift gradients** ({shift.fact('case.n_qubits')} qubits, {parameters} "
            f"parameters): {shift.ratio(rival, find(legs, 'qdp-fused'))} as fast as the fastest "
            f"rival with the same rule, {rival.title if rival else 'none'}."
        )
    roadmap = library.gradients.get(ROADMAP)
    if roadmap is not None:
        legs = largest(roadmap.legs)
        asked = library.book.cite(f"5{TIMES}", roadmap.path.name, 1, "the gate --min-speedup")
        items.append(
            "**The roadmap's own comparison**, encode once against embed in every evaluation "
            f"of `default.qubit`: {roadmap.ratio(find(legs, ROADMAP_RIVAL), find(legs, 'qdp'))} at "
            f"{roadmap.samples(legs[0])} samples; the roadmap asks {asked}."
        )
    return items


def _encoding_items(library: Library) -> list[str]:
    recorded = library.sweep("samples")
    legs = largest(select(recorded, "samples", "amplitude"))
    own, rival = find(legs, "qdp"), fastest_rival(legs)
    if recorded is None or own is None:
        return []
    qubits = recorded.of(own, str(own.case["n_qubits"]), "case.n_qubits")
    return [
        f"**Raw amplitude encoding** of `{recorded.run['dataset']['name']}`, {qubits} qubits, "
        f"{recorded.samples(own)} samples: {recorded.ratio(find(legs, 'pennylane'), own)} as fast "
        f"as PennyLane, {recorded.ratio(find(legs, 'qiskit'), own)} as Qiskit, "
        f"{recorded.ratio(rival, own)} as the fastest rival, {rival.title if rival else 'none'}."
    ]


def _training_items(library: Library) -> list[str]:
    by_rival: dict[str, list[str]] = {}
    for model in models(library):
        own, rival = model.fastest
        if own is not None and rival is not None:
            words = model.recorded.value(model.trainings[own][0], model.title, "case")
            part = f"{words}: {model.over(rival, own)}"
            by_rival.setdefault(model.trainings[rival][0]["title"], []).append(part)
    return [
        f"**Training**, an epoch of QDP's faster leg against the fastest rival, {title}: "
        f"{'; '.join(parts)}."
        for title, parts in by_rival.items()
    ]


# Goals and losses


def goals(library: Library) -> list[Block]:
    """Return the design's goals, reached or missed."""
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
        text = f"{goal.times:g}{TIMES}"
        asked = library.book.cite(text, recorded.path.name, 1, "the design's goal")
        rows.append(
            [
                f"{goal.method}, {recorded.fact('case.n_qubits')} qubits, `{goal.observable}`, "
                f"{recorded.samples(best)} samples",
                f"{asked} {rival.title}",
                recorded.ratio(rival, best),
                "reached" if reached else "**missed**",
            ]
        )
    rates = library.others.get("encoding_rates")
    for one in data_plane(rates.lines) if rates is not None else ():
        assert rates is not None
        rows.append(
            [
                rates.value(one.line, one.what, "what"),
                rates.book.cite(one.goal, rates.path.name, 1, "the design's goal"),
                rates.value(one.line, one.measured, "seconds, bytes_per_s or peak bytes"),
                "reached" if one.reached else "**missed**",
            ]
        )
    return [
        Text(
            "The design's goals, each against the rival or bound that it names, by QDP's faster "
            "leg; a goal missed against a rival says how far QDP is ahead of it all the same. "
            "`n` is the number of qubits, `z0` the observable Z of the first one, `sum-z` the sum "
            "over all."
        ),
        Table(["What", "Goal", "Measured", "Verdict"], rows),
    ]


def contests(library: Library) -> Iterator[tuple[Recorded, str, Leg, Leg]]:
    """Yield every point at which QDP met rivals: records, what it was, QDP's leg, the fastest."""
    seen = set()
    for (_, sweep), recorded in library.scaling.items():
        for legs in by_point([leg for leg in recorded.legs if leg.sweep == sweep]):
            own, rival = find(legs, "qdp"), fastest_rival(legs)
            place = (recorded.path, *legs[0].point[1:])  # sweeps share the points they cross at
            if own is not None and rival is not None and place not in seen:
                seen.add(place)
                yield recorded, _place(recorded, own), own, rival
    for recorded in library.gradients.values():
        for legs in by_point(recorded.legs):
            own, rival = find(legs, "qdp"), fastest_rival(legs)
            if own is not None and rival is not None:
                yield recorded, f"{subject(recorded)}, {recorded.samples(own)} samples", own, rival


def _place(recorded: Recorded, leg: Leg) -> str:
    """Return what a point of a sweep measures."""
    case = leg.case
    if case["kind"] == "encoding":
        what = f"{case['encoding']} encoding"
    else:
        layers = recorded.of(leg, str(case["n_layers"]), "case.n_layers")
        what = f"{case['method']} gradients, {layers} layers"
    qubits = recorded.of(leg, str(case["n_qubits"]), "case.n_qubits")
    threads = recorded.of(leg, str(case["threads"]), "case.threads")
    name = f"`{recorded.run['dataset']['name']}`"
    return f"{what} of {name}, {qubits} qubits, {recorded.samples(leg)} samples, threads: {threads}"


def losses(library: Library) -> list[Block]:
    """Return the points where a rival was faster, or could not be told from QDP."""
    met = list(contests(library))
    if not met:
        return []
    lost, unclear = [], []
    for recorded, words, own, rival in met:
        ratio = speedup(rival, own)
        row = [words, rival.title, recorded.ratio(rival, own)]
        if not ratio.significant:
            unclear.append(row)
        elif ratio.value < 1:
            lost.append(row)
    newest = library.newest.path.name
    total = library.book.cite(str(len(met)), newest, 1, "points with QDP and a rival, in all files")
    won = library.book.cite(
        str(len(met) - len(lost) - len(unclear)), newest, 1, "points where QDP was faster"
    )
    found: list[Block] = [
        Text(
            f"Of {total} points of the scaling runs and gradient comparisons, each against its "
            f"fastest rival, QDP was faster at {won}. It writes states into an array used again, "
            "as that rival may, and for gradients encodes all rows first."
        )
    ]
    head_ = ["Point", "Fastest rival", "its time over QDP's"]
    if lost:
        found += [Text("A rival was faster at:"), Table(head_, lost)]
    else:
        found.append(Text("No rival was faster at any of them."))
    if unclear:
        found += [Text("Nobody can tell QDP and its rival apart at:"), Table(head_, unclear)]
    return found + _fresh(library)


def _fresh(library: Library) -> list[Block]:
    """Return the encodings at which a rival with an array used again beats QDP with a new one."""
    recorded = library.others.get("encoding_rates")
    rows = []
    for line in recorded.lines if recorded is not None else ():
        if line.get("contender") != "qdp-fresh":
            continue
        assert recorded is not None
        rival = best_rival(recorded.lines, line, "encoding", "n_qubits")
        if rival["us_per_row"] < line["us_per_row"]:
            qubits = recorded.value(line, str(line["n_qubits"]), "n_qubits")
            name = "seconds over those of qdp-fresh"
            ratio = recorded.value(rival, time_over(rival, line), name)
            rows.append(
                [f"{line['encoding']} encoding, {qubits} qubits", rival["contender"], ratio]
            )
    if not rows:
        return []
    return [
        Text(
            "Into a new array each call, whose pages the system has to clear, QDP is behind, or "
            "no longer ahead of, rivals that write into one used again "
            f"({recorded.source() if recorded else ''}):"
        ),
        Table(["QDP into a new array", "Rival into one used again", "its time over QDP's"], rows),
    ]
