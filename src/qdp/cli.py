# SPDX-License-Identifier: Apache-2.0
"""The command line, ``qdp`` or ``python -m qdp``: lists, checks and removes cached states.

Exit status: 0, or 1 where something is damaged or missing, with one line on standard error each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qdp import cache, memory
from qdp.errors import CacheCorrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line over ``arguments`` (None: those of the process); return its status.

    >>> main(["cache", "ls", "no/such/folder"])
    1
    """
    options = _parser().parse_args(arguments)
    directory = Path(options.directory)
    try:
        found = cache.entries(directory)
    except OSError as error:
        return _fail(f"{directory}: expected a folder of cached states: {error.strerror}")
    names = {entry.name for entry in found}
    unknown = [name for name in options.entries if name not in names]
    if unknown:
        return _fail(f"{directory}: expected the name of an entry, got {', '.join(unknown)}")
    if options.entries:
        found = [entry for entry in found if entry.name in options.entries]
    return max([_COMMANDS[options.command](entry) for entry in found], default=0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qdp", description="The quantum data plane for Python.")
    areas = parser.add_subparsers(required=True, metavar="cache")
    area = areas.add_parser("cache", help="list, check or remove cached states")
    commands = area.add_subparsers(dest="command", required=True)
    for name, text in (
        ("ls", "list entries: name, rows, qubits, storage, bytes, encoding"),
        ("verify", "read every file and compare it with its checksum"),
        ("rm", "delete entries"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("directory", help="the folder given to qdp.StateCache")
        command.add_argument(
            "entries", nargs="+" if name == "rm" else "*", help="names of entries, as ls lists them"
        )
    return parser


def _list(entry: Path) -> int:
    try:
        manifest = cache.read_manifest(entry)
    except (CacheCorrupt, OSError) as error:
        return _fail(str(error))
    key = manifest.key
    print(
        f"{entry.name}  {manifest.n_rows} rows  {key['n_qubits']} qubits  {key['storage']}  "
        f"{memory.format_bytes(manifest.stored_bytes)}  {key['encoding']}"
        + ("" if manifest.complete else "  incomplete")
    )
    return 0


def _verify(entry: Path) -> int:
    try:
        manifest = cache.verify_entry(entry)
    except (CacheCorrupt, OSError) as error:
        return _fail(str(error))
    state = "good" if manifest.complete else "good, incomplete"
    print(f"{entry.name}  {state}  {manifest.n_rows} rows")
    return 0


def _remove(entry: Path) -> int:
    try:
        cache.remove_entry(entry)
    except OSError as error:
        return _fail(f"{entry}: expected to delete it: {error.strerror}")
    print(f"{entry.name}  removed")
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


_COMMANDS = {"ls": _list, "verify": _verify, "rm": _remove}
