"""Start the dashboard: Streamlit on the packaged page."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from whylens.errors import WhylensError


def command(folder: str | None, *, port: int = 8501, address: str = "localhost") -> list[str]:
    """The command line that serves the page on one run, or a folder of runs."""
    page = str(Path(__file__).parent / "app.py")
    settings = {
        "server.port": str(port),
        "server.address": address,
        "server.headless": "true",
        "client.toolbarMode": "minimal",
        "theme.light.primaryColor": "#2d5f9e",
        "theme.dark.primaryColor": "#7fb0ec",
        "browser.gatherUsageStats": "false",
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    rest = ["--", folder] if folder else []
    return [sys.executable, "-m", "streamlit", "run", page, *options, *rest]


def launch(folder: str | None, *, port: int = 8501, address: str = "localhost") -> int:
    """Serve until interrupted; Streamlit's exit code."""
    if importlib.util.find_spec("streamlit") is None:
        raise WhylensError("The dashboard needs streamlit: pip install streamlit")
    try:
        return subprocess.run(command(folder, port=port, address=address), check=False).returncode
    except KeyboardInterrupt:
        return 0
