# SPDX-License-Identifier: Apache-2.0
"""A program as the CUDA kernels read it: operations in the coordinates of tiles, and terms of sums.

Everything here depends on structure alone, angles are not known, and nothing is on a device. The
numbers and records are those of ``kernels/engine.cu``, whose letters are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdp import memory
from qdp.backends.base import Array, Shift
from qdp.circuit import Circuit, Observable
from qdp.gates import Angle
from qdp.program import Group, Program, compile_program

_KINDS = {"rotations": 0, "diagonal": 1, "table": 2, "dense": 3, "permutation": 4}
_SOURCES = {"constant": 0, "parameter": 1, "input": 2}
# Rotations that go through registers together.
_MOST_TOGETHER = 3
# Low bits that every tile has, so that neighbours in memory are read together.
_LOW_BITS = 4
# A group of more words than this is read from a table.
_MOST_WORDS = 16
_MOST_DENSE_BITS = 28

# The weighted terms of each column of a derivative: number of a rotation or evaluation, weight,
# and a feature whose distance multiplies, or -1.
Terms = Sequence[Sequence[tuple[int, float, int]]]

OPERATION = np.dtype(
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


@dataclass
class _Stage:
    """One launch over states in device memory: operations inside a tile, or one that moves all."""

    ops: list[Any] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    moves: bool = False
    basis: tuple[int, ...] = ()


@dataclass(frozen=True)
class Structure:
    """A program as the kernels read it, without angles.

    Each of ``stages`` is its first operation, how many there are, whether it moves whole states,
    and the basis of its tiles, all of which are also in the array "basis", one after another.
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


def _structure_bytes(structure: Structure) -> int:
    return structure.n_bytes


@memory.cached_by_bytes(_structure_bytes, 256 * 2**20)
def structure_of(
    circuit: Circuit,
    observables: tuple[Observable, ...],
    apply_frame: bool,
    prune: bool,
    tile_bits: int,
) -> Structure:
    """Return the normal form of a circuit in operations inside tiles of ``tile_bits`` addresses."""
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
    return Structure(
        program,
        tile_bits,
        tuple(layout),
        {
            "ops": np.array(ops, OPERATION),
            "words": np.array(words, _WORD),
            **_items(program),
            **_observed(program),
            "rotations": _angles(one.angle for one in program.rotations),
            "phases": _angles(program.phases),
            "basis": np.array([vector for *_, basis in layout for vector in basis], np.uint32),
        },
    )


def _angles(angles: Iterable[Angle]) -> Array:
    found = [(one.scale, one.offset, _SOURCES[one.kind], one.index) for one in angles]
    return np.array(found, _ROTATION)


def _tile(masks: Sequence[int], units: Sequence[int], tile_bits: int) -> tuple[int, ...]:
    """Return a basis of ``tile_bits`` addresses that holds the masks, filled up from below."""
    basis = _reduced(masks)
    for unit in units:
        if len(basis) == tile_bits:
            break
        basis = _reduced([*basis, unit])
    return basis


def transform_tiles(n_qubits: int, tile_bits: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return tiles that transform all bits together: from which of its bits on, and its basis.

    >>> transform_tiles(5, 4)
    [(0, (1, 2, 4, 8)), (3, (1, 2, 4, 16))]
    """
    units = tuple(1 << bit for bit in range(n_qubits))
    tiles = [(0, units[:tile_bits])]
    done = tile_bits
    while done < n_qubits:
        count = min(tile_bits - min(_LOW_BITS, tile_bits - _MOST_TOGETHER), n_qubits - done)
        kept = tile_bits - count
        tiles.append((kept, units[:kept] + units[done : done + count]))
        done += count
    return tiles


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


def shift_table(program: Program, shifts: Sequence[tuple[Shift, ...]]) -> Array:
    """Return what each evaluation adds to each rotation's angle, (evaluations, rotations)."""
    added = np.zeros((len(shifts), len(program.rotations)))
    for evaluation, group in enumerate(shifts):
        for operation, slot, amount in group:
            for index in program.rotations_of(operation, slot):
                added[evaluation, index] += program.rotations[index].factor * amount
    return added


def rotation_terms(program: Program, kind: str) -> list[list[tuple[int, float]]]:
    """Return the rotations that read each parameter or input, with the scales of their angles."""
    count = program.n_parameters if kind == "parameter" else program.n_inputs
    terms: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for number, rotation in enumerate(program.rotations):
        if rotation.angle.kind == kind:
            terms[rotation.angle.index].append((number, rotation.angle.scale))
    return terms


def term_arrays(terms: Terms) -> dict[str, Array]:
    """Return terms as the kernel reads them."""
    flat = [term for column in terms for term in column]
    return {
        "first_terms": np.cumsum([0, *map(len, terms)], dtype=np.int64),
        "terms": np.array([number for number, _, _ in flat], np.int64),
        "scales": np.array([scale for _, scale, _ in flat], np.float64),
        "factors": np.array([factor for _, _, factor in flat], np.int64),
    }


def plain_terms(terms: Sequence[Sequence[tuple[int, float]]]) -> Terms:
    """Return terms that no feature multiplies."""
    return tuple(tuple((number, scale, -1) for number, scale in column) for column in terms)
