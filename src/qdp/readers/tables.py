# SPDX-License-Identifier: Apache-2.0
"""Tables through pyarrow: Parquet by row groups, Arrow IPC and Feather, CSV as a stream.

Features are scalar columns, or one column of lists of one length. At most one record batch is in
memory at a time. Nothing is parsed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from qdp.arrays import Array
from qdp.readers.files import File, optional_module
from qdp.sources import CheckedSource, Chunk, Options, Piece, row_indices, selection_text

# Bytes of features that are turned into an array at a time.
_PIECE_BYTES = 2**25

Selection = slice | int | str | list[Any] | None


def chosen_names(
    names: list[str], features: Selection, label: str | int | None
) -> tuple[list[str], str | None]:
    """Return the names of the feature columns and of the label's, by name, index, slice or list.

    >>> chosen_names(["a", "b", "y"], None, "y")
    (['a', 'b'], 'y')
    """
    chosen_label = None if label is None else _name(names, label, "labels")
    others = [name for name in names if name != chosen_label]
    if features is None:
        return others, chosen_label
    if isinstance(features, slice):
        if features.stop is not None and features.stop > len(names):
            raise IndexError(
                f"features: expected columns from 0 to {len(names) - 1}, got {features}"
            )
        return names[features], chosen_label
    if isinstance(features, list):
        return [_name(names, key, "features") for key in features], chosen_label
    return [_name(names, features, "features")], chosen_label


def _name(names: list[str], key: str | int, what: str) -> str:
    if isinstance(key, str):
        if key not in names:
            raise ValueError(f"{what}: expected one of the columns {names}, got {key!r}")
        return key
    if not -len(names) <= key < len(names):
        raise IndexError(f"{what}: expected a column from 0 to {len(names) - 1}, got {key}")
    return names[key]


class TableSource(CheckedSource):
    """Rows of a Parquet, Arrow or CSV file, read a record batch at a time.

    ``features`` selects columns by name, index, slice or list (all but the label by default), the
    label likewise or as an array of values.
    """

    def __init__(
        self,
        file: File,
        *,
        features: Selection = None,
        labels: Any = None,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        self.file = file
        self.label_values = labels if isinstance(labels, np.ndarray) else None
        self._pyarrow = optional_module("pyarrow", "arrow")
        self._column_types: dict[str, Any] = {}
        try:
            schema, self._bounds = self._layout()
            self.n_rows = None if self._bounds is None else ([0, *self._bounds][-1])
            label = None if self.label_values is not None else labels
            self.columns, self.label = chosen_names(schema.names, features, label)
            self._read_columns = [*self.columns] + ([self.label] if self.label is not None else [])
            if file.suffix == ".csv":
                schema = self._widened(schema)
            self._set_types(schema)
        except self._pyarrow.ArrowInvalid as error:
            raise ValueError(
                f"{file.path}: truncated, or not a {file.suffix} file ({error})"
            ) from error
        self.has_labels = labels is not None
        if self.label_values is not None and self.n_rows not in (None, len(self.label_values)):
            raise ValueError(
                f"labels: expected one a row, shape ({self.n_rows},), got shape "
                f"{self.label_values.shape}"
            )
        self._apply(options, file.identity(selection_text(features, labels)))

    def _widened(self, schema: Any) -> Any:
        """Read whole numbers and empty columns as float64: later blocks may hold fractions."""
        types = self._pyarrow.types
        for name in self.columns:
            index = schema.get_field_index(name)
            if types.is_integer(schema.field(index).type) or types.is_null(
                schema.field(index).type
            ):
                self._column_types[name] = self._pyarrow.float64()
                schema = schema.set(index, self._pyarrow.field(name, self._pyarrow.float64()))
        return schema

    def _set_types(self, schema: Any) -> None:
        """Set width and dtype from the schema, or from the first row for lists without a size."""
        types = self._pyarrow.types
        if not self.columns:
            raise ValueError("features: expected at least one column, got none")
        fields = [schema.field(name) for name in self.columns]
        self._is_list = _is_list(types, fields[0].type)
        if self._is_list and len(fields) > 1:
            raise ValueError(
                f"features: expected one column of lists or many of numbers, got {self.columns}; "
                "select one with features="
            )
        dtypes = []
        for field in fields:
            value = field.type.value_type if self._is_list else field.type
            if types.is_null(value):
                dtypes.append(np.dtype(np.float64))
            elif types.is_integer(value) or types.is_floating(value) or types.is_boolean(value):
                dtypes.append(np.dtype(value.to_pandas_dtype()))
            else:
                raise TypeError(
                    f"features: expected numbers, got column {field.name!r} of type {field.type}; "
                    "select columns with features="
                )
        self.dtype = np.result_type(*dtypes)
        self.n_features = len(fields)
        if self._is_list:
            self.n_features = getattr(fields[0].type, "list_size", None) or self._first_length()

    def _first_length(self) -> int:
        for batch in self._batches(0):
            lengths = self._pyarrow.compute.list_value_length(batch.column(0)).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
        raise ValueError(f"{self.file.path}: expected at least one row, got none")

    def _layout(self) -> tuple[Any, list[int] | None]:
        """Return the schema, and where blocks of rows end (None where only reading tells)."""
        optional_module("pyarrow.compute", "arrow")
        if self.file.suffix == ".parquet":
            with self._parquet() as parquet:
                metadata = parquet.metadata
                sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
                return parquet.schema_arrow, np.cumsum(sizes, dtype=int).tolist()
        if self.file.suffix == ".csv":
            with self._csv() as reader:
                return reader.schema, None
        with self._ipc() as reader:
            if hasattr(reader, "num_record_batches"):
                sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
                return reader.schema, np.cumsum(sizes, dtype=int).tolist()
            return reader.schema, None

    def _parquet(self) -> Any:
        return optional_module("pyarrow.parquet", "arrow").ParquetFile(self._stream())

    def _csv(self) -> Any:
        csv = optional_module("pyarrow.csv", "arrow")
        stream = self._stream()
        if self.file.path.endswith(".gz"):
            stream = self._pyarrow.CompressedInputStream(stream, "gzip")
        return csv.open_csv(
            stream, convert_options=csv.ConvertOptions(column_types=self._column_types)
        )

    def _ipc(self) -> Any:
        ipc = optional_module("pyarrow.ipc", "arrow")
        try:
            return ipc.open_file(self._stream(mapped=True))
        except self._pyarrow.ArrowInvalid:
            return ipc.open_stream(self._stream())

    def _stream(self, *, mapped: bool = False) -> Any:
        """Open the file as pyarrow's own kind, which closes itself."""
        if self.file.local is None:
            return self._pyarrow.PythonFile(self.file.open(), mode="r")
        opened = self._pyarrow.memory_map if mapped else self._pyarrow.OSFile
        return opened(str(self.file.local))

    def _batches(self, start_block: int) -> Iterator[Any]:
        """Yield record batches of the needed columns, from a block on."""
        if self.file.suffix == ".parquet":
            with self._parquet() as parquet:
                groups = list(range(start_block, parquet.num_row_groups))
                yield from (
                    batch.select(self._read_columns)
                    for batch in parquet.iter_batches(
                        self._piece_rows(), row_groups=groups, columns=self._read_columns
                    )
                )
            return
        with self._csv() if self.file.suffix == ".csv" else self._ipc() as reader:
            if hasattr(reader, "num_record_batches"):
                for index in range(start_block, reader.num_record_batches):
                    yield reader.get_batch(index).select(self._read_columns)
            else:
                for batch in reader:
                    yield batch.select(self._read_columns)

    def _pieces(self, start: int, stop: int | None, rows: int) -> Iterator[Piece]:
        block = 0
        if self._bounds is not None:
            block = int(np.searchsorted(self._bounds, start, side="right"))
        first = 0 if self._bounds is None or block == 0 else self._bounds[block - 1]
        try:
            for batch in self._batches(block):
                if stop is not None and first >= stop:
                    return
                skip = max(0, start - first)
                keep = batch.num_rows if stop is None else min(batch.num_rows, stop - first)
                if keep > skip:
                    step = self._piece_rows()
                    for place in range(skip, keep, step):
                        part = batch.slice(place, min(step, keep - place))
                        yield self._piece(part, first + place)
                first += batch.num_rows
        except self._pyarrow.ArrowInvalid as error:
            raise ValueError(f"{self.file.path}: damaged or of mixed types ({error})") from error
        except OSError as error:
            raise ValueError(f"{self.file.path}: truncated or unreadable ({error})") from error
        if self.label_values is not None and stop is None and first != len(self.label_values):
            raise ValueError(
                f"labels: expected one a row, shape ({first},), got shape {self.label_values.shape}"
            )

    def _piece_rows(self) -> int:
        return max(1, _PIECE_BYTES // (self.n_features * self.dtype.itemsize))

    def _piece(self, batch: Any, first: int) -> Piece:
        n_rows, row = batch.num_rows, first - self.options.start
        if self._is_list:
            features, nulls = self._lists(batch.column(0), row)
        else:
            features = np.empty((n_rows, self.n_features), self._stored_dtype(batch))
            nulls = None
            for index in range(self.n_features):
                features[:, index], missing = self._numbers(batch.column(index))
                if missing is not None:
                    if nulls is None:
                        nulls = np.zeros(features.shape, bool)
                    nulls[:, index] = missing
        labels = None
        if self.label_values is not None:
            labels = self.label_values[first : first + n_rows]
        elif self.label is not None:
            labels = self._labels(batch.column(len(self.columns)), row)
        return Piece(features, nulls, labels)

    def _stored_dtype(self, batch: Any) -> np.dtype[Any]:
        kinds = [batch.schema.field(i).type for i in range(self.n_features)]
        return np.result_type(
            *(
                np.float64 if self._pyarrow.types.is_null(kind) else kind.to_pandas_dtype()
                for kind in kinds
            )
        )

    def _numbers(self, column: Any) -> tuple[Array, Array | None]:
        """Return values and nulls (None: there are none) of numbers; a null's value is zero.

        Values are a view of Arrow's own memory where it has no nulls.
        """
        if self._pyarrow.types.is_null(column.type):
            return np.zeros(len(column)), np.ones(len(column), bool)
        if not column.null_count:
            return column.to_numpy(zero_copy_only=False), None
        nulls = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        value = False if self._pyarrow.types.is_boolean(column.type) else 0
        column = column.fill_null(self._pyarrow.scalar(value, type=column.type))
        return column.to_numpy(zero_copy_only=False), nulls

    def _lists(self, column: Any, row: int) -> tuple[Array, Array | None]:
        lengths = self._pyarrow.compute.list_value_length(column)
        sizes = lengths.fill_null(self.n_features).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(sizes != self.n_features)
        if len(wrong):
            raise ValueError(
                f"features: expected {self.n_features} values in each list, got {sizes[wrong[0]]} "
                f"at row {row + wrong[0]}"
            )
        values, inner = self._numbers(column.drop_null().flatten())
        values = values.reshape(-1, self.n_features)
        if inner is not None:
            inner = inner.reshape(-1, self.n_features)
        if not column.null_count:
            return values, inner
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
        features = np.zeros((len(column), self.n_features), values.dtype)
        nulls = np.ones(features.shape, bool)
        features[known] = values
        nulls[known] = False if inner is None else inner
        return features, nulls

    def _labels(self, column: Any, row: int) -> Array:
        if column.null_count:
            place = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(f"labels: expected no nulls, got one at row {row + place}; fill it")
        values: Array = column.to_numpy(zero_copy_only=False)
        return values.astype(str) if values.dtype == object else values

    def shards(self) -> list[tuple[int, int | None]]:
        """Return the row groups or record batches, as far as they lie in the rows kept."""
        if self._bounds is None:
            return super().shards()
        start, end = self.options.start, self.options.start + len(self)
        edges = [start, *(bound for bound in self._bounds if start < bound < end), end]
        return [(a - start, b - start) for a, b in itertools.pairwise(edges) if b > a]

    def take(self, indices: object) -> Chunk:
        """Return the rows at ``indices`` in their order, reading each row group once."""
        if self._bounds is None:
            return super().take(indices)
        places = row_indices(indices, len(self))
        features = np.empty((len(places), self.n_features), self.dtype)
        parts: list[tuple[Array, Array]] = []
        for start, stop in self.shards():
            found = np.flatnonzero((places >= start) & (places < (stop or 0)))
            if len(found):
                (block,) = self.chunks((stop or 0) - start, start=start, stop=stop)
                features[found] = block.features[places[found] - start]
                if block.labels is not None:
                    parts.append((found, block.labels[places[found] - start]))
        labels = None
        if parts:
            order = np.concatenate([found for found, _ in parts])
            labels = np.concatenate([values for _, values in parts])[np.argsort(order)]
        return Chunk(features, labels, int(places[0]) if len(places) else 0)


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
