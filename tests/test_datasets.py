# SPDX-License-Identifier: Apache-2.0
"""Named data sets: found in every layout, checked, and never fetched unless asked."""

import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
from PIL import Image

import qdp
from qdp import datasets

PIXELS = np.random.default_rng(4).integers(0, 256, (6, 784), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No set of the machine itself is found."""
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QDP_DATA_DIR", str(tmp_path))
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "KERAS_HOME"):
        monkeypatch.delenv(variable, raising=False)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_mnist(folder, prefix="t10k", packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in (
        ("images-idx3", PIXELS.reshape(6, 28, 28)),
        ("labels-idx1", LABELS),
    ):
        content = idx(array)
        path = folder / f"{prefix}-{stem}-ubyte"
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)


def check(source, pixels=PIXELS):
    (chunk,) = source.chunks(100)
    np.testing.assert_array_equal(chunk.features, pixels)
    np.testing.assert_array_equal(chunk.labels, LABELS[: len(pixels)])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("mnist", "home/data/MNIST/raw"),
        ("fashion-mnist", "fashion_mnist"),
        ("fashion-mnist", "debian/fashion-mnist"),
    ],
)
def test_idx_sets_in_every_layout(tmp_path, name, folder, packed):
    write_mnist(tmp_path / folder, packed=packed)
    check(qdp.open(name, split="test"))
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*QDP_DATA_DIR"):
        qdp.open(name, split="train")


def test_images_without_labels_are_named(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist: expected t10k-labels-idx1-ubyte \(or"):
        qdp.open("mnist", split="test")


def test_keras_and_both_kinds_of_cifar(tmp_path):
    cache = tmp_path / "home/.keras/datasets"
    cache.mkdir(parents=True)
    np.savez(cache / "mnist.npz", x_train=PIXELS.reshape(-1, 28, 28), y_train=LABELS)
    check(qdp.open("mnist"))
    pixels = np.random.default_rng(4).integers(0, 256, (5, 3072), dtype=np.uint8)
    (tmp_path / "cifar10").mkdir()
    content = np.column_stack([LABELS[:5], pixels]).tobytes()
    (tmp_path / "cifar10/test_batch.bin").write_bytes(content)
    check(qdp.open("cifar-10", split="test"), pixels)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(5):
        batch = {b"data": pixels[number : number + 1], b"labels": [int(LABELS[number])]}
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch, protocol=2))
    check(qdp.open("cifar-10", split="train"), pixels)


def image_table(pixels, column):
    """Rows as the hub stores them: PNG bytes in a struct, colours last."""
    images = []
    for row in pixels:
        planes = row.reshape(28, 28) if len(row) == 784 else row.reshape(3, 32, 32)
        stream = io.BytesIO()
        Image.fromarray(planes if planes.ndim == 2 else planes.transpose(1, 2, 0)).save(
            stream, "png"
        )
        images.append({"bytes": stream.getvalue(), "path": None})
    return pa.table({column: images, "label": [int(label) for label in LABELS[: len(pixels)]]})


def test_hugging_face_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    revision = tmp_path / "hf/hub/datasets--ylecun--mnist/snapshots/abc/mnist"
    revision.mkdir(parents=True)
    table = image_table(PIXELS, "image")
    pq.write_table(table.slice(0, 4), revision / "test-00000-of-00002.parquet")
    with pytest.raises(ValueError, match="expected 00002 files of test, got 1"):
        qdp.open("mnist", split="test")
    pq.write_table(table.slice(4), revision / "test-00001-of-00002.parquet")
    check(qdp.open("mnist", split="test"))

    colours = np.random.default_rng(4).integers(0, 256, (5, 3072), dtype=np.uint8)
    prepared = tmp_path / "hf/datasets/uoft-cs___cifar10/plain_text/0.0.0/abc"
    prepared.mkdir(parents=True)
    table = image_table(colours, "img")
    path = prepared / "cifar10-train.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    check(qdp.open("cifar-10"), colours)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="truncated or damaged"):
        qdp.open("cifar-10")
    damaged = pa.table({"image": [{"bytes": b"no image", "path": None}], "label": [1]})
    for shard in revision.iterdir():
        pq.write_table(damaged, shard)
    with pytest.raises(ValueError, match="row 0 holds no readable image"):
        qdp.open("mnist", split="test")
    for shard in revision.iterdir():
        pq.write_table(pa.table({"x": [1]}), shard)
    with pytest.raises(ValueError, match="expected columns image or img"):
        qdp.open("mnist", split="test")


def test_keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    write_mnist(tmp_path / "keras/datasets/fashion-mnist", packed=True)
    check(qdp.open("fashion-mnist", split="test"))


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
def test_bundled_sets_are_scikit_learns(name):
    (chunk,) = qdp.open(name).chunks(2000)
    expected = getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_array_equal(chunk.features, expected.data)
    np.testing.assert_array_equal(chunk.labels, expected.target)
    with pytest.raises(ValueError, match="has no splits"):
        qdp.open(name, split="train")


def test_download_only_when_asked(monkeypatch):
    asked = []

    def fetch(name, **options):
        asked.append(name)
        return sklearn.utils.Bunch(data=np.ones((70, 784)), target=np.array(["9"] * 70))

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(FileNotFoundError, match="download=True"):
        qdp.open("mnist")
    assert asked == []
    with pytest.raises(ValueError, match=r"expected 70000 rows .* got shape \(70, 784\)"):
        qdp.open("mnist", download=True)
    assert asked == ["mnist_784"]


def test_refusals(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:5]))
    with pytest.raises(ValueError, match=r"6 images .* 5 labels"):
        qdp.open("mnist", split="test")
    with pytest.raises(ValueError, match="'train' or 'test', got 'all'"):
        qdp.open("mnist", split="all")
    with pytest.raises(ValueError, match="split: expected with one of"):
        qdp.open(PIXELS, split="train")
    monkeypatch.setenv("QDP_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        qdp.open("mnist")
