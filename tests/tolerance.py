# SPDX-License-Identifier: Apache-2.0
"""The one numeric check of the test suite: design section 2's error bounds, in one place."""

import numpy as np

BOUNDS = {"double": 1e-12, "single": 1e-5}
DTYPES = {
    ("double", "f"): np.float64,
    ("double", "c"): np.complex128,
    ("single", "f"): np.float32,
    ("single", "c"): np.complex64,
}
# Circuits of more rotations than this are allowed proportionally more.
SHALLOW = 100


def assert_close(actual, expected, precision, weight=1.0, depth=1):
    """Assert that ``actual`` has the shape, kind, precision and values of ``expected``.

    The absolute bound is 1e-12 ("double") or 1e-5 ("single"), times ``weight`` where that is above
    1 (the observable's sum |c| times the squared norm of the states), times ``depth``/100 where
    the circuit has more than 100 rotations. ``expected`` may be of higher precision.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    dtype = np.dtype(DTYPES[precision, expected.dtype.kind])
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {dtype}"
    assert np.isfinite(expected).all(), "the expected values hold NaN or infinity"
    bound = BOUNDS[precision] * max(1.0, weight) * max(1.0, depth / SHALLOW)
    error = np.abs(actual - expected)
    # Written so that NaN fails.
    wrong = ~(error <= bound)
    if wrong.any():
        # NaN counts as the worst error of all.
        where = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} values differ by more than {bound:.2g}; the worst at "
            f"{tuple(map(int, where))}: {actual[where]} instead of {expected[where]}"
        )
