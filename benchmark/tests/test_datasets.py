# SPDX-License-Identifier: Apache-2.0
"""Data sets on small files written here in the IDX and CIFAR formats."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.datasets import DATASETS, DatasetError, load
from benchmark.datasets.reduction import principal_components, resize, resized_shape

Bytes = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _no_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDP_DATA_DIR", raising=False)


def idx_bytes(array: Bytes) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_split(
    folder: Path, prefix: str, rows: int, *, seed: int, packed: bool, size: int = 28
) -> tuple[Bytes, Bytes]:
    """Write images and labels of one split; return them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    images = generator.integers(1, 256, size=(rows, size, size), dtype=np.uint8)
    labels = generator.integers(0, 10, size=rows, dtype=np.uint8)
    for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        name = f"{prefix}-{stem}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return images, labels


def write_cifar(path: Path, rows: int, seed: int) -> tuple[Bytes, Bytes]:
    generator = np.random.default_rng(seed)
    images = generator.integers(1, 256, size=(rows, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, size=rows, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.concatenate([labels[:, None], images.reshape(rows, -1)], axis=1).tobytes())
    return images, labels


def test_synthetic_is_seeded() -> None:
    first, again = load("synthetic", 5, 3, seed=1), load("synthetic", 5, 3, seed=1)
    assert first.features.shape == (5, 8)
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.features, load("synthetic", 5, 3, seed=2).features)
    # More rows only add to fewer, so sizes of one run share their rows.
    np.testing.assert_array_equal(load("synthetic", 9, 3, seed=1).features[:5], first.features)
    assert first.labels is None


def test_digits_are_padded_or_resized() -> None:
    pytest.importorskip("sklearn")
    wide = load("digits", 1797, 10)
    assert wide.features.shape == (1797, 64)
    assert wide.features.max() == 1.0
    assert wide.labels is not None
    assert wide.labels[:10].tolist() == list(range(10))
    assert "64 features, zero-padded to 1024" in wide.description
    narrow = load("digits", 10, 4)
    assert narrow.features.shape == (10, 16)
    assert "resized from 8 x 8 to 4 x 4, 16 features" in narrow.description
    blocks = wide.features[:10].reshape(10, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(10, 16)
    np.testing.assert_allclose(narrow.features, blocks, atol=1e-15)
    with pytest.raises(DatasetError, match="at most 1797 samples of digits"):
        load("digits", 1798, 10)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_mnist_layouts(tmp_path: Path, folder: str, packed: bool) -> None:
    images, labels = write_split(tmp_path / folder, "t10k", 7, seed=1, packed=packed)
    found = load("mnist", 7, 10, data_dir=tmp_path)
    np.testing.assert_array_equal(found.features, images.reshape(7, -1) / 255.0)
    assert found.labels is not None
    assert found.labels.tolist() == labels.tolist()
    assert found.features.dtype == np.float64
    assert "MNIST test split" in found.description
    assert "784 features, zero-padded to 1024" in found.description


def test_data_directory_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path / "mnist", "t10k", 3, seed=1, packed=True)
    monkeypatch.setenv("QDP_DATA_DIR", str(tmp_path))
    assert load("mnist", 3, 10).features.shape == (3, 784)


def test_mnist_takes_the_training_split_first(tmp_path: Path) -> None:
    train, _ = write_split(tmp_path / "mnist", "train", 4, seed=1, packed=True)
    test, _ = write_split(tmp_path / "mnist", "t10k", 3, seed=2, packed=True)
    few = load("mnist", 4, 10, data_dir=tmp_path)
    assert "MNIST train split," in few.description
    np.testing.assert_array_equal(few.features, train.reshape(4, -1) / 255.0)
    for name in ("mnist", "mnist_full"):
        every = load(name, 7, 10, data_dir=tmp_path)
        assert "train split and test split" in every.description
        np.testing.assert_array_equal(every.features[4:], test.reshape(3, -1) / 255.0)


def test_mnist_full_needs_both_splits(tmp_path: Path) -> None:
    write_split(tmp_path / "mnist", "t10k", 3, seed=1, packed=True)
    with pytest.raises(DatasetError, match=r"only the test split is in .*mnist.*--dataset mnist"):
        load("mnist_full", 3, 10, data_dir=tmp_path)


@pytest.mark.parametrize(
    "folder", ["fashion_mnist", "FashionMNIST/raw", "usr/share/datasets/fashion-mnist"]
)
def test_fashion_mnist_layouts(tmp_path: Path, folder: str) -> None:
    images, _ = write_split(tmp_path / folder, "train", 3, seed=4, packed=True)
    found = load("fashion_mnist", 3, 10, data_dir=tmp_path)
    np.testing.assert_array_equal(found.features, images.reshape(3, -1) / 255.0)
    assert "Fashion-MNIST train split" in found.description


def test_cifar10_batches_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    test, test_labels = write_cifar(folder / "test_batch.bin", 2, seed=1)
    first, _ = write_cifar(folder / "data_batch_1.bin", 3, seed=2)
    found = load("cifar10", 5, 12, data_dir=tmp_path)
    np.testing.assert_array_equal(found.features[:3], first.reshape(3, -1) / 255.0)
    np.testing.assert_array_equal(found.features[3:], test.reshape(2, -1) / 255.0)
    assert found.labels is not None
    assert found.labels[3:].tolist() == test_labels.tolist()
    assert "train split and test split" in found.description
    assert "3072 features, zero-padded to 4096" in found.description
    smaller = load("cifar10", 5, 10, data_dir=tmp_path)
    assert smaller.features.shape == (5, 3 * 18 * 18)
    assert "resized from 3 x 32 x 32 to 3 x 18 x 18" in smaller.description


def test_wrong_magic_number(tmp_path: Path) -> None:
    write_split(tmp_path / "mnist", "t10k", 5, seed=1, packed=False)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\x00\x00\x0d\x03" + bytes(12))
    with pytest.raises(DatasetError, match=r"magic number 00000803 .* got 00000d03"):
        load("mnist", 5, 10, data_dir=tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match="got an empty file"):
        load("mnist", 5, 10, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("keep", "words"), [(8, "truncated in its header"), (-5, "truncated"), (None, "too long")]
)
def test_idx_of_the_wrong_length(tmp_path: Path, keep: int | None, words: str) -> None:
    images, _ = write_split(tmp_path / "mnist", "t10k", 2, seed=1, packed=False)
    content = idx_bytes(images)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(content + b"x" if keep is None else content[:keep])
    with pytest.raises(DatasetError, match=words):
        load("mnist", 2, 10, data_dir=tmp_path)


def test_truncated_gzip(tmp_path: Path) -> None:
    write_split(tmp_path / "mnist", "t10k", 5, seed=1, packed=True)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"t10k-images-idx3-ubyte\.gz: .*truncated"):
        load("mnist", 5, 10, data_dir=tmp_path)


def test_labels_that_do_not_match(tmp_path: Path) -> None:
    write_split(tmp_path / "mnist", "t10k", 5, seed=1, packed=False)
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(DatasetError, match=r"5 images .* 4 labels"):
        load("mnist", 4, 10, data_dir=tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match="expected t10k-labels-idx1-ubyte"):
        load("mnist", 4, 10, data_dir=tmp_path)


def test_cifar_that_is_truncated_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "test_batch.bin"
    write_cifar(path, 2, seed=1)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DatasetError, match="whole number of CIFAR-10 records"):
        load("cifar10", 2, 12, data_dir=tmp_path)
    path.write_bytes(content[:3073] + b"\xff" + content[3074:])
    with pytest.raises(DatasetError, match="got 255 in record 1"):
        load("cifar10", 2, 12, data_dir=tmp_path)


def test_no_more_batches_are_read_than_rows_are_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    first, _ = write_cifar(folder / "data_batch_1.bin", 3, seed=2)
    (folder / "data_batch_2.bin").write_bytes(b"damaged")
    found = load("cifar10", 3, 12, data_dir=tmp_path)
    np.testing.assert_array_equal(found.features, first.reshape(3, -1) / 255.0)
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin: expected a whole number"):
        load("cifar10", 4, 12, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "mnist_full", "cifar10"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=f"no files found in {tmp_path}"):
        load(name, 1, 10, data_dir=tmp_path)
    with pytest.raises(DatasetError, match="without --data-dir or the variable QDP_DATA_DIR"):
        load(name, 1, 10)
    with pytest.raises(DatasetError, match="expected a data directory"):
        load(name, 1, 10, data_dir=tmp_path / "absent")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DatasetError, match="synthetic, digits, mnist"):
        load("imagenet", 1, 2)
    with pytest.raises(DatasetError, match="no --reduce for synthetic"):
        load("synthetic", 1, 2, reduce="pca")
    with pytest.raises(DatasetError, match="at least one sample"):
        load("synthetic", 0, 2)
    assert DATASETS == ("synthetic", "digits", "mnist", "mnist_full", "fashion_mnist", "cifar10")


def test_pad_refuses_what_does_not_fit(tmp_path: Path) -> None:
    write_split(tmp_path / "mnist", "t10k", 2, seed=1, packed=False)
    with pytest.raises(DatasetError, match=r"at most 512 features to pad .* at least 10 qubits"):
        load("mnist", 2, 9, data_dir=tmp_path, reduce="pad")
    assert load("mnist", 2, 10, data_dir=tmp_path, reduce="pad").features.shape == (2, 784)


def test_resize_keeps_averages_and_constants() -> None:
    images = np.random.default_rng(0).random((3, 28, 28))
    smaller = resize(images, 11, 11)
    np.testing.assert_allclose(smaller.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-14)
    np.testing.assert_allclose(resize(np.full((1, 7, 5), 0.25), 3, 2), 0.25, atol=1e-15)
    np.testing.assert_allclose(resize(images, 28, 28), images, atol=1e-15)


@pytest.mark.parametrize("limit", [1, 2, 8, 32, 45, 256, 512, 784, 5000])
def test_resized_shape_fits(limit: int) -> None:
    height, width = resized_shape(28, 28, limit)
    assert 1 <= height <= 28
    assert 1 <= width <= 28
    assert height * width <= limit


def test_principal_components_are_uncorrelated_and_ordered() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6)) @ np.diag([9, 7, 5, 3, 2, 1.0])
    found = principal_components(rows, 4)
    covariance = np.cov(found.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    assert np.all(np.diff(np.diag(covariance)) < 0)
    # The same squared distances as the exact projection keeps.
    full = principal_components(rows, 6)
    np.testing.assert_allclose(
        np.linalg.norm(full[0] - full[1]), np.linalg.norm(rows[0] - rows[1]), rtol=1e-12
    )


def test_pca_beyond_the_rank_raises(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 20))
    assert principal_components(rows, 4).shape == (5, 4)
    with pytest.raises(DatasetError, match=r"at most 4 principal components, the rank .* got 5"):
        principal_components(rows, 5)
    write_split(tmp_path / "mnist", "t10k", 20, seed=1, packed=False)
    reduced = load("mnist", 20, 4, data_dir=tmp_path, reduce="pca")
    assert reduced.features.shape == (20, 16)
    assert "PCA of 784 features to 16" in reduced.description
    with pytest.raises(DatasetError, match="the rank of these 20 centred rows"):
        load("mnist", 20, 5, data_dir=tmp_path, reduce="pca")
