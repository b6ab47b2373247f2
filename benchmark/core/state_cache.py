# SPDX-License-Identifier: Apache-2.0
"""The roadmap's ``StateCache``: amplitude-encoded states of a known number of rows, as one tensor.

Its memory is asked for once and used again by each ``encode_all``, so that a timed encoding holds
no allocation. Files, budgets and compact storage are those of ``qdp.StateCache``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import qdp


class StateCache:
    """Keep the encoded states of ``n_samples`` rows on ``n_qubits`` qubits for indexed access.

    ``dtype`` is torch.complex128 or torch.complex64. Every reading member raises RuntimeError
    before ``encode_all``.

    Raises:
        BackendUnavailable: a device that QDP has no backend for, such as "cuda" without a GPU.
        ValueError: another dtype.

    >>> cache = StateCache(1, 1, device="cpu")
    >>> cache.encode_all(torch.tensor([[0.0, 2.0]]))
    >>> cache.get_state(0).real.tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        n_samples: int,
        n_qubits: int,
        device: str = "cuda",
        dtype: torch.dtype = torch.complex128,
    ) -> None:
        if dtype not in (torch.complex128, torch.complex64):
            raise ValueError(f"dtype: expected torch.complex128 or torch.complex64, got {dtype}")
        qdp.StateCache(None, device=device)  # refuses a device that has no backend
        self.n_samples = n_samples
        self.n_qubits = n_qubits
        self.state_dim = 2**n_qubits
        self.device = device
        self.dtype = dtype
        self._cache: torch.Tensor | None = None
        self._encoded = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of all states."""
        bytes_per_element = 16 if self.dtype == torch.complex128 else 8
        return self.n_samples * self.state_dim * bytes_per_element

    @property
    def memory_mb(self) -> float:
        """MiB of all states."""
        return self.memory_bytes / (1024 * 1024)

    def encode_all(self, data: torch.Tensor, *, backend: Any = "auto") -> None:
        """Encode ``data``, (n_samples, up to state_dim) features, each row divided by its norm.

        Raises ValueError for another number of rows, or for features that the encoding refuses.
        """
        if data.shape[0] != self.n_samples:
            raise ValueError(f"Expected {self.n_samples} samples, got {data.shape[0]}")
        if self._cache is None:
            self._cache = torch.empty(
                (self.n_samples, self.state_dim), dtype=self.dtype, device=self.device
            )
        self._encoded = False
        qdp.encode(
            data.to(self.device), "amplitude", self.n_qubits, out=self._cache, backend=backend
        )
        self._encoded = True

    def get_state(self, idx: int) -> torch.Tensor:
        """Return one state, (state_dim,)."""
        return self.get_all()[idx]

    def get_states(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the states at ``indices``, (len(indices), state_dim)."""
        return self.get_all()[indices]

    def get_all(self) -> torch.Tensor:
        """Return all states, (n_samples, state_dim), without a copy."""
        if self._cache is None or not self._encoded:
            raise RuntimeError("Cache not populated. Call encode_all() first.")
        return self._cache

    def chunks(self, rows: int) -> Iterator[torch.Tensor]:
        """Yield all states in order, ``rows`` at a time, without a copy; the last may be short."""
        yield from self.get_all().split(rows)

    def clear(self) -> None:
        """Free the memory."""
        self._cache = None
        self._encoded = False
