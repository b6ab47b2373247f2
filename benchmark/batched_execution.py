# SPDX-License-Identifier: Apache-2.0
"""Where a PennyLane evaluation's time goes, and what batching it brings: roadmap issue 2.

The circuit of the gradient benchmark, <Z0>, on given states. Every way is checked against QDP's
reference backend before it is timed. Writes one JSON line a measurement with raw times; ``--write``
puts the tables of the newest record into benchmark/docs/batched_execution.md, ``--check`` compares.

    python -m benchmark.batched_execution --output-dir benchmark/results
    python -m benchmark.batched_execution --write

With ``--device lightning.gpu``, on a machine with a GPU, it takes one evaluation apart there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core import environment, records, statistics
from benchmark.core.cases import GradientCase, amplitudes
from benchmark.core.command_line import positive_integer
from benchmark.core.contenders.base import RowProcesses, Task
from benchmark.core.contenders.lightning_paths import library_details
from benchmark.core.contenders.pennylane_paths import apply_layers
from benchmark.core.device import loaded_libraries
from benchmark.core.document import Block, Table, Text, markdown, number, replaced
from benchmark.core.ratios import interval_words

RESULTS = Path(__file__).resolve().parent / "results"
DOCUMENT = Path(__file__).resolve().parent / "docs" / "batched_execution.md"
BEGIN = "<!-- tables: begin, written by benchmark.batched_execution -->"
END = "<!-- tables: end -->"
DISTRIBUTIONS = (
    "pennylane",
    "pennylane-lightning",
    "pennylane-lightning-gpu",
    "custatevec-cu12",
    "custatevec-cu13",
    "qdp",
    "numpy",
)
# Lightning's devices: the name of their record, the folder of their classes, what those begin with.
DEVICES = {
    "lightning.qubit": ("batched_execution", "lightning_qubit", "Lightning"),
    "lightning.gpu": ("lightning_gpu", "lightning_gpu", "LightningGPU"),
}
TOLERANCE = 1e-10
N_LAYERS = 2

Record = dict[str, Any]
Call = Callable[[], Any]


class Problem:
    """One circuit on some states, and the values that every way must give."""

    def __init__(self, n_qubits: int, rows: int) -> None:
        import qdp

        random = np.random.default_rng(42)
        self.n_qubits, self.rows = n_qubits, rows
        self.parameters = random.normal(size=2 * n_qubits * N_LAYERS)
        real = amplitudes(random.normal(size=(rows, 2**n_qubits)), n_qubits)
        self.states = real.astype(complex)
        self.circuit = qdp.ansatz.ry_rz_ladder(n_qubits, N_LAYERS)
        self.closers: list[Callable[[], None]] = []
        self.expected = qdp.expectation(
            self.circuit, self.parameters, self.states, "Z0", backend="reference"
        )

    @property
    def case(self) -> GradientCase:
        """The same as a case of the gradient benchmark, one thread a process."""
        return GradientCase(
            self.n_qubits, N_LAYERS, tuple(self.parameters), threads=environment.usable_cpus()
        )

    def close(self) -> None:
        """End the threads and processes that ways of running it have started."""
        for close in self.closers:
            close()

    def require(self, name: str, values: Any) -> None:
        """Raise RuntimeError if the values are not the reference's."""
        found = np.asarray(values, dtype=float).reshape(-1)
        difference = float(np.abs(found - self.expected[: len(found)]).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{name}: expected the reference's values, got {difference} away")


def in_turns(calls: Mapping[str, Call], runs: int, least_s: float = 0.02) -> dict[str, list[float]]:
    """Return the seconds of each call, ``runs`` times in turns, each the mean over ``least_s``."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            once = max(time.perf_counter() - start, 1e-7)
            inner = max(1, int(least_s / once))
            start = time.perf_counter()
            for _ in range(inner):
                call()
            found[name].append((time.perf_counter() - start) / inner)
    return found


def quantum_function(problem: Problem, *, prepare: bool = True) -> Callable[..., Any]:
    """Return the circuit as PennyLane's queue takes it."""
    import pennylane as qml

    def circuit(state: Any, parameters: Any) -> Any:
        if prepare:
            qml.StatePrep(state, wires=range(problem.n_qubits), validate_norm=False)
        apply_layers(problem.n_qubits, N_LAYERS, parameters)
        return qml.expval(qml.PauliZ(0))

    return circuit


def tape_of(problem: Problem, state: Any, *, prepare: bool = True) -> Any:
    """Return the circuit's tape."""
    import pennylane as qml

    with qml.queuing.AnnotatedQueue() as queue:
        quantum_function(problem, prepare=prepare)(state, problem.parameters)
    return qml.tape.QuantumScript.from_queue(queue)


class Lightning:
    """Lightning's C++ state vector, driven directly."""

    def __init__(self, problem: Problem, device: str = "lightning.qubit") -> None:
        _, folder, prefix = DEVICES[device]

        def named(module: str, name: str) -> Any:
            found = importlib.import_module(f"pennylane_lightning.{folder}.{module}")
            return getattr(found, prefix + name)

        self.holder = named("_state_vector", "StateVector")(problem.n_qubits, dtype=np.complex128)
        self.state = self.holder.state_vector
        self.measurements = named("_measurements", "Measurements")(self.holder)
        tape = tape_of(problem, None, prepare=False)
        self.gates = [
            (getattr(self.state, gate.name), list(gate.wires), gate.parameters)
            for gate in tape.operations
        ]

    def inject(self, amplitudes_: NDArray[Any]) -> None:
        """Copy amplitudes into the state vector."""
        self.state.updateData(amplitudes_)

    def apply(self) -> None:
        """Apply all gates."""
        for gate, wires, angles in self.gates:
            gate(wires, False, angles)

    def measure(self) -> float:
        """Return <Z0>."""
        import pennylane as qml

        return float(self.measurements.measurement(qml.expval(qml.PauliZ(0))))

    def value(self, amplitudes_: NDArray[Any]) -> float:
        """Run the whole circuit on one state."""
        self.inject(amplitudes_)
        self.apply()
        return self.measure()


def evaluation_parts(problem: Problem, name: str = "lightning.qubit") -> dict[str, Call]:
    """Question 1: the parts of one evaluation on a device of Lightning's."""
    import pennylane as qml

    device = qml.device(name, wires=problem.n_qubits)
    node = qml.QNode(quantum_function(problem), device, diff_method=None)
    state, parameters = problem.states[0], problem.parameters
    problem.require("QNode", node(state, parameters))
    tape = tape_of(problem, state)
    config = device.setup_execution_config(circuit=tape)
    program = device.preprocess_transforms(config)
    (ready,), _ = program((tape,))
    problem.require("device.execute", device.execute((ready,), config))
    direct = Lightning(problem, name)
    problem.require("C++", direct.value(state))

    def make() -> Any:
        fresh = qml.device(name, wires=problem.n_qubits)
        return qml.QNode(quantum_function(problem), fresh, diff_method=None)

    def configure() -> Any:
        return device.preprocess_transforms(device.setup_execution_config(circuit=tape))

    return {
        "making device and QNode (once)": make,
        "QNode call, all of it": lambda: node(state, parameters),
        "building the tape": lambda: tape_of(problem, state),
        "execution config and transform program": configure,
        "device transforms (validate, decompose, ...)": lambda: program((tape,)),
        "device.execute of the ready tape": lambda: device.execute((ready,), config),
        "C++: setting the state": lambda: direct.inject(state),
        "C++: all gates": direct.apply,
        "C++: the expectation value": direct.measure,
    }


def state_preparation(problem: Problem, name: str = "lightning.qubit") -> dict[str, Call]:
    """Question 3: StatePrep against putting the amplitudes into the state vector."""
    import pennylane as qml

    device = qml.device(name, wires=problem.n_qubits)
    state = problem.states[0]
    ready = []
    for prepare in (True, False):
        tape = tape_of(problem, state, prepare=prepare)
        config = device.setup_execution_config(circuit=tape)
        (one,), _ = device.preprocess_transforms(config)((tape,))
        ready.append((one, config))
    direct = Lightning(problem, name)
    target = np.empty_like(state)
    return {
        "device.execute with StatePrep": lambda: device.execute((ready[0][0],), ready[0][1]),
        "device.execute without it": lambda: device.execute((ready[1][0],), ready[1][1]),
        "updateData of Lightning's state vector": lambda: direct.inject(state),
        "a copy of the amplitudes by NumPy": lambda: np.copyto(target, state),
    }


def batches(problem: Problem) -> dict[str, Call]:
    """Question 2 and the approaches: many states at once, each a whole batch a call."""
    import pennylane as qml

    import qdp

    states, parameters = problem.states, problem.parameters
    found: dict[str, Call] = {}
    for name in ("default.qubit", "lightning.qubit"):
        device = qml.device(name, wires=problem.n_qubits)
        node = qml.QNode(quantum_function(problem), device, diff_method=None)
        found[f"{name}: a QNode call a state"] = lambda node=node: [
            node(state, parameters) for state in states
        ]
        found[f"{name}: one call, states broadcast"] = lambda node=node: node(states, parameters)
    lightning = qml.device("lightning.qubit", wires=problem.n_qubits)

    @qml.transform
    def one_tape_a_state(tape: Any) -> Any:
        (first, *others) = tape.operations
        tapes = [
            tape.copy(
                operations=[qml.StatePrep(state, wires=first.wires, validate_norm=False), *others]
            )
            for state in np.atleast_2d(first.parameters[0])
        ]
        return tapes, np.array

    batched = one_tape_a_state(qml.QNode(quantum_function(problem), lightning, diff_method=None))
    found["lightning.qubit: qml.transform, a tape a state"] = lambda: batched(states, parameters)
    n_threads = environment.usable_cpus()
    devices = [qml.device("lightning.qubit", wires=problem.n_qubits) for _ in range(n_threads)]
    nodes = [qml.QNode(quantum_function(problem), one, diff_method=None) for one in devices]
    pool = ThreadPoolExecutor(n_threads)
    problem.closers.append(pool.shutdown)

    def share(first: int) -> list[Any]:
        return [nodes[first](state, parameters) for state in states[first::n_threads]]

    def threaded() -> Any:
        values = np.empty(problem.rows)
        for first, part in enumerate(pool.map(share, range(n_threads))):
            values[first::n_threads] = part
        return values

    found["lightning.qubit: a device a thread"] = threaded
    # A process a core, so one thread a process.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        processes = RowProcesses(lightning_values, problem.case, problem.rows, np.complex128)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    problem.closers.append(processes.close)
    processes.states[:] = states
    found["Lightning's C++: a process a core"] = lambda: processes.run(problem.rows)[:, 0]
    found["QDP: one call"] = lambda: qdp.expectation(problem.circuit, parameters, states, "Z0")
    for name, call in found.items():
        problem.require(name, call())
    return found


def lightning_values(case: GradientCase, states: NDArray[Any]) -> Task:
    """Return a task that writes <Z0> of each row into the first column."""
    problem = Problem(case.n_qubits, 1)
    problem.parameters = np.array(case.parameters)
    direct = Lightning(problem)

    def task(start: int, stop: int) -> NDArray[np.float64]:
        values = np.zeros((stop - start, case.n_parameters))
        values[:, 0] = [direct.value(states[row]) for row in range(start, stop)]
        return values

    return task


def measure(qubits: Sequence[int], rows: Sequence[int], runs: int, device: str) -> Iterator[Record]:
    """Yield all measurements, the ways of each question in turns; batches on the CPU alone."""

    def lines(question: str, n_qubits: int, count: int, calls: Mapping[str, Call]) -> Any:
        for name, seconds in in_turns(calls, runs).items():
            yield {
                "record": "measurement",
                "question": question,
                "what": name,
                "n_qubits": n_qubits,
                "rows": count,
                "seconds": seconds,
            }

    for n_qubits in qubits:
        single = Problem(n_qubits, 1)
        yield from lines("parts", n_qubits, 1, evaluation_parts(single, device))
        yield from lines("preparation", n_qubits, 1, state_preparation(single, device))
        for count in rows if device == "lightning.qubit" else ():
            problem = Problem(n_qubits, count)
            try:
                yield from lines("batches", n_qubits, count, batches(problem))
            finally:
                problem.close()


def interface_facts() -> Record:
    """Return what the installed PennyLane still has of the roadmap's interfaces.

    And how many tapes Lightning's own preprocessing makes of a batch of three states.
    """
    import pennylane as qml

    problem = Problem(2, 3)
    tape = tape_of(problem, problem.states)
    device = qml.device("lightning.qubit", wires=2)
    config = device.setup_execution_config(circuit=tape)
    tapes, _ = device.preprocess_transforms(config)((tape,))
    return {
        "tapes_of_three_states": len(tapes),
        "record": "interfaces",
        "batch_transform": hasattr(qml, "batch_transform"),
        "transform": hasattr(qml, "transform"),
        "batch_input": hasattr(qml, "batch_input"),
        "broadcast_expand": hasattr(qml.transforms, "broadcast_expand"),
    }


def us(line: Mapping[str, Any], per: int = 1) -> str:
    """Return microseconds with their interval."""
    found = statistics.estimate([1e6 * seconds / per for seconds in line["seconds"]])
    return f"{number(found.median, 4)} ({number(found.low, 4)} to {number(found.high, 4)})"


def table_of(
    measured: Sequence[Record], question: str, sizes: Sequence[tuple[int, int]], head: Sequence[str]
) -> Table:
    """Return the table of one question; ``sizes`` are qubits and rows, a column each."""
    rows: dict[str, list[str]] = {}
    for size in sizes:
        for line in measured:
            if (line["question"], line["n_qubits"], line["rows"]) == (question, *size):
                rows.setdefault(line["what"], []).append(us(line, size[1]))
    return Table(["what", *head], [[what, *cells] for what, cells in rows.items()])


def evaluation_tables(path: Path, device: str) -> list[Block]:
    """Return what one evaluation consists of on a device of Lightning's, from its record."""
    lines = records.read_lines(path)
    run = lines[0]
    measured = [line for line in lines if line["record"] == "measurement"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    where = ", ".join([f"{run['cpu']}, {run['cpus_usable']} cores", *run["gpus"]])
    qubits = sorted({line["n_qubits"] for line in measured})
    single = [(n_qubits, 1) for n_qubits in qubits]
    head = [f"n = {n_qubits} (µs)" for n_qubits in qubits]
    substituted = f" {device} is {run['substituted']}." if "substituted" in run else ""
    return [
        Text(
            f"From [{path.name}](../results/{path.name}): {where}, commit "
            f"{str(run['git']['commit'])[:10]}; {versions}. Medians with 95 % intervals."
            f"{substituted}"
        ),
        Text(f"**One evaluation on {device}**"),
        table_of(measured, "parts", single, head),
        Text(" ".join(_shares(measured, n_qubits) for n_qubits in qubits)),
        Text("**StatePrep against direct injection**"),
        table_of(measured, "preparation", single, head),
        Text(f"With StatePrep over without: {_preparation(measured, qubits)}."),
    ]


def gpu_tables(results: Path = RESULTS) -> list[Block]:
    """Return the same of lightning.gpu from its newest record, or that there is none."""
    taken = sorted(results.glob(f"{DEVICES['lightning.gpu'][0]}_*.jsonl"))
    if not taken:
        return [Text("**One evaluation on lightning.gpu**: not yet measured.")]
    return evaluation_tables(taken[-1], "lightning.gpu")


def tables(path: Path, results: Path = RESULTS) -> str:
    """Return the document's tables, from the record of a CPU and the newest of a GPU."""
    lines = records.read_lines(path)
    measured = [line for line in lines if line["record"] == "measurement"]
    facts = next(line for line in lines if line["record"] == "interfaces")
    qubits = sorted({line["n_qubits"] for line in measured})
    blocks = evaluation_tables(path, "lightning.qubit")
    counts = sorted({line["rows"] for line in measured if line["question"] == "batches"})
    for n_qubits in qubits:
        blocks += [
            Text(f"**Batches, a state's share of the call, {n_qubits} qubits**"),
            table_of(
                measured,
                "batches",
                [(n_qubits, rows) for rows in counts],
                [f"{rows} {'row' if rows == 1 else 'rows'} (µs)" for rows in counts],
            ),
        ]
    there = {True: "there", False: "gone"}
    interfaces = ", ".join(
        f"`{name}` {there[facts[name]]}"
        for name in ("batch_transform", "batch_input", "transform", "broadcast_expand")
    )
    blocks.append(
        Text(
            f"Interfaces of this PennyLane: {interfaces}. Lightning's preprocessing makes "
            f"{facts['tapes_of_three_states']} tapes of a batch of 3 states."
        )
    )
    return markdown([*blocks, *gpu_tables(results)]).rstrip()


def _shares(measured: Sequence[Mapping[str, Any]], n_qubits: int) -> str:
    """Say what of a QNode call is compiled, and what no part timed by itself accounts for."""
    median = {
        line["what"]: 1e6 * statistics.median(line["seconds"])
        for line in measured
        if line["question"] == "parts" and line["n_qubits"] == n_qubits
    }
    whole = median.pop("QNode call, all of it")
    median.pop("making device and QNode (once)")
    compiled = sum(value for name, value in median.items() if name.startswith("C++"))
    parts = sum(value for name, value in median.items() if not name.startswith("C++"))
    return (
        f"At n = {n_qubits} the C++ lines are {number(compiled)} of the call's "
        f"{number(whole, 4)} µs; the rest is Python. Its parts timed by themselves come to "
        f"{number(parts)} µs, and PennyLane's workflow around them to the other "
        f"{number(whole - parts)}."
    )


def _preparation(measured: Sequence[Mapping[str, Any]], qubits: Sequence[int]) -> str:
    """Say whether StatePrep makes device.execute slower."""
    found = []
    for n_qubits in qubits:
        seconds = {
            line["what"]: line["seconds"]
            for line in measured
            if line["question"] == "preparation" and line["n_qubits"] == n_qubits
        }
        ratio = statistics.ratio(
            seconds["device.execute with StatePrep"], seconds["device.execute without it"]
        )
        found.append(f"{interval_words(ratio)} at n = {n_qubits}")
    return ", ".join(found)


def main(arguments: list[str] | None = None) -> int:
    """Measure and record, or write or check the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=positive_integer, default=10)
    parser.add_argument("--n-qubits", type=positive_integer, nargs="+", default=[10, 12])
    parser.add_argument("--rows", type=positive_integer, nargs="+", default=[1, 10, 100])
    parser.add_argument("--device", choices=DEVICES, default="lightning.qubit")
    parser.add_argument("--write", action="store_true", help="write the document's tables")
    parser.add_argument("--check", action="store_true", help="exit status 1 if they would change")
    options = parser.parse_args(arguments)
    if options.write or options.check:
        taken = sorted(RESULTS.glob("batched_execution_*.jsonl"))
        if not taken:
            parser.error(
                f"expected a record in {RESULTS.name}, got none; measure first, with --output-dir"
            )
        newest = taken[-1]
        document = DOCUMENT.read_text(encoding="utf-8")
        wanted = replaced(document, BEGIN, END, tables(newest))
        if options.check:
            return int(wanted != document)
        records.atomic_write(DOCUMENT, wanted.encode())
        return 0
    started = datetime.now()
    lines = [interface_facts()]
    for line in measure(options.n_qubits, options.rows, options.runs, options.device):
        lines.append(line)
        where = f"n = {line['n_qubits']}, {line['rows']} rows"
        print(f"{where:22s}{line['what']:52s}{us(line, line['rows'])} us", flush=True)
    on_gpu = options.device == "lightning.gpu"
    run = {
        "record": "run",
        "started": started.isoformat(timespec="seconds"),
        "versions": environment.versions(DISTRIBUTIONS),
        # Looked up before torch, which the description asks for GPUs, loads libraries of its own.
        **(library_details(loaded_libraries()) if on_gpu else {}),
        **environment.describe(),
    }
    records.save_study(options.output_dir, started, DEVICES[options.device][0], [run, *lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
