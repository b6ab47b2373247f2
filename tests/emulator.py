# SPDX-License-Identifier: Apache-2.0
"""A GPU on the processor: the CUDA kernels as plain C++, and a driver that records and delays.

Shared by the tests of the CUDA backend and of arrays in a GPU's memory; no GPU and no driver is
needed, only g++ and cuda.core.
"""

import ctypes
import os
import subprocess

import numpy as np
from cuda.core import Buffer, MemoryResource

from qdp.backends import device


def compile_for_the_processor(folder):
    """Return the kernels as plain C++, one library a precision."""
    flags = os.environ.get("QDP_EMULATION_FLAGS", "-O1").split()
    found = {}
    for precision, real in (("double", "double"), ("single", "float")):
        path = folder / f"{precision}.so"
        source = str(device.KERNELS / "engine.cu")
        subprocess.run(
            ["g++", "-x", "c++", "-std=c++17", *flags, "-Wall", "-Wextra", "-Werror",
             "-Wno-unknown-pragmas", f"-DREAL={real}", "-shared", "-fPIC", source, "-o", str(path)],
            check=True,
        )  # fmt: skip
        library = ctypes.CDLL(str(path))
        library.emulate.restype = ctypes.c_bool
        found[precision] = library
    return found


class Resource(MemoryResource):
    """What cuda.core asks about memory, answered as if the emulator's were a GPU's."""

    is_managed = False
    # Without a driver cuda.core makes buffers only of memory that it takes for the host's.
    is_made = False

    def __init__(self, emulator):
        self._emulator = emulator

    @property
    def device_id(self):
        return self._emulator.ordinal

    @property
    def is_device_accessible(self):
        return self.is_made

    @property
    def is_host_accessible(self):
        return not self.is_made

    def allocate(self, size, *, stream):
        raise NotImplementedError

    def deallocate(self, ptr, size, *, stream=None):
        self._emulator.release(int(ptr))


class Log:
    """What was done to a GPU's streams, in the order of the calls: (what, stream, ...)."""

    @property
    def launches(self):
        return [entry[2] for entry in self.log if entry[0] == "launch"]

    def count(self, what):
        return sum(entry[0] == what for entry in self.log)


class RecordingDevice(Log, device.CudaDevice):
    """A real GPU that notes what the emulated one does."""

    def __init__(self, ordinal=0):
        self.log = []
        super().__init__(ordinal)

    def allocate(self, n_bytes, stream):
        self.log.append(("allocate", stream, n_bytes))
        return super().allocate(n_bytes, stream)

    def free(self, kept, stream):
        self.log.append(("free", stream))
        super().free(kept, stream)

    def upload(self, address, array, stream):
        self.log.append(("upload", stream, array.nbytes))
        super().upload(address, array, stream)

    def download(self, array, address, stream):
        self.log.append(("download", stream, array.nbytes))
        super().download(array, address, stream)

    def copy(self, address, source, n_bytes, stream):
        self.log.append(("copy", stream, n_bytes))
        super().copy(address, source, n_bytes, stream)

    def order(self, before, after):
        self.log.append(("order", after, before))
        super().order(before, after)

    def synchronize(self, stream):
        self.log.append(("synchronize", stream))
        super().synchronize(stream)

    def launch(self, precision, kernel, grid, block, shared, call, stream):
        self.log.append(("launch", stream, kernel, call.copy()))
        super().launch(precision, kernel, grid, block, shared, call, stream)


class Emulator(Log, device.Device):
    """A GPU of host memory that does what is queued as late and in as odd an order as it may.

    A stream runs when it is waited for, and others as far as it has to wait for them. Memory that
    nobody wrote, and what was given back, is NaN. ``backwards`` runs the threads of a phase in
    reverse, and ``eager`` does everything at once.
    """

    lanes = (101, 102)
    keeper = 103
    feeder = 104

    def __init__(
        self, libraries, shared_bytes, backwards=False, free=2**30, ordinal=0, eager=False
    ):
        self.eager = eager
        self.ordinal = ordinal
        self.shared_bytes = shared_bytes
        self._libraries = libraries
        self._backwards = backwards
        self._free = free
        self._queues = {}
        self._freeing_stream = self.keeper
        self.allocated = {}
        self.pinned = {}
        self.log = []

    def free_bytes(self):
        return self._free

    def allocate(self, n_bytes, stream):
        self.log.append(("allocate", stream, n_bytes))
        memory = np.full(-(-n_bytes // 8), np.nan)
        address = memory.ctypes.data
        self.allocated[address] = memory
        resource = Resource(self)
        kept = Buffer.from_handle(address, n_bytes, mr=resource)
        resource.is_made = True
        return address, kept

    def free(self, kept, stream):
        # cuda.core gives it to its resource, on a stream that can be named with a driver only.
        self._freeing_stream = stream
        kept.close()
        self._freeing_stream = self.keeper

    def release(self, address):
        def forget():
            self.allocated.pop(address)[:] = np.nan

        self._queue("free", self._freeing_stream, forget)

    def pin(self, n_bytes):
        buffer = np.full(n_bytes, 255, np.uint8)
        self.pinned[buffer.ctypes.data] = buffer
        return buffer

    def unpin(self, buffer):
        buffer[:] = 255
        del self.pinned[buffer.ctypes.data]

    def is_pinned(self, array):
        start = array.ctypes.data
        return any(first <= start < first + len(one) for first, one in self.pinned.items())

    def upload(self, address, array, stream):
        assert array.flags.c_contiguous
        source = array if self.is_pinned(array) else array.copy()
        self._queue("upload", stream, lambda: ctypes.memmove(
            address, source.ctypes.data, source.nbytes), array.nbytes)  # fmt: skip

    def download(self, array, address, stream):
        assert array.flags.c_contiguous
        self._queue("download", stream, lambda: ctypes.memmove(
            array.ctypes.data, address, array.nbytes), array.nbytes)  # fmt: skip

    def copy(self, address, source, n_bytes, stream):
        self._queue("copy", stream, lambda: ctypes.memmove(address, source, n_bytes), n_bytes)

    def order(self, before, after):
        # What is queued so far, not what will be.
        waits = list(self._queues.get(before, []))
        self._queue("order", after, lambda: self._run_until(before, waits), before)

    def synchronize(self, stream):
        self.log.append(("synchronize", stream))
        self._run_until(stream, list(self._queues.get(stream, [])))

    def is_busy(self, stream):
        """Tell whether anything but the freeing of memory is queued on a stream."""
        return any(work.__name__ != "forget" for work in self._queues.get(stream, []))

    def synchronize_all(self):
        for stream in list(self._queues):
            self.synchronize(stream)

    def _queue(self, what, stream, work, *details):
        self.log.append((what, stream, *details))
        if self.eager:
            work()
        else:
            self._queues.setdefault(stream, []).append(work)

    def _run_until(self, stream, waits):
        queue = self._queues.get(stream, [])
        while queue and any(work in waits for work in queue):
            queue.pop(0)()

    def launch(self, precision, kernel, grid, block, shared, call, stream):
        assert block % 32 == 0
        assert 32 <= block <= 512
        assert shared <= self.shared_bytes
        told = call.copy()

        def run():
            address = ctypes.c_void_p(told.ctypes.data)
            found = self._libraries[precision].emulate(
                kernel.encode(), grid, block, shared, self._backwards, address
            )
            assert found, f"there is no kernel {kernel}"

        self._queue("launch", stream, run, kernel, told)


def assert_all_is_given_back(backend):
    """Assert that a backend keeps nothing but what ``clear`` gives back."""
    backend.clear()
    backend.device.synchronize_all()
    assert not backend.device.allocated, "memory was not given back"
    assert not backend.device.pinned, "pinned memory was not given back"
