# SPDX-License-Identifier: Apache-2.0
"""The verbs: arrays of any library in, checked once, run by a backend, the same kind out.

Everything that a caller can get wrong is refused here, before any work. Results have the shape
(rows[, observables][, ...]): the observables axis is there if a sequence of observables was
given; the rows axis goes if ``states`` or ``inputs`` is a single row without one and nothing else
has one. Arguments without a rows axis are shared by all rows.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, Protocol, cast, runtime_checkable

import numpy as np

from qdp import arrays, device_arrays, encodings, gates, gradients, memory, planner, sampling
from qdp.arrays import Array, Library
from qdp.backends.base import Backend, Batch, DeviceBackend, Precision, Preparation
from qdp.backends.reference import ReferenceBackend
from qdp.circuit import Circuit, Observable, PauliTerm
from qdp.device_arrays import DeviceArray, Memory, Place, Target
from qdp.encodings import (
    Amplitude,
    Basis,
    Encoding,
    GateEncoding,
    PhaseEncoding,
    ProductEncoding,
    ProductPhases,
)
from qdp.errors import BackendUnavailable

BackendName = Literal["auto", "cpu", "cuda", "custatevec", "reference"]
MethodName = Literal["adjoint", "parameter-shift", "finite-difference", "spsa"]
Argument = Literal["parameters", "inputs", "states"]
Observables = Observable | str | Sequence[Observable | str]

P = ParamSpec("P")

_ARGUMENTS: tuple[Argument, ...] = ("parameters", "inputs", "states")
# Reading 1,024 probabilities costs 1,024 projectors in the backward pass.
_MOST_DIFFERENTIABLE_WIRES = 10
# Amplitudes times operations that take some tenths of a second at most.
_MOST_WORK_UNCHECKED = 3 * 10**9


@runtime_checkable
class Blocks(Protocol):
    """Rows kept in blocks, such as ``qdp.StateCache``: verbs take it for ``states``."""

    n_samples: int
    precision: Precision

    def blocks(self, n_qubits: int) -> Iterator[tuple[int, Array, Encoding | None]]:
        """Yield the number of the first row, the rows, and their encoding (None: states)."""


def _block_by_block(verb: Callable[P, Any]) -> Callable[P, Any]:
    """Let a verb with one result a row run over each block of ``Blocks``, and join the results."""

    call = cast(Callable[..., Any], verb)

    @functools.wraps(verb)
    def run(
        circuit: Circuit, parameters: Any, states: Any = None, *arguments: Any, **options: Any
    ) -> Any:
        # The cheap question first: the other costs as much as a small run.
        if not hasattr(states, "blocks") or not isinstance(states, Blocks):
            return call(circuit, parameters, states, *arguments, **options)
        _require_circuit(circuit)
        if options.get("return_shifted"):
            raise ValueError(
                "return_shifted: expected states in an array, got a cache, which is run over in "
                "blocks; pass its get_states(), or leave return_shifted out"
            )
        if options.pop("encoding", None) is not None:
            raise ValueError("encoding: expected None beside a cache, which knows its own, got one")
        if options.get("precision") is None:
            options["precision"] = states.precision
        inputs, seed = options.pop("inputs", None), options.pop("seed", None)
        for name, value in (("parameters", parameters), ("inputs", inputs)):
            if np.ndim(value) == 2 and len(value) != states.n_samples:
                raise ValueError(
                    f"rows: expected as many in each argument that has them, got {len(value)} in "
                    f"{name}, {states.n_samples} in states"
                )
        if not states.n_samples:
            raise ValueError("states: expected a cache with at least one row, got none")
        parameters, inputs, finish = _taken(parameters, inputs, options.get("backend", "auto"))
        seed_of = _seeds_of_blocks(verb.__name__, options, seed)
        results = []
        for start, rows, encoding in states.blocks(circuit.n_qubits):
            part = slice(start, start + len(rows))
            if seed_of is not None:
                options["seed"] = seed_of(start)
            results.append(
                call(
                    circuit,
                    _of_block(parameters, part),
                    rows,
                    *arguments,
                    inputs=_of_block(inputs, part),
                    encoding=encoding,
                    **options,
                )
            )
        joined = _joined(results)
        finish()
        return joined

    return cast(Callable[P, Any], run)


def _seeds_of_blocks(
    verb: str, options: dict[str, Any], seed: int | None
) -> Callable[[int], Any] | None:
    """Return what seeds the block that starts at a row, or None where nothing is drawn.

    Samples are drawn from one generator, row after row, as from an array. SPSA moves all rows in
    the same directions. Shots in gradients are drawn anew for each block: other numbers than
    those of an array, and other ones for other blocks.
    """
    if verb == "sample":
        generator = np.random.default_rng(seed)
        return lambda start: generator
    if options.get("shots") is None:
        if options.get("method") == "spsa" and seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        return None if seed is None else lambda start: seed
    root = int(np.random.default_rng(seed).integers(2**32))
    return lambda start: int(np.random.SeedSequence([root, start]).generate_state(1)[0])


def _taken(
    parameters: Any, inputs: Any, backend: BackendName | Backend
) -> tuple[Any, Any, Callable[[], None]]:
    """Return arguments whose rows can be taken: arrays of a GPU that can do nothing but DLPack not.

    Last is what waits for those who know no stream.
    """
    place = device_arrays.place_of(parameters=parameters, inputs=inputs)
    if place is None or place.library != "qdp":
        return parameters, inputs, lambda: None
    target = _device_backend(backend, place)[1]
    parameters, inputs = (
        target.real(value, name) if device_arrays.on_device(value) else value
        for name, value in (("parameters", parameters), ("inputs", inputs))
    )
    wait = functools.partial(target.memory.synchronize, target.stream)
    return parameters, inputs, wait if target.waits else lambda: None


def _of_block(value: Any, part: slice) -> Any:
    """Return a block's rows of an argument that has them."""
    if np.ndim(value) != 2:
        return value
    return value.rows(part) if isinstance(value, DeviceArray) else value[part]


def _joined(results: list[Any]) -> Any:
    """Join results along their rows, or each of a tuple of results."""
    if isinstance(results[0], tuple):
        return tuple(_joined(list(parts)) for parts in zip(*results, strict=True))
    if isinstance(results[0], DeviceArray):
        return device_arrays.joined(results)
    if arrays.is_torch(results[0]):
        return sys.modules["torch"].cat(results)
    place = device_arrays.place_of(results=results[0])
    if place is not None and place.library == "cupy":
        return place.module.concatenate(results)
    # The array API standard's way to any other library: NumPy, JAX.
    return results[0].__array_namespace__().concat(results)


@_block_by_block
def expectation(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    observable: Observables | None = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    prune: bool = False,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return expectation values, (rows[, observables]) float64, or float32 in single precision.

    ``parameters`` is (P,) or (rows, P) and ``inputs`` (rows, F), both in radians. ``states`` is
    (rows, 2**n), real or complex, of norm 1; with ``encoding`` it is raw features, encoded inside
    the run; None is |0...0>. ``observable`` is an Observable, its text, or a sequence of them.
    ``prune`` leaves out rotations that change no value, such as those outside the observables'
    light cone. For torch tensors that require gradients the result is differentiable, once.

    Raises:
        TypeError: an argument of another type, not numeric, or complex where real is expected.
        ValueError: shapes that don't fit the circuit or each other, a wire out of range, NaN or
            infinity, states that are not normalised, features that the encoding refuses.
        MemoryError: the run would not fit into the memory available.
        BackendUnavailable: the backend can't run here.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> expectation(circuit, [np.pi / 3], None, "Z0", backend="reference").round(12)
    array([0.5])
    """
    if arrays.requires_gradient(parameters, states, inputs):
        from qdp.adapters import torch as autograd

        return autograd.expectation(
            circuit,
            parameters,
            states,
            observable,
            inputs=inputs,
            encoding=encoding,
            prune=prune,
            backend=backend,
            precision=precision,
        )
    run = _prepare(
        circuit, parameters, states, inputs, encoding, backend, precision, observable, prune
    )
    values = run.backend.expectation(run.circuit, run.batch, run.observables)
    return run.finish(values, has_observables=True)


def variance(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    observable: Observables | None = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return the variances of observables, <O**2> - <O>**2, shaped and typed as expectation values.

    Arguments and exceptions are those of ``expectation``. Differentiable in the same way.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> variance(circuit, [np.pi / 3], None, "Z0", backend="reference").round(12)
    array([0.75])
    """
    given, single = _observables(observable, circuit)
    # A constant has no variance; left in, its square would swamp the rest.
    given = tuple(_without_identity(one) for one in given)
    both = (*(_squared(one) for one in given), *given)
    found = expectation(
        circuit,
        parameters,
        states,
        both,
        inputs=inputs,
        encoding=encoding,
        backend=backend,
        precision=precision,
    )
    if isinstance(found, DeviceArray):
        # An array that only hands itself out: the few numbers are subtracted on the host.
        place = cast(Place, device_arrays.place_of(found=found))
        target = place.on(cast(Memory, found.memory))
        values = found.to_numpy()
        spread = (values[..., : len(given)] - values[..., len(given) :] ** 2).clip(min=0)
        return target.from_numpy(spread[..., 0] if single else spread)
    squares, values = found[..., : len(given)], found[..., len(given) :]
    # Rounding may leave a small negative number where the variance is zero.
    result = (squares - values * values).clip(min=0)
    return result[..., 0] if single else result


@_block_by_block
def state(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return the states after the circuit, (rows, 2**n) complex128, or complex64 in single.

    Arguments and exceptions are those of ``expectation``. Not differentiable: tensors that require
    gradients raise ValueError.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.Hadamard(0)])
    >>> state(circuit, [], backend="reference").real.round(4)
    array([[0.7071, 0.7071]])
    """
    _refuse_gradient("state", parameters, states, inputs)
    run = _prepare(
        circuit, parameters, states, inputs, encoding, backend, precision, method="state"
    )
    run.require_memory(run.batch.rows * run.state_bytes, "the states")
    return run.finish(run.backend.state(run.circuit, run.batch))


@_block_by_block
def probabilities(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    wires: Sequence[int] | None = None,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return the probabilities of measuring ``wires``, (rows, 2**len(wires)) float64 or float32.

    The first of ``wires`` (None: all, in order) is the most significant bit of the outcome. Other
    arguments and exceptions are those of ``expectation``. Differentiable on up to 10 wires.

    >>> import qdp
    >>> circuit = qdp.Circuit(2, [qdp.gates.Hadamard(0), qdp.gates.CNOT([0, 1])])
    >>> probabilities(circuit, [], backend="reference").round(12)
    array([[0.5, 0. , 0. , 0.5]])
    """
    if arrays.requires_gradient(parameters, states, inputs):
        from qdp.adapters import torch as autograd

        return autograd.probabilities(
            circuit,
            parameters,
            states,
            outcome_projectors(circuit, wires),
            inputs=inputs,
            encoding=encoding,
            wires=wires,
            backend=backend,
            precision=precision,
        )
    run = _prepare(
        circuit, parameters, states, inputs, encoding, backend, precision, method="state"
    )
    read = _wires(wires, circuit)
    run.require_memory(
        run.batch.rows * 2 ** len(read) * np.dtype(run.batch.real_dtype).itemsize,
        "the probabilities",
    )
    return run.finish(run.backend.probabilities(run.circuit, run.batch, read))


@_block_by_block
def sample(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    *,
    shots: int,
    seed: int | None = None,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    wires: Sequence[int] | None = None,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return measured bits, (rows, shots, len(wires)) uint8.

    ``seed`` repeats the draws exactly; None draws anew. ``wires`` is as in ``probabilities``,
    other arguments and exceptions as in ``expectation``. Not differentiable.

    >>> import qdp
    >>> circuit = qdp.Circuit(2, [qdp.gates.PauliX(0)])
    >>> sample(circuit, [], shots=2, backend="reference")
    array([[[1, 0],
            [1, 0]]], dtype=uint8)
    """
    _refuse_gradient("sample", parameters, states, inputs)
    n_shots = _positive("shots", shots)
    run = _prepare(
        circuit, parameters, states, inputs, encoding, backend, precision, method="state",
        on_host=True,
    )  # fmt: skip
    read = _wires(wires, circuit)
    run.require_memory(run.batch.rows * n_shots * len(read) + 16 * 2 ** len(read), "the samples")
    generator = np.random.default_rng(seed)
    return run.finish(sampling.draw(run.backend, run.circuit, run.batch, read, n_shots, generator))


@_block_by_block
def gradient(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    observable: Observables | None = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    method: MethodName = "adjoint",
    wrt: Argument | tuple[Argument, ...] = "parameters",
    shots: int | None = None,
    seed: int | None = None,
    step: float | None = None,
    n_directions: int | None = None,
    return_variance: bool = False,
    return_shifted: bool = False,
    prune: bool = False,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return the derivatives of expectation values, row by row: (rows[, observables], P).

    ``wrt`` names what to differentiate by; a tuple of names gives a tuple of results. "inputs"
    gives (..., F); "states" (..., columns of ``states``), with respect to raw features under an
    encoding, complex (d/dRe + i d/dIm) for complex ones, by method "adjoint" only, unless gates
    make the encoding (all but "amplitude" and "basis"). Methods and their options ``shots``,
    ``seed``, ``step``, ``n_directions`` are described in ``qdp.gradients``. With
    ``return_variance`` the result is a pair: gradients and the estimated variances of methods that
    draw at random ("parameter-shift" with shots, "spsa"). With ``return_shifted`` the last result
    is what "parameter-shift" evaluated, as a ``qdp.gradients.ShiftedValues``. Other arguments and
    exceptions are those of ``expectation``. The results are constants to torch's autograd.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> gradient(circuit, [np.pi / 6], None, "Z0", backend="reference").round(12)
    array([[-0.5]])
    """
    names, is_tuple = _wrt(wrt)
    if return_variance and "states" in names and isinstance(encoding, str | Encoding):
        _refuse_variance(encodings.from_name(encoding))
    if return_variance and method != "spsa" and (method != "parameter-shift" or shots is None):
        raise ValueError(
            "return_variance: expected a method that draws at random (spsa, or parameter-shift "
            f"with shots), got method={method!r}, shots={shots}"
        )
    if return_shifted and method != "parameter-shift":
        raise ValueError(f"return_shifted: expected method='parameter-shift', got {method!r}")
    options = gradients.Options(
        _optional_positive("shots", shots), seed, step, n_directions, return_shifted
    )
    run, derivatives = _differentiate(
        circuit, parameters, states, observable, inputs, encoding, method, names, options,
        backend, precision, prune,
    )  # fmt: skip
    results = run.derivatives(names, derivatives)
    answer = [results if is_tuple else results[0]]
    if return_variance:
        variances = run.variances(names, derivatives)
        answer.append(variances if is_tuple else variances[0])
    if derivatives.shifted is not None:
        n_added = len(run.circuit.operations) - len(circuit.operations)
        answer.append(run.shifted(names, derivatives.shifted, n_added))
    return tuple(answer) if len(answer) > 1 else answer[0]


@_block_by_block
def value_and_grad(
    circuit: Circuit,
    parameters: Any,
    states: Any = None,
    observable: Observables | None = None,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    method: MethodName = "adjoint",
    wrt: Argument | tuple[Argument, ...] = "parameters",
    shots: int | None = None,
    seed: int | None = None,
    step: float | None = None,
    n_directions: int | None = None,
    prune: bool = False,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return expectation values and their gradients from one run: what the two verbs give.

    Both are plain numbers: nothing is recorded for torch's autograd, for which ``expectation`` is
    there.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> values, grads = value_and_grad(circuit, [np.pi / 6], None, "Z0", backend="reference")
    >>> values.round(4), grads.round(4)
    (array([0.866]), array([[-0.5]]))
    """
    names, is_tuple = _wrt(wrt)
    run, derivatives = _differentiate(
        circuit, parameters, states, observable, inputs, encoding, method, names,
        gradients.Options(_optional_positive("shots", shots), seed, step, n_directions),
        backend, precision, prune,
    )  # fmt: skip
    results = run.derivatives(names, derivatives)
    values = run.finish(derivatives.values, has_observables=True)
    return values, results if is_tuple else results[0]


def vjp(
    circuit: Circuit,
    parameters: Any,
    states: Any,
    observable: Observables | None,
    cotangents: Any,
    *,
    inputs: Any = None,
    encoding: str | Encoding | None = None,
    wrt: Argument | tuple[Argument, ...] = "parameters",
    prune: bool = False,
    backend: BackendName | Backend = "auto",
    precision: Precision | None = None,
) -> Any:
    """Return the gradient of sum(cotangents * expectation values), by the adjoint method.

    ``cotangents`` is real and has the shape of the values, (rows[, observables]), or is one
    number for all. Each result has the shape of the argument that ``wrt`` names: what all rows
    share is summed over them. Other arguments and exceptions are those of ``gradient``.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> vjp(circuit, [np.pi / 6], None, "Z0", [2.0], backend="reference").round(12)
    array([-1.])
    """
    names, is_tuple = _wrt(wrt)
    run = _prepare(
        circuit,
        parameters,
        states,
        inputs,
        encoding,
        backend,
        precision,
        observable,
        prune,
        "adjoint",
        names,
    )
    weights = run.cotangents(cotangents)
    run.require_derivatives(names, 1)
    result = run.backend.adjoint(
        run.circuit, run.batch, run.observables, run.angles_wrt(names), weights
    )
    gradients.clear_pruned(run.task(names), result)
    results = tuple(
        run.pulled_back(name, run.derivative(name, result.parameters, result.inputs, result.states))
        for name in names
    )
    return results if is_tuple else results[0]


def fidelity_kernel(
    states_a: Any, states_b: Any = None, *, backend: BackendName | Backend = "auto"
) -> Any:
    """Return the squared overlaps |<a|b>|**2 of all pairs, (rows_a, rows_b) float64 or float32.

    ``states_a`` and ``states_b`` (None: the same) are (rows, 2**n), real or complex, of norm 1.
    Single precision if both are. Differentiable for torch tensors, through torch on their device.

    Raises:
        TypeError: not numeric.
        ValueError: other shapes, NaN or infinity, rows that are not normalised, or torch tensors on
            the CPU that require gradients with a GPU's backend.
        MemoryError: the result would not fit into the memory available.
        BackendUnavailable: the backend can't run here.

    >>> fidelity_kernel(np.eye(2))
    array([[1., 0.],
           [0., 1.]])
    """
    place = device_arrays.place_of(states_a=states_a, states_b=states_b)
    if place is not None:
        return _fidelity_on_device(states_a, states_b, backend, place)
    library = arrays.library_of(states_a, states_b)
    left = _normalised_states(states_a, "states_a", None)
    right = left if states_b is None else _normalised_states(states_b, "states_b", None)
    _require_pairs(left, right)
    engine = None if backend == "auto" else _backend(backend)
    if arrays.requires_gradient(states_a, states_b):
        if isinstance(engine, DeviceBackend):
            raise ValueError(
                f"backend: expected 'auto', since tensors on the CPU that require gradients are "
                f"differentiated by torch there, got {engine.name!r}; move them to the GPU, or "
                "detach them"
            )
        from qdp.adapters import torch as autograd

        return autograd.fidelity_kernel(states_a, states_b)
    dtype = np.result_type(left, right)
    real = np.zeros(0, dtype).real.dtype
    memory.require_memory(
        2 * len(left) * len(right) * real.itemsize,
        f"{len(left)} x {len(right)} overlaps",
        "compute the kernel in blocks of rows",
    )
    if isinstance(engine, DeviceBackend):
        return library.from_numpy(engine.overlaps(left, right))
    kernel = np.empty((len(left), len(right)), real)
    core = None if isinstance(engine, ReferenceBackend) else arrays.extension()
    if core is not None:
        rows = np.ascontiguousarray(left, dtype)
        core.overlaps(rows, rows if right is left else np.ascontiguousarray(right, dtype), kernel)
        return library.from_numpy(kernel)
    step = max(64, 2**24 // (dtype.itemsize * max(left.shape[1], len(right))))
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        overlaps = left[part].conj() @ right.T
        np.square(overlaps.real, out=kernel[part])
        if dtype.kind == "c":
            kernel[part] += np.square(overlaps.imag)
    return library.from_numpy(kernel)


def encode(
    rows: Any,
    encoding: str | Encoding,
    n_qubits: int | None = None,
    *,
    out: Any = None,
    precision: Precision | None = None,
    bit_order: Literal["big", "little"] = "big",
    backend: BackendName | Backend = "auto",
) -> Any:
    """Return the states that encode ``rows`` of features, (rows, 2**n_qubits) complex128.

    ``n_qubits`` None takes the fewest that hold the features; ``precision`` "single" gives
    complex64. ``out``, C-contiguous and complex, is written in place and returned, its dtype the
    precision. ``bit_order`` "little" makes qubit 0 the least significant bit of the state index. A
    single row without a rows axis gives a single state. Not differentiable: give ``encoding`` to
    ``expectation`` for that.

    Raises:
        TypeError: features not numeric, or complex where real is expected; ``out`` not complex.
        ValueError: features that the encoding refuses, an ``out`` of another shape or layout or
            that is read-only.
        MemoryError: the states would not fit into the memory available.
        BackendUnavailable: the backend can't run here.

    >>> encode([[3.0, 4.0]], "amplitude").real
    array([[0.6, 0.8]])
    """
    _refuse_gradient("encode", rows)
    chosen = encodings.from_name(encoding)
    if bit_order not in ("big", "little"):
        raise ValueError(f"bit_order: expected 'big' or 'little', got {bit_order!r}")
    place = device_arrays.place_of(rows=rows, out=out)
    if place is not None:
        return _encode_on_device(rows, chosen, n_qubits, out, precision, bit_order, backend, place)
    engine = _backend(backend)
    features, has_rows = chosen.as_rows(rows)
    if n_qubits is None:
        n_qubits = chosen.fewest_qubits(features)
    n_qubits = operator.index(n_qubits)
    encodings.require_qubit_count(n_qubits)
    target = None
    if out is None:
        precision = _precision(precision, None)
        memory.require_memory(
            chosen.state_bytes(len(features), n_qubits, precision),
            f"encoding {len(features)} rows on {n_qubits} qubits",
            "encode fewer rows at a time, or give encoding= to the verb that uses the states",
        )
    else:
        target = arrays.to_numpy(out, "out")
        target = target if has_rows else target[None]
        given = "single" if target.dtype == np.complex64 else "double"
        if precision not in (None, given):
            raise ValueError(f"precision: expected {given!r}, that of out, got {precision!r}")
    states = chosen.encode(
        features,
        n_qubits,
        precision=precision or "double",
        out=target,
        fill=engine.encoder(chosen),
    )
    if bit_order == "little":
        encodings.to_little_endian(states)
    if out is not None:
        return out
    return arrays.library_of(rows).from_numpy(states if has_rows else states[0])


def amplitude_encode(data: Any, normalize: bool = True) -> Any:
    """Return amplitude-encoded states, (rows, 2**n) complex128, n the fewest qubits that do.

    Short for ``encode(data, Amplitude(normalize=normalize))``, with its exceptions.

    >>> amplitude_encode([[3.0, 0.0, 4.0]]).real
    array([[0.6, 0. , 0.8, 0. ]])
    """
    return encode(data, Amplitude(normalize=normalize))


def outcome_projectors(
    circuit: Circuit, wires: Sequence[int] | None = None
) -> tuple[Observable, ...]:
    """Return the projectors on the outcomes of ``wires`` (None: all), valued as probabilities.

    Raises:
        ValueError: more than 10 wires, a repeated one, or one outside the circuit.

    >>> [str(projector) for projector in outcome_projectors(Circuit(2), [1])]
    ['1.0 |0><0| on 1', '1.0 |1><1| on 1']
    """
    read = _wires(wires, circuit)
    if len(read) > _MOST_DIFFERENTIABLE_WIRES:
        raise ValueError(
            f"probabilities: expected at most {_MOST_DIFFERENTIABLE_WIRES} wires where a tensor "
            f"requires gradients, got {len(read)}; read fewer wires, or detach the tensor"
        )
    return _projectors(read)


@functools.lru_cache(maxsize=32)
def _projectors(wires: tuple[int, ...]) -> tuple[Observable, ...]:
    return tuple(
        Observable.projector(f"{outcome:0{len(wires)}b}", wires)
        for outcome in range(2 ** len(wires))
    )


# One call, checked


@dataclass(frozen=True)
class _Run:
    """A checked call: what the backend gets, and how its results become the caller's.

    Where an encoding by gates runs as gates, ``circuit`` begins with them and reads their angles as
    inputs behind the caller's own ``n_inputs``. ``features`` are the caller's states or features,
    (rows, columns). ``with_rows`` names the arguments that have a rows axis.
    """

    backend: Backend
    circuit: Circuit
    batch: Batch
    observables: tuple[Observable, ...]
    single_observable: bool
    encoding: Encoding | None
    features: Array | None
    n_inputs: int
    library: Library
    with_rows: frozenset[str]
    single_row: bool
    target: Target | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes of one state."""
        return int(2**self.circuit.n_qubits * np.dtype(self.batch.complex_dtype).itemsize)

    def require_memory(self, n_bytes: int, what: str) -> None:
        """Refuse results that would not fit; those on a GPU are its library's to refuse."""
        if self.target is not None:
            return
        rows, n_qubits = self.batch.rows, self.circuit.n_qubits
        memory.require_memory(
            n_bytes,
            f"{what} of {rows} row{'s' * (rows != 1)} of {n_qubits} qubits",
            "pass fewer rows at a time, use fewer qubits, or precision='single'",
        )

    def require_derivatives(self, names: Sequence[Argument], n_observables: int) -> None:
        """Refuse derivatives that can't be had, or would not fit."""
        if "states" in names:
            if self.features is None:
                raise ValueError("wrt='states': expected states or features, got None")
            if isinstance(self.encoding, Basis):
                raise ValueError(
                    "wrt='states': expected an encoding with a derivative, got Basis; basis "
                    "states don't change smoothly"
                )
        sizes = {
            "parameters": self.circuit.n_parameters * 8,
            "inputs": self.circuit.n_inputs * 8,
            "states": 0 if isinstance(self.encoding, GateEncoding) else self.state_bytes,
        }
        n_bytes = self.batch.rows * n_observables * sum(sizes[name] for name in names)
        self.require_memory(n_bytes, "the gradients")

    def angles_wrt(self, names: Sequence[Argument]) -> frozenset[str]:
        """What the backend differentiates by: features that turn angles are inputs to it."""
        if not isinstance(self.encoding, GateEncoding):
            return frozenset(names)
        return frozenset("inputs" if name == "states" else name for name in names)

    def task(self, names: Sequence[Argument]) -> gradients.Task:
        """What the methods differentiate."""
        return gradients.Task(
            self.backend, self.circuit, self.batch, self.observables, self.angles_wrt(names)
        )

    def derivative(
        self,
        name: Argument,
        parameters: Array | None,
        inputs: Array | None,
        states: Array | None,
    ) -> Array:
        """Pick the backend's derivative by one of the caller's arguments, (rows, O, size)."""
        if self.target is not None:
            found = {"parameters": parameters, "inputs": inputs, "states": states}[name]
            assert found is not None or name == "inputs"
            if found is None:  # an encoding's angles are all that the circuit reads
                shape = (self.batch.rows, len(self.observables), 0)
                found = _known(self.target.empty(shape, self.batch.real_dtype))
            return found
        if name == "parameters":
            assert parameters is not None
            return parameters
        if name == "inputs":
            assert inputs is not None
            return np.ascontiguousarray(inputs[:, :, : self.n_inputs])
        assert self.features is not None
        if isinstance(self.encoding, GateEncoding):
            assert inputs is not None
            return np.ascontiguousarray(
                self.encoding.pullback(self.features, inputs[:, :, self.n_inputs :])
            )
        assert states is not None
        if isinstance(self.encoding, Amplitude):
            return self.encoding.pullback(self.features, states)
        return states if self.features.dtype.kind == "c" else np.ascontiguousarray(states.real)

    def derivatives(
        self, names: Sequence[Argument], found: gradients.Derivatives
    ) -> tuple[Any, ...]:
        """The caller's derivatives, in the order of ``names``."""
        return tuple(
            self.finish(
                self.derivative(name, found.parameters, found.inputs, found.states),
                has_observables=True,
            )
            for name in names
        )

    def variances(self, names: Sequence[Argument], found: gradients.Derivatives) -> tuple[Any, ...]:
        """The caller's variances, in the order of ``names``."""
        spread = gradients.Derivatives(
            found.values,
            found.variances.get("parameters"),
            found.variances.get("inputs"),
            None,
            {},
        )
        return self.derivatives(names, spread)

    def shifted(
        self, names: Sequence[Argument], found: gradients.ShiftedValues, n_added: int
    ) -> gradients.ShiftedValues:
        """Shifted values in the caller's terms: his arguments, circuit, axes and kind of array.

        ``n_added`` operations of an angle encoding stand before his circuit, its features behind
        his inputs.
        """
        is_feature = found.operations < n_added
        arguments = [
            ("state", index - self.n_inputs) if feature else (kind, index)
            for feature, (kind, index) in zip(is_feature, found.arguments, strict=True)
        ]
        # Features and inputs are shifted together: leave out what wasn't asked for.
        wanted = np.flatnonzero([f"{kind}s" in names for kind, _ in arguments])

        def own(array: Array | None) -> Any:
            if array is None:
                return None
            part = array[wanted]
            rest = self.shape(part.shape[1:], has_observables=True)
            return self.library.from_numpy(part.reshape(len(part), *rest))

        return gradients.ShiftedValues(
            arguments=tuple(arguments[k] for k in wanted),
            operations=np.where(is_feature, -1, found.operations - n_added)[wanted],
            slots=found.slots[wanted],
            shifts=found.shifts[wanted],
            coefficients=found.coefficients[wanted],
            plus=own(found.plus),
            minus=own(found.minus),
            plus_variances=own(found.plus_variances),
            minus_variances=own(found.minus_variances),
        )

    def cotangents(self, given: Any) -> Array:
        """Check cotangents, of the shape of the values or one number; returned as (rows, O)."""
        full = (self.batch.rows, len(self.observables))
        expected = self.shape(full, has_observables=True)
        if self.target is None:
            weights = arrays.as_real(given, "cotangents")
        else:
            device_arrays.place_of(arguments=self.target.place.source, cotangents=given)
            if device_arrays.on_device(given):
                weights = _known(self.target.real(given, "cotangents"))
                if weights.shape == expected:
                    return weights.reshape(full)
            else:
                weights = arrays.as_real(given, "cotangents")
        if weights.shape not in ((), expected) or isinstance(weights, DeviceArray):
            raise ValueError(
                f"cotangents: expected shape {expected}, that of the values, or one number, got "
                f"shape {weights.shape}"
            )
        arrays.require_finite(weights.reshape(-1), "cotangents")
        weights = np.ascontiguousarray(np.broadcast_to(weights, expected).reshape(full))
        return weights if self.target is None else _known(self.target.upload(weights))

    def pulled_back(self, name: Argument, derivative: Array) -> Any:
        """Give a derivative (rows, 1, size) its argument's shape, summed over what it shares."""
        if self.target is None:
            summed = derivative[:, 0] if name in self.with_rows else derivative.sum((0, 1))
            return self.library.from_numpy(summed)
        rows = derivative.reshape((self.batch.rows, derivative.shape[2]))
        if name not in self.with_rows:
            rows = cast(DeviceBackend, self.backend).sum_rows(rows, self.target)
        return self.target.hand_out(_on_device(rows))

    def shape(self, full: tuple[int, ...], *, has_observables: bool) -> tuple[int, ...]:
        """Drop from (rows[, O], ...) the axes that the caller didn't ask for."""
        rest = full[2:] if has_observables and self.single_observable else full[1:]
        return rest if self.single_row else (full[0], *rest)

    def finish(self, result: Array, *, has_observables: bool = False) -> Any:
        """Shape a result (rows[, O], ...) for the caller, as his kind of array."""
        shaped = result.reshape(self.shape(result.shape, has_observables=has_observables))
        if self.target is not None:
            return self.target.hand_out(_on_device(shaped))
        if shaped.ndim == 0 and self.library is arrays.NUMPY:
            return shaped[()]
        return self.library.from_numpy(shaped)


def _prepare(
    circuit: Circuit,
    parameters: Any,
    states: Any,
    inputs: Any,
    encoding: str | Encoding | None,
    backend: BackendName | Backend,
    precision: Precision | None,
    observable: Observables | Literal[False] | None = False,
    prune: bool = False,
    method: planner.Method = "expectation",
    names: Sequence[Argument] = (),
    on_host: bool = False,
) -> _Run:
    """Check all arguments of a verb; ``observable`` False where the verb has none.

    ``names`` are the arguments that it differentiates by. ``on_host`` brings arrays of a GPU to the
    host first, for what is drawn or added up there.
    """
    _require_circuit(circuit)
    observables, single = ((), False) if observable is False else _observables(observable, circuit)
    chosen = None if encoding is None else encodings.from_name(encoding)
    place = device_arrays.place_of(states=states, parameters=parameters, inputs=inputs)
    engine: Backend
    if place is None:
        engine = _backend(backend)
        library = arrays.library_of(states, parameters, inputs)
    else:
        engine, target = _device_backend(backend, place)
        if not on_host:
            return _prepare_on_device(
                circuit, parameters, states, inputs, chosen, engine, target, precision,
                observables, single, prune, names,
            )  # fmt: skip
        library = Library(place.library, target.from_numpy)
        states = target.to_numpy(states, "states")
        parameters = target.to_numpy(parameters, "parameters")
        inputs = target.to_numpy(inputs, "inputs")
    angles = _angles(
        [] if parameters is None else parameters, circuit.n_parameters, "parameters", "P"
    )
    _require_inputs(inputs, circuit)
    columns = None if inputs is None else _angles(inputs, circuit.n_inputs, "inputs", "F")
    features, initial, has_rows, recheck = _states(states, chosen, circuit, engine, method)
    rows, with_rows, single_row = _count_rows(angles, columns, initial, has_rows)
    precision = _precision(precision, None if chosen is not None else initial)
    n_inputs = circuit.n_inputs
    if columns is not None and columns.ndim == 1:
        columns = np.repeat(columns[None], rows, axis=0)
    if features is not None and initial is not None and not has_rows:
        memory.require_memory(
            rows * initial.nbytes, f"{rows} copies of the state", "pass fewer rows at a time"
        )
        features = np.broadcast_to(features, (rows, *features.shape[1:]))
        initial = np.repeat(initial, rows, axis=0)
    preparation = None
    if chosen is not None and initial is not None and engine.prepares and "states" not in names:
        preparation = Preparation.of(chosen, initial, circuit.n_qubits)
    if isinstance(chosen, GateEncoding) and preparation is None:
        assert initial is not None
        turns = chosen.angles(initial, circuit.n_qubits)
        circuit = chosen.before(circuit, initial.shape[1])
        columns = np.concatenate([columns, turns], axis=1) if n_inputs else turns
    run = _Run(
        engine,
        circuit,
        Batch(
            rows=rows,
            parameters=angles,
            inputs=columns,
            states=None if isinstance(chosen, GateEncoding | Basis) else initial,
            normalize=isinstance(chosen, Amplitude) and chosen.normalize,
            indices=initial if isinstance(chosen, Basis) else None,
            preparation=preparation,
            precision=precision,
            recheck=recheck,
            prune=prune,
            norm_tolerance=0.0 if initial is None else encodings.norm_tolerance(initial),
        ),
        observables,
        single,
        chosen,
        features,
        n_inputs,
        library,
        with_rows,
        single_row,
    )
    if isinstance(engine, ReferenceBackend):
        run.require_memory(3 * rows * run.state_bytes, "the work on the states of all rows")
    else:
        planner.require_memory(
            run.circuit,
            observables,
            rows=rows,
            method=method,
            precision=precision,
            encoding=chosen if preparation or not isinstance(chosen, GateEncoding) else None,
            prune=prune,
        )
    return run


def _prepare_on_device(
    circuit: Circuit,
    parameters: Any,
    states: Any,
    inputs: Any,
    encoding: Encoding | None,
    engine: DeviceBackend,
    target: Target,
    precision: str | None,
    observables: tuple[Observable, ...],
    single: bool,
    prune: bool,
    names: Sequence[Argument] = (),
) -> _Run:
    """Check the arguments of a verb whose results stay on the GPU; NumPy ones are copied there."""
    angles = _angles_on_device(
        [] if parameters is None else parameters, circuit.n_parameters, "parameters", "P", target
    )
    _require_inputs(inputs, circuit)
    columns = None
    if inputs is not None:
        columns = _angles_on_device(inputs, circuit.n_inputs, "inputs", "F", target)
    features, has_rows = None, False
    if states is not None:
        features, has_rows = _states_on_device(states, encoding, circuit.n_qubits, target)
    elif encoding is not None:
        _refuse_no_features(encoding)
    rows, with_rows, single_row = _count_rows(angles, columns, features, has_rows)
    n_inputs = circuit.n_inputs
    by_gates = encoding if isinstance(encoding, GateEncoding) else None
    fused = (
        isinstance(encoding, ProductEncoding | PhaseEncoding)
        and engine.prepares
        and "states" not in names
    )
    if by_gates is not None and not fused:
        circuit = by_gates.before(circuit, cast(Array, features).shape[1])
    batch = Batch(
        rows=rows,
        parameters=angles,
        inputs=columns,
        states=None if isinstance(encoding, GateEncoding | Basis) else features,
        normalize=isinstance(encoding, Amplitude) and encoding.normalize,
        indices=features if isinstance(encoding, Basis) else None,
        precision=_precision(precision, None if encoding is not None else features),
        prune=prune,
        norm_tolerance=0.0 if features is None else encodings.norm_tolerance(features),
        target=target,
        encoding=by_gates,
        features=None if by_gates is None else features,
        n_own_inputs=n_inputs,
        fused=fused,
    )
    return _Run(
        engine, circuit, batch, observables, single, encoding, features, n_inputs,
        Library(target.name, target.from_numpy), with_rows, single_row, target,
    )  # fmt: skip


def _angles_on_device(value: Any, count: int, name: str, letter: str, target: Target) -> Array:
    """Check all of parameters or inputs but the values, which nobody looks at on a GPU."""
    if not device_arrays.on_device(value):
        return _known(target.upload(_angles(value, count, name, letter)))
    array = _known(target.real(value, name))
    _require_angle_shape(array, count, name, letter)
    return array


def _states_on_device(
    states: Any, encoding: Encoding | None, n_qubits: int, target: Target
) -> tuple[Array, bool]:
    """Check all of states or features but the values; with a rows axis, and whether they had it.

    NumPy ones are checked in full and copied.
    """
    if not device_arrays.on_device(states):
        array, has_rows = _checked_states(states, encoding, n_qubits)
        return _known(target.upload(array)), has_rows
    name = "states" if encoding is None else f"{encoding.name} encoding"
    if isinstance(encoding, Basis):
        array = _known(target.take(states, name, (np.int64,)))
        if array.ndim > 1:
            raise ValueError(
                f"{name}: expected indices (rows,) on the GPU, got shape {array.shape}; make them "
                "of the bit strings, qubit 0 the most significant"
            )
        return (array, True) if array.ndim else (array.reshape((1,)), False)
    if isinstance(encoding, GateEncoding):
        array = _known(target.real(states, name))
    else:
        array = _known(target.amplitudes(states, name))
    if encoding is None:
        _require_state_shape(array, name, n_qubits)
    elif array.ndim not in (1, 2):
        raise ValueError(
            f"{name}: expected features of shape (rows, features), got shape {array.shape}"
        )
    else:
        # As many columns in no rows meet all checks but those of values.
        encoding.validate(np.zeros((0, array.shape[-1]), array.dtype), n_qubits)
    return (array, True) if array.ndim == 2 else (array.reshape((1, *array.shape)), False)


def _checked_states(states: Any, encoding: Encoding | None, n_qubits: int) -> tuple[Array, bool]:
    """Check states or features on the host, as a run on a GPU takes them."""
    if encoding is None:
        array = _normalised_states(states, "states", n_qubits)
        return (array, True) if array.ndim == 2 else (array[None], False)
    rows, has_rows = encoding.as_rows(states)
    if isinstance(encoding, Amplitude):
        return encoding.in_safe_range(*encoding.validate_with_norms(rows, n_qubits)), has_rows
    return encoding.validate(rows, n_qubits), has_rows


def _encode_on_device(
    rows: Any,
    encoding: Encoding,
    n_qubits: int | None,
    out: Any,
    precision: str | None,
    bit_order: str,
    backend: BackendName | Backend,
    place: Place,
) -> Any:
    engine, target = _device_backend(backend, place)
    if device_arrays.on_device(rows):
        rows = target.take(rows, f"{encoding.name} encoding", (*arrays.NATIVE_DTYPES, np.int64))
    if n_qubits is None and isinstance(rows, DeviceArray):
        # As many columns in no rows; indices of basis states have none.
        no_rows = np.zeros((0, *rows.shape[-1:])[: 1 if isinstance(encoding, Basis) else 2])
        n_qubits = encoding.fewest_qubits(no_rows)
    elif n_qubits is None:
        n_qubits = encoding.fewest_qubits(encoding.as_rows(rows)[0])
    n_qubits = operator.index(n_qubits)
    encodings.require_qubit_count(n_qubits)
    filled = None
    if out is not None:
        filled = _known(target.take(out, "out", (np.complex128, np.complex64), writable=True))
        given = _precision(None, filled)
        if precision not in (None, given):
            raise ValueError(f"precision: expected {given!r}, that of out, got {precision!r}")
        precision = given
    circuit = Circuit(n_qubits)
    if bit_order == "little":
        mirrored = [gates.SWAP([q, n_qubits - 1 - q]) for q in range(n_qubits // 2)]
        circuit = Circuit(n_qubits, mirrored)
    run = _prepare_on_device(
        circuit, None, rows, None, encoding, engine, target, _precision(precision, None),
        (), False, False,
    )  # fmt: skip
    if filled is None:
        return run.finish(engine.state(run.circuit, run.batch))
    full = (run.batch.rows, 2**n_qubits)
    expected = run.shape(full, has_observables=False)
    if filled.shape != expected:
        raise ValueError(f"out: expected shape {expected}, got {filled.shape}")
    engine.fill_states(run.circuit, run.batch, filled.reshape(full))
    return out


def _fidelity_on_device(
    states_a: Any, states_b: Any, backend: BackendName | Backend, place: Place
) -> Any:
    engine, target = _device_backend(backend, place)
    both = [
        _known(
            target.amplitudes(states, name)
            if device_arrays.on_device(states)
            else target.upload(_normalised_states(states, name, None))
        )
        for name, states in (("states_a", states_a), ("states_b", states_b))
        if states is not None
    ]
    left, right = both[0], both[-1]
    _require_pairs(left, right)
    if arrays.requires_gradient(states_a, states_b):
        from qdp.adapters import torch as autograd

        return autograd.fidelity_kernel(states_a, states_b)
    tolerance = max(encodings.norm_tolerance(left), encodings.norm_tolerance(right))
    return target.hand_out(_on_device(engine.overlaps(left, right, target, tolerance)))


def _known(array: DeviceArray) -> Array:
    """Call an array on the GPU what a batch calls all its arrays; its backend tells them apart."""
    return cast(Array, array)


def _on_device(array: Array) -> DeviceArray:
    """The other way: a result of a backend that was given a target."""
    return cast(DeviceArray, array)


def _differentiate(
    circuit: Circuit,
    parameters: Any,
    states: Any,
    observable: Observables | None,
    inputs: Any,
    encoding: str | Encoding | None,
    method: str,
    names: Sequence[Argument],
    options: gradients.Options,
    backend: BackendName | Backend,
    precision: Precision | None,
    prune: bool,
) -> tuple[_Run, gradients.Derivatives]:
    if method not in gradients.METHODS:
        raise ValueError(f"method: expected one of {', '.join(gradients.METHODS)}, got {method!r}")
    run = _prepare(
        circuit, parameters, states, inputs, encoding, backend, precision, observable, prune,
        cast(planner.Method, method), names,
        on_host=method == "spsa" or options.shots is not None or options.keep_shifted,
    )  # fmt: skip
    run.require_derivatives(names, len(run.observables))
    return run, gradients.METHODS[method](run.task(names), options)


def _observables(
    observable: Observables | None, circuit: Circuit
) -> tuple[tuple[Observable, ...], bool]:
    """Return the observables, and whether a single one was given."""
    _require_circuit(circuit)
    single = isinstance(observable, Observable | str)
    given: Sequence[object]
    if isinstance(observable, Observable | str):
        given = (observable,)
    elif isinstance(observable, Sequence) and len(observable):
        given = observable
    else:
        raise TypeError(
            "observable: expected a qdp.Observable, its text such as 'Z0', or a sequence of them, "
            f"got {'none' if isinstance(observable, Sequence) else type(observable).__name__}"
        )
    found = tuple(_observable(one) for one in given)
    for one in found:
        if one.max_wire >= circuit.n_qubits:
            raise ValueError(
                f"observable: expected wires from 0 to {circuit.n_qubits - 1}, got wire "
                f"{one.max_wire} in {one}"
            )
    return found, single


def _observable(given: object) -> Observable:
    if isinstance(given, Observable):
        return given
    if isinstance(given, str):
        return _observable_from_text(given)
    raise TypeError(
        f"observable: expected a qdp.Observable or its text, got {type(given).__name__}"
    )


@functools.lru_cache(maxsize=256)
def _observable_from_text(text: str) -> Observable:
    return Observable(text)


def _without_identity(observable: Observable) -> Observable:
    constant = sum(
        term.coefficient
        for term in observable.components
        if isinstance(term, PauliTerm) and not term.paulis
    )
    return observable - constant * Observable("1.0 I") if constant else observable


@functools.lru_cache(maxsize=256)
def _squared(observable: Observable) -> Observable:
    return observable.squared()


def _device_backend(
    backend: BackendName | Backend | str, place: Place
) -> tuple[DeviceBackend, Target]:
    """Return the backend on the GPU that the arrays are on, and where results go."""
    name = f"cuda:{place.ordinal}"
    engine = _backend(name if backend in ("auto", "cuda") else backend)
    if not isinstance(engine, DeviceBackend):
        raise TypeError(
            f"backend {engine.name!r}: expected arrays in the CPU's memory, got one of "
            f"{place.library} on {name}; pass backend='auto' or 'cuda', or copy it to the host"
        )
    if engine.memory.ordinal != place.ordinal:
        raise ValueError(
            f"backend: expected arrays on cuda:{engine.memory.ordinal}, its GPU, got one of "
            f"{place.library} on {name}; pass backend={name!r}, or move it"
        )
    return engine, place.on(engine.memory)


@functools.cache
def _named_backend(name: str) -> Backend:
    if name == "reference":
        return ReferenceBackend()
    kind, _, ordinal = name.partition(":")
    if kind in ("cuda", "custatevec") and (ordinal.isdecimal() or name == kind):
        if kind == "custatevec":
            from qdp.backends.custatevec import CuStateVecBackend

            return CuStateVecBackend(int(ordinal or 0))
        from qdp.backends.cuda import CudaBackend

        return CudaBackend(int(ordinal or 0))
    if name not in ("auto", "cpu"):
        raise ValueError(
            "backend: expected 'auto', 'cpu', 'cuda', 'custatevec', 'cuda:1' (a GPU's number), "
            f"'reference' or a Backend, got {name!r}"
        )
    try:
        from qdp.backends.cpu import CpuBackend
    except ImportError as error:
        raise BackendUnavailable(
            f"backend {name!r} needs QDP's compiled extension, which can't be imported ({error}); "
            "install the package, or pass backend='reference'"
        ) from error
    return CpuBackend()


def _backend(backend: str | Backend) -> Backend:
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(f"backend: expected a name or a Backend, got {type(backend).__name__}")
    # One backend a GPU: what it keeps is there for both names.
    return _named_backend("cuda:0" if backend == "cuda" else backend)


def _precision(precision: str | None, states: Array | None) -> Precision:
    """The precision of results: as asked for, else that of encoded states, else double."""
    if precision is None:
        single = states is not None and states.dtype in (np.float32, np.complex64)
        return "single" if single else "double"
    if precision == "double":
        return "double"
    if precision == "single":
        return "single"
    raise ValueError(f"precision: expected 'double' or 'single', got {precision!r}")


def _require_inputs(inputs: Any, circuit: Circuit) -> None:
    if inputs is None and circuit.n_inputs:
        raise ValueError(
            f"inputs: expected an array of shape (rows, {circuit.n_inputs}), since the circuit "
            f"reads {circuit.n_inputs} features, got None"
        )


def _angles(value: Any, count: int, name: str, letter: str) -> Array:
    """Check parameters or inputs: (count,) or (rows, count), finite; returned as float64."""
    array = arrays.as_real(value, name)
    _require_angle_shape(array, count, name, letter)
    arrays.require_finite(array, name)
    return array


def _require_angle_shape(array: Array, count: int, name: str, letter: str) -> None:
    if array.ndim not in (1, 2) or array.shape[-1] != count:
        raise ValueError(
            f"{name}: expected {letter} = {count} of them, as the circuit has, in an array of "
            f"shape ({count},) or (rows, {count}), got shape {array.shape}"
        )


def _states(
    states: Any,
    encoding: Encoding | None,
    circuit: Circuit,
    engine: Backend,
    method: planner.Method,
) -> tuple[Array | None, Array | None, bool, Callable[[], object] | None]:
    """Check states or features.

    Returns them, and what of them the backend takes, with a rows axis, whether they came with
    one, and the check of their values if that was left to the backend.
    """
    n_qubits = circuit.n_qubits
    if states is None:
        if encoding is not None:
            _refuse_no_features(encoding)
        return None, None, False, None
    if encoding is None:
        array = _state_shaped(states, "states", n_qubits)
        rows = array if array.ndim == 2 else array[None]
        check: Callable[[], object] = functools.partial(_require_normalised, array, "states")
        if array.ndim == 1 or not _leaves_checks(engine, circuit, len(rows), method):
            check()
            return rows, rows, array.ndim == 2, None
        return rows, rows, array.ndim == 2, check
    features, has_rows = encoding.as_rows(states)
    if isinstance(encoding, Amplitude):
        shaped = encoding.validate_for_fill(features, n_qubits)
        leaves = has_rows and _leaves_checks(engine, circuit, len(shaped), method)
        if encoding.normalize and leaves:
            check = functools.partial(encoding.validate, shaped, n_qubits)
            return shaped, shaped, has_rows, check
        features, norms = encoding.validate_with_norms(shaped, n_qubits)
        return features, _fused(encoding, features, norms, n_qubits), has_rows, None
    features = encoding.validate(features, n_qubits)
    return features, features, has_rows, None


def _refuse_no_features(encoding: Encoding) -> None:
    raise ValueError(f"states: expected features for the encoding {encoding.name!r}, got None")


def _leaves_checks(engine: Backend, circuit: Circuit, rows: int, method: planner.Method) -> bool:
    """Whether looking at the rows' values is left to the run that loads them.

    That saves a pass over memory, an eighth of a gradient of a shallow circuit; but a bad row
    is then met only when its turn comes, so long runs look at all rows first, and so do methods
    of many evaluations.
    """
    if method not in ("expectation", "state", "adjoint"):
        return False
    work = rows * (1 + len(circuit.operations)) << circuit.n_qubits
    return engine.checks_rows and work <= _MOST_WORK_UNCHECKED


def _normalised_states(states: Any, name: str, n_qubits: int | None) -> Array:
    """Check states, (rows, 2**n) or (2**n,), of norm 1."""
    array = _state_shaped(states, name, n_qubits)
    _require_normalised(array, name)
    return array


def _state_shaped(states: Any, name: str, n_qubits: int | None) -> Array:
    """Check all of states but their values."""
    array = arrays.as_amplitudes(states, name)
    _require_state_shape(array, name, n_qubits)
    return array


def _require_state_shape(array: Array, name: str, n_qubits: int | None) -> None:
    size = array.shape[-1] if array.ndim else 0
    if array.ndim not in (1, 2) or (n_qubits is not None and size != 2**n_qubits):
        expected = (
            "(rows, 2**n)" if n_qubits is None else f"(rows, {2**n_qubits}) for {n_qubits} qubits"
        )
        raise ValueError(
            f"{name}: expected states of shape {expected}, got shape {array.shape}; pass "
            "encoding='amplitude' for raw features"
        )


def _require_pairs(left: Array, right: Array) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"states: expected two arrays of shape (rows, 2**n) with the same n, got shapes "
            f"{left.shape} and {right.shape}"
        )


def _require_normalised(array: Array, name: str) -> None:
    rows = array if array.ndim == 2 else array[None]
    norms = arrays.row_norms(rows, name)
    encodings.require_normalised(rows, norms, name, "encoding='amplitude', or divide by the norm")


def _count_rows(
    parameters: Array, inputs: Array | None, features: Array | None, features_have_rows: bool
) -> tuple[int, frozenset[str], bool]:
    """Return how many rows there are, who has a rows axis, and if the results have none."""
    counts: dict[str, int] = {}
    if parameters.ndim == 2:
        counts["parameters"] = len(parameters)
    if inputs is not None and inputs.ndim == 2:
        counts["inputs"] = len(inputs)
    if features is not None and features_have_rows:
        counts["states"] = len(features)
    if len(set(counts.values())) > 1:
        raise ValueError(
            "rows: expected as many in each argument that has them, got "
            + ", ".join(f"{count} in {name}" for name, count in counts.items())
        )
    if counts:
        return next(iter(counts.values())), frozenset(counts), False
    return 1, frozenset(), features is not None or inputs is not None


def _fused(encoding: Amplitude, features: Array, norms: Array, n_qubits: int) -> Array:
    """Features as the backend takes them: it pads and normalises, unless the rows are normal."""
    if encoding.normalize:
        return encoding.in_safe_range(features, norms)
    if features.shape[1] == 2**n_qubits:
        return features
    padded = np.zeros((len(features), 2**n_qubits), features.dtype)
    padded[:, : features.shape[1]] = features
    return padded


def _require_circuit(circuit: object) -> None:
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit: expected a qdp.Circuit, got {type(circuit).__name__}")


def _wires(wires: Sequence[int] | None, circuit: Circuit) -> tuple[int, ...]:
    _require_circuit(circuit)
    if wires is None:
        return tuple(range(circuit.n_qubits))
    read = tuple(operator.index(wire) for wire in wires)
    if len(set(read)) != len(read) or not read:
        raise ValueError(f"wires: expected at least one and none repeated, got {list(read)}")
    if not all(0 <= wire < circuit.n_qubits for wire in read):
        raise ValueError(
            f"wires: expected numbers from 0 to {circuit.n_qubits - 1}, got {list(read)}"
        )
    return read


def _wrt(wrt: Argument | tuple[Argument, ...]) -> tuple[tuple[Argument, ...], bool]:
    given: tuple[str, ...] = wrt if isinstance(wrt, tuple) else (wrt,)
    names = tuple("parameters" if name == "params" else name for name in given)
    if not names or len(set(names)) != len(names) or not set(names) <= set(_ARGUMENTS):
        raise ValueError(
            f"wrt: expected one of {', '.join(_ARGUMENTS)}, or a tuple of different ones, got "
            f"{wrt!r}"
        )
    return cast(tuple[Argument, ...], names), isinstance(wrt, tuple)


def _positive(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number


def _optional_positive(name: str, value: int | None) -> int | None:
    return None if value is None else _positive(name, value)


def _refuse_variance(encoding: Encoding) -> None:
    """Variances don't follow the chain rule: a feature in several angles mixes their estimates."""
    if isinstance(encoding, ProductPhases):
        raise ValueError(
            f"return_variance: expected an encoding without products of features for wrt='states', "
            f"got {encoding.name!r}; leave return_variance out"
        )


def _refuse_gradient(verb: str, *values: Any) -> None:
    if arrays.requires_gradient(*values):
        raise ValueError(
            f"{verb}: expected tensors that don't require gradients, since it is not "
            "differentiable, got one that does; pass tensor.detach(), or use torch.no_grad()"
        )
