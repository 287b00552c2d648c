"""The settings of the journal and of exploration, which are part of service.settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from service.journal.address import (
    FilesAddress,
    KafkaAddress,
    RedisAddress,
    parse_journal_address,
)
from service.journal.errors import JournalAddressError


def _journal(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "off":
        return "off"
    address = parse_journal_address(value)
    if isinstance(address, KafkaAddress) and find_spec("confluent_kafka") is None:
        raise JournalAddressError(
            "kafka needs the package confluent-kafka; install the dependency group `kafka`"
        )
    return address


class JournalSettings(BaseSettings):
    """Read as a part of `Settings`."""

    journal: Annotated[
        FilesAddress | RedisAddress | KafkaAddress | Literal["off"],
        NoDecode,
        BeforeValidator(_journal),
    ] = Field(
        "off",
        description="Journal of decisions and feedback: files:///DIRECTORY, "
        "redis://HOST:PORT/DATABASE for a stream, kafka://HOST:PORT/TOPIC.",
    )
    journal_flush_ms: float = Field(
        1000.0,
        ge=1,
        le=3_600_000,
        description="Milliseconds between two flushes of the journal. A process that is killed "
        "loses what it has not flushed.",
    )
    journal_flush_kb: int = Field(
        1024,
        ge=1,
        le=1 << 20,
        description="Kibibytes of records that are flushed before the time is over.",
    )
    journal_buffer_mb: float = Field(
        64.0,
        gt=0,
        le=65536,
        description="Mebibytes of records that a worker keeps while the journal's sink is slow or "
        "down; later records are dropped.",
    )
    journal_segment_mb: float = Field(
        64.0,
        gt=0,
        le=1024,
        description="Mebibytes after which a file of the journal is closed and the next begins.",
    )
    journal_keep_gb: float = Field(
        32.0,
        gt=0,
        description="Gibibytes of closed journal files to keep; the oldest are deleted.",
    )
    journal_keep_days: float = Field(
        90.0,
        gt=0,
        description="Days to keep closed journal files. Choose no longer than you may store what "
        "users did.",
    )
    explore_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of users (0 to 1) whose slates are sampled for a day, for off-policy "
        "evaluation. Exploring costs some utility.",
    )
    explore_top_m: int | None = Field(
        None,
        ge=1,
        description="Explore only among so many leading candidates of the initial ranking. "
        "Without it, among all.",
    )
