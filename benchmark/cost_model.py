# SPDX-License-Identifier: Apache-2.0
"""What a call of QDP costs: times against qubits, layers, rows, threads and shots, and their fit.

No rivals here. Each kind of call is timed over a grid; its time is fitted by non-negative least
squares of relative errors in a sum of stated terms, checked on a size that the fit did not see,
and extrapolated on paper to clusters and 30 qubits. Letters: n qubits, D = 2**n, L layers,
P = 2nL parameters, R rows, T threads, S shots. Writes JSON lines of kind run and point, with
raw times; fits, document and chart are derived from those alone.

    python -m benchmark.cost_model --output-dir results
    python -m benchmark.cost_model --records results/cost_model_....jsonl --document cost_model.md
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core import environment, records
from benchmark.core.command_line import describe_run, positive_integer
from benchmark.core.document import (
    Block,
    Chart,
    Code,
    Heading,
    Items,
    Series,
    Table,
    Text,
    draw,
    markdown,
    number,
)
from benchmark.core.styles import Style

WORKS = ("value", "adjoint", "parameter-shift", "shots")
# States of more qubits outgrow a level of the caches, and an amplitude costs more the larger the
# part outside: 128 KiB, 2 MiB, 16 MiB of complex128, set by looking at times on one machine.
LEVELS = (13, 17, 20)
# A call's time is repeated until it has taken so long, or so often as asked.
SECONDS_A_POINT = 0.6


@dataclass(frozen=True)
class Point:
    """A kind of call on the ladder circuit, and its sizes; ``shots`` is 0 but for shots.

    ``rows`` of a measurement is whole; on paper a node may hold a fraction of a row.
    """

    work: str
    n_qubits: int
    n_layers: int
    rows: float
    threads: int
    shots: int = 0

    @property
    def n_parameters(self) -> int:
        """The ladder's number of parameters."""
        return 2 * self.n_qubits * self.n_layers

    @property
    def amplitudes(self) -> float:
        """Amplitudes of all rows."""
        return self.rows * 2.0**self.n_qubits


@dataclass(frozen=True)
class Fit:
    """Seconds a unit of each term, and how well they say the measured times.

    ``residuals`` are predicted over measured times less 1, in the order of the points;
    ``held_out`` likewise of the largest size, by a fit without it.
    """

    work: str
    coefficients: Mapping[str, float]
    residuals: Sequence[float]
    held_out_qubits: int
    held_out: Sequence[float]
    largest: int

    def seconds(self, point: Point) -> float:
        """Return the time that the model gives a call."""
        found = terms(point)
        return sum(self.coefficients[name] * size for name, size in found.items())


# The model


def terms(point: Point) -> dict[str, float]:
    """Return the terms of a call's time, by their formulas.

    >>> terms(Point("value", 2, 1, 10, 2))["R D P / T"]
    80.0
    """
    parameters, amplitudes = point.n_parameters, point.amplitudes
    share = amplitudes / point.threads
    found = {
        "1": 1.0,
        "P": float(parameters),
        "R": float(point.rows),
        "R D": amplitudes,
        "R D / T": share,
        "R D P / T": share * parameters,
    }
    rotated = share * parameters
    if point.work in ("parameter-shift", "shots"):
        # Each of 2 P shifted circuits runs on from the shared prefix: P / 2 rotations on average.
        rotated = share * parameters**2
        found |= {"R P": point.rows * parameters, "R D P^2 / T": rotated}
    if point.work == "shots":
        # Outcomes are drawn one after another, and those that remain likely take longer.
        drawn = min(point.shots, 2**point.n_qubits)
        found |= {
            "R D P": amplitudes * parameters,
            "R P min(S, D)": point.rows * parameters * drawn,
        }
    dearest = "R D P^2" if "R D P^2 / T" in found else "R D P"
    for level in LEVELS:
        outside = max(0.0, 1 - 2.0 ** (level - point.n_qubits))
        if level == LEVELS[-1]:  # one thread alone nearly fills the memory's bandwidth
            found[f"{dearest} outside n = {level}"] = rotated * point.threads * outside
        else:
            found[f"{dearest} / T outside n = {level}"] = rotated * outside
    return found


def solve(points: Sequence[Point], seconds: Sequence[float]) -> dict[str, float]:
    """Return non-negative seconds a unit of each term that make relative errors least squares."""
    from scipy.optimize import nnls

    rows = [terms(point) for point in points]
    matrix = np.array([list(row.values()) for row in rows]) / np.array(seconds)[:, None]
    # Terms differ by ten orders of magnitude; a term that no point has gets no seconds.
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0.0] = 1.0
    found, _ = nnls(matrix / lengths, np.ones(len(points)))
    return dict(zip(rows[0], (found / lengths).tolist(), strict=True))


def fit(points: Sequence[Point], seconds: Sequence[float]) -> Fit:
    """Fit the model of one kind of call, and once more without the largest size.

    Raises:
        ValueError: points of several kinds, or of fewer than three sizes.
    """
    works = {point.work for point in points}
    sizes = sorted({point.n_qubits for point in points})
    if len(works) != 1 or len(sizes) < 3:
        raise ValueError(
            f"expected points of one kind of call at three sizes or more, got kinds {works} and "
            f"sizes {sizes}"
        )
    largest = sizes[-1]
    kept = [index for index, point in enumerate(points) if point.n_qubits < largest]
    left_out = [index for index, point in enumerate(points) if point.n_qubits == largest]
    found = Fit(works.pop(), solve(points, seconds), (), largest, (), largest)
    before = replace(
        found,
        coefficients=solve([points[index] for index in kept], [seconds[index] for index in kept]),
    )

    def errors(model: Fit, indices: Sequence[int]) -> list[float]:
        return [model.seconds(points[index]) / seconds[index] - 1 for index in indices]

    return replace(
        found, residuals=errors(found, range(len(points))), held_out=errors(before, left_out)
    )


# Measurements


def grid(work: str, *, quick: bool, threads: int) -> list[Point]:
    """Return the points at which a kind of call is measured: one size changes at a time."""
    # Calls of about equal length: fewer rows where each runs 2 P circuits, or samples them too.
    budget = {"value": 22, "adjoint": 22, "parameter-shift": 16, "shots": 12}[work] - 2 * quick
    largest = {"value": 22, "adjoint": 22, "parameter-shift": 20, "shots": 18}[work]
    sizes = (4, 6, 8, 10) if quick else (4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22)
    shots = 1000 if work == "shots" else 0
    most = 64 if shots else 4096

    def at(n_qubits: int, n_layers: int = 2, **changes: Any) -> Point:
        rows = min(most, 2 ** max(0, budget - n_qubits))
        return replace(Point(work, n_qubits, n_layers, rows, threads, shots), **changes)

    points = [at(n_qubits) for n_qubits in sizes if n_qubits <= largest]
    points += [at(8, n_layers) for n_layers in ((1, 4) if quick else (1, 4, 8))]
    points += [at(6, rows=at(6).rows // part) for part in (4, 16)]
    points += [
        at(n_qubits, threads=1)
        for n_qubits in (6, 10, 14, 16, 18, 20)
        if n_qubits <= min(largest, sizes[-1])
    ]
    if shots:
        points += [at(8, shots=count) for count in (100, 10_000)]
    return list(dict.fromkeys(points))


def measure(point: Point, runs: int) -> list[float]:
    """Return the seconds of calls at a point, after one to warm up."""
    import qdp
    from qdp import _core

    circuit = qdp.ansatz.ry_rz_ladder(point.n_qubits, point.n_layers)
    observable = qdp.Observable.sum_z(point.n_qubits)
    random = np.random.default_rng(42)
    parameters = random.normal(size=circuit.n_parameters)
    features = random.normal(size=(int(point.rows), 2**point.n_qubits))

    def call() -> NDArray[Any]:
        if point.work == "value":
            return np.asarray(
                qdp.expectation(circuit, parameters, features, observable, encoding="amplitude")
            )
        method = "parameter-shift" if point.work == "shots" else point.work
        options: dict[str, Any] = {"shots": point.shots, "seed": 1} if point.shots else {}
        return np.asarray(
            qdp.gradient(
                circuit,
                parameters,
                features,
                observable,
                encoding="amplitude",
                method=method,
                **options,
            )
        )

    _core.set_thread_count(point.threads)
    try:
        call()
        times: list[float] = []
        while len(times) < runs and (len(times) < 2 or sum(times) < SECONDS_A_POINT):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    finally:
        _core.set_thread_count(environment.usable_cpus())
    return times


# Extrapolation


@dataclass(frozen=True)
class Network:
    """What is assumed, not measured, between nodes: seconds a message, bytes a second."""

    latency: float = 5e-6
    bytes_per_second: float = 25e9


def rows_over_nodes(model: Fit, point: Point, nodes: int, network: Network) -> float:
    """Return the seconds of a call whose rows are shared out, with one sum of P numbers after."""
    steps = math.ceil(math.log2(nodes))
    message = network.latency + 8 * point.n_parameters / network.bytes_per_second
    return model.seconds(replace(point, rows=point.rows / nodes)) + steps * message


def state_over_nodes(
    model: Fit, point: Point, nodes: int, network: Network
) -> tuple[float, float, float]:
    """Return the seconds of calculation, of exchange, and the bytes a node, of a state shared out.

    Half of the rotations (RY) pair amplitudes; after ladders of CNOT any pair may lie on two
    nodes, so each of them is charged an exchange of a node's whole share.
    """
    pairings = point.n_parameters / 2
    exchanges, vectors = {
        "value": (pairings, 1),
        "adjoint": (3 * pairings, 3),  # forward on one vector, back on two
    }[point.work]
    share = 16 * point.amplitudes / nodes
    message = network.latency + share / network.bytes_per_second
    calculation = model.seconds(replace(point, rows=point.rows / nodes))
    return calculation, (exchanges * message if nodes > 1 else 0.0), vectors * share


def extrapolate(model: Fit, threads: int, network: Network) -> list[dict[str, Any]]:
    """Return what the model says of larger runs, where its points reach far enough.

    Many rows need the size itself among those measured or passed; 30 qubits need a size whose
    states lie outside all caches, for without one the model knows nothing of the memory.
    """
    shots = 1000 if model.work == "shots" else 0
    lines = []
    for nodes in (1, 16, 256) if model.largest >= 12 else ():
        point = Point(model.work, 12, 2, 1_000_000, threads, shots)
        seconds = rows_over_nodes(model, point, nodes, network)
        lines.append({"over": "rows", "nodes": nodes, "point": asdict(point), "seconds": seconds})
    for nodes in (1, 16, 256) if model.largest > LEVELS[-1] else ():
        point = Point(model.work, 30, 2, 1, threads, shots)
        calculation, exchange, n_bytes = state_over_nodes(model, point, nodes, network)
        lines.append(
            {
                "over": "state",
                "nodes": nodes,
                "point": asdict(point),
                "seconds": calculation + exchange,
                "calculation_seconds": calculation,
                "exchange_seconds": exchange,
                "bytes_per_node": n_bytes,
            }
        )
    return [{"work": model.work, **line} for line in lines]


# The document


def fits_of(lines: Sequence[Mapping[str, Any]]) -> list[Fit]:
    """Return the fit of each kind of call in a run's lines, from the medians of its raw times."""
    points: dict[str, list[Point]] = {}
    seconds: dict[str, list[float]] = {}
    for line in lines[1:]:
        sizes = {name: line[name] for name in Point.__dataclass_fields__}
        points.setdefault(line["work"], []).append(Point(**sizes))
        seconds.setdefault(line["work"], []).append(float(np.median(line["seconds"])))
    return [fit(points[work], seconds[work]) for work in points]


def blocks(lines: Sequence[Mapping[str, Any]], file: str) -> list[Block]:
    """Return the document that a run's lines give; ``file`` is what it names as their source."""
    run = lines[0]
    models = fits_of(lines)
    fits = [asdict(model) for model in models]
    network = Network()
    machine = run["environment"]
    paper = [
        line for model in models for line in extrapolate(model, machine["cpus_usable"], network)
    ]
    found: list[Block] = [
        Heading(1, "Cost model"),
        Text(
            "What a call of QDP costs against qubits n, layers L, parameters P = 2nL, rows R, "
            "threads T and shots S, for the RY, RZ and CNOT ladder with the sum of Z, double "
            "precision, from float64 features under amplitude encoding; D is 2^n. Nothing here "
            "is compared with a rival."
        ),
        Code(
            "python -m benchmark.cost_model --output-dir benchmark/results\n"
            f"python -m benchmark.cost_model --records benchmark/results/{file} "
            "--document benchmark/docs/cost_model.md"
        ),
        Text(
            f"Measured on {machine['cpu']}, {machine['cpus_usable']} CPUs; records: "
            f"[{file}](../results/{file})."
        ),
        Heading(2, "Model"),
        Text(
            "A time is a sum of terms, each a formula times a number of nanoseconds that is not "
            "negative. The numbers make the squares of relative errors smallest "
            "(`scipy.optimize.nnls`). An empty cell: the kind of call has no such term; 0: the "
            "fit needs none; a dash: no point has it."
        ),
        Items(
            [
                "`1` is the call itself, `P` its planning, `R D` what one thread does or the "
                "memory limits, `/ T` what threads share.",
                "`outside n = k`: times 1 - 2^(k - n), the part of a state of more than k qubits "
                "that a level of the caches no longer holds. The levels were set by looking at "
                "all times of one machine.",
                "Parameter-shift runs 2P circuits, each on from the prefix it shares: P / 2 "
                "rotations on average, hence P^2.",
                "Shots are parameter-shift with each circuit sampled S times: every outcome's "
                "count is drawn, and the likely ones, at most S, cost more. Their number hardly "
                "matters beyond that.",
            ]
        ),
        _coefficient_table(fits),
        Heading(2, "Residuals"),
        Text(
            "Predicted over measured time, less 1; without their signs but in the last column. "
            "There, a second fit without the largest size says that size's times: what the "
            "numbers are worth beyond their points. The terms themselves were chosen with all "
            "points in sight."
        ),
        _residual_table(fits),
        residual_chart(lines),
    ]
    if not paper:
        return [*found, Text("The sizes measured are too small: nothing is extrapolated.")]
    return [
        *found,
        Heading(2, "Extrapolation"),
        Text("**Calculated, not measured.** No cluster was used and no state of 30 qubits built."),
        Items(
            [
                "A node is the measured machine; all nodes are alike and wait for nobody.",
                f"A message takes {1e6 * network.latency:g} µs and travels at "
                f"{network.bytes_per_second / 1e9:g} GB/s; nothing hides it.",
                "Rows shared out: no node needs another's rows; one sum of P numbers ends a call.",
                "A state shared out: half of the rotations (RY) pair amplitudes, and each of them "
                "exchanges a node's whole share (adjoint: three times). This is the worst case.",
                "Beyond the largest n measured an amplitude costs what the memory's term says. The "
                "cost still rises at that n: more of a state on a node may be slower.",
                "Parameter-shift and shots were not measured on states outside all caches and have "
                "no rows at n = 30: 2P circuits that share half their rotations cost about P "
                "values.",
                "Memory counts state vectors of complex128: one for values, three for the adjoint.",
                "QDP has no exchange of amplitudes between nodes: these rows say what one would "
                "cost.",
            ]
        ),
        Heading(3, "A million rows, n = 12, L = 2: rows over nodes"),
        Table(
            ["call", "nodes", "seconds (extrapolated)"],
            [
                [line["work"], str(line["nodes"]), number(line["seconds"])]
                for line in paper
                if line["over"] == "rows"
            ],
        ),
        Heading(3, "One row, n = 30, L = 2: the state over nodes"),
        Table(
            [
                "call",
                "nodes",
                "calculation (s, extrapolated)",
                "exchange (s, assumed)",
                "GiB a node",
            ],
            [
                [
                    line["work"],
                    str(line["nodes"]),
                    number(line["calculation_seconds"]),
                    number(line["exchange_seconds"]),
                    number(line["bytes_per_node"] / 2**30),
                ]
                for line in paper
                if line["over"] == "state"
            ],
        ),
    ]


def _nanoseconds(name: str, line: Mapping[str, Any]) -> str:
    if name not in line["coefficients"]:
        return ""
    level = name.partition(" outside n = ")[2]
    if level and int(level) >= line["largest"]:
        return "-"
    return number(1e9 * line["coefficients"][name])


def _coefficient_table(fits: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for line in fits for name in line["coefficients"]))
    return Table(
        ["nanoseconds a unit of", *(line["work"] for line in fits)],
        [
            [
                f"`{name}`",
                *(_nanoseconds(name, line) for line in fits),
            ]
            for name in names
        ],
    )


def _residual_table(fits: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for line in fits:
        sizes = np.abs(line["residuals"])
        rows.append(
            [
                line["work"],
                str(len(sizes)),
                f"{np.median(sizes):.0%}",
                f"{max(sizes):.0%}",
                f"{line['held_out_qubits']}",
                ", ".join(f"{one:+.0%}" for one in line["held_out"]),
            ]
        )
    return Table(
        [
            "call",
            "points",
            "median residual",
            "largest residual",
            "size left out (n)",
            "residuals there",
        ],
        rows,
    )


def residual_chart(lines: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the chart of predicted over measured times at all points, against qubits."""
    series = []
    for model in fits_of(lines):
        points = [one for one in lines if one["kind"] == "point" and one["work"] == model.work]
        pairs = sorted(
            (one["n_qubits"], 1 + residual)
            for one, residual in zip(points, model.residuals, strict=True)
        )
        series.append(Series(model.work, [x for x, _ in pairs], [y for _, y in pairs], line=False))
    sizes = sorted({x for one in series for x in one.x})
    even = Series("as measured", [sizes[0], sizes[-1]], [1.0, 1.0], style=Style("#555555", ""))
    return Chart(
        "cost_model_residuals",
        "Cost model: predicted over measured time, a point a measurement",
        "Number of qubits",
        "predicted / measured",
        [*series, even],
        log_y=False,
    )


# The command


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all points; return the lines of the run."""
    threads = environment.usable_cpus()
    lines = [{"kind": "run", **describe_run("cost_model", arguments)}]
    for work in WORKS:
        points = grid(work, quick=arguments.quick, threads=threads)
        for point in points:
            seconds = measure(point, arguments.runs)
            lines.append({"kind": "point", **asdict(point), "seconds": seconds})
        print(f"{work}: {len(points)} points", flush=True)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the records, or write the document that given records make."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.cost_model",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes, in half a minute; nothing extrapolated")
    add("--runs", type=positive_integer, default=5, help="timed calls a point (default 5)")
    add("--output-dir", type=Path, default=Path("results"), help="folder of the records")
    add("--records", type=Path, metavar="FILE", help="measure nothing; take these records")
    add("--document", type=Path, metavar="FILE", help="write the document and its chart")
    arguments = parser.parse_args(argv)
    if arguments.records is None:
        lines = run(arguments)
        path = records.save_study(arguments.output_dir, datetime.now(), "cost_model", lines)
    else:
        path = arguments.records
        lines = records.read_lines(path)
        if not lines or lines[0].get("benchmark") != "cost_model":
            print(f"error: {path.name}: expected records of the cost model", file=sys.stderr)
            return 2
    found = blocks(lines, path.name)
    if arguments.document is None:
        print(markdown(found), end="")
        return 0
    records.atomic_write(arguments.document, markdown(found).encode())
    for block in found:
        if isinstance(block, Chart):
            draw(block, arguments.document.parent / "results" / f"{block.name}.png")
    print(f"Saved: {arguments.document}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
