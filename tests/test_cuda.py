# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: its kernels compile for GPUs, run on the processor as plain C++, and agree with
the reference; and a machine without a GPU is told so.

``Emulator`` is a device of host memory whose kernels g++ compiled from the same file. Its shared
memory is set small to send few qubits through tiles in device memory.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import random_circuit, random_numbers, random_observables, random_states
from tolerance import assert_close

pytest.importorskip("cuda.core", reason="GPU arrays are handed out by cuda.core")
from emulator import Emulator, assert_all_is_given_back

import qdp
from qdp import device_arrays, encodings, gates
from qdp.ansatz import data_reuploading, ry_rz_ladder
from qdp.backends import device
from qdp.backends.base import Batch
from qdp.backends.cuda import CudaBackend
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit
from qdp.errors import BackendUnavailable, DeviceError
from qdp.program import compile_program

REFERENCE = ReferenceBackend()
ALL = frozenset({"parameters", "inputs", "states"})
REQUIRED = os.environ.get("QDP_REQUIRE", "").split(",")
# Room for the sums that wait, and so many amplitudes of 16 bytes.
LARGE = 200 * 2**10
SMALL = 2048 + (16 << 4)


@pytest.fixture(params=["whole", "whole-backwards", "tiles", "tiles-backwards"])
def emulated(request, libraries):
    kind, _, order = request.param.partition("-")
    emulator = Emulator(libraries, LARGE if kind == "whole" else SMALL, order == "backwards")
    backend = CudaBackend(emulator)
    yield backend
    assert_all_is_given_back(backend)


def depth_of(circuit):
    return len(compile_program(circuit, (), True).rotations)


def slope_of(circuit):
    totals = {}
    for operation in circuit.operations:
        for angle in operation.angles:
            key = (angle.kind, angle.index)
            totals[key] = totals.get(key, 0.0) + abs(angle.scale)
    return max(totals.values(), default=1.0)


CIRCUITS = {
    "table": lambda n: random_circuit(n, 7 * n),
    "ladder": lambda n: ry_rz_ladder(n, 2),
    "uploading": lambda n: data_reuploading(n, 2),
    "empty": lambda n: Circuit(n),
    "large gates": lambda n: Circuit(
        n,
        [
            *(gates.RX(gates.parameter(q), q) for q in range(n)),
            gates.MultiControlledX(list(range(n)), [q % 2 for q in range(n - 1)]),
            gates.DiagonalQubitUnitary(np.exp(1j * np.arange(2**n)), list(range(n))),
            *(gates.RY(gates.feature(q), q) for q in range(n)),
        ],
    ),
}
STARTS = ["zero", "indices", "float32", "float64", "complex64", "complex128", "features"]


def problem(name, n_qubits, start, per_row, rows=3):
    circuit = CIRCUITS[name](n_qubits)
    parameters, inputs = random_numbers(circuit, rows, n_qubits, per_row)
    rng = np.random.default_rng([n_qubits, STARTS.index(start)])
    options = {}
    if start == "indices":
        options["indices"] = rng.integers(0, 2**n_qubits, rows)
    elif start == "features":
        options |= {"states": rng.normal(size=(rows, 2**n_qubits - 1)) * 1e3, "normalize": True}
    elif start != "zero":
        states = random_states(rows, n_qubits, rng)
        if start.startswith("float"):
            states = states.real / np.linalg.norm(states.real, axis=1, keepdims=True)
        options["states"] = states.astype(start)
    return circuit, Batch(rows, parameters, inputs, **options), random_observables(n_qubits, 3)


# In tiles of four qubits (three with a gradient, four in single precision) of the small device.
PROBLEMS = [
    ("table", 1, "zero", False),
    ("table", 2, "complex64", True),
    ("table", 5, "features", True),
    ("table", 6, "complex128", False),
    ("ladder", 6, "float32", False),
    ("ladder", 5, "float64", True),
    ("uploading", 6, "indices", False),
    ("empty", 5, "features", False),
    ("large gates", 6, "complex128", False),
]


def skip_too_small(backend, n_qubits):
    if backend.device.shared_bytes == SMALL and n_qubits < 5:
        pytest.skip("fits into a tile of the small device: the large one runs it")


@pytest.mark.parametrize("given", PROBLEMS, ids=lambda given: "-".join(map(str, given)))
def test_emulated_kernels_agree_with_the_reference(emulated, precision, given):
    skip_too_small(emulated, given[1])
    circuit, batch, observables = problem(*given)
    expected = REFERENCE.adjoint(circuit, batch, observables, ALL)
    states = REFERENCE.state(circuit, batch)
    batch = replace(batch, precision=precision)
    depth = depth_of(circuit)
    weight = max(observable.weight for observable in observables)

    assert_close(emulated.state(circuit, batch), states, precision, 1, depth)
    for wires in (range(circuit.n_qubits), [circuit.n_qubits - 1, 0][: circuit.n_qubits], []):
        wanted = REFERENCE.probabilities(circuit, replace(batch, precision="double"), wires)
        assert_close(emulated.probabilities(circuit, batch, wires), wanted, precision, 1, depth)
    values = emulated.expectation(circuit, batch, observables)
    assert_close(values, expected.values, precision, weight, depth)

    found = emulated.adjoint(circuit, batch, observables, ALL)
    assert_close(found.values, expected.values, precision, weight, depth)
    size = weight * slope_of(circuit)
    assert_close(found.parameters, expected.parameters, precision, size, depth)
    assert_close(found.inputs, expected.inputs, precision, size, depth)
    assert_close(found.states, expected.states, precision, 2 * weight, depth)

    cotangents = np.random.default_rng(1).normal(size=values.shape)
    expected = REFERENCE.adjoint(
        circuit, replace(batch, precision="double"), observables, ALL, cotangents
    )
    found = emulated.adjoint(circuit, batch, observables, ALL, cotangents)
    size *= np.abs(cotangents).sum(axis=1).max()
    assert_close(found.values, expected.values, precision, weight, depth)
    assert_close(found.parameters, expected.parameters, precision, size, depth)
    assert_close(found.inputs, expected.inputs, precision, size, depth)
    assert_close(found.states, expected.states, precision, 2 * size, depth)


@pytest.mark.parametrize("per_row", [False, True])
def test_emulated_shifts_agree_with_the_reference(emulated, precision, per_row):
    circuit, batch, observables = problem("uploading", 5, "float64", per_row)
    shifts = [(), ((0, 0, 1.5),), ((2, 0, 0.3), (2, 0, -1.1)), ((1, 0, 0.1), (3, 0, 0.2))]
    expected = REFERENCE.shifted_expectation(circuit, batch, observables, shifts)
    batch = replace(batch, precision=precision)
    found = emulated.shifted_expectation(circuit, batch, observables, shifts)
    weight = max(observable.weight for observable in observables)
    assert_close(found, expected, precision, weight, depth_of(circuit))


def test_the_verbs_take_the_backend(emulated):
    circuit = ry_rz_ladder(5, 2)
    rng = np.random.default_rng(0)
    theta, rows = rng.normal(size=circuit.n_parameters), rng.normal(size=(4, 30))
    run = {"observable": ["Z0", "X1 X2"], "encoding": "amplitude"}
    for method in ("adjoint", "parameter-shift"):
        found = qdp.gradient(circuit, theta, rows, **run, method=method, backend=emulated)
        assert_close(
            found, qdp.gradient(circuit, theta, rows, **run, backend="reference"), "double"
        )
    bits = qdp.sample(circuit, theta, shots=20, seed=3, backend=emulated)
    assert np.array_equal(bits, qdp.sample(circuit, theta, shots=20, seed=3, backend="reference"))


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "phase", "iqp", "basis"])
def test_encoders(emulated, precision, encoding):
    columns = {"amplitude": 20, "iqp": 15}.get(encoding, 5)
    rows = np.random.default_rng(2).normal(size=(3, columns))
    if encoding == "basis":
        rows = (rows > 0).astype(int)
    expected = qdp.encode(rows, encoding, 5, backend="reference")
    found = qdp.encode(rows, encoding, 5, precision=precision, backend=emulated)
    assert_close(found, expected, precision)


ENCODINGS = [
    *(encodings.Angle(rotation, 0.7) for rotation in "XYZ"),
    encodings.Phase(),
    encodings.IQPZ(),
    encodings.IQP(),
    encodings.IQPEmbedding(n_repeats=3, pattern=((0, 1), (3, 1))),
    encodings.ZZFeatureMap(),
    encodings.ZZFeatureMap(reps=1, entanglement="circular"),
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_states_of_encodings_are_made_as_rows_are_loaded(emulated, precision, encoding):
    n_qubits = 7
    circuit = data_reuploading(n_qubits, 1)
    parameters, inputs = random_numbers(circuit, 3, n_qubits, True)
    columns = n_qubits - 2 if encoding.name == "angle" else encoding.n_features(n_qubits)
    features = np.random.default_rng(11).normal(size=(3, columns)) * 2
    given = {"inputs": inputs, "encoding": encoding}
    expected = qdp.encode(features, encoding, n_qubits, backend="reference")
    run = {"backend": emulated, "precision": precision}
    assert_close(qdp.encode(features, encoding, n_qubits, **run), expected, precision)
    final = qdp.state(circuit, parameters, expected, inputs=inputs, backend="reference")
    emulated.device.log.clear()
    found = qdp.state(circuit, parameters, features, **given, **run)
    assert_close(found, final, precision, 1, depth_of(circuit))
    # Gates of the encoding would be angles of the circuit.
    told = [entry[3] for entry in emulated.device.log if entry[0] == "launch"]
    assert {int(one["n_rotations"][0]) for one in told} == {depth_of(circuit)}
    for method in ("adjoint", "parameter-shift"):
        found = qdp.gradient(
            circuit, parameters, features, "Z0 X1 + Y6", **given, **run, method=method,
            wrt=("parameters", "inputs"),
        )  # fmt: skip
        wanted = qdp.gradient(
            circuit, parameters, expected, "Z0 X1 + Y6", inputs=inputs, backend="reference",
            wrt=("parameters", "inputs"),
        )  # fmt: skip
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other, precision, 2 * slope_of(circuit), depth_of(circuit))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_formulae_of_encodings_agree_with_their_numbers(encoding):
    rng = np.random.default_rng(12)
    features = rng.normal(size=(4, encoding.n_features(5))) * 2
    if isinstance(encoding, encodings.ProductEncoding):
        rate, waves = encoding.waves()
        angles = rate * features
        parts = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=2)
        assert_close(parts @ waves.T, encoding.factors(features, 5), "double")
    else:
        one, two = rng.normal(size=(2, *encoding.angles(features, 5).shape))
        both = encoding.combined(one, 5) + 3 * encoding.combined(two, 5)
        assert_close(encoding.combined(one + 3 * two, 5), both, "double", 10)


def test_chunks_of_encodings_give_the_same_bits(emulated):
    encoding = encodings.IQPEmbedding(n_repeats=2)
    features = np.random.default_rng(13).normal(size=(7, 6))
    circuit = ry_rz_ladder(6, 1)
    run = {"encoding": encoding, "backend": emulated}
    whole = qdp.expectation(circuit, np.arange(12.0), features, "Z0", **run)
    emulated.device._free = 60_000
    emulated.device.log.clear()
    again = qdp.expectation(circuit, np.arange(12.0), features, "Z0", **run)
    assert emulated.device.launches.count("angles") > 1
    assert np.array_equal(again, whole)


def test_fidelity_kernel(emulated, precision):
    rng = np.random.default_rng(3)
    left, right = random_states(3, 5, rng), random_states(4, 5, rng)
    expected = qdp.fidelity_kernel(left, right)
    dtype = np.complex128 if precision == "double" else np.complex64
    found = emulated.overlaps(left.astype(dtype), right.astype(dtype))
    assert_close(found, expected, precision)


def test_small_states_take_one_launch_and_large_ones_tiles(libraries):
    circuit, batch, observables = problem("ladder", 6, "float64", False)
    for shared_bytes, kernel, other in ((LARGE, "run", "pass"), (SMALL, "pass", "run")):
        emulator = Emulator(libraries, shared_bytes)
        backend = CudaBackend(emulator)
        backend.adjoint(circuit, batch, observables, ALL)
        assert kernel in emulator.launches
        assert other not in emulator.launches


def test_chunks_give_the_same_bits(emulated):
    circuit, batch, observables = problem("uploading", 5, "features", True, rows=7)
    shifts = [(), ((0, 0, 1.5),), ((1, 0, -1.5),)]
    whole = emulated.adjoint(circuit, batch, observables, ALL)
    shifted = emulated.shifted_expectation(circuit, batch, observables, shifts)
    emulated.device._free = 150_000
    emulated.device.log.clear()
    chunked = emulated.adjoint(circuit, batch, observables, ALL)
    assert emulated.device.launches.count("angles") > 1
    for name in ("values", "parameters", "inputs", "states"):
        assert np.array_equal(getattr(chunked, name), getattr(whole, name))
    again = emulated.shifted_expectation(circuit, batch, observables, shifts)
    assert np.array_equal(again, shifted)


def test_rows_are_looked_at_as_they_are_loaded(emulated, precision):
    rng = np.random.default_rng(14)
    circuit = ry_rz_ladder(6, 1)
    theta, features = rng.normal(size=12), rng.normal(size=(5, 50))
    # Too small and too large for their squares: right, but seen as doubtful by the device.
    features[1] *= 1e-170
    features[3] *= 1e200
    run = {"backend": emulated, "precision": precision}
    unit = rng.normal(size=(5, 50))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for encoding, given in (
        (encodings.Amplitude(), features),
        (encodings.Amplitude(normalize=False), unit),
    ):
        expected = qdp.encode(given, encoding, 6, backend="reference")
        assert_close(qdp.encode(given, encoding, 6, **run), expected, precision)
        wanted = qdp.expectation(circuit, theta, expected, "Z0", backend="reference")
        found = qdp.expectation(circuit, theta, given, "Z0", encoding=encoding, **run)
        assert_close(found, wanted, precision)
        for value in (0.0, np.nan):
            bad = given.copy()
            bad[4] = value
            with pytest.raises(ValueError, match=r"amplitude encoding: expected.*row 4"):
                qdp.encode(bad, encoding, 6, **run)
            with pytest.raises(ValueError, match=r"amplitude encoding: expected.*row 4"):
                qdp.expectation(circuit, theta, bad, "Z0", encoding=encoding, **run)
    states = random_states(4, 6, rng)
    states[2] *= 1 + 1e-3
    with pytest.raises(ValueError, match=r"states: expected .*row 2"):
        qdp.gradient(circuit, theta, states, "Z0", **run)


def test_no_pass_over_the_rows_comes_before_the_run(emulated, monkeypatch):
    def fail(*arguments):
        raise AssertionError("looked at on the host")

    features = np.random.default_rng(15).normal(size=(4, 30))

    def run(backend):
        yield qdp.encode(features, "amplitude", 5, backend=backend)
        yield qdp.expectation(Circuit(5), [], features, "Z0", encoding="amplitude", backend=backend)

    expected = list(run("reference"))
    monkeypatch.setattr("qdp.arrays.row_norms", fail)
    for found, value in zip(run(emulated), expected, strict=True):
        assert_close(found, value, "double")


def test_pinned_rows_and_results_are_copied_straight(emulated, monkeypatch):
    monkeypatch.setattr("qdp.backends.cuda._STAGED_BYTES", 3 * (30 * 8 + 32 * 16))
    numbers = np.random.default_rng(16).normal(size=(10, 30))
    features = emulated.device.pin(numbers.nbytes).view(np.float64).reshape(numbers.shape)
    features[...] = numbers
    out = emulated.device.pin(10 * 32 * 16).view(np.complex128).reshape(10, 32)
    expected = qdp.encode(numbers, "amplitude", 5, backend="reference")
    copied = []
    monkeypatch.setattr(device, "copy_in_parts", lambda target, source: (
        copied.append(source.size), target.__setitem__(..., source)))  # fmt: skip
    assert qdp.encode(features, "amplitude", 5, out=out, backend=emulated) is out
    assert_close(out, expected, "double")
    assert max(copied, default=0) < 30
    found = qdp.encode(numbers, "amplitude", 5, backend=emulated)
    assert_close(found, expected, "double")
    assert max(copied) == 3 * 32
    for array in (features, out):
        emulated.device.unpin(array.reshape(-1).view(np.uint8))


def test_large_copies_on_the_host_are_cut(monkeypatch):
    monkeypatch.setattr(device, "_COPY_BYTES", 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    source = np.arange(70.0).reshape(7, 10)
    whole = np.zeros((7, 20))
    device.copy_in_parts(whole[:, ::2], source)
    assert np.array_equal(whole[:, ::2], source)
    assert not whole[:, 1::2].any()


def test_what_cannot_fit_is_refused(emulated):
    circuit, batch, observables = problem("ladder", 5, "zero", False)
    emulated.device._free = 1000
    with pytest.raises(MemoryError, match=r"a row of 5 qubits.*half of the GPU's free.*remedy"):
        emulated.expectation(circuit, batch, observables)


def test_memory_is_given_back_on_an_error(emulated, monkeypatch):
    circuit, batch, observables = problem("ladder", 5, "zero", False)

    def fail(*arguments):
        raise DeviceError("cuLaunchKernel: it was not to be")

    monkeypatch.setattr(emulated.device, "launch", fail)
    with pytest.raises(DeviceError, match="not to be"):
        emulated.expectation(circuit, batch, observables)
    assert_all_is_given_back(emulated)


# Compiled for GPUs


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_compile(architecture, precision, tmp_path):
    try:
        code = device.cached_kernels(precision, architecture, tmp_path)
    except BackendUnavailable as error:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            if "cuda-compile" in REQUIRED:
                raise
            pytest.skip(f"neither NVRTC nor nvcc: {error}")
        real = {"double": "double", "single": "float"}[precision]
        path = tmp_path / "engine.cubin"
        source = str(device.KERNELS / "engine.cu")
        subprocess.run(
            [nvcc, "-std=c++17", "-cubin", f"-arch={architecture}", f"-DREAL={real}", source, "-o",
             str(path)],
            check=True,
        )  # fmt: skip
        code = path.read_bytes()
    assert code.startswith(b"\x7fELF")
    source = (device.KERNELS / "engine.cu").read_text(encoding="utf-8")
    kernels = re.findall(r"^KERNEL\((\w+)\)", source, re.MULTILINE)
    assert {"run", "pass", "walsh", "make_factors", "make_phases"} <= set(kernels)
    for kernel in kernels:
        assert f".text.{kernel}\0".encode() in code


def test_compiled_kernels_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "compile_kernels", lambda *_: b"code")
    monkeypatch.setattr(device, "_compiler_version", lambda: "13.0")
    assert device.cached_kernels("double", "sm_90", tmp_path) == b"code"
    monkeypatch.setattr(device, "compile_kernels", lambda *_: b"other code")
    assert device.cached_kernels("double", "sm_90", tmp_path) == b"code"
    assert device.cached_kernels("single", "sm_90", tmp_path) == b"other code"
    monkeypatch.setattr(device, "_compiler_version", lambda: "13.1")
    assert device.cached_kernels("double", "sm_90", tmp_path) == b"other code"
    monkeypatch.setattr(device, "compile_kernels", lambda *_: b"faster code")
    options = device._options
    monkeypatch.setattr(device, "_options", lambda *given: options(*given) | {"fma": False})
    assert device.cached_kernels("double", "sm_90", tmp_path) == b"faster code"
    assert len(list(tmp_path.iterdir())) == 4


# Machines that lack something


class Driver:
    """The driver of a machine that lacks something."""

    def __init__(self, status=0, version=13000, count=1):
        self._status, self._version, self._count = status, version, count

    def cuInit(self, flags):
        return (self._status,)

    def cuGetErrorString(self, status):
        return 0, b"no CUDA-capable device is detected"

    def cuDriverGetVersion(self):
        return 0, self._version

    def cuDeviceGetCount(self):
        return 0, self._count


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(status=100), r"needs a GPU that works.*no CUDA-capable device.*backend='cpu'"),
        (Driver(version=11040), r"CUDA 12 or newer, got one for CUDA 11.4; update the driver"),
        (
            Driver(version=12040, count=2),
            r"of NVRTC 13\.5.*, got one for CUDA 12\.4; update",
        ),
        (Driver(count=1), r"'cuda:1': expected the number of one of 1 GPUs"),
    ],
)
def test_what_a_machine_lacks_is_named(monkeypatch, driver, message):
    monkeypatch.setattr(device, "_compiler_version", lambda: "13.5")
    with pytest.raises(BackendUnavailable, match=message):
        device._require_gpu(driver, 1)


def test_a_machine_without_cuda_core_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(BackendUnavailable, match=r"needs cuda\.core.*pip install 'qdp\[cuda\]'"):
        CudaBackend()


@pytest.mark.parametrize("version", ["0.7.0", "1.1.9"])
def test_a_cuda_core_that_is_too_old_is_named(monkeypatch, version):
    import cuda.core

    monkeypatch.setattr(cuda.core, "__version__", version)
    message = rf"cuda\.core 1\.2 or newer, got {version}; update it with: pip install --upgrade"
    with pytest.raises(BackendUnavailable, match=f"backend 'cuda' needs {message}"):
        CudaBackend()
    with pytest.raises(BackendUnavailable, match=f"arrays in a GPU's memory need {message}"):
        device_arrays.strided_view(np.zeros(3), -1)
    monkeypatch.setattr(cuda.core, "__version__", "1.10.0rc1")
    assert device_arrays.cuda_core("a test needs") is cuda.core


def test_the_extra_asks_for_the_cuda_core_that_is_needed():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    oldest = ".".join(map(str, device_arrays._OLDEST_CUDA_CORE))
    assert f'"cuda-core[cu13]>={oldest}"' in text


def test_the_verbs_say_that_there_is_no_gpu():
    pytest.importorskip("cuda.core")
    try:
        CudaBackend()
    except BackendUnavailable:
        pass
    else:
        pytest.skip("there is a GPU")
    if "cuda" in REQUIRED:
        raise AssertionError("QDP_REQUIRE=cuda, but there is no GPU")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(BackendUnavailable, match=r"backend 'cuda' needs .*backend='cpu'"):
            qdp.expectation(ry_rz_ladder(2, 1), np.zeros(4), None, "Z0", backend=name)
    with pytest.raises(ValueError, match=r"'cuda:1' \(a GPU's number\).*got 'cuda:x'"):
        qdp.expectation(ry_rz_ladder(2, 1), np.zeros(4), None, "Z0", backend="cuda:x")
