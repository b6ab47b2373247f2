# SPDX-License-Identifier: Apache-2.0
"""DeepQuantum: its QubitCircuit over a batch of states, differentiated by autograd.

The angles are the circuit's data, repeated for each row (its documentation, "data encoding"), so
that one backward pass gives each row's own gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmark.core.cases import Term
from benchmark.core.contenders.base import EncodedOnceInChunks, Gradients


def pauli_word(term: Term) -> tuple[list[int], str]:
    """Return a term's wires and letters as DeepQuantum's ``observable`` takes them."""
    return [wire for wire, _ in term[1]], "".join(letter.lower() for _, letter in term[1])


class DeepQuantum(EncodedOnceInChunks):
    """The library's own circuit; chunks of rows that fit the cache."""

    name = "deepquantum"
    title = "DeepQuantum"
    description = "QubitCircuit over batched states and angles, torch autograd"
    rule = "adjoint"
    distributions: ClassVar[tuple[str, ...]] = ("deepquantum", "torch", "numpy")
    extra = "rivals"

    def prepare(self) -> None:
        """Build the circuit and run one chunk."""
        import deepquantum
        import torch

        case = self.case
        torch.set_num_threads(case.threads)
        self.torch = torch
        circuit = deepquantum.QubitCircuit(case.n_qubits)
        for _ in range(case.n_layers):
            for qubit in range(case.n_qubits):
                circuit.ry(qubit, encode=True)
            for qubit in range(case.n_qubits):
                circuit.rz(qubit, encode=True)
            for qubit in range(case.n_qubits - 1):
                circuit.cnot(qubit, qubit + 1)
        for term in case.terms:
            circuit.observable(*pauli_word(term))
        self.circuit = circuit.to(torch.float64 if case.precision == "double" else torch.float32)
        self.coefficients = torch.tensor(
            [coefficient for coefficient, _ in case.terms],
            dtype=torch.float64 if case.precision == "double" else torch.float32,
        )
        self.allocate_states(case.complex_dtype)
        self.run(min(self.size, len(self.features)))

    def chunk(self, states: Any) -> Gradients:
        """Return the gradients of some rows."""
        torch, case = self.torch, self.case
        angles = np.repeat(np.array([case.parameters], dtype=case.real_dtype), len(states), axis=0)
        data = torch.from_numpy(angles).requires_grad_()
        self.circuit(data=data, state=torch.from_numpy(states)[..., None])
        values = self.circuit.expectation().reshape(len(states), -1) @ self.coefficients
        (gradient,) = torch.autograd.grad(values.sum(), data)
        return np.asarray(gradient.numpy(), dtype=np.float64)
