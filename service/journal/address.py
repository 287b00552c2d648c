"""Addresses of the journal: the setting RERANK_JOURNAL and the option --journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from service.journal.errors import JournalAddressError
from service.state.address import Address, parse_address
from service.state.errors import AddressError

FORMS = "files:///DIRECTORY, redis://HOST:PORT/DATABASE or kafka://HOST:PORT/TOPIC"


@dataclass(frozen=True)
class FilesAddress:
    """A directory of segments."""

    directory: Path

    def __str__(self) -> str:
        return f"files://{self.directory}"


@dataclass(frozen=True)
class RedisAddress:
    """A stream of a server of Redis's protocol. Its text has no password."""

    server: Address

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return f"{self.server.prefix}:journal"

    def __str__(self) -> str:
        return str(self.server)


@dataclass(frozen=True)
class KafkaAddress:
    """A topic of Kafka. Its text has no option, because options hold passwords.

    brokers: HOST:PORT, with commas; options: of librdkafka, by name.
    """

    brokers: str
    topic: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"kafka://{self.brokers}/{self.topic}"


JournalAddress = FilesAddress | RedisAddress | KafkaAddress


def parse_journal_address(text: str) -> JournalAddress:
    """Return the address. Raises JournalAddressError, which repeats no password."""
    text = text.strip()
    try:
        parts = urlsplit(text)
    except ValueError:
        raise JournalAddressError(f"not an address; must be {FORMS}") from None
    if parts.scheme == "files":
        if parts.netloc or parts.query or parts.fragment or parts.path.strip("/") == "":
            raise JournalAddressError(
                "a files address must name a directory from the root, files:///var/lib/journal; "
                "write ? and # in a path as %3F and %23"
            )
        return FilesAddress(Path(unquote(parts.path)))
    if parts.scheme in ("redis", "rediss"):
        try:
            return RedisAddress(parse_address(text))
        except AddressError as error:
            raise JournalAddressError(str(error)) from None
    if parts.scheme == "kafka":
        topic = unquote(parts.path.strip("/"))
        if not parts.netloc or "@" in parts.netloc or not topic or "/" in topic:
            raise JournalAddressError(
                "a kafka address must name brokers and a topic, kafka://HOST:PORT/TOPIC; options "
                "of librdkafka, such as sasl.password, follow as ?NAME=VALUE&NAME=VALUE"
            )
        return KafkaAddress(parts.netloc, topic, dict(parse_qsl(parts.query)))
    scheme = f"{parts.scheme}://" if "://" in text else "a text without a scheme"
    raise JournalAddressError(f"must be {FORMS}, got {scheme}")
