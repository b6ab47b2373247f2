# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: where they are looked for on this machine, and how they are checked.

Nothing is downloaded unless asked for. Pixels stay 0 to 255, uint8. Sets with one split only
(digits, iris, wine, breast_cancer) come with scikit-learn.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qdp.arrays import Array
from qdp.readers import images
from qdp.readers.files import File, optional_module

DATA_DIR_VARIABLE = "QDP_DATA_DIR"
DEBIAN = Path("/usr/share/datasets")
SPLITS = ("train", "test")
_IDX_PREFIXES = {"train": "train", "test": "t10k"}
_CIFAR_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_BUNDLED = ("digits", "iris", "wine", "breast_cancer")


@dataclass(frozen=True)
class ImageSet:
    """Where an image set lies below a data folder, and what it is called elsewhere.

    ``folders`` are those below a data folder in which its files may lie, as they come by hand, by
    torchvision or from an archive; the data folder itself is the last one.
    """

    folders: tuple[str, ...]
    torchvision: str
    openml: str
    hugging_face: str
    keras: str
    sizes: tuple[int, int]  # rows of the training and of the test split
    n_features: int


IMAGE_SETS = {
    "mnist": ImageSet(
        ("mnist", "MNIST/raw", "MNIST", "."),
        "MNIST/raw",
        "mnist_784",
        "ylecun/mnist",
        "mnist.npz",
        (60_000, 10_000),
        784,
    ),
    "fashion-mnist": ImageSet(
        (
            "fashion-mnist",
            "fashion_mnist",
            "FashionMNIST/raw",
            "usr/share/datasets/fashion-mnist",
            ".",
        ),
        "FashionMNIST/raw",
        "Fashion-MNIST",
        "zalando-datasets/fashion_mnist",
        "fashion-mnist",
        (60_000, 10_000),
        784,
    ),
    "cifar-10": ImageSet(
        (
            "cifar-10",
            "cifar10",
            "cifar-10-batches-bin",
            "cifar-10-batches-py",
            "cifar10/cifar-10-batches-bin",
            "cifar10/cifar-10-batches-py",
            ".",
        ),
        "cifar-10-batches-py",
        "CIFAR_10",
        "uoft-cs/cifar10",
        "cifar-10-batches-py",
        (50_000, 10_000),
        3072,
    ),
}
NAMES = (*IMAGE_SETS, *_BUNDLED)


def load(name: str, split: str | None = None, *, download: bool = False) -> tuple[Array, Array]:
    """Return features (rows, F) and labels (rows,) of a named set.

    ``split`` is "train" (the default) or "test" for image sets, and None for the others.
    ``download`` lets scikit-learn fetch an image set that is not found.

    Raises:
        ValueError: an unknown name or split, or files that are damaged.
        FileNotFoundError: found nowhere; the message names the places and the files expected.
        ImportError: scikit-learn is needed and not installed.

    >>> load("nothing")
    Traceback (most recent call last):
        ...
    ValueError: name: expected one of ('mnist', ..., 'breast_cancer'), got 'nothing'
    """
    if name in _BUNDLED:
        if split is not None:
            raise ValueError(f"split: expected None for {name}, which has no splits, got {split!r}")
        data = getattr(optional_module("sklearn.datasets", "sklearn"), f"load_{name}")()
        return np.asarray(data.data), np.asarray(data.target)
    if name not in IMAGE_SETS:
        raise ValueError(f"name: expected one of {NAMES}, got {name!r}")
    split = "train" if split is None else split
    if split not in SPLITS:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    places = list(_folders(name))
    for folder in places:
        parts = parts_of(name, folder, split)
        # Image sets are read whole: some batches of a split are not the split.
        if parts and len(parts) == (len(_CIFAR_BATCHES[split]) if name == "cifar-10" else 1):
            read = [read_part(part) for part in parts]
            features = np.concatenate([pixels.reshape(len(pixels), -1) for pixels, _ in read])
            return features, np.concatenate([labels for _, labels in read])
    if IMAGE_SETS[name].keras.endswith(".npz"):
        keras = _keras_folder() / IMAGE_SETS[name].keras
        places.append(keras)
        if keras.is_file():
            with np.load(keras, allow_pickle=False) as stored:
                return stored[f"x_{split}"].reshape(-1, 784), stored[f"y_{split}"]
    for folder in _hugging_face_folders(name):
        places.append(folder)
        found = _hugging_face(folder, split)
        if found is not None:
            return found
    if download:
        return _download(name, split)
    raise FileNotFoundError(
        f"{name}: expected {_expected(name, split)} in one of "
        f"{', '.join(map(str, places))}; put the file "
        f"into a folder {name} below the one that {DATA_DIR_VARIABLE} names, or pass download=True"
    )


def _folders(name: str) -> Iterator[Path]:
    """Yield the folders to look into, the user's own first."""
    known = IMAGE_SETS[name]
    given = os.environ.get(DATA_DIR_VARIABLE)
    if given:
        if not Path(given).is_dir():
            raise FileNotFoundError(f"{DATA_DIR_VARIABLE}: expected a folder, got {given}")
        yield from (Path(given) / folder for folder in known.folders)
    for root in (Path("data"), Path.home() / ".cache" / "torchvision", Path.home() / "data"):
        yield root / known.torchvision
    yield DEBIAN / name
    if not known.keras.endswith(".npz"):
        yield _keras_folder() / known.keras


def _keras_folder() -> Path:
    given = os.environ.get("KERAS_HOME")
    return (Path(given) if given else Path.home() / ".keras") / "datasets"


def _hugging_face_folders(name: str) -> tuple[Path, Path]:
    """Return the set's folder in the cache of the hub and in that of the library datasets."""
    given = os.environ.get("HF_HOME")
    home = Path(given) if given else Path.home() / ".cache" / "huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    repository = IMAGE_SETS[name].hugging_face
    return (
        hub / f"datasets--{repository.replace('/', '--')}" / "snapshots",
        prepared / repository.replace("/", "___"),
    )


def _hugging_face(folder: Path, split: str) -> tuple[Array, Array] | None:
    """Read Parquet or Arrow files of PNG images; of several revisions the newest."""
    files = [
        *folder.rglob(f"{split}-*.parquet"),
        *folder.rglob(f"*-{split}.arrow"),
        *folder.rglob(f"*-{split}-*.arrow"),
    ]
    if not files:
        return None
    newest = max(files, key=lambda path: path.stat().st_mtime_ns).parent
    shards = sorted(path for path in files if path.parent == newest)
    count = shards[0].stem.rpartition("-of-")[2] if "-of-" in shards[0].stem else "1"
    if not count.isdigit() or int(count) != len(shards):
        raise ValueError(f"{newest}: expected {count} files of {split}, got {len(shards)}")
    image = optional_module("PIL.Image", "data")
    pixels, labels = [], []
    for shard in shards:
        table = _hugging_face_table(shard)
        column = "image" if "image" in table.column_names else "img"
        if not {column, "label"} <= set(table.column_names):
            raise ValueError(
                f"{shard}: expected columns image or img, and label, got {table.column_names}"
            )
        for row, value in enumerate(table[column]):
            try:
                decoded = np.asarray(image.open(io.BytesIO(value["bytes"].as_py())))
            except Exception as error:  # a damaged image may raise anything
                raise ValueError(f"{shard}: row {row} holds no readable image") from error
            # Colours as three planes, as CIFAR's own files have them.
            pixels.append((decoded.transpose(2, 0, 1) if decoded.ndim == 3 else decoded).ravel())
        labels.append(table["label"].to_numpy())
    return np.stack(pixels), np.concatenate(labels)


def _hugging_face_table(shard: Path) -> Any:
    arrow = optional_module("pyarrow", "arrow")
    try:
        if shard.suffix == ".parquet":
            return optional_module("pyarrow.parquet", "arrow").read_table(shard)
        with arrow.memory_map(str(shard)) as content:
            return optional_module("pyarrow.ipc", "arrow").open_stream(content).read_all()
    except (arrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{shard}: truncated or damaged ({error})") from error


def parts_of(name: str, folder: Path, split: str) -> list[tuple[File, ...]]:
    """Return the parts of a split of an image set that lie in a folder, each for ``read_part``.

    A part is images with their labels (IDX), or one batch (CIFAR). Nothing is read yet.

    Raises:
        FileNotFoundError: images without labels, or labels without images.

    >>> parts_of("mnist", Path("no/such/folder"), "train")
    []
    """
    if name == "cifar-10":
        batches = [_existing(folder, (f"{stem}.bin", stem)) for stem in _CIFAR_BATCHES[split]]
        return [(batch,) for batch in batches if batch is not None]
    prefix = _IDX_PREFIXES[split]
    stems = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    pixels, labels = (_existing(folder, (stem, stem.replace("-idx", ".idx"))) for stem in stems)
    if pixels is None and labels is None:
        return []
    if pixels is None or labels is None:
        missing = stems[0] if pixels is None else stems[1]
        raise FileNotFoundError(f"{folder}: expected {missing} (or .gz) beside its counterpart")
    return [(pixels, labels)]


def read_part(part: tuple[File, ...]) -> tuple[Array, Array]:
    """Return pixels, (rows, height, width) or CIFAR's (rows, 3072), and labels (rows,) of a part.

    Raises:
        ValueError: damaged files, or another number of labels than of images.
    """
    if len(part) == 1:
        return images.read_cifar(part[0])
    pixels, labels = images.read_idx(part[0], 3), images.read_idx(part[1], 1)
    if len(pixels) != len(labels):
        raise ValueError(
            f"expected as many labels as images, got {len(pixels)} images in {part[0].path} and "
            f"{len(labels)} labels in {part[1].path}"
        )
    return pixels, labels


def _existing(folder: Path, stems: tuple[str, ...]) -> File | None:
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.is_file():
                return File.find(path)
    return None


def _expected(name: str, split: str) -> str:
    if name == "cifar-10":
        return " and ".join(f"{stem}(.bin)" for stem in _CIFAR_BATCHES[split])
    prefix = _IDX_PREFIXES[split]
    return f"{prefix}-images-idx3-ubyte(.gz) and {prefix}-labels-idx1-ubyte(.gz)"


def _download(name: str, split: str) -> tuple[Array, Array]:
    """Fetch through scikit-learn's OpenML loader, which verifies the md5 that OpenML publishes."""
    known = IMAGE_SETS[name]
    fetch: Any = optional_module("sklearn.datasets", "sklearn").fetch_openml
    data = fetch(known.openml, version=1, as_frame=False, parser="liac-arff")
    features, labels = np.asarray(data.data), np.asarray(data.target).astype(np.int64)
    if features.shape != (sum(known.sizes), known.n_features) or labels.max() != 9:
        raise ValueError(
            f"{name}: expected {sum(known.sizes)} rows of {known.n_features} pixels in 10 classes, "
            f"got shape {features.shape} from OpenML"
        )
    part = slice(0, known.sizes[0]) if split == "train" else slice(known.sizes[0], None)
    return features[part].astype(np.uint8), labels[part]
