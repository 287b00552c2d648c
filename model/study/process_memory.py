"""Watch the memory of a command and its processes, stage by stage."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.05  # a command of a tenth of a second must be seen after its start, too
MIB = 1024.0


@dataclass
class StageMemory:
    """Seconds of a stage, and peaks of resident memory in MB: of all processes, and of the first.

    Pages that processes share count once in all.
    """

    stage: str
    seconds: float = 0.0
    peak_mb: float = 0.0
    main_mb: float = 0.0


def watch(command: Sequence[str], stage_of: Callable[[], str]) -> list[StageMemory]:
    """Run a command and return its stages in their order.

    Args:
        stage_of: the stage at this moment.

    Raises CalledProcessError if the command fails.
    """
    stages: list[StageMemory] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _follow(process, stage_of, stages)
        finally:
            process.kill()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return stages


def _follow(
    process: subprocess.Popen[bytes], stage_of: Callable[[], str], stages: list[StageMemory]
) -> None:
    """Add the stages of a process to `stages` until it ends."""
    began = time.perf_counter()
    while process.poll() is None:
        name, now = stage_of(), time.perf_counter()
        sizes = [proportional_set_size(pid) for pid in process_tree(process.pid)]
        if sizes[0]:  # else it ended while the stage was looked up
            if not stages or stages[-1].stage != name:
                if stages:
                    stages[-1].seconds, began = now - began, now
                stages.append(StageMemory(name))
            stages[-1].peak_mb = max(stages[-1].peak_mb, sum(sizes))
            stages[-1].main_mb = max(stages[-1].main_mb, sizes[0])
        time.sleep(INTERVAL_S)
    if stages:
        stages[-1].seconds = time.perf_counter() - began


def process_tree(pid: int) -> Iterator[int]:
    """Yield a process and all processes below it."""
    yield pid
    for thread in _read_directory(Path(f"/proc/{pid}/task")):
        for child in _read(thread / "children").split():
            yield from process_tree(int(child))


def proportional_set_size(pid: int) -> float:
    """Return the resident memory of a process in MB, shared pages by their share; 0 if it ended."""
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / MIB
    return 0.0


def _read_directory(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return ""
