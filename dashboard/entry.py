"""Who may see the dashboard: whoever reaches it, or signs in by Streamlit's own means."""

from __future__ import annotations

import hmac
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError


def let_in() -> bool:
    """Whether the page may be drawn; where not, how to sign in is drawn instead.

    Streamlit's secrets.toml decides: a section [auth] asks for the sign-in of its OpenID Connect
    provider, an entry `password` for that password; without them everybody is let in.
    """
    if secret("auth") is not None:
        if st.user.get("is_logged_in"):
            return True
        st.button("Sign in", on_click=st.login)
        return False
    password = secret("password")
    if password is None or st.session_state.get("let in"):
        return True
    given = st.text_input("Password", type="password", key="password")
    if hmac.compare_digest(given.encode(), str(password).encode()):
        st.session_state["let in"] = True
        st.rerun()
    if given:
        st.error("That is not the password.")
    return False


def person() -> str | None:
    """The signed-in user's name or address; None where nobody signs in."""
    if not st.user.get("is_logged_in"):
        return None
    return str(st.user.get("name") or st.user.get("email") or st.user.get("sub"))


def secret(name: str) -> Any:
    """An entry of Streamlit's secrets.toml; None where there is none."""
    try:
        return st.secrets.get(name)
    except StreamlitSecretNotFoundError:
        return None
