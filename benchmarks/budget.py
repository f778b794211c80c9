"""Limits on our cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One limit on our cost.

    Attributes:
        what: The promise.
        limit: The maximum; the minimum if `at_least`.
        measured: The measured value.
        unit: Unit of both.
        at_least: Whether more is better.
        why: What the rest is, if it is missed.
    """

    what: str
    limit: float
    measured: float
    unit: str
    at_least: bool = False
    why: str = ""

    @property
    def met(self) -> bool:
        """Whether the limit holds."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        kept = "" if self.met else "   MISSED"
        return f"{self.what}: {self.measured:.2f} {self.unit}, {bound} {self.limit:g}{kept}"
