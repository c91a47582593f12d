"""Objectives: what an image is optimised for. They add, scale, and meet at the image."""

from whylens.guidance.objectives.base import (
    ClassifierObjective,
    LocalObjective,
    Objective,
    Weighted,
)
from whylens.guidance.objectives.classes import AvoidClass, TargetClass, targets_of
from whylens.guidance.objectives.disagreement import Disagreement, Vote, disagreement_among
from whylens.guidance.objectives.distances import FeatureDistance, PixelDistance
from whylens.guidance.objectives.features import ComponentObjective, FeatureObjective
from whylens.guidance.objectives.perceptual import (
    PerceptualDistance,
    PerceptualNetwork,
    load_perceptual,
)
from whylens.guidance.objectives.text import TextMatch

__all__ = [
    "AvoidClass",
    "ClassifierObjective",
    "ComponentObjective",
    "Disagreement",
    "FeatureDistance",
    "FeatureObjective",
    "LocalObjective",
    "Objective",
    "PerceptualDistance",
    "PerceptualNetwork",
    "PixelDistance",
    "TargetClass",
    "TextMatch",
    "Vote",
    "Weighted",
    "disagreement_among",
    "load_perceptual",
    "targets_of",
]
