# SPDX-License-Identifier: Apache-2.0
"""``StateCache``: rows encoded once and kept, in host memory and in files of a folder.

The files, their names and their safety are specified in docs/cache-format.md. States are kept in
the cheapest form: raw real rows where amplitude encoding allows. No circuit is run here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import operator
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qdp import encodings, engine, loader, memory, opening
from qdp.arrays import Array
from qdp.encodings import Amplitude, Encoding
from qdp.errors import BackendUnavailable, CacheCorrupt
from qdp.memory import parse_bytes
from qdp.sources import Chunk, Source, row_indices

FORMAT = 1
Storage = Literal["auto", "compact", "complex64", "complex128"]
BitOrder = Literal["big", "little"]

_MANIFEST = "manifest.json"
_CHUNK_BYTES = 64 * 2**20
_STATES = {"double": "complex128", "single": "complex64"}
_NOT_POPULATED = "Cache not populated. Call encode_all() first."
_Parts = dict[str, Array]


@dataclass
class Counters:
    """Chunks found in memory (``hits``) or not (``misses``), and bytes of files read and written.

    ``bytes_read`` counts the check of a file once, when it is first used.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass
class Manifest:
    """What an entry holds: the members that docs/cache-format.md lists."""

    key: dict[str, Any]
    chunk_rows: int
    n_features: int
    n_rows: int = 0
    complete: bool = False
    chunks: list[dict[str, Any]] = field(default_factory=list)

    def as_bytes(self) -> bytes:
        """Return the JSON text, with its checksum, that stands in the file."""
        document: dict[str, Any] = {"format": FORMAT, **vars(self)}
        document["crc32"] = zlib.crc32(_json(document).encode())
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()

    @property
    def stored_bytes(self) -> int:
        """Bytes of all chunk files."""
        return sum(file["bytes"] for chunk in self.chunks for file in chunk["files"].values())


def read_manifest(entry: Path) -> Manifest:
    """Return the manifest of an entry's folder.

    Raises:
        CacheCorrupt: it is damaged, or of another format.
        OSError: it can't be read.
    """
    path = entry / _MANIFEST
    data = path.read_bytes()
    remedy = f"remove it with: qdp cache rm {entry.parent} {entry.name}"
    try:
        document = json.loads(data)
        version = document.pop("format")
        del document["crc32"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CacheCorrupt(
            f"{path}: expected a manifest, got {len(data)} bytes that are none ({error}); {remedy}"
        ) from error
    if version != FORMAT:
        raise CacheCorrupt(f"{path}: expected format {FORMAT}, got {version!r}; {remedy}")
    try:
        manifest = Manifest(**document)
    except TypeError as error:
        raise CacheCorrupt(f"{path}: expected other members ({error}); {remedy}") from error
    if manifest.as_bytes() != data:
        raise CacheCorrupt(f"{path}: expected the checksum's content, got another; {remedy}")
    return manifest


class StateCache:
    """States of rows, encoded once: in memory up to a budget, beyond it in memory-mapped files.

    ``directory`` holds any number of entries, found again by what was encoded and how; None keeps
    the rows in memory alone. ``memory`` is the budget for rows kept there, in bytes or as text
    such as "4GiB". ``device`` is "cpu". States come as (rows, 2**n_qubits) NumPy arrays.

    Raises:
        BackendUnavailable: a device other than "cpu".
        ValueError: a budget that can't be read.

    >>> cache = StateCache(None)
    >>> cache.encode_all([[3.0, 4.0], [1.0, 0.0]], "amplitude")
    >>> cache.get_state(0).real
    array([0.6, 0.8])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        memory: int | str = "1GiB",
        device: str = "cpu",
    ) -> None:
        if device != "cpu":
            raise BackendUnavailable(
                f"device {device!r}: this version of QDP keeps states on the CPU only; pass "
                "device='cpu'"
            )
        self.directory = None if directory is None else Path(directory)
        self.memory = parse_bytes(memory)
        self.counters = Counters()
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the rows in memory; files stay, and ``encode_all`` finds them again."""
        self._manifest: Manifest | None = None
        self._encoding: Encoding = Amplitude()
        self._resident: dict[int, _Parts] = {}
        self._resident_bytes = 0
        self._mapped: dict[int, _Parts] = {}
        self._labels: Array | None = None

    def encode_all(
        self,
        source: Any,
        encoding: str | Encoding = "amplitude",
        n_qubits: int | None = None,
        *,
        precision: Literal["double", "single"] = "double",
        bit_order: BitOrder = "big",
        storage: Storage = "auto",
        chunk_rows: int | None = None,
    ) -> None:
        """Encode every row of ``source``, anything that ``qdp.open`` takes, or find it encoded.

        Labels of the source are kept with its rows, see ``labels``.

        ``n_qubits`` None takes the fewest that hold the features. ``storage`` "compact" keeps the
        raw rows of real features for amplitude encoding, exactly; "complex64" rounds to that;
        "auto" is compact where that is smaller, else the precision's dtype. ``chunk_rows`` None
        makes files of about 64 MiB. A build that was interrupted goes on where it stood.

        Raises:
            ValueError: an option out of its range, or rows that the encoding refuses.
            MemoryError: without a directory, rows beyond the budget.
            OSError: the folder can't be written; chunks written before stay.
            CacheCorrupt: the entry's manifest is damaged.
        """
        rows = source if isinstance(source, Source) else opening.open(source)
        chosen = encodings.from_name(encoding)
        for name, value, allowed in (
            ("precision", precision, ("double", "single")),
            ("bit_order", bit_order, ("big", "little")),
            ("storage", storage, ("auto", "compact", "complex64", "complex128")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        if n_qubits is None:
            n_qubits = chosen.fewest_qubits(np.empty((0, rows.n_features)))
        n_qubits = operator.index(n_qubits)
        encodings.require_qubit_count(n_qubits)
        kept = _storage(storage, chosen, rows, n_qubits, precision)
        row_bytes = (
            8 * rows.n_features if kept == "compact" else np.dtype(kept).itemsize << n_qubits
        )
        if chunk_rows is None:
            chunk_rows = max(1, _CHUNK_BYTES // row_bytes)
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows: expected at least 1, got {chunk_rows}")
        self.clear()
        manifest = Manifest(
            {
                "source": "memory" if self.directory is None else rows.fingerprint(),
                "encoding": repr(chosen),
                "encoding_fingerprint": chosen.fingerprint(),
                "n_qubits": n_qubits,
                "precision": precision,
                "bit_order": bit_order,
                "storage": kept,
                "labels": rows.has_labels,
                "format": FORMAT,
            },
            chunk_rows,
            rows.n_features,
        )
        if self.directory is None:
            self._fill_memory(rows, chosen, manifest)
        else:
            self._entry = self.directory / entry_name(manifest.key)
            manifest = self._find_or_build(rows, chosen, manifest)
        self._manifest, self._encoding = manifest, chosen

    # What is in it

    @property
    def n_samples(self) -> int:
        """Rows encoded."""
        return self._populated().n_rows

    @property
    def n_qubits(self) -> int:
        """Qubits of each state."""
        return int(self._populated().key["n_qubits"])

    @property
    def precision(self) -> Literal["double", "single"]:
        """The precision of the states given out."""
        return "double" if self._populated().key["precision"] == "double" else "single"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the states given out, complex128 or complex64."""
        return np.dtype(_STATES[self.precision])

    @property
    def memory_bytes(self) -> int:
        """Bytes of all states as an array: rows * 2**n_qubits * bytes of an amplitude."""
        return (self.n_samples << self.n_qubits) * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes that the rows really take, in files, or in memory without a directory."""
        return self._populated().stored_bytes

    @property
    def storage(self) -> str:
        """How rows are kept: "compact", "complex64" or "complex128"."""
        return str(self._populated().key["storage"])

    @property
    def labels(self) -> Array | None:
        """Labels of all rows, (n_samples,), read-only, or None if the source had none."""
        manifest = self._populated()
        if manifest.key["labels"] and self._labels is None:
            parts = [self._label_part(number) for number in range(len(manifest.chunks))]
            self._labels = np.concatenate(parts) if parts else np.empty(0)
            self._labels.flags.writeable = False
        return self._labels

    # Reading

    def get_state(self, index: int) -> Array:
        """Return one state, (2**n_qubits,); raises IndexError beyond the rows."""
        state: Array = self.get_states([operator.index(index)])[0]
        return state

    def get_states(self, indices: Any) -> Array:
        """Return the states at ``indices``, in their order, (len(indices), 2**n_qubits)."""
        manifest = self._populated()
        places = row_indices(indices, manifest.n_rows)
        result = self._empty(len(places))
        numbers = places // manifest.chunk_rows
        for number in np.unique(numbers):
            where = np.flatnonzero(numbers == number)
            parts = self._parts(int(number))
            result[where] = self._encoded(parts, places[where] - number * manifest.chunk_rows)
        return result

    def get_all(self) -> Array:
        """Return all states, (n_samples, 2**n_qubits); raises MemoryError if they don't fit."""
        result = self._empty(self.n_samples)
        start = 0
        for number in range(len(self._populated().chunks)):
            states = self._encoded(self._parts(number), slice(None))
            result[start : start + len(states)] = states
            start += len(states)
        return result

    def chunks(self, rows: int, *, prefetch: int = 0) -> Iterator[Array]:
        """Yield all states in order, ``rows`` at a time; ``prefetch`` of them are made ahead."""
        if rows < 1 or prefetch < 0:
            raise ValueError(
                f"chunks: expected rows of at least 1 and prefetch of at least 0, got {rows} and "
                f"{prefetch}"
            )
        batches = (
            self.get_states(np.arange(start, min(start + rows, self.n_samples)))
            for start in range(0, self.n_samples, rows)
        )
        return loader.run_ahead(batches, prefetch) if prefetch else batches

    def blocks(self, n_qubits: int) -> Iterator[tuple[int, Array, Encoding | None]]:
        """Yield start, rows and encoding of each chunk, as the verbs of ``qdp`` take them.

        Compact rows come raw with their encoding, so that no state is made; others as states.

        Raises:
            ValueError: another number of qubits, or little-endian states.
        """
        manifest = self._populated()
        if n_qubits != self.n_qubits:
            raise ValueError(
                f"states: expected a cache on {n_qubits} qubits, as the circuit has, got one on "
                f"{self.n_qubits}"
            )
        if manifest.key["bit_order"] != "big":
            raise ValueError(
                "states: expected a cache with bit_order='big', got 'little'; encode it again"
            )
        start = 0
        for number in range(len(manifest.chunks)):
            parts = self._parts(number)
            if "features" in parts:
                yield start, parts["features"], self._encoding
            else:
                yield start, self._encoded(parts, slice(None)), None
            start += manifest.chunks[number]["rows"]

    def verify(self, source: Any = None) -> None:
        """Check every file, and with ``source`` also that its rows are still those encoded.

        Raises:
            CacheCorrupt: a file is damaged or missing; it is named.
            ValueError: rows or labels of the source have changed; the first such chunk is named.
        """
        manifest = self._populated()
        if self.directory is not None:
            verify_entry(self._entry)
        if source is None:
            return
        rows = source if isinstance(source, Source) else opening.open(source)
        found = [_sha256(chunk) for chunk in rows.chunks(manifest.chunk_rows)]
        expected = [chunk["source_sha256"] for chunk in manifest.chunks]
        if found != expected:
            pairs = zip(found, expected, strict=False)
            first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(found))
            raise ValueError(
                f"source: expected the rows that were encoded, got others from row "
                f"{first * manifest.chunk_rows} on; call encode_all with it again"
            )

    # Inside

    def _populated(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError(_NOT_POPULATED)
        return self._manifest

    def _empty(self, rows: int) -> Array:
        memory.require_memory(
            rows * 2**self.n_qubits * self.dtype.itemsize,
            f"{rows} states of {self.n_qubits} qubits",
            "read them with chunks(), or give the cache itself to the verbs",
        )
        return np.empty((rows, 2**self.n_qubits), self.dtype)

    def _encoded(self, parts: Mapping[str, Array], rows: Any) -> Array:
        """Return the states of ``rows`` of a chunk."""
        if "states" in parts:
            stored: Array = parts["states"][rows]
            return stored
        key = self._populated().key
        states: Array = engine.encode(
            parts["features"][rows],
            self._encoding,
            key["n_qubits"],
            precision=key["precision"],
            bit_order=key["bit_order"],
        )
        return states

    def _parts(self, number: int) -> _Parts:
        """Return the arrays of a chunk: mapped at first, in memory from the second use on."""
        # The thread that runs ahead in chunks() and its consumer may both be here.
        with self._lock:
            if number in self._resident:
                self.counters.hits += 1
                return self._resident[number]
            self.counters.misses += 1
            files = self._populated().chunks[number]["files"]
            files = {kind: file for kind, file in files.items() if kind != "labels"}
            n_bytes = sum(file["bytes"] for file in files.values())
            if number not in self._mapped:
                self.counters.bytes_read += n_bytes
                self._mapped[number] = {
                    kind: _load(self._entry, file) for kind, file in files.items()
                }
            elif self._resident_bytes + n_bytes <= self.memory:
                # Only what is used again earns a copy: one costs ten times the check of a mapped
                # file.
                parts = self._mapped.pop(number)
                self._resident[number] = {kind: part.copy() for kind, part in parts.items()}
                self._resident_bytes += n_bytes
                return self._resident[number]
            return self._mapped[number]

    def _label_part(self, number: int) -> Array:
        if self.directory is None:
            return self._resident[number]["labels"]
        file = self._populated().chunks[number]["files"]["labels"]
        self.counters.bytes_read += file["bytes"]
        return _load(self._entry, file)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take over another process's cache, with a lock of its own."""
        vars(self).update(state)
        self._lock = threading.Lock()

    def _fill_memory(self, source: Source, encoding: Encoding, manifest: Manifest) -> None:
        for number, chunk in enumerate(source.chunks(manifest.chunk_rows)):
            parts = _stored_parts(chunk, encoding, manifest.key)
            # The source's rows may be a view of an array that its owner goes on writing to.
            self._resident[number] = {kind: part.copy() for kind, part in parts.items()}
            self._resident_bytes += sum(part.nbytes for part in parts.values())
            if self._resident_bytes > self.memory:
                taken = memory.format_bytes(self._resident_bytes)
                self.clear()
                raise MemoryError(
                    f"StateCache: expected rows within its budget of "
                    f"{memory.format_bytes(self.memory)}, got {taken} after row "
                    f"{chunk.start + len(chunk.features)}; give a directory, or a larger memory="
                )
            files = {kind: {"bytes": part.nbytes} for kind, part in parts.items()}
            _append(manifest, chunk, files)
        manifest.complete = True

    def _find_or_build(self, source: Source, encoding: Encoding, fresh: Manifest) -> Manifest:
        """Return the manifest of the whole entry; the builder's lock is taken only to write."""
        found = _existing(self._entry)
        if found is not None and found.complete:
            return found
        with _locked(self._entry):
            # Another process may have finished, or been killed, while this one waited.
            manifest = _existing(self._entry) or fresh
            if not manifest.complete:
                self._build(source, encoding, manifest)
            return manifest

    def _build(self, source: Source, encoding: Encoding, manifest: Manifest) -> None:
        with _writing(self._entry):
            self._entry.mkdir(exist_ok=True)
            for leftover in self._entry.glob("*.tmp"):
                leftover.unlink()
        for chunk in source.chunks(manifest.chunk_rows, start=manifest.n_rows):
            parts = _stored_parts(chunk, encoding, manifest.key)
            number = len(manifest.chunks)
            files = {}
            for kind, part in parts.items():
                buffer = io.BytesIO()
                np.save(buffer, part, allow_pickle=False)
                name = f"{kind}-{number:06d}.npy"
                view = buffer.getbuffer()
                files[kind] = {"name": name, "bytes": len(view), "crc32": zlib.crc32(view)}
                self._write(name, view)
            _append(manifest, chunk, files)
            self._write(_MANIFEST, manifest.as_bytes())
        manifest.complete = True
        self._write(_MANIFEST, manifest.as_bytes())

    def _write(self, name: str, data: bytes | memoryview) -> None:
        with _writing(self._entry):
            _write_atomically(self._entry / name, data)
        self.counters.bytes_written += len(data)


# Entries of a folder, also for the command line


def entry_name(key: Mapping[str, Any]) -> str:
    """Return the name of the folder of an entry with that key.

    >>> entry_name({"format": 1})
    '3f0a99256beeb89a6b9f2793885291a6'
    """
    return hashlib.sha256(_json(key).encode()).hexdigest()[:32]


def entries(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of all entries, by name; raises FileNotFoundError without the folder."""
    return sorted(
        path for path in Path(directory).iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)
    )


def verify_entry(entry: Path) -> Manifest:
    """Check the manifest and every file of an entry, and return the manifest.

    Raises:
        CacheCorrupt: a file is damaged or missing; it is named.
    """
    manifest = read_manifest(entry)
    for chunk in manifest.chunks:
        for file in chunk["files"].values():
            _load(entry, file)
    return manifest


def remove_entry(entry: Path) -> None:
    """Delete an entry's files, waiting for a process that builds it."""
    with _locked(entry):
        shutil.rmtree(entry)


def _storage(
    storage: Storage, encoding: Encoding, source: Source, n_qubits: int, precision: str
) -> str:
    may_compact = isinstance(encoding, Amplitude) and source.dtype.kind in "biuf"
    state_dtype = _STATES[precision]
    if storage == "auto":
        raw_bytes = source.n_features * source.dtype.itemsize
        smaller = raw_bytes < np.dtype(state_dtype).itemsize << n_qubits
        return "compact" if may_compact and smaller else state_dtype
    if storage == "compact" and not may_compact:
        raise ValueError(
            f"storage: expected real features and amplitude encoding for 'compact', got "
            f"{source.dtype} and {encoding.name!r}; use 'auto'"
        )
    if storage == "complex128" and precision == "single":
        raise ValueError("storage: expected precision='double' for 'complex128', got 'single'")
    return storage


def _stored_parts(chunk: Chunk, encoding: Encoding, key: Mapping[str, Any]) -> _Parts:
    """Return the arrays that stand for a chunk of rows, and their labels where there are any."""
    parts = _encoded_parts(chunk.features, chunk.start, encoding, key)
    if chunk.labels is not None:
        parts["labels"] = np.ascontiguousarray(chunk.labels)
    return parts


def _encoded_parts(
    features: Array, start: int, encoding: Encoding, key: Mapping[str, Any]
) -> _Parts:
    try:
        if key["storage"] == "compact":
            assert isinstance(encoding, Amplitude)
            norms = encoding.validate_with_norms(features, key["n_qubits"])[1]
            return {"features": np.ascontiguousarray(features), "norms": norms}
        states = engine.encode(
            features,
            encoding,
            key["n_qubits"],
            precision=key["precision"],
            bit_order=key["bit_order"],
        )
    except ValueError as error:
        raise ValueError(f"rows from {start} on, counted from there: {error}") from error
    return {"states": states.astype(key["storage"], copy=False)}


def _append(manifest: Manifest, chunk: Chunk, files: Mapping[str, Any]) -> None:
    n_rows = len(chunk.features)
    manifest.chunks.append({"rows": n_rows, "source_sha256": _sha256(chunk), "files": files})
    manifest.n_rows += n_rows


def _existing(entry: Path) -> Manifest | None:
    try:
        return read_manifest(entry)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _load(entry: Path, file: Mapping[str, Any]) -> Array:
    """Return the array of a file after checking all of it."""
    path = entry / file["name"]
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise CacheCorrupt(
            f"{path}: expected {file['bytes']} bytes, got none ({error}); {_remedy(entry)}"
        ) from error
    if len(data) != file["bytes"]:
        raise CacheCorrupt(
            f"{path}: expected {file['bytes']} bytes, got {len(data)}; {_remedy(entry)}"
        )
    checksum = zlib.crc32(data.data)
    if checksum != file["crc32"]:
        raise CacheCorrupt(
            f"{path}: expected CRC-32 {file['crc32']:08x}, got {checksum:08x}; {_remedy(entry)}"
        )
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    return np.asarray(data[start:]).view(dtype).reshape(shape)


def _remedy(entry: Path) -> str:
    return f"remove it with: qdp cache rm {entry.parent} {entry.name}"


def _write_atomically(path: Path, data: bytes | memoryview) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _writing(entry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cache: expected to write in {entry}, got: {error.strerror}; chunks written before "
            "stay, so free space or give write permission and call encode_all again, or choose "
            "another directory",
        ) from error


@contextlib.contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """Hold the lock of an entry; the system drops it when the process ends, however it does."""
    with _writing(entry):
        entry.parent.mkdir(parents=True, exist_ok=True)
        stream = entry.with_name(f"{entry.name}.lock").open("a")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sha256(chunk: Chunk) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(chunk.features).data)
    if chunk.labels is not None:
        digest.update(chunk.labels.tobytes())
    return digest.hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
