"""Results that test processes share: made by the first process, read by the others."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def common_root(base: Path) -> Path:
    """Return the directory that all processes of a run share; `base` is this process's own."""
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def make_once(root: Path, name: str, make: Callable[[Path], Result]) -> Result:
    """Return the result of `make(root / name)`, which only one process of a run calls.

    The others wait for it and read its result. If it fails, the next one starts anew.
    """
    directory, result_file = root / name, root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result_file.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            result = make(directory)
            result_file.write_bytes(pickle.dumps(result))
        return pickle.loads(result_file.read_bytes())
