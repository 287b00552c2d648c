"""The condition of servers of Redis's protocol, by what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.state.engine import Health


def health_of(infos: Sequence[Mapping[str, Any]], entities: int, fsync: str | None) -> Health:
    """Return the condition of servers by the sections of INFO."""
    notes = []
    durable: bool | None = fsync == "always"
    if not all(info.get("aof_enabled") for info in infos):
        durable = False
        notes.append("appendonly is off: a restart may lose writes")
    elif fsync is None:
        durable = None
    elif not durable:
        notes.append(f"appendfsync is {fsync}: a power cut may lose the last second of writes")
    for policy in {str(info.get("maxmemory_policy", "noeviction")) for info in infos}:
        if policy != "noeviction":
            notes.append(f"maxmemory-policy is {policy}: the server drops entities when it is full")
    lag = max(
        (
            float(info.get("master_last_io_seconds_ago", 0))
            for info in infos
            if info.get("role") == "slave"
        ),
        default=0.0,
    )
    size = sum(int(info.get("used_memory", 0)) for info in infos)
    limits = [int(info.get("maxmemory", 0)) for info in infos]
    limit = sum(limits) if limits and all(limits) else None
    return Health({"all": entities}, size, durable, max(lag, 0.0), notes, limit)
