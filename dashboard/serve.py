"""The server that `whylens dashboard` starts: Streamlit's, which answers its own pages alone."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from whylens.dashboard.origin import OwnOrigin
from whylens.dashboard.view import say_error

app = st.App(
    Path(__file__).with_name("app.py"),
    middleware=[Middleware(OwnOrigin)],
    on_script_error=say_error,
)
