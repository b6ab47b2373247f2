# SPDX-License-Identifier: Apache-2.0
"""Arrays in a GPU's memory enter and leave without a copy, on the stream of their library.

Everything runs on an emulated GPU whose memory is the host's: torch tensors that say they are on
cuda:0, a small stand-in of CuPy, and producers of DLPack and ``__cuda_array_interface__``. Where
there is a GPU the same bodies run on it, except those that read the emulator's log.
"""

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
import types
import weakref

import numpy as np
import pytest
import torch
from conftest import BACKENDS
from samples import random_circuit, random_numbers, random_observables, random_states
from tolerance import assert_close

import qdp
from qdp import device_arrays, engine
from qdp.backends import cuda
from qdp.circuit import Circuit
from qdp.device_arrays import DeviceArray
from qdp.encodings import IQP, Amplitude, Angle, IQPEmbedding, ZZFeatureMap
from qdp.errors import DeviceError

pytest.importorskip("cuda.core", reason="GPU arrays are handed out by cuda.core")
from emulator import Emulator, RecordingDevice, assert_all_is_given_back

LARGE, SMALL = 200 * 2**10, 2048 + (16 << 4)
STREAM = 77
LEGACY = 1
N_QUBITS, ROWS = 5, 4


# What speaks for a GPU


class GpuTensor(torch.Tensor):
    """A tensor of host memory that says it is on cuda:0."""

    ordinal = 0

    @property
    def device(self):
        return torch.device("cuda", self.ordinal)


class FarTensor(GpuTensor):
    """One on another GPU."""

    ordinal = 1


class SparseTensor(GpuTensor):
    """One that says it is sparse."""

    @property
    def layout(self):
        return torch.sparse_coo


class Producer:
    """An array that can do nothing but DLPack; it notes what it was asked for."""

    def __init__(self, array, ordinal=0):
        self.array, self.ordinal, self.asked = array, ordinal, []

    def __dlpack_device__(self):
        return (2, self.ordinal)

    def __dlpack__(self, **options):
        self.asked.append(options)
        return self.array.__dlpack__(max_version=options.get("max_version"))


class ReadOnly(Producer):
    """One that says it may not be written to."""

    def __dlpack__(self, **options):
        array = self.array.view()
        array.flags.writeable = False
        self.asked.append(options)
        return array.__dlpack__(max_version=options["max_version"])


class Older(Producer):
    """One that knows the protocol of before version 1."""

    def __dlpack__(self, stream=None):
        self.asked.append({"stream": stream})
        return self.array.__dlpack__()


class Copying(Producer):
    """One that can be had as a copy only."""

    def __dlpack__(self, *, copy=None, **options):
        if copy is False:
            raise BufferError("its memory is elsewhere")
        return self.array.copy().__dlpack__(max_version=options["max_version"])


class StreamProducer(Producer):
    """One that has a stream."""

    def __cuda_stream__(self):
        return 0, STREAM


class Arithmetic(Producer):
    """One of a library that computes, as far as variances and runs over blocks need it."""

    @property
    def shape(self):
        return self.array.shape

    @property
    def ndim(self):
        return self.array.ndim

    def __len__(self):
        return len(self.array)

    def reshape(self, shape):
        return type(self)(self.array.reshape(shape))

    def __getitem__(self, key):
        return type(self)(self.array[key])

    def __sub__(self, other):
        return type(self)(self.array - other.array)

    def __mul__(self, other):
        return type(self)(self.array * other.array)

    def clip(self, min):
        return type(self)(self.array.clip(min=min))


class Namespaced(Arithmetic):
    """One with the array API standard's way back to its library."""

    def __array_namespace__(self, api_version=None):
        return Namespaced

    @classmethod
    def concat(cls, arrays):
        return cls(np.concatenate([one.array for one in arrays]))

    @classmethod
    def from_dlpack(cls, array):
        consumed = consume(array.__dlpack__(stream=STREAM, max_version=(1, 0)))
        result = cls(consumed.to_numpy())
        weakref.finalize(result, consumed.release)
        return result


class Interface:
    """An array that has ``__cuda_array_interface__`` only."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, False),
            "strides": None,
            "version": 3,
        }


def unwritten(shape, dtype):
    """New memory whose use is seen."""
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind in "fc" else 99, dtype)


def stand_in_for_cupy(alive):
    """A module with what is asked of CuPy."""
    cupy = types.ModuleType("cupy")

    class ndarray(Arithmetic):
        @property
        def data(self):
            return types.SimpleNamespace(ptr=self.array.ctypes.data)

    def empty(shape, dtype):
        array = unwritten(shape, dtype)
        alive.append(array)
        return ndarray(array)

    def concatenate(arrays):
        return ndarray(np.concatenate([one.array for one in arrays]))

    cupy.ndarray, cupy.empty, cupy.concatenate = ndarray, empty, concatenate
    cupy.cuda = types.SimpleNamespace(
        Device=lambda ordinal: contextlib.nullcontext(),
        get_current_stream=lambda: types.SimpleNamespace(ptr=STREAM),
    )
    return cupy


# DLPack as a consumer sees it


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


api = ctypes.pythonapi
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_GetPointer.restype = ctypes.c_void_p
api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
_CODES = {"f": 2, "c": 5, "i": 0, "u": 1}


class Consumed:
    """What a consumer took out of a capsule; ``release`` calls the deleter."""

    def __init__(self, managed):
        self.managed = managed
        self.tensor = managed.tensor
        self.major = getattr(managed, "major", 0)
        self.address = self.tensor.data + self.tensor.byte_offset
        self.shape = tuple(self.tensor.shape[i] for i in range(self.tensor.ndim))
        kind = {code: kind for kind, code in _CODES.items()}[self.tensor.code]
        self.dtype = np.dtype(f"{kind}{self.tensor.bits // 8}")
        self.device = (self.tensor.device_type, self.tensor.device_id)
        strides = self.tensor.strides
        self.strides = [strides[i] for i in range(self.tensor.ndim)] if strides else None

    def to_numpy(self):
        n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        memory = (ctypes.c_uint8 * n_bytes).from_address(self.address)
        return np.frombuffer(memory, self.dtype).reshape(self.shape)

    def release(self):
        self.managed.deleter(ctypes.addressof(self.managed))


_USED = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}


def consume(capsule):
    for name, kind in ((b"dltensor_versioned", Versioned), (b"dltensor", Managed)):
        if api.PyCapsule_IsValid(capsule, name):
            address = api.PyCapsule_GetPointer(capsule, name)
            api.PyCapsule_SetName(capsule, _USED[name])
            return Consumed(kind.from_address(address))
    raise AssertionError("expected a capsule of DLPack")


class Counting(Producer):
    """A producer whose capsules count how often they are deleted."""

    def __init__(self, array):
        super().__init__(array)
        self.deleted = 0
        self._alive = []

    def __dlpack__(self, **options):
        self.asked.append(options)
        shape = (ctypes.c_int64 * self.array.ndim)(*self.array.shape)

        def delete(_):
            self.deleted += 1

        managed = Versioned(1, 0, None, Deleter(delete), 0)
        managed.tensor = Tensor(
            self.array.ctypes.data, 2, 0, self.array.ndim, _CODES[self.array.dtype.kind],
            8 * self.array.dtype.itemsize, 1, shape, None, 0,
        )  # fmt: skip
        self._alive += [shape, managed]
        return api.PyCapsule_New(ctypes.addressof(managed), b"dltensor_versioned", None)


# Kinds of arrays


class Kind:
    """A kind of array: how one is made of a NumPy array, and a result read."""

    def __init__(self, name, wrap, result, stream=STREAM):
        self.name, self.wrap, self.result, self.stream = name, wrap, result, stream


def gpu_tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).as_subclass(GpuTensor)


def kinds_emulated(cupy):
    lane = Emulator.lanes[0]
    return {
        "torch": Kind("torch", gpu_tensor, GpuTensor),
        "cupy": Kind("cupy", lambda array: cupy.ndarray(np.ascontiguousarray(array)), cupy.ndarray),
        "dlpack": Kind("dlpack", Producer, DeviceArray, lane),
        "stream": Kind("stream", StreamProducer, DeviceArray),
        "interface": Kind("interface", Interface, DeviceArray, lane),
        "namespace": Kind("namespace", Namespaced, Namespaced, lane),
    }


class RealProducer:
    """A tensor of a real GPU with nothing left of it but DLPack."""

    def __init__(self, array):
        self.array = torch.as_tensor(array, device="cuda")

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class RealInterface:
    """One with ``__cuda_array_interface__`` only."""

    def __init__(self, array):
        self.array = torch.as_tensor(array, device="cuda")

    @property
    def __cuda_array_interface__(self):
        # torch's own is of version 2, which has no stream.
        stream = torch.cuda.current_stream().cuda_stream or LEGACY
        return self.array.__cuda_array_interface__ | {"stream": stream, "version": 3}


def jax_of_the_gpu():
    """JAX in double precision with GPU memory as it is needed, or None where it has no GPU."""
    if importlib.util.find_spec("jax") is None:
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        return jax if jax.devices("gpu") else None
    except RuntimeError:
        return None


def kind_real(name, backend):
    """A kind of array on a real GPU, on the stream that its library works on in tests.

    Skips where the library has no GPU, or fails where ``QDP_REQUIRE`` asks for it.
    """
    lane = backend.memory.lanes[0]
    if FAKE:
        return {
            "dlpack": Kind("dlpack", Producer, DeviceArray, lane),
            "stream": Kind("stream", StreamProducer, DeviceArray),
        }[name]
    if name == "cupy":
        if importlib.util.find_spec("cupy") is not None:
            import cupy

            return Kind("cupy", cupy.asarray, cupy.ndarray, LEGACY)
    elif name == "jax":
        if jax := jax_of_the_gpu():
            return Kind("jax", lambda a: jax.device_put(a, jax.devices("gpu")[0]), jax.Array, lane)
    elif torch.cuda.is_available():
        return {
            "torch": Kind(
                "torch", lambda a: torch.as_tensor(a, device="cuda"), torch.Tensor, LEGACY
            ),
            "dlpack": Kind("dlpack", RealProducer, DeviceArray, lane),
            "interface": Kind("interface", RealInterface, DeviceArray, lane),
        }[name]
    required = name if name in ("cupy", "jax") else "cuda"
    if required in os.environ.get("QDP_REQUIRE", "").split(","):
        pytest.fail(f"QDP_REQUIRE names {required}, but there are no arrays of {name} on a GPU")
    pytest.skip(f"there are no arrays of {name} on a GPU")


def address_of(array):
    """Where an array of any kind lies."""
    cupy = sys.modules.get("cupy")
    if isinstance(array, DeviceArray):
        return array.address
    if isinstance(array, torch.Tensor):
        return array.data_ptr()
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    if cupy is not None and isinstance(array, cupy.ndarray):
        return array.data.ptr
    if hasattr(array, "unsafe_buffer_pointer"):  # JAX
        return array.unsafe_buffer_pointer()
    return address_of(array.array)


class Gpu:
    """The GPU of a test, its backend, and a kind of array."""

    def __init__(self, kind, backend, emulator=None):
        self.kind, self.backend, self.emulator = kind, backend, emulator
        self.alive = []

    def wrap(self, array):
        self.alive.append(np.array(array, order="C"))
        return self.kind.wrap(self.alive[-1])

    def read(self, result):
        """Return a result as a NumPy array; its type must be that of the kind."""
        assert isinstance(result, self.kind.result)
        if self.emulator is not None:
            self.emulator.synchronize_all()
        if isinstance(result, DeviceArray):
            return result.to_numpy()
        if isinstance(result, torch.Tensor):
            return result.detach().as_subclass(torch.Tensor).cpu().numpy()
        if self.kind.name == "jax":
            return np.asarray(result)
        return result.array if self.emulator is not None else result.get()


KINDS = ["torch", "cupy", "dlpack", "stream", "interface", "namespace"]
# Under the fake driver of test_cuda_driver.py the memory of the GPU is the host's.
FAKE = "fake_kernels" in sys.modules
REAL_KINDS = ["dlpack", "stream"] if FAKE else ["torch", "cupy", "dlpack", "interface", "jax"]
REAL = [f"cuda-{name}" for name in REAL_KINDS] if "cuda" in BACKENDS else []


@pytest.fixture
def emulate(libraries, monkeypatch):
    """Put emulated GPUs in the place of real ones, made by a function of their options."""
    made = []
    # Libraries give memory back behind what is queued on their stream; so it is kept until then.
    alive = []

    def start(shared_bytes=LARGE, **options):
        def make(ordinal):
            return Emulator(libraries, shared_bytes, ordinal=ordinal, **options)

        monkeypatch.setattr(cuda, "CudaDevice", make)
        engine._named_backend.cache_clear()
        backend = engine._named_backend("cuda:0")
        made.append(backend)
        return backend

    def empty(shape, *, dtype, device):
        assert device == "cuda:0"
        name = str(dtype).removeprefix("torch.")
        tensor = torch.from_numpy(unwritten(shape, np.dtype(name)))
        alive.append(tensor)
        return tensor.as_subclass(GpuTensor)

    real_view = device_arrays.strided_view

    def strided_view(value, stream, **options):
        if isinstance(value, Interface):  # only a driver knows whose memory that is
            array = value.array
            return types.SimpleNamespace(
                ptr=array.ctypes.data, shape=array.shape, strides=None, dtype=array.dtype,
                device_id=0, readonly=False,
            )  # fmt: skip
        return real_view(value, stream, **options)

    streams = types.SimpleNamespace(cuda_stream=STREAM)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda ordinal: streams)
    monkeypatch.setattr(device_arrays, "strided_view", strided_view)
    monkeypatch.setitem(sys.modules, "cupy", stand_in_for_cupy(alive))
    yield start
    engine._named_backend.cache_clear()
    for backend in made:
        assert_all_is_given_back(backend)


@pytest.fixture(params=[*KINDS, *REAL])
def gpu(request):
    """A GPU and each kind of array on it."""
    if request.param.startswith("cuda-"):
        backend = engine._named_backend("cuda:0")
        return Gpu(kind_real(request.param.removeprefix("cuda-"), backend), backend)
    return emulated_gpu(request.param, request.getfixturevalue("emulate"))


def emulated_gpu(kind, emulate):
    backend = emulate()
    return Gpu(kinds_emulated(sys.modules["cupy"])[kind], backend, backend.device)


@pytest.fixture(params=[*KINDS, *REAL])
def recorded(request, monkeypatch):
    """A GPU that notes what is done to it, and each kind of array on it."""
    if not request.param.startswith("cuda-"):
        yield emulated_gpu(request.param, request.getfixturevalue("emulate"))
        return
    monkeypatch.setattr(cuda, "CudaDevice", RecordingDevice)
    engine._named_backend.cache_clear()
    backend = engine._named_backend("cuda:0")
    try:
        yield Gpu(kind_real(request.param.removeprefix("cuda-"), backend), backend)
    finally:
        engine._named_backend.cache_clear()
        backend.clear()


@pytest.fixture(params=KINDS)
def emulated(request, emulate):
    """The emulated GPU alone, for tests that bend it to their will."""
    return emulated_gpu(request.param, emulate)


def problem(per_row=False, seed=3):
    circuit = random_circuit(N_QUBITS, seed)
    parameters, inputs = random_numbers(circuit, ROWS, seed, per_row)
    states = random_states(ROWS, N_QUBITS, np.random.default_rng(seed))
    return circuit, parameters, inputs, states, random_observables(N_QUBITS, seed)[:2]


def slope_of(circuit):
    return sum(abs(a.scale) for operation in circuit.operations for a in operation.angles)


# Values


@pytest.mark.parametrize("per_row", [False, True])
def test_verbs_give_the_numbers_of_numpy_arrays(gpu, per_row):
    circuit, parameters, inputs, states, observables = problem(per_row)
    given = (gpu.wrap(parameters), gpu.wrap(states))
    reference = {"inputs": inputs, "backend": "reference"}
    on_gpu = {"inputs": gpu.wrap(inputs)}
    depth = 40 * len(circuit.operations)
    weight = max(one.weight for one in observables)

    def check(verb, *arguments, size=1.0, **options):
        found = verb(circuit, *given, *arguments, **on_gpu, **options)
        expected = verb(circuit, parameters, states, *arguments, **reference, **options)
        for one, other in zip(*(
            (r if isinstance(r, tuple) else (r,)) for r in (found, expected)
        ), strict=True):  # fmt: skip
            assert_close(gpu.read(one), other, "double", size, depth)

    check(qdp.state)
    check(qdp.probabilities, wires=[3, 1])
    check(qdp.expectation, observables, size=weight)
    check(qdp.expectation, observables[0], size=weight)
    wrt = ("parameters", "inputs", "states")
    size = weight * slope_of(circuit)
    check(qdp.gradient, observables, wrt=wrt, size=size)
    check(qdp.gradient, observables[0], size=size, prune=True)
    pruned = qdp.gradient(circuit, *given, "Z0", **on_gpu, prune=True)
    expected = qdp.gradient(circuit, parameters, states, "Z0", **reference, prune=True)
    assert np.array_equal(gpu.read(pruned) == 0, expected == 0)
    check(qdp.gradient, observables, method="parameter-shift", wrt=wrt[:2], size=size)
    # The same differences: rounding alone is left, over twice the step of 6e-6 radians.
    check(qdp.gradient, observables, method="finite-difference", size=1e5 * size)
    found = qdp.sample(circuit, *given, shots=9, seed=4, **on_gpu)
    expected = qdp.sample(circuit, parameters, states, shots=9, seed=4, **reference)
    assert np.array_equal(gpu.read(found), expected)


def test_variances(gpu):
    if gpu.emulator is not None:
        gpu.emulator.eager = True  # the library's own arithmetic follows at once
    circuit, parameters, inputs, states, observables = problem()
    weight = max(one.weight for one in observables) ** 2
    for given in (observables, observables[1]):
        found = qdp.variance(circuit, gpu.wrap(parameters), gpu.wrap(states), given,
                             inputs=gpu.wrap(inputs))  # fmt: skip
        expected = qdp.variance(circuit, parameters, states, given, inputs=inputs,
                                backend="reference")  # fmt: skip
        assert_close(gpu.read(found), expected, "double", weight, 40 * len(circuit.operations))


@pytest.mark.parametrize("method", ["shots", "spsa"])
def test_what_is_drawn_is_drawn_as_for_numpy_arrays(gpu, method):
    circuit, parameters, inputs, states, observables = problem()
    options = (
        {"method": "parameter-shift", "shots": 20} if method == "shots" else {"method": "spsa"}
    )
    found, spread = qdp.gradient(
        circuit, gpu.wrap(parameters), gpu.wrap(states), observables, inputs=gpu.wrap(inputs),
        seed=5, return_variance=True, **options,
    )  # fmt: skip
    expected, variance = qdp.gradient(
        circuit, parameters, states, observables, inputs=inputs, seed=5, return_variance=True,
        backend="reference", **options,
    )  # fmt: skip
    np.testing.assert_allclose(gpu.read(found), expected, atol=1e-7)
    np.testing.assert_allclose(gpu.read(spread), variance, atol=1e-7)


@pytest.mark.parametrize("shared", ["nothing", "parameters", "states", "all"])
def test_vjp_sums_what_rows_share(gpu, shared):
    circuit, parameters, inputs, states, observables = problem(per_row=shared == "nothing")
    if shared in ("states", "all"):
        states = states[0]
    if shared == "all":
        inputs = inputs[0]
    shape = (len(observables),) if shared == "all" else (ROWS, len(observables))
    cotangents = np.random.default_rng(1).normal(size=shape)
    wrt = ("states", "inputs", "parameters")
    found = qdp.vjp(
        circuit, gpu.wrap(parameters), gpu.wrap(states), observables, gpu.wrap(cotangents),
        inputs=gpu.wrap(inputs), wrt=wrt,
    )  # fmt: skip
    expected = qdp.vjp(
        circuit, parameters, states, observables, cotangents, inputs=inputs, wrt=wrt,
        backend="reference",
    )  # fmt: skip
    size = 10 * slope_of(circuit) * max(one.weight for one in observables) * ROWS
    for one, other in zip(found, expected, strict=True):
        assert_close(gpu.read(one), other, "double", size, 40 * len(circuit.operations))
    single = qdp.vjp(circuit, gpu.wrap(parameters), gpu.wrap(states), observables, 1.0,
                     inputs=gpu.wrap(inputs))  # fmt: skip
    ones = qdp.vjp(circuit, parameters, states, observables, 1.0, inputs=inputs,
                   backend="reference")  # fmt: skip
    assert_close(gpu.read(single), ones, "double", size, 40 * len(circuit.operations))


ENCODINGS = [
    (Amplitude(), 2**N_QUBITS - 3),
    (Amplitude(normalize=False), 2**N_QUBITS),
    (Angle("Y", scale=0.5), N_QUBITS - 1),
    (IQP(), N_QUBITS * (N_QUBITS + 1) // 2),
    (IQPEmbedding(n_repeats=2, pattern=((0, 2), (3, 1))), N_QUBITS),
    (ZZFeatureMap(reps=1), N_QUBITS),
]


@pytest.mark.parametrize("rows_axis", [True, False])
@pytest.mark.parametrize(("encoding", "columns"), ENCODINGS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("name", ["torch", "stream"])
def test_features_are_encoded_and_differentiated(emulate, name, encoding, columns, rows_axis):
    for shared_bytes in (LARGE, SMALL):
        backend = emulate(shared_bytes)
        gpu = Gpu(kinds_emulated(sys.modules["cupy"])[name], backend, backend.device)
        check_features(gpu, encoding, columns, rows_axis)


def check_features(gpu, encoding, columns, rows_axis):
    circuit, parameters, inputs, _, observables = problem(seed=6)
    features = np.random.default_rng(7).normal(size=(ROWS, columns))
    if isinstance(encoding, Amplitude) and not encoding.normalize:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    if not rows_axis:
        features = features[0]
    wrt = ("parameters", "inputs", "states")
    depth = 60 * len(circuit.operations)
    size = 10 * slope_of(circuit) * max(one.weight for one in observables)
    # Where features aren't differentiated, angles turn into states as rows are loaded.
    for method, names in (
        ("adjoint", wrt),
        ("adjoint", wrt[:2]),
        ("parameter-shift", wrt[: 2 + _by_gates(encoding)]),
        ("parameter-shift", wrt[:2]),
    ):
        run = {"wrt": names, "method": method, "encoding": encoding}
        found = qdp.gradient(
            circuit, gpu.wrap(parameters), gpu.wrap(features), observables,
            inputs=gpu.wrap(inputs), **run,
        )  # fmt: skip
        expected = qdp.gradient(
            circuit, parameters, features, observables, inputs=inputs, backend="reference", **run
        )
        for one, other in zip(found, expected, strict=True):
            assert_close(gpu.read(one), other, "double", size, depth)
    plain = Circuit(N_QUBITS, [qdp.gates.RX(qdp.parameter(0), 1)])
    theta = np.array([0.4])
    found = qdp.gradient(plain, gpu.wrap(theta), gpu.wrap(features), "Z1", encoding=encoding,
                         wrt="states")  # fmt: skip
    expected = qdp.gradient(plain, theta, features, "Z1", encoding=encoding, wrt="states",
                            backend="reference")  # fmt: skip
    assert_close(gpu.read(found), expected, "double", 10, depth)
    for order in ("big", "little"):
        found = qdp.encode(gpu.wrap(features), encoding, N_QUBITS, bit_order=order)
        expected = qdp.encode(features, encoding, N_QUBITS, bit_order=order, backend="reference")
        assert_close(gpu.read(found), expected, "double", 1, depth)


def test_features_on_a_gpu_turn_into_states_as_they_are_loaded(emulate):
    circuit = Circuit(4, [qdp.gates.RX(qdp.parameter(0), 1)])
    features, theta = gpu_tensor(np.ones((2, 4))), gpu_tensor(np.array([0.4]))
    for encoding, kernel in (("angle", "make_factors"), ("iqp-embedding", "make_phases")):
        emulator = emulate(LARGE).device
        qdp.gradient(circuit, theta, features, "Z1", encoding=encoding)
        qdp.encode(features, encoding)
        told = [entry[3] for entry in emulator.log if entry[0] == "launch"]
        assert emulator.launches.count(kernel) == 2
        assert {int(one["n_rotations"][0]) for one in told} <= {0, 1}


def _by_gates(encoding):
    return not isinstance(encoding, Amplitude)


def test_basis_states_are_named_by_indices(gpu):
    with pytest.raises(ValueError, match=r"expected n_qubits beside integers"):
        qdp.encode(gpu.wrap(np.array([3, 0])), "basis")
    indices = np.array([3, 0, 31], np.int64)
    expected = qdp.encode(indices, "basis", N_QUBITS)
    assert_close(gpu.read(qdp.encode(gpu.wrap(indices), "basis", N_QUBITS)), expected, "double")
    found = gpu.read(qdp.encode(gpu.wrap(np.array([0, 32, -1])), "basis", N_QUBITS))
    assert_close(found[0], np.eye(2**N_QUBITS, dtype=complex)[0], "double")
    assert np.isnan(found[1:]).all()


def test_the_fewest_qubits_hold_the_features(gpu):
    rows = np.random.default_rng(1).normal(size=(3, 5))
    for given in (rows, rows[0]):
        expected = qdp.encode(given, "amplitude", backend="reference")
        assert_close(gpu.read(qdp.encode(gpu.wrap(given), "amplitude")), expected, "double")
        expected = qdp.encode(given[..., :3], "angle", backend="reference")
        assert_close(gpu.read(qdp.encode(gpu.wrap(given[..., :3]), "angle")), expected, "double")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_precision_follows_the_states(gpu, dtype):
    circuit, parameters, inputs, states, observables = problem()
    if dtype.startswith("float"):
        states = states.real / np.linalg.norm(states.real, axis=1, keepdims=True)
    states = states.astype(dtype)
    precision = "single" if dtype in ("float32", "complex64") else "double"
    wrt = ("parameters", "states")
    found = qdp.gradient(
        circuit, gpu.wrap(parameters.astype(np.float32)), gpu.wrap(states), observables[0],
        inputs=gpu.wrap(inputs.astype(np.float32)), wrt=wrt,
    )  # fmt: skip
    expected = qdp.gradient(
        circuit, parameters.astype(np.float32), states, observables[0],
        inputs=inputs.astype(np.float32), wrt=wrt, precision="double", backend="reference",
    )  # fmt: skip
    size = 10 * slope_of(circuit) * observables[0].weight
    for one, other in zip(found, expected, strict=True):
        assert_close(gpu.read(one), other, precision, size, 40 * len(circuit.operations))


def test_the_fidelity_kernel(gpu):
    rng = np.random.default_rng(8)
    left, right = random_states(3, 4, rng), random_states(2, 4, rng)
    expected = np.abs(left.conj() @ right.T) ** 2
    assert_close(gpu.read(qdp.fidelity_kernel(gpu.wrap(left), gpu.wrap(right))), expected, "double")
    assert_close(gpu.read(qdp.fidelity_kernel(gpu.wrap(left), right)), expected, "double")
    own = qdp.fidelity_kernel(gpu.wrap(left.astype(np.complex64)))
    assert_close(gpu.read(own), np.abs(left.conj() @ left.T) ** 2, "single")
    real = left.real / np.linalg.norm(left.real, axis=1, keepdims=True)
    mixed = qdp.fidelity_kernel(gpu.wrap(real), gpu.wrap(right))
    assert_close(gpu.read(mixed), np.abs(real @ right.T) ** 2, "double")
    real[1] *= 1.001
    found = gpu.read(qdp.fidelity_kernel(gpu.wrap(real), gpu.wrap(right)))
    assert np.isnan(found).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_a_fidelity_kernel_of_numpy_arrays_runs_where_it_is_told(emulate):
    emulator = emulate().device
    states = random_states(3, 4, np.random.default_rng(8))
    found = qdp.fidelity_kernel(states, backend="cuda")
    assert_close(found, np.abs(states.conj() @ states.T) ** 2, "double")
    assert emulator.launches == ["overlaps"]
    found = qdp.fidelity_kernel(states, backend="reference")
    assert_close(found, np.abs(states.conj() @ states.T) ** 2, "double")


def test_rows_that_cannot_be_used_become_nan(gpu):
    circuit, parameters, inputs, states, observables = problem()
    states[1] *= 1.01
    states[2, 0] = np.nan
    given = {"inputs": gpu.wrap(inputs)}
    found = qdp.expectation(circuit, gpu.wrap(parameters), gpu.wrap(states), observables, **given)
    assert np.isnan(gpu.read(found)).all(axis=1).tolist() == [False, True, True, False]
    features = np.ones((4, 30))
    features[1] = 0
    features[2, 3] = np.inf
    found = qdp.gradient(
        circuit, gpu.wrap(parameters), gpu.wrap(features), observables[0], encoding="amplitude",
        **given,
    )  # fmt: skip
    assert np.isnan(gpu.read(found)).any(axis=1).tolist() == [False, True, True, False]
    inputs[3, 0] = np.nan
    found = qdp.expectation(
        Circuit(1, [qdp.gates.RX(qdp.feature(0), 0)]), None, None, "Z0",
        inputs=gpu.wrap(inputs[:, :1]),
    )  # fmt: skip
    assert np.isnan(gpu.read(found)).tolist() == [False, False, False, True]


def test_numpy_arrays_may_stand_beside(gpu):
    circuit, parameters, inputs, states, observables = problem()
    expected = qdp.expectation(circuit, parameters, states, observables, inputs=inputs,
                               backend="reference")  # fmt: skip
    weight = max(one.weight for one in observables)
    for theta, rows in ((gpu.wrap(parameters), states), (parameters.tolist(), gpu.wrap(states))):
        found = qdp.expectation(circuit, theta, rows, observables, inputs=inputs)
        assert_close(gpu.read(found), expected, "double", weight, 40 * len(circuit.operations))
    features = np.arange(1.0, 1 + 2**N_QUBITS)
    found = qdp.expectation(circuit, gpu.wrap(parameters), features, observables, inputs=inputs[0],
                            encoding="amplitude")  # fmt: skip
    expected = qdp.expectation(circuit, parameters, features, observables, inputs=inputs[0],
                               encoding="amplitude", backend="reference")  # fmt: skip
    assert_close(gpu.read(found), expected, "double", weight, 40 * len(circuit.operations))


def test_a_cache_of_states_runs_block_by_block(gpu, monkeypatch):
    if gpu.emulator is not None:
        # These libraries join by themselves, which follows at once.
        gpu.emulator.eager = gpu.kind.name in ("torch", "cupy", "namespace")
    monkeypatch.setattr(qdp.cache, "_CHUNK_BYTES", 200)
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = np.random.default_rng(1).normal(size=(7, circuit.n_parameters))
    rows = np.random.default_rng(2).normal(size=(7, 8))
    cache = qdp.StateCache(None)
    cache.encode_all(rows, encoding="amplitude", n_qubits=3)
    assert len(list(cache.blocks(3))) == 3
    found = qdp.expectation(circuit, gpu.wrap(theta), cache, "Z0")
    expected = qdp.expectation(
        circuit, theta, rows, "Z0", encoding="amplitude", backend="reference"
    )
    assert_close(gpu.read(found), expected, "double")


# What is copied, and in which order


def adjoint(gpu, given, **options):
    circuit, parameters, inputs, states, observables = given
    return qdp.gradient(
        circuit, parameters, states, observables, inputs=inputs,
        wrt=("parameters", "inputs", "states"), **options,
    )  # fmt: skip


def on_gpu(gpu, **options):
    circuit, parameters, inputs, states, observables = problem(**options)
    return circuit, gpu.wrap(parameters), gpu.wrap(inputs), gpu.wrap(states), observables


def test_nothing_is_copied_and_all_is_queued_on_the_callers_stream(recorded):
    log = recorded.backend.device.log
    given = on_gpu(recorded)
    adjoint(recorded, given)
    for method in ("adjoint", "parameter-shift"):
        run = {"inputs": given[2], "method": method}
        qdp.gradient(*given[:2], given[3], given[4], **run)
        log.clear()
        qdp.gradient(*given[:2], given[3], given[4], **run)
        what = {entry[0] for entry in log}
        waits = recorded.kind.name in ("dlpack", "interface", "namespace", "jax")
        assert what == {"allocate", "free", "launch", "order"} | (
            {"synchronize"} if waits else set()
        )
        launches = [entry for entry in log if entry[0] == "launch"]
        assert {entry[1] for entry in launches} == {recorded.kind.stream}
        told = launches[0][3]
        assert told["parameters"] == address_of(given[1])
        assert told["states"] == address_of(given[3])
        # Only the keeper waits for the run, for what is freed there later.
        orders = [entry[1:] for entry in log if entry[0] == "order"]
        assert (recorded.backend.device.keeper, recorded.kind.stream) in orders


def test_results_are_written_where_their_library_wants_them(recorded):
    circuit, parameters, inputs, states, _ = on_gpu(recorded)
    log = recorded.backend.device.log
    found = qdp.state(circuit, parameters, states, inputs=inputs)
    told = next(entry[3] for entry in reversed(log) if entry[0] == "launch")
    assert told["final_states"] == address_of(found)


def test_states_are_encoded_into_a_buffer(emulated):
    rows = np.random.default_rng(1).normal(size=(3, 8))
    expected = qdp.encode(rows, "amplitude", 3, precision="single", backend="reference")
    buffer = np.full((3, 8), np.nan, np.complex64)
    out = emulated.kind.wrap(buffer)
    assert qdp.encode(emulated.wrap(rows), "amplitude", out=out) is out
    emulated.emulator.synchronize_all()
    assert_close(buffer, expected, "single")
    assert emulated.emulator.count("download") == emulated.emulator.count("copy") == 0
    single = emulated.kind.wrap(np.full(8, np.nan, np.complex128))
    qdp.encode(emulated.wrap(rows[0]), "amplitude", 3, out=single)
    with pytest.raises(ValueError, match=r"out: expected shape \(3, 8\), got \(8,\)"):
        qdp.encode(emulated.wrap(rows), "amplitude", 3, out=single)
    with pytest.raises(ValueError, match=r"precision: expected 'single', that of out, got 'dou"):
        qdp.encode(emulated.wrap(rows), "amplitude", 3, out=out, precision="double")
    emulated.emulator.synchronize_all()
    buffer[:] = np.nan
    assert qdp.encode(rows, "amplitude", out=out) is out  # copied there and encoded
    emulated.emulator.synchronize_all()
    assert_close(buffer, expected, "single")
    with pytest.raises(TypeError, match=r"out: expected dtype complex128, complex64 on cuda:0"):
        qdp.encode(emulated.wrap(rows), "amplitude", 3, out=emulated.wrap(rows))
    emulated.emulator.synchronize_all()


def test_buffers_that_cannot_be_written_to_are_refused(emulate):
    emulator = emulate().device
    rows = np.random.default_rng(1).normal(size=(3, 8))
    expected = qdp.encode(rows, "amplitude", 3, backend="reference")

    def encode_into(kind):
        buffer = np.zeros((3, 8), complex)
        out = kind(buffer)
        try:
            assert qdp.encode(StreamProducer(rows), "amplitude", out=out) is out
        finally:
            emulator.synchronize_all()
        return buffer, out.asked

    buffer, asked = encode_into(Producer)
    assert_close(buffer, expected, "double")
    assert asked[0]["copy"] is False
    buffer, asked = encode_into(Older)
    assert_close(buffer, expected, "double")
    assert asked == [{"stream": STREAM}]
    with pytest.raises(ValueError, match=r"out: expected an array that may be .* got a read-only"):
        encode_into(ReadOnly)
    with pytest.raises(TypeError, match=r"out: Copying on cuda:0 .* in place .*elsewhere"):
        encode_into(Copying)
    # What is only read may be either.
    found = qdp.encode(ReadOnly(rows), "amplitude")
    assert_close(found.to_numpy(), expected, "double")
    assert_close(qdp.encode(Copying(rows), "amplitude").to_numpy(), expected, "double")


def test_pinned_arrays_may_be_changed_after_the_call(emulate):
    emulator = emulate().device
    circuit, parameters, inputs, states, observables = problem()
    expected = qdp.expectation(
        circuit, parameters, states, observables, inputs=inputs, backend="reference"
    )
    pinned = []

    def pin(array):
        pinned.append(emulator.pin(array.nbytes))
        copy = pinned[-1].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    given = pin(parameters), pin(states)
    found = qdp.expectation(circuit, *given, observables, inputs=StreamProducer(inputs))
    for array in given:
        array[...] = np.nan
    weight = max(one.weight for one in observables)
    assert_close(found.to_numpy(), expected, "double", weight, 40 * len(circuit.operations))
    for buffer in pinned:
        emulator.unpin(buffer)


def test_producers_are_told_the_stream(emulate):
    emulator = emulate().device
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = np.ones(circuit.n_parameters)
    for kind, stream in ((Producer, Emulator.lanes[0]), (StreamProducer, STREAM)):
        given = kind(theta)
        result = qdp.expectation(circuit, given, None, "Z0")
        assert [asked["stream"] for asked in given.asked] == [stream]
        assert given.asked[0]["max_version"] >= (1, 0)
        assert result.stream == stream
        assert result.__cuda_stream__() == (0, stream)
    # Who knows nothing of the stream might free what is still read: such a call waits.
    for given, waits in ((StreamProducer(theta), []), (Producer(theta), [STREAM])):
        emulator.log.clear()
        state = StreamProducer(np.eye(8)[:1])
        assert qdp.expectation(circuit, given, state, "Z0").stream == STREAM
        waited = [entry[1] for entry in emulator.log if entry[0] == "synchronize"]
        assert waited == waits
    # A result that goes in again stays on its stream.
    state = qdp.state(circuit, StreamProducer(theta))
    assert qdp.expectation(circuit, StreamProducer(theta), state, "Z0").stream == STREAM
    given = StreamProducer(theta)
    given.__class__ = type("Wrong", (StreamProducer,), {"__cuda_stream__": lambda self: (1, 2)})
    with pytest.raises(TypeError, match=r"__cuda_stream__: expected version 0, got 1"):
        qdp.expectation(circuit, given, None, "Z0")


def test_the_default_stream_is_the_legacy_one(emulate, monkeypatch):
    emulator = emulate().device
    streams = types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda ordinal: streams)
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    found = qdp.expectation(circuit, gpu_tensor(np.ones(6)), None, "Z0")
    assert {entry[1] for entry in emulator.log if entry[0] == "launch"} == {1}
    emulator.synchronize_all()
    expected = qdp.expectation(circuit, np.ones(6), None, "Z0", backend="reference")
    assert_close(found.numpy(), expected, "double")


def test_numpy_results_wait_for_their_stream_only(emulate):
    emulator = emulate().device
    circuit, parameters, inputs, states, observables = problem()
    qdp.expectation(circuit, parameters, states, observables, inputs=inputs, backend="cuda")
    emulator.log.clear()
    qdp.expectation(circuit, parameters, states, observables, inputs=inputs, backend="cuda")
    waited = [entry[1] for entry in emulator.log if entry[0] == "synchronize"]
    assert waited == [emulator.lanes[0]]


def test_structure_stays_on_the_device(emulate):
    emulator = emulate().device
    circuit, parameters, inputs, states, observables = problem()
    run = {"inputs": inputs, "backend": "cuda"}

    def uploads(circuit, **options):
        before = emulator.count("upload")
        qdp.gradient(circuit, parameters, states, observables, **run, **options)
        return emulator.count("upload") - before

    first = uploads(circuit)
    # What is kept is waited for once, on a stream that nothing else is queued on.
    assert {entry[1] for entry in emulator.log if entry[0] == "synchronize"} == {
        emulator.feeder,
        emulator.lanes[0],
    }
    again = uploads(circuit)
    # Rows, parameters and inputs are the caller's, and a zero that a row may set.
    assert again == 4
    # What is kept is packed: a copy each for the structure and the terms of the derivative.
    assert first == 4 + 2
    parameters = parameters + 1
    assert uploads(circuit) == 4
    assert uploads(circuit, prune=True) > 4
    assert uploads(circuit, method="parameter-shift") > 3
    # The host looks at the rows before many evaluations.
    assert uploads(circuit, method="parameter-shift") == 3
    assert uploads(Circuit(N_QUBITS, circuit.operations[::-1])) > 4
    assert uploads(circuit) == 4


def test_what_is_kept_is_bounded_and_freed_behind_those_who_used_it(emulate, monkeypatch):
    backend = emulate()
    emulator = backend.device
    given = on_gpu(Gpu(kinds_emulated(sys.modules["cupy"])["stream"], backend, emulator))
    monkeypatch.setattr(cuda, "_MOST_KEPT_BYTES", 1)
    expected = qdp.expectation(*given[:2], given[3], given[4], inputs=given[2])
    emulator.log.clear()
    # Another structure drives the first out while its run still waits on the stream.
    other = qdp.ansatz.ry_rz_ladder(3, 1)
    qdp.expectation(other, np.ones(6), None, "Z0", backend="cuda")
    assert ("free", emulator.keeper) in emulator.log
    assert len(backend._keeper._kept) == 1
    circuit, parameters, inputs, states, observables = problem()
    reference = qdp.expectation(
        circuit, parameters, states, observables, inputs=inputs, backend="reference"
    )
    weight = max(one.weight for one in observables)
    assert_close(expected.to_numpy(), reference, "double", weight, 40 * len(circuit.operations))


# Rows of NumPy arrays, chunk by chunk


def staged(emulator, monkeypatch, rows=3):
    """Let chunks have so many rows of the problem."""
    circuit, parameters, inputs, states, observables = problem()
    per_row = states.nbytes // ROWS + inputs.nbytes // ROWS + 8 * len(observables)
    monkeypatch.setattr(cuda, "_STAGED_BYTES", rows * per_row)
    generator = np.random.default_rng(11)
    states = random_states(11, N_QUBITS, generator)
    inputs = generator.normal(size=(11, circuit.n_inputs))
    return circuit, parameters, states, observables, {"inputs": inputs, "backend": "cuda"}


def test_chunks_go_through_pinned_memory_on_two_lanes_in_turn(emulate, monkeypatch):
    emulator = emulate().device
    *given, run = staged(emulator, monkeypatch)
    whole = qdp.expectation(*given, **run | {"backend": "reference"})
    qdp.expectation(*given, **run)  # the structure is there
    emulator.log.clear()
    found = qdp.expectation(*given, **run)
    assert_close(found, whole, "double", max(one.weight for one in given[3]), 4000)
    steps = [entry for entry in emulator.log if entry[0] in ("upload", "launch", "download")]
    first, second = emulator.lanes
    # Each chunk is copied in, computed and copied out on one lane.
    chunks = []
    for what, lane, *_ in steps:
        if not chunks or (what == "upload" and chunks[-1][1][-1] == "download"):
            chunks.append((lane, []))
        assert lane == chunks[-1][0]
        chunks[-1][1].append(what)
    assert [lane for lane, _ in chunks] == [first, second, first, second]
    for _, order in chunks:
        assert order == sorted(order, key=["upload", "launch", "download"].index)
        assert set(order) == {"upload", "launch", "download"}
    # Two chunks are queued before the first is waited for; then one at a time, the older.
    waited = [
        (sum(entry[0] == "download" for entry in emulator.log[:place]), entry[1])
        for place, entry in enumerate(emulator.log)
        if entry[0] == "synchronize"
    ]
    # A chunk brings its values, and whether a row was refused.
    assert waited[2:4] == [(4, first), (6, second)]
    assert len(emulator.pinned) == 2


def test_chunks_give_the_bits_of_the_whole(emulate, monkeypatch):
    for shared_bytes in (LARGE, SMALL):
        emulator = emulate(shared_bytes).device
        with monkeypatch.context() as patched:
            *given, run = staged(emulator, patched)
            run |= {"wrt": ("parameters", "inputs", "states")}
            chunked = qdp.gradient(*given, **run)
            shifted = qdp.gradient(*given, **run | {"wrt": "inputs", "method": "parameter-shift"})
            probabilities = qdp.probabilities(*given[:3], inputs=run["inputs"], backend="cuda")
            assert emulator.pinned
        emulator.log.clear()
        whole = qdp.gradient(*given, **run)
        assert {entry[1] for entry in emulator.log if entry[0] == "launch"} == {emulator.lanes[0]}
        for one, other in zip(chunked, whole, strict=True):
            assert np.array_equal(one, other)
        again = qdp.gradient(*given, **run | {"wrt": "inputs", "method": "parameter-shift"})
        assert np.array_equal(shifted, again)
        again = qdp.probabilities(*given[:3], inputs=run["inputs"], backend="cuda")
        assert np.array_equal(probabilities, again)


def test_chunks_fit_the_free_memory(emulate):
    emulator = emulate(free=400_000).device
    circuit, parameters, _, _, observables = problem()
    generator = np.random.default_rng(12)
    states = random_states(60, N_QUBITS, generator)
    inputs = generator.normal(size=(60, circuit.n_inputs))
    most = 0
    allocate = emulator.allocate

    def counted(n_bytes, stream):
        nonlocal most
        found = allocate(n_bytes, stream)
        most = max(most, sum(one.nbytes for one in emulator.allocated.values()))
        return found

    emulator.allocate = counted
    found = qdp.expectation(circuit, parameters, states, observables, inputs=inputs, backend="cuda")
    expected = qdp.expectation(
        circuit, parameters, states, observables, inputs=inputs, backend="reference"
    )
    weight = max(one.weight for one in observables)
    assert_close(found, expected, "double", weight, 40 * len(circuit.operations))
    assert emulator.launches.count("run") > 2
    assert most < 400_000


@pytest.mark.parametrize(
    ("what", "at"),
    [
        *(("launch", at) for at in (1, 3, 8)),
        *(("upload", at) for at in (1, 5, 12)),
        *(("download", at) for at in (1, 3, 4)),
        *(("allocate", at) for at in (1, 6, 20)),
        *(("pin", at) for at in (1, 2)),
        ("order", 2),
    ],
)
def test_an_error_in_the_middle_gives_everything_back(emulate, monkeypatch, what, at):
    backend = emulate()
    emulator = backend.device
    *given, run = staged(emulator, monkeypatch)
    calls = 0
    real = getattr(emulator, what)

    def fail(*arguments):
        nonlocal calls
        calls += 1
        if calls == at:
            raise DeviceError(f"{what}: it was not to be")
        return real(*arguments)

    monkeypatch.setattr(emulator, what, fail)
    with pytest.raises(DeviceError, match="not to be"):
        qdp.expectation(*given, **run)
    gc.collect()
    assert_all_is_given_back(backend)
    # And the next call is none the worse.
    found = qdp.expectation(*given, **run)
    expected = qdp.expectation(*given, **run | {"backend": "reference"})
    assert_close(found, expected, "double", max(one.weight for one in given[3]), 4000)


def test_an_error_gives_everything_back_and_leaves_nothing_queued(emulated, monkeypatch):
    emulator = emulated.emulator
    given = on_gpu(emulated)
    launch, calls = emulator.launch, []

    def fail(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise DeviceError("cuLaunchKernel: it was not to be")
        launch(*arguments)

    monkeypatch.setattr(emulator, "launch", fail)
    with pytest.raises(DeviceError, match="not to be"):
        adjoint(emulated, given)
    assert ("synchronize", emulated.kind.stream) in emulator.log
    assert not emulator.is_busy(emulated.kind.stream)
    gc.collect()
    assert_all_is_given_back(emulated.backend)


# DLPack


@pytest.fixture
def result(emulate):
    """A function that gives a result that hands itself out, its numbers, and the emulated GPU."""
    emulator = emulate().device
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = np.linspace(0, 1, circuit.n_parameters)
    states = qdp.encode(np.random.default_rng(1).normal(size=(2, 8)), "amplitude")
    expected = qdp.state(circuit, theta, states, backend="reference")
    return lambda: (qdp.state(circuit, StreamProducer(theta), states), expected, emulator)


def held(emulator):
    """What the emulated GPU holds besides structure, once all queued is done."""
    emulator.synchronize_all()
    engine._named_backend("cuda:0").clear()
    emulator.synchronize_all()
    return len(emulator.allocated)


@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 0), (2, 0)])
def test_a_result_is_exported_as_it_lies(result, max_version):
    array, expected, emulator = result()
    assert array.__dlpack_device__() == (2, 0)
    consumed = consume(array.__dlpack__(stream=STREAM, max_version=max_version))
    assert consumed.major == (1 if max_version and max_version >= (1, 0) else 0)
    assert consumed.address == array.address
    assert consumed.device == (2, 0)
    assert (consumed.shape, consumed.dtype) == ((2, 8), np.complex128)
    assert consumed.strides in (None, [8, 1])
    emulator.synchronize(STREAM)
    assert_close(consumed.to_numpy(), expected, "double")
    # The consumer holds the memory, and gives it back once.
    del array
    assert held(emulator) == 1
    consumed.release()
    assert held(emulator) == 0


@pytest.mark.parametrize("max_version", [None, (1, 0)])
def test_a_capsule_that_nobody_takes_is_freed(result, max_version):
    array, _, emulator = result()
    capsule = array.__dlpack__(stream=-1, max_version=max_version)
    del array
    assert held(emulator) == 1
    del capsule
    assert held(emulator) == 0


def test_consumers_wait_for_the_stream_of_the_result(result):
    array, expected, emulator = result()

    def orders(stream):
        emulator.log.clear()
        capsule = array.__dlpack__(stream=stream, max_version=(1, 0))
        assert capsule
        assert emulator.count("synchronize") == 0
        return [entry[1:] for entry in emulator.log if entry[0] == "order"]

    assert orders(5) == [(5, STREAM)]
    assert orders(None) == [(1, STREAM)]
    assert orders(2) == [(2, STREAM)]
    assert orders(STREAM) == orders(-1) == []
    with pytest.raises(ValueError, match=r"stream: expected 1 \(legacy default\), 2, .* got 0"):
        array.__dlpack__(stream=0)
    consumed = consume(array.__dlpack__(stream=9, max_version=(1, 0)))
    emulator.synchronize(9)
    assert_close(consumed.to_numpy(), expected, "double")
    consumed.release()


def test_copies_are_made_where_the_protocol_asks_for_them(result):
    array, expected, emulator = result()
    own = consume(array.__dlpack__(stream=STREAM, max_version=(1, 0), copy=False))
    assert own.address == array.address
    own.release()
    copied = consume(array.__dlpack__(stream=STREAM, max_version=(1, 0), copy=True))
    assert copied.address != array.address
    assert emulator.count("copy") == 1
    emulator.synchronize(STREAM)
    assert_close(copied.to_numpy(), expected, "double")
    copied.release()
    same = consume(array.__dlpack__(stream=STREAM, dl_device=(2, 0)))
    assert same.address == array.address
    same.release()
    assert_close(np.from_dlpack(array, device="cpu"), expected, "double")
    with pytest.raises(BufferError, match=r"copy=None or True and stream=None for the CPU's"):
        array.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(BufferError, match=r"expected dl_device \(2, 0\), .* got \(2, 1\)"):
        array.__dlpack__(dl_device=(2, 1))


def test_memory_is_freed_behind_what_is_queued_for_it(emulate):
    emulator = emulate().device
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = StreamProducer(np.ones(circuit.n_parameters))
    state = qdp.state(circuit, theta)
    for what, make in (
        ("upload", lambda: qdp.sample(circuit, theta, shots=3)),
        ("copy", lambda: state.__dlpack__(stream=-1, copy=True)),
        ("launch", lambda: qdp.state(circuit, theta)),
    ):
        emulator.log.clear()
        made = make()
        queued = len(emulator.log)
        del made
        log = emulator.log
        last = max(place for place, entry in enumerate(log) if entry[:2] == (what, STREAM))
        waits = log.index(("order", emulator.keeper, STREAM), last)
        assert waits < queued < len(log)
        assert ("free", emulator.keeper) in log[queued:]


def test_a_result_tells_its_interface(result):
    array, expected, emulator = result()
    interface = array.__cuda_array_interface__
    assert interface == {
        "shape": (2, 8),
        "typestr": "<c16",
        "data": (array.address, False),
        "strides": None,
        "stream": STREAM,
        "version": 3,
    }
    assert (len(array), array.ndim, array.size, array.nbytes) == (2, 2, 16, 256)
    with pytest.raises(TypeError, match=r"in the CPU's memory, got one on cuda:0; pass its to_num"):
        np.asarray(array)
    assert_close(array.to_numpy(), expected, "double")
    assert emulator.count("download") == 1


def test_a_producers_capsule_is_deleted_once(emulate):
    emulator = emulate().device
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    given = Counting(np.ones(circuit.n_parameters))
    found = qdp.expectation(circuit, given, None, "Z0")
    assert (len(given.asked), given.deleted) == (1, 1)
    expected = qdp.expectation(
        circuit, np.ones((1, circuit.n_parameters)), None, "Z0", backend="reference"
    )
    assert_close(found.to_numpy(), expected, "double")
    wrong = Counting(np.ones(circuit.n_parameters, np.int64))
    with pytest.raises(TypeError, match=r"parameters: expected dtype float32, float64"):
        qdp.expectation(circuit, wrong, None, "Z0")
    assert (len(wrong.asked), wrong.deleted) == (1, 1)
    assert emulator.count("upload") > 0


# torch's autograd


@pytest.fixture
def tensors(emulate):
    """torch tensors on an emulated GPU that works at once, as torch's own operations follow."""
    backend = emulate(eager=True)
    return Gpu(Kind("torch", gpu_tensor, GpuTensor), backend, backend.device)


class OntoGpu(torch.autograd.Function):
    """A tensor of the processor as one of the emulated GPU; its gradient comes back."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.as_subclass(GpuTensor).clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.as_subclass(torch.Tensor).clone()


class FromGpu(torch.autograd.Function):
    """The other way, with a gradient that lies on the GPU."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.as_subclass(torch.Tensor).clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone(memory_format=torch.contiguous_format).as_subclass(GpuTensor)


def on_the_gpu(verb):
    """A function of tensors of the processor that runs on the emulated GPU."""

    def run(*tensors):
        return FromGpu.apply(verb(*map(OntoGpu.apply, tensors)))

    return run


def requiring(array):
    return torch.from_numpy(np.array(array)).requires_grad_()


def test_gradcheck(tensors):
    circuit = random_circuit(2, 3, n_gates=12)
    parameters, inputs = random_numbers(circuit, 2, 3)
    observables = random_observables(2, 3)[:2]
    features = np.random.default_rng(1).normal(size=(2, 3))

    def run(parameters, inputs, features):
        return qdp.expectation(circuit, parameters, features, observables, inputs=inputs,
                               encoding="amplitude")  # fmt: skip

    def outcomes(parameters, inputs):
        return qdp.probabilities(circuit, parameters, inputs=inputs, wires=[1])

    given = requiring(parameters), requiring(inputs), requiring(features)
    assert torch.autograd.gradcheck(on_the_gpu(run), given)
    assert torch.autograd.gradcheck(on_the_gpu(outcomes), given[:2])
    tensors.emulator.log.clear()
    on_the_gpu(run)(*given).square().sum().backward()
    assert tensors.emulator.count("download") == 0
    assert tensors.emulator.count("upload") == 0
    assert "pull_back" in tensors.emulator.launches


def test_training_stays_on_the_gpu(tensors):
    circuit = qdp.ansatz.ry_rz_ladder(2, 2)
    start = np.random.default_rng(3).normal(size=8)

    def energy(parameters):
        return qdp.expectation(circuit, parameters, None, "Z0 Z1 + 0.5 X0", precision="single")

    ours, twin = requiring(start.astype(np.float32)), requiring(start.astype(np.float32))
    for tensor, verb in ((twin, energy), (ours, on_the_gpu(energy))):
        optimiser = torch.optim.SGD([tensor], lr=0.2)
        for step in range(4):
            if step == 1:
                tensors.emulator.log.clear()
            optimiser.zero_grad()
            verb(tensor).sum().backward()
            optimiser.step()
    assert ours.grad.dtype == torch.float32
    assert tensors.emulator.count("launch") > 0
    assert tensors.emulator.count("upload") == tensors.emulator.count("download") == 0
    np.testing.assert_allclose(ours.detach().numpy(), twin.detach().numpy(), atol=1e-5)


def test_the_fidelity_kernel_is_differentiable(tensors):
    states = random_states(3, 1, np.random.default_rng(1))
    check = {"eps": 1e-7, "atol": 1e-5}
    kernel = on_the_gpu(qdp.fidelity_kernel)
    assert torch.autograd.gradcheck(kernel, (requiring(states),), **check)
    states[1] *= 2
    assert np.isnan(kernel(requiring(states)).detach().numpy()).sum() == 5


# What stands for a real GPU


@pytest.mark.parametrize(("name", "needs"), [("torch", "cuda"), ("jax", "jax")])
def test_a_gpu_that_is_required_is_not_skipped(monkeypatch, name, needs):
    if FAKE:
        pytest.skip("here the kinds of a real GPU are others")
    backend = types.SimpleNamespace(memory=types.SimpleNamespace(lanes=(5, 6)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(globals(), "jax_of_the_gpu", lambda: None)
    monkeypatch.setenv("QDP_REQUIRE", f"cpu,{needs}")
    with pytest.raises(pytest.fail.Exception, match=f"QDP_REQUIRE names {needs}, but .*{name}"):
        kind_real(name, backend)
    monkeypatch.setenv("QDP_REQUIRE", "cpu")
    with pytest.raises(pytest.skip.Exception, match=f"no arrays of {name}"):
        kind_real(name, backend)


def test_the_interface_of_a_real_gpu_is_one_that_is_read(monkeypatch):
    array = object.__new__(RealInterface)
    array.array = types.SimpleNamespace(__cuda_array_interface__={"version": 2, "shape": (3,)})
    for handle, stream in ((0, 1), (9, 9)):
        current = types.SimpleNamespace(cuda_stream=handle)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda current=current: current)
        expected = {"version": 3, "shape": (3,), "stream": stream}
        assert array.__cuda_array_interface__ == expected


# What is refused


def test_backend_auto_follows_the_arrays(emulate):
    emulator = emulate().device
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = np.ones(circuit.n_parameters)
    qdp.expectation(circuit, theta, None, "Z0")
    assert emulator.log == []
    qdp.expectation(circuit, gpu_tensor(theta), None, "Z0")
    assert emulator.launches
    far = gpu_tensor(theta).as_subclass(FarTensor)
    for backend in ("auto", "cuda"):
        with pytest.raises(AssertionError, match="cuda:1"):  # where torch is asked for memory
            qdp.state(circuit, far, backend=backend)
    assert engine._named_backend("cuda:1").device.ordinal == 1
    with pytest.raises(
        ValueError, match=r"expected arrays on cuda:0, its GPU, .* backend='cuda:1'"
    ):
        qdp.expectation(circuit, far, None, "Z0", backend="cuda:0")
    for backend in ("cpu", "reference"):
        with pytest.raises(TypeError, match=rf"backend '{backend}': expected arrays in the CPU's"):
            qdp.expectation(circuit, gpu_tensor(theta), None, "Z0", backend=backend)
    engine._named_backend("cuda:1").clear()


def test_arrays_of_two_places_are_refused(emulate):
    emulate()
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta, states = np.ones(circuit.n_parameters), np.eye(8)[:2]

    def run(parameters, states, match, error=TypeError):
        with pytest.raises(error, match=match):
            qdp.expectation(circuit, parameters, states, "Z0")

    far = gpu_tensor(theta).as_subclass(FarTensor)
    run(far, gpu_tensor(states), r"states on cuda:0 and parameters on cuda:1; move", ValueError)
    run(torch.ones(6), gpu_tensor(states), r"parameters in the CPU's memory; move parameters to")
    run(Producer(theta), gpu_tensor(states), r"torch in states and qdp in parameters; convert")
    with pytest.raises(TypeError, match=r"cotangents in the CPU's memory"):
        qdp.vjp(circuit, gpu_tensor(theta), None, "Z0", torch.ones(1))
    scalar = torch.ones((), dtype=torch.float64).as_subclass(GpuTensor)
    with pytest.raises(ValueError, match=r"cotangents: expected shape \(2,\).*got shape \(\)"):
        qdp.vjp(circuit, gpu_tensor(theta), gpu_tensor(states), "Z0", scalar)


def test_layouts_and_dtypes_that_cannot_be_read_in_place_are_refused(emulate):
    emulate()
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta, states = gpu_tensor(np.ones(circuit.n_parameters)), np.eye(8)

    def run(parameters, states, match, error=TypeError, **options):
        with pytest.raises(error, match=match):
            qdp.expectation(circuit, parameters, states, "Z0", **options)

    run(theta, gpu_tensor(states).T, r"states: expected a C-contiguous array on cuda:0.*\.contig",
        ValueError)  # fmt: skip
    run(theta, gpu_tensor(states)[:, ::2], r"states: expected a C-contiguous", ValueError)
    run(theta, gpu_tensor(states).half(), r"states: expected dtype float32, .* got torch.float16")
    run(theta.long(), None, r"parameters: expected dtype float32, float64 on cuda:0, got int64")
    run(theta, (gpu_tensor(states) + 0j).conj(), r"pass tensor\.resolve_conj\(\)", ValueError)
    sparse = gpu_tensor(states).as_subclass(SparseTensor)
    run(theta, sparse, r"expected a dense tensor.*\.to_dense\(\)")
    run(theta[:5], None, r"parameters: expected P = 6 of them, .* got shape \(5,\)", ValueError)
    run(theta, gpu_tensor(states)[:, :4], r"expected a C-contiguous array", ValueError)
    run(
        theta, gpu_tensor(states[:, :4].copy()), r"expected states of shape \(rows, 8\)", ValueError
    )
    run(theta, gpu_tensor(states[0, :3].copy()), r"iqp encoding: expected exactly 6 features",
        ValueError, encoding="iqp")  # fmt: skip
    run(theta, gpu_tensor(states), r"angle encoding: expected at most 3 features", ValueError,
        inputs=None, encoding="angle")  # fmt: skip
    run(theta, gpu_tensor(np.eye(3, dtype=np.int64)), r"basis encoding: expected indices \(rows,\)",
        ValueError, encoding="basis")  # fmt: skip
    transposed = Producer(np.ones((8, 8)).T[:, :6])
    with pytest.raises(
        ValueError, match=r"inputs: expected a C-contiguous array.*strides \(1, 8\)"
    ):
        qdp.expectation(
            Circuit(1, [qdp.gates.RX(qdp.feature(5), 0)]), None, None, "Z0", inputs=transposed
        )

    class Broken(Producer):
        def __dlpack__(self, **options):
            raise BufferError("it is elsewhere")

    with pytest.raises(TypeError, match=r"parameters: Broken on cuda:0 could not be read.*elsewh"):
        qdp.expectation(circuit, Broken(np.ones(6)), None, "Z0")
    one_row = Producer(np.lib.stride_tricks.as_strided(np.ones((1, 6)), strides=(8, 8)))
    assert qdp.expectation(circuit, one_row, None, "Z0").shape == (1,)
