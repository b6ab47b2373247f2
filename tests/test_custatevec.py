# SPDX-License-Identifier: Apache-2.0
"""The cuStateVec backend: its calls, emulated in NumPy over the emulated GPU of test_cuda.py, agree
with the reference; and a machine without the library, or with an old one, is told so.
"""

import contextlib
import ctypes
import gc
import importlib.util
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_cuda
from conftest import BACKENDS
from custatevec_emulation import INSUFFICIENT_WORKSPACE, EmulatedLibrary
from samples import random_circuit, random_numbers, random_observables, random_states
from samples import sample_operation as sample
from test_cuda import ALL, LARGE, REFERENCE, depth_of, problem, slope_of
from tolerance import assert_close

pytest.importorskip("cuda.core", reason="the CUDA backend's device, which holds the memory")
import test_device_arrays
from emulator import Emulator, assert_all_is_given_back
from test_device_arrays import emulate

import qdp
from qdp import engine, gates
from qdp.ansatz import ry_rz_ladder
from qdp.backends import custatevec_library
from qdp.backends.base import Batch
from qdp.backends.custatevec import CuStateVecBackend
from qdp.backends.custatevec_library import CuStateVec, Matrices, States
from qdp.circuit import Circuit, Observable
from qdp.errors import BackendUnavailable, DeviceError

__all__ = ["emulate"]  # a fixture
STREAM = 7000


@pytest.fixture
def machine(libraries):
    """An emulated GPU and library, which must be left as they should be."""
    device = Emulator(libraries, LARGE)
    library = EmulatedLibrary(device)
    yield library
    assert not library.broken, library.broken[0]
    device.synchronize_all()
    assert not device.allocated, "memory was not given back"
    assert not library.streams, "a handle was not destroyed"


@pytest.fixture
def emulated(machine):
    backend = CuStateVecBackend(machine.device, machine)
    yield backend
    assert_all_is_given_back(backend)
    backend.library.close()


# The emulation gives what NVIDIA's samples give


EXAMPLE = np.array(
    [0, 0.1j, 0.1 + 0.1j, 0.1 + 0.2j, 0.2 + 0.2j, 0.3 + 0.3j, 0.3 + 0.4j, 0.4 + 0.5j]
)


class Bare:
    """Device memory with two copies of the example, and the calls over it."""

    def __init__(self, machine, second=EXAMPLE):
        self.device = machine.device
        self.addresses = []
        self.states = States(self.put(np.array([EXAMPLE, second])), 2, 3, 8, "double")
        self.calls = CuStateVec(machine)
        self.calls.set_stream(STREAM)

    def put(self, array):
        address, kept = self.device.allocate(array.nbytes, STREAM)
        self.addresses.append(kept)
        self.device.upload(address, np.ascontiguousarray(array), STREAM)
        return address

    def get(self, address, array):
        self.device.download(array, address, STREAM)
        self.device.synchronize(STREAM)
        return array

    def close(self):
        self.calls.close()
        for kept in self.addresses:
            self.device.free(kept, STREAM)


def test_sample_batched_gate_application(machine):
    # NVIDIA/cuQuantum, samples/custatevec/batched_gate_application.cu: Z and X.
    bare = Bare(machine)
    matrices = Matrices(
        bare.put(np.array([[[0, 1], [1, 0]], [[1, 0], [0, -1]]], complex)),
        2,
        bare.put(np.array([1, 0], np.int32)),
    )
    bare.calls.apply_matrix(
        bare.states, matrices, [2], lambda n_bytes: 0, controls=[0, 1], control_values=[1, 1]
    )
    expected = np.array([EXAMPLE, EXAMPLE])
    expected[0, 7] *= -1
    expected[1, [3, 7]] = expected[1, [7, 3]]
    assert np.array_equal(bare.get(bare.states.address, np.empty((2, 8), complex)), expected)
    bare.close()


def test_sample_batched_expectation(machine):
    # NVIDIA/cuQuantum, samples/custatevec/batched_expectation.cu: X and Y on bit 2.
    second = EXAMPLE.copy()
    second[7] = 0.5 + 0.4j
    bare = Bare(machine, second)
    matrices = Matrices(bare.put(np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])), 2)
    values = bare.put(np.zeros(4, complex))
    bare.calls.expectations(bare.states, matrices, [2], values, lambda n_bytes: 0)
    found = bare.get(values, np.empty(4, complex))
    assert_close(found, np.array([0.48, -0.10, 0.46, -0.16], complex), "double")
    bare.close()


def test_sample_batched_abs2sum(machine):
    # NVIDIA/cuQuantum, samples/custatevec/batched_abs2sum.cu: the sums of bit 1.
    bare = Bare(machine, np.full(8, 0.25 + 0.25j))
    sums = bare.put(np.zeros(4))
    bare.calls.probabilities(bare.states, [1], sums)
    assert_close(bare.get(sums, np.empty(4)), np.array([0.27, 0.73, 0.5, 0.5]), "double")
    bare.close()


def test_sample_diagonal_matrix(machine):
    # The first target is the least significant bit of the diagonal; D A is not its adjoint.
    bare = Bare(machine)
    diagonal = bare.put(np.array([1j, 1, 1, -1]))
    state = replace(bare.states, count=1)
    bare.calls.apply_diagonal(state, diagonal, [2, 0], lambda n_bytes: 0)
    # Bits 0 and 2 of the index: (bit 2, bit 0) = entry bit 0, bit 1.
    expected = EXAMPLE * np.array([1j, 1, 1j, 1, 1, -1, 1, -1])
    assert_close(bare.get(bare.states.address, np.empty(8, complex)), expected, "double")
    bare.calls.apply_diagonal(state, diagonal, [2, 0], lambda n_bytes: 0, adjoint=True)
    assert_close(bare.get(bare.states.address, np.empty(8, complex)), EXAMPLE, "double")
    bare.close()


def test_the_emulation_notices_broken_promises(machine):
    bare = Bare(machine)
    one = Matrices(bare.put(np.eye(2, dtype=complex)))
    eight = Matrices(bare.put(np.eye(8, dtype=complex)))
    indexed = replace(one, indices=bare.put(np.array([0, 1], np.int32)))

    def apply(states=bare.states, matrices=one, targets=(0,), workspace=lambda n: 0, **options):
        return lambda: bare.calls.apply_matrix(states, matrices, targets, workspace, **options)

    broken = {
        "not the device's": apply(replace(bare.states, address=bare.states.address + 64)),
        "bits overlap": apply(controls=[0], control_values=[1]),
        "bit < n_bits": apply(targets=[3]),
        "states 128 bytes apart": apply(replace(bare.states, n_bits=2, stride=4)),
        "bytes at None": apply(matrices=eight, targets=[0, 1, 2]),
    }
    for text, call in broken.items():
        with pytest.raises(DeviceError, match="custatevecApplyMatrixBatched:") as caught:
            call()
        assert text in str(caught.value), text
    apply(matrices=indexed)()
    with pytest.raises(AssertionError, match="an index of no matrix"):
        bare.device.synchronize(STREAM)
    bare.calls.set_stream(0)
    with pytest.raises(DeviceError, match="the stream was not set"):
        apply()()
    assert len(machine.broken) == len(broken) + 1
    machine.broken.clear()
    bare.close()
    with pytest.raises(DeviceError, match="destroyed before"):
        apply()()
    machine.broken.clear()


SCALARS = {
    "uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32, "size_t": ctypes.c_size_t,
    "custatevecIndex_t": ctypes.c_int64, "custatevecHandle_t": ctypes.c_void_p,
    "cudaStream_t": ctypes.c_void_p,
}  # fmt: skip


def test_signatures_are_those_of_the_header():
    package = importlib.util.find_spec("cuquantum")
    folders = [] if package is None else package.submodule_search_locations or []
    headers = [Path(folder) / "include" / "custatevec.h" for folder in folders]
    if not any(header.exists() for header in headers):
        pytest.skip("custatevec.h comes with the wheel of cuStateVec")
    text = next(header for header in headers if header.exists()).read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    for name, (_, arguments) in custatevec_library.SIGNATURES.items():
        found = re.search(rf"\b{name}\s*\(([^)]*)\)", text)[1].split(",")
        declared = [re.sub(r"\bconst\b", "", one).split() for one in found if one.strip()]
        assert len(declared) == len(arguments), name
        for (kind, *_), given in zip(declared, arguments, strict=True):
            base = kind.rstrip("*")
            expected = SCALARS.get(base, ctypes.c_int)
            pointers = (ctypes.c_void_p, ctypes.POINTER(expected))
            assert given in (pointers if "*" in kind else (expected,)), (name, kind)


# The backend agrees with the reference


@pytest.mark.parametrize("given", test_cuda.PROBLEMS, ids=lambda given: "-".join(map(str, given)))
def test_circuits_agree_with_the_reference(emulated, precision, given):
    test_cuda.test_emulated_kernels_agree_with_the_reference(emulated, precision, given)


@pytest.mark.parametrize("per_row", [False, True])
def test_shifts_agree_with_the_reference(emulated, precision, per_row):
    test_cuda.test_emulated_shifts_agree_with_the_reference(emulated, precision, per_row)


def test_the_verbs_take_the_backend(emulated):
    test_cuda.test_the_verbs_take_the_backend(emulated)


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "phase", "iqp", "basis"])
def test_encoders(emulated, precision, encoding):
    test_cuda.test_encoders(emulated, precision, encoding)


@pytest.mark.parametrize("name", gates.TABLE)
def test_each_gate_agrees_with_the_reference(emulated, name):
    constant = sample(name, 5, 5)
    angles = [gates.parameter(k) * 1.5 - 0.25 for k in range(len(constant.angles))]
    operation = replace(constant, angles=tuple(angles))
    n_qubits = max(2, len(operation.wires))
    circuit = Circuit(n_qubits, [operation, *random_circuit(n_qubits, 3, 4).operations])
    parameters, inputs = random_numbers(circuit, 3, 1, per_row=True)
    states = random_states(3, n_qubits, np.random.default_rng(4))
    batch = Batch(3, parameters, inputs, states=states)
    observables = random_observables(n_qubits, 6)
    assert_close(emulated.state(circuit, batch), REFERENCE.state(circuit, batch), "double")
    expected = REFERENCE.adjoint(circuit, batch, observables, ALL)
    found = emulated.adjoint(circuit, batch, observables, ALL)
    weight = max(observable.weight for observable in observables)
    assert_close(found.values, expected.values, "double", weight)
    size = weight * slope_of(circuit)
    assert_close(found.parameters, expected.parameters, "double", size)
    assert_close(found.inputs, expected.inputs, "double", size)
    assert_close(found.states, expected.states, "double", 2 * weight)


LONG = {
    "word": "Z0 Y1 X2 Z3 Y4 + 0.5 X0 X1 Y2 Z4",
    "projector": Observable.projector("01101", [3, 0, 4, 1, 2]),
    "matrix": Observable.hermitian(np.diag(np.arange(16.0)) + np.eye(16)[::-1], [4, 0, 2, 1]),
    "identity": Observable("2.0 I + 0.5 Z1"),
}


@pytest.mark.parametrize("name", LONG)
def test_observables_on_many_wires(emulated, precision, name):
    observable = Observable(LONG[name]) if isinstance(LONG[name], str) else LONG[name]
    circuit = random_circuit(5, 9, 20)
    parameters, inputs = random_numbers(circuit, 3, 1)
    batch = Batch(3, parameters, inputs, states=random_states(3, 5, np.random.default_rng(0)))
    observables = [observable, Observable("Z0")]
    cotangents = np.array([[1.0, -2.0], [0.0, 0.5], [3.0, 0.0]])
    single = replace(batch, precision=precision)
    depth, size = depth_of(circuit), observable.weight * slope_of(circuit)
    for weights, factor in ((None, 1), (cotangents, 4)):
        expected = REFERENCE.adjoint(circuit, batch, observables, ALL, weights)
        found = emulated.adjoint(circuit, single, observables, ALL, weights)
        assert_close(found.values, expected.values, precision, observable.weight, depth)
        assert_close(found.parameters, expected.parameters, precision, factor * size, depth)
        assert_close(found.states, expected.states, precision, 2 * factor * size, depth)


def test_derivatives_are_those_that_are_asked_for(emulated):
    circuit, batch, observables = problem("uploading", 3, "complex128", False)
    for wanted in ("parameters", "inputs", "states"):
        found = emulated.adjoint(circuit, batch, observables, frozenset({wanted}))
        expected = REFERENCE.adjoint(circuit, batch, observables, frozenset({wanted}))
        for name in ("parameters", "inputs", "states"):
            given = getattr(found, name)
            assert (given is None) == (name != wanted)
            if given is not None:
                weight = 2 * max(observable.weight for observable in observables)
                assert_close(given, getattr(expected, name), "double", weight * slope_of(circuit))


# Arrays of a GPU


def for_cuda(backend, patch):
    """Give whoever asks for "cuda" another backend."""
    named = engine._named_backend
    patch.setattr(engine, "_named_backend", lambda name: backend if "cuda" in name else named(name))


@pytest.fixture(
    params=["torch", "dlpack", *(test_device_arrays.REAL if "custatevec" in BACKENDS else [])]
)
def gpu(request):
    """A GPU on which whoever asks for "cuda" gets cuStateVec: an emulated one, or a real one."""
    kind = request.param.removeprefix("cuda-")
    if kind != request.param:
        backend = engine._named_backend("custatevec")
        with pytest.MonkeyPatch.context() as patch:
            for_cuda(backend, patch)
            yield test_device_arrays.Gpu(test_device_arrays.kind_real(kind, backend), backend)
        return
    device = request.getfixturevalue("emulate")().device
    library = EmulatedLibrary(device)
    backend = CuStateVecBackend(device, library)
    with pytest.MonkeyPatch.context() as patch:
        for_cuda(backend, patch)
        kinds = test_device_arrays.kinds_emulated(sys.modules["cupy"])
        yield test_device_arrays.Gpu(kinds[kind], backend, device)
    assert not library.broken, library.broken[0]
    assert "custatevecApplyMatrixBatched" in library.calls
    backend.clear()
    backend.library.close()


@pytest.mark.parametrize("per_row", [False, True])
def test_verbs_take_arrays_of_a_gpu(gpu, per_row):
    test_device_arrays.test_verbs_give_the_numbers_of_numpy_arrays(gpu, per_row)


@pytest.mark.parametrize("rows_axis", [True, False])
@pytest.mark.parametrize(
    ("encoding", "columns"), test_device_arrays.ENCODINGS, ids=lambda value: str(value)[:20]
)
def test_features_on_a_gpu(gpu, encoding, columns, rows_axis):
    test_device_arrays.check_features(gpu, encoding, columns, rows_axis)


@pytest.mark.parametrize("shared", ["nothing", "parameters", "states", "all"])
def test_vjp_of_arrays_of_a_gpu(gpu, shared):
    test_device_arrays.test_vjp_sums_what_rows_share(gpu, shared)


def test_rows_of_a_gpu_that_cannot_be_used_become_nan(gpu):
    test_device_arrays.test_rows_that_cannot_be_used_become_nan(gpu)


@pytest.mark.parametrize("n_qubits", [1, 2, 4])
def test_indices_beyond_the_last_state_become_nan(gpu, n_qubits):
    # In the library's batch states have more bits: to lie apart, and for lambda beside psi.
    circuit = ry_rz_ladder(n_qubits, 1)
    theta = np.linspace(0.3, 1.7, circuit.n_parameters)
    rows = np.array([0, 2**n_qubits, 2**n_qubits - 1, 2 ** (n_qubits + 1), -1])
    good = [0, 2]
    given = {"observable": "Z0", "encoding": "basis"}
    for verb in (qdp.expectation, qdp.gradient):
        found = gpu.read(verb(circuit, gpu.wrap(theta), gpu.wrap(rows), **given))
        expected = verb(circuit, theta, rows[good], backend="reference", **given)
        assert_close(found[good], expected, "double")
        assert np.isnan(found).reshape(5, -1).any(axis=1).tolist() == [
            False, True, False, True, True,
        ]  # fmt: skip


def test_small_states_on_a_gpu(gpu):
    # One qubit: states lie apart in the library's batch, and together in the result.
    circuit = Circuit(1, [gates.RY(gates.parameter(0), 0), gates.GlobalPhase(gates.parameter(0))])
    theta = np.array([[0.3], [-1.1], [2.0]])
    found = gpu.read(qdp.state(circuit, gpu.wrap(theta)))
    assert_close(found, qdp.state(circuit, theta, backend="reference"), "double")


# How it runs


def test_a_gate_is_one_call_for_all_rows(emulated, machine):
    circuit, batch, _ = problem("ladder", 6, "float64", False, rows=5)
    machine.calls.clear()
    emulated.expectation(circuit, batch, [Observable("Z0")])
    # RY and RZ on six qubits and five CNOT, twice; <Z0>.
    assert machine.calls.count("custatevecApplyMatrixBatched") == 2 * (12 + 5)
    assert machine.calls.count("custatevecComputeExpectationBatched") == 1
    machine.calls.clear()
    emulated.adjoint(circuit, batch, [Observable("Z0")], frozenset({"parameters"}))
    # There and back, lambda = Z0 psi; a sum for each parameter.
    assert machine.calls.count("custatevecApplyMatrixBatched") == 2 * 2 * (12 + 5) + 1
    assert machine.calls.count("custatevecComputeExpectationBatched") == 1 + 24
    machine.calls.clear()
    shifts = [((0, 0, sign * np.pi / 2),) for sign in (1, -1)]
    emulated.shifted_expectation(circuit, batch, [Observable("Z0")], shifts)
    assert machine.calls.count("custatevecApplyMatrixBatched") == 2 * (12 + 5)


def test_diagonals_are_applied_to_runs_of_rows(emulated, machine):
    circuit = Circuit(7, [gates.DiagonalQubitUnitary(np.exp(1j * np.arange(128)), range(7))])
    batch = Batch(11, np.zeros(0), states=random_states(11, 7, np.random.default_rng(1)))
    machine.calls.clear()
    assert_close(emulated.state(circuit, batch), REFERENCE.state(circuit, batch), "double")
    # 11 = 8 + 2 + 1.
    assert machine.calls.count("custatevecApplyGeneralizedPermutationMatrix") == 3


def test_chunks_give_the_same_bits(emulated, machine):
    circuit, batch, observables = problem("uploading", 5, "features", True, rows=7)
    shifts = [(), ((0, 0, 1.5),), ((1, 0, -1.5),)]
    whole = emulated.adjoint(circuit, batch, observables, ALL)
    shifted = emulated.shifted_expectation(circuit, batch, observables, shifts)
    machine.device._free = 150_000
    machine.device.log.clear()
    chunked = emulated.adjoint(circuit, batch, observables, ALL)
    assert machine.device.launches.count("load") > 1
    for name in ("values", "parameters", "inputs", "states"):
        assert np.array_equal(getattr(chunked, name), getattr(whole, name))
    again = emulated.shifted_expectation(circuit, batch, observables, shifts)
    assert np.array_equal(again, shifted)


def test_what_cannot_fit_is_refused(emulated, machine):
    circuit, batch, observables = problem("ladder", 5, "zero", False)
    machine.device._free = 1000
    with pytest.raises(MemoryError, match=r"a row of 5 qubits.*half of the GPU's free.*remedy"):
        emulated.expectation(circuit, batch, observables)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (2, MemoryError, r"custatevecApplyMatrixBatched: .*status 2.*pass fewer rows"),
        (5, DeviceError, r"MatrixBatched: it was not to be \(status 5\); .*LOG_LEVEL"),
        (INSUFFICIENT_WORKSPACE, DeviceError, r"status 8"),
    ],
)
def test_a_failing_call_is_named_and_memory_given_back(emulated, machine, status, error, message):
    circuit, batch, observables = problem("ladder", 5, "zero", False)
    machine.fail = ("custatevecApplyMatrixBatched", status)
    with pytest.raises(error, match=message):
        emulated.expectation(circuit, batch, observables)
    assert_all_is_given_back(emulated)
    machine.fail = (None, 0)
    expected = REFERENCE.expectation(circuit, batch, observables)
    weight = max(observable.weight for observable in observables)
    assert_close(emulated.expectation(circuit, batch, observables), expected, "double", weight)


def test_threads_take_turns(emulated):
    circuit, batch, observables = problem("uploading", 5, "float64", True)
    expected = emulated.adjoint(circuit, batch, observables, ALL)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(emulated.adjoint, circuit, batch, observables, ALL) for _ in range(8)]
    for task in tasks:
        assert np.array_equal(task.result().parameters, expected.parameters)
        assert np.array_equal(task.result().states, expected.states)


def test_the_handle_goes_with_the_backend(machine):
    backend = CuStateVecBackend(machine.device, machine)
    assert list(machine.streams) == [backend.library._handle]
    del backend
    gc.collect()
    assert not machine.streams


def test_the_handle_lives_and_dies_in_the_devices_context(machine, monkeypatch):
    inside, seen = [], []

    @contextlib.contextmanager
    def current():
        inside.append(True)
        yield
        inside.pop()

    def recorded(name):
        real = getattr(machine, name)

        def call(*arguments):
            seen.append((name, bool(inside)))
            return real(*arguments)

        return call

    monkeypatch.setattr(machine.device, "current", current)
    for name in ("custatevecCreate", "custatevecDestroy"):
        setattr(machine, name, recorded(name))
    backend = CuStateVecBackend(machine.device, machine)
    del backend
    gc.collect()
    assert seen == [("custatevecCreate", True), ("custatevecDestroy", True)]


# Machines that lack something


def test_a_gpu_that_the_library_refuses_is_named(machine):
    machine.fail = ("custatevecCreate", 4)
    with pytest.raises(BackendUnavailable, match=r"needs a GPU that cuStateVec can use.*'cuda'"):
        CuStateVecBackend(machine.device, machine)


def test_an_old_library_is_named(machine):
    machine.version = 10603
    with pytest.raises(BackendUnavailable, match=r"cuStateVec 1\.8 or newer, got 1\.6\.3; update"):
        custatevec_library.declare(machine)
    del machine.custatevecComputeExpectationBatched
    with pytest.raises(BackendUnavailable, match=r"got one without .*ExpectationBatched.*; update"):
        custatevec_library.declare(machine)


def test_a_missing_library_is_named(monkeypatch):
    def absent(path):
        raise OSError(f"{path}: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setattr(ctypes, "CDLL", absent)
    message = r"needs NVIDIA's libcustatevec\.so\.1.*cannot open.*pip install custatevec-cu13"
    with pytest.raises(BackendUnavailable, match=message):
        qdp.expectation(ry_rz_ladder(2, 1), np.zeros(4), None, "Z0", backend="custatevec:1")


def test_a_library_in_a_package_is_found(monkeypatch, tmp_path):
    path = tmp_path / "cuquantum" / "lib" / custatevec_library.LIBRARY
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    tried = []

    def load(path):
        tried.append(path)
        raise OSError(f"{path}: file too short")

    monkeypatch.setattr(ctypes, "CDLL", load)
    pathfinder = SimpleNamespace(load_nvidia_dynamic_lib=tried.append)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=pathfinder))
    with pytest.raises(BackendUnavailable, match=r"file too short; .*file too short"):
        custatevec_library.load_library()
    assert tried == ["cublasLt", "cublas", custatevec_library.LIBRARY, str(path)]


def test_a_machine_without_a_gpu_is_told_so(monkeypatch, machine):
    def unavailable(ordinal):
        raise BackendUnavailable("backend 'cuda' needs a GPU that works; pass backend='cpu'")

    monkeypatch.setattr("qdp.backends.custatevec.CudaDevice", unavailable)
    with pytest.raises(BackendUnavailable, match=r"backend 'custatevec': .*needs a GPU that works"):
        CuStateVecBackend(1, machine)
