# SPDX-License-Identifier: Apache-2.0
"""PyTorch: a hand-written batched state-vector simulation, differentiated by autograd.

Per-row gradients come from one backward pass: the angles are repeated for each row, so that the
gradient of the summed expectations is the gradient of each row by itself (PyTorch, "Per-sample
gradients"). RY is real, a layer's RZ one diagonal, the ladder one gather, rows innermost so that
every gate works on whole lines.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmark.core.cases import diagonal_signs, ladder_source, observable_diagonal
from benchmark.core.contenders.base import EncodedOnceInChunks, Gradients, chunk_bounds
from benchmark.core.contenders.gpu import OnGpu, torch_problem


class TorchGates(EncodedOnceInChunks):
    """Gate by gate, a chunk of rows at a time, torch's own threads inside each operation."""

    name = "torch"
    title = "PyTorch, gate by gate"
    description = "hand-written batched simulation, one backward pass for all rows of a chunk"
    rule = "adjoint"
    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    device: ClassVar[str] = "cpu"

    def prepare(self) -> None:
        """Make the tables and run one chunk."""
        import torch

        case = self.case
        torch.set_num_threads(case.threads)
        self.torch = torch
        self.allocate_states(case.real_dtype)
        diagonal = observable_diagonal(case.observable, case.n_qubits).astype(case.real_dtype)
        signs = diagonal_signs(case.n_qubits).astype(case.real_dtype)
        self.diagonal, self.signs, self.source, self.angles = (
            torch.from_numpy(table).to(self.device)
            for table in (
                diagonal,
                signs,
                ladder_source(case.n_qubits),
                case.angles.astype(case.real_dtype),
            )
        )
        self.run(min(self.size, len(self.features)))

    def circuits(self, rows: int) -> Any:
        """Differentiate chunk by chunk."""
        states = self.torch.as_tensor(self.states)
        bounds = chunk_bounds(rows, self.size)
        return self.torch.cat([self.chunk(states[start:stop]) for start, stop in bounds])

    def on_host(self, gradients: Any) -> Gradients:
        """Return the tensor as a NumPy array."""
        return np.asarray(gradients.cpu().numpy(), dtype=np.float64)

    def chunk(self, states: Any) -> Any:
        """Return the gradients of some rows, both as tensors."""
        torch, case = self.torch, self.case
        rows = len(states)
        angles = self.angles[..., None].repeat(1, 1, 1, rows).requires_grad_()
        state = states.T.contiguous()
        for layer in range(case.n_layers):
            cosines, sines = torch.cos(angles[layer, 0] / 2), torch.sin(angles[layer, 0] / 2)
            for qubit in range(case.n_qubits):
                zero, one = state.reshape(2**qubit, 2, -1, rows).unbind(1)
                cosine, sine = cosines[qubit], sines[qubit]
                state = torch.stack((cosine * zero - sine * one, sine * zero + cosine * one), 1)
            phases = self.signs @ angles[layer, 1] / -2
            state = state.reshape(-1, rows) * torch.complex(torch.cos(phases), torch.sin(phases))
            state = state[self.source]
        values = self.diagonal @ (state.real**2 + state.imag**2)
        (gradient,) = torch.autograd.grad(values.sum(), angles)
        return gradient.reshape(-1, rows).T


class TorchCuda(OnGpu, TorchGates):
    """The same program on CUDA tensors, all rows at a time that fit."""

    name = "torch-cuda"
    title = "PyTorch on the GPU"
    documentation = "PyTorch, CUDA semantics; Per-sample gradients"
    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    amplitudes_per_chunk = 2**22  # what autograd keeps of so many amplitudes takes some GiB

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why torch cannot use the GPU."""
        return torch_problem()

    def allocate_states(self, dtype: Any) -> None:
        """Put the rows into the device's memory, and make room for the states there."""
        torch = self.torch
        self.rows = torch.from_numpy(self.features).to(self.device)
        shape = (len(self.features), self.case.state_size)
        self.states = torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name)).to(self.device)

    def encode(self, rows: int) -> None:
        """Normalise the first rows."""
        features = self.rows[:rows]
        norms = self.torch.linalg.vector_norm(features, dim=1, keepdim=True)
        self.states[:rows, : features.shape[1]] = features / norms
