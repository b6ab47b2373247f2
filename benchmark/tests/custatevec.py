# SPDX-License-Identifier: Apache-2.0
"""The calls of cuquantum.bindings.custatevec that the benchmark makes, in NumPy on host memory.

They do what NVIDIA's documentation of custatevecApplyMatrixBatched says, and check what it asks of
a caller: a workspace as large as was said, handles that are alive, states that do not overlap.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np

DTYPES = {5: np.complex128, 4: np.complex64}
COMPUTE = {5: 16, 4: 4}
WORKSPACE = 96


def array_at(address, shape, dtype):
    """Return the array that lies at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


class Emulation:
    """Stands in for the module; ``calls`` counts the applications."""

    MatrixMapType = SimpleNamespace(BROADCAST=0, MATRIX_INDEXED=1)
    MatrixLayout = SimpleNamespace(COL=0, ROW=1)

    def __init__(self):
        self.handles = set()
        self.asked = None
        self.calls = 0

    def create(self):
        self.handles.add(17)
        return 17

    def destroy(self, handle):
        self.handles.remove(handle)

    def get_version(self):
        return 11500

    def apply_matrix_batched_get_workspace_size(self, handle, *arguments):
        assert handle in self.handles
        self.asked = arguments
        return WORKSPACE

    def apply_matrix_batched(self, handle, batched, *arguments):
        (data, n_bits, n_svs, stride, how, indices, matrices, matrix_data, layout, adjoint, count,
         targets, n_targets, controls, values, n_controls, compute, workspace,
         n_bytes) = arguments  # fmt: skip
        assert handle in self.handles
        assert self.asked == (data, n_bits, n_svs, stride, how, indices, matrices, matrix_data,
                              layout, adjoint, count, n_targets, n_controls, compute)  # fmt: skip
        assert workspace
        assert n_bytes >= WORKSPACE
        assert how == self.MatrixMapType.BROADCAST
        assert (indices, count, n_controls, controls, values) == (0, 1, 0, 0, 0)
        assert layout == self.MatrixLayout.ROW
        assert matrix_data == data
        assert compute == COMPUTE[data]
        assert stride >= 1 << n_bits
        assert len(targets) == n_targets == len(set(targets))
        assert all(0 <= bit < n_bits for bit in targets)
        self.calls += 1
        size = 1 << n_targets
        matrix = array_at(matrices, (size, size), DTYPES[data])
        if adjoint:
            matrix = matrix.conj().T
        states = array_at(batched, (n_svs, stride), DTYPES[data])[:, : 1 << n_bits]
        # Axis 1 is the most significant bit; target 0 is the least significant of the matrix.
        shaped = states.reshape((n_svs, *(2,) * n_bits))
        axes = [n_bits - bit for bit in reversed(targets)]
        moved = np.moveaxis(shaped, axes, range(1, n_targets + 1))
        applied = np.einsum("xy,ryb->rxb", matrix, moved.reshape(n_svs, size, -1))
        shaped[...] = np.moveaxis(applied.reshape(moved.shape), range(1, n_targets + 1), axes)
