# SPDX-License-Identifier: Apache-2.0
"""The normal form multiplied out with NumPy against the reference backend's unitary.

Here a program is read by its documentation alone: words are (x, z) masks, steps and items mean what
their docstrings say. U is the circuit's unitary, V the program's without the pending frame.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import random_circuit, random_numbers, random_observables, random_unitary
from tolerance import assert_close

from qdp import gates
from qdp.ansatz import ry_rz_ladder
from qdp.backends.base import Batch
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit, Observable
from qdp.program import MAX_WORDS_BEFORE_FRAME, compile_program

CLIFFORDS = [
    *("Identity", "PauliX", "PauliY", "PauliZ", "Hadamard", "S", "Sdg", "SX", "SXdg"),
    *("CNOT", "CZ", "CY", "SWAP", "ISWAP", "ISWAPdg", "ECR"),
]
p = gates.parameter


# Reading a program


def value_of(angle, parameters, inputs):
    source = {"parameter": parameters, "input": inputs, "constant": None}[angle.kind]
    return angle.offset if source is None else angle.scale * source[angle.index] + angle.offset


def word_matrix(n_qubits, x, z, c=1.0):
    """Return sum of c (-1)**popcount(z & b) |b ^ x><b| for one z or as many as there are c."""
    matrix = np.zeros((2**n_qubits, 2**n_qubits), dtype=complex)
    for b in range(2**n_qubits):
        for word, factor in zip(np.atleast_1d(z), np.atleast_1d(c), strict=True):
            matrix[b ^ x, b] += factor * (-1) ** (int(word) & b).bit_count()
    return matrix


def pauli_matrix(n_qubits, rotation):
    y_count = (rotation.x & rotation.z).bit_count()
    return word_matrix(n_qubits, rotation.x, rotation.z, 1j**y_count)


def dense_matrix(n_qubits, dense):
    matrix = np.eye(2**n_qubits, dtype=complex)
    k = len(dense.bits)

    def place(b, i):
        for position, bit in enumerate(dense.bits):
            b = b & ~(1 << bit) | (i >> (k - 1 - position) & 1) << bit
        return b

    for b in range(2**n_qubits):
        if b & dense.control_mask == dense.control_value:
            column = sum((b >> bit & 1) << (k - 1 - i) for i, bit in enumerate(dense.bits))
            matrix[b, b] = 0
            for row in range(2**k):
                matrix[place(b, row), b] = dense.matrix[row, column]
    return matrix


def multiply_out(program, parameters, inputs, added=None):
    """Return the product of steps and phases; ``added`` goes to the angles of rotations."""
    n = program.n_qubits
    total = np.eye(2**n, dtype=complex)
    for step in program.steps:
        match step.kind:
            case "rotations" | "diagonal":
                for index in step.rotations:
                    rotation = program.rotations[index]
                    angle = value_of(rotation.angle, parameters, inputs)
                    half = (angle + (added or {}).get(index, 0.0)) / 2
                    flipped = pauli_matrix(n, rotation) @ total
                    total = math.cos(half) * total - 1j * math.sin(half) * flipped
            case "dense":
                total = dense_matrix(n, program.denses[step.item]) @ total
            case "permutation":
                permutation = program.permutations[step.item]
                total = (1j ** permutation.phase.astype(float))[:, None] * total[permutation.source]
            case "table":
                total = program.tables[step.item][:, None] * total
    phase = sum(value_of(angle, parameters, inputs) for angle in program.phases)
    return np.exp(1j * phase) * total


def pulled_back(program, number):
    """Return the operator that observable ``number`` has become."""
    n = program.n_qubits
    total = np.zeros((2**n, 2**n), dtype=complex)
    for group in program.groups:
        if group.observable == number:
            total += word_matrix(n, group.x, group.z, group.c)
    return total


def unitary_of(circuit, parameters, inputs):
    size = 2**circuit.n_qubits
    batch = Batch(size, parameters, np.tile(inputs, (size, 1)), indices=np.arange(size))
    return ReferenceBackend().state(circuit, batch).T


def numbers_of(circuit, seed):
    parameters, inputs = random_numbers(circuit, 1, seed)
    return parameters, inputs[0]


def assert_is_normal_form(circuit, observables, seed=0):
    parameters, inputs = numbers_of(circuit, seed)
    unitary = unitary_of(circuit, parameters, inputs)
    whole = compile_program(circuit, (), apply_frame=True)
    assert_close(multiply_out(whole, parameters, inputs), unitary, "double", depth=depth(whole))
    program = compile_program(circuit, tuple(observables))
    prefix = multiply_out(program, parameters, inputs)
    for number, observable in enumerate(observables):
        expected = unitary.conj().T @ observable.matrix(circuit.n_qubits) @ unitary
        actual = prefix.conj().T @ pulled_back(program, number) @ prefix
        assert_close(actual, expected, "double", observable.weight, depth(program))
    return whole, program


def depth(program):
    return len(program.rotations)


def assert_well_formed(program):
    """Assert what every step promises: its kind, commuting rotations, each used once."""
    used = []
    for step in program.steps:
        rotations = [program.rotations[index] for index in step.rotations]
        used += step.rotations
        assert (step.kind in ("rotations", "diagonal")) == bool(rotations)
        assert all((rotation.x != 0) == (step.kind == "rotations") for rotation in rotations)
        for i, a in enumerate(rotations):
            for b in rotations[:i]:
                swaps = (a.x & b.z).bit_count() + (a.z & b.x).bit_count()
                assert swaps % 2 == 0, f"{a} and {b} share a step and do not commute"
    assert sorted(used) == list(range(len(program.rotations)))
    for permutation in program.permutations:
        assert np.array_equal(np.sort(permutation.source), np.arange(2**program.n_qubits))
        assert permutation.phase.max() < 4


# The checks can fail


def test_the_reading_of_words_is_pennylanes():
    for word, (x, z) in {"XZ": (0b10, 0b01), "YI": (0b10, 0b10), "YX": (0b11, 0b10)}.items():
        sign = 1j ** (x & z).bit_count()
        expected = gates.pauli_word_matrix(word)
        np.testing.assert_array_equal(word_matrix(2, x, z, sign), expected)


def test_a_wrong_sign_is_seen():
    circuit = Circuit(1, [gates.S(0), gates.RX(p(0), 0)])
    program = compile_program(circuit, (), apply_frame=True)
    right = unitary_of(circuit, np.array([0.4]), np.zeros(0))
    with pytest.raises(AssertionError, match="values differ"):
        assert_close(multiply_out(program, [-0.4], []), right, "double")


# The whole table


@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_program_is_the_circuit(n_qubits, seed):
    circuit = random_circuit(n_qubits, [seed, n_qubits])
    observables = random_observables(n_qubits, seed)
    for program in assert_is_normal_form(circuit, observables, seed):
        assert_well_formed(program)


@pytest.mark.parametrize("name", gates.TABLE)
def test_each_gate_between_cliffords(name):
    cliffords = random_circuit(4, 3, n_gates=10, names=CLIFFORDS)
    gate = random_circuit(4, 5, n_gates=2, names=[name])
    circuit = cliffords + gate + cliffords
    for program in assert_is_normal_form(circuit, random_observables(4, 1)):
        assert_well_formed(program)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 30))
def test_the_program_of_any_circuit(seed, n_qubits, n_gates):
    circuit = random_circuit(n_qubits, seed, n_gates)
    for program in assert_is_normal_form(circuit, random_observables(n_qubits, seed), seed):
        assert_well_formed(program)


def test_gates_that_stay_whole():
    # A Diagonal on 7 wires and an X with 6 controls, between Cliffords that move all wires.
    rng = np.random.default_rng(0)
    wires = rng.permutation(7).tolist()
    mixer = random_circuit(7, 2, n_gates=12, names=CLIFFORDS)
    circuit = (
        mixer
        + Circuit(7, [gates.DiagonalQubitUnitary(np.exp(1j * rng.uniform(-3, 3, 128)), wires)])
        + mixer
        + Circuit(7, [gates.RX(p(0), 2), gates.MultiControlledX(wires, [1, 0, 1, 1, 0, 0])])
        + mixer
    )
    whole, program = assert_is_normal_form(circuit, [Observable("Z0 X3 Y6 - 0.5 Z1")])
    assert (len(whole.tables), len(whole.denses)) == (1, 1)
    assert_well_formed(whole)
    assert_well_formed(program)


# Cliffords


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 40))
def test_cliffords_cost_no_step(seed, n_qubits, n_gates):
    circuit = random_circuit(n_qubits, seed, n_gates, names=CLIFFORDS)
    pauli = random_observables(n_qubits, seed)[0]
    _, program = assert_is_normal_form(circuit, [pauli])
    assert program.steps == ()
    assert program.rotations == ()
    # Words of one X mask share a group.
    assert len({group.x for group in program.groups}) == len(program.groups)


@pytest.mark.parametrize("name", CLIFFORDS)
def test_clifford_images_of_single_paulis(name):
    circuit = random_circuit(3, 1, n_gates=1, names=[name])
    paulis = [Observable(f"{letter}{wire}") for letter in "XYZ" for wire in range(3)]
    _, program = assert_is_normal_form(circuit, paulis)
    for group in program.groups:
        assert len(group.z) == 1
        assert abs(group.c[0]) == 1


def test_a_frame_without_hadamards_is_one_permutation():
    names = ["PauliX", "PauliY", "PauliZ", "S", "Sdg", "CNOT", "CZ", "CY", "SWAP", "ISWAP"]
    circuit = random_circuit(5, 0, n_gates=60, names=names)
    whole, _ = assert_is_normal_form(circuit, [Observable("X0 Y4")])
    assert [step.kind for step in whole.steps] == ["permutation"]


def test_a_frame_is_applied_once():
    # The frame before the first dense gate must not come again at the end.
    circuit = Circuit(
        3,
        [
            *(gates.H(0), gates.S(0), gates.CNOT([0, 1])),
            gates.QubitUnitary(random_unitary(4, np.random.default_rng(0)), [2, 0]),
            *(gates.H(1), gates.CZ([1, 2]), gates.RY(p(0), 1)),
        ],
    )
    assert_is_normal_form(circuit, random_observables(3, 0))


def test_the_ladder_has_two_steps_a_layer():
    program = compile_program(ry_rz_ladder(6, 3), (Observable.sum_z(6),))
    assert [step.kind for step in program.steps] == ["rotations", "diagonal"] * 3
    assert [len(step.rotations) for step in program.steps] == [6] * 6
    assert [group.x for group in program.groups] == [0]


# Observables


def observable_cases():
    """Projectors and matrices on few and on many wires: kept as words, or behind the frame."""
    rng = np.random.default_rng(7)

    def hermitian(wires):
        matrix = rng.normal(size=(2 ** len(wires),) * 2) + 1j * rng.normal(
            size=(2 ** len(wires),) * 2
        )
        return Observable.hermitian(matrix + matrix.conj().T, wires)

    return {
        "projector on one wire": Observable.projector([1], [3]),
        "projector on three wires": Observable.projector([0, 1, 1], [4, 0, 2]),
        "projector on all wires": -2.0 * Observable.projector([1, 0, 1, 0, 1], [4, 2, 0, 1, 3]),
        "matrix on one wire": hermitian([2]),
        "matrix on two wires": 0.3 * hermitian([4, 1]),
        "matrix on three wires": hermitian([3, 0, 4]),
        "matrix with one entry": Observable.hermitian(np.diag([0.0, 0, 2, 0]), [1, 0]),
        "matrix of zeros": Observable.hermitian(np.zeros((2, 2)), 0),
        "identity": Observable("2.5 I"),
        "everything": Observable("X0 Y1 - 0.1 I")
        + Observable.projector([0, 0], [1, 4])
        + hermitian([0, 2]),
    }


FRAMES = {
    "no frame": Circuit(5),
    "permutation": random_circuit(
        5, 4, n_gates=20, names=["PauliX", "PauliY", "S", "CNOT", "CZ", "SWAP"]
    ),
    "one hadamard": Circuit(5, [gates.H(4)]),
    "hadamards": Circuit(5, [gates.H(wire) for wire in range(5)]),
    "any cliffords": random_circuit(5, 8, n_gates=30, names=CLIFFORDS),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("case", observable_cases())
def test_observables_before_and_behind_frames(case, frame):
    rotations = random_circuit(5, 2, n_gates=8, names=["Rot", "IsingXY", "MultiRZ"])
    circuit = rotations + FRAMES[frame] + rotations + FRAMES[frame]
    observable = observable_cases()[case]
    _, program = assert_is_normal_form(circuit, [observable])
    assert_well_formed(program)
    assert sum(len(group.z) for group in program.groups) <= max(MAX_WORDS_BEFORE_FRAME, 4**3)


@pytest.mark.parametrize(
    ("observable", "applied"),
    [
        (Observable.projector("1010", [0, 1, 2, 3]), False),
        (Observable.projector("10101", [0, 1, 2, 3, 4]), True),
        (Observable.hermitian(np.ones((4, 4)), [0, 3]), False),
        (Observable.hermitian(np.ones((8, 8)), [0, 3, 1]), True),
    ],
)
def test_the_frame_is_applied_where_words_are_too_many(observable, applied):
    frame = Circuit(5, [gates.H(wire) for wire in range(5)])
    _, program = assert_is_normal_form(frame, [observable])
    assert bool(program.steps) == applied


def test_a_projector_behind_a_permutation_needs_no_step():
    circuit = Circuit(6, [*(gates.CNOT([q, q + 1]) for q in range(5)), gates.X(3), gates.S(1)])
    _, program = assert_is_normal_form(circuit, [Observable.projector("011010", range(6))])
    assert program.steps == ()
    assert [group.x for group in program.groups] == [0]


def test_groups_are_hermitian_and_numbered():
    circuit = random_circuit(4, 1)
    observables = random_observables(4, 1)
    program = compile_program(circuit, tuple(observables))
    assert program.n_observables == len(observables)
    assert {group.observable for group in program.groups} == set(range(len(observables)))
    for number in range(len(observables)):
        matrix = pulled_back(program, number)
        assert_close(matrix, matrix.conj().T, "double", observables[number].weight)


# Outside the form


def test_outside_names_what_is_no_rotation_or_clifford():
    rng = np.random.default_rng(1)
    within = [
        gates.QubitUnitary(random_unitary(2, rng), [3]),
        gates.DiagonalQubitUnitary(np.exp(1j * rng.normal(size=64)), range(6)),
        gates.MultiControlledX(range(6)),
        *(gates.Toffoli([0, 1, 2]), gates.CSWAP([2, 1, 0]), gates.CCZ([4, 5, 6])),
        *(gates.CRot(p(0), 0.1, 0.2, [0, 1]), gates.SingleExcitation(p(1), [2, 3])),
        gates.GlobalPhase(p(0)),
    ]
    outside = [
        gates.QubitUnitary(random_unitary(4, rng), [3, 0]),
        gates.DiagonalQubitUnitary(np.exp(1j * rng.normal(size=128)), range(7)),
        gates.MultiControlledX(range(7)),
    ]
    operations = [within[0], outside[0], *within[1:4], outside[1], *within[4:], outside[2]]
    program = compile_program(Circuit(7, operations))
    assert len(program.outside) == len(outside)
    for text, operation in zip(program.outside, outside, strict=True):
        assert str(operation).startswith(text)
        assert text.startswith(operation.name)
    assert compile_program(Circuit(7, within)).outside == ()


@pytest.mark.parametrize("name", gates.TABLE)
def test_every_gate_of_the_table_is_within_but_matrices(name):
    circuit = random_circuit(4, 0, n_gates=1, names=[name])
    outside = compile_program(circuit).outside
    assert bool(outside) == (name == "QubitUnitary"), outside


# Angles and shifts


def test_programs_hold_no_values():
    circuit = ry_rz_ladder(3, 1)
    program = compile_program(circuit)
    for seed in range(3):
        parameters, inputs = numbers_of(circuit, seed)
        whole = compile_program(circuit, (), apply_frame=True)
        unitary = unitary_of(circuit, parameters, inputs)
        assert_close(multiply_out(whole, parameters, inputs), unitary, "double")
    assert (program.n_parameters, program.n_inputs) == (6, 0)
    assert compile_program(circuit) is program


@pytest.mark.parametrize("name", [name for name, gate in gates.TABLE.items() if gate.parameters])
def test_rotations_of_an_angle_are_those_that_it_turns(name):
    # Both ways of shifting one slot by 0.7 agree, but for the global phase.
    circuit = random_circuit(3, 11, n_gates=3, names=[name, "Hadamard", "SX"])
    circuit = circuit + random_circuit(3, 12, n_gates=1, names=[name])
    position = len(circuit.operations) - 1
    operation = circuit.operations[position]
    parameters, inputs = numbers_of(circuit, 4)
    program = compile_program(circuit, (), apply_frame=True)
    for slot in range(len(operation.angles)):
        angles = list(operation.angles)
        angles[slot] = angles[slot] + 0.7
        shifted = gates.Operation(
            name, operation.wires, tuple(angles), operation.matrix, operation.word
        )
        expected = unitary_of(Circuit(3, [*circuit.operations[:-1], shifted]), parameters, inputs)
        turned = program.rotations_of(position, slot)
        assert all(program.rotations[index].operation == position for index in turned)
        added = {index: 0.7 * program.rotations[index].factor for index in turned}
        actual = multiply_out(program, parameters, inputs, added)
        overlap = np.trace(expected.conj().T @ actual) / len(actual)
        assert_close(overlap * expected, actual, "double")
        assert abs(abs(overlap) - 1) < 1e-12
    assert program.rotations_of(position, len(operation.angles)) == ()


# The cache


def test_compiling_is_cached_by_structure():
    def build(scale):
        circuit = Circuit(2, [gates.RX(scale * p(0), 0), gates.CNOT([0, 1])])
        return circuit, (Observable("0.5 Z0 + 1.0 X1"),)

    first = compile_program(*build(1.0))
    assert compile_program(*build(1.0)) is first
    assert compile_program(*build(2.0)) is not first
    assert compile_program(build(1.0)[0], (Observable("0.5 Z0"),)) is not first
    assert compile_program(build(1.0)[0], (), apply_frame=True) is not compile_program(
        build(1.0)[0], ()
    )


def test_matrices_are_told_apart_by_the_cache():
    rng = np.random.default_rng(0)
    one, other = (Circuit(2, [gates.QubitUnitary(random_unitary(4, rng), [0, 1])]) for _ in "ab")
    assert compile_program(one) is not compile_program(other)
    again = Circuit(2, [gates.QubitUnitary(one.operations[0].matrix.copy(), [0, 1])])
    assert compile_program(again) is compile_program(one)


# Pruning


def test_pruning_leaves_the_light_cone():
    # RX on wire 2 and everything behind the last CNOT but what Z0 sees is outside.
    circuit = Circuit(
        3,
        [
            gates.RY(p(0), 0), gates.RY(p(1), 1), gates.RX(p(2), 2), gates.CNOT([0, 1]),
            gates.RY(p(3), 1), gates.RX(p(4), 0), gates.RZ(p(5), 0),
        ],
    )  # fmt: skip
    whole = compile_program(circuit, (Observable("Z0"),))
    pruned = compile_program(circuit, (Observable("Z0"),), prune=True)
    assert len(whole.rotations) == 6
    # X0 behind the CNOT is X0 X1 before it, which RY on wire 1 does not commute with.
    assert [rotation.operation for rotation in pruned.rotations] == [0, 1, 5]
    assert [member for step in pruned.steps for member in step.rotations] == [0, 1, 2]
    assert pruned.rotations_of(2, 0) == ()


def test_pruning_keeps_five_angles_of_the_ladder():
    circuit = ry_rz_ladder(12, 2)
    pruned = compile_program(circuit, (Observable("Z0"),), prune=True)
    assert len(compile_program(circuit, (Observable("Z0"),)).rotations) == 48
    assert len(pruned.rotations) == 5


def test_pruning_stops_at_what_is_no_rotation():
    circuit = Circuit(
        2,
        [
            gates.RZ(p(0), 1),
            gates.QubitUnitary(random_unitary(4, np.random.default_rng(0)), [0, 1]),
            gates.RZ(p(1), 1),
        ],
    )
    pruned = compile_program(circuit, (Observable("Z0"),), prune=True)
    assert [rotation.operation for rotation in pruned.rotations] == [0]
    assert [step.kind for step in pruned.steps] == ["diagonal", "dense"]


def test_matrices_out_of_reach_fall_away_and_those_in_reach_keep_what_is_before():
    circuit = Circuit(
        3,
        [
            gates.RX(p(0), 0),
            gates.RX(p(1), 2),
            gates.CNOT([0, 1]),
            gates.QubitUnitary(random_unitary(4, np.random.default_rng(0)), [0, 1]),
            gates.Hadamard(2),
        ],
    )
    far = compile_program(circuit, (Observable("X2"),), prune=True)
    assert [rotation.operation for rotation in far.rotations] == [1]
    assert (far.denses, far.permutations, far.outside) == ((), (), ())
    near = compile_program(circuit, (Observable("Z1"),), prune=True)
    assert [one.operation for one in near.rotations if one.operation >= 0] == [0]
    assert len(near.denses) == 1
