"""Classes large enough for the route through single precision, beside numpy in double precision."""

import numpy as np
import pytest
import scipy.linalg

from whylens.neural_pca import Moments, class_components, eigen, from_moments

COUNT, SIZE, TOP = 600, 700, 48


@pytest.fixture
def precisions(monkeypatch):
    """What was used, in order: "krylov", or the precision that LAPACK was called with."""
    used = []
    krylov, largest = eigen._krylov, eigen._largest

    def tried(matrix, count):
        found = krylov(matrix, count)
        if found is not None:
            used.append("krylov")
        return found

    def seen(matrix, count):
        used.append(matrix.dtype.name)
        return largest(matrix, count)

    monkeypatch.setattr(eigen, "_krylov", tried)
    monkeypatch.setattr(eigen, "_largest", seen)
    return used


def realistic(seed, count=COUNT, size=SIZE):
    """Non-negative features of falling variances plus noise, and a weight."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(count, 60)) * np.arange(1, 61) ** -0.7
    features = factors @ generator.normal(size=(60, size)) + 0.3 * generator.normal(
        size=(count, size)
    )
    features = np.maximum(features + generator.normal(size=size), 0)
    return features.astype(np.float32), generator.normal(size=size)


def spectrum(values, seed=0, count=COUNT, size=SIZE):
    """Features [count, size] whose covariance has these eigenvalues, and a weight of ones."""
    generator = np.random.default_rng(seed)
    left = generator.normal(size=(count, len(values)))
    left, _ = np.linalg.qr(left - left.mean(0))
    right, _ = np.linalg.qr(generator.normal(size=(size, len(values))))
    return left * np.sqrt(np.asarray(values) * count) @ right.T, np.ones(size)


def textbook(features, weight):
    psi = features.astype(np.float64) * weight
    values, vectors = np.linalg.eigh(np.cov(psi.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    return values, (psi - psi.mean(0)) @ vectors * vectors.sum(0)


def check(found, features, weight, top=TOP):
    """Variances, orthonormality, and alphas of components that are set apart by 1 %."""
    values, alphas = textbook(features, weight)
    np.testing.assert_allclose(found.variances, values[:top], rtol=1e-7, atol=1e-9 * values[0])
    assert found.variances.sum() == pytest.approx(values[:top].sum(), rel=1e-7)
    assert found.total_variance == pytest.approx(values.sum(), rel=1e-9)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(top), atol=1e-10)
    falls = -np.diff(values[: top + 1]) / values[:top]
    apart = np.minimum(falls, np.append(1, falls[:-1])) >= 0.01
    expected = alphas[:, :top][:, apart]
    error = np.abs(found.alphas(features)[:, apart] - expected).max(0) / np.abs(expected).max(0)
    assert error.max(initial=0) < 1e-4
    return int(apart.sum())


@pytest.mark.parametrize("seed", range(3))
def test_both_routes_are_right_in_single_precision_and_refined(seed, precisions):
    features, weight = realistic(seed)
    assert check(class_components(0, weight, 0.0, features, TOP), features, weight) > 20
    moments = Moments.of(features)
    assert check(from_moments(0, weight, 0.0, moments, TOP), features, weight) > 20
    assert precisions == ["krylov", "krylov"]


def test_where_the_krylov_method_would_take_too_long_single_precision_is_refined(precisions):
    features, weight = realistic(3)
    assert check(class_components(0, weight, 0.0, features, 120), features, weight, 120) > 20
    assert precisions == ["float32"]


def test_more_images_than_features_take_the_route_of_the_covariance(precisions):
    features, weight = realistic(5, count=700, size=500)
    check(class_components(0, weight, 0.0, features, TOP), features, weight)
    assert precisions == ["krylov"]


def test_more_equal_eigenvalues_than_a_krylov_block_has_vectors_are_all_found(precisions):
    values = np.concatenate([np.full(40, 9.0), np.linspace(5, 4, 12), np.linspace(1, 0.1, 500)])
    features, weight = spectrum(values)
    found = class_components(0, weight, 0.0, features, TOP)
    assert "krylov" not in precisions
    check(found, features, weight)
    # One by one they are arbitrary; what they span is not.
    _, _, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    inside = np.linalg.norm(found.vectors[:40] @ right[:40].T, axis=1)
    np.testing.assert_allclose(inside, 1, atol=1e-7)


@pytest.mark.parametrize(
    "values",
    [
        # The last components that are kept are not set apart from those that are not.
        np.concatenate([np.linspace(9, 5, 30), np.full(100, 1.0), np.linspace(0.9, 0.1, 300)]),
        # Fewer directions than components are asked for.
        np.linspace(3, 1, 30),
    ],
    ids=["no gap", "low rank"],
)
def test_where_single_precision_is_not_enough_double_precision_is_used(values, precisions):
    features, weight = spectrum(values)
    found = class_components(0, weight, 0.0, features, TOP)
    assert precisions[-1] == "float64"
    check(found, features, weight, min(TOP, len(values)))


def test_a_large_common_value_and_large_features_cost_no_digits(precisions):
    features, weight = realistic(7)
    features = features.astype(np.float64)
    plain = class_components(0, weight, 0.0, features, TOP)
    shifted = class_components(0, weight, 0.0, features + 1e4, TOP)
    np.testing.assert_allclose(shifted.variances, plain.variances, rtol=1e-7)
    # Their squares are beyond single precision.
    large = class_components(0, weight, 0.0, features * 1e20, TOP)
    np.testing.assert_allclose(large.variances, plain.variances * 1e40, rtol=1e-7)
    assert precisions == ["krylov", "krylov", "float64"]


def test_dead_and_repeated_features_and_images(precisions):
    features, weight = realistic(8)
    features[:, ::3] = 0
    features[:, 1] = features[:, 2]
    features[400:] = features[:200]
    check(class_components(0, weight, 0.0, features, TOP), features, weight)


@pytest.mark.parametrize("place", [0, 5, 20, 40])
def test_a_component_nearly_orthogonal_to_ones_has_the_right_alphas(place, precisions):
    # alpha_l has the factor <1, v_l>: errors of v_l count most where it is small.
    features, weight = realistic(9)
    psi = features.astype(np.float64) * weight
    left, sizes, right = np.linalg.svd(psi - psi.mean(0), full_matrices=False)
    # The same spectrum and images, turned so that one eigenvector's entries add up to 0.001.
    others = np.delete(right[:TOP], place, 0)
    excess = right[place].sum() - 1e-3
    steady = right[place] - excess * others.sum(1) / (others.sum(1) ** 2).sum() @ others
    rest = np.delete(right, place, 0)
    right = np.linalg.qr(np.concatenate([steady[None], rest]).T)[0].T
    order = np.insert(np.arange(1, len(right)), place, 0)
    psi = left * sizes @ right[order] + psi.mean(0)
    found = class_components(0, np.ones(SIZE), 0.0, psi, TOP)
    assert abs(found.sums[place]) < 1e-3 * found.sums.max()
    assert check(found, psi, np.ones(SIZE)) > 20
    assert "float64" not in precisions


def test_where_residuals_are_added_single_precision_is_enough_for_a_steep_spectrum(precisions):
    values = np.geomspace(1e6, 1e-4, 100)
    features, weight = spectrum(values)
    check(class_components(0, weight, 0.0, features, TOP), features, weight)
    assert "float64" not in precisions


def test_in_a_class_of_equal_images_there_is_nothing_to_find():
    features = np.tile(np.arange(SIZE, dtype=np.float64), (COUNT, 1))
    assert class_components(0, np.ones(SIZE), 0.0, features, TOP).vectors.shape == (0, SIZE)


def test_the_order_of_many_images_does_not_matter():
    features, weight = realistic(10)
    order = np.random.default_rng(1).permutation(COUNT)
    found = class_components(0, weight, 0.0, features, TOP)
    again = class_components(0, weight, 0.0, features[order], TOP)
    np.testing.assert_allclose(again.variances, found.variances, rtol=1e-8)
    subspaces = scipy.linalg.subspace_angles(found.vectors[:10].T, again.vectors[:10].T)
    assert subspaces.max() < 1e-4
