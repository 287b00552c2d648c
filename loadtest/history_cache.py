"""The share of histories that a service found in its cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

LINE = re.compile(r'^rerank_history_cache_total\{result="(hit|miss)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class CacheCounts:
    """Lookups of a service so far; both 0 for a service that does not count them."""

    hits: float = 0.0
    misses: float = 0.0

    @classmethod
    def of(cls, url: str) -> CacheCounts:
        """Read the metrics of a service."""
        try:
            page = httpx.get(f"{url}/metrics", timeout=5).text
        except httpx.HTTPError:
            return cls()
        counts = {result: float(value) for result, value in LINE.findall(page)}
        return cls(counts.get("hit", 0.0), counts.get("miss", 0.0))

    def share_since(self, before: CacheCounts) -> float | None:
        """Return the share of hits among the lookups since an earlier count, None for none."""
        hits, misses = self.hits - before.hits, self.misses - before.misses
        return round(hits / (hits + misses), 4) if hits + misses > 0 else None
