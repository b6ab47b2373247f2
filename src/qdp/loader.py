# SPDX-License-Identifier: Apache-2.0
"""``Loader``: batches of features or encoded states with labels and the numbers of their rows.

Order depends on seed, epoch and worker alone, so an interrupted epoch resumes exactly. Reading and
encoding may run ahead in one thread. No circuit is run here.
"""

from __future__ import annotations

import itertools
import operator
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qdp import encodings, engine, opening
from qdp.arrays import Array
from qdp.sources import Source

T = TypeVar("T")

_END = object()
# How long a thread that runs ahead waits before it looks whether anyone still listens, seconds.
_POLL_SECONDS = 0.05
# Features, labels and row numbers.
_Part = tuple[Array, Array | None, Array]


@dataclass(frozen=True)
class Batch:
    """Rows of one batch: ``features`` (k, F) or ``states`` (k, 2**n_qubits), the other is None.

    ``labels`` (k,) or None; ``rows`` (k,) int64, the rows' numbers in the source.
    """

    features: Array | None
    states: Array | None
    labels: Array | None
    rows: Array


class Loader:
    """Iterate over a source in batches, shuffled or in order, for one or more epochs.

    ``source`` is anything that ``qdp.open`` takes, or a source. ``encoding`` None gives features,
    for a fused run; otherwise states on ``n_qubits``. ``shuffle`` permutes all rows where random
    access is cheap; a stream is read shard by shard in random order through a buffer of
    ``buffer_rows``. ``epochs`` are those of one iteration (None: without end); each later one,
    also of a later iteration, has its own order. ``prefetch`` batches are made ahead in a thread
    (0: none). ``shard`` (index, count) keeps one worker's part, disjoint from the others'.

    Raises:
        ValueError: an option out of its range; what reading or encoding refuses, when iterated.

    >>> loader = Loader(np.arange(6.0).reshape(3, 2) + 1, batch_size=2, encoding="amplitude")
    >>> [batch.states.shape for batch in loader]
    [(2, 2), (1, 2)]
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int,
        encoding: str | encodings.Encoding | None = None,
        n_qubits: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        epochs: int | None = 1,
        prefetch: int = 2,
        precision: str | None = None,
        shard: tuple[int, int] = (0, 1),
        buffer_rows: int = 8192,
    ) -> None:
        self.source = source if isinstance(source, Source) else opening.open(source)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("prefetch", prefetch, 0),
            ("buffer_rows", buffer_rows, 1),
            ("epochs", 1 if epochs is None else epochs, 1),
            ("seed", seed, 0),
        ):
            if operator.index(value) < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if len(shard) != 2 or not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard: expected (index, count) with 0 <= index < count, got {shard}")
        if precision not in (None, "single", "double"):
            raise ValueError(f"precision: expected 'single' or 'double', got {precision!r}")
        self.encoding = None if encoding is None else encodings.from_name(encoding)
        if self.encoding is None and n_qubits is not None:
            raise ValueError("n_qubits: expected with an encoding, got encoding=None")
        if isinstance(self.encoding, encodings.Basis) and n_qubits is None:
            raise ValueError("n_qubits: expected a number with the basis encoding, got None")
        self.batch_size, self.n_qubits, self.precision = batch_size, n_qubits, precision
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epochs, self.prefetch, self.shard = epochs, prefetch, tuple(shard)
        self.buffer_rows = buffer_rows
        # The place of the next batch: epochs before it, batches in its epoch, epochs of the pass.
        self._epoch, self._batch, self._pass_epoch = 0, 0, 0
        self._resume = False
        self._fingerprint: str | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next ``epochs`` epochs, or from where a loaded state stands."""
        if self._resume:
            self._resume = False
        else:
            if self._batch or self._pass_epoch:
                self._epoch += 1
            self._batch, self._pass_epoch = 0, 0
        while self.epochs is None or self._pass_epoch < self.epochs:
            batches = self._batches(self._epoch, self._batch)
            for batch in run_ahead(batches, self.prefetch) if self.prefetch else batches:
                self._batch += 1
                yield batch
            if self.epochs is None and self._batch == 0:
                raise ValueError(
                    "epochs: expected a number where an epoch has no batch, got None; give more "
                    "rows, a smaller batch_size, or drop_last=False"
                )
            self._batch = 0
            self._epoch += 1
            self._pass_epoch += 1
        self._pass_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the next batch, and what the order depends on, as plain values."""
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "pass_epoch": self._pass_epoch,
            **self._order(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved place; raises ValueError if the order would be another one."""
        for name, value in self._order().items():
            if state.get(name) != value:
                raise ValueError(
                    f"state: expected {name} {value!r}, that of this loader, got "
                    f"{state.get(name)!r}; make the loader with the options it was saved with"
                )
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._pass_epoch = int(state["pass_epoch"])
        self._resume = True

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration begin with this epoch's order."""
        self._epoch, self._batch, self._pass_epoch = epoch, 0, 0

    def as_torch(self) -> Any:
        """Return a ``torch.utils.data.IterableDataset`` of dictionaries of tensors.

        Give it to a DataLoader with ``batch_size=None``. Each of its workers reads its own part.
        """
        from qdp.adapters.torch_dataset import TorchDataset

        return TorchDataset(self)

    def for_worker(self, index: int, count: int) -> Loader:
        """Return a loader of the part of this one's rows that worker ``index`` of ``count`` has.

        Raises:
            ValueError: within an epoch, since each worker cuts its rows into other batches.
        """
        if self._batch:
            raise ValueError(
                f"loader: expected to share out a whole epoch among workers, got batch "
                f"{self._batch} of one; finish it with num_workers=0, or call set_epoch"
            )
        loader = Loader(
            self.source,
            batch_size=self.batch_size,
            encoding=self.encoding,
            n_qubits=self.n_qubits,
            shuffle=self.shuffle,
            seed=self.seed,
            drop_last=self.drop_last,
            epochs=self.epochs,
            prefetch=self.prefetch,
            precision=self.precision,
            # Every count-th row of those that this shard has, so that shards stay disjoint
            # whatever the number of workers of each.
            shard=(self.shard[0] + self.shard[1] * index, self.shard[1] * count),
            buffer_rows=self.buffer_rows,
        )
        loader.set_epoch(self._epoch)
        return loader

    def _order(self) -> dict[str, Any]:
        # Kept, since for an array all of its content is hashed.
        if self._fingerprint is None:
            self._fingerprint = self.source.fingerprint()
        return {
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "shard": list(self.shard),
            "buffer_rows": self.buffer_rows,
            "source": self._fingerprint,
        }

    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield the encoded batches of an epoch from number ``skip`` on."""
        random = np.random.default_rng([self.seed, epoch, *self.shard])
        rows = (
            self._taken(epoch, skip)
            if self.source.random_access
            else (self._streamed(epoch, random, skip))
        )
        for features, labels, numbers in rows:
            if len(numbers) == self.batch_size or not self.drop_last:
                yield self._finished(features, labels, numbers)

    def _taken(self, epoch: int, skip: int) -> Iterator[_Part]:
        index, count = self.shard
        order = np.arange(len(self.source))
        if self.shuffle:
            # One order for all workers, of which each has every count-th row.
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        order = order[index::count]
        for start in range(skip * self.batch_size, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            chunk = self.source.take(numbers)
            yield chunk.features, chunk.labels, numbers

    def _streamed(self, epoch: int, random: np.random.Generator, skip: int) -> Iterator[_Part]:
        """Cut the stream into batches; those skipped are read, to find the place, not encoded."""
        size, number = self.batch_size, 0
        reserve = max(self.buffer_rows, size) if self.shuffle else size
        waiting: list[_Part] = []
        for part in itertools.chain(self._read(epoch), [None]):
            waiting += [] if part is None else [part]
            n_waiting = sum(len(numbers) for _, _, numbers in waiting)
            if n_waiting == 0 or (part is not None and n_waiting < reserve):
                continue
            pool = _together(waiting)
            if self.shuffle:
                pool = _chosen(pool, random.permutation(n_waiting))
            end = n_waiting if part is None else n_waiting - n_waiting % size
            for start in range(0, end, size):
                if number >= skip:
                    yield _chosen(pool, slice(start, min(start + size, end)))
                number += 1
            waiting = [_chosen(pool, slice(end, None))]

    def _read(self, epoch: int) -> Iterator[_Part]:
        """Yield this worker's rows: whole shards where there are enough of them, else every nth."""
        index, count = self.shard
        shards = self.source.shards()
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(shards))
            shards = [shards[place] for place in order]
        by_shards = len(shards) >= count
        for start, stop in shards[index::count] if by_shards else shards:
            for chunk in self.source.chunks(self.batch_size, start=start, stop=stop):
                numbers = np.arange(chunk.start, chunk.start + len(chunk.features))
                kept = slice(None) if by_shards else numbers % count == index
                labels = None if chunk.labels is None else chunk.labels[kept]
                yield chunk.features[kept], labels, numbers[kept]

    def _finished(self, features: Array, labels: Array | None, numbers: Array) -> Batch:
        if self.encoding is None:
            if self.precision is not None:
                kind = "c" if features.dtype.kind == "c" else "f"
                size = (8 if kind == "f" else 16) // (2 if self.precision == "single" else 1)
                features = features.astype(f"{kind}{size}", copy=False)
            return Batch(features, None, labels, numbers)
        precision: Any = self.precision
        states = engine.encode(features, self.encoding, self.n_qubits, precision=precision)
        return Batch(None, states, labels, numbers)


def _together(parts: list[_Part]) -> _Part:
    features, labels, numbers = zip(*parts, strict=True)
    joined = None if labels[0] is None else np.concatenate(labels)
    return np.concatenate(features), joined, np.concatenate(numbers)


def _chosen(part: _Part, rows: Any) -> _Part:
    features, labels, numbers = part
    return features[rows], None if labels is None else labels[rows], numbers[rows]


def run_ahead(batches: Iterator[T], depth: int) -> Iterator[T]:
    """Yield what a thread takes from ``batches``, up to ``depth`` ahead; its errors are raised."""
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="qdp-loader", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
