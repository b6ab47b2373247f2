# SPDX-License-Identifier: Apache-2.0
"""The compiled backend: hands programs and arrays to the C++ engine in ``native/``.

Nothing is computed here. Programs are compiled once per circuit structure and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qdp import _core, arrays, memory
from qdp.backends.base import AdjointResult, Array, Backend, Batch, Preparation, Shift
from qdp.circuit import Circuit, Observable
from qdp.encodings import (
    Amplitude,
    Basis,
    Encoding,
    Fill,
    PhaseEncoding,
    ProductEncoding,
    norm_tolerance,
)
from qdp.gates import Angle
from qdp.program import Program, compile_program

SOURCES = {"constant": 0, "parameter": 1, "input": 2}
STEP_KINDS = {"rotations": 0, "diagonal": 1, "dense": 2, "permutation": 3, "table": 4}
LAYOUTS = {"auto": 0, "batch": 1, "sample": 2}


def _angle(angle: Angle) -> tuple[int, int, float, float]:
    return SOURCES[angle.kind], angle.index, float(angle.scale), float(angle.offset)


def _native_bytes(compiled: tuple[Program, Any]) -> int:
    """Bytes that a program holds once it has run: itself twice, and its schedule.

    That is a table of doubles for every group of an observable, and for each sweep the base and
    sign of every coset, at most eight bytes for every other amplitude; for one layout.
    """
    program, _ = compiled
    parts = sum(1 + bool(group.c.imag.any()) for group in program.groups)
    sweeps = sum(1 + len(step.rotations) // 8 for step in program.steps if step.kind == "rotations")
    return 2 * program.n_bytes + ((8 * parts + 4 * sweeps) << program.n_qubits)


@memory.cached_by_bytes(_native_bytes, 256 * 2**20)
def _native_program(
    circuit: Circuit, observables: tuple[Observable, ...], apply_frame: bool, prune: bool = False
) -> tuple[Program, Any]:
    program = compile_program(circuit, observables, apply_frame, prune)
    constant = sum(angle.offset for angle in program.phases if angle.kind == "constant")
    native = _core.Program(
        program.n_qubits,
        program.n_parameters,
        program.n_inputs,
        program.n_observables,
        np.array([rotation.x for rotation in program.rotations], dtype=np.uint32),
        np.array([rotation.z for rotation in program.rotations], dtype=np.uint32),
        [_angle(rotation.angle) for rotation in program.rotations],
        [(STEP_KINDS[step.kind], list(step.rotations), step.item) for step in program.steps],
        [
            (
                np.ascontiguousarray(dense.matrix).reshape(-1),
                list(dense.bits),
                dense.control_mask,
                dense.control_value,
            )
            for dense in program.denses
        ],
        [(step.source, step.phase) for step in program.permutations],
        list(program.tables),
        [(group.observable, group.x, group.z, group.c) for group in program.groups],
        [_angle(angle) for angle in program.phases if angle.kind != "constant"],
        constant,
    )
    return program, native


def _fill_amplitudes(encoding: Amplitude, features: Array, out: Array) -> bool:
    tolerance = norm_tolerance(features)
    n_qubits = _qubits_of(out)
    wrong = _core.encode_amplitude(features, n_qubits, encoding.normalize, tolerance, out)
    return bool(wrong < 0)


def _fill_products(encoding: ProductEncoding, features: Array, out: Array) -> bool:
    n_qubits = _qubits_of(out)
    for part in arrays.row_chunks(len(features), 32 * n_qubits):
        _core.encode_product(encoding.factors(features[part], n_qubits), n_qubits, out[part])
    return True


def _fill_phases(encoding: PhaseEncoding, features: Array, out: Array) -> bool:
    n_qubits = _qubits_of(out)
    for part in arrays.row_chunks(len(features), 8 * (1 + n_qubits * (n_qubits + 1) // 2)):
        coefficients = np.ascontiguousarray(encoding.coefficients(features[part], n_qubits))
        _core.encode_phases(coefficients, n_qubits, encoding.repeats, encoding.closes, out[part])
    return True


def _fill_basis(features: Array, out: Array) -> bool:
    _core.encode_basis(features, _qubits_of(out), out)
    return True


def _qubits_of(states: Array) -> int:
    return int(states.shape[1]).bit_length() - 1


class CpuBackend(Backend):
    """Runs on the processor, with the widest instruction set it has.

    ``layout`` is "auto", "batch" (lanes are rows) or "sample" (lanes are amplitudes of one row).
    """

    name = "cpu"
    checks_rows = True
    prepares = True

    def __init__(self, layout: str = "auto") -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"expected layout {', '.join(LAYOUTS)}, got {layout!r}")
        self._layout = LAYOUTS[layout]

    def _run(self, native: Any, batch: Batch, **outputs: Any) -> None:
        run = _core.run_double if batch.precision == "double" else _core.run_single
        parameters = np.ascontiguousarray(batch.parameters, dtype=np.float64)
        inputs = batch.inputs
        start = batch.preparation or Preparation()
        try:
            run(
                native,
                batch.rows,
                parameters,
                parameters.ndim == 2,
                inputs=None if inputs is None else np.ascontiguousarray(inputs, dtype=np.float64),
                states=None if batch.states is None else np.ascontiguousarray(batch.states),
                normalize=batch.normalize,
                # Half, since sums in lines round: what is refused in vain passes the recheck.
                norm_tolerance=0.0 if batch.recheck is None else batch.norm_tolerance / 2,
                indices=batch.indices,
                factors=None if start.factors is None else np.ascontiguousarray(start.factors),
                phases=None if start.phases is None else np.ascontiguousarray(start.phases),
                repeats=start.repeats,
                closes=start.closes,
                layout=self._layout,
                **outputs,
            )
        except _core.RowRefused:
            if batch.recheck is None:
                raise
            batch.recheck()
            self._run(native, replace(batch, recheck=None), **outputs)

    def encoder(self, encoding: Encoding) -> Fill | None:
        """Return the compiled loop from features to states."""
        if isinstance(encoding, Amplitude):
            return partial(_fill_amplitudes, encoding)
        if isinstance(encoding, ProductEncoding):
            return partial(_fill_products, encoding)
        if isinstance(encoding, PhaseEncoding):
            return partial(_fill_phases, encoding)
        return _fill_basis if isinstance(encoding, Basis) else None

    def state(self, circuit: Circuit, batch: Batch) -> Array:
        """Return the final states, (rows, 2**n) in the batch's complex dtype."""
        _, native = _native_program(circuit, (), True)
        states = np.empty((batch.rows, 2**circuit.n_qubits), batch.complex_dtype)
        self._run(native, batch, final_states=states)
        return states

    def expectation(
        self, circuit: Circuit, batch: Batch, observables: Sequence[Observable]
    ) -> Array:
        """Return the expectation values, (rows, O)."""
        _, native = _native_program(circuit, tuple(observables), False, batch.prune)
        values = np.empty((batch.rows, len(observables)), batch.real_dtype)
        self._run(native, batch, values=values)
        return values

    def probabilities(self, circuit: Circuit, batch: Batch, wires: Sequence[int]) -> Array:
        """Return the marginal probabilities over ``wires``, in order, (rows, 2**len(wires))."""
        _, native = _native_program(circuit, (), True)
        probabilities = np.empty((batch.rows, 2 ** len(wires)), batch.real_dtype)
        bits = [circuit.n_qubits - 1 - wire for wire in wires]
        self._run(native, batch, probabilities=probabilities, probability_bits=bits)
        return probabilities

    def adjoint(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        wrt: frozenset[str],
        cotangents: Array | None = None,
    ) -> AdjointResult:
        """Differentiate expectation values; shapes as in AdjointResult."""
        _, native = _native_program(circuit, tuple(observables), False, batch.prune)
        slots = 1 if cotangents is not None else len(observables)
        shape = (batch.rows, slots)
        values = np.empty((batch.rows, len(observables)), batch.real_dtype)
        parameters = inputs = states = None
        if "parameters" in wrt:
            parameters = np.zeros((*shape, circuit.n_parameters), batch.real_dtype)
        if "inputs" in wrt:
            inputs = np.zeros((*shape, circuit.n_inputs), batch.real_dtype)
        if "states" in wrt:
            states = np.empty((*shape, 2**circuit.n_qubits), batch.complex_dtype)
        if cotangents is not None:
            cotangents = np.ascontiguousarray(cotangents, dtype=batch.real_dtype)
        self._run(
            native,
            batch,
            values=values,
            cotangents=cotangents,
            parameter_gradient=parameters,
            input_gradient=inputs,
            state_gradient=states,
        )
        return AdjointResult(values, parameters, inputs, states)

    def shifted_expectation(
        self,
        circuit: Circuit,
        batch: Batch,
        observables: Sequence[Observable],
        shifts: Sequence[tuple[Shift, ...]],
    ) -> Array:
        """Return expectation values with shifted angles, (len(shifts), rows, O)."""
        program, native = _native_program(circuit, tuple(observables), False, batch.prune)
        values = np.empty((len(shifts), batch.rows, len(observables)), batch.real_dtype)
        if len(shifts) == 0:
            return values
        by_rotation = [
            [
                (index, program.rotations[index].factor * amount)
                for operation, slot, amount in shift
                for index in program.rotations_of(operation, slot)
            ]
            for shift in shifts
        ]
        self._run(native, batch, shifts=by_rotation, shifted_values=values)
        return values
