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
d<O>/dt = Im <lambda|K^dagger Z K|psi> for an RZ and Im <lambda|Y|psi> for an RY, both states taken
before M.
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

# cudaDataType_t and custatevecComputeType_t of the two precisions (library_types.h, custatevec.h).
_DATA_TYPES = {"double": 5, "single": 4}
_COMPUTE_TYPES = {"double": 16, "single": 4}

Matrix = NDArray[np.complex128]


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


def rotation(ry: float, rz: float) -> Matrix:
    """Return RZ(rz) RY(ry)."""
    cosine, sine = np.cos(ry / 2), np.sin(ry / 2)
    phase = np.exp(-0.5j * rz)
    return np.array([[phase, 0], [0, phase.conj()]]) @ np.array([[cosine, -sine], [sine, cosine]])


def matrix_of(group: Group, angles: NDArray[np.float64]) -> Matrix:
    """Return a group's matrix; ``angles`` is (layers, 2, n_qubits)."""
    places = range(group.first, group.first + group.size)
    gates = [rotation(*angles[group.layer, :, qubit]) for qubit in places]
    whole: Matrix = reduce(np.kron, gates, np.eye(2**group.carried)).astype(np.complex128)
    return whole[ladder_source(len(group.qubits))]


def generators_of(group: Group, angles: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return Y, then K^dagger Z K, on each of a group's own qubits: (2 * size, 2**m, 2**m)."""
    m = len(group.qubits)
    found = []
    for kind in range(2):
        for place in range(group.size):
            qubit = group.first + place
            if kind == 0:
                letter = np.array([[0, -1j], [1j, 0]])
            else:
                gate = rotation(*angles[group.layer, :, qubit])
                letter = gate.conj().T @ np.diag([1, -1]) @ gate
            before = group.carried + place
            found.append(np.kron(np.kron(np.eye(2**before), letter), np.eye(2 ** (m - before - 1))))
    return np.array(found)


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

        self.torch = torch
        self.library = self.load_library()
        self.handle = self.library.create()
        if self.device == "cuda":
            self.library.set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
        case = self.case
        self.dtype = torch.complex128 if case.precision == "double" else torch.complex64
        self.groups = groups_of(case.n_qubits, case.n_layers)
        self.diagonal = torch.from_numpy(observable_diagonal(case.observable, case.n_qubits)).to(
            self.device, torch.float64 if case.precision == "double" else torch.float32
        )
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
        self.encoded[:rows, : features.shape[1]] = features / norms

    def apply(self, states: Any, group: Group, matrix: Matrix, *, adjoint: bool = False) -> None:
        """Apply a group's matrix to all states, in place."""
        library, n_qubits = self.library, self.case.n_qubits
        data = _DATA_TYPES[self.case.precision]
        compute = _COMPUTE_TYPES[self.case.precision]
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
        matrices = [matrix_of(group, case.angles) for group in self.groups]
        for group, matrix in zip(self.groups, matrices, strict=True):
            self.apply(psi, group, matrix)
        torch.mul(psi, self.diagonal, out=other)
        gradients = torch.empty(
            (rows, case.n_parameters), dtype=self.diagonal.dtype, device=self.device
        )
        for group, matrix in zip(reversed(self.groups), reversed(matrices), strict=True):
            for states in (psi, other):
                self.apply(states, group, matrix, adjoint=True)
            gradients[:, self.numbers(group)] = self.slopes(group, psi, other)
        return gradients

    def numbers(self, group: Group) -> Any:
        """Return the numbers of a group's parameters, RY first."""
        found = [
            group.number(kind, place, self.case.n_qubits)
            for kind in range(2)
            for place in range(group.size)
        ]
        return self.torch.tensor(found, device=self.device)

    def slopes(self, group: Group, psi: Any, other: Any) -> Any:
        """Return Im <lambda|G|psi> of a group's generators: (rows, 2 * size)."""
        shape = (len(psi), 2 ** group.qubits[0], 2 ** len(group.qubits), -1)
        # The entries of |psi><lambda| on the group's qubits, which all of its generators share.
        crossed = self.torch.einsum(
            "raxb,rayb->rxy", other.reshape(shape).conj(), psi.reshape(shape)
        )
        generators = self.torch.from_numpy(generators_of(group, self.case.angles)).to(crossed)
        return self.torch.einsum("rxy,gxy->rg", crossed, generators).imag

    def shifted(self, rows: int) -> Any:
        """Run the circuit's rest for every shifted angle, from the states before its group."""
        torch, case = self.torch, self.case
        before, psi = self.other[:rows], self.psi[:rows]
        before.copy_(self.encoded[:rows])
        matrices = [matrix_of(group, case.angles) for group in self.groups]
        gradients = torch.empty(
            (rows, case.n_parameters), dtype=self.diagonal.dtype, device=self.device
        )
        for index, group in enumerate(self.groups):
            for kind in range(2):
                for place in range(group.size):
                    values = []
                    for shift in (np.pi / 2, -np.pi / 2):
                        angles = case.angles
                        angles[group.layer, kind, group.first + place] += shift
                        psi.copy_(before)
                        self.apply(psi, group, matrix_of(group, angles))
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
