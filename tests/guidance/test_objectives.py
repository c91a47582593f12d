import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.errors import UsageError
from whylens.guidance.objectives import (
    AvoidClass,
    ComponentObjective,
    Disagreement,
    FeatureDistance,
    FeatureObjective,
    Objective,
    PerceptualDistance,
    PerceptualNetwork,
    PixelDistance,
    TargetClass,
    TextMatch,
    Vote,
    disagreement_among,
    load_perceptual,
    targets_of,
)

TARGETS = torch.tensor([2, 7, 0])
FEATURES = torch.tensor([5, 0, 95])
TEXTS = ("a photo of a fish", "a photo of a star on sea", "a photo of a moon")
NEGATIVES = ("a photo of sea", "a photo of a ring")
LAYERS = (3, 8, 15, 22, 29)


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def images():
    return drawn(3, 3, 64, 64)


class Remote(Objective):
    """An objective that knows its gradient by itself, as an actor elsewhere would: sum of cubes."""

    def __init__(self, factors):
        self.factors = factors

    def value_and_gradient(self, images):
        factors = self.factors.view(-1, 1, 1, 1)
        return (factors * images**3).sum((1, 2, 3)), 3 * factors * images**2

    def select(self, rows):
        return Remote(self.factors[rows])


@pytest.fixture(scope="module")
def perceptual():
    """LPIPS of VGG-16 with random weights: the distance's form, not its taste."""
    from torchvision.models import vgg16

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = vgg16(weights=None).features
        weights = [torch.rand(width) for width in (64, 128, 256, 512, 512)]
    return PerceptualNetwork(layers, weights).double()


@pytest.fixture(scope="module")
def clip():
    return load_classifier("planted:clip").double()


def every_objective(classifiers):
    a, b = classifiers
    directions = drawn(3, a.feature_size, seed=1) - 0.5
    offsets = drawn(3, seed=2)
    reference, mask = drawn(3, 3, 64, 64, seed=3), drawn(3, 1, 64, 64, seed=4)
    component = ComponentObjective(a, directions, offsets, weight_log_p=0.3, classes=TARGETS)
    return {
        "cross-entropy": TargetClass(a, TARGETS),
        "probability": TargetClass(a, TARGETS, "probability"),
        "target margin": TargetClass(a, TARGETS, "margin"),
        "avoided": AvoidClass(a, TARGETS),
        "avoided probability": AvoidClass(a, TARGETS, "probability"),
        "avoided margin": AvoidClass(a, TARGETS, "margin"),
        "avoided log": AvoidClass(a, TARGETS, "log_probability"),
        "disagreement": Disagreement(a, b, TARGETS, TARGETS.flip(0)),
        "log disagreement": Disagreement(a, b, TARGETS, TARGETS.flip(0), "log"),
        "log ratio": Disagreement(a, b, TARGETS, TARGETS.flip(0), "log_ratio"),
        "margin disagreement": Disagreement(a, b, TARGETS, TARGETS.flip(0), "margin"),
        "disagreement of three": disagreement_among(
            [Vote(a, TARGETS)], [Vote(b, TARGETS), Vote(b, TARGETS.flip(0))], "log"
        ),
        "neuron": FeatureObjective(
            a, FEATURES, torch.tensor([1.0, -1.0, 1.0]), weight_log_p=0.05, classes=TARGETS
        ),
        "feature distance": FeatureDistance(a, reference),
        "absolute distance": PixelDistance(reference, mask, power=1),
        "component": ComponentObjective(a, directions, offsets),
        "component and log p": component,
        "distance": PixelDistance(reference),
        "masked distance": PixelDistance(reference, mask),
        "elsewhere": Remote(drawn(3, seed=5)),
        "sum": 2 * (TargetClass(a, TARGETS) + 0.5 * PixelDistance(reference)) + component,
    }


NAMES = (
    "cross-entropy", "probability", "target margin", "avoided", "avoided probability",
    "avoided margin", "avoided log", "disagreement", "log disagreement", "log ratio",
    "margin disagreement",
    "disagreement of three", "neuron", "component", "component and log p", "distance",
    "masked distance", "absolute distance", "feature distance", "elsewhere", "sum",
)  # fmt: skip


def check_gradient(objective, images):
    """The gradient against central differences along two random ways."""
    values, gradients = objective.value_and_gradient(images)
    assert values.shape == (3,)
    assert gradients.shape == images.shape
    assert not values.requires_grad
    assert not gradients.requires_grad
    for seed in (6, 7):
        way, h = drawn(*images.shape, seed=seed) - 0.5, 1e-8
        ahead, behind = (
            objective.value_and_gradient(images + sign * h * way)[0] for sign in (1, -1)
        )
        slopes = (gradients * way).sum((1, 2, 3))
        assert slopes.abs().min() > 0
        np.testing.assert_allclose(slopes, (ahead - behind) / (2 * h), rtol=2e-4, atol=1e-6)


def check_selection(objective, images):
    """Some problems, in another order, have the values and gradients that they had among all."""
    values, gradients = objective.value_and_gradient(images)
    rows = torch.tensor([2, 0])
    some_values, some_gradients = objective.select(rows).value_and_gradient(images[rows])
    torch.testing.assert_close(some_values, values[rows])
    torch.testing.assert_close(some_gradients, gradients[rows])
    again, _ = objective.select(rows).select(torch.tensor([1])).value_and_gradient(images[:1])
    torch.testing.assert_close(again, values[:1])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_finite_differences_of_the_values(double_classifiers, images, name):
    check_gradient(every_objective(double_classifiers)[name], images)


@pytest.mark.parametrize("name", NAMES)
def test_some_problems_alone_have_the_same_values_and_gradients(double_classifiers, images, name):
    check_selection(every_objective(double_classifiers)[name], images)


@pytest.mark.parametrize("form", ["inner_product", "spherical", "contrast"])
def test_a_text_is_matched_as_its_formula_says(clip, images, form):
    objective = TextMatch(clip, TEXTS, form, NEGATIVES if form == "contrast" else ())
    check_gradient(objective, images)
    check_selection(objective, images)
    values, _ = objective.value_and_gradient(images)
    with torch.no_grad():
        seen = clip.model.encode_image(clip.preprocess(images)).numpy()
        said = clip.model.encode_text(clip.tokenizer([*TEXTS, *NEGATIVES])).numpy()
        scale = float(clip.model.logit_scale.exp())
    seen = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    said = said / np.linalg.norm(said, axis=1, keepdims=True)
    for row in range(3):
        cosine = seen[row] @ said[row]
        if form == "inner_product":
            expected = -cosine
        elif form == "spherical":
            # The chord of an angle t is 2 sin(t / 2): the distance is t^2 / 2.
            expected = np.arccos(cosine) ** 2 / 2
        else:
            logits = scale * np.array([cosine, *(said[3:] @ seen[row])])
            expected = np.log(np.exp(logits).sum()) - logits[0]
        assert float(values[row]) == pytest.approx(float(expected), rel=1e-6)


def test_texts_need_a_model_that_reads(double_classifiers, clip):
    with pytest.raises(UsageError, match=r"planted:biased has no text tower"):
        TextMatch(double_classifiers[0], TEXTS)
    with pytest.raises(UsageError, match=r"'contrast' goes with negatives"):
        TextMatch(clip, TEXTS, "contrast")
    with pytest.raises(UsageError, match=r"'spherical' goes without negatives"):
        TextMatch(clip, TEXTS, "spherical", NEGATIVES)


@pytest.mark.slow
def test_perceptual_distance_is_the_weighed_distance_of_unit_activations(perceptual):
    images, reference = drawn(3, 3, 16, 16), drawn(3, 3, 16, 16, seed=1)
    objective = PerceptualDistance(perceptual, reference)
    check_gradient(objective, images)
    check_selection(objective, images)
    values, _ = objective.value_and_gradient(images)
    layers = [layer for block in perceptual.blocks for layer in block]
    assert len(layers) == 30

    def activations(pixels):
        shift, scale = np.array([-0.03, -0.088, -0.188]), np.array([0.458, 0.448, 0.45])
        hidden = torch.from_numpy(
            ((2 * pixels.numpy() - 1) - shift[:, None, None]) / scale[:, None, None]
        )[None]
        found = []
        for place, layer in enumerate(layers):
            hidden = layer(hidden)
            if place in LAYERS:
                found.append(hidden[0].detach().numpy())
        return found

    for row in range(3):
        expected = 0.0
        for place, (x, y) in enumerate(
            zip(activations(images[row]), activations(reference[row]), strict=True)
        ):
            gap = x / np.linalg.norm(x, axis=0) - y / np.linalg.norm(y, axis=0)
            weight = perceptual.get_buffer(f"weight_{place}").numpy()
            expected += np.einsum("c,chw->hw", weight, gap**2).mean()
        assert float(values[row]) == pytest.approx(expected, rel=1e-6)
    same, _ = PerceptualDistance(perceptual, images).value_and_gradient(images)
    assert same.abs().max() < 1e-12


@pytest.mark.slow
def test_perceptual_weights_are_read_from_files_of_the_known_forms(tmp_path, perceptual):
    vgg, own, other = tmp_path / "vgg16.pth", tmp_path / "vgg.pth", tmp_path / "other.pth"
    layers = [layer for block in perceptual.blocks for layer in block]
    state = {
        f"features.{place}.{name}": value
        for place, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }
    linear = {
        f"lin{i}.model.1.weight": perceptual.get_buffer(f"weight_{i}").view(1, -1, 1, 1)
        for i in range(5)
    }
    torch.save(state, vgg)
    torch.save(linear, own)
    torch.save({"x": torch.zeros(1)}, other)
    images, reference = drawn(2, 3, 16, 16).float(), drawn(2, 3, 16, 16, seed=1).float()
    loaded = load_perceptual(vgg, own)
    torch.testing.assert_close(
        loaded(images, reference).double(), perceptual(images.double(), reference.double()),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"VGG-16's weights are not at .*gone\.pth"):
        load_perceptual(tmp_path / "gone.pth", own)
    with pytest.raises(UsageError, match=r"other\.pth does not hold the weights of torchvision"):
        load_perceptual(other, own)
    with pytest.raises(UsageError, match=r"other\.pth does not hold LPIPS' weights"):
        load_perceptual(vgg, other)


def probabilities(classifier, images):
    with torch.no_grad():
        logits = classifier.logits(images).numpy()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_target_class_is_minus_log_p_or_minus_p(double_classifiers, images):
    a, _ = double_classifiers
    p = probabilities(a, images)[range(3), TARGETS]
    values, _ = TargetClass(a, TARGETS).value_and_gradient(images)
    np.testing.assert_allclose(values, -np.log(p), rtol=1e-10)
    values, _ = TargetClass(a, TARGETS, "probability").value_and_gradient(images)
    np.testing.assert_allclose(values, -p, rtol=1e-10)


def test_margins_leave_the_target_out_of_the_largest_other_logit(double_classifiers, images):
    a, b = double_classifiers
    with torch.no_grad():
        logits = {one: one.logits(images).numpy() for one in (a, b)}

    def margin(one, targets):
        return np.array(
            [row[k] - np.delete(row, k).max() for row, k in zip(logits[one], targets, strict=True)]
        )

    values, _ = TargetClass(a, TARGETS, "margin").value_and_gradient(images)
    np.testing.assert_allclose(values, -margin(a, TARGETS), rtol=1e-10)
    values, _ = AvoidClass(a, TARGETS, "margin").value_and_gradient(images)
    np.testing.assert_allclose(values, margin(a, TARGETS), rtol=1e-10)
    # Where the target has the largest logit too, which -inf is for.
    said = torch.from_numpy(logits[a].argmax(1))
    values, _ = TargetClass(a, said, "margin").value_and_gradient(images)
    assert (values < 0).all()
    values, _ = Disagreement(a, b, TARGETS, said, "margin").value_and_gradient(images)
    np.testing.assert_allclose(values, margin(b, said) - margin(a, TARGETS), rtol=1e-10)


def test_log_disagreement_and_avoided_classes_are_logs_of_p(double_classifiers, images):
    a, b = double_classifiers
    p_a, p_b = (probabilities(one, images)[range(3), TARGETS] for one in (a, b))
    values, _ = AvoidClass(a, TARGETS).value_and_gradient(images)
    np.testing.assert_allclose(values, -np.log1p(-p_a), rtol=1e-8)
    values, _ = AvoidClass(a, TARGETS, "probability").value_and_gradient(images)
    np.testing.assert_allclose(values, p_a, rtol=1e-10)
    values, _ = Disagreement(a, b, TARGETS, TARGETS, "log").value_and_gradient(images)
    np.testing.assert_allclose(values, -np.log(p_a) - np.log1p(-p_b), rtol=1e-8)
    values, _ = Disagreement(a, b, TARGETS, TARGETS, "log_ratio").value_and_gradient(images)
    np.testing.assert_allclose(values, -np.log(p_a) + np.log(p_b), rtol=1e-8)


def test_an_ensemble_disagrees_by_the_means_of_both_sides(double_classifiers, images):
    a, b = double_classifiers
    p_a, p_b = (probabilities(one, images)[range(3), TARGETS] for one in (a, b))
    three = disagreement_among([Vote(a, TARGETS)], [Vote(b, TARGETS), Vote(a, TARGETS.flip(0))])
    values, _ = three.value_and_gradient(images)
    other = probabilities(a, images)[range(3), TARGETS.flip(0)]
    np.testing.assert_allclose(values, -p_a + (p_b + other) / 2, rtol=1e-10)
    for form in ("probability", "log", "log_ratio", "margin"):
        pair = disagreement_among([Vote(a, TARGETS)], [Vote(b, TARGETS)], form)
        both = Disagreement(a, b, TARGETS, TARGETS, form)
        for one, two in zip(
            pair.value_and_gradient(images), both.value_and_gradient(images), strict=True
        ):
            torch.testing.assert_close(one, two)
    with pytest.raises(UsageError, match="a classifier that says the class, and one that does not"):
        disagreement_among([Vote(a, TARGETS)], [])


def test_a_class_that_one_classifier_lacks_is_refused_by_both_names(double_classifiers):
    a, b = double_classifiers
    few = torch.tensor([2, 10, 0])
    with pytest.raises(UsageError, match=r"planted:balanced lacks the class 10.*image 1.*0 to 9"):
        Disagreement(a, b, TARGETS, few)
    for kind in (TargetClass, AvoidClass):
        with pytest.raises(UsageError, match=r"planted:biased lacks the class 10"):
            kind(a, few)
    with pytest.raises(UsageError, match=r"planted:biased has no class 'starr'; near names: star"):
        targets_of(a, ["fish", "starr"])
    assert targets_of(a, ["fish", 3]).tolist() == [a.class_names.index("fish"), 3]


def test_a_neuron_is_its_feature_signed_and_scaled(double_classifiers, images):
    a, _ = double_classifiers
    with torch.no_grad():
        phi = a.features(images).numpy()[range(3), FEATURES]
    signs, scale = torch.tensor([1.0, -1, -1]), torch.tensor([0.5, 2, 4])
    values, _ = FeatureObjective(a, FEATURES, signs, scale).value_and_gradient(images)
    np.testing.assert_allclose(values, -signs.numpy() * phi / scale.numpy(), rtol=1e-10)
    values, _ = FeatureObjective(a, FEATURES, weight_log_p=0.5, classes=TARGETS).value_and_gradient(
        images
    )
    log_p = np.log(probabilities(a, images)[range(3), TARGETS])
    np.testing.assert_allclose(values, -phi - 0.5 * log_p, rtol=1e-10)
    with pytest.raises(UsageError, match=r"planted:biased has the features 0 to 95, not 96"):
        FeatureObjective(a, FEATURES + 1)


def test_feature_distance_is_relative_to_the_references_own_length(double_classifiers, images):
    a, _ = double_classifiers
    reference = drawn(3, 3, 64, 64, seed=3)
    with torch.no_grad():
        x, y = a.features(images).numpy(), a.features(reference).numpy()
    values, _ = FeatureDistance(a, reference).value_and_gradient(images)
    expected = ((x - y) ** 2).sum(1) / (y**2).sum(1)
    np.testing.assert_allclose(values, expected, rtol=1e-10)


def test_disagreement_is_lowest_where_the_first_sees_the_class_and_the_second_does_not(
    double_classifiers, images
):
    a, b = double_classifiers
    values, _ = Disagreement(a, b, TARGETS, TARGETS.flip(0)).value_and_gradient(images)
    p_a = probabilities(a, images)[range(3), TARGETS]
    p_b = probabilities(b, images)[range(3), TARGETS.flip(0)]
    np.testing.assert_allclose(values, p_b - p_a, rtol=1e-10)


def test_component_is_minus_alpha_in_units_of_its_direction(double_classifiers, images):
    a, _ = double_classifiers
    directions, offsets = drawn(3, a.feature_size, seed=1), drawn(3, seed=2)
    with torch.no_grad():
        features = a.features(images)
    alphas = torch.stack(
        [d @ f - c for d, f, c in zip(directions, features, offsets, strict=True)]
    ).numpy()
    lengths = np.linalg.norm(directions.numpy(), axis=1)
    values, _ = ComponentObjective(a, directions, offsets).value_and_gradient(images)
    np.testing.assert_allclose(values, -alphas / lengths, rtol=1e-10)
    values, _ = ComponentObjective(
        a, directions, offsets, weight_log_p=0.3, classes=TARGETS, scale=torch.tensor([1.0, 2, 4])
    ).value_and_gradient(images)
    log_p = np.log(probabilities(a, images)[range(3), TARGETS])
    np.testing.assert_allclose(values, -alphas / [1, 2, 4] - 0.3 * log_p, rtol=1e-10)


def test_pixel_distance_is_the_mean_square_where_the_mask_is():
    images, reference = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    values, gradients = PixelDistance(reference).value_and_gradient(images)
    difference = (images - reference).numpy()
    np.testing.assert_allclose(values, (difference**2).mean((1, 2, 3)))
    np.testing.assert_allclose(gradients, 2 * difference / 48)
    values, gradients = PixelDistance(reference, power=1).value_and_gradient(images)
    np.testing.assert_allclose(values, np.abs(difference).mean((1, 2, 3)))
    np.testing.assert_allclose(gradients, np.sign(difference) / 48)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    mask[:, :, 1:3, 2] = 1
    values, gradients = PixelDistance(reference, mask).value_and_gradient(images)
    np.testing.assert_allclose(values, (difference[:, :, 1:3, 2] ** 2).sum((1, 2)) / 48)
    assert not gradients[:, :, 0].any()


def test_objectives_add_and_scale_wherever_they_are_computed(double_classifiers, images):
    a, _ = double_classifiers
    target, remote = TargetClass(a, TARGETS), Remote(drawn(3, seed=5))
    both = (target + remote * 0.25) * 2 + remote
    for part in range(2):
        expected = (
            2 * target.value_and_gradient(images)[part]
            + 1.5 * remote.value_and_gradient(images)[part]
        )
        torch.testing.assert_close(both.value_and_gradient(images)[part], expected)


def test_classifiers_and_images_are_left_without_gradients(double_classifiers, images):
    for objective in every_objective(double_classifiers).values():
        with torch.no_grad():
            objective.value_and_gradient(images)
    assert images.grad is None
    assert not images.requires_grad
    for classifier in double_classifiers:
        assert all(parameter.grad is None for parameter in classifier.parameters())
