# SPDX-License-Identifier: Apache-2.0
"""Encodings against PennyLane's embeddings, closed forms, and the wording of every refusal."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import random_states
from tolerance import assert_close

import qdp
from qdp import encodings
from qdp.encodings import (
    IQP,
    IQPZ,
    Amplitude,
    Angle,
    Basis,
    IQPEmbedding,
    Phase,
    ZZFeatureMap,
)

RNG = np.random.default_rng(7)
ROTATIONS = ["X", "Y", "Z"]
BACKENDS = ["reference", "cpu"]


def embedded(embedding, rows, n_qubits, **options):
    """PennyLane's states of an embedding of that name, row by row."""
    qml = pytest.importorskip("pennylane")

    @qml.qnode(qml.device("default.qubit", wires=n_qubits))
    def run(row):
        getattr(qml, embedding)(row, wires=range(n_qubits), **options)
        return qml.state()

    return np.array([run(row) for row in rows])


@pytest.mark.parametrize("n_qubits", [1, 2, 5])
@pytest.mark.parametrize("is_complex", [False, True])
def test_amplitude_is_pennylanes(n_qubits, is_complex, precision):
    features = RNG.normal(size=(4, 2**n_qubits - 1))
    if is_complex:
        features = features + 1j * RNG.normal(size=features.shape)
    expected = embedded("AmplitudeEmbedding", features, n_qubits, pad_with=0, normalize=True)
    assert_close(Amplitude().encode(features, n_qubits, precision=precision), expected, precision)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize(("n_qubits", "n_features"), [(1, 1), (3, 3), (5, 3)])
def test_angle_is_pennylanes(rotation, n_qubits, n_features, precision):
    features = RNG.uniform(-7, 7, size=(4, n_features))
    expected = embedded("AngleEmbedding", features, n_qubits, rotation=rotation)
    result = Angle(rotation).encode(features, n_qubits, precision=precision)
    assert_close(result, expected, precision)


@pytest.mark.parametrize("n_qubits", [1, 4])
def test_basis_is_pennylanes(n_qubits, precision):
    bits = RNG.integers(0, 2, size=(5, n_qubits))
    expected = embedded("BasisEmbedding", bits, n_qubits)
    integers = bits @ (2 ** np.arange(n_qubits)[::-1])
    for features in (bits, bits.astype(float), bits.astype(bool), integers, integers.astype(float)):
        assert_close(Basis().encode(features, n_qubits, precision=precision), expected, precision)


def test_without_normalize_rows_stay_as_they_are():
    states = random_states(3, 2, np.random.default_rng(1))
    np.testing.assert_array_equal(Amplitude(normalize=False).encode(states, 2), states)


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-150, 1e150, 1e160, 1e308])
def test_rows_of_extreme_norm(scale):
    features = np.array([[1.0, -1.0, 0.0], [3.0, 4.0, 0.0]]) * np.array([[scale], [1.0]])
    expected = [[0.5**0.5, -(0.5**0.5), 0, 0], [0.6, 0.8, 0, 0]]
    np.testing.assert_allclose(Amplitude().encode(features, 2), expected, rtol=1e-13)
    narrow = qdp.encode(features, "amplitude", precision="single")
    np.testing.assert_allclose(narrow, expected, rtol=1e-6)


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_states_have_norm_one_and_rows_are_independent(n_qubits, rows, seed):
    rng = np.random.default_rng(seed)
    for encoding, features in [
        (Amplitude(), rng.normal(size=(rows, 2**n_qubits))),
        (Angle(ROTATIONS[seed % 3]), rng.normal(size=(rows, n_qubits))),
        (Basis(), rng.integers(0, 2**n_qubits, size=rows)),
    ]:
        states = encoding.encode(features, n_qubits)
        np.testing.assert_allclose(np.linalg.norm(states, axis=1), np.ones(rows), atol=1e-13)
        order = rng.permutation(rows)
        assert_close(encoding.encode(features[order], n_qubits), states[order], "double")
        for row in range(rows):
            alone = encoding.encode(features[row : row + 1], n_qubits)
            assert_close(alone, states[row : row + 1], "double")


@pytest.mark.parametrize("encoding", [Amplitude(), Angle("X"), Angle("Y"), Angle("Z"), Basis()])
def test_many_rows_cross_the_chunks(encoding):
    n_qubits, rows = 9, 301
    features = RNG.integers(0, 2, size=(rows, n_qubits)) + (not isinstance(encoding, Basis)) * 0.5
    states = encoding.encode(features, n_qubits)
    for row in (0, 31, 32, 33, 255, 256, 300):
        assert_close(encoding.encode(features[[row]], n_qubits), states[[row]], "double")


def test_out_is_written_in_place_and_returned(precision):
    features = RNG.normal(size=(3, 3))
    out = np.full((3, 4), np.nan, np.complex128 if precision == "double" else np.complex64)
    assert qdp.encode(features, "amplitude", out=out) is out
    assert_close(out, qdp.encode(features, "amplitude"), precision)
    one = np.empty(4, complex)
    assert qdp.encode(features[0], "amplitude", out=one) is one
    assert_close(one, qdp.encode(features[0], "amplitude"), "double")


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((2, 4)), TypeError, r"out: expected dtype complex128 or complex64, got float64"),
        (np.empty((2, 8), complex), ValueError, r"out: expected shape \(2, 4\), got \(2, 8\)"),
        (np.empty((4, 2), complex).T, ValueError, r"out: expected a C-contiguous, writeable"),
        (np.broadcast_to(np.complex128(0), (2, 4)), ValueError, r"out: expected a C-contiguous"),
    ],
    ids=["real", "shape", "transposed", "read-only"],
)
def test_out_that_does_not_fit_is_refused(out, error, message):
    with pytest.raises(error, match=message):
        qdp.encode(np.ones((2, 4)), "amplitude", out=out)


def test_out_must_not_overlap_the_features_or_contradict_the_precision():
    out = np.ones((2, 4), complex)
    with pytest.raises(ValueError, match=r"out: expected memory apart from the features"):
        qdp.encode(out, "amplitude", out=out)
    with pytest.raises(ValueError, match=r"precision: expected 'double', that of out, got 'single"):
        qdp.encode(np.ones((2, 4)), "amplitude", out=out, precision="single")


@pytest.mark.parametrize("n_qubits", [1, 2, 5])
def test_little_endian_reverses_the_qubits(n_qubits):
    features = RNG.normal(size=(3, n_qubits))
    little = qdp.encode(features, Angle("Y"), bit_order="little")
    assert_close(little, qdp.encode(features[:, ::-1], Angle("Y")), "double")
    amplitudes = RNG.normal(size=(3, 2**n_qubits))
    reversed_axes = (0, *range(n_qubits, 0, -1))
    expected = qdp.encode(amplitudes, "amplitude").reshape(3, *(2,) * n_qubits)
    expected = expected.transpose(reversed_axes).reshape(3, -1)
    assert_close(qdp.encode(amplitudes, "amplitude", bit_order="little"), expected, "double")


def test_the_fewest_qubits_are_taken():
    assert qdp.encode(np.ones((1, 1)), "amplitude").shape == (1, 2)
    assert qdp.encode(np.ones((1, 5)), "amplitude").shape == (1, 8)
    assert qdp.encode(np.ones((1, 8)), "amplitude").shape == (1, 8)
    assert qdp.encode(np.ones((1, 3)), "angle").shape == (1, 8)
    assert qdp.encode(np.ones((1, 3)), "basis").shape == (1, 8)
    assert qdp.encode(np.ones((1, 3)), "amplitude", 5).shape == (1, 32)


def test_a_single_row_gives_a_single_state():
    assert qdp.encode([3.0, 4.0], "amplitude").shape == (2,)
    assert qdp.encode([0.1, 0.2], "angle").shape == (4,)
    assert qdp.encode(3, "basis", 2).shape == (4,)
    assert qdp.encode([3, 1], "basis", 2).shape == (2, 4)


def test_amplitude_encode_is_the_roadmaps():
    data = RNG.normal(size=(3, 8))
    assert_close(qdp.amplitude_encode(data), qdp.encode(data, "amplitude"), "double")
    states = random_states(2, 3, RNG)
    assert_close(qdp.amplitude_encode(states, normalize=False), states, "double")
    with pytest.raises(ValueError, match=r"expected rows of norm 1, got norm 5 in row 1"):
        qdp.amplitude_encode([[1.0, 0.0], [3.0, 4.0]], normalize=False)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64, np.int16])
def test_the_dtype_is_that_of_the_precision_whatever_comes_in(dtype, precision):
    states = qdp.encode(np.ones((2, 4), dtype), "amplitude", precision=precision)
    assert states.dtype == (np.complex128 if precision == "double" else np.complex64)


NAN_ROW = np.array([[1.0, 2.0], [3.0, np.nan]])


@pytest.mark.parametrize(
    ("encoding", "features", "n_qubits", "error", "message"),
    [
        (
            "amplitude", np.ones((2, 5)), 2, ValueError,
            r"amplitude encoding: expected at most 4 features for 2 qubits, got 5; use more qubits",
        ),
        (
            "angle", np.ones((2, 5)), 4, ValueError,
            r"angle encoding: expected at most 4 features for 4 qubits, got 5; use more qubits",
        ),
        (
            Amplitude(pad=False), np.ones((2, 3)), 2, ValueError,
            r"expected exactly 4 features for 2 qubits, got 3; use pad=True",
        ),
        ("amplitude", NAN_ROW, 1, ValueError, r"amplitude .* got nan at row 1, column 1"),
        ("angle", -np.inf * NAN_ROW, 2, ValueError, r"angle .* got -inf at row 0, column 0"),
        ("basis", NAN_ROW, 2, ValueError, r"basis .* got nan at row 1, column 1"),
        (
            "amplitude", [[1.0, 0.0], [0.0, 0.0]], 1, ValueError,
            r"expected rows with a norm above zero, got zeros only in row 1; remove it",
        ),
        ("basis", [0, 4], 2, ValueError, r"an index for 2 qubits from 0 to 3, got 4 in row 1"),
        ("basis", [0, -1], 2, ValueError, r"an index for 2 qubits from 0 to 3, got -1 in row 1"),
        ("basis", [0.0, 1.5], 2, ValueError, r"expected integers, got 1.5 in row 1; round it"),
        ("basis", [[0, 1], [0, 2]], 2, ValueError, r"expected a bit from 0 to 1, got 2 in row 1"),
        (
            "basis", [[0, 1, 0]], 2, ValueError,
            r"bit strings of shape \(rows, 2\) or integers \(rows,\), got shape \(1, 3\)",
        ),
        ("basis", [1j], 2, TypeError, r"basis encoding: expected integers, got dtype complex128"),
        ("angle", [[1j]], 2, TypeError, r"angle encoding: expected real numbers, got dtype comple"),
        ("amplitude", np.ones((2, 2, 2)), 2, ValueError, r"shape \(rows, features\), got shape"),
        ("amplitude", np.ones((2, 0)), 2, ValueError, r"expected at least one column"),
        ("amplitude", [["a"]], 2, TypeError, r"amplitude encoding: expected numbers, got dtype <U"),
        ("amplitude", np.ones((1, 2)), 0, ValueError, r"n_qubits: expected 1 to 62, got 0"),
        ("amplitude", np.ones((1, 2)), 63, ValueError, r"n_qubits: expected 1 to 62, got 63"),
        ("amplitude", np.ones((9, 2)), 60, MemoryError, r"encoding 9 rows on 60 qubits: expected"),
        ("basis", [0, 1], None, ValueError, r"expected n_qubits beside integers, got none"),
        ("sine", np.ones((1, 2)), 1, ValueError, r"one of amplitude, .*-map, got 'sine'"),
        (3, np.ones((1, 2)), 1, TypeError, r"encoding: expected a name or an Encoding, got int"),
    ],
)  # fmt: skip
def test_refusals(encoding, features, n_qubits, error, message):
    with pytest.raises(error, match=message):
        qdp.encode(features, encoding, n_qubits)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"expected rotation 'X', 'Y' or 'Z', got 'W'"):
        Angle("W")
    with pytest.raises(ValueError, match=r"bit_order: expected 'big' or 'little', got 'middle'"):
        qdp.encode([[1.0]], "amplitude", bit_order="middle")
    with pytest.raises(ValueError, match=r"precision: expected 'double' or 'single', got 'half'"):
        qdp.encode([[1.0]], "amplitude", precision="half")


def test_names_fingerprints_and_descriptions():
    every = [
        Amplitude(), Amplitude(normalize=False), Amplitude(pad=False),
        Angle("X"), Angle("Y"), Angle("Z"), Angle(scale=2), Basis(), Phase(), IQP(), IQPZ(),
        IQPEmbedding(), IQPEmbedding(n_repeats=2), IQPEmbedding(pattern=[[0, 1]]),
        ZZFeatureMap(), ZZFeatureMap(reps=1), ZZFeatureMap(entanglement="linear"),
        ZZFeatureMap(entanglement=[(0, 1)]), ZZFeatureMap(alpha=1),
    ]  # fmt: skip
    assert len({encoding.fingerprint() for encoding in every}) == len(every)
    assert len({encoding.describe() for encoding in every}) == len(every)
    for encoding in every:
        assert encoding.describe().startswith(f"{encoding.name} encoding: ")
        assert encodings.from_name(encoding) is encoding
        assert type(encodings.from_name(encoding.name.upper())) is type(encoding)
    # A digest that changed would make every stored state unknown.
    assert (
        Amplitude().fingerprint()
        == hashlib.sha256(b"1:amplitude(normalize=True,pad=True)").hexdigest()
    )
    assert Angle(scale=2).fingerprint() == Angle(scale=2.0).fingerprint()
    assert Amplitude().n_features(3) == 8
    assert [e.n_features(3) for e in (Angle(), Basis(), Phase(), IQPZ(), IQPEmbedding())] == [3] * 5
    assert IQP().n_features(3) == 6
    assert IQP().state_bytes(5, 3) == 2 * IQP().state_bytes(5, 3, "single") == 5 * 8 * 16


# Compiled loops


@pytest.mark.parametrize(
    ("encoding", "n_qubits", "rows"),
    [
        (Amplitude(), 10, 1100), (Amplitude(normalize=False), 9, 3), (Angle("Y"), 10, 1100),
        (Angle("Z"), 9, 3), (Phase(), 12, 300), (IQPZ(), 11, 5), (IQP(), 10, 1100), (IQP(), 4, 7),
        (IQPEmbedding(n_repeats=2), 9, 5), (ZZFeatureMap(reps=3), 7, 5), (Basis(), 9, 40),
    ],
)  # fmt: skip
def test_compiled_loops_agree_with_numpy(encoding, n_qubits, rows, precision):
    rng = np.random.default_rng(4)
    features = rng.uniform(-4, 4, size=(rows, encoding.n_features(n_qubits)))
    if isinstance(encoding, Basis):
        features = rng.integers(0, 2**n_qubits, size=rows)
    elif encoding == Amplitude(normalize=False):
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    options = {"n_qubits": n_qubits, "precision": precision}
    expected = qdp.encode(features, encoding, backend="reference", **options)
    found = qdp.encode(features, encoding, backend="cpu", **options)
    assert_close(found, expected, precision)
    # An address that no line starts at, and features that are a part of something larger.
    shape = (rows, 2**n_qubits)
    spare = np.empty(rows * 2**n_qubits + 1, expected.dtype)
    out = spare[1:].reshape(shape)
    qdp.encode(np.asfortranarray(features), encoding, out=out, backend="cpu", **options)
    assert_close(out, expected, precision)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_is_found_wherever_it_stands(backend, normalize, bad):
    features = np.full((300, 1024), 1 / 32)
    features[170, 3] = features[299, 0] = bad
    with pytest.raises(ValueError, match=rf"got {bad} at row 170, column 3"):
        qdp.encode(features, Amplitude(normalize=normalize), backend=backend)
    features[170] = 0
    wording = "zeros only in row 170" if normalize else "got norm 0 in row 170"
    features[299, 0] = 1 / 32
    with pytest.raises(ValueError, match=wording):
        qdp.encode(features, Amplitude(normalize=normalize), backend=backend)


# Phases, from the formulas of the states


def bits_of(n_qubits):
    """The bits of every basis state, (2**n, n), qubit 0 first."""
    return (np.arange(2**n_qubits)[:, None] >> np.arange(n_qubits)[::-1]) & 1


def pair_phases(features, n_qubits):
    """The phase of every basis state for "iqp", (rows, 2**n)."""
    bits = bits_of(n_qubits)
    pairs = list(itertools.combinations(range(n_qubits), 2))
    both = np.array([bits[:, i] * bits[:, j] for i, j in pairs]).reshape(len(pairs), 2**n_qubits)
    return features[:, :n_qubits] @ bits.T + features[:, n_qubits:] @ both


def hadamards(n_qubits):
    """The matrix of a Hadamard on every qubit, by its definition."""
    bits = bits_of(n_qubits)
    return (-1.0) ** (bits @ bits.T) / 2 ** (n_qubits / 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 5, 8])
def test_phases_are_their_formulas(n_qubits, precision, backend):
    rows = 5
    options = {"precision": precision, "backend": backend}
    size = 2**n_qubits
    features = RNG.uniform(-7, 7, size=(rows, n_qubits * (n_qubits + 1) // 2))
    singles = features[:, :n_qubits]
    expected = np.exp(1j * singles @ bits_of(n_qubits).T) / np.sqrt(size)
    assert_close(qdp.encode(singles, "phase", **options), expected, precision)
    expected = expected @ hadamards(n_qubits)
    assert_close(qdp.encode(singles, "iqp-z", **options), expected, precision)
    expected = np.exp(1j * pair_phases(features, n_qubits)) @ hadamards(n_qubits) / np.sqrt(size)
    assert_close(qdp.encode(features, "IQP", **options), expected, precision)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n_qubits", "n_repeats"), [(1, 1), (2, 2), (4, 1), (5, 3)])
@pytest.mark.parametrize("pattern", [None, "chain"])
def test_iqp_embedding_is_pennylanes(n_qubits, n_repeats, pattern, precision, backend):
    if pattern == "chain":
        # Against the order, and one pair twice.
        pattern = [(i + 1, i) for i in range(n_qubits - 1)] + [(0, 1)] * (n_qubits > 1)
    features = RNG.uniform(-3, 3, size=(3, n_qubits))
    expected = embedded("IQPEmbedding", features, n_qubits, n_repeats=n_repeats, pattern=pattern)
    encoding = IQPEmbedding(n_repeats=n_repeats, pattern=pattern)
    found = qdp.encode(features, encoding, precision=precision, backend=backend)
    assert_close(found, expected, precision)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n_qubits", "options"),
    [
        (2, {}), (4, {}), (3, {"reps": 1, "alpha": 0.7}),
        *((4, {"entanglement": name, "reps": 3}) for name in (
            "linear", "reverse_linear", "circular", "pairwise", "sca",
        )),
        (2, {"entanglement": "circular"}), (4, {"entanglement": [(2, 0), (1, 3)]}),
    ],
)  # fmt: skip
def test_zz_feature_map_is_qiskits(n_qubits, options, precision, backend):
    zz_feature_map = pytest.importorskip("qiskit.circuit.library").zz_feature_map
    statevector = pytest.importorskip("qiskit.quantum_info").Statevector

    features = RNG.uniform(-3, 3, size=(3, n_qubits))
    qiskits = dict(options)
    if isinstance(options.get("entanglement"), list):
        qiskits["entanglement"] = {1: [(i,) for i in range(n_qubits)], 2: options["entanglement"]}
    circuit = zz_feature_map(n_qubits, **qiskits)
    expected = [statevector(circuit.assign_parameters(row)).data for row in features]
    found = qdp.encode(
        features, ZZFeatureMap(**options), bit_order="little", precision=precision, backend=backend
    )
    assert_close(found, np.array(expected), precision)


def test_angle_scales_the_features(precision):
    features = RNG.uniform(-3, 3, size=(4, 3))
    for rotation in ROTATIONS:
        expected = embedded("AngleEmbedding", -2.5 * features, 3, rotation=rotation)
        scaled = Angle(rotation, scale=-2.5)
        assert_close(qdp.encode(features, scaled, precision=precision), expected, precision)


def test_basis_takes_text():
    assert_close(qdp.encode("0110", "basis"), np.eye(16)[6].astype(complex), "double")
    expected = np.eye(4)[[2, 1]].astype(complex)
    for texts in (["10", "01"], ("10", "01"), np.array(["10", "01"])):
        assert_close(qdp.encode(texts, "basis"), expected, "double")
    assert_close(Basis().encode(["10", "01"], 2), expected, "double")
    circuit = qdp.Circuit(2, [qdp.gates.RX(qdp.parameter(0), 0)])
    values = qdp.expectation(circuit, [0.0], ["10", "01"], "Z0", encoding="basis")
    assert_close(values, np.array([-1.0, 1.0]), "double")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qdp.encode(["01", "012"], "basis"), r"text of 2 zeros and ones, got '012' in row"),
        (
            lambda: qdp.encode("0x", "basis"),
            r"expected text of 2 zeros and ones, got '0x' in row 0",
        ),
        (lambda: qdp.encode("", "basis"), r"expected text of n zeros and ones, got '' in row 0"),
        (lambda: qdp.encode(["01", 1], "basis"), r"zeros and ones, got '1' in row 1"),
        (lambda: qdp.encode("01", "basis", 3), r"bit strings of shape \(rows, 3\)"),
        (lambda: qdp.encode([[0.1, 0.2]], "phase", 3), r"exactly 3 features for 3 qubits, got 2"),
        (lambda: qdp.encode(np.ones((1, 4)), "iqp"), r"exactly 6 features for 3 qubits, got 4"),
        (lambda: qdp.encode([[np.inf]], "iqp-z"), r"iqp-z encoding: .* got inf at row 0, column 0"),
        (lambda: IQPEmbedding(n_repeats=0), r"expected n_repeats of at least 1, got 0"),
        (lambda: IQPEmbedding(pattern=[(1, 1)]), r"pairs of different qubits, got \(1, 1\)"),
        (lambda: ZZFeatureMap(entanglement="round"), r"expected entanglement full, .* got 'round'"),
        (lambda: ZZFeatureMap(alpha=np.nan), r"expected a finite alpha, got nan"),
        (lambda: Angle(scale=np.inf), r"expected a finite scale, got inf"),
        (
            lambda: qdp.encode([[0.1, 0.2]], IQPEmbedding(pattern=[(0, 2)])),
            r"expected pairs of qubits from 0 to 1, got \(0, 2\)",
        ),
        (
            lambda: qdp.encode([[0.1, 0.2]], ZZFeatureMap(entanglement=[(0, 2)])),
            r"expected pairs of qubits from 0 to 1, got \(0, 2\)",
        ),
    ],
)
def test_refusals_of_options_and_counts(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("is_complex", [False, True])
def test_pullback_is_the_derivative_of_encode(normalize, is_complex):
    rng = np.random.default_rng(3)
    features = random_states(2, 2, rng)[:, :3] if is_complex else rng.normal(size=(2, 3))
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    features *= 2.5 if normalize else 1
    weights = rng.normal(size=(2, 2, 4)) + 1j * rng.normal(size=(2, 2, 4))

    def value(rows):
        # A linear function of the amplitudes, whose derivative is ``weights``.
        norms = np.linalg.norm(rows, axis=1, keepdims=True) if normalize else 1
        padded = np.pad(rows / norms, ((0, 0), (0, 1)))
        return np.einsum("rod,rd->ro", weights.conj(), padded).real

    expected = np.zeros((2, 2, 3), complex)
    for column in range(3):
        for unit in (1, 1j) if is_complex else (1,):
            step = np.zeros(3, complex if is_complex else float)
            step[column] = 1e-6 * unit
            slope = (value(features + step) - value(features - step)) / 2e-6
            expected[:, :, column] += slope * unit
    result = Amplitude(normalize=normalize).pullback(features, weights)
    assert result.dtype == (np.complex128 if is_complex else np.float64)
    np.testing.assert_allclose(result, expected, atol=1e-8)
    narrow = Amplitude(normalize=normalize).pullback(features, weights.astype(np.complex64))
    assert_close(narrow, result, "single", weight=10)
