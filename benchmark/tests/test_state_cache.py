# SPDX-License-Identifier: Apache-2.0
"""The roadmap's state cache: its signature, formulas, messages and values."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the benchmarks need torch")

import qdp  # noqa: E402
from benchmark.core.state_cache import StateCache  # noqa: E402

DATA = np.random.default_rng(3).normal(size=(5, 7))


def test_the_constructor_is_the_roadmaps() -> None:
    parameters = inspect.signature(StateCache).parameters
    assert {name: item.default for name, item in parameters.items()} == {
        "n_samples": inspect.Parameter.empty,
        "n_qubits": inspect.Parameter.empty,
        "device": "cuda",
        "dtype": torch.complex128,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_raises() -> None:
    with pytest.raises(qdp.BackendUnavailable, match="device 'cuda'"):
        StateCache(1, 1)


@pytest.mark.parametrize(
    ("dtype", "precision"), [("complex128", "double"), ("complex64", "single")]
)
def test_states_are_those_of_encode(dtype: str, precision: str) -> None:
    cache = StateCache(5, 3, device="cpu", dtype=getattr(torch, dtype))
    cache.encode_all(torch.from_numpy(DATA))
    expected = qdp.encode(DATA, "amplitude", 3, precision=precision)
    np.testing.assert_array_equal(cache.get_all().numpy(), expected)
    np.testing.assert_array_equal(cache.get_state(2).numpy(), expected[2])
    indices = torch.tensor([4, 0, 4])
    np.testing.assert_array_equal(cache.get_states(indices).numpy(), expected[indices])
    parts = list(cache.chunks(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat(parts).numpy(), expected)


def test_memory_is_kept_until_cleared() -> None:
    cache = StateCache(5, 3, device="cpu")
    cache.encode_all(torch.from_numpy(DATA))
    place = cache.get_all().data_ptr()
    cache.encode_all(torch.from_numpy(2 * DATA[::-1].copy()))
    assert cache.get_all().data_ptr() == place
    np.testing.assert_allclose(
        cache.get_all().numpy(), qdp.encode(DATA[::-1], "amplitude", 3), rtol=0, atol=1e-15
    )
    cache.clear()
    with pytest.raises(RuntimeError, match="Cache not populated"):
        cache.get_all()


def test_messages() -> None:
    cache = StateCache(5, 3, device="cpu")
    for use in (cache.get_all, lambda: cache.get_state(0), lambda: cache.get_states([0])):
        with pytest.raises(RuntimeError) as caught:
            use()
        assert str(caught.value) == "Cache not populated. Call encode_all() first."
    with pytest.raises(ValueError, match=r"^Expected 5 samples, got 4$"):
        cache.encode_all(torch.from_numpy(DATA[:4]))
    with pytest.raises(ValueError, match=r"torch\.complex64, got torch\.float64"):
        StateCache(1, 1, device="cpu", dtype=torch.float64)


def test_refused_rows_leave_the_cache_unpopulated() -> None:
    cache = StateCache(5, 3, device="cpu")
    cache.encode_all(torch.from_numpy(DATA))
    with pytest.raises(ValueError, match="norm above zero"):
        cache.encode_all(torch.zeros(5, 7))
    with pytest.raises(RuntimeError, match="Cache not populated"):
        cache.get_all()


def test_the_memory_table_of_the_documentation() -> None:
    document = Path(__file__).parents[2] / "docs" / "cache-format.md"
    rows = re.findall(r"^\| (\d\d) \| (.*) \|$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 5
    for qubits, rest in rows:
        cells = [cell.replace(",", "") for cell in rest.split(" | ")]
        n_qubits, n_samples = int(qubits), int(cells[1])
        assert int(cells[0]) == 2**n_qubits
        found = [
            StateCache(n_samples, n_qubits, "cpu", dtype).memory_mb
            for dtype in (torch.complex128, torch.complex64)
        ]
        compact = [n_samples * 2**n_qubits * item / 2**20 for item in (8, 4)]
        assert cells[2:] == [f"{size:.1f}" for size in found + compact]
