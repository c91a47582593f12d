"""One image of the viewer's or of the run: what the classifier says of it, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.loading import allowed
from whylens.dashboard.looking import alphas
from whylens.dashboard.view import View, bound, literal, panel
from whylens.dashboard.views.drawing import show, strip
from whylens.images.collection import RejectedImageError
from whylens.images.decoding import SUFFIXES, decode
from whylens.jobs.people.evidence import (
    MainImage,
    images_of_class,
    nearest_images,
    strongest,
    thumbs,
)
from whylens.jobs.report.page import stylesheet
from whylens.jobs.words import amount

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.jobs.people.explanation import Exemplar
    from whylens.neural_pca import ClassComponents

# What an uploaded file may be: megabytes, and pixels before it is decoded.
MEGABYTES, MOST_PIXELS = 20, 25_000_000
# Images of a class to choose from; exemplars beside a component; nearest images.
CHOICE, EXEMPLARS, NEAR = 12, 3, 8


def draw(reading: Reading) -> None:
    """One image of the viewer's or of the run: what the classifier says of it, and why."""
    st.subheader("Explain an image", anchor=False)
    run, name = reading.run, reading.run.setting("classifier")
    if not (name and run.has("components") and run.has("verdicts")):
        st.info("This needs components: the search for them did not run or has not finished.")
        return
    given = st.file_uploader(
        "Your image",
        [suffix.removeprefix(".") for suffix in sorted(SUFFIXES)],
        max_upload_size=MEGABYTES,
        help=f"At most {MEGABYTES} MB and {MOST_PIXELS // 1_000_000} megapixels. It is not kept.",
    )
    if given is not None:
        with panel():
            _uploaded(reading, str(name), given.getvalue(), given.name)
        return
    if (
        run.has("images")
        and (one := _picked(reading)) is not None
        and allowed(str(name), "classifier")
    ):
        with panel():
            pixels = decode(one.thumb or b"")
            _decision(reading, str(name), pixels, one.image_id, one.features)
            st.caption(
                "The decision is that on the image as it was embedded; heat maps are drawn on its "
                "thumbnail."
            )


def _uploaded(reading: Reading, name: str, content: bytes, called: str) -> None:
    try:
        pixels = decode(content, MOST_PIXELS)
    except RejectedImageError as error:
        st.error(literal(f"{called} can't be used: {error}"))
        return
    if allowed(name, "classifier"):
        _decision(reading, name, pixels, called, None)


@st.cache_resource(show_spinner="Loading the classifier", max_entries=2)
def _classifier(name: str) -> Classifier:
    from whylens.classifiers import load_classifier

    return load_classifier(name)


def _picked(reading: Reading) -> MainImage | None:
    """An image of the run by its class; those that are taken for another come first."""
    known = {one.class_name: one.class_index for one in reading.judged().values()}
    chosen = st.selectbox(
        "Or an image of the run, by class",
        list(known),
        index=None,
        placeholder="Choose a class; its mistaken images come first",
        **bound("class"),
    )
    if chosen is None:
        return None
    images = images_of_class(reading.run, known[chosen], CHOICE)
    ids = [one.image_id for one in images]
    strip([(one.thumb, f"{chosen} image {one.image_id}", one.image_id) for one in images])
    asked = st.pills("Explain", ids, **bound("image"))
    return next((one for one in images if one.image_id == asked), None)


def _decision(
    reading: Reading, name: str, pixels: np.ndarray, called: str, phi: np.ndarray | None
) -> None:
    from whylens.jobs.people.explain import decision, features_of
    from whylens.jobs.people.explanation_page import body

    classifier = _classifier(name)

    def exemplars(found: ClassComponents, order: np.ndarray) -> list[tuple[Exemplar, ...]]:
        of_class = alphas(reading, found.class_index)
        if of_class is None or not of_class.ids:
            return [()] * len(order)
        return strongest(reading.run, of_class, order, EXEMPLARS)

    seen = features_of(classifier, pixels) if phi is None else phi
    found = decision(reading.run, classifier, pixels, called, exemplars, phi=seen)
    st.html(f"<style>{stylesheet('explain.css')}</style>")
    show(body(found))
    near, looked_at, total = nearest_images(reading.run, seen, NEAR)
    st.markdown("##### The run's images nearest to it, in the classifier's features")
    pictures = thumbs(reading.run, [image_id for image_id, _ in near], "main")
    strip([(pictures.get(i), f"Near: {i}", f"at {far:.2f}") for i, far in near], NEAR)
    if looked_at < total:
        st.caption(f"Of {amount(looked_at, 'image')} of {total:,}: of all, `whylens search` tells.")


VIEW = View("explain", "Explain an image", draw, "Why", 30, ":material/troubleshoot:")
