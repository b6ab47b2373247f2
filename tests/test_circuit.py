# SPDX-License-Identifier: Apache-2.0
"""Circuits and observables: structure, text, drawing, arithmetic, and mistakes."""

import itertools
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import random_circuit, random_observables, random_unitary

from qdp import gates
from qdp.circuit import (
    MAX_QUBITS,
    Circuit,
    HermitianTerm,
    Observable,
    PauliTerm,
    ProjectorTerm,
)

p, x = gates.parameter, gates.feature


def matrix_of(circuit, parameters=(), inputs=()):
    """Return the circuit's unitary by multiplying up matrices, wires in ascending order only."""
    total = np.eye(2**circuit.n_qubits, dtype=complex)
    for operation in circuit.operations:
        angles = [
            float(angle.evaluate(np.asarray(parameters), np.asarray(inputs)))
            for angle in operation.angles
        ]
        wires = operation.wires
        others = [wire for wire in range(circuit.n_qubits) if wire not in wires]
        full = np.kron(operation.matrix_value(angles), np.eye(2 ** len(others)))
        order = [[*wires, *others].index(wire) for wire in range(circuit.n_qubits)]
        both = order + [len(order) + axis for axis in order]
        full = full.reshape((2,) * (2 * circuit.n_qubits)).transpose(both).reshape(total.shape)
        total = full @ total
    return total


# Circuits


def test_counts_what_its_angles_read():
    circuit = Circuit(3, [gates.RX(p(4), 0), gates.RY(x(1) * 2, 1), gates.RX(0.1, 2)])
    assert (circuit.n_qubits, circuit.n_parameters, circuit.n_inputs) == (3, 5, 2)
    assert (Circuit(1).n_parameters, Circuit(1).n_inputs, Circuit(1).operations) == (0, 0, ())


def test_is_immutable_and_compared_by_content():
    first, second = random_circuit(4, seed=0), random_circuit(4, seed=0)
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second, random_circuit(4, seed=1)}) == 2
    assert first != Circuit(5, first.operations)
    assert first != "circuit"
    with pytest.raises(AttributeError):
        first.n_qubits = 5


def test_pickle_leaves_the_hash_behind():
    circuit, observable = random_circuit(4, seed=0), random_observables(4, seed=0)[3]
    hash(circuit), hash(observable)
    for original in (circuit, observable):
        copy = pickle.loads(pickle.dumps(original))
        assert copy == original
        assert hash(copy) == hash(original)
    # Another process hashes strings differently; equal objects must still hash equally there.
    script = (
        "import pickle, sys; from samples import random_circuit;"
        "copy = pickle.load(sys.stdin.buffer); same = random_circuit(4, seed=0);"
        "assert copy == same and hash(copy) == hash(same)"
    )
    path = [entry for entry in sys.path if entry]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {script}"],
        input=pickle.dumps(circuit),
        check=True,
    )


def test_addition_runs_one_after_the_other():
    first, second = Circuit(2, [gates.RX(p(0), 0)]), Circuit(2, [gates.CNOT([0, 1])])
    assert (first + second).operations == first.operations + second.operations
    assert (first + first).n_parameters == 1
    with pytest.raises(ValueError, match="as many qubits, got 2 and 3"):
        first + Circuit(3)
    with pytest.raises(TypeError):
        first + first.operations


@pytest.mark.parametrize("seed", range(3))
def test_adjoint_undoes_the_circuit(seed):
    circuit = random_circuit(4, seed)
    numbers = np.random.default_rng(seed).uniform(-3, 3, size=(2, 6))
    identity = matrix_of(circuit + circuit.adjoint(), *numbers)
    np.testing.assert_allclose(identity, np.eye(16), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Circuit(0), ValueError, "1 to 62 qubits, got 0"),
        (lambda: Circuit(63), ValueError, "1 to 62 qubits, got 63"),
        (lambda: Circuit(2.5), TypeError, "integer"),
        (lambda: Circuit(2, [gates.X(0), gates.X(2)]), ValueError, "operation 1: PauliX on wires"),
        (lambda: Circuit(2, [gates.CNOT([0, 5])]), ValueError, "wires from 0 to 1 .* 2 qubits"),
        (lambda: Circuit(2, ["X 0"]), TypeError, "Operation at position 0, got str"),
        (lambda: Circuit(2, [gates.X]), TypeError, "Operation at position 0"),
    ],
)
def test_mistakes_in_circuits(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_builds_quickly():
    def build():
        return Circuit(
            10,
            [
                gates.CNOT([i % 10, (i + 1) % 10]) if i % 2 else gates.RX(p(i), i % 10)
                for i in range(500)
            ],
        )

    best = min(_seconds(build) for _ in range(5))
    # Takes 2 ms; the bound only catches a change of order.
    assert best < 0.05


def _seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# Text


@pytest.mark.parametrize("seed", range(20))
def test_text_round_trip(seed):
    circuit = random_circuit(6, seed)
    again = Circuit.from_text(circuit.text())
    assert again == circuit
    assert hash(again) == hash(circuit)
    assert again.text() == circuit.text()


def test_text_by_hand():
    circuit = Circuit.from_text(
        """
        # a comment, then a blank line

        qubits 3   # the header
        RX( 0.5 * p0 + 0.1 ) 0
        RY(-x2) 1
        RZ(1e-3*p1-.5) 2
        Rot(0, -1.5, p0) 0
        H 1
        CNOT 0 2
        MultiControlledX 0 1 2
        MultiControlledX(01) 2 1 0
        PauliRot(p1, XIZ) 2 0 1
        QubitUnitary([[0, 1j], [1j, 0]]) 2
        DiagonalQubitUnitary([1, -1, 0.6+0.8j, 1]) 0 1
        GlobalPhase(0.5)
        """
    )
    assert circuit == Circuit(
        3,
        [
            gates.RX(0.5 * p(0) + 0.1, 0),
            gates.RY(-x(2), 1),
            gates.RZ(1e-3 * p(1) - 0.5, 2),
            gates.Rot(0, -1.5, p(0), 0),
            gates.Hadamard(1),
            gates.CNOT([0, 2]),
            gates.MultiControlledX([0, 1, 2]),
            gates.MultiControlledX([2, 1, 0], [0, 1]),
            gates.PauliRot(p(1), "XIZ", [2, 0, 1]),
            gates.QubitUnitary([[0, 1j], [1j, 0]], 2),
            gates.DiagonalQubitUnitary([1, -1, 0.6 + 0.8j, 1], [0, 1]),
            gates.GlobalPhase(0.5),
        ],
    )
    assert Circuit.from_text("qubits 2\r\nCNOT 0 1\r\n") == Circuit(2, [gates.CNOT([0, 1])])


# Attacks on the parser: each must end in one clear error that names the line.
HOSTILE = [
    ("", "expected a first line such as 'qubits 3', got no line"),
    ("# only a comment", "no line"),
    ("RX(p0) 0", "line 1, .*first line such as 'qubits 3'"),
    ("qubits", "line 1.*first line"),
    ("qubits three", "number of qubits as a small integer, got 'three'"),
    ("qubits 0", "1 to 62 qubits, got 0"),
    ("qubits -3", "small integer"),
    ("qubits 99999999999999999999", "small integer"),
    ("qubits " + "9" * 100_000, "small integer"),
    ("qubits \u0663", "small integer"),
    ("qubits 2\nqubits 2", "line 2.*unknown gate 'qubits'"),
    ("qubits 2\n\n# x\nFoo 0", "line 4, 'Foo 0': unknown gate 'Foo'"),
    ("qubits 2\n__import__('os').system('true') 0", "line 2.*expected an angle|unknown gate"),
    ("qubits 2\nRX(__import__('os')) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(p0 0", "line 2.*closing bracket"),
    ("qubits 2\nRX p0) 0", "line 2.*wire as a small integer, got 'p0\\)'"),
    ("qubits 2\nRX(p0)) 0", "line 2.*expected an angle"),
    ("qubits 2\n(p0) 0", "line 2.*one gate name"),
    ("qubits 2\nRX RY(p0) 0", "line 2.*one gate name"),
    ("qubits 2\nRX() 0", "line 2.*takes 1 angles"),
    ("qubits 2\nRX(p0,) 0", "line 2.*expected an angle such as .* got ''"),
    ("qubits 2\nRX(p0, p1) 0", "line 2.*takes 1 angles .*got 2"),
    ("qubits 2\nRX(p0+p1) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(p) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(q0) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(p-1) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(p9999999999) 0", "line 2.*index below"),
    ("qubits 2\nRX(p" + "9" * 100_000 + ") 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(nan) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(inf*p0) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(1e999) 0", "line 2.*finite angle, got .*inf"),
    ("qubits 2\nRX(1_0) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(--1) 0", "line 2.*expected an angle"),
    ("qubits 2\nRX(p0)", "line 2.*acts on 1 wire, got 0"),
    ("qubits 2\nRX(p0) 2", "line 2.*wires from 0 to 1 in a circuit of 2"),
    ("qubits 2\nRX(p0) -1", "line 2.*wire as a small integer"),
    ("qubits 2\nRX(p0) 0 0", "line 2.*acts on 1 wire, got 2"),
    ("qubits 2\nRX(p0) 0.0", "line 2.*wire as a small integer"),
    ("qubits 2\nCNOT 1 1", "line 2.*repeated wire"),
    ("qubits 2\nCNOT(0.5) 0 1", "line 2.*takes 0 angles"),
    ("qubits 2\nCNOT 0,1", "line 2.*wire as a small integer, got '0,1'"),
    ("qubits 2\nGlobalPhase(p0) 0", "line 2.*acts on 0 wires"),
    ("qubits 2\nPauliRot(p0) 0", "line 2.*an angle and a Pauli word"),
    ("qubits 2\nPauliRot(p0, AB) 0 1", "line 2.*letters I, X, Y, Z"),
    ("qubits 2\nPauliRot(p0, XYZ) 0 1", "line 2.*a letter for each"),
    ("qubits 2\nMultiControlledX(2) 0 1", "line 2.*control values such as 101"),
    ("qubits 2\nMultiControlledX(11) 0 1", "line 2.*1 control values, got 2"),
    ("qubits 2\nMultiControlledX(1)", "line 2.*at least 2 wires"),
    ("qubits 2\nQubitUnitary 0", "line 2.*a matrix such as"),
    ("qubits 2\nQubitUnitary([[1, 0], [0]]) 0", "line 2.*same length"),
    ("qubits 2\nQubitUnitary([[1, 0], [0, nan]]) 0", "line 2.*got 'nan'"),
    ("qubits 2\nQubitUnitary([[1, 0], [0, ++]]) 0", "line 2.*a number such as"),
    ("qubits 2\nQubitUnitary([[1, 0], [0, 1e999]]) 0", "line 2.*unitary"),
    ("qubits 2\nQubitUnitary([[1, 0], [0, 2]]) 0", "line 2.*unitary"),
    ("qubits 2\nQubitUnitary([[1]]) 0", r"line 2.*shape \(2, 2\), got \(1, 1\)"),
    ("qubits 2\nQubitUnitary(" + "[" * 100_000 + ") 0", "line 2.*a matrix such as"),
    ("qubits 2\nQubitUnitary(" + "[" * 9_999 + "1" + "]" * 9_999 + ") 0", "line 2.*a number"),
    ("qubits 2\nDiagonalQubitUnitary([]) 0", "line 2.*a number such as"),
    ("qubits 2\nDiagonalQubitUnitary([[1, 1]]) 0", "line 2.*a number such as"),
    ("qubits 2\nDiagonalQubitUnitary([1]) 0", r"line 2.*shape \(2,\)"),
    ("qubits 62\nQubitUnitary([[1]]) " + " ".join(map(str, range(62))), "line 2.*expected shape"),
    ("qubits 62\nDiagonalQubitUnitary([1]) " + " ".join(map(str, range(62))), "line 2.*shape"),
    ("qubits 2\n\x00", "line 2.*unknown gate"),
    ("qubits 2\n" + "A" * 100_000, "line 2, 'A{60}...': unknown gate 'A{60}'"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_raises_one_clear_error(text, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        Circuit.from_text(text)
    assert len(str(caught.value)) < 2000
    assert time.perf_counter() - start < 1


def test_text_must_be_text():
    with pytest.raises(TypeError, match="text of a circuit, got bytes"):
        Circuit.from_text(b"qubits 1")


PIECES = st.sampled_from(
    [
        *gates.TABLE,
        *("H", "qubits", "p0", "x1", "0", "1", "2", "0.5", "1e9", "1j", "XZ", "01", "nan", "_"),
        *"()[],*+-.j#  \n\n\t\x00\u00b2",
        *("[[", "]]"),
    ]
)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.lists(PIECES | st.characters(), max_size=30).map("".join), st.booleans())
@example("RX(p0) 0\nCNOT 0 1", True)
def test_any_text_parses_or_raises_value_error(text, with_header):
    try:
        circuit = Circuit.from_text("qubits 3\n" + text if with_header else text)
    except ValueError:
        return
    assert Circuit.from_text(circuit.text()) == circuit


# Drawing


def test_drawing():
    circuit = Circuit(
        4,
        [
            gates.RX(p(0) / 3, 0),
            gates.CNOT([0, 2]),
            gates.H(1),
            gates.SWAP([3, 2]),
            gates.MultiControlledX([0, 3, 1], [0, 1]),
            gates.PauliRot(x(0), "XZ", [2, 0]),
            gates.GlobalPhase(0.5),
            gates.T(3),
        ],
    )
    assert circuit.draw().split("\n") == [
        "0: -RX(0.3333*p0)-*---o-#2---------------",
        "                  |   | |",
        "1: ---------------|-H-X-|----------------",
        "                  |   | |",
        "2: ---------------X-x-|-PauliRot(x0, XZ)-",
        "                    | |",
        "3: -----------------x-*-T----------------",
        "",
        "GlobalPhase(0.5)",
    ]
    assert str(circuit) == circuit.draw()
    assert str(Circuit(2)) == "0: -\n1: -"


def test_drawing_folds():
    circuit = Circuit(11, [gates.RX(p(i), 10) for i in range(30)])
    lines = circuit.draw(width=40).split("\n")
    assert max(map(len, lines)) <= 40
    assert "".join(lines).count("RX(") == 30
    assert lines[10].startswith("10: -RX(p0)-RX(p1)-")
    # A column wider than the drawing still stands, alone.
    assert "Rot(" in Circuit(1, [gates.Rot(p(0), p(1), p(2), 0)] * 2).draw(width=5)


@pytest.mark.parametrize("seed", range(3))
def test_drawing_is_ascii_and_shows_every_wire(seed):
    circuit = random_circuit(5, seed)
    drawing = circuit.draw(width=10**6)
    assert drawing.isascii()
    for qubit in range(5):
        assert f"{qubit}: -" in drawing
    assert "QubitUnitary" in drawing
    assert repr(circuit).startswith("<Circuit: 5 qubits, ")


# Observables


@pytest.mark.parametrize(
    ("text", "components"),
    [
        ("Z0", [(1.0, ((0, "Z"),))]),
        ("0.5 Z0 + 1.0 X1 X2", [(0.5, ((0, "Z"),)), (1.0, ((1, "X"), (2, "X")))]),
        ("-Z0*Y3", [(-1.0, ((0, "Z"), (3, "Y")))]),
        ("2*X2*X1 - 1e-3 Y0", [(2.0, ((1, "X"), (2, "X"))), (-1e-3, ((0, "Y"),))]),
        ("1.0 I", [(1.0, ())]),
        ("I", [(1.0, ())]),
        ("3", [(3.0, ())]),
        ("+.5Z10", [(0.5, ((10, "Z"),))]),
        ("X0 I1 Z2", [(1.0, ((0, "X"), (2, "Z")))]),
        ("Z0 + Z1 + Z0", [(2.0, ((0, "Z"),)), (1.0, ((1, "Z"),))]),
        ("Z0 - Z0", [(0.0, ((0, "Z"),))]),
    ],
)
def test_observable_text(text, components):
    observable = Observable(text)
    assert observable.components == tuple(PauliTerm(*parts) for parts in components)
    assert Observable(str(observable)) == observable


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Observable(""), ValueError, "coefficient or a Pauli, got the end"),
        (lambda: Observable("Q0"), ValueError, "got 'Q0' at position 0"),
        (lambda: Observable("Z"), ValueError, "a wire after Z"),
        (lambda: Observable("Z-1"), ValueError, "a wire after Z"),
        (lambda: Observable("Z0 +"), ValueError, "got the end"),
        (lambda: Observable("Z0 + + Z1"), ValueError, "coefficient or a Pauli"),
        (lambda: Observable("0.5 0.5 Z0"), ValueError, "after a coefficient"),
        (lambda: Observable("Z0 0.5"), ValueError, "Pauli or a sign"),
        (lambda: Observable("* Z0"), ValueError, r"before \*"),
        (lambda: Observable("Z0 *"), ValueError, "got the end"),
        (lambda: Observable("Z0 X0"), ValueError, "wire 0 only once"),
        (lambda: Observable("z0"), ValueError, "got 'z0'"),
        (lambda: Observable("1e999 Z0"), ValueError, "finite coefficient, got inf"),
        (lambda: Observable("Z" + "9" * 100_000), ValueError, "small integer"),
        (lambda: Observable("Z62"), ValueError, "wires from 0 to 61"),
        (lambda: Observable([]), ValueError, "at least one term"),
        (lambda: Observable.sum_z(0), ValueError, "at least one term"),
        (lambda: Observable(["Z0"]), TypeError, "got str"),
        (lambda: Observable.z(-1), ValueError, "wires from 0"),
        (lambda: Observable.z("0"), TypeError, "integer"),
        (lambda: Observable.z(0) * 1j, TypeError, "real coefficient, got complex"),
        (lambda: Observable.z(0) * float("nan"), ValueError, "finite"),
        (lambda: Observable.z(0) + 1, TypeError, "unsupported"),
        (lambda: Observable.z(0) - "Z1", TypeError, "unsupported"),
        (lambda: Observable.projector("012", [0, 1, 2]), ValueError, "bits 0 and 1"),
        (lambda: Observable.projector([2], 0), ValueError, "bits 0 and 1"),
        (lambda: Observable.projector("01", 0), ValueError, "a bit for each"),
        (lambda: Observable.projector("00", [1, 1]), ValueError, "different wires"),
        (lambda: Observable.hermitian([[0, 1], [0, 0]], 0), ValueError, "adjoint by 1"),
        (lambda: Observable.hermitian(np.eye(2), [0, 1]), ValueError, r"shape \(4, 4\)"),
        (lambda: Observable.hermitian(np.eye(2) * np.nan, 0), ValueError, "NaN or infinity"),
        (lambda: Observable.hermitian(np.eye(1), []), ValueError, "Hermitian observable"),
        (lambda: PauliTerm(1.0, ((0, "Q"),)), ValueError, "letters"),
        (lambda: PauliTerm(1.0, ((0, "X"), (0, "X"))), ValueError, "different wires"),
        (lambda: Observable.z(3).matrix(3), ValueError, "more than 3 qubits"),
    ],
)
def test_mistakes_in_observables(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert len(str(caught.value)) < 500


@settings(derandomize=True, max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"IXYZ0123+-*. e", "0.5", "Z0", " + "]) | st.characters(), max_size=20
    ).map("".join)
)
def test_any_observable_text_parses_or_raises_value_error(text):
    try:
        observable = Observable(text)
    except ValueError:
        return
    assert Observable(str(observable)) == observable


def test_observable_constructors():
    assert Observable.x(1) == Observable("X1")
    assert Observable.y(2) == Observable("Y2")
    assert Observable.sum_z(3) == Observable("Z0 + Z1 + Z2")
    assert Observable.projector("01", [3, 1]) == Observable.projector([0, 1], [3, 1])
    assert Observable.projector(1, 2) == Observable(ProjectorTerm(1.0, (2,), (1,)))
    assert Observable(PauliTerm(1.0, ((2, "X"), (0, "Z")))) == Observable("Z0 X2")
    assert Observable.sum_z(3).max_wire == 2
    assert Observable("I").max_wire == -1
    assert len({Observable.z(0), Observable("Z0"), Observable("Z1")}) == 2
    assert Observable.z(0) != "Z0"


def test_observable_matrices():
    letters = {
        "I": np.eye(2),
        "X": [[0, 1], [1, 0]],
        "Y": [[0, -1j], [1j, 0]],
        "Z": [[1, 0], [0, -1]],
    }
    for word in map("".join, itertools.product("IXYZ", repeat=3)):
        text = "1.0 " + " ".join(f"{letter}{wire}" for wire, letter in enumerate(word))
        expected = np.kron(np.kron(letters[word[0]], letters[word[1]]), letters[word[2]])
        np.testing.assert_array_equal(Observable(text).matrix(3), expected)
    projector = np.zeros(8)
    projector[[0b100, 0b110]] = 1
    actual = Observable.projector("01", [2, 0]).matrix(3)
    np.testing.assert_array_equal(actual, np.diag(projector))
    hermitian = np.arange(16).reshape(4, 4) + 1j * np.triu(np.ones((4, 4)), 1)
    hermitian = hermitian + hermitian.conj().T
    actual = Observable.hermitian(hermitian, [0, 1]).matrix(3)
    np.testing.assert_array_equal(actual, np.kron(hermitian, np.eye(2)))
    swapped = hermitian.reshape(2, 2, 2, 2).transpose(1, 0, 3, 2).reshape(4, 4)
    actual = Observable.hermitian(hermitian, [2, 1]).matrix(3)
    np.testing.assert_array_equal(actual, np.kron(np.eye(2), swapped))


def test_observable_arithmetic():
    pauli, projector, hermitian, mixture = random_observables(3, seed=4)
    expected = 0.5 * pauli.matrix(3) - 2 * projector.matrix(3) + 0.3 * hermitian.matrix(3)
    np.testing.assert_allclose(mixture.matrix(3), expected, rtol=0, atol=1e-14)
    assert np.float64(2) * pauli == pauli + pauli
    assert (-pauli).matrix(3) == pytest.approx(-pauli.matrix(3))
    assert (projector + projector).components[0].coefficient == 2.0
    assert str(Observable("Z0 - 2 X1")) == "1.0 Z0 - 2.0 X1"


def test_weight_bounds_the_norm():
    assert Observable("0.5 Z0 - 2 X1 + 1 I").weight == 3.5
    assert Observable.projector("1", 0).weight == 1.0
    assert (-2 * Observable.hermitian([[3, 0], [0, -4]], 0)).weight == pytest.approx(8)
    for observable in random_observables(4, seed=1):
        assert np.linalg.norm(observable.matrix(4), 2) <= observable.weight * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_squares(seed):
    for observable in random_observables(4, seed):
        matrix = observable.matrix(4)
        square = observable.squared().matrix(4)
        scale = observable.weight**2
        np.testing.assert_allclose(square, matrix @ matrix, rtol=0, atol=1e-14 * scale)


def test_squares_stay_small():
    assert Observable("Z0 + X0").squared() == Observable("2 I")
    assert len(Observable.sum_z(24).squared().components) == 1 + 24 * 23 // 2
    # Projectors on many wires need no matrix, alone or with Z.
    wide = Observable.projector([1] * 20, range(20)) + Observable.sum_z(22)
    kinds = {type(term) for term in wide.squared().components}
    assert kinds == {PauliTerm, ProjectorTerm}
    apart = Observable.projector("0", 0) - Observable.projector("1", 0)
    assert apart.squared() == Observable.projector("0", 0) + Observable.projector("1", 0)
    with pytest.raises(ValueError, match=r"needs a matrix over 12 wires .* the limit is 10"):
        (Observable.projector([1] * 12, range(12)) + Observable.x(0)).squared()


@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_squares_of_projectors_and_z(signs):
    observable = (
        signs[0] * Observable("Z0 Z2 Z3")
        + signs[1] * Observable.projector("10", [2, 0])
        + signs[2] * Observable("0.5 X1 + 0.25 I")
    )
    matrix = observable.matrix(4)
    np.testing.assert_allclose(observable.squared().matrix(4), matrix @ matrix, atol=1e-14)


def test_components_hold_read_only_matrices():
    matrix = random_unitary(2, np.random.default_rng(0))
    term = HermitianTerm(1.0, (0,), matrix + matrix.conj().T)
    with pytest.raises(ValueError, match="read-only"):
        term.matrix[0, 0] = 1
    assert term == pickle.loads(pickle.dumps(term))
    assert term != HermitianTerm(1.0, (0,), 2 * term.matrix)
    assert term != "term"


def test_the_largest_circuit():
    circuit = Circuit(MAX_QUBITS, [gates.X(MAX_QUBITS - 1)])
    assert str(MAX_QUBITS - 1) in circuit.draw()
