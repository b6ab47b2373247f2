# SPDX-License-Identifier: Apache-2.0
"""Every format gives the rows that memory gives, in chunks of any size, and refuses alike."""

import gzip
import pickle
import struct

import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

import qdp
from qdp.readers.images import parse_cifar_pickle

zarr = pytest.importorskip("zarr", reason="every format is written")

ROWS = np.random.default_rng(3).normal(size=(23, 5))
LABELS = np.arange(23) % 3
NAMES = ["a", "b", "c", "d", "e"]


def table(rows=ROWS, labels=LABELS):
    return pa.table({**{name: rows[:, i] for i, name in enumerate(NAMES)}, "y": labels})


def list_table(kind):
    values = pa.array(ROWS.ravel())
    if kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(values, 5)
    else:
        column = pa.ListArray.from_arrays(np.arange(0, 116, 5), values)
    return pa.table({"x": column, "y": LABELS})


def write_ipc(content, path):
    with pa.ipc.new_file(path, content.schema) as writer:
        for batch in content.to_batches(max_chunksize=6):
            writer.write(batch)


def write_stream(content, path):
    with pa.ipc.new_stream(path, content.schema) as writer:
        writer.write_table(content)


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"], file["group/y"] = ROWS, LABELS


def write_tensor_proto(path):
    # dtype DT_DOUBLE, the shape (23, 5), and 920 bytes of content.
    head = bytes([8, 2, 18, 8, 18, 2, 8, 23, 18, 2, 8, 5, 34, 920 & 127 | 128, 920 >> 7])
    path.write_bytes(head + ROWS.tobytes())


def write_zarr(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("x", data=ROWS, chunks=(4, 5))
    group.create_array("y", data=LABELS)


# Name of the file, how it is written, and how its labels are asked for.
FORMATS = {
    "rows.npy": (lambda path: np.save(path, ROWS), LABELS),
    "fortran.npy": (lambda path: np.save(path, np.asfortranarray(ROWS)), LABELS),
    "rows.npz": (lambda path: np.savez(path, x=ROWS, y=LABELS), "y"),
    "rows.csv": (lambda path: pa.csv.write_csv(table(), path), "y"),
    "rows.parquet": (lambda path: pq.write_table(table(), path, row_group_size=7), "y"),
    "index.parquet": (lambda path: pq.write_table(table(), path, row_group_size=50), 5),
    "values.parquet": (lambda path: pq.write_table(table().drop("y"), path), LABELS),
    "lists.parquet": (lambda path: pq.write_table(list_table("list"), path), "y"),
    "fixed.parquet": (lambda path: pq.write_table(list_table("fixed"), path), "y"),
    "rows.arrow": (lambda path: write_ipc(table(), path), "y"),
    "stream.arrow": (lambda path: write_stream(table(), path), "y"),
    "rows.feather": (lambda path: pa.feather.write_feather(table(), str(path)), "y"),
    "rows.pt": (lambda path: torch.save({"x": torch.tensor(ROWS), "y": LABELS_T}, path), "y"),
    "rows.safetensors": (
        lambda path: safetensors.numpy.save_file({"x": ROWS, "y": LABELS}, path),
        "y",
    ),
    "rows.pb": (write_tensor_proto, LABELS),
    "rows.h5": (write_hdf5, "group/y"),
    "rows.zarr": (write_zarr, "y"),
}
LABELS_T = torch.tensor(LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("with spaces")
    for name, (write, _) in FORMATS.items():
        write(place / name)
    return place


def read(source, rows=4, **options):
    chunks = list(source.chunks(rows, **options))
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    features = [chunk.features for chunk in chunks]
    return np.concatenate(features), np.concatenate(labels) if labels else None


@pytest.mark.parametrize("name", ["rows.parquet", "lists.parquet", "rows.feather", "rows.csv"])
def test_large_blocks_are_read_in_pieces(folder, name, monkeypatch):
    monkeypatch.setattr("qdp.readers.tables._PIECE_BYTES", 3 * 5 * 8)
    source = qdp.open(folder / name, label="y", rows=slice(1, 22))
    sizes = [len(piece.features) for piece in source._pieces(1, 22, 100)]
    assert max(sizes) == 3
    features, labels = read(source, 4)
    np.testing.assert_array_equal(features, ROWS[1:22])
    np.testing.assert_array_equal(labels, LABELS[1:22])


@pytest.mark.parametrize("rows", [1, 4, 23, 100])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_rows_of_memory(folder, name, rows):
    source = qdp.open(folder / name, labels=FORMATS[name][1])
    assert source.n_features == 5
    assert source.n_rows in (23, None)
    assert source.dtype == np.float64
    chunks = list(source.chunks(rows))
    assert [len(chunk.features) for chunk in chunks] == [
        min(rows, 23 - start) for start in range(0, 23, rows)
    ]
    assert [chunk.start for chunk in chunks] == list(range(0, 23, rows))
    features, labels = read(source, rows)
    np.testing.assert_array_equal(features, ROWS)
    np.testing.assert_array_equal(labels, LABELS)
    memory = qdp.open(ROWS, labels=LABELS)
    assert source.content_hash() == memory.content_hash()
    assert source.fingerprint() == qdp.open(folder / name, labels=FORMATS[name][1]).fingerprint()


@pytest.mark.parametrize("name", FORMATS)
def test_rows_ranges_shards_and_take(folder, name):
    source = qdp.open(folder / name, labels=FORMATS[name][1], rows=slice(3, 20))
    features, labels = read(source, 5)
    np.testing.assert_array_equal(features, ROWS[3:20])
    np.testing.assert_array_equal(labels, LABELS[3:20])
    np.testing.assert_array_equal(read(source, 3, start=2, stop=12)[0], ROWS[5:15])
    shards = source.shards()
    parts = [read(source, 50, start=start, stop=stop)[0] for start, stop in shards]
    np.testing.assert_array_equal(np.concatenate(parts), ROWS[3:20])
    if source.n_rows is None:
        with pytest.raises(TypeError, match="random access"):
            source.take([0])
        with pytest.raises(TypeError, match="known length"):
            len(source)
        return
    assert len(source) == 17
    places = [16, 0, 5, 5, 9]
    taken = source.take(places)
    np.testing.assert_array_equal(taken.features, ROWS[3:20][places])
    np.testing.assert_array_equal(taken.labels, LABELS[3:20][places])
    with pytest.raises(IndexError, match="indices from 0 to 16, got 17"):
        source.take([17])


def test_parquet_shards_are_its_row_groups(folder):
    assert qdp.open(folder / "rows.parquet").shards() == [(0, 7), (7, 14), (14, 21), (21, 23)]


@pytest.mark.parametrize("dtype", ["u1", "i4", "f2", "f4", "f8", "c16", "?", ">f8"])
@given(rows=st.integers(1, 9), steps=st.tuples(st.sampled_from([1, 2, -1]), st.integers(1, 2)))
def test_arrays_of_any_dtype_and_stride(dtype, rows, steps):
    array = np.arange(70).reshape(10, 7).astype(dtype)[:: steps[0], :: steps[1]]
    source = qdp.open(array)
    assert source.dtype == array.dtype
    np.testing.assert_array_equal(read(source, rows)[0], array)


def test_lists_tensors_frames_and_dlpack():
    class OnlyDlpack:
        __dlpack__ = ROWS.__dlpack__
        __dlpack_device__ = ROWS.__dlpack_device__

    frame = pd.DataFrame(ROWS, columns=NAMES).assign(y=LABELS)
    for given_, options in [
        (ROWS.tolist(), {}),
        (torch.tensor(ROWS), {}),
        (OnlyDlpack(), {}),
        (frame, {"label": "y"}),
        (np.column_stack([ROWS, LABELS]), {"label": -1}),
    ]:
        features, labels = read(qdp.open(given_, **options))
        np.testing.assert_array_equal(features, ROWS)
        if options:
            np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("features", "columns"), [(slice(1, 3), [1, 2]), ([4, 0], [4, 0]), (2, [2]), (["b"], [1])]
)
@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.arrow", "rows.npy", "frame"])
def test_features_are_selected(folder, name, features, columns):
    source = pd.DataFrame(ROWS, columns=NAMES) if name == "frame" else folder / name
    if name == "rows.npy" and features == ["b"]:
        with pytest.raises(ValueError, match="by index"):
            qdp.open(source, features=features)
        return
    np.testing.assert_array_equal(read(qdp.open(source, features=features))[0], ROWS[:, columns])


def with_nulls(kind):
    columns = {"a": pa.array([1, None, 3]), "b": pa.array([1.5, 2.5, 3.5])}
    if kind == "list":
        return pa.table({"x": pa.array([[1.0, 1.5], [None, 2.5], [3.0, 3.5]])})
    if kind == "row":
        return pa.table({"x": pa.array([[1.0, 1.5], None, [3.0, 3.5]])})
    if kind in ("both", "fixed"):
        size = 2 if kind == "fixed" else -1
        lists = [[1.0, 1.5], None, [3.0, None]]
        return pa.table({"x": pa.array(lists, pa.list_(pa.float64(), size))})
    return pa.table(columns)


@pytest.mark.parametrize("kind", ["scalar", "list", "row", "both", "fixed"])
def test_nulls_at_every_level(tmp_path, kind):
    path = tmp_path / "nulls.parquet"
    pq.write_table(with_nulls(kind), path)
    with pytest.raises(ValueError, match="no nulls, got one at row 1, column 0"):
        read(qdp.open(path))
    last = 0 if kind in ("both", "fixed") else 3.5
    expected = np.array([[1, 1.5], [0, 2.5 if kind in ("scalar", "list") else 0], [3, last]])
    np.testing.assert_array_equal(read(qdp.open(path, nulls="zero"))[0], expected)


def test_nulls_of_csv_and_pandas(tmp_path):
    path = tmp_path / "nulls.csv"
    path.write_text("a,b\n1,1.5\n,2.5\n3,3.5\n")
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "b": [1.5, 2.5, 3.5]})
    for source in (path, frame):
        with pytest.raises(ValueError, match="no nulls, got one at row 1, column 0"):
            read(qdp.open(source))
        expected = [[1, 1.5], [0, 2.5], [3, 3.5]]
        np.testing.assert_array_equal(read(qdp.open(source, nulls="zero"))[0], expected)
    path.write_text("a,b\n1,\n2,4\n")
    with pytest.raises(ValueError, match="labels: expected no nulls, got one at row 0"):
        read(qdp.open(path, label="b"))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".arrow", ".csv", ".h5", "memory"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_one_wording(tmp_path, ending, value):
    rows = ROWS.copy()
    rows[11, 2] = value
    path = tmp_path / f"rows{ending}"
    {
        ".npy": lambda: np.save(path, rows),
        ".npz": lambda: np.savez(path, rows),
        ".parquet": lambda: pq.write_table(table(rows).drop("y"), path),
        ".arrow": lambda: write_ipc(table(rows).drop("y"), path),
        ".csv": lambda: np.savetxt(path, rows, delimiter=",", header="a,b,c,d,e", comments=""),
        ".h5": lambda: h5py.File(path, "w").create_dataset("x", data=rows).file.close(),
        "memory": lambda: None,
    }[ending]()
    source = qdp.open(rows if ending == "memory" else path)
    if ending == ".csv" and np.isnan(value):
        with pytest.raises(ValueError, match="no nulls, got one at row 11, column 2"):
            read(source)
        return
    words = f"expected finite numbers, got {value} at row 11, column 2; remove or replace it"
    with pytest.raises(ValueError, match=words):
        read(source)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("rows.zarr",)])
def test_files_that_are_truncated_empty_or_absent(folder, tmp_path, name):
    whole = (folder / name).read_bytes()
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match="found nothing there"):
        qdp.open(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got an empty file"):
        qdp.open(path)
    if name == "rows.csv":
        return
    for size in (5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        if name == "stream.arrow" and size == len(whole) - 3:
            continue  # only its end mark is cut, which the format leaves to the writer
        with pytest.raises(ValueError, match=r"rows|truncated|damaged|not a|got"):
            read(qdp.open(path, labels=FORMATS[name][1]))


def test_remote_places_go_through_fsspec(folder):
    system = fsspec.filesystem("memory")
    for name in FORMATS:
        for path in (folder / name).rglob("*"):
            if path.is_file():
                place = path.relative_to(folder).as_posix()
                system.pipe(f"/bucket/{place}", path.read_bytes())
        if (folder / name).is_file():
            system.pipe(f"/bucket/{name}", (folder / name).read_bytes())
        source = qdp.open(f"memory://bucket/{name}", labels=FORMATS[name][1])
        features, labels = read(source)
        np.testing.assert_array_equal(features, ROWS)
        np.testing.assert_array_equal(labels, LABELS)


def test_idx_and_cifar(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 2), dtype=np.uint8)
    content = bytes([0, 0, 8, 3]) + np.array([3, 4, 2], ">u4").tobytes() + images.tobytes()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    for name in ("t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"):
        np.testing.assert_array_equal(read(qdp.open(tmp_path / name))[0], images.reshape(3, 8))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3072), dtype=np.uint8)
    labels = np.array([7, 1], np.uint8)
    (tmp_path / "test_batch.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
    batch = {b"data": pixels, b"labels": [7, 1]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    for name in ("test_batch.bin", "test_batch"):
        features, found = read(qdp.open(tmp_path / name))
        np.testing.assert_array_equal(features, pixels)
        np.testing.assert_array_equal(found, labels)


def anonymous_bytes():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize(
    ("name", "header", "record"),
    [
        ("big-images-idx3-ubyte", bytes([0, 0, 8, 2]) + struct.pack(">2I", 2**17, 3073), 0),
        ("big.bin", b"", 1),
    ],
    ids=["IDX", "CIFAR"],
)
def test_image_files_are_mapped_and_not_read_whole(tmp_path, name, header, record):
    """384 MiB, mostly a hole in the file; only the last rows are asked for."""
    rows = 2**17
    with open(tmp_path / name, "wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + rows * 3073)
        stream.seek(-2, 2)
        stream.write(bytes([5, 7]))
    before = anonymous_bytes()
    source = qdp.open(tmp_path / name)
    (chunk,) = source.chunks(10, start=rows - 3)
    assert anonymous_bytes() - before < 2**25
    assert source.n_rows == rows
    expected = np.zeros((3, 3073 - record), np.uint8)
    expected[2, -2:] = [5, 7]
    np.testing.assert_array_equal(chunk.features, expected)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    for protocol in (0, 2, 5):
        with pytest.raises(ValueError, match=r"it asks for _?io\.open"):
            parse_cifar_pickle(pickle.dumps({b"data": Hostile()}, protocol), "batch")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("rows", [[True, False], [0.5], [[0, 1]], 1, np.array(["0"])])
def test_indices_are_integers_in_one_dimension(rows):
    with pytest.raises(TypeError, match=r"rows: expected integers in one dimension, got"):
        qdp.open(ROWS).take(rows)
    cache = qdp.StateCache(None)
    cache.encode_all(ROWS)
    with pytest.raises(TypeError, match=r"rows: expected integers in one dimension, got"):
        cache.get_states(rows)
    assert cache.get_states([]).shape == (0, 8)


def test_text_labels_of_any_dtype():
    for labels in (["a", "bc"], np.array(["a", "bc"]), np.array(["a", "bc"], dtype=object)):
        found = read(qdp.open(ROWS[:2], labels=labels))[1]
        assert (found.dtype.kind, found.tolist()) == ("U", ["a", "bc"])
    with pytest.raises(TypeError, match="labels: expected numbers"):
        qdp.open(ROWS[:2], labels=np.array(["a", None], dtype=object))


def test_dtype_and_options_are_checked():
    assert read(qdp.open(ROWS, dtype="f4"))[0].dtype == np.float32
    whole = read(qdp.open(np.array([[255.0, 0.0]]), dtype="u1"))[0]
    assert whole.dtype == np.uint8
    assert whole.tolist() == [[255, 0]]
    assert read(qdp.open(np.array([[2 + 0j, 3]]), dtype="f8"))[0].tolist() == [[2.0, 3.0]]
    for value, dtype in ((256, "u1"), (-1, "u8"), (3.5, "i4"), (2, "?"), (1j, "f8")):
        with pytest.raises(ValueError, match=f"that {np.dtype(dtype)} holds, .* row 1, column 1"):
            read(qdp.open(np.array([[1, 0], [1, value]]), dtype=dtype))
    with pytest.raises(ValueError, match="nulls: expected one of"):
        qdp.open(ROWS, nulls="drop")
    with pytest.raises(ValueError, match="got both"):
        qdp.open(ROWS, label=0, labels=1)
    with pytest.raises(ValueError, match="slice of step 1"):
        qdp.open(ROWS, rows=slice(0, 5, 2))
    with pytest.raises(IndexError, match="column from 0 to 4, got 7"):
        qdp.open(ROWS, label=7)
    with pytest.raises(ValueError, match=r"shape \(rows, features\), got shape \(5,\)"):
        qdp.open(ROWS[0])
    with pytest.raises(ValueError, match=r"labels: expected one a row"):
        qdp.open(ROWS, labels=[1, 2])


def test_take_names_the_row_that_is_wrong():
    rows = ROWS.copy()
    rows[11, 2] = np.nan
    source = qdp.open(rows)
    np.testing.assert_array_equal(source.take([3, 1]).features, ROWS[[3, 1]])
    assert source.take([]).features.shape == (0, 5)
    with pytest.raises(ValueError, match="got nan at row 11, column 2"):
        source.take([20, 11])


@pytest.mark.parametrize("name", ["rows.npy", "values.parquet"])
def test_fingerprints_follow_file_and_options(folder, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((folder / name).read_bytes())
    long = np.zeros((2, 23))
    long[1, 11] = 1
    prints = {
        qdp.open(path).fingerprint(),
        qdp.open(path, rows=slice(1, 5)).fingerprint(),
        qdp.open(path, dtype="f4").fingerprint(),
        qdp.open(path, features=slice(0, 2)).fingerprint(),
        qdp.open(path, labels=long[0]).fingerprint(),
        qdp.open(path, labels=long[1]).fingerprint(),
    }
    assert len(prints) == 6
    before = qdp.open(path).fingerprint()
    path.touch()
    assert qdp.open(path).fingerprint() != before


def test_csv_whose_later_blocks_hold_fractions(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "1,\n" * 400_000 + "2.5,7\n")
    source = qdp.open(path, nulls="zero")
    features, _ = read(source, 100_000)
    assert features.shape == (400_001, 2)
    assert features[0].tolist() == [1, 0]
    assert features[-1].tolist() == [2.5, 7]
