"""Checks of HTTP itself: routes and methods, heads, hosts, interim responses and formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loadtest.fuzz.messages import MSGPACK, PATHS, Message, Response, is_msgpack

# Limits of docs/service.md, in bytes; of MAX_HEAD_BYTES, everything that is no body counts.
MAX_TARGET_BYTES = 8 << 10
MAX_FIELD_BYTES = 16 << 10
MAX_FIELDS = 100
MAX_HEAD_BYTES = 64 << 10
CHUNK_FRAME_BYTES = 16  # of a chunk that are free
SLACK_BYTES = 256  # over MAX_HEAD_BYTES that a message may have if it completes with them

STANDARD_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UNDOCUMENTED = {"/openapi.json": {"GET"}, "/docs": {"GET"}}
REFUSED_HEAD = (400, 414, 431, 501, 505)  # answered by the protocol, before a route is chosen
ALIASES = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")


def routes_of(document: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the methods of every route of an OpenAPI document, and of those it leaves out."""
    documented = {
        path: {method.upper() for method in operations}
        for path, operations in document["paths"].items()
    }
    return {**UNDOCUMENTED, **documented}


def ranking_path(message: Message) -> str | None:
    """Return the ranking route of a target, whatever slashes it has too many, or None."""
    path = re.sub("/+", "/", message.path).rstrip("/")
    return path if path in PATHS else None


def no_redirect(message: Message, response: Response) -> str | None:
    """Check that the response is no redirect: behind a proxy its address would be wrong."""
    location = response.headers.get("location")
    return f"{response.status} to {location}" if 300 <= response.status < 400 else None


def no_server_error(message: Message, response: Response) -> str | None:
    """Check that no status blames the service, but for what of HTTP it lacks.

    These are methods, versions, and transfer codings besides chunked.
    """
    if response.status < 500:
        return None
    codings = [value.lower() for value in message.header("transfer-encoding")]
    unusual = message.method not in STANDARD_METHODS or any(c != "chunked" for c in codings)
    if response.status == 501 and unusual:
        return None
    if response.status == 505 and message.version not in ("1.0", "1.1"):
        return None
    return f"status {response.status}"


def host(message: Message, response: Response) -> str | None:
    """Check that HTTP/1.1 needs exactly one Host, and no version allows two."""
    count = len(message.header("host"))
    if count == 1 or (count == 0 and message.version != "1.1"):
        return None
    refused = response.status in REFUSED_HEAD
    return None if refused else f"status {response.status} with {count} Host headers"


def interim(message: Message, response: Response) -> str | None:
    """Check that at most one 100 came, and only to a client of HTTP/1.1 that expects it."""
    expected = "100-continue" in [value.lower() for value in message.header("expect")]
    allowed = 1 if expected and message.version not in ("1.0", "0.9") else 0
    if response.interim <= allowed:
        return None
    return f"{response.interim} times status 100, at most {allowed} expected"


def head_limits(message: Message, response: Response) -> str | None:
    """Check that a head beyond the limits is refused as such, and no head within them."""
    refused = response.status in (414, 431)
    if not _beyond_limits(message):
        within = _within_limits(message)
        return "a head within the limits is refused" if refused and within else None
    if response.status < 400:
        return f"status {response.status} to a head beyond the limits"
    # Chunks and trailers come after a response may have been made.
    early = message.is_chunked and not _beyond_limits(message, chunks=False)
    malformed = response.status in REFUSED_HEAD
    return None if refused or early or malformed else f"refused with {response.status}"


def _beyond_limits(message: Message, chunks: bool = True) -> bool:
    """Return True if a part is beyond its limit, however its framing is counted."""
    fields = [*message.all_headers(), *(message.trailers if message.is_chunked and chunks else ())]
    sizes = [len(name) + len(value) for name, value in fields]
    total = len(message.target) + sum(sizes)
    if message.is_chunked and chunks:
        total += message.chunks() * max(0, len(message.extension) - CHUNK_FRAME_BYTES)
    return (
        len(message.target) > MAX_TARGET_BYTES
        or max(sizes) > MAX_FIELD_BYTES
        or len(fields) > MAX_FIELDS
        or total > MAX_HEAD_BYTES + SLACK_BYTES
    )


def _within_limits(message: Message) -> bool:
    """Return True if every part is within its limit, however its framing is counted."""
    return not _beyond_limits(message) and len(message.wire()) - len(message.body) <= MAX_HEAD_BYTES


def request_id_header(message: Message, response: Response) -> str | None:
    """Check that a valid X-Request-ID is returned, unless the head was refused."""
    values = message.header("x-request-id")
    sent = values[0].strip(" \t") if values else ""
    if not (0 < len(sent) <= 128 and sent.isascii() and sent.isprintable()):
        return None
    if response.status in REFUSED_HEAD and response.headers.get("connection") == "close":
        return None
    returned = response.headers.get("x-request-id")
    return None if returned == sent else f"X-Request-ID {returned!r}, {sent!r} expected"


HTTP_CHECKS: tuple[Callable[[Message, Response], str | None], ...] = (
    no_redirect, no_server_error, host, interim, head_limits, request_id_header,
)  # fmt: skip


def method(routes: Mapping[str, set[str]], message: Message, response: Response) -> str | None:
    """Check the status that a method gets on a route.

    GET routes have HEAD too. Another method gets 405 with `Allow`; OPTIONS may be answered instead.
    """
    supported = routes.get(message.path)
    if supported is None or response.status in REFUSED_HEAD:
        return None
    served = supported | ({"HEAD"} if "GET" in supported else set())
    if message.method in served:
        served_wrongly = response.status in (404, 405, 501)
        return f"{message.method} is not served: {response.status}" if served_wrongly else None
    allow = {name.strip() for name in response.headers.get("allow", "").split(",")}
    if message.method == "OPTIONS" and response.status in (200, 204):
        return None if served <= allow else f"Allow is {sorted(allow)}, without {sorted(served)}"
    if message.method in STANDARD_METHODS and response.status != 405:
        return f"{message.method} gets {response.status}, 405 expected"
    if response.status == 405 and (message.method in allow or not served <= allow):
        return f"Allow is {sorted(allow)}, {sorted(served)} expected"
    return None if response.status >= 400 else f"{message.method} gets {response.status}"


def negotiated(message: Message, response: Response) -> str | None:
    """Check that the response has the format with the highest weight in `Accept`.

    Without the header it has the request's. Weights that are no number are not judged.
    """
    kind = "json" if response.headers.get("content-type") == "application/json" else "msgpack"
    accept = message.header("accept")
    if not accept:
        expected = "msgpack" if is_msgpack(message.headers) else "json"
        return None if kind == expected else f"{kind} without Accept, {expected} expected"
    try:
        ranges: dict[str, float] = {}
        for name, number in _ranges(accept[0]):
            ranges[name] = max(number, ranges.get(name, 0.0))
    except ValueError:
        return None
    weights = {"json": weight(ranges, ("application/json",)), "msgpack": weight(ranges, ALIASES)}
    if weights[kind] < max(weights.values()):
        return f"{kind} for {accept[0]!r}, whose weights are {weights}"
    return None


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield media ranges with their weights. Raises ValueError for a weight that is no number."""
    for text in filter(None, map(str.strip, accept.lower().split(","))):
        name, *parameters = map(str.strip, text.split(";"))
        weights = [value[2:] for value in parameters if value.startswith("q=")]
        number = float(weights[0]) if weights else 1.0
        if not 0 <= number <= 1:
            raise ValueError(f"weight {number}: 0 to 1")
        yield name, number


def weight(ranges: Mapping[str, float], names: tuple[str, ...]) -> float:
    """Return the weight of a type: that of its first name, else of an alias, else of a range."""
    if names[0] in ranges:
        return ranges[names[0]]
    aliases = [ranges[name] for name in names[1:] if name in ranges]
    if aliases:
        return max(aliases)
    return ranges.get("application/*", ranges.get("*/*", 0.0))
