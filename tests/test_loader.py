# SPDX-License-Identifier: Apache-2.0
"""Batches from memory, file and stream: the same rows, resumed exactly, shared out completely."""

import itertools
import threading

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tolerance import assert_close
from torch.utils.data import DataLoader

import qdp
from qdp import Loader

ROWS = np.random.default_rng(2).normal(size=(23, 3))
LABELS = np.arange(23) * 10


@pytest.fixture(scope="module", params=["memory", "file", "stream"])
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    table = pa.table({**{f"x{i}": ROWS[:, i] for i in range(3)}, "y": LABELS})
    if request.param == "memory":
        return qdp.open(ROWS, labels=LABELS)
    if request.param == "file":
        pq.write_table(table, folder / "rows.parquet", row_group_size=4)
        return qdp.open(folder / "rows.parquet", label="y")
    pa.csv.write_csv(table, folder / "rows.csv")
    return qdp.open(folder / "rows.csv", label="y")


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "qdp-loader"]


def check(batches, rows=range(23)):
    """Each batch's features and labels belong to its rows, and all ``rows`` come once."""
    for batch in batches:
        np.testing.assert_array_equal(batch.features, ROWS[batch.rows])
        np.testing.assert_array_equal(batch.labels, LABELS[batch.rows])
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(rows)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 50])
@pytest.mark.parametrize("shuffle", [False, True])
def test_all_rows_come_once(source, batch_size, shuffle, prefetch):
    options = dict(batch_size=batch_size, shuffle=shuffle, prefetch=prefetch, buffer_rows=6)
    batches = list(Loader(source, **options))
    check(batches)
    sizes = [len(batch.rows) for batch in batches]
    assert sizes == [min(batch_size, 23 - start) for start in range(0, 23, batch_size)]
    rows = np.concatenate([batch.rows for batch in batches])
    assert (rows.tolist() == list(range(23))) is not shuffle
    whole = list(Loader(source, drop_last=True, **options))
    assert [len(batch.rows) for batch in whole] == [batch_size] * (23 // batch_size)
    assert threads() == []


def test_orders_follow_seed_and_epoch(source):
    def order(seed, epochs=1):
        loader = Loader(source, batch_size=4, shuffle=True, seed=seed, epochs=epochs)
        return np.concatenate([batch.rows for batch in loader]).tolist()

    assert order(1) == order(1) != order(2)
    both = order(1, epochs=2)
    assert both[:23] == order(1)
    assert both[23:] != both[:23]
    loader = Loader(source, batch_size=4, shuffle=True, seed=1)
    passes = [np.concatenate([batch.rows for batch in loader]).tolist() for _ in range(2)]
    assert passes[0] + passes[1] == both


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("done", [0, 1, 5, 6, 8, 12])
def test_a_state_resumes_exactly(source, shuffle, prefetch, done):
    def make():
        return Loader(
            source, batch_size=4, shuffle=shuffle, epochs=2, prefetch=prefetch, buffer_rows=5
        )

    expected = [batch.rows.tolist() for batch in make()]
    assert len(expected) == 12
    first = make()
    iterator = iter(first)
    seen = [batch.rows.tolist() for batch in itertools.islice(iterator, done)]
    state = first.state_dict()
    iterator.close()
    second = make()
    second.load_state_dict(state)
    assert seen + [batch.rows.tolist() for batch in second] == expected
    with pytest.raises(ValueError, match="expected batch_size 5"):
        Loader(source, batch_size=5).load_state_dict(state)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_workers_share_all_rows(source, shuffle, count):
    batches = [
        batch
        for index in range(count)
        for batch in Loader(source, batch_size=4, shuffle=shuffle, shard=(index, count))
    ]
    check(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_as_torch_respects_workers(source, workers):
    dataset = Loader(source, batch_size=4, shuffle=True).as_torch()
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    rows = np.concatenate([batch["rows"].numpy() for batch in batches])
    assert sorted(rows) == list(range(23))
    for batch in batches:
        np.testing.assert_array_equal(batch["features"].numpy(), ROWS[batch["rows"].numpy()])
        np.testing.assert_array_equal(batch["labels"].numpy(), LABELS[batch["rows"].numpy()])


def test_states_are_those_of_encode(source, precision):
    loader = Loader(
        source, batch_size=7, encoding="amplitude", n_qubits=3, shuffle=True, precision=precision
    )
    expected = qdp.encode(ROWS, "amplitude", 3)
    for batch in loader:
        assert batch.features is None
        assert_close(batch.states, expected[batch.rows], precision)


def test_errors_of_the_thread_reach_the_consumer():
    rows = ROWS.copy()
    rows[11, 2] = np.nan
    with pytest.raises(ValueError, match="got nan at row 11, column 2"):
        list(Loader(rows, batch_size=4))
    assert threads() == []


def test_an_abandoned_iteration_ends_its_thread(source):
    iterator = iter(Loader(source, batch_size=1, epochs=None))
    next(iterator)
    assert len(threads()) == 1
    iterator.close()
    assert threads() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 1, "shard": (2, 2)}, "0 <= index < count"),
        ({"batch_size": 1, "shard": (0, 1, 2)}, r"got \(0, 1, 2\)"),
        ({"batch_size": 1, "epochs": 0}, "epochs: expected at least 1"),
        ({"batch_size": 1, "n_qubits": 3}, "with an encoding"),
        ({"batch_size": 1, "encoding": "basis"}, "with the basis encoding"),
        ({"batch_size": 1, "precision": "half"}, "'single' or 'double'"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Loader(ROWS, **options)


@pytest.mark.parametrize("shuffle", [False, True])
def test_workers_divide_a_shard_whatever_the_others_do(shuffle):
    first, second = (
        Loader(qdp.open(ROWS, labels=LABELS), batch_size=2, shuffle=shuffle, shard=(index, 2))
        for index in range(2)
    )
    check([*first.for_worker(0, 3), *first.for_worker(1, 3), *first.for_worker(2, 3), *second])


def test_workers_refuse_a_place_within_an_epoch():
    loader = Loader(ROWS, batch_size=4, shuffle=True)
    next(iter(loader))
    with pytest.raises(ValueError, match="got batch 1 of one; finish it with num_workers=0"):
        loader.for_worker(0, 2)
    loader.set_epoch(1)
    assert len(list(loader.for_worker(0, 1))) == 6


def test_epochs_without_a_batch_do_not_go_on_for_ever():
    with pytest.raises(ValueError, match="epochs: expected a number"):
        list(Loader(ROWS, batch_size=24, drop_last=True, epochs=None))
    assert list(Loader(ROWS, batch_size=24, drop_last=True)) == []


def test_as_torch_takes_the_other_byte_order():
    (batch,) = Loader(ROWS.astype(">f4"), batch_size=23).as_torch()
    np.testing.assert_array_equal(batch["features"].numpy(), ROWS.astype(np.float32))
