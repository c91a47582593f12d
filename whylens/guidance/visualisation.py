"""Neural PCA feature visualisation: the image near grey in which a component is strongest.

From a grey image (0.5), alpha_l is maximised under an L2 ball by auto-PGD ("Spurious Features
Everywhere", section 3: radius 30 and 200 steps at 224 x 224). It is readable where the classifier
is adversarially robust; the probability that the image gets is evidence for any classifier.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from whylens.classifiers import Classifier
from whylens.guidance.apgd import apgd
from whylens.guidance.objectives import ComponentObjective

GREY = 0.5
STEPS = 200
# The paper's ball, of images of 3 x 224 x 224.
RADIUS, RADIUS_SIDE = 30.0, 224


@dataclass(frozen=True)
class Visualisation:
    """What `visualise` found for B problems.

    images [B, 3, S, S] in [0, 1]; their alphas [B] and those of grey, `grey_alphas` [B];
    probabilities [B, K] of all classes, and those of grey, `grey_probabilities` [K].
    """

    images: Tensor
    alphas: Tensor
    grey_alphas: Tensor
    probabilities: Tensor
    grey_probabilities: Tensor


def radius_at(side: int) -> float:
    """The ball's radius for images of 3 x side x side: 30 at 224, scaled with sqrt(pixels).

    So the change a pixel has room for is the same at every size.
    """
    return RADIUS * side / RADIUS_SIDE


def visualise(
    classifier: Classifier,
    directions: Tensor,
    offsets: Tensor,
    *,
    steps: int = STEPS,
    radius: float | None = None,
) -> Visualisation:
    """Maximise alpha = <d, phi> - c from grey, for directions [B, D] and offsets [B] at once.

    A component of `ClassComponents` has directions[l] and offsets[l]; neuron n has the n-th unit
    vector and 0. The radius is that of `radius_at` the classifier's image size if none is given.
    """
    side = classifier.image_size
    head = classifier.head.weight
    directions, offsets = directions.to(head), offsets.to(head)
    grey = torch.full((len(directions), 3, side, side), GREY, dtype=head.dtype, device=head.device)
    objective = ComponentObjective(classifier, directions, offsets, scale=torch.ones_like(offsets))
    within = radius_at(side) if radius is None else radius
    *_, found = apgd(objective, grey, within, steps)
    images = found.images
    with torch.no_grad():
        features = classifier.features(images)
        of_grey = classifier.features(grey[:1])
    return Visualisation(
        images,
        (features * directions).sum(1) - offsets,
        (of_grey * directions).sum(1) - offsets,
        classifier.activation(classifier.head(features)),
        classifier.activation(classifier.head(of_grey))[0],
    )
