"""Feature visualisations on the planted robust classifier."""

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.guidance.visualisation import radius_at, visualise
from whylens.images.tensors import to_batch
from whylens.neural_pca import class_components
from whylens.planted.drawing.data import draw_many


@pytest.fixture(scope="module")
def robust():
    """The robust classifier, features [N, D] and objects [N] of drawings."""
    classifier = load_classifier("planted:robust")
    drawings = draw_many("balanced", 400, 5)
    with torch.no_grad():
        features = classifier.features(to_batch(drawings.images, slice(None)))
    return classifier, features.double().numpy(), drawings.objects


def first_components(robust, classes):
    classifier, features, objects = robust
    weight, bias = classifier.head.weight.double().numpy(), classifier.head.bias.double().numpy()
    return [class_components(k, weight[k], bias[k], features[objects == k], top=4) for k in classes]


@pytest.mark.slow
def test_the_first_component_rises_far_and_brings_its_class(robust):
    classifier, features, _ = robust
    boat, house = (classifier.class_index(name) for name in ("boat", "house"))
    found = first_components(robust, (boat, house))
    directions = torch.from_numpy(np.stack([c.directions[0] for c in found]))
    offsets = torch.tensor([c.offsets[0] for c in found])
    shown = visualise(classifier, directions, offsets, steps=60)
    change = (shown.images - 0.5).flatten(1).norm(dim=1)
    assert (change <= radius_at(64) * 1.0001).all()
    for row, of_class in enumerate(found):
        alphas = of_class.alphas(features)[:, 0]
        assert shown.grey_alphas[row] < np.median(alphas) + 1
        # Higher than in nearly all of all classes' drawings, and its class is all but certain.
        assert shown.alphas[row] > np.quantile(alphas, 0.98)
        k = of_class.class_index
        assert shown.probabilities[row, k] > 0.95
        assert shown.grey_probabilities[k] < 0.5
        # alpha of the picture by the components' own formula.
        with torch.no_grad():
            of_picture = classifier.features(shown.images[[row]]).double().numpy()
        assert of_class.alphas(of_picture)[0, 0] == pytest.approx(
            float(shown.alphas[row]), abs=1e-3
        )


def test_a_neuron_is_raised_too_and_more_steps_raise_it_further(robust):
    classifier, features, _ = robust
    neuron = int(features.std(0).argmax())
    unit = torch.nn.functional.one_hot(torch.tensor([neuron]), classifier.feature_size).float()
    few, many = (visualise(classifier, unit, torch.zeros(1), steps=steps) for steps in (3, 40))
    assert few.grey_alphas < few.alphas < many.alphas
    assert many.alphas > features[:, neuron].max()


def test_the_ball_is_the_paper_s_at_its_size_and_keeps_room_a_pixel():
    assert radius_at(224) == 30
    # Root mean square change of a pixel's channel: the same at every size.
    rooms = [radius_at(side) / np.sqrt(3 * side * side) for side in (64, 224, 384)]
    np.testing.assert_allclose(rooms, rooms[0])
