"""Read the metrics of a service's journal."""

from __future__ import annotations

import re
from collections import Counter

import httpx


def count_records(url: str) -> Counter[str]:
    """Return the records of all workers by result: written, dropped. Raises httpx.HTTPError."""
    page = httpx.get(f"{url}/metrics", timeout=20).raise_for_status().text
    samples = re.findall(
        r'^rerank_journal_records_total\{result="(\w+)"\} (\S+)$', page, re.MULTILINE
    )
    return Counter({result: int(float(value)) for result, value in samples})


def records_written(url: str) -> int:
    """Return the number of records that all workers have written. Raises httpx.HTTPError."""
    return count_records(url)["written"]
