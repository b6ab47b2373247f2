# SPDX-License-Identifier: Apache-2.0
"""The state cache: its values against ``encode`` in memory, and its files under every mishap."""

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_close

import qdp
from qdp import cache as cache_module
from qdp.cache import FORMAT, entries, read_manifest, verify_entry
from qdp.sources import ArraySource

N_KILLS = int(os.environ.get("QDP_KILLS", "10"))


def features(rows=11, columns=7, dtype=np.float64, seed=0):
    found = np.random.default_rng(seed).uniform(1, 200, (rows, columns)).astype(dtype)
    return found + 1j * found[:, ::-1] if np.dtype(dtype).kind == "c" else found


def built(directory, rows=None, **options):
    cache = qdp.StateCache(directory, memory=options.pop("memory", "1GiB"))
    cache.encode_all(features() if rows is None else rows, "amplitude", 3, **options)
    return cache


def entry_of(directory):
    (entry,) = entries(directory)
    return entry


# Values


@given(
    rows=st.integers(1, 13),
    columns=st.integers(1, 8),
    chunk_rows=st.integers(1, 14),
    dtype=st.sampled_from([np.float64, np.float32, np.uint8, np.int32, np.complex128]),
    storage=st.sampled_from(["auto", "complex128"]),
    bit_order=st.sampled_from(["big", "little"]),
    memory=st.sampled_from([0, 300, "1GiB"]),
    in_files=st.booleans(),
)
def test_states_are_those_of_encode(
    tmp_path_factory, rows, columns, chunk_rows, dtype, storage, bit_order, memory, in_files
):
    data = features(rows, columns, dtype)
    expected = qdp.encode(data, "amplitude", 3, bit_order=bit_order)
    cache = qdp.StateCache(
        tmp_path_factory.mktemp("states") if in_files else None,
        memory=memory if in_files else "1MiB",
    )
    cache.encode_all(
        data, "amplitude", 3, storage=storage, bit_order=bit_order, chunk_rows=chunk_rows
    )
    np.testing.assert_array_equal(cache.get_all(), expected)
    np.testing.assert_array_equal(cache.get_state(rows - 1), expected[-1])
    order = np.random.default_rng(rows).integers(0, rows, 5)
    np.testing.assert_array_equal(cache.get_states(order), expected[order])
    for prefetch in (0, 2):
        parts = list(cache.chunks(3, prefetch=prefetch))
        assert [len(part) for part in parts] == [min(3, rows - i) for i in range(0, rows, 3)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("encoding", ["angle", qdp.Angle(rotation="Y"), "basis"])
def test_other_encodings(tmp_path, encoding, precision):
    data = np.eye(3) if encoding == "basis" else features(5, 3)
    cache = qdp.StateCache(tmp_path)
    cache.encode_all(data, encoding, 3, precision=precision, chunk_rows=2)
    np.testing.assert_array_equal(
        cache.get_all(), qdp.encode(data, encoding, 3, precision=precision)
    )


def test_complex64_storage_is_single_precision(tmp_path):
    cache = built(tmp_path, storage="complex64")
    expected = qdp.encode(features(), "amplitude", 3)
    assert cache.get_all().dtype == np.complex128
    assert_close(cache.get_all().astype(np.complex64), expected, "single")
    # The bound that the documentation states.
    error = np.abs(cache.get_all() - expected)
    assert 0 < error.max() <= 2.0**-24 * np.abs(expected).max()


def test_sizes_and_storage(tmp_path):
    cache = built(tmp_path, features(dtype=np.float32), chunk_rows=4)
    assert (cache.n_samples, cache.n_qubits, cache.storage) == (11, 3, "compact")
    assert cache.memory_bytes == 11 * 8 * 16
    # Three chunks, each two headers of 128 bytes.
    assert cache.stored_bytes == 11 * (7 * 4 + 8) + 3 * 2 * 128
    assert cache.stored_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    assert built(None, features(dtype=np.complex128)).storage == "complex128"
    assert built(None, precision="single").memory_bytes == 11 * 8 * 8


def test_counters_and_the_budget_of_memory(tmp_path):
    cache = built(tmp_path, chunk_rows=4, memory=0)
    written = cache.counters.bytes_written
    assert written == cache.stored_bytes + sum(
        # the manifest after each of three chunks, and once more when complete
        len(part)
        for part in manifests_written(tmp_path)
    )
    cache.get_all()
    cache.get_all()
    assert (cache.counters.hits, cache.counters.misses) == (0, 6)
    assert cache.counters.bytes_read == cache.stored_bytes
    warm = built(tmp_path, chunk_rows=4)
    assert warm.counters.bytes_written == 0
    for _ in range(3):  # mapped, then copied to memory, then found there
        warm.get_all()
    assert (warm.counters.hits, warm.counters.misses) == (3, 6)
    assert warm.counters.bytes_read == warm.stored_bytes


def manifests_written(directory):
    """The manifests of a build of one entry, made again from the last."""
    manifest = read_manifest(entry_of(directory))
    chunks, rows = manifest.chunks, 0
    manifest.complete = False
    for number, chunk in enumerate(chunks):
        rows += chunk["rows"]
        manifest.chunks, manifest.n_rows = chunks[: number + 1], rows
        yield manifest.as_bytes()
    manifest.complete = True
    yield manifest.as_bytes()


def test_memory_alone_keeps_to_its_budget():
    cache = qdp.StateCache(None, memory="1 KiB")
    with pytest.raises(MemoryError, match=r"budget of 1\.0 KiB, got .* after row 20; give"):
        cache.encode_all(features(100), chunk_rows=20)
    with pytest.raises(RuntimeError, match="Cache not populated"):
        cache.get_all()


def test_memory_alone_keeps_its_own_copy():
    data = features()
    expected = qdp.encode(data, "amplitude", 3)
    cache = built(None, data)
    data[:] = 1
    np.testing.assert_array_equal(cache.get_all(), expected)


def test_a_cleared_cache_is_empty_until_it_finds_its_files(tmp_path):
    cache = built(tmp_path)
    cache.clear()
    for use in (cache.get_all, lambda: cache.get_state(0), lambda: cache.n_samples):
        with pytest.raises(
            RuntimeError, match=r"^Cache not populated\. Call encode_all\(\) first\.$"
        ):
            use()
    cache.encode_all(features(), "amplitude", 3)
    np.testing.assert_array_equal(cache.get_all(), qdp.encode(features(), "amplitude", 3))


def test_the_documented_way_to_read_with_numpy_alone(tmp_path):
    data = features(11, 8)
    built(tmp_path / "states", data, chunk_rows=4)
    text = (Path(__file__).parent.parent / "docs" / "cache-format.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace('Path("states")', f"Path({str(tmp_path / 'states')!r})")
    found = []
    exec(code + "    found.append(states)\n", {"found": found})
    assert_close(np.concatenate(found), qdp.encode(data, "amplitude", 3).real, "double")


# A cache as the states of a verb

CIRCUIT = qdp.ansatz.ry_rz_ladder(3, 2)
ANGLES = np.random.default_rng(4).normal(size=(11, CIRCUIT.n_parameters))


@pytest.mark.parametrize("storage", ["compact", "complex128"])
@pytest.mark.parametrize("in_files", [True, False])
def test_verbs_take_a_cache(tmp_path, monkeypatch, backend, precision, storage, in_files):
    cache = built(
        tmp_path if in_files else None, features(), precision="double", storage=storage,
        chunk_rows=4, memory="500 B" if in_files else "1GiB",
    )  # fmt: skip
    states = qdp.encode(features(), "amplitude", 3)
    observables = ["Z0", "1.0 X1 Z2"]
    options = {"backend": backend, "precision": precision}
    if storage == "compact":  # no state is made on the way
        monkeypatch.setattr(cache_module.engine, "encode", lambda *_, **__: pytest.fail("encoded"))
    for angles in (ANGLES, ANGLES[0]):
        for verb in (qdp.expectation, qdp.variance, qdp.gradient):
            assert_close(
                verb(CIRCUIT, angles, cache, observables, **options),
                verb(CIRCUIT, angles, states, observables, backend="reference"),
                precision, weight=4,
            )  # fmt: skip
        for verb in (qdp.state, qdp.probabilities):
            found = verb(CIRCUIT, angles, cache, **options)
            assert_close(found, verb(CIRCUIT, angles, states, backend="reference"), precision)
        pairs = (
            qdp.value_and_grad(CIRCUIT, angles, given, "Z0", **options) for given in (cache, states)
        )
        for found, expected in zip(*pairs, strict=True):
            assert_close(found, expected, precision)


def test_draws_from_a_cache_are_those_from_an_array():
    rows = np.repeat(features(1), 4, axis=0)
    cache = built(None, rows, chunk_rows=2)
    first, again = (qdp.sample(CIRCUIT, ANGLES[0], cache, shots=200, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    options = {"encoding": "amplitude", "seed": 3}
    np.testing.assert_array_equal(first, qdp.sample(CIRCUIT, ANGLES[0], rows, shots=200, **options))
    assert (first[:2] != first[2:]).any()
    spsa = {"observable": "Z0", "method": "spsa", "n_directions": 3}
    found = qdp.gradient(CIRCUIT, ANGLES[0], cache, seed=3, **spsa)
    expected = qdp.gradient(CIRCUIT, ANGLES[0], rows, **options, **spsa)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    same = qdp.gradient(CIRCUIT, ANGLES[0], cache, **spsa)
    np.testing.assert_allclose(same, np.repeat(same[:1], 4, axis=0), rtol=0, atol=1e-9)


def test_shots_of_gradients_differ_by_block():
    cache = built(None, np.repeat(features(1), 4, axis=0), chunk_rows=2)
    options = {"method": "parameter-shift", "shots": 50, "seed": 3}
    first, again = (qdp.gradient(CIRCUIT, ANGLES[0], cache, "Z0", **options) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[:2] != first[2:]).any()


def test_gradients_flow_to_parameters_shared_by_the_blocks():
    torch = pytest.importorskip("torch")
    angles = torch.tensor(ANGLES[0], requires_grad=True)
    qdp.expectation(CIRCUIT, angles, built(None, chunk_rows=4), "Z0").sum().backward()
    states = qdp.encode(features(), "amplitude", 3)
    expected = qdp.gradient(CIRCUIT, ANGLES[0], states, "Z0").sum(axis=0)
    np.testing.assert_allclose(angles.grad.numpy(), expected, rtol=0, atol=1e-12)


def test_what_verbs_refuse_of_a_cache():
    cache = built(None)
    for arguments, options, message in (
        ((CIRCUIT, ANGLES[0], cache), {"encoding": "amplitude"}, "encoding: expected None"),
        ((CIRCUIT, ANGLES[:3], cache), {}, "got 3 in parameters, 11 in states"),
        ((CIRCUIT, ANGLES[0], built(None, bit_order="little")), {}, "bit_order='big'"),
        ((qdp.ansatz.ry_rz_ladder(4, 1), np.zeros(8), cache), {}, "a cache on 4 qubits"),
        ((CIRCUIT, ANGLES[0], built(None, features(0))), {}, "at least one row"),
    ):
        with pytest.raises(ValueError, match=message):
            qdp.expectation(*arguments, "Z0", **options)
    with pytest.raises(RuntimeError, match="Cache not populated"):
        qdp.expectation(CIRCUIT, ANGLES[0], qdp.StateCache(None), "Z0")


# Keys


def test_every_part_of_the_key_makes_another_entry(tmp_path):
    built(tmp_path)
    built(tmp_path, features(seed=1))
    built(tmp_path, precision="single")
    built(tmp_path, bit_order="little")
    built(tmp_path, storage="complex64")
    cache = qdp.StateCache(tmp_path)
    cache.encode_all(features(), "amplitude", 4)
    cache.encode_all(features(11, 3), "angle", 3)
    cache.encode_all(features(11, 3), qdp.Angle(rotation="Z"), 3)
    assert len(entries(tmp_path)) == 8


def test_a_file_is_found_again_without_reading_it(tmp_path, monkeypatch):
    path = tmp_path / "rows of a file.npy"
    np.save(path, features())
    built(tmp_path / "my states", qdp.open(path))
    source = qdp.open(path)
    monkeypatch.setattr(type(source), "chunks", lambda *_, **__: pytest.fail("it was read"))
    cache = built(tmp_path / "my states", source)
    np.testing.assert_array_equal(cache.get_all(), qdp.encode(features(), "amplitude", 3))


def test_verify_compares_the_source(tmp_path):
    data = features()
    cache = built(tmp_path, data, chunk_rows=4)
    cache.verify()
    cache.verify(data)
    data[5, 0] += 1
    with pytest.raises(ValueError, match="others from row 4 on"):
        cache.verify(data)
    with pytest.raises(ValueError, match="others from row 8 on"):
        cache.verify(features()[:8])


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "precision: expected one of double, single, got 'half'"),
        ({"bit_order": "middle"}, "bit_order: expected one of big, little"),
        ({"storage": "zip"}, "storage: expected one of auto"),
        ({"storage": "complex128", "precision": "single"}, "expected precision='double'"),
        ({"chunk_rows": 0}, "chunk_rows: expected at least 1, got 0"),
    ],
)
def test_options_are_checked_before_any_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        built(tmp_path / "states", **options)
    assert not (tmp_path / "states").exists()


def test_compact_wants_real_features_and_amplitudes():
    with pytest.raises(ValueError, match="real features and amplitude encoding"):
        built(None, features(dtype=np.complex128), storage="compact")


def test_devices_and_budgets():
    with pytest.raises(qdp.BackendUnavailable, match="device 'cuda'"):
        qdp.StateCache(None, device="cuda")
    with pytest.raises(ValueError, match="memory: expected bytes or text such as '4GiB'"):
        qdp.StateCache(None, memory="4 gigs")


def test_a_refused_row_leaves_the_chunks_before_it(tmp_path):
    data = features()
    data[9] = 0
    with pytest.raises(ValueError, match=r"rows from 8 on, .* zeros only in row 1"):
        built(tmp_path, data, chunk_rows=4)
    manifest = verify_entry(entry_of(tmp_path))
    assert (manifest.n_rows, manifest.complete) == (8, False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_leaves_the_last_good_state(tmp_path, monkeypatch, code):
    flush, calls = os.fsync, []

    def fails(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(cache_module.os, "fsync", fails)
    with pytest.raises(OSError, match="chunks written before stay") as caught:
        built(tmp_path, chunk_rows=4)
    assert caught.value.errno == code
    entry = entry_of(tmp_path)
    assert verify_entry(entry).n_rows == 4
    assert list(entry.glob("*.tmp")) == []
    monkeypatch.undo()
    cache = built(tmp_path, chunk_rows=4)
    np.testing.assert_array_equal(cache.get_all(), qdp.encode(features(), "amplitude", 3))


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "states").write_text("a file")
    with pytest.raises(OSError, match="cache: expected to write in"):
        built(tmp_path / "states")


def test_a_complete_entry_needs_no_write(tmp_path, monkeypatch):
    built(tmp_path)
    monkeypatch.setattr(cache_module, "_locked", lambda _: pytest.fail("it took the lock"))
    assert built(tmp_path).n_samples == 11


# Damage


def test_flipped_bytes_are_always_found(tmp_path):
    built(tmp_path, chunk_rows=4)
    entry = entry_of(tmp_path)
    draw = random.Random(5)
    files = sorted(path for path in entry.iterdir())
    assert len(files) == 7
    for path in files * 20:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= draw.randrange(1, 256)
        path.write_bytes(bad)
        for memory in (0, "1GiB"):
            with pytest.raises(qdp.CacheCorrupt, match=path.name):
                built(tmp_path, chunk_rows=4, memory=memory).get_all()
        with pytest.raises(qdp.CacheCorrupt, match=path.name):
            verify_entry(entry)
        path.write_bytes(good)
    verify_entry(entry)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
@pytest.mark.parametrize("name", ["manifest.json", "features-000000.npy"])
def test_truncated_files(tmp_path, name, length):
    built(tmp_path)
    path = entry_of(tmp_path) / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(qdp.CacheCorrupt, match=rf"{name}: .*; remove it with: qdp cache rm"):
        built(tmp_path).get_all()


def test_a_missing_chunk_and_another_version(tmp_path):
    cache = built(tmp_path)
    entry = entry_of(tmp_path)
    (entry / "norms-000000.npy").unlink()
    with pytest.raises(qdp.CacheCorrupt, match=r"norms-000000\.npy"):
        cache.verify()
    document = json.loads((entry / "manifest.json").read_text())
    document["format"] = 7
    (entry / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(qdp.CacheCorrupt, match=f"expected format {FORMAT}, got 7"):
        built(tmp_path)


# Several processes, and killed ones

BUILD = """
import sys, time, numpy, qdp
class Slow(qdp.sources.ArraySource):
    def chunks(self, rows, **options):
        for chunk in super().chunks(rows, **options):
            time.sleep(float(sys.argv[2]))
            yield chunk
data = numpy.random.default_rng(0).uniform(1, 200, (60, 7))
print("ready", flush=True)
cache = qdp.StateCache(sys.argv[1])
cache.encode_all(Slow(data), "amplitude", 3, chunk_rows=1)
print(cache.counters.bytes_written, flush=True)
"""


def builder(directory, pause):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(directory), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_builds_resume_at_the_last_whole_chunk(tmp_path):
    expected = qdp.encode(features(60), "amplitude", 3)
    draw = random.Random(1)
    directory, stopped = tmp_path / "states", set()
    for _ in range(N_KILLS):
        process = builder(directory, 0.002)
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = 0
        if list(directory.glob("*/manifest.json")):
            manifest = verify_entry(entry_of(directory))
            before = manifest.n_rows
            if manifest.complete:
                shutil.rmtree(directory)
                continue
        stopped.add(before)
        if before > 45:  # resume to the end, then begin anew
            cache = built(directory, features(60), chunk_rows=1)
            np.testing.assert_array_equal(cache.get_all(), expected)
            assert list(entry_of(directory).glob("*.tmp")) == []
            shutil.rmtree(directory)
    assert stopped - {0}, "no build was killed half-way"
    cache = built(directory, features(60), chunk_rows=1)
    np.testing.assert_array_equal(cache.get_all(), expected)


def test_two_builders_at_once(tmp_path):
    processes = [builder(tmp_path, 0.001) for _ in range(2)]
    written = []
    for process in processes:
        output = process.communicate()[0].split()
        assert process.returncode == 0
        written.append(int(output[1]))
    assert sorted(written)[0] == 0 < sorted(written)[1]
    np.testing.assert_array_equal(
        built(tmp_path, features(60), chunk_rows=1).get_all(),
        qdp.encode(features(60), "amplitude", 3),
    )


def test_a_stream_of_unknown_length(tmp_path):
    source = ArraySource(features())
    source.n_rows = None
    cache = built(tmp_path, source, chunk_rows=4)
    np.testing.assert_array_equal(cache.get_all(), qdp.encode(features(), "amplitude", 3))


def test_shifted_values_are_refused_over_a_cache(tmp_path):
    cache = qdp.StateCache(tmp_path)
    cache.encode_all(np.eye(4), n_qubits=2)
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    with pytest.raises(ValueError, match="return_shifted: expected states in an array, got a cach"):
        qdp.gradient(
            circuit, np.zeros(4), cache, "Z0", method="parameter-shift", return_shifted=True
        )


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("storage", ["compact", "complex64"])
@pytest.mark.parametrize("labels", [np.arange(11) % 3, np.array(["a", "bcd"] * 5 + ["e"])])
def test_labels_are_kept_with_their_rows(tmp_path, in_files, storage, labels):
    source = qdp.open(features(), labels=labels)
    cache = built(tmp_path if in_files else None, source, storage=storage, chunk_rows=4)
    np.testing.assert_array_equal(cache.labels, labels)
    assert cache.labels.dtype == labels.dtype
    np.testing.assert_array_equal(cache.get_all(), built(None, storage=storage).get_all())
    with pytest.raises(ValueError, match="read-only"):
        cache.labels[0] = labels[1]
    assert built(None).labels is None
    if in_files:
        written = cache.counters.bytes_written
        again = built(tmp_path, source, storage=storage)
        assert (written > 0, again.counters.bytes_written) == (True, 0)
        np.testing.assert_array_equal(again.labels, labels)
        again.verify(source)
        verify_entry(entry_of(tmp_path))


def test_other_labels_are_another_entry(tmp_path):
    for labels in (None, np.zeros(11), np.ones(11)):
        cache = built(tmp_path, qdp.open(features(), labels=labels))
        assert labels is None or cache.labels.tolist() == labels.tolist()
    assert len(entries(tmp_path)) == 3
    with pytest.raises(ValueError, match="got others from row 0 on"):
        cache.verify(qdp.open(features(), labels=np.zeros(11)))


def test_a_flipped_label_is_found(tmp_path):
    source = qdp.open(features(), labels=np.arange(11))
    built(tmp_path, source)
    path = entry_of(tmp_path) / "labels-000000.npy"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(qdp.CacheCorrupt, match=r"labels-000000\.npy: expected CRC-32"):
        _ = built(tmp_path, source).labels


def test_reading_beside_the_thread_that_runs_ahead(tmp_path):
    rows = features(200)
    built(tmp_path, rows, chunk_rows=1)
    expected = built(None, rows).get_all()
    cache = built(tmp_path, rows)
    for _ in range(3):
        for start, states in enumerate(cache.chunks(1, prefetch=8)):
            ahead = min(start + 1, 199)
            np.testing.assert_array_equal(states[0], expected[start])
            np.testing.assert_array_equal(cache.get_state(ahead), expected[ahead])
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again.get_all(), expected)


def test_a_manifest_that_is_no_object(tmp_path):
    built(tmp_path)
    (entry_of(tmp_path) / "manifest.json").write_text("[1]")
    with pytest.raises(qdp.CacheCorrupt, match="expected a manifest"):
        built(tmp_path)
