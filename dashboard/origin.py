"""Only the dashboard's own pages speak to it: what a browser sends for another page is refused.

Streamlit takes what any page of this machine sends, at whatever port: another program's page, or
a report that somebody opened, could label components in a person's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import streamlit as st

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class OwnOrigin:
    """Refuses requests and WebSockets with an Origin that is neither this server nor allowed.

    Allowed are the origins that `server.corsAllowedOrigins` lists. Behind a proxy, this server is
    what the proxy's Host header says.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not own(dict(scope["headers"]), allowed()):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"another page's request"})
            return
        await self.app(scope, receive, send)


def own(headers: dict[bytes, bytes], others: frozenset[str] = frozenset()) -> bool:
    """Whether a request comes from one of the server's own pages, or from no page."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    text = origin.decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    return text in others or (bool(host) and urlsplit(text).netloc == host)


def allowed() -> frozenset[str]:
    """The other origins that the person who started the server allows."""
    listed: Any = st.get_option("server.corsAllowedOrigins")
    return frozenset(listed or ())
