"""A classifier whose network is in another process."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whylens.classifiers.classifier import Classifier


class Elsewhere(Classifier):
    """All of a classifier but its network: names, sizes, the head.

    Whatever needs the network is a question, which is sent to where it is. A loss goes there as a
    whole and comes back as values and gradients at the images; nothing is differentiated across.
    """

    @abstractmethod
    def asked(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """`question(*arguments)`, answered in the network's process.

        This classifier among the arguments, or in an objective that is one, is there the classifier
        itself. Tensors come to its device, and answers back to the device of this one.
        """

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> the network's input; without a gradient."""
        seen: Tensor = self.asked(_preprocess, self, images)
        return seen

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, D]; without a gradient."""
        phi: Tensor = self.asked(_features, self, images)
        return phi


@torch.no_grad()
def _preprocess(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.preprocess(images)


@torch.no_grad()
def _features(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.features(images)
