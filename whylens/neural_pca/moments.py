"""Count, mean and second moment of features, streamed and merged in any order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Moments of N feature vectors: count, mean [D], and scatter [D, D] about the mean (sum)."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """The moments of no features of `size`."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> "Moments":
        """The moments of features [N, D]; centred before they are multiplied, so that nearly equal
        features lose no digits."""
        rows = np.asarray(features, dtype=np.float64)
        if len(rows) == 0:
            return cls.empty(rows.shape[1])
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        weight = self.count * other.count / count
        return Moments(count, mean, self.scatter + other.scatter + weight * np.outer(step, step))
