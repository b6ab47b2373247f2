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
from benchmark.core.contenders.base import EncodedOnceInChunks, Gradients


class TorchGates(EncodedOnceInChunks):
    """Gate by gate, a chunk of rows at a time, torch's own threads inside each operation."""

    name = "torch"
    title = "PyTorch, gate by gate"
    description = "hand-written batched simulation, one backward pass for all rows of a chunk"
    rule = "adjoint"
    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    def prepare(self) -> None:
        """Make the tables and run one chunk."""
        import torch

        case = self.case
        torch.set_num_threads(case.threads)
        self.torch = torch
        self.allocate_states(case.real_dtype)
        diagonal = observable_diagonal(case.observable, case.n_qubits).astype(case.real_dtype)
        self.diagonal = torch.from_numpy(diagonal)
        self.signs = torch.from_numpy(diagonal_signs(case.n_qubits).astype(case.real_dtype))
        self.source = torch.from_numpy(ladder_source(case.n_qubits))
        self.angles = torch.from_numpy(case.angles.astype(case.real_dtype))
        self.run(min(self.size, len(self.features)))

    def chunk(self, states: Any) -> Gradients:
        """Return the gradients of some rows."""
        torch, case = self.torch, self.case
        rows = len(states)
        angles = self.angles[..., None].repeat(1, 1, 1, rows).requires_grad_()
        state = torch.from_numpy(np.ascontiguousarray(states.T))
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
        return np.asarray(gradient.reshape(-1, rows).T.numpy(), dtype=np.float64)
