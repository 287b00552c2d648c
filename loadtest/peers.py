"""Pass `python -m loadtest peers` on to `python -m peers`, which may import what a peer runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the command in a process of its own and return its exit status."""
    return subprocess.run([sys.executable, "-m", "peers", *arguments], check=False).returncode
