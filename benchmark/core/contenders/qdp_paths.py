# SPDX-License-Identifier: Apache-2.0
"""QDP itself: encode once and reuse the states, or raw features straight into the engine.

On a GPU rows and results stay in its memory, as torch tensors; ``qdp-cuda-host`` alone takes them
from pinned host memory. ``qdp-custatevec`` is the vendor's engine under the same verbs.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, ClassVar

import numpy as np

from benchmark.core.cases import GradientCase, Term
from benchmark.core.contenders.base import Contender, Repeat
from benchmark.core.contenders.gpu import OnGpu, torch_problem
from benchmark.core.device import WALL_CLOCK, Clock


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
    clock: Clock = WALL_CLOCK,
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
    start = clock.mark()
    if fused:
        states, options["encoding"] = features, "amplitude"
    else:
        states = qdp.encode(
            features, "amplitude", n_qubits, precision=precision, backend=backend, out=buffer
        )
    encoded = clock.mark()
    gradients = qdp.gradient(circuit, parameters, states, observable, **options)
    stop = clock.mark()
    return gradients, clock.milliseconds(start, encoded), clock.milliseconds(encoded, stop)


def backend_problem(name: str) -> str | None:
    """Return why a GPU's backend cannot run here, in QDP's own words; None for all others."""
    import qdp

    if name not in ("cuda", "custatevec"):
        return None
    try:
        qdp.state(qdp.ansatz.ry_rz_ladder(1, 1), np.zeros(2), backend=name)  # type: ignore[arg-type]
    except (qdp.BackendUnavailable, ValueError) as error:
        return str(error)
    return None


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
        """QDP runs every case; a GPU's backend may be missing."""
        return backend_problem(case.backend)

    def prepare(self) -> None:
        """Import the engine and run one row."""
        self.load()
        self.run(min(1, len(self.features)))

    def load(self) -> None:
        """Put rows and parameters where the backend takes them, and make room for the states."""
        self.rows: Any = self.features
        self.parameters: Any = np.array(self.case.parameters, dtype=np.float64)
        self.buffer: Any = None
        if not self.fused:
            shape = (len(self.features), self.case.state_size)
            self.buffer = np.empty(shape, self.case.complex_dtype)

    def details(self) -> dict[str, str]:
        """Name the version and backend, and the instruction set that the compiled one takes."""
        import qdp

        facts = {"qdp": qdp.__version__, "backend": self.backend}
        if self.backend in ("auto", "cpu"):
            extension = importlib.import_module("qdp._core")
            facts["instruction_set"] = str(extension.instruction_set())
        return facts

    @property
    def backend(self) -> str:
        """The backend by name."""
        return str(self.case.backend)

    def on_host(self, gradients: Any) -> Any:
        """Return the gradients as a NumPy array; not timed."""
        return np.asarray(gradients, dtype=np.float64)

    def run(self, rows: int) -> Repeat:
        """Encode and differentiate."""
        case = self.case
        gradients, encoding_ms, circuit_ms = qdp_gradients(
            self.rows[:rows],
            self.parameters,
            n_qubits=case.n_qubits,
            n_layers=case.n_layers,
            terms=case.terms,
            method=case.method,
            backend=self.backend,
            precision=case.precision,
            fused=self.fused,
            prune=self.prune,
            buffer=None if self.buffer is None else self.buffer[:rows],
            clock=self.clock,
        )
        return Repeat(self.on_host(gradients), encoding_ms, circuit_ms)


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


class QdpCuda(OnGpu, Qdp):
    """Rows, states and results in device memory, as torch tensors."""

    name = "qdp-cuda"
    title = "QDP on the GPU"
    description = "backend cuda, rows encoded once into device memory that is kept"
    documentation = "QDP"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "torch", "numpy")
    backend: ClassVar[str] = "cuda"

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why QDP or torch cannot use the GPU."""
        return backend_problem(cls.backend) or torch_problem()

    def load(self) -> None:
        """Put everything into device memory."""
        import torch

        case = self.case
        self.rows = torch.from_numpy(self.features).to(self.device)
        self.parameters = torch.tensor(case.parameters, dtype=torch.float64, device=self.device)
        self.buffer = None
        if not self.fused:
            dtype = torch.complex128 if case.precision == "double" else torch.complex64
            shape = (len(self.features), case.state_size)
            self.buffer = torch.empty(shape, dtype=dtype, device=self.device)

    def on_host(self, gradients: Any) -> Any:
        """Return the tensor as a NumPy array."""
        return np.asarray(gradients.cpu().numpy(), dtype=np.float64)


class QdpCudaFused(QdpCuda):
    """Raw rows in device memory straight into the engine: no state is stored."""

    name = "qdp-cuda-fused"
    title = "QDP on the GPU, fused encoding"
    description = "backend cuda, raw features in, no state in memory"
    encoding_note = "inside the circuits"
    fused = True


class QdpCudaHost(QdpCudaFused):
    """Raw rows in pinned host memory, gradients back to the host."""

    name = "qdp-cuda-host"
    title = "QDP on the GPU, rows on the host"
    description = "backend cuda, raw features from pinned host memory, gradients to the host"
    region = (
        "from raw float64 rows in pinned host memory to float64 gradients on the host, copies "
        "included; CUDA events, the device synchronised before and after each"
    )

    def load(self) -> None:
        """Pin the rows; without a GPU there is nothing to pin them for."""
        import torch

        rows = torch.from_numpy(self.features)
        self.rows = (rows.pin_memory() if self.device == "cuda" else rows).numpy()
        self.parameters = np.array(self.case.parameters, dtype=np.float64)
        self.buffer = None

    def on_host(self, gradients: Any) -> Any:
        """They are there."""
        return np.asarray(gradients, dtype=np.float64)


class QdpCuStateVec(QdpCudaFused):
    """cuStateVec's batched calls, driven by QDP."""

    name = "qdp-custatevec"
    title = "cuStateVec through QDP"
    description = "backend custatevec, a call a gate, raw features in device memory"
    documentation = "NVIDIA cuQuantum, cuStateVec; QDP"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "custatevec-cu13", "torch", "numpy")
    backend = "custatevec"
