"""Bodies on the wire: JSON or MessagePack in, JSON or MessagePack out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import ormsgpack
from starlette.responses import Response

from service.errors import BadRequest, FieldError, JsonResponse, UnsupportedMedia

MSGPACK = "application/msgpack"
PAIR, END = b"\x92", ormsgpack.packb("the end of a body")
NAMES = {MSGPACK, "application/x-msgpack", "application/vnd.msgpack"}


class MsgpackResponse(Response):
    """The same content, in about two thirds of the bytes."""

    media_type = MSGPACK

    def render(self, content: Any) -> bytes:
        return ormsgpack.packb(content)


def decoded(content: bytes, headers: Mapping[str, str]) -> Any:
    """The body's content. MessagePack by its Content-Type; everything else is read as JSON.

    Raises BadRequest, or UnsupportedMedia for a compressed one.
    """
    encoding = headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        error = FieldError("header Content-Encoding", "identity: bodies are small", encoding)
        raise UnsupportedMedia(f"a body is read as it is, got {encoding[:50]!r}", [error])
    if is_msgpack(headers.get("content-type")):
        try:
            # The decoder stops at the end of a value: a pair tells whether that is the body's.
            payload, end = ormsgpack.unpackb(PAIR + content + END)
        except ormsgpack.MsgpackDecodeError as error:
            raise _broken("MessagePack", str(error), content) from None
        if end != ormsgpack.unpackb(END):
            raise _broken("MessagePack", "it goes on after its end", content)
        return payload
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        why = "it is empty" if not content else str(error)
        raise _broken(
            "JSON in UTF-8, where NaN and Infinity are no numbers", why, content
        ) from None


def responding(headers: Mapping[str, str]) -> type[Response]:
    """How to answer: as `Accept` asks, else as the body came."""
    accept = headers.get("accept", "*/*").lower()
    if any(name in accept for name in NAMES):
        return MsgpackResponse
    if "*/*" in accept and is_msgpack(headers.get("content-type")):
        return MsgpackResponse
    return JsonResponse


def is_msgpack(content_type: str | None) -> bool:
    """Whether a Content-Type says MessagePack."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() in NAMES


def _broken(rule: str, why: str, content: bytes) -> BadRequest:
    value = content[:100].decode("utf-8", "replace")
    return BadRequest(f"body: not {rule.split(',')[0]} ({why})", [FieldError("body", rule, value)])
