# SPDX-License-Identifier: Apache-2.0
"""The roadmap's classes and functions: one machine, one process, QDP beside PennyLane.

``GradientBenchmark`` computes per-row gradients of the RY-RZ-CNOT ladder circuit twice: with QDP,
which encodes every row once, and with PennyLane, which embeds the row again in each of the 2P
shifted evaluations. The command line times the same two paths in fresh processes (core/runner.py).
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pennylane as qml
import torch

from benchmark.core.cases import METHODS, OBSERVABLES, PRECISIONS, observable_terms
from benchmark.core.contenders.base import milliseconds
from benchmark.core.contenders.pennylane_paths import (
    apply_layers,
    embedding_node,
    embedding_only_node,
    split_total,
    time_embedding,
)
from benchmark.core.contenders.qdp_paths import qdp_observable
from benchmark.core.state_cache import StateCache


@dataclass
class GradientBenchmarkResult:
    """Results from a single gradient benchmark run; times are medians over the runs."""

    framework: str  # "qdp" or "pennylane"
    n_samples: int
    n_qubits: int
    n_parameters: int
    encoding_time_ms: float  # time spent on amplitude encoding
    circuit_time_ms: float  # time spent on circuit execution
    total_time_ms: float  # encoding + circuit
    gradients: torch.Tensor | None  # (n_samples, n_parameters) float64

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return self.n_samples / (self.total_time_ms / 1e3)


def create_variational_circuit(
    n_qubits: int, n_layers: int
) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """Create the PennyLane quantum function ``circuit(state, params)`` of the benchmark.

    A layer is RY on each qubit, RZ on each qubit, then the ladder CNOT(i, i+1); the parameters,
    2 * n_qubits * n_layers radians, are taken in that order. ``state`` holds 2**n_qubits
    amplitudes; the result is the expectation of Z on qubit 0.

    >>> node = qml.QNode(create_variational_circuit(2, 1), qml.device("default.qubit", wires=2))
    >>> round(float(node(torch.tensor([1.0, 0, 0, 0]), torch.zeros(4))), 6)
    1.0
    """

    def circuit(state: torch.Tensor, params: torch.Tensor) -> Any:
        qml.StatePrep(state, wires=range(n_qubits))
        apply_layers(n_qubits, n_layers, params)
        return qml.expval(qml.PauliZ(0))

    return circuit


def compute_gradient_parameter_shift(
    circuit_fn: Callable[[Any, Any], Any],
    states: Any,
    params: Any,
    shift: float = np.pi / 2,
    *,
    progress: bool = False,
) -> torch.Tensor:
    """Compute per-row gradients by the two-term shift rule, one evaluation after the other.

    For each parameter p: grad[p] = (f(p + shift) - f(p - shift)) / (2 sin(shift)), with
    ``circuit_fn(state, params)`` for f. ``states`` is (n_samples, anything) and ``params``
    (n_parameters,) in radians, torch tensors or NumPy arrays, handed on as they are. Returns
    (n_samples, n_parameters) float64. Raises ValueError where sin(shift) is zero.

    >>> compute_gradient_parameter_shift(
    ...     lambda state, angles: torch.cos(angles[0]), torch.zeros(1, 1), torch.tensor([0.0])
    ... ).tolist()
    [[0.0]]
    """
    if abs(np.sin(shift)) < 1e-12:
        raise ValueError(f"expected a shift whose sine is not zero, got {shift}")
    is_torch = isinstance(params, torch.Tensor)
    device = params.device if is_torch else torch.device("cpu")
    n_samples, n_params = len(states), len(params)
    gradients = torch.zeros(n_samples, n_params, dtype=torch.float64, device=device)
    with torch.no_grad():
        for p in _with_progress(range(n_params), progress, "parameter-shift"):
            params_plus = params.clone() if is_torch else params.copy()
            params_plus[p] += shift
            params_minus = params.clone() if is_torch else params.copy()
            params_minus[p] -= shift
            for i, state in enumerate(states):
                f_plus = float(circuit_fn(state, params_plus))
                f_minus = float(circuit_fn(state, params_minus))
                gradients[i, p] = (f_plus - f_minus) / (2 * np.sin(shift))
    return gradients


def _with_progress(items: range, wanted: bool, title: str) -> Iterable[int]:
    if not wanted:
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[int] = tqdm(items, desc=title, unit="parameter", delay=2, leave=False)
    return bar


def gpu_problem(index: int = 0) -> str | None:
    """Return why GPU ``index`` cannot be used, or None where it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if index < 0 or index >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} CUDA devices, so there is no GPU {index}"
    if importlib.util.find_spec("qdp.backends.cuda") is None:
        return "this version of QDP has no CUDA backend"
    return None


class GradientBenchmark:
    """Benchmark gradient computation via the parameter-shift rule.

    The roadmap's arguments come first. Keyword-only beyond it: ``method`` of QDP's path
    ("parameter-shift" or "adjoint"; PennyLane's path always shifts), ``observable`` ("z0" or
    "sum-z"), QDP's ``backend`` and ``precision``, the ``gpu`` index, and ``progress`` bars
    (None: where standard error is a terminal). ``use_gpu=True`` without a usable GPU raises
    qdp.errors.BackendUnavailable.

    >>> benchmark = GradientBenchmark(n_qubits=3, n_layers=1, use_gpu=False)
    >>> benchmark.n_parameters, benchmark.params.dtype
    (6, torch.float64)
    """

    def __init__(
        self,
        n_qubits: int = 12,
        n_layers: int = 2,
        use_gpu: bool = True,
        seed: int = 42,
        *,
        method: str = "parameter-shift",
        observable: str = "z0",
        backend: str = "auto",
        precision: str = "double",
        gpu: int = 0,
        progress: bool | None = None,
    ) -> None:
        for name, value, allowed in (
            ("method", method, METHODS),
            ("observable", observable, OBSERVABLES),
            ("precision", precision, PRECISIONS),
        ):
            if value not in allowed:
                raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
        if n_qubits < 1 or n_layers < 1:
            raise ValueError(
                f"expected at least one qubit and one layer, got {n_qubits} and {n_layers}"
            )
        self.n_qubits = n_qubits
        self.n_layers = n_layers
        self.n_parameters = n_layers * n_qubits * 2  # RY + RZ per qubit per layer
        self.use_gpu = use_gpu
        self.seed = seed
        self.method = method
        self.observable = observable
        self.backend = backend
        self.precision = precision
        self.gpu = gpu
        self.progress = sys.stderr.isatty() if progress is None else progress
        self.device = self._create_device()
        self.params = self._init_parameters()

    @property
    def torch_device(self) -> torch.device:
        """Where data and parameters live."""
        return torch.device("cuda", self.gpu) if self.use_gpu else torch.device("cpu")

    def _create_device(self) -> Any:
        """Create PennyLane device (lightning.gpu or default.qubit)."""
        if not self.use_gpu:
            return qml.device("default.qubit", wires=self.n_qubits)
        problem = gpu_problem(self.gpu)
        if problem is not None:
            from qdp.errors import BackendUnavailable

            raise BackendUnavailable(
                f"use_gpu=True needs a GPU, but {problem}; pass use_gpu=False to run on the CPU"
            )
        return qml.device("lightning.gpu", wires=self.n_qubits)

    def _init_parameters(self) -> torch.Tensor:
        """Initialize variational parameters, radians."""
        torch.manual_seed(self.seed)
        return torch.randn(
            self.n_parameters,
            dtype=torch.float64,
            device=self.torch_device,
            requires_grad=True,
        )

    def _checked(self, data: Any, warmup: int, runs: int) -> torch.Tensor:
        """Return the data as a (n_samples, up to 2**n_qubits) tensor in its place."""
        if runs < 1 or warmup < 0:
            raise ValueError(
                f"expected runs of at least 1 and warmup of at least 0, got {runs}, {warmup}"
            )
        rows = torch.as_tensor(data)
        if rows.ndim != 2 or len(rows) == 0 or not 1 <= rows.shape[1] <= 2**self.n_qubits:
            raise ValueError(
                f"expected data of shape (n_samples, 1 to {2**self.n_qubits}) with at least one "
                f"sample, got {tuple(rows.shape)}"
            )
        return rows.detach().to(self.torch_device)

    def _synchronize(self) -> None:
        if self.use_gpu:
            torch.cuda.synchronize(self.torch_device)

    def run_qdp_path(
        self, data: torch.Tensor, warmup: int = 1, runs: int = 3
    ) -> GradientBenchmarkResult:
        """Compute gradients using QDP encoding (encode once, reuse for all 2P evaluations).

        ``data`` is (n_samples, up to 2**n_qubits) real features.
        """
        import qdp

        rows = self._checked(data, warmup, runs)
        parameters = self.params.detach()
        circuit = qdp.ansatz.ry_rz_ladder(self.n_qubits, self.n_layers)
        observable = qdp_observable(observable_terms(self.observable, self.n_qubits))
        cache = StateCache(
            len(rows),
            self.n_qubits,
            device=str(rows.device),
            dtype=torch.complex128 if self.precision == "double" else torch.complex64,
        )

        def clock() -> float:
            self._synchronize()
            return time.perf_counter()

        def repeat() -> tuple[Any, float, float]:
            start = clock()
            cache.encode_all(rows, backend=self.backend)
            encoded = clock()
            gradients = qdp.gradient(
                circuit,
                parameters,
                cache.get_all(),
                observable,
                method=cast(Any, self.method),
                backend=cast(Any, self.backend),
                precision=cast(Any, self.precision),
            )
            stop = clock()
            return gradients, milliseconds(start, encoded), milliseconds(encoded, stop)

        for _ in range(warmup):
            repeat()
        samples = [repeat() for _ in range(runs)]
        gradients = torch.as_tensor(samples[-1][0]).to(torch.float64)
        return self._result("qdp", gradients, [(enc, circ) for _, enc, circ in samples])

    def run_pennylane_path(
        self, data: torch.Tensor, warmup: int = 1, runs: int = 3
    ) -> GradientBenchmarkResult:
        """Compute gradients using pure PennyLane (encode per circuit evaluation).

        ``data`` is (n_samples, up to 2**n_qubits) real features. The encoding time is that of a
        circuit with the embedding alone, run as many times. Warm-up runs take the first sample
        only: nothing that PennyLane keeps depends on the number of samples.
        """
        rows = self._checked(data, warmup, runs).cpu().to(torch.float64).numpy()
        parameters = self.params.detach().cpu().numpy()
        terms = observable_terms(self.observable, self.n_qubits)
        node = embedding_node(self.device, self.n_qubits, self.n_layers, terms)
        embedding = embedding_only_node(self.device, self.n_qubits)

        def repeat(features: Any) -> tuple[torch.Tensor, float, float]:
            start = time.perf_counter()
            gradients = compute_gradient_parameter_shift(
                node, features, parameters, progress=self.progress
            )
            total_ms = milliseconds(start, time.perf_counter())
            embedding_ms = time_embedding(embedding, features, 2 * self.n_parameters)
            return gradients, *split_total(total_ms, embedding_ms)

        for _ in range(warmup):
            repeat(rows[:1])
        samples = [repeat(rows) for _ in range(runs)]
        gradients = samples[-1][0].to(self.torch_device)
        return self._result("pennylane", gradients, [(enc, circ) for _, enc, circ in samples])

    def _result(
        self, framework: str, gradients: torch.Tensor, times: list[tuple[float, float]]
    ) -> GradientBenchmarkResult:
        """Take the median total and the median encoding; circuits are what remains."""
        total = statistics.median(encoding + circuit for encoding, circuit in times)
        encoding = min(statistics.median(encoding for encoding, _ in times), total)
        return GradientBenchmarkResult(
            framework=framework,
            n_samples=len(gradients),
            n_qubits=self.n_qubits,
            n_parameters=self.n_parameters,
            encoding_time_ms=encoding,
            circuit_time_ms=total - encoding,
            total_time_ms=total,
            gradients=gradients,
        )

    def verify_correctness(
        self,
        qdp_result: GradientBenchmarkResult,
        pl_result: GradientBenchmarkResult,
        rtol: float = 1e-5,
        atol: float = 1e-8,
    ) -> bool:
        """Verify QDP and PennyLane gradients match, by torch.allclose."""
        if qdp_result.gradients is None or pl_result.gradients is None:
            raise ValueError("expected two results with gradients, got one without")
        if qdp_result.gradients.shape != pl_result.gradients.shape:
            raise ValueError(
                "expected gradients of one shape, got "
                f"{tuple(qdp_result.gradients.shape)} and {tuple(pl_result.gradients.shape)}"
            )
        return torch.allclose(
            qdp_result.gradients.cpu(), pl_result.gradients.cpu(), rtol=rtol, atol=atol
        )
