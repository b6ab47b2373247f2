# SPDX-License-Identifier: Apache-2.0
"""The data sets by name, and where in a user's folder their files are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.files import Bytes, DatasetError, read_cifar, read_idx_pair
from benchmark.datasets.reduction import principal_components, reduce_features

DATASETS = ("synthetic", "digits", "mnist", "mnist_full", "fashion_mnist", "cifar10")
# The names of qdp.open for the same sets.
ALIASES = {"fashion-mnist": "fashion_mnist", "cifar-10": "cifar10"}
DATA_DIR_VARIABLE = "QDP_DATA_DIR"

# Folders below the data directory, as downloaded by hand, by torchvision, or from Debian.
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST", "."),
    "fashion_mnist": (
        "fashion_mnist",
        "fashion-mnist",
        "FashionMNIST/raw",
        "usr/share/datasets/fashion-mnist",
        ".",
    ),
    "cifar10": ("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."),
}
# Debian's package dataset-fashion-mnist, where it is installed.
_SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IDX_SPLITS = {"train": "train", "test": "t10k"}
_CIFAR_SPLITS = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}


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
    elif name in ("mnist", "mnist_full"):
        images = _mnist(_data_dir(data_dir), full=name == "mnist_full", n_samples=n_samples)
    elif name == "fashion_mnist":
        images = _fashion_mnist(_data_dir(data_dir), n_samples)
    elif name == "cifar10":
        images = _cifar10(_data_dir(data_dir), n_samples)
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


def _existing(folder: Path, stem: str) -> Path | None:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    return None


def _idx_files(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Return images and labels of a split, None where neither is there."""
    prefix = _IDX_SPLITS[split]
    stems = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    images, labels = (_existing(folder, stem) for stem in stems)
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = stems[0] if images is None else stems[1]
        raise DatasetError(f"{folder}: expected {missing} (or .gz) beside its counterpart")
    return images, labels


def _idx_splits(folders: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    """Return the splits in the first folder that has any, training first."""
    for folder in folders:
        found = {split: _idx_files(folder, split) for split in _IDX_SPLITS}
        present = {split: files for split, files in found.items() if files is not None}
        if present:
            return present
    return {}


def _folders(directory: Path | None, name: str) -> list[Path]:
    return [] if directory is None else [directory / folder for folder in _FOLDERS[name]]


def _missing(title: str, directory: Path | None, files: str) -> DatasetError:
    where = (
        f"in {directory}"
        if directory
        else f"without --data-dir or the variable {DATA_DIR_VARIABLE}"
    )
    return DatasetError(f"{title}: no files found {where}; expected {files}")


def _read_idx_splits(title: str, splits: dict[str, tuple[Path, Path]], n_samples: int) -> _Images:
    """Read splits in order until there are enough rows."""
    pixels: list[Bytes] = []
    labels: list[Bytes] = []
    used: list[str] = []
    for split, files in splits.items():
        images, numbers = read_idx_pair(*files)
        pixels.append(images)
        labels.append(numbers)
        used.append(f"{split} split")
        if sum(map(len, pixels)) >= n_samples:
            break
    shapes = {images.shape[1:] for images in pixels}
    if len(shapes) > 1:
        raise DatasetError(f"{title}: expected splits of one image size, got {sorted(shapes)}")
    height, width = next(iter(shapes))
    return _Images(
        np.concatenate(pixels),
        np.concatenate(labels),
        f"{title} {' and '.join(used)}, images of {height} x {width}",
    )


def _mnist(directory: Path | None, *, full: bool, n_samples: int) -> _Images:
    splits = _idx_splits(_folders(directory, "mnist"))
    if not splits:
        raise _missing(
            "MNIST",
            directory,
            "mnist/t10k-images-idx3-ubyte and its labels (or .gz), likewise train",
        )
    if full and len(splits) < len(_IDX_SPLITS):
        there = next(iter(splits))
        raise DatasetError(
            f"mnist_full is the training and the test split together, 70,000 images, but only "
            f"the {there} split is in {splits[there][0].parent}; add the other one, or take "
            "--dataset mnist"
        )
    return _read_idx_splits("MNIST", splits, n_samples)


def _fashion_mnist(directory: Path | None, n_samples: int) -> _Images:
    splits = _idx_splits([*_folders(directory, "fashion_mnist"), _SYSTEM_FASHION_MNIST])
    if not splits:
        raise _missing(
            "Fashion-MNIST",
            directory,
            "fashion_mnist/t10k-images-idx3-ubyte and its labels (or .gz), likewise train, or "
            "Debian's package dataset-fashion-mnist",
        )
    return _read_idx_splits("Fashion-MNIST", splits, n_samples)


def _cifar10(directory: Path | None, n_samples: int) -> _Images:
    for folder in _folders(directory, "cifar10"):
        batches = [
            (split, path)
            for split, stems in _CIFAR_SPLITS.items()
            for stem in stems
            if (path := _existing(folder, stem)) is not None
        ]
        if batches:
            break
    else:
        raise _missing("CIFAR-10", directory, "cifar10/test_batch.bin or cifar10/data_batch_1.bin")
    pixels: list[Bytes] = []
    labels: list[Bytes] = []
    used: list[str] = []
    for split, path in batches:
        images, numbers = read_cifar(path)
        pixels.append(images)
        labels.append(numbers)
        if f"{split} split" not in used:
            used.append(f"{split} split")
        if sum(map(len, pixels)) >= n_samples:
            break
    return _Images(
        np.concatenate(pixels),
        np.concatenate(labels),
        f"CIFAR-10 {' and '.join(used)}, images of 3 x 32 x 32",
    )
