"""Class-wise neural PCA: the directions in feature space that carry a class's logit.

For class k, psi_k(x) = w_k * phi(x). The v_l are the eigenvectors of cov(psi_k) over the images
labelled k, and

    alpha_l(x) = <1, v_l> <v_l, psi_k(x) - mean_k> = <d_l, phi(x)> - c_l,

with d_l = <1, v_l> (w_k * v_l) and c_l = <1, v_l> <v_l, mean_k>. Over all D components,
f_k(x) = sum_l alpha_l(x) + <1, mean_k> + b_k exactly. ("Spurious Features Everywhere", section 3.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from whylens.errors import WhylensError
from whylens.neural_pca.eigen import leading
from whylens.neural_pca.moments import Moments

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClassComponents:
    """The top L components of a class, by falling eigenvalue.

    Attributes
    ----------
    class_index, count
        k, and the number N_k of images behind it.
    vectors
        v_l, [L, D], orthonormal; signed so that <1, v_l> >= 0.
    variances
        Eigenvalues of cov(psi_k), [L].
    total_variance
        Trace of cov(psi_k).
    psi_mean
        mean_k, [D].
    weight, bias
        w_k, [D], and b_k.
    """

    class_index: int
    count: int
    vectors: Array
    variances: Array
    total_variance: float
    psi_mean: Array
    weight: Array
    bias: float

    @property
    def sums(self) -> Array:
        """<1, v_l>, [L]."""
        sums: Array = self.vectors.sum(1)
        return sums

    @property
    def directions(self) -> Array:
        """d_l, [L, D]: alpha_l(x) = <d_l, phi(x)> - c_l."""
        return self.sums[:, None] * self.vectors * self.weight

    @property
    def offsets(self) -> Array:
        """c_l, [L]."""
        return self.sums * (self.vectors @ self.psi_mean)

    @property
    def constant(self) -> float:
        """<1, mean_k> + b_k: the class's mean logit."""
        return float(self.psi_mean.sum() + self.bias)

    def alphas(self, features: NDArray[np.floating]) -> Array:
        """Features [N, D] -> alphas [N, L]."""
        return np.asarray(features, dtype=np.float64) @ self.directions.T - self.offsets


def class_components(
    class_index: int,
    weight: NDArray[np.floating],
    bias: float,
    features: NDArray[np.floating],
    top: int,
) -> ClassComponents:
    """Components from the features [N_k, D] of a class, by whichever route is cheaper.

    The Gram matrix [N_k, N_k] has the same non-zero spectrum as the covariance [D, D]. Either costs
    its order squared times the other size to form, and its order cubed to solve: the smaller one is
    cheaper, the Gram matrix where N_k < D. There are at most N_k - 1 components: directions without
    variance are none, rounding would choose them. Memory: three copies of the features in double
    precision, and two of the matrix; for N_k = 1,300 and D = 2,048, 90 MB.

    Raises
    ------
    WhylensError
        If there are fewer than two images, or a feature is not finite.
    """
    count, size = features.shape
    require_two(count, class_index)
    if count >= size:
        return varying(from_moments(class_index, weight, bias, Moments.of(features), top))
    row = np.asarray(weight, dtype=np.float64)
    centred = features.astype(np.float64)
    centred *= row
    mean = centred.mean(0)
    require_finite(mean, class_index)
    centred -= mean

    def gram(kind: type[np.floating]) -> NDArray[np.floating]:
        rows = centred.astype(kind, copy=False)
        return rows @ rows.T

    def apply(rows: Array) -> tuple[Array, Array]:
        halves = rows @ centred
        return halves, halves @ centred.T

    values, halves = leading(
        gram,
        apply,
        centred.sum(1),
        min(top, count - 1),
    )
    total = float(np.vdot(centred, centred))
    return from_gram(class_index, row, bias, count, mean, values, halves, total)


def from_gram(
    class_index: int,
    weight: Array,
    bias: float,
    count: int,
    mean: Array,
    values: Array,
    halves: Array,
    total: float,
) -> ClassComponents:
    """Components from the eigenpairs of a Gram matrix C C^T, psi minus its mean being C [N_k, D].

    Parameters
    ----------
    mean
        mean_k, [D].
    values, halves
        Falling eigenvalues [L], at most N_k - 1, and their eigenvectors times C, [L, D].
    total
        The trace.
    """
    sound = _varies(values / count, mean)
    return _components(
        class_index,
        count,
        _orthonormal(halves[sound]),
        values[sound] / count,
        total / count,
        mean,
        weight,
        bias,
    )


def from_moments(
    class_index: int, weight: NDArray[np.floating], bias: float, moments: Moments, top: int
) -> ClassComponents:
    """Components from a class's feature moments: cov(psi_k) = diag(w_k) cov(phi) diag(w_k).

    Directions without variance are kept: over all D components the alphas of any image add up to
    its logit. Memory: the moments and two copies of them; for D = 2,048, 100 MB.

    Raises
    ------
    WhylensError
        If the moments are of fewer than two images, or not finite.
    """
    require_two(moments.count, class_index)
    require_finite(moments.mean, class_index)
    row = np.asarray(weight, dtype=np.float64)
    covariance = row[:, None] * (moments.scatter / moments.count) * row
    values, vectors = leading(
        lambda kind: covariance.astype(kind),
        lambda rows: (rows, rows @ covariance),
        np.ones(len(row)),
        min(top, len(row)),
    )
    total = float(np.trace(covariance))
    return from_covariance(class_index, row, bias, moments, values, vectors, total)


def from_covariance(
    class_index: int,
    weight: Array,
    bias: float,
    moments: Moments,
    values: Array,
    vectors: Array,
    total: float,
) -> ClassComponents:
    """Components from falling eigenvalues [L] and eigenvectors [L, D] of cov(psi_k), and its trace.

    `moments` are the features'.
    """
    return _components(
        class_index,
        moments.count,
        vectors,
        np.clip(values, 0, None),
        total,
        weight * moments.mean,
        weight,
        bias,
    )


def _orthonormal(rows: Array) -> Array:
    """Nearly orthogonal rows [L, D], made orthonormal; the first ones keep their directions."""
    if len(rows) == 0:
        return rows
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    root = np.linalg.cholesky(unit @ unit.T)
    vectors: Array = scipy.linalg.solve_triangular(root, unit, lower=True)
    return vectors


def varying(found: ClassComponents) -> ClassComponents:
    """Without the directions that have no variance but rounding noise."""
    sound = _varies(found.variances, found.psi_mean)
    return replace(found, vectors=found.vectors[sound], variances=found.variances[sound])


def require_two(count: int, class_index: int) -> None:
    """Raise WhylensError where a class has fewer than two images."""
    if count < 2:
        raise WhylensError(
            f"class {class_index} has {count} image{'s' * (count != 1)}: at least two are needed "
            "for components"
        )


def require_finite(mean: Array, class_index: int) -> None:
    """Raise WhylensError where a class's mean is not finite."""
    if not np.isfinite(mean).all():
        raise WhylensError(f"class {class_index} has an image whose features are not finite")


def _varies(variances: Array, mean: Array) -> NDArray[np.bool_]:
    """Which falling variances [L] are more than rounding noise, of the largest or of the mean."""
    noise = (8 * np.finfo(np.float64).eps * np.linalg.norm(mean)) ** 2
    varies: NDArray[np.bool_] = variances > max(variances[0] * 1e-10, noise)
    return varies


def _components(
    class_index: int,
    count: int,
    vectors: Array,
    variances: Array,
    total: float,
    mean: Array,
    weight: Array,
    bias: float,
) -> ClassComponents:
    sign = np.where(vectors.sum(1) < 0, -1.0, 1.0)
    return ClassComponents(
        class_index,
        count,
        np.ascontiguousarray(vectors * sign[:, None]),
        np.ascontiguousarray(variances),
        total,
        mean,
        weight,
        float(bias),
    )


def to_arrays(components: ClassComponents) -> dict[str, Array]:
    """The components as plain arrays, for safetensors."""
    scalars = [
        components.class_index,
        components.count,
        components.total_variance,
        components.bias,
    ]
    return {
        "vectors": components.vectors,
        "variances": components.variances,
        "psi_mean": components.psi_mean,
        "weight": components.weight,
        "scalars": np.asarray(scalars, dtype=np.float64),
    }


def from_arrays(arrays: Mapping[str, Array]) -> ClassComponents:
    """The inverse of `to_arrays`."""
    class_index, count, total, bias = (float(v) for v in arrays["scalars"])
    return ClassComponents(
        int(class_index),
        int(count),
        arrays["vectors"],
        arrays["variances"],
        total,
        arrays["psi_mean"],
        arrays["weight"],
        bias,
    )


def save_components(components: ClassComponents, path: Path, metadata: dict[str, str]) -> None:
    """Write one class as safetensors with metadata (the classifier's fingerprint, say)."""
    from safetensors.numpy import save_file

    arrays: dict[str, Any] = {k: np.ascontiguousarray(v) for k, v in to_arrays(components).items()}
    save_file(arrays, path, metadata)


def load_components(path: Path) -> ClassComponents:
    """Read what `save_components` wrote."""
    from safetensors.numpy import load_file

    return from_arrays(load_file(path))
