"""Addresses of entity stores: the setting RERANK_STATE and the option --state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from service.state.errors import AddressError

FORMS = "lmdb:///DIRECTORY, redis://HOST:PORT/DATABASE or rediss://"
SCHEMES = ("lmdb", "redis", "rediss")
PREFIX = "rerank"
MAX_PREFIX = 64


@dataclass(frozen=True)
class Address:
    """A parsed address. Its text has no password.

    directory: of LMDB; cluster, prefix: of Redis, from the query.
    """

    scheme: Literal["lmdb", "redis", "rediss"]
    directory: Path = Path()
    host: str = "localhost"
    port: int = 6379
    database: int = 0
    username: str | None = None
    password: str | None = None
    cluster: bool = False
    prefix: str = PREFIX

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __str__(self) -> str:
        if self.scheme == "lmdb":
            return f"lmdb://{self.directory}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = [f"prefix={self.prefix}"] if self.prefix != PREFIX else []
        query += ["cluster=true"] if self.cluster else []
        text = f"{self.scheme}://{host}:{self.port}/{self.database}"
        return f"{text}?{'&'.join(query)}" if query else text


def parse_address(text: str) -> Address:
    """Return the address. Raises AddressError, which repeats no password."""
    text = text.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise AddressError(f"not an address; must be {FORMS}") from None
    if parts.scheme == "lmdb":
        return _lmdb(parts)
    if parts.scheme in ("redis", "rediss"):
        return _redis(parts, port)
    scheme = f"{parts.scheme}://" if "://" in text else "a text without a scheme"
    raise AddressError(f"must be {FORMS}, got {scheme}")


def _lmdb(parts: SplitResult) -> Address:
    if parts.netloc or not parts.path.startswith("/") or parts.path.strip("/") == "":
        raise AddressError(
            "an lmdb address must name a directory from the root, lmdb:///var/lib/rerank, got "
            f"lmdb://{parts.netloc}{parts.path}"
        )
    if parts.query or parts.fragment:
        raise AddressError("an lmdb address has no query; write ? and # in a path as %3F and %23")
    return Address("lmdb", directory=Path(unquote(parts.path)))


def _redis(parts: SplitResult, port: int | None) -> Address:
    database = parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdecimal() and len(database) < 6):
        # The rest of a password with a bare / ends up in the path: it is not repeated.
        raise AddressError(
            f"the path of a {parts.scheme} address is a number, as in /0; write /, ? and # of a "
            "password as %2F, %3F and %23"
        )
    try:
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        options = {} if not parts.query else {parts.query: ""}
    cluster, prefix = options.pop("cluster", "false"), options.pop("prefix", PREFIX)
    if options or parts.fragment:
        raise AddressError(
            "the options of an address are cluster and prefix, got another; write /, ? and # of a "
            "password as %2F, %3F and %23"
        )
    if cluster not in ("true", "false"):
        raise AddressError(f"cluster: must be true or false, got {cluster}")
    if not (prefix.isascii() and prefix.isprintable() and 0 < len(prefix) <= MAX_PREFIX) or (
        set(prefix) & set("{}*?[]\\")
    ):
        rule = f"1 to {MAX_PREFIX} printable ASCII characters without {{}}*?[]\\"
        raise AddressError(f"prefix: must be {rule}, got {prefix!r}")
    if cluster == "true" and database != "0":
        raise AddressError(f"a cluster has database 0 alone, got {database}")
    return Address(
        "rediss" if parts.scheme == "rediss" else "redis",
        host=parts.hostname or "localhost",
        port=port if port is not None else 6379,
        database=int(database),
        username=None if parts.username is None else unquote(parts.username) or None,
        password=None if parts.password is None else unquote(parts.password),
        cluster=cluster == "true",
        prefix=prefix,
    )
