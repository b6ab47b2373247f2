# SPDX-License-Identifier: Apache-2.0
"""Scaluq: adjoint through its back-propagation, parameter-shift through its batched states.

Scaluq's qubit 0 is the least significant bit, so wires are mirrored. A process a core in the
serial execution space was about twice as fast as its OpenMP space on all cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import (
    EncodedOnceInProcesses,
    Gradients,
    Task,
    shift_gradients,
    shifted_angles,
)


def scaluq_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Build circuit and observable once; the task goes row by row."""
    import scaluq

    precision = "f64" if case.precision == "double" else "f32"
    serial = getattr(scaluq.scaluq_core.host_serial, precision)
    shared = getattr(scaluq.scaluq_core.default, precision)
    gate = scaluq.gate
    last = case.n_qubits - 1
    circuit = shared.Circuit()
    index = 0
    for _ in range(case.n_layers):
        for make in (gate.ParamRY, gate.ParamRZ):
            for qubit in range(case.n_qubits):
                circuit.add_param_gate(make(last - qubit, precision=precision), f"p{index}")
                index += 1
        for qubit in range(last):
            circuit.add_gate(gate.CX(last - qubit, last - qubit - 1, precision=precision))
    observable = serial.Operator(
        [
            shared.PauliOperator(
                " ".join(f"{letter} {last - wire}" for wire, letter in word), coefficient
            )
            for coefficient, word in case.terms
        ]
    )
    state = serial.StateVector(case.n_qubits)
    names = [f"p{index}" for index in range(case.n_parameters)]
    values = dict(zip(names, case.parameters, strict=True))

    def adjoint(row: int) -> Sequence[float]:
        state.load(states[row].tolist())
        circuit.update_quantum_state(state, values)
        costate = state.copy()
        observable.apply_to_state(costate)
        gradient = circuit.compute_expectation_gradient_backprop(state, costate, values)
        return [gradient[name] for name in names]

    angles = shifted_angles(case)
    shifted = {name: angles[:, index].tolist() for index, name in enumerate(names)}
    shift_states: Any = None
    if case.method == "parameter-shift":
        shift_states = serial.StateVectorBatched(2 * case.n_parameters, case.n_qubits)

    def parameter_shift(row: int) -> Sequence[float]:
        state.load(states[row].tolist())
        shift_states.set_state_vector(state)
        circuit.update_quantum_state(shift_states, shifted)
        expectations = np.array(observable.get_expectation_value(shift_states)).real
        return list(shift_gradients(expectations))

    compute = adjoint if case.method == "adjoint" else parameter_shift

    def task(start: int, stop: int) -> Gradients:
        return np.array([compute(row) for row in range(start, stop)], dtype=np.float64)

    return task


class Scaluq(EncodedOnceInProcesses):
    """Follows the case's gradient rule."""

    name = "scaluq"
    title = "Scaluq"
    description = "serial space, a process a core; batched states over the 2P shifts, or backprop"
    distributions = ("scaluq", "numpy")
    extra = "rivals"
    make_task = scaluq_task
    states_dtype = np.complex128  # loaded through lists of Python numbers in either precision
