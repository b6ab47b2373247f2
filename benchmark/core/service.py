# SPDX-License-Identifier: Apache-2.0
"""The child's end of a contender's process: JSON lines in and out; nothing is measured here.

The first line of standard input is the request, each further one a command, answered with one
line; whatever libraries print goes to standard error. The parent's end is runner.WorkerProcess.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO


class Service(Protocol):
    """What carries out the commands."""

    def prepare(self) -> dict[str, Any]:
        """Import and compile; answer the event "ready", or another one: then that is all."""

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command."""


def limit_cpus(threads: int) -> None:
    """Keep this process to as many CPUs as it may use threads, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if threads < len(allowed):
            os.sched_setaffinity(0, allowed[:threads])


def serve(make: Callable[[dict[str, Any]], Service], commands: TextIO, answers: TextIO) -> int:
    """Answer commands until "finish" or the end of input; return the exit status."""

    def send(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        request = json.loads(commands.readline())
        limit_cpus(int(request["case"]["threads"]))
        service = make(request)
        message = service.prepare()
        send(message)
        if message["event"] != "ready":
            return 0
        for line in commands:
            command = json.loads(line)
            send(service.answer(command))
            if command["do"] == "finish":
                break
        return 0
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        send({"event": "failed", "reason": f"{type(error).__name__}: {error}"})
        return 1


def main(make: Callable[[dict[str, Any]], Service]) -> int:
    """Serve on the process's own pipes; anything printed goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return serve(make, sys.stdin, answers)
