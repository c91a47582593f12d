"""The page that a run is opened at has two addresses: the root, and its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# The views that a run is opened at: of what was looked for, and of what was measured.
FIRST = ("overview", "report")


class FirstAtRoot:
    """Sends who asks for `/overview` to the root, where Streamlit has the page that comes first.

    It says of any other address of that page that there is none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rpartition("/")[2] in FIRST:
            # Relative, so that it holds behind a proxy that adds a folder.
            root = b"./" + (b"?" + asked if (asked := scope["query_string"]) else b"")
            headers = [(b"location", root)]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)
