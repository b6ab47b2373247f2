# SPDX-License-Identifier: Apache-2.0
"""The compiled backend against the reference, over instruction set x precision x layout.

The reference computes each case once, for the most rows that any test wants. Beyond 10 qubits it
is too slow, and closed forms take its place.
"""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import (
    random_circuit,
    random_numbers,
    random_observables,
    random_states,
    random_unitary,
)
from tolerance import DTYPES, assert_close

_core = pytest.importorskip("qdp._core", reason="the compiled extension is not installed")

import qdp  # noqa: E402
from qdp import encodings, gates, memory  # noqa: E402
from qdp.ansatz import data_reuploading, ry_rz_ladder, strongly_entangling  # noqa: E402
from qdp.backends.base import Batch, Preparation  # noqa: E402
from qdp.backends.cpu import CpuBackend, _native_bytes, _native_program  # noqa: E402
from qdp.backends.reference import ReferenceBackend  # noqa: E402
from qdp.circuit import Circuit, Observable  # noqa: E402
from qdp.program import compile_program  # noqa: E402

REFERENCE = ReferenceBackend()
ALL = frozenset({"parameters", "inputs", "states"})
PRESENT = _core.instruction_sets()
# Numbers of double precision in a line; in single precision it holds twice as many.
LANES = {"avx512": 8, "avx512-split": 8, "avx2": 4, "sse4": 2, "base": 2}
EVERY_SET = PRESENT if "base" in PRESENT else ["avx512", "avx512-split", "avx2", "sse4"]
MAX_ROWS = 3 * 16 + 2
p, x = gates.parameter, gates.feature


# Fixtures


@pytest.fixture(params=EVERY_SET)
def instruction_set(request):
    """Each instruction set, forced; what this processor lacks is skipped."""
    name = request.param
    if name not in PRESENT:
        pytest.skip(f"this processor has no {name}, only {', '.join(PRESENT)}")
    before = _core.instruction_set()
    _core.set_instruction_set(name)
    assert _core.instruction_set() == name, "the forced instruction set was not taken"
    yield name
    taken = _core.instruction_set()
    _core.set_instruction_set(before)
    assert taken == name, "the instruction set changed during the test"


@pytest.fixture(params=["batch", "sample"])
def layout(request):
    return request.param


@pytest.fixture
def threads():
    """A function that sets the number of threads; it is restored afterwards."""
    before = _core.thread_count()

    def set_threads(count):
        _core.set_thread_count(count)
        assert _core.thread_count() == count

    yield set_threads
    _core.set_thread_count(before)


def lanes_of(instruction_set, precision):
    return LANES[instruction_set] * (1 if precision == "double" else 2)


def smallest_sample_layout(instruction_set, precision):
    """Return the fewest qubits that the sample layout takes: eight lines."""
    return lanes_of(instruction_set, precision).bit_length() - 1 + 3


def backend_of(layout, n_qubits, instruction_set, precision):
    """Return the backend, or None where the layout needs more qubits (and says so)."""
    if layout == "sample" and n_qubits < smallest_sample_layout(instruction_set, precision):
        batch = Batch(1, np.zeros(0), precision=precision)
        with pytest.raises(ValueError, match="sample layout needs more qubits"):
            CpuBackend("sample").state(Circuit(n_qubits), batch)
        return None
    return CpuBackend(layout)


# Material


REAL_NAMES = [
    *("RY", "CRY", "Hadamard", "CNOT", "CZ", "PauliX", "PauliZ", "SWAP", "CH"),
    *("SingleExcitation", "Identity", "Toffoli"),
]
# All but QubitUnitary on several wires: nothing dense, so that large angles go into the frame.
ROTATION_NAMES = [name for name in gates.TABLE if name != "QubitUnitary"]


def whole_table(n_qubits, seed):
    """Return every gate of the table once and, where there is room, those that stay whole."""
    circuit = random_circuit(n_qubits, seed)
    if n_qubits < 7:
        return circuit
    rng = np.random.default_rng([seed, 4])
    wires = rng.permutation(n_qubits)[:7].tolist()
    large = [
        gates.DiagonalQubitUnitary(np.exp(1j * rng.uniform(-3, 3, 128)), wires),
        gates.RX(p(0), wires[0]),
        gates.MultiControlledX(wires[::-1], rng.integers(0, 2, 6).tolist()),
    ]
    half = len(circuit.operations) // 2
    return Circuit(n_qubits, [*circuit.operations[:half], *large, *circuit.operations[half:]])


FAMILIES = {
    "table": whole_table,
    "rotations": lambda n, seed: random_circuit(n, seed, names=ROTATION_NAMES),
    "real": lambda n, seed: random_circuit(n, seed, n_gates=30, names=REAL_NAMES, n_inputs=0),
    "ladder": lambda n, seed: ry_rz_ladder(n, 2),
    "uploading": lambda n, seed: data_reuploading(n, 2),
    "entangling": lambda n, seed: strongly_entangling(n, 2),
    "empty": lambda n, seed: Circuit(n),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: a circuit family and how its rows start and turn.

    ``start`` is "zero", "indices", a dtype of normalised states, or "features:<dtype>:<columns>".
    """

    n_qubits: int
    family: str
    start: str
    per_row: bool = False
    max_rows: int = MAX_ROWS

    def __str__(self):
        per_row = "-per row" if self.per_row else ""
        return f"{self.n_qubits}-{self.family}-{self.start}{per_row}"

    @property
    def seed(self):
        return 100 * self.n_qubits + list(FAMILIES).index(self.family)


CASES = [
    Case(1, "table", "zero"),
    Case(1, "rotations", "complex128", per_row=True),
    Case(1, "real", "features:float64:1"),
    Case(2, "table", "complex64"),
    Case(2, "rotations", "float64"),
    Case(2, "empty", "features:complex64:3"),
    Case(3, "table", "float32", per_row=True),
    Case(3, "real", "indices"),
    Case(3, "uploading", "zero"),
    Case(4, "table", "complex128"),
    Case(4, "rotations", "features:float64:11"),
    Case(4, "real", "float64", per_row=True),
    Case(5, "table", "indices", per_row=True),
    Case(5, "rotations", "zero"),
    Case(5, "real", "features:float32:32"),
    Case(6, "table", "features:complex128:50"),
    Case(6, "rotations", "float32"),
    Case(7, "table", "float64", max_rows=20),
    Case(7, "entangling", "complex64", max_rows=20),
    Case(7, "real", "zero"),
    Case(8, "rotations", "complex128", per_row=True, max_rows=20),
    Case(8, "uploading", "features:float32:200", max_rows=20),
    Case(9, "table", "indices", max_rows=17),
    Case(9, "ladder", "float64", per_row=True, max_rows=17),
    Case(9, "real", "float32", max_rows=17),
    Case(10, "table", "features:float64:1000", max_rows=9),
    Case(10, "ladder", "float64", max_rows=17),
    Case(10, "real", "complex128", max_rows=9),
]
SMALL_CASES = [case for case in CASES if case.n_qubits in (5, 9)]


def starting(case, rng):
    """Return the part of a Batch that says where the rows start."""
    size = 2**case.n_qubits
    if case.start == "zero":
        return {}
    if case.start == "indices":
        return {"indices": rng.integers(0, size, case.max_rows)}
    states = random_states(case.max_rows, case.n_qubits, rng)
    if case.start.startswith("features:"):
        _, dtype, columns = case.start.split(":")
        states = 10.0 ** rng.uniform(-3, 3, (case.max_rows, 1)) * states[:, : int(columns)]
        normalize = True
    else:
        dtype, normalize = case.start, False
    if not dtype.startswith("complex"):
        states = states.real
        if not normalize:
            states /= np.linalg.norm(states, axis=1, keepdims=True)
    return {"states": states.astype(dtype), "normalize": normalize}


@functools.cache
def problem(case):
    """Return circuit, full batch and observables of a case."""
    circuit = FAMILIES[case.family](case.n_qubits, case.seed)
    parameters, inputs = random_numbers(circuit, case.max_rows, case.seed, case.per_row)
    start = starting(case, np.random.default_rng([case.seed, 5]))
    batch = Batch(case.max_rows, parameters, inputs, **start)
    return circuit, batch, random_observables(case.n_qubits, case.seed)


def shifts_of(circuit):
    """Return a handful of evaluations: unshifted, single, twice the same, several together."""
    slots = [
        (position, slot)
        for position, operation in enumerate(circuit.operations)
        for slot in range(len(operation.angles))
    ]
    if not slots:
        return [(), ()]
    first, middle, last = slots[0], slots[len(slots) // 2], slots[-1]
    return [
        (),
        ((*first, np.pi / 2),),
        ((*last, -np.pi / 2),),
        ((*middle, 0.3), (*middle, -1.1)),
        tuple((*slot, 0.1 * k) for k, slot in enumerate(slots)),
    ]


WIRE_CHOICES = {
    "all": lambda n: range(n),
    "reversed": lambda n: range(n)[::-1],
    "one": lambda n: [n // 2],
    "two": lambda n: [n - 1, 0][: min(n, 2)],
    "none": lambda n: [],
}


@functools.cache
def expected_of(case):
    """Return what the reference makes of a case."""
    circuit, batch, observables = problem(case)
    cotangents = np.random.default_rng(case.seed).normal(size=(batch.rows, len(observables)))
    return {
        "state": REFERENCE.state(circuit, batch),
        "adjoint": REFERENCE.adjoint(circuit, batch, observables, ALL),
        "cotangents": cotangents,
        "contracted": REFERENCE.adjoint(circuit, batch, observables, ALL, cotangents),
        "shifted": REFERENCE.shifted_expectation(circuit, batch, observables, shifts_of(circuit)),
    }


def rows_of(batch, rows, precision="double"):
    """Return the batch of these rows (a count, a slice or an index array)."""
    chosen = np.arange(batch.rows)[slice(rows) if isinstance(rows, int) else rows]

    def part(array):
        return None if array is None else np.ascontiguousarray(array[chosen])

    return dataclasses.replace(
        batch,
        rows=len(chosen),
        parameters=part(batch.parameters) if batch.parameters.ndim == 2 else batch.parameters,
        inputs=part(batch.inputs),
        states=part(batch.states),
        indices=part(batch.indices),
        precision=precision,
    )


def weight_of(observables):
    return max([1.0, *(observable.weight for observable in observables)])


def slope_of(circuit):
    """Return how much an error of 1 in each gate's slope can make in one gradient entry."""
    totals = {}
    for operation in circuit.operations:
        for angle in operation.angles:
            source = (angle.kind, angle.index)
            totals[source] = totals.get(source, 0.0) + abs(angle.scale)
    return max([1.0, *(total for (kind, _), total in totals.items() if kind != "constant")])


def depth_of(circuit):
    return len(compile_program(circuit, (), True).rotations)


def assert_same_gradients(actual, expected, circuit, weight, precision):
    """Compare AdjointResults entry by entry, to the bounds that their sizes allow."""
    depth = depth_of(circuit)
    assert_close(actual.values, expected.values, precision, weight, depth)
    for what, size in (("parameters", slope_of(circuit)), ("inputs", slope_of(circuit))):
        if getattr(expected, what) is None:
            assert getattr(actual, what) is None
        else:
            got, wanted = getattr(actual, what), getattr(expected, what)
            assert_close(got, wanted, precision, weight * size, depth)
    if expected.states is not None:
        assert_close(actual.states, expected.states, precision, 2 * weight, depth)


def result_rows(result, rows):
    parts = (result.values, result.parameters, result.inputs, result.states)
    return type(result)(*(None if part is None else part[:rows] for part in parts))


def everything(backend, circuit, batch, observables):
    """Return every number that the backend gives for a problem, rows first."""
    adjoint = backend.adjoint(circuit, batch, observables, ALL)
    shifted = backend.shifted_expectation(circuit, batch, observables, shifts_of(circuit))
    return [
        backend.state(circuit, batch),
        backend.expectation(circuit, batch, observables),
        backend.probabilities(circuit, batch, [0]),
        *(adjoint.values, adjoint.parameters, adjoint.inputs, adjoint.states),
        shifted.swapaxes(0, 1),
    ]


# The forced path


def test_a_forced_set_is_the_one_in_use(instruction_set):
    # The width shows in how few qubits the sample layout takes.
    for precision in ("double", "single"):
        n_qubits = smallest_sample_layout(instruction_set, precision)
        batch = Batch(1, np.zeros(0), precision=precision)
        state = CpuBackend("sample").state(Circuit(n_qubits), batch)
        assert state[0, 0] == 1
        with pytest.raises(ValueError, match="sample layout needs more qubits"):
            CpuBackend("sample").state(Circuit(n_qubits - 1), batch)


def test_an_unknown_instruction_set_is_refused():
    before = _core.instruction_set()
    with pytest.raises(ValueError, match=r"has \(.*sse4.*\), got 'mmx'|has \(base\), got 'mmx'"):
        _core.set_instruction_set("mmx")
    assert _core.instruction_set() == before
    assert before in PRESENT


def test_the_layout_has_a_known_name():
    with pytest.raises(ValueError, match="expected layout auto, batch, sample, got 'tile'"):
        CpuBackend("tile")


# Against the reference


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, _ = problem(case)
    expected = expected_of(case)["state"]
    rows = min(case.max_rows, lanes_of(instruction_set, precision) + 1)
    actual = backend.state(circuit, rows_of(batch, rows, precision))
    assert_close(actual, expected[:rows], precision, depth=depth_of(circuit))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_expectation(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, observables = problem(case)
    expected = expected_of(case)["adjoint"].values
    rows = min(case.max_rows, lanes_of(instruction_set, precision) + 1)
    given = rows_of(batch, rows, precision)
    weight = weight_of(observables)
    actual = backend.expectation(circuit, given, observables)
    assert_close(actual, expected[:rows], precision, weight, depth_of(circuit))
    alone = backend.expectation(circuit, given, observables[2:3])
    assert_close(alone, expected[:rows, 2:3], precision, weight, depth_of(circuit))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_probabilities(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, _ = problem(case)
    rows = min(case.max_rows, lanes_of(instruction_set, precision) - 1)
    final = np.abs(expected_of(case)["state"][:rows]) ** 2
    final = final.reshape((rows,) + (2,) * case.n_qubits)
    for choose in WIRE_CHOICES.values():
        wires = list(choose(case.n_qubits))
        actual = backend.probabilities(circuit, rows_of(batch, rows, precision), wires)
        others = [1 + wire for wire in range(case.n_qubits) if wire not in wires]
        order = [0, *(1 + wire for wire in wires), *others]
        expected = final.transpose(order).reshape(rows, 2 ** len(wires), -1).sum(axis=2)
        assert_close(actual, expected, precision, depth=depth_of(circuit))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_adjoint(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, observables = problem(case)
    rows = min(case.max_rows, lanes_of(instruction_set, precision) + 1)
    expected = result_rows(expected_of(case)["adjoint"], rows)
    given = rows_of(batch, rows, precision)
    weight = weight_of(observables)
    actual = backend.adjoint(circuit, given, observables, ALL)
    assert_same_gradients(actual, expected, circuit, weight, precision)
    # Asked for one by one.
    nothing = {"parameters": None, "inputs": None, "states": None}
    for what in ("parameters", "inputs", "states", None):
        wrt = frozenset([what] if what else [])
        actual = backend.adjoint(circuit, given, observables, wrt)
        one = dataclasses.replace(expected, **{k: None for k in nothing if k != what})
        assert_same_gradients(actual, one, circuit, weight, precision)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_adjoint_with_cotangents(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, observables = problem(case)
    rows = min(case.max_rows, lanes_of(instruction_set, precision) + 1)
    cotangents = expected_of(case)["cotangents"][:rows]
    expected = result_rows(expected_of(case)["contracted"], rows)
    given = rows_of(batch, rows, precision)
    actual = backend.adjoint(circuit, given, observables, ALL, cotangents)
    weight = weight_of(observables) * np.abs(cotangents).sum(axis=1).max()
    assert_same_gradients(actual, expected, circuit, weight, precision)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shifted_expectation(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, observables = problem(case)
    rows = min(case.max_rows, lanes_of(instruction_set, precision) + 1)
    shifts = shifts_of(circuit)
    given = rows_of(batch, rows, precision)
    actual = backend.shifted_expectation(circuit, given, observables, shifts)
    expected = expected_of(case)["shifted"][:, :rows]
    assert_close(actual, expected, precision, weight_of(observables), depth_of(circuit))
    none = backend.shifted_expectation(circuit, given, observables, [])
    assert none.shape == (0, rows, len(observables))


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_every_number_of_rows(case, instruction_set, precision, layout):
    backend = backend_of(layout, case.n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit, batch, observables = problem(case)
    lanes = lanes_of(instruction_set, precision)
    weight = weight_of(observables)
    for rows in (0, 1, lanes - 1, lanes, lanes + 1, 3 * lanes + 2):
        if rows > case.max_rows:
            continue
        expected = result_rows(expected_of(case)["adjoint"], rows)
        given = rows_of(batch, rows, precision)
        actual = backend.adjoint(circuit, given, observables, ALL)
        assert_same_gradients(actual, expected, circuit, weight, precision)
        state = backend.state(circuit, given)
        assert_close(state, expected_of(case)["state"][:rows], precision, depth=depth_of(circuit))


def test_no_observable_and_observables_without_words(instruction_set, precision):
    circuit = ry_rz_ladder(7, 1)
    batch = Batch(3, random_numbers(circuit, 3, 0)[0], precision=precision)
    nothing = Observable.hermitian(np.zeros((2, 2)), 0)
    for layout in ("batch", "sample"):
        backend = CpuBackend(layout)
        assert backend.expectation(circuit, batch, []).shape == (3, 0)
        assert backend.adjoint(circuit, batch, [], ALL).parameters.shape == (3, 0, 14)
        observables = [nothing, Observable("2.5 I"), Observable("0.0 Z1")]
        result = backend.adjoint(circuit, batch, observables, ALL)
        expected = np.tile([0.0, 2.5, 0.0], (3, 1))
        assert_close(result.values, expected, precision, 2.5)
        assert_close(result.parameters, np.zeros((3, 3, 14)), precision, 2.5)
        states = REFERENCE.adjoint(circuit, batch, observables, ALL).states
        assert_close(result.states, states.astype(np.complex128), precision, 5)


@pytest.mark.parametrize("n_qubits", [13, 14])
def test_narrower_lines_beyond_the_second_level_cache(n_qubits, instruction_set, precision):
    # A tile of whole lines would leave the cache: AVX-512 takes half a line.
    circuit = ry_rz_ladder(n_qubits, 1) + Circuit(n_qubits, [gates.CRX(p(0), [0, n_qubits - 1])])
    rng = np.random.default_rng(0)
    rows = lanes_of(instruction_set, precision) + 1
    parameters = rng.uniform(-3, 3, circuit.n_parameters)
    states = random_states(rows, n_qubits, rng)
    batch = Batch(rows, parameters, None, states, precision=precision)
    observables = [Observable("Z0 + 0.5 X3 Y7")]
    sample = CpuBackend("sample").adjoint(circuit, batch, observables, ALL)
    tiles = CpuBackend("batch").adjoint(circuit, batch, observables, ALL)
    in_double = dataclasses.replace(batch, precision="double")
    exact = CpuBackend("sample").adjoint(circuit, in_double, observables, ALL)
    for result in (sample, tiles):
        assert_same_gradients(result, exact, circuit, 3, precision)
    few = rows_of(batch, 2)
    expected = REFERENCE.expectation(circuit, few, observables)
    assert_close(exact.values[:2], expected, "double", 1.5)


# Extreme rows


EXTREME_DTYPES = {
    "float64": [1e150, 1e-150, 1.0, 1e-300, 1e300],
    "complex128": [1e-150, 1e150, 1.0],
    "float32": [1e18, 1e-18, 1.0, 1e37],
    "complex64": [1e-18, 1e18, 1.0],
}


@pytest.mark.parametrize("dtype", EXTREME_DTYPES)
def test_rows_of_extreme_norm(dtype, instruction_set, precision, layout):
    # Each tile holds rows of all sizes.
    norms = np.resize(EXTREME_DTYPES[dtype], 9)
    circuit = random_circuit(7, 1, names=ROTATION_NAMES, n_inputs=0)
    rng = np.random.default_rng(2)
    states = random_states(9, 7, rng)[:, :100]
    states = states if dtype.startswith("complex") else states.real
    states = (states / np.linalg.norm(states, axis=1, keepdims=True) * norms[:, None]).astype(dtype)
    parameters = random_numbers(circuit, 9, 0)[0]
    batch = Batch(9, parameters, None, states, normalize=True, precision=precision)
    observables = random_observables(7, 0)
    exact = dataclasses.replace(
        batch,
        precision="double",
        states=states.astype("complex128" if dtype.startswith("complex") else "float64"),
    )
    backend = CpuBackend(layout)
    expected = REFERENCE.adjoint(circuit, exact, observables, ALL)
    actual = backend.adjoint(circuit, batch, observables, ALL)
    assert_same_gradients(actual, expected, circuit, weight_of(observables), precision)
    state = backend.state(circuit, batch)
    assert_close(state, REFERENCE.state(circuit, exact), precision, depth=depth_of(circuit))


# Angles


SPECIAL_ANGLES = [
    *(0.0, np.pi, -np.pi, np.pi / 2, np.pi / 2 + 1e-9, np.pi / 2 - 1e-9, 3 * np.pi / 2),
    *(2 * np.pi, 3 * np.pi, 4 * np.pi, 1e3, -1e3, 1e6, -1e6, 1e-9),
]


def special_circuit(n_qubits, dense):
    """Return every kind of rotation with angles as they are given, twice over."""
    n = len(SPECIAL_ANGLES)
    operations = [gates.H(wire) for wire in range(0, n_qubits, 2)]
    for k in range(2 * n):
        a, b, c = (np.arange(3) + k) % n_qubits
        operations += [
            [gates.RX(p(k % n), a)],
            [gates.RY(p(k % n), a), gates.CNOT([a, b])],
            [gates.RZ(p(k % n), b)],
            [gates.IsingXX(p(k % n), [a, b])],
            [gates.MultiRZ(p(k % n), [a, b, c]), gates.S(c)],
            [gates.CRY(p(k % n), [c, a])],
            [gates.PauliRot(p(k % n), "XYZ", [a, b, c])],
            [gates.PhaseShift(p(k % n), a), gates.H(b)],
        ][(3 * k) % 8]
    if dense:
        unitary = random_unitary(4, np.random.default_rng(0))
        operations.insert(len(operations) // 2, gates.QubitUnitary(unitary, [1, 0]))
    return Circuit(n_qubits, operations)


@functools.cache
def special_problem(dense, per_row):
    circuit = special_circuit(7, dense)
    angles = np.array(SPECIAL_ANGLES)
    rows = len(angles)
    turned = np.stack([np.roll(angles, row) for row in range(rows)])
    states = random_states(rows, 7, np.random.default_rng(1))
    batch = Batch(rows, turned if per_row else angles, None, states)
    observables = random_observables(7, 3)
    return (
        *(circuit, batch, observables),
        REFERENCE.adjoint(circuit, batch, observables, ALL),
        REFERENCE.state(circuit, batch),
    )


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_special_angles(dense, per_row, instruction_set, precision, layout):
    circuit, batch, observables, expected, state = special_problem(dense, per_row)
    backend = CpuBackend(layout)
    given = dataclasses.replace(batch, precision=precision)
    actual = backend.adjoint(circuit, given, observables, ALL)
    assert_same_gradients(actual, expected, circuit, weight_of(observables), precision)
    assert_close(backend.state(circuit, given), state, precision, depth=depth_of(circuit))


@pytest.mark.parametrize("angle", SPECIAL_ANGLES)
@pytest.mark.parametrize("name", ["RX", "RY", "RZ"])
def test_one_special_angle(name, angle, precision):
    # Alone, no other error can hide or swamp its own. The angle is a float64: half of it is exact.
    n_qubits = 7
    circuit = Circuit(
        n_qubits,
        [gates.H(0), *(getattr(gates, name)(p(0), wire) for wire in range(n_qubits))],
    )
    batch = Batch(1, np.array([angle]), precision=precision)
    exact = Batch(1, np.array([angle]))
    observables = [Observable("Z0 + X0 + Y0"), Observable("Z1 Z2"), Observable.z(6)]
    expected = REFERENCE.adjoint(circuit, exact, observables, ALL)
    for layout in ("batch", "sample"):
        backend = CpuBackend(layout)
        actual = backend.adjoint(circuit, batch, observables, ALL)
        assert_same_gradients(actual, expected, circuit, 3, precision)
        state = REFERENCE.state(circuit, exact)
        assert_close(backend.state(circuit, batch), state, precision)


DEEP = {
    "one word": lambda k, n: gates.RX(p(k % 16), 0),
    "commuting": lambda k, n: gates.RX(p(k % 16), k % n),
    "RX and RY": lambda k, n: (gates.RX, gates.RY)[k % 2](p(k % 16), k // 2 % n),
    "mixed": lambda k, n: (
        *(gates.RX(p(k % 16), k % n), gates.RZ(p(k % 16), (k + 1) % n)),
        *(gates.IsingYY(p(k % 16), [k % n, (k + 1) % n]), gates.CRX(p(k % 16), [0, 1 + k % 2])),
    )[k // 3 % 4],
}


@functools.cache
def deep_problem(kind, angles):
    n_qubits, count = 7, 2000
    circuit = Circuit(n_qubits, [DEEP[kind](k, n_qubits) for k in range(count)])
    rng = np.random.default_rng(0)
    parameters = {
        "random": rng.uniform(-3, 3, 16),
        # The tangent of half the angle is 1: the state without its cosines grows fastest.
        "quarter turns": np.full(16, np.pi / 2),
        "near quarter turns": np.pi / 2 + rng.choice([-1e-9, 1e-9], 16),
    }[angles]
    batch = Batch(2, parameters, None, random_states(2, n_qubits, rng))
    observables = [Observable.sum_z(n_qubits) + 0.5 * Observable("X0 Y1")]
    expected = REFERENCE.adjoint(circuit, batch, observables, ALL)
    return circuit, batch, observables, expected, REFERENCE.state(circuit, batch)


@pytest.mark.parametrize("angles", ["random", "quarter turns", "near quarter turns"])
@pytest.mark.parametrize("kind", DEEP)
def test_two_thousand_rotations(kind, angles, precision, layout):
    circuit, batch, observables, expected, state = deep_problem(kind, angles)
    backend = CpuBackend(layout)
    given = dataclasses.replace(batch, precision=precision)
    actual = backend.adjoint(circuit, given, observables, ALL)
    assert_same_gradients(actual, expected, circuit, weight_of(observables), precision)
    assert_close(backend.state(circuit, given), state, precision, depth=2000)


# Many qubits, by closed forms


def assert_product_state(n_qubits, precision, layout, wires, gradient=True):
    """RY on every qubit, a diagonal layer and a CNOT ladder, undone: <Z_q> = cos(theta_q)."""
    ladder = [gates.CNOT([q, q + 1]) for q in range(n_qubits - 1)]
    circuit = Circuit(
        n_qubits,
        [
            *(gates.RY(p(q), q) for q in range(n_qubits)),
            *(gates.RZ(0.1 * q, q) for q in range(n_qubits)),
            *ladder,
            gates.IsingZZ(0.7, [0, n_qubits - 1]),
            *ladder[::-1],
        ],
    )
    theta = np.linspace(0.1, 3.0, n_qubits)
    total = Observable.sum_z(n_qubits)
    observables = [total, *map(Observable.z, wires)]
    batch = Batch(1, theta, precision=precision)
    expected = np.array([[np.cos(theta).sum(), *np.cos(theta[list(wires)])]])
    backend = CpuBackend(layout)
    slopes = np.zeros((1, len(observables), n_qubits))
    slopes[0, 0] = -np.sin(theta)
    for row, wire in enumerate(wires):
        slopes[0, 1 + row, wire] = -np.sin(theta[wire])
    if gradient:
        result = backend.adjoint(circuit, batch, observables, frozenset({"parameters"}))
        values, gradients = result.values, result.parameters
        assert_close(gradients[:, :1], slopes[:, :1], precision, n_qubits)
        assert_close(gradients[:, 1:], slopes[:, 1:], precision)
        for wire in wires:
            probabilities = backend.probabilities(circuit, batch, [wire])
            chances = np.array([[np.cos(theta[wire] / 2) ** 2, np.sin(theta[wire] / 2) ** 2]])
            assert_close(probabilities, chances, precision)
    else:
        values = backend.expectation(circuit, batch, observables)
    assert_close(values[:, :1], expected[:, :1], precision, n_qubits)
    assert_close(values[:, 1:], expected[:, 1:], precision)


@pytest.mark.parametrize("n_qubits", [15, 16])
def test_product_states(n_qubits, instruction_set, precision, layout):
    assert_product_state(n_qubits, precision, layout, [0, n_qubits - 1])


def test_product_state_of_20_qubits(instruction_set, precision):
    assert_product_state(20, precision, "auto", [0, 19])


def test_product_state_of_24_qubits(precision):
    assert_product_state(24, precision, "auto", [0], gradient=precision == "single")


@pytest.mark.parametrize("n_qubits", [12, 16])
def test_ghz(n_qubits, instruction_set, precision, layout):
    # exp(i n phi / 2) between the two branches: <X...X> = cos(n phi), <X..X Y> = sin(n phi).
    operations = [gates.H(0), *(gates.CNOT([q, q + 1]) for q in range(n_qubits - 1))]
    operations += [gates.RZ(p(0), q) for q in range(n_qubits)]
    circuit = Circuit(n_qubits, operations)
    phi = 0.3
    batch = Batch(2, np.array([phi]), precision=precision)
    words = " ".join(f"X{q}" for q in range(n_qubits))
    observables = [
        Observable(words),
        Observable(words.replace(f"X{n_qubits - 1}", f"Y{n_qubits - 1}")),
        Observable(f"Z0 Z{n_qubits - 1}"),
        Observable.projector([1] * n_qubits, range(n_qubits)),
    ]
    backend = CpuBackend(layout)
    angle = n_qubits * phi
    expected = np.tile([np.cos(angle), np.sin(angle), 1.0, 0.5], (2, 1))
    slopes = np.tile([-n_qubits * np.sin(angle), n_qubits * np.cos(angle), 0, 0], (2, 1))
    result = backend.adjoint(circuit, batch, observables, frozenset({"parameters"}))
    assert_close(result.values, expected, precision)
    assert_close(result.parameters[:, :, 0], slopes, precision, n_qubits)
    state = np.zeros((2, 2**n_qubits), complex)
    state[:, 0] = np.exp(-0.5j * angle) / np.sqrt(2)
    state[:, -1] = np.exp(0.5j * angle) / np.sqrt(2)
    assert_close(backend.state(circuit, batch), state, precision)
    probabilities = backend.probabilities(circuit, batch, [n_qubits - 1, 0])
    assert_close(probabilities, np.tile([0.5, 0, 0, 0.5], (2, 1)), precision)


def test_a_dense_gate_and_a_table_among_16_qubits(precision, layout):
    # X with 15 controls and a Diagonal on 8 wires, in the middle of product states.
    n_qubits, target = 16, 3
    controls = [wire for wire in range(n_qubits) if wire != target]
    phases = np.exp(1j * np.linspace(0, 3, 256))
    circuit = Circuit(
        n_qubits,
        [
            *(gates.X(wire) for wire in controls),
            gates.RY(p(0), target),
            gates.MultiControlledX([*controls, target]),
            gates.DiagonalQubitUnitary(phases, range(8, 16)),
        ],
    )
    batch = Batch(1, np.array([0.4]), precision=precision)
    result = CpuBackend(layout).adjoint(
        circuit, batch, [Observable.z(target)], frozenset({"parameters"})
    )
    assert_close(result.values, np.array([[-np.cos(0.4)]]), precision)
    assert_close(result.parameters, np.array([[[np.sin(0.4)]]]), precision)
    state = CpuBackend(layout).state(circuit, batch)[0]
    zero = sum(1 << (n_qubits - 1 - wire) for wire in controls)
    expected = np.zeros(2**n_qubits, complex)
    expected[zero] = np.sin(0.2) * phases[-1]
    expected[zero | 1 << (n_qubits - 1 - target)] = np.cos(0.2) * phases[-1]
    assert_close(state, expected, precision)


# Checkpoints too large to keep


@functools.cache
def deep_layers(dense):
    """Return 12 qubits and 60 layers: 120 states of a tile are more than 48 MiB."""
    circuit = ry_rz_ladder(12, 60)
    if dense:
        rng = np.random.default_rng(3)
        operations = list(circuit.operations)
        for position in (1500, 1000, 700, 200):
            operations.insert(position, gates.QubitUnitary(random_unitary(4, rng), [7, 2]))
        phases = np.exp(1j * rng.uniform(-3, 3, 128))
        operations.insert(900, gates.DiagonalQubitUnitary(phases, range(2, 9)))
        operations.insert(300, gates.RX(x(0), 4))
        circuit = Circuit(12, operations)
    rng = np.random.default_rng(0)
    parameters = rng.uniform(-3, 3, circuit.n_parameters)
    inputs = rng.uniform(-3, 3, (16, circuit.n_inputs))
    states = random_states(16, 12, rng)
    batch = Batch(16, parameters, inputs, states)
    observables = [Observable.sum_z(12), Observable("X0 Y5 - 0.5 Z11")]
    few = rows_of(batch, [0, 9])
    return circuit, batch, observables, CpuBackend("sample").adjoint(circuit, few, observables, ALL)


@pytest.mark.parametrize("dense", [False, True])
def test_states_are_recomputed_where_checkpoints_do_not_fit(dense, instruction_set, precision):
    circuit, batch, observables, expected = deep_layers(dense)
    given = dataclasses.replace(batch, precision=precision)
    result = CpuBackend("batch").adjoint(circuit, given, observables, ALL)
    chosen = type(result)(
        *(part[[0, 9]] for part in (result.values, result.parameters, result.inputs, result.states))
    )
    assert_same_gradients(chosen, expected, circuit, 12, precision)


def test_recomputed_gradients_are_finite_differences():
    circuit, batch, observables, _ = deep_layers(True)
    few = rows_of(batch, 3)
    backend = CpuBackend("batch")
    result = backend.adjoint(circuit, few, observables, frozenset({"parameters"}))
    for index in (0, 777, circuit.n_parameters - 1):
        step = np.zeros(circuit.n_parameters)
        step[index] = 1e-5
        ahead, behind = (
            backend.expectation(
                circuit,
                dataclasses.replace(few, parameters=few.parameters + sign * step),
                observables,
            )
            for sign in (1, -1)
        )
        slope = (ahead - behind) / 2e-5
        np.testing.assert_allclose(result.parameters[:, :, index], slope, rtol=0, atol=1e-7)


def test_shifts_without_kept_prefixes(precision):
    circuit, batch, observables, _ = deep_layers(True)
    few = rows_of(batch, 3, precision)
    slots = [k for k, operation in enumerate(circuit.operations) if operation.angles]
    shifts = [
        (),
        ((slots[5], 0, 0.5),),
        ((slots[-1], 0, np.pi / 2),),
        ((slots[700], 0, 1.0), (slots[40], 0, -0.2)),
    ]
    actual = CpuBackend("batch").shifted_expectation(circuit, few, observables, shifts)
    for evaluation, shift in enumerate(shifts):
        operations = list(circuit.operations)
        for position, _, amount in shift:
            angle = operations[position].angles[0] + amount
            operations[position] = dataclasses.replace(operations[position], angles=(angle,))
        exact = dataclasses.replace(few, precision="double")
        expected = CpuBackend("sample").expectation(Circuit(12, operations), exact, observables)
        assert_close(actual[evaluation], expected, precision, 12, depth_of(circuit))


# The laws of a batch


BATCH_CASES = [case for case in CASES if case.n_qubits in (4, 7, 9, 10)]


def assert_all_close(actual, expected, bound):
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def bound_of(circuit, observables):
    return 1e-13 * weight_of(observables) * slope_of(circuit)


@pytest.mark.parametrize("case", BATCH_CASES, ids=str)
def test_a_batch_is_a_loop_over_its_rows(case):
    circuit, batch, observables = problem(case)
    rows = min(case.max_rows, 11)
    backend = CpuBackend()
    together = everything(backend, circuit, rows_of(batch, rows), observables)
    alone = [
        everything(backend, circuit, rows_of(batch, slice(row, row + 1)), observables)
        for row in range(rows)
    ]
    looped = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    assert_all_close(together, looped, bound_of(circuit, observables))


@pytest.mark.parametrize("case", BATCH_CASES, ids=str)
def test_the_order_of_rows_does_not_matter(case):
    circuit, batch, observables = problem(case)
    rows = min(case.max_rows, 17)
    order = np.random.default_rng(0).permutation(rows)
    straight = everything(CpuBackend(), circuit, rows_of(batch, rows), observables)
    turned = everything(CpuBackend(), circuit, rows_of(batch, order), observables)
    expected = [part[order] for part in straight]
    assert_all_close(turned, expected, bound_of(circuit, observables))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("case", ["features:float64:100", "features:complex64:128"])
def test_a_row_of_nonsense_stays_alone(bad, case, layout):
    # The verbs refuse such rows; should one come through, it must not spoil its neighbours.
    circuit, batch, observables = problem(Case(7, "rotations", case, per_row=True, max_rows=9))
    spoilt = batch.states.copy()
    spoilt[4] = bad
    others = [row for row in range(9) if row != 4]
    backend = CpuBackend(layout)
    right = everything(backend, circuit, batch, observables)
    given = dataclasses.replace(batch, states=spoilt)
    for one, other in zip(everything(backend, circuit, given, observables), right, strict=True):
        assert one[others].tobytes() == other[others].tobytes()


@pytest.mark.parametrize(
    ("case", "layout"),
    [(case, "batch") for case in BATCH_CASES]
    + [(case, "sample") for case in BATCH_CASES if case.n_qubits >= 7],
    ids=str,
)
def test_thread_counts_and_repetition(case, layout, threads):
    circuit, batch, observables = problem(case)
    backend = CpuBackend(layout)
    for rows in (1, case.max_rows):
        given = rows_of(batch, rows)
        results = []
        for count in (1, 2, 3):
            threads(count)
            once, again = (everything(backend, circuit, given, observables) for _ in range(2))
            for one, other in zip(once, again, strict=True):
                assert one.tobytes() == other.tobytes(), "a repeated call gives other bits"
            results.append(once)
        for result in results[1:]:
            assert_all_close(result, results[0], bound_of(circuit, observables))


def test_threads_share_one_state(threads, precision):
    # Few rows of many qubits: the threads share the amplitudes of a row.
    circuit = random_circuit(13, 5, n_gates=30, n_inputs=0)
    rng = np.random.default_rng(0)
    parameters = random_numbers(circuit, 1, 0)[0]
    batch = Batch(1, parameters, None, random_states(1, 13, rng), precision=precision)
    observables = random_observables(13, 0)
    results = []
    for count in (1, 2, 3, 5):
        threads(count)
        results.append(everything(CpuBackend("sample"), circuit, batch, observables))
    bound = bound_of(circuit, observables) * (1 if precision == "double" else 1e8)
    for result in results[1:]:
        assert_all_close(result, results[0], bound)


# Several callers


def test_python_threads_may_call_at_once(threads):
    threads(3)
    problems = [problem(case) for case in CASES if case.n_qubits in (6, 9)]
    expected = [everything(CpuBackend(), *given) for given in problems]

    def work(worker):
        for turn in range(8):
            number = (turn + worker) % len(problems)
            for one, other in zip(
                everything(CpuBackend(), *problems[number]), expected[number], strict=True
            ):
                assert one.tobytes() == other.tobytes()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(2)))


def test_thread_counts_may_change_during_a_call():
    result = run_script(
        """
        import threading, time
        import numpy as np
        from qdp import _core
        from qdp.ansatz import ry_rz_ladder
        from qdp.backends.base import Batch
        from qdp.backends.cpu import CpuBackend
        from qdp.circuit import Observable

        circuit = ry_rz_ladder(10, 2)
        batch = Batch(64, np.linspace(-1, 1, circuit.n_parameters))
        wrt = frozenset({"parameters"})
        stop = threading.Event()

        def change():
            while not stop.is_set():
                for count in (1, 8):
                    _core.set_thread_count(count)

        changer = threading.Thread(target=change)
        changer.start()
        results, end = set(), time.monotonic() + 1.0
        while time.monotonic() < end:
            result = CpuBackend().adjoint(circuit, batch, [Observable.z(0)], wrt)
            results.add(result.parameters.tobytes())
        stop.set()
        changer.join()
        assert len(results) == 1
        """
    )
    assert result.returncode == 0, (result.returncode, result.stderr)


def test_python_goes_on_during_a_call():
    circuit = ry_rz_ladder(12, 20)
    batch = Batch(256, np.linspace(-3, 3, circuit.n_parameters))
    backend = CpuBackend()
    observables = [Observable.sum_z(12)]
    backend.expectation(circuit, batch, observables)
    span = []

    def work():
        span.append(time.perf_counter())
        backend.adjoint(circuit, batch, observables, frozenset({"parameters"}))
        span.append(time.perf_counter())

    caller = threading.Thread(target=work)
    ticks = []
    caller.start()
    while caller.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    caller.join()
    begin, end = span
    length = end - begin
    inside = [tick for tick in ticks if begin + 0.1 * length < tick < end - 0.1 * length]
    assert len(inside) >= 5, f"{len(inside)} turns of Python in a call of {length:.3f} s"


def run_script(script, **environment):
    """Run Python in a fresh process with these variables; return its result."""
    kept = {k: v for k, v in os.environ.items() if k not in ("QDP_ISA", "QDP_NUM_THREADS")}
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_calls_work_after_a_fork():
    result = run_script(
        """
        import os, signal, threading
        import numpy as np
        from qdp import _core
        from qdp.ansatz import ry_rz_ladder
        from qdp.backends.base import Batch
        from qdp.backends.cpu import CpuBackend
        from qdp.circuit import Observable

        signal.alarm(40)  # a hang ends, in the children too
        _core.set_thread_count(3)
        circuit = ry_rz_ladder(10, 3)
        batch = Batch(50, np.linspace(-3, 3, circuit.n_parameters))

        def run():
            wrt = frozenset({"parameters"})
            return CpuBackend().adjoint(circuit, batch, [Observable.sum_z(10)], wrt).parameters

        expected = run().tobytes()

        def child(generations):
            process = os.fork()
            if process:
                return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            signal.alarm(20)
            right = run().tobytes() == expected
            if right and generations:
                right = child(generations - 1) == 0
            os._exit(0 if right and run().tobytes() == expected else 1)

        for _ in range(3):
            assert child(1) == 0
        assert run().tobytes() == expected
        # Also while another thread is in the middle of a call.
        stop = threading.Event()
        def keep_busy():
            while not stop.is_set():
                run()
        busy = threading.Thread(target=keep_busy)
        busy.start()
        codes = [child(0) for _ in range(10)]
        stop.set()
        busy.join()
        assert codes == [0] * 10, codes
        print("done")
        """
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


# The environment


@pytest.mark.parametrize("name", EVERY_SET)
def test_the_environment_chooses_the_instruction_set(name):
    if name not in PRESENT:
        pytest.skip(f"this processor has no {name}, only {', '.join(PRESENT)}")
    script = "from qdp import _core; print(_core.instruction_set())"
    result = run_script(script, QDP_ISA=name)
    assert (result.returncode, result.stdout.strip()) == (0, name), result.stderr


def test_a_bad_instruction_set_in_the_environment_is_an_error():
    result = run_script(
        """
        from qdp import _core
        from qdp.backends.base import Batch
        from qdp.backends.cpu import CpuBackend
        from qdp.circuit import Circuit
        import numpy as np

        for _ in range(2):
            try:
                CpuBackend().state(Circuit(2), Batch(1, np.zeros(0)))
            except ValueError as error:
                print(error)
        """,
        QDP_ISA="avx1024",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.endswith(f"({', '.join(PRESENT)}), got 'avx1024'"), line


def test_the_environment_sets_the_number_of_threads():
    script = "from qdp import _core; print(_core.thread_count())"
    assert run_script(script, QDP_NUM_THREADS="5").stdout == "5\n"
    assert run_script(script).stdout == f"{len(os.sched_getaffinity(0))}\n"


# Bad arguments


def bad_calls():
    """Return (what is wrong, arguments of _core.run_double that differ from a right call)."""
    n = np.zeros
    return {
        "parameters of the wrong dtype": {"parameters": n(6, np.float32)},
        "too few parameters": {"parameters": n(5)},
        "too many parameters": {"parameters": n(7)},
        "no parameters": {"parameters": None},
        "parameters that are no array": {"parameters": [0.0] * 6},
        "parameters per row for one row": {"parameters_per_row": True},
        "no inputs": {"inputs": None},
        "inputs of the wrong size": {"inputs": n((2, 3))},
        "inputs of the wrong dtype": {"inputs": n((3, 1), np.float32)},
        "states with too many columns": {"states": n((3, 17))},
        "states without columns": {"states": n((3, 0))},
        "states with too few rows": {"states": n((2, 16))},
        "states of one dimension": {"states": n(48)},
        "states of integers": {"states": n((3, 16), np.int64)},
        "states of half precision": {"states": n((3, 16), np.float16)},
        "indices out of range": {"indices": np.array([0, 16, 0])},
        "negative indices": {"indices": np.array([0, -1, 0])},
        "indices of the wrong dtype": {"indices": n(3, np.int32)},
        "too few indices": {"indices": n(2, np.int64)},
        "values of the wrong dtype": {"values": n((3, 2), np.float32)},
        "values of the wrong size": {"values": n((3, 1))},
        "values that cannot be written": {"values": read_only((3, 2))},
        "values that are not contiguous": {"values": n((3, 4))[:, ::2]},
        "values in Fortran's order": {"values": n((3, 2), order="F")},
        "cotangents of the wrong size": {"cotangents": n((3, 1))},
        "a parameter gradient of the wrong size": {"parameter_gradient": n((3, 2, 5))},
        "a contracted gradient of the wrong size": {
            "parameter_gradient": n((3, 2, 6)),
            "cotangents": n((3, 2)),
        },
        "an input gradient of the wrong dtype": {"input_gradient": n((3, 2, 1), np.float32)},
        "a state gradient of reals": {"state_gradient": n((3, 2, 16))},
        "final states of the wrong dtype": {"final_states": n((3, 16), np.complex64)},
        "final states of the wrong size": {"final_states": n((3, 15), np.complex128)},
        "probabilities of the wrong size": {
            "probabilities": n((3, 2)),
            "probability_bits": [0, 1],
        },
        "probabilities of a bit out of range": {
            "probabilities": n((3, 2)),
            "probability_bits": [4],
        },
        "probabilities of a negative bit": {
            "probabilities": n((3, 2)),
            "probability_bits": [-1],
        },
        "a shift out of range": {"shifts": [[(1000, 0.1)]], "shifted_values": n((1, 3, 2))},
        "a negative shift": {"shifts": [[(-1, 0.1)]], "shifted_values": n((1, 3, 2))},
        "no room for shifted values": {"shifts": [[(0, 0.1)]]},
        "too little room for shifted values": {
            "shifts": [[(0, 0.1)]] * 2,
            "shifted_values": n((1, 3, 2)),
        },
        "more rows than there are": {"rows": 4},
        "fewer rows than none": {"rows": -1},
        "a program that is none": {"program": None},
        "another layout": {"layout": 3},
    }


def read_only(shape):
    array = np.zeros(shape)
    array.flags.writeable = False
    return array


def right_call():
    circuit = Circuit(4, [*ry_rz_ladder(4, 1).operations[:6], gates.RX(x(0), 0)])
    _, native = _native_program(circuit, (Observable.z(0), Observable.x(1)), False)
    return {
        "program": native,
        "rows": 3,
        "parameters": np.zeros(6),
        "parameters_per_row": False,
        "inputs": np.zeros((3, 1)),
        "states": None,
        "indices": None,
        "values": np.zeros((3, 2)),
    }


def test_the_right_call_is_right():
    call = right_call()
    _core.run_double(**call)
    np.testing.assert_array_equal(call["values"], [[1, 0]] * 3)


@pytest.mark.parametrize("what", bad_calls())
def test_bad_arguments_raise(what):
    with pytest.raises((ValueError, TypeError)):
        _core.run_double(**{**right_call(), **bad_calls()[what]})


def right_program():
    return {
        "n_qubits": 2,
        "n_parameters": 1,
        "n_inputs": 0,
        "n_observables": 1,
        "x": np.array([1], np.uint32),
        "z": np.array([0], np.uint32),
        "angles": [(1, 0, 1.0, 0.0)],
        "steps": [(0, [0], 0)],
        "denses": [],
        "permutations": [],
        "tables": [],
        "groups": [(0, 0, np.array([1], np.uint32), np.array([1], np.complex128))],
        "phases": [],
        "phase_constant": 0.0,
    }


def bad_programs():
    words, numbers = np.array([1], np.uint32), np.array([1], np.complex128)
    order, turns = np.arange(4, dtype=np.uint32), np.zeros(4, np.uint8)
    matrix = np.eye(2).astype(complex).ravel()
    return {
        "no qubits": {"n_qubits": 0},
        "too many qubits": {"n_qubits": 31},
        "fewer parameters than none": {"n_parameters": -1},
        "fewer observables than none": {"n_observables": -1, "groups": []},
        "words and angles that differ in number": {"x": np.array([1, 1], np.uint32)},
        "a word out of range": {"x": np.array([4], np.uint32)},
        "a z word out of range": {"z": np.array([4], np.uint32)},
        "an unknown source": {"angles": [(3, 0, 1.0, 0.0)]},
        "a parameter out of range": {"angles": [(1, 1, 1.0, 0.0)]},
        "a negative parameter": {"angles": [(1, -1, 1.0, 0.0)]},
        "an input out of range": {"angles": [(2, 0, 1.0, 0.0)]},
        "a phase out of range": {"phases": [(1, 5, 1.0, 0.0)]},
        "an unknown step": {"steps": [(5, [0], 0)]},
        "a rotation out of range": {"steps": [(0, [1], 0)]},
        "a negative rotation": {"steps": [(0, [-1], 0)]},
        "a step that does not turn among rotations": {"x": np.array([0], np.uint32)},
        "a step that is no diagonal": {"steps": [(1, [0], 0)]},
        "an item out of range": {"steps": [(2, [], 0)]},
        "a negative item": {"denses": [(matrix, [0], 0, 0)], "steps": [(2, [], -1)]},
        "a matrix of the wrong size": {"denses": [(matrix[:3], [0], 0, 0)]},
        "a matrix on a bit out of range": {"denses": [(matrix, [2], 0, 0)]},
        "a permutation of the wrong size": {"permutations": [(order[:3], turns[:3])]},
        "a permutation out of range": {"permutations": [(order + 1, turns)]},
        "a phase of four quarter turns": {"permutations": [(order, turns + 4)]},
        "a table of the wrong size": {"tables": [matrix[:3]]},
        "an observable out of range": {"groups": [(1, 0, words, numbers)]},
        "a group of the wrong size": {"groups": [(0, 0, words, np.resize(numbers, 2))]},
        "a group's word out of range": {"groups": [(0, 0, words * 4, numbers)]},
        "a group's mask out of range": {"groups": [(0, 4, words, numbers)]},
    }


@pytest.mark.parametrize("what", bad_programs())
def test_bad_programs_raise(what):
    _core.Program(**right_program())
    script = f"""
        import signal
        signal.alarm(5)
        from qdp import _core
        import numpy as np
        from test_cpu import bad_programs, right_program
        arguments = {{**right_program(), **bad_programs()[{what!r}]}}
        try:
            program = _core.Program(**arguments)
            _core.run_double(program, 1, np.zeros(1), False, values=np.zeros((1, 1)))
        except (ValueError, TypeError) as error:
            print("raised", error)
    """
    # Only what the check lets through needs a process of its own, in case it hangs or crashes.
    try:
        _core.Program(**{**right_program(), **bad_programs()[what]})
    except (ValueError, TypeError):
        return
    result = run_script(script)
    assert result.stdout.startswith("raised"), (result.returncode, result.stderr)


def test_threads_are_at_least_one():
    for count in (0, -1):
        with pytest.raises(ValueError, match="1 to 1024 threads"):
            _core.set_thread_count(count)


# Laws


@st.composite
def problems(draw):
    """A circuit over the whole table, a batch, a backend and a precision."""
    seed = draw(st.integers(0, 10**6))
    n_qubits = draw(st.integers(1, 8))
    rows = draw(st.integers(1, 9))
    per_row = draw(st.booleans())
    precision = draw(st.sampled_from(["double", "single"]))
    layouts = ["auto", "batch"] + ["sample"] * (n_qubits >= 7)
    backend = CpuBackend(draw(st.sampled_from(layouts)))
    names = draw(st.sampled_from([None, ROTATION_NAMES, REAL_NAMES]))
    n_gates = draw(st.integers(1, 40))
    circuit = random_circuit(n_qubits, seed, n_gates, names=names)
    parameters, inputs = random_numbers(circuit, rows, seed, per_row)
    states = random_states(rows, n_qubits, np.random.default_rng([seed, 3]))
    if names is REAL_NAMES:
        states = states.real / np.linalg.norm(states.real, axis=1, keepdims=True)
    batch = Batch(rows, parameters, inputs, states, precision=precision)
    return circuit, batch, backend, seed


LAWS = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)


@LAWS
@given(problems())
def test_the_norm_is_kept_and_the_inverse_leads_back(given_problem):
    circuit, batch, backend, _ = given_problem
    depth = 2 * depth_of(circuit)
    final = backend.state(circuit, batch)
    norms = np.linalg.norm(final.astype(complex), axis=1).astype(batch.real_dtype)
    assert_close(norms, np.ones(batch.rows), batch.precision, depth=depth)
    back = backend.state(circuit + circuit.adjoint(), batch)
    assert_close(back, batch.states.astype(complex), batch.precision, depth=depth)
    probabilities = backend.probabilities(circuit, batch, range(circuit.n_qubits))
    expected = np.abs(final.astype(complex)) ** 2
    assert_close(probabilities, expected, batch.precision, depth=depth)


@LAWS
@given(problems(), st.floats(-3, 3), st.floats(-3, 3))
def test_values_and_gradients_are_linear_in_the_observable(given_problem, a, b):
    circuit, batch, backend, seed = given_problem
    one, other = random_observables(circuit.n_qubits, seed)[1:3]
    mixture = a * one + b * other
    result = backend.adjoint(circuit, batch, [one, other, mixture], ALL)
    weight = 1 + abs(a) * one.weight + abs(b) * other.weight
    depth = depth_of(circuit)
    for what, size in (("values", 1), ("parameters", slope_of(circuit)), ("states", 2)):
        part = getattr(result, what)
        expected = a * part[:, 0].astype(np.result_type(part, 1.0)) + b * part[:, 1]
        expected = expected.astype(complex if part.dtype.kind == "c" else float)
        assert_close(part[:, 2], expected, batch.precision, 2 * weight * size, depth)


TWO_TERM_NAMES = [
    *("RX", "RY", "RZ", "PhaseShift", "IsingXX", "IsingYY", "IsingZZ", "MultiRZ", "PauliRot"),
    *("Hadamard", "S", "SX", "CNOT", "CZ", "ISWAP", "T", "Toffoli", "QubitUnitary"),
]


@LAWS
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 9), st.booleans())
def test_shifts_are_the_gradient(seed, n_qubits, rows, per_row):
    circuit = random_circuit(n_qubits, seed, 20, n_parameters=4, names=TWO_TERM_NAMES)
    parameters, inputs = random_numbers(circuit, rows, seed, per_row)
    batch = Batch(rows, parameters, inputs)
    observables = random_observables(n_qubits, seed)[:2]
    backend = CpuBackend()
    slots = [
        (position, operation.angles[0])
        for position, operation in enumerate(circuit.operations)
        if operation.angles and operation.angles[0].kind == "parameter"
    ]
    shifts = [((position, 0, sign * np.pi / 2),) for position, _ in slots for sign in (1, -1)]
    shifted = backend.shifted_expectation(circuit, batch, observables, shifts)
    expected = np.zeros((rows, 2, circuit.n_parameters))
    for k, (_, angle) in enumerate(slots):
        slope = angle.scale * (shifted[2 * k] - shifted[2 * k + 1]) / 2
        expected[:, :, angle.index] += slope
    actual = backend.adjoint(circuit, batch, observables, frozenset({"parameters"})).parameters
    assert_close(actual, expected, "double", 2 * weight_of(observables) * slope_of(circuit))


def test_evaluations_without_shifts_run_on_all_threads():
    # Nothing to shift, many tiles at once: every one must find the program's steps known.
    circuit = Circuit(4, [gates.RX(0.3, 0), gates.CNOT([0, 1]), gates.RY(0.2, 1)])
    batch = Batch(512, np.zeros(0))
    observables = [Observable("Z0 + Z1")]
    expected = REFERENCE.expectation(circuit, Batch(1, np.zeros(0)), observables)
    for _ in range(20):
        actual = CpuBackend().shifted_expectation(circuit, batch, observables, [(), (), ()])
        np.testing.assert_allclose(actual, np.broadcast_to(expected, (3, 512, 1)), atol=1e-12)


# Programs that are kept


def test_programs_are_kept_up_to_a_number_of_bytes(monkeypatch):
    built = []

    def build(n, scale=1):
        built.append(n)
        return bytes(n)

    cached = memory.cached_by_bytes(len, limit=100)(build)
    assert [len(cached(n)) for n in (40, 50, 40)] == [40, 50, 40]
    assert built == [40, 50]
    assert cached.kept_bytes() == 90
    cached(30)  # the least recently used, 50, goes
    assert cached.kept_bytes() == 70
    cached(40)
    cached(50)
    assert built == [40, 50, 30, 50]
    cached(101)
    cached(101)
    assert built[-2:] == [101, 101]
    assert cached.kept_bytes() == 90
    cached(40, scale=2)
    assert built[-1] == 40


def test_a_large_observable_counts_its_table():
    circuit = ry_rz_ladder(20, 1)
    compiled = _native_program(circuit, (Observable.sum_z(20),), False)
    size = _native_bytes(compiled)
    assert 8 * 2**20 < size < 32 * 2**20
    assert _native_program.kept_bytes() <= 256 * 2**20


# Encoders


@pytest.mark.parametrize("encoding", ["amplitude", "phase", "iqp", "zz-feature-map"])
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4, 9])
def test_encoders_on_every_instruction_set(instruction_set, encoding, n_qubits, precision):
    chosen = encodings.from_name(encoding)
    features = np.random.default_rng(2).normal(size=(3, chosen.n_features(n_qubits)))
    options = {"n_qubits": n_qubits, "precision": precision}
    expected = qdp.encode(features, chosen, backend="reference", **options)
    assert_close(qdp.encode(features, chosen, backend="cpu", **options), expected, precision)


PREPARED = [
    encodings.Angle(),
    encodings.Angle(rotation="Y", scale=0.7),
    encodings.Phase(),
    encodings.IQPZ(),
    encodings.IQP(),
    encodings.IQPEmbedding(n_repeats=3),
    encodings.ZZFeatureMap(entanglement="linear"),
]


@pytest.mark.parametrize("encoding", PREPARED, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("n_qubits", [1, 2, 5, 8])
def test_states_worked_out_at_the_load(instruction_set, layout, encoding, n_qubits, precision):
    backend = backend_of(layout, n_qubits, instruction_set, precision)
    if backend is None:
        return
    circuit = ry_rz_ladder(n_qubits, 2)
    rng = np.random.default_rng(5)
    parameters = rng.normal(size=circuit.n_parameters)
    # A whole tile and a bit of one.
    features = rng.normal(size=(lanes_of(instruction_set, precision) + 3, n_qubits))
    if isinstance(encoding, encodings.IQP):
        features = rng.normal(size=(len(features), encoding.n_features(n_qubits)))
    # Angles beyond what the vector routine for sines takes; products would round before it.
    if not isinstance(encoding, encodings.ProductPhases):
        features[1] *= 1e5
    options = {"encoding": encoding, "precision": precision}
    observable = "0.5 Z0 + X0"
    for verb in (qdp.gradient, qdp.expectation):
        expected = verb(
            circuit, parameters, features, observable, backend=REFERENCE, encoding=encoding
        )
        found = verb(circuit, parameters, features, observable, backend=backend, **options)
        assert_close(found, expected, precision)
        alone = [
            verb(circuit, parameters, row, observable, backend=backend, **options)
            for row in features[:2]
        ]
        assert_close(found[:2], np.array(alone), precision)
    expected = qdp.state(circuit, parameters, features, backend=REFERENCE, encoding=encoding)
    assert_close(
        qdp.state(circuit, parameters, features, backend=backend, **options), expected, precision
    )


# n, rows, rows at a time by the sample layout: narrow lines, one row shared by the threads.
@pytest.mark.parametrize(("n_qubits", "rows"), [(13, 5), (14, 9), (15, 1), (16, 1)])
@pytest.mark.parametrize("encoding", [encodings.Angle(), encodings.IQPEmbedding(n_repeats=2)])
def test_large_states_worked_out_at_the_load(encoding, n_qubits, rows, precision, threads):
    threads(2)
    circuit = ry_rz_ladder(n_qubits, 1)
    rng = np.random.default_rng(7)
    parameters = rng.normal(size=circuit.n_parameters)
    features = rng.normal(size=(rows, n_qubits))
    states = qdp.encode(features, encoding, backend="reference")
    options = {"backend": "cpu", "precision": precision}
    for verb in (qdp.gradient, qdp.expectation):
        found = verb(circuit, parameters, features, "Z0 + X1", encoding=encoding, **options)
        assert_close(found, verb(circuit, parameters, states, "Z0 + X1", **options), precision)


def test_shifts_and_shots_of_states_worked_out_at_the_load(layout, precision):
    encoding = encodings.IQPEmbedding(n_repeats=2)
    circuit = ry_rz_ladder(7, 1)
    rng = np.random.default_rng(8)
    parameters, features = rng.normal(size=14), rng.normal(size=(5, 7))
    states = qdp.encode(features, encoding, backend="reference")
    options = {"backend": CpuBackend(layout), "precision": precision}
    for more in ({}, {"shots": 50, "seed": 3}):
        found, expected = (
            qdp.gradient(
                circuit, parameters, rows, "Z0 + X1", method="parameter-shift", **given,
                **options, **more,
            )
            for rows, given in ((features, {"encoding": encoding}), (states, {}))
        )  # fmt: skip
        assert_close(found, expected, precision)


def test_shifts_of_states_worked_out_at_the_load_without_kept_prefixes(precision):
    # Four states on the way are more than are kept: every evaluation loads its row anew.
    n_qubits = 20 if precision == "double" else 21
    circuit, encoding = ry_rz_ladder(n_qubits, 3), encodings.IQP()
    rng = np.random.default_rng(9)
    parameters = rng.normal(size=circuit.n_parameters)
    features = rng.normal(size=(1, encoding.n_features(n_qubits)))
    layer = 3 * n_qubits - 1
    shifts = [(), *(((k * layer, 0, 0.3 - k),) for k in range(3))]
    preparation = Preparation.of(encoding, features, n_qubits)
    found, expected = (
        CpuBackend().shifted_expectation(
            circuit, Batch(1, parameters, precision=precision, **start), (Observable("Z0"),), shifts
        )
        for start in (
            {"preparation": preparation},
            {"states": qdp.encode(features, encoding, backend="reference")},
        )
    )
    assert_close(found, expected, precision)


def test_walks_back_over_real_states(instruction_set, layout, precision):
    # Two steps of real rotations before the first phases: only one plane is walked there.
    n_qubits = 8
    operations = [
        *(gates.RY(p(q), q) for q in range(8)),
        *(gates.CNOT([q, q + 1]) for q in range(7)),
        *(gates.RY(p(8 + q), q) for q in range(8)),
        *(gates.CNOT([q, (q + 3) % 8]) for q in range(8)),
        *(gates.RY(p(16 + q), q) for q in range(0, 8, 2)),
        *(gates.RZ(p(20 + q), q) for q in range(8)),
        *(gates.RX(p(28 + q), q) for q in range(8)),
    ]
    circuit = Circuit(n_qubits, operations)
    backend = backend_of(layout, n_qubits, instruction_set, precision)
    rng = np.random.default_rng(10)
    states = rng.normal(size=(11, 2**n_qubits))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    batch = Batch(11, rng.normal(size=36), states=states, precision=precision)
    observables = (Observable("Z0 + 0.3 Z1 Z5"), Observable("X3"))
    cotangents = rng.normal(size=(11, 2))
    for weights in (None, cotangents):
        found, expected = (
            one.adjoint(circuit, batch, observables, frozenset({"parameters"}), weights)
            for one in (backend, REFERENCE)
        )
        assert_close(found.values, expected.values, precision)
        assert_close(found.parameters, expected.parameters, precision)


@pytest.mark.parametrize("n_qubits", [2, 3, 6])
def test_phases_of_every_row(instruction_set, n_qubits, precision):
    # More Z words than are independent: tables of them, and words that stay alone.
    pairs = [(i, j) for i in range(n_qubits) for j in range(i)]
    operations = [gates.RY(p(q), q) for q in range(n_qubits)]
    operations += [gates.CNOT([q, q + 1]) for q in range(n_qubits - 1)]
    operations += [gates.RZ(x(q), q) for q in range(n_qubits)]
    operations += [gates.MultiRZ(0.3 * x(k), pair) for k, pair in enumerate(pairs, n_qubits)]
    operations += [gates.RX(p(n_qubits + q), q) for q in range(n_qubits)]
    circuit = Circuit(n_qubits, operations)
    rng = np.random.default_rng(11)
    rows = lanes_of(instruction_set, precision) + 1
    batch = Batch(
        rows,
        rng.normal(size=2 * n_qubits),
        rng.normal(size=(rows, circuit.n_inputs)),
        random_states(rows, n_qubits, rng),
        precision=precision,
    )
    observables = (Observable("Z0 + 0.4 X1"),)
    found, expected = (
        backend.adjoint(circuit, batch, observables, ALL) for backend in (CpuBackend(), REFERENCE)
    )
    for name in ("values", "parameters", "inputs", "states"):
        assert_close(getattr(found, name), getattr(expected, name), precision)


@pytest.mark.parametrize("encoding", PREPARED, ids=lambda encoding: encoding.name)
def test_encodings_run_as_gates_only_where_features_are_differentiated(encoding, monkeypatch):
    circuit = ry_rz_ladder(3, 1)
    rng = np.random.default_rng(6)
    parameters = rng.normal(size=circuit.n_parameters)
    features = rng.normal(size=(4, encoding.n_features(3)))
    backend, seen = CpuBackend(), []
    monkeypatch.setattr(
        CpuBackend,
        "adjoint",
        lambda self, ran, *given, real=CpuBackend.adjoint: (
            seen.append(len(ran.operations)) or real(self, ran, *given)
        ),
    )
    run = functools.partial(
        qdp.gradient, circuit, parameters, features, "Z1", encoding=encoding, backend=backend
    )
    alone = run(wrt="parameters")
    both = run(wrt=("parameters", "states"))
    own = len(circuit.operations)
    assert seen[0] == own
    assert seen[1] > own
    assert_close(both[0], alone, "double")


def test_the_number_of_threads_may_change_while_encoders_run():
    before = _core.thread_count()
    features = np.random.default_rng(3).normal(size=(600, 9))
    expected = qdp.encode(features, "angle", backend="reference")
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for count in (1, 2, 3, 4):
                _core.set_thread_count(count)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(100):
            found = qdp.encode(features, "angle", backend="cpu")
    finally:
        stop.set()
        changing.join()
        _core.set_thread_count(before)
    assert_close(found, expected, "double")


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32, np.complex64])
def test_overlaps(instruction_set, dtype):
    random = np.random.default_rng(9)
    single = np.dtype(dtype).name in ("float32", "complex64")
    precision = "single" if single else "double"
    for left_rows, right_rows, size in [(1, 1, 2), (9, 50, 8), (33, 17, 256), (8, 24, 1024)]:
        left, right = random_states(left_rows, 10, random), random_states(right_rows, 10, random)
        left, right = left[:, :size], right[:, :size]
        if np.dtype(dtype).kind == "f":
            left, right = left.real, right.real
        left, right = (np.ascontiguousarray(states, dtype) for states in (left, right))
        wide = left.astype(complex), right.astype(complex)
        out = np.full((left_rows, right_rows), np.nan, DTYPES[precision, "f"])
        _core.overlaps(left, right, out)
        assert_close(out, np.abs(wide[0] @ wide[1].conj().T) ** 2, precision)
        own = np.full((left_rows, left_rows), np.nan, out.dtype)
        _core.overlaps(left, left, own)
        assert_close(own, np.abs(wide[0] @ wide[0].conj().T) ** 2, precision)
        # A pair's value does not depend on its neighbours.
        alone = np.full((1, 1), np.nan, out.dtype)
        _core.overlaps(left[-1:].copy(), right[:1].copy(), alone)
        assert alone[0, 0] == out[-1, 0]


class Alarm(Exception):
    """What the handler below raises, as Python's own raises KeyboardInterrupt."""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_stops_a_call(threads):
    def handler(*_):
        # A handler may call the engine itself.
        found.append(qdp.expectation(small, [0.3, 0.2], observable="Z0"))
        raise Alarm

    small = ry_rz_ladder(1, 1)
    circuit = ry_rz_ladder(14, 2)
    angles = np.random.default_rng(1).normal(size=(5000, circuit.n_parameters))
    found = []
    before, previous = _core.thread_count(), signal.signal(signal.SIGALRM, handler)
    _core.set_thread_count(threads)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Alarm):
            qdp.gradient(circuit, angles, observable="Z0", method="parameter-shift")
        # The whole call takes more than a minute on the fastest machine seen.
        assert time.monotonic() - start < 15
        assert_close(found[0], np.cos([0.3]), "double")
        assert_close(qdp.expectation(small, [0.3, 0.2], observable="Z0"), np.cos([0.3]), "double")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        _core.set_thread_count(before)
