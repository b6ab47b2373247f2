# SPDX-License-Identifier: Apache-2.0
"""An NVIDIA GPU as the CUDA backend sees it: memory, streams, copies, and launches of kernels.

``CudaDevice`` is the real one, over cuda.core; the kernels in ``kernels/`` are compiled by NVRTC
for the device at hand at first use and kept on disk. Tests put another ``Device`` in its place
that runs the same kernels on the processor. Nothing here knows circuits, and nothing waits for
the whole device.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qdp import memory
from qdp.arrays import Array
from qdp.backends.base import Precision
from qdp.device_arrays import DeviceArray, cuda_core
from qdp.errors import BackendUnavailable, DeviceError

P = ParamSpec("P")
R = TypeVar("R")

KERNELS = Path(__file__).parent / "kernels"
# Threads of a copy on the host, and how many bytes are worth one.
_COPY_THREADS = 4
_COPY_BYTES = 4 * 2**20
_TYPES = {"double": "double", "single": "float"}
_OLDEST_DRIVER = 12000
_FEWER = "pass fewer rows at a time, or precision='single'"
_NEEDS = "backend 'cuda' needs"
_REMEDY = "; pass backend='cpu', or arrays in the CPU's memory"


class Device(ABC):
    """Memory that kernels work on, and the means to run them, in the order of each stream.

    Streams are the driver's handles. ``lanes`` are two of the device's own, for work whose caller
    has none; memory that outlives a call is freed on ``keeper``, which waits for those that used
    it, and what is kept for later calls is brought on ``feeder``, which waits for nobody.
    """

    ordinal: int
    shared_bytes: int
    lanes: tuple[int, int]
    keeper: int
    feeder: int

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the device's context the thread's own, for a library that works in that."""
        return contextlib.nullcontext()

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the bytes that can be allocated."""

    @abstractmethod
    def allocate(self, n_bytes: int, stream: int) -> tuple[int, Any]:
        """Return the address of new memory and what keeps it; MemoryError if there is none."""

    @abstractmethod
    def free(self, kept: Any, stream: int) -> None:
        """Give memory back, once what was queued on the stream before is done."""

    @abstractmethod
    def pin(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return host memory from which copies run beside kernels."""

    @abstractmethod
    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Give host memory back, of which no copy is under way."""

    @abstractmethod
    def is_pinned(self, array: Array) -> bool:
        """Tell whether copies of a host array run beside the host, which may then not change it."""

    @abstractmethod
    def upload(self, address: int, array: Array, stream: int) -> None:
        """Queue a copy of a C-contiguous host array; it may be changed at once if not pinned."""

    @abstractmethod
    def download(self, array: Array, address: int, stream: int) -> None:
        """Queue a copy into a C-contiguous host array."""

    @abstractmethod
    def copy(self, address: int, source: int, n_bytes: int, stream: int) -> None:
        """Queue a copy within the device."""

    @abstractmethod
    def order(self, before: int, after: int) -> None:
        """Let what is queued on ``after`` from now on wait for what ``before`` has so far."""

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Wait for a stream, and for no other."""

    @abstractmethod
    def launch(
        self,
        precision: Precision,
        kernel: str,
        grid: int,
        block: int,
        shared: int,
        call: Array,
        stream: int,
    ) -> None:
        """Queue a kernel over ``grid`` blocks of ``block`` threads; ``call`` is its argument."""


def copy_in_parts(target: Array, source: Array) -> None:
    """Copy an array on the host, a large one by several threads: one can't keep up with the link.

    >>> target = np.zeros((2, 3))
    >>> copy_in_parts(target, np.ones((2, 3)))
    >>> float(target.sum())
    6.0
    """
    n_parts = min(_COPY_THREADS, source.nbytes // _COPY_BYTES, len(os.sched_getaffinity(0)))
    if n_parts < 2 or len(target) < n_parts:
        target[...] = source
        return
    ends = [len(target) * part // n_parts for part in range(n_parts + 1)]

    def copy(part: int) -> None:
        target[ends[part] : ends[part + 1]] = source[ends[part] : ends[part + 1]]

    with ThreadPoolExecutor(n_parts) as threads:
        for _ in threads.map(copy, range(n_parts)):
            pass


class Staging:
    """Pinned memory that the copies of one stream go through, chunk after chunk.

    ``drain`` waits for the stream, delivers what it brought, and makes room for the next chunk.
    """

    def __init__(self, device: Device, stream: int, buffer: NDArray[np.uint8]) -> None:
        self.device = device
        self.stream = stream
        self.buffer = buffer
        self._used = 0
        self._arrivals: list[tuple[Array, Array]] = []

    def take(self, array: Array) -> Array:
        """Return pinned memory of the size and dtype of an array."""
        first = -(-self._used // 16) * 16
        self._used = first + array.nbytes
        assert self._used <= len(self.buffer), "a chunk is cut to fit"
        return self.buffer[first : self._used].view(array.dtype).reshape(array.shape)

    def arrive(self, target: Array, pinned: Array) -> None:
        """Note that ``target`` is to be filled once the stream has filled ``pinned``."""
        self._arrivals.append((target, pinned))

    def drain(self) -> None:
        """Wait for the stream, and hand over what arrived."""
        self.device.synchronize(self.stream)
        for target, pinned in self._arrivals:
            copy_in_parts(target, pinned)
        self._arrivals.clear()
        self._used = 0


class Arena:
    """Device memory of one run on one stream, given back at its end, also on an error.

    Freeing is queued behind the run. Host arrays go through ``staging`` where there is one, unless
    they are pinned themselves: whoever has staging waits for the stream before the call returns.
    """

    def __init__(
        self, device: Device, stream: int | None = None, staging: Staging | None = None
    ) -> None:
        self.device = device
        self.stream = device.lanes[0] if stream is None else stream
        self.staging = staging
        self._kept: list[Any] = []
        self._wanted: list[tuple[Array, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._kept:
            self.device.free(self._kept.pop(), self.stream)

    def empty(self, n_bytes: int) -> int:
        """Return the address of ``n_bytes`` of new memory."""
        address, kept = self.device.allocate(max(8, n_bytes), self.stream)
        self._kept.append(kept)
        return address

    def put(self, array: Array | DeviceArray) -> int:
        """Return the address of an array on the device: its own, or that of a copy."""
        if isinstance(array, DeviceArray):
            return array.address
        array = np.ascontiguousarray(array)
        address = self.empty(array.nbytes)
        if array.nbytes:
            if self.staging is not None and not self.device.is_pinned(array):
                pinned = self.staging.take(array)
                copy_in_parts(pinned, array)
                array = pinned
            self.device.upload(address, array, self.stream)
        return address

    def result(self, target: Array | DeviceArray) -> int:
        """Return where to write a result: into it, or into memory that ``fetch`` brings to it."""
        if isinstance(target, DeviceArray):
            return target.address
        address = self.empty(target.nbytes)
        self._wanted.append((target, address))
        return address

    def deliver(self, target: Array | DeviceArray, address: int) -> None:
        """Bring a result from where it was written."""
        if isinstance(target, DeviceArray):
            self.device.copy(target.address, address, target.nbytes, self.stream)
        else:
            self._wanted.append((target, address))

    def fetch(self) -> None:
        """Queue the copies of results to the host; they are there once the stream is waited for."""
        for target, address in self._wanted:
            if not target.nbytes:
                continue
            straight = target.flags.c_contiguous and self.device.is_pinned(target)
            if self.staging is not None and not straight:
                pinned = self.staging.take(target)
                self.device.download(pinned, address, self.stream)
                self.staging.arrive(target, pinned)
            elif target.flags.c_contiguous:
                self.device.download(target, address, self.stream)
            else:
                # Some rows of several evaluations.
                for number, part in enumerate(target):
                    self.device.download(part, address + number * part.nbytes, self.stream)
        self._wanted.clear()


# Kernels


def kernel_source() -> str:
    """Return the text of the kernels, which includes ``phases.h`` from beside them."""
    return (KERNELS / "engine.cu").read_text(encoding="utf-8")


@functools.cache
def call_fields() -> np.dtype[np.void]:
    """Return the numbers that every kernel is told, with their names and in their order.

    >>> call_fields().names[0]
    'n_qubits'
    """
    body = re.search(r"struct Call \{(.*?)\n\};", kernel_source(), re.DOTALL)
    assert body is not None, "engine.cu defines struct Call"
    found = re.findall(r"^  (long long|double) (\w+);", body[1], re.MULTILINE)
    return np.dtype([(name, "f8" if kind == "double" else "i8") for kind, name in found])


def compile_kernels(precision: Precision, architecture: str) -> bytes:
    """Compile the kernels with NVRTC and return the cubin for ``architecture``, such as "sm_90".

    Raises:
        BackendUnavailable: cuda.core or NVRTC is missing.
        DeviceError: NVRTC refuses the source, with its own text.
    """
    core = cuda_core(_NEEDS)
    options = core.ProgramOptions(**_options(precision, architecture), include_path=str(KERNELS))
    try:
        compiled = core.Program(kernel_source(), "c++", options).compile("cubin")
    except Exception as error:
        if "NotFound" in type(error).__name__:
            raise BackendUnavailable(
                f"backend 'cuda' needs NVRTC to compile its kernels, which can't be loaded "
                f"({error}); install it with: pip install 'qdp[cuda]'"
            ) from error
        raise DeviceError(f"compiling the kernels for {architecture}: {error}") from error
    return bytes(compiled.code)


def _options(precision: Precision, architecture: str) -> dict[str, Any]:
    """Return what the kernels are compiled with, besides where their text lies."""
    return {"std": "c++17", "arch": architecture, "define_macro": ("REAL", _TYPES[precision])}


def _kernel_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "qdp" / "kernels"


def cached_kernels(precision: Precision, architecture: str, folder: Path | None = None) -> bytes:
    """Return the compiled kernels, from the folder of those compiled before if they are there.

    The name of a file tells source, options, compiler and architecture. ``folder`` None is
    ``qdp/kernels`` in the user's cache folder; one that can't be written to is done without.
    """
    folder = _kernel_folder() if folder is None else folder
    sources = kernel_source() + (KERNELS / "phases.h").read_text(encoding="utf-8")
    key = f"{sources}\0{_options(precision, architecture)!r}\0{_compiler_version()}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    with contextlib.suppress(OSError):
        return path.read_bytes()
    code = compile_kernels(precision, architecture)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(code)
            os.replace(name, path)
        except OSError:
            # A full disk costs a compilation in each process, and nothing else.
            os.unlink(name)
    return code


def _compiler_version() -> str:
    from cuda.bindings import nvrtc

    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:
        raise BackendUnavailable(
            f"backend 'cuda' needs NVRTC to compile its kernels, which can't be loaded ({error}); "
            "install it with: pip install 'qdp[cuda]'"
        ) from error
    return f"{major}.{minor}"


# The real device


def _in_context(method: Callable[P, R]) -> Callable[P, R]:
    """Run a method of ``CudaDevice`` in its GPU's context, and leave the caller's own current."""

    @functools.wraps(method)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        device: Any = arguments[0]
        if int(device._checked("cuCtxGetCurrent")) == int(device._context):
            return method(*arguments, **options)
        with device.current():
            return method(*arguments, **options)

    return run


class CudaDevice(Device):
    """GPU number ``ordinal``, through cuda.core and the driver.

    Raises:
        BackendUnavailable: cuda.core, NVRTC, the driver or the GPU is missing, or one is too old
            for another.
    """

    def __init__(self, ordinal: int = 0) -> None:
        core = cuda_core(_NEEDS)
        from cuda.bindings import driver

        self._driver = driver
        _require_gpu(driver, ordinal)
        before = self._checked("cuCtxGetCurrent")
        self._device = core.Device(ordinal)
        self._device.set_current()
        self._context = self._checked("cuCtxGetCurrent")
        self._core = core
        self.ordinal = ordinal
        self._streams = [self._device.create_stream() for _ in range(4)]
        first, second, self.keeper, self.feeder = (int(one.handle) for one in self._streams)
        self.lanes = (first, second)
        # Memory that was given back to the pool stays there for the next call.
        self._pool = self._device.memory_resource
        self._kernels: dict[tuple[str, str], Any] = {}
        attribute = driver.CUdevice_attribute
        self.shared_bytes = self._checked(
            "cuDeviceGetAttribute",
            attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            ordinal,
        )
        self._checked("cuCtxSetCurrent", before)

    def _checked(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; a failure raises with its name and the driver's text."""
        status, *results = getattr(self._driver, name)(*arguments)
        if int(status):
            text = self._driver.cuGetErrorString(status)[1]
            message = f"{name}: {text.decode() if text else status}"
            if status == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise MemoryError(f"{message}; {_FEWER}")
            raise DeviceError(message)
        return results[0] if len(results) == 1 else results

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context the thread's own meanwhile."""
        self._checked("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._checked("cuCtxPopCurrent")

    @_in_context
    def free_bytes(self) -> int:
        """Return the bytes that are free, on the device or in the pool."""
        free, _ = self._checked("cuMemGetInfo")
        pool = getattr(self._pool, "attributes", None)
        if pool is None:  # a device without memory pools
            return int(free)
        return int(free) + int(pool.reserved_mem_current) - int(pool.used_mem_current)

    @_in_context
    def allocate(self, n_bytes: int, stream: int) -> tuple[int, Any]:
        """Return the address of new memory and its ``cuda.core.Buffer``."""
        try:
            buffer = self._pool.allocate(n_bytes, stream=self._core.Stream.from_handle(stream))
        except Exception as error:
            if "OUT_OF_MEMORY" in str(error):
                raise MemoryError(
                    f"allocating {memory.format_bytes(n_bytes)} on cuda:{self.ordinal}: {error}; "
                    f"{_FEWER}"
                ) from error
            raise DeviceError(f"allocating {memory.format_bytes(n_bytes)}: {error}") from error
        return int(buffer.handle), buffer

    @_in_context
    def free(self, kept: Any, stream: int) -> None:
        """Give memory back, once what was queued on the stream before is done."""
        kept.close(self._core.Stream.from_handle(stream))

    @_in_context
    def pin(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        address = int(self._checked("cuMemHostAlloc", n_bytes, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))

    @_in_context
    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Give page-locked memory back, of which no copy is under way."""
        self._checked("cuMemFreeHost", buffer.ctypes.data)

    @_in_context
    def is_pinned(self, array: Array) -> bool:
        """Tell whether the driver knows a host array's memory: copies may read it later then.

        Memory that it does not know is an error to it; any other error comes back with the copy.
        """
        attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        status = self._driver.cuPointerGetAttribute(attribute, array.ctypes.data)[0]
        return int(status) == 0

    @_in_context
    def upload(self, address: int, array: Array, stream: int) -> None:
        """Queue a copy of a C-contiguous host array, which is read at once if not pinned."""
        self._checked("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    @_in_context
    def download(self, array: Array, address: int, stream: int) -> None:
        """Queue a copy into a C-contiguous host array."""
        self._checked("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    @_in_context
    def copy(self, address: int, source: int, n_bytes: int, stream: int) -> None:
        """Queue a copy within the device."""
        self._checked("cuMemcpyDtoDAsync", address, source, n_bytes, stream)

    @_in_context
    def order(self, before: int, after: int) -> None:
        """Let what is queued on ``after`` from now on wait for what ``before`` has so far."""
        flags = self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        event = self._checked("cuEventCreate", int(flags))
        try:
            self._checked("cuEventRecord", event, before)
            self._checked("cuStreamWaitEvent", after, event, 0)
        finally:
            # The driver keeps it until it has happened.
            self._checked("cuEventDestroy", event)

    @_in_context
    def synchronize(self, stream: int) -> None:
        """Wait for a stream, and for no other."""
        self._checked("cuStreamSynchronize", stream)

    @_in_context
    def launch(
        self,
        precision: Precision,
        kernel: str,
        grid: int,
        block: int,
        shared: int,
        call: Array,
        stream: int,
    ) -> None:
        """Queue a kernel over ``grid`` blocks of ``block`` threads; ``call`` is its argument."""
        found = self._kernel(precision, kernel)
        # The driver copies the argument before it returns.
        arguments = np.array([call.ctypes.data], np.uint64)
        try:
            self._checked(
                "cuLaunchKernel",
                self._driver.CUfunction(int(found.handle)),
                *(grid, 1, 1, block, 1, 1),
                shared,
                stream,
                arguments.ctypes.data,
                0,
            )
        except DeviceError as error:
            raise DeviceError(
                f"launching {kernel} over {grid} blocks of {block} threads with "
                f"{memory.format_bytes(shared)} of shared memory each: {error}"
            ) from error

    def _kernel(self, precision: Precision, name: str) -> Any:
        if (precision, name) not in self._kernels:
            architecture = f"sm_{self._device.arch}"
            code = cached_kernels(precision, architecture)
            try:
                found = self._core.ObjectCode.from_cubin(code).get_kernel(name)
            except Exception as error:
                raise DeviceError(
                    f"loading {name} onto cuda:{self.ordinal}, compiled for {architecture}: "
                    f"{error}; update the driver, or delete {_kernel_folder()}, where a file may "
                    "be damaged"
                ) from error
            attribute = self._driver.CUfunction_attribute
            self._checked(
                "cuKernelSetAttribute",
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                self.shared_bytes,
                self._driver.CUkernel(int(found.handle)),
                self._driver.CUdevice(self.ordinal),
            )
            self._kernels[precision, name] = found
        return self._kernels[precision, name]


def _require_gpu(driver: Any, ordinal: int) -> None:
    try:
        status = driver.cuInit(0)[0]
    except RuntimeError as error:
        raise BackendUnavailable(
            f"backend 'cuda' needs the NVIDIA driver, which can't be loaded ({error}); install "
            f"the driver{_REMEDY}"
        ) from error
    if int(status):
        text = driver.cuGetErrorString(status)[1]
        raise BackendUnavailable(
            f"backend 'cuda' needs a GPU that works, got from cuInit: "
            f"{text.decode() if text else status}{_REMEDY}"
        )
    version = driver.cuDriverGetVersion()[1]
    if version < _OLDEST_DRIVER:
        raise BackendUnavailable(
            f"backend 'cuda': expected a driver for CUDA {_OLDEST_DRIVER // 1000} or newer, got "
            f"one for CUDA {version // 1000}.{version % 1000 // 10}; update the driver"
        )
    count = driver.cuDeviceGetCount()[1]
    if not 0 <= ordinal < count:
        raise BackendUnavailable(
            f"backend 'cuda:{ordinal}': expected the number of one of {count} GPUs, from 0"
            + _REMEDY
        )
    compiler = _compiler_version()
    if version // 1000 < int(compiler.partition(".")[0]):
        raise BackendUnavailable(
            f"backend 'cuda': expected a driver for the CUDA of NVRTC {compiler}, which compiles "
            f"the kernels, or newer, got one for CUDA {version // 1000}.{version % 1000 // 10}; "
            "update the driver, or install the cuda-core and NVRTC of its CUDA"
        )
