# SPDX-License-Identifier: Apache-2.0
"""Lets ``CudaDevice`` load what tests/fake_driver.cpp runs: pytest loads this file with ``-p``.

That it is loaded tells tests/test_device_arrays.py that the memory of the GPU is the host's.
"""

from qdp.backends import device

device.cached_kernels = lambda precision, architecture: precision.encode()
