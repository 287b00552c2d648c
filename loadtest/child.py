"""Run a program that gets a signal when its parent dies: child.py SIGNAL PARENT PROGRAM ARGS.

A script of its own, run before the program takes its place (execve keeps the setting), because
code between fork and exec may deadlock in a parent that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, then become the program."""
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(128 + number)
    # A background job of a shell ignores SIGINT, and Python ignores SIGPIPE; execve keeps both.
    for restored in (number, signal.SIGPIPE):
        signal.signal(restored, signal.SIG_DFL)
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
