"""Size buckets: lists of one bucket share a run, and on CUDA a captured graph."""

from __future__ import annotations

from collections.abc import Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # numbers of lists and of slates
SIZES = (32, 64, 128, 256, 512)  # numbers of candidates


def bucket(value: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds the value; beyond the largest, its next multiple."""
    for size in buckets:
        if value <= size:
            return size
    return -(-value // buckets[-1]) * buckets[-1]


def size_class(candidates: int) -> int:
    """Return the bucket of a list; one beyond the largest bucket is a class of its own."""
    return next((size for size in SIZES if candidates <= size), candidates)
