# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: cuts programs into tiles and launches, and rows into chunks that fit.

A state that fits into the shared memory of a block runs in one launch, gradient included; larger
ones lie in the device's memory and take one launch for as many operations as stay inside a tile.
The arithmetic is in ``kernels/engine.cu``, whose letters are used here, the device in
``device.py``. Arrays are NumPy's, copied to the device and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdp import memory
from qdp.backends.base import AdjointResult, Array, Backend, Batch, Precision, Shift
from qdp.backends.device import Arena, CudaDevice, Device, call_fields
from qdp.circuit import Circuit, Observable
from qdp.encodings import Amplitude, Encoding, Fill, GateEncoding, norm_tolerance
from qdp.program import Group, Program, compile_program

_KINDS = {"rotations": 0, "diagonal": 1, "table": 2, "dense": 3, "permutation": 4}
_SOURCES = {"constant": 0, "parameter": 1, "input": 2}
_ELEMENTS = {np.float32: 1, np.float64: 2, np.complex64: 3, np.complex128: 4}
_INDEX = 5
# Sums that wait in shared memory: kPending x kWarps doubles.
_PENDING_BYTES = 16 * 16 * 8
_MOST_THREADS = 512
# Rotations that go through registers together.
_MOST_TOGETHER = 3
# Low bits that every tile has, so that neighbours in memory are read together.
_LOW_BITS = 4
# A group of more words than this is read from a table.
_MOST_WORDS = 16
_MOST_TILE_BYTES = 64 * 2**10
_MOST_PARTS = 64
_MOST_DENSE_BITS = 28

_OP = np.dtype(
    [("kind", "u4"), ("count", "u4"), ("first", "u4"), ("item", "u4"), ("pivots", "u4", 4),
     ("offsets", "u4", 8)]
)  # fmt: skip
_WORD = np.dtype(
    [
        (name, "u4")
        for name in ["x", "z", "base_z", "turns", "rotation", "flips", "has_gradient", "unused"]
    ]
)
_DENSE = np.dtype(
    [("matrix", "u4"), ("n_bits", "u4"), ("control_mask", "u4"), ("control_value", "u4"),
     ("bits", "u4", _MOST_DENSE_BITS)]
)  # fmt: skip
_ROTATION = np.dtype([("scale", "f8"), ("offset", "f8"), ("source", "i8"), ("index", "i8")])
_GROUP = np.dtype([(name, "i8") for name in ["observable", "mask", "first", "count", "table"]])


# Structure


@dataclass
class _Stage:
    """One launch over states in device memory: operations inside a tile, or one that moves all."""

    ops: list[Any] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    moves: bool = False
    basis: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Structure:
    """A program as the kernels read it, without angles.

    Each of ``stages`` is its first operation, how many there are, whether it moves whole states,
    and the basis of its tiles.
    """

    program: Program
    tile_bits: int
    stages: tuple[tuple[int, int, bool, tuple[int, ...]], ...]
    arrays: dict[str, Array]

    @property
    def n_bytes(self) -> int:
        """Bytes held, about."""
        return self.program.n_bytes + sum(array.nbytes for array in self.arrays.values())


def _reduced(vectors: Iterable[int]) -> tuple[int, ...]:
    """Return the reduced basis of a span over GF(2), by ascending highest bits."""
    basis: list[int] = []
    for vector in vectors:
        for known in basis:
            vector = min(vector, vector ^ known)
        if vector:
            top = 1 << (vector.bit_length() - 1)
            basis = [known ^ vector if known & top else known for known in basis]
            basis.append(vector)
    return tuple(sorted(basis))


def _pieces(program: Program) -> Iterable[tuple[str, tuple[int, ...], int]]:
    """Yield the operations: kind, rotations of it, item. Rotations together are independent."""
    for step in program.steps:
        if step.kind != "rotations":
            yield step.kind, step.rotations, step.item
            continue
        left = list(step.rotations)
        while left:
            together: list[int] = []
            later: list[int] = []
            for index in left:
                masks = [program.rotations[one].x for one in [*together, index]]
                fits = len(together) < _MOST_TOGETHER and len(_reduced(masks)) == len(masks)
                (together if fits else later).append(index)
            yield "rotations", tuple(together), 0
            left = later


def _structure_bytes(structure: _Structure) -> int:
    return structure.n_bytes


@memory.cached_by_bytes(_structure_bytes, 256 * 2**20)
def _structure(
    circuit: Circuit,
    observables: tuple[Observable, ...],
    apply_frame: bool,
    prune: bool,
    tile_bits: int,
) -> _Structure:
    program = compile_program(circuit, observables, apply_frame, prune)
    whole = tile_bits == program.n_qubits
    units = tuple(1 << bit for bit in range(program.n_qubits))
    stages: list[_Stage] = [_Stage()]
    for kind, members, item in _pieces(program):
        moves = kind in ("dense", "permutation")
        masks = [program.rotations[index].x for index in members if program.rotations[index].x]
        if not whole:
            low = units[: min(_LOW_BITS, tile_bits - _MOST_TOGETHER)]
            span = _reduced([*low, *stages[-1].masks, *masks])
            if moves or stages[-1].moves or len(span) > tile_bits:
                stages.append(_Stage(moves=moves))
        stages[-1].masks += masks
        stages[-1].ops.append((kind, members, item))
    ops: list[NDArray[np.void]] = []
    words: list[NDArray[np.void]] = []
    layout: list[tuple[int, int, bool, tuple[int, ...]]] = []
    for stage in stages:
        basis = units if whole or stage.moves else _tile(stage.masks, units, tile_bits)
        layout.append((len(ops), len(stage.ops), stage.moves, basis))
        for kind, members, item in stage.ops:
            ops.append(_op(program, kind, members, item, basis, words))
    return _Structure(
        program,
        tile_bits,
        tuple(layout),
        {
            "ops": np.array(ops, _OP),
            "words": np.array(words, _WORD),
            **_items(program),
            **_observed(program),
            "rotations": np.array(
                [
                    (one.angle.scale, one.angle.offset, _SOURCES[one.angle.kind], one.angle.index)
                    for one in program.rotations
                ],
                _ROTATION,
            ),
        },
    )


def _tile(masks: Sequence[int], units: Sequence[int], tile_bits: int) -> tuple[int, ...]:
    """Return a basis of ``tile_bits`` addresses that holds the masks, filled up from below."""
    basis = _reduced(masks)
    for unit in units:
        if len(basis) == tile_bits:
            break
        basis = _reduced([*basis, unit])
    return basis


def _parity(bits: int) -> int:
    return bits.bit_count() & 1


def _op(
    program: Program,
    kind: str,
    members: tuple[int, ...],
    item: int,
    basis: tuple[int, ...],
    words: list[Any],
) -> Any:
    """Return an operation in the coordinates of a tile, and append its words."""
    pivots = [vector.bit_length() - 1 for vector in basis]
    local_x = [
        sum((program.rotations[index].x >> pivot & 1) << j for j, pivot in enumerate(pivots))
        for index in members
    ]
    first = len(words)
    offsets = [0] * 8
    if kind == "rotations":
        for j in range(1 << len(members)):
            for k, mask in enumerate(local_x):
                offsets[j] ^= mask if j >> k & 1 else 0
    for index, x in zip(members, local_x, strict=True):
        rotation = program.rotations[index]
        z = sum(_parity(rotation.z & vector) << j for j, vector in enumerate(basis))
        flips = sum(_parity(z & offset) << j for j, offset in enumerate(offsets))
        words.append(
            (x, z, rotation.z, (rotation.x & rotation.z).bit_count() & 3, index, flips,
             rotation.angle.kind != "constant", 0)
        )  # fmt: skip
    places = [vector.bit_length() - 1 for vector in _reduced(local_x)] if offsets[1] else []
    return (_KINDS[kind], len(members), first, item, [*places, 0, 0, 0, 0][:4], offsets)


def _items(program: Program) -> dict[str, Array]:
    matrices = [dense.matrix.reshape(-1) for dense in program.denses]
    firsts = np.cumsum([0, *map(len, matrices)])
    return {
        "denses": np.array(
            [
                (first, len(one.bits), one.control_mask, one.control_value,
                 [*one.bits, *[0] * (_MOST_DENSE_BITS - len(one.bits))])
                for first, one in zip(firsts, program.denses, strict=False)
            ],
            _DENSE,
        ),
        "matrices": np.concatenate([np.zeros(0, np.complex128), *matrices]),
        "sources": _stacked([one.source for one in program.permutations], np.uint32),
        "turns": _stacked([one.phase for one in program.permutations], np.uint8),
        "tables": _stacked(list(program.tables), np.complex128),
    }  # fmt: skip


def _stacked(arrays: Sequence[Array], dtype: Any) -> Array:
    return np.array(arrays, dtype) if arrays else np.zeros(0, dtype)


def _observed(program: Program) -> dict[str, Array]:
    """Return the groups of all observables, their words, and tables of the long ones."""
    groups: list[tuple[int, ...]] = []
    tables: list[Array] = []
    first = 0
    for group in program.groups:
        table = -1
        if len(group.z) > _MOST_WORDS:
            table = len(tables)
            tables.append(_walsh(group, program.n_qubits))
        groups.append((group.observable, group.x, first, len(group.z), table))
        first += len(group.z)
    return {
        "groups": np.array(groups, _GROUP),
        "group_z": np.concatenate([np.zeros(0, np.uint32), *(one.z for one in program.groups)]),
        "group_c": np.concatenate([np.zeros(0, np.complex128), *(one.c for one in program.groups)]),
        "group_tables": _stacked(tables, np.complex128),
    }


def _walsh(group: Group, n_qubits: int) -> NDArray[np.complex128]:
    """Return sum of c (-1)^(z.b) at all addresses b."""
    values = np.zeros(1 << n_qubits, np.complex128)
    np.add.at(values, group.z, group.c)
    for bit in range(n_qubits):
        pairs = values.reshape(-1, 2, 1 << bit)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
    return values


# Runs


@dataclass
class _Outputs:
    """Host arrays to fill, None where not wanted; shapes as in ``Backend``.

    ``values`` is (evaluations, rows, O); derivatives are (rows, slots, ...).
    """

    values: Array | None = None
    parameters: Array | None = None
    inputs: Array | None = None
    state_gradient: Array | None = None
    final_states: Array | None = None
    probabilities: Array | None = None
    read_bits: Sequence[int] = ()
    cotangents: Array | None = None
    shifts: Array | None = None
    gradient: bool = False

    @property
    def evaluations(self) -> int:
        return 1 if self.shifts is None else len(self.shifts)

    def rows(self, part: slice) -> _Outputs:
        """The part of all arrays that belongs to some rows; views."""

        def cut(array: Array | None) -> Array | None:
            return None if array is None else array[part]

        return replace(
            self,
            values=None if self.values is None else self.values[:, part],
            parameters=cut(self.parameters),
            inputs=cut(self.inputs),
            state_gradient=cut(self.state_gradient),
            final_states=cut(self.final_states),
            probabilities=cut(self.probabilities),
            cotangents=cut(self.cotangents),
        )

    def evaluation(self, part: slice) -> _Outputs:
        """The part that belongs to some evaluations; views."""
        assert self.shifts is not None
        assert self.values is not None
        return replace(self, values=self.values[part], shifts=self.shifts[part])


class _Launcher:
    """The numbers that kernels are told, and launches with what they are at that moment."""

    def __init__(self, arena: Arena, precision: Precision) -> None:
        self.arena = arena
        self.precision: Precision = precision
        self.call = np.zeros(1, [(name, "i8") for name in call_fields()])

    def __setitem__(self, name: str, value: int) -> None:
        self.call[name] = value

    def __getitem__(self, name: str) -> int:
        return int(self.call[name][0])

    def __call__(self, kernel: str, grid: int, block: int, shared: int = 0) -> None:
        if grid:
            self.arena.device.launch(
                self.precision, kernel, grid, block, shared, self.arena.put(self.call)
            )

    def threads(self, kernel: str, number: int) -> None:
        """Launch a thread for each of ``number`` results."""
        self(kernel, -(-number // 128), 128)


class CudaBackend(Backend):
    """Runs on an NVIDIA GPU, number ``device`` or another ``Device`` that runs the kernels.

    Raises:
        BackendUnavailable: no cuda.core, NVRTC, driver or GPU.
    """

    name = "cuda"

    def __init__(self, device: int | Device = 0) -> None:
        self.device = device if isinstance(device, Device) else CudaDevice(device)

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return the loop from features to states on the device, None for indices."""
        if isinstance(encoding, Amplitude):
            return partial(self._fill_amplitudes, encoding)
        return (
            partial(self._fill_by_gates, encoding) if isinstance(encoding, GateEncoding) else None
        )

    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""
        states = np.empty((batch.rows, 2**circuit.n_qubits), batch.complex_dtype)
        self._run(circuit, (), batch, _Outputs(final_states=states), apply_frame=True)
        phases = compile_program(circuit, (), True).phases
        if phases:
            total = sum(angle.evaluate(batch.parameters, batch.inputs) for angle in phases)
            states *= np.exp(1j * np.asarray(total)).astype(states.dtype).reshape(-1, 1)
        return states

    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O)."""
        values = np.empty((1, batch.rows, len(observables)), batch.real_dtype)
        self._run(circuit, tuple(observables), batch, _Outputs(values=values))
        return values.reshape(values.shape[1:])

    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, in order, (rows, 2**len(wires))."""
        found = np.empty((batch.rows, 2 ** len(wires)), batch.real_dtype)
        bits = [circuit.n_qubits - 1 - wire for wire in wires]
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
        shape = (batch.rows, 1 if cotangents is not None else len(observables))
        real = batch.real_dtype
        outputs = _Outputs(
            values=np.empty((1, batch.rows, len(observables)), real),
            cotangents=None if cotangents is None else np.asarray(cotangents, np.float64),
            gradient=True,
        )
        if "parameters" in wrt:
            outputs.parameters = np.empty((*shape, circuit.n_parameters), real)
        if "inputs" in wrt:
            outputs.inputs = np.empty((*shape, circuit.n_inputs), real)
        if "states" in wrt:
            size = 2**circuit.n_qubits
            outputs.state_gradient = np.empty((*shape, size), batch.complex_dtype)
        self._run(circuit, tuple(observables), batch, outputs)
        assert outputs.values is not None
        return AdjointResult(
            outputs.values[0], outputs.parameters, outputs.inputs, outputs.state_gradient
        )

    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O)."""
        values = np.empty((len(shifts), batch.rows, len(observables)), batch.real_dtype)
        program = compile_program(circuit, tuple(observables), False, batch.prune)
        added = np.zeros((len(shifts), len(program.rotations)))
        for evaluation, group in enumerate(shifts):
            for operation, slot, amount in group:
                for index in program.rotations_of(operation, slot):
                    added[evaluation, index] += program.rotations[index].factor * amount
        if len(shifts):
            self._run(circuit, tuple(observables), batch, _Outputs(values=values, shifts=added))
        return values

    def fidelity_kernel(self, left: Array, right: Array) -> Array:
        """Return |<a|b>|**2 of all pairs of states of one complex dtype, (rows_a, rows_b)."""
        precision: Precision = "double" if left.dtype == np.complex128 else "single"
        with Arena(self.device) as arena:
            launch = _Launcher(arena, precision)
            launch["n_qubits"] = int(left.shape[1]).bit_length() - 1
            launch["psi"], launch["other"] = arena.put(left), arena.put(right)
            launch["other_rows"] = len(right)
            found: Array = np.empty((len(left), len(right)), left.real.dtype)
            launch["outputs"] = arena.empty(found.nbytes)
            launch("overlaps", found.size, 128, _PENDING_BYTES)
            self.device.download(found, launch["outputs"])
        return found

    # What stands behind the verbs

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
        """Run all rows and evaluations, in chunks that fit into half of the free memory."""
        itemsize = np.dtype(batch.complex_dtype).itemsize
        tile_bits = self._tile_bits(circuit.n_qubits, itemsize, 2 if outputs.gradient else 1)
        prune = batch.prune and not apply_frame
        structure = _structure(circuit, observables, apply_frame, prune, tile_bits)
        slots = _slots(outputs, len(observables))
        n_rotations = len(structure.program.rotations)
        per_item = (4 * itemsize << circuit.n_qubits) + (8 + itemsize) * (n_rotations + 1)
        if tile_bits < circuit.n_qubits:
            per_item += 8 * n_rotations << (circuit.n_qubits - tile_bits)
        room = self.device.free_bytes() // 2 // per_item
        if room < slots:
            raise MemoryError(
                f"a row of {circuit.n_qubits} qubits: expected at most "
                f"{memory.format_bytes(self.device.free_bytes() // 2)} (half of the GPU's free "
                f"memory), got a need of {memory.format_bytes(per_item * slots)}; remedy: use "
                "fewer qubits or observables, or precision='single'"
            )
        rows = max(1, room // slots)
        evaluations = max(1, room // min(rows, max(1, batch.rows)))
        for start in range(0, batch.rows, rows):
            part = slice(start, min(start + rows, batch.rows))
            chunk, results = batch.part(part), outputs.rows(part)
            if outputs.shifts is None:
                self._run_chunk(structure, chunk, results, slots)
                continue
            for first in range(0, outputs.evaluations, evaluations):
                some = results.evaluation(slice(first, first + evaluations))
                self._run_chunk(structure, chunk, some, slots)

    def _run_chunk(
        self, structure: _Structure, batch: Batch, outputs: _Outputs, slots: int
    ) -> None:
        with Arena(self.device) as arena:
            launch = _Launcher(arena, batch.precision)
            _describe(launch, structure, batch, outputs, slots)
            launch.threads("angles", launch["n_sets"] * launch["n_rotations"])
            itemsize = np.dtype(batch.complex_dtype).itemsize
            n_bytes = itemsize << launch["n_qubits"]
            if structure.tile_bits == launch["n_qubits"]:
                self._run_whole(launch, structure, outputs, n_bytes)
            else:
                self._run_passes(launch, structure, outputs, n_bytes)
            self._collect(launch, structure, batch, outputs)

    def _run_whole(
        self, launch: _Launcher, structure: _Structure, outputs: _Outputs, n_bytes: int
    ) -> None:
        """The whole circuit of an item in one block."""
        arena, n_items = launch.arena, launch["n_items"]
        if structure.program.denses or structure.program.permutations:
            launch["scratch"] = arena.empty(n_items * n_bytes)
        if outputs.final_states is not None or outputs.probabilities is not None:
            launch["final_states"] = launch["psi"] = arena.empty(n_items * n_bytes)
        if outputs.values is not None:
            launch["values"] = arena.empty(outputs.values.nbytes)
        if outputs.state_gradient is not None:
            launch["state_gradient"] = arena.empty(n_items * n_bytes)
        launch["n_targets"] = launch["n_rotations"] + launch["n_observables"]
        launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
        launch["n_ops"] = len(structure.arrays["ops"])
        threads = _threads(1 << max(0, launch["n_qubits"] - 1))
        shared = _PENDING_BYTES + (2 if outputs.gradient else 1) * n_bytes
        launch("run", n_items, threads, shared)

    def _run_passes(
        self, launch: _Launcher, structure: _Structure, outputs: _Outputs, n_bytes: int
    ) -> None:
        """States in device memory, a launch for each stage."""
        arena, n_items = launch.arena, launch["n_items"]
        n_tiles = 1 << (launch["n_qubits"] - structure.tile_bits)
        n_parts = min(_MOST_PARTS, n_tiles)
        launch["psi"] = arena.empty(n_items * n_bytes)
        launch["scratch"] = arena.empty(n_items * n_bytes)
        launch["n_parts"] = n_parts
        if launch["normalize"]:
            launch["norm_parts"] = arena.empty(8 * n_items * n_parts)
            launch("norms", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
        launch("load", n_items * n_parts, _MOST_THREADS)
        for stage in structure.stages:
            self._stage(launch, structure, stage, backward=False)
        launch["final_states"] = launch["psi"]
        if outputs.values is not None:
            launch["n_parts"], launch["n_targets"] = n_parts, launch["n_observables"]
            launch["parts"] = arena.empty(8 * n_items * launch["n_targets"] * n_parts)
            launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
            launch("observe", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
            launch.threads("gather_parts", n_items * launch["n_targets"])
            found = np.empty((outputs.evaluations, launch["rows"], launch["n_slots"],
                              launch["n_observables"]))  # fmt: skip
            self.device.download(found, launch["sums"])
            outputs.values[...] = found[:, :, 0]
        if not outputs.gradient:
            return
        launch["lambda"] = arena.empty(n_items * n_bytes)
        launch("pull", n_items * n_parts, _MOST_THREADS)
        launch["n_targets"] = launch["n_rotations"]
        launch["parts"] = arena.empty(8 * n_items * launch["n_targets"] * n_tiles)
        launch["sums"] = arena.empty(8 * n_items * launch["n_targets"])
        for stage in reversed(structure.stages):
            self._stage(launch, structure, stage, backward=True)
        launch["n_parts"] = n_tiles
        launch.threads("gather_parts", n_items * launch["n_targets"])
        if outputs.state_gradient is not None:
            launch["n_parts"] = n_parts
            launch["state_gradient"] = launch["scratch"]
            launch("doubled", n_items * n_parts, _MOST_THREADS)

    def _stage(
        self,
        launch: _Launcher,
        structure: _Structure,
        stage: tuple[int, int, bool, tuple[int, ...]],
        *,
        backward: bool,
    ) -> None:
        first, count, moves, basis = stage
        if not count:
            return
        all_ops = launch["ops"]
        n_items = launch["n_items"]
        launch["ops"], launch["n_ops"] = all_ops + first * _OP.itemsize, count
        if moves:
            launch["inverse"], launch["n_parts"] = int(backward), _MOST_PARTS
            for name in ("psi", "lambda") if backward else ("psi",):
                state, scratch, psi = launch[name], launch["scratch"], launch["psi"]
                launch["psi"] = state
                launch("gather", n_items * _MOST_PARTS, _MOST_THREADS)
                launch["psi"] = psi
                launch[name], launch["scratch"] = scratch, state
        else:
            launch["tile_bits"] = structure.tile_bits
            launch["n_parts"] = 1 << (launch["n_qubits"] - structure.tile_bits)
            launch["basis"] = launch.arena.put(np.array(basis, np.uint32))
            pivots = sum(1 << (vector.bit_length() - 1) for vector in basis)
            launch["free_mask"] = (1 << launch["n_qubits"]) - 1 ^ pivots
            launch["gradient"] = int(backward)
            itemsize = 16 if launch.precision == "double" else 8
            shared = _PENDING_BYTES + ((2 if backward else 1) * itemsize << structure.tile_bits)
            launch("pass", n_items * launch["n_parts"], _threads(1 << structure.tile_bits), shared)
        launch["ops"] = all_ops

    def _collect(
        self, launch: _Launcher, structure: _Structure, batch: Batch, outputs: _Outputs
    ) -> None:
        """Bring what was asked for back to the host."""
        device = self.device
        if outputs.values is not None and launch["values"]:
            values = np.empty(outputs.values.shape, batch.real_dtype)
            device.download(values, launch["values"])
            outputs.values[...] = values
        if outputs.final_states is not None:
            device.download(outputs.final_states, launch["final_states"])
        if outputs.state_gradient is not None:
            device.download(outputs.state_gradient, launch["state_gradient"])
        for kind, target in (("parameter", outputs.parameters), ("input", outputs.inputs)):
            if target is not None and target.size:
                self._accumulate(launch, structure.program, kind, target)
        if outputs.probabilities is not None:
            bits = list(outputs.read_bits)
            launch["psi"] = launch["final_states"]
            launch["read_bits"] = launch.arena.put(np.array(bits, np.uint32))
            launch["n_read"] = len(bits)
            launch["other_mask"] = (1 << launch["n_qubits"]) - 1 ^ sum(1 << bit for bit in bits)
            launch["outputs"] = launch.arena.empty(outputs.probabilities.nbytes)
            others = 1 << (launch["n_qubits"] - len(bits))
            launch("marginals", outputs.probabilities.size, _threads(others), _PENDING_BYTES)
            device.download(outputs.probabilities, launch["outputs"])

    def _accumulate(self, launch: _Launcher, program: Program, kind: str, target: Array) -> None:
        """Add up the slopes of all rotations that read one parameter or input."""
        n_outputs = target.shape[2]
        terms: list[list[tuple[int, float]]] = [[] for _ in range(n_outputs)]
        for number, rotation in enumerate(program.rotations):
            if rotation.angle.kind == kind:
                terms[rotation.angle.index].append((number, rotation.angle.scale))
        flat = [term for group in terms for term in group]
        arena = launch.arena
        launch["first_terms"] = arena.put(np.cumsum([0, *map(len, terms)], dtype=np.int64))
        launch["terms"] = arena.put(np.array([number for number, _ in flat], np.int64))
        launch["scales"] = arena.put(np.array([scale for _, scale in flat], np.float64))
        launch["n_outputs"] = n_outputs
        launch["outputs"] = arena.empty(target.nbytes)
        launch.threads("accumulate", launch["n_items"] * n_outputs)
        self.device.download(target, launch["outputs"])

    def _fill_amplitudes(self, encoding: Amplitude, features: Array, out: Array) -> bool:
        if not encoding.normalize:
            norms = np.sqrt((np.abs(features.astype(np.complex128)) ** 2).sum(axis=1))
            if not (np.abs(norms - 1) < norm_tolerance(features)).all():
                return False
        else:
            checked, norms = encoding.validate_with_norms(features, _qubits_of(out))
            features = encoding.in_safe_range(checked, norms)
        circuit = Circuit(_qubits_of(out))
        # What the features leave of a state is filled with zeros as they are loaded.
        batch = Batch(
            len(features),
            np.zeros(0),
            states=features,
            normalize=encoding.normalize,
            precision=_precision_of(out),
        )
        out[...] = self.state(circuit, batch)
        return True

    def _fill_by_gates(self, encoding: GateEncoding, features: Array, out: Array) -> bool:
        n_qubits = _qubits_of(out)
        circuit = encoding.before(Circuit(n_qubits), features.shape[1])
        batch = Batch(len(features), np.zeros(0), inputs=encoding.angles(features, n_qubits),
                      precision=_precision_of(out))  # fmt: skip
        out[...] = self.state(circuit, batch)
        return True


def _describe(
    launch: _Launcher, structure: _Structure, batch: Batch, outputs: _Outputs, slots: int
) -> None:
    """Put everything that a chunk works on onto the device."""
    arena, program = launch.arena, structure.program
    launch["n_qubits"] = program.n_qubits
    launch["rows"], launch["n_slots"] = batch.rows, slots
    launch["n_items"] = outputs.evaluations * batch.rows * slots
    for name, array in structure.arrays.items():
        launch[name] = arena.put(array)
    launch["n_rotations"] = len(program.rotations)
    launch["n_groups"] = len(program.groups)
    launch["n_observables"] = program.n_observables
    parameters = np.asarray(batch.parameters, np.float64)
    launch["parameters"] = arena.put(parameters)
    launch["parameter_stride"] = parameters.shape[1] if parameters.ndim == 2 else 0
    if batch.inputs is not None:
        launch["inputs"] = arena.put(np.asarray(batch.inputs, np.float64))
        launch["input_stride"] = batch.inputs.shape[1]
    per_row = parameters.ndim == 2 or program.n_inputs > 0
    sets_a_row = batch.rows if per_row else 1
    launch["n_sets"] = outputs.evaluations * sets_a_row
    launch["set_row_stride"], launch["set_stride"] = int(per_row), sets_a_row
    if outputs.shifts is not None:
        launch["shifts"] = arena.put(outputs.shifts)
    itemsize = np.dtype(batch.complex_dtype).itemsize
    launch["coefficients"] = arena.empty(launch["n_sets"] * launch["n_rotations"] * itemsize)
    _describe_rows(launch, batch)
    launch["gradient"] = int(outputs.gradient)
    if outputs.cotangents is not None:
        launch["contracted"] = 1
        launch["cotangents"] = arena.put(outputs.cotangents)


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


def load_states(arena: Arena, batch: Batch, n_qubits: int, n_items: int, slots: int) -> int:
    """Return the address of the states that rows start in: complex, (n_items, 2**n_qubits).

    An item is a row, ``slots`` times in turn, and all of them for each evaluation. Rows are
    normalised where the batch says so, and padded with zeros.
    """
    launch = _Launcher(arena, batch.precision)
    launch["n_qubits"], launch["n_items"] = n_qubits, n_items
    launch["rows"], launch["n_slots"] = batch.rows, slots
    launch["n_parts"] = n_parts = min(_MOST_PARTS, max(1, (1 << n_qubits) // (8 * _MOST_THREADS)))
    launch["psi"] = arena.empty(n_items * np.dtype(batch.complex_dtype).itemsize << n_qubits)
    _describe_rows(launch, batch)
    if launch["normalize"]:
        launch["norm_parts"] = arena.empty(8 * n_items * n_parts)
        launch("norms", n_items * n_parts, _MOST_THREADS, _PENDING_BYTES)
    launch("load", n_items * n_parts, _MOST_THREADS)
    return launch["psi"]


def _describe_rows(launch: _Launcher, batch: Batch) -> None:
    """Put what rows start in onto the device."""
    if batch.states is not None:
        launch["element"] = _ELEMENTS[batch.states.dtype.type]
        launch["states"] = launch.arena.put(batch.states)
        launch["columns"] = batch.states.shape[1]
        launch["normalize"] = int(batch.normalize)
    elif batch.indices is not None:
        launch["element"] = _INDEX
        launch["states"] = launch.arena.put(np.asarray(batch.indices, np.int64))
