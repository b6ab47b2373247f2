# SPDX-License-Identifier: Apache-2.0
"""Four ways to differentiate expectation values, all with one signature.

Every method takes a ``Task`` and ``Options`` and returns ``Derivatives``. Adjoint works on exact
states. The others only evaluate expectation values with shifted angles, as hardware does:
parameter-shift exactly, finite differences and SPSA nearly.
Letters: rows = samples, O = observables, P = parameters, F = inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from qdp import gates, memory, sampling
from qdp.arrays import Array
from qdp.backends.base import AdjointResult, Backend, Batch, Shift
from qdp.circuit import Circuit, Observable
from qdp.program import compile_program

Evaluation = tuple[Shift, ...]

# Results of shifted evaluations up to this size are never cut into chunks.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Task:
    """What to differentiate: ``wrt`` is a subset of {"parameters", "inputs", "states"}."""

    backend: Backend
    circuit: Circuit
    batch: Batch
    observables: Sequence[Observable]
    wrt: frozenset[str]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and observables, the shape of values."""
        return self.batch.rows, len(self.observables)


@dataclass(frozen=True)
class Options:
    """What a method may be told; None is the method's default.

    ``shots`` per evaluation and measurement setting (exact without), ``seed`` of everything
    random, ``step`` in radians, ``n_directions`` of SPSA, ``keep_shifted`` to have the shifted
    values of parameter-shift as well.
    """

    shots: int | None = None
    seed: int | None = None
    step: float | None = None
    n_directions: int | None = None
    keep_shifted: bool = False


@dataclass(frozen=True)
class ShiftedValues:
    """What parameter-shift evaluated: K pairs of expectation values, and what they make.

    Pair k shifts angle ``slots[k]`` of operation ``operations[k]`` by plus and minus ``shifts[k]``
    radians: ``plus`` and ``minus`` are (K, rows[, observables]). It adds ``coefficients[k] *
    (plus[k] - minus[k])`` to the derivative by ``arguments[k]``, a pair of "parameter" or "input"
    and its index; the coefficient is the rule's times the scale of the angle. The rotations of an
    angle encoding are no operations of the circuit: they have number -1, and the argument "state"
    with the index of the feature. With shots ``plus_variances`` and ``minus_variances`` are the
    estimated variances of the values, else None.
    """

    arguments: tuple[tuple[str, int], ...]
    operations: Array
    slots: Array
    shifts: Array
    coefficients: Array
    plus: Any
    minus: Any
    plus_variances: Any = None
    minus_variances: Any = None


@dataclass(frozen=True)
class Derivatives:
    """Values (rows, O) and derivatives: parameters (rows, O, P), inputs (rows, O, F), states.

    Each derivative is None unless it was asked for. ``variances`` holds, under the same names,
    the estimated variances of derivatives that were estimated at random, else nothing. ``shifted``
    is there if it was asked for, with arrays (K, rows, O).
    """

    values: Array
    parameters: Array | None
    inputs: Array | None
    states: Array | None
    variances: Mapping[str, Array]
    shifted: ShiftedValues | None = None


Method = Callable[[Task, Options], Derivatives]


def adjoint(task: Task, options: Options) -> Derivatives:
    """Differentiate exactly by one pass backwards through the circuit; takes no options.

    ``wrt`` may hold "states" as well, the only method to allow it.
    """
    _refuse_options(options, "adjoint", ("shots", "seed", "step", "n_directions"))
    result = task.backend.adjoint(task.circuit, task.batch, task.observables, task.wrt)
    clear_pruned(task, result)
    return Derivatives(result.values, result.parameters, result.inputs, result.states, {})


def parameter_shift(task: Task, options: Options) -> Derivatives:
    """Differentiate exactly from shifted evaluations, the rule that runs on hardware.

    Each gate occurrence is shifted by itself, after the rule of its frequencies, times the scale
    of its angle; occurrences of one parameter or input add up. Options: ``shots`` and ``seed``.
    """
    _refuse_options(options, "parameter-shift", ("step", "n_directions"))
    columns = _columns(task, "parameter-shift")
    evaluations: list[Evaluation] = [()]
    targets: list[int] = []
    weights: list[float] = []
    arguments: list[tuple[str, int]] = []
    for key, occurrences in _occurrences(task.circuit).items():
        column = columns.get(key)
        if column is None:
            continue
        for operation, slot, scale in occurrences:
            if not _matters(task, operation, slot):
                continue
            frequencies = gates.TABLE[task.circuit.operations[operation].name].frequencies[slot]
            for coefficient, shift in zip(*shift_rule(frequencies), strict=True):
                arguments.append(key)
                for sign in (1, -1):
                    evaluations.append(((operation, slot, sign * shift),))
                    targets.append(column)
                    weights.append(sign * coefficient * scale)
    if not options.keep_shifted:
        return _weighted_sums(task, options, evaluations, targets, weights)
    memory.require_memory(
        (8 if options.shots is None else 16) * len(evaluations) * task.shape[0] * task.shape[1],
        f"the {len(evaluations) - 1} shifted values of {task.shape[0]} rows",
        "pass fewer rows at a time, or leave return_shifted out",
    )
    kept = np.empty((len(evaluations) - 1, *task.shape), task.batch.real_dtype)
    spreads = None if options.shots is None else np.empty_like(kept)
    derivatives = _weighted_sums(task, options, evaluations, targets, weights, kept, spreads)
    shifts = [evaluation[0] for evaluation in evaluations[1::2]]
    shifted = ShiftedValues(
        arguments=tuple(arguments),
        operations=np.array([operation for operation, _, _ in shifts], np.int64),
        slots=np.array([slot for _, slot, _ in shifts], np.int64),
        shifts=np.array([shift for _, _, shift in shifts], np.float64),
        coefficients=np.array(weights[::2], np.float64),
        plus=kept[::2],
        minus=kept[1::2],
        plus_variances=None if spreads is None else spreads[::2],
        minus_variances=None if spreads is None else spreads[1::2],
    )
    return replace(derivatives, shifted=shifted)


def finite_difference(task: Task, options: Options) -> Derivatives:
    """Differentiate by central differences, two evaluations a parameter or input.

    Option ``step`` in radians, by default the cube root of the precision's epsilon (6.1e-6 in
    double, 4.9e-3 in single), where the truncation error, which grows with its square, and the
    rounding error, which falls with it, meet: about 1e-10 and 1e-4 are left of them.
    """
    _refuse_options(options, "finite-difference", ("shots", "seed", "n_directions"))
    step = options.step
    if step is None:
        step = float(np.cbrt(np.finfo(task.batch.real_dtype).eps))
    _require_step(step)
    columns = _columns(task, "finite-difference")
    evaluations: list[Evaluation] = [()]
    targets: list[int] = []
    weights: list[float] = []
    for key, occurrences in _occurrences(task.circuit).items():
        if key not in columns:
            continue
        for sign in (1, -1):
            evaluations.append(
                tuple(
                    (operation, slot, sign * step * scale) for operation, slot, scale in occurrences
                )
            )
            targets.append(columns[key])
            weights.append(sign / (2 * step))
    return _weighted_sums(task, options, evaluations, targets, weights)


def spsa(task: Task, options: Options) -> Derivatives:
    """Estimate by simultaneous perturbation (Spall 1992): two evaluations a random direction.

    Options: ``n_directions`` averaged over (1), ``seed``, ``step`` in radians (1e-3, with shots
    0.1), ``shots``. Everything in ``wrt`` is perturbed at once, by +step or -step each, the same
    for all rows. The expected value is the gradient up to step**2; ``variances`` are estimated
    from the spread over directions, NaN for a single one.
    """
    n_directions = 1 if options.n_directions is None else options.n_directions
    if n_directions < 1:
        raise ValueError(f"n_directions: expected at least 1, got {n_directions}")
    step = options.step
    if step is None:
        step = 1e-3 if options.shots is None else 0.1
    _require_step(step)
    columns = _columns(task, "spsa")
    memory.require_memory(
        16 * n_directions * task.shape[0] * task.shape[1],
        f"the slopes of {task.shape[0]} rows along {n_directions} directions",
        "pass fewer rows at a time, or average over fewer directions",
    )
    generator = np.random.default_rng(options.seed)
    signs = generator.choice((-1.0, 1.0), size=(n_directions, len(columns)))
    occurrences = [
        (columns[key], operation, slot, scale)
        for key, places in _occurrences(task.circuit).items()
        if key in columns
        for operation, slot, scale in places
    ]
    evaluations: list[Evaluation] = [()]
    for direction in signs:
        for sign in (1, -1):
            evaluations.append(
                tuple(
                    (operation, slot, sign * step * scale * float(direction[column]))
                    for column, operation, slot, scale in occurrences
                )
            )
    slopes = np.zeros((n_directions, *task.shape))
    values = np.zeros(task.shape)
    for evaluation, value, _ in _evaluated(task, options.shots, generator, evaluations):
        if evaluation == 0:
            values = value
        else:
            direction_index, is_minus = divmod(evaluation - 1, 2)
            slopes[direction_index] += (1 - 2 * is_minus) / (2 * step) * value
    gradient = np.tensordot(slopes, signs, axes=(0, 0)) / n_directions
    # The signs square to 1, so every parameter has the same mean square.
    spread = np.mean(slopes**2, axis=0)[:, :, None] - gradient**2
    variance = np.maximum(spread, 0) / (n_directions - 1) if n_directions > 1 else spread * np.nan
    return _split(task, values, gradient, variance)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "adjoint": adjoint,
        "parameter-shift": parameter_shift,
        "finite-difference": finite_difference,
        "spsa": spsa,
    }
)


@lru_cache(maxsize=256)
def shift_rule(frequencies: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (coefficients, shifts) with f'(x) = sum of c * (f(x + s) - f(x - s)).

    Exact for every f with these positive, distinct frequencies, as many terms as frequencies
    (none: f is constant). Equidistant ones, the multiples of one number, have the closed form of
    Wierichs et al. 2021 (arXiv:2107.12390, equation 25, two terms for (1,), four for (0.5, 1));
    for any others the linear system of their section 3 is solved at well-conditioned shifts.

    Raises:
        ValueError: a frequency is repeated, not positive or not finite.

    >>> [[round(number, 4) for number in part] for part in shift_rule((1.0,))]
    [[0.5], [1.5708]]
    """
    n = len(frequencies)
    if len(set(frequencies)) != n or not all(0 < f < math.inf for f in frequencies):
        raise ValueError(f"frequencies: expected distinct positive numbers, got {frequencies}")
    ordered = np.array(sorted(frequencies))
    if n == 0:
        return (), ()
    unit = ordered[0]
    if np.allclose(ordered, unit * np.arange(1, n + 1), rtol=1e-14, atol=0):
        places = np.arange(1, n + 1)
        shifts = (2 * places - 1) * math.pi / (2 * n * unit)
        coefficients = unit * (-1.0) ** (places - 1) / (4 * n * np.sin(unit * shifts / 2) ** 2)
    else:
        shifts = _well_conditioned_shifts(ordered)
        # f(x + s) - f(x - s) has the component 2 b sin(frequency s), f'(x) has frequency b.
        coefficients = np.linalg.solve(2 * np.sin(np.outer(ordered, shifts)), ordered)
    return tuple(coefficients.tolist()), tuple(shifts.tolist())


def _well_conditioned_shifts(frequencies: Array) -> Array:
    """Choose shifts greedily: each column of sines as far as can be from those chosen already."""
    n = len(frequencies)
    gap = min(frequencies[0], np.diff(frequencies).min())
    n_candidates = min(100_000, math.ceil(16 * n * frequencies[-1] / gap))
    candidates = np.arange(1, n_candidates + 1) * math.pi / (gap * n_candidates)
    remainder = np.sin(np.outer(frequencies, candidates))
    chosen: list[int] = []
    for _ in range(n):
        lengths = np.linalg.norm(remainder, axis=0)
        chosen.append(int(np.argmax(lengths)))
        axis = remainder[:, chosen[-1]] / lengths[chosen[-1]]
        remainder = remainder - np.outer(axis, axis @ remainder)
    shifts: Array = np.sort(candidates[chosen])
    return shifts


@lru_cache(maxsize=256)
def _occurrences(
    circuit: Circuit,
) -> Mapping[tuple[str, int], tuple[tuple[int, int, float], ...]]:
    """Where each parameter and input occurs: (operation, slot, scale of the angle)."""
    found: dict[tuple[str, int], list[tuple[int, int, float]]] = {}
    for operation_index, operation in enumerate(circuit.operations):
        for slot, angle in enumerate(operation.angles):
            if angle.kind != "constant" and angle.scale != 0:
                key = (angle.kind, angle.index)
                found.setdefault(key, []).append((operation_index, slot, angle.scale))
    return {key: tuple(places) for key, places in found.items()}


def _columns(task: Task, method: str) -> dict[tuple[str, int], int]:
    """The column of each parameter and input in the gradient, parameters first."""
    if "states" in task.wrt:
        raise ValueError(
            f"wrt='states': expected method='adjoint', got {method!r}, which shifts gate angles "
            "only"
        )
    keys: list[tuple[str, int]] = []
    if "parameters" in task.wrt:
        keys += [("parameter", index) for index in range(task.circuit.n_parameters)]
    if "inputs" in task.wrt:
        keys += [("input", index) for index in range(task.circuit.n_inputs)]
    return {key: column for column, key in enumerate(keys)}


def _evaluated(
    task: Task,
    shots: int | None,
    generator: np.random.Generator,
    evaluations: Sequence[Evaluation],
) -> Iterator[tuple[int, Array, Array | None]]:
    """Yield the number of each evaluation, its values and, with shots, their variances, (rows, O).

    The backend gets all at once, or chunks where the results would take much of the memory.
    """
    if shots is not None:
        yield from _sampled(task, shots, generator, evaluations)
        return
    n_bytes = max(1, 8 * task.shape[0] * task.shape[1])
    step = len(evaluations)
    if n_bytes * step > _CHUNK_BYTES:
        step = max(1, max(_CHUNK_BYTES, (memory.available_memory() or 0) // 4) // n_bytes)
    for start in range(0, len(evaluations), step):
        chunk = evaluations[start : start + step]
        found = task.backend.shifted_expectation(task.circuit, task.batch, task.observables, chunk)
        for number, values in enumerate(found, start):
            yield number, values, None


def _sampled(
    task: Task, shots: int, generator: np.random.Generator, evaluations: Sequence[Evaluation]
) -> Iterator[tuple[int, Array, Array]]:
    """Estimate each evaluation from shots: its number, means and their variances."""
    freed, places = _freed(task.circuit)
    angles = _angles(task.circuit, task.batch)
    measured = sampling.measurement(task.observables)
    for number, evaluation in enumerate(evaluations):
        shifted = angles.copy()
        for operation, slot, shift in evaluation:
            shifted[..., places[operation, slot]] += shift
        batch = replace(task.batch, parameters=shifted, inputs=None)
        yield number, *sampling.estimate(task.backend, freed, batch, measured, shots, generator)


@lru_cache(maxsize=64)
def _freed(circuit: Circuit) -> tuple[Circuit, Mapping[tuple[int, int], int]]:
    """Make every variable angle a parameter of its own, so that one structure serves all shifts.

    Returns the circuit and the parameter of each (operation, slot).
    """
    places: dict[tuple[int, int], int] = {}
    operations: list[gates.Operation] = []
    for index, operation in enumerate(circuit.operations):
        angles = list(operation.angles)
        for slot, angle in enumerate(angles):
            if angle.kind != "constant":
                places[index, slot] = len(places)
                angles[slot] = gates.parameter(places[index, slot])
        operations.append(replace(operation, angles=tuple(angles)))
    return Circuit(circuit.n_qubits, operations), places


def _angles(circuit: Circuit, batch: Batch) -> Array:
    """Values of the variable angles in the order of ``_freed``: (K,), or (rows, K) if they vary."""
    variable = [
        angle
        for operation in circuit.operations
        for angle in operation.angles
        if angle.kind != "constant"
    ]
    values = [angle.evaluate(batch.parameters, batch.inputs) for angle in variable]
    varies = any(np.ndim(value) for value in values)
    result = np.empty((batch.rows, len(values)) if varies else len(values))
    for column, value in enumerate(values):
        result[..., column] = value
    return result


def _weighted_sums(
    task: Task,
    options: Options,
    evaluations: Sequence[Evaluation],
    targets: Sequence[int],
    weights: Sequence[float],
    kept: Array | None = None,
    spreads: Array | None = None,
) -> Derivatives:
    """Add weight times value of evaluation i + 1 to column targets[i]; 0 is the unshifted one.

    ``kept`` (evaluations - 1, rows, O) takes the values themselves, ``spreads`` their variances.
    """
    if options.shots is None and kept is None:
        found = task.backend.weighted_shifts(
            task.circuit,
            task.batch,
            task.observables,
            evaluations,
            _terms(task, targets, weights),
        )
        if found is not None:
            return Derivatives(found.values, found.parameters, found.inputs, found.states, {})
    gradient = np.zeros((len(_columns(task, "")), *task.shape))
    variance = None if options.shots is None else np.zeros_like(gradient)
    values = np.zeros(task.shape)
    generator = np.random.default_rng(options.seed)
    for number, value, spread in _evaluated(task, options.shots, generator, evaluations):
        if number == 0:
            values = value
            continue
        if kept is not None:
            kept[number - 1] = value
        if spreads is not None:
            spreads[number - 1] = spread
        column, weight = targets[number - 1], weights[number - 1]
        gradient[column] += weight * value
        if variance is not None and spread is not None:
            variance[column] += weight**2 * spread
    return _split(
        task,
        values,
        np.moveaxis(gradient, 0, 2),
        None if variance is None else np.moveaxis(variance, 0, 2),
    )


def _terms(
    task: Task, targets: Sequence[int], weights: Sequence[float]
) -> dict[str, list[list[tuple[int, float]]]]:
    """Return the evaluations and weights of each column of the parameters, and of the inputs."""
    columns: list[list[tuple[int, float]]] = [[] for _ in _columns(task, "")]
    for evaluation, (target, weight) in enumerate(zip(targets, weights, strict=True), start=1):
        columns[target].append((evaluation, weight))
    n_parameters = task.circuit.n_parameters if "parameters" in task.wrt else 0
    parts = {"parameters": columns[:n_parameters], "inputs": columns[n_parameters:]}
    return {name: part for name, part in parts.items() if name in task.wrt}


def _split(task: Task, values: Array, gradient: Array, variance: Array | None) -> Derivatives:
    """Cut (rows, O, columns) into parameters and inputs, in the batch's real dtype."""
    dtype = task.batch.real_dtype
    n_parameters = task.circuit.n_parameters if "parameters" in task.wrt else 0
    parts = {"parameters": slice(0, n_parameters), "inputs": slice(n_parameters, None)}

    def cut(array: Array) -> dict[str, Array]:
        return {
            name: np.ascontiguousarray(array[:, :, part], dtype)
            for name, part in parts.items()
            if name in task.wrt
        }

    derivatives = cut(gradient)
    return Derivatives(
        values.astype(dtype, copy=False),
        derivatives.get("parameters"),
        derivatives.get("inputs"),
        None,
        {} if variance is None else cut(variance),
    )


def _matters(task: Task, operation: int, slot: int) -> bool:
    """Whether an angle can matter to the observables; all are taken to without pruning."""
    if not task.batch.prune:
        return True
    program = compile_program(task.circuit, tuple(task.observables), False, True)
    return bool(program.rotations_of(operation, slot))


def clear_pruned(task: Task, result: AdjointResult) -> None:
    """Set derivatives by pruned angles to exactly zero: a backend may have rounded ones."""
    if not task.batch.prune or task.batch.target is not None:
        # A run on the GPU adds up what is in the program, and what was pruned is not.
        return
    for (kind, index), occurrences in _occurrences(task.circuit).items():
        derivatives = result.parameters if kind == "parameter" else result.inputs
        if derivatives is not None and not any(
            _matters(task, operation, slot) for operation, slot, _ in occurrences
        ):
            derivatives[:, :, index] = 0


def _refuse_options(options: Options, method: str, names: Sequence[str]) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"{name}: expected a method that uses it, got method={method!r}")


def _require_step(step: float) -> None:
    if not 0 < step < math.inf:
        raise ValueError(f"step: expected a positive number of radians, got {step}")
