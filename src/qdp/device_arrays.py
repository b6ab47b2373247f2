# SPDX-License-Identifier: Apache-2.0
"""Arrays in a GPU's memory: taken from their libraries and handed out without a copy.

What comes in is torch CUDA tensors, CuPy arrays, and whatever speaks DLPack or has
``__cuda_array_interface__``; cuda.core reads the last three. Results are made by the caller's
library, on its current stream. Nothing here computes, and no framework is imported: a module is
looked at only where the caller has imported it already.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from qdp.arrays import NATIVE_DTYPES, Array, is_torch
from qdp.errors import BackendUnavailable

# DLPack device types: kDLCPU, kDLCUDA, kDLCUDAManaged.
_CPU = 1
_CUDA = (2, 13)
# The legacy default stream, which the driver and torch also call 0 and DLPack only 1.
_LEGACY_STREAM = 1
_REAL = (np.float32, np.float64)
# The first whose views heed where in its memory an array of DLPack begins.
_OLDEST_CUDA_CORE = (1, 2)
# What may stand beside arrays of any device.
_NEUTRAL = (np.ndarray, np.generic, list, tuple, float, int, str)


class Memory(Protocol):
    """What handing out an array needs from its GPU; streams are the driver's handles."""

    ordinal: int
    lanes: tuple[int, int]
    keeper: int

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's context the thread's own."""

    def allocate(self, n_bytes: int, stream: int) -> tuple[int, Any]:
        """Return the address of new memory and what keeps it."""

    def is_pinned(self, array: Array) -> bool:
        """Tell whether a host array is read only when its copy's turn comes."""

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Queue a copy from the host; the array may be changed at once if not pinned."""

    def download(self, array: Array, address: int, stream: int) -> None:
        """Queue a copy to the host."""

    def copy(self, address: int, source: int, n_bytes: int, stream: int) -> None:
        """Queue a copy within the GPU."""

    def order(self, before: int, after: int) -> None:
        """Let what is queued on ``after`` from now on wait for what ``before`` has so far."""

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-contiguous array in a GPU's memory, of which ``owner`` keeps the memory.

    It speaks DLPack 1.0, ``__cuda_array_interface__`` and ``__cuda_stream__``: its contents are
    complete once ``stream`` has done what is queued there. ``to_numpy`` copies it to the host.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ordinal: int
    stream: int
    owner: Any
    memory: Memory | None = None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, part: slice) -> DeviceArray:
        """Return the rows of a slice without step, sharing the memory."""
        start, stop, _ = part.indices(len(self))
        row_bytes = self.nbytes // max(1, len(self))
        shape = (stop - start, *self.shape[1:])
        return replace(self, address=self.address + start * row_bytes, shape=shape)

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return the same memory in another shape."""
        return replace(self, shape=shape)

    def to_numpy(self) -> Array:
        """Return a copy on the host, once the array's stream has filled it."""
        memory = self._memory()
        result: Array = np.empty(self.shape, self.dtype)
        if self.nbytes:
            memory.download(result, self.address, self.stream)
        memory.synchronize(self.stream)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError(
            f"expected an array in the CPU's memory, got one on cuda:{self.ordinal}; pass its "
            "to_numpy(), or take it into a GPU library with from_dlpack"
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.size else 0, False),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA[0], self.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Export by DLPack; see the array API standard for what the arguments mean.

        The memory is given back when the capsule's deleter is called, behind what this array's own
        stream had to do. A consumer keeps the capsule until its own stream is done with it.

        Raises:
            ValueError: stream 0, which could be either default stream.
            BufferError: another device than this one or the CPU, or one that a forbidden copy
                would be needed for.
        """
        memory = self._memory()
        device = self.__dlpack_device__() if dl_device is None else tuple(map(int, dl_device))
        if device == (_CPU, 0):
            if copy is False or stream is not None:
                raise BufferError(
                    f"expected copy=None or True and stream=None for the CPU's memory, got "
                    f"copy={copy}, stream={stream}, from an array on cuda:{self.ordinal}"
                )
            return self.to_numpy().__dlpack__(max_version=max_version)
        if device != self.__dlpack_device__():
            raise BufferError(
                f"expected dl_device {self.__dlpack_device__()}, that of the array, or (1, 0), "
                f"got {device}"
            )
        if stream == 0:
            raise ValueError("stream: expected 1 (legacy default), 2, a handle or -1, got 0")
        exported = self
        if copy:
            exported = empty(memory, self.shape, self.dtype, self.stream)
            memory.copy(exported.address, self.address, self.nbytes, self.stream)
            memory.order(self.stream, memory.keeper)
        consumer = _LEGACY_STREAM if stream is None else int(stream)
        if consumer not in (-1, self.stream):
            memory.order(self.stream, consumer)
        view = _strided_memory_view().from_buffer(exported.owner, self.shape, dtype=self.dtype)
        return view.__dlpack__(max_version=max_version)

    def _memory(self) -> Memory:
        assert self.memory is not None, "only arrays that a device made are handed out"
        return self.memory


def empty(memory: Memory, shape: Sequence[int], dtype: Any, stream: int) -> DeviceArray:
    """Return a new array whose memory any stream may outlive, to be filled on ``stream``."""
    dtype = np.dtype(dtype)
    shape = tuple(shape)
    n_bytes = math.prod(shape) * dtype.itemsize
    address, kept = memory.allocate(max(8, n_bytes), memory.keeper)
    memory.order(memory.keeper, stream)
    return DeviceArray(address, shape, dtype, memory.ordinal, stream, kept, memory)


def joined(parts: Sequence[DeviceArray]) -> DeviceArray:
    """Return arrays of one device joined along their rows."""
    first = parts[0]
    memory = first._memory()
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    result = empty(memory, shape, first.dtype, first.stream)
    address = result.address
    for part in parts:
        if part.stream != first.stream:
            memory.order(part.stream, first.stream)
        memory.copy(address, part.address, part.nbytes, first.stream)
        address += part.nbytes
    # The parts may be given back right away.
    memory.order(first.stream, memory.keeper)
    return result


@dataclass(frozen=True)
class Place:
    """Where arrays of a call lie and results go: a library's arrays on GPU number ``ordinal``.

    ``module`` is the library's, None for arrays that have none. ``source`` is one of the arrays.
    """

    library: str
    ordinal: int
    module: Any
    source: Any

    def on(self, memory: Memory) -> Target:
        """Return where results go, and on which stream: the library's current one, else a lane.

        Raises:
            TypeError: the arrays have a stream that can't be read.
        """
        if self.library == "torch":
            stream = int(self.module.cuda.current_stream(self.ordinal).cuda_stream)
        elif self.library == "cupy":
            with self.module.cuda.Device(self.ordinal):
                stream = int(self.module.cuda.get_current_stream().ptr)
        else:
            found = _stream_of(self.source)
            stream = memory.lanes[0] if found is None else found
        return Target(self, memory, stream or _LEGACY_STREAM)


@dataclass
class Target:
    """A place with its GPU and stream: takes arrays in, makes those that go out.

    ``waits`` says that the call has to wait for the stream: an array was taken whose producer knows
    nothing of it, and might give the memory to others while it is still read.
    """

    place: Place
    memory: Memory
    stream: int
    waits: bool = False

    @property
    def name(self) -> str:
        """The name of the library."""
        return self.place.library

    def real(self, value: Any, name: str) -> DeviceArray:
        """Take float32 or float64 numbers; see ``take``."""
        return self.take(value, name, _REAL)

    def amplitudes(self, value: Any, name: str) -> DeviceArray:
        """Take float32, float64, complex64 or complex128 numbers; see ``take``."""
        return self.take(value, name, NATIVE_DTYPES)

    def take(
        self, value: Any, name: str, dtypes: Sequence[Any], *, writable: bool = False
    ) -> DeviceArray:
        """Return the very memory of an array on this GPU, safe to use on the stream.

        Raises:
            TypeError: another dtype, or nothing that can be read.
            ValueError: not C-contiguous; read-only where it is to be ``writable``.
        """
        if is_torch(value):
            address, shape, strides, dtype, owner = self._torch(value, name)
        else:
            address, shape, strides, dtype, owner = self._view(value, name, writable)
        if dtype is None or dtype not in dtypes:
            expected = ", ".join(np.dtype(one).name for one in dtypes)
            raise TypeError(
                f"{name}: expected dtype {expected} on cuda:{self.place.ordinal}, got "
                f"{dtype or getattr(value, 'dtype', 'an unknown one')}; convert it there first"
            )
        if not _is_contiguous(shape, strides):
            raise ValueError(
                f"{name}: expected a C-contiguous array on cuda:{self.place.ordinal}, got shape "
                f"{shape} with strides {strides}; pass its contiguous copy (.contiguous() of "
                "torch, ascontiguousarray of other libraries)"
            )
        return DeviceArray(
            address, shape, dtype, self.place.ordinal, self.stream, owner, self.memory
        )

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """Return a new array: the library's own where it is torch's or CuPy's."""
        shape, dtype = tuple(shape), np.dtype(dtype)
        module = self.place.module
        if self.name == "torch":
            device = f"cuda:{self.place.ordinal}"
            owner = module.empty(shape, dtype=getattr(module, dtype.name), device=device)
            address = owner.data_ptr()
        elif self.name == "cupy":
            with module.cuda.Device(self.place.ordinal):
                owner = module.empty(shape, dtype)
            address = owner.data.ptr
        else:
            return empty(self.memory, shape, dtype, self.stream)
        return DeviceArray(
            int(address), shape, dtype, self.place.ordinal, self.stream, owner, self.memory
        )

    def upload(self, array: Array) -> DeviceArray:
        """Return a copy of a host array."""
        array = np.asarray(array, order="C")
        result = self.empty(array.shape, array.dtype)
        if array.nbytes:
            # The caller may change it as soon as the call returns.
            source = array.copy() if self.memory.is_pinned(array) else array
            self.memory.upload(result.address, source, self.stream)
            # It may be given back before anything else is queued.
            self.memory.order(self.stream, self.memory.keeper)
        return result

    def from_numpy(self, array: Array) -> Any:
        """Return a copy of a host array as the caller's kind of array."""
        return self.hand_out(self.upload(array))

    def to_numpy(self, value: Any, name: str) -> Any:
        """Return a host copy of an array on this GPU; anything else as it is."""
        if not on_device(value):
            return value
        return self.take(value, name, (*NATIVE_DTYPES, np.int64)).to_numpy()

    def hand_out(self, array: DeviceArray) -> Any:
        """Return a result as the caller's kind of array, sharing the memory."""
        if self.name in ("torch", "cupy"):
            return array.owner.reshape(array.shape)
        if self.place.module is not None:
            return self.place.module.from_dlpack(array)
        return array

    def _torch(self, tensor: Any, name: str) -> tuple[int, tuple[int, ...], Any, Any, Any]:
        if tensor.layout != self.place.module.strided:
            raise TypeError(
                f"{name}: expected a dense tensor, got {tensor.layout}; use .to_dense()"
            )
        if tensor.is_conj() or tensor.is_neg():
            raise ValueError(
                f"{name}: expected a tensor whose numbers lie in memory, got one that is "
                "conjugated or negated as it is read; pass tensor.resolve_conj().resolve_neg()"
            )
        dtype = _NUMPY_DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        strides = tuple(tensor.stride())
        return int(tensor.data_ptr()), tuple(tensor.shape), strides, dtype, tensor

    def _view(
        self, value: Any, name: str, writable: bool
    ) -> tuple[int, tuple[int, ...], Any, Any, Any]:
        if isinstance(value, DeviceArray) and value.stream == self.stream:
            return value.address, value.shape, None, value.dtype, value
        # Memory of our own is given back behind all that uses it, CuPy's on its current stream.
        own = isinstance(value, DeviceArray) or self.name == "cupy"
        self.waits |= not own and _stream_of(value) != self.stream
        what = f"{type(value).__name__} on cuda:{self.place.ordinal}"
        with self.memory.current():
            view, dtype = _viewed(value, f"{name}: {what}", self.stream, writable=writable)
        if writable and view.readonly:
            raise ValueError(
                f"{name}: expected an array that may be written to, got a read-only {what}; pass a "
                "copy, or let the result be made"
            )
        return int(view.ptr), tuple(view.shape), view.strides, dtype, view


_NUMPY_DTYPES = {np.dtype(one).name: np.dtype(one) for one in (*NATIVE_DTYPES, np.int64)}


def on_device(value: object) -> bool:
    """Tell whether an array lies in a GPU's memory.

    >>> on_device(np.zeros(2)), on_device([1.0])
    (False, False)
    """
    return _ordinal_of(value) is not None


def place_of(**values: object) -> Place | None:
    """Return where the arrays lie, None if all are in the CPU's memory; names are for messages.

    NumPy arrays, lists and numbers may stand beside arrays of a GPU.

    Raises:
        TypeError: two libraries besides NumPy, or some arrays of one on a GPU and some not.
        ValueError: arrays on two GPUs.

    >>> place_of(states=np.zeros(2), parameters=[0.1], inputs=None) is None
    True
    """
    places: dict[str, Place] = {}
    elsewhere: list[str] = []
    for name, value in values.items():
        if value is None or isinstance(value, _NEUTRAL):
            continue
        ordinal = _ordinal_of(value, name)
        if ordinal is not None:
            places[name] = _place(value, ordinal)
        elif is_torch(value) or hasattr(value, "__dlpack__"):
            elsewhere.append(name)
    if not places:
        return None
    first, *others = places
    found = places[first]
    for other in others:
        if places[other].ordinal != found.ordinal:
            raise ValueError(
                f"expected arrays on one GPU, got {first} on cuda:{found.ordinal} and {other} on "
                f"cuda:{places[other].ordinal}; move one of them"
            )
        if places[other].library != found.library:
            raise TypeError(
                f"expected arrays of one library besides numpy, got {found.library} in {first} "
                f"and {places[other].library} in {other}; convert one of them"
            )
    if elsewhere:
        raise TypeError(
            f"expected arrays on one device, got {first} on cuda:{found.ordinal} and "
            f"{elsewhere[0]} in the CPU's memory; move {elsewhere[0]} to the GPU, or pass it as a "
            "numpy array"
        )
    return found


def strided_view(value: Any, stream: int, *, writable: bool = False) -> Any:
    """Return cuda.core's view of a DLPack producer or ``__cuda_array_interface__``.

    A producer whose memory is to be ``writable`` is told to refuse rather than to copy.
    """
    view = _strided_memory_view()
    if hasattr(value, "__dlpack__"):
        producer = _Uncopied(value) if writable else value
        return view.from_dlpack(producer, stream_ptr=stream)
    return view.from_cuda_array_interface(value, stream_ptr=stream)


class _Uncopied:
    """A DLPack producer that is asked for nothing but its own memory; cuda.core leaves it free."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __dlpack_device__(self) -> Any:
        return self._producer.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        try:
            return self._producer.__dlpack__(**options, copy=False)
        except TypeError:
            # One from before the argument was in the protocol, which then had no copies.
            return self._producer.__dlpack__(**options)


def _viewed(value: Any, what: str, stream: int, *, writable: bool = False) -> tuple[Any, Any]:
    """Return cuda.core's view and the dtype; TypeError with the reason where there is none."""
    try:
        view = strided_view(value, stream, writable=writable)
        return view, view.dtype
    except (BackendUnavailable, MemoryError):
        raise
    except Exception as error:
        raise TypeError(
            f"{what} could not be read in place through DLPack or version 3 of "
            f"__cuda_array_interface__ ({error}); pass a copy that can, such as torch's or CuPy's"
        ) from error


def _ordinal_of(value: object, name: str = "array") -> int | None:
    if isinstance(value, DeviceArray):
        return value.ordinal
    if is_torch(value):
        device: Any = value.device  # type: ignore[attr-defined]
        return int(device.index or 0) if device.type == "cuda" else None
    if hasattr(value, "__dlpack_device__"):
        kind, ordinal = value.__dlpack_device__()
        return int(ordinal) if int(kind) in _CUDA else None
    if hasattr(value, "__cuda_array_interface__"):
        # The interface doesn't tell the device; the driver knows whose memory it is.
        view, _ = _viewed(value, f"{name}: {type(value).__name__}", -1)
        return int(view.device_id)
    return None


def _stream_of(value: Any) -> int | None:
    if not hasattr(value, "__cuda_stream__"):
        return None
    version, stream = value.__cuda_stream__()
    if version != 0:
        raise TypeError(f"__cuda_stream__: expected version 0, got {version}")
    return int(stream) or _LEGACY_STREAM


def _place(value: object, ordinal: int) -> Place:
    if is_torch(value):
        return Place("torch", ordinal, sys.modules["torch"], value)
    cupy: Any = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return Place("cupy", ordinal, cupy, value)
    if not isinstance(value, DeviceArray) and hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return Place(namespace.__name__, ordinal, namespace, value)
    return Place("qdp", ordinal, None, value)


def _is_contiguous(shape: tuple[int, ...], strides: Sequence[int] | None) -> bool:
    """Whether strides, in elements, are those of C order; axes of one element have any."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def cuda_core(needed_by: str) -> Any:
    """Return the module cuda.core; messages begin with ``needed_by``, as "backend 'cuda' needs".

    Raises:
        BackendUnavailable: it can't be imported, or is too old.
    """
    oldest = ".".join(map(str, _OLDEST_CUDA_CORE))
    try:
        import cuda.core as core
    except ImportError as error:
        raise BackendUnavailable(
            f"{needed_by} cuda.core {oldest} or newer, which can't be imported ({error}); install "
            "it with: pip install 'qdp[cuda]'"
        ) from error
    version = str(core.__version__)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST_CUDA_CORE:
        raise BackendUnavailable(
            f"{needed_by} cuda.core {oldest} or newer, got {version}; update it with: "
            "pip install --upgrade 'qdp[cuda]'"
        )
    return core


def _strided_memory_view() -> Any:
    cuda_core("arrays in a GPU's memory need")
    from cuda.core import utils

    return utils.StridedMemoryView
