# SPDX-License-Identifier: Apache-2.0
"""The calls of NVIDIA's cuStateVec that QDP makes, over ctypes: finding the library, their
signatures (from custatevec.h), their checks. Nothing here knows circuits.

Bits are cuStateVec's: positions in the index of an amplitude, 0 the least significant; a list of
bits names the least significant of a matrix or an outcome first. Memory is the GPU's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from ctypes import POINTER, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdp.backends.base import Precision
from qdp.errors import BackendUnavailable, DeviceError

LIBRARY = "libcustatevec.so.1"
# The first whose expectation values may be written to the GPU's memory.
OLDEST_VERSION = 10800

# cudaDataType_t and custatevecComputeType_t.
DATA_TYPES = {"single": 4, "double": 5}
COMPUTE_TYPES = {"single": 1 << 2, "double": 1 << 4}
BROADCAST, INDEXED = 0, 1
ROW_MAJOR = 1

_ALLOCATION_FAILED = {2, 11}
_NO_DEVICE = {4, 7}

_integers = POINTER(c_int32)
_sizes = POINTER(c_size_t)
# Name: type of the result, types of the arguments. A status of 0 is success.
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "custatevecGetVersion": (c_size_t, ()),
    "custatevecGetErrorString": (c_void_p, (c_int,)),
    "custatevecCreate": (c_int, (POINTER(c_void_p),)),
    "custatevecDestroy": (c_int, (c_void_p,)),
    "custatevecSetStream": (c_int, (c_void_p, c_void_p)),
    # handle, type, index bits, states, stride, map, indices, matrices, type, layout, adjoint,
    # number of matrices, of targets, of controls, compute type; size
    "custatevecApplyMatrixBatchedGetWorkspaceSize": (
        c_int,
        (c_void_p, c_int, c_uint32, c_uint32, c_int64, c_int, c_void_p, c_void_p, c_int, c_int,
         c_int32, c_uint32, c_uint32, c_uint32, c_int, _sizes),
    ),
    # handle, states, type, index bits, number, stride, map, indices, matrices, type, layout,
    # adjoint, number of matrices, targets, number, controls, values, number, compute type,
    # workspace, its size
    "custatevecApplyMatrixBatched": (
        c_int,
        (c_void_p, c_void_p, c_int, c_uint32, c_uint32, c_int64, c_int, c_void_p, c_void_p, c_int,
         c_int, c_int32, c_uint32, _integers, c_uint32, _integers, _integers, c_uint32, c_int,
         c_void_p, c_size_t),
    ),
    # handle, type, index bits, permutation, diagonals, type, targets, number, number of controls;
    # size
    "custatevecApplyGeneralizedPermutationMatrixGetWorkspaceSize": (
        c_int,
        (c_void_p, c_int, c_uint32, POINTER(c_int64), c_void_p, c_int, _integers, c_uint32,
         c_uint32, _sizes),
    ),
    # handle, state, type, index bits, permutation, diagonals, type, adjoint, targets, number,
    # controls, values, number, workspace, its size
    "custatevecApplyGeneralizedPermutationMatrix": (
        c_int,
        (c_void_p, c_void_p, c_int, c_uint32, POINTER(c_int64), c_void_p, c_int, c_int32, _integers,
         c_uint32, _integers, _integers, c_uint32, c_void_p, c_size_t),
    ),
    # handle, type, index bits, states, stride, matrices, type, layout, number of matrices, of bits,
    # compute type; size
    "custatevecComputeExpectationBatchedGetWorkspaceSize": (
        c_int,
        (c_void_p, c_int, c_uint32, c_uint32, c_int64, c_void_p, c_int, c_int, c_uint32, c_uint32,
         c_int, _sizes),
    ),
    # handle, states, type, index bits, number, stride, values, matrices, type, layout, number of
    # matrices, bits, number, compute type, workspace, its size
    "custatevecComputeExpectationBatched": (
        c_int,
        (c_void_p, c_void_p, c_int, c_uint32, c_uint32, c_int64, c_void_p, c_void_p, c_int, c_int,
         c_uint32, _integers, c_uint32, c_int, c_void_p, c_size_t),
    ),
    # handle, states, type, index bits, number, stride, sums, stride of sums, bits, number, masks,
    # bits of masks, number
    "custatevecAbs2SumArrayBatched": (
        c_int,
        (c_void_p, c_void_p, c_int, c_uint32, c_uint32, c_int64, c_void_p, c_int64, _integers,
         c_uint32, POINTER(c_int64), _integers, c_uint32),
    ),
}  # fmt: skip

# Gives the address of scratch memory of so many bytes, which the next call may overwrite.
Workspace = Callable[[int], int]


@dataclass(frozen=True)
class States:
    """``count`` states of ``n_bits`` index bits, ``stride`` amplitudes apart, from ``address``."""

    address: int
    count: int
    n_bits: int
    stride: int
    precision: Precision


@dataclass(frozen=True)
class Matrices:
    """``count`` row-major matrices from ``address``, in the precision of the states.

    ``indices`` is the address of an int32 for each state, the matrix that it takes; 0 stands for
    one matrix for all.
    """

    address: int
    count: int = 1
    indices: int = 0


def load_library() -> ctypes.CDLL:
    """Return cuStateVec, by the loader's rules or from the wheel custatevec-cu13 or -cu12.

    Raises:
        BackendUnavailable: it is missing, can't be loaded, or is too old.
    """
    found: ctypes.CDLL | None = None
    reasons: list[str] = []
    _load_cublas()
    for path in [LIBRARY, *map(str, _in_packages())]:
        try:
            found = ctypes.CDLL(path)
            break
        except OSError as error:
            reasons.append(str(error))
    if found is None:
        raise BackendUnavailable(
            f"backend 'custatevec' needs NVIDIA's {LIBRARY}, which can't be loaded "
            f"({'; '.join(reasons)}); install it with: pip install custatevec-cu13 nvidia-cublas "
            "(with CUDA 12: custatevec-cu12 nvidia-cublas-cu12)"
        )
    declare(found)
    return found


def declare(functions: Any) -> None:
    """Give the library's functions their types, and refuse a library that is too old.

    Raises:
        BackendUnavailable: it lacks a function, or is older than 1.8.
    """
    try:
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        version = int(functions.custatevecGetVersion())
    except AttributeError as error:
        version, reason = 0, f"one without {error}"
    else:
        reason = f"{version // 10000}.{version % 10000 // 100}.{version % 100}"
    if version < OLDEST_VERSION:
        raise BackendUnavailable(
            f"backend 'custatevec': expected cuStateVec 1.8 or newer, got {reason}; update it "
            "with: pip install --upgrade custatevec-cu13"
        )


def _load_cublas() -> None:
    """Load cuBLAS from wherever packages have it: cuStateVec's wheel looks beside itself only."""
    # What is missing in the end is said by the loader when it comes to cuStateVec.
    with contextlib.suppress(ImportError, RuntimeError):
        from cuda import pathfinder

        for name in ("cublasLt", "cublas"):
            pathfinder.load_nvidia_dynamic_lib(name)


def _in_packages() -> list[Path]:
    spec = importlib.util.find_spec("cuquantum")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    paths = [Path(folder) / "lib" / LIBRARY for folder in folders]
    return [path for path in paths if path.exists()]


def _array(numbers: Sequence[int]) -> Any:
    return (c_int32 * len(numbers))(*numbers) if numbers else None


def _destroy(
    functions: Any, handle: int, current: Callable[[], AbstractContextManager[None]]
) -> None:
    with current():
        functions.custatevecDestroy(handle)


class CuStateVec:
    """The calls, over a handle of its own; one thread at a time. Work goes to the stream set last.

    ``current`` makes the GPU's context the thread's own; without it the calls, and the end of the
    handle, are in whatever context the thread has.

    Raises:
        BackendUnavailable: the GPU can't be used by the library.
    """

    def __init__(
        self,
        functions: Any,
        current: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._functions = functions
        handle = (c_void_p * 1)()
        with current():
            self._call("custatevecCreate", handle)
        self._handle = int(handle[0] or 0)
        self._finalizer = weakref.finalize(self, _destroy, functions, self._handle, current)

    def close(self) -> None:
        """Destroy the handle; it is also destroyed with the object."""
        self._finalizer()

    def set_stream(self, stream: int) -> None:
        """Let the next calls go to a stream, by its handle."""
        self._call("custatevecSetStream", self._handle, stream)

    def apply_matrix(
        self,
        states: States,
        matrices: Matrices,
        targets: Sequence[int],
        workspace: Workspace,
        *,
        controls: Sequence[int] = (),
        control_values: Sequence[int] = (),
        adjoint: bool = False,
    ) -> None:
        """Multiply each state by its matrix on ``targets`` where ``controls`` read their values."""
        data, compute = DATA_TYPES[states.precision], COMPUTE_TYPES[states.precision]
        several = INDEXED if matrices.indices else BROADCAST
        size = (c_size_t * 1)()
        self._call(
            "custatevecApplyMatrixBatchedGetWorkspaceSize", self._handle, data, states.n_bits,
            states.count, states.stride, several, matrices.indices, matrices.address, data,
            ROW_MAJOR, int(adjoint), matrices.count, len(targets), len(controls), compute, size,
        )  # fmt: skip
        self._call(
            "custatevecApplyMatrixBatched", self._handle, states.address, data, states.n_bits,
            states.count, states.stride, several, matrices.indices, matrices.address, data,
            ROW_MAJOR, int(adjoint), matrices.count, _array(targets), len(targets),
            _array(controls), _array(control_values), len(controls), compute, workspace(size[0]),
            size[0],
        )  # fmt: skip

    def apply_diagonal(
        self,
        state: States,
        diagonal: int,
        targets: Sequence[int],
        workspace: Workspace,
        *,
        adjoint: bool = False,
    ) -> None:
        """Multiply one state by the diagonal at an address, on ``targets``."""
        assert state.count == 1, "cuStateVec has no batched call for diagonals"
        data = DATA_TYPES[state.precision]
        size = (c_size_t * 1)()
        self._call(
            "custatevecApplyGeneralizedPermutationMatrixGetWorkspaceSize", self._handle, data,
            state.n_bits, None, diagonal, data, _array(targets), len(targets), 0, size,
        )  # fmt: skip
        self._call(
            "custatevecApplyGeneralizedPermutationMatrix", self._handle, state.address, data,
            state.n_bits, None, diagonal, data, int(adjoint), _array(targets), len(targets), None,
            None, 0, workspace(size[0]), size[0],
        )  # fmt: skip

    def expectations(
        self,
        states: States,
        matrices: Matrices,
        bits: Sequence[int],
        values: int,
        workspace: Workspace,
    ) -> None:
        """Write <state|matrix|state> to ``values``, complex128 (states, matrices)."""
        data, compute = DATA_TYPES[states.precision], COMPUTE_TYPES[states.precision]
        size = (c_size_t * 1)()
        self._call(
            "custatevecComputeExpectationBatchedGetWorkspaceSize", self._handle, data,
            states.n_bits, states.count, states.stride, matrices.address, data, ROW_MAJOR,
            matrices.count, len(bits), compute, size,
        )  # fmt: skip
        self._call(
            "custatevecComputeExpectationBatched", self._handle, states.address, data,
            states.n_bits, states.count, states.stride, values, matrices.address, data, ROW_MAJOR,
            matrices.count, _array(bits), len(bits), compute, workspace(size[0]), size[0],
        )  # fmt: skip

    def probabilities(self, states: States, bits: Sequence[int], sums: int) -> None:
        """Write the squared norms of all outcomes of ``bits``, float64 (states, 2**len(bits))."""
        self._call(
            "custatevecAbs2SumArrayBatched", self._handle, states.address,
            DATA_TYPES[states.precision], states.n_bits, states.count, states.stride, sums,
            1 << len(bits), _array(bits), len(bits), None, None, 0,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._functions, name)(*arguments))
        if status == 0:
            return
        text = ctypes.string_at(self._functions.custatevecGetErrorString(status)).decode()
        message = f"{name}: {text} (status {status})"
        if status in _ALLOCATION_FAILED:
            raise MemoryError(f"{message}; pass fewer rows at a time, or precision='single'")
        if name == "custatevecCreate" and status in _NO_DEVICE:
            raise BackendUnavailable(
                f"backend 'custatevec' needs a GPU that cuStateVec can use, got from {message}; "
                "pass backend='cuda' or backend='cpu'"
            )
        raise DeviceError(f"{message}; CUSTATEVEC_LOG_LEVEL=5 makes the library say more")
