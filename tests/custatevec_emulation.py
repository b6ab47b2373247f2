# SPDX-License-Identifier: Apache-2.0
"""cuStateVec's calls in NumPy, as custatevec.h describes them, and checks of what they are given.

The functions are C callbacks of the signatures that the backend declares, so arguments pass through
the same conversions as on their way to the library. A broken promise (a pointer outside of the
device's memory, a workspace that nobody asked the size of, a handle without a stream) is kept in
``broken`` and comes back as a status, whose text says what was broken. What a call computes waits
on its stream, as on a GPU; memory must last until then.
"""

import ctypes
import functools
import traceback

import numpy as np

from qdp.backends.custatevec_library import SIGNATURES

COMPLEX = {4: np.dtype(np.complex64), 5: np.dtype(np.complex128)}
COMPUTE = {4: 4, 5: 16}
INVALID, INSUFFICIENT_WORKSPACE = 3, 8
# Matrices on so many bits need scratch memory.
BITS_WITH_WORKSPACE = 3


def bit_of(index, bit):
    return index >> bit & 1


class EmulatedLibrary:
    """The library's functions over the memory of a ``Device`` that keeps it in ``allocated``.

    ``fail`` is a pair: the name of a call, and the status that it returns.
    """

    def __init__(self, device, version=11500):
        self.device, self.version = device, version
        self.fail = (None, 0)
        self.broken = []
        self.calls = []
        self.streams = {}
        self._sizes = {}
        self._text = ctypes.create_string_buffer(b"it was not to be")
        for name, (result, arguments) in SIGNATURES.items():
            function = self._guarded(name, getattr(self, f"_{name.removeprefix('custatevec')}"))
            setattr(self, name, ctypes.CFUNCTYPE(result, *arguments)(function))

    def _guarded(self, name, function):
        @functools.wraps(function)
        def guarded(*arguments):
            self.calls.append(name)
            if name == self.fail[0]:
                return self.fail[1]
            try:
                found = function(*arguments)
            except Exception:
                self.broken.append(traceback.format_exc())
                self._text = ctypes.create_string_buffer(self.broken[-1].encode())
                return INVALID
            if callable(found):
                self.device._queue(name, self.streams[arguments[0]], found)
                return 0
            return 0 if found is None else found

        return guarded

    # Memory

    def memory(self, address, dtype, count):
        """A view of so many elements, which lie inside of one allocation."""
        n_bytes = np.dtype(dtype).itemsize * count
        assert any(
            start <= (address or 0) and (address or 0) + n_bytes <= start + buffer.nbytes
            for start, buffer in self.device.allocated.items()
        ), f"{n_bytes} bytes at {address} are not the device's"
        assert address % np.dtype(dtype).itemsize == 0
        return np.frombuffer((ctypes.c_char * n_bytes).from_address(address), dtype)

    def _states(self, address, data, n_bits, count, stride):
        """The states, (count, 2**n_bits), as a view that can be written to."""
        assert count >= 1
        assert stride >= 1 << n_bits
        assert address % 16 == 0
        assert stride * COMPLEX[data].itemsize % 128 == 0, "Blackwell wants states 128 bytes apart"
        flat = self.memory(address, COMPLEX[data], stride * (count - 1) + (1 << n_bits))
        strides = (stride * flat.itemsize, flat.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (count, 1 << n_bits), strides)

    def _ready(self, handle):
        assert handle in self.streams, "the handle was not created, or destroyed before"
        assert self.streams[handle], "the stream was not set"

    def _scratch(self, key, address, size):
        assert key in self._sizes, "the size of the workspace was not asked for"
        assert size >= self._sizes[key]
        if not size:
            assert address is None
            return lambda: None
        scratch = self.memory(address, np.uint8, size)
        return lambda: scratch.fill(255)

    def _asked(self, key, n_bits, size):
        self._sizes[key] = 256 << n_bits if n_bits >= BITS_WITH_WORKSPACE else 0
        size[0] = self._sizes[key]

    @staticmethod
    def _bits(bits, count, n_bits, others=()):
        found = [bits[k] for k in range(count)]
        assert all(0 <= bit < n_bits for bit in found)
        assert len({*found, *others}) == count + len(others), "bits overlap"
        return found

    # Functions

    def _GetVersion(self):
        return self.version

    def _GetErrorString(self, status):
        return ctypes.addressof(self._text)

    def _Create(self, handle):
        handle[0] = 1000 + len(self.calls)
        self.streams[handle[0]] = None

    def _Destroy(self, handle):
        del self.streams[handle]

    def _SetStream(self, handle, stream):
        assert handle in self.streams
        self.streams[handle] = stream or 0

    def _ApplyMatrixBatchedGetWorkspaceSize(
        self, handle, data, n_bits, count, stride, map_type, indices, matrices, matrix_data, layout,
        adjoint, n_matrices, n_targets, n_controls, compute, size,
    ):  # fmt: skip
        self._ready(handle)
        key = ("apply", data, n_bits, count, stride, map_type, indices, matrices, layout, adjoint,
               n_matrices, n_targets, n_controls, compute)  # fmt: skip
        self._asked(key, n_targets, size)

    def _ApplyMatrixBatched(
        self, handle, address, data, n_bits, count, stride, map_type, indices, matrices,
        matrix_data, layout, adjoint, n_matrices, targets, n_targets, controls, values, n_controls,
        compute, workspace, workspace_size,
    ):  # fmt: skip
        self._ready(handle)
        assert (matrix_data, compute) == (data, COMPUTE[data])
        key = ("apply", data, n_bits, count, stride, map_type, indices, matrices, layout, adjoint,
               n_matrices, n_targets, n_controls, compute)  # fmt: skip
        scribble = self._scratch(key, workspace, workspace_size)
        assert n_targets >= 1
        controls = self._bits(controls, n_controls, n_bits) if n_controls else []
        targets = self._bits(targets, n_targets, n_bits, controls)
        values = [values[k] for k in range(n_controls)] if values else [1] * n_controls
        assert set(values) <= {0, 1}
        assert map_type in (0, 1)
        assert map_type == 1 or indices is None
        chosen = self.memory(indices, np.int32, count) if map_type else np.zeros(count, int)
        size = 1 << n_targets
        found = self._matrices(matrices, data, n_matrices, size, layout)
        states = self._states(address, data, n_bits, count, stride)
        index = np.arange(1 << n_bits)
        first = index[
            np.all([bit_of(index, bit) == 0 for bit in targets], axis=0)
            & np.all([bit_of(index, b) == v for b, v in zip(controls, values, strict=True)]
                     or [index >= 0], axis=0)
        ]  # fmt: skip
        offsets = [
            sum(bit_of(number, place) << bit for place, bit in enumerate(targets))
            for number in range(size)
        ]
        where = first[None, :] | np.array(offsets)[:, None]

        def work():
            scribble()
            assert 0 <= chosen.min() <= chosen.max() < n_matrices, "an index of no matrix"
            taken = found[chosen].conj().swapaxes(1, 2) if adjoint else found[chosen]
            states[:, where] = np.einsum("srk,skb->srb", taken, states[:, where])

        return work

    def _matrices(self, address, data, count, size, layout):
        assert count >= 1
        found = self.memory(address, COMPLEX[data], count * size * size)
        found = found.reshape(count, size, size)
        assert layout in (0, 1)
        return found if layout == 1 else found.swapaxes(1, 2)

    def _ApplyGeneralizedPermutationMatrixGetWorkspaceSize(
        self, handle, data, n_bits, permutation, diagonals, diagonals_data, targets, n_targets,
        n_controls, size,
    ):  # fmt: skip
        self._ready(handle)
        self._asked(("diagonal", data, n_bits, diagonals, n_targets, n_controls), n_targets, size)

    def _ApplyGeneralizedPermutationMatrix(
        self, handle, address, data, n_bits, permutation, diagonals, diagonals_data, adjoint,
        targets, n_targets, controls, values, n_controls, workspace, workspace_size,
    ):  # fmt: skip
        self._ready(handle)
        assert diagonals_data == data
        assert not permutation
        assert n_controls == 0
        key = ("diagonal", data, n_bits, diagonals, n_targets, n_controls)
        scribble = self._scratch(key, workspace, workspace_size)
        targets = self._bits(targets, n_targets, n_bits)
        factors = self.memory(diagonals, COMPLEX[data], 1 << n_targets)
        index = np.arange(1 << n_bits)
        entry = sum(bit_of(index, bit) << place for place, bit in enumerate(targets))
        states = self._states(address, data, n_bits, 1, 1 << n_bits)

        def work():
            scribble()
            states[0] *= (factors.conj() if adjoint else factors)[entry]

        return work

    def _ComputeExpectationBatchedGetWorkspaceSize(
        self, handle, data, n_bits, count, stride, matrices, matrix_data, layout, n_matrices,
        n_basis_bits, compute, size,
    ):  # fmt: skip
        self._ready(handle)
        key = ("expect", data, n_bits, count, stride, matrices, layout, n_matrices, n_basis_bits)
        self._asked(key, n_basis_bits, size)

    def _ComputeExpectationBatched(
        self, handle, address, data, n_bits, count, stride, values, matrices, matrix_data, layout,
        n_matrices, basis_bits, n_basis_bits, compute, workspace, workspace_size,
    ):  # fmt: skip
        self._ready(handle)
        assert (matrix_data, compute) == (data, COMPUTE[data])
        key = ("expect", data, n_bits, count, stride, matrices, layout, n_matrices, n_basis_bits)
        scribble = self._scratch(key, workspace, workspace_size)
        assert n_basis_bits >= 1
        bits = self._bits(basis_bits, n_basis_bits, n_bits)
        states = self._states(address, data, n_bits, count, stride)
        found = self._matrices(matrices, data, n_matrices, 1 << n_basis_bits, layout)
        # Axis 1 + k is bit n - 1 - k; the first basis bit is to be the matrix's last axis.
        axes = [n_bits - bit for bit in reversed(bits)]
        out = self.memory(values, np.complex128, count * n_matrices).reshape(count, n_matrices)

        def work():
            scribble()
            cube = states.reshape((count, *(2,) * n_bits))
            cube = np.moveaxis(cube, axes, range(1, 1 + len(axes)))
            flat = cube.reshape(count, 1 << n_basis_bits, -1)
            # State by state, so that a value does not depend on how many there are.
            out[:] = [[np.vdot(state, matrix @ state) for matrix in found] for state in flat]

        return work

    def _Abs2SumArrayBatched(
        self, handle, address, data, n_bits, count, stride, sums, sums_stride, bits, n_ordering,
        masks, mask_ordering, n_masks,
    ):  # fmt: skip
        self._ready(handle)
        assert not masks
        assert n_masks == 0
        ordering = self._bits(bits, n_ordering, n_bits) if n_ordering else []
        assert sums_stride >= 1 << n_ordering
        states = self._states(address, data, n_bits, count, stride)
        index = np.arange(1 << n_bits)
        outcome = sum((bit_of(index, b) << place for place, b in enumerate(ordering)), 0 * index)
        n_sums = sums_stride * (count - 1) + (1 << n_ordering)
        out = self.memory(sums, np.float64, n_sums)

        def work():
            for number, state in enumerate(states):
                weights = np.abs(state.astype(np.complex128)) ** 2
                start = number * sums_stride
                found = np.bincount(outcome, weights, 1 << n_ordering)
                out[start : start + (1 << n_ordering)] = found

        return work
