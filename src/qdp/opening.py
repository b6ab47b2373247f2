# SPDX-License-Identifier: Apache-2.0
"""``open``: one lazy source over arrays in memory, files and URLs of every format.

What a thing is follows from its type or its name's ending; how it is read stands in
``qdp.readers``, how it is checked in ``qdp.sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdp import arrays, datasets
from qdp.arrays import Array
from qdp.readers import containers, images
from qdp.readers.files import File
from qdp.readers.tables import Selection, TableSource, chosen_names
from qdp.sources import NULLS, Options, Source, StoredArray, selection_text

_TABLES = (".parquet", ".arrow", ".feather", ".ipc", ".csv")
_CONTAINERS: dict[str, Callable[[File], Mapping[str, Any]]] = {
    ".npy": containers.read_npy,
    ".npz": containers.read_npz,
    ".pt": containers.read_torch,
    ".pth": containers.read_torch,
    ".safetensors": containers.read_safetensors,
    ".h5": containers.read_hdf5,
    ".hdf5": containers.read_hdf5,
    ".pb": containers.read_tensor_proto,
}


def open(
    source: Any,
    *,
    features: Selection = None,
    labels: Any = None,
    label: Any = None,
    rows: slice | None = None,
    nulls: str = "error",
    dtype: Any = None,
    split: str | None = None,
    download: bool = False,
) -> Source:
    """Return a lazy ``Source`` of rows (rows, F) over an array, a file or a URL.

    ``source`` is an array, list, tensor or frame, or the path of a file: .npy .npz .csv .parquet
    .arrow .feather .ipc, IDX (also .gz), CIFAR batches, .pt .pth .safetensors .h5 .hdf5 .zarr .pb;
    anything with ``://`` is read through fsspec. ``features`` selects columns by name, index,
    slice or list; in a file of several arrays it names one. ``labels`` (or ``label``) is a name,
    an index or an array (rows,). ``rows`` keeps a slice of the rows. ``nulls`` "zero" reads
    missing features as 0. ``dtype`` converts the features (those of CSV are float64).

    A name opens that data set with its labels: "mnist", "fashion-mnist", "cifar-10", "digits",
    "iris", "wine" or "breast_cancer"; ``split`` is "train" or "test", and ``download`` fetches
    what is not on this machine.

    Raises:
        TypeError: features that are not numbers.
        ValueError: an option or a file that is not as expected; when rows are read, nulls, NaN
            and infinities, with their row and column.
        IndexError: a column that does not exist.
        FileNotFoundError: no file there.
        ImportError: the library for a format is not installed; the message names the extra.

    >>> source = open([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]], label=-1)
    >>> source.n_rows, source.n_features
    (2, 2)
    >>> next(source.chunks(2)).labels
    array([0., 1.])
    """
    if label is not None:
        if labels is not None:
            raise ValueError("label: expected label or labels, got both")
        labels = label
    if labels is not None and not isinstance(labels, str | int):
        labels = _label_values(labels)
    options = _options(rows, nulls, dtype)
    if isinstance(source, Source):
        raise TypeError("source: expected data or a path, got a source that is open already")
    if isinstance(source, str) and source in datasets.NAMES:
        pixels, own_labels = datasets.load(source, split, download=download)
        return _stored(pixels, features, own_labels if labels is None else labels, options, None)
    if split is not None or download:
        raise ValueError(
            f"split: expected with one of {datasets.NAMES}, got another source; open the file of "
            "the split itself"
        )
    if isinstance(source, str | Path):
        return _open_path(str(source), features, labels, options)
    if hasattr(source, "columns") and hasattr(source, "isna"):
        return _open_frame(source, features, labels, options)
    if isinstance(features, str):
        raise ValueError(f"features: expected columns of an array by index, got {features!r}")
    data = arrays.to_numpy(source, "features")
    return _stored(data, features, labels, options, None)


def _options(rows: slice | None, nulls: str, dtype: Any) -> Options:
    if nulls not in NULLS:
        raise ValueError(f"nulls: expected one of {NULLS}, got {nulls!r}")
    start, stop = 0, None
    if rows is not None:
        bounds = (rows.start, rows.stop)
        if rows.step not in (None, 1) or any(bound is not None and bound < 0 for bound in bounds):
            raise ValueError(f"rows: expected a slice of step 1 from 0 or later, got {rows}")
        start, stop = rows.start or 0, rows.stop
    target = None if dtype is None else np.dtype(dtype)
    if target is not None and target.kind not in "biufc":
        raise TypeError(f"dtype: expected that of numbers, got {target}")
    return Options(nulls, start, stop, target)


def _label_values(labels: Any) -> Array:
    values = np.asarray(labels)
    if values.dtype == object and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "biufcU":
        values = arrays.to_numpy(labels, "labels")
    return values


def _stored(
    data: Any, features: Selection, labels: Any, options: Options, identity: str | None
) -> StoredArray:
    if isinstance(labels, str):
        raise ValueError(f"labels: expected an index or an array, got the name {labels!r}")
    if isinstance(features, int):
        features = [features]
    if isinstance(features, list) and not all(isinstance(key, int) for key in features):
        raise ValueError(f"features: expected columns of an array by index, got {features}")
    columns = features if isinstance(features, list | slice) else None
    return StoredArray(data, labels, columns=columns, options=options, identity=identity)


def _open_frame(frame: Any, features: Selection, labels: Any, options: Options) -> Source:
    """A pandas frame: columns by name, missing values are nulls."""
    names = [str(name) for name in frame.columns]
    by_name = labels is not None and not isinstance(labels, np.ndarray)
    columns, label = chosen_names(names, features, labels if by_name else None)
    if label is not None:
        column = frame.iloc[:, names.index(label)]
        if column.isna().any():
            row = int(np.flatnonzero(column.isna())[0])
            raise ValueError(f"labels: expected no nulls, got one at row {row}; fill it")
        values = column.to_numpy()
        labels = values.astype(str) if values.dtype == object else values
    chosen = frame.iloc[:, [names.index(name) for name in columns]]
    for name, kind in zip(columns, chosen.dtypes, strict=True):
        if getattr(kind, "kind", "O") not in "biufc":
            raise TypeError(
                f"features: expected numbers, got column {name!r} of type {kind}; select columns "
                "with features="
            )
    missing = chosen.isna().to_numpy()
    kinds = [getattr(kind, "numpy_dtype", kind) for kind in chosen.dtypes]
    data = chosen.fillna(0).to_numpy(dtype=np.result_type(*kinds) if kinds else None)
    return StoredArray(data, labels, options=options, nulls=missing if missing.any() else None)


def _open_path(path: str, features: Selection, labels: Any, options: Options) -> Source:
    if path.rstrip("/").endswith(".zarr"):
        if "://" not in path and not Path(path).exists():
            raise FileNotFoundError(f"{path}: expected a zarr store, found nothing there")
        found = containers.read_zarr(path)
        return _from_container(path, found, features, labels, options, None)
    file = File.find(path)
    identity = file.identity(selection_text(features, labels))
    if file.suffix in _TABLES:
        return TableSource(file, features=features, labels=labels, options=options)
    if file.suffix in _CONTAINERS:
        found = _CONTAINERS[file.suffix](file)
        return _from_container(path, found, features, labels, options, identity)
    if "-ubyte" in file.name or file.suffix in (".idx", ".idx1", ".idx3"):
        return _stored(images.read_idx(file), features, labels, options, identity)
    if file.suffix == ".bin" or "_batch" in file.name:
        pixels, own_labels = images.read_cifar(file)
        chosen = own_labels if labels is None else labels
        return _stored(pixels, features, chosen, options, identity)
    raise ValueError(
        f"{path}: expected a file ending in {', '.join([*_TABLES, *_CONTAINERS, '.zarr'])}, an IDX "
        f"file (-ubyte, .idx) or a CIFAR batch (.bin, *_batch*), got {file.suffix or 'no ending'!r}"
    )


def _from_container(
    path: str,
    found: Mapping[str, Any],
    features: Selection,
    labels: Any,
    options: Options,
    identity: str | None,
) -> Source:
    """The array that ``features`` names, or the only one besides the labels."""
    if isinstance(labels, str):
        labels = _named(path, found, labels, "labels")
        found = {name: values for name, values in found.items() if values is not labels}
    if isinstance(features, str):
        return _stored(_named(path, found, features, "features"), None, labels, options, identity)
    if len(found) != 1:
        raise ValueError(
            f"{path}: expected one array of features, got {sorted(found)}; name it with features="
        )
    return _stored(next(iter(found.values())), features, labels, options, identity)


def _named(path: str, found: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in found:
        raise ValueError(f"{what}: expected one of {sorted(found)} in {path}, got {name!r}")
    return found[name]
