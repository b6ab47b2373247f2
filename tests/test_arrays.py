# SPDX-License-Identifier: Apache-2.0
"""Arrays enter without a copy and leave as what they were; what holds no numbers is refused."""

import math

import numpy as np
import pytest
import torch
from tolerance import assert_close

import qdp
from qdp import arrays


class Producer:
    """An array that can do nothing but DLPack."""

    def __repr__(self) -> str:  # test ids must not hold addresses
        return type(self).__name__

    def __init__(self, array, device=1):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return (self.device, 0)


class Namespaced(Producer):
    """A DLPack producer with the array API standard's way back to its library."""

    def __array_namespace__(self, api_version=None):
        return type(self)

    @staticmethod
    def from_dlpack(array):
        return Namespaced(array)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.complex64])
def test_numpy_enters_without_a_copy(dtype):
    array = np.zeros((3, 4), dtype)
    assert arrays.as_amplitudes(array, "states") is array or np.shares_memory(
        arrays.as_amplitudes(array, "states"), array
    )
    assert arrays.as_amplitudes(array, "states").dtype == dtype


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
def test_torch_enters_without_a_copy(dtype):
    tensor = torch.zeros((3, 4), dtype=getattr(torch, dtype))
    view = arrays.as_amplitudes(tensor, "states")
    assert address(view) == tensor.data_ptr()
    assert view.dtype == dtype


def test_dlpack_enters_without_a_copy():
    array = np.arange(12.0).reshape(3, 4)
    view = arrays.as_amplitudes(Producer(array), "states")
    assert address(view) == address(array)


def test_tensors_that_require_gradients_enter_without_a_copy():
    tensor = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert address(arrays.as_real(tensor, "parameters")) == tensor.data_ptr()


def test_what_does_not_fit_is_converted():
    assert arrays.as_real([1, 2], "p").dtype == np.float64
    assert arrays.as_real(np.float32([1, 2]), "p").dtype == np.float64
    assert arrays.as_real(np.float32([1, 2]), "p", keep_single=True).dtype == np.float32
    assert arrays.as_amplitudes(np.int8([[1, 0]]), "s").dtype == np.float64
    assert arrays.as_amplitudes(np.float16([[1, 0]]), "s").dtype == np.float64
    assert arrays.as_amplitudes(np.array([[1.0, 0]], ">f8"), "s").dtype == np.float64
    assert arrays.as_amplitudes(torch.tensor([[1.0 + 0j]]).conj(), "s").dtype == np.complex64


def test_layouts_become_contiguous():
    array = np.arange(12.0).reshape(3, 4)
    unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(np.float64)
    for given in (np.asfortranarray(array), array[::-1], array[:, ::2], unaligned.reshape(3, 4)):
        result = arrays.as_real(given, "features")
        assert result.flags.c_contiguous
        assert result.flags.aligned
        np.testing.assert_array_equal(result, given)


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor, Namespaced])
def test_the_same_kind_comes_out(wrap):
    circuit = qdp.ansatz.ry_rz_ladder(2, 1)
    states = wrap(np.eye(4))
    result = qdp.expectation(circuit, np.zeros(4), states, "Z0", backend="reference")
    assert type(result) is type(states)
    np.testing.assert_allclose(arrays.to_numpy(result, "result"), [1, 1, -1, -1])


def test_results_of_blocks_are_joined_by_jax(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(qdp.cache, "_CHUNK_BYTES", 200)
    rows = np.random.default_rng(2).normal(size=(7, 8))
    cache = qdp.StateCache(None)
    cache.encode_all(rows, encoding="amplitude", n_qubits=3)
    assert len(list(cache.blocks(3))) > 1
    circuit = qdp.ansatz.ry_rz_ladder(3, 1)
    theta = np.linspace(0, 1, circuit.n_parameters, dtype=np.float32)
    found = qdp.expectation(circuit, jax.numpy.asarray(theta), cache, "Z0", precision="single")
    assert isinstance(found, jax.Array)
    expected = qdp.expectation(
        circuit, theta, rows, "Z0", encoding="amplitude", backend="reference"
    )
    assert_close(np.asarray(found), expected, "single")


def test_jax_arrays_come_out_as_jax_arrays():
    jax = pytest.importorskip("jax")
    states = jax.numpy.eye(4)
    result = qdp.probabilities(qdp.Circuit(2, []), [], states, backend="reference")
    assert isinstance(result, jax.Array)
    np.testing.assert_allclose(np.asarray(result), np.eye(4))


def test_a_producer_without_a_library_comes_out_as_numpy():
    result = qdp.encode(Producer(np.ones((2, 4))), "amplitude")
    assert isinstance(result, np.ndarray)


@pytest.mark.parametrize(
    "given", [None, [1.0], 3, np.zeros(2), np.float64(1)], ids=lambda value: type(value).__name__
)
def test_numbers_lists_and_none_count_as_numpy(given):
    assert arrays.library_of(given, given) is arrays.NUMPY
    assert arrays.library_of(given, torch.zeros(2)).name == "torch"


def test_two_libraries_are_refused():
    with pytest.raises(TypeError, match=r"expected arrays of one library .* torch and Namespaced"):
        arrays.library_of(torch.zeros(2), Namespaced(np.zeros(2)))


class CudaTensor(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    @property
    def device(self):
        return torch.device("cuda:1")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.array(["a", "b"]), TypeError, r"x: expected numbers, got dtype <U1"),
        (np.array([1, None]), TypeError, r"x: expected numbers, got dtype object"),
        (np.zeros(2, "datetime64[s]"), TypeError, r"x: expected numbers, got dtype datetime64"),
        (np.zeros(2, [("a", float)]), TypeError, r"x: expected numbers, got dtype \[\('a'"),
        ("text", TypeError, r"x: expected numbers, got dtype <U4 from str"),
        ({}, TypeError, r"x: expected numbers, got dtype object from dict"),
        ([[1.0], [1.0, 2.0]], ValueError, r"x: expected an array of numbers, got list"),
        (np.ma.masked_array([1.0], [True]), TypeError, r"x: expected an array without a mask"),
        (np.ones(1) * 1j, TypeError, r"x: expected real numbers, got dtype complex128; .*\.real"),
        (torch.ones(2).to_sparse(), TypeError, r"x: expected a dense tensor .*\.to_dense\(\)"),
        (torch.ones(2, dtype=torch.bfloat16), TypeError, r"dtype that numpy has, got torch.bfloat"),
        (
            torch.ones(2).as_subclass(CudaTensor),
            TypeError,
            r"x: expected a tensor on the CPU, got one on cuda:1; pass it as tensor\.cpu\(\)",
        ),
        (Producer(np.ones(2), device=2), TypeError, r"DLPack device type 2; copy it to the host"),
        (Producer(np.array(["a"])), TypeError, r"x: Producer could not be read through DLPack"),
    ],
    ids=str,
)
def test_what_is_no_array_of_real_numbers_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        arrays.as_real(given, "x")


@pytest.fixture(params=["numpy", "compiled"])
def checks(request, monkeypatch):
    """Check values with NumPy alone, then with the compiled extension."""
    if request.param == "numpy":
        monkeypatch.setattr(arrays, "extension", lambda: None)
    else:
        pytest.importorskip("qdp._core")
    return request.param


@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex64, np.complex128])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (6000, 6)])
def test_the_place_of_a_nan_or_infinity_is_named(value, dtype, row, column):
    array = np.ones((10_000, 7), dtype)
    array[row, column] = value
    array[-1] = value
    message = rf"x: expected finite numbers, got .* at row {row}, column {column}; remove"
    with pytest.raises(ValueError, match=message):
        arrays.require_finite(array, "x")
    with pytest.raises(ValueError, match=message):
        arrays.row_norms(array, "x")
    with pytest.raises(ValueError, match=r"got .* at index 3"):
        arrays.require_finite(np.array([0, 0, 0, value], dtype), "x")
    long = np.zeros(100_000, dtype)
    long[70_000:] = value
    with pytest.raises(ValueError, match=r"got .* at index 70000"):
        arrays.require_finite(long, "x")


@pytest.mark.usefixtures("checks")
def test_large_numbers_are_finite():
    arrays.require_finite(np.full((3, 4), 1e308), "x")
    arrays.require_finite(np.full((30, 400), -1e308), "x")
    arrays.require_finite(np.full(10_000, 1e308), "x")
    arrays.require_finite(np.full((3, 4), 3e38, np.float32), "x")
    arrays.require_finite(np.zeros((0, 4)), "x")
    arrays.require_finite(np.ones((2, 2), int), "x")


@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-150, 1.0, 1e150, 1e300])
def test_norms_of_extreme_rows(scale):
    array = np.array([[1.0, 1.0], [scale, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(arrays.row_norms(array, "x"), [2**0.5, scale, 0], rtol=1e-15)
    np.testing.assert_allclose(arrays.row_norms(array * 1j, "x"), [2**0.5, scale, 0], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 33), (3, 100_001), (2000, 17)])
def test_compiled_sums_of_squares_are_those_of_exact_arithmetic(dtype, shape):
    pytest.importorskip("qdp._core")
    generator = np.random.default_rng(3)
    parts = generator.normal(size=(2, *shape))
    array = (parts[0] + 1j * parts[1] if np.dtype(dtype).kind == "c" else parts[0]).astype(dtype)
    double = array.astype(np.result_type(dtype, np.float64))
    squares = double.real**2 + double.imag**2
    expected = np.array([math.fsum(row) for row in squares])
    found = arrays._native_sums_of_squares(array)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_allclose(arrays._sums_of_squares(array), expected, rtol=1e-13)


def test_compiled_sums_do_not_depend_on_threads_or_other_rows():
    core = pytest.importorskip("qdp._core")
    array = np.random.default_rng(4).normal(size=(5, 150_000))
    threads = core.thread_count()
    found = arrays._native_sums_of_squares(array)
    alone = [arrays._native_sums_of_squares(row)[0] for row in array]
    try:
        core.set_thread_count(1 if threads > 1 else 3)
        np.testing.assert_array_equal(arrays._native_sums_of_squares(array), found)
    finally:
        core.set_thread_count(threads)
    np.testing.assert_array_equal(alone, found)


def test_arrays_that_compiled_checks_do_not_take_are_checked_by_numpy():
    array = np.ones((200, 300))
    array[150, 20] = np.nan
    for given in (array[:, ::2], array.astype(np.float16)):
        with pytest.raises(ValueError, match=r"at row 150, column"):
            arrays.require_finite(given, "x")


@pytest.mark.usefixtures("checks")
def test_norms_of_single_precision_are_summed_in_double():
    array = np.full((1, 2**16), 0.1, np.float32)
    expected = np.linalg.norm(array.astype(np.float64))
    np.testing.assert_allclose(arrays.row_norms(array, "x"), expected, rtol=1e-14)
    np.testing.assert_allclose(
        arrays.row_norms(np.full((1, 2), 3e38, np.float32), "x"), float(np.float32(3e38)) * 2**0.5
    )
