"""One neuron at a time: its words, and images in which it rises and falls."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View, follow, lead
from whylens.dashboard.views.drawing import show
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.neurons import NEURONS, Neuron


def draw(reading: Reading) -> None:
    """One neuron at a time: its words, and images in which it rises and falls."""
    if not reading[NEURONS]:
        st.info(NEURONS.empty(reading.data()))
        return
    st.subheader(NEURONS.title, anchor=False)
    neurons = {str(neuron.index): neuron for neuron in reading[NEURONS]}
    first = next(iter(neurons))
    chosen = st.selectbox(
        "Neuron",
        list(neurons),
        format_func=lambda index: neuron_title(neurons[index]),
        key=follow("neuron", neurons, first),
    )
    lead("neuron", chosen, first)
    show(html(NEURONS, "article", neurons[chosen]))


def neuron_title(neuron: Neuron) -> str:
    """A neuron in a list: its number, the class that it raises, and its word."""
    return f"{neuron.index}: {neuron.word or 'no word'} raises {neuron.class_name}"


VIEW = View(NEURONS.name, NEURONS.title, draw, "Pictures", 40, ":material/hub:")
