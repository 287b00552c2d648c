"""Read the metrics of a service's journal."""

from __future__ import annotations

import re

import httpx


def records_written(url: str) -> int:
    """Return the number of records that all workers have written. Raises httpx.HTTPError."""
    page = httpx.get(f"{url}/metrics", timeout=20).raise_for_status().text
    samples = re.findall(
        r'^rerank_journal_records_total\{result="written"\} (\S+)$', page, re.MULTILINE
    )
    return int(sum(map(float, samples)))
