"""The leading eigenpairs of a symmetric matrix, at nearly the price of single precision.

A slightly larger subspace is found in single precision, by a block Krylov method where that
converges (Golub and Underwood 1977, with full orthogonalisation) and by LAPACK where it does not.
In it the eigenproblem is solved again in double precision (Rayleigh and Ritz), which leaves errors
of second order in eigenvalues and of first order, from outside of the subspace, in eigenvectors.
The residuals bound these (Davis and Kahan 1970, sin theta); where the bound is too large, the whole
is done in double precision instead.
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
# Vectors of a block of the Krylov method: more are faster each, but as many more are needed.
BLOCK = 16
# Residuals, relative to the eigenvalue, at which it has converged as far as single precision goes.
CONVERGED = 1e-5
# The largest bound of an eigenvector's error and of its inner product with `goal`'s, both relative.
# Errors themselves are far smaller, since residuals are at right angles more often than the bound
# may count on: alphas of realistic features (tests/benchmarks/neural_pca.py) are wrong by 3e-5.
TOLERANCE = 5e-4
# How often the residuals of vectors above it are added before double precision is used instead.
ROUNDS = 10
# Eigenvalues that differ by less, relatively, leave their eigenvectors free to mix.
APART = 0.01


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
        The matrix G [n, n], positive semi-definite, in the precision asked for, as a new array.
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
        with np.errstate(over="ignore", invalid="ignore"):
            single = matrix(np.float32)
        # No entry is larger than the largest of the diagonal: it tells whether any overflowed.
        if np.isfinite(np.diag(single)).all():
            start = _krylov(single, count)
            if start is None:
                start = _largest(single, count + GUARD)[1]
            found = _refined(start, apply, goal, count)
            if found is not None:
                return found
    values, vectors = _largest(matrix(np.float64), count)
    return values, apply(vectors)[0]


def _krylov(matrix: NDArray[np.float32], count: int) -> Array | None:
    """Vectors [count + GUARD, n] that span the leading eigenvectors; None without convergence.

    A block of b vectors sees at most b dimensions of an eigenspace. So at the end what the method
    has not seen is searched from new random vectors: None if there is as large an eigenvalue.
    """
    size = len(matrix)
    # Half of the dimensions cost as much as LAPACK; three blocks more are for the search.
    limit, check = size // 2 // BLOCK * BLOCK, 3 * (count + GUARD)
    if check > limit:
        return None
    rows = np.empty((limit + 3 * BLOCK, size), np.float32)
    projected = np.zeros((len(rows), len(rows)), np.float32)
    generator = np.random.default_rng(0)

    def drawn(stop: int) -> NDArray[np.float32]:
        new = generator.normal(size=(BLOCK, size)).astype(np.float32)
        for _ in range(2):
            _take_out(rows[:stop], new)
        return np.linalg.qr(new.T)[0].T

    def extend(block: NDArray[np.float32], stop: int) -> tuple[NDArray[np.float32], Array]:
        """The next block, and what the image of this one has outside of all rows up to `stop`."""
        start = stop - BLOCK
        rows[start:stop] = block
        image = block @ matrix
        # Nearly all that an image shares with the rows it shares with the last two blocks.
        near = slice(max(0, start - BLOCK), stop)
        projected[start:stop, near] = _take_out(rows[near], image)
        projected[start:stop, :stop] += _take_out(rows[:stop], image)
        following, outside = np.linalg.qr(image.T)
        return following.T, outside

    block = drawn(0)
    for stop in range(BLOCK, limit + 1, BLOCK):
        block, outside = extend(block, stop)
        sizes = np.abs(np.diag(outside))
        if not sizes.min() > 1e-6 * np.abs(projected[:BLOCK, :BLOCK]).max():
            return None  # The space is exhausted: its next vectors would be rounding noise.
        if stop < check:
            continue
        values, mix = scipy.linalg.eigh(
            projected[:stop, :stop],
            subset_by_index=[stop - count - GUARD, stop - 1],
            lower=True,
            check_finite=False,
        )
        residuals = np.linalg.norm(outside @ mix[-BLOCK:, -count:], axis=0)
        if (residuals <= CONVERGED * values[-count:]).all():
            break
        check = stop + 4 * BLOCK
    else:
        return None
    block = drawn(stop)
    for end in range(stop + BLOCK, stop + 3 * BLOCK + 1, BLOCK):
        block, _ = extend(block, end)
    unseen = projected[stop:end, stop:end]
    if np.linalg.eigvalsh(unseen)[-1] >= values[-count]:
        return None
    vectors: Array = (mix[:, ::-1].T @ rows[:stop]).astype(np.float64)
    return vectors


def _take_out(rows: NDArray[np.float32], block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make a block [b, n] orthogonal to rows [m, n], in place; its inner products with them."""
    products = block @ rows.T
    block -= products @ rows
    return products


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
    """What `leading` gives, from the span of `start` [m, n] and `goal`; None where not sure.

    Vectors that are not sure yet add their residuals to the span, as Davidson's method (1975) does.
    """
    rows = np.concatenate([start, _rest(start, goal[None])])
    halves, images = apply(rows)
    for _ in range(ROUNDS):
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
        vectors = mix @ rows
        residuals = mix @ images - values[:, None] * vectors
        # Beyond start's rows a Ritz value may be the goal's or a residual's: no eigenvalue.
        errors = _errors(values, residuals, values[len(start) - 1], vectors @ goal)[:count]
        unsure = ~(errors <= TOLERANCE)
        if not unsure.any():
            return values[:count], mix[:count] @ halves
        more = _rest(rows, residuals[:count][unsure])
        rows = np.concatenate([rows, more])
        halves, images = (
            np.concatenate([old, new])
            for old, new in zip((halves, images), apply(more), strict=True)
        )
    return None


def _errors(values: Array, residuals: Array, rest: float, along: Array) -> Array:
    """Bounds of the relative errors [m] of Ritz vectors, and of their inner products `along`.

    A vector is wrong by what it has outside of the subspace, |r_i| / (value_i - rest). `along` is
    not, since the goal is inside; but r_i and r_j let v_i and v_j mix, to second order. Vectors
    that are not `APART` from another may mix as they like.
    """
    sizes = np.linalg.norm(residuals, axis=1)
    apart = np.abs(values[:, None] - values)
    near = apart < APART * values[:, None]
    np.fill_diagonal(near, False)
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = sizes / (values - rest)
        mixing = np.outer(outside, sizes) / apart
        np.fill_diagonal(mixing, outside**2)
        mixing[near] = 0
        errors: Array = outside + np.linalg.norm(mixing * along, axis=1) / np.abs(along)
    return errors


def _rest(rows: Array, more: Array) -> Array:
    """What vectors [k, n] have outside of `rows`, orthonormal; without those that have nothing."""
    sizes = np.linalg.norm(more, axis=1, keepdims=True)
    for _ in range(2):
        more = more - (more @ rows.T) @ rows
    left = np.linalg.norm(more, axis=1, keepdims=True)
    sound = left[:, 0] > 1e-5 * sizes[:, 0]
    rest: Array = np.linalg.qr((more[sound] / left[sound]).T)[0].T
    return rest
