# SPDX-License-Identifier: Apache-2.0
"""Training one model end to end: the case, its data, its loss, and a contender's process.

The model: rows are encoded on n qubits, an ansatz of L layers (RY, RZ, ladder of CNOT) with P
angles follows, and the n expectations of Z go through a linear layer to one logit (two classes) or
ten (softmax). Adam, minibatches in one seeded order, double precision throughout; every contender
does the same arithmetic, so that losses agree epoch by epoch.

``python -m benchmark.core.training`` serves one contender as benchmark.core.service says: the case,
then {"do": "check"}, {"do": "train", "epochs": E, "budget_s": b}, {"do": "finish"}.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.core import environment, service, statistics
from benchmark.core.cases import ENCODINGS
from benchmark.core.metering import Meter, peak_bytes

Array = NDArray[np.float64]

TASKS = ("3-vs-5", "all")
SPLITS = ("train", "validation", "test")
CHECK_ROWS = 8
# Expectations and gradients of the first batch against the reference; losses by epoch.
CHECK_TOLERANCE = 1e-9
LOSS_TOLERANCE = 1e-6
EPOCH_PARTS = ("encoding", "forward", "backward", "optimiser")
CHECKED = ("states", "values", "loss", "gradient")


@dataclass(frozen=True)
class TrainingCase:
    """What is trained; ``classes`` is "3-vs-5" or "all" ten."""

    kind: ClassVar[str] = "training"

    encoding: str = "amplitude"
    classes: str = "3-vs-5"
    n_qubits: int = 6
    n_layers: int = 2
    batch_size: int = 32
    learning_rate: float = 0.05
    seed: int = 42
    threads: int = 1

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("encoding", self.encoding, ENCODINGS),
            ("classes", self.classes, TASKS),
        ):
            if value not in allowed:
                raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")

    @property
    def n_parameters(self) -> int:
        """The number of angles."""
        return 2 * self.n_qubits * self.n_layers

    @property
    def n_outputs(self) -> int:
        """The number of logits."""
        return 1 if self.classes == "3-vs-5" else 10

    def initial(self) -> dict[str, Array]:
        """Return angles (P,), weights (outputs, n) and bias (outputs,), drawn from the seed."""
        random = np.random.default_rng(self.seed)
        return {
            "angles": random.normal(scale=0.3, size=self.n_parameters),
            "weights": random.normal(scale=0.5, size=(self.n_outputs, self.n_qubits)),
            "bias": np.zeros(self.n_outputs),
        }

    def batches(self, rows: int, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows of each batch of an epoch, the last one maybe shorter."""
        order = np.random.default_rng([self.seed, epoch]).permutation(rows)
        return [order[start : start + self.batch_size] for start in range(0, rows, self.batch_size)]

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingCase:
        """Build the case that ``to_json`` wrote."""
        return cls(**{key: value for key, value in values.items() if key != "kind"})


def split_data(
    case: TrainingCase, rows: Array, labels: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return features and labels of train, validation and test (60, 20, 20 per cent of the rows).

    Of "3-vs-5" the rows of those two classes remain, labels 0 and 1. For angles and IQP, rows are
    projected on n principal components, standardised and brought to [-pi/2, pi/2], all fitted on
    the training rows alone. Raises ValueError where too few rows remain.
    """
    from qdp import preprocessing

    if case.classes == "3-vs-5":
        kept = np.isin(labels, (3, 5))
        rows, labels = rows[kept], (labels[kept] == 5).astype(np.int64)
    if len(rows) < 20:
        raise ValueError(
            f"expected at least 20 rows of the classes {case.classes}, got {len(rows)}; take more "
            "--dataset-samples"
        )
    order = np.random.default_rng(case.seed).permutation(len(rows))
    bounds = (0, int(0.6 * len(rows)), int(0.8 * len(rows)), len(rows))
    parts = {split: order[bounds[index] : bounds[index + 1]] for index, split in enumerate(SPLITS)}
    data: dict[str, NDArray[Any]] = {}
    if case.encoding == "amplitude":
        map_rows = lambda part: part  # noqa: E731
    else:
        train = rows[parts["train"]]
        steps = [
            # Pixels that never change have no spread to divide by; PCA centres all of them.
            preprocessing.PCA(case.n_qubits),
            preprocessing.Standardise(),
            preprocessing.MinMax(-np.pi / 2, np.pi / 2),
        ]
        fitted = preprocessing.Pipeline(steps).fit(train)
        map_rows = fitted.transform
    for split, part in parts.items():
        data[split] = np.ascontiguousarray(map_rows(rows[part]), dtype=np.float64)
        data[f"{split}_labels"] = labels[part]
    return data


class Trainer(ABC):
    """A contender: expectations of Z on every qubit, differentiable by torch in the angles."""

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    extra: ClassVar[str] = "benchmark"
    encoding_note: ClassVar[str] = "inside forward"

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Return the variables to set before anything is imported."""
        return environment.thread_environment(threads)

    def __init__(self, case: TrainingCase, data: Mapping[str, NDArray[Any]]) -> None:
        self.case = case
        self.data = data
        self.forget()

    @abstractmethod
    def prepare(self) -> None:
        """Import and build."""

    def forget(self) -> None:
        """Forget all rows encoded, as before the first training."""
        self.rows: dict[str, Any] = {}

    @abstractmethod
    def encode(self, split: str) -> None:
        """Make a split's rows ready once: encoded, where the contender does that beforehand."""

    @abstractmethod
    def states(self, rows: Array) -> NDArray[Any]:
        """Return the states that the contender makes of rows, to compare them; never timed."""

    @abstractmethod
    def expectations(self, split: str, rows: NDArray[np.int64], angles: Any) -> Any:
        """Return the (rows, n) expectations of a batch as a tensor."""

    def embedding_seconds(self, rows: NDArray[np.int64]) -> float | None:
        """Return the time of a batch's encoding alone, run apart; None where it is not inside."""
        return None


def loss_of(case: TrainingCase, logits: Any, labels: Any) -> Any:
    """Return the mean binary cross entropy of one logit, or the cross entropy of ten."""
    import torch

    functional = torch.nn.functional
    if case.n_outputs == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return functional.cross_entropy(logits, labels)


def accuracy_of(case: TrainingCase, logits: Any, labels: Any) -> float:
    """Return the share of rows whose class is right."""
    guess = (logits[:, 0] > 0).long() if case.n_outputs == 1 else logits.argmax(1)
    return float((guess == labels).double().mean())


class Served:
    """One contender and its model, trained on demand."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        from benchmark.core.contenders.training_paths import TRAINERS

        self.case = TrainingCase.from_json(request["case"])
        with np.load(request["features"]) as loaded:
            self.data = dict(loaded)
        self.kind = TRAINERS[request["contender"]]
        self.meter = Meter(index=request.get("gpu", 0))

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["do"]:
            case "check":
                return self.check()
            case "train":
                return self.train(command["epochs"], command["budget_s"])
            case "finish":
                return {"event": "finished"}
        raise ValueError(f"unknown command {command['do']!r}")

    def prepare(self) -> dict[str, Any]:
        """Import and build; answer ready or skipped."""
        start = time.perf_counter()
        try:
            import torch

            torch.set_num_threads(self.case.threads)
            self.torch = torch
            self.trainer = self.kind(self.case, self.data)
            self.trainer.prepare()
        except ImportError as error:
            reason = f"{error}; install the extra [{self.kind.extra}]"
            return {"event": "skipped", "reason": reason}
        self.labels = {
            split: torch.from_numpy(self.data[f"{split}_labels"].astype(np.int64))
            for split in SPLITS
        }
        return {
            "event": "ready",
            "setup_s": time.perf_counter() - start,
            "versions": environment.versions(self.kind.distributions),
        }

    def _model(self) -> dict[str, Any]:
        return {
            name: self.torch.tensor(value, dtype=self.torch.float64, requires_grad=True)
            for name, value in self.case.initial().items()
        }

    def _logits(self, model: Mapping[str, Any], values: Any) -> Any:
        return values @ model["weights"].T + model["bias"]

    def check(self) -> dict[str, Any]:
        """Return states, expectations, loss and gradient of the first rows, untrained."""
        rows = np.arange(min(CHECK_ROWS, len(self.data["train"])))
        self.trainer.encode("train")
        model = self._model()
        values = self.trainer.expectations("train", rows, model["angles"])
        loss = loss_of(self.case, self._logits(model, values), self.labels["train"][rows])
        loss.backward()
        states = self.trainer.states(self.data["train"][rows])
        return {
            "event": "checked",
            "states": [states.real.tolist(), states.imag.tolist()],
            "values": values.detach().tolist(),
            "loss": float(loss.detach()),
            "gradient": model["angles"].grad.tolist(),
        }

    def train(self, epochs: int, budget_s: float) -> dict[str, Any]:
        """Train from the initial parameters; stop behind the epoch that spends the budget."""
        torch, case = self.torch, self.case
        model = self._model()
        optimiser = torch.optim.Adam(model.values(), lr=case.learning_rate)
        self.trainer.forget()
        found = []
        spent = 0.0
        for epoch in range(epochs):
            times = dict.fromkeys(EPOCH_PARTS, 0.0)
            batches = case.batches(len(self.data["train"]), epoch)
            total_loss = 0.0
            with self.meter:
                start = time.perf_counter()
                if epoch == 0:
                    self.trainer.encode("train")
                    times["encoding"] = time.perf_counter() - start
                for rows in batches:
                    labels = self.labels["train"][torch.from_numpy(rows)]
                    begin = time.perf_counter()
                    optimiser.zero_grad()
                    values = self.trainer.expectations("train", rows, model["angles"])
                    loss = loss_of(case, self._logits(model, values), labels)
                    forward = time.perf_counter()
                    loss.backward()
                    backward = time.perf_counter()
                    optimiser.step()
                    end = time.perf_counter()
                    times["forward"] += forward - begin
                    times["backward"] += backward - forward
                    times["optimiser"] += end - backward
                    total_loss += float(loss.detach()) * len(rows)
                seconds = time.perf_counter() - start
            metered = self.meter.read()
            inside = self.trainer.embedding_seconds(batches[0])
            if inside is not None:
                share = min(inside * len(batches), times["forward"])
                times["encoding"] += share
                times["forward"] -= share
            spent += seconds
            validation_loss, accuracy = self._evaluate("validation", model)
            found.append(
                {
                    **{f"{name}_s": value for name, value in times.items()},
                    "seconds": seconds,
                    **{name: metered[name] for name in ("cpu_s", "gpu") if name in metered},
                    "train_loss": total_loss / len(self.data["train"]),
                    "validation_loss": validation_loss,
                    "validation_accuracy": accuracy,
                }
            )
            if spent > budget_s:
                break
        done = len(found) == epochs
        return {
            "event": "trained",
            "epochs": found,
            # The test rows are looked at once, when training is over.
            "test_accuracy": self._evaluate("test", model)[1] if done else None,
            "peak_memory_bytes": peak_bytes(),
        }

    def _evaluate(self, split: str, model: Mapping[str, Any]) -> tuple[float, float]:
        """Return loss and accuracy on a whole split."""
        self.trainer.encode(split)
        size = self.case.batch_size
        rows = np.arange(len(self.data[split]))
        with self.torch.no_grad():
            values = [
                self.trainer.expectations(split, rows[start : start + size], model["angles"])
                for start in range(0, len(rows), size)
            ]
            logits = self._logits(model, self.torch.cat(values))
            labels = self.labels[split]
            return float(loss_of(self.case, logits, labels)), accuracy_of(self.case, logits, labels)


def epoch_seconds(training: Mapping[str, Any]) -> list[float]:
    """Return the seconds of each epoch, with encoding that happens once spread over all of them."""
    epochs = training["epochs"]
    share = sum(epoch["encoding_s"] for epoch in epochs) / max(1, len(epochs))
    return [epoch["seconds"] - epoch["encoding_s"] + share for epoch in epochs]


def epoch_parts(trainings: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return an epoch's milliseconds: encoding (the mean), forward, backward, optimiser."""
    epochs = [epoch for one in trainings for epoch in one["epochs"]]
    medians = [
        1e3 * statistics.median([epoch[f"{part}_s"] for epoch in epochs])
        for part in EPOCH_PARTS[1:]
    ]
    return [1e3 * sum(epoch["encoding_s"] for epoch in epochs) / len(epochs), *medians]


def reference_check(case: TrainingCase, data: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what ``Served.check`` returns, by the reference backend and NumPy alone."""
    import qdp

    initial = case.initial()
    rows = data["train"][:CHECK_ROWS]
    labels = data["train_labels"][:CHECK_ROWS]
    circuit = qdp.ansatz.ry_rz_ladder(case.n_qubits, case.n_layers)
    observables = [f"Z{wire}" for wire in range(case.n_qubits)]
    options: dict[str, Any] = {"encoding": case.encoding, "backend": "reference"}
    values, jacobian = qdp.value_and_grad(circuit, initial["angles"], rows, observables, **options)
    logits = values @ initial["weights"].T + initial["bias"]
    if case.n_outputs == 1:
        flat = logits[:, 0]
        loss = float(np.mean(np.logaddexp(0, flat) - labels * flat))
        slope = (1 / (1 + np.exp(-flat)) - labels)[:, None] / len(rows)
    else:
        shifted = logits - logits.max(1, keepdims=True)
        share = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        picked = np.eye(case.n_outputs)[labels]
        loss = float(-np.mean(np.log((share * picked).sum(1))))
        slope = (share - picked) / len(rows)
    cotangents = slope @ initial["weights"]
    return {
        "states": qdp.encode(rows, case.encoding, case.n_qubits, backend="reference"),
        "values": values,
        "loss": loss,
        "gradient": np.einsum("ro,rop->p", cotangents, jacobian),
    }


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
    """Return how far a contender's check lies from the reference's: states, values, loss, gradient.

    Infinity for another shape, and for what is not a number.
    """
    real, imaginary = (np.array(part) for part in found["states"])
    mine = {**found, "states": real + 1j * imaginary}
    worst = {}
    for name in CHECKED:
        one, other = np.array(mine[name]), expected[name]
        same_shape = np.shape(one) == np.shape(other)
        difference = float(np.max(np.abs(one - other))) if same_shape else float("inf")
        worst[name] = difference if np.isfinite(difference) else float("inf")
    return worst


def check_problem(worst: Mapping[str, float]) -> str | None:
    """Return what ``differences`` says against a contender, or None.

    >>> check_problem({"states": 0.5, "values": 0.0, "loss": 0.0, "gradient": 1e-7})
    'its states, gradient of the first rows differ from the reference by 0.5, more than 1e-09'
    """
    wrong = [name for name, difference in worst.items() if not difference <= CHECK_TOLERANCE]
    if not wrong:
        return None
    return (
        f"its {', '.join(wrong)} of the first rows differ from the reference by "
        f"{max(worst.values()):.3g}, more than {CHECK_TOLERANCE:.0e}"
    )


if __name__ == "__main__":
    raise SystemExit(service.main(Served))
