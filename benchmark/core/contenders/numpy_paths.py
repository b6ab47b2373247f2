# SPDX-License-Identifier: Apache-2.0
"""Hand-written NumPy: what one gets from the circuit's formulae without any simulator.

``numpy`` goes gate by gate over a block of rows that fits the cache, rows innermost, RY in real
arithmetic and all RZ of a layer as one diagonal. ``numpy-kron`` is restructured for this circuit:
the one-qubit gates of a layer gathered into matrix products over groups of qubits, so that BLAS
does the work, and all 2n derivatives of a layer read from reduced matrices of the same products.

Letters: n qubits, L layers, B rows of a chunk, lam the co-state O|psi>, psi the state.
Both use d<O>/dtheta = Im <lam| G |psi> for exp(-i theta G / 2), psi and lam after the rotation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import diagonal_signs, ladder_source, observable_diagonal
from benchmark.core.contenders.base import (
    EncodedOnce,
    Gradients,
    ThreadedChunks,
    chunk_bounds,
    chunk_rows,
    even_groups,
)
from benchmark.core.environment import thread_environment

Array = NDArray[Any]


class _NumpyContender(EncodedOnce):
    """Chunks of rows on a thread pool; NumPy releases the GIL inside its loops and BLAS."""

    rule = "adjoint"
    amplitudes_per_chunk = 2**16

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Keep BLAS to one thread a chunk: the chunks are spread over threads instead."""
        return {**thread_environment(threads), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def prepare(self) -> None:
        """Build the index maps and tables that do not depend on the angles."""
        case = self.case
        self.allocate_states(self.case.real_dtype)
        self.source = ladder_source(case.n_qubits)
        self.back = np.argsort(self.source)
        self.signs = diagonal_signs(case.n_qubits).astype(self.case.real_dtype)
        self.diagonal = observable_diagonal(case.observable, case.n_qubits).astype(
            self.case.real_dtype
        )
        self.chunks = ThreadedChunks(case.threads)

    def circuits(self, rows: int) -> Gradients:
        """Return the gradients chunk by chunk."""
        self.plan()
        size = chunk_rows(self.case.state_size, self.amplitudes_per_chunk, rows, self.case.threads)
        return self.chunks.map(self.chunk, chunk_bounds(rows, size))

    def plan(self) -> None:
        """Compute what depends on the angles."""
        raise NotImplementedError

    def chunk(self, start: int, stop: int) -> Gradients:
        """Return the gradients of a range of rows."""
        raise NotImplementedError

    def close(self) -> None:
        """End the threads."""
        self.chunks.close()


class NumpyGates(_NumpyContender):
    """Batched adjoint, gate by gate."""

    name = "numpy"
    title = "NumPy, gate by gate"
    description = "hand-written batched adjoint, rows innermost"

    def plan(self) -> None:
        """Tabulate half-angle cosines and sines, and each layer's RZ diagonal."""
        angles = self.case.angles
        self.cosines = np.cos(angles[:, 0] / 2).tolist()
        self.sines = np.sin(angles[:, 0] / 2).tolist()
        phases = angles[:, 1] @ diagonal_signs(self.case.n_qubits).T
        self.phases = np.exp(-0.5j * phases).astype(self.case.complex_dtype)[:, :, None]

    def _rotate(self, state: Array, layer: int, sign: int) -> Array:
        """Apply the layer's RY gates (or their inverses) to (2**n, B)."""
        scratch = np.empty_like(state)
        for qubit in range(self.case.n_qubits):
            cosine, sine = self.cosines[layer][qubit], sign * self.sines[layer][qubit]
            old = state.reshape(2**qubit, 2, -1)
            new = scratch.reshape(2**qubit, 2, -1)
            np.multiply(old, cosine, out=new)
            new[:, 0] -= sine * old[:, 1]
            new[:, 1] += sine * old[:, 0]
            state, scratch = scratch, state
        return state

    def chunk(self, start: int, stop: int) -> Gradients:
        """Run forward with one checkpoint a layer, then backward."""
        case = self.case
        rows, qubits = stop - start, case.n_qubits
        state = np.ascontiguousarray(self.states[start:stop].T)
        checkpoints = []
        for layer in range(case.n_layers):
            rotated = self._rotate(state, layer, 1)
            checkpoints.append(rotated)
            state = (rotated * self.phases[layer])[self.source]
        costate = state * self.diagonal[:, None]
        gradients = np.empty((rows, case.n_layers, 2, qubits))
        for layer in reversed(range(case.n_layers)):
            # Both vectors just after the RY gates; RZ commutes with its own diagonal.
            costate = costate[self.back] * self.phases[layer].conj()
            rotated = checkpoints[layer]
            overlap = (costate.conj() * rotated).imag
            gradients[:, layer, 1] = overlap.T @ self.signs
            for qubit in range(qubits):
                psi = rotated.reshape(2**qubit, 2, -1, rows)
                lam = costate.reshape(2**qubit, 2, -1, rows)
                # Im <lam|Y|psi> = Re(lam1* psi0 - lam0* psi1)
                gradients[:, layer, 0, qubit] = _real_dots(lam[:, 1], psi[:, 0]) - _real_dots(
                    lam[:, 0], psi[:, 1]
                )
            if layer:
                costate = self._rotate(costate, layer, -1)
        return gradients.reshape(rows, -1)


def _real_dots(left: Array, right: Array) -> Array:
    """Return Re(sum conj(left) * right) for each row; both (a, b, rows), ``right`` maybe real."""
    total = np.einsum("abr,abr->r", left.real, right.real)
    if np.iscomplexobj(right):
        total = total + np.einsum("abr,abr->r", left.imag, right.imag)
    return np.asarray(total)


class NumpyKron(_NumpyContender):
    """Batched adjoint by BLAS: a layer's rotations as Kronecker products over qubit groups."""

    name = "numpy-kron"
    title = "NumPy, restructured for BLAS"
    description = "hand-written batched adjoint, one-qubit gates gathered into matrix products"

    def plan(self) -> None:
        """Build each group's matrix, and its generators after the layer's rotations."""
        case = self.case
        self.groups = even_groups(case.n_qubits)
        self.matrices: list[list[Array]] = []
        self.generators: list[list[Array]] = []
        for layer in range(case.n_layers):
            gates, turned = [], []
            for qubit in range(case.n_qubits):
                y, z = case.angles[layer, :, qubit] / 2
                rotation_z = np.diag([np.exp(-1j * z), np.exp(1j * z)])
                gates.append(
                    rotation_z @ np.array([[np.cos(y), -np.sin(y)], [np.sin(y), np.cos(y)]])
                )
                turned.append(rotation_z @ np.array([[0, -1j], [1j, 0]]) @ rotation_z.conj().T)
            layer_matrices, layer_generators = [], []
            first = 0
            for size in self.groups:
                qubits = range(first, first + size)
                layer_matrices.append(
                    _kron([gates[q] for q in qubits]).astype(self.case.complex_dtype)
                )
                columns = [
                    _kron([turned[q] if r == q else np.eye(2) for r in qubits]) for q in qubits
                ] + [
                    _kron([np.diag([1, -1]) if r == q else np.eye(2) for r in qubits])
                    for q in qubits
                ]
                # tr(G T) = sum over i, j of G[j, i] T[i, j]
                layer_generators.append(
                    np.stack([column.T.reshape(-1) for column in columns], axis=1).astype(
                        self.case.complex_dtype
                    )
                )
                first += size
            self.matrices.append(layer_matrices)
            self.generators.append(layer_generators)

    def _apply(self, matrices: list[Array], state: Array) -> Array:
        """Apply one matrix a group to (B, 2**n)."""
        rows, left, right = len(state), 1, self.case.state_size
        for matrix in matrices:
            size = len(matrix)
            right //= size
            if right == 1:
                state = state.reshape(-1, size) @ matrix.T
            else:
                state = np.matmul(matrix, state.reshape(rows * left, size, right))
            left *= size
        return state.reshape(rows, -1)

    def chunk(self, start: int, stop: int) -> Gradients:
        """Run forward with one checkpoint a layer, then backward."""
        case = self.case
        rows, qubits = stop - start, case.n_qubits
        state = self.states[start:stop].astype(self.case.complex_dtype)
        checkpoints = []
        for layer in range(case.n_layers):
            state = self._apply(self.matrices[layer], state)
            checkpoints.append(state)
            state = state[:, self.source]
        costate = state * self.diagonal
        gradients = np.empty((rows, case.n_layers, 2, qubits))
        for layer in reversed(range(case.n_layers)):
            costate = costate[:, self.back]
            conjugate = costate.conj()
            left, right, first = 1, case.state_size, 0
            for size, generators in zip(self.groups, self.generators[layer], strict=True):
                dimension = 2**size
                right //= dimension
                psi = checkpoints[layer].reshape(rows, left, dimension, right)
                lam = conjugate.reshape(rows, left, dimension, right)
                # T[i, j] = sum psi_i conj(lam_j), traced over the other qubits
                if right == 1:
                    reduced = np.matmul(psi[..., 0].swapaxes(1, 2), lam[..., 0])
                else:
                    reduced = np.matmul(psi, lam.swapaxes(2, 3)).sum(axis=1)
                values = (reduced.reshape(rows, -1) @ generators).imag
                gradients[:, layer, 0, first : first + size] = values[:, :size]
                gradients[:, layer, 1, first : first + size] = values[:, size:]
                left *= dimension
                first += size
            if layer:
                adjoints = [matrix.conj().T for matrix in self.matrices[layer]]
                costate = self._apply(adjoints, costate)
        return gradients.reshape(rows, -1)


def _kron(matrices: list[Array]) -> Array:
    product = matrices[0]
    for matrix in matrices[1:]:
        product = np.kron(product, matrix)
    return product
