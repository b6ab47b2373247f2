# SPDX-License-Identifier: Apache-2.0
"""The cuStateVec backend: circuits as batched calls of NVIDIA's library, over the device memory of
``device.py`` and states that the kernels of the CUDA backend load and normalise. It fuses nothing:
a rotation, Clifford or matrix is a call, and a call one pass over all states.

An *item* is one state to run: a row, times its evaluation (shifted angles) or its slot (observable
to differentiate). With a gradient an item holds psi and lambda side by side, told apart by one
more index bit n: cuStateVec then sums <lambda|M|psi> as an expectation value over n + 1 bits, adds
an observable's image to lambda as a matrix, and takes both back through a gate in one call.
Matrices are made of angles on the host and results gathered there, also where arrays are on the
GPU; states stay where they are.
Bits, and lists of them, are cuStateVec's: see ``custatevec_library.py``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qdp import gates, memory
from qdp.arrays import Array
from qdp.backends.base import AdjointResult, Batch, DeviceBackend, Shift
from qdp.backends.cuda import CudaBackend, load_states, rows_of
from qdp.backends.custatevec_library import CuStateVec, Matrices, States, load_library
from qdp.backends.device import Arena, CudaDevice, Device
from qdp.circuit import Circuit, Component, HermitianTerm, Observable, PauliTerm
from qdp.device_arrays import DeviceArray, Memory, Target
from qdp.encodings import Amplitude, Encoding, Fill
from qdp.errors import BackendUnavailable
from qdp.gates import Angle, Matrix
from qdp.program import Place, compile_program, composed_angle, slotted_primitives

# Pauli words on more wires are turned into a Z on one of them, by gates before and after.
_MOST_DENSE_WIRES = 3
# States start at multiples of so many bytes: what cuStateVec asks for on Blackwell.
_STATE_ALIGNMENT = 128
# Matrices start at multiples of so many elements.
_MATRIX_ALIGNMENT = 16

_X, _Y, _Z = (gates.PAULI_MATRICES[letter] for letter in "XYZ")
_H = gates.Hadamard(0).matrix_value([])
_SDG = gates.Sdg(0).matrix_value([])
# Matrix of a Clifford, and how many of its wires, the first ones, are controls.
_CLIFFORDS: dict[str, tuple[Matrix, int]] = {
    "X": (_X, 0),
    "Y": (_Y, 0),
    "Z": (_Z, 0),
    "H": (_H, 0),
    "S": (_SDG.conj(), 0),
    "SDG": (_SDG, 0),
    "CNOT": (_X, 1),
    "CZ": (_Z, 1),
    "SWAP": (gates.SWAP([0, 1]).matrix_value([]), 0),
}
# What takes a letter to Z.
_TO_Z = {"X": _H, "Y": _H @ _SDG}


# Structure


@dataclass(frozen=True, eq=False)
class _Gate:
    """One call: a constant (2**k, 2**k) matrix, a (2**k,) diagonal, or a rotation.

    A rotation has an angle and is exp(-i angle/2 matrix), its matrix a Pauli word. ``operation``,
    ``slot`` and ``factor`` tell which angle of the circuit turns it, and how fast.
    """

    matrix: Matrix
    targets: tuple[int, ...]
    controls: tuple[int, ...] = ()
    control_values: tuple[int, ...] = ()
    angle: Angle | None = None
    operation: int = -1
    slot: int = -1
    factor: float = 0.0

    @property
    def inverse(self) -> _Gate:
        """What undoes a constant matrix."""
        return replace(self, matrix=self.matrix.conj().T)


@dataclass(frozen=True, eq=False)
class _Term:
    """A part of an observable: a matrix on ``bits``, behind gates that are undone afterwards.

    Without a matrix it is the projector on ``values`` of ``bits``.
    """

    observable: int
    coefficient: float
    matrix: Matrix | None
    bits: tuple[int, ...]
    values: tuple[int, ...] = ()
    before: tuple[_Gate, ...] = ()


def _bits(wires: Sequence[int], n_qubits: int) -> tuple[int, ...]:
    """Return the bits of wires whose first is the most significant."""
    return tuple(n_qubits - 1 - wire for wire in reversed(wires))


def _to_last_wire(word: str, wires: Sequence[int], n_qubits: int) -> list[_Gate]:
    """Return gates V with V P V^dagger = Z on the last wire, for the Pauli word P."""
    turns = [
        _Gate(_TO_Z[letter], _bits([wire], n_qubits))
        for letter, wire in zip(word, wires, strict=True)
        if letter != "Z"
    ]
    last = _bits(wires[-1:], n_qubits)
    return turns + [_Gate(_X, last, _bits([wire], n_qubits), (1,)) for wire in wires[:-1]]


def _undone(parts: Sequence[_Gate]) -> list[_Gate]:
    return [gate.inverse for gate in reversed(parts)]


def _n_bytes(compiled: tuple[tuple[_Gate, ...], tuple[Angle, ...]]) -> int:
    return sum(gate.matrix.nbytes + 500 for gate in compiled[0])


@memory.cached_by_bytes(_n_bytes, 64 * 2**20)
def _compiled(
    circuit: Circuit, skip: frozenset[Place] = frozenset()
) -> tuple[tuple[_Gate, ...], tuple[Angle, ...]]:
    """Return the calls of a circuit, without some primitives, and the angles of its phase."""
    n_qubits = circuit.n_qubits
    found: list[_Gate] = []
    phases: list[Angle] = []
    for number, operation in enumerate(circuit.operations):
        for part, primitive in enumerate(slotted_primitives(operation)):
            if (number, part) in skip:
                continue
            match primitive:
                case gates.Clifford(name, wires):
                    matrix, n_controls = _CLIFFORDS[name]
                    controls = _bits(wires[:n_controls], n_qubits)
                    targets = _bits(wires[n_controls:], n_qubits)
                    found.append(_Gate(matrix, targets, controls, (1,) * n_controls))
                case gates.Rotation(word, wires, angle):
                    around: list[_Gate] = []
                    if len(wires) > _MOST_DENSE_WIRES:
                        around = _to_last_wire(word, wires, n_qubits)
                        word, wires = "Z", wires[-1:]
                    slotted = angle.kind == "parameter"
                    rotation = _Gate(
                        gates.pauli_word_matrix(word),
                        _bits(wires, n_qubits),
                        angle=composed_angle(angle, operation),
                        operation=number,
                        slot=angle.index if slotted else -1,
                        factor=angle.scale if slotted else 0.0,
                    )
                    found += [*around, rotation, *_undone(around)]
                case gates.Phase(angle):
                    phases.append(composed_angle(angle, operation))
                case gates.Dense(matrix, wires, controls, values):
                    bits = _bits(controls, n_qubits)
                    found.append(_Gate(matrix, _bits(wires, n_qubits), bits, values[::-1]))
                case gates.Diagonal(diagonal, wires):
                    found.append(_Gate(diagonal, _bits(wires, n_qubits)))
    return tuple(found), tuple(phases)


def _gates(
    circuit: Circuit, batch: Batch, observables: tuple[Observable, ...]
) -> tuple[_Gate, ...]:
    """Return the calls of a circuit, of which a batch may leave out what changes no value."""
    if batch.prune and observables:
        return _compiled(circuit, compile_program(circuit, observables, False, True).pruned)[0]
    return _compiled(circuit)[0]


@functools.lru_cache(maxsize=256)
def _terms(observables: tuple[Observable, ...], n_qubits: int) -> tuple[_Term, ...]:
    return tuple(
        _term(number, component, n_qubits)
        for number, observable in enumerate(observables)
        for component in observable.components
    )


def _term(observable: int, component: Component, n_qubits: int) -> _Term:
    coefficient, wires = component.coefficient, component.wires
    bits = _bits(wires, n_qubits)
    if isinstance(component, HermitianTerm):
        return _Term(observable, coefficient, component.matrix, bits)
    if not isinstance(component, PauliTerm):
        return _Term(observable, coefficient, None, bits, component.bits[::-1])
    word = "".join(letter for _, letter in component.paulis)
    if not word:
        return _Term(observable, coefficient, np.eye(2, dtype=np.complex128), (0,))
    if len(word) > _MOST_DENSE_WIRES:
        before = tuple(_to_last_wire(word, wires, n_qubits))
        return _Term(observable, coefficient, _Z, _bits(wires[-1:], n_qubits), before=before)
    return _Term(observable, coefficient, gates.pauli_word_matrix(word), bits)


def _powers(count: int) -> Iterator[tuple[int, int]]:
    """Cut a number of items into runs of 2**m: yield the first item and m."""
    first = 0
    while first < count:
        power = (count - first).bit_length() - 1
        yield first, power
        first += 1 << power


# Runs


class _Run:
    """Some rows and evaluations on the device: their states, and what is done to all of them.

    ``shifts`` is (evaluations, gates), what is added to each gate's angle; None is one evaluation
    as is. With ``gradient`` there is room for lambda.
    """

    def __init__(
        self,
        library: CuStateVec,
        arena: Arena,
        n_qubits: int,
        parts: tuple[_Gate, ...],
        batch: Batch,
        *,
        slots: int = 1,
        shifts: NDArray[np.float64] | None = None,
        gradient: bool = False,
    ) -> None:
        self.library, self.arena, self.batch = library, arena, batch
        self.n_qubits, self.slots, self.shifts = n_qubits, slots, shifts
        self.evaluations = 1 if shifts is None else len(shifts)
        self.n_items = self.evaluations * batch.rows * slots
        self.dtype = np.dtype(batch.complex_dtype)
        self.address_bits = _address_bits(n_qubits, self.dtype.itemsize, gradient)
        self._scratch = (0, 0)
        self._indices: dict[tuple[int, int], int] = {}
        self.psi = load_states(arena, batch, self.address_bits, self.n_items, slots)
        self.gates = parts
        self.matrices = self._put_matrices()

    # Memory

    def view(self, n_bits: int, first: int = 0, step: int = 1) -> States:
        """Items ``first``, ``first + step``, ... as states of ``n_bits`` index bits."""
        return States(
            self.psi + (first * self.dtype.itemsize << self.address_bits),
            self.n_items // step,
            n_bits,
            step << self.address_bits,
            self.batch.precision,
        )

    def workspace(self, n_bytes: int) -> int:
        """Return the address of scratch memory; calls on one stream may share it."""
        if n_bytes > self._scratch[1]:
            self._scratch = self.arena.empty(n_bytes), n_bytes
        return self._scratch[0] if n_bytes else 0

    def put(self, matrices: Matrix) -> Matrices:
        """Put one matrix, or one a row, (rows, d, d), onto the device."""
        count = len(matrices) if matrices.ndim == 3 else 1
        address = self.arena.put(matrices.astype(self.dtype))
        return Matrices(address, count, self._indices_of(1, count) if count > 1 else 0)

    def download(self) -> Array:
        """Return all that the items hold, (items, 2**address_bits)."""
        found = np.empty((self.n_items, 1 << self.address_bits), self.dtype)
        self.fetch(found, self.psi)
        return found

    def fetch(self, array: Array, address: int) -> None:
        """Copy from the device, and wait for it."""
        if array.nbytes:
            self.arena.device.download(array, address, self.arena.stream)
        self.arena.device.synchronize(self.arena.stream)

    def copy_states(self, out: Array | DeviceArray) -> None:
        """Copy the states to (items, 2**n) on the host or on the device."""
        # States that lie apart are a few numbers each: they go through the host.
        apart, size = self.address_bits > self.n_qubits, 1 << self.n_qubits
        device, stream = self.arena.device, self.arena.stream
        if isinstance(out, DeviceArray):
            if apart:
                device.upload(out.address, np.ascontiguousarray(self.download()[:, :size]), stream)
            else:
                device.copy(out.address, self.psi, out.nbytes, stream)
        elif apart or not out.flags.c_contiguous:
            out[...] = self.download()[:, :size]
        else:
            self.fetch(out, self.psi)

    def _put_matrices(self) -> list[Matrices]:
        """Put the matrices of all gates onto the device, in one copy."""
        blocks: list[Matrix] = []
        places: list[tuple[int, int, int]] = []
        size = 0
        for number, gate in enumerate(self.gates):
            block, indices = gate.matrix[None], 0
            if gate.angle is not None:
                angles = self._angles(gate.angle, number)
                indices = self._indices_of(*angles.shape)
                half = angles.reshape(-1, 1, 1) / 2
                identity = np.eye(len(gate.matrix))
                block = np.cos(half) * identity - 1j * np.sin(half) * gate.matrix
            places.append((size, len(block), indices))
            flat = block.astype(self.dtype).reshape(-1)
            blocks.append(np.pad(flat, (0, -len(flat) % _MATRIX_ALIGNMENT)))
            size += len(blocks[-1])
        start = self.arena.put(np.concatenate([np.zeros(0, self.dtype), *blocks]))
        itemsize = self.dtype.itemsize
        return [Matrices(start + at * itemsize, count, indices) for at, count, indices in places]

    def _angles(self, angle: Angle, number: int) -> NDArray[np.float64]:
        """Return a gate's angles, (evaluations or 1, rows or 1)."""
        value = angle.evaluate(self.batch.parameters, self.batch.inputs)
        found = np.asarray(value, np.float64).reshape(1, -1)
        if self.shifts is not None and self.shifts[:, number].any():
            return found + self.shifts[:, number, None]
        return found

    def _indices_of(self, evaluations: int, rows: int) -> int:
        """Return the address of each item's number among (evaluations, rows) matrices."""
        key = (evaluations, rows)
        if key == (1, 1):
            return 0
        if key not in self._indices:
            row = np.arange(self.n_items) // self.slots
            found = np.zeros(self.n_items, np.int32)
            if rows > 1:
                found += (row % self.batch.rows).astype(np.int32)
            if evaluations > 1:
                found += rows * (row // self.batch.rows).astype(np.int32)
            self._indices[key] = self.arena.put(found)
        return self._indices[key]

    # Calls

    def apply(self, gate: _Gate, matrices: Matrices, n_bits: int, *, adjoint: bool = False) -> None:
        """Apply a gate to all items, seen as states of ``n_bits`` index bits."""
        if gate.matrix.ndim == 2:
            self.library.apply_matrix(
                self.view(n_bits),
                matrices,
                gate.targets,
                self.workspace,
                controls=gate.controls,
                control_values=gate.control_values,
                adjoint=adjoint,
            )
            return
        # No batched call: neighbouring items are one state of more index bits.
        for first, power in _powers(self.n_items):
            whole = replace(self.view(self.address_bits + power, first), count=1)
            self.library.apply_diagonal(
                whole, matrices.address, gate.targets, self.workspace, adjoint=adjoint
            )

    def apply_constants(self, parts: Sequence[_Gate], n_bits: int) -> None:
        """Apply constant matrices, put onto the device as they come."""
        for gate in parts:
            self.apply(gate, self.put(gate.matrix), n_bits)

    def forward(self) -> None:
        """Run the circuit."""
        for gate, matrices in zip(self.gates, self.matrices, strict=True):
            self.apply(gate, matrices, self.n_qubits)

    def turn(self, phases: Sequence[Angle]) -> None:
        """Multiply by the global phase, the sum of those angles."""
        if phases:
            batch = self.batch
            total = sum(angle.evaluate(batch.parameters, batch.inputs) for angle in phases)
            factors: Matrix = np.exp(1j * np.asarray(total, np.float64)).reshape(-1, 1, 1)
            turns = self.put(factors * np.eye(2, dtype=np.complex128))
            self.library.apply_matrix(self.view(self.n_qubits), turns, (0,), self.workspace)

    def probabilities(self, bits: Sequence[int]) -> NDArray[np.float64]:
        """Return the probabilities of all outcomes of ``bits``, (evaluations * rows, 2**k)."""
        states = self.view(self.n_qubits, step=self.slots)
        found = np.empty((states.count, 1 << len(bits)))
        with Arena(self.arena.device, self.arena.stream) as arena:
            sums = arena.empty(found.nbytes)
            self.library.probabilities(states, bits, sums)
            self.fetch(found, sums)
        return found

    def expectations(self, observables: tuple[Observable, ...]) -> NDArray[np.float64]:
        """Return the values of observables, (evaluations, rows, observables)."""
        states = self.view(self.n_qubits, step=self.slots)
        values = np.zeros((states.count, len(observables)))
        # What lies on the same bits is one call, a matrix for each observable.
        dense: dict[tuple[Any, ...], dict[int, Matrix]] = {}
        projectors: dict[tuple[int, ...], list[_Term]] = {}
        for term in _terms(observables, self.n_qubits):
            if term.matrix is None:
                projectors.setdefault(term.bits, []).append(term)
            else:
                sums = dense.setdefault((term.bits, term.before), {})
                scaled = term.coefficient * term.matrix
                sums[term.observable] = sums.get(term.observable, 0) + scaled
        found = np.empty((sum(map(len, dense.values())), states.count), np.complex128)
        with Arena(self.arena.device, self.arena.stream) as arena:
            address = arena.empty(found.nbytes)
            begin = address
            for (bits, before), sums in dense.items():
                self.apply_constants(before, self.n_qubits)
                matrices = np.array(list(sums.values()), self.dtype)
                put = Matrices(arena.put(matrices), len(sums))
                self.library.expectations(states, put, bits, begin, self.workspace)
                begin += 16 * states.count * len(sums)
                self.apply_constants(_undone(before), self.n_qubits)
            self.fetch(found, address)
        first = 0
        for sums in dense.values():
            block = found[first : first + len(sums)].real.reshape(states.count, len(sums))
            values[:, list(sums)] += block
            first += len(sums)
        for bits, terms in projectors.items():
            weights = self.probabilities(bits)
            for term in terms:
                outcome = sum(value << place for place, value in enumerate(term.values))
                values[:, term.observable] += term.coefficient * weights[:, outcome]
        return values.reshape(self.evaluations, self.batch.rows, len(observables))

    def pull(
        self, observables: tuple[Observable, ...], cotangents: NDArray[np.float64] | None
    ) -> None:
        """Add to lambda the images of psi: of one observable in each slot, or a row's sum."""
        for term in _terms(observables, self.n_qubits):
            self.apply_constants(term.before, self.n_qubits + 1)
            if cotangents is None:
                states = self.view(self.n_qubits + 1, term.observable, self.slots)
                weights = np.full((1, 1, 1), term.coefficient)
            else:
                states = self.view(self.n_qubits + 1)
                weights = term.coefficient * cotangents[:, term.observable, None, None]
            matrix = np.ones((1, 1)) if term.matrix is None else term.matrix
            size = len(matrix)
            blocks = np.zeros((len(weights), 2 * size, 2 * size), np.complex128)
            blocks[:, range(2 * size), range(2 * size)] = 1
            blocks[:, size:, :size] = weights * matrix
            self.library.apply_matrix(
                states,
                self.put(blocks),
                (self.n_qubits,) if term.matrix is None else (*term.bits, self.n_qubits),
                self.workspace,
                controls=term.bits if term.matrix is None else (),
                control_values=term.values,
            )
            self.apply_constants(_undone(term.before), self.n_qubits + 1)

    def backward(self, kinds: frozenset[str]) -> dict[int, NDArray[np.float64]]:
        """Walk back to the initial states; return derivatives by gates' angles, (rows, slots).

        ``kinds`` are the kinds of angles to differentiate by.
        """
        n_bits = self.n_qubits + 1
        wanted = [
            number
            for number, gate in enumerate(self.gates)
            if gate.angle is not None and gate.angle.kind in kinds
        ]
        found = np.empty((len(wanted), self.n_items), np.complex128)
        values = self.arena.empty(found.nbytes)
        slopes: dict[bytes, Matrices] = {}
        place = len(wanted)
        for number in reversed(range(len(self.gates))):
            gate = self.gates[number]
            if place and wanted[place - 1] == number:
                place -= 1
                key = gate.matrix.tobytes()
                if key not in slopes:
                    slopes[key] = self.put(_slope(gate.matrix))
                self.library.expectations(
                    self.view(n_bits),
                    slopes[key],
                    (*gate.targets, self.n_qubits),
                    values + place * found[0].nbytes,
                    self.workspace,
                )
            self.apply(gate, self.matrices[number], n_bits, adjoint=True)
        self.fetch(found, values)
        by_row = found.real.reshape(len(wanted), self.batch.rows, self.slots)
        return dict(zip(wanted, by_row, strict=True))


def _slope(word: Matrix) -> Matrix:
    """Return K with <psi, lambda|K|psi, lambda> = 2 Re <lambda|(-i/2 P)|psi>."""
    size = len(word)
    slope = np.zeros((2 * size, 2 * size), np.complex128)
    slope[size:, :size] = -0.5j * word
    slope[:size, size:] = 0.5j * word
    return slope


def _address_bits(n_qubits: int, itemsize: int, gradient: bool) -> int:
    """Return the index bits of an item: more than are used where states would lie too close."""
    return max(n_qubits + gradient, (_STATE_ALIGNMENT // itemsize).bit_length() - 1)


class CuStateVecBackend(DeviceBackend):
    """Runs on an NVIDIA GPU, number ``device`` or another ``Device``, through cuStateVec.

    ``functions`` are the library's, None those of the library that is installed.

    Raises:
        BackendUnavailable: no cuStateVec, or one too old; no cuda.core, NVRTC, driver or GPU.
    """

    name = "custatevec"

    def __init__(self, device: int | Device = 0, functions: Any = None) -> None:
        functions = load_library() if functions is None else functions
        try:
            self.device = device if isinstance(device, Device) else CudaDevice(device)
        except BackendUnavailable as error:
            raise BackendUnavailable(f"backend 'custatevec': {error}") from error
        self.library = CuStateVec(functions, self.device.current)
        self._kernels = CudaBackend(self.device)
        self._lock = threading.Lock()

    @property
    def memory(self) -> Memory:
        """The GPU, whose arrays are taken without a copy."""
        return self.device

    def clear(self) -> None:
        """Give back the device's and the pinned memory that is kept for calls to come."""
        self._kernels.clear()

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return the loop from features to states on the device: that of the CUDA backend."""
        return self._kernels.encoder(encoding)

    def sum_rows(self, array: Array, target: Target) -> Array:
        """Return the sum over the first axis of an array on the GPU."""
        return self._kernels.sum_rows(array, target)

    def overlaps(
        self, left: Array, right: Array, target: Target | None = None, tolerance: float = 0.0
    ) -> Array:
        """Return |<a|b>|**2 of all pairs of rows: by the CUDA backend, cuStateVec has no call."""
        return self._kernels.overlaps(left, right, target, tolerance)

    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""
        shape = (batch.rows, 2**circuit.n_qubits)
        states: Any
        if batch.target is None:
            states = np.empty(shape, batch.complex_dtype)
        else:
            states = batch.target.empty(shape, batch.complex_dtype)
        self.fill_states(circuit, batch, states)
        return cast(Array, states)

    def fill_states(self, circuit: Circuit, batch: Batch, out: Array) -> None:
        """Write the final states into ``out``, (rows, 2**n) in the batch's complex dtype."""
        target: Any = out

        def work(run: _Run, rows: slice, evaluations: slice) -> None:
            run.forward()
            run.turn(_compiled(circuit)[1])
            run.copy_states(target.rows(rows) if isinstance(target, DeviceArray) else out[rows])

        self._run(circuit, self._known(circuit, batch), work)

    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O)."""
        values = self._values(circuit, batch, tuple(observables), None)
        return _delivered(batch, values.reshape(values.shape[1:]))

    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, in order, (rows, 2**len(wires))."""
        found = np.empty((batch.rows, 2 ** len(wires)), batch.real_dtype)

        def work(run: _Run, rows: slice, evaluations: slice) -> None:
            run.forward()
            found[rows] = run.probabilities(_bits(wires, circuit.n_qubits))

        self._run(circuit, self._known(circuit, batch), work)
        return _delivered(batch, found)

    def adjoint(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        wrt: frozenset[str],
        cotangents: Array | None = None,
    ) -> AdjointResult:
        """Differentiate expectation values; shapes as in AdjointResult."""
        given = tuple(observables)
        slots = len(given) if cotangents is None else 1
        size = 2**circuit.n_qubits
        weights = None
        if cotangents is not None:
            weights = self._host(batch, cotangents).astype(np.float64)
        values = np.empty((batch.rows, len(given)), batch.real_dtype)
        slopes = {
            "parameter": np.zeros((batch.rows, slots, circuit.n_parameters)),
            "input": np.zeros((batch.rows, slots, circuit.n_inputs)),
        }
        kinds = frozenset(kind for kind in slopes if f"{kind}s" in wrt)
        states = None
        if "states" in wrt:
            states = np.empty((batch.rows, slots, size), batch.complex_dtype)

        def work(run: _Run, rows: slice, evaluations: slice) -> None:
            run.forward()
            values[rows] = run.expectations(given)[0]
            run.pull(given, None if weights is None else weights[rows])
            for number, found in run.backward(kinds).items():
                angle = run.gates[number].angle
                assert angle is not None
                slopes[angle.kind][rows, :, angle.index] += angle.scale * found
            if states is not None:
                pulled = run.download()[:, size : 2 * size]
                states[rows] = 2 * pulled.reshape(run.batch.rows, slots, size)

        self._run(circuit, self._known(circuit, batch), work, given, slots=slots, gradient=True)
        real = batch.real_dtype
        return self._derivatives(
            batch,
            values,
            slopes["parameter"].astype(real) if "parameter" in kinds else None,
            slopes["input"].astype(real) if "input" in kinds else None,
            states,
        )

    def weighted_shifts(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
        terms: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    ) -> AdjointResult | None:
        """Return weighted sums of shifted values, of arrays on the GPU; see ``Backend``."""
        if batch.target is None:
            return None
        values = self.shifted_expectation(circuit, batch, observables, shifts)
        sums: dict[str, Array] = {}
        for name, columns in terms.items():
            total = np.zeros((*values.shape[1:], len(columns)))  # in double, whatever the results
            for place, column in enumerate(columns):
                for evaluation, weight in column:
                    total[:, :, place] += weight * values[evaluation].astype(np.float64)
            sums[name] = total.astype(batch.real_dtype)
        found = sums.get("parameters"), sums.get("inputs")
        return self._derivatives(batch, values[0], *found, None)

    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O)."""
        if not shifts:
            return np.empty((0, batch.rows, len(observables)), batch.real_dtype)
        by_angle: dict[tuple[int, int], list[int]] = {}
        compiled = _gates(circuit, batch, tuple(observables))
        for number, gate in enumerate(compiled):
            by_angle.setdefault((gate.operation, gate.slot), []).append(number)
        added = np.zeros((len(shifts), len(compiled)))
        for evaluation, group in enumerate(shifts):
            for operation, slot, amount in group:
                for number in by_angle.get((operation, slot), ()):
                    added[evaluation, number] += compiled[number].factor * amount
        return self._values(circuit, batch, tuple(observables), added)

    # What stands behind the verbs

    def _values(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: tuple[Observable, ...],
        shifts: NDArray[np.float64] | None,
    ) -> Array:
        shape = (1 if shifts is None else len(shifts), batch.rows, len(observables))
        values = np.empty(shape, batch.real_dtype)

        def work(run: _Run, rows: slice, evaluations: slice) -> None:
            run.forward()
            values[evaluations, rows] = run.expectations(observables)

        self._run(circuit, self._known(circuit, batch), work, observables, shifts=shifts)
        return values

    def _host(self, batch: Batch, array: Array) -> Array:
        """Return an array, or a copy on the host of one on the GPU."""
        given: Any = array
        if not isinstance(given, DeviceArray):
            return array
        assert batch.target is not None
        found: Array = np.empty(given.shape, given.dtype)
        if found.nbytes:
            self.device.download(found, given.address, batch.target.stream)
        self.device.synchronize(batch.target.stream)
        return found

    def _known(self, circuit: Circuit, batch: Batch) -> Batch:
        """Return the batch with its angles on the host, those of an encoding among the inputs.

        So are indices of basis states: those beyond the last become -1, of which the kernel that
        loads states makes NaN. By itself it would take those of the bits that are added to a state.
        """
        if batch.target is None:
            return batch
        indices = batch.indices
        if indices is not None:
            given = self._host(batch, indices).astype(np.int64)
            indices = np.where(given >> circuit.n_qubits == 0, given, -1)
        columns: list[Array] = []
        if batch.inputs is not None:
            own = self._host(batch, batch.inputs).reshape(-1, batch.inputs.shape[-1])
            columns.append(np.broadcast_to(own, (batch.rows, own.shape[1])))
        if batch.encoding is not None and batch.features is not None:
            turns = batch.encoding.angles(self._host(batch, batch.features), circuit.n_qubits)
            columns.append(np.broadcast_to(turns, (batch.rows, turns.shape[1])))
        return replace(
            batch,
            parameters=self._host(batch, batch.parameters).astype(np.float64),
            inputs=np.concatenate(columns, axis=1).astype(np.float64) if columns else None,
            indices=indices,
            features=None,
        )

    def _derivatives(
        self,
        batch: Batch,
        values: Array,
        parameters: Array | None,
        inputs: Array | None,
        states: Array | None,
    ) -> AdjointResult:
        """Return the result in the batch's terms: on the GPU, by what was given there."""
        if batch.target is None:
            return AdjointResult(values, parameters, inputs, states)

        def rows(array: Array | None) -> Array:
            assert array is not None, "only states and features have a derivative"
            found = self._host(batch, array)
            return np.broadcast_to(found, (batch.rows, found.shape[1]))

        if states is not None:
            encoding = Amplitude(normalize=batch.normalize)
            states = encoding.pullback(rows(batch.states), states)
        if inputs is not None and batch.encoding is not None:
            by_angle = inputs[:, :, batch.n_own_inputs :]
            states = batch.encoding.pullback(rows(batch.features), by_angle)
            inputs = inputs[:, :, : batch.n_own_inputs] if batch.n_own_inputs else None
        return AdjointResult(
            _delivered(batch, values),
            None if parameters is None else _delivered(batch, parameters),
            None if inputs is None else _delivered(batch, inputs),
            None if states is None else _delivered(batch, states.astype(_like(batch, states))),
        )

    def _run(
        self,
        circuit: Circuit,
        batch: Batch,
        work: Callable[[_Run, slice, slice], None],
        observables: tuple[Observable, ...] = (),
        *,
        slots: int = 1,
        shifts: NDArray[np.float64] | None = None,
        gradient: bool = False,
    ) -> None:
        """Call ``work`` for chunks of rows and evaluations, each within half of the free memory."""
        parts = _gates(circuit, batch, observables)
        per_item = _item_bytes(circuit.n_qubits, parts, batch, observables, gradient)
        n_evaluations = 1 if shifts is None else len(shifts)
        stream = self.device.lanes[0] if batch.target is None else batch.target.stream
        with self._lock, self.device.current():
            half = self.device.free_bytes() // 2
            room = half // per_item
            if room < slots:
                raise MemoryError(
                    f"a row of {circuit.n_qubits} qubits: expected at most "
                    f"{memory.format_bytes(half)} (half of the GPU's free memory), got a need of "
                    f"{memory.format_bytes(per_item * slots)}; remedy: use fewer qubits or "
                    "observables, or precision='single'"
                )
            self.library.set_stream(stream)
            rows = room // slots
            evaluations = max(1, room // min(rows, max(1, batch.rows)))
            chunks = (
                (slice(start, min(start + rows, batch.rows)), slice(first, first + evaluations))
                for start in range(0, batch.rows, rows)
                for first in range(0, n_evaluations, evaluations)
            )
            try:
                for part, some in chunks:
                    with Arena(self.device, stream) as arena:
                        run = _Run(
                            self.library,
                            arena,
                            circuit.n_qubits,
                            parts,
                            rows_of(batch, part),
                            slots=slots,
                            shifts=None if shifts is None else shifts[some],
                            gradient=gradient,
                        )
                        work(run, part, some)
            finally:
                # Whoever gave the arrays may give their memory to others once this returns.
                self.device.synchronize(stream)


def _item_bytes(
    n_qubits: int,
    parts: tuple[_Gate, ...],
    batch: Batch,
    observables: tuple[Observable, ...],
    gradient: bool,
) -> int:
    """Return the bytes of device memory that an item may need: states, matrices, results."""
    itemsize = np.dtype(batch.complex_dtype).itemsize
    address_bits = _address_bits(n_qubits, itemsize, gradient)
    rotations = [gate for gate in parts if gate.angle is not None]
    matrices = sum(gate.matrix.size * itemsize + 16 for gate in rotations)
    terms = _terms(observables, n_qubits)
    pulled = sum(4 * itemsize * (1 if one.matrix is None else one.matrix.size) for one in terms)
    given = 0
    if batch.states is not None and batch.target is None:
        given = batch.states.nbytes // max(1, batch.rows)
    results = 16 * len(terms) + (8 << n_qubits)
    return (itemsize << address_bits) + matrices + (pulled if gradient else 0) + given + results


def _delivered(batch: Batch, array: Array) -> Array:
    """Return a result, copied to the GPU where the batch wants it there."""
    if batch.target is None:
        return array
    found: Any = batch.target.upload(array)
    return cast(Array, found)


def _like(batch: Batch, array: Array) -> Any:
    """Return the batch's dtype for real or complex numbers."""
    return batch.complex_dtype if array.dtype.kind == "c" else batch.real_dtype
