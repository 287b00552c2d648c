"""The OpenAPI document of the service, and a page of Markdown that shows it without a script."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

Schema = Mapping[str, Any]
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # Markdown
)
ALIAS = "/v1"  # prefix of the same routes
# Keyword of JSON Schema -> its words in the column of rules.
RULES = {
    "minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<",
    "minLength": "characters ≥", "maxLength": "characters ≤",
    "minItems": "entries ≥", "maxItems": "entries ≤", "pattern": "pattern",
}  # fmt: skip


def document(bundle: Path) -> dict[str, Any]:
    """Return the document of a service over a bundle with an entity store, without starting it.

    Raises BundleError for a bundle that cannot be served.
    """
    from service.engine.session import Session
    from service.http.api import create_app
    from service.metrics import Metrics
    from service.models.fleet import Fleet
    from service.settings import Settings

    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(state=f"lmdb://{directory}")
        session, metrics = Session.load(bundle), Metrics()
        return create_app(settings, Fleet.of(session, settings, metrics), metrics).openapi()


def render(openapi: Mapping[str, Any], file: str) -> str:
    """Return the page about a document.

    Args:
        file: Address of the document itself, for a link.
    """
    schemas = openapi["components"]["schemas"]
    return TEMPLATES.get_template("openapi.md.jinja").render(
        title=openapi["info"]["title"],
        version=openapi["info"]["version"],
        description=openapi["info"].get("description", ""),
        file=file,
        operations=list(operations(openapi["paths"])),
        schemas=[
            {"name": name, "schema": schemas[name], "fields": list(fields(schemas[name]))}
            for name in sorted(schemas)
        ],
        type_of=type_of,
        cell=cell,
        to_json=lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    )


def operations(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the operations; an alias below /v1 is named at its route."""
    for path, methods in paths.items():
        if path.startswith(f"{ALIAS}/") and path.removeprefix(ALIAS) in paths:
            continue
        alias = ALIAS + path if ALIAS + path in paths else None
        for method, operation in methods.items():
            yield {
                "method": method.upper(), "path": path, "alias": alias, "operation": operation,
                "purpose": operation.get("description") or f"{operation['summary']}.",
                "body": content_of(operation.get("requestBody", {})),
                "responses": {
                    status: {**response, "content": content_of(response)}
                    for status, response in operation["responses"].items()
                },
            }  # fmt: skip


def content_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return media types, schema and example of a body; the schema of its types is the same."""
    content = part.get("content", {})
    first: Mapping[str, Any] = next(iter(content.values()), {})
    return {
        "types": list(content),
        "schema": first.get("schema"),
        "example": next((each["example"] for each in content.values() if "example" in each), None),
    }


def fields(schema: Schema) -> Iterator[dict[str, str]]:
    """Yield the fields of an object as rows of a table."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield {
            "name": f"`{name}`",
            "type": type_of(field),
            "required": "yes" if name in required else "",
            "rules": cell("; ".join(rules(field))),
            "description": cell(field.get("description", "")),
        }


def rules(schema: Schema) -> Iterator[str]:
    """Yield the bounds and the default of a field, and those of its variants."""
    for keyword, words in RULES.items():
        if keyword in schema:
            yield f"{words} `{schema[keyword]}`"
    if schema.get("default") is not None:
        yield f"default `{json.dumps(schema['default'])}`"
    for variant in schema.get("anyOf", ()):
        yield from rules(variant)


def type_of(schema: Schema | None) -> str:
    """Return a type in words, with links to the schemas that it names."""
    if not schema:
        return "any"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return " or ".join(dict.fromkeys(type_of(variant) for variant in schema[keyword]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {type_of(schema.get('items'))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {type_of(schema['additionalProperties'])}"
    return str(kind)


def cell(text: str) -> str:
    """Return text that fits into a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
