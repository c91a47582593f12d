"""Two pictures on each other with a handle between them: before on the left, after on the right."""

from __future__ import annotations

import streamlit as st

HTML = """
<div class="pair">
  <div class="stack"><img class="below"><img class="above"><span class="edge"></span></div>
  <label>
    <span class="left"></span>
    <input type="range" min="0" max="100" value="50">
    <span class="right"></span>
  </label>
</div>
"""
CSS = """
.pair { max-width: 30rem; font-family: var(--st-font); color: var(--st-text-color); }
.stack { position: relative; aspect-ratio: 1; border-radius: .6rem; overflow: hidden; }
img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
.edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000; }
label { display: flex; align-items: center; gap: .7rem; margin-top: .5rem; font-size: .875rem; }
input { flex: 1; accent-color: var(--st-primary-color); height: 1.5rem; }
"""
# Only text and data URIs that the server made go in: no name or caption ever becomes HTML.
JS = """
export default function ({ data, parentElement }) {
  const find = (name) => parentElement.querySelector(name);
  const [below, above, edge, handle] = [".below", ".above", ".edge", "input"].map(find);
  below.src = data.after; below.alt = data.after_alt;
  above.src = data.before; above.alt = data.before_alt;
  find(".left").textContent = data.left; find(".right").textContent = data.right;
  handle.setAttribute("aria-label", data.label);
  const move = () => {
    above.style.clipPath = `inset(0 ${100 - handle.value}% 0 0)`;
    edge.style.left = `${handle.value}%`;
  };
  handle.oninput = move;
  move();
}
"""


def slider(
    before: str, after: str, *, before_alt: str, after_alt: str, key: str, words: tuple[str, str]
) -> None:
    """Pictures as data URIs; `words` stand at the handle's ends."""
    made = st.components.v2.component("whylens.slider", html=HTML, css=CSS, js=JS)
    made(
        key=key,
        data={
            "before": before,
            "after": after,
            "before_alt": before_alt,
            "after_alt": after_alt,
            "left": words[0],
            "right": words[1],
            "label": f"How much is shown of {words[0]}, in percent of the width",
        },
    )
