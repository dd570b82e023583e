"""The files of marimo's page, handed out at once.

A page asks for some three hundred of them before it shows anything.  Marimo sends each through layers that look up
sessions and rights, which its scripts and fonts do not need: 2 ms apiece, in a process that has to load what draws
meanwhile.
"""

import importlib.util
import mimetypes
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application: (scope, receive, send)."""


def assets() -> dict[str, Path]:
    """The files by what a page asks for; none where this marimo keeps them elsewhere, and then it sends them itself."""
    found = importlib.util.find_spec("marimo")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "_static" / "assets"
    return {f"/assets/{file.name}": file for file in folder.glob("*.*")}


def with_assets(page: App) -> App:
    """A page whose assets are sent before it is asked."""
    files = assets()

    async def serve(scope, receive, send) -> None:
        file = files.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if file is None:
            await page(scope, receive, send)
            return
        content, kind = file.read_bytes(), mimetypes.guess_type(file)[0] or "application/octet-stream"
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return serve
