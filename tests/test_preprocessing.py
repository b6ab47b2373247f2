# SPDX-License-Identifier: Apache-2.0
"""Fitted steps against scikit-learn, over arrays and sources alike, and through files."""

import numpy as np
import pytest
from sklearn import decomposition, preprocessing
from tolerance import assert_close

import qdp
from qdp.preprocessing import PCA, MinMax, Pad, Pipeline, Resize, Standardise, Step

RNG = np.random.default_rng(5)
TRAIN = RNG.normal(size=(60, 6)) @ RNG.normal(size=(6, 6)) + 3
TEST = RNG.normal(size=(9, 6))


def cases():
    reference = decomposition.PCA(3, svd_solver="full").fit(TRAIN)
    largest = np.argmax(np.abs(reference.components_), axis=1)
    signs = np.sign(reference.components_[np.arange(3), largest])
    scaler = preprocessing.StandardScaler().fit(TRAIN)
    ranges = preprocessing.MinMaxScaler((-1, 2)).fit(TRAIN)
    return {
        "pca": (PCA(3), reference.transform(TEST) * signs),
        "standardise": (Standardise(), scaler.transform(TEST)),
        "minmax": (MinMax(-1, 2), ranges.transform(TEST)),
        "pad": (Pad(), np.pad(TEST, ((0, 0), (0, 2)))),
        "resize": (Resize((2, 3), (1, 1)), TEST.mean(axis=1, keepdims=True)),
        "pipeline": (
            Pipeline([Standardise(), Pad(7)]),
            np.pad(scaler.transform(TEST), ((0, 0), (0, 1))),
        ),
    }


@pytest.mark.parametrize("kind", ["array", "source"])
@pytest.mark.parametrize("name", cases())
def test_steps_agree_with_scikit_learn(name, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("qdp.preprocessing._FIT_ROWS", 7)
    step, expected = cases()[name]
    step.fit(TRAIN if kind == "array" else qdp.open(TRAIN))
    assert_close(step.transform(TEST), expected, "double", weight=100)
    step.save(tmp_path / "step.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["step.npz"]
    again = Step.load(tmp_path / "step.npz")
    np.testing.assert_array_equal(again.transform(TEST), step.transform(TEST))
    source = qdp.open(TEST, labels=np.arange(9))
    mapped = again.transform(source)
    assert mapped.n_features == expected.shape[1]
    chunks = list(mapped.chunks(4))
    assert_close(np.concatenate([c.features for c in chunks]), expected, "double", weight=100)
    assert chunks[1].labels.tolist() == [4, 5, 6, 7]
    assert_close(mapped.take([8, 2]).features, expected[[8, 2]], "double", weight=100)
    assert mapped.fingerprint() == step.transform(source).fingerprint()


def test_the_fingerprint_follows_what_was_fitted():
    one, other = Standardise().fit(TRAIN), Standardise().fit(TRAIN + 1)
    source = qdp.open(TEST)
    assert one.transform(source).fingerprint() != other.transform(source).fingerprint()


def test_resize_keeps_means_of_every_channel():
    images = RNG.random((3, 2, 7, 5))
    step = Resize((2, 7, 5), (3, 2))
    smaller = step.transform(images.reshape(3, -1)).reshape(3, 2, 3, 2)
    assert_close(smaller.mean(axis=(2, 3)), images.mean(axis=(2, 3)), "double")
    blocks = images[:, :, :6, :4].reshape(3, 2, 3, 2, 2, 2).mean(axis=(3, 5))
    exact = Resize((2, 6, 4), (3, 2)).transform(images[:, :, :6, :4].reshape(3, -1))
    assert_close(exact.reshape(3, 2, 3, 2), blocks, "double")


def test_constant_features_stay_finite():
    rows = np.ones((4, 2))
    np.testing.assert_array_equal(Standardise().fit(rows).transform(rows), 0 * rows)
    np.testing.assert_array_equal(MinMax(2, 3).fit(rows).transform(rows), 2 * rows)


def test_refusals():
    with pytest.raises(RuntimeError, match=r"expected fit\(\) first"):
        PCA(2).transform(TEST)
    with pytest.raises(ValueError, match="expected 6 features, as fitted, got 5"):
        Standardise().fit(TRAIN).transform(TEST[:, :5])
    with pytest.raises(ValueError, match="expected 1 to 4, the rank of the 5 centred rows, got 5"):
        PCA(5).fit(TRAIN[:5])
    with pytest.raises(ValueError, match="at least 6 features, got 4"):
        Pad(4).fit(TRAIN).transform(TRAIN)
    with pytest.raises(ValueError, match="less than high"):
        MinMax(1, 1)
    with pytest.raises(ValueError, match="size: expected"):
        Resize((2, 2), (3, 1))
    with pytest.raises(ValueError, match="at least one to fit on"):
        Standardise().fit(np.empty((0, 3)))
    with pytest.raises(ValueError, match=r"what state_dict\(\) returned"):
        Step.from_state_dict({"mean": np.ones(2)})


@pytest.mark.parametrize("rows", [7, 4097, 9000])
@pytest.mark.parametrize("value", [0.1, -1e9 - 0.1])
def test_a_constant_feature_is_not_scaled_by_its_rounding(rows, value):
    step = Standardise().fit(np.full((rows, 1), value))
    assert step.scale.tolist() == [1.0]
