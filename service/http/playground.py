"""The page /playground: static files that rank, compare and explain over the public routes."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Forbidden, Unauthorized
from service.http.problems import problem_response
from service.http.security import Keys

DIRECTORY = Path(__file__).parents[1] / "playground"
PAGE = "/playground"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# No inline code, no text that becomes markup, and nothing from or to another host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # kept by the browser, and compared by ETag before each use
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
# A browser asks for user name and password, and sends them as Basic.
CHALLENGE = {"WWW-Authenticate": 'Basic realm="playground: any name, an API key as password"'}


def add_playground(app: FastAPI, keys: Keys | None) -> None:
    """Add the page and its files, whose contents are read now; keys: those of /rerank."""
    for path in sorted(DIRECTORY.iterdir()):
        if (media_type := MEDIA_TYPES.get(path.suffix)) is not None:
            route = PAGE if path.name == INDEX else f"{PAGE}/{path.name}"
            endpoint = static_file(path.read_bytes(), media_type, keys)
            app.add_route(route, endpoint, methods=["GET"], include_in_schema=False)


def static_file(
    content: bytes, media_type: str, keys: Keys | None
) -> Callable[[Request], Response]:
    """Return an endpoint that serves a file, or 304 to a client that has it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    def endpoint(request: Request) -> Response:
        if keys is not None:
            try:
                keys.client(bearer_of(request.headers.get("authorization")))
            except (Unauthorized, Forbidden) as error:
                # A browser asks for another key at 401 alone.
                refusal = Unauthorized(error.detail)
                response = problem_response(refusal, request.state.request_id)
                response.headers.update(CHALLENGE)
                return response
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return endpoint


def bearer_of(authorization: str | None) -> str | None:
    """Return a header Authorization with the password of `Basic` as the key of `Bearer`."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        _, _, key = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return f"Bearer {key}"
