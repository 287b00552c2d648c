"""Keep the finished tasks of an interrupted run until the same command runs again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl

from model.data.errors import DataError
from model.data.files import Files
from model.data.shards.engines import open_engine
from model.data.shards.options import ShardOptions
from model.data.shards.stages import Interruption, Stages, full_disk, is_full

KEY = "key"  # file with the digest of everything that decides the results
CODE = Path(__file__).parents[1]


class Unfinished:
    """The directory OUT.unfinished, beside the data set.

    Args:
        directory: the data set while it is written, OUT.tmp.
        inputs: files of log and tables; their sizes and times of change recognise them.
        schema: feature schema.
        options: all other options of the command that change the data set.
    """

    def __init__(
        self, directory: Path, inputs: Sequence[Files], schema: Path, options: object
    ) -> None:
        name = directory.name.removesuffix(".tmp")
        self._output = directory.with_name(name)
        self._path = directory.with_name(f"{name}.unfinished")
        digest = hashlib.sha256(repr((pl.__version__, options)).encode())
        digest.update(schema.read_bytes())
        for path in (path for files in inputs for path in files.paths):
            status = path.stat()
            digest.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
        for module in sorted(CODE.rglob("*.py")):
            digest.update(module.read_bytes())
        self._digest = digest

    @contextmanager
    def stages(self, options: ShardOptions, shards: int) -> Iterator[Stages]:
        """Yield stages that skip the tasks of an interrupted run with the same key.

        The directory stays if the block ends, until `remove`, and if the run is interrupted. It is
        removed where the log is at fault.
        """
        self._digest.update(f"{shards} shards".encode())
        key = self._digest.hexdigest()
        file = self._path / KEY
        if self._path.exists() and not file.exists() and any(self._path.iterdir()):
            rule = "must be absent or left by an interrupted `prepare`; move it away"
            raise DataError(self._path, rule)
        if not file.exists() or file.read_text(encoding="utf-8") != key:
            self.remove()
            self._path.mkdir()
            file.write_text(key, encoding="utf-8")
        stack = ExitStack()
        # Outside of the block that removes the tasks: without an engine none of them is at fault.
        engine = stack.enter_context(open_engine(options))
        try:
            with stack:
                yield Stages(self._path, engine, self._output)
        except Interruption:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            if not is_full(error):
                raise
            raise full_disk(self._output, "tables", "the finished stages are kept") from None
        except DataError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the directory, if there is one.

        Its key is made invalid first, because tasks lose files from then on, and removed last, so
        that the next run knows the directory if this one is killed.
        """
        if self._path.exists():
            (self._path / KEY).write_text("removed", encoding="utf-8")
        for stage in self._path.glob("*/"):
            shutil.rmtree(stage)
        shutil.rmtree(self._path, ignore_errors=True)
