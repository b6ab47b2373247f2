# SPDX-License-Identifier: Apache-2.0
"""The calls that ``CudaDevice`` and cuda.core make to the driver, on a fake one in a process of its
own: their order and arguments are real, only the GPUs are not.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.core", reason="the driver is called through cuda.core")
from emulator import compile_for_the_processor

TESTS = Path(__file__).parent
START = """
import ctypes
import fake_kernels
import numpy as np
import qdp
from qdp.backends import cuda
from cuda.bindings import driver

fake = ctypes.CDLL("libcuda.so.1")
count = lambda name: fake.fake_count(name.encode())
circuit = qdp.ansatz.ry_rz_ladder(4, 2)
theta = np.linspace(0, 1, circuit.n_parameters)
rows = np.random.default_rng(0).normal(size=(6, 16))
run = {"observable": ["Z0", "X1 X2"], "encoding": "amplitude"}
expected = qdp.gradient(circuit, theta, rows, **run, backend="reference")


class Producer:
    def __init__(self, array, ordinal=0):
        self.array, self.ordinal = array, ordinal
    def __dlpack_device__(self):
        return 2, self.ordinal
    def __dlpack__(self, stream=None, max_version=None):
        return self.array.__dlpack__(max_version=max_version)
    def __cuda_stream__(self):
        return 0, 5


def close(found, expected):
    assert found.dtype == expected.dtype and np.abs(found - expected).max() < 1e-12
"""
INTERFACE = """
class Interface:
    def __init__(self, array, on, version=3, readonly=False):
        fake.fake_allocate.restype = ctypes.c_ulonglong
        self.address = fake.fake_allocate(array.nbytes, on)
        ctypes.memmove(self.address, array.ctypes.data, array.nbytes)
        self.array, self.version, self.readonly = array, version, readonly
    @property
    def __cuda_array_interface__(self):
        return {"shape": self.array.shape, "typestr": self.array.dtype.str, "strides": None,
                "data": (self.address, self.readonly), "stream": 3, "version": self.version}
    def to_numpy(self):
        memory = (ctypes.c_uint8 * self.array.nbytes).from_address(self.address)
        return np.frombuffer(memory, self.array.dtype).reshape(self.array.shape).copy()
    def free(self):
        fake.cuMemFreeAsync(ctypes.c_ulonglong(self.address), None)
"""
END = """
from qdp import engine
for name in ("cuda:0", "cuda:1"):
    engine._named_backend(name).clear()
assert fake.fake_allocated() == 0, "memory was not given back"
assert count("cuMemHostAlloc") == count("cuMemFreeHost")
assert count("cuEventCreate") == count("cuEventDestroy") > 0
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The environment of a process that finds the fake driver."""
    folder = tmp_path_factory.mktemp("driver")
    compile_for_the_processor(folder)
    for precision in ("double", "single"):
        (folder / f"{precision}.so").rename(folder / f"{precision[0]}.so")
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
         "-Wl,-soname,libcuda.so.1", str(TESTS / "fake_driver.cpp"), "-ldl", "-o",
         str(folder / "libcuda.so.1")],
        check=True,
    )  # fmt: skip
    paths = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("PYTEST")}
    return inherited | {
        "LD_LIBRARY_PATH": str(folder),
        "QDP_FAKE_KERNELS": f"{folder}/%c.so",
        "PYTHONPATH": paths,
    }


def run(driver, code, **variables):
    found = subprocess.run(
        [sys.executable, "-c", START + code],
        env=driver | variables, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


def test_numpy_arrays_go_there_and_back(driver):
    run(
        driver,
        """
close(qdp.gradient(circuit, theta, rows, **run, backend="cuda"), expected)
close(qdp.gradient(circuit, theta, rows, **run, backend="cuda:1"), expected)
assert count("cuMemHostAlloc") == 0
cuda._STAGED_BYTES = 1000
close(qdp.gradient(circuit, theta, rows, **run, backend="cuda"), expected)
assert count("cuMemHostAlloc") == 2
found = qdp.gradient(circuit, theta, rows, **run, backend="cuda", precision="single")
assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5
"""
        + END,
    )


def test_the_callers_context_stays_current(driver):
    run(
        driver,
        """
qdp.expectation(circuit, theta, None, "Z0", backend="cuda")
assert int(driver.cuCtxGetCurrent()[1]) == 0
other = driver.cuDevicePrimaryCtxRetain(1)[1]
driver.cuCtxSetCurrent(other)
result = qdp.state(circuit, Producer(theta))
result.to_numpy(), result.__dlpack__(stream=9)
assert int(driver.cuCtxGetCurrent()[1]) == int(other)
del result
"""
        + END,
    )


def test_arrays_of_a_gpu_stay_there(driver):
    run(
        driver,
        """
close(qdp.gradient(circuit, Producer(theta), Producer(rows), **run).to_numpy(), expected)
copies = [count(name) for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync")]
waits = count("cuStreamSynchronize")
found = qdp.gradient(circuit, Producer(theta), Producer(rows), **run)
assert copies == [
    count(name) for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync")
]
assert count("cuStreamSynchronize") == waits
assert found.__dlpack_device__() == (2, 0)
far = qdp.state(circuit, Producer(theta, ordinal=1))
assert far.__dlpack_device__() == (2, 1)
close(far.to_numpy(), qdp.state(circuit, theta, backend="reference"))
close(np.from_dlpack(far, device="cpu"), far.to_numpy())
capsule = far.__dlpack__(stream=7, max_version=(1, 0), copy=True)
assert "dltensor_versioned" in repr(capsule)
del found, far, capsule
"""
        + END,
    )


def test_the_driver_knows_whose_an_interface_is(driver):
    run(
        driver,
        INTERFACE
        + """
for on in (0, 1):
    given = Interface(theta, on)
    found = qdp.state(circuit, given)
    assert found.ordinal == on
    close(found.to_numpy(), qdp.state(circuit, theta, backend="reference"))
    given.free()
    del found
"""
        + END,
    )


def test_an_interface_that_cannot_be_read_is_named(driver):
    run(
        driver,
        INTERFACE
        + """
import re
old = Interface(theta, 0, version=2)
freed = Interface(theta, 0)
freed.free()
for given, reason in ((old, "v3 or above"), (freed, "acceptable range")):
    try:
        qdp.state(circuit, given)
    except TypeError as error:
        assert re.match(f"parameters: Interface could not be read .*{reason}.*torch", str(error))
    else:
        raise AssertionError("expected a TypeError")
old.free()
""",
    )


def test_read_only_arrays_are_not_written_to(driver):
    run(
        driver,
        INTERFACE
        + """
expected = qdp.encode(rows, "amplitude", backend="reference")
out = Interface(np.zeros_like(expected), 0)
assert qdp.encode(Interface(rows, 0), "amplitude", out=out) is out
close(out.to_numpy(), expected)
given = Interface(expected, 0, readonly=True)
try:
    qdp.encode(Interface(-rows, 0), "amplitude", out=given)
except ValueError as error:
    assert "out: expected an array that may be written to" in str(error), error
else:
    raise AssertionError("expected a ValueError")
assert np.array_equal(given.to_numpy(), expected)
""",
    )


def test_the_driver_knows_pinned_memory(driver):
    run(
        driver,
        """
device = cuda.CudaDevice()
pinned = device.pin(64)
assert device.is_pinned(pinned) and device.is_pinned(pinned[8:].view(np.float64))
assert not device.is_pinned(np.zeros(8))
device.unpin(pinned)
assert not device.is_pinned(pinned)
""",
    )


@pytest.mark.parametrize(
    "file",
    ["test_device_arrays.py", "test_engine.py", "test_gradients.py", "test_torch.py"],
)
def test_what_holds_for_every_backend_holds_on_the_driver(driver, file):
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "fake_kernels", "-p", "no:cacheprovider",
         "-k", "cuda", str(TESTS / file)],
        env=driver | {"QDP_REQUIRE": "cuda"}, cwd=TESTS.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert re.search(r"(\d\d+) passed", found.stdout), found.stdout


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("cuMemAllocFromPoolAsync:2", "MemoryError", "OUT_OF_MEMORY.*pass fewer rows at a time"),
        ("cuMemHostAlloc:2", "MemoryError", "cuMemHostAlloc: out of memory; pass fewer rows"),
        ("cuLaunchKernel:700", "DeviceError", "launching angles over .*: it was not to be"),
        ("cuMemcpyHtoDAsync:700", "DeviceError", "cuMemcpyHtoDAsync: it was not to be"),
        (
            "cuLibraryLoadData:209",
            "DeviceError",
            "loading .* sm_90: .*update the .*delete",
        ),
        ("cuLibraryGetKernel:500", "DeviceError", "loading .* sm_90: .*update the driver"),
        ("cuInit:100", "BackendUnavailable", "needs a GPU that works, got from cuInit"),
    ],
)
def test_failures_have_the_drivers_text(driver, fail, error, message):
    run(
        driver,
        f"""
import re
cuda._STAGED_BYTES = 1000
try:
    qdp.gradient(circuit, theta, rows, **run, backend="cuda")
except Exception as error:
    assert type(error).__name__ == {error!r}, repr(error)
    assert re.search({message!r}, str(error)), str(error)
else:
    raise AssertionError("expected {error}")
if {error!r} != "BackendUnavailable":
    # What was begun was given back.
    from qdp import engine
    engine._named_backend("cuda:0").clear()
    assert fake.fake_allocated() == 0
""",
        QDP_FAKE_FAIL=fail,
    )
