"""Paths and methods that no route serves: OPTIONS, 404 and 405."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from service.http.problems import problem_from

CODES = {404: "not_found", 405: "method_not_allowed"}


def refusal_by_router(app: FastAPI, request: Request, error: HTTPException) -> Response:
    """Render a refusal by the router, with the methods of the path; respond to OPTIONS."""
    path, headers = request.scope["path"], dict(error.headers or {})
    detail = f"{request.method} {path}: {error.detail}"[:200]
    routes: Iterable[BaseRoute] = app.routes
    if path != "*":  # the target of OPTIONS for the service as a whole
        routes = matching(app, request.scope, path)
    methods = {"OPTIONS"}.union(*(getattr(route, "methods", None) or () for route in routes))
    if len(methods) > 1:
        headers["Allow"] = ", ".join(sorted(methods))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    elif error.status_code == 404:
        merged = "/" + "/".join(part for part in path.split("/") if part)
        if merged != path and matching(app, request.scope, merged):
            detail += f"; the path is {merged}"
    code = CODES.get(error.status_code, "http_error")
    return problem_from(error.status_code, code, detail, request.state.request_id, headers=headers)


def matching(app: FastAPI, scope: Any, path: str) -> list[BaseRoute]:
    """Return the routes of a path, whatever their methods."""
    moved = {**scope, "path": path}
    return [route for route in app.routes if route.matches(moved)[0] is not Match.NONE]
