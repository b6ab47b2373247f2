# SPDX-License-Identifier: Apache-2.0
"""PennyLane-Lightning: as QNodes on CPU and GPU, and its C++ adjoint method without QNode overhead.

The GPU's device is used as its documentation has it (PennyLane-Lightning, "Lightning GPU device"):
it takes states from the host and keeps one state, so rows go through it one by one.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.cases import GradientCase
from benchmark.core.contenders.base import (
    EncodedOnce,
    EncodedOnceInProcesses,
    Gradients,
    Task,
)
from benchmark.core.contenders.gpu import OnGpu
from benchmark.core.contenders.pennylane_paths import apply_layers, pennylane_observable
from benchmark.core.device import loaded_libraries


class _LightningNode(EncodedOnce):
    """One QNode, differentiated row by row; the rows are encoded once."""

    distributions = ("pennylane", "pennylane-lightning", "numpy")
    device_name = "lightning.qubit"
    diff_method = ""

    def prepare(self) -> None:
        """Build the device, the QNode and its gradient function."""
        import pennylane as qml
        from pennylane import numpy as pnp

        case = self.case
        self.allocate_states(case.complex_dtype)
        device = qml.device(self.device_name, wires=case.n_qubits, c_dtype=case.complex_dtype)
        observable = pennylane_observable(case.terms)

        def circuit(state: Any, parameters: Any) -> Any:
            qml.StatePrep(state, wires=range(case.n_qubits), validate_norm=False)
            apply_layers(case.n_qubits, case.n_layers, parameters)
            return qml.expval(observable)

        node = qml.QNode(circuit, device, interface="autograd", diff_method=self.diff_method)
        self.gradient = qml.grad(node, argnums=1)
        self.parameters = pnp.array(case.parameters, requires_grad=True)
        self.run(min(1, len(self.features)))

    def circuits(self, rows: int) -> Gradients:
        """Differentiate row by row."""
        gradients = np.empty((rows, self.case.n_parameters))
        for row in range(rows):
            gradients[row] = self.gradient(self.states[row], self.parameters)
        return gradients


class LightningAdjoint(_LightningNode):
    """lightning.qubit's adjoint differentiation through a QNode."""

    name = "lightning-adjoint"
    title = "Lightning, adjoint"
    description = "lightning.qubit QNode a row, diff_method adjoint"
    rule = "adjoint"
    diff_method = "adjoint"


class LightningShift(_LightningNode):
    """lightning.qubit's parameter-shift differentiation through a QNode."""

    name = "lightning-shift"
    title = "Lightning, parameter-shift"
    description = "lightning.qubit QNode a row, diff_method parameter-shift"
    rule = "parameter-shift"
    diff_method = "parameter-shift"


class _LightningGpu(OnGpu):
    """The same QNode on lightning.gpu; the record names the libraries that it found."""

    device_name = "lightning.gpu"
    documentation = "PennyLane-Lightning, Lightning GPU device"
    region = (
        "from raw float64 rows on the host, from where lightning.gpu takes its states, to float64 "
        "gradients on the host; CUDA events, the device synchronised before and after each"
    )
    distributions: ClassVar[tuple[str, ...]] = (
        "pennylane-lightning-gpu",
        "pennylane-lightning",
        "pennylane",
        "custatevec-cu12",
        "custatevec-cu13",
        "numpy",
    )

    @classmethod
    def library_problem(cls) -> str | None:
        """Raise ImportError where the package is missing."""
        try:
            metadata.version(cls.distributions[0])
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"{error} is not installed") from error
        return None

    def details(self) -> dict[str, str]:
        """Name CUDA's libraries in use, and say so where they are not those it was built for."""
        return {**super().details(), **library_details(loaded_libraries())}


def library_details(libraries: list[str]) -> dict[str, str]:
    """Return the record's facts on the libraries that lightning.gpu, a CUDA 12 build, runs on.

    >>> library_details(["libcublas.so.12"])
    {'libraries': 'libcublas.so.12'}
    """
    found = {"libraries": ", ".join(libraries)}
    if any(name.startswith("libcublas.so.13") for name in libraries):
        found["substituted"] = (
            "built for CUDA 12, run on CUDA 13's libraries, cuBLAS through a shim that forwards "
            "its calls"
        )
    return found


class LightningGpuAdjoint(_LightningGpu, LightningAdjoint):
    """lightning.gpu's adjoint differentiation through a QNode."""

    name = "lightning-gpu-adjoint"
    title = "Lightning GPU, adjoint"
    description = "lightning.gpu QNode a row, diff_method adjoint"


class LightningGpuShift(_LightningGpu, LightningShift):
    """lightning.gpu's parameter-shift differentiation through a QNode."""

    name = "lightning-gpu-shift"
    title = "Lightning GPU, parameter-shift"
    description = "lightning.gpu QNode a row, diff_method parameter-shift"


def lightning_task(case: GradientCase, states: NDArray[Any]) -> Task:
    """Serialize the tape once; the task loads a state, applies the gates and calls the adjoint."""
    import pennylane as qml
    from pennylane_lightning.lightning_qubit._adjoint_jacobian import LightningAdjointJacobian
    from pennylane_lightning.lightning_qubit._state_vector import LightningStateVector

    with qml.queuing.AnnotatedQueue() as queue:
        apply_layers(case.n_qubits, case.n_layers, list(case.parameters))
        qml.expval(pennylane_observable(case.terms))
    tape = qml.tape.QuantumScript.from_queue(queue)
    tape.trainable_params = list(range(case.n_parameters))
    holder = LightningStateVector(case.n_qubits, dtype=case.complex_dtype)
    adjoint = LightningAdjointJacobian(holder)
    prepared = adjoint._process_jacobian_tape(tape)
    jacobian = adjoint._jacobian_lightning
    arguments = (prepared["obs_serialized"], prepared["ops_serialized"], prepared["tp_shift"])
    state = holder.state_vector
    gates = [
        (getattr(state, operation.name), list(operation.wires), operation.parameters)
        for operation in tape.operations
    ]

    def task(start: int, stop: int) -> Gradients:
        gradients = np.empty((stop - start, case.n_parameters))
        for row in range(start, stop):
            state.updateData(states[row])
            for gate, wires, angles in gates:
                gate(wires, False, angles)
            gradients[row - start] = jacobian(state, *arguments)
        return gradients

    return task


class LightningCpp(EncodedOnceInProcesses):
    """Lightning's C++ on a tape serialized once: no QNode, rows spread over processes."""

    name = "lightning-cpp"
    title = "Lightning C++, prepared tape"
    description = "lightning.qubit's C++ adjoint on one serialized tape, a process a core"
    rule = "adjoint"
    distributions = ("pennylane", "pennylane-lightning", "numpy")
    extra = "rivals"
    make_task = lightning_task
