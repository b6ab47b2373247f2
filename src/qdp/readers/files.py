# SPDX-License-Identifier: Apache-2.0
"""Files by path or URL: their bytes, what identifies them, and optional libraries on use.

Local paths go to the operating system; anything with ``://`` goes through fsspec. No format is
known here.
"""

from __future__ import annotations

import gzip
import importlib
import io
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdp import memory

_GZIP_MAGIC = b"\x1f\x8b"


def optional_module(name: str, extra: str) -> Any:
    """Import an optional library, or raise ImportError naming the extra that brings it.

    >>> optional_module("no_such_library", "arrow")
    Traceback (most recent call last):
        ...
    ImportError: no_such_library is needed and not installed; install the extra: qdp[arrow]
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} is needed and not installed; install the extra: qdp[{extra}]"
        ) from error


@dataclass(frozen=True)
class File:
    """A file that exists: ``path`` as given, ``local`` its place on this machine, or None."""

    path: str
    local: Path | None
    n_bytes: int
    modified: str

    @classmethod
    def find(cls, path: str | Path) -> File:
        """Return the file at a path or URL; raises FileNotFoundError, or ValueError if empty."""
        text = str(path)
        if "://" in text:
            system, place = optional_module("fsspec.core", "arrow").url_to_fs(text)
            information = system.info(place)
            modified = next(
                (
                    str(information[key])
                    for key in ("mtime", "created", "ETag", "LastModified")
                    if information.get(key) is not None
                ),
                "",
            )
            found = cls(text, None, int(information["size"] or 0), modified)
        else:
            local = Path(text)
            if not local.exists():
                raise FileNotFoundError(f"{text}: expected a file, found nothing there")
            state = local.stat()
            found = cls(text, local, state.st_size, str(state.st_mtime_ns))
        if found.n_bytes == 0:
            raise ValueError(f"{text}: expected data, got an empty file")
        return found

    @property
    def suffix(self) -> str:
        """The ending in small letters, that before ``.gz`` where the file is packed."""
        name = self.path.rsplit("/", 1)[-1].lower().removesuffix(".gz")
        return Path(name).suffix

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def identity(self, options: str = "") -> str:
        """Return path, size, time of modification and ``options`` as one line."""
        place = self.path if self.local is None else str(self.local.resolve())
        return f"{place} {self.n_bytes} {self.modified} {options}"

    def open(self) -> Any:
        """Open for reading bytes."""
        if self.local is not None:
            return self.local.open("rb")
        system, place = optional_module("fsspec.core", "arrow").url_to_fs(self.path)
        return system.open(place, "rb")

    def read(self) -> bytes:
        """Return the whole content, unpacked where it is gzip; raises ValueError if it is cut."""
        memory.require_memory(self.n_bytes, f"reading {self.path}", "use an unpacked file format")
        with self.open() as stream:
            content = bytes(stream.read())
        if content[:2] != _GZIP_MAGIC:
            return content
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{self.path}: truncated or damaged gzip file ({error})") from error

    def view(self) -> bytes | memoryview:
        """Return the content, mapped where it is local and not packed, else as ``read`` does."""
        if self.local is not None:
            with self.local.open("rb") as stream:
                if stream.read(2) != _GZIP_MAGIC:
                    return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return self.read()

    def stream(self) -> Any:
        """Return the place itself if it is local, else a seekable stream over its bytes."""
        return self.local if self.local is not None else io.BytesIO(self.read())
