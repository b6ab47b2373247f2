# SPDX-License-Identifier: Apache-2.0
"""Ready-made circuits: the layered ansatzes that variational programs start from.

Each function returns a plain Circuit. Trainable parameters are numbered in the order given in its
docstring, so that ``parameters.reshape(...)`` addresses them. Rotations are about X, Y and Z;
``Rot(phi, theta, omega)`` is RZ(omega) RY(theta) RZ(phi). Angles are in radians.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Literal

from qdp.circuit import Circuit
from qdp.gates import CNOT, RX, RY, RZ, Angle, Operation, Rot, feature, parameter


def ry_rz_ladder(n_qubits: int, n_layers: int) -> Circuit:
    """Return layers of RY on every qubit, RZ on every qubit, and CNOT(q, q+1) down the line.

    Parameters: 2 * n_qubits * n_layers, shape (n_layers, 2, n_qubits) flattened: all RY angles of
    a layer, then all its RZ angles.

    >>> from qdp.ansatz import ry_rz_ladder
    >>> print(ry_rz_ladder(n_qubits=2, n_layers=1))
    0: -RY(p0)-RZ(p2)-*-
                      |
    1: -RY(p1)-RZ(p3)-X-
    """
    _check_sizes(n_qubits, n_layers)
    angles = map(parameter, itertools.count())
    operations: list[Operation] = []
    for _ in range(n_layers):
        operations += [RY(next(angles), qubit) for qubit in range(n_qubits)]
        operations += [RZ(next(angles), qubit) for qubit in range(n_qubits)]
        operations += [CNOT((qubit, qubit + 1)) for qubit in range(n_qubits - 1)]
    return Circuit(n_qubits, operations)


def strongly_entangling(
    n_qubits: int, n_layers: int, ranges: Sequence[int] | None = None
) -> Circuit:
    """Return PennyLane's StronglyEntanglingLayers: Rot on every qubit, then CNOT(q, q + range).

    Parameters: 3 * n_qubits * n_layers, shape (n_layers, n_qubits, 3) flattened. ``ranges`` holds
    one step for each layer, from 1 to n_qubits - 1 (default: 1, 2, ... and round again); targets
    wrap round, and one qubit has no CNOT. Raises ValueError for ranges that do not fit.

    >>> from qdp.ansatz import strongly_entangling
    >>> strongly_entangling(n_qubits=4, n_layers=2).n_parameters
    24
    """
    _check_sizes(n_qubits, n_layers)
    if ranges is None:
        ranges = [layer % (n_qubits - 1) + 1 if n_qubits > 1 else 0 for layer in range(n_layers)]
    elif len(ranges) != n_layers:
        raise ValueError(f"expected a range for each of {n_layers} layers, got {len(ranges)}")
    elif n_qubits > 1 and not all(1 <= step < n_qubits for step in ranges):
        raise ValueError(f"expected ranges from 1 to {n_qubits - 1}, got {list(ranges)}")
    angles = map(parameter, itertools.count())
    operations: list[Operation] = []
    for step in ranges:
        operations += _rot_on_each(n_qubits, angles)
        if n_qubits > 1:
            operations += [CNOT((qubit, (qubit + step) % n_qubits)) for qubit in range(n_qubits)]
    return Circuit(n_qubits, operations)


def basic_entangler(
    n_qubits: int, n_layers: int, rotation: Literal["X", "Y", "Z"] = "X"
) -> Circuit:
    """Return PennyLane's BasicEntanglerLayers: one rotation on every qubit, then a ring of CNOTs.

    Parameters: n_qubits * n_layers, shape (n_layers, n_qubits) flattened. ``rotation`` is the
    axis. Two qubits have one CNOT, one qubit none. Raises ValueError for another axis.

    >>> from qdp.ansatz import basic_entangler
    >>> print(basic_entangler(n_qubits=3, n_layers=1, rotation="Y"))
    0: -RY(p0)-*---X-
               |   |
    1: -RY(p1)-X-*-|-
                 | |
    2: -RY(p2)---X-*-
    """
    _check_sizes(n_qubits, n_layers)
    gates = {"X": RX, "Y": RY, "Z": RZ}
    if rotation not in gates:
        raise ValueError(f"expected rotation 'X', 'Y' or 'Z', got {rotation!r}")
    angles = map(parameter, itertools.count())
    operations: list[Operation] = []
    for _ in range(n_layers):
        operations += [gates[rotation](next(angles), qubit) for qubit in range(n_qubits)]
        operations += _ring(n_qubits)
    return Circuit(n_qubits, operations)


def data_reuploading(n_qubits: int, n_layers: int) -> Circuit:
    """Return layers that enter the row's features anew: RX(feature q), Rot, then a ring of CNOTs.

    Inputs: n_qubits, the angle of RX on qubit q in every layer is column q. Parameters:
    3 * n_qubits * n_layers, shape (n_layers, n_qubits, 3) flattened, the angles of Rot.
    Two qubits have one CNOT, one qubit none. (Perez-Salinas et al., Quantum 4, 226 (2020).)

    >>> from qdp.ansatz import data_reuploading
    >>> print(data_reuploading(n_qubits=2, n_layers=1))
    0: -RX(x0)-Rot(p0, p1, p2)-*-
                               |
    1: -RX(x1)-Rot(p3, p4, p5)-X-
    """
    _check_sizes(n_qubits, n_layers)
    angles = map(parameter, itertools.count())
    operations: list[Operation] = []
    for _ in range(n_layers):
        operations += [RX(feature(qubit), qubit) for qubit in range(n_qubits)]
        operations += _rot_on_each(n_qubits, angles)
        operations += _ring(n_qubits)
    return Circuit(n_qubits, operations)


def _check_sizes(n_qubits: int, n_layers: int) -> None:
    for what, value in (("n_qubits", n_qubits), ("n_layers", n_layers)):
        if operator.index(value) < 1:
            raise ValueError(f"expected {what} of at least 1, got {value}")


def _rot_on_each(n_qubits: int, angles: Iterator[Angle]) -> list[Operation]:
    return [Rot(next(angles), next(angles), next(angles), qubit) for qubit in range(n_qubits)]


def _ring(n_qubits: int) -> list[Operation]:
    if n_qubits < 3:
        return [CNOT((0, 1))] * (n_qubits - 1)
    return [CNOT((qubit, (qubit + 1) % n_qubits)) for qubit in range(n_qubits)]
