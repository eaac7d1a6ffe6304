"""`/docs`: the API description as one plain page, made from the OpenAPI document.

The page has no scripts and loads nothing from elsewhere. jinja2 escapes its content.
"""

from __future__ import annotations

from typing import Any

import jinja2
import msgspec

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ doc.info.title }} API</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;color:#1c1917}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}summary{cursor:pointer;padding:.4rem 0}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f5f5f4;padding:.8rem;overflow:auto;
border-radius:6px}.m{display:inline-block;min-width:4.5rem;font-weight:700;color:#b45309}
.old{opacity:.6}table{border-collapse:collapse;width:100%}td{border-top:1px solid #eee;
padding:.25rem .5rem .25rem 0;vertical-align:top}
@media(prefers-color-scheme:dark){body{background:#1c1917;color:#e7e5e4}pre{background:#292524}
td{border-color:#44403c}h2{border-color:#44403c}.m{color:#fbbf24}}
</style></head><body>
<h1>{{ doc.info.title }} {{ doc.info.version }}</h1><p>{{ doc.info.summary }}
Machine-readable: <code>/openapi.json</code>.</p>
{% for tag, operations in groups.items() %}<h2>{{ tag }}</h2>
{% for op in operations %}<details{% if op.deprecated %} class="old"{% endif %}>
<summary><code><span class="m">{{ op.method }}</span> {{ op.path }}</code>
{{ op.summary }}</summary>
{% if op.fields %}<table>{% for f in op.fields %}<tr><td><code>{{ f.name }}</code></td>
<td>{{ f.words }}</td></tr>{% endfor %}</table>{% endif %}
{% for name, text in op.examples.items() %}<p>Example: {{ name }}</p>
<pre>{{ text }}</pre>{% endfor %}
<p>Answers: {% for code, words in op.responses.items() %}<code>{{ code }}</code> {{ words }}
{%- if not loop.last %}; {% endif %}{% endfor %}.</p></details>
{% endfor %}{% endfor %}</body></html>"""


def reference_page(doc: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in doc["paths"].items():
        for method, op in methods.items():
            body = op.get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = body.get("examples", {})
            groups.setdefault(op["tags"][0], []).append(
                {
                    "method": method.upper(),
                    "path": path,
                    "summary": op["summary"],
                    "deprecated": op.get("deprecated", False),
                    "fields": _fields(doc, body.get("schema", {})),
                    "examples": {k: _pretty(v["value"]) for k, v in examples.items()},
                    "responses": {k: v["description"] for k, v in op["responses"].items()},
                }
            )
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return page.render(doc=doc, groups=groups)


def _fields(doc: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, str]]:
    if "$ref" in schema:
        schema = doc["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return [
        {"name": name, "words": field.get("description", "")}
        for name, field in schema.get("properties", {}).items()
    ]


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
