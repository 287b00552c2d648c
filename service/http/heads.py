"""Limits and rules of a request's head, which the protocol checks while it arrives."""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.errors import (
    BadHttp,
    CodingNotSupported,
    FieldError,
    HeadTooLarge,
    TargetTooLong,
    VersionNotSupported,
)

MAX_TARGET_BYTES = 8 << 10
MAX_FIELD_BYTES = 16 << 10  # name and value of one header or trailer
MAX_FIELDS = 100  # headers and trailers
MAX_HEAD_BYTES = 64 << 10  # target, headers and trailers, and everything else that is no body
CHUNK_FRAME_BYTES = 16  # of a chunk's framing that do not count towards MAX_HEAD_BYTES

# The characters of a host or address and its port (RFC 3986, section 3.2.2).
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


def target_too_long(size: int) -> TargetTooLong:
    """Return the refusal of a target of at least `size` bytes."""
    rule = f"at most {MAX_TARGET_BYTES} bytes"
    error = FieldError("target", rule, f"at least {size} bytes")
    return TargetTooLong(f"target: {rule}, got at least {size}", [error])


def too_many_fields() -> HeadTooLarge:
    """Return the refusal of a head with more than MAX_FIELDS headers and trailers."""
    rule = f"at most {MAX_FIELDS}"
    error = FieldError("headers", rule, f"at least {MAX_FIELDS + 1}")
    return HeadTooLarge(f"headers: {rule}, got at least {MAX_FIELDS + 1}", [error])


def head_too_large() -> HeadTooLarge:
    """Return the refusal of a request with more than MAX_HEAD_BYTES besides its body."""
    rule = f"at most {MAX_HEAD_BYTES} bytes besides the body"
    error = FieldError("head", rule, f"at least {MAX_HEAD_BYTES + 1} bytes")
    return HeadTooLarge(f"head: {rule}: target, headers, trailers, chunk extensions", [error])


def check_fields(fields: Sequence[tuple[bytes, bytes]], target_bytes: int) -> None:
    """Raise HeadTooLarge if headers and trailers exceed a limit in number, each or in sum."""
    if len(fields) > MAX_FIELDS:
        raise too_many_fields()
    total = target_bytes
    for name, value in fields:
        size = len(name) + len(value)
        if size > MAX_FIELD_BYTES:
            field = f"header {name[:100].decode('latin-1')}"
            rule = f"at most {MAX_FIELD_BYTES} bytes in name and value"
            error = FieldError(field, rule, f"{size} bytes")
            raise HeadTooLarge(f"{field}: {rule}, got {size}", [error])
        total += size
    if total > MAX_HEAD_BYTES:
        raise head_too_large()


def check_version(version: str) -> None:
    """Raise VersionNotSupported unless the version is 1.0 or 1.1."""
    if version not in ("1.1", "1.0"):
        raise VersionNotSupported(f"HTTP/{version} is not supported, use HTTP/1.1")


def check_host(version: str, hosts: Sequence[bytes]) -> None:
    """Raise BadHttp unless a head has the values of Host that RFC 9112 asks for."""
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise BadHttp(f"header Host: exactly one in HTTP/1.1, got {len(hosts)}")
    if hosts and not HOST.fullmatch(hosts[0]):
        host = hosts[0][:100].decode("latin-1")
        raise BadHttp(f"header Host: a host and optional port, got {host!r}")


def check_codings(version: str, values: Sequence[bytes]) -> None:
    """Check the values of Transfer-Encoding, at least one; only chunked is decoded.

    Raises CodingNotSupported for other codings below chunked. Raises BadHttp where the length of
    the body is uncertain (RFC 9112, sections 6.1 and 6.3): chunked is not the last coding, or the
    version does not have the header.
    """
    text = b", ".join(values)
    codings = [coding for part in text.lower().split(b",") if (coding := part.strip())]
    stated = f"got {text[:100].decode('latin-1')!r}"
    if version != "1.1":
        raise BadHttp(f"header Transfer-Encoding: only in HTTP/1.1, {stated}")
    if codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:
        raise BadHttp(f"header Transfer-Encoding: chunked once, as the last coding, {stated}")
    if len(codings) > 1:
        raise CodingNotSupported(f"header Transfer-Encoding: chunked and nothing else, {stated}")
