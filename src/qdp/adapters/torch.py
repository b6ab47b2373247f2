# SPDX-License-Identifier: Apache-2.0
"""torch autograd over the verbs: values forward, ``vjp`` backward.

Imported by the engine once a tensor requires a gradient, never with ``import qdp``. The backward
pass runs the adjoint method, which can't be differentiated again: that raises RuntimeError,
instead of leaving out a term without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from qdp import encodings, engine

_NAMES: tuple[engine.Argument, ...] = ("parameters", "states", "inputs")


class _Values(torch.autograd.Function):
    """Expectation values, or what is linear in them, of (parameters, states, inputs)."""

    @staticmethod
    def forward(
        ctx: Any,
        forward: Callable[..., torch.Tensor],
        backward: Callable[..., tuple[Any, ...]],
        *arguments: Any,
    ) -> torch.Tensor:
        ctx.backward_verb = backward
        # Saving tensors lets torch notice that one was changed in place before backward.
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.constants = [None if isinstance(value, torch.Tensor) else value for value in arguments]
        ctx.are_tensors = [isinstance(value, torch.Tensor) for value in arguments]
        return forward(*arguments)

    @staticmethod
    def backward(ctx: Any, cotangents: torch.Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [
            next(saved) if is_tensor else constant
            for is_tensor, constant in zip(ctx.are_tensors, ctx.constants, strict=True)
        ]
        needed = ctx.needs_input_grad[2:]
        names = tuple(name for name, need in zip(_NAMES, needed, strict=True) if need)
        with torch.no_grad():
            found = iter(ctx.backward_verb(*arguments, cotangents, names))
            gradients = [
                next(found).to(argument.dtype) if need else None
                for argument, need in zip(arguments, needed, strict=True)
            ]
        if torch.is_grad_enabled():  # the caller asked for create_graph
            sources = (cotangents, *ctx.saved_tensors)
            gradients = [
                None if gradient is None else _NotAgain.apply(gradient, *sources)  # type: ignore[no-untyped-call]
                for gradient in gradients
            ]
        return None, None, *gradients


class _NotAgain(torch.autograd.Function):
    """A gradient that stays tied to what it came from, only to refuse a second derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        raise RuntimeError(
            "qdp: expected one derivative of an expectation value, got a second; detach the "
            "first, or difference gradients numerically"
        )


def expectation(
    circuit: Any, parameters: Any, states: Any, observable: Any, *, inputs: Any, **options: Any
) -> torch.Tensor:
    """Return ``engine.expectation`` as a tensor that autograd can differentiate, once.

    With respect to ``parameters``, ``states`` (raw features under an encoding) and ``inputs``.

    >>> import qdp
    >>> circuit = qdp.Circuit(1, [qdp.gates.RX(qdp.parameter(0), 0)])
    >>> angle = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    >>> qdp.expectation(circuit, angle, None, "Z0", backend="reference").requires_grad
    True
    """

    def forward(parameters: Any, states: Any, inputs: Any) -> Any:
        return engine.expectation(circuit, parameters, states, observable, inputs=inputs, **options)

    return _apply(circuit, parameters, states, observable, inputs, options, forward)


def probabilities(
    circuit: Any,
    parameters: Any,
    states: Any,
    projectors: Any,
    *,
    inputs: Any,
    wires: Any,
    **options: Any,
) -> torch.Tensor:
    """Return ``engine.probabilities`` as a tensor that autograd can differentiate, once.

    ``projectors`` are those on the outcomes of ``wires``: their expectation values are the same
    numbers, and have the derivatives.
    """

    def forward(parameters: Any, states: Any, inputs: Any) -> Any:
        return engine.probabilities(
            circuit, parameters, states, inputs=inputs, wires=wires, **options
        )

    return _apply(circuit, parameters, states, projectors, inputs, options, forward)


def fidelity_kernel(states_a: Any, states_b: Any) -> torch.Tensor:
    """Return the squared overlaps of checked states by torch's own operations."""
    left = torch.as_tensor(states_a)
    right = left if states_b is None else torch.as_tensor(states_b)
    dtype = torch.promote_types(left.dtype, right.dtype)
    overlaps = left.to(dtype).conj() @ right.to(dtype).T
    kernel = overlaps.abs().square()
    if left.device.type == "cpu":
        return kernel
    # Nobody has looked at the values on a GPU: rows that are not normalised become NaN.
    usable = _is_normalised(left)[:, None] & _is_normalised(right)
    return torch.where(usable, kernel, torch.nan)


def _is_normalised(states: torch.Tensor) -> torch.Tensor:
    single = states.dtype in (torch.float32, torch.complex64)
    tolerance = encodings.norm_tolerance(np.zeros(0, np.float32 if single else np.float64))
    return torch.lt((torch.linalg.vector_norm(states.detach(), dim=1) - 1).abs(), tolerance)


def _apply(
    circuit: Any,
    parameters: Any,
    states: Any,
    observable: Any,
    inputs: Any,
    options: dict[str, Any],
    forward: Callable[..., torch.Tensor],
) -> torch.Tensor:
    if options["encoding"] is not None and isinstance(states, torch.Tensor):
        encoding = encodings.from_name(options["encoding"])
        if states.requires_grad and isinstance(encoding, encodings.Basis):
            raise ValueError(
                "states: expected features that don't require gradients, since basis encoding has "
                "no derivative, got a tensor that does; pass tensor.detach()"
            )

    def backward(
        parameters: Any, states: Any, inputs: Any, cotangents: torch.Tensor, names: Any
    ) -> Any:
        return engine.vjp(
            circuit,
            parameters,
            states,
            observable,
            cotangents.contiguous(),
            inputs=inputs,
            wrt=names,
            **options,
        )

    values: torch.Tensor = _Values.apply(  # type: ignore[no-untyped-call]
        forward, backward, parameters, states, inputs
    )
    return values
