# SPDX-License-Identifier: Apache-2.0
"""The planner's numbers: against counts made by hand, and against what the engine really does."""

import math
import subprocess
import sys

import numpy as np
import pytest
from samples import random_unitary

import qdp
from qdp import gates, planner
from qdp.planner import MemoryEstimate, choose_layout, explain, memory_estimate

cpu = pytest.importorskip("qdp.backends.cpu", reason="needs the compiled extension")


@pytest.fixture
def machine(monkeypatch):
    """A machine with 512-bit registers and two threads, whatever this one has."""
    monkeypatch.setattr(planner._Machine, "here", lambda: planner._Machine("avx512", 2))


def lines(text, name):
    """The lines of an explanation under one heading, without it."""
    found, inside = [], False
    for line in text.splitlines():
        heading = line[:14].strip()
        inside = heading == name or (inside and not heading)
        if inside:
            found.append(line[14:])
    return found


# Memory


def test_memory_of_a_small_adjoint_run(machine):
    # 16 real features; 8 lanes of 8 bytes. A tile is 2 * 16 * 8 numbers: 2048 bytes. At work are
    # psi, a spare one, a checkpoint (behind the RY step, which is before the RZ step), lambda.
    estimate = memory_estimate(
        qdp.ansatz.ry_rz_ladder(4, 1), rows=1000, method="adjoint", encoding="amplitude"
    )
    n_rotations, lanes, tile = 8, 8, 2048
    assert estimate == MemoryEstimate(
        inputs=1000 * 16 * 8 + 8 * 8,
        results=1000 * (1 + 8) * 8,
        # one table of phases and its angles, three line numbers, the observable twice: a amplitude
        shared=16 * (2 * 8 + 8 + 3 * 4 + 2 * 8),
        per_thread=4 * tile
        + tile // 16
        + tile
        + n_rotations * lanes * (8 + 4 * 8)
        + (n_rotations + 1) * lanes * 8,
        threads=2,
    )
    assert estimate.total == 128064 + 72000 + 832 + 2 * 13504


@pytest.mark.parametrize(
    ("encoding", "precision", "row_bytes"),
    [
        (None, "double", 16 * 16),
        (None, "single", 16 * 8),
        ("amplitude", "double", 16 * 8),
        ("amplitude", "single", 16 * 4),
        ("angle", "single", 4 * 8),
        ("basis", "double", 4 * 8),
    ],
)
def test_bytes_of_inputs(machine, encoding, precision, row_bytes):
    circuit = qdp.ansatz.data_reuploading(4, 1)  # 4 inputs, 12 parameters
    estimate = memory_estimate(circuit, rows=10, encoding=encoding, precision=precision)
    assert estimate.inputs == 10 * (row_bytes + 4 * 8) + 12 * 8


@pytest.mark.parametrize(
    ("method", "row_bytes"),
    [("expectation", 8), ("state", 16 * 16), ("adjoint", 9 * 8), ("spsa", 9 * 8)],
)
def test_bytes_of_results(machine, method, row_bytes):
    estimate = memory_estimate(qdp.ansatz.ry_rz_ladder(4, 1), rows=10, method=method)
    assert estimate.results == 10 * row_bytes


def test_shifted_values_are_part_of_the_memory(machine):
    circuit = qdp.ansatz.ry_rz_ladder(4, 1)  # 8 parameters, two shifts each
    plain = memory_estimate(circuit, rows=10, method="expectation")
    shifted = memory_estimate(circuit, rows=10, method="parameter-shift")
    assert shifted.shared - plain.shared == (
        17 * 2 * 16 * 8  # a table of phases each
        + 10 * 8 * (1 + 16)
        + 2 * 10 * 8 * 8  # sums, and their copy in order
    )


def test_checkpoints_beyond_their_budget_are_given_up(machine):
    # 2 checkpoints of 16 MiB at n = 20 fit into 48 MiB, 2 of 32 MiB don't. Beside them are psi, a
    # spare one and lambda; without them another psi for the way back.
    kept = memory_estimate(qdp.ansatz.ry_rz_ladder(20, 2), rows=2)
    anew = memory_estimate(qdp.ansatz.ry_rz_ladder(21, 2), rows=2)
    assert kept.per_thread // 2**20 == (3 + 2) * 16 + 1
    assert anew.per_thread // 2**20 == (3 + 1) * 32 + 2
    text = explain(qdp.ansatz.ry_rz_ladder(21, 2), "Z0", rows=2)
    assert "states on the way back are computed anew" in text


def test_no_rows_need_no_inputs(machine):
    estimate = memory_estimate(qdp.Circuit(2), rows=0, method="expectation")
    assert estimate.inputs == 0
    assert estimate.results == 0
    assert estimate.threads == 1


RUN = """
import re
import numpy as np, qdp
def peak():
    # ru_maxrss would start from the parent's.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
qdp.gradient(qdp.ansatz.ry_rz_ladder(3, 2), np.ones(12), np.ones((99, 8)), "Z0",
             encoding="amplitude", backend="cpu")
circuit = qdp.ansatz.ry_rz_ladder(19, 2)
chosen = {encoding}
features = np.random.default_rng(1).normal(size=(2, chosen.n_features(19)))
options = dict(encoding=chosen, precision="{precision}")
estimate = qdp.memory_estimate(circuit, rows=2, **options)
before = peak()
qdp.gradient(circuit, np.ones(76), features, "X0", backend="cpu", **options)
print((peak() - before) / (estimate.total - estimate.inputs))
"""


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("encoding", ["Amplitude()", "Angle()", "IQPEmbedding(n_repeats=2)"])
def test_a_run_takes_no_more_memory_than_estimated(encoding, precision):
    code = RUN.replace("{encoding}", f"qdp.encodings.{encoding}").replace("{precision}", precision)
    ratio = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    # An upper bound, but no loose one: the spare state may stay untouched.
    assert 0.6 < ratio < 1.1


# Layout


@pytest.mark.parametrize(
    ("n_qubits", "rows", "precision", "isa", "expected"),
    [
        # n, rows -> name, lanes, bytes a tile, tiles at a time, split
        (4, 1000, "double", "avx512", ("batch", 8, 2 * 16 * 8 * 8, 2, False)),
        (4, 8, "double", "avx512", ("batch", 8, 2048, 1, False)),
        (4, 9, "double", "avx512", ("batch", 8, 2048, 2, False)),
        (12, 99, "double", "avx512", ("batch", 8, 2**19, 2, False)),
        (13, 99, "double", "avx512", ("batch", 4, 2**19, 2, False)),
        (13, 99, "double", "avx2", ("batch", 4, 2**19, 2, False)),
        (13, 99, "single", "avx512", ("batch", 8, 2**19, 2, False)),
        (9, 5, "double", "avx512", ("batch", 8, 2**16, 1, False)),
        (9, 4, "double", "avx512", ("sample", 8, 2**13, 2, False)),
        (9, 8, "single", "avx512", ("sample", 16, 2**12, 2, False)),
        (9, 1, "double", "sse4", ("sample", 2, 2**13, 1, False)),
        (10, 1, "double", "sse4", ("sample", 2, 2**14, 1, False)),
        (14, 99, "double", "avx512", ("sample", 8, 2**18, 2, False)),
        (14, 99, "single", "avx512", ("batch", 8, 2**20, 2, False)),
        (15, 99, "double", "avx512", ("sample", 8, 2**19, 2, False)),
        (15, 1, "double", "avx512", ("sample", 8, 2**19, 1, True)),
        (15, 0, "double", "avx512", ("sample", 8, 2**19, 1, True)),
    ],
)
def test_layouts(n_qubits, rows, precision, isa, expected):
    layout = choose_layout(n_qubits, rows, precision, isa, 2)
    found = (
        layout.name,
        layout.lanes,
        layout.tile_bytes,
        layout.threads,
        layout.splits_rows,
    )
    assert found == expected


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize(
    ("n_qubits", "rows"),
    [(8, 1), (9, 1), (9, 2), (9, 3), (9, 4), (9, 5), (9, 8), (9, 9), (13, 9), (14, 9), (15, 9)],
)
def test_the_engine_chooses_the_same_layout(n_qubits, rows, precision):
    # The two layouts add in another order, so that their last bits differ.
    here = planner._Machine.here()
    expected = choose_layout(n_qubits, rows, precision, here.isa, here.threads).name
    random = np.random.default_rng(n_qubits)
    circuit = qdp.ansatz.ry_rz_ladder(n_qubits, 1)
    parameters = random.normal(size=circuit.n_parameters)
    features = random.normal(size=(rows, 2**n_qubits))

    def run(layout):
        return qdp.gradient(
            circuit,
            parameters,
            features,
            qdp.Observable.sum_z(n_qubits),
            encoding="amplitude",
            precision=precision,
            backend=cpu.CpuBackend(layout),
        )

    found = {layout: run(layout) for layout in ("auto", "batch", "sample")}
    assert not np.array_equal(found["batch"], found["sample"])
    assert np.array_equal(found["auto"], found[expected])


# Arithmetic


def test_arithmetic_of_one_qubit(machine):
    # A = 2 real amplitudes. There: RY 2 A, RZ 2 A (real to complex), <Z> 3 * 2 A: 20.
    # Back: RZ undone 6 A, its gradient A + 2 A, RY's gradient 2 A: 22.
    # Shifts of RY: (3 A, RZ 2 A, <Z> 6 A) twice; of RZ, in its table: (2 A, <Z> 6 A) twice: 76.
    text = explain(qdp.ansatz.ry_rz_ladder(1, 1), "Z0", rows=8, encoding="amplitude")
    assert lines(text, "work a row") == [
        "values 20 FLOP; 16 B in, 8 B out",
        "adjoint gradient 42 FLOP, 24 B out",
        "parameter-shift 96 FLOP in 4 shifted values",
    ]


def test_arithmetic_of_angles_per_row_and_four_shifts(machine):
    # A = 4 complex amplitudes, given as states. RX of a feature is 3 * 2 A, since its cosines
    # differ from row to row; CRX(p) is two rotations with half the angle, 2 * 2 * 2 A with Z X
    # and X words that commute; <Z1> 6 A: 20 A = 80.
    circuit = qdp.Circuit(
        2, [gates.RX(qdp.feature(0), 0), gates.CRX(qdp.parameter(0), wires=[0, 1])]
    )
    text = explain(circuit, "Z1", rows=8)
    work = lines(text, "work a row")
    assert work[0] == "values 80 FLOP; 72 B in, 8 B out"
    # The X word joins RX in the first step, the Z X word is the second. Each of four shifts turns
    # about both words, 2 * 6 A, before the second step, 4 A, and <Z1>, 6 A.
    assert work[2] == "parameter-shift 432 FLOP in 4 shifted values"
    assert 80 + 4 * (12 + 4 + 6) * 4 == 432


# Words


def test_an_explanation_in_full(machine, monkeypatch):
    monkeypatch.setattr(planner, "available_memory", lambda: 2**30)
    assert explain(
        qdp.ansatz.ry_rz_ladder(4, 1), "Z0 + X1", rows=1000, encoding="amplitude"
    ).splitlines() == [
        "circuit       4 qubits, 11 operations, 8 parameters, 0 inputs",
        "normal form   8 rotations in 2 steps; 3 Clifford gates cost no pass",
        "  step 1      4 commuting rotations",
        "  step 2      4 rotations about Z words: a table of phases",
        "outside       nothing: only Pauli rotations and Clifford gates",
        "observable    1.0 Z0 + 1.0 X1: 2 Pauli words in 2 passes over the state",
        "layout        batch: 8 rows side by side, 2.0 KiB a tile; 2 threads (avx512, double)",
        "work a row    values 352 FLOP; 128 B in, 8 B out",
        "              adjoint gradient 624 FLOP, 72 B out",
        "              parameter-shift 4.32 kFLOP in 16 shifted values",
        "memory        values 151.2 KiB: inputs 125.1 KiB, results 7.8 KiB, tables 1.1 KiB, "
        "work 2 x 8.6 KiB",
        "              adjoint 222.8 KiB: inputs 125.1 KiB, results 70.3 KiB, tables 1.1 KiB, "
        "work 2 x 13.2 KiB",
        "              states on the way back are kept from the way there",
        "              available 1.0 GiB",
    ]


def test_operations_outside_the_normal_form_are_named(machine):
    # A = 128 amplitudes: a 4 x 4 matrix costs 4 complex multiply-adds each, 8 * 4 A = 4096;
    # X under six controls is a 2 x 2 matrix on two of the amplitudes, 8 * 2 * 2 = 32.
    circuit = qdp.Circuit(
        7,
        [
            gates.Hadamard(0),
            gates.QubitUnitary(np.eye(4)[[1, 0, 3, 2]], [0, 1]),
            gates.MultiControlledX(list(range(7))),
        ],
    )
    text = explain(circuit, "Z0", rows=1000)
    assert lines(text, "outside") == [
        "QubitUnitary on wires 0, 1: 4.1 kFLOP a row, and the Clifford gates before it are applied",
        "MultiControlledX on wires 0, 1, 2, 3, 4, 5, 6: 32 FLOP a row, and the Clifford gates "
        "before it are applied",
    ]
    # H is applied before the matrix, as Z and a rotation.
    assert "1 Clifford gate (applied: 1 permutation, 1 Hadamard)" in text


def test_a_diagonal_on_many_wires_is_outside(machine):
    circuit = qdp.Circuit(7, [gates.DiagonalQubitUnitary(np.ones(128), list(range(7)))])
    text = explain(circuit, "Z0", rows=1000)
    assert lines(text, "outside") == [
        "DiagonalQubitUnitary on wires 0, 1, 2, 3, 4, 5, 6: 768 FLOP a row, and the Clifford gates "
        "before it are applied"
    ]


def test_states_need_the_frame(machine):
    text = explain(qdp.ansatz.ry_rz_ladder(4, 1), rows=1000)
    assert "3 Clifford gates (applied: 1 permutation)" in text
    assert lines(text, "work a row") == ["states 352 FLOP; 256 B in, 256 B out"]
    assert "gradient" not in text


@pytest.mark.parametrize(
    ("encoding", "flops", "spared"),
    [
        ("angle", 12 * 16, 0),
        # Real rows spare four rotations and a table of phases one plane each, there and back.
        (qdp.encodings.Angle(rotation="Y"), 2 * 16, (2 * 4 * 2 + 4 + 2) * 16),
        ("iqp", (12 + 2 * 4 + 2) * 16, 0),
        (qdp.encodings.IQPEmbedding(n_repeats=3), (12 + 2 * (2 * 4 + 6)) * 16, 0),
    ],
)
def test_states_worked_out_at_the_load_cost_no_step(machine, encoding, flops, spared):
    circuit = qdp.ansatz.ry_rz_ladder(4, 1)
    text = explain(circuit, "Z0", rows=1000, encoding=encoding)
    assert lines(text, "encoding")[0].endswith(
        f"states worked out as rows are loaded, {flops} FLOP a row"
    )
    assert lines(text, "normal form")[0].startswith("8 rotations in 2 steps")
    without = planner.operations(circuit, "Z0", rows=1000)
    assert planner.operations(circuit, "Z0", rows=1000, encoding=encoding) == (
        without + flops - spared
    )


def test_what_is_refused_counts_the_states_worked_out_at_the_load(machine, monkeypatch):
    circuit, encoding = qdp.Circuit(24), qdp.encodings.IQPEmbedding(n_repeats=2)
    needed = memory_estimate(circuit, rows=1, method="expectation", encoding=encoding)
    bare = memory_estimate(circuit, rows=1, method="expectation")
    assert needed.per_thread - bare.per_thread == (2 * 8 + 6 * 8) * 2**24
    between = (bare.total - bare.inputs + needed.total - needed.inputs) // 2
    monkeypatch.setattr(qdp.memory, "available_memory", lambda: between)
    with pytest.raises(MemoryError, match="pass fewer rows"):
        qdp.expectation(circuit, [], np.zeros((1, 24)), "Z0", encoding=encoding)


@pytest.mark.parametrize(
    "encoding",
    [qdp.encodings.Angle(), qdp.encodings.IQP(), qdp.encodings.IQPEmbedding(n_repeats=3)],
)
def test_operations_of_states_worked_out_at_the_load_are_those_of_the_kernels(encoding):
    core = pytest.importorskip("qdp._core")
    features = np.ones((16, encoding.n_features(6)))
    core.start_profile()
    qdp.expectation(qdp.Circuit(6), [], features, "Z0", encoding=encoding, backend="cpu")
    done = {name: flops for name, _, _, flops, _ in core.stop_profile()}
    counted = planner._Run.of(
        qdp.Circuit(6), (), 16, encoding, "double", apply_frame=False
    ).preparation_flops
    assert done.get("product", done.get("phases")) == 16 * counted


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (0, 0)),
        ([1, 2], (0, 2)),
        ([1, 2, 3], (0, 3)),
        ([1, 2, 4], (1, 0)),
        ([1, 2, 4, 3, 5, 6, 7], (2, 1)),
        ([1, 2, 4, 8, 3, 6, 12, 9, 5, 10], (3, 0)),
    ],
)
def test_words_with_an_angle_per_row_share_tables(words, expected):
    assert planner._row_tables(words) == expected


def test_long_circuits_are_cut_short(machine):
    text = explain(qdp.ansatz.ry_rz_ladder(2, 10), "Z0")
    assert "  step 12 " in text
    assert "  step 13 " not in text
    assert "  and 8 more" in text


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c: memory_estimate("circuit", rows=1),
            TypeError,
            "expected a qdp.Circuit, got str",
        ),
        (lambda c: memory_estimate(c, rows=-1), ValueError, "rows: expected 0 or more, got -1"),
        (lambda c: memory_estimate(c, rows=1, method="magic"), ValueError, "got 'magic'"),
        (lambda c: memory_estimate(c, rows=1, precision="half"), ValueError, "got 'half'"),
        (lambda c: memory_estimate(c, rows=1, encoding="wave"), ValueError, "got 'wave'"),
        (lambda c: explain("circuit", "Z0"), TypeError, "expected a qdp.Circuit, got str"),
        (lambda c: explain(c, "Z9"), ValueError, "expected wires from 0 to 1, got wire 9"),
        (lambda c: explain(c, ["Z0", "Z2"]), ValueError, "got wire 2"),
    ],
)
def test_mistakes_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(qdp.Circuit(2))


def test_explain_counts_what_pruning_leaves_out():
    circuit = qdp.ansatz.ry_rz_ladder(12, 2)
    assert "pruned        43 rotations that change no value" in qdp.explain(
        circuit, "Z0", prune=True
    )
    assert "pruned" not in qdp.explain(circuit, "Z0")
    assert "in 10 shifted values" in qdp.explain(circuit, "Z0", prune=True)


def test_explain_counts_matrices_that_pruning_leaves_out():
    matrix = random_unitary(4, np.random.default_rng(0))
    operations = [qdp.gates.QubitUnitary(matrix, wires) for wires in ([1, 2], [2, 3], [0, 1])]
    text = qdp.explain(qdp.Circuit(4, operations), "X3", encoding="angle", prune=True)
    assert "QubitUnitary on wires 1, 2" in text
    assert "QubitUnitary on wires 2, 3" in text
    assert "QubitUnitary on wires 0, 1" not in text
    assert "pruned        1 constant matrix that change no value" in text


# Plans


@pytest.fixture
def rates(machine, monkeypatch):
    """An engine of 1 GFLOP/s that reads memory at 1 GB/s."""
    monkeypatch.setattr(planner._Rates, "here", lambda threads: planner._Rates(3e9, 4e9 / 3))


def saved(path, rows):
    np.save(path, rows)
    return qdp.open(path)


def test_predictions_by_hand(rates):
    # One qubit, as in test_arithmetic_of_one_qubit: 42 FLOP, two features of 8 bytes. A cache
    # keeps them with a norm, 24 bytes. 10 passes over 1000 rows, 0.1 ms a call.
    plan = qdp.plan(
        qdp.ansatz.ry_rz_ladder(1, 1), np.ones((1000, 2)), "Z0", encoding="amplitude", reuse=10
    )
    assert plan.decision == "fuse"
    assert plan.fuse.seconds == pytest.approx(10 * (42e-6 + 16e-6 + 1e-4))
    assert plan.stream.seconds == pytest.approx(10 * (42e-6 + 16e-6 + 1e-4))
    assert plan.cache.seconds == pytest.approx(
        16e3 / 1.8e9 + 24e3 / 6e9 + 10 * (42e-6 + 24e-6 + 1e-4)
    )
    assert (plan.fuse.n_bytes, plan.cache.n_bytes, plan.stream.n_bytes) == (0, 24000, 16000)
    assert (plan.fuse.place, plan.cache.place, plan.stream.place) == ("source", "memory", "source")


def test_predictions_for_a_file_by_hand(rates, tmp_path):
    source = saved(tmp_path / "rows.npy", np.ones((1000, 2)))
    circuit = qdp.ansatz.ry_rz_ladder(1, 1)
    plan = qdp.plan(circuit, source, "Z0", encoding="amplitude", reuse=10, memory=20000)
    read = 16e3 / 10e9
    assert plan.fuse.seconds == pytest.approx(read + 10 * (42e-6 + 16e-6 + 1e-4))
    assert plan.stream.seconds == pytest.approx(10 * (read + 42e-6 + 16e-6 + 1e-4))
    # 24000 bytes are beyond the budget, so that the cache writes files.
    assert plan.cache.seconds == pytest.approx(
        read + 16e3 / 1.8e9 + 24e3 / 0.5e9 + 10 * (42e-6 + 24e-6 + 24e3 / 10e9 + 1e-4)
    )
    assert (plan.decision, plan.fuse.place, plan.cache.place) == ("fuse", "memory", "files")


def test_files_beyond_memory_are_read_from_the_disk(rates, tmp_path, monkeypatch):
    source = saved(tmp_path / "rows.npy", np.ones((1000, 2)))
    circuit = qdp.ansatz.ry_rz_ladder(1, 1)
    monkeypatch.setattr(planner, "available_memory", lambda: 15000)
    plan = qdp.plan(circuit, source, "Z0", encoding="amplitude", reuse=2)
    # Two chunks, since one takes no more than there is.
    assert plan.stream.seconds == pytest.approx(2 * (16e3 / 1.5e9 + 42e-6 + 16e-6 + 2e-4))
    assert plan.cache.seconds == pytest.approx(
        16e3 / 1.5e9 + 16e3 / 1.8e9 + 24e3 / 0.5e9 + 2 * (42e-6 + 24e-6 + 24e3 / 1.5e9 + 1e-4)
    )
    assert math.isinf(plan.fuse.seconds)


def test_tables_are_decoded_in_every_pass(rates, tmp_path):
    table = pytest.importorskip("pyarrow", reason="Parquet is read by pyarrow").table
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(table({"a": np.ones(1000), "b": np.ones(1000)}), path)
    plan = qdp.plan(
        qdp.ansatz.ry_rz_ladder(1, 1), qdp.open(path), "Z0", encoding="amplitude", reuse=10
    )
    assert plan.stream.seconds - plan.fuse.seconds == pytest.approx(9 * 16e3 / 0.3e9)


def test_values_and_single_precision(rates):
    # 20 FLOP for values, at twice the rate in single; a cache of complex64 states of 16 bytes is
    # no larger than the two float64 features, so that it keeps states: RY 4 A on complex
    # numbers, RZ 6 A, <Z> 6 A: 16 A = 32 FLOP.
    plan = qdp.plan(
        qdp.ansatz.ry_rz_ladder(1, 1),
        np.ones((1000, 2)),
        "Z0",
        encoding="amplitude",
        method="expectation",
        precision="single",
    )
    assert plan.fuse.seconds == pytest.approx(10e-6 + 16e-6 + 1e-4)
    assert plan.cache.n_bytes == 16000
    assert plan.cache.seconds == pytest.approx(16e3 / 1.8e9 + 16e3 / 6e9 + 16e-6 + 16e-6 + 1e-4)


def test_rows_that_do_not_fit_are_streamed(rates, tmp_path):
    source = saved(tmp_path / "rows.npy", np.ones((1000, 16)))
    plan = qdp.plan(
        qdp.ansatz.ry_rz_ladder(4, 1), source, "Z0", encoding="amplitude", memory="64KiB"
    )
    assert plan.decision == "stream"
    assert math.isinf(plan.fuse.seconds)
    assert plan.stream.n_bytes == 65536
    assert "do not fit the budget" in plan.reason
    assert "fuse does not fit: it would keep 125.0 KiB (memory)" in str(plan)


def test_a_costly_encoding_is_cached(rates):
    # The angles of iqp differ from row to row: the run applies every one of 36 pairs and singles.
    circuit, rows = qdp.ansatz.ry_rz_ladder(8, 1), np.ones((100, 36))
    plan = qdp.plan(circuit, rows, "Z0", encoding="iqp", reuse=50)
    assert plan.decision == "cache"
    assert plan.reason.startswith("one build saves ")
    assert plan.reason.endswith(" a row for the encoding in 50 passes")
    assert plan.cache.n_bytes == 100 * 256 * 16
    fused = planner.operations(circuit, "Z0", rows=100, encoding="iqp")
    states = planner.operations(circuit, "Z0", rows=100)
    assert plan.fuse.seconds - plan.cache.seconds == pytest.approx(
        50 * (100 * (fused - states) / 1e9 + (100 * (36 * 8 - 256 * 16)) / 1e9)
        - 100 * 36 * 8 / 1.8e9
        - 100 * 256 * 16 / 6e9
    )


def test_a_cache_of_smaller_numbers_saves_loads(rates):
    # complex128 features of which a single-precision run keeps complex64 states.
    plan = qdp.plan(
        qdp.ansatz.ry_rz_ladder(4, 1),
        np.ones((1000, 16), complex),
        None,
        encoding="amplitude",
        precision="single",
        reuse=50,
    )
    assert plan.cache.n_bytes == 1000 * 16 * 8
    assert plan.cache.seconds < plan.fuse.seconds
    assert plan.reason.endswith("128 B a row to load in 50 passes")


def test_more_passes_pay_for_a_cache(machine, monkeypatch):
    # So fast an engine that a single pass does not earn the build.
    monkeypatch.setattr(planner._Rates, "here", lambda threads: planner._Rates(3e12, 4e12 / 3))
    circuit, rows = qdp.ansatz.ry_rz_ladder(8, 1), np.ones((100, 8))
    costly = qdp.encodings.ZZFeatureMap(reps=20)
    for reuse, decision in ((1, "fuse"), (50, "cache")):
        assert qdp.plan(circuit, rows, "Z0", encoding=costly, reuse=reuse).decision == decision


@pytest.mark.parametrize("reuse", [1, 7])
def test_the_decision_is_the_fastest_option(rates, reuse):
    for encoding, n_features in (("amplitude", 64), ("angle", 6), ("iqp", 21)):
        plan = qdp.plan(
            qdp.ansatz.ry_rz_ladder(6, 1),
            np.ones((99, n_features)),
            "Z0",
            encoding=encoding,
            reuse=reuse,
        )
        seconds = {name: option.seconds for name, option in plan.options.items()}
        assert seconds[plan.decision] == min(seconds.values())


def test_rates_are_those_of_this_machine():
    threads = planner._Machine.here().threads
    rates = planner._Rates.here(threads)
    assert 1e8 < rates.flops < 1e15
    assert 1e8 < rates.n_bytes < 1e14
    assert planner._Rates.here(threads) is rates


def test_explain_shows_the_plan_of_rows(rates):
    circuit, rows = qdp.ansatz.ry_rz_ladder(1, 1), np.ones((1000, 2))
    text = explain(circuit, "Z0", rows=qdp.open(rows), encoding="amplitude", reuse=10)
    plan = qdp.plan(circuit, rows, "Z0", encoding="amplitude", reuse=10)
    assert text.endswith(str(plan))
    assert lines(text, "plan")[1:] == [
        "fuse 1.58 ms, keeps 0 B (source)",
        "cache 1.67 ms, keeps 23.4 KiB (memory)",
        "stream 1.58 ms, keeps 15.6 KiB (source)",
    ]
    assert lines(text, "work a row") == lines(
        explain(circuit, "Z0", rows=1000, encoding="amplitude"), "work a row"
    )
    assert "plan" not in explain(circuit, "Z0", rows=1000, encoding="amplitude")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reuse": 0}, ValueError, "reuse: expected at least 1 pass, got 0"),
        ({"reuse": 1.5}, TypeError, "float"),
        ({"memory": "much"}, ValueError, "memory: expected bytes or text such as '4GiB'"),
        ({"memory": 31}, ValueError, "memory: expected at least one row, 32 B, got 31 B"),
        ({"method": "magic"}, ValueError, "got 'magic'"),
        ({"encoding": "wave"}, ValueError, "got 'wave'"),
        ({"encoding": None}, ValueError, "encoding: expected one for the rows"),
        ({"encoding": "angle"}, ValueError, "at most 2 features a row for 'angle' on 2 qubits"),
        ({"precision": "half"}, ValueError, "got 'half'"),
        ({"observable": "Z9"}, ValueError, "got wire 9"),
        ({"circuit": "circuit"}, TypeError, "expected a qdp.Circuit, got str"),
    ],
)
def test_mistakes_in_a_plan_are_refused(rates, change, error, message):
    given = {
        "circuit": qdp.ansatz.ry_rz_ladder(2, 1),
        "source": np.ones((3, 4)),
        "observable": "Z0",
        "encoding": "amplitude",
    } | change
    with pytest.raises(error, match=message):
        qdp.plan(**given)


def test_a_source_of_unknown_length_has_no_plan(tmp_path):
    pytest.importorskip("pyarrow", reason="CSV is read by pyarrow")
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="source: expected one of known length"):
        qdp.plan(qdp.ansatz.ry_rz_ladder(1, 1), qdp.open(path), "Z0", encoding="amplitude")
