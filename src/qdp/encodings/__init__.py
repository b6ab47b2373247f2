# SPDX-License-Identifier: Apache-2.0
"""Encodings: how a row of features becomes the state of n qubits.

Each is a frozen dataclass that checks features (with the only wording of each error), says what
it does, and encodes with NumPy: the definition that fused and compiled encoders are held to.
Features are (rows, k), states (rows, 2**n) complex, qubit 0 the most significant bit of the index.
"""

from __future__ import annotations

import numpy as np

from qdp import arrays
from qdp.arrays import Array
from qdp.encodings.base import (
    Encoding,
    Fill,
    norm_tolerance,
    require_normalised,
    require_qubit_count,
)
from qdp.encodings.rotations import (
    IQP,
    IQPZ,
    Angle,
    GateEncoding,
    IQPEmbedding,
    Phase,
    PhaseEncoding,
    ProductEncoding,
    ProductPhases,
    ZZFeatureMap,
)
from qdp.encodings.values import Amplitude, Basis

__all__ = [
    "IQP",
    "IQPZ",
    "Amplitude",
    "Angle",
    "Basis",
    "Encoding",
    "Fill",
    "GateEncoding",
    "IQPEmbedding",
    "Phase",
    "PhaseEncoding",
    "ProductEncoding",
    "ProductPhases",
    "ZZFeatureMap",
    "from_name",
    "norm_tolerance",
    "require_normalised",
    "require_qubit_count",
    "to_little_endian",
]

_ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Amplitude(),
        Angle(),
        Basis(),
        Phase(),
        IQP(),
        IQPZ(),
        IQPEmbedding(),
        ZZFeatureMap(),
    )
}


def from_name(encoding: str | Encoding) -> Encoding:
    """Return the encoding of that name with its default options; an ``Encoding`` as it is.

    Upper and lower case are the same.

    Raises:
        TypeError: neither a name nor an Encoding.
        ValueError: no encoding of that name.

    >>> from_name("angle")
    Angle(rotation='X', scale=1.0)
    """
    if isinstance(encoding, Encoding):
        return encoding
    if not isinstance(encoding, str):
        raise TypeError(
            f"encoding: expected a name or an Encoding, got {type(encoding).__name__}; "
            f"names are {', '.join(_ENCODINGS)}"
        )
    if encoding.lower() not in _ENCODINGS:
        raise ValueError(f"encoding: expected one of {', '.join(_ENCODINGS)}, got {encoding!r}")
    return _ENCODINGS[encoding.lower()]


def to_little_endian(states: Array) -> None:
    """Reverse, in place, the order of the bits in the state index of (rows, 2**n) states."""
    n_qubits = states.shape[1].bit_length() - 1
    index = np.arange(2**n_qubits)
    reversed_index = np.zeros_like(index)
    for bit in range(n_qubits):
        reversed_index |= ((index >> bit) & 1) << (n_qubits - 1 - bit)
    for part in arrays.row_chunks(len(states), states.itemsize * states.shape[1]):
        states[part] = states[part][:, reversed_index]
