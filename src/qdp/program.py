# SPDX-License-Identifier: Apache-2.0
"""Circuits in normal form: Pauli rotations on the encoded state, Cliffords moved to the end.

Let C be the product of the Clifford gates met so far (the *frame*). A rotation about P behind C
equals C times a rotation about C^dagger P C, again a Pauli word; so Cliffords cost no pass over the
state: they change which words later rotations and observables use. What cannot be written so
(dense matrices; states and probabilities, which need C itself) first applies the frame: relabelled
addresses and phases i^k in one permutation, a Hadamard as a Z and a rotation.

This module is pure structure: no parameter values, no states. Words are (x, z) bit masks, wire q at
bit n - 1 - q: the operator i^popcount(x & z) X^x Z^z.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qdp import gates, memory
from qdp.circuit import Circuit, HermitianTerm, Observable, PauliTerm, ProjectorTerm
from qdp.gates import Angle, Operation

# A primitive: the number of the operation in the circuit, and of the primitive in the operation.
Place = tuple[int, int]
StepKind = Literal["rotations", "diagonal", "dense", "permutation", "table"]

# Observables with more words than this are measured behind the applied frame, where all words of
# a projector or a matrix share few X masks, unless the frame keeps Z words Z words.
MAX_WORDS_BEFORE_FRAME = 16

# A rotation as a Python object with its angle, and what all programs that are kept may hold.
_ROTATION_BYTES = 500
_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PauliRotation:
    """exp(-i angle/2 P) for the word P = (x, z); its sign is folded into the angle.

    ``operation`` and ``slot`` say which angle of which circuit operation it comes from, ``factor``
    how much the rotation's angle changes per change of that angle (slot -1: none).
    """

    x: int
    z: int
    angle: Angle
    operation: int
    slot: int
    factor: float


@dataclass(frozen=True, slots=True)
class DenseStep:
    """A complex matrix on address bits (most significant first) where control bits match."""

    matrix: NDArray[np.complex128]
    bits: tuple[int, ...]
    control_mask: int
    control_value: int


@dataclass(frozen=True, slots=True)
class PermutationStep:
    """out[b] = i**phase[b] * in[source[b]] over all 2**n addresses."""

    source: NDArray[np.uint32]
    phase: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Step:
    """One walk over the state: commuting rotations, or item ``item`` of its kind's list."""

    kind: StepKind
    rotations: tuple[int, ...] = ()
    item: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """The words of one observable that share an X mask: sum of c * (-1)**parity(z & b) at b."""

    observable: int
    x: int
    z: NDArray[np.uint32]
    c: NDArray[np.complex128]


@dataclass(frozen=True)
class Program:
    """A circuit and its observables in normal form."""

    n_qubits: int
    n_parameters: int
    n_inputs: int
    n_observables: int
    rotations: tuple[PauliRotation, ...]
    steps: tuple[Step, ...]
    denses: tuple[DenseStep, ...]
    permutations: tuple[PermutationStep, ...]
    tables: tuple[NDArray[np.complex128], ...]
    groups: tuple[Group, ...]
    phases: tuple[Angle, ...]  # global phase: the sum of these angles
    outside: tuple[str, ...]  # operations that are no rotations or Cliffords, as text
    pruned: frozenset[Place]  # primitives left out, since they can't matter to the observables
    _by_angle: dict[tuple[int, int], tuple[int, ...]] = field(repr=False, compare=False)

    @property
    def n_bytes(self) -> int:
        """Bytes held, about."""
        arrays: list[NDArray[Any]] = [*self.tables, *(dense.matrix for dense in self.denses)]
        for permutation in self.permutations:
            arrays += (permutation.source, permutation.phase)
        for group in self.groups:
            arrays += (group.z, group.c)
        return sum(array.nbytes for array in arrays) + _ROTATION_BYTES * (len(self.rotations) + 1)

    def rotations_of(self, operation: int, slot: int) -> tuple[int, ...]:
        """Return the rotations that change with one angle of one circuit operation."""
        return self._by_angle.get((operation, slot), ())


# Words


class _Word:
    """i**phase X^x Z^z, the X part to the left."""

    __slots__ = ("phase", "x", "z")

    def __init__(self, x: int, z: int, phase: int) -> None:
        self.x, self.z, self.phase = x, z, phase & 3

    def __mul__(self, other: _Word) -> _Word:
        swaps = (self.z & other.x).bit_count()
        return _Word(self.x ^ other.x, self.z ^ other.z, self.phase + other.phase + 2 * swaps)

    @property
    def sign(self) -> int:
        """+1 or -1 before the Hermitian word i**popcount(x & z) X^x Z^z."""
        turns = (self.phase - (self.x & self.z).bit_count()) & 3
        assert turns in (0, 2), "a Clifford takes Hermitian words to Hermitian words"
        return 1 if turns == 0 else -1


class _Frame:
    """The pending Clifford C: images C^dagger X_q C and C^dagger Z_q C, and its gates."""

    def __init__(self, n_qubits: int) -> None:
        self.n_qubits = n_qubits
        self.clear()

    def clear(self) -> None:
        bits = [1 << (self.n_qubits - 1 - q) for q in range(self.n_qubits)]
        self.x = [_Word(bit, 0, 0) for bit in bits]
        self.z = [_Word(0, bit, 0) for bit in bits]
        self.gates: list[gates.Clifford] = []

    def append(self, gate: gates.Clifford) -> None:
        """Let ``gate`` act behind the frame: C becomes gate * C."""
        self.gates.append(gate)
        x, z, a = self.x, self.z, gate.wires[0]
        match gate.name:
            case "X":
                z[a] = _Word(z[a].x, z[a].z, z[a].phase + 2)
            case "Z":
                x[a] = _Word(x[a].x, x[a].z, x[a].phase + 2)
            case "Y":
                x[a] = _Word(x[a].x, x[a].z, x[a].phase + 2)
                z[a] = _Word(z[a].x, z[a].z, z[a].phase + 2)
            case "H":
                x[a], z[a] = z[a], x[a]
            case "S" | "SDG":  # S^dagger X S = -Y = -i X Z
                product = x[a] * z[a]
                x[a] = _Word(product.x, product.z, product.phase + (3 if gate.name == "S" else 1))
            case "CNOT":
                b = gate.wires[1]
                x[a] = x[a] * x[b]
                z[b] = z[a] * z[b]
            case "CZ":
                b = gate.wires[1]
                x[a], x[b] = x[a] * z[b], z[a] * x[b]
            case "SWAP":
                b = gate.wires[1]
                x[a], x[b] = x[b], x[a]
                z[a], z[b] = z[b], z[a]

    def pull_back(self, letters: Iterable[tuple[int, str]]) -> _Word:
        """Return C^dagger P C for the Pauli word P given as (wire, letter) pairs."""
        word = _Word(0, 0, 0)
        for wire, letter in letters:
            if letter == "X":
                word = word * self.x[wire]
            elif letter == "Z":
                word = word * self.z[wire]
            else:
                word = word * self.x[wire] * self.z[wire]
                word.phase = (word.phase + 1) & 3
        return word


# The frame applied


def _permutation_of(run: Sequence[gates.Clifford], n_qubits: int) -> PermutationStep:
    """Return Cliffords without Hadamards as one permutation with phases."""
    address = np.arange(1 << n_qubits, dtype=np.uint32)
    phase = np.zeros(1 << n_qubits, dtype=np.uint8)

    def bit(wire: int) -> NDArray[np.uint8]:
        return (address >> np.uint32(n_qubits - 1 - wire) & np.uint32(1)).astype(np.uint8)

    def flip(wire: int, where: NDArray[np.uint8] | int = 1) -> None:
        nonlocal address
        shift = np.uint32(n_qubits - 1 - wire)
        address = address ^ (np.asarray(where, dtype=np.uint32) << shift)

    # ``address`` is where the amplitude that started at each place stands now.
    for gate in run:
        a, b = gate.wires[0], gate.wires[-1]
        match gate.name:
            case "X":
                flip(a)
            case "Z":
                phase += 2 * bit(a)
            case "Y":  # Y|0> = i|1>, Y|1> = -i|0>
                phase += 1 + 2 * bit(a)
                flip(a)
            case "S":
                phase += bit(a)
            case "SDG":
                phase += 3 * bit(a)
            case "CNOT":
                flip(b, bit(a))
            case "CZ":
                phase += 2 * (bit(a) & bit(b))
            case "SWAP":
                differ = bit(a) ^ bit(b)
                flip(a, differ)
                flip(b, differ)
            case _:
                raise AssertionError(f"{gate.name} is no permutation")
    source = np.empty_like(address)
    source[address] = np.arange(1 << n_qubits, dtype=np.uint32)
    return PermutationStep(source, (phase[source] & 3).astype(np.uint8))


def _frame_runs(
    sequence: Sequence[gates.Clifford],
) -> list[tuple[list[gates.Clifford], list[int]]]:
    """Cut Cliffords into runs: permutation-like gates, then Hadamards on some wires."""
    runs: list[tuple[list[gates.Clifford], list[int]]] = [([], [])]
    for gate in sequence:
        plain, hadamards = runs[-1]
        if gate.name == "H":
            wire = gate.wires[0]
            if wire in hadamards:
                hadamards.remove(wire)
            else:
                hadamards.append(wire)
        elif any(wire in hadamards for wire in gate.wires):
            runs.append(([gate], []))
        else:
            plain.append(gate)
    return runs


# Pruning


class _Span:
    """Pauli words without their phases, and all products of them."""

    def __init__(self) -> None:
        # By the place of the highest set bit of x, then of z: at most 2n words.
        self.basis: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, x: int, z: int) -> None:
        while x or z:
            place = (x.bit_length(), 0 if x else z.bit_length())
            if place not in self.basis:
                self.basis[place] = (x, z)
                return
            x, z = x ^ self.basis[place][0], z ^ self.basis[place][1]

    def commutes(self, x: int, z: int) -> bool:
        """Whether the word commutes with every word of the span."""
        return all(
            ((x & other_z).bit_count() + (z & other_x).bit_count()) % 2 == 0
            for other_x, other_z in self.basis.values()
        )

    def pulled_back(self, frame: _Frame) -> _Span:
        """The span of C^dagger P C for the frame's C."""
        result = _Span()
        for x, z in self.basis.values():
            image_x = image_z = 0
            for wire in range(frame.n_qubits):
                bit = 1 << (frame.n_qubits - 1 - wire)
                for image in (frame.x[wire],) * bool(x & bit) + (frame.z[wire],) * bool(z & bit):
                    image_x, image_z = image_x ^ image.x, image_z ^ image.z
            result.add(image_x, image_z)
        return result


def _without_effect(builder: _Builder, observables: Sequence[Observable]) -> frozenset[Place]:
    """Return the primitives that commute with all that follows, themselves left out, and is read.

    Such a U drops out of U^dagger O U. "All that follows" is kept as a span of words: what
    commutes with the words of a rotation, a matrix or an observable commutes with it.
    """
    needed = _Span()
    for observable in observables:
        for component in observable.components:
            letters = (
                [component.paulis]
                if isinstance(component, PauliTerm)
                else _generators(component.wires, isinstance(component, HermitianTerm))
            )
            for word in map(builder.frame.pull_back, letters):
                needed.add(word.x, word.z)
    found: set[Place] = set()
    for event in reversed(builder.history):
        if isinstance(event, _Frame):
            needed = needed.pulled_back(event)
            continue
        place, words = event
        if all(needed.commutes(word.x, word.z) for word in words):
            found.add(place)
        else:
            for word in words:
                needed.add(word.x, word.z)
    return frozenset(found)


def _generators(wires: Sequence[int], with_x: bool) -> list[tuple[tuple[int, str], ...]]:
    """Words whose products span all matrices on ``wires``, or, without X, all diagonal ones."""
    return [((wire, letter),) for wire in wires for letter in ("ZX" if with_x else "Z")]


# Building


class _Builder:
    def __init__(self, circuit: Circuit, skip: frozenset[Place] = frozenset()) -> None:
        self.circuit = circuit
        self.skip = skip
        # In the order of the circuit: primitives that are no Cliffords with words that generate
        # them, behind the pending frame, and each frame as it was applied.
        self.history: list[tuple[Place, list[_Word]] | _Frame] = []
        self.n_qubits = circuit.n_qubits
        # Between two looks at its scale, a state in tangent form grows by up to sqrt(2) a rotation.
        self.most_rotations = 2 * circuit.n_qubits + 8
        self.frame = _Frame(circuit.n_qubits)
        self.rotations: list[PauliRotation] = []
        self.steps: list[tuple[StepKind, list[int], int]] = []
        self.denses: list[DenseStep] = []
        self.permutations: list[PermutationStep] = []
        self.tables: list[NDArray[np.complex128]] = []
        self.phases: list[Angle] = []
        self.outside: list[str] = []

    def add_operations(self) -> None:
        for number, operation in enumerate(self.circuit.operations):
            for part, primitive in enumerate(slotted_primitives(operation)):
                place = (number, part)
                if place in self.skip:
                    continue
                match primitive:
                    case gates.Clifford():
                        self.frame.append(primitive)
                    case gates.Rotation(word, wires, angle):
                        pulled = self.frame.pull_back(zip(wires, word, strict=True))
                        self.history.append((place, [pulled]))
                        self.add_rotation(pulled, angle, operation, number)
                    case gates.Phase(angle):
                        self.phases.append(composed_angle(angle, operation))
                    case gates.Dense():
                        self.outside.append(str(operation)[:60])
                        self.apply_frame()
                        self.remember(place, primitive.wires, primitive.controls)
                        self.denses.append(
                            DenseStep(
                                np.ascontiguousarray(primitive.matrix, dtype=np.complex128),
                                tuple(self.bit(wire) for wire in primitive.wires),
                                sum(1 << self.bit(wire) for wire in primitive.controls),
                                sum(
                                    value << self.bit(wire)
                                    for wire, value in zip(
                                        primitive.controls, primitive.control_values, strict=True
                                    )
                                ),
                            )
                        )
                        self.steps.append(("dense", [], len(self.denses) - 1))
                    case gates.Diagonal(values, wires):
                        self.outside.append(str(operation)[:60])
                        self.apply_frame()
                        self.remember(place, (), wires)
                        index = np.zeros(1 << self.n_qubits, dtype=np.int64)
                        address = np.arange(1 << self.n_qubits)
                        for wire in wires:
                            index = index << 1 | (address >> self.bit(wire) & 1)
                        self.tables.append(np.asarray(values, dtype=np.complex128)[index])
                        self.steps.append(("table", [], len(self.tables) - 1))

    def remember(self, place: Place, wires: Sequence[int], diagonal: Sequence[int]) -> None:
        """Note a matrix on ``wires``, diagonal on others, behind an empty frame."""
        letters = _generators(wires, True) + _generators(diagonal, False)
        self.history.append((place, [self.frame.pull_back(one) for one in letters]))

    def bit(self, wire: int) -> int:
        return self.n_qubits - 1 - wire

    def add_rotation(
        self, word: _Word, angle: Angle, operation: Operation | None, number: int
    ) -> None:
        slot, factor = -1, 0.0
        if operation is not None:
            if angle.kind == "parameter":  # a slot of the operation, see slotted_primitives
                slot, factor = angle.index, angle.scale * word.sign
            angle = composed_angle(angle, operation)
        rotation = PauliRotation(word.x, word.z, angle * word.sign, number, slot, factor)
        self.rotations.append(rotation)
        self.place(len(self.rotations) - 1)

    def place(self, index: int) -> None:
        """Put a rotation into the earliest step of its kind that it commutes back to."""
        rotation = self.rotations[index]
        kind: StepKind = "rotations" if rotation.x else "diagonal"
        chosen: list[int] | None = None
        for step_kind, members, _ in reversed(self.steps):
            if step_kind not in ("rotations", "diagonal"):
                break
            if not all(self.commute(rotation, self.rotations[m]) for m in members):
                break
            if step_kind == kind and (kind == "diagonal" or len(members) < self.most_rotations):
                chosen = members
        if chosen is None:
            self.steps.append((kind, [index], 0))
        else:
            chosen.append(index)

    @staticmethod
    def commute(a: PauliRotation, b: PauliRotation) -> bool:
        return ((a.x & b.z).bit_count() + (a.z & b.x).bit_count()) % 2 == 0

    def apply_frame(self) -> None:
        """Turn the pending Cliffords into steps: permutations, and rotations for Hadamards."""
        for plain, hadamards in _frame_runs(self.frame.gates):
            # H = RY(pi/2) Z
            run = plain + [gates.Clifford("Z", (wire,)) for wire in hadamards]
            if run:
                self.permutations.append(_permutation_of(run, self.n_qubits))
                self.steps.append(("permutation", [], len(self.permutations) - 1))
            for wire in hadamards:
                bit = 1 << self.bit(wire)
                self.add_rotation(_Word(bit, bit, 1), gates.constant(np.pi / 2), None, -1)
        self.history.append(copy.copy(self.frame))
        self.frame.clear()

    def measure(self, observables: Sequence[Observable]) -> tuple[Group, ...]:
        if self.frame.gates and not all(self.cheap_in_frame(o) for o in observables):
            self.apply_frame()
        groups: list[Group] = []
        for number, observable in enumerate(observables):
            by_mask: dict[int, list[tuple[NDArray[np.uint32], NDArray[np.complex128]]]] = {}
            for component in observable.components:
                for x, z, c in self.words(component):
                    by_mask.setdefault(x, []).append((z, c))
            for x, parts in sorted(by_mask.items()):
                z, where = np.unique(np.concatenate([z for z, _ in parts]), return_inverse=True)
                c = np.zeros(len(z), dtype=np.complex128)
                np.add.at(c, where, np.concatenate([c for _, c in parts]))
                groups.append(Group(number, x, z.astype(np.uint32), c))
        return tuple(groups)

    def cheap_in_frame(self, observable: Observable) -> bool:
        for component in observable.components:
            match component:
                case ProjectorTerm(wires=wires):
                    pure = all(self.frame.z[wire].x == 0 for wire in wires)
                    if not pure and 2 ** len(wires) > MAX_WORDS_BEFORE_FRAME:
                        return False
                case HermitianTerm(wires=wires):
                    if 4 ** len(wires) > MAX_WORDS_BEFORE_FRAME:
                        return False
        return True

    def words(
        self, component: PauliTerm | ProjectorTerm | HermitianTerm
    ) -> Iterable[tuple[int, NDArray[np.uint32], NDArray[np.complex128]]]:
        """Yield (X mask, Z masks, coefficients) of a component behind the frame."""

        def one(word: _Word, c: complex) -> tuple[int, NDArray[np.uint32], NDArray[np.complex128]]:
            factor = c * word.sign * 1j ** (word.x & word.z).bit_count()
            return word.x, np.array([word.z], np.uint32), np.array([factor], np.complex128)

        match component:
            case PauliTerm(coefficient, paulis):
                yield one(self.frame.pull_back(paulis), coefficient)
            case ProjectorTerm(coefficient, wires, bits):
                if all(self.frame.z[wire].x == 0 for wire in wires):
                    z = np.zeros(1, np.uint32)
                    c = np.array([coefficient], np.complex128)
                    for wire, value in zip(wires, bits, strict=True):
                        image = self.frame.z[wire]
                        z = np.concatenate([z, z ^ np.uint32(image.z)])
                        sign = np.complex128(image.sign * (1 - 2 * value))
                        c = np.concatenate([c, c * sign]) * np.complex128(0.5)
                    yield 0, z, c
                else:
                    for number in range(2 ** len(wires)):
                        letters = [(w, "Z") for i, w in enumerate(wires) if number >> i & 1]
                        sign = (-1) ** sum(v for i, v in enumerate(bits) if number >> i & 1)
                        yield one(
                            self.frame.pull_back(letters), coefficient * sign / 2 ** len(wires)
                        )
            case HermitianTerm(coefficient, wires, matrix):
                yield from self.matrix_words(coefficient, wires, matrix)

    def matrix_words(
        self, coefficient: float, wires: Sequence[int], matrix: NDArray[np.complex128]
    ) -> Iterable[tuple[int, NDArray[np.uint32], NDArray[np.complex128]]]:
        k = len(wires)
        size = 1 << k
        index = np.arange(size)
        for x in range(size):
            # matrix = sum over x of X^x D_x with D_x[b] = matrix[b ^ x, b], D_x by its Z words
            diagonal = matrix[index ^ x, index].astype(np.complex128)
            if not diagonal.any():
                continue
            for h in (1 << i for i in range(k)):
                pairs = diagonal.reshape(-1, 2, h)
                diagonal = np.stack(
                    [pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1
                ).reshape(-1)
            diagonal = diagonal / size
            for z in np.flatnonzero(diagonal):
                word = _Word(0, 0, 0)
                for i, wire in enumerate(wires):
                    if x >> (k - 1 - i) & 1:
                        word = word * self.frame.x[wire]
                for i, wire in enumerate(wires):
                    if int(z) >> (k - 1 - i) & 1:
                        word = word * self.frame.z[wire]
                factor = coefficient * diagonal[z] * 1j**word.phase
                yield word.x, np.array([word.z], np.uint32), np.array([factor], np.complex128)


def composed_angle(angle: Angle, operation: Operation) -> Angle:
    """Put an operation's own angle into an affine function of that slot.

    >>> print(composed_angle(gates.parameter(0) / 2, gates.RX(gates.feature(3), 0)))
    0.5*x3
    """
    if angle.kind == "constant":
        return angle
    given = operation.angles[angle.index]
    return given * angle.scale + angle.offset


@lru_cache(maxsize=4096)
def _slotted_template(operation: Operation) -> tuple[gates.Primitive, ...]:
    return gates.decompose(operation)


def slotted_primitives(operation: Operation) -> tuple[gates.Primitive, ...]:
    """Decompose with the operation's angles replaced by slots: slot k reads "parameter" k.

    >>> [print(one.angle) for one in slotted_primitives(gates.RX(gates.feature(3), 0))]
    p0
    [None]
    """
    slots = tuple(gates.parameter(k) for k in range(len(operation.angles)))
    if operation.angles == slots:
        return _slotted_template(operation)
    return _slotted_template(dataclasses.replace(operation, angles=slots))


def _n_bytes(program: Program) -> int:
    return program.n_bytes


@memory.cached_by_bytes(_n_bytes, _CACHE_BYTES)
def compile_program(
    circuit: Circuit,
    observables: tuple[Observable, ...] = (),
    apply_frame: bool = False,
    prune: bool = False,
) -> Program:
    """Return the normal form of ``circuit`` with ``observables`` pulled back through its frame.

    ``apply_frame`` ends the program with the frame itself, for states and probabilities. ``prune``
    leaves out rotations and matrices that change no value of the observables: for values and
    derivatives only, not for states.
    """
    builder = _Builder(circuit)
    builder.add_operations()
    if apply_frame:
        builder.apply_frame()
    groups = builder.measure(observables)
    pruned = _without_effect(builder, observables) if prune else frozenset()
    if pruned:
        builder = _Builder(circuit, pruned)
        builder.add_operations()
        groups = builder.measure(observables)
    by_angle: dict[tuple[int, int], list[int]] = {}
    for index, rotation in enumerate(builder.rotations):
        if rotation.slot >= 0:
            by_angle.setdefault((rotation.operation, rotation.slot), []).append(index)
    return Program(
        n_qubits=circuit.n_qubits,
        n_parameters=circuit.n_parameters,
        n_inputs=circuit.n_inputs,
        n_observables=len(observables),
        rotations=tuple(builder.rotations),
        steps=tuple(Step(kind, tuple(members), item) for kind, members, item in builder.steps),
        denses=tuple(builder.denses),
        permutations=tuple(builder.permutations),
        tables=tuple(builder.tables),
        groups=groups,
        phases=tuple(builder.phases),
        outside=tuple(builder.outside),
        pruned=pruned,
        _by_angle={key: tuple(value) for key, value in by_angle.items()},
    )
