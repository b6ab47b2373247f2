# SPDX-License-Identifier: Apache-2.0
"""A ``Loader`` as a torch ``IterableDataset``; imported only by ``Loader.as_torch``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info


class TorchDataset(IterableDataset):  # type: ignore[misc,type-arg,unused-ignore]
    """Batches as dictionaries of tensors: features or states, rows, and labels where there are any.

    In a worker of a DataLoader it reads that worker's part. Workers start each epoch from a copy,
    so call ``set_epoch`` before each for its own order; a place within an epoch is known, saved and
    loaded with ``num_workers=0`` alone.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration begin with this epoch's order."""
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches; raises TypeError for labels that are not numbers."""
        worker = get_worker_info()
        loader = (
            self.loader if worker is None else self.loader.for_worker(worker.id, worker.num_workers)
        )
        for batch in loader:
            yield {
                # torch has no dtype of the other byte order.
                name: torch.tensor(values.astype(values.dtype.newbyteorder("="), copy=False))
                for name, values in vars(batch).items()
                if values is not None
            }
