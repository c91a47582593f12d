"""The leading eigenpairs of a symmetric matrix, at nearly the price of single precision.

LAPACK finds a slightly larger subspace in single precision. In it the eigenproblem is solved again
in double precision (Rayleigh and Ritz), which leaves errors of second order in eigenvalues and of
first order, from outside of the subspace, in eigenvectors. The residuals bound these
(Davis and Kahan 1970, sin theta); where the bound is too large, the whole is done in double
precision instead.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Single precision is tried for matrices of at least this order, whose subspace is a small part.
SINGLE_FROM = 256
SINGLE_SHARE = 0.25
# More vectors than are asked for: they set the last ones apart from what is left out.
GUARD = 16
# The largest error of an eigenvector, and of its inner product with `goal`, both relative.
TOLERANCE = 1e-4


def leading(
    matrix: Callable[[type[np.floating]], NDArray[np.floating]],
    apply: Callable[[Array], tuple[Array, Array]],
    goal: Array,
    count: int,
) -> tuple[Array, Array]:
    """The `count` largest eigenvalues, falling, and F^T times their eigenvectors [count, d].

    G = F F^T; with F the identity these are the eigenvectors.

    Parameters
    ----------
    matrix
        The lower triangle of the matrix G [n, n], positive semi-definite, in the precision asked
        for, as a new array.
    apply
        Rows [m, n] times F [m, d], and times G [m, n], in double precision.
    goal
        A vector [n]. It is in the subspace, so that the eigenvectors' inner products with it are
        exact to second order.
    count
        At most n.
    """
    size = len(goal)
    if size >= SINGLE_FROM and count + GUARD <= SINGLE_SHARE * size:
        single = matrix(np.float32)
        # No entry is larger than the largest of the diagonal: it tells whether any overflowed.
        if np.isfinite(np.diag(single)).all():
            found = _refined(_largest(single, count + GUARD)[1], apply, goal, count)
            if found is not None:
                return found
    values, vectors = _largest(matrix(np.float64), count)
    return values, apply(vectors)[0]


def _largest(matrix: NDArray[np.floating], count: int) -> tuple[Array, Array]:
    size = len(matrix)
    values, vectors = scipy.linalg.eigh(
        matrix,
        subset_by_index=[size - count, size - 1],
        lower=True,
        overwrite_a=True,
        check_finite=False,
    )
    return values[::-1].astype(np.float64), vectors.T[::-1].astype(np.float64)


def _refined(
    start: Array, apply: Callable[[Array], tuple[Array, Array]], goal: Array, count: int
) -> tuple[Array, Array] | None:
    """What `leading` gives, from the span of `start` [m, n] and `goal`; None where not sure."""
    rows = np.concatenate([start, _rest(goal, start)])
    halves, images = apply(rows)
    # Single precision leaves the rows orthonormal to seven digits only: metric = rows rows^T.
    try:
        root = np.linalg.cholesky(rows @ rows.T)
    except np.linalg.LinAlgError:
        return None
    inverse = scipy.linalg.solve_triangular(root, np.eye(len(root)), lower=True)
    projected = inverse @ (rows @ images.T) @ inverse.T
    values, mix = np.linalg.eigh((projected + projected.T) / 2)
    mix = (inverse.T @ mix)[:, ::-1].T
    values = values[::-1]
    vectors = mix[:count] @ rows
    residuals = np.linalg.norm(mix[:count] @ images - values[:count, None] * vectors, axis=1)
    # One row more than start's: the last Ritz value may be the goal's, the one before is start's.
    apart = values[:count] - values[len(start) - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = residuals / apart
        along = np.abs(vectors @ goal)
        error += error**2 * np.linalg.norm(along) / along
    return (values[:count], mix[:count] @ halves) if (error <= TOLERANCE).all() else None


def _rest(goal: Array, rows: Array) -> Array:
    """What `goal` has outside of `rows`, as a row of unit length; no row where that is nothing."""
    size = np.linalg.norm(goal)
    rest = goal
    for _ in range(2):
        rest = rest - (rows @ rest) @ rows
    left = np.linalg.norm(rest)
    return rest[None] / left if left > 1e-5 * size else np.zeros((0, len(goal)))
