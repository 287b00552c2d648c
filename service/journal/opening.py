"""Open the sink of an address."""

from __future__ import annotations

from service.journal.address import FilesAddress, JournalAddress, KafkaAddress
from service.journal.file_sink import FileLimits, FileSink
from service.journal.settings import JournalSettings
from service.journal.sink import Sink

MIB, GIB, DAY_S = 1 << 20, 1 << 30, 86400.0


def open_sink(address: JournalAddress, settings: JournalSettings) -> Sink:
    """Return the sink, which connects or creates files at the first write."""
    if isinstance(address, FilesAddress):
        return FileSink(
            address.directory,
            FileLimits(
                MIB * settings.journal_segment_mb,
                GIB * settings.journal_keep_gb,
                DAY_S * settings.journal_keep_days,
            ),
        )
    if isinstance(address, KafkaAddress):
        from service.journal.kafka_sink import KafkaSink  # an optional dependency

        return KafkaSink(address)
    from service.journal.redis_sink import RedisSink  # imports parts of OpenTelemetry

    return RedisSink(address, DAY_S * settings.journal_keep_days)
