"""Open the engine of an address."""

from __future__ import annotations

from service.state.address import Address
from service.state.engine import WINDOW_S, Engine
from service.state.lmdb_engine import GIB, LmdbEngine


def open_engine(
    address: Address,
    max_gb: float = 64.0,
    timeout_s: float = 5.0,
    connections: int = 4,
    window_s: float = WINDOW_S,
) -> Engine:
    """Return the engine. Raises EngineError.

    Args:
        max_gb: largest size of an LMDB file, GiB.
        timeout_s: seconds to wait for each response of Redis.
        connections: most connections to Redis.
        window_s: seconds for which marks of events are kept.
    """
    if address.scheme == "lmdb":
        return LmdbEngine(address.directory, int(max_gb * GIB), window_s=window_s)
    from service.state.redis_engine import RedisEngine  # imports parts of OpenTelemetry

    return RedisEngine(address, timeout_s, connections, window_s)
