# SPDX-License-Identifier: Apache-2.0
"""``python -m qdp``: the command line of ``qdp.cli``."""

import sys

from qdp.cli import main

if __name__ == "__main__":
    sys.exit(main())
