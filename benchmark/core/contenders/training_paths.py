# SPDX-License-Identifier: Apache-2.0
"""Ways to train the model: PennyLane alone, PennyLane on QDP's states, QDP alone.

Each as its documentation has it: ``default.qubit`` with backpropagation through torch (PennyLane,
"PyTorch interface") and a broadcast batch ("Parameter broadcasting"); ``lightning.qubit`` with the
adjoint method ("Gradients and training"), a QNode call a row, since it has no batches and
PennyLane's expansion of IQPEmbedding is not right; QDP's verbs on torch tensors.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core.contenders.encoding_paths import template
from benchmark.core.contenders.pennylane_paths import apply_layers
from benchmark.core.training import Array, Trainer


class PennyLaneDefault(Trainer):
    """Backpropagation through a broadcast batch."""

    name = "pennylane-default"
    title = "PennyLane, default.qubit backprop"
    description = "embedding template, batch broadcast, backprop through torch"
    distributions: ClassVar[tuple[str, ...]] = ("pennylane", "torch", "numpy")
    encoding_note = "in forward; the embedding alone is timed apart"
    device = "default.qubit"
    diff_method = "backprop"

    def prepare(self) -> None:
        """Build the QNodes."""
        import pennylane as qml
        import torch

        case = self.case
        self.torch = torch
        # Lightning's results come in torch's default precision.
        torch.set_default_dtype(torch.float64)
        device = qml.device(self.device, wires=case.n_qubits)

        def circuit(rows: Any, angles: Any) -> Any:
            self.load(rows)
            apply_layers(case.n_qubits, case.n_layers, angles)
            return [qml.expval(qml.PauliZ(wire)) for wire in range(case.n_qubits)]

        def embedding(rows: Any) -> Any:
            self.load(rows)
            return qml.expval(qml.PauliZ(0))

        def state(rows: Any) -> Any:
            self.load(rows)
            return qml.state()

        self.node = qml.QNode(circuit, device, interface="torch", diff_method=self.diff_method)
        self.embedding = qml.QNode(embedding, device, interface="torch", diff_method=None)
        self.state_node = qml.QNode(state, device, interface="torch", diff_method=None)

    def load(self, rows: Any) -> None:
        """Apply the embedding."""
        template(self.case.encoding, rows, self.case.n_qubits)

    def encode(self, split: str) -> None:
        """Hand the rows to torch; PennyLane embeds them in each call."""
        if split not in self.rows:
            self.rows[split] = self.torch.from_numpy(self.data[split])

    def states(self, rows: Array) -> NDArray[Any]:
        """Return the embedding's states."""
        return np.asarray(self.state_node(self.torch.from_numpy(rows)))

    def expectations(self, split: str, rows: NDArray[np.int64], angles: Any) -> Any:
        """Run the batch."""
        found = self.node(self.rows[split][self.torch.from_numpy(rows)], angles)
        return self.torch.stack([value.reshape(len(rows)) for value in found], 1)

    def embedding_seconds(self, rows: NDArray[np.int64]) -> float:
        """Time a circuit of the embedding alone on the same batch."""
        start = time.perf_counter()
        self.embedding(self.rows["train"][self.torch.from_numpy(rows)])
        return time.perf_counter() - start


class PennyLaneLightning(PennyLaneDefault):
    """The adjoint method, a tape a row."""

    name = "pennylane-lightning"
    title = "PennyLane, lightning.qubit adjoint"
    description = "embedding template, adjoint differentiation, a QNode call a row"
    distributions: ClassVar[tuple[str, ...]] = (
        "pennylane",
        "pennylane-lightning",
        "torch",
        "numpy",
    )
    device = "lightning.qubit"
    diff_method = "adjoint"

    def states(self, rows: Array) -> NDArray[Any]:
        """Return the embedding's states row by row: this device returns no batches of them."""
        return np.stack([np.asarray(self.state_node(row)) for row in self.torch.from_numpy(rows)])

    def expectations(self, split: str, rows: NDArray[np.int64], angles: Any) -> Any:
        """Run row by row."""
        batch = self.rows[split][self.torch.from_numpy(rows)]
        found = [self.torch.stack(self.node(row, angles)) for row in batch]
        return self.torch.stack(found)

    def embedding_seconds(self, rows: NDArray[np.int64]) -> float:
        """Time circuits of the embedding alone on the same batch."""
        batch = self.rows["train"][self.torch.from_numpy(rows)]
        start = time.perf_counter()
        for row in batch:
            self.embedding(row)
        return time.perf_counter() - start


class PennyLaneQdp(PennyLaneDefault):
    """QDP encodes once, PennyLane prepares the states of a broadcast batch."""

    name = "pennylane-qdp"
    title = "PennyLane on QDP's states"
    description = "rows encoded once by QDP, StatePrep of the broadcast batch, backprop"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "pennylane", "torch", "numpy")
    encoding_note = "once, before the first epoch"

    def load(self, rows: Any) -> None:
        """Prepare given states."""
        import pennylane as qml

        qml.StatePrep(rows, wires=range(self.case.n_qubits), validate_norm=False)

    def encode(self, split: str) -> None:
        """Encode all rows of the split, once."""
        import qdp

        if split not in self.rows:
            states = qdp.encode(self.data[split], self.case.encoding, self.case.n_qubits)
            self.rows[split] = self.torch.from_numpy(np.asarray(states))

    def states(self, rows: Array) -> NDArray[Any]:
        """Return the states as PennyLane holds them."""
        import qdp

        encoded = np.asarray(qdp.encode(rows, self.case.encoding, self.case.n_qubits))
        return np.asarray(self.state_node(self.torch.from_numpy(encoded)))

    def embedding_seconds(self, rows: NDArray[np.int64]) -> None:  # type: ignore[override]
        """Encoding was timed by itself."""
        return


class Qdp(Trainer):
    """Raw features into every call: no state is ever stored."""

    name = "qdp"
    title = "QDP, fused encoding"
    description = "qdp.expectation of features under the encoding, torch autograd"
    distributions: ClassVar[tuple[str, ...]] = ("qdp", "torch", "numpy")
    encoding_note = "inside forward and backward"

    def prepare(self) -> None:
        """Build circuit and observables."""
        import torch

        import qdp

        case = self.case
        self.torch = torch
        self.circuit = qdp.ansatz.ry_rz_ladder(case.n_qubits, case.n_layers)
        self.observables = [qdp.Observable(f"Z{wire}") for wire in range(case.n_qubits)]
        self.options: dict[str, Any] = {"encoding": case.encoding}

    def encode(self, split: str) -> None:
        """Hand the rows to torch."""
        if split not in self.rows:
            self.rows[split] = self.torch.from_numpy(self.data[split])

    def states(self, rows: Array) -> NDArray[Any]:
        """Return the states that the encoding makes."""
        import qdp

        return np.asarray(qdp.encode(rows, self.case.encoding, self.case.n_qubits))

    def expectations(self, split: str, rows: NDArray[np.int64], angles: Any) -> Any:
        """Run the batch."""
        import qdp

        batch = self.rows[split][self.torch.from_numpy(rows)]
        return qdp.expectation(self.circuit, angles, batch, self.observables, **self.options)


class QdpCached(Qdp):
    """Every row encoded once, its state kept."""

    name = "qdp-cached"
    title = "QDP, states kept"
    description = "qdp.encode once, qdp.expectation of the states, torch autograd"
    encoding_note = "once, before the first epoch"

    def prepare(self) -> None:
        """Build circuit and observables."""
        super().prepare()
        self.options = {}

    def encode(self, split: str) -> None:
        """Encode all rows of the split, once."""
        import qdp

        if split not in self.rows:
            states = qdp.encode(self.data[split], self.case.encoding, self.case.n_qubits)
            self.rows[split] = self.torch.from_numpy(np.asarray(states))


TRAINERS: dict[str, type[Trainer]] = {
    trainer.name: trainer
    for trainer in (Qdp, QdpCached, PennyLaneQdp, PennyLaneDefault, PennyLaneLightning)
}
