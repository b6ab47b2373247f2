# SPDX-License-Identifier: Apache-2.0
"""Raw encoding: rows of features to states, by QDP and by all that a user would take instead.

NumPy and torch compute block by block, so that their temporaries stay in the caches, and write
into one reused array, as QDP does in ``qdp``. PennyLane's templates run broadcast on
``default.qubit`` (its documentation, "Parameter broadcasting") or row by row on
``lightning.qubit``; Qiskit's ``Statevector`` of an array (quantum_info), ``initialize`` through
Aer (circuit library), and its own circuits for the other encodings. Qiskit's order of qubits is
reversed, for which its users pay nothing: the check alone turns its states round.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import EncodingCase
from benchmark.core.contenders.base import (
    Contender,
    Features,
    Repeat,
    chunk_bounds,
    milliseconds,
)
from benchmark.core.contenders.qdp_paths import backend_problem
from benchmark.core.environment import thread_environment

Array = NDArray[Any]
# Rows that one step of NumPy or torch takes, so that its temporaries stay in the caches.
BLOCK_BYTES = 2**20


def blocks(rows: int, n_qubits: int, n_bytes: int) -> Iterator[slice]:
    """Yield slices of rows whose states take ``n_bytes``."""
    step = max(1, n_bytes // (16 << n_qubits))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def products(library: Any, zeros: Any, ones: Any) -> Any:
    """Return the product states (rows, 2**k) of qubits with amplitudes (rows, k)."""
    result = library.ones_like(zeros[:, :1])
    for qubit in reversed(range(zeros.shape[1])):
        pair = (zeros[:, qubit, None] * result, ones[:, qubit, None] * result)
        result = library.concatenate(pair, 1)
    return result


def amplitude_with(library: Any, features: Any, out: Any, block_bytes: int = BLOCK_BYTES) -> Any:
    """Normalise rows into complex ``out`` with NumPy or torch, block by block."""
    real, imaginary = out.real, out.imag
    for part in blocks(*states_of(out), block_bytes):
        rows = features[part]
        if library is np:
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        else:
            norms = library.linalg.vector_norm(rows, dim=1, keepdim=True)
        library.multiply(rows, 1 / norms, out=real[part])
        imaginary[part] = 0
    return out


def angle_with(library: Any, features: Any, out: Any, block_bytes: int = BLOCK_BYTES) -> Any:
    """RX on every qubit: the outer product of the halves' product states."""
    half = features.shape[1] // 2
    for part in blocks(*states_of(out), block_bytes):
        angles = features[part] / 2
        zeros, ones = library.cos(angles) + 0j, -1j * library.sin(angles)
        left = products(library, zeros[:, :half], ones[:, :half])
        right = products(library, zeros[:, half:], ones[:, half:])
        shape = (left.shape[0], left.shape[1], right.shape[1])
        library.multiply(left[:, :, None], right[:, None, :], out=out[part].reshape(shape))
    return out


def iqp_with(library: Any, features: Any, out: Any, block_bytes: int = BLOCK_BYTES) -> Any:
    """IQPEmbedding: with S the sum of x_j s_j, all pairs together are (S**2 - sum x_j**2) / 2."""
    scale = features.shape[1] / 2
    half = features.shape[1] // 2
    real, imaginary = out.real, out.imag
    for part in blocks(*states_of(out), block_bytes):
        rows = features[part]
        left, right = signed_sums(library, rows[:, :half]), signed_sums(library, rows[:, half:])
        total = (left[:, :, None] + right[:, None, :]).reshape(out[part].shape)
        squares = (rows * rows).sum(1)[:, None]
        phase = (total + (total * total - squares) / 2) / -2
        library.multiply(library.cos(phase), 2.0**-scale, out=real[part])
        library.multiply(library.sin(phase), 2.0**-scale, out=imaginary[part])
    return out


def iqp_products_with(library: Any, features: Any, out: Any, block_bytes: int = BLOCK_BYTES) -> Any:
    """IQPEmbedding with few cosines: L + R the sums of the halves, exp(-i L R / 2) is a product."""
    n_qubits = features.shape[1]
    half = n_qubits // 2
    for part in blocks(*states_of(out), block_bytes):
        rows = features[part]
        left, right = signed_sums(library, rows[:, :half]), signed_sums(library, rows[:, half:])
        squares = (rows * rows).sum(1)[:, None]
        left_phase = (left + (left * left - squares) / 2) / 2
        right_phase = (right + right * right / 2) / 2
        left_states = (library.cos(left_phase) - 1j * library.sin(left_phase)) * 2 ** (
            -n_qubits / 2
        )
        right_states = library.cos(right_phase) - 1j * library.sin(right_phase)
        angles = (left[:, :, None] * rows[:, None, half:] / 2).reshape(-1, n_qubits - half)
        cosines, sines = library.cos(angles), 1j * library.sin(angles)
        crossed = products(library, cosines - sines, cosines + sines)
        shape = (left.shape[0], left.shape[1], right.shape[1])
        crossed = crossed.reshape(shape) * left_states[:, :, None]
        library.multiply(crossed, right_states[:, None, :], out=out[part].reshape(shape))
    return out


def signed_sums(library: Any, features: Any) -> Any:
    """Return sum_j x_j s_j, (rows, 2**k), with s_j +1 where bit j is 0 and -1 where it is 1."""
    result = library.zeros_like(features[:, :1])
    for qubit in reversed(range(features.shape[1])):
        column = features[:, qubit, None]
        result = library.concatenate((result + column, result - column), 1)
    return result


def states_of(out: Any) -> tuple[int, int]:
    """Return rows and qubits of an array of states."""
    return int(out.shape[0]), int(out.shape[1]).bit_length() - 1


WITH_LIBRARY: dict[str, Callable[..., Any]] = {
    "amplitude": amplitude_with,
    "angle": angle_with,
    "iqp-embedding": iqp_with,
}


def template(encoding: str, rows: Any, n_qubits: int) -> None:
    """Apply PennyLane's template of the encoding; ``rows`` is one row or many."""
    import pennylane as qml

    wires = range(n_qubits)
    if encoding == "amplitude":
        qml.AmplitudeEmbedding(rows, wires=wires, pad_with=0.0, normalize=True)
    elif encoding == "angle":
        qml.AngleEmbedding(rows, wires=wires)
    else:
        qml.IQPEmbedding(rows, wires=wires)


def pennylane_states(
    encoding: str, n_qubits: int, device: str, **options: Any
) -> Callable[[Array], Array]:
    """Return a QNode from rows to states on a device of PennyLane's."""
    import pennylane as qml

    @qml.qnode(qml.device(device, wires=n_qubits, **options), diff_method=None)
    def circuit(rows: Array) -> Any:
        template(encoding, rows, n_qubits)
        return qml.state()

    def states(rows: Array) -> Array:
        return np.asarray(circuit(rows))

    return states


class Encoder(Contender):
    """A contender that encodes rows; subclasses give ``encode``."""

    rule = "case"
    encoding_note = "the encoding itself"
    case: EncodingCase

    @classmethod
    def rule_for(cls, method: str) -> str:
        """Encoding takes no gradients."""
        return "none"

    @abstractmethod
    def encode(self, rows: int) -> Array:
        """Return the states of the first rows, (rows, 2**n)."""

    def in_order(self, states: Array) -> Array:
        """Return the states with qubit 0 the most significant bit; not timed."""
        return states

    def run(self, rows: int) -> Repeat:
        """Encode once."""
        start = time.perf_counter()
        states = self.encode(rows)
        stop = time.perf_counter()
        return Repeat(self.in_order(states), milliseconds(start, stop), 0.0)


class QdpFreshEncoder(Encoder):
    """Into memory that each call asks for."""

    name = "qdp-fresh"
    title = "QDP, fresh memory"
    description = "qdp.encode, a new array from each call"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "numpy")
    reuses = False

    @classmethod
    def unsupported(cls, case: EncodingCase) -> str | None:
        """QDP encodes every case; a GPU's backend may be missing."""
        return backend_problem(case.backend)

    def prepare(self) -> None:
        """Import and encode one row."""
        self.out = None
        if self.reuses:
            shape = (len(self.features), self.case.state_size)
            self.out = np.empty(shape, self.case.complex_dtype)
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Encode in one call."""
        import qdp

        case = self.case
        states = qdp.encode(
            self.features[:rows],
            case.encoding,
            case.n_qubits,
            precision=case.precision,  # type: ignore[arg-type]
            backend=case.backend,  # type: ignore[arg-type]
            out=None if self.out is None else self.out[:rows],
        )
        return np.asarray(states)


class QdpEncoder(QdpFreshEncoder):
    """Into one array that is kept."""

    name = "qdp"
    title = "QDP"
    description = "qdp.encode into a reused array"
    reuses = True


class NumpyEncoder(Encoder):
    """Hand-written, block by block, into one array that is kept."""

    name = "numpy"
    title = "NumPy"
    description = "hand-written, block by block, a thread a core, into a reused array"

    def prepare(self) -> None:
        """Make room for the states and start the threads."""
        shape = (len(self.features), self.case.state_size)
        self.out = np.zeros(shape, self.case.complex_dtype)
        self.pool = ThreadPoolExecutor(self.case.threads) if self.case.threads > 1 else None
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Encode block by block, whatever the array held before, as qdp.encode must."""
        # NumPy lets go of the interpreter's lock; a few blocks are done before a thread wakes up.
        if self.pool is None or rows * self.case.state_size * 16 < 4 * BLOCK_BYTES:
            self.encode_part(0, rows)
        else:
            bounds = chunk_bounds(rows, -(-rows // self.case.threads))
            list(self.pool.map(lambda bound: self.encode_part(*bound), bounds))
        return self.out[:rows]

    def encode_part(self, start: int, stop: int) -> None:
        """Encode some of the rows."""
        features, out = self.features[start:stop], self.out[start:stop]
        if self.case.encoding == "amplitude":
            width = features.shape[1]
            amplitude_with(np, features, out[:, :width])
            out[:, width:] = 0
        else:
            WITH_LIBRARY[self.case.encoding](np, features, out)

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


class TorchEncoder(Encoder):
    """The same program on torch tensors, torch's threads inside each operation."""

    name = "torch"
    title = "PyTorch"
    description = "hand-written, block by block, into a reused tensor"
    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    def prepare(self) -> None:
        """Make room for the states."""
        import torch

        self.torch = torch
        torch.set_num_threads(self.case.threads)
        shape = (len(self.features), self.case.state_size)
        self.out = np.zeros(shape, self.case.complex_dtype)
        self.tensors = torch.from_numpy(self.features), torch.from_numpy(self.out)
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Encode block by block, whatever the tensor held before."""
        features, out = (tensor[:rows] for tensor in self.tensors)
        if self.case.encoding == "amplitude":
            width = features.shape[1]
            amplitude_with(self.torch, features, out[:, :width])
            out[:, width:] = 0
        else:
            WITH_LIBRARY[self.case.encoding](self.torch, features, out)
        return self.out[:rows]


class PennyLaneEncoder(Encoder):
    """Rows broadcast over one circuit, a block of rows at a time."""

    name = "pennylane"
    title = "PennyLane default.qubit"
    description = "the embedding template, rows broadcast over blocks, then qml.state()"
    precisions = ("double",)
    distributions: ClassVar[tuple[str, ...]] = ("pennylane", "numpy")
    amplitudes_per_block = 2**18

    def prepare(self) -> None:
        """Build the QNode."""
        self.states = pennylane_states(self.case.encoding, self.case.n_qubits, "default.qubit")
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Run block by block."""
        step = max(1, self.amplitudes_per_block // self.case.state_size)
        parts = [
            self.states(self.features[start : min(rows, start + step)])
            for start in range(0, rows, step)
        ]
        return np.concatenate(parts)


class LightningEncoder(Encoder):
    """A QNode a row: lightning.qubit has no batches."""

    name = "lightning"
    title = "PennyLane lightning.qubit"
    description = "the embedding template in a QNode a row, then qml.state()"
    distributions: ClassVar[tuple[str, ...]] = ("pennylane", "pennylane-lightning", "numpy")

    def prepare(self) -> None:
        """Build the QNode."""
        case = self.case
        self.states = pennylane_states(
            case.encoding, case.n_qubits, "lightning.qubit", c_dtype=case.complex_dtype
        )
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Run row by row."""
        return np.stack([self.states(row) for row in self.features[:rows]])


def reversed_bits(states: Array, n_qubits: int) -> Array:
    """Return states whose qubits stand in the opposite order."""
    axes = (0, *range(n_qubits, 0, -1))
    shape = (len(states), *(2,) * n_qubits)
    return states.reshape(shape).transpose(axes).reshape(states.shape)


class QiskitEncoder(Encoder):
    """Statevector of each row's circuit, or of the normalised row itself."""

    name = "qiskit"
    title = "Qiskit Statevector"
    description = "quantum_info.Statevector of the row, or of its circuit"
    precisions = ("double",)
    distributions: ClassVar[tuple[str, ...]] = ("qiskit", "numpy")
    extra = "rivals"

    def prepare(self) -> None:
        """Import and encode one row."""
        self.run(min(1, len(self.features)))

    def padded(self, row: Features) -> Features:
        """Return a row normalised, and padded with zeros."""
        state = np.zeros(self.case.state_size)
        state[: len(row)] = row / np.linalg.norm(row)
        return state

    def circuit(self, row: Features) -> Any:
        """Return the circuit of an encoding by gates; qubits as Qiskit numbers them."""
        from qiskit import QuantumCircuit

        n_qubits = self.case.n_qubits
        circuit = QuantumCircuit(n_qubits)
        if self.case.encoding == "angle":
            for qubit in range(n_qubits):
                circuit.rx(row[qubit], qubit)
            return circuit
        for qubit in range(n_qubits):
            circuit.h(qubit)
            circuit.rz(row[qubit], qubit)
        for first in range(n_qubits):
            for second in range(first + 1, n_qubits):
                circuit.rzz(row[first] * row[second], first, second)
        return circuit

    def encode(self, rows: int) -> Array:
        """Encode row by row."""
        from qiskit.quantum_info import Statevector

        if self.case.encoding == "amplitude":
            found = [Statevector(self.padded(row)) for row in self.features[:rows]]
        else:
            found = [Statevector(self.circuit(row)) for row in self.features[:rows]]
        return np.stack([state.data for state in found])

    def in_order(self, states: Array) -> Array:
        """Turn the qubits round where a circuit made the state."""
        if self.case.encoding == "amplitude":
            return states
        return reversed_bits(states, self.case.n_qubits)


class AerEncoder(QiskitEncoder):
    """``initialize``, or the encoding's gates, on Aer's statevector simulator."""

    name = "qiskit-aer"
    title = "Qiskit initialize, Aer"
    description = "QuantumCircuit.initialize, or its circuit, on AerSimulator(statevector)"
    precisions = ("double", "single")
    distributions: ClassVar[tuple[str, ...]] = ("qiskit-aer", "qiskit", "numpy")
    rows_per_job = 32

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Aer's own threads go over the circuits of a job."""
        return {**thread_environment(threads), "OMP_NUM_THREADS": str(threads)}

    def prepare(self) -> None:
        """Make the simulator and encode one row."""
        from qiskit_aer import AerSimulator

        self.simulator = AerSimulator(
            method="statevector",
            precision=self.case.precision,
            max_parallel_threads=self.case.threads,
            max_parallel_experiments=self.case.threads,
        )
        self.run(min(1, len(self.features)))

    def encode(self, rows: int) -> Array:
        """Run a job for some rows at a time."""
        from qiskit import QuantumCircuit

        found: list[Array] = []
        for start in range(0, rows, self.rows_per_job):
            circuits = []
            for row in self.features[start : min(rows, start + self.rows_per_job)]:
                if self.case.encoding == "amplitude":
                    circuit = QuantumCircuit(self.case.n_qubits)
                    circuit.initialize(self.padded(row), range(self.case.n_qubits))
                else:
                    circuit = self.circuit(row)
                circuit.save_statevector()
                circuits.append(circuit)
            result = self.simulator.run(circuits).result()
            if not result.success:
                raise RuntimeError(f"Aer: {result.status}")
            found += [np.asarray(one.data.statevector) for one in result.results]
        return np.stack(found)
