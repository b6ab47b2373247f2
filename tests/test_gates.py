# SPDX-License-Identifier: Apache-2.0
"""The gate table, row by row: every fact in it is checked against another."""

import math
import pickle

import numpy as np
import pytest
from samples import random_unitary, sample_operation, to_pennylane

from qdp import gates
from qdp.circuit import Circuit

NAMES = list(gates.TABLE)
SEEDS = range(3)
ISSUED = (
    "Identity PauliX PauliY PauliZ Hadamard S T SX Sdg Tdg SXdg PhaseShift RX RY RZ Rot U1 U2 U3 "
    "CNOT CZ CY CH SWAP ISWAP CRX CRY CRZ CRot ControlledPhaseShift IsingXX IsingYY IsingZZ "
    "IsingXY MultiRZ PauliRot SingleExcitation ECR CCZ Toffoli CSWAP MultiControlledX "
    "QubitUnitary DiagonalQubitUnitary GlobalPhase"
)


def samples(name):
    sizes = (1, 2, 3, 4) if gates.TABLE[name].n_wires is None else (None,)
    for seed in SEEDS:
        for size in sizes:
            if size is None or size >= gates.TABLE[name].min_wires:
                yield sample_operation(name, seed, size)


def values(operation):
    assert all(angle.is_constant for angle in operation.angles)
    return [angle.offset for angle in operation.angles]


def unitary(operation):
    return operation.matrix_value(values(operation))


def embed(matrix, positions, n_wires):
    """Return ``matrix`` on the given positions of ``n_wires`` wires, by tracking each basis state.

    Written apart from the library, which this judges.
    """
    size = 2**n_wires
    full = np.zeros((size, size), dtype=complex)
    for column in range(size):
        bits = [column >> (n_wires - 1 - position) & 1 for position in range(n_wires)]
        inner = int("".join(str(bits[position]) for position in positions) or "0", 2)
        for outer in range(len(matrix)):
            new = list(bits)
            for offset, position in enumerate(positions):
                new[position] = outer >> (len(positions) - 1 - offset) & 1
            full[int("".join(map(str, new)) or "0", 2), column] += matrix[outer, inner]
    return full


CLIFFORD_MATRICES = {
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
    "H": np.array([[1, 1], [1, -1]]) / math.sqrt(2),
    "S": np.diag([1, 1j]),
    "SDG": np.diag([1, -1j]),
    "CNOT": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]),
    "CZ": np.diag([1, 1, 1, -1]),
    "SWAP": np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
}


def primitive_matrix(primitive, wires):
    """Return the primitive over ``wires``, (2**k, 2**k)."""
    n_wires = len(wires)
    if isinstance(primitive, gates.Phase):
        return np.exp(1j * primitive.angle.offset) * np.eye(2**n_wires)
    positions = [wires.index(wire) for wire in primitive.wires]
    if isinstance(primitive, gates.Clifford):
        return embed(CLIFFORD_MATRICES[primitive.name], positions, n_wires)
    if isinstance(primitive, gates.Rotation):
        word = np.eye(1)
        for letter in primitive.word:
            word = np.kron(word, CLIFFORD_MATRICES[letter])
        half = primitive.angle.offset / 2
        rotation = math.cos(half) * np.eye(len(word)) - 1j * math.sin(half) * word
        return embed(rotation, positions, n_wires)
    if isinstance(primitive, gates.Diagonal):
        return embed(np.diag(primitive.values), positions, n_wires)
    matrix = primitive.matrix
    for value in reversed(primitive.control_values):
        identity = np.eye(len(matrix))
        parts = [np.zeros_like(identity), matrix] if value else [matrix, np.zeros_like(identity)]
        parts[1 - value] = identity
        matrix = np.block(
            [[parts[0], np.zeros_like(identity)], [np.zeros_like(identity), parts[1]]]
        )
    controls = [wires.index(wire) for wire in primitive.controls]
    return embed(matrix, controls + positions, n_wires)


def product(primitives, wires):
    total = np.eye(2 ** len(wires), dtype=complex)
    for primitive in primitives:
        total = primitive_matrix(primitive, wires) @ total
    return total


def test_the_table_holds_every_gate_asked_for():
    assert set(NAMES) >= set(ISSUED.split())


@pytest.mark.parametrize("name", NAMES)
def test_row_describes_itself(name):
    gate = gates.TABLE[name]
    assert gate.name == name
    assert gate.constructor is getattr(gates, name)
    assert gate.doc.endswith(".")
    assert len(gate.frequencies) == len(gate.parameters)
    assert all(sorted(gaps) == list(gaps) and min(gaps, default=1) > 0 for gaps in gate.frequencies)
    assert gate.symbols is None or len(gate.symbols) == gate.n_wires


@pytest.mark.parametrize("name", NAMES)
def test_matrix_is_unitary(name):
    for operation in samples(name):
        matrix = unitary(operation)
        size = 2 ** len(operation.wires)
        assert matrix.shape == (size, size)
        assert matrix.dtype == np.complex128
        np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(size), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_matrix_is_pennylanes(name):
    qml = pytest.importorskip("pennylane")
    for operation in samples(name):
        theirs = qml.matrix(to_pennylane(operation, values(operation)), list(operation.wires))
        if name == "GlobalPhase":
            theirs = np.reshape(theirs, (1, 1))
        np.testing.assert_allclose(unitary(operation), theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_decomposition_is_exact_with_the_global_phase(name):
    for operation in samples(name):
        # Wires out of order and with gaps, as a gate meets them in a circuit.
        wires = tuple(7 - 2 * wire for wire in operation.wires)
        moved = gates.Operation(
            name,
            wires,
            operation.angles,
            operation.matrix,
            operation.word,
            operation.control_values,
        )
        actual = product(gates.decompose(moved), wires)
        np.testing.assert_allclose(actual, unitary(operation), rtol=0, atol=2e-14)


@pytest.mark.parametrize("name", NAMES)
def test_decomposition_keeps_to_the_primitives(name):
    for operation in samples(name):
        for primitive in gates.decompose(operation):
            hash(primitive)
            if isinstance(primitive, gates.Rotation):
                assert len(primitive.word) == len(primitive.wires) > 0
                assert set(primitive.word) <= set("XYZ")
            if isinstance(primitive, gates.Dense):
                assert name == "QubitUnitary"
                assert len(primitive.wires) > 1
            assert not isinstance(primitive, gates.Diagonal)


def test_decomposition_keeps_parameters_symbolic():
    rotation, controlled = gates.decompose(gates.CRX(gates.parameter(3) * 2 + 0.5, [4, 1]))
    assert rotation == gates.Rotation("X", (1,), gates.Angle("parameter", 3, 1.0, 0.25))
    assert controlled == gates.Rotation("ZX", (4, 1), gates.Angle("parameter", 3, -1.0, -0.25))
    assert gates.decompose(gates.GlobalPhase(gates.feature(0))) == (
        gates.Phase(gates.Angle("input", 0, -1.0)),
    )


def test_pauli_rot_drops_identities():
    angle = gates.parameter(0)
    assert gates.decompose(gates.PauliRot(angle, "IXIZ", [3, 2, 1, 0])) == (
        gates.Rotation("XZ", (2, 0), angle),
    )
    assert gates.decompose(gates.PauliRot(angle, "II", [0, 1])) == (gates.Phase(-angle / 2),)


def test_large_controls_and_diagonals_stay_whole():
    controls = gates.MultiControlledX(range(7), [1, 0, 1, 1, 0, 1])
    (dense,) = gates.decompose(controls)
    assert dense.wires == (6,)
    assert dense.controls == tuple(range(6))
    np.testing.assert_array_equal(product([dense], tuple(range(7))), unitary(controls))
    (small, *_) = gates.decompose(gates.MultiControlledX(range(6)))
    assert isinstance(small, gates.Clifford)
    diagonal = sample_operation("DiagonalQubitUnitary", 0, 7)
    (whole,) = gates.decompose(diagonal)
    assert isinstance(whole, gates.Diagonal)
    np.testing.assert_array_equal(product([whole], tuple(range(7))), unitary(diagonal))
    six = sample_operation("DiagonalQubitUnitary", 0, 6)
    expected = unitary(six)
    np.testing.assert_allclose(
        product(gates.decompose(six), six.wires), expected, rtol=0, atol=2e-14
    )


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(2),
        -np.eye(2),
        np.diag([1, 1j]),
        np.diag([1j, -1]),
        [[0, 1], [1, 0]],
        [[0, -1j], [1j, 0]],
        [[0, 1], [-1, 0]],
        np.array([[1, 1], [1, -1]]) / math.sqrt(2),
        [[math.cos(1e-9), -math.sin(1e-9)], [math.sin(1e-9), math.cos(1e-9)]],
        [[math.sin(1e-9), 1j * math.cos(1e-9)], [1j * math.cos(1e-9), math.sin(1e-9)]],
    ],
)
def test_special_one_wire_unitaries_decompose(matrix):
    primitives = gates.decompose(gates.QubitUnitary(matrix, 0))
    assert all(isinstance(p, gates.Rotation | gates.Phase) for p in primitives)
    np.testing.assert_allclose(product(primitives, (0,)), matrix, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_is_the_inverse(name):
    for operation in samples(name):
        inverse = operation.adjoint()
        assert inverse.wires == operation.wires
        identity = unitary(inverse) @ unitary(operation)
        np.testing.assert_allclose(identity, np.eye(len(identity)), rtol=0, atol=1e-14)
        twice = inverse.adjoint()
        assert twice.name == name
        np.testing.assert_allclose(unitary(twice), unitary(operation), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_text_round_trip(name):
    for operation in samples(name):
        circuit = Circuit(8, [operation])
        assert Circuit.from_text(circuit.text()) == circuit
    slots = len(gates.TABLE[name].parameters)
    if slots and name not in ("PauliRot",):
        angles = [-gates.feature(slot) / 3 - 0.1 for slot in range(slots)]
        wires = [range(gates.TABLE[name].min_wires)] if name != "GlobalPhase" else []
        circuit = Circuit(8, [gates.TABLE[name].constructor(*angles, *wires)])
        assert Circuit.from_text(circuit.text()) == circuit


@pytest.mark.parametrize("name", NAMES)
def test_operations_compare_hash_and_pickle_by_content(name):
    first, second = sample_operation(name, 0), sample_operation(name, 0)
    assert first == second
    assert hash(first) == hash(second)
    copy = pickle.loads(pickle.dumps(first))
    assert copy == first
    assert hash(copy) == hash(first)
    assert copy.matrix is None or not copy.matrix.flags.writeable
    assert first != gates.PauliRot(0.1, "XYZX", [4, 5, 6, 7])
    assert first != str(first)


@pytest.mark.parametrize("name", [name for name in NAMES if gates.TABLE[name].parameters])
def test_derivative_is_the_slope_of_the_matrix(name):
    step = 1e-3
    # Central differences of order 6, whose error is far below the rounding of the sum.
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    for operation in samples(name):
        for slot in range(len(operation.angles)):

            def at(shift, operation=operation, slot=slot):
                angles = values(operation)
                angles[slot] += shift
                return operation.matrix_value(angles)

            slope = sum(
                weight * (at(count * step) - at(-count * step)) / step
                for count, weight in weights.items()
            )
            exact = operation.derivative_value(values(operation), slot)
            np.testing.assert_allclose(exact, slope, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in NAMES if gates.TABLE[name].parameters])
def test_frequencies_are_the_gaps_of_the_generator(name):
    for operation in samples(name):
        for slot, frequencies in enumerate(gates.TABLE[name].frequencies):
            # U = exp(-i*angle*G) up to factors that do not depend on this angle.
            generator = (
                1j
                * unitary(operation).conj().T
                @ operation.derivative_value(values(operation), slot)
            )
            np.testing.assert_allclose(generator, generator.conj().T, rtol=0, atol=1e-14)
            levels = np.linalg.eigvalsh(generator)
            gaps = {round(float(gap), 9) for gap in np.subtract.outer(levels, levels).flat}
            assert sorted(gap for gap in gaps if gap > 0) == list(frequencies)


# Angles


def test_angle_arithmetic():
    angle = gates.parameter(2)
    assert angle == gates.Angle("parameter", 2, 1.0, 0.0)
    assert 2 * angle == angle * 2 == gates.Angle("parameter", 2, 2.0, 0.0)
    assert np.float64(2) * angle == 2 * angle
    assert np.int64(2) * angle + np.float32(0.5) == gates.Angle("parameter", 2, 2.0, 0.5)
    assert (angle + 0.5) / 2 == gates.Angle("parameter", 2, 0.5, 0.25)
    assert -(angle - 0.5) == gates.Angle("parameter", 2, -1.0, 0.5)
    assert 1 - angle == gates.Angle("parameter", 2, -1.0, 1.0)
    assert 1 + angle == angle + 1
    assert gates.feature(1).kind == "input"
    assert -gates.constant(1.5) == gates.constant(-1.5)


def test_angle_values():
    angle = 2 * gates.parameter(1) + 0.5
    assert angle.evaluate(np.array([1.0, 2.0])) == 4.5
    by_row = angle.evaluate(np.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(by_row, [4.5, 8.5])
    from_inputs = gates.feature(0).evaluate(np.zeros(0), np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(from_inputs, [1.0, 2.0])
    assert gates.constant(0.25).evaluate(np.zeros(0)) == 0.25


@pytest.mark.parametrize(
    ("angle", "text"),
    [
        (gates.parameter(0), "p0"),
        (-gates.feature(12), "-x12"),
        (gates.parameter(3) / 2 + 0.1, "0.5*p3+0.1"),
        (gates.parameter(3) * -2 - 1e-20, "-2.0*p3-1e-20"),
        (0 * gates.parameter(1), "0.0*p1"),
        (gates.constant(1 / 3), "0.3333333333333333"),
    ],
)
def test_angle_text(angle, text):
    assert str(angle) == text


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gates.parameter(0) + gates.parameter(1), TypeError, "sum of two is two gates"),
        (lambda: gates.parameter(0) * gates.parameter(1), TypeError, "real number"),
        (lambda: gates.parameter(0) / "2", TypeError, "real number only, got str"),
        (lambda: gates.parameter(0) - 1j, TypeError, "got complex"),
        (lambda: gates.parameter(-1), ValueError, "index from 0"),
        (lambda: gates.parameter(2**40), ValueError, "index from 0"),
        (lambda: gates.parameter(0.5), TypeError, "integer"),
        (lambda: gates.parameter(0) * math.inf, ValueError, "finite"),
        (lambda: gates.Angle("weight", 0), ValueError, "'weight'"),
        (lambda: gates.Angle("constant", 1, 0.0), ValueError, "index 0"),
        (lambda: gates.RX(math.nan, 0), ValueError, "finite angle, got .*nan"),
        (lambda: gates.RX("p0", 0), TypeError, r"qdp\.parameter"),
        (lambda: gates.RX(1j, 0), TypeError, "complex"),
        (lambda: gates.RX(0.1, 0.5), TypeError, "wires"),
        (lambda: gates.RX(0.1, "0"), TypeError, "wires"),
        (lambda: gates.RX(0.1, -1), ValueError, "counted from 0"),
        (lambda: gates.RX(0.1, [0, 1]), ValueError, r"RX acts on 1 wire, got 2: \[0, 1\]"),
        (lambda: gates.CNOT([0]), ValueError, "CNOT acts on 2 wires, got 1"),
        (lambda: gates.CNOT([1, 1]), ValueError, r"repeated wire: \[1, 1\]"),
        (lambda: gates.MultiRZ(0.1, []), ValueError, "at least 1"),
        (lambda: gates.PauliRot(0.1, "XQ", [0, 1]), ValueError, "letters I, X, Y, Z"),
        (lambda: gates.PauliRot(0.1, "X", [0, 1]), ValueError, "a letter for each of 2 wires"),
        (lambda: gates.PauliRot(0.1, None, [0, 1]), TypeError, "Pauli word"),
        (lambda: gates.MultiControlledX([0]), ValueError, "at least 2"),
        (lambda: gates.MultiControlledX([0, 1, 2], [1]), ValueError, "2 control values, got 1"),
        (lambda: gates.MultiControlledX([0, 1], [2]), ValueError, "0 or 1"),
        (lambda: gates.QubitUnitary([[1, 1], [0, 1]], 0), ValueError, "unitary .* by 1"),
        (lambda: gates.QubitUnitary(np.full((2, 2), np.nan), 0), ValueError, "unitary"),
        (lambda: gates.QubitUnitary(np.full((2, 2), 1e300), 0), ValueError, "unitary"),
        (lambda: gates.QubitUnitary(np.eye(2), [0, 1]), ValueError, r"\(4, 4\), got \(2, 2\)"),
        (lambda: gates.QubitUnitary([["a"]], 0), TypeError, "numbers"),
        (lambda: gates.QubitUnitary([[1], [1, 0]], 0), TypeError, "numbers"),
        (lambda: gates.DiagonalQubitUnitary([1, 2], 0), ValueError, "unitary"),
        (lambda: gates.DiagonalQubitUnitary([1, 1, 1], 0), ValueError, r"\(2,\), got \(3,\)"),
        (lambda: gates.Operation("RXX", (0,)), ValueError, "unknown gate 'RXX'; did you mean"),
        (lambda: gates.Operation("", (0,)), ValueError, "unknown gate ''; known: "),
        (lambda: gates.Operation("RX", (0,)), ValueError, r"takes 1 angles \(phi\), got 0"),
        (lambda: gates.Operation("H", [0]), ValueError, "unknown gate"),
        (lambda: gates.Operation("CNOT", [0, 1]), TypeError, "tuples"),
        (lambda: gates.Operation("PauliX", (0,), word="X"), ValueError, "takes no word"),
    ],
)
def test_mistakes_raise_one_clear_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_matrices_are_copied_and_cannot_change():
    matrix = np.eye(2, dtype=complex)
    operation = gates.QubitUnitary(matrix, 0)
    matrix[0, 0] = 5
    assert operation.matrix[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        operation.matrix[0, 0] = 5
    direct = gates.Operation("QubitUnitary", (0,), matrix=np.eye(2, dtype=complex))
    assert direct == operation
    assert not direct.matrix.flags.writeable
    transposed = gates.QubitUnitary(random_unitary(4, np.random.default_rng(0)).T, [0, 1])
    assert transposed.matrix.flags.c_contiguous
    assert transposed.adjoint().matrix.flags.c_contiguous


def test_negative_zeros_make_no_difference():
    first = gates.QubitUnitary([[1, 0.0], [0.0, 1]], 0)
    second = gates.QubitUnitary([[1, -0.0], [complex(-0.0, -0.0), 1]], 0)
    assert first == second
    assert hash(first) == hash(second)


def test_short_names_are_pennylanes():
    assert gates.X(0) == gates.PauliX(0)
    assert gates.H(0) == gates.Hadamard(wires=[0])
    assert gates.Y is gates.PauliY
    assert gates.Z is gates.PauliZ
