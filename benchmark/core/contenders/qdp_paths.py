# SPDX-License-Identifier: Apache-2.0
"""QDP itself: encode once and reuse the states, or raw features straight into the engine."""

from __future__ import annotations

import functools
import importlib
import time
from typing import Any

import numpy as np

from benchmark.core.cases import GradientCase, Term
from benchmark.core.contenders.base import Contender, Repeat, milliseconds


def qdp_observable(terms: tuple[Term, ...]) -> Any:
    """Return the Pauli sum as a qdp.Observable."""
    import qdp

    total: Any = None
    for coefficient, word in terms:
        letters = " ".join(f"{letter}{wire}" for wire, letter in word)
        term = coefficient * qdp.Observable(f"1.0 {letters}")
        total = term if total is None else total + term
    return total


@functools.cache
def ladder_problem(n_qubits: int, n_layers: int, terms: tuple[Term, ...]) -> tuple[Any, Any]:
    """Return the circuit and the observable, built once as a training loop would."""
    import qdp

    return qdp.ansatz.ry_rz_ladder(n_qubits, n_layers), qdp_observable(terms)


def qdp_gradients(
    features: Any,
    parameters: Any,
    *,
    n_qubits: int,
    n_layers: int,
    terms: tuple[Term, ...],
    method: Any,
    backend: Any = "auto",
    precision: Any = "double",
    fused: bool = False,
    prune: bool = False,
    buffer: Any = None,
) -> tuple[Any, float, float]:
    """Return the gradients (rows, P) and the milliseconds spent encoding and in circuits.

    ``features`` is (rows, up to 2**n) real, NumPy or torch; the gradients are of the same kind.
    With ``fused`` the raw features go into the engine and no time can be told apart as encoding;
    else ``buffer`` (rows, 2**n) complex, if given, takes the states: memory is then asked for once
    and not in every repetition.
    """
    import qdp

    circuit, observable = ladder_problem(n_qubits, n_layers, terms)
    options: dict[str, Any] = {"method": method, "backend": backend, "precision": precision}
    options["prune"] = prune
    start = time.perf_counter()
    if fused:
        states, options["encoding"] = features, "amplitude"
    else:
        states = qdp.encode(
            features, "amplitude", n_qubits, precision=precision, backend=backend, out=buffer
        )
    encoded = time.perf_counter()
    gradients = qdp.gradient(circuit, parameters, states, observable, **options)
    stop = time.perf_counter()
    return gradients, milliseconds(start, encoded), milliseconds(encoded, stop)


class Qdp(Contender):
    """As the roadmap's QDP path: encode every row once, then all circuits on the states."""

    name = "qdp"
    title = "QDP"
    description = "batched engine, rows encoded once into memory that is kept"
    distributions = ("qdp", "numpy")
    fused = False
    prune = False

    @classmethod
    def unsupported(cls, case: GradientCase) -> str | None:
        """QDP runs every case."""
        return None

    def prepare(self) -> None:
        """Import the engine and run one row."""
        self.parameters = np.array(self.case.parameters, dtype=np.float64)
        self.buffer = None
        if not self.fused:
            dtype = np.complex128 if self.case.precision == "double" else np.complex64
            self.buffer = np.empty((len(self.features), 2**self.case.n_qubits), dtype)
        self.run(min(1, len(self.features)))

    def details(self) -> dict[str, str]:
        """Name the version and backend, and the instruction set that the compiled one takes."""
        import qdp

        facts = {"qdp": qdp.__version__, "backend": self.case.backend}
        if self.case.backend in ("auto", "cpu"):
            extension = importlib.import_module("qdp._core")
            facts["instruction_set"] = str(extension.instruction_set())
        return facts

    def run(self, rows: int) -> Repeat:
        """Encode and differentiate."""
        case = self.case
        gradients, encoding_ms, circuit_ms = qdp_gradients(
            self.features[:rows],
            self.parameters,
            n_qubits=case.n_qubits,
            n_layers=case.n_layers,
            terms=case.terms,
            method=case.method,
            backend=case.backend,
            precision=case.precision,
            fused=self.fused,
            prune=self.prune,
            buffer=None if self.buffer is None else self.buffer[:rows],
        )
        return Repeat(np.asarray(gradients, dtype=np.float64), encoding_ms, circuit_ms)


class QdpFused(Qdp):
    """Raw features in: the states are built inside the engine and never stored."""

    name = "qdp-fused"
    title = "QDP, fused encoding"
    description = "batched engine, raw features in, no state in memory"
    encoding_note = "inside the circuits"
    fused = True


class QdpPruned(QdpFused):
    """Raw features in, and no rotation applied that changes no value: less work than the others."""

    name = "qdp-pruned"
    title = "QDP, pruned"
    description = "as qdp-fused, without the rotations that change no value: not the same work"
    prune = True
