"""A folder served to browsers as it is: the production build of a page (`--static`).

path ──► names ──► the file that they really lead to ──► 200, or 304 if the browser has it
           │          └ there is none, and the last name has no extension: index.html, whose router knows the address
           └ a hidden one, one that is no name (`..`), one with a backslash or NUL: 404

What a browser may be given is what lies in the folder under names that do not begin with a dot, wherever symlinks
lead. A file's tag is a hash of its bytes, never its time: builds that are copied often have the same time and size.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

INDEX = "index.html"
_TAGS_KEPT = 4096
# As Vite names what it may give another content only under another name: `assets/index-DlfHr6_x.js`.
_HASHED = re.compile(r"[-.](?=[\w-]*[A-Za-z])(?=[\w-]*[A-Z0-9])[\w-]{8,}(\.\w+)+$")
_FOREVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"
# Not from the machine's own tables, which differ and are often wrong about scripts.
_MEDIA_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".csv": "text/csv",
    ".gif": "image/gif",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml",
}


@dataclass(frozen=True)
class _File:
    path: str
    status: os.stat_result
    tag: str


class StaticFiles:
    """ASGI application for requests that no route answers; what is not for files either goes on to `otherwise`.

    The folder may be replaced by another while it serves, as a deployment does that moves a symlink.
    """

    def __init__(self, folder: Path, otherwise: ASGIApp) -> None:
        self._folder = folder
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["type"] != "http" or path == "/api" or path.startswith("/api/"):
            await self._otherwise(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        file = await run_in_threadpool(self._find, path)
        if file is None:
            await self._otherwise(scope, receive, send)
            return
        await _response(file, Headers(scope=scope))(scope, receive, send)

    def _find(self, path: str) -> _File | None:
        *folders, last = path.split("/")[1:]
        if not _are_plain([*folders, last or INDEX]):
            return None
        file = self._file(*folders, last or INDEX)
        if file is None and "." not in last:
            return self._file(INDEX)
        return file

    def _file(self, *names: str) -> _File | None:
        """What they lead to, if that is a file inside the folder that may be read."""
        try:
            folder = os.path.realpath(self._folder, strict=True)
            path = os.path.realpath(os.path.join(folder, *names), strict=True)
            if not path.startswith(folder + os.sep) or not _are_plain(os.path.relpath(path, folder).split(os.sep)):
                return None
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return None
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            return _File(path, status, _tag(path, identity))
        except OSError:
            return None


def _are_plain(names: Iterable[str]) -> bool:
    return all(
        name and (name[0] != "." or name == ".well-known") and "\\" not in name and "\0" not in name for name in names
    )


@lru_cache(maxsize=_TAGS_KEPT)
def _tag(path: str, identity: tuple[int, ...]) -> str:
    """A file with the same identity has not been written since."""
    with open(path, "rb") as file:
        return f'"{hashlib.file_digest(file, "blake2s").hexdigest()[:32]}"'


def _response(file: _File, request: Headers) -> Response:
    name = os.path.basename(file.path)
    is_hashed = f"{os.sep}assets{os.sep}" in file.path and _HASHED.search(name) is not None
    headers = {
        "ETag": file.tag,
        "Cache-Control": _FOREVER if is_hashed else _ASK_AGAIN,
        "X-Content-Type-Options": "nosniff",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.get("if-none-match", "").split(",")]
    if file.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    media_type = _MEDIA_TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")
    return FileResponse(file.path, headers=headers, media_type=media_type, stat_result=file.status)
