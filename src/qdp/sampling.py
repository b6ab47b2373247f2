# SPDX-License-Identifier: Apache-2.0
"""Finite shots: bits drawn from states, and observables estimated in their own bases.

Terms of all observables that can be read in one product basis (qubit-wise commuting) share a
setting; a Hermitian matrix has a setting of its own, its eigenbasis. Every setting gets the full
number of shots. Draws come from one generator, row after row, so a seed repeats them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qdp import gates
from qdp.arrays import Array
from qdp.backends.base import Backend, Batch
from qdp.circuit import Circuit, HermitianTerm, Observable, PauliTerm, ProjectorTerm

# Probabilities held at a time.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Setting:
    """One way to measure: ``operations`` turn the basis, then ``wires`` are read.

    ``values`` (O, 2**len(wires)) is what each outcome adds to each observable.
    """

    operations: tuple[gates.Operation, ...]
    wires: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class Measurement:
    """The settings that together estimate some observables, and their constant parts (O,)."""

    settings: tuple[Setting, ...]
    constants: Array


def measurement(observables: Sequence[Observable]) -> Measurement:
    """Group the terms of the observables, greedily in their order, into settings.

    >>> len(measurement([Observable("1.0 Z0 + 0.5 Z1 X2 + 2.0 X0")]).settings)
    2
    """
    constants = np.zeros(len(observables))
    bases: list[dict[int, str]] = []
    members: list[list[tuple[int, PauliTerm | ProjectorTerm]]] = []
    eigenbases: list[Setting] = []
    for index, observable in enumerate(observables):
        for term in observable.components:
            if isinstance(term, HermitianTerm):
                eigenbases.append(_eigenbasis(term, index, len(observables)))
                continue
            needed = dict(term.paulis) if isinstance(term, PauliTerm) else _read(term.wires)
            if not needed:
                constants[index] += term.coefficient
                continue
            for basis, group in zip(bases, members, strict=True):
                if all(basis.get(wire, letter) == letter for wire, letter in needed.items()):
                    basis.update(needed)
                    group.append((index, term))
                    break
            else:
                bases.append(needed)
                members.append([(index, term)])
    products = [
        _product_basis(basis, group, len(observables))
        for basis, group in zip(bases, members, strict=True)
    ]
    return Measurement((*products, *eigenbases), constants)


def estimate(
    backend: Backend,
    circuit: Circuit,
    batch: Batch,
    measured: Measurement,
    shots: int,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Estimate observables from ``shots`` shots a setting.

    Returns the means and the variances of these means (not of a single shot), both (rows, O)
    float64; a single shot has no variance: NaN.
    """
    means = np.tile(measured.constants, (batch.rows, 1))
    variances = np.zeros_like(means)
    for setting in measured.settings:
        turned = circuit + Circuit(circuit.n_qubits, setting.operations)
        for part, probabilities in _probabilities(backend, turned, batch, setting.wires):
            frequencies = generator.multinomial(shots, probabilities) / shots
            mean = frequencies @ setting.values.T
            square = frequencies @ (setting.values**2).T
            means[part] += mean
            spread = np.maximum(square - mean**2, 0)
            variances[part] += spread / (shots - 1) if shots > 1 else np.nan
    return means, variances


def draw(
    backend: Backend,
    circuit: Circuit,
    batch: Batch,
    wires: Sequence[int],
    shots: int,
    generator: np.random.Generator,
) -> Array:
    """Draw the bits of ``wires`` in their order, (rows, shots, len(wires)) uint8."""
    bits = np.empty((batch.rows, shots, len(wires)), np.uint8)
    places = np.arange(len(wires) - 1, -1, -1)
    for part, probabilities in _probabilities(backend, circuit, batch, wires):
        for row, row_probabilities in enumerate(probabilities, part.start):
            cumulative = np.cumsum(row_probabilities)
            uniform = generator.random(shots) * cumulative[-1]
            outcomes = np.searchsorted(cumulative, uniform, side="right")
            bits[row] = (outcomes[:, None] >> places) & 1
    return bits


def _probabilities(
    backend: Backend, circuit: Circuit, batch: Batch, wires: Sequence[int]
) -> Iterable[tuple[slice, Array]]:
    """Yield float64 probabilities that sum to 1, a chunk of rows at a time."""
    step = max(1, _CHUNK_BYTES // (8 * 2 ** len(wires)))
    for start in range(0, batch.rows, step):
        part = slice(start, min(start + step, batch.rows))
        chunk = batch if part == slice(0, batch.rows) else _rows(batch, part)
        found = backend.probabilities(circuit, chunk, wires).astype(np.float64)
        np.maximum(found, 0, out=found)
        found /= found.sum(axis=1, keepdims=True)
        yield part, found


def _rows(batch: Batch, part: slice) -> Batch:
    def cut(array: Array | None) -> Array | None:
        return None if array is None else array[part]

    shared = batch.parameters.ndim == 1
    return replace(
        batch,
        rows=part.stop - part.start,
        parameters=batch.parameters if shared else batch.parameters[part],
        inputs=cut(batch.inputs),
        states=cut(batch.states),
        indices=cut(batch.indices),
        preparation=None if batch.preparation is None else batch.preparation.rows(part),
    )


def _read(wires: Iterable[int]) -> dict[int, str]:
    return dict.fromkeys(wires, "Z")


def _product_basis(
    basis: dict[int, str], group: list[tuple[int, PauliTerm | ProjectorTerm]], n_observables: int
) -> Setting:
    wires = tuple(sorted(basis))
    outcomes = np.arange(2 ** len(wires))
    # The bit of each wire in the outcome: the first wire is the most significant.
    bits = {wire: outcomes >> (len(wires) - 1 - place) & 1 for place, wire in enumerate(wires)}
    values = np.zeros((n_observables, len(outcomes)))
    for index, term in group:
        if isinstance(term, PauliTerm):
            parity = sum(bits[wire] for wire, _ in term.paulis) % 2
            values[index] += term.coefficient * (1 - 2 * parity)
        else:
            matches = np.all(
                [bits[wire] == bit for wire, bit in zip(term.wires, term.bits, strict=True)], axis=0
            )
            values[index] += term.coefficient * matches
    operations: list[gates.Operation] = []
    for wire in wires:
        if basis[wire] == "Y":
            operations.append(gates.Sdg(wire))
        if basis[wire] != "Z":
            operations.append(gates.Hadamard(wire))
    return Setting(tuple(operations), wires, values)


def _eigenbasis(term: HermitianTerm, index: int, n_observables: int) -> Setting:
    eigenvalues, eigenvectors = np.linalg.eigh(term.matrix)
    values = np.zeros((n_observables, len(eigenvalues)))
    values[index] = term.coefficient * eigenvalues
    return Setting(
        (gates.QubitUnitary(eigenvectors.conj().T, term.wires),), tuple(term.wires), values
    )
