"""Run stages of independent tasks, and skip those that an interrupted run has finished."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.shards.engines import Engine, Task, WorkerDied

RESULT = "result.json"
NO_SPACE = "No space left on device"
Results = dict[str, Any]  # by the names of the tasks, in their order


class Interruption(DataError):
    """A stage could not end for a reason outside of the log; finished tasks are kept."""


class Stages:
    """The files and results of all tasks below one directory.

    A task writes into DIRECTORY/STAGE/NAME and returns a value that JSON holds.
    """

    def __init__(self, directory: Path, engine: Engine, output: Path) -> None:
        self.directory, self._engine, self._output = directory, engine, output

    def path(self, stage: str, name: str) -> Path:
        """Return the directory of a task."""
        return self.directory / stage / name

    def run(self, stage: str, function: Callable[..., Any], tasks: Mapping[str, Task]) -> Results:
        """Return the result of `function(path, *task)` for each task.

        Raises Interruption if a disk is full or a worker dies.
        """
        results = {name: read_result(self.path(stage, name)) for name in tasks}
        names = [name for name, result in results.items() if result is None]
        calls = [(function, self.path(stage, name), tasks[name]) for name in names]
        done = len(tasks) - len(names)
        ended = run_calls(self._engine, stage, self._output, run_task, calls, done, len(tasks))
        for index, result in ended:
            results[names[index]] = result
        return {name: result["value"] for name, result in results.items() if result is not None}


def run_calls(
    engine: Engine,
    stage: str,
    output: Path,
    function: Callable[..., Any],
    tasks: Sequence[Task],
    done: int,
    total: int,
) -> Iterator[tuple[int, Any]]:
    """Yield the index of each task with its result, as they end.

    Args:
        output: for errors.
        done: tasks of the stage that ended before; `total` counts them too.

    Raises Interruption if a disk is full or a worker dies.
    """
    with tqdm(total=total, initial=done, desc=stage, disable=None, leave=False) as bar:
        try:
            for index, result in engine.map(function, tasks):
                done += 1
                bar.update()
                yield index, result
        except (OSError, pl.exceptions.PolarsError) as error:
            if not is_full(error):
                raise
            raise full_disk(output, stage, _describe_kept(done, total)) from None
        except WorkerDied as error:
            rule = f"cannot go on: at stage {stage} {error}, most often for lack of memory; "
            rule += "pass fewer --workers and run the same command again "
            raise Interruption(output, f"{rule}({_describe_kept(done, total)})") from None


def _describe_kept(done: int, total: int) -> str:
    return f"{done} of {total} tasks of this stage, and all stages before it, are kept"


def full_disk(output: Path, stage: str, kept: str) -> Interruption:
    """Return the error of a disk without space.

    Args:
        kept: clause about the work that is not lost.
    """
    rule = f"must have room for the shards, but the disk is full at stage {stage}; "
    rule += f"free some space and run the same command again ({kept})"
    return Interruption(output, rule)


def run_task(function: Callable[..., Any], path: Path, task: Task) -> dict[str, Any]:
    """Call `function(path, *task)` with an empty directory `path`; the result marks its end."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    result = {"value": function(path, *task)}
    unfinished = path / f"{RESULT}.tmp"
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.rename(path / RESULT)
    return result


def read_result(path: Path) -> dict[str, Any] | None:
    """Return the result of a task that ended, None if there is none."""
    try:
        result: dict[str, Any] = json.loads((path / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return result


def is_full(error: Exception) -> bool:
    """Return true for an error of a disk without space."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or NO_SPACE in str(error)
