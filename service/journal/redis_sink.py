"""The journal in a stream of Redis, or of a server that speaks its protocol."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from service.journal.address import RedisAddress
from service.journal.errors import SinkError

FIELD = "record"
TIMEOUT_S = 5.0
# All records or none, in one slot of a cluster. Entries older than ARGV[1] ms may be removed.
APPEND = """
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], 'MINID', '~', ARGV[1], '*', 'record', ARGV[i])
end
return #ARGV - 1
"""


class RedisSink:
    """Appends each record as an entry with the field `record`.

    A response that is lost makes the records be written again: readers drop repeated record ids.
    """

    def __init__(self, address: RedisAddress, keep_s: float) -> None:
        """keep_s: seconds after which the server may remove an entry."""
        self._address, self._keep_s = address, keep_s
        self._client: Any = None

    def write(self, records: Sequence[bytes]) -> int:
        try:
            if self._client is None:
                self._client = self._connected()
            oldest = max(0, int(1e3 * (time.time() - self._keep_s)))
            self._client.eval(APPEND, 1, self._address.stream, oldest, *records)
        except (redis.RedisError, RedisClusterException, OSError) as error:
            reason = str(error).replace(self._address.server.password or "\0", "***")
            raise SinkError(f"{self._address}: {reason}") from None
        return sum(map(len, records))

    def _connected(self) -> Any:
        server = self._address.server
        options: dict[str, Any] = {
            "host": server.host, "port": server.port, "username": server.username,
            "password": server.password, "protocol": 2, "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S, "ssl": server.scheme == "rediss",
            "retry": Retry(NoBackoff(), 0),
        }  # fmt: skip
        if server.cluster:
            return RedisCluster(**options)
        return redis.Redis(db=server.database, **options)

    def idle(self) -> None:
        """Do nothing: the server removes old entries."""

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
