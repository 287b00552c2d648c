"""Run a command of this interpreter and count the calls of its main thread.

Arguments: PATH, then the command, as `python -m service`. Every connection to the Unix socket PATH
gets the counts since the start as JSON and is closed:

    functions  file, name, calls and calls into C of each function, generator and coroutine;
               a resumption counts as a call
    peak       bytes that were allocated at once since the previous connection, beyond those that
               were allocated then

The file runs by its path, so that it can count any checkout. It imports nothing of the project.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import threading
import tracemalloc
from types import CodeType, FrameType
from typing import Any

MODULE_OPTION = "-m"


class Calls:
    """Calls per code object: by Python, and by this code into C."""

    def __init__(self) -> None:
        self._python: dict[CodeType, int] = {}
        self._c: dict[CodeType, int] = {}
        self._held = 0

    def count(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count an event of sys.setprofile."""
        if event == "call":
            counts = self._python
        elif event == "c_call":
            counts = self._c
        else:
            return
        code = frame.f_code
        counts[code] = counts.get(code, 0) + 1

    def read(self) -> bytes:
        """Return the counts as JSON, and start another peak."""
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        current, peak = tracemalloc.get_traced_memory()
        functions = [
            (code.co_filename, code.co_qualname, calls, self._c.get(code, 0))
            for code, calls in list(self._python.items())
        ]
        content = json.dumps({"functions": functions, "peak": peak - self._held}).encode()
        tracemalloc.reset_peak()
        self._held = current
        return content


def answer(listener: socket.socket, calls: Calls) -> None:
    """Send the counts to every connection."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(calls.read())


def main(path: str, command: list[str]) -> None:
    """Count while a module runs as `python -m MODULE ARGUMENTS`."""
    program, option, module, *arguments = command
    if program != sys.executable or option != MODULE_OPTION:
        raise SystemExit(f"counted.py: {sys.executable} {MODULE_OPTION} MODULE, got {command}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    calls = Calls()
    threading.Thread(target=answer, args=(listener, calls), daemon=True).start()
    sys.path[0], sys.argv = os.getcwd(), [module, *arguments]
    sys.setprofile(calls.count)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
