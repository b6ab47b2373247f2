# SPDX-License-Identifier: Apache-2.0
"""What a backend must offer, and the checked numbers that it is given.

The engine validates and converts; a backend computes. Arrays here are NumPy and contiguous.
Shapes: rows = samples of the batch, P = trainable parameters, F = per-row inputs,
O = observables, 2**n = amplitudes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qdp import arrays
from qdp.circuit import Circuit, Observable
from qdp.device_arrays import Memory, Target
from qdp.encodings import Encoding, Fill, GateEncoding, PhaseEncoding, ProductEncoding

Precision = Literal["double", "single"]
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Preparation:
    """The rows' initial states as a few numbers each, worked out as the rows are loaded.

    Either ``factors``, (rows, n, 2) complex128: states of single qubits, whose product it is; or
    ``phases``, (rows, 1 + n + n(n-1)/2) float64: ``PhaseEncoding.coefficients`` with its
    ``repeats`` and ``closes``.
    """

    factors: Array | None = None
    phases: Array | None = None
    repeats: int = 1
    closes: bool = False

    @staticmethod
    def of(encoding: Encoding, features: Array, n_qubits: int) -> Preparation | None:
        """Return the numbers of validated features, or None for an encoding without such."""
        rows = len(features)
        if isinstance(encoding, ProductEncoding):
            factors = np.empty((rows, n_qubits, 2), np.complex128)
            for part in arrays.row_chunks(rows, 32 * n_qubits):
                factors[part] = encoding.factors(features[part], n_qubits)
            return Preparation(factors=factors)
        if isinstance(encoding, PhaseEncoding):
            phases = np.empty((rows, 1 + n_qubits * (n_qubits + 1) // 2))
            for part in arrays.row_chunks(rows, phases.itemsize * phases.shape[1]):
                phases[part] = encoding.coefficients(features[part], n_qubits)
            return Preparation(phases=phases, repeats=encoding.repeats, closes=encoding.closes)
        return None

    def rows(self, part: slice) -> Preparation:
        """Return the numbers of some of the rows."""
        return replace(
            self,
            factors=None if self.factors is None else self.factors[part],
            phases=None if self.phases is None else self.phases[part],
        )


@dataclass(frozen=True)
class Batch:
    """The numbers of one call: everything a circuit needs besides its structure.

    ``parameters`` is (P,) or (rows, P) float64, ``inputs`` (rows, F) float64 or None.
    ``states`` is None (every row starts in |0...0>), or (rows, 2**n) float32, float64, complex64
    or complex128. With ``normalize`` it is (rows, up to 2**n) raw real or complex features, which
    the backend pads with zeros and normalises: amplitude encoding fused into the run.
    ``indices`` (rows,) int64 starts row i in the basis state |indices[i]> instead, ``preparation``
    in the state of an encoding; the latter only with a backend that ``prepares``.
    ``recheck`` None means that the values of ``states`` were looked at. Else, with a backend that
    ``checks_rows`` only, it is to be called for a row that is not finite, that is all zero, or,
    without ``normalize``, further from norm 1 than ``norm_tolerance``; it raises the error.
    ``prune`` allows to leave out rotations that change no expectation value.

    With ``target``, which only a ``DeviceBackend`` is given, all arrays are DeviceArrays on
    its GPU, of any real dtype where it says float64 above, and results are made by it. Nobody has
    looked at their values: rows that can't be used become NaN. ``inputs`` may be (F,) and
    ``states`` a single row for all. ``features`` (rows or 1, k) of an ``encoding`` by angles then
    stay apart: the circuit reads them, and their products, behind ``n_own_inputs`` inputs; or
    ``fused``, with a backend that ``prepares``, rows start in the states that encode them.
    """

    rows: int
    parameters: Array
    inputs: Array | None = None
    states: Array | None = None
    normalize: bool = False
    indices: Array | None = None
    preparation: Preparation | None = None
    precision: Precision = "double"
    recheck: Callable[[], object] | None = None
    norm_tolerance: float = 0.0
    prune: bool = False
    target: Target | None = None
    encoding: GateEncoding | None = None
    features: Array | None = None
    n_own_inputs: int = 0
    fused: bool = False

    @property
    def turns(self) -> Array | None:
        """The features that the circuit reads as inputs."""
        return None if self.fused else self.features

    @property
    def real_dtype(self) -> type[np.floating]:
        """float64 or float32, the dtype of values and gradients."""
        return np.float64 if self.precision == "double" else np.float32

    @property
    def complex_dtype(self) -> type[np.complexfloating]:
        """complex128 or complex64, the dtype of states."""
        return np.complex128 if self.precision == "double" else np.complex64


@dataclass(frozen=True)
class AdjointResult:
    """Values and derivatives of one adjoint run, in the batch's real dtype.

    ``values`` is (rows, O). ``parameters`` is (rows, O, P), ``inputs`` (rows, O, F), ``states``
    (rows, O, 2**n) complex in torch's convention (d/dRe + i d/dIm; with ``Batch.normalize`` it is
    taken with respect to the normalised, padded state); each None unless asked for. With
    cotangents the observables are contracted first and O is 1 in the derivatives. Of a batch with
    ``target``, ``inputs`` has the own ones only, and ``states`` is taken with respect to the rows
    as they were given, (rows, O, columns), real for real ones, or to the encoding's features.
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
    # Whether it takes ``Batch.preparation``, and ``fused``; else angle encodings run as gates.
    prepares = False

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return this backend's loop from features to states, or None for NumPy's."""
        return None

    def weighted_shifts(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
        terms: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    ) -> AdjointResult | None:
        """Return weighted sums of shifted values; None if the backend leaves that to the caller.

        ``terms`` has, for "parameters" and "inputs", the evaluations of each column and their
        weights. Evaluation 0 gives the values.
        """
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


class DeviceBackend(Backend):
    """A backend on a GPU, which also takes batches with a ``target``."""

    @property
    @abstractmethod
    def memory(self) -> Memory:
        """The GPU whose arrays it takes without a copy."""

    @abstractmethod
    def fill_states(self, circuit: Circuit, batch: Batch, out: Array) -> None:
        """Write the final states into ``out``, (rows, 2**n) in the batch's complex dtype."""

    @abstractmethod
    def sum_rows(self, array: Array, target: Target) -> Array:
        """Return the sum over the first axis of an array on the GPU."""

    @abstractmethod
    def overlaps(
        self, left: Array, right: Array, target: Target | None = None, tolerance: float = 0.0
    ) -> Array:
        """Return |<a|b>|**2 of all pairs of rows, (rows_a, rows_b), single precision if both are.

        Rows may be real or complex; with ``tolerance`` those whose norm is further from 1 become
        NaN. Both are on the GPU if there is a ``target``, which makes the result.
        """
