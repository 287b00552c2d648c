"""The pages /docs and /redoc, which need nothing but the service."""

import re

import pytest

from service.http.documentation import ASSETS, asset_path


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_everything_from_the_service(client, path):
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    references = re.findall(r"""(?:src|href|url|spec-url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert "/openapi.json" in references
    assert {name for name in ASSETS if asset_path(name) in references} > {"favicon.png"}
    for reference in references:
        assert reference.startswith("/")
        assert not reference.startswith("//")
        assert client.get(reference).status_code == 200
    assert "//" not in page.text.replace("<!-- ", "").replace("// ", "")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_browser_may_load_nothing_from_elsewhere(client, path):
    policy = client.get(path).headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    allowed = {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert {source for text in directives.values() for source in text.split()} <= allowed


def test_the_page_does_not_send_the_document_to_a_validator(client):
    assert '"validatorUrl": null' in client.get("/docs").text


@pytest.mark.parametrize(
    ("name", "kind", "start"),
    [
        ("swagger-ui-bundle.js", "javascript", b"/*! For license information"),
        ("redoc.standalone.js", "javascript", b"/*! For license information"),
        ("swagger-ui.css", "text/css", b".swagger-ui"),
        ("favicon.png", "image/png", b"\x89PNG"),
    ],
)
def test_an_asset_is_served_with_its_type(client, name, kind, start):
    response = client.get(asset_path(name))
    assert response.content.startswith(start)
    assert kind in response.headers["content-type"]
    assert response.headers["cache-control"] == "max-age=3600"
    assert client.get("/docs/../pyproject.toml").status_code == 404
    assert client.get("/docs/LICENSE").status_code == 404
