"""Pages that show the OpenAPI document in a browser, with assets that the service serves itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

PACKAGE = "fastapi_offline"  # holds builds of Swagger UI and Redoc; its code is not imported
SCRIPTS = {"docs": "swagger-ui-bundle.js", "redoc": "redoc.standalone.js"}
ASSETS = (*SCRIPTS.values(), "swagger-ui.css", "favicon.png")
# Nothing but the service itself: the pages work without the internet and tell it nothing.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_AGE_S = 3600  # for which a browser may keep an asset


def add_documentation(app: FastAPI) -> None:
    """Add the pages /docs and /redoc and their assets, if the package of the assets is installed.

    They show the document at /openapi.json.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return
    directory = Path(spec.submodule_search_locations[0]) / "static"
    for name in ASSETS:
        app.add_route(asset_path(name), asset(directory / name), include_in_schema=False)
    swagger = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=asset_path(SCRIPTS["docs"]),
        swagger_css_url=asset_path("swagger-ui.css"),
        swagger_favicon_url=asset_path("favicon.png"),
        swagger_ui_parameters={"validatorUrl": None},  # by default a public service
    )
    redoc = get_redoc_html(
        openapi_url="/openapi.json",
        title=app.title,
        redoc_js_url=asset_path(SCRIPTS["redoc"]),
        redoc_favicon_url=asset_path("favicon.png"),
        with_google_fonts=False,
    )
    for path, content in (("/docs", swagger), ("/redoc", redoc)):
        app.add_route(path, page(bytes(content.body)), include_in_schema=False)


def asset_path(name: str) -> str:
    """Return the path of an asset."""
    return f"/docs/{name}"


def asset(path: Path) -> Callable[[Request], Response]:
    """Return an endpoint that serves a file."""
    headers = {"Cache-Control": f"max-age={MAX_AGE_S}"}
    return lambda request: FileResponse(path, headers=headers)


def page(content: bytes) -> Callable[[Request], Response]:
    """Return an endpoint that serves a page of HTML."""
    return lambda request: HTMLResponse(content, headers={"Content-Security-Policy": POLICY})
