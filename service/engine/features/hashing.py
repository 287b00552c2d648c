"""Hash the values of a feature into buckets, in logs as in requests."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from service.engine.contract import Integers


class Buckets:
    """The buckets of a feature; they take the place of a vocabulary of `count` values.

    A value lies in bucket h mod `count`, where h is the 8-byte BLAKE2b of its UTF-8, big-endian.
    That of ids which differ in a digit is as even as that of random ids, which CRC-32 is not.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def find(self, values: Sequence[str]) -> Integers:
        """Return the bucket of each value, int64 [N]."""
        return np.array([self._bucket(value) for value in values], np.int64)

    def _bucket(self, value: str) -> int:
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self._count
