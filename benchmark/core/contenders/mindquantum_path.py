# SPDX-License-Identifier: Apache-2.0
"""MindQuantum: ``get_expectation_with_grad`` of its vector simulator, row by row.

Adjoint by default, the parameter-shift rule by its ``pr_shift``. Its qubit 0 is the least
significant bit, so wires are mirrored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import EncodedOnceInProcesses, Gradients, Task


def mindquantum_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Build circuit and observable once; the task goes row by row."""
    from mindquantum.core.circuit import Circuit
    from mindquantum.core.operators import Hamiltonian, QubitOperator
    from mindquantum.simulator import Simulator

    last = case.n_qubits - 1
    circuit = Circuit()
    index = 0
    for _ in range(case.n_layers):
        for add in (circuit.ry, circuit.rz):
            for qubit in range(case.n_qubits):
                add(f"p{index}", last - qubit)
                index += 1
        for qubit in range(last):
            circuit.x(last - qubit - 1, last - qubit)
    operator = QubitOperator()
    for coefficient, word in case.terms:
        letters = " ".join(f"{letter}{last - wire}" for wire, letter in word)
        operator += QubitOperator(letters, coefficient)
    simulator = Simulator("mqvector", case.n_qubits)
    differentiate = simulator.get_expectation_with_grad(
        Hamiltonian(operator), circuit, pr_shift=case.method == "parameter-shift"
    )
    order = [int(name[1:]) for name in differentiate.ansatz_params_name]
    angles = np.array(case.parameters)[order]

    def task(start: int, stop: int) -> Gradients:
        gradients = np.empty((stop - start, case.n_parameters))
        for row in range(start, stop):
            simulator.set_qs(states[row])
            _, gradient = differentiate(angles)
            gradients[row - start, order] = gradient[0, 0].real
        return gradients

    return task


class MindQuantum(EncodedOnceInProcesses):
    """Follows the case's gradient rule."""

    name = "mindquantum"
    title = "MindQuantum"
    description = "mqvector, a process a core; get_expectation_with_grad, pr_shift for the rule"
    precisions = ("double",)
    distributions = ("mindquantum", "numpy")
    extra = "rivals"
    make_task = mindquantum_task
    states_dtype = np.complex128
