# SPDX-License-Identifier: Apache-2.0
"""When to use QDP, when something else, and why: the measurement, or what QDP does not have.

The same choices stand in the report and on the project's front page. Each has a ground: figures
cited from records, or the plain statement that it is no matter of measurement or was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.core import gpu_report, statistics
from benchmark.core.contenders import ROADMAP_RIVAL
from benchmark.core.document import Block, Heading, Items, Table, number
from benchmark.core.goals import best_rival, time_over
from benchmark.core.published.gradients import ROADMAP
from benchmark.core.published.library import Library, Recorded
from benchmark.core.published.pieces import largest, select
from benchmark.core.published.training import models
from benchmark.core.ratios import by_point, fastest_rival, find, interval_words

ABSENT, UNMEASURED = "not a matter of speed", "not measured"


@dataclass(frozen=True)
class Choice:
    """What one may want, what to take for it, and the ground."""

    want: str
    take: str
    ground: str

    @property
    def row(self) -> list[str]:
        """The choice as a row of a table."""
        return [self.want, self.take, self.ground]


HEAD = ("You want", "Take", "Why")


def choices(library: Library) -> tuple[list[Choice], list[Choice]]:
    """Return the choices for QDP, and those for something else."""
    return _with_qdp(library), _without_qdp(library)


def _with_qdp(library: Library) -> list[Choice]:
    return [
        Choice(
            "gradients of one circuit over many rows of data",
            "QDP",
            _gradient_ground(library, "adjoint"),
        ),
        Choice(
            "the parameter-shift rule over many rows, as hardware would do it",
            "QDP",
            _gradient_ground(library, "parameter-shift"),
        ),
        Choice("values of one circuit over many rows", "QDP", _value_ground(library)),
        Choice(
            "rows as states, in memory or streamed from files larger than memory",
            "QDP",
            _stream_ground(library),
        ),
        Choice("the kernel matrix of many states", "QDP", _kernel_ground(library)),
        Choice(
            "a quantum layer inside a PyTorch model on the CPU",
            "QDP, or PennyLane for its whole library of templates",
            _training_ground(library),
        ),
    ]


def _without_qdp(library: Library) -> list[Choice]:
    gpu = (
        "see the report's section on the GPU"
        if gpu_report.taken(library)
        else f"{UNMEASURED}: QDP's CUDA backend has no record of a GPU yet"
    )
    return [
        Choice("one row at a time", "QDP, or what you have", _single_ground(library)),
        Choice("to encode small rows and nothing else", "NumPy", _small_ground(library)),
        Choice(
            "a single large state, beyond about two dozen qubits",
            "Lightning, Qiskit Aer, a tensor network",
            _large_ground(library),
        ),
        Choice("a GPU today", "lightning.gpu, cuStateVec", gpu),
        Choice(
            "noise, density matrices, measurements in mid-circuit",
            "PennyLane, Qiskit Aer",
            f"{ABSENT}: QDP has state vectors without noise",
        ),
        Choice(
            "real hardware, transpilation", "Qiskit, PennyLane", f"{ABSENT}: QDP only simulates"
        ),
        Choice(
            "error correction, circuits of Clifford gates alone",
            "Stim",
            f"{ABSENT}: Stim needs no state vector, QDP's doubles with every qubit",
        ),
        Choice(
            "second derivatives, or a circuit inside a larger compiled program",
            "JAX with TensorCircuit",
            f"{ABSENT}: QDP has first derivatives",
        ),
    ]


# Grounds


def _gradient_ground(library: Library, method: str) -> str:
    recorded = library.gradients.get((12, method, "sum-z"))
    if recorded is None:
        return UNMEASURED
    legs = largest(recorded.legs)
    rule = method if method == "parameter-shift" else None
    own, rival = find(legs, "qdp-fused"), fastest_rival(legs, rule)
    if own is None or rival is None:
        return UNMEASURED
    return (
        f"{recorded.ratio(rival, own)} as fast as the fastest rival, {rival.title} "
        f"({recorded.fact('case.n_qubits')} qubits, {recorded.samples(own)} rows)"
    )


def _value_ground(library: Library) -> str:
    recorded = library.others.get("batched_execution")
    if recorded is None:
        return UNMEASURED
    batches = [line for line in recorded.lines if line.get("question") == "batches"]
    place = max((line["n_qubits"], line["rows"]) for line in batches)
    here = [line for line in batches if (line["n_qubits"], line["rows"]) == place]
    own = next(line for line in here if line["what"].startswith("QDP"))
    rival = min(
        (line for line in here if line is not own),
        key=lambda line: statistics.median(line["seconds"]),
    )
    ratio = statistics.ratio(rival["seconds"], own["seconds"])
    return (
        f"{recorded.value(rival, interval_words(ratio), 'seconds over those of QDP')} as fast as "
        f"{rival['what'].replace(': ', ', ')} "
        f"({recorded.value(own, str(own['n_qubits']), 'n_qubits')} qubits, "
        f"{recorded.value(own, str(own['rows']), 'rows')} rows)"
    )


def _stream_ground(library: Library) -> str:
    recorded = library.others.get("encoding_rates")
    if recorded is None:
        return UNMEASURED
    parts = [
        f"{recorded.value(line, f'{share:.0%}', 'fraction_of_ideal')} of the rate of reading "
        f"{line['format']} and then encoding"
        for line in recorded.lines
        if (share := line.get("fraction_of_ideal")) is not None
    ]
    for line in recorded.lines:
        if line["record"] == "large-stream":
            size = recorded.value(line, f"{line['file_bytes'] / 2**30:.0f}", "file_bytes")
            mib = line["peak_anonymous_bytes"] / 2**20
            held = recorded.value(line, f"{mib:.0f}", "peak_anonymous_bytes")
            parts.append(f"{size} GiB streamed within {held} MiB")
    return ", ".join(parts) or UNMEASURED


def _kernel_ground(library: Library) -> str:
    recorded = library.others.get("encoding_rates")
    lines = recorded.lines if recorded is not None else []
    parts = []
    for line in lines:
        if line["record"] == "kernel" and line["contender"] == "qdp":
            assert recorded is not None
            rival = best_rival(lines, line, "dtype")
            ratio = recorded.value(rival, time_over(rival, line), "seconds over those of qdp")
            parts.append(f"{ratio} as fast as `{rival['contender']}` ({line['dtype']} states)")
    return ", ".join(parts) or UNMEASURED


def _training_ground(library: Library) -> str:
    for model in models(library):
        own, rival = model.fastest
        if model.encoding == "amplitude" and own and rival:
            title = model.trainings[rival][0]["title"]
            return f"an epoch {model.over(rival, own)} as fast as with {title}"
    return UNMEASURED


def _single_ground(library: Library) -> str:
    recorded = library.sweep("batch")
    found = by_point(select(recorded, "batch", "gradient"))
    if recorded is None or not found:
        return UNMEASURED
    few, many = [
        (find(legs, "qdp"), fastest_rival(legs), legs[0]) for legs in (found[0], found[-1])
    ]
    qubits = recorded.of(few[2], str(few[2].case["n_qubits"]), "case.n_qubits")
    return (
        f"QDP's lead is smallest: {recorded.ratio(few[1], few[0])} at {recorded.samples(few[2])} "
        f"row in a call, {recorded.ratio(many[1], many[0])} at {recorded.samples(many[2])} "
        f"(gradients, {qubits} qubits; fewer qubits not measured)"
    )


def _small_ground(library: Library) -> str:
    recorded = library.sweep("qubits")
    found = by_point(select(recorded, "qubits", "amplitude"))
    if recorded is None or not found:
        return UNMEASURED
    legs = found[0]
    qubits = recorded.of(legs[0], str(legs[0].case["n_qubits"]), "case.n_qubits")
    rival = fastest_rival(legs)
    return (
        f"at {qubits} qubits QDP's lead over {rival.title if rival else '-'} is "
        f"{recorded.ratio(rival, find(legs, 'qdp'))}"
    )


def _large_ground(library: Library) -> str:
    recorded = library.others.get("cost_model")
    if recorded is None:
        return f"{UNMEASURED} against them"
    largest_line = max(
        (line for line in recorded.lines if "n_qubits" in line), key=lambda line: line["n_qubits"]
    )
    qubits = recorded.value(largest_line, str(largest_line["n_qubits"]), "n_qubits")
    return (
        f"{UNMEASURED} against them: QDP runs one state on all cores of one machine, and its "
        f"largest one timed has {qubits} qubits"
    )


# Sections


def recommendations(library: Library) -> list[Block]:
    """Return when to use QDP, and when not."""
    chosen, others = choices(library)
    return [
        Heading(2, "Recommendations"),
        Table(HEAD, [one.row for one in chosen]),
        Heading(3, "When not to use QDP"),
        Table(HEAD, [one.row for one in others]),
    ]


def front_page(library: Library) -> list[Block]:
    """Return the table of the project's front page."""
    chosen, others = choices(library)
    return [Table(HEAD, [one.row for one in (*chosen, *others)])]


def conclusions(library: Library) -> list[Block]:
    """Return what the records support."""
    items = []
    study = library.others.get("batched_execution")
    if study is not None:
        items.append(_where_time_goes(study))
    items.append(
        "A batched engine is what makes the difference: samples lie side by side in the lanes of "
        "the registers, so that gates cost no shuffles and Python is paid once a batch."
    )
    roadmap = library.gradients.get(ROADMAP)
    if roadmap is not None:
        legs = largest(roadmap.legs)
        rival, cached = find(legs, ROADMAP_RIVAL), find(legs, "pennylane-stateprep")
        if rival is not None and cached is not None:
            items.append(
                "Encoding once, which the roadmap set out to show, is a small part of QDP's lead. "
                f"In PennyLane's own path its gain is: {roadmap.ratio(rival, cached)}."
            )
    if gpu_report.taken(library) is None:
        items.append("All figures are of CPUs: no GPU record has been taken yet.")
    return [Heading(2, "7. Conclusions"), Items(items)]


def _where_time_goes(study: Recorded) -> str:
    """Return how much of a PennyLane evaluation is spent in its compiled code."""
    parts = [line for line in study.lines if line.get("question") == "parts"]
    n_qubits = max(line["n_qubits"] for line in parts)
    seconds = {
        line["what"]: (line, 1e6 * statistics.median(line["seconds"]))
        for line in parts
        if line["n_qubits"] == n_qubits
    }
    call, whole = seconds["QNode call, all of it"]
    compiled = sum(value for name, (_, value) in seconds.items() if name.startswith("C++"))
    return (
        f"Of {study.value(call, number(whole, 4), 'seconds')} µs that a `lightning.qubit` QNode "
        f"takes for one value at {study.value(call, str(n_qubits), 'n_qubits')} qubits, "
        f"{study.value(call, number(compiled), 'seconds of the C++ lines')} µs are simulation "
        "in C++; the rest is Python ([batched_execution.md](batched_execution.md))."
    )
