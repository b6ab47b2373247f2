# SPDX-License-Identifier: Apache-2.0
"""Circuits and observables: immutable structure, without parameter values and without states.

Both are hashable and cheap to hash twice, because programs are cached by them. The text form of a
circuit is a header line ``qubits 3`` and one line a gate, ``RX(0.5*p0+0.1) 0`` or ``CNOT 0 1``:
p0 is trainable parameter 0, x0 is column 0 of the per-row inputs, ``#`` starts a comment.
Qubit 0 is the most significant bit of a state index.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from qdp.gates import (
    ALIASES,
    MAX_INDEX,
    PAULI_MATRICES,
    TABLE,
    Angle,
    Matrix,
    Operation,
    Wires,
    WiresLike,
    as_wires,
    constant,
    read_only,
)

# A state index must fit a signed 64-bit integer.
MAX_QUBITS = 62
# A Hermitian matrix further than this from its adjoint, relative to its largest entry, is refused.
HERMITIAN_TOLERANCE = 1e-10
# squared() of observables that are not Pauli strings builds matrices over at most this many wires.
MAX_SQUARED_WIRES = 10


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Circuit:
    """A sequence of gates on ``n_qubits`` qubits. Immutable, hashable, compared by content.

    ``n_parameters`` and ``n_inputs`` are one more than the largest index that an angle reads.
    ``a + b`` runs a, then b; both read the same parameters.

    Raises ValueError for a wire outside the circuit and TypeError for what is not an Operation.

    >>> from qdp import gates
    >>> from qdp.circuit import Circuit
    >>> circuit = Circuit(2, [gates.RX(gates.parameter(0), 0), gates.CNOT([0, 1])])
    >>> circuit.n_parameters
    1
    >>> print(circuit)
    0: -RX(p0)-*-
               |
    1: --------X-
    """

    n_qubits: int
    operations: tuple[Operation, ...]
    n_parameters: int
    n_inputs: int

    def __init__(self, n_qubits: int, operations: Iterable[Operation] = ()) -> None:
        n_qubits = operator.index(n_qubits)
        if not 1 <= n_qubits <= MAX_QUBITS:
            raise ValueError(f"expected 1 to {MAX_QUBITS} qubits, got {n_qubits}")
        operations = tuple(operations)
        n_parameters = n_inputs = 0
        for position, operation in enumerate(operations):
            if not isinstance(operation, Operation):
                raise TypeError(
                    f"expected an Operation at position {position}, got "
                    f"{type(operation).__name__}; make one with qdp.gates"
                )
            if operation.wires and max(operation.wires) >= n_qubits:
                raise ValueError(f"operation {position}: {_out_of_range(operation, n_qubits)}")
            for angle in operation.angles:
                if angle.kind == "parameter":
                    n_parameters = max(n_parameters, angle.index + 1)
                elif angle.kind == "input":
                    n_inputs = max(n_inputs, angle.index + 1)
        object.__setattr__(self, "n_qubits", n_qubits)
        object.__setattr__(self, "operations", operations)
        object.__setattr__(self, "n_parameters", n_parameters)
        object.__setattr__(self, "n_inputs", n_inputs)

    def __add__(self, other: Circuit) -> Circuit:
        if not isinstance(other, Circuit):
            return NotImplemented
        if other.n_qubits != self.n_qubits:
            raise ValueError(
                f"expected two circuits on as many qubits, got {self.n_qubits} and {other.n_qubits}"
            )
        return Circuit(self.n_qubits, self.operations + other.operations)

    def adjoint(self) -> Circuit:
        """Return the circuit that undoes this one.

        >>> from qdp import gates
        >>> from qdp.circuit import Circuit
        >>> Circuit(1, [gates.H(0), gates.T(0)]).adjoint().text().splitlines()
        ['qubits 1', 'Tdg 0', 'Hadamard 0']
        """
        return Circuit(
            self.n_qubits, tuple(operation.adjoint() for operation in reversed(self.operations))
        )

    def text(self) -> str:
        """Return the text form, exact to the last bit: ``Circuit.from_text`` reads it back.

        >>> from qdp import gates
        >>> from qdp.circuit import Circuit
        >>> print(Circuit(2, [gates.RX(gates.parameter(0) / 2, 0), gates.CNOT([0, 1])]).text())
        qubits 2
        RX(0.5*p0) 0
        CNOT 0 1
        """
        return "\n".join([f"qubits {self.n_qubits}", *map(str, self.operations)])

    @staticmethod
    def from_text(text: str) -> Circuit:
        """Read the text form. Raises ValueError with the line number for any mistake.

        >>> from qdp.circuit import Circuit
        >>> Circuit.from_text("qubits 1; RX(2*x0) 0".replace(";", chr(10))).n_inputs
        1
        """
        return _parse_circuit(text)

    def draw(self, width: int = 100) -> str:
        """Return a drawing in ASCII: wires as rows, time to the right, folded at ``width`` columns.

        ``*`` is a control that must read 1, ``o`` one that must read 0, ``x`` an exchanged wire,
        ``#2`` the second wire of the gate above or below that the line leads to.

        >>> from qdp import gates
        >>> from qdp.circuit import Circuit
        >>> print(Circuit(3, [gates.CRZ(0.5, [0, 2]), gates.H(1)]).draw())
        0: -*---------
            |
        1: -|-------H-
            |
        2: -RZ(0.5)---
        """
        return _draw(self, width)

    @cached_property
    def _hash(self) -> int:
        return hash((self.n_qubits, self.operations))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Circuit):
            return NotImplemented
        return (
            self._hash == other._hash
            and self.n_qubits == other.n_qubits
            and self.operations == other.operations
        )

    # The cached hash must not travel: strings hash differently in another process.
    def __reduce__(self) -> tuple[Any, ...]:
        return (Circuit, (self.n_qubits, self.operations))

    def __str__(self) -> str:
        return self.draw()

    def __repr__(self) -> str:
        return (
            f"<Circuit: {self.n_qubits} qubits, {len(self.operations)} operations, "
            f"{self.n_parameters} parameters, {self.n_inputs} inputs>"
        )


def _out_of_range(operation: Operation, n_qubits: int) -> str:
    return (
        f"{operation.name} on wires {list(operation.wires)} expected wires from 0 to "
        f"{n_qubits - 1} in a circuit of {n_qubits} qubits"
    )


# Text form

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ANGLE = re.compile(
    rf"(?:(?P<scale>[+-]?{_NUMBER})\*|(?P<sign>[+-]))?(?P<kind>[px])(?P<index>\d{{1,10}})"
    rf"(?P<offset>[+-]{_NUMBER})?",
    re.ASCII,
)
_CONSTANT = re.compile(rf"[+-]?{_NUMBER}", re.ASCII)
_COMPLEX = re.compile(r"[0-9.eE+\-j]{1,100}", re.ASCII)


def _parse_circuit(text: str) -> Circuit:
    if not isinstance(text, str):
        raise TypeError(f"expected the text of a circuit, got {type(text).__name__}")
    n_qubits = 0
    operations: list[Operation] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        try:
            if not n_qubits:
                n_qubits = _parse_header(line)
                continue
            operation = _parse_operation(line)
            if operation.wires and max(operation.wires) >= n_qubits:
                raise ValueError(_out_of_range(operation, n_qubits))
        except (TypeError, ValueError) as error:
            shown = line if len(line) <= 60 else f"{line[:60]}..."
            raise ValueError(f"line {number}, {shown!r}: {error}") from error
        operations.append(operation)
    if not n_qubits:
        raise ValueError("expected a first line such as 'qubits 3', got no line at all")
    return Circuit(n_qubits, operations)


def _parse_header(line: str) -> int:
    words = line.split()
    if len(words) != 2 or words[0] != "qubits":
        raise ValueError("expected a first line such as 'qubits 3'")
    n_qubits = _parse_integer(words[1], "a number of qubits")
    if not 1 <= n_qubits <= MAX_QUBITS:
        raise ValueError(f"expected 1 to {MAX_QUBITS} qubits, got {n_qubits}")
    return n_qubits


def _parse_integer(text: str, what: str) -> int:
    # The bound on the length also keeps int() from its own limits.
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f"expected {what} as a small integer, got {text[:20]!r}")
    return int(text)


def _parse_operation(line: str) -> Operation:
    head, bracket, rest = line.partition("(")
    if bracket:
        arguments, closing, tail = rest.rpartition(")")
        if not closing:
            raise ValueError("expected a closing bracket after the arguments")
        words = head.split()
    else:
        words, arguments = line.split(), ""
        words, tail = words[:1], " ".join(words[1:])
    if len(words) != 1:
        raise ValueError(f"expected one gate name before the bracket, got {head.strip()[:60]!r}")
    name = ALIASES.get(words[0], words[0])
    wires = tuple(_parse_integer(word, "a wire") for word in tail.split())
    parse = _ARGUMENT_PARSERS.get(name, _parse_angles)
    pieces = arguments.replace(" ", "").replace("\t", "")
    return parse(name, wires, pieces)


def _parse_angles(name: str, wires: Wires, arguments: str) -> Operation:
    angles = tuple(map(_parse_angle, arguments.split(","))) if arguments else ()
    return Operation(name, wires, angles)


def _parse_angle(text: str) -> Angle:
    if _CONSTANT.fullmatch(text):
        return constant(float(text))
    match = _ANGLE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an angle such as 0.5, p0, -x1 or 0.5*p0+0.1, got {text[:60]!r}")
    scale = float(match["scale"] or f"{match['sign'] or ''}1")
    index = int(match["index"])
    if index >= MAX_INDEX:
        raise ValueError(f"expected an index below {MAX_INDEX}, got {index}")
    offset = float(match["offset"] or 0.0)
    return Angle("parameter" if match["kind"] == "p" else "input", index, scale, offset)


def _parse_pauli_rot(name: str, wires: Wires, arguments: str) -> Operation:
    pieces = arguments.split(",")
    if len(pieces) != 2:
        raise ValueError("expected an angle and a Pauli word, as in PauliRot(p0, XZ) 0 1")
    return Operation(name, wires, (_parse_angle(pieces[0]),), word=pieces[1])


def _parse_controls(name: str, wires: Wires, arguments: str) -> Operation:
    if not set(arguments) <= {"0", "1"}:
        raise ValueError(f"expected control values such as 101, got {arguments[:60]!r}")
    values = tuple(map(int, arguments)) or (1,) * (len(wires) - 1)
    return Operation(name, wires, control_values=values)


def _parse_matrix(name: str, wires: Wires, arguments: str) -> Operation:
    rows = arguments.removeprefix("[[").removesuffix("]]").split("],[")
    if not (arguments.startswith("[[") and arguments.endswith("]]")):
        raise ValueError("expected a matrix such as [[0.0, 1.0], [1.0, 0.0]]")
    entries = [_parse_row(row) for row in rows]
    if len({len(row) for row in entries}) != 1:
        raise ValueError("expected a matrix whose rows have the same length")
    return Operation(name, wires, matrix=read_only(entries))


def _parse_diagonal(name: str, wires: Wires, arguments: str) -> Operation:
    if not (arguments.startswith("[") and arguments.endswith("]")):
        raise ValueError("expected a diagonal such as [1.0, 0.0+1.0j]")
    return Operation(name, wires, matrix=read_only(_parse_row(arguments[1:-1])))


def _parse_row(text: str) -> list[complex]:
    entries = []
    for piece in text.split(","):
        try:
            if not _COMPLEX.fullmatch(piece):
                raise ValueError
            entries.append(complex(piece))
        except ValueError:
            raise ValueError(
                f"expected a number such as 0.5 or 0.5+0.5j, got {piece[:60]!r}"
            ) from None
    return entries


_ARGUMENT_PARSERS: dict[str, Callable[[str, Wires, str], Operation]] = {
    "PauliRot": _parse_pauli_rot,
    "MultiControlledX": _parse_controls,
    "QubitUnitary": _parse_matrix,
    "DiagonalQubitUnitary": _parse_diagonal,
}


# Drawing


def _labels(operation: Operation) -> tuple[str, ...]:
    """Return what the drawing shows on each wire of the operation, in the order of its wires."""
    if operation.control_values is not None:
        return (*("*" if value else "o" for value in operation.control_values), "X")
    arguments = [angle.text(digits=4) for angle in operation.angles]
    if operation.word is not None:
        arguments.append(operation.word)
    suffix = f"({', '.join(arguments)})" if arguments else ""
    symbols = TABLE[operation.name].symbols
    if symbols is not None:
        return (*symbols[:-1], symbols[-1] + suffix)
    others = (f"#{position}" for position in range(2, len(operation.wires) + 1))
    return (operation.name + suffix, *others)


def _draw(circuit: Circuit, width: int) -> str:
    # Row 2*q is wire q, row 2*q + 1 the gap below it, where links between wires run.
    n_rows = 2 * circuit.n_qubits - 1
    columns: list[dict[int, str]] = []
    free = [0] * circuit.n_qubits
    phases = []
    for operation in circuit.operations:
        if not operation.wires:
            phases.append(f"{operation.name}({operation.angles[0].text(digits=4)})")
            continue
        low, high = min(operation.wires), max(operation.wires)
        column = max(free[low : high + 1])
        free[low : high + 1] = [column + 1] * (high + 1 - low)
        if column == len(columns):
            columns.append({})
        columns[column].update(dict.fromkeys(range(2 * low + 1, 2 * high), "|"))
        for wire, label in zip(operation.wires, _labels(operation), strict=True):
            columns[column][2 * wire] = label
    margin = len(str(circuit.n_qubits - 1))
    blocks = []
    for block in _fold(columns, width - margin - 3):
        lines = []
        for row in range(n_rows):
            is_wire = row % 2 == 0
            fill = "-" if is_wire else " "
            line = f"{row // 2:>{margin}}: -" if is_wire else " " * (margin + 3)
            for cells in block:
                size = max(map(len, cells.values()))
                line += cells.get(row, "").ljust(size, fill) + fill
            if is_wire or line.strip():
                lines.append(line.rstrip())
        blocks.append("\n".join(lines))
    if phases:
        blocks.append(" ".join(phases))
    return "\n\n".join(blocks)


def _fold(columns: list[dict[int, str]], width: int) -> Iterator[list[dict[int, str]]]:
    """Cut the columns into blocks that are at most ``width`` wide, one column at the least."""
    block: list[dict[int, str]] = []
    used = 0
    for cells in columns:
        size = max(map(len, cells.values())) + 1
        if block and used + size > width:
            yield block
            block, used = [], 0
        block.append(cells)
        used += size
    yield block


# Observables


def _check_coefficient(coefficient: object) -> float:
    if not isinstance(coefficient, Real):
        raise TypeError(f"expected a real coefficient, got {type(coefficient).__name__}")
    if not math.isfinite(coefficient):
        raise ValueError(f"expected a finite coefficient, got {coefficient}")
    return float(coefficient)


def _check_wires(wires: Wires) -> None:
    if len(set(wires)) != len(wires):
        raise ValueError(f"expected different wires in one term, got {list(wires)}")
    if wires and not 0 <= min(wires) <= max(wires) < MAX_QUBITS:
        raise ValueError(f"expected wires from 0 to {MAX_QUBITS - 1}, got {list(wires)}")


@dataclass(frozen=True)
class PauliTerm:
    """``coefficient`` times a Pauli string: (wire, letter) pairs by wire, letters X, Y, Z."""

    coefficient: float
    paulis: tuple[tuple[int, str], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficient", _check_coefficient(self.coefficient))
        _check_wires(self.wires)
        if any(letter not in ("X", "Y", "Z") for _, letter in self.paulis):
            raise ValueError(f"expected letters X, Y, Z, got {self.paulis}")
        if list(self.wires) != sorted(self.wires):
            object.__setattr__(self, "paulis", tuple(sorted(self.paulis)))

    @property
    def wires(self) -> Wires:
        """The wires that the string acts on, ascending."""
        return tuple(wire for wire, _ in self.paulis)

    @property
    def norm(self) -> float:
        """The spectral norm without the coefficient: 1."""
        return 1.0

    def __str__(self) -> str:
        return " ".join(f"{letter}{wire}" for wire, letter in self.paulis) or "I"


@dataclass(frozen=True)
class ProjectorTerm:
    """``coefficient`` times the projector on |bits> of ``wires``."""

    coefficient: float
    wires: Wires
    bits: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficient", _check_coefficient(self.coefficient))
        _check_wires(self.wires)
        if len(self.bits) != len(self.wires) or not self.wires:
            raise ValueError(
                f"a projector expected a bit for each of its wires {list(self.wires)}, got "
                f"{list(self.bits)}"
            )
        if any(bit not in (0, 1) for bit in self.bits):
            raise ValueError(f"a projector expected bits 0 and 1, got {list(self.bits)}")

    @property
    def norm(self) -> float:
        """The spectral norm without the coefficient: 1."""
        return 1.0

    def __str__(self) -> str:
        bits = "".join(map(str, self.bits))
        return f"|{bits}><{bits}| on {' '.join(map(str, self.wires))}"


@dataclass(frozen=True, eq=False)
class HermitianTerm:
    """``coefficient`` times a Hermitian matrix, (2**k, 2**k) complex128 read-only, on k wires.

    The first wire is the most significant bit of the matrix index.
    """

    coefficient: float
    wires: Wires
    matrix: Matrix = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficient", _check_coefficient(self.coefficient))
        _check_wires(self.wires)
        matrix = read_only(self.matrix)
        size = 2 ** len(self.wires)
        if not self.wires or matrix.shape != (size, size):
            raise ValueError(
                f"a Hermitian observable on wires {list(self.wires)} expected a matrix of shape "
                f"{(size, size)}, got {matrix.shape}"
            )
        largest = float(np.abs(matrix).max())
        if not math.isfinite(largest):
            raise ValueError("expected a finite Hermitian matrix, got NaN or infinity in it")
        deviation = float(np.abs(matrix - matrix.conj().T).max())
        if deviation > HERMITIAN_TOLERANCE * max(1.0, largest):
            raise ValueError(
                f"expected a Hermitian matrix, got one that differs from its adjoint by "
                f"{deviation:.2g}"
            )
        object.__setattr__(self, "matrix", matrix)

    @cached_property
    def norm(self) -> float:
        """The spectral norm of the matrix, without the coefficient."""
        return float(np.linalg.norm(self.matrix, 2))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HermitianTerm):
            return NotImplemented
        return (
            self.coefficient == other.coefficient
            and self.wires == other.wires
            and np.array_equal(self.matrix, other.matrix)
        )

    def __hash__(self) -> int:
        return hash((self.coefficient, self.wires, self.matrix.tobytes()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (HermitianTerm, (self.coefficient, self.wires, np.array(self.matrix)))

    def __str__(self) -> str:
        size = len(self.matrix)
        return f"Hermitian({size}x{size}) on {' '.join(map(str, self.wires))}"


Component: TypeAlias = PauliTerm | ProjectorTerm | HermitianTerm


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Observable:
    """A real sum of Pauli strings, projectors and Hermitian matrices. Immutable, hashable.

    Made from text such as "0.5 Z0 + 1.0 X1 X2" ("I" is the identity), from components, or by the
    constructors below. Equal Pauli strings and equal projectors are added up. Supports ``a + b``,
    ``a - b``, ``2 * a`` and ``-a``.

    Raises ValueError for text that it cannot read, a repeated wire in one term and a matrix that
    is not Hermitian; TypeError for a coefficient that is not a real number.

    >>> from qdp.circuit import Observable
    >>> observable = Observable("0.5 Z0 + 1.0 X1 X2") - Observable.z(0)
    >>> observable
    Observable('-0.5 Z0 + 1.0 X1 X2')
    >>> observable.weight
    1.5
    """

    components: tuple[Component, ...]

    def __init__(self, terms: str | Component | Iterable[Component]) -> None:
        components: Iterable[Component]
        if isinstance(terms, str):
            components = _parse_observable(terms)
        elif isinstance(terms, PauliTerm | ProjectorTerm | HermitianTerm):
            components = (terms,)
        else:
            components = terms
        object.__setattr__(self, "components", _merged(components))

    @staticmethod
    def x(wire: int) -> Observable:
        """Return Pauli X on ``wire``."""
        return Observable(PauliTerm(1.0, ((operator.index(wire), "X"),)))

    @staticmethod
    def y(wire: int) -> Observable:
        """Return Pauli Y on ``wire``."""
        return Observable(PauliTerm(1.0, ((operator.index(wire), "Y"),)))

    @staticmethod
    def z(wire: int) -> Observable:
        """Return Pauli Z on ``wire``."""
        return Observable(PauliTerm(1.0, ((operator.index(wire), "Z"),)))

    @staticmethod
    def sum_z(n_qubits: int) -> Observable:
        """Return the sum of Pauli Z over qubits 0 to ``n_qubits`` - 1.

        >>> from qdp.circuit import Observable
        >>> print(Observable.sum_z(3))
        1.0 Z0 + 1.0 Z1 + 1.0 Z2
        """
        return Observable(PauliTerm(1.0, ((wire, "Z"),)) for wire in range(n_qubits))

    @staticmethod
    def projector(bits: WiresLike | str, wires: WiresLike) -> Observable:
        """Return the projector on the basis state ``bits`` ([0, 1] or "01") of ``wires``.

        >>> from qdp.circuit import Observable
        >>> print(Observable.projector("01", wires=[0, 2]))
        1.0 |01><01| on 0 2
        """
        if isinstance(bits, str):
            if not set(bits) <= {"0", "1"}:
                raise ValueError(f"a projector expected bits 0 and 1, got {bits[:60]!r}")
            bits = tuple(map(int, bits))
        return Observable(ProjectorTerm(1.0, as_wires(wires), as_wires(bits)))

    @staticmethod
    def hermitian(matrix: ArrayLike, wires: WiresLike) -> Observable:
        """Return the observable of a Hermitian matrix, (2**k, 2**k), on k wires.

        >>> from qdp.circuit import Observable
        >>> print(Observable.hermitian([[0, 1], [1, 0]], wires=1))
        1.0 Hermitian(2x2) on 1
        """
        return Observable(HermitianTerm(1.0, as_wires(wires), np.asarray(matrix)))

    @cached_property
    def weight(self) -> float:
        """The sum of |coefficient| times norm, which bounds every value and scales every error."""
        return math.fsum(abs(term.coefficient) * term.norm for term in self.components)

    @property
    def max_wire(self) -> int:
        """The largest wire that the observable acts on; -1 for a multiple of the identity."""
        return max((max(term.wires, default=-1) for term in self.components), default=-1)

    def squared(self) -> Observable:
        """Return the square of the observable as an operator, for variances.

        Sums of Pauli strings, of projectors, and of projectors and strings of Z keep these forms.
        A product with a Hermitian matrix, or of a projector with X or Y, becomes a matrix over the
        wires of both; ValueError where these are more than 10 and than the matrix given.

        >>> from qdp.circuit import Observable
        >>> print(Observable("Z0 + 2 X1").squared())
        5.0 I + 4.0 Z0 X1
        """
        terms: list[Component] = []
        for position, first in enumerate(self.components):
            terms += _symmetric_product(first, first)
            for second in self.components[position + 1 :]:
                terms += (_scaled(term, 2.0) for term in _symmetric_product(first, second))
        return Observable(terms or (PauliTerm(0.0, ()),))

    def matrix(self, n_qubits: int) -> Matrix:
        """Return the operator on ``n_qubits`` qubits: (2**n, 2**n) complex128.

        >>> from qdp.circuit import Observable
        >>> Observable("0.5 Z1").matrix(2).diagonal().real.tolist()
        [0.5, -0.5, 0.5, -0.5]
        """
        if n_qubits <= self.max_wire:
            raise ValueError(
                f"expected more than {self.max_wire} qubits, because the observable acts on wire "
                f"{self.max_wire}, got {n_qubits}"
            )
        wires = tuple(range(n_qubits))
        total: Matrix = np.zeros((2**n_qubits, 2**n_qubits), dtype=np.complex128)
        for term in self.components:
            total += term.coefficient * _unit_matrix(term, wires)
        return total

    def __add__(self, other: Observable) -> Observable:
        if not isinstance(other, Observable):
            return NotImplemented
        return Observable(self.components + other.components)

    def __sub__(self, other: Observable) -> Observable:
        if not isinstance(other, Observable):
            return NotImplemented
        return self + -other

    def __neg__(self) -> Observable:
        return self * -1.0

    # NumPy scalars on the left hand defer to __rmul__.
    __array_ufunc__ = None

    def __mul__(self, factor: float) -> Observable:
        factor = _check_coefficient(factor)
        return Observable(_scaled(term, factor) for term in self.components)

    __rmul__ = __mul__

    @cached_property
    def _hash(self) -> int:
        return hash(self.components)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Observable):
            return NotImplemented
        return self._hash == other._hash and self.components == other.components

    def __reduce__(self) -> tuple[Any, ...]:
        return (Observable, (self.components,))

    def __str__(self) -> str:
        text = " + ".join(f"{term.coefficient!r} {term}" for term in self.components)
        return text.replace("+ -", "- ")

    def __repr__(self) -> str:
        return f"Observable({str(self)!r})"


def _scaled(term: Component, factor: float) -> Component:
    return replace(term, coefficient=term.coefficient * factor)


def _merged(components: Iterable[Component]) -> tuple[Component, ...]:
    """Add up equal Pauli strings and projectors, keeping the order of first appearance."""
    merged: dict[object, Component] = {}
    for position, term in enumerate(components):
        if not isinstance(term, PauliTerm | ProjectorTerm | HermitianTerm):
            raise TypeError(
                "expected text, PauliTerm, ProjectorTerm or HermitianTerm, got "
                f"{type(term).__name__}"
            )
        key: object = position
        if isinstance(term, PauliTerm):
            key = term.paulis
        elif isinstance(term, ProjectorTerm):
            key = (term.wires, term.bits)
        if key in merged:
            term = replace(term, coefficient=merged[key].coefficient + term.coefficient)
        merged[key] = term
    if not merged:
        raise ValueError("expected an observable of at least one term, got none")
    return tuple(merged.values())


_OBSERVABLE_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{_NUMBER})|(?P<pauli>[IXYZ])(?P<wire>\d*)|(?P<sign>[+-])|(?P<times>\*))",
    re.ASCII,
)


def _parse_observable(text: str) -> list[Component]:
    """Read terms such as "0.5 Z0 + 1.0 X1 X2": [number] {[*] letter wire}, signs between."""

    def fail(expected: str, position: int) -> ValueError:
        found = repr(text[position : position + 20]) if position < len(text) else "the end"
        return ValueError(
            f"observable {text[:60]!r}: expected {expected}, got {found} at position {position}; "
            "an example is '0.5 Z0 + 1.0 X1 X2'"
        )

    text = text.rstrip()
    terms: list[Component] = []
    position = 0
    while position < len(text) or not terms:
        sign, number, paulis, is_empty = 1.0, None, {}, True
        start = position
        while position < len(text):
            match = _OBSERVABLE_TOKEN.match(text, position)
            if match is None:
                raise fail("a number, a Pauli such as Z0, or a sign", position)
            if match["sign"]:
                if not (is_empty and position == start):
                    break
                sign = -1.0 if match["sign"] == "-" else 1.0
            elif position == start and terms:
                raise fail("a sign between terms", position)
            elif match["number"]:
                if not is_empty:
                    raise fail("a Pauli or a sign after a coefficient", position)
                number, is_empty = float(match["number"]), False
            elif match["pauli"]:
                is_empty = False
                letter, digits = match["pauli"], match["wire"]
                if not digits and letter != "I":
                    raise fail(f"a wire after {letter}", position)
                wire = _parse_integer(digits, "a wire") if digits else -1
                if wire in paulis:
                    raise fail(f"wire {wire} only once in a term", position)
                if letter != "I":
                    paulis[wire] = letter
            elif is_empty:
                raise fail("a coefficient or a Pauli before *", position)
            position = match.end()
        if is_empty or text.endswith("*"):
            raise fail("a coefficient or a Pauli", len(text))
        coefficient = sign * (1.0 if number is None else number)
        terms.append(PauliTerm(coefficient, tuple(sorted(paulis.items()))))
    return terms


# Products, for squares


def _symmetric_product(first: Component, second: Component) -> list[Component]:
    """Return (AB + BA)/2 as a sum of components, none where it vanishes."""
    coefficient = first.coefficient * second.coefficient
    if isinstance(first, PauliTerm) and isinstance(second, PauliTerm):
        product = _pauli_product(dict(first.paulis), dict(second.paulis))
        if product is None:
            return []
        sign, paulis = product
        return [PauliTerm(sign * coefficient, tuple(sorted(paulis.items())))]
    if isinstance(first, ProjectorTerm) and isinstance(second, ProjectorTerm):
        bits = dict(zip(first.wires, first.bits, strict=True))
        for wire, bit in zip(second.wires, second.bits, strict=True):
            if bits.setdefault(wire, bit) != bit:
                return []
        return [_projector(coefficient, bits)]
    if isinstance(second, PauliTerm):
        first, second = second, first
    if isinstance(first, PauliTerm) and isinstance(second, ProjectorTerm):
        outside = [wire for wire in first.wires if wire not in second.wires]
        is_diagonal = all(letter == "Z" for _, letter in first.paulis)
        if is_diagonal and len(outside) <= MAX_SQUARED_WIRES:
            return _z_times_projector(coefficient, first, second, outside)
    if isinstance(first, PauliTerm) and not first.paulis:
        return [replace(second, coefficient=coefficient)]
    wires = tuple(dict.fromkeys(first.wires + second.wires))
    given = [len(term.wires) for term in (first, second) if isinstance(term, HermitianTerm)]
    limit = max([MAX_SQUARED_WIRES, *given])
    if len(wires) > limit:
        raise ValueError(
            f"the square of this observable needs a matrix over {len(wires)} wires for the product "
            f"of {first} and {second}, the limit is {limit}"
        )
    product_matrix = _unit_matrix(first, wires) @ _unit_matrix(second, wires)
    return [HermitianTerm(coefficient, wires, (product_matrix + product_matrix.conj().T) / 2)]


def _pauli_product(
    first: dict[int, str], second: dict[int, str]
) -> tuple[float, dict[int, str]] | None:
    """Return sign and letters of the product of two commuting strings; None if they do not."""
    quarter_turns = 0
    product = dict(first)
    for wire, letter in second.items():
        other = product.pop(wire, None)
        if other is None:
            product[wire] = letter
        elif other != letter:
            (product[wire],) = {"X", "Y", "Z"} - {other, letter}
            # XY = iZ and cyclic, YX = -iZ
            quarter_turns += 1 if other + letter in ("XY", "YZ", "ZX") else -1
    if quarter_turns % 2:
        return None
    return (-1.0 if quarter_turns % 4 else 1.0), product


def _projector(coefficient: float, bits: dict[int, int]) -> ProjectorTerm:
    wires = tuple(sorted(bits))
    return ProjectorTerm(coefficient, wires, tuple(bits[wire] for wire in wires))


def _z_times_projector(
    coefficient: float, string: PauliTerm, projector: ProjectorTerm, outside: list[int]
) -> list[Component]:
    """Z inside the projector is a sign; Z outside is |0><0| - |1><1|, two projectors."""
    bits = dict(zip(projector.wires, projector.bits, strict=True))
    inside = sum(bits[wire] for wire in string.wires if wire in bits)
    terms: list[Component] = []
    for values in itertools.product((0, 1), repeat=len(outside)):
        sign = -1.0 if (inside + sum(values)) % 2 else 1.0
        terms.append(_projector(sign * coefficient, bits | dict(zip(outside, values, strict=True))))
    return terms


def _unit_matrix(term: Component, wires: Wires) -> Matrix:
    """Return the component without its coefficient over ``wires``, which include its own."""
    if isinstance(term, HermitianTerm):
        others = tuple(wire for wire in wires if wire not in term.wires)
        matrix = np.kron(term.matrix, np.eye(2 ** len(others)))
        # Reorder the bits of both indices from (own wires, others) to the order of ``wires``.
        current = term.wires + others
        order = [current.index(wire) for wire in wires]
        both = [*order, *(len(wires) + position for position in order)]
        reordered = matrix.reshape((2,) * (2 * len(wires))).transpose(both)
        return np.asarray(reordered.reshape(matrix.shape), dtype=np.complex128)
    if isinstance(term, ProjectorTerm):
        bits = dict(zip(term.wires, term.bits, strict=True))
        factors = [
            np.diag([1.0 - bits[wire], bits[wire]]) if wire in bits else np.eye(2) for wire in wires
        ]
    else:
        letters = dict(term.paulis)
        factors = [PAULI_MATRICES[letters.get(wire, "I")] for wire in wires]
    product: Matrix = np.ones((1, 1), dtype=np.complex128)
    for factor in factors:
        product = np.kron(product, factor).astype(np.complex128, copy=False)
    return product
