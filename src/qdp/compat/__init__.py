# SPDX-License-Identifier: Apache-2.0
"""Other systems' names over this one's engine; nothing here is imported by ``import qdp``."""
