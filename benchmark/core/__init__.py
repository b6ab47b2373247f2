# SPDX-License-Identifier: Apache-2.0
"""Cases, contenders, runner, records, statistics and reports of the benchmarks."""
