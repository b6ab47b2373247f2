# SPDX-License-Identifier: Apache-2.0
"""Qulacs: parameter-shift over its parametric circuit, or the adjoint method over its gates.

Qulacs's own backprop starts in |0...0> only, so the adjoint sweep is written here with its gates.
Its qubit 0 is the least significant bit, so wires are mirrored, and its rotations are
exp(+i angle P / 2), so angles are negated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import EncodedOnceInProcesses, Gradients, Task

# (amplitudes of one row, its gradient to fill)
Compute = Callable[[NDArray[Any], NDArray[np.float64]], None]


def qulacs_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Build circuit and observable once; the task goes row by row."""
    compute = _adjoint(case) if case.method == "adjoint" else _parameter_shift(case)

    def task(start: int, stop: int) -> Gradients:
        gradients = np.empty((stop - start, case.n_parameters))
        for row in range(start, stop):
            compute(states[row], gradients[row - start])
        return gradients

    return task


def _observable(case: GradientCase) -> Any:
    import qulacs

    observable = qulacs.Observable(case.n_qubits)
    for coefficient, word in case.terms:
        letters = " ".join(f"{letter} {case.n_qubits - 1 - wire}" for wire, letter in word)
        observable.add_operator(coefficient, letters)
    return observable


def _parameter_shift(case: GradientCase) -> Compute:
    import qulacs

    last = case.n_qubits - 1
    observable = _observable(case)
    state: Any = qulacs.QuantumState(case.n_qubits)
    circuit = qulacs.ParametricQuantumCircuit(case.n_qubits)
    index = 0
    for _ in range(case.n_layers):
        for add in (circuit.add_parametric_RY_gate, circuit.add_parametric_RZ_gate):
            for qubit in range(case.n_qubits):
                add(last - qubit, -case.parameters[index])
                index += 1
        for qubit in range(last):
            circuit.add_CNOT_gate(last - qubit, last - qubit - 1)

    def value(amplitudes: NDArray[Any], index: int, angle: float) -> float:
        circuit.set_parameter(index, -angle)
        state.load(amplitudes)
        circuit.update_quantum_state(state)
        return float(observable.get_expectation_value(state))

    def compute(amplitudes: NDArray[Any], gradient: NDArray[np.float64]) -> None:
        for index, angle in enumerate(case.parameters):
            above = value(amplitudes, index, angle + np.pi / 2)
            below = value(amplitudes, index, angle - np.pi / 2)
            circuit.set_parameter(index, -angle)
            gradient[index] = (above - below) / 2

    return compute


def _adjoint(case: GradientCase) -> Compute:
    import qulacs

    last = case.n_qubits - 1
    gate = qulacs.gate
    observable = _observable(case)
    state: Any = qulacs.QuantumState(case.n_qubits)
    costate, scratch = qulacs.QuantumState(case.n_qubits), qulacs.QuantumState(case.n_qubits)
    # (parameter or None, gate, inverse, Pauli generator or None), in order of application
    sweep: list[tuple[int | None, Any, Any, Any]] = []
    index = 0
    for _ in range(case.n_layers):
        for rotation, pauli in ((gate.RY, gate.Y), (gate.RZ, gate.Z)):
            for qubit in range(case.n_qubits):
                angle, wire = case.parameters[index], last - qubit
                sweep.append((index, rotation(wire, -angle), rotation(wire, angle), pauli(wire)))
                index += 1
        for qubit in range(last):
            flip = gate.CNOT(last - qubit, last - qubit - 1)
            sweep.append((None, flip, flip, None))
    inner_product = qulacs.state.inner_product

    def compute(amplitudes: NDArray[Any], gradient: NDArray[np.float64]) -> None:
        state.load(amplitudes)
        for _, forward, _, _ in sweep:
            forward.update_quantum_state(state)
        observable.apply_to_state(scratch, state, costate)
        for index, _, inverse, generator in reversed(sweep):
            if index is not None:
                scratch.load(state)
                generator.update_quantum_state(scratch)
                gradient[index] = inner_product(costate, scratch).imag
            inverse.update_quantum_state(state)
            inverse.update_quantum_state(costate)

    return compute


class Qulacs(EncodedOnceInProcesses):
    """Follows the case's gradient rule."""

    name = "qulacs"
    title = "Qulacs"
    description = "a process a core; parametric circuit a shift, or an adjoint sweep over gates"
    precisions = ("double",)
    distributions = ("qulacs", "numpy")
    extra = "rivals"
    make_task = qulacs_task
