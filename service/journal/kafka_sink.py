"""The journal in a topic of Kafka, by the client of librdkafka."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from service.journal.address import KafkaAddress
from service.journal.errors import SinkError

TIMEOUT_S, MARGIN_S = 10.0, 1.0  # for the delivery of a message
DEFAULTS: Mapping[str, Any] = {
    "enable.idempotence": True,  # a retry of the client itself writes no message twice
    "compression.type": "zstd",
    "linger.ms": 5,
    "message.timeout.ms": int(1e3 * TIMEOUT_S),
}


class KafkaSink:
    """Sends each record as a message, acknowledged by all replicas that are in sync.

    A batch of which some messages were not delivered is written again without the others.
    """

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._options = {"bootstrap.servers": address.brokers, **DEFAULTS, **address.options}
        self._producer: Any = None
        self._batch: Sequence[bytes] = ()
        self._delivered: set[int] = set()
        self._reason = ""
        # Then each message is either delivered or given up.
        self._timeout_s = int(self._options["message.timeout.ms"]) / 1e3 + MARGIN_S

    def write(self, records: Sequence[bytes]) -> int:
        try:
            if self._producer is None:
                self._producer = self._connected()
            if records is not self._batch:
                self._batch, self._delivered = records, set()
            self._reason = "no acknowledgement in time"
            for place, record in enumerate(records):
                if place not in self._delivered:
                    self._send(record, self._on_delivery(place, self._delivered))
            self._producer.flush(self._timeout_s)
        except (KafkaException, BufferError, ValueError) as error:
            raise SinkError(f"{self._address}: {error}") from None
        if left := len(records) - len(self._delivered):
            raise SinkError(f"{self._address}: {left} records not delivered: {self._reason}")
        self._batch = ()
        return sum(map(len, records))

    def _send(self, record: bytes, on_delivery: Callable[[Any, Any], None]) -> None:
        """Queue a message; wait for room in the client's queue if there is none."""
        try:
            self._producer.produce(self._address.topic, value=record, on_delivery=on_delivery)
        except BufferError:
            self._producer.poll(TIMEOUT_S)
            self._producer.produce(self._address.topic, value=record, on_delivery=on_delivery)

    def _on_delivery(self, place: int, delivered: set[int]) -> Callable[[Any, Any], None]:
        def record_outcome(error: Any, message: Any) -> None:
            if error is None:
                delivered.add(place)
            else:
                self._reason = str(error)

        return record_outcome

    def _connected(self) -> Any:
        # The client's own lines name brokers only; they are of use while one looks for a fault.
        logger = logging.getLogger("service.kafka")
        logger.setLevel(logging.CRITICAL)
        return Producer(self._options, logger=logger)

    def idle(self) -> None:
        """Let the client do its housekeeping."""
        if self._producer is not None:
            self._producer.poll(0)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(1.0)
