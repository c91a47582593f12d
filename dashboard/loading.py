"""Whether a view may load a model that a run names."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.view import literal

# The session's models, by name.
LET = "models that may be loaded"


def allowed(name: str, what: str) -> bool:
    """Whether the viewer let the run's `what`, a classifier say, be loaded; else a button asks.

    That may read files and fetch weights, and the name is what a run's record says: nothing is
    loaded because somebody opened a page.
    """
    if name in st.session_state.get(LET, ()):
        return True
    st.write(f"This loads the run's {what}, {literal(name)}, on this server.")
    st.button(f"Load the {what}", type="primary", on_click=_allow, args=(name,))
    return False


def _allow(name: str) -> None:
    st.session_state[LET] = {*st.session_state.get(LET, ()), name}
