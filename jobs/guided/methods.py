"""The method that changes images: the product's own, or one that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from whylens.errors import UsageError
from whylens.guidance.baselines.settings import (
    DvceSettings,
    LdceSettings,
    SvceSettings,
    steps_left,
)
from whylens.settings import Settings

if TYPE_CHECKING:
    from whylens.classifiers import Classes
    from whylens.guidance.state import State

MethodName = Literal["uvce", "svce", "dvce", "ldce"]
ROBUST_METHODS = ("svce", "dvce")


class BaselineSettings(Settings):
    """How earlier methods change images, where one is asked for."""

    robust: str | None = Field(
        None,
        description="svce, dvce: a robust classifier of the same classes, whose gradients can be "
        "seen.",
    )
    svce: SvceSettings = SvceSettings()
    dvce: DvceSettings = DvceSettings()
    ldce: LdceSettings = LdceSettings()


def check_baseline(method: MethodName, settings: BaselineSettings, classifier: Classes) -> None:
    """Refuse a robust classifier that the method does not take, or of other classes: UsageError."""
    from whylens.classifiers import describe

    if settings.robust is None:
        return
    if method not in ROBUST_METHODS:
        raise UsageError(f"the method {method} takes no robust classifier: leave it out")
    if describe(settings.robust).class_names != classifier.class_names:
        raise UsageError(
            f"the robust classifier {settings.robust} has other classes than "
            f"{classifier.name}: name one that has the same"
        )


def load_baseline(
    method: MethodName, settings: BaselineSettings, classifier: Classes, device: str = "cpu"
) -> Callable[..., Iterator[State]]:
    """The baseline, called without its settings.

    Raises
    ------
    UsageError
        As `check_baseline`.
    """
    from whylens.classifiers import load_classifier
    from whylens.guidance import baselines

    check_baseline(method, settings, classifier)
    options: dict[str, Any] = {"settings": getattr(settings, method)}
    if settings.robust is not None:
        options["robust"] = load_classifier(settings.robust, device)
    methods: dict[str, Callable[..., Iterator[State]]] = {
        "svce": baselines.pixel_counterfactual,
        "dvce": baselines.diffusion_counterfactual,
        "ldce": baselines.latent_counterfactual,
    }
    return partial(methods[method], **options)


def baseline_steps(method: MethodName, settings: BaselineSettings) -> int:
    """How many states a baseline shows beside the one that it starts from."""
    if method == "svce":
        from whylens.guidance.apgd import checkpoints

        return len(checkpoints(settings.svce.optimisation_steps)) + 1
    chain = settings.dvce if method == "dvce" else settings.ldce
    return steps_left(chain.steps, chain.start) + 1
