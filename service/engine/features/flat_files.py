"""Read and write arrays as flat `.npy` files, which processes share through the page cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array, row after row."""
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def read_array(path: Path) -> npt.NDArray[Any]:
    """Map one array read-only; only the pages that are read take memory.

    Raises ValueError naming the file if it is no such file.
    """
    try:
        # As a plain array, because every slice of a memmap costs microseconds.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def create_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Create a file of zeros and map it for writing."""
    if 0 in shape:  # which cannot be mapped
        write_array(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    return np.asarray(np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape))
