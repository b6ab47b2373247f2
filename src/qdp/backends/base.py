# SPDX-License-Identifier: Apache-2.0
"""What a backend must offer, and the checked numbers that it is given.

The engine validates and converts; a backend computes. Arrays here are NumPy and contiguous.
Shapes: rows = samples of the batch, P = trainable parameters, F = per-row inputs,
O = observables, 2**n = amplitudes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qdp.circuit import Circuit, Observable
from qdp.encodings import Encoding, Fill

Precision = Literal["double", "single"]
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Batch:
    """The numbers of one call: everything a circuit needs besides its structure.

    ``parameters`` is (P,) or (rows, P) float64, ``inputs`` (rows, F) float64 or None.
    ``states`` is None (every row starts in |0...0>), or (rows, 2**n) float32, float64, complex64
    or complex128. With ``normalize`` it is (rows, up to 2**n) raw real or complex features, which
    the backend pads with zeros and normalises: amplitude encoding fused into the run.
    ``indices`` (rows,) int64 starts row i in the basis state |indices[i]> instead.
    ``recheck`` None means that the values of ``states`` were looked at. Else, with a backend that
    ``checks_rows`` only, it is to be called for a row that is not finite, that is all zero, or,
    without ``normalize``, further from norm 1 than ``norm_tolerance``; it raises the error.
    ``prune`` allows to leave out rotations that change no expectation value.
    """

    rows: int
    parameters: Array
    inputs: Array | None = None
    states: Array | None = None
    normalize: bool = False
    indices: Array | None = None
    precision: Precision = "double"
    recheck: Callable[[], object] | None = None
    norm_tolerance: float = 0.0
    prune: bool = False

    @property
    def real_dtype(self) -> type[np.floating]:
        """float64 or float32, the dtype of values and gradients."""
        return np.float64 if self.precision == "double" else np.float32

    @property
    def complex_dtype(self) -> type[np.complexfloating]:
        """complex128 or complex64, the dtype of states."""
        return np.complex128 if self.precision == "double" else np.complex64

    def part(self, rows: slice) -> Batch:
        """Return the numbers of some of the rows, as views.

        >>> Batch(rows=5, parameters=np.zeros((5, 2))).part(slice(3, 5)).parameters.shape
        (2, 2)
        """

        def cut(array: Array | None) -> Array | None:
            return None if array is None else array[rows]

        return replace(
            self,
            rows=len(range(*rows.indices(self.rows))),
            parameters=self.parameters[rows] if self.parameters.ndim == 2 else self.parameters,
            inputs=cut(self.inputs),
            states=cut(self.states),
            indices=cut(self.indices),
        )


@dataclass(frozen=True)
class AdjointResult:
    """Values and derivatives of one adjoint run, in the batch's real dtype.

    ``values`` is (rows, O). ``parameters`` is (rows, O, P), ``inputs`` (rows, O, F), ``states``
    (rows, O, 2**n) complex in torch's convention (d/dRe + i d/dIm; with ``Batch.normalize`` it is
    taken with respect to the normalised, padded state); each None unless asked for. With
    cotangents the observables are contracted first and O is 1 in the derivatives.
    """

    values: Array
    parameters: Array | None
    inputs: Array | None
    states: Array | None


# One shift: operation index in the circuit, slot of its angle, and what is added to that angle.
Shift = tuple[int, int, float]


class Backend(ABC):
    """Runs circuits over batches. Rows are independent: row i is what row i alone would give."""

    name: str
    # Whether rows are looked at while they are loaded, so that the caller need not do so before.
    checks_rows = False

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return this backend's loop from features to states, or None for NumPy's."""
        return None

    @abstractmethod
    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""

    @abstractmethod
    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O)."""

    @abstractmethod
    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, in order, (rows, 2**len(wires))."""

    @abstractmethod
    def adjoint(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        wrt: frozenset[str],
        cotangents: Array | None = None,
    ) -> AdjointResult:
        """Differentiate expectation values.

        ``wrt`` is a subset of {"parameters", "inputs", "states"}; ``cotangents`` is (rows, O).
        """

    @abstractmethod
    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O).

        Each entry of ``shifts`` is one evaluation: the shifts it applies together (none: as is).
        """
