"""The server that `whylens dashboard` starts: Streamlit's, which answers its own pages alone."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from whylens.dashboard.first import FirstAtRoot
from whylens.dashboard.kept import reading
from whylens.dashboard.offered import own_views
from whylens.dashboard.origin import OwnOrigin
from whylens.dashboard.root import Root
from whylens.dashboard.view import say_error
from whylens.errors import WhylensError


def read_ahead() -> None:
    """Read the newest run's beginnings beside the server's start, and import what views need."""
    own_views()
    try:
        root = Root.of(sys.argv[1])
        name = root.runs()[0]
        reading(root.folder(name), root.place, name).warm()
    except (WhylensError, IndexError, OSError) as error:
        logging.getLogger(__name__).info("nothing is read ahead: %s", error)


threading.Thread(target=read_ahead, name="read ahead", daemon=True).start()
app = st.App(
    Path(__file__).with_name("app.py"),
    middleware=[Middleware(OwnOrigin), Middleware(FirstAtRoot)],
    on_script_error=say_error,
)
