# SPDX-License-Identifier: Apache-2.0
"""JAX: a hand-written state-vector simulation, reverse-mode gradient a row, vmap over rows, jit.

``jax`` goes gate by gate (RY real, a layer's RZ as one diagonal); ``jax-kron`` gathers a layer's
one-qubit gates into matrix products, as ``numpy-kron`` does. Chunks of a fixed number of rows fit
the cache and compile once; a thread for each core calls the compiled function. On a GPU the same
functions run on large chunks that lie in its memory (JAX, "Asynchronous dispatch" and "GPU memory
allocation").
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmark.core.cases import (
    GradientCase,
    diagonal_signs,
    ladder_source,
    observable_diagonal,
)
from benchmark.core.contenders.base import (
    EncodedOnce,
    Features,
    Gradients,
    ThreadedChunks,
    chunk_bounds,
    chunk_rows,
    even_groups,
)
from benchmark.core.contenders.gpu import OnGpu
from benchmark.core.environment import thread_environment


class JaxGates(EncodedOnce):
    """Gate by gate."""

    name = "jax"
    title = "JAX, gate by gate"
    description = "hand-written simulation, vmap of reverse-mode grad, jit, x64"
    rule = "adjoint"
    distributions: ClassVar[tuple[str, ...]] = ("jax", "jaxlib", "numpy")
    extra = "rivals"
    amplitudes_per_chunk = 2**16
    largest_chunk = 1024

    def __init__(self, case: GradientCase, features: Features) -> None:
        super().__init__(case, features)
        self.size = min(
            self.largest_chunk,
            chunk_rows(case.state_size, self.amplitudes_per_chunk, len(features), case.threads),
        )

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """CPU and 64-bit types."""
        return {
            **thread_environment(threads),
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "true",
        }

    def prepare(self) -> None:
        """Trace and compile for one chunk."""
        import jax
        import jax.numpy as jnp

        case = self.case
        # Outside the worker, where the environment was not set, x64 is needed all the same.
        configuration: Any = jax.config
        configuration.update("jax_enable_x64", True)
        self.allocate_states(self.case.real_dtype)
        diagonal = observable_diagonal(case.observable, case.n_qubits).astype(self.case.real_dtype)
        source = ladder_source(case.n_qubits)

        def value(angles: Any, state: Any) -> Any:
            for layer in range(case.n_layers):
                state = self.layer(jnp, angles[layer], state)[source]
            return (state.real**2 + state.imag**2) @ diagonal

        gradients = jax.vmap(jax.grad(value), in_axes=(None, 0))
        self.compiled = jax.jit(
            lambda angles, states: gradients(angles, states).reshape(len(states), -1)
        )
        self.angles = case.angles.astype(self.case.real_dtype)
        self.chunks = ThreadedChunks(case.threads)
        self.run(min(1, len(self.features)))

    def layer(self, jnp: Any, angles: Any, state: Any) -> Any:
        """Apply one layer's rotations; ``angles`` is (2, n)."""
        qubits = self.case.n_qubits
        cosines, sines = jnp.cos(angles[0] / 2), jnp.sin(angles[0] / 2)
        for qubit in range(qubits):
            pairs = state.reshape(2**qubit, 2, -1)
            zero, one = pairs[:, 0], pairs[:, 1]
            cosine, sine = cosines[qubit], sines[qubit]
            state = jnp.stack([cosine * zero - sine * one, sine * zero + cosine * one], axis=1)
        signs = diagonal_signs(qubits).astype(self.case.real_dtype)
        return state.reshape(-1) * jnp.exp(-0.5j * (signs @ angles[1])).astype(
            self.case.complex_dtype
        )

    def circuits(self, rows: int) -> Gradients:
        """Call the compiled function chunk by chunk; the last chunk is filled up."""

        def chunk(start: int, stop: int) -> Gradients:
            states = self.states[start:stop]
            if len(states) < self.size:
                states = np.concatenate(
                    [states, np.repeat(states[:1], self.size - len(states), axis=0)]
                )
            return np.asarray(self.compiled(self.angles, states))[: stop - start]

        return self.chunks.map(chunk, chunk_bounds(rows, self.size))

    def close(self) -> None:
        """End the threads."""
        self.chunks.close()


class JaxKron(JaxGates):
    """One-qubit gates gathered into matrix products over groups of qubits."""

    name = "jax-kron"
    title = "JAX, restructured for BLAS"
    description = "hand-written simulation by matrix products, vmap of reverse-mode grad, jit, x64"

    def layer(self, jnp: Any, angles: Any, state: Any) -> Any:
        """Apply one layer's rotations, a group of qubits at a time."""
        cosines, sines = jnp.cos(angles[0] / 2), jnp.sin(angles[0] / 2)
        phases = jnp.exp(-0.5j * angles[1]).astype(self.case.complex_dtype)
        first = 0
        for size in even_groups(self.case.n_qubits):
            matrix = jnp.ones((1, 1), dtype=self.case.complex_dtype)
            for qubit in range(first, first + size):
                cosine, sine, phase = cosines[qubit], sines[qubit], phases[qubit]
                gate = jnp.stack(
                    [
                        jnp.stack([phase * cosine, -phase * sine]),
                        jnp.stack([phase.conj() * sine, phase.conj() * cosine]),
                    ]
                )
                matrix = jnp.kron(matrix, gate)
            blocks = state.reshape(2**first, 2**size, -1)
            state = jnp.einsum("ij,ajb->aib", matrix, blocks)
            first += size
        return state.reshape(-1)


class _JaxOnGpu(OnGpu, JaxGates):
    """The rows of every chunk in device memory; the last chunk filled up, as on the CPU."""

    documentation = "JAX, Asynchronous dispatch; GPU memory allocation; Automatic vectorization"
    distributions: ClassVar[tuple[str, ...]] = ("jax", "jax-cuda13-plugin", "jaxlib", "numpy")
    amplitudes_per_chunk = 2**22
    largest_chunk = 2**14

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """CUDA and nothing else, full precision, and no more memory than is used."""
        return {
            **thread_environment(threads),
            "JAX_PLATFORMS": cls.device,
            "JAX_ENABLE_X64": "true",
            # Else products of float32 are those of TensorFloat-32, too coarse for the check.
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }

    @classmethod
    def library_problem(cls) -> str | None:
        """Return why JAX cannot use the GPU."""
        import jax

        try:
            jax.devices("cuda")
        except RuntimeError as error:
            return f"JAX sees no CUDA device: {error}"
        return None

    def __init__(self, case: GradientCase, features: Features) -> None:
        super().__init__(case, features)
        rows = min(self.largest_chunk, self.amplitudes_per_chunk // case.state_size)
        self.size = max(1, min(rows, len(features)))

    def allocate_states(self, dtype: Any) -> None:
        """Put the rows, chunk by chunk, into the device's memory."""
        import jax
        import jax.numpy as jnp

        width, padding = self.features.shape[1], self.case.state_size - self.features.shape[1]

        def encode(rows: Any) -> Any:
            scaled = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
            return jnp.pad(scaled, ((0, 0), (0, padding))).astype(dtype)

        self.wait = jax.block_until_ready
        self.encoder = jax.jit(encode)
        filled = -(-len(self.features) // self.size) * self.size
        rows = np.resize(self.features, (filled, width)).reshape(-1, self.size, width)
        device = jax.devices(self.device)[0]
        self.rows = [jax.device_put(chunk, device) for chunk in rows]
        self.encoded: list[Any] = []

    def encode(self, rows: int) -> None:
        """Encode the chunks that hold the first rows."""
        self.asked = rows
        chunks = self.rows[: len(chunk_bounds(rows, self.size))]
        self.encoded = self.wait([self.encoder(chunk) for chunk in chunks])

    def circuits(self, rows: int) -> Any:
        """Call the compiled function chunk by chunk, and wait for it: JAX returns before."""
        return self.wait([self.compiled(self.angles, chunk) for chunk in self.encoded])

    def on_host(self, gradients: Any) -> Gradients:
        """Return the chunks' gradients, without the rows that fill up the last one."""
        return np.concatenate([np.asarray(one) for one in gradients])[: self.asked].astype(
            np.float64
        )


class JaxCuda(_JaxOnGpu):
    """Gate by gate, on the GPU."""

    name = "jax-gpu"
    title = "JAX on the GPU, gate by gate"


class JaxKronCuda(_JaxOnGpu, JaxKron):
    """One-qubit gates gathered into matrix products, on the GPU."""

    name = "jax-kron-gpu"
    title = "JAX on the GPU, restructured for BLAS"
