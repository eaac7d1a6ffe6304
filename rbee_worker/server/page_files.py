"""The web page's files: read once, served unchanged. They contain no data and need no token."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
# Only our own files run, only this worker is asked, and no text becomes markup: with Trusted Types
# the browser refuses `innerHTML` and its like altogether (page/markdown.js builds nodes).
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """`/` is index.html, every other file is `/page/` and its path in the folder."""
    folder = files("rbee_worker.server").joinpath("page")
    return [
        Route("/" if path == "index.html" else f"/page/{path}", _serve(content, kind), name=path)
        for path, content, kind in _files(folder, "")
    ]


def _files(folder: Traversable, base: str) -> Iterator[tuple[str, bytes, str]]:
    """Path, content and media type of every file to be served, in subfolders too."""
    for entry in folder.iterdir():
        path = base + entry.name
        if entry.is_dir():
            yield from _files(entry, path + "/")
        elif (kind := KINDS.get(entry.name.rpartition(".")[2])) is not None:
            yield path, entry.read_bytes(), kind


def _serve(content: bytes, kind: str) -> Callable[[HttpRequest], Awaitable[Response]]:
    """Browsers ask again at every visit, and get the file only if it is another one."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "Content-Type": kind, "ETag": tag}

    async def endpoint(request: HttpRequest) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return endpoint
