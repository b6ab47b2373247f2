# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of QDP against other systems; not part of the installed package."""
