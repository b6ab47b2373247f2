# SPDX-License-Identifier: Apache-2.0
"""The data sets by name: the package's own search in a user's folder, and rows cut to size.

Where files lie and how they are read is qdp.datasets'; unlike qdp.open, a set here is the splits
that are there, training rows first, and only as many of its parts are read as rows are wanted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.reduction import DatasetError, principal_components, reduce_features
from qdp import datasets
from qdp.datasets import DATA_DIR_VARIABLE

DATASETS = ("synthetic", "digits", "mnist", "mnist_full", "fashion_mnist", "cifar10")
# The names of qdp.open for the same sets.
ALIASES = {"fashion-mnist": "fashion_mnist", "cifar-10": "cifar10"}
_IDX_FILES = "t10k-images-idx3-ubyte and its labels (or .gz), likewise train"
# Title, the package's name, and what to put where, of each set of images.
_IMAGE_SETS = {
    "mnist": ("MNIST", "mnist", f"mnist/{_IDX_FILES}"),
    "mnist_full": ("MNIST", "mnist", f"mnist/{_IDX_FILES}"),
    "fashion_mnist": (
        "Fashion-MNIST",
        "fashion-mnist",
        f"fashion_mnist/{_IDX_FILES}, or Debian's package dataset-fashion-mnist",
    ),
    "cifar10": ("CIFAR-10", "cifar-10", "cifar10/test_batch.bin or cifar10/data_batch_1.bin"),
}
_CIFAR_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Dataset:
    """Rows to encode: features (rows, width) float64, labels (rows,) int64 or None.

    ``description`` says in words what the rows are and what was done to their features.
    """

    name: str
    features: NDArray[np.float64]
    labels: NDArray[np.int64] | None
    description: str


@dataclass(frozen=True)
class _Images:
    pixels: NDArray[np.uint8]  # (rows, height, width) or (rows, channels, height, width)
    labels: NDArray[np.uint8]
    source: str


def load(
    name: str,
    n_samples: int,
    n_qubits: int,
    *,
    data_dir: str | Path | None = None,
    reduce: str | None = None,
    seed: int = 42,
) -> Dataset:
    """Return the first ``n_samples`` rows of a data set with at most 2**n_qubits features.

    ``data_dir`` (or the variable QDP_DATA_DIR) holds the image files. ``reduce`` is "resize",
    "pca" (fitted on the rows returned) or "pad"; None pads what fits and resizes what does not.
    ``seed`` draws the synthetic rows. Raises DatasetError, a ValueError, for everything that is
    missing, damaged or too small.

    >>> load("synthetic", 3, 2).features.shape
    (3, 4)
    """
    if n_samples < 1:
        raise DatasetError(f"expected at least one sample, got {n_samples}")
    if name == "synthetic":
        rows = np.random.default_rng(seed).standard_normal((n_samples, 2**n_qubits))
        if reduce is not None:
            raise DatasetError(
                f"expected no --reduce for synthetic rows, which have 2**n features, got {reduce}"
            )
        return Dataset(name, rows, None, f"standard normal, seed {seed}, {2**n_qubits} features")
    if name == "digits":
        images = _digits()
    elif name in _IMAGE_SETS:
        try:
            images = _images(name, _data_dir(data_dir), n_samples)
        except (OSError, ValueError) as error:
            raise DatasetError(str(error)) from error
    else:
        raise DatasetError(f"expected --dataset to be one of {', '.join(DATASETS)}, got {name!r}")
    available = len(images.pixels)
    if n_samples > available:
        raise DatasetError(
            f"expected at most {available} samples of {name} ({images.source}), got {n_samples}; "
            f"take fewer (a script with --dataset-samples repeats those that it names)"
        )
    pixels = images.pixels[:n_samples]
    scale = 16.0 if name == "digits" else 255.0
    rows = pixels.reshape(n_samples, -1).astype(np.float64) / scale
    features, done = reduce_features(rows, pixels.shape[1:], n_qubits, reduce)
    return Dataset(
        name, features, images.labels[:n_samples].astype(np.int64), f"{images.source}, {done}"
    )


def features_for(
    source: str,
    n_samples: int,
    n_qubits: int,
    *,
    angles: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 42,
) -> tuple[NDArray[np.float64], str]:
    """Return the first rows of a data set or file as an encoding takes them, and words for them.

    ``source`` is a name of DATASETS or ALIASES, or the path of a file that qdp.open reads. With
    ``angles`` a row is n_qubits numbers, principal components where it had more; else at most
    2**n_qubits, images resized where they had more and other rows by their principal components.
    Raises DatasetError for what is missing, damaged or too small.

    >>> features_for("synthetic", 3, 4, angles=True)[0].shape
    (3, 4)
    """
    name = ALIASES.get(source, source)
    if name == "synthetic" and angles:
        rows = np.random.default_rng(seed).standard_normal((n_samples, n_qubits))
        return rows, f"standard normal, seed {seed}, {n_qubits} features"
    if name in DATASETS and not angles:
        dataset = load(name, n_samples, n_qubits, data_dir=data_dir, seed=seed)
        return dataset.features, dataset.description
    if name in DATASETS:
        # More qubits than any image has pixels: the rows as they are.
        dataset = load(name, n_samples, 16, data_dir=data_dir, seed=seed)
        rows, words = dataset.features, dataset.description.split(", ")[0]
    else:
        rows, words = _rows_of_file(source, n_samples)
    limit = n_qubits if angles else 2**n_qubits
    if rows.shape[1] > limit:
        words = f"{words}, PCA of {rows.shape[1]} features to {limit}"
        rows = principal_components(rows, min(limit, *rows.shape))
    if angles and rows.shape[1] < n_qubits:
        words = f"{words}, padded with {n_qubits - rows.shape[1]} zeros"
        rows = np.pad(rows, ((0, 0), (0, n_qubits - rows.shape[1])))
    return np.ascontiguousarray(rows), words


def _rows_of_file(source: str, n_samples: int) -> tuple[NDArray[np.float64], str]:
    import qdp

    path = Path(source)
    if not path.exists():
        names = ", ".join((*DATASETS, *ALIASES))
        raise DatasetError(
            f"expected --dataset to be one of {names}, or the path of a file, got {source!r}"
        )
    chunks = qdp.open(path, rows=slice(0, n_samples)).chunks(4096)
    parts = [np.asarray(chunk.features, dtype=np.float64) for chunk in chunks]
    found = sum(len(part) for part in parts)
    if found < n_samples:
        raise DatasetError(
            f"expected at most {found} samples of {path.name}, got {n_samples}; --dataset-samples "
            f"{found} repeats them"
        )
    return np.concatenate(parts), f"{path.name}, {parts[0].shape[1]} features"


def _data_dir(given: str | Path | None) -> Path | None:
    value = given if given is not None else os.environ.get(DATA_DIR_VARIABLE)
    if value is None or str(value) == "":
        return None
    directory = Path(value)
    if not directory.is_dir():
        raise DatasetError(f"expected a data directory, got {directory}, which is not one")
    return directory


def _digits() -> _Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetError(
            "the digits come with scikit-learn, which is not installed; install the extra "
            "[benchmark]"
        ) from error
    digits = load_digits()
    return _Images(
        digits.images.astype(np.uint8),
        digits.target.astype(np.uint8),
        f"scikit-learn digits, {len(digits.target)} images of 8 x 8",
    )


def _images(name: str, directory: Path | None, n_samples: int) -> _Images:
    """Read the parts of a set of images, training rows first, until there are enough rows."""
    title, known, files = _IMAGE_SETS[name]
    folders = [datasets.DEBIAN / known]
    if directory is not None:
        folders = [*(directory / folder for folder in datasets.IMAGE_SETS[known].folders), *folders]
    for folder in folders:
        found = {split: datasets.parts_of(known, folder, split) for split in datasets.SPLITS}
        there = [split for split in datasets.SPLITS if found[split]]
        if there:
            break
    else:
        where = (
            f"in {directory}"
            if directory
            else f"without --data-dir or the variable {DATA_DIR_VARIABLE}"
        )
        raise DatasetError(f"{title}: no files found {where}; expected {files}")
    if name == "mnist_full" and len(there) < len(datasets.SPLITS):
        raise DatasetError(
            f"mnist_full is the training and the test split together, 70,000 images, but only "
            f"the {there[0]} split is in {folder}; add the other one, or take --dataset mnist"
        )
    pixels: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    used: list[str] = []
    parts = [(split, part) for split in there for part in found[split]]
    for split, part in parts:
        images, numbers = datasets.read_part(part)
        pixels.append(images.reshape(-1, *_CIFAR_SHAPE) if known == "cifar-10" else images)
        labels.append(numbers)
        used.append(f"{split} split")
        if sum(map(len, pixels)) >= n_samples:
            break
    shapes = {images.shape[1:] for images in pixels}
    if len(shapes) > 1:
        raise DatasetError(f"{title}: expected splits of one image size, got {sorted(shapes)}")
    size = " x ".join(map(str, shapes.pop()))
    return _Images(
        np.concatenate(pixels),
        np.concatenate(labels),
        f"{title} {' and '.join(dict.fromkeys(used))}, images of {size}",
    )
