# SPDX-License-Identifier: Apache-2.0
"""Raw encoding on a GPU: features in its memory to states in its memory.

Of the states only the first rows travel back, which the check compares. Apache Mahout's QDP is
used as its README has it (``QdpEngine.encode`` of a CUDA tensor, then ``torch.from_dlpack``); its
qubit 0 is the least significant bit and its angle encoding real, RY in place of RX, for which its
users pay nothing: the check alone turns the states round.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmark.core import statistics
from benchmark.core.contenders.base import Features, Repeat
from benchmark.core.contenders.encoding_paths import (
    WITH_LIBRARY,
    Encoder,
    iqp_products_with,
    reversed_bits,
)
from benchmark.core.contenders.gpu import OnGpu, torch_problem
from benchmark.core.contenders.qdp_paths import backend_problem

# Rows that travel back; the runner's check compares fewer.
RETURNED_ROWS = 64
CALLS_OF_ONE_ROW = 25
# Rows of one step, so that the temporaries of all steps together fit beside the states.
BLOCK_BYTES = 2**29


class GpuEncoder(OnGpu, Encoder):
    """Rows as a torch tensor in device memory; subclasses give ``encode``."""

    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why torch, which holds the memory, cannot use the GPU."""
        return torch_problem()

    def prepare(self) -> None:
        """Put the rows into device memory, make room for the states, and encode one row."""
        import torch

        self.torch = torch
        self.rows = torch.from_numpy(self.given()).to(self.device)
        dtype = torch.complex128 if self.case.precision == "double" else torch.complex64
        shape = (len(self.features), self.case.state_size)
        self.out = torch.zeros(shape, dtype=dtype, device=self.device)
        self.run(1)
        calls = [self.run(1).encoding_ms for _ in range(CALLS_OF_ONE_ROW)]
        self.one_row_us = 1e3 * statistics.median(calls)

    def details(self) -> dict[str, str]:
        """Name the time of a call for one row: what a call takes that does next to nothing."""
        return {**super().details(), "one_row_us": f"{self.one_row_us:.4g}"}

    def given(self) -> Features:
        """Return the rows as the library takes them."""
        return self.features

    def run(self, rows: int) -> Repeat:
        """Encode once."""
        start = self.clock.mark()
        states = self.encode(rows)
        stop = self.clock.mark()
        returned = states[: min(rows, RETURNED_ROWS)].cpu().numpy()
        return Repeat(self.in_order(returned), self.clock.milliseconds(start, stop), 0.0)


class QdpCudaEncoder(GpuEncoder):
    """qdp.encode of a tensor in device memory, into one that is kept."""

    name = "qdp-cuda"
    title = "QDP on the GPU"
    description = "qdp.encode, backend cuda, into a reused tensor in device memory"
    documentation = "QDP"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "torch", "numpy")
    backend: ClassVar[str] = "cuda"

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why QDP or torch cannot use the GPU."""
        return backend_problem(cls.backend) or torch_problem()

    def encode(self, rows: int) -> Any:
        """Encode in one call."""
        import qdp

        case = self.case
        return qdp.encode(
            self.rows[:rows],
            case.encoding,
            case.n_qubits,
            precision=case.precision,  # type: ignore[arg-type]
            backend=self.backend,  # type: ignore[arg-type]
            out=self.out[:rows],
        )


class TorchCudaEncoder(GpuEncoder):
    """The CPU's program on CUDA tensors, in large blocks; amplitudes in one product."""

    name = "torch-cuda"
    title = "PyTorch on the GPU"
    description = "hand-written, in large blocks, into a reused tensor in device memory"
    documentation = "PyTorch, CUDA semantics"

    def encode(self, rows: int) -> Any:
        """Encode all rows."""
        features, out = self.rows[:rows], self.out[:rows]
        if self.case.encoding == "amplitude":
            norms = self.torch.linalg.vector_norm(features, dim=1, keepdim=True)
            # One pass, which widens real to complex as it writes.
            self.torch.mul(features, 1 / norms, out=out[:, : features.shape[1]])
            out[:, features.shape[1] :] = 0
        else:
            self.program()(self.torch, features, out, BLOCK_BYTES)
        return out

    def program(self) -> Any:
        """Return the function that fills an array of states."""
        return WITH_LIBRARY[self.case.encoding]


class TorchProductsCudaEncoder(TorchCudaEncoder):
    """IQPEmbedding with few cosines; the other encodings have no second way."""

    name = "torch-products-cuda"
    title = "PyTorch on the GPU, products"
    description = "hand-written, few cosines, into a reused tensor in device memory"

    @classmethod
    def unsupported(cls, case: Any) -> str | None:
        """Only IQPEmbedding has cosines to save."""
        if case.encoding != "iqp-embedding":
            return f"{cls.title} is another way to iqp-embedding only"
        return super().unsupported(case)

    def program(self) -> Any:
        """Return the function with few cosines."""
        return iqp_products_with


class QumatEncoder(GpuEncoder):
    """Apache Mahout's QDP, whose every call returns new memory."""

    name = "qumat-qdp"
    title = "Apache Mahout QDP"
    description = "QdpEngine.encode of a CUDA tensor, torch.from_dlpack of its result"
    documentation = "Apache Mahout, qumat-qdp README"
    distributions: ClassVar[tuple[str, ...]] = ("qumat-qdp", "torch", "numpy")

    @classmethod
    def unsupported(cls, case: Any) -> str | None:
        """Its own IQP ends in Hadamards, PennyLane's does not."""
        if case.encoding == "iqp-embedding":
            return f"{cls.title} has no iqp-embedding: its iqp is another encoding"
        return super().unsupported(case)

    @classmethod
    def make_engine(cls, precision: str) -> Any:
        """Return its engine."""
        from qumat_qdp import QdpEngine

        return QdpEngine(0, precision=precision)

    def prepare(self) -> None:
        """Make the engine first: where the package is missing nothing else is done."""
        self.engine = self.make_engine("float64" if self.case.precision == "double" else "float32")
        super().prepare()

    def given(self) -> Features:
        """Return angles halved, since it turns by twice what it is given."""
        return self.features / 2 if self.case.encoding == "angle" else self.features

    def encode(self, rows: int) -> Any:
        """Encode in one call."""
        case = self.case
        encoded = self.engine.encode(self.rows[:rows], case.n_qubits, case.encoding)
        return self.torch.from_dlpack(encoded)

    def in_order(self, states: Any) -> Any:
        """Return RX's states in QDP's order of qubits: a factor -i for each qubit in |1>."""
        if self.case.encoding == "amplitude":
            return states
        ones = np.bitwise_count(np.arange(self.case.state_size))
        return reversed_bits(states * (-1j) ** ones, self.case.n_qubits)
