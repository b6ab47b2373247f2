# SPDX-License-Identifier: Apache-2.0
"""cuStateVec's batched calls by hand: the vendor's library as a careful user would drive it.

Follows NVIDIA's cuQuantum documentation (custatevecApplyMatrixBatched, and the Python sample
batched_gate_application): one contiguous batch of states, one broadcast matrix a call. The
one-qubit gates of a group of neighbouring qubits and the part of the CNOT ladder that ends in the
group are one matrix, as the library's users fuse gates, so a layer takes a call for four or five
qubits. Memory, and the products that the library has no batched call for, are torch's, on the same
buffers and stream. The observable is diagonal, so its values are one product with the
probabilities, which stays on the device; compute_expectation_batched would take a call for each
Pauli word.

Letters: K is the product of a group's RY and RZ gates, M = ladder (1 x K) its matrix, with the last
qubit of the group before in front, as the ladder reaches over. With lambda = M^dagger ... O psi,
d<O>/dt = Im <lambda|Y|psi> for an RY and, for the RZ behind an RY by t,
Im <lambda|cos(t) Z - sin(t) X|psi>, both states taken before M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import ladder_source, observable_diagonal
from benchmark.core.contenders.base import EncodedOnce, Gradients, even_groups
from benchmark.core.contenders.gpu import OnGpu, torch_problem

Matrices = NDArray[Any]


@dataclass(frozen=True)
class Group:
    """Neighbouring qubits whose gates are one matrix.

    ``carried`` says that the last qubit of the group before comes in front, for the ladder.
    """

    layer: int
    first: int
    size: int

    @property
    def carried(self) -> int:
        """How many qubits of the group before the matrix acts on."""
        return int(self.first > 0)

    @property
    def qubits(self) -> range:
        """The qubits that the matrix acts on, most significant first."""
        return range(self.first - self.carried, self.first + self.size)

    def number(self, kind: int, place: int, n_qubits: int) -> int:
        """Return the parameter's number of RY (kind 0) or RZ (1) on the group's qubit ``place``."""
        return (2 * self.layer + kind) * n_qubits + self.first + place


def groups_of(n_qubits: int, n_layers: int) -> list[Group]:
    """Return the groups in the order of the circuit.

    >>> [(group.layer, list(group.qubits)) for group in groups_of(6, 1)]
    [(0, [0, 1, 2]), (0, [2, 3, 4, 5])]
    """
    found = []
    for layer in range(n_layers):
        first = 0
        for size in even_groups(n_qubits):
            found.append(Group(layer, first, size))
            first += size
    return found


def rotations(angles: NDArray[np.float64]) -> Matrices:
    """Return RZ(rz) RY(ry) of every qubit, (layers, n, 2, 2); ``angles`` is (layers, 2, n)."""
    cosines, sines = np.cos(angles[:, 0] / 2), np.sin(angles[:, 0] / 2)
    phases = np.exp(-0.5j * angles[:, 1])
    rows = [[phases * cosines, -phases * sines], [phases.conj() * sines, phases.conj() * cosines]]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))


def kron(first: Matrices, second: Matrices) -> Matrices:
    """Return the Kronecker product; np.kron takes longer than a call of the library."""
    product = first[:, None, :, None] * second[None, :, None, :]
    return product.reshape(len(first) * len(second), -1)


def matrix_of(group: Group, gates: Matrices) -> Matrices:
    """Return a group's matrix; ``gates`` is (layers, n, 2, 2)."""
    own = gates[group.layer, group.first : group.first + group.size]
    whole = reduce(kron, own, np.eye(2**group.carried))
    return whole[ladder_source(len(group.qubits))]


def paulis_of(group: Group) -> Matrices:
    """Return X, Y and Z on each of a group's own qubits: (3, size, 2**m, 2**m)."""
    m = len(group.qubits)
    letters = [np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])]

    def on(letter: Any, place: int) -> Matrices:
        before = group.carried + place
        return kron(kron(np.eye(2**before), letter), np.eye(2 ** (m - before - 1)))

    return np.array([[on(letter, place) for place in range(group.size)] for letter in letters])


class CuStateVec(OnGpu, EncodedOnce):
    """apply_matrix_batched over all rows, by the case's rule."""

    name = "custatevec"
    title = "cuStateVec, batched"
    description = "cuquantum.bindings.custatevec, fused matrices, all rows in each call"
    documentation = "NVIDIA cuQuantum, cuStateVec, custatevecApplyMatrixBatched"
    distributions: ClassVar[tuple[str, ...]] = (
        "cuquantum-python-cu13",
        "custatevec-cu13",
        "torch",
        "numpy",
    )
    workspace: Any = None

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why torch, which holds the memory, cannot use the GPU."""
        return torch_problem()

    def prepare(self) -> None:
        """Load the library, allocate, and build everything that does not change."""
        import torch

        from qdp.backends.custatevec_library import COMPUTE_TYPES, DATA_TYPES

        self.torch = torch
        self.library = self.load_library()
        self.handle = self.library.create()
        if self.device == "cuda":
            self.library.set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
        case = self.case
        self.data_type = DATA_TYPES[case.precision]
        self.compute_type = COMPUTE_TYPES[case.precision]
        self.dtype = torch.complex128 if case.precision == "double" else torch.complex64
        self.groups = groups_of(case.n_qubits, case.n_layers)
        self.diagonal = torch.from_numpy(observable_diagonal(case.observable, case.n_qubits)).to(
            self.device, torch.float64 if case.precision == "double" else torch.float32
        )
        self.paulis = {
            group.first: torch.from_numpy(paulis_of(group)).to(self.device, self.dtype)
            for group in self.groups
        }
        self.rows = torch.from_numpy(self.features).to(self.device)
        shape = (len(self.features), case.state_size)
        self.encoded = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.psi, self.other = torch.empty_like(self.encoded), torch.empty_like(self.encoded)
        self.run(min(1, len(self.features)))

    def load_library(self) -> Any:
        """Return the bindings."""
        from cuquantum.bindings import custatevec

        return custatevec

    def details(self) -> dict[str, str]:
        """Name the library's version."""
        return {**super().details(), "custatevec": str(self.library.get_version())}

    def encode(self, rows: int) -> None:
        """Normalise the first rows."""
        features = self.rows[:rows]
        norms = self.torch.linalg.vector_norm(features, dim=1, keepdim=True)
        out = self.encoded[:rows, : features.shape[1]]
        self.torch.mul(features, 1 / norms, out=out)

    def apply(self, states: Any, group: Group, matrix: Matrices, *, adjoint: bool = False) -> None:
        """Apply a group's matrix to all states, in place."""
        library, n_qubits = self.library, self.case.n_qubits
        data, compute = self.data_type, self.compute_type
        matrix = np.ascontiguousarray(matrix, self.case.complex_dtype)
        # Index bits count from the least significant, and the first target is that of the matrix.
        targets = [n_qubits - 1 - qubit for qubit in reversed(group.qubits)]
        # One broadcast matrix, which takes no array of indices.
        how = (
            library.MatrixMapType.BROADCAST,
            0,
            matrix.ctypes.data,
            data,
            library.MatrixLayout.ROW,
            int(adjoint),
            1,
        )
        batch = (n_qubits, len(states), self.case.state_size)
        n_bytes = library.apply_matrix_batched_get_workspace_size(
            self.handle, data, *batch, *how, len(targets), 0, compute
        )
        if n_bytes and (self.workspace is None or self.workspace.numel() < n_bytes):
            self.workspace = self.torch.empty(n_bytes, dtype=self.torch.uint8, device=self.device)
        library.apply_matrix_batched(
            self.handle,
            states.data_ptr(),
            data,
            *batch,
            *how,
            targets,
            len(targets),
            0,
            0,
            0,
            compute,
            self.workspace.data_ptr() if n_bytes else 0,
            n_bytes,
        )

    def circuits(self, rows: int) -> Any:
        """Differentiate by the case's rule."""
        return self.adjoint(rows) if self.case.method == "adjoint" else self.shifted(rows)

    def on_host(self, gradients: Any) -> Gradients:
        """Return the tensor as a NumPy array."""
        return np.asarray(gradients.cpu().numpy(), dtype=np.float64)

    def adjoint(self, rows: int) -> Any:
        """Walk forward, then back with lambda beside psi."""
        torch, case = self.torch, self.case
        psi, other = self.psi[:rows], self.other[:rows]
        psi.copy_(self.encoded[:rows])
        gates = rotations(case.angles)
        matrices = [matrix_of(group, gates) for group in self.groups]
        for group, matrix in zip(self.groups, matrices, strict=True):
            self.apply(psi, group, matrix)
        torch.mul(psi, self.diagonal, out=other)
        # By layer and kind as parameters are numbered: RY of every qubit, then RZ.
        gradients = self.empty(rows).reshape(rows, case.n_layers, 2, case.n_qubits)
        turned = torch.from_numpy(case.angles[:, 0]).to(gradients)
        cosines, sines = torch.cos(turned), torch.sin(turned)
        for group, matrix in zip(reversed(self.groups), reversed(matrices), strict=True):
            for states in (psi, other):
                self.apply(states, group, matrix, adjoint=True)
            layer, own = group.layer, slice(group.first, group.first + group.size)
            x, y, z = self.slopes(group, psi, other).unbind(1)
            gradients[:, layer, 0, own] = y
            gradients[:, layer, 1, own] = cosines[layer, own] * z - sines[layer, own] * x
        return gradients.reshape(rows, -1)

    def empty(self, rows: int) -> Any:
        """Return memory for the gradients of some rows."""
        shape = (rows, self.case.n_parameters)
        return self.torch.empty(shape, dtype=self.diagonal.dtype, device=self.device)

    def slopes(self, group: Group, psi: Any, other: Any) -> Any:
        """Return Im <lambda|P|psi> of X, Y and Z on a group's own qubits: (rows, 3, size)."""
        shape = (len(psi), 2 ** group.qubits[0], 2 ** len(group.qubits), -1)
        # The entries of |psi><lambda| on the group's qubits, which all of them share.
        crossed = self.torch.einsum(
            "raxb,rayb->rxy", other.reshape(shape).conj(), psi.reshape(shape)
        )
        return self.torch.einsum("rxy,kgxy->rkg", crossed, self.paulis[group.first]).imag

    def shifted(self, rows: int) -> Any:
        """Run the circuit's rest for every shifted angle, from the states before its group."""
        case = self.case
        before, psi = self.other[:rows], self.psi[:rows]
        before.copy_(self.encoded[:rows])
        gates = rotations(case.angles)
        matrices = [matrix_of(group, gates) for group in self.groups]
        gradients = self.empty(rows)
        for index, group in enumerate(self.groups):
            for kind in range(2):
                for place in range(group.size):
                    values = []
                    for shift in (np.pi / 2, -np.pi / 2):
                        angles = case.angles
                        angles[group.layer, kind, group.first + place] += shift
                        psi.copy_(before)
                        self.apply(psi, group, matrix_of(group, rotations(angles)))
                        for later in range(index + 1, len(self.groups)):
                            self.apply(psi, self.groups[later], matrices[later])
                        values.append((psi.real.square() + psi.imag.square()) @ self.diagonal)
                    number = group.number(kind, place, case.n_qubits)
                    gradients[:, number] = (values[0] - values[1]) / 2
            self.apply(before, group, matrices[index])
        return gradients

    def close(self) -> None:
        """Give the library's handle back."""
        self.library.destroy(self.handle)
