# SPDX-License-Identifier: Apache-2.0
"""Data sets for the benchmarks: rows of real features, brought to at most 2**n of them.

``load`` and, for any encoding, ``features_for``: synthetic rows, scikit-learn's bundled digits, and
images in IDX or CIFAR binary files from a folder of the user's. Nothing is ever downloaded.
"""

from benchmark.datasets.catalog import ALIASES, DATASETS, Dataset, features_for, load
from benchmark.datasets.reduction import REDUCTIONS, DatasetError

__all__ = [
    "ALIASES",
    "DATASETS",
    "REDUCTIONS",
    "Dataset",
    "DatasetError",
    "features_for",
    "load",
]
