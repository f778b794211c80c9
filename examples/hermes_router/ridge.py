"""Ridge regression that learns one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence

RIDGE = 1e-3


class Ridge:
    """Sums up samples in the normal equations, which are solved on demand."""

    def __init__(self, size: int) -> None:
        self.samples = 0
        self._gram = [[RIDGE if row == column else 0.0 for column in range(size)]
                      for row in range(size)]  # fmt: skip
        self._moments = [0.0] * size

    def add(self, features: Sequence[float], target: float) -> None:
        """Learn from one sample."""
        self.samples += 1
        for row, (gram_row, feature) in enumerate(zip(self._gram, features, strict=True)):
            self._moments[row] += feature * target
            for column, other in enumerate(features):
                gram_row[column] += feature * other

    def solve(self) -> list[float]:
        """Return the coefficients, by Gaussian elimination with pivoting."""
        size = len(self._moments)
        rows = [[*row, moment] for row, moment in zip(self._gram, self._moments, strict=True)]
        for pivot in range(size):
            best = max(range(pivot, size), key=lambda row: abs(rows[row][pivot]))
            rows[pivot], rows[best] = rows[best], rows[pivot]
            for row in rows[pivot + 1 :]:
                factor = row[pivot] / rows[pivot][pivot]
                for column in range(pivot, size + 1):
                    row[column] -= factor * rows[pivot][column]
        coefficients = [0.0] * size
        for row in reversed(range(size)):
            known = sum(rows[row][column] * coefficients[column] for column in range(row + 1, size))
            coefficients[row] = (rows[row][size] - known) / rows[row][row]
        return coefficients
