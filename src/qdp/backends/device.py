# SPDX-License-Identifier: Apache-2.0
"""An NVIDIA GPU as the CUDA backend sees it: memory, copies, and launches of kernels.

``CudaDevice`` is the real one, over cuda.core; the kernels in ``kernels/`` are compiled by NVRTC
for the device at hand at first use and kept on disk. Tests put another ``Device`` in its place
that runs the same kernels on the processor. Nothing here knows circuits.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np

from qdp import memory
from qdp.arrays import Array
from qdp.backends.base import Precision
from qdp.errors import BackendUnavailable, DeviceError

KERNELS = Path(__file__).parent / "kernels"
_TYPES = {"double": "double", "single": "float"}
_OLDEST_DRIVER = 12000
_REMEDY = "; pass backend='cpu', or arrays in the CPU's memory"


class Device(ABC):
    """Memory that kernels work on, and the means to run them, in the order of the calls.

    ``stream`` is the handle of the stream that they go to, for libraries that are to follow.
    """

    shared_bytes: int
    stream: int = 0

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the bytes that can be allocated."""

    @abstractmethod
    def allocate(self, n_bytes: int) -> tuple[int, Any]:
        """Return the address of new memory and what keeps it; MemoryError if there is none."""

    @abstractmethod
    def free(self, kept: Any) -> None:
        """Give memory back, once all that was launched before is done."""

    @abstractmethod
    def upload(self, address: int, array: Array) -> None:
        """Copy a C-contiguous host array to the device."""

    @abstractmethod
    def download(self, array: Array, address: int) -> None:
        """Copy from the device into a C-contiguous host array, and wait for it."""

    @abstractmethod
    def launch(
        self, precision: Precision, kernel: str, grid: int, block: int, shared: int, call: int
    ) -> None:
        """Run a kernel over ``grid`` blocks of ``block`` threads; ``call`` is its argument."""


class Arena:
    """Device memory of one run, given back at its end, also on an error."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._kept: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._kept:
            self.device.free(self._kept.pop())

    def empty(self, n_bytes: int) -> int:
        """Return the address of ``n_bytes`` of new memory."""
        address, kept = self.device.allocate(max(8, n_bytes))
        self._kept.append(kept)
        return address

    def put(self, array: Array) -> int:
        """Return the address of a copy of ``array`` on the device."""
        array = np.ascontiguousarray(array)
        address = self.empty(array.nbytes)
        if array.nbytes:
            self.device.upload(address, array)
        return address


# Kernels


def kernel_source() -> str:
    """Return the text of the kernels, which includes ``phases.h`` from beside them."""
    return (KERNELS / "engine.cu").read_text(encoding="utf-8")


@functools.cache
def call_fields() -> tuple[str, ...]:
    """Return the names of the numbers that every kernel is told, in their order.

    >>> call_fields()[0]
    'n_qubits'
    """
    body = re.search(r"struct Call \{(.*?)\n\};", kernel_source(), re.DOTALL)
    assert body is not None, "engine.cu defines struct Call"
    return tuple(re.findall(r"^  long long (\w+);", body[1], re.MULTILINE))


def compile_kernels(precision: Precision, architecture: str) -> bytes:
    """Compile the kernels with NVRTC and return the cubin for ``architecture``, such as "sm_90".

    Raises:
        BackendUnavailable: cuda.core or NVRTC is missing.
        DeviceError: NVRTC refuses the source, with its own text.
    """
    core = _cuda_core()
    options = core.ProgramOptions(
        std="c++17",
        arch=architecture,
        include_path=str(KERNELS),
        define_macro=("REAL", _TYPES[precision]),
    )
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


def cached_kernels(precision: Precision, architecture: str, folder: Path | None = None) -> bytes:
    """Return the compiled kernels, from the folder of those compiled before if they are there.

    The name of a file tells source, element type, compiler and architecture. ``folder`` None is
    ``qdp/kernels`` in the user's cache folder; one that can't be written to is done without.
    """
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(base) / "qdp" / "kernels"
    sources = kernel_source() + (KERNELS / "phases.h").read_text(encoding="utf-8")
    key = f"{sources}\0{precision}\0{_compiler_version()}\0{architecture}"
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


def _cuda_core() -> Any:
    try:
        import cuda.core as core
    except ImportError as error:
        raise BackendUnavailable(
            f"backend 'cuda' needs cuda.core, which can't be imported ({error}); install it with: "
            "pip install 'qdp[cuda]'"
        ) from error
    return core


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


class CudaDevice(Device):
    """GPU number ``ordinal``; work goes to a stream of its own.

    Raises:
        BackendUnavailable: cuda.core, the driver or the GPU is missing, or the driver too old.
    """

    def __init__(self, ordinal: int = 0) -> None:
        core = _cuda_core()
        from cuda.bindings import driver

        self._driver = driver
        _require_gpu(driver, ordinal)
        self._device = core.Device(ordinal)
        self._device.set_current()
        self._core = core
        self._ordinal = ordinal
        self._stream = self._device.create_stream()
        self.stream = int(self._stream.handle)
        self._kernels: dict[tuple[str, str], Any] = {}
        attribute = driver.CUdevice_attribute
        self.shared_bytes = self._checked(
            "cuDeviceGetAttribute",
            attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            ordinal,
        )

    def _checked(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; a failure raises with its name and the driver's text."""
        status, *results = getattr(self._driver, name)(*arguments)
        if int(status):
            text = self._driver.cuGetErrorString(status)[1]
            message = f"{name}: {text.decode() if text else status}"
            if status == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise MemoryError(f"{message}; pass fewer rows at a time, or precision='single'")
            raise DeviceError(message)
        return results[0] if len(results) == 1 else results

    def free_bytes(self) -> int:
        """Return the bytes of device memory that are free."""
        self._device.set_current()
        free, _ = self._checked("cuMemGetInfo")
        return int(free)

    def allocate(self, n_bytes: int) -> tuple[int, Any]:
        """Return the address of new memory and what keeps it; MemoryError if there is none."""
        self._device.set_current()
        address = int(self._checked("cuMemAllocAsync", n_bytes, self._handle))
        return address, address

    def free(self, kept: Any) -> None:
        """Give memory back, once all that was launched before is done."""
        self._checked("cuMemFreeAsync", kept, self._handle)

    def upload(self, address: int, array: Array) -> None:
        """Copy a C-contiguous host array to the device."""
        self._checked("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._handle)

    def download(self, array: Array, address: int) -> None:
        """Copy from the device into a C-contiguous host array, and wait for it."""
        self._checked("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._handle)
        self._checked("cuStreamSynchronize", self._handle)

    def launch(
        self, precision: Precision, kernel: str, grid: int, block: int, shared: int, call: int
    ) -> None:
        """Run a kernel over ``grid`` blocks of ``block`` threads; ``call`` is its argument."""
        found = self._kernel(precision, kernel)
        config = self._core.LaunchConfig(grid=grid, block=block, shmem_size=shared)
        try:
            self._core.launch(self._stream, config, found, np.int64(call))
        except Exception as error:
            raise DeviceError(
                f"launching {kernel} over {grid} blocks of {block} threads with "
                f"{memory.format_bytes(shared)} of shared memory each: {error}"
            ) from error

    @property
    def _handle(self) -> Any:
        return self._driver.CUstream(int(self._stream.handle))

    def _kernel(self, precision: Precision, name: str) -> Any:
        if (precision, name) not in self._kernels:
            architecture = f"sm_{self._device.arch}"
            code = self._core.ObjectCode.from_cubin(cached_kernels(precision, architecture))
            found = code.get_kernel(name)
            attribute = self._driver.CUfunction_attribute
            self._checked(
                "cuKernelSetAttribute",
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                self.shared_bytes,
                self._driver.CUkernel(int(found.handle)),
                self._driver.CUdevice(self._ordinal),
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
