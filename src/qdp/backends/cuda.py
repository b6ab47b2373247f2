# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: launches for programs cut into tiles, and rows cut into chunks that fit.

A state that fits into the shared memory of a block runs in one launch, gradient included; larger
ones lie in the device's memory and take one launch for as many operations as stay inside a tile.
The arithmetic is in ``kernels/engine.cu``, whose letters are used here, what it reads of a program
in ``layout.py``, the device in ``device.py``. Arrays on the device are worked on where they lie, on
the stream of their library; NumPy arrays are copied there and back, chunks of many rows through
pinned memory on two streams. What a circuit's structure needs on the device stays there for the
next call.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qdp import memory
from qdp.backends.base import (
    AdjointResult,
    Array,
    Batch,
    DeviceBackend,
    Precision,
    Preparation,
    Shift,
)
from qdp.backends.device import Arena, CudaDevice, Device, Staging, call_fields
from qdp.backends.layout import (
    OPERATION,
    Structure,
    Terms,
    plain_terms,
    rotation_terms,
    shift_table,
    structure_of,
    term_arrays,
    transform_tiles,
)
from qdp.circuit import Circuit, Observable
from qdp.device_arrays import DeviceArray, Memory, Target
from qdp.encodings import (
    Amplitude,
    Encoding,
    Fill,
    PhaseEncoding,
    ProductEncoding,
    ProductPhases,
    norm_tolerance,
)
from qdp.errors import DeviceError
from qdp.program import Program

_ELEMENTS = {np.float32: 1, np.float64: 2, np.complex64: 3, np.complex128: 4}
_INDEX, _FACTORS, _PHASES = 5, 6, 7
# Sums that wait in shared memory: kPending x kWarps doubles.
_PENDING_BYTES = 16 * 16 * 8
_MOST_THREADS = 512
_MOST_TILE_BYTES = 64 * 2**10
_MOST_PARTS = 64
# What is kept on the device between calls, and pinned memory for a chunk of rows, both ways.
_MOST_KEPT_BYTES = 256 * 2**20
_STAGED_BYTES = 64 * 2**20
# What is kept under one key is one piece of memory, whose arrays begin at multiples of this.
_ALIGNED_BYTES = 256
# Arrays that go through pinned memory begin at multiples of 16 bytes.
_STAGED_SLACK = 512


# What stays on the device


class _Kept:
    """Arrays on the device that live as long as this object, and until those who used them end."""

    def __init__(self, device: Device, arrays: Mapping[str, Array]) -> None:
        firsts: dict[str, int] = {}
        self.n_bytes = 0
        for name, array in arrays.items():
            firsts[name] = self.n_bytes
            self.n_bytes += -(-array.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
        packed = np.zeros(self.n_bytes, np.uint8)
        for name, array in arrays.items():
            place = packed[firsts[name] : firsts[name] + array.nbytes]
            place[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        arena = Arena(device, device.feeder)
        self._free = weakref.finalize(self, arena.__exit__)
        self._free.atexit = False
        try:
            start = arena.put(packed)
            # Whatever stream comes later finds the arrays complete. Nothing else is waited for.
            device.synchronize(device.feeder)
        except BaseException:
            self._free()
            raise
        self.addresses = {name: start + first for name, first in firsts.items()}
        # Runs make the keeper wait for them, so that freeing on it comes after their last use.
        arena.stream = device.keeper


class _Keeper:
    """The arrays kept for calls to come, by what they are made of, the latest used."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Mapping[str, Array]]) -> _Kept:
        """Return what was kept under a key, or put what ``make`` returns onto the device."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            found = self._kept[key] = _Kept(self._device, make())
            self._n_bytes += found.n_bytes
            while self._n_bytes > _MOST_KEPT_BYTES and len(self._kept) > 1:
                self._n_bytes -= self._kept.popitem(last=False)[1].n_bytes
            return found

    def clear(self) -> None:
        """Forget all, which gives it back once nobody uses it."""
        with self._lock:
            self._kept.clear()
            self._n_bytes = 0


# Runs


@dataclass
class _Outputs:
    """Arrays to fill, on the host or the device, None where not wanted; shapes as in ``Backend``.

    ``values`` is (evaluations, rows, O); derivatives are (rows, slots, ...). Of shifted
    evaluations, ``shifts``, either all values are wanted, or ``weighted`` sums of them: terms and
    arrays (rows, O, columns). ``states`` is made from the gradient by the state, or by features.
    """

    values: Array | None = None
    parameters: Array | None = None
    inputs: Array | None = None
    states: Array | None = None
    final_states: Array | None = None
    probabilities: Array | None = None
    read_bits: tuple[int, ...] = ()
    cotangents: Array | None = None
    shifts: tuple[tuple[Shift, ...], ...] | None = None
    weighted: tuple[tuple[Terms, Array], ...] = ()
    gradient: bool = False
    needs_state_gradient: bool = False

    @property
    def n_evaluations(self) -> int:
        return 1 if self.shifts is None else len(self.shifts)

    def arrays(self) -> Iterator[Array]:
        """All arrays to fill."""
        derivatives = (self.parameters, self.inputs, self.states)
        found = (*derivatives, self.final_states, self.probabilities, self.values)
        yield from (array for array in found if array is not None)
        yield from (array for _, array in self.weighted)

    def rows(self, part: slice) -> _Outputs:
        """The part of all arrays that belongs to some rows; views."""
        values: Any = self.values
        if isinstance(values, DeviceArray):
            # Of a single evaluation: shifted values are not asked for there.
            cut = values.reshape(values.shape[1:]).rows(part)
            values = cut.reshape((1, *cut.shape))
        elif values is not None:
            values = values[:, part]
        return replace(
            self,
            values=values,
            parameters=_cut(self.parameters, part),
            inputs=_cut(self.inputs, part),
            states=_cut(self.states, part),
            final_states=_cut(self.final_states, part),
            probabilities=_cut(self.probabilities, part),
            cotangents=_cut(self.cotangents, part),
            weighted=tuple((terms, _cut(array, part)) for terms, array in self.weighted),
        )


def _cut(array: Any, part: slice) -> Any:
    """Some rows of an array, sharing its memory; None of None."""
    if array is None:
        return None
    return array.rows(part) if isinstance(array, DeviceArray) else array[part]


class _Launcher:
    """The numbers that kernels are told, and launches with what they are at that moment."""

    def __init__(self, arena: Arena, precision: Precision) -> None:
        self.arena = arena
        self.precision: Precision = precision
        self.call = np.zeros(1, call_fields())

    def __setitem__(self, name: str, value: float) -> None:
        self.call[name] = value

    def __getitem__(self, name: str) -> int:
        return int(self.call[name][0])

    def __call__(self, kernel: str, grid: int, block: int, shared: int = 0) -> None:
        if grid:
            self.arena.device.launch(
                self.precision, kernel, grid, block, shared, self.call, self.arena.stream
            )

    def threads(self, kernel: str, number: int) -> None:
        """Launch a thread for each of ``number`` results."""
        self(kernel, -(-number // 128), 128)

    def put(self, name: str, array: Array, *, element: str | None = None) -> None:
        """Tell where an array is on the device, and what numbers it has."""
        self[name] = self.arena.put(array)
        if element is not None:
            self[element] = _ELEMENTS[array.dtype.type]


class CudaBackend(DeviceBackend):
    """Runs on an NVIDIA GPU, number ``device`` or another ``Device`` that runs the kernels.

    Raises:
        BackendUnavailable: no cuda.core, NVRTC, driver or GPU.
    """

    name = "cuda"
    checks_rows = True
    prepares = True

    def __init__(self, device: int | Device = 0) -> None:
        self.device = device if isinstance(device, Device) else CudaDevice(device)
        self._keeper = _Keeper(self.device)
        self._pinned: list[NDArray[np.uint8]] = []
        self._pinned_lock = threading.Lock()

    @property
    def memory(self) -> Memory:
        """The GPU, whose arrays are taken without a copy."""
        return self.device

    def clear(self) -> None:
        """Give back the device's and the pinned memory that is kept for calls to come."""
        self._keeper.clear()
        self._unpin(0)

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return the loop from features to states on the device, None for indices."""
        if isinstance(encoding, Amplitude):
            return partial(self._fill_amplitudes, encoding)
        if isinstance(encoding, ProductEncoding | PhaseEncoding):
            return partial(self._fill_prepared, encoding)
        return None

    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""
        states = _empty(batch, (batch.rows, 2**circuit.n_qubits), batch.complex_dtype)
        self.fill_states(circuit, batch, states)
        return states

    def fill_states(self, circuit: Circuit, batch: Batch, out: Array) -> None:
        """Write the final states into ``out``, (rows, 2**n) in the batch's complex dtype."""
        self._run(circuit, (), batch, _Outputs(final_states=out), apply_frame=True)

    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O)."""
        values = _empty(batch, (1, batch.rows, len(observables)), batch.real_dtype)
        self._run(circuit, tuple(observables), batch, _Outputs(values=values))
        return values.reshape(values.shape[1:])

    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, in order, (rows, 2**len(wires))."""
        found = _empty(batch, (batch.rows, 2 ** len(wires)), batch.real_dtype)
        bits = tuple(circuit.n_qubits - 1 - wire for wire in wires)
        outputs = _Outputs(probabilities=found, read_bits=bits)
        self._run(circuit, (), batch, outputs, apply_frame=True)
        return found

    def adjoint(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        wrt: frozenset[str],
        cotangents: Array | None = None,
    ) -> AdjointResult:
        """Differentiate expectation values; shapes as in AdjointResult."""
        if cotangents is not None and batch.target is None:
            cotangents = np.asarray(cotangents, np.float64)
        outputs = _Outputs(
            values=_empty(batch, (1, batch.rows, len(observables)), batch.real_dtype),
            cotangents=cotangents,
            gradient=True,
        )
        slots = 1 if cotangents is not None else len(observables)
        _add_derivatives(outputs, circuit, batch, slots, wrt)
        self._run(circuit, tuple(observables), batch, outputs)
        assert outputs.values is not None
        values = outputs.values.reshape(outputs.values.shape[1:])
        return AdjointResult(values, outputs.parameters, outputs.inputs, outputs.states)

    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O)."""
        values = np.empty((len(shifts), batch.rows, len(observables)), batch.real_dtype)
        if len(shifts):
            outputs = _Outputs(values=values, shifts=tuple(map(tuple, shifts)))
            self._run(circuit, tuple(observables), batch, outputs)
        return values

    def weighted_shifts(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
        terms: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    ) -> AdjointResult:
        """Return weighted sums of shifted values, added up on the device; see ``Backend``."""
        outputs = _Outputs()
        _add_derivatives(outputs, circuit, batch, len(observables), frozenset(terms))
        values = _empty(batch, (batch.rows, len(observables), 1), batch.real_dtype)
        weighted: list[tuple[Terms, Array]] = [((((0, 1.0, -1),),), values)]
        if outputs.parameters is not None:
            weighted.append((plain_terms(terms["parameters"]), outputs.parameters))
        if "inputs" in terms:
            own, of_features = _chained(terms["inputs"], batch)
            weighted += [(own, outputs.inputs)] if outputs.inputs is not None else []
            weighted += [(of_features, outputs.states)] if outputs.states is not None else []
        sums = _Outputs(weighted=tuple(weighted), shifts=tuple(map(tuple, shifts)))
        self._run(circuit, tuple(observables), batch, sums)
        return AdjointResult(
            values.reshape(values.shape[:2]), outputs.parameters, outputs.inputs, outputs.states
        )

    def overlaps(
        self, left: Array, right: Array, target: Target | None = None, tolerance: float = 0.0
    ) -> Array:
        """Return |<a|b>|**2 of all pairs of rows, (rows_a, rows_b); see ``DeviceBackend``."""
        dtype = np.zeros(0, np.result_type(left.dtype, right.dtype)).real.dtype
        precision: Precision = "double" if dtype == np.float64 else "single"
        shape = (left.shape[0], right.shape[0])
        found: Any = np.empty(shape, dtype) if target is None else target.empty(shape, dtype)
        stream = self.device.lanes[0] if target is None else target.stream
        with self._ordered(stream), Arena(self.device, stream) as arena:
            launch = _Launcher(arena, precision)
            launch["columns"] = left.shape[1]
            launch.put("states", left, element="element")
            launch.put("other", right, element="other_element")
            launch["other_rows"], launch["tolerance"] = shape[1], tolerance
            launch["outputs"] = arena.result(found)
            launch("overlaps", shape[0] * shape[1], 128, _PENDING_BYTES)
            arena.fetch()
        if target is None or target.waits:
            self.device.synchronize(stream)
        return cast(Array, found)

    def sum_rows(self, array: Array, target: Target) -> Array:
        """Return the sum over the first axis of an array on the GPU, added up in double."""
        found = target.empty(array.shape[1:], array.dtype)
        single = array.dtype in (np.float32, np.complex64)
        parts = 2 if array.dtype.kind == "c" else 1
        with self._ordered(target.stream), Arena(self.device, target.stream) as arena:
            launch = _Launcher(arena, "single" if single else "double")
            launch["rows"], launch["columns"] = array.shape[0], parts * found.size
            launch.put("sums", array)
            launch["outputs"] = arena.put(found)
            launch("sum_rows", parts * found.size, 128, _PENDING_BYTES)
        return cast(Array, found)

    # What stands behind the verbs

    @contextlib.contextmanager
    def _ordered(self, *streams: int) -> Iterator[None]:
        """Let what is freed on the keeper later wait for the work that is queued inside."""
        try:
            # Once for all calls to the driver.
            with self.device.current():
                yield
        except BaseException:
            # Nobody shall read or write what is given back now. The error is what counts; a stream
            # that failed itself has nothing to wait for.
            for stream in streams:
                with contextlib.suppress(DeviceError):
                    self.device.synchronize(stream)
            raise
        for stream in streams:
            self.device.order(stream, self.device.keeper)

    def _tile_bits(self, n_qubits: int, itemsize: int, buffers: int) -> int:
        """Return the bits of a tile: all, where the whole state fits into shared memory."""
        room = (self.device.shared_bytes - _PENDING_BYTES) // (buffers * itemsize)
        fits = room.bit_length() - 1
        if fits >= n_qubits:
            return n_qubits
        return min(fits, (_MOST_TILE_BYTES // itemsize).bit_length() - 1)

    def _run(
        self,
        circuit: Circuit,
        observables: tuple[Observable, ...],
        batch: Batch,
        outputs: _Outputs,
        *,
        apply_frame: bool = False,
    ) -> None:
        """Run all rows, in chunks that fit into half of the free memory, both lanes together.

        Rows that nobody looked at are refused once all have run.
        """
        itemsize = np.dtype(batch.complex_dtype).itemsize
        tile_bits = self._tile_bits(circuit.n_qubits, itemsize, 2 if outputs.gradient else 1)
        prune = batch.prune and not apply_frame
        key = (circuit, observables, apply_frame, prune, tile_bits)
        structure = structure_of(*key)
        run = _Chunks(
            structure,
            lambda part, make: self._keeper.get((key, part), make),
            _slots(outputs, len(observables)),
        )
        n_rotations = len(structure.program.rotations)
        per_item = (4 * itemsize << circuit.n_qubits) + (8 + itemsize) * (n_rotations + 1)
        if tile_bits < circuit.n_qubits:
            per_item += 8 * n_rotations << (circuit.n_qubits - tile_bits)
        per_row = _row_bytes(batch, outputs)
        if batch.fused:  # at least as many numbers as a state is made of, and as the features give
            per_row += 8 * (circuit.n_qubits + 1) ** 2
        free = self.device.free_bytes() // 2
        room = (free - per_row) // per_item
        if room < run.slots:
            raise MemoryError(
                f"a row of {circuit.n_qubits} qubits: expected at most "
                f"{memory.format_bytes(free)} (half of the GPU's free "
                f"memory), got a need of {memory.format_bytes(per_item * run.slots + per_row)}; "
                "remedy: use fewer qubits or observables, or precision='single'"
            )
        rows = max(1, free // (per_item * run.slots + per_row))
        if batch.target is None:
            staged = max(1, min(rows // 2, _STAGED_BYTES // max(1, per_row)))
            if batch.rows > staged:
                # Two chunks are under way at a time, with as many evaluations at once as fit.
                self._run_staged(run, batch, outputs, staged, max(1, room // (2 * staged)))
                self._recheck(run, circuit, observables, batch, outputs, apply_frame)
                return
        stream = self.device.lanes[0] if batch.target is None else batch.target.stream
        evaluations = max(1, room // min(rows, max(1, batch.rows)))
        with self._ordered(stream):
            for part in _parts(batch.rows, rows):
                chunk, results = batch, outputs
                if rows < batch.rows:
                    chunk, results = rows_of(batch, part), outputs.rows(part)
                with Arena(self.device, stream) as arena:
                    run.queue(arena, chunk, results, evaluations)
        if batch.target is None or batch.target.waits:
            self.device.synchronize(stream)
        self._recheck(run, circuit, observables, batch, outputs, apply_frame)

    def _recheck(
        self,
        run: _Chunks,
        circuit: Circuit,
        observables: tuple[Observable, ...],
        batch: Batch,
        outputs: _Outputs,
        apply_frame: bool,
    ) -> None:
        """Look at rows of which the device refused one, and run those that are right after all."""
        if batch.recheck is None or not any(flag[0] for flag in run.refusals):
            return
        batch.recheck()
        states = batch.states
        if batch.normalize:
            chosen = Amplitude()
            states = chosen.in_safe_range(*chosen.validate_with_norms(states, circuit.n_qubits))
        checked = replace(batch, states=states, recheck=None)
        self._run(circuit, observables, checked, outputs, apply_frame=apply_frame)

    def _run_staged(
        self, run: _Chunks, batch: Batch, outputs: _Outputs, rows: int, evaluations: int
    ) -> None:
        """Run chunks of NumPy rows on both lanes in turn: one's copies beside the other's work."""
        n_bytes = rows * _row_bytes(batch, outputs) + batch.parameters.nbytes + _STAGED_SLACK
        stages: list[Staging] = []
        try:
            with self._ordered(*self.device.lanes):
                for lane in self.device.lanes:
                    stages.append(Staging(self.device, lane, self._pinned_memory(n_bytes)))
                for number, part in enumerate(_parts(batch.rows, rows)):
                    staging = stages[number % 2]
                    # The chunk before the last: its memory is this one's.
                    staging.drain()
                    with Arena(self.device, staging.stream, staging) as arena:
                        run.queue(arena, rows_of(batch, part), outputs.rows(part), evaluations)
                for staging in stages:
                    staging.drain()
        finally:
            # Drained, or waited for after an error: no copy is under way.
            self._pinned += [staging.buffer for staging in stages]
            self._unpin(len(self.device.lanes))

    def _pinned_memory(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return pinned memory, that of an earlier call if it is large enough."""
        with self._pinned_lock:
            for number, buffer in enumerate(self._pinned):
                if len(buffer) >= n_bytes:
                    return self._pinned.pop(number)
        return self.device.pin(n_bytes)

    def _unpin(self, most: int) -> None:
        """Keep at most so many pinned buffers for later calls, the latest."""
        with self._pinned_lock:
            while len(self._pinned) > most:
                self.device.unpin(self._pinned.pop(0))

    def _fill_amplitudes(self, encoding: Amplitude, features: Array, out: Array) -> bool:
        circuit = Circuit(_qubits_of(out))
        # What the features leave of a state is filled with zeros as they are loaded.
        batch = Batch(
            len(features),
            np.zeros(0),
            states=features,
            normalize=encoding.normalize,
            precision=_precision_of(out),
            recheck=partial(encoding.validate, features, circuit.n_qubits),
            norm_tolerance=norm_tolerance(features),
        )
        self.fill_states(circuit, batch, out)
        return True

    def _fill_prepared(self, encoding: Encoding, features: Array, out: Array) -> bool:
        n_qubits = _qubits_of(out)
        preparation = Preparation.of(encoding, features, n_qubits)
        batch = Batch(
            len(features),
            np.zeros(0),
            preparation=preparation,
            precision=_precision_of(out),
        )
        self.fill_states(Circuit(n_qubits), batch, out)
        return True


@dataclass(frozen=True)
class _Chunks:
    """Queues the work of chunks of rows of one run.

    ``keep`` puts arrays onto the device for this run and later ones; what is ``held`` of them must
    outlive the run. ``slots`` observables are differentiated one by one. The run's last copies
    fill ``refusals``, one a chunk whose rows nobody looked at: whether one was refused.
    """

    structure: Structure
    keep: Callable[[Hashable, Callable[[], Mapping[str, Array]]], _Kept]
    slots: int
    held: list[_Kept] = field(default_factory=list)
    refusals: list[Array] = field(default_factory=list)

    def address(self, key: Hashable, make: Callable[[], Mapping[str, Array]]) -> dict[str, int]:
        """Return the addresses of arrays that stay on the device under a key."""
        self.held.append(self.keep(key, make))
        return self.held[-1].addresses

    def queue(self, arena: Arena, batch: Batch, outputs: _Outputs, evaluations: int) -> None:
        """Queue everything for some rows on the arena's stream, ``evaluations`` at a time."""
        launch = _Launcher(arena, batch.precision)
        self._describe(launch, batch, outputs)
        if batch.recheck is not None:
            self.refusals.append(np.zeros(1, np.uint64))
            launch.put("refused", self.refusals[-1])
            arena.deliver(self.refusals[-1], launch["refused"])
        in_parts = evaluations < outputs.n_evaluations
        sums = [
            (terms, target.shape[2], arena.result(target), arena.empty(8 * target.size * in_parts))
            for terms, target in outputs.weighted
        ]
        told = launch.call.copy()
        for first in range(0, outputs.n_evaluations, evaluations):
            part = slice(first, min(first + evaluations, outputs.n_evaluations))
            launch.call[...] = told
            with Arena(arena.device, arena.stream, arena.staging) as launch.arena:
                self._evaluate(launch, batch, outputs, part)
                for terms, n_outputs, address, totals in sums:
                    launch["totals"] = totals if in_parts else 0
                    launch["outputs"] = address if part.stop == outputs.n_evaluations else 0
                    self._add_up(launch, terms, n_outputs, part)
                launch.arena.fetch()
        arena.fetch()

    def _describe(self, launch: _Launcher, batch: Batch, outputs: _Outputs) -> None:
        """Say what a chunk works on, and put onto the device what isn't there."""
        program = self.structure.program
        for name, address in self.address("structure", lambda: self.structure.arrays).items():
            launch[name] = address
        launch["n_qubits"], launch["rows"] = program.n_qubits, batch.rows
        launch["n_slots"] = self.slots
        launch["n_rotations"] = len(program.rotations)
        launch["n_groups"] = len(program.groups)
        launch["n_observables"] = program.n_observables
        launch["gradient"] = int(outputs.gradient)
        launch["measures"] = int(outputs.values is not None or bool(outputs.weighted))
        launch.put("parameters", batch.parameters, element="parameter_element")
        launch["parameter_stride"] = _stride(batch.parameters, batch.rows)
        if batch.inputs is not None:
            launch.put("inputs", batch.inputs, element="input_element")
            launch["input_stride"] = _stride(batch.inputs, batch.rows)
        if batch.turns is not None:
            self._describe_features(launch, batch, batch.turns)
        _describe_rows(launch, batch)
        if batch.fused:
            self._encode_features(launch, batch)
        if outputs.cotangents is not None:
            launch["contracted"] = 1
            launch.put("cotangents", outputs.cotangents, element="cotangent_element")

    def _describe_features(self, launch: _Launcher, batch: Batch, features: Array) -> None:
        """Let the circuit read the features of an encoding behind its own inputs."""
        centre, pairs = _products(batch)
        launch.put("features", features, element="feature_element")
        launch["feature_stride"] = _stride(features, batch.rows)
        launch["n_features"], launch["n_own"] = features.shape[1], batch.n_own_inputs
        launch["centre"] = centre
        if not pairs and not batch.n_own_inputs:
            for name in ("", "_element", "_stride"):
                launch[f"input{name or 's'}"] = launch[f"feature{name or 's'}"]
            return
        if pairs:
            launch["pairs"] = self.address(
                ("pairs", pairs), lambda: {"pairs": np.array(pairs, np.uint32)}
            )["pairs"]
        launch["n_pairs"] = len(pairs)
        launch["n_outputs"] = batch.n_own_inputs + features.shape[1] + len(pairs)
        launch["outputs"] = launch.arena.empty(8 * batch.rows * launch["n_outputs"])
        launch.threads("columns", batch.rows * launch["n_outputs"])
        launch["inputs"], launch["input_stride"] = launch["outputs"], launch["n_outputs"]
        launch["input_element"] = _ELEMENTS[np.float64]

    def _encode_features(self, launch: _Launcher, batch: Batch) -> None:
        """Work out on the device the numbers that an encoding's states are made of."""
        features, encoding, n_qubits = batch.features, batch.encoding, launch["n_qubits"]
        assert features is not None
        told = launch.call.copy()
        rows = features.shape[0]
        launch["rows"] = rows
        # All that the features turn into, with no inputs before it.
        apart = replace(batch, rows=rows, inputs=None, n_own_inputs=0)
        self._describe_features(launch, apart, features)
        if isinstance(encoding, ProductEncoding):
            rate, waves = encoding.waves()
            launch["rate"] = rate
            launch["waves"] = self.address(("waves", encoding), lambda: {"all": waves})["all"]
            numbers = launch["outputs"] = launch.arena.empty(32 * rows * n_qubits)
            launch.threads("make_factors", rows * n_qubits)
            start = Preparation()
        else:
            assert isinstance(encoding, PhaseEncoding)
            n_angles = features.shape[1] + len(_products(batch)[1])
            key = ("phases", encoding, n_qubits)
            found = self.address(
                key, lambda: term_arrays(_phase_terms(encoding, n_angles, n_qubits))
            )
            for name, address in found.items():
                launch[name] = address
            launch["n_outputs"] = 1 + n_qubits * (n_qubits + 1) // 2
            n_numbers = rows * launch["n_outputs"]
            numbers = launch["outputs"] = launch.arena.empty(8 * n_numbers)
            launch.threads("make_phases", n_numbers)
            start = Preparation(repeats=encoding.repeats, closes=encoding.closes)
        launch.call[...] = told
        launch["states"], launch["one_state"] = numbers, int(rows < batch.rows)
        _describe_encoding(launch, start, isinstance(encoding, PhaseEncoding))

    def _transform_rows(self, launch: _Launcher) -> None:
        """Turn and transform states in device memory in the further rounds of an encoding."""
        n_rounds = launch["repeats"] + launch["closes"]
        if n_rounds < 2:
            return
        told = launch.call.copy()
        n_qubits, tile_bits = launch["n_qubits"], self.structure.tile_bits
        tiles = transform_tiles(n_qubits, tile_bits)
        basis = self.address(
            ("walsh", n_qubits, tile_bits),
            lambda: {"all": np.array([tile for _, tile in tiles], np.uint32)},
        )["all"]
        launch["tile_bits"], launch["n_parts"] = tile_bits, 1 << (n_qubits - tile_bits)
        itemsize = 16 if launch.precision == "double" else 8
        for number in range(1, n_rounds):
            launch["turns_next"] = int(number < launch["repeats"])
            for place, (first_bit, tile) in enumerate(tiles):
                launch["basis"] = basis + 4 * tile_bits * place
                launch["free_mask"] = (1 << n_qubits) - 1 ^ sum(tile)
                launch["first_bit"], launch["finishes"] = first_bit, int(place == len(tiles) - 1)
                launch(
                    "walsh",
                    launch["n_items"] * launch["n_parts"],
                    _threads(1 << tile_bits),
                    itemsize << tile_bits,
                )
        launch.call[...] = told

    def _evaluate(self, launch: _Launcher, batch: Batch, outputs: _Outputs, part: slice) -> None:
        """Run some evaluations of a chunk."""
        program, n_rotations = self.structure.program, launch["n_rotations"]
        n_evaluations = part.stop - part.start
        launch["n_items"] = n_evaluations * batch.rows * self.slots
        per_row = batch.parameters.ndim == 2 or program.n_inputs > 0
        sets_a_row = batch.rows if per_row else 1
        launch["n_sets"] = n_evaluations * sets_a_row
        launch["set_row_stride"], launch["set_stride"] = int(per_row), sets_a_row
        if outputs.shifts is not None:
            shifts = outputs.shifts
            found = self.address(("shifts", shifts), lambda: {"all": shift_table(program, shifts)})
            launch["shifts"] = found["all"] + 8 * part.start * n_rotations
        itemsize = np.dtype(batch.complex_dtype).itemsize
        launch["coefficients"] = launch.arena.empty(launch["n_sets"] * n_rotations * itemsize)
        launch.threads("angles", launch["n_sets"] * n_rotations)
        values = None if outputs.values is None else _cut(outputs.values, part)
        if self.structure.tile_bits == program.n_qubits:
            self._run_whole(launch, outputs, values, itemsize << program.n_qubits)
        else:
            self._run_passes(launch, outputs, values, itemsize << program.n_qubits)
        self._collect(launch, batch, outputs)

    def _run_whole(
        self, launch: _Launcher, outputs: _Outputs, values: Array | None, n_bytes: int
    ) -> None:
        """The whole circuit of an item in one block."""
        arena, n_items = launch.arena, launch["n_items"]
        if self.structure.program.denses or self.structure.program.permutations:
            launch["scratch"] = arena.empty(n_items * n_bytes)
        if outputs.final_states is not None:
            launch["final_states"] = arena.result(outputs.final_states)
        elif outputs.probabilities is not None:
            launch["final_states"] = arena.empty(n_items * n_bytes)
        if values is not None:
            launch["values"] = arena.result(values)
        if outputs.needs_state_gradient:
            launch["state_gradient"] = arena.empty(n_items * n_bytes)
        launch["n_targets"] = launch["n_rotations"] + launch["n_observables"]
        launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
        launch["n_ops"] = len(self.structure.arrays["ops"])
        # Places in shared memory are those of the whole state: no basis.
        basis, launch["basis"] = launch["basis"], 0
        threads = _threads(1 << max(0, launch["n_qubits"] - 1))
        shared = _PENDING_BYTES + (2 if outputs.gradient else 1) * n_bytes
        launch("run", n_items, threads, shared)
        launch["basis"] = basis

    def _run_passes(
        self, launch: _Launcher, outputs: _Outputs, values: Array | None, n_bytes: int
    ) -> None:
        """States in device memory, a launch for each stage."""
        arena, n_items = launch.arena, launch["n_items"]
        n_tiles = 1 << (launch["n_qubits"] - self.structure.tile_bits)
        n_parts = min(_MOST_PARTS, n_tiles)
        launch["psi"] = arena.empty(n_items * n_bytes)
        launch["scratch"] = arena.empty(n_items * n_bytes)
        launch["n_parts"] = n_parts
        if launch["normalize"] or launch.call["tolerance"][0] > 0:
            launch["norm_parts"] = arena.empty(8 * n_items * n_parts)
            launch("norms", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
        launch("load", n_items * n_parts, _MOST_THREADS)
        self._transform_rows(launch)
        bases = [launch["basis"]]
        for *_, basis in self.structure.stages:
            bases.append(bases[-1] + 4 * len(basis))
        stages = list(zip(self.structure.stages, bases, strict=False))
        for stage, address in stages:
            self._stage(launch, stage, address, backward=False)
        launch["final_states"] = launch["psi"]
        if launch["measures"]:
            launch["n_parts"], launch["n_targets"] = n_parts, launch["n_observables"]
            launch["parts"] = arena.empty(8 * n_items * launch["n_targets"] * n_parts)
            launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
            launch("observe", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
            launch.threads("gather_parts", n_items * launch["n_targets"])
        if values is not None:
            launch["values"] = arena.result(values)
            launch.threads("store_values", values.size)
        if not outputs.gradient:
            return
        launch["lambda"] = arena.empty(n_items * n_bytes)
        launch("pull", n_items * n_parts, _MOST_THREADS)
        launch["n_targets"] = launch["n_rotations"]
        launch["parts"] = arena.empty(8 * n_items * launch["n_targets"] * n_tiles)
        launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
        for stage, address in reversed(stages):
            self._stage(launch, stage, address, backward=True)
        launch["n_parts"] = n_tiles
        launch.threads("gather_parts", n_items * launch["n_targets"])
        if outputs.needs_state_gradient:
            launch["n_parts"] = n_parts
            launch["state_gradient"] = launch["scratch"]
            launch("doubled", n_items * n_parts, _MOST_THREADS)

    def _stage(
        self,
        launch: _Launcher,
        stage: tuple[int, int, bool, tuple[int, ...]],
        basis_address: int,
        *,
        backward: bool,
    ) -> None:
        first, count, moves, basis = stage
        if not count:
            return
        all_ops = launch["ops"]
        n_items = launch["n_items"]
        launch["ops"], launch["n_ops"] = all_ops + first * OPERATION.itemsize, count
        if moves:
            launch["inverse"], launch["n_parts"] = int(backward), _MOST_PARTS
            for name in ("psi", "lambda") if backward else ("psi",):
                state, scratch, psi = launch[name], launch["scratch"], launch["psi"]
                launch["psi"] = state
                launch("gather", n_items * _MOST_PARTS, _MOST_THREADS)
                launch["psi"] = psi
                launch[name], launch["scratch"] = scratch, state
        else:
            launch["tile_bits"] = self.structure.tile_bits
            launch["n_parts"] = 1 << (launch["n_qubits"] - self.structure.tile_bits)
            launch["basis"] = basis_address
            pivots = sum(1 << (vector.bit_length() - 1) for vector in basis)
            launch["free_mask"] = (1 << launch["n_qubits"]) - 1 ^ pivots
            launch["gradient"] = int(backward)
            itemsize = 16 if launch.precision == "double" else 8
            shared = _PENDING_BYTES + (
                (2 if backward else 1) * itemsize << self.structure.tile_bits
            )
            threads = _threads(1 << self.structure.tile_bits)
            launch("pass", n_items * launch["n_parts"], threads, shared)
        launch["ops"] = all_ops

    def _collect(self, launch: _Launcher, batch: Batch, outputs: _Outputs) -> None:
        """Make what was asked for of states, sums and gradients."""
        arena, program = launch.arena, self.structure.program
        if outputs.final_states is not None:
            if program.phases:
                launch["n_phases"] = len(program.phases)
                launch("turn_states", launch["n_items"], _threads(1 << launch["n_qubits"]))
            if self.structure.tile_bits != launch["n_qubits"]:
                arena.deliver(outputs.final_states, launch["final_states"])
        if outputs.probabilities is not None:
            bits = outputs.read_bits
            launch["psi"] = launch["final_states"]
            launch["read_bits"] = self.address(
                ("bits", bits), lambda: {"bits": np.array(bits, np.uint32)}
            )["bits"]
            launch["n_read"] = len(bits)
            launch["other_mask"] = (1 << launch["n_qubits"]) - 1 ^ sum(1 << bit for bit in bits)
            launch["outputs"] = arena.result(outputs.probabilities)
            others = 1 << (launch["n_qubits"] - len(bits))
            launch("marginals", outputs.probabilities.size, _threads(others), _PENDING_BYTES)
        if not outputs.gradient:
            return
        if outputs.needs_state_gradient:
            assert outputs.states is not None
            if batch.target is None:
                arena.deliver(outputs.states, launch["state_gradient"])
            else:
                launch["outputs"] = arena.result(outputs.states)
                launch("pull_back", launch["n_items"], _MOST_THREADS, _PENDING_BYTES)
        launch["term_stride"], launch["slot_stride"] = 1, launch["n_targets"]
        launch["row_stride"] = self.slots * launch["n_targets"]
        launch["term_end"] = launch["n_rotations"]
        chained = partial(_chained_slopes, program, batch)
        for name, terms, target in (
            (
                "parameters",
                lambda: plain_terms(rotation_terms(program, "parameter")),
                outputs.parameters,
            ),
            ("inputs", lambda: chained()[0], outputs.inputs),
            ("features", lambda: chained()[1], None if batch.turns is None else outputs.states),
        ):
            if target is not None:
                launch["outputs"] = arena.result(target)
                key = (name, batch.encoding, batch.n_own_inputs)
                self._accumulate(launch, key, terms, target.shape[2])

    def _add_up(self, launch: _Launcher, terms: Terms, n_outputs: int, part: slice) -> None:
        """Add weighted values of some evaluations to the columns of each row and observable."""
        told = launch.call.copy()
        n_targets = launch["n_targets"]
        if self.structure.tile_bits == launch["n_qubits"]:
            launch["sums"] += 8 * launch["n_rotations"]
        launch["n_slots"] = launch["n_observables"]
        launch["term_stride"], launch["slot_stride"] = launch["rows"] * n_targets, 1
        launch["row_stride"] = n_targets
        launch["term_begin"], launch["term_end"] = part.start, part.stop
        self._accumulate(launch, tuple(map(tuple, terms)), lambda: terms, n_outputs)
        launch.call[...] = told

    def _accumulate(
        self, launch: _Launcher, key: Hashable, terms: Callable[[], Terms], n_outputs: int
    ) -> None:
        """Add up the terms of each output, which stay on the device under a key."""
        found = self.address(("terms", key), lambda: term_arrays(terms()))
        for name, address in found.items():
            launch[name] = address
        launch["n_outputs"] = n_outputs
        launch.threads("accumulate", launch["rows"] * launch["n_slots"] * n_outputs)


def _empty(batch: Batch, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array for results, on the host or where the batch wants them."""
    if batch.target is None:
        return np.empty(shape, dtype)
    return cast(Array, batch.target.empty(shape, dtype))


def _add_derivatives(
    outputs: _Outputs, circuit: Circuit, batch: Batch, slots: int, wrt: frozenset[str]
) -> None:
    """Make the arrays for derivatives, (rows, slots, ...)."""
    real = np.dtype(batch.real_dtype)

    def make(columns: int, dtype: Any) -> Array:
        return _empty(batch, (batch.rows, slots, columns), dtype)

    if "parameters" in wrt:
        outputs.parameters = make(circuit.n_parameters, real)
    if "inputs" in wrt and batch.turns is None:
        outputs.inputs = make(circuit.n_inputs, real)
    elif "inputs" in wrt:
        assert batch.turns is not None
        outputs.states = make(batch.turns.shape[1], real)
        if batch.n_own_inputs:
            outputs.inputs = make(batch.n_own_inputs, real)
    if "states" in wrt and batch.target is None:
        outputs.needs_state_gradient = True
        outputs.states = make(2**circuit.n_qubits, batch.complex_dtype)
    elif "states" in wrt:
        assert batch.states is not None, "only states and features have a derivative"
        outputs.needs_state_gradient = True
        is_complex = batch.states.dtype.kind == "c"
        outputs.states = make(batch.states.shape[1], batch.complex_dtype if is_complex else real)


def _chained_slopes(program: Program, batch: Batch) -> tuple[Terms, Terms]:
    return _chained(rotation_terms(program, "input"), batch)


def _chained(terms: Sequence[Sequence[tuple[int, float]]], batch: Batch) -> tuple[Terms, Terms]:
    """Split the inputs' terms into those of own inputs and, by the chain rule, of features."""
    if batch.turns is None:
        return plain_terms(terms), ()
    _, pairs = _products(batch)
    own, rest = plain_terms(terms[: batch.n_own_inputs]), terms[batch.n_own_inputs :]
    n_features = batch.turns.shape[1]
    columns = [list(column) for column in plain_terms(rest[:n_features])]
    for (first, second), column in zip(pairs, rest[n_features:], strict=True):
        # The product is (centre - x)(centre - y), whose derivative by x is y - centre.
        columns[first] += [(number, -scale, second) for number, scale in column]
        columns[second] += [(number, -scale, first) for number, scale in column]
    return own, columns


def _products(batch: Batch) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Return the pairs of features whose products are angles, and what they are taken from."""
    if not isinstance(batch.encoding, ProductPhases) or batch.features is None:
        return 0.0, ()
    return batch.encoding.centre, batch.encoding.pairs(batch.features.shape[1])


def _phase_terms(encoding: PhaseEncoding, n_angles: int, n_qubits: int) -> Terms:
    """Return the angles and scales that each number of an encoding by phases is the sum of."""
    matrix = encoding.combined(np.eye(n_angles), n_qubits)
    return tuple(
        tuple((int(angle), float(column[angle]), -1) for angle in np.flatnonzero(column))
        for column in matrix.T
    )


def _stride(array: Array, rows: int) -> int:
    """Return the elements from row to row, 0 where all rows share one."""
    if array.ndim < 2 or (array.shape[0] == 1 and rows > 1):
        return 0
    return int(array.shape[1])


def _row_bytes(batch: Batch, outputs: _Outputs) -> int:
    """Return the bytes of NumPy arrays that a row brings and takes."""
    given = [batch.inputs, batch.states, batch.indices, outputs.cotangents, *outputs.arrays()]
    if batch.preparation is not None:
        given += [batch.preparation.factors, batch.preparation.phases]
    if batch.parameters.ndim == 2:
        given.append(batch.parameters)
    n_bytes = sum(
        array.nbytes for array in given if array is not None and not isinstance(array, DeviceArray)
    )
    return -(-n_bytes // max(1, batch.rows))


def _parts(rows: int, step: int) -> Iterator[slice]:
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _slots(outputs: _Outputs, n_observables: int) -> int:
    """Return how many observables are differentiated one by one."""
    return n_observables if outputs.gradient and outputs.cotangents is None else 1


def _threads(number: int) -> int:
    """Return a number of threads, whole warps, for that many things to do."""
    return min(_MOST_THREADS, max(32, number))


def _qubits_of(states: Array) -> int:
    return int(states.shape[1]).bit_length() - 1


def _precision_of(states: Array) -> Precision:
    return "double" if states.dtype == np.complex128 else "single"


def rows_of(batch: Batch, part: slice) -> Batch:
    """Return the numbers of some of the rows, as views; what all rows share stays as it is."""

    def cut(array: Array | None, axes: int = 1) -> Any:
        if array is None or array.ndim < axes or array.shape[0] != batch.rows:
            return array  # one row for all
        return _cut(array, part)

    return replace(
        batch,
        rows=part.stop - part.start,
        parameters=cut(batch.parameters, axes=2),
        inputs=cut(batch.inputs, axes=2),
        states=cut(batch.states),
        indices=cut(batch.indices),
        preparation=None if batch.preparation is None else batch.preparation.rows(part),
        features=cut(batch.features),
    )


def load_states(arena: Arena, batch: Batch, n_qubits: int, n_items: int, slots: int) -> int:
    """Return the address of the states that rows start in: complex, (n_items, 2**n_qubits).

    An item is a row, ``slots`` times in turn, and all of them for each evaluation. Rows are
    checked and normalised where the batch says so, and padded with zeros.
    """
    launch = _Launcher(arena, batch.precision)
    launch["n_qubits"], launch["n_items"] = n_qubits, n_items
    launch["rows"], launch["n_slots"] = batch.rows, slots
    launch["n_parts"] = n_parts = min(_MOST_PARTS, max(1, (1 << n_qubits) // (8 * _MOST_THREADS)))
    launch["psi"] = arena.empty(n_items * np.dtype(batch.complex_dtype).itemsize << n_qubits)
    _describe_rows(launch, batch)
    if launch["normalize"] or launch.call["tolerance"][0] > 0:
        launch["norm_parts"] = arena.empty(8 * n_items * n_parts)
        launch("norms", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
    launch("load", n_items * n_parts, _MOST_THREADS)
    return launch["psi"]


def _describe_rows(launch: _Launcher, batch: Batch) -> None:
    """Say what rows start in, and put it onto the device if it isn't there."""
    if batch.states is not None:
        launch.put("states", batch.states, element="element")
        launch["columns"] = batch.states.shape[1]
        launch["one_state"] = int(_stride(batch.states, batch.rows) == 0)
        launch["normalize"] = int(batch.normalize)
        if batch.target is not None:
            launch["tolerance"] = batch.norm_tolerance
        elif batch.recheck is not None:
            # Half, since sums round: what is refused in vain passes the recheck.
            launch["tolerance"] = batch.norm_tolerance / 2
    elif batch.indices is not None:
        launch["element"] = _INDEX
        launch.put("states", batch.indices)
        launch["one_state"] = int(len(batch.indices) < batch.rows)
    elif batch.preparation is not None:
        start = batch.preparation
        numbers = start.phases if start.factors is None else start.factors
        assert numbers is not None
        launch.put("states", numbers)
        _describe_encoding(launch, start, start.phases is not None)


def _describe_encoding(launch: _Launcher, start: Preparation, is_phases: bool) -> None:
    """Say how the states of an encoding are made of the numbers at ``states``."""
    launch["element"] = _PHASES if is_phases else _FACTORS
    launch["spread"] = 2.0 ** (-launch["n_qubits"] / 2)
    launch["repeats"], launch["closes"] = start.repeats, int(start.closes)
