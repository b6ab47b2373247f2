# SPDX-License-Identifier: Apache-2.0
"""Arrays in and out: NumPy, torch CPU tensors and anything with ``__dlpack__``.

What enters is viewed as a NumPy array, without a copy where layout and dtype already fit, and
results leave as the kind that entered. No framework is imported here: torch is looked at only
where the caller has imported it already.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# DLPack device types whose memory the CPU can read: kDLCPU, kDLCUDAHost, kDLROCMHost.
_HOST_DEVICES = (1, 3, 11)
# Bytes that a temporary may take: small enough for the second-level cache.
_CHUNK_BYTES = 2**18
# Arrays up to this size are checked by NumPy: there is nothing to share among threads.
_SMALL_BYTES = 2**15
# The dtypes of amplitudes.
NATIVE_DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
# Norms in this range come from sums of squares that neither over- nor underflow.
_SAFE_NORMS = (1e-140, 1e140)


@dataclass(frozen=True)
class Library:
    """The kind of array that results leave as: its name and how it takes over a NumPy array."""

    name: str
    from_numpy: Callable[[Array], Any]


def _unchanged(array: Array) -> Array:
    return array


NUMPY = Library("numpy", _unchanged)


def library_of(*values: object) -> Library:
    """Return the kind that results should have: that of the first value which is not NumPy's.

    Numbers, lists, None and everything else that is no array count as NumPy's.

    Raises:
        TypeError: the values come from two libraries besides NumPy.

    >>> library_of([0.1, 0.2], np.zeros(3)).name
    'numpy'
    """
    found = NUMPY
    for value in values:
        library = _library(value)
        if library.name not in ("numpy", found.name):
            if found.name != "numpy":
                raise TypeError(
                    f"expected arrays of one library besides numpy, got {found.name} and "
                    f"{library.name}; convert one of them"
                )
            found = library
    return found


def is_torch(value: object) -> bool:
    """Tell whether ``value`` is a torch tensor, without importing torch.

    >>> is_torch(np.zeros(2))
    False
    """
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def requires_gradient(*values: object) -> bool:
    """Tell whether torch's autograd waits for the derivative with respect to one of ``values``.

    >>> requires_gradient(np.zeros(2), None)
    False
    """
    tensors: list[Any] = [value for value in values if is_torch(value)]
    return any(tensor.requires_grad for tensor in tensors) and bool(
        sys.modules["torch"].is_grad_enabled()
    )


def to_numpy(value: object, name: str) -> Array:
    """View ``value`` as a NumPy array of numbers (booleans among them), copying nothing.

    NumPy arrays, torch CPU tensors and DLPack producers share their memory with the result;
    lists and numbers, and objects with only ``__array__``, are converted as NumPy does it.
    ``name`` is what messages call the value.

    Raises:
        TypeError: not numeric, on a GPU, sparse, masked, or of a dtype that NumPy doesn't have.
        ValueError: a nested list whose rows differ in length.

    >>> to_numpy([1, 2.5], "features")
    array([1. , 2.5])
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked array; fill it first"
        )
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
    elif is_torch(value):
        array = _torch_to_numpy(value, name)
    elif hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        array = _dlpack_to_numpy(value, name)
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: expected an array of numbers, got {type(value).__name__} ({error})"
            ) from error
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"{name}: expected numbers, got dtype {array.dtype} from {type(value).__name__}; "
            f"convert it first, for instance with numpy.asarray(..., dtype=float)"
        )
    return array


def as_real(value: object, name: str, *, keep_single: bool = False) -> Array:
    """View ``value`` as a contiguous float64 array, or float32 if it is that and ``keep_single``.

    Raises:
        TypeError: as ``to_numpy``, and where the numbers are complex.

    >>> as_real([1, 2], "parameters")
    array([1., 2.])
    """
    array = to_numpy(value, name)
    if array.dtype.kind == "c":
        raise TypeError(
            f"{name}: expected real numbers, got dtype {array.dtype}; pass the real part (.real)"
        )
    keep = keep_single and array.dtype == np.float32
    return contiguous(array, np.float32 if keep else np.float64)


def as_amplitudes(value: object, name: str) -> Array:
    """View ``value`` as a contiguous float32, float64, complex64 or complex128 array.

    These four dtypes stay what they are; other real ones become float64, complex ones complex128.

    >>> as_amplitudes([1, 0], "states").dtype
    dtype('float64')
    """
    array = to_numpy(value, name)
    if array.dtype in NATIVE_DTYPES:
        return contiguous(array, array.dtype)
    return contiguous(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def contiguous(array: Array, dtype: np.typing.DTypeLike) -> Array:
    """Return ``array`` itself if it is C-contiguous, aligned and of ``dtype``, else a copy that is.

    >>> array = np.zeros((2, 3))
    >>> contiguous(array, np.float64) is array
    True
    """
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED"))


def require_finite(array: Array, name: str) -> None:
    """Raise ValueError, naming the first place, if a 1-D or 2-D array has a NaN or an infinity.

    >>> require_finite(np.array([[1.0, np.nan]]), "features")
    Traceback (most recent call last):
        ...
    ValueError: features: expected finite numbers, got nan at row 0, column 1; remove or replace it
    """
    if array.dtype.kind not in "fc":
        return
    if array.nbytes <= _SMALL_BYTES:
        if not np.isfinite(array).all():
            _find_not_finite(array, 0, name)
        return
    sums = _native_sums_of_squares(array)
    if sums is not None:
        # Squares may also overflow, hence the second look.
        if not np.isfinite(sums).all():
            for row in np.flatnonzero(~np.isfinite(sums)):
                part = array[row : row + 1] if array.ndim == 2 else array
                _find_not_finite(part, int(row), name)
        return
    for start, chunk in _chunks(array):
        # A sum is finite only if all its terms are; it may also overflow, hence the second look.
        with np.errstate(over="ignore", invalid="ignore"):
            total = chunk.sum()
        if not np.isfinite(total):
            _find_not_finite(chunk, start, name)


def row_norms(array: Array, name: str) -> Array:
    """Return the Euclidean norms of the rows of a 2-D array, (rows,) float64.

    Exact to rounding also for rows whose squares over- or underflow (infinite only if the norm
    itself is beyond float64). The array is read once.

    Raises:
        ValueError: a NaN or an infinity, with its row and column.

    >>> row_norms(np.array([[3.0, 4.0], [3e-200, 4e-200]]), "features")
    array([5.e+000, 5.e-200])
    """
    sums = _native_sums_of_squares(array)
    norms = np.sqrt(_sums_of_squares(array) if sums is None else sums)
    for row in rows_outside(norms, *_SAFE_NORMS):
        _find_not_finite(array[row : row + 1], int(row), name)
        scale, scaled = scaled_row(array[row])
        norms[row] = scale * np.linalg.norm(scaled)
    return norms


def rows_outside(norms: Array, low: float, high: float) -> Array:
    """Return the indices of the norms that are not strictly between ``low`` and ``high``, or NaN.

    >>> rows_outside(np.array([1.0, 0.0, 5.0]), 0.5, 2.0)
    array([1, 2])
    """
    if norms.min(initial=1.0) > low and norms.max(initial=1.0) < high:
        return np.empty(0, np.intp)
    return np.flatnonzero(~((norms > low) & (norms < high)))


def scaled_row(row: Array) -> tuple[float, Array]:
    """Return the largest magnitude of a vector, and the vector divided by it in double precision.

    >>> scaled_row(np.array([3e-320, 0.0]))[1]
    array([1., 0.])
    """
    double = row.astype(np.result_type(row.dtype, np.float64))
    parts = double.view(np.float64)
    scale = float(np.max(np.abs(parts), initial=0.0))
    if scale == 0:
        return scale, double
    # Two steps, since the reciprocal of a subnormal number is infinite.
    exponent = int(np.frexp(scale)[1])
    return scale, (np.ldexp(parts, -exponent) / np.ldexp(scale, -exponent)).view(double.dtype)


def row_chunks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Cut ``range(rows)`` into slices, each of a few hundred KiB at ``bytes_per_row``.

    >>> list(row_chunks(3, 2**17))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, _CHUNK_BYTES // max(1, bytes_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _native_sums_of_squares(array: Array) -> Array | None:
    """Sum the squares of each row (of a 1-D array: of all) in compiled code.

    None if there is no compiled code for such an array, or none at all.
    """
    core = extension()
    if core is None or array.dtype not in NATIVE_DTYPES:
        return None
    if not (array.flags.c_contiguous and array.flags.aligned):
        return None
    sums = np.empty(len(array) if array.ndim == 2 else 1)
    core.row_sums_of_squares(array if array.ndim == 2 else array[None], sums)
    return sums


def _sums_of_squares(array: Array) -> Array:
    """Sum the squares of each row with NumPy; no product of matrices, which would wake BLAS."""
    sums = np.empty(len(array))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start, chunk in _chunks(array):
            double = chunk.astype(np.result_type(chunk.dtype, np.float64), copy=False)
            parts = double.view(np.float64)
            np.square(parts).sum(axis=1, out=sums[start : start + len(chunk)])
    return sums


@functools.cache
def extension() -> Any:
    """The compiled extension, None where it isn't installed: the reference backend needs none."""
    try:
        from qdp import _core
    except ImportError:
        return None
    return _core


def _chunks(array: Array) -> Iterator[tuple[int, Array]]:
    bytes_per_row = array.nbytes // max(1, len(array))
    for part in row_chunks(len(array), bytes_per_row):
        yield part.start, array[part]


def _find_not_finite(chunk: Array, start: int, name: str) -> None:
    """Raise for the first number of a chunk, which begins at row ``start``, that isn't finite."""
    places = np.argwhere(~np.isfinite(chunk))
    if len(places):
        place = tuple(int(index) for index in places[0])
        where = (
            f"row {start + place[0]}, column {place[1]}"
            if chunk.ndim == 2
            else f"index {start + place[0]}"
        )
        raise ValueError(
            f"{name}: expected finite numbers, got {chunk[place]} at {where}; remove or replace it"
        )


def _library(value: object) -> Library:
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__dlpack__"):
        return NUMPY
    if is_torch(value):
        return Library("torch", sys.modules["torch"].from_numpy)
    # The array API standard's way from an array to the library that made it (which may round to
    # its own default precision, as JAX does unless told to keep 64 bits).
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return Library(namespace.__name__, namespace.from_dlpack)
    return NUMPY


def _torch_to_numpy(tensor: Any, name: str) -> Array:
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name}: expected a tensor on the CPU, got one on {tensor.device}; "
            "pass it as tensor.cpu()"
        )
    try:
        return np.asarray(tensor.detach().resolve_conj().resolve_neg().numpy())
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a dense tensor of a dtype that numpy has, got {tensor.dtype}, "
            f"layout {tensor.layout}; convert it, for instance with .to_dense() or .double()"
        ) from error


def _dlpack_to_numpy(value: Any, name: str) -> Array:
    device = int(value.__dlpack_device__()[0])
    if device not in _HOST_DEVICES:
        raise TypeError(
            f"{name}: expected an array in the CPU's memory, got one on DLPack device type "
            f"{device}; copy it to the host first"
        )
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: {type(value).__name__} could not be read through DLPack ({error}); "
            "convert it to a numpy array first"
        ) from error
