# SPDX-License-Identifier: Apache-2.0
"""How fast rows become states: encoders, file streams, the state cache and the fidelity kernel.

Each leg has its rivals in the same process, taking turns, every one on all usable cores; none is
timed before its result agrees with the reference backend. The amplitude encoder is also set
against the machine's best triad, of plain and of streaming stores. Writes one JSON line a
measurement, with raw times; ``record`` says which kind: run, machine, encoding, stream, cache or
kernel.

    python -m benchmark.encoding_rates --output-dir results
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qdp
from benchmark.core import environment, records, statistics
from benchmark.core.contenders.encoding_paths import (
    WITH_LIBRARY,
    iqp_products_with,
    pennylane_states,
    states_of,
)
from benchmark.core.worker import SHORT_S
from qdp import _core, encodings

Array = NDArray[Any]
Record = dict[str, Any]

DISTRIBUTIONS = ("numpy", "torch", "pennylane", "pyarrow")
TOLERANCE = 1e-12
# The threads of BLAS and OpenMP spin for a while after their work, on the cores of the next turn.
PAUSE_S = 0.1
ENCODINGS: dict[str, encodings.Encoding] = {
    "amplitude": encodings.Amplitude(),
    "angle": encodings.Angle(),
    "iqp-embedding": encodings.IQPEmbedding(),
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything one run measures."""

    encodings: tuple[tuple[str, int], ...]
    state_bytes: int
    pennylane_rows: int
    stream_qubits: int
    stream_rows: int
    chunk_rows: int
    kernel_qubits: int
    kernel_rows: int

    def rows(self, n_qubits: int) -> int:
        """Return how many complex128 states of that many qubits fill ``state_bytes``."""
        return max(1, self.state_bytes // (16 << n_qubits))


FULL = Sizes(
    encodings=(
        ("amplitude", 10),
        ("amplitude", 12),
        ("amplitude", 16),
        ("angle", 12),
        ("iqp-embedding", 12),
    ),
    state_bytes=2**30,
    pennylane_rows=64,
    stream_qubits=10,
    stream_rows=65536,
    chunk_rows=4096,
    kernel_qubits=10,
    kernel_rows=1000,
)
QUICK = Sizes(
    encodings=FULL.encodings,
    state_bytes=2**25,
    pennylane_rows=8,
    stream_qubits=10,
    stream_rows=4096,
    chunk_rows=1024,
    kernel_qubits=10,
    kernel_rows=200,
)


@dataclass(frozen=True)
class Contender:
    """One way to do a leg's work: a call, and how many rows it does; it returns its result."""

    name: str
    rows: int
    call: Callable[[], Any]


def take_turns(contenders: Sequence[Contender], runs: int) -> dict[str, list[float]]:
    """Return the seconds of each contender's calls, ``runs`` of each, interleaved.

    Each turn begins with a pause, and the first call and one shorter than ``SHORT_S`` follow an
    untimed one, so that no contender pays for the caches and waiting threads of the one before.
    """
    seconds: dict[str, list[float]] = {one.name: [] for one in contenders}
    for _ in range(runs):
        for one in contenders:
            time.sleep(PAUSE_S)
            if not seconds[one.name] or seconds[one.name][-1] < SHORT_S:
                one.call()
            start = time.perf_counter()
            one.call()
            seconds[one.name].append(time.perf_counter() - start)
    return seconds


def require_equal(name: str, found: Array, expected: Array) -> None:
    """Raise RuntimeError if a result is not the reference's."""
    if found.shape != expected.shape:
        raise RuntimeError(f"{name}: expected shape {expected.shape}, got {found.shape}")
    difference = float(np.abs(found - expected).max())
    # NaN compares False, so the comparison is asked for what must hold.
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{name}: expected the reference's result, got {difference} away")


def measured(record: str, contender: Contender, seconds: list[float], **facts: Any) -> Record:
    """Return the record of one contender."""
    estimate = statistics.estimate(seconds)
    return {
        "record": record,
        "contender": contender.name,
        **facts,
        "rows": contender.rows,
        "seconds": seconds,
        "us_per_row": 1e6 * estimate.median / contender.rows,
        "us_per_row_interval": [
            1e6 * bound / contender.rows for bound in (estimate.low, estimate.high)
        ],
    }


# Encoders


def encoding_contenders(
    encoding: str, features: Array, out: Array, pennylane_rows: int
) -> list[Contender]:
    """Return all ways to encode ``features`` into ``out``; PennyLane takes few rows."""
    import torch

    rows, n_qubits = states_of(out)
    chosen, rival = ENCODINGS[encoding], WITH_LIBRARY[encoding]
    tensors = torch.from_numpy(features), torch.from_numpy(out)
    few = features[: min(rows, pennylane_rows)]
    broadcast = pennylane_states(encoding, n_qubits, "default.qubit")
    contenders = [
        Contender("qdp", rows, lambda: qdp.encode(features, chosen, n_qubits, out=out)),
        Contender("qdp-fresh", rows, lambda: qdp.encode(features, chosen, n_qubits)),
        Contender("numpy", rows, lambda: rival(np, features, out)),
        Contender("torch", rows, lambda: rival(torch, *tensors)),
        Contender("pennylane", len(few), lambda: broadcast(few)),
    ]
    if encoding == "iqp-embedding":
        contenders += [
            Contender("numpy-products", rows, lambda: iqp_products_with(np, features, out)),
            Contender("torch-products", rows, lambda: iqp_products_with(torch, *tensors)),
        ]
    return contenders


def measure_encoding(encoding: str, n_qubits: int, sizes: Sizes, runs: int) -> list[Record]:
    """Check and time all ways to encode; return their records."""
    rows = sizes.rows(n_qubits)
    width = 2**n_qubits if encoding == "amplitude" else n_qubits
    features = np.random.default_rng(42).normal(size=(rows, width))
    out = np.empty((rows, 2**n_qubits), complex)
    contenders = encoding_contenders(encoding, features, out, sizes.pennylane_rows)
    for one in contenders:
        out.fill(np.nan)
        places = np.unique(np.linspace(0, one.rows - 1, 16).astype(int))
        expected = qdp.encode(features[places], ENCODINGS[encoding], n_qubits, backend="reference")
        require_equal(one.name, np.asarray(one.call())[places], expected)
    seconds = take_turns(contenders, runs)
    facts = {"encoding": encoding, "n_qubits": n_qubits, "threads": _core.thread_count()}
    row_bytes = 8 * width + (16 << n_qubits)
    found = []
    for one in contenders:
        line = measured("encoding", one, seconds[one.name], **facts)
        line["extrapolated"] = one.rows < rows
        line["bytes_per_s"] = 1e6 * row_bytes / line["us_per_row"]
        found.append(line)
    return found


def machine(n_bytes: int) -> Record:
    """Measure the triad on all cores over that many bytes; return the record."""
    rates = {
        name: _core.triad_rate(n_bytes, 0.5, name == "streaming") for name in ("plain", "streaming")
    }
    return {
        "record": "machine",
        "threads": _core.thread_count(),
        "instruction_set": _core.instruction_set(),
        "triad_bytes": n_bytes,
        "triad_bytes_per_s": rates,
    }


# Files


def write_files(folder: Path, features: Array, chunk_rows: int) -> dict[str, Path]:
    """Write the rows as Parquet, a list column, and as .npy; return the paths by format."""
    import pyarrow
    from pyarrow import parquet

    paths = {"parquet": folder / "rows.parquet", "npy": folder / "rows.npy"}
    values = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
    parquet.write_table(
        pyarrow.table({"features": values}),
        paths["parquet"],
        row_group_size=chunk_rows,
        use_dictionary=False,
    )
    np.save(paths["npy"], features)
    return paths


def read_parquet(path: Path, chunk_rows: int) -> Iterator[Array]:
    """Yield the rows as pyarrow reads them."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(chunk_rows):
            values = batch.column(0).flatten().to_numpy()
            yield values.reshape(batch.num_rows, -1)


def read_npy(path: Path, chunk_rows: int) -> Iterator[Array]:
    """Yield the rows of a mapped file, each chunk copied into one buffer."""
    mapped = np.load(path, mmap_mode="r")
    buffer = np.empty((chunk_rows, mapped.shape[1]))
    for start in range(0, len(mapped), chunk_rows):
        part = mapped[start : start + chunk_rows]
        np.copyto(buffer[: len(part)], part)
        yield buffer[: len(part)]


READERS = {"parquet": read_parquet, "npy": read_npy}


def encode_all(chunks: Iterator[Array], out: Array) -> Iterator[Array]:
    """Yield the states of each chunk, in ``out``, which is reused."""
    n_qubits = states_of(out)[1]
    for features in chunks:
        yield qdp.encode(features, "amplitude", n_qubits, out=out[: len(features)])


def stream(path: Path, out: Array) -> Iterator[Array]:
    """Yield the states of a file's rows, in ``out``, which is reused."""
    chunks = qdp.open(path).chunks(len(out))
    return encode_all((chunk.features for chunk in chunks), out)


def count(chunks: Iterator[Array]) -> int:
    """Go through all chunks; return how many rows they had."""
    return sum(len(chunk) for chunk in chunks)


def stream_peak(path: Path, chunk_rows: int, n_qubits: int) -> int | None:
    """Stream a file; return this process's peak resident bytes, mapped files included."""
    count(stream(path, np.empty((chunk_rows, 2**n_qubits), complex)))
    return environment.peak_memory()


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the function returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure_stream(kind: str, path: Path, features: Array, sizes: Sizes, runs: int) -> list[Record]:
    """Time reading, encoding and streaming of a file in turns; return the records."""
    n_qubits, rows = sizes.stream_qubits, len(features)
    out = np.empty((sizes.chunk_rows, 2**n_qubits), complex)
    reader = READERS[kind]

    def in_memory() -> Iterator[Array]:
        for start in range(0, rows, sizes.chunk_rows):
            yield features[start : start + sizes.chunk_rows]

    for given, states in zip(in_memory(), stream(path, out), strict=True):
        expected = qdp.encode(given, "amplitude", n_qubits, backend="reference")
        require_equal(kind, states, expected)
    for given, read in zip(in_memory(), reader(path, sizes.chunk_rows), strict=True):
        require_equal(f"reading {kind}", read, given)
    contenders = [
        Contender("read", rows, lambda: count(reader(path, sizes.chunk_rows))),
        Contender("encode", rows, lambda: count(encode_all(in_memory(), out))),
        Contender("stream", rows, lambda: count(stream(path, out))),
    ]
    seconds = take_turns(contenders, runs)
    facts = {"format": kind, "n_qubits": n_qubits, "chunk_rows": sizes.chunk_rows}
    found = [measured("stream", one, seconds[one.name], **facts) for one in contenders]
    ideal = [a + b for a, b in zip(seconds["read"], seconds["encode"], strict=True)]
    fraction = statistics.ratio(ideal, seconds["stream"])
    found[-1] |= {
        "fraction_of_ideal": fraction.value,
        "fraction_interval": [fraction.low, fraction.high],
        "peak_resident_bytes": in_fresh_process(stream_peak, path, sizes.chunk_rows, n_qubits),
    }
    return found


def anonymous_bytes() -> int | None:
    """Return the anonymous memory of this process: not the pages of mapped files."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None
    )


def write_large(path: Path, n_bytes: int, width: int) -> int:
    """Write a .npy of about ``n_bytes``, one random block over and over; return its rows."""
    block = np.random.default_rng(42).normal(size=(2**26 // (8 * width), width))
    rows = max(1, n_bytes // block.nbytes) * len(block)
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(rows // len(block)):
            block.tofile(file)
    return rows


def stream_large(path: Path, chunk_rows: int, n_qubits: int) -> tuple[float, int | None, int]:
    """Stream a file to states; return seconds, peak anonymous bytes and rows."""
    out = np.empty((chunk_rows, 2**n_qubits), complex)
    peak, rows = anonymous_bytes(), 0
    start = time.perf_counter()
    for states in stream(path, out):
        rows += len(states)
        now = anonymous_bytes()
        peak = None if peak is None or now is None else max(peak, now)
    return time.perf_counter() - start, peak, rows


def measure_large(gib: float, folder: Path) -> Record:
    """Stream a file of that many GiB at n = 12 in a process of its own; return the record."""
    path = folder / "large.npy"
    rows = write_large(path, int(gib * 2**30), 2**12)
    try:
        seconds, peak, streamed = in_fresh_process(stream_large, path, 1024, 12)
        size = path.stat().st_size
    finally:
        path.unlink()
    if streamed != rows:
        raise RuntimeError(f"large stream: expected {rows} rows, got {streamed}")
    return {
        "record": "large-stream",
        "format": "npy",
        "contender": "stream",
        "n_qubits": 12,
        "chunk_rows": 1024,
        "rows": rows,
        "file_bytes": size,
        "seconds": [seconds],
        "us_per_row": 1e6 * seconds / rows,
        "us_per_row_interval": [1e6 * seconds / rows] * 2,
        "peak_anonymous_bytes": peak,
    }


def measure_cache(path: Path, features: Array, sizes: Sizes, runs: int) -> list[Record]:
    """Time a verified re-read of an entry, and a hit to its first batch; return the records."""
    n_qubits = sizes.stream_qubits
    with tempfile.TemporaryDirectory() as folder:

        def opened() -> qdp.StateCache:
            cache = qdp.StateCache(folder)
            cache.encode_all(qdp.open(path), "amplitude", n_qubits)
            return cache

        start = time.perf_counter()
        built = opened()
        build_s = time.perf_counter() - start
        places = np.linspace(0, len(features) - 1, 16).astype(int)
        expected = qdp.encode(features[places], "amplitude", n_qubits, backend="reference")
        require_equal("cache", built.get_states(places), expected)
        batch = min(256, len(features))
        contenders = [
            # A fresh cache checks every file before it hands out rows.
            Contender("re-read", len(features), lambda: list(opened().blocks(n_qubits))),
            Contender("verify", len(features), lambda: built.verify()),
            Contender("hit to first batch", batch, lambda: next(opened().chunks(batch))),
        ]
        seconds = take_turns(contenders, runs)
        facts = {
            "n_qubits": n_qubits,
            "storage": built.storage,
            "stored_bytes": built.stored_bytes,
            "source_rows": len(features),
            "build_s": build_s,
        }
        found = []
        for one in contenders:
            line = measured("cache", one, seconds[one.name], **facts)
            if one.name != "hit to first batch":
                median = statistics.median(seconds[one.name])
                line["bytes_per_s"] = built.stored_bytes / median
            found.append(line)
        return found


# The fidelity kernel


def measure_kernel(n_qubits: int, rows: int, kind: str, runs: int) -> list[Record]:
    """Time all squared overlaps of real or complex states; return the records."""
    import torch

    random = np.random.default_rng(42)
    states = random.normal(size=(rows, 2**n_qubits))
    if kind == "complex":
        states = states + 1j * random.normal(size=states.shape)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    tensor = torch.from_numpy(states)

    def with_numpy() -> Array:
        overlaps = states.conj() @ states.T
        squares: Array = np.square(overlaps.real)
        if kind == "complex":
            squares += np.square(overlaps.imag)
        return squares

    def with_torch() -> Any:
        overlaps = tensor.conj() @ tensor.T
        if kind == "real":
            return overlaps.square_()
        return torch.view_as_real(overlaps).square_().sum(-1)

    contenders = [
        Contender("qdp", rows, lambda: qdp.fidelity_kernel(states)),
        Contender("numpy", rows, with_numpy),
        Contender("torch", rows, with_torch),
    ]
    expected = np.empty((rows, rows))
    for row, state in enumerate(states):
        expected[row] = np.abs(np.einsum("ij,j->i", states, state.conj())) ** 2
    for one in contenders:
        require_equal(one.name, np.asarray(one.call()), expected)
    seconds = take_turns(contenders, runs)
    found = []
    for one in contenders:
        line = measured("kernel", one, seconds[one.name], n_qubits=n_qubits, dtype=kind)
        line["ns_per_pair"] = 1e3 * line["us_per_row"] / rows
        found.append(line)
    return found


def measure(sizes: Sizes, runs: int, folder: Path) -> Iterator[Record]:
    """Yield the records of all legs; files go to ``folder``."""
    _core.set_thread_count(environment.usable_cpus())
    # Features and states of the amplitude legs together.
    yield machine(sizes.state_bytes * 3 // 2)
    for encoding, n_qubits in sizes.encodings:
        yield from measure_encoding(encoding, n_qubits, sizes, runs)
    yield machine(sizes.state_bytes * 3 // 2)
    shape = (sizes.stream_rows, 2**sizes.stream_qubits)
    features = np.random.default_rng(42).normal(size=shape)
    paths = write_files(folder, features, sizes.chunk_rows)
    for kind, path in paths.items():
        yield from measure_stream(kind, path, features, sizes, runs)
    yield from measure_cache(paths["parquet"], features, sizes, runs)
    for kind in ("real", "complex"):
        yield from measure_kernel(sizes.kernel_qubits, sizes.kernel_rows, kind, runs)


def words(line: Record) -> str:
    """Return the line to print for one record."""
    if line["record"] == "machine":
        rates = line["triad_bytes_per_s"].items()
        return "triad " + ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates)
    what = line.get("encoding") or line.get("format") or line.get("dtype") or line["storage"]
    text = (
        f"{line['record']:9s} {what:14s} n = {line['n_qubits']:2d} {line['contender']:18s} "
        f"{line['us_per_row']:10.4g} us a row"
    )
    if "bytes_per_s" in line:
        text += f" {line['bytes_per_s'] / 1e9:6.2f} GB/s"
    if line.get("peak_anonymous_bytes"):
        text += f" {line['file_bytes'] / 2**30:.1f} GiB through "
        text += f"{line['peak_anonymous_bytes'] / 2**20:.0f} MiB"
    if "fraction_of_ideal" in line:
        text += f" {line['fraction_of_ideal']:.0%} of the ideal"
    return text


def main(arguments: list[str] | None = None) -> int:
    """Measure all legs and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes; to try the script")
    parser.add_argument(
        "--stream-gib",
        type=float,
        default=0.0,
        help="also stream a file of so many GiB, written to the folder of temporary files",
    )
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs: expected at least 1, got {options.runs}")
    versions = environment.versions(DISTRIBUTIONS)
    started = datetime.now()
    run = {"record": "run", "started": started.isoformat(), "quick": options.quick}
    lines = [{**run, "versions": versions, **environment.describe()}]
    with tempfile.TemporaryDirectory() as folder:
        sizes = QUICK if options.quick else FULL
        for line in measure(sizes, options.runs, Path(folder)):
            lines.append(line)
            print(words(line), flush=True)
        if options.stream_gib:
            lines.append(measure_large(options.stream_gib, Path(folder)))
            print(words(lines[-1]), flush=True)
    records.save_study(options.output_dir, started, "encoding_rates", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
