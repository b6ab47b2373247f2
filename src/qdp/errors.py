# SPDX-License-Identifier: Apache-2.0
"""QDP's own exceptions: what goes wrong outside the caller's arguments.

A caller's mistake is a ``ValueError`` or ``TypeError``, never one of these.
"""


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name cannot run here; the message says what is missing."""


class CacheCorrupt(RuntimeError):
    """A stored state or manifest does not match its checksum; the message names the file."""


class DeviceError(RuntimeError):
    """A call to an accelerator failed; the message holds the call and the device's own text."""
