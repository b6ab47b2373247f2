# SPDX-License-Identifier: Apache-2.0
"""TensorCircuit-NG on its JAX backend: Circuit with given inputs, grad, vmap over rows, jit."""

from __future__ import annotations

import sys
from typing import Any

from benchmark.core.cases import observable_diagonal
from benchmark.core.contenders.base import ThreadedChunks
from benchmark.core.contenders.jax_paths import JaxGates


class TensorCircuit(JaxGates):
    """The library's own circuit; everything round it as in the JAX contenders."""

    name = "tensorcircuit"
    title = "TensorCircuit-NG"
    description = "JAX backend, vmap of grad over rows, jit"
    distributions = ("tensorcircuit-ng", "tensornetwork-ng", "jax", "jaxlib", "numpy")

    def prepare(self) -> None:
        """Trace and compile for one chunk."""
        import tensorcircuit as tc

        # Contracting the state by the default search recurses deeper than Python's limit allows.
        sys.setrecursionlimit(max(10_000, sys.getrecursionlimit()))
        case = self.case
        self.allocate_states(self.case.complex_dtype)
        backend = tc.set_backend("jax")
        tc.set_dtype("complex128" if case.precision == "double" else "complex64")
        diagonal = backend.convert_to_tensor(
            observable_diagonal(case.observable, case.n_qubits).astype(self.case.real_dtype)
        )

        def value(parameters: Any, state: Any) -> Any:
            circuit = tc.Circuit(case.n_qubits, inputs=state)
            index = 0
            for _ in range(case.n_layers):
                for qubit in range(case.n_qubits):
                    circuit.ry(qubit, theta=parameters[index])
                    index += 1
                for qubit in range(case.n_qubits):
                    circuit.rz(qubit, theta=parameters[index])
                    index += 1
                for qubit in range(case.n_qubits - 1):
                    circuit.cnot(qubit, qubit + 1)
            amplitudes = circuit.state()
            weights = backend.real(amplitudes) ** 2 + backend.imag(amplitudes) ** 2
            return backend.sum(weights * diagonal)

        self.compiled = backend.jit(backend.vmap(backend.grad(value), vectorized_argnums=1))
        self.angles = backend.convert_to_tensor(
            case.angles.reshape(-1).astype(self.case.real_dtype)
        )
        self.chunks = ThreadedChunks(case.threads)
        self.run(min(1, len(self.features)))
