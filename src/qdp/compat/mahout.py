# SPDX-License-Identifier: Apache-2.0
"""Apache Mahout QDP's names, defaults and results, little-endian states among them.

A program that used ``QdpEngine`` or ``QuantumDataLoader`` gets the same states here, on the CPU
(``backend="cpu"``). Errors have this package's one wording, and a setting without effect raises.
Mahout's "angle" is cos x, sin x: RY(2x). Its files are those that ``qdp.open`` reads.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qdp import arrays, engine, opening
from qdp.arrays import Array
from qdp.encodings import IQP, IQPZ, Amplitude, Angle, Basis, Encoding, Phase
from qdp.errors import BackendUnavailable
from qdp.readers.files import optional_module
from qdp.sources import Source

_ENCODINGS: dict[str, Encoding] = {
    "amplitude": Amplitude(),
    "angle": Angle(rotation="Y", scale=2.0),
    "basis": Basis(),
    "iqp": IQP(),
    "iqp-z": IQPZ(),
    "phase": Phase(),
}
_PRECISIONS: dict[str, Literal["single", "double"]] = {
    "float32": "single", "f32": "single", "float": "single",
    "float64": "double", "f64": "double", "double": "double",
}  # fmt: skip
_MAX_QUBITS = 30
_ENDINGS = (".parquet", ".arrow", ".feather", ".ipc", ".npy", ".pt", ".pth", ".pb")


@dataclass(frozen=True)
class QdpTensor:
    """Encoded states, (rows, 2**n) complex, that any DLPack consumer can take.

    >>> tensor = QdpEngine(backend="cpu").encode([3.0, 4.0], 1)
    >>> np.from_dlpack(tensor).real
    array([[0.6, 0.8]], dtype=float32)
    """

    value: Array
    backend: str

    def __dlpack__(self, **options: Any) -> Any:
        """Return a DLPack capsule that shares the memory; as often as asked for."""
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's device type and number: (1, 0), the CPU."""
        return self.value.__dlpack_device__()

    def to_torch(self) -> Any:
        """Return a torch tensor that shares the memory.

        Raises:
            ImportError: torch is not installed.
        """
        return _torch().from_numpy(self.value)


QuantumTensor = QdpTensor


class QdpEngine:
    """Mahout's engine: features in, little-endian states out, complex64 unless asked otherwise.

    ``precision`` is "float32" ("f32", "float") or "float64" ("f64", "double"). ``backend`` "cpu" is
    the one that runs here; with it ``device_id`` must be 0.

    Raises:
        ValueError: an unknown precision or backend, a ``device_id`` that doesn't exist.
        BackendUnavailable: a GPU backend, which is not there.

    >>> QdpEngine(backend="cpu").encode([0.0], 1, "angle").value
    array([[1.+0.j, 0.+0.j]], dtype=complex64)
    """

    def __init__(
        self, device_id: int = 0, precision: str = "float32", backend: str = "cuda"
    ) -> None:
        self.backend = _backend(backend)
        if operator.index(device_id) != 0:
            raise ValueError(f"device_id: expected 0, the CPU has no other, got {device_id}")
        self.precision = _precision("precision", precision)

    def encode(self, data: Any, num_qubits: int, encoding_method: str = "amplitude") -> QdpTensor:
        """Return the states of ``data``, (rows, 2**num_qubits), qubit 0 the least significant bit.

        ``data`` is one sample as a flat list or array, (rows, features) of NumPy, torch or DLPack,
        or the path of a file. "basis" takes one index a row, (rows, 1), or a flat array of one.

        Raises:
            TypeError: not numeric, or complex.
            ValueError: no rows, a number of qubits outside 1 to 30, an unknown encoding, or what
                the encoding refuses.

        >>> QdpEngine(backend="cpu").encode([[2], [1]], 2, "basis").value.real.astype(int)
        array([[0, 0, 1, 0],
               [0, 1, 0, 0]])
        """
        n_qubits = _qubits(num_qubits)
        encoding = _encoding(encoding_method)
        if isinstance(data, str | os.PathLike):
            chunks = [chunk.features for chunk in _open(data, "zero").chunks(4096)]
            features = np.concatenate(chunks) if chunks else np.empty(0)
        else:
            features = arrays.to_numpy(data, f"{encoding.name} encoding")
        if features.size == 0:
            raise ValueError(f"data: expected at least one row, got shape {features.shape}")
        rows = features[None] if features.ndim == 1 else features
        return QdpTensor(_states(rows, encoding, n_qubits, self.precision), self.backend)


class QuantumDataLoader:
    """Mahout's builder of loaders: set what to read and how, then iterate over batches of states.

    Every method returns the loader itself. One source must be chosen: synthetic, array or file.
    Each batch is a ``QdpTensor``, complex64 unless ``dtype("float64")``. Arrays and files are read
    to their end, or to the number of batches where one is set (Mahout's own loader heeds it for
    files on one of its two backends only).

    >>> loader = QuantumDataLoader().qubits(2).encoding("phase").batches(3, 4).backend("cpu")
    >>> [batch.value.shape for batch in loader.source_synthetic()]
    [(4, 4), (4, 4), (4, 4)]
    """

    def __init__(self) -> None:
        self._qubits: int | None = None
        self._encoding: Encoding = _ENCODINGS["amplitude"]
        self._batches: int | None = None
        self._batch_size = 64
        self._source: Source | Literal["synthetic"] | None = None
        self._path: str | None = None
        self._seed: int | None = None
        self._dtype = "float32"
        self._nulls: str | None = None
        self._backend = "cuda"

    def qubits(self, n: int) -> QuantumDataLoader:
        """Set the number of qubits, 1 to 30."""
        self._qubits = _qubits(n)
        return self

    def encoding(self, method: str) -> QuantumDataLoader:
        """Set the encoding: amplitude, angle, basis, iqp, iqp-z or phase."""
        self._encoding = _encoding(method)
        return self

    def batches(self, total: int, size: int = 64) -> QuantumDataLoader:
        """Set the largest number of batches, which synthetic data reach, and the rows of each."""
        self._batches = _positive("total", total)
        self._batch_size = _positive("size", size)
        return self

    def source_synthetic(self) -> QuantumDataLoader:
        """Read Mahout's cyclic ramps: L different rows, for a vector of length L."""
        self._choose("synthetic")
        return self

    def source_array(self, data: Any) -> QuantumDataLoader:
        """Read rows of an array in memory, (rows, features); Mahout has no such source."""
        self._choose(opening.open(data))
        return self

    def source_file(self, path: Any, streaming: bool = False) -> QuantumDataLoader:
        """Read a file; ``streaming`` is for Parquet, which is always read so."""
        name = os.fspath(path)
        if streaming and not name.lower().endswith(".parquet"):
            raise ValueError(f"streaming: expected a .parquet file, got {name!r}")
        _require_ending(name)
        if self._source is not None or self._path is not None:
            raise ValueError("source: expected one of them, got a second")
        self._path = name
        return self

    def seed(self, seed: int) -> QuantumDataLoader:
        """Set where the ramps of synthetic data begin, 0 to 2**64 - 1."""
        number = operator.index(seed)
        if not 0 <= number < 2**64:
            raise ValueError(f"seed: expected 0 to 2**64 - 1, got {number}")
        self._seed = number
        return self

    def dtype(self, dtype: str) -> QuantumDataLoader:
        """Set the precision of the states, "float32" or "float64"; features are read as stored."""
        _precision("dtype", dtype)
        self._dtype = dtype
        return self

    def null_handling(self, policy: str) -> QuantumDataLoader:
        """Set what a missing value in a file is: "fill_zero" (the default) or "reject"."""
        if policy not in ("fill_zero", "reject"):
            raise ValueError(f"null_handling: expected 'fill_zero' or 'reject', got {policy!r}")
        self._nulls = policy
        return self

    def backend(self, backend: str) -> QuantumDataLoader:
        """Set the backend; "cpu" is the one that runs here."""
        self._backend = backend
        return self

    def as_torch_dataset(self) -> Any:
        """Return an ``IterableDataset`` of whole batches, torch tensors.

        Give it to a DataLoader with ``batch_size=None, num_workers=0``.

        Raises:
            ImportError: torch is not installed.
        """
        loader = self
        loader._check()

        class Batches(_torch().utils.data.IterableDataset):  # type: ignore[misc]
            def __iter__(self) -> Iterator[Any]:
                return (batch.to_torch() for batch in loader)

        return Batches()

    def __iter__(self) -> Iterator[QdpTensor]:
        """Yield the batches from the first on, the last one perhaps smaller."""
        backend, n_qubits = self._check()
        precision = _precision("dtype", self._dtype)
        for features in self._features(n_qubits):
            yield QdpTensor(_states(features, self._encoding, n_qubits, precision), backend)

    def _choose(self, source: Source | Literal["synthetic"]) -> None:
        if self._source is not None or self._path is not None:
            raise ValueError("source: expected one of them, got a second")
        self._source = source

    def _check(self) -> tuple[str, int]:
        """Check the settings together; return the backend and the number of qubits."""
        backend = _backend(self._backend)
        if self._qubits is None:
            raise ValueError("qubits: expected a number of qubits, got none; call .qubits(n)")
        is_synthetic = self._source == "synthetic"
        if self._source is None and self._path is None:
            raise ValueError("source: expected one, got none; call .source_synthetic() or another")
        if is_synthetic and self._batches is None:
            raise ValueError("batches: expected a number for synthetic data, got none")
        if self._seed is not None and not is_synthetic:
            raise ValueError("seed: expected with synthetic data, got another source")
        if self._nulls is not None and self._path is None:
            raise ValueError("null_handling: expected with a file, got another source")
        return backend, self._qubits

    def _features(self, n_qubits: int) -> Iterator[Array]:
        if self._source == "synthetic":
            assert self._batches is not None
            for batch in range(self._batches):
                first = batch * self._batch_size
                yield _ramps(self._encoding, n_qubits, first, self._batch_size, self._seed or 0)
            return
        source = self._source
        if source is None:
            assert self._path is not None
            source = _open(self._path, "error" if self._nulls == "reject" else "zero")
        chunks = source.chunks(self._batch_size)
        for chunk in itertools.islice(chunks, self._batches):
            yield chunk.features


def _ramps(encoding: Encoding, n_qubits: int, first: int, rows: int, seed: int) -> Array:
    """Mahout's synthetic rows: entry i of row r is ((i + r + seed) mod L) / L, or that turn."""
    is_basis = isinstance(encoding, Basis)
    length = 2**n_qubits if is_basis else encoding.n_features(n_qubits)
    starts = (np.arange(first, first + rows) + seed % length) % length
    if is_basis:
        return np.asarray(starts[:, None])
    ramps = np.asarray((np.arange(length) + starts[:, None]) % length / length)
    return ramps if isinstance(encoding, Amplitude) else ramps * (2 * np.pi)


def _states(
    rows: Array, encoding: Encoding, n_qubits: int, precision: Literal["single", "double"]
) -> Array:
    """Return little-endian states; where Mahout wants exactly n features, fewer are refused."""
    if rows.ndim == 2 and isinstance(encoding, Basis):
        if rows.shape[1] != 1:
            raise ValueError(
                f"basis encoding: expected exactly 1 index a row, got {rows.shape[1]} columns"
            )
        rows = rows[:, 0]
    elif rows.ndim == 2 and isinstance(encoding, Angle) and rows.shape[1] != n_qubits:
        raise ValueError(
            f"angle encoding: expected exactly {n_qubits} features for {n_qubits} qubits, got "
            f"{rows.shape[1]}"
        )
    if rows.dtype.kind == "c":
        raise TypeError(
            f"{encoding.name} encoding: expected real numbers, got dtype {rows.dtype}; pass the "
            "real part (.real)"
        )
    # Mahout's amplitudes stay in their places; its qubits, like Qiskit's, count from the last bit.
    order: Literal["big", "little"] = "big" if isinstance(encoding, Amplitude | Basis) else "little"
    states: Array = engine.encode(rows, encoding, n_qubits, precision=precision, bit_order=order)
    return states


def _open(path: Any, nulls: str) -> Source:
    name = os.fspath(path)
    _require_ending(name)
    return opening.open(name, nulls=nulls)


def _require_ending(name: str) -> None:
    if not name.lower().endswith(_ENDINGS):
        raise ValueError(f"path: expected a file ending in {', '.join(_ENDINGS)}, got {name!r}")


def _backend(backend: str) -> str:
    name = str(backend).strip().lower()
    if name == "cpu":
        return name
    if name in ("cuda", "amd", "triton_amd", "rust", "pytorch", "auto"):
        raise BackendUnavailable(
            f"backend {name!r} needs a GPU, which this face has no backend for; pass backend='cpu'"
        )
    raise ValueError(f"backend: expected 'cpu', 'cuda' or 'amd', got {backend!r}")


def _precision(name: str, value: str) -> Literal["single", "double"]:
    if value not in _PRECISIONS:
        raise ValueError(f"{name}: expected one of {', '.join(_PRECISIONS)}, got {value!r}")
    return _PRECISIONS[value]


def _encoding(method: str) -> Encoding:
    name = str(method).lower()
    if name not in _ENCODINGS:
        raise ValueError(f"encoding: expected one of {', '.join(_ENCODINGS)}, got {method!r}")
    return _ENCODINGS[name]


def _qubits(value: int) -> int:
    n_qubits = operator.index(value)
    if not 1 <= n_qubits <= _MAX_QUBITS:
        raise ValueError(f"num_qubits: expected 1 to {_MAX_QUBITS}, got {n_qubits}")
    return n_qubits


def _positive(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number


def _torch() -> Any:
    optional_module("torch.utils.data", "torch")
    return optional_module("torch", "torch")
