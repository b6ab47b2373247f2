# SPDX-License-Identifier: Apache-2.0
"""The check helper can fail, in every way in which it should."""

import numpy as np
import pytest
from tolerance import assert_close

ONES = np.ones((2, 3))


def test_passes_within_the_bound():
    assert_close(ONES + 5e-13, ONES, "double")
    assert_close((ONES + 5e-6).astype(np.float32), ONES, "single")
    assert_close(ONES + 5e-12, ONES, "double", weight=10)
    assert_close(ONES + 5e-12, ONES, "double", depth=1000)
    assert_close(ONES * 1j, ONES * 1j, "double")
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)), "double")
    assert_close(np.float64(1.0), 1.0, "double")


@pytest.mark.parametrize(
    ("actual", "options"),
    [
        (ONES + 2e-12, {}),
        (ONES - 2e-12, {}),
        (ONES + 2e-12, {"weight": 0.5}),
        (ONES + 2e-12, {"depth": 100}),
        (ONES + 2e-11, {"weight": 10}),
        (ONES * np.nan, {}),
        (ONES * np.inf, {}),
        (ONES + 2e-12j, {}),
        (ONES[0], {}),
        (ONES[:, :1], {}),
        (np.float64(1.0), {}),
        (ONES.astype(np.float32), {}),
        (ONES.astype(np.complex128), {}),
        (ONES.astype(np.int64), {}),
    ],
)
def test_fails_on_a_wrong_result(actual, options):
    with pytest.raises(AssertionError):
        assert_close(actual, ONES, "double", **options)


def test_fails_on_single_precision_errors():
    with pytest.raises(AssertionError, match="differ by more than 1e-05"):
        assert_close((ONES + 2e-5).astype(np.float32), ONES, "single")
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(ONES, ONES, "single")


def test_one_wrong_entry_is_named():
    actual = ONES.copy()
    actual[1, 2] = np.nan
    with pytest.raises(AssertionError, match=r"1 of 6 .* \(1, 2\)"):
        assert_close(actual, ONES, "double")


def test_fails_where_the_expectation_is_not_finite():
    with pytest.raises(AssertionError, match="expected values"):
        assert_close(ONES * np.nan, ONES * np.nan, "double")
