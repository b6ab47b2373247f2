# SPDX-License-Identifier: Apache-2.0
"""Qiskit: the parameter-shift rule through Aer, or through ``quantum_info.Statevector``.

Neither has a gradient of its own that starts in a given state. Qiskit's qubit 0 is the least
significant bit, so wires are mirrored. Aer gets a circuit a row and binds the 2P shifted angles in
one job, as its documentation of ``parameter_binds`` shows; ``qiskit`` is what a user without Aer
would write.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import (
    EncodedOnceInChunks,
    EncodedOnceInProcesses,
    Features,
    Gradients,
    Task,
    shift_gradients,
    shifted_angles,
)


def qiskit_problem(case: GradientCase) -> tuple[Any, list[Any], Any]:
    """Return the circuit, its parameters in our order, and the observable."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.quantum_info import SparsePauliOp

    last = case.n_qubits - 1
    angles = list(ParameterVector("p", case.n_parameters))
    circuit = QuantumCircuit(case.n_qubits)
    index = 0
    for _ in range(case.n_layers):
        for add in (circuit.ry, circuit.rz):
            for qubit in range(case.n_qubits):
                add(angles[index], last - qubit)
                index += 1
        for qubit in range(last):
            circuit.cx(last - qubit, last - qubit - 1)
    observable = SparsePauliOp.from_sparse_list(
        [
            ("".join(letter for _, letter in word), [last - wire for wire, _ in word], coefficient)
            for coefficient, word in case.terms
        ],
        case.n_qubits,
    )
    return circuit, angles, observable


class QiskitAer(EncodedOnceInChunks):
    """A chunk of rows a job; Aer's own threads over the circuits of a job."""

    name = "qiskit-aer"
    title = "Qiskit Aer"
    description = "statevector method, a circuit a row, 2P bound parameter sets in one job"
    rule = "parameter-shift"
    distributions: ClassVar[tuple[str, ...]] = ("qiskit-aer", "qiskit", "numpy")
    extra = "rivals"
    rows_per_job = 8

    def __init__(self, case: GradientCase, features: Features) -> None:
        super().__init__(case, features)
        self.size = self.rows_per_job

    def prepare(self) -> None:
        """Build and transpile the circuit without its first state; run one row."""
        from qiskit_aer import AerSimulator

        case = self.case
        self.circuit, angles, self.observable = qiskit_problem(case)
        shifted = shifted_angles(case)
        self.binds = {angle: shifted[:, index].tolist() for index, angle in enumerate(angles)}
        self.simulator = AerSimulator(
            method="statevector",
            precision=case.precision,
            max_parallel_threads=case.threads,
            max_parallel_experiments=case.threads,
        )
        self.allocate_states(case.complex_dtype)
        self.run(min(1, len(self.features)))

    def chunk(self, states: NDArray[Any]) -> Gradients:
        """Return the gradients of some rows, from one job."""
        from qiskit import QuantumCircuit

        circuits = []
        for state in states:
            circuit = QuantumCircuit(self.case.n_qubits)
            circuit.set_statevector(state)
            circuit.compose(self.circuit, inplace=True)
            circuit.save_expectation_value(self.observable, range(self.case.n_qubits))
            circuits.append(circuit)
        result = self.simulator.run(circuits, parameter_binds=[self.binds] * len(circuits)).result()
        if not result.success:
            raise RuntimeError(f"Aer: {result.status}")
        values = np.array([found.data.expectation_value for found in result.results])
        return shift_gradients(values.reshape(len(states), -1))


def qiskit_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Bind the shifted circuits once; the task evolves every row through each of them."""
    from qiskit.quantum_info import Statevector

    circuit, angles, observable = qiskit_problem(case)
    bound = [
        circuit.assign_parameters(dict(zip(angles, values, strict=True)))
        for values in shifted_angles(case)
    ]

    def task(start: int, stop: int) -> Gradients:
        gradients = np.empty((stop - start, case.n_parameters))
        for row in range(start, stop):
            state = Statevector(states[row])
            values = [state.evolve(one).expectation_value(observable).real for one in bound]
            gradients[row - start] = shift_gradients(values)
        return gradients

    return task


class Qiskit(EncodedOnceInProcesses):
    """Without Aer."""

    name = "qiskit"
    title = "Qiskit Statevector"
    description = "quantum_info.Statevector, a process a core, every shifted circuit bound once"
    rule = "parameter-shift"
    precisions = ("double",)
    distributions = ("qiskit", "numpy")
    extra = "rivals"
    make_task = qiskit_task
    states_dtype = np.complex128
