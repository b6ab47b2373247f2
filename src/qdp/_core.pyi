# SPDX-License-Identifier: Apache-2.0
# The compiled extension, native/module.cpp; checked at run time by the extension itself.
from typing import Any

def __getattr__(name: str) -> Any: ...
