# SPDX-License-Identifier: Apache-2.0
"""The gate table: everything QDP knows about a gate stands in one place, here.

A gate is written once, as its constructor under a ``_gate`` or ``_variadic_gate`` decorator that
holds its matrix, its decomposition into primitives, its adjoint and its shift frequencies. Names,
argument order, signs and phases are PennyLane's; S, T, SX and ISWAP have adjoints of their own.
Angles are in radians. The first wire of a gate is the most significant bit of its matrix index.
This module builds structure only: it runs nothing and knows no parameter values.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix: TypeAlias = NDArray[np.complex128]
Wires: TypeAlias = tuple[int, ...]
WiresLike: TypeAlias = int | Iterable[int]

PI = math.pi
# A matrix further than this from unitary (largest entry of U U^dagger - 1) is refused.
UNITARY_TOLERANCE = 1e-10
# Above these sizes a gate stays whole instead of becoming 2**k - 1 rotations about Z words.
MAX_DIAGONAL_WIRES = 6
MAX_CONTROLS = 5
# Keeps a mistyped index from asking for an absurd parameter vector.
MAX_INDEX = 2**31


def read_only(array: ArrayLike) -> Matrix:
    """Return a read-only complex128 copy in which no zero is negative, so that bytes compare.

    Raises TypeError for what is not numbers.

    >>> from qdp import gates
    >>> gates.read_only([[1, -0.0]])
    array([[1.+0.j, 0.+0.j]])
    """
    try:
        copy: Matrix = np.array(array, dtype=np.complex128, order="C") + 0.0
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected an array of numbers, got {array!r:.80}") from error
    copy.flags.writeable = False
    return copy


# Angles


@dataclass(frozen=True, slots=True)
class Angle:
    """An angle in radians, affine in one number: ``scale * source[index] + offset``.

    ``kind`` is "parameter" (trainable), "input" (per-row feature) or "constant" (the value is
    ``offset``; index and scale are 0). Supports ``a * 2``, ``a / 2``, ``-a``, ``a + 0.1``.

    >>> from qdp import gates
    >>> str(2 * gates.parameter(0) + 0.1)
    '2.0*p0+0.1'
    """

    kind: Literal["constant", "parameter", "input"]
    index: int = 0
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)):
            raise ValueError(
                f"expected a finite angle, got scale {self.scale} and offset {self.offset}"
            )
        if self.kind == "constant":
            if self.index != 0 or self.scale != 0.0:
                raise ValueError(
                    f"a constant angle has index 0 and scale 0, got index {self.index} and scale "
                    f"{self.scale}; its value is the offset"
                )
        elif self.kind not in ("parameter", "input"):
            raise ValueError(f"expected kind 'constant', 'parameter' or 'input', got {self.kind!r}")
        elif not 0 <= self.index < MAX_INDEX:
            raise ValueError(f"expected an index from 0 to {MAX_INDEX - 1}, got {self.index}")

    # NumPy scalars on the left hand defer to the operators below.
    __array_ufunc__ = None

    @property
    def is_constant(self) -> bool:
        """Whether the value depends on no parameter and no input."""
        return self.kind == "constant"

    def evaluate(
        self, parameters: NDArray[Any], inputs: NDArray[Any] | None = None
    ) -> float | NDArray[Any]:
        """Return the value: a float, or (rows,) where the source is (rows, ...).

        ``parameters`` is (P,) or (rows, P), ``inputs`` (rows, F) or None.
        """
        if self.kind == "constant":
            return self.offset
        source = parameters if self.kind == "parameter" else inputs
        assert source is not None, "an angle reads inputs, but none were given"
        value: NDArray[Any] = source[..., self.index] * self.scale + self.offset
        return float(value) if value.ndim == 0 else value

    def __mul__(self, factor: float) -> Angle:
        if not isinstance(factor, Real):
            return _no_angle_arithmetic("multiplied by", factor)
        factor = float(factor)
        return Angle(self.kind, self.index, self.scale * factor, self.offset * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Angle:
        if not isinstance(divisor, Real):
            return _no_angle_arithmetic("divided by", divisor)
        divisor = float(divisor)
        return Angle(self.kind, self.index, self.scale / divisor, self.offset / divisor)

    def __neg__(self) -> Angle:
        return Angle(self.kind, self.index, -self.scale, -self.offset)

    def __add__(self, shift: float) -> Angle:
        if not isinstance(shift, Real):
            return _no_angle_arithmetic("added to", shift)
        return Angle(self.kind, self.index, self.scale, self.offset + float(shift))

    __radd__ = __add__

    def __sub__(self, shift: float) -> Angle:
        if not isinstance(shift, Real):
            return _no_angle_arithmetic("reduced by", shift)
        return Angle(self.kind, self.index, self.scale, self.offset - float(shift))

    def __rsub__(self, value: float) -> Angle:
        return -self + value

    def text(self, digits: int | None = None) -> str:
        """Return such text as "0.5*p0+0.1"; ``digits`` rounds its numbers (default: exact).

        >>> from qdp import gates
        >>> (gates.parameter(0) / 3).text(digits=3)
        '0.333*p0'
        """

        def number(value: float) -> str:
            return repr(value) if digits is None else f"{value:.{digits}g}"

        if self.kind == "constant":
            return number(self.offset)
        source = f"{'p' if self.kind == 'parameter' else 'x'}{self.index}"
        if self.scale == -1.0:
            source = f"-{source}"
        elif self.scale != 1.0:
            source = f"{number(self.scale)}*{source}"
        if self.offset == 0.0:
            return source
        return f"{source}{'+' if self.offset > 0 else ''}{number(self.offset)}"

    def __str__(self) -> str:
        return self.text()


AngleLike: TypeAlias = float | Angle


def _no_angle_arithmetic(verb: str, other: object) -> Angle:
    raise TypeError(
        f"an angle can be {verb} a real number only, got {type(other).__name__}; an angle reads "
        "one parameter or input, so a sum of two is two gates"
    )


def parameter(index: int) -> Angle:
    """Return the angle that is trainable parameter ``index``, in radians.

    >>> from qdp import gates
    >>> gates.RX(gates.parameter(0) / 2, wires=1).angles
    (Angle(kind='parameter', index=0, scale=0.5, offset=0.0),)
    """
    return Angle("parameter", operator.index(index))


def feature(index: int) -> Angle:
    """Return the angle that is column ``index`` of the per-row inputs, in radians.

    >>> from qdp import gates
    >>> str(gates.feature(2))
    'x2'
    """
    return Angle("input", operator.index(index))


def constant(value: float) -> Angle:
    """Return the angle that is always ``value``, in radians.

    >>> from qdp import gates
    >>> str(gates.constant(0.5))
    '0.5'
    """
    return Angle("constant", 0, 0.0, float(value))


def _as_angle(value: AngleLike) -> Angle:
    if isinstance(value, Angle):
        return value
    if isinstance(value, Real):
        return Angle("constant", 0, 0.0, float(value))
    raise TypeError(
        f"expected an angle as a real number or an Angle, got {type(value).__name__}; trainable "
        "values enter as qdp.parameter(index), per-row features as qdp.feature(index)"
    )


# Operations


@dataclass(frozen=True, eq=False)
class Operation:
    """One gate on given wires: what a circuit is made of. Immutable, compared by content.

    ``matrix`` is the (2**k, 2**k) unitary of QubitUnitary or the (2**k,) diagonal of
    DiagonalQubitUnitary, complex128 and read-only; ``word`` is PauliRot's Pauli word;
    ``control_values`` are MultiControlledX's. Each is None on other gates.
    The gate constructors of this module are the usual way to make one.

    Raises ValueError for an unknown gate, a wrong number of wires or angles, a negative or
    repeated wire, and a matrix that is not unitary.

    >>> from qdp import gates
    >>> print(gates.CNOT(wires=[0, 1]))
    CNOT 0 1
    """

    name: str
    wires: Wires
    angles: tuple[Angle, ...] = ()
    matrix: Matrix | None = field(default=None, repr=False)
    word: str | None = None
    control_values: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        gate = TABLE.get(self.name)
        if gate is None:
            raise ValueError(_unknown_gate(self.name))
        if not (isinstance(self.wires, tuple) and isinstance(self.angles, tuple)):
            raise TypeError(
                f"{self.name} expected wires and angles as tuples, got "
                f"{type(self.wires).__name__} and {type(self.angles).__name__}"
            )
        n_wires = len(self.wires)
        if gate.n_wires is None:
            if n_wires < gate.min_wires:
                raise ValueError(
                    f"{self.name} acts on at least {gate.min_wires} wires, got {n_wires}"
                )
        elif n_wires != gate.n_wires:
            raise ValueError(
                f"{self.name} acts on {gate.n_wires} wire{'s' * (gate.n_wires != 1)}, got "
                f"{n_wires}: {list(self.wires)}"
            )
        if n_wires > 1 and len(set(self.wires)) != n_wires:
            raise ValueError(f"{self.name} got a repeated wire: {list(self.wires)}")
        if n_wires and min(self.wires) < 0:
            raise ValueError(f"{self.name} expected wires counted from 0, got {list(self.wires)}")
        if len(self.angles) != len(gate.parameters):
            raise ValueError(
                f"{self.name} takes {len(gate.parameters)} angles "
                f"({', '.join(gate.parameters) or 'none'}), got {len(self.angles)}"
            )
        gate.check(self)

    def matrix_value(self, angles: Sequence[float]) -> Matrix:
        """Return the unitary at ``angles`` (one number a slot): (2**k, 2**k) complex128.

        The first wire is the most significant bit. GlobalPhase, on no wires, is (1, 1).

        >>> from qdp import gates
        >>> gates.PauliX(0).matrix_value([]).real.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
        """
        return TABLE[self.name].matrix(self, angles)

    def derivative_value(self, angles: Sequence[float], slot: int) -> Matrix:
        """Return the derivative of the unitary by the angle in ``slot``: (2**k, 2**k) complex128.

        Exact: each entry is a trigonometric polynomial of degree at most 2 in half the angle, so
        five evaluations over its period of 4*pi determine the derivative.

        >>> from qdp import gates
        >>> gates.RZ(gates.parameter(0), 0).derivative_value([0.0], 0).imag.round(9).tolist()
        [[-0.5, 0.0], [0.0, 0.5]]
        """
        total: Matrix = np.zeros(1, dtype=np.complex128)
        # Within one period first: the sum of a large angle and a shift would be rounded.
        half = angles[slot] / 2
        angle = 2 * math.atan2(math.sin(half), math.cos(half))
        for shift, weight in _DERIVATIVE_RULE:
            shifted = list(angles)
            shifted[slot] = angle + shift
            total = total + weight * self.matrix_value(shifted)
        return total

    def adjoint(self) -> Operation:
        """Return the operation that undoes this one.

        >>> from qdp import gates
        >>> print(gates.S(0).adjoint())
        Sdg 0
        """
        return TABLE[self.name].adjoint(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Operation):
            return NotImplemented
        return (
            self.name == other.name
            and self.wires == other.wires
            and self.angles == other.angles
            and self.word == other.word
            and self.control_values == other.control_values
            and (self.matrix is None or np.array_equal(self.matrix, _present(other.matrix)))
        )

    def __hash__(self) -> int:
        matrix = None if self.matrix is None else self.matrix.tobytes()
        return hash((self.name, self.wires, self.angles, matrix, self.word, self.control_values))

    def __reduce__(self) -> tuple[Any, ...]:
        matrix = None if self.matrix is None else np.array(self.matrix)
        fields = (self.name, self.wires, self.angles, matrix, self.word, self.control_values)
        return (_restore_operation, fields)

    def __str__(self) -> str:
        arguments = [str(angle) for angle in self.angles]
        if self.word is not None:
            arguments.append(self.word)
        if self.matrix is not None:
            arguments.append(_matrix_text(self.matrix))
        if self.control_values is not None:
            arguments.append("".join(map(str, self.control_values)))
        head = f"{self.name}({', '.join(arguments)})" if arguments else self.name
        return " ".join([head, *map(str, self.wires)])


# Fourier differentiation with five points: sum over j of weight_j * U(angle + shift_j).
_DERIVATIVE_RULE = tuple(
    (0.8 * PI * j, sum(k * math.sin(0.4 * PI * j * k) for k in (1, 2)) / 5) for j in (1, 2, 3, 4)
)


def _restore_operation(
    name: str,
    wires: Wires,
    angles: tuple[Angle, ...],
    matrix: Matrix | None,
    word: str | None,
    control_values: tuple[int, ...] | None,
) -> Operation:
    return Operation(
        name, wires, angles, None if matrix is None else read_only(matrix), word, control_values
    )


def _present(matrix: Matrix | None) -> Matrix:
    # Same name, so both have a matrix or neither.
    assert matrix is not None
    return matrix


def _matrix_text(matrix: Matrix) -> str:
    if matrix.ndim == 2:
        return "[" + ", ".join(_matrix_text(row) for row in matrix) + "]"
    return "[" + ", ".join(_complex_text(complex(entry)) for entry in matrix) + "]"


def _complex_text(entry: complex) -> str:
    if entry.imag == 0.0:
        return repr(entry.real)
    return f"{entry.real!r}{'+' if entry.imag > 0 else ''}{entry.imag!r}j"


def _unknown_gate(name: str) -> str:
    close = difflib.get_close_matches(name, [*TABLE, *ALIASES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(TABLE)}"
    return f"unknown gate {name[:60]!r}; {hint}"


# Primitives: what gates decompose into


@dataclass(frozen=True, slots=True)
class Clifford:
    """One of X Y Z H S SDG on one wire, or CNOT CZ SWAP on two (CNOT: control first)."""

    name: Literal["X", "Y", "Z", "H", "S", "SDG", "CNOT", "CZ", "SWAP"]
    wires: Wires


@dataclass(frozen=True, slots=True)
class Rotation:
    """exp(-i * angle/2 * P), where P is the Pauli ``word`` over ``wires``, letters X, Y, Z only."""

    word: str
    wires: Wires
    angle: Angle


@dataclass(frozen=True, slots=True)
class Phase:
    """Multiplication of the state by exp(i * angle)."""

    angle: Angle


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A constant (2**k, 2**k) unitary on ``wires``, applied where ``controls`` read their values.

    ``matrix`` is complex128 and read-only, its first wire the most significant.
    """

    matrix: Matrix
    wires: Wires
    controls: Wires = ()
    control_values: tuple[int, ...] = ()

    def _key(self) -> tuple[object, ...]:
        return (self.matrix.tobytes(), self.wires, self.controls, self.control_values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dense) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True, eq=False)
class Diagonal:
    """A constant diagonal unitary, (2**k,) complex128 and read-only, on ``wires``."""

    values: Matrix
    wires: Wires

    def _key(self) -> tuple[object, ...]:
        return (self.values.tobytes(), self.wires)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diagonal) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


Primitive: TypeAlias = Clifford | Rotation | Phase | Dense | Diagonal
Primitives: TypeAlias = tuple[Primitive, ...]


# The table and how its rows are written


@dataclass(frozen=True)
class Gate:
    """One row of the gate table.

    ``n_wires`` is None for a gate on any number of wires from ``min_wires`` up. ``parameters``
    are the names of its angles. ``frequencies`` holds, for each angle, the positive gaps between
    eigenvalues of its generator, which fix the parameter-shift rule; none where an expectation
    value cannot depend on the angle. ``symbols`` is what a drawing shows on each wire, if that is
    not the gate's name.
    """

    name: str
    n_wires: int | None
    min_wires: int
    parameters: tuple[str, ...]
    frequencies: tuple[tuple[float, ...], ...]
    matrix: Callable[[Operation, Sequence[float]], Matrix] = field(repr=False)
    decompose: Callable[[Operation], Primitives] = field(repr=False)
    adjoint: Callable[[Operation], Operation] = field(repr=False)
    check: Callable[[Operation], None] = field(repr=False)
    constructor: Callable[..., Operation] = field(repr=False)
    symbols: tuple[str, ...] | None
    doc: str


_rows: dict[str, Gate] = {}
TABLE: Mapping[str, Gate] = MappingProxyType(_rows)
# PennyLane's short names, accepted in text; the table and the text written use the long ones.
ALIASES: Mapping[str, str] = MappingProxyType(
    {"I": "Identity", "X": "PauliX", "Y": "PauliY", "Z": "PauliZ", "H": "Hadamard"}
)

_Constructor = TypeVar("_Constructor", bound=Callable[..., Operation])
_NOT_ANGLES = ("wires", "pauli_word", "control_values", "U", "D")


def _variadic_gate(
    *,
    matrix: Callable[[Operation, Sequence[float]], Matrix],
    decompose: Callable[[Operation], Primitives],
    adjoint: Callable[[Operation], Operation],
    frequencies: tuple[tuple[float, ...], ...] = (),
    check: Callable[[Operation], None] | None = None,
    n_wires: int | None = None,
    min_wires: int = 1,
    symbols: tuple[str, ...] | None = None,
) -> Callable[[_Constructor], _Constructor]:
    """Put a gate into the table under its constructor's name, with functions of the operation."""

    def register(constructor: _Constructor) -> _Constructor:
        arguments = inspect.signature(constructor).parameters
        parameters = tuple(name for name in arguments if name not in _NOT_ANGLES)
        assert len(parameters) == len(frequencies), constructor.__name__
        _rows[constructor.__name__] = Gate(
            name=constructor.__name__,
            n_wires=n_wires,
            min_wires=min_wires if n_wires is None else n_wires,
            parameters=parameters,
            frequencies=frequencies,
            matrix=matrix,
            decompose=decompose,
            adjoint=adjoint,
            check=check or _no_extras,
            constructor=constructor,
            symbols=symbols,
            doc=(constructor.__doc__ or "").splitlines()[0],
        )
        return constructor

    return register


def _gate(
    *,
    n_wires: int,
    matrix: ArrayLike | Callable[..., ArrayLike],
    decompose: Callable[..., Primitives],
    adjoint: Callable[[Operation], Operation],
    frequencies: tuple[tuple[float, ...], ...] = (),
    symbols: tuple[str, ...] | None = None,
) -> Callable[[_Constructor], _Constructor]:
    """Put a gate on a fixed number of wires into the table.

    ``matrix`` is the matrix, or a function of the angles as numbers; ``decompose`` a function of
    the wires and then the angles as Angle.
    """
    if callable(matrix):
        of_angles = matrix

        def matrix_of(operation: Operation, angles: Sequence[float]) -> Matrix:
            return np.asarray(of_angles(*angles), dtype=np.complex128)

    else:
        value = read_only(matrix)

        def matrix_of(operation: Operation, angles: Sequence[float]) -> Matrix:
            return value

    return _variadic_gate(
        n_wires=n_wires,
        matrix=matrix_of,
        decompose=lambda operation: decompose(operation.wires, *operation.angles),
        adjoint=adjoint,
        frequencies=frequencies,
        symbols=symbols,
    )


def decompose(operation: Operation) -> Primitives:
    """Return the primitives, in order of application, whose product is exactly the operation.

    The global phase is included. QubitUnitary on two and more wires stays one Dense,
    DiagonalQubitUnitary on more than 6 wires one Diagonal, MultiControlledX with more than 5
    controls one controlled Dense; everything else is Clifford, Rotation and Phase.

    >>> from qdp import gates
    >>> [primitive.name for primitive in gates.decompose(gates.ISWAP([0, 1]))]
    ['S', 'S', 'CZ', 'SWAP']
    """
    return TABLE[operation.name].decompose(operation)


def _operation(name: str, wires: WiresLike, *angles: AngleLike) -> Operation:
    return Operation(name, as_wires(wires), tuple(map(_as_angle, angles)))


def as_wires(wires: WiresLike) -> Wires:
    """Return wires, given as an integer or a sequence of them, as a tuple of integers.

    >>> from qdp import gates
    >>> gates.as_wires(3)
    (3,)
    """
    if isinstance(wires, int):
        return (wires,)
    try:
        if isinstance(wires, Iterable):
            return tuple(map(operator.index, wires))
        return (operator.index(wires),)
    except TypeError as error:
        raise TypeError(
            f"expected wires as an integer or a sequence of integers, got {wires!r}"
        ) from error


def _no_extras(operation: Operation) -> None:
    for extra in ("matrix", "word", "control_values"):
        if getattr(operation, extra) is not None:
            raise ValueError(f"{operation.name} takes no {extra}")


# Adjoints


def _unchanged(operation: Operation) -> Operation:
    return operation


def _negated(operation: Operation) -> Operation:
    angles = tuple(-angle for angle in operation.angles)
    return Operation(operation.name, operation.wires, angles, word=operation.word)


def _reversed(operation: Operation) -> Operation:
    angles = tuple(-angle for angle in reversed(operation.angles))
    return Operation(operation.name, operation.wires, angles)


def _renamed(name: str) -> Callable[[Operation], Operation]:
    return lambda operation: Operation(name, operation.wires)


# Matrices


def _rx(phi: float) -> Matrix:
    c, s = math.cos(phi / 2), math.sin(phi / 2)
    return np.array([[c, -1j * s], [-1j * s, c]])


def _ry(phi: float) -> Matrix:
    c, s = math.cos(phi / 2), math.sin(phi / 2)
    return np.array([[c, -s], [s, c]], dtype=np.complex128)


def _rz(phi: float) -> Matrix:
    return np.diag([_expi(-phi / 2), _expi(phi / 2)])


def _rot(phi: float, theta: float, omega: float) -> Matrix:
    return _rz(omega) @ _ry(theta) @ _rz(phi)


def _u3(theta: float, phi: float, delta: float) -> Matrix:
    c, s = math.cos(theta / 2), math.sin(theta / 2)
    return np.array([[c, -_expi(delta) * s], [_expi(phi) * s, _expi(phi + delta) * c]])


def _controlled(target: Matrix) -> Matrix:
    matrix = np.eye(2 * len(target), dtype=np.complex128)
    matrix[len(target) :, len(target) :] = target
    return matrix


def _middle(block: ArrayLike) -> Matrix:
    """Return the two-qubit matrix that acts with ``block`` on |01>, |10> and leaves the rest."""
    matrix = np.eye(4, dtype=np.complex128)
    matrix[1:3, 1:3] = block
    return matrix


def _expi(phase: float) -> complex:
    return complex(math.cos(phase), math.sin(phase))


_X: Matrix = np.array([[0, 1], [1, 0]], dtype=np.complex128)
_Y: Matrix = np.array([[0, -1j], [1j, 0]])
_Z: Matrix = np.diag([1, -1]).astype(np.complex128)
_H: Matrix = np.array([[1, 1], [1, -1]], dtype=np.complex128) * math.sqrt(0.5)
_SX: Matrix = np.array([[0.5 + 0.5j, 0.5 - 0.5j], [0.5 - 0.5j, 0.5 + 0.5j]])
# The four Pauli letters, for whoever needs them as matrices.
PAULI_MATRICES: Mapping[str, Matrix] = MappingProxyType(
    {
        "I": read_only(np.eye(2)),
        "X": read_only(_X),
        "Y": read_only(_Y),
        "Z": read_only(_Z),
    }
)


def pauli_word_matrix(word: str) -> Matrix:
    """Return the tensor product of the letters I, X, Y, Z in ``word``: (2**k, 2**k) complex128.

    >>> from qdp import gates
    >>> gates.pauli_word_matrix("ZZ").diagonal().real.tolist()
    [1.0, -1.0, -1.0, 1.0]
    """
    matrix: Matrix = np.ones((1, 1), dtype=np.complex128)
    for letter in word:
        matrix = np.kron(matrix, PAULI_MATRICES[letter]).astype(np.complex128, copy=False)
    return matrix


# Decompositions shared by several gates


def _phase_shift(wires: Wires, phi: Angle) -> Primitives:
    return (Rotation("Z", wires, phi), Phase(phi / 2))


def _controlled_rotation(letter: str, wires: Wires, angle: Angle) -> Primitives:
    # |1><1| = (1 - Z)/2 on the control splits the generator into two commuting words.
    return (Rotation(letter, wires[1:], angle / 2), Rotation("Z" + letter, wires, -angle / 2))


def _all_ones_phase(wires: Wires, angle: Angle) -> Primitives:
    """Multiply |1...1> by exp(i*angle), by the expansion of its projector in Z words."""
    part = angle / 2 ** len(wires)
    rotations = tuple(
        Rotation("Z" * size, subset, part * (2 if size % 2 else -2))
        for size in range(1, len(wires) + 1)
        for subset in itertools.combinations(wires, size)
    )
    return (*rotations, Phase(part))


def _rot_decomposition(wires: Wires, phi: Angle, theta: Angle, omega: Angle) -> Primitives:
    return (Rotation("Z", wires, phi), Rotation("Y", wires, theta), Rotation("Z", wires, omega))


def _u3_decomposition(wires: Wires, theta: Angle, phi: Angle, delta: Angle) -> Primitives:
    rotations = _rot_decomposition(wires, delta, theta, phi)
    return (*rotations, Phase(phi / 2), Phase(delta / 2))


def _toffoli(wires: Wires) -> Primitives:
    flip = Clifford("H", wires[-1:])
    return (flip, *_all_ones_phase(wires, constant(PI)), flip)


def _cliffords(*steps: tuple[str, tuple[int, ...]]) -> Callable[[Wires], Primitives]:
    """Return the decomposition that applies named Cliffords at positions of the gate's wires."""
    return lambda wires: tuple(
        Clifford(name, tuple(wires[position] for position in positions))  # type: ignore[arg-type]
        for name, positions in steps
    )


# Gates without angles


@_variadic_gate(
    matrix=lambda operation, angles: np.eye(2 ** len(operation.wires), dtype=np.complex128),
    decompose=lambda operation: (),
    adjoint=_unchanged,
)
def Identity(wires: WiresLike) -> Operation:
    """Identity on one or more wires."""
    return _operation("Identity", wires)


@_gate(n_wires=1, matrix=_X, decompose=_cliffords(("X", (0,))), adjoint=_unchanged, symbols=("X",))
def PauliX(wires: WiresLike) -> Operation:
    """Pauli X, the bit flip."""
    return _operation("PauliX", wires)


@_gate(n_wires=1, matrix=_Y, decompose=_cliffords(("Y", (0,))), adjoint=_unchanged, symbols=("Y",))
def PauliY(wires: WiresLike) -> Operation:
    """Pauli Y."""
    return _operation("PauliY", wires)


@_gate(n_wires=1, matrix=_Z, decompose=_cliffords(("Z", (0,))), adjoint=_unchanged, symbols=("Z",))
def PauliZ(wires: WiresLike) -> Operation:
    """Pauli Z, the phase flip."""
    return _operation("PauliZ", wires)


@_gate(n_wires=1, matrix=_H, decompose=_cliffords(("H", (0,))), adjoint=_unchanged, symbols=("H",))
def Hadamard(wires: WiresLike) -> Operation:
    """Hadamard gate."""
    return _operation("Hadamard", wires)


@_gate(
    n_wires=1,
    matrix=np.diag([1, 1j]),
    decompose=_cliffords(("S", (0,))),
    adjoint=_renamed("Sdg"),
)
def S(wires: WiresLike) -> Operation:
    """Phase gate diag(1, i)."""
    return _operation("S", wires)


@_gate(
    n_wires=1,
    matrix=np.diag([1, -1j]),
    decompose=_cliffords(("SDG", (0,))),
    adjoint=_renamed("S"),
)
def Sdg(wires: WiresLike) -> Operation:
    """Adjoint of S, diag(1, -i)."""
    return _operation("Sdg", wires)


@_gate(
    n_wires=1,
    matrix=np.diag([1, _expi(PI / 4)]),
    decompose=lambda wires: _phase_shift(wires, constant(PI / 4)),
    adjoint=_renamed("Tdg"),
)
def T(wires: WiresLike) -> Operation:
    """T gate diag(1, exp(i*pi/4))."""
    return _operation("T", wires)


@_gate(
    n_wires=1,
    matrix=np.diag([1, _expi(-PI / 4)]),
    decompose=lambda wires: _phase_shift(wires, constant(-PI / 4)),
    adjoint=_renamed("T"),
)
def Tdg(wires: WiresLike) -> Operation:
    """Adjoint of T, diag(1, exp(-i*pi/4))."""
    return _operation("Tdg", wires)


@_gate(
    n_wires=1,
    matrix=_SX,
    decompose=_cliffords(("H", (0,)), ("S", (0,)), ("H", (0,))),
    adjoint=_renamed("SXdg"),
)
def SX(wires: WiresLike) -> Operation:
    """Square root of X."""
    return _operation("SX", wires)


@_gate(
    n_wires=1,
    matrix=_SX.conj(),
    decompose=_cliffords(("H", (0,)), ("SDG", (0,)), ("H", (0,))),
    adjoint=_renamed("SX"),
)
def SXdg(wires: WiresLike) -> Operation:
    """Adjoint of SX."""
    return _operation("SXdg", wires)


@_gate(
    n_wires=2,
    matrix=_controlled(_X),
    decompose=_cliffords(("CNOT", (0, 1))),
    adjoint=_unchanged,
    symbols=("*", "X"),
)
def CNOT(wires: WiresLike) -> Operation:
    """Controlled X; wires are control, target."""
    return _operation("CNOT", wires)


@_gate(
    n_wires=2,
    matrix=_controlled(_Z),
    decompose=_cliffords(("CZ", (0, 1))),
    adjoint=_unchanged,
    symbols=("*", "Z"),
)
def CZ(wires: WiresLike) -> Operation:
    """Controlled Z; wires are control, target."""
    return _operation("CZ", wires)


@_gate(
    n_wires=2,
    matrix=_controlled(_Y),
    decompose=_cliffords(("SDG", (1,)), ("CNOT", (0, 1)), ("S", (1,))),
    adjoint=_unchanged,
    symbols=("*", "Y"),
)
def CY(wires: WiresLike) -> Operation:
    """Controlled Y; wires are control, target."""
    return _operation("CY", wires)


@_gate(
    n_wires=2,
    matrix=_controlled(_H),
    # H = RY(pi/4) Z RY(-pi/4)
    decompose=lambda wires: (
        Rotation("Y", wires[1:], constant(-PI / 4)),
        Clifford("CZ", wires),
        Rotation("Y", wires[1:], constant(PI / 4)),
    ),
    adjoint=_unchanged,
    symbols=("*", "H"),
)
def CH(wires: WiresLike) -> Operation:
    """Controlled Hadamard; wires are control, target."""
    return _operation("CH", wires)


@_gate(
    n_wires=2,
    matrix=np.eye(4)[[0, 2, 1, 3]],
    decompose=_cliffords(("SWAP", (0, 1))),
    adjoint=_unchanged,
    symbols=("x", "x"),
)
def SWAP(wires: WiresLike) -> Operation:
    """Exchange of two wires."""
    return _operation("SWAP", wires)


@_gate(
    n_wires=2,
    matrix=_middle([[0, 1j], [1j, 0]]),
    decompose=_cliffords(("S", (0,)), ("S", (1,)), ("CZ", (0, 1)), ("SWAP", (0, 1))),
    adjoint=_renamed("ISWAPdg"),
)
def ISWAP(wires: WiresLike) -> Operation:
    """Exchange of two wires with a factor i on |01> and |10>."""
    return _operation("ISWAP", wires)


@_gate(
    n_wires=2,
    matrix=_middle([[0, -1j], [-1j, 0]]),
    decompose=_cliffords(("SDG", (0,)), ("SDG", (1,)), ("CZ", (0, 1)), ("SWAP", (0, 1))),
    adjoint=_renamed("ISWAP"),
)
def ISWAPdg(wires: WiresLike) -> Operation:
    """Adjoint of ISWAP."""
    return _operation("ISWAPdg", wires)


@_gate(
    n_wires=2,
    matrix=np.kron(_X, np.eye(2)) @ (np.eye(4) - 1j * np.kron(_Z, _X)) * math.sqrt(0.5),
    # ECR = X_0 exp(-i*pi/4 * Z_0 X_1), and exp(-i*pi/4 * ZZ) = exp(-i*pi/4) S_0 S_1 CZ.
    decompose=lambda wires: (
        Clifford("H", wires[1:]),
        Clifford("S", wires[:1]),
        Clifford("S", wires[1:]),
        Clifford("CZ", wires),
        Clifford("H", wires[1:]),
        Clifford("X", wires[:1]),
        Phase(constant(-PI / 4)),
    ),
    adjoint=_unchanged,
)
def ECR(wires: WiresLike) -> Operation:
    """Echoed cross-resonance gate (X_0 - Y_0 X_1)/sqrt(2)."""
    return _operation("ECR", wires)


@_gate(
    n_wires=3,
    matrix=_controlled(_controlled(_Z)),
    decompose=lambda wires: _all_ones_phase(wires, constant(PI)),
    adjoint=_unchanged,
    symbols=("*", "*", "Z"),
)
def CCZ(wires: WiresLike) -> Operation:
    """Doubly controlled Z."""
    return _operation("CCZ", wires)


@_gate(
    n_wires=3,
    matrix=_controlled(_controlled(_X)),
    decompose=_toffoli,
    adjoint=_unchanged,
    symbols=("*", "*", "X"),
)
def Toffoli(wires: WiresLike) -> Operation:
    """Doubly controlled X; wires are control, control, target."""
    return _operation("Toffoli", wires)


@_gate(
    n_wires=3,
    matrix=_controlled(np.eye(4, dtype=np.complex128)[[0, 2, 1, 3]]),
    decompose=lambda wires: (
        Clifford("CNOT", (wires[2], wires[1])),
        *_toffoli(wires),
        Clifford("CNOT", (wires[2], wires[1])),
    ),
    adjoint=_unchanged,
    symbols=("*", "x", "x"),
)
def CSWAP(wires: WiresLike) -> Operation:
    """Controlled exchange; wires are control, target, target."""
    return _operation("CSWAP", wires)


# Rotations about one axis and general one-wire gates


@_gate(
    n_wires=1,
    matrix=_rx,
    decompose=lambda wires, phi: (Rotation("X", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def RX(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * X)."""
    return _operation("RX", wires, phi)


@_gate(
    n_wires=1,
    matrix=_ry,
    decompose=lambda wires, phi: (Rotation("Y", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def RY(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * Y)."""
    return _operation("RY", wires, phi)


@_gate(
    n_wires=1,
    matrix=_rz,
    decompose=lambda wires, phi: (Rotation("Z", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def RZ(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * Z)."""
    return _operation("RZ", wires, phi)


@_gate(
    n_wires=1,
    matrix=lambda phi: np.diag([1, _expi(phi)]),
    decompose=_phase_shift,
    adjoint=_negated,
    frequencies=((1.0,),),
)
def PhaseShift(phi: AngleLike, wires: WiresLike) -> Operation:
    """Phase diag(1, exp(i*phi))."""
    return _operation("PhaseShift", wires, phi)


@_gate(
    n_wires=1,
    matrix=_rot,
    decompose=_rot_decomposition,
    adjoint=_reversed,
    frequencies=((1.0,), (1.0,), (1.0,)),
)
def Rot(phi: AngleLike, theta: AngleLike, omega: AngleLike, wires: WiresLike) -> Operation:
    """Rotation RZ(omega) RY(theta) RZ(phi)."""
    return _operation("Rot", wires, phi, theta, omega)


@_gate(
    n_wires=1,
    matrix=lambda phi: np.diag([1, _expi(phi)]),
    decompose=_phase_shift,
    adjoint=_negated,
    frequencies=((1.0,),),
)
def U1(phi: AngleLike, wires: WiresLike) -> Operation:
    """Phase diag(1, exp(i*phi)), the same as PhaseShift."""
    return _operation("U1", wires, phi)


def _u2_adjoint(operation: Operation) -> Operation:
    phi, delta = operation.angles
    return Operation("U2", operation.wires, (PI - delta, PI - phi))


@_gate(
    n_wires=1,
    matrix=lambda phi, delta: (
        np.array([[1, -_expi(delta)], [_expi(phi), _expi(phi + delta)]]) * math.sqrt(0.5)
    ),
    decompose=lambda wires, phi, delta: _u3_decomposition(wires, constant(PI / 2), phi, delta),
    adjoint=_u2_adjoint,
    frequencies=((1.0,), (1.0,)),
)
def U2(phi: AngleLike, delta: AngleLike, wires: WiresLike) -> Operation:
    """General gate of two angles, U3(pi/2, phi, delta)."""
    return _operation("U2", wires, phi, delta)


def _u3_adjoint(operation: Operation) -> Operation:
    theta, phi, delta = operation.angles
    return Operation("U3", operation.wires, (-theta, -delta, -phi))


@_gate(
    n_wires=1,
    matrix=_u3,
    decompose=_u3_decomposition,
    adjoint=_u3_adjoint,
    frequencies=((1.0,), (1.0,), (1.0,)),
)
def U3(theta: AngleLike, phi: AngleLike, delta: AngleLike, wires: WiresLike) -> Operation:
    """General one-wire gate exp(i*(phi+delta)/2) RZ(phi) RY(theta) RZ(delta)."""
    return _operation("U3", wires, theta, phi, delta)


# Controlled rotations


@_gate(
    n_wires=2,
    matrix=lambda phi: _controlled(_rx(phi)),
    decompose=lambda wires, phi: _controlled_rotation("X", wires, phi),
    adjoint=_negated,
    frequencies=((0.5, 1.0),),
    symbols=("*", "RX"),
)
def CRX(phi: AngleLike, wires: WiresLike) -> Operation:
    """Controlled RX; wires are control, target."""
    return _operation("CRX", wires, phi)


@_gate(
    n_wires=2,
    matrix=lambda phi: _controlled(_ry(phi)),
    decompose=lambda wires, phi: _controlled_rotation("Y", wires, phi),
    adjoint=_negated,
    frequencies=((0.5, 1.0),),
    symbols=("*", "RY"),
)
def CRY(phi: AngleLike, wires: WiresLike) -> Operation:
    """Controlled RY; wires are control, target."""
    return _operation("CRY", wires, phi)


@_gate(
    n_wires=2,
    matrix=lambda phi: _controlled(_rz(phi)),
    decompose=lambda wires, phi: _controlled_rotation("Z", wires, phi),
    adjoint=_negated,
    frequencies=((0.5, 1.0),),
    symbols=("*", "RZ"),
)
def CRZ(phi: AngleLike, wires: WiresLike) -> Operation:
    """Controlled RZ; wires are control, target."""
    return _operation("CRZ", wires, phi)


@_gate(
    n_wires=2,
    matrix=lambda phi, theta, omega: _controlled(_rot(phi, theta, omega)),
    decompose=lambda wires, phi, theta, omega: (
        *_controlled_rotation("Z", wires, phi),
        *_controlled_rotation("Y", wires, theta),
        *_controlled_rotation("Z", wires, omega),
    ),
    adjoint=_reversed,
    frequencies=((0.5, 1.0), (0.5, 1.0), (0.5, 1.0)),
    symbols=("*", "Rot"),
)
def CRot(phi: AngleLike, theta: AngleLike, omega: AngleLike, wires: WiresLike) -> Operation:
    """Controlled Rot; wires are control, target."""
    return _operation("CRot", wires, phi, theta, omega)


@_gate(
    n_wires=2,
    matrix=lambda phi: np.diag([1, 1, 1, _expi(phi)]),
    decompose=_all_ones_phase,
    adjoint=_negated,
    frequencies=((1.0,),),
    symbols=("*", "PhaseShift"),
)
def ControlledPhaseShift(phi: AngleLike, wires: WiresLike) -> Operation:
    """Phase diag(1, 1, 1, exp(i*phi))."""
    return _operation("ControlledPhaseShift", wires, phi)


# Rotations about Pauli words


def _word_rotation(word: str, angle: float) -> Matrix:
    matrix = -1j * math.sin(angle / 2) * pauli_word_matrix(word)
    matrix[np.diag_indices_from(matrix)] += math.cos(angle / 2)
    return matrix


@_gate(
    n_wires=2,
    matrix=lambda phi: _word_rotation("XX", phi),
    decompose=lambda wires, phi: (Rotation("XX", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def IsingXX(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * XX)."""
    return _operation("IsingXX", wires, phi)


@_gate(
    n_wires=2,
    matrix=lambda phi: _word_rotation("YY", phi),
    decompose=lambda wires, phi: (Rotation("YY", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def IsingYY(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * YY)."""
    return _operation("IsingYY", wires, phi)


@_gate(
    n_wires=2,
    matrix=lambda phi: _word_rotation("ZZ", phi),
    decompose=lambda wires, phi: (Rotation("ZZ", wires, phi),),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def IsingZZ(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*phi/2 * ZZ)."""
    return _operation("IsingZZ", wires, phi)


def _ising_xy(phi: float) -> Matrix:
    c, s = math.cos(phi / 2), math.sin(phi / 2)
    return _middle([[c, 1j * s], [1j * s, c]])


@_gate(
    n_wires=2,
    matrix=_ising_xy,
    decompose=lambda wires, phi: (
        Rotation("XX", wires, -phi / 2),
        Rotation("YY", wires, -phi / 2),
    ),
    adjoint=_negated,
    frequencies=((0.5, 1.0),),
)
def IsingXY(phi: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(i*phi/4 * (XX + YY))."""
    return _operation("IsingXY", wires, phi)


def _single_excitation(phi: float) -> Matrix:
    c, s = math.cos(phi / 2), math.sin(phi / 2)
    return _middle([[c, -s], [s, c]])


@_gate(
    n_wires=2,
    matrix=_single_excitation,
    decompose=lambda wires, phi: (
        Rotation("YX", wires, phi / 2),
        Rotation("XY", wires, -phi / 2),
    ),
    adjoint=_negated,
    frequencies=((0.5, 1.0),),
)
def SingleExcitation(phi: AngleLike, wires: WiresLike) -> Operation:
    """Givens rotation exp(-i*phi/4 * (YX - XY)) of |01> and |10>."""
    return _operation("SingleExcitation", wires, phi)


@_variadic_gate(
    matrix=lambda operation, angles: _word_rotation("Z" * len(operation.wires), angles[0]),
    decompose=lambda operation: (
        Rotation("Z" * len(operation.wires), operation.wires, operation.angles[0]),
    ),
    adjoint=_negated,
    frequencies=((1.0,),),
)
def MultiRZ(theta: AngleLike, wires: WiresLike) -> Operation:
    """Rotation exp(-i*theta/2 * Z...Z)."""
    return _operation("MultiRZ", wires, theta)


def _check_word(operation: Operation) -> None:
    word = operation.word
    if not isinstance(word, str):
        raise TypeError(f"PauliRot expected a Pauli word such as 'XZ', got {word!r}")
    if len(word) != len(operation.wires):
        raise ValueError(
            f"PauliRot expected a letter for each of {len(operation.wires)} wires, got "
            f"{len(word)} in {word[:60]!r}"
        )
    if not set(word) <= set("IXYZ"):
        raise ValueError(f"PauliRot expected a word of letters I, X, Y, Z, got {word[:60]!r}")
    if operation.matrix is not None or operation.control_values is not None:
        raise ValueError("PauliRot takes no matrix and no control values")


def _pauli_rot_decomposition(operation: Operation) -> Primitives:
    (angle,) = operation.angles
    assert operation.word is not None
    letters = [
        (letter, wire)
        for letter, wire in zip(operation.word, operation.wires, strict=True)
        if letter != "I"
    ]
    if not letters:
        return (Phase(-angle / 2),)
    word, wires = zip(*letters, strict=True)
    return (Rotation("".join(word), wires, angle),)


@_variadic_gate(
    matrix=lambda operation, angles: _word_rotation(operation.word or "", angles[0]),
    decompose=_pauli_rot_decomposition,
    adjoint=_negated,
    frequencies=((1.0,),),
    check=_check_word,
)
def PauliRot(theta: AngleLike, pauli_word: str, wires: WiresLike) -> Operation:
    """Rotation exp(-i*theta/2 * P) about a Pauli word P such as "XZ"."""
    return Operation("PauliRot", as_wires(wires), (_as_angle(theta),), word=pauli_word)


# Gates on any number of wires that hold data, and the global phase


def _check_controls(operation: Operation) -> None:
    values, n_controls = operation.control_values, len(operation.wires) - 1
    if values is None or len(values) != n_controls:
        got = "none" if values is None else f"{len(values)}: {list(values)}"
        raise ValueError(
            f"MultiControlledX on {n_controls + 1} wires (controls, then target) expected "
            f"{n_controls} control values, got {got}"
        )
    if any(value not in (0, 1) for value in values):
        raise ValueError(f"MultiControlledX expected control values 0 or 1, got {list(values)}")
    if operation.matrix is not None or operation.word is not None:
        raise ValueError("MultiControlledX takes no matrix and no word")


def _control_values(operation: Operation) -> tuple[int, ...]:
    assert operation.control_values is not None
    return operation.control_values


def _multi_controlled_x_matrix(operation: Operation, angles: Sequence[float]) -> Matrix:
    index = 0
    for value in _control_values(operation):
        index = 2 * index + value
    matrix = np.eye(2 ** len(operation.wires), dtype=np.complex128)
    matrix[2 * index : 2 * index + 2, 2 * index : 2 * index + 2] = _X
    return matrix


def _multi_controlled_x_decomposition(operation: Operation) -> Primitives:
    *controls, target = operation.wires
    values = _control_values(operation)
    if len(controls) > MAX_CONTROLS:
        return (Dense(PAULI_MATRICES["X"], (target,), tuple(controls), values),)
    flips = tuple(
        Clifford("X", (wire,)) for wire, value in zip(controls, values, strict=True) if not value
    )
    if len(controls) == 1:
        return (*flips, Clifford("CNOT", operation.wires), *flips)
    return (*flips, *_toffoli(operation.wires), *flips)


@_variadic_gate(
    matrix=_multi_controlled_x_matrix,
    decompose=_multi_controlled_x_decomposition,
    adjoint=_unchanged,
    check=_check_controls,
    min_wires=2,
)
def MultiControlledX(wires: WiresLike, control_values: Iterable[int] | None = None) -> Operation:
    """X on the last wire where the other wires read ``control_values`` (default: all 1)."""
    wires = as_wires(wires)
    values = (1,) * (len(wires) - 1) if control_values is None else as_wires(control_values)
    return Operation("MultiControlledX", wires, control_values=values)


def _check_array(operation: Operation, ndim: int) -> Matrix:
    array = operation.matrix
    if array is not None and (not isinstance(array, np.ndarray) or array.flags.writeable):
        # Made without its constructor: take the copy that nobody can change.
        array = read_only(array)
        object.__setattr__(operation, "matrix", array)
    size = 2 ** len(operation.wires)
    if array is None or array.shape != (size,) * ndim:
        got = None if array is None else array.shape
        raise ValueError(
            f"{operation.name} on {len(operation.wires)} wires expected shape {(size,) * ndim}, "
            f"got {got}"
        )
    if operation.word is not None or operation.control_values is not None:
        raise ValueError(f"{operation.name} takes no word and no control values")
    return array


def _refuse_not_unitary(operation: Operation, deviation: float) -> None:
    # Written so that NaN is refused too.
    if not deviation <= UNITARY_TOLERANCE:
        raise ValueError(
            f"{operation.name} expected a unitary matrix in double precision, got one whose "
            f"U U^dagger differs from 1 by {deviation:.2g} (allowed: {UNITARY_TOLERANCE:g})"
        )


def _check_unitary(operation: Operation) -> None:
    matrix = _check_array(operation, 2)
    with np.errstate(all="ignore"):
        deviation = np.abs(matrix @ matrix.conj().T - np.eye(len(matrix))).max()
    _refuse_not_unitary(operation, float(deviation))


def _check_diagonal(operation: Operation) -> None:
    values = _check_array(operation, 1)
    with np.errstate(all="ignore"):
        deviation = np.abs(np.abs(values) - 1.0).max()
    _refuse_not_unitary(operation, float(deviation))


def _unitary_decomposition(operation: Operation) -> Primitives:
    matrix = _present(operation.matrix)
    if len(operation.wires) > 1:
        return (Dense(matrix, operation.wires),)
    # U = exp(i*alpha) RZ(omega) RY(theta) RZ(phi): alpha is half the phase of the determinant,
    # and the first column of U exp(-i*alpha) has phases -(omega + phi)/2 and (omega - phi)/2.
    alpha = float(np.angle(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])) / 2
    upper, lower = matrix[:, 0] * _expi(-alpha)
    theta = 2 * math.atan2(abs(lower), abs(upper))
    half_sum, half_difference = -float(np.angle(upper)), float(np.angle(lower))
    if theta == 0.0:
        angles = [("Z", 2 * half_sum)]
    else:
        omega, phi = half_sum + half_difference, half_sum - half_difference
        angles = [("Z", phi), ("Y", theta), ("Z", omega)]
    rotations = tuple(
        Rotation(letter, operation.wires, constant(angle)) for letter, angle in angles if angle
    )
    return (*rotations, Phase(constant(alpha)))


def _matrix_adjoint(operation: Operation) -> Operation:
    matrix = read_only(_present(operation.matrix).conj().T)
    return Operation(operation.name, operation.wires, matrix=matrix)


@_variadic_gate(
    matrix=lambda operation, angles: _present(operation.matrix),
    decompose=_unitary_decomposition,
    adjoint=_matrix_adjoint,
    check=_check_unitary,
)
def QubitUnitary(U: ArrayLike, wires: WiresLike) -> Operation:
    """Any constant unitary, (2**k, 2**k), on k wires."""
    return Operation("QubitUnitary", as_wires(wires), matrix=read_only(U))


def _diagonal_decomposition(operation: Operation) -> Primitives:
    values = _present(operation.matrix)
    wires = operation.wires
    if len(wires) > MAX_DIAGONAL_WIRES:
        return (Diagonal(values, wires),)
    # The Walsh-Hadamard transform writes the phases as a sum over Z words.
    phases = np.angle(values).reshape((2,) * len(wires))
    for axis in range(len(wires)):
        zero, one = np.moveaxis(phases, axis, 0)
        phases = np.stack([zero + one, zero - one], axis=axis) / 2
    rotations = []
    for bits in itertools.product((0, 1), repeat=len(wires)):
        subset = tuple(itertools.compress(wires, bits))
        angle = -2 * float(phases[bits])
        if subset and angle:
            rotations.append(Rotation("Z" * len(subset), subset, constant(angle)))
    return (*rotations, Phase(constant(float(phases[(0,) * len(wires)]))))


@_variadic_gate(
    matrix=lambda operation, angles: np.diag(_present(operation.matrix)),
    decompose=_diagonal_decomposition,
    adjoint=_matrix_adjoint,
    check=_check_diagonal,
)
def DiagonalQubitUnitary(D: ArrayLike, wires: WiresLike) -> Operation:
    """Any constant diagonal unitary, its diagonal (2**k,), on k wires."""
    return Operation("DiagonalQubitUnitary", as_wires(wires), matrix=read_only(D))


@_gate(
    n_wires=0,
    matrix=lambda phi: [[_expi(-phi)]],
    decompose=lambda wires, phi: (Phase(-phi),),
    adjoint=_negated,
    frequencies=((),),
)
def GlobalPhase(phi: AngleLike) -> Operation:
    """Multiplication of the state by exp(-i*phi); takes no wires."""
    return _operation("GlobalPhase", (), phi)


# PennyLane's short names
X, Y, Z, H = PauliX, PauliY, PauliZ, Hadamard
