"""Exploration: sample the slates of a share of the users, so that other policies can be evaluated.

Which users are explored changes daily. A sampled slate follows the model's distribution at the
recommending temperature, so the log-probabilities of its choices are exact propensities.
"""

from __future__ import annotations

import dataclasses
import random
import time
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, SlateSampling
from service.journal.settings import JournalSettings
from service.ranking.request import RankingRequest

DAY_S = 86400
SPAN = 1 << 64  # of a bucket's hash
SEED_BITS = 63


@dataclass(slots=True)
class Exploration:
    """The draw of one list.

    Args:
        bucket: of user and day, in [0, 1); explored below `share`. None for a list that is never
            explored, whose share is 0.
        top: leading candidates of the initial ranking that could be chosen, None for all.
    """

    bucket: float | None
    share: float
    explored: bool = False
    top: int | None = None


NOT_ELIGIBLE = Exploration(None, 0.0)


class Explorer:
    """Draws the lists to explore, for one worker."""

    def __init__(self, share: float, top: int | None, draw: random.Random | None = None) -> None:
        self._share, self._top = share, top
        self._draw = draw or random.Random()  # seeded by the system, differently in each worker

    @classmethod
    def of(cls, settings: JournalSettings) -> Explorer | None:
        """Return the explorer that the settings ask for, or None."""
        if not settings.explore_share:
            return None
        return cls(settings.explore_share, settings.explore_top_m)

    def explore(
        self, request: RankingRequest, row: Row, now: float | None = None
    ) -> tuple[Row, Exploration]:
        """Return the row to run, sampled if its list is explored, and the draw.

        Requests with sampling or temperatures of their own are not explored. Lists of anonymous
        users are drawn by their request id.

        now: seconds since 1970 UTC.
        """
        stated = (request.sampling, request.reason_temperature, request.recommend_temperature)
        if any(option is not None for option in stated):
            return row, NOT_ELIGIBLE
        user = request.inputs.user_id
        key = f"request {request.request_id}" if user is None else f"user {user}"
        bucket = bucket_of(key, int((time.time() if now is None else now) // DAY_S))
        if bucket >= self._share:
            return row, Exploration(bucket, self._share)
        # The seed must not depend on what a client can repeat, or propensities would be wrong.
        changes = {"sampling": SlateSampling(1, self._draw.getrandbits(SEED_BITS))}
        top = None
        if self._top is not None and self._top < len(row.constraints.quota):
            top = smallest_top(row.constraints, self._top)
            changes["constraints"] = limited(row.constraints, top)  # type: ignore[assignment]
        explored = dataclasses.replace(row, **changes)  # type: ignore[arg-type]
        return explored, Exploration(bucket, self._share, True, top)


def bucket_of(key: str, day: int) -> float:
    """Return the bucket of a user or request on a day, uniform in [0, 1)."""
    digest = blake2b(f"{day} {key}".encode(errors="surrogatepass"), digest_size=8).digest()
    # The quotient rounds up to 1 for the last few hashes.
    return min(int.from_bytes(digest, "big") / SPAN, 1.0 - 2.0**-53)


def smallest_top(rules: SlateConstraints, top: int) -> int:
    """Return the smallest number of leading candidates, at least `top`, that fill the slate."""
    free = int(np.count_nonzero(rules.pinned < 0))
    left: dict[int, float] = {}
    filled = 0
    pairs = zip(rules.group.tolist(), rules.quota.tolist(), strict=True)
    for number, (group, quota) in enumerate(pairs, start=1):
        rest = left.setdefault(group, quota)
        if rest > 0:
            left[group] = rest - 1
            filled += 1
        if number >= top and filled >= free:
            return number
    return len(rules.quota)


def limited(rules: SlateConstraints, top: int) -> SlateConstraints:
    """Return the constraints under which only leading candidates and pinned ones are chosen."""
    quota = rules.quota.copy()
    quota[top:] = 0.0
    return dataclasses.replace(rules, quota=quota)
