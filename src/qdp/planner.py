# SPDX-License-Identifier: Apache-2.0
"""What a run will cost, before it runs: normal form, layout, arithmetic, memory, and the best plan.

``explain`` says it in words, ``memory_estimate`` in bytes; ``plan`` chooses how rows reach the
engine. All describe the compiled CPU engine on this machine and compute no state. Arithmetic is
counted as real additions and multiplications (a fused multiply-add is two) that the method needs;
loads, stores and address work are not in it.
Letters: A = 2**n_qubits amplitudes of a state; a tile is what a thread works on at a time.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from qdp import encodings, gates, memory, opening
from qdp.circuit import Circuit, Observable, PauliTerm
from qdp.encodings import (
    Amplitude,
    Angle,
    Encoding,
    GateEncoding,
    PhaseEncoding,
    ProductEncoding,
)
from qdp.errors import BackendUnavailable
from qdp.memory import ALWAYS_ALLOWED, available_memory, format_bytes, parse_bytes
from qdp.program import PauliRotation, Program, Step, compile_program
from qdp.sources import ArraySource, Source, StoredArray

Precision = Literal["double", "single"]
Method = Literal["expectation", "state", "adjoint", "parameter-shift", "finite-difference", "spsa"]
Decision = Literal["fuse", "cache", "stream"]

# The engine's own numbers (native/engine.cpp); tests/test_planner.py holds them against its runs.
_ITEM_BYTES = {"double": 8, "single": 4}
_LINE_BYTES = {"avx512": 64, "avx512-split": 64, "avx2": 32, "sse4": 16, "base": 16}
_NARROW_LINE_BYTES = {"avx512": 32, "avx512-split": 32}
_TILE_BYTES = 512 * 2**10
_CHECKPOINT_BYTES = 48 * 2**20
_SHIFT_TABLE_BYTES = 128 * 2**20
_SAMPLE_QUBITS = {"double": 14, "single": 15}
_SPLIT_LINE_BITS = 12
_SAMPLE_QUBITS_FEW_ROWS = 9
_MOST_STEPS_SHOWN = 12
# No operation and no word of an observable has more bytes of tables than that for an amplitude.
_MOST_TABLE_BYTES = 64
# Results of shifted evaluations beyond this come in chunks (qdp.gradients).
_EVALUATION_BYTES = 64 * 2**20

# What plans are predicted from, besides rates measured in this process: benchmark/plan_choice.py
# holds the choices against the clock.
_ENGINE_OF_PEAK = 1 / 3  # docs/performance.md
_READ_OF_TRIAD = 3 / 4
_CALL_SECONDS = 1e-4
_CHUNK_BYTES = 64 * 2**20
# Files that fit into memory are read from there but for the first time; tables are decoded.
_KEPT_FILE_BYTES_PER_SECOND = 10e9
_DISK_BYTES_PER_SECOND = 1.5e9
_TABLE_BYTES_PER_SECOND = 0.3e9
# As in native/program.cpp: fewer Z words with an angle per row are applied one at a time.
_FEWEST_TABLE_WORDS = 3
# Building a cache hashes the features and writes to fresh memory, or to files with checksums.
_HASH_BYTES_PER_SECOND = 1.8e9
_FRESH_BYTES_PER_SECOND = 6e9
_FILE_WRITE_BYTES_PER_SECOND = 0.5e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run holds at most at a time: ``total`` is the sum of the parts.

    ``inputs`` are the caller's parameters, features and states, ``results`` what comes back,
    ``shared`` the tables that all threads read, ``per_thread`` the states each of ``threads``
    works on.

    >>> estimate = MemoryEstimate(inputs=2048, results=1024, shared=0, per_thread=4096, threads=2)
    >>> estimate.total
    11264
    >>> print(estimate)
    11.0 KiB: inputs 2.0 KiB, results 1.0 KiB, tables 0 B, work 2 x 4.0 KiB
    """

    inputs: int
    results: int
    shared: int
    per_thread: int
    threads: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.inputs + self.results + self.shared + self.threads * self.per_thread

    def __str__(self) -> str:
        return (
            f"{format_bytes(self.total)}: inputs {format_bytes(self.inputs)}, results "
            f"{format_bytes(self.results)}, tables {format_bytes(self.shared)}, work "
            f"{self.threads} x {format_bytes(self.per_thread)}"
        )


def memory_estimate(
    circuit: Circuit,
    *,
    rows: int,
    method: Method = "adjoint",
    precision: Precision = "double",
    encoding: str | Encoding | None = None,
) -> MemoryEstimate:
    """Return the bytes that a run of ``circuit`` over ``rows`` rows holds at most, running nothing.

    ``method`` is a gradient method, all derivatives by parameters of one Pauli observable, or
    "expectation" or "state". ``encoding`` says what the rows are: as many features as it allows
    ("amplitude" real ones in the precision's dtype, others of 8 bytes), None complex states.

    Raises:
        TypeError: ``circuit`` is no Circuit, ``encoding`` neither a name nor an Encoding.
        ValueError: an unknown method, precision or encoding, or a negative number of rows.
        BackendUnavailable: the compiled extension, whose work this is, can't be imported.

    >>> import qdp
    >>> circuit = qdp.ansatz.ry_rz_ladder(n_qubits=4, n_layers=1)
    >>> memory_estimate(circuit, rows=1000, encoding="amplitude").inputs
    128064
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    run = _Run.of(circuit, (), rows, encoding, precision, apply_frame=method == "state")
    return run.memory(method)


def explain(
    circuit: Circuit,
    observable: Observable | str | Sequence[Observable | str] | None = None,
    *,
    rows: Any = 1,
    encoding: str | Encoding | None = None,
    prune: bool = False,
    precision: Precision = "double",
    reuse: int = 1,
    memory: int | str | None = None,
) -> str:
    """Return in words how the engine would run ``circuit``: what was rewritten, what it costs.

    It names the normal form and its steps, the operations that fell outside it and their price,
    the layout chosen for ``rows`` rows, arithmetic and bytes a row, and the memory held.
    ``observable`` None is a run for states. ``encoding`` is as in ``memory_estimate``, ``prune`` as
    in ``qdp.expectation``. Where ``rows`` are not a number but rows, anything that ``plan`` takes,
    the plan for ``reuse`` passes with ``memory`` is shown too: for adjoint gradients, or for values
    with several observables or a circuit without parameters.

    Raises:
        TypeError: ``circuit`` is no Circuit, ``encoding`` neither a name nor an Encoding.
        ValueError: an unknown precision or encoding, a negative number of rows, an observable
            whose text can't be read or that reads a wire outside the circuit; what ``plan`` raises.
        BackendUnavailable: the compiled extension, whose work this is, can't be imported.

    >>> import qdp
    >>> text = explain(qdp.ansatz.ry_rz_ladder(n_qubits=4, n_layers=1), "Z0", rows=100)
    >>> print(text.splitlines()[1])
    normal form   8 rotations in 2 steps; 3 Clifford gates cost no pass
    """
    observables = _observables(observable)
    plan_lines = []
    if not isinstance(rows, numbers.Integral):
        rows = _rows_of(rows)
        gradient = len(observables) == 1 and isinstance(circuit, Circuit) and circuit.n_parameters
        found = _plan(
            circuit,
            rows,
            observables,
            encoding,
            reuse,
            memory,
            "adjoint" if gradient else "expectation",
            precision,
            prune,
        )
        plan_lines = str(found).splitlines()
        rows = len(rows)
    run = _Run.of(
        circuit, observables, rows, encoding, precision, apply_frame=not observables, prune=prune
    )
    return "\n".join(
        [
            run.circuit_line(),
            *run.encoding_lines(),
            run.normal_form_line(),
            *run.pruned_lines(),
            *run.step_lines(),
            *run.outside_lines(),
            *run.observable_lines(),
            run.layout_line(),
            *run.work_lines(),
            *run.memory_lines(),
            *plan_lines,
        ]
    )


@dataclass(frozen=True)
class Option:
    """One way to run: predicted ``seconds`` in all, and the ``n_bytes`` of rows that it keeps.

    ``place`` is where the rows wait between passes: "memory", "files" (of a cache) or "source",
    which keeps none. ``seconds`` is infinite for an option that would not fit.
    """

    seconds: float
    n_bytes: int
    place: Literal["memory", "files", "source"]


@dataclass(frozen=True)
class Plan:
    """How rows should reach the engine: the ``decision``, the three options, and the ``reason``.

    >>> plan = Plan(
    ...     "fuse",
    ...     fuse=Option(1.0, 0, "source"),
    ...     cache=Option(3.0, 2048, "memory"),
    ...     stream=Option(1.5, 1024, "source"),
    ...     reason="it has nothing to build",
    ... )
    >>> print(plan)
    plan          fuse: it has nothing to build
                  fuse 1 s, keeps 0 B (source)
                  cache 3 s, keeps 2.0 KiB (memory)
                  stream 1.5 s, keeps 1.0 KiB (source)
    """

    decision: Decision
    fuse: Option
    cache: Option
    stream: Option
    reason: str

    @property
    def options(self) -> dict[Decision, Option]:
        """The three options by name."""
        return {"fuse": self.fuse, "cache": self.cache, "stream": self.stream}

    def __str__(self) -> str:
        lines = [f"plan          {self.decision}: {self.reason}"]
        for name, option in self.options.items():
            need = f"{format_bytes(option.n_bytes)} ({option.place})"
            if math.isinf(option.seconds):
                lines.append(f"              {name} does not fit: it would keep {need}")
            else:
                lines.append(f"              {name} {_seconds(option.seconds)}, keeps {need}")
        return "\n".join(lines)


def plan(
    circuit: Circuit,
    source: Any,
    observable: Observable | str | None = None,
    *,
    encoding: str | Encoding,
    reuse: int = 1,
    memory: int | str | None = None,
    method: Method = "adjoint",
    precision: Precision = "double",
) -> Plan:
    """Choose how the rows of ``source`` reach the engine in ``reuse`` passes over all of them.

    ``fuse`` gives raw features in memory to every call, which encodes them inside; ``cache``
    encodes them once into a ``StateCache`` and gives that; ``stream`` reads them from the source
    anew in every pass, chunk by chunk. ``source`` is a ``Source`` or what ``qdp.open`` takes:
    rows (n, F). ``reuse`` counts epochs times calls. ``memory`` is the budget for rows kept between
    and during calls, in bytes or as text such as "4GiB", None what is available; the engine's own
    work (``memory_estimate``) comes on top. ``observable`` None is a run for states, whatever the
    method. Seconds come from the arithmetic that ``explain`` counts and from rates of this
    machine, measured once for some hundredths of a second; they are good for the choice, no more.

    Raises:
        TypeError: ``circuit`` is no Circuit, ``encoding`` neither a name nor an Encoding, ``reuse``
            no whole number.
        ValueError: an option out of its range, a source of unknown length or with more features
            than the encoding takes, or a budget below one row.
        BackendUnavailable: the compiled extension, whose work this is, can't be imported.

    >>> import numpy as np, qdp
    >>> circuit = qdp.ansatz.ry_rz_ladder(n_qubits=10, n_layers=2)
    >>> plan(circuit, np.ones((500, 1024)), "Z0", encoding="amplitude").decision
    'fuse'
    >>> costly = qdp.encodings.ZZFeatureMap(reps=20)
    >>> plan(circuit, np.ones((500, 10)), "Z0", encoding=costly, reuse=100).decision
    'cache'
    """
    rows = _rows_of(source)
    observables = _observables(observable)
    return _plan(
        circuit, rows, observables, encoding, reuse, memory, method, precision, prune=False
    )


def require_memory(
    circuit: Circuit,
    observables: tuple[Observable, ...],
    *,
    rows: int,
    method: Method,
    precision: Precision,
    encoding: Encoding | None,
    prune: bool,
) -> None:
    """Raise MemoryError if what a run holds besides its arguments would not fit.

    The same numbers as ``memory_estimate``'s; a run that is small by any count isn't looked at.
    """
    n_groups = sum(
        1 if isinstance(term, PauliTerm) else 2 ** len(term.wires)
        for observable in observables
        for term in observable.components
    )
    most = (len(circuit.operations) + n_groups + 8) * _MOST_TABLE_BYTES << circuit.n_qubits
    results = 8 * rows * (len(observables) + 1) * (circuit.n_parameters + circuit.n_inputs + 1)
    if method == "parameter-shift":
        results += 64 * rows * len(circuit.operations)
    if most + results <= ALWAYS_ALLOWED:
        return
    what = f"{method} of {rows} row{'s' * (rows != 1)} of {circuit.n_qubits} qubits"
    # The normal form may hold tables of its own: not to be made where not even two states fit.
    memory.require_memory(
        4 * _ITEM_BYTES[precision] << circuit.n_qubits,
        what,
        "use fewer qubits, or precision='single'",
    )
    run = _Run.of(circuit, observables, rows, encoding, precision, method == "state", prune=prune)
    found = run.memory(method)
    # Other results are for the verbs to count, which know what they give back.
    results = found.results if method == "expectation" else 0
    parts = {
        "results": results,
        "tables that all threads read": found.shared,
        f"states that {found.threads} threads work on": found.threads * found.per_thread,
    }
    largest = max(parts, key=lambda name: parts[name])
    memory.require_memory(
        sum(parts.values()),
        what,
        f"most of it are the {largest}, {format_bytes(parts[largest])}: pass fewer rows at a time, "
        "use fewer qubits or threads, or precision='single'",
    )


def operations(
    circuit: Circuit,
    observable: Observable | str,
    *,
    rows: int = 1,
    encoding: str | Encoding | None = None,
    method: Literal["expectation", "adjoint", "parameter-shift"] = "adjoint",
    precision: Precision = "double",
) -> int:
    """Return the additions and multiplications that one row costs, as ``explain`` counts them.

    Raises what ``explain`` raises, and ValueError for another method.

    >>> import qdp
    >>> operations(qdp.ansatz.ry_rz_ladder(12, 2), "Z0", rows=999, encoding="amplitude")
    925696
    """
    one = Observable(observable) if isinstance(observable, str) else observable
    run = _Run.of(circuit, (one,), rows, encoding, precision, apply_frame=False)
    if method not in ("expectation", "adjoint", "parameter-shift"):
        raise ValueError(
            f"method: expected 'expectation', 'adjoint' or 'parameter-shift', got {method!r}"
        )
    return run.flops(method)


# The choice


@dataclass(frozen=True)
class _Rates:
    """What the machine does in a second: double-precision operations, bytes of a triad."""

    flops: float
    n_bytes: float

    @staticmethod
    @functools.cache
    def here(threads: int) -> _Rates:
        """Measure them, once for a number of threads."""
        from qdp.backends import cpu

        core = vars(cpu)["_core"]
        assert core.thread_count() == threads
        return _Rates(2 * core.fma_rate(0.02), core.triad_rate(128 * 2**20, 0.02, False))


def _observables(
    observable: Observable | str | Sequence[Observable | str] | None,
) -> tuple[Observable, ...]:
    given: Sequence[Observable | str]
    if observable is None:
        given = ()
    elif isinstance(observable, Observable | str):
        given = (observable,)
    else:
        given = observable
    return tuple(Observable(one) if isinstance(one, str) else one for one in given)


def _rows_of(source: Any) -> Source:
    rows = source if isinstance(source, Source) else opening.open(source)
    if rows.n_rows is None:
        raise ValueError(
            f"source: expected one of known length, got {type(rows).__name__}, whose rows are "
            "counted only by reading them; write it as .npy or .parquet first"
        )
    return rows


def _plan(
    circuit: Circuit,
    source: Source,
    observables: tuple[Observable, ...],
    encoding: str | Encoding | None,
    reuse: int,
    budget: int | str | None,
    method: Method,
    precision: Precision,
    prune: bool,
) -> Plan:
    if encoding is None:
        raise ValueError("encoding: expected one for the rows of a source, got None")
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    if operator.index(reuse) < 1:
        raise ValueError(f"reuse: expected at least 1 pass, got {reuse}")
    limit = available_memory() if budget is None else parse_bytes(budget)
    chosen = encodings.from_name(encoding)
    n_rows = len(source)
    done: Method = method if observables else "state"
    fused, encoded = (
        _Run.of(circuit, observables, n_rows, rows, precision, done == "state", prune)
        for rows in (chosen, None)
    )
    if source.n_features > chosen.n_features(circuit.n_qubits):
        raise ValueError(
            f"source: expected at most {chosen.n_features(circuit.n_qubits)} features a row for "
            f"{chosen.name!r} on {circuit.n_qubits} qubits, got {source.n_features}"
        )
    row_bytes = source.n_features * source.dtype.itemsize
    if limit is not None and row_bytes > limit:
        raise ValueError(
            f"memory: expected at least one row, {format_bytes(row_bytes)}, got "
            f"{format_bytes(limit)}; give more"
        )
    rates = _Rates.here(fused.machine.threads)
    flop_rate = rates.flops * _ENGINE_OF_PEAK * (2 if precision == "single" else 1)
    memory_rate = rates.n_bytes * _READ_OF_TRIAD

    raw_bytes = n_rows * row_bytes
    state_bytes = 2 * fused.item * fused.amplitudes
    # As StateCache chooses: raw real rows and their norms where those are smaller.
    compact = (
        isinstance(chosen, Amplitude) and source.dtype.kind in "biuf" and row_bytes < state_bytes
    )
    stored_bytes = n_rows * (row_bytes + 8 if compact else state_bytes)
    chunk_bytes = min(_CHUNK_BYTES, raw_bytes, _CHUNK_BYTES if limit is None else limit)

    in_memory = _in_memory(source)
    read = 0.0 if in_memory else raw_bytes / _source_rate(source, raw_bytes)
    fused_pass = n_rows * fused.flops(done) / flop_rate + raw_bytes / memory_rate
    ran = fused if compact else encoded
    cached_pass = n_rows * ran.flops(done) / flop_rate + _calls(stored_bytes, _CHUNK_BYTES)

    fits = in_memory or limit is None or raw_bytes <= limit
    fuse = Option(
        read + reuse * (fused_pass + _CALL_SECONDS) if fits else math.inf,
        0 if in_memory else raw_bytes,
        "source" if in_memory else "memory",
    )
    build = read + raw_bytes / _HASH_BYTES_PER_SECOND
    cached_pass += stored_bytes / memory_rate
    if limit is None or stored_bytes <= limit:
        build += stored_bytes / _FRESH_BYTES_PER_SECOND
        cache = Option(build + reuse * cached_pass, stored_bytes, "memory")
    else:
        build += stored_bytes / _FILE_WRITE_BYTES_PER_SECOND
        cached_pass += stored_bytes / _file_rate(stored_bytes)
        cache = Option(build + reuse * cached_pass, stored_bytes, "files")
    stream = Option(
        reuse * (read + (fused_pass + _calls(raw_bytes, chunk_bytes))),
        chunk_bytes,
        "source",
    )
    options: dict[Decision, Option] = {"fuse": fuse, "cache": cache, "stream": stream}
    decision = min(options, key=lambda name: options[name].seconds)
    passes = _count(reuse, "pass", "passes")
    saved = [] if in_memory else ["reading the source"]
    if (more := fused.flops(done) - ran.flops(done)) > 0:
        saved.append(f"{_flops(more)} a row for the encoding")
    if stored_bytes < raw_bytes:
        saved.append(f"{format_bytes((raw_bytes - stored_bytes) / n_rows)} a row to load")
    where = (
        "are in memory already"
        if in_memory
        else f"({format_bytes(raw_bytes)}) fit the budget, so the source is read once"
    )
    reason = {
        "fuse": f"the features {where}, and encoding inside the run costs less in {passes} than "
        "building a cache",
        "cache": f"one build saves {' and '.join(saved)} in {passes}",
        "stream": f"the features ({format_bytes(raw_bytes)}) do not fit the budget, and reading "
        f"them in {passes} costs less than building a cache",
    }[decision]
    return Plan(decision, fuse, cache, stream, reason)


def _in_memory(source: Source) -> bool:
    """Whether the rows are an array that the caller holds, not read from any file."""
    return isinstance(source, ArraySource) or (
        isinstance(source, StoredArray) and source.random_access and source.identity is None
    )


def _source_rate(source: Source, n_bytes: int) -> float:
    """Bytes of features that a source outside memory gives in a second."""
    if isinstance(source, StoredArray):
        return _file_rate(n_bytes)
    return min(_TABLE_BYTES_PER_SECOND, _file_rate(n_bytes))


def _file_rate(n_bytes: int) -> float:
    """Bytes a second of files of arrays, ``n_bytes`` in all, read again and again."""
    available = available_memory()
    kept = available is None or n_bytes <= available
    return _KEPT_FILE_BYTES_PER_SECOND if kept else _DISK_BYTES_PER_SECOND


def _calls(n_bytes: int, chunk_bytes: int) -> float:
    """Seconds that calls of the engine take by themselves, one a chunk."""
    return _CALL_SECONDS * max(1, -(-n_bytes // max(1, chunk_bytes)))


# The machine and the layout


@dataclass(frozen=True)
class _Machine:
    """The instruction set and the number of threads that the engine would use."""

    isa: str
    threads: int

    @staticmethod
    def here() -> _Machine:
        try:
            from qdp.backends import cpu
        except ImportError as error:
            raise BackendUnavailable(
                f"planning needs QDP's compiled extension, which can't be imported ({error}); "
                "install the package"
            ) from error
        core = vars(cpu)["_core"]
        return _Machine(core.instruction_set(), core.thread_count())


@dataclass(frozen=True)
class Layout:
    """How rows lie in vector registers: "batch", one row a lane, or "sample", a row's amplitudes.

    ``lanes`` numbers fill a register. A tile, ``lanes`` rows or one row, is what a thread works on;
    ``tile_bytes`` is one state of each of its rows. ``threads`` tiles are worked on at a time, or
    one by all threads where ``splits_rows``.
    """

    name: Literal["batch", "sample"]
    lanes: int
    tile_bytes: int
    threads: int
    splits_rows: bool


def choose_layout(n_qubits: int, rows: int, precision: Precision, isa: str, threads: int) -> Layout:
    """Return the engine's choice: a row's own amplitudes along the lanes if n is large or rows few.

    >>> choose_layout(12, 1000, "double", "avx512", 2).name
    'batch'
    >>> choose_layout(16, 1000, "double", "avx512", 2).name
    'sample'
    """
    item = _ITEM_BYTES[precision]
    lanes = _LINE_BYTES[isa] // item
    lane_bits = lanes.bit_length() - 1
    state_bytes = 2 * item * 2**n_qubits
    if n_qubits >= lane_bits + 3 and (
        n_qubits >= _SAMPLE_QUBITS[precision]
        or (n_qubits >= _SAMPLE_QUBITS_FEW_ROWS and 2 * rows <= lanes)
    ):
        splits = rows < threads and n_qubits - lane_bits >= _SPLIT_LINE_BITS
        workers = 1 if splits else max(1, min(threads, rows))
        return Layout("sample", lanes, state_bytes, workers, splits)
    if state_bytes * lanes > _TILE_BYTES:
        lanes = _NARROW_LINE_BYTES.get(isa, _LINE_BYTES[isa]) // item
    workers = max(1, min(threads, -(-rows // lanes)))
    return Layout("batch", lanes, state_bytes * lanes, workers, False)


# One run


@dataclass(frozen=True)
class _Run:
    """A circuit in normal form, with everything that its costs depend on."""

    circuit: Circuit
    program: Program
    observables: tuple[Observable, ...]
    rows: int
    encoding: Encoding | None
    precision: Precision
    machine: _Machine
    layout: Layout

    @staticmethod
    def of(
        circuit: Circuit,
        observables: tuple[Observable, ...],
        rows: int,
        encoding: str | Encoding | None,
        precision: Precision,
        apply_frame: bool,
        prune: bool = False,
    ) -> _Run:
        if not isinstance(circuit, Circuit):
            raise TypeError(f"circuit: expected a qdp.Circuit, got {type(circuit).__name__}")
        if precision not in _ITEM_BYTES:
            raise ValueError(f"precision: expected 'double' or 'single', got {precision!r}")
        if rows < 0:
            raise ValueError(f"rows: expected 0 or more, got {rows}")
        for one in observables:
            if one.max_wire >= circuit.n_qubits:
                raise ValueError(
                    f"observable: expected wires from 0 to {circuit.n_qubits - 1}, got wire "
                    f"{one.max_wire} in {one}"
                )
        chosen = None if encoding is None else encodings.from_name(encoding)
        machine = _Machine.here()
        return _Run(
            circuit,
            compile_program(circuit, observables, apply_frame, prune),
            observables,
            rows,
            chosen,
            precision,
            machine,
            choose_layout(circuit.n_qubits, rows, precision, machine.isa, machine.threads),
        )

    # Sizes

    @property
    def item(self) -> int:
        return _ITEM_BYTES[self.precision]

    @property
    def amplitudes(self) -> int:
        return int(2**self.circuit.n_qubits)

    @property
    def input_bytes(self) -> int:
        """Bytes that one row brings."""
        if self.encoding is None:
            features = 2 * self.item * self.amplitudes
        else:
            item = self.item if isinstance(self.encoding, Amplitude) else 8
            features = item * self.encoding.n_features(self.circuit.n_qubits)
        return features + 8 * self.circuit.n_inputs

    def result_bytes(self, method: Method) -> int:
        """Bytes that one row gives back, for one observable."""
        if method == "state":
            return 2 * self.item * self.amplitudes
        return self.item * (1 if method == "expectation" else 1 + self.circuit.n_parameters)

    @cached_property
    def n_evaluations(self) -> dict[Method, int]:
        """Expectation values that the methods without a backward walk ask for, unshifted included.

        SPSA: for one direction.
        """
        return {
            "parameter-shift": 1 + sum(n for _, _, n in self.shifted_angles()),
            "finite-difference": 1 + 2 * self.circuit.n_parameters,
            "spsa": 3,
        }

    def shifted_angles(self) -> Iterator[tuple[int, int, int]]:
        """Yield operation, slot and number of shifts of each angle that reads a parameter."""
        for number, operation in enumerate(self.circuit.operations):
            frequencies = gates.TABLE[operation.name].frequencies
            for slot, angle in enumerate(operation.angles):
                pruned = self.program.pruned and not self.program.rotations_of(number, slot)
                if angle.kind == "parameter" and angle.scale != 0 and not pruned:
                    yield number, slot, 2 * len(frequencies[slot])

    # Structure

    def varies(self, rotation: PauliRotation) -> bool:
        """Whether the rotation has an angle of its own in every lane."""
        return self.layout.name == "batch" and rotation.angle.kind == "input"

    def rotations(self, step: Step) -> list[PauliRotation]:
        return [self.program.rotations[index] for index in step.rotations]

    def has_gradient(self, step: Step) -> bool:
        return any(rotation.angle.kind != "constant" for rotation in self.rotations(step))

    @cached_property
    def checkpoints(self) -> frozenset[int]:
        """Numbers of the states on the way that gradients start from.

        A backward walk and shifted evaluations want the state behind a step of rotations and the
        one before a diagonal.
        """
        return frozenset(
            number + (step.kind != "diagonal")
            for number, step in enumerate(self.program.steps)
            if self.has_gradient(step)
        )

    def recomputes(self, method: Method) -> bool:
        """Whether states on the way are computed anew, since keeping them takes too much."""
        kept = self.checkpoints
        if method != "adjoint":
            kept = kept | {len(self.program.steps)}
        return len(kept) * self.layout.tile_bytes > _CHECKPOINT_BYTES

    def states_at_work(self, method: Method) -> int:
        """States of a tile that a thread holds at most: psi, a spare one, kept ones, lambda."""
        if method in ("expectation", "state"):
            return 2
        kept = len(self.checkpoints - {len(self.program.steps)})
        return 3 + (method == "adjoint" if self.recomputes(method) else kept)

    # Memory

    def memory(self, method: Method) -> MemoryEstimate:
        n_rotations = len(self.program.rotations)
        lanes, tile = self.layout.lanes, self.layout.tile_bytes
        per_thread = self.states_at_work(method) * tile + tile // 16
        if self.layout.name == "batch":
            # Rows to be converted before they are laid side by side, and angles of their own.
            per_thread += tile + n_rotations * lanes * (8 + 4 * self.item)
            if any(self.varies(rotation) for rotation in self.program.rotations):
                per_thread += tile  # phases of every row
        per_thread += self.preparation_bytes
        if method == "adjoint":
            parts = self.machine.threads if self.layout.splits_rows else 1
            per_thread += parts * (n_rotations + 1) * lanes * self.item
        return MemoryEstimate(
            inputs=self.rows * self.input_bytes + 8 * self.circuit.n_parameters,
            results=self.rows * self.result_bytes(method) * max(1, len(self.observables)),
            shared=self.table_bytes()
            + self.evaluation_bytes(method)
            + self.rows * self.preparation_row_bytes,
            per_thread=per_thread,
            threads=self.layout.threads,
        )

    @property
    def preparation_bytes(self) -> int:
        """Bytes that a thread holds to work out the states of an encoding as it loads rows."""
        if not isinstance(self.encoding, GateEncoding):
            return 0
        phases = isinstance(self.encoding, PhaseEncoding)
        again = isinstance(self.encoding, PhaseEncoding) and self.encoding.repeats > 1
        if self.layout.name == "batch":  # in the tile itself, beside products of phases and a table
            return (self.layout.tile_bytes // 2 if phases else 0) + again * self.layout.tile_bytes
        # A whole row's state, and its tables in double precision.
        tables = (6 if again else 3) if phases else 0
        return (2 * self.item + 8 * tables) * self.amplitudes

    @property
    def preparation_row_bytes(self) -> int:
        """Bytes of the numbers that such a state is worked out of."""
        n = self.circuit.n_qubits
        if isinstance(self.encoding, ProductEncoding):
            return 32 * n
        return 8 * (1 + n * (n + 1) // 2) if isinstance(self.encoding, PhaseEncoding) else 0

    def table_bytes(self) -> int:
        """Phases of diagonals, addresses of lines, the observable, frames and constant matrices."""
        n_tables = sum(
            any(not self.varies(rotation) for rotation in self.rotations(step))
            for step in self.program.steps
            if step.kind == "diagonal"
        )
        tables = 2 * self.item * n_tables + (8 if n_tables else 0)
        addresses = 12 if self.layout.name == "batch" else 0
        parts = sum(1 + bool(group.c.imag.any()) for group in self.program.groups)
        observable = (8 + self.item) * max(1, parts)
        constants = (32 + 2 * self.item) * len(self.program.tables)
        permutations = 10 * len(self.program.permutations)
        dense = sum(
            dense.matrix.size * (32 + 4 * self.item) + 4 * self.amplitudes >> len(dense.bits)
            for dense in self.program.denses
        )
        each = tables + addresses + observable + constants + permutations
        return each * self.amplitudes + dense

    def evaluation_bytes(self, method: Method) -> int:
        """Tables of phases with shifts in them, shifted values and their weighted sums."""
        if method not in self.n_evaluations:
            return 0
        n = self.n_evaluations[method]
        n_observables = max(1, len(self.observables))
        tables = n * 2 * self.amplitudes * self.item
        values = self.item * self.rows * n_observables * n
        if values > _EVALUATION_BYTES:
            values = min(values, max(_EVALUATION_BYTES, (available_memory() or 0) // 4))
        return (
            (tables if tables <= _SHIFT_TABLE_BYTES else 0)
            + values
            # The sums in double, observables first, and their copy in the order of results.
            + 16 * self.rows * n_observables * self.circuit.n_parameters
        )

    # Arithmetic

    def is_real(self, start: int, real: bool) -> list[bool]:
        """Whether the state is still real before each step from ``start`` on, and at the end."""
        found = [real]
        for step in self.program.steps[start:]:
            found.append(found[-1] and self.keeps_real(step))
        return found

    def keeps_real(self, step: Step) -> bool:
        return step.kind == "rotations" and all(map(_is_real_matrix, self.rotations(step)))

    def step_flops(self, step: Step, real: bool = False) -> int:
        """Operations that a step costs one row, applied or undone."""
        size = self.amplitudes
        if step.kind == "rotations":
            planes = 1 if real and self.keeps_real(step) else 2
            return sum(
                (3 if self.varies(rotation) else 2) * planes * size
                for rotation in self.rotations(step)
            )
        if step.kind == "diagonal":
            words = [rotation.z for rotation in self.rotations(step) if self.varies(rotation)]
            table = 0 if len(words) == len(step.rotations) else 2 if real else 6
            n_tables, alone = _row_tables(words)
            # A table of phases of every row is made by doubling, then applied.
            return (table + (12 + 6) * n_tables + 6 * alone) * size
        if step.kind == "dense":
            dense = self.program.denses[step.item]
            return 8 * size << len(dense.bits) >> dense.control_mask.bit_count()
        return 6 * size if step.kind == "table" else 0

    def observable_flops(self, real: bool) -> int:
        planes = 1 if real else 2
        return sum(
            (5 if group.c.imag.any() else 3) * planes * self.amplitudes
            for group in self.program.groups
        )

    def value_flops(self, start: int, real: bool) -> int:
        """Operations a row from the state before step ``start`` to the values, if there are any."""
        *before, end = self.is_real(start, real)
        steps = self.program.steps[start:]
        walk = sum(self.step_flops(step, flag) for step, flag in zip(steps, before, strict=True))
        return walk + self.observable_flops(end)

    @property
    def starts_real(self) -> bool:
        """Whether rows enter as real numbers."""
        if isinstance(self.encoding, Angle):
            return self.encoding.rotation == "Y"
        return self.encoding is not None and not isinstance(self.encoding, GateEncoding)

    @property
    def preparation_flops(self) -> int:
        """Operations a row for an encoding whose states are worked out as the rows are loaded."""
        if isinstance(self.encoding, ProductEncoding):  # every number twice, by doubling
            return (2 if self.starts_real else 12) * self.amplitudes
        if isinstance(self.encoding, PhaseEncoding):  # two tables by doubling, then the rounds
            again, closes = self.encoding.repeats - 1, self.encoding.closes
            transforms = 2 * self.circuit.n_qubits * (again + closes)
            return (12 + transforms + 6 * again + 2 * closes) * self.amplitudes
        return 0

    def flops(self, method: Method) -> int:
        """Operations a row for what the method gives."""
        if method in ("expectation", "state"):
            return self.forward_flops()
        if method == "adjoint":
            return self.adjoint_flops()
        if method == "parameter-shift":
            return self.shift_flops()
        # The rows are loaded once.
        values = self.value_flops(0, self.starts_real)
        return self.preparation_flops + self.n_evaluations[method] * values

    def forward_flops(self) -> int:
        """Operations a row for values, or states."""
        return self.preparation_flops + self.value_flops(0, self.starts_real)

    def adjoint_flops(self) -> int:
        """Operations a row for values and all gradients."""
        real = self.is_real(0, self.starts_real)
        size = self.amplitudes
        recomputes = self.recomputes("adjoint")
        total = self.forward_flops()
        first = next(
            (i for i, step in enumerate(self.program.steps) if self.has_gradient(step)), None
        )
        if first is None:
            return total
        for number in range(len(self.program.steps) - 1, first - 1, -1):
            step = self.program.steps[number]
            if number > first or step.kind == "diagonal":
                total += (2 if recomputes else 1) * self.step_flops(step)
            if not self.has_gradient(step):
                continue
            if step.kind == "diagonal":  # one inner product an amplitude, then a tree of sums
                total += (3 if real[number] and not recomputes else 5) * size
            else:
                planes = 1 if real[number + 1] and not recomputes else 2
                total += 2 * planes * size * len(step.rotations)
        return total

    def shift_flops(self) -> int:
        """Operations a row for values and all shifted ones, each from the first step it changes.

        A shift in a table of phases costs no row anything; elsewhere it is one more rotation.
        """
        total = self.forward_flops()
        real = self.is_real(0, self.starts_real)
        step_of = {
            index: number
            for number, step in enumerate(self.program.steps)
            for index in step.rotations
        }
        for operation, slot, n_shifts in self.shifted_angles():
            changed = self.program.rotations_of(operation, slot)
            if not changed:  # a global phase
                continue
            start = min(step_of[index] for index in changed)
            first = self.program.steps[start]
            if first.kind == "diagonal" and not any(map(self.varies, self.rotations(first))):
                once = self.value_flops(start, real[start])
            else:
                stays = real[start + 1] and all(
                    _is_real_matrix(self.program.rotations[index]) for index in changed
                )
                turned = (3 if stays else 6) * self.amplitudes * len(changed)
                once = turned + self.value_flops(start + 1, stays)
            total += n_shifts * once
        return total

    # Words

    def circuit_line(self) -> str:
        circuit = self.circuit
        return (
            f"circuit       {_count(circuit.n_qubits, 'qubit')}, "
            f"{_count(len(circuit.operations), 'operation')}, "
            f"{_count(circuit.n_parameters, 'parameter')}, "
            f"{_count(circuit.n_inputs, 'input')}"
        )

    def encoding_lines(self) -> list[str]:
        """How an encoding that is worked out at the load becomes states, if there is one."""
        if not self.preparation_flops:
            return []
        assert self.encoding is not None
        return [
            f"encoding      {self.encoding.name}: states worked out as rows are loaded, "
            f"{_flops(self.preparation_flops)} a row"
        ]

    def normal_form_line(self) -> str:
        primitives = [part for one in self.circuit.operations for part in gates.decompose(one)]
        n_cliffords = sum(isinstance(part, gates.Clifford) for part in primitives)
        line = (
            f"normal form   {_count(len(self.program.rotations), 'rotation')} in "
            f"{_count(len(self.program.steps), 'step')}"
        )
        if not n_cliffords:
            return line
        line += f"; {_count(n_cliffords, 'Clifford gate')}"
        applied = len(self.program.permutations)
        if not applied:
            return f"{line} cost no pass"
        turned = sum(rotation.operation < 0 for rotation in self.program.rotations)
        hadamards = f", {_count(turned, 'Hadamard')}" if turned else ""
        return f"{line} (applied: {_count(applied, 'permutation')}{hadamards})"

    def pruned_lines(self) -> list[str]:
        """How many rotations and matrices were left out, if any."""
        places = self.program.pruned
        if not places:
            return []
        parts = [gates.decompose(self.circuit.operations[number])[part] for number, part in places]
        n_rotations = sum(isinstance(part, gates.Rotation) for part in parts)
        n_matrices = len(parts) - n_rotations
        left_out = [_count(n_rotations, "rotation")] if n_rotations else []
        if n_matrices:
            left_out.append(_count(n_matrices, "constant matrix", "constant matrices"))
        return [f"pruned        {' and '.join(left_out)} that change no value"]

    def step_lines(self) -> list[str]:
        lines = []
        for number, step in enumerate(self.program.steps[:_MOST_STEPS_SHOWN]):
            n = len(step.rotations)
            what = {
                "rotations": _count(n, "commuting rotation"),
                "diagonal": f"{_count(n, 'rotation')} about Z words: a table of phases",
                "dense": "constant matrix",
                "permutation": "Clifford gates applied: amplitudes move, no arithmetic",
                "table": "constant diagonal",
            }[step.kind]
            lines.append(f"  step {number + 1:<3}    {what}")
        left = len(self.program.steps) - _MOST_STEPS_SHOWN
        return [*lines, f"  and {left} more"] if left > 0 else lines

    def outside_lines(self) -> list[str]:
        """Operations that are neither rotations nor Cliffords, and what each costs a row."""
        whole = [
            operation
            for number, operation in enumerate(self.circuit.operations)
            if any(
                isinstance(part, gates.Dense | gates.Diagonal)
                and (number, place) not in self.program.pruned
                for place, part in enumerate(gates.decompose(operation))
            )
        ]
        if not whole:
            return ["outside       nothing: only Pauli rotations and Clifford gates"]
        steps = [step for step in self.program.steps if step.kind in ("dense", "table")]
        return [
            f"{'outside' if number == 0 else '':<14}{operation.name} on wires "
            f"{', '.join(map(str, operation.wires))}: {_flops(self.step_flops(step))} a row, and "
            "the Clifford gates before it are applied"
            for number, (operation, step) in enumerate(zip(whole, steps, strict=True))
        ]

    def observable_lines(self) -> list[str]:
        lines = []
        for number, observable in enumerate(self.observables):
            groups = [group for group in self.program.groups if group.observable == number]
            n_words = sum(len(group.z) for group in groups)
            text = str(observable)
            lines.append(
                f"observable    {text if len(text) <= 40 else text[:37] + '...'}: "
                f"{_count(n_words, 'Pauli word')} in {_count(len(groups), 'pass', 'passes')} over "
                "the state"
            )
        return lines

    def layout_line(self) -> str:
        layout = self.layout
        if layout.name == "batch":
            how = (
                f"batch: {layout.lanes} rows side by side, {format_bytes(layout.tile_bytes)} a tile"
            )
        else:
            how = (
                f"sample: {layout.lanes} amplitudes of a row side by side, "
                f"{format_bytes(layout.tile_bytes)} a row"
            )
        if layout.splits_rows:
            how += f"; {_count(self.machine.threads, 'thread')} share each row"
        else:
            how += f"; {_count(layout.threads, 'thread')}"
        return f"layout        {how} ({self.machine.isa}, {self.precision})"

    def work_lines(self) -> list[str]:
        into = f"{format_bytes(self.input_bytes)} in"
        if not self.observables:
            return [
                f"work a row    states {_flops(self.forward_flops())}; {into}, "
                f"{format_bytes(self.result_bytes('state'))} out"
            ]
        n = len(self.observables)
        value = format_bytes(n * self.result_bytes("expectation"))
        lines = [f"work a row    values {_flops(self.forward_flops())}; {into}, {value} out"]
        if self.circuit.n_parameters and n == 1:
            out = format_bytes(self.result_bytes("adjoint"))
            evaluations = self.n_evaluations["parameter-shift"] - 1
            lines += [
                f"              adjoint gradient {_flops(self.adjoint_flops())}, {out} out",
                f"              parameter-shift {_flops(self.shift_flops())} in "
                f"{_count(evaluations, 'shifted value')}",
            ]
        return lines

    def memory_lines(self) -> list[str]:
        if not self.observables:
            lines = [f"memory        states {self.memory('state')}"]
        else:
            lines = [f"memory        values {self.memory('expectation')}"]
        if self.circuit.n_parameters and len(self.observables) == 1:
            how = "computed anew" if self.recomputes("adjoint") else "kept from the way there"
            lines += [
                f"              adjoint {self.memory('adjoint')}",
                f"              states on the way back are {how}",
            ]
        available = available_memory()
        if available is not None:
            lines.append(f"              available {format_bytes(available)}")
        return lines


def _row_tables(words: list[int]) -> tuple[int, int]:
    """Return how many sets of independent Z words become tables, and how many words stay alone."""
    n_tables = 0
    while len(words) >= _FEWEST_TABLE_WORDS:
        basis: list[int] = []
        left = []
        for word in words:
            rest = functools.reduce(lambda rest, row: min(rest, rest ^ row), basis, word)
            if rest:
                basis = sorted([*basis, rest], reverse=True)
            else:
                left.append(word)
        if len(basis) < _FEWEST_TABLE_WORDS:
            break
        n_tables, words = n_tables + 1, left
    return n_tables, len(words)


def _is_real_matrix(rotation: PauliRotation) -> bool:
    """Whether exp(-i angle/2 P) is real, as RY is: P has an odd number of Y letters."""
    return bool((rotation.x & rotation.z).bit_count() & 1)


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _flops(number: float) -> str:
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {prefix}FLOP"
        number /= 1000
    return f"{number:.4g} TFLOP"


def _seconds(seconds: float) -> str:
    for unit in ("s", "ms"):
        if seconds >= 1:
            return f"{seconds:.3g} {unit}"
        seconds *= 1000
    return f"{seconds:.3g} us"
