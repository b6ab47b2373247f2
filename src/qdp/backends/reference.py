# SPDX-License-Identifier: Apache-2.0
"""The definition of right: NumPy, complex128, one gate after another, nothing clever.

Every other backend is judged against this one, so it shares no code with them: it multiplies the
state by each gate's own matrix and never looks at ``gates.decompose``. Only gates on any number of
wires are applied by their meaning, because their matrices would not fit. Slow by design.
Shapes: rows, P parameters, F inputs, O observables; states are (rows, 2**n), or (rows, 2, ..., 2)
inside, where axis 1 + q is qubit q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qdp.backends.base import AdjointResult, Array, Backend, Batch, Shift
from qdp.circuit import Circuit, Component, HermitianTerm, Observable, PauliTerm
from qdp.gates import PAULI_MATRICES, Matrix, Operation, Wires

Angles = Sequence[float | NDArray[np.float64]]


class ReferenceBackend(Backend):
    """Runs circuits with NumPy in complex128; results are cast to the batch's precision.

    >>> import numpy as np
    >>> from qdp import ansatz
    >>> from qdp.backends.base import Batch
    >>> from qdp.backends.reference import ReferenceBackend
    >>> from qdp.circuit import Observable
    >>> batch = Batch(rows=1, parameters=np.zeros(4))
    >>> ReferenceBackend().expectation(ansatz.ry_rz_ladder(2, 1), batch, [Observable.sum_z(2)])
    array([[2.]])
    """

    name = "reference"

    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""
        final = _run(circuit, batch).reshape(batch.rows, 2**circuit.n_qubits)
        return final.astype(batch.complex_dtype)

    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O) in the batch's real dtype."""
        psi = _run(circuit, batch)
        return _values(psi, observables).astype(batch.real_dtype)

    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, (rows, 2**len(wires))."""
        probabilities: NDArray[np.float64] = np.abs(_run(circuit, batch)) ** 2
        others = tuple(1 + qubit for qubit in range(circuit.n_qubits) if qubit not in wires)
        marginal: NDArray[np.float64] = probabilities.sum(axis=others)
        # What is left is in the order of the qubits; the caller's order may differ.
        ranks = [sorted(wires).index(wire) for wire in wires]
        marginal = marginal.transpose(0, *(1 + rank for rank in ranks))
        return marginal.reshape(batch.rows, 2 ** len(wires)).astype(batch.real_dtype)

    def adjoint(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        wrt: frozenset[str],
        cotangents: Array | None = None,
    ) -> AdjointResult:
        """Return values and derivatives by the adjoint method (Jones and Gacon, arXiv:2009.02823).

        Walking the circuit backwards, psi is the state before a gate U and lambda is the
        observable pulled back to after it; the derivative by U's angle is 2 Re <lambda|U'|psi>.
        """
        final = _run(circuit, batch)
        values = _values(final, observables)
        pulled = [_apply_observable(observable, final) for observable in observables]
        if cotangents is not None:
            weights = np.asarray(cotangents, dtype=np.float64)
            total = np.zeros_like(final)
            for position, image in enumerate(pulled):
                total += image * _per_row(weights[:, position], final)
            pulled = [total]
        gradients = {
            "parameter": np.zeros((batch.rows, len(pulled), circuit.n_parameters)),
            "input": np.zeros((batch.rows, len(pulled), circuit.n_inputs)),
        }
        wanted = {"parameter": "parameters" in wrt, "input": "inputs" in wrt}
        psi = final
        for operation in reversed(circuit.operations):
            angles = _angles(operation, batch)
            psi = _undo(operation, angles, psi)
            for slot, angle in enumerate(operation.angles):
                if not wanted.get(angle.kind, False):
                    continue
                derivative = _apply_derivative(operation, angles, slot, psi)
                for position, image in enumerate(pulled):
                    slope = 2 * _inner(image, derivative).real * angle.scale
                    gradients[angle.kind][:, position, angle.index] += slope
            pulled = [_undo(operation, angles, image) for image in pulled]
        by_state = None
        if "states" in wrt:
            by_state = np.zeros((batch.rows, len(pulled), 2**circuit.n_qubits), np.complex128)
            for position, image in enumerate(pulled):
                by_state[:, position] = 2 * image.reshape(batch.rows, 2**circuit.n_qubits)
        real = batch.real_dtype
        return AdjointResult(
            values=values.astype(real),
            parameters=gradients["parameter"].astype(real) if wanted["parameter"] else None,
            inputs=gradients["input"].astype(real) if wanted["input"] else None,
            states=None if by_state is None else by_state.astype(batch.complex_dtype),
        )

    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O)."""
        values = np.zeros((len(shifts), batch.rows, len(observables)))
        for evaluation, group in enumerate(shifts):
            by_slot: dict[tuple[int, int], float] = {}
            for position, slot, shift in group:
                by_slot[position, slot] = by_slot.get((position, slot), 0.0) + shift
            values[evaluation] = _values(_run(circuit, batch, by_slot), observables)
        return values.astype(batch.real_dtype)


# Running a circuit


def _initial(circuit: Circuit, batch: Batch) -> Matrix:
    """Return the states that the rows start in, (rows, 2, ..., 2)."""
    size = 2**circuit.n_qubits
    psi: Matrix = np.zeros((batch.rows, size), dtype=np.complex128)
    if batch.states is not None:
        psi[:, : batch.states.shape[1]] = batch.states
        if batch.normalize:
            psi = _normalized(psi)
    elif batch.indices is not None:
        psi[np.arange(batch.rows), batch.indices.astype(np.int64)] = 1.0
    else:
        psi[:, 0] = 1.0
    return psi.reshape((batch.rows,) + (2,) * circuit.n_qubits)


def _normalized(features: Matrix) -> Matrix:
    # Dividing by the largest entry first keeps the squares from overflowing.
    features = features / np.abs(features).max(axis=1, keepdims=True)
    norms = np.sqrt((np.abs(features) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(features / norms, dtype=np.complex128)


def _run(
    circuit: Circuit, batch: Batch, shifts: Mapping[tuple[int, int], float] | None = None
) -> Matrix:
    """Return the final states, (rows, 2, ..., 2); ``shifts`` are by (operation, slot)."""
    psi = _initial(circuit, batch)
    for position, operation in enumerate(circuit.operations):
        angles = _angles(operation, batch)
        if shifts:
            angles = [
                angle + shifts.get((position, slot), 0.0) for slot, angle in enumerate(angles)
            ]
        psi = _apply(operation, angles, psi)
    return psi


def _angles(operation: Operation, batch: Batch) -> list[float | NDArray[np.float64]]:
    """Return the operation's angles, each a float for all rows or (rows,)."""
    parameters = np.asarray(batch.parameters, dtype=np.float64)
    inputs = None if batch.inputs is None else np.asarray(batch.inputs, dtype=np.float64)
    return [angle.evaluate(parameters, inputs) for angle in operation.angles]


# Applying one gate


def _apply(operation: Operation, angles: Angles, psi: Matrix) -> Matrix:
    """Return the operation applied to each row."""
    if operation.name == "Identity":
        return psi
    if operation.name in ("MultiRZ", "PauliRot"):
        half = np.asarray(angles[0]) / 2
        flipped = _apply_pauli(_letters(operation), psi)
        cosine, sine = _per_row(np.cos(half), psi), _per_row(np.sin(half), psi)
        return np.asarray(cosine * psi - 1j * sine * flipped, dtype=np.complex128)
    if operation.name == "DiagonalQubitUnitary":
        return _diagonal(operation, psi.ndim) * psi
    if operation.name == "MultiControlledX":
        where, target = _controlled_slice(operation, psi.ndim)
        psi = psi.copy()
        psi[where] = np.flip(psi[where], axis=target)
        return psi
    return _matmul(_matrices(operation, angles), operation.wires, psi)


def _undo(operation: Operation, angles: Angles, psi: Matrix) -> Matrix:
    """Return the inverse of the operation applied to each row."""
    if operation.name in ("Identity", "MultiControlledX"):
        return _apply(operation, angles, psi)
    if operation.name in ("MultiRZ", "PauliRot"):
        return _apply(operation, [-angles[0]], psi)
    if operation.name == "DiagonalQubitUnitary":
        return _diagonal(operation, psi.ndim).conj() * psi
    matrices = _matrices(operation, angles)
    return _matmul(matrices.conj().swapaxes(-1, -2), operation.wires, psi)


def _apply_derivative(operation: Operation, angles: Angles, slot: int, psi: Matrix) -> Matrix:
    """Return the derivative of the operation by the angle in ``slot``, applied to each row."""
    if operation.name in ("MultiRZ", "PauliRot"):
        return -0.5j * _apply_pauli(_letters(operation), _apply(operation, angles, psi))
    return _matmul(_matrices(operation, angles, slot), operation.wires, psi)


def _matrices(operation: Operation, angles: Angles, slot: int | None = None) -> Matrix:
    """Return the gate's matrix (or its derivative by ``slot``): (1 or rows, 2**k, 2**k)."""

    def matrix(values: Sequence[float]) -> Matrix:
        if slot is None:
            return operation.matrix_value(values)
        return operation.derivative_value(values, slot)

    by_row = np.broadcast_arrays(*angles) if angles else []
    if not by_row or by_row[0].ndim == 0:
        return matrix([float(angle) for angle in by_row])[np.newaxis]
    size = 2 ** len(operation.wires)
    matrices = np.zeros((len(by_row[0]), size, size), dtype=np.complex128)
    for row, values in enumerate(zip(*by_row, strict=True)):
        matrices[row] = matrix([float(value) for value in values])
    return matrices


def _matmul(matrices: Matrix, wires: Wires, psi: Matrix) -> Matrix:
    """Multiply (1 or rows, 2**k, 2**k) matrices onto ``wires`` of psi."""
    axes = [1 + wire for wire in wires]
    front = list(range(1, 1 + len(wires)))
    moved = np.moveaxis(psi, axes, front)
    flat = moved.reshape(len(psi), 2 ** len(wires), 2 ** (psi.ndim - 1 - len(wires)))
    return np.moveaxis((matrices @ flat).reshape(moved.shape), front, axes)


def _letters(operation: Operation) -> dict[int, str]:
    word = operation.word or "Z" * len(operation.wires)
    return dict(zip(operation.wires, word, strict=True))


def _apply_pauli(letters: Mapping[int, str], psi: Matrix) -> Matrix:
    for wire, letter in letters.items():
        if letter != "I":
            psi = _matmul(PAULI_MATRICES[letter][np.newaxis], (wire,), psi)
    return psi


def _diagonal(operation: Operation, ndim: int) -> Matrix:
    """Return the diagonal with one axis a qubit, ready to multiply psi."""
    assert operation.matrix is not None
    wires = operation.wires
    order = sorted(range(len(wires)), key=lambda position: wires[position])
    values = operation.matrix.reshape((2,) * len(wires)).transpose(order)
    return values.reshape([2 if axis - 1 in wires else 1 for axis in range(ndim)])


def _controlled_slice(operation: Operation, ndim: int) -> tuple[tuple[slice, ...], int]:
    """Return the part of psi where the controls read their values, and the target's axis."""
    assert operation.control_values is not None
    *controls, target = operation.wires
    where = [slice(None)] * ndim
    for wire, value in zip(controls, operation.control_values, strict=True):
        where[1 + wire] = slice(value, value + 1)
    return tuple(where), 1 + target


def _per_row(values: NDArray[np.float64], psi: Matrix) -> NDArray[np.float64]:
    """Give (rows,) or () values as many axes as psi has."""
    return values.reshape(values.shape + (1,) * (psi.ndim - 1)) if values.ndim else values


# Observables


def _apply_observable(observable: Observable, psi: Matrix) -> Matrix:
    total = np.zeros_like(psi)
    for term in observable.components:
        total += term.coefficient * _apply_component(term, psi)
    return total


def _apply_component(term: Component, psi: Matrix) -> Matrix:
    if isinstance(term, PauliTerm):
        return _apply_pauli(dict(term.paulis), psi)
    if isinstance(term, HermitianTerm):
        return _matmul(term.matrix[np.newaxis], term.wires, psi)
    where = [slice(None)] * psi.ndim
    for wire, bit in zip(term.wires, term.bits, strict=True):
        where[1 + wire] = slice(bit, bit + 1)
    projected = np.zeros_like(psi)
    projected[tuple(where)] = psi[tuple(where)]
    return projected


def _values(psi: Matrix, observables: Sequence[Observable]) -> NDArray[np.float64]:
    """Return <psi|O|psi> for each row and observable, (rows, O)."""
    values = np.zeros((len(psi), len(observables)))
    for position, observable in enumerate(observables):
        values[:, position] = _inner(psi, _apply_observable(observable, psi)).real
    return values


def _inner(bra: Matrix, ket: Matrix) -> Matrix:
    """Return <bra|ket> for each row, (rows,)."""
    amplitudes = tuple(range(1, bra.ndim))
    return np.asarray((bra.conj() * ket).sum(axis=amplitudes), dtype=np.complex128)
