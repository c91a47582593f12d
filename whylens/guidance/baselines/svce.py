"""SVCE: the classifier's gradient followed in pixel space, within a ball around the image.

Augustin, Meinke and Hein, "Adversarial robustness on in- and out-distribution improves
explainability" (ECCV 2020), with auto-PGD; Boreiko et al., "Sparse visual counterfactual
explanations in image space" (GCPR 2022), compare norms. It needs a robust classifier: on others it
finds adversarial noise.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from whylens.diffusion.sampler import Sampler
from whylens.guidance.apgd import apgd
from whylens.guidance.baselines.interface import check_batch, shown
from whylens.guidance.baselines.settings import SvceSettings
from whylens.guidance.objectives import TargetClass
from whylens.guidance.state import State


def pixel_counterfactual(
    sampler: Sampler,
    images: Tensor,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
    targets: Tensor,
    classifier: Any,
    settings: SvceSettings,
    *,
    robust: Any | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[State]:
    """Change images [B, 3, S, S] in [0, 1] by auto-PGD until the classifier says `targets` [B].

    The sampler and the prompts play no part. With a robust classifier the sum of both
    cross-entropies is lowered: what it asks for is visible, what the classifier asks for flips it.

    Raises
    ------
    ValueError
        If prompts, targets or seeds are not as many as the images.
    UsageError
        If a classifier lacks a target.
    """
    check_batch(images, prompts_before, prompts_after, targets, seeds)
    objective = TargetClass(classifier, targets)
    steered = objective if robust is None else objective + TargetClass(robust, targets)
    radius = settings.radius * images[0].numel() ** 0.5
    yield shown(0, images, objective.value_and_gradient(images)[0])
    found = apgd(steered, images, radius, settings.optimisation_steps)
    for step, optimum in enumerate(found, start=1):
        yield shown(step, optimum.images, objective.value_and_gradient(optimum.images)[0])
