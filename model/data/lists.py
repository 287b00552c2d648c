"""Candidate lists as padded arrays, in memory or in files that are read one batch at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.engine.contract import Integers
from service.engine.features.schema import BINARY, LabelScale

Array = np.ndarray[Any, Any]


class Arrays(NamedTuple):
    """R lists of up to N candidates; F numbers and T tokens per candidate."""

    numbers: Array  # float32 [R, N, F]
    tokens: Array  # int64 [R, N, T]
    mask: Array  # bool [R, N], false where padded
    labels: Array  # float32 [R, N], 0 where padded

    @classmethod
    def zeros(cls, lists: int, longest: int, numbers: int, tokens: int) -> Arrays:
        """Return empty arrays for `lists` lists of at most `longest` candidates."""
        return cls(
            np.zeros((lists, longest, numbers), np.float32),
            np.zeros((lists, longest, tokens), np.int64),
            np.zeros((lists, longest), np.bool_),
            np.zeros((lists, longest), np.float32),
        )


class MappedFile:
    """A .npy file indexed by row like an array.

    The file is mapped anew for each access, so that pages already read do not count as memory of
    the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = np.load(path, mmap_mode="r").shape

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Integers) -> Array:
        return np.asarray(np.load(self.path, mmap_mode="r"))[rows]


class JoinedFiles:
    """Several .npy files indexed by row like one array; a read opens the files of its rows only."""

    def __init__(self, parts: Sequence[MappedFile]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Integers) -> Array:
        places = np.searchsorted(self._ends, rows, side="right")
        values: Array | None = None
        for place in np.unique(places):
            index = np.flatnonzero(places == place)
            start = self._ends[place - 1] if place else 0
            part = self._parts[place][rows[index] - start]
            if values is None:
                values = np.empty((len(rows), *part.shape[1:]), part.dtype)
            values[index] = part
        return self._parts[0][rows] if values is None else values


@dataclass(frozen=True, repr=False)
class Lists:
    """A selection of rows of arrays that several `Lists` may share; arrays are read on access."""

    arrays: Mapping[str, Array | MappedFile | JoinedFiles]  # by the fields of Arrays
    rows: Integers  # selected rows, int64 [R]
    scale: LabelScale = BINARY  # of the labels

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array | MappedFile | JoinedFiles], scale: LabelScale = BINARY
    ) -> Lists:
        """Return a selection of all rows."""
        return cls(arrays, np.arange(len(arrays["mask"])), scale)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        """Return N, the padded length of every list."""
        return int(self.arrays["mask"].shape[1])

    def read(self, index: Sequence[int] | Integers | slice) -> Arrays:
        """Read only the lists at `index` into memory."""
        rows = self.rows[index]
        return Arrays(*(self.arrays[name][rows] for name in Arrays._fields))

    def take(self, index: Sequence[int] | Integers | slice) -> Lists:
        """Select the lists at `index` without reading them."""
        return Lists(self.arrays, self.rows[index], self.scale)

    def rankable(self, chunk: int = 1 << 16) -> Lists:
        """Select lists with two different gains; for others every order is equally good."""
        return self.take(np.flatnonzero(self.has_order(chunk)))

    def has_order(self, chunk: int = 1 << 16) -> Array:
        """Return true for lists with two different gains, bool [R], reading `chunk` at a time."""
        has_order = [np.zeros(0, np.bool_)]
        for start in range(0, len(self), chunk):
            rows = self.rows[start : start + chunk]
            gains, mask = self.scale.gain(self.arrays["labels"][rows]), self.arrays["mask"][rows]
            lowest = gains.min(axis=1, initial=np.inf, where=mask)
            has_order.append(lowest < gains.max(axis=1, initial=-np.inf, where=mask))
        return np.concatenate(has_order)

    @property
    def numbers(self) -> Array:
        """Read the whole array into memory, as the three properties below do."""
        return self.arrays["numbers"][self.rows]

    @property
    def tokens(self) -> Array:
        return self.arrays["tokens"][self.rows]

    @property
    def mask(self) -> Array:
        return self.arrays["mask"][self.rows]

    @property
    def labels(self) -> Array:
        return self.arrays["labels"][self.rows]

    @property
    def gains(self) -> Array:
        """Return the gains of the labels, float32 [R, N], 0 where padded."""
        return self.scale.gain(self.labels)


def build_in_memory(shape: tuple[int, int, int, int], blocks: Iterable[Arrays]) -> Lists:
    """Copy consecutive blocks into arrays of `shape` (the arguments of Arrays.zeros)."""
    whole, start = Arrays.zeros(*shape), 0
    for block in blocks:
        for array, part in zip(whole, block, strict=True):
            array[start : start + len(part)] = part
        start += len(block.mask)
    return Lists.of(whole._asdict())


def build_in_files(
    directory: Path, shape: tuple[int, int, int, int], blocks: Iterable[Arrays]
) -> Lists:
    """Write consecutive blocks to files in `directory` unless it exists, and map the files.

    A lock lets one of several processes write while the others wait. The directory gets its name
    only when it is complete, so a killed process leaves none that looks complete.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            unfinished = directory.parent / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
            unfinished.mkdir()
            _write(unfinished, shape, blocks)
            unfinished.rename(directory)
    return Lists.of({name: MappedFile(directory / f"{name}.npy") for name in Arrays._fields})


def join_files(parts: Sequence[Lists]) -> Lists:
    """Return the lists of several directories that `build_in_files` wrote, in their order."""
    files = {name: [part.arrays[name] for part in parts] for name in Arrays._fields}
    return Lists.of({name: JoinedFiles(of_parts) for name, of_parts in files.items()})  # type: ignore[arg-type]


def _write(directory: Path, shape: tuple[int, int, int, int], blocks: Iterable[Arrays]) -> None:
    """Write one .npy file per array, one block at a time."""
    files = [(directory / f"{name}.npy").open("wb") for name in Arrays._fields]
    try:
        for file, part in zip(files, Arrays.zeros(0, *shape[1:]), strict=True):
            header = np.lib.format.header_data_from_array_1_0(part)
            header["shape"] = (shape[0], *part.shape[1:])
            np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            for file, part in zip(files, block, strict=True):
                part.tofile(file)
    finally:
        for file in files:
            file.close()
