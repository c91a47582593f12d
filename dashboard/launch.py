"""Start the dashboard: Streamlit with the packaged server (serve.py)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from whylens.errors import WhylensError

LOCAL = ("localhost", "127.0.0.1", "::1")
# Streamlit's settings: megabytes of an upload, no agent API, no traceback in the browser, and no
# looking at source files for changes.
SAFE = {
    "server.maxUploadSize": "20",
    "server.enableAgentApi": "false",
    "server.fileWatcherType": "none",
    "client.showErrorDetails": "none",
    "global.developmentMode": "false",
}


def command(folder: str | None, *, port: int = 8501, address: str = "localhost") -> list[str]:
    """The command line that serves the page on one run, or a folder of runs."""
    page = str(Path(__file__).parent / "serve.py")
    settings = {
        "server.port": str(port),
        "server.address": address,
        "server.headless": "true",
        "client.toolbarMode": "minimal",
        "theme.light.primaryColor": "#2d5f9e",
        "theme.dark.primaryColor": "#7fb0ec",
        "browser.gatherUsageStats": "false",
        # After each click Streamlit would look through all objects that are kept of the run, which
        # takes longer than the page; Python collects by itself.
        "runner.postScriptGC": "false",
        **SAFE,
    }
    # Whoever names another address names who may ask for it, too: docs/dashboard.md.
    hosts = LOCAL if address in LOCAL else ()
    options = [part for host in hosts for part in ("--server.allowedHosts", host)]
    options += [part for name, value in settings.items() for part in (f"--{name}", value)]
    rest = ["--", folder] if folder else []
    return [sys.executable, "-m", "streamlit", "run", page, *options, *rest]


def launch(folder: str | None, *, port: int = 8501, address: str = "localhost") -> NoReturn:
    """Serve until interrupted, in the place of this process: what ends it ends the server."""
    if importlib.util.find_spec("streamlit") is None:
        raise WhylensError("The dashboard needs streamlit: pip install streamlit")
    os.execv(sys.executable, command(folder, port=port, address=address))
