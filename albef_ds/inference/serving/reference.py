"""The page that describes the JSON endpoints, from their OpenAPI document; it needs no script and no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from albef_ds.common.html import document, note, text_table


def reference_page(openapi: Mapping[str, Any]) -> str:
    """HTML that lists every endpoint with the fields of its request and its response."""
    schemas = openapi["components"]["schemas"]
    body = [
        f"<h1>{escape(openapi['info']['title'])}: JSON endpoints</h1>",
        '<p class="note">As an OpenAPI document: <a href="openapi.json">openapi.json</a>. <a href="./">Back to the page</a>.</p>',
    ]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            body += [f"<h2><code>{method.upper()} {escape(path)}</code></h2>", note(operation["summary"])]
            parameters = [(item["name"], f"{item['in']}: {_type(item['schema'])}") for item in operation.get("parameters", [])]
            body += [text_table(parameters)] if parameters else []
            body += _fields("Request", operation.get("requestBody"), schemas)
            body += _fields("Response", operation["responses"].get("200"), schemas)
    body.append("<h2>Parts</h2>")
    shown = {name for line in body for name in schemas if f"<h3>{name}" in line}
    for name, schema in schemas.items():
        if name not in shown and "properties" in schema and "ValidationError" not in name:
            body += [f"<h3>{escape(name)}</h3>", note(schema.get("description", "")), _table(schema)]
    return document(openapi["info"]["title"], body)


def _fields(title: str, content: Mapping[str, Any] | None, schemas: Mapping[str, Any]) -> list[str]:
    schema = (content or {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" not in schema:
        return []
    name = _type(schema)
    return [f"<h3>{escape(name)} ({title.lower()})</h3>", note(schemas[name].get("description", "")), _table(schemas[name])]


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        default = "" if name in required else f", default {field.get('default', 'null')}"
        text = field.get("description", "")
        rows.append((name, f"{_type(field)}{default}{': ' if text else ''}{text}"))
    return text_table(rows)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    return f"{schema.get('type', 'any')}{f' from {low} to {high}' if low is not None else ''}"
